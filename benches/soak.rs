//! Real processes for minutes, one datacenter of three gone without a word: what does each process hold?
//!
//! A leader sends 1 MB/s to each of three datacenters, by the binary's own proxies and members, each datacenter in a network namespace of
//! its own. After a minute of calm `eu` is behind a black hole: what goes there and what comes from there vanishes, and nobody is told. Every
//! half minute it prints, per process, resident memory, open descriptors and bytes in queues. At the end packets pass again. It fails
//! when what a process holds grows from the third minute on, or when `ap` lost a message, or when `eu` does not come back.
//!
//! Where no namespaces can be made, and with `--stop`, all is on loopback, and all processes of `eu` are stopped: their kernel still takes
//! connections and some megabytes, and nobody answers.
//!
//! ```text
//! cargo bench --bench soak                    # about 12 minutes, as root
//! cargo bench --bench soak -- --minutes 3     # fewer of them without `eu`
//! cargo bench --bench soak -- --stop
//! ```
//!
//! Linux only: it reads `/proc`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mimalloc::MiMalloc;
use support::cluster::{Cluster, Node};
use support::wan::Wan;
use support::{poll, signal};
use trunkline::config::{Config, Role};
use trunkline_mesh::{Batch, Datacenter, Lane, Message, NodeId, Outcome, join};

/// The leader is this program again, and allocates as the binary does.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// 1 MB/s per datacenter: what may be kept for one of them is full within its messages' deadline of 10 s.
const ENTRY_BYTES: usize = 40 * 1024;
const EVERY: Duration = Duration::from_millis(40);
const SAMPLE: Duration = Duration::from_secs(30);
/// Samples before the stop, and after its end.
const CALM: usize = 2;
const AFTER: usize = 2;
/// Samples of the stop until all that fills is full.
const FILLING: usize = 4;
/// What memory may differ by from then on: two huge pages of 2 MiB, which the kernel gives a process that writes one byte of them.
/// Within eight minutes a leak of 40 B per message at the leader is more, or of 400 B at a member.
const SLACK_KIB: u64 = 2 * 2 * 1024;
/// Dials of nobody come and go.
const SLACK_DESCRIPTORS: u64 = 16;
const SITES: [&str; 3] = ["us", "eu", "ap"];
const GONE: &str = "eu";
const OTHER: &str = "ap";
const LEADER: &str = "us-leader";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).cloned()
    };
    if let Some(file) = value("--leader") {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(lead(&file));
        return ExitCode::SUCCESS;
    }
    if !cfg!(target_os = "linux") {
        println!("skipped: memory and descriptors are read from /proc, which this system has not");
        return ExitCode::SUCCESS;
    }
    let minutes: usize = value("--minutes").map_or(10, |text| text.parse().expect("a number of minutes"));
    let wan = if arguments.iter().any(|argument| argument == "--stop") { None } else { Wan::new(&SITES) };
    println!("eu is {}\n", if wan.is_some() { "behind a black hole" } else { "stopped" });
    let plaintext = [("insecure = false", "insecure = true")];
    let wrong =
        Soak(wan.map_or_else(|| Cluster::new(&[]), |wan| Cluster::within(wan, &plaintext))).run(minutes);
    for what in &wrong {
        println!("FAILED: {what}");
    }
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a process held at one time.
#[derive(Clone, Copy, Default)]
struct Held {
    memory_kib: u64,
    descriptors: u64,
    /// `None`: it is stopped and does not say.
    queued: Option<u64>,
}

struct Soak(Cluster);

impl Soak {
    /// `eu` is gone, or back.
    fn set_gone(&self, nodes: &[Node], gone: bool) {
        let Some(wan) = &self.0.wan else {
            let of = nodes.iter().filter(|node| is_gone(node));
            return of.for_each(|node| signal(&node.child, if gone { "STOP" } else { "CONT" }));
        };
        if gone {
            wan.cut_from(GONE);
            wan.cut_to(GONE);
        } else {
            wan.mend();
        }
    }

