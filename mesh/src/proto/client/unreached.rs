//! Destinations that nothing reaches at present, for people. Nothing is decided by it.

use std::time::Duration;

use super::Client;
use crate::id::{Datacenter, Lane, NodeId};
use crate::proto::flow::{Flow, FlowIx, Way};
use crate::proto::links::Links;
use crate::proto::pause::{Cause, Failing};
use crate::proto::time::{Micros, micros};
use crate::stats::{LastTried, UnreachedDestination};

/// So long one is shown when nothing more is sent to it: nobody knows how it is then.
const SHOWN_FOR: Duration = Duration::from_secs(60);

/// So long the link to a destination of this node's own datacenter is missing until messages are said not to reach it: it is dialled.
const DIALLED_FOR: Duration = Duration::from_secs(1);

/// Of a datacenter, at most so many are shown.
const SHOWN_MAX: usize = 32;

/// One destination that nothing reaches, on one lane or both.
struct Failed<'a> {
    /// The lane of the last attempt.
    flow: &'a Flow,
    failing: Failing,
    /// Of the lane that fails longest.
    since: Micros,
    /// Of both lanes.
    pending: usize,
}

impl Failed<'_> {
    /// Of the lanes of a destination; `None` where the last attempts of neither came to nothing.
    fn of(lanes: &[Flow]) -> Option<Failed<'_>> {
        // One that has nothing to send does not try again: what the other one hears says how it is.
        let heard_at = lanes.iter().filter_map(|flow| flow.heard).map(|(_, at)| at).max();
        let is_so =
            |flow: &Flow, failing: &Failing| flow.pending() > 0 || heard_at.is_none_or(|at| at < failing.at);
        let failing = lanes.iter().filter_map(|flow| Some((flow.pauses.failing()?, flow)));
        let failing = failing.filter(|(failing, flow)| is_so(flow, failing));
        let since = failing.clone().map(|(failing, _)| failing.since).min()?;
        let (failing, flow) = failing.max_by_key(|(failing, _)| failing.at)?;
        Some(Failed { flow, failing, since, pending: lanes.iter().map(Flow::pending).sum() })
    }

    /// Where nothing more is sent to it, nobody knows how it is now.
    fn is_news(&self, now: Micros) -> bool {
        self.pending > 0 || now.since(self.failing.at) < SHOWN_FOR
    }
}

impl Client {
    /// The lanes of a destination, by its first one.
    fn lanes(&self, first: FlowIx) -> &[Flow] {
        &self.flows[first.0..first.0 + Lane::ALL.len()]
    }

    /// Whether nothing reaches a destination. One of this node's own datacenter has a link all the time: while that is dialled,
    /// nothing is attempted.
    fn failed(&self, first: FlowIx, links: &Links, now: Micros) -> Option<Failed<'_>> {
        let lanes = self.lanes(first);
        let [flow, ..] = lanes else { return None };
        let pending = lanes.iter().map(Flow::pending).sum();
        if pending > 0
            && self.sites[flow.datacenter].local
            && let Some(down) = links.down(flow.peer, now)
            && Duration::from_millis(down.down_ms) >= DIALLED_FOR
        {
            let since = Micros(now.0.saturating_sub(down.down_ms.saturating_mul(1000)));
            let failing = Failing { since, at: now, way: Way::Direct, cause: Cause::DialFailed };
            return Some(Failed { flow, failing, since, pending });
        }
        Failed::of(lanes)
    }

    /// How many destinations of a datacenter nothing reaches, and those that fail longest.
    pub(super) fn unreached(
        &self,
        datacenter: usize,
        links: &Links,
        now: Micros,
    ) -> (u64, Vec<UnreachedDestination>) {
        let site = &self.sites[datacenter];
        let firsts = site.flows.iter().filter(|ix| self.flows[ix.0].lane.index() == 0);
        let failed = firsts.filter_map(|first| self.failed(*first, links, now));
        let mut failed: Vec<Failed<'_>> = failed.filter(|failed| failed.is_news(now)).collect();
        failed.sort_by_key(|failed| failed.since);
        let count = u64::try_from(failed.len()).unwrap_or(u64::MAX);
        let shown = failed.into_iter().take(SHOWN_MAX).map(|failed| UnreachedDestination {
            node: failed.flow.destination.clone(),
            failing_ms: micros(now.since(failed.since)) / 1000,
            pending_messages: u64::try_from(failed.pending).unwrap_or(u64::MAX),
            last: self.last_tried(&failed, links, now),
        });
        (count, shown.collect())
    }

    fn last_tried(&self, failed: &Failed<'_>, links: &Links, now: Micros) -> LastTried {
        let Failed { flow, failing, .. } = failed;
        LastTried {
            way: failing.way.label(),
            proxy: self.proxy_of(&self.sites[flow.datacenter], failing.way).cloned(),
            why: failing.cause.label(),
            link_why: links.trouble(flow.peer, now),
        }
    }

    /// What was tried last with a destination that nothing reaches.
    #[must_use]
    pub fn tried_last(&self, node: &NodeId, links: &Links, now: Micros) -> Option<LastTried> {
        let first = self.destinations.get(node)?;
        Some(self.last_tried(&self.failed(*first, links, now)?, links, now))
    }

    /// Every destination, and since when nothing reaches it.
    pub fn failing<'a>(
        &'a self,
        links: &'a Links,
        now: Micros,
    ) -> impl Iterator<Item = (&'a Datacenter, &'a NodeId, Option<Micros>)> {
        self.destinations.iter().map(move |(node, first)| {
            let since = self.failed(*first, links, now).map(|failed| failed.since);
            (&self.sites[self.flows[first.0].datacenter].name, node, since)
        })
    }
}
