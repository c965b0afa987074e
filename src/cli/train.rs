//! `tilewise train`

use super::labels::LabelArguments;
use super::weights::load;
use super::{Global, READING, go_on_unless, note, on, parse, print_json, stop_on_interrupt};
use clap::Args;
use indicatif::{HumanDuration, ProgressBar};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tilewise::checkpoint::Weights;
use tilewise::data::dataset::Options;
use tilewise::data::{Augmentation, BorderMap, Intensities, Sampling, Zoom};
use tilewise::executor::Device;
use tilewise::models::{Precision, Variant};
use tilewise::report;
use tilewise::train::{
    BorderUse, Config, Data, Event, Job, LossKind, Metric, OptimizerKind, Progress, Schedule, Scored, Status, Summary,
    Trainer, train,
};
use tilewise::{Error, Result};

/// What `train` takes. A flag wins over the configuration file.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(crate) struct Arguments {
    /// The folder of images and truth: images/ with masks/ or instances/
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The folder of the run: configuration, metrics, checkpoints, report.html, events for `TensorBoard` (`tensorboard --logdir RUN`)
    #[arg(long, value_name = "RUN")]
    out: PathBuf,
    /// Images to score the weights on, laid out as the data: the best weights are kept, and where all is predicted as one class it is
    /// said why
    #[arg(long, value_name = "DIR", conflicts_with = "hold_out")]
    val: Option<PathBuf>,
    /// Score on this share of the data instead, and do not train on it
    #[arg(long, value_name = "SHARE")]
    hold_out: Option<f32>,
    /// Go on with the run in --out exactly where it stopped, with its configuration
    #[arg(long, conflicts_with = "config")]
    resume: bool,
    /// Settings as TOML, such as another run's config.toml
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Steps in total, those before --resume included [default: 2000]
    #[arg(long, value_name = "N")]
    steps: Option<u32>,
    /// Stop after this many minutes, if the steps are not done before
    #[arg(long, value_name = "N")]
    minutes: Option<f64>,
    /// The network: unet (the paper's), unet-release (the authors'), milesial, milesial-bilinear, brain or semseg [default: unet]
    #[arg(long, value_name = "NAME")]
    model: Option<Variant>,
    /// Channels of the finest level; the paper has 64 [default: 16]
    #[arg(long, value_name = "CHANNELS")]
    base: Option<usize>,
    /// The number of poolings; the paper has 4 [default: 3]
    #[arg(long, value_name = "N")]
    depth: Option<usize>,
    /// The dropout rate at the end of the contracting path [default: 0]
    #[arg(long, value_name = "RATE")]
    dropout: Option<f32>,
    /// The side of the input tiles; of an illegal one the nearest legal ones are named [default: fits the images, at most 388 pixels
    /// of output]
    #[arg(long, value_name = "PIXELS")]
    tile: Option<usize>,
    /// Make images larger by this factor before the network sees them, for objects of few pixels; its scores are brought back to their own
    /// size, here and wherever the weights are used [default: 1, or what the weights of --init say]
    #[arg(long, value_name = "FACTOR")]
    zoom: Option<Zoom>,
    /// What the network is given of images: standard (each channel of an image with mean 0 and deviation 1) or unit (from 0 to 1)
    /// [default: standard, or what the weights of --init are given]
    #[arg(long, value_name = "standard|unit", value_parser = parse::<Intensities>)]
    intensities: Option<Intensities>,
    /// Weights to begin with in place of random ones: of PyTorch (safetensors, or of torch.save), or the folder of a run. The network is theirs;
    /// for data of other classes its last layer begins anew
    #[arg(long, value_name = "FILE|RUN", conflicts_with = "resume")]
    init: Option<PathBuf>,
    /// What the tensors of --init are called here: lines "theirs" = "ours", in which * stands for any text
    #[arg(long, value_name = "FILE.toml", requires = "init")]
    names: Option<PathBuf>,
    /// Tiles a step; the paper has 1 [default: 2]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// How often each image is drawn from: images (all equally often) or pixels (in proportion to them) [default: images]
    #[arg(long, value_name = "BY", value_parser = parse::<Sampling>)]
    sampling: Option<Sampling>,
    /// The share of tiles in the middle of which there is foreground, whatever is rare in large images; 0.5 is usual [default: 0]
    #[arg(long, value_name = "SHARE")]
    foreground: Option<f32>,
    /// Threads that make batches ahead of the steps; they change how fast it is and nothing else [default: 2]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Memory of the device that a step may take: where it would take more, parts of the network are computed twice rather than kept, which
    /// takes longer and changes no result [default: what it takes]
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
    /// How activations and their gradients are stored: f32, or mixed, as f16 with a scaled loss, in about half of the memory [default: f32]
    #[arg(long, value_name = "f32|mixed")]
    precision: Option<Precision>,
    /// sgd, adam or adamw [default: sgd]
    #[arg(long, value_name = "NAME", value_parser = parse::<OptimizerKind>)]
    optimizer: Option<OptimizerKind>,
    /// The learning rate [default: 0.03 for sgd, 0.001 for the others]
    #[arg(long = "lr", value_name = "RATE")]
    learning_rate: Option<f32>,
    /// The momentum of sgd; the paper has 0.99, with a tenth of the learning rate [default: 0.9]
    #[arg(long, value_name = "SHARE")]
    momentum: Option<f32>,
    /// The course of the learning rate: constant, step:EVERY:FACTOR, poly:POWER or cosine [default: constant]
    #[arg(long, value_name = "COURSE")]
    schedule: Option<Schedule>,
    /// Scale the gradients down to this norm where theirs is larger; 0: leave them [default: 1]
    #[arg(long, value_name = "NORM")]
    clip_norm: Option<f32>,
    /// ce (cross-entropy, weighted pixel by pixel), dice or ce+dice [default: ce]
    #[arg(long, value_name = "NAME", value_parser = parse::<LossKind>)]
    loss: Option<LossKind>,
    /// Whether pixels between cells weigh more: instances (where the labels tell cells apart), always (the connected regions of a class
    /// are its cells) or never [default: instances]
    #[arg(long, value_name = "WHEN", value_parser = parse::<BorderUse>)]
    border: Option<BorderUse>,
    /// How much more: paper, equation 2 of the paper (w0 = 5 where the paper has 10, sigma = 5 px), or release, the authors' later way
    /// (w0 = 50, sigma = 6 px), for which background far from cells weighs 0.1 [default: paper]
    #[arg(long, value_name = "NAME", value_parser = parse::<BorderMap>)]
    border_map: Option<BorderMap>,
    /// The weight added where two cells touch [default: 5 for paper, 50 for release]
    #[arg(long, value_name = "WEIGHT")]
    border_w0: Option<f32>,
    /// How fast it falls off [default: 5 for paper, 6 for release]
    #[arg(long, value_name = "PIXELS")]
    border_sigma: Option<f32>,
    /// What the pixels of each class weigh, background first, such as 1,4,2 [default: all alike]
    #[arg(long, value_name = "WEIGHTS", value_delimiter = ',', conflicts_with = "balance")]
    class_weights: Option<Vec<f32>>,
    /// Let rare classes weigh more, so that all classes count the same in total, as in the paper; not with --border-map release
    /// [default: false]
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    balance: Option<bool>,
    /// Change tiles by the whole recipe: flips, elastic deformation, rotation, scale, intensities, noise; --config sets each of them
    #[arg(long, conflicts_with = "no_augment")]
    augment: bool,
    /// Take tiles as they are, without even flips [default: flips and quarter turns]
    #[arg(long)]
    no_augment: bool,
    /// Steps between evaluations on the validation images [default: 100]
    #[arg(long, value_name = "N")]
    evaluate_every: Option<u32>,
    /// Choose the best weights by `foreground_iou`, `mean_iou`, `pixel_error`, `loss` or, for labels that tell objects apart, by `ap50` or
    /// `mean_ap`, the average precision of objects [default: `foreground_iou`]
    #[arg(long, value_name = "METRIC", value_parser = parse::<Metric>)]
    best_by: Option<Metric>,
    /// Stop after this many evaluations without a better one [default: never]
    #[arg(long, value_name = "N")]
    patience: Option<u32>,
    /// Steps between checkpoints [default: 100]
    #[arg(long, value_name = "N")]
    save_every: Option<u32>,
    #[command(flatten)]
    labels: LabelArguments,
    /// Measure first which kernels are the fastest for this network, as `tilewise tune` does, as far as that is not known
    #[arg(long, conflicts_with = "resume")]
    tune: bool,
}

