//! One run: a leader sends, two proxies fail, every arrival is checked, and what it came to is reported.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use trunkline_mesh::stats::Histogram;
use trunkline_mesh::{Batch, Client, Datacenter, Inbox, JoinError, Message, NodeId, Outcome};

use super::cluster::{Cluster, ClusterError, Shape};
use super::ledger::{Latency, Ledger};
use super::report::{Failover, Hop, Report, WanBytes};
use super::screen::{DcRow, Screen, Snapshot};
use super::wan::{Wan, WanConfig, WanCounters};
use super::workload::{
    AtEnd, EntrySource, InputError, Offer, Outgoing, Pacer, Workload, WorkloadConfig, offered_rate,
};
use super::{Dc, Member};

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many of everything.
    pub shape: Shape,
    /// Factor on all delays.
    pub delay_scale: f64,
    /// What each datacenter may send to all others together, bytes per second.
    pub egress_bytes_per_s: NonZeroU64,
    /// How long the leader sends.
    pub duration: Duration,
    /// Entries per second; without one, twice what direct sends could hold.
    pub rate: Option<NonZeroU64>,
    /// Entries line by line from this file instead of generated ones.
    pub input: Option<PathBuf>,
    /// For everything drawn at random.
    pub seed: u64,
    /// Where to show progress.
    pub progress: Progress,
}

/// Where to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A table that is drawn over and over.
    Terminal,
    /// A line a second.
    Lines,
    /// Nowhere.
    None,
}

/// Why a run could not be made. A run that was made and showed a fault is no error: see [`Report::is_clean`].
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The nodes.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A proxy that would not come back.
    #[error("a killed proxy could not be started again: {0}")]
    Restart(#[from] JoinError),
    /// The input file.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The terminal.
    #[error("cannot write the progress: {0}")]
    Output(#[from] std::io::Error),
}

/// Bytes of a generated entry.
pub const ENTRY_BYTES: usize = 1024;

/// The leader appends and sends so often.
const TICK: Duration = Duration::from_millis(5);
/// Most entries in one tick: a message stays far below the mesh's limit, lines of an input file included.
const ENTRIES_PER_TICK: usize = 32;
/// A failed proxy comes back after this share of the run.
const OUTAGE_SHARE: u32 = 6;
/// The time at the start that counts as neither quiet nor hit: connections are young and timeouts not yet learnt.
const WARM_UP: Duration = Duration::from_secs(1);
/// After the run, messages may still be under way for this long: the mesh's own deadline and a little.
const GRACE: Duration = Duration::from_secs(12);
/// Batches that may wait for one datacenter's budget before the leader itself waits.
const BACKLOG_BATCHES: usize = 1024;
/// The screen is drawn so often.
const REDRAW: Duration = Duration::from_millis(250);
/// Rates and latencies on the screen are of so long.
const RECENT: Duration = Duration::from_secs(2);

type Shared = Arc<Mutex<Ledger>>;

fn lock(ledger: &Shared) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes one run.
///
/// # Errors
/// [`RunError`].
pub async fn run(options: Options) -> Result<Report, RunError> {
    let wan = Wan::new(WanConfig::demo(options.shape.dcs, options.egress_bytes_per_s, options.delay_scale));
    let (cluster, inboxes) = Cluster::start(options.shape, &wan, options.seed).await?;
    let members = cluster.members();
    let ledger: Shared = Arc::new(Mutex::new(Ledger::new(&members)));
    let begun = Instant::now();
    let mut receivers = JoinSet::new();
    for (member, inbox) in inboxes.into_iter().enumerate() {
        receivers.spawn(receive(Member(member), inbox, Arc::clone(&ledger), begun));
    }
    let source = match &options.input {
        None => EntrySource::generated(ENTRY_BYTES),
        Some(path) => EntrySource::lines(path, AtEnd::Again)?,
    };
    let rate = options.rate.unwrap_or_else(|| {
        offered_rate(Offer {
            egress_bytes_per_s: options.egress_bytes_per_s,
            remote_members: members.iter().filter(|dc| dc.0 > 0).count(),
            entry_bytes: source.entry_bytes(),
        })
    });
    let workload = Workload::new(WorkloadConfig { seed: options.seed, leader: 0, members }, source);
    let plan = vec![(options.duration * 2 / 3, Act::Freeze), (options.duration / 3, Act::Kill)];
    let phase = "all proxies work".to_owned();
    let stage = Stage {
        options,
        wan,
        cluster,
        ledger,
        begun,
        plan,
        blows: Vec::new(),
        phase,
        dead_hops: Histogram::default(),
    };
    let report = stage.play(workload, Pacer::new(rate)).await?;
    receivers.abort_all();
    Ok(report)
}

async fn receive(member: Member, mut inbox: Inbox, ledger: Shared, begun: Instant) {
    while let Some(delivery) = inbox.recv().await {
        let at = begun.elapsed();
        // What is wrong with an arrival is counted in the ledger, and that is all there is to do about it.
        if let Err(fault) = lock(&ledger).received(member, &delivery.payload.to_vec(), at) {
            tracing::error!(%fault, "arrival that must never happen");
        }
    }
}

/// Hands batches for one datacenter to the mesh, in order, and notes what it gives up.
async fn send(
    client: Client,
    names: Arc<BTreeMap<usize, NodeId>>,
    to: Datacenter,
    mut batches: mpsc::Receiver<Vec<Outgoing>>,
    ledger: Shared,
) {
    let mut receipts = JoinSet::new();
    while let Some(messages) = batches.recv().await {
        let mut batch = Batch::to(to.clone());
        let mut numbers = Vec::with_capacity(messages.len());
        for message in messages {
            numbers.push((message.member, message.message_id));
            let Some(name) = names.get(&message.member.0) else { continue };
            batch.push(Message::new(
                name.clone(),
                message.segments.into_iter().collect::<trunkline_mesh::Payload>(),
            ));
        }
        while receipts.try_join_next().is_some() {}
        match client.send(batch).await {
            Ok(receipt) => {
                let ledger = Arc::clone(&ledger);
                receipts.spawn(async move {
                    for ((member, id), outcome) in numbers.into_iter().zip(receipt.await) {
                        if let Outcome::Failed { maybe_delivered, .. } = outcome {
                            note_failed(&ledger, member, id, maybe_delivered);
                        }
                    }
                });
            }
            Err(error) => {
                tracing::error!(%error, datacenter = %to, "batch not accepted");
                for (member, id) in numbers {
                    note_failed(&ledger, member, id, false);
                }
            }
        }
    }
    receipts.join_all().await;
}

fn note_failed(ledger: &Shared, member: Member, id: u64, maybe_delivered: bool) {
    if let Err(fault) = lock(ledger).failed(member, id, maybe_delivered) {
        tracing::error!(%fault, "an outcome that must never happen");
    }
}

/// What the run does to its proxies.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Act {
    /// The proxy in use dies.
    Kill,
    /// The proxy in use freezes.
    Freeze,
    /// It starts again.
    Restart(NodeId),
    /// It works again.
    Thaw(NodeId),
}

