//! The receiving end: drops duplicates, keeps order, hands over to the application's inbox, says so in acks.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use super::deliveries::Deliveries;
use super::floors::By;
use super::handshake::is_plausible;
#[cfg(feature = "sim")]
use super::kept::{Kept, Limit};
use super::links::{LinkEnd, LinkId, Links, PeerIx};
use super::reports::Ejection;
use super::run::split_run;
use super::time::Micros;
use super::window::{Admitted, Upstream, Window};
#[cfg(feature = "sim")]
use super::wire::PASSED;
use super::wire::{AckFlow, FEATURE_BACK, Flow, ROOM_UNKNOWN, Refused, RefusedReason, Run};
use crate::id::{Incarnation, Lane, NodeId, Seq};
use crate::message::Delivery;
use crate::settings::{MESSAGE_OVERHEAD_BYTES, Settings};
use crate::stats::MemberStats;
use crate::topology::Topology;

/// So long an application takes nothing of what is there until people are told: as long as messages have by default. A shorter stop, as for
/// a snapshot or a slow disk, fails none.
pub const UNTAKEN_FOR: Duration = Duration::from_secs(10);

/// The member machine.
#[derive(Debug)]
pub struct Member {
    /// Counters.
    pub stats: MemberStats,
    settings: Settings,
    windows: BTreeMap<(NodeId, Lane), Window>,
    /// Per lane, the origins of windows that hold the next message in turn and wait for room in the inbox. While there are any, the inbox is not empty.
    waiting: [BTreeSet<NodeId>; 2],
    /// Of each lane the origin whose message went in last of those.
    served: [Option<NodeId>; 2],
    /// What the message of bulk needs whose turn it is to go in; 0 without one.
    needed: usize,
    /// What is set aside for it, of half of all that was read since: control goes into the rest, so that neither waits for the other.
    aside: usize,
    lives: BTreeMap<NodeId, OriginLife>,
    /// Of origins of which proxies say that they live a later life: what came of the one before.
    shelved: BTreeMap<NodeId, Vec<Shelved>>,
    /// Of an origin what a proxy brings of it: that one told floors of it that were none.
    left: BTreeMap<(NodeId, NodeId), Ejection>,
    inbox: Deliveries,
    /// Since when the application has taken nothing of what is in there.
    untaken_since: Option<Micros>,
    draining: bool,
    /// It reports as lost whatever it has.
    #[cfg(feature = "sim")]
    slanders: bool,
}

/// Which life an origin lives, for all that is known here.
#[derive(Clone, Copy, Debug)]
struct OriginLife {
    life: Incarnation,
    /// Links from this one on were begun since that was heard.
    since: LinkId,
    /// A proxy said a later one that it does not live: from then on the origin alone says which one it lives.
    by_itself: bool,
    /// The proxy that brought it, if the origin did not say so itself.
    by: Option<PeerIx>,
}

/// The windows of a life that is over, as a proxy says. It may be the one that the origin lives.
#[derive(Debug)]
struct Shelved {
    life: Incarnation,
    /// The proxy that said it; none: the origin itself.
    by: Option<PeerIx>,
    windows: Vec<((NodeId, Lane), Window)>,
}

/// Lives of an origin of which that is kept, the latest ones: most are over, and which one is not only the origin knows. What it said itself is
/// among them, and who says ever more of them drives out its own.
const SHELVED_MAX: usize = 4;

/// A run as it came in.
#[derive(Debug)]
pub struct ArrivedRun<'a> {
    /// Where from.
    pub upstream: Upstream,
    /// Its lane.
    pub lane: Lane,
    /// Whose, for whom.
    pub flow: &'a Flow,
    /// The numbers.
    pub run: Run,
    /// Length of the buffers that its bytes are slices of.
    pub buffer_bytes: usize,
}

