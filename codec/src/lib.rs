//! A multi-message diff codec: bytes that several messages share are sent once.
//!
//! A consensus leader sends nearly the same message to every follower. This crate turns such messages into one
//! **frame**, in which every run of bytes is carried once together with the set of destinations it belongs to, and
//! turns the frame back into exactly those messages. No IO, no async, no clock, no `unsafe`.
//!
//! ```
//! use bytes::Bytes;
//! use trunkline_codec::{Encoder, Frame, Limits, Options, Payload, Stage};
//!
//! // Three followers get the same entry behind a header of their own.
//! let entry = Bytes::from(vec![42; 1024]);
//! let payloads: Vec<Payload> = (1..=3u8)
//!     .map(|to| [Bytes::from(vec![to, 7, 7]), entry.clone()].into_iter().collect())
//!     .collect();
//!
//! let mut encoder = Encoder::new(Options { stage: Stage::Lz4, ..Options::default() });
//! let encoded = encoder.encode(&payloads)?;
//! assert!(encoded.len() < 100); // 3 × 1,027 bytes in
//!
//! // `encoded.slices()` goes into a vectored write; the other side has received its bytes:
//! let frame = Frame::parse(encoded.to_bytes(), &Limits::default())?;
//! assert_eq!(frame.message_count(), 3);
//! for (index, payload) in payloads.iter().enumerate() {
//!     assert_eq!(frame.to_vec(index), payload.to_vec());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The way through the crate
//!
//! A [`Payload`] is one message as a list of segments. [`Encoder::encode`] plans all of them (`plan`): first by the
//! segments' addresses (`identity`), then by content against the longest message (`align`, with blocks looked up in
//! `index`). What is common is cut into stretches (`sweep`); what is left between them ends up in `columns`. Records go
//! to a `head` and a `data` column, an optional second [`Stage`] compresses the latter, and the result is an
//! [`EncodedFrame`]. [`Frame::parse`] checks everything against [`Limits`] and hands out slices of the buffer it got.
//!
//! The frame's bytes are in `FORMAT.md`, with what is promised about them and the tests that hold the promises:
//!
//! * exact for every input, and never longer than the messages, their lengths and a few bytes;
//! * linear in the bytes of all messages, whatever they contain;
//! * one spelling per list of records; output is a function of input, options and seed;
//! * no panic and no allocation beyond the limits from anything that a peer can send.
//!
//! On a connection that keeps frames in order, a [`Session`] (or its halves, [`SessionEncoder`] and [`SessionDecoder`])
//! sends only what was not said before: fields that have not changed cost next to nothing, and what a peer sent is not
//! sent back to it.
//!
//! What it does not do: find blocks that changed their order between messages, or long ones of earlier frames. With
//! hundreds of destinations that differ in thousands of places it may reach the receivers' limit of pieces, and
//! then sends the messages as they are.

pub use decode::{Frame, Pieces, reserialise};
pub use encode::{EncodedFrame, Encoder, Options, Stats};
pub use error::{DecodeError, EncodeError, LimitName};
pub use limits::Limits;
pub use payload::Payload;
pub use session::{Session, SessionDecoder, SessionEncoder};
pub use stage::Stage;
pub use work::Work;

mod payload;

// Encoding, in the order of travel.
mod encode;

mod draft;

mod plan;

mod texts;

mod identity;

mod align;

mod index;

mod bytes_equal;

mod sweep;

mod openings;

mod in_step;

mod past;

mod records;

mod columns;

mod work;

// What connections remember.

mod session;

mod streams;

mod echo;

// Where encoder and decoder meet.
mod head;

mod data;

mod set_table;

mod destination_set;

#[doc(hidden)]
pub mod varint;

#[doc(hidden)]
pub mod checksum;

mod wire;

mod stage;

#[cfg(feature = "zstd")]
mod zstd;

// Decoding.
mod decode;

mod limits;

mod error;
