//! SIGHUP: the file is read again. What differs is told line by line and taken on; a file that is wrong, or that asks for
//! what only a restart can do, is refused whole.

use std::path::PathBuf;

use tokio::task::JoinHandle;
use trunkline_mesh::{Mesh, NodeId, TopologyChangeError};

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
    Ended(#[from] tokio::task::JoinError),
}

/// Reads files, one at a time, beside all else: one may be a pipe that says nothing for long.
#[derive(Default)]
pub(super) struct Reading {
    task: Option<JoinHandle<Result<Config, ConfigError>>>,
    again: bool,
}

/// A file that was read, or not.
pub(super) struct Read(Result<Result<Config, ConfigError>, tokio::task::JoinError>);

impl Reading {
    /// Begins; or, where one is under way that may miss what is new, once that has ended.
    pub(super) fn begin(&mut self, file: PathBuf) {
        if self.task.is_some() {
            self.again = true;
            return;
        }
        self.task = Some(tokio::task::spawn_blocking(move || Config::load(&file)));
    }

    /// The file that was read. Waits for ever where none is under way. Cancel-safe.
    pub(super) async fn end(&mut self) -> Read {
        match &mut self.task {
            Some(task) => {
                let read = task.await;
                self.task = None;
                Read(read)
            }
            None => std::future::pending().await,
        }
    }

    /// It was asked for once more meanwhile.
    pub(super) fn take_again(&mut self) -> bool {
        std::mem::take(&mut self.again)
    }
}

/// Goes on with what was read, if that can be.
pub(super) fn reload(read: Read, current: &mut Config, node: &NodeId, mesh: &Mesh, log: &Log) {
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

/// Goes on with new certificates, if they changed and are sound, which the mesh logs. It looks by itself as well, only later,
/// and then keeps the first refusal to itself: two files may be half replaced.
pub(super) async fn reload_certificates(mesh: &Mesh) {
    if let Err(error) = mesh.reload().await {
        tracing::error!("certificates refused, the old ones stay: {error}");
    }
}

fn take(
    read: Read,
    current: &mut Config,
    node: &NodeId,
    mesh: &Mesh,
    log: &Log,
) -> Result<Vec<String>, ReloadError> {
    let next = read.0??;
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
