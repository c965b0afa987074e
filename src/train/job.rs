//! A run from its folder's first file to its last.

use super::clock::Clock;
use super::config::Config;
use super::diagnosis::Diagnosis;
use super::divergence::{Divergence, Origin, retrace};
use super::events::{Events, Shown};
use super::fingerprint::fingerprint;
use super::folder::{Folder, Metrics};
use super::maps::WeightMaps;
use super::record::{Best, Progress, Record, Scaling, Scored, Status, Summary};
use super::trainer::Trainer;
use super::validation::{Validated, Validator};
use crate::checkpoint::{Metadata, Weights};
use crate::data::sample::balance;
use crate::data::{Prepared, Sample, Truth};
use crate::error::{Error, Result};
use crate::executor::Device;
use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Instant;

/// What to train, on what, and where to keep it.
#[derive(Debug)]
pub struct Job<'a> {
    /// The settings.
    pub config: &'a Config,
    /// Where to compute. A run that goes on does so with the kernels that it began with, whatever [`Gpu::choices`](crate::Gpu::choices)
    /// are, as long as device, driver and version of wgpu are those of then.
    pub device: &'a Device,
    /// The images that batches are drawn from.
    pub training: Vec<Sample>,
    /// The images to score the weights on; there may be none.
    pub validation: Vec<Sample>,
    /// The number of classes, background included.
    pub classes: usize,
    /// What else the weights files are to say, such as what the classes are called.
    pub metadata: Metadata,
    /// The folder of the run.
    pub out: &'a Path,
    /// Weights to begin with, of the same network, in place of random ones; see [`Trainer::start_from`]. A run that goes on has its own.
    pub init: Option<&'a Weights>,
    /// Whether to go on with the run in that folder rather than to begin one.
    pub resume: bool,
}

/// Hears how it goes, and may break off: then the step at hand is finished, and everything saved for a run that goes on.
pub type Observer<'a> = dyn FnMut(&Event<'_>) -> ControlFlow<()> + 'a;

/// What [`train`] tells while it works.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The images are being weighed pixel by pixel and normalised.
    Preparing {
        /// Images done.
        done: usize,
        /// Images in total.
        total: usize,
    },
    /// The device's driver compiles the kernels of the training step.
    Compiling,
    /// Everything is in place; the first step follows.
    Ready {
        /// The network and its data.
        trainer: &'a Trainer,
        /// Side of the input tiles.
        tile: usize,
    },
    /// A step is done.
    Step(Progress),
    /// The weights are being scored on the validation images.
    Evaluating {
        /// Images done.
        done: usize,
        /// Images in total.
        total: usize,
    },
    /// Every pixel of the validation images gets the same class, and not for the first time or for a reason that will not pass.
    Diagnosed(&'a Diagnosis),
    /// The run has diverged, and its last steps are done again to find out where.
    Retracing {
        /// Steps done.
        step: u32,
        /// The step at which it was noticed.
        until: u32,
    },
}

/// The keys of a checkpoint's metadata that only training reads.
mod key {
    pub(super) const DATA: &str = "data";
    pub(super) const BEST: &str = "best";
    /// The evaluations since then.
    pub(super) const SINCE_BEST: &str = "since_best";
    /// The record of a step whose evaluation was interrupted.
    pub(super) const PENDING: &str = "pending";
}

/// How many losses the summary's mean is over.
const RECENT: usize = 100;

