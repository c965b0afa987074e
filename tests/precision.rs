//! Mixed precision: activations stored as `f16` and a scaled loss. Every op of a step is right, a step whose gradients overflow changes
//! nothing, and memory is what it is for. Without an adapter that has `f16` the tests on a device fail.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::collections::BTreeMap;
use tilewise::array::Tensor;
use tilewise::data::Image;
use tilewise::executor::{Device, Executor};
use tilewise::gpu::{Choices, DeviceChoice, Gpu, Limits, MemoryPlan, Plan, PlanOptions, Requirements};
use tilewise::graph::{Bank, NodeId};
use tilewise::models::{Optimizer, Precision, Training, TrainingStep, UNet, Variant};
use tilewise::op::{DeviceProfile, Fill};
use tilewise::ops::{AdamSettings, LossScaleState, SgdSettings};
use tilewise::predict::Predictor;
use tilewise::random::Random;
use tilewise::selftest;
use tilewise::shape::DType;

fn mixed(optimizer: Optimizer) -> Training {
    Training { optimizer, precision: Precision::Mixed, ..Training::default() }
}

fn sgd() -> Optimizer {
    Optimizer::Sgd(SgdSettings { momentum: 0.9, weight_decay: 0.01 })
}

fn adam() -> Optimizer {
    Optimizer::Adam(AdamSettings { weight_decay: 0.01, ..AdamSettings::default() })
}

fn step(variant: Variant, training: &Training) -> TrainingStep {
    let dropout = if variant == Variant::Unet { 0.25 } else { 0.0 };
    let net = UNet { variant, in_channels: 1, classes: 2, base_channels: 8, depth: 2, dropout };
    let side = net.legal_above(net.shrink() + 12);
    net.build(2, [side; 2]).unwrap().training_step(training).unwrap()
}

/// Random values for everything that the host writes.
fn inputs(step: &TrainingStep, rates: Vec<f32>) -> BTreeMap<NodeId, Tensor<f32>> {
    let mut random = Random::new(1, 0);
    let fills = [
        (Some(step.image), Fill::Normal(1.0)),
        (Some(step.labels), Fill::Labels { classes: 2, ignore: None }),
        (Some(step.weights), Fill::Positive),
        (step.generator, Fill::Bits),
    ];
    let drawn = fills.into_iter().filter_map(|(node, fill)| Some((node?, fill)));
    let mut inputs: BTreeMap<NodeId, Tensor<f32>> =
        drawn.map(|(node, fill)| (node, fill.draw(&step.graph.node(node).tensor_type, &mut random))).collect();
    let shape = step.graph.shape(step.rates).clone();
    inputs.insert(step.rates, Tensor::Float(tilewise::array::Array { shape, data: rates }));
    inputs
}

