//! What goes wrong in a run: drawn once from its seed, so that runs differ in kind and not only in number.

use std::time::Duration;

/// A fault, when its time comes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Fault {
    /// A connection is reset.
    Reset,
    /// A node's process dies and starts again a while later. Half of the time its machine dies with it: nobody is told.
    Restart,
    /// A node goes away in good order, and starts again a while later.
    Drain,
    /// A node dies and starts again and again, within moments.
    Flap,
    /// All proxies of all datacenters die at once, or stop.
    Exodus,
    /// A node's process stops for a while; its kernel still takes bytes in.
    Stop,
    /// The sender itself stops, for a moment.
    Lag,
    /// A proxy reads and answers pings, but passes nothing on.
    Freeze,
    /// Nothing passes from one datacenter to another, for a while; TCP delivers it afterwards.
    Cut,
    /// The same between one node and some of the others, in one direction or both.
    Part,
    /// One direction of one stream passes nothing, for a while; the others do.
    Stall,
    /// An application takes nothing from its inbox for a while.
    Deaf,
    /// An application takes one message every few milliseconds, for a while.
    Slow,
    /// The histories of a connection's two ends differ from now on.
    Desync,
    /// A bit flips under way, and TCP does not see it.
    Corrupt,
    /// A node, or a whole datacenter, is taken out of the topology and comes back a while later, perhaps elsewhere.
    Leave,
    /// A node's settings are reloaded, and are others.
    Reload,
}

impl Fault {
    pub(super) const ALL: [Self; 17] = [
        Self::Reset,
        Self::Restart,
        Self::Drain,
        Self::Flap,
        Self::Exodus,
        Self::Stop,
        Self::Lag,
        Self::Freeze,
        Self::Cut,
        Self::Part,
        Self::Stall,
        Self::Deaf,
        Self::Slow,
        Self::Desync,
        Self::Corrupt,
        Self::Leave,
        Self::Reload,
    ];

    /// Nobody is told of it: it can only be waited out. After a fault of another kind no attempt may have to wait for its
    /// timeout.
    pub(super) fn is_silent(self) -> bool {
        !matches!(
            self,
            Self::Reset | Self::Deaf | Self::Slow | Self::Desync | Self::Corrupt | Self::Drain | Self::Leave
        )
    }
}

/// How the monotonic clocks of nodes run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Drift {
    None,
    /// Each up to one in a thousand off, as clocks are.
    Each,
    /// One runs at half or double speed.
    One,
}

/// The kinds of faults of a run and its rough edges.
#[derive(Clone, Debug)]
pub struct Swarm {
    pub(super) faults: Vec<Fault>,
    /// Mean time between two faults.
    pub(super) every: Duration,
    /// How long a fault lasts at most.
    pub(super) lasts: Duration,
    /// For how long faults begin. Minutes in some runs, with little load, and faults as long.
    pub(super) faulty: Duration,
    /// The node's budgets and queues are small.
    pub(super) tight: bool,
    /// Every setting of every node is drawn.
    pub(super) wild: bool,
    /// The sender may die as well.
    pub(super) origin_dies: bool,
    /// A second node sends too.
    pub(super) two_origins: bool,
    /// Members of all datacenters answer whoever sends to them.
    pub(super) answers: bool,
    /// Some answers are long and come back in what is sent to all of a datacenter, and most nodes know of echoes; else none does.
    pub(super) echoes: bool,
    /// Those that do not, a bit for each host.
    pub(super) echoless: u64,
    /// A destination has two slots; else one.
    pub(super) two_slots: bool,
    /// Wall clocks differ by up to an hour.
    pub(super) skew: bool,
    pub(super) drift: Drift,
    /// Between two datacenters, bytes per second.
    pub(super) bandwidth: Option<u64>,
}

impl Swarm {
    /// A mixture of faults.
    pub(super) fn draw(rng: &mut fastrand::Rng) -> Self {
        let silent = rng.u8(..) < 190;
        // Many kinds at once hide each other: half of the runs have few.
        let share = if rng.bool() { 128 } else { 40 };
        let faults: Vec<Fault> = Fault::ALL
            .into_iter()
            .filter(|fault| rng.u8(..) < share && (silent || !fault.is_silent()))
            .collect();
        let long = rng.u8(..) < 16;
        let scale = if long { 30 } else { 1 };
        // Drawn aside: a seed without answers is the run that it was before there were any.
        let mut aside = fastrand::Rng::with_seed(rng.clone().u64(..));
        let answers = aside.u8(..) < 100;
        let echoes = aside.bool();
        Self {
            answers,
            echoes,
            // One in eight.
            echoless: aside.u64(..) & aside.u64(..) & aside.u64(..),
            two_slots: aside.u8(..) < 40,
            faults,
            every: Duration::from_millis(rng.u64(50..1500)) * scale,
            lasts: Duration::from_millis(rng.u64(50..4000)) * scale,
            faulty: Duration::from_secs(8) * scale,
            tight: rng.u8(..) < 80,
            wild: rng.u8(..) < 80,
            origin_dies: rng.u8(..) < 60,
            two_origins: rng.u8(..) < 80,
            skew: rng.bool(),
            drift: match rng.u8(..) {
                0..60 => Drift::Each,
                60..90 => Drift::One,
                _ => Drift::None,
            },
            bandwidth: (rng.u8(..) < 60).then(|| rng.u64(600_000..5_000_000)),
        }
    }

    /// Nothing goes wrong.
    #[must_use]
    pub fn calm() -> Self {
        Self {
            faults: Vec::new(),
            every: Duration::from_secs(3600),
            lasts: Duration::ZERO,
            faulty: Duration::from_secs(8),
            tight: false,
            wild: false,
            origin_dies: false,
            two_origins: false,
            answers: false,
            echoes: false,
            echoless: 0,
            two_slots: false,
            skew: false,
            drift: Drift::None,
            bandwidth: None,
        }
    }

    /// Nothing goes wrong, and members answer.
    #[must_use]
    pub fn calm_with_answers() -> Self {
        Self { answers: true, ..Self::calm() }
    }

    /// Nothing goes wrong, and much of what members answer comes back to them.
    #[must_use]
    pub fn calm_with_echoes() -> Self {
        Self { echoes: true, ..Self::calm_with_answers() }
    }

    /// Limits are far above what is sent.
    pub(super) fn is_roomy(&self) -> bool {
        !self.tight && !self.wild && !self.faults.contains(&Fault::Reload)
    }

    /// Something may be done of which nobody is told.
    pub(super) fn is_silent(&self) -> bool {
        self.faults.iter().any(|fault| fault.is_silent())
    }

    /// Nothing is late but for what was done to it.
    pub(super) fn is_prompt(&self) -> bool {
        !self.wild && self.drift == Drift::None && self.bandwidth.is_none()
    }
}
