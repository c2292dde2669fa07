//! Medians of interleaved rounds: whatever else the machine does disturbs all subjects of a row alike.

use std::time::{Duration, Instant};

/// How long is measured.
pub(crate) struct Clock {
    pub(crate) rounds: usize,
    /// What one subject gets of a round, at least one call. Short, so that on a busy machine most turns are undisturbed.
    round: Duration,
}

impl Clock {
    pub(crate) const FULL: Self = Self { rounds: 25, round: Duration::from_millis(2) };
    pub(crate) const QUICK: Self = Self { rounds: 3, round: Duration::from_millis(1) };

    /// Seconds per call of every run, the median over the rounds.
    pub(crate) fn medians(&self, mut runs: Vec<Run<'_>>) -> Vec<f64> {
        let mut samples = vec![Vec::new(); runs.len()];
        for _ in 0..self.rounds {
            for (run, samples) in runs.iter_mut().zip(&mut samples) {
                // The first call of a turn finds the caches as the subject before left them.
                run();
                samples.push(self.turn(run));
            }
        }
        samples
            .into_iter()
            .map(|mut samples| {
                samples.sort_by(f64::total_cmp);
                samples[samples.len() / 2]
            })
            .collect()
    }

    fn turn(&self, run: &mut Run<'_>) -> f64 {
        let begin = Instant::now();
        let (mut calls, mut batch) = (0u32, 1);
        loop {
            (0..batch).for_each(|_| run());
            calls += batch;
            let elapsed = begin.elapsed();
            if elapsed >= self.round {
                return elapsed.as_secs_f64() / f64::from(calls);
            }
            batch = (calls / 8).clamp(1, 64);
        }
    }
}

/// What is measured.
pub(crate) type Run<'a> = Box<dyn FnMut() + 'a>;
