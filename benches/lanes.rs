//! What a heartbeat on control takes while bulk fills the line: leader → shaped WAN → proxy → member and back, with and
//! without bulk, in turns in one run.
//!
//! The nodes are real ones on loopback; between the datacenters lies the demo's WAN: 20 ms each way, 50 Mbit/s that all
//! connections share fairly. Bulk is random bytes, different for every member, from senders that always have more, so that
//! budgets, queues and the line are full. Beside the heartbeats a bare TCP connection echoes as many bytes, one echo after the other, over the same
//! line: what that takes with the same bulk is the line's and the machine's, and the rest is the mesh's.
//!
//! ```text
//! cargo bench --bench lanes               # about 30 s
//! cargo bench --bench lanes -- --quick    # about 6 s
//! ```

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use trunkline::demo::Dc;
use trunkline::demo::cluster::{Cluster, Shape};
use trunkline::demo::wan::{OneWay, Wan, WanConfig};
use trunkline_mesh::{Batch, Client, Datacenter, Lane, Message, NodeId, Outcome};

const MEMBERS: usize = 5;
const ONE_WAY: Duration = Duration::from_millis(20);
/// 50 Mbit/s.
const BYTES_PER_S: u64 = 6_250_000;
const HEARTBEAT_BYTES: usize = 64;
const HEARTBEAT_EVERY: Duration = Duration::from_millis(10);
/// Bytes of the messages of bulk, per member and batch.
const BULK_BYTES: usize = 16 * 1024;
/// Batches of bulk under way: more than all budgets and queues hold.
const SENDERS: usize = 64;
/// Time for queues to fill, and to empty.
const SETTLE: Duration = Duration::from_secs(1);

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (rounds, heartbeats) = if quick { (1, 100) } else { (3, 400) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(run(rounds, heartbeats));
}

async fn run(rounds: usize, heartbeats: usize) {
    let wan = Wan::new(WanConfig {
        egress_bytes_per_s: vec![NonZeroU64::new(BYTES_PER_S).expect("a rate"); 2],
        one_way: vec![OneWay { between: (Dc(0), Dc(1)), delay: ONE_WAY }],
        // 20 ms of the line, as the demo has.
        buffer_bytes: usize::try_from(BYTES_PER_S / 50).expect("small"),
    });
    let shape = Shape { dcs: 2, members: MEMBERS, proxies: 2 };
    let (cluster, inboxes) = Cluster::start(shape, &wan, 1).await.expect("it starts");
    for mut inbox in inboxes {
        tokio::spawn(async move { while inbox.recv().await.is_some() {} });
    }
    let leader = cluster.leader.clone();
    let members: Vec<NodeId> =
        (1..=MEMBERS).map(|number| NodeId::new(&format!("eu-member-{number}")).expect("legal")).collect();
    beat(&leader, &members, 20).await;

    let echo = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let target = echo.local_addr().expect("an address");
    let relay = wan.relay(Dc(0), Dc(1), "127.0.0.1:0".parse().expect("legal"), target).expect("a way");
    tokio::spawn(echo_all(echo));
    let mut bare = TcpStream::connect(relay.local_addr()).await.expect("a connection");
    bare.set_nodelay(true).expect("an option");
    probe(&mut bare, 20).await;

    let (mut idle, mut loaded, mut used) = (Vec::new(), Vec::new(), Vec::new());
    let (mut bare_idle, mut bare_loaded, mut linked) = (Vec::new(), Vec::new(), 0);
    for _ in 0..rounds {
        let (beats, probes) = tokio::join!(beat(&leader, &members, heartbeats), probe(&mut bare, heartbeats));
        idle.push(beats);
        bare_idle.push(probes);
        let load = Load::start(&leader, &members);
        tokio::time::sleep(SETTLE).await;
        let (before, began) = (wan.counters().bytes(Dc(0), Dc(1)), Instant::now());
        let (beats, probes) = tokio::join!(beat(&leader, &members, heartbeats), probe(&mut bare, heartbeats));
        loaded.push(beats);
        bare_loaded.push(probes);
        linked = linked.max(leader.mesh().status().links.iter().filter(|link| link.up).count());
        let bytes = wan.counters().bytes(Dc(0), Dc(1)) - before;
        used.push(bytes as f64 / began.elapsed().as_secs_f64() / BYTES_PER_S as f64);
        load.stop().await;
        tokio::time::sleep(SETTLE).await;
    }
    let rtt = 2.0 * ONE_WAY.as_secs_f64() * 1e3;
    println!(
        "heartbeats of {HEARTBEAT_BYTES} B on control, every {} ms, ms from send to receipt",
        HEARTBEAT_EVERY.as_millis()
    );
    println!(
        "the line: {rtt} ms there and back, {} Mbit/s; {rounds} rounds of {heartbeats}, medians",
        BYTES_PER_S * 8 / 1_000_000
    );
    println!();
    println!("bulk                          p50     p99   worst   p99 less the line");
    let rows = [
        ("none", &idle),
        ("  bare echo beside it", &bare_idle),
        ("as much as the line takes", &loaded),
        ("  bare echo beside it", &bare_loaded),
    ];
    for (name, rounds) in rows {
        let at = |percent| median(rounds.iter().map(|samples| percentile(samples, percent)));
        println!("{name:<26} {:>6.1}  {:>6.1}  {:>6.1}  {:>18.1}", at(50), at(99), at(100), at(99) - rtt);
    }
    let at = |rounds: &[Vec<f64>]| median(rounds.iter().map(|samples| percentile(samples, 99)));
    println!();
    println!("p99 with bulk over p99 without {:>8.2} x", at(&loaded) / at(&idle));
    println!("p99 with bulk less bare echo   {:>8.1} ms", at(&loaded) - at(&bare_loaded));
    println!("links up to share the line     {linked:>8}");
    println!("of the line's rate in use      {:>8.0} %", 100.0 * median(used.into_iter()));
    let stats = leader.mesh().stats();
    println!("attempts that timed out        {:>8}", stats.attempts.timed_out);
    cluster.leader.mesh().close();
    wan.shutdown().await;
}

