//! Our reading of configuration files against the real oslo.config's, over the same files: fixed
//! ones and some hundred that are put together at random from what trips parsers up.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hypernova::config::files::Files;
use hypernova::config::opt::{Default, Opt, OptionSpec};
use hypernova::config::oslo::Resolver;
use hypernova::config::value::{Kind, Value as Option_};
use serde_json::{Value, json};

const fn spec(section: &'static str, name: &'static str, opt: Opt) -> OptionSpec {
    OptionSpec { section, name, opt, doc: &[] }
}

const OPTIONS: &[OptionSpec] = &[
    spec("DEFAULT", "text", Opt::text().default("t")),
    spec("DEFAULT", "path", Opt::text().default("$text/${text}/$vnc.port")),
    spec("DEFAULT", "unset", Opt::text()),
    spec("DEFAULT", "choice", Opt::choice(&["a", "b", "1"]).default("a")),
    spec("DEFAULT", "count", Opt::integer(-5, 1000).default("7")),
    spec("DEFAULT", "flag", Opt::boolean().default("true")),
    spec("DEFAULT", "items", Opt::list().default("x,y")),
    spec("DEFAULT", "ratio", Opt::float(0.0, 16.5).default("1.5")),
    spec("vnc", "text", Opt::text().default("${path}").formerly(&[("DEFAULT", "old_text")])),
    spec("vnc", "port", Opt::kind(Kind::IntegerChoice(&[1, 256, 512]))),
    spec("vnc", "many", Opt::text().multiple().formerly(&[("vnc", "old_many"), ("old", "many")])),
    spec("vnc", "address", Opt::kind(Kind::HostAddress)),
    spec("vnc", "domain", Opt::kind(Kind::HostDomain)),
    spec("vnc", "url", Opt::kind(Kind::Uri)),
];

fn declaration(spec: &OptionSpec) -> Value {
    let mut option = match spec.opt.kind {
        Kind::Text => json!({"kind": "text"}),
        Kind::Choice(choices) => json!({"kind": "choice", "choices": choices}),
        Kind::Integer { min, max } => json!({"kind": "integer", "min": min, "max": max}),
        Kind::IntegerChoice(choices) => json!({"kind": "integer_choice", "choices": choices}),
        Kind::Float { min, max } => json!({"kind": "float", "min": min, "max": max}),
        Kind::Boolean => json!({"kind": "boolean"}),
        Kind::List => json!({"kind": "list"}),
        Kind::HostAddress => json!({"kind": "host_address"}),
        Kind::HostDomain => json!({"kind": "host_domain"}),
        Kind::Uri => json!({"kind": "uri"}),
    };
    option["section"] = spec.section.into();
    option["name"] = spec.name.into();
    option["multiple"] = spec.opt.multiple.into();
    option["formerly"] = json!(spec.names_in(spec.section)[1..]);
    option["default"] = match spec.opt.default {
        Default::Text(text) => text.into(),
        _ if spec.opt.multiple => json!([]),
        _ => Value::Null,
    };
    option
}

fn ours(texts: &[String]) -> Value {
    let mut files = Files::default();
    for (index, text) in texts.iter().enumerate() {
        if files.add(Path::new(&format!("{index}.conf")), text).is_err() {
            return Value::Null;
        }
    }
    let resolver = Resolver::new(&files, OPTIONS);
    let values = OPTIONS.iter().map(|spec| match resolver.value(spec) {
        Err(_) => json!({"error": true}),
        Ok(None) => Value::Null,
        Ok(Some(Option_::Text(text))) => text.into(),
        Ok(Some(Option_::Integer(number))) => number.into(),
        Ok(Some(Option_::Float(number))) => number.into(),
        Ok(Some(Option_::Boolean(flag))) => flag.into(),
        Ok(Some(Option_::List(items))) => items.into(),
    });
    values.collect()
}

