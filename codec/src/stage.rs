//! The second stage: a general compressor over the data column, where it pays.
//!
//! Data that does not compress is recognised from samples, so that the stage costs next to nothing there. The
//! decompressor writes into a buffer whose length the head has fixed; no length inside the block is trusted.

use lz4_flex::block;

use crate::wire;
#[cfg(feature = "zstd")]
use crate::zstd;

/// Data columns below this are not worth a compressor's set-up.
const DATA_BYTES_MIN: usize = 64;
/// From this length on, samples decide whether the whole is tried.
const SAMPLED_BYTES_MIN: usize = 16 << 10;
const SAMPLES: usize = 4;
const SAMPLE_BYTES: usize = 1 << 10;

/// The second stage: used only where it makes the frame smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// No second stage.
    #[default]
    None,
    /// LZ4 block format: fast, modest.
    Lz4,
    /// zstd, level −1: a little slower, finds repeats up to 512 KiB apart. Only with the cargo feature `zstd`; without it
    /// such frames are neither written nor read.
    Zstd,
}

impl Stage {
    /// Whether this build has it.
    pub(crate) fn available(self) -> bool {
        self != Self::Zstd || cfg!(feature = "zstd")
    }

    /// The flag of a frame that has it.
    pub(crate) fn flag(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Lz4 => wire::FLAG_LZ4,
            Self::Zstd => wire::FLAG_ZSTD,
        }
    }
}

/// Reused memory of the second stage.
#[derive(Debug, Default)]
pub(crate) struct Compressor {
    sample: Vec<u8>,
    out: Vec<u8>,
    #[cfg(feature = "zstd")]
    zstd: zstd::Compressor,
}

impl Compressor {
    /// Whether `pieces`, `bytes` long together, look as if they would shrink by at least a thirty-second part.
    pub(crate) fn promising<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>, bytes: usize) -> bool {
        if bytes < DATA_BYTES_MIN {
            return false;
        }
        if bytes < SAMPLED_BYTES_MIN {
            return true;
        }
        // Samples are spread evenly: the k-th begins where the k-th stride does. They go on over the borders of pieces:
        // strides often are multiples of the pieces' length, and all samples would begin just before a border.
        self.sample.clear();
        let stride = bytes / SAMPLES;
        let (mut passed, mut at) = (0, 0);
        for piece in pieces {
            while at < passed + piece.len() && at < stride * SAMPLES {
                let taken = at % stride;
                if taken >= SAMPLE_BYTES {
                    at += stride - taken;
                    continue;
                }
                let from = at - passed;
                let to = piece.len().min(from + SAMPLE_BYTES - taken);
                self.sample.extend_from_slice(&piece[from..to]);
                at += to - from;
            }
            passed += piece.len();
        }
        let sampled = self.sample.len();
        self.out.resize(self.out.len().max(block::get_maximum_output_size(sampled)), 0);
        block::compress_into(&self.sample, &mut self.out).is_ok_and(|staged| staged + sampled / 32 < sampled)
    }

    /// The block for `data`, if it is smaller than `data`.
    pub(crate) fn compress(&mut self, stage: Stage, data: &[u8]) -> Option<&[u8]> {
        self.out.resize(self.out.len().max(block::get_maximum_output_size(data.len())), 0);
        let staged = match stage {
            Stage::Lz4 => block::compress_into(data, &mut self.out).ok()?,
            #[cfg(feature = "zstd")]
            Stage::Zstd => self.zstd.compress(data, &mut self.out)?,
            _ => return None,
        };
        (staged < data.len()).then(|| &self.out[..staged])
    }
}

/// Expands the block of a frame with these flags to exactly `data_bytes` bytes.
pub(crate) fn expand(flags: u8, staged: &[u8], data_bytes: usize) -> Option<Vec<u8>> {
    #[cfg(feature = "zstd")]
    if flags & wire::FLAG_ZSTD != 0 {
        return zstd::expand(staged, data_bytes);
    }
    if flags & wire::FLAG_LZ4 == 0 {
        return None;
    }
    let mut out = vec![0; data_bytes];
    (block::decompress_into(staged, &mut out).ok()? == data_bytes).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_go_on_over_the_borders_of_pieces() {
        // A short piece and sixteen of 1 KiB: every stride begins a few bytes before a border.
        let text = b"the same words come again and again, ".repeat(500);
        let pieces = || std::iter::once(&text[..60]).chain(text[60..60 + (16 << 10)].chunks(1 << 10));
        let mut compressor = Compressor::default();
        assert!(compressor.promising(pieces(), 60 + (16 << 10)));
        assert_eq!(compressor.sample.len(), SAMPLES * SAMPLE_BYTES);
    }

    #[test]
    fn random_data_is_not_promising_and_text_is() {
        let mut state = 1u64;
        let random: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_le_bytes()[6]
        })
        .take(100_000)
        .collect();
        let text = b"the same words come again and again, ".repeat(3000);
        let mut compressor = Compressor::default();
        assert!(!compressor.promising(random.chunks(3000), random.len()));
        assert!(compressor.promising(text.chunks(3000), text.len()));
        for stage in [Stage::Lz4, Stage::Zstd].into_iter().filter(|stage| stage.available()) {
            let staged = compressor.compress(stage, &text).unwrap().to_vec();
            assert_eq!(expand(stage.flag(), &staged, text.len()).unwrap(), text);
            assert_eq!(expand(stage.flag(), &staged, text.len() - 1), None);
            assert_eq!(expand(stage.flag(), &staged, text.len() + 1), None);
            assert_eq!(compressor.compress(stage, &random), None);
        }
    }
}
