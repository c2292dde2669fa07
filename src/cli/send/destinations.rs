//! `--to`: words → members, by datacenter.

use std::collections::{BTreeMap, BTreeSet};

use trunkline_mesh::{Datacenter, NodeId, NodeSpec, Topology};

use super::super::failure::Failure;
use crate::config::{held, nearest};

/// Members, each once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Destinations(BTreeMap<Datacenter, Vec<NodeId>>);

impl Destinations {
    pub(super) fn by_datacenter(&self) -> impl Iterator<Item = (&Datacenter, &[NodeId])> {
        self.0.iter().map(|(datacenter, nodes)| (datacenter, nodes.as_slice()))
    }

    /// The most destinations in one datacenter.
    pub(super) fn largest(&self) -> usize {
        self.0.values().map(Vec::len).max().unwrap_or(0)
    }
}

/// Finds them all, or tells every word that names none. A sender never sends to itself.
pub(super) fn resolve(topology: &Topology, me: &NodeSpec, words: &[String]) -> Result<Destinations, Failure> {
    let mut found: BTreeSet<(&Datacenter, &NodeId)> = BTreeSet::new();
    let mut wrong: Vec<String> = Vec::new();
    let words: Vec<&str> = words.iter().map(|word| word.trim()).collect();
    if words.contains(&"") {
        wrong.push("--to has an empty entry: write all, dc:NAME or node ids, separated by commas".to_owned());
    }
    for word in words.into_iter().filter(|word| !word.is_empty()) {
        match members(topology, me, word) {
            Ok(members) => found.extend(members.iter().map(|member| (&member.datacenter, &member.id))),
            Err(why) => wrong.push(why),
        }
    }
    if !wrong.is_empty() {
        return Err(Failure::Usage(format!("nothing was sent: {}", wrong.join("; "))));
    }
    let mut destinations = Destinations::default();
    for (datacenter, id) in found {
        destinations.0.entry(datacenter.clone()).or_default().push(id.clone());
    }
    Ok(destinations)
}

fn members<'t>(topology: &'t Topology, me: &NodeSpec, word: &str) -> Result<Vec<&'t NodeSpec>, String> {
    let shown: String = word.chars().take(64).flat_map(char::escape_default).collect();
    let others = |node: &&NodeSpec| node.roles.member && node.id != me.id;
    if word == "all" {
        let members: Vec<&NodeSpec> = topology.nodes().filter(others).collect();
        return if members.is_empty() {
            Err("the cluster has no other member".to_owned())
        } else {
            Ok(members)
        };
    }
    if let Some(name) = word.strip_prefix("dc:") {
        let datacenters = topology.datacenters();
        if !datacenters.iter().any(|datacenter| datacenter.as_str() == name) {
            let names = || datacenters.iter().map(Datacenter::as_str);
            let what = match shown.strip_prefix("dc:").unwrap_or(&shown) {
                "" => "--to has dc: without a name".to_owned(),
                shown => format!("no datacenter `{shown}`{}", did_you_mean("dc:", name, names())),
            };
            return Err(format!("{what} (datacenters: {})", listed(names())));
        }
        let members: Vec<&NodeSpec> =
            topology.nodes().filter(|node| node.datacenter.as_str() == name).filter(others).collect();
        return if members.is_empty() {
            Err(format!("datacenter `{name}` has no other member"))
        } else {
            Ok(members)
        };
    }
    let Some(node) = topology.nodes().find(|node| node.id.as_str() == word) else {
        if topology.datacenters().iter().any(|datacenter| datacenter.as_str() == word) {
            return Err(format!("no node `{shown}`; for the datacenter write dc:{word}"));
        }
        // Names have no capitals.
        let lower = word.to_ascii_lowercase();
        if lower.starts_with("dc:") && lower != word {
            return members(topology, me, &lower)
                .map_or_else(Err, |_| Err(format!("no node `{shown}`, did you mean {lower}?")));
        }
        let names = topology.nodes().filter(others).map(|node| node.id.as_str()).chain(["all"]);
        return Err(format!("no node `{shown}`{}", did_you_mean("", word, names)));
    };
    if node.id == me.id {
        return Err(format!("node `{word}` is the sender itself"));
    }
    if !node.roles.member {
        return Err(format!("node `{word}` is no member (it has {}) and receives nothing", held(node.roles)));
    }
    Ok(vec![node])
}

