//! One configuration file as text: sections, assignments, comments and continuation lines.
//!
//! The rules are those of oslo.config: iniparser.py, `BaseParser.parse`, which differ from other
//! INI dialects: an indented line continues the value above it (even when it looks like a
//! comment), a blank line ends the value, one pair of quotes around the first line goes, `:`
//! assigns as `=` does, and a name may be given more than once.

/// One `name = value` of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Normalised: `DEFAULT` as it is, anything else in lower case. oslo.config: cfg.py,
    /// `_normalize_group_name`. So `[default]` is a section of its own, as it is for nova.
    pub section: String,
    pub name: String,
    /// Continuation lines are joined by newlines.
    pub value: String,
    /// Counted from 1: the line of the name.
    pub line: usize,
}

/// Why a file can't be read as configuration, and where. It never quotes the line: that may hold
/// a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct SyntaxError {
    /// Counted from 1.
    pub line: usize,
    pub problem: &'static str,
}

/// What a file holds, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ini {
    pub assignments: Vec<Assignment>,
    /// The normalised names of its sections, empty ones too.
    pub sections: Vec<String>,
}

/// Reads a file's `text`.
///
/// # Errors
/// The first line that is no section, assignment, comment or continuation, or an assignment
/// before the first section.
pub fn parse(text: &str) -> Result<Ini, SyntaxError> {
    let mut ini = Ini::default();
    let mut section: Option<String> = None;
    // Whether the line before belongs to a value that may be continued.
    let mut open = false;
    for (line, content) in lines(text).enumerate().map(|(i, l)| (i + 1, l)) {
        let error = |problem| SyntaxError { line, problem };
        let content = content.trim_end_matches(is_space);
        if content.is_empty() {
            open = false;
        } else if content.starts_with([' ', '\t']) {
            match ini.assignments.last_mut() {
                Some(last) if open => {
                    last.value.push('\n');
                    last.value.push_str(content.trim_start_matches(is_space));
                }
                _ => return Err(error("a continuation line, with no value above to continue")),
            }
        } else if let Some(rest) = content.strip_prefix('[') {
            open = false;
            let Some(name) = rest.strip_suffix(']') else {
                return Err(error("a section must end with ']'"));
            };
            if name.is_empty() {
                return Err(error("a section without a name"));
            }
            let name = normalise_section(name);
            if !ini.sections.contains(&name) {
                ini.sections.push(name.clone());
            }
            section = Some(name);
        } else if content.starts_with(['#', ';']) {
            open = false;
        } else {
            let (name, value) = content
                .split_once([':', '='])
                .ok_or_else(|| error("neither '=' nor ':' in an assignment"))?;
            let name = name.trim_matches(is_space);
            if name.is_empty() {
                return Err(error("an assignment without a name"));
            }
            let section = section.clone().ok_or_else(|| error("no section before it"))?;
            let value = unquote(value.trim_matches(is_space)).to_owned();
            ini.assignments.push(Assignment { section, name: name.to_owned(), value, line });
            open = true;
        }
    }
    Ok(ini)
}

/// A section's name as options know it.
pub fn normalise_section(name: &str) -> String {
    if name == "DEFAULT" { name.to_owned() } else { name.to_lowercase() }
}

/// What Python's `str.strip` takes away.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Lines as Python's text files have them: a newline, a carriage return or both end one.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\n', '\r']) else {
            rest = None;
            return Some(text);
        };
        let terminator = if text[end..].starts_with("\r\n") { 2 } else { 1 };
        rest = Some(&text[end + terminator..]);
        Some(&text[..end])
    })
}

/// A lone quote is a pair to oslo.config: it leaves nothing.
fn unquote(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote) {
            return if rest.is_empty() { rest } else { rest.strip_suffix(quote).unwrap_or(value) };
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(text: &str) -> Vec<(String, String, String)> {
        let assignments = parse(text).unwrap().assignments;
        assignments.into_iter().map(|a| (a.section, a.name, a.value)).collect()
    }

    fn one(text: &str) -> String {
        values(&format!("[DEFAULT]\n{text}")).remove(0).2
    }

    #[test]
    fn an_indented_line_continues_the_value_even_when_it_looks_like_a_comment() {
        assert_eq!(one("a = 1\n  two \n\t# three\nb = 2"), "1\ntwo\n# three");
    }

    #[test]
    fn one_pair_of_quotes_goes() {
        assert_eq!(one("a = \" x \""), " x ");
        assert_eq!(one("a = ''x''"), "'x'");
        assert_eq!(one("a = \"x'"), "\"x'");
        assert_eq!(one("a = \""), "");
    }

    #[test]
    fn the_first_of_colon_and_equals_assigns() {
        assert_eq!(one("url = http://x"), "http://x");
        assert_eq!(one("url: a=b"), "a=b");
    }

    #[test]
    fn sections_are_in_lower_case_but_for_default() {
        let text = "[LibVirt]\na=1\n[DEFAULT]\nb=2\n[default]\nc=3";
        let sections: Vec<_> = values(text).into_iter().map(|v| v.0).collect();
        assert_eq!(sections, ["libvirt", "DEFAULT", "default"]);
    }

    #[test]
    fn carriage_returns_end_lines() {
        assert_eq!(values("[DEFAULT]\r\na=1\rb=2\r\n").len(), 2);
    }

    #[test]
    fn an_error_names_its_line_and_not_its_text() {
        for (text, line) in [
            ("[DEFAULT]\n\nhunter2", 3),
            ("[DEFAULT", 1),
            ("[]", 1),
            ("a = hunter2", 1),
            ("[x]\n= hunter2", 2),
            ("[x]\na = 1\n\n  hunter2", 4),
            ("[x]\n  hunter2", 2),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text:?}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(?s).{0,400}") {
            parse(&text).ok();
        }

        #[test]
        fn what_was_written_is_read_back(
            name in "[a-z][a-z_]{0,20}",
            value in "[a-zA-Z0-9/$][a-zA-Z0-9 =:#;/$]{0,30}[a-z]",
        ) {
            prop_assert_eq!(values(&format!("[s]\n{name} = {value}\n")),
                vec![("s".to_owned(), name, value)]);
        }
    }
}
