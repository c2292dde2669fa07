//! `[consensus]`: how replicas behave.

use std::time::Duration;

use super::field::{Field, HOUR, MINUTE, MS};
use super::reader::{Reader, Section};
use crate::consensus::Timing;

const KEYS: [(&str, Field<Timing>); 4] = [
    ("heartbeat", Field::Time(|t| &mut t.heartbeat, MS, MINUTE)),
    ("election", Field::Time(|t| &mut t.election, MS, MINUTE)),
    ("patience", Field::Time(|t| &mut t.patience, MS, HOUR)),
    ("snapshot_entries", Field::Long(|t| &mut t.snapshot_entries, 1, 1 << 40)),
];

/// The table over the defaults. `None` only if something was reported.
pub(super) fn read(reader: &mut Reader<'_>, root: &Section<'_>) -> Option<Timing> {
    let mut timing = Timing::default();
    let Some(section) = reader.section(root, "consensus") else {
        return root.get("consensus").is_none().then_some(timing);
    };
    reader.known_keys(&section, &KEYS.map(|(key, _)| key));
    let mut sound = true;
    for (key, field) in KEYS {
        match section.get(key) {
            Some(entry) => sound &= field.read(reader, &entry, &mut timing).is_some(),
            None => sound &= !reader.is_misspelt(&section.missing(key)),
        }
    }
    if !sound {
        return None;
    }
    // Two heartbeats that are late must not be taken for a leader that is gone.
    let least = |span: Duration| span.saturating_mul(5);
    if timing.election < least(timing.heartbeat) {
        let (entry, remedy) = match (section.get("election"), section.get("heartbeat")) {
            (Some(entry), _) => (entry, "election must be at least five times heartbeat: change one of them"),
            (None, Some(entry)) => {
                (entry, "election must be at least five times heartbeat: set election too")
            }
            (None, None) => return Some(timing),
        };
        reader.report(&entry, "contradicts another time", remedy);
        return None;
    }
    Some(timing)
}

/// A key and both values per field that differs.
pub(super) fn differences(before: Timing, after: Timing) -> Vec<(&'static str, String, String)> {
    let (mut before, mut after) = (before, after);
    let shown = KEYS.map(|(key, field)| (key, field.show(&mut before), field.show(&mut after)));
    shown.into_iter().filter(|(_, before, after)| before != after).collect()
}
