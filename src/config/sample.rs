//! The sample file `config/hypernova.conf` is written from the declared options; these tests hold
//! it to them. `UPDATE_GOLDEN=1` renews it.

use std::path::Path;

use crate::config::files::Files;
use crate::config::opt::{Default, OptionSpec};
use crate::config::value::Kind;
use crate::config::{Config, SECTIONS};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/hypernova.conf");

const HEADER: &str = "\
# The agent's configuration: every option that it reads, with its default.
#
# The agent reads a host's nova.conf as it is (oslo.config's rules, nova's names and defaults), so
# most hosts need none of this but what [hypernova] says. Start it with
#     hypernova serve --config-file /etc/nova/nova.conf --config-file /etc/hypernova.conf
# where later files win. `hypernova check` says what a file sets that the agent doesn't read.
";

fn sample() -> String {
    let mut text = HEADER.to_owned();
    for section in SECTIONS {
        text += &format!("\n\n[{}]\n", section.name);
        comment(&mut text, section.doc);
        for option in section.options {
            text.push('\n');
            comment(&mut text, option.doc);
            text += &format!("# ({})\n", constraint(option));
            text += format!("#{} = {}", option.name, default(option)).trim_end();
            text.push('\n');
        }
    }
    text
}

fn comment(text: &mut String, lines: &[&str]) {
    for line in lines {
        text.push_str(format!("#{line}").trim_end());
        text.push('\n');
    }
}

fn default(option: &OptionSpec) -> String {
    match option.opt.default {
        Default::Unset => "<unset>".to_owned(),
        Default::Text(text) => text.to_owned(),
        Default::OfHost { shown, .. } => format!("<{shown}>"),
    }
}

fn constraint(option: &OptionSpec) -> String {
    let mut words = match option.opt.kind {
        Kind::Text => "text".to_owned(),
        Kind::Choice(choices) => format!("one of {}", choices.join(", ")),
        Kind::Integer { min, max } => format!("whole number{}", bounds(min, max)),
        Kind::IntegerChoice(choices) => {
            let choices: Vec<_> = choices.iter().map(ToString::to_string).collect();
            format!("one of {}", choices.join(", "))
        }
        Kind::Float { min, max } => format!("number, {min} to {max}"),
        Kind::Boolean => "true or false".to_owned(),
        Kind::List => "list, separated by commas".to_owned(),
        Kind::HostAddress | Kind::HostDomain => "address or host name".to_owned(),
        Kind::Uri => "URI".to_owned(),
    };
    if option.opt.multiple {
        words += ", as often as needed";
    }
    if !option.opt.unit.is_empty() {
        words += &format!("; {}", option.opt.unit);
    }
    words
}

fn bounds(min: i64, max: i64) -> String {
    // Bounds that are only a type's are no news to an operator.
    let small = |number: i64| number.unsigned_abs() <= 1 << 20;
    match (small(min), small(max)) {
        (true, true) => format!(", {min} to {max}"),
        (true, false) => format!(", {min} or more"),
        (false, true) => format!(", {max} or less"),
        (false, false) => String::new(),
    }
}

fn load(text: &str) -> Config {
    let mut files = Files::default();
    files.add(Path::new("hypernova.conf"), text).unwrap();
    Config::from_files(&files).unwrap()
}

fn shipped() -> String {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(PATH, sample()).unwrap();
    }
    std::fs::read_to_string(PATH).unwrap()
}

#[test]
fn the_shipped_file_shows_every_option_as_declared() {
    assert!(shipped() == sample(), "config/hypernova.conf is old: UPDATE_GOLDEN=1 renews it");
}

#[test]
fn the_shipped_file_changes_nothing() {
    assert_eq!(load(&shipped()), Config::load(&[]).unwrap());
}

#[test]
fn the_shipped_file_uncommented_holds_the_defaults() {
    let text = shipped();
    let uncommented: Vec<_> = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(option) if option.starts_with(|c: char| c != ' ') => option,
            _ => line,
        })
        .filter(|line| !line.ends_with('>'))
        .collect();
    let options = uncommented.iter().filter(|line| line.contains('=') && !line.starts_with('#'));
    let expected = crate::config::specs().filter(|spec| !default(spec).starts_with('<'));
    assert_eq!(options.count(), expected.count());
    assert_eq!(load(&uncommented.join("\n")), Config::load(&[]).unwrap());
}
