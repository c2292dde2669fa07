//! What the writers of connections are at. A kernel that takes nothing of a frame for too long says that its connection stands
//! still, though nobody has closed it: what waits behind it takes another way, on that lane, until it goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use super::links::LinkId;
use super::rtt::Rtt;
use super::time::Micros;
use crate::id::Lane;
use crate::settings::Settings;

/// The writer of one connection.
#[derive(Debug, Default)]
struct Writer {
    /// It has something that its kernel has not taken.
    busy: bool,
    /// When it began, or its kernel last took some of it.
    moved_at: Micros,
    /// Its kernel had no room for all of it at once.
    blocked: bool,
    /// How long a kernel that is full takes to have room again: what it waits for drains.
    pauses: Rtt,
    /// This process was late when its time was over, and it has a second one.
    graced: bool,
    still: bool,
}

/// The writers of a sender's connections.
#[derive(Debug, Default)]
pub struct Writers {
    writers: BTreeMap<(LinkId, Lane), Writer>,
}

/// How long nothing may move on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StillLimits {
    /// Of one whose kernel was never full.
    pub unknown: Duration,
    /// At least, of one that is known to have room again sooner or later.
    pub known: Duration,
    /// At most.
    pub most: Duration,
}

/// How long nothing may move on a connection before it is taken to stand still, or nothing be answered before it is silent: this,
/// or two round trips and a half. A kernel that is full has room again a round trip later; on a new connection, whose window
/// grows, after two. A silent death is to cost 300 ms, or three round trips.
const STILL_MIN: Duration = Duration::from_millis(250);

/// The same of a connection that is known to take less: this, or a round trip and a half. What was under way before it died is
/// acknowledged for one more.
const STILL_MIN_KNOWN: Duration = Duration::from_millis(150);

impl StillLimits {
    /// As the pings of a connection say.
    #[must_use]
    pub fn of(pings: &Rtt, settings: &Settings) -> Self {
        let halves = |count: u64| Duration::from_micros(pings.smoothed_us().saturating_mul(count) / 2);
        let (unknown, known) = (halves(5).max(STILL_MIN), halves(3).max(STILL_MIN_KNOWN));
        Self { unknown, known, most: settings.attempt_timeout_max }
    }
}

/// What became of a writer whose time is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// It has nothing to write.
    Idle,
    /// Its time is over then, if nothing moves.
    Until(Micros),
    /// Its connection stands still, and has not until now.
    Still,
    /// It did so before.
    StillAsBefore,
}

impl Writers {
    /// It was given something.
    pub fn began(&mut self, conn: (LinkId, Lane), now: Micros) {
        let writer = self.writers.entry(conn).or_default();
        (writer.busy, writer.moved_at, writer.graced) = (true, now, false);
    }

    /// Its kernel took some of it, and has no room for the rest.
    pub fn moved(&mut self, conn: (LinkId, Lane), now: Micros) {
        let Some(writer) = self.writers.get_mut(&conn).filter(|writer| writer.busy) else { return };
        if writer.blocked {
            writer.pauses.sample(now.since(writer.moved_at), now);
        }
        (writer.moved_at, writer.blocked, writer.graced) = (now, true, false);
    }

    /// Its kernel took the last of it. True if it stood still: it is as good as any other again.
    pub fn ended(&mut self, conn: (LinkId, Lane), now: Micros) -> bool {
        let Some(writer) = self.writers.get_mut(&conn) else { return false };
        if writer.blocked {
            writer.pauses.sample(now.since(writer.moved_at), now);
        }
        (writer.busy, writer.blocked) = (false, false);
        std::mem::take(&mut writer.still)
    }

    /// A link is gone.
    pub fn forget(&mut self, link: LinkId) {
        for lane in Lane::ALL {
            self.writers.remove(&(link, lane));
        }
    }

    /// The connection of a lane stands still.
    #[must_use]
    pub fn is_still(&self, link: LinkId, lane: Lane) -> bool {
        self.writers.get(&(link, lane)).is_some_and(|writer| writer.still)
    }

