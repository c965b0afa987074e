//! Labels and weights at positions in a source tile.

use super::{admitted, extents, nearest, sampled, split};
use crate::array::{Array, Real, Tensor};
use crate::kernel;
use crate::op::{Binding, Bound, Candidate, Case, DeviceProfile, Fill, Kernel, Op, UNIT_ROUNDOFF};
use crate::ops::{turns, zeros};
use crate::shape::{DType, Shape, TensorType};
use rayon::prelude::*;
use std::sync::Arc;

/// The label of the pixel nearest to each position, the higher of two equally near ones; inputs are labels `u32 [n, s, s']` and positions
/// `[n, h, w, 2]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AugmentLabels;

/// The weight at each position, linear between pixels, but 0 where that of the nearest pixel is 0; inputs are weights `[n, s, s']` and
/// positions `[n, h, w, 2]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AugmentWeights;

/// The extents of the result.
fn window(inputs: &[TensorType], dtype: DType) -> Result<[usize; 3], String> {
    match inputs {
        [source, positions] if source.shape.rank() == 3 && source.dtype == dtype => sampled(source, positions),
        _ => None,
    }
    .map(|(_, [h, w])| [inputs[0].shape.extents()[0], h, w])
    .ok_or_else(|| format!("expected a tensor {dtype:?} [n, s, s'] and positions [n, h, w, 2], got {inputs:?}"))
}

fn candidate(kernel: Kernel, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
    let (source, window) = admitted(&inputs[0], &inputs[1]);
    let bindings = vec![Binding::Input(0), Binding::Input(1), Binding::Output];
    vec![turns(kernel, bindings, output.shape.elements(), &extents(source, window), device).into()]
}

/// The tile of a pixel of the result.
fn tile(pixel: usize, shape: &Shape) -> usize {
    pixel / (shape.elements() / shape.extents()[0])
}

impl Op for AugmentLabels {
    fn name(&self) -> &'static str {
        "augment_labels"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        TensorType::u32(window(inputs, DType::U32)?)
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (source, positions) = (inputs[0].uint(), inputs[1].float());
        let ([height, width], [rows, columns]) = admitted(&inputs[0].tensor_type(), &inputs[1].tensor_type());
        let shape = TensorType::u32([source.shape.extents()[0], rows, columns]);
        let shape = shape.unwrap_or_else(|_| unreachable!("the shape rule has passed")).shape;
        let label = |(pixel, position): (usize, &[T])| {
            let row = tile(pixel, &shape) * height + nearest(position[0], height);
            source.data[row * width + nearest(position[1], width)]
        };
        let data = positions.data.par_chunks(2).enumerate().map(label).collect();
        vec![Tensor::Uint(Array { shape, data })]
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        candidate(kernel!("augment/labels"), inputs, output, device)
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        4 * output.shape.elements() as u64
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Exact
    }
}

impl Op for AugmentWeights {
    fn name(&self) -> &'static str {
        "augment_weights"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        TensorType::f32(window(inputs, DType::F32)?)
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (source, positions) = (inputs[0].float(), inputs[1].float());
        let ([height, width], _) = admitted(&inputs[0].tensor_type(), &inputs[1].tensor_type());
        let mut weights = zeros(self, inputs);
        let shape = weights.shape.clone();
        weights.data.par_iter_mut().zip(positions.data.par_chunks(2)).enumerate().for_each(
            |(pixel, (weight, position))| {
                let first = tile(pixel, &shape) * height;
                let at = |row: usize, column: usize| source.data[(first + row) * width + column];
                if at(nearest(position[0], height), nearest(position[1], width)) != T::zero() {
                    let ((row, down), (column, right)) = (split(position[0], height), split(position[1], width));
                    let (next_row, next_column) = ((row + 1).min(height - 1), (column + 1).min(width - 1));
                    let line = |row| (T::one() - right) * at(row, column) + right * at(row, next_column);
                    *weight = (T::one() - down) * line(row) + down * line(next_row);
                }
            },
        );
        vec![Tensor::Float(weights)]
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        candidate(kernel!("augment/weights"), inputs, output, device)
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        9 * output.shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        // Shares and their complements are right to u; a product with each and two additions round.
        let magnitudes = inputs[0].float().data.iter().map(|weight| weight.abs()).collect();
        let magnitudes = Tensor::Float(Array { shape: inputs[0].float().shape.clone(), data: magnitudes });
        let sums = self.reference(&[&magnitudes, inputs[1]]);
        Bound::Elements(sums[0].float().data.iter().map(|sum| 8.0 * UNIT_ROUNDOFF * sum).collect())
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for (source, window, fill, what) in [
        ([1, 1, 1], [1, 1], Fill::Uniform(-1.0, 1.0), "one element"),
        ([1, 9, 9], [8, 8], Fill::Uniform(-1.0, 9.0), "one workgroup"),
        ([1, 9, 9], [5, 13], Fill::Ties, "one over, halfway between pixels"),
        ([2, 11, 13], [7, 5], Fill::Uniform(-1.0, 13.0), "odd sizes, batch 2"),
        ([3, 2, 3], [5, 3], Fill::Ties, "a tiny source, prime sizes, halfway between pixels"),
        ([1, 5, 5], [2050, 2048], Fill::Uniform(-1.0, 5.0), "past 65,535 workgroups"),
    ] {
        let positions = (TensorType::f32([source[0], window[0], window[1], 2])?, fill);
        let name = format!("{what}: {source:?} at {window:?}");
        let labels = (TensorType::u32(source)?, Fill::Labels { classes: 5, ignore: None });
        cases.push(Case { name: name.clone(), op: Arc::new(AugmentLabels), inputs: vec![labels, positions.clone()] });
        for (fill, what) in [(Fill::Positive, "positive"), (Fill::Ties, "with zeros")] {
            let inputs = vec![(TensorType::f32(source)?, fill), positions.clone()];
            cases.push(Case { name: format!("{name}, {what}"), op: Arc::new(AugmentWeights), inputs });
        }
    }
    Ok(cases)
}