impl Arguments {
    /// The configuration: the run's, the file's or the default one, with the flags on top.
    fn config(&self, seed: Option<u32>, init: Option<&Weights>) -> Result<Config> {
        let mut config = match &self.config {
            _ if self.resume => {
                if !self.out.join("last.safetensors").exists() {
                    let out = self.out.display();
                    return Err(Error::Usage(format!(
                        "{out} holds no run to go on with (no last.safetensors): leave --resume out to start one there"
                    )));
                }
                Config::read(&self.out.join("config.toml"))?
            }
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        if let Some(weights) = init {
            let net = weights.net()?;
            (config.model, config.base, config.depth) = (net.variant, net.base_channels, net.depth);
            (config.intensities, config.zoom) = (weights.intensities(&net)?, weights.zoom()?);
        }
        if self.hold_out.is_some() {
            config.val = None;
        } else if self.val.is_some() {
            config.hold_out = None;
        }
        set_some(&mut config.data, self.data.clone());
        set_some(&mut config.val, self.val.clone());
        set_some(&mut config.hold_out, self.hold_out);
        set(&mut config.steps, self.steps);
        set_some(&mut config.minutes, self.minutes);
        set(&mut config.model, self.model);
        set(&mut config.base, self.base);
        set(&mut config.depth, self.depth);
        set(&mut config.dropout, self.dropout);
        set_some(&mut config.tile, self.tile);
        set(&mut config.zoom, self.zoom);
        set(&mut config.intensities, self.intensities);
        set(&mut config.batch, self.batch);
        set(&mut config.sampling, self.sampling);
        set(&mut config.foreground, self.foreground);
        set(&mut config.workers, self.workers);
        set_some(&mut config.memory, self.memory);
        set(&mut config.precision, self.precision);
        set(&mut config.optimizer, self.optimizer);
        set_some(&mut config.learning_rate, self.learning_rate);
        set(&mut config.momentum, self.momentum);
        set(&mut config.schedule, self.schedule);
        set_some(&mut config.clip_norm, self.clip_norm);
        set(&mut config.loss, self.loss);
        set(&mut config.border, self.border);
        set(&mut config.border_map, self.border_map);
        set_some(&mut config.border_w0, self.border_w0);
        set_some(&mut config.border_sigma, self.border_sigma);
        set_some(&mut config.class_weights, self.class_weights.clone());
        set(&mut config.balance, self.balance);
        set(&mut config.augment, self.augment.then_some(Augmentation::RECIPE));
        set(&mut config.augment, self.no_augment.then_some(Augmentation::NONE));
        set(&mut config.evaluate_every, self.evaluate_every);
        set(&mut config.best_by, self.best_by);
        set_some(&mut config.patience, self.patience);
        set(&mut config.save_every, self.save_every);
        set(&mut config.seed, seed);
        let Options { mask_suffix, classes, map, ignore } = self.labels.options();
        set(&mut config.mask_suffix, Some(mask_suffix).filter(|suffix| !suffix.is_empty()));
        set_some(&mut config.classes, classes);
        set_some(&mut config.map, map.map(|map| map.to_string()));
        set_some(&mut config.ignore, ignore);
        if let (Some(_), OptimizerKind::Adam | OptimizerKind::AdamW) = (self.momentum, config.optimizer) {
            let problem =
                "--momentum belongs to --optimizer sgd; Adam has beta1 and beta2, as keys of the --config file";
            return Err(Error::Usage(problem.into()));
        }
        config.validate()?;
        Ok(config)
    }
}

fn set<T>(setting: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *setting = value;
    }
}

