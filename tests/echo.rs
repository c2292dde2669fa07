//! Three datacenters of processes: a value that is proposed at a follower crosses the path to the leader once. All bytes between
//! datacenters go through relays here, which count them.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use support::addresses::own;
use support::replica::Node;
use support::{exposition, http, poll, trunkline};

const SOON: Duration = Duration::from_secs(60);
const DATACENTERS: [&str; 3] = ["us", "eu", "ap"];
const VALUE_BYTES: usize = 64 << 10;

/// Bytes by the two datacenters that they went between, in either direction.
type Counts = BTreeMap<[usize; 2], Arc<AtomicU64>>;

struct Cluster {
    nodes: Vec<Node>,
    _proxies: Vec<Killed>,
    admins: Vec<SocketAddr>,
    counts: Counts,
    _data: tempfile::TempDir,
}

/// A proxy; killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Carries what comes to an address, and counts it, until the process ends.
fn relay(to: SocketAddr, count: &Arc<AtomicU64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::clone(count);
    std::thread::spawn(move || {
        for from in listener.incoming().flatten() {
            // Whom nobody answers behind it is turned away.
            let Ok(to) = TcpStream::connect(to) else { continue };
            for (from, to) in [(&from, &to), (&to, &from)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let _ = (from.set_nodelay(true), to.set_nodelay(true));
                let count = Arc::clone(&count);
                std::thread::spawn(move || carry(from, to, &count));
            }
        }
    });
    address
}

