//! How many entries, and when.

use std::num::NonZeroU64;
use std::time::Duration;

/// How many times the egress of the leader's datacenter direct sends would need.
const OVERLOAD: u64 = 2;

/// What decides the rate that direct sends could not hold.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    /// What the leader's datacenter may send, bytes per second.
    pub egress_bytes_per_s: NonZeroU64,
    /// Members that are not in the leader's datacenter.
    pub remote_members: usize,
    /// Bytes of an entry with its head.
    pub entry_bytes: usize,
}

/// Entries per second of which direct sends, one copy for every remote member, would need twice the egress rate.
/// Rounded up, so at least 1. Headers come on top and are not counted.
#[must_use]
pub fn offered_rate(offer: Offer) -> NonZeroU64 {
    let copies = offer.remote_members.max(1) as u128;
    let bytes_per_entry = copies * offer.entry_bytes.max(1) as u128;
    let rate = (u128::from(OVERLOAD) * u128::from(offer.egress_bytes_per_s.get())).div_ceil(bytes_per_entry);
    NonZeroU64::new(u64::try_from(rate).unwrap_or(u64::MAX)).expect("rounded up from more than 0")
}

/// Entries due by a fixed rate, whatever the mesh does: a leader's clients do not wait for its WAN.
#[derive(Debug)]
pub struct Pacer {
    entries_per_s: NonZeroU64,
    taken: u64,
}

impl Pacer {
    /// Nothing is due at time 0.
    #[must_use]
    pub fn new(entries_per_s: NonZeroU64) -> Self {
        Self { entries_per_s, taken: 0 }
    }

    /// Takes what is due `since_start` and not yet taken, at most `max` at once; the rest stays due.
    pub fn take(&mut self, since_start: Duration, max: usize) -> usize {
        let due = since_start.as_nanos() * u128::from(self.entries_per_s.get()) / 1_000_000_000;
        let due = u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(self.taken);
        let take = usize::try_from(due).unwrap_or(usize::MAX).min(max);
        self.taken += take as u64;
        take
    }
}
