//! What clients did, and whether it could have been done one after the other, each while its client waited for it.
//!
//! Checking that is hard in general. Here every change has an index, of the entry that made it, and every read says the index of the
//! change it saw: so the order of all that was done with a key is known, and all that is left to look at is whether it
//! contradicts the order of the clock. That takes sorting, and one pass.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Who waits for ever: an operation without an answer.
pub const NEVER: u64 = u64::MAX;

/// One operation of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Of what.
    pub key: String,
    /// When, µs of a clock that all clients share.
    pub called: u64,
    /// When its answer came, µs; [`NEVER`] where none came.
    pub answered: u64,
    /// What came of it.
    pub what: What,
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A value was put.
    Put {
        /// The value.
        value: Bytes,
        /// Whatever was there before, or only if the entry of this index changed it last; 0: it was not there.
        if_index: Option<u64>,
        /// Of the entry that put it.
        index: u64,
    },
    /// It was not put.
    Conflict {
        /// What should have changed it last.
        if_index: u64,
        /// What had; 0: it was not there.
        mod_index: u64,
    },
    /// It was read.
    Read {
        /// What was there.
        value: Option<Bytes>,
        /// What had changed it last; 0: it was not there.
        mod_index: u64,
    },
}

impl What {
    /// After which change it was; a change is after itself.
    fn index(&self) -> u64 {
        match self {
            Self::Put { index, .. } => *index,
            Self::Conflict { mod_index, .. } | Self::Read { mod_index, .. } => *mod_index,
        }
    }

    fn changes(&self) -> bool {
        matches!(self, Self::Put { .. })
    }
}

/// Looks for an order in which all of it could have been done, one after the other. Sorting, and one pass.
///
/// # Errors
///
/// What contradicts that.
pub fn check(history: &[Done]) -> Result<(), String> {
    let mut keys: BTreeMap<&str, Vec<&Done>> = BTreeMap::new();
    for done in history {
        keys.entry(&done.key).or_default().push(done);
    }
    keys.into_values().try_for_each(check_key)
}

