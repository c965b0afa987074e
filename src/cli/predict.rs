//! `tilewise predict`

use super::objects::ObjectArguments;
use super::passes::PassArguments;
use super::{Global, note, on, print_json};
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::ExitCode;
use tilewise::metrics::Variety;
use tilewise::predict::{Outputs, pages, save_logits};
use tilewise::{Error, Result};

/// What `predict` takes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    passes: PassArguments,
    /// An image or TIFF stack, or a folder of these: PNG or TIFF, 8 or 16 bit, up to 65,535 pixels a side
    #[arg(long, value_name = "FILE|DIR")]
    input: PathBuf,
    /// Where to write: masks/ (class values, indexed colour), probabilities/ (of foreground), overlays/ and, where asked for,
    /// instances/, a PNG per image
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Also save the raw scores [H, W, C] as a safetensors file: `logits` for one image, a tensor by name for each of several
    #[arg(long, value_name = "FILE.safetensors")]
    logits: Option<PathBuf>,
    /// Also write instances/: the objects, connected regions of one class other than 0, numbered from 1 in a 16-bit PNG
    #[arg(long)]
    instances: bool,
    #[command(flatten)]
    objects: ObjectArguments,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let components = arguments.objects.components(arguments.instances)?;
    let images = pages(&arguments.input)?;
    let outputs = Outputs::new(&arguments.out, components, &images)?;
    let weights = arguments.passes.weights()?;
    let device = global.open_device()?;
    let mut predictor = arguments.passes.predictor(device, &weights)?;
    outputs.create()?;
    if let Some(path) = &arguments.logits {
        // Before hours of work: can it be written?
        let file = OpenOptions::new().append(true).create(true).open(path);
        file.map_err(|error| Error::io("create", path, error))?;
    }
    let mut logits = BTreeMap::new();
    let mut results = Vec::new();
    let mut failures = Vec::new();
    let mut variety = Variety::new(predictor.net().classes);
    let mut most_tiles = 0;
    for page in &images {
        let name = page.name();
        let bar = global.progress("{msg} {bar:30} {pos}/{len} tiles, {eta} left");
        bar.set_message(name.clone());
        let predicted = predictor.predict_page(page, &mut on(&bar));
        bar.finish_and_clear();
        let segmented = match predicted {
            Ok((image, prediction)) => match outputs.write(page, &image, &prediction) {
                // A disk that is full is so for the next image, too.
                Err(error @ Error::Io { .. }) => return Err(error),
                written => written.map(|objects| (prediction, objects)),
            },
            Err(error) => Err(error),
        };
        let (prediction, objects) = match segmented {
            Ok(segmented) => segmented,
            // One bad file among many is no reason to leave out the others.
            Err(error @ (Error::Data { .. } | Error::Finding(_) | Error::Io { .. })) if images.len() > 1 => {
                note(&format!("error: {error}"));
                failures.push(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        variety.add(&prediction.logits, &prediction.labels);
        let foreground = prediction.labels.iter().filter(|&&label| label != 0).count();
        let share = foreground as f64 / prediction.labels.len() as f64;
        let [tile_height, tile_width] = predictor.tile_for(prediction.height, prediction.width)?;
        most_tiles = most_tiles.max(predictor.tiles_for(prediction.height, prediction.width)?);
        global.say(&format!(
            "{name}: {}×{}, {:.1} % foreground{}, tile {tile_height}×{tile_width}",
            prediction.height,
            prediction.width,
            100.0 * share,
            objects.map_or(String::new(), |count| format!(", {count} object(s)"))
        ));
        results.push(json!({
            "image": page.path, "page": page.index, "height": prediction.height, "width": prediction.width, "foreground_share": share,
            "objects": objects, "tile": [tile_height, tile_width],
        }));
        if arguments.logits.is_some() {
            let name = if images.len() == 1 { "logits".to_owned() } else { name };
            logits.insert(name, ([prediction.height, prediction.width, prediction.classes], prediction.logits));
        }
    }
    if let Some(path) = &arguments.logits {
        save_logits(path, &logits)?;
    }
    let failed: Vec<String> = failures.iter().map(ToString::to_string).collect();
    if global.json {
        print_json(
            &json!({ "images": results, "failed": failed, "only_class": variety.only_class(), "out": arguments.out }),
        )?;
    }
    if let Some(remark) = arguments.passes.remark(most_tiles) {
        global.say(remark);
    }
    if let Some(remark) = variety.remark() {
        global.say(&format!("note: {remark}"));
    }
    let done = results.len();
    let kinds = if arguments.instances {
        "masks, probabilities, overlays and objects"
    } else {
        "masks, probabilities and overlays"
    };
    global.say(&format!("wrote {kinds} of {done} image(s) to {}", arguments.out.display()));
    match failures.first() {
        None => Ok(ExitCode::SUCCESS),
        Some(error) => {
            note(&format!("error: {} of {} images could not be segmented", failures.len(), images.len()));
            Ok(ExitCode::from(error.exit_code()))
        }
    }
}
