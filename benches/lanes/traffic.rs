//! Heartbeats, bare echoes and bulk from a leader to the members of one datacenter, in turns, and the table of how long they took.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use trunkline_mesh::stats::DatacenterStats;
use trunkline_mesh::{Batch, Client, Datacenter, Lane, Message, NodeId, Outcome};

const HEARTBEAT_BYTES: usize = 64;
const HEARTBEAT_EVERY: Duration = Duration::from_millis(10);
/// Bytes of the messages of bulk, per member and batch.
const BULK_BYTES: usize = 16 * 1024;
/// Batches of bulk under way: more than all budgets and queues hold.
const SENDERS: usize = 64;
/// Time for queues to fill, and to empty.
const SETTLE: Duration = Duration::from_secs(1);

/// What lies between the leader and the members.
#[derive(Clone, Copy)]
pub(crate) struct Line {
    /// There and back.
    pub(crate) rtt: Duration,
    pub(crate) bytes_per_s: u64,
}

/// How long each heartbeat and each echo took, ms, per round.
#[derive(Default)]
struct Took {
    beats: Vec<Vec<f64>>,
    echoes: Vec<Vec<f64>>,
}

impl Took {
    async fn round(&mut self, leader: &Client, members: &[NodeId], echo: &mut TcpStream, count: usize) {
        let (beats, echoes) = tokio::join!(beat(leader, members, count), probe(echo, count));
        self.beats.push(beats);
        self.echoes.push(echoes);
    }
}

/// Measures and prints.
pub(crate) async fn measure(
    leader: &Client,
    members: &[NodeId],
    echo: &mut TcpStream,
    line: Line,
    (rounds, heartbeats): (usize, usize),
) {
    beat(leader, members, 20).await;
    probe(echo, 20).await;
    let (mut idle, mut loaded) = (Took::default(), Took::default());
    let (mut used, mut linked, mut direct) = (Vec::new(), 0, Vec::new());
    let there = || leader.mesh().stats().datacenters.remove(&eu()).unwrap_or_default();
    for _ in 0..rounds {
        idle.round(leader, members, echo, heartbeats).await;
        let load = Load::start(leader, members);
        tokio::time::sleep(SETTLE).await;
        let (before, began) = (there(), Instant::now());
        loaded.round(leader, members, echo, heartbeats).await;
        let (after, took) = (there(), began.elapsed().as_secs_f64());
        linked = linked.max(links_there(leader));
        used.push((after.sent.wire - before.sent.wire) as f64 / took / line.bytes_per_s as f64);
        direct.push(share_of_direct(&before, &after));
        load.stop().await;
        tokio::time::sleep(SETTLE).await;
    }
    let rtt = line.rtt.as_secs_f64() * 1e3;
    let every = HEARTBEAT_EVERY.as_millis();
    println!("heartbeats of {HEARTBEAT_BYTES} B on control, every {every} ms, ms from send to receipt");
    let mbit = line.bytes_per_s * 8 / 1_000_000;
    println!("the line: {rtt} ms there and back, {mbit} Mbit/s; {rounds} rounds of {heartbeats}, medians");
    println!();
    println!("bulk                          p50     p99   worst   p99 less the line");
    let rows = [
        ("none", &idle.beats),
        ("  bare echo beside it", &idle.echoes),
        ("as much as the line takes", &loaded.beats),
        ("  bare echo beside it", &loaded.echoes),
    ];
    for (name, rounds) in rows {
        let at = |percent| at(rounds, percent);
        println!("{name:<26} {:>6.1}  {:>6.1}  {:>6.1}  {:>18.1}", at(50), at(99), at(100), at(99) - rtt);
    }
    let (without, with) = (at(&idle.beats, 99), at(&loaded.beats, 99));
    println!();
    println!("p99 with bulk over p99 without {:>8.2} x", with / without);
    println!("p99 with bulk less bare echo   {:>8.1} ms", with - at(&loaded.echoes, 99));
    println!("links over the line            {linked:>8}");
    println!("messages that went directly    {:>8.1} %", 100.0 * median(direct.into_iter()));
    println!("of the line's rate in use      {:>8.0} %", 100.0 * median(used.into_iter()));
    println!("attempts that timed out        {:>8}", leader.mesh().stats().attempts.timed_out);
}

pub(crate) fn eu() -> Datacenter {
    Datacenter::new("eu").expect("legal")
}

/// Links that are up, to the other datacenter.
fn links_there(leader: &Client) -> usize {
    leader.mesh().status().links.iter().filter(|link| link.up && link.datacenter == eu()).count()
}

fn share_of_direct(before: &DatacenterStats, after: &DatacenterStats) -> f64 {
    let direct = after.delivered_direct - before.delivered_direct;
    let all = direct + after.delivered_by_proxy - before.delivered_by_proxy;
    direct as f64 / all.max(1) as f64
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
pub(crate) async fn echo_all(listener: TcpListener) {
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

/// A percentile, the median of all rounds.
fn at(rounds: &[Vec<f64>], percent: usize) -> f64 {
    median(rounds.iter().map(|samples| percentile(samples, percent)))
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
