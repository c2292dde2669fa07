//! Limits and timers of one node. Every queue and every length has its maximum here.

use std::time::Duration;

/// Limits and timers. `Settings::default()` suits links of up to 1 Gbit/s and round trips of up to 500 ms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Largest payload of one message, bytes. Larger ones fail with `TooLarge`. Default 4 MiB.
    pub message_bytes_max: usize,
    /// Largest link frame a peer may send us, bytes. Default 16 MiB; at least `message_bytes_max` + 64 KiB.
    pub frame_bytes_max: usize,
    /// Payload bytes one destination gets in one frame (one larger message goes alone). Smaller delivers earlier on slow
    /// links, larger compresses better. Default 64 KiB.
    pub run_bytes_max: usize,
    /// Bytes the sender keeps for one destination and lane, queued or unacknowledged. Default 4 MiB.
    pub destination_budget_bytes: usize,
    /// Bytes the sender keeps for one datacenter; shared segments count once per batch. A sixteenth is kept for batches of
    /// the control lane. Default 16 MiB.
    pub datacenter_budget_bytes: usize,
    /// Bytes the sender keeps for all datacenters together; a sixteenth for the control lane. Default 64 MiB.
    pub process_budget_bytes: usize,
    /// Bytes a proxy queues for one member and lane. Default 4 MiB.
    pub member_queue_bytes_max: usize,
    /// Bytes handed over and not yet taken by the application. Default 16 MiB.
    pub inbox_bytes_max: usize,
    /// Bytes a member holds behind a gap, per origin and lane. Default 4 MiB.
    pub reorder_bytes_max: usize,
    /// Deadline of messages that name none. Default 10 s.
    pub message_deadline: Duration,
    /// Time for the handshake of one connection, and for a link's second connection to follow. Default 5 s.
    pub handshake_timeout: Duration,
    /// Between pings on an idle control connection. Default 500 ms.
    pub ping_interval: Duration,
    /// A link whose peer says nothing for so long is closed. Default 3 s.
    pub silence_timeout: Duration,
    /// First pause before a new dial; doubles, with full jitter. Default 50 ms.
    pub redial_min: Duration,
    /// Longest pause before a new dial. Default 2 s.
    pub redial_max: Duration,
    /// Dials per second of the whole process, as a token bucket of that size. Default 200.
    pub dials_per_second: u32,
    /// Shortest time an attempt waits for its ack. Default 20 ms.
    pub attempt_timeout_min: Duration,
    /// Longest time an attempt waits for its ack. Default 2 s.
    pub attempt_timeout_max: Duration,
    /// First time a convicted route is left alone; doubles per conviction. Default 1 s.
    pub snooze_min: Duration,
    /// Longest time a convicted route is left alone. Default 60 s.
    pub snooze_max: Duration,
    /// How long a proxy waits for further acks to merge. Default 1 ms.
    pub ack_delay: Duration,
    /// How long a draining node lives on to finish what it has. Default 2 s.
    pub drain_timeout: Duration,
    /// Accepted connections, all peers together. Default 4,096.
    pub connections_max: usize,
    /// Accepted connections whose link is not up: within their handshake, or without the other one of the two. Default 256.
    pub handshakes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        const KIB: usize = 1024;
        const MIB: usize = 1024 * KIB;
        Self {
            message_bytes_max: 4 * MIB,
            frame_bytes_max: 16 * MIB,
            run_bytes_max: 64 * KIB,
            destination_budget_bytes: 4 * MIB,
            datacenter_budget_bytes: 16 * MIB,
            process_budget_bytes: 64 * MIB,
            member_queue_bytes_max: 4 * MIB,
            inbox_bytes_max: 16 * MIB,
            reorder_bytes_max: 4 * MIB,
            message_deadline: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_millis(500),
            silence_timeout: Duration::from_secs(3),
            redial_min: Duration::from_millis(50),
            redial_max: Duration::from_secs(2),
            dials_per_second: 200,
            attempt_timeout_min: Duration::from_millis(20),
            attempt_timeout_max: Duration::from_secs(2),
            snooze_min: Duration::from_secs(1),
            snooze_max: Duration::from_secs(60),
            ack_delay: Duration::from_millis(1),
            drain_timeout: Duration::from_secs(2),
            connections_max: 4096,
            handshakes_max: 256,
        }
    }
}

