//! Connections: bytes from machine to machine over the faulty wire.

use std::net::{IpAddr, Ipv4Addr};

use super::trouble::{ROOM_REASONS, is_of_room};
use super::*;
use crate::proto::frame::{Received, Token};

/// For a planted bug: how much later all comes, while one takes nothing.
const HELD_UP: Duration = Duration::from_millis(100);

/// Every node is on a host of its own.
fn host_of(node: NodeIx) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(node).expect("few")).into()
}

impl World {
    pub(super) fn accept(&mut self, from: End, to: NodeIx) {
        let now = self.clock(to);
        let back = self.now + self.delay(from.node, to);
        let cut = [(from.node, to), (to, from.node)].map(|(a, b)| self.wire.is_cut(Hole::Between(a, b)));
        if self.hosts[to].dark || cut.contains(&true) {
            return;
        }
        let host = &mut self.hosts[to];
        let Some(node) = host.node.as_mut() else {
            return self.at(back, Event::Dialed { from, to: None });
        };
        match node.handle_accepted(host_of(from.node), now) {
            Ok(conn) => {
                let end = End { node: to, life: host.life, conn };
                host.conns.insert(conn, new_conn(now));
                self.wire.connect(from, end);
                self.note(&format!("accept {from:?} {end:?}"));
                self.at(back, Event::Dialed { from, to: Some(end) });
            }
            Err(_) => self.at(back, Event::Dialed { from, to: None }),
        }
        self.pump(to);
    }

    pub(super) fn dialed(&mut self, from: End, to: Option<End>) {
        if !self.alive(from) {
            if let Some(to) = to {
                self.at(self.now, Event::Arrive { to, cargo: Cargo::Fin });
            }
            return;
        }
        let now = self.clock(from.node);
        let host = &mut self.hosts[from.node];
        let Some(node) = host.node.as_mut() else { return };
        if to.is_some() {
            host.conns.insert(from.conn, new_conn(now));
            node.handle_dialed(from.conn, now);
        } else {
            node.handle_dial_failed(from.conn, now);
        }
        self.pump(from.node);
    }

    pub(super) fn arrive(&mut self, to: End, cargo: Cargo) {
        if !self.alive(to) {
            // A kernel that knows nothing of the stream says so.
            if !self.hosts[to.node].dark && matches!(cargo, Cargo::Bytes(_)) {
                self.turn_away(to);
            }
            return;
        }
        let now = self.clock(to.node);
        match cargo {
            Cargo::Bytes(bytes) => {
                if let Some(sender) = self.wire.read(to, bytes.len())
                    && self.wire.has_room(sender)
                    && let Some(blocked) = self.blocked.get_mut(&sender)
                    && !std::mem::replace(&mut blocked.told, true)
                {
                    self.at(self.now, Event::Room { end: sender });
                }
                // They are in the trace as an event.
                if self.spoken {
                    eprintln!("{:>10} µs  bytes {to:?} {}", self.now.0, bytes.len());
                }
                // Nothing else makes a queue longer but what is submitted.
                if self.read(to, &bytes) {
                    self.check_queues(to.node);
                }
            }
            Cargo::Fin => {
                self.note(&format!("fin {to:?}"));
                let host = &mut self.hosts[to.node];
                let unnoticed = self.planted == Some(Planted::LossUnnoticed) && to.node == LEADER;
                if !unnoticed
                    && host.conns.contains_key(&to.conn)
                    && let Some(node) = host.node.as_mut()
                {
                    node.handle_closed(to.conn, now);
                }
            }
        }
        self.pump(to.node);
    }

    /// Bytes for a process that died: who sent them learns that it is gone.
    fn turn_away(&mut self, to: End) {
        if let Some(from) = self.wire.other(to) {
            let at = self.now + self.delay(to.node, from.node);
            self.at(at, Event::Arrive { to: from, cargo: Cargo::Fin });
        }
    }

