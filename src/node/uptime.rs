//! How long the host has been up, as the `uptime` command says it: nova's API shows that text, and
//! takes the parts of it apart.

use std::fs;

/// What the line is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Moment {
    /// Of the wall clock: hours, minutes, seconds.
    clock: (u8, u8, u8),
    up_seconds: u64,
    users: usize,
    load: [f64; 3],
}

/// The line, with its newline: ` 23:03:42 up  2:32,  0 user,  load average: 1.45, 1.18, 1.09`.
/// nova: virt/libvirt/driver.py, `get_host_uptime`
pub fn uptime() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let first = |text: &str| text.split_whitespace().next().and_then(|word| word.parse().ok());
    let up: f64 = first(&read("/proc/uptime")).unwrap_or(0.0);
    let load = read("/proc/loadavg");
    let mut load = load.split_whitespace().map(|word| word.parse().unwrap_or(0.0));
    line(&Moment {
        clock: wall_clock(),
        up_seconds: up as u64,
        users: users(&fs::read("/run/utmp").unwrap_or_default()),
        load: std::array::from_fn(|_| load.next().unwrap_or(0.0)),
    })
}

/// procps: `procps_uptime_sprint`
fn line(moment: &Moment) -> String {
    let (hour, minute, second) = moment.clock;
    let minutes = moment.up_seconds / 60;
    let (days, hours, minutes) = (minutes / 1440, minutes / 60 % 24, minutes % 60);
    let days = match days {
        0 => String::new(),
        1 => "1 day, ".to_owned(),
        days => format!("{days} days, "),
    };
    let up = match hours {
        0 => format!("{minutes} min, "),
        hours => format!("{hours:2}:{minutes:02}, "),
    };
    let users = moment.users;
    let plural = if users > 1 { "users" } else { "user" };
    let [one, five, fifteen] = moment.load;
    format!(
        " {hour:02}:{minute:02}:{second:02} up {days}{up}{users:2} {plural},  \
         load average: {one:.2}, {five:.2}, {fifteen:.2}\n"
    )
}

fn wall_clock() -> (u8, u8, u8) {
    // SAFETY: a zeroed `tm` is a valid one, both pointers are to locals, and the time zone's rules
    // are read by `localtime_r` itself; nobody in this process changes TZ.
    let local = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut local: libc::tm = std::mem::zeroed();
        libc::localtime_r(&raw const now, &raw mut local);
        local
    };
    let part = |number: libc::c_int| u8::try_from(number).unwrap_or(0);
    (part(local.tm_hour), part(local.tm_min), part(local.tm_sec))
}

/// How many users are logged in, by the records of `utmp(5)`.
fn users(utmp: &[u8]) -> usize {
    const RECORD: usize = size_of::<libc::utmpx>();
    let kind = |record: &[u8]| libc::c_short::from_ne_bytes([record[0], record[1]]);
    utmp.as_chunks::<RECORD>().0.iter().filter(|record| kind(*record) == libc::USER_PROCESS).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_that_of_the_command() {
        let moment = Moment {
            clock: (23, 3, 42),
            up_seconds: 2 * 3600 + 32 * 60 + 59,
            users: 0,
            load: [1.45, 1.18, 1.09],
        };
        let recorded = " 23:03:42 up  2:32,  0 user,  load average: 1.45, 1.18, 1.09\n";
        assert_eq!(line(&moment), recorded);
        let up = |up_seconds, users| line(&Moment { up_seconds, users, ..moment });
        assert!(up(31 * 60, 1).contains(" up 31 min,  1 user,  load"));
        assert!(up(86400 + 60, 2).contains(" up 1 day, 1 min,  2 users,  load"));
        assert!(up(3 * 86400 + 11 * 3600, 12).contains(" up 3 days, 11:00, 12 users,  load"));
    }

    #[test]
    fn this_host_says_it_too() {
        let line = uptime();
        assert!(line.contains(" up ") && line.contains("load average: "), "{line}");
    }

    #[test]
    fn users_are_counted_by_their_records() {
        let record = |kind: libc::c_short| {
            let mut record = vec![0; size_of::<libc::utmpx>()];
            record[..2].copy_from_slice(&kind.to_ne_bytes());
            record
        };
        let kinds = [libc::BOOT_TIME, libc::USER_PROCESS, libc::USER_PROCESS];
        let mut utmp = kinds.map(record).concat();
        utmp.extend([7, 0, 7]);
        assert_eq!(users(&utmp), 2);
    }
}
