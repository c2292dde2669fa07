//! How connections and links begin and end: dials with their pauses, pairs, losses, drains.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;

use super::{
    Action, Conn, ConnId, Heard, Link, LinkEnd, LinkEvent, LinkId, Links, Peer, PeerIx, Rank, Stage, Timer,
};
use crate::id::{Incarnation, Lane};
use crate::proto::frame::{FrameType, control_frame};
use crate::proto::roster::{RosterIn, RosterOut};
use crate::proto::rtt::{ClockOffset, Rtt};
use crate::proto::time::{Micros, micros};
use crate::proto::wire::{Close, CloseCode};
use crate::settings::FRAME_OVERHEAD_BYTES;

/// A link that lived so long starts its redial pauses from the shortest again.
const STABLE_AFTER: Duration = Duration::from_secs(1);

/// The dials of one peer.
#[derive(Default)]
pub(super) struct Dialling {
    pub(super) wanted: bool,
    pub(super) link: Option<LinkId>,
    pub(super) failures: u32,
    /// Its last link went down as soon as it was up: who wants another one once waits until then.
    rests_until: Micros,
}

impl Link {
    /// With neither of its connections yet.
    pub(super) fn new(peer: PeerIx, dialled: bool, nonce: u64, frame_bytes_max: usize, now: Micros) -> Self {
        Self {
            peer,
            dialled,
            up: false,
            draining: false,
            left: None,
            incarnation: Incarnation::UNKNOWN,
            frame_bytes_max,
            features: 0,
            version: 0,
            rtt: Rtt::default(),
            nonce,
            conns: [None; 2],
            up_at: now,
            heard: Heard::now(now),
            used_at: now,
            offset: ClockOffset::default(),
            ping_asked: false,
            acks: BTreeMap::new(),
            ack_bytes: 0,
            acks_due: false,
            breaches: 0,
        }
    }

    /// What one of its connections agreed on in its handshake. A peer that says something else on the other one is held to what
    /// both have: the writer of each knows its own handshake alone, and what is sealed must fit either.
    pub(super) fn agree(&mut self, version: u16, frame_bytes_max: usize, features: u64) {
        let first = self.version == 0;
        self.frame_bytes_max =
            if first { frame_bytes_max } else { self.frame_bytes_max.min(frame_bytes_max) };
        self.features = if first { features } else { self.features & features };
        self.version = version;
    }

    /// A message of so many payload bytes fits into a frame.
    #[must_use]
    pub fn takes(&self, bytes: usize) -> bool {
        let room = self.room();
        room > 0 && bytes <= room
    }

    /// The most payload bytes that fit into a frame.
    #[must_use]
    pub fn room(&self) -> usize {
        self.frame_bytes_max.saturating_sub(FRAME_OVERHEAD_BYTES)
    }
}

impl Conn {
    /// Its other end takes a Close. Not by whether the link is up here: the dialler has it up with the second Welcome, and this end
    /// with the second Confirm, which may be under way.
    fn hears_close(&self) -> bool {
        matches!(self.stage, Stage::AwaitConfirm { .. } | Stage::Open)
    }
}

impl Links {
    /// Asks for a link to a peer, now and after every loss.
    pub fn want(&mut self, peer: PeerIx, now: Micros) {
        let entry = &mut self.peers[peer.0];
        if entry.present && !entry.dialling.wanted {
            entry.dialling.wanted = true;
            match entry.dialling.link {
                None => self.timers.set(Timer::Redial(peer), now),
                Some(link) => self.timers.clear(Timer::Idle(link)),
            }
        }
    }

    /// Asks for a link to a peer once; it closes again when it was idle for a while. Asked for again it keeps its place in line.
    pub fn want_once(&mut self, peer: PeerIx, now: Micros) {
        let Peer { present, dialling, .. } = &self.peers[peer.0];
        let waits = dialling.link.is_some() || self.dials.has(peer);
        if *present && !dialling.wanted && !waits && !self.draining {
            self.timers.set_earlier(Timer::Redial(peer), dialling.rests_until.max(now));
        }
    }

    /// `from` is from where it came in, or `None` where this node dials.
    pub(super) fn add_conn(
        &mut self,
        from: Option<IpAddr>,
        lane: Lane,
        link: Option<LinkId>,
        now: Micros,
    ) -> ConnId {
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        let conn = Conn {
            from,
            certified: None,
            stage: if from.is_some() { Stage::AwaitHello } else { Stage::Dialing },
            lane,
            link,
            awaits_body: false,
            out: VecDeque::new(),
            pings: false,
            features: 0,
            news: false,
            roster_out: RosterOut::default(),
            roster_in: RosterIn::default(),
        };
        self.conns.insert(id, conn);
        self.timers.set(Timer::Handshake(id), now + self.settings.handshake_timeout);
        id
    }

