//! journald: an entry for each event. The fields of the event and of the spans around it are the
//! entry's fields, and stand in its text as well: text is what `journalctl` shows.
//!
//! systemd: docs/JOURNAL_NATIVE_PROTOCOL.md, systemd.journal-fields(7)

use std::fmt::Write as _;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::Fields;

pub(super) const SOCKET: &str = "/run/systemd/journal/socket";
const IDENTIFIER: &str = "hypernova";
/// A value is cut here: an entry has to fit into one datagram, of which the kernel takes 200 KiB.
const MAX_VALUE: usize = 16 * 1024;
/// An agent doesn't stop because its log does.
const SEND_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Journald {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journald {
    /// Sends to journald's socket `path`.
    ///
    /// # Errors
    /// The operating system's, when nobody listens there.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_WITHIN))?;
        // journald passes over an empty one.
        socket.send_to(&[], path)?;
        Ok(Self { socket, path: path.to_owned() })
    }
}

/// A span's fields, kept with it.
struct Kept(Map<String, Value>);

impl<S> Layer<S> for Journald
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Map::new();
        attributes.record(&mut Fields(&mut fields));
        span.extensions_mut().insert(Kept(fields));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(Kept(fields)) = span.extensions_mut().get_mut() {
            values.record(&mut Fields(fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Map::new();
        event.record(&mut Fields(&mut fields));
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(Kept(outer)) = span.extensions().get() {
                for (name, value) in outer {
                    fields.entry(name.as_str()).or_insert_with(|| value.clone());
                }
            }
        }
        // There is nowhere else to say that it failed.
        self.socket.send_to(&entry(event.metadata(), fields), &self.path).ok();
    }
}

/// An event as journald takes it. `fields` has its message too.
fn entry(metadata: &Metadata<'_>, mut fields: Map<String, Value>) -> Vec<u8> {
    let mut message = fields.shift_remove("message").as_ref().map(text).unwrap_or_default();
    let mut entry = Vec::new();
    for (name, value) in &fields {
        let value = text(value);
        // As a value with spaces or line breaks in it can't be told from what follows.
        match value.is_empty() || value.contains(|c: char| c.is_whitespace() || c.is_control()) {
            true => write!(message, " {name}={value:?}"),
            false => write!(message, " {name}={value}"),
        }
        .expect("a string takes all");
        put(&mut entry, &field_name(name), &value);
    }
    put(&mut entry, "MESSAGE", &message);
    put(&mut entry, "PRIORITY", priority(*metadata.level()));
    put(&mut entry, "SYSLOG_IDENTIFIER", IDENTIFIER);
    put(&mut entry, "TARGET", metadata.target());
    if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
        put(&mut entry, "CODE_FILE", file);
        put(&mut entry, "CODE_LINE", &line.to_string());
    }
    entry
}

/// syslog(3).
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Upper case; what journald has no letter for is an underscore, with which none begins.
fn field_name(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.trim_start_matches('_').chars().map(letter).collect()
}

fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    let end = (0..=value.len().min(MAX_VALUE)).rev().find(|end| value.is_char_boundary(*end));
    let value = &value[..end.unwrap_or(0)];
    entry.extend_from_slice(name.as_bytes());
    match value.contains('\n') {
        // Its length says where it ends.
        true => {
            entry.push(b'\n');
            entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
        }
        false => entry.push(b'='),
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use tracing::{debug, info, info_span, warn};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// What journald gets, an entry each.
    fn sent(work: impl FnOnce()) -> Vec<Vec<u8>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        journald.set_nonblocking(true).unwrap();
        let layer = Journald::new(&path).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        let mut entries = Vec::new();
        let mut buffer = vec![0; 1 << 18];
        while let Ok(length) = journald.recv(&mut buffer) {
            entries.push(buffer[..length].to_vec());
        }
        assert!(entries.remove(0).is_empty(), "the first one only asks whether it is there");
        entries
    }

    fn lines(entry: &[u8]) -> Vec<&str> {
        std::str::from_utf8(entry).unwrap().lines().collect()
    }

    #[test]
    fn an_entry_has_the_fields_and_says_them() {
        let entries = sent(|| {
            let outer = info_span!("workflow", instance_uuid = "u1", step = "old", attempt = 1);
            outer.record("attempt", 2);
            let _outer = outer.entered();
            let _inner = info_span!("step", step = "Define").entered();
            info!(elapsed_ms = 12_u64, error = %"disk is full", "step done");
        });
        let entry = lines(&entries[0]);
        for line in [
            "MESSAGE=step done elapsed_ms=12 error=\"disk is full\" step=Define instance_uuid=u1 attempt=2",
            "PRIORITY=6",
            "SYSLOG_IDENTIFIER=hypernova",
            "ELAPSED_MS=12",
            "ERROR=disk is full",
            "STEP=Define",
            "INSTANCE_UUID=u1",
            "ATTEMPT=2",
        ] {
            assert!(entry.contains(&line), "{line}: {entry:?}");
        }
        assert!(entry.iter().any(|line| line.starts_with("CODE_FILE=")));
    }

    #[test]
    fn levels_are_syslogs() {
        let entries = sent(|| {
            warn!("a");
            debug!("b");
        });
        assert!(lines(&entries[0]).contains(&"PRIORITY=4"));
        assert!(lines(&entries[1]).contains(&"PRIORITY=7"));
    }

    #[test]
    fn a_line_break_makes_no_field_of_its_own() {
        let entries = sent(|| info!(error = %"bad\nPRIORITY=0", "refused\n_UID=0"));
        let entry = String::from_utf8_lossy(&entries[0]).into_owned();
        assert!(entry.starts_with("ERROR\n\u{e}\0\0\0\0\0\0\0bad\nPRIORITY=0\n"), "{entry:?}");
        let message = "refused\n_UID=0 error=\"bad\\nPRIORITY=0\"";
        assert!(entry.contains(&format!(
            "MESSAGE\n{}\0\0\0\0\0\0\0{message}\n",
            message.len() as u8 as char
        )));
    }

    #[test]
    fn a_long_value_is_cut_between_two_letters() {
        let entries = sent(|| info!(error = "ä".repeat(MAX_VALUE), "long"));
        let entry = lines(&entries[0]);
        assert_eq!(entry[0].len(), "ERROR=".len() + MAX_VALUE);
    }

    #[test]
    fn nobody_there_is_an_error() {
        assert!(Journald::new(Path::new("/nowhere/socket")).is_err());
    }
}
