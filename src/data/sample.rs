//! An image with its truth, as read and as training uses it.

use std::borrow::Cow;

use super::border::{Border, class_weights, insert_gaps};
use super::components::{Components, Connectivity};
use super::image::Image;
use super::intensities::Intensities;
use super::label::LabelMap;
use crate::error::{Error, Result};

/// The class number of a pixel that neither trains nor counts.
pub const IGNORE: u32 = u32::MAX;

/// What is known about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Truth {
    /// 0 for background, another number for each cell. Two classes: background and cell.
    Instances(LabelMap),
    /// The class of each pixel, from 0, or [`IGNORE`].
    Classes(LabelMap),
}

/// An image and what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// What to call it in messages and pictures: the file name without its extension.
    pub name: String,
    /// The image, not normalised.
    pub image: Image,
    /// The truth, of the image's size.
    pub truth: Truth,
}

impl Sample {
    /// Refuses an image and a truth that differ in size or have other than as many values.
    ///
    /// # Errors
    /// [`Error::Data`] naming the sample.
    pub(crate) fn check(&self) -> Result<()> {
        let (Truth::Classes(truth) | Truth::Instances(truth), image) = (&self.truth, &self.image);
        let problem = if (image.height, image.width) != (truth.height, truth.width) {
            let [image, truth] = [[image.width, image.height], [truth.width, truth.height]];
            format!(
                "the image has {} x {} pixels, its truth {} x {}; they must be equal",
                image[0], image[1], truth[0], truth[1]
            )
        } else if image.is_whole() && truth.is_whole() {
            return Ok(());
        } else {
            let Image { height, width, channels, pixels, .. } = image;
            let found = [pixels.len(), truth.values.len()];
            format!("{width} x {height} pixels of {channels} channel(s) do not agree with {found:?} values and labels")
        };
        Err(Error::data(&self.name, problem))
    }

    /// The class of each pixel: for instances 0 on background and 1 on cells, without gaps between cells.
    pub fn classes(&self) -> Cow<'_, LabelMap> {
        match &self.truth {
            Truth::Classes(classes) => Cow::Borrowed(classes),
            Truth::Instances(instances) => {
                let values = instances.values.iter().map(|&instance| u32::from(instance != 0)).collect();
                Cow::Owned(LabelMap { values, ..*instances })
            }
        }
    }

    /// The cells: as given, or the connected regions of one class other than 0, by 4-neighbourhood.
    ///
    /// # Panics
    /// As [`Components::label`].
    pub fn instances(&self) -> Cow<'_, LabelMap> {
        match &self.truth {
            Truth::Instances(instances) => Cow::Borrowed(instances),
            Truth::Classes(classes) => Cow::Owned(Components::default().label(classes)),
        }
    }

    /// The objects to score a prediction against: the cells as given, or the connected regions of one class other than 0, with
    /// [`IGNORE`] where the class is.
    ///
    /// # Panics
    /// As [`Components::label`].
    pub fn objects(&self, connectivity: Connectivity) -> Cow<'_, LabelMap> {
        match &self.truth {
            Truth::Instances(instances) => Cow::Borrowed(instances),
            Truth::Classes(classes) => {
                let mut objects = Components { connectivity, min_size: 0 }.label(classes);
                for (object, _) in objects.values.iter_mut().zip(&classes.values).filter(|&(_, &class)| class == IGNORE)
                {
                    *object = IGNORE;
                }
                Cow::Owned(objects)
            }
        }
    }
}

/// A sample ready for the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// The name of the sample.
    pub name: String,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels of the image.
    pub channels: usize,
    /// The image as the network is given it, unless otherwise said normalised, `[height, width, channels]`.
    pub pixels: Vec<f32>,
    /// The class of each pixel or [`IGNORE`], `[height, width]`; touching instances are parted by a gap of class 0.
    pub classes: Vec<u32>,
    /// The loss weight of each pixel, `[height, width]`: [`Border::weights`] or 1, and 0 where the class is [`IGNORE`].
    pub weights: Vec<f32>,
}

impl Prepared {
    /// Normalises the image, parts touching instances, and weighs the pixels.
    ///
    /// Gaps are inserted between instances only. Two classes that touch are meant to touch.
    ///
    /// # Errors
    /// [`Error::Data`] when image and truth differ in size or have other than as many values, [`Error::Usage`] for impossible constants of
    /// the border weight.
    pub fn new(sample: Sample, border: Option<Border>) -> Result<Self> {
        let weigh = border.as_ref().map(|border| |instances: &LabelMap| border.weights(instances));
        Self::weighed(sample, Intensities::Standard, weigh)
    }

