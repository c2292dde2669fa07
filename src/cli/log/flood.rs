//! Limits on log lines: of one kind, which is one place in the code, and more narrowly of one kind about one subject, as a peer
//! that is turned away again and again. What was left out is counted and told.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Lines of one kind that are written in a window; the rest is counted.
const LINES_MAX: u32 = 50;
/// A window, and how often what was left out is told.
const WINDOW: Duration = Duration::from_secs(10);
/// Lines of one kind about one subject, and for one reason, in a window of their own.
const LINES_ABOUT_MAX: u32 = 3;
/// That window.
const WINDOW_ABOUT: Duration = Duration::from_secs(60);
/// Kinds and subjects that are remembered; lines about more have the limit of their kind alone.
const SUBJECTS_MAX: usize = 4096;
/// Longest text that is remembered of a kind.
const MESSAGE_CHARS_MAX: usize = 80;

/// Fields that say what a line is about.
const SUBJECTS: [&str; 8] =
    ["peer", "node", "proxy", "member", "datacenter", "origin", "certificate", "congestion_control"];
/// Fields of a line with a subject whose values make it another line.
const REASONS: [&str; 4] = ["code", "reason", "why", "lane"];

/// Lets so many lines of each kind pass. There are as many kinds as places in the code that log.
#[derive(Clone, Default)]
pub(super) struct Flood {
    counted: Arc<Mutex<Counted>>,
}

#[derive(Default)]
struct Counted {
    kinds: HashMap<Identifier, Count>,
    /// By a hash of kind, subject and reason.
    about: HashMap<u64, Count>,
}

/// Lines that are alike.
struct Count {
    window_from: Instant,
    lines: u32,
    left_out: u64,
    /// When the window began in which the first of these was left out: a later one may have begun since.
    left_out_from: Instant,
    message: String,
}

impl Count {
    fn new(now: Instant) -> Self {
        Self { window_from: now, lines: 0, left_out: 0, left_out_from: now, message: String::new() }
    }

    /// Whether one more is written now.
    fn admit(
        &mut self,
        (lines_max, window): (u32, Duration),
        now: Instant,
        message: impl FnOnce() -> String,
    ) -> bool {
        if now.duration_since(self.window_from) >= window {
            (self.window_from, self.lines) = (now, 0);
        }
        if self.lines < lines_max {
            self.lines += 1;
            return true;
        }
        if self.left_out == 0 {
            (self.left_out_from, self.message) = (self.window_from, message());
        }
        self.left_out += 1;
        false
    }

    fn take(&mut self) -> LeftOut {
        LeftOut { message: std::mem::take(&mut self.message), lines: std::mem::take(&mut self.left_out) }
    }
}

/// Lines that are alike, of which some were left out.
#[derive(Debug, PartialEq, Eq)]
struct LeftOut {
    message: String,
    lines: u64,
}

impl Flood {
    /// Whether one more line of a kind, about a subject if it has one, is written now.
    fn admit(
        &self,
        kind: Identifier,
        about: Option<u64>,
        now: Instant,
        message: impl Fn() -> String,
    ) -> bool {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let Counted { kinds, about: known } = &mut *counted;
        if let Some(about) = about {
            if known.len() >= SUBJECTS_MAX && !known.contains_key(&about) {
                let holds = |of: &Count| now.duration_since(of.window_from) < WINDOW_ABOUT || of.left_out > 0;
                known.retain(|_, of| holds(of));
            }
            let has_room = known.len() < SUBJECTS_MAX || known.contains_key(&about);
            let limit = (LINES_ABOUT_MAX, WINDOW_ABOUT);
            if has_room && !known.entry(about).or_insert_with(|| Count::new(now)).admit(limit, now, &message)
            {
                return false;
            }
        }
        kinds.entry(kind).or_insert_with(|| Count::new(now)).admit((LINES_MAX, WINDOW), now, &message)
    }

