//! `tilewise evaluate`

use super::labels::LabelArguments;
use super::objects::ObjectArguments;
use super::passes::PassArguments;
use super::{Global, READING, on, print, print_json};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use tilewise::data::dataset::LabelKind;
use tilewise::predict::{Evaluation, dataset_for};
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
    let bar = global.progress(READING);
    let dataset = dataset_for(&weights, &arguments.data, &arguments.labels.options(), &mut on(&bar));
    bar.finish_and_clear();
    let dataset = dataset?;
    let has_instances = dataset.survey().kind == LabelKind::Instances;
    let components = arguments.objects.components(arguments.instances || has_instances)?;
    global.say(&format!("mapping: {}", dataset.survey().mapping));
    let device = global.open_device()?;
    let mut predictor = arguments.passes.predictor(device, &weights)?;
    let bar = global.progress("{msg} {bar:30} {pos}/{len} images, {eta} left");
    let name = |index: usize| dataset.pairs().get(index).map_or(String::new(), |pair| pair.name.clone());
    bar.set_message(name(0));
    let mut advance = on(&bar);
    let evaluation = Evaluation::of_dataset(&mut predictor, &dataset, components, &mut |done, total| {
        bar.set_message(name(done));
        advance(done, total)
    });
    bar.finish_and_clear();
    let evaluation = evaluation?;
    if let Some(remark) = arguments.passes.remark(evaluation.most_tiles()) {
        global.say(remark);
    }
    let (scores, instances, variety) = (evaluation.scores(), evaluation.instances(), evaluation.variety());
    let wrongly = variety.only_class().is_some() && scores.pixel_error > 0.0;
    if let Some(remark) = variety.remark().filter(|_| wrongly) {
        global.say(&format!("note: {remark}"));
    }
    if global.json {
        let mut report =
            serde_json::to_value(&scores).map_err(|error| Error::io("write", "standard output", error.into()))?;
        report["only_class"] = json!(variety.only_class());
        report["images"] = json!(evaluation.images());
        report["instances"] = json!(instances);
        print_json(&report)?;
    } else {
        print(&format!("{} images, pixels pooled\n\n{scores}", evaluation.images().len()))?;
        if let Some(instances) = instances {
            print(&format!("\nobject by object, means over images (docs/metrics.md)\n\n{instances}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
