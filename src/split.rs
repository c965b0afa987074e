//! Ops whose tensors are in more pieces than a device can bind at once, computed some images at a time.
//!
//! A kernel sees what is larger than a binding in pieces, each through a binding of its own, of which it has few: at WebGPU's defaults eight, of
//! 128 MiB each. Where an op computes each image of its result from the like images of its inputs, its kernels for a smaller batch do as well, one
//! batch after the other. Where it sums over all images, they give the sums of each batch, which are added in their order.

use crate::kernel;
use crate::op::{AnyOp, Binding, ByImage, Candidate, DeviceProfile, Dispatch, Images, STORAGE_ALIGNMENT};
use crate::ops::elementwise;
use crate::shape::TensorType;

/// The images of an op's result, or of what it sums over; none if it cannot take some of them at a time.
pub(crate) fn batch(op: &dyn AnyOp, inputs: &[TensorType]) -> Option<usize> {
    let &first = op.by_image().inputs().first()?;
    let extents = inputs.get(first)?.shape.extents();
    (extents.len() > 1).then(|| extents[0])
}

/// [`AnyOp::offered`], so many images at a time, and in the end what is left of the batch. None where such a part of a tensor cannot be bound, as it
/// does not begin where a binding may.
pub(crate) fn candidates(
    op: &dyn AnyOp,
    inputs: &[TensorType],
    output: &TensorType,
    device: &DeviceProfile,
    count: usize,
) -> Vec<Candidate> {
    let (Some(batch), by_image) = (batch(op, inputs), op.by_image()) else { return Vec::new() };
    let has_images = |index: usize| by_image.inputs().contains(&index);
    let begins = |tensor: &TensorType| {
        let image = tensor.size_bytes() / batch as u64;
        (image * count as u64).is_multiple_of(STORAGE_ALIGNMENT)
    };
    let mut parted = by_image.inputs().iter().filter_map(|&index| inputs.get(index));
    if !parted.all(begins) || !by_image.is_sum() && !begins(output) {
        return Vec::new();
    }
    let offered = |count: usize| {
        let some_of = |tensor: &TensorType| tensor.with_extents([&[count], &tensor.shape.extents()[1..]].concat());
        let type_of = |(index, input)| if has_images(index) { some_of(input) } else { Ok(input.clone()) };
        let types = inputs.iter().enumerate().map(type_of).collect::<Result<Vec<_>, _>>().ok()?;
        let result = if by_image.is_sum() { output.clone() } else { some_of(output).ok()? };
        Some(op.offered(&types, &result, device))
    };
    let (each, rest) = (offered(count).unwrap_or_default(), batch % count);
    let last = if rest == 0 { each.clone() } else { offered(rest).unwrap_or_default() };
    let pairs = each.iter().zip(&last);
    pairs.map(|(each, last)| repeated([each, last], by_image, batch, count, output, device)).collect()
}

