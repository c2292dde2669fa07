//! Keeps what is said to several destinations of a datacenter in one frame.
//!
//! A frame takes about as much of every destination. One that has something to say again is behind the others from then on:
//! while all have more to send than a frame takes, each frame would have different messages of theirs, and every message that
//! they share would cross once for each. So whoever is ahead lets the others come to where it is, if that is a frame or two.

use std::collections::{BTreeMap, BTreeSet};

use super::{Client, Ticket};
use crate::proto::flow::FlowIx;

/// With more destinations that have something to send, none waits: to look at all of them would take longer than it saves.
const FLOWS_MAX: usize = 64;

/// Who has more than this to send before it is where another one is, bytes, is not waited for.
const BEHIND_BYTES_MAX: usize = 512 * 1024;

/// Nor who has more messages.
const BEHIND_MESSAGES_MAX: usize = 64;

/// In what order flows are looked at for a frame, and who waits for whom.
pub(super) struct Step {
    pub(super) order: Vec<FlowIx>,
    /// Flows that are ahead of another one.
    waits: BTreeSet<(FlowIx, FlowIx)>,
}

impl Step {
    /// Those that are behind first. Of every flow the batches of what it has to send, the next one first.
    fn of(flows: &[(FlowIx, Vec<Ticket>)]) -> Self {
        let mut waits = BTreeSet::new();
        let mut next_of: BTreeMap<Ticket, Vec<FlowIx>> = BTreeMap::new();
        for (ix, batches) in flows {
            if let Some(next) = batches.first() {
                next_of.entry(*next).or_default().push(*ix);
            }
        }
        for (behind, batches) in flows {
            for ahead in batches.iter().skip(1).filter_map(|batch| next_of.get(batch)).flatten() {
                if ahead != behind {
                    waits.insert((*ahead, *behind));
                }
            }
        }
        let is_ahead = |ix: FlowIx| waits.range((ix, FlowIx(0))..=(ix, FlowIx(usize::MAX))).next().is_some();
        let (ahead, others): (Vec<FlowIx>, Vec<FlowIx>) =
            flows.iter().map(|(ix, _)| *ix).partition(|ix| is_ahead(*ix));
        Self { order: others.into_iter().chain(ahead).collect(), waits }
    }

    /// Something of `behind` goes into the frame, so that it comes closer to where `ahead` is.
    pub(super) fn waits_for(&self, ahead: FlowIx, behind: FlowIx) -> bool {
        self.waits.contains(&(ahead, behind))
    }
}

impl Client {
    /// The order for the next frame of these flows.
    pub(super) fn step(&self, order: &[FlowIx], late_too: bool) -> Step {
        let is_behind = |ix: &FlowIx| self.flows[ix.0].has_several();
        if order.len() < 2 || order.len() > FLOWS_MAX || !order.iter().any(is_behind) {
            return Step { order: order.to_vec(), waits: BTreeSet::new() };
        }
        let batches = |ix: &FlowIx| {
            let mut bytes = 0;
            let near =
                self.flows[ix.0].next_batches(late_too).take(BEHIND_MESSAGES_MAX).take_while(|(_, next)| {
                    let within = bytes <= BEHIND_BYTES_MAX;
                    bytes = bytes.saturating_add(*next);
                    within
                });
            (*ix, near.map(|(ticket, _)| ticket).collect())
        };
        let flows: Vec<(FlowIx, Vec<Ticket>)> = order.iter().map(batches).collect();
        Step::of(&flows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(flows: &[&[u64]]) -> Step {
        let flows: Vec<(FlowIx, Vec<Ticket>)> = flows
            .iter()
            .enumerate()
            .map(|(ix, batches)| (FlowIx(ix), batches.iter().copied().map(Ticket).collect()))
            .collect();
        Step::of(&flows)
    }

    fn order(step: &Step) -> Vec<usize> {
        step.order.iter().map(|ix| ix.0).collect()
    }

    #[test]
    fn whoever_is_ahead_waits_for_those_that_come_to_where_it_is() {
        let found = step(&[&[5, 6], &[3, 4, 5, 6], &[5, 6, 7]]);
        assert_eq!(order(&found), [1, 0, 2]);
        assert!(found.waits_for(FlowIx(0), FlowIx(1)) && found.waits_for(FlowIx(2), FlowIx(1)));
        assert!(!found.waits_for(FlowIx(1), FlowIx(0)) && !found.waits_for(FlowIx(0), FlowIx(2)));
    }

    #[test]
    fn nobody_waits_where_nothing_is_shared_or_all_are_at_one_place() {
        for flows in [&[&[1, 4, 7][..], &[2, 5], &[3]][..], &[&[1, 2], &[1, 2]], &[&[1], &[]], &[&[2], &[1]]]
        {
            let found = step(flows);
            assert_eq!((order(&found), found.waits.len()), ((0..flows.len()).collect(), 0));
        }
    }
}
