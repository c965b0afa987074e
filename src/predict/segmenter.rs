//! Segmentation of images that are on the device already, where the results stay: for programs that draw or compute on.

use super::{check_size, smallest_tile_in};
use crate::checkpoint::Weights;
use crate::data::Intensities;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Plan, PlanOptions, Requirements};
use crate::graph::{Bank, Graph, NodeId};
use crate::models::{Network, UNet};
use crate::ops::image as image_extents;
use crate::ops::{Argmax, Mirror, Pad, Softmax, Unpack};
use crate::shape::{Shape, TensorType};

/// How the image lies in the buffer that a [`Segmenter`] is given. Bytes are those of an image of 8 bits; to a network that is given
/// [`Intensities::Unit`], floats are what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Texels {
    /// `f32`, `[height, width, channels]` without gaps.
    Floats,
    /// Four bytes a pixel, the first of them red, as in textures of `Rgba8Unorm` and `Rgba8UnormSrgb`; rows begin at multiples of 256
    /// bytes, as [`wgpu::CommandEncoder::copy_texture_to_buffer`] has it. A network of one channel sees red.
    Rgba8,
    /// The same with blue first.
    Bgra8,
}

impl Texels {
    /// The format of a texture that can be copied as it is.
    fn of(format: wgpu::TextureFormat) -> Option<Self> {
        match format {
            wgpu::TextureFormat::Rgba8Unorm | wgpu::TextureFormat::Rgba8UnormSrgb => Some(Self::Rgba8),
            wgpu::TextureFormat::Bgra8Unorm | wgpu::TextureFormat::Bgra8UnormSrgb => Some(Self::Bgra8),
            _ => None,
        }
    }

    /// For each channel its byte of a pixel; nothing where pixels are floats.
    fn order(self) -> Option<[u8; 3]> {
        match self {
            Self::Floats => None,
            Self::Rgba8 => Some([0, 1, 2]),
            Self::Bgra8 => Some([2, 1, 0]),
        }
    }
}

/// Bytes that rows of a texture are aligned to in a buffer.
const ROW_ALIGNMENT: usize = wgpu::COPY_BYTES_PER_ROW_ALIGNMENT as usize;

/// What keeps the root of the variance of an image of one value from 0: distances to the mean are exactly 0 there. In any other image of
/// 8 bits it leaves no trace.
const EPSILON: f32 = 1e-8;

/// A network for images of one size that are on the device: the image is prepared, mirrored at its edges, segmented in one tile and
/// cropped, all by kernels, and the results stay in buffers. They are those of [`Predictor`](super::Predictor) up to rounding.
///
/// ```no_run
/// # fn frame(gpu: &tilewise::Gpu, texture: &wgpu::Texture) -> tilewise::Result<()> {
/// use tilewise::predict::{Segmenter, Texels};
///
/// let weights = tilewise::checkpoint::Weights::load("best.safetensors")?;
/// let segmenter = Segmenter::load(gpu, &weights, [480, 640], Texels::Rgba8)?;
///
/// // In each frame, before the host's passes that read `segmenter.probabilities()`:
/// let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
/// segmenter.copy_from(&mut encoder, texture)?;
/// segmenter.record_into(&mut encoder);
/// gpu.queue().submit([encoder.finish()]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Segmenter {
    plan: Plan,
    size: [usize; 2],
    texels: Texels,
    input: NodeId,
    logits: NodeId,
    probabilities: NodeId,
    labels: NodeId,
}

impl Segmenter {
    /// The network of a weights file for images of this height and width.
    ///
    /// # Errors
    /// As [`Weights::network`], [`Weights::intensities`], [`Weights::zoom`] and [`Segmenter::new`]; [`Error::Usage`] when the network
    /// [must be given](Weights::tile) tiles of another size than one that covers the image, or images [larger](Weights::zoom) than they are.
    pub fn load(gpu: &Gpu, weights: &Weights, size: [usize; 2], texels: Texels) -> Result<Self> {
        let (net, parameters) = weights.network()?;
        check_size(size)?;
        if let Some(side) = weights.tile(&net)?
            && size.map(|extent| smallest_tile_in(&net, extent, 1)) != [side; 2]
        {
            let [height, width] = size;
            return Err(Error::Usage(format!(
                "the network was trained on tiles of {side}×{side} pixels and knows no others, so it cannot take an image of {height}×{width} in \
                 one: use a Predictor"
            )));
        }
        let zoom = weights.zoom()?;
        if !zoom.is_none() {
            return Err(Error::Usage(format!(
                "the network was trained on images enlarged {zoom} times, which a Segmenter does not do: use a Predictor, or Segmenter::new with \
                 images that are"
            )));
        }
        Self::new(gpu, &net, &parameters, size, texels, weights.intensities(&net)?)
    }

