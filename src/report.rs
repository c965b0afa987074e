//! What became of a training run, as one HTML page that needs nothing else: no network, no script, no other file.

mod page;

use crate::checkpoint::{Weights, atomic};
use crate::data::sample::balance;
use crate::data::{Components, Prepared, Sample, Truth};
use crate::error::{Error, Result};
use crate::executor::Device;
use crate::metrics::{InstanceScores, Scores};
use crate::picture::{Curve, Picture, curve_svg};
use crate::predict::{Evaluation, Prediction, Predictor};
use crate::progress::{Progress as Watcher, unless_stopped};
use crate::train::{self, Config, Data, LossKind, MAPS, Record, WeightMaps};
use std::fs;
use std::path::{Path, PathBuf};

/// The name of the page in the folder of a run.
pub const FILE: &str = "report.html";

/// The folder of pictures that training leaves for it: `<image>/<step>.png`.
pub const PROGRESS: &str = "progress";

/// Images shown from each end of the ranking.
const SHOWN: usize = 3;

/// Training images whose weights are shown.
const WEIGHT_MAPS: usize = 3;

/// Pictures of one image over the steps.
const MOMENTS: usize = 6;

/// What the page shows.
#[derive(Debug)]
struct Report {
    title: String,
    /// `summary.json`.
    summary: serde_json::Value,
    config: String,
    /// Losses and scores over the steps, as SVG.
    curve: String,
    /// The scores by pixel that [`Report::curve`] has no room for, where there are any.
    by_pixel: Option<String>,
    /// The learning rate over the steps, as SVG.
    schedule: Option<String>,
    /// The file of the weights that predict below.
    weights: String,
    scores: Option<Scores>,
    /// Scores by object, where the truth of validation images tells objects apart.
    objects: Option<InstanceScores>,
    images: usize,
    progress: Vec<Progress>,
    best: Vec<Scored>,
    worst: Vec<Scored>,
    weight_maps: Vec<(String, Picture, Picture, f32)>,
}

/// One image at several steps.
#[derive(Debug)]
struct Progress {
    name: String,
    moments: Vec<(u32, Vec<u8>)>,
}

