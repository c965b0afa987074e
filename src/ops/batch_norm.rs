//! `batch_norm`: images normalised by the mean and variance of each channel over the batch, or, as group norm, by those of groups of
//! channels of each image; and the running statistics that stand for those of a batch at inference.
//!
//! A node has one tensor, so there are several ops. Mean and variance, the *moments*, are a tensor `[sets, 2, groups]`, from
//! [`BatchNormMoments`] in training and from [`BatchNormStack`], made of running statistics, at inference; [`BatchNorm`] normalises by them,
//! wherever they come from. Each has its own partial derivatives, which add up to the gradient of the whole.

mod gradients;
mod running;

pub use gradients::{
    BatchNormGradInput, BatchNormGradMoments, BatchNormGradParameter, BatchNormGradSums, BatchNormMomentsGrad,
};
pub use running::{BatchNormStack, BatchNormStore, BatchNormTrack, Statistic};

use crate::array::{Real, Tensor};
use crate::error::Result;
use crate::graph::{Graph, NodeId};
use crate::kernel;
use crate::onnx::{Attribute, Translation, Value};
use crate::op::{AnyOp, Backward, Binding, Bound, Candidate, Case, DeviceProfile, Fill, Op, Param, UNIT_ROUNDOFF};
use crate::ops::softmax::{FLUSHED, compound};
use crate::ops::{in_both_precisions, invocations, rounded, turns, zeros};
use crate::shape::TensorType;
use rayon::prelude::*;
use std::sync::Arc;

/// Over which elements means and variances are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Each channel, over all images of the batch: one set of pixels, as many groups as channels.
    Batch,
    /// Each of so many groups of channels, in each image by itself: as many sets of pixels as images. As many groups as channels make
    /// instance norm, one makes layer norm.
    Groups(usize),
}

/// The mean and the biased variance of each group of channels in each set of pixels, `[sets, 2, groups]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchNormMoments {
    /// Over what they are taken.
    pub over: Over,
}

/// y = (x − mean) / √(variance + ε) · weight + bias; inputs x `[n, h, w, c]`, moments, weight `[c]` and bias `[c]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    /// Over what the moments were taken.
    pub over: Over,
    /// ε, which keeps the root from 0.
    pub epsilon: f32,
}

/// What a batch norm has besides its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchNormParameters {
    /// γ, `[c]`.
    pub weight: NodeId,
    /// β, `[c]`.
    pub bias: NodeId,
    /// The buffer of the mean that stands for the batch's at inference, `[c]`.
    pub running_mean: NodeId,
    /// The buffer of the variance, `[c]`.
    pub running_var: NodeId,
}

/// `PyTorch`'s settings of a batch norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNormSettings {
    /// ε.
    pub epsilon: f32,
    /// The share of each batch in the running statistics.
    pub momentum: f32,
}

impl Default for BatchNormSettings {
    fn default() -> Self {
        Self { epsilon: 1e-5, momentum: 0.1 }
    }
}

impl Graph {
    /// x normalised channel by channel: in training by the moments of the batch, which the running statistics follow as soon as
    /// [`Graph::store_tracked`] is added; otherwise by the running statistics.
    ///
    /// # Errors
    /// When the shapes do not fit each other, the running statistics are no buffers, or a batch in training has a single value per
    /// channel, whose variance says nothing.
    pub fn batch_norm(
        &mut self,
        name: &str,
        x: NodeId,
        parameters: &BatchNormParameters,
        training: bool,
        settings: BatchNormSettings,
    ) -> Result<NodeId> {
        let BatchNormParameters { weight, bias, running_mean, running_var } = *parameters;
        let BatchNormSettings { epsilon, momentum } = settings;
        let over = Over::Batch;
        let moments_name = format!("{name}.moments");
        let moments = if training {
            let moments = self.apply(&moments_name, BatchNormMoments { over }, &[x])?;
            let values = self.shape(x).pixels();
            for (buffer, statistic) in [(running_mean, Statistic::Mean), (running_var, Statistic::Variance)] {
                let track = BatchNormTrack { statistic, momentum, values };
                let name = format!("{}.new", self.find("batch_norm", name, buffer)?.name);
                let new = self.apply(&name, track, &[buffer, moments])?;
                self.track(buffer, new)?;
            }
            moments
        } else {
            self.apply(&moments_name, BatchNormStack, &[running_mean, running_var])?
        };
        self.apply(name, BatchNorm { over, epsilon }, &[x, moments, weight, bias])
    }

