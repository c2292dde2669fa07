//! A middlebox that goes on with one connection of a link and swallows the other: on real sockets. Bulk bytes to a proxy are
//! taken and never arrive, nothing is reset, and control is as healthy as before.

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use support::{Cluster, Running, dc, eventually, id, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use trunkline_mesh::proto::wire::PREAMBLE;
use trunkline_mesh::stats::RouteStatus;
use trunkline_mesh::{Batch, Config, Lane, Message, Outcome, Receipt, Roles, Route, Settings, join};

const PROXIES: [&str; 2] = ["eu-pa", "eu-pb"];
const MEMBERS: [&str; 3] = ["eu-1", "eu-2", "eu-3"];
const BULK_BYTES: usize = 2_000;

/// What the middlebox does with bulk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bulk {
    Passes,
    Swallowed,
    /// The connections that were swallowed end, and new ones pass.
    Reset,
}

/// Stands in front of a proxy, at its address.
struct Middlebox {
    bulk: watch::Sender<Bulk>,
    swallowed: Arc<AtomicU64>,
}

impl Middlebox {
    async fn start(at: SocketAddr, proxy: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let (bulk, _) = watch::channel(Bulk::Passes);
        let swallowed = Arc::new(AtomicU64::new(0));
        let (of_task, counted) = (bulk.clone(), Arc::clone(&swallowed));
        tokio::spawn(async move {
            while let Ok((dialler, _)) = listener.accept().await {
                tokio::spawn(carry(dialler, proxy, of_task.subscribe(), Arc::clone(&counted)));
            }
        });
        Self { bulk, swallowed }
    }

    fn swallowed(&self) -> u64 {
        self.swallowed.load(Ordering::Relaxed)
    }
}

/// One connection, until either end is over.
async fn carry(
    mut dialler: TcpStream,
    proxy: SocketAddr,
    mut bulk: watch::Receiver<Bulk>,
    swallowed: Arc<AtomicU64>,
) -> std::io::Result<()> {
    let mut proxy = TcpStream::connect(proxy).await?;
    dialler.set_nodelay(true)?;
    proxy.set_nodelay(true)?;
    // Its lane is the second byte of its first frame.
    let mut first = [0; PREAMBLE.len() + 2];
    dialler.read_exact(&mut first).await?;
    proxy.write_all(&first).await?;
    let is_bulk = usize::from(first[PREAMBLE.len() + 1]) == Lane::Bulk.index();
    bulk.mark_unchanged();
    let (mut down, mut up) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let (length, from_dialler) = tokio::select! {
            read = dialler.read(&mut down) => (read?, true),
            read = proxy.read(&mut up) => (read?, false),
            _ = bulk.changed() => {
                if is_bulk && *bulk.borrow() == Bulk::Reset {
                    return Ok(());
                }
                continue;
            }
        };
        if length == 0 {
            return Ok(());
        }
        if is_bulk && *bulk.borrow() == Bulk::Swallowed {
            swallowed.fetch_add(length as u64, Ordering::Relaxed);
            continue;
        }
        let (to, bytes) =
            if from_dialler { (&mut proxy, &down[..length]) } else { (&mut dialler, &up[..length]) };
        to.write_all(bytes).await?;
    }
}

/// A leader, two proxies behind middleboxes, and members that count what they get.
struct Mesh {
    leader: Running,
    boxes: BTreeMap<&'static str, Middlebox>,
    proxies: BTreeMap<&'static str, Running>,
    members: Vec<(&'static str, Running)>,
    /// How many messages of each lane were seen to arrive, by member.
    arrived: Vec<[u64; 2]>,
    /// The number of the next message, by lane.
    next: [u64; 2],
    receipts: [Vec<Receipt>; 2],
}

impl Mesh {
    async fn start(members: &[&'static str]) -> Self {
        let mut nodes = vec![("leader", "us", Roles::ORIGIN)];
        nodes.extend(PROXIES.map(|proxy| (proxy, "eu", Roles::PROXY)));
        nodes.extend(members.iter().map(|member| (*member, "eu", Roles::MEMBER)));
        // The middlebox reads lanes: plaintext.
        let mut cluster = Cluster { pki: None, ..Cluster::new(&nodes) };
        cluster.settings = Settings { snooze_min: Duration::from_millis(200), ..cluster.settings };
        let mut running = Vec::new();
        for member in members {
            running.push((*member, cluster.start(member).await));
        }
        let (mut boxes, mut proxies) = (BTreeMap::new(), BTreeMap::new());
        for proxy in PROXIES {
            let listen = Some("127.0.0.1:0".parse().unwrap());
            let config = Config {
                listen,
                settings: cluster.settings.clone(),
                ..Config::new(Arc::clone(&cluster.topology), id(proxy))
            };
            let (client, inbox) = join(config).await.unwrap();
            let behind = client.mesh().local_addr().unwrap();
            let node = Running { client, inbox };
            eventually("the proxy's links", || members.iter().all(|member| node.reaches(member))).await;
            boxes.insert(proxy, Middlebox::start(cluster.address(proxy), behind).await);
            proxies.insert(proxy, node);
        }
        let leader = cluster.start("leader").await;
        eventually("the leader's links", || PROXIES.iter().all(|proxy| leader.reaches(proxy))).await;
        let receipts = [Vec::new(), Vec::new()];
        let arrived = vec![[0; 2]; running.len()];
        Self { leader, boxes, proxies, members: running, arrived, next: [0; 2], receipts }
    }

    fn routes(&self) -> Vec<RouteStatus> {
        let rows = self.leader.mesh().status().datacenters;
        rows.into_iter().find(|row| row.name == dc("eu")).unwrap().routes
    }

    fn in_use(&self) -> &'static str {
        let route = self.routes().into_iter().find(|route| route.in_use).unwrap();
        PROXIES.into_iter().find(|proxy| *proxy == route.proxy.as_str()).unwrap()
    }

