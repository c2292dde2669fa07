//! The numbers of the format. FORMAT.md explains them, a test holds the two together.

/// First byte of every frame.
pub(crate) const MAGIC: u8 = 0xF5;
/// The version this build writes and the only one it reads.
pub(crate) const VERSION: u8 = 1;

/// Magic, version and flags.
pub(crate) const FIRST_BYTES: usize = 3;

/// The head is one length per message, the data is the messages one after another.
pub(crate) const FLAG_CONCAT: u8 = 0x01;
/// The data column is one LZ4 block.
pub(crate) const FLAG_LZ4: u8 = 0x02;
/// The data column is one zstd frame.
pub(crate) const FLAG_ZSTD: u8 = 0x04;
/// The frame is one of a connection's: the checksum covers those before it, and the head may refer to them.
pub(crate) const FLAG_HISTORY: u8 = 0x08;
/// The frame must not be entered into any history.
pub(crate) const FLAG_NOREF: u8 = 0x10;
/// The frame says how much of what its receiver sent has arrived, and the head may refer to that.
pub(crate) const FLAG_ECHO: u8 = 0x20;
/// A frame has at most one of these.
pub(crate) const FLAGS_STAGE: u8 = FLAG_LZ4 | FLAG_ZSTD;
/// Every flag with a meaning.
pub(crate) const FLAGS_KNOWN: u8 = FLAG_CONCAT | FLAG_LZ4 | FLAG_ZSTD | FLAG_HISTORY | FLAG_NOREF | FLAG_ECHO;

/// Values below this fit into a one-byte code.
pub(crate) const SHORT: usize = 64;
/// `00-3F`: the k-th set defined in this frame; 0 is the set of all destinations.
pub(crate) const REF: u8 = 0x00;
/// `40-7F`: one destination.
pub(crate) const ONE: u8 = 0x40;
/// `80-BF`: all but one destination.
pub(crate) const BUT: u8 = 0x80;
/// The destination after the last single one.
pub(crate) const NEXT: u8 = 0xC0;
/// One destination, number as an integer.
pub(crate) const ONE_LONG: u8 = 0xC1;
/// All but one destination, number as an integer.
pub(crate) const BUT_LONG: u8 = 0xC2;
/// A defined set, number as an integer.
pub(crate) const REF_LONG: u8 = 0xC3;
/// Defines a set as a bitmap.
pub(crate) const BITS: u8 = 0xC4;
/// Defines a set as its difference to the previous record's set.
pub(crate) const FLIP: u8 = 0xC5;
/// Defines a set as the list of its members.
pub(crate) const LIST: u8 = 0xC6;
/// Defines a set as the list of what it lacks.
pub(crate) const COLIST: u8 = 0xC7;
/// Prefix: the data holds one piece of this length per destination.
pub(crate) const EACH: u8 = 0xD0;
/// Prefix: nothing in the data; every destination takes the bytes from what its own stream remembers.
pub(crate) const PAST: u8 = 0xD1;
/// Prefix: as `PAST`, with the same back as the last one.
pub(crate) const AGAIN: u8 = 0xD4;
/// Prefix: nothing in the data; the bytes are some that the receiver itself sent.
pub(crate) const ECHO: u8 = 0xD2;
/// Reserved: difference against the previous message.
pub(crate) const XOR: u8 = 0xD3;

/// Bytes of the checksum at the end.
pub(crate) const CRC_BYTES: usize = 4;
/// No LZ4 block expands by more than this factor.
pub(crate) const LZ4_EXPANSION_MAX: usize = 255;
/// No zstd frame expands by more than this factor: 4 bytes are the shortest block that expands at all, 128 KiB the longest
/// that comes of one.
pub(crate) const ZSTD_EXPANSION_MAX: usize = 32_768;
/// How a zstd frame begins: the magic number, then no checksum, no content size and no dictionary.
#[cfg_attr(not(feature = "zstd"), allow(dead_code, reason = "the format has it, this build does not"))]
pub(crate) const ZSTD_BEGINNING: [u8; 5] = [0x28, 0xB5, 0x2F, 0xFD, 0x00];
/// The largest window descriptor of a zstd frame: 8 MiB, what RFC 8878 asks of every decoder.
#[cfg_attr(not(feature = "zstd"), allow(dead_code, reason = "the format has it, this build does not"))]
pub(crate) const ZSTD_WINDOW_MAX: u8 = 0x68;

/// Bytes of a message that are remembered, from its first one on; of the format. A decoder copies as many of a message that
/// refers to them.
pub(crate) const OPENING_BYTES: usize = 256;

/// Bytes remembered per stream; the oldest are forgotten first. Of the format: what all streams of a direction remember is
/// at most 4 MiB.
pub(crate) const STREAM_BYTES: usize = 4 << 10;

/// Streams remembered; the one unused for longest is forgotten first. Of the format: as many as a frame has destinations.
pub(crate) const STREAMS_MAX: usize = 1024;

/// Bytes that have arrived and may be referred to, of the format: what arrives within 100 ms at 10 MB/s. Both ends keep as
/// much.
pub(crate) const WINDOW_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_md_has_these_numbers() {
        let format = include_str!("../FORMAT.md");
        for (name, code) in [
            ("NEXT", NEXT),
            ("ONE", ONE_LONG),
            ("BUT", BUT_LONG),
            ("REF", REF_LONG),
            ("BITS", BITS),
            ("FLIP", FLIP),
            ("LIST", LIST),
            ("COLIST", COLIST),
            ("REF", REF),
            ("ONE", ONE),
            ("BUT", BUT),
        ] {
            let row = format
                .lines()
                .find(|line| line.starts_with(&format!("| `{code:02X}`")) && line.split('|').count() == 4);
            assert!(row.unwrap_or_default().contains(name), "code {code:02X} is not {name}");
        }
        for (name, flag) in [
            ("CONCAT", FLAG_CONCAT),
            ("LZ4", FLAG_LZ4),
            ("ZSTD", FLAG_ZSTD),
            ("HISTORY", FLAG_HISTORY),
            ("NOREF", FLAG_NOREF),
            ("ECHO", FLAG_ECHO),
        ] {
            assert!(format.contains(&format!("| `{flag:02x}` | {name} |")), "flag {flag:02x} is not {name}");
        }
        assert!(format.contains(&format!("| magic | 1 | `{MAGIC:02X}` |")));
        assert!(format.contains(&format!("| version | 1 | `{VERSION:02x}` |")));
        assert!(format.contains(&format!("{PAST:X}, set, uv length, uv back        PAST")));
        assert!(format.contains(&format!("{AGAIN:X}, set, uv length                 AGAIN")));
        assert!(format.contains(&format!("{ECHO:X}, set, uv length, uv distance    ECHO")));
        assert!(format.contains(&format!("`{XOR:X}` is reserved")));
        assert!(format.contains(&format!("{EACH:X}, set, uv length")));
        assert!(format.contains(&format!("| checksum | {CRC_BYTES} |")));
        assert!(format.contains(&format!("expand by more than {LZ4_EXPANSION_MAX}")));
        assert!(format.contains("a ZSTD block that would have to by more than 32,768"));
        assert_eq!(ZSTD_EXPANSION_MAX, 32_768);
        let beginning: Vec<String> = ZSTD_BEGINNING.iter().map(|byte| format!("{byte:02X}")).collect();
        assert!(format.contains(&format!("`{}`", beginning.join(" "))));
        assert!(format.contains(&format!("above `{ZSTD_WINDOW_MAX:02X}`")));
        assert!(format.contains(&format!("Numbers below {SHORT} use")));
    }
}
