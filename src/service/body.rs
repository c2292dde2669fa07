//! The body of one request, as it comes in.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Body;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::errors::Error;

/// Bytes of a body: a value, or an operation in base64, and what is around it.
const BODY_BYTES_MAX: usize = 3 << 19;
/// Bytes of each that need no room of the common one: whoever sends long bodies slowly keeps no short one out.
const FREE_BYTES: usize = 16 * 1024;
/// What a longer one takes at once.
const STEP_BYTES: usize = 64 * 1024;
/// Room for all bytes of bodies beyond the free ones, in KiB: 96 MiB, which is 64 of the longest bodies.
const ROOM_KIB: usize = 96 * 1024;
/// Time for one body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Room for the bodies that are read at once.
pub(super) struct Room(Semaphore);

impl Room {
    pub(super) fn new() -> Self {
        Self(Semaphore::new(ROOM_KIB))
    }

    /// The whole body. It holds room for the memory that it takes, which is what came of it, up to a step more, and nothing
    /// for what it only promises.
    pub(super) async fn read<B>(&self, body: B) -> Result<Bytes, Error>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        match timeout(BODY_TIMEOUT, self.collect(body)).await {
            Ok(read) => read,
            Err(_) => {
                Err(Error::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the body did not come in time"))
            }
        }
    }

    async fn collect<B>(&self, mut body: B) -> Result<Bytes, Error>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let too_large = || {
            let message = format!("a body has at most {BODY_BYTES_MAX} B");
            Error::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &message)
        };
        if body.size_hint().lower() > u64::try_from(BODY_BYTES_MAX).unwrap_or(u64::MAX) {
            return Err(too_large());
        }
        let mut taken = Taken { room: &self.0, bytes: Vec::new(), held: None };
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Error::bad(format!("the body was cut off: {error}")))?;
            // Trailers say nothing here.
            let Ok(data) = frame.into_data() else { continue };
            if taken.bytes.len() + data.len() > BODY_BYTES_MAX {
                return Err(too_large());
            }
            if !taken.add(&data) {
                let message = "too much is being read for others: try again";
                return Err(Error::new(StatusCode::TOO_MANY_REQUESTS, "busy", message));
            }
        }
        Ok(taken.bytes.into())
    }
}

/// What came of a body, and the room that it holds.
struct Taken<'r> {
    room: &'r Semaphore,
    bytes: Vec<u8>,
    held: Option<SemaphorePermit<'r>>,
}

impl Taken<'_> {
    /// Whether there is room for more, which is taken then. Left to itself the memory would double, whatever is held for it.
    fn add(&mut self, data: &[u8]) -> bool {
        let length = self.bytes.len() + data.len();
        if length > self.bytes.capacity() {
            let free = length <= FREE_BYTES;
            let step = if free { length.next_power_of_two() } else { length.next_multiple_of(STEP_BYTES) };
            let capacity = step.min(BODY_BYTES_MAX);
            let kib = capacity.saturating_sub(FREE_BYTES).div_ceil(1024);
            let held_kib = self.held.as_ref().map_or(0, SemaphorePermit::num_permits);
            let more_kib = u32::try_from(kib.saturating_sub(held_kib)).unwrap_or(u32::MAX);
            let Ok(more) = self.room.try_acquire_many(more_kib) else { return false };
            match &mut self.held {
                None => self.held = Some(more),
                Some(held) => held.merge(more),
            }
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{FutureExt, StreamExt, stream};
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    const CHUNK: usize = 64 * 1024;

    /// So many bytes, in chunks; and then no end.
    fn bytes_of(length: usize, ends: bool) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        let chunks = (0..length).step_by(CHUNK).map(move |at| vec![7; CHUNK.min(length - at)]);
        let frames = stream::iter(chunks.map(|chunk| Ok(Frame::data(Bytes::from(chunk)))));
        let end = stream::pending().take(usize::from(!ends));
        StreamBody::new(frames.chain(end).boxed())
    }

    #[tokio::test]
    async fn who_sends_long_bodies_slowly_keeps_no_short_one_out() {
        let room = Room::new();
        let mut slow: Vec<_> =
            (0..70).map(|_| Box::pin(room.read(bytes_of(BODY_BYTES_MAX, false)))).collect();
        let refused = slow.iter_mut().filter_map(|read| read.as_mut().now_or_never()).count();
        assert_eq!(refused, 70 - 64, "there is room for 64 of the longest");
        assert_eq!(room.read(bytes_of(16 << 10, true)).await.unwrap().len(), 16 << 10);
        let error = room.read(bytes_of(BODY_BYTES_MAX, true)).await.unwrap_err();
        assert_eq!((error.code, error.definite), ("busy", true));
        drop(slow);
        assert_eq!(room.read(bytes_of(BODY_BYTES_MAX, true)).await.unwrap().len(), BODY_BYTES_MAX);
        assert_eq!(room.0.available_permits(), ROOM_KIB);
    }

    #[test]
    fn no_more_memory_is_taken_than_room_is_held_for() {
        let room = Room::new();
        for chunk in [100, 5_000, 16 << 10, 100_000] {
            let mut taken = Taken { room: &room.0, bytes: Vec::new(), held: None };
            while taken.bytes.len() + chunk <= BODY_BYTES_MAX {
                assert!(taken.add(&vec![7; chunk]));
                let held = (ROOM_KIB - room.0.available_permits()) * 1024;
                let (length, capacity) = (taken.bytes.len(), taken.bytes.capacity());
                assert!(capacity <= FREE_BYTES + held, "{capacity} B for {length}, {held} held");
                assert!(held <= length + STEP_BYTES, "{held} B held for {length}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_long_or_too_slow_is_told() {
        let room = Room::new();
        let error = room.read(bytes_of(BODY_BYTES_MAX + 1, true)).await.unwrap_err();
        assert_eq!(error.code, "too_large");
        let error = room.read(bytes_of(1, false)).await.unwrap_err();
        assert_eq!(error.code, "too_slow");
        assert_eq!(room.0.available_permits(), ROOM_KIB);
    }
}
