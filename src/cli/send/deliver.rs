//! One datacenter: groups in, batches out, receipts counted as they are decided.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use trunkline_mesh::{Batch, Client, Datacenter, Lane, Message, NodeId, Outcome, Receipt, Settings};

use super::super::failure::Failure;
use super::Group;
use super::input::GroupLimits;
use super::tally::Tally;

/// How messages are sent.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    pub(super) lane: Lane,
    pub(super) deadline: Option<Duration>,
}

/// How much is under way at once, so that no budget of the mesh is overdrawn: a destination whose budget is used up
/// refuses, where a sender that reads a file would rather wait.
pub(super) struct Plan {
    pub(super) group: GroupLimits,
    /// Bytes under way for each destination.
    pub(super) window_bytes: u32,
}

/// What a message costs beside its payload, bytes; twice what the mesh charges.
const OVERHEAD_BYTES: usize = 512;
/// Groups larger than this bring nothing.
const GROUP_BYTES_MAX: usize = 256 * 1024;
const GROUP_MESSAGES_MAX: usize = 256;
/// Receipts that are waited for, and those that wait to be.
const RECEIPTS_MAX: usize = 1024;

impl Plan {
    /// `destinations`: the most in one datacenter.
    pub(super) fn new(settings: &Settings, destinations: usize) -> Self {
        let window = settings.destination_budget_bytes / 2;
        let per_message = OVERHEAD_BYTES.saturating_mul(destinations.max(1));
        let messages_max = (settings.datacenter_budget_bytes / 4 / per_message).clamp(1, GROUP_MESSAGES_MAX);
        Self {
            group: GroupLimits {
                message_bytes_max: settings.message_bytes_max,
                bytes_max: (window / 4).min(GROUP_BYTES_MAX),
                messages_max,
            },
            window_bytes: u32::try_from(window).unwrap_or(u32::MAX).max(1),
        }
    }
}

/// Sends every group to every node, and counts what became of it.
pub(super) async fn deliver(
    client: Client,
    datacenter: Datacenter,
    nodes: Vec<NodeId>,
    manner: Manner,
    window_bytes: u32,
    mut groups: mpsc::Receiver<Group>,
) -> (Tally, Result<(), Failure>) {
    let window = Arc::new(Semaphore::new(usize::try_from(window_bytes).unwrap_or(Semaphore::MAX_PERMITS)));
    let (receipts, counted) = mpsc::channel(RECEIPTS_MAX);
    let counting = tokio::spawn(count(datacenter.clone(), nodes.clone(), counted));
    let mut outcome = Ok(());
    while let Some(group) = groups.recv().await {
        let bytes: usize = group.iter().map(|message| message.len() + OVERHEAD_BYTES).sum();
        // A group larger than the window goes alone.
        let room = u32::try_from(bytes).unwrap_or(u32::MAX).min(window_bytes);
        let Ok(permit) = Arc::clone(&window).acquire_many_owned(room).await else { break };
        match client.send(batch(&datacenter, &nodes, manner, &group)).await {
            Ok(receipt) => {
                if receipts.send((receipt, permit)).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                outcome = Err(Failure::Failed(format!("datacenter {datacenter}: {error}")));
                break;
            }
        }
    }
    drop(receipts);
    match counting.await {
        Ok(tally) => (tally, outcome),
        Err(error) => (Tally::default(), Err(Failure::Failed(format!("counting ended badly: {error}")))),
    }
}

/// Message by message, each to every node, so that order holds for all of them alike.
fn batch(datacenter: &Datacenter, nodes: &[NodeId], manner: Manner, group: &Group) -> Batch {
    let mut batch = Batch::to(datacenter.clone());
    for payload in group.iter() {
        batch.extend(nodes.iter().map(|node| {
            let message = Message::new(node.clone(), payload.clone()).lane(manner.lane);
            match manner.deadline {
                Some(deadline) => message.deadline(deadline),
                None => message,
            }
        }));
    }
    batch
}

async fn count(datacenter: Datacenter, nodes: Vec<NodeId>, mut receipts: mpsc::Receiver<Waiting>) -> Tally {
    let mut tally = Tally::of(&datacenter, &nodes);
    let (mut open, mut more) = (FuturesUnordered::new(), true);
    while more || !open.is_empty() {
        tokio::select! {
            biased;
            Some((decided, waiting)) = open.next(), if !open.is_empty() => {
                let decided: Vec<(usize, Outcome)> = decided;
                for (index, outcome) in &decided {
                    tally.count(&nodes[index % nodes.len()], outcome);
                }
                if !decided.is_empty() {
                    open.push(wait(waiting));
                }
            }
            received = receipts.recv(), if more && open.len() < RECEIPTS_MAX => match received {
                Some(waiting) => open.push(wait(waiting)),
                None => more = false,
            },
        }
    }
    tally
}

/// A receipt, and the room that its messages take.
type Waiting = (Receipt, OwnedSemaphorePermit);

/// The messages of a receipt that are decided next; none once all are. One destination that is dead is no reason not to count the others.
async fn wait((mut receipt, permit): Waiting) -> (Vec<(usize, Outcome)>, Waiting) {
    let mut decided: Vec<_> = receipt.next().await.into_iter().collect();
    while let Some(Some(next)) = receipt.next().now_or_never() {
        decided.push(next);
    }
    (decided, (receipt, permit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_plan_overdraws_a_budget() {
        let small = Settings { message_bytes_max: 1, destination_budget_bytes: 1, ..Settings::default() };
        for settings in [Settings::default(), small] {
            for destinations in [1, 5, 1024] {
                let plan = Plan::new(&settings, destinations);
                let overhead = plan.group.messages_max * destinations * OVERHEAD_BYTES;
                assert!(overhead <= settings.datacenter_budget_bytes, "{destinations}");
                assert!(plan.window_bytes >= 1 && plan.group.messages_max >= 1);
            }
        }
    }
}
