//! A cluster on loopback addresses, and a stranger who speaks the protocol by hand.
#![allow(dead_code)] // Every test binary uses its own part.

pub(crate) mod pki;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use pki::{Pki, Special};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use trunkline_mesh::proto::frame::{FrameReader, FrameType, Opened, Received, control_frame, frame_around};
use trunkline_mesh::proto::handshake::{role_bits, transcript};
use trunkline_mesh::proto::wire::{
    Confirm, Hello, Offer, PREAMBLE, RefuseCode, Welcome, encode, offered_versions,
};
use trunkline_mesh::{
    Client, ClusterId, Config, Datacenter, Inbox, Incarnation, JoinError, Lane, Mesh, NodeId, NodeSpec,
    Roles, Security, Settings, TlsFiles, Topology, join,
};

/// Longer than anything here takes on a loaded machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The files of a node, as they are named in a directory of them.
pub(crate) fn files(pki: &Path, node: &str) -> TlsFiles {
    TlsFiles {
        certificate: pki.join(format!("{node}.crt")),
        key: pki.join(format!("{node}.key")),
        ca: pki.join("ca.crt"),
        crl: Some(pki.join("ca.crl")).filter(|path| path.exists()),
        check_interval: Duration::from_secs(3600),
    }
}

/// Every node of a test process gets an address of its own, so that no port is ever taken twice.
fn next_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let host = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(host < 255, "a test process has 254 addresses");
    SocketAddr::from((Ipv4Addr::new(127, high | 0x80, low, host), 7400))
}

pub(crate) fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(crate) fn dc(name: &str) -> Datacenter {
    Datacenter::new(name).unwrap()
}

/// Waits until the condition holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        ticks.tick().await;
    }
}

/// Waits for a future, but not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// A topology, and the settings its nodes start with.
pub(crate) struct Cluster {
    pub(crate) topology: Arc<Topology>,
    pub(crate) settings: Settings,
    /// Who certifies its nodes; plaintext without it.
    pub(crate) pki: Option<Pki>,
}

/// One running node.
pub(crate) struct Running {
    pub(crate) client: Client,
    pub(crate) inbox: Inbox,
}

impl Running {
    pub(crate) fn mesh(&self) -> &Mesh {
        self.client.mesh()
    }

    /// The link this node dialled to a peer is up.
    pub(crate) fn reaches(&self, peer: &str) -> bool {
        let links = self.mesh().status().links;
        links.iter().any(|link| link.dialled && link.up && link.peer.as_str() == peer)
    }
}

impl Cluster {
    /// Nodes as (id, datacenter, roles).
    pub(crate) fn new(nodes: &[(&str, &str, Roles)]) -> Self {
        let specs = nodes.iter().map(|(name, datacenter, roles)| NodeSpec {
            id: id(name),
            datacenter: dc(datacenter),
            roles: *roles,
            address: roles.accepts().then(next_address),
        });
        let topology = Topology::new(ClusterId::new("test").unwrap(), specs).unwrap();
        // Loopback answers in microseconds: what is short for a WAN is long here.
        let settings = Settings { redial_max: Duration::from_millis(100), ..Settings::default() };
        let plain = Self { topology: Arc::new(topology), settings, pki: None };
        if std::env::var_os("MESH_TLS").is_some() { plain.with_tls() } else { plain }
    }

    /// The same with a certificate for every node.
    pub(crate) fn with_tls(self) -> Self {
        let pki = Pki::new();
        for node in self.topology.nodes() {
            pki.issue(node.id.as_str(), node.datacenter.as_str(), &Special::default());
        }
        Self { pki: Some(pki), ..self }
    }

    pub(crate) fn address(&self, node: &str) -> SocketAddr {
        self.topology.node(&id(node)).unwrap().address.unwrap()
    }

    pub(crate) async fn try_start(&self, node: &str) -> Result<Running, JoinError> {
        self.try_start_offering(node, Offer::default()).await
    }

    /// As [`Cluster::start`], of a node of another version.
    pub(crate) async fn start_offering(&self, node: &str, offer: Offer) -> Running {
        self.try_start_offering(node, offer).await.unwrap()
    }

