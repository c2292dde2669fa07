//! Which way to a datacenter: its proxies as this sender sees them, one of them in use. Sticky: a proxy is left when it is
//! down, draining or convicted, or when another one has been clearly better for a while; never because one looks a little
//! better now.
//!
//! ```text
//!            link up             verdict: nobody answered
//!   down ────────────→ usable ──────────────────────────→ snoozed (1 s, doubling to 60 s)
//!    ↑                   │ ↑ ↑                               │ ↑
//!    └── link down ──────┘ │ └── a late ack, or a pardon ────┤ │ silent again
//!                          └────── it delivers ── on trial ←─┘ │ time is up: one message at a time
//!                                                    └─────────┘
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use super::decision::{Obstacle, Passed, Why};
use super::flow::Way;
use super::links::{LinkId, Links, PeerIx};
use super::reports::{Ejection, Reports};
use super::rtt::Rtt;
use super::standing::Standing;
use super::time::{Micros, micros};
use super::verdict::Evidence;
use crate::id::{Lane, NodeId};
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
    /// It was linked once, or could not be.
    pub tried: bool,
    /// Write to ack.
    pub rtt: Rtt,
    /// What is held against it.
    pub standing: Standing,
    /// By the silence of which lane that is, while it is held against the whole of it.
    silent_lane: Option<Lane>,
    /// The same of its connection of each lane alone.
    pub lanes: [Standing; 2],
    /// When the latest frame of each lane was written of which something was answered.
    answered_written_at: [Option<Micros>; 2],
    /// Destinations say that it acknowledged what they never had, and nothing that it says counts.
    ejection: Ejection,
    /// Which do.
    pub reports: Reports,
    /// Snoozes and ejections since the start.
    failures: u64,
}

impl ProxyRoute {
    fn new(peer: PeerIx, id: NodeId) -> Self {
        Self {
            peer,
            id,
            present: true,
            link: None,
            tried: false,
            rtt: Rtt::default(),
            standing: Standing::default(),
            silent_lane: None,
            lanes: Default::default(),
            answered_written_at: [None; 2],
            ejection: Ejection::default(),
            reports: Reports::default(),
            failures: 0,
        }
    }

    fn usable(&self, lane: Lane, links: &Links, now: Micros) -> bool {
        self.present
            && self.left_until(lane) <= now
            && self.link.and_then(|link| links.link(link)).is_some_and(|link| link.up && !link.draining)
    }

    /// Its own record, and that of its connection of this lane.
    fn records(&self, lane: Lane) -> [&Standing; 2] {
        [&self.standing, &self.lanes[lane.index()]]
    }

    /// Its snooze is over, and it has not delivered since.
    #[must_use]
    pub fn is_on_trial(&self, lane: Lane, now: Micros) -> bool {
        self.records(lane).iter().any(|record| record.is_on_trial(now))
    }

    /// A message that says whether it delivers is on its way.
    fn is_tried(&self, lane: Lane, now: Micros) -> bool {
        self.records(lane).iter().any(|record| record.is_tried(now))
    }

    /// A message is on its way to say what became of it. Others wait for that, as far as they have another way.
    pub fn begin_trial(&mut self, lane: Lane, settings: &Settings, now: Micros) {
        let until = now + settings.attempt_timeout_max;
        self.standing.begin_trial(until, now);
        self.lanes[lane.index()].begin_trial(until, now);
    }

    /// It delivered nothing in time, of what was sent on this lane. False when that is known already: what else was under way then
    /// says nothing new.
    pub fn convict(&mut self, lane: Lane, settings: &Settings, now: Micros) -> bool {
        let news = self.standing.convict(settings, now);
        self.silent_lane = if news { Some(lane) } else { self.silent_lane };
        self.failures += u64::from(news);
        news
    }

    /// Its connection of one lane delivered nothing in time, and the other one did.
    pub fn convict_lane(&mut self, lane: Lane, settings: &Settings, now: Micros) -> bool {
        let news = self.lanes[lane.index()].convict(settings, now);
        self.failures += u64::from(news);
        news
    }

    /// Something was answered that was written to this lane at that time or later.
    #[must_use]
    pub fn answered_since(&self, lane: Lane, written_at: Micros) -> bool {
        self.answered_written_at[lane.index()].is_some_and(|at| at >= written_at)
    }

