//! `tilewise predict`

use super::{Global, Tile, create_folder, print_json};
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tilewise::data::raster::{EXTENSIONS, write_grey8};
use tilewise::data::{Image, LabelMap};
use tilewise::picture::Picture;
use tilewise::predict::{Prediction, Predictor};
use tilewise::{Error, Result};

/// What `predict` takes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A weights file, or the folder of a run (its best weights are taken)
    #[arg(long, value_name = "FILE|RUN")]
    weights: PathBuf,
    /// An image, or a folder of images: PNG or TIFF, 8 or 16 bit, any size
    #[arg(long, value_name = "FILE|DIR")]
    input: PathBuf,
    /// Where to write: masks/ (class values), probabilities/ (of foreground) and overlays/, a PNG per image
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Side of the input tiles, as N or HEIGHTxWIDTH; by default what covers the image and fits the device
    #[arg(long, value_name = "PIXELS")]
    tile: Option<Tile>,
    /// Also save the raw scores [H, W, C] as a safetensors file: `logits` for one image, a tensor by name for each of several
    #[arg(long, value_name = "FILE.safetensors")]
    logits: Option<PathBuf>,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let images = images(&arguments.input)?;
    let device = global.open_device()?;
    let mut predictor = Predictor::load(device, &arguments.weights, arguments.tile.map(|Tile(tile)| tile))?;
    for folder in ["masks", "probabilities", "overlays"] {
        create_folder(&arguments.out.join(folder))?;
    }
    let mut logits = BTreeMap::new();
    let mut results = Vec::new();
    for path in &images {
        let (image, prediction) = segment(global, &mut predictor, path)?;
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        write(&arguments.out, &stem, &image, &prediction)?;
        let foreground = prediction.labels.iter().filter(|&&label| label != 0).count();
        let share = foreground as f64 / prediction.labels.len() as f64;
        let [tile_height, tile_width] = predictor.tile_for(image.height, image.width)?;
        global.say(&format!(
            "{stem}: {}×{}, {:.1} % foreground, tile {tile_height}×{tile_width}",
            image.height,
            image.width,
            100.0 * share
        ));
        results.push(json!({
            "image": path, "height": image.height, "width": image.width, "foreground_share": share,
            "tile": [tile_height, tile_width],
        }));
        if arguments.logits.is_some() {
            let name = if images.len() == 1 { "logits".to_owned() } else { stem };
            logits.insert(name, ([image.height, image.width, prediction.classes], prediction.logits));
        }
    }
    if let Some(path) = &arguments.logits {
        save_logits(path, &logits)?;
    }
    if global.json {
        print_json(&json!({ "images": results, "out": arguments.out }))?;
    }
    global.say(&format!(
        "wrote masks, probabilities and overlays of {} image(s) to {}",
        images.len(),
        arguments.out.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// The image itself, or the images of a folder in order of their names.
fn images(input: &Path) -> Result<Vec<PathBuf>> {
    let metadata = std::fs::metadata(input).map_err(|error| Error::io("read", input, error))?;
    if metadata.is_file() {
        return Ok(vec![input.to_owned()]);
    }
    let entries = std::fs::read_dir(input).map_err(|error| Error::io("read", input, error))?;
    let mut images = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| Error::io("read", input, error))?.path();
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        if extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str())) {
            images.push(path);
        }
    }
    images.sort();
    if images.is_empty() {
        return Err(Error::data(input, format!("there are no images here; supported are {}", EXTENSIONS.join(", "))));
    }
    for pair in images.windows(2) {
        if pair[0].file_stem() == pair[1].file_stem() {
            let problem = format!("{} would give the same output names; rename one of them", pair[1].display());
            return Err(Error::data(&pair[0], problem));
        }
    }
    Ok(images)
}

/// Reads an image and predicts it, with progress over its tiles.
fn segment(global: &Global, predictor: &mut Predictor, path: &Path) -> Result<(Image, Prediction)> {
    let image = Image::read(path)?;
    let bar = global.progress("{msg} {bar:30} {pos}/{len} tiles, {eta} left");
    bar.set_message(path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default());
    let prediction = predictor.predict(&image, &mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    match prediction {
        Ok(prediction) => Ok((image, prediction)),
        Err(Error::Usage(problem)) => Err(Error::data(path, problem)),
        Err(error) => Err(error),
    }
}

fn write(out: &Path, stem: &str, image: &Image, prediction: &Prediction) -> Result<()> {
    let file = |folder: &str| out.join(folder).join(format!("{stem}.png"));
    let size = [image.height, image.width];
    let mask = LabelMap { height: image.height, width: image.width, values: prediction.labels.clone() };
    mask.write_classes(file("masks"))?;
    let probabilities = Picture::of_probabilities(&prediction.probabilities, size, prediction.classes);
    let grey: Vec<u8> = probabilities.rgb.chunks(3).map(|pixel| pixel[0]).collect();
    write_grey8(&file("probabilities"), image.height, image.width, &grey)?;
    Picture::of_image(&image.pixels, size, image.channels).overlaid(&prediction.labels).write(file("overlays"))
}

/// Raw scores by name, with their extents.
type Logits = BTreeMap<String, ([usize; 3], Vec<f32>)>;

fn save_logits(path: &Path, logits: &Logits) -> Result<()> {
    let fail = |problem: String| Error::Weights { path: path.into(), problem };
    let views = logits
        .iter()
        .map(|(name, (extents, values))| {
            let bytes: &[u8] = bytemuck::cast_slice(values);
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, extents.to_vec(), bytes);
            Ok((name.as_str(), view.map_err(|error| fail(error.to_string()))?))
        })
        .collect::<Result<Vec<_>>>()?;
    let bytes = safetensors::serialize(views, None).map_err(|error| fail(error.to_string()))?;
    std::fs::write(path, bytes).map_err(|error| Error::io("write", path, error))
}
