//! One request → one answer.

use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::chunk::Format;
use super::cursor::Cursor;
use super::errors::Error;
use super::{Body, Facts, follow, json as written, snapshot};
use crate::consensus::command;
use crate::consensus::key_value::{Answered, KEY_BYTES_MAX, KeyValue, Operation, Value};
use crate::consensus::{Answer, Consistency};

pub(super) async fn answer(facts: &Facts, request: Request<Incoming>) -> Response<Body> {
    match route(facts, request).await {
        Ok(response) => response,
        Err(error) => error.response(facts),
    }
}

async fn route(facts: &Facts, request: Request<Incoming>) -> Result<Response<Body>, Error> {
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    check_parameters(&request, parameters_of(&method, &path))?;
    if let Some(key) = path.strip_prefix("/v1/kv/") {
        let key = unescaped(key)?;
        return match method {
            Method::GET => get(facts, &request, key).await,
            Method::PUT => put(facts, request, key).await,
            Method::DELETE => {
                let if_index = number(&request, "if_index")?;
                change(facts, Operation::Delete { key, if_index }).await
            }
            _ => Ok(not_allowed(facts, "GET, PUT, DELETE")),
        };
    }
    match (method, path.as_str()) {
        (Method::POST, "/v1/session") => {
            let client = facts.replica.open_session().await?;
            Ok(written::answer(StatusCode::OK, &json!({ "client": client })))
        }
        (Method::POST, "/v1/propose") => propose(facts, request).await,
        (Method::GET, "/v1/log") => log(facts, &request),
        (Method::GET, snapshot::PATH) => {
            let at_least = number(&request, "at_least")?.unwrap_or(0);
            snapshot::stream(facts, prefix(&request)?.unwrap_or_default(), at_least).await
        }
        (Method::GET, "/v1/digest") => {
            let digest = facts.replica.digest().await?;
            let index = digest.applied.map(|applied| applied.index);
            if let Some(wanted) =
                number(&request, "index")?.filter(|wanted| index.is_none_or(|index| index < *wanted))
            {
                return Err(Error::behind(wanted));
            }
            let body = json!({ "index": index, "digest": digest.value.to_string() });
            Ok(written::answer(StatusCode::OK, &body))
        }
        (Method::GET, "/v1/members") => {
            let ready = facts.replica.status().not_ready.is_none();
            Ok(written::answer(StatusCode::OK, &written::members(facts.replica.membership().as_ref(), ready)))
        }
        (Method::GET, "/v1/status") => {
            let mut status = written::status(&facts.replica.status());
            status["followers"] = json!({
                "count": facts.feed.followers(),
                "shared_bytes": facts.feed.bytes(),
                "let_go": facts.feed.let_go(),
                "snapshots": facts.states.takers(),
            });
            Ok(written::answer(StatusCode::OK, &status))
        }
        (Method::GET, "/livez") => Ok(written::answer(StatusCode::OK, &json!({ "alive": true }))),
        (Method::GET, "/v1/events") => {
            let mut lines = String::new();
            for line in facts.replica.events(number(&request, "from")?.unwrap_or(0)) {
                lines.push_str(&line);
                lines.push('\n');
            }
            Ok(written::respond(StatusCode::OK, "application/x-ndjson", lines.into()))
        }
        (Method::GET, "/readyz") => {
            let reasons = facts.not_ready();
            let ready = reasons.is_empty();
            let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            Ok(written::answer(code, &json!({ "ready": ready, "reasons": reasons })))
        }
        (_, "/v1/session" | "/v1/propose") => Ok(not_allowed(facts, "POST")),
        (
            _,
            "/v1/log"
            | snapshot::PATH
            | "/v1/events"
            | "/v1/digest"
            | "/v1/members"
            | "/v1/status"
            | "/livez"
            | "/readyz",
        ) => Ok(not_allowed(facts, "GET")),
        _ => Err(Error::new(StatusCode::NOT_FOUND, "no_such_path", "there is no such path")),
    }
}

