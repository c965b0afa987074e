//! The partial derivatives of moments and of what is normalised by them.

use super::{BatchNorm, Extents, Over};
use crate::array::{Real, Tensor};
use crate::kernel;
use crate::op::{Binding, Bound, Candidate, DeviceProfile, Dispatch, Op, UNIT_ROUNDOFF};
use crate::ops::cross_entropy::{Total, additions, partial_sums, sum_up};
use crate::ops::softmax::{FLUSHED, compound};
use crate::ops::{invocations, rounded, turns, zeros};
use crate::shape::{DType, TensorType};
use rayon::prelude::*;

/// dx = (d mean + 2 (x − mean) · d variance) / terms; inputs x, moments and their gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchNormMomentsGrad {
    /// Over what the moments were taken.
    pub over: Over,
}

/// dx = dy · weight / √(variance + ε), the moments held fast; inputs moments, weight and dy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNormGradInput(pub BatchNorm);

/// Σ dy and Σ dy · (x − mean) over the pixels of each set, `[sets, 2, c]`; inputs x, moments and dy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchNormGradSums {
    /// Over what the moments were taken.
    pub over: Over,
}

/// With r = 1 / √(variance + ε): d mean = −r Σ weight · Σ dy, d variance = −r³ / 2 · Σ weight · Σ dy (x − mean), over the channels of a group;
/// inputs the sums of [`BatchNormGradSums`], moments and weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNormGradMoments(pub BatchNorm);

/// d weight = Σ over sets of r · Σ dy (x − mean), or d bias = Σ over sets of Σ dy; inputs the sums of [`BatchNormGradSums`] and moments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNormGradParameter {
    /// The op.
    pub norm: BatchNorm,
    /// Whether it is the gradient of the weight.
    pub weight: bool,
}

/// Numbers, `[sets, 2, c]`.
fn sums_of(sums: &TensorType, moments: &TensorType) -> Result<Extents, String> {
    match (sums.shape.extents(), moments.shape.extents()) {
        (&[sets, 2, channels], &[same, 2, groups])
            if sets == same && channels.is_multiple_of(groups) && [sums.dtype, moments.dtype] == [DType::F32; 2] =>
        {
            Ok(Extents { sets, pixels: 1, channels, groups })
        }
        _ => Err(format!("sums {sums} and moments {moments} do not fit each other")),
    }
}

/// [`sums_of`] types that a shape rule has admitted.
fn extents_of(sums: &TensorType, moments: &TensorType) -> Extents {
    sums_of(sums, moments).unwrap_or_else(|_| unreachable!("the shape rule has passed"))
}

impl Op for BatchNormMomentsGrad {
    fn name(&self) -> &'static str {
        "batch_norm_moments_grad"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [x, moments, grad] if Extents::new(self.over, x)?.moments()? == *moments && moments == grad => {
                Ok(x.clone())
            }
            _ => Err(format!("expected images, their moments and the gradient of these, got {inputs:?}")),
        }
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let [x, moments, grad] = [0, 1, 2].map(|input| &inputs[input].float().data);
        let extents = Extents::of(self.over, &inputs[0].tensor_type());
        let (two, terms) = (T::from_f64(2.0), T::from_f64(extents.terms() as f64));
        let mut grad_input = zeros(self, inputs);
        grad_input.data.par_iter_mut().enumerate().with_min_len(4096).for_each(|(i, grad_input)| {
            let (_, _, mean) = extents.places(i);
            *grad_input = (grad[mean] + two * (x[i] - moments[mean]) * grad[mean + extents.groups]) / terms;
        });
        vec![Tensor::Float(grad_input)]
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let extents = Extents::of(self.over, &inputs[0]);
        let inverse = (1.0 / extents.terms() as f64) as f32;
        let params = [&extents.params()[..], &[("inverse_terms", inverse.into())]].concat();
        let bindings = (0..3).map(Binding::Input).chain([Binding::Output]).collect();
        let count = output.shape.elements();
        vec![turns(kernel!("batch_norm/moments_grad_input"), bindings, count, &params, device).into()]
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        5 * output.shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        let [x, moments, grad] = [0, 1, 2].map(|input| &inputs[input].float().data);
        let extents = Extents::of(self.over, &inputs[0].tensor_type());
        let bound = |i: usize| {
            let (_, _, mean) = extents.places(i);
            let product = 2.0 * (x[i] - moments[mean]) * grad[mean + extents.groups];
            // A difference, a product, a sum, the inverse and the product with it.
            compound(5.0 * UNIT_ROUNDOFF) * (grad[mean].abs() + product.abs()) / extents.terms() as f64 + FLUSHED
        };
        Bound::Elements((0..output.float().data.len()).map(bound).collect())
    }
}