    pub(super) fn new_link_id(&mut self) -> LinkId {
        let id = LinkId(self.next_link);
        self.next_link += 1;
        id
    }

    /// Forgets a connection, and with it its link.
    pub(super) fn drop_conn(&mut self, id: ConnId, last_words: Option<Bytes>, now: Micros) {
        self.drop_conn_for(id, last_words, LinkEnd::Lost, now);
    }

    pub(super) fn drop_conn_for(&mut self, id: ConnId, last_words: Option<Bytes>, why: LinkEnd, now: Micros) {
        match self.conns.get(&id).map(|conn| conn.link) {
            None => {}
            Some(None) => self.remove_conn(id, last_words),
            Some(Some(link)) => {
                if self.links.contains_key(&link) {
                    self.drop_link(link, last_words.map(|words| (id, words)), why, now);
                } else {
                    self.remove_conn(id, last_words);
                }
            }
        }
    }

    pub(super) fn remove_conn(&mut self, id: ConnId, last_words: Option<Bytes>) {
        let Some(conn) = self.conns.remove(&id) else { return };
        if conn.from.is_some() {
            self.accepted -= 1;
            self.places.free(id);
        }
        self.timers.clear(Timer::Handshake(id));
        self.timers.clear(Timer::Body(id));
        self.ready.remove(&id);
        if matches!(conn.stage, Stage::Ended) {
            return;
        }
        // That this node drains may be among what was not written yet.
        let unsaid = self.draining && conn.hears_close() && !conn.out.is_empty();
        // What was not written yet goes in front, or the peer could not read the last words.
        let last_words = last_words.or_else(|| unsaid.then(Bytes::new)).map(|words| {
            let unsent = conn.out.iter().flat_map(|frame| frame.iter().copied());
            unsent.chain(words.iter().copied()).collect::<Bytes>()
        });
        self.actions.push_back(Action::Close { conn: id, last_words });
    }

    pub(super) fn drop_link(
        &mut self,
        link_id: LinkId,
        mut last_words: Option<(ConnId, Bytes)>,
        why: LinkEnd,
        now: Micros,
    ) {
        let Some(link) = self.links.get(&link_id) else { return };
        let (peer, up, dialled, conns, up_at) = (link.peer, link.up, link.dialled, link.conns, link.up_at);
        let why = link.left.filter(|_| why == LinkEnd::Lost).unwrap_or(why);
        for conn in conns.into_iter().flatten() {
            let words = last_words.take_if(|(id, _)| *id == conn).map(|(_, words)| words);
            self.remove_conn(conn, words);
        }
        self.links.remove(&link_id);
        if up {
            *self.counters.ended.entry(why.label()).or_default() += 1;
        }
        for timer in [Timer::Pair, Timer::Ping, Timer::Silence, Timer::Acks, Timer::Idle] {
            self.timers.clear(timer(link_id));
        }
        let entry = &mut self.peers[peer.0];
        if dialled {
            entry.dialling.link = None;
            let stable = up && now.since(up_at) >= STABLE_AFTER;
            entry.dialling.failures = if stable { 0 } else { entry.dialling.failures.saturating_add(1) };
            let (failures, wanted) = (entry.dialling.failures, entry.dialling.wanted);
            if wanted && !self.draining {
                let pause = self.redial_pause(failures);
                self.timers.set(Timer::Redial(peer), now + pause);
            } else if up && !stable {
                self.peers[peer.0].dialling.rests_until = now + self.redial_pause(failures);
            }
            if !up {
                self.events.push_back(LinkEvent::DialFailed(peer));
            }
        } else if entry.accepted == Some(link_id) {
            entry.accepted = None;
        }
        if up {
            self.peers[peer.0].absence.begin(dialled, why, now);
            self.events.push_back(LinkEvent::Down { link: link_id, peer, dialled, why });
        }
    }

    /// Full jitter: anywhere between nothing and the doubled pause, so that peers do not come back in step.
    pub(super) fn redial_pause(&mut self, failures: u32) -> Duration {
        let (min, max) = (micros(self.settings.redial_min), micros(self.settings.redial_max));
        let ceiling = min.saturating_mul(1 << failures.min(20)).min(max);
        Duration::from_micros(self.rng.u64(0..=ceiling))
    }

    /// A peer is to be dialled as soon as it is its turn.
    pub(super) fn dial(&mut self, peer: PeerIx, now: Micros) {
        let entry = &self.peers[peer.0];
        if entry.spec.address.is_none() || entry.dialling.link.is_some() || !entry.present || self.draining {
            return;
        }
        self.dials.join(peer, if entry.dialling.wanted { Rank::Wanted } else { Rank::Once });
        self.begin_links(now);
    }

