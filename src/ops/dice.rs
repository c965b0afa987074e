//! `dice`: the soft Dice loss, one minus the overlap of probabilities and labels, averaged over the foreground classes.

use crate::array::{Real, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeId};
use crate::kernel;
use crate::op::{Backward, Binding, Bound, Candidate, Case, DeviceProfile, Fill, Op, Param, UNIT_ROUNDOFF};
use crate::ops::cross_entropy::{Total, additions, fit, partial_sums, sum_up};
use crate::ops::softmax::{FLUSHED, compound};
use crate::ops::{invocations, turns, zeros};
use crate::shape::TensorType;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The settings of the Dice loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiceSettings {
    /// ε, above 0: what is added to both sides of the ratio, so that a class that is nowhere overlaps fully.
    pub smoothing: f32,
}

/// loss = 1 − mean over the classes k ≥ 1 of Dₖ = (2Iₖ + ε) / (Pₖ + Gₖ + ε), where I = Σ p over the pixels of the class, P = Σ p, and
/// G is the number of pixels of the class, over all pixels of the batch that count; inputs probabilities, labels and weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dice {
    /// ε.
    pub settings: DiceSettings,
}

/// dpₖ = −dL / (classes − 1) · (2 [k = label] − Dₖ) / (Pₖ + Gₖ + ε), 0 for k = 0 and where the pixel does not count; inputs
/// probabilities, labels, weights and dL.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiceGrad {
    /// As in [`Dice`].
    pub settings: DiceSettings,
}

impl Graph {
    /// The soft Dice loss of scores `[n, h, w, classes]`, by their softmax, against labels `u32 [n, h, w]`: one number.
    ///
    /// Pixels whose weight in `weights`, `[n, h, w]`, is 0, or whose label is no class, do not count; other weights are all alike.
    ///
    /// # Errors
    /// When the shapes do not fit each other, there is but one class, or ε is not above 0.
    pub fn dice(
        &mut self,
        name: &str,
        logits: NodeId,
        labels: NodeId,
        weights: NodeId,
        settings: DiceSettings,
    ) -> Result<NodeId> {
        let probabilities = self.softmax(&format!("{name}.probabilities"), logits)?;
        self.apply(name, Dice { settings }, &[probabilities, labels, weights])
    }
}

impl DiceSettings {
    /// Refuses settings that make no sense, and probabilities, labels and weights that do not fit each other.
    fn check(self, inputs: &[TensorType]) -> Result<(), String> {
        let smoothing = self.smoothing;
        if !(smoothing > 0.0 && smoothing.is_finite()) {
            return Err(format!("the smoothing must be above 0 and finite, got {smoothing}"));
        }
        if let [probabilities, labels, weights] = inputs
            && fit(probabilities, labels, weights)?
        {
            return match probabilities.shape.channels() {
                1 => Err(format!("expected at least 2 classes, the first being the background, got {probabilities}")),
                _ => Ok(()),
            };
        }
        let found: Vec<String> = inputs.iter().map(ToString::to_string).collect();
        Err(format!(
            "expected probabilities [n, h, w, classes], labels u32 [n, h, w] and weights [n, h, w], got {}",
            found.join(", ")
        ))
    }

    /// The dispatches that leave I, P and G of each foreground class in the last workspace, which is returned, too.
    fn sums(inputs: &[TensorType]) -> (Candidate, Binding) {
        let (pixels, foreground) = (inputs[0].shape.pixels(), foreground(&inputs[0]));
        let first = invocations(
            kernel!("dice/sums"),
            (0..3).map(Binding::Input).chain([Binding::Workspace(0)]).collect(),
            partial_sums(pixels)[0] * foreground,
            &[("pixels", pixels.into()), ("foreground", foreground.into())],
        );
        let candidate = sum_up([first], pixels, 3 * foreground, Total::Workspace);
        let last = Binding::Workspace(candidate.workspace.len() - 1);
        (candidate, last)
    }

