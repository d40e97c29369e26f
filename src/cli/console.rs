//! `hypernova console`: what a guest wrote to its serial console, once or as it comes.
//!
//! Once, the agent is asked as nova asks it. To follow, the log itself is read: it is a file of
//! this host, and virtlogd starts a new one when it has grown large.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueHint};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::agent_client::{Agent, AgentRequest};
use super::output::{Failure, Output};
use super::resolve::find;
use super::show::text;
use super::view::{Summary, detail};
use super::wait::is_absent;

/// How often the log is looked at, and how often it is asked whether the instance is still there.
const POLL: Duration = Duration::from_millis(200);
const STILL_THERE: Duration = Duration::from_secs(2);

/// How far back the last lines are looked for.
const TAIL_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone, Args)]
pub struct ConsoleArgs {
    /// The instance: its name, its uuid, or the beginning of its uuid
    #[arg(value_hint = ValueHint::Other)]
    pub name: String,

    /// Only the last lines
    #[arg(long, value_name = "N", value_hint = ValueHint::Other)]
    pub lines: Option<u32>,

    /// Go on as the guest writes, until the instance is deleted
    #[arg(long)]
    pub follow: bool,

    /// Follow until the guest has written TEXT
    #[arg(long, value_name = "TEXT", value_hint = ValueHint::Other, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub until: Option<String>,

    /// Fail when TEXT isn't there after so many seconds
    #[arg(long, value_name = "SECONDS", value_hint = ValueHint::Other, requires = "until")]
    pub timeout: Option<u64>,

    /// Tell where the graphical console is instead
    #[arg(long, conflicts_with_all = ["lines", "follow", "until"])]
    pub vnc: bool,
}

pub async fn run(
    args: &ConsoleArgs,
    agent: &dyn Agent,
    output: &mut Output,
) -> Result<u8, Failure> {
    let instance = find(agent, &args.name).await?;
    if args.vnc {
        return vnc(&instance, agent, output).await;
    }
    if args.follow || args.until.is_some() {
        return follow(args, &instance, agent, output).await;
    }
    let request = [("instance", instance.primitive), ("tail_length", json!(args.lines))];
    let answer = agent.call(AgentRequest::nova("get_console_output", request)).await?;
    let log = answer.as_str().unwrap_or_default();
    match output.is_json() {
        true => output.document(&json!({"uuid": instance.uuid, "output": log}))?,
        false => {
            output.guest_text(log)?;
            if !log.is_empty() && !log.ends_with('\n') {
                output.line("")?;
            }
        }
    }
    Ok(0)
}

async fn vnc(instance: &Summary, agent: &dyn Agent, output: &mut Output) -> Result<u8, Failure> {
    let request = [("instance", instance.primitive.clone()), ("console_type", json!("novnc"))];
    let answer = agent.call(AgentRequest::nova("get_vnc_console", request)).await?;
    match output.is_json() {
        true => output.document(&json!({"host": answer["host"], "port": answer["port"]}))?,
        false => output.line(&format!("{}:{}", text(&answer["host"]), text(&answer["port"])))?,
    }
    Ok(0)
}

async fn follow(
    args: &ConsoleArgs,
    instance: &Summary,
    agent: &dyn Agent,
    output: &mut Output,
) -> Result<u8, Failure> {
    let (_, answer) = detail(agent, instance.uuid).await?;
    let Value::String(path) = &answer["console_log"] else {
        return Err(Failure::told(format!("{} has no console log", instance.name)));
    };
    let mut log = Log::new(path.into(), args.lines);
    let mut printer = Printer::default();
    let mut wanted = args.until.as_deref().map(Wanted::new);
    let begun = Instant::now();
    let mut asked_at = Instant::now();
    loop {
        let unreadable = |error| Failure::told(format!("can't read {path}: {error}"));
        let bytes = log.read().map_err(unreadable)?;
        if let Some(end) = wanted.as_mut().and_then(|wanted| wanted.find(&bytes)) {
            // The rest of that line goes with it, if it is there already.
            let line_end = bytes[end..].iter().position(|byte| *byte == b'\n');
            let end = line_end.map_or(bytes.len(), |more| end + more + 1);
            printer.print(&bytes[..end], output)?;
            printer.finish(output)?;
            return Ok(0);
        }
        printer.print(&bytes, output)?;
        if let Some(seconds) = args.timeout
            && begun.elapsed() >= Duration::from_secs(seconds)
        {
            printer.finish(output)?;
            return Err(not_written(args, instance, &format!("within {seconds} s")));
        }
        if bytes.is_empty() && asked_at.elapsed() >= STILL_THERE {
            asked_at = Instant::now();
            if let Err(failure) = detail(agent, instance.uuid).await
                && is_absent(&failure)
            {
                printer.finish(output)?;
                return match wanted {
                    Some(_) => Err(not_written(args, instance, "before it was deleted")),
                    None => Ok(0),
                };
            }
        }
        if bytes.is_empty() {
            sleep(POLL).await;
        }
    }
}

