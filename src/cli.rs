//! The command line: one file per command.

mod augment;
mod bench;
mod cells;
mod check_data;
mod demo;
mod devices;
mod evaluate;
mod explain;
mod export;
mod kernels;
mod labels;
mod ladder;
mod objects;
mod passes;
mod predict;
mod report;
mod selftest;
mod train;
mod tune;
mod weights;

use self::kernels::{Kernels, PipelineCache};
use clap::{ArgAction, Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::de::{DeserializeOwned, IntoDeserializer, value};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tilewise::executor::Device;
use tilewise::gpu::{DeviceChoice, Limits};
use tilewise::{Error, Result};

/// U-Net on any GPU: every kernel hand-written in WGSL, every kernel checked against a CPU reference.
///
/// Start with `tilewise demo`: it makes images of cells, trains a small U-Net on them in a few minutes, with or without a GPU, and
/// draws what it learned.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where to compute: auto, cpu, or an adapter's index or part of its name as `tilewise devices` lists them
    #[arg(long, global = true, value_name = "auto|cpu|N|NAME", default_value = "auto")]
    pub(crate) device: DeviceChoice,
    /// How much of it to use: all that it offers, that without what is experimental, or no more than every browser with WebGPU does
    #[arg(long, global = true, value_name = "adapter|stable|webgpu", default_value = "adapter", value_parser = parse::<Limits>)]
    pub(crate) limits: Limits,
    /// Which kernels to take where ops have several: tuned, what `tilewise tune` measured to be the fastest on this device, or what comes with
    /// the program for it; default, what suits its kind; or a table that tune wrote elsewhere [default: tuned, or the run's]
    #[arg(long, global = true, value_name = "tuned|default|FILE")]
    pub(crate) kernels: Option<Kernels>,
    /// Where to keep kernels as the driver compiles them, to start sooner the next time: auto, the user's folder of caches; none; or a folder
    #[arg(long, global = true, value_name = "auto|none|FOLDER", default_value = "auto")]
    pub(crate) pipeline_cache: PipelineCache,
    /// Hold every index of every kernel against its bounds where the driver does not, and clear the memory of workgroups: also for convolutions, whose
    /// kernels do without since tests have shown that they need neither
    #[arg(long, global = true)]
    pub(crate) bounds_checks: bool,
    /// Seed of everything random; the same seed gives the same result on the same device [default: 1, or the run's]
    #[arg(long, global = true, value_name = "N")]
    pub(crate) seed: Option<u32>,
    /// Say more: -v for what is done, -vv for every detail
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Say nothing but results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Print the result as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make images of cells, train a small U-Net on them in minutes, and draw what it learned
    Demo(demo::Arguments),
    /// Make images of cells with known truth, to try things on: grey, or in colour and of two classes
    Cells(cells::Arguments),
    /// List the devices that can compute: GPUs and software drivers
    Devices,
    /// Check every kernel against its CPU reference on your device, then one training step of a small U-Net
    Selftest,
    /// Find what is wrong with a folder of images and truth, before an hour is lost; exit code 0: nothing, 1: warnings, 3: errors
    CheckData(check_data::Arguments),
    /// Draw what augmentation makes of your images, before anything is trained on it
    Augment(augment::Arguments),
    /// Train a U-Net on your images, or go on with a run that was stopped
    Train(Box<train::Arguments>),
    /// Segment images of any size with trained weights
    Predict(predict::Arguments),
    /// Score trained weights on images with known truth: IoU, Dice, pixel error, confusion matrix, and object by object
    Evaluate(evaluate::Arguments),
    /// Write report.html into the folder of a run: curves, scores, best and worst images, weights in the loss
    Report(report::Arguments),
    /// Write trained weights for other programs: ONNX, or safetensors with the names of PyTorch
    Export(export::Arguments),
    /// Print a U-Net's layers: kernels, shapes, parameters, work and memory, as in figure 1 of the paper
    Explain(explain::Arguments),
    /// Measure what your device can do at most, and how near to it networks come: whole, and op by op; compare devices or versions
    Bench(bench::Arguments),
    /// Time the kernels that ops offer on your device, and take the fastest of those that equal the reference from now on
    Tune(tune::Arguments),
    /// Compute one thing by kernels that each add one idea to the one before, from the simplest to those in use, on your device
    Ladder(ladder::Arguments),
}

