//! Several passes over an image made one prediction: views of it that lie in other ways, and tiles that overlap.

use super::{Place, Prediction};
use crate::data::Orientation;
use crate::error::Result;
use crate::models::UNet;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// How the passes of a network over an image become a prediction. By default there is one pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Averaging {
    /// In how many ways the image is laid before the network.
    pub views: Views,
    /// What the mean is taken of.
    pub of: Quantity,
    /// How tiles meet.
    pub blend: Blend,
}

/// The ways in which an image is laid before the network; results are laid back before they are averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Views {
    /// As it is.
    #[default]
    One,
    /// Flipped along neither, each and both of its axes: four passes, as in the authors' release.
    Flips,
    /// Those four, and the same of the transposed image: all eight ways to lay a square on itself.
    Dihedral,
}

impl Views {
    /// The ways themselves, those that are not transposed first.
    pub fn orientations(self) -> Vec<Orientation> {
        let count = match self {
            Self::One => 1,
            Self::Flips => Orientation::FLIPS,
            Self::Dihedral => Orientation::COUNT,
        };
        (0..count).map(Orientation::of).collect()
    }
}

impl FromStr for Views {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "1" => Ok(Self::One),
            "4" => Ok(Self::Flips),
            "8" => Ok(Self::Dihedral),
            other => Err(format!("{other:?} is not a number of views: 1, 4 (flips) or 8 (flips and quarter turns)")),
        }
    }
}

/// What the mean over passes is taken of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Raw scores, as in the authors' release; probabilities are the softmax of the mean.
    #[default]
    Scores,
    /// Probabilities; the scores are the logarithms of their mean.
    Probabilities,
}

/// How tiles meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blend {
    /// Tiles advance by a multiple of 2^depth, under which the network is equivariant: where they overlap they agree, and the result is
    /// that of one pass over the whole image.
    #[default]
    Exact,
    /// Tiles advance by their whole output, as in the paper's figure 2: fewer of them, but pooling falls otherwise in each, so that the
    /// result differs from that of one pass and may have seams.
    Abutting,
    /// Tiles advance by half their output, and their mean is taken where they overlap: pooling falls in several ways for each pixel.
    Mean,
    /// Likewise, with weights `exp(−d² / 2σ²)` for the distance `d` from the middle of a tile along each axis and a σ of an eighth of its
    /// output, as nnU-Net has it, so that nothing changes suddenly at the edge of a tile.
    Gaussian,
}

impl Blend {
    /// By how many pixels tiles of this output advance.
    pub(super) fn step(self, net: &UNet, output: usize) -> usize {
        match self {
            Self::Exact => {
                let kept = output - 2 * self.margin(net, output);
                kept - kept % net.stride()
            }
            Self::Abutting => output,
            Self::Mean | Self::Gaussian => output / 2,
        }
    }

    /// How many pixels along an edge of a tile's output do not count where the image goes on.
    pub(super) fn margin(self, net: &UNet, output: usize) -> usize {
        if self == Self::Exact { net.margin(output) } else { 0 }
    }

    /// The weight of each pixel along an axis of a tile's output.
    fn weights(self, output: usize) -> Vec<f32> {
        let weight = |position: usize| match self {
            Self::Gaussian => {
                let distance = position as f32 - (output as f32 - 1.0) / 2.0;
                (-0.5 * (8.0 * distance / output as f32).powi(2)).exp()
            }
            Self::Exact | Self::Abutting | Self::Mean => 1.0,
        };
        (0..output).map(weight).collect()
    }
}

impl Averaging {
    /// Whether each pixel has one result, or several that are equal.
    pub fn is_single(self) -> bool {
        self.views == Views::One && matches!(self.blend, Blend::Exact | Blend::Abutting)
    }
}

/// Weighted sums of what the passes say about each pixel of an image.
#[derive(Debug)]
pub(super) struct Sums {
    size: [usize; 2],
    classes: usize,
    averaging: Averaging,
    /// `[height, width, classes]`
    values: Vec<f32>,
    /// `[height, width]`
    weights: Vec<f32>,
}

