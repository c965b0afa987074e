//! The steps themselves: batch, graph run, loss.

use super::config::Config;
use super::record::{Record, Scaling};
use crate::array::{Array, Tensor};
use crate::checkpoint::{self, Metadata, Section, Weights, state_prefix};
use crate::data::augmentation::Change;
use crate::data::sample::IGNORE;
use crate::data::sampler::{Batch, Sampler, Tile};
use crate::data::{Augmentation, Loader, Prepared};
use crate::error::{Error, Result};
use crate::executor::{Device, Executor};
use crate::graph::{Bank, Graph, NodeId, Parameter};
use crate::models::{Augmented, Tiles, Training, TrainingStep, UNet};
use crate::ops::LossScaleState;
use crate::recompute::MemoryBudget;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A network in training: every call of [`Trainer::step`] is one update.
#[derive(Debug)]
pub struct Trainer {
    config: Config,
    model: UNet,
    /// Side of the tiles that the network is given.
    tile: usize,
    training: Training,
    nodes: TrainingStep,
    /// The nodes ahead of the network, where tiles are augmented.
    augmented: Option<Augmented>,
    executor: Executor,
    batches: Arc<Batches>,
    /// Makes the batches of the steps to come, once there has been one.
    loader: Option<Loader<Inputs>>,
    place: Place,
    /// Where the scaling of the loss stood after the last step; `None` if there is none, or was no step.
    scaling: Option<LossScaleState>,
    /// How long the last step waited for its batch.
    waited: Duration,
}

/// Where a training stands. All counters advance by one a step; each is kept for itself, so that a checkpoint says where everything
/// stands that the next step depends on, and what is lost of it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Steps done, which the learning rate and the optimiser follow.
    step: u32,
    /// Batches taken.
    batch: u32,
    /// Seed and step of the generator of dropout and noise.
    generator: [u32; 2],
}

impl Place {
    /// The key of [`Place::batch`] in a checkpoint.
    const BATCH: &str = "batch";
    /// The key of [`Place::generator`].
    const GENERATOR: &str = "generator";

    fn next(self) -> Self {
        let [seed, step] = self.generator;
        Self { step: self.step + 1, batch: self.batch + 1, generator: [seed, step + 1] }
    }

    fn write(self, metadata: Metadata) -> Metadata {
        let metadata = metadata.with(Metadata::STEP, &self.step);
        metadata.with(Self::BATCH, &self.batch).with(Self::GENERATOR, &self.generator)
    }

    /// Where the training stood that wrote a checkpoint; `None` where the file does not say all of it.
    fn read(metadata: &Metadata) -> Result<Option<Self>, String> {
        let (step, batch) = (metadata.get(Metadata::STEP)?, metadata.get(Self::BATCH)?);
        let generator = metadata.get(Self::GENERATOR)?;
        Ok(step.zip(batch).zip(generator).map(|((step, batch), generator)| Self { step, batch, generator }))
    }
}

/// What batches are made of.
#[derive(Debug)]
struct Batches {
    sampler: Sampler,
    /// Elements of image, labels and weights.
    elements: [usize; 3],
    /// Tiles a batch, how they are augmented, and the side of what comes out; `None` where they stay as they are.
    changes: Option<(u32, Augmentation, usize)>,
}

/// A batch.
#[derive(Debug)]
struct Inputs {
    image: Vec<f32>,
    labels: Vec<u32>,
    weights: Vec<f32>,
    /// How each tile is changed on the device; empty without augmentation.
    changes: Vec<Change>,
}

/// Bytes of tensors that [`Trainer::visit`] keeps at once, unless a single one is larger.
const KEPT_BYTES: u64 = 1 << 28;

/// What a step does, in the memory that it may take on the device.
fn training(config: &Config, device: &Device) -> Training {
    let memory = config.memory.map(|mebibytes| MemoryBudget::on(device, mebibytes.saturating_mul(1 << 20)));
    Training { memory, ..config.training() }
}

