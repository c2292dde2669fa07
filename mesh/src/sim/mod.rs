//! Whole meshes under virtual time: the machines of [`proto`](crate::proto), a faulty wire between them, an application on
//! top and a checker that knows nothing of acks but what the application was told.
//!
//! Everything is drawn from the seed: delays, faults, load. The same seed gives the same trace. A run has two phases: one
//! with faults, in which safety must hold, and one after healing, in which everything must be delivered.
//!
//! ```
//! let report = trunkline_mesh::sim::run(7);
//! assert_eq!(report.violations, Vec::<String>::new());
//! ```

mod agenda;
mod app;
mod checker;
mod effects;
mod faults;
mod planted;
mod wire;
mod world;

pub use checker::{Arrival, Checker, Promise, Told};
pub use faults::Swarm;
pub use planted::Planted;
pub use world::{Failover, Report, Strike, failover, run, run_planted, run_with};