impl Member {
    /// An empty member.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let stats = MemberStats {
            refused: RefusedReason::ALL.iter().map(|reason| (reason.label(), 0)).collect(),
            ..MemberStats::default()
        };
        Self {
            stats,
            settings,
            windows: BTreeMap::new(),
            waiting: Default::default(),
            served: [None, None],
            needed: 0,
            aside: 0,
            lives: BTreeMap::new(),
            shelved: BTreeMap::new(),
            left: BTreeMap::new(),
            inbox: Deliveries::default(),
            untaken_since: None,
            draining: false,
            #[cfg(feature = "sim")]
            slanders: false,
        }
    }

    /// Other limits from now on. What was taken in stays.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Who is in the cluster now. An origin that left fills no gap any more: what waits behind one is let go, and fails at the
    /// origin's deadline should it come back in the same life.
    pub fn set_topology(&mut self, topology: &Topology) {
        let left = |origin: &NodeId| topology.node(origin).is_none_or(|spec| !spec.roles.origin);
        self.waiting.iter_mut().for_each(|waiting| waiting.retain(|origin| !left(origin)));
        self.left.retain(|(origin, proxy), _| !left(origin) && topology.node(proxy).is_some());
        let shelved = self.shelved.values_mut().flatten().flat_map(|shelved| &mut shelved.windows);
        let windows = self.windows.iter_mut().chain(shelved.map(|(key, window)| (&*key, window)));
        for (_, window) in windows.filter(|((origin, _), _)| left(origin)) {
            window.let_go();
        }
    }

    /// New messages are refused from now on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// A run came in; its ack is queued on the link it came from. False when it was refused whole.
    pub fn handle_run(
        &mut self,
        arrived: &ArrivedRun<'_>,
        pieces: impl Iterator<Item = bytes::Bytes>,
        links: &mut Links,
        now: Micros,
    ) -> bool {
        let me = links.me.incarnation;
        let flow = arrived.flow;
        let by = may_bring(arrived, links).filter(|by| !self.leaves(*by, &flow.origin, links, now));
        let Some(by) = by else {
            return self.refuse(arrived, RefusedReason::NotServed, links, now);
        };
        let unknown = OriginLife { life: Incarnation::UNKNOWN, since: LinkId(0), by_itself: false, by: None };
        let known = self.lives.get(&flow.origin).copied().unwrap_or(unknown);
        if flow.destination_incarnation.is_known() && flow.destination_incarnation != me {
            return self.refuse(arrived, RefusedReason::StaleDestination, links, now);
        }
        // Of a later life that it is not to believe it says the same: the origin then dials, and tells it.
        let by_itself =
            || known.by_itself || links.peer(&flow.origin).is_some_and(|of| links.was_told_again(of));
        let doubted = flow.origin_incarnation > known.life && matches!(by, By::Proxy(..)) && by_itself();
        if flow.origin_incarnation < known.life || doubted {
            return self.refuse(arrived, RefusedReason::StaleOrigin, links, now);
        }
        if !is_plausible(known.life.max(me), flow.origin_incarnation) {
            return self.refuse(arrived, RefusedReason::Malformed, links, now);
        }
        let Some(floor) = arrived.run.floor().filter(|_| arrived.run.is_sound()) else {
            return self.refuse(arrived, RefusedReason::Malformed, links, now);
        };
        let Ok(messages) = split_run(pieces, arrived.run.count) else {
            return self.refuse(arrived, RefusedReason::Malformed, links, now);
        };
        if flow.origin_incarnation > known.life {
            // A link to another life is over, or the origin opens a new one and says which it lives.
            if let Some(origin) = links.peer(&flow.origin) {
                links.note_life(origin, flow.origin_incarnation, now);
                links.tell_life(origin, flow.origin_incarnation);
            }
            let brought_by = match by {
                By::Proxy(proxy, _) => Some(proxy),
                By::Itself(_) => None,
            };
            let (life, since) = (flow.origin_incarnation, links.next_link());
            self.begin_life(&flow.origin, OriginLife { life, since, by: brought_by, ..known }, now);
        }
        let key = (flow.origin.clone(), arrived.lane);
        if self.draining && arrived.run.count > 0 {
            return self.refuse(arrived, RefusedReason::Draining, links, now);
        }
        let most = self.may_hand_over(arrived.lane);
        let aside = self.aside;
        let window = self
            .windows
            .entry(key.clone())
            .or_insert_with(|| Window::new(flow.origin_incarnation, floor, arrived.upstream, by));
        window.upstream = arrived.upstream;
        let (liars, asks_anew) = window.raise_floor(floor, by);
        // What is given up is skipped before anything is measured against the window.
        hand_over(&key, window, (most, aside), &mut self.inbox, &mut self.stats, &self.settings);

        let mut refused: Vec<Refused> = Vec::new();
        for (seq, message) in (arrived.run.first.0..=u64::MAX).zip(messages) {
            let bytes_max = self.settings.reorder_bytes_max;
            match window.admit(Seq(seq), message, by, arrived.buffer_bytes, bytes_max) {
                Admitted::Held => {}
                Admitted::Duplicate => self.stats.duplicates += 1,
                Admitted::Full => {
                    count(&mut self.stats, RefusedReason::InboxFull);
                    match refused.last_mut().filter(|last| last.first.0 + u64::from(last.count) == seq) {
                        Some(last) => last.count += 1,
                        None => refused.push(Refused {
                            first: Seq(seq),
                            count: 1,
                            reason: RefusedReason::InboxFull as u8,
                        }),
                    }
                }
            }
            hand_over(&key, window, (most, aside), &mut self.inbox, &mut self.stats, &self.settings);
        }
        let next = hand_over(&key, window, (most, aside), &mut self.inbox, &mut self.stats, &self.settings);
        if !self.inbox.is_empty() {
            self.untaken_since.get_or_insert(now);
        }
        refused.extend(window.take_passed());
        #[cfg(feature = "sim")]
        if self.slanders
            && let Some(count) = u32::try_from(arrived.run.first.0 - 1).ok().filter(|count| *count > 0)
        {
            refused.push(Refused { first: Seq::FIRST, count, reason: PASSED });
        }
        let room = room(window, self.inbox.bytes(), &self.settings);
        let entry = AckFlow { refused, ..window.ack(arrived.lane, me, room) };
        links.queue_ack(arrived.upstream.link, entry, now, now);
        let (origin, lane) = key;
        self.note_needed(lane, next);
        if next == Next::None {
            self.waiting[lane.index()].remove(&origin);
        } else {
            self.waiting[lane.index()].insert(origin);
        }
        for proxy in liars {
            self.leave(proxy, &flow.origin, links, now);
        }
        if asks_anew {
            tracing::warn!(
                origin = %flow.origin,
                "proxies brought what is far above all that this origin says it has, some of it since its link was begun, or what it says \
                 was under way for long: the link is ended, and what the origin says over its next one decides"
            );
            links.replace(arrived.upstream.link, LinkEnd::Replaced, now);
        }
        true
    }

    /// What this proxy brings of this origin is not taken at present.
    fn leaves(&self, by: By, origin: &NodeId, links: &Links, now: Micros) -> bool {
        let By::Proxy(proxy, _) = by else { return false };
        // Hardly ever is there any.
        !self.left.is_empty()
            && self
                .left
                .get(&(origin.clone(), links.spec(proxy).id.clone()))
                .is_some_and(|left| left.holds(now))
    }

    /// A proxy told a floor that an origin had not reached, as that one says itself. It may be the origin that lies: so it alone is not
    /// served by that proxy for a while.
    fn leave(&mut self, proxy: PeerIx, origin: &NodeId, links: &Links, now: Micros) {
        self.stats.false_floors += 1;
        let proxy = links.spec(proxy).id.clone();
        tracing::error!(
            %proxy,
            %origin,
            "proxy said that an origin is past numbers which it had not reached, as it says itself: what that was to pass over is waited \
             for again, and for a while nothing of that origin is taken from that proxy; look at the proxy"
        );
        self.left.entry((origin.clone(), proxy)).or_default().begin(now);
    }

    /// A link came up: an origin at its other end says itself which life it lives. Where a proxy said a later one, it was told so, and
    /// does not live that.
    pub fn handle_link_up(&mut self, id: LinkId, links: &mut Links, now: Micros) {
        let Some(link) = links.link(id) else { return };
        let (life, origin) = (link.incarnation, links.spec(link.peer).id.clone());
        let Some(known) = self.lives.get(&origin).copied() else { return };
        let false_life = known.life > life;
        if false_life && id < known.since {
            // It began before that was heard, and says nothing of it.
            return links.replace(id, LinkEnd::PeerLife, now);
        }
        if false_life {
            self.stats.false_lives += 1;
            tracing::warn!(
                %origin,
                proxy = known.by.map(|proxy| tracing::field::display(&links.spec(proxy).id)),
                said = known.life.0,
                lives = life.0,
                "a proxy said that an origin lives a later life than it does: from now on only its own word counts"
            );
        }
        if false_life || known.by_itself && known.life != life {
            let of = OriginLife { life, since: links.next_link(), by_itself: true, by: None };
            self.begin_life(&origin, of, now);
        } else {
            self.shelved.remove(&origin);
            if let Some(known) = self.lives.get_mut(&origin).filter(|known| known.life == life) {
                known.by = None;
            }
        }
    }

    /// An origin lives another life. What the old one left behind a gap can never be completed. Where only a proxy says so all of
    /// it is kept until the origin says which one it lives, or what it sends again would be taken for new.
    fn begin_life(&mut self, origin: &NodeId, of: OriginLife, now: Micros) {
        let before = self.lives.insert(origin.clone(), of);
        self.waiting.iter_mut().for_each(|waiting| _ = waiting.remove(origin));
        let keys = Lane::ALL.map(|lane| (origin.clone(), lane));
        let windows: Vec<_> = keys.iter().filter_map(|key| self.windows.remove_entry(key)).collect();
        if of.by.is_some() {
            if let Some(before) = before.filter(|_| !windows.is_empty()) {
                let shelved = self.shelved.entry(origin.clone()).or_default();
                if shelved.len() == SHELVED_MAX {
                    let own = shelved.iter().rposition(|shelved| shelved.by == of.by);
                    let oldest = || shelved.iter().position(|shelved| shelved.by.is_some());
                    shelved.remove(own.or_else(oldest).unwrap_or(0));
                }
                shelved.push(Shelved { life: before.life, by: before.by, windows });
            }
            return;
        }
        let shelved = self.shelved.remove(origin).into_iter().flatten();
        let lives_on = shelved.filter(|shelved| shelved.life == of.life).flat_map(|shelved| shelved.windows);
        for (key, mut window) in lives_on {
            let most = self.may_hand_over(key.1);
            let next = hand_over(
                &key,
                &mut window,
                (most, self.aside),
                &mut self.inbox,
                &mut self.stats,
                &self.settings,
            );
            self.note_needed(key.1, next);
            if next != Next::None {
                self.waiting[key.1.index()].insert(key.0.clone());
            }
            self.windows.insert(key, window);
        }
        if !self.inbox.is_empty() {
            self.untaken_since.get_or_insert(now);
        }
    }

    /// A run of a frame that has more messages than are looked at: it has to come again.
    pub fn turn_away(&mut self, arrived: &ArrivedRun<'_>, links: &mut Links, now: Micros) {
        self.refuse(arrived, RefusedReason::InboxFull, links, now);
    }

    /// How many messages of a run that comes in may go to the inbox past those that wait for room there: none of bulk while
    /// anything waits, and none of control while control does.
    fn may_hand_over(&self, lane: Lane) -> usize {
        let before = self.waiting[..=lane.index()].iter().any(|waiting| !waiting.is_empty());
        if before { 0 } else { usize::MAX }
    }

    /// The window of a lane whose turn it is of those that wait for room.
    fn next_waiting(&self, lane: Lane) -> Option<NodeId> {
        let waiting = &self.waiting[lane.index()];
        let behind = self.served[lane.index()].as_ref().and_then(|served| {
            waiting.range::<NodeId, _>((Bound::Excluded(served), Bound::Unbounded)).next()
        });
        behind.or_else(|| waiting.first()).cloned()
    }

    /// A message of bulk has no room: that is set aside for it from now on, if none waits in front of it.
    fn note_needed(&mut self, lane: Lane, next: Next) {
        if let (Lane::Bulk, Next::WaitsForRoom(bytes)) = (lane, next)
            && self.needed == 0
        {
            self.needed = bytes;
        }
    }

    /// A run for another node was refused, at one that passes nothing on.
    pub fn count_not_served(&mut self) {
        count(&mut self.stats, RefusedReason::NotServed);
    }

    /// Gives false: the run was refused.
    fn refuse(
        &mut self,
        arrived: &ArrivedRun<'_>,
        reason: RefusedReason,
        links: &mut Links,
        now: Micros,
    ) -> bool {
        count(&mut self.stats, reason);
        links.note_refused(arrived.upstream.link, reason);
        let me = links.me.incarnation;
        let state = self
            .windows
            .get(&(arrived.flow.origin.clone(), arrived.lane))
            .filter(|window| window.origin_incarnation == arrived.flow.origin_incarnation)
            .filter(|_| reason != RefusedReason::StaleDestination)
            .map(|window| window.ack(arrived.lane, me, room(window, self.inbox.bytes(), &self.settings)));
        let entry = AckFlow {
            flow: arrived.upstream.row,
            refused: vec![Refused {
                first: arrived.run.first,
                count: arrived.run.count,
                reason: reason as u8,
            }],
            ..state.unwrap_or(AckFlow {
                lane: u8::try_from(arrived.lane.index()).unwrap_or(0),
                flow: 0,
                incarnation: me,
                decided: 0,
                room_kib: ROOM_UNKNOWN,
                held: Vec::new(),
                refused: Vec::new(),
            })
        };
        links.queue_ack(arrived.upstream.link, entry, now, now);
        false
    }

    /// A fault for simulations: it reports as lost whatever it acknowledged, and delivers all the same.
    #[cfg(feature = "sim")]
    pub fn set_slandering(&mut self) {
        self.slanders = true;
    }

    /// What was handed over since this was asked last.
    #[cfg(feature = "sim")]
    pub fn peek_new(&mut self) -> Vec<Delivery> {
        self.inbox.peek_new()
    }

    /// [`Member::poll_delivery`] has something.
    #[must_use]
    pub fn has_delivery(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// The next message for the application. Taking it makes room for what is held.
    pub fn poll_delivery(&mut self, links: &mut Links, now: Micros) -> Option<Delivery> {
        let delivery = self.inbox.pop()?;
        let freed = delivery.payload.len() + MESSAGE_OVERHEAD_BYTES;
        self.aside = (self.aside + freed.div_ceil(2)).min(self.needed);
        // One message of each that waits, in turn. The first of a lane that has no room keeps its turn: were smaller ones let past
        // it, it would wait for ever.
        let mut moved = BTreeSet::new();
        for lane in Lane::ALL {
            while let Some(origin) = self.next_waiting(lane) {
                let key = (origin, lane);
                let waiting = &mut self.waiting[lane.index()];
                let Some(window) = self.windows.get_mut(&key) else {
                    waiting.remove(&key.0);
                    continue;
                };
                let before = self.stats.handed_over;
                let room = (1, self.aside);
                let next = hand_over(&key, window, room, &mut self.inbox, &mut self.stats, &self.settings);
                if next == Next::None {
                    waiting.remove(&key.0);
                }
                if self.stats.handed_over != before {
                    self.served[lane.index()] = Some(key.0.clone());
                    moved.insert(key);
                    if lane == Lane::Bulk {
                        (self.needed, self.aside) = (0, 0);
                    }
                }
                if matches!(next, Next::WaitsForRoom(_)) {
                    self.note_needed(lane, next);
                    break;
                }
            }
        }
        if self.waiting[Lane::Bulk.index()].is_empty() {
            (self.needed, self.aside) = (0, 0);
        }
        self.untaken_since = (!self.inbox.is_empty()).then_some(now);
        for key in moved {
            let Some(window) = self.windows.get_mut(&key) else { continue };
            let refused = window.take_passed();
            let room = room(window, self.inbox.bytes(), &self.settings);
            let entry = AckFlow { refused, ..window.ack(key.1, links.me.incarnation, room) };
            links.queue_ack(window.upstream.link, entry, now + self.settings.ack_delay, now);
        }
        Some(delivery)
    }

    /// Since when the application has taken nothing of what is in the inbox; `None` while nothing is.
    #[must_use]
    pub fn untaken_since(&self) -> Option<Micros> {
        self.untaken_since
    }

    /// Bytes in the inbox, and what it has room for.
    #[must_use]
    pub fn inbox_bytes(&self) -> (usize, usize) {
        (self.inbox.bytes(), self.settings.inbox_bytes_max)
    }

    /// What it keeps, limit by limit.
    #[cfg(feature = "sim")]
    pub fn kept(&self) -> impl Iterator<Item = Kept<'_>> {
        let shelved = self.shelved.values().flatten().flat_map(|shelved| &shelved.windows);
        let windows = self.windows.iter().chain(shelved.map(|(key, window)| (key, window)));
        let windows = windows.map(|((origin, lane), window)| Kept {
            limit: Limit::Reorder,
            of: Some((origin, *lane)),
            bytes: window.held_bytes(),
        });
        windows.chain([Kept { limit: Limit::Inbox, of: None, bytes: self.inbox.bytes() }])
    }

    /// Bytes held behind gaps, or because the inbox has no room.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let shelved = self.shelved.values().flatten().flat_map(|shelved| &shelved.windows);
        let windows = self.windows.values().chain(shelved.map(|(_, window)| window));
        windows.map(Window::held_bytes).sum()
    }
}

