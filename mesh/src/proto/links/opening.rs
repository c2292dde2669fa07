//! The handshake as steps of a connection: hello, welcome, confirm, refuse. The rules are in [`handshake`](super::super::handshake).

use std::fmt::{self, Write};
use std::net::IpAddr;

use bytes::Bytes;
use tracing::field::display;

use super::{
    Action, Arrived, Conn, ConnId, Heard, Holder, IDLE_TIMEOUT, Link, LinkEnd, LinkEvent, LinkId, Links,
    PeerIx, Stage, Timer,
};
use crate::id::{Incarnation, Lane, NodeId, SpiffeId};
use crate::proto::coder::epochs_of;
use crate::proto::echo::SharedEcho;
use crate::proto::frame::{FrameType, Opened, control_frame, frame_around};
use crate::proto::handshake::{
    Refusal, check_acceptor_certificate, check_claim, check_dialler_certificate, check_hello,
    check_same_version, check_welcome, cut_detail, role_bits, transcript,
};
use crate::proto::time::Micros;
use crate::proto::wire::{
    Close, CloseCode, Confirm, FEATURE_ECHO, FEATURE_HISTORY, Hello, PREAMBLE, Refuse, RefuseCode,
    RefusedReason, Welcome, encode,
};

/// What a peer does against the rules without losing its link for it. Bits.
#[derive(Clone, Copy)]
pub enum Breach {
    /// It sends runs that it may not send, or not to this node.
    NotServed = 1,
    /// It sends runs that cannot be.
    Malformed = 2,
    /// It acknowledges what it was never sent.
    Ack = 4,
}

/// A Hello that passed every check.
struct Admitted {
    peer: PeerIx,
    lane: Lane,
    version: u16,
    /// The link whose other connection came first.
    partner: Option<LinkId>,
}

impl Links {
    /// A connection came in. When there is no place for it a stranger gives its own up: whoever says nothing must not keep out
    /// who is about to say something.
    ///
    /// # Errors
    /// The last words for it when there are too many, and no stranger among them.
    pub fn handle_accepted(&mut self, from: IpAddr, now: Micros) -> Result<ConnId, Bytes> {
        if self.is_full()
            && let Some(stranger) = self.places.stranger()
        {
            self.evict(stranger, now);
        }
        if self.is_full() {
            let refusal =
                Refusal::new(RefuseCode::TooManyConnections, "too many connections: try again later");
            self.count_refusal(refusal.code);
            // There may be very many of them.
            tracing::debug!(code = refusal.code.label(), "connection turned away");
            return Err(refuse_bytes(Lane::Control, &refusal, true));
        }
        self.accepted += 1;
        let id = self.add_conn(Some(from), Lane::Control, None, now);
        self.places.give(id, Holder::Stranger(from.into()));
        Ok(id)
    }

    fn is_full(&self) -> bool {
        self.accepted >= self.settings.connections_max || self.places.len() >= self.settings.handshakes_max
    }

    /// Ends a connection, or the link that it is half of, for another one.
    fn evict(&mut self, id: ConnId, now: Micros) {
        let refusal = Refusal::new(RefuseCode::TooManyConnections, "made room for others: try again later");
        self.count_refusal(refusal.code);
        // There may be very many of them.
        if let Some(connections) = self.places.gone.count(now) {
            let places = self.settings.handshakes_max;
            tracing::warn!(connections, places, "connections whose link is not up made room for others");
        }
        self.drop_refused(id, &refusal, now);
    }

    /// Who came in is a node of the topology from here on.
    fn make_known(&mut self, id: ConnId, peer: PeerIx, now: Micros) {
        self.places.give(id, Holder::Peer(peer));
        if let Some(oldest) = self.places.too_many_of(peer) {
            self.evict(oldest, now);
        }
    }

    /// Nobody is linked from now on who showed no certificate.
    pub fn require_certificates(&mut self) {
        self.certificates = true;
    }

