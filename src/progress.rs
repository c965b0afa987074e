//! How long work says how far it is, and is told to stop.

use crate::error::{Error, Result};
use rayon::prelude::*;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

/// Hears how much is done and how much there is, and may break off: the work then ends with [`Error::Interrupted`]. It may be called by
/// any thread of rayon's pool, one at a time, and must not itself wait for that pool.
pub type Progress<'a> = dyn FnMut(usize, usize) -> ControlFlow<()> + Send + 'a;

/// Hears what comes next, in words, and may break off: the work then ends with [`Error::Interrupted`].
pub type Announce<'a> = dyn FnMut(&str) -> ControlFlow<()> + 'a;

/// A [`Progress`] that nobody watches.
pub fn unwatched(_done: usize, _total: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// What a watcher's answer means for the work.
pub(crate) fn unless_stopped(answer: ControlFlow<()>) -> Result<()> {
    if answer.is_break() { Err(Error::Interrupted) } else { Ok(()) }
}

/// Applies a function to every item, on all cores; the results are in the order of the items.
pub(crate) fn map_all<T: Sync, R: Send>(
    items: &[T],
    progress: &mut Progress<'_>,
    function: impl Fn(&T) -> R + Sync,
) -> Result<Vec<R>> {
    let counter = Mutex::new((0, progress));
    let map = |item| {
        let result = function(item);
        let (done, progress) = &mut *counter.lock().unwrap_or_else(PoisonError::into_inner);
        *done += 1;
        unless_stopped(progress(*done, items.len()))?;
        Ok(result)
    };
    items.par_iter().map(map).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order_and_whoever_breaks_off_gets_none() {
        let items: Vec<usize> = (0..100).collect();
        let mut heard = Vec::new();
        let squares = map_all(
            &items,
            &mut |done, total| {
                heard.push((done, total));
                ControlFlow::Continue(())
            },
            |item| item * item,
        );
        assert_eq!(squares.unwrap(), items.iter().map(|item| item * item).collect::<Vec<_>>());
        assert_eq!(heard, (1..=100).map(|done| (done, 100)).collect::<Vec<_>>());
        let mut calls = 0;
        let stopped = map_all(
            &items,
            &mut |done, _| {
                calls += 1;
                if done == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
            |item| *item,
        );
        assert!(matches!(stopped, Err(Error::Interrupted)));
        assert!((3..100).contains(&calls), "{calls} calls after three were enough");
    }
}
