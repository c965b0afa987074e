//! `crop_concat`: a U-Net's skip connection, the centre of the encoder's map beside the decoder's.

use crate::array::{Real, Tensor};
use crate::error::Result;
use crate::graph::{Graph, NodeId};
use crate::kernel;
use crate::onnx::{Attribute, Translation, Value};
use crate::op::{Backward, Binding, Bound, ByImage, Candidate, Case, DeviceProfile, Dispatch, Fill, Op};
use crate::ops::{Pad, aliases, channels_at_once, image, in_both_precisions, turns, zeros};
use crate::shape::TensorType;
use rayon::prelude::*;
use std::sync::Arc;

/// y = crop(skip) and up side by side in the channels; inputs skip [N, H, W, C1] and up [N, h, w, C2], result [N, h, w, C1 + C2].
///
/// The crop is the centre of skip: it starts at row ⌊(H − h)/2⌋ and column ⌊(W − w)/2⌋.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CropConcat;

impl Graph {
    /// The centre of `skip`, as large as `up`, with the channels of `up` behind its own.
    ///
    /// # Errors
    /// When they are not batches of images of one length, or `up` is larger than `skip`.
    pub fn crop_concat(&mut self, name: &str, skip: NodeId, up: NodeId) -> Result<NodeId> {
        self.apply(name, CropConcat, &[skip, up])
    }
}

