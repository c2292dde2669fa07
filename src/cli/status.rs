//! `trunkline status`: what a running node is and does.

mod trouble;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use serde::Deserialize;

use super::failure::Failure;
use super::fetch::{At, Process};
use super::table::{Align, Table};
use crate::config::units::{show_bytes, show_count, show_duration};
use trouble::{down, not_reached, taking_nothing};

#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    at: At,
    /// What the admin API says, as one JSON object
    #[arg(long)]
    json: bool,
    /// Only whether it is ready: shows nothing, or exits with 1 and says why it is not
    #[arg(long, conflicts_with = "json")]
    ready: bool,
}

/// What `/v1/status` says, as far as it is shown.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) ready: bool,
    pub(super) node: String,
    pub(super) datacenter: String,
    pub(super) cluster: String,
    pub(super) roles: Vec<String>,
    pub(super) uptime_s: u64,
    pub(super) draining: bool,
    pub(super) links: Vec<Link>,
    #[serde(default)]
    config_refused: Option<String>,
    #[serde(default)]
    replica: Option<Replica>,
    #[serde(default)]
    security: Option<Security>,
    #[serde(default)]
    down: Vec<Down>,
    pub(super) datacenters: Vec<Datacenter>,
    pub(super) proxy_queue_bytes: u64,
    pub(super) inbox_bytes: u64,
    /// An older node does not say.
    #[serde(default)]
    inbox_bytes_max: u64,
    #[serde(default)]
    pub(super) inbox_untaken_ms: u64,
    pub(super) held_bytes: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Link {
    peer: String,
    datacenter: String,
    dialled: bool,
    up: bool,
    draining: bool,
    rtt_us: Option<u64>,
    rtt_min_us: Option<u64>,
    clock_offset_us: Option<i64>,
    #[serde(default)]
    connections: Vec<Connection>,
}

/// What a replica is to the others.
#[derive(Debug, Clone, Deserialize)]
struct Replica {
    replica: String,
    role: String,
    term: u64,
    leader: Option<Place>,
    voters: Vec<Place>,
    learners: Vec<Place>,
    last_index: Option<u64>,
    commit_index: Option<u64>,
    applied_index: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
struct Place {
    node: String,
}

/// How links are protected.
#[derive(Debug, Clone, Deserialize)]
struct Security {
    links: String,
    certificate: Option<Certificate>,
    not_taken: Option<String>,
    authorities: Vec<Certificate>,
}

#[derive(Debug, Clone, Deserialize)]
struct Certificate {
    subject: String,
    expires_in_s: i64,
}

/// A peer that is to be linked and is not.
#[derive(Debug, Clone, Deserialize)]
struct Down {
    peer: String,
    datacenter: String,
    roles: Vec<String>,
    dialled: bool,
    down_ms: u64,
    failures: u64,
    why: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Connection {
    socket: Option<Socket>,
}

#[derive(Debug, Clone, Deserialize)]
struct Socket {
    congestion: Option<String>,
    unsent_bytes_max: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Datacenter {
    pub(super) name: String,
    pub(super) local: bool,
    pub(super) queued_bytes: u64,
    pub(super) pending_messages: u64,
    #[serde(default)]
    pub(super) unreached_destinations: u64,
    #[serde(default)]
    unreached: Vec<Unreached>,
    #[serde(default)]
    pub(super) untaken_destinations: u64,
    #[serde(default)]
    untaken: Vec<Untaken>,
    pub(super) routes: Vec<Route>,
}

/// A destination that nothing reaches.
#[derive(Debug, Clone, Deserialize)]
struct Unreached {
    node: String,
    unanswered_ms: u64,
    pending_messages: u64,
    way: String,
    proxy: Option<String>,
    why: String,
    link_why: Option<String>,
}

/// A destination that takes nothing.
#[derive(Debug, Clone, Deserialize)]
struct Untaken {
    node: String,
    untaken_ms: u64,
    pending_messages: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Route {
    pub(super) proxy: String,
    pub(super) in_use: bool,
    pub(super) state: String,
    pub(super) snoozed_ms: u64,
    pub(super) attempt_timeout_ms: u64,
    #[serde(default)]
    pub(super) linked: bool,
    #[serde(default)]
    pub(super) rtt_us: Option<u64>,
    #[serde(default)]
    pub(super) ack_us: Option<u64>,
    #[serde(default)]
    pub(super) failures: u64,
    #[serde(default)]
    pub(super) trial: bool,
}

pub(super) async fn status(args: StatusArgs) -> Result<(), Failure> {
    let process = args.at.process()?;
    if args.ready {
        return ready(&process).await;
    }
    let status = process.json("/v1/status").await?;
    if args.json {
        return print(&format!("{status}\n"));
    }
    let known: Status = process.known("/v1/status", status)?;
    let ready = process.json("/readyz").await?;
    print(&known.describe(&reasons(&ready)))
}

/// As `/readyz`, by exit code: for those who can run a command and have no certificate.
async fn ready(process: &Process) -> Result<(), Failure> {
    let ready = process.json("/readyz").await?;
    if ready["ready"] == true {
        return Ok(());
    }
    Err(Failure::Failed(format!("not ready: {}", reasons(&ready).join(", "))))
}

/// Why it is not ready.
fn reasons(ready: &serde_json::Value) -> Vec<&str> {
    ready["reasons"].as_array().into_iter().flatten().filter_map(|reason| reason.as_str()).collect()
}

/// To standard output.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::shown)
}

impl Status {
    pub(super) fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|has| has == role)
    }

