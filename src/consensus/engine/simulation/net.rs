//! A network with the mesh's contract: what one node sends another on one lane comes in order and at most once, before its
//! deadline or never. What is cut off waits for its deadline, as the mesh tries until then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout_at};
use trunkline_mesh::{Datacenter, Delivery, Incarnation, Lane, NodeId, Payload, SendError, Seq};

use super::super::super::carrier::{Carrier, Incoming, Outgoing};
use super::super::super::replica_id::Place;
use super::super::super::tasks::scope::Scope;
use super::super::message::{Append, Appended, Body, Envelope};
use super::checker::Checker;
use super::planted::Planted;
use super::trace::Trace;

/// Clones are the same.
#[derive(Clone)]
pub(super) struct Net(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Rings when something got better.
    healed: Notify,
    places: Vec<Place>,
    planted: Option<Planted>,
    checker: Checker,
    trace: Trace,
}

struct State {
    luck: fastrand::Rng,
    /// Between datacenters, one way.
    delays: BTreeMap<(Datacenter, Datacenter), Duration>,
    /// What is slower, so many times.
    slow: BTreeMap<(Datacenter, Datacenter), u32>,
    /// Nothing takes longer than it is far.
    exact: bool,
    cut: BTreeSet<(usize, usize)>,
    /// Whose proxies are gone: what goes there waits.
    stalled: BTreeSet<Datacenter>,
    ends: BTreeMap<usize, End>,
    flows: BTreeMap<(usize, usize, usize), Flow>,
    /// The highest life of a sender that a node heard of.
    heard: BTreeMap<(usize, usize), u64>,
}

struct End {
    life: u64,
    scope: Scope,
    inbox: mpsc::UnboundedSender<Delivery>,
}

struct Flow {
    last: Instant,
    seq: u64,
    queue: mpsc::UnboundedSender<Flight>,
}

struct Flight {
    at: Instant,
    deadline: Instant,
    life: u64,
    /// Of the receiver when it was sent; one that was restarted since then may not get it.
    lost_if_restarted: Option<u64>,
    seq: u64,
    payload: Payload,
}

