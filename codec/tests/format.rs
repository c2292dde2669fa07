//! FORMAT.md is true: its example decodes, its defaults and numbers are the crate's, its tests exist.

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
fn the_rules_of_spelling_are_a_list() {
    let rules = FORMAT.split("## One spelling").nth(1).unwrap().split("\n## ").next().unwrap();
    for number in 1..=9 {
        let begins = |line: &&str| line.starts_with(&format!("{number}. "));
        assert_eq!(rules.lines().filter(begins).count(), 1, "rule {number}");
    }
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

/// A file of the crate: one of `src` unless the path says otherwise.
fn file(path: &str) -> String {
    let path = if path.contains('/') { path.to_owned() } else { format!("src/{path}") };
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The value of a constant, as its file spells it: `NAME` or, of a list, `NAME[1]`.
fn constant(path: &str, name: &str) -> usize {
    let (name, index) = name.trim_end_matches(']').split_once('[').unwrap_or((name, "0"));
    let text = file(path);
    let spelled =
        text.split(&format!("const {name}: ")).nth(1).unwrap_or_else(|| panic!("{path}: no {name}"));
    let spelled = spelled.split(';').find(|part| part.contains('=')).unwrap().split('=').nth(1).unwrap();
    let list = spelled.trim().trim_start_matches('[').trim_end_matches(']');
    let term = list.split(", ").nth(index.parse().unwrap()).unwrap().split(' ');
    let operand = |word: &str| match word.strip_prefix("0x") {
        Some(digits) => usize::from_str_radix(digits, 16).unwrap(),
        // What its own file has not is one of the format's.
        None => word.replace('_', "").parse().unwrap_or_else(|_| {
            let own = text.contains(&format!("const {word}: "));
            constant(if own { path } else { "wire.rs" }, word)
        }),
    };
    let words: Vec<&str> = term.collect();
    words[1..].chunks(2).fold(operand(words[0]), |value, operation| match operation[0] {
        "<<" => value << operand(operation[1]),
        "*" => value * operand(operation[1]),
        "/" => value / operand(operation[1]),
        other => panic!("{path}: {name} has {other}"),
    })
}

/// As the document writes numbers.
fn with_commas(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
    groups.join(",")
}

/// What the document says with a number, and the constant that has it.
const NUMBERS: [(&str, &[(&str, &str)]); 37] = [
    ("1 ≤ m ≤ {};", &[("limits.rs", "DESTINATIONS_MAX")]),
    ("at most 2 for m (m ≤ {})", &[("limits.rs", "DESTINATIONS_MAX")]),
    // Connections.
    ("The first {} bytes of a message are its **opening**", &[("wire.rs", "OPENING_BYTES")]),
    ("it keeps the last {}.", &[("wire.rs", "STREAM_BYTES")]),
    ("Both ends remember {} streams", &[("wire.rs", "STREAMS_MAX")]),
    ("p + length ≤ {}, whatever", &[("wire.rs", "OPENING_BYTES")]),
    (
        "looks at the first {} bytes of a stream's latest {} whole openings",
        &[("streams.rs", "LOOK_BYTES"), ("streams.rs", "TRIED")],
    ),
    (
        "an equal length of the opening {}; an older one is taken if it counts over {} more",
        &[("streams.rs", "SAME_LENGTH"), ("streams.rs", "OLDER_BYTES")],
    ),
    ("`length ≤ distance ≤ {}`", &[("wire.rs", "WINDOW_BYTES")]),
    (
        "and else after each {} bytes or {} frames with a column",
        &[("echo.rs", "SAY_AFTER_BYTES"), ("echo.rs", "SAY_AFTER_FRAMES")],
    ),
    (
        "A sender of which more than {} bytes of columns, or {} frames with one, would not yet",
        &[("echo.rs", "UNKNOWN_BYTES_MAX"), ("echo.rs", "UNKNOWN_FRAMES_MAX")],
    ),
    ("shorter than {} bytes this encoder does not look for", &[("echo.rs", "ECHO_BYTES_MIN")]),
    // The second stage.
    (
        "An LZ4 block that would have to expand by more than {} is refused",
        &[("wire.rs", "LZ4_EXPANSION_MAX")],
    ),
    ("a ZSTD block that would have to by more than {}.", &[("wire.rs", "ZSTD_EXPANSION_MAX")]),
    ("What {} allows is much", &[("wire.rs", "ZSTD_EXPANSION_MAX")]),
    // Work.
    ("At most {} rounds, over disjoint parts", &[("plan.rs", "ADDRESS_ROUNDS")]),
    ("a part is looked up against at most {} references", &[("plan.rs", "REFERENCES_TRIED")]),
    ("At most {} rounds, over disjoint gaps", &[("plan.rs", "BYTE_ROUNDS")]),
    (
        "in more than {} alignments as a message and {} as a reference",
        &[("plan.rs", "BYTE_ROUNDS"), ("plan.rs", "BYTE_ROUNDS")],
    ),
    ("at most {} a second time and {} a third", &[("bytes_equal.rs", "LONG"), ("bytes_equal.rs", "WIDE")]),
    ("costs {} of the credit", &[("align.rs", "PROBE_COST")]),
    ("credit is {} per message plus one per matched byte", &[("align.rs", "CREDIT_START")]),
    ("so probes cost O(n + {} m)", &[("align.rs", "CREDIT_START")]),
    (
        "A candidate block is compared on {} bytes, at most {} per position",
        &[("index.rs", "BLOCK"), ("index.rs", "BUCKET")],
    ),
    ("at up to {} ahead for each one that may be a block", &[("index.rs", "GO")]),
    ("**The index** hashes every {} bytes", &[("index.rs", "BLOCK")]),
    ("Equally long texts of at most {} bytes are tried in columns", &[("columns.rs", "COLUMN_BYTES_MAX")]),
    ("texts that differ in one place of at most {} bytes only", &[("plan.rs", "SHORT_BYTES")]),
    ("groups of {} destinations, then of {}", &[("draft.rs", "GROUPS[1]"), ("draft.rs", "GROUPS[2]")]),
    (
        "Of at most {} earlier messages of a stream {} bytes are looked at",
        &[("streams.rs", "TRIED"), ("streams.rs", "LOOK_BYTES")],
    ),
    ("streams remember them at no more than {} distances", &[("in_step.rs", "CLASSES_MAX")]),
    (
        "finds at least {} bytes, so that {} bytes take at most one probe per {} bytes",
        &[("align.rs", "RUN_BYTES_MIN"), ("wire.rs", "OPENING_BYTES"), ("align.rs", "RUN_BYTES_MIN")],
    ),
    ("At most {} records from history may still grow", &[("records.rs", "OPEN_MAX")]),
    (
        "A session adds at most {} per byte and {} per message",
        &[("tests/linear.rs", "PER_BYTE_OF_A_SESSION"), ("tests/linear.rs", "PER_MESSAGE_OF_A_SESSION")],
    ),
    ("a piece takes 24 bytes and its member 2: at most {}", &[("tests/allocations.rs", "PIECE_BYTES")]),
    (
        "at most {} while its list moves to one of twice the room, and a message {}. An ECHO record takes at most {} \
         more, and for each of its parts {}:",
        &[
            ("tests/allocations.rs", "RECORD_BYTES"),
            ("tests/allocations.rs", "MESSAGE_BYTES"),
            ("tests/allocations.rs", "ECHO_RECORD_BYTES"),
            ("tests/allocations.rs", "ECHO_PART_BYTES"),
        ],
    ),
    (
        "per 64 destinations, at most {} while its list moves, and at most {} in the table",
        &[("tests/allocations.rs", "DEFINITION_WORD_BYTES"), ("tests/allocations.rs", "DEFINITION_BYTES")],
    ),
];

#[test]
fn the_numbers_are_those_of_the_code() {
    let text = FORMAT.split_whitespace().collect::<Vec<_>>().join(" ");
    for (phrase, constants) in NUMBERS {
        let said = constants.iter().fold(phrase.to_owned(), |phrase, (path, name)| {
            phrase.replacen("{}", &with_commas(constant(path, name)), 1)
        });
        assert!(text.contains(&said), "FORMAT.md does not say: {said}");
    }
    // Columns are tried before each round and after the last.
    assert!(text.contains(&format!("so at most {} times", constant("plan.rs", "BYTE_ROUNDS") + 1)));
    // A window descriptor of zstd: five bits for the power of two above 1 KiB.
    let window = 1 << (10 + (constant("wire.rs", "ZSTD_WINDOW_MAX") >> 3));
    assert!(text.contains(&format!("none above `68` ({} MiB) is valid", window >> 20)));
}

/// The decoder in another language has the numbers once more.
#[test]
fn the_numbers_are_those_of_decode_py() {
    let python = file("tests/independent/decode.py");
    let list = |names: &[(&str, &str)]| {
        names.iter().map(|(path, name)| constant(path, name).to_string()).collect::<Vec<_>>().join(", ")
    };
    let window = constant("wire.rs", "WINDOW_BYTES").ilog2();
    let remembered = [("wire.rs", "OPENING_BYTES"), ("wire.rs", "STREAM_BYTES"), ("wire.rs", "STREAMS_MAX")];
    let remembered = format!("= {}, 1 << {window}\n", list(&remembered));
    assert!(python.contains(&format!("OPENING_BYTES, STREAM_BYTES, STREAMS, ECHO_BYTES {remembered}")));
    let Limits { destinations, message_bytes, output_bytes, pieces, records, data_bytes, set_bytes } =
        Limits::default();
    let (message, output) = (message_bytes >> 20, output_bytes >> 20);
    assert!(python.contains(&format!(
        "DESTINATIONS, MESSAGE_BYTES, OUTPUT_BYTES = {destinations}, {message} << 20, {output} << 20\n"
    )));
    assert!(python.contains(&format!(
        "PIECES, RECORDS, DATA_BYTES, SET_BYTES = 1 << {}, 1 << {}, {} << 20, {} << 20\n",
        pieces.ilog2(),
        records.ilog2(),
        data_bytes >> 20,
        set_bytes >> 20
    )));
    assert!(python.contains(&format!("data_bytes // {} <=", constant("wire.rs", "LZ4_EXPANSION_MAX"))));
}
