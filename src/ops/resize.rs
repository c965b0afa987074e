//! `resize`: images of another size, by bilinear or nearest interpolation, and the gradient by gathering.

use crate::array::{Array, Real, Tensor};
use crate::error::Result;
use crate::graph::{Graph, NodeId};
use crate::kernel;
use crate::onnx::{Attribute, Translation, Value};
use crate::op::{
    Backward, Binding, Bound, ByImage, Candidate, Case, DeviceProfile, Dispatch, Fill, Kernel, Op, Param, UNIT_ROUNDOFF,
};
use crate::ops::softmax::compound;
use crate::ops::{image, in_both_precisions, turns, zeros};
use crate::shape::TensorType;
use rayon::prelude::*;
use std::sync::Arc;

/// Which pixels of x a pixel of the result is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeMode {
    /// The four around its place, by their distances; with `align_corners` the middles of the corner pixels keep their places, otherwise
    /// the corners of the image.
    Bilinear {
        /// Places are i (n − 1) / (o − 1) rather than max(0, (i + ½) n / o − ½), from o pixels to n.
        align_corners: bool,
    },
    /// That at ⌊i n / o⌋.
    Nearest,
}

/// x `[n, h, w, c]` as images of other extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resize {
    /// Height and width of the result.
    pub extents: [usize; 2],
    /// How its pixels are made.
    pub mode: ResizeMode,
}

/// The gradient of x: for each of its pixels, the sum over the result's of its share in them times their gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResizeGrad {
    /// The op.
    pub resize: Resize,
    /// Height and width of x.
    pub in_extents: [usize; 2],
}

/// Places are integers below 2³²: extents up to this.
const LARGEST_EXTENT: usize = 1 << 15;

impl Graph {
    /// x in other extents, by bilinear interpolation; `align_corners` as in [`ResizeMode`].
    ///
    /// # Errors
    /// When x is not a batch of images, or an extent is 0 or above 32,768.
    pub fn resize_bilinear(
        &mut self,
        name: &str,
        x: NodeId,
        extents: [usize; 2],
        align_corners: bool,
    ) -> Result<NodeId> {
        self.apply(name, Resize { extents, mode: ResizeMode::Bilinear { align_corners } }, &[x])
    }

    /// x in other extents, each pixel as the nearest.
    ///
    /// # Errors
    /// As [`Graph::resize_bilinear`].
    pub fn resize_nearest(&mut self, name: &str, x: NodeId, extents: [usize; 2]) -> Result<NodeId> {
        self.apply(name, Resize { extents, mode: ResizeMode::Nearest }, &[x])
    }
}

/// Along one axis, pixel i of the result lies at (step · i + ahead − back) / unit of x, but not before 0.
#[derive(Clone, Copy, Debug)]
struct Axis {
    from: usize,
    to: usize,
    step: usize,
    ahead: usize,
    back: usize,
    unit: usize,
    nearest: bool,
}

impl Axis {
    fn new(mode: ResizeMode, from: usize, to: usize) -> Self {
        let nearest = mode == ResizeMode::Nearest;
        let (step, ahead, back, unit) = match mode {
            ResizeMode::Bilinear { align_corners: true } if to == 1 => (0, 0, 0, 1),
            ResizeMode::Bilinear { align_corners: true } => (from - 1, 0, 0, to - 1),
            ResizeMode::Bilinear { align_corners: false } => (2 * from, from, to, 2 * to),
            ResizeMode::Nearest => (from, 0, 0, to),
        };
        Self { from, to, step, ahead, back, unit, nearest }
    }

    /// Both axes.
    fn both(mode: ResizeMode, from: [usize; 2], to: [usize; 2]) -> [Self; 2] {
        [0, 1].map(|axis| Self::new(mode, from[axis], to[axis]))
    }

    /// The pixels of x that a pixel of the result is made of, and the share of each.
    fn parts<T: Real>(&self, i: usize) -> [(usize, T); 2] {
        let place = (self.step * i + self.ahead).saturating_sub(self.back);
        let fraction =
            if self.nearest { T::zero() } else { T::from_f64((place % self.unit) as f64 / self.unit as f64) };
        let first = place / self.unit;
        [(first, T::one() - fraction), ((first + 1).min(self.from - 1), fraction)]
    }

