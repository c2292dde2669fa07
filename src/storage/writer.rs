//! Does what was queued, in order, and makes as much as there is durable at once.
//!
//! A step takes all that waits: entries that were appended one by one are written together, and one sync is for all of
//! them. While it waits for the disk the next ones gather. So a busy log syncs as often as the disk can, and an idle one
//! never waits for more to come.

use std::sync::{Arc, PoisonError};

use super::disk::Disk;
use super::error::StorageError;
use super::log::{Command, Done, Shared, State, Task};
use super::recovery::{DOUBT, VOTE};
use super::segments::Segments;
use super::slot;

/// The only one who writes.
pub(super) struct Writer<D: Disk> {
    pub(super) segments: Segments<D>,
    pub(super) shared: Arc<Shared<D::File>>,
}

impl<D: Disk> Writer<D> {
    /// Waits for work and does it, until the log is closed and all is done.
    pub(super) fn run(mut self) {
        while self.shared.wait() {
            self.step();
        }
    }

    /// Does all that is queued.
    pub(super) fn step(&mut self) {
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
