//! The built-in machine: keys and values, with compare-and-set.
//!
//! Operations are bytes, [`Operation::encode`]; answers are JSON, [`Answered`]. A condition is the index of the entry that must
//! have changed a key last, 0 where it must not be there.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::machine::StateMachine;

/// The longest key, B.
pub const KEY_BYTES_MAX: usize = 1_024;

/// What can be done with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It has this value from now on.
    Put {
        /// The key, at most [`KEY_BYTES_MAX`] bytes of text.
        key: String,
        /// The value.
        value: Bytes,
        /// Only if the entry of this index changed it last; 0: only if it is not there.
        if_index: Option<u64>,
    },
    /// It is not there from now on.
    Delete {
        /// The key.
        key: String,
        /// Likewise.
        if_index: Option<u64>,
    },
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answered {
    /// It was done.
    Done,
    /// The key was changed by another entry than was said; nothing was done.
    Conflict {
        /// Which one changed it last; 0 where it is not there.
        mod_index: u64,
    },
    /// It is no operation; nothing was done.
    Invalid {
        /// Why.
        why: String,
    },
}

/// A value, and the entry that put it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The value.
    pub bytes: Bytes,
    /// Index of the entry.
    pub mod_index: u64,
}

/// Keys and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// Shared with snapshots that are being written.
    map: Arc<BTreeMap<String, Value>>,
}

const PUT: u8 = 1;
const DELETE: u8 = 2;

impl Operation {
    /// As it is proposed: kind 1, whether there is a condition 1, zeros 2, key length 4, condition 8; then the key, then the
    /// value.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let none = Bytes::new();
        let (kind, key, value, if_index) = match self {
            Self::Put { key, value, if_index } => (PUT, key, value, if_index),
            Self::Delete { key, if_index } => (DELETE, key, &none, if_index),
        };
        let mut out = Vec::with_capacity(HEAD_BYTES + key.len() + value.len());
        out.extend_from_slice(&[kind, u8::from(if_index.is_some()), 0, 0]);
        // Longer ones are refused when they are applied.
        out.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&if_index.unwrap_or(0).to_le_bytes());
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(value);
        out.into()
    }

    /// Of what was proposed.
    ///
    /// # Errors
    ///
    /// Why it is none.
    pub fn decode(bytes: &Bytes) -> Result<Self, &'static str> {
        let head = bytes.first_chunk::<HEAD_BYTES>().ok_or("an operation has at least 16 B")?;
        let if_index = match head[1] {
            0 => None,
            1 => Some(u64::from_le_bytes(head[8..].try_into().expect("eight bytes"))),
            _ => return Err("whether there is a condition is 0 or 1"),
        };
        let key_bytes = u32::from_le_bytes(head[4..8].try_into().expect("four bytes")) as usize;
        let rest = bytes.slice(HEAD_BYTES..);
        if key_bytes > rest.len() {
            return Err("its key ends early");
        }
        if !(1..=KEY_BYTES_MAX).contains(&key_bytes) {
            return Err("a key has 1 to 1,024 B");
        }
        let key = std::str::from_utf8(&rest[..key_bytes]).map_err(|_| "a key is UTF-8 text")?.to_owned();
        let value = rest.slice(key_bytes..);
        match head[0] {
            PUT => Ok(Self::Put { key, value, if_index }),
            DELETE if value.is_empty() => Ok(Self::Delete { key, if_index }),
            _ => Err("it is neither put nor delete"),
        }
    }
}

const HEAD_BYTES: usize = 16;

impl KeyValue {
    /// What a key has.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Value> {
        self.map.get(key).cloned()
    }

    /// The keys that begin so, in their order, with what they have; where a key is given, only those behind it.
    pub fn pairs<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&str>,
    ) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let pairs = self.map.range::<str, _>((from, Bound::Unbounded));
        pairs.map(|(key, value)| (key.as_str(), value)).take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    fn answer(&mut self, id: u64, operation: &Bytes) -> Answered {
        let operation = match Operation::decode(operation) {
            Ok(operation) => operation,
            Err(why) => return Answered::Invalid { why: why.to_owned() },
        };
        let (Operation::Put { key, if_index, .. } | Operation::Delete { key, if_index }) = &operation;
        let mod_index = self.map.get(key).map_or(0, |value| value.mod_index);
        if if_index.is_some_and(|if_index| if_index != mod_index) {
            return Answered::Conflict { mod_index };
        }
        // A snapshot that is being written has the map as it was: then, and only then, this copies it.
        let map = Arc::make_mut(&mut self.map);
        match operation {
            Operation::Put { key, value, .. } => {
                // A slice of the log's buffer would keep all of that.
                let bytes = Bytes::copy_from_slice(&value);
                map.insert(key, Value { bytes, mod_index: id });
            }
            Operation::Delete { key, .. } => drop(map.remove(&key)),
        }
        Answered::Done
    }
}

impl StateMachine for KeyValue {
    fn apply(&mut self, id: u64, operation: Bytes) -> Bytes {
        serde_json::to_vec(&self.answer(id, &operation)).expect("an answer can be written as JSON").into()
    }