    /// One line: who this is, and how long it has been up.
    pub(super) fn headline(&self) -> String {
        let health = match (self.draining, self.ready) {
            (true, _) => "draining",
            (false, true) => "ready",
            (false, false) => "not ready",
        };
        format!(
            "{}: {} of datacenter {}, cluster {}, version {}, {health}, up {}",
            self.node,
            self.roles.join("+"),
            self.datacenter,
            self.cluster,
            self.version,
            uptime(self.uptime_s)
        )
    }

    pub(super) fn links_up(&self) -> usize {
        self.links.iter().filter(|link| link.up).count()
    }

    /// One that dials and is dialled has two rows.
    pub(super) fn peers_down(&self) -> u64 {
        self.down.iter().map(|of| &of.peer).collect::<BTreeSet<_>>().len() as u64
    }

    pub(super) fn unreached_destinations(&self) -> u64 {
        self.datacenters.iter().map(|datacenter| datacenter.unreached_destinations).sum()
    }

    /// What waits for the application, and what there is room for.
    pub(super) fn inbox(&self) -> String {
        let (bytes, max) = (show_bytes(self.inbox_bytes), show_bytes(self.inbox_bytes_max));
        if self.inbox_bytes_max > 0 { format!("{bytes} of {max}") } else { bytes }
    }

    /// How long the application has taken nothing of that, from a second on.
    pub(super) fn untaken(&self) -> Option<String> {
        (self.inbox_untaken_ms >= 1_000).then(|| uptime(self.inbox_untaken_ms / 1_000))
    }

