//! `max_pool2d`: the maximum of each k×k window, and its gradient by finding the maximum again.

use crate::array::{Real, Tensor};
use crate::error::Result;
use crate::graph::{Graph, NodeId};
use crate::kernel;
use crate::onnx::{Attribute, Translation, Value};
use crate::op::{
    Backward, Binding, Bound, ByImage, Candidate, Case, DeviceProfile, Dispatch, Fill, Kernel, Op, Param, UNIT_ROUNDOFF,
};
use crate::ops::{Add, Pad, ReluGrad, aliases, channels_at_once, image, in_both_precisions, turns, zeros};
use crate::shape::TensorType;
use rayon::prelude::*;
use std::sync::Arc;

/// y[n, oy, ox, c] = max over r, s < k of x[n, oy·k + r, ox·k + s, c]; rows and columns that fill no window are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool2d {
    /// Side of the windows, which do not overlap: kernel size and stride in one.
    pub kernel_size: usize,
}

/// dx is dy at the first maximum of each window in row-major order, else 0; inputs x and dy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool2dGrad {
    /// As in [`MaxPool2d`].
    pub kernel_size: usize,
}

/// The gradient of a ReLU whose result x is pooled, and used as a skip, whole or cropped: the gradients of both uses, added, and 0
/// where x ≤ 0; inputs x, the gradient of the pooled images and that of what is left by the crop. See [`crate::fuse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool2dGradSkip {
    /// The gradient of the pooling.
    pub pool: MaxPool2dGrad,
    /// The gradient of the crop: zeros around that of what is left. No margins of channels.
    pub crop: Pad,
}

impl Graph {
    /// The maximum of each window of `kernel_size` × `kernel_size` pixels.
    ///
    /// # Errors
    /// When x is not a batch of images, or no window fits.
    pub fn max_pool2d(&mut self, name: &str, x: NodeId, kernel_size: usize) -> Result<NodeId> {
        self.apply(name, MaxPool2d { kernel_size }, &[x])
    }
}

/// The type of the pooled images.
fn pooled(x: &TensorType, kernel_size: usize) -> Result<TensorType, String> {
    let [n, h, w, c] = x.shape.image()?;
    if !x.dtype.is_float() {
        return Err(format!("expected images of floats, got {x}"));
    }
    if kernel_size == 0 || h < kernel_size || w < kernel_size {
        return Err(format!("a window of {kernel_size}×{kernel_size} pixels does not fit into images of {h}×{w}"));
    }
    x.with_extents([n, h / kernel_size, w / kernel_size, c])
}

