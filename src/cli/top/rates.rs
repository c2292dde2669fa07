//! What happened between two looks at a node's counters, per second.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use trunkline_mesh::stats::{Histogram, LATENCY_BUCKETS_US};

use super::super::status::{Datacenter, Status, time};
use super::super::table::{Align, Table};
use crate::config::units::show_bytes;

/// What `/v1/stats` says, as far as it is shown.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Stats {
    datacenters: BTreeMap<String, Sent>,
    proxy: Proxy,
    member: Member,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Sent {
    sent: Bytes,
    messages: u64,
    delivered_by_proxy: u64,
    delivered_direct: u64,
    /// By the way back: by a proxy as well. An older node does not say.
    #[serde(default)]
    delivered_back: u64,
    failed: BTreeMap<String, u64>,
    ack_latency: Latencies,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Bytes {
    logical: u64,
    wire: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Latencies {
    buckets: Vec<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Proxy {
    frames: u64,
    forwarded: u64,
    forwarded_bytes: u64,
    refused: BTreeMap<String, u64>,
    hop_latency: Latencies,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Member {
    handed_over: u64,
    handed_over_bytes: u64,
    duplicates: u64,
    refused: BTreeMap<String, u64>,
}

/// Per second, over one interval.
#[derive(Debug)]
pub(super) struct Rates {
    seconds: f64,
    datacenters: BTreeMap<String, Sending>,
    frames: f64,
    forwarded: f64,
    forwarded_bytes: f64,
    proxy_refused: f64,
    hop_p99_us: Option<u64>,
    handed_over: f64,
    handed_over_bytes: f64,
    duplicates: f64,
    member_refused: f64,
}

#[derive(Debug, Default)]
struct Sending {
    messages: f64,
    by_proxy: f64,
    direct: f64,
    failed: f64,
    wire_bytes: f64,
    logical_bytes: f64,
    ack_p50_us: Option<u64>,
    ack_p99_us: Option<u64>,
}

impl Rates {
    /// A node that restarted in between counts from zero.
    pub(super) fn between(before: &Stats, now: &Stats, passed: Duration) -> Self {
        let seconds = passed.as_secs_f64().max(1e-3);
        #[allow(clippy::cast_precision_loss)] // Three digits are shown.
        let rate = |before: u64, now: u64| now.checked_sub(before).unwrap_or(now) as f64 / seconds;
        let sum = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
        let none = Sent::default();
        let sending = |(name, now): (&String, &Sent)| {
            let before = before.datacenters.get(name).unwrap_or(&none);
            let acks = since(&before.ack_latency, &now.ack_latency);
            let sending = Sending {
                messages: rate(before.messages, now.messages),
                by_proxy: rate(
                    before.delivered_by_proxy + before.delivered_back,
                    now.delivered_by_proxy + now.delivered_back,
                ),
                direct: rate(before.delivered_direct, now.delivered_direct),
                failed: rate(sum(&before.failed), sum(&now.failed)),
                wire_bytes: rate(before.sent.wire, now.sent.wire),
                logical_bytes: rate(before.sent.logical, now.sent.logical),
                ack_p50_us: acks.percentile_us(50),
                ack_p99_us: acks.percentile_us(99),
            };
            (name.clone(), sending)
        };
        Self {
            seconds,
            datacenters: now.datacenters.iter().map(sending).collect(),
            frames: rate(before.proxy.frames, now.proxy.frames),
            forwarded: rate(before.proxy.forwarded, now.proxy.forwarded),
            forwarded_bytes: rate(before.proxy.forwarded_bytes, now.proxy.forwarded_bytes),
            proxy_refused: rate(sum(&before.proxy.refused), sum(&now.proxy.refused)),
            hop_p99_us: since(&before.proxy.hop_latency, &now.proxy.hop_latency).percentile_us(99),
            handed_over: rate(before.member.handed_over, now.member.handed_over),
            handed_over_bytes: rate(before.member.handed_over_bytes, now.member.handed_over_bytes),
            duplicates: rate(before.member.duplicates, now.member.duplicates),
            member_refused: rate(sum(&before.member.refused), sum(&now.member.refused)),
        }
    }

    /// A row per datacenter that is sent to, within so many columns.
    pub(super) fn sending(&self, datacenters: &[Datacenter], width: Option<usize>) -> String {
        let whole = self.sending_by(datacenters, Datacenter::way);
        if width.is_none_or(|width| whole.width() <= width) {
            return whole.to_string();
        }
        const DISPENSABLE: [&str; 10] = [
            "by proxy/s",
            "direct/s",
            "ack p50",
            "saved %",
            "pending",
            "wire",
            "failed/s",
            "queued",
            "untaken",
            "not reached",
        ];
        self.sending_by(datacenters, Datacenter::short_way).within(width, &DISPENSABLE)
    }

    fn sending_by(&self, datacenters: &[Datacenter], way: impl Fn(&Datacenter) -> String) -> Table {
        let mut table = Table::new(&[
            (Align::Left, "datacenter"),
            (Align::Left, "way"),
            (Align::Right, "messages/s"),
            (Align::Right, "by proxy/s"),
            (Align::Right, "direct/s"),
            (Align::Right, "failed/s"),
            (Align::Right, "wire"),
            (Align::Right, "saved %"),
            (Align::Right, "ack p50"),
            (Align::Right, "ack p99"),
            (Align::Right, "queued"),
            (Align::Right, "pending"),
            (Align::Right, "not reached"),
            (Align::Right, "untaken"),
        ]);
        let idle = Sending::default();
        for datacenter in datacenters {
            let rates = self.datacenters.get(&datacenter.name).unwrap_or(&idle);
            table.row(vec![
                datacenter.name.clone(),
                way(datacenter),
                per_second(rates.messages),
                per_second(rates.by_proxy),
                per_second(rates.direct),
                per_second(rates.failed),
                bytes_per_second(rates.wire_bytes),
                rates
                    .saved()
                    .filter(|_| !datacenter.local)
                    .map_or("-".to_owned(), |saved| format!("{saved:.1}")),
                time(rates.ack_p50_us),
                time(rates.ack_p99_us),
                show_bytes(datacenter.queued_bytes),
                datacenter.pending_messages.to_string(),
                datacenter.unreached_destinations.to_string(),
                datacenter.untaken_destinations.to_string(),
            ]);
        }
        table
    }

    /// What it does as a proxy and as a member, and its links.
    pub(super) fn node(&self, status: &Status) -> Table {
        let mut table = Table::new(&[(Align::Left, "as"), (Align::Left, "does"), (Align::Right, "now")]);
        let mut row = |role: &str, what: &str, value: String| {
            table.row(vec![role.to_owned(), what.to_owned(), value]);
        };
        if status.has_role("proxy") {
            row("proxy", "frames taken in", per_second(self.frames) + "/s");
            row("proxy", "runs passed on", per_second(self.forwarded) + "/s");
            row("proxy", "payload passed on", bytes_per_second(self.forwarded_bytes));
            row("proxy", "runs refused", per_second(self.proxy_refused) + "/s");
            row("proxy", "hop p99", time(self.hop_p99_us));
            row("proxy", "queued for members", show_bytes(status.proxy_queue_bytes));
        }
        if status.has_role("member") {
            row("member", "messages handed over", per_second(self.handed_over) + "/s");
            row("member", "payload handed over", bytes_per_second(self.handed_over_bytes));
            row("member", "duplicates dropped", per_second(self.duplicates) + "/s");
            row("member", "messages refused", per_second(self.member_refused) + "/s");
            row("member", "in the inbox", status.inbox());
            row("member", "untaken for", status.untaken().unwrap_or_else(|| "-".to_owned()));
            row("member", "held behind gaps or for room", show_bytes(status.held_bytes));
        }
        row("node", "links up", status.links_up().to_string());
        row("node", "peers down", status.peers_down().to_string());
        table
    }

    /// All of it, for scripts.
    pub(super) fn json(&self, status: &Status) -> Value {
        let sending = status.datacenters.iter().map(|datacenter| {
            let idle = Sending::default();
            let rates = self.datacenters.get(&datacenter.name).unwrap_or(&idle);
            json!({
                "datacenter": datacenter.name,
                "local": datacenter.local,
                "proxy_in_use": datacenter.routes.iter().find(|route| route.in_use).map(|route| &route.proxy),
                "messages_per_s": rates.messages,
                "delivered_by_proxy_per_s": rates.by_proxy,
                "delivered_direct_per_s": rates.direct,
                "failed_per_s": rates.failed,
                "wire_bytes_per_s": rates.wire_bytes,
                "logical_bytes_per_s": rates.logical_bytes,
                "ack_p50_us": rates.ack_p50_us,
                "ack_p99_us": rates.ack_p99_us,
                "queued_bytes": datacenter.queued_bytes,
                "pending_messages": datacenter.pending_messages,
                "unreached_destinations": datacenter.unreached_destinations,
                "untaken_destinations": datacenter.untaken_destinations,
            })
        });
        json!({
            "node": status.node,
            "ready": status.ready,
            "draining": status.draining,
            "uptime_s": status.uptime_s,
            "interval_s": self.seconds,
            "links_up": status.links_up(),
            "peers_down": status.peers_down(),
            "datacenters": sending.collect::<Vec<_>>(),
            "proxy": {
                "frames_per_s": self.frames,
                "forwarded_per_s": self.forwarded,
                "forwarded_bytes_per_s": self.forwarded_bytes,
                "refused_per_s": self.proxy_refused,
                "hop_p99_us": self.hop_p99_us,
                "queue_bytes": status.proxy_queue_bytes,
            },
            "member": {
                "handed_over_per_s": self.handed_over,
                "handed_over_bytes_per_s": self.handed_over_bytes,
                "duplicates_per_s": self.duplicates,
                "refused_per_s": self.member_refused,
                "inbox_bytes": status.inbox_bytes,
                "inbox_untaken_ms": status.inbox_untaken_ms,
                "held_bytes": status.held_bytes,
            },
        })
    }
}

impl Sending {
    /// The share of the bytes that direct sends would have cost, in percent; none while nothing is sent.
    fn saved(&self) -> Option<f64> {
        (self.logical_bytes > 0.0).then(|| 100.0 * (1.0 - self.wire_bytes / self.logical_bytes))
    }
}

/// The observations of the interval.
fn since(before: &Latencies, now: &Latencies) -> Histogram {
    let mut histogram = Histogram::default();
    let rows = histogram.buckets.iter_mut().zip(&now.buckets).take(LATENCY_BUCKETS_US.len() + 1);
    for (index, (bucket, now)) in rows.enumerate() {
        let before = before.buckets.get(index).copied().unwrap_or(0);
        *bucket = now.checked_sub(before).unwrap_or(*now);
    }
    histogram
}

fn per_second(rate: f64) -> String {
    if rate > 0.0 && rate < 100.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

fn bytes_per_second(rate: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A rate is never negative.
    let bytes = rate.round() as u64;
    show_bytes(bytes) + "/s"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(messages: u64, wire: u64) -> Stats {
        let mut stats = Stats::default();
        let mut sent = Sent { messages, delivered_by_proxy: messages, ..Sent::default() };
        sent.sent = Bytes { logical: 4 * wire, wire };
        sent.ack_latency.buckets = vec![0, 0, messages];
        stats.datacenters.insert("eu".to_owned(), sent);
        stats
    }

    #[test]
    fn rates_are_of_the_interval_and_a_restart_counts_from_zero() {
        let second = Duration::from_secs(2);
        let rates = Rates::between(&stats(100, 1_000), &stats(300, 9_000), second);
        let eu = &rates.datacenters["eu"];
        assert!((eu.messages - 100.0).abs() < 1e-9 && (eu.wire_bytes - 4_000.0).abs() < 1e-9);
        assert!((eu.saved().unwrap() - 75.0).abs() < 1e-9);
        assert!(eu.ack_p99_us > Some(25) && eu.ack_p99_us <= Some(50));
        let restarted = Rates::between(&stats(300, 9_000), &stats(20, 100), second);
        assert!((restarted.datacenters["eu"].messages - 10.0).abs() < 1e-9);
        let idle = Rates::between(&stats(300, 9_000), &stats(300, 9_000), second);
        assert_eq!((idle.datacenters["eu"].saved(), idle.datacenters["eu"].ack_p50_us), (None, None));
    }
}
