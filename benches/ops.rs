//! Every op alone, at shapes of layers: those that it has largest, smallest and between in the networks below. `cargo bench --bench ops`.
//!
//! Inputs are random, each case is checked against the f64 reference before it is timed, and each run is waited for.

use criterion::{Criterion, criterion_group, criterion_main};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tilewise::bench::Workload;
use tilewise::data::Augmentation;
use tilewise::gpu::{Gpu, PlanOptions};
use tilewise::graph::NodeKind;
use tilewise::models::{Loss, Optimizer, Tiles, Training, UNet, Variant};
use tilewise::op::{Case, Fill};
use tilewise::ops::{AdamSettings, CrossEntropySettings, DiceSettings, REGISTRY, Reduction};
use tilewise::selftest;
use tilewise::shape::DType;
use tilewise::{Error, Graph};

/// The training step that peers are timed on; small ones of every network, with all that its lacks; and what a prediction ends with.
fn graphs() -> tilewise::Result<Vec<Graph>> {
    let network = Workload::preset("tiny")?.network()?;
    let mut prediction = network.graph.clone();
    for (name, node) in [
        ("probabilities", prediction.softmax("probabilities", network.logits)?),
        ("classes", prediction.argmax("classes", network.logits)?),
    ] {
        prediction.mark_output(name, node)?;
    }
    let cross_entropy = CrossEntropySettings { reduction: Reduction::MeanOverPixels, ignore: None };
    let training = Training {
        loss: Loss::Both(cross_entropy, DiceSettings { smoothing: 1.0 }),
        clip_norm: Some(1.0),
        optimizer: Optimizer::Adam(AdamSettings::default()),
        ..Training::default()
    };
    let small = Variant::ALL.into_iter().map(|variant| {
        let dropout = if variant == Variant::Unet { 0.25 } else { 0.0 };
        let net = UNet { variant, base_channels: 8, depth: 2, dropout, ..UNet::default() };
        let side = net.legal_above(net.shrink() + 64);
        let (frame, window, augmentation) = ([side; 2], [net.output_side(side)?; 2], &Augmentation::RECIPE);
        let tiles = Tiles { batch: 2, channels: 1, frame, window, augmentation };
        Ok(net.augmented_training_step(&tiles, &training)?.0.graph)
    });
    let large = [network.training_step(&Training::default())?.graph.fused(), prediction];
    large.into_iter().map(Ok).chain(small).collect()
}

/// Cases by op; of ops that no network here has, their own.
fn cases() -> tilewise::Result<BTreeMap<&'static str, Vec<Case>>> {
    let mut cases: BTreeMap<&str, Vec<(u64, Case)>> = BTreeMap::new();
    for graph in graphs()? {
        for (node, needed) in graph.nodes().iter().zip(graph.needed()) {
            let NodeKind::Op { op, inputs } = &node.kind else { continue };
            if !needed {
                continue;
            }
            let types = inputs.iter().map(|&input| graph.node(input).tensor_type.clone());
            let inputs: Vec<_> = types
                .map(|tensor_type| match tensor_type.dtype {
                    DType::F32 | DType::F16 => (tensor_type, Fill::Positive),
                    DType::U32 => (tensor_type, Fill::Labels { classes: 2, ignore: None }),
                })
                .collect();
            let shapes: Vec<String> = inputs.iter().map(|(tensor_type, _)| tensor_type.to_string()).collect();
            let bytes = inputs.iter().map(|(tensor_type, _)| tensor_type.size_bytes()).sum();
            let case = Case { name: shapes.join(", "), op: op.clone(), inputs };
            cases.entry(op.name()).or_default().push((bytes, case));
        }
    }
    let in_networks: BTreeSet<&str> = cases.keys().copied().collect();
    for entry in REGISTRY {
        for case in (entry.cases)().map_err(Error::Usage)? {
            if !in_networks.contains(case.op.name()) {
                let bytes = case.inputs.iter().map(|(tensor_type, _)| tensor_type.size_bytes()).sum();
                cases.entry(case.op.name()).or_default().push((bytes, case));
            }
        }
    }
    let chosen = cases.into_iter().map(|(op, mut cases)| {
        cases.sort_by_key(|&(bytes, _)| bytes);
        cases.dedup_by(|(_, a), (_, b)| a.name == b.name);
        let last = cases.len() - 1;
        let mut places = vec![0, last / 2, last];
        places.dedup();
        (op, places.into_iter().map(|place| cases[place].1.clone()).collect())
    });
    Ok(chosen.collect())
}

fn ops(criterion: &mut Criterion) {
    let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
    let cases = cases().unwrap_or_else(|error| panic!("{error}"));
    for (op, cases) in cases {
        let mut group = criterion.benchmark_group(format!("ops/{op}"));
        // There are many.
        group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
        for case in cases {
            selftest::check_case(&gpu, &case, 0, 1).unwrap_or_else(|error| panic!("{error}"));
            let plan =
                selftest::plan_case(&gpu, &case, 1, PlanOptions::default()).unwrap_or_else(|error| panic!("{error}"));
            group.bench_function(format!("{}/{}", case.name, gpu.adapter()), |bencher| {
                bencher.iter(|| plan.run().and_then(|()| plan.wait()).unwrap_or_else(|error| panic!("{error}")));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, ops);
criterion_main!(benches);
