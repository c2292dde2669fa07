//! What the receiver of a flow has room for: what is under way is kept within it.

use std::time::Duration;

use trunkline_codec::Payload;

use super::{Flow, charge};
use crate::proto::time::Micros;
use crate::proto::wire::ROOM_UNKNOWN;
use crate::settings::MESSAGE_OVERHEAD_BYTES;

/// A receiver without room says so when it has some again, and that word may be lost with a link: after so long without any,
/// one message asks.
pub(super) const STARVED_ASKS_AFTER: Duration = Duration::from_millis(500);

impl Flow {
    /// What the receiver can take beside what an ack says it has; `decided` is that ack's. An older one than was seen before
    /// says nothing.
    pub fn set_room(&mut self, room_kib: u32, decided: u64) {
        if room_kib == ROOM_UNKNOWN || decided < self.decided {
            return;
        }
        self.room = usize::try_from(u64::from(room_kib) * 1024).ok();
        if !self.is_starved() {
            self.starves_since = None;
        }
    }

    /// What the receiver has room for beside what is under way, bytes; `None` while it has not said.
    #[must_use]
    pub fn room_left(&self) -> Option<u64> {
        self.room.map(|room| u64::try_from(room.saturating_sub(self.flying_bytes)).unwrap_or(u64::MAX))
    }

    /// A message that is under way was given up. It comes to the receiver all the same, which has not said so yet.
    pub fn spend_room(&mut self, payload: &Payload) {
        self.room = self.room.map(|room| room.saturating_sub(charge(payload)));
    }

    /// The message that goes next is more than the receiver can take beside what is under way. The one that it waits for it
    /// takes in any case.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        let some = !self.retry.is_empty() || !self.queue.is_empty();
        some && !self.next_is_awaited()
            && self.room.is_some_and(|room| self.flying_bytes + self.next_charge() > room)
    }

    /// The receiver said that everything in front of the message that goes next is decided. That it was given up here is not
    /// enough: the receiver may hold it and wait for room.
    pub(super) fn next_is_awaited(&self) -> bool {
        self.retry.first().copied().unwrap_or(self.next) == self.decided + 1
    }

    /// Until when this flow waits for room, with nothing else to do: for the ack of what is under way, or for one that says
    /// there is room. That one may be lost with its link, so one message asks now and then.
    pub fn waits_for_room(&mut self, now: Micros) -> Option<Micros> {
        if !self.is_starved() || self.asks() {
            return None;
        }
        if self.flying > 0 {
            return Some(Micros::NEVER);
        }
        let until = *self.starves_since.get_or_insert(now) + STARVED_ASKS_AFTER;
        (now < until).then_some(until)
    }

    fn next_charge(&self) -> usize {
        self.next_bytes(true) + MESSAGE_OVERHEAD_BYTES
    }
}
