//! What happened in a run, as one number: equal where a seed gave the same run twice.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// Clones are the same.
#[derive(Clone)]
pub(super) struct Trace {
    began: Instant,
    sum: Arc<Mutex<(u64, u64)>>,
    prints: bool,
}

impl Trace {
    pub(super) fn new() -> Self {
        let prints = std::env::var_os("SIM_TRACE").is_some();
        Self { began: Instant::now(), sum: Arc::new(Mutex::new((0, 0))), prints }
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// µs since the beginning.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn note(&self, what: fmt::Arguments<'_>) {
        let line = format!("{} {what}", self.now());
        if self.prints {
            println!("{line}");
        }
        let mut sum = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        next.update(&sum.0.to_le_bytes());
        next.update(line.as_bytes());
        *sum = (next.finalize(), sum.1 + 1);
    }

    /// The number, and how much happened.
    pub(super) fn sum(&self) -> (u64, u64) {
        *self.sum.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
