//! Whose word the life of a destination is: its own, or that of a proxy, which nothing but the destination itself can refute.

use std::collections::{BTreeSet, VecDeque};

use super::flow::Way;
use super::links::LinkId;
use crate::id::Incarnation;

/// Who said which life a destination lives.
#[derive(Debug)]
pub struct Hearsay {
    /// None: the destination itself, or nobody.
    by: Option<Way>,
    /// Links from this one on were begun since.
    since: LinkId,
    /// Something was answered since.
    answered: bool,
    /// Its own word was older than that, and it is asked again.
    asked: bool,
    /// Lives that it was known by since it said one itself, the latest of them.
    before: VecDeque<Incarnation>,
}

/// Lives that are remembered. A proxy that says more of them costs what one costs whose member restarted.
const BEFORE_MAX: usize = 8;

impl Default for Hearsay {
    fn default() -> Self {
        Self { by: None, since: LinkId(0), answered: false, asked: false, before: VecDeque::new() }
    }
}

impl Hearsay {
    /// Another life is said by a proxy, or by the destination itself; until now it was known by `before`. What links from `since` on bring is
    /// news.
    pub fn note(&mut self, by: Option<Way>, before: Incarnation, since: LinkId) {
        if by.is_none() {
            self.before.clear();
        } else if before.is_known() {
            self.before.truncate(BEFORE_MAX - 1);
            self.before.push_front(before);
        }
        (self.by, self.since) = (by, since);
        (self.answered, self.asked) = (false, false);
    }

    /// Its own word is older than that of a proxy, and may be the last of a process that is gone. It is asked again: until that comes to an
    /// end nobody else is believed, or who says ever more lives would keep it out.
    pub fn ask(&mut self, asked: bool) {
        self.asked = asked;
    }

    /// See [`Hearsay::ask`].
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.asked
    }

    /// Something was answered.
    pub fn answered(&mut self) {
        self.answered = true;
    }

    /// It lives this life by a proxy's word alone, and nothing that was sent to it was answered.
    #[must_use]
    pub fn is_unproven(&self) -> bool {
        self.by.is_some() && !self.answered
    }

    /// A link to it was begun before that was said, and says nothing of it.
    #[must_use]
    pub fn is_older(&self, link: LinkId) -> bool {
        link < self.since
    }

    /// The destination says itself that it lives this life. Gives who said another one last, and whether it was known by this one before
    /// that: then it lived it all the time.
    pub fn settle(&mut self, life: Incarnation) -> (Option<Way>, bool) {
        let known = self.before.contains(&life);
        self.before.clear();
        self.asked = false;
        (self.by.take(), known)
    }

    /// These ways do not know the destination in its life, or do not reach it. Where that is another one's word, the destination is to be
    /// asked.
    #[must_use]
    pub fn ask_itself(&self, refused: &BTreeSet<Way>) -> bool {
        self.by.is_some_and(|by| refused.iter().any(|way| *way != by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_that_was_said_in_between_is_forgotten_and_a_proxys_word_is_doubted_by_others() {
        let [p, q] = [Way::Proxy(0), Way::Proxy(1)];
        let mut hearsay = Hearsay::default();
        assert!(!hearsay.ask_itself(&[p].into()), "nobody said anything");
        hearsay.note(Some(p), Incarnation::UNKNOWN, LinkId(1));
        hearsay.note(Some(p), Incarnation(7), LinkId(2));
        hearsay.note(Some(p), Incarnation(9), LinkId(3));
        assert!(hearsay.is_older(LinkId(2)) && !hearsay.is_older(LinkId(3)));
        assert!(!hearsay.ask_itself(&[p].into()) && hearsay.ask_itself(&[p, q].into()));
        assert_eq!(hearsay.settle(Incarnation(7)), (Some(p), true));
        assert_eq!(hearsay.settle(Incarnation(7)), (None, false), "once");
        (0..100).for_each(|life| hearsay.note(Some(q), Incarnation(life), LinkId(4)));
        assert_eq!(hearsay.before.len(), BEFORE_MAX);
        hearsay.note(None, Incarnation(99), LinkId(4));
        assert_eq!(
            (hearsay.settle(Incarnation(99)), hearsay.ask_itself(&[p].into())),
            ((None, false), false)
        );
    }
}
