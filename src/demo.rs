//! The demo: images of cells are made, a small U-Net learns to segment them, and pictures show what it learned.

use crate::checkpoint::{Metadata, Weights, atomic};
use crate::data::{Augmentation, Image, Sample, cells};
use crate::error::{Error, Result};
use crate::executor::Device;
use crate::metrics::{Confusion, otsu_threshold};
use crate::models::Variant;
use crate::picture::{Curve, Picture, curve_svg};
use crate::predict::Predictor;
use crate::progress::unwatched;
use crate::report;
use crate::train::{Config, EVENTS, Event, Job, MAPS, Observer, Record, Status, train};
use rayon::prelude::*;
use serde::Serialize;
use std::fs;
use std::path::Path;
use std::time::Instant;

/// Side of the images in pixels.
const SIDE: usize = 256;
/// Images to learn from, to choose the best weights by, and to report on. They differ in the index they are generated from.
const IMAGES: [u32; 3] = [32, 4, 6];

/// Background and cell.
const CLASSES: usize = 2;

/// Tiles are the smallest that the network takes from this side on.
const SMALLEST_TILE: usize = 188;

/// What the demo found: the content of `demo.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Foreground IoU of the best weights, pooled over the held-out images, which neither trained nor chose the weights.
    pub foreground_iou: f64,
    /// Share of wrong pixels.
    pub pixel_error: f64,
    /// What it takes to beat doing nothing, on the same images.
    pub baselines: Baselines,
    /// Training steps.
    pub steps: u32,
    /// Why training ended.
    pub status: Status,
    /// Seconds from the first image to the last picture.
    pub seconds: f64,
    /// Training steps a second.
    pub steps_per_second: Option<f64>,
    /// Trainable numbers.
    pub parameters: usize,
    /// Where it ran.
    pub device: String,
    /// The seed.
    pub seed: u32,
}

/// Segmentations without learning.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Baselines {
    /// Everything is background.
    pub all_background: Baseline,
    /// Otsu's threshold of each image.
    pub threshold: Baseline,
}

/// The scores of a baseline.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Baseline {
    /// Foreground IoU, pooled over the images.
    pub foreground_iou: f64,
    /// Share of wrong pixels.
    pub pixel_error: f64,
}

/// The settings of the demo's training run: a network small enough for two CPU cores behind a software driver.
pub fn config(seed: u32, model: Variant) -> Config {
    let config = Config {
        model,
        steps: 700,
        minutes: Some(2.4),
        base: 8,
        depth: 3,
        batch: 2,
        learning_rate: Some(0.05),
        warmup: 30,
        cooldown: 500,
        momentum: 0.9,
        balance: false,
        seed,
        evaluate_every: 50,
        save_every: 200,
        augment: Augmentation::RECIPE,
        ..Config::default()
    };
    let tile = config.model(1, CLASSES).legal_above(SMALLEST_TILE);
    Config { tile: Some(tile), ..config }
}

/// Makes images, trains on them by this configuration, which [`config`] gives, and writes `data/`, the files of a training run, `demo.json`,
/// `report.html`, `loss.svg` and `examples.png` to a folder. An earlier demo there is replaced.
///
/// # Errors
/// [`Error::Usage`] when the folder holds something else, [`Error::Io`] when a file cannot be written; as [`train`].
pub fn run(device: &Device, config: Config, out: &Path, observer: &mut Observer<'_>) -> Result<Report> {
    let started = Instant::now();
    clear(out)?;
    let [training, validation, held_out] = images(config.seed, out)?;
    let data = |name: &str| Some(out.join("data").join(name));
    let config = Config { data: data("train"), val: data("val"), ..config };
    let mut records: Vec<Record> = Vec::new();
    let job = Job {
        config: &config,
        device,
        training: training.clone(),
        validation: validation.clone(),
        classes: CLASSES,
        metadata: Metadata::new(),
        out,
        init: None,
        resume: false,
    };
    let summary = train(job, &mut |event| {
        if let Event::Step(progress) = event {
            records.push(progress.record);
        }
        observer(event)
    })?;
    if summary.status == Status::Interrupted {
        return Err(Error::Interrupted);
    }
    draw_curve(&out.join("loss.svg"), &records)?;
    let mut predictor = Predictor::load(device.clone(), &Weights::load(out.join("best.safetensors"))?, None)?;
    let (scores, baselines) = compare(&mut predictor, &held_out, &out.join("examples.png"))?;
    let report = Report {
        foreground_iou: scores.foreground_iou,
        pixel_error: scores.pixel_error,
        baselines,
        steps: summary.step,
        status: summary.status,
        seconds: started.elapsed().as_secs_f64(),
        steps_per_second: summary.steps_per_second,
        parameters: summary.parameters,
        device: device.to_string(),
        seed: config.seed,
    };
    report::write(out, device, &training, &validation, &mut unwatched)?;
    let path = out.join(RESULT);
    let text = serde_json::to_string_pretty(&report).map_err(|error| Error::io("write", &path, error.into()))?;
    atomic::write(&path, |file| writeln!(file, "{text}"))?;
    Ok(report)
}

