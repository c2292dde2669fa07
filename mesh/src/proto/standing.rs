//! What is held against a proxy, or against its connection of one lane: it delivered nothing in time, is left alone for that,
//! and gets one message at a time until it delivers.

use std::time::Duration;

use super::time::Micros;
use crate::settings::Settings;

/// The record of a proxy, or of one of its connections.
#[derive(Debug, Default)]
pub struct Standing {
    snoozed_until: Micros,
    /// The next snooze, once one was given.
    snooze: Option<Duration>,
    /// A message tries it, until then at most.
    trial_until: Micros,
    /// When it was found to be late, while it has delivered nothing since.
    late_at: Option<Micros>,
}

impl Standing {
    /// Until when it is left alone, or was the last time.
    #[must_use]
    pub fn snoozed_until(&self) -> Micros {
        self.snoozed_until
    }

    /// Its snooze is over, and it has not delivered since.
    #[must_use]
    pub fn is_on_trial(&self, now: Micros) -> bool {
        self.snooze.is_some() && self.snoozed_until <= now
    }

    /// It is on trial, and a message is on its way to say what became of it.
    #[must_use]
    pub fn is_tried(&self, now: Micros) -> bool {
        self.is_on_trial(now) && self.trial_until > now
    }

    /// A message tries it, if it is on trial.
    pub fn begin_trial(&mut self, until: Micros, now: Micros) {
        if self.is_on_trial(now) {
            self.trial_until = until;
        }
    }

    /// It delivered nothing in time, whatever that is blamed on.
    pub fn find_late(&mut self, now: Micros) {
        self.late_at = Some(now);
        self.trial_until = Micros(0);
    }

    /// It was found to be late within this time, and has delivered nothing since.
    #[must_use]
    pub fn is_late(&self, within: Duration, now: Micros) -> bool {
        self.late_at.is_some_and(|at| now.since(at) <= within)
    }

    /// It delivered nothing in time. False when that is known already: what else was under way then says nothing new.
    pub fn convict(&mut self, settings: &Settings, now: Micros) -> bool {
        if self.snoozed_until > now {
            return false;
        }
        let snooze = self.snooze.unwrap_or(settings.snooze_min);
        self.snoozed_until = now + snooze;
        self.snooze = Some(snooze.saturating_mul(2).min(settings.snooze_max));
        true
    }

    /// It delivers. A late ack ends a snooze: it was slow, not dead.
    pub fn acquit(&mut self) {
        *self = Self::default();
    }

    /// What was said of the proxy was this connection's alone. What tried the proxy does not try it.
    pub fn take_over(&mut self, of_proxy: &Self) {
        if of_proxy.snoozed_until > self.snoozed_until {
            *self = Self { trial_until: Micros(0), ..*of_proxy };
        }
    }

    /// What was said of it is taken back. So long the snooze lasts at most. False when nothing was said, or it was taken back
    /// before.
    pub fn pardon(&mut self, rest: Duration, now: Micros) -> bool {
        if self.snoozed_until <= now {
            return false;
        }
        let until = self.snoozed_until.min(now + rest);
        let changes = self.snooze.take().is_some() || until < self.snoozed_until;
        self.snoozed_until = until;
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snooze_doubles_from_a_second_to_a_minute_and_what_it_delivers_ends_it() {
        let (settings, mut standing, mut now) = (Settings::default(), Standing::default(), Micros(0));
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let until = now + Duration::from_secs(seconds);
            assert!(standing.convict(&settings, now));
            assert_eq!(standing.snoozed_until(), until);
            let last = Micros(until.0 - 1);
            assert!(!standing.convict(&settings, last), "known already");
            assert!(!standing.is_on_trial(last) && standing.is_on_trial(until));
            now = until;
        }
        standing.acquit();
        assert!(!standing.is_on_trial(now));
        assert!(standing.convict(&settings, now) && standing.snoozed_until() == now + Duration::from_secs(1));
    }
}
