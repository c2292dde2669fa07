//! What is to happen, in the order of its times.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::proto::time::Micros;

/// Events to come. Those of one moment are in the order in which they were added.
///
/// The heap holds places instead of events, because it moves what it holds.
pub(super) struct Agenda<E> {
    order: BinaryHeap<Reverse<(Micros, u64, usize)>>,
    events: Vec<Option<E>>,
    free: Vec<usize>,
    added: u64,
}

impl<E> Agenda<E> {
    pub(super) fn new() -> Self {
        Self { order: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), added: 0 }
    }

    pub(super) fn add(&mut self, at: Micros, event: E) {
        let place = self.free.pop().unwrap_or(self.events.len());
        if place == self.events.len() {
            self.events.push(None);
        }
        self.events[place] = Some(event);
        self.added += 1;
        self.order.push(Reverse((at, self.added, place)));
    }

    /// The next one, and its time.
    pub(super) fn pop(&mut self) -> Option<(Micros, E)> {
        let Reverse((at, _, place)) = self.order.pop()?;
        self.free.push(place);
        self.events[place].take().map(|event| (at, event))
    }

    /// All that is still to come, the next one first, each with the place that it has until then.
    pub(super) fn all(&self) -> impl Iterator<Item = (usize, &E)> {
        let mut order: Vec<_> = self.order.iter().map(|Reverse(entry)| *entry).collect();
        order.sort_unstable();
        order.into_iter().filter_map(|(.., place)| Some((place, self.events[place].as_ref()?)))
    }

    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut E> {
        self.events.get_mut(place)?.as_mut()
    }

    /// The rest will not happen.
    pub(super) fn retain(&mut self, keep: impl Fn(&E) -> bool) {
        let Self { order, events, free, .. } = self;
        order.retain(|Reverse((.., place))| {
            let kept = events[*place].as_ref().is_some_and(&keep);
            if !kept {
                events[*place] = None;
                free.push(*place);
            }
            kept
        });
    }
}
