//! What the checksum of a connection's frame goes on from.

/// `history` is the checksum of the frame before, or that of the epoch; the numbers are those of the frame's streams.
pub(crate) fn named(history: u32, streams: &[u32]) -> u32 {
    history ^ streams.iter().fold(0, |crc, number| crc32c::crc32c_append(crc, &number.to_le_bytes()))
}
