//! Who waits to be dialled: a process begins so many links per second, and who is to be linked all the time comes first.

use std::collections::{BTreeMap, BTreeSet};

use super::PeerIx;
use crate::proto::rtt::TokenBucket;
use crate::proto::time::Micros;

/// Why a peer is dialled, the more urgent first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Rank {
    /// A link to it is held all the time: a proxy elsewhere, a member of this datacenter.
    Wanted,
    /// It is for what waits now, and ends when it is idle.
    Once,
}

/// Of so many links one is begun for who is dialled once, while both kinds wait: peers that are down for long, and dialled
/// again and again, must not keep everybody else from the direct way.
const ONCE_EVERY: u32 = 4;

/// The line, and the rate at which it moves. A peer has one place, however often somebody asks for it.
#[derive(Debug)]
pub(super) struct DialLine {
    tokens: TokenBucket,
    by_place: BTreeSet<(Rank, u64, PeerIx)>,
    places: BTreeMap<PeerIx, (Rank, u64)>,
    next_place: u64,
    /// Links begun since one was for [`Rank::Once`].
    since_once: u32,
}

impl DialLine {
    /// Nobody waits, and one second's worth of links may begin at once.
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            tokens: TokenBucket::new(per_second),
            by_place: BTreeSet::new(),
            places: BTreeMap::new(),
            next_place: 0,
            since_once: 0,
        }
    }

    /// Another rate from now on.
    pub(super) fn set_rate(&mut self, per_second: u32) {
        self.tokens.set_rate(per_second);
    }

    /// A peer takes its place behind all others of its rank. One that stands here already keeps its place, or moves to a more
    /// urgent rank.
    pub(super) fn join(&mut self, peer: PeerIx, rank: Rank) {
        if self.places.get(&peer).is_some_and(|(has, _)| *has <= rank) {
            return;
        }
        self.leave(peer);
        let place = self.next_place;
        self.next_place += 1;
        self.places.insert(peer, (rank, place));
        self.by_place.insert((rank, place, peer));
    }

    /// It is not to be dialled any more, or is now.
    pub(super) fn leave(&mut self, peer: PeerIx) {
        if let Some((rank, place)) = self.places.remove(&peer) {
            self.by_place.remove(&(rank, place, peer));
        }
    }

    /// It stands in line.
    pub(super) fn has(&self, peer: PeerIx) -> bool {
        self.places.contains_key(&peer)
    }

    /// Takes out whose turn it is. `None`: nobody waits.
    ///
    /// # Errors
    /// Somebody waits, until then at least.
    pub(super) fn next(&mut self, now: Micros) -> Result<Option<PeerIx>, Micros> {
        let once = self.by_place.range((Rank::Once, 0, PeerIx(0))..).next().copied();
        let first = self.by_place.first().copied();
        let turn = once.filter(|_| self.since_once + 1 >= ONCE_EVERY).or(first);
        let Some((rank, _, peer)) = turn else { return Ok(None) };
        self.tokens.take(now)?;
        self.leave(peer);
        self.since_once = if rank == Rank::Once { 0 } else { self.since_once.saturating_add(1) };
        Ok(Some(peer))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_is_wanted_goes_first_and_nobody_waits_for_ever() {
        let mut line = DialLine::new(1_000_000);
        for peer in 0..6 {
            line.join(PeerIx(peer), Rank::Once);
            line.join(PeerIx(100 + peer), Rank::Wanted);
        }
        // Asked for again and again: it changes nothing.
        (0..1_000).for_each(|_| line.join(PeerIx(5), Rank::Once));
        line.join(PeerIx(3), Rank::Wanted);
        line.leave(PeerIx(101));
        assert!(line.has(PeerIx(3)) && !line.has(PeerIx(101)));
        let order: Vec<usize> =
            std::iter::from_fn(|| line.next(Micros(1)).unwrap()).map(|peer| peer.0).collect();
        assert_eq!(order, [100, 102, 103, 0, 104, 105, 3, 1, 2, 4, 5]);
    }

    #[test]
    fn asking_in_vain_makes_nobody_wait_longer() {
        let mut line = DialLine::new(2);
        let now = Micros(10_000_000);
        (0..4).for_each(|peer| line.join(PeerIx(peer), Rank::Once));
        assert!(line.next(now).unwrap().is_some() && line.next(now).unwrap().is_some());
        let half = now + Duration::from_millis(500);
        for _ in 0..1_000 {
            assert_eq!(line.next(now), Err(half));
        }
        assert_eq!(line.next(half), Ok(Some(PeerIx(2))));
    }
}
