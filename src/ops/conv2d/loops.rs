//! Which positions a convolution links, its shape rules, and the reference loops.
//!
//! A convolution links a *fine* image and a *coarse* one: coarse position p meets fine position `stride · p + q − padding`
//! through element q of the weight. `conv2d` reads the fine image and writes the coarse one, `conv_transpose2d` the other way
//! round, and each one's input gradient has the links of the other's forward pass.

use crate::array::{Array, Real, Tensor};
use crate::error::Result;
use crate::onnx::{Attribute, Translation, Value};
use crate::shape::{DType, Shape, TensorType};
use rayon::prelude::*;

/// The largest kernel size and stride: kernels write out one row of the weight in full.
const LARGEST: usize = 32;

/// How a weight slides over an image: rows first, columns second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) struct Window {
    pub(in crate::ops) kernel_size: [usize; 2],
    pub(in crate::ops) stride: [usize; 2],
    pub(in crate::ops) padding: [usize; 2],
}

impl Window {
    /// Refuses what the kernels cannot do.
    pub(in crate::ops) fn check(&self) -> Result<(), String> {
        let Self { kernel_size, stride, padding } = *self;
        for axis in 0..2 {
            if !(1..=LARGEST).contains(&kernel_size[axis]) || !(1..=LARGEST).contains(&stride[axis]) {
                return Err(format!(
                    "kernel size and stride must be 1 to {LARGEST}, got {kernel_size:?} and {stride:?}"
                ));
            }
            if padding[axis] >= kernel_size[axis] {
                return Err(format!("padding must be less than the kernel size {kernel_size:?}, got {padding:?}"));
            }
        }
        Ok(())
    }

    /// The operator of this window over images, by a weight and, maybe, a bias, in ONNX.
    pub(in crate::ops) fn onnx(&self, operator: &str, translation: &mut Translation<'_>) -> Result<Value> {
        let Self { kernel_size, stride, padding } = *self;
        let mut inputs = vec![translation.tensor(0)?, translation.weight(1)?];
        if translation.input_count() > 2 {
            inputs.push(translation.tensor(2)?);
        }
        let attributes = vec![
            Attribute::ints("kernel_shape", &kernel_size),
            Attribute::ints("strides", &stride),
            Attribute::ints("pads", &[padding, padding].concat()),
        ];
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        Ok(translation.result(operator, &inputs, attributes))
    }

    /// The extents of the coarse image that belongs to a fine one.
    pub(in crate::ops) fn coarse(&self, fine: [usize; 2]) -> Result<[usize; 2], String> {
        let extent = |axis: usize| {
            let padded = fine[axis] + 2 * self.padding[axis];
            let slack = padded.checked_sub(self.kernel_size[axis]).ok_or_else(|| {
                format!("kernel size {:?} is larger than the input {fine:?} with its padding", self.kernel_size)
            })?;
            Ok::<_, String>(slack / self.stride[axis] + 1)
        };
        Ok([extent(0)?, extent(1)?])
    }

    /// The smallest extents of the fine image that belongs to a coarse one.
    pub(in crate::ops) fn fine(&self, coarse: [usize; 2]) -> Result<[usize; 2], String> {
        let extent = |axis: usize| {
            let padded = (coarse[axis] - 1) * self.stride[axis] + self.kernel_size[axis];
            padded
                .checked_sub(2 * self.padding[axis])
                .filter(|&extent| extent > 0)
                .ok_or_else(|| format!("padding {:?} leaves nothing of the output", self.padding))
        };
        Ok([extent(0)?, extent(1)?])
    }
}

/// Element `q` of the weight and the position it links to, along one axis.
type Link = (usize, usize);

/// For each coarse position along an axis, its links to fine ones.
fn links_of_coarse(window: &Window, coarse: usize, fine: usize, axis: usize) -> Vec<Vec<Link>> {
    let fine_position = |p: usize, q: usize| (p * window.stride[axis] + q).checked_sub(window.padding[axis]);
    let links = |p: usize| {
        let inside = |q: usize| fine_position(p, q).filter(|&position| position < fine).map(|position| (q, position));
        (0..window.kernel_size[axis]).filter_map(inside).collect()
    };
    (0..coarse).map(links).collect()
}

/// For each fine position along an axis, its links to coarse ones.
fn links_of_fine(window: &Window, coarse: usize, fine: usize, axis: usize) -> Vec<Vec<Link>> {
    let mut turned = vec![Vec::new(); fine];
    for (p, links) in links_of_coarse(window, coarse, fine, axis).into_iter().enumerate() {
        for (q, position) in links {
            turned[position].push((q, p));
        }
    }
    turned
}

