//! Replicas that do not answer: told once, from time to time again, and when they answer, with how much was in vain. What the engine
//! itself says at each message goes nowhere.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::replica_id::ReplicaId;
use super::super::time::Instant;

/// It is told again after so long; and after so long without a message in vain it is another silence.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// All of them.
#[derive(Debug)]
pub(super) struct Silences {
    /// One is told when it lasts so long.
    within: Duration,
    by_replica: BTreeMap<ReplicaId, Silence>,
}

#[derive(Debug)]
struct Silence {
    since: Instant,
    last: Instant,
    /// Messages in vain.
    count: u64,
    told: Option<Instant>,
}

/// What is to be told of a silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Messages in vain.
    pub(super) count: u64,
    /// Since the first of them.
    pub(super) lasts: Duration,
}

impl Silences {
    pub(super) fn new(within: Duration) -> Self {
        Self { within, by_replica: BTreeMap::new() }
    }

    /// A message was not answered in time. Something where that is to be told.
    pub(super) fn unanswered(&mut self, replica: ReplicaId, now: Instant) -> Option<Told> {
        // Of one that was taken out, too, which nobody asks any longer.
        self.by_replica.retain(|_, silence| now.saturating_duration_since(silence.last) < TOLD_EVERY);
        let silence =
            self.by_replica.entry(replica).or_insert(Silence { since: now, last: now, count: 0, told: None });
        silence.last = now;
        silence.count += 1;
        let lasts = now.saturating_duration_since(silence.since);
        let due = match silence.told {
            None => lasts >= self.within,
            Some(told) => now.saturating_duration_since(told) >= TOLD_EVERY,
        };
        due.then(|| {
            silence.told = Some(now);
            Told { count: silence.count, lasts }
        })
    }

    /// It answered. Something where it was told that it does not.
    pub(super) fn answered(&mut self, replica: ReplicaId, now: Instant) -> Option<Told> {
        let silence = self.by_replica.remove(&replica)?;
        let lasts = now.saturating_duration_since(silence.since);
        silence.told.map(|_| Told { count: silence.count, lasts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_told_once_and_when_it_ends_with_how_much_was_in_vain() {
        let (start, one, other) = (Instant::now(), ReplicaId(1), ReplicaId(2));
        let at = |millis| start + Duration::from_millis(millis);
        let mut silences = Silences::new(Duration::from_secs(2));
        let told = |count, millis| Some(Told { count, lasts: Duration::from_millis(millis) });
        // What is short is nothing.
        assert_eq!(silences.unanswered(other, at(0)), None);
        assert_eq!(silences.answered(other, at(1_900)), None);
        assert_eq!(silences.answered(other, at(1_900)), None);
        let said: Vec<_> = (0..300).map(|count| silences.unanswered(one, at(300 * count))).collect();
        let tellings: Vec<_> = said.into_iter().flatten().map(Some).collect();
        // Every 300 ms for 90 s: after 2 s, and a minute later.
        assert_eq!(tellings, [told(8, 2_100), told(208, 62_100)]);
        assert_eq!(silences.answered(one, at(90_000)), told(300, 90_000));
        assert_eq!(silences.unanswered(one, at(90_300)), None);
        // Nobody asked it meanwhile: it is another silence.
        assert_eq!(silences.unanswered(one, at(200_000)), None);
        assert_eq!(silences.unanswered(one, at(202_000)), told(2, 2_000));
    }
}
