//! The GPU plan as a whole: a training step against the reference, memory as planned, buffers shared without harm, errors as values.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, SystemTime};
use tilewise::array::{Array, Real, Tensor};
use tilewise::cpu::{banks, evaluate};
use tilewise::executor::{Device, Executor};
use tilewise::fuse::{Fusion, Fusions};
use tilewise::gpu::{Choices, DeviceChoice, Gpu, Limits, MemoryPlan, Plan, PlanOptions};
use tilewise::graph::{Bank, Graph, Init, NodeId};
use tilewise::models::{Training, TrainingStep, UNet, Variant};
use tilewise::op::{Binding, Bound, Candidate, DeviceProfile, Dispatch, Fill, Kernel, Op, Param};
use tilewise::ops::{AdamSettings, Conv2d, CrossEntropySettings, DiceSettings, Reduction, ReluGrad, SgdSettings};
use tilewise::random::Random;
use tilewise::recompute::MemoryBudget;
use tilewise::selftest;
use tilewise::shape::{Shape, TensorType};
use tilewise::{Error, wgpu};

fn gpu() -> Gpu {
    Gpu::any().unwrap_or_else(|error| panic!("{error}"))
}

/// The device, with no more than every browser offers.
fn browser() -> Gpu {
    pollster::block_on(Gpu::choose_within(&DeviceChoice::Auto, Limits::WebGpu)).unwrap().unwrap()
}

const NET: UNet = UNet { variant: Variant::Unet, in_channels: 2, classes: 3, base_channels: 4, depth: 2, dropout: 0.5 };

fn training_step() -> TrainingStep {
    let side = NET.legal_above(NET.shrink() + 8);
    NET.build(2, [side, side + 4]).unwrap().training_step(&Training::default()).unwrap()
}

fn inputs(step: &TrainingStep) -> BTreeMap<NodeId, Tensor<f32>> {
    let mut random = Random::new(5, 0);
    let fills = [
        (step.image, Fill::Normal(1.0)),
        (step.labels, Fill::Labels { classes: 3, ignore: None }),
        (step.weights, Fill::Positive),
        (step.rates, Fill::Constant(0.01)),
    ];
    let generator = step.generator.map(|node| (node, Fill::Bits));
    fills
        .into_iter()
        .chain(generator)
        .map(|(node, fill)| (node, fill.draw(&step.graph.node(node).tensor_type, &mut random)))
        .collect()
}

/// Loss, gradients and parameters after some steps, as bits.
fn train(gpu: &Gpu, step: &TrainingStep, options: PlanOptions, steps: usize) -> Vec<Vec<u32>> {
    let plan = Plan::new(gpu, &step.graph, options).unwrap();
    plan.write_bank(Bank::Parameters, &step.graph.initial_parameters(3)).unwrap();
    for (node, value) in inputs(step) {
        plan.write(node, &value).unwrap();
    }
    let mut losses = Vec::new();
    for _ in 0..steps {
        plan.run().unwrap();
        losses.extend(plan.read(step.loss).unwrap().float().data.iter().map(|loss| loss.to_bits()));
    }
    let mut bits = vec![losses];
    for bank in [Bank::Gradients, Bank::Parameters, Bank::OptimizerState(0)] {
        bits.push(plan.read_bank(bank).unwrap().iter().map(|value| value.to_bits()).collect());
    }
    bits
}

#[test]
fn a_training_step_equals_the_reference() {
    let report = selftest::training_step(&gpu(), 1).unwrap();
    assert!(report.failures.is_empty(), "{}", report.failures.join("\n"));
    assert!(report.cases > 40 && report.worst <= 1.0);
}

