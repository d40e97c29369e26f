//! Values as Python's `repr` prints them: unversioned notifications hold exceptions so.

use serde_json::{Map, Value};

use crate::model::fault::Fault;

/// `repr(value)`
pub fn repr(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => repr_text(text),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(repr).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(items) => repr_dict(items),
    }
}

/// `repr(exception)`: nova's own show what they are made of. nova: exception.py, `__repr__`
pub fn repr_fault(fault: &Fault) -> String {
    if !fault.is_nova() {
        return format!("{}({})", fault.class, repr_text(&fault.message));
    }
    let mut kwargs = (*fault.kwargs).clone();
    kwargs.entry("code").or_insert_with(|| fault.code().into());
    let mut made_of = Map::new();
    made_of.insert("kwargs".to_owned(), kwargs.into());
    made_of.insert("message".to_owned(), fault.message.clone().into());
    made_of.insert("class".to_owned(), fault.class.as_ref().into());
    repr_dict(&made_of)
}

fn repr_dict(items: &Map<String, Value>) -> String {
    let items: Vec<_> =
        items.iter().map(|(key, value)| format!("{}: {}", repr_text(key), repr(value))).collect();
    format!("{{{}}}", items.join(", "))
}

/// Single quotes, unless only the text has them.
fn repr_text(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if (c as u32) < 0x20 || c == '\u{7f}' => {
                out.push_str(&format!("\\x{:02x}", c as u32))
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_spelt_as_python_spells_them() {
        let value = json!({"a": [null, true, 1.5], "it's": "say \"it's\"\n", "b": "it's", "ü": {}});
        assert_eq!(
            repr(&value),
            r#"{'a': [None, True, 1.5], "it's": 'say "it\'s"\n', 'b': "it's", 'ü': {}}"#
        );
        assert_eq!(repr(&json!("\u{1}\\")), r"'\x01\\'");
    }

    #[test]
    fn an_exception_of_nova_s_shows_what_it_is_made_of() {
        let fault = Fault::nova("DiskNotFound", "No disk at /d").with("location", "/d");
        assert_eq!(
            repr_fault(&fault),
            "{'kwargs': {'location': '/d', 'code': 404}, 'message': 'No disk at /d', \
             'class': 'DiskNotFound'}"
        );
        assert_eq!(repr_fault(&Fault::libvirt("no")), "libvirtError('no')");
    }
}
