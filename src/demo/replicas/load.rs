//! A client: writes, compare-and-sets and reads, one at a time, at the nodes of its datacenter.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::time::sleep;

use super::client::{Client, Silence};
use super::record::{Asked, Shared, Told, lock};
use crate::consensus::history::What;

/// So few that clients meet.
const KEYS: u8 = 24;
/// Bytes of a value, most of which is random letters.
pub(super) const VALUE_BYTES: usize = 1024;
/// After a node that cannot answer, before the next one is asked.
const PAUSE: Duration = Duration::from_millis(20);

/// Until it is aborted or the record is closed.
pub(super) async fn run(name: usize, nodes: Vec<SocketAddr>, record: Shared, mut rng: Rng) {
    let mut clients: Vec<Client> = nodes.into_iter().map(Client::new).collect();
    let mut at = name % clients.len().max(1);
    for number in 0_u64.. {
        let Some(client) = clients.get_mut(at) else { return };
        let (asked, request) = choose(&mut rng, &record, format!("{name}-{number}"));
        let Some(called) = lock(&record).call() else { return };
        let answer = client.ask(request.method, &request.path, request.body).await;
        let told = understand(&asked, answer);
        let elsewhere = matches!(told, Told::Refused | Told::Unknown);
        lock(&record).answer(asked, called, told);
        if elsewhere {
            at = (at + 1) % clients.len();
            sleep(PAUSE).await;
        }
    }
}

struct Request {
    method: Method,
    path: String,
    body: Bytes,
}

fn choose(rng: &mut Rng, record: &Shared, value: String) -> (Asked, Request) {
    let key = format!("key-{:02}", rng.u8(..KEYS));
    let path = format!("/v1/kv/{key}");
    match rng.u8(..10) {
        kind @ 0..4 => {
            let read = if kind == 0 { "lease" } else { "linearizable" };
            let request =
                Request { method: Method::GET, path: format!("{path}?read={read}"), body: Bytes::new() };
            (Asked::Read { key }, request)
        }
        kind => {
            let if_index = (kind == 4).then(|| lock(record).seen(&key));
            let condition = if_index.map_or(String::new(), |index| format!("?if_index={index}"));
            let body = format!("{value} {}", letters(rng, VALUE_BYTES.saturating_sub(value.len() + 1)));
            let request = Request { method: Method::PUT, path: path + &condition, body: body.into() };
            (Asked::Put { key, value: value.into(), if_index }, request)
        }
    }
}

fn letters(rng: &mut Rng, count: usize) -> String {
    std::iter::repeat_with(|| rng.alphanumeric()).take(count).collect()
}

/// What identifies a value: what is before its random letters.
pub(super) fn short(value: &[u8]) -> Bytes {
    Bytes::copy_from_slice(value.split(|byte| *byte == b' ').next().unwrap_or_default())
}

fn understand(asked: &Asked, answer: Result<(StatusCode, Value), Silence>) -> Told {
    let (code, body) = match answer {
        Ok(answer) => answer,
        Err(Silence::Unreached) => return Told::Refused,
        Err(Silence::Unknown) => return Told::Unknown,
    };
    let mod_index = body["mod_index"].as_u64();
    let what = match (asked, code, mod_index) {
        (Asked::Put { value, if_index, .. }, StatusCode::OK, Some(index)) => {
            Some(What::Put { value: value.clone(), if_index: *if_index, index })
        }
        (Asked::Put { if_index: Some(if_index), .. }, StatusCode::CONFLICT, Some(mod_index)) => {
            Some(What::Conflict { if_index: *if_index, mod_index })
        }
        (Asked::Read { .. }, StatusCode::OK, Some(mod_index)) => body["value"]["text"]
            .as_str()
            .map(|text| What::Read { value: Some(short(text.as_bytes())), mod_index }),
        (Asked::Read { .. }, StatusCode::NOT_FOUND, _) => Some(What::Read { value: None, mod_index: 0 }),
        _ => None,
    };
    match what {
        Some(what) => Told::Done(what),
        None if body["definite"] == Value::Bool(true) => Told::Refused,
        None => Told::Unknown,
    }
}
