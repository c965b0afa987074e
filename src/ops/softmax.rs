//! `softmax` over the last axis, and its gradient from the result alone.

use crate::array::{Array, Real, Tensor};
use crate::error::Result;
use crate::graph::{Graph, NodeId};
use crate::kernel;
use crate::onnx::{Attribute, Translation, Value};
use crate::op::{Backward, Binding, Bound, ByImage, Candidate, Case, DeviceProfile, Fill, Op, UNIT_ROUNDOFF};
use crate::ops::{like_the_result, one_float, turns, zeros};
use crate::shape::TensorType;
use rayon::prelude::*;
use std::sync::Arc;

/// yₖ = exp(xₖ − m) / Σⱼ exp(xⱼ − m) over the last axis, where m is the largest xⱼ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Softmax;

/// dxₖ = yₖ (dyₖ − Σⱼ yⱼ dyⱼ); inputs y and dy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftmaxGrad;

impl Graph {
    /// Probabilities from scores, over the last axis.
    ///
    /// # Errors
    /// When x holds integers.
    pub fn softmax(&mut self, name: &str, x: NodeId) -> Result<NodeId> {
        self.apply(name, Softmax, &[x])
    }
}

/// The largest of a pixel's scores, and the sum of the exponentials of their distances to it, which is at least 1.
pub(super) fn normaliser<T: Real>(scores: &[T]) -> (T, T) {
    let largest = scores.iter().fold(scores[0], |largest, &score| if score > largest { score } else { largest });
    (largest, scores.iter().map(|&score| (score - largest).exp()).sum())
}

/// What rounding can do to the steps from a pixel's scores to its probabilities, in units of nothing: relative errors.
pub(super) struct Rounding {
    /// Of each exponential. With d = score − m, rounded once, WGSL's exp is right to 3 + 2|d| ULP of 2u each: (6 + 5|d|)u.
    pub(super) exponentials: Vec<f64>,
    /// Of their sum: the mean of theirs, the u of each addition, and what flushing results below 2⁻¹²⁶ to zero loses.
    pub(super) sum: f64,
}

impl Rounding {
    pub(super) fn of(scores: &[f64]) -> Self {
        let (largest, sum) = normaliser(scores);
        let error = |score: f64| (6.0 + 5.0 * (largest - score)) * UNIT_ROUNDOFF;
        let mean = scores.iter().map(|&score| (score - largest).exp() * error(score)).sum::<f64>() / sum;
        let terms = scores.len() as f64;
        Self {
            exponentials: scores.iter().map(|&score| error(score)).collect(),
            sum: mean + terms * (UNIT_ROUNDOFF + FLUSHED),
        }
    }

    /// The bound of each probability: the quotient of two inexact numbers, and a division of 2.5 ULP.
    pub(super) fn probabilities(&self, probabilities: &[f64]) -> Vec<f64> {
        let division = 5.0 * UNIT_ROUNDOFF;
        let errors = self.exponentials.iter().map(|exponential| compound(exponential + self.sum + division));
        errors.zip(probabilities).map(|(error, probability)| error * probability + FLUSHED).collect()
    }
}

/// The smallest normal `f32`: devices may flush results below it to zero.
pub(super) const FLUSHED: f64 = 1.0 / (1u128 << 126) as f64;

/// The relative error of a product of factors whose relative errors add up to `sum`, second order included.
pub(super) fn compound(sum: f64) -> f64 {
    sum / (1.0 - sum)
}