fn set_some<T>(setting: &mut Option<T>, flag: Option<T>) {
    if flag.is_some() {
        *setting = flag;
    }
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let init = arguments.init.as_deref().map(|path| load(path, arguments.names.as_deref())).transpose()?;
    let config = arguments.config(global.seed, init.as_ref())?;
    let data = read(global, &config)?;
    if arguments.resume && global.kernels.is_some() {
        let problem =
            "a run goes on with the kernels that it began with, for others have other roundings: leave --kernels out";
        return Err(Error::Usage(problem.into()));
    }
    let mut device = global.open_device()?;
    let stop = stop_on_interrupt("the step and saving");
    let Data { training, validation, classes, metadata } = data;
    if let (true, Some(sample)) = (arguments.tune, training.first()) {
        let model = config.model(sample.image.channels, classes);
        let graph = Trainer::graph_of(&config, &model, config.tile_for(&training), &device)?;
        device = global.tuned(device, &[&graph], &stop)?;
    }
    let mut view = View::new(global, config.batch);
    let job = Job {
        config: &config,
        device: &device,
        training,
        validation,
        classes,
        metadata,
        out: &arguments.out,
        init: init.as_ref(),
        resume: arguments.resume,
    };
    let result = train(job, &mut |event| {
        view.show(event);
        go_on_unless(&stop)
    });
    view.finish();
    let code = match result {
        Ok(summary) => {
            global.say(&conclusion(&summary, arguments));
            if global.json {
                print_json(&summary)?;
            }
            if summary.status == Status::Interrupted {
                return Ok(ExitCode::from(Error::Interrupted.exit_code()));
            }
            ExitCode::SUCCESS
        }
        Err(error @ Error::Diverged(_)) => {
            note(&format!("error: {error}"));
            ExitCode::from(error.exit_code())
        }
        Err(error) => return Err(error),
    };
    // What was trained does not depend on it.
    match write_report(global, &arguments.out, &device) {
        Ok(path) => global.say(&format!("report: {}", path.display())),
        Err(error) => note(&format!(
            "note: there is no report, {error}; `tilewise report {}` writes it later",
            arguments.out.display()
        )),
    }
    Ok(code)
}

