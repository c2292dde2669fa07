//! Limits and timers of one node. Every queue and every length has its maximum here.

use std::time::Duration;

use trunkline_codec::Stage;

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
    /// Bytes the sender keeps for one datacenter; shared segments of 64 B and more count once per batch. A sixteenth is kept for batches of
    /// the control lane. Default 16 MiB.
    pub datacenter_budget_bytes: usize,
    /// Bytes the sender keeps for all datacenters together; a sixteenth for the control lane. Default 64 MiB.
    pub process_budget_bytes: usize,
    /// Bytes a proxy queues for one member and lane. Default 4 MiB.
    pub member_queue_bytes_max: usize,
    /// Bytes a proxy queues for all members and origins; beyond that each has an equal part of it. Default 256 MiB.
    pub proxy_queue_bytes_max: usize,
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
    /// Links that the whole process begins per second, each with two connections, as a token bucket of that size. Those that
    /// are held all the time come before those that are wanted for what waits now. Default 200.
    pub dials_per_second: u32,
    /// Shortest time an attempt waits for its ack. Default 20 ms.
    pub attempt_timeout_min: Duration,
    /// Longest time an attempt waits for its ack. Default 2 s.
    pub attempt_timeout_max: Duration,
    /// What may be sent again because nobody answered in time, in percent of the bytes sent to other datacenters. Default 10.
    pub resend_percent: u32,
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
    /// Connections accepted per second, as a token bucket of that size; the others wait in the kernel. Default 1,000.
    pub accepts_per_second: u32,
    /// What compresses bulk batches to other datacenters. Where the receiver of one does not know zstd, it gets LZ4. Default
    /// LZ4.
    pub second_stage: Stage,
    /// What the proxy of another datacenter sent is named to it and not sent back, where that proxy has this set as well; for
    /// connections that begin from then on. Default true.
    pub echo: bool,
    /// Congestion control that the kernel is asked for on every connection, such as `bbr`. Empty, the default: the system's,
    /// which also goes on where the kernel refuses the name.
    pub congestion_control: String,
    /// Buffers of each connection towards the kernel, bytes, for sending and for receiving: for lines that hold more than the
    /// kernel lets buffers grow to, twice bandwidth times round trip. The kernel may give less. 0, the default: they grow as
    /// the kernel has it. Else 64 KiB to 64 MiB.
    pub socket_buffer_bytes: usize,
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
            proxy_queue_bytes_max: 256 * MIB,
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
            resend_percent: 10,
            snooze_min: Duration::from_secs(1),
            snooze_max: Duration::from_secs(60),
            ack_delay: Duration::from_millis(1),
            drain_timeout: Duration::from_secs(2),
            connections_max: 4096,
            handshakes_max: 256,
            accepts_per_second: 1000,
            second_stage: Stage::Lz4,
            echo: true,
            congestion_control: String::new(),
            socket_buffer_bytes: 0,
        }
    }
}

/// Settings that no node can work with. Nothing is started; change the named field.
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

/// What a message counts beyond its payload, in every budget, queue and buffer: what this node keeps about it.
pub const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// The machines count in µs, and a timer that rings again at once rings for ever.
const TIMER_MIN: Duration = Duration::from_millis(1);

/// Characters that the name of a congestion control has at most: one byte less than the kernel has for it.
const CONGESTION_NAME_MAX: usize = 15;

/// What the kernel may be asked for as a socket's buffer, bytes.
const SOCKET_BUFFER_BYTES: std::ops::RangeInclusive<usize> = 64 * 1024..=64 * 1024 * 1024;

/// A field, whether its rule holds, and the rule.
type Rule = (&'static str, bool, &'static str);

impl Settings {
    /// Checks each limit for what no node could work with, and the relations between them.
    ///
    /// # Errors
    /// [`SettingsError`]: the first of [`Settings::problems`].
    pub fn check(&self) -> Result<(), SettingsError> {
        self.problems().next().map_or(Ok(()), Err)
    }

