//! CRC-32C, in one piece and continued. For whoever frames messages with the same checksum; no other use is promised
//! anything.

use crc_fast::{CrcAlgorithm, Digest, crc32_iscsi};

/// The checksum of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32_iscsi(bytes)
}

/// The checksum of what `before` is the checksum of, with `bytes` behind it.
#[must_use]
pub fn append(before: u32, bytes: &[u8]) -> u32 {
    if before == 0 {
        return crc32c(bytes);
    }
    // Carried inverted between parts.
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!before));
    digest.update(bytes);
    u32::try_from(digest.finalize()).expect("a 32-bit checksum has nothing in its upper half")
}

/// As [`append`], for bytes that are as they were in the end. A register that begins with `before` instead of nothing makes
/// of them what one that begins with nothing makes of them with `before` added to the first four.
pub(crate) fn append_own(before: u32, bytes: &mut [u8]) -> u32 {
    if bytes.len() < 4 {
        return append(before, bytes);
    }
    add(before, bytes);
    let checksum = crc32c(bytes);
    add(before, bytes);
    checksum
}

fn add(before: u32, bytes: &mut [u8]) {
    if let Some(first) = bytes.first_chunk_mut() {
        *first = (u32::from_le_bytes(*first) ^ before).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_give_what_the_whole_gives() {
        // RFC 3720, appendix B.4: 32 zeros.
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        let bytes: Vec<u8> = (0..5000u32).map(|k| (k * k % 251).to_le_bytes()[0]).collect();
        let whole = crc32c(&bytes);
        assert_eq!(whole, ::crc32c::crc32c(&bytes));
        for cut in [0, 1, 7, 8, 63, 64, 255, 256, 1000, 4095, 4096, 4999, 5000] {
            let before = crc32c(&bytes[..cut]);
            assert_eq!(append(before, &bytes[cut..]), whole, "{cut}");
            let mut own = bytes.clone();
            assert_eq!(append_own(before, &mut own[cut..]), whole, "{cut}");
            assert_eq!(own, bytes);
        }
        // A part whose checksum is zero is like none at all.
        assert_eq!(append(crc32c(b""), &bytes), whole);
        assert_eq!(append(::crc32c::crc32c(b"a"), b""), ::crc32c::crc32c(b"a"));
    }
}
