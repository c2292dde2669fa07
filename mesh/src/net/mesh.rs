//! The handle for everything but messages: numbers, and the end.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use super::first_open;
use super::shared::{Core, Shared};
use super::tls::{Reloaded, Secured, Standing, Tls, TlsError, accept_caller, wall_s};
use crate::id::{Datacenter, NodeId};
use crate::proto::node::PingError;
use crate::settings::{Settings, SettingsError};
use crate::stats::decision::{Pinged, RoutesStatus};
use crate::stats::{Readiness, SecurityStatus, Stats, Status};
use crate::topology::{NodeSpec, Topology, TopologyChange, TopologyChangeError};

/// Round trips that may be waited for at one time.
const PINGS_MAX: usize = 64;

/// Of the time for a drain, what is kept for farewells at most.
const FAREWELL_RESERVED: Duration = Duration::from_millis(500);

/// A round trip that somebody waits for. It is not tried again once nobody does.
struct Asked<'a> {
    shared: &'a Arc<Shared>,
    node: &'a NodeId,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let _ = self.shared.with(|core, now| {
            let Some(waiters) = core.pings.get_mut(self.node) else { return };
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.is_empty() {
                core.pings.remove(self.node);
                core.node.end_ping(self.node, now);
            }
        });
    }
}

/// A running node. Cheap to clone; when the last handle ([`Client`](super::Client) and [`Inbox`](super::Inbox) hold one
/// each) is dropped, the node closes.
#[derive(Clone)]
pub struct Mesh {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close(false);
    }
}

