//! Appending to the log beside what bounds it, writing and `fdatasync` of the same bytes, and beside another log of its kind.
//!
//! So many appends of one entry are kept under way, as by so many clients; each is answered when it is durable. *raw* does
//! what no log can do faster on this file system: it writes that many entries in one piece, syncs, and begins again.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_log::api::raft_log_writer::RaftLogWriter;
use trunkline::storage::{Directory, Entry, EntryId, Identity, Log, Options};

const LENGTHS: [usize; 2] = [256, 4_096];
const UNDER_WAY: [usize; 4] = [1, 16, 64, 256];

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let (rounds, budget) =
        if quick { (3, Duration::from_millis(100)) } else { (9, Duration::from_millis(400)) };
    let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the files");
    println!("entry  under  log         appends/s     p50     p99   of raw");
    println!("    B    way                             µs      µs");
    for length in LENGTHS {
        for under_way in UNDER_WAY {
            let mut raw = Raw::open(&temp.path().join(format!("raw-{length}-{under_way}")), length);
            let mut ours = Ours::open(&temp.path().join(format!("ours-{length}-{under_way}")), length);
            let mut peer = Peer::open(&temp.path().join(format!("peer-{length}-{under_way}")), length);
            let mut subjects: [(&str, &mut dyn Subject); 3] =
                [("raw", &mut raw), ("trunkline", &mut ours), ("raft-log", &mut peer)];
            let mut figures = [const { Vec::new() }; 3];
            for _ in 0..rounds {
                for ((_, subject), figures) in subjects.iter_mut().zip(&mut figures) {
                    figures.push(measure(*subject, under_way, budget));
                }
            }
            let medians = figures.map(|figures| Figures::median(&figures));
            for ((name, _), figure) in subjects.iter().zip(&medians) {
                println!(
                    "{length:>5}  {under_way:>5}  {name:<10}  {:>9.0}  {:>6.0}  {:>6.0}  {:>5.2} x",
                    figure.per_second,
                    figure.p50_us,
                    figure.p99_us,
                    figure.per_second / medians[0].per_second,
                );
            }
        }
    }
}

/// Whoever makes entries durable.
trait Subject {
    /// Takes one more entry.
    fn append(&mut self);
    /// Waits until some that were taken are durable, and says how many.
    fn durable(&mut self) -> usize;
}

#[derive(Clone, Copy)]
struct Figures {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Figures {
    fn median(of: &[Self]) -> Self {
        let pick = |field: fn(&Self) -> f64| {
            let mut values: Vec<f64> = of.iter().map(field).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Self { per_second: pick(|f| f.per_second), p50_us: pick(|f| f.p50_us), p99_us: pick(|f| f.p99_us) }
    }
}

/// Keeps so many appends under way for a while.
fn measure(subject: &mut dyn Subject, under_way: usize, budget: Duration) -> Figures {
    let began = Instant::now();
    let mut taken = VecDeque::new();
    let mut took = Vec::new();
    loop {
        let over = began.elapsed() >= budget;
        while !over && taken.len() < under_way {
            subject.append();
            taken.push_back(Instant::now());
        }
        if taken.is_empty() {
            break;
        }
        let durable = subject.durable();
        let now = Instant::now();
        took.extend(taken.drain(..durable).map(|at| (now - at).as_secs_f64() * 1e6));
    }
    let per_second = took.len() as f64 / began.elapsed().as_secs_f64();
    took.sort_by(f64::total_cmp);
    Figures { per_second, p50_us: took[took.len() / 2], p99_us: took[took.len() * 99 / 100] }
}

struct Raw {
    file: File,
    entry: Vec<u8>,
    group: Vec<u8>,
    end: u64,
    count: usize,
}

impl Raw {
    fn open(path: &Path, length: usize) -> Self {
        let file = OpenOptions::new().create_new(true).write(true).open(path).expect("a new file");
        Self { file, entry: noise(length), group: Vec::new(), end: 0, count: 0 }
    }
}

impl Subject for Raw {
    fn append(&mut self) {
        self.group.extend_from_slice(&self.entry);
        self.count += 1;
    }

    fn durable(&mut self) -> usize {
        self.file.write_all_at(&self.group, self.end).expect("it is written");
        self.file.sync_data().expect("it is durable");
        self.end += self.group.len() as u64;
        self.group.clear();
        std::mem::take(&mut self.count)
    }
}

struct Ours {
    log: Log<Directory>,
    entry: Bytes,
    next: u64,
    tell: Sender<()>,
    told: Receiver<()>,
}

impl Ours {
    fn open(path: &Path, length: usize) -> Self {
        std::fs::create_dir(path).expect("a new directory");
        let identity = Identity { cluster: "bench".to_owned(), node: "one".to_owned() };
        let (log, _) =
            Log::open(Directory::new(path.to_owned()), identity, Options::new(1)).expect("a new log");
        let (tell, told) = channel();
        Self { log, entry: noise(length).into(), next: 0, tell, told }
    }
}

impl Subject for Ours {
    fn append(&mut self) {
        let entry = Entry { id: EntryId { term: 1, index: self.next }, payload: self.entry.clone() };
        self.next += 1;
        let tell = self.tell.clone();
        let done = Box::new(move |result: Result<(), _>| {
            result.expect("it is durable");
            let _ = tell.send(());
        });
        self.log.append(vec![entry], done).expect("it is taken");
    }

    fn durable(&mut self) -> usize {
        count(&self.told)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Types;

impl raft_log::Types for Types {
    type LogId = (u64, u64);
    type LogPayload = Vec<u8>;
    type Vote = (u64, u64);
    type Callback = Told;
    type UserData = String;

    fn log_index(log_id: &Self::LogId) -> u64 {
        log_id.1
    }

    fn payload_size(payload: &Self::LogPayload) -> u64 {
        payload.len() as u64
    }
}

struct Told(Sender<()>);

impl raft_log::Callback for Told {
    fn send(self, result: Result<(), io::Error>) {
        result.expect("it is durable");
        let _ = self.0.send(());
    }
}

struct Peer {
    log: raft_log::RaftLog<Types>,
    entry: Vec<u8>,
    next: u64,
    tell: Sender<()>,
    told: Receiver<()>,
}

impl Peer {
    fn open(path: &Path, length: usize) -> Self {
        std::fs::create_dir(path).expect("a new directory");
        let config = raft_log::Config::new(path.to_str().expect("a path that is text"));
        let log = raft_log::RaftLog::open(Arc::new(config)).expect("a new log");
        let (tell, told) = channel();
        Self { log, entry: noise(length), next: 0, tell, told }
    }
}

impl Subject for Peer {
    fn append(&mut self) {
        self.log.append([((1, self.next), self.entry.clone())]).expect("it is taken");
        self.log.flush(true, Some(Told(self.tell.clone()))).expect("it is taken");
        self.next += 1;
    }

    fn durable(&mut self) -> usize {
        count(&self.told)
    }
}

/// Waits for one answer, and takes those that are there by then.
fn count(told: &Receiver<()>) -> usize {
    told.recv().expect("an answer");
    1 + told.try_iter().count()
}

fn noise(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..length).map(|_| random.u8(..)).collect()
}
