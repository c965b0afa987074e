//! Less memory for more time: tensors of the forward pass that the backward pass needs are computed again when it does, rather than kept
//! (Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016, arXiv 1604.06174; also called checkpointing). Values are the same to
//! the bit, as long as the device can bind all that an op reads at once.
//!
//! Which ones, a budget of bytes decides, greedily: the tensor that takes most off what is above the budget for the time that it costs,
//! again and again until the plan fits.

use crate::error::{Error, Result};
use crate::executor::Device;
use crate::gpu::{Choices, MemoryPlan};
use crate::graph::{Graph, NodeId, NodeKind, Placement};
use crate::op::DeviceProfile;
use crate::shape::TensorType;
use rayon::prelude::*;
use std::collections::BTreeSet;

/// The bytes that a training step may take on a device.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryBudget {
    /// All buffers together, as [`MemoryPlan::total_bytes`] counts them.
    pub bytes: u64,
    /// The device that it is planned for.
    pub device: DeviceProfile,
    /// The kernels that are taken there, which may need memory of their own.
    pub choices: Choices,
}

/// What the name of a copy ends in.
pub(crate) const COPY: &str = ".again";

/// Operations in the time of a byte, to hold what takes either against each other.
const OPERATIONS_PER_BYTE: u64 = 10;

/// A set of nodes, with the step that comes of it.
struct Attempt<T> {
    again: BTreeSet<NodeId>,
    step: T,
    plan: MemoryPlan,
    /// What one run costs, in operations.
    cost: u64,
    /// Transient bytes that are alive at the nodes that every choice has, and the most at any node.
    live: Vec<u64>,
    peak: u64,
}

impl<T> Attempt<T> {
    /// Bytes above `room`: at the peak, and what takes off the peaks to come, on average over the nodes.
    fn excess(&self, room: u64) -> f64 {
        let above = |bytes: u64| bytes.saturating_sub(room) as f64;
        let mean = self.live.iter().copied().map(above).sum::<f64>() / self.live.len().max(1) as f64;
        above(self.peak) + mean
    }
}

impl MemoryBudget {
    /// So many bytes on a device; on the CPU executor, those that any device would take.
    pub fn on(device: &Device, bytes: u64) -> Self {
        let (device, choices) = device.kernels();
        Self { bytes, device, choices }
    }

    /// The training step on a forward pass that fits the budget. `build` makes one in which these nodes are computed again, and `graph_of`
    /// gives its graph.
    ///
    /// # Errors
    /// [`Error::Memory`] with what was reached when no choice fits; as `build`.
    pub(crate) fn fit<T: Send>(
        &self,
        forward: &Graph,
        build: impl Fn(&BTreeSet<NodeId>) -> Result<T> + Sync,
        graph_of: impl Fn(&T) -> &Graph + Sync,
    ) -> Result<T> {
        let choose = |again: BTreeSet<NodeId>| -> Result<Attempt<T>> {
            let step = build(&again)?;
            let fused = graph_of(&step).fused();
            let plan = MemoryPlan::new(&fused, &self.device, &self.choices, false)?;
            let is_copy = |name: &str| name.ends_with(COPY);
            let live = fused.nodes().iter().zip(&plan.live).filter(|(node, _)| !is_copy(&node.name));
            let (live, peak) = (live.map(|(_, &bytes)| bytes).collect(), plan.live.iter().copied().max().unwrap_or(0));
            Ok(Attempt { cost: cost(&fused), again, step, plan, live, peak })
        };
        let candidates = forward.kept();
        let mut chosen = choose(BTreeSet::new())?;
        let mut least = chosen.plan.total_bytes();
        // Of transient memory; less where buffers of other sizes leave gaps.
        let mut room = self.bytes.saturating_sub(chosen.plan.total_bytes() - chosen.plan.transient.iter().sum::<u64>());
        let mut to_the_least = room == 0;
        while chosen.plan.total_bytes() > self.bytes {
            let excess = chosen.excess(room);
            if excess == 0.0 && room > 0 {
                room = room.saturating_sub(chosen.plan.total_bytes() - self.bytes);
                continue;
            }
            let others = candidates.par_iter().filter(|&candidate| !chosen.again.contains(candidate));
            let tried = others.map(|&candidate| {
                let next = choose(chosen.again.iter().copied().chain([candidate]).collect())?;
                Ok(((excess - next.excess(room)) / next.cost.saturating_sub(chosen.cost).max(1) as f64, next))
            });
            let tried = tried.collect::<Result<Vec<_>>>()?.into_iter().filter(|&(worth, _)| worth > 0.0);
            // The first of equals.
            let best = tried.rev().max_by(|(one, _), (other, _)| one.total_cmp(other));
            let Some((_, best)) = best else {
                if to_the_least {
                    return Err(self.unreached(least));
                }
                // Whoever only looks at what is above the budget may end where nothing helps; from the start again, whatever the budget.
                (to_the_least, room) = (true, 0);
                chosen = choose(BTreeSet::new())?;
                least = chosen.plan.total_bytes();
                continue;
            };
            chosen = best;
            least = least.min(chosen.plan.total_bytes());
        }
        Ok(chosen.step)
    }

