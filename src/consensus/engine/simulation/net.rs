//! A network with the mesh's contract: what one node sends another on one lane comes in order and at most once, before its
//! deadline or never. What is cut off waits for its deadline, as the mesh tries until then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use trunkline_mesh::{Datacenter, Delivery, FailReason, Incarnation, Lane, NodeId, Payload, SendError, Seq};

use super::super::super::carrier::{Carrier, Incoming, Outgoing, TurnedDown};
use super::super::super::replica_id::Place;
use super::super::super::tasks::scope::Scope;
use super::super::message::{Append, Appended, Body, Envelope, Lent, TERM_MAX};
use super::checker::Checker;
use super::faults::{Counts, Fault};
use super::planted::Planted;
use super::trace::Trace;
use crate::storage::EntryId;

/// When a process that stood still goes on, it comes to a connection within so many ms, and between two messages of that this many
/// pass at most: meanwhile it does what the one before says.
const TURN_MS: u64 = 40;
const APART_MS: u64 = 1;

/// A round trip and so much more after it was sent, a kernel sends again what was lost.
const RESENT_AFTER: Duration = Duration::from_millis(200);

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
    counts: Counts,
}

struct State {
    luck: fastrand::Rng,
    /// Between datacenters, one way.
    delays: BTreeMap<(Datacenter, Datacenter), Duration>,
    /// Of a thousand messages so many are lost by the line, and come a while later, with what is behind them.
    lost: u64,
    /// What is slower, so many times.
    slow: BTreeMap<(Datacenter, Datacenter), (u32, Strikes)>,
    cut: BTreeMap<(usize, usize), Strikes>,
    /// Who takes nothing on bulk: what is sent there is refused, and its sender told.
    full: BTreeMap<usize, Strikes>,
    /// Appends without entries, which tell what is committed, do not arrive there.
    untold: BTreeSet<(usize, usize)>,
    /// What these say is no part of what is checked: they are no replicas.
    outsiders: BTreeSet<usize>,
    /// Nothing takes longer than it is far.
    exact: bool,
    /// Whose proxies are gone: what goes there waits.
    stalled: BTreeMap<Datacenter, Strikes>,
    ends: BTreeMap<usize, End>,
    flows: BTreeMap<(usize, usize, usize), Flow>,
    /// The highest life of a sender that a node heard of.
    heard: BTreeMap<(usize, usize), u64>,
}

/// Whose doing it is, until the first message is struck by it.
type Strikes = Option<Fault>;

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
    turned_down: Option<TurnedDown>,
}

