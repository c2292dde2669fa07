//! `trunkline tail`: the committed log of a cluster as it grows, from whichever node is there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::environment;
use super::failure::Failure;
use super::fetch::{Shown, is_address, load};
use super::signal::Stop;
use crate::client::{
    Address, AskError, Entry, Event, Outcome, Pair, Snapshot, SnapshotError, SubscribeError, Subscription,
    What, newest,
};
use crate::config::units::parse_duration;
use crate::config::{Config, Protection};
use crate::consensus::key_value::Operation;

#[derive(Debug, clap::Args)]
pub(super) struct TailArgs {
    /// Where replicas serve clients: the first one is asked, and where it fails the next one
    #[arg(
        long,
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        required_unless_present = "config",
        conflicts_with = "config"
    )]
    api: Vec<String>,
    /// The configuration file, which says where replicas serve clients
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The node of the file to ask first, whose certificate is shown within TLS [default: what TRUNKLINE_NODE says, else the first]
    #[arg(long, value_name = "ID", requires = "config")]
    node: Option<String>,
    #[command(flatten)]
    shown: Shown,
    /// The first index [default: the one after what is committed now; 0: the very first]
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// First all keys as they are at a node, then what changes them
    #[arg(long, conflicts_with = "from")]
    snapshot: bool,
    /// Only puts and deletes of keys that begin so
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Lines as a node tells them: JSON, one object per entry
    #[arg(long)]
    json: bool,
    /// End once this entry was told, or passed over
    #[arg(long, value_name = "INDEX")]
    until: Option<u64>,
    /// End after so many entries
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Characters of what an entry says, at most
    #[arg(long, value_name = "COUNT", default_value_t = 80)]
    width: usize,
    /// How long to go on trying while no node answers
    #[arg(long, value_name = "DURATION", default_value = "30 s", value_parser = patience)]
    patience: Duration,
}

fn patience(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

pub(super) async fn tail(args: TailArgs) -> Result<(), Failure> {
    let mut stop = Stop::listen()?;
    let addresses = args.addresses()?;
    tokio::select! {
        followed = args.follow(addresses) => followed,
        _ = stop.signal() => Ok(()),
    }
}

impl TailArgs {
    async fn follow(&self, addresses: Vec<Address>) -> Result<(), Failure> {
        let from = match self.from {
            Some(from) => from,
            None if self.snapshot => self.show_snapshot(&addresses).await? + 1,
            None => newest(&addresses, self.patience).await?.map_or(0, |newest| newest + 1),
        };
        if self.until.is_some_and(|until| until < from) {
            return Ok(());
        }
        let mut subscription = Subscription::open(addresses, from).patience(self.patience);
        if let Some(prefix) = &self.prefix {
            subscription = subscription.prefix(prefix);
        }
        let mut told = 0;
        loop {
            let seen = match subscription.event().await? {
                Event::Entry(entry) if self.until.is_some_and(|until| until < entry.index) => return Ok(()),
                Event::Entry(entry) => {
                    let line = if self.json { entry.line.clone() + "\n" } else { text(&entry, self.width) };
                    print(&line)?;
                    told += 1;
                    entry.index
                }
                Event::Progress(seen) => seen,
            };
            if self.count.is_some_and(|count| told >= count) || self.until.is_some_and(|until| until <= seen)
            {
                return Ok(());
            }
        }
    }

    /// Shows all keys, and gives the last entry in them.
    async fn show_snapshot(&self, addresses: &[Address]) -> Result<u64, Failure> {
        let prefix = self.prefix.as_deref().unwrap_or_default();
        let mut snapshot = Snapshot::get(addresses, prefix, 0, self.patience).await?;
        let (index, term, mut keys) = (snapshot.index(), snapshot.term(), 0u64);
        if self.json {
            print(&format!("{}\n", json!({ "snapshot": { "index": index, "term": term } })))?;
        }
        while let Some(pair) = snapshot.next().await? {
            let line = if self.json { pair.line + "\n" } else { text_of_pair(&pair, self.width) };
            print(&line)?;
            keys += 1;
        }
        let said = format!("{keys} {}", if keys == 1 { "key" } else { "keys" });
        print(&match self.json {
            true => format!("{}\n", json!({ "end": { "keys": keys } })),
            false => aligned(index, &term.to_string(), "snapshot", said.as_bytes(), self.width),
        })?;
        Ok(index)
    }

    fn addresses(&self) -> Result<Vec<Address>, Failure> {
        let Some(file) = &self.config else {
            if let Some(wrong) = self.api.iter().find(|address| !is_address(address)) {
                let shown: String = wrong.chars().take(64).flat_map(char::escape_default).collect();
                let why = format!("`--api` needs HOST:PORT, such as 127.0.0.1:7480, and `{shown}` is none");
                return Err(Failure::Usage(why));
            }
            let credentials = self.shown.files().map(|files| load(&files)).transpose()?;
            let address = |host: &String| match &credentials {
                None => Address::plaintext(host),
                Some(credentials) => Address::within_tls(host, Arc::clone(credentials), None),
            };
            return Ok(self.api.iter().map(address).collect());
        };
        let config = Config::load(file)?;
        let asked = self.node.clone().or_else(|| environment::variable("TRUNKLINE_NODE"));
        let mut nodes: Vec<_> =
            config.topology().nodes().filter_map(|node| Some((node, config.api(&node.id)?))).collect();
        let file = config.path().display();
        if nodes.is_empty() {
            let why = format!("{file}: no node serves clients: give `api` to those that have `data`");
            return Err(Failure::Config(why));
        }
        if let Some(asked) = &asked {
            let Some(at) = nodes.iter().position(|(node, _)| node.id.as_str() == asked) else {
                let shown: String = asked.chars().take(64).flat_map(char::escape_default).collect();
                let why = format!("{file}: no node `{shown}` that serves clients is listed: correct --node");
                return Err(Failure::Config(why));
            };
            nodes.rotate_left(at);
        }
        let within_tls = nodes.iter().any(|(node, _)| config.api_protection(&node.id) == Protection::Tls);
        let files = self.shown.files().or_else(|| config.tls_files(&nodes[0].0.id)).filter(|_| within_tls);
        let credentials = files.map(|files| load(&files)).transpose()?;
        let address = |(node, address): &(&trunkline_mesh::NodeSpec, std::net::SocketAddr)| {
            let host = address.to_string();
            match (&credentials, config.api_protection(&node.id)) {
                (Some(credentials), Protection::Tls) => {
                    let expected = config.topology().name(node);
                    Address::within_tls(host, Arc::clone(credentials), Some(expected))
                }
                _ => Address::plaintext(host),
            }
        };
        Ok(nodes.iter().map(address).collect())
    }
}

fn print(line: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::shown)
}

