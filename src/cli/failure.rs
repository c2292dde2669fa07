//! How a command fails, and the exit code that says so (those of `sysexits.h` where one fits).

use std::io;

use trunkline_mesh::JoinError;

use crate::api::ServeError;
use crate::config::units::show_count;
use crate::config::{ChooseError, ConfigError};

/// Why a command failed; the text is for people.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It ran, and something did not work out.
    #[error("{0}")]
    Failed(String),
    /// The command line asks for something that is not there.
    #[error("{0}")]
    Usage(String),
    /// Data on disk is not what was written there.
    #[error("{0}")]
    Corrupt(String),
    /// An address or a directory cannot be had.
    #[error("{0}")]
    Unavailable(String),
    /// Reading or writing failed.
    #[error("{0}")]
    Io(String),
    /// Whoever was shown something reads no further, as `head`: nobody is there to be told, and nothing is wrong.
    #[error("nobody reads on")]
    Unread,
    /// The configuration is wrong or does not suit the command.
    #[error("{0}")]
    Config(String),
}

impl Failure {
    /// The exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Unread => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Corrupt(_) => 65,
            Self::Unavailable(_) => 69,
            Self::Io(_) => 74,
            Self::Config(_) => 78,
        }
    }

    /// Writing to standard output failed.
    pub(super) fn stdout(error: io::Error) -> Self {
        Self::Io(format!("cannot write to standard output: {error}"))
    }

    /// The same, of what is only there to be looked at.
    pub(super) fn shown(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Unread } else { Self::stdout(error) }
    }

    /// So many messages met a fate, such as `not delivered`.
    pub(super) fn messages(count: u64, fate: &str) -> String {
        format!("{} {} {fate}", show_count(count, "message"), if count == 1 { "was" } else { "were" })
    }

    #[cfg(test)]
    pub(super) fn examples() -> [Self; 6] {
        let text = String::new;
        [
            Self::Failed(text()),
            Self::Usage(text()),
            Self::Corrupt(text()),
            Self::Unavailable(text()),
            Self::Io(text()),
            Self::Config(text()),
        ]
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Config(error.to_string())
    }
}

impl From<ChooseError> for Failure {
    fn from(error: ChooseError) -> Self {
        Self::Config(error.to_string())
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::Bind { .. } => Self::Unavailable(error.to_string()),
            JoinError::Settings(_)
            | JoinError::NotInTopology(_)
            | JoinError::Unprotected(_)
            | JoinError::Tls(_) => Self::Config(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}
