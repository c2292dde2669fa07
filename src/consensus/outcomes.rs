//! What became of the newest operations, for whoever follows the log: it has what was proposed, and not what that did.
//!
//! Part of the replicated state, and decided from entries alone, so that every node says the same of an entry. Neighbours with the
//! same outcome are kept as one.

use std::collections::VecDeque;

use bytes::Bytes;

use super::session::Refusal;

/// Changes from one outcome to another that are kept. What is older is not known any longer.
pub(super) const CHANGES_MAX: usize = 65_536;
/// And bytes of answers in them.
pub(super) const BYTES_MAX: usize = 4 << 20;
/// A longer answer is not kept, B.
pub(super) const ANSWER_BYTES_MAX: usize = 1 << 10;

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The machine got it, and answered this.
    Applied(Bytes),
    /// It was applied by an earlier entry of its session, and nothing was done again.
    Repeated,
    /// It was not applied, for this reason.
    Refused(Refusal),
}

/// From an index on, until the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    first: u64,
    /// `None`: the answer is too long.
    outcome: Option<Outcome>,
}

/// Of all operations up to some index, as far back as there is room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcomes {
    changes: VecDeque<Change>,
    /// Of all answers.
    bytes: usize,
}

fn bytes_of(outcome: Option<&Outcome>) -> usize {
    match outcome {
        Some(Outcome::Applied(answer)) => answer.len(),
        _ => 0,
    }
}

impl Outcomes {
    /// Of the next operation.
    pub(super) fn push(&mut self, index: u64, outcome: Outcome) {
        let outcome = Some(outcome).filter(|outcome| bytes_of(Some(outcome)) <= ANSWER_BYTES_MAX);
        if self.changes.back().is_some_and(|last| last.outcome == outcome) {
            return;
        }
        let outcome = outcome.map(|outcome| match outcome {
            // A slice would keep what it is cut from.
            Outcome::Applied(answer) => Outcome::Applied(Bytes::copy_from_slice(&answer)),
            other => other,
        });
        self.bytes += bytes_of(outcome.as_ref());
        self.changes.push_back(Change { first: index, outcome });
        while self.changes.len() > CHANGES_MAX || self.bytes > BYTES_MAX {
            let oldest = self.changes.pop_front().and_then(|change| change.outcome);
            self.bytes -= bytes_of(oldest.as_ref());
        }
    }

    /// Of the operation at an index; `None` where that is not known any longer.
    pub(super) fn of(&self, index: u64) -> Option<Outcome> {
        let next = self.changes.partition_point(|change| change.first <= index);
        self.changes.get(next.checked_sub(1)?)?.outcome.clone()
    }

