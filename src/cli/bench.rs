//! `tilewise bench`

use super::{Global, create_folder, print, print_json, stop_on_interrupt};
use clap::Args;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use tilewise::bench::{self, Comparison, Settings, Table, Workload};
use tilewise::checkpoint::atomic;
use tilewise::executor::Device;
use tilewise::models::{Precision, Variant};
use tilewise::{Error, Result};

/// Which networks.
#[derive(Debug, Args)]
pub(crate) struct NetworkArguments {
    /// A network to measure: tiny, small, medium or paper; several with commas [default: tiny]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = preset)]
    preset: Vec<Workload>,
    /// Measure a network of this input side in pixels instead, or after the presets
    #[arg(long, value_name = "PIXELS")]
    input: Option<usize>,
    /// Channels of its finest level
    #[arg(long, value_name = "N", default_value_t = 16, requires = "input")]
    base: usize,
    /// Its number of poolings
    #[arg(long, value_name = "N", default_value_t = 3, requires = "input")]
    depth: usize,
    /// Which network: unet, unet-release, milesial, milesial-bilinear, brain or semseg
    #[arg(long, value_name = "NAME", default_value_t, requires = "input")]
    model: Variant,
    /// Images in a batch, of the presets too
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// How activations and their gradients are stored, of the presets too: f32, or mixed, as f16
    #[arg(long, value_name = "f32|mixed", default_value_t)]
    precision: Precision,
}

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    networks: NetworkArguments,
    /// How often everything is timed
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeats: usize,
    /// Print the tables in markdown
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Write the result as JSON, for --compare; docs/bench.md describes it
    #[arg(long, value_name = "FILE", conflicts_with = "compare")]
    save: Option<PathBuf>,
    /// Write every rate and time as CSV
    #[arg(long, value_name = "FILE", conflicts_with = "compare")]
    csv: Option<PathBuf>,
    /// Write a page with a roofline plot and all tables
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Measure nothing, and compare results that were saved: before and after, or one device and another
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["preset", "input", "base", "depth", "model", "batch", "precision", "repeats", "json"])]
    compare: Vec<PathBuf>,
    /// Write the network and its results into a folder, then time it whenever a line of standard input asks: what benches/peers runs
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["compare", "save", "csv", "html", "markdown", "repeats"])]
    rounds: Option<PathBuf>,
    /// Measure first which kernels are the fastest, as `tilewise tune` does, as far as that is not known
    #[arg(long, conflicts_with = "compare")]
    tune: bool,
}

/// A preset by its name.
fn preset(name: &str) -> Result<Workload, String> {
    Workload::preset(name).map_err(|error| error.to_string())
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    if !arguments.compare.is_empty() {
        let comparison = Comparison::read(&arguments.compare)?;
        write(arguments.html.as_ref(), || comparison.html())?;
        show(&comparison.tables(), arguments.markdown)?;
        return Ok(ExitCode::SUCCESS);
    }
    let workloads = arguments.networks.workloads()?;
    let settings = Settings { repeats: arguments.repeats, seed: global.seed.unwrap_or(1) };
    if let Some(folder) = &arguments.rounds {
        let [workload] = workloads.as_slice() else {
            return Err(Error::Usage(format!("--rounds takes one network, got {}", workloads.len())));
        };
        create_folder(folder)?;
        let device = open(global, arguments, &workloads)?;
        bench::rounds(&device, workload, settings, folder, io::stdin().lock(), io::stdout().lock())?;
        return Ok(ExitCode::SUCCESS);
    }
    let device = open(global, arguments, &workloads)?;
    let report = bench::run(&device, &workloads, settings, &mut |what| global.announce(what))?;
    if let Some(path) = &arguments.save {
        report.write(path)?;
    }
    write(arguments.csv.as_ref(), || report.csv())?;
    write(arguments.html.as_ref(), || report.html())?;
    if global.json {
        print_json(&report)?;
    } else {
        show(&report.tables(), arguments.markdown)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The device, its kernels tuned for the networks if that was asked for.
fn open(global: &Global, arguments: &Arguments, workloads: &[Workload]) -> Result<Device> {
    let device = global.open_device()?;
    if !arguments.tune {
        return Ok(device);
    }
    let graphs = workloads.iter().map(Workload::graphs).collect::<Result<Vec<_>>>()?;
    global.tuned(
        device,
        &graphs.iter().flatten().collect::<Vec<_>>(),
        &stop_on_interrupt("the op and keeping what was chosen"),
    )
}

impl NetworkArguments {
    /// The networks asked for.
    pub(crate) fn workloads(&self) -> Result<Vec<Workload>> {
        let Self { input, base, depth, model, batch, precision, .. } = *self;
        let mut workloads = self.preset.clone();
        for workload in &mut workloads {
            (workload.batch, workload.precision) = (batch, precision);
        }
        if let Some(input) = input {
            workloads.push(Workload { name: "custom".into(), input, base, depth, model, batch, precision });
        }
        if workloads.is_empty() {
            workloads.push(Workload { batch, precision, ..Workload::preset("tiny")? });
        }
        Ok(workloads)
    }
}

/// Writes a text to a file, if there is to be one.
fn write(path: Option<&PathBuf>, text: impl FnOnce() -> Result<String>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = text()?;
    atomic::write(path, |file| file.write_all(text.as_bytes()))
}

pub(crate) fn show(tables: &[Table], markdown: bool) -> Result<()> {
    let texts = tables.iter().map(|table| if markdown { table.markdown() } else { table.to_string() });
    print(&format!("{}\n", texts.collect::<Vec<_>>().join("\n").trim_end()))
}