/// Most datacenters an error lists.
const LISTED_MAX: usize = 12;

fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let mut names: Vec<&str> = names.take(LISTED_MAX + 1).collect();
    if let Some(last) = names.get_mut(LISTED_MAX) {
        *last = "…";
    }
    names.join(", ")
}

fn did_you_mean<'n>(prefix: &str, word: &str, names: impl Iterator<Item = &'n str>) -> String {
    nearest(word, names).map_or(String::new(), |near| format!(", did you mean {prefix}{near}?"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use trunkline_mesh::{ClusterId, Roles};

    fn topology() -> Topology {
        let both = Roles { origin: true, member: true, proxy: false };
        let nodes = [
            ("us-leader", "us", both),
            ("eu-p1", "eu", Roles::PROXY),
            ("eu-m1", "eu", Roles::MEMBER),
            ("eu-m2", "eu", Roles::MEMBER),
            ("ap-p1", "ap", Roles::PROXY),
        ];
        let spec = |(port, (id, dc, roles)): (u16, (&str, &str, Roles))| NodeSpec {
            id: NodeId::new(id).unwrap(),
            datacenter: Datacenter::new(dc).unwrap(),
            roles,
            address: Some(std::net::SocketAddr::from(([127, 0, 0, 1], port))),
        };
        Topology::new(ClusterId::new("c").unwrap(), (1..).zip(nodes).map(spec)).unwrap()
    }

    fn to(words: &[&str]) -> Result<Vec<String>, String> {
        let topology = topology();
        let me = topology.nodes().find(|node| node.id.as_str() == "us-leader").unwrap();
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let found = resolve(&topology, me, &words).map_err(|failure| failure.to_string())?;
        Ok(found.by_datacenter().flat_map(|(_, nodes)| nodes.iter().map(ToString::to_string)).collect())
    }

    #[test]
    fn words_are_members_each_once() {
        assert_eq!(to(&["all"]).unwrap(), ["eu-m1", "eu-m2"]);
        assert_eq!(to(&["eu-m2", "dc:eu", "eu-m1"]).unwrap(), ["eu-m1", "eu-m2"]);
    }

    #[test]
    fn every_wrong_word_is_told() {
        let told =
            to(&["eu-n1", "dc:ue", "dc:dc:eu", "eu-p1", "us-leader", "dc:ap", "eu", "zzzzzz"]).unwrap_err();
        assert!(!told.contains("empty"), "{told}");
        for part in [
            "no node `eu-n1`, did you mean eu-m1?",
            "no datacenter `ue`, did you mean dc:eu? (datacenters: ap, eu, us)",
            "no datacenter `dc:eu` (datacenters: ap, eu, us)",
            "node `eu-p1` is no member (it has the role proxy)",
            "node `us-leader` is the sender itself",
            "datacenter `ap` has no other member",
            "no node `eu`; for the datacenter write dc:eu",
            "no node `zzzzzz`",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }

    #[test]
    fn what_is_empty_or_in_capitals_is_told_as_that() {
        for (words, part) in [
            (&[""][..], "--to has an empty entry: write all, dc:NAME or node ids, separated by commas"),
            (&["eu-m1", " ", ""], "--to has an empty entry: write all,"),
            (&["dc:"], "--to has dc: without a name (datacenters: ap, eu, us)"),
            (&["DC:"], "--to has dc: without a name"),
            (&["DC:eu"], "no node `DC:eu`, did you mean dc:eu?"),
            (&["Dc:xx"], "no datacenter `xx` (datacenters: "),
            (&["dc:EU"], "no datacenter `EU`, did you mean dc:eu?"),
            (&["EU-m1"], "no node `EU-m1`, did you mean eu-m1?"),
            (&["ALL"], "no node `ALL`, did you mean all?"),
        ] {
            let told = to(words).unwrap_err();
            assert!(told.starts_with(&format!("nothing was sent: {part}")), "{part}: {told}");
            assert_eq!(told.matches("empty entry").count(), part.matches("empty entry").count(), "{told}");
        }
    }
}
