//! The head of a frame, read: everything that a frame says, but for its data.
//!
//! Every limit is checked while the head is read, before anything that grows with the announced numbers is allocated.

use std::ops::Range;

use crate::checksum;
use crate::destination_set::{DestinationSet, NARROW_MAX, WORDS_MAX};
use crate::echo::Sent;
use crate::error::{DecodeError, LimitName};
use crate::head::{HeadWriter, Source};
use crate::limits::{DESTINATIONS_MAX, Limits};
use crate::set_table::SetTable;
use crate::stage::Stage;
use crate::varint::{self, Reader};
use crate::wire;

/// Records of a frame, and parts of each of its messages, for which a reader makes room from the beginning.
const USUAL_RECORDS: usize = 16;
pub(crate) const USUAL_PIECES: usize = 4;
/// ... and parts of all messages together, where these are few.
const USUAL_MEMBERS: usize = 32;
/// Longer lists are given back, 40 KiB, 8 KiB and 6 KiB: one large frame must not make a connection expensive for ever.
const KEPT_RECORDS_MAX: usize = 1 << 10;
const KEPT_MEMBERS_MAX: usize = 1 << 12;
const KEPT_EXTENTS_MAX: usize = 1 << 8;

/// One record of a head, its members kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Bytes per member.
    pub(crate) len: usize,
    /// Number of members.
    pub(crate) members: usize,
    /// Where they come from.
    pub(crate) source: Source,
    /// Where the record begins in the frame.
    pub(crate) offset: usize,
}

impl Record {
    /// Bytes of the data column that the record takes.
    pub(crate) fn data_bytes(&self) -> usize {
        match self.source {
            Source::Shared => self.len,
            Source::Each => self.len.saturating_mul(self.members),
            Source::Past(_) | Source::Echo(_) => 0,
        }
    }
}

/// How much of a message the records make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Bytes of the message.
    pub(crate) len: usize,
    /// Pieces that they make of it, before neighbours become one, but for what is `remembered`: that is one.
    pub(crate) pieces: usize,
    /// Bytes up to the end of the last part that its stream remembers; 0 without any.
    pub(crate) remembered: usize,
}

/// Lists that a reader of many frames need not allocate for each.
#[derive(Debug, Default)]
pub(crate) struct Room {
    records: Vec<Record>,
    members: Vec<u16>,
    extents: Vec<Extent>,
}

impl Room {
    /// No memory yet.
    pub(crate) const EMPTY: Self = Self { records: Vec::new(), members: Vec::new(), extents: Vec::new() };
}

/// What the checksum of a connection's frame goes on from.
#[derive(Clone, Copy)]
pub(crate) struct Begins<'a> {
    /// The checksum of the frame before, with that of the numbers of this one's streams.
    pub(crate) before: u32,
    /// How many these are.
    pub(crate) streams: usize,
    /// What this end sent, if it keeps that: a frame that says what of it has arrived goes on from the checksum of the frame with
    /// which it did as well.
    pub(crate) sent: Option<&'a Sent>,
}

impl Begins<'_> {
    /// The same as one number, for a frame of which nothing else is known. For tests.
    pub(crate) fn of(&self, frame: &[u8]) -> Result<u32, DecodeError> {
        let mut reader = Reader::new(frame, 0, frame.len());
        let flags = read_flags(&mut reader, true)?;
        self.resolve(flags, reader)
    }

    /// The same as one number, for the frame that `reader` has read the flags of.
    fn resolve(&self, flags: u8, mut reader: Reader<'_>) -> Result<u32, DecodeError> {
        if flags & wire::FLAG_ECHO == 0 {
            return Ok(self.before);
        }
        let Some(sent) = self.sent else {
            return Err(DecodeError::NOTHING_SENT);
        };
        reader.varint()?;
        let offset = reader.at();
        let announced = reader.varint()?;
        let unknown = sent.unknown();
        let checksum =
            sent.checksum_at(announced).ok_or(DecodeError::Arrived { offset, announced, unknown })?;
        Ok(self.before ^ checksum)
    }
}

