//! `conv2d`: convolution (cross-correlation) of images with zero padding, and its gradients.

mod few;
pub(super) mod fused;
mod head;
pub(super) mod launch;
pub(super) mod loops;
mod matrix;
mod tiled;
mod winograd;
mod winograd_gradient;

use self::fused::ThroughRelu;
pub use self::fused::{Conv2dRelu, ThenReluGrad};
use self::launch::{Epilogue, Geometry, Tile, candidates, in_parts, lanes, parts};
use self::loops::{
    Images, Side, Window, check_inputs, extents_of, images_like, sum_of_products, turned, two_of_rank_4,
    weight_gradient,
};
use self::winograd::Winograd;
use crate::array::{Array, Real, Tensor};
use crate::error::Result;
use crate::graph::{Graph, NodeId};
use crate::kernel;
use crate::onnx::{Translation, Value};
use crate::op::{
    Backward, Binding, Bound, ByImage, Candidate, Case, DeviceProfile, Dispatch, Fill, Op, Proof, workgroup_grid,
};
use crate::ops::{aliases, channels_at_once, halved, one_activation};
use crate::shape::{DType, Shape, TensorType};
use rayon::prelude::*;
use std::sync::Arc;

/// `y[n, p, o] = bias[o] + Σ weight[q, i, o] · x[n, stride · p + q − padding, i]`, x being zero outside; inputs x
/// `[n, h, w, c_in]`, weight `[kh, kw, c_in, c_out]` and, optionally, bias `[c_out]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// How many positions the weight moves from one pixel of the result to the next: rows, columns.
    pub stride: [usize; 2],
    /// How many zeros surround x on each side: rows, columns.
    pub padding: [usize; 2],
}

impl Default for Conv2d {
    fn default() -> Self {
        Self { stride: [1, 1], padding: [0, 0] }
    }
}

/// The gradient of [`Conv2d`] with respect to x; inputs weight and the gradient of y.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dGradInput {
    /// The convolution.
    pub conv: Conv2d,
    /// Height and width of x, which those of y do not determine.
    pub in_extents: [usize; 2],
}

/// The gradient of [`Conv2d`] with respect to weight; inputs x and the gradient of y.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dGradWeight {
    /// The convolution.
    pub conv: Conv2d,
    /// Height and width of the weight, which those of x and y do not determine.
    pub kernel_size: [usize; 2],
}

/// Input channels that a lane of the weight gradient's plain kernel owns.
const CHANNELS: usize = 4;

/// The reference sums a bias's gradient over blocks of so many pixels, then over the blocks: the order does not depend on threads.
const BLOCK: usize = 1024;

/// The gradient of a convolution's bias: the sum of the gradient of y over all pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dGradBias;

impl Graph {
    /// The convolution of x `[n, h, w, c_in]` with a weight `[kh, kw, c_in, c_out]`.
    ///
    /// # Errors
    /// When the shapes do not fit each other.
    pub fn conv2d(
        &mut self,
        name: &str,
        x: NodeId,
        weight: NodeId,
        bias: Option<NodeId>,
        conv: Conv2d,
    ) -> Result<NodeId> {
        let inputs: Vec<NodeId> = [x, weight].into_iter().chain(bias).collect();
        self.apply(name, conv, &inputs)
    }
}

impl Conv2d {
    fn window(self, kernel_size: [usize; 2]) -> Window {
        Window { kernel_size, stride: self.stride, padding: self.padding }
    }

    fn window_of(self, weight: &Shape) -> Window {
        self.window([weight.extents()[0], weight.extents()[1]])
    }