/// When a proxy failed, and how that is called.
#[derive(Debug)]
struct Blow {
    killed: bool,
    at: Duration,
}

struct Stage {
    options: Options,
    wan: Wan,
    cluster: Cluster,
    ledger: Shared,
    begun: Instant,
    /// What is still to come, the next last.
    plan: Vec<(Duration, Act)>,
    blows: Vec<Blow>,
    phase: String,
    /// Hop latencies of proxies that were killed.
    dead_hops: Histogram,
}

impl Stage {
    /// The datacenter whose proxies fail.
    fn hit(&self) -> Dc {
        Dc(self.options.shape.dcs.min(3) - 1)
    }

    async fn play(mut self, mut workload: Workload, mut pacer: Pacer) -> Result<Report, RunError> {
        let names: BTreeMap<usize, NodeId> = (0..self.cluster.members().len())
            .map(|at| (at, self.cluster.member(Member(at)).clone()))
            .collect();
        let names = Arc::new(names);
        let mut senders = JoinSet::new();
        let mut queues = Vec::new();
        for name in self.cluster.names() {
            let (queue, batches) = mpsc::channel(BACKLOG_BATCHES);
            let client = self.cluster.leader.clone();
            senders.spawn(send(client, Arc::clone(&names), name.clone(), batches, Arc::clone(&self.ledger)));
            queues.push(queue);
        }
        let mut screen = Board::new(self.options.progress);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let duration = self.options.duration;
        loop {
            ticks.tick().await;
            let now = self.begun.elapsed();
            if now >= duration {
                break;
            }
            self.strike(now).await?;
            let messages = workload.tick(pacer.take(now, ENTRIES_PER_TICK))?;
            self.hand_over(messages, &queues).await;
            screen.draw(&self, now)?;
        }
        self.hand_over(workload.finish(), &queues).await;
        drop(queues);

        let deadline = duration + GRACE;
        while lock(&self.ledger).outstanding() > 0 && self.begun.elapsed() < deadline {
            ticks.tick().await;
            screen.draw(&self, self.begun.elapsed())?;
        }
        let took = self.begun.elapsed();
        screen.finish(&self, took)?;
        let report = self.report(took);
        self.cluster.stop().await;
        senders.join_all().await;
        self.wan.shutdown().await;
        Ok(report)
    }

