//! HTTP/1.1 for the APIs of a node: a listener and its connections, with a limit on everything a caller can do.

mod front;
mod pages;
mod patient;
mod waiting;

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use trunkline_mesh::{Mesh, Secured};

use crate::config::Protection;
use front::Front;
pub(crate) use front::WITHIN_TLS;
use patient::Patient;
use waiting::{Waiter, Waiting};

/// Connections within TLS whose handshake has not begun: one that has not sent a whole record yet makes room for a further one.
const UNBEGUN_MAX: usize = 128;
/// TLS handshakes at one time, of each at most 10 KiB are read; for a further one the oldest is given up.
const HANDSHAKES_MAX: usize = 128;
/// Time for one TLS handshake, with what comes before.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two handshakes that begin: strangers cost no more CPU than a hundred per second, and each has more than a second
/// until a hundred others can push it out.
const HANDSHAKE_PAUSE: Duration = Duration::from_millis(10);
/// Between two accepts for which somebody is given up, in the mean over [`BURST`]: it costs some CPU as well. Those that come anew
/// whenever they are given up have to be taken in as fast, or they fill the queue of the listener, and everybody else waits there.
const ACCEPT_STEP: Duration = Duration::from_micros(250);
/// A timer may ring late.
const BURST: Duration = Duration::from_millis(10);
/// Connections that may be on their way out at one time, beside those that there may be: whoever accepts waits for no single one of them.
const LEAVING_MAX: usize = 32;
/// Connections the kernel completes ahead of the accept task, as at the mesh's listener.
const BACKLOG: u32 = 1_024;
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
    /// Connections at one time. For a further one the oldest makes room whose caller has not said a whole head, or nothing since its
    /// last answer; where all are being answered it is told 503 and closed, or within TLS closed.
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
        let acceptor = Acceptor {
            listener,
            next_accept: Instant::now(),
            mesh,
            answers,
            connections: JoinSet::new(),
            waiting: Waiting::default(),
            callers,
        };
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
    /// Not before.
    next_accept: Instant,
    mesh: Mesh,
    answers: Arc<A>,
    /// Among them those that were given up and are about to end.
    connections: JoinSet<()>,
    /// Those of them that are not being answered.
    waiting: Waiting,
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
            let accepted = accept(&self.listener, self.next_accept);
            tokio::select! {
                biased;
                _ = stop.changed() => break,
                Some(ended) = self.connections.join_next(), if !self.connections.is_empty() => note::<A>(ended),
                accepted = accepted, if self.waiting.leaving() < LEAVING_MAX => match accepted {
                    Ok((stream, peer)) if self.makes_room() => self.serve(stream, peer.ip(), pending(), &stop),
                    Ok((stream, _)) => turn_away::<A>(&stream),
                    Err(error) => pause::<A>(&error).await,
                },
            }
        }
        self.finish().await;
    }

    async fn run_within_tls(mut self, mut stop: watch::Receiver<bool>) {
        let mut handshakes = Handshakes::new();
        loop {
            let accepted = async {
                let unbegun =
                    Arc::clone(&handshakes.unbegun).acquire_owned().await.map_err(io::Error::other)?;
                Ok((unbegun, accept(&self.listener, self.next_accept).await?))
            };
            tokio::select! {
                biased;
                _ = stop.changed() => break,
                Some(ended) = self.connections.join_next(), if !self.connections.is_empty() => note::<A>(ended),
                Some(ended) = handshakes.tasks.join_next(),
                    if !handshakes.tasks.is_empty() && self.waiting.leaving() < LEAVING_MAX => match ended {
                    Ok(Some((secured, peer))) if self.makes_room() => self.serve_within_tls(secured, peer, &stop),
                    Ok(Some(_)) => tell_turned_away::<A>(),
                    Ok(None) => {}
                    Err(error) => tracing::error!(%error, "a TLS handshake of {} ended badly", A::NAME),
                },
                accepted = accepted => match accepted {
                    Ok((unbegun, (stream, peer))) => {
                        if handshakes.unbegun.available_permits() < LEAVING_MAX && handshakes.silent.give_one_up() {
                            self.gave_one_up();
                        }
                        handshakes.begin(stream, peer, unbegun, self.mesh.clone());
                    }
                    Err(error) => pause::<A>(&error).await,
                },
            }
        }
        drop(handshakes);
        self.finish().await;
    }

    /// There is a place for one more connection, or there is about to be.
    fn makes_room(&mut self) -> bool {
        if self.connections.len() - self.waiting.leaving() < A::CONNECTIONS_MAX {
            return true;
        }
        let gives_up = self.waiting.give_one_up();
        if gives_up {
            self.gave_one_up();
        }
        gives_up
    }

    fn gave_one_up(&mut self) {
        tracing::warn!("{} gave up connections that waited for their callers, for others", A::NAME);
        let now = Instant::now();
        if self.next_accept + BURST < now {
            self.next_accept = now;
        }
        self.next_accept += ACCEPT_STEP;
    }

    fn serve_within_tls(&mut self, secured: Secured<Front>, from: IpAddr, stop: &watch::Receiver<bool>) {
        let (mesh, standing) = (self.mesh.clone(), secured.standing());
        let peer = secured.peer().to_string();
        let distrusted = async move {
            let why = mesh.until_distrusted(&standing).await;
            tracing::warn!(peer, "a caller of {} lost its connection: {why}", A::NAME);
        };
        self.serve(secured, from, distrusted, stop);
    }

    fn serve<S>(
        &mut self,
        stream: S,
        from: IpAddr,
        distrusted: impl Future<Output = ()> + Send + 'static,
        stop: &watch::Receiver<bool>,
    ) where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (answers, callers) = (Arc::clone(&self.answers), self.callers);
        let waiter = Arc::new(self.waiting.begin(from));
        waiter.wait();
        self.connections.spawn(serve(stream, waiter, callers, answers, distrusted, stop.clone()));
    }

    async fn finish(mut self) {
        drop(self.listener);
        // Each ends by itself within GRACE.
        while let Some(ended) = self.connections.join_next().await {
            note::<A>(ended);
        }
    }
}

