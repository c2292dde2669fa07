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

    /// The destination never had the seqs from `first` to before `end`. Gives who said that it had, and of how many. Only what
    /// somebody is blamed for is taken out: whoever makes a report up could wipe out what it said itself otherwise. A
    /// destination's own word is held against nobody, and stays.
    pub fn refute(&mut self, first: u64, end: u64) -> Vec<(Way, u64)> {
        let mut refuted = Vec::new();
        let mut kept = VecDeque::new();
        for stretch in self.stretches.drain(..) {
            let (from, to) = (stretch.first.max(first), stretch.end.min(end));
            if stretch.way == Way::Direct || from >= to {
                kept.push_back(stretch);
                continue;
            }
            refuted.push((stretch.way, to - from));
            let around = [Stretch { end: from, ..stretch }, Stretch { first: to, ..stretch }];
            kept.extend(around.into_iter().filter(|part| part.first < part.end));
        }
        kept.drain(..kept.len().saturating_sub(STRETCHES_MAX));
        self.stretches = kept;
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
        assert_eq!(words.refute(4, 7), [(P, 1), (Q, 1)], "a destination's own word is held against nobody");
        assert_eq!(words.refute(4, 7), [], "once");
        assert_eq!(words.way(), Some(Way::Direct));
        assert_eq!(words.refute(0, u64::MAX), [(P, 2)], "what nobody reported was there still");
        assert_eq!(words.refute(0, u64::MAX), []);
    }

    #[test]
    fn a_report_may_end_within_a_stretch_and_stretches_are_few() {
        let mut words = Words::default();
        (1..=10).for_each(|seq| words.note(seq, P));
        assert_eq!(words.refute(3, 6), [(P, 3)]);
        assert_eq!(words.refute(1, 8), [(P, 2), (P, 2)], "what is around it, and nothing twice");
        for seq in 0..1_000 {
            words.note(100 + 2 * seq, Q);
        }
        assert_eq!(words.stretches.len(), STRETCHES_MAX);
        assert!(words.take_unaudited() && !words.take_unaudited());
    }

    #[test]
    fn a_report_wipes_out_no_word_that_it_blames_nobody_for() {
        let mut words = Words::default();
        (1..=10).for_each(|seq| words.note(seq, P));
        assert_eq!(words.refute(11, 11), [], "of nothing");
        assert_eq!(words.refute(u64::MAX, u64::MAX), [], "of nothing");
        assert_eq!(words.refute(11, u64::MAX), [], "of what nobody said");
        assert_eq!(words.refute(9, 5), [], "that ends before it begins");
        assert_eq!(words.refute(3, 6), [(P, 3)], "the member's own, by an audit");
    }

    #[test]
    fn reports_of_every_other_seq_leave_few_stretches() {
        let mut words = Words::default();
        (0..1_000).for_each(|seq| words.note(seq, P));
        for seq in (1..1_000).step_by(2) {
            assert!(words.refute(seq, seq + 1).len() <= 1);
            assert!(words.stretches.len() <= STRETCHES_MAX);
        }
    }
}
