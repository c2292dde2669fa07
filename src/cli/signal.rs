//! SIGTERM and SIGINT: the first asks, the second insists. SIGHUP asks a node to read its file again.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::Failure;

/// Both signals, caught from its creation on.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    pub(super) fn listen() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::Failed(format!("cannot catch signals: {error}")));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// The next of them, by name.
    pub(super) async fn signal(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// From now on the next one ends the process at once, with exit code 1.
    pub(super) fn exit_on_next(mut self) {
        tokio::spawn(async move {
            let name = self.signal().await;
            tracing::warn!("{name} again: exit at once");
            std::process::exit(1);
        });
    }
}

/// SIGHUP, caught from its creation on.
pub(super) struct Hangup(Signal);

impl Hangup {
    pub(super) fn listen() -> Result<Self, Failure> {
        let signal = signal(SignalKind::hangup());
        Ok(Self(signal.map_err(|error| Failure::Failed(format!("cannot catch signals: {error}")))?))
    }

    /// The next one.
    pub(super) async fn signal(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}
