//! The U-Net of Ronneberger, Fischer and Brox, *U-Net: Convolutional Networks for Biomedical Image Segmentation*, MICCAI 2015
//! (arXiv 1505.04597), figure 1: valid 3×3 convolutions with ReLU, 2×2 max pooling, 2×2 transposed convolutions of stride 2 without ReLU,
//! the cropped skip concatenated before the upsampled map, a 1×1 convolution to the classes.

use super::UNet;
use super::builder::{Builder, Conv};
use crate::error::Result;
use crate::graph::NodeId;

pub(super) fn logits(net: &UNet, builder: &mut Builder, image: NodeId) -> Result<NodeId> {
    let (mut x, skips) = encoder(net, builder, image)?;
    for (level, skip) in skips.into_iter().enumerate().rev() {
        x = builder.up_conv(&format!("decoder{level}.up"), x, net.channels(level))?;
        x = builder.graph.crop_concat(&format!("decoder{level}.concat"), skip, x)?;
        x = builder.double_conv(&format!("decoder{level}"), x, net.channels(level))?;
    }
    builder.conv("head", x, net.classes, Conv::HEAD)
}

/// The contracting path: what comes out at its end, and the skips, finest first.
pub(super) fn encoder(net: &UNet, builder: &mut Builder, image: NodeId) -> Result<(NodeId, Vec<NodeId>)> {
    let mut skips = Vec::with_capacity(net.depth);
    let mut x = image;
    for level in 0..net.depth {
        x = builder.double_conv(&format!("encoder{level}"), x, net.channels(level))?;
        if level + 1 == net.depth {
            x = builder.dropout(&format!("encoder{level}.dropout"), x)?;
        }
        skips.push(x);
        x = builder.graph.max_pool2d(&format!("encoder{level}.pool"), x, 2)?;
    }
    x = builder.double_conv("bottleneck", x, net.channels(net.depth))?;
    x = builder.dropout("bottleneck.dropout", x)?;
    Ok((x, skips))
}
