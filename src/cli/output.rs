//! What a member receives, written to a file or standard output as plain lines or JSON lines.

use std::borrow::Cow;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use trunkline_mesh::{Delivery, Inbox};

use super::failure::Failure;

/// Bytes written at once while more is waiting.
const BURST_BYTES_MAX: usize = 1024 * 1024;

/// How a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// The payload and a newline
    Plain,
    /// A JSON object per line, with origin, lane and seq; payloads that are no UTF-8 in base64
    Json,
}

/// Where messages go.
pub(super) struct Output {
    name: String,
    format: Format,
    to: Box<dyn Write + Send>,
}

/// A message as a JSON line.
#[derive(Serialize)]
struct Line<'a> {
    origin: &'a str,
    incarnation: u64,
    lane: String,
    seq: u64,
    kind: u8,
    bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

impl Output {
    /// Opens a file, to be appended to, or standard output for `-`.
    pub(super) fn open(path: &Path, format: Format) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self { name: "standard output".to_owned(), format, to: Box::new(io::stdout()) });
        }
        let name = path.display().to_string();
        match OpenOptions::new().create(true).append(true).open(path) {
            Ok(file) => Ok(Self { name, format, to: Box::new(file) }),
            Err(error) => Err(Failure::Io(format!("cannot open {name} for writing: {error}"))),
        }
    }

    /// Writes everything that arrives until the node is closed. What waits together is written together, then flushed.
    pub(super) async fn write_all(mut self, mut inbox: Inbox) -> Result<(), Failure> {
        let mut burst = Vec::new();
        while let Some(delivery) = inbox.recv().await {
            let mut messages = 1_u64;
            self.format.append(&mut burst, &delivery);
            while burst.len() < BURST_BYTES_MAX
                && let Some(delivery) = inbox.try_recv()
            {
                messages += 1;
                self.format.append(&mut burst, &delivery);
            }
            let to = &mut self.to;
            let written = tokio::task::block_in_place(|| to.write_all(&burst).and_then(|()| to.flush()));
            written.map_err(|error| {
                let what = format!("cannot write to {}: {error}", self.name);
                Failure::Io(format!("{what}: up to {}", Failure::messages(messages, "taken and not written")))
            })?;
            burst.clear();
            burst.shrink_to(BURST_BYTES_MAX);
        }
        Ok(())
    }
}

impl Format {
    fn append(self, burst: &mut Vec<u8>, delivery: &Delivery) {
        let segments = delivery.payload.segments();
        if self == Self::Plain {
            for segment in segments {
                burst.extend_from_slice(segment);
            }
            burst.push(b'\n');
            return;
        }
        let payload: Cow<'_, [u8]> = match segments {
            [segment] => Cow::Borrowed(segment),
            segments => Cow::Owned(segments.concat()),
        };
        let text = std::str::from_utf8(&payload).ok();
        let line = Line {
            origin: delivery.origin.as_str(),
            incarnation: delivery.origin_incarnation.0,
            lane: delivery.lane.to_string(),
            seq: delivery.seq.0,
            kind: delivery.kind,
            bytes: payload.len(),
            payload: text,
            payload_base64: text.is_none().then(|| base64(&payload)),
        };
        serde_json::to_writer(&mut *burst, &line)
            .expect("texts and numbers are always JSON, and a Vec takes them all");
        burst.push(b'\n');
    }
}

/// RFC 4648, section 4, with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| usize::from(chunk.get(at).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let shown = char::from(ALPHABET[group >> (18 - 6 * digit) & 63]);
            text.push(if digit <= chunk.len() { shown } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use trunkline_mesh::{Incarnation, Lane, NodeId, Payload, Seq};

    #[test]
    fn base64_has_the_vectors_of_rfc_4648() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in vectors {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe]), "//4=");
    }

    #[test]
    fn messages_are_lines() {
        let delivery = |segments: &[&'static [u8]]| Delivery {
            origin: NodeId::new("us-leader").unwrap(),
            origin_incarnation: Incarnation(5),
            lane: Lane::Bulk,
            seq: Seq(9),
            kind: 3,
            payload: segments.iter().map(|segment| bytes::Bytes::from_static(segment)).collect::<Payload>(),
        };
        let line = |format: Format, segments: &[&'static [u8]]| {
            let mut burst = Vec::new();
            format.append(&mut burst, &delivery(segments));
            String::from_utf8(burst).unwrap()
        };
        assert_eq!(line(Format::Plain, &[b"a\"", b"b"]), "a\"b\n");
        assert_eq!(line(Format::Plain, &[]), "\n");
        assert_eq!(
            line(Format::Json, &[b"a\"", b"b"]),
            "{\"origin\":\"us-leader\",\"incarnation\":5,\"lane\":\"bulk\",\"seq\":9,\"kind\":3,\"bytes\":3,\
             \"payload\":\"a\\\"b\"}\n"
        );
        assert!(line(Format::Json, &[&[0xff]]).ends_with("\"bytes\":1,\"payload_base64\":\"/w==\"}\n"));
    }
}
