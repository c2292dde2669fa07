//! What goes wrong in a run: drawn once from its seed, so that runs differ in kind and not only in number.

use std::time::Duration;

/// A fault, when its time comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// A connection is reset.
    Reset,
    /// A node's process dies and starts again a while later.
    Restart,
    /// A node's process stops for a while; its kernel still takes bytes in.
    Stop,
    /// A proxy reads and answers pings, but passes nothing on.
    Freeze,
    /// Nothing passes from one datacenter to another, for a while; TCP delivers it afterwards.
    Cut,
    /// An application takes nothing from its inbox for a while.
    Deaf,
    /// The histories of a connection's two ends differ from now on.
    Desync,
}

impl Fault {
    /// Nobody is told of it: it can only be waited out. After a fault of another kind no attempt may have to wait for its
    /// timeout.
    pub(super) fn is_silent(self) -> bool {
        !matches!(self, Self::Reset | Self::Deaf | Self::Desync)
    }
}

/// The kinds of faults of a run and its rough edges.
#[derive(Clone, Debug)]
pub struct Swarm {
    pub(super) faults: Vec<Fault>,
    /// Mean time between two faults.
    pub(super) every: Duration,
    /// How long a fault lasts at most.
    pub(super) lasts: Duration,
    /// The node's budgets and queues are small.
    pub(super) tight: bool,
    /// The sender may die as well.
    pub(super) origin_dies: bool,
    /// Wall clocks differ by up to an hour.
    pub(super) skew: bool,
}

impl Swarm {
    /// A mixture of faults.
    pub(super) fn draw(rng: &mut fastrand::Rng) -> Self {
        let all = [
            Fault::Reset,
            Fault::Restart,
            Fault::Stop,
            Fault::Freeze,
            Fault::Cut,
            Fault::Deaf,
            Fault::Desync,
        ];
        let silent = rng.u8(..) < 180;
        Self {
            faults: all.into_iter().filter(|fault| rng.bool() && (silent || !fault.is_silent())).collect(),
            every: Duration::from_millis(rng.u64(50..1500)),
            lasts: Duration::from_millis(rng.u64(50..4000)),
            tight: rng.u8(..) < 80,
            origin_dies: rng.u8(..) < 60,
            skew: rng.bool(),
        }
    }

    /// Nothing goes wrong.
    #[must_use]
    pub fn calm() -> Self {
        Self {
            faults: Vec::new(),
            every: Duration::from_secs(3600),
            lasts: Duration::ZERO,
            tight: false,
            origin_dies: false,
            skew: false,
        }
    }
}
