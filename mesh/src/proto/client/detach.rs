//! What waits for long is copied out of the buffers it is slices of: nobody can see how much a slice keeps alive.

use std::time::Duration;

use trunkline_codec::Payload;

use super::{Client, Ticket, Timer};
use crate::proto::flow::FlowIx;
use crate::proto::time::Micros;

/// Time without any progress after which what waits is taken to wait for long.
pub(super) const STALLED_AFTER: Duration = Duration::from_secs(1);

/// Flows of which nothing is to be copied yet are looked through at most this often.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// Once so many messages were copied the next flow waits for `BREATH`: nothing else of this node goes on meanwhile. They take a
/// millisecond or two; the backlog of a datacenter would take ten times that.
pub(super) const COPIED_AT_ONCE: usize = 4_096;
pub(super) const BREATH: Duration = Duration::from_millis(1);

impl Client {
    /// What waits for this destination is taken to wait for long. Its small segments are copied out of the buffers they are slices
    /// of, for it must not keep more alive than it is charged: every message once, all that wait when that is noticed, then each
    /// as it comes.
    pub(super) fn stalls(&self, ix: FlowIx, now: Micros) -> bool {
        let flow = &self.flows[ix.0];
        self.budget.is_stalled(flow.datacenter) || flow.stands_since(now) >= STALLED_AFTER
    }

    /// Message `index` of a batch that was charged lets go of what it is a slice of.
    pub(super) fn detach(&mut self, ticket: Ticket, index: usize, payload: &mut Payload) {
        if let Some(open) = self.batches.get_mut(&ticket) {
            open.charge.detach(index, payload);
        }
    }

    /// The same for all messages of a flow. Gives how many there were.
    pub(super) fn detach_waiting(&mut self, ix: FlowIx) -> usize {
        let mut count = 0;
        for pending in self.flows[ix.0].attached_mut() {
            count += 1;
            if let Some(open) = self.batches.get_mut(&pending.ticket) {
                open.charge.detach(pending.index, &mut pending.payload);
            }
        }
        count
    }