    /// A network with its parameters, padded as [`Graph::initial_parameters`] pads them, for images of this height and width.
    ///
    /// # Errors
    /// As [`UNet::validate`]; [`Error::Usage`] when the image has no pixels or its bytes have not the channels of the network, or there are
    /// too many or too few parameters; as [`Plan::new`], such as [`Error::Memory`] when the image does not fit the device in one tile, for which there is [`Predictor`](super::Predictor).
    pub fn new(
        gpu: &Gpu,
        net: &UNet,
        parameters: &[f32],
        size: [usize; 2],
        texels: Texels,
        intensities: Intensities,
    ) -> Result<Self> {
        let Segmentation { graph, input, logits, probabilities, labels } =
            segmentation(net, size, texels, intensities)?;
        let folded = graph.folded(parameters)?;
        let [input, logits, probabilities, labels] =
            [input, logits, probabilities, labels].map(|node| folded.kept(node));
        let plan = Plan::new(gpu, &folded.graph, PlanOptions::default())?;
        plan.write_bank(Bank::Parameters, &folded.parameters)?;
        Ok(Self { plan, size, texels, input, logits, probabilities, labels })
    }

    /// What a device of this adapter must have for [`Segmenter::new`] on it: for a host that opens its own.
    ///
    /// # Errors
    /// As [`Segmenter::new`] for what does not depend on a device; as [`Requirements::of`].
    pub fn requirements(
        net: &UNet,
        size: [usize; 2],
        texels: Texels,
        intensities: Intensities,
        adapter: &wgpu::Adapter,
    ) -> Result<Requirements> {
        let graph = segmentation(net, size, texels, intensities)?.graph;
        Requirements::of(&graph.folded(&graph.initial_parameters(0))?.graph, adapter)
    }

    /// What runs, with its device and its memory.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The bytes that the image is to be copied to, as [`Texels`] says.
    ///
    /// # Errors
    /// As [`Plan::slice`].
    pub fn input(&self) -> Result<wgpu::BufferSlice<'_>> {
        self.plan.slice(self.input)
    }

    /// Records the copy of a texture's first level to where the image is expected.
    ///
    /// # Errors
    /// [`Error::Usage`] when the texture has another size or format, several samples or not two dimensions, or cannot be copied from.
    pub fn copy_from(&self, encoder: &mut wgpu::CommandEncoder, texture: &wgpu::Texture) -> Result<()> {
        let [height, width] = self.size;
        let (found, format) = (texture.size(), texture.format());
        if [found.height as usize, found.width as usize] != self.size || Texels::of(format) != Some(self.texels) {
            return Err(Error::Usage(format!(
                "the texture has {}×{} pixels of {format:?}, the segmenter was made for {height}×{width} of {:?}",
                found.height, found.width, self.texels
            )));
        }
        if texture.dimension() != wgpu::TextureDimension::D2 || texture.sample_count() != 1 {
            return Err(Error::Usage(format!(
                "the texture has {} sample(s) of {:?}: resolve it into one of a single sample of D2",
                texture.sample_count(),
                texture.dimension()
            )));
        }
        if !texture.usage().contains(wgpu::TextureUsages::COPY_SRC) {
            return Err(Error::Usage(
                "the texture cannot be copied from: create it with TextureUsages::COPY_SRC".into(),
            ));
        }
        let input = self.input()?;
        let to = wgpu::TexelCopyBufferInfo {
            buffer: input.buffer(),
            layout: wgpu::TexelCopyBufferLayout {
                offset: input.offset(),
                bytes_per_row: Some(row_bytes(width) as u32),
                rows_per_image: None,
            },
        };
        let extent = wgpu::Extent3d { width: width as u32, height: height as u32, depth_or_array_layers: 1 };
        encoder.copy_texture_to_buffer(texture.as_image_copy(), to, extent);
        Ok(())
    }

    /// Records everything that makes results of the image; nothing is submitted.
    pub fn record_into(&self, encoder: &mut wgpu::CommandEncoder) {
        self.plan.record_into(encoder);
    }

    /// Raw scores, `f32`, `[height, width, classes]`.
    ///
    /// # Errors
    /// As [`Plan::slice`].
    pub fn logits(&self) -> Result<wgpu::BufferSlice<'_>> {
        self.plan.slice(self.logits)
    }

    /// Their softmax over the classes, `f32`, `[height, width, classes]`.
    ///
    /// # Errors
    /// As [`Plan::slice`].
    pub fn probabilities(&self) -> Result<wgpu::BufferSlice<'_>> {
        self.plan.slice(self.probabilities)
    }

    /// The class of the highest score, `u32`, `[height, width]`.
    ///
    /// # Errors
    /// As [`Plan::slice`].
    pub fn labels(&self) -> Result<wgpu::BufferSlice<'_>> {
        self.plan.slice(self.labels)
    }
}

