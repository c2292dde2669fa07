//! A multi-message diff codec: bytes that several messages share are sent once.

pub use decode::{Frame, Pieces, reserialise};
pub use encode::{EncodedFrame, Encoder, Options, Stats};
pub use error::{DecodeError, EncodeError, LimitName};
pub use limits::Limits;
pub use payload::Payload;
pub use stage::Stage;

mod payload;

// Encoding, in the order of travel.
mod encode;

mod plan;

mod texts;

mod identity;

mod align;

mod index;

mod bytes_equal;

mod sweep;

mod columns;

// Where encoder and decoder meet.
mod head;

mod data;

mod set_table;

mod destination_set;

mod varint;

mod wire;

mod stage;

// Decoding.
mod decode;

mod limits;

mod error;