    /// The peer of a new connection proved who it is: checked before it says anything, and before it is told anything.
    pub fn handle_certified(&mut self, id: ConnId, certified: SpiffeId, now: Micros) {
        let Some(conn) = self.conns.get(&id) else { return };
        if conn.from.is_some() {
            match check_dialler_certificate(&certified, &self.me, &self.topology) {
                Ok(()) => {
                    let peer = self.peer(&certified.node);
                    self.set_certified(id, certified);
                    if let Some(peer) = peer {
                        self.make_known(id, peer, now);
                    }
                }
                Err(refusal) => {
                    if let Some(peer) = self.peer(&certified.node) {
                        self.note_refused_here(peer, &refusal, now);
                    }
                    self.refuse_as(id, Some(certified.node), &refusal, now);
                }
            }
            return;
        }
        let Some(link) = conn.link.and_then(|link| self.links.get(&link)) else { return };
        let peer = link.peer;
        let dialled = self.peers[peer.0].spec.id.clone();
        match check_acceptor_certificate(&certified, &dialled, &self.me, &self.topology) {
            Ok(()) => self.set_certified(id, certified),
            Err(refusal) => {
                self.count_refusal(refusal.code);
                self.note_refused_here(peer, &refusal, now);
                let code = refusal.code.label();
                let detail = display(Said(&refusal.detail));
                tracing::warn!(peer = display(dialled), code, detail, "link refused");
                self.drop_conn(id, None, now);
            }
        }
    }

    /// The peer's certificate is no longer valid: its link ends, and a new one needs another certificate.
    pub fn handle_distrusted(&mut self, id: ConnId, why: &str, now: Micros) {
        let Some(conn) = self.conns.get(&id) else { return };
        tracing::warn!(peer = self.peer_of(id).map(display), why, "certificate no longer valid, link ended");
        match conn.link {
            Some(link) => self.say_closing(link, LinkEnd::Distrusted, now),
            None => self.drop_conn(id, None, now),
        }
    }

