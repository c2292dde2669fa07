//! The judge: holds what senders were told against what applications got, by the numbers inside the payloads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::{Incarnation, Lane, NodeId};
use crate::message::{FailReason, Outcome};
use crate::proto::time::Micros;

/// A life of a node.
type Life = (NodeId, Incarnation);

#[derive(Debug)]
struct Handed {
    at: Micros,
    member: Life,
}

/// What a sender may expect of a message.
#[derive(Clone, Debug)]
pub struct Promise {
    /// Who sent it.
    pub sender: NodeId,
    /// When.
    pub at: Micros,
    /// Its deadline.
    pub expires: Micros,
    /// Its lane.
    pub lane: Lane,
    /// Its kind.
    pub kind: u8,
    /// A newer message of the same slot may take its place.
    pub slot: Option<u32>,
    /// It is over the limit of some node.
    pub oversized: bool,
    /// Its sender knew no such member there.
    pub unknown: bool,
}

#[derive(Debug)]
struct Submitted {
    destination: NodeId,
    promise: Promise,
    /// The latest life of its destination that its sender had been answered by.
    heard: Option<Incarnation>,
    told: Option<Told>,
}

/// A message as an application gets it.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Its number.
    pub id: u64,
    /// Who gets it, in which life.
    pub member: (NodeId, Incarnation),
    /// Whose it is said to be, of which life.
    pub origin: (NodeId, Incarnation),
    /// The lane that it is said to be of.
    pub lane: Lane,
    /// Its kind, as it is said.
    pub kind: u8,
    /// Its bytes are those that were sent.
    pub intact: bool,
}

/// What a sender was told of a message, and when.
#[derive(Clone, Debug)]
pub struct Told {
    /// When.
    pub at: Micros,
    /// What.
    pub outcome: Outcome,
}

/// The ledger of one run.
#[derive(Debug, Default)]
pub struct Checker {
    submitted: BTreeMap<u64, Submitted>,
    /// Per sender those without an outcome, the most urgent first.
    pending: BTreeMap<NodeId, BTreeSet<(Micros, u64)>>,
    handed: BTreeMap<u64, Vec<Handed>>,
    last: BTreeMap<(Life, Life, Lane), u64>,
    newest_origin: BTreeMap<(Life, NodeId), Incarnation>,
    /// When each node last began another life, and which.
    restarted: BTreeMap<NodeId, (Micros, Incarnation)>,
    /// The latest life of a destination by which a sender was told that something was delivered: sender, destination.
    heard: BTreeMap<(NodeId, NodeId), Incarnation>,
    /// The latest message of each slot of a sender: sender, destination, lane, slot.
    slots: BTreeMap<(NodeId, NodeId, Lane, u32), u64>,
    /// When each destination last had no room to speak of, or a sender had none for it; `None` where limits are so small that this
    /// says nothing.
    crowded: Option<BTreeMap<NodeId, Micros>>,
    /// Whom a sender took out of its topology, or elsewhere: sender, node.
    removed: BTreeSet<(NodeId, NodeId)>,
    /// Senders that were shut down.
    closed: BTreeSet<NodeId>,
    /// Since when nothing was done to anybody, where every fault is one that peers get to know of.
    quiet_since: Option<Micros>,
    /// Those that were taken out of the topology and go on: nobody tells them anything.
    away: BTreeSet<NodeId>,
    violations: Vec<String>,
}

/// What was handed over is known to its sender so long after, if nothing is wrong: the member may have to be asked.
const TOLD_WITHIN: Duration = Duration::from_millis(2_500);

/// A sender goes by what it heard of a destination's room no longer than this.
const CROWDED_FOR: Duration = Duration::from_secs(20);

/// Violations kept; more say nothing new.
const VIOLATIONS_MAX: usize = 20;

