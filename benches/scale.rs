//! What a leader of 20 datacenters with 50 members each pays, by proxies and directly: bytes, time and memory per message,
//! and what every further member adds. Ends with 1 if a target is missed.
//!
//! A thousand machines in one thread, in virtual time: streams with a delay, no sockets. What is counted is exact. The time is that of
//! the leader's machine, its reader and its encoders, without system calls and TLS: what was done to it is done once more to
//! one that is by itself, as a process is, and not in turns with a thousand others, whose caches it would share. That one has to
//! take the same course to the byte. Memory is what that one allocates: links, flows, sessions of the codec and what is written
//! of messages, and not their bytes, which are the caller's. Both ways are measured in one run.
//!
//! ```text
//! cargo bench --bench scale               # some minutes
//! cargo bench --bench scale -- --quick    # about a minute
//!
//! # Only work, for callgrind to count: 51,200 messages to 20 members by one proxy, so many for each member in a batch.
//! valgrind --tool=callgrind target/release/deps/scale-* --count 64
//!
//! # The same of a leader of 1,000 members by itself, for so many messages to all of them, with all that it does beside: the
//! # beginning is in it, too, so take the difference of two.
//! valgrind --tool=callgrind --toggle-collect='*replay*' target/release/deps/scale-* --leader 50
//! ```

use std::time::Duration;

use allocation_counter::measure;
use bytes::Bytes;
use lab::record::{Record, replay};
use lab::{Lab, dc, id};
use trunkline_codec::Payload;
use trunkline_mesh::proto::time::Micros;
use trunkline_mesh::{Batch, Lane, Message, NodeId, Roles, Settings};

#[path = "../mesh/tests/lab/mod.rs"]
mod lab;

const LEADER: &str = "leader";
const DATACENTERS: usize = 20;
/// Members per datacenter.
const MEMBERS: [usize; 3] = [10, 25, 50];
/// Messages for each member in a batch: what costs most, and what a leader does that is busy.
const PER_BATCH: [usize; 2] = [1, 16];
/// What all members get in a message; each has a head of its own before it.
const ENTRY_BYTES: usize = 1024;
const HEAD_BYTES: usize = 8;
const EVERY: Duration = Duration::from_millis(10);
const DELAY: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Proxy,
    Direct,
}

impl Way {
    fn label(self) -> &'static str {
        match self {
            Self::Proxy => "by proxy",
            Self::Direct => "direct",
        }
    }
}

/// Of one message to all members, at the leader.
#[derive(Clone, Copy, Default)]
struct Cost {
    written: f64,
    read: f64,
    time_us: f64,
    /// Bytes that the leader has at most for a message under way, besides the caller's own.
    memory: f64,
    /// Bytes that it has when nothing is under way, in all.
    idle: f64,
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

struct Run {
    way: Way,
    members: usize,
    per_batch: usize,
    lab: Lab,
    /// When the rounds began and ended.
    stretches: Vec<[Micros; 2]>,
    sites: Vec<String>,
    names: Vec<Vec<NodeId>>,
    rng: fastrand::Rng,
    rounds: Vec<Cost>,
}

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--count").skip(1);
    if let Some(per_member) = arguments.next() {
        return work(per_member.parse().expect("a number of messages"));
    }
    let mut arguments = std::env::args().skip_while(|argument| argument != "--leader").skip(1);
    if let Some(messages) = arguments.next() {
        let messages = messages.parse().expect("a number of messages");
        let mut run = Run::new(Way::Proxy, MEMBERS[2], 1);
        run.measure(messages);
        run.replay(messages);
        return println!("{:.0} µs for each of {messages} messages", run.median().time_us);
    }
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (rounds, messages) = if quick { (3, 20) } else { (7, 50) };
    println!(
        "{DATACENTERS} datacenters, a batch for each every {} ms, messages of one entry of {ENTRY_BYTES} B for all behind {HEAD_BYTES} B of each",
        EVERY.as_millis()
    );
    println!("at the leader, per message to all members; medians of {rounds} rounds of {messages} batches");
    let missed = PER_BATCH.into_iter().filter(|per_batch| !table(*per_batch, rounds, messages)).count();
    if missed > 0 {
        std::process::exit(1);
    }
}