    /// [`Op::candidates`], of the convolution or of its ReLU.
    fn activated_candidates(
        &self,
        inputs: &[TensorType],
        output: &TensorType,
        device: &DeviceProfile,
        relu: bool,
    ) -> Vec<Candidate> {
        let geometry = Geometry::new(self.window_of(&inputs[1].shape), &inputs[0], output);
        let Geometry { batch, out_extents, out_channels, .. } = geometry;
        let bias = (inputs.len() == 3).then_some(Binding::Input(2));
        let tile = Tile::plain(out_channels, device);
        let flags = [("BIAS", usize::from(bias.is_some())), ("RELU", usize::from(relu))];
        let bindings = vec![Binding::Input(0), Binding::Input(1), bias.unwrap_or(Binding::Input(1)), Binding::Output];
        let workgroups = tile.workgroups(batch, out_extents, [1, 1], out_channels);
        let constants = [&tile.constants()[..], &flags].concat();
        let plain = geometry.dispatch(kernel!("conv2d/forward"), &constants, bindings, &[], workgroups);
        let epilogue = if relu { Epilogue::Relu } else { Epilogue::None };
        let subgroup = geometry.products_by_pairs(Side::Fine, false, bias, epilogue, device);
        let subgroup = subgroup.or_else(|| geometry.forward_of_few_by_shuffles(bias, epilogue, device));
        let tiled = geometry.products_by_tiles(Side::Fine, false, bias, epilogue);
        let plain = geometry.forward_of_few(bias, epilogue).into_iter().chain([plain.into()]);
        let direct = candidates(device, plain, subgroup, tiled);
        let direct = geometry.forward_of_head(bias, epilogue).into_iter().chain(direct).collect();
        let mut all = geometry.with_winograd(direct, false, bias, epilogue, device);
        all.extend(geometry.products_by_matrices(inputs[0].dtype, false, bias, epilogue, device));
        all
    }
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        check_inputs(inputs)?;
        let (x, weight) = (inputs[0].shape.extents(), &inputs[1].shape);
        let window = self.window_of(weight);
        window.check()?;
        let [height, width] = window.coarse([x[1], x[2]])?;
        inputs[0].with_extents([x[0], height, width, weight.channels()])
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (x, weight) = (inputs[0].float(), inputs[1].float());
        let bias = inputs.get(2).map(|bias| bias.float().data.as_slice());
        let window = self.window_of(&weight.shape);
        let images = Images::of(x);
        let Ok(extents) = window.coarse(images.extents) else { return vec![] };
        let data = sum_of_products(&window, images, Side::Fine, &weight.data, extents, bias);
        images_like(x, extents, weight.shape.channels(), data)
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        self.activated_candidates(inputs, output, device, false)
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        let (x, weight) = (backward.input_type(0).shape, backward.input_type(1).shape);
        let &[x_node, weight_node, ..] = backward.inputs else { return Ok(vec![]) };
        let (conv, grad_output) = (*self, backward.grad_output);
        let mut gradients = vec![None; backward.inputs.len()];
        if backward.needs[0] {
            let op = Conv2dGradInput { conv, in_extents: [x.extents()[1], x.extents()[2]] };
            gradients[0] = Some(backward.apply("grad_input", op, &[weight_node, grad_output])?);
        }
        if backward.needs[1] {
            let op = Conv2dGradWeight { conv, kernel_size: self.window_of(&weight).kernel_size };
            gradients[1] = Some(backward.apply("grad_weight", op, &[x_node, grad_output])?);
        }
        if backward.needs.get(2) == Some(&true) {
            gradients[2] = Some(backward.apply("grad_bias", Conv2dGradBias, &[grad_output])?);
        }
        Ok(gradients)
    }

    fn onnx(&self, translation: &mut Translation<'_>) -> Result<Value> {
        let window = self.window_of(&translation.input_type(1)?.shape);
        window.onnx("Conv", translation)
    }

    fn proof(&self) -> Option<Proof> {
        Some(Proof::of::<Self>())
    }

    fn flops(&self, inputs: &[TensorType], output: &TensorType) -> u64 {
        let geometry = Geometry::new(self.window_of(&inputs[1].shape), &inputs[0], output);
        geometry.flops(geometry.out_extents)
    }

    fn bound(&self, inputs: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        let weight = &inputs[1].float().shape;
        Bound::Terms(weight.elements() / weight.channels() + 1)
    }

    fn candidate_bound(
        &self,
        candidate: &Candidate,
        inputs: &[&Tensor<f64>],
        output: &Tensor<f64>,
        _: usize,
    ) -> Option<Bound> {
        let (x, weight) = (inputs[0].float(), inputs[1].float());
        let terms = weight.shape.elements() / weight.shape.channels() + 1;
        let Some(winograd) = Winograd::of(candidate) else {
            return matrix::bound(candidate, self, inputs, 1, terms);
        };
        let geometry = Geometry::new(self.window_of(&weight.shape), &inputs[0].tensor_type(), &output.tensor_type());
        let bias = inputs.get(2).map(|bias| bias.float().data.as_slice());
        Some(winograd.bound(&geometry, false, x, weight, bias))
    }
}

