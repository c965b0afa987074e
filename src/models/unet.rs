//! The U-Net of Ronneberger, Fischer and Brox, *U-Net: Convolutional Networks for Biomedical Image Segmentation*, MICCAI 2015
//! (arXiv 1505.04597), figure 1.

use super::Network;
use crate::error::{Error, Result};
use crate::graph::{Graph, Init, NodeId};
use crate::ops::{Conv2d, Dropout};
use crate::shape::TensorType;
use serde::{Deserialize, Serialize};

/// The paper's U-Net: valid 3×3 convolutions with ReLU, 2×2 max pooling, 2×2 transposed convolutions of stride 2 without ReLU, the
/// cropped skip concatenated before the upsampled map, a 1×1 convolution to the classes.
///
/// Levels count from 0, the finest; level `l` has `base_channels · 2^l` channels, the bottleneck `base_channels · 2^depth`. For
/// 1 channel, 2 classes, base 64 and depth 4 it has 23 convolutions and 31,030,658 parameters, and maps 572×572 to 388×388.
///
/// Weights start as N(0, √(2/N)), where N is the number of terms that one output sums (9·`c_in` for a 3×3 convolution, `c_in` for an
/// up-convolution, whose outputs do not overlap); biases start at 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UNet {
    /// Channels of the image.
    pub in_channels: usize,
    /// Classes, background included.
    pub classes: usize,
    /// Channels of the finest level.
    pub base_channels: usize,
    /// The number of poolings.
    pub depth: usize,
    /// The dropout rate at the end of the contracting path: after the deepest encoder level (before its pooling and its skip) and
    /// after the bottleneck, where the authors' release has it. 0 leaves dropout out.
    pub dropout: f32,
}

impl Default for UNet {
    /// The network of figure 1, without dropout.
    fn default() -> Self {
        Self { in_channels: 1, classes: 2, base_channels: 64, depth: 4, dropout: 0.0 }
    }
}

impl UNet {
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
        } else if !(1..=7).contains(&self.depth) {
            format!("depth must be 1 to 7 poolings, got {}", self.depth)
        } else if !(0.0..1.0).contains(&self.dropout) {
            format!("dropout must be at least 0 and below 1, got {}", self.dropout)
        } else {
            return Ok(());
        };
        Err(Error::Usage(problem))
    }

    /// The step of legal sizes, and the shift under which the network is equivariant: 2^depth.
    pub fn stride(&self) -> usize {
        1 << self.depth
    }

    /// By how much the output is smaller than the input: 4·2^d + 8·(2^d − 1), 184 at depth 4.
    pub fn shrink(&self) -> usize {
        4 * self.stride() + 8 * (self.stride() - 1)
    }

    /// The context on each side of the output: half of [`UNet::shrink`], 92 at depth 4.
    pub fn halo(&self) -> usize {
        self.shrink() / 2
    }

    /// The smallest legal side: 188 at depth 4.
    pub fn smallest_side(&self) -> usize {
        self.side(if self.depth == 1 { 7 } else { 8 })
    }

    /// The input side that has `bottom` pixels after the last pooling: 2^d·m + 4·(2^d − 1).
    fn side(&self, bottom: usize) -> usize {
        self.stride() * bottom + 4 * (self.stride() - 1)
    }

    /// Whether every pooling sees an even side and something is left at the end.
    pub fn is_legal(&self, side: usize) -> bool {
        side >= self.smallest_side() && (side - self.smallest_side()).is_multiple_of(self.stride())
    }

    /// The largest legal side up to `side`, if there is one.
    pub fn legal_below(&self, side: usize) -> Option<usize> {
        let over = side.checked_sub(self.smallest_side())?;
        Some(side - over % self.stride())
    }

    /// The smallest legal side from `side` on, or the largest of all where there is none.
    pub fn legal_above(&self, side: usize) -> usize {
        let over = side.saturating_sub(self.smallest_side());
        let above =
            over.checked_next_multiple_of(self.stride()).and_then(|over| over.checked_add(self.smallest_side()));
        above.unwrap_or(side - over % self.stride())
    }

    /// The output side of a legal input side.
    ///
    /// # Errors
    /// [`Error::Usage`] with the nearest legal sides.
    pub fn output_side(&self, side: usize) -> Result<usize> {
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
    fn channels(&self, level: usize) -> usize {
        self.base_channels << level
    }

    /// Whether the configuration is legal, and images of this size are.
    fn check(&self, height: usize, width: usize) -> Result<()> {
        self.validate()?;
        self.output_side(height)?;
        self.output_side(width)?;
        Ok(())
    }

    /// The graph for a batch of images of one size.
    ///
    /// # Errors
    /// [`Error::Usage`] when the configuration or a side is not legal.
    pub fn build(&self, batch: usize, [height, width]: [usize; 2]) -> Result<Network> {
        self.check(height, width)?;
        let mut graph = Graph::new();
        let image_type = TensorType::f32([batch, height, width, self.in_channels]).map_err(Error::Usage)?;
        let image = graph.input("image", image_type);
        let generator_type = TensorType::u32([2]).map_err(Error::Usage)?;
        let generator = (self.dropout > 0.0).then(|| graph.input("generator", generator_type));
        self.extend(graph, image, generator)
    }

    /// A graph and the network on images that it computes, `[n, h, w, in_channels]`; with dropout it needs a `generator`.
    ///
    /// # Errors
    /// [`Error::Usage`] when the configuration or a side is not legal, or the images have other channels.
    pub fn extend(&self, graph: Graph, image: NodeId, generator: Option<NodeId>) -> Result<Network> {
        let [_, height, width, channels] = graph.shape(image).image().map_err(Error::Usage)?;
        self.check(height, width)?;
        if channels != self.in_channels {
            return Err(Error::Usage(format!(
                "the network takes {} channel(s), the image has {channels}",
                self.in_channels
            )));
        }
        let generator = generator.filter(|_| self.dropout > 0.0);
        let mut builder = Builder { graph, dropout: self.dropout, generator, dropouts: 0 };
        let mut skips = Vec::with_capacity(self.depth);
        let mut x = image;
        for level in 0..self.depth {
            x = builder.double_conv(&format!("encoder{level}"), x, self.channels(level))?;
            if level + 1 == self.depth {
                x = builder.dropout(&format!("encoder{level}.dropout"), x)?;
            }
            skips.push(x);
            x = builder.graph.max_pool2d(&format!("encoder{level}.pool"), x, 2)?;
        }
        x = builder.double_conv("bottleneck", x, self.channels(self.depth))?;
        x = builder.dropout("bottleneck.dropout", x)?;
        for (level, skip) in skips.into_iter().enumerate().rev() {
            x = builder.up_conv(&format!("decoder{level}.up"), x, self.channels(level))?;
            x = builder.graph.crop_concat(&format!("decoder{level}.concat"), skip, x)?;
            x = builder.double_conv(&format!("decoder{level}"), x, self.channels(level))?;
        }
        let logits = builder.conv("head", x, 1, self.classes)?;
        Ok(Network { graph: builder.graph, image, generator, logits })
    }
}

