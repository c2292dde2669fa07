//! When a proxy last heard of the members, whom it asks first, and what is worth a line in its log.

use std::time::{Duration, Instant};

/// So long nothing is told of questions in vain: a node that is restarted, or a leader that is replaced, is nothing to look at.
const SILENCE: Duration = Duration::from_secs(15);

/// What it heard.
#[derive(Debug)]
pub(super) struct Heard {
    /// The last time, or the start.
    last: Instant,
    /// It was told that nothing is heard.
    silent: bool,
    failed: u64,
}

/// What is told: a change, each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Nothing was heard for so long.
    Silent(Duration),
    /// Something was heard, after so long.
    Again(Duration),
}

impl Heard {
    pub(super) fn new(start: Instant) -> Self {
        Self { last: start, silent: false, failed: 0 }
    }

    /// All nodes were asked, and one told, or none did.
    pub(super) fn judge(&mut self, told: bool, now: Instant) -> Option<Word> {
        let long = now.saturating_duration_since(self.last);
        if told {
            self.last = now;
            return std::mem::take(&mut self.silent).then_some(Word::Again(long));
        }
        self.failed += 1;
        let first = !self.silent && long >= SILENCE;
        self.silent |= first;
        first.then_some(Word::Silent(long))
    }

    /// How long ago it last heard, and how often it asked in vain.
    pub(super) fn at(&self, now: Instant) -> (Duration, u64) {
        (now.saturating_duration_since(self.last), self.failed)
    }
}

/// In which order nodes are asked: those near first, else by lot, so that not all proxies ask the same one.
pub(super) fn turns(count: usize, near: impl Fn(usize) -> bool, lot: &mut fastrand::Rng) -> Vec<usize> {
    let mut turns: Vec<usize> = (0..count).collect();
    lot.shuffle(&mut turns);
    turns.sort_by_key(|at| !near(*at));
    turns
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_silence_is_told_once_when_it_lasts_and_when_it_ends() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut heard = Heard::new(start);
        let silence = SILENCE.as_secs();
        assert_eq!(
            (heard.judge(false, at(3)), heard.judge(true, at(6))),
            (None, None),
            "a moment is nothing"
        );
        assert_eq!(heard.at(at(8)), (Duration::from_secs(2), 1));
        assert_eq!(heard.judge(false, at(5 + silence)), None);
        assert_eq!(heard.judge(false, at(6 + silence)), Some(Word::Silent(SILENCE)));
        assert_eq!((heard.judge(false, at(60)), heard.judge(false, at(600))), (None, None), "once");
        assert_eq!(heard.judge(true, at(606)), Some(Word::Again(Duration::from_secs(600))));
        assert_eq!(heard.judge(true, at(609)), None);
        assert_eq!(heard.at(at(609)), (Duration::ZERO, 5));
        assert_eq!(heard.judge(false, at(609 + silence)), Some(Word::Silent(SILENCE)), "anew");
    }

    #[test]
    fn all_nodes_are_asked_and_those_near_first() {
        let mut firsts = BTreeSet::new();
        for seed in 0..100 {
            let turns = turns(5, |at| at == 1 || at == 4, &mut fastrand::Rng::with_seed(seed));
            assert_eq!(turns.iter().copied().collect::<BTreeSet<_>>(), (0..5).collect());
            assert_eq!(turns[..2].iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([1, 4]));
            firsts.insert((turns[0], turns[2]));
        }
        assert_eq!(firsts.len(), 6, "nobody is asked first by all");
    }
}