    async fn hand_over(&self, messages: Vec<Outgoing>, queues: &[mpsc::Sender<Vec<Outgoing>>]) {
        let mut by_dc: Vec<Vec<Outgoing>> = queues.iter().map(|_| Vec::new()).collect();
        {
            let at = self.begun.elapsed();
            let mut ledger = lock(&self.ledger);
            for message in messages {
                ledger.sent(&message, at);
                by_dc[message.dc.0].push(message);
            }
        }
        for (queue, messages) in queues.iter().zip(by_dc).filter(|(_, messages)| !messages.is_empty()) {
            // A sender task ends only when its queue is dropped.
            let _ = queue.send(messages).await;
        }
    }

    /// Does what is due: at one third the proxy in use dies, at two thirds the one then in use freezes; both come back.
    async fn strike(&mut self, now: Duration) -> Result<(), RunError> {
        while let Some((_, act)) = self.plan.pop_if(|(when, _)| *when <= now) {
            let back = now + self.options.duration / OUTAGE_SHARE;
            match act {
                Act::Kill => {
                    let Some(proxy) = self.cluster.proxy_in_use(self.hit()) else { continue };
                    self.dead_hops.merge(&self.hops_of(&proxy));
                    self.blows.push(Blow { killed: true, at: self.begun.elapsed() });
                    self.cluster.kill(&proxy);
                    self.phase = format!("{proxy} was killed");
                    self.plan.push((back, Act::Restart(proxy)));
                }
                Act::Freeze => {
                    let Some(proxy) = self.cluster.proxy_in_use(self.hit()) else { continue };
                    self.blows.push(Blow { killed: false, at: self.begun.elapsed() });
                    self.cluster.set_frozen(&proxy, true);
                    self.phase = format!("{proxy} is frozen");
                    self.plan.push((back, Act::Thaw(proxy)));
                }
                Act::Restart(proxy) => {
                    self.cluster.restart(&proxy).await?;
                    self.phase = format!("{proxy} is back");
                }
                Act::Thaw(proxy) => {
                    self.cluster.set_frozen(&proxy, false);
                    self.phase = format!("{proxy} works again");
                }
            }
            self.plan.sort_by_key(|(when, _)| std::cmp::Reverse(*when));
        }
        Ok(())
    }

    fn hops_of(&self, proxy: &NodeId) -> Histogram {
        let mesh = self.cluster.proxies().find(|(id, _)| *id == proxy).map(|(_, mesh)| mesh);
        mesh.map(|mesh| mesh.stats().proxy.hop_latency).unwrap_or_default()
    }

    /// How long the blow of this kind made messages to the hit datacenter wait beyond normal delivery.
    fn wait_of(&self, killed: bool, took: Duration) -> Option<Duration> {
        let blow = self.blows.iter().find(|blow| blow.killed == killed)?;
        let first = self.blows.iter().map(|blow| blow.at).min()?;
        let rtt = self.rtt();
        // What was on its way when the blow fell is hit as well.
        let window = blow.at.saturating_sub(rtt)..blow.at + self.options.duration / OUTAGE_SHARE;
        let quiet = WARM_UP.min(first / 2)..first.saturating_sub(rtt * 2).max(WARM_UP.min(first / 2));
        lock(&self.ledger).longest_wait(self.hit(), quiet, window, took).map(|wait| wait.longest)
    }

    fn rtt(&self) -> Duration {
        let one_way = Duration::from_millis(super::wan::one_way_ms(Dc(0), self.hit()));
        one_way.mul_f64(2.0 * self.options.delay_scale)
    }