#[test]
fn a_profile_has_the_times_and_the_work_of_every_dispatch() {
    let step = training_step();
    let plan = Plan::new(&gpu(), &step.graph, PlanOptions::default()).unwrap();
    let mut profile = plan.profile(1).unwrap();
    assert!(profile.rows.is_sorted_by(|a, b| a.seconds >= b.seconds), "the longest first");
    let (_, forward, _, backward, _) = step.graph.table().totals();
    assert_eq!(profile.rows.iter().map(|row| row.flops).sum::<u64>(), forward + backward);
    assert!(profile.rows.iter().all(|row| row.bytes > 0));
    let total: f64 = profile.rows.iter().map(|row| row.seconds).sum();
    assert!(total > 0.0 && profile.wall_seconds > 0.0);
    assert!(profile.to_string().contains("–"), "no roof was told");
    // A device that does one operation, or moves one byte, in the time of all: each op reaches what it has of either.
    profile.hold_against(&plan, |flops, bytes| total * flops.max(bytes) as f64);
    let shares = profile.rows.iter().map(|row| row.share_of_roof.unwrap());
    assert!(shares.clone().all(|share| share >= 1.0), "none has less than an operation or a byte: {shares:?}");
    let trace = profile.trace("a device");
    assert!(trace["traceEvents"][1]["args"]["share_of_roof"].as_f64().unwrap() >= 1.0);
    let events = trace["traceEvents"].as_array().unwrap();
    assert_eq!((events.len(), &events[0]["args"]["name"]), (profile.rows.len() + 1, &"a device".into()));
    let first = events[1..].iter().min_by(|a, b| a["ts"].as_f64().unwrap().total_cmp(&b["ts"].as_f64().unwrap()));
    assert_eq!(
        (first.unwrap()["name"].as_str(), first.unwrap()["ts"].as_f64()),
        (Some("encoder0.conv1.relu"), Some(0.0))
    );
    let times: f64 = events[1..].iter().map(|event| event["dur"].as_f64().unwrap()).sum();
    assert!((times - 1e6 * total).abs() < 1e-6 * times, "one run, whose times are the medians");
    let text = profile.to_string();
    assert!(text.contains("encoder0.conv1.relu conv2d/") && text.contains("sgd/update (1)"), "{text}");
    // Each dispatch in a submit of its own, convolutions in several.
    let longest_submit = Duration::from_nanos(1);
    let plan = Plan::new(&gpu(), &step.graph, PlanOptions { longest_submit, ..PlanOptions::default() }).unwrap();
    let cut = plan.profile(2).unwrap();
    assert_eq!(cut.rows.len(), profile.rows.len());
    assert!(cut.rows.iter().all(|row| row.laps.len() == 2 && row.seconds > 0.0), "{cut}");
}

#[test]
fn sharing_buffers_changes_nothing_and_runs_repeat_bit_for_bit() {
    let (gpu, step) = (gpu(), training_step());
    let shared = train(&gpu, &step, PlanOptions::default(), 3);
    assert_eq!(shared, train(&gpu, &step, PlanOptions::default(), 3), "the same run twice");
    let apart = PlanOptions { guarded: true, ..PlanOptions::default() };
    assert_eq!(shared, train(&gpu, &step, apart, 3), "every tensor in a buffer of its own, filled with NaN");
}

#[test]
fn runs_in_many_submits_give_the_same_bits() {
    let (gpu, step) = (gpu(), training_step());
    let whole = train(&gpu, &step, PlanOptions::default(), 3);
    // The first run measures, the others are cut by what it took: as finely as can be, convolutions by every workgroup, and more coarsely.
    for longest_submit in [Duration::from_nanos(1), Duration::from_micros(200)] {
        let cut = PlanOptions { longest_submit, ..PlanOptions::default() };
        assert_eq!(whole, train(&gpu, &step, cut, 3), "{longest_submit:?}");
    }
}

#[test]
fn fused_ops_give_the_bits_of_ops_with_kernels_of_their_own() {
    let (gpu, step) = (gpu(), training_step());
    let by = |fusions| PlanOptions { fusions, ..PlanOptions::default() };
    let unfused = by(Fusions::NONE);
    let expected = train(&gpu, &step, unfused, 3);
    let one_less = [Fusion::Relu, Fusion::ReluGrad, Fusion::Pooling, Fusion::Concat, Fusion::Loss]
        .map(|fusion| by(Fusions::ALL.without(fusion)));
    for options in [PlanOptions::default(), by(Fusions::ALL)].into_iter().chain(one_less) {
        assert_eq!(train(&gpu, &step, options, 3), expected, "{options:?}");
    }
    let dispatches = |options| Plan::new(&gpu, &step.graph, options).unwrap().profile(1).unwrap().rows.len();
    // Ten ReLUs, seven gradients of one behind a convolution's, three launches where one level ends (dropout keeps the rest apart), two
    // concatenations and the halves of their gradients, and the gradient of the loss.
    assert_eq!(dispatches(unfused) - dispatches(by(Fusions::ALL)), 27);
    let memory = |graph| MemoryPlan::new(graph, gpu.profile(), &Choices::default(), false).unwrap().total_bytes();
    assert!(memory(&step.graph.fused()) < memory(&step.graph), "fusion saves memory");
}

