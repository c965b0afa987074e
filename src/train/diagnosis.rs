//! Why a network gives every pixel the same class, as far as numbers tell.

use super::trainer::Trainer;
use super::validation::Validated;
use crate::array::Tensor;
use crate::graph::{NodeId, NodeKind};
use crate::metrics::CONSTANT_SCORES;
use serde::Serialize;
use std::fmt;
use std::ops::ControlFlow;

/// What was found when every pixel of the validation images was predicted as one class, though not every one is of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diagnosis {
    /// The step after which it was so.
    pub step: u32,
    /// The class.
    pub class: u32,
    /// The share of the validation pixels that are of it.
    pub true_share: f64,
    /// By class, its share of the pixels that train.
    pub training_shares: Vec<f64>,
    /// The standard deviation of the scores over the pixels ([`Variety::deviation`](crate::metrics::Variety::deviation)).
    pub score_deviation: f64,
    /// Channels of `ReLU` layers, and how many of them are zero on a whole batch; `None` where the device had no room to look.
    pub units: Option<Units>,
    /// The mean cross-entropy of a validation pixel.
    pub validation_loss: Option<f64>,
    /// That of the best answer that is the same everywhere: the entropy of the classes' shares.
    pub constant_loss: f64,
    /// The usual causes that these numbers speak for, in words, and what to try.
    pub causes: Vec<String>,
    /// Whether more steps alone will not help.
    #[serde(skip)]
    pub is_certain: bool,
}

/// Channels of `ReLU` layers on a batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Units {
    /// All.
    pub total: usize,
    /// Those that are zero at every pixel.
    pub dead: usize,
    /// The first layer all of which are.
    pub dead_layer: Option<String>,
}

impl Diagnosis {
    /// Looks for causes where all validation pixels were given one class, wrongly for some; otherwise `None`.
    pub(super) fn new(trainer: &Trainer, validated: &Validated) -> Option<Self> {
        let class = validated.variety.only_class()?;
        let pixels: Vec<u64> = validated.scores.classes.iter().map(|scores| scores.pixels).collect();
        let shares = shares(&pixels);
        let true_share = shares.get(class as usize).copied().filter(|&share| share < 1.0)?;
        // A finding, not a part of the training: a device without room for it does not end the run.
        let units = Units::count(trainer).ok();
        let mut diagnosis = Self {
            step: trainer.steps_done(),
            class,
            true_share,
            training_shares: training_shares(trainer),
            score_deviation: validated.variety.deviation(),
            units,
            validation_loss: validated.scored.validation_loss,
            constant_loss: shares.iter().filter(|&&share| share > 0.0).map(|share| -share * share.ln()).sum(),
            causes: Vec::new(),
            is_certain: false,
        };
        let wanted: Vec<usize> =
            (0..pixels.len()).filter(|&other| other != class as usize && pixels[other] > 0).collect();
        diagnosis.find_causes(&wanted, trainer.config().peak_learning_rate());
        Some(diagnosis)
    }

    /// `wanted`: the classes that occur in the validation images and are never predicted.
    fn find_causes(&mut self, wanted: &[usize], rate: f32) {
        let percent = |share: f64| format!("{:.3} %", 100.0 * share);
        let mut certain = Vec::new();
        for &class in wanted {
            if self.training_shares.get(class).is_none_or(|&share| share == 0.0) {
                certain.push(format!(
                    "class {class} does not occur in the training images, so it cannot be learnt: check their labels with \
                     `tilewise check-data`, or add images that show it"
                ));
            }
        }
        if let Some(Units { total, dead, dead_layer: Some(layer) }) = &self.units {
            certain.push(format!(
                "no unit of `{layer}` answers to any pixel of a training batch, so nothing passes it ({dead} of all {total} units of \
                 ReLU are dead): start again with a lower --lr than {rate}, or another --seed"
            ));
        }
        if self.score_deviation < CONSTANT_SCORES {
            certain.push(format!(
                "the scores are the same everywhere, with a standard deviation of {:.1e} over the pixels: the network ignores the image; \
                 start again with a lower --lr than {rate}",
                self.score_deviation
            ));
        }
        self.is_certain = !certain.is_empty();
        let mut causes = certain;
        if let Some(Units { total, dead, dead_layer: None }) =
            self.units.as_ref().filter(|units| 2 * units.dead > units.total)
        {
            causes.push(format!(
                "{dead} of {total} units of ReLU are zero on a whole training batch: start again with a lower --lr than {rate}"
            ));
        }
        let foreground: f64 = wanted.iter().filter_map(|&class| self.training_shares.get(class)).sum();
        if foreground > 0.0 && foreground < RARE {
            causes.push(format!(
                "the classes that are never predicted make up {} of the pixels that train: give them more weight, by --balance or \
                 --loss ce+dice",
                percent(foreground)
            ));
        }
        match self.validation_loss {
            Some(loss) if loss >= MOVED * self.constant_loss => causes.push(format!(
                "the loss on the validation images, {loss:.4}, is no better than {:.4}, that of the same answer everywhere: nothing \
                 about them has been learnt; more --steps, another --lr than {rate}, or --optimizer adam",
                self.constant_loss
            )),
            Some(loss) if !self.is_certain => causes.push(format!(
                "the loss on the validation images, {loss:.4}, is below {:.4}, that of the same answer everywhere, and the scores vary: \
                 something has been learnt; give it more --steps or, if it was better before, a lower --lr than {rate}",
                self.constant_loss
            )),
            _ => {}
        }
        self.causes = causes;
    }
}

