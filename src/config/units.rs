//! Bytes, durations and counts as people write and read them: `16 MiB`, `500 ms`, `1 node`.

use std::time::Duration;

/// A text that is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No whole number in front.
    #[error("`{0}` does not begin with a whole number: {1}")]
    Number(String, &'static str),
    /// A number and nothing else.
    #[error("`{0}` has no unit: {1}")]
    NoUnit(String, &'static str),
    /// A unit that is not among those of its kind.
    #[error("`{0}` has an unknown unit: {1}")]
    UnknownUnit(String, &'static str),
    /// Beyond what 64 bits count.
    #[error("`{0}` is too large: {1}")]
    Range(String, &'static str),
}

const BYTES: &str = "write an integer with B, KiB, MiB, GiB or TiB, such as \"16 MiB\"";
const DURATIONS: &str = "write an integer with us, ms, s, min or h, such as \"500 ms\"";

/// Number and unit of a text, both trimmed.
fn split<'t>(text: &'t str, help: &'static str) -> Result<(u64, &'t str), UnitError> {
    let shown = || text.chars().take(32).flat_map(char::escape_default).collect::<String>();
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'_').count();
    let (number, unit) = trimmed.split_at(digits);
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(UnitError::Number(shown(), help));
    }
    let number = number.replace('_', "").parse().map_err(|_| UnitError::Range(shown(), help))?;
    Ok((number, unit.trim()))
}

fn amount(text: &str, units: &[(&str, u64)], help: &'static str) -> Result<u64, UnitError> {
    let (number, unit) = split(text, help)?;
    let shown = || text.chars().take(32).flat_map(char::escape_default).collect::<String>();
    let factor = units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let unknown = if unit.is_empty() { UnitError::NoUnit } else { UnitError::UnknownUnit };
    let factor = factor.ok_or_else(|| unknown(shown(), help))?;
    number.checked_mul(factor).ok_or_else(|| UnitError::Range(shown(), help))
}

/// `"16 MiB"` as bytes.
///
/// # Errors
/// [`UnitError`] says what to write.
pub fn parse_bytes(text: &str) -> Result<u64, UnitError> {
    amount(text, &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)], BYTES)
}

/// `"500 ms"` as a duration.
///
/// # Errors
/// [`UnitError`] says what to write.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let units =
        [("us", 1), ("µs", 1), ("ms", 1_000), ("s", 1_000_000), ("min", 60_000_000), ("h", 3_600_000_000)];
    amount(text, &units, DURATIONS).map(Duration::from_micros)
}

/// Bytes in the largest unit that shows them exactly, else rounded to three digits.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 5] =
        [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
    let (name, size) = UNITS.into_iter().find(|(_, size)| bytes >= *size).unwrap_or(("B", 1));
    if bytes.is_multiple_of(size) {
        return format!("{} {name}", bytes / size);
    }
    #[allow(clippy::cast_precision_loss)] // Three digits are shown.
    let value = bytes as f64 / size as f64;
    format!("{} {name}", three_digits(value))
}

/// A count of things: `1 node`, `2 nodes`.
#[must_use]
pub fn show_count(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// A duration with three digits in the unit that suits it.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let us = duration.as_secs_f64() * 1e6;
    let (value, name) = match us {
        us if us < 1e3 => (us, "us"),
        us if us < 1e6 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    format!("{} {name}", three_digits(value))
}

fn three_digits(value: f64) -> String {
    let shown = match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    };
    if shown.contains('.') { shown.trim_end_matches('0').trim_end_matches('.').to_owned() } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_with_their_units() {
        assert_eq!(parse_bytes("16 MiB"), Ok(16 << 20));
        assert_eq!(parse_bytes("1_024B"), Ok(1024));
        assert_eq!(parse_bytes("2 TiB"), Ok(2 << 40));
        assert_eq!(parse_duration("500 ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration(" 2min "), Ok(Duration::from_secs(120)));
        for bad in [
            "",
            "MiB",
            "-1 MiB",
            "16",
            "16 MB",
            "1.5 MiB",
            "99999999999999999999 B",
            "18446744073709551615 KiB",
        ] {
            let error = parse_bytes(bad).unwrap_err().to_string();
            assert!(error.contains(": write an integer with B, KiB"), "{error}");
        }
        let told = |text| parse_duration(text).unwrap_err().to_string();
        assert!(told("5").starts_with("`5` has no unit: write"), "{}", told("5"));
        assert!(told("5 hours").starts_with("`5 hours` has an unknown unit: write"), "{}", told("5 hours"));
    }

    #[test]
    fn amounts_are_shown_short() {
        assert_eq!(show_bytes(0), "0 B");
        assert_eq!(show_bytes(16 << 20), "16 MiB");
        assert_eq!(show_bytes(1 << 40), "1 TiB");
        assert_eq!(show_bytes(1536), "1.5 KiB");
        assert_eq!(show_bytes(1_048_577), "1 MiB");
        assert_eq!([0, 1, 2].map(|count| show_count(count, "node")), ["0 nodes", "1 node", "2 nodes"]);
        assert_eq!(show_duration(Duration::from_micros(420)), "420 us");
        assert_eq!(show_duration(Duration::from_micros(1_234)), "1.23 ms");
        assert_eq!(show_duration(Duration::from_secs(10)), "10 s");
    }
}