    /// As bytes, for a snapshot.
    ///
    /// ```text
    /// changes 8, then for each: first index 8; kind 8: 0 not kept, 1 applied, 2 repeated, 3 session expired, 4 answer forgotten;
    /// of 1 the answer's length 8 and the answer, of 4 its seq 8
    /// ```
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(8 + self.changes.len() * 24 + self.bytes);
        let put = |out: &mut Vec<u8>, value: u64| out.extend_from_slice(&value.to_le_bytes());
        put(&mut out, self.changes.len() as u64);
        for Change { first, outcome } in &self.changes {
            put(&mut out, *first);
            match outcome {
                None => put(&mut out, 0),
                Some(Outcome::Applied(answer)) => {
                    put(&mut out, 1);
                    put(&mut out, answer.len() as u64);
                    out.extend_from_slice(answer);
                }
                Some(Outcome::Repeated) => put(&mut out, 2),
                Some(Outcome::Refused(Refusal::SessionExpired)) => put(&mut out, 3),
                Some(Outcome::Refused(Refusal::AnswerForgotten { seq })) => {
                    put(&mut out, 4);
                    put(&mut out, *seq);
                }
            }
        }
        out.into()
    }

    /// Of what [`encode`](Self::encode) gave; of nothing, as an earlier version wrote, nothing is known. `None` where it is neither.
    pub(super) fn decode(mut from: &[u8]) -> Option<Self> {
        let mut outcomes = Self::default();
        if from.is_empty() {
            return Some(outcomes);
        }
        let number = |from: &mut &[u8]| {
            let (head, rest) = from.split_first_chunk::<8>()?;
            *from = rest;
            Some(u64::from_le_bytes(*head))
        };
        let count = number(&mut from).filter(|count| *count <= CHANGES_MAX as u64)?;
        for _ in 0..count {
            let first = number(&mut from)?;
            if outcomes.changes.back().is_some_and(|last| last.first >= first) {
                return None;
            }
            let outcome = match number(&mut from)? {
                0 => None,
                1 => {
                    let bytes = usize::try_from(number(&mut from)?).ok()?;
                    let (answer, rest) =
                        from.split_at_checked(bytes).filter(|_| bytes <= ANSWER_BYTES_MAX)?;
                    from = rest;
                    Some(Outcome::Applied(Bytes::copy_from_slice(answer)))
                }
                2 => Some(Outcome::Repeated),
                3 => Some(Outcome::Refused(Refusal::SessionExpired)),
                4 => Some(Outcome::Refused(Refusal::AnswerForgotten { seq: number(&mut from)? })),
                _ => return None,
            };
            outcomes.bytes += bytes_of(outcome.as_ref());
            outcomes.changes.push_back(Change { first, outcome });
        }
        (from.is_empty() && outcomes.bytes <= BYTES_MAX).then_some(outcomes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(answer: &str) -> Outcome {
        Outcome::Applied(Bytes::copy_from_slice(answer.as_bytes()))
    }

    #[test]
    fn neighbours_that_are_alike_are_one_and_all_come_back_from_bytes() {
        let mut outcomes = Outcomes::default();
        let forgotten = Outcome::Refused(Refusal::AnswerForgotten { seq: 9 });
        let all = [
            (3, applied("done")),
            (4, applied("done")),
            (7, applied("conflict")),
            (8, Outcome::Repeated),
            (10, Outcome::Refused(Refusal::SessionExpired)),
            (11, forgotten),
            (12, applied("done")),
        ];
        all.iter().for_each(|(index, outcome)| outcomes.push(*index, outcome.clone()));
        outcomes.push(13, applied(&"x".repeat(ANSWER_BYTES_MAX + 1)));
        outcomes.push(14, applied("done"));
        assert_eq!(outcomes.changes.len(), 8);
        let bytes = outcomes.encode();
        let decoded = Outcomes::decode(&bytes).unwrap();
        assert_eq!(decoded, outcomes);
        for (index, outcome) in all {
            assert_eq!(decoded.of(index), Some(outcome), "{index}");
        }
        assert_eq!((decoded.of(2), decoded.of(13), decoded.of(99)), (None, None, Some(applied("done"))));
        for cut in 1..bytes.len() {
            assert_eq!(Outcomes::decode(&bytes[..cut]), None, "{cut}");
        }
        assert_eq!(Outcomes::decode(&[]), Some(Outcomes::default()));
        for at in 0..bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 0x81;
            // Whatever it is, it is within its limits.
            if let Some(other) = Outcomes::decode(&flipped) {
                assert!(other.changes.len() == 8 && other.bytes <= BYTES_MAX);
            }
        }
    }

    #[test]
    fn the_oldest_are_forgotten_where_there_are_too_many_or_too_long_ones() {
        let mut outcomes = Outcomes::default();
        let count = CHANGES_MAX as u64 + 10;
        (0..count)
            .for_each(|index| outcomes.push(index, applied(if index % 2 == 0 { "even" } else { "odd" })));
        assert_eq!(outcomes.changes.len(), CHANGES_MAX);
        assert_eq!((outcomes.of(9), outcomes.of(10)), (None, Some(applied("even"))));
        for index in count..count + 10_000 {
            outcomes.push(index, applied(&format!("{index:01000}")));
        }
        assert!(outcomes.bytes <= BYTES_MAX && outcomes.bytes > BYTES_MAX - 1_100);
        assert_eq!(outcomes.of(count), None);
        assert_eq!(Outcomes::decode(&outcomes.encode()), Some(outcomes));
    }
}
