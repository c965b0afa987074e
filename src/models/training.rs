//! From a network to one training step: loss, gradients, update.

use super::{Network, Precision};
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeId};
use crate::ops::{AdamSettings, CrossEntropySettings, DiceSettings, Reduction, SgdSettings};
use crate::recompute::MemoryBudget;
use crate::shape::TensorType;
use std::collections::BTreeSet;

/// What is minimised, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// The loss.
    pub loss: Loss,
    /// The largest norm of all gradients together, to which longer ones are scaled down; `None` to leave them as they are.
    pub clip_norm: Option<f32>,
    /// How the parameters follow their gradients.
    pub optimizer: Optimizer,
    /// The memory that a step may take; where it would take more, tensors of the forward pass are computed again for the backward pass
    /// rather than kept.
    pub memory: Option<MemoryBudget>,
    /// How activations are stored. In mixed precision the loss is scaled.
    pub precision: Precision,
}

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// The weighted cross-entropy, the paper's.
    CrossEntropy(CrossEntropySettings),
    /// The soft Dice loss.
    Dice(DiceSettings),
    /// Their sum.
    Both(CrossEntropySettings, DiceSettings),
}

/// How parameters follow their gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// Stochastic gradient descent with momentum.
    Sgd(SgdSettings),
    /// Adam or `AdamW`.
    Adam(AdamSettings),
}

impl Optimizer {
    /// `PyTorch`'s names of the arrays of its state, the first for [`Bank::OptimizerState(0)`](crate::graph::Bank).
    pub fn state(&self) -> &'static [&'static str] {
        match self {
            Self::Sgd(_) => &["momentum_buffer"],
            Self::Adam(_) => &["exp_avg", "exp_avg_sq"],
        }
    }

    /// How much of Adam's moments stays from step to step; 0 where there are none.
    fn betas(&self) -> [f32; 2] {
        match self {
            Self::Sgd(_) => [0.0; 2],
            Self::Adam(settings) => [settings.beta1, settings.beta2],
        }
    }

    /// What the host writes to [`TrainingStep::rates`] for a step, counted from 0.
    pub fn rates(&self, learning_rate: f32, step: u32) -> Vec<f32> {
        match self {
            Self::Sgd(_) => vec![learning_rate],
            Self::Adam(settings) => settings.rates(learning_rate, step).into(),
        }
    }
}

impl Default for Training {
    /// The paper's momentum of 0.99 without weight decay, on the mean of the loss over the weights. Nothing is ignored: a pixel
    /// that should not count has weight 0.
    fn default() -> Self {
        Self {
            loss: Loss::CrossEntropy(CrossEntropySettings { reduction: Reduction::MeanOverWeights, ignore: None }),
            clip_norm: None,
            optimizer: Optimizer::Sgd(SgdSettings { momentum: 0.99, weight_decay: 0.0 }),
            memory: None,
            precision: Precision::F32,
        }
    }
}

/// A graph whose every run is one training step.
#[derive(Clone, Debug)]
pub struct TrainingStep {
    /// Forward, backward and update.
    pub graph: Graph,
    /// The input, `[n, h, w, in_channels]`.
    pub image: NodeId,
    /// The class of each pixel of the output, `u32 [n, h', w']`.
    pub labels: NodeId,
    /// The weight of each pixel of the output, `[n, h', w']`.
    pub weights: NodeId,
    /// The learning rate of the step and what else changes with it, as [`Optimizer::rates`] has them.
    pub rates: NodeId,
    /// Seed and step of the generator for dropout and noise, `u32 [2]`; `None` without either.
    pub generator: Option<NodeId>,
    /// The scores before the softmax; an output only if marked so.
    pub logits: NodeId,
    /// The loss before the update, `[1]`, an output.
    pub loss: NodeId,
    /// The norm of the gradients before they were scaled down, `[1]`, an output; `None` if they are left as they are.
    pub grad_norm: Option<NodeId>,
    /// Where the scaling of the loss stands after the step, `[6]`, an output to be read as a [`LossScaleState`](crate::ops::LossScaleState);
    /// `None` if the loss is not scaled.
    pub loss_scale: Option<NodeId>,
}