fn carry(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    let mut step = || -> io::Result<usize> {
        let bytes = from.read(&mut buffer)?;
        to.write_all(&buffer[..bytes])?;
        Ok(bytes)
    };
    while let Ok(bytes) = step() {
        if bytes == 0 {
            break;
        }
        count.fetch_add(bytes as u64, Ordering::Relaxed);
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}

impl Cluster {
    /// A replica and a proxy in each datacenter. Each has a file of its own, in which what stands elsewhere has the address of a
    /// relay.
    fn start(settings: &str) -> Self {
        let data = tempfile::tempdir().unwrap();
        let sites = DATACENTERS.len();
        let all = own(5 * sites);
        let (replicas, rest) = all.split_at(sites);
        let (proxies, rest) = rest.split_at(sites);
        let (apis, admins) = rest.split_at(sites);
        let mut counts = Counts::new();
        for (site, own) in DATACENTERS.iter().enumerate() {
            let mut text = format!("[cluster]\nid = \"echo\"\n{settings}\n");
            for (of, dc) in DATACENTERS.iter().enumerate() {
                let pair = [site.min(of), site.max(of)];
                let count = counts.entry(pair).or_default();
                let seen = |address| if of == site { address } else { relay(address, count) };
                let (replica, proxy) = (seen(replicas[of]), seen(proxies[of]));
                let (admin, proxy_admin, api) = (admins[2 * of], admins[2 * of + 1], apis[of]);
                write!(
                    text,
                    "[[node]]\nid = \"{dc}-1\"\ndc = \"{dc}\"\nroles = [\"origin\", \"member\"]\naddress = \"{replica}\"\n\
                     admin = \"{admin}\"\napi = \"{api}\"\ndata = \"{{node}}\"\n\
                     [[node]]\nid = \"{dc}-p\"\ndc = \"{dc}\"\nroles = [\"proxy\"]\naddress = \"{proxy}\"\n\
                     admin = \"{proxy_admin}\"\n"
                )
                .unwrap();
            }
            std::fs::write(data.path().join(format!("{own}.toml")), text).unwrap();
        }
        let file = |dc: &str| data.path().join(format!("{dc}.toml")).to_str().unwrap().to_owned();
        let proxy = |dc: &&str| {
            let mut command = trunkline();
            command.args(["proxy", "--config", &file(dc), "--node", &format!("{dc}-p")]);
            Killed(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
        };
        let proxies: Vec<Killed> = DATACENTERS.iter().map(proxy).collect();
        let node = |(dc, api): (&&str, &SocketAddr)| {
            Node::start(&["--config", &file(dc), "--node", &format!("{dc}-1")], *api)
        };
        let nodes: Vec<Node> = DATACENTERS.iter().zip(apis).map(node).collect();
        nodes.iter().for_each(Node::ready);
        Self { nodes, _proxies: proxies, admins: admins.to_vec(), counts, _data: data }
    }

    fn leader(&self) -> usize {
        poll("a leader", SOON, || {
            let status = http::get(self.nodes[0].api, "/v1/status")?;
            let status: Value = serde_json::from_str(&status.body).ok()?;
            let leader = status["leader"]["datacenter"].as_str()?;
            DATACENTERS.iter().position(|dc| *dc == leader)
        })
    }

    fn metric(&self, site: usize, name: &str, label: &str) -> f64 {
        let page = http::get(self.admins[2 * site], "/metrics").expect("metrics").body;
        let families = exposition::parse(&page).unwrap();
        let rows = &families[name].samples;
        rows.iter().filter(|(row, _)| format!("{row:?}").contains(label)).map(|(_, value)| value).sum()
    }

    fn put(&self, site: usize, key: &str, value: &[u8]) {
        let head = format!(
            "PUT /v1/kv/{key} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            value.len()
        );
        let answer =
            http::exchange(self.nodes[site].api, &[head.as_bytes(), value].concat()).expect("an answer");
        assert_eq!(answer.code, 200, "{answer:?}");
    }

    fn crossed(&self, one: usize, other: usize) -> u64 {
        self.counts[&[one.min(other), one.max(other)]].load(Ordering::Relaxed)
    }
}

/// Copies of a value on the path between the datacenter where it is proposed and the leader, both directions together, and how
/// many bytes the leader named and did not send.
fn copies(codec: &str) -> (f64, f64) {
    const ROUNDS: usize = 8;
    // Nothing is sent again because this machine is busy.
    let patient = "[timers]\nattempt_timeout_min = \"2 s\"\nattempt_timeout_max = \"2 s\"\n";
    let cluster = Cluster::start(&format!("{patient}{codec}"));
    let leader = cluster.leader();
    let site = (leader + 1) % DATACENTERS.len();
    // Until what goes to the leader goes back the way that its entries come.
    poll("the way back", SOON, || {
        let back = || cluster.metric(site, "trunkline_messages_delivered_total", "\"back\"");
        let before = back();
        cluster.put(site, "small", b"value");
        (back() > before).then_some(())
    });
    let mut rng = fastrand::Rng::with_seed(1);
    let values: Vec<Vec<u8>> = (0..=ROUNDS).map(|_| (0..VALUE_BYTES).map(|_| rng.u8(..)).collect()).collect();
    cluster.put(site, "first", &values[ROUNDS]);
    let before = cluster.crossed(site, leader);
    for (round, value) in values[..ROUNDS].iter().enumerate() {
        cluster.put(site, &format!("key-{round}"), value);
    }
    // Applied where it was proposed: the entry, not only the answer, has come.
    let digest = |node: &Node| http::get(node.api, "/v1/digest").map(|answer| answer.body);
    poll("all have applied the same", SOON, || {
        let all: Vec<_> = cluster.nodes.iter().map(digest).collect();
        all.iter().all(|one| one.is_some() && *one == all[0]).then_some(())
    });
    let crossed = cluster.crossed(site, leader) - before;
    assert_eq!(cluster.leader(), leader, "nothing went wrong meanwhile");
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let copies = crossed as f64 / (ROUNDS * VALUE_BYTES) as f64;
    println!("{codec:?}: {copies:.3} copies");
    (copies, cluster.metric(leader, "trunkline_echoed_bytes_total", DATACENTERS[site]))
}

#[test]
fn a_value_that_is_proposed_at_a_follower_crosses_once() {
    let (copies, echoed) = copies("");
    assert!(copies <= 1.1, "{copies} copies");
    assert!(echoed > 8.0 * 65_536.0, "{echoed}");
}

/// The same bytes cross twice where nobody names them: the test above can fail.
#[test]
fn without_echoes_it_crosses_twice() {
    let (copies, echoed) = copies("[codec]\necho = false");
    assert!(copies >= 1.9, "{copies} copies");
    assert!(echoed < 0.5, "{echoed}");
}