/// An entry for people.
fn text(entry: &Entry, width: usize) -> String {
    let (kind, said) = match &entry.what {
        What::Nothing => ("nothing", Vec::new()),
        What::OpensSession => ("session", entry.index.to_string().into_bytes()),
        What::Membership(members) => ("members", members_of(members).into_bytes()),
        What::Operation { operation, outcome, .. } => {
            let (kind, said) = match Operation::decode(operation) {
                Ok(Operation::Put { key, value, .. }) => ("put", [key.as_bytes(), b" = ", &value].concat()),
                Ok(Operation::Delete { key, .. }) => ("delete", key.into_bytes()),
                Err(_) => ("operation", operation.to_vec()),
            };
            // Before what may be long.
            (kind, [undone(outcome.as_ref()).as_bytes(), &said].concat())
        }
        What::Other(kind) => ("other", kind.clone().into_bytes()),
    };
    aligned(entry.index, &entry.term.to_string(), kind, &said, width)
}

/// Why an operation did nothing, where that is so.
fn undone(outcome: Option<&Outcome>) -> String {
    match outcome {
        Some(Outcome::Done) => String::new(),
        Some(Outcome::Conflict { mod_index: 0 }) => "[not done: the key was not there] ".to_owned(),
        Some(Outcome::Conflict { mod_index }) => {
            format!("[not done: entry {mod_index} had changed the key last] ")
        }
        Some(Outcome::Invalid { .. }) => "[not done: it is no operation] ".to_owned(),
        Some(Outcome::Repeated) => "[done before] ".to_owned(),
        Some(Outcome::SessionExpired) => "[not done: its session had expired] ".to_owned(),
        Some(Outcome::AnswerForgotten) => "[not done now: its session had come further] ".to_owned(),
        None => "[outcome not known] ".to_owned(),
    }
}

/// Who votes and who does not, by their nodes; two sets of voters while one takes the place of the other. Whatever is not understood is shown as it is.
fn members_of(members: &serde_json::Value) -> String {
    #[derive(serde::Deserialize)]
    struct Place {
        node: String,
    }
    #[derive(serde::Deserialize)]
    struct Members {
        voters: Vec<BTreeSet<String>>,
        replicas: BTreeMap<String, Place>,
    }
    let Ok(Members { voters, replicas }) = Members::deserialize(members) else { return members.to_string() };
    let named = |ids: &mut dyn Iterator<Item = &String>| {
        let mut names: Vec<&str> =
            ids.map(|id| replicas.get(id).map_or(id.as_str(), |place| place.node.as_str())).collect();
        names.sort_unstable();
        names.join(", ")
    };
    let sets: Vec<String> = voters.iter().map(|set| named(&mut set.iter())).collect();
    let mut shown = format!("voters {}", sets.join(" -> "));
    let learners = named(&mut replicas.keys().filter(|id| voters.iter().all(|set| !set.contains(*id))));
    if !learners.is_empty() {
        shown = format!("{shown}; learners {learners}");
    }
    shown
}

