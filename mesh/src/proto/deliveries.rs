//! What was handed over and not taken yet: the inbox of an application. It takes control before bulk, and of a lane one message of
//! every origin in turn, so that whoever sends much stands in front of nobody else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use super::spare::give_back;
use crate::id::{Incarnation, Lane, NodeId};
use crate::message::Delivery;
use crate::settings::MESSAGE_OVERHEAD_BYTES;

/// After so many messages of control in a row one of bulk is next, if there is any: it goes on however much control comes.
const CONTROL_IN_A_ROW: u32 = 16;

/// Places that a queue keeps whatever is in it.
const KEPT_MAX: usize = 16;

/// Whose turn it is.
#[derive(Debug, Default)]
struct Turns {
    /// Of each lane the origin that had its turn last.
    served: [Option<NodeId>; 2],
    control_in_a_row: u32,
}

impl Turns {
    /// Who is next: `first` gives the first origin with something in a lane, from one on.
    fn next<'a>(
        &self,
        first: impl Fn(Lane, Bound<&NodeId>) -> Option<&'a NodeId>,
    ) -> Option<(Lane, &'a NodeId)> {
        let control = self.control_in_a_row < CONTROL_IN_A_ROW;
        let lanes = if control { [Lane::Control, Lane::Bulk] } else { [Lane::Bulk, Lane::Control] };
        lanes.into_iter().find_map(|lane| {
            let served = self.served[lane.index()].as_ref();
            let behind = served.and_then(|served| first(lane, Bound::Excluded(served)));
            Some((lane, behind.or_else(|| first(lane, Bound::Unbounded))?))
        })
    }

    /// It had its turn.
    fn took(&mut self, lane: Lane, origin: NodeId) {
        self.control_in_a_row =
            if lane == Lane::Control { self.control_in_a_row.saturating_add(1) } else { 0 };
        self.served[lane.index()] = Some(origin);
    }
}

/// Messages for the application.
#[derive(Debug, Default)]
pub struct Deliveries {
    origins: BTreeMap<NodeId, VecDeque<Life>>,
    /// Per lane, the origins that have something in their turn.
    ready: [BTreeSet<NodeId>; 2],
    turns: Turns,
    bytes: usize,
}

/// What there is of one life of an origin. That of an earlier one is taken first, whatever its lane: after the first message of a life
/// none of an earlier one comes.
#[derive(Debug)]
struct Life {
    incarnation: Incarnation,
    /// Per lane, in the order in which they were handed over.
    queues: [Queue; 2],
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Delivery>,
    /// How many at its end no checker has looked at.
    #[cfg(feature = "sim")]
    unseen: usize,
}

/// What a message is charged.
fn charge(delivery: &Delivery) -> usize {
    delivery.payload.len() + MESSAGE_OVERHEAD_BYTES
}

impl Deliveries {
    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// Bytes that they are charged.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Hands a message over.
    pub fn push(&mut self, delivery: Delivery) {
        let Delivery { origin, origin_incarnation: incarnation, lane, .. } = &delivery;
        let (lane, incarnation) = (lane.index(), *incarnation);
        self.bytes += charge(&delivery);
        if !self.origins.contains_key(origin) {
            self.origins.insert(origin.clone(), VecDeque::new());
        }
        let Some(lives) = self.origins.get_mut(origin) else { return };
        if lives.back().is_none_or(|life| life.incarnation != incarnation) {
            lives.push_back(Life { incarnation, queues: Default::default() });
        }
        if lives.len() == 1 {
            self.ready[lane].insert(origin.clone());
        }
        let Some(life) = lives.back_mut() else { return };
        life.queues[lane].messages.push_back(delivery);
        #[cfg(feature = "sim")]
        {
            life.queues[lane].unseen += 1;
        }
    }

    /// Takes the next one.
    pub fn pop(&mut self) -> Option<Delivery> {
        let ready = &self.ready;
        let first = |lane: Lane, from: Bound<&NodeId>| {
            ready[lane.index()].range::<NodeId, _>((from, Bound::Unbounded)).next()
        };
        let (lane, origin) = self.turns.next(first).map(|(lane, origin)| (lane, origin.clone()))?;
        let lives = self.origins.get_mut(&origin)?;
        let life = lives.front_mut()?;
        let queue = &mut life.queues[lane.index()];
        let delivery = queue.messages.pop_front()?;
        give_back(&mut queue.messages, KEPT_MAX);
        #[cfg(feature = "sim")]
        {
            queue.unseen = queue.unseen.min(queue.messages.len());
        }
        if queue.messages.is_empty() {
            self.ready[lane.index()].remove(&origin);
        }
        if life.queues.iter().all(|queue| queue.messages.is_empty()) {
            lives.pop_front();
            for (ready, queue) in
                self.ready.iter_mut().zip(lives.front().iter().flat_map(|life| &life.queues))
            {
                if !queue.messages.is_empty() {
                    ready.insert(origin.clone());
                }
            }
            if lives.is_empty() {
                self.origins.remove(&origin);
            }
        }
        self.turns.took(lane, origin);
        self.bytes -= charge(&delivery);
        Some(delivery)
    }

