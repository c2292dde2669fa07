//! What another topology, or other limits, change for a sender: destinations and proxies come and go while messages are
//! under way.

use std::collections::BTreeSet;

use super::{Client, Reach, Site};
use crate::id::{Datacenter, Lane, NodeId};
use crate::message::FailReason;
use crate::proto::back::Back;
use crate::proto::decision::DecisionLog;
use crate::proto::flow::{Flow, FlowIx, Ping, Way};
use crate::proto::handshake::Identity;
use crate::proto::links::{Links, PeerIx};
use crate::proto::pause::Pauses;
use crate::proto::route::Routes;
use crate::proto::rtt::Rtt;
use crate::proto::time::Micros;
use crate::proto::verdict::{Resends, VerdictLog};
use crate::settings::Settings;
use crate::stats::DatacenterStats;
use crate::topology::Topology;

impl Client {
    /// Sends to these members, by these proxies, from now on. `links` know the topology already. Messages for a member that
    /// left, or stands elsewhere now, end as [`FailReason::Removed`].
    pub fn set_topology(&mut self, topology: &Topology, links: &mut Links, now: Micros) {
        let me = links.me.clone();
        for name in topology.datacenters() {
            self.add_site(&name, &me);
        }
        // Whoever stands elsewhere now has left the old place, before it comes to the new one.
        for first in self.gone(topology) {
            self.retire(first);
        }
        for site in 0..self.sites.len() {
            let name = self.sites[site].name.clone();
            let local = self.sites[site].local;
            let proxies = topology.proxies_of(&name).filter(|_| !local);
            let proxies = proxies.filter_map(|spec| Some((links.peer(&spec.id)?, spec.id.clone())));
            let returned = self.sites[site].routes.set(proxies);
            for ix in &self.sites[site].flows {
                for index in &returned {
                    self.flows[ix.0].pauses.forget(Way::Proxy(*index));
                }
            }
            for spec in topology.members_of(&name).filter(|spec| spec.id != me.node) {
                if let Some(peer) = links.peer(&spec.id)
                    && !self.destinations.contains_key(&spec.id)
                {
                    self.employ(&spec.id, peer, site);
                }
            }
            self.sites[site].present = topology.has_datacenter(&name);
            if !self.sites[site].present {
                // Nobody is shown them any more.
                (self.sites[site].decisions, self.sites[site].verdicts) = Default::default();
            }
        }
        self.reach_anew();
        for site in 0..self.sites.len() {
            for proxy in self.sites[site].routes.proxies.iter_mut().filter(|proxy| proxy.present) {
                proxy.link = proxy.link.or_else(|| links.dialled(proxy.peer).map(|(link, _)| link));
            }
            self.sites[site].routes.refresh(links, now);
            self.wake_all_of(site, links, now);
        }
    }

    /// Destinations that are no members any more, or stand elsewhere. In one pass: there may be many datacenters.
    fn gone(&self, topology: &Topology) -> Vec<FlowIx> {
        let stays = |flow: &Flow| {
            let spec = topology.node(&flow.destination).filter(|spec| spec.roles.member);
            spec.is_some_and(|spec| spec.datacenter == self.sites[flow.datacenter].name)
        };
        self.destinations.values().copied().filter(|first| !stays(&self.flows[first.0])).collect()
    }

    fn add_site(&mut self, name: &Datacenter, me: &Identity) {
        if self.site_index.contains_key(name) {
            return;
        }
        self.site_index.insert(name.clone(), self.sites.len());
        self.budget.add_datacenter();
        self.sites.push(Site {
            name: name.clone(),
            present: true,
            local: *name == me.datacenter,
            routes: Routes::new(seed(&me.node, name), []),
            flows: Vec::new(),
            ready: Default::default(),
            crowded: false,
            turn: [FlowIx(0); 2],
            pending_messages: 0,
            stats: DatacenterStats::zero(),
            decisions: DecisionLog::default(),
            verdicts: VerdictLog::default(),
            resends: Resends::new(self.settings.resend_percent),
            audits: false,
        });
    }