/// Reads the images again and writes the report of a run.
pub(crate) fn write_report(global: &Global, run: &Path, device: &Device) -> Result<PathBuf> {
    let bar = global.progress("report {bar:30} {pos}/{len} images, {eta} left");
    let path = report::of_run(run, device, &mut on(&bar));
    bar.finish_and_clear();
    path
}

/// Reads what a configuration names, and says what it found.
fn read(global: &Global, config: &Config) -> Result<Data> {
    let bar = global.progress(READING);
    let data = Data::read(config, &mut |line| bar.suspend(|| global.say(line)), &mut on(&bar));
    bar.finish_and_clear();
    data
}

/// Progress, as a bar in a terminal and as a line now and then elsewhere.
pub(crate) struct View {
    bar: ProgressBar,
    /// Whether to print lines.
    plain: bool,
    last_line: Option<Instant>,
    /// The loss, smoothed over about ten steps.
    loss: Option<f32>,
    scored: Option<Scored>,
    describe: bool,
    batch: usize,
}

/// Between lines without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl View {
    pub(crate) fn new(global: &Global, batch: usize) -> Self {
        let bar = global.progress("{bar:24} {msg}");
        let plain = bar.is_hidden() && !global.quiet;
        Self { bar, plain, last_line: None, loss: None, scored: None, describe: !global.quiet, batch }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    pub(crate) fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Ready { trainer, tile } if self.describe => {
                self.last_line = None;
                let model = trainer.model();
                let output = tile - model.shrink();
                note(&format!(
                    "{} of depth {} and base {}, {} parameters; {} tile(s) of {tile}×{tile} a step, {output}×{output} of them scored",
                    model.title(),
                    model.depth,
                    model.base_channels,
                    trainer.graph().parameter_count(),
                    self.batch
                ));
                note(&trainer.config().augment.in_frame([*tile; 2]));
                if trainer.steps_done() > 0 {
                    note(&format!("going on after step {}", trainer.steps_done()));
                }
            }
            Event::Step(progress) => self.step(progress),
            Event::Preparing { done, total } => {
                let text = format!("preparing image {done} of {total}");
                self.bar.set_message(text.clone());
                let last_line = self.last_line.get_or_insert_with(Instant::now);
                if self.plain && last_line.elapsed() >= LINE_EVERY {
                    note(&text);
                    *last_line = Instant::now();
                }
            }
            Event::Compiling => self.bar.set_message("compiling kernels"),
            Event::Evaluating { done, total } => {
                self.bar.set_message(format!("evaluating image {} of {total}", done + 1));
            }
            Event::Diagnosed(diagnosis) if self.describe => self.bar.suspend(|| note(&format!("note: {diagnosis}"))),
            Event::Retracing { step, until } => {
                self.bar.set_message(format!("looking for where it diverged: step {step} of {until} again"));
            }
            // What is not described, and what may be told later.
            _ => {}
        }
    }

    fn step(&mut self, progress: &Progress) {
        let record = progress.record;
        if record.loss.is_finite() {
            self.loss = Some(self.loss.map_or(record.loss, |loss| 0.9 * loss + 0.1 * record.loss));
        }
        if record.scored.is_some() {
            self.scored = record.scored;
        }
        let text = self.text(progress);
        self.bar.set_length(u64::from(progress.steps));
        self.bar.set_position(u64::from(record.step));
        self.bar.set_message(text.clone());
        let due = self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY);
        if self.plain && (due || record.scored.is_some() || record.step == progress.steps) {
            note(&text);
            self.last_line = Some(Instant::now());
        }
    }

    fn text(&self, progress: &Progress) -> String {
        let rate = |rate: f64| match rate {
            ..1.0 => format!("{:.1} s/step", 1.0 / rate),
            _ => format!("{rate:.1} steps/s"),
        };
        let parts = [
            Some(format!("step {}/{}", progress.record.step, progress.steps)),
            self.loss.map(|loss| format!("loss {loss:.4}")),
            progress
                .record
                .scaling
                .map(|scaling| format!("scale {} ({} overflowed)", scaling.loss_scale, scaling.overflows)),
            self.scored.and_then(|scored| scored.foreground_iou).map(|iou| format!("IoU {iou:.4}")),
            self.scored.and_then(|scored| scored.ap50).map(|precision| format!("AP50 {precision:.4}")),
            progress.steps_per_second.map(rate),
            progress.time_left.map(|left| format!("{} left", HumanDuration(left))),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join("  ")
    }
}