impl Net {
    pub(super) fn new(
        places: Vec<Place>,
        mut luck: fastrand::Rng,
        planted: Option<Planted>,
        (checker, trace): (Checker, Trace),
    ) -> Self {
        let datacenters: BTreeSet<_> = places.iter().map(|place| place.datacenter.clone()).collect();
        let mut delays = BTreeMap::new();
        for from in &datacenters {
            for to in datacenters.range(from..) {
                let far = Duration::from_micros(luck.u64(5_000..110_000));
                let delay = if from == to { Duration::from_micros(300) } else { far };
                delays.insert((from.clone(), to.clone()), delay);
                delays.insert((to.clone(), from.clone()), delay);
            }
        }
        let state = State {
            luck,
            delays,
            slow: BTreeMap::new(),
            exact: false,
            cut: BTreeSet::new(),
            stalled: BTreeSet::new(),
            ends: BTreeMap::new(),
            flows: BTreeMap::new(),
            heard: BTreeMap::new(),
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            healed: Notify::new(),
            places,
            planted,
            checker,
            trace,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_of(&self, node: &NodeId) -> Option<usize> {
        self.0.places.iter().position(|place| place.node == *node)
    }

    /// A node joins, in a new life.
    pub(super) fn join(&self, node: usize, life: u64, scope: &Scope) -> (Arc<dyn Carrier>, Incoming) {
        let (inbox, arrived) = mpsc::unbounded_channel();
        self.lock().ends.insert(node, End { life, scope: scope.clone(), inbox });
        self.0.healed.notify_waiters();
        let incoming = stream::unfold(arrived, |mut arrived| async {
            arrived.recv().await.map(|delivery| (delivery, arrived))
        });
        (Arc::new(Port { net: self.clone(), node, life, scope: scope.clone() }), Box::pin(incoming))
    }

    /// It is gone.
    pub(super) fn leave(&self, node: usize) {
        self.lock().ends.remove(&node);
    }

    pub(super) fn cut(&self, from: usize, to: usize) {
        self.lock().cut.insert((from, to));
    }

    pub(super) fn stall(&self, datacenter: &Datacenter) {
        self.lock().stalled.insert(datacenter.clone());
    }

    pub(super) fn unstall(&self, datacenter: &Datacenter) {
        self.lock().stalled.remove(datacenter);
        self.0.healed.notify_waiters();
    }

    /// This is how far it is between two datacenters; nothing comes late, and inside of one there is no distance.
    pub(super) fn set_exact(&self, one: &Datacenter, other: &Datacenter, delay: Duration) {
        let mut state = self.lock();
        state.exact = true;
        state.delays.insert((one.clone(), other.clone()), delay);
        state.delays.insert((other.clone(), one.clone()), delay);
        state.delays.iter_mut().filter(|((from, to), _)| from == to).for_each(|(_, of)| *of = Duration::ZERO);
    }

    pub(super) fn slow(&self, from: &Datacenter, to: &Datacenter, times: u32) {
        self.lock().slow.insert((from.clone(), to.clone()), times);
    }

    /// Nothing is cut, stalled or slow.
    pub(super) fn heal(&self) {
        let mut state = self.lock();
        state.cut.clear();
        state.stalled.clear();
        state.slow.clear();
        drop(state);
        self.0.healed.notify_waiters();
    }

    fn send(&self, (from, life): (usize, u64), lane: Lane, mut outgoing: Outgoing) {
        let Some(mut to) = self.index_of(&outgoing.to) else { return };
        let (mut from, mut life) = (from, life);
        if self.0.planted == Some(Planted::AckBeforeQuorum)
            && let Ok(Envelope { from: leader, to: Some(follower), call, seq, body }) =
                Envelope::decode(&outgoing.payload)
            && matches!(&body, Body::Append(Append { entries, .. }) if !entries.is_empty())
        {
            let body = Body::Appended(Appended::Done);
            outgoing.payload = Envelope { from: follower, to: Some(leader), call, seq, body }.encode();
            (from, to) = (to, from);
            life = self.lock().ends.get(&from).map_or(0, |end| end.life);
        }
        let mut state = self.lock();
        let pair = (self.0.places[from].datacenter.clone(), self.0.places[to].datacenter.clone());
        let delay = state.delays[&pair] * state.slow.get(&pair).copied().unwrap_or(1);
        let jitter = Duration::from_micros(state.luck.u64(0..200) * (1 + state.luck.u64(0..200) / 195 * 40));
        let jitter = if state.exact { Duration::ZERO } else { jitter };
        // The mesh fails what was on its way to an earlier life, or it was not written yet.
        let lost_if_restarted = state.luck.bool().then(|| state.ends.get(&to).map(|end| end.life)).flatten();
        let flow = state.flows.entry((from, to, lane.index())).or_insert_with(|| {
            let (queue, flights) = mpsc::unbounded_channel();
            tokio::spawn(self.clone().carry((from, to, lane), flights));
            Flow { last: Instant::now(), seq: 0, queue }
        });
        flow.last = flow.last.max(Instant::now() + delay + jitter);
        flow.seq += 1;
        let flight = Flight {
            at: flow.last,
            deadline: Instant::now() + outgoing.patience,
            life,
            lost_if_restarted,
            seq: flow.seq,
            payload: outgoing.payload,
        };
        // It is taken as long as the run lasts.
        let _ = flow.queue.send(flight);
    }

    /// Brings what a flow has, one after the other.
    async fn carry(
        self,
        (from, to, lane): (usize, usize, Lane),
        mut flights: mpsc::UnboundedReceiver<Flight>,
    ) {
        while let Some(flight) = flights.recv().await {
            sleep_until(flight.at).await;
            loop {
                let healed = self.0.healed.notified();
                if !self.is_held(from, to) {
                    self.deliver((from, to, lane), flight);
                    break;
                }
                if timeout_at(flight.deadline, healed).await.is_err() {
                    break;
                }
            }
        }
    }

    fn is_held(&self, from: usize, to: usize) -> bool {
        let state = self.lock();
        let far = self.0.places[from].datacenter != self.0.places[to].datacenter;
        state.cut.contains(&(from, to))
            || !state.ends.contains_key(&to)
            || (far && state.stalled.contains(&self.0.places[to].datacenter))
    }

    fn deliver(&self, (from, to, lane): (usize, usize, Lane), flight: Flight) {
        let mut state = self.lock();
        let heard = state.heard.entry((from, to)).or_default();
        if flight.life < *heard {
            return;
        }
        *heard = flight.life;
        let Some(end) = state.ends.get(&to) else { return };
        if flight.lost_if_restarted.is_some_and(|life| life != end.life) {
            return;
        }
        let delivery = Delivery {
            origin: self.0.places[from].node.clone(),
            origin_incarnation: Incarnation(flight.life),
            lane,
            seq: Seq(flight.seq),
            kind: 0,
            payload: flight.payload,
        };
        let inbox = end.inbox.clone();
        let killed = end.scope.is_killed();
        drop(state);
        if killed {
            return;
        }
        let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &delivery.payload.to_vec());
        self.0.trace.note(format_args!("{from} to {to} on {}: {sum:x}", lane.index()));
        self.0.checker.arrived(to, &delivery.payload);
        let _ = inbox.send(delivery);
    }
}

/// A node's end of it.
struct Port {
    net: Net,
    node: usize,
    life: u64,
    scope: Scope,
}

impl Carrier for Port {
    fn send(
        &self,
        _datacenter: &Datacenter,
        lane: Lane,
        messages: Vec<Outgoing>,
    ) -> BoxFuture<'_, Result<(), SendError>> {
        for outgoing in messages {
            if !self.scope.is_killed() {
                self.net.0.checker.leaves(self.node, lane, &outgoing.payload);
                self.net.send((self.node, self.life), lane, outgoing);
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn place(&self, node: &NodeId) -> Option<Place> {
        self.net.index_of(node).map(|index| self.net.0.places[index].clone())
    }
}
