//! One node: its links and whatever roles the topology gives it, as one machine. The shell's only counterpart.
//!
//! The shell reads bytes, cuts them with a [`FrameReader`](super::frame::FrameReader) of its own and calls
//! [`Node::handle_frame`]; it drains [`Node::poll_action`], [`Node::poll_decided`] and [`Node::poll_delivery`] after every
//! call; it asks [`Node::poll_transmit`] for a connection that was named by [`Action::Ready`] and whose writer is idle, and
//! reports [`Node::handle_written`]. Encoding stands between the two, so that no codec work runs inside the machine.

mod faults;
#[cfg(feature = "sim")]
mod kept;
mod members;
mod outages;
mod ping;
mod shown;
mod unreached;
mod untaken;
mod writing;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

use self::outages::Outages;
pub use self::ping::PingError;
use self::unreached::Unreached;
use self::untaken::Untaken;
use super::client::{Client, Decided, Ignored, Ticket};
pub use super::frame::Opened;
use super::frame::{FrameError, Received, SealedBatch, Token};
use super::handshake::Identity;
pub use super::links::{Action, ConnId};
use super::links::{Arrived, Breach, LinkEvent, LinkId, Links};
use super::member::{ArrivedRun, Member};
use super::proxy::{ForwardedRun, Proxy};
use super::run::payload_of;
use super::time::{Micros, micros};
use super::verdict::OwnLag;
use super::window::{FRAME_MESSAGES_MAX, Upstream};
use super::wire::{Ack, Envelope, Offer};
use crate::id::{Incarnation, Lane, NodeId, SpiffeId};
use crate::message::{Batch, Delivery};
use crate::settings::Settings;
use crate::stats::Histogram;
use crate::stats::decision::Pinged;
use crate::topology::Topology;

/// What a node is made from.
#[derive(Clone, Debug)]
pub struct NodeInit {
    /// Who is in the cluster.
    pub topology: Arc<Topology>,
    /// Which of them this is.
    pub node: NodeId,
    /// Its life; from the wall clock in µs.
    pub incarnation: Incarnation,
    /// Limits and timers, checked.
    pub settings: Settings,
    /// For jitter.
    pub seed: u64,
    /// The wall clock at time zero, µs.
    pub wall_base_us: u64,
}

/// A node that is not in its own topology.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node `{0}` is not in the topology")]
pub struct NotInTopology(pub NodeId);

/// A batch that was not taken, and why.
#[derive(Debug)]
pub struct Rejected {
    /// The batch, whole.
    pub batch: Batch,
    /// Why.
    pub reason: RejectReason,
}

/// Why a batch was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RejectReason {
    /// A budget is used up; [`Action::Room`] tells when to try again.
    Busy {
        /// Bytes charged to the datacenter now.
        queued_bytes: u64,
    },
    /// The batch alone is over the datacenter's budget and will never fit.
    OverBudget {
        /// Bytes the batch would be charged.
        batch_bytes: u64,
        /// The budget, bytes.
        budget_bytes: u64,
    },
    /// No such datacenter in the topology.
    UnknownDatacenter,
    /// This node is no origin.
    NotOrigin,
    /// This node is going away.
    Closed,
}

/// What is to be written next to one connection: frames as they are, then batches to be encoded.
#[derive(Debug, Default)]
pub struct Transmit {
    /// Whole frames.
    pub frames: Vec<Bytes>,
    /// Batches, in order, behind the frames.
    pub batches: Vec<SealedBatch>,
}

impl Transmit {
    /// Nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.batches.is_empty()
    }
}

/// The machine.
pub struct Node {
    links: Links,
    client: Option<Client>,
    proxy: Option<Proxy>,
    member: Option<Member>,
    acks_ignored: u64,
    busy: u64,
    lag: Histogram,
    /// How late this process was of late.
    own_lag: OwnLag,
    started_at: Micros,
    draining: bool,
    pinged: VecDeque<Pinged>,
    outages: Outages,
    unreached: Unreached,
    untaken: Untaken,
}