/// What it costs with so many messages for each member in a batch. True if the targets are met.
fn table(per_batch: usize, rounds: usize, messages: u32) -> bool {
    let mut runs = Vec::new();
    for members in MEMBERS {
        runs.extend([Way::Proxy, Way::Direct].map(|way| Run::new(way, members, per_batch)));
    }
    for _ in 0..rounds {
        for run in &mut runs {
            run.measure(messages);
        }
    }
    for run in &mut runs {
        run.replay(messages);
    }
    let costs: Vec<(Way, usize, Cost)> =
        runs.iter().map(|run| (run.way, run.members, run.median())).collect();
    println!("\n{per_batch} for each member in a batch\n");
    println!("members  way          B written    B read       µs   µs/member   KiB  KiB idle  connections");
    for (way, members, cost) in &costs {
        let all = DATACENTERS * members;
        println!(
            "{all:7}  {:8} {:12.0} {:9.0} {:8.0} {:11.2} {:5.0} {:9.0} {:12}",
            way.label(),
            cost.written,
            cost.read,
            cost.time_us,
            cost.time_us / all as f64,
            cost.memory / 1024.0,
            cost.idle / 1024.0,
            cost.connections
        );
    }
    let of = |way: Way, members: usize| {
        costs.iter().find(|(a, b, _)| (*a, *b) == (way, members)).map(|(.., cost)| *cost).expect("measured")
    };
    let [_, few, many] = MEMBERS;
    println!("\na further member adds, per message        written      read       time");
    for way in [Way::Proxy, Way::Direct] {
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

impl Run {
    fn new(way: Way, members: usize, per_batch: usize) -> Self {
        let sites: Vec<String> = (0..DATACENTERS).map(|site| format!("dc-{site}")).collect();
        let mut named = Vec::new();
        for site in &sites {
            if way == Way::Proxy {
                named.extend((0..2).map(|proxy| (format!("{site}-p{proxy}"), site, Roles::PROXY)));
            }
            named.extend((0..members).map(|member| (format!("{site}-m{member}"), site, Roles::MEMBER)));
        }
        let mut nodes = vec![(LEADER, "home", Roles::ORIGIN, None)];
        nodes.extend(named.iter().map(|(name, site, roles)| (name.as_str(), site.as_str(), *roles, None)));
        let lab = Lab::new(&nodes, &Settings::default(), DELAY);
        let name = |site: &String| (0..members).map(|member| id(&format!("{site}-m{member}"))).collect();
        let names = sites.iter().map(name).collect();
        let rng = fastrand::Rng::with_seed(1);
        let mut run = Self {
            way,
            members,
            per_batch,
            lab,
            stretches: Vec::new(),
            sites,
            names,
            rng,
            rounds: Vec::new(),
        };
        run.lab.record = Some(Record::of(run.lab.index(LEADER)));
        run.lab.run_for(Duration::from_secs(2));
        // Direct links are dialled with the first message, 200 per second.
        run.send();
        run.lab.run_for(Duration::from_secs(12));
        for _ in 0..20 {
            run.send();
        }
        run.lab.run_for(Duration::from_secs(2));
        run
    }

    /// A batch for each datacenter, of entries for everybody.
    fn send(&mut self) {
        let Self { lab, sites, names, rng, .. } = self;
        let mut random = |length| Bytes::from_iter(std::iter::repeat_with(|| rng.u8(..)).take(length));
        let entries: Vec<Bytes> = (0..self.per_batch).map(|_| random(ENTRY_BYTES)).collect();
        for (site, members) in sites.iter().zip(names) {
            let mut batch = Batch::to(dc(site));
            for entry in &entries {
                batch.extend(members.iter().map(|member| {
                    let payload: Payload = [random(HEAD_BYTES), entry.clone()].into_iter().collect();
                    Message::new(member.clone(), payload).lane(Lane::Bulk)
                }));
            }
            assert!(lab.submit(LEADER, batch).is_ok(), "the budget holds it");
        }
        lab.run_for(EVERY);
    }

    fn measure(&mut self, batches: u32) {
        self.lab.delivered.clear();
        self.lab.outcomes.clear();
        let (written, read) = self.totals();
        let began_at = self.lab.now;
        for _ in 0..batches {
            self.send();
        }
        self.lab.run_for(Duration::from_secs(1));
        let messages = batches as usize * self.per_batch;
        let sent = messages * DATACENTERS * self.members;
        assert_eq!(self.lab.delivered.len(), sent, "all of it arrives");
        let (written_after, read_after) = self.totals();
        let per = |bytes: u64| bytes as f64 / messages as f64;
        self.stretches.push([began_at, self.lab.now]);
        self.rounds.push(Cost {
            written: per(written_after - written),
            read: per(read_after - read),
            connections: self.lab.connections(LEADER),
            // The others are those of a node by itself: see `Run::replay`.
            ..Cost::default()
        });
    }

    /// The leader twice more, by itself: what each round took, and then what it allocated.
    fn replay(&mut self, batches: u32) {
        let messages = batches as usize * self.per_batch;
        let record = self.lab.record.take().expect("it was recorded");
        let ends: Vec<Micros> = self.stretches.concat();
        let timed = replay(&self.lab, &record, &ends, |stretch| stretch());
        for (round, stretch) in self.rounds.iter_mut().zip(timed.chunks(2)) {
            assert_eq!(stretch[1].decided, (messages * DATACENTERS * self.members) as u64);
            round.time_us = stretch[1].took.as_secs_f64() * 1e6 / messages as f64;
        }
        let mut allocated = Vec::new();
        replay(&self.lab, &record, &ends, |stretch| allocated.push(measure(stretch)));
        // As many messages are under way as are sent within the round trip.
        let under_way = (2 * DELAY).as_secs_f64() / EVERY.as_secs_f64() * self.per_batch as f64;
        let mut idle = 0;
        for (round, stretch) in self.rounds.iter_mut().zip(allocated.chunks(2)) {
            idle += stretch[0].bytes_current;
            (round.idle, round.memory) = (idle as f64, stretch[1].bytes_max as f64 / under_way);
            idle += stretch[1].bytes_current;
        }
    }

    /// Bytes that the leader wrote, and read.
    fn totals(&self) -> (u64, u64) {
        let leader = id(LEADER);
        let (mut written, mut read) = (0, 0);
        for ((to, from), traffic) in &self.lab.received {
            written += if *from == leader { traffic.bytes } else { 0 };
            read += if *to == leader { traffic.bytes } else { 0 };
        }
        (written, read)
    }

    fn median(&self) -> Cost {
        let of = |value: fn(&Cost) -> f64| {
            let mut values: Vec<f64> = self.rounds.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Cost {
            written: of(|cost| cost.written),
            read: of(|cost| cost.read),
            time_us: of(|cost| cost.time_us),
            memory: of(|cost| cost.memory),
            idle: of(|cost| cost.idle),
            connections: self.rounds.last().map_or(0, |cost| cost.connections),
        }
    }
}
