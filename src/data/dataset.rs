//! A folder of images and truth: paired, surveyed, and refused where it would train on nonsense.
//!
//! ```text
//! DATA/images/a.png    DATA/masks/a.png         classes: 0 and 255, class numbers, or palette indices
//! DATA/images/a.png    DATA/instances/a.png     0 for background, another number for each cell
//! ```

mod files;
mod histogram;
mod inspection;
mod mapping;
mod survey;
mod warning;

use std::path::{Path, PathBuf};

pub use files::Pair;
pub use histogram::Histogram;
pub use inspection::{FileReport, Inspection};
pub use mapping::{Mapping, ValueMap};
pub use survey::{ConstantPredictor, InstanceCounts, Survey};

use super::budget::Budget;
use super::image::Image;
use super::label::LabelMap;
use super::raster::{MAX_DECODING_BYTES, Unread};
use super::sample::{Sample, Truth};
use crate::error::{Error, Result};
use crate::progress::{Progress, map_all, unwatched};
use crate::random::Random;

/// The stream of a seed that splits are drawn from.
const STREAM: u32 = 0x5b11_7000;

/// What cannot be read off a data set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What the name of a mask has after the name of its image, such as `_mask`.
    pub mask_suffix: String,
    /// The label values are class numbers below this.
    pub classes: Option<u32>,
    /// The class of each label value.
    pub map: Option<ValueMap>,
    /// The label value of pixels that neither train nor count.
    pub ignore: Option<u32>,
}

impl Options {
    /// These options with the meaning that another data set gave its label values, so that the same value means the same class
    /// whether or not all of them occur. Cell numbers have no such meaning to hand on.
    #[must_use]
    pub fn with_mapping(&self, mapping: &Mapping) -> Self {
        match mapping {
            Mapping::Instances => self.clone(),
            Mapping::Values { map, ignore } => {
                Self { classes: None, map: Some(map.clone()), ignore: *ignore, ..self.clone() }
            }
        }
    }
}

/// Which of the two kinds of truth a data set has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LabelKind {
    /// Each pixel has the value of its class.
    Masks,
    /// Each pixel has the number of its cell.
    Instances,
}

/// A surveyed folder of images and truth.
#[derive(Clone, Debug)]
pub struct Dataset {
    folder: PathBuf,
    pairs: Vec<Pair>,
    survey: Survey,
}

impl Dataset {
    /// Pairs the files of a folder by name, reads each once, and chooses how label values become classes.
    ///
    /// Hidden files, README and LICENSE files are passed over; nothing else is ignored silently. Files are in the order
    /// of their names; TIFF stacks are read page by page. [`Inspection`] lists everything that is wrong, this stops at the first.
    ///
    /// # Errors
    /// [`Error::Usage`] when options contradict each other or the data set. [`Error::Io`] when something cannot be read.
    /// [`Error::Finding`], naming the file and the way out, when
    /// * there is no `images` folder, or not exactly one of `masks` and `instances`, or no image;
    /// * a file has no partner, two have the same name, or one is not PNG or TIFF;
    /// * a file is damaged, or an image and its truth differ in size;
    /// * images differ in their number of channels, or each has the same value everywhere;
    /// * a label value is not a class (file, value and first pixel are named), or the classes cannot be told from the
    ///   values;
    /// * all pixels are of one class.
    pub fn open(folder: impl AsRef<Path>, options: &Options) -> Result<Self> {
        Self::open_with_progress(folder, options, &mut unwatched)
    }

    /// As [`Dataset::open`]; `progress` hears the number of files read and in total, and may break off.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when it did; as [`Dataset::open`].
    pub fn open_with_progress(
        folder: impl AsRef<Path>,
        options: &Options,
        progress: &mut Progress<'_>,
    ) -> Result<Self> {
        Inspection::with_progress(folder, options, progress)?.into_dataset()
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the folder contains.
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// The files, in the order of their names.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// How many classes there are, background included.
    pub fn class_count(&self) -> usize {
        self.survey.mapping.class_count()
    }

    /// Reads the pairs with these indices, in this order. An index beyond the last is an error.
    ///
    /// # Errors
    /// As [`Dataset::open`] for single files, which may have changed since; [`Error::Usage`] for a wrong index.
    pub fn read(&self, indices: &[usize]) -> Result<Vec<Sample>> {
        self.read_with_progress(indices, &mut unwatched)
    }

    /// As [`Dataset::read`]; `progress` hears the number of pairs read and in total, and may break off.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when it did; as [`Dataset::read`].
    pub fn read_with_progress(&self, indices: &[usize], progress: &mut Progress<'_>) -> Result<Vec<Sample>> {
        let count = self.pairs.len();
        if let Some(index) = indices.iter().find(|&&index| index >= count) {
            return Err(Error::Usage(format!(
                "{}: there is no image {index}; the last is {}",
                self.folder.display(),
                count - 1
            )));
        }
        let budget = Budget::new(MAX_DECODING_BYTES);
        // Of several errors the first in the order of indices, whichever came first.
        map_all(indices, progress, |&index| self.read_pair(&self.pairs[index], &budget))?.into_iter().collect()
    }

    /// What is decoded counts until it has become a part of the sample, which stays in memory in any case.
    fn read_pair(&self, pair: &Pair, budget: &Budget) -> Result<Sample> {
        let unread = Unread::open_for_colours(&pair.image)?;
        let image = budget.spend(unread.decoding_bytes(), || Image::of_raster(unread.decode()?, &pair.image))?;
        let unread = Unread::open(&pair.label)?;
        let mut labels =
            budget.spend(unread.decoding_bytes(), || LabelMap::of_raster(unread.decode()?, &pair.label))?;
        files::refuse_other_size(pair, [image.height, image.width], &labels)?;
        let truth = match self.survey.kind {
            LabelKind::Instances => Truth::Instances(labels),
            LabelKind::Masks => {
                self.survey.mapping.apply(&pair.label, &mut labels)?;
                Truth::Classes(labels)
            }
        };
        Ok(Sample { name: pair.name.clone(), image, truth })
    }

    /// Indices of images to train on, and of images held out to measure on: `share` of all, at least one of each, by a
    /// random choice that depends on the seed alone. Both in ascending order.
    ///
    /// # Errors
    /// [`Error::Usage`] when the share is not between 0 and 1, [`Error::Data`] when there is only one image.
    pub fn split(&self, share: f32, seed: u32) -> Result<(Vec<usize>, Vec<usize>)> {
        let count = self.pairs.len();
        if !(share > 0.0 && share < 1.0) {
            return Err(Error::Usage(format!("the share of held-out images must be between 0 and 1, got {share}")));
        }
        if count < 2 {
            let problem = "one image cannot be divided into images to train on and images to measure on; add another";
            return Err(Error::data(&self.folder, problem));
        }
        let mut indices: Vec<usize> = (0..count).collect();
        Random::new(seed, STREAM).shuffle(&mut indices);
        let held_out = ((count as f32 * share).round() as usize).clamp(1, count - 1);
        let mut training = indices.split_off(held_out);
        training.sort_unstable();
        indices.sort_unstable();
        Ok((training, indices))
    }
}

#[cfg(test)]
mod tests;