    /// A member is a destination from now on.
    fn employ(&mut self, id: &NodeId, peer: PeerIx, site: usize) {
        let first = self.retired.remove(id).unwrap_or(FlowIx(self.flows.len()));
        if first.0 == self.flows.len() {
            self.flows.extend(Lane::ALL.map(|lane| Flow::new(peer, id.clone(), site, lane)));
            self.destination_bytes.resize(self.flows.len(), 0);
        }
        for ix in self.lanes_of(first) {
            let flow = &mut self.flows[ix.0];
            if flow.datacenter != site {
                // It is elsewhere, as far as ever.
                flow.direct_rtt = Rtt::default();
                // Its proxies are others: what was heard by those before is of nobody here.
                flow.words.clear();
            }
            // Its seqs go on: the member may live the same life as before.
            (flow.peer, flow.datacenter, flow.pauses, flow.decision) = (peer, site, Pauses::default(), None);
            flow.back = Back::default();
            flow.employed = true;
            // In order, also where a member returns: a batch is looked up by where its members stand.
            let flows = &mut self.sites[site].flows;
            flows.insert(flows.partition_point(|of| *of < ix), ix);
        }
        self.destinations.insert(id.clone(), first);
    }

    /// A member is no destination any more: all that is under way to it ends here.
    fn retire(&mut self, first: FlowIx) {
        for ix in self.lanes_of(first) {
            self.end_all(ix, FailReason::Removed);
            for id in std::mem::take(&mut self.flows[ix.0].asking) {
                self.landed(id);
            }
            let flow = &mut self.flows[ix.0];
            (flow.ping, flow.audit, flow.employed) = (Ping::default(), false, false);
            let site = &mut self.sites[self.flows[ix.0].datacenter];
            if let Ok(place) = site.flows.binary_search(&ix) {
                site.flows.remove(place);
            }
            for ready in &mut site.ready {
                ready.remove(ix);
            }
        }
        let id = self.flows[first.0].destination.clone();
        self.destinations.remove(&id);
        self.retired.insert(id, first);
    }

    fn reach_anew(&mut self) {
        self.reaches.clear();
        for (site, of) in self.sites.iter().enumerate() {
            for proxy in of.routes.proxies.iter().filter(|proxy| proxy.present) {
                self.reaches.insert(proxy.peer, Reach { site, flows: None });
            }
        }
        for first in self.destinations.values().copied() {
            let flow = &self.flows[first.0];
            let reach = Reach { site: flow.datacenter, flows: None };
            self.reaches.entry(flow.peer).or_insert(reach).flows = Some(first);
        }
    }

    /// Whom this sender holds links to: proxies of other datacenters, members of its own.
    #[must_use]
    pub fn wanted(&self) -> BTreeSet<PeerIx> {
        let proxies = self.sites.iter().flat_map(|site| &site.routes.proxies);
        let proxies = proxies.filter(|proxy| proxy.present).map(|proxy| proxy.peer);
        let local = self.destinations.values().map(|first| &self.flows[first.0]);
        let local = local.filter(|flow| self.sites[flow.datacenter].local).map(|flow| flow.peer);
        proxies.chain(local).collect()
    }

    /// Other limits and timers from now on. What is queued or under way keeps its deadline.
    pub fn set_settings(&mut self, settings: Settings) {
        self.budget.set_limits(&settings);
        for site in &mut self.sites {
            site.resends.set_percent(settings.resend_percent);
        }
        self.settings = settings;
    }
}

/// What a sender draws its proxies of a datacenter with: another for every sender, so that they do not all draw the same.
fn seed(me: &NodeId, datacenter: &Datacenter) -> u64 {
    let names = me.as_str().bytes().chain([b'/']).chain(datacenter.as_str().bytes());
    names.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::stranded::Stranded;
    use super::*;
    use crate::message::Message;

    /// A member that comes back has the place of its flows again, wherever it was in between.
    #[test]
    fn flows_of_a_datacenter_stand_in_their_order_after_members_came_and_went() {
        let mut sender = Stranded::new(Settings::default());
        let now = Micros(0);
        for members in [&["m1", "m4"][..], &["m3", "m4", "m5"], &["m1", "m2", "m3", "m4", "m5"]] {
            sender.keep(members, now);
            let client = &sender.client;
            let site = client.sites.iter().position(|site| site.name.as_str() == "eu").unwrap();
            let flows = &client.sites[site].flows;
            assert!(flows.is_sorted() && flows.len() == 2 * members.len(), "{flows:?}");
            // What a guess that failed looks up is where the one that it was stands.
            let mut guess = 0;
            for (place, member) in members.iter().enumerate().skip(1).step_by(2) {
                let message = Message::new(NodeId::new(member).unwrap(), Bytes::new());
                assert!(client.guess_flow_of(site, &message, &mut guess).is_some());
                assert_eq!(guess, (place + 1) * Lane::ALL.len(), "behind {member}");
            }
        }
    }
}
