//! The files of a configuration, and which of an option's values counts.
//! oslo.config: cfg.py, `_Namespace._get_file_value`.
//!
//! - A later file wins over an earlier one; within a file the option's own name wins over its
//!   deprecated names, and then the last value. So a deprecated name in a later file wins over
//!   the present name in an earlier one.
//! - A multi-valued option takes the values of all files, in order.
//! - A file spells names with `_`: `force-raw-images` sets nothing in nova either.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::ConfigError;
use crate::config::ini::{self, Assignment, Ini};

/// `--config-file` or `--config-dir`, in the order of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    /// Its files `*.conf`, by name; hidden ones are left out.
    Directory(PathBuf),
}

/// The files of a configuration, later ones winning.
#[derive(Debug, Default)]
pub struct Files(Vec<(PathBuf, Ini)>);

impl Files {
    /// Reads every file of `sources`.
    ///
    /// # Errors
    /// A file or directory that isn't there or can't be read, or isn't configuration.
    pub fn read(sources: &[Source]) -> Result<Self, ConfigError> {
        let mut files = Self::default();
        for source in sources {
            match source {
                Source::File(path) => files.read_file(path)?,
                Source::Directory(path) => {
                    for file in conf_files(path)? {
                        files.read_file(&file)?;
                    }
                }
            }
        }
        Ok(files)
    }

    fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let bytes = fs::read(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            ConfigError::Syntax { path: path.to_owned(), line, problem: "not UTF-8" }
        })?;
        self.add(path, &text)
    }

    /// Adds `text` as the next file, named `path` in errors.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`].
    pub fn add(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let path = path.to_owned();
        match ini::parse(text) {
            Ok(ini) => {
                self.0.push((path, ini));
                Ok(())
            }
            Err(ini::SyntaxError { line, problem }) => {
                Err(ConfigError::Syntax { path, line, problem })
            }
        }
    }

    /// The paths of the files, in order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|(path, _)| path.as_path())
    }

    /// Every assignment, in order.
    pub fn assignments(&self) -> impl Iterator<Item = (&Path, &Assignment)> {
        self.0
            .iter()
            .flat_map(|(path, ini)| ini.assignments.iter().map(move |a| (path.as_path(), a)))
    }

    /// Whether a file opens this section.
    pub fn has_section(&self, section: &str) -> bool {
        self.0.iter().any(|(_, ini)| ini.sections.iter().any(|s| s == section))
    }

    /// The assignments that count for an option of these names, the present one first.
    pub fn find(&self, names: &[(&str, &str)], multiple: bool) -> Vec<(&Path, &Assignment)> {
        let mut found = Vec::new();
        for (path, ini) in self.0.iter().rev() {
            for (section, name) in names {
                let mut here: Vec<_> = ini
                    .assignments
                    .iter()
                    .filter(|a| a.section == *section && a.name == *name)
                    .map(|a| (path.as_path(), a))
                    .collect();
                if here.is_empty() {
                    continue;
                }
                if !multiple {
                    return here.split_off(here.len() - 1);
                }
                here.append(&mut found);
                found = here;
            }
        }
        found
    }
}

/// As `glob("*.conf")` has them, sorted.
fn conf_files(directory: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: directory.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let text = name.to_string_lossy();
        if text.ends_with(".conf") && !text.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names.into_iter().map(|name| directory.join(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(texts: &[&str]) -> Files {
        let mut files = Files::default();
        for (index, text) in texts.iter().enumerate() {
            files.add(Path::new(&format!("{index}.conf")), text).unwrap();
        }
        files
    }

    fn values(files: &Files, names: &[(&str, &str)], multiple: bool) -> Vec<String> {
        files.find(names, multiple).into_iter().map(|(_, a)| a.value.clone()).collect()
    }

    const NAMES: &[(&str, &str)] = &[("vnc", "enabled"), ("DEFAULT", "vnc_enabled")];

    #[test]
    fn the_last_value_of_the_last_file_wins() {
        let files = files(&["[vnc]\nenabled=1\n[VNC]\nenabled=2", "[vnc]\nenabled=3\nenabled=4"]);
        assert_eq!(values(&files, NAMES, false), ["4"]);
    }

    #[test]
    fn a_deprecated_name_loses_in_its_file_and_wins_over_earlier_ones() {
        let old = "[DEFAULT]\nvnc_enabled=old";
        let new = "[vnc]\nenabled=new";
        assert_eq!(values(&files(&[&format!("{new}\n{old}")]), NAMES, false), ["new"]);
        assert_eq!(values(&files(&[new, old]), NAMES, false), ["old"]);
    }

    #[test]
    fn a_multiple_option_takes_all_values_in_order() {
        let files =
            files(&["[vnc]\nenabled=1\nenabled=2", "[vnc]\nenabled=3\n[DEFAULT]\nvnc_enabled=0"]);
        assert_eq!(values(&files, NAMES, true), ["1", "2", "0", "3"]);
    }

    #[test]
    fn a_directory_gives_its_conf_files_by_name() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["20.conf", "3.conf", "10.conf", ".hidden.conf", "notes.txt"] {
            fs::write(directory.path().join(name), "[DEFAULT]\na = 1").unwrap();
        }
        let files = Files::read(&[Source::Directory(directory.path().to_owned())]).unwrap();
        let names: Vec<_> = files.paths().map(|p| p.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["10.conf", "20.conf", "3.conf"]);
    }

    #[test]
    fn what_can_not_be_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.conf");
        let read = || Files::read(&[Source::File(path.clone())]).unwrap_err();
        assert!(matches!(read(), ConfigError::Unreadable { .. }));
        fs::write(&path, b"[DEFAULT]\na = \xff").unwrap();
        assert!(matches!(read(), ConfigError::Syntax { line: 2, .. }));
        let gone = Source::Directory(directory.path().join("nova.conf.d"));
        assert!(matches!(Files::read(&[gone]), Err(ConfigError::Unreadable { .. })));
    }
}