    /// What was handed over since this was asked last, as far as it is there.
    #[cfg(feature = "sim")]
    pub fn peek_new(&mut self) -> Vec<Delivery> {
        let mut new = Vec::new();
        let lives = self.origins.values_mut().flatten();
        for queue in lives.flat_map(|life| &mut life.queues) {
            let seen = queue.messages.len() - std::mem::take(&mut queue.unseen);
            new.extend(queue.messages.iter().skip(seen).cloned());
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Seq;

    fn delivery(origin: &str, lane: Lane, seq: u64) -> Delivery {
        Delivery {
            origin: NodeId::new(origin).unwrap(),
            origin_incarnation: Incarnation(1),
            lane,
            seq: Seq(seq),
            kind: 0,
            payload: bytes::Bytes::from_static(b"abcd").into(),
        }
    }

    /// Takes so many; a letter for the lane, the origin, the seq.
    fn take(deliveries: &mut Deliveries, count: usize) -> Vec<String> {
        let name = |of: Delivery| format!("{}{}{}", &of.lane.to_string()[..1], of.origin, of.seq.0);
        (0..count).map_while(|_| deliveries.pop().map(name)).collect()
    }

    #[test]
    fn of_a_lane_every_origin_has_its_turn_and_keeps_its_order() {
        let mut deliveries = Deliveries::default();
        for seq in 1..=4 {
            deliveries.push(delivery("a", Lane::Bulk, seq));
        }
        deliveries.push(delivery("c", Lane::Bulk, 1));
        assert_eq!(take(&mut deliveries, 1), ["ba1"]);
        deliveries.push(delivery("b", Lane::Bulk, 1));
        deliveries.push(delivery("b", Lane::Bulk, 2));
        assert_eq!(take(&mut deliveries, 9), ["bb1", "bc1", "ba2", "bb2", "ba3", "ba4"]);
        assert!(deliveries.is_empty() && deliveries.bytes() == 0 && deliveries.pop().is_none());
    }

    #[test]
    fn control_is_taken_before_bulk_and_does_not_keep_it_for_ever() {
        let mut deliveries = Deliveries::default();
        deliveries.push(delivery("a", Lane::Bulk, 1));
        deliveries.push(delivery("b", Lane::Bulk, 1));
        (1..=100).for_each(|seq| deliveries.push(delivery("a", Lane::Control, seq)));
        let taken = take(&mut deliveries, 102);
        let bulk: Vec<usize> = (0..102).filter(|at| taken[*at].starts_with('b')).collect();
        let row = usize::try_from(CONTROL_IN_A_ROW).unwrap();
        assert_eq!(bulk, [row, 2 * row + 1]);
        // While there is no bulk nothing is owed to it but the next turn.
        (1..=50).for_each(|seq| deliveries.push(delivery("a", Lane::Control, seq)));
        assert_eq!(take(&mut deliveries, 40).len(), 40);
        deliveries.push(delivery("b", Lane::Bulk, 2));
        deliveries.push(delivery("b", Lane::Bulk, 3));
        assert_eq!(take(&mut deliveries, 3), ["bb2", "ca41", "ca42"]);
    }

    #[test]
    fn nothing_of_an_earlier_life_comes_after_a_later_one() {
        let mut deliveries = Deliveries::default();
        let of_life =
            |life, lane, seq| Delivery { origin_incarnation: Incarnation(life), ..delivery("a", lane, seq) };
        for (life, lane, seq) in [
            (1, Lane::Bulk, 1),
            (1, Lane::Bulk, 2),
            (2, Lane::Control, 3),
            (2, Lane::Bulk, 4),
            (3, Lane::Bulk, 5),
        ] {
            deliveries.push(of_life(life, lane, seq));
        }
        deliveries.push(delivery("b", Lane::Control, 1));
        assert_eq!(take(&mut deliveries, 9), ["cb1", "ba1", "ba2", "ca3", "ba4", "ba5"]);
        assert!(deliveries.is_empty() && deliveries.bytes() == 0);
    }

    #[test]
    fn a_backlog_takes_no_room_when_it_is_gone() {
        let mut deliveries = Deliveries::default();
        (0..10_000).for_each(|seq| deliveries.push(delivery("a", Lane::Bulk, seq)));
        assert_eq!(deliveries.bytes(), 10_000 * (4 + MESSAGE_OVERHEAD_BYTES));
        assert_eq!(take(&mut deliveries, 9_999).len(), 9_999);
        let places = |life: &Life| life.queues[1].messages.capacity();
        assert!(deliveries.origins.values().flatten().all(|life| places(life) <= KEPT_MAX));
        assert_eq!((take(&mut deliveries, 2).len(), deliveries.origins.len()), (1, 0));
    }
}
