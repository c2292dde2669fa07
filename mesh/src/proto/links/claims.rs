//! This node's own life, as peers tell of it: one whose clock stepped back is refused by those that knew a later life, and
//! moves past it. A peer that lies ends its links once, and moves it no further than others still follow.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{LinkEnd, LinkEvent, Links, Peer, PeerIx};
use crate::id::Incarnation;
use crate::proto::handshake::{adopt, is_claimable};
use crate::proto::time::Micros;

/// So long a peer that moved this node past its life is not believed again, whatever others say: all handshakes end by it, and
/// one that says so time and again would keep this node from everybody.
const ADOPTION_PAUSE: Duration = Duration::from_secs(30);

impl Peer {
    pub(super) fn forget_claim(&mut self) {
        (self.told_us, self.claim) = (None, None);
    }
}

impl Links {
    /// A peer refused a link because it knows a later life of this node.
    ///
    /// All links end by moving past that. An honest peer may be the only one that still knows, but needs it only once in a
    /// life of this process: after that it has heard of the present life itself. So each is believed once; from then on more
    /// peers have to say so than have links up, for those took the present life for true.
    ///
    /// After the first time a peer has to say the same twice in a row. What it has by a proxy alone, which may tell all members of a
    /// datacenter so, it says once, and believes this node then: that counts neither for itself nor beside others.
    pub(super) fn take_claim(&mut self, by: PeerIx, claimed: Incarnation, now: Micros) {
        if claimed < self.me.incarnation || !is_claimable(self.born, claimed) {
            return;
        }
        let moved = self.peers.iter().any(|peer| peer.moved_us_at.is_some());
        let peer = &mut self.peers[by.0];
        let moved_us_at = peer.moved_us_at;
        if moved_us_at.is_some_and(|at| now.since(at) < ADOPTION_PAUSE) {
            return;
        }
        let again = peer.told_us.replace(claimed) == Some(claimed);
        if moved && !again {
            return;
        }
        peer.claim = Some(claimed);
        let standing = || self.peers.iter().filter(|peer| peer.present).filter_map(|peer| peer.claim);
        let content: BTreeSet<PeerIx> =
            self.links.values().filter(|link| link.up).map(|link| link.peer).collect();
        let (claims, links_up) = (standing().count(), content.len());
        if moved_us_at.is_some() && claims <= links_up {
            tracing::warn!(
                peer = %self.peers[by.0].spec.id,
                claims,
                links_up,
                "a peer that moved this node past its life before says so again, and others are content: not believed"
            );
            return;
        }
        let highest = standing().max().unwrap_or(claimed);
        let Some(incarnation) = adopt(self.born, self.me.incarnation, highest, self.rng.u64(..)) else {
            return;
        };
        self.peers.iter_mut().for_each(Peer::forget_claim);
        self.peers[by.0].moved_us_at = Some(now);
        self.me.incarnation = incarnation;
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            self.drop_link(link, None, LinkEnd::OwnLife, now);
        }
        self.events.push_back(LinkEvent::Reincarnated(incarnation));
    }
}