fn not_allowed(facts: &Facts, allowed: &'static str) -> Response<Body> {
    let message = format!("this path answers {allowed} alone");
    let error = Error::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &message);
    let mut response = error.response(facts);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// Follows the log.
fn log(facts: &Facts, request: &Request<Incoming>) -> Result<Response<Body>, Error> {
    let format = match accepts(request, "text/event-stream") {
        true => Format::Events,
        false => Format::Lines,
    };
    // A browser that resumes says after which event.
    let resumed = request.headers().get("last-event-id").filter(|_| format == Format::Events);
    let resumed = resumed.and_then(|id| id.to_str().ok()?.parse::<u64>().ok()?.checked_add(1));
    let from = resumed.or(number(request, "from")?).unwrap_or(0);
    let prefix = prefix(request)?;
    let progress = match number(request, "progress")? {
        None => None,
        Some(seconds @ 1..=3_600) => Some(Duration::from_secs(seconds)),
        Some(_) => return Err(Error::bad("`progress` is 1 to 3,600 seconds")),
    };
    follow::stream(facts, Cursor::new(from, format, prefix, progress, Instant::now()), format)
}

/// How keys begin that are asked for.
fn prefix(request: &Request<Incoming>) -> Result<Option<String>, Error> {
    let prefix = parameter(request, "prefix").map(unescaped).transpose()?;
    if prefix.as_ref().is_some_and(|prefix| prefix.len() > KEY_BYTES_MAX) {
        return Err(Error::bad(format!("`prefix` has at most {KEY_BYTES_MAX} B, as keys have")));
    }
    Ok(prefix)
}

async fn get(facts: &Facts, request: &Request<Incoming>, key: String) -> Result<Response<Body>, Error> {
    let consistency = match parameter(request, "read") {
        None | Some("linearizable" | "linear") => Consistency::Linearizable,
        Some("lease") => Consistency::Lease,
        Some("stale") => Consistency::Stale,
        Some(_) => return Err(Error::bad("`read` is linearizable, lease or stale")),
    };
    let wanted = key.clone();
    let read = facts.replica.read(consistency, move |machine: &KeyValue| machine.get(&wanted)).await?;
    let Some(Value { bytes, mod_index }) = read.value else {
        return Err(Error::new(StatusCode::NOT_FOUND, "no_such_key", "there is no such key"));
    };
    if accepts(request, "application/octet-stream") {
        return Ok(written::respond(StatusCode::OK, "application/octet-stream", bytes));
    }
    let body = json!({
        "key": key,
        "value": written::bytes(&bytes),
        "mod_index": mod_index,
        "read_index": read.applied.map(|applied| applied.index),
        "term": read.applied.map(|applied| applied.term),
        "served_by": facts.node,
    });
    Ok(written::answer(StatusCode::OK, &body))
}

async fn put(facts: &Facts, request: Request<Incoming>, key: String) -> Result<Response<Body>, Error> {
    let if_index = number(&request, "if_index")?;
    let value = facts.bodies.read(request.into_body()).await?;
    change(facts, Operation::Put { key, value, if_index }).await
}

