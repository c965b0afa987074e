//! `add`: the sum of two tensors, where gradients of several uses meet.

use crate::array::{Array, Real, Tensor};
use crate::error::Result;
use crate::graph::{Graph, NodeId};
use crate::kernel;
use crate::onnx::{Translation, Value};
use crate::op::{Backward, Binding, Bound, ByImage, Candidate, Case, DeviceProfile, Fill, Op, Proof};
use crate::ops::{elementwise, in_both_precisions};
use crate::shape::TensorType;
use rayon::prelude::*;
use std::sync::Arc;

/// y = a + b, element by element; both of one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Add;

impl Graph {
    /// The sum of two tensors of one shape.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn add(&mut self, name: &str, a: NodeId, b: NodeId) -> Result<NodeId> {
        self.apply(name, Add, &[a, b])
    }
}

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [a, b] if a == b && a.dtype.is_float() => Ok(a.clone()),
            _ => Err(format!("expected two float tensors of one type, got {inputs:?}")),
        }
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0, 1])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (a, b) = (inputs[0].float(), inputs[1].float());
        let data = a.data.par_iter().zip(&b.data).map(|(&a, &b)| a + b).collect();
        vec![Tensor::Float(Array { shape: a.shape.clone(), data })]
    }

    fn candidates(&self, _: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let bindings = vec![Binding::Input(0), Binding::Input(1), Binding::Output];
        vec![elementwise(kernel!("add/forward"), bindings, output, device)]
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        Ok(vec![Some(backward.grad_output); 2])
    }

    fn onnx(&self, translation: &mut Translation<'_>) -> Result<Value> {
        let [a, b] = [translation.tensor(0)?, translation.tensor(1)?];
        Ok(translation.result("Add", &[&a, &b], vec![]))
    }

    fn proof(&self) -> Option<Proof> {
        Some(Proof::of::<Self>())
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        output.shape.elements() as u64
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Relative(crate::op::UNIT_ROUNDOFF)
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let cases = [[1, 1, 1, 1], [1, 1, 1, 64], [1, 5, 13, 1], [2, 7, 5, 3], [1, 1021, 1031, 4]]
        .into_iter()
        .map(|extents| {
            let input = (TensorType::f32(extents)?, Fill::Normal(1.0));
            Ok(Case { name: format!("{extents:?}"), op: Arc::new(Add), inputs: vec![input.clone(), input] })
        })
        .collect::<Result<_, String>>()?;
    Ok(in_both_precisions(cases))
}
