//! Batch norms by running statistics, folded into the convolutions before them: at inference both are linear, so that
//! (w ∗ x + b − μ) · γ / √(σ² + ε) + β is one convolution with other weights and another bias.
//!
//! What is saved is a pass over each normalised tensor; and a ReLU behind it is then [fused](Graph::fused) into the convolution. The new
//! weights are computed once, in `f64`, so that results differ by rounding only.

use crate::error::{Error, Result};
use crate::graph::{Graph, Init, NodeId, NodeKind};
use crate::models::Network;
use crate::ops::{BatchNorm, BatchNormStack, Conv2d, ConvTranspose2d, Over};
use std::collections::{BTreeMap, BTreeSet};

/// A graph with batch norms folded into convolutions.
#[derive(Clone, Debug)]
pub struct Folded {
    /// The graph.
    pub graph: Graph,
    /// Its parameters, laid out as its banks are.
    pub parameters: Vec<f32>,
    /// Of each node of the original, what stands for it.
    nodes: Vec<Option<NodeId>>,
}

impl Folded {
    /// The node that has the value of a node of the original; `None` for one whose value is no longer computed, such as what a
    /// batch norm was given.
    pub fn node(&self, original: NodeId) -> Option<NodeId> {
        self.nodes.get(original.index()).copied().flatten()
    }

    /// What stands for an input or an output, which are never folded away.
    pub(crate) fn kept(&self, original: NodeId) -> NodeId {
        self.node(original).unwrap_or_else(|| unreachable!("inputs and outputs are kept"))
    }
}

impl Network {
    /// The network with its batch norms [folded](Graph::folded), and its parameters.
    ///
    /// # Errors
    /// As [`Graph::folded`].
    pub fn folded(&self, parameters: &[f32]) -> Result<(Self, Vec<f32>)> {
        let mut original = self.graph.clone();
        original.mark_output("logits", self.logits)?;
        let folded = original.folded(parameters)?;
        let [image, logits] = [self.image, self.logits].map(|node| folded.kept(node));
        Ok((Self { graph: folded.graph, image, generator: None, logits }, folded.parameters))
    }
}

/// A convolution with the batch norm behind it.
struct Pair {
    conv: NodeId,
    stack: NodeId,
    weight: NodeId,
    bias: Option<NodeId>,
    /// Mean, variance, γ and β of the norm.
    norm: [NodeId; 4],
    epsilon: f32,
}

impl Graph {
    /// The graph, with these parameters, without the batch norms by running statistics that follow a convolution directly, and without ops
    /// that nothing [needs](Graph::needed).
    ///
    /// # Errors
    /// [`Error::Usage`] when there are too many or too few parameters, or the graph changes them, as a training step does.
    pub fn folded(&self, parameters: &[f32]) -> Result<Folded> {
        if parameters.len() != self.bank_elements() {
            let (expected, found) = (self.bank_elements(), parameters.len());
            return Err(Error::Usage(format!("the graph has {expected} parameters (with padding), got {found}")));
        }
        let whole_bank = self.nodes().iter().any(|node| matches!(node.kind, NodeKind::Bank(_)));
        if whole_bank || self.parameters().iter().any(|parameter| parameter.gradient.or(parameter.tracked).is_some()) {
            let advice = "fold one that only predicts, such as that of UNet::inference";
            return Err(Error::Usage(format!(
                "the graph trains its parameters, so nothing can be folded into them; {advice}"
            )));
        }
        let (needed, uses) = (self.needed(), self.uses());
        let is_op = |index: usize| matches!(self.nodes()[index].kind, NodeKind::Op { .. });
        let kept: Vec<usize> = (0..self.nodes().len()).filter(|&index| needed[index] || !is_op(index)).collect();
        let pairs: BTreeMap<usize, Pair> =
            kept.iter().filter_map(|&index| Some((index, self.pair(index, &uses)?))).collect();
        let mut folding = Folding {
            original: self,
            parameters,
            graph: Self::new(),
            values: Vec::new(),
            nodes: vec![None; self.nodes().len()],
        };
        let dropped: BTreeSet<NodeId> = pairs
            .values()
            .flat_map(|pair| [pair.conv, pair.stack, pair.weight].into_iter().chain(pair.bias).chain(pair.norm))
            .collect();
        for index in kept {
            match pairs.get(&index) {
                Some(pair) => folding.fold(index, pair)?,
                None if dropped.contains(&NodeId(index)) => {}
                None => folding.copy(index)?,
            }
        }
        folding.finish()
    }