    fn set_certified(&mut self, id: ConnId, certified: SpiffeId) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.certified = Some(Box::new(certified));
        }
    }

    /// A dial succeeded.
    pub fn handle_dialed(&mut self, id: ConnId, now: Micros) {
        if self.certificates && self.conns.get(&id).is_some_and(|conn| conn.certified.is_none()) {
            tracing::error!(conn = id.0, "defect of this node: a dial without a certificate, closed");
            return self.handle_dial_failed(id, now);
        }
        let dialling = self.conns.get(&id).filter(|conn| matches!(conn.stage, Stage::Dialing));
        let nonce = |conn: &Conn| Some(self.links.get(&conn.link?)?.nonce);
        let hello = dialling.and_then(|conn| Some(self.hello(nonce(conn)?, conn.lane, now)));
        let (Some(hello), Some(conn)) = (hello, self.conns.get_mut(&id)) else {
            self.actions.push_back(Action::Close { conn: id, last_words: None });
            return;
        };
        let body = Bytes::from(encode(&hello));
        conn.out.push_back(Bytes::from_static(&PREAMBLE));
        conn.out.push_back(frame_around(FrameType::Hello, conn.lane, &body));
        conn.features = hello.features;
        conn.stage = Stage::AwaitWelcome { hello: body };
        // Its deadline stays that of the dial: connecting, TLS and Hello have one time together.
        self.ready.insert(id);
    }

    /// What this node has, as it is set now. A connection keeps to what it began with.
    fn features(&self) -> u64 {
        self.me.offer.features & if self.settings.echo { u64::MAX } else { !FEATURE_ECHO }
    }

    /// What this node says of itself.
    fn hello(&self, link: u64, lane: Lane, now: Micros) -> Hello {
        Hello {
            cluster: self.me.cluster.clone(),
            node: self.me.node.clone(),
            datacenter: self.me.datacenter.clone(),
            roles: role_bits(self.me.roles),
            incarnation: self.me.incarnation,
            versions: self.me.offer.versions.clone(),
            features: self.features(),
            frame_bytes_max: u64::try_from(self.settings.frame_bytes_max).unwrap_or(u64::MAX),
            link,
            lane: u8::try_from(lane.index()).unwrap_or(0),
            sent_us: self.wall.steady_us(now),
        }
    }

    /// The same, as an answer.
    fn welcome(&self, hello: &Hello, lane: Lane, version: u16, now: Micros) -> Welcome {
        let (me, wall_us) = (self.hello(hello.link, lane, now), self.wall_us(now));
        Welcome {
            cluster: me.cluster,
            node: me.node,
            datacenter: me.datacenter,
            roles: me.roles,
            incarnation: me.incarnation,
            versions: me.versions,
            features: me.features,
            frame_bytes_max: me.frame_bytes_max,
            version,
            hello_sent_us: hello.sent_us,
            hello_received_us: wall_us,
            sent_us: wall_us,
        }
    }

    pub(super) fn take_hello(&mut self, id: ConnId, hello: Hello, body: &Bytes, now: Micros) {
        match self.admit(id, &hello) {
            Ok(admitted) => self.answer_hello(id, hello, &admitted, body, now),
            Err(refusal) => {
                self.note_told(self.peer(&hello.node), &refusal);
                // Who it says it is, unless a certificate says it.
                let peer = self.peer_of(id).cloned().unwrap_or(hello.node);
                self.refuse_as(id, Some(peer), &refusal, now);
            }
        }
    }

    /// What others say of its life it is told once.
    fn note_told(&mut self, peer: Option<PeerIx>, refusal: &Refusal) {
        if let Some(peer) = peer.filter(|_| refusal.code == RefuseCode::StaleIncarnation) {
            let peer = &mut self.peers[peer.0];
            peer.told = peer.told.saturating_add(u32::from(std::mem::take(&mut peer.said).is_known()));
        }
    }

    /// All checks of a Hello: those that the handshake has, and whether there is a place for it among the links.
    fn admit(&self, id: ConnId, hello: &Hello) -> Result<Admitted, Refusal> {
        match self.conns.get(&id).and_then(|conn| conn.certified.as_deref()) {
            Some(certified) => check_claim(hello, certified)?,
            // The shell would have to have forgotten it.
            None if self.certificates => {
                return Err(Refusal::new(RefuseCode::OtherCertificate, "no certificate was shown"));
            }
            None => {}
        }
        let known = self.peer(&hello.node);
        let seen = |peer: PeerIx| self.peers[peer.0].highest.max(self.peers[peer.0].said);
        let seen = known.map_or(Incarnation::UNKNOWN, seen);
        let (_, version) = check_hello(hello, &self.me, &self.topology, seen)?;
        if self.draining {
            return Err(Refusal::new(RefuseCode::Draining, "this node is going away"));
        }
        let peer = known.ok_or_else(|| Refusal::new(RefuseCode::UnknownNode, "not in the topology"))?;
        let lane = Lane::from_index(hello.lane)
            .ok_or_else(|| Refusal::new(RefuseCode::Malformed, "a lane is 0 or 1"))?;
        let waits = |link: &Link| {
            !link.dialled
                && link.peer == peer
                && link.nonce == hello.link
                && link.incarnation == hello.incarnation
        };
        let partner = self.links.iter().find(|(_, link)| waits(link));
        if partner.is_some_and(|(_, link)| link.conns[lane.index()].is_some()) {
            return Err(Refusal::new(RefuseCode::Malformed, "this lane of the link is taken"));
        }
        check_same_version(partner.map_or(0, |(_, link)| link.version), version)?;
        Ok(Admitted { peer, lane, version, partner: partner.map(|(id, _)| *id) })
    }

    fn answer_hello(&mut self, id: ConnId, hello: Hello, admitted: &Admitted, body: &Bytes, now: Micros) {
        let Admitted { peer, lane, version, partner } = *admitted;
        let welcome = self.welcome(&hello, lane, version, now);
        let answer = encode(&welcome);
        let link_id = partner.unwrap_or_else(|| self.new_link_id());
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if partner.is_none() {
            self.timers.set(Timer::Pair(link_id), now + self.settings.handshake_timeout);
        }
        let limit = self.settings.frame_bytes_max;
        let link =
            self.links.entry(link_id).or_insert_with(|| Link::new(peer, false, hello.link, limit, now));
        link.conns[lane.index()] = Some(id);
        link.incarnation = hello.incarnation;
        let longest = limit.min(usize::try_from(hello.frame_bytes_max).unwrap_or(usize::MAX));
        link.agree(version, longest, welcome.features & hello.features);
        conn.lane = lane;
        conn.features = welcome.features;
        conn.link = Some(link_id);
        conn.out.push_back(Bytes::from_static(&PREAMBLE));
        conn.out.push_back(frame_around(FrameType::Welcome, lane, &answer));
        conn.stage =
            Stage::AwaitConfirm { transcript: transcript(body, &answer), hello: Box::new(hello), version };
        self.ready.insert(id);
        if self.conns.get(&id).is_some_and(|conn| conn.certified.is_none()) {
            self.make_known(id, peer, now);
        }
    }

    pub(super) fn take_welcome(
        &mut self,
        id: ConnId,
        welcome: Welcome,
        body: &Bytes,
        now: Micros,
    ) -> Arrived {
        let steady_us = self.wall.steady_us(now);
        let Some(conn) = self.conns.get_mut(&id) else { return Arrived::Nothing };
        let (Stage::AwaitWelcome { hello }, Some(link_id)) = (&conn.stage, conn.link) else {
            return Arrived::Nothing;
        };
        let Some(link) = self.links.get_mut(&link_id) else { return Arrived::Nothing };
        let ix = link.peer;
        let peer = &mut self.peers[ix.0];
        let seen = peer.highest.max(peer.said);
        let checked = check_welcome(&welcome, &peer.spec.id, &self.me, &self.topology, seen);
        if let Err(refusal) = checked.and_then(|()| check_same_version(link.version, welcome.version)) {
            self.note_told(Some(ix), &refusal);
            self.refuse(id, &refusal, now);
            return Arrived::Nothing;
        }
        let (lane, features) = (conn.lane, conn.features);
        let confirm = Confirm { version: welcome.version, transcript: transcript(hello, body) };
        conn.out.push_back(control_frame(FrameType::Confirm, lane, &confirm));
        conn.stage = Stage::Open;
        peer.highest = welcome.incarnation;
        link.incarnation = welcome.incarnation;
        let longest =
            self.settings.frame_bytes_max.min(usize::try_from(welcome.frame_bytes_max).unwrap_or(usize::MAX));
        link.agree(welcome.version, longest, features & welcome.features);
        let far = welcome.datacenter != self.me.datacenter;
        let opened = opened(lane, link, features & welcome.features, confirm.transcript, far);
        let sample = link.offset.sample(
            welcome.hello_sent_us,
            welcome.hello_received_us,
            welcome.sent_us,
            steady_us,
            now,
        );
        if let Some(rtt) = sample {
            link.rtt.sample(rtt, now);
        }
        self.ready.insert(id);
        if self.draining {
            self.say_draining(id);
        }
        self.conn_opened(id, link_id, now);
        Arrived::Opened(opened)
    }

    pub(super) fn take_confirm(&mut self, id: ConnId, confirm: Confirm, now: Micros) -> Arrived {
        let Some(conn) = self.conns.get_mut(&id) else { return Arrived::Nothing };
        let (Stage::AwaitConfirm { hello, transcript, version }, Some(link_id)) = (&conn.stage, conn.link)
        else {
            return Arrived::Nothing;
        };
        if confirm != (Confirm { version: *version, transcript: *transcript }) {
            let refusal = Refusal::new(RefuseCode::VersionsStripped, "the handshake was altered on its way");
            self.refuse(id, &refusal, now);
            return Arrived::Nothing;
        }
        let (incarnation, lane) = (hello.incarnation, conn.lane);
        let far = hello.datacenter != self.me.datacenter;
        let features = conn.features & hello.features;
        conn.stage = Stage::Open;
        let Some(link) = self.links.get(&link_id) else { return Arrived::Nothing };
        let peer = link.peer;
        let opened = opened(lane, link, features, confirm.transcript, far);
        if incarnation < self.peers[peer.0].highest {
            let refusal = Refusal {
                highest: self.peers[peer.0].highest,
                ..Refusal::new(RefuseCode::StaleIncarnation, "a newer life of this node is linked")
            };
            self.refuse(id, &refusal, now);
            return Arrived::Nothing;
        }
        self.peers[peer.0].highest = incarnation;
        self.conn_opened(id, link_id, now);
        Arrived::Opened(opened)
    }

    pub(super) fn conn_opened(&mut self, id: ConnId, link_id: LinkId, now: Micros) {
        self.counters.handshakes += 1;
        self.timers.clear(Timer::Handshake(id));
        let open = |conn: &Option<ConnId>| {
            conn.and_then(|conn| self.conns.get(&conn)).is_some_and(|conn| matches!(conn.stage, Stage::Open))
        };
        let Some(link) = self.links.get(&link_id) else { return };
        if !link.conns.iter().all(open) {
            return;
        }
        let (peer, dialled) = (link.peer, link.dialled);
        self.peers[peer.0].told = 0;
        self.peers[peer.0].forget_claim();
        if !dialled {
            link.conns.iter().flatten().for_each(|conn| self.places.free(*conn));
        }
        if !dialled
            && let Some(old) = self.peers[peer.0].accepted.replace(link_id).filter(|old| *old != link_id)
        {
            self.drop_link(old, None, LinkEnd::Replaced, now);
        }
        self.timers.clear(Timer::Pair(link_id));
        self.begin_listening(link_id, dialled, now);
        if dialled {
            self.timers.set(Timer::Ping(link_id), now + self.settings.ping_interval);
            if !self.peers[peer.0].dialling.wanted {
                self.timers.set(Timer::Idle(link_id), now + IDLE_TIMEOUT);
            }
        }
        if let Some(link) = self.links.get_mut(&link_id) {
            (link.up, link.up_at, link.heard, link.used_at) = (true, now, Heard::now(now), now);
            self.ready.extend(link.conns.iter().flatten());
        }
        self.events.push_back(LinkEvent::Up(link_id));
    }

    pub(super) fn take_refuse(&mut self, id: ConnId, refuse: &Refuse, now: Micros) {
        let code = RefuseCode::from_wire(refuse.code);
        let label = code.map_or("unknown", RefuseCode::label);
        // Over a link that is up a control body may be 1 MiB.
        let detail = cut_detail(&refuse.detail);
        *self.counters.refused_by_peer.entry(label).or_default() += 1;
        tracing::warn!(
            peer = self.peer_of(id).map(display),
            code = label,
            number = refuse.code,
            detail = %Said(detail),
            "peer refuses the link"
        );
        self.note_trouble(id, &format!("it refuses the link: {label}: {detail}"), now);
        let link = self.conns.get(&id).and_then(|conn| self.links.get(&conn.link?));
        let (by, was_up) = (link.map(|link| link.peer), link.is_some_and(|link| link.up));
        self.drop_conn(id, None, now);
        // Whoever has a link up took this life for true: if it thinks otherwise by now it says so to the next Hello.
        if code == Some(RefuseCode::StaleIncarnation)
            && let Some(by) = by.filter(|_| !was_up)
        {
            self.take_claim(by, refuse.highest_incarnation, now);
        }
    }

    pub(super) fn count_refusal(&mut self, code: RefuseCode) {
        *self.counters.refused.entry(code.label()).or_default() += 1;
    }

    /// The node at the other end, once it is known: by its certificate before it says a word.
    pub(super) fn peer_of(&self, id: ConnId) -> Option<&NodeId> {
        let conn = self.conns.get(&id)?;
        match conn.link.and_then(|link| self.links.get(&link)) {
            Some(link) => Some(&self.peers[link.peer.0].spec.id),
            None => conn.certified.as_deref().map(|certified| &certified.node),
        }
    }

    pub(super) fn refuse(&mut self, id: ConnId, refusal: &Refusal, now: Micros) {
        self.refuse_as(id, self.peer_of(id).cloned(), refusal, now);
    }

    /// As [`Links::refuse`]; `peer` is who the other end is, or says it is.
    fn refuse_as(&mut self, id: ConnId, peer: Option<NodeId>, refusal: &Refusal, now: Micros) {
        self.count_refusal(refusal.code);
        self.note_refused_on(id, refusal, now);
        // Who has not said who it is goes by its address.
        let from = || self.conns.get(&id)?.from.map(|from| from.to_string());
        let peer = peer.map(|peer| peer.to_string()).or_else(from);
        tracing::warn!(
            peer,
            code = refusal.code.label(),
            detail = %Said(&refusal.detail),
            "link refused"
        );
        self.drop_refused(id, refusal, now);
    }

    fn drop_refused(&mut self, id: ConnId, refusal: &Refusal, now: Micros) {
        let Some(conn) = self.conns.get(&id) else { return };
        // The acceptor has said nothing yet and owes its preamble.
        let silent = matches!(conn.stage, Stage::AwaitHello);
        let words = refuse_bytes(conn.lane, refusal, silent);
        self.drop_conn(id, Some(words), now);
    }

    pub(super) fn protocol_error(&mut self, id: ConnId, label: &'static str, detail: &str, now: Micros) {
        let Some(conn) = self.conns.get(&id) else { return };
        if matches!(conn.stage, Stage::Open) {
            let peer = self.peer_of(id).map(display);
            let error = display(Said(detail));
            tracing::warn!(peer, lane = %conn.lane, error, "peer breaks the protocol, connection closed");
            self.end_conn(id, label, now);
        } else {
            *self.counters.protocol_errors.entry(label).or_default() += 1;
            self.refuse(id, &Refusal::new(RefuseCode::Malformed, detail), now);
        }
    }

    /// A run of a peer was refused. For most reasons that is nobody's fault; otherwise it is told.
    pub fn note_refused(&mut self, link: LinkId, reason: RefusedReason) {
        let breach = match reason {
            RefusedReason::NotServed => Breach::NotServed,
            RefusedReason::Malformed => Breach::Malformed,
            _ => return,
        };
        self.note_breach(link, breach);
    }

    /// What ends no link is told once per link and kind: a peer can repeat it as fast as it sends.
    pub fn note_breach(&mut self, id: LinkId, breach: Breach) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.breaches & breach as u8 == 0) else {
            return;
        };
        link.breaches |= breach as u8;
        let peer = &self.peers[link.peer.0].spec.id;
        let error = match breach {
            // As it should be while one of the two has a step of a change that the other one has not.
            Breach::NotServed => {
                return tracing::warn!(
                    %peer,
                    error = "a run that this node does not take from this peer",
                    "runs refused: where topologies differ, as while a change is rolled out, that is why; more of this kind is only counted"
                );
            }
            Breach::Malformed => "a run that makes no sense, refused",
            Breach::Ack => "an ack of what was not sent over this link, ignored",
        };
        tracing::warn!(%peer, error, "peer breaks the protocol: more of this kind is only counted");
    }

    /// Ends an open connection for an error, which is counted.
    pub(super) fn end_conn(&mut self, id: ConnId, label: &'static str, now: Micros) {
        let Some(conn) = self.conns.get(&id) else { return };
        *self.counters.protocol_errors.entry(label).or_default() += 1;
        let close = Close { code: CloseCode::Closing as u16 };
        let words = control_frame(FrameType::Close, conn.lane, &close);
        self.drop_conn_for(id, Some(words), LinkEnd::Protocol, now);
    }
}