    fn describe(&self, reasons: &[&str]) -> String {
        let mut text = self.headline() + "\n";
        if let Some(replica) = &self.replica {
            let _ = writeln!(text, "{}", replica.line());
        }
        if let Some(security) = &self.security {
            let _ = writeln!(text, "{}", security.line());
        }
        if let Some(why) = &self.config_refused {
            let _ = writeln!(text, "configuration file refused, that of before stays in use: {why}");
        }
        for reason in reasons {
            let _ = writeln!(text, "not ready: {reason}");
        }
        let untaken =
            self.untaken().map(|long| format!(", of which the application has taken nothing for {long}"));
        for (what, bytes, shown) in [
            ("queued for members", self.proxy_queue_bytes, show_bytes(self.proxy_queue_bytes)),
            ("in the inbox", self.inbox_bytes, self.inbox() + &untaken.unwrap_or_default()),
            ("held behind gaps or for room", self.held_bytes, show_bytes(self.held_bytes)),
        ] {
            if bytes > 0 {
                let _ = writeln!(text, "{what}: {shown}");
            }
        }
        if !self.down.is_empty() {
            let _ = write!(text, "\n{} down\n{}", show_count(self.peers_down(), "peer"), down(&self.down));
        }
        let unreached = self.unreached_destinations();
        if unreached > 0 {
            let what = show_count(unreached, "destination");
            let _ = write!(text, "\n{what} not reached\n{}", not_reached(&self.datacenters));
        }
        let untaken = self.datacenters.iter().map(|datacenter| datacenter.untaken_destinations).sum();
        if untaken > 0 {
            let what = show_count(untaken, "destination");
            let _ = write!(text, "\n{what} full, taking nothing\n{}", taking_nothing(&self.datacenters));
        }
        let mut links = Table::new(&[
            (Align::Left, "peer"),
            (Align::Left, "datacenter"),
            (Align::Left, "opened by"),
            (Align::Left, "link"),
            (Align::Right, "round trip"),
            (Align::Right, "least"),
            (Align::Right, "clock offset"),
            (Align::Left, "congestion"),
            (Align::Right, "unsent limit"),
        ]);
        // One that is being opened is of a peer that is shown as down, unless nobody waits for it.
        let is_down = |link: &&Link| self.down.iter().any(|of| of.is_of(link));
        let mut shown: Vec<&Link> = self.links.iter().filter(|link| link.up || !is_down(link)).collect();
        shown.sort_by_key(|link| (&link.datacenter, &link.peer, !link.dialled));
        for link in &shown {
            let state = match (link.up, link.draining) {
                (false, _) => "opening",
                (true, true) => "draining",
                (true, false) => "up",
            };
            links.row(vec![
                link.peer.clone(),
                link.datacenter.clone(),
                if link.dialled { "this node" } else { "the peer" }.to_owned(),
                state.to_owned(),
                time(link.rtt_us),
                time(link.rtt_min_us),
                link.clock_offset_us.map_or_else(|| "-".to_owned(), offset),
                link.of_sockets(|socket| socket.congestion.clone()),
                link.of_sockets(|socket| socket.unsent_bytes_max.map(show_bytes)),
            ]);
        }
        let _ = write!(text, "\n{}\n", show_count(shown.len() as u64, "link"));
        if !shown.is_empty() {
            let _ = write!(text, "{links}");
        }
        if !self.datacenters.is_empty() {
            let _ = write!(text, "\n{}", datacenters(&self.datacenters));
        }
        text
    }
}

impl Link {
    /// What its sockets took for an option: once if they agree, which they do unless the system was set up anew in between.
    fn of_sockets(&self, option: impl Fn(&Socket) -> Option<String>) -> String {
        let sockets = self.connections.iter().filter_map(|connection| connection.socket.as_ref());
        let mut took: Vec<String> = sockets.filter_map(option).collect();
        took.dedup();
        if took.is_empty() { "-".to_owned() } else { took.join(", ") }
    }
}

impl Replica {
    fn line(&self) -> String {
        let role = match &self.leader {
            Some(leader) if self.role != "leader" => format!("{} of {}", self.role, leader.node),
            _ => self.role.clone(),
        };
        let mut line = format!("replica {}: {role}, term {}", self.replica, self.term);
        for (of, what) in [(&self.voters, "voter"), (&self.learners, "learner")] {
            if !of.is_empty() {
                line += &format!(", {}", show_count(of.len() as u64, what));
            }
        }
        for (index, what) in
            [(self.last_index, "last"), (self.commit_index, "committed"), (self.applied_index, "applied")]
        {
            line += &index.map_or_else(|| format!(", nothing {what}"), |index| format!(", {what} {index}"));
        }
        line
    }
}

impl Security {
    fn line(&self) -> String {
        let Some(own) = &self.certificate else { return format!("tls: off, plaintext ({})", self.links) };
        let mut line = format!("tls: on, certificate of {} {}", own.subject, own.expiry());
        if let [first, others @ ..] = &self.authorities[..] {
            line += &format!(", CA {} {}", first.subject, first.expiry());
            if !others.is_empty() {
                line += &format!(", and {} later", show_count(others.len() as u64, "other"));
            }
        }
        if let Some(why) = &self.not_taken {
            line +=
                &format!("\ncertificate files not taken, this node shows the certificate of before: {why}");
        }
        line
    }
}

impl Certificate {
    /// In days, or where that is too coarse in hours and minutes.
    fn expiry(&self) -> String {
        let (long, over) = (self.expires_in_s.unsigned_abs(), self.expires_in_s < 0);
        let long = match long {
            // The nearest one: what was just made for 365 days has 365.
            172_800.. => format!("{} d", (long + 43_200) / 86_400),
            7_200.. => format!("{} h", long / 3_600),
            _ => format!("{} min", long / 60),
        };
        if over { format!("expired {long} ago") } else { format!("expires in {long}") }
    }
}

impl Down {
    fn is_of(&self, link: &Link) -> bool {
        self.peer == link.peer && self.dialled == link.dialled
    }
}

/// A row per datacenter, as a sender sees it.
fn datacenters(datacenters: &[Datacenter]) -> Table {
    let mut table = Table::new(&[
        (Align::Left, "datacenter"),
        (Align::Left, "way"),
        (Align::Right, "queued"),
        (Align::Right, "pending"),
    ]);
    for datacenter in datacenters {
        table.row(vec![
            datacenter.name.clone(),
            datacenter.way(),
            show_bytes(datacenter.queued_bytes),
            show_count(datacenter.pending_messages, "message"),
        ]);
    }
    table
}

impl Datacenter {
    /// The way that the next batch takes, in a word or two.
    pub(super) fn way(&self) -> String {
        if self.local {
            return "direct (local)".to_owned();
        }
        match self.routes.iter().find(|route| route.in_use) {
            Some(route) => format!("by {}", route.proxy),
            None => "no usable proxy: direct where linked".to_owned(),
        }
    }
}

impl Datacenter {
    /// The same, where there is little room.
    pub(super) fn short_way(&self) -> String {
        if self.local || self.routes.iter().any(|route| route.in_use) {
            self.way()
        } else {
            "no proxy".to_owned()
        }
    }
}

/// A table of all proxies of these datacenters.
pub(super) fn proxies<'a>(datacenters: impl Iterator<Item = &'a Datacenter>) -> Table {
    let mut table = Table::new(&[
        (Align::Left, "datacenter"),
        (Align::Left, "proxy"),
        (Align::Left, "state"),
        (Align::Right, "snoozed for"),
        (Align::Right, "round trip"),
        (Align::Right, "ack"),
        (Align::Right, "ack timeout"),
        (Align::Right, "failures"),
    ]);
    for datacenter in datacenters {
        for route in &datacenter.routes {
            let state = match route.state.as_str() {
                "up" if route.in_use => "in use",
                "up" if route.trial => "on trial",
                other => other,
            };
            let ms = |ms: u64| show_duration(Duration::from_millis(ms));
            table.row(vec![
                datacenter.name.clone(),
                route.proxy.clone(),
                state.to_owned(),
                if route.snoozed_ms > 0 { ms(route.snoozed_ms) } else { "-".to_owned() },
                time(route.rtt_us),
                time(route.ack_us),
                if route.linked { ms(route.attempt_timeout_ms) } else { "-".to_owned() },
                route.failures.to_string(),
            ]);
        }
    }
    table
}

