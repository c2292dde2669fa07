//! The demo's own check: what was sent, what arrived, and how long it took. It asks the mesh for nothing.
//!
//! It is told every message before it is handed to the mesh, every payload that a member receives, and every message
//! that the mesh reports as failed. Times are durations since the start of the run.
//!
//! ```text
//! sent ──▶ received      delivered, by member exactly once, in order of message ids, with the bytes that were sent
//!      ├─▶ failed        the mesh gave it up; not lost silently. If it said "surely not delivered", it must not arrive
//!      └─▶ neither       lost, once the run is over
//! ```

mod account;

mod latency;

#[cfg(test)]
mod tests;

use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;
use std::time::Duration;

use self::account::Account;
pub use self::latency::{Latency, Wait};
use super::workload::{ENTRY_HEAD_BYTES, Outgoing, ParseError, ReceivedMessage};
use super::{Dc, Member};

/// See the module. Memory: 40 bytes per message and 8 per entry; no payload is kept.
#[derive(Debug, Default)]
pub struct Ledger {
    accounts: Vec<Account>,
    /// Hash of each entry's body, from log index 1.
    entries: Vec<u64>,
}

/// What is wrong with a received payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It arrived before.
    #[error("member {} got message {message_id} again", member.0)]
    Duplicated {
        /// Who received it.
        member: Member,
        /// Which message.
        message_id: u64,
    },
    /// A later message arrived before it.
    #[error("member {} got message {message_id} after message {after}", member.0)]
    OutOfOrder {
        /// Who received it.
        member: Member,
        /// Which message.
        message_id: u64,
        /// The latest message before.
        after: u64,
    },
    /// The mesh had reported that it would surely not arrive.
    #[error("member {} got message {message_id}, which was reported as surely not delivered", member.0)]
    Misreported {
        /// Who received it.
        member: Member,
        /// Which message.
        message_id: u64,
    },
    /// It is not a message of the demo.
    #[error("member {} got bytes that are no message", member.0)]
    Unreadable {
        /// Who received it.
        member: Member,
        /// Why.
        source: ParseError,
    },
    /// No such message was sent to this member.
    #[error("member {} got message {message_id} of member {addressed}, which was never sent to it", member.0)]
    NeverSent {
        /// Who received it.
        member: Member,
        /// The message it claims to be.
        message_id: u64,
        /// Whom its header addresses.
        addressed: u32,
    },
    /// Its header or its entries are not those that were sent.
    #[error("member {} got message {message_id} with other content than was sent", member.0)]
    Altered {
        /// Who received it.
        member: Member,
        /// Which message.
        message_id: u64,
    },
}

/// Sums over a datacenter or all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages sent.
    pub messages: u64,
    /// Their payload, bytes.
    pub payload_bytes: u64,
    /// Messages that arrived, each counted once.
    pub delivered: u64,
    /// Messages that neither arrived nor were reported as failed: lost, if the run is over.
    pub missing: u64,
    /// Arrivals of a message that had arrived before.
    pub duplicated: u64,
    /// Arrivals of a message after a later one.
    pub out_of_order: u64,
    /// Arrivals that were unreadable, never sent, or altered.
    pub corrupted: u64,
    /// Messages the mesh reported as failed, arrived or not.
    pub failed: u64,
    /// Messages that arrived although reported as surely not delivered.
    pub misreported: u64,
}

impl Tally {
    /// Whether nothing was lost, duplicated, out of order, corrupted or misreported. Reported failures are no breach.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.faults() == 0 && self.missing == 0
    }

    /// Everything that must never happen, except missing messages, which may still be on their way.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.duplicated + self.out_of_order + self.corrupted + self.misreported
    }
}

impl Ledger {
    /// An empty ledger for members in these datacenters; [`Member`] counts them.
    #[must_use]
    pub fn new(members: &[Dc]) -> Self {
        Self { accounts: members.iter().map(|dc| Account::new(*dc)).collect(), entries: Vec::new() }
    }

    /// Records a message; to be called before the mesh gets it.
    ///
    /// # Panics
    /// If the message is not the next one for its member, or its entries are not the next ones of the log: then the
    /// workload is wrong and the check would mean nothing.
    pub fn sent(&mut self, message: &Outgoing, at: Duration) {
        for (index, entry) in (message.first_index..).zip(message.entries()) {
            let known = self.entries.len() as u64;
            assert!(index <= known + 1, "entry {index} follows entry {known}");
            // All members share the entries, so each is hashed once.
            if index == known + 1 {
                self.entries.push(hash(&entry[ENTRY_HEAD_BYTES..]));
            }
        }
        self.accounts[message.member.0].sent(message, hash(&message.segments[0]), at);
    }

    /// Checks a payload that a member received.
    ///
    /// # Errors
    /// What is wrong with it; it is counted either way.
    ///
    /// # Panics
    /// If there is no such member.
    pub fn received(&mut self, member: Member, payload: &[u8], at: Duration) -> Result<(), Fault> {
        let account = &mut self.accounts[member.0];
        let message = ReceivedMessage::parse(payload).map_err(|source| {
            account.corrupted += 1;
            Fault::Unreadable { member, source }
        })?;
        account.received(member, &message, payload, &self.entries, at)
    }

    /// Records that the mesh gave a message up.
    ///
    /// # Errors
    /// `Misreported` if it has arrived although it was `!maybe_delivered`.
    ///
    /// # Panics
    /// If no such message was sent.
    pub fn failed(&mut self, member: Member, message_id: u64, maybe_delivered: bool) -> Result<(), Fault> {
        self.accounts[member.0].failed(member, message_id, maybe_delivered)
    }

    /// Messages that have neither arrived nor failed.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.tally(None).missing
    }

    /// Sums over the members of a datacenter, or over all.
    #[must_use]
    pub fn tally(&self, dc: Option<Dc>) -> Tally {
        let mut sum = Tally::default();
        for account in self.accounts_of(dc) {
            account.add_to(&mut sum);
        }
        sum
    }

    /// Delivery latency (received − sent) of the messages sent in `sent` that have arrived; `None` if there are none.
    #[must_use]
    pub fn latency(&self, dc: Option<Dc>, sent: Range<Duration>) -> Option<Latency> {
        Latency::of(self.accounts_of(dc).flat_map(|a| a.latencies(&sent)).collect())
    }

    /// How much longer than normal the messages to `dc` sent in `window` waited; `normal` is the median latency of
    /// those sent in `quiet`. A message that is still missing has waited until `now`; failed ones are only counted.
    /// Messages on their way when a route breaks are late too: let the window begin a round trip earlier.
    /// `None` if nothing arrived of what was sent in `quiet`, or nothing was sent in `window`.
    #[must_use]
    pub fn longest_wait(
        &self,
        dc: Dc,
        quiet: Range<Duration>,
        window: Range<Duration>,
        now: Duration,
    ) -> Option<Wait> {
        let normal = self.latency(Some(dc), quiet)?.p50;
        let mut wait = Wait { normal, ..Wait::default() };
        for account in self.accounts_of(Some(dc)) {
            account.add_waits(&window, now, &mut wait);
        }
        (wait.messages > 0).then_some(wait)
    }

    fn accounts_of(&self, dc: Option<Dc>) -> impl Iterator<Item = &Account> {
        self.accounts.iter().filter(move |a| dc.is_none_or(|dc| a.dc == dc))
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
