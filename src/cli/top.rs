//! `trunkline top`: rates, queues and routes of a running node, every second.

mod rates;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use super::failure::Failure;
use super::fetch::{At, Process};
use super::status::{Status, print, proxies};
use super::table::cut;
use crate::config::units::parse_duration;
use rates::{Rates, Stats};

#[derive(Debug, clap::Args)]
pub(super) struct TopArgs {
    #[command(flatten)]
    at: At,
    /// One picture, of one interval, and no more
    #[arg(long)]
    once: bool,
    /// Pictures as JSON, one object per line
    #[arg(long)]
    json: bool,
    /// Between two pictures
    #[arg(long, value_name = "DURATION", default_value = "1 s", value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(10)..=Duration::from_secs(3600)).contains(&interval) {
        Ok(interval)
    } else {
        Err("use at least 10 ms and at most 1 h".to_owned())
    }
}

/// What was counted at one moment.
struct Sample {
    status: Status,
    stats: Stats,
    at: Instant,
}

impl Sample {
    async fn take(process: &Process) -> Result<Self, Failure> {
        let status = process.get("/v1/status").await?;
        let stats = process.get("/v1/stats").await?;
        Ok(Self { status, stats, at: Instant::now() })
    }
}

pub(super) async fn top(args: TopArgs) -> Result<(), Failure> {
    let process = args.at.process()?;
    let mut before = Sample::take(&process).await?;
    let live = std::io::stdout().is_terminal() && !args.once && !args.json;
    let mut ticks = tokio::time::interval(args.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick is at once.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        match Sample::take(&process).await {
            Ok(now) => {
                let rates = Rates::between(&before.stats, &now.stats, now.at.duration_since(before.at));
                let picture = if args.json {
                    format!("{}\n", rates.json(&now.status))
                } else {
                    let picture = picture(&now.status, &rates, size().map(|size| size.columns));
                    size().filter(|_| live).map_or(picture.clone(), |size| size.holds(&picture))
                };
                show(&picture, live)?;
                before = now;
            }
            // Somebody who watches wants to see it come back.
            Err(failure) if live => show(&format!("{failure}\n"), live)?,
            Err(failure) => return Err(failure),
        }
        if args.once {
            return Ok(());
        }
    }
}

fn show(picture: &str, live: bool) -> Result<(), Failure> {
    print(&drawn(picture, live))
}

/// One picture: over the last one on a terminal, below it elsewhere.
fn drawn(picture: &str, live: bool) -> Cow<'_, str> {
    if !live {
        return picture.into();
    }
    // Home, each line to its end, and what the last picture had below.
    format!("\x1b[H{}\x1b[J", picture.replace('\n', "\x1b[K\n")).into()
}

/// How large the terminal is.
#[derive(Clone, Copy)]
struct Size {
    columns: usize,
    rows: usize,
}

/// How large it is now; `None` elsewhere, where nothing is cut.
fn size() -> Option<Size> {
    let stdout = std::io::stdout();
    let size = stdout.is_terminal().then(|| rustix::termios::tcgetwinsize(&stdout).ok()).flatten()?;
    // A terminal that does not know says 0.
    let known = |cells: u16| Some(usize::from(cells)).filter(|cells| *cells > 0);
    Some(Size { columns: known(size.ws_col)?, rows: known(size.ws_row)? })
}

impl Size {
    /// As much of a picture as there are lines for, but for the one in which the cursor stays: what is above the first line of a
    /// terminal nobody sees.
    fn holds(self, picture: &str) -> String {
        let (lines, room) = (picture.lines().count(), self.rows.saturating_sub(1));
        if lines <= room {
            return picture.to_owned();
        }
        let shown = room.saturating_sub(1);
        let mut text: String = picture.split_inclusive('\n').take(shown).collect();
        if room > 0 {
            let more = format!("… and {} more lines: make the terminal higher", lines - shown);
            let _ = writeln!(text, "{}", cut(&more, self.columns));
        }
        text
    }
}

