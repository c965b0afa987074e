//! Scores on images that are not trained on.

use super::config::Config;
use super::record::Scored;
use crate::data::{Components, Sample, Truth};
use crate::error::{Error, Result};
use crate::executor::Device;
use crate::metrics::{Confusion, InstanceScores, Scores, Variety};
use crate::models::UNet;
use crate::predict::{Prediction, Predictor, smallest_tile};
use std::ops::ControlFlow;

/// Images whose predictions are shown.
const SHOWN: usize = 2;

/// Validation images, and a predictor that takes each new state of the weights.
#[derive(Debug)]
pub struct Validator {
    predictor: Predictor,
    samples: Vec<Sample>,
}

/// What an evaluation found.
#[derive(Clone, Debug)]
pub struct Validated {
    /// The scores that are kept.
    pub scored: Scored,
    /// All scores by pixel.
    pub scores: Scores,
    /// Whether the predictions tell anything apart.
    pub variety: Variety,
}

impl Validator {
    /// A validator that shows the network images as training does.
    ///
    /// # Errors
    /// [`Error::Data`] naming an image that has other channels than the network; as [`Predictor::new`].
    pub fn new(
        device: &Device,
        config: &Config,
        model: UNet,
        tile: usize,
        parameters: Vec<f32>,
        samples: Vec<Sample>,
    ) -> Result<Self> {
        if let Some(sample) = samples.iter().find(|sample| sample.image.channels != model.in_channels) {
            let (found, expected) = (sample.image.channels, model.in_channels);
            let problem = format!("the validation image has {found} channel(s), the training images have {expected}");
            return Err(Error::data(&sample.name, problem));
        }
        // The tile of training is known to fit the device.
        let tile = tile.max(smallest_tile(&model));
        let predictor = Predictor::new(device.clone(), model, parameters, Some([tile; 2]))?;
        let predictor = predictor.given(config.intensities).zoomed(config.zoom);
        Ok(Self { predictor, samples })
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The scores of these parameters over all images, or `None` when `progress`, which hears how many images are done, breaks
    /// off. The names and predictions of the first two images are `shown`.
    ///
    /// # Errors
    /// When the device fails, as [`Predictor::score`], or when `shown` does.
    pub fn score(
        &mut self,
        parameters: Vec<f32>,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
        shown: &mut dyn FnMut(&str, &Prediction) -> Result<()>,
    ) -> Result<Option<Validated>> {
        self.predictor.set_parameters(parameters)?;
        let classes = self.predictor.net().classes;
        let (mut confusion, mut variety) = (Confusion::new(classes), Variety::new(classes));
        let mut objects = Vec::new();
        let (mut loss, mut pixels) = (0.0, 0);
        for (done, sample) in self.samples.iter().enumerate() {
            if progress(done, self.samples.len()).is_break() {
                return Ok(None);
            }
            let (prediction, own) = self.predictor.score(sample)?;
            confusion.merge(&own);
            variety.add(&prediction.logits, &prediction.labels);
            let (own, counted) = prediction.cross_entropy(&sample.classes().values);
            (loss, pixels) = (loss + own, pixels + counted);
            if let Truth::Instances(truth) = &sample.truth {
                let found = Components::default().label(&prediction.label_map());
                objects.push(InstanceScores::paired(truth, &found)?);
            }
            if done < SHOWN {
                shown(&sample.name, &prediction)?;
            }
        }
        let scores = confusion.scores();
        let Scores { foreground_iou, mean_iou, pixel_error, .. } = scores;
        let validation_loss = (pixels > 0).then(|| loss / pixels as f64);
        let objects = InstanceScores::mean(&objects);
        let (ap50, mean_ap) = (objects.average_precision.map(|precision| precision[0]), objects.mean_average_precision);
        let scored = Scored { foreground_iou, mean_iou, pixel_error, validation_loss, ap50, mean_ap };
        Ok(Some(Validated { scored, scores, variety }))
    }
}