/// A text for the log that may hold what a peer said: on one line, and nothing that a terminal obeys.
pub(super) struct Said<'a>(pub(super) &'a str);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Beside letters of all kinds and their signs there are characters that turn the direction of a line.
        let plain = |c: &char| !c.is_control() && (c.is_ascii() || c.is_alphanumeric());
        self.0.chars().try_for_each(|c| match plain(&c) {
            true => f.write_char(c),
            false => write!(f, "{}", c.escape_default()),
        })
    }
}

fn refuse_bytes(lane: Lane, refusal: &Refusal, with_preamble: bool) -> Bytes {
    let frame = control_frame(FrameType::Refuse, lane, &refusal.body());
    if with_preamble { [&PREAMBLE[..], &frame[..]].concat().into() } else { frame }
}

/// What follows from the handshake, of which both ends have the same `transcript` and these `features`. `far`: they are in two
/// datacenters.
fn opened(lane: Lane, link: &Link, features: u64, transcript: u32, far: bool) -> Opened {
    let epochs = (features & FEATURE_HISTORY != 0).then(|| epochs_of(transcript, link.dialled));
    let echoes = features & FEATURE_ECHO != 0 && lane == Lane::Bulk && far;
    Opened {
        lane,
        frame_bytes_max: link.frame_bytes_max,
        epochs,
        echo: epochs.filter(|_| echoes).map(|epochs| SharedEcho::new(link.dialled, epochs)),
    }
}
