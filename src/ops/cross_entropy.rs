//! `cross_entropy`: the loss, pixel by pixel weighted, with an ignored label and a choice of normalisation.
//!
//! Three ops, each with one result: the factor c ([`CrossEntropyScale`]), the loss ([`CrossEntropy`]), its gradient
//! ([`CrossEntropyGrad`]). Sums over pixels are made in dispatches that each shorten a list of partial sums, so that the order
//! of additions depends on the number of pixels only and rounding grows with its logarithm.

use crate::array::{Real, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeId};
use crate::kernel;
use crate::op::{
    Backward, Binding, Bound, Candidate, Case, DeviceProfile, Dispatch, Fill, Kernel, Op, Param, UNIT_ROUNDOFF, pieces,
};
use crate::ops::softmax::{FLUSHED, Rounding, compound, normaliser};
use crate::ops::{Pad, invocations, turns, zeros};
use crate::shape::{DType, Shape, TensorType};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// By what the weighted sum over pixels is divided. Ignored pixels never count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// By nothing: the paper's energy.
    Sum,
    /// By the number of pixels.
    MeanOverPixels,
    /// By the sum of the weights, as PyTorch does with class weights.
    MeanOverWeights,
}

/// The settings of the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrossEntropySettings {
    /// The normalisation.
    pub reduction: Reduction,
    /// The label of pixels that are left out of the loss.
    pub ignore: Option<u32>,
}

/// c = 1 over the number of pixels that count, or over the sum of their weights; 0 where that is 0. Inputs labels and weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrossEntropyScale {
    /// Sums weights rather than pixels.
    pub by_weight: bool,
    /// The number of classes; larger labels do not count.
    pub classes: usize,
    /// A label that does not count either.
    pub ignore: Option<u32>,
}

/// loss = c · Σ w (log Σⱼ exp(xⱼ − m) − (xₗ − m)) over the pixels that count, with m the largest xⱼ and l the label of
/// the pixel; inputs logits, labels, weights and c.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrossEntropy {
    /// A label that does not count, like any that is no class.
    pub ignore: Option<u32>,
}

/// dxₖ = dL · c · w · (softmax(x)ₖ − [k = label]), 0 where the pixel does not count; inputs logits, labels, weights, c and dL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrossEntropyGrad {
    /// As in [`CrossEntropy`].
    pub ignore: Option<u32>,
}

impl Graph {
    /// The weighted cross-entropy of scores `[n, h, w, classes]` against labels `u32 [n, h, w]` with weights `[n, h, w]`: one number.
    ///
    /// Pixels whose label is `ignore`, or no class at all, do not count; if none counts, loss and gradients are 0.
    ///
    /// # Errors
    /// When the shapes do not fit each other.
    pub fn cross_entropy(
        &mut self,
        name: &str,
        logits: NodeId,
        labels: NodeId,
        weights: NodeId,
        settings: CrossEntropySettings,
    ) -> Result<NodeId> {
        let CrossEntropySettings { reduction, ignore } = settings;
        let classes = self.find("cross_entropy", name, logits)?.tensor_type.shape.channels();
        let fail = |problem| Error::Graph { op: "cross_entropy".into(), node: name.into(), problem };
        let scale_name = format!("{name}.scale");
        let scale = |by_weight| CrossEntropyScale { by_weight, classes, ignore };
        let scale = match reduction {
            Reduction::Sum => self.constant(&scale_name, Shape::new([1]).map_err(fail)?, 1.0),
            Reduction::MeanOverPixels => self.apply(&scale_name, scale(false), &[labels, weights])?,
            Reduction::MeanOverWeights => self.apply(&scale_name, scale(true), &[labels, weights])?,
        };
        self.apply(name, CrossEntropy { ignore }, &[logits, labels, weights, scale])
    }
}

