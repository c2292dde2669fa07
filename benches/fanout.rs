//! What the way over a proxy costs and saves: client → proxy → members on loopback, beside direct sends and a bare TCP relay.
//!
//! Every node of the mesh is a real one on an address of its own, 127.x.y.z. There are four threads, each with a runtime
//! of its own: the leader (main), the proxies, the members, and the relay; so the CPU time of each role can be told.
//! All ways are measured in turns in the same run, and medians over the rounds are shown: other processes disturb all
//! of them alike.
//!
//! ```text
//! cargo bench --bench fanout               # about 20 s
//! cargo bench --bench fanout -- --quick    # about 3 s
//! ```

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use trunkline_mesh::stats::Histogram;
use trunkline_mesh::{
    Batch, Client, ClusterId, Config, Datacenter, Inbox, Lane, Mesh, Message, NodeId, NodeSpec, Outcome,
    Receipt, Roles, Route, Topology, join,
};

/// Members of the two sizes of datacenter.
const MEMBERS: [usize; 2] = [5, 20];
/// Bytes of the messages of the throughput rounds.
const MESSAGE_BYTES: [usize; 2] = [128, 1024];
/// Bytes of the message of the latency rounds.
const SMALL_BYTES: usize = 128;
/// Messages per batch for each member: what a leader under load hands over at once.
const ENTRIES: usize = 64;
/// Batches under way at a time: enough that nobody waits for receipts, too few for queues to grow.
const BATCHES_UNDER_WAY: usize = 4;
/// Kind of a message whose arrival the leader waits for.
const TIMED: u8 = 1;
/// No step of this bench takes as long; a hang is a failure.
const NEVER_SO_LONG: Duration = Duration::from_secs(20);

/// How much is measured.
struct Plan {
    latency_rounds: usize,
    /// Messages per way and round.
    samples: usize,
    throughput_rounds: usize,
    /// Per configuration and round.
    load: Duration,
}

const FULL: Plan =
    Plan { latency_rounds: 9, samples: 1000, throughput_rounds: 5, load: Duration::from_millis(400) };
const QUICK: Plan =
    Plan { latency_rounds: 3, samples: 200, throughput_rounds: 3, load: Duration::from_millis(80) };

fn main() {
    let plan = if std::env::args().any(|argument| argument == "--quick") { QUICK } else { FULL };
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let roles = Threads::start();
        let mut clusters = Vec::new();
        for members in MEMBERS {
            for way in [Way::Proxy, Way::Direct] {
                let cluster = Cluster::start(members, way, &roles);
                clusters.push(tokio::time::timeout(NEVER_SO_LONG, cluster).await.expect("links come up"));
            }
        }
        latency(&plan, &mut clusters, &roles).await;
        throughput(&plan, &clusters, &roles).await;
    });
}

// ---- roles and their CPU time ------------------------------------------------------------------------------------------

/// A thread with a runtime that lives as long as the process.
struct Thread {
    handle: Handle,
    /// Its directory in `/proc`.
    task: String,
}

struct Threads {
    leader: String,
    proxies: Thread,
    members: Thread,
    relay: Thread,
}

impl Thread {
    fn start(name: &str) -> Self {
        let (sender, receiver) = std::sync::mpsc::channel();
        let run = move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            sender.send((runtime.handle().clone(), this_thread())).expect("somebody waits");
            runtime.block_on(std::future::pending::<()>());
        };
        std::thread::Builder::new().name(name.into()).spawn(run).expect("a thread");
        let (handle, task) = receiver.recv().expect("it starts");
        Self { handle, task }
    }

    async fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        self.handle.spawn(future).await.expect("no panic")
    }
}

impl Threads {
    fn start() -> Self {
        Self {
            leader: this_thread(),
            proxies: Thread::start("proxies"),
            members: Thread::start("members"),
            relay: Thread::start("relay"),
        }
    }
}

fn this_thread() -> String {
    let link = std::fs::read_link("/proc/thread-self").expect("a Linux with /proc");
    format!("/proc/{}", link.display())
}

/// User and system time of a process or thread, from the ticks (10 ms) in its `stat`.
fn cpu(directory: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("{directory}/stat")).expect("a Linux with /proc");
    // The name, in parentheses, may hold anything; utime and stime are fields 14 and 15, the name being field 2.
    let fields = stat.rsplit_once(')').expect("a name").1;
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
}

