//! `sigmoid`: the probability that a score stands for, and its gradient from the result alone.

use crate::array::{Array, Real, Tensor};
use crate::error::Result;
use crate::graph::{Graph, NodeId};
use crate::kernel;
use crate::onnx::{Translation, Value};
use crate::op::{Backward, Binding, Bound, ByImage, Candidate, Case, DeviceProfile, Fill, Op, UNIT_ROUNDOFF};
use crate::ops::softmax::{FLUSHED, compound};
use crate::ops::{elementwise, like_the_result, one_float};
use crate::shape::TensorType;
use rayon::prelude::*;
use std::sync::Arc;

/// y = 1 / (1 + exp(−x)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sigmoid;

/// dx = dy · y (1 − y); inputs y and dy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigmoidGrad;

impl Graph {
    /// y = 1 / (1 + exp(−x)).
    ///
    /// # Errors
    /// When x holds integers.
    pub fn sigmoid(&mut self, name: &str, x: NodeId) -> Result<NodeId> {
        self.apply(name, Sigmoid, &[x])
    }
}

impl Op for Sigmoid {
    fn name(&self) -> &'static str {
        "sigmoid"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        one_float(inputs).cloned()
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let x = inputs[0].float();
        let sigmoid = |&x: &T| {
            let exponential = (-x.abs()).exp();
            (if x < T::zero() { exponential } else { T::one() }) / (T::one() + exponential)
        };
        let data = x.data.par_iter().map(sigmoid).collect();
        vec![Tensor::Float(Array { shape: x.shape.clone(), data })]
    }

    fn candidates(&self, _: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        vec![elementwise(kernel!("sigmoid/forward"), vec![Binding::Input(0), Binding::Output], output, device)]
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        let inputs = [backward.output, backward.grad_output];
        Ok(vec![Some(backward.apply("grad_input", SigmoidGrad, &inputs)?)])
    }

    fn onnx(&self, translation: &mut Translation<'_>) -> Result<Value> {
        let x = translation.tensor(0)?;
        Ok(translation.result("Sigmoid", &[&x], vec![]))
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        // An exponential counted as one operation, a sum, a division.
        3 * output.shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        // WGSL's exp is right to 3 + 2|x| ULP of 2u each, and is above and below the line; a sum, a division of 2.5 ULP.
        let error = |x: f64| compound((18.0 + 8.0 * x.abs()) * UNIT_ROUNDOFF);
        let pairs = inputs[0].float().data.iter().zip(&output.float().data);
        Bound::Elements(pairs.map(|(&x, y)| error(x) * y + FLUSHED).collect())
    }
}

impl Op for SigmoidGrad {
    fn name(&self) -> &'static str {
        "sigmoid_grad"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        like_the_result(inputs)
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0, 1])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (y, grad) = (inputs[0].float(), inputs[1].float());
        let data = y.data.par_iter().zip(&grad.data).map(|(&y, &grad)| grad * y * (T::one() - y)).collect();
        vec![Tensor::Float(Array { shape: y.shape.clone(), data })]
    }

    fn candidates(&self, _: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let bindings = vec![Binding::Input(0), Binding::Input(1), Binding::Output];
        vec![elementwise(kernel!("sigmoid/grad_input"), bindings, output, device)]
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        3 * output.shape.elements() as u64
    }

    fn bound(&self, _: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        // A difference and two products.
        let bound = |value: &f64| compound(3.0 * UNIT_ROUNDOFF) * value.abs() + FLUSHED;
        Bound::Elements(output.float().data.iter().map(bound).collect())
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for (extents, fill) in [
        ([1, 1, 1, 1], Fill::Normal(1.0)),
        ([1, 1, 1, 65], Fill::Ties),
        ([2, 7, 5, 3], Fill::Normal(3.0)),
        ([1, 13, 11, 5], Fill::Uniform(-120.0, 120.0)),
        ([1, 1021, 1031, 4], Fill::Normal(3.0)),
    ] {
        let x = TensorType::f32(extents)?;
        let name = format!("{extents:?} {fill:?}");
        let inputs = vec![(x.clone(), Fill::Positive), (x.clone(), Fill::Normal(1.0))];
        cases.push(Case { name: name.clone(), op: Arc::new(Sigmoid), inputs: vec![(x, fill)] });
        cases.push(Case { name, op: Arc::new(SigmoidGrad), inputs });
    }
    Ok(cases)
}