    /// Destinations say that it acknowledged what they never had. Acks do not end that: they are what it is ejected for.
    pub fn eject(&mut self, now: Micros) {
        if self.ejection.begin(now) {
            self.reports.clear();
            self.failures += 1;
        }
    }

    /// See [`ProxyRoute::eject`].
    #[must_use]
    pub fn is_ejected(&self, now: Micros) -> bool {
        self.ejection.holds(now)
    }

    /// Until when a lane leaves it alone, or did the last time, for whatever reason.
    fn left_until(&self, lane: Lane) -> Micros {
        let records = self.records(lane).map(Standing::snoozed_until);
        records.into_iter().fold(self.ejection.until(), Micros::max)
    }

    /// A lane leaves it alone.
    fn is_left(&self, now: Micros) -> bool {
        Lane::ALL.iter().any(|lane| self.left_until(*lane) > now)
    }

    /// Until when it, or its connection of this lane, is snoozed.
    fn snoozed_until(&self, lane: Lane) -> Micros {
        let [proxy, connection] = self.records(lane).map(Standing::snoozed_until);
        proxy.max(connection)
    }

    /// It delivers, on this lane. What was said of the other connection alone is not changed by that; and if it was the other lane that
    /// was silent, what was said of the proxy is that connection's from now on: it is not back in use for having answered elsewhere.
    pub fn acquit(&mut self, lane: Lane, written_at: Option<Micros>) {
        let latest = &mut self.answered_written_at[lane.index()];
        *latest = (*latest).max(written_at);
        if let Some(silent) = self.silent_lane.take().filter(|silent| *silent != lane) {
            self.lanes[silent.index()].take_over(&self.standing);
        }
        self.standing.acquit();
        self.lanes[lane.index()].acquit();
    }
}

/// The proxies of one datacenter.
#[derive(Debug)]
pub struct Routes {
    /// All of them, in the order in which they came; those that left have their places still.
    pub proxies: Vec<ProxyRoute>,
    in_use: usize,
    /// A proxy that is clearly better than the one in use, and since when.
    challenger: Option<(usize, Micros)>,
    /// Until then messages wait for the first link to any proxy.
    patient_until: Option<Micros>,
    rng: fastrand::Rng,
    /// What was usable when it was asked last, and what each proxy cost: lists that are made for every flow and frame.
    order: Vec<usize>,
    costs: Vec<u64>,
}

/// How long another proxy has to be clearly better before it is taken: a switch costs the history of a connection.
const SWITCH_AFTER: Duration = Duration::from_secs(5);

/// Clearly better: two thirds of the time to an ack, and less by this.
const SWITCH_GAIN: Duration = Duration::from_millis(2);

/// How long the first messages to a datacenter wait for a proxy of it: a few round trips, for a connection, TLS and Hello.
const PATIENCE: Duration = Duration::from_secs(1);

/// The rest of a snooze after it turned out that all proxies are late: long enough to try what else there is.
const PARDON: Duration = Duration::from_millis(200);