/// Trains until the steps are done, the time is up, or the observer breaks off.
///
/// The state is saved at the start, every [`Config::save_every`] steps and at the end. Whatever goes wrong in between, the
/// last checkpoint stays whole.
///
/// # Errors
/// [`Error::Usage`] when the configuration makes no sense, or the folder or the data do not fit it; [`Error::Diverged`] when
/// the loss is no longer finite; [`Error::Io`] when a file cannot be written; as [`Trainer::new`].
pub fn train(job: Job<'_>, observer: &mut Observer<'_>) -> Result<Summary> {
    let clock = Clock::start(job.config.minutes);
    // Its device may become one that lives as long as this call.
    let mut job = job;
    job.config.validate()?;
    if job.config.patience.is_some() && job.validation.is_empty() {
        let problem =
            "patience counts evaluations, and there are no validation images: give --val DIR or --hold-out 0.1";
        return Err(Error::Usage(problem.into()));
    }
    let metric = job.config.best_by;
    let told_apart = job.validation.iter().any(|sample| matches!(sample.truth, Truth::Instances(_)));
    if metric.needs_objects() && !job.validation.is_empty() && !told_apart {
        return Err(Error::Usage(format!(
            "best_by {metric} compares objects, and the truth of the validation images does not tell them apart: give instances/ \
             in place of masks/, or another best_by such as foreground_iou"
        )));
    }
    let data = fingerprint(job.training.iter().chain(&job.validation));
    let (folder, resumed) = if job.resume {
        let (folder, weights, before) = Folder::resume(job.out)?;
        before.check_resumed_as(job.config)?;
        (folder, Some(weights))
    } else {
        (Folder::begin(job.out)?, None)
    };
    let device = if job.resume { folder.device(job.device)? } else { job.device.clone() };
    job.device = &device;
    let tile = job.config.tile_for(&job.training);
    let (training, validation) = (std::mem::take(&mut job.training), std::mem::take(&mut job.validation));
    let mut stopped = false;
    let mut prepared = |done, total| stopped |= observer(&Event::Preparing { done, total }).is_break();
    let samples = prepare(&job, training, &WeightMaps::new(&folder.maps), &mut prepared)?;
    let channels = samples.first().map_or(1, |sample| sample.channels);
    if let Some(weights) = job.config.class_weights.as_ref().filter(|weights| weights.len() != job.classes) {
        let (count, classes) = (weights.len(), job.classes);
        return Err(Error::Usage(format!(
            "class_weights has {count} values, the data {classes} classes; give one for each"
        )));
    }
    let model = job.config.model(channels, job.classes);
    if job.device.gpu().is_some() {
        stopped |= observer(&Event::Compiling).is_break();
    }
    let mut trainer = Trainer::new(job.config, model, tile, job.device, samples)?;
    let standing = if let Some(weights) = &resumed {
        let standing = Standing::read(weights, &data)?;
        trainer.restore(weights)?;
        standing
    } else {
        job.init.map_or(Ok(()), |weights| trainer.start_from(weights))?;
        Standing::default()
    };
    let validator = if validation.is_empty() {
        None
    } else {
        let parameters = trainer.weights()?;
        Some(Validator::new(job.device, job.config, model, tile, parameters, validation)?)
    };
    let metrics = Metrics::open(&folder.metrics, trainer.steps_done())?;
    let events = Events::open(&folder.events, trainer.steps_done())?;
    stopped |= observer(&Event::Ready { trainer: &trainer, tile }).is_break();
    let resumed_from = trainer.steps_done();
    let mut run = Run {
        data,
        folder,
        tile,
        trainer,
        validator,
        metrics,
        events,
        shown: Vec::new(),
        standing,
        saved: resumed.is_some().then_some(resumed_from),
        diagnosis: None,
        diagnosed: false,
        scored: None,
        best_at_end: None,
        losses: VecDeque::new(),
        scaling: None,
        clock,
        job: &job,
        observer,
        stopped,
    };
    run.folder.write_config(job.config)?;
    if run.saved.is_none() {
        run.folder.write_kernels(job.device)?;
        // Before hours of work: can the folder hold a checkpoint? It comes last, as it is what makes the folder that of a run.
        run.save()?;
    }
    let (status, failure) = match run.go() {
        Ok(status) => (status, None),
        Err(Error::Diverged(problem)) => (Status::Diverged, Some(problem)),
        Err(error) => return Err(error),
    };
    let mut summary = run.summary(status, resumed_from);
    let failure = match failure {
        Some(problem) => {
            let problem = run.diverged(&problem);
            summary.failure = Some(problem.clone());
            Some(Error::Diverged(problem))
        }
        None => None,
    };
    if summary.step > resumed_from || resumed_from == 0 {
        run.folder.write_summary(&summary)?;
    }
    failure.map_or(Ok(summary), Err)
}

