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
        self.sampled(runs.len(), |run| {
            // The first call of a turn finds the caches as the subject before left them.
            runs[run]();
            self.turn(&mut runs[run])
        })
    }

    /// As [`medians`](Self::medians), of the seconds that runs say to have taken: not all that they do is to count.
    pub(crate) fn medians_told(&self, mut runs: Vec<TellingRun<'_>>) -> Vec<f64> {
        self.sampled(runs.len(), |run| {
            let begin = Instant::now();
            let (mut calls, mut seconds) = (0u32, 0.0);
            while calls == 0 || begin.elapsed() < self.round {
                seconds += runs[run]();
                calls += 1;
            }
            seconds / f64::from(calls)
        })
    }

    /// The median over the rounds of what `turn` measures for each of `runs` subjects, one after the other.
    fn sampled(&self, runs: usize, mut turn: impl FnMut(usize) -> f64) -> Vec<f64> {
        let mut samples = vec![Vec::new(); runs];
        for _ in 0..self.rounds {
            samples.iter_mut().enumerate().for_each(|(run, samples)| samples.push(turn(run)));
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

/// What measures itself: the seconds of one run.
pub(crate) type TellingRun<'a> = Box<dyn FnMut() -> f64 + 'a>;
