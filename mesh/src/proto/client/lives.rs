//! Lives of destinations. A proxy says which one a member lives, and that is believed for what is sent next. What the member says
//! itself, when a link to it comes up, counts for more: a proxy that is wrong, or lies, ends no destination for this sender.

use super::Client;
use crate::id::{Incarnation, NodeId};
use crate::message::FailReason;
use crate::proto::flow::{FlowIx, Way};
use crate::proto::links::{LinkEnd, LinkId, Links};
use crate::proto::time::Micros;
use crate::proto::verdict::{Blame, Evidence};

impl Client {
    /// The destination of a flow lives another life. So it does for the other lane, which may have nothing under way that would
    /// tell: what is sent there next would be for a life that is known to be over. `by`: who says so, if not the destination itself.
    pub(super) fn learn_life(
        &mut self,
        ix: FlowIx,
        life: Incarnation,
        by: Option<Way>,
        links: &mut Links,
        now: Micros,
    ) {
        for ix in self.lanes_of(ix) {
            let flow = &mut self.flows[ix.0];
            if flow.incarnation < life {
                flow.hearsay.note(by, flow.incarnation, links.next_link());
            }
            if flow.knows_less_than(life) {
                self.restart_flow(ix, Some(life), links, now);
            } else {
                flow.incarnation = flow.incarnation.max(life);
            }
        }
    }

    /// A destination says itself which life it lives, by a link that came up.
    pub(super) fn take_own_word(
        &mut self,
        ix: FlowIx,
        (link, life): (LinkId, Incarnation),
        links: &mut Links,
        now: Micros,
    ) {
        let flow = &self.flows[ix.0];
        if flow.incarnation > life && flow.hearsay.is_older(link) {
            self.lanes_of(ix).into_iter().for_each(|ix| self.flows[ix.0].hearsay.ask(true));
            let flow = &self.flows[ix.0];
            links.replace(link, LinkEnd::PeerLife, now);
            return links.want_once(flow.peer, now);
        }
        for ix in self.lanes_of(ix) {
            let flow = &mut self.flows[ix.0];
            if !flow.incarnation.is_known() {
                continue;
            }
            let said = flow.incarnation;
            let (by, lived_on) = flow.hearsay.settle(life);
            if said < life {
                self.restart_flow(ix, Some(life), links, now);
            } else if said > life {
                if let Some(way) = by {
                    self.refute_life(ix, way, (said, life), now);
                }
                if lived_on {
                    // It never lived another one, and knows what it had: what was sent meanwhile may be sent again.
                    self.flows[ix.0].resume(life);
                    self.wake(ix, links, now);
                } else {
                    self.restart_flow(ix, Some(life), links, now);
                }
            }
        }
    }

    /// A proxy said that a destination lives a later life than this one does by its own word. The destination's messages leave it.
    fn refute_life(&mut self, ix: FlowIx, way: Way, (said, lived): (Incarnation, Incarnation), now: Micros) {
        let flow = &mut self.flows[ix.0];
        let (site, destination) = (flow.datacenter, flow.destination.clone());
        if !flow.pauses.distrust(way, now) {
            return;
        }
        self.take_back(ix, way);
        let proxy = self.proxy_of(&self.sites[site], way).cloned();
        tracing::error!(
            proxy = proxy.as_ref().map(NodeId::as_str),
            %destination,
            said = said.0,
            lived = lived.0,
            "proxy said that its member lives a later life than the member itself says: the member's messages leave that proxy"
        );
        self.note_verdict(site, Blame::FalseLife, way, Some(ix), Evidence::default(), now);
    }

    /// One end of a flow lives another life. What may have been delivered to the old one fails; the rest goes to the new.
    pub(super) fn restart_flow(
        &mut self,
        ix: FlowIx,
        destination: Option<Incarnation>,
        links: &mut Links,
        now: Micros,
    ) {
        let incarnation = destination.unwrap_or(self.flows[ix.0].incarnation);
        for seq in self.flows[ix.0].restart(incarnation) {
            self.give_up(ix, seq, FailReason::PeerRestarted);
        }
        self.flows[ix.0].held.restart();
        self.wake(ix, links, now);
    }
}