    fn report(&self, took: Duration) -> Report {
        let stats = self.cluster.leader.mesh().stats();
        let remote = || self.cluster.names()[1..].iter().filter_map(|name| stats.datacenters.get(name));
        let bytes = WanBytes {
            direct: remote().map(|row| row.sent.logical).sum(),
            diff: remote().map(|row| row.sent.diff).sum(),
            wan: self.wan.counters().total(),
        };
        let failover = Failover {
            rtt: self.rtt(),
            clean_max: self.wait_of(true, took),
            silent_max: self.wait_of(false, took),
        };
        let mut hops = self.dead_hops.clone();
        for (_, mesh) in self.cluster.proxies() {
            hops.merge(&mesh.stats().proxy.hop_latency);
        }
        let us = |percent| hops.percentile_us(percent).map(Duration::from_micros);
        let hop = us(50).zip(us(99)).map(|(p50, p99)| Hop { p50, p99 });
        let ledger = lock(&self.ledger);
        let delivery = ledger.latency(None, Duration::ZERO..Duration::MAX);
        Report::new(ledger.tally(None), bytes, failover, hop, delivery, took)
    }
}

/// Draws the run as it goes.
struct Board {
    screen: Option<Screen>,
    drawn: Option<Duration>,
    before: Option<(Duration, WanCounters, Vec<u64>)>,
}

impl Board {
    fn new(progress: Progress) -> Self {
        let screen = match progress {
            Progress::Terminal => Some(Screen::new(true)),
            Progress::Lines => Some(Screen::new(false)),
            Progress::None => None,
        };
        Self { screen, drawn: None, before: None }
    }

    fn draw(&mut self, stage: &Stage, now: Duration) -> std::io::Result<()> {
        if self.drawn.is_some_and(|drawn| now < drawn + REDRAW) {
            return Ok(());
        }
        self.finish(stage, now)
    }

    /// Draws now.
    fn finish(&mut self, stage: &Stage, now: Duration) -> std::io::Result<()> {
        let Some(screen) = self.screen.as_mut() else { return Ok(()) };
        self.drawn = Some(now);
        let stats = stage.cluster.leader.mesh().stats();
        let logical: Vec<u64> = stage
            .cluster
            .names()
            .iter()
            .map(|name| stats.datacenters.get(name).map_or(0, |row| row.sent.logical))
            .collect();
        let wan = stage.wan.counters();
        let ledger = lock(&stage.ledger);
        let per_s = |bytes: u64, over: Duration| bytes as f64 / over.as_secs_f64().max(1e-3);
        let row = |(dc, name): (usize, &Datacenter)| {
            let (since, sent, crossed) = match &self.before {
                Some((at, wan_before, logical_before)) => (
                    now.saturating_sub(*at),
                    logical[dc] - logical_before[dc],
                    wan.between(Dc(0), Dc(dc)) - wan_before.between(Dc(0), Dc(dc)),
                ),
                None => (now, logical[dc], wan.between(Dc(0), Dc(dc))),
            };
            let recent: Range<Duration> = now.saturating_sub(RECENT)..now;
            let latency: Option<Latency> = ledger.latency(Some(Dc(dc)), recent);
            DcRow {
                datacenter: name.to_string(),
                logical_bytes_per_s: per_s(sent, since),
                wire_bytes_per_s: (dc > 0).then(|| per_s(crossed, since)),
                delivery_p50: latency.map(|latency| latency.p50),
                delivery_p99: latency.map(|latency| latency.p99),
                route: stage.cluster.route(Dc(dc)),
            }
        };
        let tally = ledger.tally(None);
        let snapshot = Snapshot {
            elapsed: now,
            duration: stage.options.duration,
            phase: stage.phase.clone(),
            messages: tally.messages,
            delivered: tally.delivered,
            faults: tally.faults(),
            rows: stage.cluster.names().iter().enumerate().map(row).collect(),
        };
        drop(ledger);
        // Rates are of the last second or so, not of one redraw.
        if self.before.as_ref().is_none_or(|(at, ..)| now > *at + RECENT / 2) {
            self.before = Some((now, wan, logical));
        }
        if let Some(text) = screen.draw(&snapshot) {
            let mut out = std::io::stdout().lock();
            out.write_all(text.as_bytes())?;
            out.flush()?;
        }
        Ok(())
    }
}
