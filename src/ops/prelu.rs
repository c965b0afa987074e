//! `prelu`: a rectifier that lets a share of what is negative through; the share is trained (`PReLU`) or fixed (leaky `ReLU`).

use crate::array::{Array, Real, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeId};
use crate::kernel;
use crate::onnx::{Translation, Value};
use crate::op::{Backward, Binding, Bound, ByImage, Candidate, Case, DeviceProfile, Fill, Op, UNIT_ROUNDOFF};
use crate::ops::cross_entropy::{Total, additions, partial_sums, sum_up};
use crate::ops::softmax::{FLUSHED, compound};
use crate::ops::{in_both_precisions, invocations, rounded, turns};
use crate::shape::{DType, Shape, TensorType};
use rayon::prelude::*;
use std::sync::Arc;

/// y = x where x > 0, else slope · x; inputs x `[…, c]` and slope, `[c]` or `[1]` for all channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prelu;

/// dx = dy where x > 0, else slope · dy; inputs x, slope and dy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreluGradInput;

/// d slope = Σ dy · x over the elements of each slope with x ≤ 0; inputs x and dy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreluGradSlope {
    /// How many slopes there are.
    pub slopes: usize,
}

impl Graph {
    /// y = x where x > 0, else slope · x, with a slope for each channel or one for all.
    ///
    /// # Errors
    /// When x holds integers, or there are more slopes than one and not as many as channels.
    pub fn prelu(&mut self, name: &str, x: NodeId, slope: NodeId) -> Result<NodeId> {
        self.apply(name, Prelu, &[x, slope])
    }

    /// y = x where x > 0, else slope · x, with a slope that stays as it is.
    ///
    /// # Errors
    /// When x holds integers.
    pub fn leaky_relu(&mut self, name: &str, x: NodeId, slope: f32) -> Result<NodeId> {
        let fail = |problem| Error::Graph { op: "prelu".into(), node: name.into(), problem };
        let slope = self.constant(&format!("{name}.slope"), Shape::new([1]).map_err(fail)?, slope);
        self.prelu(name, x, slope)
    }
}

/// The number of slopes, where they fit x.
fn slopes(x: &TensorType, slope: &TensorType) -> Result<usize, String> {
    match slope.shape.extents() {
        &[slopes] if x.dtype.is_float() && slope.dtype == DType::F32 && [1, x.shape.channels()].contains(&slopes) => {
            Ok(slopes)
        }
        _ => Err(format!("expected floats […, c] and slopes [c] or [1], got {x} and {slope}")),
    }
}

impl Op for Prelu {
    fn name(&self) -> &'static str {
        "prelu"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [x, slope] = inputs else { return Err(format!("expected two tensors, got {inputs:?}")) };
        slopes(x, slope).map(|_| x.clone())
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (x, slope) = (inputs[0].float(), &inputs[1].float().data);
        let elements = x.data.par_iter().enumerate();
        let data = elements.map(|(i, &x)| if x > T::zero() { x } else { slope[i % slope.len()] * x }).collect();
        vec![Tensor::Float(Array { shape: x.shape.clone(), data })]
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let params = [("slopes", inputs[1].shape.elements().into())];
        let bindings = vec![Binding::Input(0), Binding::Input(1), Binding::Output];
        vec![turns(kernel!("prelu/forward"), bindings, output.shape.elements(), &params, device).into()]
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        let &[x, slope] = backward.inputs else { return Ok(vec![None; 2]) };
        let (needs, grad) = (backward.needs, backward.grad_output);
        let grad_slope = PreluGradSlope { slopes: backward.input_type(1).shape.elements() };
        Ok(vec![
            needs[0].then(|| backward.apply("grad_input", PreluGradInput, &[x, slope, grad])).transpose()?,
            needs[1].then(|| backward.apply("grad_slope", grad_slope, &[x, grad])).transpose()?,
        ])
    }

    fn onnx(&self, translation: &mut Translation<'_>) -> Result<Value> {
        let [x, slope] = [translation.tensor(0)?, translation.tensor(1)?];
        // A slope [c] against images [n, c, h, w] is [c, 1, 1].
        let axes = translation.constant("axes", &[1, 2]);
        let slope = translation.step("slopes", "Unsqueeze", &[&slope, &axes], vec![]);
        Ok(translation.result("PRelu", &[&x, &slope], vec![]))
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        2 * output.shape.elements() as u64
    }

    fn bound(&self, _: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        one_product(output)
    }
}

/// The rounding of one product.
fn one_product(output: &Tensor<f64>) -> Bound {
    Bound::Elements(output.float().data.iter().map(|value| UNIT_ROUNDOFF * value.abs() + FLUSHED).collect())
}