/// Cases that someone thought of.
const CASES: &[&[&str]] = &[
    &[""],
    &["text = 1"],
    &["[DEFAULT]\ntext = 1\n  2\n\t3 \ncount=3"],
    &["[DEFAULT]\ntext = 1\n\n  2"],
    &["[DEFAULT]\ntext = 1\n# c\n  2"],
    &["[DEFAULT]\n  # indented"],
    &["[DEFAULT] # c"],
    &["[]"],
    &["[ DEFAULT ]\ntext = 1\n[default]\ntext = 2\n[VNC]\ntext = 3"],
    &["[DEFAULT]\ntext = \"quoted\"\nunset = '\n"],
    &["[DEFAULT]\ntext = \"quoted\n  more\""],
    &["[DEFAULT]\ntext: a=b\nunset = c:d"],
    &["[DEFAULT]\ntext=\\$count $$count $count ${count} ${flag} $items $ratio $unset."],
    &["[DEFAULT]\ntext = $text"],
    &["[DEFAULT]\ntext = $nothing"],
    &["[DEFAULT]\ntext = $vnc"],
    &["[DEFAULT]\ntext = $nowhere.x"],
    &["[DEFAULT]\ntext = $vnc.port.x\n[vnc]\nport = 256"],
    &["[DEFAULT]\ntext = ${vnc.port}.x ${a-b} $1 $ ${ ${text\n[vnc]\nport = 256"],
    &["[DEFAULT]\ntext = $TEXT"],
    &["[vnc]\ntext = $many\nmany = 1\nmany = 2"],
    &["[vnc]\ntext = new", "[DEFAULT]\nold_text = old"],
    &["[DEFAULT]\nold_text = old\n[vnc]\ntext = new"],
    &["[vnc]\nmany = 1\nold_many = 2\n[old]\nmany = 3", "[VNC]\nmany = 4"],
    &["[DEFAULT]\ncount = 1_0\nratio = 1e1\nflag = ON\nitems = a,,b,,"],
    &["[DEFAULT]\ncount =\nratio =\nflag =\nitems =\nchoice ="],
    &["[DEFAULT]\ncount = -6\nratio = 17\nflag = maybe\nchoice = c"],
    &["[DEFAULT]\ncount = 1001\nratio = -0.1\nflag = \" yes\"\nchoice = A"],
    &["[DEFAULT]\ncount = 0x10\nratio = x\n[vnc]\nport = 3"],
    &["[DEFAULT]\ncount = +007\nratio = .5\n[vnc]\nport = 0512"],
    &["[DEFAULT]\ntext = a\rcount = 2\r\nunset = b"],
    &["[DEFAULT]\ntext-x = 1\nunset = \u{1f}x\u{a0}"],
    &["[vnc]\naddress = 10.0.0.1\ndomain = a_b.c\nurl = http://h/p"],
    &["[vnc]\naddress = 10.0.0.300\ndomain = -a\nurl = h/p"],
    &["[vnc]\naddress = fe80::1\ndomain = h.\nurl = ws://[::1]:6083/"],
    &["[vnc]\naddress = a_b\ndomain = 1.2\nurl = http://u:p@h:80/a%20b?q#f"],
    &["[vnc]\naddress =\ndomain = a..b\nurl = http://h/a%zz"],
    &["[vnc]\naddress = 1\ndomain = x1-\nurl = http:///p"],
    &["[vnc]\naddress = ::ffff:1.2.3.4\ndomain = ab.c-d\nurl = file:///p"],
    &["[vnc]\naddress = 01.2.3.4\nurl = 1http://h"],
];

const PIECES: &[&str] = &[
    "[DEFAULT]\n",
    "[vnc]\n",
    "[VNC]\n",
    "[old]\n",
    "[x",
    "]\n",
    "text",
    "path",
    "unset",
    "choice",
    "count",
    "flag",
    "items",
    "ratio",
    "port",
    "many",
    "old_many",
    "old_text",
    "=",
    " = ",
    ": ",
    "\n",
    "\n",
    "\n",
    "\n  ",
    "\n\t",
    "\r\n",
    "\n#",
    "\n;",
    " ",
    "$text",
    "${text}",
    "$vnc.text",
    "$vnc.port",
    "${DEFAULT.count}",
    "$$",
    "\\$",
    "$",
    "{",
    "}",
    "\"",
    "'",
    ",",
    "1",
    "256",
    "a",
    "true",
    "no",
    "1.5",
    "-",
    "_",
    "é",
    ".",
    "$path",
    "$unset",
    "$items",
];

/// Lines that are mostly well formed, with pieces of anything.
fn random_case(random: &mut fastrand::Rng) -> Vec<String> {
    let file = |random: &mut fastrand::Rng| {
        let mut text = "[DEFAULT]\n".to_owned();
        for _ in 0..random.usize(0..8) {
            match random.u8(0..10) {
                0 => text += ["[vnc]\n", "[VNC]\n", "[DEFAULT]\n"][random.usize(0..3)],
                1 => (0..random.usize(1..4))
                    .for_each(|_| text += PIECES[random.usize(0..PIECES.len())]),
                _ => {
                    let spec = OPTIONS[random.usize(0..OPTIONS.len())];
                    text += &format!("{} = ", spec.name);
                    for _ in 0..random.usize(0..4) {
                        let piece = PIECES[random.usize(0..PIECES.len())];
                        text += piece.trim_start_matches('[').trim_end_matches("]\n");
                    }
                    text.push('\n');
                }
            }
        }
        // A reference by a deprecated name of another section reads a third option in oslo.config:
        // nothing to imitate.
        text.replace("$old_text", "$text").replace("${old_text", "${text")
    };
    (0..random.usize(1..3)).map(|_| file(random)).collect()
}

/// The environment that `tests/python/venv.sh` makes.
fn python() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/venv.sh");
    let output = Command::new("sh").arg(script).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "tests/python/venv.sh failed");
    String::from_utf8(output.stdout).unwrap().trim().into()
}

fn theirs(cases: &[Vec<String>]) -> Vec<Value> {
    let options: Vec<_> = OPTIONS.iter().map(declaration).collect();
    let question = json!({"options": options, "cases": cases}).to_string();
    let mut child = Command::new(python())
        .args(["-I", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/config_oracle.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(question.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_real_oslo_config_reads_the_same() {
    let fixed = CASES.iter().map(|texts| texts.iter().map(ToString::to_string).collect());
    let mut random = fastrand::Rng::with_seed(9);
    let cases: Vec<_> =
        fixed.chain(std::iter::repeat_with(|| random_case(&mut random)).take(800)).collect();
    let theirs = theirs(&cases);
    assert_eq!(theirs.len(), cases.len());
    let mut parsed = 0;
    for (texts, expected) in cases.iter().zip(theirs) {
        let found = ours(texts);
        assert_eq!(found.is_null(), expected.is_null(), "does it parse? {texts:?}");
        for (index, spec) in OPTIONS.iter().enumerate().filter(|_| !expected.is_null()) {
            let (section, name) = (spec.section, spec.name);
            assert_eq!(found[index], expected[index], "[{section}] {name} of {texts:#?}");
        }
        parsed += usize::from(!expected.is_null());
    }
    // Random files that never parse would compare nothing.
    assert!(parsed > cases.len() / 3, "{parsed} of {} parse", cases.len());
}
