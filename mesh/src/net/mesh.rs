//! The handle for everything but messages: numbers, and the end.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::shared::Shared;
use super::tls::{Reloaded, Tls, TlsError, wall_s};
use crate::stats::{Stats, Status};

/// A running node. Cheap to clone; when the last handle ([`Client`](super::Client) and [`Inbox`](super::Inbox) hold one
/// each) is dropped, the node closes.
#[derive(Clone)]
pub struct Mesh {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close(false);
    }
}

impl Mesh {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { handle: Arc::new(Handle { shared }) }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// Everything counted since the start. A copy.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = self.shared();
        let accept_errors = shared.accept_errors.load(Ordering::Relaxed);
        let tls = shared.tls.as_ref().map_or_else(Tls::no_stats, |tls| tls.stats(wall_s()));
        Stats { accept_errors, tls, ..shared.look(|core, _| core.node.stats()) }
    }

    /// What the node is and does now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared().look(|core, now| core.node.status(now))
    }

    /// Where the node listens; `None` for an origin that is nothing else.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.shared().local_addr
    }

    /// Reads certificate, key and CA again, as it also happens every [`TlsFiles::check_interval`](super::TlsFiles). If they
    /// are sound, connections that begin from now on use them, on both sides; those that are open go on with what they began
    /// with. For a handler of SIGHUP. Cancel-safe: what was begun is finished.
    ///
    /// # Errors
    /// [`TlsError`]: the new files are not used, the old ones stay in use.
    pub async fn reload(&self) -> Result<Reloaded, TlsError> {
        self.shared().reload().await
    }

    /// Goes away in good order: takes nothing new in, tells all peers, finishes what it has, but for no longer than
    /// `drain_timeout`, then closes. What is undecided then fails with `Closed`. Returns when all sockets are closed.
    ///
    /// Sends that wait for budget fail at once with `Closed`. If the future is dropped, the node stays draining until it
    /// is closed.
    pub async fn drain(&self) {
        let shared = self.shared();
        let _ = shared.with(|core, now| {
            core.draining = true;
            core.waiting.clear();
            if !core.closed {
                core.node.drain(now);
            }
        });
        let finished = async {
            loop {
                let mut quiet = std::pin::pin!(shared.quiet.notified());
                // Before the look: a node that falls quiet in between is then not missed.
                quiet.as_mut().enable();
                if shared.look(|core, _| core.is_quiet()) {
                    return;
                }
                quiet.await;
            }
        };
        if tokio::time::timeout(shared.settings.drain_timeout, finished).await.is_err() {
            tracing::warn!(after = ?shared.settings.drain_timeout, "drain timed out: closing with work undone");
        }
        self.close();
        self.closed().await;
    }

    /// Ends the node now: undecided messages fail with `Closed`, peers are told, the listener closes. Returns at once;
    /// [`Mesh::closed`] waits for the end. What is in the inbox can still be taken.
    pub fn close(&self) {
        self.shared().close(false);
    }

    /// Waits until the node is closed and its last socket with it, at most about two seconds after the close.
    pub async fn closed(&self) {
        self.shared().closed().await;
    }

    /// A fault for tests and demonstrations: a proxy reads batches and forgets them, while its links stay alive.
    #[doc(hidden)]
    pub fn set_frozen(&self, frozen: bool) {
        let _ = self.shared().with(|core, _| core.node.set_frozen(frozen));
    }

    /// A fault for tests and demonstrations: drops every socket at once without a word, as `kill -9` would.
    #[doc(hidden)]
    pub fn kill(&self) {
        self.shared().close(true);
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("local_addr", &self.local_addr()).finish_non_exhaustive()
    }
}