/// A held-out image and what the network made of it.
#[derive(Debug)]
struct Scored {
    name: String,
    foreground_iou: Option<f64>,
    pixel_error: f64,
    pictures: [(&'static str, Picture); 4],
}

/// [Writes](write()) the report of a run on the images that its configuration names, which are read again; `progress` hears of that, too.
///
/// # Errors
/// As [`Config::read`], [`Data::read`] and [`write()`].
pub fn of_run(run: &Path, device: &Device, progress: &mut Watcher<'_>) -> Result<PathBuf> {
    let data = Data::read(&Config::read(&run.join("config.toml"))?, &mut |_| (), progress)?;
    write(run, device, &data.training, &data.validation, progress)
}

/// Writes `report.html` into the folder of a run, from the files there and from predictions of its best (else last) weights on the
/// validation images. `progress` hears how many of them are done, and may break off.
///
/// # Errors
/// When a file of the run cannot be read or the page not be written; as [`Predictor::load`] and [`Predictor::predict`];
/// [`Error::Interrupted`].
pub fn write(
    run: &Path,
    device: &Device,
    training: &[Sample],
    validation: &[Sample],
    progress: &mut Watcher<'_>,
) -> Result<PathBuf> {
    let config = Config::read(&run.join("config.toml"))?;
    let records = records(&run.join("metrics.jsonl"))?;
    let weights = Weights::find(run)?;
    let mut predictor = Predictor::load(device.clone(), &weights, None)?;
    let told_apart = validation.iter().any(|sample| matches!(sample.truth, Truth::Instances(_)));
    let objects = told_apart.then(Components::default);
    let mut evaluation = Evaluation::new(predictor.net().classes, objects);
    for (index, sample) in validation.iter().enumerate() {
        unless_stopped(progress(index, validation.len()))?;
        evaluation.add(&mut predictor, sample)?;
    }
    let scores = evaluation.images().iter().enumerate();
    let mut ranking: Vec<_> = scores.map(|(index, image)| (image.foreground_iou, image.pixel_error, index)).collect();
    // From the worst: a low overlap, or errors where there is nothing to overlap.
    let quality = |&(iou, error, _): &(Option<f64>, f64, usize)| iou.unwrap_or(1.0 - error);
    ranking.sort_by(|a, b| quality(a).total_cmp(&quality(b)));
    let shown = SHOWN.min(ranking.len());
    let mut pictures = |entries: &[(Option<f64>, f64, usize)]| -> Result<Vec<Scored>> {
        let show = |&(foreground_iou, pixel_error, index): &(Option<f64>, f64, usize)| {
            let sample = &validation[index];
            let prediction = predictor.predict(&sample.image)?;
            let pictures = comparison(sample, &prediction);
            Ok(Scored { name: sample.name.clone(), foreground_iou, pixel_error, pictures })
        };
        entries.iter().map(show).collect()
    };
    let worst = pictures(&ranking[..shown])?;
    let rest = &ranking[shown..];
    let mut best = pictures(&rest[rest.len() - SHOWN.min(rest.len())..])?;
    best.reverse();
    let report = Report {
        title: run
            .canonicalize()
            .unwrap_or_else(|_| run.to_owned())
            .file_name()
            .map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned()),
        summary: summary(&run.join("summary.json")),
        config: config.to_toml()?,
        curve: curve(&records)?,
        by_pixel: by_pixel(&records)?,
        schedule: schedule(&records)?,
        weights: weights.path().file_name().unwrap_or_default().to_string_lossy().into_owned(),
        scores: (!validation.is_empty()).then(|| evaluation.scores()),
        objects: evaluation.instances(),
        images: validation.len(),
        progress: moments(&run.join(PROGRESS))?,
        best,
        worst,
        weight_maps: weight_maps(&config, training, predictor.net().classes, &WeightMaps::new(&run.join(MAPS)))?,
    };
    let path = run.join(FILE);
    let html = page::html(&report)?;
    atomic::write(&path, |file| file.write_all(html.as_bytes()))?;
    Ok(path)
}

/// Image, truth, probability with the outline of the prediction, and where they differ.
fn comparison(sample: &Sample, prediction: &Prediction) -> [(&'static str, Picture); 4] {
    let size = [prediction.height, prediction.width];
    let image = Picture::of_image(&sample.image.pixels, size, sample.image.channels);
    let truth = &sample.classes().values;
    [
        ("image", image.clone()),
        ("truth", image.overlaid(truth)),
        ("prediction", image.overlaid(&prediction.labels)),
        ("errors", Picture::of_errors(truth, &prediction.labels, size)),
    ]
}

/// The whole lines of `metrics.jsonl`.
fn records(path: &Path) -> Result<Vec<Record>> {
    let text = fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
    Ok(text.lines().map_while(|line| serde_json::from_str(line).ok()).collect())
}

/// `summary.json`, which a run that was killed does not have.
fn summary(path: &Path) -> serde_json::Value {
    fs::read_to_string(path).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// What each evaluation found, if it found anything.
fn scores(records: &[Record], name: &str, of: fn(&train::Scored) -> Option<f64>) -> Option<Curve> {
    let points = records.iter().filter_map(|record| Some((f64::from(record.step), of(&record.scored?)?)));
    let points: Vec<(f64, f64)> = points.collect();
    (!points.is_empty()).then(|| Curve { name: name.into(), points })
}

fn curve(records: &[Record]) -> Result<String> {
    // In mixed precision a step that was skipped may have none.
    let records_with_loss = records.iter().filter(|record| record.loss.is_finite());
    let loss = records_with_loss.map(|record| (f64::from(record.step), f64::from(record.loss)));
    let mut losses = vec![Curve { name: "training loss".into(), points: loss.collect() }];
    losses.extend(scores(records, "validation loss", |scored| scored.validation_loss));
    let scores = [
        scores(records, "foreground IoU, validation images", |scored| scored.foreground_iou),
        scores(records, "AP at IoU 0.5 of objects", |scored| scored.ap50),
        scores(records, "mean AP of objects", |scored| scored.mean_ap),
    ];
    curve_svg(&losses, &scores.into_iter().flatten().collect::<Vec<_>>())
}

fn by_pixel(records: &[Record]) -> Result<Option<String>> {
    let error = scores(records, "pixel error, validation images", |scored| Some(scored.pixel_error));
    let iou = scores(records, "mean IoU, validation images", |scored| scored.mean_iou);
    error.map(|error| curve_svg(&[error], iou.as_slice())).transpose()
}

/// The learning rate, where it is not the same all the time.
fn schedule(records: &[Record]) -> Result<Option<String>> {
    let rate = |record: &Record| f64::from(record.learning_rate);
    let points: Vec<(f64, f64)> = records.iter().map(|record| (f64::from(record.step), rate(record))).collect();
    if points.windows(2).all(|pair| pair[0].1.to_bits() == pair[1].1.to_bits()) {
        return Ok(None);
    }
    curve_svg(&[Curve { name: "learning rate".into(), points }], &[]).map(Some)
}

/// The pictures that training left, a few of each image's, the first and the last among them.
fn moments(folder: &Path) -> Result<Vec<Progress>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = |folder: &Path| -> Result<Vec<PathBuf>> {
        let failed = |error| Error::io("read", folder, error);
        let paths: std::io::Result<Vec<PathBuf>> =
            fs::read_dir(folder).map_err(failed)?.map(|entry| entry.map(|entry| entry.path())).collect();
        let mut paths = paths.map_err(failed)?;
        paths.sort();
        Ok(paths)
    };
    let mut images = Vec::new();
    for image in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
        let step = |path: PathBuf| Some((path.file_stem()?.to_str()?.parse().ok()?, path));
        let files: Vec<(u32, PathBuf)> = entries(&image)?.into_iter().filter_map(step).collect();
        let count = files.len().min(MOMENTS);
        let mut moments = Vec::with_capacity(count);
        for place in 0..count {
            let (step, path) = &files[if count == 1 { 0 } else { place * (files.len() - 1) / (count - 1) }];
            moments.push((*step, fs::read(path).map_err(|error| Error::io("read", path, error))?));
        }
        let name = image.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        images.push(Progress { name, moments });
    }
    Ok(images)
}

/// The first images to train on, the weights of their pixels in the cross-entropy as training had them, and the highest weight.
fn weight_maps(
    config: &Config,
    training: &[Sample],
    classes: usize,
    maps: &WeightMaps,
) -> Result<Vec<(String, Picture, Picture, f32)>> {
    if config.loss == LossKind::Dice {
        return Ok(Vec::new());
    }
    let shown = WEIGHT_MAPS.min(training.len());
    let prepare = |sample: &Sample| maps.prepare(config, sample.clone());
    let mut prepared = training[..shown].iter().map(prepare).collect::<Result<Vec<_>>>()?;
    if config.balance {
        // How rare a class is depends on all images.
        let others = training[shown..].iter().map(|sample| Prepared::new(sample.clone(), None));
        prepared.extend(others.collect::<Result<Vec<_>>>()?);
        balance(&mut prepared, classes)?;
    }
    let mut pictures = Vec::new();
    for (sample, prepared) in training[..shown].iter().zip(&prepared) {
        let size = [prepared.height, prepared.width];
        // Those that are ignored are no weights.
        let counted = prepared.weights.iter().copied().filter(|&weight| weight > 0.0);
        let (lowest, highest) = counted.fold((f32::INFINITY, 0.0_f32), |(l, h), weight| (l.min(weight), h.max(weight)));
        // Weights that are the same everywhere are no picture.
        if lowest < highest {
            let image = Picture::of_image(&prepared.pixels, size, prepared.channels);
            pictures.push((sample.name.clone(), image, Picture::of_values(&prepared.weights, size), highest));
        }
    }
    Ok(pictures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Image, LabelMap};
    use crate::train::BorderUse;

    fn sample(values: &[u32]) -> Sample {
        let size = values.len();
        let pixels = (0..size).map(|pixel| pixel as f32).collect();
        let image = Image { height: 1, width: size, channels: 1, bit_depth: 8, pixels, alpha_dropped: false };
        Sample {
            name: "a".into(),
            image,
            truth: Truth::Classes(LabelMap { height: 1, width: size, values: values.to_vec() }),
        }
    }

    #[test]
    fn weights_are_shown_as_training_had_them() {
        let folder = tempfile::tempdir().unwrap();
        let mut training: Vec<Sample> = (0..3).map(|_| sample(&[0, 0, 0, 1])).collect();
        training.push(sample(&[1, 1, 1, 1]));
        let highest = |config: Config| -> Vec<f32> {
            let maps = weight_maps(&config, &training, 2, &WeightMaps::new(folder.path())).unwrap();
            maps.into_iter().map(|(.., highest)| highest).collect()
        };
        let plain = Config { border: BorderUse::Never, ..Config::default() };
        assert!(highest(plain.clone()).is_empty(), "all weights are 1");
        // Of 16 pixels in two classes 7 are of class 1, in the fourth image most of them.
        let balanced = Config { balance: true, ..plain };
        let found = highest(balanced.clone());
        assert!(found.len() == 3 && found.iter().all(|weight| (weight - 16.0 / 14.0).abs() < 1e-6), "{found:?}");
        assert_eq!(highest(Config { loss: LossKind::Both, ..balanced.clone() }), found);
        assert!(highest(Config { loss: LossKind::Dice, ..balanced }).is_empty(), "Dice has no weights");
    }
}
