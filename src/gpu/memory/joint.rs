//! Tensors that are not made, since kernels read and write the parts of them, and tensors that another's kernel makes.

use super::{Life, MemoryPlan};
use crate::fuse::{Concat, Joints};
use crate::gpu::source::Beside;
use crate::graph::{Graph, NodeId, NodeKind, Placement};
use crate::op::DeviceProfile;

impl MemoryPlan {
    /// Does with the nodes of a graph what it can of what the graph lets it do.
    pub(super) fn join(&mut self, graph: &Graph, device: &DeviceProfile, placements: &[Placement], lives: &mut [Life]) {
        let Joints { concats, anywhere, gradients } = &graph.joints;
        for &(node, gradient) in gradients {
            let NodeKind::Op { op, inputs } = &graph.node(node).kind else { continue };
            // Of two losses alike the first has computed it already.
            if placements[gradient.index()] == Placement::Transient
                && self.candidates[gradient.index()].is_some()
                && let Some(candidate) = op.candidate_with_gradient(&graph.types(inputs))
            {
                self.candidates[node.index()] = Some(candidate);
                self.gradients[node.index()] = Some(gradient);
                self.made_by(gradient, node, lives);
            }
        }
        for concat in concats.iter().filter(|_| *anywhere || !device.software) {
            let Concat { whole, parts, .. } = *concat;
            if !self.can_be_left(graph, placements, concat) {
                continue;
            }
            self.parts[whole.index()] = Some(parts);
            if parts[0] > whole {
                for part in parts {
                    self.made_by(part, whole, lives);
                }
                continue;
            }
            self.candidates[whole.index()] = None;
            for part in parts.map(NodeId::index) {
                lives[part].last = lives[part].last.max(lives[whole.index()].last);
            }
        }
    }

    /// Lets the kernel of another node make this one.
    fn made_by(&mut self, node: NodeId, other: NodeId, lives: &mut [Life]) {
        self.candidates[node.index()] = None;
        lives[node.index()].first = other.index();
    }

    /// Whether the parts are each in one place, and all kernels do nothing but index them.
    fn can_be_left(&self, graph: &Graph, placements: &[Placement], Concat { whole, parts, users }: &Concat) -> bool {
        let one_place = |part: &NodeId| {
            let bytes = graph.node(*part).tensor_type.size_bytes();
            let place = placements[part.index()];
            let memory = place == Placement::Transient || place == Placement::Input && part < whole;
            memory && bytes <= self.piece && self.parts[part.index()].is_none()
        };
        // Where another kernel makes a tensor, it is not known what that does. Some images of a whole are in no one place of its parts.
        let only_indexes = |node: &NodeId| {
            let candidate = self.candidates[node.index()].as_ref();
            let mut dispatches = candidate.iter().flat_map(|candidate| &candidate.dispatches);
            candidate.is_some()
                && dispatches.all(|it| {
                    !it.kernel.takes_pointers() && it.bindings.iter().all(|binding| binding.images().is_none())
                })
        };
        placements[whole.index()] == Placement::Transient
            && self.candidates[whole.index()].is_some()
            && parts.iter().all(one_place)
            && users.iter().all(only_indexes)
    }

    /// How a tensor is in its parts, in bytes, if it is.
    pub(super) fn beside(&self, graph: &Graph, node: usize) -> Option<Beside> {
        let [first, second] = self.parts[node]?.map(|part| graph.shape(part).image());
        let ([_, rows, columns, first], [_, height, width, second]) = (first.ok()?, second.ok()?);
        let bytes = graph.nodes()[node].tensor_type.dtype.size_bytes();
        Some(Beside {
            channels: [first, second].map(|channels| bytes * channels as u64),
            extents: [height as u64, width as u64],
            first_extents: [rows as u64, columns as u64],
        })
    }
}
