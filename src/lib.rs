//! Trunkline: a broadcast mesh between datacenters for consensus leaders.

#[doc(hidden)]
pub mod demo;
