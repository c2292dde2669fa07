//! What time does to links: handshakes that take too long, pings, silence, idleness, redials.

use super::{IDLE_TIMEOUT, LinkEnd, LinkId, Links, Stage, Timer};
use crate::id::Lane;
use crate::proto::handshake::Refusal;
use crate::proto::time::Micros;
use crate::proto::wire::RefuseCode;

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
                        self.note_trouble(conn, "it does not answer: the dial took too long", now);
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
                        // Made when it is written: what it waits behind is not the way. So they do not pile up either.
                        conn.pings = true;
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
                        self.drop_link(link_id, None, LinkEnd::Idle, now);
                    } else {
                        self.timers.set(Timer::Idle(link_id), idle_at);
                    }
                }
                Timer::Redial(peer) => self.dial(peer, now),
                Timer::Dials => self.begin_links(now),
                Timer::Pulse => self.beat(now),
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
            _ => self.drop_link(link_id, None, LinkEnd::Lost, now),
        }
    }

    /// When `handle_timeout` has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Micros {
        self.timers.next()
    }
}
