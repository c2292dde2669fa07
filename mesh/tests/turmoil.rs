//! Whole processes on a simulated network: the tokio shell of every node, its tasks, its listener and its connections, within
//! turmoil. The machines alone are simulated with many more faults by `sim.rs`; here it is what stands around them that must
//! lose nothing. `TURMOIL_SEEDS=100 TURMOIL_FROM=7 cargo test -p trunkline-mesh --features turmoil --test turmoil` runs others.
//!
//! What turmoil drops is lost for good, as there is no TCP below that would send it again: a connection that lost bytes stands
//! still until its node gives it up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use trunkline_mesh::{
    Batch, ClusterId, Config, Datacenter, FailReason, Lane, Mesh, Message, NodeId, NodeSpec, Outcome, Roles,
    Security, Stats, Topology, join,
};
use turmoil::{Builder, Sim};

const NODES: [(&str, &str, Roles); 10] = [
    ("leader", "us", Roles::ORIGIN),
    ("us-m0", "us", Roles::MEMBER),
    ("eu-p0", "eu", Roles::PROXY),
    ("eu-p1", "eu", Roles::PROXY),
    ("eu-m0", "eu", Roles::MEMBER),
    ("eu-m1", "eu", Roles::MEMBER),
    ("ap-p0", "ap", Roles::PROXY),
    ("ap-p1", "ap", Roles::PROXY),
    ("ap-m0", "ap", Roles::MEMBER),
    ("ap-m1", "ap", Roles::MEMBER),
];
/// It dies and comes back.
const RESTARTS: &str = "eu-m1";
/// The datacenter that is cut off, and the one whose traffic is held up.
const CUT: &str = "eu";
const HELD: &str = "ap";

const SENDS_FOR: Duration = Duration::from_secs(12);
/// Longer than anything that goes wrong here.
const DEADLINE: Duration = Duration::from_secs(25);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn nodes_of(datacenter: &str) -> impl Iterator<Item = &'static str> {
    NODES.into_iter().filter(move |(_, of, _)| *of == datacenter).map(|(name, ..)| name)
}

fn others(datacenter: &str) -> impl Iterator<Item = &'static str> {
    NODES.into_iter().filter(move |(_, of, _)| *of != datacenter).map(|(name, ..)| name)
}