impl Op for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        one_float(inputs).cloned()
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let x = inputs[0].float();
        let channels = x.shape.channels();
        let mut y = zeros(self, inputs);
        y.data.par_chunks_mut(channels).zip(x.data.par_chunks(channels)).with_min_len(1024).for_each(|(y, x)| {
            let (largest, sum) = normaliser(x);
            for (y, &x) in y.iter_mut().zip(x) {
                *y = (x - largest).exp() / sum;
            }
        });
        vec![Tensor::Float(y)]
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let (pixels, params) = (inputs[0].shape.pixels(), [("channels", inputs[0].shape.channels().into())]);
        let bindings = vec![Binding::Input(0), Binding::Output];
        vec![turns(kernel!("softmax/forward"), bindings, pixels, &params, device).into()]
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        let inputs = [backward.output, backward.grad_output];
        Ok(vec![Some(backward.apply("grad_input", SoftmaxGrad, &inputs)?)])
    }

    fn onnx(&self, translation: &mut Translation<'_>) -> Result<Value> {
        let (x, axis) = (translation.tensor(0)?, translation.channel_axis(0)?);
        Ok(translation.result("Softmax", &[&x], vec![Attribute::int("axis", axis)]))
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        // A subtraction, an exponential counted as one operation, an addition, a division.
        4 * output.shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        let channels = inputs[0].float().shape.channels();
        let pixels = inputs[0].float().data.chunks(channels).zip(output.float().data.chunks(channels));
        Bound::Elements(pixels.flat_map(|(x, y)| Rounding::of(x).probabilities(y)).collect())
    }
}

impl Op for SoftmaxGrad {
    fn name(&self) -> &'static str {
        "softmax_grad"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        like_the_result(inputs)
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0, 1])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (y, grad) = (inputs[0].float(), inputs[1].float());
        let channels = y.shape.channels();
        let mut dx = Array::filled(y.shape.clone(), T::zero());
        let pixels = y.data.par_chunks(channels).zip(grad.data.par_chunks(channels));
        dx.data.par_chunks_mut(channels).zip(pixels).with_min_len(1024).for_each(|(dx, (y, grad))| {
            let mean: T = y.iter().zip(grad).map(|(&y, &grad)| y * grad).sum();
            for (dx, (&y, &grad)) in dx.iter_mut().zip(y.iter().zip(grad)) {
                *dx = y * (grad - mean);
            }
        });
        vec![Tensor::Float(dx)]
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let (pixels, params) = (inputs[0].shape.pixels(), [("channels", inputs[0].shape.channels().into())]);
        let bindings = vec![Binding::Input(0), Binding::Input(1), Binding::Output];
        vec![turns(kernel!("softmax/grad_input"), bindings, pixels, &params, device).into()]
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        4 * output.shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        let (y, grad) = (inputs[0].float(), inputs[1].float());
        let channels = y.shape.channels();
        let mut bounds = Vec::with_capacity(y.data.len());
        for (y, grad) in y.data.chunks(channels).zip(grad.data.chunks(channels)) {
            let magnitude: f64 = y.iter().zip(grad).map(|(y, grad)| (y * grad).abs()).sum();
            // The sum has an error of (channels)u of its magnitude, the difference and the product of u each.
            let sum = (channels as f64 + 2.0) * magnitude;
            let bound = |(y, grad): (&f64, &f64)| y.abs() * compound(UNIT_ROUNDOFF) * (sum + 2.0 * grad.abs());
            bounds.extend(y.iter().zip(grad).map(bound).map(|bound| bound + FLUSHED));
        }
        Bound::Elements(bounds)
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for (extents, fill, what) in [
        ([1, 1, 1, 1], Fill::Normal(1.0), "one element, zero gradient"),
        ([1, 1, 1, 2], Fill::Normal(1.0), "one pixel"),
        ([1, 8, 8, 2], Fill::Normal(1.0), "one workgroup"),
        ([1, 5, 13, 3], Fill::Normal(3.0), "one over"),
        ([2, 7, 5, 5], Fill::Constant(2.5), "odd sizes, batch 2, all equal"),
        ([1, 11, 3, 21], Fill::Normal(1.0), "21 channels"),
        ([1, 3, 7, 2], Fill::Signs(80.0), "±80"),
        ([1, 5, 5, 7], Fill::Normal(40.0), "spread of 40"),
        ([1, 2048, 2051, 1], Fill::Ties, "past 65,535 workgroups, zero gradient"),
    ] {
        let x = TensorType::f32(extents)?;
        let name = format!("{what}: {x}");
        cases.push(Case { name: name.clone(), op: Arc::new(Softmax), inputs: vec![(x.clone(), fill)] });
        let inputs = vec![(x.clone(), Fill::Positive), (x, Fill::Normal(1.0))];
        cases.push(Case { name, op: Arc::new(SoftmaxGrad), inputs });
    }
    Ok(cases)
}