/// One invocation per element of [n, rows, columns, c], where rows and columns count windows; `params` are added to those that all
/// kernels have.
fn dispatch(
    kernel: Kernel,
    bindings: Vec<Binding>,
    kernel_size: usize,
    x: &TensorType,
    [rows, columns]: [usize; 2],
    params: &[(&'static str, Param)],
    device: &DeviceProfile,
) -> Dispatch {
    let [n, h, w, c] = image(x);
    let at_once = channels_at_once(&[c]);
    let c = c / at_once;
    let own = [
        ("in_height", h.into()),
        ("in_width", w.into()),
        ("out_height", (h / kernel_size).into()),
        ("out_width", (w / kernel_size).into()),
        ("channels", c.into()),
    ];
    let params = [&own, params].concat();
    let mut constants = aliases(kernel, at_once);
    constants.push(("KERNEL_SIZE", format!("{kernel_size}u")));
    Dispatch { constants, ..turns(kernel, bindings, n * rows * columns * c, &params, device) }
}

/// The gradient of the pooling, from x and the gradient of the pooled images; with the gradient of a skip behind them, of the ReLU before.
fn gradient(kernel_size: usize, crop: Pad, inputs: &[TensorType], device: &DeviceProfile) -> Candidate {
    let [_, h, w, _] = image(&inputs[0]);
    let skip = inputs.get(2);
    let [_, crop_height, crop_width, _] = skip.map_or([0; 4], image);
    let [top, left, _] = crop.before.map(|margin| Param::U32(margin.cast_unsigned()));
    let params = [("crop_height", crop_height.into()), ("crop_width", crop_width.into()), ("top", top), ("left", left)];
    let skip_or_any = Binding::Input(inputs.len() - 1);
    let bindings = vec![Binding::Input(0), Binding::Input(1), skip_or_any, Binding::Output];
    let windows = [h.div_ceil(kernel_size), w.div_ceil(kernel_size)];
    let kernel = kernel!("max_pool2d/grad_input");
    let mut dispatch = dispatch(kernel, bindings, kernel_size, &inputs[0], windows, &params, device);
    dispatch.constants.push(("SKIP", format!("{}u", u8::from(skip.is_some()))));
    dispatch.into()
}

impl Op for MaxPool2d {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [x] => pooled(x, self.kernel_size),
            _ => Err(format!("expected one tensor, got {inputs:?}")),
        }
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (x, k) = (inputs[0].float(), self.kernel_size);
        let [_, h, w, c] = image(&inputs[0].tensor_type());
        let (rows, columns) = (h / k, w / k);
        let mut y = zeros(self, inputs);
        y.data.par_chunks_mut(columns * c).enumerate().for_each(|(row, y)| {
            let top = row / rows * h + row % rows * k;
            for (ox, y) in y.chunks_mut(c).enumerate() {
                for r in 0..k {
                    for s in 0..k {
                        let x = &x.data[((top + r) * w + ox * k + s) * c..][..c];
                        for (y, &x) in y.iter_mut().zip(x) {
                            if (r, s) == (0, 0) || x > *y {
                                *y = x;
                            }
                        }
                    }
                }
            }
        });
        vec![Tensor::Float(y)]
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let [_, h, w, _] = image(&inputs[0]);
        let bindings = vec![Binding::Input(0), Binding::Output];
        let windows = [h / self.kernel_size, w / self.kernel_size];
        let kernel = kernel!("max_pool2d/forward");
        vec![dispatch(kernel, bindings, self.kernel_size, &inputs[0], windows, &[], device).into()]
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        let inputs = [backward.inputs[0], backward.grad_output];
        let op = MaxPool2dGrad { kernel_size: self.kernel_size };
        Ok(vec![Some(backward.apply("grad_input", op, &inputs)?)])
    }

    fn onnx(&self, translation: &mut Translation<'_>) -> Result<Value> {
        let (x, extents) = (translation.tensor(0)?, [self.kernel_size; 2]);
        let attributes = vec![Attribute::ints("kernel_shape", &extents), Attribute::ints("strides", &extents)];
        Ok(translation.result("MaxPool", &[&x], attributes))
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        (output.shape.elements() * self.kernel_size * self.kernel_size) as u64
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Exact
    }
}

impl Op for MaxPool2dGrad {
    fn name(&self) -> &'static str {
        "max_pool2d_grad"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [x, grad] if *grad == pooled(x, self.kernel_size)? => Ok(x.clone()),
            _ => Err(format!("expected images and the gradient of their pooled form, got {inputs:?}")),
        }
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0, 1])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (x, grad, k) = (inputs[0].float(), inputs[1].float(), self.kernel_size);
        let [_, h, w, c] = image(&inputs[0].tensor_type());
        let (rows, columns) = (h / k, w / k);
        let mut dx = zeros(self, inputs);
        for (n, dx) in dx.data.chunks_mut(h * w * c).enumerate() {
            // A band holds a row of windows; what is below the last one keeps its zeros.
            dx.par_chunks_mut(k * w * c).enumerate().take(rows).for_each(|(oy, band)| {
                let x = &x.data[(n * h + oy * k) * w * c..][..k * w * c];
                let grad = &grad.data[(n * rows + oy) * columns * c..][..columns * c];
                for (i, &grad) in grad.iter().enumerate() {
                    let (ox, channel) = (i / c, i % c);
                    let at = |r: usize, s: usize| (r * w + ox * k + s) * c + channel;
                    let mut first = at(0, 0);
                    for r in 0..k {
                        for s in 0..k {
                            if x[at(r, s)] > x[first] {
                                first = at(r, s);
                            }
                        }
                    }
                    band[first] = grad;
                }
            });
        }
        vec![Tensor::Float(dx)]
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        vec![gradient(self.kernel_size, Pad::default(), inputs, device)]
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        output.shape.elements() as u64
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Exact
    }
}

