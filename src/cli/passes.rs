//! How predictions are made: flags that `predict` and `evaluate` share.

use super::weights::WeightsArguments;
use super::{Tile, note, parse};
use clap::Args;
use tilewise::checkpoint::{Metadata, Weights};
use tilewise::data::{Intensities, Zoom};
use tilewise::executor::Device;
use tilewise::models::Precision;
use tilewise::predict::{Averaging, Blend, Predictor, Quantity, Views};

/// Weights, tiles, and the passes over an image.
#[derive(Debug, Args)]
pub(crate) struct PassArguments {
    #[command(flatten)]
    weights: WeightsArguments,
    /// Side of the input tiles, as N or HEIGHTxWIDTH; by default what covers the image and fits the device
    #[arg(long, value_name = "PIXELS")]
    tile: Option<Tile>,
    /// Average over views of the image: 4 (flips, as the authors do) or 8 (quarter turns too); each takes the time of one pass
    #[arg(long, value_name = "1|4|8", default_value = "1")]
    views: Views,
    /// What is averaged: raw scores, or probabilities
    #[arg(long, value_name = "scores|probabilities", default_value = "scores", value_parser = parse::<Quantity>)]
    average: Quantity,
    /// How tiles meet: exact (as one pass over the whole image), abutting (the paper's: fewer tiles, slight seams), mean or gaussian
    /// (they overlap by half and are averaged; of no effect where one tile covers the image, so give a smaller --tile)
    #[arg(long, value_name = "NAME", default_value = "exact", value_parser = parse::<Blend>)]
    blend: Blend,
    /// What the network is given of images: standard (each channel of an image with mean 0 and deviation 1, as `train` does) or unit
    /// (from 0 to 1) [default: what the weights file says, else what the authors of its network do]
    #[arg(long, value_name = "standard|unit", value_parser = parse::<Intensities>)]
    intensities: Option<Intensities>,
    /// Make images larger by this factor before the network sees them, and bring its scores back to their own size [default: what the weights
    /// file says, else 1]
    #[arg(long, value_name = "FACTOR")]
    zoom: Option<Zoom>,
    /// From which probability of being foreground a pixel is; less joins pixels, more parts objects [default: the most probable class]
    #[arg(long, value_name = "PROBABILITY", value_parser = probability)]
    threshold: Option<f32>,
    /// How activations are stored: f32, or mixed, as f16 in half of the memory
    #[arg(long, value_name = "f32|mixed", default_value_t)]
    precision: Precision,
}

fn probability(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value| (0.0..=1.0).contains(value));
    value.ok_or_else(|| format!("{text:?} is not a probability, 0 to 1"))
}

impl PassArguments {
    /// The weights file.
    pub(crate) fn weights(&self) -> tilewise::Result<Weights> {
        self.weights.load()
    }

    /// What to say where tiles were to be averaged and none of the images has as many as two.
    pub(crate) fn remark(&self, most_tiles: usize) -> Option<&'static str> {
        let averaged = matches!(self.blend, Blend::Mean | Blend::Gaussian);
        (averaged && most_tiles == 1).then_some(
            "note: one tile covers each image, so --blend has nothing to average; give a --tile smaller than the images",
        )
    }

    /// The network of these weights, compiled when the first image comes.
    pub(crate) fn predictor(&self, device: Device, weights: &Weights) -> tilewise::Result<Predictor> {
        let Self { views, average: of, blend, precision, .. } = *self;
        let mut predictor = Predictor::load(device, weights, self.tile.map(|Tile(tile)| tile))?;
        if let Some(intensities) = self.intensities {
            predictor = predictor.given(intensities);
        }
        if let Some(zoom) = self.zoom {
            predictor = predictor.zoomed(zoom);
        }
        if !weights.metadata().entries().contains_key(Metadata::MODEL) {
            note(&format!(
                "note: by their names these are weights of {} of depth {}, base {}; --intensities {} is what it is given of images",
                predictor.net().title(),
                predictor.net().depth,
                predictor.net().base_channels,
                predictor.intensities()
            ));
        }
        let predictor = predictor.averaging(Averaging { views, of, blend }).stored_in(precision);
        Ok(match self.threshold {
            Some(threshold) => predictor.threshold(threshold),
            None => predictor,
        })
    }
}
