//! A U-Net's configuration, and which sizes of images it takes.

use super::builder::{Builder, Start};
use super::variant::Sizes;
use super::{Network, Variant, brain, milesial, paper, release, semseg};
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeId};
use crate::shape::TensorType;
use serde::{Deserialize, Serialize};

/// A U-Net. By default it is that of the paper's figure 1: for 1 channel, 2 classes, base 64 and depth 4 it has 23 convolutions and
/// 31,030,658 parameters, and maps 572×572 to 388×388.
///
/// Levels count from 0, the finest; level `l` has `base_channels · 2^l` channels, the bottleneck `base_channels · 2^depth`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UNet {
    /// Which of the published networks; files of before there were several hold the paper's.
    #[serde(default)]
    pub variant: Variant,
    /// Channels of the image.
    pub in_channels: usize,
    /// Classes, background included.
    pub classes: usize,
    /// Channels of the finest level.
    pub base_channels: usize,
    /// The number of poolings.
    pub depth: usize,
    /// The dropout rate at the end of the contracting path: after the deepest encoder level (before its pooling and its skip) and
    /// after the bottleneck, where the authors' release has it. 0 leaves dropout out, as the networks of others have to.
    pub dropout: f32,
}

/// The most poolings.
const MOST_POOLINGS: usize = 7;

impl Default for UNet {
    /// The network of figure 1, without dropout.
    fn default() -> Self {
        Self { variant: Variant::Unet, in_channels: 1, classes: 2, base_channels: 64, depth: 4, dropout: 0.0 }
    }
}

impl UNet {
    /// What it is called in a sentence.
    pub fn title(&self) -> String {
        if self.variant == Variant::Unet { "U-Net".into() } else { format!("U-Net ({})", self.variant) }
    }

    /// Checks the configuration.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the setting that makes no sense.
    pub fn validate(&self) -> Result<()> {
        let problem = if self.in_channels == 0 {
            "channels must be at least 1".into()
        } else if !(2..=255).contains(&self.classes) {
            format!("classes must be 2 to 255, background included, got {}", self.classes)
        } else if !(1..=1024).contains(&self.base_channels) {
            format!("base must be 1 to 1024 channels, got {}", self.base_channels)
        } else if !(1..=MOST_POOLINGS).contains(&self.depth) {
            format!("depth must be 1 to {MOST_POOLINGS} poolings, got {}", self.depth)
        } else if !(0.0..1.0).contains(&self.dropout) {
            format!("dropout must be at least 0 and below 1, got {}", self.dropout)
        } else if self.dropout > 0.0 && !self.variant.has_dropout() {
            format!("the network {} has no dropout: set it to 0, or take unet or unet-release", self.variant)
        } else {
            return Ok(());
        };
        Err(Error::Usage(problem))
    }

    /// The shift under which the network is equivariant, but for what padding does: 2^depth. Like all sizes here, that of a depth which
    /// [`UNet::validate`] refuses as too large is that of the largest.
    pub fn stride(&self) -> usize {
        1 << self.depth.min(MOST_POOLINGS)
    }

    /// Whether its scores are those of a part of its tile, stretched over all of it, so that what it has learned holds for tiles of one size.
    pub fn stretches(&self) -> bool {
        self.variant.sizes() == Sizes::Resized
    }

    /// The step of legal sides.
    pub fn step(&self) -> usize {
        if self.stretches() { 1 } else { self.stride() }
    }

    /// By how much the output is smaller than the input: without padding 4·2^d + 8·(2^d − 1), 184 at depth 4; otherwise 0.
    pub fn shrink(&self) -> usize {
        match self.variant.sizes() {
            Sizes::Shrinking => 4 * self.stride() + 8 * (self.stride() - 1),
            Sizes::Padded | Sizes::Resized => 0,
        }
    }

    /// The context on each side of the output: half of [`UNet::shrink`], 92 at depth 4.
    pub fn halo(&self) -> usize {
        self.shrink() / 2
    }

