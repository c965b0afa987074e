//! The steps themselves: batch, graph run, loss.

use super::config::Config;
use super::record::Record;
use crate::array::{Array, Tensor};
use crate::checkpoint::{self, Metadata, Section, Weights, state_prefix};
use crate::data::Prepared;
use crate::data::augmentation::Change;
use crate::data::sampler::{Batch, Choice, Sampler, Tile};
use crate::error::Result;
use crate::executor::{Device, Executor};
use crate::graph::{Bank, Graph, NodeId};
use crate::models::{Augmented, Tiles, Training, TrainingStep, UNet};
use std::path::Path;

/// A network in training: every call of [`Trainer::step`] is one update.
#[derive(Debug)]
pub struct Trainer {
    config: Config,
    model: UNet,
    /// Side of the network's input.
    tile: usize,
    training: Training,
    nodes: TrainingStep,
    /// The nodes ahead of the network, where tiles are augmented by more than flips.
    augmented: Option<Augmented>,
    executor: Executor,
    sampler: Sampler,
    /// Steps done.
    step: u32,
    /// The batch of the next step, where it was made while the device computed.
    next: Option<Inputs>,
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
    let sampler = Sampler::new(samples, tile, Choice::default(), config.seed)?;
    Ok(if config.augment.flips { sampler } else { sampler.upright() })
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

impl Trainer {
    /// Initial weights, and everything that a step needs.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) for a configuration that makes no sense or does not fit the samples; as [`Executor::new`].
    pub fn new(config: &Config, model: UNet, tile: usize, device: &Device, samples: Vec<Prepared>) -> Result<Self> {
        config.validate()?;
        let output = model.output_side(tile)?;
        let (frame, window, augmentation) = ([tile; 2], [output; 2], &config.augment);
        let sampler = sampler(config, samples, frame, window, augmentation.resamples())?;
        let training = config.training();
        let (nodes, augmented) = if augmentation.resamples() {
            let tiles = Tiles { batch: config.batch, channels: model.in_channels, frame, window, augmentation };
            let (nodes, augmented) = model.augmented_training_step(&tiles, &training)?;
            (nodes, Some(augmented))
        } else {
            (model.build(config.batch, frame)?.training_step(&training)?, None)
        };
        let initial = nodes.graph.initial_parameters(config.seed);
        let executor = Executor::new(device, &nodes.graph, &initial)?;
        Ok(Self {
            config: config.clone(),
            model,
            tile,
            training,
            nodes,
            augmented,
            executor,
            sampler,
            step: 0,
            next: None,
        })
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
        self.step
    }

    /// The samples that batches are drawn from.
    pub fn samples(&self) -> &[Prepared] {
        self.sampler.samples()
    }

    /// One update. The loss in the record, and the norm of the gradients, may be infinite or NaN.
    ///
    /// # Errors
    /// When the device fails.
    pub fn step(&mut self) -> Result<Record> {
        let inputs = match self.next.take() {
            Some(inputs) => inputs,
            None => self.inputs(self.step)?,
        };
        let learning_rate = self.config.learning_rate_at(self.step);
        let TrainingStep { image, labels, weights, rates, generator, loss, grad_norm, .. } = self.nodes;
        let graph = &self.nodes.graph;
        let float = |node: NodeId, data: Vec<f32>| Tensor::Float(Array { shape: graph.shape(node).clone(), data });
        let uint = |node: NodeId, data: Vec<u32>| Tensor::Uint(Array { shape: graph.shape(node).clone(), data });
        self.executor.write(image, float(image, inputs.image))?;
        self.executor.write(labels, uint(labels, inputs.labels))?;
        self.executor.write(weights, float(weights, inputs.weights))?;
        if let Some(augmented) = &self.augmented {
            write_changes(&mut self.executor, augmented, &inputs.changes)?;
        }
        self.executor.write(rates, float(rates, self.training.optimizer.rates(learning_rate, self.step)))?;
        if let Some(generator) = generator {
            self.executor.write(generator, uint(generator, vec![self.config.seed, self.step]))?;
        }
        self.executor.run()?;
        // The device computes while the next batch is made.
        self.next = Some(self.inputs(self.step.wrapping_add(1))?);
        let number = |node| Ok(self.executor.read(node)?.float().data.first().copied().unwrap_or(f32::NAN));
        let (loss, grad_norm) = (number(loss)?, grad_norm.map(number).transpose()?);
        self.step += 1;
        Ok(Record { step: self.step, loss, learning_rate, grad_norm, scored: None })
    }

