//! What a sender has under way: on each connection a row of frames, in the order in which they were written. It waits in the
//! buffers of kernels and in the queue of a line, which all connections may share, and the answer to a frame cannot come before those
//! to the ones in front of it. An answer to one says that all before it have arrived.
//!
//! Two things are known of a frame that is late. How fast its connection drained lately says when it is due. And where more was under
//! way when it was written than with those before it, nobody knows how long that takes.

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

/// With less under way on all connections together no line is a reason to wait, B: it takes one of 10 Mbit/s 13 ms, and heartbeats are
/// less.
const LOADED_BYTES: u64 = 16 * 1024;

/// A frame that was written.
#[derive(Debug)]
struct Frame {
    id: u64,
    bytes: u64,
    /// What was written on its connection until then, itself included.
    end: u64,
    written_at: Micros,
    /// Under way when it was written, on all connections, itself included.
    load: u64,
    /// Twice as much as with the frames whose answers said how long to wait for this one, or more.
    unusual: bool,
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
pub struct UnderWay {
    lines: BTreeMap<(LinkId, Lane), Line>,
    /// Of all frames that are kept.
    bytes: u64,
    /// The load of frames of a link that were answered of late, on both lanes, smoothed as its round trips are: what these say of the
    /// next frame holds with so much under way.
    usual_loads: BTreeMap<LinkId, u64>,
}

impl UnderWay {
    /// A frame of so many bytes was written.
    pub fn wrote(&mut self, line: (LinkId, Lane), id: u64, bytes: u64, now: Micros) {
        let usual = self.usual_loads.get(&line.0).copied().unwrap_or_default();
        let line = self.lines.entry(line).or_default();
        if line.frames.is_empty() {
            // How fast it was when it was last busy says nothing of now, and what was given up then is not answered with what
            // follows.
            line.measured = (0, 0);
            line.answered = line.written;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        line.written = line.written.saturating_add(bytes);
        let load = self.bytes;
        let unusual = load >= LOADED_BYTES.max(usual.saturating_mul(2));
        line.frames.push_back(Frame { id, bytes, end: line.written, written_at: now, load, unusual });
        if line.frames.len() > FRAMES_MAX
            && let Some(oldest) = line.frames.pop_front()
        {
            self.bytes = self.bytes.saturating_sub(oldest.bytes);
        }
    }

    /// Something of a frame was answered. `way` is the longest that a round trip takes without anything to wait for. False
    /// if it is not among those that are waited for: it was not written yet, or is known to have arrived.
    pub fn answered(&mut self, line: (LinkId, Lane), id: u64, way: Duration, now: Micros) -> bool {
        let link = line.0;
        let Some(line) = self.lines.get_mut(&line) else { return false };
        // Numbers of frames rise in the order in which they are sealed, which is that in which they are written.
        let Ok(place) = line.frames.binary_search_by_key(&id, |frame| frame.id) else { return false };
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
        let usual = self.usual_loads.entry(link).or_default();
        *usual = usual.saturating_sub(*usual / 8).saturating_add(frame.load / 8);
        let arrived: u64 = line.frames.drain(..=place).map(|frame| frame.bytes).sum();
        self.bytes = self.bytes.saturating_sub(arrived);
        true
    }

    /// Nobody waits for the answer to a frame any more. What was written with it goes on draining in front of what is behind it.
    pub fn ended(&mut self, line: (LinkId, Lane), id: u64) {
        let Some(line) = self.lines.get_mut(&line) else { return };
        if let Ok(place) = line.frames.binary_search_by_key(&id, |frame| frame.id)
            && let Some(frame) = line.frames.remove(place)
        {
            self.bytes = self.bytes.saturating_sub(frame.bytes);
        }
    }

    /// When something of a connection was answered last, while it is busy.
    #[must_use]
    pub fn answered_at(&self, line: (LinkId, Lane)) -> Option<Micros> {
        self.lines.get(&line)?.answered_at
    }

    /// When something that was written before a frame was answered last, since it was written itself. `None` also where what was
    /// written behind it was answered already.
    #[must_use]
    pub fn went_on_at(&self, line: (LinkId, Lane), id: u64) -> Option<Micros> {
        let (line, frame) = self.find(line, id)?;
        line.answered_at.filter(|at| *at >= frame.written_at)
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
        let (line, frame) = self.find(line, id)?;
        let (bytes, took_us) = line.measured;
        let first = line.frames.front()?.written_at + way;
        let from = line.answered_at.map_or(first, |at| at.max(first));
        let ahead = u128::from(frame.end.saturating_sub(line.answered)) * u128::from(took_us);
        let ahead_us = u64::try_from(ahead.checked_div(u128::from(bytes))?).unwrap_or(u64::MAX);
        let drains = Duration::from_micros(ahead_us);
        Some((from + drains, drains))
    }

    /// Whether a frame without an answer may still be in a queue: more was under way when it was written than with those
    /// that had been answered, and nothing was answered that was written behind it.
    #[must_use]
    pub fn may_queue(&self, line: (LinkId, Lane), id: u64) -> bool {
        self.find(line, id).is_some_and(|(_, frame)| frame.unusual)
    }

    /// A frame that is kept: nothing behind it was answered, and it was not given up.
    fn find(&self, line: (LinkId, Lane), id: u64) -> Option<(&Line, &Frame)> {
        let line = self.lines.get(&line)?;
        let place = line.frames.binary_search_by_key(&id, |frame| frame.id).ok()?;
        Some((line, &line.frames[place]))
    }

    /// A link is gone.
    pub fn forget(&mut self, link: LinkId) {
        self.usual_loads.remove(&link);
        for lane in Lane::ALL {
            let line = self.lines.remove(&(link, lane)).unwrap_or_default();
            let bytes: u64 = line.frames.iter().map(|frame| frame.bytes).sum();
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BULK: (LinkId, Lane) = (LinkId(1), Lane::Bulk);
    const CONTROL: (LinkId, Lane) = (LinkId(2), Lane::Control);
    const WAY: Duration = Duration::from_millis(40);

    #[test]
    fn much_on_any_connection_is_a_reason_to_wait_on_each() {
        let mut under_way = UnderWay::default();
        under_way.wrote(CONTROL, 1, 100, Micros(0));
        assert!(!under_way.may_queue(CONTROL, 1), "nothing that a line takes time for");
        under_way.wrote(BULK, 2, LOADED_BYTES, Micros(0));
        under_way.wrote(CONTROL, 3, 100, Micros(0));
        assert!(under_way.may_queue(BULK, 2) && under_way.may_queue(CONTROL, 3));
        assert!(!under_way.may_queue(CONTROL, 1), "it left before");
        assert!(!under_way.may_queue(BULK, 1), "it is not there");
        under_way.answered(BULK, 2, WAY, Micros(7));
        assert_eq!(under_way.answered_at(BULK), Some(Micros(7)));
        assert!(!under_way.is_idle());
        under_way.wrote(CONTROL, 4, 100, Micros(0));
        assert!(!under_way.may_queue(CONTROL, 4));
        under_way.answered(CONTROL, 3, WAY, Micros(8));
        under_way.ended(CONTROL, 4);
        assert!(under_way.is_idle());
        assert_eq!(under_way.bytes, 0);
    }

    /// Whoever waits by what answers took says how long with as much under way as they had.
    #[test]
    fn what_is_usual_is_no_reason_to_wait() {
        let mut under_way = UnderWay::default();
        let mut waited = 0;
        for id in 0..100 {
            under_way.wrote(BULK, id, LOADED_BYTES, Micros(0));
            waited += u64::from(under_way.may_queue(BULK, id));
            under_way.answered(BULK, id, WAY, Micros(id));
        }
        assert!((1..10).contains(&waited), "until there were answers: {waited}");
        under_way.wrote(BULK, 100, 3 * LOADED_BYTES, Micros(0));
        under_way.wrote(CONTROL, 101, 1, Micros(0));
        assert!(under_way.may_queue(BULK, 100) && under_way.may_queue(CONTROL, 101), "it has had no answers");
    }

    #[test]
    fn an_answer_says_that_all_before_it_arrived() {
        let mut under_way = UnderWay::default();
        (1..=4).for_each(|id| under_way.wrote(BULK, id, LOADED_BYTES, Micros(0)));
        assert!(under_way.answered(BULK, 3, WAY, Micros(5)));
        let queued: Vec<u64> = (1..=4).filter(|id| under_way.may_queue(BULK, *id)).collect();
        assert_eq!(queued, [4]);
        assert!(!under_way.answered(BULK, 1, WAY, Micros(9)), "it was known to have arrived");
        assert_eq!(under_way.answered_at(BULK), Some(Micros(5)));
        under_way.ended(BULK, 4);
        assert_eq!((under_way.bytes, under_way.is_idle()), (0, true));
    }

    #[test]
    fn a_frame_is_next_when_what_was_before_it_is_answered() {
        let mut under_way = UnderWay::default();
        (1..=3).for_each(|id| under_way.wrote(BULK, id, 100, Micros(10 * id)));
        assert_eq!(under_way.went_on_at(BULK, 2), None, "nothing was answered yet");
        under_way.answered(BULK, 1, WAY, Micros(25));
        assert_eq!(under_way.went_on_at(BULK, 2), Some(Micros(25)));
        assert_eq!(under_way.went_on_at(BULK, 3), None, "it was written after that");
        under_way.answered(BULK, 3, WAY, Micros(60));
        assert_eq!(under_way.went_on_at(BULK, 2), None, "what was behind it was answered, and it was not");
    }

    #[test]
    fn no_more_frames_are_kept_than_is_said_and_a_link_takes_its_own_along() {
        let mut under_way = UnderWay::default();
        (0..5000).for_each(|id| under_way.wrote(BULK, id, 100, Micros(0)));
        under_way.wrote(CONTROL, 5000, 7, Micros(0));
        assert_eq!(under_way.lines[&BULK].frames.len(), FRAMES_MAX);
        assert_eq!(under_way.bytes, 100 * FRAMES_MAX as u64 + 7, "what is forgotten does not count");
        assert!(!under_way.may_queue(BULK, 1) && under_way.may_queue(BULK, 4999));
        under_way.forget(BULK.0);
        assert_eq!((under_way.bytes, under_way.lines.len()), (7, 1));
    }

    fn due(under_way: &UnderWay, id: u64) -> Option<Micros> {
        under_way.answer_due(BULK, id, WAY).map(|(due, _)| due)
    }

    fn ms(ms: u64) -> Micros {
        Micros(ms * 1000)
    }

    #[test]
    fn an_answer_is_due_when_what_stands_before_it_has_drained() {
        let mut under_way = UnderWay::default();
        for id in 1..=4 {
            under_way.wrote(BULK, id, 500_000, ms(0));
        }
        assert_eq!(due(&under_way, 2), None, "nobody knows yet how fast it is");
        // 500,000 bytes in 100 ms beyond the way.
        under_way.answered(BULK, 1, WAY, ms(140));
        assert_eq!(due(&under_way, 2), Some(ms(240)));
        let (at, drains_for) = under_way.answer_due(BULK, 4, WAY).unwrap();
        assert_eq!((at, drains_for), (ms(440), Duration::from_millis(300)));
        // It slows down, which shows.
        under_way.answered(BULK, 2, WAY, ms(440));
        assert_eq!(due(&under_way, 3), Some(ms(640)));
        // An answer to the last one says that all have arrived.
        under_way.answered(BULK, 4, WAY, ms(500));
        assert_eq!(due(&under_way, 3), None);
        assert!(under_way.lines[&BULK].frames.is_empty());
        under_way.forget(BULK.0);
        assert!(under_way.lines.is_empty());
    }

    #[test]
    fn what_is_short_and_alone_says_nothing_and_an_idle_line_begins_anew() {
        let mut under_way = UnderWay::default();
        under_way.wrote(BULK, 1, 1000, ms(0));
        under_way.answered(BULK, 1, WAY, ms(300));
        under_way.wrote(BULK, 2, 500_000, ms(1000));
        assert_eq!(due(&under_way, 2), None, "its member was slow, and not the line");
        under_way.answered(BULK, 2, WAY, ms(1090));
        under_way.wrote(BULK, 3, 1_000_000, ms(5000));
        assert_eq!(due(&under_way, 3), None, "that was another time");
    }

    #[test]
    fn a_line_whose_frames_are_all_given_up_begins_anew_and_what_is_behind_one_still_waits_for_it() {
        let mut under_way = UnderWay::default();
        (1..=4).for_each(|id| under_way.wrote(BULK, id, 500_000, ms(0)));
        under_way.answered(BULK, 1, WAY, ms(140));
        under_way.ended(BULK, 3);
        assert_eq!(due(&under_way, 4), Some(ms(440)), "the third one under_way before it all the same");
        under_way.ended(BULK, 4);
        assert!(!under_way.is_idle());
        under_way.ended(BULK, 2);
        assert!(under_way.is_idle());
        under_way.wrote(BULK, 5, 500_000, ms(500));
        assert_eq!(due(&under_way, 5), None, "that was another time");
        // What was given up does not count as answered with what follows: 500,000 bytes in 100 ms again.
        under_way.wrote(BULK, 6, 500_000, ms(500));
        under_way.answered(BULK, 5, WAY, ms(640));
        assert_eq!(due(&under_way, 6), Some(ms(740)));
    }

    /// What is forgotten is answered unheard. The next one that is kept counts it as answered, in no more time than it waited
    /// itself: the line seems faster than it is, so that nothing is waited for longer than it should be.
    #[test]
    fn what_was_forgotten_makes_no_line_slower() {
        let (mut all, mut under_way) = (UnderWay::default(), UnderWay::default());
        // 1 ms each, in a line that takes 2 ms for each.
        let (kept, many) = (FRAMES_MAX as u64, 3 * FRAMES_MAX as u64);
        (0..many).for_each(|id| under_way.wrote(BULK, id, 1000, ms(id)));
        (0..kept).for_each(|id| all.wrote(BULK, id, 1000, ms(id)));
        let answer = |under_way: &mut UnderWay, id: u64| {
            under_way.answered(BULK, id, WAY, ms(40 + 2 * (id + 1)));
        };
        // Nothing but what it remembers is answered of the one, all of the other.
        (0..many - 10).for_each(|id| answer(&mut under_way, id));
        (0..kept - 10).for_each(|id| answer(&mut all, id));
        for (under_way, last) in [(&all, kept - 1), (&under_way, many - 1)] {
            let (at, drains_for) = under_way.answer_due(BULK, last, WAY).unwrap();
            assert!(at <= ms(40 + 2 * (last + 1)), "{at:?}");
            assert!(drains_for <= Duration::from_millis(20), "{drains_for:?}");
        }
    }
}