    /// Whether it stands still now. `grace` is by how much this process was late.
    pub fn look(&mut self, conn: (LinkId, Lane), limits: &StillLimits, grace: Duration, now: Micros) -> Look {
        let Some(writer) = self.writers.get_mut(&conn).filter(|writer| writer.busy) else {
            return Look::Idle;
        };
        if writer.still {
            return Look::StillAsBefore;
        }
        let limit = if writer.pauses.is_empty() {
            limits.unknown
        } else {
            writer.pauses.timeout(limits.known, Duration::MAX)
        };
        let until = writer.moved_at + limit.min(limits.most);
        if until > now {
            return Look::Until(until);
        }
        if !grace.is_zero() && !std::mem::replace(&mut writer.graced, true) {
            writer.moved_at = writer.moved_at + grace;
            return Look::Until(now + grace);
        }
        writer.still = true;
        Look::Still
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONN: (LinkId, Lane) = (LinkId(1), Lane::Bulk);
    const LIMITS: StillLimits = StillLimits {
        unknown: Duration::from_millis(250),
        known: Duration::from_millis(150),
        most: Duration::from_secs(2),
    };

    fn ms(ms: u64) -> Micros {
        Micros(ms * 1000)
    }

    fn look(writers: &mut Writers, at: u64) -> Look {
        writers.look(CONN, &LIMITS, Duration::ZERO, ms(at))
    }

    #[test]
    fn a_connection_whose_kernel_takes_nothing_stands_still_until_it_took_all() {
        let mut writers = Writers::default();
        assert_eq!(look(&mut writers, 0), Look::Idle);
        writers.began(CONN, ms(0));
        assert_eq!(look(&mut writers, 100), Look::Until(ms(250)));
        writers.moved(CONN, ms(200));
        assert_eq!(look(&mut writers, 250), Look::Until(ms(450)), "from what moved last");
        assert_eq!(look(&mut writers, 450), Look::Still);
        assert_eq!(look(&mut writers, 500), Look::StillAsBefore);
        assert!(writers.is_still(CONN.0, CONN.1) && !writers.is_still(CONN.0, Lane::Control));
        writers.moved(CONN, ms(600));
        assert!(writers.is_still(CONN.0, CONN.1), "the rest of what it has is in front of what comes");
        assert!(writers.ended(CONN, ms(700)) && !writers.is_still(CONN.0, CONN.1));
        assert!(!writers.ended(CONN, ms(700)));
        writers.began(CONN, ms(800));
        writers.forget(CONN.0);
        assert_eq!(look(&mut writers, 2000), Look::Idle);
    }

    #[test]
    fn a_slow_kernel_is_waited_for_as_long_as_it_took_and_no_longer_than_any_attempt() {
        let mut writers = Writers::default();
        writers.began(CONN, ms(0));
        // It takes what there is room for at once, and 20 ms for each part that follows; later 200 ms.
        (0..=10).for_each(|part| writers.moved(CONN, ms(part * 20)));
        assert_eq!(look(&mut writers, 200), Look::Until(ms(350)));
        (2..=10).for_each(|part| writers.moved(CONN, ms(part * 200)));
        let Look::Until(until) = look(&mut writers, 2_000) else { panic!("it moves") };
        assert!(until >= ms(2_300) && until <= ms(2_500), "{until:?}");
        (11..=20).for_each(|part| writers.moved(CONN, ms(part * 3_000)));
        assert_eq!(look(&mut writers, 60_000), Look::Until(ms(62_000)));
    }

    #[test]
    fn a_process_that_was_late_waits_once_more() {
        let mut writers = Writers::default();
        writers.began(CONN, ms(0));
        let grace = Duration::from_millis(100);
        assert_eq!(writers.look(CONN, &LIMITS, grace, ms(300)), Look::Until(ms(400)));
        assert_eq!(writers.look(CONN, &LIMITS, grace, ms(400)), Look::Still);
    }
}
