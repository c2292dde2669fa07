//! What clients asked and were told, and what a follower of the log was told; at the end the one is held against the other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::load::short;
use crate::client::{Entry, What as EntryKind};
use crate::consensus::history::{Done, NEVER, What, check};
use crate::consensus::key_value::Operation;

pub(super) type Shared = Arc<Mutex<Record>>;

pub(super) fn lock(record: &Shared) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Put { key: String, value: Bytes, if_index: Option<u64> },
    Read { key: String },
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Done(What),
    /// It was not done, for sure.
    Refused,
    Unknown,
}

/// An operation that was answered, by when that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) at: Duration,
    pub(super) took: Duration,
    pub(super) write: bool,
}

/// Everything that was seen from outside. Times are since its beginning.
#[derive(Debug)]
pub(super) struct Record {
    begun: Instant,
    closed: bool,
    history: Vec<Done>,
    /// In the order of their answers.
    pub(super) answered: Vec<Answered>,
    /// Puts of which nobody knows what became of them: when they were called, and what they would have put.
    unknown: Vec<(u64, Asked)>,
    /// Values of puts that were not done, as a node said.
    refused: Vec<Bytes>,
    /// Who changed a key last, as far as clients know.
    seen: BTreeMap<String, u64>,
    log: Log,
}

/// The log, as a follower was told.
#[derive(Debug, Default)]
struct Log {
    /// Each key's last change.
    changed: BTreeMap<String, u64>,
    /// By value: the entries that put it, and whether their condition held.
    puts: BTreeMap<Bytes, Vec<(u64, bool)>>,
    last: Option<u64>,
    gaps: u64,
}

/// What contradicts what; all 0 and none where nothing does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Acknowledged, and not in the log where it should be.
    pub(super) lost: u64,
    /// In the log more than once.
    pub(super) twice: u64,
    /// Done, although a client was told that it was not.
    pub(super) misreported: u64,
    /// Indexes that a follower of the log was told out of order, or not at all.
    pub(super) gaps: u64,
    /// Why what clients saw is not linearizable.
    pub(super) contradiction: Option<String>,
}

impl Record {
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            closed: false,
            history: Vec::new(),
            answered: Vec::new(),
            unknown: Vec::new(),
            refused: Vec::new(),
            seen: BTreeMap::new(),
            log: Log::default(),
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// From now on nothing is asked any more.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// When an operation begins; none after the end.
    pub(super) fn call(&self) -> Option<Duration> {
        (!self.closed).then(|| self.now())
    }

    /// Who changed a key last, as far as a client can know; 0: nobody.
    pub(super) fn seen(&self, key: &str) -> u64 {
        self.seen.get(key).copied().unwrap_or(0)
    }

    pub(super) fn answer(&mut self, asked: Asked, called: Duration, told: Told) {
        let now = self.now();
        self.answer_at(asked, called, now, told);
    }

    fn answer_at(&mut self, asked: Asked, called: Duration, at: Duration, told: Told) {
        let write = matches!(asked, Asked::Put { .. });
        match (asked, told) {
            (Asked::Put { key, .. } | Asked::Read { key }, Told::Done(what)) => {
                let (What::Put { index, .. }
                | What::Conflict { mod_index: index, .. }
                | What::Read { mod_index: index, .. }) = &what;
                let seen = self.seen.entry(key.clone()).or_default();
                *seen = (*seen).max(*index);
                self.history.push(Done { key, called: micros(called), answered: micros(at), what });
                self.answered.push(Answered { at, took: at.saturating_sub(called), write });
            }
            (Asked::Put { value, .. }, Told::Refused) => self.refused.push(value),
            (asked @ Asked::Put { .. }, Told::Unknown) => self.unknown.push((micros(called), asked)),
            (Asked::Read { .. }, Told::Refused | Told::Unknown) => {}
        }
    }

    /// The next entry of the log.
    pub(super) fn entry(&mut self, entry: &Entry) {
        let EntryKind::Operation { operation, .. } = &entry.what else { return self.log.passed(entry.index) };
        if let Ok(Operation::Put { key, value, if_index }) = Operation::decode(operation) {
            self.log.put(key, short(&value), if_index, entry.index);
        }
        self.log.passed(entry.index);
    }

    /// The last entry that the follower was told.
    pub(super) fn followed(&self) -> Option<u64> {
        self.log.last
    }

    /// How many puts were acknowledged.
    pub(super) fn written(&self) -> u64 {
        self.history.iter().filter(|done| matches!(done.what, What::Put { .. })).count() as u64
    }

    /// How many puts nobody knows about, and how many were refused.
    pub(super) fn open(&self) -> (u64, u64) {
        (self.unknown.len() as u64, self.refused.len() as u64)
    }