    fn failures(&self, proxy: &str) -> u64 {
        self.routes().into_iter().find(|route| route.proxy.as_str() == proxy).unwrap().failures
    }

    /// A numbered message for each member.
    async fn send(&mut self, lane: Lane) {
        let number = self.next[lane.index()];
        self.next[lane.index()] += 1;
        let mut rng = fastrand::Rng::with_seed(number);
        let mut batch = Batch::to(dc("eu"));
        for (member, _) in &self.members {
            let length = if lane == Lane::Bulk { BULK_BYTES } else { 100 };
            let mut bytes = number.to_le_bytes().to_vec();
            bytes.extend(std::iter::repeat_with(|| rng.u8(..)).take(length - bytes.len()));
            batch.push(Message::new(id(member), bytes).lane(lane));
        }
        let receipt = soon("send", self.leader.client.send(batch)).await.unwrap();
        self.receipts[lane.index()].push(receipt);
    }

    /// Heartbeats, and bulk every second time, until the condition holds.
    async fn go_on_until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + support::SOON;
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        while !holds(self) {
            assert!(
                Instant::now() < deadline,
                "not in time: {what}: {:?}",
                self.leader.mesh().stats().verdicts
            );
            ticks.tick().await;
            self.send(Lane::Control).await;
            ticks.tick().await;
            self.send(Lane::Control).await;
            self.send(Lane::Bulk).await;
        }
    }

    /// What became of all messages of a lane, in their order.
    async fn outcomes(&mut self, lane: Lane) -> Vec<Outcome> {
        let mut all = Vec::new();
        for receipt in std::mem::take(&mut self.receipts[lane.index()]) {
            all.extend(soon("a receipt", receipt).await);
        }
        all
    }

    /// Everything that was sent arrived everywhere, once and in order.
    async fn assert_all_arrived_once(&mut self) {
        for ((_, member), next) in self.members.iter_mut().zip(&mut self.arrived) {
            while *next != self.next {
                let delivery = soon("a delivery", member.inbox.recv()).await.expect("open");
                let bytes = delivery.payload.to_vec();
                let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                assert_eq!(number, next[delivery.lane.index()], "{:?} of {:?}", delivery.lane, delivery.seq);
                next[delivery.lane.index()] += 1;
            }
        }
    }
}

fn took(outcome: &Outcome) -> Duration {
    match outcome {
        Outcome::Delivered { rtt, .. } => *rtt,
        Outcome::Failed { .. } => panic!("not delivered: {outcome:?}"),
    }
}

/// Far more than a silent death may cost, for a loaded machine, and far less than the time after which the link is given up or
/// messages expire. What is promised is held in virtual time, by `still.rs`.
const SEEN_WITHIN: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_leaves_a_hole_that_control_does_not_fall_into_and_tries_it_ever_more_seldom() {
    let mut mesh = Mesh::start(&MEMBERS).await;
    mesh.go_on_until("a quiet time", |mesh| mesh.next[0] >= 100).await;
    let hole = mesh.in_use();
    assert_eq!(mesh.boxes[hole].swallowed(), 0);

    mesh.boxes[hole].bulk.send(Bulk::Swallowed).unwrap();
    mesh.go_on_until("bulk leaves the hole", |mesh| mesh.failures(hole) > 0).await;
    let (at_first, sent_at_first) = (mesh.boxes[hole].swallowed(), mesh.next[1]);
    mesh.go_on_until("three trials", |mesh| mesh.failures(hole) >= 4).await;
    let (again, sent) = (mesh.boxes[hole].swallowed() - at_first, mesh.next[1] - sent_at_first);
    println!("{at_first} bytes into the hole before bulk left it, and {again} later, of {sent} rounds");
    let sent_bytes = sent * (mesh.members.len() * BULK_BYTES) as u64;
    assert!(again * 10 < sent_bytes, "{again} of {sent_bytes} bytes went into a hole that was known");
    assert_ne!(mesh.in_use(), hole);
    assert!(mesh.leader.reaches(hole), "its link is as good as ever for what it can tell");
    assert_eq!(mesh.leader.mesh().stats().attempts.lost, 0, "no connection ended");

    for lane in Lane::ALL {
        let outcomes = mesh.outcomes(lane).await;
        let worst = outcomes.iter().map(took).max().unwrap();
        println!("{lane:?}: {} messages, at most {worst:?}", outcomes.len());
        assert!(worst < SEEN_WITHIN, "{lane:?}: {worst:?}");
    }
    mesh.assert_all_arrived_once().await;

    // It mends, and without the other proxy all goes by it again.
    mesh.boxes[hole].bulk.send(Bulk::Reset).unwrap();
    let other = PROXIES.into_iter().find(|proxy| *proxy != hole).unwrap();
    let gone = mesh.proxies.remove(other).unwrap();
    gone.mesh().kill();
    let back = |outcome: &Outcome| matches!(outcome, Outcome::Delivered { route: Route::Proxy(proxy), .. } if proxy.as_str() == hole);
    let deadline = Instant::now() + support::SOON;
    loop {
        mesh.send(Lane::Bulk).await;
        let outcomes = mesh.outcomes(Lane::Bulk).await;
        assert!(outcomes.iter().all(|outcome| took(outcome) < SEEN_WITHIN), "{outcomes:?}");
        // Thousands go directly until the next trial: without this the inboxes are full by then, and refuse it as well.
        mesh.assert_all_arrived_once().await;
        if outcomes.iter().all(back) {
            break;
        }
        assert!(Instant::now() < deadline, "nothing goes by a proxy that mended: {:?}", mesh.routes());
    }
}
