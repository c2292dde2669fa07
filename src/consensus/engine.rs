//! The Raft engine, which nothing outside of this module knows: openraft, pinned.

mod log_store;
mod machine_store;
#[cfg(test)]
mod tests;
mod types;

pub use machine_store::Progress;