/// A share of the training pixels below which classes are rare.
const RARE: f64 = 0.05;

/// A share of the constant answer's loss below which the loss has moved.
const MOVED: f64 = 0.98;

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, class, true_share, causes, .. } = self;
        write!(
            f,
            "after step {step} every pixel of the validation images is predicted as class {class}, which {:.1} % of them are:",
            100.0 * true_share
        )?;
        causes.iter().try_for_each(|cause| write!(f, "\n- {cause}"))
    }
}

/// Each count's share of all.
fn shares(counts: &[u64]) -> Vec<f64> {
    let all = counts.iter().sum::<u64>().max(1) as f64;
    counts.iter().map(|&count| count as f64 / all).collect()
}

/// By class, its share of the pixels that have a weight in the loss.
fn training_shares(trainer: &Trainer) -> Vec<f64> {
    let mut pixels = vec![0; trainer.model().classes];
    for sample in trainer.samples() {
        for (&class, _) in sample.classes.iter().zip(&sample.weights).filter(|&(_, &weight)| weight > 0.0) {
            if let Some(pixels) = pixels.get_mut(class as usize) {
                *pixels += 1;
            }
        }
    }
    shares(&pixels)
}

impl Units {
    /// Counts the channels of all `ReLU` layers that are zero on the whole batch of the next step.
    fn count(trainer: &Trainer) -> crate::Result<Self> {
        let graph = trainer.graph();
        let is_relu = |id: &NodeId| matches!(&graph.node(*id).kind, NodeKind::Op { op, .. } if op.name() == "relu");
        let layers: Vec<NodeId> = (0..graph.nodes().len()).map(NodeId).filter(is_relu).collect();
        let mut units = Self::default();
        trainer.visit(trainer.place(), &trainer.parameters()?, &layers, &mut |id, value| {
            if let Tensor::Float(value) = value {
                let channels = value.shape.channels();
                let mut alive = vec![false; channels];
                for pixel in value.data.chunks(channels) {
                    alive.iter_mut().zip(pixel).for_each(|(alive, &value)| *alive |= value > 0.0);
                }
                let dead = alive.iter().filter(|&&alive| !alive).count();
                (units.total, units.dead) = (units.total + channels, units.dead + dead);
                if dead == channels {
                    units.dead_layer.get_or_insert_with(|| graph.node(id).name.clone());
                }
            }
            ControlFlow::Continue(())
        })?;
        Ok(units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of numbers that speak for nothing but a network that has learnt something, as far as `change` leaves them so.
    fn causes(change: impl FnOnce(&mut Diagnosis)) -> (Vec<String>, bool) {
        let mut diagnosis = Diagnosis {
            step: 100,
            class: 0,
            true_share: 0.8,
            training_shares: vec![0.8, 0.2],
            score_deviation: 0.5,
            units: Some(Units { total: 24, dead: 3, dead_layer: None }),
            validation_loss: Some(0.3),
            constant_loss: 0.5,
            causes: Vec::new(),
            is_certain: false,
        };
        change(&mut diagnosis);
        diagnosis.find_causes(&[1], 0.03);
        (diagnosis.causes, diagnosis.is_certain)
    }

    #[track_caller]
    fn is_only((causes, certain): (Vec<String>, bool), is_certain: bool, parts: &[&str]) {
        assert_eq!((causes.len(), certain), (1, is_certain), "{causes:?}");
        for part in parts {
            assert!(causes[0].contains(part), "{part}: {causes:?}");
        }
    }

    #[test]
    fn each_cause_has_its_words() {
        is_only(causes(|_| {}), false, &["something has been learnt", "0.3000, is below 0.5000", "more --steps"]);
        let moved = |diagnosis: &mut Diagnosis| diagnosis.validation_loss = Some(0.495);
        is_only(causes(moved), false, &["no better than 0.5000", "--optimizer adam", "--lr than 0.03"]);
        let without_loss = |change: fn(&mut Diagnosis)| {
            causes(|diagnosis| {
                diagnosis.validation_loss = None;
                change(diagnosis);
            })
        };
        let rare = without_loss(|diagnosis| diagnosis.training_shares = vec![0.96, 0.04]);
        is_only(rare, false, &["make up 4.000 % of the pixels that train", "balance", "--loss ce+dice"]);
        let dead = without_loss(|diagnosis| diagnosis.units = Some(Units { total: 24, dead: 13, dead_layer: None }));
        is_only(dead, false, &["13 of 24 units of ReLU are zero on a whole training batch", "--lr than 0.03"]);
        let half = without_loss(|diagnosis| diagnosis.units = Some(Units { total: 24, dead: 12, dead_layer: None }));
        assert_eq!(half, (Vec::new(), false), "half of the units may be dead");
        let absent = without_loss(|diagnosis| diagnosis.training_shares = vec![1.0, 0.0]);
        is_only(absent, true, &["class 1 does not occur in the training images"]);
        let layer = Some("bottom.conv2.relu".to_owned());
        let (causes, certain) = causes(|diagnosis| {
            diagnosis.units = Some(Units { total: 24, dead: 13, dead_layer: layer });
            diagnosis.score_deviation = 0.0;
        });
        assert!(certain && causes.len() == 2, "with a certain cause nothing is said of having learnt: {causes:?}");
        assert!(causes[0].contains("no unit of `bottom.conv2.relu`") && causes[1].contains("same everywhere"));
    }
}
