//! One message as its sender holds it: an ordered list of byte segments.
//!
//! Segments are never joined and never copied here. Two messages that hold the same [`Bytes`] share it, and the
//! encoder sees that from the address alone.

use std::fmt;

use bytes::Bytes;

/// The bytes of one message, in order, as a list of segments.
///
/// Cloning copies handles, not bytes. Empty segments are dropped: they carry nothing, and how a message is cut into
/// segments is not part of its value. It is a hint: whoever knows where fields or packets begin and cuts there, by
/// [`Bytes::slice`], which copies nothing, has equal ones found also between others that have grown, where they would be too
/// short to be searched for. A segment costs a handle of 32 bytes and a look. Payloads are equal when their bytes are.
#[derive(Clone, Default)]
pub struct Payload {
    segments: Vec<Bytes>,
    bytes: usize,
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        let (mut one, mut two): (&[u8], &[u8]) = (&[], &[]);
        let (mut segments, mut others) = (self.segments.iter(), other.segments.iter());
        self.bytes == other.bytes
            && loop {
                // No segment is empty, and both have as many bytes.
                if one.is_empty() {
                    let Some(segment) = segments.next() else { break two.is_empty() };
                    one = segment;
                }
                if two.is_empty() {
                    let Some(segment) = others.next() else { break false };
                    two = segment;
                }
                let equal = one.len().min(two.len());
                if one[..equal] != two[..equal] {
                    break false;
                }
                (one, two) = (&one[equal..], &two[equal..]);
            }
    }
}

impl Eq for Payload {}

impl Payload {
    /// Without any bytes, and room for the handles of so many segments.
    #[must_use]
    pub fn with_capacity(segments: usize) -> Self {
        Self { segments: Vec::with_capacity(segments), bytes: 0 }
    }

    /// The segments in order; none is empty.
    #[must_use]
    pub fn segments(&self) -> &[Bytes] {
        &self.segments
    }

    /// Total length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether the message has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends one segment.
    pub fn push(&mut self, segment: Bytes) {
        if !segment.is_empty() {
            // The same memory many times may be more than there are addresses of 32 bits; no limit lets that pass.
            self.bytes = self.bytes.saturating_add(segment.len());
            self.segments.push(segment);
        }
    }

    /// The message in one piece. Copies every byte.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes);
        for segment in &self.segments {
            out.extend_from_slice(segment);
        }
        out
    }
}

impl From<Bytes> for Payload {
    fn from(segment: Bytes) -> Self {
        let mut payload = Self::default();
        payload.push(segment);
        payload
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(Bytes::from(bytes))
    }
}

impl FromIterator<Bytes> for Payload {
    fn from_iter<I: IntoIterator<Item = Bytes>>(segments: I) -> Self {
        let mut payload = Self::default();
        payload.extend(segments);
        payload
    }
}

impl Extend<Bytes> for Payload {
    fn extend<I: IntoIterator<Item = Bytes>>(&mut self, segments: I) {
        for segment in segments {
            self.push(segment);
        }
    }
}

/// Shows sizes only: messages may be secret.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload").field("segments", &self.segments.len()).field("bytes", &self.bytes).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_equal_when_their_bytes_are() {
        let cut =
            |at: &[&str]| at.iter().map(|part| Bytes::from(part.as_bytes().to_vec())).collect::<Payload>();
        let whole = cut(&["abcdef"]);
        for same in [&["abc", "def"][..], &["a", "bcde", "f"], &["", "abcdef", ""]] {
            assert!(cut(same) == whole && whole == cut(same));
            assert_eq!(cut(same), cut(&["ab", "cdef"]));
        }
        for other in [&["abc", "deX"][..], &["abc", "de"], &["Xbcdef"], &["abcdef", "g"], &[]] {
            assert!(cut(other) != whole && whole != cut(other));
            assert!(cut(other) != cut(&["ab", "cdef"]));
        }
    }

    #[test]
    fn empty_segments_leave_no_trace() {
        let payload: Payload =
            [Bytes::new(), Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"c")]
                .into_iter()
                .collect();
        assert_eq!(payload.segments().len(), 2);
        assert_eq!(payload.len(), 3);
        assert_eq!(payload.to_vec(), b"abc");
        assert!(Payload::from(Vec::new()).is_empty());
    }
}
