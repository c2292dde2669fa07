//! Who is in the cluster of a replica, changed through the admin API: `POST`, without a body.

use hyper::StatusCode;
use serde_json::{Value, json};
use trunkline_mesh::{Datacenter, NodeId};

use crate::consensus::key_value::KeyValue;
use crate::consensus::{MemberError, Replica, ReplicaId};

/// What these requests begin with.
pub(super) const PATHS: [&str; 5] =
    ["/v1/members/add", "/v1/members/promote", "/v1/members/remove", "/v1/leader/transfer", "/v1/snapshot"];

/// Does what a path says. `query` is what stands behind its question mark.
pub(super) async fn change(
    replica: &Replica<KeyValue>,
    path: &str,
    query: Option<&str>,
) -> (StatusCode, Value) {
    let parameter = |name: &str| {
        let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let id = || parameter("replica").and_then(|text| text.parse::<ReplicaId>().ok());
    let wrong = |error: &str| (StatusCode::BAD_REQUEST, json!({ "error": error, "definite": true }));
    const NO_REPLICA: &str =
        "say which one with ?replica= and 16 digits of 0-9 and a-f, as /v1/status shows them";
    let done = match path {
        "/v1/members/add" => {
            let Some(node) = parameter("node").and_then(|node| NodeId::new(node).ok()) else {
                return wrong("say which one with ?node= and its id");
            };
            let added = match (parameter("datacenter"), parameter("address")) {
                (None, None) => replica.add(&node).await,
                (Some(datacenter), Some(address)) => {
                    let at = Datacenter::new(datacenter).ok().zip(address.parse().ok());
                    let Some((datacenter, address)) = at else {
                        return wrong("a node that no file names is at ?datacenter=NAME&address=IP:PORT");
                    };
                    replica.add_at(node, datacenter, address).await
                }
                _ => return wrong("datacenter and address go together"),
            };
            added.map(|added| json!({ "replica": added }))
        }
        "/v1/snapshot" => {
            return match replica.snapshot().await {
                Ok(()) => (StatusCode::OK, json!({})),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, json!({ "error": error.to_string() })),
            };
        }
        path => {
            let Some(id) = id() else { return wrong(NO_REPLICA) };
            let done = match path {
                "/v1/members/promote" => replica.promote(id).await,
                "/v1/members/remove" => replica.remove(id).await,
                _ => replica.transfer(id).await,
            };
            done.map(|()| json!({}))
        }
    };
    match done {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => {
            let (code, definite) = match &error {
                MemberError::NotLeader
                | MemberError::Behind { .. }
                | MemberError::Refused { .. }
                | MemberError::OfAnotherCluster { .. } => (StatusCode::CONFLICT, true),
                MemberError::Unknown { .. } => (StatusCode::NOT_FOUND, true),
                MemberError::Silent { .. } => (StatusCode::GATEWAY_TIMEOUT, true),
                _ => (StatusCode::SERVICE_UNAVAILABLE, false),
            };
            let leader = replica.status().leader.map(|(_, place)| place.node);
            (code, json!({ "error": error.to_string(), "definite": definite, "leader": leader }))
        }
    }
}