    /// A peer is not to be dialled any more.
    pub(super) fn forget_dial(&mut self, peer: PeerIx) {
        self.timers.clear(Timer::Redial(peer));
        self.dials.leave(peer);
    }

    /// Begins the links whose turn it is.
    pub(super) fn begin_links(&mut self, now: Micros) {
        loop {
            match self.dials.next(now) {
                Ok(Some(peer)) => self.begin_link(peer, now),
                Ok(None) => return self.timers.clear(Timer::Dials),
                Err(later) => return self.timers.set(Timer::Dials, later),
            }
        }
    }

    fn begin_link(&mut self, peer: PeerIx, now: Micros) {
        let entry = &self.peers[peer.0];
        let (Some(address), None, true, false) =
            (entry.spec.address, entry.dialling.link, entry.present, self.draining)
        else {
            return;
        };
        let node = entry.spec.id.clone();
        let nonce = self.rng.u64(..);
        let link_id = self.new_link_id();
        let mut link = Link::new(peer, true, nonce, self.settings.frame_bytes_max, now);
        for lane in Lane::ALL {
            let conn = self.add_conn(None, lane, Some(link_id), now);
            link.conns[lane.index()] = Some(conn);
            self.counters.dials += 1;
            self.actions.push_back(Action::Dial { conn, peer: node.clone(), address, lane });
        }
        self.peers[peer.0].dialling.link = Some(link_id);
        self.links.insert(link_id, link);
    }

    /// Tells all peers that this node is going away; opens no more links. Over both connections of a link: whichever the peer
    /// sees end first, it was told before.
    pub fn drain(&mut self) {
        self.draining = true;
        for conn in self.conns.keys().copied().collect::<Vec<_>>() {
            self.say_draining(conn);
        }
    }

    pub(super) fn say_draining(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.hears_close()) else { return };
        let close = Close { code: CloseCode::Draining as u16 };
        conn.out.push_back(control_frame(FrameType::Close, conn.lane, &close));
        self.ready.insert(id);
    }

    /// Closes everything, saying so.
    pub fn close_all(&mut self, now: Micros) {
        self.draining = true;
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            self.say_closing(id, LinkEnd::Closed, now);
        }
        for id in self.conns.keys().copied().collect::<Vec<_>>() {
            self.remove_conn(id, None);
        }
    }

    /// Ends a link, saying so where its peer may have it up.
    pub(super) fn say_closing(&mut self, id: LinkId, why: LinkEnd, now: Micros) {
        let control = self.conn_of(id, Lane::Control);
        let hears = |id: &ConnId| self.conns.get(id).is_some_and(Conn::hears_close);
        let close = Close { code: why.close_code() as u16 };
        let words =
            control.filter(hears).map(|id| (id, control_frame(FrameType::Close, Lane::Control, &close)));
        self.drop_link(id, words, why, now);
    }

    /// A peer was heard of in this life by way of others. A link to a lower one is most likely to a process that is gone: it ends, and
    /// is asked for again. What the peer says of itself then is what counts.
    pub fn note_life(&mut self, peer: PeerIx, life: Incarnation, now: Micros) {
        let Peer { dialling, accepted, .. } = &self.peers[peer.0];
        let stale =
            |link: &LinkId| self.links.get(link).is_some_and(|link| link.up && link.incarnation < life);
        let (dialled, accepted) = (dialling.link.filter(stale), accepted.filter(stale));
        for link in dialled.into_iter().chain(accepted) {
            let peer = &self.peers[peer.0].spec.id;
            tracing::info!(%peer, life = life.0, "others hear of a later life of this peer, link closed");
            self.drop_link(link, None, LinkEnd::PeerLife, now);
        }
        if dialled.is_some() {
            self.want_once(peer, now);
        }
    }

    /// It is told of that life in its next handshake, should it live a lower one: if its clock stepped back it moves past. If it comes
    /// again as it was, it is right: nobody is kept out for what others say of it.
    pub fn tell_life(&mut self, peer: PeerIx, life: Incarnation) {
        self.peers[peer.0].said = life;
    }

    /// It was told of a later life twice, and has not linked since: it is to say itself which one it lives, however many others say. Once it
    /// may have been true, and what it lives now comes by proxies before it dials again.
    #[must_use]
    pub fn was_told_again(&self, peer: PeerIx) -> bool {
        self.peers[peer.0].told > 1
    }

    /// A link of this number or a higher one does not exist yet: what its other end will say of itself is news.
    #[must_use]
    pub fn next_link(&self) -> LinkId {
        LinkId(self.next_link)
    }

    /// Ends a link that is dialled again.
    pub fn replace(&mut self, link: LinkId, why: LinkEnd, now: Micros) {
        self.drop_link(link, None, why, now);
    }
}
