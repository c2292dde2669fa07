//! A limit on log lines of one kind, which is one place in the code: a peer that is turned away a thousand times a second
//! must not fill the disk. What was left out is counted and told.

use std::collections::HashMap;
use std::fmt::Debug;
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
/// Longest text that is remembered of a kind.
const MESSAGE_CHARS_MAX: usize = 80;

/// Lets so many lines of each kind pass. There are as many kinds as places in the code that log.
#[derive(Clone, Default)]
pub(super) struct Flood {
    kinds: Arc<Mutex<HashMap<Identifier, Kind>>>,
}

struct Kind {
    window_from: Instant,
    lines: u32,
    left_out: u64,
    message: String,
}

/// A kind of which lines were left out.
#[derive(Debug, PartialEq, Eq)]
struct LeftOut {
    message: String,
    lines: u64,
}

impl Flood {
    /// Whether one more line of a kind is written now.
    fn admit(&self, kind: Identifier, now: Instant, message: impl FnOnce() -> String) -> bool {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = kinds.entry(kind).or_insert_with(|| Kind {
            window_from: now,
            lines: 0,
            left_out: 0,
            message: String::new(),
        });
        if now.duration_since(kind.window_from) >= WINDOW {
            (kind.window_from, kind.lines) = (now, 0);
        }
        if kind.lines < LINES_MAX {
            kind.lines += 1;
            return true;
        }
        if kind.left_out == 0 {
            kind.message = message();
        }
        kind.left_out += 1;
        false
    }

    /// What was left out since this was asked last.
    fn take_left_out(&self) -> Vec<LeftOut> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let suppressed = kinds.values_mut().filter(|kind| kind.left_out > 0);
        suppressed
            .map(|kind| LeftOut {
                message: std::mem::take(&mut kind.message),
                lines: std::mem::take(&mut kind.left_out),
            })
            .collect()
    }

    /// Tells what was left out, for ever.
    pub(super) async fn tell(self) {
        let mut ticks = tokio::time::interval(WINDOW);
        loop {
            ticks.tick().await;
            for LeftOut { message, lines } in self.take_left_out() {
                tracing::warn!(suppressed = lines, like = message, "log lines of one kind were left out");
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
        self.admit(event.metadata().callsite(), Instant::now(), || {
            let mut text = Message::default();
            event.record(&mut text);
            text.0
        })
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
        assert_eq!(flood.take_left_out(), [left_out]);
        assert_eq!(flood.take_left_out(), [], "told once");
    }

    #[test]
    fn the_next_window_begins_anew() {
        let flood = Flood::default();
        let kind = || tracing::callsite::Identifier(&CALLSITE);
        let start = Instant::now();
        let admitted =
            |at: Instant| (0..LINES_MAX * 2).filter(|_| flood.admit(kind(), at, String::new)).count();
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