impl Graph {
    /// The weighted binary cross-entropy of scores `[n, h, w, 1]` against labels `u32 [n, h, w]` of 0 and 1, with weights `[n, h, w]`: one
    /// number. Pixels of other labels, and those of `ignore`, do not count.
    ///
    /// −log σ(x) where the label is 1 and −log(1 − σ(x)) where it is 0 are the [`Graph::cross_entropy`] of the scores (0, x), so this is that:
    /// as exact, with the same reductions.
    ///
    /// # Errors
    /// When the shapes do not fit each other.
    pub fn binary_cross_entropy(
        &mut self,
        name: &str,
        logits: NodeId,
        labels: NodeId,
        weights: NodeId,
        settings: CrossEntropySettings,
    ) -> Result<NodeId> {
        let found = &self.find("cross_entropy", name, logits)?.tensor_type;
        if found.shape.channels() != 1 {
            let problem = format!("expected one score a pixel, [n, h, w, 1], got {found}");
            return Err(Error::Graph { op: "cross_entropy".into(), node: name.into(), problem });
        }
        let scores = self.binary_scores(&format!("{name}.scores"), logits)?;
        self.cross_entropy(name, scores, labels, weights, settings)
    }

    /// The scores (0, x) of two classes, whose softmax is (1 − σ(x), σ(x)), of one score x.
    ///
    /// # Errors
    /// When x is not a batch of images.
    pub fn binary_scores(&mut self, name: &str, x: NodeId) -> Result<NodeId> {
        self.pad(name, x, Pad { before: [0, 0, 1], after: [0; 3] })
    }
}

/// Whether numbers `[n, h, w, classes]`, labels `u32 [n, h, w]` and weights `[n, h, w]` fit each other.
pub(super) fn fit(numbers: &TensorType, labels: &TensorType, weights: &TensorType) -> Result<bool, String> {
    let [pixels @ .., _] = numbers.shape.extents() else { return Ok(false) };
    Ok(numbers.dtype == DType::F32 && *labels == TensorType::u32(pixels)? && *weights == TensorType::f32(pixels)?)
}

/// Refuses logits, labels, weights and c that do not fit each other.
fn check(inputs: &[TensorType]) -> Result<(), String> {
    if let [logits, labels, weights, scale] = inputs
        && fit(logits, labels, weights)?
        && *scale == TensorType::f32([1])?
    {
        return Ok(());
    }
    let found: Vec<String> = inputs.iter().map(ToString::to_string).collect();
    Err(format!(
        "expected logits [n, h, w, classes], labels u32 [n, h, w], weights [n, h, w] and a scale [1], got {}",
        found.join(", ")
    ))
}

/// Whether a pixel of this label counts.
fn counts(label: u32, classes: usize, ignore: Option<u32>) -> bool {
    (label as usize) < classes && Some(label) != ignore
}

/// The kernels' form of the ignored label: no class is `u32::MAX`.
fn ignore_label(ignore: Option<u32>) -> (&'static str, Param) {
    ("ignore_label", Param::U32(ignore.unwrap_or(u32::MAX)))
}

/// The pixels, or other terms, that one invocation of the first dispatch sums, unless fewer are left.
const PIXELS: usize = 16;

/// The partial sums that one invocation of each further dispatch adds, unless fewer are left.
const PARTIALS: usize = 32;

/// The lengths of the lists of partial sums; the last is 1.
pub(super) fn partial_sums(terms: usize) -> Vec<usize> {
    let mut lengths = vec![terms.div_ceil(PIXELS)];
    loop {
        let length = lengths[lengths.len() - 1].div_ceil(PARTIALS);
        lengths.push(length);
        if length == 1 {
            return lengths;
        }
    }
}

/// The pixels that the reference sums at a time, so that the order of additions does not depend on the number of threads.
const BLOCK: usize = 4096;

/// The number of roundings that a term of such a sum suffers from additions.
pub(super) fn additions(terms: usize) -> f64 {
    (PIXELS + PARTIALS * (partial_sums(terms).len() - 1)) as f64
}

/// What becomes of the sum that a reduction ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Total {
    /// It is the op's result.
    Result,
    /// Its inverse is.
    Inverse,
    /// Its root is.
    Root,
    /// It stays in the last workspace, for a dispatch to come.
    Workspace,
}

