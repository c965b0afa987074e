//! How a network's activations are stored.

use super::Network;
use crate::error::Result;
use crate::graph::{NodeId, NodeKind};
use crate::shape::DType;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How activations and their gradients are stored; parameters, their gradients and all sums are `f32` in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As `f32`: the reference.
    #[default]
    F32,
    /// As `f16`, in half the memory: mixed precision. A training step scales its loss.
    Mixed,
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::F32),
            "mixed" => Ok(Self::Mixed),
            _ => Err(format!("there is no precision {text:?}; there are f32 and mixed")),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Mixed => "mixed",
        })
    }
}

impl Network {
    /// The network with activations stored so: in mixed precision the image is cast to `f16` before the first op that takes it, and the
    /// scores are cast back for whatever takes these. And what stands for each node; those before that op stay where they are.
    ///
    /// # Errors
    /// When an op on the way takes no `f16`.
    pub fn stored_in(&self, precision: Precision) -> Result<(Self, Vec<NodeId>)> {
        let nodes = self.graph.nodes();
        let takes_image = |kind: &NodeKind| matches!(kind, NodeKind::Op { inputs, .. } if inputs.contains(&self.image));
        let first = nodes.iter().position(|node| takes_image(&node.kind)).filter(|_| precision == Precision::Mixed);
        let mut stands: Vec<NodeId> = (0..first.unwrap_or(nodes.len())).map(NodeId).collect();
        let mut network = self.clone();
        if let Some(first) = first {
            let graph = &mut network.graph;
            graph.nodes.truncate(first);
            let image = graph.cast("image.f16", self.image, DType::F16)?;
            for node in &nodes[first..] {
                let stand = match &node.kind {
                    NodeKind::Op { op, inputs } => {
                        let stand = |&input: &NodeId| if input == self.image { image } else { stands[input.0] };
                        let inputs: Vec<NodeId> = inputs.iter().map(stand).collect();
                        graph.apply_shared(&node.name, op, &inputs)?
                    }
                    kind => graph.push(&node.name, kind.clone(), node.tensor_type.clone()),
                };
                let is_scores = stands.len() == self.logits.0;
                stands.push(if is_scores { graph.cast("logits.f32", stand, DType::F32)? } else { stand });
            }
            for parameter in &mut graph.parameters {
                parameter.node = stands[parameter.node.0];
                parameter.tracked = parameter.tracked.map(|tracked| stands[tracked.0]);
            }
            network.generator = self.generator.map(|generator| stands[generator.0]);
            network.logits = stands[self.logits.0];
            graph.outputs.iter_mut().for_each(|(_, output)| *output = stands[output.0]);
        }
        Ok((network, stands))
    }
}