/// A frame without its data: everything that the head and what precedes it say, checked.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// The flags as carried.
    pub(crate) flags: u8,
    /// Bytes that arrived of what the receiver sent, since a frame said so last.
    pub(crate) arrived: usize,
    /// Where the frame says so, if it does.
    pub(crate) arrived_offset: usize,
    /// What its checksum goes on from; 0 where it is of no connection.
    begins: u32,
    /// The checksum, as carried and computed.
    pub(crate) checksum: u32,
    /// The records in order. A concatenation has one per message that is not empty.
    pub(crate) records: Vec<Record>,
    /// The members of all records, one record after the other.
    pub(crate) members: Vec<u16>,
    /// What they make of every message.
    pub(crate) extents: Vec<Extent>,
    /// Length of the data column before the second stage.
    pub(crate) data_bytes: usize,
    /// Where the data column lies in the frame.
    pub(crate) data: Range<usize>,
}

/// Sums of one head against the reader's limits.
struct Tally<'a> {
    limits: &'a Limits,
    output_bytes: usize,
    data_bytes: usize,
    pieces: usize,
    records: usize,
}

impl Tally<'_> {
    /// Adds one record. Nothing is allocated here, and nothing may be before this has agreed.
    fn add(&mut self, record: &Record, offset: usize) -> Result<(), DecodeError> {
        let refuse = |limit, maximum, needed| Err(DecodeError::Limit { offset, limit, maximum, needed });
        let limits = self.limits;
        self.records += 1;
        if self.records > limits.records {
            return refuse(LimitName::Records, limits.records, self.records);
        }
        self.pieces += record.members;
        if self.pieces > limits.pieces {
            return refuse(LimitName::Pieces, limits.pieces, self.pieces);
        }
        if record.len > limits.message_bytes {
            return refuse(LimitName::MessageBytes, limits.message_bytes, record.len);
        }
        self.output_bytes = self.output_bytes.saturating_add(record.len.saturating_mul(record.members));
        if self.output_bytes > limits.output_bytes {
            return refuse(LimitName::OutputBytes, limits.output_bytes, self.output_bytes);
        }
        self.data_bytes = self.data_bytes.saturating_add(record.data_bytes());
        if self.data_bytes > limits.data_bytes {
            return refuse(LimitName::DataBytes, limits.data_bytes, self.data_bytes);
        }
        Ok(())
    }
}

impl Layout {
    /// Of no frame yet.
    pub(crate) fn new(room: Room) -> Self {
        let Room { records, members, extents } = room;
        Self {
            flags: 0,
            arrived: 0,
            arrived_offset: 0,
            begins: 0,
            checksum: 0,
            records,
            members,
            extents,
            data_bytes: 0,
            data: 0..0,
        }
    }

    /// Reads and checks everything of `frame` but the data, and whether what it refers to is remembered. `begins` is there if it
    /// is one of a connection's. In place: moving what was read takes longer than reading two records.
    pub(crate) fn read(
        &mut self,
        frame: &[u8],
        limits: &Limits,
        begins: Option<Begins<'_>>,
    ) -> Result<(), DecodeError> {
        let mut reader = Reader::new(frame, 0, frame.len());
        let flags = read_flags(&mut reader, begins.is_some())?;
        let streams = begins.map(|begins| begins.streams);
        let begins = begins.map_or(Ok(0), |begins| begins.resolve(flags, reader.clone()))?;
        let (checksum, end) = read_checksum(frame, &reader, begins, streams)?;
        if flags & wire::FLAG_ZSTD != 0 && !Stage::Zstd.available() {
            return Err(DecodeError::Unsupported {
                offset: 2,
                what: "the cargo feature `zstd`, for its second stage",
            });
        }
        let mut reader = Reader::new(frame, reader.at(), end);
        let count = read_count(&mut reader, limits)?;
        (self.flags, self.begins, self.checksum) = (flags, begins, checksum);
        self.arrived_offset = reader.at();
        self.arrived = if flags & wire::FLAG_ECHO == 0 { 0 } else { reader.varint()? };
        self.records.clear();
        self.members.clear();
        self.extents.clear();
        // Room for what most frames have; no more than the frame's own bytes can fill.
        self.records.reserve(USUAL_RECORDS.min(reader.remaining()));
        self.members.reserve((count * USUAL_PIECES).max(USUAL_MEMBERS));
        self.extents.reserve_exact(count);
        self.extents.resize(count, Extent::default());
        let mut tally = Tally { limits, output_bytes: 0, data_bytes: 0, pieces: 0, records: 0 };
        let head_end = if flags & wire::FLAG_CONCAT != 0 {
            self.read_lengths(&mut reader, &mut tally)?;
            reader.at()
        } else {
            let head_bytes = reader.varint()?;
            if head_bytes > reader.remaining() {
                return Err(DecodeError::Truncated { offset: end, what: "the head" });
            }
            let head_end = reader.at() + head_bytes;
            let mut head = Reader::new(frame, reader.at(), head_end);
            if count <= NARROW_MAX {
                self.read_records::<1>(&mut head, &mut tally)?;
            } else {
                self.read_records::<WORDS_MAX>(&mut head, &mut tally)?;
            }
            head_end
        };
        self.data_bytes = tally.data_bytes;
        self.data = head_end..end;
        self.check_data()
    }

