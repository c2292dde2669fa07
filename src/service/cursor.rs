//! One follower of the log: where it is, and what it gets next.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;

use super::chunk::{Chunk, Format, event};
use super::ring::Found;
use super::snapshot;

/// What all followers of a node are held to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of the log's newest part that is in memory as text, for all of them together, B.
    pub shared_bytes: usize,
    /// One that takes nothing for so long, while more than `behind_bytes` wait for it, is told so and let go of.
    pub patience: Duration,
    /// See `patience`. At most `shared_bytes`: more is not counted.
    pub behind_bytes: usize,
    /// Who is told a snapshot at one time. `patience` holds for each of its pages.
    pub snapshots_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            shared_bytes: 4 << 20,
            patience: Duration::from_secs(10),
            behind_bytes: 1 << 20,
            snapshots_max: 64,
        }
    }
}

/// A follower.
#[derive(Debug)]
pub(super) struct Cursor {
    /// The index that it gets next.
    next: u64,
    format: Format,
    prefix: Option<String>,
    progress: Option<Duration>,
    /// When it was given something that it has not asked to be followed by more.
    given: Option<Instant>,
    /// When it was given something last, or began.
    spoken: Instant,
}

/// What to do for a follower.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Give it this.
    Give(Bytes),
    /// Read the log from its index on, and call [`Cursor::take`].
    Read,
    /// Nothing for it was in there: look again.
    Again,
    /// Wait for entries, or until then.
    Wait(Option<Instant>),
    /// It does not take what is there: tell it, and let go of it.
    LetGo,
}

impl Cursor {
    pub(super) fn new(
        next: u64,
        format: Format,
        prefix: Option<String>,
        progress: Option<Duration>,
        now: Instant,
    ) -> Self {
        Self { next, format, prefix, progress, given: None, spoken: now }
    }

    /// The index that it gets next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// It asks for more. `found` is where its index is, `behind` how many bytes wait for it.
    pub(super) fn step(&mut self, found: &Found, behind: usize, limits: &Limits, now: Instant) -> Step {
        if let Some(given) = self.given.take()
            && now.saturating_duration_since(given) >= limits.patience
            && behind > limits.behind_bytes
        {
            return Step::LetGo;
        }
        match found {
            Found::Older => Step::Read,
            Found::Here(chunk) => self.take(chunk, now),
            // An index that is far ahead says nothing of what is there.
            Found::Later { end } => match self.mark(self.next.min(*end), now) {
                Some(mark) => mark,
                None => Step::Wait(self.progress.map(|progress| self.spoken + progress)),
            },
        }
    }

    /// It gets what a chunk has for it. The chunk holds its index.
    pub(super) fn take(&mut self, chunk: &Chunk, now: Instant) -> Step {
        let text = chunk.text(self.next, self.format, self.prefix.as_deref());
        self.next = self.next.max(chunk.end());
        if text.is_empty() { self.mark(self.next, now).unwrap_or(Step::Again) } else { self.give(text, now) }
    }

    /// How far it has come, where nothing was for it for long enough: all before `end`.
    fn mark(&mut self, end: u64, now: Instant) -> Option<Step> {
        let due =
            self.progress.is_some_and(|progress| now.saturating_duration_since(self.spoken) >= progress);
        let seen = end.checked_sub(1).filter(|_| due)?;
        let line = json!({ "progress": seen }).to_string();
        Some(self.give(self.written("progress", Some(seen), &line), now))
    }

    fn give(&mut self, text: Bytes, now: Instant) -> Step {
        (self.given, self.spoken) = (Some(now), now);
        Step::Give(text)
    }

    /// Its last words: why it ends. As an event they have no id: what a browser resumes after is the last entry.
    /// `first` is where the log begins, where it begins too late.
    pub(super) fn farewell(&self, code: &str, message: &str, first: Option<u64>) -> Bytes {
        let mut line = json!({ "code": code, "message": message, "index": self.next });
        if let Some(first) = first {
            line["first"] = first.into();
            line["snapshot"] = snapshot::PATH.into();
        }
        self.written("end", None, &line.to_string())
    }

