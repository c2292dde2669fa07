//! What a sender holds while its batch is under way.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use crate::message::{FailReason, Outcome};

/// Resolves to one [`Outcome`] per message, in the order of the batch, once all of them are known.
///
/// It is never pending for ever: each message has a deadline, and if the mesh goes away every undecided one is
/// `Failed { reason: Closed, maybe_delivered: true }`. Dropping it withdraws nothing: the messages travel on.
#[derive(Debug)]
#[must_use = "a receipt says what became of the messages; drop it explicitly when nobody needs to know"]
pub struct Receipt {
    outcomes: oneshot::Receiver<Vec<Outcome>>,
    messages: usize,
}

impl Receipt {
    pub(super) fn new(messages: usize) -> (oneshot::Sender<Vec<Outcome>>, Self) {
        let (sender, outcomes) = oneshot::channel();
        (sender, Self { outcomes, messages })
    }
}

impl Future for Receipt {
    type Output = Vec<Outcome>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let undecided = Outcome::Failed { reason: FailReason::Closed, maybe_delivered: true };
        let outcomes = ready!(Pin::new(&mut self.outcomes).poll(cx));
        Poll::Ready(outcomes.unwrap_or_else(|_| vec![undecided; self.messages]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_mesh_that_goes_away_decides_every_message() {
        let (sender, receipt) = Receipt::new(3);
        drop(sender);
        let closed = Outcome::Failed { reason: FailReason::Closed, maybe_delivered: true };
        assert_eq!(receipt.await, vec![closed; 3]);
    }
}
