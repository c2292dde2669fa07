//! `[limits]`, `[timers]` and `[codec]`: one row per field of the mesh's settings, by the same name.

use std::time::Duration;

use trunkline_mesh::{Settings, SettingsError, Stage};

use super::reader::{Entry, Reader, Section};
use super::units::{parse_bytes, parse_duration, show_bytes, show_duration};

/// Where a value goes, and with it how it is written.
#[derive(Clone, Copy)]
enum Field {
    /// An integer of bytes, or a text such as `16 MiB`; from 1 to [`BYTES_MAX`].
    Bytes(fn(&mut Settings) -> &mut usize),
    /// A whole number from the first to the second.
    Count(fn(&mut Settings) -> &mut usize, usize, usize),
    /// A whole number from 1 to the given one.
    Rate(fn(&mut Settings) -> &mut u32, u32),
    /// A text such as `500 ms`; from the first to the second.
    Time(fn(&mut Settings) -> &mut Duration, Duration, Duration),
    /// One of [`STAGES`].
    Stage(fn(&mut Settings) -> &mut Stage),
}

const BYTES_MAX: u64 = 1 << 40;
const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

const STAGES: [(&str, Stage); 3] = [("none", Stage::None), ("lz4", Stage::Lz4), ("zstd", Stage::Zstd)];

const LIMITS: [(&str, Field); 14] = [
    ("message_bytes_max", Field::Bytes(|s| &mut s.message_bytes_max)),
    ("frame_bytes_max", Field::Bytes(|s| &mut s.frame_bytes_max)),
    ("run_bytes_max", Field::Bytes(|s| &mut s.run_bytes_max)),
    ("destination_budget_bytes", Field::Bytes(|s| &mut s.destination_budget_bytes)),
    ("datacenter_budget_bytes", Field::Bytes(|s| &mut s.datacenter_budget_bytes)),
    ("process_budget_bytes", Field::Bytes(|s| &mut s.process_budget_bytes)),
    ("member_queue_bytes_max", Field::Bytes(|s| &mut s.member_queue_bytes_max)),
    ("inbox_bytes_max", Field::Bytes(|s| &mut s.inbox_bytes_max)),
    ("reorder_bytes_max", Field::Bytes(|s| &mut s.reorder_bytes_max)),
    ("dials_per_second", Field::Rate(|s| &mut s.dials_per_second, 1_000_000)),
    ("resend_percent", Field::Rate(|s| &mut s.resend_percent, 100)),
    ("connections_max", Field::Count(|s| &mut s.connections_max, 2, 1_000_000)),
    ("handshakes_max", Field::Count(|s| &mut s.handshakes_max, 2, 1_000_000)),
    ("accepts_per_second", Field::Rate(|s| &mut s.accepts_per_second, 1_000_000)),
];

const TIMERS: [(&str, Field); 12] = [
    ("message_deadline", Field::Time(|s| &mut s.message_deadline, MS, HOUR)),
    ("handshake_timeout", Field::Time(|s| &mut s.handshake_timeout, MS, MINUTE)),
    ("ping_interval", Field::Time(|s| &mut s.ping_interval, MS, MINUTE)),
    ("silence_timeout", Field::Time(|s| &mut s.silence_timeout, MS, HOUR)),
    ("redial_min", Field::Time(|s| &mut s.redial_min, MS, MINUTE)),
    ("redial_max", Field::Time(|s| &mut s.redial_max, MS, HOUR)),
    ("attempt_timeout_min", Field::Time(|s| &mut s.attempt_timeout_min, MS, MINUTE)),
    ("attempt_timeout_max", Field::Time(|s| &mut s.attempt_timeout_max, MS, MINUTE)),
    ("snooze_min", Field::Time(|s| &mut s.snooze_min, MS, HOUR)),
    ("snooze_max", Field::Time(|s| &mut s.snooze_max, MS, HOUR)),
    ("ack_delay", Field::Time(|s| &mut s.ack_delay, Duration::ZERO, Duration::from_secs(1))),
    ("drain_timeout", Field::Time(|s| &mut s.drain_timeout, Duration::ZERO, MINUTE)),
];

const CODEC: [(&str, Field); 1] = [("second_stage", Field::Stage(|s| &mut s.second_stage))];

/// How the file says a stage.
pub(super) fn stage_name(stage: Stage) -> &'static str {
    STAGES.into_iter().find(|(_, of)| *of == stage).map_or("unknown", |(name, _)| name)
}