    /// How many pixels along an edge of an output of this side lack context, where the image goes on: without padding none; otherwise
    /// 6·2^d, which is 96 at depth 4, and of a side that is not four times as long a quarter, rounded down to a multiple of 2^d.
    pub fn margin(&self, output: usize) -> usize {
        match self.variant.sizes() {
            Sizes::Shrinking => 0,
            Sizes::Padded | Sizes::Resized => (6 * self.stride()).min(output / 4 / self.stride() * self.stride()),
        }
    }

    /// The smallest legal side: 188 at depth 4, with padding 32.
    pub fn smallest_side(&self) -> usize {
        match self.variant.sizes() {
            Sizes::Padded => 2 * self.stride(),
            Sizes::Shrinking | Sizes::Resized => self.side(if self.depth == 1 { 7 } else { 8 }),
        }
    }

    /// Without padding, the input side that has `bottom` pixels after the last pooling: 2^d·m + 4·(2^d − 1).
    fn side(&self, bottom: usize) -> usize {
        self.stride() * bottom + 4 * (self.stride() - 1)
    }

    /// Whether every pooling sees an even side, unless that does not matter, and something is left at the end.
    pub fn is_legal(&self, side: usize) -> bool {
        side >= self.smallest_side() && (side - self.smallest_side()).is_multiple_of(self.step())
    }

    /// The largest legal side up to `side`, if there is one.
    pub fn legal_below(&self, side: usize) -> Option<usize> {
        let over = side.checked_sub(self.smallest_side())?;
        Some(side - over % self.step())
    }

    /// The smallest legal side from `side` on, or the largest of all where there is none.
    pub fn legal_above(&self, side: usize) -> usize {
        let over = side.saturating_sub(self.smallest_side());
        let above = over.checked_next_multiple_of(self.step()).and_then(|over| over.checked_add(self.smallest_side()));
        above.unwrap_or(side - over % self.step())
    }

    /// The output side of a legal input side.
    ///
    /// # Errors
    /// As [`UNet::validate`]; [`Error::Usage`] with the nearest legal sides.
    pub fn output_side(&self, side: usize) -> Result<usize> {
        self.validate()?;
        if self.is_legal(side) {
            return Ok(side - self.shrink());
        }
        let above = self.legal_above(side);
        let nearest = match self.legal_below(side) {
            Some(below) => format!("the nearest legal sides are {below} and {above}"),
            None => format!("the smallest legal side is {above}"),
        };
        Err(Error::Usage(format!("a side of {side} pixels does not survive {} poolings: {nearest}", self.depth)))
    }

    /// Channels of level `l`; level `depth` is the bottleneck.
    pub(super) fn channels(&self, level: usize) -> usize {
        self.base_channels << level
    }

    /// Whether the configuration is legal, and images of this size are.
    fn check(&self, height: usize, width: usize) -> Result<()> {
        self.output_side(height)?;
        self.output_side(width)?;
        Ok(())
    }

    /// The graph for a batch of images of one size, in training: with dropout, and batch norms by the batch.
    ///
    /// # Errors
    /// [`Error::Usage`] when the configuration or a side is not legal.
    pub fn build(&self, batch: usize, size: [usize; 2]) -> Result<Network> {
        self.begin(batch, size, true)
    }

    /// The graph for a batch of images of one size at inference: without dropout, and batch norms by their running statistics. It has
    /// the parameters of [`UNet::build`].
    ///
    /// # Errors
    /// As [`UNet::build`].
    pub fn inference(&self, batch: usize, size: [usize; 2]) -> Result<Network> {
        self.begin(batch, size, false)
    }

    fn begin(&self, batch: usize, [height, width]: [usize; 2], training: bool) -> Result<Network> {
        self.check(height, width)?;
        let mut graph = Graph::new();
        let image_type = TensorType::f32([batch, height, width, self.in_channels]).map_err(Error::Usage)?;
        let image = graph.input("image", image_type);
        let generator_type = TensorType::u32([2]).map_err(Error::Usage)?;
        let generator = (training && self.dropout > 0.0).then(|| graph.input("generator", generator_type));
        self.add_to(graph, image, generator, training)
    }

    /// A graph and the network in training on images that it computes, `[n, h, w, in_channels]`; with dropout it needs a `generator`.
    ///
    /// # Errors
    /// [`Error::Usage`] when the configuration or a side is not legal, or the images have other channels; [`Error::Graph`] when they are
    /// not a node of this graph.
    pub fn extend(&self, graph: Graph, image: NodeId, generator: Option<NodeId>) -> Result<Network> {
        self.add_to(graph, image, generator, true)
    }

