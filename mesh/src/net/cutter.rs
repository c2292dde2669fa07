//! Received bytes → frames, each in an allocation of its own: a small frame never keeps a large read alive, an idle
//! connection keeps no buffer, and an announced length allocates little more than what arrived.

use bytes::buf::Limit;
use bytes::{BufMut, BytesMut};

use crate::proto::frame::{FrameError, FrameReader, Received};
use crate::proto::node::Opened;

/// Bytes one read may bring. One such buffer per thread, not per connection.
pub(super) const SCRATCH_BYTES: usize = 64 * 1024;

/// Room made ahead of what has arrived, at most; then as much again as has arrived.
const STEP_BYTES: usize = 256 * 1024;

/// Smallest allocation: header and body of most control frames.
const SMALL_BYTES: usize = 256;

/// Frames handed to the machine in one lock section.
const FRAMES_MAX: usize = 64;

/// A connection's incoming bytes.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    reader: FrameReader,
    partial: BytesMut,
    open: bool,
}

impl Cutter {
    /// The handshake is complete.
    pub(super) fn open(&mut self, opened: Opened) {
        self.reader.open(&opened);
        self.open = true;
    }

    /// Cuts frames off the front of `bytes`. Returns early, with some left, when enough frames are there, or when the
    /// one that is there may change what is legal next.
    pub(super) fn cut(
        &mut self,
        bytes: &mut &[u8],
        frames: &mut Vec<(Received, usize)>,
    ) -> Result<(), FrameError> {
        loop {
            if let Some(frame) = self.reader.read(&mut self.partial)? {
                frames.push(frame);
                if !self.open || frames.len() >= FRAMES_MAX {
                    return Ok(());
                }
            } else if bytes.is_empty() {
                return Ok(());
            } else {
                let missing = self.reader.missing(&self.partial);
                let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
                self.make_room(missing, taken.len());
                self.partial.extend_from_slice(taken);
                *bytes = rest;
            }
        }
    }

    /// See [`FrameReader::awaits_control`].
    pub(super) fn awaits_control(&self) -> Option<usize> {
        self.reader.awaits_control()
    }

    /// A place to read the rest of a large frame into without a copy.
    pub(super) fn direct(&mut self) -> Option<Limit<&mut BytesMut>> {
        let missing = self.reader.missing(&self.partial);
        if missing < SCRATCH_BYTES {
            return None;
        }
        self.make_room(missing, 1);
        let room = (self.partial.capacity() - self.partial.len()).min(missing);
        Some((&mut self.partial).limit(room))
    }

    /// Room for `needed` of the `missing` bytes, exactly sized towards the end of the frame.
    fn make_room(&mut self, missing: usize, needed: usize) {
        let length = self.partial.len();
        if self.partial.capacity() - length < needed {
            let ahead = missing.min(STEP_BYTES.max(length));
            let mut larger = BytesMut::with_capacity((length + ahead).max(SMALL_BYTES));
            larger.extend_from_slice(&self.partial);
            self.partial = larger;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Lane;
    use crate::proto::frame::{FrameType, HEADER_BYTES, control_frame};
    use crate::proto::wire::{PREAMBLE, Ping};

    fn opened() -> Cutter {
        let mut cutter = Cutter::default();
        let mut frames = Vec::new();
        cutter.cut(&mut &PREAMBLE[..], &mut frames).unwrap();
        cutter.open(Opened { lane: Lane::Control, frame_bytes_max: 1 << 24, epochs: None, echo: None });
        cutter
    }

    fn pings(count: u64) -> Vec<u8> {
        let frame = |sent_us| control_frame(FrameType::Ping, Lane::Control, &Ping { sent_us });
        (0..count).flat_map(frame).collect()
    }

    #[test]
    fn frames_come_out_whole_however_the_bytes_are_cut() {
        let wire = pings(200);
        for step in [1, 7, 16, 17, 1000, wire.len()] {
            let (mut cutter, mut stamps) = (opened(), Vec::new());
            for mut part in wire.chunks(step) {
                while !part.is_empty() {
                    let mut frames = Vec::new();
                    cutter.cut(&mut part, &mut frames).unwrap();
                    assert!(frames.len() <= FRAMES_MAX);
                    stamps.extend(frames.into_iter().map(|(received, _)| match received {
                        Received::Ping(ping) => ping.sent_us,
                        other => panic!("{other:?}"),
                    }));
                }
            }
            assert_eq!(stamps, (0..200).collect::<Vec<_>>(), "step {step}");
        }
    }

    #[test]
    fn before_the_handshake_is_complete_frames_come_one_by_one() {
        let mut cutter = Cutter::default();
        let wire = [&PREAMBLE[..], &pings(2)].concat();
        let (mut rest, mut frames) = (&wire[..], Vec::new());
        cutter.cut(&mut rest, &mut frames).unwrap();
        assert_eq!(frames.len(), 1);
        assert!(!rest.is_empty());
    }

    #[test]
    fn an_announced_length_allocates_little_more_than_what_arrived() {
        let mut header = [0; HEADER_BYTES];
        header[0] = FrameType::Batch as u8;
        header[8..12].copy_from_slice(&(16_u32 << 20).to_le_bytes());
        let checksum = trunkline_codec::checksum::crc32c(&header[..12]);
        header[12..16].copy_from_slice(&checksum.to_le_bytes());
        let mut cutter = opened();
        let mut arrived = 0;
        cutter.cut(&mut &header[..], &mut Vec::new()).unwrap();
        while arrived < 8 << 20 {
            let mut room = cutter.direct().expect("a large frame");
            let count = room.remaining_mut().min(50_000);
            room.put_bytes(7, count);
            arrived += count;
            assert!(cutter.partial.capacity() <= 2 * arrived + STEP_BYTES, "{arrived}");
        }
        let stranger = Cutter::default().cut(&mut &[&PREAMBLE[..], &header].concat()[..], &mut Vec::new());
        assert!(matches!(stranger, Err(FrameError::TooLong { .. })), "{stranger:?}");
    }
}