/// A line per field that differs.
pub(super) fn differences(before: &Settings, after: &Settings) -> Vec<String> {
    let (mut before, mut after) = (before.clone(), after.clone());
    let mut lines = Vec::new();
    for (table, fields) in tables() {
        for (key, field) in fields {
            let (old, new) = (field.show(&mut before), field.show(&mut after));
            if old != new {
                lines.push(format!("{table}.{key} {old} -> {new}"));
            }
        }
    }
    lines
}

/// Every field, by table.
fn tables() -> [(&'static str, &'static [(&'static str, Field)]); 3] {
    [("limits", &LIMITS), ("timers", &TIMERS), ("codec", &CODEC)]
}

/// All tables over the defaults, checked against each other. `None` only if something was reported.
pub(super) fn read(reader: &mut Reader<'_>, root: &Section<'_>) -> Option<Settings> {
    let mut settings = Settings::default();
    let mut given: Vec<(&str, Entry<'_>)> = Vec::new();
    // Those whose value is not known: nothing is said of how they relate to others.
    let mut unknown: Vec<&str> = Vec::new();
    let mut sound = true;
    for (table, fields) in tables() {
        let Some(section) = reader.section(root, table) else {
            sound &= root.get(table).is_none();
            continue;
        };
        reader.known_keys(&section, &fields.iter().map(|(key, _)| *key).collect::<Vec<_>>());
        for (key, field) in fields {
            let Some(entry) = section.get(key) else {
                if reader.is_misspelt(&section.missing(key)) {
                    unknown.push(key);
                }
                continue;
            };
            match field.read(reader, &entry, &mut settings) {
                Some(()) => given.push((key, entry)),
                None => unknown.push(key),
            }
        }
    }
    for error in settings.problems() {
        let compared: Vec<&str> = fields_of(error.rule).collect();
        let known = |field: &&str| !unknown.contains(field);
        if !known(&error.field) || !compared.iter().all(known) {
            continue;
        }
        sound = false;
        contradiction(reader, &given, &error, &compared);
    }
    (sound && unknown.is_empty()).then_some(settings)
}

/// The fields that a rule names.
fn fields_of(rule: &str) -> impl Iterator<Item = &'static str> {
    let words = rule.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let known = |word| tables().into_iter().flat_map(|(_, fields)| fields).find(|(key, _)| *key == word);
    words.filter_map(move |word| known(word).map(|(key, _)| *key))
}

/// Reports a broken rule at the entry it is about. The field may stand at its default; then one that it is compared with
/// was changed.
fn contradiction(
    reader: &mut Reader<'_>,
    given: &[(&str, Entry<'_>)],
    error: &SettingsError,
    compared: &[&str],
) {
    let SettingsError { field, rule } = error;
    let find = |wanted: &str| given.iter().find(|(key, _)| *key == wanted);
    if compared.is_empty() {
        let entry = find(field).map_or_else(|| Entry::at_start(field), |(_, entry)| entry.clone());
        return reader.report(&entry, "out of range", &format!("{field} {rule}"));
    }
    let (at, remedy) = match find(field) {
        Some(own) => (Some(own), format!("{field} {rule}: change one of them")),
        None => {
            let other = compared.iter().find_map(|other| find(other));
            let key = other.map_or("one", |(key, _)| *key);
            (other, format!("{field} {rule}: change {key}, or set {field}"))
        }
    };
    let entry = at.map_or_else(|| Entry::at_start(field), |(_, entry)| entry.clone());
    reader.report(&entry, "contradicts another limit", &remedy);
}

impl Field {
    /// A value as people write it.
    fn show(self, settings: &mut Settings) -> String {
        match self {
            Self::Bytes(place) => show_bytes(u64::try_from(*place(settings)).unwrap_or(u64::MAX)),
            Self::Count(place, ..) => place(settings).to_string(),
            Self::Rate(place, _) => place(settings).to_string(),
            Self::Time(place, ..) => show_duration(*place(settings)),
            Self::Stage(place) => stage_name(*place(settings)).to_owned(),
        }
    }

    /// Checks a value and puts it in its place; `None` after reporting.
    fn read(self, reader: &mut Reader<'_>, entry: &Entry<'_>, settings: &mut Settings) -> Option<()> {
        match self {
            Self::Bytes(place) => {
                let bytes = bytes(reader, entry)?;
                let bytes = usize::try_from(bytes).ok().filter(|_| (1..=BYTES_MAX).contains(&bytes));
                let remedy = || format!("use at least 1 B and at most {}", show_bytes(BYTES_MAX));
                *place(settings) = or_report(reader, entry, bytes, remedy)?;
            }
            Self::Count(place, min, max) => {
                let count = integer(reader, entry, "an integer such as 1024")?;
                let count = usize::try_from(count).ok().filter(|count| (min..=max).contains(count));
                *place(settings) =
                    or_report(reader, entry, count, || format!("use at least {min} and at most {max}"))?;
            }
            Self::Rate(place, max) => {
                let rate = integer(reader, entry, "an integer such as 200")?;
                let rate = u32::try_from(rate).ok().filter(|rate| (1..=max).contains(rate));
                *place(settings) =
                    or_report(reader, entry, rate, || format!("use at least 1 and at most {max}"))?;
            }
            Self::Time(place, min, max) => {
                let Some(text) = entry.value.and_then(|value| value.as_str()) else {
                    reader.wrong_type(entry, "a text with a unit such as \"500 ms\"");
                    return None;
                };
                let time = match parse_duration(text) {
                    Ok(time) => Some(time).filter(|time| (min..=max).contains(time)),
                    Err(error) => {
                        reader.report_error(entry, &error.to_string());
                        return None;
                    }
                };
                let remedy =
                    || format!("use at least {} and at most {}", show_duration(min), show_duration(max));
                *place(settings) = or_report(reader, entry, time, remedy)?;
            }
            Self::Stage(place) => {
                let Some(text) = entry.value.and_then(|value| value.as_str()) else {
                    reader.wrong_type(entry, "a text such as \"lz4\"");
                    return None;
                };
                let stage = STAGES.into_iter().find(|(name, _)| *name == text).map(|(_, stage)| stage);
                if stage.is_none() {
                    reader.report(entry, "unknown second stage", "use \"none\", \"lz4\" or \"zstd\"");
                }
                *place(settings) = stage?;
            }
        }
        Some(())
    }
}

fn or_report<T>(
    reader: &mut Reader<'_>,
    entry: &Entry<'_>,
    value: Option<T>,
    remedy: impl Fn() -> String,
) -> Option<T> {
    if value.is_none() {
        reader.report(entry, "out of range", &remedy());
    }
    value
}

fn bytes(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<u64> {
    let Some(text) = entry.value.and_then(|value| value.as_str()) else {
        return integer(reader, entry, "bytes as an integer, or a text with a unit such as \"16 MiB\"");
    };
    match parse_bytes(text) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            reader.report_error(entry, &error.to_string());
            None
        }
    }
}

/// Negative and overlong integers become one that is in no range.
fn integer(reader: &mut Reader<'_>, entry: &Entry<'_>, expected: &str) -> Option<u64> {
    let Some(integer) = entry.value.and_then(|value| value.as_integer()) else {
        reader.wrong_type(entry, expected);
        return None;
    };
    Some(u64::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_in_its_range() {
        let mut settings = Settings::default();
        for (key, field) in tables().into_iter().flat_map(|(_, fields)| fields) {
            let in_range = match *field {
                Field::Bytes(place) => (1..=BYTES_MAX).contains(&(*place(&mut settings) as u64)),
                Field::Count(place, min, max) => (min..=max).contains(place(&mut settings)),
                Field::Rate(place, max) => (1..=max).contains(place(&mut settings)),
                Field::Time(place, min, max) => (min..=max).contains(place(&mut settings)),
                Field::Stage(place) => STAGES.iter().any(|(_, stage)| stage == place(&mut settings)),
            };
            assert!(in_range, "{key}");
        }
    }

    #[test]
    fn no_field_that_a_rule_compares_with_is_overlooked() {
        let rule = "must be at least 16/15 of message_bytes_max + 256 B, and below ping_interval";
        assert_eq!(fields_of(rule).collect::<Vec<_>>(), ["message_bytes_max", "ping_interval"]);
        assert_eq!(fields_of("must be at most 1 GiB").count(), 0);
    }

    #[test]
    fn every_field_has_its_key() {
        // The debug form names all fields of the struct, so a new one cannot be forgotten here.
        let debug = format!("{:?}", Settings::default());
        let fields = debug.matches(": ").count();
        let known = || tables().into_iter().flat_map(|(_, fields)| fields);
        assert_eq!(fields, known().count());
        for (key, _) in known() {
            assert!(debug.contains(&format!("{key}: ")), "{key}");
        }
    }
}
