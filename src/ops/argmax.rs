//! `argmax` over the last axis: from scores to labels.

use crate::array::{Array, Real, Tensor};
use crate::error::Result;
use crate::graph::{Graph, NodeId};
use crate::kernel;
use crate::onnx::{Attribute, Translation, Value};
use crate::op::{Binding, Bound, ByImage, Candidate, Case, DeviceProfile, Fill, Op};
use crate::ops::turns;
use crate::shape::{DType, TensorType};
use rayon::prelude::*;
use std::sync::Arc;

/// y = the position of the first maximum along the last axis, which the result lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argmax;

impl Graph {
    /// The position of the first maximum along the last axis: from scores `[n, h, w, classes]` to labels `u32 [n, h, w]`.
    ///
    /// # Errors
    /// When x holds integers or has no axis.
    pub fn argmax(&mut self, name: &str, x: NodeId) -> Result<NodeId> {
        self.apply(name, Argmax, &[x])
    }
}

impl Op for Argmax {
    fn name(&self) -> &'static str {
        "argmax"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [x] if x.dtype == DType::F32 && x.shape.rank() > 0 => {
                TensorType::u32(&x.shape.extents()[..x.shape.rank() - 1])
            }
            _ => Err(format!("expected one float tensor, got {inputs:?}")),
        }
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let x = inputs[0].float();
        let first_maximum = |pixel: &[T]| {
            let positions = 1..pixel.len();
            positions.fold(0, |best, k| if pixel[k] > pixel[best] { k } else { best }) as u32
        };
        let data = x.data.par_chunks(x.shape.channels()).with_min_len(1024).map(first_maximum).collect();
        let output = self.output(&[inputs[0].tensor_type()]);
        let output = output.unwrap_or_else(|_| unreachable!("the shape rule has passed"));
        vec![Tensor::Uint(Array { shape: output.shape, data })]
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let (pixels, params) = (inputs[0].shape.pixels(), [("channels", inputs[0].shape.channels().into())]);
        let bindings = vec![Binding::Input(0), Binding::Output];
        vec![turns(kernel!("argmax/forward"), bindings, pixels, &params, device).into()]
    }

    fn onnx(&self, translation: &mut Translation<'_>) -> Result<Value> {
        let (x, axis) = (translation.tensor(0)?, translation.channel_axis(0)?);
        Ok(translation.result("ArgMax", &[&x], vec![Attribute::int("axis", axis), Attribute::int("keepdims", 0)]))
    }

    fn flops(&self, inputs: &[TensorType], _: &TensorType) -> u64 {
        inputs[0].shape.elements() as u64
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Exact
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    [
        ([1, 1, 1, 1], Fill::Normal(1.0), "one element"),
        ([1, 8, 8, 2], Fill::Ties, "one workgroup, ties"),
        ([1, 5, 13, 3], Fill::Ties, "one over, ties"),
        ([2, 7, 5, 5], Fill::Normal(80.0), "odd sizes, batch 2"),
        ([3, 3, 7, 21], Fill::Ties, "21 channels, ties"),
        ([1, 4, 5, 4], Fill::Constant(-3.0), "all equal"),
        ([1, 1025, 4093, 2], Fill::Ties, "past 65,535 workgroups, ties"),
    ]
    .into_iter()
    .map(|(extents, fill, what)| {
        let x = TensorType::f32(extents)?;
        Ok(Case { name: format!("{what}: {x}"), op: Arc::new(Argmax), inputs: vec![(x, fill)] })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_maximum_wins() {
        let x = Array::new(
            TensorType::f32([4, 3]).unwrap().shape,
            vec![
                0.0, 2.0, 1.0, //
                5.0, 5.0, 5.0, //
                -3.0, -2.0, -2.0, //
                0.0, 0.0, 1.0,
            ],
        );
        let x: Tensor<f32> = x.unwrap().into();
        assert_eq!(Argmax.reference(&[&x])[0].uint().data, [1, 0, 1, 2]);
    }
}