    /// x normalised by the moments of each of `groups` groups of neighbouring channels in each image.
    ///
    /// # Errors
    /// When the shapes do not fit each other, or the channels do not fall into so many groups.
    pub fn group_norm(
        &mut self,
        name: &str,
        x: NodeId,
        [weight, bias]: [NodeId; 2],
        groups: usize,
        epsilon: f32,
    ) -> Result<NodeId> {
        let over = Over::Groups(groups);
        let moments = self.apply(&format!("{name}.moments"), BatchNormMoments { over }, &[x])?;
        self.apply(name, BatchNorm { over, epsilon }, &[x, moments, weight, bias])
    }
}

/// How images fall into sets of pixels and groups of channels.
#[derive(Clone, Copy, Debug)]
struct Extents {
    sets: usize,
    /// Of each set.
    pixels: usize,
    channels: usize,
    groups: usize,
}

impl Extents {
    fn new(over: Over, x: &TensorType) -> Result<Self, String> {
        let [n, h, w, channels] = x.shape.image()?;
        if !x.dtype.is_float() {
            return Err(format!("expected images of floats, got {x}"));
        }
        match over {
            Over::Batch => Ok(Self { sets: 1, pixels: n * h * w, channels, groups: channels }),
            Over::Groups(groups) if groups > 0 && channels.is_multiple_of(groups) => {
                Ok(Self { sets: n, pixels: h * w, channels, groups })
            }
            Over::Groups(groups) => Err(format!("{channels} channels do not fall into {groups} equal groups")),
        }
    }

    /// Of images that the shape rule has admitted.
    fn of(over: Over, x: &TensorType) -> Self {
        Self::new(over, x).unwrap_or_else(|_| unreachable!("the shape rule has passed"))
    }

    fn moments(&self) -> Result<TensorType, String> {
        TensorType::f32([self.sets, 2, self.groups])
    }

    fn sums(&self) -> Result<TensorType, String> {
        TensorType::f32([self.sets, 2, self.channels])
    }

    /// Channels of a group.
    fn size(&self) -> usize {
        self.channels / self.groups
    }

    /// Elements behind a mean.
    fn terms(&self) -> usize {
        self.pixels * self.size()
    }

    /// The place of a mean among the moments.
    fn mean(&self, set: usize, group: usize) -> usize {
        set * 2 * self.groups + group
    }

    /// The set, the channel and the place of the mean of each element in order.
    fn places(&self, element: usize) -> (usize, usize, usize) {
        let (set, c) = (element / self.channels / self.pixels, element % self.channels);
        (set, c, self.mean(set, c / self.size()))
    }

