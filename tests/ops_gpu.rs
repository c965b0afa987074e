//! Every candidate of every case of every op equals the reference on a device: derived bounds, guards, NaN-filled memory, the same
//! bits twice, and again with tensors in pieces. Without an adapter these tests fail and say how to get one.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{bits, gpu};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::successors;
use tilewise::array::Array;
use tilewise::error::Error;
use tilewise::gpu::{Gpu, Limits, Plan, PlanOptions};
use tilewise::graph::Graph;
use tilewise::op::{Case, DeviceProfile};
use tilewise::ops::{Conv2d, REGISTRY};
use tilewise::progress::unwatched;
use tilewise::selftest::{self, KernelReport};
use tilewise::shape::TensorType;

/// What the kernels that a device is offered did, all of which must hold.
fn reports(gpu: &Gpu) -> Vec<KernelReport> {
    let reports = selftest::run(gpu, 1, &mut unwatched).unwrap_or_else(|error| panic!("{error}"));
    let failures: Vec<String> = reports.iter().flat_map(|report| report.failures.clone()).collect();
    assert!(failures.is_empty(), "on {}:\n{}", gpu.adapter(), failures.join("\n"));
    assert!(reports.len() >= REGISTRY.len(), "every op has a kernel that ran");
    assert!(reports.iter().all(|report| report.cases > 0 && report.worst <= 1.0));
    reports
}

#[test]
fn every_kernel_equals_its_reference() {
    reports(&gpu(Limits::Adapter));
}

/// What GPUs get in place of what suits a CPU: other sizes of workgroups, tiles and strips.
#[test]
fn every_kernel_equals_its_reference_as_hardware_runs_it() {
    let gpu = gpu(Limits::Adapter);
    if gpu.profile().software {
        reports(&gpu.as_hardware());
    }
}

/// A device without what is experimental is the same in all else.
#[test]
fn what_is_experimental_can_be_left_off() {
    let (all, stable) = (gpu(Limits::Adapter), gpu(Limits::Stable));
    assert_eq!(*stable.profile(), DeviceProfile { matrix_side: None, ..*all.profile() });
    assert_eq!(stable.adapter().matrix_side, None);
}

#[test]
fn every_kernel_that_any_browser_can_run_equals_its_reference() {
    let gpu = gpu(Limits::WebGpu);
    let adapter = gpu.adapter();
    assert_eq!(
        (adapter.max_binding_bytes, adapter.storage_buffers, adapter.workgroup_memory_bytes),
        (128 << 20, 8, 16 << 10)
    );
    assert!(adapter.subgroup_size.is_none() && !adapter.f16 && !gpu.profile().int64);
    let reports = reports(&gpu);
    let others = ["subgroup", "matrix"].map(|what| reports.iter().filter(move |report| report.kernel.contains(what)));
    let others = others.into_iter().flatten();
    assert_eq!(others.count(), 0, "kernels that need more are not offered");
}

/// A case of which a candidate is checked with its largest tensor in pieces of so many bytes.
struct InPieces {
    case: Case,
    candidate: usize,
    kernels: BTreeSet<&'static str>,
    largest: u64,
    piece: u64,
}

/// Every case that the device can run, with the kernels of each candidate.
fn kernels(gpu: &Gpu) -> Vec<(Case, usize, BTreeSet<&'static str>)> {
    let cases = REGISTRY.iter().flat_map(|entry| (entry.cases)().unwrap());
    let cases = cases.filter(|case| gpu.profile().f16 || !case.stores_half());
    let candidates = |case: Case| {
        let candidates = selftest::candidates(gpu, &case).unwrap().into_iter().enumerate();
        let kernels = candidates.map(|(candidate, dispatches)| {
            (case.clone(), candidate, dispatches.iter().map(|dispatch| dispatch.kernel.path).collect())
        });
        kernels.collect::<Vec<_>>()
    };
    cases.flat_map(candidates).collect()
}

/// Those of which a tensor can be in two or three pieces.
fn in_pieces(gpu: &Gpu) -> Vec<InPieces> {
    let mut found = Vec::new();
    for (case, candidate, kernels) in kernels(gpu) {
        let types: Vec<_> = case.inputs.iter().map(|(tensor_type, _)| tensor_type.clone()).collect();
        let output = case.op.output(&types).unwrap();
        let largest = types.iter().chain([&output]).map(TensorType::size_bytes).max().unwrap();
        // Kernels are compiled for the places where pieces begin; cases share them where these are the same.
        let piece = (largest / 3).next_power_of_two().max(256);
        if largest > piece {
            found.push(InPieces { case, candidate, kernels, largest, piece });
        }
    }
    found
}