fn gpu() -> Gpu {
    Gpu::any().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_op_of_a_mixed_step_equals_its_reference() {
    for variant in Variant::ALL {
        let step = step(variant, &mixed(sgd()));
        let stored = step.graph.nodes().iter().filter(|node| node.tensor_type.dtype == DType::F16).count();
        assert!(stored > 20, "{variant}: {stored} tensors are stored as f16");
        let parameters = step.graph.initial_parameters(1);
        let report = selftest::each_op(&gpu(), &step.graph, &parameters, &inputs(&step, vec![1e-3])).unwrap();
        assert!(report.failures.is_empty(), "{variant}: {:?}", report.failures);
        assert!(report.worst > 0.0 && report.worst <= 1.0, "{variant}: {}", report.worst);
    }
}

/// An executor at its start, but that the loss is scaled by this.
fn scaled_by(device: &Device, step: &TrainingStep, scale: f32) -> Executor {
    let mut parameters = step.graph.initial_parameters(1);
    let state = step.graph.parameters().iter().find(|parameter| parameter.name == LossScaleState::NAME).unwrap();
    parameters[state.offset] = scale;
    Executor::new(device, &step.graph, &parameters).unwrap()
}

fn skips_what_overflows(device: &Device, variant: Variant, optimizer: Optimizer) {
    let step = step(variant, &mixed(optimizer));
    let huge = 2.0_f32.powi(100);
    let mut executor = scaled_by(device, &step, huge);
    for (node, value) in inputs(&step, optimizer.rates(0.01, 0)) {
        executor.write(node, value).unwrap();
    }
    let state = step.graph.parameters().iter().find(|parameter| parameter.name == LossScaleState::NAME).unwrap();
    let banks = |executor: &Executor| {
        let mut banks = vec![executor.read_bank(Bank::Parameters).unwrap()];
        banks[0].truncate(state.offset);
        banks.extend((0..optimizer.state().len() as u8).map(|k| executor.read_bank(Bank::OptimizerState(k)).unwrap()));
        banks.into_iter().map(|bank| bank.into_iter().map(f32::to_bits).collect()).collect::<Vec<Vec<u32>>>()
    };
    let scaling =
        |executor: &Executor| LossScaleState::of(&executor.read(step.loss_scale.unwrap()).unwrap().float().data);
    let before = banks(&executor);
    executor.run().unwrap();
    assert!(executor.read_bank(Bank::Gradients).unwrap().iter().any(|gradient| !gradient.is_finite()));
    let expected = LossScaleState { scale: huge / 2.0, overflows: 1, skipped: true, exhausted: false };
    assert_eq!(scaling(&executor), expected);
    assert!(banks(&executor) == before, "{device}, {variant}, {optimizer:?}: a step that overflowed changed something");

    // From its own state it goes on: halved step by step, until the gradients are finite, and then everything moves.
    let mut steps = 1;
    while scaling(&executor).skipped {
        executor.run().unwrap();
        steps += 1;
        assert!(steps < 120, "the scale does not fall");
    }
    let found = scaling(&executor);
    assert_eq!((found.overflows, found.scale), (steps - 1, huge / 2.0_f32.powi(steps as i32 - 1)));
    for (before, after) in before.iter().zip(banks(&executor)) {
        assert!(
            *before != after,
            "{device}, {variant}, {optimizer:?}: a step that did not overflow left something as it was"
        );
    }
}

#[test]
fn a_step_whose_gradients_overflow_changes_nothing_on_the_cpu() {
    skips_what_overflows(&Device::Cpu, Variant::Unet, sgd());
}

#[test]
fn a_step_whose_gradients_overflow_changes_nothing_on_a_device() {
    for optimizer in [sgd(), adam()] {
        for variant in [Variant::Unet, Variant::Milesial] {
            skips_what_overflows(&Device::Gpu(gpu()), variant, optimizer);
        }
    }
}

/// The first step of Adam that counts is the first, however many were skipped before.
#[test]
fn steps_that_were_skipped_do_not_count_for_adam() {
    let step = step(Variant::Unet, &mixed(adam()));
    let state = step.graph.parameters().iter().find(|parameter| parameter.name == LossScaleState::NAME).unwrap();
    let bank = |scale: f32| {
        let mut executor = scaled_by(&Device::Gpu(gpu()), &step, scale);
        for (node, value) in inputs(&step, adam().rates(0.01, 7)) {
            executor.write(node, value).unwrap();
        }
        executor.run().unwrap();
        while LossScaleState::of(&executor.read(step.loss_scale.unwrap()).unwrap().float().data).skipped {
            executor.run().unwrap();
        }
        // What weight decay makes of the state's own place counts for nothing.
        let mut moments = executor.read_bank(Bank::OptimizerState(1)).unwrap();
        moments.truncate(state.offset);
        moments
    };
    let (usual, late) = (bank(1024.0), bank(2.0_f32.powi(60)));
    let norm = |bank: &[f32]| bank.iter().map(|&v| f64::from(v)).sum::<f64>();
    assert!((norm(&usual) / norm(&late) - 1.0).abs() < 0.02, "{} and {}", norm(&usual), norm(&late));
}

#[test]
fn a_device_without_f16_is_told_what_it_lacks() {
    let limited = Gpu::choose_within(&DeviceChoice::Auto, Limits::WebGpu);
    let limited = pollster::block_on(limited).unwrap().unwrap();
    let step = step(Variant::Unet, &mixed(sgd()));
    let message = Plan::new(&limited, &step.graph, PlanOptions::default()).unwrap_err().to_string();
    assert!(message.contains("SHADER_F16") && message.contains("--precision f32"), "{message}");
    assert!(message.contains("`image.f16` (2×"), "{message}");
}

#[test]
fn a_host_is_asked_for_the_feature_only_where_tensors_are_stored_so() {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::VULKAN));
    let adapter = adapters.into_iter().find(|adapter| adapter.features().contains(wgpu::Features::SHADER_F16)).unwrap();
    for (training, needed) in [(Training::default(), false), (mixed(sgd()), true)] {
        let requirements = Requirements::of(&step(Variant::Unet, &training).graph, &adapter).unwrap();
        assert_eq!(requirements.features.contains(wgpu::Features::SHADER_F16), needed);
        // Those of matrix units, for which activations have to be stored so, too.
        let matrices = adapter.features() & wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        assert_eq!(requirements.experimental, if needed { matrices } else { wgpu::Features::empty() });
    }
}

#[test]
fn what_is_predicted_is_nearly_the_same() {
    let net = UNet { variant: Variant::Milesial, in_channels: 1, classes: 2, base_channels: 8, depth: 2, dropout: 0.0 };
    let parameters = net.inference(1, [64; 2]).unwrap().graph.initial_parameters(1);
    let mut random = Random::new(1, 0);
    let pixels: Vec<f32> = (0..70 * 90).map(|_| 100.0 + 30.0 * random.normal()).collect();
    let image = Image { height: 70, width: 90, channels: 1, bit_depth: 8, pixels, alpha_dropped: false };
    let mut logits = [Precision::F32, Precision::Mixed].into_iter().map(|precision| {
        let predictor = Predictor::new(Device::Gpu(gpu()), net, parameters.clone(), None).unwrap();
        predictor.stored_in(precision).predict(&image).unwrap().logits
    });
    let (single, half) = (logits.next().unwrap(), logits.next().unwrap());
    let largest = single.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let error = single.iter().zip(&half).fold(0.0_f32, |error, (a, b)| error.max((a - b).abs()));
    assert!(error > 0.0 && error < 0.01 * largest, "off by {error} of {largest}");
}

#[test]
fn the_papers_activations_take_little_more_than_half_of_the_memory() {
    let net = UNet { variant: Variant::Unet, in_channels: 1, classes: 2, base_channels: 64, depth: 4, dropout: 0.0 };
    let network = net.build(1, [572; 2]).unwrap();
    let planned = |precision| {
        let step = network.training_step(&Training { precision, ..Training::default() }).unwrap();
        let plan = MemoryPlan::new(&step.graph.fused(), &DeviceProfile::PORTABLE, &Choices::default(), false).unwrap();
        (plan.transient.iter().sum::<u64>() as f64, plan.total_bytes() as f64)
    };
    let ((full, all), (half, rest)) = (planned(Precision::F32), planned(Precision::Mixed));
    assert!(half < 0.6 * full, "activations take {half} bytes, of {full} in f32");
    assert!(rest < 0.75 * all, "everything takes {rest} bytes, of {all} in f32");
}