    /// For each pixel of x, the result's pixels that it has a part in, in order, with its share.
    fn shares<T: Real>(&self) -> Vec<Vec<(usize, T)>> {
        let mut shares = vec![Vec::<(usize, T)>::new(); self.from];
        for i in 0..self.to {
            for (pixel, share) in self.parts::<T>(i) {
                match shares[pixel].last_mut() {
                    Some((same, sum)) if *same == i => *sum += share,
                    _ => shares[pixel].push((i, share)),
                }
            }
        }
        shares
    }
}

impl Resize {
    fn check(&self, x: &TensorType) -> Result<[usize; 4], String> {
        let image = x.shape.image()?;
        let [_, h, w, _] = image;
        let [height, width] = self.extents;
        if !x.dtype.is_float() {
            return Err(format!("expected images of floats, got {x}"));
        }
        if [h, w, height, width].iter().any(|extent| !(1..=LARGEST_EXTENT).contains(extent)) {
            return Err(format!("extents must be 1 to {LARGEST_EXTENT}, got {h}×{w} and {height}×{width}"));
        }
        Ok(image)
    }

    fn dispatch(
        &self,
        kernel: Kernel,
        channels: usize,
        in_extents: [usize; 2],
        output: &TensorType,
        device: &DeviceProfile,
    ) -> Candidate {
        let [y, x] = Axis::both(self.mode, in_extents, self.extents);
        let params: [(&'static str, Param); 13] = [
            ("channels", channels.into()),
            ("in_height", in_extents[0].into()),
            ("in_width", in_extents[1].into()),
            ("height", self.extents[0].into()),
            ("width", self.extents[1].into()),
            ("step_y", y.step.into()),
            ("step_x", x.step.into()),
            ("ahead_y", y.ahead.into()),
            ("ahead_x", x.ahead.into()),
            ("back_y", y.back.into()),
            ("back_x", x.back.into()),
            ("unit_y", y.unit.into()),
            ("unit_x", x.unit.into()),
        ];
        let bindings = vec![Binding::Input(0), Binding::Output];
        let dispatch = turns(kernel, bindings, output.shape.elements(), &params, device);
        let constants = vec![("NEAREST", (self.mode == ResizeMode::Nearest).to_string())];
        Dispatch { constants, ..dispatch }.into()
    }
}

impl Op for Resize {
    fn name(&self) -> &'static str {
        "resize"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [x] = inputs else { return Err(format!("expected one tensor, got {inputs:?}")) };
        let [n, _, _, c] = self.check(x)?;
        x.with_extents([n, self.extents[0], self.extents[1], c])
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let [_, h, w, c] = image(&inputs[0].tensor_type());
        let x = &inputs[0].float().data;
        let axes = Axis::both(self.mode, [h, w], self.extents);
        let mut y = zeros(self, inputs);
        y.data.par_chunks_mut(self.extents[1] * c).enumerate().for_each(|(row, y)| {
            let (n, lines) = (row / self.extents[0], axes[0].parts::<T>(row % self.extents[0]));
            for (i, y) in y.iter_mut().enumerate() {
                let columns = axes[1].parts::<T>(i / c);
                let at = |line: usize, column: usize| x[((n * h + line) * w + column) * c + i % c];
                let mixed = |line: usize| columns[0].1 * at(line, columns[0].0) + columns[1].1 * at(line, columns[1].0);
                *y = if axes[0].nearest {
                    at(lines[0].0, columns[0].0)
                } else {
                    lines[0].1 * mixed(lines[0].0) + lines[1].1 * mixed(lines[1].0)
                };
            }
        });
        vec![Tensor::Float(y)]
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let [_, h, w, c] = image(&inputs[0]);
        vec![self.dispatch(kernel!("resize/forward"), c, [h, w], output, device)]
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        let [_, h, w, _] = image(&backward.input_type(0));
        let grad_output = [backward.grad_output];
        Ok(vec![Some(backward.apply("grad_input", ResizeGrad { resize: *self, in_extents: [h, w] }, &grad_output)?)])
    }