impl Node {
    /// A node with the roles its topology gives it. It dials whom it needs from now on.
    ///
    /// # Errors
    /// [`NotInTopology`].
    pub fn new(init: NodeInit, now: Micros) -> Result<Self, NotInTopology> {
        let NodeInit { topology, node, incarnation, settings, seed, wall_base_us } = init;
        let spec = topology.node(&node).ok_or_else(|| NotInTopology(node.clone()))?.clone();
        let me = Identity {
            cluster: topology.cluster().clone(),
            node: spec.id.clone(),
            datacenter: spec.datacenter.clone(),
            roles: spec.roles,
            incarnation,
            offer: Offer::default(),
        };
        let mut links = Links::new(me, Arc::clone(&topology), settings.clone(), seed, wall_base_us);
        let member = spec.roles.member.then(|| Member::new(settings.clone()));
        let proxy = spec.roles.proxy.then(|| {
            let members = topology.members_of(&spec.datacenter).filter(|member| member.id != spec.id);
            let peers: Vec<_> = members.filter_map(|member| links.peer(&member.id)).collect();
            for peer in &peers {
                links.want(*peer, now);
            }
            Proxy::new(settings.clone(), peers)
        });
        let client = spec.roles.origin.then(|| Client::new(&topology, settings, &mut links, now));
        let (acks_ignored, busy, draining) = (0, 0, false);
        Ok(Self {
            links,
            client,
            proxy,
            member,
            acks_ignored,
            busy,
            lag: Histogram::default(),
            own_lag: OwnLag::default(),
            started_at: now,
            draining,
            pinged: VecDeque::new(),
            outages: Outages::default(),
            unreached: Unreached::default(),
            untaken: Untaken::default(),
        })
    }

    /// Offers something else than this build has, to be a peer of another version: for tests of version steps. Before the
    /// first connection.
    pub fn set_offer(&mut self, offer: Offer) {
        self.links.me.offer = offer;
    }

    /// The wall clock was read again, and showed this at time zero, µs: it may have been set. Offsets of peers' clocks and the times
    /// that people read follow it; nothing else does.
    pub fn set_wall(&mut self, base_us: u64) {
        self.links.set_wall(base_us);
    }

    /// Who is in the cluster now.
    #[must_use]
    pub fn topology(&self) -> &Arc<Topology> {
        self.links.topology()
    }

