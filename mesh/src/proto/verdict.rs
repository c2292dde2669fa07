//! Who is to blame when nobody answered in time: this process, a proxy, a member, or a whole datacenter. Judged from what
//! the sender saw and nothing else, and written down with it.

use std::collections::VecDeque;
use std::time::Duration;

use super::time::{Micros, micros};
use crate::id::NodeId;
use crate::stats::decision::{Verdict, VerdictEvidence};

/// Whom a verdict names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Blame {
    /// This process was late itself: nobody is blamed, the attempt waits longer.
    OwnLag,
    /// The proxy took batches and delivered nothing to several destinations: it is left alone.
    Proxy,
    /// The connection of one lane takes nothing, or brings nothing where the other lane does: that lane leaves it.
    Connection,
    /// One destination is silent while others are not, or nothing is known of others: it is asked directly.
    Member,
    /// All proxies at once: the datacenter, the way there or the way back, perhaps for having too much to carry. No proxy
    /// is left alone for that.
    Datacenter,
    /// A proxy, but half of them are left alone already: the destinations that it failed avoid it, the others go on.
    Capped,
    /// The destination says that the proxy acknowledged what it never had: it avoids the proxy, the others go on.
    FalseAck,
    /// Several destinations say so: the proxy is ejected.
    Ejected,
    /// The destination says that it does not live the life that the proxy said: it avoids the proxy, the others go on.
    FalseLife,
    /// The destination does not have what the proxy said it holds, as another way says: it is sent again, not by that proxy.
    FalseHold,
}

impl Blame {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::OwnLag,
        Self::Proxy,
        Self::Connection,
        Self::Member,
        Self::Datacenter,
        Self::Capped,
        Self::FalseAck,
        Self::Ejected,
        Self::FalseLife,
        Self::FalseHold,
    ];

    /// As people and metrics read it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::OwnLag => "own_lag",
            Self::Proxy => "proxy",
            Self::Connection => "connection",
            Self::Member => "member",
            Self::Datacenter => "datacenter",
            Self::Capped => "capped",
            Self::FalseAck => "false_ack",
            Self::Ejected => "ejected",
            Self::FalseLife => "false_life",
            Self::FalseHold => "false_hold",
        }
    }
}

/// What was seen when an attempt by a proxy waited in vain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Evidence {
    /// Destinations of the attempt that said nothing.
    pub silent: usize,
    /// The same, with the destinations that avoid the proxy already because it was silent.
    pub suspects: usize,
    /// The proxy brought an answer of another node to something of the lane that was written as late, or it is not the link of the
    /// attempt any more.
    pub answers: bool,
    /// It brought such an answer to something of the other lane that was written as late.
    pub other_lane: bool,
    /// Silent destinations that answered something of the other lane which was written as late.
    pub elsewhere: usize,
    /// It was left alone before, and this was its trial.
    pub on_trial: bool,
    /// By this lane alone, so that it is the trial of its connection.
    pub lane_on_trial: bool,
    /// Proxies that the datacenter has.
    pub proxies: usize,
    /// Other proxies with a link.
    pub others: usize,
    /// Those of them that were found late a moment ago, and have delivered nothing since.
    pub others_late: usize,
    /// Other proxies that are left alone by verdict.
    pub others_snoozed: usize,
    /// How long nothing was heard of any of its proxies that is linked.
    pub unheard: Option<Duration>,
}

impl Evidence {
    /// One more proxy that is left alone would be more than half of them.
    #[must_use]
    pub fn is_capped(&self) -> bool {
        2 * (self.others_snoozed + 1) > self.proxies
    }
}

/// Whom the evidence is against. Of a proxy two silent destinations are asked, or one where it is on trial.
#[must_use]
pub fn judge(seen: &Evidence) -> Blame {
    // While one lane brings answers the other one's silence is not the proxy's. It is its connection's only if it is not that of
    // the destinations.
    let alive = seen.other_lane && seen.elsewhere == 0 && !seen.lane_on_trial;
    if seen.answers || alive || (seen.suspects < 2 && !seen.on_trial) {
        Blame::Member
    } else if seen.others > 0 && seen.others_late == seen.others {
        Blame::Datacenter
    } else if seen.is_capped() {
        Blame::Capped
    } else if seen.other_lane || seen.lane_on_trial {
        Blame::Connection
    } else {
        Blame::Proxy
    }
}

/// A timer that rings so late says that this process was late, not its peers.
pub const OWN_LAG: Duration = Duration::from_millis(20);

