//! A value that is watched: tokio's, and in the simulation one that wakes whoever waits in the order in which they began to.
//!
//! Tokio's wakes them in an order that is drawn, from a seed that cannot be set: one seed of the simulation would give many
//! runs.

#[cfg(test)]
pub(super) use self::ordered::{Receiver, Sender, channel};
#[cfg(not(test))]
pub(super) use tokio::sync::watch::{Receiver, Sender, channel};

#[cfg(test)]
mod ordered {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex, PoisonError};

    use tokio::sync::Notify;

    #[derive(Debug)]
    struct Shared<T> {
        value: Mutex<T>,
        senders: AtomicUsize,
        bell: Notify,
    }

    #[derive(Debug)]
    pub(in crate::consensus) struct Sender<T>(Arc<Shared<T>>);

    #[derive(Debug)]
    pub struct Receiver<T>(Arc<Shared<T>>);

    /// The sender is gone.
    #[derive(Debug)]
    pub(in crate::consensus) struct Gone;

    pub(in crate::consensus) fn channel<T: Clone>(value: T) -> (Sender<T>, Receiver<T>) {
        let shared = Shared { value: Mutex::new(value), senders: AtomicUsize::new(1), bell: Notify::new() };
        let shared = Arc::new(shared);
        (Sender(Arc::clone(&shared)), Receiver(shared))
    }

    impl<T: Clone> Sender<T> {
        pub(in crate::consensus) fn borrow(&self) -> T {
            self.0.value.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }

    impl<T> Sender<T> {
        pub(in crate::consensus) fn send_modify(&self, change: impl FnOnce(&mut T)) {
            change(&mut self.0.value.lock().unwrap_or_else(PoisonError::into_inner));
            self.0.bell.notify_waiters();
        }
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            self.0.senders.fetch_add(1, Ordering::Relaxed);
            Self(Arc::clone(&self.0))
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            if self.0.senders.fetch_sub(1, Ordering::Relaxed) == 1 {
                self.0.bell.notify_waiters();
            }
        }
    }

    impl<T> Clone for Receiver<T> {
        fn clone(&self) -> Self {
            Self(Arc::clone(&self.0))
        }
    }

    impl<T: Clone> Receiver<T> {
        pub(in crate::consensus) fn borrow(&self) -> T {
            self.0.value.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }

        pub(in crate::consensus) async fn wait_for(
            &mut self,
            mut holds: impl FnMut(&T) -> bool,
        ) -> Result<T, Gone> {
            loop {
                // From here on a ring is heard.
                let rung = self.0.bell.notified();
                let value = self.borrow();
                if holds(&value) {
                    return Ok(value);
                }
                if self.0.senders.load(Ordering::Relaxed) == 0 {
                    return Err(Gone);
                }
                rung.await;
            }
        }
    }
}
