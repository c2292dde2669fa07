//! Logs: to standard error, as text for people or JSON for machines.

use std::io::{IsTerminal, Write};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::environment::variable;
use super::failure::Failure;
use crate::config::nearest;

/// How much is logged, and how.
#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// How log lines on standard error are written
    #[arg(long, value_enum, default_value_t = Form::Text, global = true)]
    log: Form,
    /// What is logged: error, warn, info, debug, trace or off; or rules such as warn,trunkline_mesh=debug
    /// [default: what TRUNKLINE_LOG says, else info; for the demo error]
    #[arg(long, value_name = "LEVEL", global = true)]
    log_level: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

pub(super) fn start(args: &LogArgs, default: &str) -> Result<(), Failure> {
    let level = args.log_level.clone().or_else(|| variable("TRUNKLINE_LOG"));
    let level = level.as_deref().unwrap_or(default).trim();
    // A single word that is no level would be taken for the name of a module, and nothing would be logged.
    if !level.contains(['=', ',']) && !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
        let meant =
            nearest(level, LEVELS.into_iter()).map_or(String::new(), |near| format!("did you mean {near}? "));
        let shown: String = level.chars().take(64).flat_map(char::escape_default).collect();
        return Err(Failure::Usage(format!(
            "no log level `{shown}`: {meant}there are {}",
            LEVELS.join(", ")
        )));
    }
    let filter = EnvFilter::try_new(level)
        .map_err(|error| Failure::Usage(format!("--log-level or TRUNKLINE_LOG cannot be read: {error}")))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match args.log {
        Form::Text => {
            let colours = std::io::stderr().is_terminal() && variable("NO_COLOR").is_none();
            logs.with_ansi(colours).try_init()
        }
        Form::Json => logs.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::Failed(format!("cannot start the log: {error}")))
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
