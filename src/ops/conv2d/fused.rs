//! Convolutions computed together with the ReLU that follows, or with the gradient of the one before; see [`crate::fuse`].

use super::Conv2d;
use crate::array::{Real, Tensor};
use crate::op::{Binding, Bound, ByImage, Candidate, DeviceProfile, Op, Proof};
use crate::ops::{Relu, ReluGrad};
use crate::shape::TensorType;

/// [`Relu`] of [`Conv2d`], whose inputs it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dRelu(pub Conv2d);

/// [`ReluGrad`] of a gradient of a convolution's input, which a ReLU made: 0 where y ≤ 0; inputs those of the gradient, then y.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThenReluGrad<G>(pub G);

/// A gradient that [`ThenReluGrad`] can take in.
pub trait ThroughRelu: Op {
    /// The op's name with the ReLU's gradient behind.
    const NAME: &'static str;

    /// [`Op::candidates`], and the result is 0 where `mask` is not above 0.
    fn masked_candidates(
        &self,
        inputs: &[TensorType],
        output: &TensorType,
        device: &DeviceProfile,
        mask: Option<Binding>,
    ) -> Vec<Candidate>;
}

impl Op for Conv2dRelu {
    fn name(&self) -> &'static str {
        "conv2d_relu"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        self.0.output(inputs)
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        Relu.reference(&self.0.reference(inputs).iter().collect::<Vec<_>>())
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        self.0.activated_candidates(inputs, output, device, true)
    }

    fn proof(&self) -> Option<Proof> {
        Some(Proof::of::<Self>())
    }

    fn flops(&self, inputs: &[TensorType], output: &TensorType) -> u64 {
        self.0.flops(inputs, output) + Relu.flops(&[], output)
    }

    fn bound(&self, inputs: &[&Tensor<f64>], output: &Tensor<f64>, result: usize) -> Bound {
        self.0.bound(inputs, output, result)
    }

    fn candidate_bound(
        &self,
        candidate: &Candidate,
        inputs: &[&Tensor<f64>],
        output: &Tensor<f64>,
        result: usize,
    ) -> Option<Bound> {
        self.0.candidate_bound(candidate, inputs, output, result)
    }
}

impl<G: ThroughRelu> Op for ThenReluGrad<G> {
    fn name(&self) -> &'static str {
        G::NAME
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let Some((y, inputs)) = inputs.split_last() else { return Err("expected a gradient's inputs and y".into()) };
        ReluGrad.output(&[y.clone(), self.0.output(inputs)?])
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[1, 2])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let Some((y, inputs)) = inputs.split_last() else { return vec![] };
        self.0.reference(inputs).iter().flat_map(|grad| ReluGrad.reference(&[y, grad])).collect()
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let last = inputs.len() - 1;
        self.0.masked_candidates(&inputs[..last], output, device, Some(Binding::Input(last)))
    }

    fn proof(&self) -> Option<Proof> {
        Some(Proof::of::<Self>())
    }

    fn flops(&self, inputs: &[TensorType], output: &TensorType) -> u64 {
        self.0.flops(&inputs[..inputs.len() - 1], output) + ReluGrad.flops(&[], output)
    }

    fn bound(&self, inputs: &[&Tensor<f64>], output: &Tensor<f64>, result: usize) -> Bound {
        self.0.bound(&inputs[..inputs.len() - 1], output, result)
    }

    fn candidate_bound(
        &self,
        candidate: &Candidate,
        inputs: &[&Tensor<f64>],
        output: &Tensor<f64>,
        result: usize,
    ) -> Option<Bound> {
        self.0.candidate_bound(candidate, &inputs[..inputs.len() - 1], output, result)
    }
}
