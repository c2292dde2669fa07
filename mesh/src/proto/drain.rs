//! How fast the connections of a sender drain: what was written waits in the buffers of kernels and of the line, and the answer to
//! a frame cannot come before that to those in front of it. Each connection is a row of frames, in the order in which they were
//! written; an answer to one says that all before it have arrived.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::links::LinkId;
use super::time::{Micros, micros};
use crate::id::Lane;

/// Frames of a connection that are kept while nobody answers: with more, the oldest are forgotten.
const FRAMES_MAX: usize = 1024;

/// What is answered alone, with nothing in front of it, says how fast a connection is only if it is so long: less than that
/// takes no time beside the way itself.
const ALONE_BYTES_MIN: u64 = 256 * 1024;

/// Measurements count half once there are so many, µs.
const MEMORY_US: u64 = 500_000;

/// A frame that was written, and what was written with it in all.
#[derive(Debug)]
struct Frame {
    id: u64,
    end: u64,
    written_at: Micros,
}

/// One connection.
#[derive(Debug, Default)]
struct Line {
    frames: VecDeque<Frame>,
    written: u64,
    answered: u64,
    answered_at: Option<Micros>,
    /// So many bytes took so long, µs.
    measured: (u64, u64),
}

/// The connections of a sender.
#[derive(Debug, Default)]
pub struct Drains {
    lines: BTreeMap<(LinkId, Lane), Line>,
}

impl Drains {
    /// A frame of so many bytes was written.
    pub fn wrote(&mut self, line: (LinkId, Lane), id: u64, bytes: u64, now: Micros) {
        let line = self.lines.entry(line).or_default();
        if line.frames.is_empty() {
            // How fast it was when it was last busy says nothing of now, and what was given up then is not answered with what
            // follows.
            line.measured = (0, 0);
            line.answered = line.written;
        }
        line.written = line.written.saturating_add(bytes);
        line.frames.push_back(Frame { id, end: line.written, written_at: now });
        if line.frames.len() > FRAMES_MAX {
            line.frames.pop_front();
        }
    }

    /// Something of a frame was answered. `way` is the longest that a round trip takes without anything to wait for.
    pub fn answered(&mut self, line: (LinkId, Lane), id: u64, way: Duration, now: Micros) {
        let Some(line) = self.lines.get_mut(&line) else { return };
        // Numbers of frames rise in the order in which they are sealed, which is that in which they are written.
        let Ok(place) = line.frames.binary_search_by_key(&id, |frame| frame.id) else { return };
        let frame = &line.frames[place];
        let bytes = frame.end.saturating_sub(line.answered);
        // Answers that come apart because frames were written apart say nothing of the line: only what a frame waited beyond the
        // way there and back was for draining.
        let waited = now.since(frame.written_at).saturating_sub(way);
        let took = match line.answered_at.filter(|at| *at >= frame.written_at) {
            Some(at) => Some(now.since(at).min(waited)),
            None => (bytes >= ALONE_BYTES_MIN).then_some(waited),
        };
        if let Some(took) = took {
            let (all, all_us) = &mut line.measured;
            (*all, *all_us) = (all.saturating_add(bytes), all_us.saturating_add(micros(took)));
            if *all_us > MEMORY_US {
                (*all, *all_us) = (*all / 2, *all_us / 2);
            }
        }
        (line.answered, line.answered_at) = (frame.end, Some(now));
        line.frames.drain(..=place);
    }

    /// Nobody waits for the answer to a frame any more. What was written with it goes on draining in front of what is behind it.
    pub fn ended(&mut self, line: (LinkId, Lane), id: u64) {
        let Some(line) = self.lines.get_mut(&line) else { return };
        if let Ok(place) = line.frames.binary_search_by_key(&id, |frame| frame.id) {
            line.frames.remove(place);
        }
    }

    /// When something of a connection was answered last, while it is busy.
    #[must_use]
    pub fn answered_at(&self, line: (LinkId, Lane)) -> Option<Micros> {
        self.lines.get(&line)?.answered_at
    }

