//! What a flow leaves alone for a while, and for how long: ways that failed it, and a receiver that is full. After failures
//! in a row it sends single messages until one is answered.

use std::collections::BTreeMap;
use std::time::Duration;

use super::flow::Way;
use super::reports::{Ejection, REPORT_KEPT};
use super::time::Micros;
use super::wire::RefusedReason;

/// What failed a flow on a way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Nobody answered in time.
    TimedOut,
    /// The proxy or the receiver refused, for this reason if it is one that this version knows.
    Refused(Option<RefusedReason>),
    /// The peer takes no frame as long as this flow needs.
    FrameLimit,
    /// The destination could not be dialled.
    DialFailed,
    /// The destination says that the proxy acknowledged what it never had.
    FalseAck,
}

impl Cause {
    /// As people read it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::TimedOut => "timed_out",
            Self::Refused(reason) => reason.map_or("refused", RefusedReason::label),
            Self::FrameLimit => "frame_limit",
            Self::DialFailed => "dial_failed",
            Self::FalseAck => "false_ack",
        }
    }
}

/// An attempt that came to nothing, for whoever tells people of it. That the receiver is full is none: it answers. That a proxy has no
/// room for it is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failing {
    /// When that was known.
    pub at: Micros,
    /// Its way.
    pub way: Way,
    /// What came of it.
    pub cause: Cause,
}

#[derive(Clone, Copy, Debug)]
struct Avoided {
    until: Micros,
    pause: Duration,
    cause: Cause,
    /// A message says whether it works again, until then at most, while the others take a way that does.
    trial_until: Micros,
    /// Another way brought an answer since this one failed: it is not the destination, and this way is not needed.
    answered_elsewhere: bool,
}

impl Avoided {
    fn left_until(&self) -> Micros {
        self.until.max(self.trial_until)
    }
}

/// The least that a way refused as too large, payload bytes.
#[derive(Clone, Copy, Debug)]
struct TooLarge {
    bytes: usize,
    until: Micros,
}

/// The pauses of one flow.
#[derive(Debug)]
pub struct Pauses {
    avoided: BTreeMap<Way, Avoided>,
    /// Ways by which the destination says that it was lied about.
    distrusted: BTreeMap<Way, Ejection>,
    /// When a way was last found to have said what is not so, without having been distrusted for it.
    false_at: BTreeMap<Way, Micros>,
    /// Ways that take what is smaller.
    limits: BTreeMap<Way, TooLarge>,
    full_until: Micros,
    full_pause: Duration,
    failures: u32,
    /// The last attempt that came to nothing, while nothing was answered since.
    failing: Option<Failing>,
    /// It was silent alone by a proxy: a direct link, once there is one, says whether it is the proxy or itself.
    probes_directly: bool,
}

/// First pause of one flow on a way that failed it, and longest.
const AVOID_MIN: Duration = Duration::from_millis(200);
const AVOID_MAX: Duration = Duration::from_secs(2);

/// The same of a way that is not needed, for another one answered: the way back, and a proxy that was silent, or called the receiver
/// full. Messages behind the one that tries it wait for that one.
const AVOID_UNNEEDED_MAX: Duration = Duration::from_secs(60);

/// How long it is known what a way refused as too large: the limit belongs to a link that this end does not see.
const LIMIT_KEPT: Duration = Duration::from_secs(60);

/// First pause after the receiver was full, and longest.
const FULL_MIN: Duration = Duration::from_millis(10);
const FULL_MAX: Duration = Duration::from_millis(500);

/// How long a receiver is full, as one proxy says, and nothing moves, until another proxy is asked.
pub const FULL_DOUBTED_AFTER: Duration = Duration::from_secs(1);

/// Attempts in a row that came to nothing before a flow sends single messages until one is answered: a dead member must
/// not cost the WAN its whole backlog again and again.
const FAILURES_BEFORE_PROBING: u32 = 2;

fn is_proxy(way: Way) -> bool {
    matches!(way, Way::Proxy(_))
}

/// It said that the receiver is full.
fn is_full(cause: Cause) -> bool {
    matches!(cause, Cause::Refused(Some(RefusedReason::InboxFull | RefusedReason::QueueFull)))
}