#[test]
fn tensors_in_pieces_give_the_same_bits() {
    let gpu = gpu();
    for variant in [Variant::Unet, Variant::Milesial] {
        let dropout = if variant == Variant::Unet { 0.5 } else { 0.0 };
        let net = UNet { variant, base_channels: 8, depth: 1, dropout, ..NET };
        let side = net.legal_above(net.shrink() + 8);
        let step = net.build(1, [side; 2]).unwrap().training_step(&Training::default()).unwrap();
        // Concatenations whose parts are in pieces are made.
        let options = PlanOptions { fusions: Fusions::ALL.without(Fusion::Concat), ..PlanOptions::default() };
        let fused = step.graph.fused_by(options.fusions);
        let memory = |gpu: &Gpu| MemoryPlan::new(&fused, gpu.profile(), &Choices::default(), false).unwrap();
        let whole = memory(&gpu);
        let largest = whole.transient.iter().max().unwrap().min(&whole.bank) / 2 + 256;
        let small = gpu.clone().with_largest_binding(largest);
        let cut = memory(&small);
        assert!(cut.transient.iter().max() <= Some(&largest) && cut.unshared == whole.unshared);
        assert_eq!(cut.total_bytes(), Plan::new(&small, &step.graph, options).unwrap().allocated_bytes());
        let expected = train(&gpu, &step, PlanOptions::default(), 3);
        assert_eq!(train(&small, &step, PlanOptions::default(), 3), expected, "{variant}");
    }
}

#[test]
fn a_tensor_in_pieces_is_written_and_read_but_has_no_slice() {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorType::f32([3000]).unwrap());
    let y = graph.relu("y", x).unwrap();
    let z = graph.constant("z", Shape::new([3000]).unwrap(), 2.0);
    let sum = graph.add("sum", y, z).unwrap();
    graph.mark_output("sum", sum).unwrap();
    let plan = Plan::new(&gpu().with_largest_binding(5000), &graph, PlanOptions::default()).unwrap();
    // 4864 is the largest multiple of 256 in 5000.
    assert_eq!(plan.memory().inputs, [4864, 4864, 2272, 4864, 4864, 2272]);
    let value = |of: &dyn Fn(f32) -> f32| {
        Tensor::Float(Array {
            shape: Shape::new([3000]).unwrap(),
            data: (0..3000).map(|i| of(i as f32 - 1500.0)).collect(),
        })
    };
    plan.write(x, &value(&|x| x)).unwrap();
    plan.run().unwrap();
    assert_eq!(plan.read(sum).unwrap(), value(&|x| x.max(0.0) + 2.0));
    assert_eq!(plan.gpu().block_on(plan.read_async(sum)).unwrap(), value(&|x| x.max(0.0) + 2.0));
    for node in [x, sum] {
        let message = plan.slice(node).unwrap_err().to_string();
        assert!(message.contains("3 pieces of up to 4864 bytes") && message.contains("Plan::write"), "{message}");
    }
}

#[test]
fn planned_bytes_are_known_without_a_device_and_equal_what_is_allocated() {
    let (gpu, step) = (gpu(), training_step());
    let planned = MemoryPlan::new(&step.graph.fused(), gpu.profile(), &Choices::default(), false).unwrap();
    let plan = Plan::new(&gpu, &step.graph, PlanOptions::default()).unwrap();
    assert_eq!(planned.total_bytes(), plan.allocated_bytes());
    let unfused = MemoryPlan::new(&step.graph, gpu.profile(), &Choices::default(), false).unwrap();
    assert!(unfused.transient.iter().sum::<u64>() < unfused.unshared / 2, "lifetimes let buffers be shared: {unfused}");
}

#[test]
fn the_papers_training_step_fits_its_budget() {
    let step = UNet::default().build(1, [572; 2]).unwrap().training_step(&Training::default()).unwrap();
    // As lavapipe is: concatenations are made, and Winograd's sums have scratch space.
    let software = DeviceProfile { software: true, subgroup_size: Some(8), int64: true, ..DeviceProfile::PORTABLE };
    for device in [DeviceProfile::PORTABLE, software] {
        let memory = MemoryPlan::new(&step.graph.fused(), &device, &Choices::default(), false).unwrap();
        assert!(memory.total_bytes() < 13 * (1 << 30) / 10, "{device:?}: {memory}");
    }
}

/// Everything that may be computed again is, dropout and the moments of batch norms with it.
#[test]
fn what_is_computed_again_is_the_same_to_the_bit() {
    let gpu = gpu();
    for variant in [Variant::Unet, Variant::Milesial] {
        let dropout = if variant == Variant::Unet { 0.5 } else { 0.0 };
        let net = UNet { variant, dropout, ..NET };
        let step = |memory| {
            let training = Training { memory, ..Training::default() };
            net.build(2, [net.legal_above(60); 2]).unwrap().training_step(&training)
        };
        let whole = step(None).unwrap();
        let bytes = |step: &TrainingStep| {
            MemoryPlan::new(&step.graph.fused(), gpu.profile(), &Choices::default(), false).unwrap().total_bytes()
        };
        let budget = |bytes| Some(MemoryBudget::on(&Device::Gpu(gpu.clone()), bytes));
        let mut shares = (50..100).step_by(5).map(|share| bytes(&whole) * share / 100);
        let (least, less) = shares.find_map(|bytes| Some((bytes, step(budget(bytes)).ok()?))).unwrap();
        assert!(bytes(&less) <= least);
        assert_eq!(
            train(&gpu, &less, PlanOptions::default(), 3),
            train(&gpu, &whole, PlanOptions::default(), 3),
            "{variant} in {least} bytes"
        );
    }
}

