//! The admin API: health, metrics and status over HTTP/1.1, for the machine itself and its scrapers.
//!
//! ```text
//! GET /metrics    Prometheus text
//! GET /livez      200 while the process answers; never depends on peers
//! GET /readyz     200, or 503 with the reasons
//! GET /v1/status  what the node is and does now, as JSON
//! GET /v1/stats   what the node counted since its start, as JSON
//! GET /v1/routes  how a sender reaches every datacenter, and why, as JSON
//! POST /v1/ping/NODE  one round trip through the mesh, as JSON
//! ```
//!
//! Of a replica also, each a `POST` that changes who is in the cluster, or what is on its disk, and for callers on this machine
//! alone: whoever may read from elsewhere may not do that.
//!
//! ```text
//! POST /v1/members/add?node=ID          POST /v1/members/promote?replica=ID    POST /v1/members/remove?replica=ID
//! POST /v1/leader/transfer?replica=ID   POST /v1/snapshot
//! ```
//!
//! In plaintext on loopback, within TLS elsewhere. It changes nothing else and accepts no bodies. Everything a caller can do to
//! it has a limit: connections, bytes of a head, time for a head, time for a connection (`server.rs`).

mod answer;
mod members;
mod ready;
mod refusal;
mod server;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Semaphore;
use trunkline_mesh::{Mesh, NodeSpec};

pub use crate::config::Protection;
use crate::consensus::Replica;
use crate::consensus::key_value::KeyValue;
use crate::metrics::{MembersHeard, Metrics};
pub use ready::{NotReady, Ready};
pub(crate) use refusal::Refusal;
pub use server::{Api, ServeError};

/// What the answers are made from.
struct Facts {
    mesh: Mesh,
    metrics: Metrics,
    ready: Ready,
    replica: Option<Replica<KeyValue>>,
    refusal: Option<Refusal>,
    /// Callers are on this machine.
    local: bool,
    /// One answer is made at a time. What it takes to make those of all callers would stand in the way of the mesh, which runs
    /// on the same threads, each time that the mesh waits for one of them.
    turn: Semaphore,
}

impl Facts {
    /// Everything that stands against the node.
    fn not_ready(&self) -> Vec<ready::NotReady> {
        let replica = self.replica.as_ref().map(Replica::status);
        self.ready.reasons(&self.mesh, replica.as_ref())
    }
}

/// Serves a node's admin API on the current tokio runtime until [`Api::close`]. The commands do so for their nodes; a
/// program that links the mesh does it itself:
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// # use trunkline::{api, config::{Config, Role}};
/// let config = Config::load("trunkline.toml".as_ref())?;
/// let node = config.choose(None, Role::Origin)?;
/// let (client, _inbox) = trunkline_mesh::join(config.mesh(node)).await?;
/// let address = config.admin(&node.id).ok_or("no `admin` for this node")?;
/// let api = api::serve(address, config.admin_protection(&node.id), client.mesh().clone(), node)?;
///
/// // At the end: first nobody is to come any more, then what is here is finished.
/// api.set_draining();
/// client.mesh().drain().await;
/// api.close().await;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ServeError`]: nothing is served. The address cannot be had, or the mesh has no certificates for [`Protection::Tls`].
pub fn serve(
    address: SocketAddr,
    protection: Protection,
    mesh: Mesh,
    node: &NodeSpec,
) -> Result<Api, ServeError> {
    serve_with(address, protection, mesh, node, Beside::default())
}

/// What a node has beside its mesh.
#[derive(Default)]
pub(crate) struct Beside {
    pub(crate) replica: Option<Replica<KeyValue>>,
    /// What it heard of the members, as a proxy that asks for them.
    pub(crate) heard: Option<Box<dyn Fn() -> Option<MembersHeard> + Send + Sync>>,
    /// What stands against its file as that was read last, if it follows one.
    pub(crate) refusal: Option<Refusal>,
}

/// The same, of a node that has more than its mesh.
pub(crate) fn serve_with(
    address: SocketAddr,
    protection: Protection,
    mesh: Mesh,
    node: &NodeSpec,
    Beside { replica, heard, refusal }: Beside,
) -> Result<Api, ServeError> {
    let mut metrics = Metrics::of(mesh.clone());
    if let Some(replica) = replica.clone() {
        metrics = metrics.with_replica(move || replica.status());
    }
    if let Some(heard) = heard {
        metrics = metrics.with_members(heard);
    }
    if let Some(refusal) = refusal.clone() {
        metrics = metrics.with_file(move || refusal.why().is_some());
    }
    let ready = Ready::new(node);
    let local = address.ip().to_canonical().is_loopback();
    let facts = Arc::new(Facts { mesh, metrics, ready, replica, refusal, local, turn: Semaphore::new(1) });
    Api::bind(address, protection, facts)
}
