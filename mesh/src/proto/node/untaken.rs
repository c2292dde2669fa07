//! An application that takes nothing of what has arrived for it, and takes again: for the log.

use std::time::Duration;

use super::Node;
use crate::proto::member::UNTAKEN_FOR;
use crate::proto::time::Micros;

/// Between two warnings: of one that takes a message now and then each stop would be news.
const QUIET_FOR: Duration = Duration::from_secs(60);

/// What was told of the application.
#[derive(Default)]
pub(super) struct Untaken {
    /// It was said to take nothing, since then.
    told: Option<Micros>,
    quiet_until: Micros,
}

/// What is to be told.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Stopped(Duration),
    Takes(Duration),
}

impl Untaken {
    /// What is new, by since when it has taken nothing of what is there.
    fn look(&mut self, untaken_since: Option<Micros>, now: Micros) -> Option<News> {
        if let Some(told) = self.told {
            let takes = untaken_since != Some(told);
            self.told = self.told.filter(|_| !takes);
            return takes.then(|| News::Takes(now.since(told)));
        }
        let long = |since: &Micros| now.since(*since) >= UNTAKEN_FOR && self.quiet_until <= now;
        self.told = untaken_since.filter(long);
        let since = self.told?;
        self.quiet_until = now + QUIET_FOR;
        Some(News::Stopped(now.since(since)))
    }
}

impl Node {
    /// Tells that the application takes nothing any more, or again.
    pub(super) fn tell_untaken(&mut self, now: Micros) {
        let Some(member) = self.member.as_ref().filter(|_| !self.draining) else { return };
        let (inbox_bytes, inbox_bytes_max) = member.inbox_bytes();
        match self.untaken.look(member.untaken_since(), now) {
            Some(News::Stopped(after)) => tracing::warn!(
                inbox_bytes,
                inbox_bytes_max,
                held_bytes = member.held_bytes(),
                ?after,
                "the application has taken nothing of what arrived: once the inbox is full, what is sent here waits, and then fails at its \
                 senders; look at the program that takes the messages, or that reads its output"
            ),
            Some(News::Takes(after)) => tracing::info!(?after, "the application takes what arrived again"),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_that_takes_nothing_is_told_once_and_when_it_takes_again_and_no_more_than_once_a_minute()
    {
        let s = |s: u64| Micros(s * 1_000_000);
        let mut untaken = Untaken::default();
        let mut look = |at, since: Option<u64>| untaken.look(since.map(s), s(at));
        let news = |of: fn(Duration) -> News, seconds| Some(of(Duration::from_secs(seconds)));
        assert_eq!((look(8, None), look(9, Some(0))), (None, None), "not yet");
        assert_eq!((look(10, Some(0)), look(19, Some(0))), (news(News::Stopped, 10), None), "told once");
        assert_eq!(look(20, Some(19)), news(News::Takes, 20), "one message");
        assert_eq!((look(40, Some(19)), look(69, Some(19))), (None, None), "it is slow, and that is known");
        assert_eq!(look(70, Some(19)), news(News::Stopped, 51));
        assert_eq!((look(71, None), look(72, None)), (news(News::Takes, 52), None), "all of it");
    }
}
