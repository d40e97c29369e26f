//! `--config-file` and `--config-dir` on a command line, in the order given: a file after a
//! directory wins over it, and the other way round. oslo.config: cfg.py, `ConfigDirAction`.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};

use crate::config::Source;

const FILE: &str = "config-file";
const DIRECTORY: &str = "config-dir";

/// Where configuration comes from, for a command's `#[command(flatten)]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigArgs {
    given: Vec<Source>,
}

impl ConfigArgs {
    /// What the command line names; where it names no file, nova-compute's own files that exist,
    /// and where it names no directory, theirs. oslo.config: cfg.py, `find_config_files` for
    /// project nova.
    pub fn sources(&self) -> Vec<Source> {
        self.sources_with(Path::new("/etc/nova"))
    }

    fn sources_with(&self, etc: &Path) -> Vec<Source> {
        let mut sources = Vec::new();
        if !self.given.iter().any(|source| matches!(source, Source::File(_))) {
            let files = ["nova.conf", "nova-compute.conf"].map(|name| etc.join(name));
            sources.extend(files.into_iter().filter(|f| f.is_file()).map(Source::File));
        }
        if !self.given.iter().any(|source| matches!(source, Source::Directory(_))) {
            let directories = ["nova.conf.d", "nova-compute.conf.d"].map(|name| etc.join(name));
            sources.extend(directories.into_iter().filter(|d| d.is_dir()).map(Source::Directory));
        }
        sources.extend(self.given.iter().cloned());
        sources
    }
}

impl Args for ConfigArgs {
    fn augment_args(command: Command) -> Command {
        let arg = |name, value_name, help: &'static str| {
            Arg::new(name)
                .long(name)
                .value_name(value_name)
                .action(ArgAction::Append)
                .value_parser(value_parser!(PathBuf))
                .help(help)
        };
        command
            .arg(arg(FILE, "FILE", "Read this file; later ones win [default: nova's in /etc/nova]"))
            .arg(arg(DIRECTORY, "DIRECTORY", "Read this directory's *.conf files, by name"))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ConfigArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Vec::new();
        for (name, source) in
            [(FILE, Source::File as fn(PathBuf) -> Source), (DIRECTORY, Source::Directory)]
        {
            let places = matches.indices_of(name).into_iter().flatten();
            let paths = matches.get_many::<PathBuf>(name).into_iter().flatten();
            given.extend(places.zip(paths).map(|(place, path)| (place, source(path.clone()))));
        }
        given.sort_by_key(|(place, _)| *place);
        Ok(Self { given: given.into_iter().map(|(_, source)| source).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        config: ConfigArgs,
    }

    fn file(path: &Path) -> Source {
        Source::File(path.to_owned())
    }

    #[test]
    fn files_and_directories_keep_their_order() {
        let line = [
            "x",
            "--config-dir",
            "d",
            "--config-file=a",
            "--config-dir",
            "e",
            "--config-file",
            "b",
        ];
        let args = Cli::parse_from(line).config;
        let directory = |name: &str| Source::Directory(name.into());
        let expected = [directory("d"), file("a".as_ref()), directory("e"), file("b".as_ref())];
        assert_eq!(args.sources(), expected);
    }

    #[test]
    fn novas_own_files_are_read_when_none_is_named() {
        let etc = tempfile::tempdir().unwrap();
        let path = |name: &str| etc.path().join(name);
        std::fs::write(path("nova.conf"), "").unwrap();
        std::fs::create_dir(path("nova.conf.d")).unwrap();
        let none = Cli::parse_from(["x"]).config;
        let found = [file(&path("nova.conf")), Source::Directory(path("nova.conf.d"))];
        assert_eq!(none.sources_with(etc.path()), found);
        let some = Cli::parse_from(["x", "--config-file", "a"]).config;
        let found = [Source::Directory(path("nova.conf.d")), file("a".as_ref())];
        assert_eq!(some.sources_with(etc.path()), found);
    }
}