    fn params(&self) -> [(&'static str, Param); 3] {
        [("groups", self.groups.into()), ("pixels", self.pixels.into()), ("channels", self.channels.into())]
    }
}

/// Into how many strips the terms of a mean are cut: about as many as each has terms.
fn strips(terms: usize) -> usize {
    terms.isqrt()
}

/// The mean and the biased variance of some numbers.
fn mean_and_variance(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let (count, sum) = values.clone().fold((0.0, 0.0), |(count, sum), x| (count + 1.0, sum + x));
    let mean = sum / count;
    (mean, values.map(|x| (x - mean) * (x - mean)).sum::<f64>() / count)
}

/// The elements behind each mean, in order of the statistics.
fn elements<T: Real>(extents: Extents, x: &[T], statistic: usize) -> impl Iterator<Item = f64> + Clone {
    let (set, group) = (statistic / extents.groups, statistic % extents.groups);
    let pixels = x[set * extents.pixels * extents.channels..].chunks(extents.channels).take(extents.pixels);
    pixels.flat_map(move |pixel| pixel[group * extents.size()..][..extents.size()].iter().map(|x| x.as_f64()))
}

impl Op for BatchNormMoments {
    fn name(&self) -> &'static str {
        "batch_norm_moments"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [x] = inputs else { return Err(format!("expected one tensor, got {inputs:?}")) };
        Extents::new(self.over, x)?.moments()
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let extents = Extents::of(self.over, &inputs[0].tensor_type());
        let x = &inputs[0].float().data;
        let statistics = (0..extents.sets * extents.groups).into_par_iter();
        let values: Vec<(f64, f64)> = statistics.map(|k| mean_and_variance(elements(extents, x, k))).collect();
        let mut moments = vec![0.0; 2 * values.len()];
        for (k, (mean, variance)) in values.into_iter().enumerate() {
            let at = extents.mean(k / extents.groups, k % extents.groups);
            moments[at] = mean;
            moments[at + extents.groups] = variance;
        }
        rounded(self, inputs, moments)
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        let extents = Extents::of(self.over, &inputs[0]);
        let (statistics, terms) = (extents.sets * extents.groups, extents.terms());
        let strips = strips(terms);
        let partials = invocations(
            kernel!("batch_norm/partials"),
            vec![Binding::Input(0), Binding::Workspace(0)],
            strips * statistics,
            &[&[("statistics", statistics.into())], &extents.params()[..], &[("strips", strips.into())]].concat(),
        );
        let moments = invocations(
            kernel!("batch_norm/moments"),
            vec![Binding::Workspace(0), Binding::Output],
            statistics,
            &[("groups", extents.groups.into()), ("terms", terms.into()), ("strips", strips.into())],
        );
        vec![Candidate { dispatches: vec![partials, moments], workspace: vec![strips * 2 * statistics] }]
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        let inputs = [backward.inputs[0], backward.output, backward.grad_output];
        Ok(vec![Some(backward.apply("grad_input", BatchNormMomentsGrad { over: self.over }, &inputs)?)])
    }

    fn flops(&self, inputs: &[TensorType], _: &TensorType) -> u64 {
        // An addition for the mean; a subtraction, a square and an addition for the variance.
        4 * inputs[0].shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        let extents = Extents::of(self.over, &inputs[0].tensor_type());
        let (x, moments) = (&inputs[0].float().data, &output.float().data);
        let strips = strips(extents.terms());
        let additions = (extents.terms().div_ceil(strips) + strips) as f64;
        let mut bounds = vec![0.0; moments.len()];
        // Both sums, a difference, the product with the number of terms, two divisions of 2.5 ULP.
        let share = compound((additions + 13.0) * UNIT_ROUNDOFF);
        for k in 0..extents.sets * extents.groups {
            let at = extents.mean(k / extents.groups, k % extents.groups);
            let values: Vec<f64> = elements(extents, x, k).collect();
            // Of each strip the mean, by how much it may be off, being its first term plus the mean distance to that, and its terms.
            let strip = |first: usize| {
                let terms = values[first..].iter().step_by(strips);
                let (mean, _) = mean_and_variance(terms.clone().copied());
                let (distance, _) = mean_and_variance(terms.clone().map(|x| (x - values[first]).abs()));
                (mean, share * distance, terms.len() as f64)
            };
            let strip_means: Vec<(f64, f64, f64)> = (0..strips).map(strip).collect();
            let last_addition = 2.0 * UNIT_ROUNDOFF * values.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
            let strip_error = strip_means.iter().fold(0.0, |largest: f64, &(_, error, _)| largest.max(error));
            let strip_error = strip_error + last_addition + FLUSHED;
            // The mean is that of the first strip plus the mean distance of them all to that, whose own error cancels.
            let distances: f64 =
                strip_means.iter().map(|(mean, _, terms)| terms * (mean - strip_means[0].0).abs()).sum();
            let distance = distances / values.len() as f64 + 2.0 * strip_error;
            bounds[at] = strip_error + share * distance + last_addition + FLUSHED;
            // What means that are off by at most d do to the sum of squares, by Cauchy and Schwarz; then its own roundings.
            let d = strip_error + bounds[at];
            let variance = moments[at + extents.groups];
            let centre = 2.0 * variance.sqrt() * d + 2.0 * d * d;
            let rounding = compound((additions + 12.0) * UNIT_ROUNDOFF);
            bounds[at + extents.groups] = centre + rounding * (variance + centre) + FLUSHED;
        }
        Bound::Elements(bounds)
    }
}

