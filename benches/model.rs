//! Whole networks: prediction and a training step, on the best adapter and on the CPU executor. `cargo bench --bench model`.
//!
//! Inputs are random, the step is checked against the f64 reference before anything is timed, and each run is waited for.

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use tilewise::Graph;
use tilewise::data::Augmentation;
use tilewise::executor::{Device, Executor};
use tilewise::gpu::{DeviceChoice, Gpu};
use tilewise::graph::NodeId;
use tilewise::models::{Augmented, Tiles, Training, TrainingStep, UNet, Variant};
use tilewise::op::Fill;
use tilewise::random::Random;
use tilewise::selftest;

/// The network that peers are timed on: 124 pixels, base 16, depth 3; 0.35 GFLOP forward, 1.05 GFLOP a step.
const TINY: (usize, UNet) =
    (124, UNet { variant: Variant::Unet, in_channels: 1, classes: 2, base_channels: 16, depth: 3, dropout: 0.0 });

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

/// The augmentation of two tiles of 188 pixels by the whole recipe, and the training step that it goes ahead of, with and without it.
fn augmentation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("model/augmentation");
    group.sample_size(10);
    let net = UNet { variant: Variant::Unet, in_channels: 1, classes: 2, base_channels: 8, depth: 3, dropout: 0.0 };
    let (frame, window, training) = ([188; 2], [188 - net.shrink(); 2], Training::default());
    let tiles = Tiles { batch: 2, channels: 1, frame, window, augmentation: &Augmentation::RECIPE };
    let drawn = |nodes: &Augmented| [nodes.transforms, nodes.displacements, nodes.intensities, nodes.generator];
    let given = |step: &TrainingStep| vec![step.image, step.labels, step.weights, step.rates];
    // Each graph with the nodes to write.
    let alone = || -> tilewise::Result<(Graph, Vec<NodeId>)> {
        let mut graph = Graph::new();
        let nodes = Augmented::build(&mut graph, &tiles)?;
        for (name, node) in [("image", nodes.image), ("labels", nodes.labels), ("weights", nodes.weights)] {
            graph.mark_output(name, node)?;
        }
        let sources = [nodes.source_image, nodes.source_labels, nodes.source_weights];
        Ok((graph, [&sources[..], &drawn(&nodes)].concat()))
    };
    let plain = || -> tilewise::Result<(Graph, Vec<NodeId>)> {
        let step = net.build(2, frame)?.training_step(&training)?;
        let inputs = given(&step);
        Ok((step.graph, inputs))
    };
    let whole = || -> tilewise::Result<(Graph, Vec<NodeId>)> {
        let (step, nodes) = net.augmented_training_step(&tiles, &training)?;
        let inputs = [given(&step), drawn(&nodes).to_vec()].concat();
        Ok((step.graph, inputs))
    };
    let gpu = Gpu::choose(&DeviceChoice::Auto).unwrap_or_else(|error| panic!("{error}"));
    for device in gpu.map(Device::Gpu).into_iter().chain([Device::Cpu]) {
        let name = device.gpu().map_or("cpu executor".to_owned(), |gpu| gpu.adapter().to_string());
        for (what, built) in
            [("augmentation alone", alone()), ("training step", plain()), ("augmented training step", whole())]
        {
            let run = || -> tilewise::Result<Executor> {
                let (graph, inputs) = built?;
                let mut executor = Executor::new(&device, &graph, &graph.initial_parameters(1))?;
                let mut random = Random::new(1, 1);
                for node in inputs {
                    executor.write(node, Fill::Positive.draw(&graph.node(node).tensor_type, &mut random))?;
                }
                Ok(executor)
            };
            let mut executor = run().unwrap_or_else(|error| panic!("{error}"));
            let result = executor.graph().outputs()[0].1;
            group.bench_function(format!("{what}/{name}"), |bencher| {
                bencher.iter(|| {
                    executor.run().unwrap_or_else(|error| panic!("{error}"));
                    black_box(executor.read(result).unwrap_or_else(|error| panic!("{error}")))
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, training_step, augmentation);
criterion_main!(benches);