/// Only the origin itself, in the life it has on this link, and proxies of this datacenter bring what an origin sent; and, over
/// a link that this node dialled, proxies of the origin's own, which so speak for nobody else and only where they are asked.
fn may_bring(arrived: &ArrivedRun<'_>, links: &Links) -> Option<By> {
    let flow = arrived.flow;
    let origin = links.peer(&flow.origin).map(|peer| links.spec(peer)).filter(|spec| spec.roles.origin)?;
    let link = links.link(arrived.upstream.link)?;
    let from = links.spec(link.peer);
    if from.id == flow.origin {
        let itself = By::Itself(arrived.upstream.link);
        return Some(itself).filter(|_| link.incarnation == flow.origin_incarnation);
    }
    let back = link.dialled && link.features & FEATURE_BACK != 0;
    let near = from.datacenter == links.me.datacenter || back && from.datacenter == origin.datacenter;
    Some(By::Proxy(link.peer, links.next_link())).filter(|_| from.roles.proxy && near)
}

fn count(stats: &mut MemberStats, reason: RefusedReason) {
    *stats.refused.entry(reason.label()).or_default() += 1;
}

/// What more can be taken of one flow: the rest of the inbox, and of what may be held behind a gap or for room. Origins share
/// the inbox, so all of them together may be told more than there is; what is over it is refused, as ever.
fn room(window: &Window, inbox_bytes: usize, settings: &Settings) -> usize {
    let inbox = settings.inbox_bytes_max.saturating_sub(inbox_bytes);
    inbox.saturating_add(settings.reorder_bytes_max.saturating_sub(window.held_bytes()))
}