/// What failed a proxy so is not the proxy's fault alone unless another way answers.
fn may_be_receiver(cause: Cause) -> bool {
    cause == Cause::TimedOut || is_full(cause)
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            avoided: BTreeMap::new(),
            distrusted: BTreeMap::new(),
            false_at: BTreeMap::new(),
            limits: BTreeMap::new(),
            full_until: Micros(0),
            full_pause: FULL_MIN,
            failures: 0,
            failing: None,
            probes_directly: false,
        }
    }
}

impl Pauses {
    /// An attempt answered: the way works and the receiver takes.
    pub fn answered(&mut self, way: Way) {
        self.failures = 0;
        self.failing = None;
        self.full_pause = FULL_MIN;
        self.probes_directly = false;
        self.avoided.remove(&way);
        self.avoided.values_mut().for_each(|avoided| avoided.answered_elsewhere = true);
    }

    /// The receiver begins anew, and with an empty inbox. Ways are what they were.
    pub fn restart(&mut self) {
        self.failures = 0;
        self.failing = None;
        self.limits.clear();
        self.full_until = Micros(0);
        self.full_pause = FULL_MIN;
    }

    /// The receiver is full, or the queue for it at the proxy of a way: leave it alone, longer each time, and then ask with one message.
    pub fn full(&mut self, queue_of: Option<Way>, now: Micros) {
        let cause = Cause::Refused(Some(RefusedReason::QueueFull));
        self.failing = queue_of.map(|way| Failing { at: now, way, cause });
        self.failures = self.failures.max(FAILURES_BEFORE_PROBING);
        if self.full_until <= now {
            self.full_until = now + self.full_pause;
            self.full_pause = (self.full_pause * 2).min(FULL_MAX);
        }
    }

    /// The receiver was full a moment ago.
    #[must_use]
    pub fn is_full(&self, now: Micros) -> bool {
        self.full_until > now
    }

    /// This way failed this flow: leave it alone, longer each time. What was left for longer because this one worked is not any more.
    pub fn avoid(&mut self, way: Way, cause: Cause, now: Micros) {
        self.probes_directly &= way != Way::Direct;
        self.need(|other| other != way, now);
        let first = Avoided {
            until: Micros(0),
            pause: AVOID_MIN,
            cause,
            trial_until: Micros(0),
            answered_elsewhere: false,
        };
        let avoided = self.avoided.entry(way).or_insert(first);
        avoided.trial_until = Micros(0);
        if avoided.until <= now {
            let may_be_spared = may_be_receiver(cause) || matches!(way, Way::Back(_));
            let unneeded = way != Way::Direct && avoided.answered_elsewhere && may_be_spared;
            let most = if unneeded { AVOID_UNNEEDED_MAX } else { AVOID_MAX };
            let pause = avoided.pause.min(most);
            (avoided.cause, avoided.answered_elsewhere) = (cause, false);
            (avoided.until, avoided.pause) = (now + pause, (pause * 2).min(most));
            self.failures = self.failures.saturating_add(1);
            let answers = cause == Cause::Refused(Some(RefusedReason::InboxFull));
            self.failing = (!answers).then_some(Failing { at: now, way, cause });
        }
    }

    /// Nothing leads to the destination at present: what was left for long because something did is tried soon.
    pub fn need_any(&mut self, now: Micros) {
        self.need(|_| true, now);
    }

    fn need(&mut self, which: impl Fn(Way) -> bool, now: Micros) {
        let soon = now + AVOID_MAX;
        let spared = self.avoided.iter_mut().filter(|(way, _)| **way != Way::Direct && which(**way));
        spared.for_each(|(_, way)| (way.until, way.answered_elsewhere) = (way.until.min(soon), false));
    }

    /// This way called the receiver full, and another one delivered since: nothing waits for its word any more.
    #[must_use]
    pub fn falsely_full(&self, way: Way) -> bool {
        let avoided = self.avoided.get(&way);
        avoided.is_some_and(|avoided| avoided.answered_elsewhere && is_full(avoided.cause))
    }

