//! Scores of a division into segments, restricted to the true foreground: adapted Rand error, `V_Rand`, `V_Info`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::contingency::{Contingency, Overlap};

/// The adapted Rand error, over ordered pairs of distinct pixels of the true foreground.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AdaptedRand {
    /// 1 − 2PR / (P + R): 0 is perfect.
    pub error: f64,
    /// The share of pairs joined by the prediction that the truth joins too; merges lower it.
    pub precision: f64,
    /// The share of pairs joined by the truth that the prediction joins too; splits lower it.
    pub recall: f64,
}

/// A score between 0 and 1 with its two halves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SplitMerge {
    /// The harmonic mean of the halves: 1 is perfect.
    pub score: f64,
    /// 1 where the prediction splits no true segment.
    pub split: f64,
    /// 1 where the prediction merges no true segments.
    pub merge: f64,
}

/// A part over the mean of two wholes, over the first and over the second; 0/0 is 1: nothing is wrong where there is nothing.
fn over(part: f64, truth: f64, prediction: f64) -> [f64; 3] {
    [f64::midpoint(truth, prediction), truth, prediction].map(|whole| if whole == 0.0 { 1.0 } else { part / whole })
}

fn squares<'a>(counts: impl IntoIterator<Item = &'a u64>) -> f64 {
    counts.into_iter().map(|&count| u128::from(count).pow(2)).sum::<u128>() as f64
}

/// The pixels of the true foreground, counted by pair of labels, by true and by predicted label.
struct Foreground {
    pixels: u64,
    joint: Vec<u64>,
    truth: Vec<u64>,
    prediction: Vec<u64>,
    /// Pixels taken out of the counts by predicted label and by pair, each of which is a segment by itself.
    singletons: u64,
}

impl Foreground {
    /// `None` where the truth is background only. Where `background_is_single`, each pixel that is predicted background is a
    /// segment by itself, else predicted background is a segment like others.
    fn new(table: &Contingency, background_is_single: bool) -> Option<Self> {
        let is_single = |overlap: &Overlap| background_is_single && overlap.prediction == 0;
        let (mut joint, mut prediction, mut singletons) = (Vec::new(), BTreeMap::new(), 0);
        for overlap in table.overlaps().iter().filter(|overlap| overlap.truth != 0) {
            if is_single(overlap) {
                singletons += overlap.pixels;
            } else {
                joint.push(overlap.pixels);
                *prediction.entry(overlap.prediction).or_insert(0) += overlap.pixels;
            }
        }
        let truth: Vec<u64> =
            table.truth().iter().filter(|&(&label, _)| label != 0).map(|(_, &pixels)| pixels).collect();
        let pixels = truth.iter().sum();
        (pixels > 0).then(|| Self { pixels, joint, truth, prediction: prediction.into_values().collect(), singletons })
    }

    /// The entropy, in nats, of a division into segments of these sizes and, if they are part of it, the singletons.
    fn entropy(&self, segments: &[u64], singletons: u64) -> f64 {
        let n = self.pixels as f64;
        let term = |pixels: u64| pixels as f64 / n * (n / pixels as f64).ln();
        segments.iter().map(|&pixels| term(pixels)).sum::<f64>() + singletons as f64 / n * n.ln()
    }
}

impl Contingency {
    /// The adapted Rand error of SNEMI3D as scikit-image computes it (`adapted_rand_error`): with c the pixels of the true foreground
    /// by pair of labels, a by true and b by predicted label, `precision = Σ c(c−1) / Σ b(b−1)`, `recall = Σ c(c−1) / Σ a(a−1)`.
    ///
    /// Predicted background is a segment like others. `None` where the truth is background only.
    pub fn adapted_rand(&self) -> Option<AdaptedRand> {
        let foreground = Foreground::new(self, false)?;
        let pairs = |counts: &[u64]| squares(counts) - foreground.pixels as f64;
        let [joint, truth, prediction] =
            [&foreground.joint, &foreground.truth, &foreground.prediction].map(|c| pairs(c));
        let [score, recall, precision] = over(joint, truth, prediction);
        Some(AdaptedRand { error: 1.0 - score, precision, recall })
    }

    /// The foreground-restricted Rand score (Arganda-Carreras et al., *Crowdsourcing the creation of image segmentation algorithms
    /// for connectomics*, 2015): `V_Rand = Σ p² / (½ Σ s² + ½ Σ t²)`, `split = Σ p² / Σ t²`, `merge = Σ p² / Σ s²`, with p the shares
    /// of the true foreground by pair of labels, t by true and s by predicted label.
    ///
    /// Each pixel predicted background is a segment by itself. The challenge thins the borders of the prediction first
    /// ([`thin_borders`](super::thin_borders)). `None` where the truth is background only.
    pub fn v_rand(&self) -> Option<SplitMerge> {
        let foreground = Foreground::new(self, true)?;
        let single = foreground.singletons as f64;
        let [score, split, merge] = over(
            squares(&foreground.joint) + single,
            squares(&foreground.truth),
            squares(&foreground.prediction) + single,
        );
        Some(SplitMerge { score, split, merge })
    }