impl Net {
    pub(super) fn new(
        places: Vec<Place>,
        mut luck: fastrand::Rng,
        planted: Option<Planted>,
        (checker, trace, counts): (Checker, Trace, Counts),
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
            lost: 0,
            slow: BTreeMap::new(),
            exact: false,
            cut: BTreeMap::new(),
            full: BTreeMap::new(),
            untold: BTreeSet::new(),
            outsiders: BTreeSet::new(),
            stalled: BTreeMap::new(),
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
            counts,
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

    /// A node joins that is no replica, and may say anything.
    pub(super) fn join_as_outsider(&self, node: usize, scope: &Scope) -> Arc<dyn Carrier> {
        self.lock().outsiders.insert(node);
        self.join(node, 1, scope).0
    }

    /// It is gone.
    pub(super) fn leave(&self, node: usize) {
        self.lock().ends.remove(&node);
    }

    pub(super) fn cut(&self, from: usize, to: usize, fault: Fault) {
        self.lock().cut.insert((from, to), Some(fault));
    }

    /// A link has this delay, one way.
    pub(super) fn delay(&self, one: &Datacenter, other: &Datacenter, delay: Duration) {
        let mut state = self.lock();
        state.delays.insert((one.clone(), other.clone()), delay);
        state.delays.insert((other.clone(), one.clone()), delay);
    }

    /// Of a thousand messages between datacenters so many are lost by the line, which sends them again.
    pub(super) fn lose(&self, per_mille: u64) {
        self.lock().lost = per_mille;
    }

    /// A node takes nothing on bulk, or does again.
    pub(super) fn fill(&self, node: usize, full: bool) {
        let mut state = self.lock();
        if full {
            state.full.insert(node, Some(Fault::Refuse))
        } else {
            state.full.remove(&node)
        };
    }

    /// What a leader sends a node without entries, as it tells what is committed, does not arrive, or does again.
    pub(super) fn leave_untold(&self, (from, to): (usize, usize), untold: bool) {
        let mut state = self.lock();
        if untold {
            state.untold.insert((from, to))
        } else {
            state.untold.remove(&(from, to))
        };
    }

    pub(super) fn stall(&self, datacenter: &Datacenter) {
        self.lock().stalled.insert(datacenter.clone(), Some(Fault::NoProxies));
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
        self.lock().slow.insert((from.clone(), to.clone()), (times, Some(Fault::SlowLink)));
    }

    /// Nothing is cut, stalled or slow.
    pub(super) fn heal(&self) {
        let mut state = self.lock();
        state.cut.clear();
        state.stalled.clear();
        state.full.clear();
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
        if self.0.planted == Some(Planted::LentOlder) {
            lend_older(&mut outgoing.payload);
        }
        let mut state = self.lock();
        if state.untold.contains(&(from, to))
            && let Ok(Envelope { body: Body::Append(append), .. }) = Envelope::decode(&outgoing.payload)
            && append.entries.is_empty()
        {
            return;
        }
        let pair = (self.0.places[from].datacenter.clone(), self.0.places[to].datacenter.clone());
        let times = state.slow.get_mut(&pair).map_or(1, |(times, strikes)| {
            self.strikes(strikes);
            *times
        });
        let delay = state.delays[&pair] * times;
        let jitter = Duration::from_micros(state.luck.u64(0..200) * (1 + state.luck.u64(0..200) / 195 * 40));
        let jitter = if state.exact { Duration::ZERO } else { jitter };
        let lost = pair.0 != pair.1 && state.lost > 0 && state.luck.u64(0..1_000) < state.lost;
        let again = if lost { delay * 2 + RESENT_AFTER } else { Duration::ZERO };
        if let Some(strikes) = state.full.get_mut(&to).filter(|_| lane == Lane::Bulk) {
            self.strikes(strikes);
            if let Some(tell) = outgoing.turned_down {
                let told = Instant::now() + 2 * delay;
                tokio::spawn(async move {
                    sleep_until(told).await;
                    let _ = tell.send(FailReason::Refused);
                });
            }
            return;
        }
        // The mesh fails what was on its way to an earlier life, or it was not written yet.
        let lost_if_restarted = state.luck.bool().then(|| state.ends.get(&to).map(|end| end.life)).flatten();
        let flow = state.flows.entry((from, to, lane.index())).or_insert_with(|| {
            let (queue, flights) = mpsc::unbounded_channel();
            let (buffer, arrived) = mpsc::unbounded_channel();
            tokio::spawn(self.clone().carry((from, to), (flights, buffer)));
            tokio::spawn(self.clone().read((from, to, lane), arrived));
            Flow { last: Instant::now(), seq: 0, queue }
        });
        flow.last = flow.last.max(Instant::now() + delay + jitter + again);
        flow.seq += 1;
        let flight = Flight {
            at: flow.last,
            deadline: Instant::now() + outgoing.patience,
            life,
            lost_if_restarted,
            seq: flow.seq,
            payload: outgoing.payload,
            turned_down: outgoing.turned_down,
        };
        // It is taken as long as the run lasts.
        let _ = flow.queue.send(flight);
    }

    /// Of a node that refuses a vote in a term in which it voted: it gives that one too.
    fn vote_again(&self, node: usize, payload: &mut Payload) {
        let Ok(mut envelope) = Envelope::decode(payload) else { return };
        if let (Body::Voted { vote, granted, .. }, Some(to)) = (&mut envelope.body, envelope.to)
            && !*granted
            && let Some(asked) = self.0.checker.asked_for(node, (to, envelope.call))
            && asked.leader_id.term == vote.leader_id.term
        {
            (*vote, *granted) = (asked, true);
            *payload = envelope.encode();
        }
    }

    /// Brings what a flow has into the buffers of the receiver, one after the other.
    async fn carry(
        self,
        (from, to): (usize, usize),
        (mut flights, buffer): (mpsc::UnboundedReceiver<Flight>, mpsc::UnboundedSender<(Instant, Flight)>),
    ) {
        while let Some(flight) = flights.recv().await {
            sleep_until(flight.at).await;
            loop {
                let healed = self.0.healed.notified();
                if !self.is_held(from, to) {
                    // It is read as long as the run lasts.
                    let _ = buffer.send((Instant::now(), flight));
                    break;
                }
                if timeout_at(flight.deadline, healed).await.is_err() {
                    flight.turned_down.map(|tell| tell.send(FailReason::Expired));
                    break;
                }
            }
        }
    }

    /// The receiver takes what is in its buffers: at once, but for what came while it stood still. That it comes to when it goes on, one
    /// message after the other.
    async fn read(
        self,
        (from, to, lane): (usize, usize, Lane),
        mut arrived: mpsc::UnboundedReceiver<(Instant, Flight)>,
    ) {
        let mut turn = None;
        while let Some((at, flight)) = arrived.recv().await {
            let scope = self.lock().ends.get(&to).map(|end| end.scope.clone());
            if let Some(scope) = scope
                && let Some(went_on) = scope.pause_since(at).await
            {
                let most = if turn.replace(went_on) == Some(went_on) { APART_MS } else { TURN_MS };
                let wait = Duration::from_millis(self.lock().luck.u64(0..=most));
                sleep(wait).await;
            }
            self.deliver((from, to, lane), flight);
        }
    }

    fn is_held(&self, from: usize, to: usize) -> bool {
        let mut state = self.lock();
        let far = self.0.places[from].datacenter != self.0.places[to].datacenter;
        if !state.ends.contains_key(&to) {
            return true;
        }
        let state = &mut *state;
        let cut = state.cut.get_mut(&(from, to));
        let stalled = state.stalled.get_mut(&self.0.places[to].datacenter).filter(|_| far);
        cut.or(stalled).map(|strikes| self.strikes(strikes)).is_some()
    }

    fn strikes(&self, strikes: &mut Strikes) {
        strikes.take().into_iter().for_each(|fault| self.0.counts.struck(fault));
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
        let (killed, outsider) = (end.scope.is_killed(), state.outsiders.contains(&from));
        drop(state);
        if killed {
            return;
        }
        let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &delivery.payload.to_vec());
        self.0.trace.note(format_args!("{from} to {to} on {}: {sum:x}", lane.index()));
        if !outsider {
            self.0.checker.arrived(to, &delivery.payload);
        }
        let _ = inbox.send(delivery);
    }
}

/// Who is asked for a snapshot takes any for new enough, and the leader does.
fn lend_older(payload: &mut Payload) {
    let Ok(mut envelope) = Envelope::decode(payload) else { return };
    match &mut envelope.body {
        Body::Lend(lend) => lend.last = EntryId { term: 0, index: 0 },
        Body::Lent(Lent::Installed { last, .. }) => last.term = TERM_MAX,
        _ => return,
    }
    *payload = envelope.encode();
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
        for mut outgoing in messages {
            if !self.scope.is_killed() {
                if self.net.0.planted == Some(Planted::TwoVotes) {
                    self.net.vote_again(self.node, &mut outgoing.payload);
                }
                if !self.net.lock().outsiders.contains(&self.node) {
                    self.net.0.checker.leaves(self.node, lane, &outgoing.payload);
                }
                self.net.send((self.node, self.life), lane, outgoing);
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn place(&self, node: &NodeId) -> Option<Place> {
        self.net.index_of(node).map(|index| self.net.0.places[index].clone())
    }
}