    /// The machine gets the frames that end in these bytes. Gives whether there was one.
    fn read(&mut self, to: End, bytes: &Bytes) -> bool {
        let now = self.clock(to.node);
        let only_member = self.planted.is_some() && self.has_only(to.node, Roles::MEMBER);
        let other = self.wire.other(to);
        let peer = other.filter(|_| to.node == LEADER);
        let peer = peer.map(|end| (end.node, self.hosts[end.node].id.clone()));
        // Who left the connection hears nothing of what is refused then.
        let left = other.is_some_and(|other| self.wire.peer(other).is_none());
        let counted = left || other.is_some_and(|other| other.node == LEADER);
        let host = &mut self.hosts[to.node];
        let (Some(node), Some(conn)) = (host.node.as_mut(), host.conns.get_mut(&to.conn)) else {
            return false;
        };
        conn.buffer.extend_from_slice(bytes);
        conn.partial.came(bytes.len());
        let mut some = false;
        loop {
            match conn.reader.read(&mut conn.buffer) {
                Ok(None) => {
                    let body = conn.reader.awaits_control();
                    let control = conn.opened.as_ref().is_some_and(|opened| opened.lane == Lane::Control);
                    let every = node.settings().ping_interval;
                    if let Some(came) = conn.partial.tell(body.is_some(), control, every, now) {
                        node.handle_partial(to.conn, body, came, now);
                    }
                    return some;
                }
                Ok(Some((mut received, length))) => {
                    some = true;
                    conn.partial.frames(now);
                    match &received {
                        Received::Ack(ack) => {
                            let gap = |held: &Vec<u64>| held.first().is_some_and(|word| word & 1 == 0);
                            let gaps = ack.flows.iter().filter(|entry| gap(&entry.held)).count();
                            self.effects.count_many(Effect::Gap, u64::try_from(gaps).unwrap_or(0));
                            if let Some((by, id)) = &peer {
                                self.had.read(node, (to.conn, *by, id), &host.topology, ack);
                            }
                        }
                        Received::Batch(..) if host.frozen => {
                            self.effects.count(Effect::Fault(Fault::Freeze));
                        }
                        _ => {}
                    }
                    match self.planted {
                        Some(planted) if to.node == LEADER => planted.into_leader(&mut received),
                        Some(planted) if only_member => planted.into_member(&mut received),
                        _ => {}
                    }
                    if let (LEADER, Received::Ack(ack)) = (to.node, &received) {
                        let ranges = ack.flows.iter().flat_map(|entry| &entry.refused);
                        let heard =
                            ranges.filter(|range| range.count > 0 && is_of_room(range.reason)).count();
                        self.refusals_heard += u64::try_from(heard).unwrap_or(u64::MAX);
                    }
                    let before = counted.then(|| node.refused_for(&ROOM_REASONS));
                    let opened = node.handle_frame(to.conn, received, length, now);
                    let refused = before.map_or(0, |before| node.refused_for(&ROOM_REASONS) - before);
                    *if left { &mut self.refused_unheard } else { &mut host.refused_to_leader } += refused;
                    if let Some(mut opened) = opened {
                        if self.planted == Some(Planted::EchoesStale)
                            && let (Some((other, _)), Some(echo)) = (&peer, opened.echo.as_mut())
                        {
                            *echo = self.stale.entry((to.node, *other)).or_insert(echo.clone()).clone();
                        }
                        conn.reader.open(&opened);
                        conn.encoder = encoder(Some(&opened));
                        conn.opened = Some(opened);
                    }
                }
                // A machine that closed the connection a moment ago ignores this; one that did not counts an error.
                Err(error) => {
                    node.handle_bad_frame(to.conn, &error, now);
                    *self.bad_frames.entry(error.label()).or_default() += 1;
                    match error.label() {
                        "history" => self.effects.count(Effect::OutOfStep),
                        "checksum" => self.effects.count(Effect::Damaged),
                        _ => {}
                    }
                    self.note(&format!("bad bytes {to:?}: {error}"));
                    return some;
                }
            }
        }
    }

    pub(super) fn wrote(&mut self, end: End, written: &[(u64, Written)], bytes: usize) {
        if !self.alive(end) {
            return;
        }
        let now = self.clock(end.node);
        let host = &mut self.hosts[end.node];
        let (Some(node), Some(conn)) = (host.node.as_mut(), host.conns.get_mut(&end.conn)) else { return };
        conn.writing = false;
        let written: Vec<Written> = written.iter().map(|(_, one)| *one).collect();
        node.handle_written(end.conn, &written, bytes, now);
        self.write(end);
        self.pump(end.node);
    }

