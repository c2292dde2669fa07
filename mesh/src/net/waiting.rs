//! Batches that wait for budget: first come, first served within a datacenter, and no datacenter waits for another.
//! Batches of the control lane have a line of their own, as they have a share of the budget.

use std::collections::{BTreeMap, HashMap, VecDeque};

use tokio::sync::oneshot;

use super::client::{SendError, rejected};
use super::receipt::{Decider, Receipt};
use crate::id::Datacenter;
use crate::message::Batch;
use crate::proto::client::Ticket;
use crate::proto::node::{Node, RejectReason, Rejected};
use crate::proto::time::Micros;

/// What a waiting `send` is told.
pub(super) type Decision = Result<Receipt, SendError>;

/// Receipts that are not decided yet.
pub(super) type Receipts = HashMap<Ticket, Decider>;

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

/// Where a batch waits.
pub(super) struct Place {
    line: (Datacenter, bool),
    number: u64,
}

impl Place {
    /// Whom it waits for.
    pub(super) fn datacenter(&self) -> &Datacenter {
        &self.line.0
    }
}

struct Waiter {
    /// Rises along a line.
    number: u64,
    batch: Batch,
    to: oneshot::Sender<Decision>,
}

#[derive(Default)]
struct Line {
    waiters: VecDeque<Waiter>,
    /// Bytes charged to the datacenter when its first waiter was last turned down.
    queued_bytes: u64,
}

/// All waiting batches. Whose batch is dropped with it is told that the node is closed.
#[derive(Default)]
pub(super) struct Waiting {
    lines: BTreeMap<(Datacenter, bool), Line>,
    next: u64,
    #[cfg(test)]
    tries: usize,
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
    pub(super) fn push(&mut self, batch: Batch, queued_bytes: u64) -> (Place, oneshot::Receiver<Decision>) {
        let (to, decision) = oneshot::channel();
        let place = Place { line: line_of(&batch), number: self.next };
        self.next += 1;
        let line = self.lines.entry(place.line.clone()).or_default();
        line.queued_bytes = queued_bytes;
        line.waiters.push_back(Waiter { number: place.number, batch, to });
        (place, decision)
    }

    /// A batch does not wait any more, wherever it stands: it is let go.
    pub(super) fn leave(&mut self, place: &Place) {
        let Some(line) = self.lines.get_mut(&place.line) else { return };
        if let Ok(at) = line.waiters.binary_search_by_key(&place.number, |waiter| waiter.number) {
            line.waiters.remove(at);
        }
    }

    /// Budget came free for a datacenter, or for all: takes in from its lines what fits. The first of a line whose datacenter has
    /// as much as before would be looked through, with all its messages, to find that out.
    pub(super) fn retry(
        &mut self,
        datacenter: Option<&Datacenter>,
        node: &mut Node,
        receipts: &mut Receipts,
        now: Micros,
        answers: &mut Vec<Answer>,
    ) {
        self.lines.retain(|(of, _), line| {
            if datacenter.is_some_and(|datacenter| datacenter != of) {
                return true;
            }
            while let Some(Waiter { number, batch, to }) = line.waiters.pop_front() {
                if to.is_closed() {
                    continue;
                }
                #[cfg(test)]
                {
                    self.tries += 1;
                }
                let decision = match submit(node, receipts, batch, now, true) {
                    Ok(receipt) => Ok(receipt),
                    Err(Rejected { batch, reason: RejectReason::Busy { queued_bytes } }) => {
                        line.queued_bytes = queued_bytes;
                        line.waiters.push_front(Waiter { number, batch, to });
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
    let (decider, receipt) = Receipt::new(messages);
    // Of nothing there is nothing to tell.
    if messages > 0 {
        receipts.insert(ticket, decider);
    }
    Ok(receipt)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::shared::tests::lone_origin;
    use super::super::{Config, join};
    use super::*;
    use crate::id::NodeId;
    use crate::message::Message;
    use crate::settings::Settings;
    use crate::topology::{NodeSpec, Roles, Topology};

    /// A sender whose budget for a member that is not there has room for one batch.
    fn narrow() -> Config {
        let Config { topology, node, .. } = lone_origin();
        let member = NodeSpec {
            id: NodeId::new("m").unwrap(),
            datacenter: Datacenter::new("us").unwrap(),
            roles: Roles::MEMBER,
            address: Some(([127, 0, 0, 1], 9).into()),
        };
        let other = NodeSpec {
            id: NodeId::new("other").unwrap(),
            datacenter: Datacenter::new("eu").unwrap(),
            ..member.clone()
        };
        let other = NodeSpec { address: Some(([127, 0, 0, 1], 8).into()), ..other };
        let topology: Topology = topology.with(member).unwrap().with(other).unwrap();
        let bytes = 64 << 10;
        let settings = Settings {
            message_bytes_max: bytes,
            destination_budget_bytes: bytes,
            datacenter_budget_bytes: 2 * bytes,
            process_budget_bytes: 8 * bytes,
            ..Settings::default()
        };
        Config { settings, ..Config::new(topology, node) }
    }

    fn batch() -> Batch {
        let mut batch = Batch::to(Datacenter::new("us").unwrap());
        batch.push(Message::new(NodeId::new("m").unwrap(), vec![0; 60 << 10]));
        batch
    }

    #[tokio::test]
    async fn a_send_that_is_given_up_lets_go_of_its_batch_wherever_it_stands() {
        let (client, _inbox) = join(narrow()).await.unwrap();
        let shared = std::sync::Arc::clone(client.mesh().shared());
        let length = || {
            shared.look(|core, _| core.waiting.lines.values().map(|line| line.waiters.len()).sum::<usize>())
        };
        let _taken = client.send(batch()).await.unwrap();
        while client.try_send(batch()).is_ok() {}
        let head = client.send(batch());
        tokio::pin!(head);
        assert!(tokio::time::timeout(Duration::ZERO, head.as_mut()).await.is_err());
        for _ in 0..100 {
            assert!(tokio::time::timeout(Duration::ZERO, client.send(batch())).await.is_err());
        }
        assert_eq!(length(), 1, "the head alone");
        client.mesh().close();
        assert!(head.await.is_err());
    }

    #[tokio::test]
    async fn what_other_datacenters_give_back_is_not_tried_by_who_waits_for_one_that_is_full() {
        let (client, _inbox) = join(narrow()).await.unwrap();
        let shared = std::sync::Arc::clone(client.mesh().shared());
        let tries = || shared.look(|core, _| core.waiting.tries);
        while client.try_send(batch()).is_ok() {}
        let head = client.send(batch());
        tokio::pin!(head);
        assert!(tokio::time::timeout(Duration::ZERO, head.as_mut()).await.is_err());
        let before = tries();
        // Each takes the place of the one before it, and gives its bytes back.
        for _ in 0..100 {
            let mut batch = Batch::to(Datacenter::new("eu").unwrap());
            batch.push(Message::new(NodeId::new("other").unwrap(), vec![0; 100]).slot(1));
            drop(client.try_send(batch).unwrap());
        }
        assert_eq!(tries(), before);
        client.mesh().set_settings(&Settings::default()).unwrap();
        assert!(head.await.is_ok());
        assert_eq!(tries(), before + 1);
    }
}