impl Network {
    /// The graph of one training step: loss, gradients, update.
    ///
    /// # Errors
    /// When an op on the way has no gradient, or takes no `f16` in mixed precision; [`Error::Memory`] when it does not fit the memory that it
    /// may take.
    pub fn training_step(&self, training: &Training) -> Result<TrainingStep> {
        let mut network = self.clone();
        let logits = self.graph.find("training_step", "logits", self.logits)?;
        let [n, h, w, _] = logits.tensor_type.shape.image().map_err(Error::Usage)?;
        let labels = network.graph.input("labels", TensorType::u32([n, h, w]).map_err(Error::Usage)?);
        let weights = network.graph.input("weights", TensorType::f32([n, h, w]).map_err(Error::Usage)?);
        network.training_step_on(labels, weights, training)
    }

    /// [`Network::training_step`] on labels and weights that the graph has already.
    ///
    /// # Errors
    /// As [`Network::training_step`], and when labels or weights are not of the size of the scores.
    pub fn training_step_on(&self, labels: NodeId, weights: NodeId, training: &Training) -> Result<TrainingStep> {
        let (network, stands) = self.stored_in(training.precision)?;
        let (labels, weights) = (stands[labels.index()], stands[weights.index()]);
        let logits = network.logits;
        let mut graph = network.graph.clone();
        let loss = match training.loss {
            Loss::CrossEntropy(settings) => graph.cross_entropy("loss", logits, labels, weights, settings)?,
            Loss::Dice(settings) => graph.dice("loss", logits, labels, weights, settings)?,
            Loss::Both(cross_entropy, dice) => {
                let cross_entropy = graph.cross_entropy("cross_entropy", logits, labels, weights, cross_entropy)?;
                let dice = graph.dice("dice", logits, labels, weights, dice)?;
                graph.add("loss", cross_entropy, dice)?
            }
        };
        graph.mark_output("loss", loss)?;
        let minimised = match training.precision {
            Precision::F32 => loss,
            Precision::Mixed => graph.scale_loss("scaled_loss", loss)?,
        };
        let build =
            |again: &BTreeSet<NodeId>| network.step_of(&graph, [labels, weights, loss, minimised], training, again);
        let Some(memory) = &training.memory else { return build(&BTreeSet::new()) };
        // What is computed within a fused kernel is not there to be read.
        let within = graph.within_fused();
        memory.fit(&graph, |again| build(&within.union(again).copied().collect()), |step| &step.graph)
    }

    /// The step on a graph that ends in the loss, its output.
    fn step_of(
        &self,
        forward: &Graph,
        [labels, weights, loss, minimised]: [NodeId; 4],
        training: &Training,
        again: &BTreeSet<NodeId>,
    ) -> Result<TrainingStep> {
        let Self { image, generator, logits, .. } = *self;
        let (mut graph, _) = forward.gradients_computing_again(minimised, &[], again)?;
        let scaling = match training.precision {
            Precision::F32 => None,
            Precision::Mixed => Some(graph.unscale_gradients("unscale", training.optimizer.betas())?),
        };
        let grad_norm = training.clip_norm.map(|norm| graph.clip_grad_norm("clip", norm)).transpose()?;
        let count = training.optimizer.rates(0.0, 0).len();
        let rates = graph.input("rates", TensorType::f32([count]).map_err(Error::Usage)?);
        match training.optimizer {
            Optimizer::Sgd(settings) => graph.sgd("update", rates, settings, scaling)?,
            Optimizer::Adam(settings) => graph.adam("update", rates, settings, scaling)?,
        };
        graph.store_tracked("running", scaling)?;
        if let Some(scaling) = scaling {
            graph.store_loss_scale("loss_scale", scaling)?;
            graph.mark_output("loss_scale", scaling)?;
        }
        if let Some(norm) = grad_norm {
            graph.mark_output("grad_norm", norm)?;
        }
        let loss_scale = scaling;
        Ok(TrainingStep { graph, image, labels, weights, rates, generator, logits, loss, grad_norm, loss_scale })
    }
}
