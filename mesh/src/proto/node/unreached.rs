//! Destinations that nothing has reached for a while, and that answer again: for the log.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::Node;
use crate::id::{Datacenter, NodeId};
use crate::proto::time::Micros;

/// From the first of the attempts that came to nothing: a proxy that failed is passed by sooner.
const TOLD_AFTER: Duration = Duration::from_secs(5);

/// Names in one line of the log.
const NAMED_MAX: usize = 5;

/// Of which destinations it was told that nothing reaches them.
#[derive(Default)]
pub(super) struct Unreached {
    told: BTreeSet<NodeId>,
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
    /// What is new, by all destinations there are and since when nothing reaches them.
    fn look<'a>(
        &mut self,
        now: Micros,
        all: impl Iterator<Item = (&'a Datacenter, &'a NodeId, Option<Micros>)>,
    ) -> BTreeMap<&'a Datacenter, News> {
        let mut news: BTreeMap<_, News> = BTreeMap::new();
        let mut before = std::mem::take(&mut self.told);
        for (datacenter, node, failing) in all {
            let was_told = before.remove(node);
            let is_lost = failing.is_some_and(|since| was_told || now.since(since) >= TOLD_AFTER);
            match (was_told, is_lost) {
                (false, true) => news.entry(datacenter).or_default().lost.push(node.clone()),
                (true, false) => news.entry(datacenter).or_default().back.push(node.clone()),
                _ => {}
            }
            if is_lost {
                self.told.insert(node.clone());
            }
        }
        news
    }
}

impl Node {
    /// Tells which destinations nothing reaches any more, or again.
    pub(super) fn tell_unreached(&mut self, now: Micros) {
        let Some(client) = self.client.as_ref() else { return };
        for (datacenter, News { lost, back }) in self.unreached.look(now, client.failing(&self.links, now)) {
            if let Some(last) = lost.first().and_then(|node| client.tried_last(node, &self.links, now)) {
                tracing::warn!(
                    %datacenter, count = lost.len(), destinations = %Names(&lost), last_tried = %last,
                    "nothing reaches these destinations for {} s, on any way: what is sent to them waits until its deadline; \
                     `trunkline status` says why of each",
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
        let nodes = ["a", "b"].map(|name| NodeId::new(name).unwrap());
        let mut unreached = Unreached::default();
        let mut look = |s: u64, since: &[Option<u64>]| {
            let all = nodes
                .iter()
                .zip(since)
                .map(|(node, since)| (&eu, node, since.map(|s| Micros(s * 1_000_000))));
            unreached.look(Micros(s * 1_000_000), all).remove(&eu).unwrap_or_default()
        };
        let [a, b] = nodes.clone();
        let lost = |lost: &[&NodeId]| News {
            lost: lost.iter().map(|node| (*node).clone()).collect(),
            back: Vec::new(),
        };
        let back = |back: &[&NodeId]| News {
            back: back.iter().map(|node| (*node).clone()).collect(),
            lost: Vec::new(),
        };
        assert_eq!(look(4, &[Some(0), None]), News::default(), "not yet");
        assert_eq!(look(5, &[Some(0), None]), lost(&[&a]));
        assert_eq!(look(6, &[Some(0), Some(1)]), lost(&[&b]), "told once");
        assert_eq!(look(7, &[None, Some(1)]), back(&[&a]));
        assert_eq!(look(8, &[None]), News::default(), "who left the topology does not answer");
        assert_eq!(look(9, &[None, None]), News::default());
    }

    #[test]
    fn a_line_names_a_few() {
        let nodes: Vec<NodeId> = (0..7).map(|n| NodeId::new(&format!("m{n}")).unwrap()).collect();
        assert_eq!(Names(&nodes[..2]).to_string(), "m0, m1");
        assert_eq!(Names(&nodes).to_string(), "m0, m1, m2, m3, m4 and 2 more");
    }
}