    fn unreached(&self, least: u64) -> Error {
        let bytes = self.bytes;
        let tuned = if self.choices.is_empty() {
            ""
        } else {
            "; kernels that were tuned may need memory that others do not: try --kernels default"
        };
        Error::Memory(format!(
            "the training step does not fit {bytes} bytes: computing again whatever helps, it takes {least}; give it more, or a smaller tile, \
             batch, base or depth{tuned}"
        ))
    }
}

/// What a run of the graph costs, in operations.
fn cost(graph: &Graph) -> u64 {
    let needed = graph.needed();
    let nodes = graph.nodes().iter().zip(needed).filter(|&(_, needed)| needed);
    nodes
        .map(|(node, _)| match &node.kind {
            NodeKind::Op { op, inputs } => {
                let types = graph.types(inputs);
                let bytes = node.tensor_type.size_bytes() + types.iter().map(TensorType::size_bytes).sum::<u64>();
                op.flops(&types, &node.tensor_type).max(OPERATIONS_PER_BYTE * bytes)
            }
            _ => 0,
        })
        .sum()
}

impl Graph {
    /// Nodes of a forward pass that have memory of their own until the backward pass needs them: those that fusion leaves.
    fn kept(&self) -> Vec<NodeId> {
        let (needed, placements) = (self.fused().needed(), self.placements());
        let kept = |&index: &usize| match &self.nodes()[index].kind {
            NodeKind::Op { op, .. } => {
                needed[index] && op.writes().is_empty() && matches!(placements[index], Placement::Transient)
            }
            _ => false,
        };
        (0..self.nodes().len()).filter(kept).map(NodeId).collect()
    }

    /// Nodes of a forward pass that only exist within fused kernels, so that nothing of them is there to be read.
    pub(crate) fn within_fused(&self) -> BTreeSet<NodeId> {
        let needed = self.fused().needed();
        let within = |&index: &usize| !needed[index] && matches!(self.nodes()[index].kind, NodeKind::Op { .. });
        (0..self.nodes().len()).filter(within).map(NodeId).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{Training, TrainingStep, UNet, Variant};

    fn step(variant: Variant, bytes: Option<u64>) -> Result<TrainingStep> {
        let net = UNet { variant, base_channels: 16, depth: 3, ..UNet::default() };
        let memory = bytes.map(|bytes| MemoryBudget::on(&Device::Cpu, bytes));
        net.build(1, [net.legal_above(150); 2])?.training_step(&Training { memory, ..Training::default() })
    }

    fn total(step: &TrainingStep) -> u64 {
        MemoryPlan::new(&step.graph.fused(), &DeviceProfile::PORTABLE, &Choices::default(), false)
            .unwrap()
            .total_bytes()
    }

    #[test]
    fn a_step_takes_what_it_may_and_no_more_time_than_that_needs() {
        for variant in [Variant::Unet, Variant::Milesial] {
            let whole = step(variant, None).unwrap();
            let enough = step(variant, Some(total(&whole))).unwrap();
            assert_eq!(
                cost(&enough.graph.fused()),
                cost(&whole.graph.fused()),
                "{variant}: where all fits nothing is computed again"
            );
            let mut last = cost(&whole.graph.fused());
            for share in [96, 92, 88] {
                let bytes = total(&whole) * share / 100;
                let less = step(variant, Some(bytes)).unwrap();
                assert!(total(&less) <= bytes, "{variant}: {} of {bytes}", total(&less));
                let found = cost(&less.graph.fused());
                assert!(
                    found > last && found < 2 * cost(&whole.graph.fused()),
                    "{variant}, {share} %: {found} after {last}"
                );
                last = found;
            }
        }
    }

    #[test]
    fn what_no_choice_reaches_is_refused_with_what_is_reached() {
        let whole = total(&step(Variant::Unet, None).unwrap());
        let refused = |bytes| -> u64 {
            let message = step(Variant::Unet, Some(bytes)).unwrap_err().to_string();
            message.split("it takes ").nth(1).unwrap().split(';').next().unwrap().parse().unwrap()
        };
        let least = refused(1 << 20);
        assert!(least < whole * 89 / 100, "{least} of {whole}");
        assert_eq!(refused(least * 99 / 100), least, "whatever the budget");
        assert!(total(&step(Variant::Unet, Some(least)).unwrap()) <= least, "what is said to be reached is reached");
    }
}
