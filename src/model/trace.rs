//! Traces: what a message's `traceparent` says, and the agent's own span in it.
//! W3C Trace Context, level 1.

use serde::{Deserialize, Serialize};

use super::context::RequestContext;

/// A message's context keeps it under this key, and so does every message made on its behalf.
const KEY: &str = "traceparent";

/// The agent's part of somebody's trace: lower-case hexadecimal ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// 32 digits.
    pub trace_id: String,
    /// 16 digits: this agent's work on the request.
    pub span_id: String,
    /// 16 digits: the span that the request came from.
    pub parent_span_id: String,
}

impl RequestContext {
    /// Continues the trace that the request came with: from now on the context names a span of this
    /// agent's. What makes no sense is not sent on.
    pub fn enter_span(&mut self) {
        let Some(parent) = self.rest.remove(KEY) else { return };
        let Some(parent) = parent.as_str().and_then(Parent::parse) else { return };
        let span_id = new_id();
        self.rest.insert(KEY.to_owned(), parent.child(&span_id).into());
        self.span = Some(Span {
            trace_id: parent.trace_id.to_owned(),
            span_id,
            parent_span_id: parent.span_id.to_owned(),
        });
    }

    /// The `traceparent` of a request made on behalf of this one: the same trace, and a span of its
    /// own. `None` when there is no trace.
    pub fn child_traceparent(&self) -> Option<String> {
        let parent = Parent::parse(self.rest.get(KEY)?.as_str()?)?;
        Some(parent.child(&new_id()))
    }

    pub fn trace_id(&self) -> Option<&str> {
        self.span.as_ref().map(|span| span.trace_id.as_str())
    }

    pub fn span_id(&self) -> Option<&str> {
        self.span.as_ref().map(|span| span.span_id.as_str())
    }

    pub fn parent_span_id(&self) -> Option<&str> {
        self.span.as_ref().map(|span| span.parent_span_id.as_str())
    }
}

struct Parent<'a> {
    trace_id: &'a str,
    span_id: &'a str,
    flags: &'a str,
}

impl<'a> Parent<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace_id, span_id, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_id = |text: &str, length| is_hex(text, length) && text.bytes().any(|b| b != b'0');
        let good = version == "00" && parts.next().is_none() && is_hex(flags, 2);
        (good && is_id(trace_id, 32) && is_id(span_id, 16)).then_some(Self {
            trace_id,
            span_id,
            flags,
        })
    }

    fn child(&self, span_id: &str) -> String {
        format!("00-{}-{span_id}-{}", self.trace_id, self.flags)
    }
}

fn new_id() -> String {
    format!("{:016x}", fastrand::u64(1..))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn context(traceparent: &str) -> RequestContext {
        let mut context = RequestContext::admin();
        context.rest.insert(KEY.to_owned(), json!(traceparent));
        context
    }

    #[test]
    fn a_trace_goes_on_with_a_span_of_our_own() {
        let mut context = context(PARENT);
        context.enter_span();
        let span = context.span.clone().unwrap();
        assert_eq!(span.trace_id, "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(span.parent_span_id, "b7ad6b7169203331");
        assert_eq!(context.rest[KEY], format!("00-{}-{}-01", span.trace_id, span.span_id));
        let child = context.child_traceparent().unwrap();
        assert!(
            child.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && child.ends_with("-01")
        );
        assert!(!child.contains(&span.span_id) && !child.contains(&span.parent_span_id));
    }

    #[test]
    fn without_a_trace_there_is_no_span() {
        let mut context = RequestContext::admin();
        context.enter_span();
        assert_eq!((context.span.clone(), context.child_traceparent()), (None, None));
        for text in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nX: y",
        ] {
            let mut context = self::context(text);
            assert_eq!(context.child_traceparent(), None, "{text:?}");
            context.enter_span();
            assert_eq!((context.span, context.rest.get(KEY)), (None, None), "{text:?}");
        }
    }
}
