//! One run: clients write and read, nodes are killed or stopped and come back, and what was seen is checked.

use std::io::Write as _;
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::load::{self, VALUE_BYTES};
use super::nodes::{Harm, Nodes, NodesError};
use super::record::{Answered, Record, Shared, lock};
use super::report::{Measured, Outage, Report};
use crate::client::{Address, SubscribeError, Subscription};
use crate::demo::Dc;
use crate::demo::cluster::Shape;
use crate::demo::ledger::Latency;
use crate::demo::report::{ms, one};
use crate::demo::run::Progress;
use crate::demo::wan::{Wan, WanConfig};

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Trunkline's, which runs as the nodes.
    pub program: PathBuf,
    /// How many of everything; members are voters.
    pub shape: Shape,
    /// Factor on all delays.
    pub delay_scale: f64,
    /// What each datacenter may send to all others together, bytes per second.
    pub egress_bytes_per_s: NonZeroU64,
    /// How long clients ask.
    pub duration: Duration,
    /// What is done to nodes, and at which share of the run it begins.
    pub plan: Vec<(f64, Act)>,
    /// Of what clients choose.
    pub seed: u64,
    /// Where to show progress.
    pub progress: Progress,
}

/// Why a run could not be made. A run that was made and showed a fault is no error: see [`Report::is_clean`].
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The nodes.
    #[error(transparent)]
    Nodes(#[from] NodesError),
    /// The log was not followed to its end.
    #[error("the log could not be followed to index {to}: {why}, after {}", last.map_or("none".to_owned(), |last| last.to_string()))]
    Follow {
        /// Its end.
        to: u64,
        /// The last entry that came.
        last: Option<u64>,
        /// Why.
        why: Unfollowed,
    },
    /// The terminal.
    #[error("cannot write the progress: {0}")]
    Output(#[from] std::io::Error),
}

/// Why the log was not followed to its end.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfollowed {
    /// No node tells the next entry.
    #[error(transparent)]
    Ended(#[from] SubscribeError),
    /// It took too long.
    #[error("the next entry does not come")]
    Late,
}

/// In each datacenter.
const CLIENTS: usize = 8;
const TICK: Duration = Duration::from_millis(50);
/// A harmed node works again after this share of the run.
const OUTAGE_SHARE: u32 = 6;
/// A follower has been told everything by then.
const GRACE: Duration = Duration::from_secs(30);

/// Makes one run.
///
/// # Errors
/// [`RunError`].
pub async fn run(options: Options) -> Result<Report, RunError> {
    let wan = Wan::new(WanConfig::demo(options.shape.dcs, options.egress_bytes_per_s, options.delay_scale));
    let nodes = Nodes::start(options.program.clone(), options.shape, &wan).await?;
    let record: Shared = Arc::new(Mutex::new(Record::new()));
    let apis = nodes.apis().map(|api| Address::plaintext(api.to_string())).collect();
    let follower = Follower(tokio::spawn(follow(apis, Arc::clone(&record))));
    let mut clients = JoinSet::new();
    let mut rng = Rng::with_seed(options.seed);
    for dc in 0..options.shape.dcs {
        for _ in 0..CLIENTS {
            let apis = nodes.apis_in(Dc(dc)).collect();
            clients.spawn(load::run(clients.len(), apis, Arc::clone(&record), rng.fork()));
        }
    }
    let mut plan: Vec<(Duration, Step)> = options
        .plan
        .iter()
        .map(|(share, act)| (options.duration.mul_f64(*share), Step::Harm(*act)))
        .collect();
    plan.sort_by_key(|(when, _)| std::cmp::Reverse(*when));
    let stage = Stage {
        wan_before: wan.counters().total(),
        options,
        nodes,
        record,
        follower,
        plan,
        blows: Vec::new(),
        news: "all nodes work".to_owned(),
    };
    let report = stage.play(clients, &wan).await;
    wan.shutdown().await;
    report
}

/// Writes down what a follower is told, until it ends.
async fn follow(addresses: Vec<Address>, record: Shared) -> SubscribeError {
    let mut subscription = Subscription::open(addresses, 0);
    loop {
        match subscription.next().await {
            Ok(entry) => lock(&record).entry(&entry),
            Err(error) => return error,
        }
    }
}

/// Aborted when it is dropped.
struct Follower(JoinHandle<SubscribeError>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Follower {
    /// Waits until it was told everything up to an index.
    async fn comes_to(&mut self, record: &Shared, to: u64) -> Result<(), RunError> {
        let deadline = Instant::now() + GRACE;
        loop {
            let last = lock(record).followed();
            if last >= Some(to) {
                return Ok(());
            }
            tokio::select! {
                ended = &mut self.0 => {
                    let why = ended.map_or(Unfollowed::Late, Unfollowed::Ended);
                    return Err(RunError::Follow { to, last, why });
                }
                () = sleep_until(deadline.min(Instant::now() + TICK)) => {}
            }
            if Instant::now() >= deadline {
                return Err(RunError::Follow { to, last, why: Unfollowed::Late });
            }
        }
    }
}

/// What is done, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Act {
    /// What.
    pub harm: Harm,
    /// To whom.
    pub to: Target,
}

/// To whom something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Who leads then.
    Leader,
    /// The proxy that the leader uses towards the last datacenter then.
    ProxyInUse,
    /// All proxies everywhere.
    Proxies,
}

