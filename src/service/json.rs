//! Answers in JSON.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::Body;
use crate::consensus::command::Command;
use crate::consensus::key_value::Answered;
use crate::consensus::session::Refusal;
use crate::consensus::{Committed, Membership, Outcome, Place, ReplicaId, Status};
use crate::storage::EntryId;

pub(super) fn answer(code: StatusCode, body: &Value) -> Response<Body> {
    let mut text = body.to_string();
    text.push('\n');
    respond(code, "application/json", text.into())
}

pub(super) fn respond(code: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Bytes as text where they are text, and in base64 too.
pub(super) fn bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "base64": data_encoding::BASE64.encode(bytes) }),
    }
}

fn index(id: Option<EntryId>) -> Value {
    id.map_or(Value::Null, |id| json!(id.index))
}

fn node(place: &Place) -> Value {
    let mut json = json!({ "node": place.node, "datacenter": place.datacenter });
    if let Some(address) = place.address {
        json["address"] = address.to_string().into();
    }
    json
}

fn place((replica, place): &(ReplicaId, Place)) -> Value {
    let mut json = node(place);
    json["replica"] = json!(replica);
    json
}

/// Who is in the cluster by the last committed entry that says so; of a node that knows of none, nobody.
pub(super) fn members(membership: Option<&Membership>, ready: bool) -> Value {
    let id = membership.map(|membership| membership.id);
    let nodes = membership.iter().flat_map(|membership| &membership.places).map(node);
    json!({
        "index": index(id),
        "term": id.map(|id| id.term),
        "ready": ready,
        "members": nodes.collect::<Vec<_>>(),
    })
}

/// What became of an operation; null where this node does not know it any longer.
fn outcome(outcome: Option<&Outcome>) -> Value {
    match outcome {
        Some(Outcome::Applied(answer)) => {
            serde_json::from_slice::<Answered>(answer).map_or(Value::Null, |answered| json!(answered))
        }
        Some(Outcome::Repeated) => json!("repeated"),
        Some(Outcome::Refused(Refusal::SessionExpired)) => json!("session_expired"),
        Some(Outcome::Refused(Refusal::AnswerForgotten { .. })) => json!("answer_forgotten"),
        None => Value::Null,
    }
}

/// One line of the log.
pub(super) fn entry(committed: &Committed) -> Value {
    let (kind, rest) = match &committed.command {
        Command::Nothing => ("nothing", json!({})),
        Command::OpensSession { time } => ("opens_session", json!({ "time_us": time })),
        Command::Membership(json) => {
            ("membership", serde_json::from_slice(json).unwrap_or_else(|_| json!({})))
        }
        Command::Operation { request, time, body } => {
            let op = data_encoding::BASE64.encode(body);
            let (client, seq) = (request.map(|request| request.client), request.map(|request| request.seq));
            let outcome = outcome(committed.outcome.as_ref());
            let said = json!({ "client": client, "seq": seq, "time_us": time, "op": op, "outcome": outcome });
            ("operation", said)
        }
    };
    json!({ "index": committed.id.index, "term": committed.id.term, "kind": kind, kind: rest })
}

pub(crate) fn status(status: &Status) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "replica": status.replica,
        "role": status.role.label(),
        "term": status.term,
        "ready": status.not_ready.is_none(),
        "leader": status.leader.as_ref().map(place),
        "voters": status.voters.iter().map(place).collect::<Vec<_>>(),
        "learners": status.learners.iter().map(place).collect::<Vec<_>>(),
        "first_index": status.purged.map_or(0, |purged| purged.index + 1),
        "last_index": status.last,
        "commit_index": index(status.committed),
        "applied_index": index(status.applied),
        "snapshot_index": index(status.snapshot),
        "snapshots_failed": status.snapshots_failed,
        "in_doubt": status.in_doubt,
        "clocks_sure": status.clocks_sure,
        "leases": status.leases,
        "stopped": status.stopped,
        "sent": {
            "control": { "batches": status.sent.control.batches, "messages": status.sent.control.messages },
            "entries": status.sent.entries,
            "snapshot_bytes": { "leader": status.sent.snapshots.own, "lent": status.sent.snapshots.lent },
            "bulk": { "batches": status.sent.bulk.batches, "messages": status.sent.bulk.messages },
        },
    })
}