/// A step on tiles of this side; and the nodes ahead of it, where tiles are augmented.
fn nodes(config: &Config, model: &UNet, tile: usize, training: &Training) -> Result<(TrainingStep, Option<Augmented>)> {
    let (frame, window) = ([tile; 2], [model.output_side(tile)?; 2]);
    let augmentation = &config.augment;
    if augmentation.is_none() {
        return Ok((model.build(config.batch, frame)?.training_step(training)?, None));
    }
    let tiles = Tiles { batch: config.batch, channels: model.in_channels, frame, window, augmentation };
    let (nodes, augmented) = model.augmented_training_step(&tiles, training)?;
    Ok((nodes, Some(augmented)))
}

/// Holds a sample against the network that is to learn from it. A class that the network does not have would count in no loss.
fn check_sample(model: &UNet, sample: &Prepared) -> Result<()> {
    let (name, channels, classes) = (&sample.name, sample.channels, model.classes);
    if channels != model.in_channels {
        let expected = model.in_channels;
        return Err(Error::Usage(format!("{name}: the image has {channels} channel(s), the network takes {expected}")));
    }
    match sample.classes.iter().find(|&&class| class != IGNORE && class as usize >= classes) {
        None => Ok(()),
        Some(class) => {
            let last = classes - 1;
            Err(Error::Usage(format!("{name}: class {class} in a network of {classes} classes, 0 to {last}")))
        }
    }
}

/// Draws source tiles for frames of a network that returns windows of them; with the truth of all of the source, or of the window.
pub(super) fn sampler(
    config: &Config,
    samples: Vec<Prepared>,
    frame: [usize; 2],
    window: [usize; 2],
    all_truth: bool,
) -> Result<Sampler> {
    let source = config.augment.source(frame);
    let truth = if all_truth { source } else { window };
    let tile = Tile { input: source, output: window, truth };
    Ok(Sampler::new(samples, tile, config.sampling, config.seed)?.centred(config.foreground))
}

/// Writes how each tile of a batch is changed.
pub(super) fn write_changes(executor: &mut Executor, nodes: &Augmented, changes: &[Change]) -> Result<()> {
    let transforms = changes.iter().flat_map(|change| change.transform).collect();
    let displacements = changes.iter().flat_map(|change| change.displacements.iter().copied()).collect();
    let intensities = changes.iter().flat_map(|change| change.intensities).collect();
    for (node, data) in
        [(nodes.transforms, transforms), (nodes.displacements, displacements), (nodes.intensities, intensities)]
    {
        let shape = executor.graph().shape(node).clone();
        executor.write(node, Tensor::Float(Array { shape, data }))?;
    }
    Ok(())
}

impl Batches {
    /// The batch of a number, counted from 0.
    fn make(&self, number: u32) -> Result<Inputs> {
        let [image, labels, weights] = self.elements;
        let (mut image, mut labels, mut weights) = (vec![0.0; image], vec![0; labels], vec![0.0; weights]);
        self.sampler.fill(number, Batch { input: &mut image, labels: &mut labels, weights: &mut weights })?;
        let changes = match &self.changes {
            Some((tiles, augmentation, frame)) => self.sampler.changes(number, *tiles, augmentation, [*frame; 2]),
            None => Vec::new(),
        };
        Ok(Inputs { image, labels, weights, changes })
    }
}

/// Writes a batch and where the generator stands: everything that a step computes its gradients from, besides parameters.
fn write_batch(
    executor: &mut Executor,
    nodes: &TrainingStep,
    augmented: Option<&Augmented>,
    inputs: Inputs,
    place: [u32; 2],
) -> Result<()> {
    let TrainingStep { ref graph, image, labels, weights, generator, .. } = *nodes;
    let float = |node: NodeId, data: Vec<f32>| Tensor::Float(Array { shape: graph.shape(node).clone(), data });
    let uint = |node: NodeId, data: Vec<u32>| Tensor::Uint(Array { shape: graph.shape(node).clone(), data });
    executor.write(image, float(image, inputs.image))?;
    executor.write(labels, uint(labels, inputs.labels))?;
    executor.write(weights, float(weights, inputs.weights))?;
    if let Some(augmented) = augmented {
        write_changes(executor, augmented, &inputs.changes)?;
    }
    match generator {
        Some(generator) => executor.write(generator, uint(generator, place.into())),
        None => Ok(()),
    }
}

