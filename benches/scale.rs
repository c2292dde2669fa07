//! What a leader of 20 datacenters with 50 members each pays, by proxies and directly: bytes and time per message, and what every
//! further member adds. Ends with 1 if a target is missed. Memory is in `scale_memory`.
//!
//! A thousand machines in one thread, in virtual time: streams with a delay, no sockets. What is counted is exact. The time is that of
//! the leader's machine, its reader and its encoders, without system calls and TLS: what was done to it is done once more to
//! one that is by itself, as a process is, and not in turns with a thousand others, whose caches it would share. That one has to
//! take the same course to the byte. It allocates as the binary does. Both ways are measured in one run.
//!
//! ```text
//! cargo bench --bench scale               # some minutes
//! cargo bench --bench scale -- --quick    # about a minute
//!
//! # Only work, for callgrind to count: 51,200 messages to 20 members by one proxy, so many for each member in a batch.
//! valgrind --tool=callgrind target/release/deps/scale-* --count 64
//!
//! # The same of a leader of 1,000 members by itself, for so many batches, of one or more messages for each of them, with all that it
//! # does beside: the beginning is in it, too, so take the difference of two.
//! valgrind --tool=callgrind --toggle-collect='*lab::record::replay*' target/release/deps/scale-* --leader 50 16
//! ```

use std::time::Duration;

use bytes::Bytes;
use leader::lab::{Lab, dc, id};
use leader::{DATACENTERS, ENTRY_BYTES, EVERY, HEAD_BYTES, LEADER, MEMBERS, PER_BATCH, Run, Way, median};
use mimalloc::MiMalloc;
use trunkline_mesh::{Batch, Lane, Message, NodeId, Roles, Settings};

#[path = "scale/leader.rs"]
mod leader;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Of one message to all members, at the leader.
#[derive(Clone, Copy)]
struct Cost {
    written: f64,
    read: f64,
    time_us: f64,
    connections: usize,
}

/// What a leader does for a datacenter of 20, `per_member` messages of 128 B for each member in every batch, and all others do
/// for that. Nothing is measured here.
fn work(per_member: usize) {
    const MEMBERS: usize = 20;
    const SMALL_BYTES: usize = 128;
    let names: Vec<String> = (0..MEMBERS).map(|member| format!("m{member}")).collect();
    let mut nodes = vec![(LEADER, "us", Roles::ORIGIN, None), ("proxy", "eu", Roles::PROXY, None)];
    nodes.extend(names.iter().map(|name| (name.as_str(), "eu", Roles::MEMBER, None)));
    let mut lab = Lab::new(&nodes, &Settings::default(), Duration::from_micros(200));
    lab.run_for(Duration::from_secs(2));
    let (members, mut rng): (Vec<NodeId>, _) =
        (names.iter().map(|name| id(name)).collect(), fastrand::Rng::with_seed(7));
    let rounds = 51_200 / (MEMBERS * per_member);
    for _ in 0..rounds {
        let mut batch = Batch::to(dc("eu"));
        for _ in 0..per_member {
            let entry: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(SMALL_BYTES).collect();
            let entry = Bytes::from(entry);
            let message = |to: &NodeId| Message::new(to.clone(), entry.clone()).lane(Lane::Bulk);
            batch.extend(members.iter().map(message));
        }
        lab.submit(LEADER, batch).expect("within the budget");
        lab.run_for(Duration::from_millis(1));
    }
    lab.run_for(Duration::from_secs(1));
    println!("{} messages delivered", lab.delivered.len());
}

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--count").skip(1);
    if let Some(per_member) = arguments.next() {
        return work(per_member.parse().expect("a number of messages"));
    }
    let mut arguments = std::env::args().skip_while(|argument| argument != "--leader").skip(1);
    if let Some(messages) = arguments.next() {
        let messages = messages.parse().expect("a number of batches");
        let per_batch = arguments.next().map_or(1, |each| each.parse().expect("messages for each member"));
        let mut run = Run::new(Way::Proxy, MEMBERS[2], per_batch);
        run.measure(messages);
        return println!("{:.0} µs for each message to all", cost(run).time_us);
    }
    let (rounds, batches) = leader::rounds();
    println!(
        "{DATACENTERS} datacenters, a batch for each every {} ms, messages of one entry of {ENTRY_BYTES} B for all behind {HEAD_BYTES} B of each",
        EVERY.as_millis()
    );
    println!("at the leader, per message to all members; medians of {rounds} rounds of {batches} batches");
    let missed = PER_BATCH.into_iter().filter(|per_batch| !table(*per_batch)).count();
    if missed > 0 {
        std::process::exit(1);
    }
}

