//! SIGHUP: the file is read again. What differs is told line by line and taken on; a file that is wrong, or that asks for
//! what only a restart can do, is refused whole.

use std::path::PathBuf;

use tokio::task::{JoinError, JoinHandle};
use trunkline_mesh::{Mesh, NodeId, Reloaded, TlsError, TopologyChangeError};

use super::log::Log;
use super::members::Members;
use super::node::check_limits;
use super::notify::Notifier;
use super::signal::Hangup;
use crate::api::Refusal;
use crate::config::{Config, ConfigError};
use crate::consensus::Replica;
use crate::consensus::key_value::KeyValue;

/// A node that follows its file from one SIGHUP to the next.
pub(super) struct Following<'a> {
    hangup: Hangup,
    reading: Reading,
    file: PathBuf,
    config: Config,
    node: NodeId,
    mesh: Mesh,
    replica: Option<Replica<KeyValue>>,
    members: Option<Members>,
    refusal: Refusal,
    log: &'a Log,
}

impl<'a> Following<'a> {
    /// From what the node was started with. `hangup` was caught before that began.
    pub(super) fn new(
        hangup: Hangup,
        file: PathBuf,
        config: Config,
        node: NodeId,
        mesh: Mesh,
        log: &'a Log,
    ) -> Self {
        let (reading, refusal) = (Reading::default(), Refusal::default());
        Self { hangup, reading, file, config, node, mesh, replica: None, members: None, refusal, log }
    }

    /// The node has a replica, whose members the mesh knows beside the file's.
    pub(super) fn with_replica(self, replica: Replica<KeyValue>) -> Self {
        Self { replica: Some(replica), ..self }
    }

    /// The node is a proxy, whose mesh knows beside the file's nodes who joined.
    pub(super) fn with_members(self, members: Option<Members>) -> Self {
        Self { members, ..self }
    }

    /// What stands against the file as it was read last is told by others too.
    pub(super) fn with_refusal(self, refusal: Refusal) -> Self {
        Self { refusal, ..self }
    }

    /// Goes on by one step; waits until there is one. `line` is what a service manager is told again, behind what was refused. Cancel-safe.
    pub(super) async fn step(&mut self, notifier: &Notifier, line: &str) {
        let read = tokio::select! {
            () = self.hangup.signal() => {
                notifier.reloading();
                return self.reading.begin(self.file.clone());
            }
            read = self.reading.end() => read,
        };
        match read {
            Read::Config(read) => {
                self.reload(*read);
                self.reading.begin_certificates(&self.mesh);
            }
            Read::Certificates(read) => {
                tell_of_certificates(read);
                if self.reading.take_again() {
                    self.reading.begin(self.file.clone());
                } else {
                    // Not of certificates: the mesh looks at them by itself, and nobody would take the word back. And a file may have
                    // many faults: the log has all of them.
                    let why = self.refusal.why();
                    let why = why.as_deref().and_then(|why| why.lines().next());
                    let refused =
                        why.map(|why| format!("reload refused, the old configuration stays: {why}; "));
                    notifier.ready(&(refused.unwrap_or_default() + line));
                }
            }
        }
    }

    /// Goes on with the configuration that was read, if that can be.
    fn reload(&mut self, read: Result<Result<Config, ConfigError>, JoinError>) {
        let taken = self.take(read);
        self.refusal.set(taken.as_ref().err().map(ToString::to_string));
        match taken {
            Ok(lines) if lines.is_empty() => tracing::info!("reload: the file says what it said"),
            Ok(lines) => {
                for line in &lines {
                    tracing::info!("reload: {line}");
                }
                tracing::info!(differences = lines.len(), "reloaded");
            }
            Err(error) => tracing::error!("reload refused, the old configuration stays: {error}"),
        }
    }

    fn take(
        &mut self,
        read: Result<Result<Config, ConfigError>, JoinError>,
    ) -> Result<Vec<String>, ReloadError> {
        let next = read??;
        if next.topology().node(&self.node).is_none() {
            return Err(ReloadError::NotListed(self.node.clone()));
        }
        let difference = self.config.difference(&next, &self.node);
        if !difference.refused.is_empty() {
            return Err(ReloadError::NeedsRestart(difference.refused));
        }
        // The only step that may still be refused comes first. The settings were checked with the file.
        match (&self.replica, &self.members) {
            (Some(replica), _) => {
                check_limits(&next).map_err(ReloadError::TooSmall)?;
                replica.set_topology(next.topology())?;
            }
            (None, Some(members)) => members.set_file(&next)?,
            (None, None) => drop(self.mesh.set_topology(std::sync::Arc::clone(next.topology()))?),
        }
        if let Err(error) = self.mesh.set_settings(next.settings()) {
            tracing::error!(%error, "defect: checked limits are refused");
        }
        self.log.follow(next.log_level());
        self.config = next;
        Ok(difference.lines)
    }
}

/// Why the old configuration stays.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("node {0}, which this process is, is not in the file: put it back, or stop the process")]
    NotListed(NodeId),
    #[error("only a restart changes {}", .0.join(", "))]
    NeedsRestart(Vec<String>),
    #[error(transparent)]
    Topology(#[from] TopologyChangeError),
    #[error("{0}")]
    TooSmall(String),
    #[error("the file could not be read: {0}")]
    Ended(#[from] JoinError),
}

/// Reads files, one after the other, beside all else: one may be a pipe that says nothing for long. First the configuration,
/// then, once that was taken on or refused, the certificates.
#[derive(Default)]
struct Reading {
    config: Option<JoinHandle<Result<Config, ConfigError>>>,
    certificates: Option<JoinHandle<Result<Reloaded, TlsError>>>,
    again: bool,
}

/// What was read, or not.
enum Read {
    Config(Box<Result<Result<Config, ConfigError>, JoinError>>),
    Certificates(Result<Result<Reloaded, TlsError>, JoinError>),
}

impl Reading {
    /// Begins; or, where one is under way that may miss what is new, once that has ended.
    fn begin(&mut self, file: PathBuf) {
        if self.config.is_some() || self.certificates.is_some() {
            self.again = true;
            return;
        }
        self.config = Some(tokio::task::spawn_blocking(move || Config::load(&file)));
    }

    /// Goes on with the certificates.
    fn begin_certificates(&mut self, mesh: &Mesh) {
        let mesh = mesh.clone();
        self.certificates = Some(tokio::spawn(async move { mesh.reload().await }));
    }

    /// What was read. Waits for ever where nothing is under way. Cancel-safe.
    async fn end(&mut self) -> Read {
        if let Some(task) = &mut self.config {
            let read = task.await;
            self.config = None;
            return Read::Config(Box::new(read));
        }
        if let Some(task) = &mut self.certificates {
            let read = task.await;
            self.certificates = None;
            return Read::Certificates(read);
        }
        std::future::pending().await
    }

    /// It was asked for once more meanwhile.
    fn take_again(&mut self) -> bool {
        std::mem::take(&mut self.again)
    }
}

/// Says so if the certificates were not taken; that they were says the mesh. It looks by itself as well, only later,
/// and then keeps the first refusal to itself: two files may be half replaced.
fn tell_of_certificates(read: Result<Result<Reloaded, TlsError>, JoinError>) {
    match read {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::error!("certificates refused, the old ones stay: {error}"),
        Err(error) => tracing::error!("certificates could not be read, the old ones stay: {error}"),
    }
}
