//! Scores by pixel, from the confusion matrix summed over a data set: IoU, Dice, pixel error.

use crate::error::{Error, Result};
use serde::Serialize;
use std::fmt;

/// How often each true class was predicted as each class: `count[truth][prediction]`, over all images added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    counts: Vec<u64>,
    ignored: u64,
}

/// The scores of one class.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClassScores {
    /// Pixels of the class in the truth.
    pub pixels: u64,
    /// TP / (TP + FP + FN); `None` where the class is neither in the truth nor predicted.
    pub iou: Option<f64>,
    /// 2 TP / (2 TP + FP + FN); `None` likewise.
    pub dice: Option<f64>,
}

/// The scores of a data set, pooled over all its pixels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// Pixels that count.
    pub pixels: u64,
    /// Pixels left out because their label is none of the classes.
    pub ignored: u64,
    /// IoU of everything that is not class 0; `None` where there is no foreground in truth or prediction.
    pub foreground_iou: Option<f64>,
    /// Mean IoU over the classes that occur.
    pub mean_iou: Option<f64>,
    /// Classes left out of the mean because they are neither in the truth nor predicted.
    pub absent_classes: usize,
    /// Share of pixels whose class is wrong.
    pub pixel_error: f64,
    /// By class.
    pub classes: Vec<ClassScores>,
    /// `confusion[truth][prediction]`.
    pub confusion: Vec<Vec<u64>>,
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl Confusion {
    /// No pixels yet.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes], ignored: 0 }
    }

    /// Adds the pixels of an image. Pixels whose true or predicted label is none of the classes are left out and counted as ignored.
    ///
    /// # Errors
    /// [`Error::Usage`] when there are more of the ones than of the others.
    pub fn add(&mut self, truth: &[u32], prediction: &[u32]) -> Result<()> {
        if truth.len() != prediction.len() {
            let (truth, prediction) = (truth.len(), prediction.len());
            return Err(Error::Usage(format!("the truth has {truth} pixels, the prediction {prediction}")));
        }
        for (&truth, &prediction) in truth.iter().zip(prediction) {
            let (truth, prediction) = (truth as usize, prediction as usize);
            if truth < self.classes && prediction < self.classes {
                self.counts[truth * self.classes + prediction] += 1;
            } else {
                self.ignored += 1;
            }
        }
        Ok(())
    }

    /// Adds the pixels that were added to another matrix of as many classes.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.ignored += other.ignored;
    }

    /// IoU of everything that is not class 0, classes not told apart; `None` where there is none in truth or prediction.
    pub fn foreground_iou(&self) -> Option<f64> {
        let background = self.counts.first().copied().unwrap_or(0);
        let union = self.counts.iter().sum::<u64>() - background;
        let missed: u64 = (1..self.classes).map(|truth| self.counts[truth * self.classes]).sum();
        let invented: u64 = self.counts.get(1..self.classes).unwrap_or(&[]).iter().sum();
        ratio(union - missed - invented, union)
    }

    /// All scores.
    pub fn scores(&self) -> Scores {
        let n = self.classes;
        let total: u64 = self.counts.iter().sum();
        let classes: Vec<ClassScores> = (0..n)
            .map(|class| {
                let hits = self.counts[class * n + class];
                let truth: u64 = self.counts[class * n..][..n].iter().sum();
                let predicted: u64 = (0..n).map(|row| self.counts[row * n + class]).sum();
                let union = truth + predicted - hits;
                ClassScores { pixels: truth, iou: ratio(hits, union), dice: ratio(2 * hits, truth + predicted) }
            })
            .collect();
        let present: Vec<f64> = classes.iter().filter_map(|scores| scores.iou).collect();
        let correct: u64 = (0..n).map(|class| self.counts[class * n + class]).sum();
        Scores {
            pixels: total,
            ignored: self.ignored,
            foreground_iou: self.foreground_iou(),
            mean_iou: (!present.is_empty()).then(|| present.iter().sum::<f64>() / present.len() as f64),
            absent_classes: n - present.len(),
            pixel_error: ratio(total - correct, total).unwrap_or(0.0),
            classes,
            confusion: self.counts.chunks(n.max(1)).map(<[u64]>::to_vec).collect(),
        }
    }
}

impl fmt::Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let score = |value: Option<f64>| value.map_or("absent".to_owned(), |value| format!("{value:.4}"));
        writeln!(f, "class        pixels     IoU    Dice")?;
        for (class, scores) in self.classes.iter().enumerate() {
            writeln!(f, "{class:<6}{:>13}{:>8}{:>8}", scores.pixels, score(scores.iou), score(scores.dice))?;
        }
        writeln!(f, "\nforeground IoU {}", score(self.foreground_iou))?;
        write!(f, "mean IoU       {}", score(self.mean_iou))?;
        if self.absent_classes > 0 {
            write!(f, " ({} absent class(es) left out)", self.absent_classes)?;
        }
        writeln!(f, "\npixel error    {:.4}", self.pixel_error)?;
        if self.ignored > 0 {
            writeln!(f, "ignored        {} pixels", self.ignored)?;
        }
        writeln!(f, "\ntruth \\ predicted")?;
        for (class, row) in self.confusion.iter().enumerate() {
            write!(f, "{class:<6}")?;
            for count in row {
                write!(f, "{count:>13}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_of_a_small_case_worked_by_hand() {
        let mut confusion = Confusion::new(3);
        confusion.add(&[0, 0, 0, 1], &[0, 0, 1, 1]).unwrap();
        let mut others = Confusion::new(3);
        others.add(&[1, 2, 255], &[2, 2, 0]).unwrap();
        confusion.merge(&others);
        assert!(confusion.add(&[0, 0], &[0]).is_err());
        let scores = confusion.scores();
        assert_eq!((scores.pixels, scores.ignored), (6, 1));
        let iou: Vec<f64> = scores.classes.iter().map(|class| class.iou.unwrap()).collect();
        assert_eq!(iou, [2.0 / 3.0, 1.0 / 3.0, 0.5]);
        let dice: Vec<f64> = scores.classes.iter().map(|class| class.dice.unwrap()).collect();
        assert_eq!(dice, [0.8, 0.5, 2.0 / 3.0]);
        assert_eq!(scores.mean_iou, Some(0.5));
        // One background pixel taken for foreground, none missed: 3 of 4.
        assert_eq!(scores.foreground_iou, Some(0.75));
        assert!((scores.pixel_error - 2.0 / 6.0).abs() < 1e-15);
        assert_eq!(scores.confusion, [[2, 1, 0], [0, 1, 1], [0, 0, 1]]);
    }

    #[test]
    fn an_absent_class_counts_as_neither_good_nor_bad() {
        let mut confusion = Confusion::new(3);
        confusion.add(&[0, 0, 1, 1], &[0, 0, 1, 1]).unwrap();
        let scores = confusion.scores();
        assert_eq!((scores.mean_iou, scores.absent_classes), (Some(1.0), 1));
        assert_eq!((scores.classes[2].iou, scores.classes[2].dice), (None, None));
        let mut empty = Confusion::new(2);
        empty.add(&[0, 0], &[0, 0]).unwrap();
        assert_eq!(empty.foreground_iou(), None);
        assert!(scores.to_string().contains("absent"));
    }
}
