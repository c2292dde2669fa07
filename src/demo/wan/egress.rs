//! The egress of a datacenter: one serialising link, shared fairly by its flows, and the way behind it. A pure machine,
//! time is an argument.
//!
//! A flow is one direction of one connection. Flows take turns, one item each, and an item is on the link alone for
//! `bytes / rate`, then on its way for the delay. Before those that had something at their last turn come those that had
//! nothing, as with fq_codel, which is what routers and kernels that share a line fairly have: what is sent now and then waits
//! for the item on the link, and not for a turn of everybody who has much. The instants are computed, not observed: a driver that looks late
//! finds the link as busy as one that looks in time (it may find the turns in another order), so timer granularity
//! costs no bandwidth.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU64;
use std::time::Duration;

/// One direction of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FlowId(pub(super) u64);

/// An item that has left the datacenter.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Departure<T> {
    pub(super) item: T,
    pub(super) bytes: usize,
    /// When its last byte is at the other datacenter.
    pub(super) arrives_at: Duration,
}

#[derive(Debug)]
struct Waiting<T> {
    item: T,
    bytes: usize,
    delay: Duration,
    since: Duration,
}

/// The link and the flows that wait for it.
#[derive(Debug)]
pub(super) struct Egress<T> {
    bytes_per_s: NonZeroU64,
    free_at: Duration,
    /// What waits, of every flow that has a turn.
    flows: HashMap<FlowId, VecDeque<Waiting<T>>>,
    /// Flows that had nothing when something came, next turn first.
    fresh: VecDeque<FlowId>,
    /// Flows that had a turn, next turn first. One that has nothing any more stays until its turn comes: what comes for it
    /// before is no reason to go before the others.
    turns: VecDeque<FlowId>,
}

impl<T> Egress<T> {
    pub(super) fn new(bytes_per_s: NonZeroU64) -> Self {
        Self {
            bytes_per_s,
            free_at: Duration::ZERO,
            flows: HashMap::new(),
            fresh: VecDeque::new(),
            turns: VecDeque::new(),
        }
    }

    /// Queues an item behind the others of its flow. Items without bytes (the end of a stream) cost no time on the link.
    /// `delay` is one-way, from the end of the link; the same for all items of a flow.
    pub(super) fn handle_item(
        &mut self,
        flow: FlowId,
        item: T,
        bytes: usize,
        delay: Duration,
        now: Duration,
    ) {
        let waiting = Waiting { item, bytes, delay, since: now };
        match self.flows.entry(flow) {
            Entry::Occupied(mut queue) => queue.get_mut().push_back(waiting),
            Entry::Vacant(none) => {
                none.insert(VecDeque::from([waiting]));
                self.fresh.push_back(flow);
            }
        }
    }

    /// The next item that the link has begun to send by `now`; its departure may lie ahead.
    pub(super) fn poll_departure(&mut self, now: Duration) -> Option<Departure<T>> {
        self.end_empty_turns(now);
        let (turn, begins) = self.next_turn()?;
        if begins > now {
            return None;
        }
        let fresh = self.fresh.len();
        let flow = if turn < fresh { self.fresh.remove(turn) } else { self.turns.remove(turn - fresh) };
        let flow = flow.expect("a turn of a list");
        let queue = self.flows.get_mut(&flow).expect("a flow with a turn has a queue");
        let Waiting { item, bytes, delay, .. } = queue.pop_front().expect("a flow with a turn waits");
        self.turns.push_back(flow);
        self.free_at = begins + self.on_link(bytes);
        Some(Departure { item, bytes, arrives_at: self.free_at + delay })
    }

