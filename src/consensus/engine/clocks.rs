//! What this node's clock says to others, and the question of a leader to its voters, once a second, that the clock guard
//! judges.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval};
use trunkline_mesh::Lane;

use super::super::event::Event;
use super::super::guard::{Bounds, ClockGuard, Reading};
use super::super::replica_id::{Place, ReplicaId};
use super::message::Body;
use super::network::Wire;
use super::requests::Requests;
use crate::storage::Disk;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Looks of a leader at its voters before it gives a lease: what drifts is seen from the second one on.
const LOOKS_FIRST: u32 = 2;

/// The wall clock at the start, and the monotonic one since then.
#[derive(Debug)]
pub(super) struct OwnTime {
    started_us: u64,
    start: Instant,
}

impl OwnTime {
    pub(super) fn begin() -> Self {
        Self { started_us: micros(wall()), start: Instant::now() }
    }

    /// For whoever asks.
    pub(super) fn now(&self) -> Body {
        Body::Now { started_us: self.started_us, passed_us: micros(self.start.elapsed()) }
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
    let mut guard = ClockGuard::new(Bounds::default());
    let mut looks = 0;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while requests.is_running() {
        ticks.tick().await;
        let voters = requests.voters_led();
        looks = voters.as_ref().map_or(0, |_| looks + 1);
        let readings = join_all(voters.iter().flatten().map(|voter| ask(wire, voter))).await;
        let readings: Vec<Reading> = readings.into_iter().flatten().collect();
        let now = wire.time.start.elapsed();
        for fault in guard.sample(now, wall(), &readings) {
            tracing::warn!("{fault}: lease reads ask a quorum until clocks can be trusted again");
            wire.events.record(&Event::ClockFault { what: fault.to_string() });
        }
        let (sure, was_sure) = (guard.is_sure(now), requests.clocks_sure.load(Ordering::Relaxed));
        if sure && !was_sure {
            tracing::info!("clocks can be trusted again");
            wire.events.record(&Event::ClocksTrusted);
        }
        requests.clocks_sure.store(sure, Ordering::Relaxed);
        requests.leases.store(sure && looks >= LOOKS_FIRST, Ordering::Relaxed);
    }
}

/// A voter's clock; `None` where it does not answer in time: nor does it confirm a lease then.
async fn ask(wire: &Wire, (replica, place): &(ReplicaId, Place)) -> Option<Reading> {
    let asked = wire.time.start.elapsed();
    let answer = wire.ask((Some(*replica), place), Lane::Control, Body::Time, EVERY).await;
    let Ok((_, Body::Now { started_us, passed_us })) = answer else { return None };
    let answered = wire.time.start.elapsed();
    let here = wire.time.started_us.saturating_add(micros(asked + answered) / 2);
    let there = started_us.saturating_add(passed_us);
    Some(Reading {
        peer: place.node.clone(),
        life: started_us,
        // Far apart is a fault, how far beyond all years is the same.
        offset_us: i64::try_from(i128::from(there) - i128::from(here)).unwrap_or(i64::MAX),
        rtt_us: micros(answered - asked),
    })
}
