//! Writes a connection: asks the machine what is next, encodes outside the lock, writes, reports, asks again.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use trunkline_codec::Options;

use super::port::{End, FAREWELL_TIMEOUT, Port};
use super::reader::Ended;
use super::shared::Shared;
use super::stream::Output;
use crate::proto::coder::BatchEncoder;
use crate::proto::frame::{FrameError, Token, Written, codec_limits};
use crate::proto::node::Transmit;

/// Slices handed to the kernel in one call.
const SLICES_MAX: usize = 64;

/// An encoder keeps its working memory, which grows with what it works on. A connection that rests keeps one that never
/// worked on more than this.
const ENCODER_BYTES_KEPT: usize = 64 * 1024;

/// What the encoder keeps books of per segment, about.
const SEGMENT_BYTES: usize = 64;

/// After a write of so many bytes, other tasks of the thread get their turn.
const TURN_BYTES: usize = 64 * 1024;

pub(super) fn start(shared: &Arc<Shared>, port: Arc<Port>, output: Output) {
    let ended = Ended::new(shared, port);
    shared.spawn(async move { run(ended.shared(), ended.port(), output).await });
}

async fn run(shared: &Arc<Shared>, port: &Arc<Port>, mut output: Output) {
    let mut outgoing = Outgoing::new(shared, port);
    let mut written: Option<(Vec<Written>, usize)> = None;
    loop {
        let next = shared.with(|core, now| {
            if let Some((written, bytes)) = written.take() {
                core.node.handle_written(port.id, &written, bytes, now);
            }
            let transmit = core.node.poll_transmit(port.id, now);
            core.set_busy(port.id, !transmit.is_empty());
            transmit
        });
        let Ok(transmit) = next else { return };
        if transmit.is_empty() {
            outgoing.rest();
            tokio::select! {
                biased;
                end = port.closing() => return say_farewell(&mut outgoing.queue, end, &mut output).await,
                () = port.bell.notified() => continue,
            }
        }
        let report = match outgoing.encode(transmit) {
            Ok(report) => report,
            Err((token, error)) => {
                let _ = shared.with(|core, now| core.node.handle_unencodable(port.id, token, &error, now));
                return say_farewell(&mut outgoing.queue, port.closing().await, &mut output).await;
            }
        };
        let large = report.1 >= TURN_BYTES;
        written = Some(report);
        let result = tokio::select! {
            biased;
            end = port.closing() => return say_farewell(&mut outgoing.queue, end, &mut output).await,
            result = outgoing.queue.write(&mut output, || {
                let _ = shared.with(|core, now| core.node.handle_progress(port.id, now));
            }) => result,
        };
        if let Err(error) = result {
            tracing::debug!(conn = port.id.0, %error, "write failed");
            // The peer may have said why before it closed: the reader gets to it, and then to the end.
            let _ = tokio::time::timeout(FAREWELL_TIMEOUT, port.closing()).await;
            return;
        }
        if large {
            tokio::task::yield_now().await;
        }
    }
}

/// Finishes the frame that is half written, so that the last words are not taken for its rest, and says them.
async fn say_farewell(queue: &mut Queue, end: &End, output: &mut (impl AsyncWrite + Unpin)) {
    let End::Words(words) = end else { return };
    queue.slices.push_back(words.clone());
    let say = async {
        queue.write(output, || {}).await?;
        output.shutdown().await
    };
    // Whoever does not read them in time does without.
    let _ = tokio::time::timeout(FAREWELL_TIMEOUT, say).await;
}

/// Turns what the machine sealed into bytes.
struct Outgoing<'a> {
    shared: &'a Shared,
    port: &'a Port,
    encoder: Option<BatchEncoder>,
    /// The most that the encoder had to work on since it was made.
    encoder_bytes: usize,
    queue: Queue,
}

impl<'a> Outgoing<'a> {
    fn new(shared: &'a Shared, port: &'a Port) -> Self {
        Self { shared, port, encoder: None, encoder_bytes: 0, queue: Queue::default() }
    }

    /// There is nothing to write for now: what a large frame needed is given back.
    fn rest(&mut self) {
        if self.encoder_bytes > ENCODER_BYTES_KEPT {
            self.encoder.iter_mut().for_each(BatchEncoder::release);
            self.encoder_bytes = 0;
        }
        self.queue.slices.shrink_to(SLICES_MAX);
    }

    /// Queues everything of a transmit, or nothing. Says what became of its batches, and how many bytes are queued.
    fn encode(&mut self, transmit: Transmit) -> Result<(Vec<Written>, usize), (Token, FrameError)> {
        let mut wire = transmit.frames;
        let mut written = Vec::with_capacity(transmit.batches.len());
        for batch in transmit.batches {
            let work = batch.payloads.iter().map(|of| of.len() + of.segments().len() * SEGMENT_BYTES).sum();
            self.encoder_bytes = self.encoder_bytes.max(work);
            let encoder = self.encoder();
            written.push(batch.try_encode(encoder, &mut wire).map_err(|error| (batch.token, error))?);
        }
        let bytes = wire.iter().map(Bytes::len).sum();
        self.queue.slices.extend(wire.into_iter().filter(|slice| !slice.is_empty()));
        Ok((written, bytes))
    }

    /// The connection's encoder, made at its first batch: most connections carry none.
    fn encoder(&mut self) -> &mut BatchEncoder {
        self.encoder.get_or_insert_with(|| {
            let opened = self.port.opened();
            let mine = || self.shared.settings(|settings| settings.frame_bytes_max);
            let longest = opened.map_or_else(mine, |opened| opened.frame_bytes_max);
            let limits = codec_limits(longest);
            let options = Options { seed: self.shared.seed, limits, ..Options::default() };
            BatchEncoder::new(options, opened)
        })
    }
}

