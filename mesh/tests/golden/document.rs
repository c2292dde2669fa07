//! PROTOCOL.md held against the code: its tables, its integers, its schema and its examples.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use trunkline_codec::Stage;
use trunkline_mesh::id::{Lane, NAME_BYTES_MAX};
use trunkline_mesh::proto::frame::{FrameError, FrameType, HANDSHAKE_BYTES_MAX, HEADER_BYTES, control_frame};
use trunkline_mesh::proto::roster::ROSTER_ROWS_MAX;
use trunkline_mesh::proto::run::message_head;
use trunkline_mesh::proto::window::{MESSAGE_OVERHEAD_BYTES, WINDOW_SEQS};
use trunkline_mesh::proto::wire::{
    CONTROL_BYTES_MAX, CloseCode, PREAMBLE, Ping, RefuseCode, RefusedReason, encode,
};
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::MEMBERS_PER_DATACENTER_MAX;

use super::{
    SCHEMA_HASH_V1, SCHEMA_V1, ack, batch_frame, from_hex, head, manifest, read_one, to_hex, vector,
};

fn protocol() -> String {
    std::fs::read_to_string(manifest("PROTOCOL.md")).unwrap()
}

/// The cells of the first table behind a heading, without its head.
fn table(text: &str, heading: &str) -> Vec<Vec<String>> {
    let at = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading `{heading}`"));
    let rows =
        text[at..].lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |row: &str| {
        row.trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().trim_matches('`').to_owned())
            .collect::<Vec<_>>()
    };
    rows.skip(2).map(cells).collect()
}

/// The first two cells of a table as number and name.
fn numbers(heading: &str) -> Vec<(u64, String)> {
    table(&protocol(), heading).into_iter().map(|row| (row[0].parse().unwrap(), row[1].clone())).collect()
}

/// The bytes of the example of this name: the block that begins with three backticks and `hex <name>`.
fn example(name: &str) -> Vec<u8> {
    let text = protocol();
    let fence = format!("```hex {name}\n");
    let from = text.find(&fence).unwrap_or_else(|| panic!("no example `{name}`")) + fence.len();
    from_hex(&text[from..from + text[from..].find("```").unwrap()])
}

#[test]
fn frame_types_are_the_ones_of_protocol_md() {
    let types = [
        FrameType::Hello,
        FrameType::Welcome,
        FrameType::Refuse,
        FrameType::Confirm,
        FrameType::Close,
        FrameType::Ping,
        FrameType::Pong,
        FrameType::Roster,
        FrameType::Batch,
        FrameType::Ack,
    ];
    let expected: Vec<(u64, String)> =
        types.iter().map(|kind| (u64::from(*kind as u8), format!("{kind:?}"))).collect();
    assert_eq!(numbers("## Frames"), expected);
    for byte in 0..=u8::MAX {
        let known = !matches!(
            read_one(&head(byte, 0, &[], 0), Lane::Control),
            Err(FrameError::UnknownType(found)) if found == byte
        );
        assert_eq!(known, types.iter().any(|kind| *kind as u8 == byte), "{byte}");
    }
}

#[test]
fn codes_are_the_ones_of_protocol_md() {
    let refuse: Vec<(u64, String)> =
        RefuseCode::ALL.iter().map(|code| (u64::from(*code as u16), code.label().to_owned())).collect();
    assert_eq!(numbers("### Refuse codes"), refuse);
    let reasons: Vec<(u64, String)> = RefusedReason::ALL
        .iter()
        .map(|reason| (u64::from(*reason as u8), reason.label().to_owned()))
        .collect();
    assert_eq!(numbers("### Refused reasons"), reasons);
    let close = [
        (CloseCode::Draining as u64, "Draining".to_owned()),
        (CloseCode::Closing as u64, "Closing".to_owned()),
        (CloseCode::Unlisted as u64, "Unlisted".to_owned()),
        (CloseCode::Untrusted as u64, "Untrusted".to_owned()),
    ];
    assert_eq!(numbers("### Close codes"), close);
    for code in 0..=u16::MAX {
        assert_eq!(
            RefuseCode::from_wire(code).is_some(),
            refuse.iter().any(|(known, _)| *known == u64::from(code))
        );
    }
    for byte in 0..=u8::MAX {
        assert_eq!(
            RefusedReason::from_wire(byte).is_some(),
            reasons.iter().any(|(known, _)| *known == u64::from(byte))
        );
    }
}

