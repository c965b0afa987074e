//! The proof of ops whose kernels run without bounds checks: each of their kernels, run with each of its indices looked at, has none that is out of
//! bounds, at the edges of tiles and tensors and at shapes drawn at random, nor uses memory of its workgroup's before it writes it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{bits, gpu};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tilewise::array::{Real, Tensor};
use tilewise::bench::{ladder::LADDERS, roof};
use tilewise::gpu::{Gpu, Limits, PlanOptions};
use tilewise::op::{AnyOp, Binding, Bound, Candidate, Case, DeviceProfile, Dispatch, Fill, Kernel, Op};
use tilewise::ops::{
    Conv2d, Conv2dGradInput, Conv2dGradWeight, Conv2dRelu, ConvTranspose2d, ConvTranspose2dGradInput,
    ConvTranspose2dGradWeight, REGISTRY, ThenReluGrad,
};
use tilewise::random::Random;
use tilewise::selftest;
use tilewise::shape::TensorType;

/// Looks at the indices of each candidate of these cases. Nearly all of the time goes into compiling, which a software
/// driver does in the one thread of a device's queue: so each op has a device of its own.
fn look_at(gpu: &Gpu, cases: &[Case]) {
    let mut ops: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
    for case in cases {
        ops.entry(case.op.name()).or_default().push(case);
    }
    ops.into_par_iter().for_each(|(_, cases)| {
        let gpu = gpu.reopen().unwrap();
        for case in cases {
            let candidates = selftest::candidates(&gpu, case).unwrap().len();
            assert!(candidates > 0, "{} ({})", case.op.name(), case.name);
            for candidate in 0..candidates {
                selftest::check_indices(&gpu, case, candidate, 1).unwrap_or_else(|error| panic!("{error}"));
            }
        }
    });
}

/// The cases of ops that have a proof, and of which the device can run each.
fn proved(gpu: &Gpu) -> Vec<Case> {
    let entries = REGISTRY.iter().chain(LADDERS.iter().map(|ladder| &ladder.entry));
    let cases = entries.flat_map(|entry| (entry.cases)().unwrap()).chain(roof::cases().unwrap());
    cases.filter(|case| case.op.proof().is_some() && (gpu.profile().f16 || !case.stores_half())).collect()
}

#[test]
fn no_index_is_out_of_bounds() {
    let gpu = gpu(Limits::Adapter);
    look_at(&gpu, &proved(&gpu));
}

/// As kernels are launched on what is no CPU, where this one is.
#[test]
fn no_index_is_out_of_bounds_on_hardware() {
    let gpu = gpu(Limits::Adapter).as_hardware();
    look_at(&gpu, &proved(&gpu));
}

#[test]
fn no_index_of_kernels_that_any_browser_can_run_is_out_of_bounds() {
    let gpu = gpu(Limits::WebGpu);
    look_at(&gpu, &proved(&gpu));
}

/// Convolutions and transposed convolutions of any kind with all of their gradients.
fn drawn(random: &mut Random, count: usize) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for number in 0..count {
        let mut up_to = |most: usize| 1 + random.below(most as u32) as usize;
        let kernel_size = [up_to(4), up_to(4)];
        let stride = [up_to(3), up_to(3)];
        let padding = [up_to(kernel_size[0]) - 1, up_to(kernel_size[1]) - 1];
        let [rows, columns] = [kernel_size[0] + up_to(12), kernel_size[1] + up_to(12)];
        // Kernels take single channels, pairs, and fours.
        let each = [1, 2, 4][number % 3];
        let (batch, channels, out_channels) = (up_to(2), each * up_to(18), each * up_to(18));
        let filled = |extents: &[usize]| (TensorType::f32(extents).unwrap(), Fill::Normal(1.0));
        let weight = filled(&[kernel_size[0], kernel_size[1], channels, out_channels]);
        let (x, bias) = (filled(&[batch, rows, columns, channels]), filled(&[out_channels]));
        let y = |op: &dyn AnyOp| (op.output(&[x.0.clone(), weight.0.clone()]).unwrap(), Fill::Normal(1.0));
        let mask = (x.0.clone(), Fill::Ties);
        let mut push = |op: Arc<dyn AnyOp>, inputs: &[&(TensorType, Fill)]| {
            let name = format!("{kernel_size:?} elements, stride {stride:?}, padding {padding:?}");
            cases.push(Case { name, op, inputs: inputs.iter().map(|&input| input.clone()).collect() });
        };
        let conv = Conv2d { stride, padding };
        let grad_output = y(&conv);
        push(Arc::new(conv), &[&x, &weight]);
        push(Arc::new(Conv2dRelu(conv)), &[&x, &weight, &bias]);
        let grad_input = Conv2dGradInput { conv, in_extents: [rows, columns] };
        push(Arc::new(grad_input), &[&weight, &grad_output]);
        push(Arc::new(ThenReluGrad(grad_input)), &[&weight, &grad_output, &mask]);
        push(Arc::new(Conv2dGradWeight { conv, kernel_size }), &[&x, &grad_output]);
        let conv = ConvTranspose2d { stride, padding };
        let grad_output = y(&conv);
        push(Arc::new(conv), &[&x, &weight, &bias]);
        let grad_input = ConvTranspose2dGradInput { conv };
        push(Arc::new(grad_input), &[&weight, &grad_output]);
        push(Arc::new(ThenReluGrad(grad_input)), &[&weight, &grad_output, &mask]);
        push(Arc::new(ConvTranspose2dGradWeight { conv, kernel_size }), &[&x, &grad_output]);
    }
    cases
}

