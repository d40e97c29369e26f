//! Gives back what only the start needed: the agent runs for months beside guests.
//!
//! Half of what is resident after a start is code that ran once, of this binary and of the libraries
//! that libvirt's client brings. Those pages are clean copies of files; what is used again comes
//! back from the page cache.

use std::ffi::c_void;

/// Gives the system back what the allocator holds without need, after a burst of work as a rule. Takes
/// less than a millisecond.
pub fn trim() {
    // SAFETY: malloc_trim(3) is safe to call at any time from any thread.
    unsafe { libc::malloc_trim(0) };
}

/// Drops resident code, and what the allocator holds without need. Cheap; changes no behaviour.
pub fn release_startup_pages() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, length) in maps.lines().filter_map(code) {
        // SAFETY: the range is a private, executable, never writable mapping of a file, so each of
        // its pages is what the file holds: dropping one costs a minor fault at its next use.
        // A mapping that went away meanwhile is answered with an error.
        unsafe { libc::madvise(start as *mut c_void, length, libc::MADV_DONTNEED) };
    }
    trim();
}

/// Start and length of a line of `/proc/self/maps` that maps a file's code.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, permissions) = (fields.next()?, fields.next()?);
    let path = fields.nth(3)?;
    if permissions != "r-xp" || !path.starts_with('/') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (address(start)?, address(end)?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_files_code_is_dropped() {
        let line =
            |permissions, path| format!("7f00-7f20 {permissions} 00001000 fe:00 1234    {path}");
        assert_eq!(code(&line("r-xp", "/usr/lib/libvirt.so.0")), Some((0x7f00, 0x20)));
        assert_eq!(code(&line("r--p", "/usr/lib/libvirt.so.0")), None, "relocated data");
        assert_eq!(code(&line("rwxp", "/usr/lib/libvirt.so.0")), None, "written to");
        assert_eq!(code(&line("r-xp", "[vdso]")), None);
        assert_eq!(code("7f00-7f20 r-xp 00000000 00:00 0"), None, "generated code");
    }

    #[test]
    fn the_process_goes_on_and_is_smaller() {
        let before = crate::health::resident_bytes().unwrap();
        release_startup_pages();
        assert!(crate::health::resident_bytes().unwrap() < before);
    }
}
