//! Destinations that take nothing: told while messages wait for them, not only at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use trunkline_mesh::NodeId;

use super::tally::Tally;

/// After so long without an answer it is told for the first time.
pub(super) const FIRST: Duration = Duration::from_secs(5);
/// And from then on so often.
pub(super) const AGAIN: Duration = Duration::from_secs(10);

/// What was delivered, failed and waiting at the last look.
#[derive(Debug, Default)]
pub(super) struct Silence(BTreeMap<NodeId, (u64, u64, u64)>);

impl Silence {
    /// A line per destination that took nothing since the last look, while messages waited for its answer or were given up.
    pub(super) fn look(&mut self, tally: &Tally) -> Vec<String> {
        let mut lines = Vec::new();
        for (node, row) in tally.rows() {
            let (delivered, failed) = (row.delivered(), row.failed());
            // The first look is some time after the start.
            let before = self.0.insert(node.clone(), (delivered, failed, row.waiting));
            let (delivered_before, failed_before, waiting_before) = before.unwrap_or((0, 0, 1));
            let waited = row.waiting > 0 && waiting_before > 0;
            if delivered > delivered_before || (!waited && failed == failed_before) {
                continue;
            }
            let said = if delivered == 0 { "no answer yet" } else { "no answer any more" };
            lines.push(format!("{node}: {said}; {} failed so far", grouped(failed)));
        }
        lines
    }
}

/// With a comma behind every thousand.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use trunkline_mesh::{Datacenter, FailReason, Outcome, Route};

    use super::*;

    #[test]
    fn who_takes_nothing_is_told_and_nobody_else() {
        let nodes = ["eu-m1", "eu-m2"].map(|id| NodeId::new(id).unwrap());
        let mut tally = Tally::of(&Datacenter::new("eu").unwrap(), &nodes);
        let mut silence = Silence::default();
        assert_eq!(silence.look(&tally), Vec::<String>::new(), "nothing was asked of them");
        tally.sent(1);
        let delivered = Outcome::Delivered { route: Route::Direct, attempts: 1, rtt: Duration::ZERO };
        let failed = Outcome::Failed { reason: FailReason::Expired, maybe_delivered: false };
        tally.count(&nodes[1], &delivered);
        assert_eq!(silence.look(&tally), Vec::<String>::new(), "it may have been sent a moment ago");
        assert_eq!(
            silence.look(&tally),
            ["eu-m1: no answer yet; 0 failed so far"],
            "the other one answered all"
        );
        tally.sent(3_299);
        for _ in 0..3_300 {
            tally.count(&nodes[0], &failed);
        }
        assert_eq!(silence.look(&tally), ["eu-m1: no answer yet; 3,300 failed so far"]);
        assert_eq!(silence.look(&tally), ["eu-m2: no answer any more; 0 failed so far"]);
        for _ in 0..3_299 {
            tally.count(&nodes[1], &delivered);
        }
        assert_eq!(silence.look(&tally), Vec::<String>::new(), "the input is silent too");
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
