//! Whether the configuration file is in use as it was read last.

use std::sync::{Arc, Mutex, PoisonError};

/// Why the file, as it was read last, is not in use, while that is so: of one node, for who reads it and for all who tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusal(Arc<Mutex<Option<String>>>);

impl Refusal {
    /// It was read: what stands against it, or nothing.
    pub(crate) fn set(&self, why: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// What stands against it.
    pub(crate) fn why(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
