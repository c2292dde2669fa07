//! Batches that wait for budget: first come, first served within a datacenter, and no datacenter waits for another.
//! Batches of the control lane have a line of their own, as they have a share of the budget.

use std::collections::{BTreeMap, HashMap, VecDeque};

use tokio::sync::oneshot;

use super::client::{SendError, rejected};
use super::receipt::Receipt;
use crate::id::Datacenter;
use crate::message::{Batch, Outcome};
use crate::proto::client::Ticket;
use crate::proto::node::{Node, RejectReason, Rejected};
use crate::proto::time::Micros;

/// What a waiting `send` is told.
pub(super) type Decision = Result<Receipt, SendError>;

/// Receipts that are not decided yet.
pub(super) type Receipts = HashMap<Ticket, oneshot::Sender<Vec<Outcome>>>;

/// A decision on its way.
pub(super) struct Answer {
    to: oneshot::Sender<Decision>,
    decision: Decision,
}

impl Answer {
    pub(super) fn give(self) {
        // A `send` that was given up wants to know nothing.
        let _ = self.to.send(self.decision);
    }
}

struct Waiter {
    batch: Batch,
    to: oneshot::Sender<Decision>,
}

#[derive(Default)]
struct Line {
    waiters: VecDeque<Waiter>,
    /// Bytes charged to the datacenter when its first waiter was last turned down.
    queued_bytes: u64,
}

/// All waiting batches.
#[derive(Default)]
pub(super) struct Waiting {
    lines: BTreeMap<(Datacenter, bool), Line>,
}

/// Which line a batch stands in.
fn line_of(batch: &Batch) -> (Datacenter, bool) {
    (batch.datacenter().clone(), batch.is_urgent())
}

impl Waiting {
    /// Bytes charged to the batch's datacenter, if somebody waits in its line: whoever comes now stands behind.
    pub(super) fn queued_bytes(&self, batch: &Batch) -> Option<u64> {
        let line = self.lines.get(&line_of(batch))?;
        line.waiters.iter().any(|waiter| !waiter.to.is_closed()).then_some(line.queued_bytes)
    }

    /// Puts a batch at the end of its line.
    pub(super) fn push(&mut self, batch: Batch, queued_bytes: u64) -> oneshot::Receiver<Decision> {
        let (to, decision) = oneshot::channel();
        let line = self.lines.entry(line_of(&batch)).or_default();
        line.queued_bytes = queued_bytes;
        line.waiters.push_back(Waiter { batch, to });
        decision
    }

    /// Nothing that waits will be taken in: all are told that the node is closed.
    pub(super) fn clear(&mut self) {
        self.lines.clear();
    }

    /// Budget came free: takes in from every line what fits.
    pub(super) fn retry(
        &mut self,
        node: &mut Node,
        receipts: &mut Receipts,
        now: Micros,
        answers: &mut Vec<Answer>,
    ) {
        self.lines.retain(|_, line| {
            while let Some(Waiter { batch, to }) = line.waiters.pop_front() {
                if to.is_closed() {
                    continue;
                }
                let decision = match submit(node, receipts, batch, now, true) {
                    Ok(receipt) => Ok(receipt),
                    Err(Rejected { batch, reason: RejectReason::Busy { queued_bytes } }) => {
                        line.queued_bytes = queued_bytes;
                        line.waiters.push_front(Waiter { batch, to });
                        return true;
                    }
                    Err(Rejected { reason, .. }) => Err(rejected(reason)),
                };
                answers.push(Answer { to, decision });
            }
            false
        });
    }
}

/// Hands a batch to the machine. `again`: it was turned down before, and was counted then.
pub(super) fn submit(
    node: &mut Node,
    receipts: &mut Receipts,
    batch: Batch,
    now: Micros,
    again: bool,
) -> Result<Receipt, Rejected> {
    let messages = batch.len();
    let ticket = if again { node.submit_again(batch, now)? } else { node.submit(batch, now)? };
    let (sender, receipt) = Receipt::new(messages);
    receipts.insert(ticket, sender);
    Ok(receipt)
}
