//! A multi-message diff codec: bytes that several messages share are sent once.

mod payload;

mod encode;

mod decode;

mod varint;

mod limits;

mod error;

pub use decode::{Frame, Pieces};
pub use encode::{EncodedFrame, Encoder, Options, Stage, Stats};
pub use error::{DecodeError, EncodeError, LimitName};
pub use limits::Limits;
pub use payload::Payload;
