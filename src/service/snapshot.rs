//! All keys and their values as they were at one entry, for one who goes on with the log behind it.
//!
//! ```text
//! {"snapshot":{"index":120,"term":2}}
//! {"key":"a","value":{"text":"one"},"mod_index":17}
//! {"end":{"keys":1}}
//! ```
//!
//! A stream without that last line was cut off: what came of it is no state.

use std::convert::Infallible;
use std::io::Write;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::errors::Error;
use super::feed::Feed;
use super::{Body, Facts};
use crate::consensus::key_value::{KeyValue, Value};
use crate::consensus::{Consistency, Replica};
use crate::storage::EntryId;

/// Where it is served.
pub(super) const PATH: &str = "/v1/snapshot";
/// States that streams are of at one time. The machine copies its keys, not its values, when it changes the first time after
/// one was taken.
const STATES_MAX: usize = 2;
/// Who asks so soon after another one gets the same state.
const SHARED_FOR: Duration = Duration::from_secs(1);
/// Who takes less than so many bytes per second, in the mean and beyond the patience of a feed, is let go of: two of them would keep
/// all others from a newer state for as long as they like.
const BYTES_PER_S_MIN: u64 = 128 << 10;
/// What is written at once, B; one key with its value always fits.
const PAGE_BYTES: usize = 32 << 10;

/// The states that are being told, and who may still come.
pub(super) struct States {
    /// The newest last.
    told: Mutex<Vec<Weak<State>>>,
    places: Arc<Semaphore>,
    places_max: usize,
}

/// What the machine was at an entry.
struct State {
    machine: KeyValue,
    last: EntryId,
    taken: Instant,
}

impl States {
    pub(super) fn new(places_max: usize) -> Self {
        Self { told: Mutex::new(Vec::new()), places: Arc::new(Semaphore::new(places_max)), places_max }
    }

    /// How many are being told one.
    pub(super) fn takers(&self) -> usize {
        self.places_max - self.places.available_permits()
    }

    /// One that has everything up to an index.
    async fn take(&self, replica: &Replica<KeyValue>, at_least: u64) -> Result<Arc<State>, Error> {
        // Held while it looks: of two at once one gets what the other one found.
        let mut told = self.told.lock().await;
        told.retain(|state| state.strong_count() > 0);
        let newest = told.last().and_then(Weak::upgrade).filter(|newest| newest.last.index >= at_least);
        // Whoever has taken it must be able to go on in the log.
        let good = newest.filter(|newest| newest.last.index + 1 >= replica.first_index());
        let full = told.len() >= STATES_MAX;
        let fresh = |newest: &State| {
            newest.taken.elapsed() < SHARED_FOR || replica.status().applied == Some(newest.last)
        };
        if let Some(newest) = good.filter(|newest| full || fresh(newest)) {
            return Ok(newest);
        }
        if full {
            return Err(busy("older snapshots are still being taken here"));
        }
        let read = replica.read(Consistency::Stale, KeyValue::clone).await?;
        let Some(last) = read.applied.filter(|last| last.index >= at_least) else {
            return Err(Error::behind(at_least));
        };
        let state = Arc::new(State { machine: read.value, last, taken: Instant::now() });
        told.push(Arc::downgrade(&state));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            tokio::time::sleep(SHARED_FOR).await;
            drop(shared);
        });
        Ok(state)
    }
}

fn busy(why: &str) -> Error {
    let message = format!("{why}: try again later, or at another node");
    Error::new(StatusCode::TOO_MANY_REQUESTS, "busy", &message)
}

/// One who is told a state.
struct Taker {
    pages: Pages,
    feed: Arc<Feed>,
    _place: OwnedSemaphorePermit,
}

