//! `trunkline routes`: how a running sender reaches every datacenter, and why.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Deserialize;

use super::failure::Failure;
use super::fetch::At;
use super::status::{Datacenter, print, proxies};
use super::table::{Align, Table};
use crate::config::units::{show_count, show_duration};

#[derive(Debug, clap::Args)]
pub(super) struct RoutesArgs {
    #[command(flatten)]
    at: At,
    /// Only this datacenter
    #[arg(long, value_name = "NAME")]
    dc: Option<String>,
    /// Most decisions, and verdicts, that are shown per datacenter, the latest first
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    last: usize,
    /// What the admin API says, as one JSON object: all decisions and verdicts that it has
    #[arg(long, conflicts_with = "last")]
    json: bool,
}

/// What `/v1/routes` says, as far as it is shown.
#[derive(Debug, Deserialize)]
pub(super) struct Routes {
    node: String,
    origin: bool,
    now_unix_ms: u64,
    datacenters: Vec<Reached>,
}

#[derive(Debug, Deserialize)]
struct Reached {
    #[serde(flatten)]
    status: Datacenter,
    decisions_forgotten: u64,
    decisions: Vec<Decision>,
    #[serde(default)]
    verdicts: Vec<Verdict>,
}

#[derive(Debug, Deserialize)]
struct Verdict {
    verdict: String,
    proxy: Option<String>,
    destination: Option<String>,
    #[serde(default)]
    reported_by: Vec<String>,
    carried_by: Option<String>,
    evidence: Evidence,
    times: u64,
    last_unix_ms: u64,
}

#[derive(Debug, Deserialize)]
struct Evidence {
    silent: u64,
    suspects: u64,
    proxies: u64,
    others_snoozed: u64,
    unheard_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Decision {
    destination: String,
    lane: String,
    attempt: u32,
    way: String,
    proxy: Option<String>,
    why: String,
    probing: bool,
    passed: Vec<Passed>,
    times: u64,
    last_unix_ms: u64,
}

#[derive(Debug, Deserialize)]
struct Passed {
    way: String,
    proxy: Option<String>,
    why: String,
    left_ms: Option<u64>,
}

pub(super) async fn routes(args: RoutesArgs) -> Result<(), Failure> {
    let process = args.at.process()?;
    let mut said = process.json("/v1/routes").await?;
    if let (Some(wanted), Some(all)) = (&args.dc, said["datacenters"].as_array_mut()) {
        all.retain(|datacenter| datacenter["name"] == **wanted);
        if all.is_empty() {
            let wanted: String = wanted.chars().take(64).flat_map(char::escape_default).collect();
            let node = said["node"].as_str().unwrap_or_default();
            return Err(Failure::Usage(format!("node `{node}` sends to no datacenter `{wanted}`")));
        }
    }
    if args.json {
        return print(&format!("{said}\n"));
    }
    let mut routes: Routes = process.known("/v1/routes", said)?;
    print(&routes.describe(args.last))
}

impl Routes {
    fn describe(&mut self, last: usize) -> String {
        // A node tells them by when they began; what matters here is what it did last.
        for datacenter in &mut self.datacenters {
            datacenter.decisions.sort_by_key(|decision| std::cmp::Reverse(decision.last_unix_ms));
        }
        if !self.origin {
            return format!("{} is no origin: it sends no batches and has no routes\n", self.node);
        }
        let all = self.datacenters.iter().map(|datacenter| &datacenter.status);
        let mut remote = all.filter(|datacenter| !datacenter.local).peekable();
        let mut text =
            format!("{}: {}\n", self.node, show_count(self.datacenters.len() as u64, "datacenter"));
        if remote.peek().is_some() {
            let _ = write!(text, "\n{}", proxies(remote));
        }
        for datacenter in &self.datacenters {
            let name = &datacenter.status.name;
            let _ = write!(text, "\n{name}: {}", datacenter.status.way());
            if datacenter.decisions.is_empty() {
                text.push_str(", nothing was sent yet\n");
                continue;
            }
            let more =
                datacenter.decisions.len().saturating_sub(last) as u64 + datacenter.decisions_forgotten;
            if more > 0 {
                let _ = write!(text, ", and {more} before these");
            }
            let _ = write!(text, "\n{}", self.decisions(datacenter.decisions.iter().take(last)));
            if !datacenter.verdicts.is_empty() && last > 0 {
                let verdicts = self.verdicts(datacenter.verdicts.iter().take(last));
                let _ = write!(text, "\n{name}: who was blamed\n{verdicts}");
            }
        }
        text
    }

