//! How much of a run goes into one submit. Systems take a GPU for stuck that works on one for too long, and reset it: Windows after two
//! seconds. So runs are cut, first by what a slow device might take, then by what this one took: between dispatches, and within one that is too
//! long by itself, where its kernel can begin at any workgroup.

use std::ops::Range;
use std::sync::OnceLock;
use std::time::Duration;

/// What one submit may take unless told otherwise: a quarter of Windows' patience, since the next one may take longer than the last.
pub const LONGEST_SUBMIT: Duration = Duration::from_millis(500);

/// Floating-point operations and bytes a second of a device that is slower than most: an old processor's graphics.
const SLOW_FLOPS: f64 = 50e9;
const SLOW_BYTES: f64 = 5e9;

/// What one dispatch is to a plan that may have to cut it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Work {
    /// Floating-point operations.
    pub(super) flops: u64,
    /// Bytes of what it binds.
    pub(super) bytes: u64,
    /// Into how many launches it can be divided.
    pub(super) divisible_by: u32,
}

/// What goes into one submit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Consecutive dispatches.
    Dispatches(Range<usize>),
    /// These workgroups of one dispatch.
    Workgroups(usize, Range<u32>),
}

/// Where the runs of a plan are cut.
#[derive(Debug)]
pub(super) struct Pace {
    /// What each dispatch would take on a slow device, in seconds.
    estimates: Vec<f64>,
    /// Into how many launches each can be divided.
    divisible_by: Vec<u32>,
    /// The longest a submit may take, in seconds.
    longest: f64,
    /// The submits, once their time is known.
    settled: OnceLock<Vec<Piece>>,
}

impl Pace {
    /// For these dispatches.
    pub(super) fn new(work: &[Work], longest: Duration) -> Self {
        let seconds = |work: &Work| (work.flops as f64 / SLOW_FLOPS).max(work.bytes as f64 / SLOW_BYTES);
        let pace = Self {
            estimates: work.iter().map(seconds).collect(),
            divisible_by: work.iter().map(|work| work.divisible_by).collect(),
            longest: longest.as_secs_f64(),
            settled: OnceLock::new(),
        };
        let pieces = pace.estimated();
        if pieces.len() <= 1 {
            pace.settled.get_or_init(|| pieces);
        }
        pace
    }

    /// The submits, once that is settled. Until then each of [`Pace::estimated`] is to be waited for.
    pub(super) fn settled(&self) -> Option<&[Piece]> {
        self.settled.get().map(Vec::as_slice)
    }

    /// The submits, by what a slow device would take.
    pub(super) fn estimated(&self) -> Vec<Piece> {
        self.cut(&self.estimates)
    }

    /// Settles the submits of later runs, by what each of [`Pace::estimated`] took.
    pub(super) fn settle(&self, taken: &[Duration]) {
        let mut seconds = self.estimates.clone();
        for (piece, taken) in self.estimated().into_iter().zip(taken) {
            match piece {
                Piece::Dispatches(dispatches) => {
                    let piece = &mut seconds[dispatches];
                    let factor = taken.as_secs_f64() / piece.iter().sum::<f64>().max(f64::MIN_POSITIVE);
                    for seconds in piece {
                        *seconds *= factor;
                    }
                }
                Piece::Workgroups(dispatch, Range { start, .. }) => {
                    let before = if start == 0 { 0.0 } else { seconds[dispatch] };
                    seconds[dispatch] = before + taken.as_secs_f64();
                }
            }
        }
        self.settled.get_or_init(|| self.cut(&seconds));
    }