    /// When [`Egress::poll_departure`] has something next; `None` while nothing waits.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.next_turn().map(|(_, begins)| begins)
    }

    /// Whose turn it is, and when it begins: the first that waits when the link is free, else the first that came after.
    fn next_turn(&self) -> Option<(usize, Duration)> {
        let begins = |flow: &FlowId| Some(self.flows[flow].front()?.since.max(self.free_at));
        let flows = self.fresh.iter().chain(&self.turns).enumerate();
        flows.filter_map(|(turn, flow)| Some((turn, begins(flow)?))).min_by_key(|(_, begins)| *begins)
    }

    /// Flows whose turn has come on a free link, and that have nothing, leave.
    fn end_empty_turns(&mut self, now: Duration) {
        while self.free_at <= now
            && let Some(flow) = self.turns.front().filter(|flow| self.flows[*flow].is_empty()).copied()
        {
            self.turns.pop_front();
            self.flows.remove(&flow);
        }
    }

    /// Rounded up: the link is never faster than its rate.
    fn on_link(&self, bytes: usize) -> Duration {
        let nanos = (bytes as u128 * 1_000_000_000).div_ceil(u128::from(self.bytes_per_s.get()));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: FlowId = FlowId(1);
    const B: FlowId = FlowId(2);
    const NO_DELAY: Duration = Duration::ZERO;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// 1,000 bytes take a millisecond.
    fn link() -> Egress<&'static str> {
        Egress::new(NonZeroU64::new(1_000_000).unwrap())
    }

    fn drain(link: &mut Egress<&'static str>, now: Duration) -> Vec<(&'static str, Duration)> {
        std::iter::from_fn(|| link.poll_departure(now)).map(|d| (d.item, d.arrives_at)).collect()
    }

    #[test]
    fn an_item_leaves_after_its_bytes_and_not_before() {
        let mut link = link();
        assert_eq!(link.poll_timeout(), None);
        link.handle_item(A, "a1", 2_000, NO_DELAY, ms(5));
        assert_eq!(link.poll_timeout(), Some(ms(5)));
        assert_eq!(drain(&mut link, ms(4)), []);
        assert_eq!(drain(&mut link, ms(5)), [("a1", ms(7))]);
        assert_eq!((link.poll_timeout(), drain(&mut link, ms(7))), (None, Vec::new()));
        assert!(link.flows.is_empty(), "an idle flow must leave nothing behind");
    }

    #[test]
    fn flows_share_one_link_and_take_turns() {
        let mut link = link();
        for item in ["a1", "a2", "a3"] {
            link.handle_item(A, item, 1_000, NO_DELAY, ms(0));
        }
        link.handle_item(B, "b1", 1_000, NO_DELAY, ms(0));
        assert_eq!(drain(&mut link, ms(9)), [("a1", ms(1)), ("b1", ms(2)), ("a2", ms(3)), ("a3", ms(4))]);
    }

    #[test]
    fn what_is_sent_now_and_then_goes_before_those_that_have_much() {
        const C: FlowId = FlowId(3);
        let mut link = link();
        for flow in [A, B] {
            for item in ["much", "much", "much"] {
                link.handle_item(flow, item, 1_000, NO_DELAY, ms(0));
            }
        }
        assert_eq!(drain(&mut link, ms(2)).len(), 3, "one is on the link until 3 ms");
        link.handle_item(C, "beat", 100, NO_DELAY, ms(2));
        assert_eq!(drain(&mut link, ms(3)), [("beat", Duration::from_micros(3_100))]);
        // It had a turn just now: more of it waits for the turns of the others.
        link.handle_item(C, "more", 1_000, NO_DELAY, ms(3));
        let next: Vec<&str> = drain(&mut link, ms(9)).into_iter().map(|(item, _)| item).collect();
        assert_eq!(next, ["much", "much", "more", "much"]);
        link.handle_item(C, "beat", 100, NO_DELAY, ms(20));
        link.handle_item(A, "a", 100, NO_DELAY, ms(20));
        assert_eq!(
            drain(&mut link, ms(20)).first().map(|(item, _)| *item),
            Some("beat"),
            "all are fresh again"
        );
    }

    #[test]
    fn a_busy_link_makes_the_next_item_wait() {
        let mut link = link();
        link.handle_item(A, "a1", 10_000, NO_DELAY, ms(0));
        assert_eq!(drain(&mut link, ms(0)), [("a1", ms(10))]);
        link.handle_item(B, "b1", 1_000, NO_DELAY, ms(3));
        assert_eq!(link.poll_timeout(), Some(ms(10)));
        assert_eq!(drain(&mut link, ms(9)), []);
        assert_eq!(drain(&mut link, ms(10)), [("b1", ms(11))]);
    }

    #[test]
    fn a_late_driver_finds_the_link_as_busy() {
        let mut early = link();
        let mut late = link();
        let mut seen = Vec::new();
        let items = [(0, A, "a1"), (0, A, "a2"), (1, B, "b1"), (2, B, "b2"), (19, A, "a3"), (21, A, "a4")];
        for (at, flow, item) in items {
            early.handle_item(flow, item, 2_000, NO_DELAY, ms(at));
            late.handle_item(flow, item, 2_000, NO_DELAY, ms(at));
            seen.extend(drain(&mut early, ms(at)));
        }
        seen.extend(drain(&mut early, ms(50)));
        let instants = |seen: &[(_, Duration)]| seen.iter().map(|(_, at)| at.as_millis()).collect::<Vec<_>>();
        assert_eq!(instants(&seen), [2, 4, 6, 8, 21, 23], "idle time of the link must not be saved up");
        assert_eq!(instants(&drain(&mut late, ms(1_000))), instants(&seen));
    }

    #[test]
    fn the_end_of_a_stream_stays_behind_its_bytes() {
        let mut link = link();
        link.handle_item(A, "bytes", 5_000, NO_DELAY, ms(0));
        link.handle_item(A, "end", 0, NO_DELAY, ms(0));
        assert_eq!(drain(&mut link, ms(5)), [("bytes", ms(5)), ("end", ms(5))]);
    }

    #[test]
    fn serialising_time_is_rounded_up() {
        let mut link = Egress::new(NonZeroU64::new(3).unwrap());
        link.handle_item(A, (), 1, NO_DELAY, Duration::ZERO);
        assert_eq!(link.poll_departure(ms(0)).unwrap().arrives_at, Duration::from_nanos(333_333_334));
    }

    #[test]
    fn the_delay_begins_when_the_link_is_done_and_does_not_occupy_it() {
        let mut link = link();
        link.handle_item(A, "far", 2_000, ms(75), ms(5));
        link.handle_item(B, "near", 3_000, ms(40), ms(5));
        assert_eq!(drain(&mut link, ms(7)), [("far", ms(82)), ("near", ms(50))]);
    }
}