/// A candidate for so many images and one for what is left in the end, one batch of them after the other.
fn repeated(
    [each, last]: [&Candidate; 2],
    by_image: ByImage,
    batch: usize,
    count: usize,
    output: &TensorType,
    device: &DeviceProfile,
) -> Candidate {
    let scratch = |candidate: &Candidate, index: usize| candidate.workspace.get(index).copied().unwrap_or(0);
    let first_sum = each.workspace.len().max(last.workspace.len());
    let mut workspace: Vec<usize> =
        (0..first_sum).map(|index| scratch(each, index).max(scratch(last, index))).collect();
    let mut dispatches = Vec::new();
    for (part, first) in (0..batch).step_by(count).enumerate() {
        let images = Images { first, count: count.min(batch - first) };
        let of_part = |&binding: &Binding| match binding {
            Binding::Input(index) if by_image.inputs().contains(&index) => Binding::InputImages(index, images),
            Binding::Output if by_image.is_sum() => Binding::Workspace(first_sum + part),
            Binding::Output => Binding::OutputImages(images),
            other => other,
        };
        let candidate = if images.count == count { each } else { last };
        dispatches.extend(candidate.dispatches.iter().map(|dispatch| Dispatch {
            bindings: dispatch.bindings.iter().map(of_part).collect(),
            ..dispatch.clone()
        }));
    }
    if by_image.is_sum() {
        let parts = batch.div_ceil(count);
        // The sum of each, then those of the first two, three and so on but for all.
        workspace.extend(vec![output.shape.elements(); 2 * parts - 2]);
        let mut sum = Binding::Workspace(first_sum);
        for part in 1..parts {
            let more = Binding::Workspace(first_sum + parts + part - 1);
            let total = if part + 1 == parts { Binding::Output } else { more };
            let bindings = vec![sum, Binding::Workspace(first_sum + part), total];
            dispatches.extend(elementwise(kernel!("add/forward"), bindings, output, device).dispatches);
            sum = total;
        }
    }
    Candidate { dispatches, workspace }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Choices, DeviceChoice, Gpu, Limits, MemoryPlan, PlanOptions};
    use crate::models::{Training, UNet};
    use crate::op::{Case, Fill};
    use crate::ops::REGISTRY;
    use crate::selftest::{Trial, candidates as offered, check_case};
    use std::collections::BTreeMap;

    fn takes_some(dispatch: &Dispatch) -> bool {
        dispatch.bindings.iter().any(|binding| matches!(binding, Binding::InputImages(..) | Binding::OutputImages(_)))
    }

    /// The types of its inputs, and the bytes of its largest tensor.
    fn types(case: &Case) -> (Vec<TensorType>, u64) {
        let types: Vec<TensorType> = case.inputs.iter().map(|(tensor, _)| tensor.clone()).collect();
        let output = case.op.output(&types).unwrap();
        let bytes = types.iter().chain([&output]).map(TensorType::size_bytes).max().unwrap_or(0);
        (types, bytes)
    }

    /// Of each op that can, its smallest case of several images, as one of 1024.
    fn cases() -> Vec<Case> {
        let mut smallest: BTreeMap<&str, Case> = BTreeMap::new();
        for mut case in REGISTRY.iter().flat_map(|entry| (entry.cases)().unwrap()) {
            let (inputs, bytes) = types(&case);
            let sensible = (64..1 << 14).contains(&bytes);
            if batch(case.op.as_ref(), &inputs).is_none() || case.stores_half() || !sensible {
                continue;
            }
            for &index in case.op.by_image().inputs() {
                let (tensor, _): &mut (TensorType, Fill) = &mut case.inputs[index];
                *tensor = tensor.with_extents([&[1024], &tensor.shape.extents()[1..]].concat()).unwrap();
            }
            let least = smallest.entry(case.op.name()).or_insert_with(|| case.clone());
            if types(&case).1 < types(least).1 {
                *least = case;
            }
        }
        smallest.into_values().collect()
    }

    #[test]
    fn every_op_that_can_equals_its_reference_some_images_at_a_time() {
        let gpu = pollster::block_on(Gpu::choose_within(&DeviceChoice::Auto, Limits::WebGpu)).unwrap().unwrap();
        let cases = cases();
        assert_eq!(cases.len(), 29, "{:?}", cases.iter().map(|case| case.op.name()).collect::<Vec<_>>());
        for case in cases {
            // What has more than eight pieces cannot be bound.
            let piece = (types(&case).1 / 9).next_multiple_of(STORAGE_ALIGNMENT);
            let gpu = gpu.clone().with_largest_binding(piece + 256);
            let plan = Trial::new(&case, 1).unwrap().plan(&gpu, PlanOptions::default()).unwrap();
            let dispatches = plan.memory().candidates.iter().flatten().flat_map(|candidate| &candidate.dispatches);
            assert!(dispatches.filter(|dispatch| takes_some(dispatch)).count() > 1, "{}", case.op.name());
            for candidate in 0..offered(&gpu, &case).unwrap().len() {
                check_case(&gpu, &case, candidate, 1).unwrap();
            }
        }
    }

    #[test]
    fn batches_of_the_papers_network_are_bound_by_any_browser() {
        for batch in [1, 4, 10] {
            let step = UNet::default().build(batch, [572; 2]).unwrap().training_step(&Training::default()).unwrap();
            let (graph, device) = (step.graph.fused(), DeviceProfile::PORTABLE);
            let memory = MemoryPlan::new(&graph, &device, &Choices::default(), false).unwrap();
            let mut split = 0;
            for (node, candidate) in memory.candidates.iter().enumerate() {
                for dispatch in candidate.iter().flat_map(|candidate| &candidate.dispatches) {
                    let buffers = memory.buffers(&graph, node, dispatch);
                    assert!(buffers <= 8, "{buffers} of {} for {}", dispatch.kernel.path, graph.nodes()[node].name);
                    split += usize::from(takes_some(dispatch));
                }
            }
            assert_eq!(split > 0, batch > 3, "batch {batch}");
        }
    }
}
