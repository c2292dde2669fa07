//! Where a replica's work runs: tasks on the engine's runtime, and on other threads what waits for a disk.
//!
//! In the simulation both are tasks of one node, which are paused and killed with it.

#[cfg(test)]
pub(super) mod scope;

use std::future::Future;
use std::io;

use tokio::runtime::Handle;

/// Spawns onto a runtime from wherever it is called.
pub(super) struct Spawner {
    runtime: Handle,
    #[cfg(test)]
    scope: Option<scope::Scope>,
}

impl Spawner {
    /// # Panics
    ///
    /// Outside of a runtime.
    pub(super) fn current() -> Self {
        Self {
            runtime: Handle::current(),
            #[cfg(test)]
            scope: scope::current(),
        }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        #[cfg(test)]
        if let Some(scope) = &self.scope {
            return drop(self.runtime.spawn(scope.run_for_ever(task)));
        }
        self.runtime.spawn(task);
    }
}

pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    Spawner::current().spawn(task);
}

/// Work that waits for a disk, away from the thread that heartbeats are sent from.
///
/// # Errors
///
/// Where it panicked.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    #[cfg(test)]
    if let Some(scope) = scope::current() {
        return Ok(scope.wait_for_disk(work).await);
    }
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}