async fn change(facts: &Facts, operation: Operation) -> Result<Response<Body>, Error> {
    let encoded = operation.encode();
    Operation::decode(&encoded).map_err(Error::bad)?;
    let Answer { id, result } = facts.replica.propose(None, encoded).await?;
    let (code, conflict) = match serde_json::from_slice(&result?) {
        Ok(Answered::Done) => (StatusCode::OK, None),
        Ok(Answered::Conflict { mod_index }) => (StatusCode::CONFLICT, Some(mod_index)),
        Ok(Answered::Invalid { why }) => return Err(Error::bad(why)),
        Err(_) => {
            let message = "the state machine's answer cannot be read: do nodes run different versions?";
            let error = Error::new(StatusCode::INTERNAL_SERVER_ERROR, "bad_answer", message);
            return Err(Error { definite: false, ..error });
        }
    };
    let body = match conflict {
        None => json!({ "index": id.index, "term": id.term, "mod_index": id.index }),
        Some(mod_index) => json!({
            "code": "conflict",
            "message": "the key was changed by another entry than `if_index` says",
            "definite": true,
            "index": id.index,
            "term": id.term,
            "mod_index": mod_index,
        }),
    };
    Ok(written::answer(code, &body))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Propose {
    #[serde(default)]
    client: Option<u64>,
    #[serde(default)]
    seq: Option<u64>,
    op: String,
}

async fn propose(facts: &Facts, request: Request<Incoming>) -> Result<Response<Body>, Error> {
    let text = facts.bodies.read(request.into_body()).await?;
    let Propose { client, seq, op } = serde_json::from_slice(&text).map_err(|error| {
        Error::bad(format!("the body is {{\"client\", \"seq\", \"op\"}}, with op in base64: {error}"))
    })?;
    let op = data_encoding::BASE64
        .decode(op.as_bytes())
        .map_err(|error| Error::bad(format!("op is base64: {error}")))?;
    let request = match (client, seq) {
        (Some(client), Some(seq)) if client != 0 => Some(command::Request { client, seq }),
        (None, None) => None,
        _ => return Err(Error::bad("client and seq go together, and client is what /v1/session said")),
    };
    let Answer { id, result } = facts.replica.propose(request, op.into()).await?;
    let result = data_encoding::BASE64.encode(&result?);
    Ok(written::answer(StatusCode::OK, &json!({ "index": id.index, "term": id.term, "result": result })))
}

/// Whether the caller wants its answer in this form.
fn accepts(request: &Request<Incoming>, wanted: &str) -> bool {
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| {
        accept.split(',').any(|kind| kind.split(';').next().map(str::trim) == Some(wanted))
    })
}

/// What may stand behind the question mark.
fn parameters_of(method: &Method, path: &str) -> &'static [&'static str] {
    match (method, path) {
        (&Method::GET, path) if path.starts_with("/v1/kv/") => &["read"],
        (_, path) if path.starts_with("/v1/kv/") => &["if_index"],
        (_, "/v1/log") => &["from", "prefix", "progress"],
        (_, snapshot::PATH) => &["prefix", "at_least"],
        (_, "/v1/events") => &["from"],
        (_, "/v1/digest") => &["index"],
        _ => &[],
    }
}

/// A condition that is misspelt must not be none.
fn check_parameters(request: &Request<Incoming>, known: &[&str]) -> Result<(), Error> {
    let names = request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let mut names = names.map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
    let Some(unknown) = names.find(|name| !known.contains(name)) else { return Ok(()) };
    let shown: String = unknown.chars().take(64).flat_map(char::escape_default).collect();
    Err(Error::bad(match known {
        [] => format!("there is no parameter `{shown}`, nor any other, of this path"),
        known => format!("there is no parameter `{shown}` of this path: it takes `{}`", known.join("`, `")),
    }))
}

fn parameter<'a>(request: &'a Request<Incoming>, name: &str) -> Option<&'a str> {
    let query = request.uri().query()?;
    query
        .split('&')
        .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))
        .map(|(_, value)| value)
}

fn number(request: &Request<Incoming>, name: &str) -> Result<Option<u64>, Error> {
    let parse = |text: &str| text.parse().map_err(|_| Error::bad(format!("`{name}` is a whole number")));
    parameter(request, name).map(parse).transpose()
}

/// A key as it was before it was put into a path: `%2F` is a slash.
fn unescaped(escaped: &str) -> Result<String, Error> {
    let mut out = Vec::with_capacity(escaped.len());
    let mut rest = escaped.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let hex = rest.first_chunk::<2>().and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let byte = byte.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(byte.ok_or_else(|| Error::bad("after `%` come two digits of 0-9 and a-f"))?);
        rest = &rest[2..];
    }
    String::from_utf8(out).map_err(|_| Error::bad("a key is UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_out_of_paths_as_they_were() {
        assert_eq!(unescaped("a%2Fb%20%c3%a9").unwrap(), "a/b é");
        for bad in ["%", "%2", "%zz", "%+1", "%ff"] {
            assert_eq!(unescaped(bad).unwrap_err().code, "bad_request", "{bad}");
        }
    }
}
