//! Time as a node's monotonic clock shows it: tokio's, and in the simulation the clock of the node whose task asks, which may run
//! apart from all others and stands still while its machine is suspended.

#[cfg(test)]
pub(super) use self::local::{Elapsed, Instant, Sleep, Timeout, sleep, sleep_until, timeout, timeout_at};
#[cfg(not(test))]
pub(super) use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

#[cfg(test)]
mod local {
    use std::fmt;
    use std::future::Future;
    use std::ops::{Add, AddAssign, Sub, SubAssign};
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    use super::super::tasks::scope::{self, Scope};

    /// What a node's clock shows, as the time at which one that runs as all do would show it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub(in crate::consensus) struct Instant(tokio::time::Instant);

    impl Instant {
        pub(in crate::consensus) fn now() -> Self {
            let now = tokio::time::Instant::now();
            Self(scope::current().map_or(now, |scope| scope.local(now)))
        }

        pub(in crate::consensus) fn elapsed(&self) -> Duration {
            Self::now().saturating_duration_since(*self)
        }

        pub(in crate::consensus) fn saturating_duration_since(&self, earlier: Self) -> Duration {
            self.0.saturating_duration_since(earlier.0)
        }
    }

    impl Add<Duration> for Instant {
        type Output = Self;

        fn add(self, span: Duration) -> Self {
            Self(self.0 + span)
        }
    }

    impl Sub<Duration> for Instant {
        type Output = Self;

        fn sub(self, span: Duration) -> Self {
            Self(self.0 - span)
        }
    }

    impl Sub for Instant {
        type Output = Duration;

        fn sub(self, earlier: Self) -> Duration {
            self.0 - earlier.0
        }
    }

    impl AddAssign<Duration> for Instant {
        fn add_assign(&mut self, span: Duration) {
            self.0 += span;
        }
    }

    impl SubAssign<Duration> for Instant {
        fn sub_assign(&mut self, span: Duration) {
            self.0 -= span;
        }
    }

    pub(in crate::consensus) type Sleep = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

    pub(in crate::consensus) fn sleep(span: Duration) -> Sleep {
        sleep_until(Instant::now() + span)
    }

    pub(in crate::consensus) fn sleep_until(until: Instant) -> Sleep {
        match scope::current() {
            None => Box::pin(tokio::time::sleep_until(until.0)),
            Some(scope) => Box::pin(sleep_in(scope, until)),
        }
    }

    async fn sleep_in(scope: Scope, until: Instant) {
        while let Some(at) = scope.reaches(until.0) {
            let changed = scope.clock_changes();
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(at) => {}
                () = changed => {}
            }
        }
    }

    /// It was not done in time.
    #[derive(Debug)]
    pub(in crate::consensus) struct Elapsed;

    impl fmt::Display for Elapsed {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("it was not done in time")
        }
    }

    /// What is done in time or not.
    pub(in crate::consensus) struct Timeout<F> {
        future: Pin<Box<F>>,
        late: Sleep,
    }

    impl<F: Future> Future for Timeout<F> {
        type Output = Result<F::Output, Elapsed>;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
            if let Poll::Ready(output) = self.future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            self.late.as_mut().poll(context).map(|()| Err(Elapsed))
        }
    }

    pub(in crate::consensus) fn timeout<F: Future>(span: Duration, future: F) -> Timeout<F> {
        timeout_at(Instant::now() + span, future)
    }

    pub(in crate::consensus) fn timeout_at<F: Future>(late: Instant, future: F) -> Timeout<F> {
        Timeout { future: Box::pin(future), late: sleep_until(late) }
    }
}
