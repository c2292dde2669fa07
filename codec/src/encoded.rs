//! One encoded frame: slices in wire order, and how they come together.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::checksum;
use crate::wire;
use crate::work::Work;

/// A slice of the buffer that frames are written to may keep so many bytes of it alive, or so many times its own.
const PINNED_BYTES_MAX: usize = 16 << 10;
const PINNED_PART: usize = 8;

/// What one encoding did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes of all messages together.
    pub input_bytes: usize,
    /// Length of the frame before the second stage.
    pub diff_bytes: usize,
    /// Length of the frame as sent.
    pub frame_bytes: usize,
    /// Bytes that are not in the frame because the receiver sent them itself, those of several messages once.
    pub echoed_bytes: usize,
    /// The messages share too little: the frame is their concatenation.
    pub concatenated: bool,
    /// Operations that planning took.
    pub work: Work,
}

/// One frame, ready for a vectored write.
#[derive(Clone)]
pub struct EncodedFrame {
    pub(crate) slices: Slices,
    pub(crate) stats: Stats,
    pub(crate) flags: u8,
    /// Bytes that arrived of what the receiver sent, as the frame says.
    pub(crate) arrived: Option<usize>,
    pub(crate) checksum: u32,
}

/// Most frames are short and have one slice, which needs no list.
#[derive(Clone)]
pub(crate) enum Slices {
    One(Bytes),
    Many(Vec<Bytes>),
}

impl EncodedFrame {
    /// Length in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> usize {
        self.stats.frame_bytes
    }

    /// Whether no later frame may refer to this one: it was asked for, or with this frame there are more than 4 MiB or 8,192
    /// frames of which the peer has not said that they arrived. A frame of more than 4 MiB has too much alone.
    #[must_use]
    pub fn is_unremembered(&self) -> bool {
        self.flags & wire::FLAG_NOREF != 0
    }

    /// The frame's bytes in wire order, for a vectored write. Long shared segments are the sender's own.
    #[must_use]
    pub fn slices(&self) -> &[Bytes] {
        match &self.slices {
            Slices::One(one) => std::slice::from_ref(one),
            Slices::Many(many) => many,
        }
    }

    /// The frame in one piece; copies unless it is one piece already.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        if let Slices::One(one) = &self.slices {
            return one.clone();
        }
        let mut out = BytesMut::with_capacity(self.len());
        for slice in self.slices() {
            out.put_slice(slice);
        }
        out.freeze()
    }

    /// What the encoding did.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }
}

/// Shows sizes only: messages may be secret.
impl fmt::Debug for EncodedFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slices = self.slices().len();
        f.debug_struct("EncodedFrame").field("slices", &slices).field("stats", &self.stats).finish()
    }
}

/// A frame in the making.
pub(crate) struct Assembly<'a> {
    /// Bytes that are not yet a slice.
    pub(crate) out: &'a mut BytesMut,
    pub(crate) slices: Vec<Bytes>,
    pub(crate) crc: u32,
    pub(crate) bytes: usize,
}

impl Assembly<'_> {
    /// Makes a slice of what was written so far.
    pub(crate) fn cut(&mut self) {
        if !self.out.is_empty() {
            let written = self.take();
            self.slice(written);
        }
    }

    /// What was written so far, taken out. Of a buffer that a long frame has made grow it is a copy: whoever keeps a short
    /// frame must not keep that, which could then not be given back either.
    fn take(&mut self) -> Bytes {
        let capacity = self.out.capacity();
        if capacity > PINNED_BYTES_MAX && self.out.len() < capacity / PINNED_PART {
            let copy = Bytes::copy_from_slice(self.out);
            self.out.clear();
            return copy;
        }
        self.out.split().freeze()
    }

    pub(crate) fn slice(&mut self, slice: Bytes) {
        self.crc = checksum::append(self.crc, &slice);
        self.bytes += slice.len();
        self.slices.push(slice);
    }

    /// Appends the checksum of everything.
    pub(crate) fn seal(mut self) -> (Slices, usize, u32) {
        let crc = checksum::append_own(self.crc, self.out);
        self.out.put_slice(&crc.to_le_bytes());
        let last = self.take();
        self.bytes += last.len();
        if self.slices.is_empty() {
            return (Slices::One(last), self.bytes, crc);
        }
        self.slices.push(last);
        (Slices::Many(self.slices), self.bytes, crc)
    }
}
