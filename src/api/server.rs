//! The listener and its connections, with a limit on everything a caller can do.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::Facts;
use super::answer::answer;

/// Connections at one time; further ones are answered 503 and closed.
const CONNECTIONS_MAX: usize = 64;
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
    pub(super) fn bind(address: SocketAddr, facts: Arc<Facts>) -> Result<Self, ServeError> {
        let failed = |source| ServeError { address, source };
        let listener = listen(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(accept(listener, Arc::clone(&facts), stopped));
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

async fn accept(listener: TcpListener, facts: Arc<Facts>, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = stop.changed() => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => note(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < CONNECTIONS_MAX => {
                    connections.spawn(serve(stream, Arc::clone(&facts), stop.clone()));
                }
                Ok((stream, _)) => turn_away(&stream),
                Err(error) => {
                    tracing::warn!(%error, "the admin API cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    // Each ends by itself within GRACE.
    while let Some(ended) = connections.join_next().await {
        note(ended);
    }
}

fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection of the admin API ended badly");
    }
}

/// One connection to its end.
async fn serve(stream: TcpStream, facts: Arc<Facts>, mut stop: watch::Receiver<bool>) {
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
    tracing::warn!(connections = CONNECTIONS_MAX, "the admin API turned a connection away");
    let _ = stream
        .try_write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
}
