//! What a run of the replicated cluster came to: one object for programs, a summary for people.

use std::time::Duration;

use serde::Serialize;

use super::record::Verdict;
use crate::demo::ledger::Latency;
use crate::demo::report::{aligned, count, megabytes, ms, one, round};

/// The result of a run; `--json` prints it. A figure that was not measured is `null`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Writes that were answered, conflicts of compare-and-set among them.
    pub writes: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Writes that a node said were not done, or that reached none.
    pub refused: u64,
    /// Writes whose outcome no client knows.
    pub unknown: u64,
    /// Acknowledged writes that are not in the log where they should be.
    pub lost: u64,
    /// Writes that are in the log more than once.
    pub twice: u64,
    /// Writes that were done although a client was told that they were not.
    pub misreported: u64,
    /// Places where a follower of the log missed entries, or had them out of order.
    pub gaps: u64,
    /// Whether everything that clients saw can have been done one after the other, each while its client waited for it.
    pub linearizable: bool,
    /// What contradicts that.
    pub contradiction: Option<String>,
    /// Whether all voters have the same digest at the same index.
    pub digests_equal: bool,
    /// Which index.
    pub index: Option<u64>,
    /// The last term.
    pub term: u64,
    /// From asking to the answer of a write, median, milliseconds.
    pub write_ms_p50: Option<f64>,
    /// Likewise, 99th percentile.
    pub write_ms_p99: Option<f64>,
    /// From asking to the answer of a read, median, milliseconds.
    pub read_ms_p50: Option<f64>,
    /// Likewise, 99th percentile.
    pub read_ms_p99: Option<f64>,
    /// How clients fared while nodes were away, in the order of time.
    pub outages: Vec<Outage>,
    /// Values that were written, bytes.
    pub payload_bytes: u64,
    /// What left the datacenters towards each other, counted at the shaped links, bytes.
    pub wan_bytes: u64,
    /// Length of the run, seconds.
    pub duration_s: f64,
}

/// What was done to nodes, and how clients fared meanwhile.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outage {
    /// In words, such as "leader killed".
    pub what: String,
    /// Writes that were answered meanwhile.
    pub writes: u64,
    /// The longest time without an answer to any write, milliseconds.
    pub longest_wait_ms: Option<f64>,
}

/// What was measured.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) writes: Option<Latency>,
    pub(super) reads: Option<Latency>,
    pub(super) refused: u64,
    pub(super) unknown: u64,
    pub(super) verdict: Verdict,
    /// The index and the digest that all voters have.
    pub(super) digest: Option<(u64, String)>,
    pub(super) term: u64,
    pub(super) outages: Vec<Outage>,
    pub(super) payload_bytes: u64,
    pub(super) wan_bytes: u64,
    pub(super) duration: Duration,
}

impl Report {
    pub(super) fn new(measured: Measured) -> Self {
        let Measured { writes, reads, verdict, digest, .. } = measured;
        let answers = |of: Option<Latency>| of.map_or(0, |latency| latency.messages as u64);
        Self {
            writes: answers(writes),
            reads: answers(reads),
            refused: measured.refused,
            unknown: measured.unknown,
            lost: verdict.lost,
            twice: verdict.twice,
            misreported: verdict.misreported,
            gaps: verdict.gaps,
            linearizable: verdict.contradiction.is_none(),
            contradiction: verdict.contradiction,
            digests_equal: digest.is_some(),
            index: digest.map(|(index, _)| index),
            term: measured.term,
            write_ms_p50: writes.map(|latency| ms(latency.p50)),
            write_ms_p99: writes.map(|latency| ms(latency.p99)),
            read_ms_p50: reads.map(|latency| ms(latency.p50)),
            read_ms_p99: reads.map(|latency| ms(latency.p99)),
            outages: measured.outages,
            payload_bytes: measured.payload_bytes,
            wan_bytes: measured.wan_bytes,
            duration_s: round(measured.duration.as_secs_f64()),
        }
    }