impl Op for PreluGradInput {
    fn name(&self) -> &'static str {
        "prelu_grad_input"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [x, slope, grad] if x == grad => slopes(x, slope).map(|_| x.clone()),
            _ => Err(format!("expected x, slopes and the gradient of the result, got {inputs:?}")),
        }
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0, 2])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (x, slope, grad) = (inputs[0].float(), &inputs[1].float().data, &inputs[2].float().data);
        let pairs = x.data.par_iter().zip(grad).enumerate();
        let gradient =
            |(i, (&x, &grad)): (usize, (&T, &T))| if x > T::zero() { grad } else { slope[i % slope.len()] * grad };
        vec![Tensor::Float(Array { shape: x.shape.clone(), data: pairs.map(gradient).collect() })]
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let params = [("slopes", inputs[1].shape.elements().into())];
        let bindings = (0..3).map(Binding::Input).chain([Binding::Output]).collect();
        vec![turns(kernel!("prelu/grad_input"), bindings, output.shape.elements(), &params, device).into()]
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        2 * output.shape.elements() as u64
    }

    fn bound(&self, _: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        one_product(output)
    }
}

impl PreluGradSlope {
    /// The sum of `term` over the elements of each slope.
    fn sums<T: Real>(self, inputs: &[&Tensor<T>], term: impl Fn(f64) -> f64 + Sync) -> Vec<f64> {
        let [x, grad] = [0, 1].map(|input| &inputs[input].float().data);
        let sum = |slope: usize| -> f64 {
            let elements = x.iter().zip(grad).skip(slope).step_by(self.slopes);
            let negative = elements.filter(|(x, _)| **x <= T::zero());
            negative.map(|(x, grad)| term(grad.as_f64() * x.as_f64())).sum()
        };
        (0..self.slopes).into_par_iter().map(sum).collect()
    }
}

impl Op for PreluGradSlope {
    fn name(&self) -> &'static str {
        "prelu_grad_slope"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let slope = TensorType::f32([self.slopes])?;
        match inputs {
            [x, grad] if x == grad => slopes(x, &slope).map(|_| slope),
            _ => Err(format!("expected x and the gradient of the result, got {inputs:?}")),
        }
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        rounded(self, inputs, self.sums(inputs, |product| product))
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        let elements = inputs[0].shape.elements();
        let terms = elements / self.slopes;
        let first = invocations(
            kernel!("prelu/grad_slope"),
            vec![Binding::Input(0), Binding::Input(1), Binding::Workspace(0)],
            partial_sums(terms)[0] * self.slopes,
            &[("elements", elements.into())],
        );
        vec![sum_up([first], terms, self.slopes, Total::Result)]
    }

    fn flops(&self, inputs: &[TensorType], _: &TensorType) -> u64 {
        2 * inputs[0].shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        let terms = inputs[0].float().data.len() / self.slopes;
        let share = compound((1.0 + additions(terms)) * UNIT_ROUNDOFF);
        let magnitudes = self.sums(inputs, f64::abs);
        Bound::Elements(magnitudes.into_iter().map(|sum| share * sum + terms as f64 * FLUSHED).collect())
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for (extents, slopes, what) in [
        ([1, 1, 1, 1], 1, "one element"),
        ([1, 1, 1, 65], 65, "a slope an element"),
        ([2, 7, 5, 3], 3, "a slope a channel, batch 2"),
        ([1, 13, 11, 5], 1, "one slope"),
        ([1, 1021, 1031, 4], 4, "past 65,535 workgroups"),
    ] {
        let x = (TensorType::f32(extents)?, Fill::Normal(1.0));
        let slope = (TensorType::f32([slopes])?, Fill::Uniform(-0.2, 0.5));
        let name = format!("{extents:?}, {what}");
        // The only element must be negative for its slope to matter.
        let only = if slopes == x.0.shape.elements() { Fill::Uniform(-2.0, -1.0) } else { x.1 };
        let inputs = vec![(x.0.clone(), only), slope.clone()];
        cases.push(Case { name: name.clone(), op: Arc::new(Prelu), inputs });
        let inputs = vec![x.clone(), slope, x.clone()];
        cases.push(Case { name: name.clone(), op: Arc::new(PreluGradInput), inputs });
        let inputs = vec![x.clone(), x];
        cases.push(Case { name, op: Arc::new(PreluGradSlope { slopes }), inputs });
    }
    Ok(in_both_precisions(cases))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_that_fit_no_channels_are_refused() {
        let mut graph = Graph::new();
        let x = graph.input("x", TensorType::f32([1, 2, 2, 3]).unwrap());
        let slope = graph.input("slope", TensorType::f32([2]).unwrap());
        let message = graph.prelu("act", x, slope).unwrap_err().to_string();
        assert!(message.contains("prelu `act`: expected floats […, c] and slopes [c] or [1]"), "{message}");
        assert!(graph.leaky_relu("leaky", x, 0.1).is_ok());
    }
}
