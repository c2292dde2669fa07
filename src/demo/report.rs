//! What a run came to: one object for programs, a summary for people.

use std::time::Duration;

use serde::Serialize;

use super::ledger::{Latency, Tally};

/// The result of a run; `--json` prints it. A figure that was not measured is `null`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Messages sent, one destination each.
    pub messages: u64,
    /// Messages that arrived.
    pub delivered: u64,
    /// Messages that neither arrived nor were reported as failed.
    pub lost: u64,
    /// Arrivals of a message that had arrived before.
    pub duplicated: u64,
    /// Arrivals of a message after a later one.
    pub out_of_order: u64,
    /// Arrivals with other bytes than were sent.
    pub corrupted: u64,
    /// Messages the mesh reported as failed.
    pub failed: u64,
    /// Messages that arrived although reported as surely not delivered.
    pub misreported: u64,
    /// Payload of all messages, bytes.
    pub payload_bytes: u64,
    /// What the same messages would have put on the WAN sent directly, bytes.
    pub direct_bytes: u64,
    /// What was left after the diff, bytes.
    pub diff_bytes: u64,
    /// What left the datacenters towards each other, both directions, counted at the shaped links, bytes.
    pub wan_bytes: u64,
    /// 1 − `wan_bytes` / `direct_bytes`; below 0 if more went than direct sends would have needed.
    pub saved_ratio: Option<f64>,
    /// Round trip between the leader's datacenter and the one whose proxies fail, milliseconds.
    pub failover_rtt_ms: f64,
    /// Longest wait beyond normal delivery around the kill, milliseconds.
    pub failover_clean_ms_max: Option<f64>,
    /// Longest wait beyond normal delivery around the freeze, milliseconds.
    pub failover_silent_ms_max: Option<f64>,
    /// Time inside a proxy, median, microseconds.
    pub hop_us_p50: Option<f64>,
    /// Time inside a proxy, 99th percentile, microseconds.
    pub hop_us_p99: Option<f64>,
    /// From handing over to arrival, median, milliseconds.
    pub delivery_ms_p50: Option<f64>,
    /// From handing over to arrival, 99th percentile, milliseconds.
    pub delivery_ms_p99: Option<f64>,
    /// Length of the run, seconds.
    pub duration_s: f64,
}

/// Bytes by stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WanBytes {
    /// See [`Report::direct_bytes`].
    pub direct: u64,
    /// See [`Report::diff_bytes`].
    pub diff: u64,
    /// See [`Report::wan_bytes`].
    pub wan: u64,
}

/// How long the failures made messages wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failover {
    /// See [`Report::failover_rtt_ms`].
    pub rtt: Duration,
    /// See [`Report::failover_clean_ms_max`].
    pub clean_max: Option<Duration>,
    /// See [`Report::failover_silent_ms_max`].
    pub silent_max: Option<Duration>,
}

/// Time inside a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// See [`Report::hop_us_p50`].
    pub p50: Duration,
    /// See [`Report::hop_us_p99`].
    pub p99: Duration,
}

impl Report {
    /// Puts together what was measured; `tally` must be of the whole run, after its end.
    #[must_use]
    pub fn new(
        tally: Tally,
        bytes: WanBytes,
        failover: Failover,
        hop: Option<Hop>,
        delivery: Option<Latency>,
        duration: Duration,
    ) -> Self {
        Self {
            messages: tally.messages,
            delivered: tally.delivered,
            lost: tally.missing,
            duplicated: tally.duplicated,
            out_of_order: tally.out_of_order,
            corrupted: tally.corrupted,
            failed: tally.failed,
            misreported: tally.misreported,
            payload_bytes: tally.payload_bytes,
            direct_bytes: bytes.direct,
            diff_bytes: bytes.diff,
            wan_bytes: bytes.wan,
            saved_ratio: saved_ratio(bytes),
            failover_rtt_ms: ms(failover.rtt),
            failover_clean_ms_max: failover.clean_max.map(ms),
            failover_silent_ms_max: failover.silent_max.map(ms),
            hop_us_p50: hop.map(|h| ms(h.p50 * 1_000)),
            hop_us_p99: hop.map(|h| ms(h.p99 * 1_000)),
            delivery_ms_p50: delivery.map(|d| ms(d.p50)),
            delivery_ms_p99: delivery.map(|d| ms(d.p99)),
            duration_s: ms(duration) / 1e3,
        }
    }