/// A stack of images, channels last.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Images<'a, T> {
    pub(in crate::ops) data: &'a [T],
    pub(in crate::ops) extents: [usize; 2],
    pub(in crate::ops) channels: usize,
}

impl<'a, T> Images<'a, T> {
    /// The images of an array `[n, h, w, c]`.
    pub(in crate::ops) fn of(array: &'a Array<T>) -> Self {
        let extents = array.shape.extents();
        Self { data: &array.data, extents: [extents[1], extents[2]], channels: extents[3] }
    }

    fn count(&self) -> usize {
        self.data.len() / (self.extents[0] * self.extents[1] * self.channels)
    }

    fn row(&self, image: usize, row: usize) -> &'a [T] {
        let length = self.extents[1] * self.channels;
        &self.data[(image * self.extents[0] + row) * length..][..length]
    }
}

/// Which side of a [`Window`] the source of a sum is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum Side {
    Fine,
    Coarse,
}

/// The images whose every pixel is the sum, over its links (q, p), of `source[p]` times matrix q; matrices are
/// `[kh, kw, source channels, result channels]`.
pub(in crate::ops) fn sum_of_products<T: Real>(
    window: &Window,
    source: Images<'_, T>,
    side: Side,
    matrices: &[T],
    extents: [usize; 2],
    bias: Option<&[T]>,
) -> Vec<T> {
    let links = |axis: usize| match side {
        Side::Fine => links_of_coarse(window, extents[axis], source.extents[axis], axis),
        Side::Coarse => links_of_fine(window, source.extents[axis], extents[axis], axis),
    };
    let (row_links, column_links) = (links(0), links(1));
    let matrix_size = matrices.len() / (window.kernel_size[0] * window.kernel_size[1]);
    let channels = matrix_size / source.channels;
    let mut result = vec![T::zero(); source.count() * extents[0] * extents[1] * channels];
    result.par_chunks_mut(extents[1] * channels).enumerate().for_each(|(line, row)| {
        let image = line / extents[0];
        for pixel in row.chunks_exact_mut(channels) {
            if let Some(bias) = bias {
                pixel.copy_from_slice(bias);
            }
        }
        for &(qy, y) in &row_links[line % extents[0]] {
            let source_row = source.row(image, y);
            for (pixel, links) in row.chunks_exact_mut(channels).zip(&column_links) {
                for &(qx, x) in links {
                    let q = qy * window.kernel_size[1] + qx;
                    let matrix = &matrices[q * matrix_size..][..matrix_size];
                    add_product(pixel, &source_row[x * source.channels..][..source.channels], matrix);
                }
            }
        }
    });
    result
}

/// So many neighbouring channels are summed in registers.
const BLOCK: usize = 16;

/// `result += vector · matrix`, the matrix row by row.
fn add_product<T: Real>(result: &mut [T], vector: &[T], matrix: &[T]) {
    let width = result.len();
    let mut start = 0;
    let (blocks, rest) = result.as_chunks_mut::<BLOCK>();
    for block in blocks {
        let mut sums = *block;
        for (&value, row) in vector.iter().zip(matrix.chunks_exact(width)) {
            for (sum, &factor) in sums.iter_mut().zip(&row[start..start + BLOCK]) {
                *sum += value * factor;
            }
        }
        *block = sums;
        start += BLOCK;
    }
    for (&value, row) in vector.iter().zip(matrix.chunks_exact(width)) {
        for (sum, &factor) in rest.iter_mut().zip(&row[start..]) {
            *sum += value * factor;
        }
    }
}

/// The gradient `[kh, kw, in channels, out channels]` of the weight: the sum over links of the outer products of the input's and
/// the output gradient's pixels. `side` says on which side of the window the input is.
pub(in crate::ops) fn weight_gradient<T: Real>(
    window: &Window,
    input: Images<'_, T>,
    side: Side,
    grad_output: Images<'_, T>,
) -> Vec<T> {
    // For each element q along an axis, the pairs of positions it links: (input, output).
    let pairs = |axis: usize| {
        let (fine, coarse) = match side {
            Side::Fine => (input.extents[axis], grad_output.extents[axis]),
            Side::Coarse => (grad_output.extents[axis], input.extents[axis]),
        };
        let mut pairs = vec![Vec::new(); window.kernel_size[axis]];
        for (p, links) in links_of_coarse(window, coarse, fine, axis).into_iter().enumerate() {
            for (q, position) in links {
                pairs[q].push(if side == Side::Fine { (position, p) } else { (p, position) });
            }
        }
        pairs
    };
    let (rows, columns) = (pairs(0), pairs(1));
    let (ins, outs) = (input.channels, grad_output.channels);
    let mut result = vec![T::zero(); window.kernel_size[0] * window.kernel_size[1] * ins * outs];
    result.par_chunks_mut(outs).enumerate().for_each(|(index, sums)| {
        let (q, i) = (index / ins, index % ins);
        let (qy, qx) = (q / window.kernel_size[1], q % window.kernel_size[1]);
        for image in 0..input.count() {
            for &(y_in, y_out) in &rows[qy] {
                let (values, gradients) = (input.row(image, y_in), grad_output.row(image, y_out));
                for (block, sums) in sums.chunks_mut(BLOCK).enumerate() {
                    let length = sums.len();
                    let factors = columns[qx].iter().map(|&(x_in, x_out)| {
                        (values[x_in * ins + i], &gradients[x_out * outs + block * BLOCK..][..length])
                    });
                    add_scaled(sums, factors);
                }
            }
        }
    });
    result
}

