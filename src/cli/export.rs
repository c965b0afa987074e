//! `tilewise export`

use super::weights::WeightsArguments;
use super::{Global, Tile, print_json};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tilewise::checkpoint::{Metadata, Section, Weights, save};
use tilewise::models::UNet;
use tilewise::onnx::{Batch, Model};
use tilewise::{Error, Result};

/// What `export` takes.
#[derive(Debug, Args)]
#[group(id = "formats", required = true, multiple = true, args = ["onnx", "safetensors"])]
pub(crate) struct Arguments {
    #[command(flatten)]
    weights: WeightsArguments,
    /// Write the network and its weights as ONNX, from `image` [n, c, h, w] to `logits`; its metadata say how to prepare images
    #[arg(long, value_name = "FILE.onnx")]
    onnx: Option<PathBuf>,
    /// Write the weights alone, with the names and layouts of PyTorch, as the program of its authors loads them
    #[arg(long, value_name = "FILE.safetensors")]
    safetensors: Option<PathBuf>,
    /// Side of the images that the ONNX model takes, as N or HEIGHTxWIDTH [default: that of training if the network knows no other, else 512, or the next that it takes]
    #[arg(long, value_name = "PIXELS", requires = "onnx")]
    tile: Option<Tile>,
    /// How many images the ONNX model takes at once: a number, or dynamic for any
    #[arg(long, value_name = "N|dynamic", default_value_t, requires = "onnx")]
    batch: Batch,
}

/// The side of images where none is given, or the next that is legal.
const SIDE: usize = 512;

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let weights = arguments.weights.load()?;
    let (net, parameters) = weights.network()?;
    if arguments.onnx.is_some() && arguments.onnx == arguments.safetensors {
        return Err(Error::Usage("--onnx and --safetensors name the same file; give each its own".into()));
    }
    for path in [&arguments.onnx, &arguments.safetensors].into_iter().flatten() {
        refuse_checkpoint(path, weights.path())?;
    }
    let (intensities, trained_on, zoom) = (weights.intensities(&net)?, weights.tile(&net)?, weights.zoom()?);
    let mapping: Option<Value> = weights.metadata().get(Metadata::MAPPING).map_err(|problem| weights.error(problem))?;
    if let Some(path) = &arguments.onnx {
        let usual = trained_on.unwrap_or_else(|| net.legal_above(SIDE));
        let size = arguments.tile.map_or([usual; 2], |Tile(tile)| tile);
        let mut model = Model::of_unet(&net, &parameters, intensities, arguments.batch, size)?;
        if let Some(mapping) = &mapping {
            model = model.with(Metadata::MAPPING, mapping);
        }
        if !zoom.is_none() {
            model = model.with(Metadata::ZOOM, &zoom);
        }
        model.save(path)?;
        let [height, width] = size;
        let channels = net.in_channels;
        global.say(&format!(
            "wrote {}: images of [{}, {channels}, {height}, {width}]",
            path.display(),
            arguments.batch
        ));
    }
    if let Some(path) = &arguments.safetensors {
        let mut metadata = Metadata::new().with(Metadata::MODEL, &net).with(Metadata::INTENSITIES, &intensities);
        metadata = metadata.with(Metadata::ZOOM, &zoom);
        if let Some(mapping) = &mapping {
            metadata = metadata.with(Metadata::MAPPING, mapping);
        }
        if let Some(side) = trained_on {
            metadata = metadata.with(Metadata::TILE, &side);
        }
        save_weights(path, &net, &parameters, &metadata)?;
        global.say(&format!("wrote {}: the weights of {}", path.display(), net.title()));
    }
    if global.json {
        print_json(&json!({ "model": net, "onnx": arguments.onnx, "safetensors": arguments.safetensors }))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is read, and a run's own files, are not written over: these hold more than is exported, such as what the run needs to go on.
fn refuse_checkpoint(written: &Path, read: &Path) -> Result<()> {
    let same = |written: &Path| read.canonicalize().is_ok_and(|read| written == read);
    let problem = if written.canonicalize().is_ok_and(|written| same(&written)) {
        "is what is exported"
    } else if Weights::load(written).is_ok_and(|old| old.metadata().entries().contains_key(Metadata::STEP)) {
        "is a checkpoint of a run"
    } else {
        return Ok(());
    };
    Err(Error::Usage(format!("{} {problem}: write to another file", written.display())))
}

fn save_weights(path: &Path, net: &UNet, parameters: &[f32], metadata: &Metadata) -> Result<()> {
    let graph = net.inference(1, [net.smallest_side(); 2])?.graph;
    save(path, &graph, &[Section { prefix: "", bank: parameters }], metadata)
}
