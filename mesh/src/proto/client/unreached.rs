//! Destinations that nothing reaches at present, and those that take nothing of what they have, for people. Nothing is decided by it.

use std::time::Duration;

use super::Client;
use crate::id::{Datacenter, Lane, NodeId};
use crate::proto::flow::{Flow, FlowIx, Way};
use crate::proto::links::Links;
use crate::proto::member::UNTAKEN_FOR;
use crate::proto::pause::Failing;
use crate::proto::time::{Micros, micros};
use crate::stats::{LastTried, UnreachedDestination, UntakenDestination};

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
    /// The last attempt that came to nothing since; in this node's own datacenter none may have ended.
    failing: Option<Failing>,
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
    fn unreached(&self, first: FlowIx, now: Micros) -> Option<Unreached<'_>> {
        let unreached = self.lanes(first).iter().filter_map(|flow| {
            let since = flow.unanswered_since().filter(|since| now.since(*since) >= UNANSWERED_FOR)?;
            let failing = flow.pauses.failing().filter(|failing| failing.at >= since);
            let in_vain = failing.is_some() || self.sites[flow.datacenter].local;
            in_vain.then_some(Unreached { flow, since, failing })
        });
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
        let unreached = firsts.filter_map(|first| Some((*first, self.unreached(*first, now)?)));
        let mut unreached: Vec<_> = unreached.collect();
        unreached.sort_by_key(|(_, unreached)| unreached.since);
        let count = u64::try_from(unreached.len()).unwrap_or(u64::MAX);
        let shown =
            unreached.into_iter().take(SHOWN_MAX).map(|(first, Unreached { flow, since, failing })| {
                UnreachedDestination {
                    node: flow.destination.clone(),
                    unanswered_ms: micros(now.since(since)) / 1000,
                    pending_messages: self.pending_to(first),
                    last: self.tried(flow, failing, links, now),
                }
            });
        (count, shown.collect())
    }

    /// How many destinations of a datacenter have taken nothing for long of what they have, and those that have for longest. One that
    /// nothing reaches is none of them: nobody knows what it does now.
    pub(super) fn all_untaken(&self, datacenter: usize, now: Micros) -> (u64, Vec<UntakenDestination>) {
        let firsts = self.sites[datacenter].flows.iter().filter(|ix| self.flows[ix.0].lane == Lane::ALL[0]);
        let untaken = firsts.filter_map(|first| {
            let since = self.lanes(*first).iter().filter_map(Flow::untaken_since).min()?;
            (now.since(since) >= UNTAKEN_FOR && self.unreached(*first, now).is_none())
                .then_some((*first, since))
        });
        let mut untaken: Vec<_> = untaken.collect();
        untaken.sort_by_key(|(_, since)| *since);
        let count = u64::try_from(untaken.len()).unwrap_or(u64::MAX);
        let shown = untaken.into_iter().take(SHOWN_MAX).map(|(first, since)| UntakenDestination {
            node: self.flows[first.0].destination.clone(),
            untaken_ms: micros(now.since(since)) / 1000,
            pending_messages: self.pending_to(first),
        });
        (count, shown.collect())
    }

    /// Messages of a destination that wait or are not acknowledged.
    fn pending_to(&self, first: FlowIx) -> u64 {
        self.lanes(first).iter().map(|flow| u64::try_from(flow.pending()).unwrap_or(u64::MAX)).sum()
    }

    fn tried(&self, flow: &Flow, failing: Option<Failing>, links: &Links, now: Micros) -> LastTried {
        let (way, why) = match failing {
            Some(failing) => (failing.way, failing.cause.label()),
            None => (Way::Direct, if links.is_down(flow.peer) { "not_linked" } else { "silent" }),
        };
        LastTried {
            way: way.label(),
            proxy: self.proxy_of(&self.sites[flow.datacenter], way).cloned(),
            why,
            link_why: links.trouble(flow.peer, now),
        }
    }

    /// The last attempt that came to nothing with a destination, while nothing was answered since. In this node's own datacenter, where
    /// none may have ended, how its one way is.
    #[must_use]
    pub fn last_tried(&self, node: &NodeId, links: &Links, now: Micros) -> Option<LastTried> {
        let lanes = self.lanes(*self.destinations.get(node)?);
        let failing = |flow: &&Flow| flow.pauses.failing().map(|failing| failing.at);
        let flow = lanes.iter().max_by_key(failing)?;
        let failing = flow.pauses.failing();
        (failing.is_some() || self.sites[flow.datacenter].local)
            .then(|| self.tried(flow, failing, links, now))
    }

    /// How every destination is.
    pub fn contacts(&self, now: Micros) -> impl Iterator<Item = Contact<'_>> {
        self.destinations.iter().map(move |(node, first)| Contact {
            datacenter: &self.sites[self.flows[first.0].datacenter].name,
            node,
            unreached_since: self.unreached(*first, now).map(|unreached| unreached.since),
            answered_at: self.lanes(*first).iter().filter_map(Flow::answered_at).max(),
        })
    }
}