/// `first` puts the partial sums of strips of `terms` into workspace 0, a row of `columns` sums for each strip; further
/// dispatches add rows up until one is left.
pub(super) fn sum_up(
    first: impl IntoIterator<Item = Dispatch>,
    terms: usize,
    columns: usize,
    total: Total,
) -> Candidate {
    let lengths: Vec<usize> = partial_sums(terms).into_iter().map(|length| length * columns).collect();
    let last = lengths.len() - 1;
    let mut dispatches: Vec<Dispatch> = first.into_iter().collect();
    for (stage, pair) in lengths.windows(2).enumerate() {
        let ends = stage + 1 == last;
        let target = if ends && total != Total::Workspace { Binding::Output } else { Binding::Workspace(stage + 1) };
        let bindings = vec![Binding::Workspace(stage), target];
        let sum = invocations(kernel!("cross_entropy/sum"), bindings, pair[1], &[("terms", pair[0].into())]);
        let constants = [("INVERSE", Total::Inverse), ("ROOT", Total::Root)];
        let constants = constants.map(|(name, when)| (name, (ends && total == when).to_string())).into();
        dispatches.push(Dispatch { constants, ..sum });
    }
    let kept = if total == Total::Workspace { last + 1 } else { last };
    Candidate { dispatches, workspace: lengths[..kept].to_vec() }
}

/// The sum over a bank, which `kernel` begins strip by strip, and goes on with from each piece of the bank to the next.
pub(super) fn sum_of_bank(kernel: Kernel, bank: &TensorType, total: Total, device: &DeviceProfile) -> Candidate {
    let (elements, piece) = (bank.shape.elements(), device.piece_bytes());
    let strips = partial_sums(elements)[0];
    let first = pieces(0, bank.size_bytes(), piece).map(|(index, _, bytes)| {
        let [begin, elements] = [index as u64 * piece, bytes].map(|bytes| (bytes as usize / 4).into());
        let bindings = vec![Binding::Piece(0, index), Binding::Workspace(0)];
        invocations(kernel, bindings, strips, &[("elements", elements), ("begin", begin)])
    });
    sum_up(first, elements, 1, total)
}

impl Op for CrossEntropyScale {
    fn name(&self) -> &'static str {
        "cross_entropy_scale"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [labels, weights]
                if labels.dtype == DType::U32 && weights.dtype == DType::F32 && labels.shape == weights.shape =>
            {
                TensorType::f32([1])
            }
            _ => Err(format!("expected labels and weights of one shape, got {inputs:?}")),
        }
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (labels, weights) = (inputs[0].uint(), inputs[1].float());
        let share = |(&label, &weight): (&u32, &T)| match counts(label, self.classes, self.ignore) {
            true if self.by_weight => weight.as_f64(),
            counts => f64::from(u8::from(counts)),
        };
        let blocks = labels.data.par_chunks(BLOCK).zip(weights.data.par_chunks(BLOCK));
        let sums: Vec<f64> = blocks.map(|(labels, weights)| labels.iter().zip(weights).map(share).sum()).collect();
        let sum: f64 = sums.into_iter().sum();
        let mut scale = zeros(self, inputs);
        if sum != 0.0 {
            scale.data[0] = T::from_f64(1.0 / sum);
        }
        vec![Tensor::Float(scale)]
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        let pixels = inputs[0].shape.elements();
        let first = invocations(
            kernel!("cross_entropy/scale"),
            vec![Binding::Input(0), Binding::Input(1), Binding::Workspace(0)],
            pixels.div_ceil(PIXELS),
            &[("pixels", pixels.into()), ("classes", self.classes.into()), ignore_label(self.ignore)],
        );
        let first = Dispatch { constants: vec![("BY_WEIGHT", self.by_weight.to_string())], ..first };
        vec![sum_up([first], pixels, 1, Total::Inverse)]
    }

    fn flops(&self, inputs: &[TensorType], _: &TensorType) -> u64 {
        inputs[0].shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        let scale = output.float().data[0].abs();
        // Sums of ones are exact up to 2²⁴, and those of weights bounded by their magnitude; the division has 2.5 ULP.
        let magnitude = if self.by_weight { inputs[1].float().data.iter().map(|w| w.abs()).sum() } else { 1.0 / scale };
        let sum = additions(inputs[0].uint().data.len()) * UNIT_ROUNDOFF * magnitude * scale;
        Bound::Elements(vec![if scale == 0.0 { 0.0 } else { scale * compound(sum + 5.0 * UNIT_ROUNDOFF) }])
    }
}