impl Mesh {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { handle: Arc::new(Handle { shared }) }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// Everything counted since the start. A copy.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = self.shared();
        let accept_errors = shared.accept_errors.load(Ordering::Relaxed);
        let tls = shared.tls.as_ref().map_or_else(Tls::no_stats, |tls| tls.stats(wall_s()));
        Stats { accept_errors, tls, ..shared.look(|core, _| core.node.stats()) }
    }

    /// What the node is and does now.
    #[must_use]
    pub fn status(&self) -> Status {
        let shared = self.shared();
        let security = match &shared.tls {
            Some(tls) => tls.security(wall_s()),
            None => SecurityStatus {
                links: if shared.loopback { "loopback" } else { "insecure" },
                ..SecurityStatus::default()
            },
        };
        Status { security, ..shared.look(Core::status) }
    }

    /// What its readiness is judged by: a small part of [`Mesh::status`], for who asks often.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let certificate_fault = self.shared().tls.as_ref().and_then(|tls| tls.fault(wall_s()));
        Readiness { certificate_fault, ..self.shared().look(|core, _| core.node.readiness()) }
    }

    /// How a sender reaches every datacenter, and the latest decisions that led there. A copy.
    #[must_use]
    pub fn routes(&self) -> RoutesStatus {
        let mut routes = self.shared().look(|core, now| core.node.routes_of_none(now));
        let mut from = 0;
        // One at a time: decisions are many, and what waits for the lock meanwhile is the data path.
        while let Some((index, of)) = self.shared().look(|core, now| core.node.routes_from(from, now)) {
            routes.datacenters.push(of);
            from = index + 1;
        }
        routes
    }

    /// One round trip through the mesh. To a member that this node sends to it takes the way that messages would take now,
    /// on the control lane, and falls back as they do; the member's mesh answers and its application sees nothing. To
    /// another peer, as a proxy, it is a ping of the link. While messages of the lane are acknowledged at the same time it
    /// may look shorter than it was.
    ///
    /// # Errors
    /// [`PingError`], [`PingError::TimedOut`] after `patience`.
    pub async fn ping(&self, node: &NodeId, patience: Duration) -> Result<Pinged, PingError> {
        let asked = self.shared().with(|core, now| {
            if core.closed {
                return Err(PingError::Closed);
            }
            if core.pings.values().map(Vec::len).sum::<usize>() >= PINGS_MAX {
                return Err(PingError::TooMany);
            }
            core.node.ping(node, now)?;
            let (sender, receiver) = oneshot::channel();
            core.pings.entry(node.clone()).or_default().push(sender);
            Ok(receiver)
        });
        let receiver = asked.unwrap_or(Err(PingError::Closed))?;
        let _asked = Asked { shared: self.shared(), node };
        // Moved into the timeout, so that it is gone when `_asked` looks.
        match tokio::time::timeout(patience, receiver).await {
            Ok(pinged) => pinged.map_err(|_| PingError::Closed),
            Err(_) => Err(self.shared().look(|core, now| core.node.unanswered(node, patience, now))),
        }
    }

    /// Where the node listens; `None` for an origin that is nothing else.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.shared().local_addr
    }

    /// Reads certificate, key and CA again, as it also happens every [`TlsFiles::check_interval`](super::TlsFiles). If they
    /// are sound, connections that begin from now on use them, on both sides; those that are open go on with what they began
    /// with. For a handler of SIGHUP. Cancel-safe: what was begun is finished.
    ///
    /// # Errors
    /// [`TlsError`]: the new files are not used, the old ones stay in use.
    pub async fn reload(&self) -> Result<Reloaded, TlsError> {
        self.shared().reload().await
    }

    /// Links are within TLS, so that [`Mesh::accept_caller`] has certificates to go by.
    #[must_use]
    pub fn is_within_tls(&self) -> bool {
        self.shared().tls.is_some()
    }

    /// The accepting side of a connection that is no link, to a service that the program runs itself, as its admin API: TLS
    /// with the node's certificates as they are now. Whoever shows a certificate that the cluster's CA issued in the name of
    /// this cluster comes through, whether a node of the topology or not, and unless it was revoked. `None`: the handshake
    /// failed, which was counted in [`Stats::tls`](crate::Stats) and logged under `peer`, or this node has no certificates.
    ///
    /// It waits for the peer without end: the caller limits that, by dropping it.
    pub async fn accept_caller<S>(&self, stream: S, peer: &str) -> Option<Secured<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        accept_caller(self.shared().tls.as_ref()?, stream, peer).await
    }

    /// Ends when the certificate of a caller is good no more, and says why: it was revoked, its CA was taken out, or it expired
    /// more than a day ago. That is looked at whenever the files are ([`Mesh::reload`],
    /// [`TlsFiles::check_interval`](super::TlsFiles)), as it is for links. Whoever serves the caller ends its connection then.
    /// Cancel-safe.
    pub async fn until_distrusted(&self, caller: &Standing) -> String {
        match &self.shared().tls {
            Some(tls) => tls.until_distrusted(caller).await,
            None => std::future::pending().await,
        }
    }

    /// Who is in the cluster, as this node knows it now.
    #[must_use]
    pub fn topology(&self) -> Arc<Topology> {
        self.shared().look(|core, _| Arc::clone(core.node.topology()))
    }

    /// Goes on with another topology: links to nodes that left end, new ones are dialled, routing follows at once. Messages
    /// under way to a destination that left, or that stands in another datacenter now, end as
    /// [`FailReason::Removed`](crate::FailReason::Removed); senders that wait for a datacenter that left are told
    /// [`SendError::UnknownDatacenter`](crate::SendError::UnknownDatacenter). A destination that comes back goes on where
    /// it was: what it had already, it does not get again. Says what is different.
    ///
    /// Only this node's view changes: nodes refuse links of peers that are not in theirs, so give the change to all.
    ///
    /// # Errors
    /// [`TopologyChangeError`]: nothing was changed. What a node itself is cannot change while it runs.
    pub fn set_topology(
        &self,
        topology: impl Into<Arc<Topology>>,
    ) -> Result<Vec<TopologyChange>, TopologyChangeError> {
        let topology = topology.into();
        self.change_topology(|_| Ok(topology))
    }

    /// As [`Mesh::set_topology`], with one more node.
    ///
    /// # Errors
    /// [`TopologyChangeError`]: nothing was changed.
    pub fn add_node(&self, node: NodeSpec) -> Result<Vec<TopologyChange>, TopologyChangeError> {
        self.change_topology(|now| Ok(now.with(node)?.into()))
    }

    /// As [`Mesh::set_topology`], with another address, datacenter or other roles of one node.
    ///
    /// # Errors
    /// [`TopologyChangeError`]: nothing was changed.
    pub fn replace_node(&self, node: NodeSpec) -> Result<Vec<TopologyChange>, TopologyChangeError> {
        self.change_topology(|now| {
            if now.node(&node.id).is_none() {
                return Err(TopologyChangeError::UnknownNode(node.id));
            }
            Ok(now.without(|known| known.id == node.id).with(node)?.into())
        })
    }

    /// As [`Mesh::set_topology`], without one node.
    ///
    /// # Errors
    /// [`TopologyChangeError`]: nothing was changed.
    pub fn remove_node(&self, node: &NodeId) -> Result<Vec<TopologyChange>, TopologyChangeError> {
        self.change_topology(|now| {
            if now.node(node).is_none() {
                return Err(TopologyChangeError::UnknownNode(node.clone()));
            }
            Ok(now.without(|known| known.id == *node).into())
        })
    }

    /// As [`Mesh::set_topology`], without all nodes of one datacenter.
    ///
    /// # Errors
    /// [`TopologyChangeError`]: nothing was changed.
    pub fn remove_datacenter(
        &self,
        datacenter: &Datacenter,
    ) -> Result<Vec<TopologyChange>, TopologyChangeError> {
        self.change_topology(|now| {
            if !now.has_datacenter(datacenter) {
                return Err(TopologyChangeError::UnknownDatacenter(datacenter.clone()));
            }
            Ok(now.without(|known| known.datacenter == *datacenter).into())
        })
    }

    fn change_topology(
        &self,
        change: impl FnOnce(&Topology) -> Result<Arc<Topology>, TopologyChangeError>,
    ) -> Result<Vec<TopologyChange>, TopologyChangeError> {
        let changed = self.shared().with(|core, now| {
            if core.closed {
                return Err(TopologyChangeError::Closed);
            }
            let before = Arc::clone(core.node.topology());
            let after = change(&before)?;
            if let Some(address) = first_open(&after).filter(|_| self.shared().loopback) {
                return Err(TopologyChangeError::Unprotected(address));
            }
            core.node.set_topology(Arc::clone(&after), now)?;
            Ok((before, after))
        });
        let (before, after) = changed.unwrap_or(Err(TopologyChangeError::Closed))?;
        Ok(before.changes_to(&after))
    }

    /// Goes on with other limits and timers. What runs already keeps its deadline; what two ends agreed on, as the longest
    /// frame, holds until their link ends; the kernel's own timeout of a connection stays what it was when that began.
    ///
    /// # Errors
    /// [`SettingsError`]: nothing was changed.
    pub fn set_settings(&self, settings: &Settings) -> Result<(), SettingsError> {
        settings.check()?;
        let _ = self.shared().with(|core, now| core.node.set_settings(settings, now));
        Ok(())
    }

    /// Goes away in good order: takes nothing new in, tells all peers, finishes what it has, but for no longer than
    /// `drain_timeout`, then closes. What is undecided then fails with `Closed`. Returns when all sockets are closed, which the
    /// last quarter of that time is for, or when it is over: peers that have not taken their farewell by then go without.
    ///
    /// Gives whether all was finished in time; a node that was closed before has nothing left to finish.
    ///
    /// Sends that wait for budget fail at once with `Closed`. If the future is dropped, the node stays draining until it
    /// is closed.
    pub async fn drain(&self) -> bool {
        let shared = self.shared();
        // Those that wait are told after the lock.
        drop(shared.with(|core, now| {
            core.draining = true;
            if !core.closed {
                core.node.drain(now);
            }
            std::mem::take(&mut core.waiting)
        }));
        let finished = async {
            loop {
                let mut quiet = std::pin::pin!(shared.quiet.notified());
                // Before the look: a node that falls quiet in between is then not missed.
                quiet.as_mut().enable();
                if shared.look(|core, _| core.is_quiet()) {
                    return;
                }
                quiet.await;
            }
        };
        let patience = shared.look(|core, _| core.node.settings().drain_timeout);
        let end = tokio::time::Instant::now() + patience;
        let farewells = (patience / 4).min(FAREWELL_RESERVED);
        let finished = tokio::time::timeout(patience - farewells, finished).await.is_ok();
        if !finished {
            let (after, for_farewells) = (patience - farewells, farewells);
            tracing::warn!(?after, ?for_farewells, "drain timed out: closing with work undone");
        }
        self.close();
        let _ = tokio::time::timeout_at(end, self.closed()).await;
        finished
    }

    /// Ends the node now: undecided messages fail with `Closed`, peers are told, the listener closes. Returns at once;
    /// [`Mesh::closed`] waits for the end. What is in the inbox can still be taken.
    pub fn close(&self) {
        self.shared().close(false);
    }

    /// Waits until the node is closed and its last socket with it, at most about two seconds after the close.
    pub async fn closed(&self) {
        self.shared().closed().await;
    }

    /// A fault for the demo and for tests: a proxy reads batches and forgets them, while its links stay alive. Only the
    /// process itself can do this to its node.
    #[doc(hidden)]
    pub fn set_frozen(&self, frozen: bool) {
        let _ = self.shared().with(|core, _| core.node.set_frozen(frozen));
    }

    /// A fault for the demo and for tests: drops every socket at once without a word, as `kill -9` would. Only the
    /// process itself can do this to its node.
    #[doc(hidden)]
    pub fn kill(&self) {
        self.shared().close(true);
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("local_addr", &self.local_addr()).finish_non_exhaustive()
    }
}
