//! `tilewise augment`

use super::labels::LabelArguments;
use super::{Global, READING, on, print, print_json};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use tilewise::Result;
use tilewise::data::{Augmentation, Dataset};
use tilewise::models::Variant;
use tilewise::picture::Picture;
use tilewise::train::{Config, Preview, preview};

/// What `augment` takes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The folder of images and truth: images/ with masks/ or instances/
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The picture to draw: a row per image, a tile of it as it is and then as training would change it, classes outlined
    #[arg(long, value_name = "FILE.png")]
    preview: PathBuf,
    /// Settings as TOML, of which [augment], the tile and the seed count [default: those of `train --augment`]
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// The network, which decides about tiles, and with it about the frame that is changed [default: the configuration's, else unet]
    #[arg(long, value_name = "NAME")]
    model: Option<Variant>,
    /// How many images, spread evenly over the data
    #[arg(long, value_name = "N", default_value_t = 4)]
    samples: usize,
    /// How many changed versions of each
    #[arg(long, value_name = "N", default_value_t = 4)]
    versions: u32,
    #[command(flatten)]
    labels: LabelArguments,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let mut config = match &arguments.config {
        Some(path) => Config::read(path)?,
        None => Config { augment: Augmentation::RECIPE, ..Config::default() },
    };
    config.model = arguments.model.unwrap_or(config.model);
    config.seed = global.seed.unwrap_or(config.seed);
    let bar = global.progress(READING);
    let dataset = Dataset::open_with_progress(&arguments.data, &arguments.labels.options(), &mut on(&bar));
    bar.finish_and_clear();
    let dataset = dataset?;
    let count = arguments.samples.clamp(1, dataset.pairs().len());
    let indices: Vec<usize> = (0..count).map(|sample| sample * dataset.pairs().len() / count).collect();
    let device = global.open_device()?;
    let samples = dataset.read(&indices)?;
    let augment = config.augment.in_frame([config.tile_for(&samples); 2]);
    let previews = preview(&config, &device, samples, arguments.versions)?;
    let mut rows: Vec<Vec<Picture>> = previews.iter().map(row).collect();
    for (row, preview) in rows.iter_mut().zip(&previews) {
        row[0] = row[0].titled(&preview.name);
        for (number, version) in row.iter_mut().enumerate().skip(1) {
            *version = version.titled(&format!("version {number}"));
        }
    }
    Picture::sheet(&rows).write(&arguments.preview)?;
    if global.json {
        let names: Vec<&str> = previews.iter().map(|preview| preview.name.as_str()).collect();
        print_json(&json!({ "images": names, "augment": config.augment, "preview": arguments.preview }))?;
    } else {
        print(&format!("{augment}\n{} images: {}\n", previews.len(), arguments.preview.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The tile and its versions with their classes outlined; all in the grey levels of the tile, so that intensities can be compared.
fn row(preview: &Preview) -> Vec<Picture> {
    let Preview { side, channels, examples, .. } = preview;
    let pixels: Vec<f32> = examples.iter().flat_map(|example| example.image.iter().copied()).collect();
    let all = Picture::of_image(&pixels, [side * examples.len(), *side], *channels);
    let pictures = all.rgb.chunks(3 * side * side).zip(examples);
    pictures
        .map(|(rgb, example)| Picture { height: *side, width: *side, rgb: rgb.to_vec() }.outlined(&example.labels))
        .collect()
}