#[test]
fn the_cpu_executor_and_a_plan_agree_through_one_interface() {
    let step = training_step();
    let parameters = step.graph.initial_parameters(3);
    let mut losses = Vec::new();
    for device in [Device::Cpu, Device::Gpu(gpu())] {
        let mut executor = Executor::new(&device, &step.graph, &parameters).unwrap();
        for (node, value) in inputs(&step) {
            executor.write(node, value).unwrap();
        }
        executor.run().unwrap();
        executor.run().unwrap();
        losses.push(executor.read(step.loss).unwrap().float().data[0]);
    }
    assert!((losses[0] - losses[1]).abs() <= 1e-5 * losses[0].abs(), "{losses:?}");
}

#[test]
fn a_parameter_that_is_used_twice_gets_the_sum_of_its_gradients() {
    let mut graph = Graph::new();
    let w = graph.parameter("w", [1], Init::Normal(1.0)).unwrap();
    let sum = graph.add("sum", w, w).unwrap();
    let sum = graph.add("sum2", sum, w).unwrap();
    let (graph, _) = graph.gradients(sum, &[]).unwrap();
    let plan = Plan::new(&gpu(), &graph, PlanOptions::default()).unwrap();
    plan.write_bank(Bank::Parameters, &graph.initial_parameters(1)).unwrap();
    plan.run().unwrap();
    assert_eq!(plan.read_bank(Bank::Gradients).unwrap()[0].to_bits(), 3.0f32.to_bits());
}

/// Gradients of a graph after a run, on the CPU in `f64` and on the device.
fn gradients_on_both(graph: &Graph) -> [Vec<f64>; 2] {
    let parameters = graph.initial_parameters(1);
    let mut state = banks::<f64>(graph, &parameters);
    evaluate(graph, &BTreeMap::new(), &mut state).unwrap();
    let plan = Plan::new(&gpu(), graph, PlanOptions::default()).unwrap();
    plan.write_bank(Bank::Parameters, &parameters).unwrap();
    plan.run().unwrap();
    let found = plan.read_bank(Bank::Gradients).unwrap();
    [state.remove(&Bank::Gradients).unwrap(), found.into_iter().map(f64::from).collect()]
}

#[test]
fn gradients_that_other_nodes_read_or_parameters_share_reach_the_bank() {
    // The gradient of p is that of the sum, which the convolution's gradients read too.
    let mut read = Graph::new();
    let x = read.parameter("x", [1, 1, 1, 1], Init::Normal(1.0)).unwrap();
    let weight = read.parameter("weight", [1, 1, 1, 1], Init::Normal(1.0)).unwrap();
    let p = read.parameter("p", [1, 1, 1, 1], Init::Normal(1.0)).unwrap();
    let y = read.conv2d("conv", x, weight, None, Conv2d::default()).unwrap();
    let y = read.add("sum", y, p).unwrap();
    let square = read.conv2d("square", y, y, None, Conv2d::default()).unwrap();
    let read_loss = read.relu("activated", square).unwrap();
    // The gradients of p and q are one node.
    let mut shared = Graph::new();
    let p = shared.parameter("p", [1], Init::Normal(1.0)).unwrap();
    let q = shared.parameter("q", [1], Init::Normal(1.0)).unwrap();
    let sum = shared.add("sum", p, q).unwrap();
    let sum = shared.add("twice", sum, sum).unwrap();
    let shared_loss = shared.relu("activated", sum).unwrap();
    for (graph, loss) in [(read, read_loss), (shared, shared_loss)] {
        let (graph, _) = graph.gradients(loss, &[]).unwrap();
        let [expected, found] = gradients_on_both(&graph);
        for parameter in graph.parameters() {
            let (expected, found) = (expected[parameter.offset], found[parameter.offset]);
            assert!(
                expected != 0.0 && (expected - found).abs() <= 1e-5 * expected.abs(),
                "{}: {expected}, {found}",
                parameter.name
            );
        }
    }
}

