//! Golden bytes of every frame, the schema hash, a second implementation of the integer rules, and PROTOCOL.md held
//! against the constants. Vectors are written once and never edited: a vector that fails means a new wire version.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use trunkline_codec::{Options, Payload, Stage};
use trunkline_mesh::id::{ClusterId, Datacenter, Incarnation, Lane, NodeId, Seq};
use trunkline_mesh::proto::coder::BatchEncoder;
use trunkline_mesh::proto::frame::{
    FrameError, FrameReader, FrameType, HEADER_BYTES, Opened, Received, SealedBatch, Token, control_frame,
};
use trunkline_mesh::proto::handshake::transcript;
use trunkline_mesh::proto::run::message_head;
use trunkline_mesh::proto::wire::{
    Ack, AckFlow, Close, CloseCode, Confirm, Envelope, Flow, Hello, PREAMBLE, Ping, Pong, Refuse, RefuseCode,
    Refused, RefusedReason, Roster, Run, WIRE_VERSION, Welcome, control_structs, encode, offered_versions,
    schema, schema_hash,
};

#[path = "golden/document.rs"]
mod document;
#[path = "golden/parity.rs"]
mod parity;
#[path = "golden/recorder.rs"]
mod recorder;

// ---- examples --------------------------------------------------------------------------------------------------------

fn node(id: &str) -> NodeId {
    NodeId::new(id).unwrap()
}

/// The control structs of version 1 in order, for ever.
const SCHEMA_V1: &str = "\
Hello{cluster:str,node:str,datacenter:str,roles:u8,incarnation:u64,versions:[u16,u64],features:u64,frame_bytes_max:u64,\
link:u64,lane:u8,sent_us:u64};\
Welcome{cluster:str,node:str,datacenter:str,roles:u8,incarnation:u64,versions:[u16,u64],features:u64,\
frame_bytes_max:u64,version:u16,hello_sent_us:u64,hello_received_us:u64,sent_us:u64};\
Refuse{code:u16,detail:str,highest_incarnation:u64};\
Confirm{version:u16,transcript:u32};\
Close{code:u16};\
Ping{sent_us:u64};Pong{ping_sent_us:u64,ping_received_us:u64,sent_us:u64};\
Roster{first:u32,flows:[{origin:str,origin_incarnation:u64,destination:str,destination_incarnation:u64}]};\
Envelope{batch:u64,attempt:u32,runs:[{flow:u32,first:u64,count:u32,floor_back:u64,deadline_ms:u32}]};\
Ack{flows:[{lane:u8,flow:u32,incarnation:u64,decided:u64,room_kib:u32,held:[u64],refused:[{first:u64,count:u32,reason:u8}]}]}";

/// The schema hash of version 1, for ever.
const SCHEMA_HASH_V1: u64 = 0xa98e_ce3b_72ad_5dea;

const EPOCH: u64 = 1_700_000_000_000_000;

fn hello() -> Hello {
    Hello {
        cluster: ClusterId::new("example").unwrap(),
        node: node("us-leader"),
        datacenter: Datacenter::new("us").unwrap(),
        roles: 0b001,
        incarnation: Incarnation(EPOCH),
        versions: vec![(WIRE_VERSION, SCHEMA_HASH_V1)],
        features: 0,
        frame_bytes_max: 16 << 20,
        link: 0x0123_4567_89ab_cdef,
        lane: 1,
        sent_us: EPOCH + 250,
    }
}

fn welcome() -> Welcome {
    Welcome {
        cluster: ClusterId::new("example").unwrap(),
        node: node("eu-p1"),
        datacenter: Datacenter::new("eu").unwrap(),
        roles: 0b110,
        incarnation: Incarnation(EPOCH + 1),
        versions: vec![(WIRE_VERSION, SCHEMA_HASH_V1), (2, 65_535)],
        features: 251,
        frame_bytes_max: 65_536,
        version: WIRE_VERSION,
        hello_sent_us: EPOCH + 250,
        hello_received_us: EPOCH + 40_250,
        sent_us: EPOCH + 40_300,
    }
}

fn refuse() -> Refuse {
    Refuse {
        code: RefuseCode::StaleIncarnation as u16,
        detail: "incarnation 5 is older than 9, seen before".to_owned(),
        highest_incarnation: Incarnation(9),
    }
}

fn confirm() -> Confirm {
    Confirm { version: WIRE_VERSION, transcript: transcript(&encode(&hello()), &encode(&welcome())) }
}

fn roster() -> Roster {
    let flow = |destination: &str, incarnation| Flow {
        origin: node("us-leader"),
        origin_incarnation: Incarnation(EPOCH),
        destination: node(destination),
        destination_incarnation: Incarnation(incarnation),
    };
    Roster { first: 0, flows: vec![flow("eu-m1", 0), flow("eu-m2", EPOCH + 7)] }
}

fn envelope() -> Envelope {
    Envelope {
        batch: 7,
        attempt: 1,
        runs: vec![
            Run { flow: 0, first: Seq(41), count: 2, floor_back: 1, deadline_ms: 10_000 },
            Run { flow: 1, first: Seq(300), count: 1, floor_back: 0, deadline_ms: 10_000 },
        ],
    }
}

