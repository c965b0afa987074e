//! The U-Net of guanfuchen/semseg, with its names: valid 3×3 convolutions, with batch norm in the encoder only; the whole skip resized
//! bilinearly to the upsampled map and concatenated before it; the scores resized bilinearly to the image. Corners are aligned.
//!
//! So the skip and the upsampled map do not register: its outer pixels are squeezed in. And the scores, which are those of the middle of the
//! image, are stretched over all of it. That is how it was published; for a network whose scores lie where the image does take another.

use super::UNet;
use super::builder::{Builder, Conv};
use crate::error::Result;
use crate::graph::NodeId;

pub(super) fn logits(net: &UNet, builder: &mut Builder, image: NodeId) -> Result<NodeId> {
    let mut skips = Vec::with_capacity(net.depth);
    let mut x = image;
    for level in 1..=net.depth {
        x = down(builder, &format!("down{level}"), x, net.channels(level - 1))?;
        skips.push(x);
        x = builder.graph.max_pool2d(&format!("maxpool{level}"), x, 2)?;
    }
    x = down(builder, "center", x, net.channels(net.depth))?;
    for (level, skip) in skips.into_iter().enumerate().rev() {
        let name = format!("up{}", level + 1);
        x = builder.up_conv(&format!("{name}.upConv"), x, net.channels(level))?;
        let skip = builder.graph.resize_bilinear(&format!("{name}.skip"), skip, builder.extents(x), true)?;
        x = builder.graph.crop_concat(&format!("{name}.concat"), skip, x)?;
        for conv in ["conv1.0", "conv2.0"] {
            x = builder.conv_relu(&format!("{name}.{conv}"), x, net.channels(level))?;
        }
    }
    x = builder.conv("classifier", x, net.classes, Conv::HEAD)?;
    builder.graph.resize_bilinear("logits", x, builder.extents(image), true)
}

fn down(builder: &mut Builder, name: &str, x: NodeId, channels: usize) -> Result<NodeId> {
    let mut x = x;
    for conv in ["conv1", "conv2"] {
        x = builder.conv_norm_relu(
            [&format!("{name}.{conv}.0"), &format!("{name}.{conv}.1")],
            x,
            channels,
            Conv::VALID,
        )?;
    }
    Ok(x)
}