    /// The foreground-restricted information score of the same paper: `V_Info = I(S;T) / (½ H(S) + ½ H(T))`,
    /// `split = I(S;T) / H(S)`, `merge = I(S;T) / H(T)`, S the prediction and T the truth; background as in [`Contingency::v_rand`].
    ///
    /// `None` where the truth is background only.
    pub fn v_info(&self) -> Option<SplitMerge> {
        let foreground = Foreground::new(self, true)?;
        let truth = foreground.entropy(&foreground.truth, 0);
        let prediction = foreground.entropy(&foreground.prediction, foreground.singletons);
        let joint = foreground.entropy(&foreground.joint, foreground.singletons);
        let information = (truth + prediction - joint).max(0.0);
        let [score, merge, split] = over(information, truth, prediction);
        Some(SplitMerge { score, split, merge })
    }
}

#[cfg(test)]
mod tests {
    use super::super::contingency::tests::table;
    use super::*;

    fn close(found: impl Into<[f64; 3]>, expected: [f64; 3]) {
        let found = found.into();
        let near = found.iter().zip(&expected).all(|(found, expected)| (found - expected).abs() < 1e-12);
        assert!(near, "{found:?}, not {expected:?}");
    }

    impl From<AdaptedRand> for [f64; 3] {
        fn from(AdaptedRand { error, precision, recall }: AdaptedRand) -> Self {
            [error, precision, recall]
        }
    }

    impl From<SplitMerge> for [f64; 3] {
        fn from(SplitMerge { score, split, merge }: SplitMerge) -> Self {
            [score, split, merge]
        }
    }

    #[test]
    fn a_merge_worked_by_hand() {
        // Four pixels of 1, two of 2, all joined by the prediction.
        let merged = table(&["1111022"], &["5555555"]);
        // Pairs: 4·3 + 2·1 = 14 in the truth and in both, 6·5 = 30 in the prediction.
        close(merged.adapted_rand().unwrap(), [1.0 - 14.0 / 22.0, 14.0 / 30.0, 1.0]);
        // Σ p² = Σ t² = (16 + 4) / 36, Σ s² = 1.
        close(merged.v_rand().unwrap(), [20.0 / 28.0, 1.0, 20.0 / 36.0]);
        // A single segment tells nothing, and splits nothing.
        close(merged.v_info().unwrap(), [0.0, 1.0, 0.0]);
    }

    #[test]
    fn a_split_worked_by_hand() {
        let split = table(&["1111", "0000"], &["3344", "4444"]);
        // Pairs: 2 · 2·1 = 4 in the prediction and in both, 4·3 = 12 in the truth. What lies outside the foreground does not count.
        close(split.adapted_rand().unwrap(), [0.5, 1.0, 4.0 / 12.0]);
        close(split.v_rand().unwrap(), [8.0 / 12.0, 0.5, 1.0]);
        close(split.v_info().unwrap(), [0.0, 0.0, 1.0]);
    }

    #[test]
    fn information_worked_by_hand() {
        // Quarters in the truth, halves in the prediction, which tell one of two bits.
        let halves = table(&["11223344"], &["55556666"]);
        close(halves.v_info().unwrap(), [1.0 / 1.5, 1.0, 0.5]);
    }

    #[test]
    fn predicted_background_is_single_pixels_or_a_segment() {
        let missed = table(&["1122"], &["0022"]);
        close(missed.adapted_rand().unwrap(), [0.0, 1.0, 1.0]);
        // Σ p² = Σ s² = (1 + 1 + 4) / 16, Σ t² = 8 / 16.
        close(missed.v_rand().unwrap(), [6.0 / 7.0, 6.0 / 8.0, 1.0]);
        // H(S) = 2 · ¼ · 2 + ½ · 1 = 1.5 bits, H(T) = I = 1.
        close(missed.v_info().unwrap(), [1.0 / 1.25, 1.0 / 1.5, 1.0]);
    }

    #[test]
    fn without_foreground_there_is_no_score_and_single_pixels_have_no_pairs() {
        let empty = table(&["000x"], &["0111"]);
        assert_eq!((empty.adapted_rand(), empty.v_rand(), empty.v_info()), (None, None, None));
        let single = table(&["12"], &["34"]);
        close(single.adapted_rand().unwrap(), [0.0, 1.0, 1.0]);
        let joined = table(&["12"], &["33"]);
        close(joined.adapted_rand().unwrap(), [1.0, 0.0, 1.0]);
    }
}
