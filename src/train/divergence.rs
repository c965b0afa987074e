//! Where the first number came from that is not finite: a step is done again, and every tensor of it looked at.

use super::trainer::{Place, Trainer};
use crate::array::Tensor;
use crate::checkpoint::Weights;
use crate::error::Result;
use crate::graph::{Bank, Graph, NodeId, NodeKind};
use std::fmt;
use std::ops::ControlFlow;

/// The first numbers of a run that are not finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Divergence {
    /// The step that computed them, from 1.
    pub step: u32,
    /// Where they came from.
    pub origin: Origin,
}

/// Where numbers that are not finite came from.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// What the host gave the step.
    Input {
        /// Such as `image` or `weights`.
        name: String,
        /// What was found in it.
        found: Found,
        /// The training samples that are not finite themselves.
        samples: Vec<String>,
    },
    /// A parameter had them before the step.
    Parameter {
        /// Such as `head.weight`.
        name: String,
        /// What was found in it.
        found: Found,
    },
    /// An op, whose inputs were all finite.
    Op {
        /// The node, such as `encoder0.conv1`.
        name: String,
        /// The op, such as `conv2d`.
        op: &'static str,
        /// Whether it comes after the loss, on the way back to the parameters.
        backward: bool,
        /// What was found in its result.
        found: Found,
        /// The op's float inputs, each with its largest magnitude.
        inputs: Vec<(String, f32)>,
    },
    /// The update, as the gradients were all finite.
    Update {
        /// A parameter or a part of the optimiser's state, as a checkpoint names it.
        name: String,
        /// What was found in it.
        found: Found,
        /// The largest magnitude of all gradients.
        gradient: f32,
        /// The learning rate of the step.
        learning_rate: f32,
    },
    /// Done again, all was finite.
    NotAgain,
}

/// The first number of a tensor that is not finite, and how many there are.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// It.
    pub value: f32,
    /// Where it is.
    pub at: Vec<usize>,
    /// All numbers that are not finite.
    pub count: usize,
    /// All numbers.
    pub of: usize,
}

impl Found {
    fn among(values: &[f32], extents: &[usize]) -> Option<Self> {
        let first = values.iter().position(|value| !value.is_finite())?;
        let count = values[first..].iter().filter(|value| !value.is_finite()).count();
        let mut at = vec![0; extents.len()];
        let mut rest = first;
        for (place, &extent) in at.iter_mut().zip(extents).rev() {
            (*place, rest) = (rest % extent, rest / extent);
        }
        Some(Self { value: values[first], at, count, of: values.len() })
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, at, count, of } = self;
        write!(f, "{value} at {at:?}, {count} of {of} elements are not finite")
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = self.step;
        match &self.origin {
            Origin::Input { name, found, samples } => {
                write!(f, "what step {step} was given is not finite: `{name}` is {found}")?;
                if !samples.is_empty() {
                    write!(f, "; so are the pixels or weights of {}", samples.join(", "))?;
                }
                Ok(())
            }
            Origin::Parameter { name, found } => {
                write!(f, "the parameter `{name}` was not finite before step {step}: {found}")
            }
            Origin::Op { name, op, backward, found, inputs } => {
                let pass = if *backward { "backward" } else { "forward" };
                write!(
                    f,
                    "the first tensor that is not finite is the output of `{name}` ({op}), in the {pass} pass of step {step}: \
                     {found}; its inputs are finite, with magnitudes up to "
                )?;
                let inputs: Vec<String> =
                    inputs.iter().map(|(name, largest)| format!("{largest:.1e} in `{name}`")).collect();
                f.write_str(&inputs.join(", "))
            }
            Origin::Update { name, found, gradient, learning_rate } => write!(
                f,
                "all gradients of step {step} are finite, with magnitudes up to {gradient:.1e}, but its update at a learning rate \
                 of {learning_rate:e} made `{name}` {found}"
            ),
            Origin::NotAgain => write!(
                f,
                "done again up to step {step}, everything is finite: this device does not compute the same twice; try `tilewise \
                 selftest` and a newer driver"
            ),
        }
    }
}

