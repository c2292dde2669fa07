//! One TOML file for all nodes of a cluster: raw text → checked [`Config`], once.
//!
//! The file says who is in the cluster, where everybody listens, and what the limits and timers are. It is the same on
//! every node; which of its nodes a process is comes from `--node`. Whatever is wrong with it is told at once, with line,
//! column, key and remedy. What it does not do: resolve names.

mod change;
mod choose;
mod consensus;
mod field;
mod lines;
mod log;
mod node;
mod problem;
mod reader;
mod security;
mod settings;
pub mod units;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use trunkline_mesh::{ClusterId, NodeId, NodeSpec, Settings, TlsFiles, Topology};

pub use change::Difference;
pub(crate) use choose::held;
pub use choose::{ChooseError, Role};
pub(crate) use log::parse_level;
pub use problem::{Problem, Problems};
pub(crate) use reader::nearest;

use crate::consensus::Timing;
use node::Node;
use reader::{Entry, Reader, Section};
pub use security::Protection;
use security::Security;

/// No more of a file is read, MiB: a thousand nodes take some 200 KiB.
const FILE_MIB_MAX: u64 = 16;

/// A configuration file, checked.
#[derive(Clone, Debug)]
pub struct Config {
    path: PathBuf,
    topology: Arc<Topology>,
    settings: Settings,
    timing: Timing,
    nodes: BTreeMap<NodeId, Local>,
    security: Security,
    log_level: Option<String>,
}

/// What the file says of one node beyond the topology.
#[derive(Clone, Debug)]
struct Local {
    admin: Option<SocketAddr>,
    listen: Option<SocketAddr>,
    api: Option<SocketAddr>,
    data: Option<PathBuf>,
    line: usize,
}

