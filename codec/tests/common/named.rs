//! What the checksum of a connection's frame goes on from.
#![allow(dead_code, reason = "every test file uses its own part")]

/// `history` is the checksum of the frame before, or that of the epoch; the numbers are those of the frame's streams.
pub(crate) fn named(history: u32, streams: &[u32]) -> u32 {
    history ^ streams.iter().fold(0, |crc, number| crc32c::crc32c_append(crc, &number.to_le_bytes()))
}

/// The checksum that a frame carries.
pub(crate) fn carried(frame: &[u8]) -> u32 {
    u32::from_le_bytes(*frame.last_chunk().unwrap())
}
