//! The machine under its lock, and what a call to it causes: collected under the lock, done after it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use super::dial;
use super::port::{End, Port};
use super::socket::{self, SocketOptions};
use super::tls::{Reloaded, Tls, TlsError};
use super::waiting::{Answer, Receipts, Waiting};
use crate::id::{Datacenter, NodeId};
use crate::proto::client::Decided;
use crate::proto::node::{Action, ConnId, Node, NodeInit, NotInTopology};
use crate::proto::time::{Micros, micros};
use crate::proto::wall::WALL_READ_WITHIN_US;
use crate::settings::Settings;
use crate::stats::Status;
use crate::stats::decision::Pinged;

/// The machine panicked, which is a defect of this crate: the mesh is closed and its state is not used any more.
#[derive(Debug)]
pub(super) struct Gone;

/// Who waits for a round trip to whom.
type Pings = HashMap<NodeId, Vec<oneshot::Sender<Pinged>>>;

/// Everything behind the lock.
pub(super) struct Core {
    pub(super) node: Node,
    pub(super) waiting: Waiting,
    pub(super) receipts: Receipts,
    /// Told to waiting senders when the lock is released.
    answers: Vec<Answer>,
    /// Nothing is taken in any more, and no connection begins.
    pub(super) closed: bool,
    pub(super) draining: bool,
    /// An [`Inbox`](super::Inbox) found nothing and waits.
    pub(super) inbox_waits: bool,
    /// Who waits for round trips.
    pub(super) pings: Pings,
    ports: HashMap<ConnId, Connection>,
    /// When the timer task will wake by itself.
    armed: Micros,
}

impl Core {
    /// Who waits for what the machine will decide on no more. They are told when this is dropped, which is for after the lock: whoever is
    /// woken may be one that calls the node at once.
    #[must_use]
    fn take_undecided(&mut self) -> (Receipts, Pings) {
        (std::mem::take(&mut self.receipts), std::mem::take(&mut self.pings))
    }
}

struct Connection {
    port: Arc<Port>,
    /// Its writer has, or will look for, something to write.
    busy: bool,
}

/// One node, as its tasks and handles share it.
pub(super) struct Shared {
    /// As configured: `None` lets every encoder draw its own.
    pub(super) seed: Option<u64>,
    pub(super) local_addr: Option<SocketAddr>,
    /// Every link is within TLS; without it every link is plaintext.
    pub(super) tls: Option<Arc<Tls>>,
    /// Every link is plaintext and stays on this machine.
    pub(super) loopback: bool,
    pub(super) runtime: tokio::runtime::Handle,
    core: Mutex<Core>,
    base: Instant,
    /// Rings when a deadline came up that is earlier than the timer task knows.
    pub(super) alarm: Notify,
    pub(super) inbox: Notify,
    /// Rings while draining when nothing is left to finish or to write.
    pub(super) quiet: Notify,
    closing: watch::Sender<bool>,
    /// Every task holds a receiver: the channel closes when the last one is gone.
    tasks: watch::Sender<()>,
    pub(super) accept_errors: AtomicU64,
    lingering: AtomicUsize,
}

impl Shared {
    pub(super) fn new(
        init: NodeInit,
        seed: Option<u64>,
        local_addr: Option<SocketAddr>,
        tls: Option<Tls>,
        loopback: bool,
    ) -> Result<Arc<Self>, NotInTopology> {
        let mut node = Node::new(init, Micros(0))?;
        if tls.is_some() {
            node.require_certificates();
        }
        let core = Core {
            node,
            waiting: Waiting::default(),
            receipts: Receipts::new(),
            answers: Vec::new(),
            closed: false,
            draining: false,
            inbox_waits: false,
            pings: HashMap::new(),
            ports: HashMap::new(),
            armed: Micros(0),
        };
        Ok(Arc::new(Self {
            seed,
            local_addr,
            tls: tls.map(Arc::new),
            loopback,
            runtime: tokio::runtime::Handle::current(),
            core: Mutex::new(core),
            base: Instant::now(),
            alarm: Notify::new(),
            inbox: Notify::new(),
            quiet: Notify::new(),
            closing: watch::Sender::new(false),
            tasks: watch::Sender::new(()),
            accept_errors: AtomicU64::new(0),
            lingering: AtomicUsize::new(0),
        }))
    }