    /// Pieces of at most the longest time, or of what cannot be divided further, for dispatches of so many seconds.
    fn cut(&self, seconds: &[f64]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let (mut start, mut sum) = (0, 0.0);
        for (dispatch, (&seconds, &divisible_by)) in seconds.iter().zip(&self.divisible_by).enumerate() {
            if dispatch > start && sum + seconds > self.longest {
                pieces.push(Piece::Dispatches(start..dispatch));
                (start, sum) = (dispatch, 0.0);
            }
            sum += seconds;
            if seconds > self.longest && divisible_by > 1 {
                // A number too large for its type becomes the largest.
                let launches = ((seconds / self.longest).ceil() as u32).min(divisible_by);
                let workgroups = divisible_by.div_ceil(launches);
                pieces.extend((0..divisible_by).step_by(workgroups as usize).map(|first| {
                    Piece::Workgroups(dispatch, first..first.saturating_add(workgroups).min(divisible_by))
                }));
                (start, sum) = (dispatch + 1, 0.0);
            }
        }
        if start < seconds.len() || pieces.is_empty() {
            pieces.push(Piece::Dispatches(start..seconds.len()));
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For dispatches of these operations in 10⁹ and bytes in 10⁶, each of which can be divided into so many.
    fn pace(work: &[(u64, u64, u32)]) -> Pace {
        let work = work.iter().map(|&(flops, bytes, divisible_by)| Work {
            flops: flops * 1_000_000_000,
            bytes: bytes * 1_000_000,
            divisible_by,
        });
        Pace::new(&work.collect::<Vec<_>>(), LONGEST_SUBMIT)
    }

    /// Pieces in short: `0-2` dispatches 0 and 1, `0:0-4` workgroups 0 to 3 of dispatch 0.
    fn short(pieces: &[Piece]) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Dispatches(Range { start, end }) => format!("{start}-{end}"),
            Piece::Workgroups(dispatch, Range { start, end }) => format!("{dispatch}:{start}-{end}"),
        };
        pieces.iter().map(piece).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn pieces_are_as_long_as_they_may_be() {
        for (seconds, divisible_by, expected) in [
            (vec![], vec![], "0-0"),
            (vec![0.2, 0.2, 0.1], vec![1; 3], "0-3"),
            (vec![0.2, 0.2, 0.2, 0.2], vec![1; 4], "0-2 2-4"),
            (vec![0.1, 3.0, 0.1], vec![1; 3], "0-1 1-2 2-3"),
            (vec![3.0], vec![1], "0-1"),
            (vec![0.1, 1.4, 0.1], vec![9; 3], "0-1 1:0-3 1:3-6 1:6-9 2-3"),
            (vec![1.4, 0.5], vec![8; 2], "0:0-3 0:3-6 0:6-8 1-2"),
            (vec![3.0], vec![4], "0:0-1 0:1-2 0:2-3 0:3-4"),
            (vec![f64::INFINITY], vec![2], "0:0-1 0:1-2"),
        ] {
            let pace = Pace { estimates: vec![], divisible_by, longest: 0.5, settled: OnceLock::new() };
            assert_eq!(short(&pace.cut(&seconds)), expected, "{seconds:?}");
        }
    }

    #[test]
    fn what_no_device_takes_long_for_is_one_submit_and_never_timed() {
        assert_eq!(pace(&[(1, 0, 1), (0, 100, 1)]).settled().map(short).as_deref(), Some("0-2"));
    }

    #[test]
    fn what_was_measured_replaces_what_was_estimated() {
        let settled = |work: &[(u64, u64, u32)], taken: &[u64]| {
            let pace = pace(work);
            assert!(pace.settled().is_none() && pace.estimated().len() == taken.len());
            pace.settle(&taken.iter().copied().map(Duration::from_millis).collect::<Vec<_>>());
            short(pace.settled().unwrap())
        };
        // 0.4 s each on a slow device.
        let six = [(20, 0, 1); 6];
        assert_eq!(settled(&six, &[5; 6]), "0-6", "a fast device");
        assert_eq!(settled(&six, &[100, 200, 300, 100, 600, 1]), "0-2 2-4 4-5 5-6", "one that is slow at some things");
        assert_eq!(settled(&six, &[900; 6]), "0-1 1-2 2-3 3-4 4-5 5-6", "one that is slower still");
        assert_eq!(settled(&[(20, 0, 2); 2], &[900, 40]), "0:0-1 0:1-2 1-2", "and can divide");
        // 0.8 s, in two launches.
        let long = [(1, 0, 1), (40, 0, 10), (1, 0, 1)];
        assert_eq!(settled(&long, &[2, 10, 15, 2]), "0-3", "together they are short on a fast device");
        assert_eq!(settled(&long, &[90, 700, 800, 90]), "0-1 1:0-4 1:4-8 1:8-10 2-3", "a slower one");
    }
}
