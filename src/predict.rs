//! Prediction on images of any size by the paper's overlap-tile strategy (section 2, figure 2): tiles overlap in their input so that
//! every output pixel has its full context, and context beyond the image is its mirror image.

mod averaging;
mod evaluation;
mod files;
mod segmenter;

pub use averaging::{Averaging, Blend, Quantity, Views};
pub use evaluation::{Evaluation, ImageScores, dataset_for};
pub use files::{Outputs, pages, save_logits};
pub use segmenter::{Segmenter, Texels};

use crate::array::{Array, Tensor};
use crate::checkpoint::Weights;
use crate::data::Orientation;
use crate::data::sampler::reflect;
use crate::data::{Image, Intensities, LabelMap, Sample, Zoom, resample};
use crate::error::{Error, Result};
use crate::executor::{Device, Executor};
use crate::gpu::MemoryPlan;
use crate::graph::{Bank, Graph, NodeId};
use crate::metrics::Confusion;
use crate::models::{Network, Precision, UNet};
use crate::op::Op;
use crate::ops::{Argmax, Softmax};
use crate::progress::{Progress, unwatched};
use crate::shape::Shape;
use averaging::Sums;
use std::ops::Range;

/// What a network says about an image, at the image's own size.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// The number of classes.
    pub classes: usize,
    /// Raw scores, `[height, width, classes]`.
    pub logits: Vec<f32>,
    /// Their softmax over the classes, `[height, width, classes]`.
    pub probabilities: Vec<f32>,
    /// The class of the highest score, `[height, width]`.
    pub labels: Vec<u32>,
}

impl Prediction {
    fn blank([height, width]: [usize; 2], classes: usize) -> Self {
        let pixels = height * width;
        let scores = vec![0.0; pixels * classes];
        Self { height, width, classes, logits: scores.clone(), probabilities: scores, labels: vec![0; pixels] }
    }

    /// What scores `[size, classes]` say: their softmax and argmax.
    fn of_scores(size: [usize; 2], classes: usize, logits: Vec<f32>) -> Result<Self> {
        let shape = Shape::new([size[0], size[1], classes]).map_err(Error::Usage)?;
        let scores = Tensor::Float(Array { shape, data: logits });
        let [probabilities, labels] =
            [Softmax.reference(&[&scores]), Argmax.reference(&[&scores])].map(|mut results| results.swap_remove(0));
        Ok(Self {
            height: size[0],
            width: size[1],
            classes,
            probabilities: probabilities.float().data.clone(),
            labels: labels.uint().data.clone(),
            logits: scores.float().data.clone(),
        })
    }

    /// Copies what counts of what the network says about a tile to its place.
    async fn place(&mut self, place: &Place, width: usize, tile: &Loaded) -> Result<()> {
        let logits = tile.executor.read_async(tile.logits).await?;
        let probabilities = tile.executor.read_async(tile.probabilities).await?;
        let labels = tile.executor.read_async(tile.labels).await?;
        let [rows, columns] = &place.kept;
        for y in rows.clone() {
            let from = y * width + columns.start;
            let to = (place.origin[0] + y) * self.width + place.origin[1] + columns.start;
            self.labels[to..][..columns.len()].copy_from_slice(&labels.uint().data[from..][..columns.len()]);
            let (from, to, count) = (from * self.classes, to * self.classes, columns.len() * self.classes);
            self.logits[to..][..count].copy_from_slice(&logits.float().data[from..][..count]);
            self.probabilities[to..][..count].copy_from_slice(&probabilities.float().data[from..][..count]);
        }
        Ok(())
    }

    /// The class of each pixel as a map.
    pub fn label_map(&self) -> LabelMap {
        LabelMap { height: self.height, width: self.width, values: self.labels.clone() }
    }

    /// Decides anew what is foreground: a pixel in which all classes but 0 together have at least the probability `threshold` gets the
    /// most probable of them, any other gets 0. With two classes, a threshold of 0.5 is the class of the highest score.
    pub fn decide(&mut self, threshold: f32) {
        for (label, probabilities) in self.labels.iter_mut().zip(self.probabilities.chunks_exact(self.classes.max(1))) {
            let foreground = probabilities.iter().enumerate().skip(1);
            let most_probable = foreground.rev().max_by(|(_, one), (_, other)| one.total_cmp(other));
            let is_foreground = probabilities[1..].iter().sum::<f32>() >= threshold;
            *label = most_probable.filter(|_| is_foreground).map_or(0, |(class, _)| class as u32);
        }
    }