/// Bytes from a row of a texture to the next in a buffer.
fn row_bytes(width: usize) -> usize {
    (4 * width).next_multiple_of(ROW_ALIGNMENT)
}

/// Bytes of an image in, what its network says of it out.
struct Segmentation {
    graph: Graph,
    input: NodeId,
    logits: NodeId,
    probabilities: NodeId,
    labels: NodeId,
}

fn segmentation(net: &UNet, size: [usize; 2], texels: Texels, intensities: Intensities) -> Result<Segmentation> {
    net.validate()?;
    check_size(size)?;
    let [height, width] = size;
    if height == 0 || width == 0 {
        return Err(Error::Usage(format!("an image of {height}×{width} pixels has nothing to segment")));
    }
    let tile = size.map(|extent| smallest_tile_in(net, extent, 1));
    let mut graph = Graph::new();
    let (input, image) = image(&mut graph, size, texels, net.in_channels, intensities)?;
    let margin = [0, 1].map(|axis| {
        let before = net.halo();
        (before as u32, (tile[axis] - size[axis] - before) as u32)
    });
    let mirror = Mirror { before: margin.map(|(before, _)| before), after: margin.map(|(_, after)| after) };
    let mirrored = graph.mirror("mirrored", image, mirror)?;
    let Network { mut graph, logits: scores, .. } = net.inference_on(graph, mirrored)?;
    let [_, rows, columns, _] = image_extents(&graph.node(scores).tensor_type);
    let beyond = |extent: usize, found: usize| extent as i32 - found as i32;
    let crop = Pad { before: [0; 3], after: [beyond(height, rows), beyond(width, columns), 0] };
    let logits = graph.pad("logits", scores, crop)?;
    let probabilities = graph.apply("probabilities", Softmax, &[logits])?;
    let labels = graph.apply("labels", Argmax, &[logits])?;
    for (name, node) in [("logits", logits), ("probabilities", probabilities), ("labels", labels)] {
        graph.mark_output(name, node)?;
    }
    Ok(Segmentation { graph, input, logits, probabilities, labels })
}

/// The image as it comes, and as the network wants it.
fn image(
    graph: &mut Graph,
    [height, width]: [usize; 2],
    texels: Texels,
    channels: usize,
    intensities: Intensities,
) -> Result<(NodeId, NodeId)> {
    let (input, floats) = match texels.order() {
        None => {
            let input = graph.input("image", TensorType::f32([1, height, width, channels]).map_err(Error::Usage)?);
            (input, input)
        }
        Some(order) => {
            let order = order.get(..channels).ok_or_else(|| {
                Error::Usage(format!("the network has {channels} channels, pixels of four bytes have 3 colours"))
            })?;
            let aligned = row_bytes(width) / 4;
            let white = if intensities == Intensities::Unit { 1 } else { 255 };
            let input = graph.input("texels", TensorType::u32([1, height, aligned, 1]).map_err(Error::Usage)?);
            let unpacked = graph.unpack("unpacked", input, Unpack { order: order.into(), white })?;
            let surplus = (aligned - width) as i32;
            (input, graph.pad("image", unpacked, Pad { before: [0; 3], after: [0, -surplus, 0] })?)
        }
    };
    if intensities == Intensities::Unit {
        return Ok((input, floats));
    }
    let shape = Shape::new([channels]).map_err(Error::Usage)?;
    let weight = graph.constant("one", shape.clone(), 1.0);
    let bias = graph.constant("zero", shape, 0.0);
    Ok((input, graph.group_norm("normalised", floats, [weight, bias], channels, EPSILON)?))
}