    /// Once the log was followed to its end.
    pub(super) fn verdict(&self) -> Verdict {
        let puts = |value: &Bytes| self.log.puts.get(value).map_or(&[][..], Vec::as_slice);
        let is_lost = |done: &&Done| match &done.what {
            What::Put { value, index, .. } => !puts(value).contains(&(*index, true)),
            What::Conflict { .. } | What::Read { .. } => false,
        };
        let was_done = |value: &&Bytes| puts(value).iter().any(|(_, done)| *done);
        let mut history = self.history.clone();
        for (called, asked) in &self.unknown {
            let Asked::Put { key, value, if_index } = asked else { continue };
            for (index, _) in puts(value).iter().filter(|(_, done)| *done) {
                let what = What::Put { value: value.clone(), if_index: *if_index, index: *index };
                history.push(Done { key: key.clone(), called: *called, answered: NEVER, what });
            }
        }
        Verdict {
            lost: self.history.iter().filter(is_lost).count() as u64,
            twice: self.log.puts.values().filter(|puts| puts.len() > 1).count() as u64,
            misreported: self.refused.iter().filter(was_done).count() as u64,
            gaps: self.log.gaps,
            contradiction: check(&history).err(),
        }
    }
}

impl Log {
    fn put(&mut self, key: String, value: Bytes, if_index: Option<u64>, index: u64) {
        let last = self.changed.get(&key).copied().unwrap_or(0);
        let done = if_index.is_none_or(|if_index| if_index == last);
        if done {
            self.changed.insert(key, index);
        }
        self.puts.entry(value).or_default().push((index, done));
    }

    fn passed(&mut self, index: u64) {
        if self.last.is_some_and(|last| index != last + 1) {
            self.gaps += 1;
        }
        self.last = Some(index);
    }
}

fn micros(at: Duration) -> u64 {
    u64::try_from(at.as_micros()).unwrap_or(NEVER - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value: &'static str, if_index: Option<u64>) -> Asked {
        Asked::Put { key: "key".to_owned(), value: Bytes::from_static(value.as_bytes()), if_index }
    }

    fn done(value: &'static str, if_index: Option<u64>, index: u64) -> Told {
        Told::Done(What::Put { value: Bytes::from_static(value.as_bytes()), if_index, index })
    }

    fn entry(index: u64, value: &'static str, if_index: Option<u64>) -> Entry {
        let operation =
            Operation::Put { key: "key".to_owned(), value: Bytes::from_static(value.as_bytes()), if_index };
        let what = EntryKind::Operation { request: None, operation: operation.encode(), outcome: None };
        Entry { index, term: 1, what, line: String::new() }
    }

    fn record(answers: Vec<(Asked, u64, u64, Told)>, log: Vec<Entry>) -> Record {
        let mut record = Record::new();
        for (asked, called, at, told) in answers {
            record.answer_at(asked, Duration::from_millis(called), Duration::from_millis(at), told);
        }
        log.iter().for_each(|entry| record.entry(entry));
        record
    }

    #[test]
    fn what_is_as_it_should_be_is_not_complained_of() {
        let read = Told::Done(What::Read { value: Some(Bytes::from_static(b"b")), mod_index: 6 });
        let answers = vec![
            (put("a", None), 0, 1, done("a", None, 5)),
            // Nobody knew, and it was done: what was read says so.
            (put("b", Some(5)), 2, 3, Told::Unknown),
            (Asked::Read { key: "key".to_owned() }, 4, 5, read),
            // Nobody knew, and it was not done, as its condition did not hold.
            (put("c", Some(5)), 4, 5, Told::Unknown),
            (put("d", None), 4, 5, Told::Refused),
        ];
        let log = vec![entry(5, "a", None), entry(6, "b random", Some(5)), entry(7, "c", Some(5))];
        let record = record(answers, log);
        assert_eq!(record.verdict(), Verdict::default());
        assert_eq!((record.open(), record.followed(), record.seen("key")), ((2, 1), Some(7), 6));
    }

    #[test]
    fn whatever_is_wrong_is_found() {
        let acknowledged = || vec![(put("a", None), 0, 1, done("a", None, 5))];
        let of = |answers, log| record(answers, log).verdict();
        assert_eq!(of(acknowledged(), vec![entry(5, "b", None)]).lost, 1);
        assert_eq!(of(acknowledged(), vec![entry(6, "a", None)]).lost, 1, "at another place");
        assert_eq!(
            of(acknowledged(), vec![entry(5, "a", Some(3))]).lost,
            1,
            "and its condition did not hold"
        );
        let verdict = of(acknowledged(), vec![entry(5, "a", None), entry(6, "a", None)]);
        assert_eq!((verdict.lost, verdict.twice), (0, 1));
        let refused = vec![(put("a", None), 0, 1, Told::Refused)];
        assert_eq!(of(refused, vec![entry(5, "a", None)]).misreported, 1);
        assert_eq!(of(vec![], vec![entry(5, "a", None), entry(7, "b", None)]).gaps, 1);
        let stale = Told::Done(What::Read { value: None, mod_index: 0 });
        let mut answers = acknowledged();
        answers.push((Asked::Read { key: "key".to_owned() }, 2, 3, stale));
        assert!(of(answers, vec![entry(5, "a", None)]).contradiction.is_some());
    }
}
