//! `trunkline send`: every message of the input to every destination, and what became of it.
//!
//! ```text
//! input thread ─ groups ─┬─ datacenter A: window → batch → receipt ─ tally ─┐
//!                        └─ datacenter B: window → batch → receipt ─ tally ─┴─ table
//! ```
//!
//! Memory is bounded: a group waits for room in the window of its datacenter, and the input waits for the group. So the
//! slowest datacenter sets the pace once its window is full.

mod deliver;
mod destinations;
mod input;
mod report;
mod tally;

use std::convert::Infallible;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at};
use trunkline_mesh::stats::DatacenterStatus;
use trunkline_mesh::{Client, Lane, Mesh, join};

use super::NodeArgs;
use super::failure::Failure;
use super::log::Log;
use super::run::{admin_url, serve_admin};
use super::signal::Stop;
use crate::config::units::{parse_duration, show_count};
use crate::config::{Config, Role};
use deliver::{Manner, Plan, deliver};
use destinations::Destinations;
use input::{Framing, Input, InputError};
use tally::Tally;

#[derive(Debug, clap::Args)]
pub(super) struct SendArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Where to: all, dc:NAME or node ids, separated by commas
    #[arg(long, value_name = "DESTINATIONS", value_delimiter = ',', required = true)]
    to: Vec<String>,
    /// Where the messages come from, one per line: a file, or - for standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    input: PathBuf,
    /// Messages are not lines, but 4 bytes of length, the highest first, and so many bytes
    #[arg(long)]
    length_delimited: bool,
    /// Which connection of a link they travel on
    #[arg(long, value_enum, default_value_t = LaneArg::Bulk)]
    lane: LaneArg,
    /// How long each may take, such as "5 s" [default: message_deadline of the configuration]
    #[arg(long, value_name = "DURATION", value_parser = deadline)]
    deadline: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LaneArg {
    /// Small urgent messages
    Control,
    /// Everything else
    Bulk,
}

fn deadline(text: &str) -> Result<Duration, String> {
    let deadline = parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&deadline) {
        Ok(deadline)
    } else {
        Err("use at least 1 ms and at most 1 h".to_owned())
    }
}

/// Messages that were read together, shared by all datacenters.
type Group = Arc<[Bytes]>;

/// Groups that wait for one datacenter.
const GROUPS_WAITING: usize = 2;

/// So often it is told whom nothing reaches, and who takes nothing.
const TOLD_EVERY: Duration = Duration::from_secs(10);

pub(super) async fn send(args: SendArgs, log: &Log) -> Result<(), Failure> {
    let config = Config::load(&args.node.config)?;
    log.follow(config.log_level());
    log.tell_what_is_left_out();
    let node = config.choose(args.node.asked().as_deref(), Role::Origin)?;
    let destinations = destinations::resolve(config.topology(), node, &args.to)?;
    let plan = Plan::new(config.settings(), destinations.largest());
    let framing = if args.length_delimited { Framing::LengthDelimited } else { Framing::Lines };
    let input = Input::open(&args.input, framing, plan.group)?;
    let mut stop = Stop::listen()?;
    let (client, _inbox) = join(config.mesh(node)).await?;
    let api = serve_admin(&config, node, client.mesh())?;
    if let Some(api) = &api {
        tracing::info!("admin API on {}", admin_url(&config, node, api));
    }

    let lane = if args.lane == LaneArg::Control { Lane::Control } else { Lane::Bulk };
    let manner = Manner { lane, deadline: args.deadline };
    let started = Instant::now();
    let mut sending = Sending::start(&client, &destinations, manner, &plan);
    let whole = async {
        let read = sending.feed(input).await;
        (read, sending.finish().await)
    };
    let whole = tokio::select! {
        whole = whole => Some(whole),
        never = tell_who_is_in_the_way(client.mesh()) => match never {},
        name = stop.signal() => {
            tracing::info!("{name}: draining");
            None
        }
    };
    stop.exit_on_next();
    if let Some(api) = &api {
        api.set_draining();
    }
    client.mesh().drain().await;
    let (read, (tally, sent)) = match whole {
        Some(whole) => whole,
        None => (Err(Failure::Failed("stopped by a signal".to_owned())), sending.finish().await),
    };
    if let Some(api) = api {
        api.close().await;
    }
    let report = report::report(&tally, started.elapsed());
    std::io::stdout().write_all(report.as_bytes()).map_err(Failure::stdout)?;
    read.and(sent)?;
    if tally.is_empty() {
        tracing::warn!("nothing was sent: the input is empty");
    }
    if tally.failed() > 0 {
        return Err(Failure::Failed(Failure::messages(tally.failed(), "not delivered")));
    }
    Ok(())
}