impl Sums {
    pub(super) fn new(size: [usize; 2], classes: usize, averaging: Averaging) -> Self {
        let pixels = size[0] * size[1];
        Self { size, classes, averaging, values: vec![0.0; pixels * classes], weights: vec![0.0; pixels] }
    }

    /// What the means are of.
    pub(super) fn of(&self) -> Quantity {
        self.averaging.of
    }

    /// Adds what counts of the output of a tile.
    pub(super) fn add(&mut self, orientation: Orientation, place: &Place, output: [usize; 2], values: &[f32]) {
        let [along_rows, along_columns] = output.map(|side| self.averaging.blend.weights(side));
        let [rows, columns] = &place.kept;
        for y in rows.clone() {
            for x in columns.clone() {
                let values = &values[(y * output[1] + x) * self.classes..][..self.classes];
                let [row, column] = orientation.source([place.origin[0] + y, place.origin[1] + x], self.size);
                let pixel = row * self.size[1] + column;
                let weight = along_rows[y] * along_columns[x];
                self.weights[pixel] += weight;
                let sums = &mut self.values[pixel * self.classes..][..self.classes];
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
            }
        }
    }

    /// The prediction that the means make.
    pub(super) fn finish(self) -> Result<Prediction> {
        let Self { size, classes, averaging, mut values, weights } = self;
        for (values, weight) in values.chunks_exact_mut(classes).zip(weights) {
            for value in values {
                *value /= weight;
                if averaging.of == Quantity::Probabilities {
                    *value = value.max(f32::MIN_POSITIVE).ln();
                }
            }
        }
        Prediction::of_scores(size, classes, values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_lay_an_image_is_there_once() {
        for (text, count) in [("1", 1), ("4", 4), ("8", 8)] {
            let views: Views = text.parse().unwrap();
            let size = [2, 3];
            let mut seen: Vec<Vec<usize>> = Vec::new();
            for orientation in views.orientations() {
                let [height, width] = orientation.extents(size);
                let places = (0..height * width).map(|pixel| {
                    let [row, column] = orientation.source([pixel / width, pixel % width], size);
                    row * size[1] + column
                });
                let places: Vec<usize> = [height].into_iter().chain(places).collect();
                let mut sorted = places[1..].to_vec();
                sorted.sort_unstable();
                assert_eq!(sorted, [0, 1, 2, 3, 4, 5], "{orientation:?} loses a pixel");
                assert!(!seen.contains(&places), "{orientation:?} is there already");
                seen.push(places);
            }
            assert_eq!(seen.len(), count);
        }
        assert!("2".parse::<Views>().unwrap_err().contains("1, 4 (flips) or 8"));
    }

    /// Two tiles of two columns over three, worked by hand.
    #[test]
    fn means_are_weighted_and_of_what_was_asked_for() {
        let plain = Orientation::default();
        let mirrored = Orientation { flip_columns: true, ..plain };
        for of in [Quantity::Scores, Quantity::Probabilities] {
            let averaging = Averaging { of, blend: Blend::Mean, ..Averaging::default() };
            let mut sums = Sums::new([1, 3], 2, averaging);
            let place = Place { origin: [0, 0], kept: [0..1, 0..2] };
            sums.add(plain, &place, [1, 2], &[1.0, 0.0, 3.0, 2.0]);
            sums.add(mirrored, &place, [1, 2], &[5.0, 4.0, 1.0, 0.0]);
            let prediction = sums.finish().unwrap();
            assert_eq!(prediction.labels, [0, 0, 0]);
            for (found, mean) in prediction.logits.iter().zip([1.0_f32, 0.0, 2.0, 1.0, 5.0, 4.0]) {
                let expected = if of == Quantity::Scores { mean } else { mean.max(f32::MIN_POSITIVE).ln() };
                assert!((found - expected).abs() < 1e-6, "{of:?}: {found}, not {expected}");
            }
            assert!((prediction.probabilities[0] + prediction.probabilities[1] - 1.0).abs() < 1e-6);
        }
        let gaussian = Blend::Gaussian.weights(16);
        assert!(
            (gaussian[0] - (-0.5_f32 * 3.75 * 3.75).exp()).abs() < 1e-7
                && gaussian[7].to_bits() == gaussian[8].to_bits()
        );
    }
}