    fn run(&self, minutes: usize) -> Vec<String> {
        let ids = self.0.config.topology().nodes().map(|node| node.id.as_str()).filter(|id| *id != LEADER);
        let nodes: Vec<Node> = ids.map(|id| self.0.start_for_nobody(id)).collect();
        for node in &nodes {
            self.0.await_ready(&node.id);
        }
        let (leader, told) = self.start_leader();
        let mut all = vec![leader];
        all.extend(nodes);

        let mut samples: BTreeMap<&str, Vec<Held>> = BTreeMap::new();
        let stopped = CALM..CALM + minutes * 2;
        println!("process    at s    resident KiB  descriptors      queued B");
        let (mut wrong, mut late) = (Vec::new(), Vec::new());
        let began = Instant::now();
        for index in 0..stopped.end + AFTER {
            if index == stopped.start || index == stopped.end {
                self.set_gone(&all, index == stopped.start);
            }
            let line = told.recv_timeout(SAMPLE * 2).expect("the leader tells every half minute");
            for node in &all {
                let answers = self.0.wan.is_some() || !(stopped.contains(&index) && is_gone(node));
                let held = self.held(node, answers);
                let queued = held.queued.map_or("stopped".to_owned(), |bytes| bytes.to_string());
                let at = began.elapsed().as_secs();
                println!("{:10} {at:4} {:15} {:12} {queued:>13}", node.id, held.memory_kib, held.descriptors);
                samples.entry(&node.id).or_default().push(held);
            }
            println!("{line}");
            late.push(p99(&line, OTHER).unwrap_or(f64::INFINITY));
            for site in [OTHER, "us"] {
                if number(&line, site, "failed") != Some(0) {
                    wrong.push(format!("half minute {index}: {site} lost messages"));
                }
            }
            if index + 1 == stopped.end + AFTER
                && number(&line, GONE, "delivered").is_none_or(|count| count == 0)
            {
                wrong.push(format!("{GONE} goes on and gets nothing"));
            }
        }
        let [calm, without] = [&late[..stopped.start], &late[stopped.clone()]].map(median);
        println!(
            "\np99 to {OTHER}: {calm:.1} ms in calm, {without:.1} ms without {GONE}; medians of half minutes"
        );
        println!(
            "\nprocess    resident KiB: calm  full   most   last   descriptors: full  most   queued B: most"
        );
        for (id, held) in &samples {
            let (full, later) =
                (held[stopped.start + FILLING - 1], &held[stopped.start + FILLING..stopped.end]);
            let most = |of: fn(&Held) -> u64| later.iter().map(of).max().unwrap_or_default();
            let (memory, descriptors) = (most(|held| held.memory_kib), most(|held| held.descriptors));
            let (calm, last) =
                (held[stopped.start - 1].memory_kib, later.last().copied().unwrap_or_default());
            println!(
                "{id:10} {calm:18} {:6} {memory:6} {:6} {:18} {descriptors:5} {:16}",
                full.memory_kib,
                last.memory_kib,
                full.descriptors,
                most(|held| held.queued.unwrap_or_default()),
            );
            if memory > full.memory_kib + full.memory_kib / 20 + SLACK_KIB {
                wrong.push(format!("{id}: {} KiB once full, {memory} KiB later", full.memory_kib));
            }
            if descriptors > full.descriptors + SLACK_DESCRIPTORS {
                wrong.push(format!("{id}: {} descriptors once full, {descriptors} later", full.descriptors));
            }
        }
        wrong
    }