impl BatchNorm {
    /// 1 / √(variance + ε).
    fn scale(self, variance: f64) -> f64 {
        1.0 / (variance + f64::from(self.epsilon)).sqrt()
    }
}

impl Op for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        if !(self.epsilon > 0.0 && self.epsilon.is_finite()) {
            return Err(format!("epsilon must be above 0 and finite, got {}", self.epsilon));
        }
        let [x, moments, weight, bias] = inputs else { return Err(format!("expected 4 tensors, got {inputs:?}")) };
        let extents = Extents::new(self.over, x)?;
        let channels = TensorType::f32([extents.channels])?;
        if *moments != extents.moments()? || *weight != channels || *bias != channels {
            return Err(format!(
                "images {x} need moments {}, weight and bias {channels}, got {moments}, {weight} and {bias}",
                extents.moments()?
            ));
        }
        Ok(x.clone())
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let [x, moments, weight, bias] = [0, 1, 2, 3].map(|input| &inputs[input].float().data);
        let extents = Extents::of(self.over, &inputs[0].tensor_type());
        let epsilon = T::from_f64(f64::from(self.epsilon));
        let mut y = zeros(self, inputs);
        y.data.par_iter_mut().enumerate().with_min_len(4096).for_each(|(i, y)| {
            let (_, c, mean) = extents.places(i);
            let scale = (moments[mean + extents.groups] + epsilon).sqrt().recip();
            *y = (x[i] - moments[mean]) * scale * weight[c] + bias[c];
        });
        vec![Tensor::Float(y)]
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let extents = Extents::of(self.over, &inputs[0]);
        let params = [&extents.params()[..], &[("epsilon", self.epsilon.into())]].concat();
        let bindings = (0..4).map(Binding::Input).chain([Binding::Output]).collect();
        vec![turns(kernel!("batch_norm/forward"), bindings, output.shape.elements(), &params, device).into()]
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        let (op, grad, needs) = (*self, backward.grad_output, backward.needs);
        let &[x, moments, weight, _] = backward.inputs else { return Ok(vec![None; 4]) };
        let mut gradients = vec![None; 4];
        if needs[0] {
            gradients[0] = Some(backward.apply("grad_input", BatchNormGradInput(op), &[moments, weight, grad])?);
        }
        if needs[1..].contains(&true) {
            let sums = backward.apply("grad_sums", BatchNormGradSums { over: op.over }, &[x, moments, grad])?;
            if needs[1] {
                let inputs = [sums, moments, weight];
                gradients[1] = Some(backward.apply("grad_moments", BatchNormGradMoments(op), &inputs)?);
            }
            for (input, role) in [(2, "grad_weight"), (3, "grad_bias")] {
                let parameter = BatchNormGradParameter { norm: op, weight: input == 2 };
                gradients[input] =
                    needs[input].then(|| backward.apply(role, parameter, &[sums, moments])).transpose()?;
            }
        }
        Ok(gradients)
    }

    fn onnx(&self, translation: &mut Translation<'_>) -> Result<Value> {
        let [mean, variance] = translation.moments(1)?;
        let [x, weight, bias] = [translation.tensor(0)?, translation.tensor(2)?, translation.tensor(3)?];
        let attributes = vec![Attribute::float("epsilon", self.epsilon)];
        Ok(translation.result("BatchNormalization", &[&x, &weight, &bias, &mean, &variance], attributes))
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        // A difference, two products, a sum; and for the scale a sum and a root, which a kernel computes for each element anew.
        6 * output.shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        let [x, moments, weight] = [0, 1, 2].map(|input| &inputs[input].float().data);
        let extents = Extents::of(self.over, &inputs[0].tensor_type());
        let bound = |(i, y): (usize, &f64)| {
            let (_, c, mean) = extents.places(i);
            let scale = self.scale(moments[mean + extents.groups]);
            // The difference, two products, the sum under the root and its inverse of 2 ULP; then the bias is added.
            let product = (x[i] - moments[mean]) * scale * weight[c];
            compound(8.0 * UNIT_ROUNDOFF) * product.abs() + UNIT_ROUNDOFF * y.abs() + FLUSHED
        };
        Bound::Elements(output.float().data.iter().enumerate().map(bound).collect())
    }
}