#[test]
fn the_integers_of_protocol_md_are_the_ones_written() {
    let rows = table(&protocol(), "### Integers of control bodies");
    assert!(rows.len() >= 8);
    for row in rows {
        let value: u64 = row[0].replace(',', "").parse().unwrap();
        assert_eq!(to_hex(&encode(&Ping { sent_us: value })).trim(), row[1], "{value}");
    }
    let rows = table(&protocol(), "### Integers of runs");
    assert!(rows.len() >= 4);
    for row in rows {
        let value: usize = row[0].replace(',', "").parse().unwrap();
        assert_eq!(to_hex(&message_head(0, value)[1..]).trim(), row[1], "{value}");
    }
}

#[test]
fn the_constants_of_the_head_are_the_ones_of_protocol_md() {
    let text = protocol();
    assert_eq!(example("preamble"), PREAMBLE);
    assert!(text.contains(&format!("{SCHEMA_HASH_V1:#018x}")), "the schema hash is stated");
    let quoted = SCHEMA_V1.replace(';', ";\n");
    assert!(text.contains(&quoted), "the schema is quoted:\n{quoted}");
}

/// A size, a count or a time as PROTOCOL.md and the sources write it: bytes, a number, or µs.
fn quantity(text: &str) -> u64 {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let number: u64 = number.replace([',', '_'], "").parse().unwrap_or_else(|_| panic!("`{text}`"));
    number
        * match unit {
            "" | "bytes" | "µs" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "ms" => 1_000,
            "s" => 1_000_000,
            _ => panic!("unit of `{text}`"),
        }
}

/// All sources under a directory of the crate, one after the other.
fn all_sources(directory: &str) -> String {
    fn walk(directory: &Path, found: &mut String) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut found = String::new();
    walk(&manifest(directory), &mut found);
    found
}

/// The value of `const NAME: T = …;` wherever the sources have it: products of numbers, and durations.
fn source_constant(name: &str) -> u64 {
    let source = all_sources("src");
    let declared = format!("const {name}: ");
    let lines: Vec<&str> = source.lines().filter(|line| line.contains(&declared)).collect();
    let [line] = lines[..] else { panic!("{name} is declared {} times", lines.len()) };
    let expression = line.split(" = ").nth(1).and_then(|rest| rest.strip_suffix(';')).unwrap();
    for (constructor, unit) in [("Duration::from_millis(", "ms"), ("Duration::from_secs(", "s")] {
        if let Some(inner) = expression.strip_prefix(constructor) {
            return quantity(&format!("{} {unit}", inner.trim_end_matches(')')));
        }
    }
    expression.split(" * ").map(quantity).product()
}

