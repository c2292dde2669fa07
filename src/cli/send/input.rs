//! The input, cut into messages and groups of them, without ever holding more than a group.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::super::failure::Failure;
use super::Group;
use crate::config::units::show_bytes;

/// How messages are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Lines,
    LengthDelimited,
}

/// How large a message, and a group of them, may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct GroupLimits {
    pub(super) message_bytes_max: usize,
    pub(super) bytes_max: usize,
    pub(super) messages_max: usize,
}

/// An open input.
pub(super) struct Input {
    name: String,
    from: BufReader<Box<dyn Read + Send>>,
    framing: Framing,
    limits: GroupLimits,
    /// Messages read so far.
    count: u64,
}

/// Why the input was not read to its end. What came before is sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    #[error("cannot read {name}: {source}")]
    Read { name: String, source: io::Error },
    #[error(
        "{name}: line {number} is over the limit of {} (message_bytes_max): nothing from there on was sent",
        show_bytes(*max)
    )]
    LongLine { name: String, number: u64, max: u64 },
    #[error(
        "{name}: frame {number} has {bytes} bytes, over the limit of {} (message_bytes_max): nothing from there on \
         was sent{}",
        show_bytes(*max),
        hint(*text)
    )]
    LongFrame { name: String, number: u64, bytes: u64, max: u64, text: bool },
    #[error("{name}: the input ends within frame {number}: nothing of that frame was sent{}", hint(*text))]
    Cut { name: String, number: u64, text: bool },
}

impl InputError {
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::Read { .. } => Failure::Io(self.to_string()),
            _ => Failure::Failed(self.to_string()),
        }
    }
}

/// What to do if frames were asked for and lines came.
fn hint(text: bool) -> &'static str {
    if text { ". The input looks like text: leave --length-delimited off to send its lines" } else { "" }
}

/// What should be the length of the first frame reads as text. Lengths begin with a zero up to 16 MiB, so none does.
fn is_text(number: u64, head: &[u8]) -> bool {
    // The last letter may be cut.
    let letters = std::str::from_utf8(head).map_or_else(|error| error.error_len().is_none(), |_| true);
    let control = |byte: &u8| byte.is_ascii_control() && !byte.is_ascii_whitespace();
    number == 1 && letters && !head.iter().any(control)
}

/// Bytes read at once. What one read brings in is what travels together.
const BUFFER_BYTES: usize = 64 * 1024;

