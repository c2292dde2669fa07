//! HTTP/1.1 for the APIs of a node: a listener and its connections, with a limit on everything a caller can do.

mod front;
mod pages;
mod patient;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use trunkline_mesh::{Mesh, Secured};

use crate::config::Protection;
use front::Front;
pub(crate) use front::WITHIN_TLS;
use patient::Patient;

/// TLS handshakes at one time, of each at most 10 KiB are read; for a further one the oldest is given up: whoever stays half open keeps
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
/// Time for which a caller may take nothing of its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time to finish the present answer when the server closes, or the connection's time is over.
const GRACE: Duration = Duration::from_millis(500);
/// Pause after a connection could not be accepted, as when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a server answers with, and what it allows.
pub(crate) trait Answers: Send + Sync + 'static {
    /// What it is, for logs and errors: `the admin API`.
    const NAME: &'static str;
    /// Connections at one time; further ones are answered 503 and closed, or within TLS closed.
    const CONNECTIONS_MAX: usize;
    /// Time for one connection, however many requests it makes; it is then ended between two answers.
    const CONNECTION_TIMEOUT: Duration;
    /// The body of its answers.
    type Body: Body<Data = Bytes, Error = Infallible> + Send + 'static;

    /// What a caller gets who is to have nothing else, and why.
    fn forbidden(&self, why: &str) -> Response<Self::Body>;

    /// One request → one answer.
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// A server that runs.
pub(crate) struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Binds, and serves on the current runtime until [`close`](Self::close). Within TLS callers are known by the
    /// certificates of the mesh's cluster.
    pub(crate) fn bind<A: Answers>(
        address: SocketAddr,
        protection: Protection,
        mesh: Mesh,
        answers: Arc<A>,
    ) -> io::Result<Self> {
        if protection == Protection::Tls && !mesh.is_within_tls() {
            return Err(io::Error::other("it is to be within TLS, and this node has no certificates"));
        }
        let listener = listen(address)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let callers = match protection {
            Protection::Tls => Callers::Certified,
            Protection::Plaintext if address.ip().to_canonical().is_loopback() => Callers::Local,
            Protection::Plaintext => Callers::Anybody,
        };
        let acceptor = Acceptor { listener, mesh, answers, connections: JoinSet::new(), callers };
        let task = tokio::spawn(async move {
            match protection {
                Protection::Plaintext => acceptor.run(stopped).await,
                Protection::Tls => acceptor.run_within_tls(stopped).await,
            }
        });
        Ok(Self { address, stop, task })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listener, and the connections within half a second.
    pub(crate) async fn close(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "an API ended badly");
        }
    }
}

/// What to do about an address of an API that cannot be bound; `key` is where the file says it.
pub(crate) fn why_api_not_bound(error: &io::Error, key: &str) -> String {
    trunkline_mesh::why_not_bound(error, key, "0.0.0.0 and [::] are all addresses of a machine")
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted node must not wait for the connections of its last life.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The accept task.
struct Acceptor<A> {
    listener: TcpListener,
    mesh: Mesh,
    answers: Arc<A>,
    connections: JoinSet<()>,
    /// What of its callers is checked.
    callers: Callers,
}

/// Who can call a server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Callers {
    /// Who has a certificate, which no page of a browser has.
    Certified,
    /// Every program of this machine, its browsers among them.
    Local,
    /// Everybody on the network.
    Anybody,
}