/// `sums += factor · vector` for each pair; at most [`BLOCK`] sums.
fn add_scaled<'a, T: Real>(sums: &mut [T], factors: impl Iterator<Item = (T, &'a [T])>) {
    if let Ok(block) = <&mut [T; BLOCK]>::try_from(&mut *sums) {
        let mut kept = *block;
        for (factor, vector) in factors {
            for (sum, &value) in kept.iter_mut().zip(vector) {
                *sum += factor * value;
            }
        }
        *block = kept;
    } else {
        for (factor, vector) in factors {
            for (sum, &value) in sums.iter_mut().zip(vector) {
                *sum += factor * value;
            }
        }
    }
}

/// The weight `[kh, kw, in, out]` as `[kh, kw, out, in]`.
pub(in crate::ops) fn turned<T: Real>(weight: &[T], ins: usize, outs: usize) -> Vec<T> {
    let mut turned = Vec::with_capacity(weight.len());
    for matrix in weight.chunks_exact(ins * outs) {
        for o in 0..outs {
            turned.extend((0..ins).map(|i| matrix[i * outs + o]));
        }
    }
    turned
}

/// A weight `[kh, kw, c_in, c_out]` for an input `[n, h, w, c_in]`, and a bias `[c_out]` if there is one; in words what is wrong.
pub(in crate::ops) fn check_inputs(inputs: &[TensorType]) -> Result<(), String> {
    let ([x, weight] | [x, weight, _]) = inputs else {
        return Err(format!("expected an input, a weight and perhaps a bias, got {} tensors", inputs.len()));
    };
    if let Some(other) = inputs[1..].iter().find(|input| input.dtype != DType::F32) {
        return Err(format!("expected a weight and a bias of f32, got {other}"));
    }
    if !x.dtype.is_float() {
        return Err(format!("expected float tensors, got {x}"));
    }
    let (&[_, _, _, channels], &[_, _, c_in, c_out]) = (x.shape.extents(), weight.shape.extents()) else {
        let (x, weight) = (&x.shape, &weight.shape);
        return Err(format!("expected an input [n, h, w, c] and a weight [kh, kw, c_in, c_out], got {x} and {weight}"));
    };
    if channels != c_in {
        return Err(format!("weight expects {c_in} input channels, the input has {channels}"));
    }
    match inputs.get(2) {
        Some(bias) if bias.shape.extents() != [c_out] => {
            Err(format!("weight has {c_out} output channels, the bias has shape {:?}", bias.shape.extents()))
        }
        _ => Ok(()),
    }
}

/// The extents of the inputs of a gradient op: two float tensors of rank 4, the first of `f32` or stored as the second.
pub(in crate::ops) fn two_of_rank_4(inputs: &[TensorType]) -> Result<([usize; 4], [usize; 4]), String> {
    if let [a, b] = inputs
        && [DType::F32, b.dtype].contains(&a.dtype)
        && b.dtype.is_float()
        && let (Ok(a), Ok(b)) = (a.shape.extents().try_into(), b.shape.extents().try_into())
    {
        return Ok((a, b));
    }
    Err(format!("expected two float tensors of rank 4, got {inputs:?}"))
}

/// Two neighbouring extents.
pub(in crate::ops) fn extents_of(tensor: &TensorType, first: usize) -> [usize; 2] {
    let extents = tensor.shape.extents();
    [extents[first], extents[first + 1]]
}

/// Images of these extents and channels, as many as `like` has.
pub(in crate::ops) fn images_like<T: Real>(
    like: &Array<T>,
    extents: [usize; 2],
    channels: usize,
    data: Vec<T>,
) -> Vec<Tensor<T>> {
    let shape = Shape::new([like.shape.extents()[0], extents[0], extents[1], channels]);
    shape.and_then(|shape| Array::new(shape, data)).map(Tensor::Float).into_iter().collect()
}