fn ack() -> Ack {
    let flow = AckFlow {
        lane: 1,
        flow: 1,
        incarnation: Incarnation(EPOCH + 7),
        decided: 299,
        room_kib: 300,
        held: vec![0b110],
        refused: vec![Refused { first: Seq(303), count: 2, reason: RefusedReason::InboxFull as u8 }],
    };
    Ack { flows: vec![flow] }
}

/// What the two runs of [`envelope`] carry.
fn payloads() -> Vec<Payload> {
    let hello = || [message_head(3, 5), Bytes::from_static(b"hello")];
    let two = hello().into_iter().chain([message_head(0, 0)]).collect();
    vec![two, hello().into_iter().collect()]
}

fn sealed() -> SealedBatch {
    SealedBatch {
        lane: Lane::Bulk,
        envelope: envelope(),
        payloads: payloads(),
        stage: Stage::None,
        token: Token::Attempt(7),
    }
}

fn batch_frame() -> Vec<u8> {
    let mut wire = Vec::new();
    sealed().encode(&mut BatchEncoder::new(Options::default(), None), &mut wire);
    wire.concat()
}

// ---- vectors ---------------------------------------------------------------------------------------------------------

fn manifest(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        for byte in line {
            write!(text, "{byte:02x} ").unwrap();
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// Bytes of a hex text; what follows a `#` is a remark.
fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.lines().flat_map(|line| line.split('#').next().unwrap_or("").split_whitespace());
    digits.map(|byte| u8::from_str_radix(byte, 16).expect("two hex digits")).collect()
}

/// The golden bytes of a name. With `WRITE_VECTORS=1` a missing file is made; an existing one is never touched.
fn vector(name: &str, made: &[u8]) -> Vec<u8> {
    let path = manifest(&format!("tests/vectors/{name}.hex"));
    if !path.exists() && std::env::var_os("WRITE_VECTORS").is_some() {
        std::fs::write(&path, to_hex(made)).unwrap();
    }
    from_hex(&std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

fn read_one(bytes: &[u8], lane: Lane) -> Result<Received, FrameError> {
    let mut reader = FrameReader::new();
    assert!(reader.read(&mut BytesMut::from(&PREAMBLE[..]))?.is_none());
    reader.open(&Opened { lane, frame_bytes_max: 1 << 20, epochs: None, echo: None });
    let mut buffer = BytesMut::from(bytes);
    let (received, length) = reader.read(&mut buffer)?.expect("a whole frame");
    assert_eq!((length, buffer.len()), (bytes.len(), 0));
    Ok(received)
}

fn body_of(received: &Received) -> Vec<u8> {
    match received {
        Received::Hello(body, _) => encode(body),
        Received::Welcome(body, _) => encode(body),
        Received::Refuse(body) => encode(body),
        Received::Confirm(body) => encode(body),
        Received::Close(body) => encode(body),
        Received::Ping(body) => encode(body),
        Received::Pong(body) => encode(body),
        Received::Roster(body) => encode(body),
        Received::Ack(body) => encode(body),
        Received::Batch(envelope, _) => encode(envelope),
        Received::News => panic!("no frame"),
    }
}

#[test]
fn every_control_frame_has_its_golden_bytes_both_ways() {
    let (control, bulk) = (Lane::Control, Lane::Bulk);
    let ping = Ping { sent_us: EPOCH };
    let pong = Pong { ping_sent_us: EPOCH, ping_received_us: EPOCH + 65_536, sent_us: EPOCH + 65_540 };
    let close = Close { code: CloseCode::Draining as u16 };
    let frames = [
        ("hello", bulk, encode(&hello()), control_frame(FrameType::Hello, bulk, &hello())),
        ("welcome", bulk, encode(&welcome()), control_frame(FrameType::Welcome, bulk, &welcome())),
        ("refuse", control, encode(&refuse()), control_frame(FrameType::Refuse, control, &refuse())),
        ("confirm", bulk, encode(&confirm()), control_frame(FrameType::Confirm, bulk, &confirm())),
        ("close", control, encode(&close), control_frame(FrameType::Close, control, &close)),
        ("ping", control, encode(&ping), control_frame(FrameType::Ping, control, &ping)),
        ("pong", control, encode(&pong), control_frame(FrameType::Pong, control, &pong)),
        ("roster", bulk, encode(&roster()), control_frame(FrameType::Roster, bulk, &roster())),
        ("ack", control, encode(&ack()), control_frame(FrameType::Ack, control, &ack())),
    ];
    for (name, lane, body, frame) in frames {
        let golden = vector(name, &frame);
        assert_eq!(to_hex(&frame), to_hex(&golden), "{name} is written differently");
        let received = read_one(&golden, lane).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(to_hex(&body_of(&received)), to_hex(&body), "{name} is read differently");
    }
}

/// Header and envelope byte for byte; the codec frame behind them is the codec's affair and only has to be readable.
#[test]
fn a_batch_has_its_golden_bytes_both_ways() {
    let golden = vector("batch", &batch_frame());
    let Received::Batch(read, frame) = read_one(&golden, Lane::Bulk).unwrap() else { panic!("a batch") };
    assert_eq!(read, envelope());
    let messages: Vec<Vec<u8>> = (0..frame.message_count()).map(|index| frame.to_vec(index)).collect();
    let sent: Vec<Vec<u8>> = payloads().iter().map(Payload::to_vec).collect();
    assert_eq!(messages, sent);

    let control = encode(&envelope());
    let codec_bytes = golden.len() - HEADER_BYTES - control.len();
    assert_eq!(to_hex(&golden[..HEADER_BYTES + control.len()]), to_hex(&head(9, 1, &control, codec_bytes)));
    let Received::Batch(again, frame) = read_one(&batch_frame(), Lane::Bulk).unwrap() else {
        panic!("a batch")
    };
    assert_eq!((again, frame.to_vec(0)), (envelope(), sent[0].clone()));
}

/// Header and control body by PROTOCOL.md, not by the code.
fn head(kind: u8, lane: u8, control: &[u8], payload_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![kind, lane, 0, 0];
    bytes.extend_from_slice(&u32::try_from(control.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(payload_bytes).unwrap().to_le_bytes());
    let covered = [&bytes, control].concat();
    bytes.extend_from_slice(&crc32c::crc32c(&covered).to_le_bytes());
    bytes.extend_from_slice(control);
    bytes
}

#[test]
fn no_vector_is_left_without_a_test() {
    let mut names: Vec<String> = std::fs::read_dir(manifest("tests/vectors"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected =
        ["ack", "batch", "close", "confirm", "hello", "ping", "pong", "refuse", "roster", "welcome"];
    assert_eq!(names, expected.map(|name| format!("{name}.hex")));
}

// ---- schema ----------------------------------------------------------------------------------------------------------

/// Every control struct of version 1 and the hash of its text, for ever.
const STRUCT_HASHES_V1: [(&str, u64); 10] = [
    ("Hello", 0xfbce_4ddd_5aa2_fb43),
    ("Welcome", 0x6855_1c09_3d38_a16e),
    ("Refuse", 0x0707_91d2_5409_337a),
    ("Confirm", 0x89a2_8bbc_eda8_1a4b),
    ("Close", 0x68ee_60bf_39af_5776),
    ("Ping", 0xd33a_6b9e_91fd_ac25),
    ("Pong", 0xcae3_e27d_d7bf_2c1c),
    ("Roster", 0x495d_a709_e880_5c81),
    ("Envelope", 0x77cc_9b85_caca_c61f),
    ("Ack", 0x209c_4d20_320a_d3d7),
];

/// Whatever changes in a definition changes its text, hence its hash, hence what is offered: then it is a new version.
#[test]
fn the_schema_of_version_1_is_computed_from_the_structs_and_pinned() {
    assert_eq!(WIRE_VERSION, 1);
    let hashes = control_structs()
        .map(|text| (text.split_once('{').expect("a struct").0.to_owned(), schema_hash(&text)));
    let shown =
        hashes.iter().map(|(name, hash)| format!("(\"{name}\", {hash:#018x}),\n")).collect::<String>();
    assert_eq!(hashes, STRUCT_HASHES_V1.map(|(name, hash)| (name.to_owned(), hash)), "\n{shown}");
    assert_eq!(schema(), SCHEMA_V1);
    assert_eq!(offered_versions(), [(1, SCHEMA_HASH_V1)]);
}

#[test]
fn the_hash_of_a_schema_is_fnv_1a_and_sees_every_field() {
    assert_eq!(schema_hash(SCHEMA_V1), SCHEMA_HASH_V1, "{:#018x}", schema_hash(SCHEMA_V1));
    assert_eq!(schema_hash(""), 0xcbf2_9ce4_8422_2325, "FNV-1a's own offset");
    assert_eq!(schema_hash("a"), 0xaf63_dc4c_8601_ec8c, "FNV-1a's published example");
    for (at, _) in SCHEMA_V1.match_indices([':', ',']) {
        let changed = format!("{}x{}", &SCHEMA_V1[..at], &SCHEMA_V1[at..]);
        assert_ne!(schema_hash(&changed), SCHEMA_HASH_V1, "{changed}");
    }
    assert_ne!(schema_hash(&SCHEMA_V1.replace("count:u32", "count:u64")), SCHEMA_HASH_V1);
}

/// What is written is what is read: the text computed from reading a struct against one from writing a value of it.
#[test]
fn the_schema_is_the_same_from_what_is_written() {
    let close = Close { code: 1 };
    let ping = Ping { sent_us: 1 };
    let pong = Pong { ping_sent_us: 1, ping_received_us: 2, sent_us: 3 };
    let described = [
        recorder::describe(&hello()),
        recorder::describe(&welcome()),
        recorder::describe(&refuse()),
        recorder::describe(&confirm()),
        recorder::describe(&close),
        recorder::describe(&ping),
        recorder::describe(&pong),
        recorder::describe(&roster()),
        recorder::describe(&envelope()),
        recorder::describe(&ack()),
    ];
    assert_eq!(control_structs(), described);
}