/// CPU time so far: process, leader, proxies, members.
fn cpu_all(threads: &Threads) -> [Duration; 4] {
    [cpu("/proc/self"), cpu(&threads.leader), cpu(&threads.proxies.task), cpu(&threads.members.task)]
}

// ---- a mesh ------------------------------------------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Proxy,
    Direct,
}

impl Way {
    fn name(self) -> &'static str {
        if self == Self::Proxy { "by proxy" } else { "direct" }
    }
}

/// One leader in `us` and its members in `eu`, with a proxy there or without.
struct Cluster {
    way: Way,
    leader: Client,
    proxy: Option<Mesh>,
    members: Vec<NodeId>,
    /// When a timed message was taken from an inbox.
    arrivals: UnboundedReceiver<Instant>,
    /// Messages taken from all inboxes.
    taken: Arc<AtomicU64>,
}

fn datacenter() -> Datacenter {
    Datacenter::new("eu").expect("legal")
}

fn id(name: &str) -> NodeId {
    NodeId::new(name).expect("legal")
}

/// Every node of the process has an address of its own.
fn next_address() -> SocketAddr {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let [.., low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let [.., high, middle] = std::process::id().to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, high | 0x80, middle, low), 7400))
}

impl Cluster {
    async fn start(members: usize, way: Way, threads: &Threads) -> Self {
        let mut nodes = vec![("leader".to_owned(), "us", Roles::ORIGIN)];
        nodes.extend((way == Way::Proxy).then(|| ("proxy".to_owned(), "eu", Roles::PROXY)));
        nodes.extend((0..members).map(|member| (format!("m{member}"), "eu", Roles::MEMBER)));
        let specs = nodes.iter().map(|(name, datacenter, roles)| NodeSpec {
            id: id(name),
            datacenter: Datacenter::new(datacenter).expect("legal"),
            roles: *roles,
            address: roles.accepts().then(next_address),
        });
        let topology =
            Arc::new(Topology::new(ClusterId::new("bench").expect("legal"), specs).expect("legal"));
        let start = |name: &str| {
            let config = Config::new(Arc::clone(&topology), id(name));
            async { join(config).await.expect("it starts") }
        };
        let taken = Arc::new(AtomicU64::new(0));
        let (sender, arrivals) = unbounded_channel();
        let names: Vec<NodeId> = topology.members_of(&datacenter()).map(|spec| spec.id.clone()).collect();
        for name in &names {
            let (_, inbox) = threads.members.run(start(name.as_str())).await;
            threads.members.handle.spawn(take(inbox, sender.clone(), Arc::clone(&taken)));
        }
        let proxy = match way {
            Way::Proxy => Some(threads.proxies.run(start("proxy")).await.0.mesh().clone()),
            Way::Direct => None,
        };
        let (leader, _) = start("leader").await;
        let mut cluster = Self { way, leader, proxy, members: names, arrivals, taken };
        cluster.warm_up().await;
        cluster
    }

    /// Sends until everybody is reached by the way that is meant.
    async fn warm_up(&mut self) {
        loop {
            let receipt = self.send([Bytes::from_static(b"warm")].into_iter(), Lane::Bulk).await;
            let meant = |outcome: &Outcome| match outcome {
                Outcome::Delivered { route: Route::Proxy(_), .. } => self.way == Way::Proxy,
                Outcome::Delivered { route: Route::Direct, .. } => self.way == Way::Direct,
                Outcome::Delivered { route: Route::Back(_), .. } => false,
                Outcome::Failed { .. } => false,
            };
            if receipt.await.iter().all(meant) {
                return;
            }
        }
    }

    /// Every entry to every member, in one batch.
    async fn send(&self, entries: impl Iterator<Item = Bytes>, lane: Lane) -> Receipt {
        let mut batch = Batch::to(datacenter());
        for entry in entries {
            for member in &self.members {
                batch.push(Message::new(member.clone(), entry.clone()).lane(lane));
            }
        }
        self.leader.send(batch).await.expect("accepted")
    }

    /// One message to one member and back: until it was taken from the inbox, and until its receipt.
    async fn one(&mut self, payload: Bytes) -> (Duration, Duration) {
        let mut batch = Batch::to(datacenter());
        batch.push(Message::new(self.members[0].clone(), payload).lane(Lane::Control).kind(TIMED));
        let sent = Instant::now();
        let outcomes = self.leader.send(batch).await.expect("accepted").await;
        let back = sent.elapsed();
        assert!(outcomes.iter().all(Outcome::is_delivered), "{outcomes:?}");
        let arrived = self.arrivals.recv().await.expect("the members live");
        (arrived - sent, back)
    }