/// Lines of JSON, of keys that begin so, as soon as this node has applied all up to an index.
pub(super) async fn stream(facts: &Facts, prefix: String, at_least: u64) -> Result<Response<Body>, Error> {
    let place = Arc::clone(&facts.states.places).try_acquire_owned();
    let place = place.map_err(|_| busy("too many take a snapshot"))?;
    let state = facts.states.take(&facts.replica, at_least).await?;
    let pages = Pages::new(state, prefix);
    let taker = Taker { pages, feed: Arc::clone(&facts.feed), _place: place };
    // It is asked for more when the connection has room for more: a frame or two wait there, and nothing else.
    let frames = stream::unfold(Some(taker), |taker| async {
        let mut taker = taker?;
        let (text, goes_on) = match taker.pages.next(taker.feed.limits.patience, Instant::now()) {
            Page::Text(text) => (text, true),
            Page::End(text) => (text, false),
            Page::LetGo(text) => {
                taker.feed.count_let_go();
                (text, false)
            }
        };
        // Others have their turn, however fast this one is.
        tokio::task::yield_now().await;
        Some((Ok::<_, Infallible>(Frame::data(text)), goes_on.then_some(taker)))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// A state, page by page.
struct Pages {
    state: Arc<State>,
    prefix: String,
    /// How many were told; `None` before the first line.
    keys: Option<u64>,
    /// The key that was told last.
    after: Option<String>,
    /// When it was given the first page and the page before, and how many bytes so far.
    begun: Option<Instant>,
    given: Option<Instant>,
    bytes: u64,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
enum Page {
    Text(Bytes),
    /// Nothing follows.
    End(Bytes),
    /// It takes too long; nothing follows.
    LetGo(Bytes),
}

#[derive(Serialize)]
struct Line<'a> {
    key: &'a str,
    value: Said<'a>,
    mod_index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Said<'a> {
    Text(&'a str),
    Base64(String),
}

impl Pages {
    fn new(state: Arc<State>, prefix: String) -> Self {
        Self { state, prefix, keys: None, after: None, begun: None, given: None, bytes: 0 }
    }

    /// It asks for more.
    fn next(&mut self, patience: Duration, now: Instant) -> Page {
        let since = |at: Option<Instant>| at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let due = patience + Duration::from_millis(self.bytes * 1_000 / BYTES_PER_S_MIN);
        let slow = if since(self.given) >= patience {
            Some(format!("nothing was taken for {patience:?}"))
        } else if since(self.begun) >= due {
            Some(format!("less than {BYTES_PER_S_MIN} B were taken per second"))
        } else {
            None
        };
        if let Some(slow) = slow {
            let message = format!("{slow}: begin anew, here or at another node");
            return Page::LetGo(format!("{}\n", json!({ "code": "slow", "message": message })).into());
        }
        self.begun.get_or_insert(now);
        self.given = Some(now);
        let mut text = Vec::new();
        let mut keys = self.keys.unwrap_or_else(|| {
            let EntryId { term, index } = self.state.last;
            text.extend_from_slice(
                format!("{}\n", json!({ "snapshot": { "index": index, "term": term } })).as_bytes(),
            );
            0
        });
        let mut pairs = self.state.machine.pairs(&self.prefix, self.after.as_deref());
        let mut last = None;
        while text.len() < PAGE_BYTES {
            let Some((key, value)) = pairs.next() else {
                let _ = writeln!(text, "{}", json!({ "end": { "keys": keys } }));
                return Page::End(text.into());
            };
            write_line(&mut text, key, value);
            keys += 1;
            last = Some(key);
        }
        if let Some(last) = last {
            self.after = Some(last.to_owned());
        }
        self.keys = Some(keys);
        self.bytes += text.len() as u64;
        Page::Text(text.into())
    }
}

fn write_line(text: &mut Vec<u8>, key: &str, value: &Value) {
    // A byte that steers a terminal is six in JSON: base64 is never longer than a line may be.
    let steers = |byte: &u8| *byte < b' ' && !b"\n\r\t".contains(byte);
    let said = match std::str::from_utf8(&value.bytes) {
        Ok(said) if !value.bytes.iter().any(steers) => Said::Text(said),
        _ => Said::Base64(data_encoding::BASE64.encode(&value.bytes)),
    };
    let line = Line { key, value: said, mod_index: value.mod_index };
    serde_json::to_writer(&mut *text, &line).expect("text and numbers can be written as JSON");
    text.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::StateMachine;
    use crate::consensus::key_value::Operation;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn pages(values: &[(&str, Bytes)], prefix: &str) -> Pages {
        let mut machine = KeyValue::default();
        for (index, (key, value)) in (0..).zip(values) {
            let put = Operation::Put { key: (*key).to_owned(), value: value.clone(), if_index: None };
            machine.apply(index, put.encode());
        }
        let last = EntryId { term: 2, index: 90 };
        let state = Arc::new(State { machine, last, taken: Instant::now() });
        Pages::new(state, prefix.to_owned())
    }

    fn all(pages: &mut Pages) -> (Vec<serde_json::Value>, usize) {
        let (now, mut text, mut longest) = (Instant::now(), Vec::new(), 0);
        loop {
            let page = pages.next(PATIENCE, now);
            let (Page::Text(more) | Page::End(more)) = &page else { panic!("{page:?}") };
            longest = longest.max(more.len());
            text.extend_from_slice(more);
            if matches!(page, Page::End(_)) {
                let lines = std::str::from_utf8(&text).unwrap().lines();
                return (lines.map(|line| serde_json::from_str(line).unwrap()).collect(), longest);
            }
        }
    }

    #[test]
    fn every_key_is_told_once_in_pages_between_the_entry_and_the_count() {
        let names: Vec<String> = (0..400).map(|number| format!("{}/{number:03}", number % 2)).collect();
        let value = Bytes::from(vec![b'v'; 1_000]);
        let values: Vec<(&str, Bytes)> = names.iter().map(|name| (name.as_str(), value.clone())).collect();
        for (prefix, count) in [("", 400), ("1/", 200), ("1/39", 5), ("2", 0)] {
            let (lines, longest) = all(&mut pages(&values, prefix));
            assert!(longest < PAGE_BYTES + 1_200, "{longest}");
            assert_eq!(lines[0], json!({ "snapshot": { "index": 90, "term": 2 } }));
            assert_eq!(lines[lines.len() - 1], json!({ "end": { "keys": count } }));
            let told: Vec<&str> =
                lines[1..lines.len() - 1].iter().map(|line| line["key"].as_str().unwrap()).collect();
            let mut expected: Vec<&str> =
                names.iter().map(String::as_str).filter(|name| name.starts_with(prefix)).collect();
            expected.sort_unstable();
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn values_are_text_where_they_are_and_no_line_is_longer_than_a_client_takes() {
        let steering = Bytes::from(vec![1; 1 << 20]);
        let quotes = Bytes::from(vec![b'"'; 1 << 20]);
        let values =
            [("a", "one\n".into()), ("b", Bytes::from_static(&[0xff])), ("c", steering), ("d", quotes)];
        let (lines, longest) = all(&mut pages(&values, ""));
        assert_eq!(lines[1], json!({ "key": "a", "value": { "text": "one\n" }, "mod_index": 0 }));
        assert_eq!(lines[2], json!({ "key": "b", "value": { "base64": "/w==" }, "mod_index": 1 }));
        assert!(lines[3]["value"]["base64"].is_string() && lines[4]["value"]["text"].is_string());
        assert!(longest < 4 << 20, "{longest}");
    }

    #[test]
    fn one_that_takes_nothing_for_long_is_told_to_begin_anew() {
        let value = Bytes::from(vec![b'v'; 40_000]);
        let mut pages = pages(&[("a", value.clone()), ("b", value.clone()), ("c", value)], "");
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        assert!(matches!(pages.next(PATIENCE, begun), Page::Text(_)));
        assert!(matches!(pages.next(PATIENCE, after(9)), Page::Text(_)));
        let Page::LetGo(words) = pages.next(PATIENCE, after(19)) else { panic!("it is let go of") };
        let words: serde_json::Value = serde_json::from_slice(&words).unwrap();
        assert_eq!(words["code"], "slow");
    }

    /// Two pages in nine seconds, again and again: nothing that a patience would end.
    #[test]
    fn one_that_takes_little_for_long_is_told_to_begin_anew_and_one_that_takes_enough_is_not() {
        let value = Bytes::from(vec![b'v'; PAGE_BYTES]);
        let names: Vec<String> = (0..400).map(|number| format!("{number:03}")).collect();
        let values: Vec<(&str, Bytes)> = names.iter().map(|name| (name.as_str(), value.clone())).collect();
        let begun = Instant::now();
        let last = |pause: Duration| {
            let (mut pages, mut now) = (pages(&values, ""), begun);
            loop {
                match pages.next(PATIENCE, now) {
                    Page::Text(_) => now += pause,
                    end => return (end, now - begun),
                }
            }
        };
        let (end, took) = last(Duration::from_millis(4_500));
        let Page::LetGo(words) = end else { panic!("it is let go of") };
        let words: serde_json::Value = serde_json::from_slice(&words).unwrap();
        assert_eq!(words["code"], "slow");
        assert!(words["message"].as_str().unwrap().contains("per second"), "{words}");
        assert!(took < Duration::from_secs(20), "{took:?}");
        assert!(matches!(last(Duration::from_millis(240)).0, Page::End(_)));
    }
}