impl CrossEntropy {
    /// The loss, and `with_gradient` that of the logits.
    fn candidate(self, inputs: &[TensorType], with_gradient: bool) -> Candidate {
        let (pixels, classes) = (inputs[0].shape.pixels(), inputs[0].shape.channels());
        let first = invocations(
            kernel!("cross_entropy/forward"),
            (0..4).map(Binding::Input).chain([Binding::Workspace(0)]).collect(),
            pixels.div_ceil(PIXELS),
            &[("pixels", pixels.into()), ("classes", classes.into()), ignore_label(self.ignore)],
        );
        let mut candidate = sum_up([first], pixels, 1, Total::Result);
        let gradient = if with_gradient {
            Binding::Gradient
        } else {
            candidate.workspace.push(1);
            Binding::Workspace(candidate.workspace.len() - 1)
        };
        let first = &mut candidate.dispatches[0];
        first.bindings.push(gradient);
        first.constants.push(("GRAD", format!("{}u", u8::from(with_gradient))));
        candidate
    }
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        check(inputs)?;
        TensorType::f32([1])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (logits, labels, weights) = (inputs[0].float(), &inputs[1].uint().data, &inputs[2].float().data);
        let classes = logits.shape.channels();
        let term = |(logits, (&label, &weight)): (&[T], (&u32, &T))| {
            if !counts(label, classes, self.ignore) {
                return 0.0;
            }
            let (largest, sum) = normaliser(logits);
            (weight * (sum.ln() - (logits[label as usize] - largest))).as_f64()
        };
        let blocks = logits.data.par_chunks(BLOCK * classes);
        let blocks = blocks.zip(labels.par_chunks(BLOCK).zip(weights.par_chunks(BLOCK)));
        let sums: Vec<f64> = blocks
            .map(|(logits, (labels, weights))| logits.chunks(classes).zip(labels.iter().zip(weights)).map(term).sum())
            .collect();
        let mut loss = zeros(self, inputs);
        loss.data[0] = T::from_f64(inputs[3].float().data[0].as_f64() * sums.into_iter().sum::<f64>());
        vec![Tensor::Float(loss)]
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        vec![self.candidate(inputs, false)]
    }

    fn candidate_with_gradient(&self, inputs: &[TensorType]) -> Option<Candidate> {
        Some(self.candidate(inputs, true))
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        if backward.needs[1..].contains(&true) {
            return Err(Error::Graph {
                op: self.name().into(),
                node: backward.name.clone(),
                problem: "there is no gradient with respect to the weights, only to the logits".into(),
            });
        }
        let inputs = [backward.inputs, &[backward.grad_output]].concat();
        let grad_logits = backward.apply("grad_logits", CrossEntropyGrad { ignore: self.ignore }, &inputs)?;
        Ok(vec![Some(grad_logits), None, None, None])
    }

    fn flops(&self, inputs: &[TensorType], _: &TensorType) -> u64 {
        // Per score a comparison, a subtraction, an exponential counted as one operation, an addition.
        4 * inputs[0].shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        let (logits, labels, weights) = (inputs[0].float(), &inputs[1].uint().data, &inputs[2].float().data);
        let (pixels, classes) = (logits.shape.pixels(), logits.shape.channels());
        let mut bound = 0.0;
        for (logits, (&label, &weight)) in logits.data.chunks(classes).zip(labels.iter().zip(weights)) {
            if counts(label, classes, self.ignore) {
                let (largest, sum) = normaliser(logits);
                let distance = largest - logits[label as usize];
                let entropy = sum.ln() + distance;
                // WGSL's log is right to 3 ULP, or to 2⁻²¹ where its argument is in [0.5, 2].
                let log = (6.0 * UNIT_ROUNDOFF * sum.ln()).max(8.0 * UNIT_ROUNDOFF);
                let error = compound(Rounding::of(logits).sum) + log + (distance + entropy) * UNIT_ROUNDOFF;
                // The weight and the factor multiply the term, and additions follow.
                let rest = (2.0 + additions(pixels)) * UNIT_ROUNDOFF;
                bound += weight.abs() * (error + entropy * compound(rest) + error * rest);
            }
        }
        Bound::Elements(vec![inputs[3].float().data[0].abs() * bound])
    }
}

