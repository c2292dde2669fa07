//! A replicated key-value store as processes: ours or etcd, on loopback or with each node in a network namespace.

use std::fmt::Write as _;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// A cluster has a leader by then.
const SOON: Duration = Duration::from_secs(30);
/// Clock ticks of `/proc/PID/stat` in a second, as Linux has them for programs.
const TICKS_PER_S: f64 = 100.0;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Trunkline,
    Etcd,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Trunkline => "trunkline",
            Self::Etcd => "etcd",
        }
    }
}

/// Where one node of a store runs.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) dc: String,
    pub(crate) ip: IpAddr,
    /// The network namespace; none for that of the bench.
    pub(crate) namespace: Option<String>,
}

impl Host {
    /// What runs `program` there.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        match &self.namespace {
            None => Command::new(program.as_ref()),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program.as_ref());
                command
            }
        }
    }
}

/// Processes that end with it.
pub(crate) struct Store {
    pub(crate) kind: Kind,
    log: PathBuf,
    children: Vec<Child>,
    /// The API of each host, in their order.
    pub(crate) clients: Vec<SocketAddr>,
    /// Which host leads.
    pub(crate) leader: usize,
}

impl Drop for Store {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Store {
    /// `proxies`: every node is a proxy of its datacenter too. Without them messages go from node to node, as etcd's do.
    pub(crate) fn trunkline(directory: &Path, hosts: &[Host], proxies: bool) -> Self {
        let (mesh, clients) = (addresses(hosts, 7400), addresses(hosts, 7480));
        let insecure =
            if hosts.iter().all(|host| host.ip.is_loopback()) { "" } else { "[security]\ninsecure = true\n" };
        let mut file = format!("[cluster]\nid = \"bench\"\n[log]\nlevel = \"warn\"\n{insecure}");
        let roles = if proxies { "\"origin\", \"member\", \"proxy\"" } else { "\"origin\", \"member\"" };
        for (number, ((host, mesh), client)) in hosts.iter().zip(&mesh).zip(&clients).enumerate() {
            let admin =
                host.namespace.as_ref().map_or(String::new(), |_| format!("admin = \"{}\"\n", admin(number)));
            let _ = write!(
                file,
                "[[node]]\nid = \"{}\"\ndc = \"{}\"\nroles = [{roles}]\naddress = \"{mesh}\"\n{admin}\
                 api = \"{client}\"\ndata = \"trunkline-{{node}}\"\n",
                host.name, host.dc
            );
        }
        let path = directory.join("cluster.toml");
        std::fs::write(&path, file).expect("a configuration");
        let command = |host: &Host| {
            let mut command = host.command(env!("CARGO_BIN_EXE_trunkline"));
            command.arg("node").arg("--config").arg(&path).arg("--node").arg(&host.name);
            command
        };
        Self::start(
            Kind::Trunkline,
            hosts.iter().map(command).collect(),
            clients,
            &directory.join("trunkline.log"),
        )
    }

    /// None where it is not installed.
    pub(crate) fn etcd(directory: &Path, hosts: &[Host]) -> Option<Self> {
        let paths = std::env::var_os("PATH")?;
        let program: PathBuf =
            std::env::split_paths(&paths).map(|path| path.join("etcd")).find(|path| path.is_file())?;
        let (peers, clients) = (addresses(hosts, 2380), addresses(hosts, 2379));
        let all: Vec<String> =
            hosts.iter().zip(&peers).map(|(host, peer)| format!("{}=http://{peer}", host.name)).collect();
        let command = |((host, peer), client): ((&Host, &SocketAddr), &SocketAddr)| {
            let (peer, client) = (format!("http://{peer}"), format!("http://{client}"));
            let mut command = host.command(&program);
            command
                .args(["--name", &host.name, "--data-dir"])
                .arg(directory.join(format!("etcd-{}", host.name)))
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--initial-cluster", &all.join(","), "--log-level", "error", "--logger", "zap"]);
            command
        };
        let commands = hosts.iter().zip(&peers).zip(&clients).map(command).collect();
        Some(Self::start(Kind::Etcd, commands, clients, &directory.join("etcd.log")))
    }

    fn start(kind: Kind, mut commands: Vec<Command>, clients: Vec<SocketAddr>, log: &Path) -> Self {
        let path = log.to_owned();
        let log = File::options().create(true).append(true).open(log).expect("a log file");
        for command in &mut commands {
            command.stdout(log.try_clone().expect("the same file"));
            command.stderr(Stdio::from(log.try_clone().expect("the same file")));
        }
        let children = commands.iter_mut().map(|command| command.spawn().expect("it starts")).collect();
        Self { kind, log: path, children, clients, leader: 0 }
    }

    pub(crate) async fn find_leader(&mut self) {
        let deadline = Instant::now() + SOON;
        while Instant::now() < deadline {
            for (host, &client) in self.clients.iter().enumerate() {
                let (path, leads) = match self.kind {
                    Kind::Trunkline => ("/v1/status", "\"role\":\"leader\""),
                    Kind::Etcd => ("/metrics", "\netcd_server_is_leader 1"),
                };
                if get(client, path).await.is_some_and(|text| text.contains(leads)) {
                    self.leader = host;
                    return;
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        panic!("{} has no leader after {SOON:?}; its processes said:\n{log}", self.kind.name());
    }

    pub(crate) fn leader(&self) -> SocketAddr {
        self.clients[self.leader]
    }

    /// CPU time of all its processes so far.
    pub(crate) fn cpu(&self) -> Duration {
        let ticks = |child: &Child| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
            // The name before it may hold spaces.
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
        };
        let ticks: f64 = self.children.iter().filter_map(ticks).sum();
        Duration::from_secs_f64(ticks / TICKS_PER_S)
    }
}

/// The admin API of a node of ours in a namespace: members are changed on loopback only.
pub(crate) fn admin(host: usize) -> SocketAddr {
    let port = u16::try_from(9400 + host).expect("few hosts");
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Addresses that nobody listens on: of a port of its own, or, where a host is alone in its namespace, of `port`.
fn addresses(hosts: &[Host], port: u16) -> Vec<SocketAddr> {
    // All at once: no two are the same.
    let listeners: Vec<_> = hosts
        .iter()
        .map(|host| host.namespace.is_none().then(|| TcpListener::bind((host.ip, 0)).expect("a free port")))
        .collect();
    let address = |(host, listener): (&Host, &Option<TcpListener>)| match listener {
        Some(listener) => listener.local_addr().expect("it is bound"),
        None => SocketAddr::new(host.ip, port),
    };
    hosts.iter().zip(&listeners).map(address).collect()
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Option<String> {
    let request = hyper::Request::get(path).header("host", "localhost").body(Full::default()).ok()?;
    ask(address, request).await
}

pub(crate) async fn ask(address: SocketAddr, request: hyper::Request<Full<Bytes>>) -> Option<String> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let body = sender.send_request(request).await.ok()?.into_body().collect().await.ok()?;
    String::from_utf8(body.to_bytes().to_vec()).ok()
}