/// Goes on from a checkpoint until a step, which `trainer` did before, and finds the first numbers that are not finite. `None`
/// when `proceed`, which is told the steps done, says no. The trainer is left wherever that was.
///
/// # Errors
/// When the device fails, or has no memory for a second plan.
pub(super) fn retrace(
    trainer: &mut Trainer,
    checkpoint: &Weights,
    proceed: &mut dyn FnMut(u32) -> bool,
) -> Result<Option<Divergence>> {
    let until = trainer.steps_done();
    trainer.restore(checkpoint)?;
    while trainer.steps_done() < until {
        if !proceed(trainer.steps_done()) {
            return Ok(None);
        }
        let (before, place) = (trainer.parameters()?, trainer.place());
        let record = trainer.step()?;
        let spoilt = first_of_state(trainer)?;
        if trainer.problem(&record).is_none() && spoilt.is_none() {
            continue;
        }
        let (origin, gradient) = examine(trainer, place, &before)?;
        let origin = match (origin, spoilt) {
            (Some(origin), _) => origin,
            (None, Some((name, found))) => {
                Origin::Update { name, found, gradient, learning_rate: record.learning_rate }
            }
            (None, None) => Origin::NotAgain,
        };
        return Ok(Some(Divergence { step: record.step, origin }));
    }
    Ok(Some(Divergence { step: until, origin: Origin::NotAgain }))
}

/// The first number of the parameters and of the optimiser's state that is not finite.
fn first_of_state(trainer: &Trainer) -> Result<Option<(String, Found)>> {
    let banks = trainer.banks()?;
    let found = banks.iter().find_map(|(prefix, bank)| {
        first_of_bank(trainer.graph(), bank).map(|(name, found)| (format!("{prefix}{name}"), found))
    });
    Ok(found)
}

fn first_of_bank(graph: &Graph, bank: &[f32]) -> Option<(String, Found)> {
    graph.parameters().iter().find_map(|parameter| {
        let found = Found::among(graph.bank_slice(bank, parameter), parameter.shape.extents())?;
        Some((parameter.name.clone(), found))
    })
}

/// Looks at every tensor that the step at `place` computes from these parameters before its update, in order: where the first
/// number that is not finite came from, and the largest magnitude of the gradients up to there.
fn examine(trainer: &Trainer, place: Place, parameters: &[f32]) -> Result<(Option<Origin>, f32)> {
    let graph = trainer.graph().before_update();
    if let Some((name, found)) = first_of_bank(&graph, parameters) {
        return Ok((Some(Origin::Parameter { name, found }), 0.0));
    }
    let needed = graph.needed();
    let is_computed = |id: &NodeId| {
        let node = graph.node(*id);
        let computed = matches!(node.kind, NodeKind::Input | NodeKind::Op { .. });
        computed && needed[id.index()] && node.tensor_type.dtype.is_float()
    };
    let nodes: Vec<NodeId> = (0..graph.nodes().len()).map(NodeId).filter(is_computed).collect();
    let mut largest = vec![0.0_f32; graph.nodes().len()];
    let mut first = None;
    trainer.visit(place, parameters, &nodes, &mut |id, value| {
        let Tensor::Float(value) = value else { return ControlFlow::Continue(()) };
        if let Some(found) = Found::among(&value.data, value.shape.extents()) {
            first = Some((id, found));
            return ControlFlow::Break(());
        }
        largest[id.index()] = magnitude(&value.data);
        ControlFlow::Continue(())
    })?;
    let origin = first.map(|(id, found)| origin(trainer, &graph, id, found, parameters, &largest));
    Ok((origin, largest_gradient(&graph, &largest)))
}