    /// Bytes the leader wrote to the members' datacenter so far.
    fn wire_bytes(&self) -> u64 {
        self.leader.mesh().stats().datacenters[&datacenter()].sent.wire
    }

    fn hops(&self) -> Histogram {
        self.proxy.as_ref().map(|proxy| proxy.stats().proxy.hop_latency).unwrap_or_default()
    }
}

/// The application at a member.
async fn take(mut inbox: Inbox, arrivals: UnboundedSender<Instant>, taken: Arc<AtomicU64>) {
    while let Some(delivery) = inbox.recv().await {
        taken.fetch_add(1, Ordering::Relaxed);
        if delivery.kind == TIMED {
            let _ = arrivals.send(Instant::now());
        }
    }
}

// ---- bare TCP ----------------------------------------------------------------------------------------------------------

/// A client's connection to an echoing member without a mesh, straight or through a relay.
struct Bare {
    stream: TcpStream,
    arrivals: UnboundedReceiver<Instant>,
}

async fn listen() -> (TcpListener, SocketAddr) {
    let address = next_address();
    (TcpListener::bind(address).await.expect("a free address"), address)
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("it listens");
    stream.set_nodelay(true).expect("a socket");
    stream
}

async fn accept(listener: TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().await.expect("a client");
    stream.set_nodelay(true).expect("a socket");
    stream
}

/// Reads messages of the one length there is, and answers each with 8 bytes.
async fn echo(listener: TcpListener, arrivals: UnboundedSender<Instant>) {
    let mut stream = accept(listener).await;
    let mut message = [0; SMALL_BYTES];
    while stream.read_exact(&mut message).await.is_ok() {
        let _ = arrivals.send(Instant::now());
        stream.write_all(&message[..8]).await.expect("the client lives");
    }
}

/// What a relay does at the least: read, write on.
async fn relay(listener: TcpListener, to: SocketAddr) {
    let (mut client, mut member) = (accept(listener).await, connect(to).await);
    let _ = tokio::io::copy_bidirectional(&mut client, &mut member).await;
}

impl Bare {
    async fn start(relayed: bool, threads: &Threads) -> Self {
        let (sender, arrivals) = unbounded_channel();
        let (listener, mut address) = threads.members.run(listen()).await;
        threads.members.handle.spawn(echo(listener, sender));
        if relayed {
            let member = address;
            let (listener, at) = threads.relay.run(listen()).await;
            threads.relay.handle.spawn(relay(listener, member));
            address = at;
        }
        Self { stream: connect(address).await, arrivals }
    }

    async fn one(&mut self, payload: &[u8]) -> (Duration, Duration) {
        let mut answer = [0; 8];
        let sent = Instant::now();
        self.stream.write_all(payload).await.expect("the member lives");
        self.stream.read_exact(&mut answer).await.expect("the member lives");
        let back = sent.elapsed();
        let arrived = self.arrivals.recv().await.expect("the member lives");
        (arrived - sent, back)
    }
}

// ---- latency -----------------------------------------------------------------------------------------------------------

/// Percentiles of the rounds of one way, µs.
#[derive(Default)]
struct Latency {
    one_way: [Vec<f64>; 2],
    round_trip: [Vec<f64>; 2],
}

impl Latency {
    fn add(&mut self, samples: Vec<(Duration, Duration)>) {
        let (one_way, round_trip): (Vec<_>, Vec<_>) = samples.into_iter().unzip();
        for (rounds, samples) in [(&mut self.one_way, one_way), (&mut self.round_trip, round_trip)] {
            for (round, percent) in rounds.iter_mut().zip([50, 99]) {
                round.push(percentile(samples.clone(), percent));
            }
        }
    }
}