#[test]
fn limits_are_the_ones_of_protocol_md() {
    let rows = table(&protocol(), "### Limits of the wire");
    let exported: BTreeMap<&str, u64> = [
        ("HEADER_BYTES", HEADER_BYTES),
        ("HANDSHAKE_BYTES_MAX", HANDSHAKE_BYTES_MAX),
        ("CONTROL_BYTES_MAX", CONTROL_BYTES_MAX),
        ("NAME_BYTES_MAX", NAME_BYTES_MAX),
        ("ROSTER_ROWS_MAX", ROSTER_ROWS_MAX),
        ("MESSAGE_OVERHEAD_BYTES", MESSAGE_OVERHEAD_BYTES),
        ("MEMBERS_PER_DATACENTER_MAX", MEMBERS_PER_DATACENTER_MAX),
        ("WINDOW_SEQS", usize::try_from(WINDOW_SEQS).unwrap()),
    ]
    .map(|(name, value)| (name, u64::try_from(value).unwrap()))
    .into();
    for (name, value) in &exported {
        let row = rows.iter().find(|row| row[0] == *name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(quantity(&row[1]), *value, "{name}");
    }
    assert!(rows.len() > exported.len());
    for row in &rows {
        assert_eq!(quantity(&row[1]), source_constant(&row[0]), "{}", row[0]);
    }
}

#[test]
fn settings_are_the_ones_of_protocol_md() {
    let settings = Settings::default();
    let us = |span: Duration| u64::try_from(span.as_micros()).unwrap();
    let bytes = |bytes: usize| u64::try_from(bytes).unwrap();
    let expected: BTreeMap<&str, u64> = [
        ("message_bytes_max", bytes(settings.message_bytes_max)),
        ("frame_bytes_max", bytes(settings.frame_bytes_max)),
        ("run_bytes_max", bytes(settings.run_bytes_max)),
        ("destination_budget_bytes", bytes(settings.destination_budget_bytes)),
        ("datacenter_budget_bytes", bytes(settings.datacenter_budget_bytes)),
        ("process_budget_bytes", bytes(settings.process_budget_bytes)),
        ("member_queue_bytes_max", bytes(settings.member_queue_bytes_max)),
        ("proxy_queue_bytes_max", bytes(settings.proxy_queue_bytes_max)),
        ("inbox_bytes_max", bytes(settings.inbox_bytes_max)),
        ("reorder_bytes_max", bytes(settings.reorder_bytes_max)),
        ("message_deadline", us(settings.message_deadline)),
        ("handshake_timeout", us(settings.handshake_timeout)),
        ("ping_interval", us(settings.ping_interval)),
        ("silence_timeout", us(settings.silence_timeout)),
        ("redial_min", us(settings.redial_min)),
        ("redial_max", us(settings.redial_max)),
        ("dials_per_second", u64::from(settings.dials_per_second)),
        ("attempt_timeout_min", us(settings.attempt_timeout_min)),
        ("attempt_timeout_max", us(settings.attempt_timeout_max)),
        ("resend_percent", u64::from(settings.resend_percent)),
        ("snooze_min", us(settings.snooze_min)),
        ("snooze_max", us(settings.snooze_max)),
        ("ack_delay", us(settings.ack_delay)),
        ("drain_timeout", us(settings.drain_timeout)),
        ("connections_max", bytes(settings.connections_max)),
        ("handshakes_max", bytes(settings.handshakes_max)),
        ("accepts_per_second", u64::from(settings.accepts_per_second)),
        ("socket_buffer_bytes", bytes(settings.socket_buffer_bytes)),
    ]
    .into();
    let rows = table(&protocol(), "### Settings");
    let written: BTreeMap<&str, u64> = rows.iter().map(|row| (row[0].as_str(), quantity(&row[1]))).collect();
    assert_eq!(written, expected);
    // A new field must not be forgotten: its name is in the debug text.
    let fields = format!("{settings:?}").matches(": ").count();
    assert_eq!(fields, expected.len() + 3, "{settings:?}");
    // Those that are no quantities.
    assert_eq!(settings.second_stage, Stage::Lz4);
    assert!(protocol().contains("`second_stage`, LZ4 by default,"));
    assert!(settings.echo);
    assert!(protocol().contains("`echo`, on by default,"));
    assert_eq!(settings.congestion_control, "");
    assert!(protocol().contains("`congestion_control`, none by default,"));
}

#[test]
fn the_examples_of_protocol_md_are_the_golden_bytes() {
    assert_eq!(to_hex(&example("batch")), to_hex(&vector("batch", &batch_frame())));
    let frame = control_frame(FrameType::Ack, Lane::Control, &ack());
    assert_eq!(to_hex(&example("ack")), to_hex(&vector("ack", &frame)));
}

/// That the code and the tests it names exist is held for all documents at once, by the repository's tests/tidy.rs.
#[test]
fn every_clause_of_the_contract_has_its_code_and_its_test() {
    let rows = table(&protocol(), "## The contract");
    for clause in 1..=7 {
        let row = rows.iter().find(|row| row[0].starts_with(&format!("{clause}.")));
        let row = row.unwrap_or_else(|| panic!("clause {clause}"));
        assert!(row[1].contains(".rs") && !row[2].is_empty(), "{row:?}");
    }
}

#[test]
fn the_checks_of_protocol_md_can_fail() {
    let text = "\n## T\n\ntext\n\n| a | b |\n|---|---|\n| 1 | `x` |\n| 2 | y |\n\n| 3 | z |\n";
    assert_eq!(table(text, "## T"), [["1", "x"], ["2", "y"]]);
    assert_eq!((quantity("16,384"), quantity("64 KiB"), quantity("20 ms")), (16_384, 65_536, 20_000));
    assert_eq!(source_constant("AVOID_MIN"), 200_000);
    assert_eq!(from_hex("00 ff # remark 11\n# whole line\n7f"), [0, 0xff, 0x7f]);
}
