//! The tokio shell around [`proto::node`](crate::proto::node): sockets, clock and wake-ups. It decides nothing.
//!
//! In travel order: [`join`] binds, starts and hands out the handles; a [`Client`] puts a batch into the machine and gets
//! a [`Receipt`]; the writer of a connection takes what is next, encodes and writes it; the reader at the other end cuts
//! the bytes into frames and hands them to its machine; an [`Inbox`] takes what arrived.
//!
//! ```text
//! tasks    one reader and one writer per connection, one accept task, one timer task: no other
//! lock     one mutex around the machine, held for one call and never across an await; all that the call
//!          caused is collected under the lock and done after it (shared.rs)
//! end      the timer task is the keeper: when it ends, however it ends, the mesh is closed
//! ```

mod mesh;

mod client;
mod receipt;
mod waiting;

mod inbox;

// Behind the handles: the machine under its lock, and the tasks that feed it.
mod shared;
mod timer;
// A connection's life.
mod accept;
mod dial;
mod port;
mod reader;
mod secure;
mod writer;
// What they are made of.
mod cutter;
// The network that the shell runs on: the kernel's, and for a test, within its simulation alone, a simulated one.
mod kernel;
#[cfg(feature = "turmoil")]
mod simulated;
mod stream;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;

pub use client::{Client, SendError, TrySendError};
pub use inbox::Inbox;
pub use mesh::Mesh;
pub use receipt::Receipt;
pub use tls::{
    CHECK_INTERVAL, CertificateError, CertificateInfo, Credentials, EXPIRED_SPAN_S, Reloaded, Revocation,
    RevocationList, Secured, Standing, TlsError, TlsFiles, is_issued_by, list_of_another, read_certificates,
    read_revocation_lists,
};

use crate::id::{Incarnation, NodeId};
use crate::proto::node::NodeInit;
use crate::proto::wire::Offer;
use crate::settings::{Settings, SettingsError};
use crate::topology::{NodeSpec, Topology};
#[cfg(not(feature = "turmoil"))]
use kernel as socket;
use shared::Shared;
#[cfg(feature = "turmoil")]
use simulated as socket;
use tls::Tls;

/// How links are protected.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Security {
    /// Plaintext, and both ends of every link are on loopback: nobody else reaches them.
    #[default]
    Loopback,
    /// Plaintext on any address, without authentication: only where every machine of the network is trusted.
    Insecure,
    /// TLS 1.3 on every link, on loopback too, and both ends show a certificate that names them.
    Tls(TlsFiles),
}

/// What a node is started from.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who is in the cluster; the same on every node.
    pub topology: Arc<Topology>,
    /// Which of them this process is.
    pub node: NodeId,
    /// Limits and timers.
    pub settings: Settings,
    /// For jitter and link numbers. `None`, the default, draws one; tests give one to repeat a run.
    pub seed: Option<u64>,
    /// Where to listen instead of at the topology's address, for a node behind a forwarded port. Default `None`.
    pub listen: Option<SocketAddr>,
    /// How links are protected. Default [`Security::Loopback`].
    pub security: Security,
    /// What the node speaks, to be a peer of another version: for tests of version steps.
    #[doc(hidden)]
    pub offer: Offer,
}

impl Config {
    /// One node of a topology, with default settings.
    #[must_use]
    pub fn new(topology: impl Into<Arc<Topology>>, node: NodeId) -> Self {
        Self {
            topology: topology.into(),
            node,
            settings: Settings::default(),
            seed: None,
            listen: None,
            security: Security::default(),
            offer: Offer::default(),
        }
    }
}

/// A node that was not started. Nothing runs and nothing is bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The settings contradict each other. Change the named field.
    #[error("the settings contradict each other: {0}")]
    Settings(#[from] SettingsError),
    /// The topology does not list this node. Correct [`Config::node`], or add the node on every machine.
    #[error(
        "node `{0}` is not in the topology: correct the id, or add the node to the topology of every node"
    )]
    NotInTopology(NodeId),
    /// An address that is not loopback, and nothing that protects links to it.
    #[error(
        "{0} is not a loopback address, and links are neither encrypted nor authenticated: give certificates \
         ([`Security::Tls`]), use loopback addresses, or, where every machine is trusted, [`Security::Insecure`]"
    )]
    Unprotected(SocketAddr),
    /// The node's certificate, key or CA cannot be used. The error says which file, and what to do.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The listener could not be bound. Free the address, or give another one in the topology or in
    /// [`Config::listen`].
    #[error("cannot listen on {address}: {source}: {}", why_not_bound(source, "address", LISTEN))]
    Bind {
        /// Where it was to listen.
        address: SocketAddr,
        /// What the operating system says.
        source: std::io::Error,
    },
}