#[test]
fn state_that_an_update_overwrites_is_read_alike_on_both_executors() {
    let mut graph = Graph::new();
    let w = graph.parameter("w", [1], Init::Normal(1.0)).unwrap();
    let loss = graph.add("loss", w, w).unwrap();
    let (mut graph, gradients) = graph.gradients(loss, &[w]).unwrap();
    let rate = graph.input("learning_rate", TensorType::f32([1]).unwrap());
    graph.sgd("update", rate, SgdSettings { momentum: 0.5, weight_decay: 0.0 }, None).unwrap();
    let after = graph.add("after", w, gradients[0].unwrap()).unwrap();
    let outputs = [("w", w), ("loss", loss), ("after", after), ("gradient", gradients[0].unwrap())];
    for (name, node) in outputs {
        graph.mark_output(name, node).unwrap();
    }
    let mut parameters = graph.initial_parameters(0);
    parameters[0] = 1.0;
    for device in [Device::Cpu, Device::Gpu(gpu())] {
        let mut executor = Executor::new(&device, &graph, &parameters).unwrap();
        executor.write(rate, Array::filled(Shape::new([1]).unwrap(), 0.25).into()).unwrap();
        executor.run().unwrap();
        let found = outputs.map(|(_, node)| executor.read(node).unwrap().float().data[0]);
        // w = 1 - 0.25 * 2 after the update, which comes before the last sum and after the loss.
        assert_eq!(found.map(f32::to_bits), [0.5f32, 2.0, 2.5, 2.0].map(f32::to_bits), "{device}: {found:?}");
    }
}

#[test]
fn graphs_whose_state_would_be_read_and_written_at_once_or_too_early_are_refused() {
    let mut graph = Graph::new();
    let w = graph.parameter("w", [1], Init::Zeros).unwrap();
    let loss = graph.relu("loss", w).unwrap();
    let mut early = graph.clone();
    early.bank(Bank::Gradients).unwrap();
    let message = early.gradients(loss, &[]).unwrap_err().to_string();
    assert!(message.contains("before the gradients"), "{message}");
    let message =
        graph.sgd("update", w, SgdSettings { momentum: 0.5, weight_decay: 0.0 }, None).unwrap_err().to_string();
    assert!(message.contains("input 3 lives in the bank Parameters, which input 0 overwrites"), "{message}");
}

/// An op of one input from outside the crate, whose one dispatch is what a test wants it to be.
#[derive(Debug)]
struct External {
    source: &'static str,
    binding: Binding,
    params: Vec<(&'static str, Param)>,
    writes: &'static [usize],
}

impl Op for External {
    fn name(&self) -> &'static str {
        "external"
    }
    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        Ok(inputs[0].clone())
    }
    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        vec![inputs[0].clone()]
    }
    fn candidates(&self, _: &[TensorType], _: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        let kernel = Kernel { path: "external/kernel", source: self.source };
        let (bindings, params) = (vec![self.binding], self.params.clone());
        vec![Dispatch { kernel, constants: vec![], bindings, params, workgroups: [1; 3] }.into()]
    }
    fn writes(&self) -> &'static [usize] {
        self.writes
    }
    fn flops(&self, _: &[TensorType], _: &TensorType) -> u64 {
        0
    }
    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Exact
    }
}

/// A guarded plan of one external op named `op` on a bank of 64 elements.
fn plan_of(op: External) -> tilewise::Result<Plan> {
    let mut graph = Graph::new();
    graph.parameter("w", [64], Init::Zeros).unwrap();
    let bank = graph.bank(Bank::Parameters).unwrap();
    let node = graph.apply("op", op, &[bank]).unwrap();
    graph.mark_output("y", node).unwrap();
    Plan::new(&gpu(), &graph, PlanOptions { guarded: true, ..PlanOptions::default() })
}

const FILL: &str = "@group(0) @binding(0) var<storage, read_write> y: array<f32>;\n\
     @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lane: u32) { y[lane] = 1.0; }\n";

#[test]
fn writes_past_a_tensor_or_a_bank_are_found_by_their_guards() {
    let past = "@group(0) @binding(0) var<storage, read_write> y: array<f32>;\n\
         @compute @workgroup_size(1) fn main() { y[64] = 1.0; }\n";
    for (binding, writes, name) in
        [(Binding::Output, [].as_slice(), "op"), (Binding::Input(0), [0].as_slice(), "Parameters")]
    {
        for (source, broken) in [(FILL, vec![]), (past, vec![name.to_owned()])] {
            let plan = plan_of(External { source, binding, params: vec![], writes }).unwrap();
            plan.run().unwrap();
            assert_eq!(plan.broken_guards().unwrap(), broken);
        }
    }
}

