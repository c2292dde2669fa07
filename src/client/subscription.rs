//! Entries in order, from whichever node is there.

use std::time::Duration;

use hyper::StatusCode;
use tokio::time::{Instant, sleep, timeout};

use super::connection::{Address, Answer, OPEN_TIMEOUT, SILENCE, escaped};
use super::entry::{End, Entry, Line};
use super::error::{AskError, SnapshotError, SubscribeError, Wanted};
use super::snapshot::Snapshot;

/// A node says at least so often that it is there, s.
const MARK_S: u64 = 2;
/// Before the first further round over all addresses, twice as long before each next one, up to `PAUSE_MAX`.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long it is tried without any news before that is an error.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a subscription tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The next entry.
    Entry(Entry),
    /// There is nothing to be told up to this index that was not told.
    Progress(u64),
}

/// Committed entries from an index on, in order, each once, none left out; of those with a prefix, the same. Where a node
/// fails, it goes on at the next one. Dropped, it ends.
#[derive(Debug)]
pub struct Subscription {
    addresses: Vec<Address>,
    /// The one in use, or tried next.
    at: usize,
    /// The index that comes next.
    next: u64,
    prefix: Option<String>,
    patience: Duration,
    open: Option<Open>,
    trouble: Trouble,
}

struct Open {
    answer: Answer,
    /// It has told something.
    told: bool,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open").field("told", &self.told).finish_non_exhaustive()
    }
}

/// What went wrong since the last good line.
#[derive(Debug, Default)]
struct Trouble {
    since: Option<Instant>,
    tries: u32,
    why: String,
    /// Since an address said that the log begins later: where, at the least, and how many have been asked.
    gone: Option<(u64, usize)>,
}

impl Subscription {
    /// From an index on, 0 for the very first; the first of the addresses is asked first. Nothing is done before
    /// [`next`](Self::next).
    #[must_use]
    pub fn open(addresses: impl IntoIterator<Item = Address>, from: u64) -> Self {
        Self {
            addresses: addresses.into_iter().collect(),
            at: 0,
            next: from,
            prefix: None,
            patience: PATIENCE,
            open: None,
            trouble: Trouble::default(),
        }
    }

