//! Whether a peer is there: when it was heard last, and until when it may say nothing. A frame of which more and more comes is no
//! silence, though it takes long.

use std::time::Duration;

use super::{ConnId, LinkEnd, LinkId, Links, Stage, Timer};
use crate::id::Lane;
use crate::proto::frame::{FrameType, control_frame};
use crate::proto::time::{Micros, micros};
use crate::proto::wire::Ack;

/// A control body may take the silence timeout, and a second more for so many bytes. That is longer than any line needs which
/// is fast enough for pings in time behind what it carries, and for whom a damaged length names a body that never comes. What comes
/// of a frame counts as being heard where it comes as fast.
const CONTROL_BYTES_PER_SECOND: usize = 64 * 1024;

/// When a peer was heard last.
pub(super) struct Heard {
    /// The moment, or so much later as this process was late since.
    at: Micros,
    forgiven: Duration,
    /// Bytes that came since, of a frame that is not whole.
    came: usize,
}

impl Heard {
    pub(super) fn now(at: Micros) -> Self {
        Self { at, forgiven: Duration::ZERO, came: 0 }
    }

    /// What was said while this process was late is read before a timer rings late the next time, so of several such times the worst
    /// counts: one that is late all the time would else never miss anybody.
    fn forgive(&mut self, lag: Duration, now: Micros) {
        let more = lag.saturating_sub(self.forgiven);
        self.forgiven += more;
        self.at = (self.at + more).min(now);
    }

    /// So much more came of a frame. True where that counts as being heard: once in `interval`, and where it came fast enough.
    fn part(&mut self, came: usize, interval: Duration, now: Micros) -> bool {
        self.came = self.came.saturating_add(came);
        let silent = now.since(self.at);
        let per_second = u64::try_from(CONTROL_BYTES_PER_SECOND).unwrap_or(u64::MAX);
        let least = micros(silent).saturating_mul(per_second) / 1_000_000;
        let counts = silent >= interval && u64::try_from(self.came).unwrap_or(u64::MAX) >= least;
        if counts {
            *self = Self::now(now);
        }
        counts
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
    /// So many bytes came of a frame that is not whole. While a control body is waited for, `control_bytes` is its length: its header
    /// was read; behind it none is, for it came and the payload is on its way. Told at once when that changes, and else at least
    /// once in [`ping_interval`](crate::settings::Settings::ping_interval). A body that takes too long ends its connection: its
    /// length was damaged on the way, and what follows, though it flows, is taken for a part of it. A payload may take its time.
    pub fn handle_partial(&mut self, id: ConnId, control_bytes: Option<usize>, came: usize, now: Micros) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let awaited = std::mem::replace(&mut conn.awaits_body, control_bytes.is_some());
        match control_bytes {
            Some(bytes) if !awaited => {
                let seconds = u64::try_from(bytes / CONTROL_BYTES_PER_SECOND).unwrap_or(u64::MAX);
                let patience = self.settings.silence_timeout.saturating_add(Duration::from_secs(seconds));
                self.timers.set(Timer::Body(id), now + patience);
            }
            None if awaited => self.timers.clear(Timer::Body(id)),
            _ => {}
        }
        let open = matches!(conn.stage, Stage::Open) && conn.lane == Lane::Control;
        let link = conn.link.filter(|_| open).and_then(|link| self.links.get_mut(&link));
        let Some(link) = link.filter(|link| link.up) else { return };
        let counts = link.heard.part(came, self.settings.ping_interval, now);
        // Pings of who sends it stand behind it: only so it hears that somebody reads.
        if counts && !link.dialled && conn.out.is_empty() {
            conn.out.push_back(control_frame(FrameType::Ack, Lane::Control, &Ack::default()));
            self.ready.insert(id);
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

    /// From now on silence of a link's peer ends it. Where the peer dialled no ping makes this process notice soon that it is late
    /// itself; another timer does.
    pub(super) fn begin_listening(&mut self, link_id: LinkId, dialled: bool, now: Micros) {
        self.timers.set(Timer::Silence(link_id), now + self.settings.silence_timeout);
        if !dialled {
            self.timers.set_earlier(Timer::Pulse, now + self.settings.ping_interval);
        }
    }

    pub(super) fn beat(&mut self, now: Micros) {
        if self.links.values().any(|link| link.up && !link.dialled) {
            self.timers.set(Timer::Pulse, now + self.settings.ping_interval);
        }
    }

    pub(super) fn check_silence(&mut self, link_id: LinkId, now: Micros) {
        let Some(link) = self.links.get(&link_id) else { return };
        let until = link.heard.at + self.settings.silence_timeout;
        if until <= now {
            let peer = &self.peers[link.peer.0].spec.id;
            tracing::warn!(%peer, "peer has been silent for too long, link closed");
            self.drop_link(link_id, None, LinkEnd::Silent, now);
        } else {
            self.timers.set(Timer::Silence(link_id), until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_of_a_frame_counts_where_it_comes_fast_enough_and_once_in_an_interval() {
        let interval = Duration::from_millis(500);
        let at = |ms: u64| Micros(ms * 1000);
        let mut heard = Heard::now(at(0));
        assert!(!heard.part(1 << 20, interval, at(499)), "told often");
        assert!(heard.part(1, interval, at(500)));
        assert!(!heard.part(1 << 20, interval, at(600)), "of what came since");
        // Two pings a second, taken for parts of something long.
        let mut heard = Heard::now(at(0));
        assert!((1..100).all(|tick| !heard.part(30, interval, at(tick * 500))));
        // A line that stood still for two seconds is fast enough again once it has caught up.
        let mut heard = Heard::now(at(0));
        assert!(!heard.part(100_000, interval, at(2_000)));
        assert!(heard.part(50_000, interval, at(2_010)));
    }
}
