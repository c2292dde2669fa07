//! A multi-message diff codec: bytes that several messages share are sent once.
//!
//! A consensus leader sends nearly the same message to every follower. This crate turns such messages into one
//! **frame**, in which every run of bytes is carried once together with the set of destinations it belongs to, and
//! turns the frame back into exactly those messages. No IO, no async, no clock, no `unsafe`.
//!
//! A **message** is what one **destination** gets of a frame, and both have the same index; a [`Payload`] is a message as
//! its sender holds it, a list of segments.
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
//! # What is promised
//!
//! The frame's bytes are in [FORMAT.md](crate::format), with what is promised about them and the tests that hold the promises:
//!
//! * exact for every input, and never longer than the messages, their lengths and a few bytes;
//! * linear in the bytes of all messages, whatever they contain;
//! * one spelling per list of records; output is a function of the messages, of how they are cut into segments and which of
//!   these are the same memory, of options and seed, and in a session of what went before;
//! * no panic and no allocation beyond the limits from anything that a peer can send.
//!
//! # Sessions
//!
//! On a connection that keeps frames in order and loses none, a [`SessionEncoder`] at one end and a [`SessionDecoder`]
//! at the other say only what was not said before: fields that have not changed cost next to nothing. A [`Session`] at
//! both ends does so in both directions, and what a peer sent is not sent back to it. Where two tasks encode and parse,
//! or only one end is to name what the other one sent, [`EchoEncoder`] and [`EchoDecoder`] do the same beside an
//! [`EchoWindow`].
//!
//! ```
//! use trunkline_codec::{Limits, Options, Payload, SessionDecoder, SessionEncoder};
//!
//! // Both ends draw the epoch from their handshake, and name the stream that each message belongs to.
//! let epoch = 0x5EED;
//! let streams = [1, 2, 3];
//! let mut encoder = SessionEncoder::new(Options::default(), epoch);
//! let mut decoder = SessionDecoder::new(Limits::default(), epoch);
//!
//! let mut lens = Vec::new();
//! for commit in 1000..1003_u64 {
//!     // A heartbeat per follower: to whom, what is committed, and much that never changes.
//!     let heartbeat = |to: &u32| [&to.to_le_bytes()[..], &commit.to_le_bytes(), &[7; 60]].concat();
//!     let payloads: Vec<Payload> = streams.iter().map(heartbeat).map(Payload::from).collect();
//!     let encoded = encoder.encode(&streams, &payloads)?;
//!     // Frames are sent and parsed in the order of encoding, each of them. The first error is the connection's end.
//!     let frame = decoder.parse(encoded.to_bytes(), &streams)?;
//!     assert!((0..3).all(|index| frame.to_vec(index) == payloads[index].to_vec()));
//!     lens.push(encoded.len());
//! }
//! assert!(lens[1] < 30 && lens[2] < 30, "{lens:?}"); // 3 × 72 bytes in
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What goes around such a frame is the caller's: its length, the numbers of its streams, and the epochs of a
//! connection, which both ends say when it begins. An end that has nothing to send for long sends an empty message when
//! [`Session::ack_due`] or [`EchoWindow::ack_due`] says so, of a stream that is kept for it. [An
//! example](crate::example) does all that over TCP.
//!
//! # Features
//!
//! None is on by default.
//!
//! * `zstd`: [`Stage::Zstd`], which compiles the C library. Without it such frames are refused with
//!   [`EncodeError::StageUnsupported`] and [`DecodeError::Unsupported`]; everything else is the same.
//!
//! # What stays
//!
//! Frames: those of version 1 are read by every later release. How an encoder cuts messages into records, and so the
//! very bytes that it writes, may change with any release; every decoder reads them. The rest is semantic versioning,
//! with these notes. The enums of this crate, [`Stats`] and [`Work`] are `#[non_exhaustive]`: a variant or a figure
//! more breaks nothing. The variants themselves, [`Options`], [`Limits`] and [`Epochs`] are not, and neither their
//! fields nor defaults change but with a breaking release. [`bytes`] 1 is part of the interface, other dependencies are
//! not. A release that needs a later Rust than `rust-version` in `Cargo.toml` is at least a minor one. What is hidden
//! from this documentation is for tests and promised to nobody.
//!
//! # What it does not do
//!
//! Find blocks that changed their order between messages, or long ones of earlier frames. With hundreds of destinations
//! that differ in thousands of places it may reach the receivers' limit of pieces, and then sends the messages as they
//! are.

#![forbid(unsafe_code)]

// The way through the crate. A `Payload` is one message as a list of segments. `Encoder::encode` makes a `draft` of all of
// them: it plans (`plan`) first by the segments' addresses (`identity`; where only some share memory, `copies` of it are
// looked for), then by content against the longest message (`align`, with blocks looked up in `index`). What is common is
// cut into stretches (`sweep`); what is left between them ends up in `columns`. On a connection the first bytes of messages
// (`openings`) are held against earlier ones before that, all together (`steady`, where they are short; `in_step`) or each
// on its own (`past`), and what need not be sent is left out (`records`, `echo`). Records go to a `head` and a `data`
// column, an optional second `Stage` compresses the latter, and the result is an `EncodedFrame`. `Frame::parse` checks
// everything against `Limits` and hands out slices of the buffer it got.

pub use both_ways::{EchoDecoder, EchoEncoder, Session};
pub use decode::{Frame, Pieces, reserialise};
pub use echo::EchoWindow;
pub use encode::{Encoder, Options};
pub use encoded::{EncodedFrame, Stats};
pub use epochs::Epochs;
pub use error::{DecodeError, EncodeError, LimitName};
pub use limits::Limits;
pub use payload::Payload;
#[doc(hidden)]
pub use session::HeadReader;
pub use session::{SessionDecoder, SessionEncoder};
pub use stage::Stage;
pub use work::Work;

/// The example of the crate's README, which is run as a test like the others.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The format of frames: `FORMAT.md`, as it is in the repository.
#[cfg(doc)]
#[doc = include_str!("../FORMAT.md")]
pub mod format {}

/// Sessions on a TCP connection: `examples/connection.rs`, as it is in the repository.
#[cfg(doc)]
#[doc = "```no_run"]
#[doc = include_str!("../examples/connection.rs")]
#[doc = "```"]
pub mod example {}

mod payload;

// Encoding, in the order of travel.
mod encode;

mod draft;

mod plan;

mod texts;

mod identity;

mod copies;

mod align;

mod index;

mod bytes_equal;

mod changes;

mod words;

mod sweep;

mod openings;

mod steady;

mod in_step;

mod past;

mod records;
mod rows;

mod columns;

mod work;

mod encoded;

// What connections remember.

mod epochs;

mod both_ways;

mod session;

mod named;

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

mod layout;

mod echoes;

mod remembered;

mod piece_list;

mod limits;

mod error;
