//! The clock guard: says when clocks cannot be trusted. A lease holds as long as clocks run at nearly the same rate; nothing
//! else depends on them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use trunkline_mesh::NodeId;

/// How clocks may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// A step of this node's wall clock against its monotonic one, between two samples.
    pub(super) step: Duration,
    /// What a peer's clock may stand apart from this node's, beyond what the round trip leaves open.
    pub(super) offset: Duration,
    /// By which part of the time that passes two monotonic clocks may drift apart, in thousandths.
    pub(super) drift_per_mille: u32,
    /// How long a fault is remembered.
    pub(super) memory: Duration,
}

impl Default for Bounds {
    /// 500 ms, 1 s, 50 ‰ and one minute.
    fn default() -> Self {
        Self {
            step: Duration::from_millis(500),
            offset: Duration::from_secs(1),
            drift_per_mille: 50,
            memory: Duration::from_secs(60),
        }
    }
}

/// A peer's clock: its wall clock at its start, carried on by its monotonic one, less the same of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) peer: NodeId,
    /// Another life of the peer has another offset, and that is no drift.
    pub(super) life: u64,
    pub(super) offset_us: i64,
    /// Of the question and its answer; the offset is certain to half of it.
    pub(super) rtt_us: u64,
}

/// What is wrong with a clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Stepped { us: i64 },
    Apart { peer: NodeId, us: i64 },
    Drifts { peer: NodeId, us: i64, within: Duration },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: &i64| us / 1_000;
        match self {
            Self::Stepped { us } => write!(f, "this node's wall clock made a step of {} ms", ms(us)),
            Self::Apart { peer, us } => {
                write!(f, "the clock of {peer} stands {} ms apart from this node's", ms(us))
            }
            Self::Drifts { peer, us, within } => {
                write!(f, "the clock of {peer} drifted by {} ms within {within:?}", ms(us))
            }
        }
    }
}

/// The machine. Time is what passed since any moment, by this node's monotonic clock.
#[derive(Debug)]
pub(super) struct ClockGuard {
    bounds: Bounds,
    /// Wall clock less monotonic clock at the last sample, µs.
    wall: Option<i64>,
    peers: BTreeMap<NodeId, Known>,
    /// The last fault.
    fault: Option<Duration>,
}

/// A peer since its drift was last judged.
#[derive(Debug)]
struct Known {
    life: u64,
    at: Duration,
    offset_us: i64,
    rtt_us: u64,
}

/// Time over which a drift is judged: long beside a round trip.
const JUDGED_OVER: Duration = Duration::from_secs(10);

impl ClockGuard {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, wall: None, peers: BTreeMap::new(), fault: None }
    }

    /// Looks at all clocks, about once a second. `wall` is the wall clock since 1970.
    pub(super) fn sample(&mut self, now: Duration, wall: Duration, readings: &[Reading]) -> Vec<Fault> {
        let mut faults = Vec::new();
        let wall = micros(wall) - micros(now);
        if let Some(before) = self.wall.replace(wall)
            && (wall - before).unsigned_abs() > unsigned(self.bounds.step)
        {
            faults.push(Fault::Stepped { us: wall - before });
        }
        self.peers.retain(|peer, _| readings.iter().any(|reading| reading.peer == *peer));
        for reading in readings {
            let Reading { peer, life, offset_us, rtt_us } = reading.clone();
            let beyond = offset_us.unsigned_abs().saturating_sub(rtt_us / 2);
            if beyond > unsigned(self.bounds.offset) {
                faults.push(Fault::Apart { peer: peer.clone(), us: offset_us });
            }
            let fresh = Known { life, at: now, offset_us, rtt_us };
            let Some(known) = self.peers.get(&peer).filter(|known| known.life == life) else {
                self.peers.insert(peer, fresh);
                continue;
            };
            let (within, moved) = (now.saturating_sub(known.at), offset_us.saturating_sub(known.offset_us));
            // Each of the two offsets is certain to half a round trip.
            let certain = moved.unsigned_abs().saturating_sub((rtt_us + known.rtt_us) / 2);
            let allowed = |span: Duration| unsigned(span) / 1_000 * u64::from(self.bounds.drift_per_mille);
            if certain > allowed(within.max(JUDGED_OVER)) {
                faults.push(Fault::Drifts { peer: peer.clone(), us: moved, within });
                self.peers.insert(peer, fresh);
            } else if within >= JUDGED_OVER {
                self.peers.insert(peer, fresh);
            }
        }
        if !faults.is_empty() {
            self.fault = Some(now);
        }
        faults
    }

    /// Clocks can be trusted.
    pub(super) fn is_sure(&self, now: Duration) -> bool {
        self.fault.is_none_or(|at| now.saturating_sub(at) >= self.bounds.memory)
    }
}

