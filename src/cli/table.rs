//! Tables of text: columns under their headings, two spaces between them, no lines drawn, so that
//! they read well and cut well.

use super::output::plain;

/// A column is never cut to fewer characters than this.
const LEAST: usize = 8;

/// Rows under headings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<const N: usize>(headings: [&'static str; N]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// A table without headings: names and their values.
    pub fn of_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let rows = pairs.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        Self { headings: Vec::new(), rows }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text. `width`: cut the widest columns until a line fits into as many characters.
    pub fn render(&self, width: Option<usize>) -> String {
        let headings =
            self.headings.iter().map(|heading| (*heading).to_owned()).collect::<Vec<_>>();
        let lines: Vec<Vec<String>> = (!headings.is_empty())
            .then_some(&headings)
            .into_iter()
            .chain(&self.rows)
            .map(|row| row.iter().map(|cell| plain(cell)).collect())
            .collect();
        let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
        let widest =
            |i: usize| lines.iter().filter_map(|row| row.get(i)).map(|c| columns_of(c)).max();
        let mut widths: Vec<usize> = (0..columns).map(|i| widest(i).unwrap_or(0)).collect();
        if let Some(width) = width {
            shrink(&mut widths, width);
        }
        let mut text = String::new();
        for row in &lines {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let cell = cut(cell, *width);
                line.push_str(&cell);
                line.push_str(&" ".repeat(width - columns_of(&cell) + 2));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Takes from the widest columns what doesn't fit.
fn shrink(widths: &mut [usize], width: usize) {
    let gaps = 2 * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > width {
        let Some(widest) = widths.iter_mut().max().filter(|widest| **widest > LEAST) else {
            return;
        };
        *widest -= 1;
    }
}

/// The cell, or its beginning and `…` when it is wider than `width`.
fn cut(cell: &str, width: usize) -> String {
    if columns_of(cell) <= width {
        return cell.to_owned();
    }
    let mut kept = String::new();
    let mut taken = 1;
    for c in cell.chars() {
        taken += columns_of_char(c);
        if taken > width {
            break;
        }
        kept.push(c);
    }
    kept.push('…');
    kept
}

/// How many columns of a terminal a text takes.
fn columns_of(text: &str) -> usize {
    text.chars().map(columns_of_char).sum()
}

/// Unicode: East Asian Width, in the ranges that matter, and combining marks.
fn columns_of_char(c: char) -> usize {
    match u32::from(c) {
        0x0300..=0x036F | 0x200B..=0x200F | 0x20D0..=0x20FF | 0xFE00..=0xFE0F => 0,
        0x1100..=0x115F
        | 0x2E80..=0xA4CF
        | 0xAC00..=0xD7A3
        | 0xF900..=0xFAFF
        | 0xFE30..=0xFE6F
        | 0xFF00..=0xFF60
        | 0xFFE0..=0xFFE6
        | 0x1F300..=0x1FAFF
        | 0x20000..=0x3FFFD => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["NAME", "STATE"]);
        table.row(["web".into(), "active".into()]);
        table.row(["数据库".into(), "building (spawning)".into()]);
        table
    }

    #[test]
    fn columns_stand_under_their_headings_also_with_wide_characters() {
        assert_eq!(
            table().render(None),
            "NAME    STATE\nweb     active\n数据库  building (spawning)\n"
        );
    }

    #[test]
    fn a_narrow_terminal_cuts_the_widest_column() {
        assert_eq!(table().render(Some(18)), "NAME    STATE\nweb     active\n数据库  building …\n");
    }

    #[test]
    fn cells_cant_break_the_lines() {
        let mut table = Table::new(["A", "B"]);
        table.row(["x\ny".into(), "\x1b[31m".into()]);
        assert_eq!(table.render(None), "A    B\nx y   [31m\n");
    }

    #[test]
    fn pairs_have_no_heading() {
        let table = Table::of_pairs([("name", "web".to_owned()), ("uuid", "1".to_owned())]);
        assert_eq!(table.render(None), "name  web\nuuid  1\n");
    }

    proptest! {
        #[test]
        fn every_row_is_one_line_within_the_width(
            cells in proptest::collection::vec(".{0,60}", 1..8), width in 30usize..100,
        ) {
            let mut table = Table::new(["A", "B", "C"]);
            for cell in &cells {
                table.row([cell.clone(), cell.clone(), "x".into()]);
            }
            let text = table.render(Some(width));
            prop_assert_eq!(text.matches('\n').count(), cells.len() + 1);
            for line in text.lines() {
                prop_assert!(columns_of(line) <= width, "{line:?}");
            }
        }
    }
}