impl Op for Conv2dGradInput {
    fn name(&self) -> &'static str {
        "conv2d_grad_input"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let ([kh, kw, c_in, c_out], [n, h, w, c]) = two_of_rank_4(inputs)?;
        let window = self.conv.window([kh, kw]);
        window.check()?;
        let [height, width] = self.in_extents;
        if window.coarse(self.in_extents)? != [h, w] || c != c_out || inputs[0].dtype != DType::F32 {
            return Err(format!(
                "no convolution of [{n}, {height}, {width}, {c_in}] with {} gives {}",
                inputs[0], inputs[1]
            ));
        }
        inputs[1].with_extents([n, height, width, c_in])
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[1])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (weight, grad_output) = (inputs[0].float(), inputs[1].float());
        let &[_, _, c_in, c_out] = weight.shape.extents() else { return vec![] };
        let window = self.conv.window_of(&weight.shape);
        let matrices = turned(&weight.data, c_in, c_out);
        let images = Images::of(grad_output);
        let data = sum_of_products(&window, images, Side::Coarse, &matrices, self.in_extents, None);
        images_like(grad_output, self.in_extents, c_in, data)
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        self.masked_candidates(inputs, output, device, None)
    }

    fn proof(&self) -> Option<Proof> {
        Some(Proof::of::<Self>())
    }

    fn flops(&self, inputs: &[TensorType], output: &TensorType) -> u64 {
        let geometry = Geometry::new(self.conv.window_of(&inputs[0].shape), output, &inputs[1]);
        geometry.flops(geometry.out_extents)
    }

    fn bound(&self, inputs: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        let &[kh, kw, _, c_out] = inputs[0].float().shape.extents() else { return Bound::Exact };
        Bound::Terms(kh * kw * c_out)
    }

    fn candidate_bound(
        &self,
        candidate: &Candidate,
        inputs: &[&Tensor<f64>],
        output: &Tensor<f64>,
        _: usize,
    ) -> Option<Bound> {
        let (weight, grad_output) = (inputs[0].float(), inputs[1].float());
        let Some(winograd) = Winograd::of(candidate) else {
            let &[kh, kw, _, c_out] = weight.shape.extents() else { return None };
            return matrix::bound(candidate, self, inputs, 0, kh * kw * c_out);
        };
        let window = self.conv.window_of(&weight.shape);
        let geometry = Geometry::new(window, &output.tensor_type(), &inputs[1].tensor_type());
        Some(winograd.bound(&geometry, true, grad_output, weight, None))
    }
}

impl ThroughRelu for Conv2dGradInput {
    const NAME: &'static str = "conv2d_grad_input_relu_grad";

    fn masked_candidates(
        &self,
        inputs: &[TensorType],
        output: &TensorType,
        device: &DeviceProfile,
        mask: Option<Binding>,
    ) -> Vec<Candidate> {
        let geometry = Geometry::new(self.conv.window_of(&inputs[0].shape), output, &inputs[1]);
        let Geometry { batch, in_extents, in_channels, .. } = geometry;
        let tile = Tile::plain(in_channels, device);
        let bindings = vec![Binding::Input(1), Binding::Input(0), mask.unwrap_or(Binding::Input(1)), Binding::Output];
        let workgroups = tile.workgroups(batch, in_extents, self.conv.stride, in_channels);
        let constants = [&tile.constants()[..], &[("MASK", usize::from(mask.is_some()))]].concat();
        let plain = geometry.dispatch(kernel!("conv2d/grad_input"), &constants, bindings, &[], workgroups);
        let epilogue = mask.map_or(Epilogue::None, Epilogue::Mask);
        let by_pairs = geometry.products_by_pairs(Side::Coarse, true, None, epilogue, device);
        let tiled = geometry.products_by_tiles(Side::Coarse, true, None, epilogue);
        let direct = candidates(device, [plain.into()], by_pairs, tiled);
        let direct = geometry.input_gradient_of_head(epilogue).into_iter().chain(direct).collect();
        let mut all = geometry.with_winograd(direct, true, None, epilogue, device);
        all.extend(geometry.products_by_matrices(inputs[1].dtype, true, None, epilogue, device));
        all
    }
}