    /// As [`Prepared::new`], but with these intensities, and weights by a function of the parted instances, 1 where there is none.
    ///
    /// # Errors
    /// As [`Prepared::new`] and [`Intensities::prepare`], and those of the function.
    pub fn weighed(
        sample: Sample,
        intensities: Intensities,
        weigh: Option<impl FnOnce(&LabelMap) -> Result<Vec<f32>>>,
    ) -> Result<Self> {
        sample.check()?;
        let instances = match &sample.truth {
            Truth::Instances(instances) => insert_gaps(instances),
            Truth::Classes(_) if weigh.is_some() => sample.instances().into_owned(),
            Truth::Classes(classes) => LabelMap { values: Vec::new(), ..*classes },
        };
        let Sample { name, mut image, truth } = sample;
        let classes = match truth {
            Truth::Classes(classes) => classes.values,
            Truth::Instances(_) => instances.values.iter().map(|&instance| u32::from(instance != 0)).collect(),
        };
        let (height, width) = (image.height, image.width);
        let mut weights = match weigh {
            Some(weigh) => weigh(&instances)?,
            None => vec![1.0; classes.len()],
        };
        for (weight, _) in weights.iter_mut().zip(&classes).filter(|&(_, &class)| class == IGNORE) {
            *weight = 0.0;
        }
        intensities.prepare(&mut image)?;
        Ok(Self { name, height, width, channels: image.channels, pixels: image.pixels, classes, weights })
    }
}

/// Replaces the constant 1 in the weights of a training set by the class weight `w_c` of equation 2, and returns `w_c`. Only
/// weights that are nowhere below 1 have that constant: see [`Border::background`].
///
/// # Errors
/// [`Error::Usage`] when a class number is not below `classes`.
pub fn balance(samples: &mut [Prepared], classes: usize) -> Result<Vec<f32>> {
    let mut pixels = vec![0_u64; classes];
    for sample in samples.iter() {
        for &class in sample.classes.iter().filter(|&&class| class != IGNORE) {
            let count = pixels.get_mut(class as usize).ok_or_else(|| {
                Error::Usage(format!("{}: class {class} in a data set of {classes} classes", sample.name))
            })?;
            *count += 1;
        }
    }
    let by_class = class_weights(&pixels);
    for sample in samples {
        for (weight, &class) in sample.weights.iter_mut().zip(&sample.classes) {
            if let Some(class_weight) = by_class.get(class as usize) {
                *weight += class_weight - 1.0;
            }
        }
    }
    Ok(by_class)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(truth: Truth) -> Sample {
        let pixels = vec![3.0, 4.0, 5.0, 6.0];
        let image = Image { height: 1, width: 4, channels: 1, bit_depth: 8, pixels, alpha_dropped: false };
        Sample { name: "a".into(), image, truth }
    }

    fn labels(values: &[u32]) -> LabelMap {
        LabelMap { height: 1, width: values.len(), values: values.to_vec() }
    }

    #[test]
    fn touching_instances_are_parted_and_classes_are_not() {
        let instances = Prepared::new(sample(Truth::Instances(labels(&[4, 4, 7, 7]))), None).unwrap();
        assert_eq!(instances.classes, [1, 1, 0, 1]);
        let classes = Prepared::new(sample(Truth::Classes(labels(&[1, 1, 2, 2]))), None).unwrap();
        assert_eq!(classes.classes, [1, 1, 2, 2]);
        let mean = instances.pixels.iter().sum::<f32>();
        assert!(mean.abs() < 1e-6, "the image is normalised: {mean}");
    }

    #[test]
    fn weights_combine_border_class_and_ignore() {
        let border = Some(Border::default());
        let mut prepared = [Prepared::new(sample(Truth::Classes(labels(&[1, 0, 1, IGNORE]))), border).unwrap()];
        let gap = 10.0 * (-4.0_f32 / 50.0).exp();
        assert_eq!(prepared[0].weights, [1.0, 1.0 + gap, 1.0, 0.0]);
        let by_class = balance(&mut prepared, 2).unwrap();
        assert_eq!(by_class, [1.5, 0.75]);
        assert_eq!(prepared[0].weights, [0.75, 1.0 + gap + 0.5, 0.75, 0.0]);
        let message = balance(&mut prepared, 1).unwrap_err().to_string();
        assert_eq!(message, "a: class 1 in a data set of 1 classes");
    }

    #[test]
    fn objects_of_classes_keep_what_is_ignored() {
        let classes = sample(Truth::Classes(labels(&[2, IGNORE, 2, 1])));
        assert_eq!(classes.objects(Connectivity::Four).values, [1, IGNORE, 2, 3]);
        assert_eq!(classes.instances().values, [1, 0, 2, 3]);
        let instances = sample(Truth::Instances(labels(&[7, 0, 7, 3])));
        assert_eq!(instances.objects(Connectivity::Four).values, [7, 0, 7, 3]);
    }

    #[test]
    fn sizes_must_agree() {
        let message = Prepared::new(sample(Truth::Classes(labels(&[1, 1]))), None).unwrap_err().to_string();
        assert_eq!(message, "a: the image has 4 x 1 pixels, its truth 2 x 1; they must be equal");
        let (short, whole) = (LabelMap { width: 4, ..labels(&[1, 1]) }, labels(&[1; 4]));
        let truths = [Truth::Instances(short.clone()), Truth::Classes(short)];
        for (truth, pixels) in truths.map(|truth| (truth, 4)).into_iter().chain([(Truth::Classes(whole), 3)]) {
            let mut sample = sample(truth);
            sample.image.pixels.truncate(pixels);
            let message = Prepared::new(sample, Some(Border::default())).unwrap_err().to_string();
            assert!(message.starts_with("a: 4 x 1 pixels of 1 channel(s) do not agree with ["), "{message}");
        }
    }
}
