//! When a proxy passes on what members of its datacenter answer an origin elsewhere: those that come at about one time go in
//! one frame. Whoever answers alone waits for nobody.
//!
//! ```text
//!                        others are expected, or a frame went a moment ago
//!  nothing ──an answer──────────────────────────────────────────────────────▶ waits, at most for `ack_delay`
//!     ▲        │ neither                                                       │ the last one expected came, or time is up
//!     │        ▼                                                               ▼
//!     └── a frame of all that is there ◀──────────────────────────────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::links::PeerIx;
use super::time::Micros;
use crate::id::Lane;

/// What was passed on to a member longer ago is not about to be answered.
const EXPECTED_FOR: Duration = Duration::from_millis(100);

/// Who is expected to answer one origin, and until when what came of them waits for the others.
#[derive(Debug, Default)]
pub struct Answers {
    /// Members that did not keep the others waiting in vain when they were expected last.
    prompt: BTreeSet<PeerIx>,
    /// Those of them that got something and have not answered yet, and when they got it.
    expected: BTreeMap<PeerIx, Micros>,
    lanes: [Waiting; 2],
    /// When the last frame went.
    sent_at: Option<Micros>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    /// When what there is goes.
    until: Option<Micros>,
    /// It waits for those that are expected, and not only for the moment.
    for_others: bool,
}

impl Answers {
    /// Something of the origin is passed on to a member.
    pub fn expect(&mut self, member: PeerIx, now: Micros) {
        if self.prompt.contains(&member) {
            self.expected.insert(member, now);
        }
    }

    /// A member answers: when that goes, which is `delay` from now at the latest.
    pub fn take(&mut self, member: PeerIx, lane: Lane, delay: Duration, now: Micros) -> Micros {
        self.prompt.insert(member);
        self.expected.remove(&member);
        let waiting = &mut self.lanes[lane.index()];
        if let Some(until) = waiting.until {
            let all_came = waiting.for_others && self.expected.is_empty();
            let until = if all_came { until.min(now) } else { until };
            waiting.until = Some(until);
            return until;
        }
        self.expected.retain(|_, at| now.since(*at) < EXPECTED_FOR);
        let for_others = !self.expected.is_empty();
        let until = match self.sent_at {
            _ if for_others => now + delay,
            Some(at) => now.max(at + delay),
            None => now,
        };
        *waiting = Waiting { until: Some(until), for_others };
        until
    }

    /// There is so much of it that nothing is gained by waiting.
    pub fn hurry(&mut self, lane: Lane, now: Micros) {
        let until = &mut self.lanes[lane.index()].until;
        *until = until.map(|until| until.min(now));
    }

    /// What there is goes now.
    #[must_use]
    pub fn is_due(&self, lane: Lane, now: Micros) -> bool {
        self.lanes[lane.index()].until.is_some_and(|until| until <= now)
    }

    /// Time is up: whoever has not answered by now is not waited for again before it has.
    pub fn ring(&mut self, lane: Lane, now: Micros) {
        if self.is_due(lane, now) && self.lanes[lane.index()].for_others {
            for (member, _) in std::mem::take(&mut self.expected) {
                self.prompt.remove(&member);
            }
        }
    }

    /// A frame of them is made; `more` of them do not fit into it.
    pub fn sent(&mut self, lane: Lane, more: bool, now: Micros) {
        self.sent_at = Some(now);
        self.lanes[lane.index()] = Waiting { until: more.then_some(now), for_others: false };
    }

    /// Nobody else is a member now.
    pub fn keep(&mut self, members: &BTreeSet<PeerIx>) {
        self.prompt.retain(|member| members.contains(member));
        self.expected.retain(|member, _| members.contains(member));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(1);
    const LANE: Lane = Lane::Control;

    /// All of these got something at this moment, and have answered promptly before.
    fn asked(members: impl IntoIterator<Item = usize>, now: Micros) -> Answers {
        let mut answers = Answers::default();
        for member in members.into_iter().map(PeerIx) {
            answers.prompt.insert(member);
            answers.expect(member, now);
        }
        answers
    }

    #[test]
    fn who_is_alone_waits_for_nobody() {
        let mut answers = Answers::default();
        assert_eq!(answers.take(PeerIx(1), LANE, DELAY, Micros(5_000)), Micros(5_000));
        answers.sent(LANE, false, Micros(5_000));
        assert_eq!(answers.take(PeerIx(1), LANE, DELAY, Micros(6_000)), Micros(6_000));
        answers.sent(LANE, false, Micros(6_000));
        // Nobody is waited for who got something long ago.
        let mut answers = asked([1, 2], Micros(0));
        assert_eq!(answers.take(PeerIx(1), LANE, DELAY, Micros(100_000)), Micros(100_000));
    }

    #[test]
    fn those_that_are_expected_go_together_and_nobody_waits_longer_than_the_delay() {
        let mut answers = asked([1, 2, 3], Micros(0));
        assert_eq!(answers.take(PeerIx(2), LANE, DELAY, Micros(300)), Micros(1_300));
        assert_eq!(answers.take(PeerIx(1), LANE, DELAY, Micros(400)), Micros(1_300));
        assert!(!answers.is_due(LANE, Micros(400)) && !answers.is_due(Lane::Bulk, Micros(9_000)));
        assert_eq!(answers.take(PeerIx(3), LANE, DELAY, Micros(500)), Micros(500), "the last one");
        assert!(answers.is_due(LANE, Micros(500)));
        answers.sent(LANE, false, Micros(500));
        assert!(!answers.is_due(LANE, Micros(9_000)));
    }

    #[test]
    fn whoever_kept_others_waiting_in_vain_is_not_waited_for_until_it_answers() {
        let mut answers = asked([1, 2], Micros(0));
        assert_eq!(answers.take(PeerIx(1), LANE, DELAY, Micros(300)), Micros(1_300));
        answers.ring(LANE, Micros(1_300));
        answers.sent(LANE, false, Micros(1_300));
        for member in [1, 2] {
            answers.expect(PeerIx(member), Micros(50_000));
        }
        assert_eq!(answers.take(PeerIx(1), LANE, DELAY, Micros(50_300)), Micros(50_300));
        answers.sent(LANE, false, Micros(50_300));
        assert_eq!(answers.take(PeerIx(2), LANE, DELAY, Micros(60_000)), Micros(60_000), "late, and alone");
        answers.sent(LANE, false, Micros(60_000));
        for member in [1, 2] {
            answers.expect(PeerIx(member), Micros(90_000));
        }
        assert_eq!(answers.take(PeerIx(1), LANE, DELAY, Micros(90_300)), Micros(91_300));
        answers.keep(&BTreeSet::from([PeerIx(1)]));
        answers.expect(PeerIx(2), Micros(90_400));
        assert_eq!(answers.take(PeerIx(1), LANE, DELAY, Micros(90_500)), Micros(90_500));
    }

    #[test]
    fn what_comes_right_behind_a_frame_waits_for_the_next_one_and_much_of_it_does_not() {
        let mut answers = Answers::default();
        answers.sent(LANE, false, Micros(1_000));
        assert_eq!(answers.take(PeerIx(1), LANE, DELAY, Micros(1_200)), Micros(2_000));
        assert_eq!(answers.take(PeerIx(1), LANE, DELAY, Micros(1_300)), Micros(2_000), "the frame's time");
        answers.hurry(LANE, Micros(1_400));
        assert!(answers.is_due(LANE, Micros(1_400)));
        answers.sent(LANE, true, Micros(1_400));
        assert!(answers.is_due(LANE, Micros(1_400)), "what did not fit goes at once");
    }
}
