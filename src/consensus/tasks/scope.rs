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

/// Longer than any run.
const SOME_DAY: Duration = Duration::from_secs(100_000);

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
    /// Rings when they go on, or are killed.
    goes_on: Notify,
    clock_changed: Notify,
}

struct State {
    paused: bool,
    /// When they went on after the last pause.
    went_on: Option<Instant>,
    killed: bool,
    next: u64,
    /// Of every task that has begun.
    wakers: BTreeMap<u64, Waker>,
    /// What tasks panicked with.
    panics: Vec<String>,
    /// How long work that waits for the disk takes.
    disk: Duration,
    clock: Clock,
}

/// A node's clocks.
#[derive(Clone, Copy)]
struct Clock {
    began: Instant,
    /// Of all that passed, up to `at`, this much by the node's clock.
    shown: Duration,
    at: Instant,
    /// In a thousand units of time so many by the node's clock. 0 while the machine is suspended.
    rate: u32,
    /// The wall clock less the monotonic one.
    wall: Duration,
}

impl Clock {
    fn shows(&self, now: Instant) -> Duration {
        self.shown + now.saturating_duration_since(self.at) * self.rate / 1_000
    }

    /// It runs in another way from now on.
    fn change(&mut self, rate: u32) {
        let now = Instant::now();
        (self.shown, self.at, self.rate) = (self.shows(now), now, rate);
    }
}

impl Scope {
    /// With a wall clock that shows a certain time when the simulation begins.
    pub(in crate::consensus) fn new(disk: Duration, began: Instant) -> Self {
        // It shows the same as all others when it starts.
        let now = Instant::now();
        let clock = Clock { began, shown: now - began, at: now, rate: 1_000, wall: WALL };
        let (wakers, panics) = (BTreeMap::new(), Vec::new());
        let (paused, went_on, killed, next) = (false, None, false, 0);
        let state = State { paused, went_on, killed, next, wakers, panics, disk, clock };
        let (killed, goes_on, clock_changed) = (Notify::new(), Notify::new(), Notify::new());
        Self(Arc::new(Shared { state: Mutex::new(state), killed, goes_on, clock_changed }))
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
        let clock = self.lock().clock;
        clock.wall + clock.shows(Instant::now())
    }

    /// What the node's monotonic clock shows.
    pub(in crate::consensus) fn local(&self, now: Instant) -> Instant {
        let clock = self.lock().clock;
        clock.began + clock.shows(now)
    }

    /// When it shows a certain time, if nothing changes; `None` if it does by now.
    pub(in crate::consensus) fn reaches(&self, local: Instant) -> Option<Instant> {
        let clock = self.lock().clock;
        let now = Instant::now();
        let left =
            local.checked_duration_since(clock.began + clock.shows(now)).filter(|left| !left.is_zero())?;
        Some(match clock.rate {
            0 => now + SOME_DAY,
            // What is left after rounding is not slept for in vain.
            rate => now + (left * 1_000 / rate).max(Duration::from_nanos(1)),
        })
    }

    /// Resolves when that is no longer true.
    pub(in crate::consensus) fn clock_changes(&self) -> impl Future<Output = ()> + use<'_> {
        self.0.clock_changed.notified()
    }

    /// Its clocks run so fast from now on: 1,000 as all do.
    pub(in crate::consensus) fn run_clock(&self, rate: u32) {
        self.lock().clock.change(rate);
        self.0.clock_changed.notify_waiters();
    }

    /// Its machine is suspended: nothing runs, and of its clocks the wall clock alone, by the time that is given beforehand.
    pub(in crate::consensus) fn suspend(&self, until: Duration) {
        let mut state = self.lock();
        state.paused = true;
        state.clock.change(0);
        state.clock.wall += until;
    }

    /// Its wall clock makes a step, back or ahead.
    pub(in crate::consensus) fn step_wall(&self, by: Duration, back: bool) {
        let mut state = self.lock();
        let wall = &mut state.clock.wall;
        *wall = if back { wall.saturating_sub(by) } else { *wall + by };
    }

    pub(in crate::consensus) fn pause(&self) {
        self.lock().paused = true;
    }

    pub(in crate::consensus) fn resume(&self) {
        let wakers: Vec<_> = {
            let mut state = self.lock();
            if std::mem::take(&mut state.paused) {
                state.went_on = Some(Instant::now());
            }
            if state.clock.rate == 0 {
                state.clock.change(1_000);
                self.0.clock_changed.notify_waiters();
            }
            state.wakers.values().cloned().collect()
        };
        self.0.goes_on.notify_waiters();
        wakers.iter().for_each(Waker::wake_by_ref);
    }

    /// Waits while they are paused. When they went on, if that was not before a certain time.
    pub(in crate::consensus) async fn pause_since(&self, since: Instant) -> Option<Instant> {
        loop {
            let goes_on = self.0.goes_on.notified();
            {
                let state = self.lock();
                if !state.paused || state.killed {
                    return state.went_on.filter(|at| *at >= since);
                }
            }
            goes_on.await;
        }
    }

    pub(in crate::consensus) fn kill(&self) {
        let wakers = {
            let mut state = self.lock();
            state.killed = true;
            std::mem::take(&mut state.wakers)
        };
        wakers.values().for_each(Waker::wake_by_ref);
        self.0.killed.notify_waiters();
        self.0.goes_on.notify_waiters();
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
