//! `tilewise evaluate`

use super::labels::LabelArguments;
use super::objects::ObjectArguments;
use super::passes::PassArguments;
use super::{Global, print, print_json};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tilewise::checkpoint::{Metadata, Weights};
use tilewise::data::Dataset;
use tilewise::data::dataset::{LabelKind, Mapping};
use tilewise::metrics::{Confusion, InstanceScores, Variety};
use tilewise::{Error, Result};

/// What `evaluate` takes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    passes: PassArguments,
    /// The folder of images and truth: images/ with masks/ or instances/
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    #[command(flatten)]
    labels: LabelArguments,
    /// Score objects too where the truth is masks: connected regions of one class other than 0; for instances/ always done
    #[arg(long)]
    instances: bool,
    #[command(flatten)]
    objects: ObjectArguments,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let weights = arguments.passes.weights()?;
    let dataset = open(&arguments.data, &weights, &arguments.labels)?;
    let has_instances = dataset.survey().kind == LabelKind::Instances;
    let components = arguments.objects.components(arguments.instances || has_instances)?;
    global.say(&format!("mapping: {}", dataset.survey().mapping));
    let device = global.open_device()?;
    let mut predictor = arguments.passes.predictor(device, &weights)?;
    let (classes, known) = (dataset.class_count(), predictor.net().classes);
    if classes > known {
        return Err(Error::data(
            &arguments.data,
            format!("the data has {classes} classes, the network knows {known}; give the mapping it was trained with"),
        ));
    }
    let count = dataset.pairs().len();
    let bar = global.progress("{msg} {bar:30} {pos}/{len} images, {eta} left");
    bar.set_length(count as u64);
    let (mut total, mut variety) = (Confusion::new(known), Variety::new(known));
    let mut instances = Vec::new();
    let mut most_tiles = 0;
    let mut images = Vec::with_capacity(count);
    for index in 0..count {
        for sample in dataset.read(&[index])? {
            bar.set_message(sample.name.clone());
            let (prediction, confusion) = predictor.score(&sample).map_err(|error| match error {
                Error::Data { problem, .. } => dataset.pairs()[index].image.error(problem),
                other => other,
            })?;
            most_tiles = most_tiles.max(predictor.tiles_for(sample.image.height, sample.image.width)?);
            total.merge(&confusion);
            variety.add(&prediction.logits, &prediction.labels);
            let scores = confusion.scores();
            let mut image = json!({
                "name": sample.name, "foreground_iou": scores.foreground_iou, "mean_iou": scores.mean_iou,
                "pixel_error": scores.pixel_error,
            });
            if let Some(components) = components {
                let objects = sample.objects(components.connectivity);
                let scores = InstanceScores::new(&objects, &components.label(&prediction.label_map()))?;
                image["instances"] = json!(scores);
                instances.push(scores);
            }
            images.push(image);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if let Some(remark) = arguments.passes.remark(most_tiles) {
        global.say(remark);
    }
    let scores = total.scores();
    let only_class = variety.only_class();
    let wrongly = only_class.is_some() && scores.pixel_error > 0.0;
    if let Some(remark) = variety.remark().filter(|_| wrongly) {
        global.say(&format!("note: {remark}"));
    }
    let instances = components.map(|_| InstanceScores::mean(&instances));
    if global.json {
        let mut report =
            serde_json::to_value(&scores).map_err(|error| Error::io("write", "standard output", error.into()))?;
        report["only_class"] = json!(only_class);
        report["images"] = json!(images);
        report["instances"] = json!(instances);
        print_json(&report)?;
    } else {
        print(&format!("{count} images, pixels pooled\n\n{scores}"))?;
        if let Some(instances) = instances {
            print(&format!("\nobject by object, means over images (docs/metrics.md)\n\n{instances}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The data set, with the meaning of its label values that the weights were trained with where no flag says otherwise.
fn open(folder: &Path, weights: &Weights, labels: &LabelArguments) -> Result<Dataset> {
    let options = labels.options();
    let trained: Option<Mapping> =
        weights.metadata().get(Metadata::MAPPING).map_err(|problem| weights.error(problem))?;
    let said = options.classes.is_some() || options.map.is_some() || options.ignore.is_some();
    match trained {
        Some(mapping) if !said && folder.join("masks").is_dir() => {
            Dataset::open(folder, &options.with_mapping(&mapping))
        }
        _ => Dataset::open(folder, &options),
    }
}