    /// The head of a concatenation: a record for every message that is not empty.
    fn read_lengths(&mut self, reader: &mut Reader<'_>, tally: &mut Tally<'_>) -> Result<(), DecodeError> {
        for index in 0..self.count() {
            let offset = reader.at();
            let len = reader.varint()?;
            if len > 0 {
                let record = Record { len, members: 1, source: Source::Shared, offset };
                tally.add(&record, offset)?;
                self.push(record, std::iter::once(index), tally.limits, offset)?;
            }
        }
        Ok(())
    }

    fn read_records<const W: usize>(
        &mut self,
        head: &mut Reader<'_>,
        tally: &mut Tally<'_>,
    ) -> Result<(), DecodeError> {
        let limits = tally.limits;
        let mut table = SetTable::<W>::new(self.count());
        let mut last_back = None;
        while head.remaining() > 0 {
            let offset = head.at();
            let prefix = self.read_prefix(head)?;
            let set = table.read(head, limits.set_bytes)?;
            let at = head.at();
            let len = head.varint()?;
            if len == 0 {
                return Err(DecodeError::Length { offset: at, rule: "a record has at least one byte" });
            }
            let source = match prefix {
                None => Source::Shared,
                Some(wire::PAST) => {
                    let back = head.varint()?;
                    if last_back.replace(back) == Some(back) {
                        return Err(DecodeError::NotCanonical { offset, rule: "the back of the last PAST" });
                    }
                    Source::Past(back)
                }
                Some(wire::AGAIN) => {
                    let rule = "AGAIN needs a PAST before it";
                    Source::Past(last_back.ok_or(DecodeError::Reference { offset, rule })?)
                }
                Some(wire::ECHO) => Source::Echo(head.varint()?),
                Some(_) => Source::Each,
            };
            let record = Record { len, members: set.count(), source, offset };
            if source == Source::Each && record.members == 1 {
                return Err(DecodeError::NotCanonical { offset, rule: "one destination needs no EACH" });
            }
            if let Source::Echo(distance) = source
                && len > distance
            {
                let rule = "an ECHO may be no longer than its distance";
                return Err(DecodeError::Reference { offset, rule });
            }
            tally.add(&record, offset)?;
            self.push(record, set.iter(), limits, offset)?;
        }
        Ok(())
    }

    /// What the next record begins with before its set, if that can be read here.
    fn read_prefix(&self, head: &mut Reader<'_>) -> Result<Option<u8>, DecodeError> {
        let offset = head.at();
        match head.peek() {
            Some(wire::XOR) => {
                Err(DecodeError::Unsupported { offset, what: "differences to earlier messages" })
            }
            Some(code @ (wire::PAST | wire::AGAIN)) if self.flags & wire::FLAG_HISTORY == 0 => {
                Err(DecodeError::Record { offset, code })
            }
            Some(code @ wire::ECHO) if self.flags & wire::FLAG_ECHO == 0 => {
                Err(DecodeError::Record { offset, code })
            }
            Some(wire::EACH | wire::PAST | wire::AGAIN | wire::ECHO) => Ok(Some(head.byte()?)),
            _ => Ok(None),
        }
    }

