//! SIGHUP: the file is read again. What differs is told line by line and taken on; a file that is wrong, or that asks for
//! what only a restart can do, is refused whole.

use std::path::PathBuf;

use tokio::task::{JoinError, JoinHandle};
use trunkline_mesh::{Mesh, NodeId, Reloaded, TlsError, TopologyChangeError};

use super::log::Log;
use crate::config::{Config, ConfigError};

/// Why the old configuration stays.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("only a restart changes {}", .0.join(", "))]
    NeedsRestart(Vec<String>),
    #[error(transparent)]
    Topology(#[from] TopologyChangeError),
    #[error("the file could not be read: {0}")]
    Ended(#[from] JoinError),
}

/// Reads files, one after the other, beside all else: one may be a pipe that says nothing for long. First the configuration,
/// then, once that was taken on or refused, the certificates.
#[derive(Default)]
pub(super) struct Reading {
    config: Option<JoinHandle<Result<Config, ConfigError>>>,
    certificates: Option<JoinHandle<Result<Reloaded, TlsError>>>,
    again: bool,
}

/// What was read, or not.
pub(super) enum Read {
    Config(Box<Result<Result<Config, ConfigError>, JoinError>>),
    Certificates(Result<Result<Reloaded, TlsError>, JoinError>),
}

impl Reading {
    /// Begins; or, where one is under way that may miss what is new, once that has ended.
    pub(super) fn begin(&mut self, file: PathBuf) {
        if self.config.is_some() || self.certificates.is_some() {
            self.again = true;
            return;
        }
        self.config = Some(tokio::task::spawn_blocking(move || Config::load(&file)));
    }

    /// Goes on with the certificates.
    pub(super) fn begin_certificates(&mut self, mesh: &Mesh) {
        let mesh = mesh.clone();
        self.certificates = Some(tokio::spawn(async move { mesh.reload().await }));
    }

    /// What was read. Waits for ever where nothing is under way. Cancel-safe.
    pub(super) async fn end(&mut self) -> Read {
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
    pub(super) fn take_again(&mut self) -> bool {
        std::mem::take(&mut self.again)
    }
}

/// Goes on with the configuration that was read, if that can be.
pub(super) fn reload(
    read: Result<Result<Config, ConfigError>, JoinError>,
    current: &mut Config,
    node: &NodeId,
    mesh: &Mesh,
    log: &Log,
) {
    match take(read, current, node, mesh, log) {
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

/// Says so if the certificates were not taken; that they were says the mesh. It looks by itself as well, only later, and then
/// keeps the first refusal to itself: two files may be half replaced.
pub(super) fn tell_of_certificates(read: Result<Result<Reloaded, TlsError>, JoinError>) {
    match read {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::error!("certificates refused, the old ones stay: {error}"),
        Err(error) => tracing::error!("certificates could not be read, the old ones stay: {error}"),
    }
}

fn take(
    read: Result<Result<Config, ConfigError>, JoinError>,
    current: &mut Config,
    node: &NodeId,
    mesh: &Mesh,
    log: &Log,
) -> Result<Vec<String>, ReloadError> {
    let next = read??;
    let difference = current.difference(&next, node);
    if !difference.refused.is_empty() {
        return Err(ReloadError::NeedsRestart(difference.refused));
    }
    // The only step that may still be refused comes first. The settings were checked with the file.
    mesh.set_topology(std::sync::Arc::clone(next.topology()))?;
    if let Err(error) = mesh.set_settings(next.settings()) {
        tracing::error!(%error, "defect: checked limits are refused");
    }
    log.follow(next.log_level());
    *current = next;
    Ok(difference.lines)
}
