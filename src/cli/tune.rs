//! `tilewise tune`

use super::bench::{NetworkArguments, show};
use super::kernels::ROUNDS;
use super::{Global, note, print_json, stop_on_interrupt};
use clap::Args;
use std::process::ExitCode;
use tilewise::executor::Device;
use tilewise::gpu::Choices;
use tilewise::tune::{self, Settings};
use tilewise::{Error, Result};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    networks: NetworkArguments,
    /// In how many rounds every candidate is timed
    #[arg(long, value_name = "N", default_value_t = ROUNDS)]
    repeats: usize,
    /// Measure also what is in the table already
    #[arg(long)]
    again: bool,
    /// Leave only those kernels in the table that are faster than what suits the kind of device: what the program comes with is made so
    #[arg(long)]
    only_faster: bool,
    /// Print the tables in markdown
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let workloads = arguments.networks.workloads()?;
    let settings = Settings { repeats: arguments.repeats, seed: global.seed.unwrap_or(1) };
    let Device::Gpu(gpu) = global.open_device()? else {
        return Err(Error::Device("the CPU executor has no kernels to choose from; name another --device".into()));
    };
    let kernels = global.kernels.clone().unwrap_or_default();
    let known = if arguments.again { Choices::default() } else { kernels.measured(&gpu)? };
    let gpu = gpu.with_choices(known);
    let stop = stop_on_interrupt("the op and keeping what was chosen");
    let measure = |watch: &mut tune::Watch<'_>| tune::run(&gpu, &workloads, settings, watch);
    let report = global.watched(&stop, |choice| kernels.keep(&gpu, vec![choice], arguments.only_faster), measure)?;
    match kernels.keep(&gpu, report.choices(), arguments.only_faster)? {
        Some(path) => global.say(&format!("kept in {}", path.display())),
        None => note("note: nothing is kept; give --kernels FILE"),
    }
    if global.json {
        print_json(&report)?;
    } else {
        show(&report.tables(), arguments.markdown)?;
    }
    Ok(if report.complete { ExitCode::SUCCESS } else { ExitCode::from(Error::Interrupted.exit_code()) })
}
