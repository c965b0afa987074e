//! Ops whose tensors are in more pieces than a device can bind at once, computed some images at a time.
//!
//! A kernel sees what is larger than a binding in pieces, each through a binding of its own, of which it has few: at WebGPU's defaults eight, of
//! 128 MiB each. Where an op computes each image of its result from the like images of its inputs, its kernels for a smaller batch do as well, one
//! batch after the other. Where it sums over all images, they give the sums of each batch, which are added in their order.

use crate::kernel;
use crate::op::{AnyOp, Binding, ByImage, Candidate, DeviceProfile, Dispatch, Images};
use crate::ops::elementwise;
use crate::shape::TensorType;

/// Bytes of the largest elements that kernels index: none of them may lie across the beginning of an image that a part begins with.
const LARGEST_ELEMENT: u64 = 16;

/// The images of an op's result, or of what it sums over; none if it cannot take some of them at a time.
pub(crate) fn batch(op: &dyn AnyOp, inputs: &[TensorType], output: &TensorType) -> Option<usize> {
    let mut extents = parted(op.by_image(), inputs, output).map(|tensor| tensor.shape.extents());
    let first = extents.next()?;
    (first.len() > 1 && extents.all(|extents| extents.first() == first.first())).then(|| first[0])
}

/// The tensors of which parts are taken.
fn parted<'a>(
    by_image: ByImage,
    inputs: &'a [TensorType],
    output: &'a TensorType,
) -> impl Iterator<Item = &'a TensorType> {
    let result = matches!(by_image, ByImage::Alone(_)).then_some(output);
    by_image.inputs().iter().filter_map(|&index| inputs.get(index)).chain(result)
}

