//! `pad`: zeros around images, or, where a margin is negative, less of them; its own gradient with the margins negated.

use crate::array::{Real, Tensor};
use crate::error::Result;
use crate::graph::{Graph, NodeId};
use crate::kernel;
use crate::onnx::{Translation, Value};
use crate::op::{Backward, Binding, Bound, ByImage, Candidate, Case, DeviceProfile, Dispatch, Fill, Op, Param};
use crate::ops::{aliases, channels_at_once, image, in_both_precisions, turns, zeros};
use crate::shape::TensorType;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// y[n, y, x, c] = x[n, y − before₀, x − before₁, c − before₂] inside x, else 0. Margins are of rows, columns, channels; a negative one
/// crops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pad {
    /// How many zeros come before the first row, column, channel.
    pub before: [i32; 3],
    /// How many come after the last.
    pub after: [i32; 3],
}

impl Graph {
    /// x with zeros around it, or less of it where margins are negative.
    ///
    /// # Errors
    /// When x is not a batch of images, or nothing would be left of it.
    pub fn pad(&mut self, name: &str, x: NodeId, pad: Pad) -> Result<NodeId> {
        self.apply(name, pad, &[x])
    }
}

impl Pad {
    /// Margins that make `extents` of images out of `found`, alike on both sides; the odd one comes after.
    pub fn centred(found: [usize; 2], extents: [usize; 2]) -> Self {
        let mut pad = Self::default();
        for axis in 0..2 {
            // Extents are checked to fit 32 bits.
            let difference = extents[axis] as i32 - found[axis] as i32;
            pad.before[axis] = difference / 2;
            pad.after[axis] = difference - pad.before[axis];
        }
        pad
    }

    /// Whether all margins are of rows and columns.
    pub(crate) fn keeps_channels(self) -> bool {
        [self.before[2], self.after[2]] == [0; 2]
    }

    /// The channels of x that are left, if these are all that is cropped, and nothing is added.
    pub(crate) fn channels_of(self, x: &TensorType) -> Option<Range<usize>> {
        let [_, _, _, channels] = image(x);
        let of_pixels = self.before[..2].iter().chain(&self.after[..2]);
        let cropped = |margin: i32| usize::try_from(margin.checked_neg()?).ok();
        let [front, back] = [cropped(self.before[2]), cropped(self.after[2])];
        of_pixels.eq(&[0; 4]).then_some(front?..channels - back?)
    }

    fn negated(self) -> Self {
        Self { before: self.before.map(|margin| -margin), after: self.after.map(|margin| -margin) }
    }

    /// Rows, columns and channels of the result.
    fn extents(&self, x: [usize; 3]) -> Option<[usize; 3]> {
        let mut extents = [0; 3];
        for axis in 0..3 {
            let extent = x[axis] as i64 + i64::from(self.before[axis]) + i64::from(self.after[axis]);
            extents[axis] = usize::try_from(extent).ok().filter(|&extent| extent > 0)?;
        }
        Some(extents)
    }

    /// Less of x where margins are negative, in ONNX.
    pub(super) fn onnx_slice(&self, role: &str, x: &str, translation: &mut Translation<'_>) -> String {
        let starts = self.before.map(|margin| i64::from(-margin.min(0)));
        // The largest number is ONNX's word for the end.
        let ends = self.after.map(|margin| if margin < 0 { i64::from(margin) } else { i64::MAX });
        let [starts, ends, axes] = [("starts", starts), ("ends", ends), ("axes", ONNX_AXES)]
            .map(|(role, values)| translation.constant(role, &values));
        translation.step(role, "Slice", &[x, &starts, &ends, &axes], vec![])
    }
}

/// Rows, columns and channels of images in ONNX.
const ONNX_AXES: [i64; 3] = [2, 3, 1];

