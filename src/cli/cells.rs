//! `tilewise cells`

use super::{Global, print_json};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use tilewise::data::cells::{generate, generate_stained, write_dataset};
use tilewise::{Error, Result};

/// What `cells` takes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The folder to write: images/ and instances/, or with --stained images/ and masks/
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Nuclei in stained tissue, blue (class 1) or brown with a marker (class 2), instead of grey ones in fluorescence, numbered one by one
    #[arg(long)]
    stained: bool,
    /// How many pictures
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// The number of the first picture; others of a seed are other pictures
    #[arg(long, value_name = "N", default_value_t = 0)]
    first: u32,
    /// Side of each in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=8192))]
    size: u16,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let Arguments { out, stained, count, first, size } = arguments;
    let (seed, size) = (global.seed.unwrap_or(1), usize::from(*size));
    let last = first.checked_add(*count).ok_or_else(|| {
        Error::Usage(format!("--first {first} and --count {count} together are more than there are pictures of a seed"))
    })?;
    let picture = if *stained { generate_stained } else { generate };
    let other = out.join(if *stained { "instances" } else { "masks" });
    if other.exists() {
        return Err(Error::Usage(format!(
            "{} is the truth of other pictures, which a data set has in one way: give --out another folder",
            other.display()
        )));
    }
    let names = write_dataset(out, *first..last, |index| picture(seed, index, size))?;
    global.say(&format!("wrote {} pictures of {size}×{size} pixels into {}", names.len(), out.display()));
    if global.json {
        print_json(&json!({ "out": out, "images": names }))?;
    }
    Ok(ExitCode::SUCCESS)
}