impl Op for CropConcat {
    fn name(&self) -> &'static str {
        "crop_concat"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [skip, up] = inputs else { return Err(format!("expected two tensors, got {inputs:?}")) };
        let ([n, height, width, c1], [n2, h, w, c2]) = (skip.shape.image()?, up.shape.image()?);
        if !skip.dtype.is_float() || up.dtype != skip.dtype || n != n2 {
            return Err(format!(
                "expected two batches of float images of one length and precision, got {skip} and {up}"
            ));
        }
        if h > height || w > width {
            return Err(format!("the skip of {height}×{width} pixels is smaller than the upsampled map of {h}×{w}"));
        }
        skip.with_extents([n, h, w, c1 + c2])
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0, 1])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let [_, height, width, c1] = image(&inputs[0].tensor_type());
        let [_, h, w, c2] = image(&inputs[1].tensor_type());
        let (skip, up) = (&inputs[0].float().data, &inputs[1].float().data);
        let (top, left) = ((height - h) / 2, (width - w) / 2);
        let mut y = zeros(self, inputs);
        y.data.par_chunks_mut(w * (c1 + c2)).enumerate().for_each(|(row, y)| {
            let skip = &skip[((row / h * height + row % h + top) * width + left) * c1..][..w * c1];
            let up = &up[row * w * c2..][..w * c2];
            for ((y, skip), up) in y.chunks_mut(c1 + c2).zip(skip.chunks(c1)).zip(up.chunks(c2)) {
                y[..c1].copy_from_slice(skip);
                y[c1..].copy_from_slice(up);
            }
        });
        vec![Tensor::Float(y)]
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let ([_, height, width, c1], [_, h, w, c2]) = (image(&inputs[0]), image(&inputs[1]));
        let at_once = channels_at_once(&[c1, c2]);
        let params = [
            ("height", h.into()),
            ("width", w.into()),
            ("skip_height", height.into()),
            ("skip_width", width.into()),
            ("skip_channels", (c1 / at_once).into()),
            ("up_channels", (c2 / at_once).into()),
            ("top", ((height - h) / 2).into()),
            ("left", ((width - w) / 2).into()),
        ];
        let bindings = vec![Binding::Input(0), Binding::Input(1), Binding::Output];
        let count = output.shape.elements() / at_once;
        let kernel = kernel!("crop_concat/forward");
        let dispatch = turns(kernel, bindings, count, &params, device);
        vec![Dispatch { constants: aliases(kernel, at_once), ..dispatch }.into()]
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        let ([_, height, width, c1], [_, h, w, c2]) = (image(&backward.input_type(0)), image(&backward.input_type(1)));
        let (needs, grad_output) = (backward.needs, [backward.grad_output]);
        let mut gradients = vec![None; 2];
        if needs[0] {
            let channels = Pad { after: [0, 0, -(c2 as i32)], ..Pad::default() };
            let mut grad_skip = backward.apply("grad_skip", channels, &grad_output)?;
            let margins = Pad::centred([h, w], [height, width]);
            if margins != Pad::default() {
                grad_skip = backward.apply("grad_crop", margins, &[grad_skip])?;
            }
            gradients[0] = Some(grad_skip);
        }
        if needs[1] {
            let channels = Pad { before: [0, 0, -(c1 as i32)], ..Pad::default() };
            gradients[1] = Some(backward.apply("grad_up", channels, &grad_output)?);
        }
        Ok(gradients)
    }

    fn onnx(&self, translation: &mut Translation<'_>) -> Result<Value> {
        let [skip, up] = [translation.tensor(0)?, translation.tensor(1)?];
        let ([_, height, width, _], [_, h, w, _]) =
            (image(translation.input_type(0)?), image(translation.input_type(1)?));
        let crop = Pad::centred([height, width], [h, w]);
        let skip = if crop == Pad::default() { skip } else { crop.onnx_slice("crop", &skip, translation) };
        Ok(translation.result("Concat", &[&skip, &up], vec![Attribute::int("axis", 1)]))
    }

    fn flops(&self, _: &[TensorType], _: &TensorType) -> u64 {
        0
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Exact
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for (skip, up, what) in [
        ([1, 1, 1, 1], [1, 1, 1, 1], "one pixel"),
        ([1, 4, 8, 1], [1, 4, 8, 1], "one workgroup, nothing cropped"),
        ([1, 7, 15, 2], [1, 5, 13, 3], "even margins"),
        ([2, 7, 6, 3], [2, 4, 5, 1], "odd margins, batch 2"),
        ([3, 11, 5, 5], [3, 11, 2, 2], "columns cropped only, batch 3"),
        ([2, 5, 13, 1], [2, 2, 13, 3], "rows cropped only"),
        ([1, 9, 9, 16], [1, 1, 1, 16], "one pixel of many"),
        ([2, 7, 6, 4], [2, 4, 5, 12], "fours, odd margins, batch 2"),
        ([1, 1028, 1031, 3], [1, 1024, 1027, 1], "past 65,535 workgroups"),
    ] {
        let (skip, up) = (TensorType::f32(skip)?, TensorType::f32(up)?);
        let name = format!("{what}: {skip} and {up}");
        let fill = Fill::Normal(1.0);
        cases.push(Case { name, op: Arc::new(CropConcat), inputs: vec![(skip, fill), (up, fill)] });
    }
    Ok(in_both_precisions(cases))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Array;

    #[test]
    fn the_crop_is_centred_and_the_skip_comes_first() {
        // Pixels of the skip are numbered; 3×4 is cropped to 2×1 from row 0, column 1 on.
        let skip = Array::new(TensorType::f32([1, 3, 4, 1]).unwrap().shape, (0..12_u8).map(f32::from).collect());
        let up = Array::new(TensorType::f32([1, 2, 1, 2]).unwrap().shape, vec![-1.0, -2.0, -3.0, -4.0]);
        let y = CropConcat.reference(&[&skip.unwrap().into(), &up.unwrap().into()]);
        assert_eq!(y[0].float().data, [1.0, -1.0, -2.0, 5.0, -3.0, -4.0]);
    }

    #[test]
    fn a_skip_that_is_too_small_is_refused() {
        let mut graph = Graph::new();
        let skip = graph.input("skip", TensorType::f32([1, 4, 4, 1]).unwrap());
        let up = graph.input("up", TensorType::f32([1, 5, 4, 1]).unwrap());
        let message = graph.crop_concat("decoder0.concat", skip, up).unwrap_err().to_string();
        let expected = "crop_concat `decoder0.concat`: the skip of 4×4 pixels is smaller than the upsampled map of 5×4";
        assert_eq!(message, expected);
    }
}