impl Trainer {
    /// Initial weights, and everything that a step needs. Samples are as [`Config::prepared`] makes them.
    ///
    /// # Errors
    /// [`Error::Usage`] for a configuration that makes no sense, and for samples that do not fit it or the network, which are named; as
    /// [`Executor::new`].
    pub fn new(
        config: &Config,
        model: UNet,
        tile: usize,
        device: &Device,
        samples: impl IntoIterator<Item = Prepared>,
    ) -> Result<Self> {
        config.validate()?;
        let output = model.output_side(tile)?;
        let (frame, window, augmentation) = ([tile; 2], [output; 2], &config.augment);
        let samples = samples.into_iter().collect();
        let sampler = sampler(config, samples, frame, window, !augmentation.is_none())?;
        sampler.samples().iter().try_for_each(|sample| check_sample(&model, sample))?;
        let training = training(config, device);
        let (nodes, augmented) = nodes(config, &model, tile, &training)?;
        let initial = nodes.graph.initial_parameters(config.seed);
        let executor = Executor::new(device, &nodes.graph, &initial)?;
        let elements = [nodes.image, nodes.labels, nodes.weights].map(|node| nodes.graph.shape(node).elements());
        let changes = augmented.as_ref().map(|_| (config.batch as u32, *augmentation, tile));
        Ok(Self {
            config: config.clone(),
            model,
            tile,
            training,
            nodes,
            augmented,
            executor,
            batches: Arc::new(Batches { sampler, elements, changes }),
            loader: None,
            place: Place { step: 0, batch: 0, generator: [config.seed, 0] },
            scaling: None,
            waited: Duration::ZERO,
        })
    }

    /// The graph that a trainer of this model on tiles of this side will have on a device.
    ///
    /// # Errors
    /// [`Error::Usage`] for a network or a tile that makes no sense.
    pub fn graph_of(config: &Config, model: &UNet, tile: usize, device: &Device) -> Result<Graph> {
        Ok(nodes(config, model, tile, &training(config, device))?.0.graph)
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The graph of a step.
    pub fn graph(&self) -> &Graph {
        &self.nodes.graph
    }

    /// The network.
    pub fn model(&self) -> &UNet {
        &self.model
    }

    /// The number of steps done.
    pub fn steps_done(&self) -> u32 {
        self.place.step
    }

    /// Where the next step stands.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// The samples that batches are drawn from.
    pub fn samples(&self) -> &[Prepared] {
        self.batches.sampler.samples()
    }

    /// How long the last step waited for its batch, the device being idle.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// What of the last step is not as it should be, in words; nothing of a step that changed nothing because its scaled gradients overflowed,
    /// unless the scale cannot fall any further.
    pub(super) fn problem(&self, record: &Record) -> Option<String> {
        let Record { step, loss, grad_norm, .. } = record;
        if let Some(state) = self.scaling.filter(|state| state.skipped) {
            return state.exhausted.then(|| {
                format!(
                    "the gradients of step {step} are not finite even though the loss is no longer scaled, after {} overflows: what \
                     overflows is not the scaled gradients, but f16, or the training itself; --precision f32 tells which",
                    state.overflows
                )
            });
        }
        if !loss.is_finite() {
            return Some(format!("the loss of step {step} is {loss}"));
        }
        let norm = grad_norm.filter(|norm| !norm.is_finite())?;
        Some(format!("the norm of the gradients of step {step} is {norm}"))
    }

    /// One update. The loss in the record, and the norm of the gradients, may be infinite or NaN.
    ///
    /// # Errors
    /// When the device fails, or a batch cannot be made.
    pub fn step(&mut self) -> Result<Record> {
        self.executor.device().block_on(self.step_async())
    }

    /// As [`Trainer::step`], without blocking: ready once somebody has polled the device, as for
    /// [`Plan::read_async`](crate::gpu::Plan::read_async). Dropped before that, the update may have been made, or a part of it, without being
    /// counted; the next step is on the same batch.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub async fn step_async(&mut self) -> Result<Record> {
        let begun = Instant::now();
        let mut loader = self.loader()?;
        let inputs = loader.take_async().await?;
        self.waited = begun.elapsed();
        let Place { step, generator, .. } = self.place;
        let learning_rate = self.config.learning_rate_at(step);
        let TrainingStep { rates, loss, grad_norm, loss_scale, .. } = self.nodes;
        write_batch(&mut self.executor, &self.nodes, self.augmented.as_ref(), inputs, generator)?;
        let shape = self.nodes.graph.shape(rates).clone();
        let data = self.training.optimizer.rates(learning_rate, step);
        self.executor.write(rates, Tensor::Float(Array { shape, data }))?;
        self.executor.run_async().await?;
        let loss = self.number(loss).await?;
        let grad_norm = match grad_norm {
            Some(norm) => Some(self.number(norm).await?),
            None => None,
        };
        self.scaling = match loss_scale {
            Some(state) => Some(LossScaleState::of(&self.executor.read_async(state).await?.float().data)),
            None => None,
        };
        self.place = self.place.next();
        // Not before, so that a step that is broken off leaves none that is a batch ahead.
        self.loader = Some(loader);
        let scaling = self.scaling.map(|state| {
            let LossScaleState { scale: loss_scale, overflows, skipped, .. } = state;
            Scaling { loss_scale, overflows, skipped }
        });
        Ok(Record { step: self.place.step, loss, learning_rate, grad_norm, scaling, scored: None })
    }