    fn params(self, foreground: usize) -> [(&'static str, Param); 2] {
        [("foreground", foreground.into()), ("smoothing", self.smoothing.into())]
    }

    /// The overlap of each foreground class.
    fn overlaps<T: Real>(self, inputs: &[&Tensor<T>]) -> Vec<Overlap> {
        let (probabilities, labels, weights) = (inputs[0].float(), &inputs[1].uint().data, &inputs[2].float().data);
        let classes = probabilities.shape.channels();
        let smoothing = f64::from(self.smoothing);
        let mut overlaps = vec![Overlap { twice: smoothing, sum: smoothing }; classes - 1];
        for (p, (&label, &weight)) in probabilities.data.chunks(classes).zip(labels.iter().zip(weights)) {
            if counts(label, weight, classes) {
                for (k, (overlap, p)) in (1..).zip(overlaps.iter_mut().zip(&p[1..])) {
                    let (p, hit) = (p.as_f64(), f64::from(u8::from(k == label)));
                    overlap.twice += 2.0 * p * hit;
                    overlap.sum += p + hit;
                }
            }
        }
        overlaps
    }
}

/// The number of classes without the background.
fn foreground(probabilities: &TensorType) -> usize {
    probabilities.shape.channels() - 1
}

/// Whether a pixel of this label and weight counts.
fn counts<T: Real>(label: u32, weight: T, classes: usize) -> bool {
    (label as usize) < classes && weight != T::zero()
}

/// Numerator and denominator of a class: 2I + ε and P + G + ε.
#[derive(Clone, Copy, Debug)]
struct Overlap {
    twice: f64,
    sum: f64,
}

impl Overlap {
    /// D.
    fn ratio(self) -> f64 {
        self.twice / self.sum
    }
}

/// The roundings behind numerator or denominator: none of their terms is negative, so these are relative.
fn sum_roundings(pixels: usize) -> f64 {
    additions(pixels) + 2.0
}

/// The roundings behind D: those of two sums, and a division of 2.5 ULP.
fn ratio_roundings(pixels: usize) -> f64 {
    2.0 * sum_roundings(pixels) + 5.0
}

impl Op for Dice {
    fn name(&self) -> &'static str {
        "dice"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        self.settings.check(inputs)?;
        TensorType::f32([1])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let overlaps = self.settings.overlaps(inputs);
        let mean = overlaps.iter().map(|overlap| overlap.ratio()).sum::<f64>() / overlaps.len() as f64;
        let mut loss = zeros(self, inputs);
        loss.data[0] = T::from_f64(1.0 - mean);
        vec![Tensor::Float(loss)]
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        let (mut candidate, sums) = DiceSettings::sums(inputs);
        let params = self.settings.params(foreground(&inputs[0]));
        candidate.dispatches.push(invocations(kernel!("dice/forward"), vec![sums, Binding::Output], 1, &params));
        vec![candidate]
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        if backward.needs[1..].contains(&true) {
            return Err(Error::Graph {
                op: self.name().into(),
                node: backward.name.clone(),
                problem: "there is no gradient with respect to the weights, only to the probabilities".into(),
            });
        }
        let inputs = [backward.inputs, &[backward.grad_output]].concat();
        let grad = backward.apply("grad_probabilities", DiceGrad { settings: self.settings }, &inputs)?;
        Ok(vec![Some(grad), None, None])
    }

    fn flops(&self, inputs: &[TensorType], _: &TensorType) -> u64 {
        // Per probability two additions; the label's own is counted once more a pixel.
        2 * inputs[0].shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        let (pixels, loss) = (inputs[1].uint().data.len(), output.float().data[0]);
        let classes = inputs[0].float().shape.channels() as f64 - 1.0;
        // The mean adds its terms and divides by their number, and the difference is rounded.
        let mean = (1.0 - loss).abs() * compound((ratio_roundings(pixels) + classes + 5.0) * UNIT_ROUNDOFF);
        Bound::Elements(vec![mean + loss.abs() * UNIT_ROUNDOFF])
    }
}