fn percentile(mut samples: Vec<Duration>, percent: usize) -> f64 {
    samples.sort();
    samples[(samples.len() * percent / 100).min(samples.len() - 1)].as_secs_f64() * 1e6
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn latency(plan: &Plan, clusters: &mut [Cluster], threads: &Threads) {
    let payload = Bytes::from(Rng::with_seed(1).choose_multiple(0..=u8::MAX, SMALL_BYTES));
    let mut bare = [Bare::start(true, threads).await, Bare::start(false, threads).await];
    let mut measured: [Latency; 4] = Default::default();
    let before = clusters[0].hops();
    for _ in 0..plan.latency_rounds {
        for (way, measured) in measured.iter_mut().enumerate() {
            let mut samples = Vec::with_capacity(plan.samples);
            for _ in 0..plan.samples {
                let one = async {
                    match way {
                        0 | 1 => clusters[way].one(payload.clone()).await,
                        _ => bare[way - 2].one(&payload).await,
                    }
                };
                samples.push(tokio::time::timeout(NEVER_SO_LONG, one).await.expect("an answer"));
            }
            measured.add(samples);
        }
    }
    let mut hops = clusters[0].hops();
    for (now, then) in hops.buckets.iter_mut().zip(before.buckets) {
        *now -= then;
    }

    println!(
        "Latency, µs: one message of {SMALL_BYTES} B to one member, one under way at a time; medians of {} rounds of {}.\n",
        plan.latency_rounds, plan.samples
    );
    println!(
        "{:<26} {:>12} {:>12} {:>15} {:>15}",
        "way", "one-way p50", "one-way p99", "round trip p50", "round trip p99"
    );
    let names = ["mesh by proxy", "mesh direct", "bare TCP relay", "bare TCP direct"];
    for (name, way) in names.iter().zip(&measured) {
        let [[one_50, one_99], [back_50, back_99]] =
            [&way.one_way, &way.round_trip].map(|rounds| [median(&rounds[0]), median(&rounds[1])]);
        println!("{name:<26} {one_50:>12.1} {one_99:>12.1} {back_50:>15.1} {back_99:>15.1}");
    }
    let p50 = |way: usize| median(&measured[way].one_way[0]);
    let (hop, relay) = (p50(0) - p50(1), p50(2) - p50(3));
    println!();
    println!("{:<58} {hop:>8.1} µs", "added by the proxy: by proxy less direct, one-way p50");
    println!("{:<58} {relay:>8.1} µs", "added by the relay: relay less direct, one-way p50");
    println!("{:<58} {:>8.2} x", "the proxy's over the relay's", hop / relay);
    println!("{:<58} {:>8.2} x", "mesh by proxy over bare relay, one-way p50", p50(0) / p50(2));
    let inside = |percent| hops.percentile_us(percent).map_or_else(|| "-".into(), |us| us.to_string());
    println!(
        "{:<58} {:>5} / {} µs",
        "inside the proxy, frame read to run written, p50 / p99",
        inside(50),
        inside(99)
    );
    println!(
        "\nOne-way ends when the application takes the message, round trip with the receipt (bare: with 8 bytes from the\n\
         member). What bounds it: a thread wakes up per hop, and each costs as much as all the work between them; the\n\
         time inside the proxy is interpolated within histogram buckets of 10, 25, 50, 100 µs.\n"
    );
}

// ---- throughput --------------------------------------------------------------------------------------------------------

/// What one configuration did in all its rounds.
#[derive(Default)]
struct Load {
    messages_per_s: Vec<f64>,
    messages: u64,
    deliveries: u64,
    by_way_meant: u64,
    wire_bytes: u64,
    cpu: [Duration; 4],
    timed_out: u64,
}

async fn throughput(plan: &Plan, clusters: &[Cluster], threads: &Threads) {
    let mut rng = Rng::with_seed(2);
    let pool = |length: usize| -> Vec<Bytes> {
        let entry = |_| std::iter::repeat_with(|| rng.u8(..)).take(length).collect::<Vec<_>>().into();
        (0..1024).map(entry).collect()
    };
    let pools = MESSAGE_BYTES.map(pool);
    let mut loads: Vec<Load> =
        std::iter::repeat_with(Load::default).take(pools.len() * clusters.len()).collect();
    for _ in 0..plan.throughput_rounds {
        for (pool, loads) in pools.iter().zip(loads.chunks_mut(clusters.len())) {
            for (cluster, load) in clusters.iter().zip(loads) {
                let round = load_round(cluster, pool, plan.load, threads, load);
                tokio::time::timeout(NEVER_SO_LONG, round).await.expect("receipts come");
            }
        }
    }

    println!(
        "Throughput: batches of {ENTRIES} messages to every member, {BATCHES_UNDER_WAY} batches under way; medians of {} rounds of {} ms.\n",
        plan.throughput_rounds,
        plan.load.as_millis()
    );
    println!(
        "{:>7} {:>8}  {:<9} {:>11} {:>13} | {:>8} {:>8} {:>8} {:>8} | {:>11} {:>7} {:>9} {:>9}",
        "message",
        "members",
        "way",
        "messages/s",
        "deliveries/s",
        "CPU",
        "leader",
        "proxy",
        "members",
        "leader's",
        "wire",
        "late",
        "other"
    );
    println!(
        "{:>7} {:>8}  {:<9} {:>11} {:>13} | {:>35} | {:>11} {:>7} {:>9} {:>9}",
        "B", "", "", "", "", "µs per delivery", "B/message", "", "attempts", "way"
    );
    for (bytes, loads) in MESSAGE_BYTES.iter().zip(loads.chunks(clusters.len())) {
        for (pair, loads) in clusters.chunks(2).zip(loads.chunks(2)) {
            let wire = |load: &Load| load.wire_bytes as f64 / load.messages as f64;
            for (cluster, load) in pair.iter().zip(loads) {
                let rate = median(&load.messages_per_s);
                let mut cpu = String::new();
                for time in load.cpu {
                    let _ = write!(cpu, " {:>8.2}", time.as_secs_f64() * 1e6 / load.deliveries as f64);
                }
                println!(
                    "{bytes:>7} {:>8}  {:<9} {rate:>11.0} {:>13.0} |{cpu} | {:>11.0} {:>6.2}x {:>9} {:>8.2}%",
                    cluster.members.len(),
                    cluster.way.name(),
                    rate * cluster.members.len() as f64,
                    wire(load),
                    wire(load) / wire(&loads[1]),
                    load.timed_out,
                    100.0 - load.by_way_meant as f64 * 100.0 / load.deliveries as f64,
                );
            }
        }
    }
    println!(
        "\nA message goes to every member: that many deliveries. CPU is user and system time of the whole process, hence of\n\
         all its nodes and of the bench's own sending and counting; then of the threads of leader, proxy and members.\n\
         'leader's B/message' is all the leader wrote, headers, acks, pings and resends with it; 'wire' is that against\n\
         direct; 'late attempts' are messages sent again for want of an ack in time, 'other way' those that went direct\n\
         for it: where others keep the cores busy, an ack may take longer than it ever did. What bounds it: the busiest\n\
         thread, and where there are fewer cores than busy threads, the sum of all."
    );
}

/// Keeps some batches under way for a while, and sees every message delivered.
async fn load_round(cluster: &Cluster, pool: &[Bytes], time: Duration, threads: &Threads, load: &mut Load) {
    let (wire, taken) = (cluster.wire_bytes(), cluster.taken.load(Ordering::Relaxed));
    let timed_out = cluster.leader.mesh().stats().attempts.timed_out;
    let cpu = cpu_all(threads);
    let begin = Instant::now();
    let (mut under_way, mut sent, mut delivered) = (VecDeque::new(), 0_u64, 0_u64);
    loop {
        while under_way.len() < BATCHES_UNDER_WAY && begin.elapsed() < time {
            let from = usize::try_from(sent).expect("few") % pool.len();
            let entries = pool.iter().cycle().skip(from).take(ENTRIES).cloned();
            under_way.push_back(cluster.send(entries, Lane::Bulk).await);
            sent += ENTRIES as u64;
        }
        let Some(receipt) = under_way.pop_front() else { break };
        for outcome in receipt.await {
            let Outcome::Delivered { route, .. } = outcome else { panic!("not delivered: {outcome:?}") };
            delivered += 1;
            load.by_way_meant += u64::from((route == Route::Direct) == (cluster.way == Way::Direct));
        }
    }
    let took = begin.elapsed().as_secs_f64();
    assert_eq!(delivered, sent * cluster.members.len() as u64, "one outcome per message and member");
    while cluster.taken.load(Ordering::Relaxed) < taken + delivered {
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    for (sum, (now, then)) in load.cpu.iter_mut().zip(cpu_all(threads).into_iter().zip(cpu)) {
        *sum += now - then;
    }
    load.messages_per_s.push(sent as f64 / took);
    load.messages += sent;
    load.deliveries += delivered;
    load.wire_bytes += cluster.wire_bytes() - wire;
    load.timed_out += cluster.leader.mesh().stats().attempts.timed_out - timed_out;
}
