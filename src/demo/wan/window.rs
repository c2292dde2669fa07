//! How much one direction of a connection may hold inside the WAN. A pure machine.
//!
//! Two limits: what waits for the egress (a small buffer, as in a router, so that one busy flow delays the others by
//! little) and what is held in all (bandwidth × delay on the way, and a buffer for a receiver that does not read).
//! When either is full the relay stops reading, and the sender's TCP feels it.

/// Limits of a [`Window`], bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct WindowLimits {
    /// Waiting for the egress, at most.
    pub(super) queued_max: usize,
    /// Read at one end and not yet written at the other, at most.
    pub(super) held_max: usize,
    /// One item, at most.
    pub(super) item_max: usize,
}

/// The bytes of one direction of one connection.
#[derive(Debug)]
pub(super) struct Window {
    limits: WindowLimits,
    queued: usize,
    held: usize,
}

impl Window {
    pub(super) fn new(limits: WindowLimits) -> Self {
        Self { limits, queued: 0, held: 0 }
    }

    /// How many bytes may be read now; 0 means wait.
    pub(super) fn room(&self) -> usize {
        let queue = self.limits.queued_max.saturating_sub(self.queued);
        let hold = self.limits.held_max.saturating_sub(self.held);
        queue.min(hold).min(self.limits.item_max)
    }

    pub(super) fn handle_read(&mut self, bytes: usize) {
        self.queued += bytes;
        self.held += bytes;
    }

    pub(super) fn handle_departure(&mut self, bytes: usize) {
        assert!(bytes <= self.queued, "more bytes departed than waited");
        self.queued -= bytes;
    }

    /// The far end wrote the bytes, or will never.
    pub(super) fn handle_written(&mut self, bytes: usize) {
        assert!(bytes <= self.held, "more bytes written than held");
        self.held -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_limit_stops_reading_and_what_leaves_makes_room() {
        let mut window = Window::new(WindowLimits { queued_max: 100, held_max: 250, item_max: 80 });
        assert_eq!(window.room(), 80);
        window.handle_read(80);
        assert_eq!(window.room(), 20);
        window.handle_read(20);
        assert_eq!(window.room(), 0, "the egress queue is full");
        window.handle_departure(100);
        assert_eq!(window.room(), 80);
        window.handle_read(80);
        window.handle_departure(80);
        assert_eq!(window.room(), 70);
        window.handle_read(70);
        window.handle_departure(70);
        assert_eq!(window.room(), 0, "the link is full");
        window.handle_written(50);
        assert_eq!(window.room(), 50);
    }
}
