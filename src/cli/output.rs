//! Everything that the commands print goes through here: documents, tables, and failures.
//!
//! Text that a guest, an image or a message may have chosen never reaches a terminal with control
//! characters in it.

use std::io::{self, IsTerminal, Write};

use serde_json::Value;

use super::agent_client::CallFailure;
use super::table::Table;

/// The exit code of a reader that went away, as a shell reports SIGPIPE.
const BROKEN_PIPE: u8 = 128 + 13;

/// Where a command's results go.
pub struct Output {
    json: bool,
    /// Columns of the terminal; `None` when nobody looks.
    width: Option<usize>,
    /// Progress bars may be drawn.
    lively: bool,
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
}

impl Output {
    /// The process's own output.
    pub fn standard(json: bool) -> Self {
        let width = io::stdout().is_terminal().then(terminal_width);
        let lively = io::stderr().is_terminal() && !json;
        Self { json, width, lively, out: Box::new(io::stdout()), err: Box::new(io::stderr()) }
    }

    /// Output that goes somewhere else; nobody is looking at it.
    pub fn to(json: bool, out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        Self { json, width: None, lively: false, out, err }
    }

    pub fn is_json(&self) -> bool {
        self.json
    }

    pub fn is_terminal(&self) -> bool {
        self.width.is_some()
    }

    /// Whether progress bars may be drawn on the error output.
    pub fn is_lively(&self) -> bool {
        self.lively
    }

    /// Prints the one document of a command.
    pub fn document(&mut self, value: &Value) -> io::Result<()> {
        writeln!(self.out, "{value:#}")?;
        self.out.flush()
    }

    /// Prints one of many documents, on a line of its own.
    pub fn line_document(&mut self, value: &Value) -> io::Result<()> {
        writeln!(self.out, "{value}")?;
        self.out.flush()
    }

    pub fn table(&mut self, table: &Table) -> io::Result<()> {
        self.out.write_all(table.render(self.width).as_bytes())?;
        self.out.flush()
    }

    /// Prints a line of our own making.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{}", plain(text))?;
        self.out.flush()
    }

    /// Prints a guest's text: as it is into a pipe, without what could harm a terminal into one.
    pub fn guest_text(&mut self, text: &str) -> io::Result<()> {
        match self.is_terminal() {
            true => self.out.write_all(harmless(text).as_bytes())?,
            false => self.out.write_all(text.as_bytes())?,
        }
        self.out.flush()
    }

    /// Prints bytes that a program made for another one.
    pub fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.flush()
    }

    /// Makes room for a new picture at a terminal.
    pub fn clear(&mut self) -> io::Result<()> {
        if self.is_terminal() {
            self.out.write_all(b"\x1b[H\x1b[2J")?;
        }
        Ok(())
    }

    /// Tells what went wrong and what to do, and says how the process ends.
    pub fn failure(&mut self, failure: &Failure) -> u8 {
        if let Failure::Output(error) = failure
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            return BROKEN_PIPE;
        }
        let mut text = format!("hypernova: {}\n", plain(&failure.to_string()));
        if let Some(advice) = failure.advice() {
            text.push_str(&format!("hypernova: {}\n", plain(&advice)));
        }
        // With nowhere left to complain, the exit code says it.
        self.err.write_all(text.as_bytes()).ok();
        1
    }
}

/// Why a command ends without having done what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Agent(#[from] CallFailure),
    #[error("{message}")]
    Told { message: String, advice: Option<String> },
    #[error("can't write the output: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    pub fn told(message: impl Into<String>) -> Self {
        Self::Told { message: message.into(), advice: None }
    }

    #[must_use]
    pub fn with_advice(self, advice: impl Into<String>) -> Self {
        match self {
            Self::Told { message, .. } => Self::Told { message, advice: Some(advice.into()) },
            other => other,
        }
    }

    /// What the operator can do about it.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Agent(failure) => failure.advice().map(str::to_owned),
            Self::Told { advice, .. } => advice.clone(),
            Self::Output(_) => None,
        }
    }
}

/// One line without control characters.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A guest's lines with their colours, and without any other control sequence: those could move
/// the cursor, rename the window or make the terminal type.
fn harmless(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\n' | '\t' => kept.push(c),
            '\x1b' => {
                let Some(sequence) = rest.as_str().strip_prefix('[') else { continue };
                let length = sequence.find(|c: char| !matches!(c, '0'..='9' | ';' | '?' | ' '));
                let Some(length) = length else { continue };
                if sequence.as_bytes()[length] == b'm' {
                    kept.push_str("\x1b[");
                    kept.push_str(&sequence[..=length]);
                }
                let last = sequence[length..].chars().next().map_or(0, char::len_utf8);
                rest = sequence[length + last..].chars();
            }
            c if c.is_control() => {}
            c => kept.push(c),
        }
    }
    kept
}

/// The columns of the terminal on standard output; 80 when it doesn't say.
fn terminal_width() -> usize {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize, to a local that outlives the call.
    let answer = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    match (answer, size.ws_col) {
        (0, columns) if columns > 0 => usize::from(columns),
        _ => 80,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_went_away_ends_the_command_quietly() {
        let mut output = Output::to(false, Box::new(Closed), Box::new(Closed));
        let failure = Failure::from(output.line("x").unwrap_err());
        assert_eq!(output.failure(&failure), 141);
    }

    #[test]
    fn a_guests_colours_stay_and_its_other_sequences_go() {
        assert_eq!(harmless("a\x1b[1;31mred\x1b[0m\r\n\tb"), "a\x1b[1;31mred\x1b[0m\n\tb");
        assert_eq!(harmless("\x1b[2J\x1b[Hx\x1b]0;title\x07y\x1b[6n\u{9b}31mz"), "x]0;titley31mz");
        assert_eq!(harmless("\x1b[ü\x1b[\x1b"), "");
        assert_eq!(harmless("end\x1b[12"), "end[12");
    }

    #[test]
    fn a_name_cant_draw_on_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\nc"), "a [2Jb c");
    }
}
