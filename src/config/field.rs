//! One value of the file and its place in a struct: how it is written, and from where to where it goes.

use std::time::Duration;

use trunkline_mesh::Stage;

use super::reader::{Entry, Reader};
use super::units::{parse_bytes, parse_duration, show_bytes, show_duration};

/// Where a value goes, and with it how it is written.
pub(super) enum Field<S> {
    /// An integer of bytes, or a text such as `16 MiB`; from 1 to [`BYTES_MAX`].
    Bytes(fn(&mut S) -> &mut usize),
    /// A whole number from the first to the second.
    Count(fn(&mut S) -> &mut usize, usize, usize),
    /// The same of 64 bits.
    Long(fn(&mut S) -> &mut u64, u64, u64),
    /// A whole number from 1 to the given one.
    Rate(fn(&mut S) -> &mut u32, u32),
    /// A text such as `500 ms`; from the first to the second.
    Time(fn(&mut S) -> &mut Duration, Duration, Duration),
    /// One of [`STAGES`].
    Stage(fn(&mut S) -> &mut Stage),
    /// `true` or `false`.
    Switch(fn(&mut S) -> &mut bool),
    /// As [`Field::Bytes`], or 0. The struct's own rules say which are legal.
    Buffer(fn(&mut S) -> &mut usize),
    /// A text, which may be empty. The struct's own rules say which are legal.
    Name(fn(&mut S) -> &mut String),
}

pub(super) const BYTES_MAX: u64 = 1 << 40;
pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);

pub(super) const STAGES: [(&str, Stage); 3] =
    [("none", Stage::None), ("lz4", Stage::Lz4), ("zstd", Stage::Zstd)];

// Not derived: that would ask it of the struct.
impl<S> Clone for Field<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Field<S> {}

/// How the file says a stage.
pub(super) fn stage_name(stage: Stage) -> &'static str {
    STAGES.into_iter().find(|(_, of)| *of == stage).map_or("unknown", |(name, _)| name)
}

impl<S> Field<S> {
    /// A value as people write it.
    pub(super) fn show(self, settings: &mut S) -> String {
        match self {
            Self::Bytes(place) | Self::Buffer(place) => {
                show_bytes(u64::try_from(*place(settings)).unwrap_or(u64::MAX))
            }
            Self::Count(place, ..) => place(settings).to_string(),
            Self::Long(place, ..) => place(settings).to_string(),
            Self::Rate(place, _) => place(settings).to_string(),
            Self::Time(place, ..) => show_duration(*place(settings)),
            Self::Stage(place) => stage_name(*place(settings)).to_owned(),
            Self::Switch(place) => place(settings).to_string(),
            Self::Name(place) => format!("{:?}", place(settings)),
        }
    }

    /// Checks a value and puts it in its place; `None` after reporting.
    pub(super) fn read(self, reader: &mut Reader<'_>, entry: &Entry<'_>, settings: &mut S) -> Option<()> {
        match self {
            Self::Bytes(place) => {
                let bytes = bytes(reader, entry)?;
                let bytes = usize::try_from(bytes).ok().filter(|_| (1..=BYTES_MAX).contains(&bytes));
                let remedy = || format!("use at least 1 B and at most {}", show_bytes(BYTES_MAX));
                *place(settings) = or_report(reader, entry, bytes, remedy)?;
            }
            Self::Count(place, min, max) => {
                let count = integer(reader, entry, "an integer such as 1024")?;
                let count = usize::try_from(count).ok().filter(|count| (min..=max).contains(count));
                *place(settings) =
                    or_report(reader, entry, count, || format!("use at least {min} and at most {max}"))?;
            }
            Self::Long(place, min, max) => {
                let count = integer(reader, entry, "an integer such as 100000")?;
                let count = Some(count).filter(|count| (min..=max).contains(count));
                *place(settings) =
                    or_report(reader, entry, count, || format!("use at least {min} and at most {max}"))?;
            }
            Self::Rate(place, max) => {
                let rate = integer(reader, entry, "an integer such as 200")?;
                let rate = u32::try_from(rate).ok().filter(|rate| (1..=max).contains(rate));
                *place(settings) =
                    or_report(reader, entry, rate, || format!("use at least 1 and at most {max}"))?;
            }
            Self::Time(place, min, max) => {
                let Some(text) = entry.value.and_then(|value| value.as_str()) else {
                    reader.wrong_type(entry, "a text with a unit such as \"500 ms\"");
                    return None;
                };
                let time = match parse_duration(text) {
                    Ok(time) => Some(time).filter(|time| (min..=max).contains(time)),
                    Err(error) => {
                        reader.report_error(entry, &error.to_string());
                        return None;
                    }
                };
                let remedy =
                    || format!("use at least {} and at most {}", show_duration(min), show_duration(max));
                *place(settings) = or_report(reader, entry, time, remedy)?;
            }
            Self::Stage(place) => {
                let Some(text) = entry.value.and_then(|value| value.as_str()) else {
                    reader.wrong_type(entry, "a text such as \"lz4\"");
                    return None;
                };
                let stage = STAGES.into_iter().find(|(name, _)| *name == text).map(|(_, stage)| stage);
                if stage.is_none() {
                    reader.report(entry, "unknown second stage", "use \"none\", \"lz4\" or \"zstd\"");
                }
                *place(settings) = stage?;
            }
            Self::Switch(place) => {
                let Some(on) = entry.value.and_then(|value| value.as_bool()) else {
                    reader.wrong_type(entry, "true or false");
                    return None;
                };
                *place(settings) = on;
            }
            Self::Buffer(place) => {
                *place(settings) = usize::try_from(bytes(reader, entry)?).unwrap_or(usize::MAX);
            }
            Self::Name(place) => {
                let Some(text) = entry.value.and_then(|value| value.as_str()) else {
                    reader.wrong_type(entry, "a text such as \"bbr\"");
                    return None;
                };
                *place(settings) = text.to_owned();
            }
        }
        Some(())
    }
}

fn or_report<T>(
    reader: &mut Reader<'_>,
    entry: &Entry<'_>,
    value: Option<T>,
    remedy: impl Fn() -> String,
) -> Option<T> {
    if value.is_none() {
        reader.report(entry, "out of range", &remedy());
    }
    value
}

fn bytes(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<u64> {
    let Some(text) = entry.value.and_then(|value| value.as_str()) else {
        return integer(reader, entry, "bytes as an integer, or a text with a unit such as \"16 MiB\"");
    };
    match parse_bytes(text) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            reader.report_error(entry, &error.to_string());
            None
        }
    }
}

/// Negative and overlong integers become one that is in no range.
fn integer(reader: &mut Reader<'_>, entry: &Entry<'_>, expected: &str) -> Option<u64> {
    let Some(integer) = entry.value.and_then(|value| value.as_integer()) else {
        reader.wrong_type(entry, expected);
        return None;
    };
    Some(u64::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(u64::MAX))
}
