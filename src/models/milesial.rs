//! The U-Net of milesial/Pytorch-UNet, with its names: padded 3×3 convolutions without bias, each with batch norm and ReLU; the skip before
//! the upsampled map, which a transposed convolution makes, or bilinear interpolation with aligned corners and half the channels below it.

use super::builder::{Builder, Conv};
use super::{UNet, Variant};
use crate::error::Result;
use crate::graph::NodeId;
use crate::ops::Pad;

pub(super) fn logits(net: &UNet, builder: &mut Builder, image: NodeId) -> Result<NodeId> {
    let bilinear = net.variant == Variant::MilesialBilinear;
    let mut x = double_conv(builder, "inc", image, [net.channels(0); 2])?;
    let mut skips = Vec::with_capacity(net.depth);
    for level in 1..=net.depth {
        skips.push(x);
        x = builder.graph.max_pool2d(&format!("down{level}.maxpool_conv.0"), x, 2)?;
        let halved = if bilinear && level == net.depth { 2 } else { 1 };
        let channels = [net.channels(level) / halved; 2];
        x = double_conv(builder, &format!("down{level}.maxpool_conv.1"), x, channels)?;
    }
    for (level, skip) in skips.into_iter().enumerate().rev() {
        let name = format!("up{}", net.depth - level);
        let up = format!("{name}.up");
        x = if bilinear {
            let extents = builder.extents(x).map(|extent| 2 * extent);
            builder.graph.resize_bilinear(&up, x, extents, true)?
        } else {
            builder.up_conv(&up, x, net.channels(level))?
        };
        let (found, wanted) = (builder.extents(x), builder.extents(skip));
        if found != wanted {
            // A pooling that saw an odd side has lost a row or a column.
            x = builder.graph.pad(&format!("{name}.pad"), x, Pad::centred(found, wanted))?;
        }
        x = builder.graph.crop_concat(&format!("{name}.concat"), skip, x)?;
        let channels = if bilinear {
            [net.channels(level), net.channels(level) / if level == 0 { 1 } else { 2 }]
        } else {
            [net.channels(level); 2]
        };
        x = double_conv(builder, &format!("{name}.conv"), x, channels)?;
    }
    builder.conv("outc.conv", x, net.classes, Conv::HEAD)
}

fn double_conv(builder: &mut Builder, name: &str, x: NodeId, [middle, channels]: [usize; 2]) -> Result<NodeId> {
    let layer = |index: usize| format!("{name}.double_conv.{index}");
    let x = builder.conv_norm_relu([&layer(0), &layer(1)], x, middle, Conv::SAME)?;
    builder.conv_norm_relu([&layer(3), &layer(4)], x, channels, Conv::SAME)
}