    /// Whether the cluster kept what it promises. If not, the demo must exit non-zero.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        [self.lost, self.twice, self.misreported, self.gaps] == [0; 4]
            && self.linearizable
            && self.digests_equal
    }

    /// The object on one line.
    ///
    /// # Panics
    /// Never: numbers, texts and `null` always have a JSON form.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers, texts and null")
    }

    /// The summary, several lines, each ended by a line feed.
    #[must_use]
    pub fn summary(&self) -> String {
        let yes_or_no = |yes: bool| if yes { "yes" } else { "NO" }.to_owned();
        let rows = [
            ("writes", count(self.writes), format!("answered in {:.1} s", self.duration_s)),
            ("reads", count(self.reads), "answered, one of four by the leader's lease".to_owned()),
            ("refused", count(self.refused), "writes that were certainly not done".to_owned()),
            ("unknown", count(self.unknown), "writes of which no client knows the outcome".to_owned()),
            ("lost", count(self.lost), "acknowledged, and not in the log".to_owned()),
            ("twice", count(self.twice), "in the log more than once".to_owned()),
            ("misreported", count(self.misreported), "done, although refused".to_owned()),
            ("gaps", count(self.gaps), "in what a follower of the log was told".to_owned()),
            ("linearizable", yes_or_no(self.linearizable), "what clients saw".to_owned()),
            ("equal digests", yes_or_no(self.digests_equal), self.at_index()),
            ("write p50", one(self.write_ms_p50), "ms".to_owned()),
            ("write p99", one(self.write_ms_p99), "ms".to_owned()),
            ("read p50", one(self.read_ms_p50), "ms".to_owned()),
            ("read p99", one(self.read_ms_p99), "ms".to_owned()),
            ("written", megabytes(self.payload_bytes), "MB of values".to_owned()),
            ("on the WAN", megabytes(self.wan_bytes), "MB, all directions, counted at the links".to_owned()),
        ];
        let mut text = aligned(rows);
        text += &aligned(self.outages.iter().map(|outage| {
            let meanwhile =
                format!("ms without an answer to a write at most; {} meanwhile", count(outage.writes));
            (&*outage.what, one(outage.longest_wait_ms), meanwhile)
        }));
        if let Some(contradiction) = &self.contradiction {
            text += &format!("contradiction: {contradiction}\n");
        }
        text + match self.is_clean() {
            true => "Nothing acknowledged was lost or done twice, and every voter has the same state.\n",
            false => "BROKEN: the cluster did not keep what it promises.\n",
        }
    }

    fn at_index(&self) -> String {
        let index = self.index.map_or_else(
            || "the same index".to_owned(),
            |index| format!("index {index}, term {}", self.term),
        );
        format!("of all voters at {index}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdict: Verdict, digest: Option<(u64, String)>) -> Report {
        let ms = Duration::from_millis;
        let latency = Latency { messages: 1_234, p50: ms(120), p99: ms(400), max: ms(1_900) };
        Report::new(Measured {
            writes: Some(latency),
            reads: Some(latency),
            refused: 3,
            unknown: 2,
            verdict,
            digest,
            term: 7,
            outages: vec![Outage {
                what: "leader killed".to_owned(),
                writes: 96,
                longest_wait_ms: Some(1_900.0),
            }],
            payload_bytes: 1_263_616,
            wan_bytes: 5_000_000,
            duration: ms(18_250),
        })
    }

    fn digest() -> Option<(u64, String)> {
        Some((1_240, "ab".to_owned()))
    }

    #[test]
    fn the_summary_is_aligned() {
        let summary = report(Verdict::default(), digest()).summary();
        let (rows, verdict) = summary.trim_end().rsplit_once('\n').unwrap();
        assert_eq!(
            verdict,
            "Nothing acknowledged was lost or done twice, and every voter has the same state."
        );
        assert!(rows.starts_with("writes                   1,234 answered in 18.2 s\n"), "{rows}");
        assert!(
            rows.contains("equal digests              yes of all voters at index 1240, term 7\n"),
            "{rows}"
        );
        for row in rows.lines() {
            assert!(row.len() >= 30 && row.as_bytes()[29] != b' ', "the value ends elsewhere: {row:?}");
        }
    }

    #[test]
    fn any_fault_breaks_the_verdict() {
        let clean = || Verdict::default();
        assert!(report(clean(), digest()).is_clean());
        for broken in [
            report(Verdict { lost: 1, ..clean() }, digest()),
            report(Verdict { twice: 1, ..clean() }, digest()),
            report(Verdict { misreported: 1, ..clean() }, digest()),
            report(Verdict { gaps: 1, ..clean() }, digest()),
            report(Verdict { contradiction: Some("stale".to_owned()), ..clean() }, digest()),
            report(clean(), None),
        ] {
            assert!(!broken.is_clean() && broken.summary().contains("BROKEN"), "{broken:?}");
        }
    }

    #[test]
    fn the_object_has_null_where_nothing_was_measured() {
        let json: serde_json::Value =
            serde_json::from_str(&report(Verdict::default(), digest()).json()).unwrap();
        assert_eq!(
            (&json["writes"], &json["linearizable"], &json["index"]),
            (&1_234.into(), &true.into(), &1_240.into())
        );
        assert!(json["contradiction"].is_null());
        assert_eq!(
            (&json["outages"][0]["what"], &json["outages"][0]["writes"]),
            (&"leader killed".into(), &96.into())
        );
    }
}