/// A time that may not be known.
pub(super) fn time(us: Option<u64>) -> String {
    us.map_or_else(|| "-".to_owned(), |us| show_duration(Duration::from_micros(us)))
}

/// How much later the other clock is.
pub(super) fn offset(us: i64) -> String {
    let sign = if us < 0 { "-" } else { "+" };
    format!("{sign}{}", show_duration(Duration::from_micros(us.unsigned_abs())))
}

/// Whole units, the two largest.
fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fetch::read;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_is_shown_in_aligned_tables_with_units() {
        let status: Status = read(json!({
            "version": "0.1.0", "ready": false, "node": "us-leader", "datacenter": "us", "cluster": "c",
            "roles": ["origin"], "uptime_s": 3_700, "draining": false, "proxy_queue_bytes": 0,
            "inbox_bytes": 2_048, "inbox_bytes_max": 4_096, "inbox_untaken_ms": 61_999, "held_bytes": 0, "later": "is ignored",
            "security": {
                "links": "tls",
                "certificate": { "subject": "spiffe://c/dc/us/node/us-leader", "expires_in_s": 2_500_000, "not_after_unix_s": 1 },
                "authorities": [{ "subject": "CN=c", "expires_in_s": -7_300, "not_after_unix_s": 1 }],
            },
            "links": [
                { "peer": "eu-p1", "datacenter": "eu", "dialled": true, "up": true, "draining": false,
                  "rtt_us": 40_500, "rtt_min_us": 40_000, "clock_offset_us": -1_500,
                  "connections": [
                      { "conn": 1, "lane": "control",
                        "socket": { "congestion": "cubic", "unsent_bytes_max": 131_072 } },
                      { "conn": 2, "lane": "bulk",
                        "socket": { "congestion": "bbr", "unsent_bytes_max": 131_072 } },
                  ] },
                { "peer": "eu-m3", "datacenter": "eu", "dialled": true, "up": false, "draining": false,
                  "rtt_us": null, "rtt_min_us": null, "clock_offset_us": null },
                { "peer": "eu-p2", "datacenter": "eu", "dialled": true, "up": false, "draining": false,
                  "rtt_us": null, "rtt_min_us": null, "clock_offset_us": null },
            ],
            "down": [
                { "peer": "eu-p2", "datacenter": "eu", "roles": ["proxy"], "dialled": true, "down_ms": 61_000,
                  "failures": 7, "why": "10.0.0.2:7400: Connection refused" },
                { "peer": "us-p1", "datacenter": "us", "roles": ["proxy", "member"], "dialled": true,
                  "down_ms": 900, "failures": 1, "why": null },
                { "peer": "us-p1", "datacenter": "us", "roles": ["proxy", "member"], "dialled": false,
                  "down_ms": 900, "failures": 0, "why": null },
            ],
            "datacenters": [{ "name": "eu", "local": false, "queued_bytes": 1_536, "pending_messages": 1,
                "unreached_destinations": 1,
                "unreached": [{ "node": "eu-m3", "unanswered_ms": 5_200, "pending_messages": 1,
                                "way": "proxy", "proxy": "eu-p1", "why": "unreachable",
                                "link_why": "10.0.0.3:7400: Connection refused" }],
                "untaken_destinations": 1,
                "untaken": [{ "node": "eu-m4", "untaken_ms": 12_345, "pending_messages": 7 }],
                "routes": [{ "proxy": "eu-p1", "in_use": true, "state": "up", "snoozed_ms": 0,
                             "attempt_timeout_ms": 90 }] }],
        }))
        .unwrap();
        let text = "\
us-leader: origin of datacenter us, cluster c, version 0.1.0, not ready, up 1 h 1 min
tls: on, certificate of spiffe://c/dc/us/node/us-leader expires in 29 d, CA CN=c expired 2 h ago
not ready: the node is draining
in the inbox: 2 KiB of 4 KiB, of which the application has taken nothing for 1 min 1 s

2 peers down
peer   datacenter  roles         link                        for  failed dials  last error
eu-p2  eu          proxy         down, dialling        1 min 1 s             7  10.0.0.2:7400: Connection refused
us-p1  us          proxy+member  down, dialling              0 s             1  -
us-p1  us          proxy+member  down, the peer dials        0 s             -  -

1 destination not reached
destination  datacenter  for    pending  last tried  came to      last error of its link
eu-m3        eu          5 s  1 message  by eu-p1    unreachable  10.0.0.3:7400: Connection refused

1 destination full, taking nothing
destination  datacenter   for     pending
eu-m4        eu          12 s  7 messages

2 links
peer   datacenter  opened by  link     round trip  least  clock offset  congestion  unsent limit
eu-m3  eu          this node  opening           -      -             -  -                      -
eu-p1  eu          this node  up          40.5 ms  40 ms       -1.5 ms  cubic, bbr       128 KiB

datacenter  way        queued    pending
eu          by eu-p1  1.5 KiB  1 message
";
        assert_eq!(status.describe(&["the node is draining"]), text);
    }

    #[test]
    fn a_replica_is_told_with_whom_it_follows_and_how_far_its_log_goes() {
        let place = |node: &str| json!({ "node": node, "datacenter": "us", "replica": "7" });
        let mut status = json!({
            "replica": "7", "role": "follower", "term": 3, "leader": place("us-2"), "voters": [place("us-1"), place("us-2")],
            "learners": [], "last_index": 12, "commit_index": 11, "applied_index": null,
        });
        let line = |status: &serde_json::Value| read::<Replica>(status.clone()).unwrap().line();
        let told = "replica 7: follower of us-2, term 3, 2 voters, last 12, committed 11, nothing applied";
        assert_eq!(line(&status), told);
        (status["role"], status["learners"]) = ("leader".into(), json!([place("us-3")]));
        assert!(line(&status).starts_with("replica 7: leader, term 3, 2 voters, 1 learner, "));
    }

    #[test]
    fn plaintext_is_told_with_what_keeps_it_in() {
        let security: Security =
            read(json!({ "links": "loopback", "certificate": null, "authorities": [] })).unwrap();
        assert_eq!(security.line(), "tls: off, plaintext (loopback)");
        let own = json!({ "subject": "spiffe://c/dc/us/node/m", "expires_in_s": 864_000 });
        let security =
            json!({ "links": "tls", "certificate": own, "not_taken": "it was revoked", "authorities": [] });
        assert_eq!(
            read::<Security>(security).unwrap().line(),
            "tls: on, certificate of spiffe://c/dc/us/node/m expires in 10 d\n\
             certificate files not taken, this node shows the certificate of before: it was revoked"
        );
    }

    #[test]
    fn times_up_are_told_in_two_units() {
        let told = [59, 60, 3_599, 3_600, 86_399, 90_000].map(uptime);
        assert_eq!(told, ["59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "23 h 59 min", "1 d 1 h"]);
    }
}