    /// Only operations of the key-value machine on keys that begin so.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// How long it is tried without any news before that is an error [30 s].
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The index that comes next: where to go on in another process.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.next
    }

    /// All keys as they were at an entry that is not before what was told, for who is told [`SubscribeError::Compacted`]: of
    /// the same keys, from the node in use or the next ones. Whoever has taken all of it goes on
    /// [behind it](Self::go_on_at).
    ///
    /// # Errors
    ///
    /// [`SnapshotError`].
    pub async fn snapshot(&self) -> Result<Snapshot, SnapshotError> {
        let mut addresses = self.addresses.clone();
        addresses.rotate_left(self.at);
        let prefix = self.prefix.as_deref().unwrap_or_default();
        Snapshot::get(&addresses, prefix, self.next.saturating_sub(1), self.patience).await
    }

    /// The entry of this index comes next, whatever was told.
    pub fn go_on_at(&mut self, index: u64) {
        (self.next, self.open, self.trouble) = (index, None, Trouble::default());
    }

    /// The next entry. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`]; it may be asked again.
    pub async fn next(&mut self) -> Result<Entry, SubscribeError> {
        loop {
            if let Event::Entry(entry) = self.event().await? {
                return Ok(entry);
            }
        }
    }

    /// The next entry, or how far it has come without one. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`]; it may be asked again.
    pub async fn event(&mut self) -> Result<Event, SubscribeError> {
        loop {
            let Some(Open { answer, told }) = &mut self.open else {
                self.reopen().await?;
                continue;
            };
            let line = timeout(SILENCE, answer.line()).await;
            let line = line.unwrap_or_else(|_| Err(format!("it says nothing for {SILENCE:?}")));
            match line.and_then(|line| Line::parse(&line)) {
                Ok(Line::Entry(entry)) => {
                    if entry.index > self.next && self.prefix.is_none() {
                        let left_out =
                            format!("it tells entry {} where {} comes next", entry.index, self.next);
                        self.failed(left_out);
                    } else if entry.index >= self.next {
                        *told = true;
                        self.next = entry.index + 1;
                        self.trouble = Trouble::default();
                        return Ok(Event::Entry(entry));
                    }
                }
                Ok(Line::Progress(seen)) => {
                    if seen >= self.next && self.prefix.is_none() {
                        self.failed(format!("it left entry {} out", self.next));
                    } else {
                        self.next = self.next.max(seen.saturating_add(1));
                        self.trouble = Trouble::default();
                        return Ok(Event::Progress(seen));
                    }
                }
                // Whoever is slow goes on there.
                Ok(Line::End(End { code, .. })) if code == "slow" && *told => self.open = None,
                Ok(Line::End(end)) => self.ended(end)?,
                Err(why) => self.failed(why),
            }
        }
    }

    /// Leaves the address for the next one.
    fn failed(&mut self, why: String) {
        self.open = None;
        let host = self.addresses.get(self.at).map_or("", Address::host);
        let trouble = &mut self.trouble;
        trouble.why = if why.starts_with(host) { why } else { format!("{host}: {why}") };
        trouble.tries += 1;
        trouble.since.get_or_insert_with(Instant::now);
        if let Some((_, asked)) = &mut trouble.gone {
            *asked += 1;
        }
        self.at = (self.at + 1) % self.addresses.len().max(1);
    }

    /// A node tells no more. Another one may have a longer log.
    fn ended(&mut self, end: End) -> Result<(), SubscribeError> {
        if let ("compacted", Some(first)) = (end.code.as_str(), end.first) {
            let (least, asked) = self.trouble.gone.unwrap_or((first, 0));
            self.trouble.gone = Some((least.min(first), asked));
        }
        self.failed(end.message);
        self.judge_gone()
    }

    fn judge_gone(&mut self) -> Result<(), SubscribeError> {
        match self.trouble.gone {
            Some((first, asked)) if asked >= self.addresses.len() => {
                self.trouble = Trouble::default();
                Err(SubscribeError::Compacted { index: self.next, first })
            }
            _ => Ok(()),
        }
    }

    /// Asks the address whose turn it is.
    async fn reopen(&mut self) -> Result<(), SubscribeError> {
        self.judge_gone()?;
        let address = self.addresses.get(self.at).ok_or(AskError::NoAddress)?;
        let rounds = self.trouble.tries / u32::try_from(self.addresses.len()).unwrap_or(u32::MAX);
        if let Some(since) = self.trouble.since {
            let left = self.patience.saturating_sub(since.elapsed());
            if left.is_zero() {
                let why = std::mem::take(&mut self.trouble).why;
                let (wanted, patience) = (Wanted::Entry(self.next), self.patience);
                return Err(AskError::Unavailable { wanted, patience, why }.into());
            }
            if rounds > 0 {
                let pause = PAUSE.saturating_mul(1 << rounds.min(8)).min(PAUSE_MAX);
                // Not all who lost the same node come at once.
                sleep(pause.mul_f64(fastrand::f64()).min(left)).await;
            }
        }
        let mut path = format!("/v1/log?from={}&progress={MARK_S}", self.next);
        if let Some(prefix) = &self.prefix {
            path += &format!("&prefix={}", escaped(prefix));
        }
        let (code, body) = match address.ask(&path).await {
            Ok(Ok(answer)) => {
                self.open = Some(Open { answer, told: false });
                return Ok(());
            }
            Ok(Err(refused)) => refused,
            Err(why) => {
                self.failed(why);
                return Ok(());
            }
        };
        match serde_json::from_slice::<End>(&body) {
            Ok(end) if code == StatusCode::BAD_REQUEST => {
                Err(AskError::Refused { message: end.message }.into())
            }
            Ok(end) => self.ended(end),
            Err(_) => {
                self.failed(format!("it answers with {code} and no reason: is it Trunkline?"));
                Ok(())
            }
        }
    }
}

/// The last entry that one of the nodes has applied, the first that answers; `None`: it has applied none. All of them are asked
/// again and again for as long as `patience` says.
///
/// # Errors
///
/// [`AskError`]: none answers.
pub async fn newest(addresses: &[Address], patience: Duration) -> Result<Option<u64>, AskError> {
    let until = Instant::now() + patience;
    let mut pause = PAUSE;
    loop {
        let mut last = None;
        for address in addresses {
            let asked = timeout(OPEN_TIMEOUT, applied(address)).await;
            match asked.unwrap_or_else(|_| Err(format!("{} gives no answer in time", address.host()))) {
                Ok(index) => return Ok(index),
                Err(why) => last = Some(why),
            }
        }
        let why = last.ok_or(AskError::NoAddress)?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(AskError::Unavailable { wanted: Wanted::Newest, patience, why });
        }
        sleep(pause.min(left)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// The last entry that a node has applied.
async fn applied(address: &Address) -> Result<Option<u64>, String> {
    #[derive(serde::Deserialize)]
    struct Status {
        applied_index: Option<u64>,
    }
    let (_, answer) = address.get("/v1/status").await?;
    let body = answer.whole().await?;
    let said: Result<Status, _> = serde_json::from_slice(&body);
    said.map(|said| said.applied_index)
        .map_err(|error| format!("{} does not say how far it is: {error}", address.host()))
}