impl Op for MaxPool2dGradSkip {
    fn name(&self) -> &'static str {
        "max_pool2d_grad_skip"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [x, pooled, skip] = inputs else { return Err(format!("expected three tensors, got {inputs:?}")) };
        match (self.pool.output(&[x.clone(), pooled.clone()])?, self.crop.output(std::slice::from_ref(skip))?) {
            (x, cropped) if x == cropped && self.crop.keeps_channels() => Ok(x),
            (x, cropped) => Err(format!("what is pooled is {x}, what is cropped {cropped}, to {skip}")),
        }
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0, 1, 2])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (skip, pool) = (self.crop.reference(&inputs[2..]), self.pool.reference(&inputs[..2]));
        let sum = Add.reference(&[&skip[0], &pool[0]]);
        ReluGrad.reference(&[inputs[0], &sum[0]])
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        vec![gradient(self.pool.kernel_size, self.crop, inputs, device)]
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        self.pool.flops(&[], output) + Add.flops(&[], output) + ReluGrad.flops(&[], output)
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Relative(UNIT_ROUNDOFF)
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for (extents, kernel_size, fill, what) in [
        ([1, 1, 1, 1], 1, Fill::Normal(1.0), "one element"),
        ([1, 2, 2, 1], 2, Fill::Constant(0.5), "one window, all equal"),
        ([1, 16, 16, 1], 2, Fill::Normal(1.0), "one workgroup"),
        ([1, 2, 130, 1], 2, Fill::Ties, "one over, ties"),
        ([2, 7, 5, 3], 2, Fill::Ties, "odd sizes, batch 2, ties"),
        ([2, 6, 4, 3], 2, Fill::Ties, "even sizes, batch 2, ties"),
        ([3, 11, 13, 5], 3, Fill::Ties, "prime sizes, window 3, ties"),
        ([3, 6, 9, 1], 3, Fill::Normal(1.0), "multiples of 3, batch 3, window 3"),
        ([1, 9, 4, 2], 4, Fill::Normal(1e20), "window 4, huge values"),
        ([2, 7, 5, 12], 2, Fill::Ties, "fours, odd sizes, batch 2, ties"),
        ([1, 1021, 1379, 3], 1, Fill::Ties, "past 65,535 workgroups"),
    ] {
        let x = TensorType::f32(extents)?;
        let y = pooled(&x, kernel_size)?;
        let name = format!("{what}: {x}, kernel size {kernel_size}");
        let op = Arc::new(MaxPool2d { kernel_size });
        cases.push(Case { name: name.clone(), op, inputs: vec![(x.clone(), fill)] });
        let pool = MaxPool2dGrad { kernel_size };
        let inputs = vec![(x.clone(), fill), (y, Fill::Normal(1.0))];
        cases.push(Case { name: name.clone(), op: Arc::new(pool), inputs: inputs.clone() });
        // The crop is as large as x, or smaller by one row and two columns.
        let [n, h, w, c] = extents;
        for [crop_height, crop_width] in [[h, w], [(h - 1).max(1), w.saturating_sub(2).max(1)]] {
            let crop = Pad::centred([crop_height, crop_width], [h, w]);
            let skip = TensorType::f32([n, crop_height, crop_width, c])?;
            let inputs = [&inputs[..], &[(skip, Fill::Normal(1.0))]].concat();
            let name = format!("{name}, crop {crop_height}×{crop_width}");
            cases.push(Case { name, op: Arc::new(MaxPool2dGradSkip { pool, crop }), inputs });
        }
    }
    Ok(in_both_precisions(cases))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Array;

    #[test]
    fn the_first_of_equal_maxima_takes_the_gradient_and_dropped_pixels_none() {
        let x = Array::new(
            TensorType::f32([1, 3, 5, 1]).unwrap().shape,
            vec![
                1.0, 1.0, 0.0, 2.0, 9.0, //
                1.0, 1.0, 2.0, 2.0, 9.0, //
                9.0, 9.0, 9.0, 9.0, 9.0,
            ],
        );
        let grad = Array::new(TensorType::f32([1, 1, 2, 1]).unwrap().shape, vec![5.0, 7.0]);
        let (x, grad): (Tensor<f32>, Tensor<f32>) = (x.unwrap().into(), grad.unwrap().into());
        assert_eq!(MaxPool2d { kernel_size: 2 }.reference(&[&x])[0].float().data, [1.0, 2.0]);
        let dx = MaxPool2dGrad { kernel_size: 2 }.reference(&[&x, &grad]);
        let expected = [5.0, 0.0, 0.0, 7.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(dx[0].float().data, expected);
    }

    #[test]
    fn windows_that_do_not_fit_are_refused() {
        let mut graph = Graph::new();
        let x = graph.input("image", TensorType::f32([1, 3, 2, 1]).unwrap());
        for kernel_size in [0, 3] {
            let message = graph.max_pool2d("pool", x, kernel_size).unwrap_err().to_string();
            assert!(message.starts_with("max_pool2d `pool`: a window of") && message.contains("3×2"), "{message}");
        }
    }
}
