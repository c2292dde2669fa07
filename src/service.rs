//! The API of a replica for its clients: HTTP/1.1, JSON.
//!
//! ```text
//! GET    /v1/kv/KEY      a value; ?read=linearizable (the default), lease or stale
//! PUT    /v1/kv/KEY      the body is the value; ?if_index=N: only if entry N changed the key last, 0: only if it is not there
//! DELETE /v1/kv/KEY      likewise
//! POST   /v1/session     opens a session → {"client"}
//! POST   /v1/propose     {"client", "seq", "op"}: op in base64 → {"index", "term", "result"}, result in base64
//! GET    /v1/log         committed entries, one per line, as they come; ?from=INDEX, ?prefix=KEY, ?progress=SECONDS
//! GET    /v1/snapshot    all keys as they were at one entry, one per line; ?prefix=KEY, ?at_least=INDEX
//! GET    /v1/events      what happened here: votes, elections, members, snapshots, clocks; ?from=NUMBER
//! GET    /v1/digest      of all that was applied, the same on every replica
//! GET    /v1/members     nodes of the cluster by the last committed entry that says so, and whether this one is ready
//! GET    /v1/status      role, term, leader, voters, learners, how far the log goes
//! GET    /livez          200 while the process answers
//! GET    /readyz         200 where a client is served well, else 503 with the reasons
//! ```
//!
//! An error is `{"code", "message", "definite", "leader"}`: definite says that nothing was changed, and will not be.

mod answer;
mod body;
mod chunk;
mod cursor;
mod errors;
mod feed;
mod follow;
mod json;
mod ring;
mod snapshot;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use tokio::task::JoinHandle;
use trunkline_mesh::{Mesh, NodeId};

use crate::config::Protection;
use crate::consensus::Replica;
use crate::consensus::key_value::KeyValue;
use crate::http::{Answers, Server};
use body::Room;
use feed::Feed;
use snapshot::States;

pub use cursor::Limits;
pub(crate) use json::status as replica_status;

/// Streams of the log at once.
const FOLLOWERS_MAX: usize = 10_000;

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// A running API.
pub struct Service {
    server: Server,
    draining: Arc<AtomicBool>,
    feeding: Feeding,
}

/// Ends the feed's task when it is dropped: the task holds the replica.
struct Feeding(JoinHandle<()>);

impl Drop for Feeding {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Service {
    /// Serves a replica with the key-value machine on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// What the operating system says of the address.
    pub fn bind(
        address: SocketAddr,
        protection: Protection,
        mesh: Mesh,
        replica: Replica<KeyValue>,
        node: NodeId,
        limits: Limits,
    ) -> io::Result<Self> {
        let feed = Arc::new(Feed::new(FOLLOWERS_MAX, limits));
        let draining = Arc::<AtomicBool>::default();
        let facts = Facts {
            draining: Arc::clone(&draining),
            replica: replica.clone(),
            node,
            bodies: Room::new(),
            feed: Arc::clone(&feed),
            states: States::new(limits.snapshots_max),
        };
        let server = Server::bind(address, protection, mesh, Arc::new(facts))?;
        let feeding = Feeding(tokio::spawn(async move { feed.run(replica).await }));
        Ok(Self { server, draining, feeding })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// From now on `/readyz` answers 503; all else is answered as before.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Closes the listener, and the connections within half a second.
    pub async fn close(self) {
        self.server.close().await;
        drop(self.feeding);
    }
}

/// What the answers are made from.
struct Facts {
    replica: Replica<KeyValue>,
    node: NodeId,
    draining: Arc<AtomicBool>,
    bodies: Room,
    feed: Arc<Feed>,
    states: States,
}

impl Facts {
    /// Why a client does better to go to another node.
    fn not_ready(&self) -> Vec<String> {
        let draining = self.draining.load(Ordering::Acquire).then(|| "the node is draining".to_owned());
        let replica = self.replica.status().not_ready.map(|reason| reason.to_string());
        draining.into_iter().chain(replica).collect()
    }
}

impl Answers for Facts {
    const NAME: &'static str = "the API for clients";
    const CONNECTIONS_MAX: usize = 16_384;
    /// Whoever follows the log resumes at another connection.
    const CONNECTION_TIMEOUT: Duration = Duration::from_secs(3_600);
    type Body = Body;

    fn forbidden(&self, why: &str) -> Response<Body> {
        errors::Error::new(StatusCode::FORBIDDEN, "forbidden", why).response(self)
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        answer::answer(&self, request).await
    }
}
