//! Places of accepted connections whose link is not up: who has them, and who gives one up for whom. A listener for something else
//! than links may go by the same rule.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::{ConnId, Micros, PeerIx};

/// Places of one peer: four links. It needs one; others are of dials that it has given up and this end has not heard of.
const OF_PEER_MAX: usize = 8;

/// That connections make room for others is told so often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Where a stranger is: its address, or the 64 bits of it that a host with IPv6 does not choose itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Network(IpAddr);

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
            address @ IpAddr::V4(_) => address,
        })
    }
}

/// Who has a place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Holder {
    /// Nobody knows who that is: it has shown no certificate and, where none is asked for, said no Hello.
    Stranger(Network),
    /// A node of the topology.
    Peer(PeerIx),
}

/// The places. Connections have rising numbers, so the lowest is the oldest.
#[derive(Debug, Default)]
pub struct Places {
    holders: BTreeMap<ConnId, Holder>,
    of: BTreeMap<Holder, BTreeSet<ConnId>>,
    /// Networks of strangers by how many places they have; of those with as many, the one with the oldest comes last.
    networks: BTreeSet<(usize, Reverse<ConnId>, Network)>,
    /// Those who made room.
    pub(super) gone: Gone,
}

impl Places {
    pub(super) fn len(&self) -> usize {
        self.holders.len()
    }

    /// A connection has a place, or its holder becomes known.
    pub fn give(&mut self, conn: ConnId, holder: Holder) {
        self.free(conn);
        self.holders.insert(conn, holder);
        self.change(holder, |conns| {
            conns.insert(conn);
        });
    }

    /// A connection needs none any more. Nothing if it has none.
    pub fn free(&mut self, conn: ConnId) {
        if let Some(holder) = self.holders.remove(&conn) {
            self.change(holder, |conns| {
                conns.remove(&conn);
            });
        }
    }

    /// Which stranger gives up its place: the oldest of the network that has most of them, so that whoever takes very many
    /// takes them from itself.
    #[must_use]
    pub fn stranger(&self) -> Option<ConnId> {
        self.networks.last().map(|(_, oldest, _)| oldest.0)
    }

    /// The oldest connection of a peer that has more places than it may.
    pub(super) fn too_many_of(&self, peer: PeerIx) -> Option<ConnId> {
        self.of.get(&Holder::Peer(peer)).filter(|conns| conns.len() > OF_PEER_MAX)?.first().copied()
    }

    fn change(&mut self, holder: Holder, change: impl FnOnce(&mut BTreeSet<ConnId>)) {
        let conns = self.of.entry(holder).or_default();
        let crowd = |conns: &BTreeSet<ConnId>| match (holder, conns.first()) {
            (Holder::Stranger(network), Some(oldest)) => Some((conns.len(), Reverse(*oldest), network)),
            _ => None,
        };
        if let Some(before) = crowd(conns) {
            self.networks.remove(&before);
        }
        change(conns);
        self.networks.extend(crowd(conns));
        if conns.is_empty() {
            self.of.remove(&holder);
        }
    }
}

/// Connections that made room for others, and when that was told last.
#[derive(Debug, Default)]
pub(super) struct Gone {
    untold: u64,
    told_at: Option<Micros>,
}

impl Gone {
    /// One more. Gives how many there were since it was told last, if it is time to tell.
    pub(super) fn count(&mut self, now: Micros) -> Option<u64> {
        self.untold += 1;
        if self.told_at.is_some_and(|told_at| now.since(told_at) < TELL_EVERY) {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> Holder {
        Holder::Stranger(address.parse::<IpAddr>().unwrap().into())
    }

    #[test]
    fn whoever_takes_most_places_gives_one_up_first() {
        let mut places = Places::default();
        for (conn, address) in
            ["10.0.0.1", "10.0.0.2", "10.0.0.2", "10.0.0.3", "10.0.0.2"].into_iter().enumerate()
        {
            places.give(ConnId(conn as u64), of(address));
        }
        let mut gone = Vec::new();
        while let Some(conn) = places.stranger() {
            gone.push(conn.0);
            places.free(conn);
        }
        assert_eq!(gone, [1, 2, 0, 3, 4]);
        assert_eq!((places.len(), places.of.len(), places.networks.len()), (0, 0, 0));
    }

    #[test]
    fn who_is_known_is_no_stranger_and_has_only_so_many() {
        let mut places = Places::default();
        let peer = PeerIx(3);
        for conn in 0..8 {
            places.give(ConnId(conn), of("10.0.0.1"));
            places.give(ConnId(conn), Holder::Peer(peer));
        }
        assert_eq!((places.len(), places.stranger(), places.too_many_of(peer)), (8, None, None));
        places.give(ConnId(8), Holder::Peer(peer));
        assert_eq!(places.too_many_of(peer), Some(ConnId(0)));
        assert_eq!(places.too_many_of(PeerIx(2)), None);
    }

    #[test]
    fn a_flood_is_told_now_and_then_with_all_that_made_room() {
        let mut gone = Gone::default();
        let told: Vec<u64> = (0..21_000).filter_map(|ms| gone.count(Micros(ms * 1_000))).collect();
        assert_eq!(told, [1, 10_000, 10_000]);
    }

    #[test]
    fn a_host_is_one_network_however_it_writes_its_address() {
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