impl Op for BatchNormGradInput {
    fn name(&self) -> &'static str {
        "batch_norm_grad_input"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [moments, weight, grad] => {
                let of_norm = [grad.clone(), moments.clone(), weight.clone(), weight.clone()];
                self.0.output(&of_norm)
            }
            _ => Err(format!("expected moments, weight and the gradient of the result, got {inputs:?}")),
        }
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let [moments, weight, grad] = [0, 1, 2].map(|input| &inputs[input].float().data);
        let extents = Extents::of(self.0.over, &inputs[2].tensor_type());
        let epsilon = T::from_f64(f64::from(self.0.epsilon));
        let mut grad_input = zeros(self, inputs);
        grad_input.data.par_iter_mut().enumerate().with_min_len(4096).for_each(|(i, grad_input)| {
            let (_, c, mean) = extents.places(i);
            *grad_input = grad[i] * weight[c] * (moments[mean + extents.groups] + epsilon).sqrt().recip();
        });
        vec![Tensor::Float(grad_input)]
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let extents = Extents::of(self.0.over, &inputs[2]);
        let params = [&extents.params()[..], &[("epsilon", self.0.epsilon.into())]].concat();
        let bindings = (0..3).map(Binding::Input).chain([Binding::Output]).collect();
        let count = output.shape.elements();
        vec![turns(kernel!("batch_norm/grad_input"), bindings, count, &params, device).into()]
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        4 * output.shape.elements() as u64
    }

    fn bound(&self, _: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        // Two products, the sum under the root and its inverse of 2 ULP.
        let bound = |value: &f64| compound(7.0 * UNIT_ROUNDOFF) * value.abs() + FLUSHED;
        Bound::Elements(output.float().data.iter().map(bound).collect())
    }
}

impl BatchNormGradSums {
    /// Σ `term` of the two factors of each pixel, for both rows of the result.
    fn sums<T: Real>(self, inputs: &[&Tensor<T>], term: impl Fn(f64, f64) -> [f64; 2] + Sync) -> Vec<f64> {
        let [x, moments, grad] = [0, 1, 2].map(|input| &inputs[input].float().data);
        let extents = Extents::of(self.over, &inputs[0].tensor_type());
        let Extents { sets, pixels, channels, .. } = extents;
        let column = |column: usize| {
            let (set, c) = (column / channels, column % channels);
            let mean = moments[extents.mean(set, c / extents.size())].as_f64();
            (0..pixels).fold([0.0; 2], |sums, p| {
                let at = (set * pixels + p) * channels + c;
                let terms = term(grad[at].as_f64(), x[at].as_f64() - mean);
                [sums[0] + terms[0], sums[1] + terms[1]]
            })
        };
        let columns: Vec<[f64; 2]> = (0..sets * channels).into_par_iter().map(column).collect();
        let rows = columns.chunks(channels).flat_map(|set| [0, 1].map(|row| set.iter().map(move |sums| sums[row])));
        rows.flatten().collect()
    }
}

impl Op for BatchNormGradSums {
    fn name(&self) -> &'static str {
        "batch_norm_grad_sums"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [x, moments, grad] = inputs else { return Err(format!("expected 3 tensors, got {inputs:?}")) };
        let extents = Extents::new(self.over, x)?;
        if *moments != extents.moments()? || x != grad {
            return Err(format!("expected images, their moments and the gradient of the result, got {inputs:?}"));
        }
        extents.sums()
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        rounded(self, inputs, self.sums(inputs, |grad, distance| [grad, grad * distance]))
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        let extents = Extents::of(self.over, &inputs[0]);
        let strips = partial_sums(extents.pixels)[0];
        let first = invocations(
            kernel!("batch_norm/grad_sums"),
            (0..3).map(Binding::Input).chain([Binding::Workspace(0)]).collect(),
            strips * extents.sets * extents.channels,
            &[&[("sets", extents.sets.into())], &extents.params()[..], &[("strips", strips.into())]].concat(),
        );
        vec![sum_up([first], extents.pixels, output.shape.elements(), Total::Result)]
    }

    fn flops(&self, inputs: &[TensorType], _: &TensorType) -> u64 {
        4 * inputs[0].shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        let extents = Extents::of(self.over, &inputs[0].tensor_type());
        // Additions; in the second row, a difference and a product as well.
        let share = compound((additions(extents.pixels) + 2.0) * UNIT_ROUNDOFF);
        let magnitudes = self.sums(inputs, |grad, distance| [grad.abs(), (grad * distance).abs()]);
        Bound::Elements(magnitudes.into_iter().map(|magnitude| share * magnitude + FLUSHED).collect())
    }
}