/// Settings that contradict each other. Nothing is started; change the named field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}")]
pub struct SettingsError {
    /// The field to change.
    pub field: &'static str,
    /// What must hold.
    pub rule: &'static str,
}

/// The share of a datacenter's and the process's budget that only batches of the control lane may use: a heartbeat must
/// not be turned away because data fills the budget.
const RESERVED_SHARE: usize = 16;

/// What everything else may use of a budget, bytes.
#[must_use]
pub(crate) fn unreserved(budget_bytes: usize) -> usize {
    budget_bytes - budget_bytes / RESERVED_SHARE
}

/// Room a frame needs beyond the payload of one message: header, envelope, codec head.
pub(crate) const FRAME_OVERHEAD_BYTES: usize = 64 * 1024;

impl Settings {
    /// Checks the relations between the limits.
    ///
    /// # Errors
    /// [`SettingsError`] names the first field that breaks its rule.
    pub fn check(&self) -> Result<(), SettingsError> {
        let rules: [(bool, &'static str, &'static str); 12] = [
            (self.message_bytes_max > 0, "message_bytes_max", "must be at least 1"),
            (
                self.message_bytes_max <= 256 * 1024 * 1024,
                "message_bytes_max",
                "must be at most 256 MiB: cut larger data into several messages",
            ),
            (
                self.frame_bytes_max >= self.message_bytes_max.saturating_add(FRAME_OVERHEAD_BYTES),
                "frame_bytes_max",
                "must be at least message_bytes_max + 64 KiB",
            ),
            (self.frame_bytes_max <= 1 << 30, "frame_bytes_max", "must be at most 1 GiB"),
            (self.run_bytes_max > 0, "run_bytes_max", "must be at least 1"),
            (
                self.destination_budget_bytes >= self.message_bytes_max,
                "destination_budget_bytes",
                "must be at least message_bytes_max",
            ),
            (
                unreserved(self.datacenter_budget_bytes) >= self.destination_budget_bytes,
                "datacenter_budget_bytes",
                "must be at least 16/15 of destination_budget_bytes: a share is kept for the control lane",
            ),
            (
                self.process_budget_bytes >= self.datacenter_budget_bytes,
                "process_budget_bytes",
                "must be at least datacenter_budget_bytes",
            ),
            (
                self.member_queue_bytes_max >= self.message_bytes_max
                    && self.inbox_bytes_max >= self.message_bytes_max
                    && self.reorder_bytes_max >= self.message_bytes_max,
                "member_queue_bytes_max, inbox_bytes_max, reorder_bytes_max",
                "must each be at least message_bytes_max",
            ),
            (
                !self.attempt_timeout_min.is_zero() && self.attempt_timeout_min <= self.attempt_timeout_max,
                "attempt_timeout_min",
                "must be above zero and at most attempt_timeout_max",
            ),
            (
                self.ping_interval < self.silence_timeout && !self.ping_interval.is_zero(),
                "ping_interval",
                "must be above zero and below silence_timeout",
            ),
            (
                !self.redial_min.is_zero()
                    && self.redial_min <= self.redial_max
                    && !self.snooze_min.is_zero()
                    && self.snooze_min <= self.snooze_max
                    && self.dials_per_second > 0,
                "redial_min, snooze_min, dials_per_second",
                "must be above zero and at most their maximum",
            ),
        ];
        match rules.iter().find(|(holds, _, _)| !holds) {
            None => Ok(()),
            Some(&(_, field, rule)) => Err(SettingsError { field, rule }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold_and_contradictions_are_named() {
        assert_eq!(Settings::default().check(), Ok(()));
        let small = Settings { frame_bytes_max: 1024, ..Settings::default() };
        assert_eq!(small.check().unwrap_err().field, "frame_bytes_max");
        let quiet = Settings { ping_interval: Duration::from_secs(9), ..Settings::default() };
        assert_eq!(quiet.check().unwrap_err().field, "ping_interval");
    }
}