/// What a member's application got: when, who, in which of its lives, on which lane, which message.
type Arrival = (Duration, &'static str, u64, Lane, u64);

/// What happened in a run.
#[derive(Default)]
struct Ledger {
    /// By message: its destination.
    sent: BTreeMap<u64, &'static str>,
    /// By message: when its sender was told, and what.
    told: BTreeMap<u64, (Duration, Outcome)>,
    arrived: Vec<Arrival>,
    leader: Stats,
    /// Of every life of a node: what its peers sent that breaks the protocol.
    broken: BTreeMap<(&'static str, u64), BTreeMap<&'static str, u64>>,
}

impl Ledger {
    /// Something was sent, and nobody was told yet what became of it.
    fn is_open(&self) -> bool {
        self.told.len() < self.sent.len()
    }
}

#[derive(Clone, Default)]
struct Book(Arc<Mutex<Ledger>>);

impl Book {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap()
    }
}

/// Something that is done to the network or to a process.
#[derive(Clone, Copy)]
enum Act {
    /// Nothing passes between a datacenter and the others; what is under way is lost.
    Cut(&'static str),
    Mend(&'static str),
    /// Nothing passes, and all of it arrives later.
    Hold(&'static str),
    Release(&'static str),
    /// Nobody hears of a process any more.
    Isolate(&'static str),
    Crash(&'static str),
    Bounce(&'static str),
}

fn apply(act: Act, sim: &mut Sim<'_>) {
    let border = |of: &'static str, each: &dyn Fn(&'static str, &'static str)| {
        nodes_of(of).for_each(|inside| others(of).for_each(|outside| each(inside, outside)));
    };
    let around = |node: &'static str, each: &dyn Fn(&'static str, &'static str)| {
        NODES.iter().filter(|(other, ..)| *other != node).for_each(|(other, ..)| each(node, other));
    };
    match act {
        Act::Cut(of) => border(of, &|a, b| sim.partition(a, b)),
        Act::Mend(of) => border(of, &|a, b| sim.repair(a, b)),
        Act::Hold(of) => border(of, &|a, b| sim.hold(a, b)),
        Act::Release(of) => border(of, &|a, b| sim.release(a, b)),
        Act::Isolate(node) => around(node, &|a, b| sim.partition(a, b)),
        Act::Crash(node) => sim.crash(node),
        Act::Bounce(node) => {
            around(node, &|a, b| sim.repair(a, b));
            sim.bounce(node);
        }
    }
}

/// When what goes wrong. One after the other, so that every message has the time it needs.
fn schedule(rng: &mut fastrand::Rng) -> Vec<(Duration, Act)> {
    let mut acts = Vec::new();
    let mut kill = |from: u64, node: &'static str, rng: &mut fastrand::Rng| {
        let (at, back) = (from + rng.u64(0..500), from + rng.u64(800..1500));
        // Half of the time its machine dies with it: nobody is told.
        acts.extend(rng.bool().then_some((at, Act::Isolate(node))));
        acts.extend([(at + 1, Act::Crash(node)), (back, Act::Bounce(node))]);
    };
    kill(1_500, rng.choice(["ap-p0", "ap-p1"]).unwrap(), rng);
    kill(3_500, RESTARTS, rng);
    kill(9_500, rng.choice(["eu-p0", "eu-p1"]).unwrap(), rng);
    acts.extend([(5_500, Act::Cut(CUT)), (5_600 + rng.u64(0..3000), Act::Mend(CUT))]);
    acts.extend([(6_000, Act::Hold(HELD)), (6_100 + rng.u64(0..1500), Act::Release(HELD))]);
    acts.sort_by_key(|(at, _)| *at);
    acts.into_iter().map(|(at, act)| (Duration::from_millis(at), act)).collect()
}

fn topology(sim: &Sim<'_>) -> Arc<Topology> {
    let specs = NODES.map(|(name, datacenter, roles)| NodeSpec {
        id: NodeId::new(name).unwrap(),
        datacenter: Datacenter::new(datacenter).unwrap(),
        roles,
        address: Some(SocketAddr::from((sim.lookup(name), 7400))),
    });
    Arc::new(Topology::new(ClusterId::new("turmoil").unwrap(), specs).unwrap())
}

fn config(topology: &Arc<Topology>, node: &str, seed: u64) -> Config {
    Config {
        seed: Some(seed),
        security: Security::Insecure,
        ..Config::new(Arc::clone(topology), NodeId::new(node).unwrap())
    }
}

/// Writes down what a node counts while it lives. Nodes of one version never break the protocol.
fn watch(mesh: Mesh, node: &'static str, life: u64, book: Book) {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let mut broken = mesh.stats().protocol_errors;
            broken.retain(|_, count| *count > 0);
            book.lock().broken.insert((node, life), broken);
        }
    });
}

/// Sends for a while, waits until it was told of everything, and says what it counted.
async fn lead(config: Config, book: Book, mut rng: fastrand::Rng) -> turmoil::Result {
    let (client, _inbox) = join(config).await?;
    watch(client.mesh().clone(), "leader", 1, book.clone());
    let mut next = 0;
    while turmoil::elapsed() < SENDS_FOR {
        for datacenter in ["us", "eu", "ap"] {
            let shared = Bytes::from(vec![rng.u8(..); rng.usize(0..3000)]);
            let lane = if rng.bool() { Lane::Control } else { Lane::Bulk };
            let mut batch = Batch::to(Datacenter::new(datacenter)?);
            let mut numbers = Vec::new();
            for (member, ..) in NODES.iter().filter(|(_, of, roles)| *of == datacenter && roles.member) {
                next += 1;
                let payload = [Bytes::from(u64::to_le_bytes(next).to_vec()), shared.clone()];
                let payload: trunkline_mesh::Payload = payload.into_iter().collect();
                batch.push(Message::new(NodeId::new(member)?, payload).lane(lane).deadline(DEADLINE));
                book.lock().sent.insert(next, member);
                numbers.push(next);
            }
            let (receipt, book) = (client.send(batch).await?, book.clone());
            tokio::spawn(async move {
                let outcomes = receipt.await;
                let now = turmoil::elapsed();
                book.lock().told.extend(numbers.into_iter().zip(outcomes.into_iter().map(|of| (now, of))));
            });
        }
        tokio::time::sleep(Duration::from_millis(rng.u64(5..40))).await;
    }
    while book.lock().is_open() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    book.lock().leader = client.mesh().stats();
    Ok(())
}

/// Reads its inbox, if it is a member, and runs until its process dies.
async fn serve(config: Config, node: &'static str, life: u64, book: Book) -> turmoil::Result {
    let (client, mut inbox) = join(config).await?;
    watch(client.mesh().clone(), node, life, book.clone());
    while let Some(delivery) = inbox.recv().await {
        let bytes = delivery.payload.to_vec();
        let number = u64::from_le_bytes(bytes[..8].try_into()?);
        assert!(bytes[8..].iter().all(|byte| *byte == bytes[8]), "message {number} at {node} was changed");
        book.lock().arrived.push((
            turmoil::sim_elapsed().unwrap_or_default(),
            node,
            life,
            delivery.lane,
            number,
        ));
    }
    Ok(())
}

fn run(seed: u64) -> Ledger {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut sim = Builder::new()
        .rng_seed(seed)
        .epoch(UNIX_EPOCH + Duration::from_secs(1_700_000_000))
        .simulation_duration(Duration::from_secs(60))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(1))
        .tcp_capacity(1024)
        .build();
    let (topology, book) = (topology(&sim), Book::default());
    for (node, ..) in NODES.into_iter().filter(|(node, ..)| *node != "leader") {
        let (topology, book, lives, seed) =
            (Arc::clone(&topology), book.clone(), AtomicU64::new(0), rng.u64(..));
        sim.host(node, move || {
            let life = lives.fetch_add(1, Ordering::Relaxed) + 1;
            serve(config(&topology, node, seed + life), node, life, book.clone())
        });
    }
    sim.client("leader", lead(config(&topology, "leader", rng.u64(..)), book.clone(), rng.fork()));
    for (a, b) in [("us", "eu"), ("us", "ap"), ("eu", "ap")] {
        let latency = Duration::from_millis(rng.u64(5..120));
        nodes_of(a).for_each(|one| nodes_of(b).for_each(|other| sim.set_link_latency(one, other, latency)));
    }
    let mut acts = schedule(&mut rng).into_iter().peekable();
    while !sim.step().unwrap_or_else(|error| panic!("seed {seed}: {error}")) {
        while let Some((_, act)) = acts.next_if(|(at, _)| *at <= sim.elapsed()) {
            apply(act, &mut sim);
        }
    }
    drop(sim);
    std::mem::take(&mut *book.lock())
}

/// What is wrong with a run.
fn judge(ledger: &Ledger) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut got: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    let mut last: BTreeMap<(&str, u64, Lane), u64> = BTreeMap::new();
    for (at, member, life, lane, number) in &ledger.arrived {
        if ledger.sent.get(number) != Some(member) {
            wrong.push(format!("{member} got message {number}, which is not its own"));
        }
        if !got.entry(*number).or_default().insert(*life) {
            wrong.push(format!("{member} got message {number} twice in one life, at {at:?}"));
        }
        let last = last.entry((member, *life, *lane)).or_default();
        if *last > *number {
            wrong.push(format!("{member} got message {number} after {last}"));
        }
        *last = (*last).max(*number);
    }
    for (number, member) in &ledger.sent {
        let has = got.contains_key(number);
        match ledger.told.get(number).map(|(_, outcome)| outcome) {
            Some(Outcome::Delivered { .. }) if has => {}
            Some(Outcome::Failed { reason: FailReason::PeerRestarted, maybe_delivered })
                if *member == RESTARTS && (*maybe_delivered || !has) => {}
            other => wrong.push(format!("message {number} to {member}: {other:?}, and it has it: {has}")),
        }
    }
    for ((node, life), broken) in ledger.broken.iter().filter(|(_, broken)| !broken.is_empty()) {
        wrong.push(format!("{node}, life {life}: its peers break the protocol: {broken:?}"));
    }
    wrong
}

