//! How much of a run goes into one submit. Systems take a GPU for stuck that works on one for too long, and reset it: Windows after two
//! seconds. So runs are cut, first by what a slow device might take, then by what this one took.

use std::ops::Range;
use std::sync::OnceLock;
use std::time::Duration;

/// What one submit may take unless told otherwise: a quarter of Windows' patience, since the next one may take longer than the last.
pub const LONGEST_SUBMIT: Duration = Duration::from_millis(500);

/// Floating-point operations and bytes a second of a device that is slower than most: an old processor's graphics.
const SLOW_FLOPS: f64 = 50e9;
const SLOW_BYTES: f64 = 5e9;

/// Where the runs of a plan are cut.
#[derive(Debug)]
pub(super) struct Pace {
    /// What each dispatch would take on a slow device, in seconds.
    estimates: Vec<f64>,
    /// The longest a submit may take, in seconds.
    longest: f64,
    /// The submits, once their time is known.
    settled: OnceLock<Vec<Range<usize>>>,
}

impl Pace {
    /// For dispatches of these floating-point operations and bytes.
    pub(super) fn new(work: impl Iterator<Item = (u64, u64)>, longest: Duration) -> Self {
        let seconds = |(flops, bytes): (u64, u64)| (flops as f64 / SLOW_FLOPS).max(bytes as f64 / SLOW_BYTES);
        let pace =
            Self { estimates: work.map(seconds).collect(), longest: longest.as_secs_f64(), settled: OnceLock::new() };
        let pieces = pace.estimated();
        if pieces.len() <= 1 {
            pace.settled.get_or_init(|| pieces);
        }
        pace
    }

    /// The dispatches of each submit, once that is settled. Until then each of [`Pace::estimated`] is to be waited for.
    pub(super) fn settled(&self) -> Option<&[Range<usize>]> {
        self.settled.get().map(Vec::as_slice)
    }

    /// The dispatches of each submit, by what a slow device would take.
    pub(super) fn estimated(&self) -> Vec<Range<usize>> {
        cut(&self.estimates, self.longest)
    }

    /// Settles the submits of later runs, by what each of [`Pace::estimated`] took.
    pub(super) fn settle(&self, taken: &[Duration]) {
        let mut seconds = self.estimates.clone();
        for (piece, taken) in self.estimated().into_iter().zip(taken) {
            let piece = &mut seconds[piece];
            let factor = taken.as_secs_f64() / piece.iter().sum::<f64>().max(f64::MIN_POSITIVE);
            for seconds in piece {
                *seconds *= factor;
            }
        }
        self.settled.get_or_init(|| cut(&seconds, self.longest));
    }
}

/// Consecutive pieces, each of at most `longest` seconds or of a single dispatch.
fn cut(seconds: &[f64], longest: f64) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let (mut start, mut sum) = (0, 0.0);
    for (index, seconds) in seconds.iter().enumerate() {
        if index > start && sum + seconds > longest {
            pieces.push(start..index);
            (start, sum) = (index, 0.0);
        }
        sum += seconds;
    }
    pieces.push(start..seconds.len());
    pieces
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of ranges, some of a single one")]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_as_long_as_they_may_be() {
        for (seconds, expected) in [
            (vec![], vec![0..0]),
            (vec![0.2, 0.2, 0.1], vec![0..3]),
            (vec![0.2, 0.2, 0.2, 0.2], vec![0..2, 2..4]),
            (vec![0.1, 3.0, 0.1], vec![0..1, 1..2, 2..3]),
            (vec![3.0], vec![0..1]),
        ] {
            assert_eq!(cut(&seconds, 0.5), expected, "{seconds:?}");
        }
    }

    #[test]
    fn what_no_device_takes_long_for_is_one_submit_and_never_timed() {
        let pace = Pace::new([(1_000_000_000, 0), (0, 100_000_000)].into_iter(), LONGEST_SUBMIT);
        assert_eq!(pace.settled(), Some(&[0..2][..]));
    }

    #[test]
    fn what_was_measured_replaces_what_was_estimated() {
        // 0.4 s each on a slow device.
        let work = [(20_000_000_000, 0); 6];
        let pace = |taken: &[u64]| {
            let pace = Pace::new(work.into_iter(), LONGEST_SUBMIT);
            assert!(pace.settled().is_none() && pace.estimated().len() == 6);
            pace.settle(&taken.iter().copied().map(Duration::from_millis).collect::<Vec<_>>());
            pace.settled().unwrap().to_vec()
        };
        assert_eq!(pace(&[5; 6]), [0..6], "a fast device");
        assert_eq!(pace(&[100, 200, 300, 100, 600, 1]), [0..2, 2..4, 4..5, 5..6], "one that is slow at some things");
        assert_eq!(pace(&[900; 6]).len(), 6, "one that is slower still");
    }
}
