//! What is not another graph, but another use of memory: tensors that a plan need not make, or whose kernel makes another one as well.

use super::{Fusion, Fusions, is};
use crate::graph::{Graph, NodeId, NodeKind};
use crate::op::AnyOp;
use crate::ops::{CropConcat, CrossEntropy, CrossEntropyGrad, Pad, image};
use std::ops::Range;

/// What a plan may do with the nodes of a fused graph.
#[derive(Clone, Debug, Default)]
pub(crate) struct Joints {
    /// Tensors that can be left in two others, in the order of computation.
    pub(crate) concats: Vec<Concat>,
    /// Whether they are to be left so on software drivers, too.
    pub(crate) anywhere: bool,
    /// Nodes whose kernel can compute the gradient of their first input as well, and the node of that.
    pub(crate) gradients: Vec<(NodeId, NodeId)>,
}

/// A tensor of images that can be left in two others, side by side in the channels: either it is the concatenation of earlier ones, and the
/// kernels that read it read them, or later ones are all that is made of it, and its kernel writes them.
#[derive(Clone, Debug)]
pub(crate) struct Concat {
    pub(crate) whole: NodeId,
    pub(crate) parts: [NodeId; 2],
    /// The nodes whose kernels find their way from the whole to the parts.
    pub(crate) users: Vec<NodeId>,
}

/// Kernels take at most so many channels in one load, which must be in one of the parts.
const TOGETHER: usize = 4;

impl Joints {
    /// Those of a graph whose chains of ops are fused.
    pub(super) fn of(graph: &Graph, fusions: Fusions) -> Self {
        let (needed, uses) = (graph.needed(), graph.uses());
        let mut readers = vec![Vec::new(); graph.nodes().len()];
        let nodes: Vec<NodeId> = (0..graph.nodes().len()).filter(|&index| needed[index]).map(NodeId).collect();
        for &node in &nodes {
            let inputs = op_of(graph, node).map_or(&[][..], |(_, inputs)| inputs);
            for input in inputs {
                readers[input.index()].push(node);
            }
        }
        // What is read from outside is a whole.
        let concat = |&node: &NodeId| {
            let readers = &readers[node.index()];
            (readers.len() == uses[node.index()]).then(|| concat(graph, node, readers))?
        };
        let gradient = |(place, &node): (usize, &NodeId)| Some((node, gradient(graph, node, &nodes[place..])?));
        Self {
            concats: nodes.iter().filter(|_| fusions.has(Fusion::Concat)).filter_map(concat).collect(),
            anywhere: !fusions.where_it_pays,
            gradients: nodes.iter().enumerate().filter(|_| fusions.has(Fusion::Loss)).filter_map(gradient).collect(),
        }
    }
}

fn op_of(graph: &Graph, node: NodeId) -> Option<(&dyn AnyOp, &[NodeId])> {
    match &graph.node(node).kind {
        NodeKind::Op { op, inputs } => Some((op.as_ref(), inputs)),
        _ => None,
    }
}

fn concat(graph: &Graph, whole: NodeId, readers: &[NodeId]) -> Option<Concat> {
    let (op, inputs) = op_of(graph, whole)?;
    let (parts, users) = match (is::<CropConcat>(op), inputs, readers) {
        (Some(_), &[skip, up], _) => ([skip, up], readers.to_vec()),
        (None, _, &[one, other]) => (taken_apart(graph, whole, [one, other])?, vec![whole]),
        _ => return None,
    };
    let channels = parts.map(|part| image(&graph.node(part).tensor_type)[3]);
    let together = channels.iter().all(|channels| channels.is_multiple_of(TOGETHER));
    together.then_some(Concat { whole, parts, users })
}

/// The readers of a node in the order of the channels that each takes, if they take it apart.
fn taken_apart(graph: &Graph, whole: NodeId, readers: [NodeId; 2]) -> Option<[NodeId; 2]> {
    let whole = &graph.node(whole).tensor_type;
    let channels = |reader| is::<Pad>(op_of(graph, reader)?.0)?.channels_of(whole);
    let [Some(one), Some(other)] = readers.map(channels) else { return None };
    let end = whole.shape.channels();
    let apart = |a: &Range<usize>, b: &Range<usize>| a.start == 0 && a.end == b.start && b.end == end;
    if apart(&one, &other) { Some(readers) } else { apart(&other, &one).then_some([readers[1], readers[0]]) }
}

