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

/// Who is expected to answer one origin, and until when what came of them waits for the others. Lanes share nothing but the guess
/// what an answer is to: members may answer on one lane what they get on the other, as a few bytes to an append.
#[derive(Debug, Default)]
pub struct Answers {
    /// By the lane on which they got it: members that got something and have not answered yet, and when they got it last.
    asked: [BTreeMap<PeerIx, Micros>; 2],
    /// By the lane on which they answer.
    lanes: [OfLane; 2],
}

/// The answers on one lane.
#[derive(Debug, Default)]
struct OfLane {
    /// By the lane on which they are asked: members that did not keep the others waiting in vain when they were expected last.
    prompt: [BTreeSet<PeerIx>; 2],
    /// Those of them that got something on that lane and have not answered yet, and when they got it.
    expected: [BTreeMap<PeerIx, Micros>; 2],
    waiting: Waiting,
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
    /// Something of the origin is passed on to a member, on this lane.
    pub fn expect(&mut self, member: PeerIx, asked: Lane, now: Micros) {
        let asked = asked.index();
        self.asked[asked].insert(member, now);
        for of_lane in &mut self.lanes {
            if of_lane.prompt[asked].contains(&member) {
                of_lane.expected[asked].insert(member, now);
            }
        }
    }

    /// A member answers: when that goes, which is `delay` from now at the latest.
    pub fn take(&mut self, member: PeerIx, lane: Lane, delay: Duration, now: Micros) -> Micros {
        let asked = self.answered(member, lane, now);
        let of_lane = &mut self.lanes[lane.index()];
        of_lane.prompt[asked].insert(member);
        of_lane.expected[asked].remove(&member);
        let waiting = &mut of_lane.waiting;
        if let Some(until) = waiting.until {
            let all_came = waiting.for_others && of_lane.expected.iter().all(BTreeMap::is_empty);
            let until = if all_came { until.min(now) } else { until };
            waiting.until = Some(until);
            return until;
        }
        for expected in &mut of_lane.expected {
            expected.retain(|_, at| now.since(*at) < EXPECTED_FOR);
        }
        let for_others = of_lane.expected.iter().any(|expected| !expected.is_empty());
        let until = match of_lane.sent_at {
            _ if for_others => now + delay,
            Some(at) => now.max(at + delay),
            None => now,
        };
        *waiting = Waiting { until: Some(until), for_others };
        until
    }

    /// The lane of what a member answers: the lane of its answer, unless all that it got there was answered and it got something on
    /// the other one a moment ago.
    fn answered(&mut self, member: PeerIx, lane: Lane, now: Micros) -> usize {
        let own = lane.index();
        let mut was_asked = |lane: usize| {
            self.asked[lane].remove(&member).is_some_and(|at: Micros| now.since(at) < EXPECTED_FOR)
        };
        if was_asked(own) || !was_asked(1 - own) { own } else { 1 - own }
    }

    /// There is so much of it that nothing is gained by waiting.
    pub fn hurry(&mut self, lane: Lane, now: Micros) {
        let until = &mut self.lanes[lane.index()].waiting.until;
        *until = until.map(|until| until.min(now));
    }

    /// What there is goes now.
    #[must_use]
    pub fn is_due(&self, lane: Lane, now: Micros) -> bool {
        self.lanes[lane.index()].waiting.until.is_some_and(|until| until <= now)
    }

    /// Time is up: whoever has not answered by now is not waited for again before it has.
    pub fn ring(&mut self, lane: Lane, now: Micros) {
        if !self.is_due(lane, now) || !self.lanes[lane.index()].waiting.for_others {
            return;
        }
        let OfLane { prompt, expected, .. } = &mut self.lanes[lane.index()];
        for (prompt, expected) in prompt.iter_mut().zip(expected) {
            for (member, _) in std::mem::take(expected) {
                prompt.remove(&member);
            }
        }
    }

    /// A frame of them is made; `more` of them do not fit into it.
    pub fn sent(&mut self, lane: Lane, more: bool, now: Micros) {
        let of_lane = &mut self.lanes[lane.index()];
        of_lane.sent_at = Some(now);
        of_lane.waiting = Waiting { until: more.then_some(now), for_others: false };
    }