    fn push(
        &mut self,
        record: Record,
        members: impl Iterator<Item = usize>,
        limits: &Limits,
        offset: usize,
    ) -> Result<(), DecodeError> {
        let past = matches!(record.source, Source::Past(_));
        for index in members {
            let extent = &mut self.extents[index];
            if record.len > limits.message_bytes - extent.len {
                let (maximum, needed) = (limits.message_bytes, extent.len.saturating_add(record.len));
                return Err(DecodeError::Limit { offset, limit: LimitName::MessageBytes, maximum, needed });
            }
            extent.len += record.len;
            // Pieces are limited by the tally.
            extent.pieces += 1;
            if past {
                // Nothing else is remembered. These bytes will be copied, and those before them.
                if extent.len > wire::OPENING_BYTES {
                    let rule = "PAST has to stay within a message's first 256 bytes";
                    return Err(DecodeError::Reference { offset, rule });
                }
                extent.remembered = extent.len;
                extent.pieces = 1;
            }
            self.members.push(u16::try_from(index).expect("destinations are below 1,024"));
        }
        self.records.push(record);
        Ok(())
    }

    fn check_data(&self) -> Result<(), DecodeError> {
        let echoes = |record: &Record| matches!(record.source, Source::Echo(_));
        if self.flags & wire::FLAG_ECHO != 0 && self.arrived == 0 && !self.records.iter().any(echoes) {
            let rule = "where nothing has arrived and nothing is referred to, it is not said";
            return Err(DecodeError::NotCanonical { offset: self.arrived_offset, rule });
        }
        let carried = self.data.len();
        if self.flags & wire::FLAGS_STAGE == 0 {
            return match self.data_bytes {
                needed if needed > carried => {
                    Err(DecodeError::Truncated { offset: self.data.end, what: "the data column" })
                }
                needed if needed < carried => Err(DecodeError::Trailing { offset: self.data.start + needed }),
                _ => Ok(()),
            };
        }
        if carried >= self.data_bytes {
            let rule = "a second stage that saves nothing is left out";
            return Err(DecodeError::NotCanonical { offset: self.data.start, rule });
        }
        let expansion_max = match self.flags & wire::FLAG_LZ4 {
            0 => wire::ZSTD_EXPANSION_MAX,
            _ => wire::LZ4_EXPANSION_MAX,
        };
        if self.data_bytes / expansion_max > carried {
            let (offset, announced) = (self.data.start, self.data_bytes);
            return Err(DecodeError::Stage { offset, carried, announced });
        }
        Ok(())
    }

    /// The lists, to be used again, unless an unusual frame has made them large.
    pub(crate) fn into_room(self) -> Room {
        let Self { records, members, mut extents, .. } = self;
        let usual = records.capacity() <= KEPT_RECORDS_MAX && members.capacity() <= KEPT_MEMBERS_MAX;
        if extents.capacity() > KEPT_EXTENTS_MAX {
            extents = Vec::new();
        }
        if usual { Room { records, members, extents } } else { Room { extents, ..Room::default() } }
    }

    /// Number of destinations.
    pub(crate) fn count(&self) -> usize {
        self.extents.len()
    }

