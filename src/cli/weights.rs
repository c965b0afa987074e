//! Which weights: flags that commands share.

use clap::Args;
use std::path::PathBuf;
use tilewise::Result;
use tilewise::checkpoint::Weights;

/// Trained weights.
#[derive(Debug, Args)]
pub(crate) struct WeightsArguments {
    /// A weights file, or the folder of a run (its best weights are taken)
    #[arg(long, value_name = "FILE|RUN")]
    weights: PathBuf,
}

impl WeightsArguments {
    /// The weights.
    pub(crate) fn load(&self) -> Result<Weights> {
        Weights::find(&self.weights)
    }
}