impl Op for Conv2dGradWeight {
    fn name(&self) -> &'static str {
        "conv2d_grad_weight"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let ([n, height, width, c_in], [n_out, h, w, c_out]) = two_of_rank_4(inputs)?;
        let window = self.conv.window(self.kernel_size);
        window.check()?;
        if window.coarse([height, width])? != [h, w] || n != n_out || inputs[0].dtype != inputs[1].dtype {
            let kernel_size = self.kernel_size;
            return Err(format!("no convolution of {} with a weight {kernel_size:?} gives {}", inputs[0], inputs[1]));
        }
        TensorType::f32([self.kernel_size[0], self.kernel_size[1], c_in, c_out])
    }

    fn by_image(&self) -> ByImage {
        ByImage::Summed(&[0, 1])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (x, grad_output) = (Images::of(inputs[0].float()), Images::of(inputs[1].float()));
        let window = self.conv.window(self.kernel_size);
        let data = weight_gradient(&window, x, Side::Fine, grad_output);
        let shape = Shape::new([self.kernel_size[0], self.kernel_size[1], x.channels, grad_output.channels]);
        shape.and_then(|shape| Array::new(shape, data)).map(Tensor::Float).into_iter().collect()
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let geometry = Geometry::new(self.conv.window(self.kernel_size), &inputs[0], &inputs[1]);
        let Geometry { batch, in_channels, out_extents, out_channels, .. } = geometry;
        let blocks = self.kernel_size[0] * in_channels.div_ceil(CHANNELS);
        let rows = batch * out_extents[0];
        let parts = parts(rows, out_extents[1], blocks * out_channels.div_ceil(16));
        let lanes = lanes(out_channels, 2, device);
        let plain = in_parts(parts, output.shape.elements(), |partial| {
            let constants = [("LANES", lanes), ("OUTPUTS", 2), ("CHANNELS", CHANNELS)];
            let bindings = vec![Binding::Input(0), Binding::Input(1), partial];
            let params = [("rows_per_part", rows.div_ceil(parts))];
            let workgroups = parts * blocks * out_channels.div_ceil(2 * lanes);
            geometry.dispatch(kernel!("conv2d/grad_weight"), &constants, bindings, &params, workgroups)
        });
        let subgroup = geometry.weight_gradient_by_pairs(Side::Fine, device);
        let subgroup = subgroup.or_else(|| geometry.weight_gradient_of_few_by_shuffles(device));
        let tiled = geometry.weight_gradient_by_tiles(Side::Fine).into_iter().chain(geometry.weight_gradient_of_few());
        let direct = candidates(device, [plain], subgroup, tiled);
        let direct = geometry.weight_gradient_of_head().into_iter().chain(direct).collect();
        let mut all = geometry.weight_gradient_with_winograd(direct, device);
        all.extend(geometry.weight_gradient_by_matrices(inputs[0].dtype, device));
        all
    }

    fn proof(&self) -> Option<Proof> {
        Some(Proof::of::<Self>())
    }

    fn flops(&self, inputs: &[TensorType], _: &TensorType) -> u64 {
        let geometry = Geometry::new(self.conv.window(self.kernel_size), &inputs[0], &inputs[1]);
        geometry.flops(geometry.out_extents)
    }

    fn bound(&self, inputs: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        let grad_output = &inputs[1].float().shape;
        Bound::Terms(grad_output.elements() / grad_output.channels())
    }

    fn candidate_bound(
        &self,
        candidate: &Candidate,
        inputs: &[&Tensor<f64>],
        _: &Tensor<f64>,
        _: usize,
    ) -> Option<Bound> {
        let winograd = Winograd::of(candidate)?;
        Some(winograd.weight_gradient_bound(self.conv.padding, inputs[0].float(), inputs[1].float()))
    }
}

