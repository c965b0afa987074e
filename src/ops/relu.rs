//! `relu`: y = max(0, x), NaN staying NaN, and its gradient from the result alone.

use crate::array::{Array, Real, Tensor};
use crate::error::Result;
use crate::graph::{Graph, NodeId};
use crate::kernel;
use crate::onnx::{Translation, Value};
use crate::op::{Backward, Binding, Bound, ByImage, Candidate, Case, DeviceProfile, Fill, Op};
use crate::ops::{elementwise, in_both_precisions, one_activation};
use crate::shape::TensorType;
use rayon::prelude::*;
use std::sync::Arc;

/// y = max(0, x); NaN stays NaN, so that what went wrong before is seen after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relu;

/// dx = 0 where y ≤ 0, else dy; inputs y and dy. The gradient at 0 is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReluGrad;

impl Graph {
    /// y = max(0, x).
    ///
    /// # Errors
    /// When x holds integers.
    pub fn relu(&mut self, name: &str, x: NodeId) -> Result<NodeId> {
        self.apply(name, Relu, &[x])
    }
}

impl Op for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        one_activation(inputs).cloned()
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let x = inputs[0].float();
        let data = x.data.par_iter().map(|&x| if x <= T::zero() { T::zero() } else { x }).collect();
        vec![Tensor::Float(Array { shape: x.shape.clone(), data })]
    }

    fn candidates(&self, _: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        vec![elementwise(kernel!("relu/forward"), vec![Binding::Input(0), Binding::Output], output, device)]
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        let inputs = [backward.output, backward.grad_output];
        Ok(vec![Some(backward.apply("grad_input", ReluGrad, &inputs)?)])
    }

    fn onnx(&self, translation: &mut Translation<'_>) -> Result<Value> {
        let x = translation.tensor(0)?;
        Ok(translation.result("Relu", &[&x], vec![]))
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        output.shape.elements() as u64
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Exact
    }
}

impl Op for ReluGrad {
    fn name(&self) -> &'static str {
        "relu_grad"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [y, grad] if y == grad && y.dtype.is_float() => Ok(y.clone()),
            _ => Err(format!("expected the result and its gradient, of one type, got {inputs:?}")),
        }
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0, 1])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (y, grad) = (inputs[0].float(), inputs[1].float());
        let pairs = y.data.par_iter().zip(&grad.data);
        let data = pairs.map(|(&y, &grad)| if y <= T::zero() { T::zero() } else { grad }).collect();
        vec![Tensor::Float(Array { shape: y.shape.clone(), data })]
    }

    fn candidates(&self, _: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let bindings = vec![Binding::Input(0), Binding::Input(1), Binding::Output];
        vec![elementwise(kernel!("relu/grad_input"), bindings, output, device)]
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        output.shape.elements() as u64
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Exact
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for (extents, fill) in [
        ([1, 1, 1, 1], Fill::Normal(1.0)),
        ([1, 1, 1, 65], Fill::Ties),
        ([2, 7, 5, 3], Fill::Ties),
        ([1, 13, 11, 5], Fill::Normal(1e20)),
        ([1, 1021, 1031, 4], Fill::Ties),
    ] {
        let input = (TensorType::f32(extents)?, fill);
        let name = format!("{extents:?} {fill:?}");
        cases.push(Case { name: name.clone(), op: Arc::new(Relu), inputs: vec![input.clone()] });
        cases.push(Case { name, op: Arc::new(ReluGrad), inputs: vec![input.clone(), input] });
    }
    Ok(in_both_precisions(cases))
}