    pub(super) fn now(&self) -> Micros {
        Micros::default() + self.base.elapsed()
    }

    /// What the wall clock showed at time zero by what it shows now, µs. `None` where this thread was held up between two looks at
    /// clocks, so that it is not known.
    pub(super) fn wall_at_zero(&self) -> Option<u64> {
        let before = self.now();
        let wall_us = u64::try_from(socket::since_epoch().as_micros()).ok()?;
        (micros(self.now().since(before)) < WALL_READ_WITHIN_US).then(|| wall_us.saturating_sub(before.0))
    }

    /// The moment a time of the machine stands for; `None` for never.
    pub(super) fn instant(&self, at: Micros) -> Option<Instant> {
        (at != Micros::NEVER).then(|| self.base.checked_add(Duration::from_micros(at.0))).flatten()
    }

    /// Calls the machine, then does what that caused.
    pub(super) fn with<R>(self: &Arc<Self>, call: impl FnOnce(&mut Core, Micros) -> R) -> Result<R, Gone> {
        // Declared before the guard, so that it acts after the lock is released.
        let _tripwire = Tripwire { shared: self, panicking: std::thread::panicking() };
        let Ok(mut core) = self.core.lock() else {
            self.fail();
            return Err(Gone);
        };
        // Read under the lock: the machine never sees time go backwards.
        let now = self.now();
        let result = call(&mut core, now);
        let effects = core.collect(now);
        drop(core);
        effects.perform(self);
        Ok(result)
    }

    /// Only looks. Works on a machine that panicked, too: a post-mortem wants its numbers.
    pub(super) fn look<R>(&self, call: impl FnOnce(&Core, Micros) -> R) -> R {
        let core = self.core_even_if_poisoned();
        call(&core, self.now())
    }

    /// As they are now, for a connection that begins.
    pub(super) fn socket_options(&self) -> SocketOptions {
        self.settings(|settings| settings.into())
    }

    /// A setting as it is now: a reload may change it.
    pub(super) fn settings<R>(&self, of: impl FnOnce(&Settings) -> R) -> R {
        self.look(|core, _| of(core.node.settings()))
    }

    fn core_even_if_poisoned(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends everything without asking the machine.
    fn fail(&self) {
        let mut core = self.core_even_if_poisoned();
        if !core.closed {
            tracing::error!(
                "the mesh machine panicked: this node is closed, undecided messages fail with `closed`"
            );
        }
        core.closed = true;
        let waiting = std::mem::take(&mut core.waiting);
        let left = core.take_undecided();
        for (_, connection) in core.ports.drain() {
            connection.port.close(End::Now);
        }
        drop(core);
        drop((waiting, left));
        self.announce_closed();
    }

    /// Ends the node. `at_once`: without last words to anybody.
    pub(super) fn close(self: &Arc<Self>, at_once: bool) {
        let waiting = self.with(|core, now| {
            if at_once {
                for (_, connection) in core.ports.drain() {
                    connection.port.close(End::Now);
                }
            }
            if !core.closed {
                core.closed = true;
                core.node.close(now);
            }
            std::mem::take(&mut core.waiting)
        });
        // What the machine decided was told above. Whatever is still here would stay undecided for ever.
        let left = self.core_even_if_poisoned().take_undecided();
        drop((waiting, left));
        self.announce_closed();
    }

    fn announce_closed(&self) {
        self.closing.send_replace(true);
        self.inbox.notify_one();
        self.quiet.notify_waiters();
    }

    /// Waits for [`Shared::close`].
    pub(super) async fn closing(&self) {
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
    }

    /// Waits until the last task has ended after [`Shared::close`].
    pub(super) async fn closed(&self) {
        self.closing().await;
        self.tasks.closed().await;
    }

    /// Reads the files of certificate, key, CA and what was taken back again, on a thread that may block, and ends the
    /// connections that would not begin now.
    pub(super) async fn reload(self: &Arc<Self>) -> Result<Reloaded, TlsError> {
        let Some(tls) = self.tls.clone() else { return Ok(Reloaded::Unchanged) };
        let node = Arc::clone(self);
        let read = self.runtime.spawn_blocking(move || {
            let outcome = tls.reload();
            let ports =
                node.look(|core, _| core.ports.values().map(|of| Arc::clone(&of.port)).collect::<Vec<_>>());
            for port in ports {
                node.end_if_distrusted(&port);
            }
            outcome
        });
        read.await.unwrap_or_else(|error| Err(TlsError::Setup(error.to_string())))
    }

    /// Ends a connection, and its link, whose peer's certificate is no longer valid.
    pub(super) fn end_if_distrusted(self: &Arc<Self>, port: &Port) {
        let (Some(tls), Some(shown)) = (&self.tls, port.shown()) else { return };
        if let Some(why) = tls.wrong_with(shown) {
            let _ = self.with(|core, now| core.node.handle_distrusted(port.id, &why, now));
        }
    }

    /// Starts a task that counts as the node's.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let alive = self.tasks.subscribe();
        self.runtime.spawn(async move {
            let _alive = alive;
            task.await;
        });
    }

