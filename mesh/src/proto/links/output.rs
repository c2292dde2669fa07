//! What a connection writes of its own: handshake, pings, acks that were merged, rows of the roster.

use bytes::Bytes;

use super::{ConnId, LinkEnd, LinkId, Links, Stage, Timer};
use crate::id::Lane;
use crate::proto::frame::{FrameType, Written, control_frame};
use crate::proto::time::Micros;
use crate::proto::wire::{Ack, AckFlow, Ping, REFUSED_RANGES_MAX, ROOM_UNKNOWN};

/// Entries in one ack frame: with full bitmaps and refusals each is below 19 KiB, so the frame is below 600 KiB of the
/// 1 MiB that a control body may have.
const ENTRIES_PER_FRAME: usize = 32;

/// Ack entries that wait for one link, as they are kept: twice what a full bitmap for every flow of 1,024 members on both
/// lanes takes, so only a peer that does not read gets there. Refusals are what grows without it: 1,024 ranges for each of
/// 65,536 rows would be 1 GiB.
const ACK_BYTES_UNWRITTEN_MAX: usize = 8 * 1024 * 1024;

/// What an entry that waits takes.
fn kept_bytes(entry: &AckFlow) -> usize {
    size_of::<((u8, u32), AckFlow)>() + size_of_val(&entry.held[..]) + size_of_val(&entry.refused[..])
}

impl Links {
    /// An ack entry for a peer. What it says of the row replaces an earlier one that waits, also where it is less: a member's
    /// window may go back. Not what is no more than a refusal, and tells little of the member and nothing of its room, where the
    /// earlier one knew more; nor what an earlier life says. Refusals of both are kept, as many as the peer reads. An attempt
    /// whose refusal is left out ends by its timeout. A link whose peer leaves too much of them unread is ended.
    pub fn queue_ack(&mut self, link_id: LinkId, mut entry: AckFlow, at: Micros, now: Micros) {
        entry.refused.truncate(REFUSED_RANGES_MAX);
        let Some(link) = self.links.get_mut(&link_id) else { return };
        let key = (entry.lane, entry.flow);
        match link.acks.get_mut(&key) {
            None => {
                link.ack_bytes += kept_bytes(&entry);
                link.acks.insert(key, entry);
            }
            Some(old) => {
                link.ack_bytes -= kept_bytes(old);
                let mut refused = std::mem::take(&mut old.refused);
                refused.extend(&entry.refused);
                refused.truncate(REFUSED_RANGES_MAX);
                let knows = |entry: &AckFlow| (entry.incarnation, entry.decided, entry.held.len());
                if knows(&entry) == knows(old) && entry.room_kib == ROOM_UNKNOWN {
                    entry.room_kib = old.room_kib;
                }
                let whole = entry.refused.is_empty() || entry.room_kib != ROOM_UNKNOWN;
                if knows(&entry) >= knows(old) || whole && entry.incarnation >= old.incarnation {
                    *old = entry;
                }
                old.refused = refused;
                link.ack_bytes += kept_bytes(old);
            }
        }
        if link.ack_bytes > ACK_BYTES_UNWRITTEN_MAX {
            self.end_unread(link_id, now);
        } else if at > now {
            self.timers.set_earlier(Timer::Acks(link_id), at);
        } else {
            self.release_acks(link_id);
        }
    }

    /// What the acks said is not lost: the sender asks again over another way or the next link.
    fn end_unread(&mut self, link_id: LinkId, now: Micros) {
        let conns = self.links.get(&link_id).map(|link| link.conns).unwrap_or_default();
        match conns.into_iter().flatten().find(|conn| self.link_of(*conn).is_some()) {
            Some(open) => self.protocol_error(open, "acks_unread", "the peer reads no acks", now),
            None => self.drop_link(link_id, None, LinkEnd::Protocol, now),
        }
    }

    pub(super) fn release_acks(&mut self, link_id: LinkId) {
        let Some(link) = self.links.get_mut(&link_id) else { return };
        link.acks_due = true;
        self.timers.clear(Timer::Acks(link_id));
        self.ready.extend(link.conns[Lane::Control.index()]);
    }

    /// Acks wait to be written; also on a link whose bulk connection was through the handshake before control.
    #[must_use]
    pub fn has_acks(&self) -> bool {
        self.links.values().any(|link| !link.acks.is_empty())
    }

    /// The frames of this connection's own that are to be written now.
    pub fn poll_frames(&mut self, id: ConnId, out: &mut Vec<Bytes>, now: Micros) {
        let sent_us = self.wall.steady_us(now);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        out.extend(conn.out.drain(..));
        if std::mem::take(&mut conn.pings) {
            out.push(control_frame(FrameType::Ping, Lane::Control, &Ping { sent_us }));
        }
        self.poll_acks(id, !out.is_empty(), out);
    }

    /// Whether the other end is to be told what has arrived, once.
    pub fn take_news(&mut self, id: ConnId) -> bool {
        self.conns.get_mut(&id).is_some_and(|conn| std::mem::take(&mut conn.news))
    }

    /// The acks that are to be written to this connection now. Those that wait for company have some where another frame goes.
    pub fn poll_acks(&mut self, id: ConnId, company: bool, out: &mut Vec<Bytes>) {
        let Some(conn) = self.conns.get(&id).filter(|conn| matches!(conn.stage, Stage::Open)) else { return };
        let Some(link_id) = conn.link.filter(|_| conn.lane == Lane::Control) else { return };
        let Some(link) = self.links.get_mut(&link_id) else { return };
        if link.acks_due || company {
            self.timers.clear(Timer::Acks(link_id));
            link.acks_due = false;
            link.ack_bytes = 0;
            let flows: Vec<AckFlow> = std::mem::take(&mut link.acks).into_values().collect();
            for part in flows.chunks(ENTRIES_PER_FRAME).filter(|part| !part.is_empty()) {
                out.push(control_frame(FrameType::Ack, Lane::Control, &Ack { flows: part.to_vec() }));
            }
        }
    }

    /// The rows that must be announced in front of what is sent next on this lane.
    pub fn poll_roster(&mut self, link: LinkId, lane: Lane) -> Option<Bytes> {
        let mut frames = Vec::new();
        while let Some(roster) = self.roster_out(link, lane)?.poll_announcement() {
            frames.extend_from_slice(&control_frame(FrameType::Roster, lane, &roster));
        }
        (!frames.is_empty()).then(|| Bytes::from(frames))
    }

    /// Bytes went out.
    pub fn handle_written(&mut self, id: ConnId, bytes: usize, batches: &[Written], now: Micros) {
        self.counters.unremembered += batches.iter().map(|batch| u64::from(batch.unremembered)).sum::<u64>();
        let Some(conn) = self.conns.get(&id) else { return };
        let Some(link) = conn.link.and_then(|link| self.links.get_mut(&link)) else { return };
        self.counters.wire[self.peers[link.peer.0].datacenter].0 += u64::try_from(bytes).unwrap_or(0);
        if !batches.is_empty() {
            link.used_at = now;
        }
    }

    /// Marks a connection as having something to send.
    pub fn wake(&mut self, conn: ConnId) {
        if self.conns.contains_key(&conn) {
            self.ready.insert(conn);
        }
    }
}