/// Where the others dial an address that this machine does not have.
const LISTEN: &str =
    "behind NAT or in a container say what to bind with `listen`, and leave `address` as others dial it";

/// What to do about an address that cannot be bound; `key` is where it is said, `elsewhere` what else is to know of an address
/// that this machine does not have.
#[must_use]
pub fn why_not_bound(error: &std::io::Error, key: &str, elsewhere: &str) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrNotAvailable => format!(
            "it is not an address of this machine: correct `{key}`, or run this node where it is; {elsewhere}"
        ),
        std::io::ErrorKind::PermissionDenied => {
            format!("ports below 1024 need CAP_NET_BIND_SERVICE: grant it, or give this node another `{key}`")
        }
        _ => format!("free the address, or give this node another `{key}`"),
    }
}

/// Starts a node with all the roles its topology gives it, on the current tokio runtime.
///
/// Its listener, if it has one, is bound when this returns; its links come up in the background. The node closes when
/// the last [`Client`], [`Inbox`] and [`Mesh`] is dropped.
///
/// # Errors
/// [`JoinError`] says what to change. Nothing was started.
///
/// # Panics
/// Outside a tokio runtime, or in one without its IO and time drivers.
pub async fn join(config: Config) -> Result<(Client, Inbox), JoinError> {
    let Config { topology, node, settings, seed, listen, security, offer } = config;
    settings.check()?;
    let spec = topology.node(&node).ok_or_else(|| JoinError::NotInTopology(node.clone()))?;
    let address = listen.or(spec.address).filter(|_| spec.roles.accepts());
    let tls = protect(&security, &topology, spec, address)?;
    let listener = match address {
        Some(address) => {
            let bound = socket::listen(address, &(&settings).into()).await;
            Some(bound.map_err(|source| JoinError::Bind { address, source })?)
        }
        None => None,
    };
    let local_addr = listener.as_ref().and_then(|listener| listener.local_addr().ok());

    let wall_base_us = u64::try_from(socket::since_epoch().as_micros()).unwrap_or(u64::MAX);
    let init = NodeInit {
        topology: Arc::clone(&topology),
        node,
        incarnation: Incarnation(wall_base_us.max(1)),
        settings,
        seed: seed.unwrap_or_else(|| fastrand::u64(..)),
        wall_base_us,
    };
    let shared = Shared::new(init, seed, local_addr, tls, security == Security::Loopback)
        .map_err(|error| JoinError::NotInTopology(error.0))?;
    let _ = shared.with(|core, _| core.node.set_offer(offer));
    timer::start(&shared);
    if let Security::Tls(files) = &security {
        tls::start_watch(&shared, files.check_interval);
    }
    if let Some(listener) = listener {
        accept::start(&shared, listener);
    }
    let mesh = Mesh::new(shared);
    Ok((Client::new(mesh.clone()), Inbox::new(mesh)))
}

/// What protects the links of a node: its credentials, loopback, or nothing, as its operator chose.
fn protect(
    security: &Security,
    topology: &Topology,
    spec: &NodeSpec,
    listens: Option<SocketAddr>,
) -> Result<Option<Tls>, JoinError> {
    match security {
        Security::Tls(files) => Ok(Some(Tls::load(files.clone(), topology.name(spec))?)),
        Security::Insecure => {
            tracing::warn!(
                "links are plaintext and unauthenticated: whoever reaches this network can be any node"
            );
            Ok(None)
        }
        Security::Loopback => match listens.filter(is_open).or_else(|| first_open(topology)) {
            Some(address) => Err(JoinError::Unprotected(address)),
            None => Ok(None),
        },
    }
}

/// Others than this machine reach it.
fn is_open(address: &SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}

/// An address of a node that others than this machine reach.
fn first_open(topology: &Topology) -> Option<SocketAddr> {
    topology.nodes().filter_map(|node| node.address).find(is_open)
}