    /// Leave to hear a peer out that is being turned away. Limited, so that a flood of strangers is not kept.
    pub(super) fn may_linger(self: &Arc<Self>) -> Option<Lingering> {
        let limit = self.settings(|settings| settings.handshakes_max);
        let lingering = Lingering(Arc::clone(self));
        (self.lingering.fetch_add(1, Ordering::Relaxed) < limit).then_some(lingering)
    }
}

/// One of the connections that are heard out.
pub(super) struct Lingering(Arc<Shared>);

impl Drop for Lingering {
    fn drop(&mut self) {
        self.0.lingering.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A panic under the lock closes the mesh at once, rather than when the next task finds the lock poisoned.
struct Tripwire<'a> {
    shared: &'a Shared,
    panicking: bool,
}

impl Drop for Tripwire<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.panicking {
            self.shared.fail();
        }
    }
}

impl Core {
    /// Makes a new connection known.
    pub(super) fn insert(&mut self, id: ConnId) -> Arc<Port> {
        let port = Arc::new(Port::new(id));
        self.ports.insert(id, Connection { port: Arc::clone(&port), busy: false });
        port
    }

    /// The writer of a connection has something to write, or not.
    pub(super) fn set_busy(&mut self, id: ConnId, busy: bool) {
        if let Some(connection) = self.ports.get_mut(&id) {
            connection.busy = busy;
        }
    }

    /// What the machine says of the node, with what the sockets of its connections took.
    pub(super) fn status(&self, now: Micros) -> Status {
        let mut status = self.node.status(now);
        for connection in status.links.iter_mut().flat_map(|link| &mut link.connections) {
            let port = self.ports.get(&ConnId(connection.conn)).map(|of| &of.port);
            connection.socket = port.and_then(|port| port.socket().cloned());
        }
        status
    }

    /// Nothing is left to finish, and nothing to write.
    pub(super) fn is_quiet(&self) -> bool {
        self.closed || (self.node.is_drained() && self.ports.values().all(|connection| !connection.busy))
    }

    fn collect(&mut self, now: Micros) -> Effects {
        let mut effects = Effects::default();
        while let Some(action) = self.node.poll_action() {
            match action {
                Action::Ready(id) => {
                    if let Some(connection) = self.ports.get_mut(&id) {
                        connection.busy = true;
                        effects.ring.push(Arc::clone(&connection.port));
                    }
                }
                Action::Dial { conn, address, .. } if !self.closed => {
                    effects.dial.push((self.insert(conn), address));
                }
                Action::Dial { .. } => {}
                Action::Close { conn, last_words } => {
                    if let Some(connection) = self.ports.remove(&conn) {
                        effects.close.push((connection.port, last_words.map_or(End::Now, End::Words)));
                    }
                }
                Action::Room(datacenter) => self.retry_waiting(datacenter.as_ref(), now),
            }
        }
        while let Some(Decided { ticket, index, outcome, last }) = self.node.poll_decided() {
            let woken = self.receipts.get(&ticket).and_then(|receipt| receipt.decide(index, outcome));
            effects.told.extend(woken);
            if last {
                self.receipts.remove(&ticket);
            }
        }
        while let Some(pinged) = self.node.poll_pinged() {
            let waiters = self.pings.remove(&pinged.node).unwrap_or_default();
            effects.pinged.extend(waiters.into_iter().map(|waiter| (waiter, pinged.clone())));
        }
        let next = self.node.poll_timeout();
        if next < self.armed {
            self.armed = next;
            effects.alarm = true;
        }
        effects.inbox = self.inbox_waits && self.node.has_delivery();
        if effects.inbox {
            self.inbox_waits = false;
        }
        effects.answers = std::mem::take(&mut self.answers);
        effects.quiet = self.draining && self.is_quiet();
        effects
    }

