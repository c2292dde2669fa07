//! `trunkline ping`: round trips through the mesh, from a running node to another one, by the way that messages take.

use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::failure::Failure;
use super::fetch::At;
use super::status::{offset, print};
use crate::config::units::{parse_duration, show_count, show_duration};

#[derive(Debug, clap::Args)]
pub(super) struct PingArgs {
    /// Whom to reach
    #[arg(value_name = "NODE")]
    to: trunkline_mesh::NodeId,
    // From where: the node whose admin API is asked.
    #[command(flatten)]
    at: At,
    /// How many round trips
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Between two of them
    #[arg(long, value_name = "DURATION", default_value = "200 ms", value_parser = interval)]
    interval: Duration,
    /// One JSON object at the end, for scripts
    #[arg(long)]
    json: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text).map_err(|error| error.to_string())?;
    if interval <= Duration::from_secs(3600) { Ok(interval) } else { Err("use at most 1 h".to_owned()) }
}

/// What `/v1/ping/NODE` says, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Pinged {
    way: String,
    proxy: Option<String>,
    rtt_us: u64,
    attempts: u32,
    clock_offset_us: Option<i64>,
}

/// All round trips so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    sent: u32,
    rtts_us: Vec<u64>,
}

pub(super) async fn ping(args: PingArgs) -> Result<(), Failure> {
    let process = args.at.process()?;
    let path = format!("/v1/ping/{}", args.to);
    let mut tally = Tally::default();
    let mut last = None;
    let mut ticks = tokio::time::interval(args.interval.max(Duration::from_millis(1)));
    for _ in 0..args.count {
        ticks.tick().await;
        tally.sent += 1;
        let (code, body) = process.ask(Method::POST, &path).await?;
        let why = body["error"].as_str().unwrap_or("no reason is given").to_owned();
        let line = match code {
            StatusCode::OK => {
                let pinged: Pinged = process.known(&path, body)?;
                tally.rtts_us.push(pinged.rtt_us);
                let line = format!("{}: {}\n", args.to, pinged.line());
                last = Some(pinged);
                line
            }
            StatusCode::BAD_REQUEST => return Err(Failure::Usage(why)),
            // Most of what is said names the node already.
            _ if why.starts_with(&format!("`{}`", args.to)) => format!("{why}\n"),
            _ => format!("{}: {why}\n", args.to),
        };
        if !args.json {
            print(&line)?;
        }
    }
    print(&if args.json { tally.json(args.to.as_str(), last.as_ref()) } else { tally.summary() })?;
    if tally.rtts_us.is_empty() {
        return Err(Failure::Failed(format!("{} does not answer", args.to)));
    }
    Ok(())
}

impl Pinged {
    fn line(&self) -> String {
        let way = self.proxy.as_ref().map_or_else(|| self.way.clone(), |proxy| format!("by {proxy}"));
        let mut line = format!("{}, {way}", show_duration(Duration::from_micros(self.rtt_us)));
        if self.attempts > 1 {
            line += &format!(", {}", show_count(u64::from(self.attempts), "attempt"));
        }
        if let Some(us) = self.clock_offset_us {
            line += &format!(", clock offset {}", offset(us));
        }
        line
    }
}

impl Tally {
    /// Least, mean and most.
    fn spread(&self) -> Option<(u64, u64, u64)> {
        let (min, max) = (self.rtts_us.iter().min()?, self.rtts_us.iter().max()?);
        let count = u64::try_from(self.rtts_us.len()).ok()?;
        Some((*min, self.rtts_us.iter().sum::<u64>() / count, *max))
    }

    fn summary(&self) -> String {
        let answered = format!("{} sent, {} answered", self.sent, self.rtts_us.len());
        let shown = |us| show_duration(Duration::from_micros(us));
        match self.spread() {
            None => format!("\n{answered}\n"),
            Some((min, mean, max)) => {
                format!("\n{answered}, min {} avg {} max {}\n", shown(min), shown(mean), shown(max))
            }
        }
    }

    fn json(&self, node: &str, last: Option<&Pinged>) -> String {
        let spread = self.spread();
        let value = json!({
            "node": node,
            "sent": self.sent,
            "answered": self.rtts_us.len(),
            "rtt_min_us": spread.map(|(min, _, _)| min),
            "rtt_avg_us": spread.map(|(_, mean, _)| mean),
            "rtt_max_us": spread.map(|(_, _, max)| max),
            "way": last.map(|last| &last.way),
            "proxy": last.and_then(|last| last.proxy.as_ref()),
            "clock_offset_us": last.and_then(|last| last.clock_offset_us),
        });
        format!("{value}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_told_with_units_and_their_way() {
        let pinged = Pinged {
            way: "proxy".to_owned(),
            proxy: Some("eu-p1".to_owned()),
            rtt_us: 40_500,
            attempts: 2,
            clock_offset_us: None,
        };
        assert_eq!(pinged.line(), "40.5 ms, by eu-p1, 2 attempts");
        let link =
            Pinged { way: "link".to_owned(), proxy: None, attempts: 1, clock_offset_us: Some(-20), ..pinged };
        assert_eq!(link.line(), "40.5 ms, link, clock offset -20 us");
        let tally = Tally { sent: 3, rtts_us: vec![100, 300] };
        assert_eq!(tally.summary(), "\n3 sent, 2 answered, min 100 us avg 200 us max 300 us\n");
        assert_eq!(Tally { sent: 1, rtts_us: Vec::new() }.summary(), "\n1 sent, 0 answered\n");
        let json: serde_json::Value = serde_json::from_str(&tally.json("m", Some(&link))).unwrap();
        assert_eq!((&json["rtt_avg_us"], &json["way"]), (&200.into(), &"link".into()));
    }
}