#[test]
fn kernels_that_are_not_what_their_dispatch_says_are_refused_by_name() {
    let read = "@group(0) @binding(0) var<storage, read> x: array<f32>;\n\
         @compute @workgroup_size(1) fn main() { _ = x[0]; }\n";
    let params = "struct Params { count: u32 }\n\
         @group(0) @binding(0) var<storage, read_write> y: array<f32>;\n\
         @group(0) @binding(1) var<uniform> params: Params;\n\
         @compute @workgroup_size(1) fn main() { y[params.count] = 1.0; }\n";
    for (source, binding, given, problem) in [
        (read, Binding::Output, vec![], "binding 0 as read, Output needs read_write"),
        (FILL, Binding::Input(0), vec![], "binding 0 as read_write, Input(0) needs read"),
        (FILL, Binding::Workspace(3), vec![], "binds Workspace(3), which the op does not have"),
        (read, Binding::Input(1), vec![], "binds Input(1), which the op does not have"),
        (params, Binding::Output, vec![("count", Param::F32(1.0))], "declares params"),
        (params, Binding::Output, vec![("size", Param::U32(1))], "declares params"),
    ] {
        let Err(error) = plan_of(External { source, binding, params: given, writes: &[] }) else {
            panic!("accepted: {problem}");
        };
        assert!(error.to_string().contains(problem), "{error}");
    }
}

#[test]
fn nan_passes_relu_and_its_gradient() {
    let mut graph = Graph::new();
    let shape = || TensorType::f32([5]).unwrap();
    let (x, grad) = (graph.input("x", shape()), graph.input("grad", shape()));
    let y = graph.relu("y", x).unwrap();
    let dx = graph.apply("dx", ReluGrad, &[x, grad]).unwrap();
    graph.mark_output("y", y).unwrap();
    graph.mark_output("dx", dx).unwrap();
    for device in [Device::Cpu, Device::Gpu(gpu())] {
        let mut executor = Executor::new(&device, &graph, &[]).unwrap();
        let tensor = |data: [f32; 5]| Tensor::Float(Array::new(shape().shape, data.to_vec()).unwrap());
        executor.write(x, tensor([f32::NAN, -1.0, 0.0, 2.0, f32::INFINITY])).unwrap();
        executor.write(grad, tensor([3.0, 3.0, 3.0, f32::NAN, 3.0])).unwrap();
        executor.run().unwrap();
        let found = |node| executor.read(node).unwrap().float().data.clone();
        assert_eq!(format!("{:?}", found(y)), "[NaN, 0.0, 0.0, 2.0, inf]", "{device}");
        assert_eq!(format!("{:?}", found(dx)), "[3.0, 0.0, 0.0, NaN, 3.0]", "{device}");
    }
}

#[test]
fn nodes_of_another_graph_are_refused() {
    let (mut graph, foreign) = (Graph::new(), training_step().loss);
    let x = graph.input("x", TensorType::f32([1]).unwrap());
    graph.mark_output("x", x).unwrap();
    let plan = Plan::new(&gpu(), &graph, PlanOptions::default()).unwrap();
    let value = Array::filled(Shape::new([1]).unwrap(), 0.0).into();
    let settings = CrossEntropySettings { reduction: Reduction::Sum, ignore: None };
    let dice = DiceSettings { smoothing: 1.0 };
    for error in [
        plan.write(foreign, &value).unwrap_err(),
        plan.read(foreign).unwrap_err(),
        graph.mark_output("y", foreign).unwrap_err(),
        graph.gradients(foreign, &[]).unwrap_err(),
        graph.gradients(x, &[foreign]).unwrap_err(),
        graph.conv_transpose2d("up", x, foreign, None).unwrap_err(),
        graph.cross_entropy("loss", foreign, x, x, settings).unwrap_err(),
        graph.dice("loss", foreign, x, x, dice).unwrap_err(),
    ] {
        assert!(error.to_string().contains("is not a node of this graph, which has 1"), "{error}");
    }
}

#[test]
fn wrong_values_are_refused_by_name() {
    let step = training_step();
    let plan = Plan::new(&gpu(), &step.graph, PlanOptions::default()).unwrap();
    let wrong: Tensor<f32> = Array::filled(TensorType::f32([3]).unwrap().shape, 0.0).into();
    let message = plan.write(step.image, &wrong).unwrap_err().to_string();
    assert!(message.contains("image") && message.contains("got 3"), "{message}");
    let image = step.graph.shape(step.image).clone();
    let short: Tensor<f32> = Array { shape: image, data: vec![0.0; 3] }.into();
    let message = plan.write(step.image, &short).unwrap_err().to_string();
    assert!(message.contains("image") && message.contains("elements, got 3"), "{message}");
    let message = plan.write(step.loss, &wrong).unwrap_err().to_string();
    assert!(message.contains("only inputs"), "{message}");
    let message = plan.read(step.image).unwrap_err().to_string();
    assert!(message.contains("mark_output"), "{message}");
    let message = plan.write_bank(Bank::Parameters, &[0.0]).unwrap_err().to_string();
    assert!(message.contains("got 1"), "{message}");
}