    /// Nobody else is a member now.
    pub fn keep(&mut self, members: &BTreeSet<PeerIx>) {
        let times = self.lanes.iter_mut().flat_map(|of_lane| &mut of_lane.expected).chain(&mut self.asked);
        times.for_each(|times| times.retain(|member, _| members.contains(member)));
        for prompt in self.lanes.iter_mut().flat_map(|of_lane| &mut of_lane.prompt) {
            prompt.retain(|member| members.contains(member));
        }
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
            answers.lanes[LANE.index()].prompt[LANE.index()].insert(member);
            answers.expect(member, LANE, now);
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
            answers.expect(PeerIx(member), LANE, Micros(50_000));
        }
        assert_eq!(answers.take(PeerIx(1), LANE, DELAY, Micros(50_300)), Micros(50_300));
        answers.sent(LANE, false, Micros(50_300));
        assert_eq!(answers.take(PeerIx(2), LANE, DELAY, Micros(60_000)), Micros(60_000), "late, and alone");
        answers.sent(LANE, false, Micros(60_000));
        for member in [1, 2] {
            answers.expect(PeerIx(member), LANE, Micros(90_000));
        }
        assert_eq!(answers.take(PeerIx(1), LANE, DELAY, Micros(90_300)), Micros(91_300));
        answers.keep(&BTreeSet::from([PeerIx(1)]));
        answers.expect(PeerIx(2), LANE, Micros(90_400));
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

    #[test]
    fn what_bulk_does_keeps_no_answer_on_control_waiting() {
        // A frame of bulk went a moment ago.
        let mut answers = Answers::default();
        answers.sent(Lane::Bulk, false, Micros(1_000));
        assert_eq!(answers.take(PeerIx(1), LANE, DELAY, Micros(1_200)), Micros(1_200));
        // Others got bulk, and answer that on bulk, later.
        let mut answers = Answers::default();
        for member in [1, 2].map(PeerIx) {
            for lane in [LANE, Lane::Bulk] {
                answers.expect(member, lane, Micros(0));
                answers.take(member, lane, DELAY, Micros(100));
                answers.sent(lane, false, Micros(100));
            }
        }
        answers.expect(PeerIx(2), Lane::Bulk, Micros(10_000));
        answers.expect(PeerIx(1), LANE, Micros(10_000));
        assert_eq!(answers.take(PeerIx(1), LANE, DELAY, Micros(10_200)), Micros(10_200));
        // Nor does it, by being slow, make those that are prompt on control go without each other.
        answers.sent(LANE, false, Micros(10_200));
        assert_eq!(answers.take(PeerIx(1), Lane::Bulk, DELAY, Micros(10_300)), Micros(11_300));
        answers.ring(Lane::Bulk, Micros(11_300));
        for member in [1, 2].map(PeerIx) {
            answers.expect(member, LANE, Micros(20_000));
        }
        assert_eq!(answers.take(PeerIx(1), LANE, DELAY, Micros(20_200)), Micros(21_200));
    }

    #[test]
    fn what_is_asked_on_bulk_and_answered_on_control_goes_together_too() {
        let mut answers = Answers::default();
        let ask = |answers: &mut Answers, at: Micros| {
            for member in [1, 2].map(PeerIx) {
                answers.expect(member, Lane::Bulk, at);
            }
        };
        ask(&mut answers, Micros(0));
        assert_eq!(answers.take(PeerIx(1), LANE, DELAY, Micros(300)), Micros(300), "not known yet");
        answers.sent(LANE, false, Micros(300));
        assert_eq!(answers.take(PeerIx(2), LANE, DELAY, Micros(400)), Micros(1_300));
        answers.sent(LANE, false, Micros(1_300));
        ask(&mut answers, Micros(9_000));
        assert_eq!(answers.take(PeerIx(1), LANE, DELAY, Micros(9_300)), Micros(10_300));
        assert_eq!(answers.take(PeerIx(2), LANE, DELAY, Micros(9_400)), Micros(9_400), "all came");
        assert!(!answers.is_due(Lane::Bulk, Micros(20_000)), "nothing waits there");
    }
}
