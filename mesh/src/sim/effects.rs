//! What happened in a run: a fault that is drawn and meets nobody shows nothing, nor does a rule whose case never comes.

use std::collections::BTreeMap;

use super::faults::Fault;
use crate::message::Route;

/// Something that a rule is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Effect {
    /// A fault was done to somebody who noticed.
    Fault(Fault),
    /// What went from one node to another was held up by a cut.
    HeldUp,
    /// A frame was not that of its connection's history.
    OutOfStep,
    /// A frame was damaged.
    Damaged,
    /// A member got what it had, and dropped it.
    Duplicate,
    /// A member had something behind a gap.
    Gap,
    /// A member skipped what its sender had given up.
    Skipped,
    /// A proxy refused what it had no room for in all its queues together.
    ProxyFull,
    /// A message was delivered through a proxy of its destination's datacenter.
    ByProxy,
    /// The same, and the one before it through another one.
    ByAnotherProxy,
    /// Straight to its destination.
    Direct,
    /// By the way back.
    Back,
    /// After more than one attempt.
    Again,
    /// It was looked at how long a message took whose datacenter a fault of that time did not touch.
    Untouched,
}

impl Effect {
    /// All that has to happen in some run of many.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let others = [
            Self::HeldUp,
            Self::OutOfStep,
            Self::Damaged,
            Self::Duplicate,
            Self::Gap,
            Self::Skipped,
            Self::ProxyFull,
            Self::ByProxy,
            Self::ByAnotherProxy,
            Self::Direct,
            Self::Back,
            Self::Again,
            Self::Untouched,
        ];
        Fault::ALL.into_iter().map(Self::Fault).chain(others)
    }

    /// By which way a message was delivered.
    pub(super) fn of_route(route: &Route) -> Self {
        match route {
            Route::Proxy(_) => Self::ByProxy,
            Route::Back(_) => Self::Back,
            Route::Direct => Self::Direct,
        }
    }
}

/// How often each happened.
#[derive(Debug, Default)]
pub(super) struct Effects(BTreeMap<Effect, u64>);

impl Effects {
    /// It did.
    pub(super) fn count(&mut self, effect: Effect) {
        self.count_many(effect, 1);
    }

    /// It did, so often.
    pub(super) fn count_many(&mut self, effect: Effect, times: u64) {
        *self.0.entry(effect).or_default() += times;
    }

    /// By name, also what never happened.
    pub(super) fn by_name(&self) -> BTreeMap<String, u64> {
        let times = |effect: Effect| self.0.get(&effect).copied().unwrap_or_default();
        Effect::all().map(|effect| (format!("{effect:?}"), times(effect))).collect()
    }
}
