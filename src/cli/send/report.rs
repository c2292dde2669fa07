//! The tally as a table.

use std::fmt::Write;
use std::time::Duration;

use trunkline_mesh::FailReason;

use super::super::table::{Align, Table};
use super::tally::Tally;
use crate::config::units::show_duration;

pub(super) fn report(tally: &Tally, took: Duration) -> String {
    let mut table = Table::new(&[
        (Align::Left, "destination"),
        (Align::Left, "datacenter"),
        (Align::Right, "delivered"),
        (Align::Right, "failed"),
        (Align::Right, "by proxy"),
        (Align::Right, "direct"),
        (Align::Right, "retried"),
        (Align::Right, "rtt p50"),
        (Align::Right, "rtt p99"),
    ]);
    let mut reasons = Table::new(&[
        (Align::Left, "destination"),
        (Align::Right, "failed"),
        (Align::Right, "may have arrived"),
        (Align::Left, "reason"),
    ]);
    for (node, row) in tally.rows() {
        let quantile = |per_mille| row.rtt.at(per_mille).map_or("-".to_owned(), show_duration);
        table.row(vec![
            node.to_string(),
            row.datacenter.to_string(),
            row.delivered().to_string(),
            row.failed().to_string(),
            row.by_proxy.to_string(),
            row.direct.to_string(),
            row.retried.to_string(),
            quantile(500),
            quantile(990),
        ]);
        for (reason, failed) in &row.failed {
            reasons.row(vec![
                node.to_string(),
                failed.count.to_string(),
                failed.maybe_delivered.to_string(),
                match reason {
                    // Down, as far as can be told from here, and not merely slow.
                    FailReason::Expired if !row.was_reached() => {
                        "no route to it before its deadline".to_owned()
                    }
                    reason => reason.to_string(),
                },
            ]);
        }
    }
    let mut text = table.to_string();
    if tally.failed() > 0 {
        let _ = write!(text, "\n{reasons}");
    }
    let (delivered, failed) = (tally.delivered(), tally.failed());
    let _ = writeln!(text, "\n{delivered} delivered, {failed} failed, in {}", show_duration(took));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use trunkline_mesh::{Datacenter, NodeId, Outcome, Route};

    #[test]
    fn the_table_is_aligned_and_reasons_are_told() {
        let nodes = ["eu-m1", "eu-m2", "eu-m3", "eu-m4"].map(|id| NodeId::new(id).unwrap());
        let mut tally = Tally::of(&Datacenter::new("eu").unwrap(), &nodes);
        let route = Route::Proxy(NodeId::new("eu-p1").unwrap());
        let delivered = |route, us| Outcome::Delivered { route, attempts: 1, rtt: Duration::from_micros(us) };
        tally.count(&nodes[0], &delivered(route, 31));
        tally.count(&nodes[0], &delivered(Route::Direct, 1_023));
        let expired = |maybe_delivered| Outcome::Failed { reason: FailReason::Expired, maybe_delivered };
        tally.count(&nodes[1], &expired(true));
        tally.count(&nodes[1], &expired(false));
        tally.count(&nodes[2], &expired(false));
        tally.count(&nodes[3], &expired(false));
        tally.count(&nodes[3], &Outcome::Failed { reason: FailReason::Refused, maybe_delivered: false });
        let text = "\
destination  datacenter  delivered  failed  by proxy  direct  retried  rtt p50  rtt p99
eu-m1        eu                  2       0         1       1        0    31 us  1.02 ms
eu-m2        eu                  0       2         0       0        0        -        -
eu-m3        eu                  0       1         0       0        0        -        -
eu-m4        eu                  0       2         0       0        0        -        -

destination  failed  may have arrived  reason
eu-m2             2                 1  its deadline passed
eu-m3             1                 0  no route to it before its deadline
eu-m4             1                 0  its deadline passed
eu-m4             1                 0  the receiver is full

2 delivered, 5 failed, in 1.5 s
";
        assert_eq!(report(&tally, Duration::from_millis(1500)), text);
    }
}