    /// What was left out since this was asked last; about a subject once its window is over, or it would be a flood itself.
    fn take_left_out(&self, now: Instant) -> Vec<LeftOut> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let Counted { kinds, about } = &mut *counted;
        // By the window in which it began: a flood that goes on begins the next one before anybody looks.
        let over = |of: &&mut Count| now.duration_since(of.left_out_from) >= WINDOW_ABOUT;
        let all = kinds.values_mut().chain(about.values_mut().filter(over));
        let left_out = all.filter(|of| of.left_out > 0).map(Count::take).collect();
        about.retain(|_, of| now.duration_since(of.window_from) < WINDOW_ABOUT);
        left_out
    }

    /// Tells what was left out, for ever.
    pub(super) async fn tell(self) {
        let mut ticks = tokio::time::interval(WINDOW);
        loop {
            ticks.tick().await;
            for LeftOut { message, lines } in self.take_left_out(Instant::now()) {
                tracing::warn!(suppressed = lines, like = message, "and {lines} more like it were left out");
            }
        }
    }
}

impl<S: Subscriber> Layer<S> for Flood {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        // Who asks for more than that wants all of it.
        if *event.metadata().level() > Level::INFO {
            return true;
        }
        let kind = event.metadata().callsite();
        let mut about = About::default();
        if event.metadata().fields().iter().any(|field| SUBJECTS.contains(&field.name())) {
            event.record(&mut about);
        }
        self.admit(kind.clone(), about.key(&kind), Instant::now(), || {
            let mut text = Message::default();
            event.record(&mut text);
            about.subject.iter().fold(text.0, |text, subject| format!("{text}, {subject}"))
        })
    }
}

/// What an event is about, as far as that makes it another line.
#[derive(Default)]
struct About {
    subject: Vec<String>,
    reasons: Vec<String>,
}

impl About {
    fn key(&self, kind: &Identifier) -> Option<u64> {
        if self.subject.is_empty() {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        (kind, &self.subject, &self.reasons).hash(&mut hasher);
        Some(hasher.finish())
    }
}

impl Visit for About {
    fn record_str(&mut self, field: &Field, value: &str) {
        let list = match field.name() {
            name if SUBJECTS.contains(&name) => &mut self.subject,
            name if REASONS.contains(&name) => &mut self.reasons,
            _ => return,
        };
        // Whoever dials again comes from another port.
        let value = value.parse().map_or_else(|_| value.to_owned(), |peer: SocketAddr| peer.ip().to_string());
        list.push(format!("{} {}", field.name(), value.chars().take(MESSAGE_CHARS_MAX).collect::<String>()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if SUBJECTS.contains(&field.name()) || REASONS.contains(&field.name()) {
            self.record_str(field, &format!("{value:?}"));
        }
    }
}

/// The text of an event, shortened.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}").chars().take(MESSAGE_CHARS_MAX).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    /// Counts what passes.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Written {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut text = Message::default();
            event.record(&mut text);
            self.0.lock().unwrap().push(text.0);
        }
    }

    #[test]
    fn a_flood_of_one_kind_is_cut_and_counted_and_others_pass() {
        let (flood, written) = (Flood::default(), Written::default());
        let log = tracing_subscriber::registry().with(written.clone()).with(flood.clone());
        tracing::subscriber::with_default(log, || {
            for number in 0..LINES_MAX + 7 {
                tracing::warn!("flooding with {number}");
                if number % 10 == 0 {
                    tracing::info!("now and then");
                }
                tracing::debug!("asked for");
            }
        });
        let lines = written.0.lock().unwrap();
        let count = |begin: &str| lines.iter().filter(|line| line.starts_with(begin)).count();
        assert_eq!([count("flooding"), count("now and then")], [LINES_MAX as usize, 6]);
        assert_eq!(count("asked for"), LINES_MAX as usize + 7, "no limit on what is for debugging");
        let left_out = LeftOut { message: format!("flooding with {LINES_MAX}"), lines: 7 };
        assert_eq!(flood.take_left_out(Instant::now()), [left_out]);
        assert_eq!(flood.take_left_out(Instant::now()), [], "told once");
    }

