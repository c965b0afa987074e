//! All scores by object, of an image and of a data set.

use std::fmt;

use serde::Serialize;

use super::contingency::Contingency;
use super::partition::{AdaptedRand, SplitMerge};
use super::thinning::thin_borders;
use super::warping::warping_error;
use crate::data::LabelMap;
use crate::error::Result;

/// How well predicted objects are true ones: of an image, or the mean over the images of a data set that have the score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct InstanceScores {
    /// Objects in the truth.
    pub true_objects: usize,
    /// Objects in the prediction.
    pub predicted_objects: usize,
    /// True objects that the prediction has merged with others ([`Contingency::merged_objects`]).
    pub merged_objects: usize,
    /// The mean of `average_precision`; `None` where there is neither a true nor a predicted object.
    pub mean_average_precision: Option<f64>,
    /// [`Contingency::average_precision`] at each of [`IOU_THRESHOLDS`](super::IOU_THRESHOLDS); `None` likewise.
    pub average_precision: Option<[f64; 10]>,
    /// [`Contingency::seg`], over all true objects of a data set; `None` where there is none, as for the scores below.
    pub seg: Option<f64>,
    /// [`Contingency::adapted_rand`].
    pub adapted_rand: Option<AdaptedRand>,
    /// [`Contingency::v_rand`] after the prediction's borders were thinned.
    pub v_rand_thinned: Option<SplitMerge>,
    /// [`Contingency::v_info`] after the prediction's borders were thinned.
    pub v_info_thinned: Option<SplitMerge>,
    /// [`warping_error`]; `None` where no pixel counts.
    pub warping_error: Option<f64>,
}

impl InstanceScores {
    /// The scores of an image from its true and predicted objects, 0 being background. Pixels that are
    /// [`IGNORE`](crate::data::IGNORE) in the truth do not count.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) when the maps differ in size or have not one value for each pixel.
    pub fn new(truth: &LabelMap, prediction: &LabelMap) -> Result<Self> {
        let table = Contingency::new(truth, prediction)?;
        let thinned = Contingency::new(truth, &thin_borders(prediction))?;
        Ok(Self {
            adapted_rand: table.adapted_rand(),
            v_rand_thinned: thinned.v_rand(),
            v_info_thinned: thinned.v_info(),
            warping_error: warping_error(truth, prediction)?,
            ..Self::of_pairs(&table)
        })
    }

    /// Those of the scores that pair objects, in time linear in pixels: counts, average precision and SEG. The others are `None`.
    ///
    /// # Errors
    /// As [`InstanceScores::new`].
    pub fn paired(truth: &LabelMap, prediction: &LabelMap) -> Result<Self> {
        Ok(Self::of_pairs(&Contingency::new(truth, prediction)?))
    }

    fn of_pairs(table: &Contingency) -> Self {
        let average_precision = table.average_precision();
        Self {
            true_objects: table.true_objects(),
            predicted_objects: table.predicted_objects(),
            merged_objects: table.merged_objects(),
            mean_average_precision: average_precision.map(|precision| precision.iter().sum::<f64>() / 10.0),
            average_precision,
            seg: table.seg(),
            ..Self::default()
        }
    }

    /// The scores of a data set: objects summed, SEG over all true objects as its source has it, and the mean of every other
    /// score over the images that have it.
    pub fn mean(images: &[Self]) -> Self {
        let sum = |count: fn(&Self) -> usize| images.iter().map(count).sum::<usize>();
        let mean =
            |score: fn(&Self) -> Option<f64>| mean(images.iter().filter_map(score).map(|score| [score])).map(|[m]| m);
        let halves = |score: fn(&Self) -> Option<SplitMerge>| {
            let scores =
                images.iter().filter_map(score).map(|SplitMerge { score, split, merge }| [score, split, merge]);
            self::mean(scores).map(|[score, split, merge]| SplitMerge { score, split, merge })
        };
        let rand = images.iter().filter_map(|image| image.adapted_rand);
        let rand = self::mean(rand.map(|AdaptedRand { error, precision, recall }| [error, precision, recall]));
        let true_objects = sum(|image| image.true_objects);
        let overlap: f64 = images.iter().filter_map(|image| Some(image.seg? * image.true_objects as f64)).sum();
        Self {
            true_objects,
            predicted_objects: sum(|image| image.predicted_objects),
            merged_objects: sum(|image| image.merged_objects),
            mean_average_precision: mean(|image| image.mean_average_precision),
            average_precision: self::mean(images.iter().filter_map(|image| image.average_precision)),
            seg: (true_objects > 0).then(|| overlap / true_objects as f64),
            adapted_rand: rand.map(|[error, precision, recall]| AdaptedRand { error, precision, recall }),
            v_rand_thinned: halves(|image| image.v_rand_thinned),
            v_info_thinned: halves(|image| image.v_info_thinned),
            warping_error: mean(|image| image.warping_error),
        }
    }
}

