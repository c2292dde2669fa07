//! One file of the log: a header, then records with consecutive indexes.
//!
//! ```text
//!  0  magic         8  "TRUNKLOG"
//!  8  version       2  1; another one is refused
//! 10  header        2  bytes before the first record, a multiple of 8: a header can grow, and older readers skip what they do not know
//! 12  crc           4  CRC-32C of the header with zeros here
//! 16  first index   8
//! 24  salt          8  random: goes into the checksum of every record
//! 32  cluster       1  length of its name, node 1 likewise; then both names, then zeros
//! ```
//!
//! Integers are little-endian. The file is called `segment-` and its first index with 20 digits, so that names sort as
//! indexes do, and `.log`. It is written and synced under another name first: one of this name has a whole header.

use super::entry::INDEX_MAX;
use super::error::StorageError;
use super::record::ALIGN;

const MAGIC: &[u8; 8] = b"TRUNKLOG";
const VERSION: u16 = 1;
const NAMES_AT: usize = 34;
/// The longest file that is read: the longest segment, or one with the longest entry alone.
pub(super) const FILE_BYTES_MAX: u64 = (1 << 30) + 4_096;
/// Two names of 255 bytes, and room to grow.
pub(super) const HEADER_BYTES_MAX: usize = 1_024;

/// Whose log it is. A directory of another node is not touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's name, at most 255 B.
    pub cluster: String,
    /// The node's name, at most 255 B.
    pub node: String,
}

impl Identity {
    pub(super) fn shown(&self) -> String {
        format!("of node {} of cluster {}", self.node, self.cluster)
    }
}

/// What stands before the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) first: u64,
    pub(super) salt: u64,
    pub(super) identity: Identity,
    /// Where the first record begins.
    pub(super) bytes: usize,
}

impl Header {
    pub(super) fn new(first: u64, salt: u64, identity: Identity) -> Self {
        let bytes = (NAMES_AT + identity.cluster.len() + identity.node.len()).next_multiple_of(ALIGN);
        Self { first, salt, identity, bytes }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let length = |name: &str| u8::try_from(name.len()).expect("names have at most 255 bytes");
        let mut out = Vec::with_capacity(self.bytes);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&u16::try_from(self.bytes).expect("a header is short").to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.push(length(&self.identity.cluster));
        out.push(length(&self.identity.node));
        out.extend_from_slice(self.identity.cluster.as_bytes());
        out.extend_from_slice(self.identity.node.as_bytes());
        out.resize(self.bytes, 0);
        let crc = crc_fast::crc32_iscsi(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header of a file that begins with these bytes.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] where it is not what was written, [`StorageError::Foreign`] where a later version wrote it.
    pub(super) fn decode(file: &str, bytes: &[u8]) -> Result<Self, StorageError> {
        let corrupt = |offset, what| StorageError::corrupt(file, offset, what);
        if bytes.len() < NAMES_AT || !bytes.starts_with(MAGIC) {
            return Err(corrupt(0, "it does not begin as a segment does"));
        }
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let version = u16_at(8);
        if version != VERSION {
            return Err(StorageError::other_version(file, version, VERSION));
        }
        let length = usize::from(u16_at(10));
        let names = usize::from(bytes[32]) + usize::from(bytes[33]);
        if length % ALIGN != 0 || length < NAMES_AT + names || length > bytes.len() {
            return Err(corrupt(10, "its header has an impossible length"));
        }
        let mut whole = bytes[..length].to_vec();
        whole[12..16].fill(0);
        if crc_fast::crc32_iscsi(&whole).to_le_bytes() != bytes[12..16] {
            return Err(corrupt(12, "the checksum of its header does not match"));
        }
        let name = |from: usize, length: u8| {
            String::from_utf8(bytes[from..from + usize::from(length)].to_vec())
                .ok()
                .filter(|name| !name.contains(char::is_control))
                .ok_or_else(|| corrupt(NAMES_AT as u64, "a name in its header is no plain text"))
        };
        let cluster = name(NAMES_AT, bytes[32])?;
        let node = name(NAMES_AT + cluster.len(), bytes[33])?;
        Ok(Self { first: u64_at(16), salt: u64_at(24), identity: Identity { cluster, node }, bytes: length })
    }

    /// Is this the log of the node that asks?
    pub(super) fn check_identity(&self, file: &str, wanted: &Identity) -> Result<(), StorageError> {
        if self.identity == *wanted {
            return Ok(());
        }
        Err(StorageError::Foreign {
            file: file.to_owned(),
            found: self.identity.shown(),
            expected: wanted.shown(),
        })
    }
}

/// The name of the segment that begins with this index.
pub(super) fn file_name(first: u64) -> String {
    format!("segment-{first:020}.log")
}

/// The first index of the segment of this name; `None` for any other file.
pub(super) fn first_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("segment-")?.strip_suffix(".log")?;
    let whole = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|first| whole && *first <= INDEX_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header::new(17, 5, Identity { cluster: "example".to_owned(), node: "fra-1".to_owned() })
    }

    #[test]
    fn a_header_is_read_as_it_was_written_and_every_flipped_bit_is_seen() {
        let mut bytes = header().encode();
        assert_eq!(Header::decode("f", &bytes).unwrap(), header());
        bytes.extend_from_slice(&[1; 64]);
        assert_eq!(Header::decode("f", &bytes).unwrap(), header());
        for bit in 0..header().bytes * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode("f", &bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for length in 0..header().bytes {
            assert!(Header::decode("f", &bytes[..length]).is_err(), "{length} B");
        }
    }

    #[test]
    fn names_in_a_header_do_not_steer_the_terminal() {
        let identity = Identity { cluster: "\x1b[31m".to_owned(), node: "fra-1".to_owned() };
        let error = Header::decode("f", &Header::new(0, 5, identity).encode()).unwrap_err();
        assert_eq!(error.to_string(), "f is damaged at byte 34: a name in its header is no plain text");
    }

    #[test]
    fn names_of_segments_go_both_ways_and_nothing_else_passes_for_one() {
        assert_eq!(file_name(17), "segment-00000000000000000017.log");
        for first in [0, 17, INDEX_MAX] {
            assert_eq!(first_of(&file_name(first)), Some(first));
        }
        for other in [
            "segment-17.log",
            "segment-00000000000000000017.log.new",
            "vote",
            "segment-+0000000000000000017.log",
            "segment-18446744073709551615.log",
            "segment-99999999999999999999.log",
        ] {
            assert_eq!(first_of(other), None, "{other}");
        }
    }
}
