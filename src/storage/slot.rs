//! A small value in a file of its own, replaced as a whole: after a crash it is the old one or the new one.
//!
//! ```text
//!  0  magic    8  "TRUNKVAL"
//!  8  version  2  1; another one is refused
//! 10  zeros    2
//! 12  crc      4  CRC-32C of the file with zeros here
//! 16  length   4  of the value, B, at most 65,536
//! 20  zeros    4
//! 24  value
//! ```

use bytes::Bytes;

use super::disk::{Disk, DiskFile};
use super::error::StorageError;

const MAGIC: &[u8; 8] = b"TRUNKVAL";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 24;
/// The longest value, B.
pub const SLOT_BYTES_MAX: usize = 64 * 1_024;
/// What is written under this ending is renamed when it is whole.
pub(super) const UNFINISHED: &str = ".new";

/// The value of a slot; `None` where nothing was ever saved.
///
/// # Errors
///
/// [`StorageError::Corrupt`] where the file is not what was saved, [`StorageError::Foreign`] where a later version saved it,
/// and whatever the disk says.
pub(super) fn load<D: Disk>(disk: &D, name: &str, names: &[String]) -> Result<Option<Bytes>, StorageError> {
    if !names.iter().any(|there| there == name) {
        return Ok(None);
    }
    let file = disk.open(name).map_err(StorageError::io("open", name))?;
    let length = file.bytes().map_err(StorageError::io("read", name))?;
    let corrupt = |offset, what| StorageError::corrupt(name, offset, what);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if !(HEAD_BYTES..=HEAD_BYTES + SLOT_BYTES_MAX).contains(&length) {
        return Err(corrupt(0, "it has an impossible length"));
    }
    let mut bytes = vec![0; length];
    file.read_at(0, &mut bytes).map_err(StorageError::io("read", name))?;
    if !bytes.starts_with(MAGIC) {
        return Err(corrupt(0, "it does not begin as a saved value does"));
    }
    let version = u16::from_le_bytes([bytes[8], bytes[9]]);
    if version != VERSION {
        return Err(StorageError::other_version(name, version, VERSION));
    }
    let crc = [bytes[12], bytes[13], bytes[14], bytes[15]];
    bytes[12..16].fill(0);
    if crc_fast::crc32_iscsi(&bytes).to_le_bytes() != crc {
        return Err(corrupt(12, "its checksum does not match"));
    }
    let value = u32::from_le_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]);
    if value as usize != length - HEAD_BYTES {
        return Err(corrupt(16, "it does not have the length it states"));
    }
    Ok(Some(Bytes::from(bytes).slice(HEAD_BYTES..)))
}

/// Puts a value in the place of the one before; durable when this returns.
///
/// # Errors
///
/// Whatever the disk says; the value is then the one before, or this one.
///
/// # Panics
///
/// With more than [`SLOT_BYTES_MAX`] bytes.
pub(super) fn save<D: Disk>(disk: &D, name: &str, value: &[u8]) -> Result<(), StorageError> {
    assert!(value.len() <= SLOT_BYTES_MAX, "a value of {} B is too long for a slot", value.len());
    let mut bytes = Vec::with_capacity(HEAD_BYTES + value.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.resize(16, 0);
    bytes.extend_from_slice(&u32::try_from(value.len()).expect("it is short").to_le_bytes());
    bytes.resize(HEAD_BYTES, 0);
    bytes.extend_from_slice(value);
    let crc = crc_fast::crc32_iscsi(&bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    replace(disk, name, &bytes).map(drop)
}

/// Writes a file under another name, syncs it, and gives it its own: it is never seen half-written.
pub(super) fn replace<D: Disk>(disk: &D, name: &str, bytes: &[u8]) -> Result<D::File, StorageError> {
    let unfinished = format!("{name}{UNFINISHED}");
    let file = disk.create(&unfinished).map_err(StorageError::io("create", &unfinished))?;
    file.write_at(0, bytes).map_err(StorageError::io("write", &unfinished))?;
    file.sync().map_err(StorageError::io("sync", &unfinished))?;
    disk.rename(&unfinished, name).map_err(StorageError::io("rename", &unfinished))?;
    disk.sync().map_err(StorageError::io("sync the directory of", name))?;
    Ok(file)
}