/// That it gives the bits that it gives otherwise, within guards behind every piece. Where the device has too few bindings for so many pieces,
/// they are larger, and fewer.
fn check_in_pieces(gpu: &Gpu, InPieces { case, candidate, piece, largest, .. }: &InPieces) {
    let name = format!("{} ({}), candidate {candidate}", case.op.name(), case.name);
    let run = |gpu: &Gpu, guarded| {
        let options = PlanOptions { candidate: Some(*candidate), guarded, ..PlanOptions::default() };
        let plan = selftest::plan_case(gpu, case, 1, options)?;
        plan.run()?;
        Ok::<_, Error>(plan)
    };
    let whole = run(gpu, false).unwrap_or_else(|error| panic!("{name}: {error}"));
    // Scratch space may be many times as large.
    let scratch = *whole.memory().transient.iter().max().unwrap_or(&0);
    let smallest = *piece.max(&(scratch / 8).next_power_of_two());
    let mut pieces =
        successors(Some(smallest), |piece| Some(piece * 2)).take_while(|piece| piece < largest.max(&scratch));
    let cut = pieces.find_map(|piece| match run(&gpu.clone().with_largest_binding(piece + 256), true) {
        Err(error) if error.to_string().contains("storage buffers per kernel") => None,
        plan => Some(plan.unwrap_or_else(|error| panic!("{name}: {error}"))),
    });
    let cut = cut.unwrap_or_else(|| panic!("{name}: no tensor can be in pieces on {}", gpu.adapter()));
    assert_eq!(bits(&cut), bits(&whole), "{name}");
    assert_eq!(cut.broken_guards().unwrap(), Vec::<String>::new(), "{name}");
}

/// Checks cases on all cores. Nearly all of the time goes into compiling, which a software driver does in the one thread of a device's queue: so
/// those that share kernels have a device of their own.
fn check_all_in_pieces(gpu: &Gpu, cases: Vec<InPieces>) {
    let mut groups: BTreeMap<_, Vec<InPieces>> = BTreeMap::new();
    for case in cases {
        groups.entry((case.kernels.clone(), case.piece)).or_default().push(case);
    }
    groups.into_par_iter().for_each(|(_, cases)| {
        let gpu = gpu.reopen().unwrap();
        for case in cases {
            check_in_pieces(&gpu, &case);
        }
    });
}

/// Each kernel by its smallest case: compiling kernels for pieces takes a software driver long.
#[test]
fn every_kernel_gives_the_same_bits_with_tensors_in_pieces() {
    let gpu = gpu(Limits::Adapter);
    let mut cases = in_pieces(&gpu);
    cases.sort_by_key(|case| case.largest);
    let mut seen = BTreeSet::new();
    cases.retain(|case| {
        let before = seen.len();
        seen.extend(&case.kernels);
        seen.len() > before
    });
    let all: BTreeSet<&str> = kernels(&gpu).into_iter().flat_map(|(.., kernels)| kernels).collect();
    let others: Vec<&str> = all.difference(&seen).copied().collect();
    assert_eq!(others, ["loss_scale/forward", "loss_scale/next"], "of a few numbers, and not in pieces");
    check_all_in_pieces(&gpu, cases);
}

/// Compiles some 1,800 kernels, Winograd's with their scratch space in up to eight pieces for seconds each on a software driver: tens of minutes.
/// Mesa keeps what it has compiled for the next time, and with `GALLIVM_PERF=nopt` llvmpipe takes two thirds of the time.
#[test]
#[ignore = "long"]
fn every_case_gives_the_same_bits_with_tensors_in_pieces() {
    let gpu = gpu(Limits::Adapter);
    check_all_in_pieces(&gpu, in_pieces(&gpu));
}

/// For every pixel the nearest of sixteen numbers, as the largest of their scores `2 c x - c²`, which are a tensor of `64 h w` bytes.
fn nearest_of_sixteen(gpu: &Gpu, [height, width]: [usize; 2]) {
    let mut graph = Graph::new();
    let mut input = |name: &str, extents: &[usize]| graph.input(name, TensorType::f32(extents).unwrap());
    let (x, weight, bias) = (input("x", &[1, height, width, 1]), input("weight", &[1, 1, 1, 16]), input("bias", &[16]));
    let scores = graph.conv2d("scores", x, weight, Some(bias), Conv2d::default()).unwrap();
    let nearest = graph.argmax("nearest", scores).unwrap();
    graph.mark_output("nearest", nearest).unwrap();
    let plan = Plan::new(gpu, &graph, PlanOptions::default()).unwrap();
    assert!(plan.memory().transient.iter().sum::<u64>() >= 64 * (height * width) as u64);
    assert!(plan.memory().transient.iter().max() <= Some(&gpu.adapter().max_binding_bytes));
    // Multiplied by an odd number that is nearly the golden ratio's share of 2³², places differ where their low bits agree.
    let number = |pixel: usize| (pixel as u32).wrapping_mul(0x9e37_79b9) >> 28;
    let write = |node, of: &dyn Fn(usize) -> f32| {
        let shape = graph.shape(node).clone();
        let data = (0..shape.elements()).map(of).collect();
        plan.write(node, &Array { shape, data }.into()).unwrap();
    };
    write(x, &|pixel| number(pixel) as f32);
    write(weight, &|c| 2.0 * c as f32);
    write(bias, &|c| -((c * c) as f32));
    plan.run().unwrap();
    let found = plan.read(nearest).unwrap();
    let wrong = found.uint().data.iter().enumerate().find(|&(pixel, &found)| found != number(pixel));
    assert_eq!(wrong, None);
}

#[test]
fn a_tensor_past_the_bindings_of_a_browser_is_computed_with() {
    let side = 1520;
    let gpu = gpu(Limits::WebGpu);
    assert!(64 * (side * side) as u64 > gpu.adapter().max_binding_bytes);
    nearest_of_sixteen(&gpu, [side; 2]);
}

/// Takes 6 GB of memory.
#[test]
#[ignore = "large"]
fn indices_past_two_to_the_31st_byte_are_right() {
    nearest_of_sixteen(&gpu(Limits::Adapter), [8192, 4100]);
}
