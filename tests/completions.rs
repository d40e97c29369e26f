//! `hypernova completions` in the shells themselves. A shell that isn't installed is passed over,
//! unless HYPERNOVA_TEST_REQUIRE is set.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use clap::CommandFactory;
use hypernova::cli::Cli;

/// Of each line, what every shell must offer, and nothing else of the kind.
const LINES: [(&str, &[&str]); 8] = [
    ("hypernova bo", &["boot"]),
    ("hypernova re", &["reboot", "rebuild", "rescue", "restore", "resume"]),
    ("hypernova completions f", &["fish"]),
    ("hypernova boot --im", &["--image", "--image-format"]),
    ("hypernova boot --image-format q", &["qcow2"]),
    ("hypernova boot --image guest.q", &["guest.qcow2"]),
    ("hypernova --json stop --ha", &["--hard"]),
    ("hypernova show guest.q", &[]),
];

/// What `shell` offers at the end of each line, and what it wrote besides.
fn candidates(
    shell: &str,
    arguments: &[&str],
    lines: &[&str],
) -> Option<(Vec<Vec<String>>, String)> {
    if Command::new(shell).arg("--version").output().is_err() {
        assert!(std::env::var_os("HYPERNOVA_TEST_REQUIRE").is_none(), "there is no {shell}");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("guest.qcow2"), "").unwrap();
    let script = directory.path().join("script");
    let made = Command::new(env!("CARGO_BIN_EXE_hypernova"))
        .args(["completions", shell])
        .output()
        .unwrap();
    assert!(made.status.success());
    std::fs::write(&script, made.stdout).unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/completions");
    let ran = Command::new(shell)
        .args(arguments)
        .arg(here.join(format!("candidates.{shell}")))
        .arg(&script)
        .args(lines)
        .current_dir(directory.path())
        // Nobody's own settings.
        .env("HOME", directory.path())
        .env("XDG_CONFIG_HOME", directory.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success(), "{shell}: {told}");
    let out = String::from_utf8(ran.stdout).unwrap();
    let mut offered = vec![Vec::new()];
    for line in out.lines() {
        match line {
            "" => offered.push(Vec::new()),
            candidate => offered.last_mut().unwrap().push(candidate.to_owned()),
        }
    }
    offered.pop();
    assert_eq!(offered.len(), lines.len(), "{shell}: {out}\n{told}");
    Some((offered, told))
}

fn completes(shell: &str, arguments: &[&str]) {
    let lines = LINES.map(|(line, _)| line);
    let Some((offered, told)) = candidates(shell, arguments, &lines) else { return };
    for ((line, expected), mut offered) in LINES.into_iter().zip(offered) {
        offered.sort();
        assert_eq!(offered, expected, "{shell}: {line}; {told}");
    }
}

#[test]
fn bash_completes() {
    completes("bash", &["--norc"]);
}

#[test]
fn fish_completes() {
    completes("fish", &["--no-config"]);
}

#[test]
fn zsh_completes() {
    completes("zsh", &["-f"]);
}

/// zsh's script is a program in a language of its own, in which a colon in a value's name starts
/// the name of a function to call.
#[test]
fn no_value_of_an_option_is_a_mistake_in_zsh() {
    let mut command = Cli::command();
    command.build();
    let mut lines = Vec::new();
    for subcommand in command.get_subcommands() {
        let options = subcommand.get_arguments().filter(|arg| arg.get_action().takes_values());
        for option in options.filter_map(|arg| arg.get_long()) {
            lines.push(format!("hypernova {} --{option} g", subcommand.get_name()));
        }
        lines.push(format!("hypernova {} g", subcommand.get_name()));
    }
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    assert!(lines.contains(&"hypernova boot --checksum g"));
    let Some((_, told)) = candidates("zsh", &["-f"], &lines) else { return };
    assert!(!told.contains("not found") && !told.contains("_arguments:"), "{told}");
}
