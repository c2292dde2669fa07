//! The listener and its connections, with a limit on everything a caller can do.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use trunkline_mesh::Secured;

use super::answer::answer;
use super::{Facts, Protection};

/// Connections at one time; further ones are answered 503 and closed, or within TLS closed.
const CONNECTIONS_MAX: usize = 64;
/// TLS handshakes at one time, each at most 32 KiB; for a further one the oldest is given up: whoever stays half open keeps
/// nobody out.
const HANDSHAKES_MAX: usize = 128;
/// Time for one TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between accepts within TLS: strangers cost no more CPU than a hundred handshakes per second, and each has more than a second
/// until a hundred others can push it out.
const HANDSHAKE_PAUSE: Duration = Duration::from_millis(10);
/// Connections the kernel completes ahead of the accept task.
const BACKLOG: u32 = 128;
/// Bytes of one request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header lines of one request.
const HEADERS_MAX: usize = 64;
/// Time for one request's head, and for an idle connection until its next one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for one connection, however many requests it makes.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Time to finish the present answer when the server closes, or the connection's time is over.
const GRACE: Duration = Duration::from_millis(500);
/// Pause after a connection could not be accepted, as when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running admin API.
pub struct Api {
    address: SocketAddr,
    facts: Arc<Facts>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// An admin API that was not started.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot serve the admin API on {address}: {source}: free the address, or give this node another `admin`"
)]
pub struct ServeError {
    /// Where it was to listen.
    pub address: SocketAddr,
    /// What the operating system says.
    pub source: io::Error,
}

impl Api {
    pub(super) fn bind(
        address: SocketAddr,
        protection: Protection,
        facts: Arc<Facts>,
    ) -> Result<Self, ServeError> {
        let failed = |source| ServeError { address, source };
        if protection == Protection::Tls && !facts.mesh.is_within_tls() {
            return Err(failed(io::Error::other(
                "it is to be within TLS, and this node has no certificates",
            )));
        }
        let listener = listen(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = watch::channel(false);
        let server = Server { listener, facts: Arc::clone(&facts), connections: JoinSet::new() };
        let task = tokio::spawn(async move {
            match protection {
                Protection::Plaintext => server.run(stopped).await,
                Protection::Tls => server.run_within_tls(stopped).await,
            }
        });
        Ok(Self { address, facts, stop, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `/readyz` answers 503, so that nobody sends new work here.
    pub fn set_draining(&self) {
        self.facts.ready.stop();
    }

    /// Closes the listener, and the connections within half a second.
    pub async fn close(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the admin API ended badly");
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted node must not wait for the connections of its last life.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The accept task.
struct Server {
    listener: TcpListener,
    facts: Arc<Facts>,
    connections: JoinSet<()>,
}

impl Server {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                biased;
                _ = stop.changed() => break,
                Some(ended) = self.connections.join_next(), if !self.connections.is_empty() => note(ended),
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) if self.has_room() => self.serve(stream, &stop),
                    Ok((stream, _)) => turn_away(&stream),
                    Err(error) => pause(&error).await,
                },
            }
        }
        self.finish().await;
    }

    async fn run_within_tls(mut self, mut stop: watch::Receiver<bool>) {
        let mut handshakes = Handshakes::default();
        let mut next_accept = Instant::now();
        loop {
            let accepted = async {
                sleep_until(next_accept).await;
                self.listener.accept().await
            };
            tokio::select! {
                biased;
                _ = stop.changed() => break,
                Some(ended) = self.connections.join_next(), if !self.connections.is_empty() => note(ended),
                Some(secured) = handshakes.end(), if !handshakes.tasks.is_empty() => match secured {
                    Some(secured) if self.has_room() => self.serve(secured, &stop),
                    Some(_) => tell_turned_away(),
                    None => {}
                },
                accepted = accepted => match accepted {
                    Ok((stream, peer)) => {
                        next_accept = Instant::now() + HANDSHAKE_PAUSE;
                        handshakes.begin(stream, peer, Arc::clone(&self.facts));
                    }
                    Err(error) => pause(&error).await,
                },
            }
        }
        drop(handshakes);
        self.finish().await;
    }

    fn has_room(&self) -> bool {
        self.connections.len() < CONNECTIONS_MAX
    }

    fn serve<S>(&mut self, stream: S, stop: &watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.connections.spawn(serve(stream, Arc::clone(&self.facts), stop.clone()));
    }

    async fn finish(mut self) {
        drop(self.listener);
        // Each ends by itself within GRACE.
        while let Some(ended) = self.connections.join_next().await {
            note(ended);
        }
    }
}

/// Connections whose callers are not known yet. Dropped, all of them end.
#[derive(Default)]
struct Handshakes {
    tasks: JoinSet<Option<Secured<TcpStream>>>,
    /// The oldest first; some may have ended.
    order: VecDeque<AbortHandle>,
}

impl Handshakes {
    fn begin(&mut self, stream: TcpStream, peer: SocketAddr, facts: Arc<Facts>) {
        self.order.retain(|task| !task.is_finished());
        while self.order.len() >= HANDSHAKES_MAX {
            if let Some(oldest) = self.order.pop_front() {
                oldest.abort();
            }
        }
        self.order.push_back(self.tasks.spawn(async move {
            let peer = peer.to_string();
            timeout(HANDSHAKE_TIMEOUT, facts.mesh.accept_caller(stream, &peer)).await.ok().flatten()
        }));
    }

    /// What became of one that ended. `None`: there is none. Cancel-safe.
    async fn end(&mut self) -> Option<Option<Secured<TcpStream>>> {
        match self.tasks.join_next().await? {
            Ok(secured) => Some(secured),
            Err(error) => {
                if !error.is_cancelled() {
                    tracing::error!(%error, "a TLS handshake of the admin API ended badly");
                }
                Some(None)
            }
        }
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "the admin API cannot accept a connection");
    sleep(ACCEPT_PAUSE).await;
}

fn note(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection of the admin API ended badly");
    }
}

/// One connection to its end.
async fn serve<S>(stream: S, facts: Arc<Facts>, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request| {
        let answer = answer(request, Arc::clone(&facts));
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return closed(ended),
        _ = stop.changed() => {}
        () = sleep(CONNECTION_TIMEOUT) => {}
    }
    connection.as_mut().graceful_shutdown();
    if let Ok(ended) = timeout(GRACE, connection).await {
        closed(ended);
    }
}

fn closed(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of the admin API was closed");
    }
}

/// Says why, if the socket takes it at once, and closes.
fn turn_away(stream: &TcpStream) {
    tell_turned_away();
    let _ = stream
        .try_write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
}

fn tell_turned_away() {
    tracing::warn!(connections = CONNECTIONS_MAX, "the admin API turned a connection away");
}