/// The mean, `None` of nothing.
fn mean<const N: usize>(values: impl Iterator<Item = [f64; N]>) -> Option<[f64; N]> {
    let (mut sum, mut count) = ([0.0; N], 0_usize);
    for value in values {
        sum.iter_mut().zip(value).for_each(|(sum, value)| *sum += value);
        count += 1;
    }
    (count > 0).then(|| sum.map(|sum| sum / count as f64))
}

impl fmt::Display for InstanceScores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let score = |value: Option<f64>| value.map_or("absent".to_owned(), |value| format!("{value:.4}"));
        let Self { true_objects, predicted_objects, merged_objects, .. } = self;
        writeln!(
            f,
            "objects        {true_objects} true, {predicted_objects} predicted, {merged_objects} true ones merged"
        )?;
        writeln!(
            f,
            "DSB 2018 mAP   {} (at IoU 0.5: {})",
            score(self.mean_average_precision),
            score(self.average_precision.map(|precision| precision[0]))
        )?;
        writeln!(f, "SEG            {}", score(self.seg))?;
        write!(f, "adapted Rand   {}", score(self.adapted_rand.map(|rand| rand.error)))?;
        if let Some(AdaptedRand { precision, recall, .. }) = self.adapted_rand {
            write!(f, " (error; precision {precision:.4}, recall {recall:.4})")?;
        }
        for (name, value) in [("V_Rand thinned", self.v_rand_thinned), ("V_Info thinned", self.v_info_thinned)] {
            write!(f, "\n{name} {}", score(value.map(|value| value.score)))?;
            if let Some(SplitMerge { split, merge, .. }) = value {
                write!(f, " (split {split:.4}, merge {merge:.4})")?;
            }
        }
        let warping = self.warping_error.map_or("absent".to_owned(), |error| format!("{error:.6}"));
        writeln!(f, "\nwarping error  {warping}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::contingency::tests::labels;
    use super::*;

    fn scores(truth: &[&str], prediction: &[&str]) -> InstanceScores {
        InstanceScores::new(&labels(truth), &labels(prediction)).unwrap()
    }

    #[test]
    fn maps_that_are_not_whole_have_no_scores() {
        let whole = labels(&["11", "00"]);
        for (height, width) in [(2, 3), (0, 4), (4, 0), (1 << 63, 2), (1, 2)] {
            let other = LabelMap { height, width, ..whole.clone() };
            for (truth, prediction) in [(&other, &other), (&whole, &other), (&other, &whole)] {
                let message = InstanceScores::new(truth, prediction).unwrap_err().to_string();
                assert!(message.contains("pixels has 4 values"), "{message}");
                assert!(InstanceScores::paired(truth, prediction).is_err());
                assert!(warping_error(truth, prediction).is_err());
            }
        }
        let none = LabelMap { height: 3, width: 0, values: Vec::new() };
        assert_eq!(InstanceScores::new(&none, &none).unwrap().warping_error, None);
    }

    #[test]
    fn a_data_set_is_the_mean_of_its_images_and_seg_that_of_its_objects() {
        let parted = scores(&["1100", "0000", "2020"], &["3300", "0000", "5070"]);
        assert_eq!((parted.true_objects, parted.predicted_objects, parted.merged_objects), (2, 3, 0));
        let missed = scores(&["1100"], &["0000"]);
        let empty = scores(&["0000"], &["0000"]);
        let all = InstanceScores::mean(&[parted, missed, empty]);
        assert_eq!((all.true_objects, all.predicted_objects, all.merged_objects), (3, 3, 0));
        // Of object 2 no predicted object covers more than half.
        assert_eq!((parted.seg, missed.seg, empty.seg), (Some(0.5), Some(0.0), None));
        assert_eq!(all.seg, Some(1.0 / 3.0));
        assert_eq!((parted.mean_average_precision, empty.mean_average_precision), (Some(0.25), None));
        assert_eq!(all.mean_average_precision, Some(0.125), "the image without objects is left out");
        assert_eq!((empty.warping_error, empty.v_rand_thinned), (Some(0.0), None));
        assert!(all.to_string().contains("mAP   0.1250 (at IoU 0.5: 0.1250)"), "{all}");
        assert!(empty.to_string().contains("adapted Rand   absent\n"), "{empty}");
        assert_eq!(InstanceScores::mean(&[]), InstanceScores::default());
        let paired = InstanceScores::paired(&labels(&["1100"]), &labels(&["0000"])).unwrap();
        let others = InstanceScores { adapted_rand: None, v_rand_thinned: None, v_info_thinned: None, ..missed };
        assert_eq!(paired, InstanceScores { warping_error: None, ..others });
    }

    #[test]
    fn thinning_forgives_wide_borders() {
        let wide = scores(&["11102222"], &["33000444"]);
        assert!(wide.adapted_rand.unwrap().error > 0.1, "{wide:?}");
        let perfect = Some(SplitMerge { score: 1.0, split: 1.0, merge: 1.0 });
        assert_eq!(wide.v_rand_thinned, perfect);
    }
}