/// Images with their groups that say something about kernels.
fn images() -> Vec<([usize; 4], Over, &'static str)> {
    vec![
        ([1, 2, 1, 1], Over::Batch, "two pixels"),
        ([2, 5, 7, 3], Over::Batch, "odd sizes, batch 2"),
        ([3, 4, 4, 65], Over::Batch, "one channel more than a workgroup, batch 3"),
        ([1, 9, 8, 6], Over::Groups(2), "two groups of three"),
        ([3, 5, 3, 4], Over::Groups(4), "instance norm, batch 3"),
        ([2, 7, 3, 5], Over::Groups(1), "layer norm, batch 2"),
    ]
}

/// Cases of a batch norm and its gradients over some images.
fn cases_over(extents: [usize; 4], over: Over, what: &str) -> Result<Vec<Case>, String> {
    let (norm, x) = (BatchNorm { over, epsilon: 1e-3 }, TensorType::f32(extents)?);
    let groups = Extents::new(over, &x)?;
    let channels = (TensorType::f32([groups.channels])?, Fill::Normal(1.0));
    let moments = (groups.moments()?, Fill::Uniform(0.5, 2.0));
    let [sums, grad_moments] = [groups.sums()?, groups.moments()?].map(|numbers| (numbers, Fill::Normal(1.0)));
    let images = (x, Fill::Normal(1.0));
    let offset = (images.0.clone(), Fill::Uniform(3.0, 5.0));
    let constant = (images.0.clone(), Fill::Constant(213.1));
    let parameter = |weight| Arc::new(BatchNormGradParameter { norm, weight });
    let name = format!("{extents:?} {over:?} {what}");
    let case = |op: Arc<dyn AnyOp>, inputs: Vec<(TensorType, Fill)>| Case { name: name.clone(), op, inputs };
    Ok(in_both_precisions(vec![
        case(Arc::new(BatchNormMoments { over }), vec![offset]),
        Case { name: format!("{name}, all equal"), ..case(Arc::new(BatchNormMoments { over }), vec![constant]) },
        case(Arc::new(norm), vec![images.clone(), moments.clone(), channels.clone(), channels.clone()]),
        case(Arc::new(BatchNormGradSums { over }), vec![images.clone(), moments.clone(), images.clone()]),
        case(Arc::new(BatchNormGradInput(norm)), vec![moments.clone(), channels.clone(), images.clone()]),
        case(Arc::new(BatchNormMomentsGrad { over }), vec![images, moments.clone(), grad_moments]),
        case(Arc::new(BatchNormGradMoments(norm)), vec![sums.clone(), moments.clone(), channels]),
        case(parameter(true), vec![sums.clone(), moments.clone()]),
        case(parameter(false), vec![sums, moments]),
    ]))
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for (extents, over, what) in images() {
        cases.extend(cases_over(extents, over, what)?);
    }
    // The other ops of these have grids of one workgroup for 64 channels or groups.
    let large = cases_over([1, 1021, 1031, 4], Over::Batch, "past 65,535 workgroups")?;
    cases
        .extend(large.into_iter().filter(|case| case.inputs.iter().any(|(input, _)| input.shape.elements() > 1 << 20)));
    cases.extend(running::cases()?);
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Array;
    use crate::cpu::{banks, evaluate};
    use crate::graph::{Bank, Init};
    use std::collections::BTreeMap;

    /// A graph of one batch norm of two channels on `[1, 2, 2, 2]`.
    fn graph(training: bool) -> (Graph, NodeId, NodeId) {
        let mut graph = Graph::new();
        let x = graph.input("x", TensorType::f32([1, 2, 2, 2]).unwrap());
        let parameters = BatchNormParameters {
            weight: graph.parameter("norm.weight", [2], Init::Constant(2.0)).unwrap(),
            bias: graph.parameter("norm.bias", [2], Init::Constant(0.5)).unwrap(),
            running_mean: graph.buffer("norm.running_mean", [2], Init::Zeros).unwrap(),
            running_var: graph.buffer("norm.running_var", [2], Init::Constant(1.0)).unwrap(),
        };
        let settings = BatchNormSettings { epsilon: 1.0, momentum: 0.5 };
        let y = graph.batch_norm("norm", x, &parameters, training, settings).unwrap();
        graph.mark_output("y", y).unwrap();
        (graph, x, y)
    }

    #[test]
    fn training_normalises_by_the_batch_and_tracks_it_and_inference_by_what_was_tracked() {
        let values = vec![1.0, 10.0, 3.0, 10.0, 5.0, 10.0, 7.0, 10.0];
        let image: Tensor<f64> = Array::new(TensorType::f32([1, 2, 2, 2]).unwrap().shape, values).unwrap().into();
        let (mut graph, x, y) = graph(true);
        graph.store_tracked("running", None).unwrap();
        let mut state = banks::<f64>(&graph, &graph.initial_parameters(0));
        let outputs = evaluate(&graph, &BTreeMap::from([(x, image.clone())]), &mut state).unwrap();
        // Means 4 and 10, variances 5 and 0.
        let scaled = |x: f64| (x - 4.0) / 6.0_f64.sqrt() * 2.0 + 0.5;
        let expected = [scaled(1.0), 0.5, scaled(3.0), 0.5, scaled(5.0), 0.5, scaled(7.0), 0.5];
        for (found, expected) in outputs[&y].float().data.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-14, "{found} {expected}");
        }
        let slice = |name: &str| {
            let parameter = graph.parameters().iter().find(|parameter| parameter.name == name).unwrap();
            graph.bank_slice(&state[&Bank::Parameters], parameter).to_vec()
        };
        assert_eq!(slice("norm.running_mean"), [2.0, 5.0]);
        // The variance without bias is 20 / 3.
        assert_eq!(slice("norm.running_var"), [0.5 + 0.5 * (5.0 * (4.0 / 3.0)), 0.5]);
        let (inference, x, y) = super::tests::graph(false);
        let outputs = evaluate(&inference, &BTreeMap::from([(x, image)]), &mut state).unwrap();
        let first = (1.0 - 2.0) / (1.0 + 0.5 + 10.0 / 3.0_f64).sqrt() * 2.0 + 0.5;
        assert!((outputs[&y].float().data[0] - first).abs() < 1e-14);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let mut graph = Graph::new();
        let one = graph.input("one", TensorType::f32([1, 1, 1, 2]).unwrap());
        let x = graph.input("x", TensorType::f32([1, 2, 2, 2]).unwrap());
        let weight = graph.parameter("weight", [2], Init::Zeros).unwrap();
        let buffer = graph.buffer("buffer", [2], Init::Zeros).unwrap();
        let wide = graph.parameter("wide", [3], Init::Zeros).unwrap();
        let parameters = BatchNormParameters { weight, bias: weight, running_mean: buffer, running_var: buffer };
        let default = BatchNormSettings::default();
        for (x, parameters, epsilon, part) in [
            (one, parameters, 1e-5, "a single value"),
            (x, BatchNormParameters { running_mean: weight, ..parameters }, 1e-5, "no buffer"),
            (x, BatchNormParameters { bias: wide, ..parameters }, 1e-5, "weight and bias 2"),
            (x, parameters, 0.0, "epsilon"),
        ] {
            let settings = BatchNormSettings { epsilon, ..default };
            let error = graph.clone().batch_norm("norm", x, &parameters, true, settings).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let error = graph.group_norm("norm", x, [weight; 2], 3, 1e-5).unwrap_err().to_string();
        assert!(error.contains("2 channels do not fall into 3"), "{error}");
    }
}
