//! The table that the scores by object are read from.

use std::collections::{BTreeMap, HashMap};

use crate::data::{IGNORE, LabelMap};
use crate::error::{Error, Result};

/// How many pixels a true and a predicted label have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The label in the truth.
    pub truth: u32,
    /// The label in the prediction.
    pub prediction: u32,
    /// Pixels that have both, at least 1.
    pub pixels: u64,
}

/// The sparse contingency table of two label maps: every pair of labels that shares a pixel, and the size of every label. Label 0
/// is background in both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contingency {
    overlaps: Vec<Overlap>,
    truth: BTreeMap<u32, u64>,
    prediction: BTreeMap<u32, u64>,
}

impl Contingency {
    /// Counts pairs of labels, in time linear in pixels. Pixels that are [`IGNORE`] in the truth are left out.
    ///
    /// # Errors
    /// [`Error::Usage`] when the maps differ in size or have not one value for each pixel.
    pub fn new(truth: &LabelMap, prediction: &LabelMap) -> Result<Self> {
        refuse_other_size(truth, prediction)?;
        let mut counts: HashMap<(u32, u32), u64> = HashMap::new();
        let pairs = truth.values.iter().zip(&prediction.values).map(|(&truth, &prediction)| (truth, prediction));
        let mut pairs = pairs.filter(|&(truth, _)| truth != IGNORE).peekable();
        while let Some(pair) = pairs.next() {
            // Neighbours mostly have the same labels: one look-up for a run of them.
            let mut run = 1;
            while pairs.next_if_eq(&pair).is_some() {
                run += 1;
            }
            *counts.entry(pair).or_insert(0) += run;
        }
        let overlaps = counts.into_iter().map(|((truth, prediction), pixels)| Overlap { truth, prediction, pixels });
        let mut overlaps: Vec<Overlap> = overlaps.collect();
        overlaps.sort_unstable_by_key(|overlap| (overlap.truth, overlap.prediction));
        let (mut truth, mut prediction) = (BTreeMap::new(), BTreeMap::new());
        for overlap in &overlaps {
            *truth.entry(overlap.truth).or_insert(0) += overlap.pixels;
            *prediction.entry(overlap.prediction).or_insert(0) += overlap.pixels;
        }
        Ok(Self { overlaps, truth, prediction })
    }

    /// The pairs of labels that share pixels, by true and then by predicted label.
    pub fn overlaps(&self) -> &[Overlap] {
        &self.overlaps
    }

    /// Pixels by true label.
    pub fn truth(&self) -> &BTreeMap<u32, u64> {
        &self.truth
    }

    /// Pixels by predicted label.
    pub fn prediction(&self) -> &BTreeMap<u32, u64> {
        &self.prediction
    }
}

/// Refuses maps of different sizes, and those that have not one value for each pixel.
pub(super) fn refuse_other_size(truth: &LabelMap, prediction: &LabelMap) -> Result<()> {
    truth.check()?;
    prediction.check()?;
    if (truth.height, truth.width) == (prediction.height, prediction.width) {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "the truth has {} x {} pixels, the prediction {} x {}; they must be equal",
        truth.width, truth.height, prediction.width, prediction.height
    )))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A map from digits; `x` is ignored.
    pub(in crate::metrics) fn labels(rows: &[&str]) -> LabelMap {
        let value = |c: char| c.to_digit(10).unwrap_or(IGNORE);
        let width = rows.first().map_or(0, |row| row.len());
        LabelMap { height: rows.len(), width, values: rows.concat().chars().map(value).collect() }
    }

    /// The table of two maps from digits.
    pub(in crate::metrics) fn table(truth: &[&str], prediction: &[&str]) -> Contingency {
        Contingency::new(&labels(truth), &labels(prediction)).unwrap()
    }

    #[test]
    fn pairs_are_counted_and_ignored_pixels_are_not() {
        let table = table(&["1100", "x122"], &["3330", "3044"]);
        let overlaps: Vec<(u32, u32, u64)> =
            table.overlaps().iter().map(|overlap| (overlap.truth, overlap.prediction, overlap.pixels)).collect();
        assert_eq!(overlaps, [(0, 0, 1), (0, 3, 1), (1, 0, 1), (1, 3, 2), (2, 4, 2)]);
        assert_eq!(table.truth(), &BTreeMap::from([(0, 2), (1, 3), (2, 2)]));
        assert_eq!(table.prediction(), &BTreeMap::from([(0, 2), (3, 3), (4, 2)]));
    }

    #[test]
    fn sizes_must_agree() {
        let message = Contingency::new(&labels(&["11"]), &labels(&["1", "1"])).unwrap_err().to_string();
        assert_eq!(message, "the truth has 2 x 1 pixels, the prediction 1 x 2; they must be equal");
    }
}
