//! What time does to links: handshakes that take too long, pings, silence, idleness, redials.

use std::time::Duration;

use super::{IDLE_TIMEOUT, LinkId, Links, Stage, Timer};
use crate::id::Lane;
use crate::proto::frame::{FrameType, control_frame};
use crate::proto::handshake::Refusal;
use crate::proto::time::Micros;
use crate::proto::wire::{Ping, RefuseCode};

/// When a peer was heard last.
pub(super) struct Heard {
    /// The moment, or so much later as this process was late since.
    at: Micros,
    forgiven: Duration,
}

impl Heard {
    pub(super) fn now(at: Micros) -> Self {
        Self { at, forgiven: Duration::ZERO }
    }

    /// What was said while this process was late is read before a timer rings late the next time, so of several such times the worst
    /// counts: one that is late all the time would else never miss anybody.
    fn forgive(&mut self, lag: Duration, now: Micros) {
        let more = lag.saturating_sub(self.forgiven);
        self.forgiven += more;
        self.at = (self.at + more).min(now);
    }
}

impl super::Link {
    /// How long nothing was heard of it.
    #[must_use]
    pub fn unheard(&self, now: Micros) -> Duration {
        now.since(self.heard.at)
    }
}

impl Links {
    /// Rings what is due.
    pub fn handle_timeout(&mut self, now: Micros) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Handshake(conn) => {
                    let dialled =
                        self.conns.get(&conn).is_some_and(|conn| matches!(conn.stage, Stage::Dialing));
                    if dialled {
                        self.counters.dials_failed += 1;
                        self.drop_conn(conn, None, now);
                    } else {
                        self.refuse(
                            conn,
                            &Refusal::new(RefuseCode::Timeout, "the handshake took too long"),
                            now,
                        );
                    }
                }
                Timer::Pair(link) => self.end_pair(link, now),
                Timer::Ping(link_id) => {
                    if let Some(conn) =
                        self.conn_of(link_id, Lane::Control).and_then(|id| self.conns.get_mut(&id))
                    {
                        // Unwritten pings pile up no further: the silence timeout will end this link.
                        if conn.out.is_empty() {
                            let ping = Ping { sent_us: self.wall_base_us.saturating_add(now.0) };
                            conn.out.push_back(control_frame(FrameType::Ping, Lane::Control, &ping));
                        }
                        self.ready.extend(self.conn_of(link_id, Lane::Control));
                        self.timers.set(Timer::Ping(link_id), now + self.settings.ping_interval);
                    }
                }
                Timer::Body(conn) => {
                    self.protocol_error(conn, "stalled", "a control body that does not come to its end", now);
                }
                Timer::Silence(link_id) => self.check_silence(link_id, now),
                Timer::Acks(link) => self.release_acks(link),
                Timer::Idle(link_id) => {
                    let Some(link) = self.links.get(&link_id) else { continue };
                    let idle_at = link.used_at + IDLE_TIMEOUT;
                    if idle_at <= now {
                        self.drop_link(link_id, None, now);
                    } else {
                        self.timers.set(Timer::Idle(link_id), idle_at);
                    }
                }
                Timer::Redial(peer) => self.dial(peer, now),
                Timer::Dials => self.begin_links(now),
            }
        }
    }

    /// The second connection did not follow; or bulk ended a moment ago, and the last acks were read.
    fn end_pair(&mut self, link_id: LinkId, now: Micros) {
        let Some(link) = self.links.get(&link_id) else { return };
        match link.conns.into_iter().flatten().next() {
            Some(conn) if !link.up => {
                let late = Refusal::new(RefuseCode::Timeout, "the link's other connection did not follow");
                self.refuse(conn, &late, now);
            }
            _ => self.drop_link(link_id, None, now),
        }
    }

    /// This process was late by so much: peers may have spoken meanwhile, and nobody has read it yet.
    pub fn forgive(&mut self, lag: Duration, now: Micros) {
        for link in self.links.values_mut() {
            link.heard.forgive(lag, now);
        }
        for id in
            self.conns.iter().filter(|(_, conn)| conn.awaits_body).map(|(id, _)| *id).collect::<Vec<_>>()
        {
            self.timers.postpone(Timer::Body(id), lag);
        }
    }

    pub(super) fn check_silence(&mut self, link_id: LinkId, now: Micros) {
        let Some(link) = self.links.get(&link_id) else { return };
        let until = link.heard.at + self.settings.silence_timeout;
        if until <= now {
            let peer = &self.peers[link.peer.0].spec.id;
            tracing::warn!(%peer, "peer has been silent for too long, link closed");
            self.drop_link(link_id, None, now);
        } else {
            self.timers.set(Timer::Silence(link_id), until);
        }
    }

    /// When `handle_timeout` has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Micros {
        self.timers.next()
    }
}