    fn written(&self, kind: &str, id: Option<u64>, line: &str) -> Bytes {
        match self.format {
            Format::Lines => format!("{line}\n").into(),
            Format::Events => event(kind, id, line).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::chunk::tests::{chunk, indexes};
    use super::super::ring::Ring;
    use super::*;

    const LIMITS: Limits = Limits {
        shared_bytes: 1 << 20,
        patience: Duration::from_secs(10),
        behind_bytes: 1_000,
        snapshots_max: 0,
    };

    fn cursor(next: u64, prefix: Option<&str>, progress: Option<u64>, now: Instant) -> Cursor {
        let progress = progress.map(Duration::from_secs);
        Cursor::new(next, Format::Lines, prefix.map(str::to_owned), progress, now)
    }

    fn step(cursor: &mut Cursor, ring: &Ring, now: Instant) -> Step {
        cursor.step(&ring.find(cursor.next()), ring.bytes_from(cursor.next()), &LIMITS, now)
    }

    fn given(step: Step) -> Vec<u64> {
        let Step::Give(text) = step else { panic!("{step:?}") };
        indexes(&text)
    }

    /// Whatever the chunks, wherever it begins, and however often it falls behind: each entry once, in order, none left out.
    #[test]
    fn every_entry_comes_once_and_in_order_from_memory_or_from_the_log() {
        let (mut read, mut waited) = (0, 0);
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let now = Instant::now();
            let mut ring = Ring::new(random.usize(1..20_000));
            let (mut end, begin) = (random.u64(0..20), random.u64(0..40));
            ring.restart(end);
            let mut cursor = cursor(begin, None, None, now);
            let mut got = Vec::new();
            while got.len() < 100 {
                if random.bool() {
                    let grown = end + random.u64(1..6);
                    match random.u8(0..10) {
                        0 => ring.restart(grown),
                        // What comes next does not follow on what is there.
                        1 => {}
                        _ => ring.push(Arc::new(chunk(end..grown))),
                    }
                    end = grown;
                }
                match step(&mut cursor, &ring, now) {
                    Step::Give(text) => got.extend(indexes(&text)),
                    Step::Read => {
                        assert!(cursor.next() < end);
                        // It may bring more than was asked for, at both ends.
                        let first = cursor.next().saturating_sub(random.u64(0..3));
                        let chunk = chunk(first..end.min(cursor.next() + random.u64(1..9)));
                        let Step::Give(text) = cursor.take(&chunk, now) else { panic!("nothing given") };
                        got.extend(indexes(&text));
                        read += 1;
                    }
                    Step::Wait(None) => waited += 1,
                    other => panic!("{other:?}"),
                }
            }
            let expected: Vec<u64> = (begin..).take(got.len()).collect();
            assert_eq!(got, expected, "seed {seed}");
        }
        assert!(read > 100 && waited > 100, "both happen: {read}, {waited}");
    }

    #[test]
    fn one_that_takes_nothing_while_much_waits_is_let_go_of() {
        let (mut ring, begun) = (Ring::new(1 << 20), Instant::now());
        let after = |seconds| begun + Duration::from_secs(seconds);
        ring.push(Arc::new(chunk(0..1)));
        let mut slow = cursor(0, None, None, begun);
        assert_eq!(given(step(&mut slow, &ring, begun)), [0]);
        ring.push(Arc::new(chunk(1..2)));
        // Little waits for it: it may take its time.
        assert_eq!(given(step(&mut slow, &ring, after(60))), [1]);
        for index in 2..40 {
            ring.push(Arc::new(chunk(index..index + 1)));
        }
        assert!(ring.bytes_from(2) > LIMITS.behind_bytes);
        // Much waits, and it is in time.
        assert_eq!(given(step(&mut slow, &ring, after(69))), [2]);
        assert_eq!(step(&mut slow, &ring, after(79)), Step::LetGo);
        let words = slow.farewell("slow", "too slow", None);
        assert_eq!(words, "{\"code\":\"slow\",\"index\":3,\"message\":\"too slow\"}\n");

        // One that had nothing to take for long was not slow.
        let mut idle = cursor(40, None, None, begun);
        assert_eq!(step(&mut idle, &ring, begun), Step::Wait(None));
        for index in 40..80 {
            ring.push(Arc::new(chunk(index..index + 1)));
        }
        assert_eq!(given(step(&mut idle, &ring, after(600))), [40]);
    }

    #[test]
    fn marks_say_how_far_it_came_where_nothing_was_for_it() {
        let (mut ring, begun) = (Ring::new(1 << 20), Instant::now());
        let after = |seconds| begun + Duration::from_secs(seconds);
        let mut filtered = cursor(0, Some("a/"), Some(5), begun);
        // Before the first entry there is nothing to say.
        assert_eq!(step(&mut filtered, &ring, after(9)), Step::Wait(Some(after(5))));
        ring.push(Arc::new(chunk(0..1)));
        assert_eq!(given(step(&mut filtered, &ring, after(10))), [0]);
        ring.push(Arc::new(chunk(1..2)));
        assert_eq!(step(&mut filtered, &ring, after(11)), Step::Again);
        assert_eq!(step(&mut filtered, &ring, after(11)), Step::Wait(Some(after(15))));
        let mark = |seen: u64| Step::Give(format!("{{\"progress\":{seen}}}\n").into());
        assert_eq!(step(&mut filtered, &ring, after(15)), mark(1));
        assert_eq!(step(&mut filtered, &ring, after(16)), Step::Wait(Some(after(20))));
        // Also while others' entries come all the time.
        ring.push(Arc::new(chunk(2..3)));
        assert_eq!(given(step(&mut filtered, &ring, after(17))), [2]);
        ring.push(Arc::new(chunk(3..4)));
        assert_eq!(step(&mut filtered, &ring, after(22)), mark(3));
        let mut ahead = cursor(100, None, Some(5), begun);
        assert_eq!(step(&mut ahead, &ring, after(5)), mark(3), "what is not there was not seen");
        let mut events = Cursor::new(4, Format::Events, None, Some(Duration::from_secs(5)), begun);
        let Step::Give(text) = step(&mut events, &ring, after(5)) else { panic!() };
        assert_eq!(text, "event: progress\nid: 3\ndata: {\"progress\":3}\n\n");
        let words = events.farewell("compacted", "bye", Some(9));
        let expected = "event: end\ndata: {\"code\":\"compacted\",\"first\":9,\"index\":4,\"message\":\"bye\",\"snapshot\":\"/v1/snapshot\"}\n\n";
        assert_eq!(words, expected);
    }
}
