//! The U-Net of mateuszbuda/brain-segmentation-pytorch, with its names: padded 3×3 convolutions without bias, each with batch norm and ReLU;
//! transposed convolutions, whose map comes before the skip. For two classes it has one score, of which the sigmoid is the probability of
//! foreground, as there; for more, one each.

use super::UNet;
use super::builder::{Builder, Conv};
use crate::error::Result;
use crate::graph::NodeId;

pub(super) fn logits(net: &UNet, builder: &mut Builder, image: NodeId) -> Result<NodeId> {
    let mut skips = Vec::with_capacity(net.depth);
    let mut x = image;
    for level in 1..=net.depth {
        x = block(builder, &format!("encoder{level}.enc{level}"), x, net.channels(level - 1))?;
        skips.push(x);
        x = builder.graph.max_pool2d(&format!("pool{level}"), x, 2)?;
    }
    x = block(builder, "bottleneck.bottleneck", x, net.channels(net.depth))?;
    for (level, skip) in skips.into_iter().enumerate().rev() {
        x = builder.up_conv(&format!("upconv{}", level + 1), x, net.channels(level))?;
        x = builder.graph.crop_concat(&format!("decoder{}.concat", level + 1), x, skip)?;
        x = block(builder, &format!("decoder{0}.dec{0}", level + 1), x, net.channels(level))?;
    }
    if net.classes == 2 {
        x = builder.conv("conv", x, 1, Conv::HEAD)?;
        return builder.graph.binary_scores("scores", x);
    }
    builder.conv("conv", x, net.classes, Conv::HEAD)
}

fn block(builder: &mut Builder, name: &str, x: NodeId, channels: usize) -> Result<NodeId> {
    let mut x = x;
    for index in [1, 2] {
        let [conv, norm] = ["conv", "norm"].map(|layer| format!("{name}{layer}{index}"));
        x = builder.conv_norm_relu([&conv, &norm], x, channels, Conv::SAME)?;
    }
    Ok(x)
}
