//! Connections that wait for what their callers say next: for a newer one the oldest of the network with most of them is given up, as
//! at the mesh's listener.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use trunkline_mesh::proto::links::ConnId;
use trunkline_mesh::proto::links::places::{Holder, Places};

/// Those that wait for one thing. Shared by their tasks and by whoever accepts.
#[derive(Clone, Default)]
pub(super) struct Waiting(Arc<Mutex<Waits>>);

#[derive(Default)]
struct Waits {
    begun: u64,
    places: Places,
    /// Of all that have a place.
    bells: BTreeMap<ConnId, Arc<Notify>>,
    /// Given up, and not at their end yet.
    leaving: usize,
}

impl Waiting {
    /// A connection, which waits for nothing yet.
    pub(super) fn begin(&self, from: IpAddr) -> Waiter {
        let mut waits = self.lock();
        waits.begun += 1;
        Waiter {
            id: ConnId(waits.begun),
            from: Holder::Stranger(from.into()),
            waiting: self.clone(),
            bell: Arc::default(),
            waits: AtomicBool::new(false),
            asked: AtomicBool::new(false),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.lock().bells.len()
    }

    /// How many were given up and are not at their end yet.
    pub(super) fn leaving(&self) -> usize {
        self.lock().leaving
    }

    /// `false`: none waits.
    pub(super) fn give_one_up(&self) -> bool {
        let mut waits = self.lock();
        let Some(id) = waits.places.stranger() else { return false };
        waits.places.free(id);
        if let Some(bell) = waits.bells.remove(&id) {
            bell.notify_one();
            waits.leaving += 1;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Waits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of them, or one that could be.
pub(super) struct Waiter {
    waiting: Waiting,
    id: ConnId,
    from: Holder,
    bell: Arc<Notify>,
    waits: AtomicBool,
    /// Something that it asked for is being answered.
    asked: AtomicBool,
}

impl Waiter {
    pub(super) fn wait(&self) {
        if !self.waits.swap(true, Ordering::Relaxed) {
            let mut waits = self.waiting.lock();
            waits.places.give(self.id, self.from);
            waits.bells.insert(self.id, Arc::clone(&self.bell));
        }
    }

    pub(super) fn go_on(&self) {
        if self.waits.swap(false, Ordering::Relaxed) {
            let mut waits = self.waiting.lock();
            waits.places.free(self.id);
            // Who was given up waits for nothing but its end.
            let given_up = waits.bells.remove(&self.id).is_none();
            self.waits.store(given_up, Ordering::Relaxed);
        }
    }

    /// A request is there as a whole: it goes on until the answer was made, and then [taken](Self::taken).
    pub(super) fn ask(self: &Arc<Self>) -> Answering {
        self.asked.store(true, Ordering::Relaxed);
        self.go_on();
        Answering(Arc::clone(self))
    }

    /// Nothing that was written so far is left to send.
    pub(super) fn taken(&self) {
        if !self.asked.load(Ordering::Relaxed) {
            self.wait();
        }
    }

    /// Ends when it was given up.
    pub(super) async fn given_up(&self) {
        self.bell.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.go_on();
        if *self.waits.get_mut() {
            self.waiting.lock().leaving -= 1;
        }
    }
}

/// Until an answer is made to its end.
pub(super) struct Answering(Arc<Waiter>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.asked.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures_util::FutureExt;

    use super::*;

    fn rung(waiter: &Waiter) -> bool {
        waiter.given_up().now_or_never().is_some()
    }

    #[test]
    fn who_is_being_answered_is_not_given_up_and_of_the_others_the_oldest_is() {
        let waiting = Waiting::default();
        let all: [_; 3] = std::array::from_fn(|_| Arc::new(waiting.begin(Ipv4Addr::LOCALHOST.into())));
        all.iter().for_each(|waiter| waiter.wait());
        let answering = all[0].ask();
        all[0].taken();
        assert!(waiting.give_one_up());
        assert_eq!(all.each_ref().map(|waiter| rung(waiter)), [false, true, false]);
        // Its answer is made, and then sent.
        drop(answering);
        assert!(waiting.count() == 1);
        all[0].taken();
        assert!(waiting.give_one_up());
        assert_eq!(all.each_ref().map(|waiter| rung(waiter)), [true, false, false]);
        let [first, second, last] = all;
        drop(last);
        assert!(!waiting.give_one_up());
        assert_eq!((waiting.count(), waiting.leaving()), (0, 2));
        // What one says that was given up changes nothing.
        drop(first.ask());
        first.taken();
        assert!(!waiting.give_one_up());
        drop((first, second));
        assert_eq!(waiting.leaving(), 0);
    }
}
