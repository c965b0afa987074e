//! Scores on images that are not trained on.

use super::record::Scored;
use crate::data::Sample;
use crate::error::{Error, Result};
use crate::executor::Device;
use crate::metrics::{Confusion, Scores};
use crate::models::UNet;
use crate::predict::{Predictor, smallest_tile};

/// Validation images, and a predictor that takes each new state of the weights.
#[derive(Debug)]
pub struct Validator {
    predictor: Predictor,
    images: Vec<Image>,
}

#[derive(Debug)]
struct Image {
    size: [usize; 2],
    pixels: Vec<f32>,
    classes: Vec<u32>,
}

impl Validator {
    /// A validator with tiles as in training.
    ///
    /// # Errors
    /// [`Error::Usage`] when an image has other channels than the network; as [`Predictor::new`].
    pub fn new(device: &Device, model: UNet, tile: usize, parameters: Vec<f32>, samples: Vec<Sample>) -> Result<Self> {
        let mut images = Vec::with_capacity(samples.len());
        for mut sample in samples {
            if sample.image.channels != model.in_channels {
                return Err(Error::Usage(format!(
                    "the validation image {} has {} channels, the training images have {}",
                    sample.name, sample.image.channels, model.in_channels
                )));
            }
            sample.image.normalise();
            let classes = sample.classes().into_owned().values;
            let size = [sample.image.height, sample.image.width];
            images.push(Image { size, pixels: sample.image.pixels, classes });
        }
        // The tile of training is known to fit the device.
        let tile = tile.max(smallest_tile(&model));
        let predictor = Predictor::new(device.clone(), model, parameters, Some([tile; 2]))?;
        Ok(Self { predictor, images })
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// The scores of these parameters over all images, or `None` when `proceed`, which is told how many images are done, says
    /// no.
    ///
    /// # Errors
    /// When the device fails.
    pub fn score(
        &mut self,
        parameters: Vec<f32>,
        proceed: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Option<Scored>> {
        self.predictor.set_parameters(parameters)?;
        let mut confusion = Confusion::new(self.predictor.net().classes);
        let total = self.images.len();
        for (done, image) in self.images.iter().enumerate() {
            if !proceed(done, total) {
                return Ok(None);
            }
            let prediction = self.predictor.predict(&image.pixels, image.size, &mut |_, _| {})?;
            confusion.add(&image.classes, &prediction.labels);
        }
        let scores: Scores = confusion.scores();
        Ok(Some(Scored::from(&scores)))
    }
}
