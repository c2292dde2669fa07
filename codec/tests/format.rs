//! FORMAT.md is true: its example decodes, its defaults are the crate's, its tests exist.

mod common;

use bytes::Bytes;
use common::encoder;
use trunkline_codec::{Frame, Limits, Payload, Stage};

const FORMAT: &str = include_str!("../FORMAT.md");
/// The bytes of the worked example: hex pairs at the beginning of each line of its block.
fn example() -> Bytes {
    let block = FORMAT.split("```hex\n").nth(1).unwrap().split("```").next().unwrap();
    let line = |line: &'static str| {
        line.split(' ')
            .map_while(|word| (word.len() == 2).then(|| u8::from_str_radix(word, 16).ok()).flatten())
    };
    block.lines().flat_map(line).collect()
}

#[test]
fn the_example_decodes() {
    let expected = ["hello world, acknowledged 17", "hello world, acknowledged 28", "hello world", ""];
    let frame = Frame::parse(example(), &Limits::default()).unwrap();
    assert_eq!(frame.message_count(), expected.len());
    for (index, text) in expected.iter().enumerate() {
        assert_eq!(frame.to_vec(index), text.as_bytes());
    }
    let messages = expected.map(|text| Payload::from(text.as_bytes().to_vec()));
    assert_eq!(encoder(Stage::Lz4).encode(&messages).unwrap().to_bytes(), example());
}

#[test]
fn the_defaults_are_these() {
    let limits = Limits::default();
    for (name, value) in [
        ("destinations", limits.destinations),
        ("message_bytes", limits.message_bytes),
        ("output_bytes", limits.output_bytes),
        ("pieces", limits.pieces),
        ("records", limits.records),
        ("data_bytes", limits.data_bytes),
        ("set_bytes", limits.set_bytes),
    ] {
        let row = FORMAT.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).unwrap();
        let cell = row.split('|').nth(2).unwrap().trim().replace(',', "");
        let stated = match cell.strip_suffix(" MiB") {
            Some(mebibytes) => mebibytes.parse::<usize>().unwrap() << 20,
            None => cell.parse().unwrap(),
        };
        assert_eq!(stated, value, "{name}");
    }
}

/// A file of the crate: one of `src` unless the path says otherwise.
fn file(path: &str) -> String {
    let path = if path.contains('/') { path.to_owned() } else { format!("src/{path}") };
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_table_names_tests_that_exist() {
    let table = FORMAT.split("## Which test fails").nth(1).unwrap();
    let named = |cell: &'static str| cell.split('`').skip(1).step_by(2);
    // A row without a file goes on with that of the row above.
    let (mut tests, mut count) = (String::new(), 0);
    for row in table.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let [_, _, path, names, _] = row.split('|').collect::<Vec<_>>()[..] else { panic!("{row}") };
        if let Some(path) = named(path).next() {
            tests = file(path);
        }
        for name in named(names).filter(|name| name.contains('_')) {
            assert!(tests.contains(&format!("fn {name}(")), "{row}");
            count += 1;
        }
    }
    assert!(count > 50, "{count}");
}