/// Medians of the rounds.
fn cost(run: Run) -> Cost {
    let messages = run.messages();
    let times = run.replay(|stretch| stretch()).into_iter();
    Cost {
        written: median(run.rounds.iter().map(|round| round.written)),
        read: median(run.rounds.iter().map(|round| round.read)),
        time_us: median(times.map(|[_, round]| round.took.as_secs_f64() * 1e6 / messages)),
        connections: run.connections(),
    }
}

/// What it costs with so many messages for each member in a batch. True if the targets are met.
fn table(per_batch: usize) -> bool {
    let runs = leader::runs(per_batch).into_iter();
    let costs: Vec<(Way, usize, Cost)> = runs.map(|run| (run.way, run.members, cost(run))).collect();
    println!("\n{per_batch} for each member in a batch\n");
    println!("members  way          B written    B read       µs   µs/member  connections");
    for (way, members, cost) in &costs {
        let all = DATACENTERS * members;
        println!(
            "{all:7}  {:8} {:12.0} {:9.0} {:8.0} {:11.2} {:12}",
            way.label(),
            cost.written,
            cost.read,
            cost.time_us,
            cost.time_us / all as f64,
            cost.connections
        );
    }
    let of = |way: Way, members: usize| {
        costs.iter().find(|(a, b, _)| (*a, *b) == (way, members)).map(|(.., cost)| *cost).expect("measured")
    };
    let [_, few, many] = MEMBERS;
    println!("\na further member adds, per message        written      read       time");
    for way in Way::ALL {
        let (a, b, more) = (of(way, few), of(way, many), (DATACENTERS * (many - few)) as f64);
        println!(
            "{:8}                               {:8.1} B {:7.1} B {:7.2} µs",
            way.label(),
            (b.written - a.written) / more,
            (b.read - a.read) / more,
            (b.time_us - a.time_us) / more
        );
    }
    let (a, b, more) = (of(Way::Proxy, few), of(Way::Proxy, many), (DATACENTERS * (many - few)) as f64);
    let (bytes, time) = ((b.written - a.written + b.read - a.read) / more, (b.time_us - a.time_us) / more);
    let word = |met: bool| if met { "met" } else { "MISSED" };
    println!("\ntargets by proxy, per further member and message");
    println!("at most 40 B both ways   {bytes:6.1} B    {}", word(bytes <= 40.0));
    println!("at most 1 µs             {time:6.2} µs   {}", word(time <= 1.0));
    let (proxy, direct) = (of(Way::Proxy, many), of(Way::Direct, many));
    println!("\nby proxy over direct, {} members", DATACENTERS * many);
    println!(
        "bytes written {:.3} x, read {:.2} x, time {:.2} x",
        proxy.written / direct.written,
        proxy.read / direct.read,
        proxy.time_us / direct.time_us
    );
    let entries = (DATACENTERS * ENTRY_BYTES) as f64;
    let heads = (DATACENTERS * many * HEAD_BYTES) as f64;
    println!(
        "bytes written over one entry per datacenter and one head per member: {:.2} x",
        proxy.written / (entries + heads)
    );
    bytes <= 40.0 && time <= 1.0
}