impl Op for Pad {
    fn name(&self) -> &'static str {
        "pad"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [x] = inputs else { return Err(format!("expected one tensor, got {inputs:?}")) };
        let [n, h, w, c] = x.shape.image()?;
        if !x.dtype.is_float() {
            return Err(format!("expected images of floats, got {x}"));
        }
        let extents = self.extents([h, w, c]).ok_or_else(|| format!("nothing is left of {x} with {self:?}"))?;
        x.with_extents([&[n], &extents[..]].concat())
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let [_, h, w, c] = image(&inputs[0].tensor_type());
        let x = &inputs[0].float().data;
        let mut y = zeros(self, inputs);
        let [_, height, width, channels] = image(&Tensor::Float(y.clone()).tensor_type());
        let source = |at: usize, axis: usize, extent: usize| {
            let at = at as i64 - i64::from(self.before[axis]);
            usize::try_from(at).ok().filter(|&at| at < extent)
        };
        y.data.par_chunks_mut(width * channels).enumerate().for_each(|(row, y)| {
            let Some(line) = source(row % height, 0, h) else { return };
            for (i, y) in y.iter_mut().enumerate() {
                if let (Some(column), Some(channel)) = (source(i / channels, 1, w), source(i % channels, 2, c)) {
                    *y = x[((row / height * h + line) * w + column) * c + channel];
                }
            }
        });
        vec![Tensor::Float(y)]
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let ([_, h, w, c], [_, height, width, channels]) = (image(&inputs[0]), image(output));
        let [top, left, front] = self.before;
        let at_once = channels_at_once(&[c, channels, front.unsigned_abs() as usize]);
        let [top, left, front] = [top, left, front / at_once as i32].map(|margin| Param::U32(margin.cast_unsigned()));
        let params = [
            ("height", height.into()),
            ("width", width.into()),
            ("channels", (channels / at_once).into()),
            ("in_height", h.into()),
            ("in_width", w.into()),
            ("in_channels", (c / at_once).into()),
            ("top", top),
            ("left", left),
            ("front", front),
        ];
        let bindings = vec![Binding::Input(0), Binding::Output];
        let pixels = self.channels_of(&inputs[0]).is_none();
        let kernel = kernel!("pad/forward");
        let dispatch = turns(kernel, bindings, output.shape.elements() / at_once, &params, device);
        let mut constants = aliases(kernel, at_once);
        constants.push(("PIXELS", format!("{}u", u8::from(pixels))));
        vec![Dispatch { constants, ..dispatch }.into()]
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        let grad_output = [backward.grad_output];
        Ok(vec![Some(backward.apply("grad_input", self.negated(), &grad_output)?)])
    }

    fn onnx(&self, translation: &mut Translation<'_>) -> Result<Value> {
        let (x, extents) = (translation.tensor(0)?, image(translation.input_type(0)?));
        let margins = || self.before.into_iter().chain(self.after);
        let cropped =
            (0..3).map(|axis| extents[axis + 1] as i64 + i64::from(self.before[axis].min(0) + self.after[axis].min(0)));
        if cropped.min().is_some_and(|extent| extent <= 0) {
            return Err(translation.error(format!("{self:?} takes away more than there is, which ONNX cannot")));
        }
        let pads = margins().any(|margin| margin > 0);
        let x = if margins().any(|margin| margin < 0) {
            self.onnx_slice(if pads { "crop" } else { "" }, &x, translation)
        } else {
            x
        };
        if !pads {
            return Ok(Value::Tensor(x));
        }
        let added: Vec<i64> = margins().map(|margin| i64::from(margin.max(0))).collect();
        let [margins, axes] = [translation.constant("margins", &added), translation.constant("pad_axes", &ONNX_AXES)];
        Ok(translation.result("Pad", &[&x, &margins, "", &axes], vec![]))
    }

    fn flops(&self, _: &[TensorType], _: &TensorType) -> u64 {
        0
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Exact
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let pad = |before, after| Pad { before, after };
    let cases = [
        ([1, 1, 1, 1], pad([0; 3], [0; 3]), "one pixel, no margin"),
        ([1, 1, 1, 1], pad([3, 2, 0], [4, 6, 0]), "one pixel becomes 64 and more"),
        ([2, 5, 7, 3], pad([1; 3], [1; 3]), "zeros on every side, batch 2"),
        ([2, 5, 7, 3], pad([2, 0, 0], [0, 3, 0]), "rows before, columns after"),
        ([1, 9, 8, 2], pad([-2, -3, 0], [-1, 0, 0]), "cropped"),
        ([3, 6, 5, 5], pad([-1, 2, -2], [3, -1, 1]), "cropped and padded, batch 3"),
        ([1, 4, 4, 1], pad([0, 0, 1], [0; 3]), "a channel of zeros before"),
        ([2, 5, 3, 7], pad([0, 0, -3], [0; 3]), "the last channels"),
        ([2, 5, 3, 7], pad([0; 3], [0, 0, -4]), "the first channels"),
        ([1, 4, 4, 2], pad([-4, 0, 0], [4, 0, 0]), "moved out of the image: zero gradient"),
        ([3, 6, 5, 12], pad([-1, 2, -4], [3, -1, 8]), "fours, cropped and padded, batch 3"),
        ([2, 5, 3, 12], pad([0, 0, -8], [0; 3]), "fours, the last channels"),
        ([1, 5, 4, 8], pad([0, 0, -2], [0, 1, -2]), "fours but not all"),
        ([1, 1021, 1379, 3], pad([3, 0, 0], [0, 1, 0]), "past 65,535 workgroups"),
    ]
    .into_iter()
    .map(|(extents, pad, what)| {
        let inputs = vec![(TensorType::f32(extents)?, Fill::Normal(1.0))];
        Ok(Case { name: format!("{extents:?} {what}"), op: Arc::new(pad), inputs })
    })
    .collect::<Result<_, String>>()?;
    Ok(in_both_precisions(cases))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Array;

    #[test]
    fn margins_add_zeros_and_negative_ones_crop() {
        let x = Array::new(TensorType::f32([1, 2, 3, 1]).unwrap().shape, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let y = Pad { before: [1, -1, 0], after: [0; 3] }.reference(&[&x.into()]);
        assert_eq!(y[0].float().data, [0.0, 0.0, 2.0, 3.0, 5.0, 6.0]);
    }

    #[test]
    fn the_odd_margin_of_a_centred_pad_comes_after() {
        let pad = Pad::centred([4, 9], [7, 6]);
        assert_eq!((pad.before, pad.after), ([1, -1, 0], [2, -2, 0]));
        // As the crop of `crop_concat`, which starts at the half rounded down.
        assert_eq!(Pad::centred([8, 8], [5, 4]).before, [-1, -2, 0]);
    }

    #[test]
    fn nothing_left_is_refused() {
        let mut graph = Graph::new();
        let x = graph.input("x", TensorType::f32([1, 4, 4, 1]).unwrap());
        let message = graph.pad("crop", x, Pad { before: [-4, 0, 0], after: [0; 3] }).unwrap_err().to_string();
        assert!(message.contains("pad `crop`: nothing is left"), "{message}");
    }
}