    fn snapshot(&self) -> io::Result<impl Read + Send + 'static> {
        Ok(Written {
            map: Arc::clone(&self.map),
            next: None,
            begun: false,
            record: io::Cursor::new(Vec::new()),
        })
    }

    fn restore(&mut self, from: impl Read) -> io::Result<()> {
        let mut from = io::BufReader::new(from);
        let mut map = BTreeMap::new();
        loop {
            let mut head = [0; 16];
            match from.read_exact(&mut head[..1]) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                read => read?,
            }
            from.read_exact(&mut head[1..])?;
            let field =
                |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes")) as usize;
            let (key, value) = (field(0), field(4));
            if key > KEY_BYTES_MAX || value > super::OPERATION_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a key or a value is too long"));
            }
            let (mut key, mut bytes) = (vec![0; key], vec![0; value]);
            from.read_exact(&mut key)?;
            from.read_exact(&mut bytes)?;
            let key = String::from_utf8(key)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a key is no text"))?;
            let mod_index = u64::from_le_bytes(head[8..].try_into().expect("eight bytes"));
            map.insert(key, Value { bytes: bytes.into(), mod_index });
        }
        self.map = Arc::new(map);
        Ok(())
    }
}

/// A map as bytes, one record after the other: key length 4, value length 4, index 8, key, value.
struct Written {
    map: Arc<BTreeMap<String, Value>>,
    /// The key that was written last.
    next: Option<String>,
    begun: bool,
    record: io::Cursor<Vec<u8>>,
}

impl Read for Written {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.record.position() == self.record.get_ref().len() as u64 {
            let from = match (&self.next, self.begun) {
                (Some(last), _) => Bound::Excluded(last.as_str()),
                (None, false) => Bound::Unbounded,
                (None, true) => return Ok(0),
            };
            self.begun = true;
            let next = self.map.range::<str, _>((from, Bound::Unbounded)).next();
            let Some((key, value)) = next else {
                self.next = None;
                return Ok(0);
            };
            let mut record = Vec::with_capacity(16 + key.len() + value.bytes.len());
            let length = |bytes: usize| u32::try_from(bytes).expect("keys and values are short");
            record.write_all(&length(key.len()).to_le_bytes())?;
            record.write_all(&length(value.bytes.len()).to_le_bytes())?;
            record.write_all(&value.mod_index.to_le_bytes())?;
            record.write_all(key.as_bytes())?;
            record.write_all(&value.bytes)?;
            self.next = Some(key.clone());
            self.record = io::Cursor::new(record);
        }
        self.record.read(into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &'static str, if_index: Option<u64>) -> Bytes {
        Operation::Put { key: key.to_owned(), value: Bytes::from_static(value.as_bytes()), if_index }.encode()
    }

    #[test]
    fn keys_change_only_from_what_was_said() {
        let mut machine = KeyValue::default();
        assert_eq!(machine.apply(3, put("a", "one", Some(0))), r#""done""#);
        assert_eq!(machine.apply(4, put("a", "two", Some(0))), r#"{"conflict":{"mod_index":3}}"#);
        assert_eq!(machine.apply(5, put("a", "two", Some(3))), r#""done""#);
        let delete = |if_index| Operation::Delete { key: "a".to_owned(), if_index }.encode();
        assert_eq!(machine.answer(6, &delete(Some(3))), Answered::Conflict { mod_index: 5 });
        assert_eq!(machine.get("a"), Some(Value { bytes: Bytes::from_static(b"two"), mod_index: 5 }));
        assert_eq!(machine.answer(7, &delete(None)), Answered::Done);
        assert_eq!(machine.get("a"), None);
        assert_eq!(machine.answer(8, &delete(Some(0))), Answered::Done);
    }

    #[test]
    fn pairs_are_those_that_begin_so_behind_a_key() {
        let mut machine = KeyValue::default();
        for (index, key) in (0..).zip(["a", "a/1", "a/2", "a/é", "b"]) {
            machine.apply(index, put(key, "x", None));
        }
        let keys = |prefix: &str, after| -> Vec<String> {
            machine.pairs(prefix, after).map(|(key, _)| key.to_owned()).collect()
        };
        assert_eq!(keys("", None), ["a", "a/1", "a/2", "a/é", "b"]);
        assert_eq!(keys("a/", None), ["a/1", "a/2", "a/é"]);
        assert_eq!(keys("a/", Some("a/1")), ["a/2", "a/é"]);
        assert_eq!(keys("a/", Some("a")), ["a/1", "a/2", "a/é"]);
        assert_eq!(keys("a/", Some("a/é")), [""; 0]);
        assert_eq!(keys("c", None), [""; 0]);
        assert_eq!(machine.pairs("b", None).next().unwrap().1.mod_index, 4);
    }

    #[test]
    fn what_is_no_operation_changes_nothing_and_is_told() {
        let mut machine = KeyValue::default();
        let long = "k".repeat(KEY_BYTES_MAX + 1);
        for bytes in [Bytes::new(), put("", "x", None), put(&long, "x", None), Bytes::from(vec![7; 40])] {
            let answer = machine.answer(1, &bytes);
            assert!(matches!(answer, Answered::Invalid { .. }), "{answer:?}");
        }
        assert!(machine.is_empty());
    }

    #[test]
    fn a_snapshot_has_what_was_there_when_it_was_taken() {
        let mut machine = KeyValue::default();
        for index in 0..1_000 {
            machine.apply(index, put(&format!("key {index}"), "value", None));
        }
        let before = machine.clone();
        let mut snapshot = machine.snapshot().unwrap();
        machine.apply(1_001, put("later", "x", None));
        let mut bytes = Vec::new();
        snapshot.read_to_end(&mut bytes).unwrap();
        let mut restored = KeyValue::default();
        restored.restore(&bytes[..]).unwrap();
        assert_eq!(restored, before);
        assert!(restored.restore(&bytes[..bytes.len() - 1]).is_err());
        let mut empty = Vec::new();
        KeyValue::default().snapshot().unwrap().read_to_end(&mut empty).unwrap();
        restored.restore(&empty[..]).unwrap();
        assert!(restored.is_empty());
    }
}
