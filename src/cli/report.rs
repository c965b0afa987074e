//! `tilewise report`

use super::train::write_report;
use super::{Global, print, print_json};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use tilewise::{Error, Result};

/// What `report` takes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The folder of a run, whose images are still where its config.toml says
    #[arg(value_name = "RUN")]
    run: PathBuf,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let run = &arguments.run;
    if !run.join("config.toml").is_file() {
        let run = run.display();
        return Err(Error::Usage(format!(
            "{run} holds no run (no config.toml); give the folder that `train --out` wrote"
        )));
    }
    let device = global.open_device()?;
    let path = write_report(global, run, &device)?;
    if global.json {
        print_json(&json!({ "report": path }))?;
    } else {
        print(&format!("{}\n", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
