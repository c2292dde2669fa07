//! `trunkline demo`: three datacenters on this machine, failing proxies, and a check of every arrival.

use std::io::{IsTerminal, Write};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use super::failure::Failure;
use crate::config::units::parse_duration;
use crate::demo::cluster::Shape;
use crate::demo::replicas;
use crate::demo::run::{Options, Progress, RunError, run};

/// Three datacenters on loopback with real TCP and WAN delays; the proxy in use is killed at one third of the run,
/// the one then in use freezes at two thirds, and every message is checked at its member.
///
/// With --cluster a process runs for every node, and the datacenters hold a replicated key-value store: clients in each of them write and read
/// over HTTP, the leader is killed at one third of the run, a proxy at two thirds, and what clients saw is checked.
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// Datacenters; the leader is in the first
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=8))]
    dcs: u8,
    /// A replicated key-value store in these datacenters, and its clients, instead of messages of one leader
    #[arg(long, conflicts_with_all = ["rate", "input"])]
    cluster: bool,
    /// Members per datacenter; with --cluster they are voters, at most 9 [default: 5, with --cluster 3]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=100))]
    members: Option<u8>,
    /// Proxies per datacenter; with 1, direct sends take over while it is away, and the WAN is too narrow for them
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=10))]
    proxies: u8,
    /// Factor on all delays; at 1 the one-way delays from the first datacenter are 40, 75, 110, … ms
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, allow_negative_numbers = true, value_parser = delay_scale)]
    delay_scale: f64,
    /// What each datacenter may send to all others together, Mbit/s
    #[arg(long, value_name = "MBIT", default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    egress_mbit: u64,
    /// How long the leader sends, such as "18 s" or "2 min"; a number alone is seconds
    #[arg(long, value_name = "DURATION", default_value = "18 s", value_parser = duration)]
    duration: Duration,
    /// Entries per second [default: twice what direct sends could hold]
    #[arg(long, value_name = "ENTRIES", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Take the entries line by line from this file, over and over, instead of generating 1 KiB each
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Seed of everything that is drawn at random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object and nothing else
    #[arg(long)]
    json: bool,
}

/// Of one datacenter, where each is a process.
const VOTERS_MAX: u8 = 9;

impl DemoArgs {
    fn egress_bytes_per_s(&self) -> NonZeroU64 {
        NonZeroU64::new(self.egress_mbit.saturating_mul(1_000_000 / 8)).unwrap_or(NonZeroU64::MIN)
    }
}

fn delay_scale(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(scale) if (0.0..=10.0).contains(&scale) => Ok(scale),
        _ => Err("a factor is a number from 0 to 10".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = match text.trim().parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => parse_duration(text),
    };
    match duration {
        Ok(duration) if (Duration::from_secs(3)..=Duration::from_secs(3600)).contains(&duration) => {
            Ok(duration)
        }
        _ => Err(
            "write 3 s to 1 h with a unit, such as \"18 s\" or \"2 min\", or a number of seconds, such as 18"
                .to_owned(),
        ),
    }
}

pub(super) async fn demo(args: DemoArgs) -> Result<(), Failure> {
    let progress = match (args.json, std::io::stdout().is_terminal()) {
        (true, _) => Progress::None,
        (false, true) => Progress::Terminal,
        (false, false) => Progress::Lines,
    };
    if args.cluster {
        return cluster(&args, progress).await;
    }
    let options = Options {
        shape: Shape {
            dcs: args.dcs.into(),
            members: args.members.unwrap_or(5).into(),
            proxies: args.proxies.into(),
        },
        delay_scale: args.delay_scale,
        egress_bytes_per_s: args.egress_bytes_per_s(),
        duration: args.duration,
        rate: args.rate.and_then(NonZeroU64::new),
        input: args.input,
        seed: args.seed,
        progress,
    };
    let report = run(options).await.map_err(|error| match error {
        RunError::Input(_) | RunError::Output(_) => Failure::Io(error.to_string()),
        RunError::Cluster(_) | RunError::Restart(_) => Failure::Unavailable(error.to_string()),
    })?;
    tell(args.json, &report.json(), &report.summary())?;
    if report.is_clean() {
        Ok(())
    } else {
        Err(Failure::Failed(
            "messages were lost, duplicated, out of order, corrupted or misreported".to_owned(),
        ))
    }
}

async fn cluster(args: &DemoArgs, progress: Progress) -> Result<(), Failure> {
    let voters = args.members.unwrap_or(3);
    if voters > VOTERS_MAX {
        return Err(Failure::Usage(format!(
            "--members with --cluster is at most {VOTERS_MAX}: each is a process"
        )));
    }
    let program =
        std::env::current_exe().map_err(|error| Failure::Io(format!("cannot find this program: {error}")))?;
    let options = replicas::run::Options {
        program,
        plan: replicas::run::Act::demo(),
        shape: Shape { dcs: args.dcs.into(), members: voters.into(), proxies: args.proxies.into() },
        delay_scale: args.delay_scale,
        egress_bytes_per_s: args.egress_bytes_per_s(),
        duration: args.duration,
        seed: args.seed,
        progress,
    };
    let report = replicas::run::run(options).await.map_err(|error| match error {
        replicas::run::RunError::Output(_) => Failure::Io(error.to_string()),
        replicas::run::RunError::Nodes(_) | replicas::run::RunError::Follow { .. } => {
            Failure::Unavailable(error.to_string())
        }
    })?;
    tell(args.json, &report.json(), &report.summary())?;
    match report.is_clean() {
        true => Ok(()),
        false => Err(Failure::Failed("the cluster did not keep what it promises".to_owned())),
    }
}

fn tell(json: bool, object: &str, summary: &str) -> Result<(), Failure> {
    let text = if json { format!("{object}\n") } else { format!("\n{summary}") };
    std::io::stdout().write_all(text.as_bytes()).map_err(Failure::stdout)
}