impl Act {
    /// What the demo does.
    #[must_use]
    pub fn demo() -> Vec<(f64, Self)> {
        let kill = |to| Self { harm: Harm::Kill, to };
        vec![(1.0 / 3.0, kill(Target::Leader)), (2.0 / 3.0, kill(Target::ProxyInUse))]
    }

    fn in_words(self) -> String {
        let to = match self.to {
            Target::Leader => "leader",
            Target::ProxyInUse => "proxy",
            Target::Proxies => "all proxies",
        };
        format!("{to} {}", if self.harm == Harm::Kill { "killed" } else { "stopped" })
    }
}

#[derive(Debug)]
enum Step {
    Harm(Act),
    /// Whoever it was done to works again.
    Heal(Vec<String>),
}

struct Stage {
    options: Options,
    nodes: Nodes,
    record: Shared,
    follower: Follower,
    /// What is still to come, the next last.
    plan: Vec<(Duration, Step)>,
    /// What was done, and when.
    blows: Vec<(Act, Duration)>,
    /// The last of what was done to nodes.
    news: String,
    wan_before: u64,
}

impl Stage {
    async fn play(mut self, clients: JoinSet<()>, wan: &Wan) -> Result<Report, RunError> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut board = Board::new(self.options.progress, self.options.shape)?;
        loop {
            ticks.tick().await;
            let now = lock(&self.record).now();
            if now >= self.options.duration {
                break;
            }
            self.strike(now).await?;
            if board.is_due(now) {
                let leader = self.nodes.leader().await;
                board.draw(now, leader, &self.news, &lock(&self.record).answered)?;
            }
        }
        lock(&self.record).close();
        clients.join_all().await;
        let took = lock(&self.record).now();
        let digest = self.nodes.digest().await?;
        if let Some((index, _)) = &digest {
            self.follower.comes_to(&self.record, *index).await?;
        }
        let term = self.nodes.leader().await.map_or(0, |(_, term)| term);
        let record = lock(&self.record);
        let (unknown, refused) = record.open();
        let latency = |write| {
            let took = record.answered.iter().filter(|answered| answered.write == write);
            Latency::of(
                took.map(|answered| u64::try_from(answered.took.as_micros()).unwrap_or(u64::MAX)).collect(),
            )
        };
        Ok(Report::new(Measured {
            writes: latency(true),
            reads: latency(false),
            refused,
            unknown,
            verdict: record.verdict(),
            digest,
            term,
            outages: self.outages(&record.answered),
            payload_bytes: record.written() * VALUE_BYTES as u64,
            wan_bytes: wan.counters().total() - self.wan_before,
            duration: took,
        }))
    }

    /// Does what is due; a while later it is undone.
    async fn strike(&mut self, now: Duration) -> Result<(), RunError> {
        while let Some((_, step)) = self.plan.pop_if(|(when, _)| *when <= now) {
            let act = match step {
                Step::Harm(act) => act,
                Step::Heal(names) => {
                    for name in &names {
                        self.nodes.heal(name)?;
                    }
                    self.news = told(&names, "back");
                    continue;
                }
            };
            let victims = self.victims(act.to).await;
            if victims.is_empty() {
                // Nobody leads, or nobody uses a proxy, at the moment: a little later somebody will.
                self.plan.push((now + TICK, Step::Harm(act)));
                break;
            }
            for name in &victims {
                self.nodes.harm(name, act.harm);
            }
            self.news = told(&victims, if act.harm == Harm::Kill { "killed" } else { "stopped" });
            self.blows.push((act, lock(&self.record).now()));
            self.plan.push((now + self.options.duration / OUTAGE_SHARE, Step::Heal(victims)));
            self.plan.sort_by_key(|(when, _)| std::cmp::Reverse(*when));
        }
        Ok(())
    }

    async fn victims(&self, target: Target) -> Vec<String> {
        if target == Target::Proxies {
            return self.nodes.proxies();
        }
        let Some((leader, _)) = self.nodes.leader().await else { return Vec::new() };
        if target == Target::Leader {
            return vec![leader];
        }
        // The leader's own datacenter needs none.
        for dc in (0..self.options.shape.dcs).rev() {
            if let Some(proxy) = self.nodes.proxy_in_use(&leader, Dc(dc)).await {
                return vec![proxy];
            }
        }
        Vec::new()
    }

    /// How clients fared while what was harmed was away.
    fn outages(&self, answered: &[Answered]) -> Vec<Outage> {
        let outage = |(act, at): &(Act, Duration)| {
            let window = *at..*at + self.options.duration / OUTAGE_SHARE;
            let writes = answered.iter().filter(|one| one.write && window.contains(&one.at)).count() as u64;
            Outage { what: act.in_words(), writes, longest_wait_ms: longest_wait(answered, window).map(ms) }
        };
        self.blows.iter().map(outage).collect()
    }
}

