//! `dropout`: zeros at random, by a mask that is computed where it is used and never stored.

use crate::array::{Array, Real, Tensor};
use crate::error::Result;
use crate::graph::{Graph, NodeId};
use crate::kernel;
use crate::op::{Backward, Binding, Bound, Candidate, Case, DeviceProfile, Fill, Op, Param, UNIT_ROUNDOFF};
use crate::ops::{in_both_precisions, turns};
use crate::random::{hash, pcg3d};
use crate::shape::TensorType;
use rayon::prelude::*;
use std::sync::Arc;

/// y = x · mask / (1 − rate); inputs x and `u32 [2]`, the seed and the step.
///
/// The mask is a pure function of (seed, stream, step, position). The gradient is the same op on dy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The probability of a zero, in [0, 1).
    pub rate: f32,
    /// Tells the dropouts of a network apart: each draws masks of its own.
    pub stream: u32,
}

impl Dropout {
    /// Elements whose random word is below this are dropped: rate · 2³², rounded down.
    fn threshold(self) -> u32 {
        (f64::from(self.rate) * 2.0_f64.powi(32)) as u32
    }
}

/// The random word of element `i`: the mask's key is mixed from seed, stream and step, the position is mixed into it.
fn word(seed: u32, stream: u32, step: u32, i: u32) -> u32 {
    let [x, y, z] = pcg3d([step, stream, seed]);
    hash(z, y, x ^ i)
}

impl Graph {
    /// Sets elements of x to zero at random and scales the others; `state` is the seed and the step, `u32 [2]`.
    ///
    /// # Errors
    /// When the rate is not in [0, 1), or `state` is not `u32 [2]`.
    pub fn dropout(&mut self, name: &str, x: NodeId, state: NodeId, settings: Dropout) -> Result<NodeId> {
        self.apply(name, settings, &[x, state])
    }
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        if !(0.0..1.0).contains(&self.rate) {
            return Err(format!("the rate must be at least 0 and below 1, got {}", self.rate));
        }
        match inputs {
            [x, state] if x.dtype.is_float() && *state == TensorType::u32([2])? => Ok(x.clone()),
            _ => Err(format!("expected a float tensor, and seed and step as u32 [2], got {inputs:?}")),
        }
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (x, state) = (inputs[0].float(), &inputs[1].uint().data);
        let scale = T::from_f64(1.0 / (1.0 - f64::from(self.rate)));
        let keep = |i: usize| word(state[0], self.stream, state[1], i as u32) >= self.threshold();
        let data = x.data.par_iter().enumerate().map(|(i, &x)| if keep(i) { x * scale } else { T::zero() }).collect();
        vec![Tensor::Float(Array { shape: x.shape.clone(), data })]
    }

    fn candidates(&self, _: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let params = [
            ("stream", Param::U32(self.stream)),
            ("threshold", Param::U32(self.threshold())),
            ("scale", ((1.0 / (1.0 - f64::from(self.rate))) as f32).into()),
        ];
        let bindings = vec![Binding::Input(0), Binding::Input(1), Binding::Output];
        vec![turns(kernel!("dropout/forward"), bindings, output.shape.elements(), &params, device).into()]
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        let inputs = [backward.grad_output, backward.inputs[1]];
        Ok(vec![Some(backward.apply("grad_input", *self, &inputs)?), None])
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        output.shape.elements() as u64
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Relative((2.0 + UNIT_ROUNDOFF) * UNIT_ROUNDOFF)
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for (extents, rate, what) in [
        ([1, 1, 1, 1], 0.0, "one element"),
        ([1, 1, 1, 64], 0.0, "one workgroup, nothing dropped"),
        ([1, 1, 5, 13], 0.5, "one over"),
        ([2, 7, 5, 3], 0.5, "odd sizes, batch 2"),
        ([1, 13, 11, 5], 0.9, "prime sizes"),
        ([1, 1021, 1031, 4], 0.3, "past 65,535 workgroups"),
    ] {
        let x = TensorType::f32(extents)?;
        let name = format!("{what}: {x}, rate {rate}");
        for stream in [0, 7] {
            let op = Arc::new(Dropout { rate, stream });
            let inputs = vec![(x.clone(), Fill::Normal(1.0)), (TensorType::u32([2])?, Fill::Bits)];
            cases.push(Case { name: format!("{name}, stream {stream}"), op, inputs });
        }
    }
    Ok(in_both_precisions(cases))
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "masks are exact")]
mod tests {
    use super::*;

    fn mask(rate: f32, stream: u32, seed: u32, step: u32) -> Vec<f32> {
        let x: Tensor<f32> = Array::filled(TensorType::f32([10_000]).unwrap().shape, 1.0).into();
        let state = Tensor::Uint(Array::new(TensorType::u32([2]).unwrap().shape, vec![seed, step]).unwrap());
        Dropout { rate, stream }.reference(&[&x, &state])[0].float().data.clone()
    }

    #[test]
    fn the_rate_is_kept_and_so_is_the_mean() {
        for (rate, scale) in [(0.5, 2.0), (0.9, 10.0), (0.25, 4.0 / 3.0)] {
            let y = mask(rate, 0, 1, 2);
            let zeros = y.iter().filter(|&&y| y == 0.0).count() as f32 / 1e4;
            assert!((zeros - rate).abs() < 0.015, "{zeros} of {rate}");
            assert!(y.iter().all(|&y| y == 0.0 || (y - scale).abs() < 1e-5));
        }
        assert!(mask(0.0, 0, 1, 2).iter().all(|&y| y == 1.0));
    }

    #[test]
    fn seed_stream_and_step_each_change_half_of_the_mask() {
        let first = mask(0.5, 0, 1, 2);
        assert_eq!(first, mask(0.5, 0, 1, 2));
        for other in [mask(0.5, 1, 1, 2), mask(0.5, 0, 2, 2), mask(0.5, 0, 1, 3), mask(0.5, 2, 1, 0)] {
            let differing = first.iter().zip(&other).filter(|(a, b)| a != b).count();
            assert!((4_800..5_200).contains(&differing), "{differing} of 10,000 differ");
        }
    }

    #[test]
    fn impossible_rates_are_refused() {
        for rate in [1.0, -0.1, f32::NAN] {
            let mut graph = Graph::new();
            let x = graph.input("x", TensorType::f32([1]).unwrap());
            let state = graph.input("generator", TensorType::u32([2]).unwrap());
            let message = graph.dropout("dropout", x, state, Dropout { rate, stream: 0 }).unwrap_err().to_string();
            assert!(message.contains("the rate must be at least 0 and below 1"), "{message}");
        }
    }
}
