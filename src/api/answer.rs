//! One request → one answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body;
use hyper::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};
use trunkline_mesh::{NodeId, PingError, Status};

use super::{Facts, Refusal, members};
use crate::service::replica_status;

type Answer = Response<Full<Bytes>>;

const PATHS: [&str; 6] = ["/metrics", "/livez", "/readyz", "/v1/status", "/v1/routes", "/v1/stats"];
/// Characters of a path that an answer repeats.
const ECHO_CHARS_MAX: usize = 128;

/// The body of `/v1/status`.
#[derive(Serialize)]
struct FullStatus {
    version: &'static str,
    ready: bool,
    #[serde(flatten)]
    status: Status,
    /// Why the configuration file, as it was read last, is not in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    config_refused: Option<String>,
    /// As the API for clients tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    replica: Option<Value>,
}

/// Longest wait for a round trip.
const PING_PATIENCE: Duration = Duration::from_secs(5);

/// The one path that causes traffic, and so is a POST: `/v1/ping/NODE`.
const PING: &str = "/v1/ping/";

pub(super) async fn answer<B: Body>(request: Request<B>, facts: Arc<Facts>) -> Answer {
    if let Some(replica) = &facts.replica
        && members::PATHS.contains(&request.uri().path())
    {
        if request.method() != Method::POST || !request.body().is_end_stream() {
            return only_post();
        }
        if !facts.local {
            return forbidden("members are changed on the node's own machine: give it `admin` on loopback");
        }
        let (code, body) = members::change(replica, request.uri().path(), request.uri().query()).await;
        return json(code, &body);
    }
    match request.uri().path().strip_prefix(PING) {
        Some(node) if request.method() == Method::POST && request.body().is_end_stream() => {
            ping(node, &facts).await
        }
        Some(_) => only_post(),
        None => {
            // Never closed: an error would let everybody through.
            let _turn = facts.turn.acquire().await;
            answer_at_once(&request, &facts)
        }
    }
}

pub(super) fn forbidden(why: &str) -> Answer {
    closing(json(StatusCode::FORBIDDEN, &json!({ "error": why, "definite": true })))
}

fn only_post() -> Answer {
    let error = json!({ "error": "this path only answers POST, without a body" });
    let mut answer = json(StatusCode::METHOD_NOT_ALLOWED, &error);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    closing(answer)
}

async fn ping(node: &str, facts: &Facts) -> Answer {
    let told = match NodeId::new(node) {
        Ok(node) => facts.mesh.ping(&node, PING_PATIENCE).await,
        Err(error) => return json(StatusCode::BAD_REQUEST, &json!({ "error": error.to_string() })),
    };
    match told {
        Ok(pinged) => json(StatusCode::OK, &pinged),
        Err(error) => {
            let code = match error {
                PingError::UnknownNode(_)
                | PingError::Itself(_)
                | PingError::NotLinked(_)
                | PingError::NotDialled(_) => StatusCode::BAD_REQUEST,
                PingError::TimedOut { .. } | PingError::Down { .. } => StatusCode::GATEWAY_TIMEOUT,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            json(code, &json!({ "error": error.to_string() }))
        }
    }
}

fn answer_at_once<B: Body>(request: &Request<B>, facts: &Facts) -> Answer {
    let path = request.uri().path();
    if !PATHS.contains(&path) {
        let path: String = path.chars().take(ECHO_CHARS_MAX).collect();
        let mut paths = PATHS.to_vec();
        paths.push("/v1/ping/NODE");
        paths.extend(facts.replica.iter().flat_map(|_| members::PATHS));
        return json(
            StatusCode::NOT_FOUND,
            &json!({ "error": "no such path", "path": path, "paths": paths }),
        );
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let error = json!({ "error": "this path only answers GET and HEAD", "path": path });
        let mut answer = json(StatusCode::METHOD_NOT_ALLOWED, &error);
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return closing(answer);
    }
    if !request.body().is_end_stream() {
        let error = json!({ "error": "requests with a body are not accepted", "path": path });
        return closing(json(StatusCode::PAYLOAD_TOO_LARGE, &error));
    }
    match path {
        "/metrics" => metrics(facts),
        "/livez" => json(StatusCode::OK, &json!({ "alive": true })),
        "/readyz" => ready(facts),
        "/v1/stats" => json(StatusCode::OK, &facts.mesh.stats()),
        "/v1/routes" => json(StatusCode::OK, &facts.mesh.routes()),
        _ => status(facts),
    }
}

fn metrics(facts: &Facts) -> Answer {
    match facts.metrics.scrape() {
        Ok(text) => respond(StatusCode::OK, prometheus::TEXT_FORMAT, text),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be encoded");
            json(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "error": error }))
        }
    }
}

fn ready(facts: &Facts) -> Answer {
    let reasons = facts.not_ready();
    let code = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
    json(code, &json!({ "ready": reasons.is_empty(), "reasons": reasons }))
}

fn status(facts: &Facts) -> Answer {
    let ready = facts.not_ready().is_empty();
    let replica = facts.replica.as_ref().map(|replica| replica_status(&replica.status()));
    let full = FullStatus {
        version: env!("CARGO_PKG_VERSION"),
        ready,
        status: facts.mesh.status(),
        config_refused: facts.refusal.as_ref().and_then(Refusal::why),
        replica,
    };
    json(StatusCode::OK, &full)
}

fn json(code: StatusCode, body: &impl Serialize) -> Answer {
    match serde_json::to_vec(body) {
        Ok(mut text) => {
            text.push(b'\n');
            respond(code, "application/json", text)
        }
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            respond(StatusCode::INTERNAL_SERVER_ERROR, "application/json", Vec::new())
        }
    }
}

fn respond(code: StatusCode, content_type: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// The caller may still be sending something nobody reads.
fn closing(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}
