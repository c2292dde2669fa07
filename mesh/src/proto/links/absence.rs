//! Peers that are to be linked and are not: since when, and what went wrong last. For people; nothing is decided by it.

use std::time::Duration;

use super::opening::Said;
use super::{ConnId, LinkEnd, LinkId, Links, Peer, PeerIx};
use crate::id::NodeId;
use crate::proto::handshake::{Identity, Refusal};
use crate::proto::time::{Micros, micros};
use crate::stats::DownPeer;
use crate::topology::NodeSpec;

/// Characters that are kept of what went wrong: a peer may have said it.
const WHY_CHARS_MAX: usize = 200;

/// What is known of a peer while it is not linked.
#[derive(Default)]
pub(super) struct Absence {
    /// Since when no link is up that the peer dialled, and that this node dialled.
    since: [Micros; 2],
    /// What went wrong last, and when.
    trouble: Option<(Micros, Box<str>)>,
}

impl Absence {
    /// Not linked yet.
    pub(super) fn new(now: Micros) -> Self {
        Self { since: [now; 2], trouble: None }
    }

    /// A link that was up ended. What was told at the same moment is the cause of it, and says more.
    pub(super) fn begin(&mut self, dialled: bool, why: LinkEnd, now: Micros) {
        self.since[usize::from(dialled)] = now;
        if self.trouble.as_ref().is_none_or(|(at, _)| *at < now) {
            self.note(why.told(), now);
        }
    }

    fn note(&mut self, why: &str, now: Micros) {
        let why: String = why.chars().take(WHY_CHARS_MAX).collect();
        self.trouble = Some((now, Said(&why).to_string().into()));
    }

    /// How long there is no link, and why, if anything went wrong since.
    fn told(&self, dialled: bool, now: Micros) -> (Duration, Option<String>) {
        let since = self.since[usize::from(dialled)];
        let why = self.trouble.as_ref().filter(|(at, _)| *at >= since).map(|(_, why)| why.to_string());
        (now.since(since), why)
    }
}

impl Links {
    /// What went wrong on a connection that is not up, or when it was dialled. Gives the peer, if that is known.
    pub fn note_trouble(&mut self, id: ConnId, why: &str, now: Micros) -> Option<&NodeId> {
        let peer = self.proven(id)?;
        self.note_trouble_with(peer, why, now);
        Some(&self.spec(peer).id)
    }

    /// The peer of a connection that this node dialled, or that showed its certificate. Any other is who it says it is, which anybody
    /// can say: what comes of it is no news of that peer.
    fn proven(&self, id: ConnId) -> Option<PeerIx> {
        let conn = self.conns.get(&id)?;
        if conn.from.is_some() && conn.certified.is_none() {
            return None;
        }
        self.peer(self.peer_of(id)?)
    }

    /// The same, of a peer that is known by other means.
    fn note_trouble_with(&mut self, peer: PeerIx, why: &str, now: Micros) {
        self.peers[peer.0].absence.note(why, now);
    }

    /// The peer closed a connection in its handshake, and nobody said why.
    pub(super) fn note_closed(&mut self, id: ConnId, now: Micros) {
        let link = self.conns.get(&id).and_then(|conn| self.links.get(&conn.link?));
        let Some(link) = link.filter(|link| !link.up) else { return };
        let Some(peer) = self.proven(id) else { return };
        let absence = &mut self.peers[peer.0].absence;
        if absence.trouble.as_ref().is_none_or(|(at, _)| *at < link.up_at) {
            absence.note("it closed the connection in the handshake", now);
        }
    }

    /// This node refused it, on a connection that is its own beyond doubt.
    pub(super) fn note_refused_on(&mut self, id: ConnId, refusal: &Refusal, now: Micros) {
        if let Some(peer) = self.proven(id) {
            self.note_refused_here(peer, refusal, now);
        }
    }

    /// This node refused it.
    pub(super) fn note_refused_here(&mut self, peer: PeerIx, refusal: &Refusal, now: Micros) {
        let why = format!("refused by this node: {}: {}", refusal.code.label(), refusal.detail);
        self.note_trouble_with(peer, &why, now);
    }