/// How long a lag is remembered: what was written or came in meanwhile was late as well.
const LAG_REMEMBERED: Duration = Duration::from_secs(1);

/// The most that an attempt waits longer for it.
const LAG_GRACE_MAX: Duration = Duration::from_millis(200);

/// How late this process was of late.
#[derive(Debug, Default)]
pub struct OwnLag {
    worst: Duration,
    until: Micros,
}

impl OwnLag {
    /// A timer that was due rings now. Gives by how much this process was late, if it was.
    pub fn note(&mut self, due: Micros, now: Micros) -> Option<Duration> {
        let lag = now.since(due);
        if lag <= OWN_LAG {
            return None;
        }
        self.worst = if self.until > now { self.worst.max(lag) } else { lag };
        self.until = now + LAG_REMEMBERED;
        Some(lag)
    }

    /// By how much longer attempts wait before somebody is blamed; zero if this process was in time.
    #[must_use]
    pub fn grace(&self, now: Micros) -> Duration {
        if self.until > now { self.worst.min(LAG_GRACE_MAX) } else { Duration::ZERO }
    }
}

/// Verdicts that are kept per datacenter.
pub const VERDICTS_MAX: usize = 32;

/// Whom a verdict is about, and who said it where it follows from reports.
#[derive(Clone, Default, Debug)]
pub struct About {
    /// The proxy that the messages went through.
    pub proxy: Option<NodeId>,
    /// The one destination that was silent, or reported.
    pub destination: Option<NodeId>,
    /// Destinations that report the proxy.
    pub reported_by: Vec<NodeId>,
    /// The proxy that the latest report came through, which may have made it up.
    pub carried_by: Option<NodeId>,
}

#[derive(Debug)]
struct Entry {
    blame: Blame,
    about: About,
    seen: Evidence,
    times: u64,
    first_at: Micros,
    last_at: Micros,
}

/// The latest verdicts about one datacenter. Equal ones in a row are one entry that counts them.
#[derive(Debug, Default)]
pub struct VerdictLog {
    entries: VecDeque<Entry>,
}

impl VerdictLog {
    /// Writes a verdict down.
    pub fn note(&mut self, blame: Blame, about: About, seen: Evidence, now: Micros) {
        if let Some(last) = self.entries.back_mut()
            && last.blame == blame
            && last.about.proxy == about.proxy
            && last.about.destination == about.destination
        {
            (last.about, last.seen, last.last_at) = (about, seen, now);
            last.times += 1;
            return;
        }
        if self.entries.len() >= VERDICTS_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry { blame, about, seen, times: 1, first_at: now, last_at: now });
    }

    /// For people, the latest first. `unix_us` is the wall clock of a moment.
    #[must_use]
    pub fn shown(&self, unix_us: impl Fn(Micros) -> u64) -> Vec<Verdict> {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let shown = |entry: &Entry| Verdict {
            verdict: entry.blame.label(),
            proxy: entry.about.proxy.clone(),
            destination: entry.about.destination.clone(),
            reported_by: entry.about.reported_by.clone(),
            carried_by: entry.about.carried_by.clone(),
            evidence: VerdictEvidence {
                silent: count(entry.seen.silent),
                suspects: count(entry.seen.suspects),
                answers: entry.seen.answers,
                other_lane: entry.seen.other_lane,
                elsewhere: count(entry.seen.elsewhere),
                on_trial: entry.seen.on_trial,
                lane_on_trial: entry.seen.lane_on_trial,
                proxies: count(entry.seen.proxies),
                others: count(entry.seen.others),
                others_late: count(entry.seen.others_late),
                others_snoozed: count(entry.seen.others_snoozed),
                unheard_ms: entry.seen.unheard.map(|time| micros(time) / 1000),
            },
            times: entry.times,
            first_unix_ms: unix_us(entry.first_at) / 1000,
            last_unix_ms: unix_us(entry.last_at) / 1000,
        };
        self.entries.iter().rev().map(shown).collect()
    }
}

/// The share of a datacenter's bytes that may be sent again because nobody answered in time: a late network must not be
/// made later. Sending fills it, and time does a little, so that nothing waits for ever on an idle way.
#[derive(Debug)]
pub struct Resends {
    percent: u64,
    /// Below zero while a frame that went out was more than there was.
    level: i64,
    /// Of frames that were sealed and not written yet, at most: other connections must not count on it.
    reserved: i64,
    filled_at: Micros,
}

/// What may be sent again at once after a quiet time; one frame may overdraw by as much. What one message of more than twice
/// that overdraws is forgiven: it must not keep all others of its datacenter waiting for minutes.
pub const RESEND_BURST_BYTES: i64 = 512 * 1024;

