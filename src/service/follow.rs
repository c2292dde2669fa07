//! The committed log, as it grows, for one who follows it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout_at;

use super::chunk::{Chunk, Format};
use super::cursor::{Cursor, Step};
use super::errors::Error;
use super::feed::{Feed, Look, READ_BYTES};
use super::{Body, Facts};
use crate::consensus::key_value::KeyValue;
use crate::consensus::{FollowError, Replica};

/// One who follows.
struct Follower {
    feed: Arc<Feed>,
    replica: Replica<KeyValue>,
    bell: watch::Receiver<()>,
    cursor: Cursor,
    _place: OwnedSemaphorePermit,
}

/// Lines of JSON, or server-sent events: entries in their order, each once, none left out. It ends where the log was compacted
/// away below the follower, or where that one is too slow, with a line that says so.
pub(super) fn stream(facts: &Facts, cursor: Cursor, format: Format) -> Result<Response<Body>, Error> {
    let busy =
        || Error::new(StatusCode::TOO_MANY_REQUESTS, "busy", "too many follow the log: try another node");
    let (place, bell) = facts.feed.join().ok_or_else(busy)?;
    // What is gone already is told by the code.
    let first = facts.replica.first_index();
    if cursor.next() < first {
        let error = FollowError::Compacted { first };
        let error = Error::new(StatusCode::GONE, code(&error), &error.to_string());
        return Err(Error { first: Some(first), ..error });
    }
    let (feed, replica) = (Arc::clone(&facts.feed), facts.replica.clone());
    let follower = Follower { feed, replica, bell, cursor, _place: place };
    // It is asked for more when the connection has room for more: a frame or two wait there, and nothing else.
    let frames = stream::unfold(Some(follower), |follower| async {
        let mut follower = follower?;
        let (text, goes_on) = match follower.next().await {
            Ok(text) => (text, true),
            Err(farewell) => (farewell, false),
        };
        Some((Ok::<_, Infallible>(Frame::data(text)), goes_on.then_some(follower)))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let kind = match format {
        Format::Lines => "application/x-ndjson",
        Format::Events => "text/event-stream",
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

impl Follower {
    /// What it gets next; or its last words.
    async fn next(&mut self) -> Result<Bytes, Bytes> {
        loop {
            // From here on: a change that comes while it looks is not missed.
            self.bell.mark_unchanged();
            let step = match self.feed.look(self.cursor.next()) {
                Look::At(found, behind) => {
                    self.cursor.step(&found, behind, &self.feed.limits, Instant::now())
                }
                Look::Ended(error) => return Err(self.farewell(&error)),
            };
            let step = if step == Step::Read { self.read().await? } else { step };
            match step {
                Step::Give(text) => return Ok(text),
                Step::LetGo => {
                    self.feed.count_let_go();
                    let message = format!(
                        "nothing was taken for {:?} while more than {} B waited: go on at `index`, here or at another node",
                        self.feed.limits.patience, self.feed.limits.behind_bytes
                    );
                    return Err(self.cursor.farewell("slow", &message, None));
                }
                Step::Wait(None) => {
                    // Its other end lives as long as the feed.
                    let _ = self.bell.changed().await;
                }
                Step::Wait(Some(until)) => drop(timeout_at(until.into(), self.bell.changed()).await),
                // Others have their turn: much may pass a filter by.
                Step::Read | Step::Again => tokio::task::yield_now().await,
            }
        }
    }

    /// From the log itself, until it has caught up with what is in memory.
    async fn read(&mut self) -> Result<Step, Bytes> {
        let Ok(_turn) = self.feed.reads.acquire().await else {
            return Err(self.farewell(&FollowError::Stopped));
        };
        match self.replica.follow(self.cursor.next(), READ_BYTES).await {
            Ok(entries) => match Chunk::of(&entries) {
                Some(chunk) => Ok(self.cursor.take(&chunk, Instant::now())),
                None => Ok(Step::Again),
            },
            Err(error) => Err(self.farewell(&error)),
        }
    }

    fn farewell(&self, error: &FollowError) -> Bytes {
        let first = match error {
            FollowError::Compacted { first } => Some(*first),
            FollowError::Storage { .. } | FollowError::Stopped => None,
        };
        self.cursor.farewell(code(error), &error.to_string(), first)
    }
}

fn code(error: &FollowError) -> &'static str {
    match error {
        FollowError::Compacted { .. } => "compacted",
        FollowError::Storage { .. } => "storage",
        FollowError::Stopped => "stopped",
    }
}