#[test]
fn no_index_is_out_of_bounds_at_shapes_drawn_at_random() {
    let cases = drawn(&mut Random::new(7, 0), 4);
    look_at(&gpu(Limits::Adapter), &cases);
}

/// Each kernel by its smallest case, with what is large in pieces, where a function of its text's knows which piece an element is in.
#[test]
fn no_index_into_pieces_is_out_of_bounds() {
    let gpu = gpu(Limits::Adapter);
    let bytes = |case: &Case| case.inputs.iter().map(|(tensor_type, _)| tensor_type.size_bytes()).max().unwrap();
    let mut cases = proved(&gpu);
    cases.retain(|case| bytes(case) > 256);
    cases.sort_by_key(bytes);
    let (mut seen, mut checks) = (BTreeSet::new(), Vec::new());
    for case in &cases {
        for (candidate, dispatches) in selftest::candidates(&gpu, case).unwrap().into_iter().enumerate() {
            let before = seen.len();
            seen.extend(dispatches.iter().map(|dispatch| dispatch.kernel.path));
            if seen.len() > before {
                checks.push((case, candidate));
            }
        }
    }
    checks.into_par_iter().for_each(|(case, candidate)| {
        let largest = (bytes(case) / 2).next_multiple_of(256);
        let gpu = gpu.reopen().unwrap().with_largest_binding(largest + 256);
        selftest::check_indices(&gpu, case, candidate, 1).unwrap_or_else(|error| panic!("{error}"));
    });
}

/// y = x, by a kernel of its own.
#[derive(Debug)]
struct By(Kernel);

/// It reads an element more and makes nothing of it.
const ONE_TOO_FAR: &str = "struct Params { count: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    if id.x < params.count {
        y[id.x] = select(x[id.x], x[id.x + 1u], id.x + 1u > params.count);
    }
}
";

/// It counts on workgroup memory that is 0 at first.
const UNWRITTEN: &str = "struct Params { count: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;
var<workgroup> last: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(local_invocation_index) lane: u32) {
    if id.x < params.count {
        y[id.x] = x[id.x] + last[lane];
    }
}
";

impl Op for By {
    fn name(&self) -> &'static str {
        "by"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        Ok(inputs[0].clone())
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        vec![inputs[0].clone()]
    }

    fn candidates(&self, _: &[TensorType], output: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        let dispatch = Dispatch {
            kernel: self.0,
            constants: vec![],
            bindings: vec![Binding::Input(0), Binding::Output],
            params: vec![("count", output.shape.elements().into())],
            workgroups: [output.shape.elements().div_ceil(64) as u32, 1, 1],
        };
        vec![dispatch.into()]
    }

    fn flops(&self, _: &[TensorType], _: &TensorType) -> u64 {
        0
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Exact
    }
}

/// Neither an index whose value nothing uses, nor memory that happens to be 0.
#[test]
fn what_nothing_else_sees_is_found_out() {
    let gpu = gpu(Limits::Adapter);
    for (path, source, problem) in [
        ("one_too_far", ONE_TOO_FAR, "has an index out of bounds"),
        ("unwritten", UNWRITTEN, "has a result that is NaN, from memory that it has not written"),
    ] {
        let inputs = vec![(TensorType::f32([100]).unwrap(), Fill::Normal(1.0))];
        let case = Case { name: "of 100".into(), op: Arc::new(By(Kernel { path, source })), inputs };
        selftest::check_case(&gpu, &case, 0, 1).unwrap();
        let message = selftest::check_indices(&gpu, &case, 0, 1).unwrap_err().to_string();
        assert!(message.ends_with(&format!("{path} 2×1×1 {problem}")), "{message}");
    }
}

/// The ladder's own kernels have 3 × 3 elements written in, and its op takes others, too.
#[test]
fn no_kernel_is_launched_that_other_shapes_would_take_out_of_bounds() {
    let gpu = gpu(Limits::Adapter);
    let conv2d = LADDERS.iter().find(|ladder| ladder.name == "conv2d").unwrap();
    let mut case = (conv2d.entry.cases)().unwrap().swap_remove(0);
    let rungs = |case: &Case| {
        let dispatches = selftest::candidates(&gpu, case).unwrap().concat();
        dispatches.iter().filter(|dispatch| dispatch.kernel.path.starts_with("ladder/")).count()
    };
    assert!(rungs(&case) > 3);
    for (x, weight) in [([1, 5, 5, 1], [5, 5, 1, 1]), ([1, 3, 3, 1], [1, 1, 1, 1]), ([1, 1, 1, 1], [1, 1, 1, 1])] {
        case.inputs = [x, weight].map(|extents| (TensorType::f32(extents).unwrap(), Fill::Normal(1.0))).to_vec();
        assert_eq!(rungs(&case), 0, "{weight:?}");
    }
}

#[test]
fn a_device_can_have_its_checks_back() {
    let gpu = gpu(Limits::Adapter);
    let case = drawn(&mut Random::new(1, 0), 1).swap_remove(0);
    let bits = |gpu: &Gpu| {
        let plan = selftest::plan_case(gpu, &case, 1, PlanOptions::default()).unwrap();
        plan.run().unwrap();
        bits(&plan)
    };
    assert_eq!(bits(&gpu), bits(&gpu.clone().with_bounds_checks()));
}