/// Cancel-safe.
async fn accept(listener: &TcpListener, not_before: Instant) -> io::Result<(TcpStream, SocketAddr)> {
    sleep_until(not_before).await;
    listener.accept().await
}

/// Connections whose callers are not known yet. Dropped, all of them end.
struct Handshakes {
    tasks: JoinSet<Option<(Secured<Front>, IpAddr)>>,
    /// Has a permit for each whose handshake may be about to begin. Those of them that have sent a whole record are in line for that.
    unbegun: Arc<Semaphore>,
    /// The others of these.
    silent: Waiting,
    /// Held by whose turn comes next; the next one in line waits for it.
    turns: Arc<Mutex<Interval>>,
    /// Those whose handshake has begun.
    begun: Waiting,
}

impl Handshakes {
    fn new() -> Self {
        let mut turns = interval(HANDSHAKE_PAUSE);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            tasks: JoinSet::new(),
            unbegun: Arc::new(Semaphore::new(UNBEGUN_MAX)),
            silent: Waiting::default(),
            turns: Arc::new(Mutex::new(turns)),
            begun: Waiting::default(),
        }
    }

    fn begin(&mut self, stream: TcpStream, peer: SocketAddr, unbegun: OwnedSemaphorePermit, mesh: Mesh) {
        let silent = Arc::new(self.silent.begin(peer.ip()));
        let begun = Arc::new(self.begun.begin(peer.ip()));
        silent.wait();
        let turn = {
            let (silent, begun) = (Arc::clone(&silent), Arc::clone(&begun));
            let (turns, all_begun) = (Arc::clone(&self.turns), self.begun.clone());
            async move {
                silent.go_on();
                turns.lock().await.tick().await;
                drop(unbegun);
                if all_begun.count() >= HANDSHAKES_MAX {
                    all_begun.give_one_up();
                }
                begun.wait();
            }
        };
        self.tasks.spawn(async move {
            let name = peer.to_string();
            tokio::select! {
                biased;
                shaken = timeout(HANDSHAKE_TIMEOUT, mesh.accept_caller(Front::new(stream, turn), &name)) => {
                    Some((shaken.ok().flatten()?, peer.ip()))
                }
                () = silent.given_up() => None,
                () = begun.given_up() => None,
            }
        });
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

/// One connection to its end; at once when it is given up and, whatever it is in the middle of, when its caller is trusted no more.
async fn serve<A: Answers, S>(
    stream: S,
    waiter: Arc<Waiter>,
    callers: Callers,
    answers: Arc<A>,
    distrusted: impl Future<Output = ()>,
    mut stop: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answers = Arc::clone(&answers);
        let answering = waiter.ask();
        async move {
            let judged = callers != Callers::Certified;
            let local = callers == Callers::Local;
            let of_a_page = judged.then(|| pages::of_a_page(request.headers(), local)).flatten();
            let answer = match of_a_page {
                Some(why) => answers.forbidden(why),
                None => answers.answer(request).await,
            };
            // Kept until the body is at its end.
            Ok::<_, Infallible>(answer.map(|body| {
                body.map_err(move |never| {
                    let _ = &answering;
                    never
                })
            }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(Patient::new(stream, WRITE_TIMEOUT, Arc::clone(&waiter))), service);
    let (mut connection, mut distrusted) = (pin!(connection), pin!(distrusted));
    tokio::select! {
        biased;
        () = distrusted.as_mut() => return,
        ended = connection.as_mut() => return closed::<A>(ended),
        () = waiter.given_up() => return,
        _ = stop.changed() => {}
        () = sleep(A::CONNECTION_TIMEOUT) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        () = distrusted => {}
        () = waiter.given_up() => {}
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