    fn verdicts<'a>(&self, verdicts: impl Iterator<Item = &'a Verdict>) -> Table {
        let mut table = Table::new(&[
            (Align::Right, "last"),
            (Align::Right, "times"),
            (Align::Left, "way"),
            (Align::Left, "destination"),
            (Align::Left, "verdict"),
        ]);
        for verdict in verdicts {
            table.row(vec![
                self.ago(verdict.last_unix_ms),
                verdict.times.to_string(),
                verdict.proxy.as_ref().map_or_else(|| "direct".to_owned(), |proxy| format!("by {proxy}")),
                verdict.destination.clone().unwrap_or_else(|| verdict.whom().to_owned()),
                verdict.reason(),
            ]);
        }
        table
    }

    fn ago(&self, unix_ms: u64) -> String {
        format!("{} ago", show_duration(Duration::from_millis(self.now_unix_ms.saturating_sub(unix_ms))))
    }

    fn decisions<'a>(&self, decisions: impl Iterator<Item = &'a Decision>) -> Table {
        let mut table = Table::new(&[
            (Align::Right, "last"),
            (Align::Right, "times"),
            (Align::Left, "destination"),
            (Align::Left, "lane"),
            (Align::Right, "attempt"),
            (Align::Left, "way"),
            (Align::Left, "why"),
        ]);
        for decision in decisions {
            table.row(vec![
                self.ago(decision.last_unix_ms),
                decision.times.to_string(),
                decision.destination.clone(),
                decision.lane.clone(),
                decision.attempt.to_string(),
                decision.proxy.as_ref().map_or_else(|| decision.way.clone(), |proxy| format!("by {proxy}")),
                decision.reason(),
            ]);
        }
        table
    }
}

impl Decision {
    /// Why, with what was passed over.
    fn reason(&self) -> String {
        let mut parts = vec![spaced(&self.why)];
        if self.probing {
            parts.push("one message at a time".to_owned());
        }
        parts.extend(self.passed.iter().map(|passed| {
            let way = passed.proxy.as_ref().unwrap_or(&passed.way);
            let left =
                passed.left_ms.map(|ms| format!(" ({} left)", show_duration(Duration::from_millis(ms))));
            format!("{way} {}{}", spaced(&passed.why), left.unwrap_or_default())
        }));
        parts.join(", ")
    }
}

impl Verdict {
    /// In place of a destination, where it is not one.
    fn whom(&self) -> &'static str {
        match self.verdict.as_str() {
            "proxy" | "connection" | "member" | "datacenter" | "capped" | "ejected" => "several",
            _ => "-",
        }
    }

    /// Who it is, and what was seen.
    fn reason(&self) -> String {
        let Evidence { silent, suspects, proxies, others_snoozed, unheard_ms } = self.evidence;
        let by = || self.reported_by.join(", ");
        let left = || format!("{others_snoozed} of {proxies} proxies left alone already");
        match self.verdict.as_str() {
            "proxy" => format!("the proxy, snoozed: {} silent", show_count(suspects, "destination")),
            "connection" => {
                format!(
                    "its connection of one lane, left by it: {} silent",
                    show_count(silent, "destination")
                )
            }
            "member" => "the member: it alone is silent".to_owned(),
            "datacenter" => {
                let heard = unheard_ms.map(|ms| format!(", the last was heard {ms} ms before"));
                format!(
                    "the datacenter: {} silent, all proxies late{}",
                    show_count(suspects, "destination"),
                    heard.unwrap_or_default()
                )
            }
            "capped" if self.reported_by.is_empty() => {
                format!("the proxy, still in use: {} silent, {}", show_count(suspects, "destination"), left())
            }
            "capped" => format!("the proxy, still in use: reported by {}, {}", by(), left()),
            "own_lag" => "this process: it was late itself".to_owned(),
            "false_ack" => {
                let carried = self.carried_by.as_ref().map(|proxy| format!(", said by way of {proxy}"));
                let lost = show_count(silent, "message");
                format!(
                    "the proxy, or who reports it: {lost} acknowledged that never arrived{}",
                    carried.unwrap_or_default()
                )
            }
            "false_life" => {
                "the proxy: it said that the member restarted, and the member says it did not".to_owned()
            }
            "false_hold" => {
                format!(
                    "the proxy: {} held, it said, that the member does not have",
                    show_count(silent, "message")
                )
            }
            "ejected" => format!("the proxy, ejected: reported by {}", by()),
            other => spaced(other),
        }
    }
}

