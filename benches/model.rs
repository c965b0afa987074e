//! Whole networks: prediction and a training step, on the best adapter and on the CPU executor. `cargo bench --bench model`.
//!
//! Inputs are random, the step is checked against the f64 reference before anything is timed, and each run is waited for.

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use tilewise::executor::{Device, Executor};
use tilewise::gpu::{DeviceChoice, Gpu};
use tilewise::models::{Training, UNet};
use tilewise::op::Fill;
use tilewise::random::Random;
use tilewise::selftest;

/// The network that peers are timed on: 124 pixels, base 16, depth 3; 0.35 GFLOP forward, 1.05 GFLOP a step.
const TINY: (usize, UNet) = (124, UNet { in_channels: 1, classes: 2, base_channels: 16, depth: 3, dropout: 0.0 });

fn training_step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("model/tiny");
    group.sample_size(10);
    let gpu = Gpu::choose(&DeviceChoice::Auto).unwrap_or_else(|error| panic!("{error}"));
    if let Some(gpu) = &gpu {
        let report = selftest::training_step(gpu, 1).unwrap_or_else(|error| panic!("{error}"));
        assert!(report.failures.is_empty(), "{}", report.failures.join("\n"));
    }
    let devices = gpu.map(Device::Gpu).into_iter().chain([Device::Cpu]);
    let (side, net) = TINY;
    for device in devices {
        let name = device.gpu().map_or("cpu executor".to_owned(), |gpu| gpu.adapter().to_string());
        let run = || -> tilewise::Result<(Executor, tilewise::graph::NodeId)> {
            let step = net.build(1, [side; 2])?.training_step(&Training::default())?;
            let mut executor = Executor::new(&device, &step.graph, &step.graph.initial_parameters(1))?;
            let mut random = Random::new(1, 1);
            for (node, fill) in [
                (step.image, Fill::Normal(1.0)),
                (step.labels, Fill::Labels { classes: 2, ignore: None }),
                (step.weights, Fill::Positive),
                (step.rates, Fill::Constant(1e-6)),
            ] {
                executor.write(node, fill.draw(&step.graph.node(node).tensor_type, &mut random))?;
            }
            Ok((executor, step.loss))
        };
        let (mut executor, loss) = run().unwrap_or_else(|error| panic!("{error}"));
        group.bench_function(format!("training step/{name}"), |bencher| {
            bencher.iter(|| {
                executor.run().unwrap_or_else(|error| panic!("{error}"));
                black_box(executor.read(loss).unwrap_or_else(|error| panic!("{error}")))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, training_step);
criterion_main!(benches);