    /// Every rule that is broken, for whoever wants to tell all of them at once. A rule names the other fields that it
    /// compares with by their names.
    pub fn problems(&self) -> impl Iterator<Item = SettingsError> + use<> {
        let timers = self.timers().map(|(field, timer)| (field, timer >= TIMER_MIN, "must be at least 1 ms"));
        let rules = self.byte_rules().into_iter().chain(timers).chain(self.rules());
        rules.filter(|(_, holds, _)| !holds).map(|(field, _, rule)| SettingsError { field, rule })
    }

    fn byte_rules(&self) -> [Rule; 13] {
        let holds_a_message = |bytes: usize| bytes >= self.message_bytes_max;
        [
            ("message_bytes_max", self.message_bytes_max > 0, "must be at least 1"),
            (
                "message_bytes_max",
                self.message_bytes_max <= 256 * 1024 * 1024,
                "must be at most 256 MiB: cut larger data into several messages",
            ),
            (
                "frame_bytes_max",
                self.frame_bytes_max >= self.message_bytes_max.saturating_add(FRAME_OVERHEAD_BYTES),
                "must be at least message_bytes_max + 64 KiB",
            ),
            ("frame_bytes_max", self.frame_bytes_max <= 1 << 30, "must be at most 1 GiB"),
            ("run_bytes_max", self.run_bytes_max > 0, "must be at least 1"),
            (
                "destination_budget_bytes",
                holds_a_message(self.destination_budget_bytes),
                "must be at least message_bytes_max",
            ),
            (
                "datacenter_budget_bytes",
                unreserved(self.datacenter_budget_bytes) >= self.destination_budget_bytes,
                "must be at least 16/15 of destination_budget_bytes, as a sixteenth is kept for the control lane",
            ),
            (
                "datacenter_budget_bytes",
                unreserved(self.datacenter_budget_bytes)
                    >= self.message_bytes_max.saturating_add(MESSAGE_OVERHEAD_BYTES),
                "must be at least 16/15 of message_bytes_max + 256 B, as a sixteenth is kept for the control lane",
            ),
            (
                "process_budget_bytes",
                self.process_budget_bytes >= self.datacenter_budget_bytes,
                "must be at least datacenter_budget_bytes",
            ),
            (
                "member_queue_bytes_max",
                holds_a_message(self.member_queue_bytes_max),
                "must be at least message_bytes_max",
            ),
            (
                "proxy_queue_bytes_max",
                self.proxy_queue_bytes_max >= self.member_queue_bytes_max,
                "must be at least member_queue_bytes_max",
            ),
            ("inbox_bytes_max", holds_a_message(self.inbox_bytes_max), "must be at least message_bytes_max"),
            (
                "reorder_bytes_max",
                holds_a_message(self.reorder_bytes_max),
                "must be at least message_bytes_max",
            ),
        ]
    }

