//! Any bytes as the body of every control frame.

use serde::Serialize;
use serde::de::DeserializeOwned;
use trunkline_mesh::proto::wire::{
    Ack, AckFlow, Close, Confirm, Envelope, Flow, Hello, Ping, Pong, Refuse, Refused, Roster, Run,
    VersionOffer, Welcome, decode, encode,
};

/// Memory that a decoded body may take per byte on the wire: a row of six bytes is two names with counts of their own.
const PER_BYTE: usize = 40;

/// The longest thing that is said of a body which does not decode, bytes: it goes to the log.
const ERROR_BYTES_MAX: usize = 1024;

/// The first byte chooses the frame, the rest is its body.
pub(crate) fn control(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 10 {
        0 => check(body, |hello: &Hello| vec_bytes::<VersionOffer>(&hello.versions)),
        1 => check(body, |welcome: &Welcome| vec_bytes::<VersionOffer>(&welcome.versions)),
        2 => check(body, |refuse: &Refuse| refuse.detail.capacity()),
        3 => check(body, |_: &Confirm| 0),
        4 => check(body, |_: &Close| 0),
        5 => check(body, |_: &Ping| 0),
        6 => check(body, |_: &Pong| 0),
        7 => check(body, |roster: &Roster| {
            // A name is counted: two numbers and its bytes.
            let names = |flow: &Flow| flow.origin.as_str().len() + flow.destination.as_str().len() + 32;
            vec_bytes::<Flow>(&roster.flows) + roster.flows.iter().map(names).sum::<usize>()
        }),
        8 => check(body, |envelope: &Envelope| {
            envelope.runs.iter().for_each(check_run);
            vec_bytes::<Run>(&envelope.runs)
        }),
        _ => check(body, |ack: &Ack| {
            check_ack(ack);
            let lists = |flow: &AckFlow| vec_bytes::<u64>(&flow.held) + vec_bytes::<Refused>(&flow.refused);
            vec_bytes::<AckFlow>(&ack.flows) + ack.flows.iter().map(lists).sum::<usize>()
        }),
    }
}

fn vec_bytes<T>(list: &Vec<T>) -> usize {
    list.capacity() * size_of::<T>()
}

/// A body that is taken keeps no more than its length allows, and is written again as it was read: but for integers that
/// were longer than they need be, which a receiver takes and a sender never writes.
fn check<T>(body: &[u8], kept: impl Fn(&T) -> usize)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    match decode::<T>(body) {
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() <= ERROR_BYTES_MAX, "{} bytes of error", text.len());
            assert!(!text.chars().any(char::is_control), "{text:?} goes to the log");
        }
        Ok(value) => {
            assert!(kept(&value) <= PER_BYTE * body.len(), "{} of {}", kept(&value), body.len());
            check_again(body, &value);
        }
    }
}

/// What was decoded is encoded to the same bytes, or to fewer that mean the same.
pub(crate) fn check_again<T>(body: &[u8], value: &T)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let again = encode(value);
    assert!(again.len() <= body.len(), "{} bytes became {}", body.len(), again.len());
    assert!(again.len() < body.len() || again == body, "{again:02x?} is not {body:02x?}");
    assert_eq!(decode::<T>(&again).as_ref(), Ok(value));
}

/// A sound run has all its seqs and a floor no higher than the first of them.
fn check_run(run: &Run) {
    if run.is_sound() {
        assert!(run.first.0.checked_add(u64::from(run.count)).is_some());
    }
    assert!(run.floor().is_none_or(|floor| (1..=run.first.0).contains(&floor.0)));
}

/// What passes is within the limits that PROTOCOL.md gives acks.
fn check_ack(ack: &Ack) {
    if ack.check().is_ok() {
        assert!(ack.flows.windows(2).all(|pair| (pair[0].lane, pair[0].flow) < (pair[1].lane, pair[1].flow)));
        assert!(ack.flows.iter().all(|flow| flow.held.len() <= 256 && flow.refused.len() <= 1024));
    }
}
