//! An exception of nova's, as a value: what a caller is to raise, what an instance's owner is told,
//! and the text of its traceback. nova: exception.py; compute/utils.py, `exception_to_dict`

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The module of nova's own exceptions.
pub const NOVA: &str = "nova.exception";
/// The module of those that Python itself has.
pub const BUILTINS: &str = "builtins";

/// How many bytes of a message the records have room for. nova: utils.py, `safe_truncate`
const SHOWN_BYTES: usize = 255;

/// Codes that aren't 500, and the classes that have them, line by line.
const CODES: &str = include_str!("fault_codes.txt");

/// An exception: for a caller to raise, or as an instance's fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub class: Cow<'static, str>,
    pub module: Cow<'static, str>,
    pub message: String,
    /// A `NovaException`'s format arguments, and its `code`. Boxed: a fault is the error half of
    /// many small results.
    pub kwargs: Box<Map<String, Value>>,
}

impl Fault {
    /// A class of `nova.exception`.
    pub fn nova(class: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(class, NOVA, message)
    }

    /// A class that Python itself has, such as `TypeError`.
    pub fn builtin(class: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(class, BUILTINS, message)
    }

    /// What libvirt refused: nova lets its binding's own exception through.
    pub fn libvirt(message: impl Into<String>) -> Self {
        Self::new("libvirtError", "libvirt", message)
    }

    /// A class of any module. The caller sees a `RemoteError` unless it allows the module.
    pub fn new(
        class: impl Into<Cow<'static, str>>,
        module: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            class: class.into(),
            module: module.into(),
            message: message.into(),
            kwargs: Box::default(),
        }
    }

    /// Adds a keyword argument of the exception's constructor.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.kwargs.insert(name.to_owned(), value.into());
        self
    }

    pub fn is_nova(&self) -> bool {
        self.module == NOVA
    }

    /// An HTTP status: its own, its class's, or 500, which is also what every exception has that
    /// isn't nova's.
    pub fn code(&self) -> u16 {
        let own = self.kwargs.get("code").and_then(Value::as_u64);
        own.and_then(|code| u16::try_from(code).ok()).unwrap_or_else(|| match self.is_nova() {
            true => code_of(&self.class),
            false => 500,
        })
    }

    /// What the instance's owner may read: the message of an exception of nova's, cut to what the
    /// records keep, and of others the class's name only: their messages are not meant for users.
    pub fn shown(&self) -> &str {
        if self.is_nova() { cut(&self.message) } else { &self.class }
    }

    /// `nova.exception.InstanceNotFound: Instance … could not be found.`: a traceback's last line.
    fn line(&self) -> String {
        match &*self.module {
            BUILTINS => format!("{}: {}\n", self.class, self.message),
            module => format!("{module}.{}: {}\n", self.class, self.message),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.message)
    }
}

/// As much of a message as the records keep, cut between characters.
pub fn cut(message: &str) -> &str {
    let mut end = message.len().min(SHOWN_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

fn code_of(class: &str) -> u16 {
    let mut lines = CODES.lines().map(|line| line.split(' '));
    let found = lines.find_map(|mut words| {
        let code = words.next()?;
        words.any(|name| name == class).then_some(code)
    });
    found.and_then(|code| code.parse().ok()).unwrap_or(500)
}

/// A fault with its place: what Python's `traceback` would print of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raised {
    pub fault: Fault,
    /// Where, in this agent's terms: `pause`.
    pub module: String,
    /// `PauseDomain`
    pub function: String,
    /// The step's number, counted from 1: it stands where Python has the line's.
    pub line: usize,
    /// The fault in whose handling this one was raised.
    pub during: Option<Box<Raised>>,
}

impl Raised {
    pub fn new(fault: Fault, module: &str, function: &str, line: usize) -> Self {
        Self { fault, module: module.to_owned(), function: function.to_owned(), line, during: None }
    }

    /// The fault that its handler raised instead, at the same place.
    pub fn wrapped_in(self, fault: Fault) -> Self {
        let (module, function, line) = (self.module.clone(), self.function.clone(), self.line);
        Self { fault, module, function, line, during: Some(Box::new(self)) }
    }

    /// The frames alone: an action event's traceback. Python: `traceback.format_tb`
    pub fn frames(&self) -> String {
        let Self { module, function, line, .. } = self;
        format!("  File \"hypernova/{module}\", line {line}, in {function}\n")
    }

    /// Header, frames and the exception. Python: `traceback.format_exception`
    pub fn traceback(&self) -> String {
        self.parts().concat()
    }

    /// The traceback's lines as Python groups them.
    pub fn parts(&self) -> Vec<String> {
        let mut parts = Vec::new();
        if let Some(during) = &self.during {
            parts = during.parts();
            let text = "\nDuring handling of the above exception, another exception occurred:\n\n";
            parts.push(text.to_owned());
        }
        parts.push("Traceback (most recent call last):\n".to_owned());
        parts.push(self.frames());
        parts.push(self.fault.line());
        parts
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_code_is_the_fault_s_own_or_its_class_s_or_500() {
        assert_eq!(Fault::nova("DiskNotFound", "m").code(), 404);
        assert_eq!(Fault::nova("InvalidDiskInfo", "m").code(), 400);
        assert_eq!(Fault::nova("TooManyDiskDevices", "m").code(), 403);
        assert_eq!(Fault::nova("BuildAbortException", "m").code(), 500);
        assert_eq!(Fault::nova("NovaException", "m").with("code", 409).code(), 409);
        assert_eq!(Fault::builtin("DiskNotFound", "m").code(), 500);
    }

    #[test]
    fn every_class_of_nova_s_has_its_code() {
        let golden: Map<String, Value> =
            serde_json::from_str(include_str!("../../tests/golden/exception_codes.json")).unwrap();
        for (class, code) in golden {
            assert_eq!(json!(code_of(&class)), code, "{class}");
        }
    }

    #[test]
    fn a_user_reads_nova_s_messages_and_of_others_the_class_only() {
        assert_eq!(Fault::libvirt("/secret/path").shown(), "libvirtError");
        assert_eq!(Fault::nova("NovaException", "why").shown(), "why");
        let long = Fault::nova("NovaException", "ü".repeat(200));
        assert_eq!(long.shown(), "ü".repeat(127));
    }

    #[test]
    fn a_traceback_reads_as_python_s() {
        let raised = Raised::new(Fault::libvirt("no"), "pause", "PauseDomain", 2);
        assert_eq!(
            raised.traceback(),
            "Traceback (most recent call last):\n  \
             File \"hypernova/pause\", line 2, in PauseDomain\nlibvirt.libvirtError: no\n"
        );
        let outer = raised.wrapped_in(Fault::nova("BuildAbortException", "aborted"));
        assert!(outer.traceback().contains("\nDuring handling of the above exception, another"));
        assert!(outer.traceback().ends_with("nova.exception.BuildAbortException: aborted\n"));
        assert_eq!(outer.frames().lines().count(), 1);
    }
}
