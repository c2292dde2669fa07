//! What a reader tells the machine of a frame that is not whole. Every byte would cost a call for nothing.

use std::time::Duration;

use super::time::Micros;

/// Of one connection.
#[derive(Debug)]
pub struct Partial {
    /// The machine knows that a control body is waited for.
    told: bool,
    /// When it was told last what came, and the bytes that came since: of a frame that is not whole.
    told_at: Micros,
    untold: usize,
}

impl Partial {
    /// Nothing came yet.
    #[must_use]
    pub fn new(now: Micros) -> Self {
        Self { told: false, told_at: now, untold: 0 }
    }

    /// So many bytes came.
    pub fn came(&mut self, bytes: usize) {
        self.untold = self.untold.saturating_add(bytes);
    }

    /// The machine gets frames that are whole.
    pub fn frames(&mut self, now: Micros) {
        *self = Self::new(now);
    }

    /// All that came is cut. That a control body is waited for is to be told at once, and that it is no more; that something comes now and
    /// then, on control alone, where the machine listens whether a peer is there. Gives the bytes to tell of.
    pub fn tell(&mut self, awaited: bool, control: bool, every: Duration, now: Micros) -> Option<usize> {
        let due = control && self.untold > 0 && now.since(self.told_at) >= every;
        if awaited == self.told && !due {
            return None;
        }
        (self.told, self.told_at) = (awaited, now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(10);

    #[test]
    fn what_is_waited_for_is_told_at_once_and_what_comes_now_and_then() {
        let mut partial = Partial::new(Micros(0));
        let mut step = |bytes, awaited, control, at| {
            partial.came(bytes);
            partial.tell(awaited, control, EVERY, Micros(at))
        };
        assert_eq!(step(3, false, true, 9_999), None);
        assert_eq!(step(4, true, true, 9_999), Some(7), "it is waited for");
        assert_eq!(step(5, true, true, 19_998), None);
        assert_eq!(step(6, true, true, 19_999), Some(11));
        assert_eq!(step(0, true, true, 99_999), None, "nothing came");
        assert_eq!(step(1, true, false, 99_999), None, "of bulk not");
        assert_eq!(step(1, false, false, 99_999), Some(2), "it is waited for no more");
        partial.came(9);
        partial.frames(Micros(100_000));
        assert_eq!(
            partial.tell(false, true, EVERY, Micros(200_000)),
            None,
            "with a frame that was heard as well"
        );
    }
}
