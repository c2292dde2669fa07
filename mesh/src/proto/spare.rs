//! Room of queues that were longer once.

use std::collections::VecDeque;

/// Gives back what a queue has no use for any more, beyond room for `kept` and four times of what is in it.
pub fn give_back<T>(queue: &mut VecDeque<T>, kept: usize) {
    if queue.capacity() > kept.max(4 * queue.len()) {
        queue.shrink_to(2 * queue.len());
    }
}
