//! Connections within TLS that are no links: of a service that a program runs beside the mesh, such as its admin API, with the
//! node's own certificates.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use super::certificate::CertificateError;
use super::failure::{TlsFailure, alert};
use super::{Certified, Credentials, Door, Gate, Shown, Tls, connect};
use crate::id::SpiffeId;

/// A connection within TLS whose peer showed a certificate of the cluster and proved to hold it.
pub struct Secured<S> {
    stream: TlsStream<Gate<S>>,
    peer: SpiffeId,
    shown: Arc<Shown>,
}

/// The certificate of a caller, apart from its connection: see [`Mesh::until_distrusted`](crate::Mesh::until_distrusted).
#[derive(Clone, Debug)]
pub struct Standing(Arc<Shown>);

impl<S> Secured<S> {
    /// By which it is told when the peer's certificate is good no more.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing(Arc::clone(&self.shown))
    }

    /// Whom the peer's certificate names. It need not be a node of the topology.
    #[must_use]
    pub fn peer(&self) -> &SpiffeId {
        &self.peer
    }
}

impl<S> fmt::Debug for Secured<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl<S> Certified<S> {
    /// Refuses whoever is of another cluster: one CA may issue for several.
    fn of_cluster(self, own: &SpiffeId) -> io::Result<Secured<S>> {
        if self.name.cluster != own.cluster {
            let error = CertificateError::OtherCluster(self.name.cluster);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(Secured { stream: self.stream, peer: self.name, shown: Arc::new(self.shown) })
    }
}

impl Credentials {
    /// The dialling side of a connection to a service of the cluster, as an admin API, over a stream that is open. It compares
    /// no host name: who answers says [`Secured::peer`]. Whether this end's certificate was taken shows only at the first read.
    ///
    /// # Errors
    /// What breaks the handshake; or `InvalidData`, where the peer's certificate is of another cluster or names nobody. It waits
    /// for the peer without end: the caller limits that.
    pub async fn dial<S>(self: &Arc<Self>, stream: S) -> io::Result<Secured<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        connect(Arc::clone(self), stream).await?.of_cluster(self.name())
    }
}

/// Counts a handshake that somebody gave up, unless it ended.
struct Unfinished<'a>(Option<&'a Tls>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(tls) = self.0 {
            tls.count_unfinished();
        }
    }
}

/// The accepting side. `None`: the handshake failed, which was counted and told.
pub(in super::super) async fn accept<S>(tls: &Tls, stream: S, peer: &str) -> Option<Secured<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut unfinished = Unfinished(Some(tls));
    let shaken = tls.accept(stream).await.and_then(|certified| certified.of_cluster(&tls.name));
    unfinished.0 = None;
    let error = match shaken {
        Ok(secured) => return Some(secured),
        Err(error) => error,
    };
    match tls.count_failure(&error) {
        None => {
            tls.count_closed();
            tracing::debug!(peer, %error, "a caller left in the middle of the TLS handshake");
        }
        Some(failure) => tell(tls, failure, &error, peer),
    }
    None
}

/// Logs who refused whom, and what to do.
fn tell(tls: &Tls, failure: TlsFailure, error: &io::Error, peer: &str) {
    let (reason, remedy) = (failure.label(), failure.remedy_for_caller(error));
    let address = peer.parse().map(|peer: SocketAddr| peer.ip());
    // Whoever can reach the listener can cause most of these: who asks in plaintext, or sends an alert, which needs no
    // certificate, is told of once.
    let is_new = || address.is_ok_and(|address| tls.is_new(address, Door::Service, failure));
    if let Some(alert) = alert(error) {
        if is_new() {
            tracing::warn!(peer, reason, ?alert, "a caller refused this node: {remedy}");
        } else {
            tracing::debug!(peer, reason, ?alert, "a caller refused this node: {remedy}");
        }
    } else if failure.is_of_certificate() {
        tracing::warn!(peer, reason, %error, "a caller was refused: {remedy}");
    } else if failure.is_plaintext() && is_new() {
        tracing::warn!(peer, reason, "a caller was refused: {remedy}");
    } else {
        tracing::debug!(peer, reason, %error, "TLS handshake with a caller failed: {remedy}");
    }
}

impl Tls {
    /// Ends when a caller's certificate is good no more, and says why.
    pub(in super::super) async fn until_distrusted(&self, Standing(shown): &Standing) -> String {
        let mut looks = self.looks.subscribe();
        loop {
            if let Some(why) = self.wrong_with(shown) {
                return why;
            }
            // The sender is `self`.
            let _ = looks.changed().await;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Secured<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, room)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Secured<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