impl Op for Conv2dGradBias {
    fn name(&self) -> &'static str {
        "conv2d_grad_bias"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        TensorType::f32([one_activation(inputs)?.shape.channels()])
    }

    fn by_image(&self) -> ByImage {
        ByImage::Summed(&[0])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let grad_output = inputs[0].float();
        let channels = grad_output.shape.channels();
        let sum_of = |pixels: &[T]| {
            let mut sums = vec![T::zero(); channels];
            for pixel in pixels.chunks_exact(channels) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += value;
                }
            }
            sums
        };
        let blocks: Vec<Vec<T>> = grad_output.data.par_chunks(BLOCK * channels).map(sum_of).collect();
        let sums = sum_of(&blocks.concat());
        Shape::new([channels]).and_then(|shape| Array::new(shape, sums)).map(Tensor::Float).into_iter().collect()
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let (elements, channels) = (inputs[0].shape.elements(), inputs[0].shape.channels());
        let pixels = elements / channels;
        let parts = parts(pixels, 1, 1);
        let pixels_per_part = pixels.div_ceil(parts);
        let (kernel, at_once) = (kernel!("conv2d/grad_bias"), channels_at_once(&[channels]));
        let lanes = lanes(channels, at_once, device);
        vec![in_parts(parts, channels, |partial| Dispatch {
            kernel,
            constants: [aliases(kernel, at_once), vec![("LANES", format!("{lanes}u"))]].concat(),
            bindings: vec![Binding::Input(0), partial],
            params: vec![
                ("pixels", pixels.into()),
                ("channels", (channels / at_once).into()),
                ("pixels_per_part", pixels_per_part.into()),
            ],
            workgroups: workgroup_grid(parts * channels.div_ceil(lanes * at_once)),
        })]
    }

    fn proof(&self) -> Option<Proof> {
        Some(Proof::of::<Self>())
    }

    fn flops(&self, inputs: &[TensorType], _: &TensorType) -> u64 {
        inputs[0].shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        let grad_output = &inputs[0].float().shape;
        Bound::Terms(grad_output.elements() / grad_output.channels())
    }
}

/// The cases that are computed from `f16`, too: kernels differ by loads and stores only, and each takes a driver long to compile.
const HALVED: [&str; 10] = [
    "one element",
    "one over",
    "primes, batch 2",
    "stride 2, padding 1",
    "head, two classes, gradient in two parts, batch 2",
    "few channels, past the lanes, batch 2",
    "pairs, exactly one tile",
    "tiles, exact, gradient in two parts",
    "matrices, oblong, padding, batch 2",
    "matrices in strips, padding 1, batch 2",
];