    /// The convolution and the norm that end in this node, if everything of theirs is used by them alone.
    fn pair(&self, index: usize, uses: &[usize]) -> Option<Pair> {
        let op = |node: NodeId| match &self.node(node).kind {
            NodeKind::Op { op, inputs } => Some((op.as_any(), inputs.as_slice())),
            _ => None,
        };
        let (norm, inputs) = op(NodeId(index))?;
        let &BatchNorm { over: Over::Batch, epsilon } = norm.downcast_ref()? else { return None };
        let &[conv, stack, gamma, beta] = inputs else { return None };
        let (moments, statistics) = op(stack)?;
        moments.downcast_ref::<BatchNormStack>()?;
        let &[mean, variance] = statistics else { return None };
        let (convolution, inputs) = op(conv)?;
        if !convolution.is::<Conv2d>() && !convolution.is::<ConvTranspose2d>() {
            return None;
        }
        let (&weight, bias) = (inputs.get(1)?, inputs.get(2).copied());
        let norm = [mean, variance, gamma, beta];
        let parameters = [weight].into_iter().chain(bias).chain(norm);
        let is_parameter = |node: NodeId| matches!(self.node(node).kind, NodeKind::Parameter { .. });
        let alone = |node: NodeId| uses[node.index()] == 1;
        let own = parameters.clone().all(is_parameter) && parameters.chain([conv, stack]).all(alone);
        own.then_some(Pair { conv, stack, weight, bias, norm, epsilon })
    }
}

/// A folded graph in the making.
struct Folding<'a> {
    original: &'a Graph,
    parameters: &'a [f32],
    graph: Graph,
    /// Of each parameter of the new graph, in order.
    values: Vec<Vec<f32>>,
    nodes: Vec<Option<NodeId>>,
}

impl Folding<'_> {
    /// The values of a parameter.
    fn values(&self, node: NodeId) -> &[f32] {
        match self.original.node(node).kind {
            NodeKind::Parameter { index } => {
                self.original.bank_slice(self.parameters, &self.original.parameters()[index])
            }
            _ => unreachable!("a pair's tensors are parameters"),
        }
    }

    fn parameter(&mut self, name: &str, extents: &[usize], trainable: bool, values: Vec<f32>) -> Result<NodeId> {
        self.values.push(values);
        if trainable {
            self.graph.parameter(name, extents, Init::Zeros)
        } else {
            self.graph.buffer(name, extents, Init::Zeros)
        }
    }

    /// What stands for the inputs of a node.
    fn inputs(&self, inputs: &[NodeId]) -> Vec<NodeId> {
        let mapped = |input: &NodeId| self.nodes[input.index()];
        inputs
            .iter()
            .map(|input| mapped(input).unwrap_or_else(|| unreachable!("only pairs use what is dropped")))
            .collect()
    }

    fn copy(&mut self, index: usize) -> Result<()> {
        let node = &self.original.nodes()[index];
        let new = match &node.kind {
            NodeKind::Input => self.graph.input(&node.name, node.tensor_type.clone()),
            NodeKind::Constant(value) => self.graph.constant(&node.name, node.tensor_type.shape.clone(), *value),
            NodeKind::Bank(_) => unreachable!("a graph that uses whole banks is refused"),
            NodeKind::Parameter { index: parameter } => {
                let trainable = self.original.parameters()[*parameter].trainable;
                let values = self.values(NodeId(index)).to_vec();
                self.parameter(&node.name, node.tensor_type.shape.extents(), trainable, values)?
            }
            NodeKind::Op { op, inputs } => {
                let inputs = self.inputs(inputs);
                self.graph.apply_shared(&node.name, op, &inputs)?
            }
        };
        self.nodes[index] = Some(new);
        Ok(())
    }

    /// The convolution in place of its norm.
    fn fold(&mut self, index: usize, pair: &Pair) -> Result<()> {
        let wide = |node: NodeId| self.values(node).iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
        let [mean, variance, gamma, beta] = pair.norm.map(wide);
        let scale: Vec<f64> = gamma
            .iter()
            .zip(&variance)
            .map(|(gamma, variance)| gamma / (variance + f64::from(pair.epsilon)).sqrt())
            .collect();
        let before = pair.bias.map_or_else(|| vec![0.0; scale.len()], wide);
        let shifted = before.iter().zip(&mean).zip(&scale).zip(&beta);
        let bias = shifted.map(|(((before, mean), scale), beta)| ((before - mean) * scale + beta) as f32).collect();
        // The last extent of a convolution's weight is that of its output channels.
        let by_channel = wide(pair.weight).into_iter().zip(scale.iter().cycle());
        let weight: Vec<f32> = by_channel.map(|(weight, scale)| (weight * scale) as f32).collect();

        let NodeKind::Op { op, inputs } = &self.original.node(pair.conv).kind else {
            unreachable!("a pair has a convolution")
        };
        let (name, shape) = (&self.original.node(pair.conv).name, self.original.shape(pair.weight).clone());
        let weight = self.parameter(&self.original.node(pair.weight).name, shape.extents(), true, weight)?;
        let bias = self.parameter(&format!("{name}.bias"), &[scale.len()], true, bias)?;
        let x = self.inputs(&inputs[..1])[0];
        self.nodes[index] = Some(self.graph.apply_shared(name, op, &[x, weight, bias])?);
        Ok(())
    }

    fn finish(mut self) -> Result<Folded> {
        for (name, output) in self.original.outputs() {
            let output = self.inputs(&[*output])[0];
            self.graph.mark_output(name, output)?;
        }
        let mut parameters = vec![0.0; self.graph.bank_elements()];
        for (parameter, values) in self.graph.parameters().iter().zip(&self.values) {
            parameters[parameter.offset..][..values.len()].copy_from_slice(values);
        }
        Ok(Folded { graph: self.graph, parameters, nodes: self.nodes })
    }
}

