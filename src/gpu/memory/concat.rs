//! Concatenations that are never made: what is read or written as one tensor is two, side by side in the channels.

use super::MemoryPlan;
use crate::gpu::source::Beside;
use crate::graph::{Graph, NodeId, NodeKind, Placement};
use crate::op::AnyOp;
use crate::ops::{CropConcat, Pad, image};
use crate::shape::TensorType;

/// Kernels take so many channels in one load at most, which must be in one of the parts.
const TOGETHER: usize = 4;

/// A node that has no memory but that of two others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct InParts {
    pub(super) parts: [NodeId; 2],
    /// Counted in bytes.
    pub(super) beside: Beside,
}

/// From the node that computes a tensor to its last use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) first: usize,
    pub(super) last: usize,
}

impl MemoryPlan {
    /// Leaves concatenations in their parts where it can: they need no kernel, and the parts live as long as they do. There are two kinds:
    ///
    /// - a [`CropConcat`], whose readers read the skip and the map beside it;
    /// - a tensor that is only taken apart, as the gradient of such is by [`Pad`]s, so that its kernel writes what those would.
    pub(super) fn leave_in_parts(&mut self, graph: &Graph, placements: &[Placement], lives: &mut [Life]) {
        let (uses, readers) = (graph.uses(), readers(graph));
        for index in 0..graph.nodes().len() {
            // Nothing needs it, or it has been dealt with, or something outside sees it as a whole.
            if self.candidates[index].is_none() || readers[index].len() != uses[index] {
                continue;
            }
            let Some(in_parts) = parts_of(graph, index, &readers[index]) else { continue };
            let [first, second] = in_parts.parts.map(NodeId::index);
            let is_written = first > index;
            let kernels = if is_written { &[index][..] } else { &readers[index] };
            let whole = |&node: &usize| {
                let bytes = graph.nodes()[node].tensor_type.size_bytes();
                self.in_parts[node].is_none() && !matches!(placements[node], Placement::Bank(..)) && bytes <= self.piece
            };
            let transient = |node: &usize| placements[*node] == Placement::Transient;
            let possible = [first, second].iter().all(whole)
                && transient(&index)
                && (!is_written || [first, second].iter().all(transient))
                && kernels.iter().all(|&node| self.only_indexes(node));
            if !possible {
                continue;
            }
            self.in_parts[index] = Some(in_parts);
            for part in [first, second] {
                if is_written {
                    lives[part].first = index;
                    self.candidates[part] = None;
                } else {
                    lives[part].last = lives[part].last.max(lives[index].last);
                }
            }
            if !is_written {
                self.candidates[index] = None;
            }
        }
    }

    /// Whether the kernels of a node, if it has any, do nothing with what they bind but to index it.
    fn only_indexes(&self, node: usize) -> bool {
        let candidate = self.candidates[node].as_ref();
        candidate.is_some_and(|candidate| !candidate.dispatches.iter().any(|dispatch| dispatch.kernel.takes_pointers()))
    }
}

/// The nodes that read each node, among those that something depends on.
fn readers(graph: &Graph) -> Vec<Vec<usize>> {
    let mut readers = vec![Vec::new(); graph.nodes().len()];
    for (index, _) in graph.needed().into_iter().enumerate().filter(|&(_, needed)| needed) {
        if let Some((_, inputs)) = op_of(graph, index) {
            inputs.iter().for_each(|input| readers[input.index()].push(index));
        }
    }
    readers
}

fn op_of(graph: &Graph, node: usize) -> Option<(&dyn AnyOp, &[NodeId])> {
    match &graph.nodes()[node].kind {
        NodeKind::Op { op, inputs } => Some((op.as_ref(), inputs)),
        _ => None,
    }
}