fn not_written(args: &ConsoleArgs, instance: &Summary, when: &str) -> Failure {
    let text = args.until.as_deref().unwrap_or_default();
    Failure::told(format!("{} didn't write {text:?} {when}", instance.name))
        .with_advice(format!("`hypernova show {}` tells how it is", instance.uuid))
}

/// A log file that grows, and is put aside for a new one now and then.
struct Log {
    path: PathBuf,
    /// Where to begin: this many lines before the end.
    lines: Option<u32>,
    file: Option<File>,
}

impl Log {
    fn new(path: PathBuf, lines: Option<u32>) -> Self {
        Self { path, lines, file: None }
    }

    /// What was written since the last time; nothing when there is no file (yet, or any more).
    fn read(&mut self) -> io::Result<Vec<u8>> {
        if self.file.is_none() {
            self.file = match File::open(&self.path) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
            if let (Some(lines), Some(file)) = (self.lines.take(), &mut self.file) {
                seek_to_last_lines(file, lines)?;
            }
        }
        let Some(file) = &mut self.file else { return Ok(Vec::new()) };
        let mut bytes = Vec::new();
        file.by_ref().take(TAIL_BYTES).read_to_end(&mut bytes)?;
        if bytes.is_empty() && is_other(file, &self.path)? {
            self.file = None;
        }
        Ok(bytes)
    }
}

/// Says whether `path` is another file than `file`, or one that was emptied.
fn is_other(file: &mut File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    let emptied = open.len() < file.stream_position()?;
    let replaced = std::fs::metadata(path).is_ok_and(|found| found.ino() != open.ino());
    Ok(emptied || replaced)
}

fn seek_to_last_lines(file: &mut File, lines: u32) -> io::Result<()> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.by_ref().take(TAIL_BYTES).read_to_end(&mut tail)?;
    // The newline at the very end ends the last line: it doesn't begin another.
    let body = tail.strip_suffix(b"\n").unwrap_or(&tail);
    let mut newlines = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    let start = match lines {
        0 => tail.len(),
        lines => newlines.nth(lines as usize - 1).map_or(0, |(at, _)| at + 1),
    };
    file.seek(SeekFrom::Start(from + start as u64))?;
    Ok(())
}

/// A text that is looked for in bytes that come bit by bit.
struct Wanted {
    text: Vec<u8>,
    /// The end of what came before, shorter than the text.
    before: Vec<u8>,
}

impl Wanted {
    fn new(text: &str) -> Self {
        Self { text: text.as_bytes().to_vec(), before: Vec::new() }
    }

    /// Where in `bytes` the text ends, once it is there.
    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let kept = self.before.len();
        self.before.extend_from_slice(bytes);
        let length = self.text.len();
        if let Some(at) = self.before.windows(length).position(|window| window == self.text) {
            return Some(at + length - kept);
        }
        self.before.drain(..self.before.len().saturating_sub(length - 1));
        None
    }
}

/// Prints what a guest writes, without cutting a character or, as JSON, a line.
#[derive(Default)]
struct Printer {
    pending: Vec<u8>,
}