impl Op for CrossEntropyGrad {
    fn name(&self) -> &'static str {
        "cross_entropy_grad"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [forward @ .., grad] if *grad == TensorType::f32([1])? => check(forward).map(|()| forward[0].clone()),
            _ => Err(format!("expected the inputs of the loss and its gradient [1], got {inputs:?}")),
        }
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (logits, labels, weights) = (inputs[0].float(), &inputs[1].uint().data, &inputs[2].float().data);
        let factor = inputs[3].float().data[0] * inputs[4].float().data[0];
        let classes = logits.shape.channels();
        let mut dx = zeros(self, inputs);
        let pixels = dx.data.par_chunks_mut(classes).zip(logits.data.par_chunks(classes));
        pixels.zip(labels.par_iter().zip(weights)).with_min_len(1024).for_each(|((dx, x), (&label, &weight))| {
            if counts(label, classes, self.ignore) {
                let (largest, sum) = normaliser(x);
                let weight = factor * weight;
                for (k, (dx, &x)) in dx.iter_mut().zip(x).enumerate() {
                    let target = if k == label as usize { T::one() } else { T::zero() };
                    *dx = weight * ((x - largest).exp() / sum - target);
                }
            }
        });
        vec![Tensor::Float(dx)]
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let (pixels, classes) = (inputs[0].shape.pixels(), inputs[0].shape.channels());
        let bindings = (0..5).map(Binding::Input).chain([Binding::Output]).collect();
        let params = [("classes", classes.into()), ignore_label(self.ignore)];
        vec![turns(kernel!("cross_entropy/grad_logits"), bindings, pixels, &params, device).into()]
    }

    fn flops(&self, inputs: &[TensorType], _: &TensorType) -> u64 {
        // Per score as the forward pass, then an exponential, a division, a difference, a product.
        8 * inputs[0].shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        let (logits, labels, weights) = (inputs[0].float(), &inputs[1].uint().data, &inputs[2].float().data);
        let factor = (inputs[3].float().data[0] * inputs[4].float().data[0]).abs();
        let classes = logits.shape.channels();
        let mut bounds = Vec::with_capacity(logits.data.len());
        let gradients = output.float().data.chunks(classes);
        for ((x, dx), (&label, &weight)) in logits.data.chunks(classes).zip(gradients).zip(labels.iter().zip(weights)) {
            if !counts(label, classes, self.ignore) {
                bounds.extend(x.iter().map(|_| 0.0));
                continue;
            }
            let (largest, sum) = normaliser(x);
            let probabilities: Vec<f64> = x.iter().map(|x| (x - largest).exp() / sum).collect();
            let errors = Rounding::of(x).probabilities(&probabilities);
            // The difference is rounded, and so are three products, the last of them with what the probability is off.
            let rest = 4.0 * UNIT_ROUNDOFF;
            let bound = |(error, dx): (f64, &f64)| {
                factor * weight.abs() * error * (1.0 + compound(rest)) + dx.abs() * compound(rest) + FLUSHED
            };
            bounds.extend(errors.into_iter().zip(dx).map(bound));
        }
        Bound::Elements(bounds)
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let labels = |classes: usize, ignore| Fill::Labels { classes: classes as u32, ignore };
    let mut cases = Vec::new();
    for (extents, logits, labels, what) in [
        ([1, 1, 1, 2], Fill::Normal(1.0), labels(2, None), "one pixel"),
        ([1, 1, 1, 1], Fill::Normal(1.0), labels(1, None), "one element, zero gradient"),
        ([1, 4, 4, 2], Fill::Normal(1.0), labels(2, None), "one sum"),
        ([1, 1, 17, 3], Fill::Normal(1.0), labels(3, Some(255)), "one over"),
        ([1, 32, 32, 2], Fill::Normal(1.0), labels(2, Some(255)), "one workgroup"),
        ([2, 7, 5, 5], Fill::Normal(3.0), labels(5, Some(255)), "odd sizes, batch 2"),
        ([1, 23, 29, 3], Fill::Normal(1.0), labels(3, Some(0)), "prime sizes, a class is ignored"),
        ([1, 5, 7, 4], Fill::Normal(1.0), labels(7, Some(255)), "labels that are no class"),
        ([1, 3, 5, 2], Fill::Normal(1.0), Fill::Constant(255.0), "everything ignored, zero gradient"),
        ([1, 3, 5, 3], Fill::Normal(1.0), Fill::Constant(3.0), "no label is a class, zero gradient"),
        ([1, 9, 11, 2], Fill::Signs(80.0), labels(2, Some(255)), "±80"),
        ([1, 9, 11, 7], Fill::Normal(40.0), labels(7, Some(255)), "spread of 40"),
        ([1, 6, 6, 3], Fill::Constant(2.5), labels(3, None), "all equal"),
        ([2, 97, 101, 2], Fill::Normal(1.0), labels(2, Some(255)), "three stages of sums"),
    ] {
        let logits = (TensorType::f32(extents)?, logits);
        let pixels = &extents[..3];
        let labels = (TensorType::u32(pixels)?, labels);
        let ignore = match labels.1 {
            Fill::Labels { ignore, .. } => ignore,
            _ => Some(255),
        };
        let weights = (TensorType::f32(pixels)?, Fill::Positive);
        let name = format!("{what}: {}", logits.0);
        for by_weight in [false, true] {
            let op = Arc::new(CrossEntropyScale { by_weight, classes: extents[3], ignore });
            let name = format!("{name}, by weight: {by_weight}");
            cases.push(Case { name, op, inputs: vec![labels.clone(), weights.clone()] });
        }
        let number = |value| Ok::<_, String>((TensorType::f32([1])?, Fill::Constant(value)));
        let mut inputs = vec![logits, labels, weights, number(0.37)?];
        cases.push(Case { name: name.clone(), op: Arc::new(CrossEntropy { ignore }), inputs: inputs.clone() });
        inputs.push(number(-1.7)?);
        cases.push(Case { name, op: Arc::new(CrossEntropyGrad { ignore }), inputs });
    }
    let extents = [1, 2048, 2051];
    let inputs = vec![
        (TensorType::f32([1, 2048, 2051, 1])?, Fill::Ties),
        (TensorType::u32(extents)?, labels(1, Some(255))),
        (TensorType::f32(extents)?, Fill::Positive),
        (TensorType::f32([1])?, Fill::Constant(1.0)),
        (TensorType::f32([1])?, Fill::Constant(1.0)),
    ];
    let op = Arc::new(CrossEntropyGrad { ignore: Some(255) });
    cases.push(Case { name: "past 65,535 workgroups".into(), op, inputs });
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Array;
    use crate::cpu::{banks, evaluate};
    use std::collections::BTreeMap;

    /// Three pixels of two classes with probabilities ¾ and ¼; the last pixel is ignored.
    fn loss(reduction: Reduction, labels: [u32; 3], weights: [f64; 3]) -> (f64, Vec<f64>) {
        let mut graph = Graph::new();
        let logits = graph.input("logits", TensorType::f32([1, 1, 3, 2]).unwrap());
        let labels_node = graph.input("labels", TensorType::u32([1, 1, 3]).unwrap());
        let weights_node = graph.input("weights", TensorType::f32([1, 1, 3]).unwrap());
        let settings = CrossEntropySettings { reduction, ignore: Some(9) };
        let loss = graph.cross_entropy("loss", logits, labels_node, weights_node, settings).unwrap();
        let (mut graph, gradients) = graph.gradients(loss, &[logits]).unwrap();
        graph.mark_output("loss", loss).unwrap();
        graph.mark_output("gradient", gradients[0].unwrap()).unwrap();
        let shape = |node| graph.shape(node).clone();
        let inputs = BTreeMap::from([
            (logits, Tensor::Float(Array::new(shape(logits), [3.0_f64.ln(), 0.0].repeat(3)).unwrap())),
            (labels_node, Tensor::Uint(Array::new(shape(labels_node), labels.to_vec()).unwrap())),
            (weights_node, Tensor::Float(Array::new(shape(weights_node), weights.to_vec()).unwrap())),
        ]);
        let outputs = evaluate(&graph, &inputs, &mut banks(&graph, &[])).unwrap();
        (outputs[&loss].float().data[0], outputs[&gradients[0].unwrap()].float().data.clone())
    }

    fn close(a: &[f64], b: &[f64]) {
        assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12), "{a:?} {b:?}");
    }

    #[test]
    fn the_three_reductions_differ_by_their_divisor() {
        let sum = -2.0 * 0.75_f64.ln() - 6.0 * 0.25_f64.ln();
        let gradient = [2.0 * -0.25, 2.0 * 0.25, 6.0 * 0.75, 6.0 * -0.75, 0.0, 0.0];
        for (reduction, divisor) in
            [(Reduction::Sum, 1.0), (Reduction::MeanOverPixels, 2.0), (Reduction::MeanOverWeights, 8.0)]
        {
            let (loss, grad) = loss(reduction, [0, 1, 9], [2.0, 6.0, 5.0]);
            close(&[loss], &[sum / divisor]);
            close(&grad, &gradient.map(|value| value / divisor));
        }
    }

    #[test]
    fn where_nothing_counts_loss_and_gradient_are_zero() {
        for reduction in [Reduction::Sum, Reduction::MeanOverPixels, Reduction::MeanOverWeights] {
            // 9 is ignored, 2 and u32::MAX are no classes.
            for labels in [[9; 3], [2, u32::MAX, 9]] {
                assert_eq!(loss(reduction, labels, [1.0; 3]), (0.0, vec![0.0; 6]));
            }
        }
        assert_eq!(loss(Reduction::MeanOverWeights, [0; 3], [0.0; 3]), (0.0, vec![0.0; 6]));
    }

    #[test]
    fn weights_have_no_gradient() {
        let mut graph = Graph::new();
        let logits = graph.input("logits", TensorType::f32([1, 2, 2, 3]).unwrap());
        let labels = graph.input("labels", TensorType::u32([1, 2, 2]).unwrap());
        let weights = graph.input("weights", TensorType::f32([1, 2, 2]).unwrap());
        let settings = CrossEntropySettings { reduction: Reduction::Sum, ignore: None };
        let loss = graph.cross_entropy("loss", logits, labels, weights, settings).unwrap();
        let message = graph.gradients(loss, &[weights]).unwrap_err().to_string();
        assert!(message.contains("no gradient with respect to the weights"), "{message}");
        let wrong = graph.cross_entropy("loss", logits, labels, labels, settings).unwrap_err().to_string();
        assert!(wrong.contains("weights [n, h, w]") && wrong.contains("1×2×2 u32"), "{wrong}");
    }

    #[test]
    fn partial_sums_end_in_one() {
        assert_eq!(partial_sums(1), [1, 1]);
        assert_eq!(partial_sums(16), [1, 1]);
        assert_eq!(partial_sums(17), [2, 1]);
        assert_eq!(partial_sums(16 * 32), [32, 1]);
        assert_eq!(partial_sums(16 * 32 + 1), [33, 2, 1]);
        assert_eq!(partial_sums(388 * 388), [9409, 295, 10, 1]);
    }
}
