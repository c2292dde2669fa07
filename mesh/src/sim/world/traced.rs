//! The trace of a run: one number that two runs of a seed have in common, and no two that differ anywhere.

use trunkline_codec::checksum::crc32c;

use super::*;

/// The prime of FNV-1a.
const PRIME: u64 = 0x0000_0100_0000_01b3;

fn number(of: usize) -> u64 {
    u64::try_from(of).unwrap_or(u64::MAX)
}

fn end_of(end: End) -> u64 {
    number(end.node) << 48 ^ end.life << 32 ^ end.conn.0
}

fn name_of(node: &NodeId) -> u64 {
    u64::from(crc32c(node.as_str().as_bytes()))
}

impl World {
    fn mix(&mut self, word: u64) {
        self.trace = (self.trace ^ word).wrapping_mul(PRIME).rotate_left(29);
    }

    pub(super) fn trace_text(&mut self, text: &str) {
        self.mix(number(text.len()) << 32 ^ u64::from(crc32c(text.as_bytes())));
    }

    /// An event, when it is its turn. Of what was arranged before by name there are notes.
    pub(super) fn trace_event(&mut self, event: &Event) {
        self.mix(self.now.0);
        let (kind, what, more) = match event {
            Event::Syn { from, to } => (1, end_of(*from), number(*to)),
            Event::Dialed { from, to } => (2, end_of(*from), to.map_or(u64::MAX, end_of)),
            Event::Arrive { to, cargo: Cargo::Bytes(bytes) } => {
                (3, end_of(*to), number(bytes.len()) << 32 ^ u64::from(crc32c(bytes)))
            }
            Event::Arrive { to, cargo: Cargo::Fin } => (4, end_of(*to), 0),
            Event::Wrote { end, written, bytes } => {
                (5, end_of(*end), number(written.len()) << 32 ^ number(*bytes))
            }
            Event::Room { end } => (6, end_of(*end), 0),
            Event::Alarm { host, life } => (7, number(*host), *life),
            Event::Send { origin } => (8, number(*origin), 0),
            Event::Answer { host, life, to, lane } => {
                (9, number(*host) << 32 ^ *life, name_of(to) << 1 ^ number(lane.index()))
            }
            Event::Learn { host } => (10, number(*host), 0),
            Event::Sip { host, life } => (11, number(*host), *life),
            Event::Inspect => (12, 0, 0),
            Event::Fault => (13, 0, 0),
            Event::Trial => (14, 0, 0),
            Event::Strike(_) => (15, 0, 0),
            Event::Undo(_) => (16, 0, 0),
        };
        self.mix(kind);
        self.mix(what);
        self.mix(more);
    }

    /// What an application is told of its message.
    pub(super) fn trace_outcome(&mut self, id: u64, outcome: &Outcome) {
        let (what, more, rest) = match outcome {
            Outcome::Delivered { route, attempts, rtt } => {
                let route = match route {
                    Route::Proxy(proxy) => name_of(proxy) << 8 ^ 1,
                    Route::Back(proxy) => name_of(proxy) << 8 ^ 2,
                    Route::Direct => 3,
                };
                (route, u64::from(*attempts), micros(*rtt))
            }
            Outcome::Failed { reason, maybe_delivered } => {
                (4, u64::from(crc32c(reason.label().as_bytes())), u64::from(*maybe_delivered))
            }
        };
        self.mix(id);
        self.mix(what);
        self.mix(more);
        self.mix(rest);
    }

    /// A message that an application hands over.
    pub(super) fn trace_message(&mut self, sender: NodeIx, message: &DrawnMessage) {
        let DrawnMessage { id, destination, deadline, lane, kind, slot, bytes, .. } = message;
        self.mix(*id);
        self.mix(name_of(destination) << 32 ^ number(*bytes));
        self.mix(micros(*deadline));
        let slot = slot.map_or(u64::MAX, u64::from);
        self.mix(number(sender) << 16 ^ number(lane.index()) << 8 ^ u64::from(*kind) ^ slot << 32);
    }
}
