//! Names and numbers that identify things. Newtypes, so that a node is never mistaken for a datacenter.

mod spiffe;
mod text;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use spiffe::{SpiffeError, SpiffeId};
#[cfg(test)]
pub(crate) use text::COMPARED;
use text::Text;

/// Longest name, in bytes: the length of a DNS label, so that a name can be a host name.
pub const NAME_BYTES_MAX: usize = 63;

/// A name that breaks the rule `[a-z0-9-]{1,63}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a {what}: use 1 to 63 of the characters a-z, 0-9 and `-`")]
pub struct NameError {
    /// Which kind of name was expected.
    pub what: &'static str,
    /// The offending text, escaped and cut to 64 characters.
    pub value: String,
}

fn checked_name(what: &'static str, value: &str) -> Result<Text, NameError> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !value.is_empty() && value.len() <= NAME_BYTES_MAX && value.bytes().all(legal) {
        Ok(Text::from(value))
    } else {
        Err(NameError { what, value: value.chars().take(64).flat_map(char::escape_default).collect() })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Text);

        impl $name {
            /// Checks the text.
            ///
            /// # Errors
            /// [`NameError`] unless the text is 1 to 63 of `a-z`, `0-9` and `-`.
            pub fn new(value: &str) -> Result<Self, NameError> {
                checked_name($what, value).map(Self)
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(value: String) -> Result<Self, NameError> {
                Self::new(&value)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(value: &str) -> Result<Self, NameError> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A Trunkline process: `[a-z0-9-]{1,63}`, unique in its cluster.
    NodeId,
    "node id"
);
name!(
    /// A datacenter: `[a-z0-9-]{1,63}`.
    Datacenter,
    "datacenter name"
);
name!(
    /// A cluster: `[a-z0-9-]{1,63}`. Nodes of different clusters refuse each other.
    ClusterId,
    "cluster id"
);

/// Changes at every start of a node, upwards. Taken from the wall clock in µs; a node that is told of a higher one of
/// its own adopts one above that, so a clock that stepped back locks nobody out. Zero means *not known*.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// Not known yet.
    pub const UNKNOWN: Self = Self(0);

    /// The one after.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// False for [`Incarnation::UNKNOWN`].
    #[must_use]
    pub fn is_known(self) -> bool {
        self.0 != 0
    }
}

/// Place of a message in its (origin, destination, lane). Starts at 1 and never repeats within an origin's incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Seq(pub u64);

impl Seq {
    /// The first one ever used.
    pub const FIRST: Self = Self(1);

    /// The one after.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lane: two connections per link, so that nothing urgent waits behind data. Order is kept within a lane, not across.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Lane {
    /// Heartbeats, votes, small urgent messages; acks and pings travel here too.
    Control,
    /// Everything else.
    #[default]
    Bulk,
}

impl Lane {
    /// Both, in wire order.
    pub const ALL: [Self; 2] = [Self::Control, Self::Bulk];

    /// 0 for control, 1 for bulk: the byte on the wire and the index into per-lane arrays.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Control => 0,
            Self::Bulk => 1,
        }
    }

    /// Its name, for logs and status.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Bulk => "bulk",
        }
    }

    /// The inverse of [`Lane::index`].
    #[must_use]
    pub fn from_index(index: u8) -> Option<Self> {
        Self::ALL.get(usize::from(index)).copied()
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seq_is_shown_as_its_number() {
        assert_eq!(format!("{}, {:>3}", Seq::FIRST, Seq(7)), "1,   7");
    }

    #[test]
    fn names_are_dns_labels() {
        assert!(NodeId::new("eu-m1").is_ok());
        assert!(NodeId::new(&"a".repeat(63)).is_ok());
        for bad in ["", "EU", "a.b", "../x", "a\0b", "é", &"a".repeat(64)] {
            let error = NodeId::new(bad).unwrap_err();
            assert!(error.to_string().contains("node id"), "{error}");
            assert!(!error.to_string().contains('\0'), "escaped");
        }
    }
}