/// A graph under construction.
struct Builder {
    graph: Graph,
    dropout: f32,
    generator: Option<NodeId>,
    /// How many dropouts there are so far; each draws from a stream of its own.
    dropouts: u32,
}

impl Builder {
    /// Weight and bias of a convolution whose outputs sum `terms` products.
    fn weights(&mut self, name: &str, weight: [usize; 4], terms: usize) -> Result<(NodeId, NodeId)> {
        let deviation = (2.0 / terms as f32).sqrt();
        let bias = [weight[3]];
        let weight = self.graph.parameter(&format!("{name}.weight"), weight, Init::Normal(deviation))?;
        Ok((weight, self.graph.parameter(&format!("{name}.bias"), bias, Init::Zeros)?))
    }

    fn conv(&mut self, name: &str, x: NodeId, kernel_size: usize, channels: usize) -> Result<NodeId> {
        let c_in = self.graph.shape(x).channels();
        let terms = kernel_size * kernel_size * c_in;
        let (weight, bias) = self.weights(name, [kernel_size, kernel_size, c_in, channels], terms)?;
        self.graph.conv2d(name, x, weight, Some(bias), Conv2d::default())
    }

    fn conv_relu(&mut self, name: &str, x: NodeId, channels: usize) -> Result<NodeId> {
        let x = self.conv(name, x, 3, channels)?;
        self.graph.relu(&format!("{name}.relu"), x)
    }

    fn double_conv(&mut self, name: &str, x: NodeId, channels: usize) -> Result<NodeId> {
        let x = self.conv_relu(&format!("{name}.conv1"), x, channels)?;
        self.conv_relu(&format!("{name}.conv2"), x, channels)
    }

    fn up_conv(&mut self, name: &str, x: NodeId, channels: usize) -> Result<NodeId> {
        let c_in = self.graph.shape(x).channels();
        let (weight, bias) = self.weights(name, [2, 2, c_in, channels], c_in)?;
        self.graph.conv_transpose2d(name, x, weight, Some(bias))
    }

    fn dropout(&mut self, name: &str, x: NodeId) -> Result<NodeId> {
        let Some(generator) = self.generator else { return Ok(x) };
        let stream = self.dropouts;
        self.dropouts += 1;
        self.graph.dropout(name, x, generator, Dropout { rate: self.dropout, stream })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
