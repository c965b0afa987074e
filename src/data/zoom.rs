//! Images at another size than their own, for networks that see too little or too much in them as they are.

use super::image::Image;
use super::label::LabelMap;
use super::sample::{Sample, Truth};
use crate::array::{Array, Tensor};
use crate::error::{Error, Result};
use crate::op::Op;
use crate::ops::{Resize, ResizeMode};
use crate::shape::{DType, Shape, TensorType};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The factor by which images are made larger before a network sees them; what it says is brought back to their own size.
///
/// Small objects may need it: a network whose scores are a few pixels off, or coarser than a pixel, is that much nearer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f32", into = "f32")]
pub struct Zoom(f32);

impl Default for Zoom {
    /// Images are seen as they are.
    fn default() -> Self {
        Self(1.0)
    }
}

impl Zoom {
    /// The least and the most that images are enlarged by.
    pub const RANGE: [f32; 2] = [0.5, 4.0];

    /// The factor.
    pub fn factor(self) -> f32 {
        self.0
    }

    /// Whether images stay as they are.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// The height and width of an image of this height and width: the nearest whole numbers, at least 1.
    pub fn size(self, size: [usize; 2]) -> [usize; 2] {
        size.map(|extent| ((extent as f64 * f64::from(self.0)).round() as usize).max(1))
    }

    /// The image at its new size, interpolated linearly: at half its size, each pixel is the mean of four.
    ///
    /// # Errors
    /// [`Error::Usage`] when a side would be longer than 32,768 pixels, or the image has not as many values as its size says.
    pub fn image(self, mut image: Image) -> Result<Image> {
        if self.is_none() {
            return Ok(image);
        }
        let from = [image.height, image.width];
        [image.height, image.width] = self.size(from);
        image.pixels = resample(image.pixels, from, [image.height, image.width], image.channels)?;
        Ok(image)
    }

    /// The labels at the new size, each of its pixel's nearest, 0 where the map has none.
    pub fn labels(self, labels: &LabelMap) -> LabelMap {
        let from = [labels.height, labels.width];
        let [height, width] = self.size(from);
        let nearest = |axis: usize, extent: usize| -> Vec<usize> {
            (0..extent).map(|at| (2 * at + 1) * from[axis] / (2 * extent)).collect()
        };
        let [rows, columns] = [nearest(0, height), nearest(1, width)];
        let row = |&row: &usize| {
            columns.iter().map(move |column| labels.values.get(row * from[1] + column).copied().unwrap_or(0))
        };
        LabelMap { height, width, values: rows.iter().flat_map(row).collect() }
    }

    /// Image and truth at the new size.
    ///
    /// # Errors
    /// As [`Zoom::image`]; [`Error::Data`] when image and truth differ in size or have other than as many values.
    pub fn sample(self, sample: Sample) -> Result<Sample> {
        if self.is_none() {
            return Ok(sample);
        }
        sample.check()?;
        let truth = match &sample.truth {
            Truth::Instances(instances) => Truth::Instances(self.labels(instances)),
            Truth::Classes(classes) => Truth::Classes(self.labels(classes)),
        };
        let image = self.image(sample.image)?;
        Ok(Sample { name: sample.name, image, truth })
    }
}

/// Values `[from, channels]` at another size, as the op [`Resize`] makes it, of pixels that are squares.
///
/// # Errors
/// [`Error::Usage`] when a size is beyond what the op takes, or the values are not as many as the first says.
pub(crate) fn resample(values: Vec<f32>, from: [usize; 2], to: [usize; 2], channels: usize) -> Result<Vec<f32>> {
    let resize = Resize { extents: to, mode: ResizeMode::Bilinear { align_corners: false } };
    let resized = || {
        let shape = Shape::new([1, from[0], from[1], channels])?;
        if shape.elements() != values.len() {
            return Err(format!("{channels} channel(s) of them are not {} values", values.len()));
        }
        resize.output(&[TensorType { dtype: DType::F32, shape: shape.clone() }])?;
        Ok(resize.reference(&[&Tensor::Float(Array { shape, data: values })]).swap_remove(0))
    };
    let problem = |problem: String| Error::Usage(format!("{from:?} pixels cannot become {to:?}: {problem}"));
    Ok(resized().map_err(problem)?.float().data.clone())
}

