//! `mirror`: the mirror image of images around them, as the paper's networks are given what lies beyond an edge.

use crate::array::{Real, Tensor};
use crate::data::sampler::reflect;
use crate::error::Result;
use crate::graph::{Graph, NodeId};
use crate::kernel;
use crate::op::{Binding, Bound, ByImage, Candidate, Case, DeviceProfile, Fill, Op};
use crate::ops::{image, turns, zeros};
use crate::shape::{DType, TensorType};
use rayon::prelude::*;
use std::sync::Arc;

/// y[n, y, x, c] = x[n, mirrored(y − before₀), mirrored(x − before₁), c], mirrored at the first and the last pixel without repeating them
/// ([`reflect`]), as often as needed. Margins are of rows and columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    /// How many come before the first row and column.
    pub before: [u32; 2],
    /// How many come after the last.
    pub after: [u32; 2],
}

impl Graph {
    /// x with its mirror image around it. It has no gradient: it is for what a network is given.
    ///
    /// # Errors
    /// When x is not a batch of images.
    pub fn mirror(&mut self, name: &str, x: NodeId, mirror: Mirror) -> Result<NodeId> {
        self.apply(name, mirror, &[x])
    }
}

impl Op for Mirror {
    fn name(&self) -> &'static str {
        "mirror"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [x] = inputs else { return Err(format!("expected one tensor, got {inputs:?}")) };
        let [n, h, w, c] = x.shape.image()?;
        if x.dtype != DType::F32 {
            return Err(format!("expected images of floats, got {x}"));
        }
        let extent = |found: usize, axis: usize| found + self.before[axis] as usize + self.after[axis] as usize;
        TensorType::f32([n, extent(h, 0), extent(w, 1), c])
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let [_, h, w, c] = image(&inputs[0].tensor_type());
        let x = &inputs[0].float().data;
        let mut y = zeros(self, inputs);
        let [_, height, width, _] = image(&Tensor::Float(y.clone()).tensor_type());
        y.data.par_chunks_mut(width * c).enumerate().for_each(|(row, y)| {
            let line = row / height * h + reflect((row % height) as isize - self.before[0] as isize, h);
            for (column, y) in y.chunks_exact_mut(c).enumerate() {
                let column = reflect(column as isize - self.before[1] as isize, w);
                y.copy_from_slice(&x[(line * w + column) * c..][..c]);
            }
        });
        vec![Tensor::Float(y)]
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let ([_, h, w, _], [_, height, width, channels]) = (image(&inputs[0]), image(output));
        let params = [
            ("height", height.into()),
            ("width", width.into()),
            ("channels", channels.into()),
            ("in_height", h.into()),
            ("in_width", w.into()),
            ("top", (self.before[0] as usize).into()),
            ("left", (self.before[1] as usize).into()),
        ];
        let bindings = vec![Binding::Input(0), Binding::Output];
        vec![turns(kernel!("mirror/forward"), bindings, output.shape.elements(), &params, device).into()]
    }

    fn flops(&self, _: &[TensorType], _: &TensorType) -> u64 {
        0
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Exact
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let mirror = |before, after| Mirror { before, after };
    [
        ([1, 1, 1, 1], mirror([0; 2], [0; 2]), "one pixel, no margin"),
        ([1, 1, 1, 1], mirror([3, 2], [4, 6]), "one pixel becomes 64 and more"),
        ([2, 5, 7, 3], mirror([1; 2], [1; 2]), "one on every side, batch 2"),
        ([2, 5, 7, 3], mirror([2, 0], [0, 3]), "rows before, columns after"),
        ([3, 2, 3, 2], mirror([5, 7], [11, 9]), "mirrored more than once, batch 3"),
        ([1, 13, 11, 5], mirror([12, 10], [12, 10]), "to the far edge and no further"),
        ([1, 1021, 1031, 4], mirror([3, 0], [0, 1]), "past 65,535 workgroups"),
    ]
    .into_iter()
    .map(|(extents, mirror, what)| {
        let inputs = vec![(TensorType::f32(extents)?, Fill::Normal(1.0))];
        Ok(Case { name: format!("{extents:?} {what}"), op: Arc::new(mirror), inputs })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Array;

    #[test]
    fn edges_are_not_repeated() {
        let x = Array::new(TensorType::f32([1, 1, 3, 1]).unwrap().shape, vec![1.0, 2.0, 3.0]).unwrap();
        let y = Mirror { before: [1, 2], after: [0, 3] }.reference(&[&x.into()]);
        let line = [3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0, 2.0];
        assert_eq!(y[0].float().data, [line, line].concat());
    }
}