    fn onnx(&self, translation: &mut Translation<'_>) -> Result<Value> {
        let x = translation.tensor(0)?;
        let sizes = translation.constant("sizes", &self.extents.map(|extent| extent as i64));
        let (mode, places) = match self.mode {
            ResizeMode::Bilinear { align_corners: true } => ("linear", "align_corners"),
            ResizeMode::Bilinear { align_corners: false } => ("linear", "half_pixel"),
            ResizeMode::Nearest => ("nearest", "asymmetric"),
        };
        let attributes = vec![
            Attribute::ints("axes", &[2, 3]),
            Attribute::string("mode", mode),
            Attribute::string("coordinate_transformation_mode", places),
            Attribute::string("nearest_mode", "floor"),
        ];
        Ok(translation.result("Resize", &[&x, "", "", &sizes], attributes))
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        let per_element = if self.mode == ResizeMode::Nearest { 0 } else { 9 };
        per_element * output.shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        if self.mode == ResizeMode::Nearest {
            return Bound::Exact;
        }
        // A fraction has a division of 2.5 ULP, the rest of it one rounding more: both are off by less than 6 u, as are their products
        // with values by 7 u of these. Then come a sum, another such product and a sum.
        let magnitudes = magnitudes(inputs[0].float());
        let sums = self.nearby(&magnitudes);
        Bound::Elements(sums.into_iter().map(|sum| compound(16.0 * UNIT_ROUNDOFF) * sum).collect())
    }
}

/// Absolute values.
fn magnitudes(array: &Array<f64>) -> Array<f64> {
    Array { shape: array.shape.clone(), data: array.data.iter().map(|value| value.abs()).collect() }
}

impl Resize {
    /// For each element of the result, the sum of the elements of x that it is made of.
    fn nearby(&self, x: &Array<f64>) -> Vec<f64> {
        let [n, h, w, c] = image(&Tensor::Float(x.clone()).tensor_type());
        let axes = Axis::both(self.mode, [h, w], self.extents);
        let mut sums = Vec::with_capacity(n * self.extents[0] * self.extents[1] * c);
        for row in 0..n * self.extents[0] {
            let (n, lines) = (row / self.extents[0], axes[0].parts::<f64>(row % self.extents[0]));
            for i in 0..self.extents[1] * c {
                let columns = axes[1].parts::<f64>(i / c);
                let pairs = lines.iter().flat_map(|(line, _)| columns.iter().map(move |(column, _)| (line, column)));
                sums.push(pairs.map(|(line, column)| x.data[((n * h + line) * w + column) * c + i % c]).sum());
            }
        }
        sums
    }
}

impl ResizeGrad {
    /// For each element of x, the sum over `term` of its share and the gradient of what it has a part in.
    fn gather<T: Real>(&self, grad: &Array<T>, term: impl Fn(T, T) -> T + Sync) -> Vec<T> {
        let (height, width, c) = (self.resize.extents[0], self.resize.extents[1], grad.shape.channels());
        let axes = Axis::both(self.resize.mode, self.in_extents, self.resize.extents);
        let [lines, columns] = [0, 1].map(|axis: usize| axes[axis].shares::<T>());
        let n = grad.shape.pixels() / (height * width);
        let rows = (0..n * self.in_extents[0]).into_par_iter();
        let row = |row: usize| -> Vec<T> {
            let (image, line) = (row / self.in_extents[0] * height, &lines[row % self.in_extents[0]]);
            let element = |i: usize| -> T {
                let of_line = |&(oy, line_share): &(usize, T)| -> T {
                    let at = |ox: usize| grad.data[((image + oy) * width + ox) * c + i % c];
                    columns[i / c].iter().map(|&(ox, share)| term(line_share * share, at(ox))).sum()
                };
                line.iter().map(of_line).sum()
            };
            (0..self.in_extents[1] * c).map(element).collect()
        };
        rows.flat_map_iter(row).collect()
    }
}

