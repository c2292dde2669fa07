//! Destinations that nothing has reached for a while, and that answer again: for the log.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Node;
use crate::id::{Datacenter, NodeId};
use crate::proto::client::Contact;
use crate::proto::time::Micros;

/// So long messages wait without an answer until it is told.
const TOLD_AFTER: Duration = Duration::from_secs(5);

/// Names in one line of the log.
const NAMED_MAX: usize = 5;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Of which destinations it was told that nothing reaches them, and when.
#[derive(Default)]
pub(super) struct Unreached {
    told: BTreeMap<NodeId, Micros>,
    look_at: Micros,
}

/// What is new of one datacenter.
#[derive(Default, Debug, PartialEq, Eq)]
struct News {
    lost: Vec<NodeId>,
    back: Vec<NodeId>,
}

/// The first names, and how many there are beside them.
struct Names<'a>(&'a [NodeId]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (named, others) = self.0.split_at(self.0.len().min(NAMED_MAX));
        for (place, node) in named.iter().enumerate() {
            write!(f, "{}{node}", if place == 0 { "" } else { ", " })?;
        }
        if others.is_empty() { Ok(()) } else { write!(f, " and {} more", others.len()) }
    }
}

impl Unreached {
    /// What is new. Who was told not to be reached is back when it answers, and not when nothing waits for it any more.
    fn look<'a>(
        &mut self,
        now: Micros,
        all: impl Iterator<Item = Contact<'a>>,
    ) -> BTreeMap<&'a Datacenter, News> {
        let mut news: BTreeMap<_, News> = BTreeMap::new();
        let mut before = std::mem::take(&mut self.told);
        for Contact { datacenter, node, unreached_since, answered_at } in all {
            let told_at = match before.remove(node) {
                Some(told_at) if answered_at.is_some_and(|at| at > told_at) => {
                    news.entry(datacenter).or_default().back.push(node.clone());
                    None
                }
                None if unreached_since.is_some_and(|since| now.since(since) >= TOLD_AFTER) => {
                    news.entry(datacenter).or_default().lost.push(node.clone());
                    Some(now)
                }
                told_at => told_at,
            };
            self.told.extend(told_at.map(|at| (node.clone(), at)));
        }
        news
    }
}

impl Node {
    /// Tells which destinations nothing reaches any more, or again.
    pub(super) fn tell_unreached(&mut self, now: Micros) {
        let Some(client) = self.client.as_ref().filter(|_| self.unreached.look_at <= now && !self.draining)
        else {
            return;
        };
        self.unreached.look_at = now + LOOK_EVERY;
        for (datacenter, News { lost, back }) in self.unreached.look(now, client.contacts(now)) {
            if let Some(first) = lost.first() {
                let last_tried = client.last_tried(first, &self.links, now).map(tracing::field::display);
                tracing::warn!(
                    %datacenter, count = lost.len(), destinations = %Names(&lost), last_tried,
                    "messages wait for {} s, and nothing reaches their destinations: `trunkline status` says why of each",
                    TOLD_AFTER.as_secs()
                );
            }
            if !back.is_empty() {
                tracing::info!(%datacenter, count = back.len(), destinations = %Names(&back), "these destinations answer again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_told_once_when_nothing_reaches_them_and_when_they_answer() {
        let eu = Datacenter::new("eu").unwrap();
        let [a, b] = ["a", "b"].map(|name| NodeId::new(name).unwrap());
        let s = |s: u64| Micros(s * 1_000_000);
        let mut unreached = Unreached::default();
        let mut look = |at: u64, all: &[(&NodeId, Option<u64>, Option<u64>)]| {
            let reach = all.iter().map(|(node, since, answered)| Contact {
                datacenter: &eu,
                node,
                unreached_since: since.map(s),
                answered_at: answered.map(s),
            });
            unreached.look(s(at), reach).remove(&eu).unwrap_or_default()
        };
        let lost = |lost: &NodeId| News { lost: vec![lost.clone()], back: Vec::new() };
        let back = |back: &NodeId| News { lost: Vec::new(), back: vec![back.clone()] };
        assert_eq!(look(4, &[(&a, Some(0), None), (&b, None, None)]), News::default(), "not yet");
        assert_eq!(look(5, &[(&a, Some(0), None), (&b, None, None)]), lost(&a));
        assert_eq!(look(6, &[(&a, Some(0), None), (&b, Some(1), Some(1))]), lost(&b), "told once");
        assert_eq!(look(7, &[(&a, None, None), (&b, Some(1), Some(1))]), News::default(), "it expired");
        assert_eq!(look(8, &[(&a, Some(7), None), (&b, None, Some(8))]), back(&b));
        assert_eq!(look(9, &[(&b, None, Some(8))]), News::default(), "who left the topology does not answer");
        assert_eq!(look(10, &[(&a, None, Some(10)), (&b, None, Some(8))]), News::default());
    }

    #[test]
    fn a_line_names_a_few() {
        let nodes: Vec<NodeId> = (0..7).map(|n| NodeId::new(&format!("m{n}")).unwrap()).collect();
        assert_eq!(Names(&nodes[..2]).to_string(), "m0, m1");
        assert_eq!(Names(&nodes).to_string(), "m0, m1, m2, m3, m4 and 2 more");
    }
}
