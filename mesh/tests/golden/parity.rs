//! Parity of bincode with a second implementation of its rules (wincode): the same bytes, and each reads the other's.

use proptest::prelude::*;
use trunkline_mesh::id::{ClusterId, Datacenter, Incarnation, Seq};
use trunkline_mesh::proto::wire::{
    Ack, AckFlow, Close, Confirm, Envelope, Flow, Hello, Ping, Pong, Refuse, Refused, Roster, Run, Welcome,
    decode, encode,
};

use super::{node, to_hex};

/// The structs as tuples, which have the same bytes: a struct is its fields one after the other, in both libraries.
type HelloFields = (String, String, String, u8, u64, Vec<(u16, u64)>, u64, u64, u64, u8, u64);
type WelcomeFields = (String, String, String, u8, u64, Vec<(u16, u64)>, u64, u64, (u16, u64, u64, u64));
type FlowFields = (String, u64, String, u64);
type RunFields = (u32, u64, u32, u64, u32);
type AckFields = (u8, u32, u64, u64, u32, Vec<u64>, Vec<(u64, u32, u8)>);

/// bincode and the second implementation write the same bytes and read each other's.
macro_rules! parity {
    ($fields:expr, $kind:ty, $body:expr) => {{
        let config = wincode::config::Configuration::default().with_varint_encoding();
        let (fields, body) = ($fields, $body);
        let bytes = wincode::config::serialize(&fields, config).unwrap();
        prop_assert_eq!(to_hex(&bytes), to_hex(&encode(&body)));
        let again: $kind = wincode::config::deserialize_exact(&bytes, config).unwrap();
        prop_assert_eq!(again, fields);
        prop_assert_eq!(decode(&bytes), Ok(body));
    }};
}

/// Numbers around every length border as often as any others.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        prop::sample::select(vec![
            0,
            250,
            251,
            255,
            256,
            65_535,
            65_536,
            u64::from(u32::MAX),
            1 << 32,
            u64::MAX
        ]),
        any::<u64>(),
        (0_u32..64).prop_flat_map(|bits| 0..=(u64::MAX >> bits)),
    ]
}

fn small() -> impl Strategy<Value = u32> {
    number().prop_map(|value| u32::try_from(value & u64::from(u32::MAX)).unwrap())
}

fn tiny() -> impl Strategy<Value = u16> {
    number().prop_map(|value| u16::try_from(value & 0xffff).unwrap())
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9-]{1,63}"
}

fn versions() -> impl Strategy<Value = Vec<(u16, u64)>> {
    prop::collection::vec((tiny(), number()), 0..4)
}

fn hello_of(fields: HelloFields) -> Hello {
    let (cluster, node_id, datacenter, roles, incarnation, versions, features, bytes, link, lane, sent_us) =
        fields;
    Hello {
        cluster: ClusterId::new(&cluster).unwrap(),
        node: node(&node_id),
        datacenter: Datacenter::new(&datacenter).unwrap(),
        roles,
        incarnation: Incarnation(incarnation),
        versions,
        features,
        frame_bytes_max: bytes,
        link,
        lane,
        sent_us,
    }
}

fn welcome_of(fields: WelcomeFields) -> Welcome {
    let (cluster, node_id, datacenter, roles, incarnation, versions, features, bytes, stamps) = fields;
    let (version, hello_sent_us, hello_received_us, sent_us) = stamps;
    Welcome {
        cluster: ClusterId::new(&cluster).unwrap(),
        node: node(&node_id),
        datacenter: Datacenter::new(&datacenter).unwrap(),
        roles,
        incarnation: Incarnation(incarnation),
        versions,
        features,
        frame_bytes_max: bytes,
        version,
        hello_sent_us,
        hello_received_us,
        sent_us,
    }
}

fn flow_of((origin, life, destination, destination_life): FlowFields) -> Flow {
    Flow {
        origin: node(&origin),
        origin_incarnation: Incarnation(life),
        destination: node(&destination),
        destination_incarnation: Incarnation(destination_life),
    }
}

fn run_of((flow, first, count, floor_back, deadline_ms): RunFields) -> Run {
    Run { flow, first: Seq(first), count, floor_back, deadline_ms }
}