    /// Those that may not be too short. Without `ack_delay` acks go at once, without `drain_timeout` nothing is waited for.
    fn timers(&self) -> [(&'static str, Duration); 10] {
        [
            ("message_deadline", self.message_deadline),
            ("handshake_timeout", self.handshake_timeout),
            ("ping_interval", self.ping_interval),
            ("silence_timeout", self.silence_timeout),
            ("redial_max", self.redial_max),
            ("redial_min", self.redial_min),
            ("attempt_timeout_max", self.attempt_timeout_max),
            ("attempt_timeout_min", self.attempt_timeout_min),
            ("snooze_max", self.snooze_max),
            ("snooze_min", self.snooze_min),
        ]
    }

    fn rules(&self) -> [Rule; 13] {
        let in_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        [
            (
                "congestion_control",
                self.congestion_control.len() <= CONGESTION_NAME_MAX
                    && self.congestion_control.bytes().all(in_name),
                "must be a name such as \"bbr\": at most 15 of the letters a-z and A-Z, digits, `_` and `-`",
            ),
            (
                "socket_buffer_bytes",
                self.socket_buffer_bytes == 0 || SOCKET_BUFFER_BYTES.contains(&self.socket_buffer_bytes),
                "must be 0, or at least 64 KiB and at most 64 MiB",
            ),
            (
                "second_stage",
                self.second_stage != Stage::Zstd || cfg!(feature = "zstd"),
                "must not be zstd: this build has none",
            ),
            ("ping_interval", self.ping_interval < self.silence_timeout, "must be below silence_timeout"),
            ("redial_min", self.redial_min <= self.redial_max, "must be at most redial_max"),
            (
                "attempt_timeout_min",
                self.attempt_timeout_min <= self.attempt_timeout_max,
                "must be at most attempt_timeout_max",
            ),
            ("snooze_min", self.snooze_min <= self.snooze_max, "must be at most snooze_max"),
            (
                "ack_delay",
                self.ack_delay < self.attempt_timeout_max,
                "must be below attempt_timeout_max: every attempt by proxy would be over before its ack left",
            ),
            ("dials_per_second", self.dials_per_second > 0, "must be at least 1"),
            ("resend_percent", (1..=100).contains(&self.resend_percent), "must be 1 to 100"),
            ("accepts_per_second", self.accepts_per_second > 0, "must be at least 1"),
            ("connections_max", self.connections_max >= 2, "must be at least 2: a link has two connections"),
            ("handshakes_max", self.handshakes_max >= 2, "must be at least 2: a link has two connections"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Fault = fn(&mut Settings);

    #[test]
    fn defaults_hold_and_every_setting_that_keeps_a_node_from_working_is_named() {
        assert_eq!(Settings::default().check(), Ok(()));
        const MS: Duration = Duration::from_millis(1);
        const SHORT: Duration = Duration::from_nanos(999_999);
        const NONE: Duration = Duration::ZERO;
        let faults: [(&str, Fault); 48] = [
            ("message_bytes_max", |s| s.message_bytes_max = 0),
            ("message_bytes_max", |s| s.message_bytes_max = (256 << 20) + 1),
            ("message_bytes_max", |s| s.message_bytes_max = usize::MAX),
            ("frame_bytes_max", |s| s.frame_bytes_max = 1024),
            ("frame_bytes_max", |s| s.frame_bytes_max = (1 << 30) + 1),
            ("run_bytes_max", |s| s.run_bytes_max = 0),
            ("destination_budget_bytes", |s| s.destination_budget_bytes = s.message_bytes_max - 1),
            ("datacenter_budget_bytes", |s| s.datacenter_budget_bytes = s.destination_budget_bytes),
            // What a message counts beyond its payload: without room for it, the largest one would never go.
            ("datacenter_budget_bytes", |s| {
                s.datacenter_budget_bytes = (s.message_bytes_max * 16).div_ceil(15)
            }),
            ("process_budget_bytes", |s| s.process_budget_bytes = s.datacenter_budget_bytes - 1),
            ("member_queue_bytes_max", |s| s.member_queue_bytes_max = s.message_bytes_max - 1),
            ("proxy_queue_bytes_max", |s| s.proxy_queue_bytes_max = s.member_queue_bytes_max - 1),
            ("inbox_bytes_max", |s| s.inbox_bytes_max = s.message_bytes_max - 1),
            ("reorder_bytes_max", |s| s.reorder_bytes_max = s.message_bytes_max - 1),
            ("message_deadline", |s| s.message_deadline = NONE),
            ("message_deadline", |s| s.message_deadline = SHORT),
            ("handshake_timeout", |s| s.handshake_timeout = NONE),
            ("handshake_timeout", |s| s.handshake_timeout = SHORT),
            ("ping_interval", |s| s.ping_interval = NONE),
            ("ping_interval", |s| s.ping_interval = SHORT),
            ("ping_interval", |s| s.ping_interval = s.silence_timeout),
            ("silence_timeout", |s| s.silence_timeout = NONE),
            ("redial_min", |s| s.redial_min = NONE),
            ("redial_min", |s| s.redial_min = SHORT),
            ("redial_min", |s| s.redial_min = s.redial_max + MS),
            ("redial_max", |s| s.redial_max = NONE),
            ("redial_max", |s| (s.redial_min, s.redial_max) = (SHORT, SHORT)),
            ("dials_per_second", |s| s.dials_per_second = 0),
            ("resend_percent", |s| s.resend_percent = 0),
            ("resend_percent", |s| s.resend_percent = 101),
            ("attempt_timeout_min", |s| s.attempt_timeout_min = NONE),
            ("attempt_timeout_min", |s| s.attempt_timeout_min = SHORT),
            ("attempt_timeout_min", |s| s.attempt_timeout_min = s.attempt_timeout_max + MS),
            ("attempt_timeout_max", |s| s.attempt_timeout_max = NONE),
            ("snooze_min", |s| s.snooze_min = NONE),
            ("snooze_min", |s| s.snooze_min = s.snooze_max + MS),
            ("snooze_max", |s| s.snooze_max = NONE),
            // Every attempt by proxy would be over before its ack left.
            ("ack_delay", |s| s.ack_delay = s.attempt_timeout_max),
            ("accepts_per_second", |s| s.accepts_per_second = 0),
            // A link has two connections.
            ("connections_max", |s| s.connections_max = 0),
            ("connections_max", |s| s.connections_max = 1),
            ("handshakes_max", |s| s.handshakes_max = 0),
            ("handshakes_max", |s| s.handshakes_max = 1),
            ("process_budget_bytes", |s| s.process_budget_bytes = 0),
            ("congestion_control", |s| s.congestion_control = "sixteen_letters_".into()),
            ("congestion_control", |s| s.congestion_control = "bbr\0".into()),
            ("socket_buffer_bytes", |s| s.socket_buffer_bytes = 64 * 1024 - 1),
            ("socket_buffer_bytes", |s| s.socket_buffer_bytes = (64 << 20) + 1),
        ];
        for (index, (field, fault)) in faults.into_iter().enumerate() {
            let mut settings = Settings::default();
            fault(&mut settings);
            assert_eq!(settings.check().map_err(|error| error.field), Err(field), "fault {index}");
        }
    }

    #[test]
    fn all_that_is_broken_is_told_and_check_tells_the_first() {
        let broken = |settings: &Settings| settings.problems().map(|error| error.field).collect::<Vec<_>>();
        assert_eq!(broken(&Settings::default()), <[&str; 0]>::default());
        let large = Settings { message_bytes_max: 32 << 20, handshakes_max: 1, ..Settings::default() };
        assert_eq!(
            broken(&large),
            [
                "frame_bytes_max",
                "destination_budget_bytes",
                "datacenter_budget_bytes",
                "member_queue_bytes_max",
                "inbox_bytes_max",
                "reorder_bytes_max",
                "handshakes_max"
            ]
        );
        assert_eq!(large.check().err(), large.problems().next());
    }

    #[test]
    fn the_smallest_settings_that_work_are_taken() {
        const MS: Duration = Duration::from_millis(1);
        let small = Settings {
            message_bytes_max: 1,
            frame_bytes_max: 1 + FRAME_OVERHEAD_BYTES,
            run_bytes_max: 1,
            destination_budget_bytes: 1,
            datacenter_budget_bytes: 275,
            process_budget_bytes: 275,
            member_queue_bytes_max: 1,
            proxy_queue_bytes_max: 1,
            inbox_bytes_max: 1,
            reorder_bytes_max: 1,
            message_deadline: MS,
            handshake_timeout: MS,
            ping_interval: MS,
            silence_timeout: 2 * MS,
            redial_min: MS,
            redial_max: MS,
            dials_per_second: 1,
            resend_percent: 1,
            attempt_timeout_min: MS,
            attempt_timeout_max: MS,
            snooze_min: MS,
            snooze_max: MS,
            ack_delay: Duration::ZERO,
            drain_timeout: Duration::ZERO,
            second_stage: Stage::None,
            echo: false,
            connections_max: 2,
            handshakes_max: 2,
            accepts_per_second: 1,
            congestion_control: "x".into(),
            socket_buffer_bytes: 64 * 1024,
        };
        assert_eq!(small.check(), Ok(()));
    }
}
