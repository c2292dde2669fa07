//! The tasks of one simulated node: what any of them spawns is one of them. They are paused together, and end together wherever
//! they wait, as those of a process do.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Some day.
const WALL: Duration = Duration::from_secs(1_700_000_000);

thread_local! {
    static CURRENT: RefCell<Option<Scope>> = const { RefCell::new(None) };
}

/// Whose task it is that runs now.
pub(in crate::consensus) fn current() -> Option<Scope> {
    CURRENT.with(|current| current.borrow().clone())
}

/// Clones are the same.
#[derive(Clone)]
pub(in crate::consensus) struct Scope(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    killed: Notify,
}

#[derive(Default)]
struct State {
    paused: bool,
    killed: bool,
    next: u64,
    /// Of every task that has begun.
    wakers: BTreeMap<u64, Waker>,
    /// What tasks panicked with.
    panics: Vec<String>,
    /// How long work that waits for the disk takes.
    disk: Duration,
    began: Option<Instant>,
    /// What the wall clock showed then.
    wall: Duration,
}

impl Scope {
    /// With a wall clock that shows a certain time when the simulation begins.
    pub(in crate::consensus) fn new(disk: Duration, began: Instant) -> Self {
        let wall = WALL;
        let state = Mutex::new(State { disk, began: Some(began), wall, ..State::default() });
        Self(Arc::new(Shared { state, killed: Notify::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a future as one of its tasks. It does not end once they were killed.
    pub(in crate::consensus) fn run_for_ever<F: Future>(&self, future: F) -> Scoped<F> {
        let number = {
            let mut state = self.lock();
            state.next += 1;
            state.next
        };
        Scoped { scope: self.clone(), number, future: Some(Box::pin(future)) }
    }

    /// Runs a future as one of its tasks; `None` where they were killed before it ended.
    pub(in crate::consensus) async fn run<F: Future>(&self, future: F) -> Option<F::Output> {
        let killed = self.0.killed.notified();
        if self.lock().killed {
            return None;
        }
        let future = self.run_for_ever(future);
        tokio::select! {
            biased;
            () = killed => None,
            output = future => Some(output),
        }
    }

    /// A disk takes its time.
    pub(in crate::consensus) async fn wait_for_disk<T>(&self, work: impl FnOnce() -> T) -> T {
        let disk = self.disk();
        tokio::time::sleep(disk).await;
        work()
    }

    pub(in crate::consensus) fn disk(&self) -> Duration {
        self.lock().disk
    }

    pub(in crate::consensus) fn set_disk(&self, disk: Duration) {
        self.lock().disk = disk;
    }

    /// The node's wall clock, since 1970.
    pub(in crate::consensus) fn wall(&self) -> Duration {
        let state = self.lock();
        state.wall + state.began.map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// Its wall clock makes a step, back or ahead.
    pub(in crate::consensus) fn step_wall(&self, by: Duration, back: bool) {
        let mut state = self.lock();
        state.wall = if back { state.wall.saturating_sub(by) } else { state.wall + by };
    }

    pub(in crate::consensus) fn pause(&self) {
        self.lock().paused = true;
    }

    pub(in crate::consensus) fn resume(&self) {
        let wakers: Vec<_> = {
            let mut state = self.lock();
            state.paused = false;
            state.wakers.values().cloned().collect()
        };
        wakers.iter().for_each(Waker::wake_by_ref);
    }

    pub(in crate::consensus) fn kill(&self) {
        let wakers = {
            let mut state = self.lock();
            state.killed = true;
            std::mem::take(&mut state.wakers)
        };
        wakers.values().for_each(Waker::wake_by_ref);
        self.0.killed.notify_waiters();
    }

    pub(in crate::consensus) fn is_killed(&self) -> bool {
        self.lock().killed
    }

    pub(in crate::consensus) fn take_panics(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().panics)
    }
}

/// A future that runs as a task of a scope.
pub(in crate::consensus) struct Scoped<F> {
    scope: Scope,
    number: u64,
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let scope = self.scope.clone();
        let number = self.number;
        {
            let mut state = scope.lock();
            if state.killed {
                drop(state);
                // Outside of the lock: what it has may want it.
                self.future = None;
                return Poll::Pending;
            }
            match state.wakers.get_mut(&number) {
                Some(waker) => waker.clone_from(context.waker()),
                None => drop(state.wakers.insert(number, context.waker().clone())),
            }
            if state.paused {
                return Poll::Pending;
            }
        }
        let Some(future) = &mut self.future else { return Poll::Pending };
        let before = CURRENT.with(|current| current.borrow_mut().replace(scope.clone()));
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        CURRENT.with(|current| *current.borrow_mut() = before);
        match polled {
            Ok(polled) => polled,
            Err(panic) => {
                scope.lock().panics.push(text_of(&*panic));
                resume_unwind(panic)
            }
        }
    }
}

impl<F> Drop for Scoped<F> {
    fn drop(&mut self) {
        self.scope.lock().wakers.remove(&self.number);
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}