/// Tells again and again whom nothing reaches, which the mesh logs when it begins, and who takes nothing: all others wait for them.
async fn tell_who_is_in_the_way(mesh: &Mesh) -> Infallible {
    let mut looks = interval_at(tokio::time::Instant::now() + TOLD_EVERY, TOLD_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let datacenters = mesh.status().datacenters;
        let lines = datacenters.iter().flat_map(|of| unreached(of).into_iter().chain(untaken(of)));
        lines.for_each(|line| tracing::warn!("{line}"));
    }
}

fn unreached(datacenter: &DatacenterStatus) -> Vec<String> {
    let said = datacenter.unreached.iter().map(|of| {
        let (seconds, waiting) = (of.unanswered_ms / 1000, show_count(of.pending_messages, "message"));
        format!("{}: no answer for {seconds} s to {waiting}; last tried {}", of.node, of.last)
    });
    let more = datacenter.unreached_destinations.saturating_sub(datacenter.unreached.len() as u64);
    let more = (more > 0).then(|| format!("datacenter {}: no answer of {more} more", datacenter.name));
    said.chain(more).collect()
}

fn untaken(datacenter: &DatacenterStatus) -> Vec<String> {
    let said = datacenter.untaken.iter().map(|of| {
        let (seconds, waiting) = (of.untaken_ms / 1000, show_count(of.pending_messages, "message"));
        format!(
            "{}: full, and its application has taken nothing for {seconds} s: {waiting} wait for it",
            of.node
        )
    });
    let more = datacenter.untaken_destinations.saturating_sub(datacenter.untaken.len() as u64);
    let more = (more > 0).then(|| format!("datacenter {}: {more} more take nothing", datacenter.name));
    said.chain(more).collect()
}

/// One task per datacenter, and the way to them.
struct Sending {
    queues: Vec<mpsc::Sender<Group>>,
    tasks: JoinSet<(Tally, Result<(), Failure>)>,
    tally: Tally,
    outcome: Result<(), Failure>,
}

impl Sending {
    fn start(client: &Client, destinations: &Destinations, manner: Manner, plan: &Plan) -> Self {
        let mut queues = Vec::new();
        let mut tasks = JoinSet::new();
        for (datacenter, nodes) in destinations.by_datacenter() {
            let (queue, groups) = mpsc::channel(GROUPS_WAITING);
            queues.push(queue);
            let (client, datacenter, nodes) = (client.clone(), datacenter.clone(), nodes.to_vec());
            tasks.spawn(deliver(client, datacenter, nodes, manner, plan.window_bytes, groups));
        }
        Self { queues, tasks, tally: Tally::default(), outcome: Ok(()) }
    }

    /// Hands the whole input to every datacenter, waiting for the slowest.
    async fn feed(&mut self, input: Input) -> Result<(), Failure> {
        let (groups, mut read) = mpsc::channel::<Result<Group, InputError>>(1);
        // Reading blocks, perhaps for ever: a thread of its own, which nobody waits for.
        std::thread::Builder::new()
            .name("input".to_owned())
            .spawn(move || input.read_all(&groups))
            .map_err(|error| Failure::Failed(format!("cannot start a thread: {error}")))?;
        while let Some(group) = read.recv().await {
            let group = group.map_err(InputError::into_failure)?;
            for queue in &self.queues {
                if queue.send(Arc::clone(&group)).await.is_err() {
                    // That datacenter's task has failed; `finish` tells why.
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Waits for all receipts. Cancel-safe.
    async fn finish(&mut self) -> (Tally, Result<(), Failure>) {
        self.queues.clear();
        while let Some(ended) = self.tasks.join_next().await {
            let outcome = match ended {
                Ok((tally, outcome)) => {
                    self.tally.merge(tally);
                    outcome
                }
                Err(error) => Err(Failure::Failed(format!("a datacenter's task ended badly: {error}"))),
            };
            if self.outcome.is_ok() {
                self.outcome = outcome;
            }
        }
        (std::mem::take(&mut self.tally), std::mem::replace(&mut self.outcome, Ok(())))
    }
}
