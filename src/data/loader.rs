//! Batches made ahead of the steps that take them.

use crate::error::{Error, Result};
use futures_channel::oneshot;
use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

/// Worker threads that make the batches of consecutive steps.
///
/// Of `n` workers each makes every nth batch and is never more than two ahead of what was taken, so that at most `2n` batches exist.
/// Batches are taken from the workers in turn: their order is that of the steps, whatever the number of workers and whichever of
/// them is faster. Dropping the loader ends the threads.
#[derive(Debug)]
pub struct Loader<T> {
    workers: Vec<Worker<T>>,
    /// The batches that workers were asked for, in the order of steps.
    ahead: VecDeque<oneshot::Receiver<Result<T>>>,
    /// The step whose batch is taken next.
    step: u32,
    /// Whose turn it is.
    turn: usize,
}

#[derive(Debug)]
struct Worker<T> {
    /// Where its next batches go.
    requests: Sender<oneshot::Sender<Result<T>>>,
    /// `None` once it has been found dead.
    thread: Option<JoinHandle<()>>,
}

/// How many batches a worker is asked for before the first is taken.
const AHEAD: usize = 2;

impl<T: Send + 'static> Loader<T> {
    /// Starts `workers` threads that `make` the batches of the steps from `first` on.
    ///
    /// # Errors
    /// [`Error::Io`] when the system starts no more threads.
    pub fn new(
        first: u32,
        workers: NonZeroUsize,
        make: impl Fn(u32) -> Result<T> + Send + Sync + 'static,
    ) -> Result<Self> {
        let make = Arc::new(make);
        let (count, ahead) = (workers.get(), VecDeque::with_capacity(AHEAD * workers.get()));
        let mut loader = Self { workers: Vec::with_capacity(count), ahead, step: first, turn: 0 };
        for index in 0..count {
            let (requests, requested) = channel();
            let make = Arc::clone(&make);
            let (first, stride) = (first.wrapping_add(index as u32), count as u32);
            let thread = Builder::new()
                .name(format!("batches {index}"))
                .spawn(move || work(&requested, first, stride, &*make))
                .map_err(|error| Error::io("start", "a thread that makes batches", error))?;
            loader.workers.push(Worker { requests, thread: Some(thread) });
        }
        for batch in 0..AHEAD * count {
            loader.ahead.push_back(loader.workers[batch % count].request());
        }
        Ok(loader)
    }

    /// The batch of the next step; waits until it is made.
    ///
    /// # Errors
    /// What `make` returned; [`Error::Io`] with the message of a panic in it.
    pub fn take(&mut self) -> Result<T> {
        pollster::block_on(self.take_async())
    }

    /// As [`Loader::take`], without blocking.
    ///
    /// # Errors
    /// As [`Loader::take`].
    pub async fn take_async(&mut self) -> Result<T> {
        let made = match self.ahead.front_mut() {
            Some(batch) => batch.await.ok(),
            None => None,
        };
        self.ahead.pop_front();
        let (step, turn) = (self.step, self.turn);
        self.step = step.wrapping_add(1);
        self.turn = (turn + 1) % self.workers.len();
        let worker = &mut self.workers[turn];
        self.ahead.push_back(worker.request());
        made.unwrap_or_else(|| Err(worker.failure(step)))
    }
}

impl<T> Worker<T> {
    /// Its next batch, once it is made; never, if the worker is dead.
    fn request(&self) -> oneshot::Receiver<Result<T>> {
        let (batch, made) = oneshot::channel();
        // To a dead worker it does not get, and ends with this line.
        let _ = self.requests.send(batch);
        made
    }

    /// Why there are no more batches.
    fn failure(&mut self, step: u32) -> Error {
        let panic = self.thread.take().and_then(|thread| thread.join().err());
        let message = panic.as_deref().map_or("the thread has ended", message);
        Error::io("make", format!("the batch of step {}", step.wrapping_add(1)), io::Error::other(message))
    }
}

impl<T> Drop for Loader<T> {
    fn drop(&mut self) {
        // A worker ends when nobody can ask for its batches any more, and makes none that nobody can take.
        self.ahead.clear();
        let threads: Vec<_> = self.workers.drain(..).filter_map(|worker| worker.thread).collect();
        for thread in threads {
            // Whoever did not take the batch in which it panicked has no use for the message.
            let _ = thread.join();
        }
    }
}

/// Makes the batches of one worker as they are asked for.
fn work<T>(requests: &Receiver<oneshot::Sender<Result<T>>>, first: u32, stride: u32, make: &dyn Fn(u32) -> Result<T>) {
    let mut step = first;
    for batch in requests {
        if !batch.is_canceled() {
            // Whoever asked may be gone by now.
            let _ = batch.send(make(step));
        }
        step = step.wrapping_add(stride);
    }
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("the thread panicked")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread::sleep;
    use std::time::Duration;

    fn count(workers: usize) -> NonZeroUsize {
        NonZeroUsize::new(workers).unwrap()
    }

    #[test]
    fn batches_come_in_the_order_of_steps_whichever_worker_is_slow() {
        for workers in [1, 2, 3, 4] {
            let make = |step: u32| {
                sleep(Duration::from_millis(u64::from(step % 5 * 7 % 5)));
                Ok(step)
            };
            let mut loader = Loader::new(u32::MAX - 4, count(workers), make).unwrap();
            let taken: Vec<u32> = (0..20).map(|_| loader.take().unwrap()).collect();
            let expected: Vec<u32> = (0..20).map(|step| (u32::MAX - 4).wrapping_add(step)).collect();
            assert_eq!(taken, expected, "{workers} workers");
        }
    }

    #[test]
    fn workers_stay_ahead_but_not_too_far() {
        let made = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&made);
        let mut loader = Loader::new(0, count(3), move |step| {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(step)
        })
        .unwrap();
        for taken in 0..10 {
            sleep(Duration::from_millis(20));
            assert_eq!(made.load(Ordering::SeqCst), 6 + taken, "two for each worker, after {taken} were taken");
            loader.take().unwrap();
        }
    }

    #[test]
    fn an_error_is_that_of_its_step_and_the_next_batch_follows() {
        let make = |step| if step == 5 { Err(Error::Usage(format!("no batch {step}"))) } else { Ok(step) };
        let mut loader = Loader::new(4, count(2), make).unwrap();
        assert_eq!(loader.take().unwrap(), 4);
        assert_eq!(loader.take().unwrap_err().to_string(), "no batch 5");
        assert_eq!(loader.take().unwrap(), 6);
    }

    #[test]
    fn a_panic_becomes_an_error() {
        let make = |step| {
            assert!(step != 1, "step {step} is unlucky");
            Ok(step)
        };
        let mut loader = Loader::new(0, count(2), make).unwrap();
        assert_eq!(loader.take().unwrap(), 0);
        assert_eq!(loader.take().unwrap_err().to_string(), "cannot make the batch of step 2: step 1 is unlucky");
        assert_eq!(loader.take().unwrap(), 2);
        assert_eq!(loader.take().unwrap_err().to_string(), "cannot make the batch of step 4: the thread has ended");
    }

    #[test]
    fn dropping_ends_the_threads() {
        let alive = Arc::new(());
        for taken in 0..4 {
            let held = Arc::clone(&alive);
            let mut loader = Loader::new(0, count(4), move |_| Ok(Arc::clone(&held))).unwrap();
            for _ in 0..taken {
                loader.take().unwrap();
            }
            drop(loader);
            assert_eq!(Arc::strong_count(&alive), 1, "nothing of a thread is left, after {taken} batches");
        }
    }
}