/// The samples as the network takes them, made on all cores; of several errors the first in the order of the samples is returned.
fn prepare(
    job: &Job<'_>,
    samples: Vec<Sample>,
    maps: &WeightMaps,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Prepared>> {
    let (config, total) = (job.config, samples.len());
    let mut results: Vec<Option<Result<Prepared>>> = samples.iter().map(|_| None).collect();
    let (sender, receiver) = channel();
    rayon::in_place_scope(|scope| {
        for (index, sample) in samples.into_iter().enumerate() {
            let sender = sender.clone();
            // The receiver lives until all have sent.
            scope.spawn(move |_| drop(sender.send((index, maps.prepare(config, sample)))));
        }
        drop(sender);
        for (done, (index, result)) in (1..).zip(receiver) {
            results[index] = Some(result);
            progress(done, total);
        }
    });
    let mut prepared = results.into_iter().flatten().collect::<Result<Vec<Prepared>>>()?;
    if job.config.balance {
        balance(&mut prepared, job.classes)?;
    }
    Ok(prepared)
}

/// What a checkpoint knows besides numbers.
#[derive(Debug, Default)]
struct Standing {
    best: Option<Best>,
    /// Evaluations since the best one.
    since_best: u32,
    pending: Option<Record>,
}

impl Standing {
    /// Reads it from a checkpoint that must belong to this data.
    fn read(weights: &Weights, data: &str) -> Result<Self> {
        let fail = |problem| weights.error(problem);
        let metadata = weights.metadata();
        let before: Option<String> = metadata.get(key::DATA).map_err(fail)?;
        if before.as_deref().is_some_and(|before| before != data) {
            return Err(Error::Usage(
                "the images or labels are not those that this run began with: give the same --data and --val, or start another \
                 run with --out"
                    .into(),
            ));
        }
        let best = metadata.get(key::BEST).map_err(fail)?.flatten();
        let since_best = metadata.get(key::SINCE_BEST).map_err(fail)?.unwrap_or(0);
        let pending = metadata.get(key::PENDING).map_err(fail)?;
        Ok(Self { best, since_best, pending })
    }
}

/// A run in progress.
struct Run<'a, 'o> {
    job: &'a Job<'a>,
    observer: &'o mut Observer<'o>,
    /// Whether the observer has broken off.
    stopped: bool,
    data: String,
    folder: Folder,
    /// Side of the input tiles.
    tile: usize,
    trainer: Trainer,
    validator: Option<Validator>,
    metrics: Metrics,
    events: Events,
    /// What the evaluation of the step shows, until it is recorded.
    shown: Vec<Shown>,
    standing: Standing,
    /// The step in `last.safetensors`.
    saved: Option<u32>,
    /// What was found at the last evaluation where all its predictions were of one class.
    diagnosis: Option<Diagnosis>,
    /// Whether the observer knows.
    diagnosed: bool,
    /// The last evaluation and its step.
    scored: Option<(u32, Scored)>,
    /// What was saved as the best weights for want of a scheduled evaluation.
    best_at_end: Option<Best>,
    losses: VecDeque<f32>,
    /// Where the scaling of the loss stood after the last step.
    scaling: Option<Scaling>,
    clock: Clock,
}

impl Run<'_, '_> {
    /// Steps until there is a reason to stop, then the last checkpoint.
    fn go(&mut self) -> Result<Status> {
        let status = loop {
            if let Some(record) = self.standing.pending.take() {
                let Some(scored) = self.evaluate()? else {
                    self.standing.pending = Some(record);
                    break Status::Interrupted;
                };
                self.complete(Record { scored: Some(scored), ..record })?;
            }
            if self.trainer.steps_done() >= self.job.config.steps {
                break Status::Finished;
            }
            if self.job.config.patience.is_some_and(|patience| self.standing.since_best >= patience) {
                break Status::EarlyStopped;
            }
            if self.stopped {
                break Status::Interrupted;
            }
            if self.clock.time_is_up() {
                break Status::TimeIsUp;
            }
            let record = self.step()?;
            if self.validator.is_some() && record.step.is_multiple_of(self.job.config.evaluate_every) {
                self.standing.pending = Some(record);
            } else {
                self.complete(record)?;
            }
        };
        if self.saved != Some(self.trainer.steps_done()) || self.standing.pending.is_some() {
            self.save()?;
        }
        if status != Status::Interrupted && self.scored.is_none_or(|(step, _)| step != self.trainer.steps_done()) {
            self.evaluate_off_schedule()?;
        }
        Ok(status)
    }

    fn step(&mut self) -> Result<Record> {
        let begun = Instant::now();
        let record = self.trainer.step()?;
        self.clock.add(begun.elapsed(), self.trainer.waited());
        if let Some(problem) = self.trainer.problem(&record) {
            return Err(Error::Diverged(problem));
        }
        self.scaling = record.scaling;
        if record.loss.is_finite() {
            if self.losses.len() == RECENT {
                self.losses.pop_front();
            }
            self.losses.push_back(record.loss);
        }
        Ok(record)
    }

    /// What follows a step, its evaluation included.
    fn complete(&mut self, record: Record) -> Result<()> {
        self.metrics.append(&record).map_err(|error| self.explained(error))?;
        self.events.append(&record, &mut self.shown).map_err(|error| self.explained(error))?;
        if let Some(scored) = record.scored {
            self.standing.since_best += 1;
            let best = self.rated(record.step, &scored);
            let earlier = self.standing.best;
            let better = |best: &Best| earlier.is_none_or(|earlier| best.metric.is_better(best.value, earlier.value));
            if let Some(best) = best.filter(better) {
                self.save_best(best)?;
                self.standing.best = Some(best);
                self.standing.since_best = 0;
            }
        }
        let steps = self.job.config.steps;
        let progress = Progress {
            record,
            steps,
            steps_per_second: self.clock.steps_per_second(),
            time_left: self.clock.time_left(steps - record.step.min(steps)),
        };
        self.stopped |= (self.observer)(&Event::Step(progress)).is_break();
        if record.step.is_multiple_of(self.job.config.save_every) {
            self.save()?;
        }
        Ok(())
    }

    /// Scores the current weights; `None` when the observer breaks off.
    fn evaluate(&mut self) -> Result<Option<Scored>> {
        let Some(validator) = &mut self.validator else { return Ok(None) };
        let parameters = self.trainer.weights()?;
        let (step, folder, shown) = (self.trainer.steps_done(), &self.folder, &mut self.shown);
        shown.clear();
        let validated = validator.score(
            parameters,
            &mut |done, total| {
                self.stopped |= (self.observer)(&Event::Evaluating { done, total }).is_break();
                if self.stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
            &mut |name, prediction| {
                shown.push(folder.write_progress(name, step, prediction)?);
                Ok(())
            },
        )?;
        let Some(validated) = validated else { return Ok(None) };
        self.scored = Some((step, validated.scored));
        self.diagnose(&validated);
        Ok(Some(validated.scored))
    }

    /// Says so once when every pixel gets the same class and that will not pass, or has not since the evaluation before.
    fn diagnose(&mut self, validated: &Validated) {
        let lasts = self.diagnosis.is_some();
        self.diagnosis = Diagnosis::new(&self.trainer, validated);
        match &self.diagnosis {
            Some(diagnosis) if !self.diagnosed && (lasts || diagnosis.is_certain) => {
                self.diagnosed = true;
                self.stopped |= (self.observer)(&Event::Diagnosed(diagnosis)).is_break();
            }
            Some(_) => {}
            None => self.diagnosed = false,
        }
    }

    /// Scores the weights a run ends with, for the summary only: whether a run was cut in two must not show in its records.
    /// Without scheduled evaluations these are the best weights, too.
    fn evaluate_off_schedule(&mut self) -> Result<()> {
        let best = self.evaluate()?.and_then(|scored| self.rated(self.trainer.steps_done(), &scored));
        if let Some(best) = best.filter(|_| self.standing.best.is_none()) {
            self.save_best(best)?;
            self.best_at_end = Some(best);
        }
        Ok(())
    }

    /// The scores by the metric that counts, if it is defined.
    fn rated(&self, step: u32, scored: &Scored) -> Option<Best> {
        let metric = self.job.config.best_by;
        metric.of(scored).map(|value| Best { step, metric, value })
    }

    fn save(&mut self) -> Result<()> {
        self.metrics.sync().map_err(|error| self.explained(error))?;
        let mut metadata = (self.job.metadata.clone())
            .with(key::DATA, &self.data)
            .with(key::BEST, &self.standing.best)
            .with(key::SINCE_BEST, &self.standing.since_best);
        if let Some(pending) = &self.standing.pending {
            metadata = metadata.with(key::PENDING, pending);
        }
        self.trainer.save(&self.folder.last, &metadata).map_err(|error| self.explained(error))?;
        let step = self.trainer.steps_done();
        self.saved = Some(step);
        tracing::info!("saved step {step} to {}", self.folder.last.display());
        Ok(())
    }

    fn save_best(&mut self, best: Best) -> Result<()> {
        let metadata = self.job.metadata.clone().with(Metadata::STEP, &best.step).with(key::BEST, &best);
        self.trainer.save_parameters(&self.folder.best, &metadata).map_err(|error| self.explained(error))?;
        tracing::info!("saved step {}, the best so far, to {}", best.step, self.folder.best.display());
        Ok(())
    }

    /// What is left when saving fails.
    fn explained(&self, error: Error) -> Error {
        match error {
            Error::Io { action, path, source } => {
                let source = io::Error::new(source.kind(), format!("{source}; {}", self.left()));
                Error::Io { action, path, source }
            }
            other => other,
        }
    }

    /// What went wrong, where, what is left, and what to do.
    fn diverged(&mut self, problem: &str) -> String {
        let (until, job) = (self.trainer.steps_done(), self.job);
        let mut proceed = |step| {
            self.stopped |= (self.observer)(&Event::Retracing { step, until }).is_break();
            !self.stopped
        };
        let checkpoint = Weights::load(&self.folder.last);
        let found = checkpoint
            .and_then(|checkpoint| retrace(&mut self.trainer, &checkpoint, &mut proceed))
            .map_err(|error| format!("which tensor was the first cannot be told: {error}"));
        let is_data = matches!(&found, Ok(Some(Divergence { origin: Origin::Input { .. }, .. })));
        let advice = if is_data {
            "Mend what it is made of, and start again".into()
        } else {
            let rate = job.config.peak_learning_rate();
            let lower = rate / 3.0;
            format!(
                "Start again, or go on from there with --resume, at a lower rate: --lr {lower:.0e} instead of {rate}"
            )
        };
        let found = match found {
            Ok(Some(divergence)) => format!("{divergence}; "),
            Ok(None) => String::new(),
            Err(problem) => format!("{problem}; "),
        };
        format!("training has diverged: {problem}; {found}{}. {advice}", self.left())
    }

    fn left(&self) -> String {
        match self.saved {
            Some(step) => format!("the checkpoint of step {step} is whole: {}", self.folder.last.display()),
            None => "nothing is lost, training had not begun".into(),
        }
    }

    fn summary(&self, status: Status, resumed_from: u32) -> Summary {
        let count = self.losses.len();
        Summary {
            status,
            failure: None,
            step: self.trainer.steps_done(),
            resumed_from,
            loss: self.losses.back().copied(),
            mean_loss: (count > 0).then(|| self.losses.iter().sum::<f32>() / count as f32),
            diagnosis: self.diagnosis.clone(),
            scored: self.scored.map(|(_, scored)| scored),
            scaling: self.scaling,
            best: self.standing.best.or(self.best_at_end),
            model: *self.trainer.model(),
            parameters: self.trainer.graph().parameter_count(),
            tile: self.tile,
            images: self.trainer.samples().len(),
            validation_images: self.validator.as_ref().map_or(0, Validator::len),
            seed: self.job.config.seed,
            device: self.job.device.to_string(),
            version: env!("CARGO_PKG_VERSION"),
            seconds: self.clock.elapsed().as_secs_f64(),
            steps_per_second: self.clock.steps_per_second(),
            waiting_for_data: self.clock.waiting_share(),
        }
    }
}