fn magnitude(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

fn largest_gradient(graph: &Graph, largest: &[f32]) -> f32 {
    let gradients = graph.parameters().iter().filter_map(|parameter| parameter.gradient);
    gradients.fold(0.0, |all, gradient| all.max(largest[gradient.index()]))
}

/// What a node says about numbers in its result that are not finite, when all nodes before it are.
fn origin(trainer: &Trainer, graph: &Graph, id: NodeId, found: Found, parameters: &[f32], largest: &[f32]) -> Origin {
    let node = graph.node(id);
    let name = node.name.clone();
    let NodeKind::Op { op, inputs } = &node.kind else {
        let spoilt = |values: &[f32]| values.iter().any(|value| !value.is_finite());
        let samples = trainer.samples().iter().filter(|sample| spoilt(&sample.pixels) || spoilt(&sample.weights));
        return Origin::Input { name, found, samples: samples.map(|sample| sample.name.clone()).collect() };
    };
    let inputs = inputs.iter().filter(|&&input| graph.node(input).tensor_type.dtype.is_float()).map(|&input| {
        let node = graph.node(input);
        let largest = match node.kind {
            NodeKind::Parameter { index } => magnitude(graph.bank_slice(parameters, &graph.parameters()[index])),
            NodeKind::Constant(value) => value.abs(),
            NodeKind::Bank(Bank::Gradients) => largest_gradient(graph, largest),
            _ => largest[input.index()],
        };
        (node.name.clone(), largest)
    });
    let loss = trainer.graph().outputs().iter().find(|(name, _)| name == "loss");
    let backward = loss.is_some_and(|&(_, loss)| id > loss);
    Origin::Op { name, op: op.name(), backward, found, inputs: inputs.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Prepared;
    use crate::executor::Device;
    use crate::ops::Reduction;
    use crate::train::Config;

    fn trainer(config: &Config, change: impl FnOnce(&mut Prepared)) -> Trainer {
        let pixels = (0..400).map(|pixel| (pixel % 7) as f32 - 3.0).collect();
        let classes = (0..400).map(|pixel| u32::from(pixel % 5 == 0)).collect();
        let [height, width, channels] = [20, 20, 1];
        let mut sample =
            Prepared { name: "a".into(), height, width, channels, pixels, classes, weights: vec![1.0; 400] };
        change(&mut sample);
        Trainer::new(config, config.model(1, 2), 18, &Device::Cpu, vec![sample]).unwrap()
    }

    fn config() -> Config {
        Config { base: 2, depth: 1, batch: 1, clip_norm: Some(1.0), ..Config::default() }
    }

    /// What is found when parameters are changed first.
    fn found(trainer: &Trainer, change: impl FnOnce(&Graph, &mut [f32])) -> (Option<Origin>, f32) {
        let mut parameters = trainer.parameters().unwrap();
        change(trainer.graph(), &mut parameters);
        examine(trainer, trainer.place(), &parameters).unwrap()
    }

    fn offset(graph: &Graph, name: &str) -> usize {
        graph.parameters().iter().find(|parameter| parameter.name == name).unwrap().offset
    }

    fn said(origin: Option<Origin>) -> String {
        Divergence { step: 1, origin: origin.unwrap() }.to_string()
    }

    #[test]
    fn what_is_finite_is_not_blamed() {
        let (origin, gradient) = found(&trainer(&config(), |_| {}), |_, _| {});
        assert!(origin.is_none() && gradient > 0.0 && gradient < 100.0, "{gradient}");
    }

    #[test]
    fn a_parameter_is_named_with_its_place() {
        let (origin, _) = found(&trainer(&config(), |_| {}), |graph, parameters| {
            parameters[offset(graph, "bottleneck.conv2.weight") + 5] = f32::NAN;
        });
        let message = said(origin);
        // [3, 3, 4, 4]
        for part in ["parameter `bottleneck.conv2.weight`", "before step 1", "NaN at [0, 0, 1, 1], 1 of 144"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }

    #[test]
    fn the_first_layer_that_overflows_is_named_with_what_it_was_given() {
        // The bottleneck's output is 1e30; times 1e30 it is not finite, and so is all that comes later.
        let (origin, _) = found(&trainer(&config(), |_| {}), |graph, parameters| {
            parameters[offset(graph, "bottleneck.conv2.bias")..][..4].fill(1e30);
            parameters[offset(graph, "decoder0.up.weight")..][..32].fill(1e30);
        });
        let message = said(origin);
        for part in [
            "output of `decoder0.up` (conv_transpose2d)",
            "forward pass",
            "inf at [0, 0, 0, 0]",
            "1.0e30 in `decoder0.up.weight`",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }

    #[test]
    fn gradients_that_overflow_are_told_from_the_forward_pass() {
        // Weights of 1e35 in the loss: it is finite, its gradients times features of 1e5 are not.
        let config = Config { reduction: Reduction::Sum, clip_norm: None, ..config() };
        let trainer = trainer(&config, |sample| sample.weights.fill(1e35));
        let (origin, _) = found(&trainer, |graph, parameters| {
            parameters.fill(0.0);
            parameters[offset(graph, "decoder0.conv2.bias")..][..2].fill(1e5);
        });
        let message = said(origin);
        for part in ["in the backward pass", "output of `head.", "1.0e5 in `decoder0.conv2.relu`"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }

    #[test]
    fn an_input_is_named_with_the_images_it_comes_from() {
        let infinite = trainer(&config(), |sample| sample.pixels.fill(f32::INFINITY));
        let message = said(found(&infinite, |_, _| {}).0);
        for part in ["`source.image` is inf at [0, 0, 0, 0], 324 of 324", "pixels or weights of a"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        let unknown = trainer(&config(), |sample| sample.weights.fill(f32::NAN));
        assert!(said(found(&unknown, |_, _| {}).0).contains("`source.weights` is NaN"));
    }
}
