//! What another topology, or other limits, change for links: who may be a peer, where it is, and who is dialled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Absence, Dialling, Heard, IDLE_TIMEOUT, LinkEnd, LinkId, Links, Peer, PeerIx, Timer};
use crate::id::Datacenter;
use crate::proto::time::Micros;
use crate::settings::Settings;
use crate::topology::{NodeSpec, Topology, TopologyChangeError};

/// Nodes that one process may ever get to know. Whoever leaves keeps a place here, some 200 bytes, so that its lives and
/// its numbers go on should it come back.
const NODES_KNOWN_MAX: usize = 65_536;

/// Datacenters that one process may ever get to know: a node that moves needs no new name, and could bring a new datacenter each
/// time. One that left keeps its counters, some KiB.
const DATACENTERS_KNOWN_MAX: usize = 4_096;

impl Links {
    /// Refuses a topology with which more would be known than books are kept of, those that left included.
    ///
    /// # Errors
    /// [`TopologyChangeError::TooManyNodes`], [`TopologyChangeError::TooManyDatacenters`].
    pub fn check_known(&self, topology: &Topology) -> Result<(), TopologyChangeError> {
        let new = topology.nodes().filter(|spec| !self.peer_index.contains_key(&spec.id));
        let (known, max) = (self.peers.len() + new.count(), NODES_KNOWN_MAX);
        if known > max {
            return Err(TopologyChangeError::TooManyNodes { known, max });
        }
        let datacenters: BTreeSet<&Datacenter> =
            self.datacenters.keys().chain(topology.nodes().map(|spec| &spec.datacenter)).collect();
        let (known, max) = (datacenters.len(), DATACENTERS_KNOWN_MAX);
        if known > max {
            return Err(TopologyChangeError::TooManyDatacenters { known, max });
        }
        Ok(())
    }

    /// A link to a member of this datacenter is up.
    #[must_use]
    pub fn reaches_member(&self) -> bool {
        let is_member = |peer: PeerIx| {
            let Peer { spec, present, .. } = &self.peers[peer.0];
            *present && spec.roles.member && spec.datacenter == self.me.datacenter
        };
        self.links.values().any(|link| link.up && is_member(link.peer))
    }

    /// Who is in the cluster now.
    #[must_use]
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// Another topology from now on. Links to whom it does not list end, and those that another address, datacenter or
    /// role makes wrong; the last begin anew. Whom to dial is for [`Links::set_wanted`].
    pub fn set_topology(&mut self, topology: Arc<Topology>, now: Micros) {
        let mut links: BTreeMap<PeerIx, Vec<LinkId>> = BTreeMap::new();
        for (id, link) in &self.links {
            links.entry(link.peer).or_default().push(*id);
        }
        for peer in (0..self.peers.len()).map(PeerIx) {
            let links = links.get(&peer).map_or(&[][..], Vec::as_slice);
            let entry = &self.peers[peer.0];
            match topology.node(&entry.spec.id) {
                None if entry.present => self.remove_peer(peer, links, now),
                None => {}
                Some(spec) => self.change_peer(peer, links, spec, now),
            }
        }
        for spec in topology.nodes() {
            if !self.peer_index.contains_key(&spec.id) {
                self.peer_index.insert(spec.id.clone(), PeerIx(self.peers.len()));
                let datacenter = self.datacenter(&spec.datacenter);
                self.peers.push(Peer::new(spec, datacenter, now));
            }
        }
        self.topology = topology;
    }

    /// The place of a datacenter, a new one if it has none.
    fn datacenter(&mut self, name: &Datacenter) -> usize {
        if let Some(place) = self.datacenters.get(name) {
            return *place;
        }
        let place = self.datacenters.len();
        self.datacenters.insert(name.clone(), place);
        self.counters.wire.push((0, 0));
        place
    }

    /// Links that peers dialled and that are up, one of each peer.
    pub fn accepted(&self) -> impl Iterator<Item = LinkId> {
        self.peers.iter().filter_map(|peer| peer.accepted).filter(|link| self.is_up(*link))
    }

    fn remove_peer(&mut self, peer: PeerIx, links: &[LinkId], now: Micros) {
        let entry = &mut self.peers[peer.0];
        (entry.present, entry.dialling.wanted, entry.told) = (false, false, 0);
        entry.forget_claim();
        for link in links {
            self.say_closing(*link, LinkEnd::Topology, now);
        }
        self.peers[peer.0].dialling = Dialling::default();
        self.forget_dial(peer);
    }

    fn change_peer(&mut self, peer: PeerIx, links: &[LinkId], spec: &NodeSpec, now: Micros) {
        let datacenter = self.datacenter(&spec.datacenter);
        let entry = &mut self.peers[peer.0];
        let before = std::mem::replace(&mut entry.spec, spec.clone());
        let returns = !std::mem::replace(&mut entry.present, true);
        entry.datacenter = datacenter;
        if returns {
            entry.absence = Absence::new(now);
        }
        if returns || before == *spec {
            return;
        }
        let lost = |before: bool, after: bool| before && !after;
        let wrong = before.datacenter != spec.datacenter
            || lost(before.roles.origin, spec.roles.origin)
            || lost(before.roles.member, spec.roles.member)
            || lost(before.roles.proxy, spec.roles.proxy);
        let moved = before.address != spec.address;
        for link in links {
            if wrong {
                self.say_closing(*link, LinkEnd::Topology, now);
            } else if moved && self.links.get(link).is_some_and(|link| link.dialled) {
                self.say_closing(*link, LinkEnd::Moved, now);
            }
        }
        if moved && self.peers[peer.0].dialling.wanted {
            // Whatever kept it from answering was at the old address.
            self.peers[peer.0].dialling.failures = 0;
            self.timers.set(Timer::Redial(peer), now);
        }
    }

    /// Exactly these peers are dialled, now and after every loss. A link to another one ends when it is idle.
    pub fn set_wanted(&mut self, wanted: &BTreeSet<PeerIx>, now: Micros) {
        for peer in (0..self.peers.len()).map(PeerIx) {
            if wanted.contains(&peer) {
                self.want(peer, now);
                continue;
            }
            let dialling = &mut self.peers[peer.0].dialling;
            if std::mem::take(&mut dialling.wanted) {
                match dialling.link {
                    Some(link) => self.timers.set(Timer::Idle(link), now + IDLE_TIMEOUT),
                    None => self.forget_dial(peer),
                }
            }
        }
    }

    /// Limits and timers.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Other limits and timers from now on. What runs already, as a handshake, keeps its deadline, but for pings and silence; what was agreed on, as
    /// the longest frame of a link, holds until the link ends.
    pub fn set_settings(&mut self, settings: Settings, now: Micros) {
        self.dials.set_rate(settings.dials_per_second);
        self.settings = settings;
        // By the pings of before peers were not to be heard any sooner: their silence begins now.
        for (id, link) in self.links.iter_mut().filter(|(_, link)| link.up) {
            link.heard = Heard::now(now);
            self.timers.set_earlier(Timer::Silence(*id), now + self.settings.silence_timeout);
            let beats = if link.dialled { Timer::Ping(*id) } else { Timer::Pulse };
            self.timers.set_earlier(beats, now + self.settings.ping_interval);
        }
    }
}