/// What is on its way to the kernel.
#[derive(Default)]
struct Queue {
    slices: VecDeque<Bytes>,
}

impl Queue {
    /// Writes what is queued, until the kernel has it. When it is dropped half-way, what is left stays queued. `progress` is
    /// told whenever the kernel took less than it was offered: it is full.
    async fn write(
        &mut self,
        output: &mut (impl AsyncWrite + Unpin),
        mut progress: impl FnMut(),
    ) -> io::Result<()> {
        while !self.slices.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let (mut used, mut offered) = (0, 0);
            for (slot, slice) in slices.iter_mut().zip(&self.slices) {
                *slot = IoSlice::new(slice);
                used += 1;
                offered += slice.len();
            }
            let count = output.write_vectored(&slices[..used]).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.advance(count);
            if count < offered {
                progress();
            }
        }
        // TLS takes more than the kernel does.
        output.flush().await
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(front) = self.slices.front_mut() {
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.slices.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use trunkline_codec::{Payload, Stage};

    use super::super::join;
    use super::super::shared::tests::lone_origin;
    use super::*;
    use crate::id::{Lane, Seq};
    use crate::proto::frame::{SealedBatch, Token};
    use crate::proto::node::ConnId;
    use crate::proto::wire::{Envelope, Run};

    /// A frame in front of a batch of one message, or of none, which no frame holds.
    fn transmit(message: Option<Payload>) -> Transmit {
        let run = Run { flow: 0, first: Seq(1), count: 1, floor_back: 0, deadline_ms: 1 };
        let batch = SealedBatch {
            lane: Lane::Bulk,
            envelope: Envelope { batch: 1, attempt: 1, runs: vec![run] },
            payloads: message.into_iter().collect(),
            stage: Stage::None,
            token: Token::Attempt(0),
        };
        Transmit { frames: vec![Bytes::from_static(b"roster")], batches: vec![batch] }
    }

    #[tokio::test]
    async fn of_a_transmit_that_cannot_be_encoded_nothing_is_written() {
        let (client, _inbox) = join(lone_origin()).await.unwrap();
        let (shared, port) = (client.mesh().shared(), Port::new(ConnId(9)));
        let mut outgoing = Outgoing::new(shared, &port);
        assert!(matches!(outgoing.encode(transmit(None)), Err((_, FrameError::Encode(_)))));
        assert!(outgoing.queue.slices.is_empty());
        let (written, bytes) = outgoing.encode(transmit(Some(Payload::from(vec![1, 2, 3])))).unwrap();
        assert_eq!(written.len(), 1);
        assert_eq!(bytes, outgoing.queue.slices.iter().map(Bytes::len).sum());
    }

    #[tokio::test]
    async fn a_connection_that_rests_keeps_no_memory_of_a_large_frame() {
        let (client, _inbox) = join(lone_origin()).await.unwrap();
        let (shared, port) = (client.mesh().shared(), Port::new(ConnId(9)));
        let mut outgoing = Outgoing::new(shared, &port);
        let one = |bytes| Some(Payload::from(vec![1; bytes]));
        let many = Some((0..2000).map(|_| Bytes::from(vec![1])).collect::<Payload>());
        for (message, kept) in [(one(1000), true), (one(ENCODER_BYTES_KEPT + 1), false), (many, false)] {
            outgoing.encode(transmit(message)).unwrap();
            outgoing.queue.slices.clear();
            // Not between the frames of a busy connection.
            outgoing.encode(transmit(one(10))).unwrap();
            outgoing.queue.slices.clear();
            assert!(outgoing.encoder_bytes > 0);
            outgoing.rest();
            assert_eq!(outgoing.encoder_bytes > 0, kept);
            assert!(outgoing.queue.slices.capacity() <= 2 * SLICES_MAX);
        }
    }

    #[tokio::test]
    async fn a_kernel_that_takes_a_frame_in_parts_is_heard_of_part_by_part() {
        let (mut ours, mut theirs) = tokio::io::duplex(16);
        let mut queue = Queue { slices: (0..10).map(|number| Bytes::from(vec![number; 10])).collect() };
        let parts = std::cell::Cell::new(0);
        let write = queue.write(&mut ours, || parts.set(parts.get() + 1));
        let mut read = [0; 100];
        let read = async {
            // Nobody has read yet: what was taken is what there is room for.
            tokio::task::yield_now().await;
            let before = parts.get();
            theirs.read_exact(&mut read).await.unwrap();
            before
        };
        let (written, before) = tokio::join!(write, read);
        written.unwrap();
        assert_eq!(before, 1);
        assert!(parts.get() > 1, "{} parts", parts.get());
        // What fits is taken at once, and nobody has to be told.
        let mut queue = Queue { slices: VecDeque::from([Bytes::from_static(b"short")]) };
        queue.write(&mut ours, || panic!("it fits")).await.unwrap();
    }

    #[tokio::test]
    async fn last_words_come_behind_the_frame_that_is_half_written() {
        let (mut ours, mut theirs) = tokio::io::duplex(16);
        let frame: Vec<Bytes> = (0..10).map(|number| Bytes::from(vec![number; 10])).collect();
        let mut queue = Queue { slices: frame.iter().cloned().collect() };
        tokio::select! {
            biased;
            _ = queue.write(&mut ours, || {}) => panic!("nobody reads"),
            () = std::future::ready(()) => {}
        }
        let end = End::Words(Bytes::from_static(b"bye"));
        let mut read = Vec::new();
        let ((), count) =
            tokio::join!(say_farewell(&mut queue, &end, &mut ours), theirs.read_to_end(&mut read));
        assert_eq!(count.unwrap(), 103);
        assert_eq!(read, [&frame.concat()[..], b"bye"].concat());
    }
}
