//! `clip_grad_norm`: all gradients scaled so that their norm is at most a given one.
//!
//! Two ops: the norm ([`ClipGradNormTotal`]), summed in an order that depends on the number of parameters only, and the scaling
//! ([`ClipGradNorm`]).

use crate::array::{Real, Tensor};
use crate::error::Result;
use crate::graph::{Bank, Graph, NodeId};
use crate::kernel;
use crate::op::{Bound, Candidate, Case, DeviceProfile, Fill, Op, UNIT_ROUNDOFF};
use crate::ops::cross_entropy::{Total, additions, sum_of_bank};
use crate::ops::softmax::{FLUSHED, compound};
use crate::ops::{in_banks, one_float, zeros};
use crate::shape::{DType, TensorType};
use std::sync::Arc;

/// ‖g‖ = √Σ g² over a whole bank, `[1]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClipGradNormTotal;

/// g ← g · min(1, c / (‖g‖ + 10⁻⁶)), in place, as `PyTorch`'s `clip_grad_norm_`; inputs: the bank of g and ‖g‖, `[1]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipGradNorm {
    /// c.
    pub max_norm: f32,
}

/// What keeps a norm of 0 from being divided by.
const EPSILON: f64 = 1e-6;

impl Graph {
    /// Scales the gradients of all parameters so that their common norm is at most `max_norm`; to be added after
    /// [`Graph::gradients`] and before the optimiser. The result is the norm before, `[1]`.
    ///
    /// # Errors
    /// When there are no parameters, or `max_norm` makes no sense.
    pub fn clip_grad_norm(&mut self, name: &str, max_norm: f32) -> Result<NodeId> {
        let gradients = self.bank(Bank::Gradients)?;
        let total = self.apply(&format!("{name}.total"), ClipGradNormTotal, &[gradients])?;
        self.apply(name, ClipGradNorm { max_norm }, &[gradients, total])?;
        Ok(total)
    }
}

impl Op for ClipGradNormTotal {
    fn name(&self) -> &'static str {
        "clip_grad_norm_total"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        one_float(inputs)?;
        TensorType::f32([1])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let mut norm = zeros(self, inputs);
        let squares = inputs[0].float().data.iter().map(|&g| (g * g).as_f64());
        norm.data[0] = T::from_f64(squares.sum::<f64>().sqrt());
        vec![Tensor::Float(norm)]
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        vec![sum_of_bank(kernel!("clip_grad_norm/squares"), &inputs[0], Total::Root, device)]
    }

    fn flops(&self, inputs: &[TensorType], _: &TensorType) -> u64 {
        2 * inputs[0].shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        let count = inputs[0].float().data.len();
        let norm = output.float().data[0];
        // Squares and additions are rounded, small squares flushed; WGSL's root, an inverse of an inverse root, is right to 4.5 ULP.
        let sum = norm * norm * (1.0 - compound((1.0 + additions(count)) * UNIT_ROUNDOFF)) - count as f64 * FLUSHED;
        Bound::Elements(vec![norm - sum.max(0.0).sqrt() * (1.0 - 9.0 * UNIT_ROUNDOFF)])
    }
}

