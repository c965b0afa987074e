//! `conv_transpose2d`: transposed convolution of images, which enlarges them, and its gradients.

use super::conv2d::Conv2dGradBias;
use super::conv2d::fused::{ThenReluGrad, ThroughRelu};
use super::conv2d::launch::{Epilogue, Geometry, Tile, candidates, in_parts, lanes, parts};
use super::conv2d::loops::{
    Images, Side, Window, check_inputs, extents_of, images_like, sum_of_products, turned, two_of_rank_4,
    weight_gradient,
};
use crate::array::{Array, Real, Tensor};
use crate::error::Result;
use crate::graph::{Graph, NodeId};
use crate::kernel;
use crate::onnx::{Translation, Value};
use crate::op::{AnyOp, Backward, Binding, Bound, ByImage, Candidate, Case, DeviceProfile, Fill, Op, Proof};
use crate::ops::halved;
use crate::shape::{DType, Shape, TensorType};
use std::sync::Arc;

/// `y[n, stride · p + q − padding, o] = bias[o] + Σ weight[q, i, o] · x[n, p, i]`, where several (p, q) meet their sum; inputs x
/// `[n, h, w, c_in]`, weight `[kh, kw, c_in, c_out]` and, optionally, bias `[c_out]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvTranspose2d {
    /// How far apart in y neighbouring pixels of x are: rows, columns.
    pub stride: [usize; 2],
    /// How many rows and columns are cut off y on each side.
    pub padding: [usize; 2],
}

/// The gradient of [`ConvTranspose2d`] with respect to x; inputs weight and the gradient of y.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvTranspose2dGradInput {
    /// The transposed convolution.
    pub conv: ConvTranspose2d,
}

/// The gradient of [`ConvTranspose2d`] with respect to weight; inputs x and the gradient of y.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvTranspose2dGradWeight {
    /// The transposed convolution.
    pub conv: ConvTranspose2d,
    /// Height and width of the weight, which those of x and y do not determine.
    pub kernel_size: [usize; 2],
}

/// Input channels that a lane of the weight gradient's kernel owns.
const CHANNELS: usize = 8;

impl Graph {
    /// The transposed convolution of x `[n, h, w, c_in]` with a weight `[kh, kw, c_in, c_out]` whose copies do not overlap: the
    /// stride is the kernel size, and y is `[n, kh · h, kw · w, c_out]`.
    ///
    /// # Errors
    /// When the shapes do not fit each other.
    pub fn conv_transpose2d(&mut self, name: &str, x: NodeId, weight: NodeId, bias: Option<NodeId>) -> Result<NodeId> {
        let extents = self.find("conv_transpose2d", name, weight)?.tensor_type.shape.extents();
        let stride = [0, 1].map(|axis| extents.get(axis).copied().unwrap_or(1));
        let inputs: Vec<NodeId> = [x, weight].into_iter().chain(bias).collect();
        self.apply(name, ConvTranspose2d { stride, padding: [0, 0] }, &inputs)
    }
}

impl ConvTranspose2d {
    /// The window whose coarse side is x and whose fine side is y.
    fn window(self, kernel_size: [usize; 2]) -> Window {
        Window { kernel_size, stride: self.stride, padding: self.padding }
    }

    fn window_of(self, weight: &Shape) -> Window {
        self.window([weight.extents()[0], weight.extents()[1]])
    }
}

