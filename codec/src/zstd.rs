//! zstd as a second stage: one frame of RFC 8878 of the plainest form.
//!
//! The C library works in one call on whole buffers. So it keeps no window of its own, and writes nowhere but into the
//! buffer it is given.

use std::cell::Cell;
use std::fmt;

use zstd_safe::{CCtx, CParameter, DCtx};

use crate::wire;

/// What the diff leaves over has few repeats and is mostly values. The levels above 0 spend three to ten times as long on
/// it; `--bench report` shows level −3 as a peer.
const LEVEL: i32 = -1;

/// A compressor's tables: a few hundred KiB, from the first frame that is compressed on.
#[derive(Default)]
pub(crate) struct Compressor(Option<CCtx<'static>>);

impl Compressor {
    /// Writes the block for `data` into `out`; nothing if it does not fit there.
    pub(crate) fn compress(&mut self, data: &[u8], out: &mut [u8]) -> Option<usize> {
        let context = match &mut self.0 {
            Some(context) => context,
            none => none.insert(context()?),
        };
        context.compress2(out, data).ok()
    }
}

fn context() -> Option<CCtx<'static>> {
    let mut context = CCtx::try_create()?;
    // The frame around it has the length and a checksum.
    for parameter in [
        CParameter::CompressionLevel(LEVEL),
        CParameter::ContentSizeFlag(false),
        CParameter::ChecksumFlag(false),
        CParameter::DictIdFlag(false),
    ] {
        context.set_parameter(parameter).ok()?;
    }
    Some(context)
}

thread_local! {
    // 160 KiB for each thread that has read such a frame; creating one takes longer than to expand a short block.
    static EXPANDER: Cell<Option<DCtx<'static>>> = const { Cell::new(None) };
}

/// Expands `block` to exactly `data_bytes` bytes.
pub(crate) fn expand(block: &[u8], data_bytes: usize) -> Option<Vec<u8>> {
    let window = block.strip_prefix(&wire::ZSTD_BEGINNING)?.first()?;
    // One frame and nothing behind it: the library would read on.
    if *window > wire::ZSTD_WINDOW_MAX || zstd_safe::find_frame_compressed_size(block) != Ok(block.len()) {
        return None;
    }
    // Where the thread ends its own context may be gone: then one for this block.
    let mut kept = EXPANDER.try_with(Cell::take).ok().flatten();
    let mut context = kept.take().or_else(DCtx::try_create)?;
    let mut out = Vec::with_capacity(data_bytes);
    let expanded = context.decompress(&mut out, block);
    let _ = EXPANDER.try_with(|kept| kept.set(Some(context)));
    (expanded.ok()? == data_bytes).then_some(out)
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Compressor").finish_non_exhaustive()
    }
}
