//! What a destination has and has not decided: it says so over a link once it hands a message over, and that word is lost if
//! the link is. Then somebody has to ask, or a message that was delivered fails at its deadline.

use std::time::Duration;

use super::links::LinkId;
use super::time::Micros;

/// How long nothing is heard of what is held, with nothing under way that would tell, before an empty run asks.
pub const HELD_ASKS_AFTER: Duration = Duration::from_millis(500);

/// The messages of one flow that its destination holds.
#[derive(Debug, Default)]
pub struct Held {
    count: usize,
    /// Over which link it said so last, and when.
    told: Option<(LinkId, Micros)>,
    /// It is to be asked by the next frame.
    due: bool,
    /// Something of it was given up: so often is the floor told by itself, while nothing else is there to carry it.
    floors: u8,
}

/// How often a floor is told by an empty run with nothing alive in its flow: a destination that is dead is not to be told of it
/// for ever, and what is sent next carries it all the same.
const FLOOR_TRIES: u8 = 4;

impl Held {
    /// One more is held.
    pub fn add(&mut self) {
        self.count += 1;
    }

    /// One of them is decided or given up.
    pub fn remove(&mut self) {
        self.count = self.count.saturating_sub(1);
        if self.count == 0 {
            (self.told, self.due) = (None, false);
        }
    }

    /// The destination said over this link what it has. Gives when it is to be asked, if it holds something.
    pub fn told(&mut self, link: LinkId, now: Micros) -> Option<Micros> {
        if self.count == 0 {
            return None;
        }
        (self.told, self.due) = (Some((link, now)), false);
        self.asks_at()
    }

    /// A link is gone, and what was to come over it.
    pub fn lost(&mut self, link: LinkId) {
        self.due |= self.told.is_some_and(|(told, _)| told == link);
    }

    /// When it is to be asked, if it holds something.
    #[must_use]
    pub fn asks_at(&self) -> Option<Micros> {
        self.told.map(|(_, at)| at + HELD_ASKS_AFTER)
    }

    /// It is to be asked now.
    pub fn ask(&mut self) {
        self.due = self.count > 0;
    }

    /// A frame goes out that it will answer; `alone`, if nothing is alive in its flow but the floor that it tells.
    pub fn asked(&mut self, alone: bool) {
        self.due = false;
        self.floors -= u8::from(alone && self.floors > 0);
    }

    /// Something that it holds was given up: it keeps that behind its gap until it hears of the floor.
    pub fn given_up(&mut self) {
        self.floors = FLOOR_TRIES;
    }

    /// The floor is to be told, though nothing is alive that it would be in front of.
    #[must_use]
    pub fn owes_floor(&self) -> bool {
        self.floors > 0
    }

    /// Another life of it holds nothing.
    pub fn restart(&mut self) {
        self.floors = 0;
    }

    /// An empty run is due, unless something else asks.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_when_the_link_is_gone_or_nothing_was_heard_and_not_without_need() {
        let mut held = Held::default();
        assert_eq!(held.told(LinkId(1), Micros(5)), None, "nothing is held");
        held.ask();
        held.lost(LinkId(1));
        assert!(!held.is_due());
        held.add();
        held.add();
        assert_eq!(held.told(LinkId(1), Micros(5)), Some(Micros(5) + HELD_ASKS_AFTER));
        held.lost(LinkId(2));
        assert!(!held.is_due(), "its word came by another one");
        held.lost(LinkId(1));
        assert!(held.is_due());
        held.asked(false);
        assert!(!held.is_due());
        held.ask();
        assert!(held.told(LinkId(2), Micros(9)).is_some() && !held.is_due(), "it has said so");
        held.remove();
        held.ask();
        assert!(held.is_due());
        held.remove();
        assert!(!held.is_due() && held.asks_at().is_none());
    }
}