impl<A: Answers> Acceptor<A> {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                biased;
                _ = stop.changed() => break,
                Some(ended) = self.connections.join_next(), if !self.connections.is_empty() => note::<A>(ended),
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) if self.has_room() => self.serve(stream, pending(), &stop),
                    Ok((stream, _)) => turn_away::<A>(&stream),
                    Err(error) => pause::<A>(&error).await,
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
                Some(ended) = self.connections.join_next(), if !self.connections.is_empty() => note::<A>(ended),
                Some(secured) = handshakes.end::<A>(), if !handshakes.tasks.is_empty() => match secured {
                    Some(secured) if self.has_room() => self.serve_within_tls(secured, &stop),
                    Some(_) => tell_turned_away::<A>(),
                    None => {}
                },
                accepted = accepted => match accepted {
                    Ok((stream, peer)) => {
                        next_accept = Instant::now() + HANDSHAKE_PAUSE;
                        handshakes.begin(stream, peer, self.mesh.clone());
                    }
                    Err(error) => pause::<A>(&error).await,
                },
            }
        }
        drop(handshakes);
        self.finish().await;
    }

    fn has_room(&self) -> bool {
        self.connections.len() < A::CONNECTIONS_MAX
    }

    fn serve_within_tls(&mut self, secured: Secured<Front>, stop: &watch::Receiver<bool>) {
        let (mesh, standing) = (self.mesh.clone(), secured.standing());
        let peer = secured.peer().to_string();
        let distrusted = async move {
            let why = mesh.until_distrusted(&standing).await;
            tracing::warn!(peer, "a caller of {} lost its connection: {why}", A::NAME);
        };
        self.serve(secured, distrusted, stop);
    }

    fn serve<S>(
        &mut self,
        stream: S,
        distrusted: impl Future<Output = ()> + Send + 'static,
        stop: &watch::Receiver<bool>,
    ) where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (answers, callers) = (Arc::clone(&self.answers), self.callers);
        self.connections.spawn(serve(stream, callers, answers, distrusted, stop.clone()));
    }

    async fn finish(mut self) {
        drop(self.listener);
        // Each ends by itself within GRACE.
        while let Some(ended) = self.connections.join_next().await {
            note::<A>(ended);
        }
    }
}

/// Connections whose callers are not known yet. Dropped, all of them end.
#[derive(Default)]
struct Handshakes {
    tasks: JoinSet<Option<Secured<Front>>>,
    /// The oldest first; some may have ended.
    order: VecDeque<AbortHandle>,
}

impl Handshakes {
    fn begin(&mut self, stream: TcpStream, peer: SocketAddr, mesh: Mesh) {
        self.order.retain(|task| !task.is_finished());
        while self.order.len() >= HANDSHAKES_MAX {
            if let Some(oldest) = self.order.pop_front() {
                oldest.abort();
            }
        }
        self.order.push_back(self.tasks.spawn(async move {
            let peer = peer.to_string();
            timeout(HANDSHAKE_TIMEOUT, mesh.accept_caller(Front::new(stream), &peer)).await.ok().flatten()
        }));
    }

    /// What became of one that ended. `None`: there is none. Cancel-safe.
    async fn end<A: Answers>(&mut self) -> Option<Option<Secured<Front>>> {
        match self.tasks.join_next().await? {
            Ok(secured) => Some(secured),
            Err(error) => {
                if !error.is_cancelled() {
                    tracing::error!(%error, "a TLS handshake of {} ended badly", A::NAME);
                }
                Some(None)
            }
        }
    }
}

async fn pause<A: Answers>(error: &io::Error) {
    tracing::warn!(%error, "{} cannot accept a connection", A::NAME);
    sleep(ACCEPT_PAUSE).await;
}

fn note<A: Answers>(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection of {} ended badly", A::NAME);
    }
}

/// One connection to its end; at once, whatever it is in the middle of, when its caller is trusted no more.
async fn serve<A: Answers, S>(
    stream: S,
    callers: Callers,
    answers: Arc<A>,
    distrusted: impl Future<Output = ()>,
    mut stop: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answers = Arc::clone(&answers);
        async move {
            let judged = callers != Callers::Certified;
            let local = callers == Callers::Local;
            let of_a_page = judged.then(|| pages::of_a_page(request.headers(), local)).flatten();
            Ok::<_, Infallible>(match of_a_page {
                Some(why) => answers.forbidden(why),
                None => answers.answer(request).await,
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(Patient::new(stream, WRITE_TIMEOUT)), service);
    let (mut connection, mut distrusted) = (pin!(connection), pin!(distrusted));
    tokio::select! {
        biased;
        () = distrusted.as_mut() => return,
        ended = connection.as_mut() => return closed::<A>(ended),
        _ = stop.changed() => {}
        () = sleep(A::CONNECTION_TIMEOUT) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        () = distrusted => {}
        () = sleep(GRACE) => {}
        ended = connection => closed::<A>(ended),
    }
}

fn closed<A: Answers>(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of {} was closed", A::NAME);
    }
}

/// Says why, if the socket takes it at once, and closes.
fn turn_away<A: Answers>(stream: &TcpStream) {
    tell_turned_away::<A>();
    let _ = stream
        .try_write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
}

fn tell_turned_away<A: Answers>() {
    tracing::warn!(connections = A::CONNECTIONS_MAX, "{} turned a connection away", A::NAME);
}
