//! What this node's clock says to others, and the question of a leader to its voters, once a second, that the clock guard
//! judges.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use trunkline_mesh::{Lane, NodeId};

use super::super::event::Event;
use super::super::guard::{Bounds, ClockGuard, Reading};
use super::super::replica_id::{Place, ReplicaId};
use super::super::time::{Instant, sleep_until};
use super::message::Body;
use super::network::Wire;
use super::requests::Requests;
use crate::storage::Disk;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Looks of a leader at its voters before it gives a lease: what drifts is seen from the second one on.
const LOOKS_FIRST: u32 = 2;

/// The same fault is told once in so long.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// What wall clock and monotonic clock may move apart from one look to a lease.
const STEADY: Duration = Duration::from_millis(100);

/// The wall clock at the start, and the monotonic one since then.
#[derive(Debug)]
pub(super) struct OwnTime {
    started_us: u64,
    start: Instant,
    /// Wall clock less monotonic one at the guard's last look, µs.
    apart_us: AtomicU64,
}

impl OwnTime {
    pub(super) fn begin() -> Self {
        let started_us = micros(wall());
        Self { started_us, start: Instant::now(), apart_us: AtomicU64::new(started_us) }
    }

    fn apart_us(&self) -> u64 {
        micros(wall()).saturating_sub(micros(self.start.elapsed()))
    }

    pub(super) fn look(&self) {
        self.apart_us.store(self.apart_us(), Ordering::Relaxed);
    }

    /// Since the guard's last look the monotonic clock ran as the wall clock did. It stands still while a machine is suspended,
    /// and others wait no longer then.
    pub(super) fn is_steady(&self, step: Duration) -> bool {
        self.apart_us().abs_diff(self.apart_us.load(Ordering::Relaxed)) <= micros(step.min(STEADY))
    }

    /// For whoever asks.
    pub(super) fn now(&self) -> Body {
        let (passed_us, wall_us) = (micros(self.start.elapsed()), micros(wall()));
        Body::Now { started_us: self.started_us, passed_us, wall_us }
    }
}

fn wall() -> Duration {
    #[cfg(test)]
    if let Some(scope) = super::super::tasks::scope::current() {
        return scope.wall();
    }
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// Until the engine stops.
pub(super) async fn watch<D: Disk>(requests: Arc<Requests<D>>) {
    let wire = &requests.wire;
    let mut guard = ClockGuard::new(Bounds { step: requests.step, ..Bounds::default() });
    let mut told: BTreeMap<String, Duration> = BTreeMap::new();
    let mut looks = 0;
    let mut next = Instant::now();
    while requests.is_running() {
        sleep_until(next).await;
        next = Instant::now() + EVERY;
        let led = requests.voters_led();
        let voters = led.iter().flatten();
        let readings = join_all(voters.clone().map(|voter| ask(wire, voter))).await;
        let readings: Vec<Reading> = readings.into_iter().flatten().collect();
        // A leader knows a majority's clocks, itself included, from as many looks in a row.
        let majority = led.as_ref().is_some_and(|others| (readings.len() + 1) * 2 > others.len() + 1);
        looks = if majority { looks + 1 } else { 0 };
        let nodes: Vec<NodeId> = voters.map(|(_, place)| place.node.clone()).collect();
        let now = wire.time.start.elapsed();
        told.retain(|_, at| now.saturating_sub(*at) < TOLD_EVERY);
        for fault in guard.sample(now, wall(), &nodes, &readings) {
            // As long as it lasts, once in a while is enough.
            if told.insert(fault.about(), now).is_none() {
                tracing::warn!("{fault}: lease reads ask a quorum until clocks can be trusted again");
                wire.events.record(&Event::ClockFault { what: fault.to_string() });
            }
        }
        wire.time.look();
        let (sure, was_sure) = (guard.is_sure(now), requests.clocks_sure.load(Ordering::Relaxed));
        if sure && !was_sure {
            tracing::info!("clocks can be trusted again");
            wire.events.record(&Event::ClocksTrusted);
        }
        requests.clocks_sure.store(sure, Ordering::Relaxed);
        requests.leases.store(sure && looks >= LOOKS_FIRST, Ordering::Relaxed);
    }
}

/// A voter's clocks; `None` where it does not answer in time.
async fn ask(wire: &Wire, (replica, place): &(ReplicaId, Place)) -> Option<Reading> {
    let asked = wire.time.start.elapsed();
    let answer = wire.ask((Some(*replica), place), Lane::Control, Body::Time, EVERY).await;
    let Ok((_, Body::Now { started_us, passed_us, wall_us })) = answer else { return None };
    let answered = wire.time.start.elapsed();
    let half = (answered - asked) / 2;
    Some(Reading {
        peer: place.node.clone(),
        life: started_us,
        apart_us: less(wall_us, micros(wall().saturating_sub(half))),
        offset_us: less(passed_us, micros(asked + half)),
        rtt_us: micros(answered - asked),
    })
}

/// Far apart is a fault, how far beyond all years is the same.
fn less(there: u64, here: u64) -> i64 {
    i64::try_from(i128::from(there) - i128::from(here)).unwrap_or(i64::MAX)
}
