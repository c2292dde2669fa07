//! The tokio shells.
