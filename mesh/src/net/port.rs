//! What the rest of the shell knows of a connection: a bell for its writer, and the word that it is over.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::Notify;

use super::tls::Shown;
use crate::proto::node::{ConnId, Opened};
use crate::stats::connection::SocketStatus;

/// Longest time a farewell may take: writing the last words, and waiting for the peer to have read them.
pub(super) const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Unread input that is thrown away during a farewell. Closing over unread input resets the connection, and a reset
/// destroys the last words on their way; but a peer that never stops sending is not listened to for ever.
const FAREWELL_INPUT_BYTES_MAX: usize = 1024 * 1024;

/// How a connection ends.
#[derive(Debug)]
pub(super) enum End {
    /// At once.
    Now,
    /// After these bytes, whole frames, were given a short time.
    Words(Bytes),
}

/// One connection, from outside.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) id: ConnId,
    /// Rings when the machine may have something to write.
    pub(super) bell: Notify,
    opened: OnceLock<Opened>,
    shown: OnceLock<Shown>,
    socket: OnceLock<Arc<SocketStatus>>,
    end: OnceLock<End>,
    ended: Notify,
}

impl Port {
    pub(super) fn new(id: ConnId) -> Self {
        Self {
            id,
            bell: Notify::new(),
            opened: OnceLock::new(),
            shown: OnceLock::new(),
            socket: OnceLock::new(),
            end: OnceLock::new(),
            ended: Notify::new(),
        }
    }

    /// The handshake is complete.
    pub(super) fn open(&self, opened: Opened) {
        // A connection is opened once.
        let _ = self.opened.set(opened);
    }

    /// What both ends have agreed on, once the handshake is complete.
    pub(super) fn opened(&self) -> Option<&Opened> {
        self.opened.get()
    }

    /// The peer showed this certificate.
    pub(super) fn certify(&self, shown: Shown) {
        // A connection is shaken hands with once.
        let _ = self.shown.set(shown);
    }

    /// The certificate of the peer, once it is verified.
    pub(super) fn shown(&self) -> Option<&Shown> {
        self.shown.get()
    }

    /// The connection has a socket, which took these options.
    pub(super) fn set_up(&self, socket: SocketStatus) {
        // A connection has one socket.
        let _ = self.socket.set(Arc::new(socket));
    }

    /// What the socket took, once there is one.
    pub(super) fn socket(&self) -> Option<&Arc<SocketStatus>> {
        self.socket.get()
    }

    /// Tells the connection's tasks to end. The first word counts.
    pub(super) fn close(&self, end: End) {
        if self.end.set(end).is_ok() {
            self.ended.notify_waiters();
        }
    }

    /// Waits for [`Port::close`].
    pub(super) async fn closing(&self) -> &End {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            // Before the look: a close in between is then not missed.
            ended.as_mut().enable();
            if let Some(end) = self.end.get() {
                return end;
            }
            ended.await;
        }
    }
}

/// Throws input away until the peer ends it, for a short time and a limited number of bytes.
pub(super) async fn linger(input: &mut (impl AsyncRead + Unpin)) {
    let mut scratch = [0; 4096];
    let mut left = FAREWELL_INPUT_BYTES_MAX;
    let discard = async {
        while let Ok(count) = input.read(&mut scratch).await {
            if count == 0 || count >= left {
                break;
            }
            left -= count;
        }
    };
    let _ = tokio::time::timeout(FAREWELL_TIMEOUT, discard).await;
}