    /// A proxy was silent to this flow, or called the receiver full, another way answered since, and its time is over: one message is to say whether it works again.
    #[must_use]
    pub fn is_due_for_trial(&self, way: Way, now: Micros) -> bool {
        let failed = self.avoided.get(&way).filter(|avoided| avoided.left_until() <= now);
        is_proxy(way)
            && failed.is_some_and(|avoided| avoided.answered_elsewhere && may_be_receiver(avoided.cause))
    }

    /// A message tries a way that [is due](Pauses::is_due_for_trial).
    pub fn begin_trial(&mut self, way: Way, until: Micros, now: Micros) {
        if self.is_due_for_trial(way, now)
            && let Some(avoided) = self.avoided.get_mut(&way)
        {
            avoided.trial_until = until;
        }
    }

    /// What this way did to this flow is over: its proxy left, and begins anew.
    pub fn forget(&mut self, way: Way) {
        self.avoided.remove(&way);
        self.distrusted.remove(&way);
        self.false_at.remove(&way);
        self.limits.remove(&way);
    }

    /// This way refused so many payload bytes as too large. What is smaller may take it.
    pub fn limit(&mut self, way: Way, bytes: usize, now: Micros) {
        let bytes = self.limit_of(way, now).map_or(bytes, |limit| limit.min(bytes));
        self.limits.insert(way, TooLarge { bytes, until: now + LIMIT_KEPT });
    }

    /// What this way takes is less than this, bytes, if it is known.
    #[must_use]
    pub fn limit_of(&self, way: Way, now: Micros) -> Option<usize> {
        self.limits.get(&way).filter(|limit| limit.until > now).map(|limit| limit.bytes)
    }

    /// The destination says that it was lied about by this way, which no answer by the same way can end. False when that is
    /// known already.
    pub fn distrust(&mut self, way: Way, now: Micros) -> bool {
        self.distrusted.entry(way).or_default().begin(now)
    }

    /// This way is found to have said what is not so. Whether it is the second time of late.
    pub fn is_false_again(&mut self, way: Way, now: Micros) -> bool {
        self.false_at.insert(way, now).is_some_and(|at| now.since(at) < REPORT_KEPT)
    }

    /// Nothing that is said by this way counts at present.
    #[must_use]
    pub fn distrusts(&self, way: Way, now: Micros) -> bool {
        self.distrusted.get(&way).is_some_and(|ejection| ejection.holds(now))
    }

    /// Any way is distrusted at present.
    #[must_use]
    pub fn distrusts_any(&self, now: Micros) -> bool {
        self.distrusted.values().any(|ejection| ejection.holds(now))
    }

    /// The next message goes directly, as soon as there is a link.
    pub fn probe_directly(&mut self) {
        self.probes_directly = true;
    }

    /// See [`Pauses::probe_directly`]: until something is answered, or the direct way failed as well.
    #[must_use]
    pub fn probes_directly(&self) -> bool {
        self.probes_directly
    }

    /// Nothing is held against any way at present, none is to be tried or asked for, and the receiver is not full.
    #[must_use]
    pub fn are_over(&self, now: Micros) -> bool {
        // Most often there are none, of which not even the roots are looked at.
        let none = self.avoided.is_empty() && self.limits.is_empty() && self.distrusted.is_empty();
        if none {
            return !self.probes_directly && !self.is_full(now);
        }
        let avoids = self
            .avoided
            .iter()
            .any(|(way, avoided)| avoided.left_until() > now || self.is_due_for_trial(*way, now));
        let limited = self.limits.values().any(|limit| limit.until > now);
        !avoids && !limited && !self.distrusts_any(now) && !self.probes_directly && !self.is_full(now)
    }

    /// The way is left alone at present for having failed this flow.
    #[must_use]
    pub fn avoids(&self, way: Way, now: Micros) -> bool {
        self.distrusts(way, now) || self.avoided.get(&way).is_some_and(|avoided| avoided.left_until() > now)
    }

    /// This way failed this flow, and nothing was answered on it since.
    #[must_use]
    pub fn has_failed(&self, way: Way) -> bool {
        self.avoided.contains_key(&way)
    }

