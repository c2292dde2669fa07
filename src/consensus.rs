//! A replicated log with a state machine, above the mesh.
//!
//! In the order of an operation's journey: a [`Command`](command::Command) says what an entry of the log is; the engine has
//! it replicated and committed; the applier's thread applies it to the state (`applied.rs`): a user's [`StateMachine`], the
//! sessions that make proposals happen once, and a digest.

mod applied;
mod applier;
pub mod command;
mod digest;
mod engine;
mod machine;
mod replica_id;
pub mod session;

pub use applied::Answer;
pub use digest::Digest;
pub use engine::Progress;
pub use machine::StateMachine;
pub use replica_id::{Place, ReplicaId, ReplicaIdError};
