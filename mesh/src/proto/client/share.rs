//! What destinations that take nothing may keep while others wait for room: a share, not a budget.
//!
//! A destination has a budget of its own, and several of them fill that of their datacenter. Of those that take messages that
//! is no harm: room comes free all the time. Those that take none would hold it until their messages' deadlines, against
//! everybody else. So when somebody is turned away, whoever has taken nothing for a while gives up its newest messages
//! until it holds its share; all such shares together are at most half of a datacenter's budget and of the process's.

use std::time::Duration;

use super::detach::{PAUSE, STALLED_AFTER};
use super::{Client, Timer};
use crate::message::FailReason;
use crate::proto::flow::{FlowIx, Undecided};
use crate::proto::time::Micros;

/// For so long after somebody was turned away, whoever takes nothing is given no more than its share. Otherwise it would
/// fill up again what it gave back.
const PRESSED_FOR: Duration = Duration::from_secs(10);

/// When somebody was turned away.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    /// Until then whoever takes nothing has a share.
    until: Micros,
    /// Not before then flows are looked through again.
    pause: Micros,
}

impl Client {
    /// The most bytes that a flow may keep now, besides one message that always fits.
    pub(super) fn flow_bytes_max(&self, ix: FlowIx, now: Micros) -> usize {
        let flow = &self.flows[ix.0];
        if now < self.pressure.until && flow.stands_since(now) >= STALLED_AFTER {
            return self.share(ix);
        }
        self.settings.destination_budget_bytes
    }

    /// Of half of each budget, the part of one flow.
    fn share(&self, ix: FlowIx) -> usize {
        // Of those that are there: who left keeps its place in the table, and may have been the last of its datacenter.
        let here = self.sites[self.flows[ix.0].datacenter].flows.len().max(1);
        let all = self.sites.iter().map(|site| site.flows.len()).sum::<usize>().max(1);
        let settings = &self.settings;
        (settings.datacenter_budget_bytes / (2 * here))
            .min(settings.process_budget_bytes / (2 * all))
            .min(settings.destination_budget_bytes)
    }

    /// Somebody was turned away.
    pub(super) fn press(&mut self, now: Micros) {
        self.pressure.until = now + PRESSED_FOR;
        self.timers.set_earlier(Timer::Room, now.max(self.pressure.pause));
    }

