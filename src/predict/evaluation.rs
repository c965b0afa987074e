//! How good predictions are, on images with known truth.

use super::{Prediction, Predictor};
use crate::checkpoint::Weights;
use crate::data::dataset::Options;
use crate::data::{Components, Dataset, Sample};
use crate::error::{Error, Result};
use crate::metrics::{Confusion, InstanceScores, Scores, Variety};
use crate::progress::{Progress, unless_stopped};
use serde::Serialize;
use std::path::Path;

/// Opens a data set to evaluate weights on: its label values mean what they meant in training, where the options do not say what they mean;
/// `progress` hears the number of files read and in total, and may break off.
///
/// # Errors
/// As [`Weights::mapping`] and [`Dataset::open_with_progress`].
pub fn dataset_for(
    weights: &Weights,
    folder: &Path,
    options: &Options,
    progress: &mut Progress<'_>,
) -> Result<Dataset> {
    let said = options.classes.is_some() || options.map.is_some() || options.ignore.is_some();
    match weights.mapping()? {
        Some(mapping) if !said && folder.join("masks").is_dir() => {
            Dataset::open_with_progress(folder, &options.with_mapping(&mapping), progress)
        }
        _ => Dataset::open_with_progress(folder, options, progress),
    }
}

/// Scores of a network over images, which are added one after the other.
#[derive(Clone, Debug)]
pub struct Evaluation {
    confusion: Confusion,
    variety: Variety,
    /// What an object is, where objects are scored.
    objects: Option<Components>,
    images: Vec<ImageScores>,
    most_tiles: usize,
}

/// The scores of one image.
#[derive(Clone, Debug, Serialize)]
pub struct ImageScores {
    /// The sample's name.
    pub name: String,
    /// Intersection over union of all classes but 0 taken together; `None` where there are none, neither true nor predicted.
    pub foreground_iou: Option<f64>,
    /// The mean of the intersection over union of each class.
    pub mean_iou: Option<f64>,
    /// The share of pixels of a wrong class.
    pub pixel_error: f64,
    /// Object by object, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<InstanceScores>,
}

impl Evaluation {
    /// No scores yet, of a network of so many classes; with scores of objects, if it is said what one is.
    pub fn new(classes: usize, objects: Option<Components>) -> Self {
        let (confusion, variety) = (Confusion::new(classes), Variety::new(classes));
        Self { confusion, variety, objects, images: Vec::new(), most_tiles: 0 }
    }

    /// The scores of a predictor on all images of a data set, each read when it is its turn; `progress` hears the number of images done
    /// and in total, and may break off.
    ///
    /// # Errors
    /// [`Error::Data`] when the data has more classes than the network, or an image has other channels; [`Error::Interrupted`]; as
    /// [`Dataset::read`] and [`Predictor::score`].
    pub fn of_dataset(
        predictor: &mut Predictor,
        dataset: &Dataset,
        objects: Option<Components>,
        progress: &mut Progress<'_>,
    ) -> Result<Self> {
        let (classes, known, count) = (dataset.class_count(), predictor.net().classes, dataset.pairs().len());
        if classes > known {
            let problem = format!(
                "the data has {classes} classes, the network knows {known}; give the mapping it was trained with"
            );
            return Err(Error::data(dataset.folder(), problem));
        }
        let mut evaluation = Self::new(known, objects);
        for (index, pair) in dataset.pairs().iter().enumerate() {
            for sample in dataset.read(&[index])? {
                evaluation.add(predictor, &sample).map_err(|error| match error {
                    Error::Data { problem, .. } => pair.image.error(problem),
                    other => other,
                })?;
            }
            unless_stopped(progress(index + 1, count))?;
        }
        Ok(evaluation)
    }

    /// Predicts a sample's image, adds its scores, and returns the prediction.
    ///
    /// # Errors
    /// As [`Predictor::score`].
    pub fn add(&mut self, predictor: &mut Predictor, sample: &Sample) -> Result<Prediction> {
        let (prediction, confusion) = predictor.score(sample)?;
        let tiles = predictor.tiles_for(sample.image.height, sample.image.width)?;
        let instances = self.objects.map(|components| {
            let truth = sample.objects(components.connectivity);
            InstanceScores::new(&truth, &components.label(&prediction.label_map()))
        });
        let Scores { foreground_iou, mean_iou, pixel_error, .. } = confusion.scores();
        let (name, instances) = (sample.name.clone(), instances.transpose()?);
        self.most_tiles = self.most_tiles.max(tiles);
        self.confusion.merge(&confusion);
        self.variety.add(&prediction.logits, &prediction.labels);
        self.images.push(ImageScores { name, foreground_iou, mean_iou, pixel_error, instances });
        Ok(prediction)
    }

    /// The scores by pixel, pixels of all images pooled.
    pub fn scores(&self) -> Scores {
        self.confusion.scores()
    }

    /// The scores object by object, means over the images; `None` where objects are not scored.
    pub fn instances(&self) -> Option<InstanceScores> {
        self.objects?;
        let images = self.images.iter().filter_map(|image| image.instances);
        Some(InstanceScores::mean(&images.collect::<Vec<_>>()))
    }

    /// The scores of each image.
    pub fn images(&self) -> &[ImageScores] {
        &self.images
    }

    /// Whether the predictions tell anything apart.
    pub fn variety(&self) -> &Variety {
        &self.variety
    }

    /// The most tiles that an image was cut into.
    pub fn most_tiles(&self) -> usize {
        self.most_tiles
    }
}
