//! A broadcast mesh between datacenters, for consensus leaders.
//!
//! A sender hands over one [`Batch`] per datacenter. It crosses the WAN once, to a trusted proxy there, with the bytes
//! that its messages share sent once; the proxy rebuilds every message and fans out. If a proxy fails another one is
//! used, and if all fail the messages go direct. Every message gets its own [`Outcome`].
//!
//! In travel order:
//!
//! 1. A [`Topology`] says who is in the cluster. [`join`] starts one node of it, with every role it has there, and gives
//!    its two ends: a [`Client`] that sends and an [`Inbox`] that receives.
//! 2. A [`Message`] has one destination, a [`Payload`] of shared segments, a [`Lane`] and a deadline. Messages for one
//!    datacenter make a [`Batch`].
//! 3. [`Client::send`] takes the batch in, waiting while the budget is used up, and gives a [`Receipt`].
//! 4. The destination's [`Inbox`] hands out a [`Delivery`]: in order per (origin, lane), each at most once.
//! 5. The [`Receipt`] tells one [`Outcome`] per message, each as it comes or all together: `Delivered` by which [`Route`], or
//!    `Failed` for which [`FailReason`], and whether it may have arrived all the same.
//! 6. [`Mesh`] shows what the node does ([`Stats`], [`Status`]), changes who is in the cluster while it runs
//!    ([`Mesh::set_topology`]) and ends it ([`Mesh::drain`], [`Mesh::close`]).
//!
//! What it does not do: store anything, or order messages of different senders. A message lives until its deadline, and
//! a node that restarts begins a new [`Incarnation`]; what that means is for the layer above to decide.
//!
//! ```no_run
//! use std::sync::Arc;
//! use trunkline_mesh::{
//!     Batch, CHECK_INTERVAL, ClusterId, Config, Datacenter, Message, NodeId, NodeSpec, Roles, Security, TlsFiles,
//!     Topology, join,
//! };
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let node = |id: &str, dc: &str, roles, address: Option<&str>| -> Result<NodeSpec, Box<dyn std::error::Error>> {
//!     let address = address.map(str::parse).transpose()?;
//!     Ok(NodeSpec { id: NodeId::new(id)?, datacenter: Datacenter::new(dc)?, roles, address })
//! };
//! let topology = Arc::new(Topology::new(
//!     ClusterId::new("example")?,
//!     [
//!         node("leader", "us", Roles::ORIGIN, None)?,
//!         node("eu-proxy", "eu", Roles::PROXY, Some("10.0.0.1:7400"))?,
//!         node("eu-1", "eu", Roles::MEMBER, Some("10.0.0.2:7400"))?,
//!         node("eu-2", "eu", Roles::MEMBER, Some("10.0.0.3:7400"))?,
//!     ],
//! )?);
//!
//! // Every link is TLS 1.3, with certificates on both sides that `trunkline ca` makes. On loopback it may be left out.
//! let security = Security::Tls(TlsFiles {
//!     certificate: "node.crt".into(),
//!     key: "node.key".into(),
//!     ca: "ca.crt".into(),
//!     crl: None,
//!     check_interval: CHECK_INTERVAL,
//! });
//!
//! // On the leader.
//! let config = Config::new(Arc::clone(&topology), NodeId::new("leader")?);
//! let (client, _inbox) = join(Config { security: security.clone(), ..config }).await?;
//! let entry = bytes::Bytes::from_static(b"the same entry for everybody");
//! let mut batch = Batch::to(Datacenter::new("eu")?);
//! for member in ["eu-1", "eu-2"] {
//!     batch.push(Message::new(NodeId::new(member)?, entry.clone()));
//! }
//! let receipt = client.send(batch).await?; // accepted, not yet delivered
//! for outcome in receipt.await {
//!     println!("{outcome:?}"); // one per message, in the batch's order
//! }
//! client.mesh().drain().await;
//!
//! // On a member.
//! let (_client, mut inbox) = join(Config { security, ..Config::new(topology, NodeId::new("eu-1")?) }).await?;
//! while let Some(delivery) = inbox.recv().await {
//!     println!("{} bytes from {}", delivery.payload.len(), delivery.origin);
//! }
//! # Ok(())
//! # }
//! ```

pub mod id;
pub mod topology;

pub mod message;

pub mod settings;

pub mod stats;

#[doc(hidden)]
pub mod proto;

mod net;

pub use id::{ClusterId, Datacenter, Incarnation, Lane, NameError, NodeId, Seq, SpiffeError, SpiffeId};
pub use message::{Batch, Delivery, FailReason, Message, Outcome, Route};
#[doc(hidden)]
pub use net::why_not_bound;
pub use net::{
    CHECK_INTERVAL, CertificateError, CertificateInfo, Credentials, EXPIRED_SPAN_S, Reloaded, Revocation,
    RevocationList, Secured, Security, Standing, TlsError, TlsFiles, is_issued_by, list_of_another,
    read_certificates, read_revocation_lists,
};
pub use net::{Client, Config, Inbox, JoinError, Mesh, Receipt, SendError, TrySendError, join};
pub use proto::node::PingError;
pub use settings::{Settings, SettingsError};
pub use stats::{Stats, Status};
pub use topology::{NodeSpec, Roles, Topology, TopologyChange, TopologyChangeError, TopologyError};
pub use trunkline_codec::{Payload, Stage};

#[cfg(feature = "sim")]
pub mod sim;
