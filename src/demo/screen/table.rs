//! The table: fixed columns, so that every row is as wide as every other.

use std::time::Duration;

use super::DcRow;

/// Width of every line of the table, terminal columns: 80 and one left over.
pub const COLUMNS: usize = 79;

/// Name of the datacenter, numbers, route.
const NAME: usize = 14;
const NUMBERS: [(&str, usize); 5] =
    [("logical MB/s", 12), ("wire MB/s", 9), ("saved %", 7), ("p50 ms", 7), ("p99 ms", 7)];
const ROUTE: usize = 16;

/// A heading and one line per datacenter, each [`COLUMNS`] wide, without line feeds. What does not fit is cut.
#[must_use]
pub fn table(rows: &[DcRow]) -> Vec<String> {
    let heading = line("datacenter", NUMBERS.map(|(title, _)| title.to_owned()), "route");
    let body = rows.iter().map(|row| {
        let numbers = [
            megabytes(Some(row.logical_bytes_per_s)),
            megabytes(row.wire_bytes_per_s),
            percent(row.saved_ratio()),
            millis(row.delivery_p50),
            millis(row.delivery_p99),
        ];
        line(&row.datacenter, numbers, &row.route)
    });
    std::iter::once(heading).chain(body).collect()
}

fn line(name: &str, numbers: [String; 5], route: &str) -> String {
    let mut line = fit(name, NAME);
    for (number, (_, width)) in numbers.iter().zip(NUMBERS) {
        // A cut number would be another number.
        let number = if number.len() > width { "#".repeat(width) } else { number.clone() };
        line.push_str(&format!(" {number:>width$}"));
    }
    line.push_str("  ");
    line.push_str(&fit(route, ROUTE));
    line
}

/// Exactly `width` columns: padded, or cut with a `~` at the end.
pub(super) fn fit(text: &str, width: usize) -> String {
    let text = printable(text);
    if text.len() <= width { format!("{text:<width$}") } else { format!("{}~", &text[..width - 1]) }
}

/// ASCII that is one column wide; anything else becomes `?`, so that no name can move the cursor.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// Decimal megabytes.
pub(super) fn megabytes(bytes: Option<f64>) -> String {
    bytes.map_or_else(nothing, |bytes| format!("{:.2}", bytes / 1e6))
}

pub(super) fn percent(ratio: Option<f64>) -> String {
    ratio.map_or_else(nothing, |ratio| format!("{:.1}", ratio * 100.0))
}

pub(super) fn millis(time: Option<Duration>) -> String {
    time.map_or_else(nothing, |time| format!("{:.1}", time.as_secs_f64() * 1e3))
}

fn nothing() -> String {
    "-".to_owned()
}
