//! What comes back: bytes that the other end of a connection sent itself, such as a proposal that returns in an entry, are
//! named and not sent again.
//!
//! The codec recognises such bytes by where they lie in memory. Nobody who takes a message has to keep it where it came: an
//! entry outlives the frame that brought it, must not keep that frame alive, and gets a stamp in front. So they are looked for
//! by content: see [`super::tails`].

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use trunkline_codec::{
    DecodeError, EchoDecoder, EchoEncoder, EchoWindow, EncodeError, EncodedFrame, Epochs, Frame, Payload,
};

use super::tails::Tails;
use super::wire::Run;

/// The echo of one bulk connection: its reader and its writer share it.
#[derive(Clone)]
pub struct SharedEcho(Arc<Mutex<Echo>>);

struct Echo {
    window: EchoWindow,
    tails: Tails,
}

impl SharedEcho {
    /// Of a connection that begins. Who dialled it sends back what the other end sent, and names it.
    #[must_use]
    pub fn new(dialled: bool, epochs: Epochs) -> Self {
        let window = if dialled { EchoWindow::of_received(epochs) } else { EchoWindow::of_sent(epochs) };
        Self(Arc::new(Mutex::new(Echo { window, tails: Tails::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, Echo> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next codec frame.
    ///
    /// # Errors
    /// Those of the codec.
    pub fn encode(
        &self,
        encoder: &mut EchoEncoder,
        rows: &[u32],
        payloads: &[Payload],
    ) -> Result<EncodedFrame, EncodeError> {
        let mut echo = self.lock();
        let found = echo.tails.find_all(payloads);
        encoder.encode(&mut echo.window, rows, found.as_deref().unwrap_or(payloads))
    }

    /// The messages of the next codec frame, one for each run.
    ///
    /// # Errors
    /// Those of the codec.
    pub fn parse(
        &self,
        decoder: &mut EchoDecoder,
        bytes: Bytes,
        rows: &[u32],
        runs: &[Run],
    ) -> Result<Frame, DecodeError> {
        let mut echo = self.lock();
        let frame_bytes = bytes.len();
        let frame = decoder.parse(&mut echo.window, bytes, rows)?;
        if echo.window.refers() && !frame.is_unremembered() {
            echo.tails.enter(&frame, frame_bytes, runs);
        }
        Ok(frame)
    }

    /// This end names what the other one sent.
    #[must_use]
    pub fn refers(&self) -> bool {
        self.lock().window.refers()
    }

    /// So much has come that the other end has to be told.
    #[must_use]
    pub fn ack_due(&self) -> bool {
        self.lock().window.ack_due()
    }
}

/// Shows sizes only: messages may be secret.
impl fmt::Debug for SharedEcho {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let echo = self.lock();
        f.debug_struct("SharedEcho").field("window", &echo.window).field("tails", &echo.tails.len()).finish()
    }
}