/// What is next in a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    /// Nothing that is in turn.
    None,
    /// A message in turn, which may go when its window has its turn.
    Waits,
    /// A message in turn, for which the inbox has no room: the bytes that it takes there.
    WaitsForRoom(usize),
}

/// Moves what is in turn into the inbox, at most so many messages; control leaves free there what is set aside.
fn hand_over(
    key: &(NodeId, Lane),
    window: &mut Window,
    (most, aside): (usize, usize),
    inbox: &mut Deliveries,
    stats: &mut MemberStats,
    settings: &Settings,
) -> Next {
    let mut handed = 0;
    while let Some(bytes) = window.peek_bytes(&mut stats.skipped) {
        let needed = bytes + MESSAGE_OVERHEAD_BYTES;
        let aside = if key.1 == Lane::Control { aside } else { 0 };
        if inbox.bytes() + needed + aside > settings.inbox_bytes_max && !inbox.is_empty() {
            return Next::WaitsForRoom(needed);
        }
        if handed >= most {
            return Next::Waits;
        }
        let Some((seq, message)) = window.pop(&mut stats.skipped) else { return Next::None };
        handed += 1;
        stats.handed_over += 1;
        stats.handed_over_bytes += u64::try_from(bytes).unwrap_or(0);
        inbox.push(Delivery {
            origin: key.0.clone(),
            origin_incarnation: window.origin_incarnation,
            lane: key.1,
            seq,
            kind: message.kind,
            payload: message.payload,
        });
    }
    Next::None
}