impl Routes {
    /// None is up yet.
    #[must_use]
    pub fn new(seed: u64, proxies: impl IntoIterator<Item = (PeerIx, NodeId)>) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        let mut routes = Self {
            proxies: Vec::new(),
            in_use: 0,
            challenger: None,
            patient_until: None,
            rng,
            order: Vec::new(),
            costs: Vec::new(),
        };
        let _none_returned = routes.set(proxies);
        routes
    }

    /// Exactly these proxies from now on. One that was there before begins with a clean record when it comes back: gives the
    /// places of these.
    pub fn set(&mut self, proxies: impl IntoIterator<Item = (PeerIx, NodeId)>) -> Vec<usize> {
        let mut returned = Vec::new();
        let places = self.proxies.iter().enumerate().map(|(place, proxy)| (proxy.id.clone(), place));
        let places: BTreeMap<NodeId, usize> = places.collect();
        let before: Vec<bool> =
            self.proxies.iter_mut().map(|proxy| std::mem::take(&mut proxy.present)).collect();
        for (peer, id) in proxies {
            match places.get(&id).copied() {
                Some(known) if before.get(known).copied().unwrap_or(false) => {
                    self.proxies[known].present = true
                }
                Some(known) => {
                    self.proxies[known] = ProxyRoute::new(peer, id);
                    returned.push(known);
                }
                None => self.proxies.push(ProxyRoute::new(peer, id)),
            }
        }
        for proxy in self.proxies.iter_mut().filter(|proxy| !proxy.present) {
            proxy.link = None;
        }
        returned
    }

    /// Which proxy a link leads to.
    #[must_use]
    pub fn by_link(&self, link: LinkId) -> Option<usize> {
        self.proxies.iter().position(|proxy| proxy.link == Some(link))
    }

    /// The proxy that a peer is now.
    #[must_use]
    pub fn by_peer(&self, peer: PeerIx) -> Option<usize> {
        self.proxies.iter().position(|proxy| proxy.present && proxy.peer == peer)
    }

    /// The usable proxies in the order in which to try them, with their links: one that is due for its trial, the one in use, the
    /// others. One whose trial is under way is left out where there is another.
    pub fn usable(
        &mut self,
        lane: Lane,
        links: &Links,
        now: Micros,
    ) -> impl Iterator<Item = (usize, LinkId)> {
        let (mut good, mut costs) = (std::mem::take(&mut self.order), std::mem::take(&mut self.costs));
        good.clear();
        costs.clear();
        costs.extend((0..self.proxies.len()).map(|index| self.cost_us(index, links)));
        let due = self.offered(&mut good, lane, links, now);
        self.choose(&good, &costs, now);
        // From the one in use on, behind one that is due.
        let before = good.partition_point(|index| *index < self.in_use);
        good.rotate_left(before);
        if let Some(due) = due {
            good.insert(0, due);
        }
        (self.order, self.costs) = (good, costs);
        let proxies = &self.proxies;
        self.order.iter().filter_map(|index| Some((*index, proxies[*index].link?)))
    }

    /// The first of them when they were asked for last.
    #[must_use]
    pub fn first(&self) -> Option<usize> {
        self.order.first().copied()
    }

    /// The same in no order.
    pub fn linked(&self, lane: Lane, links: &Links, now: Micros) -> impl Iterator<Item = (usize, LinkId)> {
        let mut offered = Vec::new();
        let due = self.offered(&mut offered, lane, links, now);
        offered.extend(due);
        offered.into_iter().filter_map(|index| Some((index, self.proxies[index].link?)))
    }

    /// Adds those of them that carry more than a single message. Gives the one that is due for its trial.
    fn offered(&self, good: &mut Vec<usize>, lane: Lane, links: &Links, now: Micros) -> Option<usize> {
        let mut tried = Vec::new();
        let usable = |(_, proxy): &(usize, &ProxyRoute)| proxy.usable(lane, links, now);
        for (index, proxy) in self.proxies.iter().enumerate().filter(usable) {
            if proxy.is_on_trial(lane, now) { tried.push(index) } else { good.push(index) }
        }
        if good.is_empty() {
            good.append(&mut tried);
        }
        tried.into_iter().find(|index| !self.proxies[*index].is_tried(lane, now))
    }

    /// A single message is to try this proxy: it is on trial, no message does that yet, and the others have a better way.
    #[must_use]
    pub fn is_due_for_trial(&self, index: usize, lane: Lane, links: &Links, now: Micros) -> bool {
        let tried = |proxy: &ProxyRoute| proxy.is_on_trial(lane, now);
        tried(&self.proxies[index])
            && !self.proxies[index].is_tried(lane, now)
            && self.proxies.iter().any(|proxy| !tried(proxy) && proxy.usable(lane, links, now))
    }

    /// Keeps the proxy in use, or takes another: the better of two that are drawn, so that senders who lose the same proxy
    /// do not all run to the same next one.
    fn choose(&mut self, usable: &[usize], costs: &[u64], now: Micros) {
        if !usable.contains(&self.in_use) {
            self.challenger = None;
            if let Some(better) = self.draw(usable, None, costs) {
                self.in_use = better;
            }
            return;
        }
        let in_use = self.in_use;
        let is_clearly_better = |index: usize| {
            let (cost, now) = (costs[index], costs[in_use]);
            cost.saturating_mul(3) < now.saturating_mul(2) && cost.saturating_add(micros(SWITCH_GAIN)) < now
        };
        let holds =
            |challenger: &(usize, Micros)| usable.contains(&challenger.0) && is_clearly_better(challenger.0);
        match self.challenger.filter(holds) {
            Some((better, since)) if now.since(since) >= SWITCH_AFTER => {
                (self.in_use, self.challenger) = (better, None);
            }
            Some(_) => {}
            None => {
                let better = self.draw(usable, Some(in_use), costs);
                self.challenger = better.filter(|index| is_clearly_better(*index)).map(|index| (index, now));
            }
        }
    }

    /// The better of two that are drawn, of all but one.
    fn draw(&mut self, from: &[usize], but: Option<usize>, costs: &[u64]) -> Option<usize> {
        let others = || from.iter().copied().filter(|index| Some(*index) != but);
        let count = others().count();
        if count <= 2 {
            return others().min_by_key(|index| costs[*index]);
        }
        let one = self.rng.usize(..count);
        let other = (one + self.rng.usize(1..count)) % count;
        let drawn = [one, other].into_iter().filter_map(|place| others().nth(place));
        drawn.min_by_key(|index| costs[*index])
    }

    /// Takes another proxy for the one in use if that is lost, though nothing waits to be sent.
    pub fn refresh(&mut self, links: &Links, now: Micros) {
        let _in_turn = self.usable(Lane::Control, links, now);
    }

    /// What an ack by this proxy takes: round trip, queue and ack delay. Measured, where messages went there; else the ping,
    /// and the least that the one in use ever took on top of its own.
    fn cost_us(&self, index: usize, links: &Links) -> u64 {
        let ping = |proxy: &ProxyRoute| {
            proxy.link.and_then(|link| links.link(link)).map(|link| link.rtt).unwrap_or_default()
        };
        let (proxy, in_use) = (&self.proxies[index], &self.proxies[self.in_use]);
        if !proxy.rtt.is_empty() {
            return proxy.rtt.smoothed_us().max(ping(proxy).smoothed_us());
        }
        ping(proxy).smoothed_us() + in_use.rtt.min_us().saturating_sub(ping(in_use).min_us())
    }

    /// What an ack by the proxy in use takes, µs; 0 where nothing is known.
    #[must_use]
    pub fn ack_us(&self, links: &Links) -> u64 {
        if self.proxies.is_empty() { 0 } else { self.cost_us(self.in_use, links) }
    }

    /// The round trips of pings to a proxy that is linked, the one in use if it is.
    #[must_use]
    pub fn pings(&self, links: &Links) -> Rtt {
        let ping = |proxy: &ProxyRoute| links.link(proxy.link?).map(|link| link.rtt);
        let in_use = self.proxies.get(self.in_use).and_then(ping);
        in_use.or_else(|| self.proxies.iter().find_map(ping)).unwrap_or_default()
    }

    /// What is known of the other proxies when one is late.
    #[must_use]
    pub fn others(
        &self,
        index: usize,
        lane: Lane,
        links: &Links,
        settings: &Settings,
        now: Micros,
    ) -> Evidence {
        let memory = settings.attempt_timeout_max.saturating_mul(2);
        let linked = |proxy: &&ProxyRoute| {
            let link = proxy.link.and_then(|link| links.link(link));
            link.is_some_and(|link| link.up && !link.draining) && !proxy.is_ejected(now)
        };
        let present = || self.proxies.iter().filter(|proxy| proxy.present);
        let others = || present().filter(|proxy| proxy.peer != self.proxies[index].peer);
        let is_late =
            |proxy: &&ProxyRoute| proxy.records(lane).iter().any(|record| record.is_late(memory, now));
        Evidence {
            proxies: present().count(),
            others: others().filter(linked).count(),
            others_late: others().filter(linked).filter(is_late).count(),
            // Whichever lane leaves them: half of the proxies stay whole.
            others_snoozed: others().filter(|proxy| proxy.is_left(now)).count(),
            unheard: present().filter_map(|proxy| Some(links.link(proxy.link?)?.unheard(now))).min(),
            ..Evidence::default()
        }
    }

    /// All proxies are late: it is none of them. What was said of one of them is taken back. False when nothing was.
    pub fn pardon(&mut self, now: Micros) -> bool {
        let records = self.proxies.iter_mut().flat_map(|proxy| {
            let connections = proxy.lanes.iter_mut();
            connections.chain([&mut proxy.standing])
        });
        records.map(|record| record.pardon(PARDON, now)).fold(false, |one, other| one | other)
    }

    /// No proxy was linked yet, and one is being dialled: until when that is waited for. Once: a datacenter whose proxies are
    /// down is not waited for, nor is one whose proxies were lost.
    pub fn patience(&mut self, now: Micros) -> Option<Micros> {
        if !self.dials_its_first() {
            return None;
        }
        let until = *self.patient_until.get_or_insert(now + PATIENCE);
        (until > now).then_some(until)
    }

    /// See [`Routes::patience`].
    #[must_use]
    pub fn is_patient(&self, now: Micros) -> bool {
        self.dials_its_first() && self.patient_until.is_some_and(|until| until > now)
    }

    fn dials_its_first(&self) -> bool {
        let present = || self.proxies.iter().filter(|proxy| proxy.present);
        present().any(|proxy| !proxy.tried) && !present().any(|proxy| proxy.link.is_some())
    }

    /// The datacenter has no proxy, or the sender stands in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.proxies.iter().any(|proxy| proxy.present)
    }

    /// Why a proxy is taken that is.
    #[must_use]
    pub fn why(&self, index: usize, lane: Lane, now: Micros) -> Why {
        match &self.proxies[index] {
            proxy if proxy.is_on_trial(lane, now) => Why::Trial,
            _ if index == self.in_use => Why::InUse,
            _ => Why::Next,
        }
    }

    /// What stands against a proxy for every flow of a lane; `None` if it is usable.
    #[must_use]
    pub fn obstacle(&self, index: usize, lane: Lane, links: &Links, now: Micros) -> Option<Passed> {
        let proxy = &self.proxies[index];
        let (why, until) = match proxy.link.and_then(|link| links.link(link)) {
            Some(link) if link.draining => (Obstacle::Draining, Micros::NEVER),
            Some(link) if link.up && proxy.is_ejected(now) => (Obstacle::Ejected, proxy.ejection.until()),
            Some(link) if link.up && proxy.snoozed_until(lane) > now => {
                (Obstacle::Snoozed, proxy.snoozed_until(lane))
            }
            Some(link) if link.up => return None,
            _ => (Obstacle::NotLinked, Micros::NEVER),
        };
        Some(Passed { way: Way::Proxy(index), why, until })
    }

    /// When the first snooze ends that a lane waits for.
    #[must_use]
    pub fn next_wake(&self, lane: Lane, now: Micros) -> Micros {
        let snoozes = self.proxies.iter().filter(|proxy| proxy.link.is_some());
        let until = |proxy: &ProxyRoute| {
            let [proxy_until, connection_until] = proxy.records(lane).map(Standing::snoozed_until);
            [proxy_until, connection_until, proxy.ejection.until()]
        };
        let snoozes = snoozes.flat_map(until);
        snoozes.filter(|until| *until > now).min().unwrap_or(Micros::NEVER)
    }

    /// All proxies, for people.
    #[must_use]
    pub fn status(&self, links: &Links, settings: &Settings, now: Micros) -> Vec<RouteStatus> {
        let row = |(index, proxy): (usize, &ProxyRoute)| {
            let link = proxy.link.and_then(|link| links.link(link));
            // Of whichever lane leaves it for longer.
            let left = |lane: &Lane| proxy.left_until(*lane);
            let left_until = Lane::ALL.iter().map(left).max().unwrap_or_default();
            let snoozed = Lane::ALL.iter().any(|lane| proxy.snoozed_until(*lane) > now);
            let state = match link {
                None => "down",
                Some(link) if link.draining => "draining",
                Some(_) if proxy.is_ejected(now) => "ejected",
                Some(_) if snoozed => "snoozed",
                Some(_) => "up",
            };
            let timeout = link.map(|link| attempt_timeout(&proxy.rtt, &link.rtt, 1, settings));
            RouteStatus {
                proxy: proxy.id.clone(),
                in_use: index == self.in_use && state == "up",
                state,
                snoozed_ms: micros(left_until.since(now)) / 1000,
                attempt_timeout_ms: micros(timeout.unwrap_or_default()) / 1000,
                linked: link.is_some_and(|link| link.up),
                rtt_us: link.filter(|link| !link.rtt.is_empty()).map(|link| link.rtt.smoothed_us()),
                ack_us: (!proxy.rtt.is_empty()).then(|| proxy.rtt.smoothed_us()),
                failures: proxy.failures,
                reported_by: proxy.reports.shown(now),
                trial: Lane::ALL.iter().any(|lane| proxy.is_on_trial(*lane, now)),
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
            acks.sample(Duration::from_millis(100), Micros(0));
        }
        let first = attempt_timeout(&acks, &pings, 1, &settings);
        assert_eq!(attempt_timeout(&acks, &pings, 2, &settings), first * 2);
        assert_eq!(attempt_timeout(&acks, &pings, 99, &settings), Duration::from_secs(2));

        let mut routes = Routes::new(1, [(PeerIx(0), NodeId::new("p").unwrap())]);
        let proxy = &mut routes.proxies[0];
        assert!(proxy.convict(Lane::Control, &settings, Micros(0)));
        assert_eq!(proxy.snoozed_until(Lane::Bulk), Micros(1_000_000));
        assert!(!proxy.convict(Lane::Control, &settings, Micros(999_999)), "known already");
        assert!(proxy.convict(Lane::Control, &settings, Micros(1_000_000)));
        assert_eq!(proxy.snoozed_until(Lane::Bulk), Micros(3_000_000));
        proxy.acquit(Lane::Control, Some(Micros(1)));
        assert!(proxy.convict(Lane::Control, &settings, Micros(0)));
        assert_eq!(proxy.snoozed_until(Lane::Bulk), Micros(1_000_000), "an ack clears the record");
    }

    #[test]
    fn a_lane_leaves_a_proxy_alone_and_the_other_one_does_not() {
        let settings = Settings::default();
        let mut routes = routes(1, 1);
        let proxy = &mut routes.proxies[0];
        let left = |proxy: &ProxyRoute| Lane::ALL.map(|lane| proxy.left_until(lane).0 / 1000);
        assert!(proxy.convict_lane(Lane::Bulk, &settings, Micros(0)));
        assert_eq!(left(proxy), [0, 1_000]);
        proxy.acquit(Lane::Control, Some(Micros(5)));
        assert_eq!(left(proxy), [0, 1_000], "what control brings says nothing of it");
        assert!(
            proxy.answered_since(Lane::Control, Micros(5)) && !proxy.answered_since(Lane::Bulk, Micros(0))
        );
        assert!(proxy.is_on_trial(Lane::Bulk, Micros(1_000_000)));
        assert!(!proxy.is_on_trial(Lane::Control, Micros(1_000_000)));
        proxy.begin_trial(Lane::Bulk, &settings, Micros(1_000_000));
        assert!(proxy.is_tried(Lane::Bulk, Micros(1_000_000)) && !proxy.is_tried(Lane::Control, Micros(1)));
        proxy.acquit(Lane::Bulk, None);
        assert!(!proxy.is_on_trial(Lane::Bulk, Micros(1_000_000)));
        // Of both it is as of one. What it delivers ends it for that lane, and for the one that was silent when it was that one.
        for (silent, after) in [(Lane::Control, [0, 0]), (Lane::Bulk, [0, 3_000])] {
            assert!(proxy.convict(silent, &settings, Micros(2_000_000)));
            assert_eq!(left(proxy), [3_000, 3_000]);
            proxy.acquit(Lane::Control, None);
            assert_eq!(left(proxy), after);
        }
        assert!(proxy.is_on_trial(Lane::Bulk, Micros(3_000_000)));
        assert!(proxy.convict_lane(Lane::Bulk, &settings, Micros(3_000_000)));
        assert_eq!(left(proxy), [0, 5_000], "as long as a second time is");
        proxy.acquit(Lane::Bulk, None);
        assert_eq!(left(proxy), [0, 0]);
    }

    #[test]
    fn a_proxy_that_left_is_nobodys_way() {
        let names = ["a", "b"].map(|name| NodeId::new(name).unwrap());
        let of = |range: std::ops::Range<usize>| {
            range.map(|index| (PeerIx(index), names[index].clone())).collect::<Vec<_>>()
        };
        let mut routes = Routes::new(1, of(0..2));
        assert_eq!(routes.by_peer(PeerIx(0)), Some(0));
        assert!(routes.set(of(1..2)).is_empty());
        assert_eq!((routes.by_peer(PeerIx(0)), routes.by_peer(PeerIx(1))), (None, Some(1)));
        assert_eq!(routes.set(of(0..2)), [0]);
        assert_eq!(routes.by_peer(PeerIx(0)), Some(0), "in its place again");
    }

    fn routes(seed: u64, count: usize) -> Routes {
        let proxies = (0..count).map(|index| (PeerIx(index), NodeId::new(&format!("p{index}")).unwrap()));
        Routes::new(seed, proxies)
    }

    #[test]
    fn the_proxy_in_use_is_kept_until_another_has_been_clearly_better_for_a_while() {
        let (mut routes, all) = (routes(1, 3), [0, 1, 2]);
        let second = |seconds: u64| Micros(seconds * 1_000_000);
        for at in 0..100 {
            routes.choose(&all, &[100_000, 70_000, 99_000], second(at));
        }
        assert_eq!(routes.in_use, 0, "better, but not by a third");
        // Drawn from two others: sooner or later it is the better one.
        for at in 100..104 {
            routes.choose(&all, &[100_000, 60_000, 60_000], second(at));
        }
        routes.choose(&all, &[100_000, 90_000, 90_000], second(104));
        for at in 105..109 {
            routes.choose(&all, &[100_000, 60_000, 60_000], second(at));
        }
        assert_eq!(routes.in_use, 0, "not for so long without a break");
        routes.choose(&all, &[100_000, 60_000, 60_000], second(110));
        assert_ne!(routes.in_use, 0);
        let (kept, costs) = (routes.in_use, [1_000, 2_500, 2_500]);
        for at in 111..200 {
            routes.choose(&all, &costs, second(at));
        }
        assert_eq!(routes.in_use, kept, "a millisecond and a half is no gain");
    }

    #[test]
    fn when_the_proxy_in_use_is_lost_the_better_of_two_drawn_ones_is_taken() {
        let costs = [1, 10, 20, 30, 40];
        let taken: Vec<usize> = (0..400)
            .map(|seed| {
                let mut routes = routes(seed, costs.len());
                routes.choose(&[1, 2, 3, 4], &costs, Micros(0));
                routes.in_use
            })
            .collect();
        let times = |index: usize| taken.iter().filter(|of| **of == index).count();
        assert_eq!(times(4), 0, "the worst of them never is");
        assert!(times(1) > 150 && times(2) > 80 && times(3) > 30, "nor is it the same for all: {taken:?}");
        let mut routes = routes(1, 5);
        routes.choose(&[3, 4], &costs, Micros(0));
        assert_eq!(routes.in_use, 3, "of two there is nothing to draw");
    }

    #[test]
    fn reports_that_ejected_a_proxy_are_used_up() {
        let mut routes = routes(1, 1);
        let proxy = &mut routes.proxies[0];
        let [a, b] = ["a", "b"].map(|name| NodeId::new(name).unwrap());
        assert!(!proxy.reports.note(&a, 5, Micros(0)) && proxy.reports.note(&b, 5, Micros(0)));
        proxy.eject(Micros(0));
        assert!(proxy.is_ejected(Micros(59_999_999)) && !proxy.is_ejected(Micros(60_000_000)));
        assert!(!proxy.reports.note(&a, 5, Micros(60_000_000)), "it takes two again");
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
        let mut routes = Routes::new(1, [(PeerIx(0), NodeId::new("p").unwrap())]);
        let proxy = &mut routes.proxies[0];
        assert!(proxy.convict(Lane::Control, &settings, Micros(0)));
        assert_eq!(proxy.snoozed_until(Lane::Control), Micros::NEVER);
    }
}
