//! Connections whose frames no encoder wrote: they refer to what is just remembered, and to what just is not. Encoders
//! have reasons to stay away from either.

use trunkline_codec::varint;

use super::connections::{Connection, Sent};

const CONCAT: u8 = 0x01;
const LZ4: u8 = 0x02;
const HISTORY: u8 = 0x08;
const NOREF: u8 = 0x10;
const ECHO: u8 = 0x20;

/// Name, what it is about, and the frames.
pub(crate) fn connections() -> Vec<(&'static str, &'static str, Connection)> {
    vec![
        (
            "v1-connection-made-4096-bytes",
            "a stream remembers openings of 256 bytes, 4,096 bytes in all",
            bytes_of_a_stream(),
        ),
        (
            "v1-connection-made-1024-streams",
            "1,024 streams are remembered, and which is forgotten",
            forgotten_streams(),
        ),
        (
            "v1-connection-made-echoes",
            "what has arrived is said, and 1,048,576 bytes of it may be referred to",
            window(),
        ),
    ]
}

/// A connection under construction.
struct Hand {
    connection: Connection,
    before: [u32; 2],
    /// Of what each end sent: where frames end that may be referred to, and their checksums.
    ends: [Vec<(usize, u32)>; 2],
    /// Where what has arrived ends.
    known: [usize; 2],
}

/// A frame but for its checksum.
struct Made<'a> {
    flags: u8,
    streams: &'a [u32],
    arrived: usize,
    head: &'a [u8],
    data: &'a [u8],
    /// Bytes of the data column before a second stage.
    column: usize,
}

impl Hand {
    fn new(epochs: [u64; 2]) -> Self {
        let before = epochs.map(|epoch| crc32c::crc32c(&epoch.to_le_bytes()));
        let ends = before.map(|beginning| vec![(0, beginning)]);
        Self { connection: Connection { epochs, frames: Vec::new() }, before, ends, known: [0; 2] }
    }

