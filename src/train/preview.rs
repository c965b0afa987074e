//! What augmentation makes of tiles, before anything is trained on them.

use super::config::Config;
use super::trainer::{sampler, write_changes};
use crate::array::{Array, Tensor};
use crate::data::augmentation::Change;
use crate::data::sampler::Batch;
use crate::data::{Prepared, Sample};
use crate::error::Result;
use crate::executor::{Device, Executor};
use crate::graph::{Graph, NodeId};
use crate::models::{Augmented, Tiles};

/// The part of a tile that a network is scored on.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The normalised image, `[side, side, channels]`.
    pub image: Vec<f32>,
    /// The class of each pixel, `[side, side]`.
    pub labels: Vec<u32>,
    /// The weight of each pixel, `[side, side]`; 0 where it is ignored.
    pub weights: Vec<f32>,
}

/// Examples of one sample: a tile as it is, and changed versions of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Preview {
    /// The name of the sample.
    pub name: String,
    /// The side of the part that is scored.
    pub side: usize,
    /// Channels of the image.
    pub channels: usize,
    /// The tile, first as it is.
    pub examples: Vec<Example>,
}

/// A tile of each sample as it is, and `versions` of it as training would change it, computed on a device by the ops that training
/// uses. What the network sees around the part that is scored is left out.
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage) when the configuration makes no sense or does not fit a sample; when the device fails.
pub fn preview(config: &Config, device: &Device, samples: Vec<Sample>, versions: u32) -> Result<Vec<Preview>> {
    config.validate()?;
    let tile = config.tile_for(&samples);
    let side = config.model(1, 2).output_side(tile)?;
    let mut previews = Vec::with_capacity(samples.len());
    for (number, sample) in (0..).zip(samples) {
        let sample = config.prepared(sample)?;
        let (name, channels) = (sample.name.clone(), sample.channels);
        let examples = examples(config, device, sample, [tile, side], number, versions)?;
        previews.push(Preview { name, side, channels, examples });
    }
    Ok(previews)
}

fn examples(
    config: &Config,
    device: &Device,
    sample: Prepared,
    [tile, side]: [usize; 2],
    number: u32,
    versions: u32,
) -> Result<Vec<Example>> {
    let (frame, window, channels, augmentation) = ([tile; 2], [side; 2], sample.channels, &config.augment);
    let tiles = Tiles { batch: 1, channels, frame, window, augmentation };
    let mut graph = Graph::new();
    let nodes = Augmented::build(&mut graph, &tiles)?;
    let outputs = [nodes.image, nodes.labels, nodes.weights];
    for (name, node) in ["image", "labels", "weights"].into_iter().zip(outputs) {
        graph.mark_output(name, node)?;
    }
    let mut executor = Executor::new(device, &graph, &[])?;
    let sampler = sampler(config, vec![sample], frame, window, true)?;
    let elements = |node: NodeId| graph.shape(node).elements();
    let mut input = vec![0.0; elements(nodes.source_image)];
    let mut labels = vec![0; elements(nodes.source_labels)];
    let mut weights = vec![0.0; elements(nodes.source_weights)];
    sampler.cut(sampler.draw(number, 1, 0), Batch { input: &mut input, labels: &mut labels, weights: &mut weights });
    let float = |node: NodeId, data| Tensor::Float(Array { shape: graph.shape(node).clone(), data });
    let uint = |node: NodeId, data| Tensor::Uint(Array { shape: graph.shape(node).clone(), data });
    executor.write(nodes.source_image, float(nodes.source_image, input))?;
    executor.write(nodes.source_labels, uint(nodes.source_labels, labels))?;
    executor.write(nodes.source_weights, float(nodes.source_weights, weights))?;
    let original = Change::identity(augmentation.grid());
    let drawn = (0..versions).map(|version| {
        let step = number.wrapping_mul(versions).wrapping_add(version);
        sampler.changes(step, 1, augmentation, frame).swap_remove(0)
    });
    let mut examples = Vec::new();
    for (step, change) in (0..).zip(std::iter::once(original).chain(drawn)) {
        executor.write(nodes.generator, uint(nodes.generator, vec![config.seed, step]))?;
        write_changes(&mut executor, &nodes, &[change])?;
        executor.run()?;
        let image = executor.read(nodes.image)?;
        let margin = (tile - side) / 2;
        let rows = image.float().data.chunks(tile * channels).skip(margin).take(side);
        examples.push(Example {
            image: rows.flat_map(|row| &row[margin * channels..][..side * channels]).copied().collect(),
            labels: executor.read(nodes.labels)?.uint().data.clone(),
            weights: executor.read(nodes.weights)?.float().data.clone(),
        });
    }
    Ok(examples)
}