fn ack_of((lane, flow, incarnation, decided, room_kib, held, ranges): AckFields) -> AckFlow {
    let range = |(first, count, reason)| Refused { first: Seq(first), count, reason };
    AckFlow {
        lane,
        flow,
        incarnation: Incarnation(incarnation),
        decided,
        room_kib,
        held,
        refused: ranges.into_iter().map(range).collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn handshake_bodies_are_the_same_in_a_second_implementation(
        hello in (name(), name(), name(), any::<u8>(), number(), versions(), number(), number(), number(), any::<u8>()),
        sent_us in number(),
        welcome in (name(), name(), name(), any::<u8>(), number(), versions(), number(), number()),
        stamps in (tiny(), number(), number(), number()),
        refuse in (tiny(), "\\PC{0,80}", number()),
        confirm in (tiny(), small()),
    ) {
        let (a, b, c, d, e, f, g, h, i, j) = hello;
        let fields: HelloFields = (a, b, c, d, e, f, g, h, i, j, sent_us);
        parity!(fields.clone(), HelloFields, hello_of(fields));
        let (a, b, c, d, e, f, g, h) = welcome;
        let fields: WelcomeFields = (a, b, c, d, e, f, g, h, stamps);
        parity!(fields.clone(), WelcomeFields, welcome_of(fields));
        let (code, detail, highest) = refuse.clone();
        let body = Refuse { code, detail, highest_incarnation: Incarnation(highest) };
        parity!(refuse, (u16, String, u64), body);
        parity!(confirm, (u16, u32), Confirm { version: confirm.0, transcript: confirm.1 });
        parity!((confirm.0,), (u16,), Close { code: confirm.0 });
        parity!((sent_us,), (u64,), Ping { sent_us });
        let (_, ping_sent_us, ping_received_us, sent_us) = stamps;
        let pong = Pong { ping_sent_us, ping_received_us, sent_us };
        parity!((ping_sent_us, ping_received_us, sent_us), (u64, u64, u64), pong);
    }

    #[test]
    fn bodies_of_an_open_connection_are_the_same_in_a_second_implementation(
        first in small(),
        rows in prop::collection::vec((name(), number(), name(), number()), 0..5),
        batch in number(),
        attempt in small(),
        runs in prop::collection::vec((small(), number(), small(), number(), small()), 0..9),
        flows in prop::collection::vec(
            (
                any::<u8>(),
                small(),
                number(),
                number(),
                small(),
                prop::collection::vec(number(), 0..5),
                prop::collection::vec((number(), small(), any::<u8>()), 0..5),
            ),
            0..5,
        ),
    ) {
        let roster = Roster { first, flows: rows.iter().cloned().map(flow_of).collect() };
        parity!((first, rows), (u32, Vec<FlowFields>), roster);
        let envelope = Envelope { batch, attempt, runs: runs.iter().copied().map(run_of).collect() };
        parity!((batch, attempt, runs), (u64, u32, Vec<RunFields>), envelope);
        let ack = Ack { flows: flows.iter().cloned().map(ack_of).collect() };
        parity!((flows,), (Vec<AckFields>,), ack);
    }
}

/// What a second implementation may be stricter about, and what it must not.
#[test]
fn integers_are_read_as_protocol_md_says() {
    let sent = |bytes: &[u8]| decode::<Ping>(bytes).map(|ping| ping.sent_us).ok();
    assert_eq!(sent(&[0xfb, 0xfa, 0x00]), Some(250), "longer than needed, and read all the same");
    assert_eq!(
        sent(&[0xfe, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        None,
        "a marker wider than the field"
    );
    assert_eq!(sent(&[0xff]), None, "a marker of no meaning");
    assert_eq!(sent(&[0xfd, 1, 2]), None, "cut off");
    assert_eq!(sent(&[1, 2]), None, "bytes left over");
    assert!(decode::<Close>(&[0xfc, 1, 0, 0, 0]).is_err(), "four bytes for a u16");
    assert_eq!(decode::<Close>(&[0xfb, 1, 0]), Ok(Close { code: 1 }));
}