fn spaced(label: &str) -> String {
    label.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::super::fetch::read;
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_answers_why_something_went_direct() {
        let route = |proxy: &str, state: &str, snoozed_ms: u64| {
            json!({ "proxy": proxy, "in_use": false, "state": state, "snoozed_ms": snoozed_ms,
                    "attempt_timeout_ms": 90, "linked": state != "down", "rtt_us": 40_000, "ack_us": null,
                    "failures": 1, "trial": false })
        };
        // It began later, and the other one went on for longer.
        let ended = json!({ "number": 10, "destination": "eu-m2", "lane": "bulk", "attempt": 1,
            "way": "proxy", "proxy": "eu-p1", "why": "in_use", "probing": false, "times": 1,
            "first_unix_ms": 2_000, "last_unix_ms": 2_000, "passed": [] });
        let decision = json!({ "number": 9, "destination": "eu-m1", "lane": "bulk", "attempt": 2,
            "way": "direct", "proxy": null, "why": "proxies_passed", "probing": true, "times": 3,
            "first_unix_ms": 1_000, "last_unix_ms": 8_500, "passed": [
                { "way": "proxy", "proxy": "eu-p1", "why": "snoozed", "left_ms": 800 },
                { "way": "proxy", "proxy": "eu-p2", "why": "not_linked", "left_ms": null } ] });
        let verdict = |name: &str, proxy: Option<&str>, destination: Option<&str>, last_unix_ms: u64| {
            json!({ "verdict": name, "proxy": proxy, "destination": destination, "times": 1, "reported_by": [],
                "carried_by": null, "first_unix_ms": 1_000, "last_unix_ms": last_unix_ms, "evidence": {
                    "silent": 3, "suspects": 3, "answers": false, "on_trial": false, "proxies": 2, "others": 1,
                    "others_late": 0, "others_snoozed": 1, "unheard_ms": 340 } })
        };
        let reported = |mut verdict: serde_json::Value| {
            verdict["reported_by"] = json!(["eu-m1", "eu-m2"]);
            verdict["carried_by"] = json!("eu-p2");
            verdict
        };
        let verdicts = json!([
            reported(verdict("capped", Some("eu-p2"), None, 9_800)),
            reported(verdict("ejected", Some("eu-p1"), None, 9_700)),
            reported(verdict("false_ack", Some("eu-p1"), Some("eu-m1"), 9_600)),
            verdict("proxy", Some("eu-p1"), None, 9_300),
            verdict("capped", Some("eu-p2"), None, 9_000),
            verdict("connection", Some("eu-p1"), None, 8_500),
            verdict("datacenter", Some("eu-p1"), None, 8_000),
            verdict("member", Some("eu-p1"), Some("eu-m2"), 7_000),
            verdict("own_lag", None, Some("eu-m2"), 6_000),
            verdict("new_one", None, None, 5_000),
        ]);
        let mut routes: Routes = read(json!({ "node": "us-leader", "origin": true, "now_unix_ms": 10_000,
            "datacenters": [{ "name": "eu", "local": false, "queued_bytes": 0, "pending_messages": 0,
                "routes": [route("eu-p1", "snoozed", 700), route("eu-p2", "down", 0)],
                "decisions_forgotten": 2, "decisions": [ended, decision], "verdicts": verdicts },
              { "name": "us", "local": true, "queued_bytes": 0, "pending_messages": 0, "routes": [],
                "decisions_forgotten": 0, "decisions": [], "verdicts": [] }] }))
        .unwrap();
        let text = "\
us-leader: 2 datacenters

datacenter  proxy  state    snoozed for  round trip  ack  ack timeout  failures
eu          eu-p1  snoozed       700 ms       40 ms    -        90 ms         1
eu          eu-p2  down               -       40 ms    -            -         1

eu: no usable proxy: direct where linked, and 2 before these
     last  times  destination  lane  attempt  way       why
1.5 s ago      3  eu-m1        bulk        2  direct    proxies passed, one message at a time, eu-p1 snoozed (800 ms left), eu-p2 not linked
  8 s ago      1  eu-m2        bulk        1  by eu-p1  in use

eu: who was blamed
      last  times  way       destination  verdict
200 ms ago      1  by eu-p2  several      the proxy, still in use: reported by eu-m1, eu-m2, 1 of 2 proxies left alone already
300 ms ago      1  by eu-p1  several      the proxy, ejected: reported by eu-m1, eu-m2
400 ms ago      1  by eu-p1  eu-m1        the proxy, or who reports it: 3 messages acknowledged that never arrived, said by way of eu-p2
700 ms ago      1  by eu-p1  several      the proxy, snoozed: 3 destinations silent
   1 s ago      1  by eu-p2  several      the proxy, still in use: 3 destinations silent, 1 of 2 proxies left alone already
 1.5 s ago      1  by eu-p1  several      its connection of one lane, left by it: 3 destinations silent
   2 s ago      1  by eu-p1  several      the datacenter: 3 destinations silent, all proxies late, the last was heard 340 ms before
   3 s ago      1  by eu-p1  eu-m2        the member: it alone is silent
   4 s ago      1  direct    eu-m2        this process: it was late itself
   5 s ago      1  direct    -            new one

us: direct (local), nothing was sent yet
";
        assert_eq!(routes.describe(20), text);
        let mut member =
            Routes { node: "m".to_owned(), origin: false, now_unix_ms: 0, datacenters: Vec::new() };
        assert_eq!(member.describe(20), "m is no origin: it sends no batches and has no routes\n");
    }
}