#[cfg(test)]
mod tests {
    use crate::array::{Array, Tensor};
    use crate::cpu::{banks, evaluate};
    use crate::graph::{Graph, NodeKind};
    use crate::models::{Training, UNet, Variant};
    use crate::random::Random;
    use crate::shape::TensorType;
    use std::collections::BTreeMap;

    fn norms(graph: &Graph) -> usize {
        let is_norm = |kind: &NodeKind| matches!(kind, NodeKind::Op { op, .. } if op.name() == "batch_norm");
        graph.nodes().iter().filter(|node| is_norm(&node.kind)).count()
    }

    /// Whatever the running statistics, in f64 the logits are the same to ten digits.
    #[test]
    fn a_folded_network_says_the_same() {
        for (variant, kept) in [
            (Variant::Milesial, 0),
            (Variant::MilesialBilinear, 0),
            (Variant::Brain, 0),
            (Variant::Semseg, 0),
            (Variant::Unet, 0),
        ] {
            let net = UNet { variant, in_channels: 2, classes: 2, base_channels: 3, depth: 2, dropout: 0.0 };
            let size = [net.legal_above(60), net.legal_above(70)];
            let mut network = net.inference(1, size).unwrap();
            network.graph.mark_output("logits", network.logits).unwrap();
            let mut random = Random::new(4, 0);
            let mut parameters = network.graph.initial_parameters(2);
            for parameter in network.graph.parameters().iter().filter(|parameter| parameter.shape.extents().len() == 1)
            {
                for value in &mut parameters[parameter.offset..][..parameter.shape.elements()] {
                    *value = random.between(0.5, 2.0);
                }
            }
            let folded = network.graph.folded(&parameters).unwrap();
            let has_norms = variant != Variant::Unet;
            assert_eq!((norms(&network.graph) > 0, norms(&folded.graph)), (has_norms, kept), "{variant}");
            let shape = TensorType::f32([1, size[0], size[1], 2]).unwrap().shape;
            let pixels = (0..shape.elements()).map(|_| f64::from(random.normal())).collect();
            let image: Tensor<f64> = Array { shape, data: pixels }.into();
            let logits = |graph: &Graph, parameters: &[f32], image_node, logits_node| {
                let inputs = BTreeMap::from([(image_node, image.clone())]);
                let mut outputs = evaluate::<f64>(graph, &inputs, &mut banks(graph, parameters)).unwrap();
                outputs.remove(&logits_node).unwrap().float().data.clone()
            };
            let expected = logits(&network.graph, &parameters, network.image, network.logits);
            let [image_node, logits_node] = [network.image, network.logits].map(|node| folded.node(node).unwrap());
            let found = logits(&folded.graph, &folded.parameters, image_node, logits_node);
            let largest = expected.iter().fold(0.0f64, |largest, logit| largest.max(logit.abs()));
            for (found, expected) in found.iter().zip(&expected) {
                // The folded weights are rounded to f32.
                assert!((found - expected).abs() < 1e-5 * largest, "{variant}: {found} instead of {expected}");
            }
        }
    }

    #[test]
    fn what_something_else_reads_is_not_folded_and_other_parameters_are_refused() {
        let net = UNet { variant: Variant::Milesial, base_channels: 2, depth: 1, ..UNet::default() };
        let mut network = net.inference(1, [net.legal_above(16); 2]).unwrap();
        network.graph.mark_output("logits", network.logits).unwrap();
        let all = norms(&network.graph);
        let first = network.graph.nodes().iter().position(|node| matches!(node.kind, NodeKind::Op { .. })).unwrap();
        network.graph.mark_output("before", crate::graph::NodeId(first)).unwrap();
        let parameters = network.graph.initial_parameters(1);
        assert_eq!(norms(&network.graph.folded(&parameters).unwrap().graph), 1, "of {all}");
        let message = network.graph.folded(&parameters[1..]).unwrap_err().to_string();
        assert!(message.contains("parameters (with padding)"), "{message}");
    }

    #[test]
    fn what_nothing_needs_is_left_out_and_what_trains_is_refused() {
        let net = UNet { variant: Variant::Milesial, base_channels: 2, depth: 1, ..UNet::default() };
        let size = [net.legal_above(16); 2];
        let mut network = net.inference(1, size).unwrap();
        let unneeded = network.graph.relu("unneeded", network.logits).unwrap();
        network.graph.mark_output("logits", network.logits).unwrap();
        let folded = network.graph.folded(&network.graph.initial_parameters(1)).unwrap();
        assert_eq!((folded.node(unneeded), norms(&folded.graph)), (None, 0));
        let step = net.build(1, size).unwrap().training_step(&Training::default()).unwrap().graph;
        let message = step.folded(&step.initial_parameters(1)).unwrap_err().to_string();
        assert!(message.contains("trains its parameters"), "{message}");
    }
}