    /// This program again, as the leader; and what it says, line by line.
    fn start_leader(&self) -> (Node, Receiver<String>) {
        let program = std::env::current_exe().expect("this program");
        let mut command = self.0.command(LEADER, program.to_str().expect("a path in UTF-8"));
        command.args(["--leader", self.0.file()]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child: Child = command.stderr(Stdio::null()).spawn().expect("it starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        (Node { id: LEADER.to_owned(), child }, receiver)
    }

    fn held(&self, node: &Node, answers: bool) -> Held {
        let proc = format!("/proc/{}", node.child.id());
        let status = std::fs::read_to_string(format!("{proc}/status")).expect("it runs");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        let memory_kib = resident.trim().trim_end_matches(" kB").parse().expect("a number");
        let descriptors = std::fs::read_dir(format!("{proc}/fd")).expect("its descriptors").count();
        let queued = answers.then(|| poll("a status", Duration::from_secs(10), || self.queued(&node.id)));
        Held { memory_kib, descriptors: descriptors.try_into().unwrap_or(u64::MAX), queued }
    }

    /// What it says that its queues hold.
    fn queued(&self, node: &str) -> Option<u64> {
        let status: serde_json::Value = serde_json::from_str(&self.0.status(node, &["--json"])?).ok()?;
        let own = ["proxy_queue_bytes", "inbox_bytes", "held_bytes"].map(|key| status[key].as_u64());
        let sites = status["datacenters"].as_array()?.iter().map(|site| site["queued_bytes"].as_u64());
        own.into_iter().chain(sites).sum()
    }
}

fn is_gone(node: &Node) -> bool {
    node.id.starts_with(GONE)
}

/// What the leader says of a datacenter: ` eu 5 delivered, 0 failed, …;`
fn number(line: &str, site: &str, what: &str) -> Option<u64> {
    let said = line.split(';').find_map(|part| part.trim().strip_prefix(site))?;
    said.split(',').find_map(|part| part.trim().strip_suffix(what))?.trim().parse().ok()
}

/// The same of its p99, ms.
fn p99(line: &str, site: &str) -> Option<f64> {
    let said = line.split(';').find_map(|part| part.trim().strip_prefix(site))?;
    said.split(',').find_map(|part| part.trim().strip_prefix("p99 "))?.trim_end_matches(" ms").parse().ok()
}

fn median(of: &[f64]) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// What became of messages to one datacenter within half a minute.
#[derive(Default)]
struct Told {
    delivered: u64,
    failed: u64,
    busy: u64,
    took: Vec<Duration>,
}

/// Sends to every datacenter for ever, and tells what became of it.
async fn lead(file: &str) {
    let config = Config::load(file.as_ref()).expect("the file");
    let node = config.choose(Some(LEADER), Role::Origin).expect("the leader");
    let (client, _inbox) = join(config.mesh(node)).await.expect("it joins");
    let address = config.admin(&node.id).expect("an admin address");
    let protection = config.admin_protection(&node.id);
    let _api = trunkline::api::serve(address, protection, client.mesh().clone(), node).expect("it is served");
    let sites: Vec<(Datacenter, Vec<NodeId>)> = config
        .topology()
        .datacenters()
        .into_iter()
        .map(|site| {
            let members = config.topology().members_of(&site).map(|member| member.id.clone()).collect();
            (site, members)
        })
        .collect();
    let told: Arc<Mutex<BTreeMap<Datacenter, Told>>> = Arc::default();
    let mut ticks = tokio::time::interval(EVERY);
    let mut next = Instant::now() + SAMPLE;
    let mut rng = fastrand::Rng::with_seed(1);
    loop {
        ticks.tick().await;
        for (site, members) in &sites {
            let entry = Bytes::from_iter(std::iter::repeat_with(|| rng.u8(..)).take(ENTRY_BYTES));
            let mut batch = Batch::to(site.clone());
            batch.extend(members.iter().map(|id| Message::new(id.clone(), entry.clone()).lane(Lane::Bulk)));
            let sent = Instant::now();
            let Ok(receipt) = client.try_send(batch) else {
                told.lock().expect("no panic").entry(site.clone()).or_default().busy += 1;
                continue;
            };
            let (told, site) = (Arc::clone(&told), site.clone());
            tokio::spawn(async move {
                let outcomes = receipt.await;
                let mut told = told.lock().expect("no panic");
                let told = told.entry(site).or_default();
                for outcome in outcomes {
                    match outcome {
                        Outcome::Delivered { .. } => told.delivered += 1,
                        Outcome::Failed { .. } => told.failed += 1,
                    }
                }
                told.took.push(sent.elapsed());
            });
        }
        if Instant::now() >= next {
            next += SAMPLE;
            tell(&mut told.lock().expect("no panic"));
        }
    }
}

/// One line; the datacenter that is to go comes last.
fn tell(told: &mut BTreeMap<Datacenter, Told>) {
    let gone = told.keys().find(|site| site.as_str() == GONE).cloned();
    let others = told.keys().filter(|site| site.as_str() != GONE).cloned();
    let mut line = "          ".to_owned();
    for site in others.collect::<Vec<_>>().into_iter().chain(gone) {
        let Some(Told { delivered, failed, busy, mut took }) = told.remove(&site) else { continue };
        took.sort_unstable();
        let at = |percent: usize| {
            took.get(took.len() * percent / 100).map_or(0.0, |took| took.as_secs_f64() * 1e3)
        };
        line += &format!(
            " {site} {delivered} delivered, {failed} failed, {busy} busy, p50 {:.1} ms, p99 {:.1} ms;",
            at(50),
            at(99)
        );
    }
    println!("{line}");
    let _ = std::io::stdout().flush();
}
