//! The nodes of the demo: one process, real TCP, every node on a loopback address of its own. Nodes of the first
//! datacenter reach the others only through relays of the shaped WAN.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use trunkline_mesh::{
    Client, ClusterId, Config, Datacenter, Inbox, JoinError, Mesh, NameError, NodeId, NodeSpec, Roles,
    Topology, TopologyError, join,
};

use super::wan::{RelayHandle, Wan};
use super::{Dc, Member};

/// How many of everything.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Datacenters; the leader is in the first.
    pub dcs: usize,
    /// Members per datacenter.
    pub members: usize,
    /// Proxies per datacenter.
    pub proxies: usize,
}

/// Why the nodes could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// An address or a socket.
    #[error("cannot open a socket on loopback: {0}")]
    Socket(#[from] io::Error),
    /// A name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A topology.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// A node.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The nodes did not find each other.
    #[error("the nodes did not link up within {0} s: is this machine overloaded?")]
    NotReady(u64),
}

/// All nodes.
#[derive(Debug)]
pub struct Cluster {
    /// The leader's sending side.
    pub leader: Client,
    proxies: BTreeMap<NodeId, Mesh>,
    members: Vec<Mesh>,
    ids: Vec<NodeId>,
    names: Vec<Datacenter>,
    home: Arc<Topology>,
    _relays: Vec<RelayHandle>,
}

/// Names of the first datacenters; further ones are numbered.
const NAMES: [&str; 3] = ["us", "eu", "ap"];

pub(super) fn dc_name(dc: usize) -> String {
    NAMES.get(dc).map_or_else(|| format!("dc{}", dc + 1), |name| (*name).to_owned())
}

/// An address of its own for the node: 127.100.x.1 is the first of the first datacenter, where x is this run's, so that another
/// that begins meanwhile is not given the same port. The port is one that is free now.
pub(super) fn free_address(block: u8, at: usize) -> io::Result<SocketAddr> {
    held_address(block, at)?.local_addr()
}

/// The same, taken as long as the listener is there: whoever draws several does not draw one twice.
pub(super) fn held_address(block: u8, at: usize) -> io::Result<TcpListener> {
    let [run, ..] = std::process::id().to_le_bytes();
    let further =
        u8::try_from(at / 200).map_err(|_| io::Error::other("too many nodes for one datacenter"))?;
    let third = run.wrapping_add(further);
    let fourth = u8::try_from(at % 200).unwrap_or(0) + 1;
    TcpListener::bind((Ipv4Addr::new(127, block, third, fourth), 0))
}

pub(super) fn block(base: u8, dc: usize) -> io::Result<u8> {
    u8::try_from(dc)
        .ok()
        .and_then(|dc| base.checked_add(dc))
        .ok_or_else(|| io::Error::other("too many datacenters"))
}

impl Cluster {
    /// Starts all members, then all proxies, then the leader, and waits until they are linked.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn start(shape: Shape, wan: &Wan, seed: u64) -> Result<(Self, Vec<Inbox>), ClusterError> {
        let names: Vec<Datacenter> =
            (0..shape.dcs).map(|dc| Datacenter::new(&dc_name(dc))).collect::<Result<_, _>>()?;
        let leader = NodeId::new("leader")?;
        let mut specs = vec![NodeSpec {
            id: leader.clone(),
            datacenter: names[0].clone(),
            roles: Roles::ORIGIN,
            address: None,
        }];
        for (dc, name) in names.iter().enumerate() {
            let kinds = [("proxy", shape.proxies, Roles::PROXY), ("member", shape.members, Roles::MEMBER)];
            let mut at = 0;
            for (kind, count, roles) in kinds {
                for number in 1..=count {
                    let id = NodeId::new(&format!("{name}-{kind}-{number}"))?;
                    let address = Some(free_address(block(100, dc)?, at)?);
                    specs.push(NodeSpec { id, datacenter: name.clone(), roles, address });
                    at += 1;
                }
            }
        }
        let cluster = ClusterId::new("demo")?;
        let home = Arc::new(Topology::new(cluster.clone(), specs.clone())?);

        // What the leader dials in other datacenters is the near end of a relay.
        let mut relays = Vec::new();
        let mut seen_from_leader = Vec::new();
        for (at, mut spec) in specs.into_iter().enumerate() {
            let dc = names.iter().position(|name| *name == spec.datacenter).unwrap_or(0);
            if let Some(target) = spec.address.filter(|_| dc > 0) {
                let near = SocketAddr::new(free_address(block(200, dc)?, at)?.ip(), 0);
                let relay = wan.relay(Dc(0), Dc(dc), near, target)?;
                spec.address = Some(relay.local_addr());
                relays.push(relay);
            }
            seen_from_leader.push(spec);
        }
        let seen_from_leader = Arc::new(Topology::new(cluster, seen_from_leader)?);