/// What came of it.
fn conclusion(summary: &Summary, arguments: &Arguments) -> String {
    let out = arguments.out.display();
    let Summary { step, seconds, .. } = summary;
    let resume = format!("go on with: tilewise train --out {out} --resume");
    let end = match summary.status {
        Status::Interrupted => format!("interrupted after step {step}, saved; {resume}"),
        Status::TimeIsUp => format!("the time is up after step {step}; {resume}"),
        Status::EarlyStopped => {
            format!("stopped after step {step}, as the scores became no better; {resume} and more --patience")
        }
        _ if summary.resumed_from == *step => format!("all {step} steps were done before; raise --steps to go on"),
        _ => format!("done: step {step} in {}", HumanDuration(Duration::from_secs_f64(*seconds))),
    };
    let best = summary
        .best
        .map(|best| format!("best {} {:.4} after step {}: {out}/best.safetensors", best.metric, best.value, best.step));
    let iou = summary.scored.and_then(|scored| scored.foreground_iou);
    let (mean_ap, ap50) = summary.scored.map_or((None, None), |scored| (scored.mean_ap, scored.ap50));
    let lines = [
        Some(end),
        summary.mean_loss.map(|loss| format!("mean loss {loss:.4}")),
        summary.scaling.map(|scaling| {
            format!(
                "mixed precision: {} step(s) skipped as they overflowed, loss scaled by {}",
                scaling.overflows, scaling.loss_scale
            )
        }),
        summary.waiting_for_data.map(|share| format!("the device waited for data {:.1} % of the time", 100.0 * share)),
        iou.map(|iou| format!("foreground IoU {iou:.4}")),
        mean_ap.zip(ap50).map(|(mean, half)| format!("objects: mean AP {mean:.4} (at IoU 0.5: {half:.4})")),
        best,
        summary.diagnosis.as_ref().map(|diagnosis| format!("note: {diagnosis}")),
        Some(format!("last weights: {out}/last.safetensors")),
    ];
    lines.into_iter().flatten().collect::<Vec<_>>().join("\n")
}