    fn push(&mut self, from: usize, made: &Made<'_>, messages: Option<Vec<Vec<u8>>>) {
        let mut bytes = vec![0xF5, 1, made.flags | HISTORY];
        varint::put(&mut bytes, made.streams.len());
        if made.flags & ECHO != 0 {
            varint::put(&mut bytes, made.arrived);
        }
        if made.flags & CONCAT == 0 {
            varint::put(&mut bytes, made.head.len());
        }
        bytes.extend_from_slice(made.head);
        bytes.extend_from_slice(made.data);
        let numbers: Vec<u8> = made.streams.iter().flat_map(|number| number.to_le_bytes()).collect();
        let mut begins = self.before[from] ^ crc32c::crc32c(&numbers);
        let place = self.known[1 - from] + made.arrived;
        let end = self.ends[1 - from].iter().find(|(end, _)| *end == place);
        if made.flags & ECHO != 0 {
            assert!(end.is_some() || messages.is_none(), "no frame ends at {place}");
            begins ^= end.map_or(0, |(_, checksum)| *checksum);
        }
        let checksum = crc32c::crc32c_append(begins, &bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        if let Some(messages) = &messages {
            assert_eq!(messages.len(), made.streams.len());
            self.before[from] = checksum;
            self.known[1 - from] = place;
            if made.flags & NOREF == 0 && made.column > 0 {
                let sent = self.ends[from].last().map_or(0, |(end, _)| *end);
                self.ends[from].push((sent + made.column, checksum));
            }
        }
        let streams = made.streams.to_vec();
        self.connection.frames.push(Sent { from, streams, bytes: bytes.into(), messages });
    }

    /// The first end sends a frame without ECHO.
    fn says(&mut self, flags: u8, streams: &[u32], head: &[u8], data: &[u8], messages: Vec<Vec<u8>>) {
        self.push(0, &Made { flags, streams, arrived: 0, head, data, column: data.len() }, Some(messages));
    }

    /// It sends one that is refused.
    fn refused(&mut self, streams: &[u32], head: &[u8], data: &[u8]) {
        self.push(0, &Made { flags: 0, streams, arrived: 0, head, data, column: data.len() }, None);
    }
}

/// The records of a head.
fn records(parts: &[&[usize]]) -> Vec<u8> {
    let mut head = Vec::new();
    for part in parts {
        // Codes first, then integers; prefixes have a set behind them.
        let codes = if part[0] >= 0xD0 { 2 } else { 1 };
        head.extend(part[..codes].iter().map(|&code| u8::try_from(code).unwrap()));
        part[codes..].iter().for_each(|&value| varint::put(&mut head, value));
    }
    head
}

const ALL: usize = 0x00;
const EACH: usize = 0xD0;
const PAST: usize = 0xD1;
const ECHOED: usize = 0xD2;
const AGAIN: usize = 0xD4;

fn bytes_of_a_stream() -> Connection {
    let mut hand = Hand::new([0, u64::MAX]);
    let past = |len: usize, back: usize| records(&[&[PAST, ALL, len, back]]);
    // Sixteen openings in one frame, all of one stream: it is full.
    let mut lengths = Vec::new();
    (0..16).for_each(|_| varint::put(&mut lengths, 256));
    let openings: Vec<Vec<u8>> = (0..16).map(|kind| vec![kind; 256]).collect();
    hand.says(CONCAT, &[1; 16], &lengths, &openings.concat(), openings);
    hand.refused(&[1], &past(1, 4097), b"");
    hand.refused(&[2], &past(1, 1), b"");
    // What is not remembered itself leaves the stream as it is.
    hand.says(NOREF, &[1], &past(256, 4096), b"", vec![vec![0; 256]]);
    hand.refused(&[1], &past(257, 4096), b"");
    let behind_own = |own: usize, len: usize| records(&[&[ALL, own], &[PAST, ALL, len, 4096]]);
    hand.says(NOREF, &[1], &behind_own(1, 255), b"x", vec![[&b"x"[..], &[0; 255]].concat()]);
    hand.refused(&[1], &behind_own(1, 256), b"x");
    hand.refused(&[1], &behind_own(256, 1), &[7; 256]);
    // Ten bytes more: as many are forgotten.
    hand.says(CONCAT, &[1], &[10], &[0xFF; 10], vec![vec![0xFF; 10]]);
    hand.refused(&[1], &past(1, 4097), b"");
    hand.says(NOREF, &[1], &past(256, 4096), b"", vec![[[0; 246].as_slice(), &[1; 10]].concat()]);
    // Of a long message only the opening is remembered.
    let long = [[0xAA; 256].as_slice(), &[0xBB; 44]].concat();
    let mut length = Vec::new();
    varint::put(&mut length, 300);
    hand.says(CONCAT, &[1], &length, &long, vec![long.clone()]);
    hand.says(NOREF, &[1], &past(256, 256), b"", vec![vec![0xAA; 256]]);
    hand.says(NOREF, &[1], &past(12, 266), b"", vec![[[0xFF; 10].as_slice(), &[0xAA; 2]].concat()]);
    hand.refused(&[1], &past(2, 1), b"");
    // An empty message leaves nothing; and what was taken by reference is remembered as what was sent.
    hand.says(CONCAT, &[1], &[0], b"", vec![vec![]]);
    let mixed = records(&[&[ALL, 2], &[PAST, ALL, 3, 258], &[ALL, 1], &[AGAIN, ALL, 2]]);
    hand.says(0, &[1], &mixed, b"xyz", vec![b"xy\xAA\xAA\xAAz\xAA\xAA".to_vec()]);
    hand.says(NOREF, &[1], &past(8, 8), b"", vec![b"xy\xAA\xAA\xAAz\xAA\xAA".to_vec()]);
    hand.says(NOREF, &[1], &past(2, 9), b"", vec![b"\xAAx".to_vec()]);
    hand.connection
}

fn forgotten_streams() -> Connection {
    let mut hand = Hand::new([u64::MAX, 0]);
    let each = records(&[&[EACH, ALL, 2]]);
    let texts = |messages: &[&[u8]]| messages.iter().map(|message| message.to_vec()).collect::<Vec<_>>();
    // Two bytes of a stream's latest message, for all.
    let latest = records(&[&[PAST, ALL, 2, 2]]);
    let one = records(&[&[PAST, ALL, 1, 1]]);
    // Each says its number. Their order is not that of the numbers.
    let streams: Vec<u32> = (512..1024).chain(0..512).collect();
    let first: Vec<Vec<u8>> = streams.iter().map(|number| number.to_be_bytes()[2..].to_vec()).collect();
    hand.says(0, &streams, &each, &first.concat(), first);
    hand.says(0, &[0, 2], &each, b"aabb", texts(&[b"aa", b"bb"]));
    // All of them are remembered; one more, and the lowest number of those of the first frame is not.
    hand.says(NOREF, &[1, 1023], &latest, b"", texts(&[b"\x00\x01", b"\x03\xFF"]));
    hand.says(CONCAT, &[5000], &[2], b"cc", texts(&[b"cc"]));
    hand.refused(&[1], &one, b"");
    // What is not remembered does not count as used, so the next is 3.
    let known: [&[u8]; 5] = [b"aa", b"bb", b"\x00\x03", b"\x03\xFF", b"cc"];
    hand.says(NOREF, &[0, 2, 3, 1023, 5000], &latest, b"", texts(&known));
    hand.says(CONCAT, &[6000], &[2], b"dd", texts(&[b"dd"]));
    hand.refused(&[3], &one, b"");
    hand.says(0, &[4], &latest, b"", texts(&[b"\x00\x04"]));
    // In one frame the first forgets 5, which then begins anew and forgets 6, and the last forgets 7.
    hand.says(0, &[7000, 5, 7001], &each, b"eeffgg", texts(&[b"ee", b"ff", b"gg"]));
    for forgotten in [1, 3, 6, 7] {
        hand.refused(&[forgotten], &one, b"");
    }
    hand.refused(&[5], &records(&[&[PAST, ALL, 1, 3]]), b"");
    let known: [&[u8]; 6] = [b"\x00\x04", b"ff", b"\x00\x08", b"ee", b"gg", b"\x00\x04"];
    hand.says(NOREF, &[4, 5, 8, 7000, 7001, 4], &latest, b"", texts(&known));
    // An empty message counts: 8 stays, 9 makes room for the highest number there is.
    hand.says(0, &[8, u32::MAX], &records(&[&[0x41, 2]]), b"hh", texts(&[b"", b"hh"]));
    hand.refused(&[9], &one, b"");
    hand.says(NOREF, &[8, 10, u32::MAX], &latest, b"", texts(&[b"\x00\x08", b"\x00\x0A", b"hh"]));
    // A stream that has heard nothing but an empty message takes a place as well.
    hand.says(CONCAT, &[8000], &[0], b"", texts(&[b""]));
    hand.refused(&[10], &one, b"");
    hand.refused(&[8000], &one, b"");
    // One that must not be remembered takes none.
    hand.says(CONCAT | NOREF, &[9000], &[2], b"ii", texts(&[b"ii"]));
    hand.refused(&[9000], &one, b"");
    hand.says(NOREF, &[11, 1023], &latest, b"", texts(&[b"\x00\x0B", b"\x03\xFF"]));
    hand.connection
}

/// An LZ4 block of one byte again and again: one literal, a match with what is just before, and five literals.
fn lz4_again(byte: u8, count: usize) -> Vec<u8> {
    let more = count - 1 - 5 - 4 - 15;
    let mut block = vec![0x1F, byte, 1, 0];
    block.extend(std::iter::repeat_n(255, more / 255));
    block.extend([u8::try_from(more % 255).unwrap(), 0x50]);
    block.extend([byte; 5]);
    block
}

fn window() -> Connection {
    const WINDOW: usize = 1 << 20;
    let mut hand = Hand::new([1 << 63, 1]);
    let echo = |len: usize, distance: usize| records(&[&[ECHOED, ALL, len, distance]]);
    fn plain<'a>(flags: u8, head: &'a [u8], data: &'a [u8]) -> Made<'a> {
        Made { flags, streams: &[1], arrived: 0, head, data, column: data.len() }
    }
    // The second end sends 15 bytes and five, some that do not count, and a long column; 14 of all that are beyond the window.
    let twenty: Vec<u8> = (0..20).collect();
    for part in [&twenty[..15], &twenty[15..]] {
        let length = [u8::try_from(part.len()).unwrap()];
        hand.push(1, &plain(CONCAT, &length, part), Some(vec![part.to_vec()]));
    }
    hand.push(1, &plain(CONCAT | NOREF, &[3], b"not"), Some(vec![b"not".to_vec()]));
    let says = |arrived: usize, head: &[u8], message: Option<&[u8]>, hand: &mut Hand| {
        let made = Made { flags: ECHO, streams: &[7], arrived, head, data: b"", column: 0 };
        hand.push(0, &made, message.map(|message| vec![message.to_vec()]));
    };
    // No more than has arrived, up to where a frame ends, and nothing before the first byte; only the beginning has.
    says(21, &echo(1, 1), None, &mut hand);
    says(14, &echo(1, 1), None, &mut hand);
    says(16, &echo(1, 1), None, &mut hand);
    says(20, &echo(1, 21), None, &mut hand);
    says(15, &echo(16, 15), None, &mut hand);
    says(15, &echo(15, 15), Some(&twenty[..15]), &mut hand);
    let long = WINDOW - 6;
    let head = records(&[&[ALL, long]]);
    let block = lz4_again(0xBB, long);
    let made = Made { column: long, ..plain(LZ4, &head, &block) };
    hand.push(1, &made, Some(vec![vec![0xBB; long]]));
    // Of all that only 15 bytes are known to have arrived.
    says(0, &echo(5, 16), None, &mut hand);
    says(5 + long, &echo(10, WINDOW + 1), None, &mut hand);
    says(5 + long + 1, &echo(10, WINDOW), None, &mut hand);
    says(5 + long, &echo(10, WINDOW), Some(&[&twenty[14..], &[0xBB; 4]].concat()), &mut hand);
    says(0, &echo(12, 12), Some(&[0xBB; 12]), &mut hand);
    says(1, &echo(1, 1), None, &mut hand);
    // What was sent and has not arrived is not counted. It can be said without referring to anything.
    let more: Vec<u8> = (100..200).collect();
    for part in [&more[..40], &more[40..]] {
        let length = [u8::try_from(part.len()).unwrap()];
        hand.push(1, &plain(CONCAT, &length, part), Some(vec![part.to_vec()]));
    }
    let made = Made { arrived: 40, streams: &[7], ..plain(ECHO | CONCAT, &[3], b"now") };
    hand.push(0, &made, Some(vec![b"now".to_vec()]));
    // Beside other records, to three at once.
    let mixed =
        records(&[&[PAST, ALL, 3, 3], &[ECHOED, ALL, 20, 30], &[EACH, ALL, 1], &[ECHOED, ALL, 1, 40]]);
    let message = |end: u8| [&b"now"[..], &more[10..30], &[end], &more[..1]].concat();
    let made = Made { streams: &[7, 7, 7], ..plain(ECHO, &mixed, b"abc") };
    hand.push(0, &made, Some(vec![message(b'a'), message(b'b'), message(b'c')]));
    // What has arrived ends with the first of the frames that end there; those behind it have no column, one of which is not to
    // be remembered.
    hand.push(1, &plain(CONCAT, &[4], b"last"), Some(vec![b"last".to_vec()]));
    hand.push(1, &plain(CONCAT, &[0], b""), Some(vec![vec![]]));
    hand.push(1, &plain(CONCAT | NOREF, &[0], b""), Some(vec![vec![]]));
    says(60 + 4, &echo(4, 4), Some(b"last"), &mut hand);
    hand.push(1, &plain(CONCAT, &[0], b""), Some(vec![vec![]]));
    says(0, &echo(2, 3), Some(b"as"), &mut hand);
    // The other way: what the first end sent, in which references leave nothing.
    let head = echo(1, 1);
    for arrived in [7, 5] {
        hand.push(1, &Made { arrived, ..plain(ECHO, &head, b"") }, None);
    }
    let head = echo(6, 6);
    let made = Made { arrived: 6, ..plain(ECHO, &head, b"") };
    hand.push(1, &made, Some(vec![b"nowabc".to_vec()]));
    hand.connection
}