        let (mut members, mut inboxes, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        for name in &names {
            for spec in home.members_of(name) {
                let (client, inbox) = join(config(&home, &spec.id, seed)).await?;
                members.push(client.mesh().clone());
                inboxes.push(inbox);
                ids.push(spec.id.clone());
            }
        }
        let mut proxies = BTreeMap::new();
        for spec in home.nodes().filter(|spec| spec.roles.proxy) {
            let (client, _) = join(config(&home, &spec.id, seed)).await?;
            proxies.insert(spec.id.clone(), client.mesh().clone());
        }
        let (leader, _) = join(config(&seen_from_leader, &leader, seed)).await?;
        let cluster = Self { leader, proxies, members, ids, names, home, _relays: relays };
        cluster.linked().await?;
        Ok((cluster, inboxes))
    }

    /// Waits until the leader is linked to every proxy it may need and every proxy to its members.
    async fn linked(&self) -> Result<(), ClusterError> {
        const SECONDS: u64 = 20;
        let ready = || {
            let up = |mesh: &Mesh, wanted: usize| {
                mesh.status().links.iter().filter(|link| link.up && link.dialled).count() >= wanted
            };
            let members_of = |name: &Datacenter| self.home.members_of(name).count();
            let remote = self.names[1..].iter().map(|name| self.home.proxies_of(name).count()).sum::<usize>();
            up(self.leader.mesh(), members_of(&self.names[0]) + remote)
                && self.proxies.iter().all(|(id, mesh)| {
                    self.home.node(id).is_some_and(|spec| up(mesh, members_of(&spec.datacenter)))
                })
        };
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(SECONDS);
        while !ready() {
            if tokio::time::Instant::now() > deadline {
                return Err(ClusterError::NotReady(SECONDS));
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Names of the datacenters.
    #[must_use]
    pub fn names(&self) -> &[Datacenter] {
        &self.names
    }

    /// The node behind a member's number.
    #[must_use]
    pub fn member(&self, member: Member) -> &NodeId {
        &self.ids[member.0]
    }

    /// Members by number, with their datacenters.
    #[must_use]
    pub fn members(&self) -> Vec<Dc> {
        let dc_of = |id: &NodeId| {
            let spec = self.home.node(id)?;
            self.names.iter().position(|name| *name == spec.datacenter)
        };
        self.ids.iter().map(|id| Dc(dc_of(id).unwrap_or(0))).collect()
    }

    /// The proxy that the leader uses towards a datacenter now.
    #[must_use]
    pub fn proxy_in_use(&self, dc: Dc) -> Option<NodeId> {
        let status = self.leader.mesh().status();
        let site = status.datacenters.iter().find(|site| site.name == self.names[dc.0])?;
        site.routes.iter().find(|route| route.in_use).map(|route| route.proxy.clone())
    }

    /// The route towards a datacenter, in words.
    #[must_use]
    pub fn route(&self, dc: Dc) -> String {
        match (dc.0, self.proxy_in_use(dc)) {
            (0, _) => "direct (local)".to_owned(),
            (_, Some(proxy)) => proxy.to_string(),
            (_, None) => "direct".to_owned(),
        }
    }

    /// Closes every socket of a proxy without a word, as a killed process would.
    pub fn kill(&self, proxy: &NodeId) {
        if let Some(mesh) = self.proxies.get(proxy) {
            mesh.kill();
        }
    }

    /// The proxy reads and answers pings, and passes nothing on; or does again.
    pub fn set_frozen(&self, proxy: &NodeId, frozen: bool) {
        if let Some(mesh) = self.proxies.get(proxy) {
            mesh.set_frozen(frozen);
        }
    }

    /// Starts a proxy again after it was killed. Gives the counters of its last life.
    ///
    /// # Errors
    /// [`JoinError`].
    pub async fn restart(&mut self, proxy: &NodeId) -> Result<(), JoinError> {
        let (client, _) = join(config(&self.home, proxy, 1)).await?;
        self.proxies.insert(proxy.clone(), client.mesh().clone());
        Ok(())
    }

    /// The proxies that live now.
    pub fn proxies(&self) -> impl Iterator<Item = (&NodeId, &Mesh)> {
        self.proxies.iter()
    }

    /// Ends all nodes.
    pub async fn stop(self) {
        self.leader.mesh().drain().await;
        for mesh in self.proxies.values().chain(&self.members) {
            mesh.close();
        }
        for mesh in self.proxies.values().chain(&self.members) {
            mesh.closed().await;
        }
    }
}

fn config(topology: &Arc<Topology>, node: &NodeId, seed: u64) -> Config {
    let mut config = Config::new(Arc::clone(topology), node.clone());
    config.seed = Some(seed);
    config
}
