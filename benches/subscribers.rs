//! What those who follow the log cost a node: memory and CPU for 1, 1,000 and 10,000 of them, and how late they are told.
//!
//! A `trunkline node --dev` is a process of its own, on loopback; the bench holds all subscribers on one thread and puts from
//! another one: at a fixed rate of deliveries, and then as fast as one client can. It fails if a subscriber misses an entry or
//! gets one twice.
//!
//! ```text
//! cargo bench --bench subscribers                         # about two minutes
//! cargo bench --bench subscribers -- --quick              # half a minute, rough
//! cargo bench --bench subscribers -- --subscribers 1000   # one of the rows
//! ```
//!
//! Memory and CPU are those of the node, from `/proc`: Linux only. The bench itself takes its share of the same cores.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;
use tokio::time::sleep;

const SUBSCRIBERS: [usize; 3] = [1, 1_000, 10_000];
const VALUE_BYTES: usize = 256;
/// What is delivered at the fixed rate, to all together.
const DELIVERIES_PER_S: usize = 50_000;
/// Puts per second at that rate, at most: of few subscribers.
const PUTS_PER_S_MAX: usize = 50;
/// Descriptors that a process needs besides those of subscribers.
const DESCRIPTORS: usize = 100;
/// Of so many subscribers one notes when it is told what.
const NOTING: usize = 10;
/// Whatever is waited for is there by then.
const SOON: Duration = Duration::from_secs(120);
/// Clock ticks of `/proc/PID/stat` in a second, as Linux has them for programs.
const TICKS_PER_S: f64 = 100.0;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let at = arguments.iter().position(|argument| argument == "--subscribers");
    let only = at.and_then(|at| arguments.get(at + 1)?.parse::<usize>().ok());
    let span = if quick { Duration::from_secs(3) } else { Duration::from_secs(15) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    println!("puts of {VALUE_BYTES} B for {span:?}; memory and CPU are the node's");
    println!();
    println!(
        "subscribers  puts        KiB each  puts/s  deliveries/s  CPU us/put  CPU us/delivery  p50 ms  p99 ms  most MiB"
    );
    for subscribers in only.map_or(SUBSCRIBERS.to_vec(), |only| vec![only]) {
        let needed = subscribers + DESCRIPTORS;
        let limit = descriptors();
        if limit < needed {
            println!(
                "{subscribers:>11}  left out: a process may have {limit} files open, and needs {needed}: ulimit -n {needed}"
            );
            continue;
        }
        LocalSet::new().block_on(&runtime, run(subscribers, span));
    }
}

async fn run(count: usize, span: Duration) {
    let node = Node::start();
    node.ready().await;
    let mut putter = Putter::new(node.api);
    // Whatever a node's first moments cost is in no figure.
    let mut last = (0..50).map(|_| putter.put()).last().expect("some");
    let before = node.resident_kib();
    let notes =
        Rc::new(RefCell::new(Notes { begun: Instant::now(), scratch: vec![0; 256 << 10], arrivals: vec![] }));
    let subscribers = Subscribers::open(count, node.api, last + 1, &notes).await;
    // They are there once each was told of a put.
    last = putter.put();
    subscribers.reached(last).await;
    let each = (node.resident_kib().saturating_sub(before)) as f64 / count as f64;

    let rate = (DELIVERIES_PER_S / count).clamp(1, PUTS_PER_S_MAX);
    let pause = Duration::from_secs(1) / u32::try_from(rate).expect("few");
    for (name, pause) in [(format!("{rate} each s"), pause), ("no pause".to_owned(), Duration::ZERO)] {
        notes.borrow_mut().arrivals.clear();
        let (cpu, begun) = (node.cpu(), Instant::now());
        let putting = std::thread::spawn(move || {
            let (_keep, never) = std::sync::mpsc::channel::<()>();
            let mut acknowledged = Vec::new();
            let mut due = begun;
            while begun.elapsed() < span {
                acknowledged.push((putter.put(), Instant::now()));
                due += pause;
                let left = due.saturating_duration_since(Instant::now()).min(pause);
                let _ = never.recv_timeout(left);
            }
            (putter, acknowledged)
        });
        let (mut most, mut tick) = (0, tokio::time::interval(Duration::from_millis(100)));
        while !putting.is_finished() {
            most = most.max(node.resident_kib());
            tick.tick().await;
        }
        let acknowledged;
        (putter, acknowledged) = putting.join().expect("puts");
        last = acknowledged.last().expect("one put at least").0;
        subscribers.reached(last).await;
        most = most.max(node.resident_kib());
        let (elapsed, cpu) = (begun.elapsed().as_secs_f64(), (node.cpu() - cpu).as_secs_f64() * 1e6);
        let puts = acknowledged.len();
        let deliveries = (puts * count) as f64;
        let (p50, p99) = delays(&notes.borrow(), &acknowledged);
        println!(
            "{count:>11}  {name:<10}  {each:>8.1}  {:>6.0}  {:>12.0}  {:>10.0}  {:>15.2}  {p50:>6.1}  {p99:>6.1}  {:>8.1}",
            puts as f64 / elapsed,
            deliveries / elapsed,
            cpu / puts as f64,
            cpu / deliveries,
            most as f64 / 1_024.0,
        );
    }
    drop(subscribers);
}

