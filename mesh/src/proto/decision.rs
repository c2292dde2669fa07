//! The decision log of one datacenter: which way, why, and what was passed over. A bounded ring; equal decisions in a row
//! about one destination and lane are one entry that counts them.

use std::collections::VecDeque;

use super::flow::Way;
use super::pause::Cause;
use super::time::{Micros, micros};
use crate::id::{Lane, NodeId};
use crate::stats::decision::{Decision, PassedWay, lane_name};

/// Entries that are kept per datacenter. Each is below 300 bytes and 50 per proxy of the datacenter.
pub const DECISIONS_MAX: usize = 128;

/// Ways passed over that one entry names; a datacenter may have any number of proxies.
pub const PASSED_MAX: usize = 16;

/// Why the chosen way was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The proxy in use.
    InUse,
    /// The proxy in use is left alone by this flow.
    Next,
    /// Its snooze is over, and it has not delivered since.
    Trial,
    /// It alone was silent by proxy: it is asked directly.
    Probe,
    /// It was heard by way of this proxy, and little goes there.
    Back,
    /// The sender stands in the datacenter.
    Local,
    /// The datacenter has no proxy.
    NoProxy,
    /// No proxy would do.
    ProxiesPassed,
    /// No way: the receiver was full a moment ago.
    ReceiverFull,
    /// No way yet: a proxy is being dialled, for the first time.
    ProxyDialled,
    /// No way yet: the direct link is not up.
    Dialling,
    /// No way: all failed this flow a moment ago.
    AllAvoided,
}

impl Why {
    /// As people read it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::InUse => "in_use",
            Self::Next => "next",
            Self::Trial => "trial",
            Self::Probe => "probe",
            Self::Back => "back",
            Self::Local => "local",
            Self::NoProxy => "no_proxy",
            Self::ProxiesPassed => "proxies_passed",
            Self::ReceiverFull => "receiver_full",
            Self::ProxyDialled => "proxy_dialled",
            Self::Dialling => "dialling",
            Self::AllAvoided => "all_avoided",
        }
    }
}

/// Why a way was passed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// No link to it.
    NotLinked,
    /// It is going away.
    Draining,
    /// It delivered nothing in time to several destinations.
    Snoozed,
    /// It acknowledged what its destination never had.
    Ejected,
    /// Its connection of the lane takes nothing.
    Still,
    /// It failed this flow a moment ago.
    Avoided(Cause),
}

impl Obstacle {
    fn label(self) -> &'static str {
        match self {
            Self::NotLinked => "not_linked",
            Self::Draining => "draining",
            Self::Snoozed => "snoozed",
            Self::Ejected => "ejected",
            Self::Still => "still",
            Self::Avoided(cause) => cause.label(),
        }
    }
}

/// A way that was passed over.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    /// Which.
    pub way: Way,
    /// Why.
    pub why: Obstacle,
    /// When it may be taken again; [`Micros::NEVER`] where that is not known.
    pub until: Micros,
}

impl Passed {
    /// Equal but for the time.
    fn is_like(&self, other: &Self) -> bool {
        (self.way, self.why) == (other.way, other.why)
    }
}

/// What was decided, without what was passed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// The way; `None` if there was none.
    pub way: Option<Way>,
    /// Why.
    pub why: Why,
    /// The attempt.
    pub attempt: u32,
    /// One message at a time.
    pub probing: bool,
}

#[derive(Debug)]
struct Entry {
    destination: NodeId,
    lane: Lane,
    verdict: Verdict,
    passed: Vec<Passed>,
    times: u64,
    first_at: Micros,
    last_at: Micros,
}

/// The latest decisions about one datacenter.
#[derive(Debug, Default)]
pub struct DecisionLog {
    entries: VecDeque<Entry>,
    /// Number of the oldest entry that is kept: as many were forgotten.
    first: u64,
}

impl DecisionLog {
    /// Writes a decision down, and gives its entry's number. `last` is that of the flow's decision before.
    pub fn note(
        &mut self,
        last: Option<u64>,
        (destination, lane): (&NodeId, Lane),
        verdict: Verdict,
        passed: impl Iterator<Item = Passed> + Clone,
        now: Micros,
    ) -> u64 {
        let at = last.and_then(|last| usize::try_from(last.checked_sub(self.first)?).ok());
        if let Some((number, entry)) = last.zip(at.and_then(|at| self.entries.get_mut(at)))
            && entry.verdict == verdict
            && entry.passed.len() == passed.clone().take(PASSED_MAX).count()
            && entry.passed.iter().zip(passed.clone()).all(|(one, other)| one.is_like(&other))
        {
            entry.times += 1;
            entry.last_at = now;
            return number;
        }
        if self.entries.len() >= DECISIONS_MAX {
            self.entries.pop_front();
            self.first += 1;
        }
        let number = self.first + u64::try_from(self.entries.len()).unwrap_or(0);
        self.entries.push_back(Entry {
            destination: destination.clone(),
            lane,
            verdict,
            passed: passed.take(PASSED_MAX).collect(),
            times: 1,
            first_at: now,
            last_at: now,
        });
        number
    }