    /// Takes from flows that stand what is beyond their share, if somebody still waits for room.
    pub(super) fn make_room(&mut self, now: Micros) {
        // Before anything is given up: the first of it ends that.
        let short: Vec<bool> = (0..self.sites.len()).map(|site| self.budget.is_short(site)).collect();
        if !short.contains(&true) {
            return;
        }
        self.pressure.pause = now + PAUSE;
        for ix in (0..self.flows.len()).map(FlowIx) {
            if !short[self.flows[ix.0].datacenter] {
                continue;
            }
            let share = self.share(ix);
            if self.destination_bytes[ix.0] <= share {
                continue;
            }
            let left = STALLED_AFTER.saturating_sub(self.flows[ix.0].stands_since(now));
            if left > Duration::ZERO {
                self.timers.set_earlier(Timer::Room, now + left.max(PAUSE));
                continue;
            }
            while self.destination_bytes[ix.0] > share
                && let Some(newest) = self.flows[ix.0].newest()
            {
                match newest {
                    Undecided::Queued(id) => {
                        let Some(pending) = self.flows[ix.0].unqueue(id) else { break };
                        self.give_up_queued(ix, &pending, FailReason::Refused);
                    }
                    // It may have arrived, and its outcome says so.
                    Undecided::Sent(seq) => self.give_up(ix, seq, FailReason::Refused),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stranded::Stranded;
    use super::*;
    use crate::settings::Settings;

    /// A datacenter whose budget four destinations fill.
    fn settings() -> Settings {
        Settings {
            message_bytes_max: 1 << 20,
            destination_budget_bytes: 4 << 20,
            datacenter_budget_bytes: 16 << 20,
            message_deadline: Duration::from_secs(3600),
            ..Settings::default()
        }
    }

    const DEAD: [&str; 4] = ["m1", "m2", "m3", "m4"];

    /// Messages of 100 kB to the four, each of its own, until there is no room.
    fn fill(sender: &mut Stranded, now: Micros) -> usize {
        let mut taken = 0;
        while taken < 100 && DEAD.iter().all(|to| sender.try_send(&[to], &vec![1; 100_000].into(), now)) {
            taken += 1;
        }
        taken
    }

    #[test]
    fn four_destinations_that_take_nothing_leave_room_for_the_others() {
        let mut sender = Stranded::new(settings());
        assert!(fill(&mut sender, Micros(0)) > 30, "to the brim");
        let small = vec![2; 100_000].into();
        assert!(!sender.try_send(&["m5"], &small, Micros(1_000)));
        sender.ring(Micros(1_000));
        assert!(!sender.try_send(&["m5"], &small, Micros(900_000)), "they may only be slow");
        assert!(sender.client.take_room().is_empty());
        assert!(sender.ring(Micros(1_200_000)), "without anybody asking again");
        assert_eq!(sender.client.take_room().len(), 1, "whoever waits is told");
        assert!(sender.client.budget.queued(0) <= 8 << 20, "half of the budget");
        assert!(sender.try_send(&["m5"], &small, Micros(1_200_000)));
        // What they gave back they do not get again, while it is needed.
        fill(&mut sender, Micros(1_300_000));
        assert!(sender.client.budget.queued(0) <= 9 << 20);
        let (failed, kept) = sender.outcomes();
        assert!(failed.iter().all(|reason| *reason == FailReason::Refused) && !failed.is_empty());
        assert!(kept > 0, "the oldest stay");
    }

    #[test]
    fn a_datacenter_that_left_has_no_part_in_it() {
        let mut sender = Stranded::new(settings());
        fill(&mut sender, Micros(0));
        assert!(!sender.try_send(&["m5"], &vec![2; 100_000].into(), Micros(0)));
        // Nobody is there any more, and the look at who stands is still to come.
        sender.leave(Micros(1));
        assert!(sender.outcomes().0.iter().all(|reason| *reason == FailReason::Removed));
        sender.ring(Micros(2_000_000));
        assert_eq!(sender.client.budget.queued(0), 0);
        sender.client.make_room(Micros(3_000_000));
        assert!((0..10).all(|flow| sender.client.share(FlowIx(flow)) > 0));
    }

    /// Who was turned away got its room, and later a destination stands for another reason.
    #[test]
    fn nothing_is_given_up_once_there_is_room_again() {
        let settings = Settings { message_deadline: Duration::from_millis(500), ..settings() };
        let mut sender = Stranded::new(settings);
        fill(&mut sender, Micros(0));
        assert!(!sender.try_send(&["m5"], &vec![2; 100_000].into(), Micros(0)));
        sender.ring(Micros(600_000));
        assert!(!sender.client.take_room().is_empty());
        assert_eq!(sender.outcomes().1, 0, "all are past their deadline");
        for _ in 0..39 {
            let message = vec![1; 100_000].into();
            assert!(sender.try_send_for(Duration::from_secs(60), &["m1"], &message, Micros(700_000)));
        }
        for later in [900_000, 1_900_000, 5_000_000] {
            sender.ring(Micros(later));
        }
        assert_eq!(sender.outcomes(), (Vec::new(), 39));
    }

    #[test]
    fn nobody_gives_anything_up_while_there_is_room() {
        let mut sender = Stranded::new(settings());
        for _ in 0..39 {
            assert!(sender.try_send(&["m1"], &vec![1; 100_000].into(), Micros(0)));
        }
        sender.ring(Micros(5_000_000));
        assert!(sender.try_send(&["m1"], &vec![1; 100_000].into(), Micros(5_000_000)));
        assert!(sender.outcomes().0.is_empty());
    }

    #[test]
    fn one_message_beyond_its_share_stays() {
        let settings = Settings {
            message_bytes_max: 4 << 20,
            destination_budget_bytes: (4 << 20) + 256,
            datacenter_budget_bytes: 5 << 20,
            ..settings()
        };
        let mut sender = Stranded::new(settings);
        assert!(sender.try_send(&["m1"], &vec![1; 4 << 20].into(), Micros(0)));
        assert!(!sender.try_send(&["m5"], &vec![1; 1 << 20].into(), Micros(0)));
        sender.ring(Micros(2_000_000));
        assert!(sender.outcomes().0.is_empty(), "or a large message would never be delivered after a pause");
    }
}