/// The gradient of the scores that is all of a loss's, times 1, among the nodes from the loss on.
fn gradient(graph: &Graph, loss: NodeId, nodes: &[NodeId]) -> Option<NodeId> {
    let (op, inputs) = op_of(graph, loss)?;
    let &CrossEntropy { ignore } = is(op)?;
    let is_gradient = |&&node: &&NodeId| {
        let Some((op, others)) = op_of(graph, node) else { return false };
        is(op) == Some(&CrossEntropyGrad { ignore })
            && others.split_last().is_some_and(|(&times, others)| {
                others == inputs && matches!(graph.node(times).kind, NodeKind::Constant(1.0))
            })
    };
    nodes.iter().find(is_gradient).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::{Array, Tensor};
    use crate::gpu::{Choices, Gpu, MemoryPlan, Plan, PlanOptions};
    use crate::op::DeviceProfile;
    use crate::ops::{Conv2d, CrossEntropySettings, Reduction};
    use crate::shape::{DType, Shape, TensorType};

    /// A skip of 9 × 8 pixels, a map of 6 × 5 beside its centre, stored as `dtype` says, and a convolution of both, with all gradients.
    fn graph(channels: [usize; 2], dtype: DType, output: bool) -> Graph {
        let mut graph = Graph::new();
        let image = |extents: [usize; 4]| TensorType { dtype, shape: Shape::new(extents).unwrap() };
        let inputs = [[9, 8], [6, 5]].into_iter().zip(channels).enumerate();
        // Gradients of inputs have buffers of their own, and guards.
        let weight = |extents: [usize; 4]| TensorType::f32(extents).unwrap();
        let (parts, mut weights): (Vec<NodeId>, Vec<NodeId>) = inputs
            .map(|(number, ([height, width], channels))| {
                let x = graph.input(&format!("x{number}"), image([2, height, width, 1]));
                let weight = graph.input(&format!("weight{number}"), weight([1, 1, 1, channels]));
                (graph.conv2d(&format!("part{number}"), x, weight, None, Conv2d::default()).unwrap(), weight)
            })
            .unzip();
        let concat = graph.crop_concat("concat", parts[0], parts[1]).unwrap();
        let weight = graph.input("weight", weight([3, 3, channels[0] + channels[1], 20]));
        weights.push(weight);
        let y = graph.conv2d("y", concat, weight, None, Conv2d::default()).unwrap();
        let scores = if dtype == DType::F32 { y } else { graph.cast("scores", y, DType::F32).unwrap() };
        let labels = graph.input("labels", TensorType::u32([2, 4, 3]).unwrap());
        let ones = graph.constant("ones", Shape::new([2, 4, 3]).unwrap(), 1.0);
        let settings = CrossEntropySettings { reduction: Reduction::MeanOverPixels, ignore: None };
        let loss = graph.cross_entropy("loss", scores, labels, ones, settings).unwrap();
        let (mut graph, gradients) = graph.gradients(loss, &weights).unwrap();
        for gradient in [Some(loss)].into_iter().chain(gradients).flatten() {
            graph.mark_output("", gradient).unwrap();
        }
        if output {
            graph.mark_output("", concat).unwrap();
        }
        graph
    }

    /// Bits of the loss and of all gradients.
    fn bits(gpu: &Gpu, graph: &Graph, options: PlanOptions) -> Vec<u32> {
        let plan = Plan::new(gpu, graph, options).unwrap();
        for (seed, node) in graph.inputs().enumerate() {
            let shape = graph.shape(node).clone();
            let value = |i: usize| ((i * 37 + seed * 11) % 17) as f32 / 8.0 - 1.0;
            let floats = graph.node(node).tensor_type.dtype.is_float();
            let elements = 0..shape.elements();
            plan.write(
                node,
                &if floats {
                    Tensor::Float(Array { shape, data: elements.map(value).collect() })
                } else {
                    Tensor::Uint(Array { shape, data: elements.map(|i| i as u32 % 20).collect() })
                },
            )
            .unwrap();
        }
        plan.run().unwrap();
        assert_eq!(plan.memory().total_bytes(), plan.allocated_bytes());
        assert_eq!(plan.broken_guards().unwrap(), [""; 0]);
        let outputs = graph.outputs().iter().flat_map(|&(_, output)| plan.read(output).unwrap().float().data.clone());
        outputs.map(f32::to_bits).collect()
    }

    /// What is needed and has no kernel of its own.
    fn joined(graph: &Graph, fusions: Fusions, device: &DeviceProfile, choices: &Choices) -> Vec<String> {
        let fused = graph.fused_by(fusions);
        let plan = MemoryPlan::new(&fused, device, choices, false).unwrap();
        let is_joined = |&index: &usize| op_of(&fused, NodeId(index)).is_some() && plan.candidates[index].is_none();
        let needed = fused.needed();
        let joined = (0..needed.len()).filter(|&index| needed[index]).filter(is_joined);
        joined.map(|index| fused.nodes()[index].name.clone()).collect()
    }

    const GRADIENTS: [&str; 3] = ["loss.grad_logits", "concat.grad_skip", "concat.grad_up"];
    const ALL: [&str; 4] = ["concat", GRADIENTS[0], GRADIENTS[1], GRADIENTS[2]];

    #[test]
    fn concatenations_are_left_in_their_parts_where_kernels_can_find_them() {
        let device = DeviceProfile::PORTABLE;
        let joined = |channels, output, device: &DeviceProfile| {
            joined(&graph(channels, DType::F32, output), Fusions::default(), device, &Choices::default())
        };
        assert_eq!(joined([4, 8], false, &device), ALL);
        assert_eq!(joined([4, 8], true, &device), GRADIENTS, "somebody reads it");
        assert_eq!(joined([4, 6], false, &device), GRADIENTS[..1], "loads of four channels would be in both");
        let software = DeviceProfile { software: true, ..device };
        assert_eq!(joined([4, 8], false, &software), GRADIENTS[..1], "it does not pay");
        let small = DeviceProfile { largest_binding: 1024, ..device };
        assert_eq!(joined([4, 8], false, &small), GRADIENTS[..1], "parts are in pieces");
    }

    #[test]
    fn every_kernel_reads_and_writes_parts_as_it_would_the_whole() {
        let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
        for dtype in [DType::F32, DType::F16].into_iter().filter(|&dtype| dtype == DType::F32 || gpu.profile().f16) {
            // As many channels as all kernels but those for few want.
            let graph = graph([12, 8], dtype, false);
            for candidate in 0..10 {
                let left = joined(&graph, Fusions::ALL, gpu.profile(), &Choices::nth(candidate));
                assert!(left == ALL || dtype == DType::F16 && gpu.profile().matrix_side.is_some(), "{left:?}");
                let (candidate, fusions) = (Some(candidate), Fusions::ALL);
                let options = PlanOptions { candidate, fusions, guarded: true, ..PlanOptions::default() };
                let made = PlanOptions { fusions: fusions.without(Fusion::Concat), ..options };
                let expected = bits(&gpu, &graph, made);
                for options in [options, PlanOptions { trapped: true, ..options }] {
                    assert_eq!(bits(&gpu, &graph, options), expected, "{dtype:?}, candidate {candidate:?}");
                }
            }
        }
    }

    #[test]
    fn a_gradient_is_computed_with_the_first_of_the_losses_before_it() {
        let types = [TensorType::f32([1, 2, 2, 3]).unwrap(), TensorType::u32([1, 2, 2]).unwrap()];
        let mut graph = Graph::new();
        let logits = graph.input("logits", types[0].clone());
        let labels = graph.input("labels", types[1].clone());
        let constant = |graph: &mut Graph, extents: &[usize]| graph.constant("1", Shape::new(extents).unwrap(), 1.0);
        let inputs = [logits, labels, constant(&mut graph, &[1, 2, 2]), constant(&mut graph, &[1])];
        let one = constant(&mut graph, &[1]);
        let (loss, gradient) = (CrossEntropy { ignore: None }, CrossEntropyGrad { ignore: None });
        let with_one = [&inputs[..], &[one]].concat();
        for name in ["early", "late"] {
            let node = graph.apply(name, gradient, &with_one).unwrap();
            graph.mark_output(name, node).unwrap();
            for name in ["loss", "again"] {
                let node = graph.apply(name, loss, &inputs).unwrap();
                graph.mark_output(name, node).unwrap();
            }
        }
        assert_eq!(joined(&graph, Fusions::ALL, &DeviceProfile::PORTABLE, &Choices::default()), ["late"]);
    }

    #[test]
    fn a_loss_and_its_gradient_are_one_kernel_with_the_bits_of_two() {
        let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
        let mut graph = Graph::new();
        let logits = graph.input("logits", TensorType::f32([2, 7, 11, 3]).unwrap());
        let labels = graph.input("labels", TensorType::u32([2, 7, 11]).unwrap());
        let weights = graph.input("weights", TensorType::f32([2, 7, 11]).unwrap());
        let settings = CrossEntropySettings { reduction: Reduction::MeanOverWeights, ignore: Some(2) };
        let loss = graph.cross_entropy("loss", logits, labels, weights, settings).unwrap();
        let (mut graph, gradients) = graph.gradients(loss, &[logits]).unwrap();
        graph.mark_output("loss", loss).unwrap();
        graph.mark_output("gradient", gradients[0].unwrap()).unwrap();
        let value = |i: usize| (i * 37 % 41) as f32 / 8.0 - 2.0;
        let run = |fusions| {
            let plan =
                Plan::new(&gpu, &graph, PlanOptions { fusions, guarded: true, ..PlanOptions::default() }).unwrap();
            for node in [logits, labels, weights] {
                let shape = graph.shape(node).clone();
                let elements = 0..shape.elements();
                let value = if node == labels {
                    // 3 is no class.
                    Tensor::Uint(Array { shape, data: elements.map(|i| i as u32 % 4).collect() })
                } else {
                    Tensor::Float(Array { shape, data: elements.map(value).collect() })
                };
                plan.write(node, &value).unwrap();
            }
            plan.run().unwrap();
            assert_eq!(plan.broken_guards().unwrap(), [""; 0]);
            let outputs = graph.outputs().iter().flat_map(|&(_, node)| plan.read(node).unwrap().float().data.clone());
            (plan.profile(1).unwrap().rows.len(), outputs.map(f32::to_bits).collect::<Vec<_>>())
        };
        let (one, two) = (run(Fusions::ALL), run(Fusions::ALL.without(Fusion::Loss)));
        assert_eq!((one.0 + 1, one.1), two);
    }
}
