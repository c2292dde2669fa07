//! Puts to a replicated key-value store of one, three and five nodes, beside etcd where `etcd` is installed.
//!
//! Both run as processes of their own on loopback, with their data on the same file system, and each makes a put durable on a
//! majority before it answers. In turns, in one run: so many clients, each with a connection of its own to the leader, put
//! random values under random keys, one at a time. Ours speaks HTTP/1.1, etcd gRPC, as its own client does.
//!
//! ```text
//! cargo bench --bench commit                            # two minutes
//! cargo bench --bench commit -- --quick                 # some seconds, rough
//! cargo bench --bench commit -- --nodes 1 --clients 64  # one of the cells
//! ```
//!
//! CPU is that of all processes of a store, from `/proc`: Linux only. The bench itself takes its share of the same cores.

use std::fmt::Write as _;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::sleep;

const NODES: [usize; 3] = [1, 3, 5];
const CLIENTS: [usize; 4] = [1, 16, 64, 256];
const VALUE_BYTES: usize = 256;
const KEYS: u64 = 10_000;
/// A cluster has a leader by then.
const SOON: Duration = Duration::from_secs(30);
/// Clock ticks of `/proc/PID/stat` in a second, as Linux has them for programs.
const TICKS_PER_S: f64 = 100.0;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let only = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1)?.parse::<usize>().ok()
    };
    let (rounds, span) =
        if quick { (1, Duration::from_millis(500)) } else { (5, Duration::from_millis(1_500)) };
    let nodes = only("--nodes").map_or(NODES.to_vec(), |nodes| vec![nodes]);
    let clients = only("--clients").map_or(CLIENTS.to_vec(), |clients| vec![clients]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run(&nodes, &clients, rounds, span));
}

