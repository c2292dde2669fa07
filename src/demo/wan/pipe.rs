//! One direction of one connection, and the uplink it leaves through: the shell around [`Egress`] and [`Window`].

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::egress::{Egress, FlowId};
use super::window::{Window, WindowLimits};
use crate::demo::Dc;

/// Time since the WAN began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    epoch: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { epoch: Instant::now() }
    }

    pub(super) fn now(self) -> Duration {
        self.epoch.elapsed()
    }

    pub(super) fn at(self, since_start: Duration) -> Instant {
        self.epoch + since_start
    }
}

/// What travels: the events of a TCP stream, in order.
#[derive(Debug)]
pub(super) enum Event {
    /// The connection was accepted: connect to the target.
    Open,
    Data(Bytes),
    /// The sender closed its direction.
    Fin,
    /// The sender aborted, or its connect was refused.
    Reset,
}

impl Event {
    fn bytes(&self) -> usize {
        if let Event::Data(data) = self { data.len() } else { 0 }
    }
}

/// An event on the last part of its way; due at the far end at `at`.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) event: Event,
    pub(super) at: Duration,
}

/// One direction of one connection: an [`Outlet`] at its source, an [`Inlet`] at its far end, the [`Uplink`] between.
#[derive(Debug)]
struct Pipe {
    flow: FlowId,
    to: Dc,
    delay: Duration,
    window: Mutex<Window>,
    room: Notify,
    /// Bounded by the window.
    arrivals: mpsc::UnboundedSender<Arrival>,
}

impl Pipe {
    fn departed(&self, event: Event, bytes: usize, at: Duration) {
        lock(&self.window).handle_departure(bytes);
        self.room.notify_one();
        // Nobody receives: the far end of the connection is gone, and so is what was on its way there.
        let _ = self.arrivals.send(Arrival { event, at });
    }
}

/// A pipe out of the datacenter of `uplink`: where events go in, and where they arrive.
pub(super) fn pipe(
    flow: FlowId,
    uplink: &Arc<Uplink>,
    to: Dc,
    delay: Duration,
    limits: WindowLimits,
) -> (Outlet, Inlet) {
    let (sender, arrivals) = mpsc::unbounded_channel();
    let (window, room) = (Mutex::new(Window::new(limits)), Notify::new());
    let pipe = Arc::new(Pipe { flow, to, delay, window, room, arrivals: sender });
    (Outlet { pipe: pipe.clone(), uplink: uplink.clone() }, Inlet { pipe, arrivals })
}

/// Where the events of one direction enter the WAN.
#[derive(Debug)]
pub(super) struct Outlet {
    pipe: Arc<Pipe>,
    uplink: Arc<Uplink>,
}

impl Outlet {
    /// How many bytes may be sent now; at 0, wait for [`Outlet::wait_for_room`].
    pub(super) fn room(&self) -> usize {
        lock(&self.pipe.window).room()
    }

    /// Returns when there may be room again.
    pub(super) async fn wait_for_room(&self) {
        self.pipe.room.notified().await;
    }

    /// Sends an event; data must fit in [`Outlet::room`].
    pub(super) fn send(&self, event: Event) {
        lock(&self.pipe.window).handle_read(event.bytes());
        self.uplink.handle_event(self.pipe.clone(), event);
    }
}

/// Where the events of one direction arrive.
#[derive(Debug)]
pub(super) struct Inlet {
    pipe: Arc<Pipe>,
    arrivals: mpsc::UnboundedReceiver<Arrival>,
}

impl Inlet {
    /// The next event that left the other datacenter; it may not be due yet.
    pub(super) async fn recv(&mut self) -> Arrival {
        // The pipe itself holds a sender, so the channel stays open.
        self.arrivals.recv().await.expect("the pipe holds a sender")
    }

    /// As [`Inlet::recv`], without waiting.
    pub(super) fn try_recv(&mut self) -> Option<Arrival> {
        self.arrivals.try_recv().ok()
    }

    /// So many bytes are written to the receiver, or will never be.
    pub(super) fn written(&self, bytes: usize) {
        lock(&self.pipe.window).handle_written(bytes);
        self.pipe.room.notify_one();
    }
}

/// The link by which a datacenter sends to all others.
#[derive(Debug)]
pub(super) struct Uplink {
    clock: Clock,
    egress: Mutex<Egress<(Arc<Pipe>, Event)>>,
    wake: Notify,
    /// Bytes that left, by datacenter of destination.
    left: Vec<AtomicU64>,
}

impl Uplink {
    pub(super) fn new(clock: Clock, bytes_per_s: NonZeroU64, dcs: usize) -> Self {
        let left = (0..dcs).map(|_| AtomicU64::new(0)).collect();
        Self { clock, egress: Mutex::new(Egress::new(bytes_per_s)), wake: Notify::new(), left }
    }

    /// Bytes that have left towards `to`.
    pub(super) fn left(&self, to: Dc) -> u64 {
        self.left[to.0].load(Ordering::Relaxed)
    }

    fn handle_event(&self, pipe: Arc<Pipe>, event: Event) {
        let (flow, delay, bytes) = (pipe.flow, pipe.delay, event.bytes());
        lock(&self.egress).handle_item(flow, (pipe, event), bytes, delay, self.clock.now());
        self.wake.notify_one();
    }

    /// Drives the link until dropped.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            match self.depart() {
                Some(next) => tokio::select! {
                    () = tokio::time::sleep_until(self.clock.at(next)) => {}
                    () = self.wake.notified() => {}
                },
                None => self.wake.notified().await,
            }
        }
    }

    /// Lets go what may go now; says when to look again.
    fn depart(&self) -> Option<Duration> {
        let mut egress = lock(&self.egress);
        while let Some(departure) = egress.poll_departure(self.clock.now()) {
            let (pipe, event) = departure.item;
            self.left[pipe.to.0].fetch_add(departure.bytes as u64, Ordering::Relaxed);
            pipe.departed(event, departure.bytes, departure.arrives_at);
        }
        egress.poll_timeout()
    }
}

/// The machines behind these locks stay consistent when a holder panics: each call is one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