    /// The cross-entropy with a class for each pixel, without weights, and the number of pixels in it: those whose class is one of
    /// the network's.
    pub fn cross_entropy(&self, truth: &[u32]) -> (f64, u64) {
        let mut sum = (0.0, 0);
        for (logits, &class) in self.logits.chunks(self.classes.max(1)).zip(truth) {
            if let Some(&own) = logits.get(class as usize) {
                let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                let exponentials: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
                sum.0 += exponentials.ln() - (f64::from(own) - largest);
                sum.1 += 1;
            }
        }
        sum
    }
}

/// What the tiles of an image become.
enum Gathered {
    One(Prediction),
    Averaged(Sums),
}

impl Gathered {
    async fn take(&mut self, tile: &Loaded, pass: &Pass, place: &Place) -> Result<()> {
        match self {
            Self::One(prediction) => prediction.place(place, pass.output[1], tile).await,
            Self::Averaged(sums) => {
                let node = match sums.of() {
                    Quantity::Scores => tile.logits,
                    Quantity::Probabilities => tile.probabilities,
                };
                let values = tile.executor.read_async(node).await?;
                sums.add(pass.orientation, place, pass.output, &values.float().data);
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<Prediction> {
        match self {
            Self::One(prediction) => Ok(prediction),
            Self::Averaged(sums) => sums.finish(),
        }
    }
}

/// Memory that a plan for prediction may take when the tile is chosen automatically.
const MEMORY_BUDGET_BYTES: u64 = 1 << 30;

/// The longest side of an automatic tile: past it, larger tiles save little work (kernels.md's share of halo) and cost memory.
const LARGEST_AUTOMATIC_SIDE: usize = 1100;

/// The longest side of an image.
const LONGEST_SIDE: usize = 1 << 24;

/// A network with its parameters, ready to segment images of any size.
#[derive(Debug)]
pub struct Predictor {
    device: Device,
    net: UNet,
    parameters: Vec<f32>,
    tile: Option<[usize; 2]>,
    intensities: Intensities,
    zoom: Zoom,
    averaging: Averaging,
    threshold: Option<f32>,
    precision: Precision,
    loaded: Option<Loaded>,
}

/// The network compiled for one tile size.
#[derive(Debug)]
struct Loaded {
    tile: [usize; 2],
    /// The graph with its batch norms, which are folded into convolutions anew for other parameters.
    original: Graph,
    executor: Executor,
    image: NodeId,
    logits: NodeId,
    probabilities: NodeId,
    labels: NodeId,
}

impl Loaded {
    /// Runs the network on the tile of a pass over a prepared image whose output begins there, and says where that lies.
    async fn run(&mut self, image: &Image, pass: &Pass, origin: [usize; 2]) -> Result<Place> {
        let Pass { orientation, tile, halo, .. } = *pass;
        let (size, [top, left]) = ([image.height, image.width], origin);
        let view = orientation.extents(size);
        let shape = Shape::new([1, tile[0], tile[1], image.channels]).map_err(Error::Usage)?;
        let mut data = Vec::with_capacity(shape.elements());
        for y in 0..tile[0] {
            let y = reflect((top + y) as isize - halo, view[0]);
            for x in 0..tile[1] {
                let x = reflect((left + x) as isize - halo, view[1]);
                let [row, column] = orientation.source([y, x], size);
                data.extend_from_slice(&image.pixels[(row * size[1] + column) * image.channels..][..image.channels]);
            }
        }
        self.executor.write(self.image, Tensor::Float(Array { shape, data }))?;
        self.executor.run_async().await?;
        Ok(pass.place(view, origin))
    }
}

/// Where the output of a tile lies in a view of an image.
#[derive(Debug)]
struct Place {
    origin: [usize; 2],
    /// The rows and columns of it that count: within the image, and with enough context where it goes on.
    kept: [Range<usize>; 2],
}

/// One look at an image: how it lies, and the tiles that cover it.
#[derive(Debug)]
struct Pass {
    orientation: Orientation,
    tile: [usize; 2],
    /// How many pixels an edge of the tile lies beyond that of the output.
    halo: isize,
    output: [usize; 2],
    /// How many pixels along an edge of the output do not count where the image goes on.
    margin: [usize; 2],
    /// Where the outputs of tiles begin along each axis of the image that lies so.
    origins: [Vec<usize>; 2],
}

impl Pass {
    fn tiles(&self) -> usize {
        self.origins[0].len() * self.origins[1].len()
    }

    fn origins(&self) -> impl Iterator<Item = [usize; 2]> {
        self.origins[0].iter().flat_map(|&top| self.origins[1].iter().map(move |&left| [top, left]))
    }

    /// Where the output that begins at `origin` lies in a view of this size.
    fn place(&self, view: [usize; 2], origin: [usize; 2]) -> Place {
        let kept = [0, 1].map(|axis| {
            let (output, origin, rest) = (self.output[axis], origin[axis], view[axis] - origin[axis]);
            let first = if origin > 0 { self.margin[axis] } else { 0 };
            first..if rest > output { output - self.margin[axis] } else { rest }
        });
        Place { origin, kept }
    }
}

/// The graph of a prediction: logits, probabilities and labels of one tile.
fn prediction_graph(net: &UNet, tile: [usize; 2]) -> Result<(Network, NodeId, NodeId)> {
    let mut network = net.inference(1, tile)?;
    let probabilities = network.graph.apply("probabilities", Softmax, &[network.logits])?;
    let labels = network.graph.apply("labels", Argmax, &[network.logits])?;
    network.graph.mark_output("logits", network.logits)?;
    network.graph.mark_output("probabilities", probabilities)?;
    network.graph.mark_output("labels", labels)?;
    Ok((network, probabilities, labels))
}

impl Predictor {
    /// The network of a weights file, given [what it is to be given](Weights::intensities) of images, as [large](Weights::zoom) as it is to
    /// see them; tiles as in [`Predictor::new`], unless it [must be given](Weights::tile) those of training.
    ///
    /// # Errors
    /// As [`Weights::network`], [`Weights::intensities`], [`Weights::zoom`] and [`Predictor::new`].
    pub fn load(device: Device, weights: &Weights, tile: Option<[usize; 2]>) -> Result<Self> {
        let (net, parameters) = weights.network()?;
        let tile = tile.or(weights.tile(&net)?.map(|side| [side; 2]));
        Ok(Self::new(device, net, parameters, tile)?.given(weights.intensities(&net)?).zoomed(weights.zoom()?))
    }

    /// A predictor with tiles of this size, or of a size that fits each image and the device.
    ///
    /// # Errors
    /// As [`UNet::validate`]; [`Error::Usage`] when the tile is illegal for the network (the message names the nearest legal ones) or so
    /// small that aligned tiles cannot advance, or there are too many or too few parameters.
    pub fn new(device: Device, net: UNet, parameters: Vec<f32>, tile: Option<[usize; 2]>) -> Result<Self> {
        net.validate()?;
        for side in tile.into_iter().flatten() {
            if tile_step(&net, side)? == 0 {
                return Err(Error::Usage(format!(
                    "a tile of {side} pixels gives {} pixels of result, too few to advance by the {} that pooling needs; \
                     the smallest usable tile is {}",
                    net.output_side(side)?,
                    net.stride(),
                    smallest_tile(&net)
                )));
            }
        }
        let smallest = [smallest_tile(&net); 2];
        check_count(net.inference(1, smallest)?.graph.bank_elements(), parameters.len())?;
        let (intensities, zoom, averaging, precision) = Default::default();
        let threshold = None;
        Ok(Self { device, net, parameters, tile, intensities, zoom, averaging, threshold, precision, loaded: None })
    }

    /// The predictor of a network that is given this of images.
    #[must_use]
    pub fn given(self, intensities: Intensities) -> Self {
        Self { intensities, ..self }
    }

    /// The predictor of a network that is shown images larger by this factor; predictions stay of their own size.
    #[must_use]
    pub fn zoomed(self, zoom: Zoom) -> Self {
        Self { zoom, ..self }
    }

    /// The predictor with several passes over each image.
    #[must_use]
    pub fn averaging(self, averaging: Averaging) -> Self {
        Self { averaging, ..self }
    }

    /// The predictor with labels decided by [`Prediction::decide`].
    #[must_use]
    pub fn threshold(self, threshold: f32) -> Self {
        Self { threshold: Some(threshold), ..self }
    }

    /// The predictor with activations stored so.
    #[must_use]
    pub fn stored_in(self, precision: Precision) -> Self {
        Self { precision, loaded: None, ..self }
    }

    /// Replaces the parameters, as training goes on.
    ///
    /// # Errors
    /// When there are too many or too few, or the device has failed.
    pub fn set_parameters(&mut self, parameters: Vec<f32>) -> Result<()> {
        check_count(self.parameters.len(), parameters.len())?;
        if let Some(loaded) = &mut self.loaded {
            loaded.executor.write_bank(Bank::Parameters, &loaded.original.folded(&parameters)?.parameters)?;
        }
        self.parameters = parameters;
        Ok(())
    }

    /// The network.
    pub fn net(&self) -> &UNet {
        &self.net
    }

    /// What it is given of images.
    pub fn intensities(&self) -> Intensities {
        self.intensities
    }

    /// The tile for an image of this size: the given one, or the smallest that covers the image in as few tiles as the device's bindings and
    /// a memory budget of 1 GiB allow; where not even the tensors of the smallest fit a binding each, they are in pieces.
    ///
    /// # Errors
    /// [`Error::Usage`] for an image of more than 2^24 pixels a side, [`Error::Memory`] when not even the smallest tile fits.
    pub fn tile_for(&self, height: usize, width: usize) -> Result<[usize; 2]> {
        let extents = [height, width];
        check_size(extents)?;
        if let Some(tile) = self.tile {
            return Ok(tile);
        }
        let mut tile = extents.map(|extent| smallest_tile_in(&self.net, extent, 1));
        let mut counts = [1, 1];
        loop {
            let largest = tile[0].max(tile[1]);
            let is_smallest = largest == smallest_tile(&self.net);
            if (is_smallest || largest <= LARGEST_AUTOMATIC_SIDE) && self.fits(tile, is_smallest)? {
                return Ok(tile);
            }
            let longer = usize::from(tile[1] > tile[0]);
            if is_smallest {
                return Err(Error::Memory(format!(
                    "not even a tile of {largest}×{largest} pixels fits {}; use a smaller network or `--device cpu`",
                    self.device
                )));
            }
            counts[longer] += 1;
            tile[longer] = smallest_tile_in(&self.net, extents[longer], counts[longer]);
        }
    }

    /// Whether the network with its batch norms fits, which takes no less than it does without them; with tensors in pieces only where they may
    /// be, for that costs time.
    fn fits(&self, tile: [usize; 2], in_pieces: bool) -> Result<bool> {
        let (network, _) = prediction_graph(&self.net, tile)?.0.stored_in(self.precision)?;
        let (profile, choices) = self.device.kernels();
        let memory = MemoryPlan::new(&network.graph.fused(), &profile, &choices, false)?;
        let largest = network.graph.nodes().iter().map(|node| node.tensor_type.size_bytes()).max().unwrap_or(0);
        let is_whole = self.device.gpu().is_none_or(|gpu| largest <= gpu.profile().piece_bytes());
        Ok(memory.total_bytes() - memory.bank <= MEMORY_BUDGET_BYTES && (is_whole || in_pieces))
    }

    /// Segments an image as it was read: it is prepared first, as [`Intensities`] say.
    ///
    /// Unless [`Averaging`] says otherwise, tiles advance by a multiple of 2^depth, under which the network is equivariant. So without
    /// padding the result is the same for every tile size: that of a single pass over the whole mirrored image. With padding, what is
    /// within [`UNet::margin`] of an edge of a tile does not count where the image goes on, so tiles of eight times that see no padding
    /// but that of the image's own edges.
    ///
    /// # Errors
    /// [`Error::Usage`] when the image has no pixels, or other than it says, or another number of channels than the network, or the device
    /// fails; as [`Intensities::prepare`].
    pub fn predict(&mut self, image: &Image) -> Result<Prediction> {
        self.predict_with_progress(image, &mut unwatched)
    }

    /// As [`Predictor::predict`]; after each tile `progress` hears how many are done and how many there are, and may break off.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when it did; as [`Predictor::predict`].
    pub fn predict_with_progress(&mut self, image: &Image, progress: &mut Progress<'_>) -> Result<Prediction> {
        self.device.clone().block_on(self.predict_async(image, progress))
    }

    /// As [`Predictor::predict_with_progress`], without blocking: ready once somebody has polled the device, as for
    /// [`Plan::read_async`](crate::gpu::Plan::read_async).
    ///
    /// # Errors
    /// As [`Predictor::predict_with_progress`].
    pub async fn predict_async(&mut self, image: &Image, progress: &mut Progress<'_>) -> Result<Prediction> {
        let Image { height, width, channels, .. } = *image;
        if channels != self.net.in_channels {
            return Err(Error::Usage(format!(
                "the image has {channels} channel(s), the network was trained on {}; convert the image",
                self.net.in_channels
            )));
        }
        let expected = height.saturating_mul(width).saturating_mul(channels);
        if image.pixels.is_empty() || image.pixels.len() != expected {
            return Err(Error::Usage(format!(
                "an image of {height}×{width} pixels and {channels} channel(s) needs {expected} values, at least one, and has {}",
                image.pixels.len()
            )));
        }
        let mut image = self.zoom.image(image.clone())?;
        self.intensities.prepare(&mut image)?;
        let seen = [image.height, image.width];
        let passes = self.passes(seen)?;
        let (mut done, total) = (0, passes.iter().map(Pass::tiles).sum());
        let (classes, averaging) = (self.net.classes, self.averaging);
        let mut gathered = if averaging.is_single() {
            Gathered::One(Prediction::blank(seen, classes))
        } else {
            Gathered::Averaged(Sums::new(seen, classes, averaging))
        };
        for pass in &passes {
            let tile = self.compile(pass.tile)?;
            for origin in pass.origins() {
                let place = tile.run(&image, pass, origin).await?;
                gathered.take(tile, pass, &place).await?;
                done += 1;
                if progress(done, total).is_break() {
                    return Err(Error::Interrupted);
                }
            }
        }
        let mut prediction = gathered.finish()?;
        if seen != [height, width] {
            let logits = resample(prediction.logits, seen, [height, width], classes)?;
            prediction = Prediction::of_scores([height, width], classes, logits)?;
        }
        if let Some(threshold) = self.threshold {
            prediction.decide(threshold);
        }
        Ok(prediction)
    }

    /// Into how many tiles an image of this size is cut, in each view of it.
    ///
    /// # Errors
    /// As [`Predictor::tile_for`].
    pub fn tiles_for(&self, height: usize, width: usize) -> Result<usize> {
        Ok(self.passes(self.zoom.size([height, width]))?.iter().map(Pass::tiles).max().unwrap_or(0))
    }

    /// The passes over an image of this size.
    fn passes(&self, size: [usize; 2]) -> Result<Vec<Pass>> {
        let pass = |orientation: Orientation| {
            let [tile_height, tile_width] = self.tile_for(size[0], size[1])?;
            let tile = orientation.extents([tile_height, tile_width]);
            let output = [self.net.output_side(tile[0])?, self.net.output_side(tile[1])?];
            let view = orientation.extents(size);
            let margin = output.map(|side| self.averaging.blend.margin(&self.net, side));
            let origins = [0, 1].map(|axis| {
                let step = self.averaging.blend.step(&self.net, output[axis]);
                // With padding, the last tile ends where the image does, so that the zeros beyond are where one pass would have them.
                let last = match self.net.shrink() {
                    0 => self.net.legal_above(view[axis]).saturating_sub(output[axis]),
                    _ => usize::MAX,
                };
                let origin = |tile: usize| (tile * step).min(last);
                (0..tiles_over(view[axis], output[axis], step)).map(origin).collect()
            });
            Ok(Pass { orientation, tile, halo: self.net.halo() as isize, output, margin, origins })
        };
        self.averaging.views.orientations().into_iter().map(pass).collect()
    }

    /// The prediction of a sample's image, and how it compares with the truth.
    ///
    /// # Errors
    /// [`Error::Data`] naming the sample when its image has other channels than the network or its truth another size; as
    /// [`Predictor::predict`].
    pub fn score(&mut self, sample: &Sample) -> Result<(Prediction, Confusion)> {
        let named = |error| match error {
            Error::Usage(problem) => Error::data(&sample.name, problem),
            other => other,
        };
        sample.check()?;
        let prediction = self.predict(&sample.image).map_err(named)?;
        let mut confusion = Confusion::new(self.net.classes);
        confusion.add(&sample.classes().values, &prediction.labels).map_err(named)?;
        Ok((prediction, confusion))
    }

    /// The executor for a tile size; the last one is kept.
    fn compile(&mut self, tile: [usize; 2]) -> Result<&mut Loaded> {
        if self.loaded.as_ref().is_none_or(|loaded| loaded.tile != tile) {
            // The old buffers go before the new ones come.
            self.loaded = None;
        }
        match &mut self.loaded {
            Some(loaded) => Ok(loaded),
            empty => {
                let (network, probabilities, labels) = prediction_graph(&self.net, tile)?;
                let Network { graph: original, image, logits, .. } = network;
                let folded = original.folded(&self.parameters)?;
                let nodes = [image, logits, probabilities, labels].map(|node| folded.kept(node));
                let network = Network { graph: folded.graph, image: nodes[0], generator: None, logits: nodes[1] };
                let (network, stands) = network.stored_in(self.precision)?;
                let executor = Executor::new(&self.device, &network.graph, &folded.parameters)?;
                let [image, logits, probabilities, labels] = nodes.map(|node| stands[node.index()]);
                Ok(empty.insert(Loaded { tile, original, executor, image, logits, probabilities, labels }))
            }
        }
    }
}

fn check_count(expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Usage(format!("the network has {expected} parameters (with padding), got {found}")))
}

/// How many tiles of this output cover an axis when they advance by `step`.
fn tiles_over(extent: usize, output: usize, step: usize) -> usize {
    1 + extent.saturating_sub(output).div_ceil(step)
}

/// By how many pixels aligned tiles of this side advance: the largest multiple of 2^depth within their output.
fn tile_step(net: &UNet, side: usize) -> Result<usize> {
    Ok(Blend::Exact.step(net, net.output_side(side)?))
}

/// Refuses images so long that the places of their tiles alone would fill the memory.
fn check_size(size: [usize; 2]) -> Result<()> {
    let [height, width] = size;
    if height.max(width) <= LONGEST_SIDE {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "an image of {height}×{width} pixels is longer than the {LONGEST_SIDE} that can be cut into tiles"
    )))
}