    /// Writes the frame that these records and `data` have, without a second stage.
    pub(crate) fn write(&self, data: &[u8]) -> Vec<u8> {
        let mut out = vec![wire::MAGIC, wire::VERSION, self.flags & !wire::FLAGS_STAGE];
        varint::put(&mut out, self.count());
        if self.flags & wire::FLAG_ECHO != 0 {
            varint::put(&mut out, self.arrived);
        }
        if self.flags & wire::FLAG_CONCAT != 0 {
            for extent in &self.extents {
                varint::put(&mut out, extent.len);
            }
        } else {
            let mut head = HeadWriter::<WORDS_MAX>::new();
            head.reset(self.count());
            let mut members = self.members.iter();
            for record in &self.records {
                let mut set = DestinationSet::EMPTY;
                for &index in members.by_ref().take(record.members) {
                    set.insert(usize::from(index));
                }
                head.put_from(&set, record.len, record.source);
            }
            varint::put(&mut out, head.bytes().len());
            out.extend_from_slice(head.bytes());
        }
        out.extend_from_slice(data);
        let crc = checksum::append(self.begins, &out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }
}

/// The bytes that every frame begins with. `connection` says whether the frame is to be one of a connection's.
fn read_flags(reader: &mut Reader<'_>, connection: bool) -> Result<u8, DecodeError> {
    let bytes = reader.remaining();
    let short = || DecodeError::Truncated { offset: bytes, what: "the frame" };
    // What is no frame at all is not said to be a short one.
    let found = reader.byte().map_err(|_| short())?;
    if found != wire::MAGIC {
        return Err(DecodeError::Magic { found });
    }
    let found = reader.byte().map_err(|_| short())?;
    if found != wire::VERSION {
        return Err(DecodeError::Version { found });
    }
    if bytes < wire::FIRST_BYTES {
        return Err(short());
    }
    let flags = reader.byte()?;
    if flags & !wire::FLAGS_KNOWN != 0
        || flags & wire::FLAGS_STAGE == wire::FLAGS_STAGE
        || flags & (wire::FLAG_ECHO | wire::FLAG_HISTORY) == wire::FLAG_ECHO
    {
        return Err(DecodeError::Flags { found: flags });
    }
    match (connection, flags & wire::FLAG_HISTORY != 0) {
        (true, false) => Err(DecodeError::NoHistory { found: flags }),
        (false, true) => Err(DecodeError::Unsupported {
            offset: 2,
            what: "the connection's history, which its SessionDecoder, EchoDecoder or Session has",
        }),
        _ => Ok(flags),
    }
}

/// The checksum of `frame`, of which `reader` has read the beginning, and where it lies.
fn read_checksum(
    frame: &[u8],
    reader: &Reader<'_>,
    begins: u32,
    streams: Option<usize>,
) -> Result<(u32, usize), DecodeError> {
    if reader.remaining() < wire::CRC_BYTES {
        return Err(DecodeError::Truncated { offset: frame.len(), what: "the frame" });
    }
    let end = frame.len() - wire::CRC_BYTES;
    let carried = u32::from_le_bytes([frame[end], frame[end + 1], frame[end + 2], frame[end + 3]]);
    let computed = checksum::append(begins, &frame[..end]);
    match streams {
        _ if carried == computed => Ok((carried, end)),
        Some(streams) => Err(DecodeError::History { computed, carried, offset: end, streams }),
        None => Err(DecodeError::Checksum { computed, carried, offset: end }),
    }
}

/// The number of destinations.
fn read_count(reader: &mut Reader<'_>, limits: &Limits) -> Result<usize, DecodeError> {
    let offset = reader.at();
    let count = reader.varint()?;
    if count == 0 {
        return Err(DecodeError::Length { offset, rule: "a frame has at least one destination" });
    }
    let maximum = limits.destinations.min(DESTINATIONS_MAX);
    if count > maximum {
        return Err(DecodeError::Limit { offset, limit: LimitName::Destinations, maximum, needed: count });
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_read_and_written() {
        let head = [0x00, 12, 0x42, 1, 0xD0, 0x82, 2];
        let mut frame = vec![wire::MAGIC, wire::VERSION, wire::FLAG_NOREF, 3, 7];
        frame.extend_from_slice(&head);
        frame.extend_from_slice(&[b'x'; 17]);
        let crc = checksum::crc32c(&frame);
        frame.extend_from_slice(&crc.to_le_bytes());
        let mut layout = Layout::new(Room::default());
        layout.read(&frame, &Limits::default(), None).unwrap();
        let record = |len, members, source, offset| Record { len, members, source, offset };
        let (shared, each) = (Source::Shared, Source::Each);
        assert_eq!(
            layout.records,
            [record(12, 3, shared, 5), record(1, 1, shared, 7), record(2, 2, each, 9)]
        );
        assert_eq!(layout.members, [0, 1, 2, 2, 0, 1]);
        let extent = |len| Extent { len, pieces: 2, remembered: 0 };
        assert_eq!(layout.extents, [extent(14), extent(14), extent(13)]);
        assert_eq!((layout.data_bytes, layout.data.clone()), (17, 12..29));
        assert_eq!(layout.write(&[b'x'; 17]), frame);
    }
}
