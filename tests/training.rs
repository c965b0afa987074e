//! Training as a whole, on the CPU executor and on a device: it learns, it stops and resumes to the same bytes, and what goes wrong
//! costs nothing. Without an adapter the tests on a device fail and say how to get one.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::collections::HashSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use tilewise::array::{Array, Tensor};
use tilewise::checkpoint::{Metadata, Section, Weights, save, state_prefix};
use tilewise::data::augmentation::Change;
use tilewise::data::{
    Augmentation, BorderMap, Components, Image, Intensities, LabelMap, Orientation, Sample, Sampling, Truth, Zoom,
};
use tilewise::executor::{Device, Executor};
use tilewise::gpu::Gpu;
use tilewise::graph::Graph;
use tilewise::metrics::{Confusion, InstanceScores};
use tilewise::models::{Augmented, Precision, Tiles, Variant};
use tilewise::ops::Reduction;
use tilewise::predict::Predictor;
use tilewise::random::Random;
use tilewise::train::{
    BorderUse, Config, Event, Job, LossKind, Metric, OptimizerKind, Record, Scaling, Schedule, Status, Summary,
    Trainer, train,
};
use tilewise::tune::{self, Settings, Tuned};
use tilewise::{Error, Result};

/// A noisy picture of bright discs, numbered one by one.
fn discs(seed: u32) -> Sample {
    const SIDE: usize = 40;
    let mut random = Random::new(seed, 0);
    let mut pixels: Vec<f32> = (0..SIDE * SIDE).map(|_| 20.0 + 8.0 * random.normal()).collect();
    let mut values = vec![0; SIDE * SIDE];
    for disc in 1..=6 {
        let [row, column] = [0, 1].map(|_| random.between(4.0, SIDE as f32 - 4.0));
        let radius = random.between(3.0, 6.0);
        for (pixel, value) in values.iter_mut().enumerate() {
            let (y, x) = ((pixel / SIDE) as f32, (pixel % SIDE) as f32);
            if (y - row).powi(2) + (x - column).powi(2) < radius * radius {
                *value = disc;
                pixels[pixel] += 60.0;
            }
        }
    }
    let image = Image { height: SIDE, width: SIDE, channels: 1, bit_depth: 8, pixels, alpha_dropped: false };
    Sample {
        name: format!("discs{seed}"),
        image,
        truth: Truth::Instances(LabelMap { height: SIDE, width: SIDE, values }),
    }
}

/// A small network with everything that has a state: dropout, velocity, warm-up, evaluations.
fn config() -> Config {
    Config {
        steps: 20,
        base: 3,
        depth: 1,
        dropout: 0.25,
        tile: Some(36),
        batch: 2,
        warmup: 5,
        evaluate_every: 4,
        save_every: 5,
        ..Config::default()
    }
}

/// The same with other choices: those that have more of a state, or compute more.
fn other() -> Config {
    Config {
        optimizer: OptimizerKind::AdamW,
        weight_decay: 0.01,
        schedule: Schedule::Step { every: 6, factor: 0.5 },
        clip_norm: Some(0.5),
        loss: LossKind::Both,
        best_by: Metric::PixelError,
        augment: Augmentation::RECIPE,
        ..config()
    }
}

/// The same with a network that has running statistics, which weight decay must not touch.
fn with_batch_norm() -> Config {
    Config { model: Variant::Milesial, dropout: 0.0, tile: Some(32), ..other() }
}

/// The same with activations stored as `f16`, and a scaled loss.
fn mixed(config: Config) -> Config {
    Config { precision: Precision::Mixed, ..config }
}