/// The smallest tile of which `count`, aligned, cover `extent` pixels.
fn smallest_tile_in(net: &UNet, extent: usize, count: usize) -> usize {
    // Tiles advance by no more than their output, so smaller ones cannot do.
    let smallest = smallest_tile(net).max(net.legal_above(extent.div_ceil(count) + net.shrink()));
    let enough = |&side: &usize| {
        let output = side - net.shrink();
        tiles_over(extent, output, Blend::Exact.step(net, output)) <= count
    };
    (smallest..).step_by(net.step()).find(enough).unwrap_or(smallest)
}

/// The smallest tile whose step is not zero.
pub fn smallest_tile(net: &UNet) -> usize {
    net.legal_above(net.shrink() + net.stride())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Variant;

    #[test]
    fn the_cross_entropy_is_that_of_the_softmax_where_the_class_is_known() {
        let logits = vec![3.0_f32.ln(), 0.0, 800.0, -800.0, 0.0, 0.0];
        let prediction =
            Prediction { height: 1, width: 3, classes: 2, logits, probabilities: vec![0.0; 6], labels: vec![0; 3] };
        for (truth, expected, count) in
            [([0, 0, 0], -0.75_f64.ln() - 0.5_f64.ln(), 3), ([1, 1, 2], -0.25_f64.ln() + 1600.0, 2), ([255; 3], 0.0, 0)]
        {
            let (sum, pixels) = prediction.cross_entropy(&truth);
            assert!((sum - expected).abs() < 1e-6 && pixels == count, "{truth:?}: {sum}, {pixels}");
        }
    }

    #[test]
    fn a_threshold_decides_what_is_foreground_and_the_probabilities_which() {
        let probabilities = vec![0.4, 0.3, 0.3, 0.7, 0.1, 0.2, 0.1, 0.2, 0.7];
        for (threshold, expected) in [(0.25, [1, 2, 2]), (0.5, [1, 0, 2]), (0.65, [0, 0, 2]), (0.95, [0; 3])] {
            let mut prediction = Prediction { probabilities: probabilities.clone(), ..Prediction::blank([1, 3], 3) };
            prediction.decide(threshold);
            assert_eq!(prediction.labels, expected, "{threshold}");
        }
    }

    #[test]
    fn few_tiles_are_no_larger_than_they_must_be() {
        let net = UNet { depth: 3, ..UNet::default() };
        // 1024 in two tiles that overlap by 4 pixels: 516 pixels of output and the halo, where the largest tile would have 1012.
        assert_eq!(smallest_tile_in(&net, 1024, 2), 604);
        for extent in [1, 50, 127, 388, 1000, 1024] {
            for count in 1..=8 {
                let side = smallest_tile_in(&net, extent, count);
                let covered = |side| (count - 1) * tile_step(&net, side).unwrap() + net.output_side(side).unwrap();
                assert!(covered(side) >= extent, "{extent} pixels in {count} tiles of {side}: {}", covered(side));
                let smaller = side - net.stride();
                let enough = smaller >= smallest_tile(&net) && covered(smaller) >= extent;
                assert!(!enough, "{extent} pixels in {count} tiles: {smaller} would do, not {side}");
            }
        }
    }

    #[test]
    fn the_smallest_tile_is_that_of_a_walk_over_all() {
        for variant in [Variant::Unet, Variant::Milesial, Variant::Semseg] {
            let net = UNet { variant, depth: 2, ..UNet::default() };
            for (extent, count) in (1..600).step_by(7).flat_map(|extent| (1..9).map(move |count| (extent, count))) {
                let enough = |&side: &usize| {
                    let output = side - net.shrink();
                    tiles_over(extent, output, Blend::Exact.step(&net, output)) <= count
                };
                let walked = (smallest_tile(&net)..).step_by(net.step()).find(enough);
                assert_eq!(
                    walked,
                    Some(smallest_tile_in(&net, extent, count)),
                    "{variant}: {extent} pixels in {count}"
                );
            }
        }
    }

    #[test]
    fn absurd_sizes_are_refused_at_once() {
        let net = UNet { base_channels: 2, depth: 1, ..UNet::default() };
        let parameters = vec![0.0; net.inference(1, [smallest_tile(&net); 2]).unwrap().graph.bank_elements()];
        for tile in [None, Some([32; 2])] {
            let predictor = Predictor::new(Device::Cpu, net, parameters.clone(), tile).unwrap();
            for size in [[usize::MAX, 1], [1, LONGEST_SIDE + 1]] {
                let message = predictor.tiles_for(size[0], size[1]).unwrap_err().to_string();
                assert!(message.contains("longer than the 16777216"), "{message}");
            }
            assert!(predictor.tiles_for(1, LONGEST_SIDE).unwrap() > 1000);
        }
        let mut predictor = Predictor::new(Device::Cpu, net, parameters, None).unwrap();
        let mut image =
            Image { height: 1 << 63, width: 2, channels: 1, bit_depth: 8, pixels: vec![0.0; 4], alpha_dropped: false };
        assert!(predictor.predict(&image).unwrap_err().to_string().contains("values, at least one, and has 4"));
        (image.height, image.bit_depth) = (2, 0);
        let error = predictor.given(Intensities::Unit).predict(&image).unwrap_err();
        assert!(error.to_string().contains("0 bits"), "{error}");
    }

    #[test]
    fn a_prediction_without_classes_is_background() {
        let mut prediction =
            Prediction { labels: vec![1], probabilities: vec![0.5], logits: vec![0.5], ..Prediction::blank([1, 1], 0) };
        prediction.decide(0.5);
        assert_eq!((prediction.labels.as_slice(), prediction.cross_entropy(&[1])), (&[0][..], (0.0, 0)));
    }

    #[test]
    fn a_network_of_which_no_tile_fits_is_refused() {
        let tile_for = |base_channels| {
            let predictor = Predictor {
                device: Device::Cpu,
                net: UNet { base_channels, depth: 7, ..UNet::default() },
                parameters: Vec::new(),
                tile: None,
                intensities: Intensities::default(),
                zoom: Zoom::default(),
                averaging: Averaging::default(),
                threshold: None,
                precision: Precision::F32,
                loaded: None,
            };
            (predictor.tile_for(100, 2000), smallest_tile(&predictor.net))
        };
        let (found, side) = tile_for(1);
        assert!(side > LARGEST_AUTOMATIC_SIDE);
        assert_eq!(found.unwrap(), [side; 2], "the smallest is no choice, however large it is");
        let (found, side) = tile_for(64);
        let error = found.unwrap_err();
        assert!(matches!(error, Error::Memory(_)), "{error}");
        assert!(error.to_string().contains(&format!("not even a tile of {side}×{side} pixels fits")), "{error}");
    }

    #[test]
    fn the_smallest_tile_is_the_first_that_advances() {
        for depth in 1..=5 {
            let net = UNet { depth, ..UNet::default() };
            let first = (1..2000).find(|&side| net.is_legal(side) && tile_step(&net, side).unwrap() > 0);
            assert_eq!(first, Some(smallest_tile(&net)));
        }
    }
}