impl Op for ClipGradNorm {
    fn name(&self) -> &'static str {
        "clip_grad_norm"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let max_norm = self.max_norm;
        if !(max_norm > 0.0 && max_norm.is_finite()) {
            return Err(format!("the largest norm must be above 0 and finite, got {max_norm}"));
        }
        match inputs {
            [gradients, norm] if gradients.dtype == DType::F32 && *norm == TensorType::f32([1])? => {
                Ok(gradients.clone())
            }
            _ => Err(format!("expected a bank and its norm [1], got {inputs:?}")),
        }
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let mut gradients = inputs[0].float().clone();
        let scale = T::from_f64(f64::from(self.max_norm)) / (inputs[1].float().data[0] + T::from_f64(EPSILON));
        if scale < T::one() {
            gradients.data.iter_mut().for_each(|g| *g *= scale);
        }
        vec![Tensor::Float(gradients)]
    }

    fn writes(&self) -> &'static [usize] {
        &[0]
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let params = [("max_norm", self.max_norm.into())];
        vec![in_banks(kernel!("clip_grad_norm/scale"), &[], &[0, 1], inputs, &params, device)]
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        output.shape.elements() as u64
    }

    fn bound(&self, _: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        // ε, the sum with it and the product are rounded, the division has 2.5 ULP.
        let share = compound(8.0 * UNIT_ROUNDOFF);
        Bound::Elements(output.float().data.iter().map(|g| g.abs() * share + FLUSHED).collect())
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for (count, fill, what) in [
        (1, Fill::Normal(1.0), "one element"),
        (16, Fill::Normal(1.0), "one sum"),
        (17, Fill::Normal(1.0), "one over"),
        (64 * 13, Fill::Normal(1e-3), "prime number of workgroups"),
        (1024, Fill::Constant(0.0), "all zero"),
        (16 * 32 * 3 + 5, Fill::Normal(1e15), "three stages of sums, large"),
        (64 * 7, Fill::Normal(1e-15), "small"),
        (64 * 65_537, Fill::Ties, "many"),
    ] {
        let inputs = vec![(TensorType::f32([count])?, fill)];
        cases.push(Case { name: format!("{what}: {count}"), op: Arc::new(ClipGradNormTotal), inputs });
    }
    for (count, norm, max_norm, what) in [
        (64, 3.0, 1.0, "one workgroup, clipped"),
        (128, 0.5, 1.0, "short enough already"),
        (64, 0.0, 1e-3, "no gradient at all"),
        (64, 1e-5, 1e-5, "as short as epsilon matters"),
        (64 * 13, 1e30, 5.0, "prime number of workgroups, a huge norm"),
        (64 * 65_537, 7.0, 2.0, "past 65,535 workgroups"),
    ] {
        let inputs =
            vec![(TensorType::f32([count])?, Fill::Normal(1.0)), (TensorType::f32([1])?, Fill::Constant(norm))];
        cases.push(Case { name: what.into(), op: Arc::new(ClipGradNorm { max_norm }), inputs });
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{banks, evaluate};
    use crate::graph::Init;
    use crate::ops::SgdSettings;
    use std::collections::BTreeMap;

    #[test]
    fn the_update_takes_the_clipped_gradients_and_the_norm_is_that_before() {
        for max_norm in [3.0_f32, 50.0] {
            let mut graph = Graph::new();
            // The loss is 3a + 4b, so the gradient is (3, 4) and its norm 5.
            let nodes = ["a", "b"].map(|name| graph.parameter(name, [1], Init::Zeros).unwrap());
            let mut terms = [nodes[0], nodes[1], nodes[1], nodes[0], nodes[1], nodes[0], nodes[1]].into_iter();
            let first = terms.next().unwrap();
            let loss = terms.fold(first, |sum, term| graph.add("sum", sum, term).unwrap());
            let (mut graph, _) = graph.gradients(loss, &[]).unwrap();
            let norm = graph.clip_grad_norm("clip", max_norm).unwrap();
            let rate = graph.input("rate", TensorType::f32([1]).unwrap());
            graph.sgd("update", rate, SgdSettings { momentum: 0.0, weight_decay: 0.0 }, None).unwrap();
            graph.mark_output("norm", norm).unwrap();
            let one = Tensor::Float(crate::array::Array::filled(graph.shape(rate).clone(), 1.0));
            let mut banks = banks::<f64>(&graph, &graph.initial_parameters(0));
            let outputs = evaluate(&graph, &BTreeMap::from([(rate, one)]), &mut banks).unwrap();
            assert!((outputs[&norm].float().data[0] - 5.0).abs() < 1e-12);
            let scale = 1.0_f64.min(f64::from(max_norm) / (5.0 + EPSILON));
            for (parameter, gradient) in graph.parameters().iter().zip([3.0, 4.0]) {
                for (bank, sign) in [(Bank::Gradients, 1.0), (Bank::Parameters, -1.0)] {
                    let found = graph.bank_slice(&banks[&bank], parameter)[0];
                    assert!((found - sign * gradient * scale).abs() < 1e-12, "{bank:?}: {found}");
                }
            }
        }
    }

    #[test]
    fn a_largest_norm_that_makes_no_sense_is_refused() {
        let mut graph = Graph::new();
        graph.parameter("w", [1], Init::Zeros).unwrap();
        for max_norm in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let error = graph.clip_grad_norm("clip", max_norm).unwrap_err().to_string();
            assert!(error.contains("largest norm"), "{error}");
        }
    }
}