    /// The batch of a step, counted from 0.
    fn inputs(&self, step: u32) -> Result<Inputs> {
        let elements = |node| self.nodes.graph.shape(node).elements();
        let mut inputs = Inputs {
            image: vec![0.0; elements(self.nodes.image)],
            labels: vec![0; elements(self.nodes.labels)],
            weights: vec![0.0; elements(self.nodes.weights)],
            changes: Vec::new(),
        };
        if self.augmented.is_some() {
            let Config { batch, augment, .. } = &self.config;
            inputs.changes = self.sampler.changes(step, *batch as u32, augment, [self.tile; 2]);
        }
        let Inputs { image, labels, weights, .. } = &mut inputs;
        self.sampler.fill(step, Batch { input: image, labels, weights })?;
        Ok(inputs)
    }

    /// The parameter bank.
    ///
    /// # Errors
    /// When the device fails.
    pub fn parameters(&self) -> Result<Vec<f32>> {
        self.executor.read_bank(Bank::Parameters)
    }

    /// Writes the parameters alone, for prediction.
    ///
    /// # Errors
    /// As [`checkpoint::save`].
    pub fn save_parameters(&self, path: &Path, metadata: &Metadata) -> Result<()> {
        let parameters = Section { prefix: "", bank: &self.parameters()? };
        checkpoint::save(path, self.graph(), &[parameters], metadata)
    }

    /// Writes everything that [`Trainer::restore`] needs.
    ///
    /// # Errors
    /// As [`checkpoint::save`].
    pub fn save(&self, path: &Path, metadata: &Metadata) -> Result<()> {
        let mut banks = vec![(String::new(), self.parameters()?)];
        for (prefix, bank) in self.state() {
            banks.push((prefix, self.executor.read_bank(bank)?));
        }
        let sections: Vec<Section<'_>> = banks.iter().map(|(prefix, bank)| Section { prefix, bank }).collect();
        checkpoint::save(path, self.graph(), &sections, metadata)
    }

    /// The banks of the optimiser's state, each with what it is called in a checkpoint.
    fn state(&self) -> impl Iterator<Item = (String, Bank)> + use<> {
        self.training.optimizer.state().iter().map(|state| state_prefix(state)).zip((0..).map(Bank::OptimizerState))
    }

    /// Takes the place of the trainer that wrote a checkpoint.
    ///
    /// # Errors
    /// [`Error::Weights`](crate::Error::Weights) when the file is not a checkpoint of this network; then nothing has changed.
    pub fn restore(&mut self, weights: &Weights) -> Result<()> {
        let step = weights.metadata().get(Metadata::STEP).map_err(|problem| weights.error(problem))?;
        let Some(step) = step.filter(|_| self.state().all(|(prefix, _)| weights.has(&prefix))) else {
            return Err(
                weights.error("these are weights without the state of a training; resume from last.safetensors")
            );
        };
        let parameters = weights.bank_for(&self.nodes.graph)?;
        let mut banks = vec![(Bank::Parameters, parameters)];
        for (prefix, bank) in self.state() {
            banks.push((bank, weights.bank_with(&self.nodes.graph, &prefix)?));
        }
        banks.iter().try_for_each(|(bank, values)| self.executor.write_bank(*bank, values))?;
        (self.step, self.next) = (step, None);
        Ok(())
    }
}
