//! What a destination has and has not decided: it says so over a link once it hands a message over, and that word is lost if
//! the link is. Then somebody has to ask, or a message that was delivered fails at its deadline. And where only a proxy says so, and
//! nothing is decided, somebody else is to be asked.

use std::time::Duration;

use super::flow::Way;
use super::links::LinkId;
use super::time::Micros;

/// How long nothing is heard of what is held, with nothing under way that would tell, before an empty run asks.
pub const HELD_ASKS_AFTER: Duration = Duration::from_millis(500);

/// How long a destination holds something and decides nothing, as a proxy says, until another way is to say so too; twice as long
/// each time that it does, and no longer than the second one.
pub const HELD_DOUBTED_AFTER: Duration = Duration::from_secs(1);
/// See [`HELD_DOUBTED_AFTER`].
pub const HELD_DOUBTED_MAX: Duration = Duration::from_secs(8);

/// Stretches of seqs that are doubted at once: the lowest ones, which are to be decided first.
const DOUBTED_MAX: usize = 32;

/// What a proxy says is held, and another way is asked for.
#[derive(Clone, Debug)]
pub struct Doubt {
    /// Who says so.
    pub by: Way,
    /// Since when. What is sealed later is answered by one who knows.
    pub at: Micros,
    /// First seqs, and those behind the last ones.
    pub stretches: Vec<(u64, u64)>,
}

impl Doubt {
    /// A doubt of these seqs, which come in their order.
    pub fn new(by: Way, at: Micros, seqs: impl Iterator<Item = u64>) -> Self {
        let mut stretches: Vec<(u64, u64)> = Vec::new();
        for seq in seqs {
            let full = stretches.len() == DOUBTED_MAX;
            match stretches.last_mut().filter(|(_, end)| *end == seq) {
                Some((_, end)) => *end = end.saturating_add(1),
                None if full => break,
                None => stretches.push((seq, seq.saturating_add(1))),
            }
        }
        Self { by, at, stretches }
    }

    /// It is of this seq, too.
    #[must_use]
    pub fn is_of(&self, seq: u64) -> bool {
        self.stretches.iter().any(|(first, end)| (*first..*end).contains(&seq))
    }
}

/// The messages of one flow that its destination holds.
#[derive(Debug, Default)]
pub struct Held {
    count: usize,
    /// Since when it holds something and decides nothing.
    stuck_since: Option<Micros>,
    /// How often another way said that it does.
    confirmed: u32,
    /// What another way is asked for.
    doubt: Option<Doubt>,
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
            (self.stuck_since, self.confirmed, self.doubt) = (None, 0, None);
        }
    }

    /// The destination said over this link what it has. Gives when it is to be asked, if it holds something.
    pub fn told(&mut self, link: LinkId, now: Micros) -> Option<Micros> {
        if self.count == 0 {
            return None;
        }
        (self.told, self.due) = (Some((link, now)), false);
        self.stuck_since.get_or_insert(now);
        self.asks_at()
    }

    /// It decided something.
    pub fn moved(&mut self, now: Micros) {
        self.stuck_since = self.stuck_since.map(|_| now);
        (self.confirmed, self.doubt) = (0, None);
    }

    /// It has decided nothing for so long that the word of a proxy is to be doubted.
    #[must_use]
    pub fn is_doubtful(&self, now: Micros) -> bool {
        let wait = (HELD_DOUBTED_AFTER * (1 << self.confirmed.min(8))).min(HELD_DOUBTED_MAX);
        self.stuck_since.is_some_and(|since| now >= since + wait)
    }

    /// Another way is asked.
    pub fn begin_doubt(&mut self, doubt: Doubt) {
        self.stuck_since = Some(doubt.at);
        self.doubt = Some(doubt);
    }

    /// What another way is asked for.
    #[must_use]
    pub fn doubt(&self) -> Option<&Doubt> {
        self.doubt.as_ref()
    }

    /// Another way answered.
    pub fn end_doubt(&mut self, confirmed: bool) {
        self.doubt = None;
        self.confirmed = if confirmed { self.confirmed.saturating_add(1) } else { 0 };
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
        (self.floors, self.doubt) = (0, None);
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

    #[test]
    fn what_is_held_and_does_not_move_is_doubted_and_more_seldom_the_more_often_it_is_confirmed() {
        let (mut held, p) = (Held::default(), Way::Proxy(0));
        held.add();
        assert!(!held.is_doubtful(Micros::NEVER), "not since any time");
        let mut now = Micros(5);
        held.told(LinkId(1), now);
        for seconds in [1, 2, 4, 8, 8] {
            // However often it is said.
            held.told(LinkId(1), now + Duration::from_millis(999));
            assert!(!held.is_doubtful(now + Duration::from_millis(seconds * 1000 - 1)));
            now = now + Duration::from_secs(seconds);
            assert!(held.is_doubtful(now));
            held.begin_doubt(Doubt::new(p, now, [3, 4, 7].into_iter()));
            assert_eq!(held.doubt().unwrap().stretches, [(3, 5), (7, 8)]);
            assert!(!held.is_doubtful(now));
            held.end_doubt(true);
        }
        held.moved(now);
        assert!(!held.is_doubtful(now + Duration::from_millis(999)));
        assert!(held.is_doubtful(now + HELD_DOUBTED_AFTER));
        held.remove();
        assert!(!held.is_doubtful(Micros::NEVER));
        assert_eq!(Doubt::new(p, now, (0..100).map(|seq| 2 * seq)).stretches.len(), DOUBTED_MAX);
    }
}