fn unsigned(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;
    const EPOCH: u64 = 1_700_000_000_000_000;

    /// One sample a second for so many seconds. `wall` and `peer` say by how many µs the wall clock and the peer's clock are
    /// off in a second.
    fn faults(
        seconds: u64,
        wall: impl Fn(u64) -> i64,
        peer: impl Fn(u64) -> (u64, i64),
    ) -> (Vec<Fault>, bool) {
        let mut guard = ClockGuard::new(Bounds::default());
        let mut all = Vec::new();
        for second in 0..seconds {
            let now = Duration::from_secs(second);
            let (life, offset_us) = peer(second);
            let reading = Reading { peer: NodeId::new("eu-1").unwrap(), life, offset_us, rtt_us: 80_000 };
            let wall = EPOCH.saturating_add_signed(wall(second)) + second * 1_000_000;
            all.extend(guard.sample(now, Duration::from_micros(wall), &[reading]));
        }
        (all, guard.is_sure(Duration::from_secs(seconds)))
    }

    #[test]
    fn clocks_that_are_as_clocks_are_give_no_fault() {
        let noise = |second: u64| i64::try_from(second * 7_919 % 40_000).unwrap() - 20_000;
        // Slewed by 500 millionths, offsets uncertain to half a round trip, and half a second apart.
        let slewed = |second: u64| i64::try_from(second).unwrap() * 500;
        let peer = |second: u64| (1, 500_000 + noise(second) - slewed(second));
        assert_eq!(faults(600, slewed, peer), (vec![], true));
    }

    #[test]
    fn a_step_of_an_hour_is_seen_at_once_and_remembered_for_a_minute() {
        for step in [HOUR, -HOUR] {
            let stepped = |second| if second < 30 { 0 } else { step };
            assert_eq!(faults(35, stepped, |_| (1, 0)), (vec![Fault::Stepped { us: step }], false));
            assert!(!faults(89, stepped, |_| (1, 0)).1);
            assert!(faults(90, stepped, |_| (1, 0)).1);
        }
    }

    #[test]
    fn a_clock_of_twice_the_speed_is_seen_within_seconds() {
        let (found, sure) = faults(8, |_| 0, |second| (1, i64::try_from(second).unwrap() * 1_000_000));
        assert!(matches!(found[0], Fault::Drifts { us: 1_000_000, .. }), "{found:?}");
        assert!(!sure);
        // A tenth of a second in ten is twice what is allowed.
        let (found, _) = faults(15, |_| 0, |second| (1, i64::try_from(second).unwrap() * 100_000));
        assert!(matches!(found[0], Fault::Drifts { .. }), "{found:?}");
    }

    #[test]
    fn a_peer_whose_clock_stands_far_off_is_a_fault_and_its_restart_is_none() {
        let (found, sure) = faults(3, |_| 0, |_| (1, -1_100_000));
        assert_eq!((found.len(), sure), (3, false));
        let restarted = |second| if second < 5 { (1, 900_000) } else { (2, -900_000) };
        assert_eq!(faults(20, |_| 0, restarted), (vec![], true));
    }
}
