//! How long a call and its steps take, and how long it may.

use std::time::{Duration, Instant};

/// The time of one call.
#[derive(Debug)]
pub(super) struct Clock {
    started: Instant,
    limit: Option<Duration>,
    /// The end of the first step, which also warms up the device and is not counted.
    first_done: Option<Instant>,
    steps: u32,
    stepping: Duration,
    /// What of that time the device was idle for want of a batch.
    waiting: Duration,
}

impl Clock {
    pub(super) fn start(minutes: Option<f64>) -> Self {
        // More minutes than a duration holds are no limit.
        let limit = minutes.and_then(|minutes| Duration::try_from_secs_f64(60.0 * minutes).ok());
        Self {
            started: Instant::now(),
            limit,
            first_done: None,
            steps: 0,
            stepping: Duration::ZERO,
            waiting: Duration::ZERO,
        }
    }

    /// Adds a step that took so long, and of that waited so long for its batch.
    pub(super) fn add(&mut self, step: Duration, waiting: Duration) {
        if self.first_done.is_some() {
            self.steps += 1;
            self.stepping += step;
            self.waiting += waiting;
        }
        self.first_done.get_or_insert_with(Instant::now);
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn time_is_up(&self) -> bool {
        self.limit.is_some_and(|limit| self.elapsed() >= limit)
    }

    pub(super) fn steps_per_second(&self) -> Option<f64> {
        (self.steps > 0).then(|| f64::from(self.steps) / self.stepping.as_secs_f64().max(1e-9))
    }

    /// The share of the time of the steps in which they waited for their batches.
    pub(super) fn waiting_share(&self) -> Option<f64> {
        (self.steps > 0).then(|| self.waiting.as_secs_f64() / self.stepping.as_secs_f64().max(1e-9))
    }

    /// The time to do `steps` more, but not past the limit.
    pub(super) fn time_left(&self, steps: u32) -> Option<Duration> {
        // Evaluations and checkpoints will take the same share of the time as so far.
        let counted = self.first_done.filter(|_| self.steps > 0);
        let needed = counted.map(|since| since.elapsed().mul_f64(f64::from(steps) / f64::from(self.steps)));
        let allowed = self.limit.map(|limit| limit.saturating_sub(self.elapsed()));
        [needed, allowed].into_iter().flatten().min()
    }
}
