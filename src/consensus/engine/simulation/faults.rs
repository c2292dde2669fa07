//! What goes wrong in a run: drawn from the seed, each kind in some runs and not in others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What happened, by kind. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Counts(Arc<Mutex<BTreeMap<String, u64>>>);

impl Counts {
    pub(super) fn add(&self, kind: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(kind.to_owned()).or_default() += 1;
    }

    /// A fault took effect: something was not as it is without it.
    pub(super) fn struck(&self, fault: Fault) {
        self.add(&format!("{fault:?}"));
    }

    pub(super) fn all(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A process is killed, and started again.
    Kill,
    /// A node loses its power, and with it what was not synced.
    PowerLoss,
    /// The power goes in the middle of a write, a sync or a rename.
    PowerLossAtCall,
    /// All nodes are killed at once.
    KillAll,
    /// A sync fails, and what was to be synced is lost.
    SyncError,
    /// The disk is full, half of a write is there.
    DiskFull,
    /// The disk is slow, up to ten seconds for a sync.
    SlowDisk,
    /// A process stands still, and what arrives meanwhile waits in its buffers. Clients come to it when it goes on.
    Pause,
    /// What one node sends another does not arrive.
    CutOneWay,
    /// A node hears nobody and is heard by nobody.
    CutNode,
    /// A datacenter is cut off.
    CutDatacenter,
    /// A link takes many times as long.
    SlowLink,
    /// All proxies of a datacenter are gone.
    NoProxies,
    /// Everything that was cut or slow is well again.
    Heal,
    /// A wall clock makes a step of up to an hour.
    WallStep,
    /// Another voter is to lead.
    Transfer,
    /// A snapshot is taken, and the log cut.
    Snapshot,
    /// Members change.
    Members,
    /// A node's disks are wiped, and it is put in the place of what it was.
    Wipe,
    /// A record in the middle of a stopped node's log is damaged.
    Damage,
    /// A node's clocks run a quarter slower or a third faster than others.
    ClockApart,
    /// A node is started again with clocks of a quarter of the speed.
    ClockSlow,
    /// A machine is suspended: its monotonic clock stands still, others go on.
    Suspend,
    /// A node takes nothing on bulk for a while, and who sends there is told so.
    Refuse,
    /// A state machine cannot say what its state is.
    NoSnapshot,
}

impl Fault {
    pub(super) const ALL: [Self; 24] = [
        Self::Kill,
        Self::PowerLoss,
        Self::PowerLossAtCall,
        Self::KillAll,
        Self::SyncError,
        Self::DiskFull,
        Self::SlowDisk,
        Self::Pause,
        Self::CutOneWay,
        Self::CutNode,
        Self::CutDatacenter,
        Self::SlowLink,
        Self::NoProxies,
        Self::WallStep,
        Self::Transfer,
        Self::Snapshot,
        Self::Members,
        Self::Damage,
        Self::Wipe,
        Self::ClockApart,
        Self::ClockSlow,
        Self::Suspend,
        Self::Refuse,
        Self::NoSnapshot,
    ];
}

/// Which faults a run has, and how often.
#[derive(Clone, Debug)]
pub(super) struct Swarm {
    pub(super) faults: Vec<Fault>,
    /// Between faults, at most.
    pub(super) pause: Duration,
    /// How long there are faults.
    pub(super) lasts: Duration,
    pub(super) clients: u64,
    /// Between the operations of a client, at most.
    pub(super) client_pause: Duration,
    /// A snapshot is taken after so many entries.
    pub(super) snapshot_entries: u64,
    /// What a disk takes for a sync.
    pub(super) disk: Duration,
}

impl Swarm {
    pub(super) fn draw(luck: &mut fastrand::Rng) -> Self {
        let part = luck.u8(1..=4);
        let mut faults: Vec<_> = Fault::ALL.into_iter().filter(|_| luck.u8(0..4) < part).collect();
        // Often, or nearly nothing would ever be done.
        faults.extend(std::iter::repeat_n(Fault::Heal, 1 + faults.len() / 4));
        Self {
            faults,
            pause: Duration::from_millis(luck.choice([1_000, 2_500, 6_000]).unwrap_or(2_500)),
            lasts: Duration::from_secs(luck.u64(15..60)),
            clients: luck.u64(3..10),
            client_pause: Duration::from_millis(luck.choice([50, 200, 600]).unwrap_or(200)),
            snapshot_entries: luck.choice([20, 60, 200, 100_000]).unwrap_or(60),
            disk: Duration::from_micros(luck.choice([200, 2_000, 8_000]).unwrap_or(2_000)),
        }
    }

    /// These faults alone.
    pub(super) fn only(faults: &[Fault]) -> Self {
        let faults = faults.iter().copied().chain([Fault::Heal]).collect();
        Self { faults, pause: Duration::from_secs(3), lasts: Duration::from_secs(40), ..Self::calm() }
    }

    /// Nothing goes wrong.
    pub(super) fn calm() -> Self {
        Self {
            faults: Vec::new(),
            pause: Duration::from_secs(1),
            lasts: Duration::from_secs(10),
            clients: 4,
            client_pause: Duration::from_millis(100),
            snapshot_entries: 60,
            disk: Duration::from_millis(2),
        }
    }
}