    /// Somebody left the line, or budget came free: those who wait for a datacenter, or for any, may fit.
    pub(super) fn retry_waiting(&mut self, datacenter: Option<&Datacenter>, now: Micros) {
        self.waiting.retry(datacenter, &mut self.node, &mut self.receipts, now, &mut self.answers);
    }

    /// Rings what is due and says when to wake next; with what the wall clock showed at time zero, as it is now, if it could be read.
    pub(super) fn ring(&mut self, wall_at_zero: Option<u64>, now: Micros) -> Micros {
        wall_at_zero.into_iter().for_each(|base_us| self.node.set_wall(base_us));
        self.node.handle_timeout(now);
        self.armed = self.node.poll_timeout();
        self.armed
    }
}

/// What a call to the machine caused.
#[derive(Default)]
struct Effects {
    ring: Vec<Arc<Port>>,
    dial: Vec<(Arc<Port>, SocketAddr)>,
    close: Vec<(Arc<Port>, End)>,
    /// Those whose receipts have news.
    told: Vec<Waker>,
    answers: Vec<Answer>,
    pinged: Vec<(oneshot::Sender<Pinged>, Pinged)>,
    alarm: bool,
    inbox: bool,
    quiet: bool,
}

impl Effects {
    fn perform(self, shared: &Arc<Shared>) {
        // Writers first: theirs is the data path.
        for port in self.ring {
            port.bell.notify_one();
        }
        if self.inbox {
            shared.inbox.notify_one();
        }
        self.told.into_iter().for_each(Waker::wake);
        for answer in self.answers {
            answer.give();
        }
        for (waiter, pinged) in self.pinged {
            // Who waited too long wants to know nothing.
            let _ = waiter.send(pinged);
        }
        for (port, end) in self.close {
            port.close(end);
        }
        for (port, address) in self.dial {
            dial::start(shared, port, address);
        }
        if self.alarm {
            shared.alarm.notify_one();
        }
        if self.quiet {
            shared.quiet.notify_waiters();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{Config, join};
    use super::*;
    use crate::id::{ClusterId, Datacenter};
    use crate::message::{FailReason, Outcome};
    use crate::proto::client::Ticket;
    use crate::topology::{NodeSpec, Roles, Topology};

    /// A node that has nobody to talk to.
    pub(in super::super) fn lone_origin() -> Config {
        let id = NodeId::new("lone").unwrap();
        let spec = NodeSpec {
            id: id.clone(),
            datacenter: Datacenter::new("us").unwrap(),
            roles: Roles::ORIGIN,
            address: None,
        };
        Config::new(Topology::new(ClusterId::new("test").unwrap(), [spec]).unwrap(), id)
    }

    /// Puts a receipt into the books as if its batch were under way.
    fn undecided(shared: &Arc<Shared>) -> super::super::Receipt {
        let (decider, receipt) = super::super::Receipt::new(2);
        shared.with(|core, _| core.receipts.insert(Ticket(u64::MAX), decider)).unwrap();
        receipt
    }

    fn closed() -> Vec<Outcome> {
        vec![Outcome::Failed { reason: FailReason::Closed, maybe_delivered: true }; 2]
    }

    /// Looks when it is woken whether the node may be called.
    struct Caller {
        shared: Arc<Shared>,
        woken_free: std::sync::Mutex<Vec<bool>>,
    }

    impl std::task::Wake for Caller {
        fn wake(self: Arc<Self>) {
            let free = !matches!(self.shared.core.try_lock(), Err(std::sync::TryLockError::WouldBlock));
            self.woken_free.lock().unwrap().push(free);
        }
    }

    #[tokio::test]
    async fn whoever_is_woken_by_the_end_of_a_node_may_call_it_at_once() {
        for panics in [false, true] {
            let (client, _inbox) = join(lone_origin()).await.unwrap();
            let shared = Arc::clone(client.mesh().shared());
            let mut receipt = undecided(&shared);
            let caller = Arc::new(Caller { shared: Arc::clone(&shared), woken_free: Default::default() });
            let waker = std::task::Waker::from(Arc::clone(&caller));
            let mut context = std::task::Context::from_waker(&waker);
            assert!(std::pin::Pin::new(&mut receipt).poll(&mut context).is_pending());
            if panics {
                let call = std::panic::AssertUnwindSafe(|| shared.with(|_, _| panic!("a defect")));
                let _ = std::panic::catch_unwind(call);
            } else {
                shared.close(false);
            }
            let woken = caller.woken_free.lock().unwrap().clone();
            assert!(!woken.is_empty() && woken.iter().all(|free| *free), "{woken:?}");
        }
    }

    #[tokio::test]
    async fn a_panic_of_the_machine_closes_the_mesh_and_decides_every_receipt() {
        let (client, mut inbox) = join(lone_origin()).await.unwrap();
        let shared = Arc::clone(client.mesh().shared());
        let receipt = undecided(&shared);
        let call = std::panic::AssertUnwindSafe(|| shared.with(|_, _| panic!("a defect")));
        let _ = std::panic::catch_unwind(call);
        assert_eq!(receipt.await, closed());
        assert!(inbox.recv().await.is_none());
        client.mesh().closed().await;
        assert_eq!(client.mesh().status().node.as_str(), "lone", "its numbers can still be read");
    }

    #[test]
    fn a_runtime_that_goes_away_decides_every_receipt() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let carrier = runtime();
        let (client, _inbox) = carrier.block_on(join(lone_origin())).unwrap();
        let receipt = undecided(client.mesh().shared());
        drop(carrier);
        let end = async {
            assert_eq!(receipt.await, closed());
            client.mesh().closed().await;
        };
        let end = async { tokio::time::timeout(Duration::from_secs(10), end).await };
        assert!(runtime().block_on(end).is_ok(), "not pending for ever");
    }

    #[tokio::test]
    async fn connections_that_begin_after_a_reload_have_the_new_options_of_the_kernel() {
        let (client, _inbox) = join(lone_origin()).await.unwrap();
        let shared = Arc::clone(client.mesh().shared());
        let settings = Settings {
            silence_timeout: Duration::from_secs(41),
            congestion_control: "bbr".to_owned(),
            socket_buffer_bytes: 1 << 20,
            ..Settings::default()
        };
        client.mesh().set_settings(&settings).unwrap();
        let options = SocketOptions {
            silence_timeout: Duration::from_secs(41),
            congestion_control: "bbr".to_owned(),
            buffer_bytes: 1 << 20,
        };
        assert_eq!(shared.socket_options(), options);
    }

    #[tokio::test]
    async fn a_reload_changes_how_many_are_heard_out() {
        let (client, _inbox) = join(lone_origin()).await.unwrap();
        let shared = Arc::clone(client.mesh().shared());
        client.mesh().set_settings(&Settings { handshakes_max: 2, ..Settings::default() }).unwrap();
        let heard = [shared.may_linger(), shared.may_linger()];
        assert!(heard.iter().all(Option::is_some) && shared.may_linger().is_none());
    }

    #[tokio::test]
    async fn the_last_handle_closes_the_node() {
        let (client, inbox) = join(lone_origin()).await.unwrap();
        let shared = Arc::clone(client.mesh().shared());
        let receipt = undecided(&shared);
        let mesh = inbox.mesh().clone();
        drop((client, inbox));
        assert!(!shared.look(|core, _| core.closed));
        drop(mesh);
        assert_eq!(receipt.await, closed());
        shared.closed().await;
    }
}