    /// Limits and timers.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        self.links.settings()
    }

    /// This node's life. Changes when a peer has seen a higher one.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.links.me.incarnation
    }

    /// Takes a batch in. What becomes of its messages comes from [`Node::poll_decided`] under the ticket.
    ///
    /// # Errors
    /// [`Rejected`] gives the batch back.
    pub fn submit(&mut self, batch: Batch, now: Micros) -> Result<Ticket, Rejected> {
        let result = self.submit_again(batch, now);
        if matches!(&result, Err(Rejected { reason: RejectReason::Busy { .. }, .. })) {
            self.busy += 1;
        }
        result
    }

    /// As [`Node::submit`], for a batch that was turned down before: a sender that waits counts as busy once.
    ///
    /// # Errors
    /// [`Rejected`] gives the batch back.
    pub fn submit_again(&mut self, batch: Batch, now: Micros) -> Result<Ticket, Rejected> {
        let Some(client) = self.client.as_mut() else {
            return Err(Rejected { batch, reason: RejectReason::NotOrigin });
        };
        if self.draining {
            return Err(Rejected { batch, reason: RejectReason::Closed });
        }
        let result = client.submit(batch, &mut self.links, now);
        // A message that was replaced or turned down gave its bytes back: those who wait may fit now.
        self.settle(now);
        result
    }

    /// A sender was turned away, or has to wait, because others wait before it.
    pub fn count_busy(&mut self) {
        self.busy += 1;
    }

    /// Something went wrong on a connection before its link was up: for people. Gives the peer, if that is known.
    pub fn note_trouble(&mut self, conn: ConnId, why: &str, now: Micros) -> Option<&NodeId> {
        self.links.note_trouble(conn, why, now)
    }

    /// A round trip that is done.
    pub fn poll_pinged(&mut self) -> Option<Pinged> {
        self.pinged.pop_front().or_else(|| self.client.as_mut()?.poll_pinged())
    }

    /// What became of the next message, as soon as it is known.
    pub fn poll_decided(&mut self) -> Option<Decided> {
        self.client.as_mut()?.poll_decided()
    }

    /// The next message for the application. Taking it makes room.
    pub fn poll_delivery(&mut self, now: Micros) -> Option<Delivery> {
        self.member.as_mut()?.poll_delivery(&mut self.links, now)
    }

    /// [`Node::poll_delivery`] has something.
    #[must_use]
    pub fn has_delivery(&self) -> bool {
        self.member.as_ref().is_some_and(Member::has_delivery)
    }

    /// What was handed over since this was asked last, still in the inbox: for a checker.
    #[cfg(feature = "sim")]
    pub fn peek_new_deliveries(&mut self) -> Vec<Delivery> {
        self.member.as_mut().map(Member::peek_new).unwrap_or_default()
    }

    /// [`Node::poll_action`] has something.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn has_action(&self) -> bool {
        self.links.has_action()
    }

    /// A connection came in.
    ///
    /// # Errors
    /// The last words to write before it is closed: there are too many.
    pub fn handle_accepted(&mut self, from: IpAddr, now: Micros) -> Result<ConnId, Bytes> {
        self.links.handle_accepted(from, now)
    }

    /// From now on nobody is linked who did not prove who it is: a connection without [`Node::handle_certified`] is refused.
    pub fn require_certificates(&mut self) {
        self.links.require_certificates();
    }

    /// The peer of a new connection proved, with a certificate, who it is. Comes before the first byte that it says, and
    /// before [`Node::handle_dialed`]. Without it nothing is known of the peer but what it says.
    pub fn handle_certified(&mut self, conn: ConnId, certified: SpiffeId, now: Micros) {
        self.links.handle_certified(conn, certified, now);
        self.settle(now);
    }

    /// A dial succeeded.
    pub fn handle_dialed(&mut self, conn: ConnId, now: Micros) {
        self.links.handle_dialed(conn, now);
    }

    /// A dial failed.
    pub fn handle_dial_failed(&mut self, conn: ConnId, now: Micros) {
        self.links.handle_dial_failed(conn, now);
        self.settle(now);
    }

    /// A connection ended: end of stream, or an error of the socket.
    pub fn handle_closed(&mut self, conn: ConnId, now: Micros) {
        self.links.handle_closed(conn, now);
        self.settle(now);
    }

    /// The certificate of a connection's peer is no longer valid, for this reason.
    pub fn handle_distrusted(&mut self, conn: ConnId, why: &str, now: Micros) {
        self.links.handle_distrusted(conn, why, now);
        self.settle(now);
    }

    /// The peer's bytes are no frames; the connection is closed with a refusal.
    pub fn handle_bad_frame(&mut self, conn: ConnId, error: &FrameError, now: Micros) {
        self.links.handle_bad_frame(conn, error, now);
        self.settle(now);
    }

    /// What came ends within a frame: see [`Links::handle_partial`].
    pub fn handle_partial(&mut self, conn: ConnId, control_bytes: Option<usize>, came: usize, now: Micros) {
        self.links.handle_partial(conn, control_bytes, came, now);
    }

    /// A batch that [`Node::poll_transmit`] gave fits no frame: a defect of this node. The connection is closed, for later
    /// frames may build on the one that is missing; the messages fail, or they would end every connection of every way.
    pub fn handle_unencodable(&mut self, conn: ConnId, token: Token, error: &FrameError, now: Micros) {
        if let (Token::Attempt(attempt), Some(client)) = (token, self.client.as_mut()) {
            client.give_up_attempt(attempt);
        }
        self.handle_bad_frame(conn, error, now);
    }

    /// A frame came, `bytes` long on the wire.
    pub fn handle_frame(
        &mut self,
        conn: ConnId,
        received: Received,
        bytes: usize,
        now: Micros,
    ) -> Option<Opened> {
        let mut opened = None;
        match self.links.handle_frame(conn, received, bytes, now) {
            Arrived::Nothing => {}
            Arrived::Opened(just) => opened = Some(just),
            Arrived::Batch { link, conn, lane, envelope, frame } => {
                // A short frame may expand to a long one, and take much from what came earlier.
                let buffer_bytes = bytes.max(frame.buffer_bytes());
                self.take_batch(link, conn, lane, envelope, &frame, buffer_bytes, now);
            }
            Arrived::Ack { link, ack } => self.take_ack(link, ack, now),
        }
        self.settle(now);
        opened
    }

    #[allow(clippy::too_many_arguments)]
    fn take_batch(
        &mut self,
        link: LinkId,
        conn: ConnId,
        lane: Lane,
        envelope: Envelope,
        frame: &trunkline_codec::Frame,
        buffer_bytes: usize,
        now: Micros,
    ) {
        if let Some(proxy) = self.proxy.as_mut() {
            proxy.stats.frames += 1;
            if proxy.is_frozen() {
                return;
            }
        }
        let mut messages = 0_u64;
        for (index, run) in envelope.runs.into_iter().enumerate() {
            let Some(flow) = self.links.flow_in(conn, run.flow).cloned() else {
                return self.links.handle_unknown_row(conn, now);
            };
            let upstream = Upstream { link, row: run.flow };
            let mine = flow.destination == self.links.me.node;
            if let Some(member) = self.member.as_mut().filter(|_| mine) {
                let arrived = ArrivedRun { upstream, lane, flow: &flow, run, buffer_bytes };
                if messages >= FRAME_MESSAGES_MAX {
                    member.turn_away(&arrived, &mut self.links, now);
                    continue;
                }
                messages += u64::from(run.count);
                let taken = member.handle_run(&arrived, frame.message(index), &mut self.links, now);
                // An empty run asks, by whatever way it likes: answers do not follow it.
                if let Some(client) = self.client.as_mut().filter(|_| taken && run.count > 0) {
                    client.handle_heard(&flow.origin, link, &mut self.links, now);
                }
            } else if let Some(proxy) = self.proxy.as_mut() {
                let payload = payload_of(frame, index);
                let run = ForwardedRun { upstream, lane, flow, run, payload, buffer_bytes };
                proxy.handle_run(run, &mut self.links, now);
            } else {
                super::proxy::refuse_not_served(upstream, lane, run, &mut self.links, now);
                self.member.iter_mut().for_each(Member::count_not_served);
            }
        }
    }

    fn take_ack(&mut self, link: LinkId, ack: Ack, now: Micros) {
        for entry in ack.flows {
            let row = Lane::from_index(entry.lane).and_then(|lane| {
                let roster = self.links.roster_out(link, lane)?;
                let flow = roster.flow(entry.flow)?;
                let own = roster.own(entry.flow).map(|ix| (ix, flow.origin_incarnation));
                // Names are for those that it is passed back to.
                Some((lane, own.ok_or_else(|| Arc::clone(flow))))
            });
            let heeded = match (row, self.client.as_mut(), self.proxy.as_mut()) {
                (Some((_, Ok(own))), Some(client), _) => {
                    client.handle_ack(link, own, &entry, &mut self.links, now)
                }
                (Some((lane, Err(flow))), _, Some(proxy)) if flow.origin != self.links.me.node => {
                    if let Some(peer) = self.links.peer(&flow.destination) {
                        proxy.handle_ack(peer, &flow, lane, entry, &mut self.links, now);
                    }
                    Ok(())
                }
                _ => Err(Ignored::Nonsense),
            };
            let Err(ignored) = heeded else { continue };
            self.acks_ignored += 1;
            if ignored == Ignored::Nonsense {
                self.links.note_breach(link, Breach::Ack);
            }
        }
    }

    /// Passes what became of links on to the roles.
    fn settle(&mut self, now: Micros) {
        while let Some(event) = self.links.poll_event() {
            self.outages.hurry();
            match event {
                LinkEvent::Up(link) => {
                    self.links.tell_up(link);
                    if let Some(proxy) = self.proxy.as_mut() {
                        proxy.handle_link_up(link, &self.links);
                    }
                    if let Some(client) = self.client.as_mut() {
                        client.handle_link_up(link, &mut self.links, now);
                    }
                    if let Some(member) = self.member.as_mut() {
                        member.handle_link_up(link, &mut self.links, now);
                    }
                }
                LinkEvent::Down { link, peer, dialled, why } => {
                    self.links.tell_down(peer, dialled, why);
                    if let Some(proxy) = self.proxy.as_mut() {
                        proxy.handle_link_down(link, &mut self.links, now);
                    }
                    if let Some(client) = self.client.as_mut() {
                        client.handle_link_down(link, peer, &mut self.links, now);
                    }
                }
                LinkEvent::Draining(link) => {
                    if let Some(client) = self.client.as_mut() {
                        client.handle_draining(link, &mut self.links, now);
                    }
                }
                LinkEvent::Pinged { peer, rtt } => self.pinged.push_back(Pinged {
                    node: self.links.spec(peer).id.clone(),
                    way: "link",
                    proxy: None,
                    rtt_us: micros(rtt),
                    attempts: 1,
                    clock_offset_us: self.links.clock_offset_us(peer),
                }),
                LinkEvent::DialFailed(peer) => {
                    if let Some(client) = self.client.as_mut() {
                        client.handle_dial_failed(peer, &mut self.links, now);
                    }
                }
                LinkEvent::Reincarnated(incarnation) => {
                    tracing::warn!(
                        incarnation = incarnation.0,
                        "a peer knew a later life of this node: moved past it"
                    );
                    if let Some(client) = self.client.as_mut() {
                        client.handle_reincarnated(&mut self.links, now);
                    }
                }
            }
        }
        for datacenter in self.client.as_mut().map_or_else(Vec::new, Client::take_room) {
            self.links.push_action(Action::Room(Some(datacenter)));
        }
    }

    /// What the shell is to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.links.poll_action()
    }

    /// Rings what is due.
    pub fn handle_timeout(&mut self, now: Micros) {
        let due = self.poll_timeout();
        if due <= now {
            self.lag.observe(micros(now.since(due)));
        }
        if let Some(lag) = self.own_lag.note(due, now) {
            self.links.forgive(lag, now);
        }
        self.links.handle_timeout(now);
        self.settle(now);
        self.proxy.iter_mut().for_each(|proxy| proxy.handle_timeout(&mut self.links, now));
        if let Some(client) = self.client.as_mut() {
            client.handle_timeout(self.own_lag.grace(now), &mut self.links, now);
        }
        self.settle(now);
        self.tell_outages(now);
        self.tell_unreached(now);
        self.tell_untaken(now);
    }

    /// When [`Node::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Micros {
        let client = self.client.as_ref().map_or(Micros::NEVER, Client::poll_timeout);
        let proxy = self.proxy.as_ref().map_or(Micros::NEVER, Proxy::poll_timeout);
        self.links.poll_timeout().min(client).min(proxy)
    }

    /// Begins to go away: nothing new is taken in, peers are told, what is there is finished.
    pub fn drain(&mut self, now: Micros) {
        self.draining = true;
        if let Some(proxy) = self.proxy.as_mut() {
            proxy.drain();
        }
        if let Some(member) = self.member.as_mut() {
            member.drain();
        }
        self.links.drain();
        self.settle(now);
    }

    /// A draining node has nothing left to finish.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.draining
            && self.client.as_ref().is_none_or(Client::is_idle)
            && self.proxy.as_ref().is_none_or(Proxy::is_idle)
            && !self.links.has_acks()
    }

    /// Ends everything now: undecided messages fail with `Closed`, links are closed.
    pub fn close(&mut self, now: Micros) {
        self.draining = true;
        if let Some(client) = self.client.as_mut() {
            client.close();
        }
        self.links.close_all(now);
        self.settle(now);
    }
}
