//! The account of one member: a record for every message sent to it.

use std::ops::Range;
use std::time::Duration;

use super::{Fault, Tally, Wait, hash};
use crate::demo::workload::{HEADER_BYTES, Outgoing, ReceivedMessage};
use crate::demo::{Dc, Member};

/// Microseconds since the start of the run.
type Micros = u64;

/// Of a message that has not arrived.
const NEVER: Micros = Micros::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reported {
    Nothing,
    MaybeDelivered,
    SurelyNot,
}

#[derive(Debug)]
struct Record {
    header_hash: u64,
    first_index: u64,
    sent_us: Micros,
    received_us: Micros,
    entries: u32,
    reported: Reported,
}

impl Record {
    fn arrived(&self) -> bool {
        self.received_us != NEVER
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) dc: Dc,
    pub(super) corrupted: u64,
    /// Message id 1 first.
    records: Vec<Record>,
    next_index: u64,
    payload_bytes: u64,
    latest: u64,
    delivered: u64,
    duplicated: u64,
    out_of_order: u64,
    failed: u64,
    misreported: u64,
    missing: u64,
}

impl Account {
    pub(super) fn new(dc: Dc) -> Self {
        Self {
            dc,
            corrupted: 0,
            records: Vec::new(),
            next_index: 1,
            payload_bytes: 0,
            latest: 0,
            delivered: 0,
            duplicated: 0,
            out_of_order: 0,
            failed: 0,
            misreported: 0,
            missing: 0,
        }
    }

    pub(super) fn sent(&mut self, message: &Outgoing, header_hash: u64, at: Duration) {
        assert_eq!(message.message_id, self.records.len() as u64 + 1, "message ids count from 1");
        assert_eq!(message.first_index, self.next_index, "a member's entries are contiguous");
        let entries = u32::try_from(message.entries().len()).expect("fewer than 2^32 entries in memory");
        self.records.push(Record {
            header_hash,
            first_index: message.first_index,
            sent_us: micros(at),
            received_us: NEVER,
            entries,
            reported: Reported::Nothing,
        });
        self.next_index += u64::from(entries);
        self.payload_bytes += message.payload_bytes();
        self.missing += 1;
    }

    pub(super) fn received(
        &mut self,
        member: Member,
        message: &ReceivedMessage<'_>,
        payload: &[u8],
        entry_hashes: &[u64],
        at: Duration,
    ) -> Result<(), Fault> {
        let message_id = message.header.message_id;
        let record = message_id.checked_sub(1).and_then(|at| self.records.get_mut(usize::try_from(at).ok()?));
        let record = match record {
            Some(record) if u32::try_from(member.0) == Ok(message.header.member) => record,
            _ => {
                self.corrupted += 1;
                return Err(Fault::NeverSent { member, message_id, addressed: message.header.member });
            }
        };
        // The bytes first: an altered message proves nothing about order, and the one it stands for stays missing.
        if hash(&payload[..HEADER_BYTES]) != record.header_hash || !has_entries(message, record, entry_hashes)
        {
            self.corrupted += 1;
            return Err(Fault::Altered { member, message_id });
        }
        if record.arrived() {
            self.duplicated += 1;
            return Err(Fault::Duplicated { member, message_id });
        }
        record.received_us = micros(at);
        self.delivered += 1;
        let reported = record.reported;
        if reported == Reported::Nothing {
            self.missing -= 1;
        }
        let after = self.latest;
        self.latest = after.max(message_id);
        // Both may be; the count has both, the answer the graver.
        if message_id < after {
            self.out_of_order += 1;
        }
        if reported == Reported::SurelyNot {
            self.misreported += 1;
            return Err(Fault::Misreported { member, message_id });
        }
        if message_id < after {
            return Err(Fault::OutOfOrder { member, message_id, after });
        }
        Ok(())
    }

    pub(super) fn failed(
        &mut self,
        member: Member,
        message_id: u64,
        maybe_delivered: bool,
    ) -> Result<(), Fault> {
        let at = usize::try_from(message_id.checked_sub(1).expect("message ids count from 1"));
        let record = &mut self.records[at.expect("a message that was sent")];
        assert_eq!(record.reported, Reported::Nothing, "a message has one outcome");
        record.reported = if maybe_delivered { Reported::MaybeDelivered } else { Reported::SurelyNot };
        self.failed += 1;
        if !record.arrived() {
            self.missing -= 1;
        } else if !maybe_delivered {
            self.misreported += 1;
            return Err(Fault::Misreported { member, message_id });
        }
        Ok(())
    }

    pub(super) fn add_to(&self, sum: &mut Tally) {
        sum.messages += self.records.len() as u64;
        sum.payload_bytes += self.payload_bytes;
        sum.delivered += self.delivered;
        sum.missing += self.missing;
        sum.duplicated += self.duplicated;
        sum.out_of_order += self.out_of_order;
        sum.corrupted += self.corrupted;
        sum.failed += self.failed;
        sum.misreported += self.misreported;
    }

    /// Latency of what was sent in the window and has arrived, microseconds.
    pub(super) fn latencies(&self, sent: &Range<Duration>) -> impl Iterator<Item = Micros> {
        self.sent_in(sent).filter(|r| r.arrived()).map(|r| r.received_us.saturating_sub(r.sent_us))
    }

    pub(super) fn add_waits(&self, window: &Range<Duration>, now: Duration, wait: &mut Wait) {
        for record in self.sent_in(window) {
            wait.messages += 1;
            let until = match (record.arrived(), record.reported) {
                (true, _) => record.received_us,
                (false, Reported::Nothing) => {
                    wait.missing += 1;
                    micros(now)
                }
                (false, _) => {
                    wait.failed += 1;
                    continue;
                }
            };
            let waited = Duration::from_micros(until.saturating_sub(record.sent_us));
            wait.longest = wait.longest.max(waited.saturating_sub(wait.normal));
        }
    }

    fn sent_in(&self, window: &Range<Duration>) -> impl Iterator<Item = &Record> {
        let window = micros(window.start)..micros(window.end);
        self.records.iter().filter(move |r| window.contains(&r.sent_us))
    }
}

/// Whether the entries are the recorded ones, each with the bytes that were sent.
fn has_entries(message: &ReceivedMessage<'_>, record: &Record, entry_hashes: &[u64]) -> bool {
    let first = usize::try_from(record.first_index - 1).expect("an index of a log in memory");
    message.entries.len() == record.entries as usize
        && (record.first_index..).zip(&message.entries).all(|(index, entry)| entry.index == index)
        && message
            .entries
            .iter()
            .zip(&entry_hashes[first..])
            .all(|(entry, hashed)| hash(entry.body) == *hashed)
}

fn micros(since_start: Duration) -> Micros {
    // An arrival can never be `NEVER`: that is 584,000 years.
    u64::try_from(since_start.as_micros()).unwrap_or(NEVER - 1)
}