/// What time adds per second.
const RESEND_TRICKLE_BYTES: u64 = 128 * 1024;

impl Resends {
    /// Full.
    #[must_use]
    pub fn new(percent: u32) -> Self {
        Self { percent: percent.into(), level: RESEND_BURST_BYTES, reserved: 0, filled_at: Micros(0) }
    }

    /// Another share from now on.
    pub fn set_percent(&mut self, percent: u32) {
        self.percent = percent.into();
    }

    /// A frame was sealed that carries so many bytes of what was late, at most. [`Resends::release`] takes it back.
    pub fn reserve(&mut self, bytes: u64) {
        self.reserved = self.reserved.saturating_add(signed(bytes));
    }

    /// A frame that was sealed went out, which [`Resends::sent`] is told of, or never will.
    pub fn release(&mut self, bytes: u64) {
        self.reserved = self.reserved.saturating_sub(signed(bytes));
    }

    /// A frame went out to the datacenter, `again` of its bytes for having been late.
    pub fn sent(&mut self, bytes: u64, again: u64) {
        let share = bytes.saturating_sub(again).saturating_mul(self.percent) / 100;
        let level = self.level.saturating_add(signed(share)).min(RESEND_BURST_BYTES);
        self.level = level.saturating_sub(signed(again)).max(-RESEND_BURST_BYTES);
    }

