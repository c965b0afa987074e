//! The GPU plan as a whole: a training step against the reference, memory as planned, buffers shared without harm, errors as values.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use tilewise::Error;
use tilewise::array::{Array, Tensor};
use tilewise::executor::{Device, Executor};
use tilewise::gpu::{DeviceChoice, Gpu, MemoryPlan, Plan, PlanOptions};
use tilewise::graph::{Bank, Graph, Init, NodeId};
use tilewise::models::{Training, TrainingStep, UNet};
use tilewise::op::{DeviceProfile, Fill};
use tilewise::random::Random;
use tilewise::selftest;
use tilewise::shape::TensorType;

fn gpu() -> Gpu {
    Gpu::any().unwrap_or_else(|error| panic!("{error}"))
}

const NET: UNet = UNet { in_channels: 2, classes: 3, base_channels: 4, depth: 2, dropout: 0.5 };

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
        (step.generator.unwrap(), Fill::Bits),
    ];
    fills.into_iter().map(|(node, fill)| (node, fill.draw(&step.graph.node(node).tensor_type, &mut random))).collect()
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
fn sharing_buffers_changes_nothing_and_runs_repeat_bit_for_bit() {
    let (gpu, step) = (gpu(), training_step());
    let shared = train(&gpu, &step, PlanOptions::default(), 3);
    assert_eq!(shared, train(&gpu, &step, PlanOptions::default(), 3), "the same run twice");
    let apart = PlanOptions { guarded: true, ..PlanOptions::default() };
    assert_eq!(shared, train(&gpu, &step, apart, 3), "every tensor in a buffer of its own, filled with NaN");
}

#[test]
fn planned_bytes_are_known_without_a_device_and_equal_what_is_allocated() {
    let (gpu, step) = (gpu(), training_step());
    let planned = MemoryPlan::new(&step.graph, gpu.profile(), 0, false).unwrap();
    let plan = Plan::new(&gpu, &step.graph, PlanOptions::default()).unwrap();
    assert_eq!(planned.total_bytes(), plan.allocated_bytes());
    assert!(planned.transient.iter().sum::<u64>() < planned.unshared / 2, "lifetimes let buffers be shared: {planned}");
}

#[test]
fn the_papers_training_step_fits_its_budget() {
    let step = UNet::default().build(1, [572; 2]).unwrap().training_step(&Training::default()).unwrap();
    let memory = MemoryPlan::new(&step.graph, &DeviceProfile::PORTABLE, 0, false).unwrap();
    assert!(memory.total_bytes() < 2 << 30, "{memory}");
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

#[test]
fn wrong_values_are_refused_by_name() {
    let step = training_step();
    let plan = Plan::new(&gpu(), &step.graph, PlanOptions::default()).unwrap();
    let wrong: Tensor<f32> = Array::filled(TensorType::f32([3]).unwrap().shape, 0.0).into();
    let message = plan.write(step.image, &wrong).unwrap_err().to_string();
    assert!(message.contains("image") && message.contains("got 3"), "{message}");
    let message = plan.write(step.loss, &wrong).unwrap_err().to_string();
    assert!(message.contains("only inputs"), "{message}");
    let message = plan.read(step.image).unwrap_err().to_string();
    assert!(message.contains("mark_output"), "{message}");
    let message = plan.write_bank(Bank::Parameters, &[0.0]).unwrap_err().to_string();
    assert!(message.contains("got 1"), "{message}");
}

#[test]
fn a_tensor_past_the_devices_limits_is_named_with_what_is_needed_and_offered() {
    let gpu = gpu();
    let offered = gpu.adapter().max_binding_bytes.min(gpu.adapter().max_buffer_bytes);
    let elements = offered / 4 + 1;
    if let Ok(tensor_type) = TensorType::f32([elements as usize]) {
        let mut graph = Graph::new();
        let x = graph.input("huge", tensor_type);
        let y = graph.relu("activated", x).unwrap();
        graph.mark_output("y", y);
        let Err(error @ Error::Memory(_)) = Plan::new(&gpu, &graph, PlanOptions::default()) else {
            panic!("a binding past the limit was accepted");
        };
        let message = error.to_string();
        assert!(message.contains("huge") && message.contains(&offered.to_string()), "{message}");
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