/// The two nodes side by side in this one, if it is a concatenation or is only taken apart.
fn parts_of(graph: &Graph, node: usize, readers: &[usize]) -> Option<InParts> {
    let (op, inputs) = op_of(graph, node)?;
    let parts = match (op.as_any().is::<CropConcat>(), inputs, readers) {
        (true, &[skip, up], _) => [skip, up],
        (false, _, &[one, other]) => {
            let channels = |reader: usize| {
                let (op, _) = op_of(graph, reader)?;
                op.as_any().downcast_ref::<Pad>()?.channels_of(&graph.nodes()[node].tensor_type)
            };
            let (a, b) = (channels(one)?, channels(other)?);
            let apart = |a: &std::ops::Range<usize>, b: &std::ops::Range<usize>| a.start == 0 && a.end == b.start;
            if apart(&a, &b) {
                [NodeId(one), NodeId(other)]
            } else if apart(&b, &a) {
                [NodeId(other), NodeId(one)]
            } else {
                return None;
            }
        }
        _ => return None,
    };
    let types: [&TensorType; 2] = parts.map(|part| &graph.node(part).tensor_type);
    let [_, height, width, channels] = image(&graph.nodes()[node].tensor_type);
    let [[_, rows, columns, first], [.., second]] = types.map(image);
    if first + second != channels || [first, second].iter().any(|channels| !channels.is_multiple_of(TOGETHER)) {
        return None;
    }
    let bytes = types[0].dtype.size_bytes();
    let beside = Beside {
        channels: [first, second].map(|channels| bytes * channels as u64),
        extents: [height as u64, width as u64],
        first_extents: [rows as u64, columns as u64],
    };
    Some(InParts { parts, beside })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::{Array, Tensor};
    use crate::fuse::{Fusion, Fusions};
    use crate::gpu::{Choices, Gpu, Plan, PlanOptions};
    use crate::graph::{Bank, Init};
    use crate::op::DeviceProfile;
    use crate::ops::{Conv2d, CrossEntropySettings, Reduction};
    use crate::shape::Shape;

    /// A skip of 9 × 8 pixels, a map of 6 × 5 beside its centre, and a convolution of both, with the gradients of a constant.
    fn graph(channels: [usize; 2], output: bool) -> Graph {
        let mut graph = Graph::new();
        let image = |extents| TensorType::f32(extents).unwrap();
        let inputs = [[9, 8], [6, 5]].into_iter().zip(channels).enumerate();
        let weights: Vec<NodeId> = inputs
            .map(|(number, ([height, width], channels))| {
                let x = graph.input(&format!("x{number}"), image([2, height, width, 1]));
                let name = format!("weight{number}");
                let weight = graph.parameter(&name, [1, 1, 1, channels], Init::Normal(1.0)).unwrap();
                graph.conv2d(&format!("part{number}"), x, weight, None, Conv2d::default()).unwrap()
            })
            .collect();
        let concat = graph.crop_concat("concat", weights[0], weights[1]).unwrap();
        let weight = graph.parameter("weight", [3, 3, channels[0] + channels[1], 20], Init::Normal(1.0)).unwrap();
        let y = graph.conv2d("y", concat, weight, None, Conv2d::default()).unwrap();
        let labels = graph.input("labels", TensorType::u32([2, 4, 3]).unwrap());
        let ones = graph.constant("ones", Shape::new([2, 4, 3]).unwrap(), 1.0);
        let settings = CrossEntropySettings { reduction: Reduction::MeanOverPixels, ignore: None };
        let loss = graph.cross_entropy("loss", y, labels, ones, settings).unwrap();
        let parameters: Vec<NodeId> = graph.parameters().iter().map(|parameter| parameter.node).collect();
        let (mut graph, gradients) = graph.gradients(loss, &parameters).unwrap();
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
        plan.write_bank(Bank::Parameters, &graph.initial_parameters(3)).unwrap();
        plan.run().unwrap();
        assert_eq!(plan.memory().total_bytes(), plan.allocated_bytes());
        let outputs = graph.outputs().iter().flat_map(|&(_, output)| plan.read(output).unwrap().float().data.clone());
        outputs.map(f32::to_bits).collect()
    }

    #[test]
    fn concatenations_are_left_in_their_parts_where_kernels_can_find_them() {
        let in_parts = |graph: &Graph, device: DeviceProfile| {
            let fused = graph.fused();
            let plan = MemoryPlan::new(&fused, &device, &Choices::default(), false).unwrap();
            let left = fused.nodes().iter().zip(&plan.in_parts).filter(|(_, parts)| parts.is_some());
            left.map(|(node, _)| node.name.clone()).collect::<Vec<_>>()
        };
        let device = DeviceProfile::PORTABLE;
        assert_eq!(in_parts(&graph([4, 8], false), device), ["concat", "y.grad_input"]);
        assert_eq!(in_parts(&graph([4, 8], true), device), ["y.grad_input"], "somebody reads it");
        assert_eq!(in_parts(&graph([4, 6], false), device), [""; 0], "loads of four channels would be in both");
        let small = DeviceProfile { largest_binding: 1024, ..device };
        assert_eq!(in_parts(&graph([4, 8], false), small), [""; 0], "parts are in pieces");
    }

    #[test]
    fn every_kernel_reads_and_writes_parts_as_it_would_the_whole() {
        let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
        // As many channels as all kernels but those for few want.
        let graph = graph([12, 8], false);
        for candidate in 0..10 {
            let options = PlanOptions { candidate: Some(candidate), guarded: true, ..PlanOptions::default() };
            let made = PlanOptions { fusions: Fusions::ALL.without(Fusion::Concat), ..options };
            assert_eq!(bits(&gpu, &graph, options), bits(&gpu, &graph, made), "candidate {candidate}");
        }
    }
}
