//! The command line: what there is to say, and which exit code says how it went.

mod ca;
mod check;
mod demo;
mod environment;
mod failure;
mod fetch;
mod inspect;
mod log;
mod members;
mod node;
mod notify;
mod output;
mod ping;
mod reload;
mod routes;
mod run;
mod send;
mod signal;
mod status;
mod table;
mod tail;
mod top;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

pub use failure::Failure;

const EXIT_CODES: &str = "\
Exit codes:
   0  done; stopped by a signal and drained
   1  something failed: message not delivered, input cut off or too long, signal cut work short
   2  the command line is wrong
  65  data on disk is damaged
  69  an address or a data directory is in use, or cannot be used
  74  reading or writing failed
  78  the configuration is wrong, or does not suit the command

SIGTERM and SIGINT drain: /readyz answers 503, peers are told, what is under way is finished within drain_timeout.
A second one exits at once. The demo just ends. SIGHUP: proxy, member and node read their file again.";

/// A broadcast mesh between datacenters: one batch per datacenter, fanned out by proxies.
#[derive(Debug, Parser)]
#[command(name = "trunkline", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    log: log::LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a proxy: take batches from senders and fan them out in its datacenter
    ///
    /// The node takes all roles the file gives it: one that is a member too also writes what it receives.
    Proxy(run::RunArgs),
    /// Run a member: receive messages and write them out
    ///
    /// The node takes all roles the file gives it. A message counts as delivered when the member took it in, a moment
    /// before it is written: if writing fails the process ends with exit code 74 and says how many may be missing.
    Member(run::RunArgs),
    /// Run a replica: a node that keeps the replicated log, and serves keys and values to clients over HTTP
    ///
    /// Nodes with `data` in the file are replicas. The cluster is founded once all of them run for the first time.
    Node(node::NodeCommand),
    /// Send lines or frames, and tell what became of them
    ///
    /// The process is an origin of the file for as long as it takes: do not run it while that node runs elsewhere, for
    /// the one that starts later takes the place of the other. The input is read no faster than the slowest datacenter
    /// takes it. Nothing is sent if a destination is unknown.
    Send(send::SendArgs),
    /// Check a configuration file and show what it says
    CheckConfig(check::CheckArgs),
    /// Make a CA and certificates for nodes, take them back, and show what they and revocation lists say
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Show what a running node is and does: health, links, queues
    Status(status::StatusArgs),
    /// Show how a running sender reaches every datacenter, and why: proxies, and the latest decisions
    Routes(routes::RoutesArgs),
    /// Send a round trip through the mesh from a running node, and time it
    Ping(ping::PingArgs),
    /// Watch a running node: rates, queues, routes, every second
    Top(top::TopArgs),
    /// Follow the replicated log: one line per committed entry, as they come, from whichever node is there
    ///
    /// Exit code 1: the log begins later than --from. 69: no node answered for as long as --patience says.
    Tail(tail::TailArgs),
    /// Look at the log of a stopped node: is it whole, and what does it hold?
    #[command(subcommand)]
    Log(inspect::LogCommand),
    /// Three datacenters on this machine, two failing proxies, every arrival checked
    Demo(demo::DemoArgs),
}

/// The file, and which of its nodes this is.
#[derive(Debug, clap::Args)]
struct NodeArgs {
    /// The configuration file, the same on every node
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Which node of the file this process is [default: what TRUNKLINE_NODE says, else the only one that has the role]
    #[arg(long, value_name = "ID")]
    node: Option<String>,
}

impl NodeArgs {
    /// The node that was asked for.
    fn asked(&self) -> Option<String> {
        self.node.clone().or_else(|| environment::variable("TRUNKLINE_NODE"))
    }
}

/// How long tasks may take to end after the command has.
const RUNTIME_SHUTDOWN: Duration = Duration::from_millis(100);

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return told(&error),
    };
    // A run that shows a table of its own keeps the log quiet: its proxies fail on purpose.
    let level = if matches!(cli.command, Command::Demo(_)) { "error" } else { "info" };
    let outcome = log::start(&cli.log, level).and_then(|log| run(cli.command, &log));
    match outcome {
        Ok(()) | Err(Failure::Unread) => ExitCode::SUCCESS,
        Err(failure) => {
            log::failure(&cli.log, &failure);
            ExitCode::from(failure.code())
        }
    }
}

/// Help, version, or what is wrong with the command line. Help that nobody got is a failure like any other.
fn told(error: &clap::Error) -> ExitCode {
    let written = error.print().and_then(|()| std::io::stdout().flush());
    match written.map_err(Failure::stdout) {
        Err(failure) if !error.use_stderr() => {
            log::failure_as_text(&failure);
            ExitCode::from(failure.code())
        }
        _ => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(u8::MAX)),
    }
}

fn run(command: Command, log: &log::Log) -> Result<(), Failure> {
    match command {
        Command::Proxy(args) => within_runtime(run::run(args, crate::config::Role::Proxy, log)),
        Command::Member(args) => within_runtime(run::run(args, crate::config::Role::Member, log)),
        Command::Node(args) => within_runtime(node::node(args, log)),
        Command::Send(args) => within_runtime(send::send(args, log)),
        Command::CheckConfig(args) => check::check(&args),
        Command::Ca(command) => ca::ca(&command),
        Command::Log(command) => inspect::log(&command),
        Command::Status(args) => within_runtime(status::status(args)),
        Command::Routes(args) => within_runtime(routes::routes(args)),
        Command::Ping(args) => within_runtime(ping::ping(args)),
        Command::Top(args) => within_runtime(top::top(args)),
        Command::Tail(args) => within_runtime(tail::tail(args)),
        Command::Demo(args) => within_runtime(demo::demo(args)),
    }
}

fn within_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(work);
    // A write that never ends, as into a stopped pipe, must not keep the process.
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_exit_code_is_in_the_help() {
        for failure in Failure::examples() {
            let listed = format!("{:>4}  ", failure.code());
            assert!(EXIT_CODES.lines().any(|line| line.starts_with(&listed)), "{failure:?}");
        }
    }
}