/// [`AnyOp::offered`], so many images at a time, and in the end what is left of the batch; none where the kernels could not index such parts.
pub(crate) fn candidates(
    op: &dyn AnyOp,
    inputs: &[TensorType],
    output: &TensorType,
    device: &DeviceProfile,
    count: usize,
) -> Vec<Candidate> {
    let (Some(batch), by_image) = (batch(op, inputs, output), op.by_image()) else { return Vec::new() };
    let part = Images { first: 0, count };
    if !parted(by_image, inputs, output).all(|tensor| part.bytes_of(tensor).end.is_multiple_of(LARGEST_ELEMENT)) {
        return Vec::new();
    }
    let offered = |count: usize| {
        let some_of = |tensor: &TensorType| tensor.with_extents([&[count], &tensor.shape.extents()[1..]].concat());
        let has_images = |index: usize| by_image.inputs().contains(&index);
        let type_of = |(index, input)| if has_images(index) { some_of(input) } else { Ok(input.clone()) };
        let types = inputs.iter().enumerate().map(type_of).collect::<Result<Vec<_>, _>>().ok()?;
        let result = if by_image.is_sum() { output.clone() } else { some_of(output).ok()? };
        let mut offered = op.offered(&types, &result, device);
        // A part may lie across two pieces, into which there are no pointers.
        offered.retain(|candidate| !candidate.dispatches.iter().any(|dispatch| dispatch.kernel.takes_pointers()));
        Some(offered)
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
    let scratches = each.workspace.len().max(last.workspace.len());
    let mut workspace: Vec<usize> =
        (0..scratches).map(|index| scratch(each, index).max(scratch(last, index))).collect();
    // The sum over the images so far, in one of two, and that over those of a part.
    let (sums, sum_of_part) = ([scratches, scratches + 1].map(Binding::Workspace), Binding::Workspace(scratches + 2));
    if by_image.is_sum() {
        workspace.extend([output.shape.elements(); 3]);
    }
    let mut dispatches = Vec::new();
    for (part, first) in (0..batch).step_by(count).enumerate() {
        let images = Images { first, count: count.min(batch - first) };
        let sum = if part == 0 { sums[0] } else { sum_of_part };
        let of_part = |&binding: &Binding| match binding {
            Binding::Input(index) if by_image.inputs().contains(&index) => Binding::InputImages(index, images),
            Binding::Output if by_image.is_sum() => sum,
            Binding::Output => Binding::OutputImages(images),
            other => other,
        };
        let candidate = if images.count == count { each } else { last };
        dispatches.extend(candidate.dispatches.iter().map(|dispatch| Dispatch {
            bindings: dispatch.bindings.iter().map(of_part).collect(),
            ..dispatch.clone()
        }));
        if by_image.is_sum() && part > 0 {
            let total = if first + count >= batch { Binding::Output } else { sums[part % 2] };
            let bindings = vec![sums[(part - 1) % 2], sum_of_part, total];
            dispatches.extend(elementwise(kernel!("add/forward"), bindings, output, device).dispatches);
        }
    }
    Candidate { dispatches, workspace }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Choices, DeviceChoice, Gpu, Limits, MemoryPlan, PlanOptions};
    use crate::models::{Training, UNet};
    use crate::op::{Case, Fill, STORAGE_ALIGNMENT};
    use crate::ops::REGISTRY;
    use crate::selftest::{Trial, candidates as offered, check_case};
    use std::collections::{BTreeMap, BTreeSet};

    /// The images that each binding takes of more.
    fn images(dispatch: &Dispatch) -> impl Iterator<Item = Images> {
        dispatch.bindings.iter().filter_map(Binding::images)
    }

    /// The types of a case's inputs and result.
    fn types(case: &Case) -> (Vec<TensorType>, TensorType) {
        let inputs: Vec<TensorType> = case.inputs.iter().map(|(tensor, _)| tensor.clone()).collect();
        let output = case.op.output(&inputs).unwrap();
        (inputs, output)
    }

    /// The bytes of its largest tensor.
    fn bytes(case: &Case) -> u64 {
        let (inputs, output) = types(case);
        inputs.iter().chain([&output]).map(TensorType::size_bytes).max().unwrap_or(0)
    }

    /// Of each op that takes some images at a time, its smallest case, as one of 1024.
    fn cases() -> Vec<Case> {
        let mut smallest: BTreeMap<&str, Case> = BTreeMap::new();
        for mut case in REGISTRY.iter().flat_map(|entry| (entry.cases)().unwrap()) {
            let (inputs, output) = types(&case);
            let sensible = (64..1 << 14).contains(&bytes(&case)) && !case.stores_half();
            if batch(case.op.as_ref(), &inputs, &output).is_none() || !sensible {
                continue;
            }
            for &index in case.op.by_image().inputs() {
                let (tensor, _): &mut (TensorType, Fill) = &mut case.inputs[index];
                *tensor = tensor.with_extents([&[1024], &tensor.shape.extents()[1..]].concat()).unwrap();
            }
            let least = smallest.entry(case.op.name()).or_insert_with(|| case.clone());
            if bytes(&case) < bytes(least) {
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
        let mut with_rest = 0;
        for case in cases {
            // What has more than eight pieces cannot be bound.
            let piece = (bytes(&case) / 9).next_multiple_of(STORAGE_ALIGNMENT);
            let gpu = gpu.clone().with_largest_binding(piece + 256);
            let plan = Trial::new(&case, 1).unwrap().plan(&gpu, PlanOptions::default()).unwrap();
            let dispatches = plan.memory().candidates.iter().flatten().flat_map(|candidate| &candidate.dispatches);
            let counts: BTreeSet<usize> = dispatches.flat_map(images).map(|images| images.count).collect();
            assert!(!counts.is_empty(), "{}", case.op.name());
            with_rest += usize::from(counts.len() > 1);
            for candidate in 0..offered(&gpu, &case).unwrap().len() {
                check_case(&gpu, &case, candidate, 1).unwrap();
            }
        }
        assert!(with_rest > 10, "the last part has fewer images: {with_rest}");
    }

    /// Also where the images of a batch do not begin where storage can be bound: one of 828 pixels has 42,849 times 64 bytes.
    #[test]
    fn batches_of_the_papers_network_are_bound_by_any_browser() {
        for (batch, side) in [(1, 572), (10, 572), (4, 828)] {
            let step = UNet::default().build(batch, [side; 2]).unwrap().training_step(&Training::default()).unwrap();
            let (graph, device) = (step.graph.fused(), DeviceProfile::PORTABLE);
            let memory = MemoryPlan::new(&graph, &device, &Choices::default(), false).unwrap();
            let mut parts = 0;
            for (node, candidate) in memory.candidates.iter().enumerate() {
                let Some(candidate) = candidate else { continue };
                assert!(memory.binds(&graph, &device, node, candidate), "{}", graph.nodes()[node].name);
                parts += candidate.dispatches.iter().flat_map(images).count();
            }
            assert_eq!(parts > 0, batch > 1, "batch {batch}");
        }
    }
}