impl TryFrom<f32> for Zoom {
    type Error = String;

    fn try_from(factor: f32) -> Result<Self, String> {
        let [least, most] = Self::RANGE;
        if (least..=most).contains(&factor) {
            return Ok(Self(factor));
        }
        Err(format!("zoom must be from {least} to {most}, such as 2, got {factor}"))
    }
}

impl From<Zoom> for f32 {
    fn from(zoom: Zoom) -> Self {
        zoom.0
    }
}

impl fmt::Display for Zoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Zoom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let factor: f32 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
        factor.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zoom(factor: f32) -> Zoom {
        factor.try_into().unwrap()
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let image =
            Image { height: 2, width: 2, channels: 1, bit_depth: 8, pixels: vec![1.0; 3], alpha_dropped: false };
        let message = zoom(2.0).image(image.clone()).unwrap_err().to_string();
        assert!(message.contains("1 channel(s) of them are not 3 values"), "{message}");
        let truth = LabelMap { height: 2, width: 2, values: vec![7] };
        assert_eq!(zoom(2.0).labels(&truth).values.iter().sum::<u32>(), 4 * 7);
        let sample = Sample { name: "half".into(), image, truth: Truth::Instances(truth) };
        let message = zoom(2.0).sample(sample).unwrap_err().to_string();
        assert!(message.starts_with("half: "), "{message}");
    }

    #[test]
    fn twice_as_large_by_hand_and_back() {
        let image = Image {
            height: 1,
            width: 3,
            channels: 2,
            bit_depth: 16,
            pixels: vec![-8.0, 500.0, 0.0, 500.0, 40_000.0, 500.0],
            alpha_dropped: false,
        };
        let large = zoom(2.0).image(image).unwrap();
        assert_eq!((large.height, large.width, large.channels, large.bit_depth), (2, 6, 2, 16));
        let first: Vec<f32> = large.pixels.iter().step_by(2).copied().collect();
        for (found, expected) in
            first.iter().zip([-8.0, -6.0, -2.0, 10_000.0, 30_000.0, 40_000.0].iter().cycle().take(12))
        {
            assert!((found - expected).abs() < 1e-6, "{first:?}");
        }
        let constant: Vec<f32> = large.pixels.iter().skip(1).step_by(2).copied().collect();
        assert_eq!(constant, [500.0; 12]);
        let small = zoom(0.5).image(large).unwrap();
        assert_eq!((small.height, small.width), (1, 3));
        assert_eq!(small.pixels, [-7.0, 500.0, 4999.0, 500.0, 35_000.0, 500.0]);
    }

    #[test]
    fn labels_are_those_of_the_nearest_pixel() {
        let labels = LabelMap { height: 2, width: 2, values: vec![7, u32::MAX, 0, 16_777_217] };
        let large = zoom(2.0).labels(&labels);
        let [a, b] = [vec![7, 7, u32::MAX, u32::MAX], vec![0, 0, 16_777_217, 16_777_217]];
        assert_eq!(large.values, [a.clone(), a, b.clone(), b].concat());
        assert_eq!(
            zoom(0.5).labels(&large),
            LabelMap { height: 2, width: 2, values: vec![7, u32::MAX, 0, 16_777_217] }
        );
        assert_eq!(zoom(1.5).labels(&labels).values.len(), 9);
    }

    #[test]
    fn factors_are_held_against_their_range() {
        assert_eq!("2".parse(), Ok(zoom(2.0)));
        assert_eq!(zoom(0.5).size([1, 1024]), [1, 512]);
        for text in ["0", "NaN", "4.1", "-1"] {
            assert!(text.parse::<Zoom>().unwrap_err().contains("0.5 to 4"), "{text}");
        }
        assert!(serde_json::from_str::<Zoom>("99").is_err());
        assert_eq!(serde_json::to_string(&zoom(2.0)).unwrap(), "2.0");
    }
}
