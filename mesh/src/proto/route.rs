//! Which way to a datacenter: its proxies as this sender sees them, one of them in use. Sticky: a proxy is left when it is
//! down, draining or convicted, never because another looks a little better.
//!
//! ```text
//!            link up              attempt timed out, nobody answered
//!   down ────────────→ usable ──────────────────────────→ snoozed (1 s, doubling to 60 s)
//!    ↑                   │ ↑                                 │
//!    └── link down ──────┘ └──── time is up, or a late ack ──┘
//! ```

use std::time::Duration;

use super::decision::{Obstacle, Passed, Why};
use super::flow::Way;
use super::links::{LinkId, Links, PeerIx};
use super::rtt::Rtt;
use super::time::{Micros, micros};
use crate::id::NodeId;
use crate::settings::Settings;
use crate::stats::RouteStatus;

/// One proxy as a sender sees it.
#[derive(Debug)]
pub struct ProxyRoute {
    /// Which node.
    pub peer: PeerIx,
    /// Its id.
    pub id: NodeId,
    /// The topology lists it there now. One that it once did keeps its place: messages under way name it.
    pub present: bool,
    /// The link to it, while it is up.
    pub link: Option<LinkId>,
    /// Write to ack.
    pub rtt: Rtt,
    /// When the latest frame was written of which something was answered.
    pub answered_written_at: Option<Micros>,
    snoozed_until: Micros,
    /// The next snooze, once one was given.
    snooze: Option<Duration>,
    /// Snoozes since the start.
    failures: u64,
}

impl ProxyRoute {
    fn new(peer: PeerIx, id: NodeId) -> Self {
        Self {
            peer,
            id,
            present: true,
            link: None,
            rtt: Rtt::default(),
            answered_written_at: None,
            snoozed_until: Micros(0),
            snooze: None,
            failures: 0,
        }
    }

    fn usable(&self, links: &Links, now: Micros) -> bool {
        self.present
            && self.snoozed_until <= now
            && self.link.and_then(|link| links.link(link)).is_some_and(|link| link.up && !link.draining)
    }

    /// Its snooze is over, and it has not delivered since.
    fn is_on_trial(&self, now: Micros) -> bool {
        self.snooze.is_some() && self.snoozed_until <= now
    }

    /// It delivered nothing in time. False when that is known already: what else was under way then says nothing new.
    pub fn convict(&mut self, settings: &Settings, now: Micros) -> bool {
        if self.snoozed_until > now {
            return false;
        }
        let snooze = self.snooze.unwrap_or(settings.snooze_min);
        self.snoozed_until = now + snooze;
        self.snooze = Some(snooze.saturating_mul(2).min(settings.snooze_max));
        self.failures += 1;
        true
    }

    /// It delivers. A late ack ends a snooze: the proxy was slow, not dead.
    pub fn acquit(&mut self, written_at: Option<Micros>) {
        self.answered_written_at = self.answered_written_at.max(written_at);
        self.snoozed_until = Micros(0);
        self.snooze = None;
    }
}

/// The proxies of one datacenter.
#[derive(Debug)]
pub struct Routes {
    /// All of them, in the order in which they came; those that left have their places still.
    pub proxies: Vec<ProxyRoute>,
    in_use: usize,
}

impl Routes {
    /// None is up yet.
    #[must_use]
    pub fn new(proxies: impl IntoIterator<Item = (PeerIx, NodeId)>) -> Self {
        let mut routes = Self { proxies: Vec::new(), in_use: 0 };
        routes.set(proxies);
        routes
    }

    /// Exactly these proxies from now on. One that was there before begins with a clean record when it comes back.
    pub fn set(&mut self, proxies: impl IntoIterator<Item = (PeerIx, NodeId)>) {
        let before: Vec<bool> =
            self.proxies.iter_mut().map(|proxy| std::mem::take(&mut proxy.present)).collect();
        for (peer, id) in proxies {
            match self.proxies.iter().position(|proxy| proxy.id == id) {
                Some(known) if before.get(known).copied().unwrap_or(false) => {
                    self.proxies[known].present = true
                }
                Some(known) => self.proxies[known] = ProxyRoute::new(peer, id),
                None => self.proxies.push(ProxyRoute::new(peer, id)),
            }
        }
        for proxy in self.proxies.iter_mut().filter(|proxy| !proxy.present) {
            proxy.link = None;
        }
    }

    /// Which proxy a link leads to.
    #[must_use]
    pub fn by_link(&self, link: LinkId) -> Option<usize> {
        self.proxies.iter().position(|proxy| proxy.link == Some(link))
    }

