//! The judge: holds what senders were told against what applications got, by the numbers inside the payloads.

use std::collections::{BTreeMap, BTreeSet};

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

#[derive(Debug)]
struct Submitted {
    destination: NodeId,
    due: Micros,
    told: Option<Told>,
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
    /// Those without an outcome, the most urgent first.
    pending: BTreeSet<(Micros, u64)>,
    handed: BTreeMap<u64, Vec<Handed>>,
    last: BTreeMap<(Life, Life, Lane), u64>,
    newest_origin: BTreeMap<(Life, NodeId), Incarnation>,
    violations: Vec<String>,
}

/// Violations kept; more say nothing new.
const VIOLATIONS_MAX: usize = 20;

impl Checker {
    fn violation(&mut self, text: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(text);
        }
    }

    /// A message was accepted by the sender's mesh. It must be decided by `due`.
    pub fn submitted(&mut self, id: u64, destination: NodeId, due: Micros) {
        self.submitted.insert(id, Submitted { destination, due, told: None });
        self.pending.insert((due, id));
    }

    /// The sender died: nobody will be told of its messages.
    pub fn sender_died(&mut self) {
        for (_, id) in std::mem::take(&mut self.pending) {
            self.submitted.remove(&id);
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
        self.pending.remove(&(submitted.due, id));
        submitted.told = Some(Told { at: now, outcome: outcome.clone() });
        let got = self.handed.get(&id).is_some_and(|all| all.iter().any(|one| one.at <= now));
        match outcome {
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

    /// A member's mesh handed a message over to the application's inbox.
    pub fn handed(&mut self, id: u64, member: Life, origin: Life, lane: Lane, intact: bool, now: Micros) {
        if !intact {
            self.violation(format!("message {id}: {} got other bytes than were sent", member.0));
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

    /// Whatever is overdue by now.
    pub fn check_due(&mut self, now: Micros) {
        while let Some((due, id)) = self.pending.first().copied().filter(|(due, _)| *due < now) {
            self.violation(format!("message {id}: no outcome by its deadline"));
            self.pending.remove(&(due, id));
            self.submitted.remove(&id);
        }
    }

    /// After healing every one of these must have been delivered.
    pub fn check_delivered(&mut self, ids: &BTreeSet<u64>) {
        for id in ids {
            match self.submitted.get(id).and_then(|submitted| submitted.told.clone()) {
                Some(Told { outcome: Outcome::Delivered { .. }, .. }) => {}
                other => {
                    let to = self.submitted.get(id).map(|submitted| submitted.destination.to_string());
                    self.violation(format!("message {id} to {to:?}: sent after healing, but {other:?}"));
                }
            }
        }
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

    fn delivered() -> Outcome {
        Outcome::Delivered { route: Route::Direct, attempts: 1, rtt: Duration::ZERO }
    }

    fn judged(story: impl FnOnce(&mut Checker)) -> Vec<String> {
        let mut checker = Checker::default();
        for id in 1..=3 {
            checker.submitted(id, NodeId::new("m").unwrap(), Micros(100));
        }
        story(&mut checker);
        checker.check_due(Micros(50));
        checker.violations()
    }

    fn hand(checker: &mut Checker, id: u64, member: u64, origin: u64) {
        checker.handed(id, life("m", member), life("o", origin), Lane::Bulk, true, Micros(id));
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
        let fenced = judged(|checker| (hand(checker, 1, 1, 2), hand(checker, 2, 1, 1)).0);
        assert!(fenced[0].contains("old life"));
        let denied = judged(|checker| {
            checker.told(
                1,
                Outcome::Failed { reason: FailReason::Expired, maybe_delivered: false },
                Micros(1),
            );
            hand(checker, 1, 1, 1);
        });
        assert!(denied[0].contains("never would"));
        let again = judged(|checker| {
            hand(checker, 1, 1, 1);
            checker.told(1, delivered(), Micros(9));
            checker.told(1, delivered(), Micros(9));
        });
        assert!(again[0].contains("second outcome"));
        let pending = judged(|checker| checker.check_due(Micros(101)));
        assert_eq!(pending.len(), 3);
        let unhealed = judged(|checker| checker.check_delivered(&BTreeSet::from([1])));
        assert!(unhealed[0].contains("after healing"));
    }
}
