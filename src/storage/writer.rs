//! Does what was queued, in order, and makes as much as there is durable at once.
//!
//! A step takes all that waits: entries that were appended one by one are written together, and one sync is for all of
//! them. While it waits for the disk the next ones gather.
//!
//! What a sync answers comes back as new entries, one after the other, and the first of them would have a sync of its own
//! while all others wait for the next: half of the syncs would be wasted. So as long as more comes, the writer lets it
//! come, for a small part of what a sync takes. It does not wait for more that does not.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::error::StorageError;
use super::log::{Command, Done, Shared, State, Task};
use super::recovery::{DOUBT, VOTE};
use super::segments::Segments;
use super::slot;

/// More is let come for this part of what the last step took: it can cost as much, and save a whole one.
const GATHERING_PART: u32 = 16;
/// It has ended when nothing came for this part of that.
const GROWTH_PART: u32 = 8;
/// A step that took longer tells nothing about the next one.
const STEP_MAX: Duration = Duration::from_millis(20);

/// The only one who writes.
pub(crate) struct Writer<D: Disk> {
    pub(super) segments: Segments<D>,
    pub(super) shared: Arc<Shared<D::File>>,
}

impl<D: Disk> Writer<D> {
    /// Waits for work and does it, until the log is closed and all is done.
    pub(super) fn run(mut self) {
        let mut step_took = Duration::ZERO;
        while self.shared.wait() {
            self.gather(step_took / GATHERING_PART);
            let began = Instant::now();
            self.step();
            step_took = began.elapsed().min(STEP_MAX);
        }
    }

    /// Waits for work, as a task. False when the log is closed and all is done.
    #[cfg(test)]
    pub(crate) fn poll_work(&self, context: &mut std::task::Context<'_>) -> std::task::Poll<bool> {
        self.shared.poll_wait(context)
    }

    /// Lets more come, as long as it does and so long at most.
    fn gather(&self, at_most: Duration) {
        let began = Instant::now();
        let (mut length, mut grown) = (0, began);
        loop {
            let now = Instant::now();
            let now_length = self.state().queue.len();
            if now_length > length {
                (length, grown) = (now_length, now);
            }
            if now - began >= at_most || now - grown >= at_most / GROWTH_PART {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// Does all that is queued.
    pub(crate) fn step(&mut self) {
        let commands = std::mem::take(&mut self.state().queue);
        let mut answers: Vec<Done> = Vec::new();
        let mut appended_bytes = 0;
        for Command { task, done } in commands {
            let broken = self.state().broken.clone();
            let result = match broken {
                Some(error) => Err(error),
                None => self.execute(task, &mut answers, &mut appended_bytes),
            };
            match result {
                // Entries are answered when they are durable.
                Ok(true) => answers.push(done),
                Ok(false) => done(Ok(())),
                Err(error) => self.fail(&error, answers.drain(..).chain([done])),
            }
        }
        if let Err(error) = self.flush(&mut answers, &mut appended_bytes) {
            self.fail(&error, answers.drain(..));
        }
    }

    /// Does one thing. True when it is not durable yet.
    pub(super) fn execute(
        &mut self,
        task: Task,
        answers: &mut Vec<Done>,
        appended_bytes: &mut usize,
    ) -> Result<bool, StorageError> {
        if let Task::Append { entries, bytes, epoch, committed } = task {
            self.segments.committed = committed;
            self.segments.write(&entries)?;
            *appended_bytes += bytes;
            let mut state = self.state();
            if state.epoch == epoch {
                state.written = self.segments.next;
                state.forget_written();
            }
            return Ok(true);
        }
        // In order: what was appended before is durable before.
        self.flush(answers, appended_bytes)?;
        match task {
            Task::Append { .. } => {}
            Task::TruncateAfter(last) => self.segments.truncate_after(last)?,
            Task::Purge(up_to) => self.segments.purge(up_to)?,
            Task::Rotate => self.segments.rotate()?,
            Task::SaveVote(vote) => slot::save(&self.segments.disk, VOTE, &vote)?,
            Task::Trust => slot::save(&self.segments.disk, DOUBT, &[])?,
        }
        Ok(false)
    }

    /// Makes durable what was written, and says so.
    fn flush(&mut self, answers: &mut Vec<Done>, appended_bytes: &mut usize) -> Result<(), StorageError> {
        self.segments.sync()?;
        self.state().pending_bytes -= std::mem::take(appended_bytes);
        for done in answers.drain(..) {
            done(Ok(()));
        }
        Ok(())
    }

    /// Nothing is tried again: the disk may have lost what it was given, and would not say so twice.
    fn fail(&self, error: &StorageError, answers: impl Iterator<Item = Done>) {
        self.state().broken.get_or_insert_with(|| error.clone());
        for done in answers {
            done(Err(error.clone()));
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody writes any longer: who still waits, or asks later, is told. Also when a step panicked.
impl<D: Disk> Drop for Writer<D> {
    fn drop(&mut self) {
        let unanswered = {
            let mut state = self.state();
            state.broken.get_or_insert(StorageError::Closed);
            std::mem::take(&mut state.queue)
        };
        for Command { done, .. } in unanswered {
            done(Err(StorageError::Closed));
        }
    }
}
