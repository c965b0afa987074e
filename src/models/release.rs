//! The network `phseg_v5` of the authors' release of October 2015. It is the paper's but for four things: a ReLU follows every up-convolution,
//! the last up-convolution keeps its channels (128 of base 64), the upsampled map comes before the skip, and up-convolutions start smaller.

use super::UNet;
use super::builder::{Builder, Conv};
use super::paper;
use crate::error::Result;
use crate::graph::NodeId;
use crate::ops::Pad;

pub(super) fn logits(net: &UNet, builder: &mut Builder, image: NodeId) -> Result<NodeId> {
    let (mut x, skips) = paper::encoder(net, builder, image)?;
    for (level, skip) in skips.into_iter().enumerate().rev() {
        let name = format!("decoder{level}");
        x = builder.up_conv(&format!("{name}.up"), x, net.channels(level.max(1)))?;
        x = builder.graph.relu(&format!("{name}.up.relu"), x)?;
        let crop = Pad::centred(builder.extents(skip), builder.extents(x));
        let skip = builder.graph.pad(&format!("{name}.crop"), skip, crop)?;
        x = builder.graph.crop_concat(&format!("{name}.concat"), x, skip)?;
        x = builder.double_conv(&name, x, net.channels(level))?;
    }
    builder.conv("head", x, net.classes, Conv::HEAD)
}
