//! The newest part of the log as text, in memory that all who follow it share.

use std::collections::VecDeque;
use std::sync::Arc;

use super::chunk::Chunk;

/// Chunks without a gap between them, the newest of the log, bounded in bytes.
#[derive(Debug)]
pub(super) struct Ring {
    chunks: VecDeque<Arc<Chunk>>,
    /// The index after the newest entry.
    end: u64,
    bytes: usize,
    bytes_max: usize,
}

/// Where an index is.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// Older than what is here: the log itself has it, or had it.
    Older,
    /// Here.
    Here(Arc<Chunk>),
    /// It is not there yet: all before `end` is.
    Later {
        /// The index after the newest entry.
        end: u64,
    },
}

impl Ring {
    /// Empty, before the first entry.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { chunks: VecDeque::new(), end: 0, bytes: 0, bytes_max }
    }

    /// Lets go of everything, and goes on from an index.
    pub(super) fn restart(&mut self, at: u64) {
        self.chunks = VecDeque::new();
        (self.end, self.bytes) = (at, 0);
    }

    /// Takes the next chunk; the oldest make room. One chunk always fits.
    pub(super) fn push(&mut self, chunk: Arc<Chunk>) {
        if chunk.first() != self.end {
            // What lies between is in the log alone: nobody shall step over it.
            self.restart(chunk.first());
        }
        self.end = chunk.end();
        self.bytes += chunk.bytes();
        self.chunks.push_back(chunk);
        while self.bytes > self.bytes_max && self.chunks.len() > 1 {
            self.bytes -= self.chunks.pop_front().map_or(0, |oldest| oldest.bytes());
        }
    }

    /// The chunk that has an index.
    pub(super) fn find(&self, index: u64) -> Found {
        if index >= self.end {
            return Found::Later { end: self.end };
        }
        let after = self.chunks.partition_point(|chunk| chunk.first() <= index);
        match after.checked_sub(1).and_then(|at| self.chunks.get(at)) {
            Some(chunk) => Found::Here(Arc::clone(chunk)),
            None => Found::Older,
        }
    }

    /// How much a follower at an index has still to be given, B: of what is here.
    pub(super) fn bytes_from(&self, index: u64) -> usize {
        self.chunks.iter().rev().take_while(|chunk| chunk.end() > index).map(|chunk| chunk.bytes()).sum()
    }

    /// What it holds, B.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::chunk::tests::chunk;
    use super::*;

    fn here(ring: &Ring, index: u64) -> Option<u64> {
        match ring.find(index) {
            Found::Here(chunk) => Some(chunk.first()),
            Found::Older | Found::Later { .. } => None,
        }
    }

    #[test]
    fn every_index_is_older_here_or_later() {
        let mut ring = Ring::new(1 << 20);
        assert!(matches!(ring.find(0), Found::Later { .. }));
        ring.restart(5);
        assert!(matches!(ring.find(4), Found::Older));
        assert!(matches!(ring.find(5), Found::Later { .. }));
        ring.push(Arc::new(chunk(5..8)));
        ring.push(Arc::new(chunk(8..9)));
        assert!(matches!(ring.find(4), Found::Older));
        assert_eq!([5, 7, 8].map(|index| here(&ring, index)), [Some(5), Some(5), Some(8)]);
        assert!(matches!(ring.find(9), Found::Later { .. }));
        assert!(matches!(ring.find(u64::MAX), Found::Later { .. }));
        assert_eq!(ring.bytes_from(9), 0);
        assert_eq!(ring.bytes_from(8), chunk(8..9).bytes());
        assert_eq!(ring.bytes_from(0), ring.bytes());
    }

    #[test]
    fn its_bytes_are_bounded_and_one_chunk_always_fits() {
        let bytes_max = 10 * chunk(100..110).bytes();
        let mut ring = Ring::new(bytes_max);
        ring.restart(100);
        for first in (100..1_000).step_by(10) {
            ring.push(Arc::new(chunk(first..first + 10)));
            assert!(ring.bytes() <= bytes_max);
            assert_eq!(ring.bytes(), ring.bytes_from(0), "it is counted as it is");
        }
        assert!((8..=10).contains(&ring.chunks.len()), "and it is used");
        assert_eq!(here(&ring, 999), Some(990));
        assert!(matches!(ring.find(100), Found::Older));
        let mut small = Ring::new(1);
        small.push(Arc::new(chunk(0..10)));
        small.push(Arc::new(chunk(10..20)));
        assert_eq!((here(&small, 9), here(&small, 10)), (None, Some(10)));
    }

    #[test]
    fn what_was_left_out_is_never_stepped_over() {
        let mut ring = Ring::new(1 << 20);
        ring.push(Arc::new(chunk(0..4)));
        ring.push(Arc::new(chunk(6..8)));
        for index in 0..6 {
            assert!(matches!(ring.find(index), Found::Older), "{index}");
        }
        assert_eq!(here(&ring, 6), Some(6));
    }
}
