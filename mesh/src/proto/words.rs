//! By whose word the messages of a flow count as delivered. A member that is told to pass a seq which it never had says so;
//! then the sender knows who lied.

use std::collections::VecDeque;

use super::flow::Way;

/// Stretches that are kept per flow; the oldest make room. One who never switches its way and gives nothing up has one.
const STRETCHES_MAX: usize = 32;

#[derive(Clone, Copy, Debug)]
struct Stretch {
    first: u64,
    end: u64,
    way: Way,
}

/// The latest seqs of a flow that count as delivered. Seqs that were given up are not among them.
#[derive(Debug, Default)]
pub struct Words {
    stretches: VecDeque<Stretch>,
    /// Something was said since an audit began.
    unaudited: bool,
}

impl Words {
    /// A seq counts as delivered, by word of this way. Seqs come in their order.
    pub fn note(&mut self, seq: u64, way: Way) {
        self.unaudited |= way != Way::Direct;
        if let Some(last) = self.stretches.back_mut()
            && last.way == way
            && last.end == seq
        {
            last.end += 1;
            return;
        }
        if self.stretches.len() >= STRETCHES_MAX {
            self.stretches.pop_front();
        }
        self.stretches.push_back(Stretch { first: seq, end: seq.saturating_add(1), way });
    }

    /// The destination never had the seqs from `first` to before `end`, and will never have any below `end`. Gives who said
    /// that it had, and of how many.
    pub fn refute(&mut self, first: u64, end: u64) -> Vec<(Way, u64)> {
        let mut refuted = Vec::new();
        while let Some(stretch) = self.stretches.front_mut().filter(|stretch| stretch.first < end) {
            let both = stretch.end.min(end).saturating_sub(stretch.first.max(first));
            if both > 0 {
                refuted.push((stretch.way, both));
            }
            if stretch.end > end {
                stretch.first = end;
                break;
            }
            self.stretches.pop_front();
        }
        refuted
    }

    /// The destination lives another life, of which nobody said anything yet.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The way by which the latest was said.
    #[must_use]
    pub fn way(&self) -> Option<Way> {
        self.stretches.back().map(|last| last.way)
    }

    /// A proxy said something since this was asked last.
    pub fn take_unaudited(&mut self) -> bool {
        std::mem::take(&mut self.unaudited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: Way = Way::Proxy(0);
    const Q: Way = Way::Proxy(1);

    #[test]
    fn who_said_it_is_remembered_and_what_was_given_up_is_nobodys_word() {
        let mut words = Words::default();
        for (seq, way) in [(1, P), (2, P), (4, P), (5, Q), (6, Way::Direct)] {
            words.note(seq, way);
        }
        assert_eq!(words.way(), Some(Way::Direct));
        assert_eq!(words.refute(3, 4), [], "3 was given up");
        assert_eq!(words.refute(2, 3), [], "and all before it is over");
        assert_eq!(words.refute(4, 7), [(P, 1), (Q, 1), (Way::Direct, 1)]);
        assert_eq!(words.refute(0, u64::MAX), []);
    }

    #[test]
    fn a_report_may_end_within_a_stretch_and_stretches_are_few() {
        let mut words = Words::default();
        (1..=10).for_each(|seq| words.note(seq, P));
        assert_eq!(words.refute(3, 6), [(P, 3)]);
        assert_eq!(words.refute(1, 8), [(P, 2)], "once");
        for seq in 0..1_000 {
            words.note(100 + 2 * seq, Q);
        }
        assert_eq!(words.stretches.len(), STRETCHES_MAX);
        assert!(words.take_unaudited() && !words.take_unaudited());
    }
}