/// A call of [`train`], with `stop_when` deciding at each event whether the user asks to stop.
fn call(
    config: &Config,
    device: &Device,
    out: &Path,
    resume: bool,
    stop_when: &mut dyn FnMut(&Event<'_>) -> bool,
) -> Result<Summary> {
    let job = Job {
        config,
        device,
        training: (0..3).map(discs).collect(),
        validation: (10..12).map(discs).collect(),
        classes: 2,
        metadata: Metadata::new(),
        out,
        init: None,
        resume,
    };
    train(job, &mut |event| {
        if stop_when(event) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

fn straight(config: &Config, device: &Device, out: &Path) -> Summary {
    call(config, device, out, false, &mut |_| false).unwrap()
}

fn is_step(event: &Event<'_>, step: u32) -> bool {
    matches!(event, Event::Step(progress) if progress.record.step == step)
}

/// The files that must not show that a run was interrupted.
fn files(out: &Path) -> Vec<Vec<u8>> {
    ["last.safetensors", "best.safetensors", "metrics.jsonl"]
        .iter()
        .map(|name| fs::read(out.join(name)).unwrap())
        .collect()
}

fn records(out: &Path) -> Vec<Record> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_folder(&source, &target);
        } else {
            fs::copy(source, target).unwrap();
        }
    }
}

fn gpu() -> Device {
    Device::Gpu(Gpu::any().unwrap_or_else(|error| panic!("{error}")))
}

/// However a run is cut, it ends with the same bytes.
fn resumes_exactly(config: &dyn Fn() -> Config, device: &Device) {
    let folder = tempfile::tempdir().unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    // A copy after step 12 is what a kill there would leave: the checkpoint of step 10 and twelve lines of metrics.
    call(&config(), device, &whole, false, &mut |event| {
        if is_step(event, 12) {
            copy_folder(&whole, &killed);
        }
        false
    })
    .unwrap();
    let expected = files(&whole);
    assert_eq!(records(&whole).len(), 20);
    assert_eq!(records(&whole).iter().filter(|record| record.scored.is_some()).count(), 5);
    assert_eq!(records(&killed).len(), 12);
    let summary = call(&config(), device, &killed, true, &mut |_| false).unwrap();
    assert_eq!((summary.resumed_from, summary.step, summary.status), (10, 20, Status::Finished));
    assert_eq!(files(&killed), expected, "killed after step 12");

    // The user stops it in a step, and in the evaluation that follows one.
    let in_step: &mut dyn FnMut(&Event<'_>) -> bool = &mut |event| is_step(event, 7);
    let mut evaluations = 0;
    let in_evaluation: &mut dyn FnMut(&Event<'_>) -> bool = &mut |event| {
        evaluations += u32::from(matches!(event, Event::Evaluating { .. }));
        evaluations == 4
    };
    for (name, stop_when, step) in [("in a step", in_step, 7), ("in an evaluation", in_evaluation, 8)] {
        let out = folder.path().join(name);
        let summary = call(&config(), device, &out, false, stop_when).unwrap();
        assert_eq!((summary.status, summary.step), (Status::Interrupted, step), "{name}");
        call(&config(), device, &out, true, &mut |_| false).unwrap();
        assert_eq!(files(&out), expected, "stopped {name}");
    }

    // It first was to have ten steps only, and ended.
    let out = folder.path().join("two parts");
    straight(&Config { steps: 10, ..config() }, device, &out);
    call(&config(), device, &out, true, &mut |_| false).unwrap();
    assert_eq!(files(&out), expected, "ten steps, then twenty");
}

#[test]
fn a_run_resumes_to_the_same_bytes_on_the_cpu() {
    resumes_exactly(&config, &Device::Cpu);
    resumes_exactly(&other, &Device::Cpu);
    resumes_exactly(&with_batch_norm, &Device::Cpu);
    resumes_exactly(&|| mixed(config()), &Device::Cpu);
}

#[test]
fn a_run_resumes_to_the_same_bytes_on_a_device() {
    resumes_exactly(&config, &gpu());
    resumes_exactly(&other, &gpu());
    resumes_exactly(&with_batch_norm, &gpu());
    resumes_exactly(&|| mixed(other()), &gpu());
}

#[test]
fn a_run_goes_on_with_the_kernels_that_it_began_with() {
    let config = Config { base: 4, dropout: 0.0, ..config() };
    let Device::Gpu(gpu) = gpu() else { return };
    let graph = Trainer::graph_of(&config, &config.model(1, 2), 36, &Device::Gpu(gpu.clone())).unwrap();
    let settings = Settings { repeats: 1, seed: 1 };
    let (ops, ..) = tune::ops(&gpu, &[&graph], settings, &mut |_| ControlFlow::Continue(())).unwrap();
    // Not the fastest, but others than those that come first.
    let last = ops.into_iter().filter_map(|tuned| {
        let right = tuned.candidates.iter().rposition(|timed| timed.problem.is_none());
        Tuned { winner: right, ..tuned }.choice()
    });
    let (chosen, plain) = (Device::Gpu(gpu.clone().with_choices(last.collect())), Device::Gpu(gpu));
    let [whole, cut, other] = [0; 3].map(|_| tempfile::tempdir().unwrap());
    straight(&config, &chosen, whole.path());
    straight(&config, &plain, other.path());
    assert_ne!(
        files(whole.path()),
        files(other.path()),
        "other kernels have other roundings, or this test sees nothing"
    );
    assert!(whole.path().join("kernels.toml").exists() && !other.path().join("kernels.toml").exists());
    call(&config, &chosen, cut.path(), false, &mut |event| is_step(event, 7)).unwrap();
    call(&config, &plain, cut.path(), true, &mut |_| false).unwrap();
    assert_eq!(files(whole.path()), files(cut.path()));
}

#[test]
fn the_number_of_workers_changes_nothing_and_may_change() {
    let folder = tempfile::tempdir().unwrap();
    let third = Config { sampling: Sampling::Pixels, foreground: 0.5, border_map: BorderMap::Release, ..other() };
    for (name, config) in [("config", config()), ("other", other()), ("third", third)] {
        let run = |workers: usize| {
            let out = folder.path().join(format!("{name} {workers}"));
            let with = |workers: usize, steps| Config { workers: workers.try_into().unwrap(), steps, ..config.clone() };
            straight(&with(workers, 7), &Device::Cpu, &out);
            let summary = call(&with(5 - workers, 20), &Device::Cpu, &out, true, &mut |_| false).unwrap();
            let share = summary.waiting_for_data.unwrap();
            assert!((0.0..1.0).contains(&share), "{share}");
            files(&out)
        };
        let expected = run(1);
        assert!(run(2) == expected && run(4) == expected);
    }
}

/// Flips and quarter turns take the way of everything else through the kernels, and lose nothing on it.
#[test]
fn flips_and_quarter_turns_alone_give_the_pixels_of_the_source() {
    let augmentation = &Augmentation::default();
    let mut random = Random::new(5, 0);
    for (frame, window, ways) in [([21, 21], [11, 11], Orientation::COUNT), ([18, 24], [10, 16], Orientation::FLIPS)] {
        let tiles = Tiles { batch: 1, channels: 2, frame, window, augmentation };
        let mut graph = Graph::new();
        let nodes = Augmented::build(&mut graph, &tiles).unwrap();
        let outputs = [nodes.image, nodes.labels, nodes.weights];
        for node in outputs {
            graph.mark_output("result", node).unwrap();
        }
        let pixels = frame[0] * frame[1];
        let image: Vec<f32> = (0..2 * pixels).map(|_| random.normal()).collect();
        let labels: Vec<u32> = (0..pixels).map(|_| random.below(5)).collect();
        // Pixels that are ignored have weight 0.
        let weights: Vec<f32> = (0..pixels).map(|_| random.between(-0.5, 3.0).max(0.0)).collect();
        for device in [Device::Cpu, gpu()] {
            let mut executor = Executor::new(&device, &graph, &[]).unwrap();
            let float = |node, data| Tensor::Float(Array { shape: graph.shape(node).clone(), data });
            let uint = |node, data| Tensor::Uint(Array { shape: graph.shape(node).clone(), data });
            let mut seen = HashSet::new();
            for tile in 0..40 {
                let Change { transform, displacements, intensities } = augmentation.draw(3, tile, frame, [-1.0, 1.0]);
                for (node, value) in [
                    (nodes.source_image, float(nodes.source_image, image.clone())),
                    (nodes.source_labels, uint(nodes.source_labels, labels.clone())),
                    (nodes.source_weights, float(nodes.source_weights, weights.clone())),
                    (nodes.transforms, float(nodes.transforms, transform.to_vec())),
                    (nodes.displacements, float(nodes.displacements, displacements)),
                    (nodes.intensities, float(nodes.intensities, intensities.to_vec())),
                    (nodes.generator, uint(nodes.generator, vec![3, tile])),
                ] {
                    executor.write(node, value).unwrap();
                }
                executor.run().unwrap();
                let [found_image, found_labels, found_weights] = outputs.map(|node| executor.read(node).unwrap());
                let lies = |orientation: &Orientation| {
                    // The pixels of the source that a window in the middle of the frame shows.
                    let sources = |[height, width]: [usize; 2]| {
                        let [top, left] = [(frame[0] - height) / 2, (frame[1] - width) / 2];
                        let places = (0..height).flat_map(move |y| (0..width).map(move |x| [top + y, left + x]));
                        places.map(|place| orientation.source(place, frame)).map(|[y, x]| y * frame[1] + x)
                    };
                    sources(frame).flat_map(|pixel| &image[2 * pixel..][..2]).eq(&found_image.float().data)
                        && sources(window).map(|pixel| &labels[pixel]).eq(&found_labels.uint().data)
                        && sources(window).map(|pixel| &weights[pixel]).eq(&found_weights.float().data)
                };
                let orientations: Vec<Orientation> = (0..ways).map(Orientation::of).filter(lies).collect();
                assert_eq!(orientations.len(), 1, "tile {tile} of {frame:?} on {device:?}");
                seen.extend(orientations);
            }
            assert_eq!(seen.len() as u32, ways, "{frame:?} on {device:?}");
        }
    }
}

/// Each part of the augmentation changes the very first loss, and a device agrees with the CPU on all of it.
#[test]
fn each_part_of_the_augmentation_reaches_the_loss() {
    let none = Augmentation::NONE;
    let parts = [
        none,
        Augmentation { flips: true, ..none },
        Augmentation { elastic: 4.0, ..none },
        Augmentation { rotation: 30.0, ..none },
        Augmentation { scale: 0.5, ..none },
        Augmentation { shift: 5.0, ..none },
        Augmentation { brightness: 0.5, ..none },
        Augmentation { contrast: 0.5, ..none },
        Augmentation { gamma: 0.5, ..none },
        Augmentation { noise: 0.5, ..none },
        Augmentation::RECIPE,
    ];
    let folder = tempfile::tempdir().unwrap();
    let loss = |augment: Augmentation, device: &Device, name: &str| {
        let out = folder.path().join(name);
        let config = Config { augment, steps: 1, dropout: 0.0, base: 4, tile: Some(60), ..config() };
        straight(&config, device, &out);
        records(&out)[0].loss
    };
    let losses: Vec<f32> =
        parts.iter().enumerate().map(|(i, part)| loss(*part, &Device::Cpu, &format!("part {i}"))).collect();
    for (i, first) in losses.iter().enumerate() {
        assert!(losses[..i].iter().all(|second| (first - second).abs() > 1e-6), "{}: {losses:?}", parts[i]);
    }
    let found = loss(Augmentation::RECIPE, &gpu(), "device");
    let expected = losses[losses.len() - 1];
    assert!((found - expected).abs() < 1e-4 * expected, "{found} on a device, {expected} on the CPU");
}

/// If the comparison above could not fail, it would prove nothing: each part of the state that is lost must show.
#[test]
fn losing_any_part_of_the_state_changes_the_result() {
    for (config, states) in [(config(), vec!["momentum_buffer"]), (other(), vec!["exp_avg", "exp_avg_sq"])] {
        let folder = tempfile::tempdir().unwrap();
        let (whole, half) = (folder.path().join("whole"), folder.path().join("half"));
        straight(&config, &Device::Cpu, &whole);
        straight(&Config { steps: 10, ..config.clone() }, &Device::Cpu, &half);
        let graph = config.model(1, 2).build(1, [36, 36]).unwrap().graph;
        let weights = Weights::load(half.join("last.safetensors")).unwrap();
        let metadata = weights.metadata().clone();
        let mut banks = vec![(String::new(), weights.bank_for(&graph).unwrap())];
        for prefix in states.iter().map(|state| state_prefix(state)) {
            let bank = weights.bank_with(&graph, &prefix).unwrap();
            banks.push((prefix, bank));
        }
        // Ten more steps from that checkpoint, by which the whole run has its 20; a lost count of steps begins at 0.
        let resumed = |name: &str, banks: &[(String, Vec<f32>)], metadata: &Metadata| {
            let out = folder.path().join(name);
            copy_folder(&half, &out);
            let sections: Vec<Section<'_>> = banks.iter().map(|(prefix, bank)| Section { prefix, bank }).collect();
            save(&out.join("last.safetensors"), &graph, &sections, metadata).unwrap();
            let steps = 10 + metadata.get::<u32>(Metadata::STEP).unwrap().unwrap();
            call(&Config { steps, ..config.clone() }, &Device::Cpu, &out, true, &mut |_| false).unwrap();
            out
        };
        let expected = files(&whole);
        assert_eq!(files(&resumed("unchanged", &banks, &metadata)), expected);
        // Not the files are compared but the weights: what is edited is in the file anyway.
        let weights = |out: &Path| Weights::load(out.join("last.safetensors")).unwrap().bank_for(&graph).unwrap();
        let differs = |part: &str, banks: &[(String, Vec<f32>)], metadata: &Metadata| {
            assert!(weights(&resumed(part, banks, metadata)) != weights(&whole), "nothing shows that {part} was lost");
        };
        for (index, state) in states.iter().enumerate() {
            let mut banks = banks.clone();
            banks[index + 1].1.fill(0.0);
            differs(state, &banks, &metadata);
        }
        let edited = || metadata.clone();
        differs("the state of the generator", &banks, &edited().with("generator", &[config.seed, 0]));
        differs("the place in the data", &banks, &edited().with("batch", &0));
        differs("the step of the schedule", &banks, &edited().with(Metadata::STEP, &0));
        let no_best = files(&resumed("no best", &banks, &edited().with("best", &None::<u32>)));
        assert_eq!(no_best[2], expected[2], "what was best so far does not change the steps");
    }
}

/// Overfits a few pictures: the loss falls, and the weights separate discs from background on pictures never seen.
fn learns(config: &Config, device: &Device) {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { steps: 150, base: 8, dropout: 0.0, warmup: 10, evaluate_every: 50, ..config.clone() };
    let summary = call(&config, device, folder.path(), false, &mut |event| {
        assert!(!matches!(event, Event::Diagnosed(_)), "a run that learns is well: {event:?}");
        false
    })
    .unwrap();
    assert_eq!(summary.diagnosis, None);
    let losses: Vec<f32> = records(folder.path()).iter().map(|record| record.loss).collect();
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    let (first, last) = (mean(&losses[..10]), mean(&losses[140..]));
    assert!(last < 0.6 * first, "the loss went from {first} to {last}");
    let best = summary.best.unwrap();
    assert!(best.value > 0.7, "{best:?}");
    let weights = Weights::load(folder.path().join("best.safetensors")).unwrap();
    assert_eq!(weights.metadata().get::<u32>(Metadata::STEP), Ok(Some(best.step)));
    assert!(!weights.has("optim."));
}

#[test]
fn a_small_network_learns_on_the_cpu() {
    learns(&Config { learning_rate: Some(0.01), ..config() }, &Device::Cpu);
    let other = Config { learning_rate: Some(0.003), schedule: Schedule::Cosine, best_by: Metric::MeanIou, ..other() };
    learns(&other, &Device::Cpu);
    learns(&Config { loss: LossKind::Dice, ..other }, &Device::Cpu);
}

#[test]
fn a_small_network_learns_on_a_device() {
    learns(&Config { learning_rate: Some(0.01), ..config() }, &gpu());
    learns(&Config { learning_rate: Some(0.003), best_by: Metric::ForegroundIou, ..other() }, &gpu());
    let padded = Config { model: Variant::Milesial, tile: Some(32), ..config() };
    learns(&Config { learning_rate: Some(0.01), ..padded }, &gpu());
}

/// To within so much of a share, the loss of a run in mixed precision is that of the same run in `f32`.
const LIKE_F32: f32 = 0.02;

#[test]
fn mixed_precision_learns_as_well_as_f32() {
    let folder = tempfile::tempdir().unwrap();
    let mean_of_last = |config: &Config, name: &str| {
        let out = folder.path().join(name);
        let summary = straight(config, &gpu(), &out);
        let losses: Vec<f32> = records(&out).iter().map(|record| record.loss).collect();
        (losses[50..].iter().sum::<f32>() / 50.0, summary)
    };
    let config = Config { steps: 100, base: 8, dropout: 0.0, warmup: 10, learning_rate: Some(0.01), ..config() };
    let (single, summary) = mean_of_last(&config, "f32");
    assert_eq!(summary.scaling, None);
    let (half, summary) = mean_of_last(&mixed(config), "mixed");
    assert!((half / single - 1.0).abs() < LIKE_F32, "the loss ends at {single} in f32, at {half} in mixed precision");
    assert_eq!(summary.scaling, Some(Scaling { loss_scale: 65_536.0, overflows: 0, skipped: false }));
    // What predicts needs nothing of the training.
    let weights = Weights::load(folder.path().join("mixed/best.safetensors")).unwrap();
    assert!(!weights.has("optim."));
}

#[test]
fn a_loss_scale_that_has_fallen_to_the_least_ends_the_run_with_words() {
    // What overflows is the forward pass, whatever the scale of the loss.
    let diverging = Config { learning_rate: Some(1e6), warmup: 0, clip_norm: Some(0.0), ..mixed(config()) };
    let config = Config { steps: 100, dropout: 0.0, save_every: 100, evaluate_every: 1000, ..diverging };
    let message = diverges(&config, &gpu());
    assert!(message.contains("no longer scaled") && message.contains("--precision f32"), "{message}");
}

#[test]
fn the_best_weights_are_those_of_the_chosen_metric() {
    let metrics =
        [Metric::ForegroundIou, Metric::MeanIou, Metric::PixelError, Metric::Loss, Metric::Ap50, Metric::MeanAp];
    for metric in metrics {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { best_by: metric, evaluate_every: 1, ..config() };
        let summary = straight(&config, &Device::Cpu, folder.path());
        let (mut step, mut value) = (0, None);
        for record in records(folder.path()) {
            let new = metric.of(&record.scored.unwrap());
            if new.is_some_and(|new| value.is_none_or(|value| metric.is_better(new, value))) {
                (step, value) = (record.step, new);
            }
        }
        let best = summary.best.unwrap();
        assert_eq!((best.step, best.metric, Some(best.value)), (step, metric, value));
    }
}

/// Trained weights in place of random ones: all of them where the classes are the same, all but the last layer where they are not.
#[test]
fn training_may_begin_with_weights() {
    let folder = tempfile::tempdir().unwrap();
    let before = Config { intensities: Intensities::Unit, ..config() };
    straight(&before, &Device::Cpu, &folder.path().join("before"));
    let weights = Weights::load(folder.path().join("before").join("best.safetensors")).unwrap();
    let (net, bank) = weights.network().unwrap();
    assert_eq!(weights.intensities(&net).unwrap(), Intensities::Unit, "what training gave the network is in the file");
    let samples = || (0..3).map(|seed| before.prepared(discs(seed)).unwrap());
    let started = |classes| {
        let mut trainer = Trainer::new(&before, before.model(1, classes), 36, &Device::Cpu, samples()).unwrap();
        let random = trainer.parameters().unwrap();
        trainer.start_from(&weights).unwrap();
        (random, trainer)
    };
    let (random, mut same) = started(2);
    assert!(same.parameters().unwrap() == bank && random != bank);
    let (random, other) = started(3);
    let (graph, now) = (other.graph(), other.parameters().unwrap());
    for parameter in graph.parameters() {
        let slice = |bank: &[f32]| graph.bank_slice(bank, parameter).to_vec();
        let is_head = parameter.name.starts_with("head");
        assert_eq!(
            slice(&now) == slice(&random),
            is_head || slice(&now).iter().all(|&v| v == 0.0),
            "{}",
            parameter.name
        );
    }

    let out = folder.path().join("after");
    let mut first = None;
    let job = Job {
        config: &Config { steps: 1, ..before.clone() },
        device: &Device::Cpu,
        training: (0..3).map(discs).collect(),
        validation: Vec::new(),
        classes: 2,
        metadata: Metadata::new(),
        out: &out,
        init: Some(&weights),
        resume: false,
    };
    let summary = train(job, &mut |event| {
        if let Event::Ready { trainer, .. } = event {
            first = Some(trainer.parameters().unwrap());
        }
        ControlFlow::Continue(())
    });
    assert!(first.unwrap() == bank && summary.unwrap().loss == Some(same.step().unwrap().loss));

    let deep = Config { depth: 2, tile: None, ..before.clone() };
    let mut trainer =
        Trainer::new(&deep, deep.model(1, 2), deep.tile_for(&[discs(0)]), &Device::Cpu, samples()).unwrap();
    let message = trainer.start_from(&weights).unwrap_err().to_string();
    assert!(message.contains("of unet of depth 1 and base 3") && message.contains("is unet of depth 2"), "{message}");
}

#[test]
fn classes_weigh_what_they_are_told_to() {
    let by_class = Some(vec![0.5, 3.0]);
    let plain = Config { border: BorderUse::Never, ..config() };
    let config = Config { class_weights: by_class.clone(), ..plain.clone() };
    let prepared = config.prepared(discs(0)).unwrap();
    let expected = prepared.classes.iter().map(|&class| if class == 0 { 0.5 } else { 3.0 });
    assert!(prepared.weights.iter().copied().eq(expected));
    let folder = tempfile::tempdir().unwrap();
    for (class_weights, balance, part) in [
        (Some(vec![1.0; 3]), false, "3 values, the data 2 classes"),
        (Some(vec![1.0, 0.0]), false, "class_weights must be above 0"),
        (by_class, true, "leave one of them out"),
    ] {
        let config = Config { class_weights, balance, ..plain.clone() };
        let error = call(&config, &Device::Cpu, folder.path(), false, &mut |_| false).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

/// A run on enlarged images has the tiles of these, scores images at their own size, and its weights say so.
#[test]
fn a_run_may_enlarge_its_images() {
    let folder = tempfile::tempdir().unwrap();
    let zoom = Zoom::try_from(2.0).unwrap();
    let config = Config { zoom, tile: None, steps: 2, evaluate_every: 1, ..config() };
    let own = discs(10);
    let summary = straight(&config, &Device::Cpu, folder.path());
    let model = config.model(1, 2);
    let shorter = own.image.height.min(own.image.width);
    assert_eq!(summary.tile, model.legal_above(2 * shorter + model.shrink()));
    let weights = Weights::load(folder.path().join("best.safetensors")).unwrap();
    assert_eq!(weights.zoom().unwrap(), zoom);
    let mut predictor = Predictor::load(Device::Cpu, &weights, Some([summary.tile; 2])).unwrap();
    let mut confusion = Confusion::new(2);
    for sample in (10..12).map(discs) {
        confusion.merge(&predictor.score(&sample).unwrap().1);
    }
    let best = summary.best.unwrap();
    assert_eq!(
        records(folder.path())[best.step as usize - 1].scored.unwrap().pixel_error.to_bits(),
        confusion.scores().pixel_error.to_bits()
    );
    let resumed = call(&Config { zoom: Zoom::default(), ..config }, &Device::Cpu, folder.path(), true, &mut |_| false);
    assert!(resumed.unwrap_err().to_string().contains("zoom was 2.0 and would be 1.0"));
}

#[test]
fn objects_are_scored_as_evaluate_scores_them() {
    let folder = tempfile::tempdir().unwrap();
    let rate = Some(0.01);
    let config = Config { best_by: Metric::MeanAp, steps: 150, base: 8, dropout: 0.0, learning_rate: rate, ..config() };
    let summary = straight(&Config { evaluate_every: 50, ..config }, &Device::Cpu, folder.path());
    let weights = Weights::load(folder.path().join("best.safetensors")).unwrap();
    let mut predictor = Predictor::load(Device::Cpu, &weights, None).unwrap();
    let score = |seed| {
        let sample = discs(seed);
        let found = Components::default().label(&predictor.predict(&sample.image).unwrap().label_map());
        InstanceScores::new(&sample.instances(), &found).unwrap()
    };
    let expected = InstanceScores::mean(&(10..12).map(score).collect::<Vec<_>>());
    let best = summary.best.unwrap();
    assert_eq!(Some(best.value), expected.mean_average_precision);
    let records = records(folder.path());
    let scored = records[best.step as usize - 1].scored.unwrap();
    assert_eq!(scored.ap50, expected.average_precision.map(|precision| precision[0]));
    assert!(best.value > 0.0 && scored.ap50 > scored.mean_ap, "{scored:?}");
}

#[test]
fn objects_cannot_be_compared_where_the_truth_does_not_tell_them_apart() {
    let folder = tempfile::tempdir().unwrap();
    let mut validation = discs(10);
    validation.truth = Truth::Classes(validation.classes().into_owned());
    let job = Job {
        config: &Config { best_by: Metric::Ap50, ..config() },
        device: &Device::Cpu,
        training: (0..3).map(discs).collect(),
        validation: vec![validation],
        classes: 2,
        metadata: Metadata::new(),
        out: folder.path(),
        init: None,
        resume: false,
    };
    let message = train(job, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(message.contains("AP at IoU 0.5 compares objects") && message.contains("instances/"), "{message}");
}

#[test]
fn a_run_whose_scores_stay_stops_early_wherever_it_was_cut() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, cut) = (folder.path().join("whole"), folder.path().join("cut"));
    // Such a learning rate changes nothing, so no evaluation is better than the first.
    let config = Config { learning_rate: Some(1e-30), evaluate_every: 2, patience: Some(3), ..config() };
    let summary = straight(&config, &Device::Cpu, &whole);
    assert_eq!((summary.status, summary.step, summary.best.unwrap().step), (Status::EarlyStopped, 8, 2));
    call(&config, &Device::Cpu, &cut, false, &mut |event| is_step(event, 5)).unwrap();
    let summary = call(&config, &Device::Cpu, &cut, true, &mut |_| false).unwrap();
    assert_eq!((summary.status, summary.step), (Status::EarlyStopped, 8));
    assert_eq!(files(&cut), files(&whole));
    let again = call(&config, &Device::Cpu, &cut, true, &mut |_| false).unwrap();
    assert_eq!((again.status, again.step), (Status::EarlyStopped, 8), "there is nothing new to wait for");
    let config = Config { patience: Some(5), ..config };
    let summary = call(&config, &Device::Cpu, &cut, true, &mut |_| false).unwrap();
    assert_eq!((summary.status, summary.step), (Status::EarlyStopped, 12));
}

#[test]
fn patience_without_evaluations_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let job = Job {
        config: &Config { patience: Some(3), ..config() },
        device: &Device::Cpu,
        training: (0..3).map(discs).collect(),
        validation: Vec::new(),
        classes: 2,
        metadata: Metadata::new(),
        out: folder.path(),
        init: None,
        resume: false,
    };
    let message = train(job, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(message.contains("patience") && message.contains("--val DIR"), "{message}");
}

#[test]
fn clipping_records_the_norm_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = |name: &str| folder.path().join(name);
    let run = |name: &str, clip_norm| {
        straight(&Config { clip_norm, ..config() }, &Device::Cpu, &out(name));
        records(&out(name))
    };
    let (without, loose, tight) = (run("without", Some(0.0)), run("loose", Some(1e9)), run("tight", Some(1e-3)));
    assert!(without.iter().all(|record| record.grad_norm.is_none()));
    assert!(loose.iter().all(|record| record.grad_norm.is_some_and(|norm| norm > 0.0 && norm < 1e9)));
    let losses = |records: &[Record]| records.iter().map(|record| record.loss.to_bits()).collect::<Vec<_>>();
    assert_eq!(losses(&without), losses(&loose), "a norm that is never reached changes nothing");
    assert_eq!(loose[0].grad_norm, tight[0].grad_norm, "the norm is that before");
    assert_ne!(losses(&loose), losses(&tight));
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { learning_rate: Some(1e20), warmup: 0, save_every: 1, ..config() };
    let error = call(&config, &Device::Cpu, folder.path(), false, &mut |_| false).unwrap_err();
    let message = error.to_string();
    assert_eq!(error.exit_code(), 7, "{message}");
    for part in ["diverged", "--lr", "checkpoint of step", "is whole", "last.safetensors", "pass of step", "are finite"]
    {
        assert!(message.contains(part), "{part}: {message}");
    }
    let graph = config.model(1, 2).build(1, [36, 36]).unwrap().graph;
    Weights::load(folder.path().join("last.safetensors")).unwrap().bank_for(&graph).unwrap();
    let summary = fs::read_to_string(folder.path().join("summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!((summary["status"].as_str(), summary["failure"].as_str()), (Some("diverged"), Some(message.as_str())));
}

/// The message of a run that diverges.
fn diverges(config: &Config, device: &Device) -> String {
    let folder = tempfile::tempdir().unwrap();
    let error = call(config, device, folder.path(), false, &mut |_| false).unwrap_err();
    assert_eq!(error.exit_code(), 7, "{error}");
    error.to_string()
}

#[test]
fn the_first_tensor_that_is_not_finite_is_named_though_its_step_was_overwritten() {
    // Each update makes the weights about 1e12 times what they were: soon a product overflows, long after the checkpoint.
    let forward = Config { learning_rate: Some(1e12), warmup: 0, save_every: 100, ..config() };
    let update = Config { learning_rate: Some(3e38), momentum: 0.0, weight_decay: 1e4, ..forward.clone() };
    for device in [Device::Cpu, gpu()] {
        let message = diverges(&forward, &device);
        for part in
            ["the first tensor that is not finite is the output of `", "pass of step", "checkpoint of step 0 is whole"]
        {
            assert!(message.contains(part), "{part}: {message}");
        }
        let message = diverges(&update, &device);
        for part in ["all gradients of step 1 are finite", "learning rate of 3e38 made `", "checkpoint of step 0"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
}

#[test]
fn an_image_that_is_not_finite_is_named_and_no_learning_rate_is_blamed() {
    let folder = tempfile::tempdir().unwrap();
    let mut training: Vec<Sample> = (0..3).map(discs).collect();
    training[1].image.pixels[77] = f32::INFINITY;
    let job = Job {
        config: &config(),
        device: &gpu(),
        training,
        validation: Vec::new(),
        classes: 2,
        metadata: Metadata::new(),
        out: folder.path(),
        init: None,
        resume: false,
    };
    let message = train(job, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(message.contains("`source.image` is NaN") && message.contains("pixels or weights of discs1"), "{message}");
    assert!(message.contains("Mend") && !message.contains("--lr"), "{message}");
}

#[test]
fn gradients_whose_norm_overflows_end_the_run_too() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { border_w0: Some(1e25), reduction: Reduction::Sum, clip_norm: Some(1.0), ..config() };
    let error = call(&config, &Device::Cpu, folder.path(), false, &mut |_| false).unwrap_err();
    let message = error.to_string();
    assert!(error.exit_code() == 7 && message.contains("the norm of the gradients of step 1 is inf"), "{message}");
    assert!(message.contains("output of `clip.total` (clip_grad_norm_total)"), "{message}");
}

#[test]
fn a_class_that_is_not_in_the_training_data_is_named_when_all_is_predicted_as_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut training: Vec<Sample> = (0..3).map(discs).collect();
    for sample in &mut training {
        let values = vec![0; sample.image.pixels.len()];
        sample.truth = Truth::Classes(LabelMap { height: 40, width: 40, values });
    }
    let job = Job {
        config: &Config { steps: 60, dropout: 0.0, evaluate_every: 20, ..config() },
        device: &Device::Cpu,
        training,
        validation: (10..12).map(discs).collect(),
        classes: 2,
        metadata: Metadata::new(),
        out: folder.path(),
        init: None,
        resume: false,
    };
    let mut told = Vec::new();
    let summary = train(job, &mut |event| {
        if let Event::Diagnosed(diagnosis) = event {
            told.push(diagnosis.to_string());
        }
        ControlFlow::Continue(())
    });
    let diagnosis = summary.unwrap().diagnosis.unwrap();
    assert_eq!((diagnosis.class, &diagnosis.training_shares[..]), (0, &[1.0, 0.0][..]));
    assert!(diagnosis.validation_loss.unwrap() > diagnosis.constant_loss, "{diagnosis:?}");
    assert_eq!(told.len(), 1, "it is said once: {told:?}");
    for part in
        ["predicted as class 0", "class 1 does not occur in the training images", "no better than", "check-data"]
    {
        assert!(told[0].contains(part), "{part}: {told:?}");
    }
    let summary = fs::read_to_string(folder.path().join("summary.json")).unwrap();
    assert!(summary.contains("class 1 does not occur"), "{summary}");
}

#[test]
fn units_that_are_dead_and_scores_that_are_constant_are_told() {
    for device in [Device::Cpu, gpu()] {
        let folder = tempfile::tempdir().unwrap();
        straight(&Config { steps: 2, ..config() }, &device, folder.path());
        let graph = config().model(1, 2).build(1, [36, 36]).unwrap().graph;
        let last = folder.path().join("last.safetensors");
        let weights = Weights::load(&last).unwrap();
        let momentum = state_prefix("momentum_buffer");
        let (mut bank, velocity) = (weights.bank_for(&graph).unwrap(), vec![0.0; graph.bank_elements()]);
        // What a step that was too long does: no pixel reaches the head any more, and no gradient comes back.
        for (name, value) in [("decoder0.conv2.bias", -1e6), ("head.bias", 0.0)] {
            let parameter = graph.parameters().iter().find(|parameter| parameter.name == name).unwrap();
            bank[parameter.offset..][..parameter.shape.elements()].fill(value);
        }
        let sections = [Section { prefix: "", bank: &bank }, Section { prefix: &momentum, bank: &velocity }];
        save(&last, &graph, &sections, weights.metadata()).unwrap();
        let mut told = 0;
        let config = Config { steps: 8, ..config() };
        let summary = call(&config, &device, folder.path(), true, &mut |event| {
            told += u32::from(matches!(event, Event::Diagnosed(_)));
            false
        });
        let diagnosis = summary.unwrap().diagnosis.unwrap();
        let units = diagnosis.units.as_ref().unwrap();
        assert_eq!(units.dead_layer.as_deref(), Some("decoder0.conv2.relu"), "{diagnosis:?}");
        // Two convolutions of 3, two of 6, two of 3 channels.
        assert!(units.total == 24 && units.dead >= 3, "{units:?}");
        assert!(diagnosis.score_deviation < 1e-6 && told == 1, "{diagnosis:?}, told {told} time(s)");
        let text = diagnosis.to_string();
        for part in ["no unit of `decoder0.conv2.relu`", "the scores are the same everywhere", "--lr than 0.03"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

#[test]
fn what_would_mix_two_runs_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    straight(&Config { steps: 2, ..config() }, &Device::Cpu, out);
    let before = files(out);
    let refusal = |config: &Config, resume| match call(config, &Device::Cpu, out, resume, &mut |_| false) {
        Err(error @ Error::Usage(_)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(refusal(&config(), false).contains("--resume"));
    assert!(refusal(&Config { base: 4, ..config() }, true).contains("base was 3 and would be 4"));
    assert!(refusal(&Config { seed: 2, ..config() }, true).contains("seed was 1 and would be 2"));
    assert!(refusal(&Config { tile: Some(37), ..config() }, false).contains("36 and 38"));
    let job = Job {
        config: &config(),
        device: &Device::Cpu,
        training: (1..4).map(discs).collect(),
        validation: (10..12).map(discs).collect(),
        classes: 2,
        metadata: Metadata::new(),
        out,
        init: None,
        resume: true,
    };
    let message = train(job, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(message.contains("not those that this run began with"), "{message}");
    // Even where the configuration in the folder was edited to say so.
    let written = fs::read_to_string(out.join("config.toml")).unwrap();
    fs::write(out.join("config.toml"), written.replace("seed = 1", "seed = 2")).unwrap();
    let error = call(&Config { seed: 2, ..config() }, &Device::Cpu, out, true, &mut |_| false).unwrap_err();
    let message = error.to_string();
    assert!(error.exit_code() == 3 && message.contains("has the seed 1, the configuration 2"), "{message}");
    assert_eq!(files(out), before, "a refusal changes nothing");
}

#[test]
fn samples_that_do_not_fit_the_network_are_named() {
    let refusal = |change: &dyn Fn(&mut Sample, &mut Sample)| {
        let folder = tempfile::tempdir().unwrap();
        let (mut training, mut validation) = (discs(0), discs(10));
        change(&mut training, &mut validation);
        let job = Job {
            config: &config(),
            device: &Device::Cpu,
            training: vec![training],
            validation: vec![validation],
            classes: 2,
            metadata: Metadata::new(),
            out: folder.path(),
            init: None,
            resume: false,
        };
        train(job, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string()
    };
    let message = refusal(&|training, _| {
        let mut classes = training.classes().into_owned();
        classes.values[7] = 5;
        training.truth = Truth::Classes(classes);
    });
    assert_eq!(message, "discs0: class 5 in a network of 2 classes, 0 to 1");
    let message = refusal(&|_, validation| {
        let Image { channels, pixels, .. } = &mut validation.image;
        (*channels, *pixels) = (3, pixels.iter().flat_map(|&value| [value; 3]).collect());
    });
    assert_eq!(message, "discs10: the validation image has 3 channel(s), the training images have 1");
}

#[test]
fn a_damaged_checkpoint_is_named() {
    let folder = tempfile::tempdir().unwrap();
    straight(&Config { steps: 2, ..config() }, &Device::Cpu, folder.path());
    let last = folder.path().join("last.safetensors");
    let bytes = fs::read(&last).unwrap();
    fs::write(&last, &bytes[..bytes.len() / 2]).unwrap();
    let error = call(&config(), &Device::Cpu, folder.path(), true, &mut |_| false).unwrap_err();
    assert!(error.to_string().contains("truncated") && error.exit_code() == 3, "{error}");
    fs::copy(folder.path().join("best.safetensors"), &last).unwrap();
    let error = call(&config(), &Device::Cpu, folder.path(), true, &mut |_| false).unwrap_err();
    assert!(error.to_string().contains("without the state of a training"), "{error}");
}

#[test]
fn the_time_limit_ends_a_run_in_good_order() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { steps: 1_000_000, minutes: Some(0.01), ..config() };
    let summary = straight(&config, &Device::Cpu, folder.path());
    assert_eq!(summary.status, Status::TimeIsUp);
    assert!(summary.step > 0 && summary.step < 1_000_000, "{}", summary.step);
    let weights = Weights::load(folder.path().join("last.safetensors")).unwrap();
    assert_eq!(weights.metadata().get::<u32>(Metadata::STEP), Ok(Some(summary.step)));
}