    /// Looks whose messages wait for long now, also where no more come, and when it is to look again.
    pub(super) fn detach_stalled(&mut self, site: usize, now: Micros) {
        let (mut soonest, mut copied) = (None, 0);
        for at in 0..self.sites[site].flows.len() {
            let ix = self.sites[site].flows[at];
            if !self.flows[ix.0].is_attached() {
                continue;
            }
            if copied >= COPIED_AT_ONCE {
                soonest = Some(BREATH);
                break;
            }
            if self.stalls(ix, now) {
                copied += self.detach_waiting(ix);
                continue;
            }
            let left = STALLED_AFTER.saturating_sub(self.flows[ix.0].stands_since(now)).max(PAUSE);
            soonest = Some(soonest.map_or(left, |soonest: Duration| soonest.min(left)));
        }
        if let Some(left) = soonest {
            self.timers.set_earlier(Timer::Stalled(site), now + left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stranded::Stranded;
    use super::*;
    use crate::settings::Settings;
    use bytes::Bytes;

    #[test]
    fn what_stalled_members_share_is_copied_once_for_all_of_them() {
        let mut sender = Stranded::new(Settings::default());
        let (entry, beat) = (Bytes::from(vec![1; 12_000]), Bytes::from_static(b"beat"));
        sender.send(&["m1", "m2"], &entry, Micros(0));
        sender.send(&["m1"], &beat, Micros(1_500_000));
        sender.send(&["m2"], &beat, Micros(1_600_000));
        let addresses = sender.addresses();
        assert_eq!(addresses[0][0], addresses[1][0], "still one buffer");
        assert_ne!(addresses[0][0], entry.as_ptr().addr(), "but not that of the caller");
    }

    #[test]
    fn what_waits_long_is_copied_though_nothing_more_is_sent() {
        let mut sender = Stranded::new(Settings::default());
        let large = Bytes::from(vec![1; 1 << 20]);
        sender.send(&["m1"], &large.slice(..100), Micros(0));
        let before = sender.addresses();
        assert!(!sender.ring(Micros(999_999)));
        assert_eq!(sender.addresses(), before, "it may go at any moment");
        assert!(sender.ring(Micros(1_000_000)));
        assert_ne!(sender.addresses(), before, "the large one is not kept alive for it");
        drop(before);
        assert!(large.is_unique());
        // A message that came later waits for a second of its own, and what was copied is no reason to look.
        let rings = (0..100).filter(|at| sender.ring(Micros(1_000_000 + at * 10_000))).count();
        assert_eq!(rings, 0);
        sender.send(&["m2"], &large.slice(..100), Micros(2_000_000));
        assert!(sender.ring(Micros(3_000_000)));
        assert!(large.is_unique());
    }

    /// As many slices of one buffer for each of three members as are copied at once, within this budget.
    fn with_backlog(datacenter_budget_bytes: usize) -> (Stranded, Bytes) {
        let mut sender = Stranded::new(Settings { datacenter_budget_bytes, ..Settings::default() });
        let large = Bytes::from(vec![1; 1 << 20]);
        for at in 0..COPIED_AT_ONCE {
            sender.send(&["m1", "m2", "m3"], &large.slice(at..at + 100), Micros(0));
        }
        (sender, large)
    }

    /// A whole backlog at once would keep heartbeats waiting.
    #[test]
    fn of_a_long_backlog_one_flow_is_copied_at_a_time() {
        let (mut sender, large) = with_backlog(1 << 30);
        let attached = |sender: &Stranded| {
            let within = large.as_ptr().addr()..large.as_ptr().addr() + large.len();
            let own = |of: &Vec<usize>| of.iter().all(|at| !within.contains(at));
            sender.addresses().iter().filter(|of| !own(of)).count()
        };
        assert_eq!(attached(&sender), 3);
        for (at, left) in [(1_000_000, 2), (1_000_999, 2), (1_001_000, 1), (1_002_000, 0)] {
            sender.ring(Micros(at));
            assert_eq!(attached(&sender), left, "at {at} us");
        }
        assert!(large.is_unique());
    }

    /// The batch that passes half of the budget finds all flows of its datacenter stalled at once.
    #[test]
    fn nor_does_a_batch_copy_the_backlog_of_all_that_it_is_for() {
        let (mut sender, large) = with_backlog(8 << 20);
        let before = sender.addresses();
        sender.send(&["m1", "m2", "m3"], &Bytes::from(vec![2; 2 << 20]), Micros(1));
        let after = sender.addresses();
        let copied = |(before, after): &(&Vec<usize>, &Vec<usize>)| before[0] != after[0];
        assert_eq!(before.iter().zip(&after).filter(copied).count(), 1);
        sender.ring(Micros(1_001));
        sender.ring(Micros(2_001));
        assert!(large.is_unique(), "the timer comes to the others soon");
    }

    /// A budget that is more than half used is what a sender that waits for room has all the time.
    #[test]
    fn what_was_copied_is_not_copied_again() {
        let settings = Settings { datacenter_budget_bytes: 1 << 20, ..Settings::default() };
        let mut sender = Stranded::new(settings);
        sender.send(&["m1"], &Bytes::from(vec![1; 600_000]), Micros(0));
        let small = Bytes::from(vec![2; 100]);
        sender.send(&["m2"], &small, Micros(0));
        sender.send(&["m2"], &small, Micros(1));
        let before = sender.addresses();
        for flow in &mut sender.client.flows {
            flow.answered(crate::proto::flow::Way::Direct, Micros(2));
        }
        sender.send(&["m2"], &small, Micros(3));
        let after = sender.addresses();
        assert_eq!(before[1], after[1][..2], "in spite of progress");
        assert_ne!(after[1][2], small.as_ptr().addr());
    }
}
