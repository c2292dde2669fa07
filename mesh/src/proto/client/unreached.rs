//! Destinations that nothing reaches at present, for people. Nothing is decided by it.

use std::time::Duration;

use super::Client;
use crate::id::{Datacenter, Lane, NodeId};
use crate::proto::flow::{Flow, FlowIx, Way};
use crate::proto::links::Links;
use crate::proto::pause::{Cause, Failing};
use crate::proto::time::{Micros, micros};
use crate::stats::{LastTried, UnreachedDestination};

/// So long messages wait without any answer of their destination until they are said not to reach it: a proxy that failed is passed
/// by sooner.
const UNANSWERED_FOR: Duration = Duration::from_secs(2);

/// Of a datacenter, at most so many are shown.
const SHOWN_MAX: usize = 32;

/// A destination that nothing reaches, on this lane at least.
struct Unreached<'a> {
    flow: &'a Flow,
    /// Since when messages wait and nothing is answered.
    since: Micros,
    failing: Failing,
}

/// How a destination is, for who tells people when that changes.
pub struct Contact<'a> {
    /// Its datacenter.
    pub datacenter: &'a Datacenter,
    /// Its name.
    pub node: &'a NodeId,
    /// Since when nothing reaches it.
    pub unreached_since: Option<Micros>,
    /// When it answered last.
    pub answered_at: Option<Micros>,
}

impl Client {
    /// The lanes of a destination, by its first one.
    fn lanes(&self, first: FlowIx) -> &[Flow] {
        &self.flows[first.0..first.0 + Lane::ALL.len()]
    }

    /// Whether nothing reaches a destination: messages wait, nothing was answered for a while, and since then an attempt came to nothing.
    /// In this node's own datacenter silence is enough: there is one way, and while its link is dialled nothing is attempted.
    fn unreached(&self, first: FlowIx, links: &Links, now: Micros) -> Option<Unreached<'_>> {
        let of_lane = |flow: &'_ Flow| {
            let since = flow.unanswered_since().filter(|since| now.since(*since) >= UNANSWERED_FOR)?;
            let failing = flow.pauses.failing().filter(|failing| failing.at >= since);
            let cause = || if links.is_down(flow.peer) { Cause::DialFailed } else { Cause::TimedOut };
            let here = || Failing { at: now, way: Way::Direct, cause: cause() };
            Some((since, failing.or_else(|| self.sites[flow.datacenter].local.then(here))?))
        };
        let lanes = self.lanes(first).iter();
        let unreached =
            lanes.filter_map(|flow| of_lane(flow).map(|(since, failing)| Unreached { flow, since, failing }));
        unreached.min_by_key(|unreached| unreached.since)
    }

    /// How many destinations of a datacenter nothing reaches, and those to which messages wait longest.
    pub(super) fn all_unreached(
        &self,
        datacenter: usize,
        links: &Links,
        now: Micros,
    ) -> (u64, Vec<UnreachedDestination>) {
        let firsts = self.sites[datacenter].flows.iter().filter(|ix| self.flows[ix.0].lane == Lane::ALL[0]);
        let unreached = firsts.filter_map(|first| Some((*first, self.unreached(*first, links, now)?)));
        let mut unreached: Vec<_> = unreached.collect();
        unreached.sort_by_key(|(_, unreached)| unreached.since);
        let count = u64::try_from(unreached.len()).unwrap_or(u64::MAX);
        let shown =
            unreached.into_iter().take(SHOWN_MAX).map(|(first, Unreached { flow, since, failing })| {
                let pending: usize = self.lanes(first).iter().map(Flow::pending).sum();
                UnreachedDestination {
                    node: flow.destination.clone(),
                    unanswered_ms: micros(now.since(since)) / 1000,
                    pending_messages: u64::try_from(pending).unwrap_or(u64::MAX),
                    last: self.last_tried(flow, failing, links, now),
                }
            });
        (count, shown.collect())
    }

    fn last_tried(&self, flow: &Flow, failing: Failing, links: &Links, now: Micros) -> LastTried {
        LastTried {
            way: failing.way.label(),
            proxy: self.proxy_of(&self.sites[flow.datacenter], failing.way).cloned(),
            why: failing.cause.label(),
            link_why: links.trouble(flow.peer, now),
        }
    }

    /// The last attempt that came to nothing with a destination, while nothing was answered since.
    #[must_use]
    pub fn tried_last(&self, node: &NodeId, links: &Links, now: Micros) -> Option<LastTried> {
        let lanes = self.lanes(*self.destinations.get(node)?).iter();
        let failing = lanes.filter_map(|flow| Some((flow, flow.pauses.failing()?)));
        let (flow, failing) = failing.max_by_key(|(_, failing)| failing.at)?;
        Some(self.last_tried(flow, failing, links, now))
    }

    /// How every destination is.
    pub fn contacts<'a>(&'a self, links: &'a Links, now: Micros) -> impl Iterator<Item = Contact<'a>> {
        self.destinations.iter().map(move |(node, first)| Contact {
            datacenter: &self.sites[self.flows[first.0].datacenter].name,
            node,
            unreached_since: self.unreached(*first, links, now).map(|unreached| unreached.since),
            answered_at: self.lanes(*first).iter().filter_map(Flow::answered_at).max(),
        })
    }
}