impl Printer {
    fn print(&mut self, bytes: &[u8], output: &mut Output) -> Result<(), Failure> {
        self.pending.extend_from_slice(bytes);
        if output.is_json() {
            while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                output.line_document(&json!({"line": line.trim_end_matches(['\r', '\n'])}))?;
            }
            return Ok(());
        }
        let whole = match std::str::from_utf8(&self.pending) {
            // A character that is still to be completed waits for the rest.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.pending.len(),
        };
        let text: Vec<u8> = self.pending.drain(..whole).collect();
        output.guest_text(&String::from_utf8_lossy(&text))?;
        Ok(())
    }

    /// Prints what is left.
    fn finish(&mut self, output: &mut Output) -> Result<(), Failure> {
        let rest = std::mem::take(&mut self.pending);
        let rest = String::from_utf8_lossy(&rest);
        match output.is_json() {
            true if !rest.is_empty() => output.line_document(&json!({"line": rest}))?,
            true => {}
            false => output.guest_text(&rest)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use proptest::prelude::*;

    use super::super::fake::{FakeAgent, run};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn once_the_agent_is_asked_for_the_last_lines() {
        let agent = FakeAgent::new();
        agent.add(1, "web").await;
        let ran = run(Some(&agent), ["console", "web", "--lines", "5"]).await;
        assert_eq!((ran.code, ran.out.as_str()), (0, "tail 5\n"));
        let ran = run(Some(&agent), ["console", "web"]).await;
        assert_eq!(ran.out, "tail null\n");
        let ran = run(Some(&agent), ["console", "web", "--vnc"]).await;
        assert_eq!(ran.out, "127.0.0.1:5900\n");
    }

    #[tokio::test(start_paused = true)]
    async fn following_ends_at_the_text_or_at_the_time() {
        let agent = FakeAgent::new();
        agent.add(1, "web").await;
        let log = tempfile::NamedTempFile::new().unwrap();
        fs::write(log.path(), "boot\nMARKER 4.2 s\nlogin: ").unwrap();
        agent.set_console_log(log.path());
        let ran = run(Some(&agent), ["console", "web", "--until", "MARKER"]).await;
        assert_eq!((ran.code, ran.out.as_str()), (0, "boot\nMARKER 4.2 s\n"));

        let line = ["--json", "console", "web", "--until", "never", "--timeout", "5"];
        let ran = run(Some(&agent), line).await;
        assert_eq!(ran.code, 1);
        assert_eq!(
            ran.out,
            "{\"line\":\"boot\"}\n{\"line\":\"MARKER 4.2 s\"}\n{\"line\":\"login: \"}\n"
        );
        assert!(ran.err.contains("web didn't write \"never\" within 5 s"), "{}", ran.err);
    }

    #[tokio::test(start_paused = true)]
    async fn following_ends_when_the_instance_is_deleted() {
        let agent = FakeAgent::new();
        agent.add(1, "web").await;
        let log = tempfile::NamedTempFile::new().unwrap();
        agent.set_console_log(log.path());
        let deleted = async {
            sleep(Duration::from_secs(10)).await;
            run(Some(&agent), ["delete", "web"]).await
        };
        let (ran, _) = tokio::join!(run(Some(&agent), ["console", "web", "--follow"]), deleted);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    }

    #[test]
    fn a_log_is_read_on_through_growth_and_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.log");
        let mut log = Log::new(path.clone(), None);
        assert_eq!(log.read().unwrap(), b"", "not there yet");
        fs::write(&path, "one\n").unwrap();
        assert_eq!(log.read().unwrap(), b"one\n");
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"two\n").unwrap();
        assert_eq!(log.read().unwrap(), b"two\n");

        fs::rename(&path, directory.path().join("console.log.0")).unwrap();
        fs::write(&path, "three\n").unwrap();
        assert_eq!(log.read().unwrap(), b"", "the old one is at its end");
        assert_eq!(log.read().unwrap(), b"three\n");
    }

    #[test]
    fn a_log_begins_with_its_last_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.log");
        for (content, lines, expected) in [
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb\n", 9, "a\nb\n"),
            ("a\nb\n", 0, ""),
            ("", 3, ""),
        ] {
            fs::write(&path, content).unwrap();
            let read = Log::new(path.clone(), Some(lines)).read().unwrap();
            assert_eq!(String::from_utf8(read).unwrap(), expected, "{content:?} {lines}");
        }
    }

    proptest! {
        /// However the bytes are cut, the text is found where it is in the whole.
        #[test]
        fn a_text_is_found_across_pieces(
            whole in "[ab\n]{0,40}", text in "[ab]{1,4}", piece in 1usize..7,
        ) {
            let mut wanted = Wanted::new(&text);
            let mut before = 0;
            let mut found = None;
            for bytes in whole.as_bytes().chunks(piece) {
                if let Some(end) = wanted.find(bytes) {
                    found = Some(before + end);
                    break;
                }
                before += bytes.len();
            }
            prop_assert_eq!(found, whole.find(&text).map(|at| at + text.len()));
        }
    }
}
