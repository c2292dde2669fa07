//! What the engine says of itself, in words for people who know nothing of it.

use std::error::Error;

use openraft::errors::{ChangeMembershipError, ClientWriteError, Fatal};

use super::super::replica_id::ReplicaId;
use super::types::*;

/// Why it stopped.
pub(super) fn stopped(error: &Fatal<Types>) -> String {
    match error {
        Fatal::StorageError(error) => format!("log, snapshot or state cannot be had: {}", innermost(error)),
        Fatal::Panicked => "it ran into a bug, which the log of this process tells".to_owned(),
        Fatal::Stopped => "it was told to stop".to_owned(),
    }
}

/// Why members are not changed now.
pub(super) fn refused(error: &ChangeMembershipError<CommittedLeaderId, ReplicaId>) -> String {
    match error {
        ChangeMembershipError::InProgress(_) => {
            "the change before is not committed yet: try again".to_owned()
        }
        ChangeMembershipError::EmptyMembership(_) => "nobody would vote any longer".to_owned(),
        ChangeMembershipError::LearnerNotFound(error) => {
            format!("replica {} is no learner: add it first", error.node_id)
        }
        ChangeMembershipError::UncommittedLeaderLog(_) => {
            "the leader has committed nothing in its term yet: try again".to_owned()
        }
        ChangeMembershipError::NodeMetadataChanged(_) => "a replica cannot move to another node".to_owned(),
        ChangeMembershipError::UnsupportedMembershipTransition(_) => {
            "the engine does not go from the members there are to those at once".to_owned()
        }
    }
}

/// Why nobody knows what became of what was written.
pub(super) fn unknown(error: &ClientWriteError<Types>) -> String {
    match error {
        ClientWriteError::ForwardToLeader(_) => "another replica leads".to_owned(),
        ClientWriteError::LogEntryDiscarded(_) => {
            "this replica lost its leadership while it was under way".to_owned()
        }
        ClientWriteError::ChangeMembershipError(error) => refused(error),
        // Of conditions that nothing here makes.
        _ => "the engine gave no outcome".to_owned(),
    }
}

/// What is behind all that was wrapped around it, without the name of its type, which the engine puts before it.
fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    let told = error.to_string();
    match told.split_once(": ") {
        Some((of_type, rest)) if of_type.contains("::") && !of_type.contains(' ') => rest.to_owned(),
        _ => told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_engine_is_in_what_people_are_told() {
        let gone = std::io::Error::other("the disk is gone");
        let error = openraft::StorageError::from_io_error(
            openraft::ErrorSubject::Logs,
            openraft::ErrorVerb::Write,
            gone,
        );
        let told = [
            stopped(&Fatal::StorageError(error)),
            stopped(&Fatal::Panicked),
            stopped(&Fatal::Stopped),
            refused(&ChangeMembershipError::EmptyMembership(openraft::errors::EmptyMembership {})),
        ];
        assert_eq!(told[0], "log, snapshot or state cannot be had: the disk is gone");
        for told in told {
            let lower = told.to_lowercase();
            assert!(
                ["raft", "logs", "write", "membership"].iter().all(|word| !lower.contains(word)),
                "{told}"
            );
        }
    }
}