    async fn try_start_offering(&self, node: &str, offer: Offer) -> Result<Running, JoinError> {
        let config = Config {
            offer,
            settings: self.settings.clone(),
            seed: Some(7),
            security: self
                .pki
                .as_ref()
                .map_or(Security::Loopback, |pki| Security::Tls(files(pki.path(), node))),
            ..Config::new(Arc::clone(&self.topology), id(node))
        };
        let (client, inbox) = join(config).await?;
        Ok(Running { client, inbox })
    }

    pub(crate) async fn start(&self, node: &str) -> Running {
        self.try_start(node).await.unwrap()
    }

    /// The same where a node of before may still be letting go of the address.
    pub(crate) async fn start_anew(&self, node: &str) -> Running {
        let start = async {
            loop {
                match self.try_start(node).await {
                    Ok(running) => return running,
                    Err(JoinError::Bind { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        soon("the address is free", start).await
    }

    /// What a node of this cluster would say when it dials.
    pub(crate) fn hello(&self, node: &str, lane: Lane) -> Hello {
        let spec = self.topology.node(&id(node)).unwrap();
        Hello {
            cluster: self.topology.cluster().clone(),
            node: spec.id.clone(),
            datacenter: spec.datacenter.clone(),
            roles: role_bits(spec.roles),
            incarnation: Incarnation(5),
            versions: offered_versions(),
            features: 0,
            frame_bytes_max: 1 << 24,
            link: 77,
            lane: u8::try_from(lane.index()).unwrap(),
            sent_us: 0,
        }
    }
}

/// A connection driven by hand.
pub(crate) struct Raw<S = TcpStream> {
    stream: S,
    buffer: BytesMut,
    reader: FrameReader,
}

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(soon("connect", TcpStream::connect(address)).await.unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, buffer: BytesMut::new(), reader: FrameReader::new() }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.try_write(bytes).await.unwrap();
    }

    pub(crate) async fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        soon("write", self.stream.write_all(bytes)).await?;
        soon("flush", self.stream.flush()).await
    }

    /// The next frame, or `None` at a clean end. A reset is a failure: it would have destroyed last words.
    pub(crate) async fn read(&mut self) -> Option<Received> {
        self.try_read().await.expect("no reset")
    }

    /// As [`Raw::read`], of a peer that may reset.
    pub(crate) async fn try_read(&mut self) -> std::io::Result<Option<Received>> {
        loop {
            if let Some((received, _)) = self.reader.read(&mut self.buffer).unwrap() {
                return Ok(Some(received));
            }
            if soon("read", self.stream.read_buf(&mut self.buffer)).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Expects a refusal and then the end.
    pub(crate) async fn refusal(&mut self) -> RefuseCode {
        let code = match self.read().await {
            Some(Received::Refuse(refuse)) => RefuseCode::from_wire(refuse.code).unwrap(),
            other => panic!("expected a refusal, got {other:?}"),
        };
        assert!(self.read().await.is_none(), "the end follows");
        code
    }

    pub(crate) async fn say_hello(&mut self, hello: &Hello) {
        let frame = control_frame(FrameType::Hello, Lane::Control, hello);
        self.write(&[&PREAMBLE[..], &frame].concat()).await;
    }

    /// The whole handshake of a dialler.
    pub(crate) async fn shake_hands(&mut self, hello: &Hello, lane: Lane) -> Welcome {
        let body = encode(hello);
        let frame = frame_around(FrameType::Hello, lane, &body);
        self.write(&[&PREAMBLE[..], &frame].concat()).await;
        let Some(Received::Welcome(welcome, answer)) = self.read().await else {
            panic!("expected a welcome")
        };
        let confirm = Confirm { version: welcome.version, transcript: transcript(&body, &answer) };
        self.write(&control_frame(FrameType::Confirm, lane, &confirm)).await;
        self.reader.open(&Opened { lane, frame_bytes_max: 1 << 24, epochs: None, echo: None });
        welcome
    }
}
