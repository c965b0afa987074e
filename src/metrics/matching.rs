//! Scores of true objects matched with predicted ones: SEG, the average precision of the 2018 Data Science Bowl, merges.

use std::collections::BTreeMap;

use super::contingency::{Contingency, Overlap};

/// The thresholds of IoU that average precision is computed at: 0.50 to 0.95 in steps of 0.05.
pub const IOU_THRESHOLDS: [f64; 10] = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95];

fn objects(sizes: &BTreeMap<u32, u64>) -> usize {
    sizes.len() - usize::from(sizes.contains_key(&0))
}

impl Contingency {
    /// The number of objects in the truth.
    pub fn true_objects(&self) -> usize {
        objects(self.truth())
    }

    /// The number of objects in the prediction.
    pub fn predicted_objects(&self) -> usize {
        objects(self.prediction())
    }

    /// Pairs of a true and a predicted object that share pixels, with the size of the true object and of the union.
    fn pairs(&self) -> impl Iterator<Item = (Overlap, u64, u64)> {
        let objects = self.overlaps().iter().filter(|overlap| overlap.truth != 0 && overlap.prediction != 0);
        objects.map(|&overlap| {
            let size = self.truth()[&overlap.truth];
            (overlap, size, size + self.prediction()[&overlap.prediction] - overlap.pixels)
        })
    }

    /// SEG of the Cell Tracking Challenge: the mean over true objects R of `|R ∩ S| / |R ∪ S|` for the predicted object S that
    /// covers more than half of R, 0 where there is none. `None` without true objects.
    pub fn seg(&self) -> Option<f64> {
        let matched = self.pairs().filter(|(overlap, size, _)| 2 * overlap.pixels > *size);
        let sum: f64 = matched.map(|(overlap, _, union)| overlap.pixels as f64 / union as f64).sum();
        let count = self.true_objects();
        (count > 0).then(|| sum / count as f64)
    }

    /// The precision of the 2018 Data Science Bowl at each of [`IOU_THRESHOLDS`]: `TP / (TP + FP + FN)`, a true positive being a
    /// pair of objects whose IoU is greater than the threshold. The score of an image is the mean over the thresholds, that of a
    /// data set the mean over its images.
    ///
    /// `None` without true and predicted objects.
    pub fn average_precision(&self) -> Option<[f64; 10]> {
        let all = self.true_objects() + self.predicted_objects();
        if all == 0 {
            return None;
        }
        let mut hits = [0_usize; 10];
        for (overlap, _, union) in self.pairs() {
            // Thresholds are twentieths, 10 to 19: the comparison is exact. Above one half an object has at most one partner.
            hits.iter_mut()
                .zip(10..)
                .filter(|&(_, twentieths)| 20 * overlap.pixels > twentieths * union)
                .for_each(|(h, _)| *h += 1);
        }
        Some(hits.map(|hits| hits as f64 / (all - hits) as f64))
    }

    /// How many true objects the prediction has merged: those of which a predicted object covers more than half that covers more
    /// than half of another one too.
    pub fn merged_objects(&self) -> usize {
        let mut covered: BTreeMap<u32, usize> = BTreeMap::new();
        for (overlap, ..) in self.pairs().filter(|(overlap, size, _)| 2 * overlap.pixels > *size) {
            *covered.entry(overlap.prediction).or_insert(0) += 1;
        }
        covered.into_values().filter(|&count| count > 1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::contingency::tests::table;
    use super::*;

    fn at(precision: [f64; 10], threshold: f64) -> f64 {
        precision[IOU_THRESHOLDS.iter().position(|&t| (t - threshold).abs() < 1e-9).unwrap()]
    }

    #[test]
    fn seg_worked_by_hand() {
        // Object 1: IoU 3/4. Object 2: 1. Object 3: missed.
        let table = table(&["11112233"], &["01117700"]);
        assert_eq!(table.seg(), Some((3.0 / 4.0 + 1.0) / 3.0));
        let half = self::table(&["1122", "0000"], &["1000", "1000"]);
        assert_eq!(half.seg(), Some(0.0), "exactly half is no match");
        let union = self::table(&["111100"], &["011150"]);
        assert_eq!(union.seg(), Some(0.75));
        let larger = self::table(&["111100"], &["022220"]);
        assert_eq!(larger.seg(), Some(3.0 / 5.0));
    }

    #[test]
    fn precision_worked_by_hand() {
        // IoU 1/2 is not above 0.5: one missed, one invented.
        assert_eq!(table(&["1100"], &["1000"]).average_precision(), Some([0.0; 10]));
        // IoU 3/4 for one object, 1 for another, a third missed, a fourth invented.
        let precision = table(&["1111022030"], &["5550066007"]).average_precision().unwrap();
        // Two hits, one false, one missed: 2 of 4; from 0.75 on one hit: 1 of 5.
        assert_eq!((at(precision, 0.5), at(precision, 0.7)), (0.5, 0.5));
        assert_eq!((at(precision, 0.75), at(precision, 0.95)), (0.2, 0.2));
        // IoU 19/20 is not above 0.95.
        let long = ["1".repeat(20), "1".repeat(19) + "0"];
        let precision = table(&[&long[0]], &[&long[1]]).average_precision().unwrap();
        assert_eq!((at(precision, 0.9), at(precision, 0.95)), (1.0, 0.0));
    }

    #[test]
    fn merged_objects_worked_by_hand() {
        // 8 covers 1 and 3 and most of 2, then of 3 exactly half; 9 covers 4 alone.
        let merged = table(&["1122233044"], &["8880888099"]);
        assert_eq!(merged.merged_objects(), 3);
        let merged = table(&["1122233044"], &["8880880099"]);
        assert_eq!(merged.merged_objects(), 2);
        assert_eq!(table(&["11220"], &["33440"]).merged_objects(), 0);
        assert_eq!((merged.true_objects(), merged.predicted_objects()), (4, 2));
    }

    #[test]
    fn without_objects_there_is_no_score() {
        let empty = table(&["00"], &["00"]);
        assert_eq!((empty.seg(), empty.average_precision(), empty.merged_objects()), (None, None, 0));
        let invented = table(&["00"], &["01"]);
        assert_eq!((invented.seg(), invented.average_precision()), (None, Some([0.0; 10])));
        let missed = table(&["01"], &["00"]);
        assert_eq!((missed.seg(), missed.average_precision()), (Some(0.0), Some([0.0; 10])));
        let ignored = table(&["x1"], &["21"]);
        assert_eq!(ignored.average_precision(), Some([1.0; 10]), "an object where nothing is known is not invented");
    }
}
