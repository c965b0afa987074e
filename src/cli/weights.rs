//! Which weights: flags that commands share.

use clap::Args;
use std::path::{Path, PathBuf};
use tilewise::Result;
use tilewise::checkpoint::{Names, Weights};

/// Trained weights.
#[derive(Debug, Args)]
pub(crate) struct WeightsArguments {
    /// A weights file (safetensors, or of torch.save), or the folder of a run (its best weights are taken)
    #[arg(long, value_name = "FILE|RUN")]
    weights: PathBuf,
    /// What the tensors of the weights file are called here: lines "theirs" = "ours", in which * stands for any text
    #[arg(long, value_name = "FILE.toml")]
    names: Option<PathBuf>,
}

impl WeightsArguments {
    /// The weights, under the names that they have here.
    pub(crate) fn load(&self) -> Result<Weights> {
        load(&self.weights, self.names.as_deref())
    }
}

/// Weights, under the names that they have here.
pub(crate) fn load(weights: &Path, names: Option<&Path>) -> Result<Weights> {
    let weights = Weights::find(weights)?;
    match names {
        None => Ok(weights),
        Some(names) => weights.renamed(&Names::read(names)?),
    }
}