impl Input {
    /// Opens a file, or standard input for `-`.
    pub(super) fn open(path: &Path, framing: Framing, limits: GroupLimits) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self::new("standard input".to_owned(), Box::new(io::stdin()), framing, limits));
        }
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Ok(Self::new(name, Box::new(file), framing, limits)),
            Err(error) => Err(Failure::Io(format!("cannot open {name}: {error}"))),
        }
    }

    fn new(name: String, from: Box<dyn Read + Send>, framing: Framing, limits: GroupLimits) -> Self {
        Self { name, from: BufReader::with_capacity(BUFFER_BYTES, from), framing, limits, count: 0 }
    }

    /// Reads to the end or the first error, as fast as groups are taken. Blocks.
    pub(super) fn read_all(mut self, groups: &mpsc::Sender<Result<Group, InputError>>) {
        loop {
            let mut group = Vec::new();
            let ended = self.group(&mut group);
            // What came before an error is sent all the same.
            if !group.is_empty() && groups.blocking_send(Ok(Arc::from(group))).is_err() {
                return;
            }
            match ended {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    let _ = groups.blocking_send(Err(error));
                    return;
                }
            }
        }
    }

    /// One group: at least one message, and what can be had without waiting. False at the end.
    fn group(&mut self, group: &mut Vec<Bytes>) -> Result<bool, InputError> {
        let mut bytes = 0;
        loop {
            let message = match self.framing {
                Framing::Lines => self.line()?,
                Framing::LengthDelimited => self.frame()?,
            };
            let Some(message) = message else { return Ok(false) };
            self.count += 1;
            bytes += message.len();
            group.push(message);
            if bytes >= self.limits.bytes_max
                || group.len() >= self.limits.messages_max
                || !self.another_is_here()
            {
                return Ok(true);
            }
        }
    }

    /// A whole message lies in the buffer.
    fn another_is_here(&self) -> bool {
        let buffer = self.from.buffer();
        match self.framing {
            Framing::Lines => buffer.contains(&b'\n'),
            Framing::LengthDelimited => buffer.split_first_chunk().is_some_and(|(head, rest)| {
                usize::try_from(u32::from_be_bytes(*head)).is_ok_and(|bytes| bytes <= rest.len())
            }),
        }
    }

    /// The next line without its end. The last one may have none.
    fn line(&mut self) -> Result<Option<Bytes>, InputError> {
        let mut line = Vec::new();
        loop {
            let available = match self.from.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(InputError::Read { name: self.name.clone(), source }),
            };
            if available.is_empty() {
                return Ok(if line.is_empty() { None } else { Some(line.into()) });
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let part = &available[..end.unwrap_or(available.len())];
            if line.len() + part.len() > self.limits.message_bytes_max {
                let max = self.limits.message_bytes_max as u64;
                return Err(InputError::LongLine { name: self.name.clone(), number: self.count + 1, max });
            }
            line.extend_from_slice(part);
            let used = part.len() + usize::from(end.is_some());
            self.from.consume(used);
            if end.is_some() {
                return Ok(Some(line.into()));
            }
        }
    }

    fn frame(&mut self) -> Result<Option<Bytes>, InputError> {
        let number = self.count + 1;
        let mut head = [0; 4];
        let filled = self.fill(&mut head)?;
        let text = is_text(number, &head[..filled]);
        match filled {
            0 => return Ok(None),
            4 => {}
            _ => return Err(InputError::Cut { name: self.name.clone(), number, text }),
        }
        let bytes = u32::from_be_bytes(head);
        let allowed = usize::try_from(bytes).ok().filter(|bytes| *bytes <= self.limits.message_bytes_max);
        let Some(length) = allowed else {
            let max = self.limits.message_bytes_max as u64;
            return Err(InputError::LongFrame {
                name: self.name.clone(),
                number,
                bytes: bytes.into(),
                max,
                text,
            });
        };
        let mut frame = vec![0; length];
        if self.fill(&mut frame)? < length {
            return Err(InputError::Cut { name: self.name.clone(), number, text });
        }
        Ok(Some(frame.into()))
    }

    /// Fills a buffer as far as the input reaches, and says how far that was.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, InputError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.from.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(InputError::Read { name: self.name.clone(), source }),
            }
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: GroupLimits = GroupLimits { message_bytes_max: 8, bytes_max: 16, messages_max: 3 };

    fn read(framing: Framing, bytes: &[u8]) -> (Vec<Vec<Vec<u8>>>, Option<String>) {
        let input = Input::new("it".to_owned(), Box::new(io::Cursor::new(bytes.to_vec())), framing, LIMITS);
        let (sender, mut receiver) = mpsc::channel(1024);
        input.read_all(&sender);
        let mut groups = Vec::new();
        while let Ok(group) = receiver.try_recv() {
            match group {
                Ok(group) => groups.push(group.iter().map(|message| message.to_vec()).collect()),
                Err(error) => return (groups, Some(error.to_string())),
            }
        }
        (groups, None)
    }

    #[test]
    fn lines_are_messages_in_groups() {
        let (groups, error) = read(Framing::Lines, b"a\n\nbb\nccc\nlast");
        assert_eq!(
            groups,
            [
                vec![b"a".to_vec(), b"".to_vec(), b"bb".to_vec()],
                vec![b"ccc".to_vec()],
                vec![b"last".to_vec()]
            ]
        );
        assert_eq!(error, None);
        assert_eq!(read(Framing::Lines, b"").0.len(), 0);
        // The line feed alone ends a line.
        assert_eq!(read(Framing::Lines, b"a\r\n").0, [[b"a\r"]]);
    }

    #[test]
    fn a_long_line_is_named_and_what_came_before_is_sent() {
        let (groups, error) = read(Framing::Lines, b"12345678\n123456789\nx\n");
        assert_eq!(groups, [[b"12345678"]]);
        assert!(error.unwrap().starts_with("it: line 2 is over the limit of 8 B"));
    }

    #[test]
    fn frames_are_messages_and_are_checked() {
        let frame = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
        let two = [frame(b"a\nb"), frame(b"")].concat();
        assert_eq!(read(Framing::LengthDelimited, &two).0, [[b"a\nb".to_vec(), b"".to_vec()]]);
        for cut in 1..two.len() {
            let (groups, error) = read(Framing::LengthDelimited, &two[..cut]);
            let whole = cut == 7;
            assert_eq!(groups.len(), usize::from(cut >= 7), "{cut}");
            assert_eq!(error.is_none(), whole, "{cut}: {error:?}");
        }
        let (_, error) = read(Framing::LengthDelimited, &[1; 9]);
        assert!(error.unwrap().ends_with("nothing from there on was sent"));
        for (bytes, text) in [
            (&b"a line\n"[..], true),
            (b"a\n", true),
            ("aüß\r\n".as_bytes(), true),
            ("größe".as_bytes(), true),
            (&[0xff; 9], false),
            (&[0, 0], false),
            (&[0, 0, 0, 0xc3], false),
            (&[0, 0, 0, 8, b'a'], false),
            (&[0, 0, 0, 1, b'a', b'l', b'i', b'n', b'e'], false),
        ] {
            let (_, error) = read(Framing::LengthDelimited, bytes);
            let hint = "The input looks like text: leave --length-delimited off to send its lines";
            assert_eq!(error.unwrap().contains(hint), text, "{bytes:?}");
        }
        let (_, error) = read(Framing::LengthDelimited, &[0xff; 9]);
        assert!(error.unwrap().starts_with("it: frame 1 has 4294967295 bytes, over the limit of 8 B"));
    }
}
