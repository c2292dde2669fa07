//! Aligned columns for people: texts to the left, numbers to the right.

use std::fmt;

/// How a column is aligned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows under a heading.
pub(super) struct Table {
    columns: Vec<(Align, &'static str)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: &[(Align, &'static str)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.columns.len(), "a cell per column");
        self.rows.push(cells);
    }
}

/// What stands between two columns.
const GAP: &str = "  ";

impl Table {
    /// So wide that it fits: without columns of these heads, one after the other, as far as it takes; what is wider still is
    /// cut off at the end of its lines.
    pub(super) fn within(mut self, width: Option<usize>, dispensable: &[&str]) -> String {
        let Some(width) = width else { return self.to_string() };
        for head in dispensable {
            if self.width() <= width {
                break;
            }
            if let Some(at) = self.columns.iter().position(|(_, of)| of == head) {
                self.columns.remove(at);
                self.rows.iter_mut().for_each(|row| drop(row.remove(at)));
            }
        }
        self.to_string().lines().map(|line| cut(line, width) + "\n").collect()
    }

    /// Characters of its longest line.
    pub(super) fn width(&self) -> usize {
        self.widths().iter().sum::<usize>() + GAP.len() * self.columns.len().saturating_sub(1)
    }

    fn widths(&self) -> Vec<usize> {
        let cells = |column: usize| self.rows.iter().map(move |row| row[column].chars().count());
        let heads = self.columns.iter().map(|(_, head)| head.chars().count()).enumerate();
        heads.map(|(column, head)| cells(column).fold(head, usize::max)).collect()
    }
}

/// A line of at most so many characters, with a sign where it goes on.
pub(super) fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars().take(width.saturating_sub(1)).chain(std::iter::once('…')).collect()
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads: Vec<String> = self.columns.iter().map(|(_, head)| (*head).to_owned()).collect();
        let widths = self.widths();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let cells =
                row.iter().zip(&self.columns).zip(&widths).map(|((cell, (align, _)), width)| match align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Right => format!("{cell:>width$}"),
                });
            writeln!(f, "{}", cells.collect::<Vec<_>>().join(GAP).trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_blanks() {
        let mut table = Table::new(&[(Align::Left, "node"), (Align::Right, "count"), (Align::Left, "why")]);
        table.row(vec!["eu-m1".to_owned(), "7".to_owned(), String::new()]);
        table.row(vec!["é".to_owned(), "12345678".to_owned(), "late".to_owned()]);
        let text = "node      count  why\neu-m1         7\né      12345678  late\n";
        assert_eq!(table.to_string(), text);
    }
}
