//! The part of a training step ahead of the network: augmentation on the device.

use super::{Training, TrainingStep, UNet};
use crate::data::Augmentation;
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeId};
use crate::ops::{AugmentPositions, Interpolation};
use crate::shape::TensorType;

/// The tiles of a step and how they are changed.
#[derive(Clone, Copy, Debug)]
pub struct Tiles<'a> {
    /// The number of tiles.
    pub batch: usize,
    /// Channels of the image.
    pub channels: usize,
    /// Height and width of the result's image: what a network takes.
    pub frame: [usize; 2],
    /// Height and width of the result's labels and weights, from the middle of the frame: what a network returns.
    pub window: [usize; 2],
    /// How far tiles are changed.
    pub augmentation: &'a Augmentation,
}

/// Nodes that change tiles: what the host writes, and what comes out.
#[derive(Clone, Copy, Debug)]
pub struct Augmented {
    /// Written by the host: source tiles `[n, s, s', channels]`, of [`Augmentation::source`]'s size.
    pub source_image: NodeId,
    /// Written by the host: `u32 [n, s, s']`.
    pub source_labels: NodeId,
    /// Written by the host: `[n, s, s']`.
    pub source_weights: NodeId,
    /// Written by the host: `[n, 6]`.
    pub transforms: NodeId,
    /// Written by the host: `[n, grid, grid, 2]`.
    pub displacements: NodeId,
    /// Written by the host: `[n, 6]`.
    pub intensities: NodeId,
    /// Written by the host: seed and step, `u32 [2]`.
    pub generator: NodeId,
    /// The changed image, `[n, h, w, channels]`.
    pub image: NodeId,
    /// Its labels, `u32 [n, h', w']`.
    pub labels: NodeId,
    /// Its weights, `[n, h', w']`.
    pub weights: NodeId,
}

impl Augmented {
    /// Adds the nodes to a graph.
    ///
    /// # Errors
    /// When the window has no place in the middle of the frame, or the source is too large.
    pub fn build(graph: &mut Graph, tiles: &Tiles<'_>) -> Result<Self> {
        let Tiles { batch, channels, frame, window, augmentation } = *tiles;
        let (source, grid) = (augmentation.source(frame), augmentation.grid());
        let [height, width] = source;
        let float = |extents: &[usize]| TensorType::f32(extents).map_err(Error::Usage);
        let source_image = graph.input("source.image", float(&[batch, height, width, channels])?);
        let labels_type = TensorType::u32([batch, height, width]).map_err(Error::Usage)?;
        let source_labels = graph.input("source.labels", labels_type);
        let source_weights = graph.input("source.weights", float(&[batch, height, width])?);
        let transforms = graph.input("transforms", float(&[batch, 6])?);
        let displacements = graph.input("displacements", float(&[batch, grid, grid, 2])?);
        let intensities = graph.input("intensities", float(&[batch, 6])?);
        let generator = graph.input("generator", TensorType::u32([2]).map_err(Error::Usage)?);
        let mut positions = |name: &str, window| {
            graph.augment_positions(name, transforms, displacements, AugmentPositions { frame, window, source })
        };
        let (image_positions, window_positions) =
            (positions("image.positions", frame)?, positions("positions", window)?);
        // On pixels themselves both are exact, and of 4 loads instead of 16.
        let interpolation =
            if augmentation.interpolates() { augmentation.interpolation } else { Interpolation::Linear };
        let image =
            graph.augment_image("image", source_image, image_positions, intensities, generator, interpolation)?;
        let labels = graph.augment_labels("labels", source_labels, window_positions)?;
        let weights = graph.augment_weights("weights", source_weights, window_positions)?;
        Ok(Self {
            source_image,
            source_labels,
            source_weights,
            transforms,
            displacements,
            intensities,
            generator,
            image,
            labels,
            weights,
        })
    }
}

impl UNet {
    /// The graph of one training step on changed tiles; `image`, `labels` and `weights` of the step are what the host writes, the
    /// source tiles.
    ///
    /// # Errors
    /// As [`UNet::build`] and [`Network::training_step`](super::Network::training_step).
    pub fn augmented_training_step(&self, tiles: &Tiles<'_>, training: &Training) -> Result<(TrainingStep, Augmented)> {
        let mut graph = Graph::new();
        let augmented = Augmented::build(&mut graph, tiles)?;
        let network = self.extend(graph, augmented.image, Some(augmented.generator))?;
        let step = network.training_step_on(augmented.labels, augmented.weights, training)?;
        let Augmented { source_image: image, source_labels: labels, source_weights: weights, .. } = augmented;
        Ok((TrainingStep { image, labels, weights, generator: Some(augmented.generator), ..step }, augmented))
    }
}
