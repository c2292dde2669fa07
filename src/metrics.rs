//! The mesh's counters as Prometheus text, copied at each scrape.
//!
//! The mesh counts in plain numbers and knows no metric library; here a [`Collector`](prometheus::core::Collector) of an
//! own registry turns a copy of them into families: counters stay counters, units are seconds and bytes, and every row
//! exists from the start at zero. Label values come from the topology or from fixed lists, so their number is bounded.

mod catalog;
mod collector;
mod family;
mod file;
mod members;
mod replica;
#[cfg(test)]
mod tests;

#[cfg(target_os = "linux")]
use prometheus::process_collector::ProcessCollector;
use prometheus::{Encoder, Registry, TextEncoder};
use trunkline_mesh::{Mesh, Stats, Status};

use crate::consensus;
use collector::Node;
pub(crate) use members::MembersHeard;

/// Why a registry takes a collector.
const UNIQUE: &str = "no two families have the same name, which a test asserts";

/// The registry of one process.
pub struct Metrics {
    registry: Registry,
}

/// One metric family, for references and for tests that hold a document against the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// Full name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Label names.
    pub labels: &'static [&'static str],
    /// In plain words.
    pub help: &'static str,
}

impl Metrics {
    /// Metrics of a running node.
    #[must_use]
    pub fn of(mesh: Mesh) -> Self {
        let metrics = Self::from_source(move || (mesh.stats(), mesh.status()));
        // What every exporter says of its process, under the names that dashboards know.
        #[cfg(target_os = "linux")]
        metrics.registry.register(Box::new(ProcessCollector::for_self())).expect(UNIQUE);
        metrics
    }

    /// Metrics of a replica alone.
    #[must_use]
    pub fn of_replica(status: impl Fn() -> consensus::Status + Send + Sync + 'static) -> Self {
        Self { registry: Registry::new() }.with_replica(status)
    }

    /// Those of a replica too.
    #[must_use]
    pub fn with_replica(self, status: impl Fn() -> consensus::Status + Send + Sync + 'static) -> Self {
        self.registry.register(Box::new(replica::Replica::new(Box::new(status)))).expect(UNIQUE);
        self
    }

    /// Those of what a proxy heard of the members too, while it asks for them.
    #[must_use]
    pub(crate) fn with_members(
        self,
        source: impl Fn() -> Option<MembersHeard> + Send + Sync + 'static,
    ) -> Self {
        self.registry.register(Box::new(members::Members::new(Box::new(source)))).expect(UNIQUE);
        self
    }

    /// Whether the configuration file was refused too, of a node that follows one.
    #[must_use]
    pub(crate) fn with_file(self, refused: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.registry.register(Box::new(file::File::new(Box::new(refused)))).expect(UNIQUE);
        self
    }

    fn from_source(source: impl Fn() -> (Stats, Status) + Send + Sync + 'static) -> Self {
        let registry = Registry::new();
        registry.register(Box::new(Node::new(Box::new(source)))).expect(UNIQUE);
        Self { registry }
    }

    /// The text format 0.0.4.
    ///
    /// # Errors
    /// Text of an encoder that was given a family it cannot write; the scrape is then a failure of this program.
    pub fn scrape(&self) -> Result<Vec<u8>, String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).map_err(|error| error.to_string())?;
        Ok(text)
    }

    /// All families there are, sorted by name.
    #[must_use]
    pub fn described() -> Vec<Described> {
        let mut all: Vec<Described> = catalog::ALL
            .iter()
            .chain(file::ALL)
            .chain(members::ALL)
            .chain(replica::ALL)
            .map(|spec| spec.described())
            .collect();
        all.sort_by_key(|described| described.name);
        all
    }
}
