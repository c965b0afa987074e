//! Networks: short readable files that build a graph.

mod augmentation;
mod brain;
mod builder;
mod milesial;
mod paper;
mod precision;
mod release;
mod semseg;
mod training;
pub mod unet;
mod variant;

pub use augmentation::{Augmented, Tiles};
pub use precision::Precision;
pub use training::{Loss, Optimizer, Training, TrainingStep};
pub use unet::UNet;
pub use variant::Variant;

use crate::graph::{Graph, NodeId};

/// A network from images to scores.
#[derive(Clone, Debug)]
pub struct Network {
    /// The graph; its outputs are empty, so that whoever runs it decides what to keep.
    pub graph: Graph,
    /// The input, `[n, h, w, in_channels]`.
    pub image: NodeId,
    /// The state of the generator for dropout, `[2]`: seed and step; `None` without dropout.
    pub generator: Option<NodeId>,
    /// The scores before the softmax, `[n, h', w', classes]`.
    pub logits: NodeId,
}
