//! An XML document read into a tree that keeps everything: names with their prefixes, attributes,
//! text. What libvirt sends is checked for size and depth first, because a domain's XML can carry
//! anything a user managed to put there.

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};

/// Deeper than any domain or capability document; a parser's recursion must end somewhere.
const MAX_DEPTH: usize = 64;

/// A domain's XML is some 10 KiB, a host's capabilities some 100 KiB.
const MAX_BYTES: usize = 16 << 20;

/// An element as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// With its prefix: `nova:instance`.
    pub name: String,
    pub attributes: Vec<(String, String)>,
    /// The text between children, in one piece; white space alone counts as none.
    pub text: String,
    pub children: Vec<Node>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum XmlError {
    #[error("XML is not well-formed at byte {position}: {message}")]
    Malformed { position: u64, message: String },
    #[error("XML is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("XML is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("XML holds no element")]
    Empty,
}

impl Node {
    /// Reads one document. Comments, processing instructions and declarations are stepped over;
    /// entities other than XML's own five are refused.
    pub fn parse(xml: &str) -> Result<Self, XmlError> {
        if xml.len() > MAX_BYTES {
            return Err(XmlError::TooLarge);
        }
        let mut reader = Reader::from_str(xml);
        let mut open: Vec<Node> = Vec::new();
        let mut root = None;
        loop {
            let event = reader.read_event();
            let position = reader.buffer_position();
            let malformed = |message: String| XmlError::Malformed { position, message };
            let closed = match event.map_err(|e| malformed(e.to_string()))? {
                Event::Start(start) => {
                    if open.len() >= MAX_DEPTH {
                        return Err(XmlError::TooDeep);
                    }
                    open.push(Self::from_start(&start).map_err(malformed)?);
                    None
                }
                Event::Empty(start) => Some(Self::from_start(&start).map_err(malformed)?),
                Event::End(_) => open.pop(),
                Event::Text(text) => {
                    add_text(&mut open, &text.xml10_content()).map_err(malformed)?;
                    None
                }
                Event::CData(data) => {
                    add_text(&mut open, &data.xml10_content()).map_err(malformed)?;
                    None
                }
                Event::GeneralRef(reference) => {
                    let resolved = match reference.resolve_char_ref() {
                        Ok(Some(c)) => c.to_string(),
                        Ok(None) => resolve_predefined_entity(&reference)
                            .ok_or_else(|| malformed("unknown entity".into()))?
                            .to_owned(),
                        Err(error) => return Err(malformed(error.to_string())),
                    };
                    add_text(&mut open, &resolved).map_err(malformed)?;
                    None
                }
                Event::Eof => break,
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => None,
            };
            if let Some(mut node) = closed {
                if node.text.trim().is_empty() && !node.children.is_empty() {
                    node.text.clear();
                }
                match (open.last_mut(), &root) {
                    (Some(parent), _) => parent.children.push(node),
                    (None, None) => root = Some(node),
                    (None, Some(_)) => {
                        return Err(malformed("a second document follows the first".into()));
                    }
                }
            }
        }
        if !open.is_empty() {
            return Err(XmlError::Malformed {
                position: reader.buffer_position(),
                message: "an element is never closed".into(),
            });
        }
        root.ok_or(XmlError::Empty)
    }

    fn from_start(start: &BytesStart<'_>) -> Result<Self, String> {
        let mut node = Node { name: start.name().0.to_owned(), ..Node::default() };
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|e| e.to_string())?;
            let value =
                attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|e| e.to_string())?;
            node.attributes.push((attribute.key.0.to_owned(), value.into_owned()));
        }
        Ok(node)
    }

    /// The value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first child of that name, prefix included.
    pub fn child(&self, name: &str) -> Option<&Node> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The element at the end of a path of names below this one, such as `["os", "loader"]`.
    pub fn find(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, name| node.child(name))
    }

    /// Every child of that name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Node> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// Text of the child of that name.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.trim())
    }
}

fn add_text(open: &mut [Node], text: &str) -> Result<(), String> {
    match open.last_mut() {
        Some(node) => node.text.push_str(text),
        None if text.trim().is_empty() => {}
        None => return Err("text outside the root element".into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_text_and_entities_are_read() {
        let node =
            Node::parse("<?xml version='1.0'?><a b='&lt;&#x41;'>x&amp;<![CDATA[<y>]]><c/></a>")
                .unwrap();
        assert_eq!(node.attribute("b"), Some("<A"));
        assert_eq!(node.text, "x&<y>");
        assert_eq!(node.children[0].name, "c");
    }

    #[test]
    fn what_is_not_one_well_formed_document_is_refused() {
        for xml in
            ["", "  ", "<a>", "<a></b>", "<a/><b/>", "<a>&nbsp;</a>", "x<a/>", "<a b='1' b='2'/>"]
        {
            assert!(Node::parse(xml).is_err(), "{xml:?}");
        }
        assert_eq!(Node::parse(&"<a>".repeat(1000)), Err(XmlError::TooDeep));
    }
}