/// A file that is no configuration. Nothing was started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read. Give another path, or mend its permissions.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The file is larger than any configuration, or has no end, as a device. Give another path.
    #[error(
        "the configuration file {} goes on after {FILE_MIB_MAX} MiB, and no configuration does: give another path",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file was read and says something wrong; all of it is listed.
    #[error("{0}")]
    Invalid(Problems),
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`], with everything that is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        use std::io::Read;
        let unreadable = |source| ConfigError::Read { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut bytes = Vec::new();
        // The length that a file claims is not asked: a pipe is as good, and a device claims none.
        let bytes_max = FILE_MIB_MAX * 1024 * 1024;
        file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > bytes_max {
            return Err(ConfigError::TooLarge { path: path.to_owned() });
        }
        Self::parse(path, &bytes).map_err(ConfigError::Invalid)
    }

    /// Checks the content of a file; `path` is for messages.
    ///
    /// # Errors
    /// [`Problems`]: everything that is wrong.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Problems> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| problem::not_utf8(path, bytes, error.valid_up_to()))?;
        let mut reader = Reader::new(path, text);
        let config = match reader.document() {
            Some(document) => check(&mut reader, path, document.get_ref()),
            None => None,
        };
        match (config, reader.into_problems()) {
            (Some(config), problems) if problems.is_empty() => Ok(config),
            (_, problems) => Err(problems),
        }
    }

    /// The file it came from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who is in the cluster.
    #[must_use]
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// Limits and timers.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What compresses bulk batches to other datacenters, as the file says it.
    #[must_use]
    pub fn second_stage(&self) -> &'static str {
        field::stage_name(self.settings.second_stage)
    }

    /// Where a node serves its admin API, if it does.
    #[must_use]
    pub fn admin(&self, node: &NodeId) -> Option<SocketAddr> {
        self.nodes.get(node)?.admin
    }

    /// How a node's admin API is protected: within TLS where there are certificates and others than its own machine could
    /// reach it, or if the file wants it always; in plaintext on loopback, and elsewhere if the file says so.
    #[must_use]
    pub fn admin_protection(&self, node: &NodeId) -> Protection {
        self.admin(node).map_or(Protection::Plaintext, |address| self.security.of_admin(address))
    }

    /// Where a replica serves its API for clients, if it does.
    #[must_use]
    pub fn api(&self, node: &NodeId) -> Option<SocketAddr> {
        self.nodes.get(node)?.api
    }

    /// How that API is protected: as the admin API is.
    #[must_use]
    pub fn api_protection(&self, node: &NodeId) -> Protection {
        self.api(node).map_or(Protection::Plaintext, |address| self.security.of_admin(address))
    }

    /// A replica's data directory, relative to where the file is; `None` for a node that is no replica.
    #[must_use]
    pub fn data(&self, node: &NodeId) -> Option<PathBuf> {
        let data = self.nodes.get(node)?.data.as_ref()?;
        Some(self.path.parent().unwrap_or(Path::new("")).join(data))
    }

    /// How replicas behave.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// All replicas of the file.
    pub fn replicas(&self) -> impl Iterator<Item = &NodeId> {
        self.nodes.iter().filter(|(_, local)| local.data.is_some()).map(|(node, _)| node)
    }

    /// Where a node listens, if not at its address.
    #[must_use]
    pub fn listen(&self, node: &NodeId) -> Option<SocketAddr> {
        self.nodes.get(node)?.listen
    }

    /// The line on which a node begins.
    #[must_use]
    pub fn line(&self, node: &NodeId) -> Option<usize> {
        Some(self.nodes.get(node)?.line)
    }

    /// Plaintext beyond loopback is allowed: for links and admin API, or, where there are certificates, for the latter alone.
    #[must_use]
    pub fn insecure(&self) -> bool {
        self.security.insecure
    }

    /// Links are within TLS, with the certificates that the file names.
    #[must_use]
    pub fn tls(&self) -> bool {
        self.security.is_tls()
    }

    /// Every node has certificate or key at a path of its own.
    #[must_use]
    pub fn tls_per_node(&self) -> bool {
        self.security.is_per_node()
    }

    /// Where a node finds certificate, key and CA; `None` without TLS. Whether they are there is not looked at.
    #[must_use]
    pub fn tls_files(&self, node: &NodeId) -> Option<TlsFiles> {
        self.security.files(&self.path, node)
    }

    /// How much is logged, if the file says so.
    #[must_use]
    pub fn log_level(&self) -> Option<&str> {
        self.log_level.as_deref()
    }

    /// What the mesh needs to start one node.
    #[must_use]
    pub fn mesh(&self, node: &NodeSpec) -> trunkline_mesh::Config {
        let mut config = trunkline_mesh::Config::new(Arc::clone(&self.topology), node.id.clone());
        config.settings = self.settings.clone();
        config.listen = self.listen(&node.id);
        config.security = match self.tls_files(&node.id) {
            Some(files) => trunkline_mesh::Security::Tls(files),
            None if self.insecure() => trunkline_mesh::Security::Insecure,
            None => trunkline_mesh::Security::Loopback,
        };
        config
    }
}

/// Walks the whole document, reporting as it goes. `None` only if something was reported.
fn check(reader: &mut Reader<'_>, path: &Path, document: &toml::de::DeTable<'_>) -> Option<Config> {
    let root = Section::root(document);
    reader.known_keys(
        &root,
        &["cluster", "security", "limits", "timers", "sockets", "codec", "consensus", "log", "node"],
    );
    let cluster = cluster(reader, &root);
    let security = security::read(reader, &root);
    let settings = settings::read(reader, &root);
    let timing = consensus::read(reader, &root);
    let log_level = log::read(reader, &root);
    let (nodes, addresses) = node::read_all(reader, &root);
    security::check(reader, &security, &addresses);
    // What is wrong with the nodes does not depend on the name of the cluster.
    let named = cluster.clone().or_else(|| ClusterId::new("unnamed").ok())?;
    let topology = node::topology(reader, named, &nodes);
    let (topology, _) = (topology?, cluster?);
    let nodes = nodes.into_iter().map(|node: Node| (node.spec.id, node.local)).collect();
    Some(Config {
        path: path.to_owned(),
        topology: Arc::new(topology),
        settings: settings?,
        timing: timing?,
        nodes,
        security,
        log_level,
    })
}

fn cluster(reader: &mut Reader<'_>, root: &Section<'_>) -> Option<ClusterId> {
    const REMEDY: &str = "name the cluster: `[cluster]` with `id = \"example\"`, the same on every node";
    let Some(section) = reader.section(root, "cluster") else {
        if root.get("cluster").is_none() {
            reader.report_missing(&Entry::at_start("cluster"), "missing", REMEDY);
        }
        return None;
    };
    reader.known_keys(&section, &["id"]);
    let (entry, text) = reader.required_text(&section, "id", "\"example\"")?;
    match ClusterId::new(text) {
        Ok(id) => Some(id),
        Err(error) => {
            reader.report_error(&entry, &error.to_string());
            None
        }
    }
}
