//! Some entries of the log as text, written once for all who follow it.

use std::sync::OnceLock;

use bytes::Bytes;

use super::json;
use crate::consensus::Committed;
use crate::consensus::command::Command;
use crate::consensus::key_value::Operation;

/// How a follower wants its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// A line of JSON each.
    Lines,
    /// A server-sent event each, whose id is the index, so that a browser resumes after it.
    Events,
}

/// Entries with consecutive indexes.
#[derive(Debug)]
pub(super) struct Chunk {
    first: u64,
    lines: Text,
    /// Only where somebody asks for them.
    events: OnceLock<Text>,
    /// Per entry the key that its operation is about, if it has one.
    keys: Vec<Option<Box<str>>>,
}

/// What entries are, one after the other.
#[derive(Debug)]
struct Text {
    bytes: Bytes,
    /// Per entry where it ends.
    ends: Vec<usize>,
}

impl Text {
    fn of(parts: impl Iterator<Item = String>) -> Self {
        let (mut text, mut ends) = (String::new(), Vec::new());
        for part in parts {
            text.push_str(&part);
            ends.push(text.len());
        }
        text.shrink_to_fit();
        Self { bytes: text.into(), ends }
    }

    fn start(&self, entry: usize) -> usize {
        entry.checked_sub(1).map_or(0, |before| self.ends[before])
    }
}

/// What an entry costs in memory besides its text, B, about.
const ENTRY_COSTS: usize = 32;
/// What a chunk costs besides that.
const CHUNK_COSTS: usize = 256;

impl Chunk {
    /// Of the entries of one read, in their order. `None` where there are none.
    pub(super) fn of(entries: &[Committed]) -> Option<Self> {
        let first = entries.first()?.id.index;
        let lines = Text::of(entries.iter().map(|entry| json::entry(entry).to_string() + "\n"));
        let keys = entries.iter().map(|entry| key(&entry.command).map(String::into_boxed_str)).collect();
        Some(Self { first, lines, events: OnceLock::new(), keys })
    }

    /// The index of its first entry.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// The index after its last entry.
    pub(super) fn end(&self) -> u64 {
        self.first + self.keys.len() as u64
    }

    /// What it costs in memory, B, about; as much again where somebody asks for events.
    pub(super) fn bytes(&self) -> usize {
        let keys: usize = self.keys.iter().flatten().map(|key| key.len()).sum();
        CHUNK_COSTS + keys + self.keys.len() * ENTRY_COSTS + self.lines.bytes.len()
    }

    /// The entries from an index on, as text: all of them, in memory that all followers share, or a copy of those whose
    /// operations are about keys that begin so. Empty where there are none.
    pub(super) fn text(&self, from: u64, format: Format, prefix: Option<&str>) -> Bytes {
        let text = match format {
            Format::Lines => &self.lines,
            Format::Events => self.events.get_or_init(|| self.as_events()),
        };
        let skipped = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        if skipped >= self.keys.len() {
            return Bytes::new();
        }
        let Some(prefix) = prefix else { return text.bytes.slice(text.start(skipped)..) };
        let mut wanted = Vec::new();
        for entry in skipped..self.keys.len() {
            if self.keys[entry].as_ref().is_some_and(|key| key.starts_with(prefix)) {
                wanted.extend_from_slice(&text.bytes[text.start(entry)..text.ends[entry]]);
            }
        }
        wanted.into()
    }

    fn as_events(&self) -> Text {
        Text::of(self.keys.iter().enumerate().map(|(entry, _)| {
            let line = &self.lines.bytes[self.lines.start(entry)..self.lines.ends[entry]];
            event("entry", Some(self.first + entry as u64), &String::from_utf8_lossy(line))
        }))
    }
}

/// A server-sent event: the kind is left out where it is an entry, which is what those that name none get.
pub(super) fn event(kind: &str, id: Option<u64>, line: &str) -> String {
    let mut out = String::new();
    if kind != "entry" {
        out.push_str(&format!("event: {kind}\n"));
    }
    if let Some(id) = id {
        out.push_str(&format!("id: {id}\n"));
    }
    out.push_str(&format!("data: {}\n\n", line.trim_end()));
    out
}