impl Op for DiceGrad {
    fn name(&self) -> &'static str {
        "dice_grad"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [forward @ .., grad] if *grad == TensorType::f32([1])? => {
                self.settings.check(forward).map(|()| forward[0].clone())
            }
            _ => Err(format!("expected the inputs of the loss and its gradient [1], got {inputs:?}")),
        }
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (labels, weights) = (&inputs[1].uint().data, &inputs[2].float().data);
        let overlaps = self.settings.overlaps(inputs);
        let classes = overlaps.len() + 1;
        let factor = -inputs[3].float().data[0].as_f64() / overlaps.len() as f64;
        let mut grad = zeros(self, inputs);
        for (grad, (&label, &weight)) in grad.data.chunks_mut(classes).zip(labels.iter().zip(weights)) {
            if counts(label, weight, classes) {
                for (k, (grad, overlap)) in (1..).zip(grad[1..].iter_mut().zip(&overlaps)) {
                    let target = if k == label { 2.0 } else { 0.0 };
                    *grad = T::from_f64(factor * (target - overlap.ratio()) / overlap.sum);
                }
            }
        }
        vec![Tensor::Float(grad)]
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let (mut candidate, sums) = DiceSettings::sums(inputs);
        let bindings = vec![Binding::Input(1), Binding::Input(2), sums, Binding::Input(3), Binding::Output];
        let (pixels, params) = (inputs[0].shape.pixels(), self.settings.params(foreground(&inputs[0])));
        candidate.dispatches.push(turns(kernel!("dice/grad_probabilities"), bindings, pixels, &params, device));
        vec![candidate]
    }

    fn flops(&self, inputs: &[TensorType], _: &TensorType) -> u64 {
        // Per probability the two additions again; two additions each for numerator and denominator, a product, two quotients, a
        // difference, a product.
        11 * inputs[0].shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        let pixels = inputs[1].uint().data.len();
        let overlaps = self.settings.overlaps(inputs);
        let factor = inputs[3].float().data[0].abs() / overlaps.len() as f64;
        // The difference is rounded; then come the denominator, two divisions of 2.5 ULP and a product.
        let rest = compound((sum_roundings(pixels) + 12.0) * UNIT_ROUNDOFF);
        let ratio = compound(ratio_roundings(pixels) * UNIT_ROUNDOFF);
        let mut bounds = Vec::with_capacity(output.float().data.len());
        for grad in output.float().data.chunks(overlaps.len() + 1) {
            bounds.push(0.0);
            bounds.extend(grad[1..].iter().zip(&overlaps).map(|(grad, overlap)| match grad {
                0.0 => 0.0,
                _ => factor / overlap.sum * overlap.ratio() * ratio * (1.0 + rest) + grad.abs() * rest + FLUSHED,
            }));
        }
        Bound::Elements(bounds)
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let labels = |classes, ignore| Fill::Labels { classes, ignore };
    let mut cases = Vec::new();
    for (extents, labels, weights, smoothing, what) in [
        ([1, 1, 1, 2], Fill::Constant(1.0), Fill::Positive, 1.0, "one pixel"),
        ([1, 1, 1, 3], Fill::Constant(0.0), Fill::Positive, 1.0, "one pixel of background"),
        ([1, 4, 4, 2], labels(2, None), Fill::Positive, 1.0, "one sum"),
        ([1, 1, 17, 3], labels(3, Some(255)), Fill::Positive, 1e-3, "one over, little smoothing"),
        ([2, 7, 5, 5], labels(5, Some(255)), Fill::Ties, 1.0, "odd sizes, batch 2, some weights 0"),
        ([1, 23, 29, 4], labels(2, None), Fill::Positive, 1.0, "prime sizes, two classes absent"),
        ([1, 5, 7, 3], labels(6, Some(255)), Fill::Positive, 1.0, "labels that are no class"),
        ([1, 3, 5, 2], Fill::Constant(255.0), Fill::Positive, 1.0, "everything ignored, zero gradient"),
        ([1, 6, 6, 3], labels(3, None), Fill::Constant(0.0), 1.0, "every weight 0"),
        ([2, 97, 101, 2], labels(2, Some(255)), Fill::Ties, 1e-5, "three stages of sums"),
    ] {
        let pixels = &extents[..3];
        let settings = DiceSettings { smoothing };
        let mut inputs = vec![
            (TensorType::f32(extents)?, Fill::Positive),
            (TensorType::u32(pixels)?, labels),
            (TensorType::f32(pixels)?, weights),
        ];
        let name = format!("{what}: {}", inputs[0].0);
        cases.push(Case { name: name.clone(), op: Arc::new(Dice { settings }), inputs: inputs.clone() });
        inputs.push((TensorType::f32([1])?, Fill::Constant(-1.7)));
        cases.push(Case { name, op: Arc::new(DiceGrad { settings }), inputs });
    }
    let extents = [1, 2048, 2051];
    let inputs = vec![
        (TensorType::f32([1, 2048, 2051, 2])?, Fill::Positive),
        (TensorType::u32(extents)?, labels(2, Some(255))),
        (TensorType::f32(extents)?, Fill::Positive),
        (TensorType::f32([1])?, Fill::Constant(1e6)),
    ];
    let op = Arc::new(DiceGrad { settings: DiceSettings { smoothing: 1.0 } });
    cases.push(Case { name: "past 65,535 workgroups".into(), op, inputs });
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Array;

    /// The loss of four pixels of three classes.
    fn loss(smoothing: f32, probabilities: [f64; 12], labels: [u32; 4], weights: [f64; 4]) -> f64 {
        let shape = |extents: &[usize]| TensorType::f32(extents).unwrap().shape;
        let inputs: [Tensor<f64>; 3] = [
            Tensor::Float(Array::new(shape(&[1, 2, 2, 3]), probabilities.to_vec()).unwrap()),
            Tensor::Uint(Array::new(shape(&[1, 2, 2]), labels.to_vec()).unwrap()),
            Tensor::Float(Array::new(shape(&[1, 2, 2]), weights.to_vec()).unwrap()),
        ];
        let dice = Dice { settings: DiceSettings { smoothing } };
        dice.reference(&inputs.iter().collect::<Vec<_>>())[0].float().data[0]
    }

    const PROBABILITIES: [f64; 12] = [0.5, 0.25, 0.25, 0.0, 1.0, 0.0, 0.25, 0.25, 0.5, 1.0, 0.0, 0.0];

    #[test]
    fn a_small_case_worked_by_hand() {
        // Class 1: I = 1, P = 1.5, G = 1. Class 2: I = 0.5, P = 0.75, G = 1.
        let found = loss(1.0, PROBABILITIES, [0, 1, 2, 0], [1.0, 7.0, 0.1, 1.0]);
        let expected = 1.0 - f64::midpoint(3.0 / 3.5, 2.0 / 2.75);
        assert!((found - expected).abs() < 1e-15, "{found}");
        // Without the third pixel class 2 is not labelled, but predicted by 0.25; without the first, not even that.
        for (labels, weights, class2) in
            [([0, 1, 9, 0], [1.0; 4], 1.0 / 1.25), ([9, 1, 2, 0], [1.0, 1.0, 0.0, 1.0], 1.0)]
        {
            let found = loss(1.0, PROBABILITIES, labels, weights);
            let predicted = if labels[0] == 0 { 1.25 } else { 1.0 };
            let expected = 1.0 - f64::midpoint(3.0 / (predicted + 2.0), class2);
            assert!((found - expected).abs() < 1e-15, "{found}");
        }
    }

    #[test]
    fn it_is_0_where_labels_are_certain_or_nothing_counts_and_near_1_where_nothing_overlaps() {
        let certain = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0];
        assert!(loss(1.0, certain, [0, 1, 2, 0], [1.0; 4]).abs() < 1e-15);
        assert!(loss(1e-6, PROBABILITIES, [0, 1, 2, 0], [0.0; 4]).abs() < 1e-15);
        assert!((loss(1e-6, certain, [1, 2, 1, 2], [1.0; 4]) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let mut graph = Graph::new();
        let labels = graph.input("labels", TensorType::u32([1, 2, 2]).unwrap());
        let weights = graph.input("weights", TensorType::f32([1, 2, 2]).unwrap());
        let one = graph.input("one", TensorType::f32([1, 2, 2, 1]).unwrap());
        let two = graph.input("two", TensorType::f32([1, 2, 2, 2]).unwrap());
        for (logits, labels, smoothing, part) in [
            (one, labels, 1.0, "at least 2 classes"),
            (two, labels, 0.0, "smoothing"),
            (two, weights, 1.0, "labels u32 [n, h, w]"),
        ] {
            let error = graph.dice("loss", logits, labels, weights, DiceSettings { smoothing }).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
        let loss = graph.dice("loss", two, labels, weights, DiceSettings { smoothing: 1.0 }).unwrap();
        let error = graph.gradients(loss, &[weights]).unwrap_err().to_string();
        assert!(error.contains("no gradient with respect to the weights"), "{error}");
    }
}