impl Op for ConvTranspose2d {
    fn name(&self) -> &'static str {
        "conv_transpose2d"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        check_inputs(inputs)?;
        let (x, weight) = (inputs[0].shape.extents(), &inputs[1].shape);
        let window = self.window_of(weight);
        window.check()?;
        let [height, width] = window.fine([x[1], x[2]])?;
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
        let Ok(extents) = window.fine(images.extents) else { return vec![] };
        let data = sum_of_products(&window, images, Side::Coarse, &weight.data, extents, bias);
        images_like(x, extents, weight.shape.channels(), data)
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let geometry = Geometry::new(self.window_of(&inputs[1].shape), &inputs[0], output);
        let Geometry { batch, out_extents, out_channels, .. } = geometry;
        let has_bias = inputs.len() == 3;
        let tile = Tile::plain(out_channels, device);
        let constants = [&tile.constants()[..], &[("BIAS", usize::from(has_bias))]].concat();
        let bias = has_bias.then_some(Binding::Input(2));
        let bindings = vec![Binding::Input(0), Binding::Input(1), bias.unwrap_or(Binding::Input(1)), Binding::Output];
        let workgroups = tile.workgroups(batch, out_extents, self.stride, out_channels);
        let plain = geometry.dispatch(kernel!("conv_transpose2d/forward"), &constants, bindings, &[], workgroups);
        let by_pairs = geometry.products_by_pairs(Side::Coarse, false, bias, Epilogue::None, device);
        let by_tiles = geometry.products_by_tiles(Side::Coarse, false, bias, Epilogue::None);
        candidates(device, [plain.into()], by_pairs, by_tiles)
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        let weight = backward.input_type(1).shape;
        let &[x_node, weight_node, ..] = backward.inputs else { return Ok(vec![]) };
        let (conv, grad_output) = (*self, backward.grad_output);
        let mut gradients = vec![None; backward.inputs.len()];
        if backward.needs[0] {
            let op = ConvTranspose2dGradInput { conv };
            gradients[0] = Some(backward.apply("grad_input", op, &[weight_node, grad_output])?);
        }
        if backward.needs[1] {
            let op = ConvTranspose2dGradWeight { conv, kernel_size: self.window_of(&weight).kernel_size };
            gradients[1] = Some(backward.apply("grad_weight", op, &[x_node, grad_output])?);
        }
        if backward.needs.get(2) == Some(&true) {
            gradients[2] = Some(backward.apply("grad_bias", Conv2dGradBias, &[grad_output])?);
        }
        Ok(gradients)
    }

    fn onnx(&self, translation: &mut Translation<'_>) -> Result<Value> {
        let window = self.window_of(&translation.input_type(1)?.shape);
        window.onnx("ConvTranspose", translation)
    }

    fn proof(&self) -> Option<Proof> {
        Some(Proof::of::<Self>())
    }

    fn flops(&self, inputs: &[TensorType], output: &TensorType) -> u64 {
        let geometry = Geometry::new(self.window_of(&inputs[1].shape), &inputs[0], output);
        geometry.flops(geometry.in_extents)
    }

    fn bound(&self, inputs: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        let weight = &inputs[1].float().shape;
        Bound::Terms(weight.elements() / weight.channels() + 1)
    }
}

impl Op for ConvTranspose2dGradInput {
    fn name(&self) -> &'static str {
        "conv_transpose2d_grad_input"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let ([kh, kw, c_in, c_out], [n, h, w, c]) = two_of_rank_4(inputs)?;
        let window = self.conv.window([kh, kw]);
        window.check()?;
        let [height, width] = window.coarse([h, w])?;
        if window.fine([height, width])? != [h, w] || c != c_out || inputs[0].dtype != DType::F32 {
            return Err(format!("no transposed convolution with {} gives {}", inputs[0], inputs[1]));
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
        let Ok(extents) = window.coarse(images.extents) else { return vec![] };
        let data = sum_of_products(&window, images, Side::Fine, &matrices, extents, None);
        images_like(grad_output, extents, c_in, data)
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        self.masked_candidates(inputs, output, device, None)
    }

    fn proof(&self) -> Option<Proof> {
        Some(Proof::of::<Self>())
    }

    fn flops(&self, inputs: &[TensorType], output: &TensorType) -> u64 {
        let geometry = Geometry::new(self.conv.window_of(&inputs[0].shape), output, &inputs[1]);
        geometry.flops(geometry.in_extents)
    }

    fn bound(&self, inputs: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        let &[kh, kw, _, c_out] = inputs[0].float().shape.extents() else { return Bound::Exact };
        Bound::Terms(kh * kw * c_out)
    }
}

impl ThroughRelu for ConvTranspose2dGradInput {
    const NAME: &'static str = "conv_transpose2d_grad_input_relu_grad";

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
        let constants = [&tile.constants()[..], &[("MASK", usize::from(mask.is_some()))]].concat();
        let workgroups = tile.workgroups(batch, in_extents, [1, 1], in_channels);
        let kernel = kernel!("conv_transpose2d/grad_input");
        let plain = geometry.dispatch(kernel, &constants, bindings, &[], workgroups);
        let epilogue = mask.map_or(Epilogue::None, Epilogue::Mask);
        let by_pairs = geometry.products_by_pairs(Side::Fine, true, None, epilogue, device);
        candidates(device, [plain.into()], by_pairs, geometry.products_by_tiles(Side::Fine, true, None, epilogue))
    }
}