#[test]
fn whole_processes_lose_nothing_whatever_the_network_does() {
    let (from, seeds) = (number("TURMOIL_FROM", 0), number("TURMOIL_SEEDS", 4));
    for seed in from..from + seeds {
        let ledger = run(seed);
        let wrong = judge(&ledger);
        assert!(
            wrong.is_empty(),
            "seed {seed}: {} of {}: {:#?}",
            wrong.len(),
            ledger.sent.len(),
            &wrong[..wrong.len().min(9)]
        );
        let lives: BTreeSet<u64> = ledger
            .arrived
            .iter()
            .filter(|(_, member, ..)| *member == RESTARTS)
            .map(|(_, _, life, ..)| *life)
            .collect();
        assert_eq!(lives, BTreeSet::from([1, 2]), "seed {seed}: it delivered in both of its lives");
        for datacenter in ["eu", "ap"] {
            let row = &ledger.leader.datacenters[&Datacenter::new(datacenter).unwrap()];
            let (by_proxy, direct) = (row.delivered_by_proxy, row.delivered_direct);
            assert!(by_proxy > direct, "seed {seed}: {by_proxy} to {datacenter} by proxy, {direct} directly");
        }
        let failed = ledger.told.values().filter(|(_, outcome)| !outcome.is_delivered()).count();
        println!("seed {seed}: {} messages, {failed} of them to a life that was over", ledger.sent.len());
    }
}

#[test]
fn the_same_seed_gives_the_same_outcomes_at_the_same_times() {
    let (one, two) = (run(3), run(3));
    assert_eq!(one.told, two.told);
    assert_eq!(one.arrived, two.arrived);
}