/// From the answer to a put, which leaves when the entry is committed, to the subscribers that note it, ms.
fn delays(notes: &Notes, acknowledged: &[(u64, Instant)]) -> (f64, f64) {
    let first = acknowledged[0].0;
    let mut delays: Vec<f64> = notes
        .arrivals
        .iter()
        .filter_map(|(index, arrival)| {
            let at = usize::try_from(index.checked_sub(first)?).ok()?;
            let (same, told) = acknowledged.get(at)?;
            assert_eq!(same, index, "nothing but puts is proposed");
            Some(arrival.saturating_duration_since(*told).as_secs_f64() * 1e3)
        })
        .collect();
    delays.sort_by(f64::total_cmp);
    let at = |percent: usize| delays[(delays.len() - 1) * percent / 100];
    (at(50), at(99))
}

/// How many files this process, and those that it starts, may have open.
fn descriptors() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(usize::MAX)
}

/// A process that ends with it.
struct Node {
    child: Child,
    api: SocketAddr,
    _data: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Node {
    fn start() -> Self {
        let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the data");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let api = listener.local_addr().expect("it is bound");
        drop(listener);
        let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline"));
        command
            .args(["--log-level", "warn", "node", "--dev", "--api", &api.to_string(), "--data"])
            .arg(data.path());
        let child = command.stdout(Stdio::null()).spawn().expect("it starts");
        Self { child, api, _data: data }
    }

    async fn ready(&self) {
        let deadline = Instant::now() + SOON;
        loop {
            let ready = std::net::TcpStream::connect(self.api).ok().and_then(|mut stream| {
                stream
                    .write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                    .ok()?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer).ok()?;
                answer.starts_with("HTTP/1.1 200").then_some(())
            });
            if ready.is_some() {
                return;
            }
            assert!(Instant::now() < deadline, "the node is not ready");
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("its memory is known")
    }

    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // The name before it may hold spaces.
        let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
        Duration::from_secs_f64((ticks(11) + ticks(12)) / TICKS_PER_S)
    }
}

/// A client that puts, one at a time, over one connection.
struct Putter {
    stream: std::net::TcpStream,
    api: SocketAddr,
}

impl Putter {
    fn new(api: SocketAddr) -> Self {
        Self { stream: Self::dial(api), api }
    }

    fn dial(api: SocketAddr) -> std::net::TcpStream {
        let stream = std::net::TcpStream::connect(api).expect("the node listens");
        stream.set_nodelay(true).expect("a socket");
        stream
    }

    /// The entry's index. A connection that the node closed for being idle is opened anew.
    fn put(&mut self) -> u64 {
        let value: String = std::iter::repeat_with(fastrand::alphanumeric).take(VALUE_BYTES).collect();
        let key = fastrand::u64(..10_000);
        let request = format!(
            "PUT /v1/kv/key-{key} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {VALUE_BYTES}\r\n\r\n{value}"
        );
        for _ in 0..2 {
            if self.stream.write_all(request.as_bytes()).is_ok()
                && let Some(body) = self.answer()
            {
                let index = body.split("\"index\":").nth(1).and_then(|rest| rest.split([',', '}']).next());
                return index.and_then(|index| index.parse().ok()).unwrap_or_else(|| panic!("{body}"));
            }
            self.stream = Self::dial(self.api);
        }
        panic!("no answer to a put");
    }

