//! Named alarms in order of time. Each name has at most one.

use std::collections::{BTreeMap, BTreeSet};

use std::time::Duration;

use super::time::Micros;

/// Alarms by name.
#[derive(Debug)]
pub struct Timers<K> {
    by_time: BTreeSet<(Micros, K)>,
    by_key: BTreeMap<K, Micros>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { by_time: BTreeSet::new(), by_key: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Timers<K> {
    /// Sets or moves an alarm.
    pub fn set(&mut self, key: K, at: Micros) {
        if let Some(old) = self.by_key.insert(key, at) {
            if old == at {
                return;
            }
            self.by_time.remove(&(old, key));
        }
        self.by_time.insert((at, key));
    }

    /// Moves an alarm that is set to a later time.
    pub fn postpone(&mut self, key: K, by: Duration) {
        if let Some(at) = self.by_key.get(&key).copied() {
            self.set(key, at + by);
        }
    }

    /// Sets an alarm, or moves it to an earlier time, never to a later one.
    pub fn set_earlier(&mut self, key: K, at: Micros) {
        if self.by_key.get(&key).is_none_or(|old| at < *old) {
            self.set(key, at);
        }
    }

    /// Sets an alarm, unless it is set.
    pub fn set_unless_set(&mut self, key: K, at: Micros) {
        if !self.by_key.contains_key(&key) {
            self.set(key, at);
        }
    }

    /// Forgets an alarm.
    pub fn clear(&mut self, key: K) {
        if let Some(old) = self.by_key.remove(&key) {
            self.by_time.remove(&(old, key));
        }
    }

    /// When the earliest alarm rings; [`Micros::NEVER`] without any.
    #[must_use]
    pub fn next(&self) -> Micros {
        self.by_time.first().map_or(Micros::NEVER, |(at, _)| *at)
    }

    /// Takes the earliest alarm that is due.
    pub fn pop_due(&mut self, now: Micros) -> Option<K> {
        let (at, key) = *self.by_time.first()?;
        if at > now {
            return None;
        }
        self.by_time.pop_first();
        self.by_key.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alarm_per_name_in_order_of_time() {
        let mut timers = Timers::default();
        timers.set('a', Micros(30));
        timers.set('b', Micros(20));
        timers.set('a', Micros(10));
        timers.set_earlier('b', Micros(25));
        assert_eq!(timers.next(), Micros(10));
        assert_eq!(timers.pop_due(Micros(9)), None);
        assert_eq!(timers.pop_due(Micros(20)), Some('a'));
        timers.clear('b');
        assert_eq!(timers.pop_due(Micros(99)), None);
        assert_eq!(timers.next(), Micros::NEVER);
    }
}