fn told(names: &[String], what: &str) -> String {
    match names {
        [one] => format!("{one} {what}"),
        several => format!("{} nodes {what}", several.len()),
    }
}

/// The longest time between two answers to writes that lies in a window, or ends after it; from its beginning on.
fn longest_wait(answered: &[Answered], window: Range<Duration>) -> Option<Duration> {
    let writes: Vec<Duration> = answered.iter().filter(|one| one.write).map(|one| one.at).collect();
    let pairs = writes.windows(2).filter(|pair| pair[1] >= window.start && pair[0] <= window.end);
    // What was waited before it began is another one's.
    pairs.map(|pair| pair[1] - pair[0].max(window.start)).max()
}

/// Writes a line a second.
struct Board {
    shown: bool,
    next: Duration,
    /// How many answers the lines so far are about.
    before: usize,
}

const LINE: Duration = Duration::from_secs(1);

impl Board {
    fn new(progress: Progress, shape: Shape) -> std::io::Result<Self> {
        let board = Self { shown: progress != Progress::None, next: LINE, before: 0 };
        board.write(&format!(
            "{} datacenters; voters in each: {}, proxies: {}, clients: {CLIENTS}; a process for each node\n\n   \
             s  leader  term  writes/s  p50 ms  p99 ms  reads/s  p50 ms  p99 ms  nodes\n",
            shape.dcs, shape.members, shape.proxies
        ))?;
        Ok(board)
    }

    fn is_due(&self, now: Duration) -> bool {
        self.shown && now >= self.next
    }

    fn draw(
        &mut self,
        now: Duration,
        leader: Option<(String, u64)>,
        news: &str,
        answered: &[Answered],
    ) -> std::io::Result<()> {
        let seconds = (now + LINE - self.next).as_secs_f64();
        let new = &answered[self.before..];
        let of = |write| {
            let took: Vec<u64> = new
                .iter()
                .filter(|one| one.write == write)
                .map(|one| u64::try_from(one.took.as_micros()).unwrap_or(u64::MAX))
                .collect();
            let per_s = took.len() as f64 / seconds;
            let latency = Latency::of(took);
            let [p50, p99] = [latency.map(|it| ms(it.p50)), latency.map(|it| ms(it.p99))].map(one);
            (per_s, p50, p99)
        };
        let ((writes, w50, w99), (reads, r50, r99)) = (of(true), of(false));
        let (leader, term) =
            leader.map_or(("none".to_owned(), "-".to_owned()), |(name, term)| (name, term.to_string()));
        self.write(&format!(
            "{:>4.0}  {leader:<6}  {term:>4}  {writes:>8.0}  {w50:>6}  {w99:>6}  {reads:>7.0}  {r50:>6}  {r99:>6}  {news}\n",
            now.as_secs_f64()
        ))?;
        self.before = answered.len();
        self.next = now + LINE;
        Ok(())
    }

    fn write(&self, text: &str) -> std::io::Result<()> {
        if !self.shown {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_is_that_of_writes_around_the_window() {
        let ms = Duration::from_millis;
        let answered = |at, write| Answered { at: ms(at), took: ms(1), write };
        let all = [10, 30, 900, 910, 2_000].map(|at| answered(at, true));
        assert_eq!(longest_wait(&all, ms(40)..ms(500)), Some(ms(860)));
        assert_eq!(longest_wait(&all, ms(905)..ms(908)), Some(ms(5)));
        assert_eq!(longest_wait(&all, ms(2_100)..ms(2_200)), None);
        let reads = all.map(|one| Answered { write: false, ..one });
        assert_eq!(longest_wait(&reads, ms(0)..ms(5_000)), None);
    }

    /// Why nobody follows the log any longer is told, and not only where that stood.
    #[tokio::test(start_paused = true)]
    async fn why_a_follower_ended_is_told() {
        let record: Shared = Arc::new(Mutex::new(Record::new()));
        let mut follower = Follower(tokio::spawn(follow(Vec::new(), Arc::clone(&record))));
        let error = follower.comes_to(&record, 7).await.unwrap_err();
        let told = "the log could not be followed to index 7: there is no address to ask at, after none";
        assert_eq!(error.to_string(), told);
        let mut follower = Follower(tokio::spawn(std::future::pending()));
        let error = follower.comes_to(&record, 7).await.unwrap_err();
        assert!(matches!(error, RunError::Follow { to: 7, last: None, why: Unfollowed::Late }), "{error}");
    }
}
