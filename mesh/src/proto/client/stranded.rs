//! A sender without any link, for tests of what it keeps.

use std::time::Duration;

use bytes::Bytes;

use super::Client;
use crate::id::{ClusterId, Datacenter, Incarnation, NodeId};
use crate::message::{Batch, FailReason, Message, Outcome};
use crate::proto::flow::Flow;
use crate::proto::handshake::Identity;
use crate::proto::links::{LinkId, Links};
use crate::proto::time::Micros;
use crate::proto::wire::Offer;
use crate::settings::Settings;
use crate::stats::decision::DatacenterRoutes;
use crate::topology::{NodeSpec, Roles, Topology};

/// The members `m1` to `m5` of a datacenter, and a sender elsewhere that reaches nobody.
pub(super) struct Stranded {
    pub(super) client: Client,
    links: Links,
    topology: Topology,
}

impl Stranded {
    pub(super) fn new(settings: Settings) -> Self {
        let spec = |name: &str, datacenter: &str, roles, port| NodeSpec {
            id: NodeId::new(name).unwrap(),
            datacenter: Datacenter::new(datacenter).unwrap(),
            roles,
            address: Some(([127, 0, 0, 1], port).into()),
        };
        let members = (1..=5).map(|port| spec(&format!("m{port}"), "eu", Roles::MEMBER, port));
        let nodes = members.chain([spec("o", "us", Roles::ORIGIN, 9)]);
        let topology = Topology::new(ClusterId::new("c").unwrap(), nodes).unwrap();
        let me = Identity {
            cluster: topology.cluster().clone(),
            node: NodeId::new("o").unwrap(),
            datacenter: Datacenter::new("us").unwrap(),
            roles: Roles::ORIGIN,
            incarnation: Incarnation(1),
            offer: Offer::default(),
        };
        let mut links = Links::new(me, topology.clone().into(), settings.clone(), 1, 0);
        let client = Client::new(&topology, settings, &mut links, Micros(0));
        Self { client, links, topology }
    }

    /// The same bytes to each of `members`; whether there was room.
    pub(super) fn try_send(&mut self, members: &[&str], bytes: &Bytes, now: Micros) -> bool {
        self.submit(members, now, |to| Message::new(to, bytes.clone()))
    }

    /// The same with a deadline.
    pub(super) fn try_send_for(
        &mut self,
        deadline: Duration,
        members: &[&str],
        bytes: &Bytes,
        now: Micros,
    ) -> bool {
        self.submit(members, now, |to| Message::new(to, bytes.clone()).deadline(deadline))
    }

    fn submit(&mut self, members: &[&str], now: Micros, message: impl Fn(NodeId) -> Message) -> bool {
        let mut batch = Batch::to(Datacenter::new("eu").unwrap());
        batch.extend(members.iter().map(|to| message(NodeId::new(to).unwrap())));
        self.client.submit(batch, &mut self.links, now).is_ok()
    }

    /// All members leave the cluster.
    pub(super) fn leave(&mut self, now: Micros) {
        let alone = self.topology.without(|known| known.roles.member);
        self.client.set_topology(&alone, &mut self.links, now);
    }

    pub(super) fn send(&mut self, members: &[&str], bytes: &Bytes, now: Micros) {
        assert!(self.try_send(members, bytes, now));
    }

    /// Lets time pass; whether something was due.
    pub(super) fn ring(&mut self, now: Micros) -> bool {
        let due = self.client.poll_timeout() <= now;
        self.client.handle_timeout(Duration::ZERO, &mut self.links, now);
        due
    }

    /// Why messages failed since the last call, and how many others wait.
    pub(super) fn outcomes(&mut self) -> (Vec<FailReason>, u64) {
        let mut failed = Vec::new();
        while let Some(decided) = self.client.poll_decided() {
            match decided.outcome {
                Outcome::Failed { reason, .. } => failed.push(reason),
                Outcome::Delivered { .. } => unreachable!("nobody is reached"),
            }
        }
        (failed, self.client.sites.iter().map(|site| site.pending_messages).sum())
    }

    /// How often a way was looked for, for anybody.
    pub(super) fn decisions(&self, now: Micros) -> u64 {
        let of = |site: DatacenterRoutes| site.decisions.iter().map(|decision| decision.times).sum::<u64>();
        let from = |from| self.client.routes(from, &self.links, now);
        std::iter::successors(from(0), |(index, _)| from(index + 1)).map(|(_, site)| of(site)).sum()
    }

    /// A link to a member is lost.
    pub(super) fn lose(&mut self, link: u64, member: &str, now: Micros) {
        let peer = self.links.peer(&NodeId::new(member).unwrap()).unwrap();
        self.client.handle_link_down(LinkId(link), peer, &mut self.links, now);
    }

    /// These members, of five, are in the cluster.
    pub(super) fn keep(&mut self, members: &[&str], now: Micros) {
        let gone = |known: &NodeSpec| known.roles.member && !members.contains(&known.id.as_str());
        let topology = self.topology.without(gone);
        self.links.set_topology(topology.clone().into(), now);
        self.client.set_topology(&topology, &mut self.links, now);
    }

    /// Per flow with messages that wait, where the bytes of each lie.
    pub(super) fn addresses(&self) -> Vec<Vec<usize>> {
        let of = |flow: &Flow| {
            flow.queue.iter().map(|pending| pending.payload.segments()[0].as_ptr().addr()).collect()
        };
        self.client.flows.iter().map(of).filter(|of: &Vec<usize>| !of.is_empty()).collect()
    }
}
