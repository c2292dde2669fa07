//! All keys as they were at one entry, from whichever node is there.

use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

use super::connection::{Address, Answer, SILENCE, escaped};
use super::entry::End;
use super::error::{AskError, SnapshotError, Wanted};

/// Before the first further round over all addresses, twice as long before each next one, up to `PAUSE_MAX`.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The key-value machine as it was when an entry was applied, key by key. [`Subscription`](super::Subscription) goes on at
/// [`index`](Self::index) + 1.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::collections::BTreeMap;
/// use std::time::Duration;
/// use trunkline::client::{Address, Snapshot, Subscription};
///
/// let nodes = [Address::plaintext("127.4.1.1:7480"), Address::plaintext("127.4.2.1:7480")];
/// let mut snapshot = Snapshot::get(&nodes, "", 0, Duration::from_secs(30)).await?;
/// let mut map = BTreeMap::new();
/// while let Some(pair) = snapshot.next().await? {
///     map.insert(pair.key, pair.value);
/// }
/// let log = Subscription::open(nodes, snapshot.index() + 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Snapshot {
    index: u64,
    term: u64,
    prefix: String,
    host: String,
    /// How many keys were told.
    keys: u64,
    last: Option<String>,
    state: State,
}

enum State {
    Open(Answer),
    /// All was told.
    Whole,
    Broken(SnapshotError),
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open(_) => "Open",
            Self::Whole => "Whole",
            Self::Broken(_) => "Broken",
        })
    }
}

/// A key and what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// Index of the entry that changed it last.
    pub mod_index: u64,
    /// The line of JSON that a node told it as.
    pub line: String,
}

#[derive(Deserialize)]
struct RawHead {
    snapshot: Head,
}

#[derive(Deserialize)]
struct Head {
    index: u64,
    term: u64,
}

#[derive(Deserialize)]
struct RawPair {
    key: String,
    value: RawValue,
    mod_index: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawValue {
    Text(String),
    Base64(String),
}

#[derive(Deserialize)]
struct RawEnd {
    end: Count,
}

#[derive(Deserialize)]
struct Count {
    keys: u64,
}

impl Snapshot {
    /// Of the first of the addresses that has one with all entries up to `at_least`, of keys that begin so; it is tried for
    /// `patience`. A node gives what it has applied: to see everything that was acknowledged, say up to where.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`].
    pub async fn get(
        addresses: &[Address],
        prefix: &str,
        at_least: u64,
        patience: Duration,
    ) -> Result<Self, SnapshotError> {
        let mut path = format!("/v1/snapshot?at_least={at_least}");
        if !prefix.is_empty() {
            path += &format!("&prefix={}", escaped(prefix));
        }
        let begun = Instant::now();
        let (mut pause, mut why) = (PAUSE, None);
        loop {
            for address in addresses {
                let left = patience.saturating_sub(begun.elapsed());
                if let Some(why) = why.take_if(|_| left.is_zero()) {
                    let wanted = Wanted::Snapshot;
                    return Err(AskError::Unavailable { wanted, patience, why }.into());
                }
                match Self::open(address, &path, prefix).await {
                    Ok(snapshot) => return Ok(snapshot),
                    Err((StatusCode::BAD_REQUEST, message)) => {
                        return Err(AskError::Refused { message }.into());
                    }
                    Err((_, said)) => why = Some(said),
                }
            }
            if addresses.is_empty() {
                return Err(AskError::NoAddress.into());
            }
            let left = patience.saturating_sub(begun.elapsed());
            sleep(pause.mul_f64(fastrand::f64()).min(left)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn open(address: &Address, path: &str, prefix: &str) -> Result<Self, (StatusCode, String)> {
        let failed = |why: String| {
            let host = address.host();
            (StatusCode::OK, if why.starts_with(host) { why } else { format!("{host}: {why}") })
        };
        let mut answer = match address.ask(path).await.map_err(failed)? {
            Ok(answer) => answer,
            Err((code, body)) => {
                return Err(match serde_json::from_slice::<End>(&body) {
                    Ok(end) if code == StatusCode::BAD_REQUEST => (code, end.message),
                    Ok(end) => failed(end.message),
                    Err(_) => failed(format!("it answers with {code} and no reason: is it Trunkline?")),
                });
            }
        };
        let line = line_of(&mut answer).await.map_err(failed)?;
        let head: RawHead = serde_json::from_slice(&line)
            .map_err(|error| failed(format!("it tells a line that begins no snapshot: {error}")))?;
        let Head { index, term } = head.snapshot;
        let (prefix, host) = (prefix.to_owned(), address.host().to_owned());
        Ok(Self { index, term, prefix, host, keys: 0, last: None, state: State::Open(answer) })
    }

    /// The last entry in it: the log goes on with the next one.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// In which term that entry was appended.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The next key in their order; `None`: all were told. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::CutOff`], also when it is asked again.
    pub async fn next(&mut self) -> Result<Option<Pair>, SnapshotError> {
        let told = match &mut self.state {
            State::Open(answer) => line_of(answer).await.and_then(|line| self.take(&line)),
            State::Whole => Ok(None),
            State::Broken(error) => return Err(error.clone()),
        };
        match told {
            Ok(Some(pair)) => Ok(Some(pair)),
            Ok(None) => {
                self.state = State::Whole;
                Ok(None)
            }
            Err(why) => {
                let error = SnapshotError::CutOff { keys: self.keys, why: format!("{}: {why}", self.host) };
                self.state = State::Broken(error.clone());
                Err(error)
            }
        }
    }

    /// A line, which must be the one to come.
    fn take(&mut self, line: &Bytes) -> Result<Option<Pair>, String> {
        let wrong = |error: serde_json::Error| format!("it tells a line that is of no snapshot: {error}");
        if line.starts_with(b"{\"end\"") {
            let RawEnd { end: Count { keys } } = serde_json::from_slice(line).map_err(wrong)?;
            return match keys == self.keys {
                true => Ok(None),
                false => Err(format!("it told {} keys of {keys}", self.keys)),
            };
        }
        if line.starts_with(b"{\"code\"") {
            let end: End = serde_json::from_slice(line).map_err(wrong)?;
            return Err(end.message);
        }
        let RawPair { key, value, mod_index } = serde_json::from_slice(line).map_err(wrong)?;
        if !key.starts_with(&self.prefix) || self.last.as_ref().is_some_and(|last| *last >= key) {
            return Err(format!("it tells a key that does not come next: {key:?}"));
        }
        let value = match value {
            RawValue::Text(text) => text.into(),
            RawValue::Base64(text) => data_encoding::BASE64
                .decode(text.as_bytes())
                .map_err(|error| format!("it tells a value that is no base64: {error}"))?
                .into(),
        };
        self.keys += 1;
        self.last = Some(key.clone());
        // It was JSON, so it is text.
        let line = String::from_utf8_lossy(line).into_owned();
        Ok(Some(Pair { key, value, mod_index, line }))
    }
}

async fn line_of(answer: &mut Answer) -> Result<Bytes, String> {
    let line = timeout(SILENCE, answer.line()).await;
    line.unwrap_or_else(|_| Err(format!("it says nothing for {SILENCE:?}")))
}
