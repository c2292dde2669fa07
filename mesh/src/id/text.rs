//! What a name holds. All comparisons of names are here, so that a test can count them: whatever looks for one among many
//! compares, and how that grows is said without a clock.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// The text of a name.
#[derive(Clone)]
pub(super) struct Text(Arc<str>);

impl From<&str> for Text {
    fn from(value: &str) -> Self {
        Self(value.into())
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Eq for Text {}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        note_comparison();
        self.0 == other.0
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        note_comparison();
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

#[cfg(test)]
thread_local! {
    /// Comparisons of two names by this thread.
    pub(crate) static COMPARED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// For tests that count; nothing where there are none.
fn note_comparison() {
    #[cfg(test)]
    COMPARED.set(COMPARED.get() + 1);
}