    /// Entries that made room for later ones.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.first
    }

    /// For people, the latest first. `proxy` names the proxy of a way, `unix_us` is the wall clock of a moment.
    #[must_use]
    pub fn shown(
        &self,
        proxy: impl Fn(Way) -> Option<NodeId>,
        unix_us: impl Fn(Micros) -> u64,
    ) -> Vec<Decision> {
        let named = |way: Option<Way>| way.map_or(("wait", None), |way| (way.label(), proxy(way)));
        let shown = |(number, entry): (u64, &Entry)| {
            let (way, proxy) = named(entry.verdict.way);
            let passed = entry.passed.iter().map(|passed| {
                let (way, proxy) = named(Some(passed.way));
                let left = (passed.until != Micros::NEVER)
                    .then(|| micros(passed.until.since(entry.first_at)).div_ceil(1000));
                PassedWay { way, proxy, why: passed.why.label(), left_ms: left }
            });
            Decision {
                number,
                destination: entry.destination.clone(),
                lane: lane_name(entry.lane),
                attempt: entry.verdict.attempt,
                way,
                proxy,
                why: entry.verdict.why.label(),
                probing: entry.verdict.probing,
                passed: passed.collect(),
                times: entry.times,
                first_unix_ms: unix_us(entry.first_at) / 1000,
                last_unix_ms: unix_us(entry.last_at) / 1000,
            }
        };
        let mut all: Vec<Decision> = (self.first..).zip(&self.entries).map(shown).collect();
        all.reverse();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(way: Option<Way>, why: Why) -> Verdict {
        Verdict { way, why, attempt: 1, probing: false }
    }

    fn shown(log: &DecisionLog) -> Vec<Decision> {
        let name = |way| match way {
            Way::Proxy(index) => NodeId::new(&format!("p{index}")).ok(),
            _ => None,
        };
        log.shown(name, |at| 5_000_000 + at.0)
    }

    #[test]
    fn equal_decisions_in_a_row_are_one_entry_and_others_are_not() {
        let mut log = DecisionLog::default();
        let node = NodeId::new("m").unwrap();
        let to = (&node, Lane::Bulk);
        let snoozed = |until| Passed { way: Way::Proxy(0), why: Obstacle::Snoozed, until: Micros(until) };
        let direct = verdict(Some(Way::Direct), Why::ProxiesPassed);
        let one = log.note(None, to, direct, [snoozed(1_000_000)].into_iter(), Micros(500_000));
        let same = log.note(Some(one), to, direct, [snoozed(3_000_000)].into_iter(), Micros(700_000));
        assert_eq!(one, same);
        let by_proxy = verdict(Some(Way::Proxy(0)), Why::Trial);
        let other = log.note(Some(same), to, by_proxy, std::iter::empty(), Micros(1_000_000));
        let again = Verdict { attempt: 2, ..by_proxy };
        let third = log.note(Some(other), to, again, std::iter::empty(), Micros(1_100_000));
        assert_eq!([one, other, third], [0, 1, 2]);
        let decisions = shown(&log);
        assert_eq!(decisions.iter().map(|of| of.number).collect::<Vec<_>>(), [2, 1, 0], "the latest first");
        let first = &decisions[2];
        assert_eq!((first.way, first.why, first.times), ("direct", "proxies_passed", 2));
        assert_eq!((first.first_unix_ms, first.last_unix_ms), (5_500, 5_700));
        let passed = &first.passed[0];
        assert_eq!((passed.why, passed.left_ms), ("snoozed", Some(500)));
        assert_eq!(passed.proxy.as_ref().map(NodeId::as_str), Some("p0"));
    }

    #[test]
    fn of_many_ways_that_were_passed_over_some_are_named() {
        let mut log = DecisionLog::default();
        let node = NodeId::new("m").unwrap();
        let direct = verdict(Some(Way::Direct), Why::ProxiesPassed);
        let passed = |count| {
            let of = |index| Passed { way: Way::Proxy(index), why: Obstacle::Snoozed, until: Micros(9) };
            (0..count).map(of)
        };
        let one = log.note(None, (&node, Lane::Bulk), direct, passed(1_000), Micros(0));
        assert_eq!(log.note(Some(one), (&node, Lane::Bulk), direct, passed(999), Micros(1)), one, "as shown");
        assert_eq!(log.note(Some(one), (&node, Lane::Bulk), direct, passed(2), Micros(2)), one + 1);
        let counts: Vec<_> = shown(&log).iter().map(|of| (of.passed.len(), of.times)).collect();
        assert_eq!(counts, [(2, 1), (PASSED_MAX, 2)]);
    }

    #[test]
    fn the_ring_is_bounded_and_says_what_it_forgot() {
        let mut log = DecisionLog::default();
        let node = NodeId::new("m").unwrap();
        let (mut last, mut early) = (None, None);
        for round in 0..DECISIONS_MAX as u64 + 10 {
            let way = if round % 2 == 0 { Way::Direct } else { Way::Proxy(0) };
            let why = verdict(Some(way), Why::InUse);
            last = Some(log.note(last, (&node, Lane::Control), why, std::iter::empty(), Micros(round)));
            early = early.or(last);
        }
        assert_eq!((log.forgotten(), shown(&log).len()), (10, DECISIONS_MAX));
        // An entry that is forgotten is not counted on, whatever it said.
        let why = verdict(Some(Way::Direct), Why::InUse);
        let anew = log.note(early, (&node, Lane::Control), why, std::iter::empty(), Micros(1_000));
        assert_eq!(anew, DECISIONS_MAX as u64 + 10);
    }
}