impl Op for ConvTranspose2dGradWeight {
    fn name(&self) -> &'static str {
        "conv_transpose2d_grad_weight"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let ([n, height, width, c_in], [n_out, h, w, c_out]) = two_of_rank_4(inputs)?;
        let window = self.conv.window(self.kernel_size);
        window.check()?;
        if window.fine([height, width])? != [h, w] || n != n_out || inputs[0].dtype != inputs[1].dtype {
            let (kernel_size, x, y) = (self.kernel_size, &inputs[0], &inputs[1]);
            return Err(format!("no transposed convolution of {x} with a weight {kernel_size:?} gives {y}"));
        }
        TensorType::f32([self.kernel_size[0], self.kernel_size[1], c_in, c_out])
    }

    fn by_image(&self) -> ByImage {
        ByImage::Summed(&[0, 1])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (x, grad_output) = (Images::of(inputs[0].float()), Images::of(inputs[1].float()));
        let window = self.conv.window(self.kernel_size);
        let data = weight_gradient(&window, x, Side::Coarse, grad_output);
        let shape = Shape::new([self.kernel_size[0], self.kernel_size[1], x.channels, grad_output.channels]);
        shape.and_then(|shape| Array::new(shape, data)).map(Tensor::Float).into_iter().collect()
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let geometry = Geometry::new(self.conv.window(self.kernel_size), &inputs[0], &inputs[1]);
        let Geometry { batch, in_extents, in_channels, out_channels, .. } = geometry;
        let blocks = self.kernel_size[0] * in_channels.div_ceil(CHANNELS);
        let rows = batch * in_extents[0];
        let parts = parts(rows, in_extents[1], blocks * out_channels.div_ceil(16));
        let lanes = lanes(out_channels, 1, device);
        let plain = in_parts(parts, output.shape.elements(), |partial| {
            let constants = [("LANES", lanes), ("CHANNELS", CHANNELS)];
            let bindings = vec![Binding::Input(0), Binding::Input(1), partial];
            let params = [("rows_per_part", rows.div_ceil(parts))];
            let workgroups = parts * blocks * out_channels.div_ceil(lanes);
            geometry.dispatch(kernel!("conv_transpose2d/grad_weight"), &constants, bindings, &params, workgroups)
        });
        let by_pairs = geometry.weight_gradient_by_pairs(Side::Coarse, device);
        candidates(device, [plain], by_pairs, geometry.weight_gradient_by_tiles(Side::Coarse))
    }

    fn proof(&self) -> Option<Proof> {
        Some(Proof::of::<Self>())
    }

    fn flops(&self, inputs: &[TensorType], _: &TensorType) -> u64 {
        let geometry = Geometry::new(self.conv.window(self.kernel_size), &inputs[0], &inputs[1]);
        geometry.flops(geometry.in_extents)
    }

    fn bound(&self, inputs: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        let x = &inputs[0].float().shape;
        Bound::Terms(x.elements() / x.channels())
    }
}

/// The cases that are computed from `f16`, too: kernels differ by loads and stores only, and each takes a driver long to compile.
const HALVED: [&str; 5] = ["one element", "one over", "primes, batch 2", "overlap, cut off", "tiles, one over"];