impl Checker {
    fn violation(&mut self, text: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(text);
        }
    }

    /// A message was accepted by the sender's mesh.
    pub fn submitted(&mut self, id: u64, destination: NodeId, promise: Promise) {
        self.pending.entry(promise.sender.clone()).or_default().insert((promise.expires, id));
        let heard = self.heard.get(&(promise.sender.clone(), destination.clone())).copied();
        if let Some(slot) = promise.slot {
            let key = (promise.sender.clone(), destination.clone(), promise.lane, slot);
            self.slots.insert(key, id);
        }
        self.submitted.insert(id, Submitted { destination, promise, heard, told: None });
    }

    /// Nobody is ever full unless it is said by [`Checker::crowded`].
    pub fn set_roomy(&mut self) {
        self.crowded = Some(BTreeMap::new());
    }

    /// There is not much room on the way to this destination.
    pub fn crowded(&mut self, destination: &NodeId, now: Micros) {
        let Some(crowded) = self.crowded.as_mut() else { return };
        match crowded.get_mut(destination) {
            Some(at) => *at = now,
            None => drop(crowded.insert(destination.clone(), now)),
        }
    }

    /// Something was done to somebody, or undone. From now on nothing is, until this is called again.
    pub fn disturbed(&mut self, now: Micros) {
        self.quiet_since = Some(now);
    }

    /// A sender died: nobody will be told of its messages, and what it had heard is forgotten.
    pub fn sender_died(&mut self, sender: &NodeId) {
        self.heard.retain(|(who, _), _| who != sender);
        self.slots.retain(|(who, ..), _| who != sender);
        for (_, id) in self.pending.remove(sender).unwrap_or_default() {
            self.submitted.remove(&id);
        }
    }

    /// A sender is shut down: what it is told from now on may say so.
    pub fn closing(&mut self, sender: &NodeId) {
        self.closed.insert(sender.clone());
    }

    /// A sender was shut down in good order: it knows what became of each of its messages.
    pub fn sender_closed(&mut self, sender: &NodeId) {
        let open = self.pending.get(sender).map_or(0, BTreeSet::len);
        if open > 0 {
            self.violation(format!("{open} messages of {sender} without an outcome when it was closed"));
        }
    }

    /// A node began another life.
    pub fn restarted(&mut self, node: &NodeId, life: Incarnation, now: Micros) {
        self.restarted.insert(node.clone(), (now, life));
    }

    /// A sender took this node out of its topology, or to another place in it.
    pub fn removed(&mut self, sender: &NodeId, node: &NodeId) {
        self.removed.insert((sender.clone(), node.clone()));
    }

    /// The sender's mesh decided what became of a message. `awake`: it could do so in time.
    pub fn decided(&mut self, id: u64, awake: bool, now: Micros) {
        let Some(submitted) = self.submitted.get(&id) else { return };
        let late = now.since(submitted.promise.expires);
        if awake && late > Duration::ZERO {
            self.violation(format!("message {id}: decided {late:?} after its own deadline"));
        }
    }

    /// Why this outcome of a message cannot be.
    fn refuted(&self, id: u64, outcome: &Outcome, now: Micros) -> Option<&'static str> {
        let Submitted { destination, promise, .. } = self.submitted.get(&id)?;
        let newest = |slot| {
            let key = (promise.sender.clone(), destination.clone(), promise.lane, slot);
            self.slots.get(&key).copied()
        };
        let crowded = |crowded: &BTreeMap<NodeId, Micros>| {
            crowded.get(destination).is_some_and(|at| promise.at.since(*at) <= CROWDED_FOR)
        };
        let restarted = |node: &NodeId| self.restarted.contains_key(node);
        match outcome {
            Outcome::Delivered { attempts: 0, .. } => Some("it was never written"),
            Outcome::Delivered { .. } if promise.unknown => Some("there is no such member there"),
            Outcome::Delivered { .. } => None,
            Outcome::Failed { reason, .. } => match reason {
                FailReason::Expired if now < promise.expires => Some("there is time left"),
                FailReason::Superseded if promise.slot.is_none() => Some("it has no slot"),
                FailReason::Superseded if promise.slot.and_then(newest).is_none_or(|newest| newest <= id) => {
                    Some("nothing newer of its slot was sent")
                }
                FailReason::Refused if self.crowded.as_ref().is_some_and(|all| !crowded(all)) => {
                    Some("nobody on its way was short of room")
                }
                FailReason::PeerRestarted if !restarted(destination) && !restarted(&promise.sender) => {
                    Some("neither end ever restarted")
                }
                FailReason::UnknownNode if !promise.unknown => Some("its destination was known"),
                FailReason::TooLarge if !promise.oversized => Some("it is under every limit"),
                FailReason::Closed if !self.closed.contains(&promise.sender) => Some("nobody shut it down"),
                FailReason::Removed
                    if !self.removed.contains(&(promise.sender.clone(), destination.clone())) =>
                {
                    Some("its destination was never removed")
                }
                _ => None,
            },
        }
    }

    /// The sender was told an outcome.
    pub fn told(&mut self, id: u64, outcome: Outcome, now: Micros) {
        let Some(submitted) = self.submitted.get_mut(&id) else {
            return self
                .violation(format!("message {id}: an outcome for a message that was never submitted"));
        };
        if submitted.told.is_some() {
            return self.violation(format!("message {id}: a second outcome"));
        }
        let destination = submitted.destination.clone();
        if let Some(pending) = self.pending.get_mut(&submitted.promise.sender) {
            pending.remove(&(submitted.promise.expires, id));
        }
        submitted.told = Some(Told { at: now, outcome: outcome.clone() });
        if let Some(why) = self.refuted(id, &outcome, now) {
            self.violation(format!("message {id}: told {outcome:?}, but {why}"));
        }
        let got = self.handed.get(&id).is_some_and(|all| all.iter().any(|one| one.at <= now));
        if matches!(outcome, Outcome::Delivered { .. })
            && let Some(life) = self.handed.get(&id).and_then(|all| all.iter().map(|one| one.member.1).max())
            && let Some(submitted) = self.submitted.get(&id)
        {
            let key = (submitted.promise.sender.clone(), destination.clone());
            self.heard.insert(key, life);
        }
        match outcome {
            Outcome::Failed { reason: FailReason::Expired | FailReason::Refused, .. }
                if let Some(known) = self.knew_nothing_for(id, now).filter(|known| *known > TOLD_WITHIN) =>
            {
                self.violation(format!(
                    "message {id}: told {outcome:?}, though {destination} had it for {known:?} and nothing was wrong"
                ));
            }
            Outcome::Delivered { .. } if !got => {
                self.violation(format!("message {id}: told delivered, {destination} never got it"));
            }
            Outcome::Failed { maybe_delivered: false, reason } if got => {
                self.violation(format!(
                    "message {id}: told `{reason}`, not delivered, but {destination} has it"
                ));
            }
            _ => {}
        }
    }

    /// How long the sender of a message that failed could have heard that it was handed over, with nothing wrong.
    ///
    /// It failed at its own deadline at the latest. The sender is told of all of a batch at once, so a message with a short deadline
    /// that was handed over just before it is told of as long after as the longest deadline of its batch is (seed 179586255911).
    fn knew_nothing_for(&self, id: u64, now: Micros) -> Option<Duration> {
        let handed = self.handed.get(&id)?.last()?.at;
        let promise = &self.submitted.get(&id)?.promise;
        if self.away.contains(&promise.sender) {
            return None;
        }
        let failed = now.min(promise.expires);
        Some(failed.since(handed.max(self.quiet_since?)))
    }

    /// A node is taken out of the topology, or is back.
    pub fn set_away(&mut self, node: &NodeId, away: bool) {
        if away {
            self.away.insert(node.clone());
        } else {
            self.away.remove(node);
        }
    }

    /// A member's mesh handed a message over to the application's inbox.
    pub fn handed(&mut self, arrival: Arrival, now: Micros) {
        let Arrival { id, member, origin, lane, kind, intact } = arrival;
        if !intact {
            self.violation(format!("message {id}: {} got other bytes than were sent", member.0));
        }
        if let Some(Submitted { promise, .. }) = self.submitted.get(&id)
            && (promise.lane, promise.kind) != (lane, kind)
        {
            let (was, sent) = (promise.lane, promise.kind);
            self.violation(format!(
                "message {id}: {} got it on {lane} as kind {kind}, and it was sent on {was} as kind {sent}",
                member.0
            ));
        }
        if self.submitted.get(&id).is_some_and(|submitted| submitted.promise.sender != origin.0) {
            self.violation(format!(
                "message {id}: {} got it as of {}, who never sent it",
                member.0, origin.0
            ));
        }
        let again = self.handed.get(&id).is_some_and(|all| all.iter().any(|one| one.member == member));
        if again {
            self.violation(format!("message {id}: {} got it twice in one life", member.0));
        }
        let newest = self.newest_origin.entry((member.clone(), origin.0.clone())).or_insert(origin.1);
        if origin.1 < *newest {
            let text =
                format!("message {id}: of an old life of {}, after {} heard a newer one", origin.0, member.0);
            self.violation(text);
        } else {
            *newest = origin.1;
        }
        let last = self.last.entry((member.clone(), origin, lane)).or_default();
        if *last > id {
            let text = format!("message {id}: at {} after {last}, out of order", member.0);
            self.violation(text);
        } else {
            *last = id;
        }
        let told_failed = self
            .submitted
            .get(&id)
            .and_then(|submitted| submitted.told.as_ref())
            .is_some_and(|told| matches!(told.outcome, Outcome::Failed { maybe_delivered: false, .. }));
        if told_failed {
            self.violation(format!(
                "message {id}: {} got it after the sender was told it never would",
                member.0
            ));
        }
        self.handed.entry(id).or_default().push(Handed { at: now, member });
    }

    /// Whatever a sender, which had the time to be told, should know by now.
    pub fn check_due(&mut self, sender: &NodeId, now: Micros) {
        let Some(mut pending) = self.pending.remove(sender) else { return };
        while pending.first().is_some_and(|(due, _)| *due < now) {
            let Some((_, id)) = pending.pop_first() else { break };
            self.violation(format!("message {id}: no outcome by its deadline"));
            self.submitted.remove(&id);
        }
        self.pending.insert(sender.clone(), pending);
    }

    /// After healing every one of these must have been delivered.
    pub fn check_delivered(&mut self, ids: &BTreeSet<u64>) {
        for id in ids {
            let Some(submitted) = self.submitted.get(id) else {
                self.violation(format!("message {id}: sent after healing, and its sender died"));
                continue;
            };
            let since = |node| self.restarted.get(node).is_some_and(|(at, _)| *at >= submitted.promise.at);
            // Its sender could not know of the life that its destination had begun before: it had no answer by that one. That may be a lower
            // one, where a clock went back and nobody whom it met knew better.
            let unheard = self
                .restarted
                .get(&submitted.destination)
                .is_some_and(|(_, life)| submitted.heard != Some(*life));
            let restarted = since(&submitted.destination) || since(&submitted.promise.sender) || unheard;
            match submitted.told.clone() {
                Some(Told { outcome: Outcome::Delivered { .. }, .. }) => {}
                // One end found out only now that its clock had gone back when it started.
                Some(Told { outcome: Outcome::Failed { reason: FailReason::PeerRestarted, .. }, .. })
                    if restarted => {}
                other => {
                    let to = submitted.destination.clone();
                    self.violation(format!("message {id} to {to}: sent after healing, but {other:?}"));
                }
            }
        }
    }

    /// Whom a message was for.
    #[must_use]
    pub fn destination(&self, id: u64) -> Option<&NodeId> {
        self.submitted.get(&id).map(|submitted| &submitted.destination)
    }

    /// It arrived in a life of its destination that its sender had no answer by when it sent it. Such a message may have been
    /// for the life before, which costs it a round trip, and what was sent behind it waits for it.
    #[must_use]
    pub fn came_unheard(&self, id: u64) -> bool {
        let life = self.handed.get(&id).and_then(|all| Some(all.first()?.member.1));
        let heard = self.submitted.get(&id).and_then(|submitted| submitted.heard);
        life.is_some_and(|life| heard != Some(life))
    }

    /// The last that its sender was told of its flow before all was healed is that a message expired, and nothing was told delivered
    /// since, when this one was sent: such a flow may send one message at a time until it is answered, however long it was idle.
    #[must_use]
    pub fn follows_probe(&self, id: u64, healed_at: Micros) -> bool {
        let flow = |of: &Submitted| (of.promise.sender.clone(), of.destination.clone(), of.promise.lane);
        let Some(this) = self.submitted.get(&id) else { return false };
        let of_flow = self.submitted.values().filter(|other| flow(other) == flow(this));
        let before: Vec<&Told> = of_flow
            .filter_map(|other| other.told.as_ref())
            .filter(|told| told.at < this.promise.at)
            .collect();
        let answers = before.iter().filter(|told| matches!(told.outcome, Outcome::Delivered { .. }));
        let answered = answers.map(|told| told.at).max();
        before.iter().any(|told| {
            matches!(told.outcome, Outcome::Failed { reason: FailReason::Expired, .. })
                && told.at < healed_at
                && answered.is_none_or(|answered| answered < told.at)
        })
    }

    /// A rule of another kind was broken.
    pub fn broken(&mut self, what: String) {
        self.violation(what);
    }

    /// Outcomes so far: delivered, then failed by reason.
    #[must_use]
    pub fn counts(&self) -> (u64, BTreeMap<FailReason, u64>) {
        let mut delivered = 0;
        let mut failed = BTreeMap::new();
        for told in self.submitted.values().filter_map(|submitted| submitted.told.as_ref()) {
            match told.outcome {
                Outcome::Delivered { .. } => delivered += 1,
                Outcome::Failed { reason, .. } => *failed.entry(reason).or_default() += 1,
            }
        }
        (delivered, failed)
    }

    /// When each message was handed over first, and to whom.
    #[must_use]
    pub fn arrivals(&self) -> BTreeMap<u64, (Micros, NodeId)> {
        let first = |all: &Vec<Handed>| all.first().map(|one| (one.at, one.member.0.clone()));
        self.handed.iter().filter_map(|(id, all)| Some((*id, first(all)?))).collect()
    }

    /// When each of these was handed over first, if it was.
    #[must_use]
    pub fn arrivals_of<'a>(&self, ids: impl Iterator<Item = &'a u64>) -> BTreeMap<u64, Micros> {
        ids.filter_map(|id| Some((*id, self.handed.get(id)?.first()?.at))).collect()
    }

    /// What was wrong.
    #[must_use]
    pub fn violations(self) -> Vec<String> {
        self.violations
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Route;
    use std::time::Duration;

    fn life(name: &str, incarnation: u64) -> Life {
        (NodeId::new(name).unwrap(), Incarnation(incarnation))
    }

    fn promise() -> Promise {
        let (at, expires) = (Micros(0), Micros(100));
        let (sender, lane) = (NodeId::new("o").unwrap(), Lane::Bulk);
        Promise { sender, at, expires, lane, kind: 0, slot: None, oversized: false, unknown: false }
    }

    fn delivered() -> Outcome {
        Outcome::Delivered { route: Route::Direct, attempts: 1, rtt: Duration::ZERO }
    }

    fn judged(story: impl FnOnce(&mut Checker)) -> Vec<String> {
        let mut checker = Checker::default();
        checker.set_roomy();
        for id in 1..=3 {
            checker.submitted(id, NodeId::new("m").unwrap(), promise());
        }
        story(&mut checker);
        checker.check_due(&NodeId::new("o").unwrap(), Micros(50));
        checker.violations()
    }

    fn arrival(id: u64, member: u64, origin: u64) -> Arrival {
        let (member, origin) = (life("m", member), life("o", origin));
        Arrival { id, member, origin, lane: Lane::Bulk, kind: 0, intact: true }
    }

    fn hand(checker: &mut Checker, id: u64, member: u64, origin: u64) {
        checker.handed(arrival(id, member, origin), Micros(id));
    }

    #[test]
    fn a_clean_story_passes_and_every_lie_is_seen() {
        let clean = judged(|checker| {
            for id in 1..=3 {
                hand(checker, id, 1, 1);
                checker.told(id, delivered(), Micros(9));
            }
        });
        assert_eq!(clean, Vec::<String>::new());
        let unhanded = judged(|checker| checker.told(1, delivered(), Micros(9)));
        assert!(unhanded[0].contains("never got it"));
        let twice = judged(|checker| (hand(checker, 1, 1, 1), hand(checker, 1, 1, 1)).0);
        assert!(twice[0].contains("twice"));
        let swapped = judged(|checker| (hand(checker, 2, 1, 1), hand(checker, 1, 1, 1)).0);
        assert!(swapped[0].contains("out of order"));
        let posing = judged(|checker| {
            checker.handed(Arrival { origin: life("x", 1), ..arrival(1, 1, 1) }, Micros(1));
        });
        assert!(posing[0].contains("who never sent it"));
        let fenced = judged(|checker| (hand(checker, 1, 1, 2), hand(checker, 2, 1, 1)).0);
        assert!(fenced[0].contains("old life"));
        let denied = judged(|checker| {
            checker.told(
                1,
                Outcome::Failed { reason: FailReason::Refused, maybe_delivered: false },
                Micros(1),
            );
            hand(checker, 1, 1, 1);
        });
        assert!(denied.iter().any(|violation| violation.contains("never would")));
        let again = judged(|checker| {
            hand(checker, 1, 1, 1);
            checker.told(1, delivered(), Micros(9));
            checker.told(1, delivered(), Micros(9));
        });
        assert!(again[0].contains("second outcome"));
        for reason in FailReason::ALL {
            let outcome = Outcome::Failed { reason, maybe_delivered: true };
            let unfounded = judged(|checker| checker.told(1, outcome, Micros(9)));
            assert!(unfounded[0].contains("but"), "{reason:?}: {unfounded:?}");
        }
        for changed in
            [Arrival { lane: Lane::Control, ..arrival(1, 1, 1) }, Arrival { kind: 1, ..arrival(1, 1, 1) }]
        {
            let other = judged(|checker| checker.handed(changed, Micros(1)));
            assert!(other[0].contains("and it was sent on"), "{other:?}");
        }
        let late = judged(|checker| checker.decided(1, true, Micros(101)));
        assert!(late[0].contains("decided 1µs after its own deadline"), "{late:?}");
        let stood_still = judged(|checker| checker.decided(1, false, Micros(101)));
        assert_eq!(stood_still, Vec::<String>::new());
        let left_open = judged(|checker| checker.sender_closed(&NodeId::new("o").unwrap()));
        assert!(left_open[0].contains("without an outcome"));
        let pending = judged(|checker| checker.check_due(&NodeId::new("o").unwrap(), Micros(101)));
        assert_eq!(pending.len(), 3);
        let unhealed = judged(|checker| checker.check_delivered(&BTreeSet::from([1])));
        assert!(unhealed[0].contains("after healing"));
    }

    #[test]
    fn a_message_is_superseded_by_a_newer_one_of_its_slot_and_refused_for_want_of_room() {
        let of = |newer: Option<Promise>, room: Option<Micros>, reason| {
            let mut checker = Checker::default();
            checker.set_roomy();
            let m = NodeId::new("m").unwrap();
            let at = Micros(30_000_000);
            checker.submitted(1, m.clone(), Promise { at, expires: at, slot: Some(1), ..promise() });
            newer.into_iter().for_each(|newer| checker.submitted(2, m.clone(), newer));
            room.into_iter().for_each(|at| checker.crowded(&m, at));
            checker.told(1, Outcome::Failed { reason, maybe_delivered: false }, at);
            checker.violations()
        };
        let slot = |slot| Promise { slot, ..promise() };
        let superseded = |newer| of(newer, None, FailReason::Superseded).len();
        assert_eq!(superseded(Some(slot(Some(1)))), 0);
        let others = [slot(None), slot(Some(2)), Promise { lane: Lane::Control, ..slot(Some(1)) }];
        assert!(others.into_iter().map(Some).chain([None]).all(|newer| superseded(newer) == 1));
        let refused = |room| of(None, room, FailReason::Refused).len();
        assert_eq!([None, Some(Micros(9_999_999)), Some(Micros(10_000_000))].map(refused), [1, 1, 0]);
    }

    #[test]
    fn what_was_handed_over_is_known_soon_or_failed_before_it_could_be() {
        let ms = |ms: u64| Micros(ms * 1_000);
        let failed = |reason| Outcome::Failed { reason, maybe_delivered: true };
        let of = |quiet: Option<Micros>, expires: Micros, outcome: Outcome| {
            let mut checker = Checker::default();
            quiet.into_iter().for_each(|since| checker.disturbed(since));
            checker.submitted(1, NodeId::new("m").unwrap(), Promise { expires, ..promise() });
            checker.handed(arrival(1, 1, 1), ms(1_000));
            checker.told(1, outcome, ms(5_000));
            checker.violations()
        };
        for reason in [FailReason::Expired, FailReason::Refused] {
            let lost = of(Some(ms(0)), ms(3_501), failed(reason));
            assert!(lost.len() == 1 && lost[0].contains("had it for 2.501s"), "{lost:?}");
            let excused = [
                ("with a deadline soon after", Some(ms(0)), ms(1_002)),
                ("in the time that it takes to ask", Some(ms(0)), ms(3_500)),
                ("soon after a fault", Some(ms(2_600)), ms(5_000)),
                ("where faults are silent", None, ms(5_000)),
            ];
            for (why, quiet, expires) in excused {
                assert_eq!(of(quiet, expires, failed(reason)), Vec::<String>::new(), "{reason:?} {why}");
            }
        }
        assert_eq!(of(Some(ms(0)), ms(5_000), delivered()), Vec::<String>::new());
        // Nor does anybody tell a sender that the topology does not list.
        let mut checker = Checker::default();
        checker.disturbed(ms(0));
        checker.set_away(&promise().sender, true);
        checker.submitted(1, NodeId::new("m").unwrap(), Promise { expires: ms(5_000), ..promise() });
        checker.handed(arrival(1, 1, 1), ms(1_000));
        assert!(checker.knew_nothing_for(1, ms(5_000)).is_none());
        checker.set_away(&promise().sender, false);
        assert_eq!(checker.knew_nothing_for(1, ms(5_000)), Some(Duration::from_secs(4)));
    }

    #[test]
    fn a_restart_excuses_what_was_sent_before_it_was_heard_of_and_nothing_after() {
        let (o, m) = (NodeId::new("o").unwrap(), NodeId::new("m").unwrap());
        let failed = Outcome::Failed { reason: FailReason::PeerRestarted, maybe_delivered: true };
        let of = |heard_of_life: u64| {
            let mut checker = Checker::default();
            checker.restarted(&m, Incarnation(2), Micros(5));
            checker.submitted(1, m.clone(), Promise { at: Micros(6), ..promise() });
            hand(&mut checker, 1, heard_of_life, 1);
            checker.told(1, delivered(), Micros(7));
            for id in [2, 3] {
                checker.submitted(id, m.clone(), Promise { at: Micros(8), ..promise() });
            }
            checker.told(2, failed.clone(), Micros(9));
            hand(&mut checker, 3, 2, 1);
            checker.told(3, delivered(), Micros(9));
            let unheard = [1, 2, 3].map(|id| checker.came_unheard(id));
            checker.check_delivered(&BTreeSet::from([1, 2, 3]));
            (unheard, checker.violations())
        };
        assert_eq!(of(1), ([true, false, true], Vec::new()), "by its old life alone");
        let (unheard, violations) = of(2);
        assert_eq!((unheard, violations.len()), ([true, false, false], 1), "{violations:?}");
        assert!(violations[0].contains("message 2"));
        let mut checker = Checker::default();
        checker.restarted(&m, Incarnation(2), Micros(5));
        checker.submitted(1, m.clone(), Promise { at: Micros(6), ..promise() });
        hand(&mut checker, 1, 2, 1);
        checker.told(1, delivered(), Micros(7));
        checker.sender_died(&o);
        checker.submitted(2, m, Promise { at: Micros(8), ..promise() });
        checker.told(2, failed, Micros(9));
        checker.check_delivered(&BTreeSet::from([2]));
        assert_eq!(checker.violations(), Vec::<String>::new(), "its sender died, and knew nothing any more");
    }
}