#[test]
fn more_pieces_than_a_device_binds_are_refused_with_what_is_needed_and_offered() {
    let gpu = gpu().with_largest_binding(1 << 10);
    let offered = gpu.adapter().storage_buffers as usize;
    let mut graph = Graph::new();
    // Half of the pieces are those of the input.
    let x = graph.input("huge", TensorType::f32([256 * (offered / 2 + 1)]).unwrap());
    let y = graph.relu("activated", x).unwrap();
    graph.mark_output("y", y).unwrap();
    let Err(error @ Error::Memory(_)) = Plan::new(&gpu, &graph, PlanOptions::default()) else {
        panic!("more storage buffers than there are were accepted");
    };
    let message = error.to_string();
    let needed = format!("needs {} storage buffers per kernel", 2 * (offered / 2 + 1));
    for part in ["activated", "pieces of up to 1024 bytes", &needed, &format!("offers {offered}"), "smaller tile"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn what_a_device_cannot_bind_at_once_is_computed_some_images_at_a_time() {
    let browser = browser();
    let net = UNet { in_channels: 4, base_channels: 16, depth: 1, dropout: 0.0, ..NET };
    let step = net.build(8, [net.legal_above(net.shrink() + 8); 2]).unwrap();
    let step = step.training_step(&Training::default()).unwrap();
    let largest = step.graph.nodes().iter().map(|node| node.tensor_type.size_bytes()).max().unwrap();
    let narrow = browser.clone().with_largest_binding((largest / 6).next_multiple_of(256));
    let dispatches = |gpu: &Gpu| {
        let plan = Plan::new(gpu, &step.graph, PlanOptions::default()).unwrap();
        assert_eq!(plan.memory().total_bytes(), plan.allocated_bytes());
        plan.profile(1).unwrap().rows.len()
    };
    assert!(dispatches(&narrow) > dispatches(&browser) + 10);
    let results = |gpu| train(gpu, &step, PlanOptions::default(), 2);
    for (some, all) in results(&narrow).into_iter().zip(results(&browser)) {
        let [some, all] =
            [some, all].map(|bits| bits.into_iter().map(f32::from_bits).map(f64::from).collect::<Vec<_>>());
        let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
        let difference: Vec<f64> = some.iter().zip(&all).map(|(some, all)| some - all).collect();
        assert!(norm(&difference) <= 1e-5 * norm(&all), "{} of {}", norm(&difference), norm(&all));
    }
    assert_eq!(results(&narrow), results(&narrow));
}

/// A step with clipping and a scaled loss, whose gradients are those of one parameter and, of the others, what is written into their bank.
#[test]
fn banks_of_many_pieces_are_updated_within_the_bindings_of_a_browser() {
    let browser = browser();
    assert_eq!(browser.adapter().storage_buffers, 8);
    let mut graph = Graph::new();
    let w = graph.parameter("w", [1], Init::Zeros).unwrap();
    graph.parameter("others", [64 * 40 - 7], Init::Zeros).unwrap();
    let loss = graph.scale_loss("scaled", w).unwrap();
    let (graph, _) = graph.gradients(loss, &[]).unwrap();
    let update = |adam: bool| {
        let mut graph = graph.clone();
        let scaling = graph.unscale_gradients("unscale", [0.9, 0.999]).unwrap();
        graph.clip_grad_norm("clip", 0.5).unwrap();
        let rates = graph.input("rates", TensorType::f32([if adam { 3 } else { 1 }]).unwrap());
        if adam {
            graph.adam("update", rates, AdamSettings::default(), Some(scaling)).unwrap();
        } else {
            graph.sgd("update", rates, SgdSettings { momentum: 0.9, weight_decay: 0.1 }, Some(scaling)).unwrap();
        }
        graph.store_loss_scale("store", scaling).unwrap();
        (graph, rates)
    };
    let draw = |fill: Fill, tensor_type: &TensorType, seed| fill.draw(tensor_type, &mut Random::new(seed, 0));
    for (graph, rates) in [true, false].map(update) {
        let bits = |gpu: &Gpu, guarded| {
            let plan = Plan::new(gpu, &graph, PlanOptions { guarded, ..PlanOptions::default() }).unwrap();
            let bank = TensorType::f32([graph.bank_elements()]).unwrap();
            let mut parameters = graph.initial_parameters(0);
            for (parameter, drawn) in
                parameters.iter_mut().zip(&draw(Fill::Normal(1.0), &bank, 1).float().data).take(64 * 41)
            {
                *parameter = *drawn;
            }
            plan.write_bank(Bank::Parameters, &parameters).unwrap();
            plan.write(rates, &draw(Fill::Constant(0.1), &graph.node(rates).tensor_type, 2)).unwrap();
            for seed in 3..6 {
                plan.write_bank(Bank::Gradients, &draw(Fill::Normal(1e4), &bank, seed).float().data).unwrap();
                plan.run().unwrap();
            }
            assert_eq!(plan.broken_guards().unwrap(), Vec::<String>::new());
            let banks = graph.banks().into_iter().map(|bank| plan.read_bank(bank).unwrap());
            banks.flatten().map(f32::to_bits).collect::<Vec<_>>()
        };
        let whole = bits(&browser, false);
        // 42 pieces, and 11.
        assert_eq!(graph.bank_elements(), 64 * 42);
        for piece in [256, 1024] {
            assert_eq!(
                bits(&browser.clone().with_largest_binding(piece + 256), true),
                whole,
                "pieces of {piece} bytes"
            );
        }
    }
}

#[test]
fn unknown_devices_are_answered_with_the_listing() {
    for choice in [DeviceChoice::Index(99), DeviceChoice::Name("no such thing".into())] {
        let message = Gpu::choose(&choice).unwrap_err().to_string();
        assert!(message.contains("auto, cpu, or one of"), "{message}");
        assert!(message.contains(&gpu().adapter().name), "{message}");
    }
    assert!(Gpu::choose(&DeviceChoice::Cpu).unwrap().is_none());
}

#[test]
fn compiled_kernels_are_kept_in_the_folder_that_is_named_and_a_file_that_is_no_good_is_replaced() {
    let compile = |gpu: &Gpu| {
        let mut graph = Graph::new();
        let x = graph.input("x", TensorType::f32([3]).unwrap());
        let y = graph.relu("y", x).unwrap();
        graph.mark_output("y", y).unwrap();
        let plan = Plan::new(gpu, &graph, PlanOptions::default()).unwrap();
        let value = |data: [f32; 3]| Tensor::Float(Array { shape: graph.shape(x).clone(), data: data.to_vec() });
        plan.write(x, &value([-1.0, 0.0, 1.0])).unwrap();
        plan.run().unwrap();
        assert_eq!(plan.read(y).unwrap(), value([0.0, 0.0, 1.0]));
    };
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("new");
    let open = || gpu().with_pipeline_cache(&folder);
    let gpu = open();
    let offered = gpu.device().features().contains(wgpu::Features::PIPELINE_CACHE);
    compile(&gpu);
    assert!(!folder.exists(), "nothing is written while the device is in use");
    let another = gpu.reopen().unwrap();
    drop(gpu);
    assert_eq!(folder.exists(), offered);
    if !offered {
        return;
    }
    let files = || fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let [file] = files().try_into().unwrap();
    let kept = fs::read(&file).unwrap();

    // What it is of; the rest is the driver's affair, and SwiftShader adds a header each time that it has read one.
    let head = kept.iter().position(|&byte| byte == b'\n').unwrap();
    let is_good = |file: &[u8]| file.len() >= kept.len() && file[..head] == kept[..head];

    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::options().write(true).open(&file).unwrap().set_modified(then).unwrap();
    compile(&open());
    let is_as_read = fs::read(&file).unwrap() == kept;
    assert_eq!(is_as_read, fs::metadata(&file).unwrap().modified().unwrap() == then, "written only if it is another");

    let slower = open();
    fs::write(&file, "another device's").unwrap();
    compile(&slower);
    drop(slower);
    assert_eq!(fs::read(&file).unwrap(), b"another device's", "what has been written since stays");

    fs::remove_file(&file).unwrap();
    compile(&another);
    drop(another);
    assert!(is_good(&fs::read(&file).unwrap()), "the other device knows the folder, too");

    let damaged = [&kept[..kept.len() - 1], &[!kept[kept.len() - 1]]].concat();
    let foreign = [&b"another program's "[..], &kept].concat();
    for bad in [&damaged[..], &foreign, &kept[..kept.len() / 2], b""] {
        fs::write(&file, bad).unwrap();
        compile(&open());
        let replaced = fs::read(&file).unwrap();
        assert!(is_good(&replaced) && replaced != bad);
    }
    fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
    compile(&open());
    let replaced = fs::read(&file).unwrap();
    assert!(is_good(&replaced) && replaced.len() < 1 << 30, "a file that could fill the memory");
    assert_eq!(files().len(), 1, "{:?}", files());
    // No folder can be there.
    compile(&self::gpu().with_pipeline_cache(&file.join("below")));
}
