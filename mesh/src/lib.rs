//! Broadcast mesh.
pub mod id;
pub mod message;
pub mod settings;
pub mod stats;
pub mod topology;

#[doc(hidden)]
pub mod proto;

pub mod net;

#[cfg(feature = "sim")]
pub mod sim;
