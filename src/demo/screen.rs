//! What a run looks like: a live table on a terminal, a line a second elsewhere. Pure functions from a snapshot to text.

mod table;

#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::time::Duration;

pub use self::table::{COLUMNS, table};

/// One datacenter at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct DcRow {
    /// Its name.
    pub datacenter: String,
    /// What its members were sent, bytes per second.
    pub logical_bytes_per_s: f64,
    /// What went between it and the leader's datacenter, both directions, bytes per second; `None` at the leader's own.
    pub wire_bytes_per_s: Option<f64>,
    /// Median delivery latency; `None` if nothing arrived lately.
    pub delivery_p50: Option<Duration>,
    /// 99th percentile.
    pub delivery_p99: Option<Duration>,
    /// The route in use, in words.
    pub route: String,
}

impl DcRow {
    /// Share of the logical bytes that did not go over the WAN; below 0 if more went than was sent.
    #[must_use]
    pub fn saved_ratio(&self) -> Option<f64> {
        saved_ratio(self.logical_bytes_per_s, self.wire_bytes_per_s?)
    }
}

fn saved_ratio(logical: f64, wire: f64) -> Option<f64> {
    (logical > 0.0).then(|| 1.0 - wire / logical)
}

/// A run at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Since the start.
    pub elapsed: Duration,
    /// How long the run takes, without its end.
    pub duration: Duration,
    /// What is going on, in words.
    pub phase: String,
    /// Messages sent.
    pub messages: u64,
    /// Messages that arrived.
    pub delivered: u64,
    /// Arrivals that must never happen.
    pub faults: u64,
    /// One per datacenter.
    pub rows: Vec<DcRow>,
}

/// Draws snapshots one after another.
#[derive(Debug)]
pub struct Screen {
    terminal: bool,
    /// Lines of the frame on the terminal.
    drawn: usize,
    /// When a plain line was last due.
    last: Option<Duration>,
}

/// Between two plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(1);

impl Screen {
    /// A screen on a terminal, or plain.
    #[must_use]
    pub fn new(terminal: bool) -> Self {
        Self { terminal, drawn: 0, last: None }
    }

    /// What to write for this snapshot, as is. On a terminal it replaces the frame before, so nothing else may be
    /// written in between; plain, it is `None` until a second has passed since the last line.
    pub fn draw(&mut self, snapshot: &Snapshot) -> Option<String> {
        if self.terminal {
            return Some(self.frame(snapshot));
        }
        if self.last.is_some_and(|last| snapshot.elapsed < last + PLAIN_INTERVAL) {
            return None;
        }
        self.last = Some(snapshot.elapsed);
        Some(plain_line(snapshot) + "\n")
    }

    fn frame(&mut self, snapshot: &Snapshot) -> String {
        let mut lines = table(&snapshot.rows);
        lines.extend(progress(snapshot));
        let mut frame = String::new();
        if self.drawn > 0 {
            let _ = write!(frame, "\x1b[{}A", self.drawn);
        }
        // Without wrapping: on a narrow terminal a line would become two, and the way up be too short.
        frame.push_str("\x1b[?7l");
        for line in &lines {
            let _ = writeln!(frame, "\r\x1b[2K{line}");
        }
        frame.push_str("\x1b[?7h");
        self.drawn = lines.len();
        frame
    }
}

/// The progress: a bar with time and phase, and a line of counts. Each as wide as the table, without line feeds.
#[must_use]
pub fn progress(snapshot: &Snapshot) -> [String; 2] {
    const BAR: usize = 20;
    let whole = snapshot.duration.as_millis().max(1);
    let done = usize::try_from(snapshot.elapsed.as_millis() * BAR as u128 / whole).unwrap_or(BAR).min(BAR);
    let bar = "#".repeat(done) + &"-".repeat(BAR - done);
    let lines = [format!("[{bar}] {}  {}", time(snapshot), snapshot.phase), counts(snapshot)];
    lines.map(|line| table::fit(&line, COLUMNS))
}

fn time(snapshot: &Snapshot) -> String {
    format!("{} of {:.0} s", snapshot.elapsed.as_secs(), snapshot.duration.as_secs_f64())
}

fn counts(snapshot: &Snapshot) -> String {
    let Snapshot { messages, delivered, faults, .. } = snapshot;
    format!("messages: {messages} sent, {delivered} delivered, {faults} faulty")
}

/// Longest plain line, columns.
const PLAIN_COLUMNS: usize = 120;

/// A snapshot in one line: what all remote datacenters come to together, and the slowest of all.
#[must_use]
pub fn plain_line(snapshot: &Snapshot) -> String {
    let duration = format!("{:.0}", snapshot.duration.as_secs_f64());
    let Snapshot { messages, delivered, faults, phase, .. } = snapshot;
    let remote =
        || snapshot.rows.iter().filter_map(|row| Some((row.logical_bytes_per_s, row.wire_bytes_per_s?)));
    let (logical, wire) = remote().fold((0.0, 0.0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
    let line = format!(
        "{:>seconds$} of {duration} s  {delivered:>7} of {messages:>7} delivered  {faults} faulty  {:>5} MB/s WAN  \
         {:>5} % saved  p99 {:>5} ms  {phase}",
        snapshot.elapsed.as_secs(),
        table::megabytes(Some(wire)),
        table::percent(saved_ratio(logical, wire)),
        table::millis(snapshot.rows.iter().filter_map(|row| row.delivery_p99).max()),
        seconds = duration.len(),
    );
    table::fit(&line, PLAIN_COLUMNS).trim_end().to_owned()
}