/// The key that an operation of the key-value machine is about.
fn key(command: &Command) -> Option<String> {
    let Command::Operation { body, .. } = command else { return None };
    match Operation::decode(body).ok()? {
        Operation::Put { key, .. } | Operation::Delete { key, .. } => Some(key),
    }
}

/// Entries for tests, of here and of what holds chunks.
#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::consensus::Outcome;
    use crate::storage::EntryId;

    /// A put of a key.
    pub(in crate::service) fn put(index: u64, key: &str) -> Committed {
        let value = Bytes::from(format!("value of {index}"));
        let body = Operation::Put { key: key.to_owned(), value, if_index: None }.encode();
        let command = Command::Operation { request: None, time: 0, body };
        let outcome = Some(Outcome::Applied(Bytes::from_static(b"\"done\"")));
        Committed { id: EntryId { term: 1, index }, command, outcome }
    }

    /// Puts of the keys `a/INDEX` where the index is even, else `b/INDEX`.
    pub(in crate::service) fn chunk(indexes: std::ops::Range<u64>) -> Chunk {
        let key = |index: u64| format!("{}/{index}", if index.is_multiple_of(2) { "a" } else { "b" });
        let entries: Vec<Committed> = indexes.map(|index| put(index, &key(index))).collect();
        Chunk::of(&entries).unwrap()
    }

    /// The indexes in lines, in their order.
    pub(in crate::service) fn indexes(lines: &[u8]) -> Vec<u64> {
        let lines = std::str::from_utf8(lines).unwrap().lines();
        let index = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["index"].as_u64();
        lines.map(|line| index(line).unwrap()).collect()
    }

    #[test]
    fn a_part_of_a_chunk_begins_where_it_is_asked_to_and_is_no_copy() {
        let chunk = chunk(7..12);
        assert_eq!((chunk.first(), chunk.end()), (7, 12));
        let all = chunk.text(7, Format::Lines, None);
        assert_eq!(indexes(&all), [7, 8, 9, 10, 11]);
        let part = chunk.text(10, Format::Lines, None);
        assert_eq!(indexes(&part), [10, 11]);
        assert_eq!(part.as_ptr_range().end, all.as_ptr_range().end, "the same memory");
        assert_eq!(indexes(&chunk.text(0, Format::Lines, None)).len(), 5);
        assert!(chunk.text(12, Format::Lines, None).is_empty());
        assert!(chunk.text(u64::MAX, Format::Lines, None).is_empty());
        assert!(Chunk::of(&[]).is_none());
    }

    #[test]
    fn only_operations_on_keys_that_begin_so_are_in_a_filtered_part() {
        let nothing =
            Committed { id: EntryId { term: 1, index: 4 }, command: Command::Nothing, outcome: None };
        let chunk = Chunk::of(&[put(2, "a/1"), put(3, "b/1"), nothing, put(5, "a"), put(6, "a/é")]).unwrap();
        let with = |prefix| indexes(&chunk.text(0, Format::Lines, Some(prefix)));
        assert_eq!(with("a/"), [2, 6]);
        assert_eq!(with(""), [2, 3, 5, 6]);
        assert_eq!(with("c"), [0; 0]);
        assert_eq!(indexes(&chunk.text(3, Format::Lines, Some("a"))), [5, 6]);
    }

    #[test]
    fn events_are_the_lines_with_their_index_as_their_id() {
        let chunk = chunk(3..5);
        let lines = String::from_utf8(chunk.text(3, Format::Lines, None).to_vec()).unwrap();
        let lines: Vec<&str> = lines.lines().collect();
        let events = String::from_utf8(chunk.text(3, Format::Events, None).to_vec()).unwrap();
        assert_eq!(events, format!("id: 3\ndata: {}\n\nid: 4\ndata: {}\n\n", lines[0], lines[1]));
        let later = String::from_utf8(chunk.text(4, Format::Events, Some("a/")).to_vec()).unwrap();
        assert_eq!(later, format!("id: 4\ndata: {}\n\n", lines[1]));
    }
}
