//! A replicated log with a state machine, above the mesh.
//!
//! In the order of an operation's journey: a [`Command`](command::Command) says what an entry of the log is; the engine has
//! it replicated and committed; the applier's thread applies it to the state (`applied.rs`): a user's [`StateMachine`], the
//! sessions that make proposals happen once, and a digest.

mod access;
mod applied;
mod applier;
mod carrier;
mod clock;
pub mod command;
mod digest;
mod engine;
mod error;
mod event;
mod events;
mod guard;
pub mod history;
mod joined;
pub mod key_value;
mod machine;
mod marker;
mod outcomes;
mod replica;
mod replica_id;
pub mod session;
mod status;
mod tasks;
mod time;
mod watch;

pub use applied::Answer;
pub use digest::Digest;
pub use engine::{Counted, Progress, Sent, SnapshotBytes, Timing};
pub use error::{MarkerError, MemberError, ProposeError, ReadError, StartError};
pub(crate) use joined::Joined;
pub use machine::StateMachine;
pub use marker::Marker;
pub use outcomes::Outcome;
pub use replica::{Committed, Consistency, FollowError, OPERATION_BYTES_MAX, Read, Replica, ReplicaConfig};
pub use replica_id::{Membership, Place, ReplicaId, ReplicaIdError};
pub use status::{NotReady, Role, Status};
