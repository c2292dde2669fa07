//! The node: configuration, command line, admin API and metrics around the broadcast mesh.
//!
//! [`ca`] makes certificates for its nodes; [`config`] reads the one file of a cluster; [`cli`] starts a node of it, or sends through it; [`api`] answers health
//! and metric requests while it runs; [`metrics`] turns the mesh's counters into Prometheus text. The mesh itself is the
//! crate `trunkline_mesh`, for programs that send and receive by themselves.

pub mod ca;

pub mod config;

pub mod api;

mod http;

mod scratch;

#[doc(hidden)]
pub mod service;

pub mod metrics;

pub mod storage;

pub mod consensus;

pub mod client;

pub mod cli;

#[doc(hidden)]
pub mod demo;
