//! Where every entry lies: what readers look into while the writer writes.

use std::collections::VecDeque;
use std::sync::Arc;

/// One segment, as far as it is written.
#[derive(Debug)]
pub(super) struct Placed<F> {
    pub(super) name: String,
    pub(super) file: Arc<F>,
    pub(super) salt: u64,
    pub(super) first: u64,
    /// Where each record begins, from the first on.
    pub(super) offsets: Vec<u32>,
    /// Where the last one ends.
    pub(super) end: u32,
}

impl<F> Placed<F> {
    /// The index after the last one.
    pub(super) fn next(&self) -> u64 {
        self.first + self.offsets.len() as u64
    }
}

/// The segments, the oldest first.
#[derive(Debug)]
pub(super) struct Catalog<F> {
    pub(super) segments: VecDeque<Placed<F>>,
}

/// Some records that lie side by side.
#[derive(Debug)]
pub(super) struct Extent<F> {
    pub(super) name: String,
    pub(super) file: Arc<F>,
    pub(super) salt: u64,
    pub(super) first: u64,
    pub(super) offset: u32,
    pub(super) bytes: usize,
}

impl<F> Extent<F> {
    /// Are these the same bytes of the same file?
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file, &other.file) && self.offset == other.offset && self.bytes == other.bytes
    }
}

impl<F> Catalog<F> {
    /// Where the entries `from..to` lie, or as many of them as are side by side within so many bytes, at least one.
    /// `None` when the first is not there.
    pub(super) fn locate(&self, from: u64, to: u64, bytes_max: usize) -> Option<Extent<F>> {
        let after = self.segments.partition_point(|segment| segment.first <= from);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        if from >= segment.next() || from >= to {
            return None;
        }
        let at = usize::try_from(from - segment.first).ok()?;
        let until = usize::try_from(to.min(segment.next()) - segment.first).ok()?;
        let offset = segment.offsets[at];
        let ends = |record: usize| segment.offsets.get(record + 1).copied().unwrap_or(segment.end);
        // Ends rise, so those that fit come first.
        let begin_within = &segment.offsets[at + 1..until];
        let whole = begin_within.partition_point(|next| (next - offset) as usize <= bytes_max);
        let all = whole == begin_within.len() && (ends(until - 1) - offset) as usize <= bytes_max;
        let last = if all { until - 1 } else { at + whole.max(1) - 1 };
        Some(Extent {
            name: segment.name.clone(),
            file: Arc::clone(&segment.file),
            salt: segment.salt,
            first: from,
            offset,
            bytes: (ends(last) - offset) as usize,
        })
    }
}