/// The name of the file that marks a folder as a demo's, whose files the next demo may replace.
const MARKER: &str = ".tilewise-demo";

/// The name of the file of its [`Report`].
const RESULT: &str = "demo.json";

/// What a demo writes.
const FILES: [&str; 14] = [
    MARKER,
    "data",
    "config.toml",
    "metrics.jsonl",
    EVENTS,
    "last.safetensors",
    "best.safetensors",
    "summary.json",
    RESULT,
    report::FILE,
    report::PROGRESS,
    MAPS,
    "loss.svg",
    "examples.png",
];

/// Removes the files of an earlier demo and marks the folder.
fn clear(out: &Path) -> Result<()> {
    fs::create_dir_all(out).map_err(|error| Error::io("create", out, error))?;
    let marker = out.join(MARKER);
    let mut found = Vec::new();
    for entry in fs::read_dir(out).map_err(|error| Error::io("read", out, error))? {
        let path = entry.map_err(|error| Error::io("read", out, error))?.path();
        let ours = path.file_name().is_some_and(|name| FILES.iter().any(|file| name == *file));
        if !ours || !marker.exists() {
            return Err(Error::Usage(format!(
                "{} is not an earlier demo's: move it elsewhere, or give --out another folder",
                path.display()
            )));
        }
        found.push(path);
    }
    // The marker last: until then the folder is known for what it is.
    found.sort_by_key(|path| *path == marker);
    for path in found {
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(|error| Error::io("remove", &path, error))?;
    }
    fs::write(&marker, "tilewise demo replaces these files\n").map_err(|error| Error::io("write", marker, error))
}

/// Generates the images for training, validation and the report, and keeps them as data sets for `train` and `evaluate`.
fn images(seed: u32, out: &Path) -> Result<[Vec<Sample>; 3]> {
    let mut first = 0;
    let mut sets = [Vec::new(), Vec::new(), Vec::new()];
    for ((set, name), count) in sets.iter_mut().zip(["train", "val", "held-out"]).zip(IMAGES) {
        let folder = out.join("data").join(name);
        *set = (first..first + count).into_par_iter().map(|index| cells::generate(seed, index, SIDE)).collect();
        cells::write_dataset(&folder, 0..count, |place| set[place as usize].clone())?;
        first += count;
    }
    Ok(sets)
}

fn draw_curve(path: &Path, records: &[Record]) -> Result<()> {
    let loss = records.iter().map(|record| (f64::from(record.step), f64::from(record.loss))).collect();
    let score = |record: &Record| Some((f64::from(record.step), record.scored?.foreground_iou?));
    let score = records.iter().filter_map(score).collect();
    let svg = curve_svg(
        &[Curve { name: "training loss".into(), points: loss }],
        &[Curve { name: "foreground IoU, validation images".into(), points: score }],
    )?;
    atomic::write(path, |file| file.write_all(svg.as_bytes()))
}

/// Predicts the held-out images, scores them beside the baselines, and draws image, truth, probability, prediction and overlay of
/// each.
fn compare(predictor: &mut Predictor, samples: &[Sample], sheet: &Path) -> Result<(Baseline, Baselines)> {
    let mut confusions = [Confusion::new(2), Confusion::new(2), Confusion::new(2)];
    let mut rows = Vec::new();
    for sample in samples {
        let Image { height, width, channels, pixels, .. } = &sample.image;
        let size = [*height, *width];
        let prediction = predictor.predict(&sample.image)?;
        let truth = &sample.classes().values;
        let threshold = otsu_threshold(pixels);
        let thresholded: Vec<u32> = pixels.iter().map(|&value| u32::from(value > threshold)).collect();
        confusions[0].add(truth, &prediction.labels)?;
        confusions[1].add(truth, &vec![0; truth.len()])?;
        confusions[2].add(truth, &thresholded)?;
        let picture = Picture::of_image(pixels, size, *channels);
        rows.push(vec![
            picture.clone(),
            Picture::of_classes(&sample.instances().values, size),
            Picture::of_probabilities(&prediction.probabilities, size, prediction.classes),
            Picture::of_classes(&prediction.labels, size),
            picture.overlaid(&prediction.labels),
        ]);
    }
    if let Some(first) = rows.first_mut() {
        for (picture, title) in first.iter_mut().zip(["image", "truth", "probability", "prediction", "overlay"]) {
            *picture = picture.titled(title);
        }
    }
    Picture::sheet(&rows).write(sheet)?;
    let [learned, all_background, threshold] = confusions.map(|confusion| {
        let scores = confusion.scores();
        Baseline { foreground_iou: scores.foreground_iou.unwrap_or(0.0), pixel_error: scores.pixel_error }
    });
    Ok((learned, Baselines { all_background, threshold }))
}