    fn answer(&mut self) -> Option<String> {
        let mut answer = Vec::new();
        let mut part = [0; 4_096];
        loop {
            let text = String::from_utf8_lossy(&answer);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.split("content-length: ").nth(1)?.lines().next()?.parse::<usize>().ok()?;
                if body.len() >= length {
                    return Some(body.to_owned());
                }
            }
            match self.stream.read(&mut part).ok()? {
                0 => return None,
                read => answer.extend_from_slice(&part[..read]),
            }
        }
    }
}

/// What all subscribers share.
struct Notes {
    begun: Instant,
    /// What one reads into: nothing is kept of it.
    scratch: Vec<u8>,
    arrivals: Vec<(u64, Instant)>,
}

struct Subscribers {
    /// What each gets next.
    next: Vec<Rc<RefCell<u64>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    notes: Rc<RefCell<Notes>>,
}

impl Drop for Subscribers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Subscribers {
    async fn open(count: usize, api: SocketAddr, from: u64, notes: &Rc<RefCell<Notes>>) -> Self {
        // The node's listener has a queue of 128.
        let dialling = Rc::new(Semaphore::new(64));
        let mut all = Self { next: Vec::new(), tasks: Vec::new(), notes: Rc::clone(notes) };
        for number in 0..count {
            let permit = Rc::clone(&dialling);
            let next = Rc::new(RefCell::new(from));
            all.next.push(Rc::clone(&next));
            let notes = Rc::clone(notes);
            all.tasks.push(tokio::task::spawn_local(async move {
                let stream = {
                    let _permit = permit.acquire().await.expect("it is never closed");
                    let mut stream = TcpStream::connect(api).await.expect("the node listens");
                    let request = format!("GET /v1/log?from={from} HTTP/1.1\r\nhost: localhost\r\n\r\n");
                    stream.write_all(request.as_bytes()).await.expect("it takes a request");
                    stream.readable().await.expect("an answer");
                    stream
                };
                follow(&stream, &next, &notes, number % NOTING == 0).await;
            }));
        }
        all
    }

    /// All were told everything up to an index.
    async fn reached(&self, index: u64) {
        let deadline = Instant::now() + SOON;
        while self.next.iter().any(|next| *next.borrow() <= index) {
            if let Some(task) = self.tasks.iter().find(|task| task.is_finished()) {
                panic!("a subscriber ended: {task:?}, after {:?}", self.notes.borrow().begun.elapsed());
            }
            assert!(Instant::now() < deadline, "some were not told entry {index}");
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Reads for ever, and sees that no entry is missing and none comes twice.
async fn follow(stream: &TcpStream, next: &RefCell<u64>, notes: &RefCell<Notes>, notes_it: bool) {
    let mut scanner = Scanner::default();
    loop {
        stream.readable().await.expect("a stream");
        let mut shared = notes.borrow_mut();
        let Notes { scratch, arrivals, .. } = &mut *shared;
        let read = match stream.try_read(scratch) {
            Ok(0) => panic!("the node ended a stream"),
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => panic!("a stream broke: {error}"),
        };
        let now = Instant::now();
        for byte in &scratch[..read] {
            let Some(index) = scanner.take(*byte) else { continue };
            let mut next = next.borrow_mut();
            assert_eq!(index, *next, "in order, each once, none left out");
            *next += 1;
            if notes_it {
                arrivals.push((index, now));
            }
        }
    }
}

/// Finds the indexes in a stream of lines, wherever it is cut.
#[derive(Default)]
struct Scanner {
    matched: usize,
    number: u64,
}

impl Scanner {
    /// A line begins with it, and no text within one has it.
    const MARK: &[u8] = b"{\"index\":";

    fn take(&mut self, byte: u8) -> Option<u64> {
        if self.matched == Self::MARK.len() {
            if byte.is_ascii_digit() {
                self.number = self.number * 10 + u64::from(byte - b'0');
                return None;
            }
            self.matched = 0;
            return Some(std::mem::take(&mut self.number));
        }
        self.matched = match byte {
            byte if byte == Self::MARK[self.matched] => self.matched + 1,
            b'{' => 1,
            _ => 0,
        };
        None
    }
}
