//! `tilewise export`

use super::weights::WeightsArguments;
use super::{Global, Tile, print_json};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
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

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let weights = arguments.weights.load()?;
    let net = weights.net()?;
    if arguments.onnx.is_some() && arguments.onnx == arguments.safetensors {
        return Err(Error::Usage("--onnx and --safetensors name the same file; give each its own".into()));
    }
    for path in [&arguments.onnx, &arguments.safetensors].into_iter().flatten() {
        weights.refuse_overwriting(path)?;
    }
    if let Some(path) = &arguments.onnx {
        let usual = Model::usual_side(&weights, &net)?;
        let [height, width] = arguments.tile.map_or([usual; 2], |Tile(tile)| tile);
        Model::of_weights(&weights, arguments.batch, [height, width])?.save(path)?;
        let (batch, channels) = (arguments.batch, net.in_channels);
        global.say(&format!("wrote {}: images of [{batch}, {channels}, {height}, {width}]", path.display()));
    }
    if let Some(path) = &arguments.safetensors {
        weights.export(path)?;
        global.say(&format!("wrote {}: the weights of {}", path.display(), net.title()));
    }
    if global.json {
        print_json(&json!({ "model": net, "onnx": arguments.onnx, "safetensors": arguments.safetensors }))?;
    }
    Ok(ExitCode::SUCCESS)
}
