//! Which destinations say of a proxy that it acknowledged what they never had. Any of them may lie, so one alone decides
//! about its own way and no other; and for how long a proxy is left for that.

use std::collections::BTreeMap;
use std::time::Duration;

use super::time::Micros;
use crate::id::NodeId;

/// Destinations whose reports eject a proxy for all, at least.
const REPORTERS_TO_EJECT: usize = 2;
/// And at least one of so many that its datacenter has: a few that conspire do not take half of a large datacenter's proxies away.
/// Whoever is lied to leaves the proxy by its own report, whatever the others say.
const DESTINATIONS_PER_REPORTER: usize = 8;

/// How long a report waits for a second one. Nobody honest is reported by anybody honest, so it may be long: a proxy that
/// lies once in a while is found as well.
pub const REPORT_KEPT: Duration = Duration::from_secs(600);

/// Most destinations that are shown to people.
const REPORTERS_SHOWN_MAX: usize = 8;

/// The first time that a proxy is left. Every further one is twice as long, so many times: an hour at most. No message can
/// say that it mended, for it is messages that it loses; time has to.
const EJECTED_FOR: Duration = Duration::from_secs(60);
const EJECTION_DOUBLINGS_MAX: u32 = 6;

/// A proxy is left, by all or by one destination, for having acknowledged what was never there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ejection {
    until: Micros,
    times: u32,
}

impl Ejection {
    /// It is left from now on. False when it is already.
    pub fn begin(&mut self, now: Micros) -> bool {
        if self.holds(now) {
            return false;
        }
        self.until = now + EJECTED_FOR.saturating_mul(1 << self.times.min(EJECTION_DOUBLINGS_MAX));
        self.times = self.times.saturating_add(1);
        true
    }

    /// It is left at present.
    #[must_use]
    pub fn holds(&self, now: Micros) -> bool {
        self.until > now
    }

    /// Until when it is, or was the last time.
    #[must_use]
    pub fn until(&self) -> Micros {
        self.until
    }
}

/// The reports about one proxy: of each destination the latest.
#[derive(Debug, Default)]
pub struct Reports {
    by: BTreeMap<NodeId, Micros>,
}

impl Reports {
    /// A destination reported, of so many of the proxy's datacenter. True when enough of them did to eject the proxy.
    pub fn note(&mut self, destination: &NodeId, destinations: usize, now: Micros) -> bool {
        self.by.retain(|_, at| now.since(*at) <= REPORT_KEPT);
        self.by.insert(destination.clone(), now);
        self.by.len() >= REPORTERS_TO_EJECT.max(destinations.div_ceil(DESTINATIONS_PER_REPORTER))
    }

    /// The proxy was ejected for them: the next time takes as many again.
    pub fn clear(&mut self) {
        self.by.clear();
    }

    /// Some of the destinations that reported of late.
    #[must_use]
    pub fn shown(&self, now: Micros) -> Vec<NodeId> {
        let kept = self.by.iter().filter(|(_, at)| now.since(**at) <= REPORT_KEPT);
        kept.take(REPORTERS_SHOWN_MAX).map(|(destination, _)| destination.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_two_destinations_within_a_while_however_often_one_reports() {
        let (mut reports, at) = (Reports::default(), |seconds: u64| Micros(seconds * 1_000_000));
        let [a, b] = ["a", "b"].map(|name| NodeId::new(name).unwrap());
        assert!((0..100).all(|second| !reports.note(&a, 5, at(second))));
        assert_eq!(reports.shown(at(100)), std::slice::from_ref(&a));
        assert!(!reports.note(&b, 5, at(700)), "too late");
        assert_eq!(reports.shown(at(700)), std::slice::from_ref(&b));
        assert!(reports.note(&a, 5, at(1_300)));
        assert_eq!(reports.shown(at(1_300)), [a.clone(), b]);
        reports.clear();
        assert!(!reports.note(&a, 5, at(1_301)), "two again");
    }

    #[test]
    fn of_many_destinations_it_takes_an_eighth() {
        for (destinations, least) in [(1, 2), (16, 2), (17, 3), (50, 7), (1_024, 128)] {
            let mut reports = Reports::default();
            let name = |index| NodeId::new(&format!("m{index}")).unwrap();
            let count = (1..).find(|index| reports.note(&name(*index), destinations, Micros(0)));
            assert_eq!(count, Some(least), "of {destinations}");
        }
    }

    #[test]
    fn it_is_left_for_a_minute_and_twice_as_long_each_time() {
        let (mut ejection, mut now) = (Ejection::default(), Micros(5));
        for minutes in [1, 2, 4, 8, 16, 32, 64, 64] {
            assert!(!ejection.holds(now) && ejection.begin(now) && !ejection.begin(now));
            now = now + Duration::from_secs(60 * minutes);
            assert_eq!(ejection.until(), now);
        }
    }

    #[test]
    fn few_are_shown() {
        let mut reports = Reports::default();
        for index in 0..50 {
            reports.note(&NodeId::new(&format!("m{index}")).unwrap(), 5, Micros(0));
        }
        assert_eq!(reports.shown(Micros(0)).len(), REPORTERS_SHOWN_MAX);
    }
}
