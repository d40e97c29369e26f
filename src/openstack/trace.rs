//! `traceparent`: which trace a request belongs to. W3C Trace Context, level 1.

use crate::model::context::RequestContext;

/// What a message's context says, for a request made on its behalf: the same trace, and a span of
/// our own. `None` when it says nothing, or nothing that makes sense.
pub fn parent(context: &RequestContext) -> Option<String> {
    let text = context.rest.get("traceparent")?.as_str()?;
    let [version, trace, span, flags] = *text.split('-').collect::<Vec<_>>() else { return None };
    let is_hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |text: &str, length| is_hex(text, length) && text.bytes().any(|b| b != b'0');
    let good = version == "00" && is_id(trace, 32) && is_id(span, 16) && is_hex(flags, 2);
    good.then(|| format!("00-{trace}-{:016x}-{flags}", fastrand::u64(1..)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(text: &str) -> Option<String> {
        let mut context = RequestContext::admin();
        context.rest.insert("traceparent".to_owned(), json!(text));
        parent(&context)
    }

    #[test]
    fn the_trace_goes_on_with_another_span() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let sent = of(text).unwrap();
        assert!(sent.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && sent.ends_with("-01"));
        assert!(sent != text && sent.len() == text.len());
        assert_eq!(parent(&RequestContext::admin()), None);
    }

    #[test]
    fn nonsense_is_not_sent_on() {
        for text in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nX: y",
        ] {
            assert_eq!(of(text), None, "{text:?}");
        }
    }
}