/// A key of a snapshot for people: the index is that of the entry which changed it last, whose term is not told.
fn text_of_pair(pair: &Pair, width: usize) -> String {
    aligned(pair.mod_index, "-", "is", &[pair.key.as_bytes(), b" = ", &pair.value].concat(), width)
}

fn aligned(index: u64, term: &str, kind: &str, said: &[u8], width: usize) -> String {
    let mut shown = String::new();
    for byte in said {
        let escaped = byte.escape_ascii();
        if shown.len() + escaped.len() > width {
            shown.push_str("...");
            break;
        }
        shown.extend(escaped.map(char::from));
    }
    let line = format!("index {index:<8}  term {term:<4}  {kind:<9}  {shown}");
    format!("{}\n", line.trim_end())
}

/// What a node said, without what steers a terminal.
fn told(error: &impl std::fmt::Display) -> String {
    error.to_string().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl From<SnapshotError> for Failure {
    fn from(error: SnapshotError) -> Self {
        let text = told(&error);
        match error {
            SnapshotError::Ask(error) => error.into(),
            SnapshotError::CutOff { .. } => Self::Unavailable(text),
        }
    }
}

impl From<SubscribeError> for Failure {
    fn from(error: SubscribeError) -> Self {
        let text = told(&error);
        match error {
            SubscribeError::Compacted { first, .. } => {
                Self::Failed(format!("{text}: --snapshot, or --from {first}"))
            }
            SubscribeError::Ask(error) => error.into(),
        }
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        let text = told(&error);
        match error {
            AskError::Refused { .. } => Self::Failed(text),
            AskError::Unavailable { .. } | AskError::NoAddress => Self::Unavailable(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_cut_and_do_not_steer_the_terminal() {
        let shown = |what: What, width| text(&Entry { index: 17, term: 2, what, line: String::new() }, width);
        let operation = |operation: Operation| What::Operation {
            request: None,
            operation: operation.encode(),
            outcome: Some(Outcome::Done),
        };
        let put = Operation::Put { key: "a\u{1b}".to_owned(), value: "one\n".into(), if_index: None };
        let put = operation(put);
        assert_eq!(shown(put.clone(), 80), "index 17        term 2     put        a\\x1b = one\\n\n");
        assert_eq!(shown(put, 9), "index 17        term 2     put        a\\x1b = o...\n");
        let delete = operation(Operation::Delete { key: "k".to_owned(), if_index: None });
        assert_eq!(shown(delete, 80), "index 17        term 2     delete     k\n");
        assert_eq!(shown(What::Nothing, 80), "index 17        term 2     nothing\n");
        let pair = Pair { key: "k\n".to_owned(), value: "v".into(), mod_index: 3, line: String::new() };
        assert_eq!(text_of_pair(&pair, 80), "index 3         term -     is         k\\n = v\n");
        let places = json!({ "1": { "node": "us-1" }, "2": { "node": "eu-1" }, "3": { "node": "ap-1" } });
        let members = |voters: serde_json::Value| {
            shown(What::Membership(json!({ "voters": voters, "replicas": places })), 80)
        };
        let line = |said: &str| format!("index 17        term 2     members    {said}\n");
        assert_eq!(members(json!([["1", "2", "3"]])), line("voters ap-1, eu-1, us-1"));
        assert_eq!(members(json!([["1", "2"]])), line("voters eu-1, us-1; learners ap-1"));
        assert_eq!(members(json!([["1"], ["1", "3"]])), line("voters us-1 -> ap-1, us-1; learners eu-1"));
        assert_eq!(shown(What::Membership(json!(1)), 80), line("1"));
        let other = What::Operation { request: None, operation: "x".into(), outcome: Some(Outcome::Done) };
        assert_eq!(shown(other, 80), "index 17        term 2     operation  x\n");
        let delete = Operation::Delete { key: "k".to_owned(), if_index: Some(3) }.encode();
        let became =
            |outcome| shown(What::Operation { request: None, operation: delete.clone(), outcome }, 80);
        let line = |said: &str| format!("index 17        term 2     delete     [{said}] k\n");
        let conflict = |mod_index| became(Some(Outcome::Conflict { mod_index }));
        assert_eq!(conflict(5), line("not done: entry 5 had changed the key last"));
        assert_eq!(conflict(0), line("not done: the key was not there"));
        assert_eq!(became(Some(Outcome::Repeated)), line("done before"));
        assert_eq!(became(None), line("outcome not known"));
    }
}