fn picture(status: &Status, rates: &Rates, columns: Option<usize>) -> String {
    const DISPENSABLE: [&str; 4] = ["failures", "ack timeout", "ack", "snoozed for"];
    let headline = status.headline();
    let mut text = columns.map_or(headline.clone(), |columns| cut(&headline, columns)) + "\n\n";
    if status.has_role("origin") {
        let _ = writeln!(text, "{}", rates.sending(&status.datacenters, columns));
        if status.datacenters.iter().any(|datacenter| !datacenter.routes.is_empty()) {
            let _ = writeln!(text, "{}", proxies(status.datacenters.iter()).within(columns, &DISPENSABLE));
        }
    }
    let _ = writeln!(text, "{}", rates.node(status).within(columns, &[]));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a terminal shows: as much of its language as [`drawn`] speaks.
    struct Screen {
        rows: Vec<Vec<char>>,
        at: (usize, usize),
    }

    impl Screen {
        /// Full of what was there before.
        fn new() -> Self {
            Self { rows: vec![vec!['#'; 40]; 12], at: (7, 3) }
        }

        fn take(&mut self, text: &str) {
            let mut rest = text;
            while let Some(first) = rest.chars().next() {
                let (row, column) = self.at;
                if let Some(after) = rest.strip_prefix("\x1b[H") {
                    (self.at, rest) = ((0, 0), after);
                } else if let Some(after) = rest.strip_prefix("\x1b[K") {
                    self.rows[row][column..].fill(' ');
                    rest = after;
                } else if let Some(after) = rest.strip_prefix("\x1b[J") {
                    self.rows[row][column..].fill(' ');
                    self.rows[row + 1..].iter_mut().for_each(|row| row.fill(' '));
                    rest = after;
                } else {
                    assert_ne!(first, '\x1b', "no other sequence: {rest:?}");
                    if first == '\n' {
                        self.at = (row + 1, 0);
                    } else {
                        self.rows[row][column] = first;
                        self.at.1 += 1;
                    }
                    rest = &rest[first.len_utf8()..];
                }
            }
        }

        fn shows(&self) -> String {
            let lines = self.rows.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned());
            lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
        }
    }

    #[test]
    fn a_picture_is_drawn_over_the_last_one_and_leaves_nothing_of_it() {
        let mut screen = Screen::new();
        let pictures = [
            "a node\n\ntable  with  columns\n1  2  3\n4  5  6\n",
            "no answer\n",
            "a node\n\ntable  with  more  columns\n1  2\n4\n",
            "ü\n",
            "\n",
        ];
        for picture in pictures {
            screen.take(&drawn(picture, true));
            assert_eq!(screen.shows(), picture.trim_end());
        }
    }

    #[test]
    fn a_picture_fits_the_terminal_and_says_what_matters_in_any() {
        use super::super::fetch::read;
        use serde_json::json;
        let route = |proxy: &str, in_use: bool| {
            json!({ "proxy": proxy, "in_use": in_use, "state": "up", "snoozed_ms": 0, "attempt_timeout_ms": 90, "linked": true,
                    "rtt_us": 140_500, "ack_us": 150_250, "failures": 12_345 })
        };
        let datacenter = |name: &str, in_use: bool| {
            json!({ "name": name, "local": false, "queued_bytes": 1_234_567_890_u64, "pending_messages": 123_456,
                    "routes": [route("eu-central-proxy-1", in_use), route("eu-central-proxy-2", false)] })
        };
        let status: Status = read(json!({
            "version": "0.1.0", "ready": true, "node": "us-leader", "datacenter": "us-east-1", "cluster": "production",
            "roles": ["origin", "member"], "uptime_s": 3_700, "draining": false, "proxy_queue_bytes": 0, "inbox_bytes": 0,
            "held_bytes": 0, "links": [],
            "datacenters": [datacenter("eu-central-1", true), datacenter("ap-south-1", false)],
        }))
        .unwrap();
        let rates = Rates::between(&Stats::default(), &Stats::default(), Duration::from_secs(1));
        let whole = picture(&status, &rates, None);
        assert!(
            whole.contains("no usable proxy: direct where linked") && whole.contains("by proxy/s"),
            "{whole}"
        );
        for columns in [40, 60, 80, 100, 120, 160] {
            let picture = picture(&status, &rates, Some(columns));
            assert!(picture.lines().all(|line| line.chars().count() <= columns), "{columns}: {picture}");
            assert_eq!(picture.lines().count(), whole.lines().count(), "no line is broken");
            let parts = ["us-leader: origin+member", "messages/s", "by eu-central-proxy-1", "no proxy", "up"];
            for part in parts.iter().take(if columns < 60 { 1 } else { 9 }) {
                let is_there =
                    picture.contains(part) || (*part == "no proxy" && picture.contains("no usable proxy"));
                assert!(is_there, "{part} in {columns}: {picture}");
            }
            if columns >= 80 {
                assert!(
                    picture.contains("ack p99") && picture.contains("round trip"),
                    "{columns}: {picture}"
                );
            }
        }
    }

    #[test]
    fn a_terminal_that_is_too_low_shows_the_beginning_and_says_so() {
        let picture = "headline\n\ntable\n1\n2\n3\n";
        let held = |rows| Size { columns: 20, rows }.holds(picture);
        assert_eq!(held(7), picture);
        assert_eq!(held(6), "headline\n\ntable\n1\n… and 2 more lines:…\n");
        for rows in 0..10 {
            let mut screen = Screen { rows: vec![vec!['#'; 40]; rows.max(1)], at: (0, 0) };
            screen.take(&drawn(&held(rows), true));
            assert!(held(rows).lines().count() < rows.max(1), "{rows}");
        }
    }

    #[test]
    fn elsewhere_than_on_a_terminal_nothing_but_the_picture_is_written() {
        assert_eq!(drawn("a\nb\n", false), "a\nb\n");
    }
}
