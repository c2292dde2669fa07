//! What a sender holds while its batch is under way, and the other end of it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::message::{FailReason, Outcome};

/// Resolves to one [`Outcome`] per message, in the order of the batch, once all of them are known. Each alone is told by
/// [`Receipt::next`] as soon as it is: one member that is slow, or dead, keeps nobody waiting for what became of the others.
///
/// It is never pending for ever: each message has a deadline, and if the mesh goes away every undecided one is
/// `Failed { reason: Closed, .. }`, `maybe_delivered` unless it is known that it was not. Dropping it withdraws nothing: the
/// messages travel on.
#[derive(Debug)]
#[must_use = "a receipt says what became of the messages; drop it explicitly when nobody needs to know"]
pub struct Receipt(SharedBoard);

/// What both ends hold.
type SharedBoard = Arc<Mutex<Board>>;

#[derive(Debug)]
struct Board {
    outcomes: Vec<Option<Outcome>>,
    undecided: usize,
    /// Decided, and not told one by one yet, in the order in which they were.
    fresh: VecDeque<usize>,
    waiter: Option<Waiter>,
}

#[derive(Debug)]
enum Waiter {
    ForOne(Waker),
    ForAll(Waker),
}

fn lock(board: &SharedBoard) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Receipt {
    pub(super) fn new(messages: usize) -> (Decider, Self) {
        let outcomes = vec![None; messages];
        let board = Board { outcomes, undecided: messages, fresh: VecDeque::new(), waiter: None };
        let board = Arc::new(Mutex::new(board));
        (Decider(Arc::clone(&board)), Self(board))
    }

    /// The next message that is decided: its place in the batch, and what became of it. `None` once all were told.
    ///
    /// Cancel-safe: what was not told is told by the next call. Awaiting the receipt afterwards still gives all outcomes.
    ///
    /// ```no_run
    /// # async fn example(client: trunkline_mesh::Client, batch: trunkline_mesh::Batch) -> Result<(), trunkline_mesh::SendError> {
    /// let mut receipt = client.send(batch).await?;
    /// while let Some((index, outcome)) = receipt.next().await {
    ///     println!("message {index}: {outcome:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next(&mut self) -> Option<(usize, Outcome)> {
        poll_fn(|cx| {
            let mut board = lock(&self.0);
            if let Some(index) = board.fresh.pop_front() {
                return Poll::Ready(
                    board.outcomes.get(index).cloned().flatten().map(|outcome| (index, outcome)),
                );
            }
            if board.undecided == 0 {
                return Poll::Ready(None);
            }
            board.waiter = Some(Waiter::ForOne(cx.waker().clone()));
            Poll::Pending
        })
        .await
    }
}

impl Future for Receipt {
    type Output = Vec<Outcome>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut board = lock(&self.0);
        if board.undecided == 0 {
            board.fresh.clear();
            return Poll::Ready(std::mem::take(&mut board.outcomes).into_iter().flatten().collect());
        }
        board.waiter = Some(Waiter::ForAll(cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        lock(&self.0).waiter = None;
    }
}

/// The end that knows what becomes of the messages. Dropped, it decides those that are undecided: the mesh went away.
#[derive(Debug)]
pub(super) struct Decider(SharedBoard);

impl Decider {
    /// A message is decided. Gives who is to be woken for that, once nothing is locked any more.
    #[must_use]
    pub(super) fn decide(&self, index: usize, outcome: Outcome) -> Option<Waker> {
        let mut board = lock(&self.0);
        let place = board.outcomes.get_mut(index).filter(|place| place.is_none())?;
        *place = Some(outcome);
        board.undecided -= 1;
        // A receipt that was dropped wants to know nothing.
        if Arc::strong_count(&self.0) > 1 {
            board.fresh.push_back(index);
        }
        let whole = board.undecided == 0;
        match board.waiter.take_if(|waiter| whole || matches!(waiter, Waiter::ForOne(_)))? {
            Waiter::ForOne(waker) | Waiter::ForAll(waker) => Some(waker),
        }
    }
}

impl Drop for Decider {
    fn drop(&mut self) {
        let undecided = Outcome::Failed { reason: FailReason::Closed, maybe_delivered: true };
        let messages = match &*lock(&self.0) {
            Board { undecided: 0, .. } => return,
            board => board.outcomes.len(),
        };
        let wakers = (0..messages).filter_map(|index| self.decide(index, undecided.clone()));
        wakers.for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const EXPIRED: Outcome = Outcome::Failed { reason: FailReason::Expired, maybe_delivered: true };
    const CLOSED: Outcome = Outcome::Failed { reason: FailReason::Closed, maybe_delivered: true };

    /// Decides a message, and wakes who waits for that.
    fn decide(decider: &Decider, index: usize) {
        decider.decide(index, EXPIRED).into_iter().for_each(Waker::wake);
    }

    #[tokio::test]
    async fn a_mesh_that_goes_away_decides_every_message() {
        let (decider, receipt) = Receipt::new(3);
        decide(&decider, 1);
        let all = tokio::spawn(receipt);
        tokio::task::yield_now().await;
        drop(decider);
        assert_eq!(all.await.unwrap(), [CLOSED, EXPIRED, CLOSED]);
    }

    #[tokio::test]
    async fn each_message_is_told_as_soon_as_it_is_decided() {
        let (decider, mut receipt) = Receipt::new(3);
        assert!(timeout(Duration::ZERO, receipt.next()).await.is_err(), "nothing is known");
        decide(&decider, 2);
        assert_eq!(receipt.next().await, Some((2, EXPIRED)), "whatever became of those before it");
        let rest = tokio::spawn(async move {
            (receipt.next().await, receipt.next().await, receipt.next().await, receipt.await)
        });
        tokio::task::yield_now().await;
        decide(&decider, 0);
        tokio::task::yield_now().await;
        assert!(decider.decide(0, CLOSED).is_none(), "a message is decided once");
        decide(&decider, 1);
        let told = (Some((0, EXPIRED)), Some((1, EXPIRED)), None, vec![EXPIRED; 3]);
        assert_eq!(rest.await.unwrap(), told);
    }

    #[tokio::test]
    async fn who_waits_for_all_is_woken_once() {
        let (decider, receipt) = Receipt::new(2);
        let (mut receipt, mut cx) = (std::pin::pin!(receipt), Context::from_waker(Waker::noop()));
        assert!(receipt.as_mut().poll(&mut cx).is_pending());
        assert!(decider.decide(0, EXPIRED).is_none());
        assert!(decider.decide(1, EXPIRED).is_some());
        assert_eq!(receipt.poll(&mut cx), Poll::Ready(vec![EXPIRED; 2]));
    }
}