/// The forward pass and its gradients but for the bias's, which is `conv2d`'s.
pub(super) fn cases() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for (name, stride, padding, x, weight, deviation) in [
        ("one element", [1, 1], [0, 0], [1, 1, 1, 1], [1, 1, 1, 1], 1.0),
        ("one pixel", [2, 2], [0, 0], [1, 1, 1, 3], [2, 2, 3, 1], 1.0),
        ("exactly one tile", [2, 2], [0, 0], [1, 1, 8, 8], [2, 2, 8, 16], 1.0),
        ("one over", [2, 2], [0, 0], [1, 2, 9, 9], [2, 2, 9, 17], 1.0),
        ("gradients in two parts", [2, 2], [0, 0], [1, 25, 26, 3], [2, 2, 3, 5], 1.0),
        ("primes, batch 2", [2, 2], [0, 0], [2, 5, 7, 3], [2, 2, 3, 5], 1.0),
        ("wide", [2, 2], [0, 0], [1, 3, 4, 33], [2, 2, 33, 16], 1.0),
        ("overlap", [1, 1], [0, 0], [1, 5, 6, 4], [3, 3, 4, 5], 1.0),
        ("overlap, cut off", [2, 2], [1, 1], [1, 6, 9, 5], [3, 3, 5, 2], 1.0),
        ("gaps", [3, 2], [0, 0], [1, 4, 5, 2], [2, 1, 2, 3], 1.0),
        ("oblong", [3, 2], [2, 1], [2, 4, 5, 2], [5, 4, 2, 3], 1.0),
        ("pairs, one over", [2, 2], [0, 0], [1, 5, 9, 10], [2, 2, 10, 18], 1.0),
        ("pairs, stride 1", [1, 1], [1, 0], [2, 5, 6, 4], [3, 3, 4, 6], 1.0),
        ("pairs, overlap, cut off", [2, 2], [1, 1], [2, 6, 9, 6], [3, 3, 6, 4], 1.0),
        ("tiles, one over", [2, 2], [0, 0], [1, 9, 15, 20], [2, 2, 20, 12], 1.0),
        ("tiles, overlap, cut off", [2, 2], [1, 1], [2, 6, 9, 20], [3, 3, 20, 68], 1.0),
        ("tiles, gaps", [3, 2], [0, 0], [1, 4, 5, 8], [2, 1, 8, 12], 1.0),
        ("large values", [2, 2], [0, 0], [1, 3, 5, 7], [2, 2, 7, 9], 1e15),
        ("past 65,535 workgroups in the image", [1, 1], [0, 0], [1, 730, 725, 1], [1, 1, 1, 1], 1.0),
        ("past 65,535 workgroups in the weight", [1, 1], [0, 0], [1, 1, 1, 2050], [1, 1, 2050, 2070], 1.0),
    ] {
        let conv = ConvTranspose2d { stride, padding };
        let fill = |extents: &[usize]| Ok::<_, String>((TensorType::f32(extents)?, Fill::Normal(deviation)));
        let (x, weight, bias) = (fill(&x)?, fill(&weight)?, fill(&weight[3..])?);
        let y = conv.output(&[x.0.clone(), weight.0.clone()])?;
        let grad_output = fill(y.shape.extents())?;
        let kernel_size = extents_of(&weight.0, 0);
        let mut push = |op: Arc<dyn AnyOp>, inputs| cases.push(Case { name: name.into(), op, inputs });
        push(Arc::new(conv), vec![x.clone(), weight.clone(), bias]);
        if stride == kernel_size {
            push(Arc::new(conv), vec![x.clone(), weight.clone()]);
        }
        let grad_input = ConvTranspose2dGradInput { conv };
        push(Arc::new(grad_input), vec![weight.clone(), grad_output.clone()]);
        push(Arc::new(ThenReluGrad(grad_input)), vec![weight, grad_output.clone(), (x.0.clone(), Fill::Ties)]);
        // A sum over many pixels of either sign is mostly rounding.
        if x.0.shape.elements() < 100_000 {
            push(Arc::new(ConvTranspose2dGradWeight { conv, kernel_size }), vec![x, grad_output]);
        }
    }
    let halves: Vec<Case> =
        cases.iter().filter(|case| HALVED.contains(&case.name.as_str())).filter_map(halved).collect();
    Ok([cases, halves].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Init;

    #[test]
    fn the_stride_is_the_kernel_size_and_shapes_must_fit() {
        let mut graph = Graph::new();
        let x = graph.input("image", TensorType::f32([1, 5, 7, 6]).unwrap());
        let weight = graph.parameter("weight", [2, 3, 6, 4], Init::Zeros).unwrap();
        let y = graph.conv_transpose2d("up", x, weight, None).unwrap();
        assert_eq!(graph.shape(y).extents(), [1, 10, 21, 4]);
        let error = graph.conv_transpose2d("up0", y, weight, None).unwrap_err();
        assert_eq!(error.to_string(), "conv_transpose2d `up0`: weight expects 6 input channels, the input has 4");
        let all_cut_off = ConvTranspose2d { stride: [1, 1], padding: [1, 1] };
        let x = graph.input("pixel", TensorType::f32([1, 1, 1, 6]).unwrap());
        let error = graph.apply("up1", all_cut_off, &[x, weight]).unwrap_err();
        assert_eq!(error.to_string(), "conv_transpose2d `up1`: padding [1, 1] leaves nothing of the output");
    }
}
