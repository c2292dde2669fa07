//! Messages of a flow that have no seq yet, in the order in which they came. Most leave at the front; one that leaves before its
//! turn, replaced or too old, leaves a gap behind, and gaps are closed once they are more than what is between them.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use super::{MessageId, Pending};
use crate::proto::spare::give_back;

/// Places that a queue keeps whatever is in it, and gaps that are not worth closing.
const KEPT_MAX: usize = 16;

/// Messages that wait for their first attempt.
#[derive(Debug, Default)]
pub struct Queued {
    /// By number, which rises. The first and the last one are no gaps.
    places: VecDeque<(MessageId, Option<Pending>)>,
    len: usize,
}

impl Queued {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes a message in. It is later than all before.
    pub fn push(&mut self, pending: Pending) {
        debug_assert!(self.places.back().is_none_or(|(last, _)| *last < pending.id));
        self.places.push_back((pending.id, Some(pending)));
        self.len += 1;
    }

    /// Takes the message in that was taken out at the front last.
    pub fn put_back(&mut self, pending: Pending) {
        debug_assert!(self.places.front().is_none_or(|(first, _)| pending.id < *first));
        self.places.push_front((pending.id, Some(pending)));
        self.len += 1;
    }

    /// The first one.
    #[must_use]
    pub fn first(&self) -> Option<&Pending> {
        self.places.front()?.1.as_ref()
    }

    /// The last one.
    #[must_use]
    pub fn last(&self) -> Option<&Pending> {
        self.places.back()?.1.as_ref()
    }

    /// Takes the first one out.
    pub fn pop_first(&mut self) -> Option<Pending> {
        let (_, pending) = self.places.pop_front()?;
        self.len -= 1;
        self.trim();
        pending
    }

    /// The message of this number.
    #[must_use]
    pub fn get(&self, id: MessageId) -> Option<&Pending> {
        let place = self.places.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.places[place].1.as_ref()
    }

    /// Takes the message of this number out.
    pub fn remove(&mut self, id: MessageId) -> Option<Pending> {
        let place = self.places.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        let pending = self.places[place].1.take()?;
        self.len -= 1;
        if self.places.len() - self.len > self.len.max(KEPT_MAX) {
            self.places.retain(|(_, pending)| pending.is_some());
        }
        self.trim();
        Some(pending)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Pending> {
        self.places.iter().filter_map(|(_, pending)| pending.as_ref())
    }

    /// Those with these numbers.
    pub fn range(&self, ids: &RangeInclusive<MessageId>) -> impl Iterator<Item = &Pending> {
        let from = self.places.partition_point(|(id, _)| id < ids.start());
        let within = self.places.range(from..).take_while(|(id, _)| id <= ids.end());
        within.filter_map(|(_, pending)| pending.as_ref())
    }

    /// Those from this number on.
    pub fn from_mut(&mut self, id: MessageId) -> impl Iterator<Item = &mut Pending> {
        let from = self.places.partition_point(|(of, _)| *of < id);
        self.places.range_mut(from..).filter_map(|(_, pending)| pending.as_mut())
    }

    /// Gives up gaps at either end, and places that many messages needed once few do.
    fn trim(&mut self) {
        while self.places.pop_front_if(|(_, pending)| pending.is_none()).is_some() {}
        while self.places.pop_back_if(|(_, pending)| pending.is_none()).is_some() {}
        give_back(&mut self.places, KEPT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use trunkline_codec::Payload;

    use super::*;
    use crate::proto::client::Ticket;
    use crate::proto::time::Micros;

    fn pending(id: u64) -> Pending {
        Pending {
            id: MessageId(id),
            ticket: Ticket(1),
            index: 0,
            kind: 0,
            slot: None,
            expires_at: Micros(9),
            group: MessageId(id),
            payload: Payload::default(),
        }
    }

    fn ids<'a>(pending: impl Iterator<Item = &'a Pending>) -> Vec<u64> {
        pending.map(|pending| pending.id.0).collect()
    }

    #[test]
    fn it_holds_what_an_ordinary_map_holds() {
        let mut rng = fastrand::Rng::with_seed(5);
        let (mut queued, mut map) = (Queued::default(), BTreeMap::new());
        let mut next = 1;
        for step in 0..20_000_u64 {
            let grows = if step / 2_000 % 2 == 0 { 70 } else { 30 };
            if rng.u64(0..100) < grows {
                next += rng.u64(1..3);
                queued.push(pending(next));
                map.insert(next, ());
            } else if rng.u8(..4) == 0 {
                let id = rng.u64(next.saturating_sub(200)..next + 2);
                let taken = queued.remove(MessageId(id)).map(|pending| pending.id.0);
                assert_eq!(taken, map.remove(&id).map(|()| id));
            } else {
                let taken = queued.pop_first();
                assert_eq!(taken.as_ref().map(|pending| pending.id.0), map.pop_first().map(|(id, ())| id));
                if let Some(taken) = taken.filter(|_| rng.bool()) {
                    map.insert(taken.id.0, ());
                    queued.put_back(taken);
                }
            }
            assert_eq!((queued.len(), queued.is_empty()), (map.len(), map.is_empty()));
            assert_eq!(queued.first().map(|first| first.id.0), map.first_key_value().map(|(id, ())| *id));
            assert_eq!(queued.last().map(|last| last.id.0), map.last_key_value().map(|(id, ())| *id));
            let id = rng.u64(next.saturating_sub(50)..next + 2);
            assert_eq!(queued.get(MessageId(id)).is_some(), map.contains_key(&id));
            assert!(queued.places.len() <= 2 * queued.len() + KEPT_MAX + 1, "gaps are closed");
            if step % 100 == 0 {
                assert!(ids(queued.iter()).into_iter().eq(map.keys().copied()));
                let range = MessageId(id.saturating_sub(30))..=MessageId(id);
                let expected: Vec<u64> = map.range(range.start().0..=id).map(|(id, ())| *id).collect();
                assert_eq!(ids(queued.range(&range)), expected);
                let from: Vec<u64> = map.range(id..).map(|(id, ())| *id).collect();
                assert_eq!(queued.from_mut(MessageId(id)).map(|of| of.id.0).collect::<Vec<_>>(), from);
            }
        }
    }

    /// Some flows always have one that waits.
    #[test]
    fn places_of_many_are_given_back_while_one_is_left() {
        let mut queued = Queued::default();
        (1..=10_000).for_each(|id| queued.push(pending(id)));
        assert!((1..10_000).all(|id| queued.pop_first().is_some_and(|first| first.id.0 == id)));
        assert_eq!(ids(queued.iter()), [10_000]);
        assert!(queued.places.capacity() <= KEPT_MAX);
    }

    /// One that is stuck at the front, and slots whose messages are replaced behind it for ever.
    #[test]
    fn what_is_replaced_behind_one_that_stays_takes_no_room() {
        let mut queued = Queued::default();
        queued.push(pending(1));
        queued.push(pending(2));
        for id in 3..10_000 {
            queued.push(pending(id));
            assert!(queued.remove(MessageId(id - 1)).is_some());
            assert!(queued.places.len() <= KEPT_MAX + 3);
        }
        assert_eq!(ids(queued.iter()), [1, 9_999]);
    }
}