    /// The usable proxies, the one in use first, then those with the shortest way.
    pub fn usable(&mut self, links: &Links, now: Micros) -> impl Iterator<Item = usize> + use<'_> {
        let usable: Vec<bool> = self.proxies.iter().map(|proxy| proxy.usable(links, now)).collect();
        if !usable.get(self.in_use).copied().unwrap_or(false) {
            let way = |index: &usize| {
                let proxy = &self.proxies[*index];
                let ping =
                    proxy.link.and_then(|link| links.link(link)).map_or(0, |link| link.rtt.smoothed_us());
                if proxy.rtt.is_empty() { ping } else { proxy.rtt.smoothed_us() }
            };
            if let Some(best) = (0..usable.len()).filter(|index| usable[*index]).min_by_key(way) {
                self.in_use = best;
            }
        }
        let (first, count) = (self.in_use, self.proxies.len());
        (0..count).map(move |step| (first + step) % count).filter(move |index| usable[*index])
    }

    /// The datacenter has no proxy, or the sender stands in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.proxies.iter().any(|proxy| proxy.present)
    }

    /// Why a proxy is taken that is.
    #[must_use]
    pub fn why(&self, index: usize, now: Micros) -> Why {
        match &self.proxies[index] {
            proxy if proxy.is_on_trial(now) => Why::Trial,
            _ if index == self.in_use => Why::InUse,
            _ => Why::Next,
        }
    }

    /// What stands against a proxy for every flow; `None` if it is usable.
    #[must_use]
    pub fn obstacle(&self, index: usize, links: &Links, now: Micros) -> Option<Passed> {
        let proxy = &self.proxies[index];
        let (why, until) = match proxy.link.and_then(|link| links.link(link)) {
            Some(link) if link.draining => (Obstacle::Draining, Micros::NEVER),
            Some(link) if link.up && proxy.snoozed_until > now => (Obstacle::Snoozed, proxy.snoozed_until),
            Some(link) if link.up => return None,
            _ => (Obstacle::NotLinked, Micros::NEVER),
        };
        Some(Passed { way: Way::Proxy(index), why, until })
    }

    /// When the first snooze ends.
    #[must_use]
    pub fn next_wake(&self, now: Micros) -> Micros {
        let snoozes =
            self.proxies.iter().filter(|proxy| proxy.link.is_some()).map(|proxy| proxy.snoozed_until);
        snoozes.filter(|until| *until > now).min().unwrap_or(Micros::NEVER)
    }

    /// All proxies, for people.
    #[must_use]
    pub fn status(&self, links: &Links, settings: &Settings, now: Micros) -> Vec<RouteStatus> {
        let row = |(index, proxy): (usize, &ProxyRoute)| {
            let link = proxy.link.and_then(|link| links.link(link));
            let state = match link {
                None => "down",
                Some(link) if link.draining => "draining",
                Some(_) if proxy.snoozed_until > now => "snoozed",
                Some(_) => "up",
            };
            let timeout = link.map(|link| attempt_timeout(&proxy.rtt, &link.rtt, 1, settings));
            RouteStatus {
                proxy: proxy.id.clone(),
                in_use: index == self.in_use && state == "up",
                state,
                snoozed_ms: micros(proxy.snoozed_until.since(now)) / 1000,
                attempt_timeout_ms: micros(timeout.unwrap_or_default()) / 1000,
                linked: link.is_some_and(|link| link.up),
                rtt_us: link.filter(|link| !link.rtt.is_empty()).map(|link| link.rtt.smoothed_us()),
                ack_us: (!proxy.rtt.is_empty()).then(|| proxy.rtt.smoothed_us()),
                failures: proxy.failures,
                trial: proxy.is_on_trial(now),
            }
        };
        self.proxies.iter().enumerate().filter(|(_, proxy)| proxy.present).map(row).collect()
    }
}

/// Longest exponent of the doubling per attempt.
const DOUBLINGS_MAX: u32 = 4;

/// How long an attempt waits for its ack: from measured acks; before the first one from the link's pings, generously.
/// Every further attempt of a message waits twice as long, so that a sender that is wrong about time does not repeat it.
#[must_use]
pub fn attempt_timeout(acks: &Rtt, pings: &Rtt, attempt: u32, settings: &Settings) -> Duration {
    let (min, max) = (settings.attempt_timeout_min, settings.attempt_timeout_max);
    let base = if acks.is_empty() {
        (Duration::from_micros(2 * pings.smoothed_us()) + Duration::from_millis(100)).clamp(min, max)
    } else {
        acks.timeout(min, max)
    };
    base.saturating_mul(1 << attempt.saturating_sub(1).min(DOUBLINGS_MAX)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_doubles_per_attempt_and_snooze_per_conviction() {
        let settings = Settings::default();
        let (mut acks, pings) = (Rtt::default(), Rtt::default());
        assert_eq!(attempt_timeout(&acks, &pings, 1, &settings), Duration::from_millis(100));
        for _ in 0..50 {
            acks.sample(Duration::from_millis(100));
        }
        let first = attempt_timeout(&acks, &pings, 1, &settings);
        assert_eq!(attempt_timeout(&acks, &pings, 2, &settings), first * 2);
        assert_eq!(attempt_timeout(&acks, &pings, 99, &settings), Duration::from_secs(2));

        let mut routes = Routes::new([(PeerIx(0), NodeId::new("p").unwrap())]);
        let proxy = &mut routes.proxies[0];
        assert!(proxy.convict(&settings, Micros(0)));
        assert_eq!(proxy.snoozed_until, Micros(1_000_000));
        assert!(!proxy.convict(&settings, Micros(999_999)), "known already");
        assert!(proxy.convict(&settings, Micros(1_000_000)));
        assert_eq!(proxy.snoozed_until, Micros(3_000_000));
        proxy.acquit(Some(Micros(1)));
        assert!(proxy.convict(&settings, Micros(0)));
        assert_eq!(proxy.snoozed_until, Micros(1_000_000), "an ack clears the record");
    }

    #[test]
    fn times_that_mean_for_ever_are_no_trap() {
        let ever = Duration::MAX;
        let settings = Settings {
            attempt_timeout_min: ever,
            attempt_timeout_max: ever,
            snooze_min: ever,
            snooze_max: ever,
            ..Settings::default()
        };
        assert_eq!(settings.check(), Ok(()));
        assert_eq!(attempt_timeout(&Rtt::default(), &Rtt::default(), 2, &settings), ever);
        let mut routes = Routes::new([(PeerIx(0), NodeId::new("p").unwrap())]);
        let proxy = &mut routes.proxies[0];
        assert!(proxy.convict(&settings, Micros(0)));
        assert_eq!(proxy.snoozed_until, Micros::NEVER);
    }
}