fn eu() -> Datacenter {
    Datacenter::new("eu").expect("legal")
}

/// Heartbeats to all members, one batch every 10 ms; for each how long its receipt took, ms.
async fn beat(leader: &Client, members: &[NodeId], count: usize) -> Vec<f64> {
    let mut ticks = tokio::time::interval(HEARTBEAT_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut under_way = JoinSet::new();
    for number in 0..count {
        ticks.tick().await;
        let mut batch = Batch::to(eu());
        let payload = vec![u8::try_from(number % 251).expect("small"); HEARTBEAT_BYTES];
        for member in members {
            batch.push(Message::new(member.clone(), payload.clone()).lane(Lane::Control));
        }
        let (leader, sent) = (leader.clone(), Instant::now());
        under_way.spawn(async move {
            let outcomes = leader.send(batch).await.expect("accepted").await;
            assert!(outcomes.iter().all(Outcome::is_delivered), "{outcomes:?}");
            sent.elapsed().as_secs_f64() * 1e3
        });
    }
    under_way.join_all().await
}

/// Gives everybody back what it says.
async fn echo_all(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            let (mut input, mut output) = stream.split();
            let _ = tokio::io::copy(&mut input, &mut output).await;
        });
    }
}

/// As [`beat`], of an echo over one bare connection; each waits for the one before.
async fn probe(stream: &mut TcpStream, count: usize) -> Vec<f64> {
    let mut took = Vec::new();
    // As long as the heartbeats take.
    let end = Instant::now() + HEARTBEAT_EVERY * u32::try_from(count).expect("few");
    let mut bytes = [0; HEARTBEAT_BYTES];
    while Instant::now() < end {
        let sent = Instant::now();
        stream.write_all(&bytes).await.expect("it takes");
        stream.read_exact(&mut bytes).await.expect("it gives back");
        took.push(sent.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(HEARTBEAT_EVERY / 2).await;
    }
    took
}

/// Senders that always have more.
struct Load {
    ends: Arc<AtomicBool>,
    senders: JoinSet<()>,
}

impl Load {
    fn start(leader: &Client, members: &[NodeId]) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let mut senders = JoinSet::new();
        for number in 0..SENDERS {
            let (leader, members, ends) = (leader.clone(), members.to_vec(), Arc::clone(&ends));
            senders.spawn(async move {
                let mut random = Rng::with_seed(u64::try_from(number).expect("few"));
                while !ends.load(Ordering::Relaxed) {
                    let mut batch = Batch::to(eu());
                    for member in &members {
                        let mut bytes = vec![0; BULK_BYTES];
                        random.fill(&mut bytes);
                        batch.push(Message::new(member.clone(), bytes).lane(Lane::Bulk));
                    }
                    let receipt = leader.send(batch).await.expect("accepted");
                    receipt.await;
                }
            });
        }
        Self { ends, senders }
    }

    async fn stop(self) {
        self.ends.store(true, Ordering::Relaxed);
        self.senders.join_all().await;
    }
}

fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut samples = samples.to_vec();
    samples.sort_by(f64::total_cmp);
    samples[(samples.len() * percent / 100).min(samples.len() - 1)]
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