    /// Whether every member got what it was sent, once and in order, or was told that it would not. If not, the demo
    /// must exit non-zero.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        [self.lost, self.duplicated, self.out_of_order, self.corrupted, self.misreported] == [0; 5]
    }

    /// The object on one line.
    ///
    /// # Panics
    /// Never: numbers and `null` always have a JSON form.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and null")
    }

    /// The summary, several lines, each ended by a line feed.
    #[must_use]
    pub fn summary(&self) -> String {
        let rows = [
            ("messages", count(self.messages), format!("in {:.1} s", self.duration_s)),
            ("delivered", count(self.delivered), String::new()),
            ("lost", count(self.lost), String::new()),
            ("duplicated", count(self.duplicated), String::new()),
            ("out of order", count(self.out_of_order), String::new()),
            ("corrupted", count(self.corrupted), String::new()),
            ("failed", count(self.failed), "given up by the mesh, and reported".into()),
            (
                "misreported",
                count(self.misreported),
                "arrived although reported as failed for certain".into(),
            ),
            ("payload", megabytes(self.payload_bytes), "MB handed over".into()),
            ("sent directly", megabytes(self.direct_bytes), "MB would cross the WAN".into()),
            ("after the diff", megabytes(self.diff_bytes), "MB".into()),
            ("on the WAN", megabytes(self.wan_bytes), "MB, both directions, counted at the links".into()),
            ("saved", one(self.saved_ratio.map(|r| r * 100.0)), "% of what direct sends need".into()),
            ("delivery p50", one(self.delivery_ms_p50), "ms".into()),
            ("delivery p99", one(self.delivery_ms_p99), "ms".into()),
            ("proxy hop p50", one(self.hop_us_p50), "us".into()),
            ("proxy hop p99", one(self.hop_us_p99), "us".into()),
            ("proxy killed", one(self.failover_clean_ms_max), self.beyond()),
            ("proxy frozen", one(self.failover_silent_ms_max), self.beyond()),
        ];
        format!("{}{}\n", aligned(rows), self.verdict())
    }

    fn beyond(&self) -> String {
        format!("ms beyond normal delivery at most; a round trip is {:.1} ms", self.failover_rtt_ms)
    }

    fn verdict(&self) -> &'static str {
        match (self.is_clean(), self.failed) {
            (true, 0) => "Every member got every message once and in order.",
            (true, _) => "Every member got its messages once and in order, except those reported as failed.",
            (false, _) => "BROKEN: messages were lost, duplicated, out of order, corrupted or misreported.",
        }
    }
}

/// Rows of a label, a value and its unit, each ended by a line feed.
pub(super) fn aligned<'a>(rows: impl IntoIterator<Item = (&'a str, String, String)>) -> String {
    let mut text = String::new();
    for (label, value, unit) in rows {
        text.push_str(format!("{label:<16}{value:>14} {unit}").trim_end());
        text.push('\n');
    }
    text
}

fn saved_ratio(bytes: WanBytes) -> Option<f64> {
    (bytes.direct > 0).then(|| round(1.0 - bytes.wan as f64 / bytes.direct as f64))
}

/// Milliseconds with microsecond precision.
pub(super) fn ms(time: Duration) -> f64 {
    round(time.as_secs_f64() * 1e3)
}

/// To three decimals: more would claim a precision that is not there.
pub(super) fn round(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

pub(super) fn one(number: Option<f64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.1}"))
}

pub(super) fn megabytes(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / 1e6)
}

/// Digits in groups of three.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(tally: Tally) -> Report {
        let ms = Duration::from_millis;
        let bytes = WanBytes { direct: 40_000_000, diff: 9_000_000, wan: 9_600_000 };
        let failover = Failover { rtt: ms(150), clean_max: Some(ms(158)), silent_max: None };
        let latency = |unit: Duration| Some(Latency { messages: 5, p50: unit, p99: unit * 3, max: unit * 4 });
        let us = Duration::from_micros;
        let (hop, delivery) = (Some(Hop { p50: us(85), p99: us(255) }), latency(ms(75)));
        Report::new(tally, bytes, failover, hop, delivery, Duration::from_secs(30))
    }

    fn good() -> Tally {
        let messages = 1_234_567;
        Tally { messages, delivered: messages, payload_bytes: 60_000_000, ..Tally::default() }
    }

    #[test]
    fn the_object_has_the_promised_names() {
        let json: serde_json::Value = serde_json::from_str(&report(good()).json()).unwrap();
        let names = "messages delivered lost duplicated out_of_order failed payload_bytes direct_bytes diff_bytes \
                     wan_bytes saved_ratio failover_rtt_ms failover_clean_ms_max failover_silent_ms_max hop_us_p50 \
                     hop_us_p99 delivery_ms_p50 delivery_ms_p99 duration_s";
        for name in names.split_whitespace() {
            assert!(json.get(name).is_some(), "{name} is missing");
        }
        assert_eq!(json["saved_ratio"], 0.76);
        assert_eq!((&json["hop_us_p99"], &json["delivery_ms_p50"]), (&255.0.into(), &75.0.into()));
        assert!(json["failover_silent_ms_max"].is_null());
    }

    #[test]
    fn the_summary_is_aligned() {
        let summary = report(good()).summary();
        let lines: Vec<&str> = summary.lines().collect();
        assert_eq!(lines[0], "messages             1,234,567 in 30.0 s");
        assert_eq!(lines[12], "saved                     76.0 % of what direct sends need");
        let (verdict, rows) = lines.split_last().unwrap();
        assert_eq!(*verdict, "Every member got every message once and in order.");
        for row in rows {
            assert!(row.len() >= 30 && row.as_bytes()[29] != b' ', "the value ends elsewhere: {row:?}");
            assert!(row.as_bytes().get(30).is_none_or(|b| *b == b' '), "{row:?}");
        }
    }

    #[test]
    fn any_fault_breaks_the_verdict_and_a_reported_failure_does_not() {
        let breaks = |spoil: fn(&mut Tally)| {
            let mut tally = good();
            spoil(&mut tally);
            let report = report(tally);
            assert!(!report.is_clean() && report.summary().contains("BROKEN"));
        };
        breaks(|t| t.missing = 1);
        breaks(|t| t.duplicated = 1);
        breaks(|t| t.out_of_order = 1);
        breaks(|t| t.corrupted = 1);
        breaks(|t| t.misreported = 1);
        let failed = report(Tally { failed: 2, ..good() });
        assert!(failed.is_clean() && failed.summary().contains("except those reported as failed"));
    }

    #[test]
    fn counts_are_grouped() {
        let shown = [0, 999, 1_000, 999_999, 1_000_000].map(count);
        assert_eq!(shown, ["0", "999", "1,000", "999,999", "1,000,000"]);
    }
}