    async fn number(&self, node: NodeId) -> Result<f32> {
        Ok(self.executor.read_async(node).await?.float().data.first().copied().unwrap_or(f32::NAN))
    }

    /// Takes what makes the batches from the next step on.
    fn loader(&mut self) -> Result<Loader<Inputs>> {
        if let Some(loader) = self.loader.take() {
            return Ok(loader);
        }
        let batches = Arc::clone(&self.batches);
        Loader::new(self.place.batch, self.config.workers, move |number| batches.make(number))
    }

    /// Shows `visitor` what the nodes, which must come before the update, have as values in the step at `place` when it starts from
    /// these parameters.
    ///
    /// # Errors
    /// When the device fails, or has no memory for a second plan.
    pub(super) fn visit(
        &self,
        place: Place,
        parameters: &[f32],
        nodes: &[NodeId],
        visitor: &mut dyn FnMut(NodeId, &Tensor<f32>) -> ControlFlow<()>,
    ) -> Result<()> {
        let (before, device) = (self.nodes.graph.before_update(), self.executor.device());
        let mut rest = nodes;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |node: &&NodeId| {
                bytes += before.node(**node).tensor_type.size_bytes();
                bytes <= KEPT_BYTES
            };
            let (kept, others) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            let mut graph = before.clone();
            kept.iter().try_for_each(|&node| graph.mark_output("value", node))?;
            let mut executor = Executor::new(&device, &graph, parameters)?;
            let inputs = self.batches.make(place.batch)?;
            write_batch(&mut executor, &self.nodes, self.augmented.as_ref(), inputs, place.generator)?;
            executor.run()?;
            for &node in kept {
                if visitor(node, &executor.read(node)?).is_break() {
                    return Ok(());
                }
            }
            rest = others;
        }
        Ok(())
    }

    /// The parameter bank.
    ///
    /// # Errors
    /// When the device fails.
    pub fn parameters(&self) -> Result<Vec<f32>> {
        self.executor.read_bank(Bank::Parameters)
    }

    /// As [`Trainer::parameters`], without blocking, as [`Trainer::step_async`].
    ///
    /// # Errors
    /// As [`Trainer::parameters`].
    pub async fn parameters_async(&self) -> Result<Vec<f32>> {
        self.executor.read_bank_async(Bank::Parameters).await
    }

    /// The parameters as the network has them that predicts: without what of a training's own state lies behind them.
    ///
    /// # Errors
    /// When the device fails.
    pub fn weights(&self) -> Result<Vec<f32>> {
        let mut parameters = self.parameters()?;
        parameters.truncate(self.loss_scale().map_or(parameters.len(), |scale| scale.offset));
        Ok(parameters)
    }

    /// Writes the parameters alone, with what prediction needs to know of them: [`Metadata::MODEL`], [`Metadata::TILE`],
    /// [`Metadata::INTENSITIES`] and [`Metadata::ZOOM`]. The last two are those by which the configuration [prepares](Config::prepared)
    /// samples, unless this metadata says otherwise.
    ///
    /// # Errors
    /// As [`checkpoint::save`].
    pub fn save_parameters(&self, path: &Path, metadata: &Metadata) -> Result<()> {
        let parameters = Section { prefix: "", bank: &self.parameters()? };
        checkpoint::save(path, self.graph(), &[parameters], &self.described(metadata))
    }

    /// The metadata, and how the network is to be used.
    fn described(&self, metadata: &Metadata) -> Metadata {
        let Config { intensities, zoom, .. } = &self.config;
        let prepared = Metadata::new().with(Metadata::INTENSITIES, intensities).with(Metadata::ZOOM, zoom);
        prepared.overlaid(metadata).with(Metadata::MODEL, &self.model).with(Metadata::TILE, &self.tile)
    }

    /// Writes everything that [`Trainer::restore`] needs, beside what [`Trainer::save_parameters`] writes.
    ///
    /// # Errors
    /// As [`checkpoint::save`].
    pub fn save(&self, path: &Path, metadata: &Metadata) -> Result<()> {
        let banks = self.banks()?;
        let sections: Vec<Section<'_>> = banks.iter().map(|(prefix, bank)| Section { prefix, bank }).collect();
        let mut metadata = self.place.write(self.described(metadata));
        if let Some(scale) = self.loss_scale() {
            metadata = metadata.with(LossScaleState::NAME, &self.graph().bank_slice(&banks[0].1, scale));
        }
        checkpoint::save(path, self.graph(), &sections, &metadata)
    }

    /// The buffer where the scaling of the loss stands, if it is scaled.
    fn loss_scale(&self) -> Option<&Parameter> {
        self.graph().parameters().iter().find(|parameter| parameter.name == LossScaleState::NAME)
    }

    /// The parameters and the optimiser's state, each with what its tensors' names begin with in a checkpoint.
    ///
    /// # Errors
    /// When the device fails.
    pub(super) fn banks(&self) -> Result<Vec<(String, Vec<f32>)>> {
        let mut banks = vec![(String::new(), self.parameters()?)];
        for (prefix, bank) in self.state() {
            banks.push((prefix, self.executor.read_bank(bank)?));
        }
        Ok(banks)
    }

    /// The banks of the optimiser's state, each with what it is called in a checkpoint.
    fn state(&self) -> impl Iterator<Item = (String, Bank)> + use<> {
        self.training.optimizer.state().iter().map(|state| state_prefix(state)).zip((0..).map(Bank::OptimizerState))
    }

    /// Takes the parameters of trained weights in place of random ones, as training that starts from another's does. Where the weights are
    /// of other classes, the last layer stays random.
    ///
    /// # Errors
    /// [`Error::Weights`] when they are of a network that differs otherwise than in its classes and its dropout;
    /// as [`Weights::network`]. Then nothing has changed.
    pub fn start_from(&mut self, weights: &Weights) -> Result<()> {
        let (theirs, bank) = weights.network()?;
        let UNet { classes, dropout, .. } = self.model;
        if (UNet { classes, dropout, ..theirs }) != self.model {
            let of = |net: &UNet| {
                let UNet { depth, base_channels, in_channels, .. } = net;
                format!(
                    "{} of depth {depth} and base {base_channels} for images of {in_channels} channel(s)",
                    net.variant
                )
            };
            return Err(weights.error(format!(
                "the weights are of {}, the network is {}; choose that network and images that fit it, or other weights",
                of(&theirs),
                of(&self.model)
            )));
        }
        let source = theirs.inference(1, [theirs.smallest_side(); 2])?.graph;
        let sources: BTreeMap<&str, &Parameter> =
            source.parameters().iter().map(|parameter| (parameter.name.as_str(), parameter)).collect();
        let (graph, mut parameters) = (&self.nodes.graph, self.parameters()?);
        for parameter in graph.parameters() {
            let same = sources.get(parameter.name.as_str()).filter(|source| source.shape == parameter.shape);
            if let Some(source) = same {
                let count = parameter.shape.elements();
                parameters[parameter.offset..][..count].copy_from_slice(&bank[source.offset..][..count]);
            }
        }
        self.executor.write_bank(Bank::Parameters, &parameters)
    }

    /// Takes the place of the trainer that wrote a checkpoint.
    ///
    /// # Errors
    /// [`Error::Weights`] when the file is not a checkpoint of this network, or its generator has another seed
    /// than the configuration; then nothing has changed.
    pub fn restore(&mut self, weights: &Weights) -> Result<()> {
        let place = Place::read(weights.metadata()).map_err(|problem| weights.error(problem))?;
        let Some(place) = place.filter(|_| self.state().all(|(prefix, _)| weights.has(&prefix))) else {
            return Err(
                weights.error("these are weights without the state of a training; resume from last.safetensors")
            );
        };
        let ([seed, _], ours) = (place.generator, self.config.seed);
        if seed != ours {
            return Err(weights.error(format!(
                "this training has the seed {seed}, the configuration {ours}; set seed = {seed} in config.toml, or start another run \
                 with --out"
            )));
        }
        let mut parameters = weights.bank_for(&self.nodes.graph)?;
        if let Some(scale) = self.loss_scale() {
            let numbers: Option<Vec<f32>> =
                weights.metadata().get(LossScaleState::NAME).map_err(|problem| weights.error(problem))?;
            let numbers = numbers.filter(|numbers| numbers.len() == scale.shape.elements()).ok_or_else(|| {
                weights.error("it does not say where the scale of the loss stood; resume with --precision f32")
            })?;
            parameters[scale.offset..][..numbers.len()].copy_from_slice(&numbers);
        }
        let mut banks = vec![(Bank::Parameters, parameters)];
        for (prefix, bank) in self.state() {
            banks.push((bank, weights.bank_with(&self.nodes.graph, &prefix)?));
        }
        banks.iter().try_for_each(|(bank, values)| self.executor.write_bank(*bank, values))?;
        (self.place, self.loader) = (place, None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Intensities;
    use crate::models::Variant;

    fn config() -> Config {
        Config { base: 2, depth: 1, batch: 1, zoom: 2.0.try_into().unwrap(), ..Config::default() }
    }

    fn sample(class: u32) -> Prepared {
        let (name, [height, width]) = ("blot".into(), [20; 2]);
        Prepared {
            name,
            height,
            width,
            channels: 1,
            pixels: vec![0.5; 400],
            classes: vec![class; 400],
            weights: vec![1.0; 400],
        }
    }

    fn trainer(model: UNet, class: u32) -> Result<Trainer> {
        Trainer::new(&config(), model, 20, &Device::Cpu, vec![sample(class)])
    }

    #[test]
    fn what_could_not_be_learned_is_refused_by_name() {
        let model = config().model(1, 2);
        for class in [0, 1, IGNORE] {
            trainer(model, class).unwrap();
        }
        let message = |model, class| trainer(model, class).unwrap_err().to_string();
        assert_eq!(message(model, 2), "blot: class 2 in a network of 2 classes, 0 to 1");
        let colour = UNet { in_channels: 3, ..model };
        assert_eq!(message(colour, 0), "blot: the image has 1 channel(s), the network takes 3");
        assert!(message(UNet { depth: 70, ..model }, 0).contains("depth must be 1 to 7"));
    }

    #[test]
    fn saved_parameters_say_how_they_are_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        for (variant, tile) in [(Variant::Milesial, None), (Variant::Semseg, Some(20))] {
            let net = UNet { variant, ..config().model(1, 2) };
            let trainer = trainer(net, 1).unwrap();
            trainer.save_parameters(&path, &Metadata::new()).unwrap();
            let weights = Weights::load(&path).unwrap();
            let (found, bank) = weights.network().unwrap();
            assert_eq!((found, weights.intensities(&net).unwrap()), (net, Intensities::Standard));
            assert_eq!((weights.tile(&net).unwrap(), weights.zoom().unwrap()), (tile, config().zoom));
            assert_eq!(bank, trainer.parameters().unwrap());
            trainer.save(&path, &Metadata::new().with(Metadata::INTENSITIES, &Intensities::Unit)).unwrap();
            let said = Weights::load(&path).unwrap().intensities(&net).unwrap();
            assert_eq!(said, Intensities::Unit, "whoever makes the samples knows better");
        }
    }
}
