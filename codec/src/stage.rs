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
/// Single bytes that are looked at first.
const LOOKED_AT: usize = 256;
/// Data that is between noise and text is tried below this length; from it on, compressed samples decide: they see repeats
/// too, and cost little beside the checksum of the data.
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
    /// zstd, level −1: smaller than LZ4 where data compresses, at half to nine tenths of its speed; finds repeats up to
    /// 512 KiB apart. Only with the cargo feature `zstd`; without it such frames are neither written nor read.
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
    pub(crate) fn promising<'a>(
        &mut self,
        pieces: impl Iterator<Item = &'a [u8]> + Clone,
        bytes: usize,
    ) -> bool {
        if bytes < DATA_BYTES_MIN {
            return false;
        }
        match look(pieces.clone(), bytes) {
            Look::Text => return true,
            look if bytes < SAMPLED_BYTES_MIN => return look != Look::Noise,
            _ => {}
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

/// What data looks like when single bytes of it are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// As even as random bytes: no compressor saves anything, unless whole parts of the data repeat.
    Noise,
    /// Between the two: base64, noise with gaps, short structs.
    Unclear,
    /// A few values are most of it.
    Text,
}

/// Counts pairs of equal bytes among some that are picked evenly from `pieces`.
fn look<'a>(pieces: impl Iterator<Item = &'a [u8]> + Clone, bytes: usize) -> Look {
    // Half of them first: noise mostly shows there already, and what is no noise hardly ever looks so. The strides are odd, so
    // that structs whose length is a power of two show all of their bytes.
    let stride = bytes.div_ceil(LOOKED_AT / 2) | 1;
    let mut seen = [0; 256];
    let (mut looked_at, mut pairs) = count_pairs(pieces.clone(), 0, stride, &mut seen);
    if stride > 1 {
        if pairs <= by_chance(looked_at) * 5 / 4 {
            return Look::Noise;
        }
        let (others, more) = count_pairs(pieces, stride / 2, stride, &mut seen);
        (looked_at, pairs) = (looked_at + others, pairs + more);
    }
    let by_chance = by_chance(looked_at);
    // Among 256 random bytes 128 pairs, give or take 11; among as many of base64 500, of JSON or of words above 1,000.
    // Chance makes more of fewer bytes, and then the whole is tried in vain now and then.
    match pairs {
        _ if pairs <= by_chance + by_chance / 2 => Look::Noise,
        _ if pairs < 5 * by_chance => Look::Unclear,
        _ => Look::Text,
    }
}

/// Pairs that there are by chance among so many bytes.
fn by_chance(bytes: usize) -> usize {
    bytes * bytes / 2 / 256
}

/// Adds every byte `at`, `at + stride`, ... to those `seen`; returns their number, and that of new pairs.
fn count_pairs<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    at: usize,
    stride: usize,
    seen: &mut [u8; 256],
) -> (usize, usize) {
    let (mut skip, mut looked_at, mut pairs) = (at, 0, 0);
    for piece in pieces {
        let mut at = skip;
        while let Some(byte) = piece.get(at) {
            let seen = &mut seen[usize::from(*byte)];
            pairs += usize::from(*seen);
            // No more than 256 are looked at.
            *seen = seen.wrapping_add(1);
            looked_at += 1;
            at += stride;
        }
        skip = at - piece.len();
    }
    (looked_at, pairs)
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
        let text: Vec<u8> = (0..40_000u32).map(|k| (k % 700).to_le_bytes()[0] / 4).collect();
        let pieces = || std::iter::once(&text[..60]).chain(text[60..60 + (16 << 10)].chunks(1 << 10));
        let mut compressor = Compressor::default();
        assert!(compressor.promising(pieces(), 60 + (16 << 10)));
        assert_eq!(compressor.sample.len(), SAMPLES * SAMPLE_BYTES);
    }

    #[test]
    fn single_bytes_tell_noise_from_text() {
        let mut rng = fastrand::Rng::with_seed(1);
        let base64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for len in [1 << 10, 4 << 10, 100_000] {
            let noise: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
            let letters: Vec<u8> = std::iter::repeat_with(|| base64[rng.usize(..64)]).take(len).collect();
            let words = b"the same words come again and again, ".repeat(len / 37);
            let padded: Vec<u8> = noise.chunks(16).flat_map(|some| [&some[..8], &[0; 8]].concat()).collect();
            for (text, expected) in
                [(noise, Look::Noise), (letters, Look::Unclear), (words, Look::Text), (padded, Look::Text)]
            {
                assert_eq!(look(text.chunks(100), text.len()), expected, "{len}");
            }
        }
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
