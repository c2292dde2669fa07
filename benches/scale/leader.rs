//! A leader, 20 datacenters of members, and their proxies or none: a thousand machines in one thread, in virtual time. What was done to
//! the leader is done once more to one that is by itself.
#![allow(dead_code)] // Each bench uses its own part.

use std::time::Duration;

use bytes::Bytes;
use lab::record::{Record, Replayed, replay};
use lab::{Lab, dc, id};
use trunkline_codec::Payload;
use trunkline_mesh::proto::time::Micros;
use trunkline_mesh::{Batch, Lane, Message, NodeId, Roles, Settings};

#[path = "../../mesh/tests/lab/mod.rs"]
pub(crate) mod lab;

pub(crate) const LEADER: &str = "leader";
pub(crate) const DATACENTERS: usize = 20;
/// Members per datacenter.
pub(crate) const MEMBERS: [usize; 3] = [10, 25, 50];
/// Messages for each member in a batch: what costs most, and what a leader does that is busy.
pub(crate) const PER_BATCH: [usize; 2] = [1, 16];
/// What all members get in a message; each has a head of its own before it.
pub(crate) const ENTRY_BYTES: usize = 1024;
pub(crate) const HEAD_BYTES: usize = 8;
pub(crate) const EVERY: Duration = Duration::from_millis(10);
const DELAY: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Proxy,
    Direct,
}

impl Way {
    pub(crate) const ALL: [Self; 2] = [Self::Proxy, Self::Direct];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Proxy => "by proxy",
            Self::Direct => "direct",
        }
    }
}

/// How many rounds, and batches in each: of few one sees about as much, in a minute.
pub(crate) fn rounds() -> (usize, u32) {
    if std::env::args().any(|argument| argument == "--quick") { (3, 20) } else { (7, 50) }
}

/// Runs of both ways and all sizes, with so many messages for each member in a batch, side by side in rounds.
pub(crate) fn runs(per_batch: usize) -> Vec<Run> {
    let (rounds, batches) = rounds();
    let mut runs = Vec::new();
    for members in MEMBERS {
        runs.extend(Way::ALL.map(|way| Run::new(way, members, per_batch)));
    }
    for _ in 0..rounds {
        for run in &mut runs {
            run.measure(batches);
        }
    }
    runs
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Bytes of one message to all members, at the leader.
pub(crate) struct Traffic {
    pub(crate) written: f64,
    pub(crate) read: f64,
}

pub(crate) struct Run {
    pub(crate) way: Way,
    pub(crate) members: usize,
    per_batch: usize,
    lab: Lab,
    /// Of each round.
    messages: usize,
    /// When the rounds began and ended.
    stretches: Vec<[Micros; 2]>,
    sites: Vec<String>,
    names: Vec<Vec<NodeId>>,
    rng: fastrand::Rng,
    pub(crate) rounds: Vec<Traffic>,
}

impl Run {
    pub(crate) fn new(way: Way, members: usize, per_batch: usize) -> Self {
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
            messages: 0,
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

    /// So many batches for each datacenter, and what the leader wrote and read for one message.
    pub(crate) fn measure(&mut self, batches: u32) {
        self.lab.delivered.clear();
        self.lab.outcomes.clear();
        let (written, read) = self.totals();
        let began_at = self.lab.now;
        for _ in 0..batches {
            self.send();
        }
        self.lab.run_for(Duration::from_secs(1));
        self.messages = batches as usize * self.per_batch;
        let sent = self.messages * DATACENTERS * self.members;
        assert_eq!(self.lab.delivered.len(), sent, "all of it arrives");
        let (written_after, read_after) = self.totals();
        let per = |bytes: u64| bytes as f64 / self.messages();
        let traffic = Traffic { written: per(written_after - written), read: per(read_after - read) };
        self.rounds.push(traffic);
        self.stretches.push([began_at, self.lab.now]);
    }

    pub(crate) fn connections(&self) -> usize {
        self.lab.connections(LEADER)
    }

    /// Of each round, to all members.
    pub(crate) fn messages(&self) -> f64 {
        self.messages as f64
    }

    /// As many messages as are sent to all within a round trip.
    pub(crate) fn under_way(&self) -> f64 {
        (2 * DELAY).as_secs_f64() / EVERY.as_secs_f64() * self.per_batch as f64
    }

    /// The leader once more, by itself: what came before each round and the round, each of them run by `look`, which may see it from
    /// outside.
    pub(crate) fn replay(&self, look: impl FnMut(&mut dyn FnMut())) -> Vec<[Replayed; 2]> {
        let record = self.lab.record.as_ref().expect("it is recorded");
        let ends: Vec<Micros> = self.stretches.concat();
        let stretches = replay(&self.lab, record, &ends, look);
        let rounds: Vec<[Replayed; 2]> = stretches.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect();
        let sent = (self.messages * DATACENTERS * self.members) as u64;
        assert!(rounds.iter().all(|[_, round]| round.decided == sent), "all of it is decided");
        rounds
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
}
