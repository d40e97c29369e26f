//! The log: where it goes, in which form, how much of it, and how an error is written.
//!
//! Text, or a JSON object a line, to stderr or a file; or journald with its fields. The level is
//! `[DEFAULT] debug`'s, unless the environment's `RUST_LOG` says more exactly.

mod journald;

use std::error::Error;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields, MakeWriter};
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt as format, reload};

use self::journald::Journald;
use crate::config::Config;
use crate::config::hypernova::LogFormat;
use crate::model::class::Class;

/// An error with its causes, `a: b: c`. A cause that the error above already quotes at its end
/// isn't said again.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            let text = error.to_string();
            if !said.ends_with(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            next = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("can't open the log {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("journald can't be reached")]
    Journald(#[source] io::Error),
    #[error("RUST_LOG is not a list of levels")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    #[error("the log is already set up")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
    #[error("the log's level can't be changed")]
    Gone(#[source] reload::Error),
}

impl TelemetryError {
    pub fn class(&self) -> Class {
        Class::Refused
    }
}

/// What the log is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub format: LogFormat,
    /// `None`: stderr. Not for journald.
    pub file: Option<PathBuf>,
    pub debug: bool,
}

impl Settings {
    /// What `config` asks for; where it is silent, journald when systemd started this process.
    pub fn from_config(config: &Config) -> Self {
        Self::with(config, stderr_is_journal())
    }

    fn with(config: &Config, stderr_is_journal: bool) -> Self {
        let log = &config.default_;
        // oslo.log: log.py, `_get_log_file_path`.
        let file = match (&log.log_dir, &log.log_file) {
            (Some(directory), Some(file)) => Some(directory.join(file)),
            (Some(directory), None) => Some(directory.join("hypernova.log")),
            (None, file) => file.clone(),
        };
        let journald = log.use_journal || (stderr_is_journal && file.is_none());
        let usual = if journald { LogFormat::Journald } else { LogFormat::Text };
        Self { format: config.hypernova.log_format.unwrap_or(usual), file, debug: log.debug }
    }

    fn filter(&self, rust_log: Option<&str>) -> Result<EnvFilter, TelemetryError> {
        // Libraries speak up when something is wrong; what happens is for us to say.
        // lapin logs whole bodies that came back, and ordinary disconnects as errors: our own
        // supervisor tells of them.
        let usual = if self.debug {
            "info,lapin=off,hypernova=debug"
        } else {
            "warn,lapin=off,hypernova=info"
        };
        let directives = rust_log.filter(|text| !text.is_empty()).unwrap_or(usual);
        EnvFilter::builder().parse(directives).map_err(TelemetryError::Filter)
    }
}

fn rust_log() -> Option<String> {
    std::env::var("RUST_LOG").ok()
}

/// Whether stderr is what systemd connected to its journal. systemd.exec(5), `$JOURNAL_STREAM`.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    nix::sys::stat::fstat(io::stderr().as_fd())
        .is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;

/// The running log.
#[derive(Debug, Clone)]
pub struct Telemetry {
    filter: reload::Handle<EnvFilter, Registry>,
    output: Arc<Output>,
}

impl Telemetry {
    /// Sets up the process's log. Once in a process.
    pub fn start(settings: &Settings) -> Result<Self, TelemetryError> {
        let (subscriber, telemetry) = build(settings, rust_log().as_deref())?;
        subscriber.try_init().map_err(TelemetryError::Twice)?;
        Ok(telemetry)
    }

    /// Takes over the level of `settings` and opens the log file anew, as after a rotation. A
    /// change of format or place needs a restart. After an error the log goes on as it was.
    pub fn reload(&self, settings: &Settings) -> Result<(), TelemetryError> {
        self.output.reopen()?;
        let filter = settings.filter(rust_log().as_deref())?;
        self.filter.reload(filter).map_err(TelemetryError::Gone)
    }
}

fn build(
    settings: &Settings,
    rust_log: Option<&str>,
) -> Result<(impl Subscriber + Send + Sync + 'static, Telemetry), TelemetryError> {
    let (filter, handle) = reload::Layer::new(settings.filter(rust_log)?);
    let output = Arc::new(match (&settings.format, &settings.file) {
        (LogFormat::Journald, _) | (_, None) => Output::Stderr,
        (_, Some(path)) => Output::File { path: path.clone(), file: Mutex::new(open(path)?) },
    });
    let lines = Lines(output.clone());
    let layer: Box<dyn Layer<Filtered> + Send + Sync> = match settings.format {
        LogFormat::Text => Box::new(format::layer().with_ansi(false).with_writer(lines)),
        LogFormat::Json => Box::new(
            format::layer().fmt_fields(JsonFields::new()).event_format(Json).with_writer(lines),
        ),
        LogFormat::Journald => {
            Box::new(Journald::new(journald::SOCKET.as_ref()).map_err(TelemetryError::Journald)?)
        }
    };
    let subscriber = Registry::default().with(filter).with(layer);
    Ok((subscriber, Telemetry { filter: handle, output }))
}

/// Where lines go.
#[derive(Debug)]
enum Output {
    Stderr,
    File { path: PathBuf, file: Mutex<File> },
}

impl Output {
    fn reopen(&self) -> Result<(), TelemetryError> {
        if let Self::File { path, file } = self {
            *file.lock().unwrap_or_else(PoisonError::into_inner) = open(path)?;
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<File, TelemetryError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|source| TelemetryError::File { path: path.to_owned(), source })
}

/// Writes each event as one line: a line break inside one, which may come from a message or an
/// image, can't pass for an event of its own.
#[derive(Debug, Clone)]
struct Lines(Arc<Output>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Lines {
    /// `event` is a whole event: the layer formats it before it writes.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let mut line = Vec::with_capacity(event.len() + 1);
        for byte in event.strip_suffix(b"\n").unwrap_or(event) {
            match byte {
                b'\n' => line.extend_from_slice(b"\\n"),
                b'\r' => line.extend_from_slice(b"\\r"),
                byte => line.push(*byte),
            }
        }
        line.push(b'\n');
        match &*self.0 {
            Output::Stderr => io::stderr().lock().write_all(&line)?,
            Output::File { file, .. } => {
                file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)?;
            }
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One JSON object an event: its fields and those of the spans around it, side by side. The inner
/// one wins.
struct Json;

impl<S> FormatEvent<S, JsonFields> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let mut line = Map::new();
        line.insert("timestamp".to_owned(), timestamp.into());
        line.insert("level".to_owned(), event.metadata().level().as_str().into());
        line.insert("target".to_owned(), event.metadata().target().into());
        // Its place before the other fields; its text comes with them.
        line.insert("message".to_owned(), "".into());
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            line.insert("span".to_owned(), span.name().into());
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<JsonFields>>();
            if let Some(Ok(Value::Object(fields))) = fields.map(|f| serde_json::from_str(f)) {
                line.extend(fields);
            }
        }
        event.record(&mut Fields(&mut line));
        writeln!(writer, "{}", Value::Object(line))
    }
}

struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
}

#[cfg(test)]
mod tests {
    use tracing::{debug, info, info_span};

    use super::*;

    fn settings(format: LogFormat, file: &Path) -> Settings {
        Settings { format, file: Some(file.to_owned()), debug: false }
    }

    fn logged(format: LogFormat, work: impl FnOnce(&Telemetry)) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let rust_log = "hypernova=info";
        let (subscriber, telemetry) = build(&settings(format, &path), Some(rust_log)).unwrap();
        tracing::subscriber::with_default(subscriber, || work(&telemetry));
        std::fs::read_to_string(path).unwrap()
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        #[source]
        cause: Option<Box<Link>>,
    }

    #[test]
    fn a_chain_says_every_cause_once() {
        let chain = ["spawn failed", "no disk: disk full", "disk full", "os error 28"];
        let error =
            chain.into_iter().rev().fold(None, |cause, text| Some(Box::new(Link { text, cause })));
        let text = Chain(&*error.unwrap()).to_string();
        assert_eq!(text, "spawn failed: no disk: disk full: os error 28");
    }

    #[test]
    fn json_has_the_fields_of_event_and_spans_side_by_side() {
        let log = logged(LogFormat::Json, |_| {
            let _outer = info_span!("workflow", instance_uuid = "u1", step = "old").entered();
            let _inner = info_span!("step", step = ?"Define").entered();
            info!(elapsed_ms = 12_u64, ok = true, "step done");
        });
        let line: Value = serde_json::from_str(&log).unwrap();
        assert_eq!(line["message"], "step done");
        assert_eq!(line["instance_uuid"], "u1");
        assert_eq!(line["step"], "\"Define\"");
        assert_eq!(line["span"], "step");
        assert_eq!(line["elapsed_ms"], 12);
        assert_eq!(line["ok"], true);
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn an_id_that_a_request_lacks_is_left_out() {
        let log = logged(LogFormat::Json, |_| {
            let (trace_id, none) = (Some("0af7"), None::<&str>);
            let span =
                info_span!("request", request_id = "req-1", trace_id, global_request_id = none);
            span.in_scope(|| info!(task_state = none, "asked"));
        });
        let line: Value = serde_json::from_str(&log).unwrap();
        assert_eq!((&line["request_id"], &line["trace_id"]), (&"req-1".into(), &"0af7".into()));
        assert!(line.get("global_request_id").is_none() && line.get("task_state").is_none());
    }

    #[test]
    fn a_line_break_in_a_value_makes_no_second_line() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let log = logged(format, |_| info!(error = %"bad\r\n2026 INFO forged", "refused"));
            assert_eq!(log.lines().count(), 1, "{log}");
            assert!(!log.contains('\r'));
        }
    }

    #[test]
    fn a_reload_opens_the_file_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let settings = settings(LogFormat::Text, &path);
        let (subscriber, telemetry) = build(&settings, Some("info")).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            info!("before");
            std::fs::rename(&path, directory.path().join("log.1")).unwrap();
            telemetry.reload(&settings).unwrap();
            info!("after");
        });
        let after = std::fs::read_to_string(&path).unwrap();
        assert!(after.contains("after") && !after.contains("before"));
    }

    #[test]
    fn a_reload_changes_the_level() {
        let log = logged(LogFormat::Text, |telemetry| {
            debug!("not yet");
            let settings = Settings { debug: true, ..settings(LogFormat::Text, "log".as_ref()) };
            let filter = settings.filter(None).unwrap();
            telemetry.filter.reload(filter).unwrap();
            debug!("now");
        });
        assert!(log.contains("now") && !log.contains("not yet"), "{log}");
    }

    #[test]
    fn the_format_is_what_is_asked_for_or_what_the_start_suggests() {
        let mut config = Config::load(&[]).unwrap();
        let format = |config: &Config, systemd| Settings::with(config, systemd).format;
        assert_eq!(format(&config, false), LogFormat::Text);
        assert_eq!(format(&config, true), LogFormat::Journald);
        config.default_.log_dir = Some("/var/log/nova".into());
        assert_eq!(format(&config, true), LogFormat::Text);
        let file = Settings::with(&config, true).file;
        assert_eq!(file, Some("/var/log/nova/hypernova.log".into()));
        config.hypernova.log_format = Some(LogFormat::Json);
        assert_eq!(format(&config, true), LogFormat::Json);
    }

    #[test]
    fn a_log_that_can_not_be_opened_is_named() {
        let settings = settings(LogFormat::Text, "/nowhere/log".as_ref());
        let error = build(&settings, None).err().unwrap();
        assert!(Chain(&error).to_string().starts_with("can't open the log /nowhere/log: "));
    }
}
