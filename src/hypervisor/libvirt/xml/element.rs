//! A tree of XML elements and its text, in the layout of lxml's `pretty_print`, so that nova's own
//! output can be compared with ours line by line.
//!
//! Names of instances, images and extra specs come from users: characters that XML 1.0 can't hold
//! are dropped, the others escaped. lxml refuses such text, and nova with it the whole guest.

use quick_xml::Writer;
use quick_xml::events::attributes::Attribute;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};
use quick_xml::name::QName;

/// One element with its attributes and either text or children.
#[derive(Debug, Clone)]
pub struct Element {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    text: Option<String>,
    children: Vec<Element>,
}

impl Element {
    pub fn new(name: &'static str) -> Self {
        Self { name, attributes: Vec::new(), text: None, children: Vec::new() }
    }

    /// An element that holds only `text`.
    pub fn with_text(name: &'static str, text: impl ToString) -> Self {
        Self { text: Some(text.to_string()), ..Self::new(name) }
    }

    pub fn attr(mut self, name: &'static str, value: impl ToString) -> Self {
        self.attributes.push((name, value.to_string()));
        self
    }

    /// The attribute when there is a value, none otherwise.
    pub fn attr_if(self, name: &'static str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.attr(name, value),
            None => self,
        }
    }

    pub fn child(mut self, child: Element) -> Self {
        self.children.push(child);
        self
    }

    pub fn child_if(self, child: Option<Element>) -> Self {
        self.children(child)
    }

    pub fn children(mut self, children: impl IntoIterator<Item = Element>) -> Self {
        self.children.extend(children);
        self
    }

    pub fn push(&mut self, child: Element) {
        self.children.push(child);
    }

    pub fn has_attributes(&self) -> bool {
        !self.attributes.is_empty()
    }

    pub fn has_children(&self) -> bool {
        !self.children.is_empty()
    }

    /// The document, two spaces a level, with a newline at its end.
    pub fn to_document(&self) -> String {
        let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
        self.write(&mut writer).expect("writing to memory can't fail");
        let mut text = String::from_utf8(writer.into_inner()).expect("only text was written");
        text.push('\n');
        text
    }

    fn write(&self, writer: &mut Writer<Vec<u8>>) -> std::io::Result<()> {
        let mut start = BytesStart::new(self.name);
        for (name, value) in &self.attributes {
            let value = escape_attribute(value).into();
            start.push_attribute(Attribute { key: QName(name), value });
        }
        match (&self.text, self.children.is_empty()) {
            (Some(text), _) if !text.is_empty() => {
                writer.write_event(Event::Start(start))?;
                writer.write_event(Event::Text(BytesText::from_escaped(escape_text(text))))?;
                writer.write_event(Event::End(BytesEnd::new(self.name)))
            }
            // lxml writes <a></a> for empty text and <a/> for none: both mean the same.
            (Some(_), _) | (None, true) => writer.write_event(Event::Empty(start)),
            (None, false) => {
                writer.write_event(Event::Start(start))?;
                for child in &self.children {
                    child.write(writer)?;
                }
                writer.write_event(Event::End(BytesEnd::new(self.name)))
            }
        }
    }
}

/// Whether XML 1.0 can hold `c` at all, even escaped.
fn is_xml_character(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

fn escape_text(text: &str) -> String {
    escape(text, |c| match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        // A bare CR would come back as a newline.
        '\r' => Some("&#13;"),
        _ => None,
    })
}

fn escape_attribute(text: &str) -> String {
    escape(text, |c| match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '"' => Some("&quot;"),
        // White space in attributes comes back as a blank unless it is escaped.
        '\t' => Some("&#9;"),
        '\n' => Some("&#10;"),
        '\r' => Some("&#13;"),
        _ => None,
    })
}

fn escape(text: &str, entity: impl Fn(char) -> Option<&'static str>) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars().filter(|c| is_xml_character(*c)) {
        match entity(c) {
            Some(entity) => out.push_str(entity),
            None => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_are_escaped_and_control_characters_dropped() {
        let element = Element::new("a")
            .attr("b", "x\"<\n\u{0}\u{1b}y")
            .child(Element::with_text("c", "<&>\"\u{7}\u{fffe}é"))
            .child(Element::with_text("d", ""));
        assert_eq!(
            element.to_document(),
            "<a b=\"x&quot;&lt;&#10;y\">\n  <c>&lt;&amp;&gt;\"é</c>\n  <d/>\n</a>\n"
        );
    }
}