    /// Whether a frame may carry what was late.
    ///
    /// # Errors
    /// The moment at which time alone will have filled it.
    pub fn check(&mut self, now: Micros) -> Result<(), Micros> {
        let passed_us = micros(now.since(self.filled_at));
        let trickle = passed_us.saturating_mul(RESEND_TRICKLE_BYTES) / 1_000_000;
        if trickle > 0 {
            self.filled_at = now;
            let trickle = i64::try_from(trickle).unwrap_or(i64::MAX);
            self.level = self.level.saturating_add(trickle).min(RESEND_BURST_BYTES);
        }
        let left = self.level.saturating_sub(self.reserved);
        if left > 0 {
            return Ok(());
        }
        let missing = left.unsigned_abs() + 1;
        Err(self.filled_at + Duration::from_micros((missing * 1_000_000).div_ceil(RESEND_TRICKLE_BYTES)))
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three destinations of a proxy are silent, another proxy is well.
    const BAD_PROXY: Evidence = Evidence {
        silent: 3,
        suspects: 3,
        answers: false,
        other_lane: false,
        elsewhere: 0,
        on_trial: false,
        lane_on_trial: false,
        proxies: 2,
        others: 1,
        others_late: 0,
        others_snoozed: 0,
        unheard: None,
    };

    #[test]
    fn a_verdict_names_the_proxy_the_member_or_the_datacenter() {
        assert_eq!(judge(&BAD_PROXY), Blame::Proxy);
        assert_eq!(judge(&Evidence { suspects: 1, silent: 1, ..BAD_PROXY }), Blame::Member);
        assert_eq!(judge(&Evidence { answers: true, ..BAD_PROXY }), Blame::Member, "others are answered");
        let other_lane = Evidence { other_lane: true, ..BAD_PROXY };
        assert_eq!(judge(&other_lane), Blame::Member, "of others, perhaps");
        assert_eq!(judge(&Evidence { elsewhere: 1, ..other_lane }), Blame::Connection);
        assert_eq!(judge(&Evidence { elsewhere: 1, others_late: 1, ..other_lane }), Blame::Datacenter);
        let trial = Evidence { suspects: 1, silent: 1, on_trial: true, ..BAD_PROXY };
        assert_eq!(judge(&Evidence { lane_on_trial: true, ..trial }), Blame::Connection);
        assert_eq!(judge(&trial), Blame::Proxy, "one message is all that a trial has");
        assert_eq!(judge(&Evidence { others_late: 1, ..BAD_PROXY }), Blame::Datacenter);
        let others = Evidence { proxies: 4, others: 3, ..BAD_PROXY };
        assert_eq!(judge(&Evidence { others_late: 2, ..others }), Blame::Proxy, "one of four is not late");
        assert_eq!(judge(&Evidence { others_late: 3, ..others }), Blame::Datacenter);
        // Without any other link it cannot be told apart, and there is half of two to be left alone.
        assert_eq!(judge(&Evidence { others: 0, ..BAD_PROXY }), Blame::Proxy);
    }

    #[test]
    fn at_most_half_of_the_proxies_are_left_alone_by_verdict() {
        for (proxies, may) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3)] {
            let convicted = (0..proxies)
                .filter(|snoozed| {
                    let seen = Evidence { proxies, others: 0, others_snoozed: *snoozed, ..BAD_PROXY };
                    judge(&seen) == Blame::Proxy
                })
                .count();
            assert_eq!(convicted, may, "of {proxies}");
        }
    }

    #[test]
    fn a_lag_of_this_process_is_remembered_for_a_while_and_bounded() {
        let mut lag = OwnLag::default();
        assert_eq!((lag.note(Micros(0), Micros(20_000)), lag.grace(Micros(20_000))), (None, Duration::ZERO));
        assert_eq!(lag.note(Micros(0), Micros(50_000)), Some(Duration::from_millis(50)));
        assert_eq!(lag.note(Micros(70_000), Micros(100_000)), Some(Duration::from_millis(30)));
        assert_eq!(lag.grace(Micros(100_000)), Duration::from_millis(50), "the worst of them");
        assert_eq!(lag.grace(Micros(1_100_000)), Duration::ZERO, "over");
        lag.note(Micros(1_100_000), Micros(9_000_000));
        assert_eq!(lag.grace(Micros(9_000_000)), LAG_GRACE_MAX);
        assert_eq!(lag.note(Micros::NEVER, Micros(9_000_000)), None, "nothing was due");
    }

    #[test]
    fn resends_are_a_share_of_what_is_sent_and_never_wait_for_ever() {
        let mut resends = Resends::new(10);
        let now = Micros(1_000_000);
        assert_eq!(resends.check(now), Ok(()));
        let burst = RESEND_BURST_BYTES.unsigned_abs();
        resends.sent(burst, burst);
        let wait = resends.check(now).unwrap_err();
        assert!(wait > now && wait <= now + Duration::from_millis(1), "{wait:?}");
        resends.sent(100_000, 0);
        assert_eq!(resends.check(now), Ok(()));
        resends.sent(10_000, 10_000);
        assert!(resends.check(now).is_err(), "a tenth of 100,000, and no more");
        // However much one frame overdraws, it is soon over.
        resends.sent(1 << 40, 1 << 40);
        let wait = resends.check(now).unwrap_err();
        assert!(wait <= now + Duration::from_millis(4_001), "{wait:?}");
        assert_eq!(resends.check(wait), Ok(()));
        resends.sent(1 << 40, 0);
        assert_eq!(resends.level, RESEND_BURST_BYTES, "what was saved up has an end");
    }

    #[test]
    fn what_another_connection_is_about_to_write_is_spoken_for() {
        let mut resends = Resends::new(10);
        let (now, burst) = (Micros(1_000_000), RESEND_BURST_BYTES.unsigned_abs());
        assert_eq!(resends.check(now), Ok(()));
        resends.reserve(burst);
        assert!(resends.check(now).is_err(), "before any of it was written");
        resends.release(burst);
        assert_eq!(resends.check(now), Ok(()), "its connection was lost");
        resends.reserve(burst);
        resends.release(burst);
        resends.sent(burst / 2, burst / 2);
        assert_eq!(resends.check(now), Ok(()), "compressed to half");
        assert_eq!((resends.level, resends.reserved), (RESEND_BURST_BYTES / 2, 0));
    }

    #[test]
    fn equal_verdicts_in_a_row_are_one_entry_and_the_ring_is_bounded() {
        let (mut log, node) = (VerdictLog::default(), NodeId::new("p").unwrap());
        for at in [1_000, 2_000] {
            let about = About { proxy: Some(node.clone()), ..About::default() };
            log.note(Blame::Proxy, about, BAD_PROXY, Micros(at));
        }
        let shown = log.shown(|at| at.0);
        assert_eq!((shown.len(), shown[0].times, shown[0].verdict), (1, 2, "proxy"));
        assert_eq!((shown[0].first_unix_ms, shown[0].last_unix_ms), (1, 2));
        assert_eq!((shown[0].evidence.suspects, shown[0].evidence.others), (3, 1));
        for round in 0..2 * VERDICTS_MAX {
            let blame = if round % 2 == 0 { Blame::Member } else { Blame::Datacenter };
            let about = About { destination: Some(node.clone()), ..About::default() };
            log.note(blame, about, Evidence::default(), Micros(3_000));
        }
        assert_eq!(log.shown(|at| at.0).len(), VERDICTS_MAX);
        assert_eq!(log.shown(|at| at.0)[0].verdict, "datacenter", "the latest first");
    }
}
