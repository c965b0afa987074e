//! `tilewise ladder`

use super::{Global, print, print_json};
use clap::Args;
use std::process::ExitCode;
use tilewise::bench::{Ladder, Settings};
use tilewise::executor::Device;
use tilewise::models::Precision;
use tilewise::{Error, Result};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// `conv2d`: a convolution; `grad_weight`: the gradient of its weight; `loss`: the sum over pixels that a loss ends in
    #[arg(value_name = "LADDER", value_parser = ladder)]
    ladder: &'static Ladder,
    /// Side of the image in pixels [default: 256, on a software driver 32; of loss 2048 and 1024]
    #[arg(long, value_name = "PIXELS")]
    size: Option<usize>,
    /// Channels of the image, and of what a convolution makes of it [default: 64]
    #[arg(long, value_name = "N")]
    channels: Option<usize>,
    /// How what a convolution reads and makes is stored: f32, or mixed, as f16
    #[arg(long, value_name = "f32|mixed", default_value_t)]
    precision: Precision,
    /// How often every rung is timed
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeats: usize,
}

/// A ladder by its name.
fn ladder(name: &str) -> Result<&'static Ladder, String> {
    Ladder::named(name).map_err(|error| error.to_string())
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let Arguments { ladder, size, channels, precision, repeats } = *arguments;
    let Device::Gpu(gpu) = global.open_device()? else {
        return Err(Error::Device(format!(
            "the CPU executor has no kernels, so that there is nothing to climb without an adapter: {}",
            tilewise::gpu::device::DRIVER_ADVICE
        )));
    };
    let settings = Settings { repeats, seed: global.seed.unwrap_or(1) };
    let case = ladder.case(&gpu, size, channels, precision)?;
    let climbed = ladder.climb(&gpu, &case, settings, &mut |what| global.announce(what))?;
    if global.json {
        print_json(&climbed)?;
    } else {
        print(&format!("{}\n{}\n", climbed.table(), climbed.reasons()))?;
    }
    Ok(ExitCode::SUCCESS)
}