    /// What failed this flow on a way that is left alone at present, and until when it is.
    #[must_use]
    pub fn why_avoided(&self, way: Way, now: Micros) -> Option<(Cause, Micros)> {
        if let Some(ejection) = self.distrusted.get(&way).filter(|ejection| ejection.holds(now)) {
            return Some((Cause::FalseAck, ejection.until()));
        }
        let avoided = self.avoided.get(&way).filter(|avoided| avoided.left_until() > now)?;
        Some((avoided.cause, avoided.left_until()))
    }

    /// One message at a time.
    #[must_use]
    pub fn is_probing(&self) -> bool {
        self.failures >= FAILURES_BEFORE_PROBING
    }

    /// The last attempt that came to nothing, while nothing was answered since.
    #[must_use]
    pub fn failing(&self) -> Option<Failing> {
        self.failing
    }

    /// When the first pause of any kind ends.
    #[must_use]
    pub fn next_wake(&self, now: Micros) -> Micros {
        let pauses = self.avoided.values().map(Avoided::left_until).chain([self.full_until]);
        let pauses = pauses.chain(self.distrusted.values().map(Ejection::until));
        pauses.filter(|until| *until > now).min().unwrap_or(Micros::NEVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_left_alone_longer_each_time_until_it_answers() {
        let mut pauses = Pauses::default();
        pauses.avoid(Way::Direct, Cause::TimedOut, Micros(0));
        pauses.avoid(Way::Direct, Cause::TimedOut, Micros(1));
        assert!(!pauses.is_probing(), "one failure, told twice");
        assert_eq!(pauses.next_wake(Micros(0)), Micros(0) + AVOID_MIN);
        let later = pauses.next_wake(Micros(0));
        assert!(!pauses.avoids(Way::Direct, later) && !pauses.avoids(Way::Proxy(0), Micros(0)));
        pauses.avoid(Way::Direct, Cause::TimedOut, later);
        assert!(pauses.is_probing());
        assert_eq!(pauses.next_wake(later), later + AVOID_MIN * 2);
        pauses.answered(Way::Direct);
        assert_eq!((pauses.next_wake(later), pauses.is_probing()), (Micros::NEVER, false));
    }

    #[test]
    fn the_last_attempt_that_came_to_nothing_is_known_until_something_is_answered() {
        let mut pauses = Pauses::default();
        pauses.avoid(Way::Proxy(0), Cause::TimedOut, Micros(0));
        let (at, way, cause) = (Micros(0) + AVOID_MIN, Way::Direct, Cause::DialFailed);
        pauses.avoid(way, cause, at);
        assert_eq!(pauses.failing(), Some(Failing { at, way, cause }));
        let cause = Cause::Refused(Some(RefusedReason::QueueFull));
        pauses.full(Some(way), at);
        assert_eq!(pauses.failing(), Some(Failing { at, way, cause }));
        pauses.full(None, at);
        assert_eq!(pauses.failing(), None, "who is full answers");
        pauses.avoid(Way::Proxy(1), Cause::Refused(Some(RefusedReason::InboxFull)), at);
        assert_eq!(pauses.failing(), None, "and so it is where a way says so");
        pauses.avoid(Way::Proxy(2), Cause::TimedOut, at);
        pauses.answered(Way::Direct);
        assert_eq!(pauses.failing(), None);
    }

    #[test]
    fn a_proxy_that_is_silent_while_another_way_answers_is_tried_by_one_message_and_ever_more_seldom() {
        let (mut pauses, hole, other) = (Pauses::default(), Way::Proxy(0), Way::Proxy(1));
        let mut now = Micros(0);
        for seconds_times_five in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            pauses.avoid(hole, Cause::TimedOut, now);
            let until = now + AVOID_MIN * seconds_times_five;
            assert_eq!(pauses.why_avoided(hole, now), Some((Cause::TimedOut, until)));
            assert!(!pauses.is_due_for_trial(hole, until), "for all that is known it is the destination");
            pauses.answered(other);
            assert!(!pauses.avoids(hole, until) && pauses.is_due_for_trial(hole, until));
            now = until + Duration::from_secs(2);
            pauses.begin_trial(hole, now, until);
            assert!(pauses.avoids(hole, until) && !pauses.is_due_for_trial(hole, until), "by one message");
        }
        pauses.avoid(hole, Cause::TimedOut, now);
        // The way that made it unneeded fails: it is soon tried again.
        pauses.avoid(other, Cause::DialFailed, now);
        assert!(!pauses.avoids(hole, now + AVOID_MAX) && !pauses.is_due_for_trial(hole, now + AVOID_MAX));
        pauses.avoid(hole, Cause::TimedOut, now + AVOID_MAX);
        assert!(!pauses.avoids(hole, now + AVOID_MAX * 2), "and again, for nothing answers");
        pauses.answered(hole);
        assert!(!pauses.has_failed(hole) && pauses.has_failed(other));
    }

    #[test]
    fn a_proxy_that_refuses_is_asked_again_soon_whatever_else_answers() {
        let (mut pauses, proxy) = (Pauses::default(), Way::Proxy(0));
        let mut now = Micros(0);
        for _ in 0..10 {
            pauses.avoid(proxy, Cause::Refused(None), now);
            pauses.answered(Way::Direct);
            now = now + AVOID_MAX;
            assert!(!pauses.avoids(proxy, now) && !pauses.is_due_for_trial(proxy, now));
        }
    }

    #[test]
    fn a_silent_member_is_probed_directly_until_that_says_something() {
        let mut pauses = Pauses::default();
        pauses.avoid(Way::Proxy(0), Cause::TimedOut, Micros(0));
        pauses.probe_directly();
        pauses.avoid(Way::Proxy(1), Cause::TimedOut, Micros(0));
        assert!(pauses.probes_directly(), "another proxy says nothing of it");
        pauses.avoid(Way::Direct, Cause::DialFailed, Micros(0));
        assert!(!pauses.probes_directly(), "it is the member");
        pauses.probe_directly();
        pauses.answered(Way::Direct);
        assert!(!pauses.probes_directly(), "it is the proxy");
    }

    #[test]
    fn a_way_that_lied_to_a_destination_is_not_acquitted_by_what_it_says() {
        let (mut pauses, proxy) = (Pauses::default(), Way::Proxy(0));
        assert!(pauses.distrust(proxy, Micros(0)) && !pauses.distrust(proxy, Micros(1)));
        pauses.answered(proxy);
        assert!(pauses.distrusts(proxy, Micros(1)) && pauses.avoids(proxy, Micros(1)));
        assert!(!pauses.avoids(Way::Proxy(1), Micros(1)) && !pauses.is_probing());
        let (cause, until) = pauses.why_avoided(proxy, Micros(1)).unwrap();
        assert_eq!((cause, pauses.next_wake(Micros(1))), (Cause::FalseAck, until));
        assert!(!pauses.avoids(proxy, until) && !pauses.distrusts_any(until));
        assert!(pauses.distrust(proxy, until));
        pauses.forget(proxy);
        assert!(!pauses.avoids(proxy, until));
    }

    #[test]
    fn what_a_way_refused_as_too_large_bounds_it_for_a_while() {
        let (mut pauses, way) = (Pauses::default(), Way::Proxy(0));
        pauses.limit(way, 1_000, Micros(0));
        pauses.limit(way, 2_000, Micros(1));
        assert_eq!(pauses.limit_of(way, Micros(1)), Some(1_000));
        assert_eq!((pauses.limit_of(Way::Direct, Micros(1)), pauses.avoids(way, Micros(1))), (None, false));
        assert_eq!(pauses.limit_of(way, Micros(1) + LIMIT_KEPT), None);
        pauses.restart();
        assert_eq!(pauses.limit_of(way, Micros(1)), None, "another life, another limit");
    }

    #[test]
    fn a_full_receiver_is_asked_with_one_message_later_each_time() {
        let mut pauses = Pauses::default();
        pauses.full(None, Micros(0));
        assert!(pauses.is_full(Micros(0)) && pauses.is_probing());
        let again = pauses.next_wake(Micros(0));
        pauses.full(None, again);
        assert_eq!(pauses.next_wake(again), again + FULL_MIN * 2);
        pauses.restart();
        assert!(!pauses.is_full(again), "a new life has an empty inbox");
    }
}