    /// A graph and the network at inference on images that it computes, `[n, h, w, in_channels]`.
    ///
    /// # Errors
    /// As [`UNet::extend`].
    pub fn inference_on(&self, graph: Graph, image: NodeId) -> Result<Network> {
        self.add_to(graph, image, None, false)
    }

    fn add_to(&self, graph: Graph, image: NodeId, generator: Option<NodeId>, training: bool) -> Result<Network> {
        let [_, height, width, channels] =
            graph.find("unet", "image", image)?.tensor_type.shape.image().map_err(Error::Usage)?;
        self.check(height, width)?;
        if channels != self.in_channels {
            return Err(Error::Usage(format!(
                "the network takes {} channel(s), the image has {channels}",
                self.in_channels
            )));
        }
        let generator = generator.filter(|_| self.dropout > 0.0);
        let dropout = generator.map(|generator| (self.dropout, generator));
        let start = match self.variant {
            Variant::Unet => Start::He,
            Variant::UnetRelease => Start::Release,
            _ => Start::PyTorch,
        };
        let mut builder = Builder { graph, training, dropout, dropouts: 0, start };
        let logits = match self.variant {
            Variant::Unet => paper::logits,
            Variant::UnetRelease => release::logits,
            Variant::Milesial | Variant::MilesialBilinear => milesial::logits,
            Variant::Brain => brain::logits,
            Variant::Semseg => semseg::logits,
        }(self, &mut builder, image)?;
        Ok(Network { graph: builder.graph, image, generator, logits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Training;

    #[test]
    fn the_papers_network_has_its_numbers() {
        let network = UNet::default().build(1, [572, 572]).unwrap();
        assert_eq!(network.graph.shape(network.logits).extents(), [1, 388, 388, 2]);
        assert_eq!(network.graph.parameter_count(), 31_030_658);
        let convolutions = network.graph.parameters().iter().filter(|p| p.name.ends_with(".weight")).count();
        assert_eq!(convolutions, 23);
    }

    #[test]
    fn other_channels_and_classes_have_the_known_parameter_counts() {
        for (in_channels, classes, expected) in [(3, 2, 31_031_810), (3, 21, 31_033_045)] {
            let network = UNet { in_channels, classes, ..UNet::default() }.build(1, [188, 204]).unwrap();
            assert_eq!(network.graph.parameter_count(), expected);
            assert_eq!(network.graph.shape(network.logits).extents(), [1, 4, 20, classes]);
        }
    }

    #[test]
    fn a_size_is_legal_exactly_when_every_pooling_sees_an_even_side() {
        for depth in 1..=5 {
            let net = UNet { depth, ..UNet::default() };
            for side in 1..700 {
                assert_eq!(net.is_legal(side), traced(depth, side).is_some(), "depth {depth}, side {side}");
                if let Some(output) = traced(depth, side) {
                    assert_eq!(net.output_side(side).unwrap(), output);
                    assert_eq!(side - 2 * net.halo(), output);
                }
                assert!(net.is_legal(net.legal_above(side)) && net.legal_above(side) >= side);
                assert!(net.legal_above(side) < side.max(net.smallest_side()) + net.stride());
                assert!(net.legal_below(side).is_none_or(|below| net.is_legal(below) && side - below < net.stride()));
            }
        }
    }

    #[test]
    fn the_networks_of_others_have_their_numbers() {
        let parameters = |variant, in_channels, classes, base_channels, side| {
            let net = UNet { variant, in_channels, classes, base_channels, ..UNet::default() };
            let network = net.build(1, [side, side + 16]).unwrap();
            let inference = net.inference(1, [side, side + 16]).unwrap();
            let names = |graph: &Graph| graph.parameters().iter().map(|p| p.name.clone()).collect::<Vec<_>>();
            assert_eq!(names(&network.graph), names(&inference.graph), "{variant}");
            let output = [net.output_side(side).unwrap(), net.output_side(side + 16).unwrap()];
            assert_eq!(network.graph.shape(network.logits).extents(), [1, output[0], output[1], classes], "{variant}");
            (network.graph.parameter_count(), network.graph.parameters().len())
        };
        assert_eq!(parameters(Variant::UnetRelease, 1, 2, 64, 188).0, 31_100_354);
        // Without the count of batches, which has no place here: 18 of 118 and of 110, and 10 of 96 tensors.
        assert_eq!(parameters(Variant::Milesial, 3, 2, 64, 32), (31_037_698, 100));
        assert_eq!(parameters(Variant::MilesialBilinear, 3, 2, 64, 32), (17_263_042, 92));
        assert_eq!(parameters(Variant::Brain, 3, 2, 32, 32), (7_763_041, 100));
        assert_eq!(parameters(Variant::Semseg, 3, 21, 64, 188), (31_040_981, 86));
        assert_eq!(parameters(Variant::Semseg, 3, 12, 64, 189).0, 31_040_396);
    }

    #[test]
    fn depths_beyond_all_bounds_have_sizes_and_are_refused() {
        for depth in [0, 8, 63, 64, 70, usize::MAX] {
            for variant in [Variant::Unet, Variant::Milesial, Variant::Semseg] {
                let net = UNet { variant, depth, ..UNet::default() };
                assert!(net.is_legal(net.smallest_side()) && net.margin(usize::MAX) <= 6 * net.stride());
                assert!(net.legal_above(usize::MAX) > net.halo() && net.legal_below(572) <= Some(572));
                for error in [net.output_side(572).map(drop), net.build(1, [572; 2]).map(drop)].map(Result::unwrap_err)
                {
                    assert!(error.to_string().contains("depth must be 1 to 7"), "{error}");
                }
            }
        }
    }

    #[test]
    fn nodes_of_longer_graphs_are_refused() {
        let mut longer = UNet { depth: 1, ..UNet::default() }.build(1, [32; 2]).unwrap();
        let net = UNet::default();
        for error in [net.extend(Graph::new(), longer.image, None), net.inference_on(Graph::new(), longer.image)] {
            assert!(matches!(error, Err(Error::Graph { .. })), "{error:?}");
        }
        longer.graph = Graph::new();
        let error = longer.training_step(&Training::default()).unwrap_err();
        assert!(error.to_string().contains("not a node of this graph"), "{error}");
    }

    #[test]
    fn padded_networks_keep_the_size_and_have_margins() {
        let net = UNet { variant: Variant::Milesial, ..UNet::default() };
        assert_eq!((net.smallest_side(), net.shrink(), net.output_side(48).unwrap()), (32, 0, 48));
        assert_eq!([32, 64, 208, 384, 1024].map(|side| net.margin(side)), [0, 16, 48, 96, 96]);
        let message = net.output_side(50).unwrap_err().to_string();
        assert!(message.contains("48 and 64"), "{message}");
        let error = UNet { dropout: 0.5, ..net }.build(1, [32; 2]).unwrap_err().to_string();
        assert!(error.contains("milesial has no dropout"), "{error}");
        assert!(UNet { variant: Variant::Semseg, ..net }.is_legal(191));
    }

    /// The output side by following every layer.
    fn traced(depth: usize, input: usize) -> Option<usize> {
        let mut side = input;
        for _ in 0..depth {
            side = side.checked_sub(4).filter(|side| *side > 0 && side % 2 == 0)? / 2;
        }
        for _ in 0..depth {
            side = side.checked_sub(4).filter(|&side| side > 0)? * 2;
        }
        side.checked_sub(4).filter(|&side| side > 0)
    }

    #[test]
    fn an_illegal_side_is_answered_with_the_nearest_legal_ones() {
        let message = UNet::default().build(1, [572, 570]).unwrap_err().to_string();
        assert!(message.contains("570") && message.contains("556") && message.contains("572"), "{message}");
        let message = UNet::default().output_side(usize::MAX).unwrap_err().to_string();
        let below = UNet::default().legal_below(usize::MAX).unwrap();
        assert!(message.contains(&format!("{below} and {below}")), "{message}");
        let message = UNet::default().build(1, [100, 572]).unwrap_err().to_string();
        assert!(message.contains("188"), "{message}");
    }
}
