//! Work of which only so much is under way at a time.

use std::sync::{Condvar, Mutex, PoisonError};

/// So many bytes that several threads share. A thread that wants more than are left waits until others have given theirs back.
#[derive(Debug)]
pub(super) struct Budget {
    total: u64,
    left: Mutex<u64>,
    returned: Condvar,
}

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        Self { total: bytes, left: Mutex::new(bytes), returned: Condvar::new() }
    }

    /// Does what takes `bytes`, once so many are left; what takes more than there are in all is done alone. Within it none may be
    /// asked for, or it could wait for itself.
    pub(super) fn spend<T>(&self, bytes: u64, work: impl FnOnce() -> T) -> T {
        let bytes = bytes.min(self.total);
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = self.returned.wait_while(left, |left| *left < bytes).unwrap_or_else(PoisonError::into_inner);
        *left -= bytes;
        drop(left);
        let _spent = Spent { budget: self, bytes };
        work()
    }
}

/// Gives bytes back, also when the work panics.
struct Spent<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Drop for Spent<'_> {
    fn drop(&mut self) {
        *self.budget.left.lock().unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.budget.returned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread::{scope, yield_now};

    #[test]
    fn what_is_under_way_never_exceeds_it_and_all_gets_done() {
        let (budget, under_way, done) = (Budget::new(100), AtomicU64::new(0), AtomicU64::new(0));
        scope(|scope| {
            for thread in 0..8 {
                let (budget, under_way, done) = (&budget, &under_way, &done);
                scope.spawn(move || {
                    let mut random = Random::new(1, thread);
                    for _ in 0..200 {
                        // Some want more than there is.
                        let bytes = 1 + u64::from(random.below(120));
                        budget.spend(bytes, || {
                            let before = under_way.fetch_add(bytes, Ordering::SeqCst);
                            assert!(before + bytes <= 100 || before == 0, "{before} and {bytes}");
                            yield_now();
                            under_way.fetch_sub(bytes, Ordering::SeqCst);
                        });
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(done.into_inner(), 8 * 200);
        assert_eq!(budget.left.into_inner().unwrap(), 100);
    }

    #[test]
    fn a_panic_gives_them_back() {
        let budget = Budget::new(10);
        assert!(catch_unwind(AssertUnwindSafe(|| budget.spend(7, || panic!("unlucky")))).is_err());
        assert_eq!(budget.spend(10, || 5), 5);
    }
}
