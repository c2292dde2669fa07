//! What became of the messages, per destination, in bounded memory.

use std::collections::BTreeMap;
use std::time::Duration;

use trunkline_mesh::{Datacenter, FailReason, NodeId, Outcome, Route};

/// All destinations.
#[derive(Debug, Default)]
pub(super) struct Tally(BTreeMap<NodeId, Row>);

/// One destination.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) datacenter: Datacenter,
    pub(super) by_proxy: u64,
    pub(super) direct: u64,
    /// Needed more than one attempt.
    pub(super) retried: u64,
    pub(super) failed: BTreeMap<FailReason, Failed>,
    pub(super) rtt: Quantiles,
}

/// Messages given up for one reason.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) count: u64,
    /// Of them, those that may have arrived all the same.
    pub(super) maybe_delivered: u64,
}

impl Tally {
    /// A row for each destination, so that it is shown even if nothing was sent.
    pub(super) fn of(datacenter: &Datacenter, nodes: &[NodeId]) -> Self {
        let row = || Row {
            datacenter: datacenter.clone(),
            by_proxy: 0,
            direct: 0,
            retried: 0,
            failed: BTreeMap::new(),
            rtt: Quantiles::default(),
        };
        Self(nodes.iter().map(|node| (node.clone(), row())).collect())
    }

    pub(super) fn count(&mut self, node: &NodeId, outcome: &Outcome) {
        let Some(row) = self.0.get_mut(node) else { return };
        match outcome {
            Outcome::Delivered { route, attempts, rtt } => {
                match route {
                    Route::Proxy(_) | Route::Back(_) => row.by_proxy += 1,
                    Route::Direct => row.direct += 1,
                }
                row.retried += u64::from(*attempts > 1);
                row.rtt.observe(*rtt);
            }
            Outcome::Failed { reason, maybe_delivered } => {
                let failed = row.failed.entry(*reason).or_default();
                failed.count += 1;
                failed.maybe_delivered += u64::from(*maybe_delivered);
            }
        }
    }

    /// Takes in the rows of another datacenter.
    pub(super) fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = (&NodeId, &Row)> {
        self.0.iter()
    }

    /// No message was sent at all.
    pub(super) fn is_empty(&self) -> bool {
        self.delivered() + self.failed() == 0
    }

    pub(super) fn delivered(&self) -> u64 {
        self.0.values().map(Row::delivered).sum()
    }

    pub(super) fn failed(&self) -> u64 {
        self.0.values().map(Row::failed).sum()
    }
}

impl Row {
    pub(super) fn delivered(&self) -> u64 {
        self.by_proxy + self.direct
    }

    pub(super) fn failed(&self) -> u64 {
        self.failed.values().map(|failed| failed.count).sum()
    }

    /// Something shows that there was a route to it: it took a message, may have taken one, or answered.
    pub(super) fn was_reached(&self) -> bool {
        let answered =
            |reason: &FailReason| matches!(reason, FailReason::Refused | FailReason::PeerRestarted);
        self.delivered() > 0
            || self.failed.iter().any(|(reason, failed)| failed.maybe_delivered > 0 || answered(reason))
    }
}

/// Durations in buckets of at most 1/32 relative width.
#[derive(Debug, Default)]
pub(super) struct Quantiles {
    buckets: BTreeMap<u32, u64>,
    count: u64,
}

const SUB_BITS: u32 = 5;

impl Quantiles {
    pub(super) fn observe(&mut self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        *self.buckets.entry(bucket(us)).or_default() += 1;
        self.count += 1;
    }

    /// The upper end of the bucket below which `per_mille` of all lie; `None` without any.
    pub(super) fn at(&self, per_mille: u64) -> Option<Duration> {
        let rank = (self.count.saturating_mul(per_mille)).div_ceil(1000).max(1);
        let mut below = 0;
        for (bucket, count) in &self.buckets {
            below += count;
            if below >= rank {
                return Some(Duration::from_micros(upper_end(*bucket)));
            }
        }
        None
    }
}

/// Exact below 2^SUB_BITS, then 2^SUB_BITS buckets per power of two.
fn bucket(us: u64) -> u32 {
    let exponent = us.checked_ilog2().unwrap_or(0).saturating_sub(SUB_BITS);
    let mantissa = u32::try_from(us >> exponent).unwrap_or(u32::MAX);
    (exponent << SUB_BITS) + mantissa
}

fn upper_end(bucket: u32) -> u64 {
    let exponent = (bucket >> SUB_BITS).saturating_sub(1);
    let mantissa = u64::from(bucket - (exponent << SUB_BITS));
    ((u128::from(mantissa) + 1) << exponent).saturating_sub(1).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_their_values_closely() {
        let mut last = 0;
        for us in (0..200).chain((1..58).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1])) {
            let upper = upper_end(bucket(us));
            assert!(upper >= us && upper - us <= us / 32, "{us} in the bucket up to {upper}");
        }
        for us in 0..100_000 {
            assert!(bucket(us) >= last);
            last = bucket(us);
        }
        assert_eq!(upper_end(bucket(u64::MAX)), u64::MAX);
    }

    #[test]
    fn quantiles_are_ranks() {
        let mut quantiles = Quantiles::default();
        assert_eq!(quantiles.at(500), None);
        for us in 1..=100 {
            quantiles.observe(Duration::from_micros(us));
        }
        assert_eq!(quantiles.at(500), Some(Duration::from_micros(50)));
        assert_eq!(quantiles.at(990), Some(Duration::from_micros(99)));
        assert_eq!(quantiles.at(0), Some(Duration::from_micros(1)));
    }
}