impl Op for ResizeGrad {
    fn name(&self) -> &'static str {
        "resize_grad"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [grad] = inputs else { return Err(format!("expected one tensor, got {inputs:?}")) };
        let [n, h, w, c] = grad.shape.image()?;
        if [h, w] != self.resize.extents {
            return Err(format!("the gradient {grad} is not that of {:?}", self.resize));
        }
        let x = grad.with_extents([n, self.in_extents[0], self.in_extents[1], c])?;
        self.resize.check(&x).map(|_| x)
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let mut grad_input = zeros(self, inputs);
        grad_input.data = self.gather(inputs[0].float(), |share, grad| share * grad);
        vec![Tensor::Float(grad_input)]
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let channels = inputs[0].shape.channels();
        vec![self.resize.dispatch(kernel!("resize/grad_input"), channels, self.in_extents, output, device)]
    }

    fn flops(&self, inputs: &[TensorType], _: &TensorType) -> u64 {
        // Each element of the gradient reaches four pixels, by two products and a sum each.
        12 * inputs[0].shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        // As in the forward pass a share is off by less than 6 u along each axis; two products and the additions follow.
        let grad = inputs[0].float();
        let sums = self.gather(&magnitudes(grad), |_, grad| grad);
        let counts = self.gather(&Array::filled(grad.shape.clone(), 1.0), |_, one| one);
        let bound = |(sum, count): (f64, f64)| compound((14.0 + count) * UNIT_ROUNDOFF) * sum;
        Bound::Elements(sums.into_iter().zip(counts).map(bound).collect())
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for (x, extents, what) in [
        ([1, 1, 1, 1], [1, 1], "one pixel"),
        ([1, 1, 1, 2], [3, 5], "one pixel becomes many"),
        ([2, 3, 5, 3], [1, 1], "many become one, batch 2"),
        ([1, 4, 4, 1], [8, 8], "twice as large"),
        ([2, 5, 7, 3], [11, 4], "larger and smaller, batch 2"),
        ([1, 13, 11, 2], [5, 3], "smaller by more than two"),
        ([1, 6, 3, 5], [6, 3], "as large as before"),
        ([3, 1, 2, 16], [7, 2], "one row, batch 3"),
    ] {
        let x = TensorType::f32(x)?;
        for mode in [
            ResizeMode::Bilinear { align_corners: true },
            ResizeMode::Bilinear { align_corners: false },
            ResizeMode::Nearest,
        ] {
            cases.extend(cases_of(&x, Resize { extents, mode }, what)?);
        }
    }
    // Forward alone, then backward alone: each with its large side where the kernel has an invocation an element.
    let mode = ResizeMode::Bilinear { align_corners: false };
    let large =
        |x: [usize; 4], extents| cases_of(&TensorType::f32(x)?, Resize { extents, mode }, "past 65,535 workgroups");
    cases.extend(large([1, 511, 515, 4], [1021, 1031])?.into_iter().take(1));
    cases.extend(large([1, 1021, 1031, 4], [511, 515])?.into_iter().skip(1));
    Ok(in_both_precisions(cases))
}

/// Forward and backward.
fn cases_of(x: &TensorType, resize: Resize, what: &str) -> Result<Vec<Case>, String> {
    let [_, h, w, _] = x.shape.image()?;
    let name = format!("{x} to {:?} {:?}, {what}", resize.extents, resize.mode);
    let y = resize.output(std::slice::from_ref(x))?;
    Ok(vec![
        Case { name: name.clone(), op: Arc::new(resize), inputs: vec![(x.clone(), Fill::Normal(1.0))] },
        Case { name, op: Arc::new(ResizeGrad { resize, in_extents: [h, w] }), inputs: vec![(y, Fill::Normal(1.0))] },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resized(values: &[f64], to: usize, mode: ResizeMode) -> Vec<f64> {
        let shape = TensorType::f32([1, 1, values.len(), 1]).unwrap().shape;
        let x = Array::new(shape, values.to_vec()).unwrap().into();
        Resize { extents: [1, to], mode }.reference(&[&x])[0].float().data.clone()
    }

    #[test]
    fn a_row_is_resized_as_the_formulas_say() {
        let bilinear = |align_corners| ResizeMode::Bilinear { align_corners };
        let close = |found: Vec<f64>, expected: &[f64]| {
            let worst = found.iter().zip(expected).fold(0.0_f64, |worst, (a, b)| worst.max((a - b).abs()));
            assert!(found.len() == expected.len() && worst < 1e-15, "{found:?} {expected:?}");
        };
        close(resized(&[0.0, 3.0], 4, bilinear(true)), &[0.0, 1.0, 2.0, 3.0]);
        close(resized(&[0.0, 4.0], 4, bilinear(false)), &[0.0, 1.0, 3.0, 4.0]);
        close(resized(&[0.0, 1.0, 2.0, 3.0], 2, bilinear(false)), &[0.5, 2.5]);
        close(resized(&[5.0, 6.0, 7.0], 1, bilinear(true)), &[5.0]);
        close(resized(&[1.0, 2.0, 3.0], 5, ResizeMode::Nearest), &[1.0, 1.0, 2.0, 2.0, 3.0]);
    }

    #[test]
    fn extents_that_make_no_sense_are_refused() {
        let mut graph = Graph::new();
        let x = graph.input("x", TensorType::f32([1, 4, 4, 1]).unwrap());
        for extents in [[0, 4], [4, 40_000]] {
            let message = graph.resize_bilinear("up", x, extents, true).unwrap_err().to_string();
            assert!(message.contains("resize `up`: extents must be 1 to 32768"), "{message}");
        }
    }
}