fn check_key(mut of_key: Vec<&Done>) -> Result<(), String> {
    // A change, then what saw it.
    of_key.sort_by_key(|done| (done.what.index(), !done.what.changes(), done.called));
    let mut value: Option<&Bytes> = None;
    let mut last = 0;
    // Of all that comes before, the one that was called last; apart for what saw the present change, which may be in any order.
    let mut before: Option<&Done> = None;
    let mut seeing: Option<&Done> = None;
    let later = |one: Option<&'_ Done>, other: Option<&'_ Done>| match (one, other) {
        (Some(one), Some(other)) => one.called < other.called,
        (one, _) => one.is_none(),
    };
    for done in of_key {
        let index = done.what.index();
        if let What::Put { value: new, if_index, .. } = &done.what {
            if index == last {
                return Err(format!("two changes have one index: {done:?}"));
            }
            if if_index.is_some_and(|if_index| if_index != last) {
                return Err(format!("it was put after {last}: {done:?}"));
            }
            if later(before, seeing) {
                before = seeing;
            }
            (value, last, seeing) = (Some(new), index, None);
        } else if index != last {
            return Err(format!("it was seen after {last}, and no change has its index: {done:?}"));
        }
        match &done.what {
            What::Put { .. } => {}
            What::Conflict { if_index, mod_index } if if_index == mod_index => {
                return Err(format!("it was refused without a reason: {done:?}"));
            }
            What::Conflict { .. } => {}
            What::Read { value: read, .. } if read.as_ref() != value => {
                return Err(format!("there was {value:?}: {done:?}"));
            }
            What::Read { .. } => {}
        }
        if let Some(before) = before.filter(|before| before.called > done.answered) {
            return Err(format!("{done:?} was over before {before:?} began, and comes after it"));
        }
        let latest = if done.what.changes() { &mut before } else { &mut seeing };
        if later(*latest, Some(done)) {
            *latest = Some(done);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(called: u64, answered: u64, what: What) -> Done {
        Done { key: "key".to_owned(), called, answered, what }
    }

    fn put(value: &'static str, index: u64) -> What {
        What::Put { value: Bytes::from_static(value.as_bytes()), if_index: None, index }
    }

    fn put_after(if_index: u64, index: u64) -> What {
        What::Put { value: Bytes::from_static(b"x"), if_index: Some(if_index), index }
    }

    fn read(value: &'static str, mod_index: u64) -> What {
        let value = (mod_index > 0).then(|| Bytes::from_static(value.as_bytes()));
        What::Read { value, mod_index }
    }

    #[test]
    fn what_can_be_put_in_order_is_taken() {
        let conflict = What::Conflict { if_index: 7, mod_index: 5 };
        for history in [
            vec![],
            vec![done(0, 9, read("", 0)), done(1, 2, put("a", 5)), done(3, 4, read("a", 5))],
            // While a change is under way some see it and some do not.
            vec![done(0, 9, put("a", 5)), done(1, 2, read("", 0)), done(3, 4, read("a", 5))],
            // Two at once, in either order.
            vec![done(0, 9, put("a", 6)), done(0, 9, put("b", 5)), done(10, 11, read("a", 6))],
            // Nobody knows what became of it, and then it is there.
            vec![done(0, NEVER, put("a", 5)), done(5, 6, read("", 0)), done(7, 8, read("a", 5))],
            vec![done(0, 1, put("a", 5)), done(2, 3, conflict), done(4, 5, put_after(5, 8))],
        ] {
            assert_eq!(check(&history), Ok(()), "{history:?}");
        }
    }

    #[test]
    fn what_cannot_is_refused() {
        let conflict = |if_index, mod_index| What::Conflict { if_index, mod_index };
        for history in [
            // Stale.
            vec![done(0, 1, put("a", 5)), done(2, 3, read("", 0))],
            vec![done(0, 1, put("a", 5)), done(0, 1, put("b", 6)), done(2, 3, read("a", 5))],
            // Back in time, while the change is under way.
            vec![done(0, 9, put("a", 5)), done(1, 2, read("a", 5)), done(3, 4, read("", 0))],
            // From the future.
            vec![done(0, 1, read("a", 5)), done(2, 3, put("a", 5))],
            // Nobody put it.
            vec![done(0, 1, read("a", 5))],
            vec![done(0, 1, put("a", 5)), done(2, 3, read("b", 5))],
            vec![done(0, 1, put("a", 5)), done(2, 3, put("b", 5))],
            // Order of the indexes against the order of the clock.
            vec![done(0, 1, put("a", 6)), done(2, 3, put("b", 5))],
            // Conditions that did not hold, and refusals although they did.
            vec![done(0, 1, put("a", 5)), done(2, 3, put("b", 6)), done(4, 5, put_after(5, 7))],
            vec![done(0, 1, put("a", 5)), done(2, 3, conflict(5, 5))],
            vec![done(0, 1, put("a", 5)), done(2, 3, conflict(5, 0))],
        ] {
            assert!(check(&history).is_err(), "{history:?}");
        }
    }

    /// Every order is tried.
    fn check_by_force(left: &[&Done], (value, index): (Option<&Bytes>, u64)) -> bool {
        let first_answer = left.iter().map(|done| done.answered).min().unwrap_or(NEVER);
        left.is_empty()
            || left.iter().enumerate().any(|(at, next)| {
                let state = match &next.what {
                    What::Put { value, if_index, index: new }
                        if *new > index && if_index.is_none_or(|if_index| if_index == index) =>
                    {
                        (Some(value), *new)
                    }
                    What::Conflict { if_index, mod_index }
                        if mod_index != if_index && *mod_index == index =>
                    {
                        (value, index)
                    }
                    What::Read { value: read, mod_index }
                        if *mod_index == index && read.as_ref() == value =>
                    {
                        (value, index)
                    }
                    _ => return false,
                };
                let rest: Vec<_> = left[..at].iter().chain(&left[at + 1..]).copied().collect();
                next.called <= first_answer && check_by_force(&rest, state)
            })
    }

    #[test]
    fn it_says_what_trying_every_order_says() {
        let mut luck = fastrand::Rng::with_seed(1);
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let puts = luck.u64(0..4);
            let history: Vec<_> = (1..=puts + luck.u64(0..4))
                .map(|index| {
                    let called = luck.u64(0..12);
                    let answered = if luck.u8(0..8) == 0 { NEVER } else { called + luck.u64(0..8) };
                    let seen = luck.u64(0..=puts);
                    let what = match luck.u8(0..4) {
                        _ if index <= puts => put("v", index),
                        0 => What::Conflict { if_index: 9, mod_index: seen },
                        _ => read("v", seen),
                    };
                    done(called, answered, what)
                })
                .collect();
            let by_force = check_by_force(&history.iter().collect::<Vec<_>>(), (None, 0));
            assert_eq!(check(&history).is_ok(), by_force, "{history:?}: {:?}", check(&history));
            if by_force { taken += 1 } else { refused += 1 }
        }
        assert!(taken > 2_000 && refused > 2_000, "{taken} were taken, {refused} refused");
    }

    #[test]
    fn ten_thousand_operations_are_checked_and_one_stale_read_among_them_is_found() {
        let mut luck = fastrand::Rng::with_seed(1);
        let (mut history, mut state) = (Vec::new(), BTreeMap::new());
        for index in 1..=10_000 {
            let key = format!("key {}", luck.u8(0..8));
            let at = index * 10;
            let (called, answered) = (at - luck.u64(0..10), at + luck.u64(0..200));
            let value = Bytes::from(index.to_string());
            let what = if luck.bool() {
                state.insert(key.clone(), (index, value.clone()));
                What::Put { value, if_index: None, index }
            } else {
                let seen = state.get(&key).cloned();
                What::Read {
                    mod_index: seen.as_ref().map_or(0, |(index, _)| *index),
                    value: seen.map(|(_, value)| value),
                }
            };
            history.push(Done { key, called, answered, what });
        }
        luck.shuffle(&mut history);
        assert_eq!(check(&history), Ok(()));
        history.push(done(1_000_000, 1_000_001, read("", 0)));
        history.last_mut().unwrap().key = "key 3".to_owned();
        assert!(check(&history).is_err());
    }
}
