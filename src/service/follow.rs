//! The committed log, as it grows.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::errors::Error;
use super::{Body, Facts, json as written};
use crate::consensus::FollowError;

/// What is read for one follower at once, B: all that waits for it in memory, besides what its socket has.
const CHUNK_BYTES: usize = 256 << 10;

/// Lines of JSON, or server-sent events: entries in their order, each once, none left out. It ends where the log was
/// compacted away below the follower, with a line that says so.
pub(super) async fn stream(facts: &Facts, from: u64, events: bool) -> Result<Response<Body>, Error> {
    let busy =
        || Error::new(StatusCode::TOO_MANY_REQUESTS, "busy", "too many follow the log: try another node");
    let permit = facts.followers.clone().try_acquire_owned().map_err(|_| busy())?;
    // What is gone already is told by the code.
    let first = facts.replica.first_index();
    if from < first {
        let message = format!("the log begins at {first}: what was before is in the snapshot");
        return Err(Error::new(StatusCode::GONE, "compacted", &message));
    }
    let replica = facts.replica.clone();
    let lines = stream::unfold(Some((replica, from, permit)), move |state| async move {
        let (replica, from, permit) = state?;
        let (chunk, next) = match replica.follow(from, CHUNK_BYTES).await {
            Ok(entries) => {
                let next = entries.last().map_or(from, |last| last.id.index + 1);
                let lines: Vec<Value> = entries.iter().map(written::entry).collect();
                (text(&lines, events), Some(next))
            }
            Err(error) => {
                let code = match &error {
                    FollowError::Compacted { .. } => "compacted",
                    FollowError::Storage { .. } => "storage",
                    FollowError::Stopped => "stopped",
                };
                (text(&[json!({ "code": code, "message": error.to_string(), "index": from })], events), None)
            }
        };
        Some((Ok::<_, Infallible>(Frame::data(chunk)), next.map(|next| (replica, next, permit))))
    });
    let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
    let kind = if events { "text/event-stream" } else { "application/x-ndjson" };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// An event has the entry's index as its id, so that a browser resumes after it.
fn text(lines: &[Value], events: bool) -> Bytes {
    let mut out = String::new();
    for line in lines {
        if events {
            out.push_str(&format!("id: {}\ndata: {line}\n\n", line["index"]));
        } else {
            out.push_str(&line.to_string());
            out.push('\n');
        }
    }
    out.into()
}