    /// One write of a connection, if its writer is idle and there is something.
    pub(super) fn write(&mut self, end: End) {
        let now = self.clock(end.node);
        let host = &mut self.hosts[end.node];
        let (Some(node), Some(conn)) = (host.node.as_mut(), host.conns.get_mut(&end.conn)) else { return };
        if conn.writing {
            return;
        }
        let mut transmit = node.poll_transmit(end.conn, now);
        if transmit.is_empty() {
            return;
        }
        conn.writing = true;
        if end.node == LEADER {
            transmit.batches.iter().for_each(|batch| self.check_had(end, batch));
        }
        let Some(conn) = self.hosts[end.node].conns.get_mut(&end.conn) else { return };
        let mut slices = transmit.frames;
        let mut written = Vec::new();
        for batch in &mut transmit.batches {
            let number = batch.envelope.batch;
            let planted = self.planted.filter(|_| end.node == LEADER);
            let leaves = planted.is_none_or(|planted| planted.out_of_leader(batch));
            if let (Some(planted), Token::Forward { .. }) = (self.planted, batch.token) {
                planted.out_of_proxy(batch);
            }
            let one = if leaves {
                batch.encode(&mut conn.encoder, &mut slices)
            } else {
                Written {
                    token: batch.token,
                    diff_bytes: 0,
                    staged_bytes: 0,
                    echoed_bytes: 0,
                    unremembered: false,
                }
            };
            written.push((number, one));
        }
        let bytes = Bytes::from(slices.concat());
        let soon = self.now + Duration::from_micros(self.rng.u64(1..50));
        let write = Blocked { written, bytes: bytes.len(), rest: bytes, told: false };
        self.write_on(end, write, soon);
    }

    /// The kernel takes what it has room for, and the rest when the other end has read.
    fn write_on(&mut self, end: End, mut write: Blocked, done_at: Micros) {
        let room = self.wire.room(end).min(write.rest.len());
        let part = write.rest.split_to(room);
        self.push_bytes(end, part);
        if write.rest.is_empty() {
            self.at(done_at, Event::Wrote { end, written: write.written, bytes: write.bytes });
            return;
        }
        let now = self.clock(end.node);
        if room > 0
            && let Some(node) = self.hosts[end.node].node.as_mut()
        {
            node.handle_progress(end.conn, now);
        }
        self.blocked.insert(end, Blocked { told: false, ..write });
    }

    /// A writer that waited writes on.
    pub(super) fn go_on_writing(&mut self, end: End) {
        if let Some(write) = self.blocked.remove(&end).filter(|_| self.alive(end)) {
            self.write_on(end, write, self.now);
            self.pump(end.node);
        }
    }

    /// Cuts bytes at random, as TCP may.
    pub(super) fn push_bytes(&mut self, end: End, mut bytes: Bytes) {
        let Some(peer) = self.wire.peer(end) else { return };
        let (mut delay, sites) = (self.delay(end.node, peer.node), self.sites(end.node, peer.node));
        if self.planted == Some(Planted::OneHoldsUpAll)
            && end.node == LEADER
            && self.hosts.iter().any(|host| host.stopped || host.deaf || host.slow || host.frozen)
        {
            delay += HELD_UP;
        }
        while !bytes.is_empty() {
            let whole = self.rng.u8(..) < 160;
            let length = if whole { bytes.len() } else { self.rng.usize(1..=bytes.len()) };
            let part = bytes.split_to(length);
            if let Some((at, to)) = self.wire.send(end, part.len(), sites, delay, self.now) {
                self.at(at, Event::Arrive { to, cargo: Cargo::Bytes(part) });
            }
        }
    }

    pub(super) fn close(&mut self, end: End) {
        if let Some(peer) = self.wire.peer(end) {
            let (delay, sites) = (self.delay(end.node, peer.node), self.sites(end.node, peer.node));
            if let Some((at, to)) = self.wire.send(end, 0, sites, delay, self.now) {
                self.at(at, Event::Arrive { to, cargo: Cargo::Fin });
            }
        }
        self.wire.close(end);
        self.blocked.remove(&end);
    }
}

fn new_conn(now: Micros) -> ConnState {
    ConnState {
        reader: FrameReader::new(),
        buffer: BytesMut::new(),
        encoder: encoder(None),
        opened: None,
        partial: Partial::new(now),
        writing: false,
    }
}

pub(super) fn encoder(opened: Option<&Opened>) -> BatchEncoder {
    BatchEncoder::new(Options { seed: Some(1), ..Options::default() }, opened)
}
