//! Logs: to standard error, as text for people or JSON for machines, so many of one kind and no more.

mod flood;

use std::io::{IsTerminal, Write};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::environment::variable;
use super::failure::Failure;
use crate::config::parse_level;
use flood::Flood;

/// How much is logged, and how.
#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// How log lines on standard error are written
    #[arg(long, value_enum, default_value_t = Form::Text, global = true)]
    log: Form,
    /// What is logged: error, warn, info, debug, trace or off; or rules such as warn,trunkline_mesh=debug
    /// [default: what TRUNKLINE_LOG says, else the file of a node, else info; for the demo error]
    #[arg(long, value_name = "LEVEL", global = true)]
    log_level: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

/// Takes other rules on.
type SetLevel = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// The log of this process, whose level can change.
pub(super) struct Log {
    /// The level that the command line or the environment gave: the file does not change it.
    given: bool,
    default: &'static str,
    set: SetLevel,
    flood: Flood,
}

pub(super) fn start(args: &LogArgs, default: &'static str) -> Result<Log, Failure> {
    let level = args.log_level.clone().or_else(|| variable("TRUNKLINE_LOG"));
    let filter = parse_level(level.as_deref().unwrap_or(default))
        .map_err(|error| Failure::Usage(format!("--log-level or TRUNKLINE_LOG: {error}")))?;
    let flood = Flood::default();
    let logs = tracing_subscriber::fmt().with_writer(std::io::stderr);
    let (started, set): (_, SetLevel) = match args.log {
        Form::Text => {
            let colours = std::io::stderr().is_terminal() && variable("NO_COLOR").is_none();
            let logs = logs.with_ansi(colours).with_env_filter(filter).with_filter_reloading();
            let handle = logs.reload_handle();
            let set = move |filter| handle.reload(filter).map_err(|error| error.to_string());
            (logs.finish().with(flood.clone()).try_init(), Box::new(set))
        }
        Form::Json => {
            let logs = logs.json().flatten_event(true).with_env_filter(filter).with_filter_reloading();
            let handle = logs.reload_handle();
            let set = move |filter| handle.reload(filter).map_err(|error| error.to_string());
            (logs.finish().with(flood.clone()).try_init(), Box::new(set))
        }
    };
    started.map_err(|error| Failure::Failed(format!("cannot start the log: {error}")))?;
    Ok(Log { given: level.is_some(), default, set, flood })
}

impl Log {
    /// Takes the level of the file from now on, unless the command line or the environment gave one.
    pub(super) fn follow(&self, level: Option<&str>) {
        if self.given {
            return;
        }
        let set = parse_level(level.unwrap_or(self.default)).and_then(|filter| (self.set)(filter));
        if let Err(error) = set {
            tracing::error!(%error, "the log level stays as it is");
        }
    }

    /// Says from time to time how many lines were left out. Ends with the runtime.
    pub(super) fn tell_what_is_left_out(&self) {
        tokio::spawn(self.flood.clone().tell());
    }
}

/// The last word of a command that failed.
pub(super) fn failure(args: &LogArgs, failure: &Failure) {
    match args.log {
        Form::Json => tracing::error!(exit_code = failure.code(), "{failure}"),
        Form::Text => failure_as_text(failure),
    }
}

/// As [`failure`], before it is known how logs are written.
pub(super) fn failure_as_text(failure: &Failure) {
    // Standard error may be closed: then nobody is there to be told.
    drop(writeln!(std::io::stderr(), "trunkline: {failure}"));
}