    /// No answer is waited for.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.lines.values().all(|line| line.frames.is_empty())
    }

    /// When a frame is answered if the connection goes on as it did, and how much of that is for draining, the frame itself
    /// included. `None`: nothing is known of that, or what was written at the same time or later was answered already.
    #[must_use]
    pub fn answer_due(&self, line: (LinkId, Lane), id: u64, way: Duration) -> Option<(Micros, Duration)> {
        let line = self.lines.get(&line)?;
        let frame = &line.frames[line.frames.binary_search_by_key(&id, |frame| frame.id).ok()?];
        let (bytes, took_us) = line.measured;
        let first = line.frames.front()?.written_at + way;
        let from = line.answered_at.map_or(first, |at| at.max(first));
        let ahead = u128::from(frame.end.saturating_sub(line.answered)) * u128::from(took_us);
        let ahead_us = u64::try_from(ahead.checked_div(u128::from(bytes))?).unwrap_or(u64::MAX);
        let drains = Duration::from_micros(ahead_us);
        Some((from + drains, drains))
    }

    /// A link is gone.
    pub fn forget(&mut self, link: LinkId) {
        for lane in Lane::ALL {
            self.lines.remove(&(link, lane));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: (LinkId, Lane) = (LinkId(1), Lane::Bulk);
    const WAY: Duration = Duration::from_millis(40);

    fn due(drains: &Drains, id: u64) -> Option<Micros> {
        drains.answer_due(LINE, id, WAY).map(|(due, _)| due)
    }

    fn ms(ms: u64) -> Micros {
        Micros(ms * 1000)
    }

    #[test]
    fn an_answer_is_due_when_what_stands_before_it_has_drained() {
        let mut drains = Drains::default();
        for id in 1..=4 {
            drains.wrote(LINE, id, 500_000, ms(0));
        }
        assert_eq!(due(&drains, 2), None, "nobody knows yet how fast it is");
        // 500,000 bytes in 100 ms beyond the way.
        drains.answered(LINE, 1, WAY, ms(140));
        assert_eq!(due(&drains, 2), Some(ms(240)));
        let (at, drains_for) = drains.answer_due(LINE, 4, WAY).unwrap();
        assert_eq!((at, drains_for), (ms(440), Duration::from_millis(300)));
        // It slows down, which shows.
        drains.answered(LINE, 2, WAY, ms(440));
        assert_eq!(due(&drains, 3), Some(ms(640)));
        // An answer to the last one says that all have arrived.
        drains.answered(LINE, 4, WAY, ms(500));
        assert_eq!(due(&drains, 3), None);
        assert!(drains.lines[&LINE].frames.is_empty());
        drains.forget(LINE.0);
        assert!(drains.lines.is_empty());
    }

    #[test]
    fn what_is_short_and_alone_says_nothing_and_an_idle_line_begins_anew() {
        let mut drains = Drains::default();
        drains.wrote(LINE, 1, 1000, ms(0));
        drains.answered(LINE, 1, WAY, ms(300));
        drains.wrote(LINE, 2, 500_000, ms(1000));
        assert_eq!(due(&drains, 2), None, "its member was slow, and not the line");
        drains.answered(LINE, 2, WAY, ms(1090));
        drains.wrote(LINE, 3, 1_000_000, ms(5000));
        assert_eq!(due(&drains, 3), None, "that was another time");
    }

    #[test]
    fn a_line_whose_frames_are_all_given_up_begins_anew_and_what_is_behind_one_still_waits_for_it() {
        let mut drains = Drains::default();
        (1..=4).for_each(|id| drains.wrote(LINE, id, 500_000, ms(0)));
        drains.answered(LINE, 1, WAY, ms(140));
        drains.ended(LINE, 3);
        assert_eq!(due(&drains, 4), Some(ms(440)), "the third one drains before it all the same");
        drains.ended(LINE, 4);
        assert!(!drains.is_idle());
        drains.ended(LINE, 2);
        assert!(drains.is_idle());
        drains.wrote(LINE, 5, 500_000, ms(500));
        assert_eq!(due(&drains, 5), None, "that was another time");
        // What was given up does not count as answered with what follows: 500,000 bytes in 100 ms again.
        drains.wrote(LINE, 6, 500_000, ms(500));
        drains.answered(LINE, 5, WAY, ms(640));
        assert_eq!(due(&drains, 6), Some(ms(740)));
    }

    #[test]
    fn no_more_frames_are_kept_than_is_said() {
        let mut drains = Drains::default();
        (0..5000).for_each(|id| drains.wrote(LINE, id, 100, ms(id)));
        assert_eq!(drains.lines[&LINE].frames.len(), FRAMES_MAX);
        assert_eq!(due(&drains, 1), None);
    }

    /// What is forgotten is answered unheard. The next one that is kept counts it as answered, in no more time than it waited
    /// itself: the line seems faster than it is, so that nothing is waited for longer than it should be.
    #[test]
    fn what_was_forgotten_makes_no_line_slower() {
        let (mut all, mut drains) = (Drains::default(), Drains::default());
        // 1 ms each, in a line that takes 2 ms for each.
        let (kept, many) = (FRAMES_MAX as u64, 3 * FRAMES_MAX as u64);
        (0..many).for_each(|id| drains.wrote(LINE, id, 1000, ms(id)));
        (0..kept).for_each(|id| all.wrote(LINE, id, 1000, ms(id)));
        let answer = |drains: &mut Drains, id: u64| drains.answered(LINE, id, WAY, ms(40 + 2 * (id + 1)));
        // Nothing but what it remembers is answered of the one, all of the other.
        (0..many - 10).for_each(|id| answer(&mut drains, id));
        (0..kept - 10).for_each(|id| answer(&mut all, id));
        for (drains, last) in [(&all, kept - 1), (&drains, many - 1)] {
            let (at, drains_for) = drains.answer_due(LINE, last, WAY).unwrap();
            assert!(at <= ms(40 + 2 * (last + 1)), "{at:?}");
            assert!(drains_for <= Duration::from_millis(20), "{drains_for:?}");
        }
    }
}