impl BatchNormGradMoments {
    /// Both gradients, from the weighted sums of each group.
    fn values<T: Real>(self, inputs: &[&Tensor<T>], term: impl Fn(f64, f64) -> f64) -> Vec<f64> {
        let [sums, moments, weight] = [0, 1, 2].map(|input| &inputs[input].float().data);
        let extents = extents_of(&inputs[0].tensor_type(), &inputs[1].tensor_type());
        let Extents { sets, channels, groups, .. } = extents;
        let mut values = vec![0.0; moments.len()];
        for (set, group) in (0..sets).flat_map(|set| (0..groups).map(move |group| (set, group))) {
            let mean = extents.mean(set, group);
            let scale = self.0.scale(moments[mean + groups].as_f64());
            let sum = |row: usize| -> f64 {
                let members = group * extents.size()..(group + 1) * extents.size();
                members.map(|c| term(weight[c].as_f64(), sums[(set * 2 + row) * channels + c].as_f64())).sum()
            };
            values[mean] = -scale * sum(0);
            values[mean + groups] = -0.5 * scale.powi(3) * sum(1);
        }
        values
    }
}

impl Op for BatchNormGradMoments {
    fn name(&self) -> &'static str {
        "batch_norm_grad_moments"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [sums, moments, weight] = inputs else { return Err(format!("expected 3 tensors, got {inputs:?}")) };
        let extents = sums_of(sums, moments)?;
        if *weight != TensorType::f32([extents.channels])? {
            return Err(format!("sums {sums} and weight {weight} do not fit each other"));
        }
        Ok(moments.clone())
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        rounded(self, inputs, self.values(inputs, |weight, sum| weight * sum))
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        let Extents { sets, channels, groups, .. } = extents_of(&inputs[0], &inputs[1]);
        let bindings = (0..3).map(Binding::Input).chain([Binding::Output]).collect();
        let params = [("groups", groups.into()), ("channels", channels.into()), ("epsilon", self.0.epsilon.into())];
        vec![invocations(kernel!("batch_norm/grad_moments"), bindings, sets * groups, &params).into()]
    }

    fn flops(&self, inputs: &[TensorType], output: &TensorType) -> u64 {
        (2 * inputs[0].shape.elements() + 4 * output.shape.elements()) as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        let size = extents_of(&inputs[0].tensor_type(), &inputs[1].tensor_type()).size() as f64;
        // Products and additions; three factors that are inverse roots, of 4.5 u each, and the products with them.
        let share = compound((size + 18.0) * UNIT_ROUNDOFF);
        let magnitudes = self.values(inputs, |weight, sum| (weight * sum).abs());
        Bound::Elements(magnitudes.into_iter().map(|magnitude| share * magnitude.abs() + FLUSHED).collect())
    }
}

impl BatchNormGradParameter {
    fn values<T: Real>(self, inputs: &[&Tensor<T>], term: impl Fn(f64) -> f64) -> Vec<f64> {
        let [sums, moments] = [0, 1].map(|input| &inputs[input].float().data);
        let extents = extents_of(&inputs[0].tensor_type(), &inputs[1].tensor_type());
        let (channels, row) = (extents.channels, usize::from(self.weight));
        let channel = |c: usize| {
            let of_set = |set: usize| {
                let variance = moments[extents.mean(set, c / extents.size()) + extents.groups].as_f64();
                let scale = if self.weight { self.norm.scale(variance) } else { 1.0 };
                term(sums[(set * 2 + row) * channels + c].as_f64() * scale)
            };
            (0..extents.sets).map(of_set).sum()
        };
        (0..channels).map(channel).collect()
    }
}

impl Op for BatchNormGradParameter {
    fn name(&self) -> &'static str {
        if self.weight { "batch_norm_grad_weight" } else { "batch_norm_grad_bias" }
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [sums, moments] = inputs else { return Err(format!("expected 2 tensors, got {inputs:?}")) };
        TensorType::f32([sums_of(sums, moments)?.channels])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        rounded(self, inputs, self.values(inputs, |value| value))
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        let Extents { sets, channels, groups, .. } = extents_of(&inputs[0], &inputs[1]);
        let bindings = vec![Binding::Input(0), Binding::Input(1), Binding::Output];
        let params = [("sets", sets.into()), ("groups", groups.into()), ("epsilon", self.norm.epsilon.into())];
        let dispatch = invocations(kernel!("batch_norm/grad_parameter"), bindings, channels, &params);
        vec![Dispatch { constants: vec![("WEIGHT", self.weight.to_string())], ..dispatch }.into()]
    }

    fn flops(&self, inputs: &[TensorType], _: &TensorType) -> u64 {
        inputs[0].shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        let sets = inputs[0].float().shape.extents()[0] as f64;
        // Additions, the inverse root of 4.5 u and the product with it.
        let share = compound((sets + 6.0) * UNIT_ROUNDOFF);
        let magnitudes = self.values(inputs, f64::abs);
        Bound::Elements(magnitudes.into_iter().map(|magnitude| share * magnitude + FLUSHED).collect())
    }
}