    /// What went wrong last with a link that this node dials when it is needed; `None` while nothing has, or it is up.
    #[must_use]
    pub fn trouble(&self, peer: PeerIx, now: Micros) -> Option<String> {
        let Peer { dialling, absence, .. } = &self.peers[peer.0];
        if dialling.link.is_some_and(|link| self.is_up(link)) { None } else { absence.told(true, now).1 }
    }

    /// A peer that this node dials all the time, while no such link is up.
    #[must_use]
    pub fn down(&self, peer: PeerIx, now: Micros) -> Option<DownPeer> {
        self.is_down(peer).then(|| self.down_peer(peer, true, now))
    }

    /// This node dials it all the time, and no such link is up.
    #[must_use]
    pub fn is_down(&self, peer: PeerIx) -> bool {
        let Peer { dialling, present, .. } = &self.peers[peer.0];
        *present && dialling.wanted && !dialling.link.is_some_and(|link| self.is_up(link))
    }

    /// A link that the peer dialled is up.
    #[must_use]
    pub fn is_accepted(&self, peer: PeerIx) -> bool {
        self.peers[peer.0].accepted.is_some_and(|link| self.is_up(link))
    }

    /// All peers that are to be linked all the time and are not: whom this node dials, and who dials it, in the order of the
    /// topology.
    #[must_use]
    pub fn all_down(&self, now: Micros) -> Vec<DownPeer> {
        let mut all = Vec::new();
        for peer in self.topology.nodes().filter_map(|spec| self.peer(&spec.id)) {
            all.extend(self.down(peer, now));
            let Peer { spec, accepted, .. } = &self.peers[peer.0];
            let is_up = |link: LinkId| self.is_up(link);
            if is_dialled_by(&self.me, spec) && !accepted.is_some_and(is_up) {
                all.push(self.down_peer(peer, false, now));
            }
        }
        all
    }

    /// A link came up: for the log.
    pub fn tell_up(&self, link: LinkId) {
        let Some(link) = self.links.get(&link) else { return };
        let NodeSpec { id: peer, datacenter, .. } = self.spec(link.peer);
        tracing::info!(%peer, %datacenter, dialled_by = side(link.dialled), "link up");
    }

    /// A link that was up ended: for the log.
    pub fn tell_down(&self, peer: PeerIx, dialled: bool, why: LinkEnd) {
        let NodeSpec { id: peer, datacenter, .. } = self.spec(peer);
        let (by, label, told) = (side(dialled), why.label(), why.told());
        match why {
            // One per peer when a node stops, and as it should be.
            LinkEnd::Closed => {
                tracing::debug!(%peer, %datacenter, dialled_by = by, reason = label, "link down: {told}");
            }
            _ => tracing::info!(%peer, %datacenter, dialled_by = by, reason = label, "link down: {told}"),
        }
    }

    fn down_peer(&self, peer: PeerIx, dialled: bool, now: Micros) -> DownPeer {
        let Peer { spec, dialling, absence, .. } = &self.peers[peer.0];
        let (down, why) = absence.told(dialled, now);
        DownPeer {
            peer: spec.id.clone(),
            datacenter: spec.datacenter.clone(),
            roles: spec.roles.names(),
            dialled,
            down_ms: micros(down) / 1000,
            failures: if dialled { dialling.failures } else { 0 },
            why,
        }
    }
}

/// A peer that runs holds a link to this node, whatever there is to send: a proxy to the members here, an origin to the
/// proxies elsewhere and the members here.
fn is_dialled_by(me: &Identity, peer: &NodeSpec) -> bool {
    let here = peer.datacenter == me.datacenter;
    let by_proxy = peer.roles.proxy && here && me.roles.member;
    let by_origin = peer.roles.origin && if here { me.roles.member } else { me.roles.proxy };
    peer.id != me.node && (by_proxy || by_origin)
}

/// Who dialled.
fn side(dialled: bool) -> &'static str {
    if dialled { "this node" } else { "the peer" }
}
