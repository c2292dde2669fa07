//! `[limits]`, `[timers]`, `[sockets]` and `[codec]`: one row per field of the mesh's settings, by the same name.

use std::time::Duration;

use trunkline_mesh::{Settings, SettingsError};

use super::field::{Field, HOUR, MINUTE, MS};
use super::reader::{Entry, Reader, Section};

/// What a field is called in its table, and the field.
type Key = (&'static str, Field<Settings>);

const LIMITS: [Key; 15] = [
    ("message_bytes_max", Field::Bytes(|s| &mut s.message_bytes_max)),
    ("frame_bytes_max", Field::Bytes(|s| &mut s.frame_bytes_max)),
    ("run_bytes_max", Field::Bytes(|s| &mut s.run_bytes_max)),
    ("destination_budget_bytes", Field::Bytes(|s| &mut s.destination_budget_bytes)),
    ("datacenter_budget_bytes", Field::Bytes(|s| &mut s.datacenter_budget_bytes)),
    ("process_budget_bytes", Field::Bytes(|s| &mut s.process_budget_bytes)),
    ("member_queue_bytes_max", Field::Bytes(|s| &mut s.member_queue_bytes_max)),
    ("proxy_queue_bytes_max", Field::Bytes(|s| &mut s.proxy_queue_bytes_max)),
    ("inbox_bytes_max", Field::Bytes(|s| &mut s.inbox_bytes_max)),
    ("reorder_bytes_max", Field::Bytes(|s| &mut s.reorder_bytes_max)),
    ("dials_per_second", Field::Rate(|s| &mut s.dials_per_second, 1_000_000)),
    ("resend_percent", Field::Rate(|s| &mut s.resend_percent, 100)),
    ("connections_max", Field::Count(|s| &mut s.connections_max, 2, 1_000_000)),
    ("handshakes_max", Field::Count(|s| &mut s.handshakes_max, 2, 1_000_000)),
    ("accepts_per_second", Field::Rate(|s| &mut s.accepts_per_second, 1_000_000)),
];

const TIMERS: [Key; 12] = [
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

const SOCKETS: [Key; 2] = [
    ("congestion_control", Field::Name(|s| &mut s.congestion_control)),
    ("socket_buffer_bytes", Field::Buffer(|s| &mut s.socket_buffer_bytes)),
];

const CODEC: [Key; 2] =
    [("second_stage", Field::Stage(|s| &mut s.second_stage)), ("echo", Field::Switch(|s| &mut s.echo))];

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
fn tables() -> [(&'static str, &'static [Key]); 4] {
    [("limits", &LIMITS), ("timers", &TIMERS), ("sockets", &SOCKETS), ("codec", &CODEC)]
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

#[cfg(test)]
mod tests {
    use super::super::field::{BYTES_MAX, STAGES};
    use super::*;

    #[test]
    fn every_default_is_in_its_range() {
        let mut settings = Settings::default();
        for (key, field) in tables().into_iter().flat_map(|(_, fields)| fields) {
            let in_range = match *field {
                Field::Bytes(place) => (1..=BYTES_MAX).contains(&(*place(&mut settings) as u64)),
                Field::Count(place, min, max) => (min..=max).contains(place(&mut settings)),
                Field::Long(place, min, max) => (min..=max).contains(place(&mut settings)),
                Field::Rate(place, max) => (1..=max).contains(place(&mut settings)),
                Field::Time(place, min, max) => (min..=max).contains(place(&mut settings)),
                Field::Stage(place) => STAGES.iter().any(|(_, stage)| stage == place(&mut settings)),
                Field::Buffer(place) => *place(&mut settings) == 0,
                Field::Switch(place) => *place(&mut settings),
                Field::Name(place) => place(&mut settings).is_empty(),
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