impl Global {
    /// Opens the chosen device and says in one line which it is.
    pub(crate) fn open_device(&self) -> Result<Device> {
        let device = self.with_kernels(Device::choose_within(&self.device, self.limits)?)?;
        self.say(&format!("device: {device}"));
        if matches!(device, Device::Cpu) && self.device == DeviceChoice::Auto {
            self.say(&format!("no GPU adapter was found; to get one, {}", tilewise::gpu::device::DRIVER_ADVICE));
        }
        Ok(device)
    }

    /// A progress bar for a terminal; hidden when quiet or when the output is no terminal.
    pub(crate) fn progress(&self, template: &str) -> ProgressBar {
        if self.quiet {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(0).with_style(style)
    }

    /// Says what is measured next.
    pub(crate) fn announce(&self, what: &str) -> ControlFlow<()> {
        self.say(&format!("measuring {what}"));
        ControlFlow::Continue(())
    }

    /// A line for the person at the terminal, beside the result.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet {
            note(text);
        }
    }
}

/// A line on standard error; a reader that has gone away is no reason to stop.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The value that a configuration file would have as this text.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    T::deserialize(text.into_deserializer()).map_err(|error: value::Error| error.to_string())
}

/// Height and width of a tile: `N` or `HEIGHTxWIDTH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile(pub(crate) [usize; 2]);

impl FromStr for Tile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |text: &str| text.trim().parse::<usize>().map_err(|_| format!("{text:?} is not a number of pixels"));
        match text.split_once(['x', '×']) {
            None => side(text).map(|side| Self([side; 2])),
            Some((height, width)) => Ok(Self([side(height)?, side(width)?])),
        }
    }
}

/// The bar of what reads a data set.
pub(crate) const READING: &str = "reading {bar:30} {pos}/{len} images, {eta} left";

/// Shows on a bar how much of some work is done.
pub(crate) fn on(bar: &ProgressBar) -> impl FnMut(usize, usize) -> ControlFlow<()> + Send {
    let bar = bar.clone();
    move |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        ControlFlow::Continue(())
    }
}

/// What callbacks say to long work.
pub(crate) fn go_on_unless(stop: &AtomicBool) -> ControlFlow<()> {
    if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// A flag that the first Ctrl-C raises, which says what is `finishing` then; the second one ends the program at once.
pub(crate) fn stop_on_interrupt(finishing: &'static str) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&stop);
    let handler = move || {
        if raised.swap(true, Ordering::Relaxed) {
            // The second time it is urgent. What was saved last is whole.
            std::process::exit(i32::from(Error::Interrupted.exit_code()));
        }
        note(&format!("\nfinishing {finishing}; press Ctrl-C again to stop at once"));
    };
    if let Err(problem) = ctrlc::set_handler(handler) {
        tracing::warn!("Ctrl-C will stop at once, without saving: {problem}");
    }
    stop
}

/// Creates a folder and those above it.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|error| Error::io("create", path, error))
}

/// Writes a result to standard output; a reader that has gone away is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::io("write", "standard output", error)),
        _ => Ok(()),
    }
}

/// Writes a result as JSON to standard output.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value);
    let text = text.map_err(|error| Error::io("write", "standard output", error.into()))?;
    print(&format!("{text}\n"))
}

pub(crate) fn run() -> Result<ExitCode> {
    let Cli { global, command } = Cli::parse();
    let level = ["warn", "info", "debug"][usize::from(global.verbose.min(2))];
    // The drivers' and wgpu's own remarks stay out of the way unless asked for.
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| format!("error,tilewise={level}"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).without_time().init();
    match command {
        Command::Demo(arguments) => demo::run(&global, &arguments),
        Command::Cells(arguments) => cells::run(&global, &arguments),
        Command::Devices => devices::run(&global),
        Command::Selftest => selftest::run(&global),
        Command::CheckData(arguments) => check_data::run(&global, &arguments),
        Command::Augment(arguments) => augment::run(&global, &arguments),
        Command::Train(arguments) => train::run(&global, &arguments),
        Command::Predict(arguments) => predict::run(&global, &arguments),
        Command::Evaluate(arguments) => evaluate::run(&global, &arguments),
        Command::Report(arguments) => report::run(&global, &arguments),
        Command::Export(arguments) => export::run(&global, &arguments),
        Command::Explain(arguments) => explain::run(&global, &arguments),
        Command::Bench(arguments) => bench::run(&global, &arguments),
        Command::Tune(arguments) => tune::run(&global, &arguments),
        Command::Ladder(arguments) => ladder::run(&global, &arguments),
    }
}
