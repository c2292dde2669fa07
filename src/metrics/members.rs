//! What a proxy heard of the members → metric families, on proxies that ask for them.

use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::catalog::catalog;
use super::family::{Spec, float};

catalog! {
    AGE = gauge("proxy_members_age_seconds", [],
        "Time since a node that is ready told this proxy who is in the cluster; before the first time, since this proxy started.");
    INDEX = gauge("proxy_members_index", [],
        "The entry of the log whose members this proxy knows; 0 before the first.");
    JOINED = gauge("proxy_members_joined", [],
        "Nodes that this proxy knows because they joined, and not by its file.");
    FAILED = counter("proxy_members_failed_total", [],
        "Times that this proxy asked all nodes with an API who is in the cluster, and none that is ready told it.");
}

/// What a proxy heard of the members until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MembersHeard {
    /// Since it last heard of them.
    pub(crate) age: Duration,
    /// The entry that says who they are.
    pub(crate) index: u64,
    /// Nodes of them that its file does not name.
    pub(crate) joined: usize,
    /// Times that it asked in vain.
    pub(crate) failed: u64,
}

/// Where the numbers come from; `None` while nobody is asked.
pub(super) type Source = Box<dyn Fn() -> Option<MembersHeard> + Send + Sync>;

/// All families of a proxy that follows the members.
pub(super) struct Members {
    descs: Vec<Desc>,
    source: Source,
}

impl Members {
    pub(super) fn new(source: Source) -> Self {
        Self { descs: ALL.iter().map(|spec| spec.desc()).collect(), source }
    }
}

impl Collector for Members {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        (self.source)().map_or_else(Vec::new, |heard| families(&heard))
    }
}

fn families(heard: &MembersHeard) -> Vec<MetricFamily> {
    vec![
        AGE.family().value(&[], heard.age.as_secs_f64()).done(),
        INDEX.family().value(&[], float(heard.index)).done(),
        JOINED.family().value(&[], float(heard.joined as u64)).done(),
        FAILED.family().count(&[], heard.failed).done(),
    ]
}