async fn run(nodes: &[usize], clients: &[usize], rounds: usize, span: Duration) {
    println!("puts of {VALUE_BYTES} B to {KEYS} keys; medians of {rounds} rounds of {span:?}, in turns");
    println!();
    println!("nodes  clients  store          puts/s  p50 ms  p99 ms  CPU us/put  of etcd");
    for &nodes in nodes {
        let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the data");
        let mut stores = vec![Store::trunkline(temp.path(), nodes)];
        match Store::etcd(temp.path(), nodes) {
            Some(etcd) => stores.push(etcd),
            None => println!("etcd is not installed: there is nothing to compare with (Debian: etcd-server)"),
        }
        for store in &mut stores {
            store.find_leader().await;
        }
        for &clients in clients {
            let mut figures = vec![Vec::new(); stores.len()];
            for _ in 0..rounds {
                for (store, figures) in stores.iter().zip(&mut figures) {
                    figures.push(measure(store, clients, span).await);
                }
            }
            let medians: Vec<Figures> = figures.iter().map(|figures| Figures::median(figures)).collect();
            for (store, figure) in stores.iter().zip(&medians) {
                let mut line = format!(
                    "{nodes:>5}  {clients:>7}  {:<11}  {:>8.0}  {:>6.2}  {:>6.2}  {:>10.0}",
                    store.kind.name(),
                    figure.per_second,
                    figure.p50_ms,
                    figure.p99_ms,
                    figure.cpu_us,
                );
                if let (Kind::Trunkline, Some(peer)) = (store.kind, medians.get(1)) {
                    let _ = write!(line, "  {:>5.2} x", figure.per_second / peer.per_second);
                }
                println!("{line}");
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Trunkline,
    Etcd,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Trunkline => "trunkline",
            Self::Etcd => "etcd",
        }
    }
}

/// Processes that end with it.
struct Store {
    kind: Kind,
    children: Vec<Child>,
    clients: Vec<SocketAddr>,
    leader: SocketAddr,
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
    fn start(kind: Kind, commands: Vec<Command>, clients: Vec<SocketAddr>, log: &Path) -> Self {
        let mut children = Vec::new();
        for mut command in commands {
            let log = File::options().create(true).append(true).open(log).expect("a log file");
            let stderr = log.try_clone().expect("the same file");
            children.push(command.stdout(log).stderr(Stdio::from(stderr)).spawn().expect("it starts"));
        }
        let leader = clients[0];
        Self { kind, children, clients, leader }
    }

    /// A datacenter for each node, and no proxy: messages go from node to node, as etcd's do.
    fn trunkline(directory: &Path, nodes: usize) -> Self {
        let (mesh, clients) = (free(nodes), free(nodes));
        let mut file = "[cluster]\nid = \"bench\"\n[log]\nlevel = \"warn\"\n".to_owned();
        for (number, (mesh, client)) in mesh.iter().zip(&clients).enumerate() {
            let _ = write!(
                file,
                "[[node]]\nid = \"n{number}\"\ndc = \"d{number}\"\nroles = [\"origin\", \"member\"]\naddress = \"{mesh}\"\n\
                 api = \"{client}\"\ndata = \"trunkline-{{node}}\"\n"
            );
        }
        let path = directory.join("cluster.toml");
        std::fs::write(&path, file).expect("a configuration");
        let command = |number: usize| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline"));
            command.arg("node").arg("--config").arg(&path).arg("--node").arg(format!("n{number}"));
            command
        };
        Self::start(
            Kind::Trunkline,
            (0..nodes).map(command).collect(),
            clients,
            &directory.join("trunkline.log"),
        )
    }

    fn etcd(directory: &Path, nodes: usize) -> Option<Self> {
        let paths = std::env::var_os("PATH")?;
        let program: PathBuf =
            std::env::split_paths(&paths).map(|path| path.join("etcd")).find(|path| path.is_file())?;
        let (peers, clients) = (free(nodes), free(nodes));
        let all: Vec<String> =
            peers.iter().enumerate().map(|(number, peer)| format!("e{number}=http://{peer}")).collect();
        let command = |(number, (peer, client)): (usize, (&SocketAddr, &SocketAddr))| {
            let (peer, client) = (format!("http://{peer}"), format!("http://{client}"));
            let mut command = Command::new(&program);
            command
                .args(["--name", &format!("e{number}"), "--data-dir"])
                .arg(directory.join(format!("etcd-{number}")))
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--initial-cluster", &all.join(","), "--log-level", "error", "--logger", "zap"]);
            command
        };
        let commands = peers.iter().zip(&clients).enumerate().map(command).collect();
        Some(Self::start(Kind::Etcd, commands, clients, &directory.join("etcd.log")))
    }

    async fn find_leader(&mut self) {
        let deadline = Instant::now() + SOON;
        while Instant::now() < deadline {
            for &client in &self.clients {
                let (path, leads) = match self.kind {
                    Kind::Trunkline => ("/v1/status", "\"role\":\"leader\""),
                    Kind::Etcd => ("/metrics", "\netcd_server_is_leader 1"),
                };
                if get(client, path).await.is_some_and(|text| text.contains(leads)) {
                    self.leader = client;
                    return;
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("{} has no leader after {SOON:?}", self.kind.name());
    }

    /// Of all its processes so far.
    fn cpu(&self) -> Duration {
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

/// Addresses that nobody listens on.
fn free(count: usize) -> Vec<SocketAddr> {
    // All at once: no two are the same.
    let listeners: Vec<_> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("it is bound")).collect()
}

async fn get(address: SocketAddr, path: &str) -> Option<String> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let request = hyper::Request::get(path).header("host", "bench").body(Full::<Bytes>::default()).ok()?;
    let body = sender.send_request(request).await.ok()?.into_body().collect().await.ok()?;
    String::from_utf8(body.to_bytes().to_vec()).ok()
}

/// What clients saw of a store.
#[derive(Clone, Copy)]
struct Figures {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_us: f64,
}

impl Figures {
    fn median(rounds: &[Self]) -> Self {
        let median = |of: fn(&Self) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Self {
            per_second: median(|it| it.per_second),
            p50_ms: median(|it| it.p50_ms),
            p99_ms: median(|it| it.p99_ms),
            cpu_us: median(|it| it.cpu_us),
        }
    }
}

async fn measure(store: &Store, clients: usize, span: Duration) -> Figures {
    let mut connections = Vec::new();
    for _ in 0..clients {
        let mut connection = Connection::open(store).await;
        // Whatever a connection's first request costs is in no figure.
        connection.put().await;
        connections.push(connection);
    }
    let (before, begun) = (store.cpu(), Instant::now());
    let tasks: Vec<_> = connections
        .into_iter()
        .map(|mut connection| {
            tokio::spawn(async move {
                let mut took = Vec::new();
                while begun.elapsed() < span {
                    let sent = Instant::now();
                    connection.put().await;
                    took.push(sent.elapsed());
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await.expect("a client"));
    }
    let (elapsed, cpu) = (begun.elapsed(), store.cpu() - before);
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    Figures {
        per_second: took.len() as f64 / elapsed.as_secs_f64(),
        p50_ms: at(50),
        p99_ms: at(99),
        cpu_us: cpu.as_secs_f64() * 1e6 / took.len() as f64,
    }
}

/// A client's.
enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Grpc(http2::SendRequest<Full<Bytes>>, SocketAddr),
}

impl Connection {
    async fn open(store: &Store) -> Self {
        let stream = TcpStream::connect(store.leader).await.expect("the leader listens");
        stream.set_nodelay(true).expect("a socket");
        let io = TokioIo::new(stream);
        match store.kind {
            Kind::Trunkline => {
                let (sender, connection) = http1::handshake(io).await.expect("HTTP/1.1");
                tokio::spawn(connection);
                Self::Http1(sender)
            }
            Kind::Etcd => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
                tokio::spawn(connection);
                Self::Grpc(sender, store.leader)
            }
        }
    }

    /// Puts, and sees that it was done.
    async fn put(&mut self) {
        let key = format!("key-{:06}", fastrand::u64(..KEYS));
        let value: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(VALUE_BYTES).collect();
        match self {
            Self::Http1(sender) => {
                let request = hyper::Request::put(format!("/v1/kv/{key}")).header("host", "bench");
                let request = request.body(Full::from(value)).expect("a request");
                let response = sender.send_request(request).await.expect("an answer");
                assert_eq!(response.status(), 200);
                response.into_body().collect().await.expect("a body");
                sender.ready().await.expect("it is kept open");
            }
            Self::Grpc(sender, leader) => {
                let request = hyper::Request::post(format!("http://{leader}/etcdserverpb.KV/Put"))
                    .header("content-type", "application/grpc")
                    .header("te", "trailers");
                let request = request.body(Full::from(put_request(&key, &value))).expect("a request");
                let response = sender.send_request(request).await.expect("an answer");
                let body = response.into_body().collect().await.expect("a body");
                let status = body.trailers().and_then(|trailers| trailers.get("grpc-status"));
                assert_eq!(status.map(|status| status.as_bytes()), Some(b"0".as_slice()));
            }
        }
    }
}

/// A gRPC message: whether it is compressed, its length, and `PutRequest { key = 1, value = 2 }` of protocol buffers.
fn put_request(key: &str, value: &[u8]) -> Bytes {
    let mut fields = BytesMut::new();
    for (number, field) in [(1, key.as_bytes()), (2, value)] {
        fields.put_u8(number << 3 | 2);
        let mut left = field.len();
        while left >= 0x80 {
            fields.put_u8(left.to_le_bytes()[0] | 0x80);
            left >>= 7;
        }
        fields.put_u8(left.to_le_bytes()[0]);
        fields.put_slice(field);
    }
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(fields.len()).expect("short"));
    message.put_slice(&fields);
    message.freeze()
}