/// The forward pass of an op with weight, and its three gradients, at these shapes.
pub(super) fn cases() -> Result<Vec<Case>, String> {
    let unit = Conv2d::default();
    let with = |stride, padding| Conv2d { stride, padding };
    let mut cases = Vec::new();
    for (name, conv, x, weight, deviation) in [
        ("one element", unit, [1, 1, 1, 1], [1, 1, 1, 1], 1.0),
        ("one pixel left", unit, [1, 3, 3, 1], [3, 3, 1, 1], 1.0),
        ("exactly one tile", unit, [1, 4, 10, 8], [3, 3, 8, 16], 1.0),
        ("one over", unit, [1, 5, 11, 9], [3, 3, 9, 17], 1.0),
        ("gradients in three parts", unit, [2, 31, 29, 3], [3, 3, 3, 5], 1.0),
        ("primes, batch 2", unit, [2, 7, 19, 3], [3, 3, 3, 5], 1.0),
        ("padding 1", with([1, 1], [1, 1]), [2, 6, 13, 5], [3, 3, 5, 3], 1.0),
        ("stride 2, padding 1", with([2, 2], [1, 1]), [1, 11, 8, 8], [3, 3, 8, 33], 1.0),
        ("2x2 stride 2, odd", with([2, 2], [0, 0]), [1, 7, 9, 5], [2, 2, 5, 6], 1.0),
        ("stride past the kernel", with([3, 2], [0, 0]), [1, 9, 8, 2], [2, 1, 2, 3], 1.0),
        ("oblong", with([3, 2], [2, 1]), [2, 11, 9, 2], [5, 4, 2, 3], 1.0),
        ("widest kernel and stride", with([1, 32], [0, 31]), [2, 3, 71, 3], [1, 32, 3, 5], 1.0),
        ("tallest kernel and stride", with([32, 1], [31, 0]), [1, 67, 3, 2], [32, 1, 2, 3], 1.0),
        ("1x1, two classes", unit, [1, 6, 13, 16], [1, 1, 16, 2], 1.0),
        ("head, one class", unit, [1, 3, 5, 8], [1, 1, 8, 1], 1.0),
        ("head, two classes, gradient in two parts, batch 2", unit, [2, 17, 19, 64], [1, 1, 64, 2], 1.0),
        ("head, three classes, past the lanes", unit, [1, 11, 7, 84], [1, 1, 84, 3], 1.0),
        ("head, four classes, batch 2", unit, [2, 9, 13, 20], [1, 1, 20, 4], 1.0),
        ("one input channel", unit, [1, 12, 12, 1], [3, 3, 1, 16], 1.0),
        ("large values", unit, [1, 6, 9, 7], [3, 3, 7, 9], 1e15),
        ("pairs, exactly one tile", unit, [1, 6, 8, 16], [3, 3, 16, 16], 1.0),
        ("pairs, one over", unit, [1, 7, 9, 18], [3, 3, 18, 18], 1.0),
        ("pairs, padding 1, batch 2", with([1, 1], [1, 1]), [2, 6, 13, 6], [3, 3, 6, 10], 1.0),
        ("pairs, stride 2, padding 1", with([2, 2], [1, 1]), [1, 11, 8, 8], [3, 3, 8, 34], 1.0),
        ("tiles, wide, padding 1", with([1, 1], [1, 1]), [2, 8, 11, 68], [3, 3, 68, 132], 1.0),
        ("tiles, oblong", with([3, 2], [2, 1]), [2, 17, 13, 36], [5, 4, 36, 40], 1.0),
        ("tiles, exact, gradient in two parts", unit, [3, 15, 17, 32], [3, 3, 32, 64], 1.0),
        ("winograd, one tile", unit, [1, 6, 6, 4], [3, 3, 4, 4], 1.0),
        ("winograd, one over, padding 1, batch 2", with([1, 1], [1, 1]), [2, 9, 5, 12], [3, 3, 12, 36], 1.0),
        ("winograd, padding 2 and 0", with([1, 1], [2, 0]), [1, 11, 13, 8], [3, 3, 8, 20], 1.0),
        ("winograd in strips, batch 2", unit, [2, 53, 47, 32], [3, 3, 32, 64], 1.0),
        ("winograd, gradient in strips, batch 2", unit, [2, 37, 41, 32], [3, 3, 32, 132], 1.0),
        ("winograd of few tiles", unit, [1, 18, 18, 128], [3, 3, 128, 132], 1.0),
        ("matrices, oblong, padding, batch 2", with([1, 1], [1, 2]), [2, 7, 9, 16], [2, 3, 16, 48], 1.0),
        ("matrices in strips, padding 1, batch 2", with([1, 1], [1, 1]), [2, 78, 78, 8], [3, 3, 8, 96], 1.0),
        ("few channels, gradient in two parts", with([2, 1], [1, 1]), [3, 35, 13, 3], [3, 3, 3, 18], 1.0),
        ("few channels, past the lanes, batch 2", with([2, 1], [1, 1]), [2, 35, 13, 3], [3, 3, 3, 84], 1.0),
        ("two channels, stride 2", with([2, 2], [0, 1]), [1, 9, 18, 2], [2, 3, 2, 8], 1.0),
        ("past 65,535 workgroups in the image", unit, [1, 1030, 1021, 1], [1, 1, 1, 1], 1.0),
        ("past 65,535 workgroups in the weight", unit, [1, 1, 1, 2050], [1, 1, 2050, 2070], 1.0),
    ] {
        let fill = |extents: &[usize]| Ok::<_, String>((TensorType::f32(extents)?, Fill::Normal(deviation)));
        let (x, weight, bias) = (fill(&x)?, fill(&weight)?, fill(&weight[3..])?);
        let y = conv.output(&[x.0.clone(), weight.0.clone()])?;
        let grad_output = fill(y.shape.extents())?;
        let (in_extents, kernel_size) = (extents_of(&x.0, 1), extents_of(&weight.0, 0));
        let mut push = |op: Arc<dyn crate::op::AnyOp>, inputs| cases.push(Case { name: name.into(), op, inputs });
        push(Arc::new(conv), vec![x.clone(), weight.clone(), bias.clone()]);
        push(Arc::new(Conv2dRelu(conv)), vec![x.clone(), weight.clone(), bias]);
        // Without a bias, another binding stands in for it.
        if conv == unit {
            push(Arc::new(conv), vec![x.clone(), weight.clone()]);
        }
        let grad_input = Conv2dGradInput { conv, in_extents };
        push(Arc::new(grad_input), vec![weight.clone(), grad_output.clone()]);
        push(Arc::new(ThenReluGrad(grad_input)), vec![weight, grad_output.clone(), (x.0.clone(), Fill::Ties)]);
        // A sum over many pixels of either sign is mostly rounding.
        if x.0.shape.elements() < 100_000 {
            push(Arc::new(Conv2dGradWeight { conv, kernel_size }), vec![x, grad_output.clone()]);
            push(Arc::new(Conv2dGradBias), vec![grad_output]);
        }
    }
    let wide = (TensorType::f32([1, 1, 1, 530_001])?, Fill::Normal(1.0));
    cases.push(Case { name: "past 65,535 workgroups".into(), op: Arc::new(Conv2dGradBias), inputs: vec![wide] });
    let halves: Vec<Case> =
        cases.iter().filter(|case| HALVED.contains(&case.name.as_str())).filter_map(halved).collect();
    Ok([cases, halves].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Init;

    fn refusal(x: [usize; 4], weight: [usize; 4], bias: usize, conv: Conv2d) -> String {
        let mut graph = Graph::new();
        let x = graph.input("image", TensorType::f32(x).unwrap());
        let weight = graph.parameter("weight", weight, Init::Zeros).unwrap();
        let bias = graph.parameter("bias", [bias], Init::Zeros).unwrap();
        graph.conv2d("down1.conv1", x, weight, Some(bias), conv).unwrap_err().to_string()
    }

    #[test]
    fn what_does_not_fit_is_refused_in_words() {
        let unit = Conv2d::default();
        assert_eq!(
            refusal([1, 9, 9, 32], [3, 3, 64, 8], 8, unit),
            "conv2d `down1.conv1`: weight expects 64 input channels, the input has 32"
        );
        assert_eq!(
            refusal([1, 9, 9, 64], [3, 3, 64, 8], 7, unit),
            "conv2d `down1.conv1`: weight has 8 output channels, the bias has shape [7]"
        );
        assert_eq!(
            refusal([1, 2, 9, 1], [3, 3, 1, 1], 1, unit),
            "conv2d `down1.conv1`: kernel size [3, 3] is larger than the input [2, 9] with its padding"
        );
        assert_eq!(
            refusal([1, 9, 9, 1], [3, 3, 1, 1], 1, Conv2d { stride: [1, 0], padding: [0, 0] }),
            "conv2d `down1.conv1`: kernel size and stride must be 1 to 32, got [3, 3] and [1, 0]"
        );
        assert_eq!(
            refusal([1, 9, 9, 1], [3, 3, 1, 1], 1, Conv2d { stride: [1, 1], padding: [3, 0] }),
            "conv2d `down1.conv1`: padding must be less than the kernel size [3, 3], got [3, 0]"
        );
    }

    #[test]
    fn gradients_refuse_what_no_convolution_gives() {
        let types = |a: [usize; 4], b: [usize; 4]| [TensorType::f32(a).unwrap(), TensorType::f32(b).unwrap()];
        let conv = Conv2d { stride: [2, 2], padding: [1, 1] };
        let grad_input = Conv2dGradInput { conv, in_extents: [9, 8] };
        assert!(grad_input.output(&types([3, 3, 4, 5], [2, 5, 4, 5])).is_ok());
        assert!(grad_input.output(&types([3, 3, 4, 5], [2, 5, 5, 5])).is_err());
        assert!(grad_input.output(&types([3, 3, 4, 5], [2, 5, 4, 4])).is_err());
        let grad_weight = Conv2dGradWeight { conv, kernel_size: [3, 3] };
        assert!(grad_weight.output(&types([2, 9, 8, 4], [2, 5, 4, 5])).is_ok());
        assert!(grad_weight.output(&types([2, 9, 8, 4], [1, 5, 4, 5])).is_err());
        assert!(grad_weight.output(&types([2, 9, 8, 4], [2, 4, 4, 5])).is_err());
    }
}