    #[test]
    fn a_line_about_one_peer_is_repeated_three_times_a_minute_and_one_about_another_or_for_another_reason_passes()
     {
        let (flood, written) = (Flood::default(), Written::default());
        let log = tracing_subscriber::registry().with(written.clone()).with(flood.clone());
        let refused = |peer: &str, reason: &str| tracing::warn!(peer, reason, "refused {peer} for {reason}");
        tracing::subscriber::with_default(log, || {
            for port in 1..20 {
                refused(&format!("10.0.0.1:{port}"), "revoked");
            }
            refused("10.0.0.1:20", "expired");
            refused("10.0.0.2:20", "revoked");
        });
        let lines = written.0.lock().unwrap();
        assert_eq!(lines[..3], [1, 2, 3].map(|port| format!("refused 10.0.0.1:{port} for revoked")));
        assert_eq!(lines[3..], ["refused 10.0.0.1:20 for expired", "refused 10.0.0.2:20 for revoked"]);
        assert_eq!(flood.take_left_out(Instant::now()), [], "not while it goes on");
        let message = "refused 10.0.0.1:4 for revoked, peer 10.0.0.1".to_owned();
        let later = Instant::now() + WINDOW_ABOUT;
        assert_eq!(flood.take_left_out(later), [LeftOut { message, lines: 16 }]);
        assert_eq!(flood.take_left_out(later), [], "told once");
    }

    #[test]
    fn what_is_left_out_of_a_flood_that_goes_on_is_told_every_minute() {
        let flood = Flood::default();
        let kind = || tracing::callsite::Identifier(&CALLSITE);
        let start = Instant::now();
        let (mut written, mut told) = (0, Vec::new());
        for second in 0..=180 {
            let now = start + Duration::from_secs(second);
            written += u32::from(flood.admit(kind(), Some(7), now, || format!("at {second}")));
            if second % WINDOW.as_secs() == 0 {
                let left_out = flood.take_left_out(now);
                told.extend(left_out.into_iter().map(|of| (second, of.message, of.lines)));
            }
        }
        let minutes = [(60, 3), (120, 63), (180, 123)];
        assert_eq!(told, minutes.map(|(at, first)| (at, format!("at {first}"), 57)));
        assert_eq!(written, 3 * LINES_ABOUT_MAX + 1);
    }

    #[test]
    fn subjects_without_number_take_no_memory_without_end() {
        let flood = Flood::default();
        let kind = || tracing::callsite::Identifier(&CALLSITE);
        let start = Instant::now();
        let admitted = |at: Instant| {
            let lines = (0..10_000_u64).filter(|about| flood.admit(kind(), Some(*about), at, String::new));
            lines.count()
        };
        assert_eq!(admitted(start), LINES_MAX as usize, "the limit of the kind holds for all");
        assert_eq!(flood.counted.lock().unwrap().about.len(), SUBJECTS_MAX);
        assert_eq!(admitted(start + WINDOW_ABOUT), LINES_MAX as usize);
        assert_eq!(flood.counted.lock().unwrap().about.len(), SUBJECTS_MAX);
    }

    #[test]
    fn the_next_window_begins_anew() {
        let flood = Flood::default();
        let kind = || tracing::callsite::Identifier(&CALLSITE);
        let start = Instant::now();
        let admitted =
            |at: Instant| (0..LINES_MAX * 2).filter(|_| flood.admit(kind(), None, at, String::new)).count();
        assert_eq!(admitted(start), LINES_MAX as usize);
        assert_eq!(admitted(start + WINDOW - Duration::from_millis(1)), 0);
        assert_eq!(admitted(start + WINDOW), LINES_MAX as usize);
    }

    struct Nowhere;

    static CALLSITE: Nowhere = Nowhere;

    impl tracing::Callsite for Nowhere {
        fn set_interest(&self, _: tracing::subscriber::Interest) {}

        fn metadata(&self) -> &tracing::Metadata<'_> {
            unreachable!("nobody asks")
        }
    }
}
