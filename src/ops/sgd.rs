//! `sgd`: stochastic gradient descent with momentum and weight decay, in one go over all parameters.

use crate::array::{Array, Real, Tensor};
use crate::error::Result;
use crate::graph::{Bank, Graph, NodeId};
use crate::kernel;
use crate::op::{AnyOp, Bound, Candidate, Case, DeviceProfile, Fill, Op, UNIT_ROUNDOFF};
use crate::ops::in_banks;
use crate::ops::loss_scale::{is_state_or_none, scaled, skips, with_states};
use crate::shape::{DType, TensorType};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The settings of stochastic gradient descent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SgdSettings {
    /// How much of the velocity stays from step to step, in [0, 1).
    pub momentum: f32,
    /// The share of each parameter that is added to its gradient.
    pub weight_decay: f32,
}

/// v ← μv + (g + λw), then w ← w − ηv, in place, in PyTorch's form; inputs: the banks of w, g and v, and η, `[1]`; and, where the loss is
/// scaled, the state of the scale, which may say that nothing is to change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// μ and λ.
    pub settings: SgdSettings,
}

impl Graph {
    /// Updates every parameter by its gradient; to be added after [`Graph::gradients`]. `learning_rate` is a float, `[1]`, and `scaling` what
    /// [`Graph::unscale_gradients`] told, if the loss is scaled.
    ///
    /// # Errors
    /// When there are no parameters, a setting makes no sense, or `learning_rate` or `scaling` has another type.
    pub fn sgd(
        &mut self,
        name: &str,
        learning_rate: NodeId,
        settings: SgdSettings,
        scaling: Option<NodeId>,
    ) -> Result<NodeId> {
        let parameters = self.bank(Bank::Parameters)?;
        let gradients = self.bank(Bank::Gradients)?;
        let velocities = self.bank(Bank::OptimizerState(0))?;
        let inputs: Vec<NodeId> =
            [parameters, gradients, velocities, learning_rate].into_iter().chain(scaling).collect();
        self.apply(name, Sgd { settings }, &inputs)
    }
}

/// The position of the velocities among the results; the parameters come before them.
const VELOCITIES: usize = 1;

impl Op for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let SgdSettings { momentum, weight_decay } = self.settings;
        if !(0.0..1.0).contains(&momentum) {
            return Err(format!("the momentum must be at least 0 and below 1, got {momentum}"));
        }
        if !(weight_decay >= 0.0 && weight_decay.is_finite()) {
            return Err(format!("the weight decay must be at least 0 and finite, got {weight_decay}"));
        }
        match inputs {
            [w, g, v, rate, state @ ..]
                if w == g
                    && w == v
                    && w.dtype == DType::F32
                    && *rate == TensorType::f32([1])?
                    && is_state_or_none(state)? =>
            {
                Ok(w.clone())
            }
            _ => Err(format!("expected three banks of one length and a learning rate [1], got {inputs:?}")),
        }
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let [w, g, v] = [0, 1, 2].map(|input| inputs[input].float());
        if skips(inputs.get(4)) {
            return vec![inputs[0].clone(), inputs[2].clone()];
        }
        let rate = inputs[3].float().data[0];
        let [momentum, decay] =
            [self.settings.momentum, self.settings.weight_decay].map(|value| T::from_f64(f64::from(value)));
        let banks = (&w.data, &g.data, &v.data);
        let update = |(&w, &g, &v): (&T, &T, &T)| {
            let v = momentum * v + (g + decay * w);
            (w - rate * v, v)
        };
        let (w_data, v_data) = banks.into_par_iter().map(update).unzip();
        let new = |data| Tensor::Float(Array { shape: w.shape.clone(), data });
        vec![new(w_data), new(v_data)]
    }

    fn writes(&self) -> &'static [usize] {
        &[0, 2]
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let SgdSettings { momentum, weight_decay } = self.settings;
        let params = [("momentum", momentum.into()), ("weight_decay", weight_decay.into())];
        let bound = [0, 1, 2, 3, inputs.len() - 1];
        vec![in_banks(kernel!("sgd/update"), &scaled(inputs.len() > 4), &bound, inputs, &params, device)]
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        6 * output.shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], output: &Tensor<f64>, result: usize) -> Bound {
        if skips(inputs.get(4)) {
            return Bound::Exact;
        }
        let [w, g, v] = [0, 1, 2].map(|input| &inputs[input].float().data);
        let rate = inputs[3].float().data[0].abs();
        let [momentum, decay] = [self.settings.momentum, self.settings.weight_decay].map(f64::from);
        let elements = w.iter().zip(g).zip(v).zip(&output.float().data);
        let bound = |(((w, g), v), new): (((&f64, &f64), &f64), &f64)| {
            // λw is rounded once by itself and in two sums, μv by itself and in one, g in two.
            let velocity = 3.0 * (decay * w).abs() + 2.0 * g.abs() + 2.0 * (momentum * v).abs();
            let magnitude = (decay * w).abs() + g.abs() + (momentum * v).abs();
            // Then ηv is rounded, and the difference.
            let sum = if result == VELOCITIES { velocity } else { rate * (velocity + magnitude) + new.abs() };
            sum * UNIT_ROUNDOFF / (1.0 - 8.0 * UNIT_ROUNDOFF)
        };
        Bound::Elements(elements.map(bound).collect())
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    // The length of a bank is a multiple of 64, so there is neither one element nor one over.
    for (count, what) in [
        (64, "one workgroup"),
        (128, "two workgroups"),
        (64 * 13, "prime number of workgroups"),
        (64 * 65_537, "past 65,535 workgroups"),
    ] {
        let bank = TensorType::f32([count])?;
        for (settings, rate) in [
            (SgdSettings { momentum: 0.99, weight_decay: 0.0 }, Fill::Positive),
            (SgdSettings { momentum: 0.9, weight_decay: 5e-4 }, Fill::Constant(0.01)),
            (SgdSettings { momentum: 0.0, weight_decay: 0.0 }, Fill::Constant(1e-3)),
        ] {
            if count > 1 << 20 && settings.momentum < 0.99 {
                continue;
            }
            let inputs = vec![
                (bank.clone(), Fill::Normal(0.1)),
                (bank.clone(), Fill::Normal(1.0)),
                (bank.clone(), Fill::Normal(3.0)),
                (TensorType::f32([1])?, rate),
            ];
            let name = format!("{what}, momentum {}, weight decay {}", settings.momentum, settings.weight_decay);
            let op: Arc<dyn AnyOp> = Arc::new(Sgd { settings });
            if count == 128 {
                cases.extend(with_states(&name, &op, &inputs)?);
            }
            cases.push(Case { name, op, inputs });
        }
    }
    Ok(cases)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the numbers are exact in binary")]
mod tests {
    use super::*;
    use crate::cpu::{banks, evaluate};
    use crate::graph::Init;
    use std::collections::BTreeMap;

    #[test]
    fn two_steps_are_pytorchs() {
        let bank = |values: [f64; 2]| -> Tensor<f64> {
            Array::new(TensorType::f32([2]).unwrap().shape, values.to_vec()).unwrap().into()
        };
        let rate = Tensor::Float(Array::new(TensorType::f32([1]).unwrap().shape, vec![0.1]).unwrap());
        let sgd = Sgd { settings: SgdSettings { momentum: 0.5, weight_decay: 0.25 } };
        let first = sgd.reference(&[&bank([1.0, -2.0]), &bank([3.0, 0.5]), &bank([0.0, 0.0]), &rate]);
        // v = g + w/4, w −= v/10
        assert_eq!(first, [bank([1.0 - 0.1 * 3.25, -2.0]), bank([3.25, 0.0])]);
        let second = sgd.reference(&[&first[0], &bank([0.0, 1.0]), &first[1], &rate]);
        let (w, v) = (first[0].float().data[0], 0.5 * 3.25 + 0.25 * (1.0 - 0.1 * 3.25));
        assert_eq!(second, [bank([w - 0.1 * v, -2.0 - 0.1 * 0.5]), bank([v, 0.5])]);
    }

    #[test]
    fn the_bound_is_that_of_the_result_asked_for_even_where_both_are_equal() {
        let one = |value: f64| -> Tensor<f64> { Array::filled(TensorType::f32([1]).unwrap().shape, value).into() };
        let sgd = Sgd { settings: SgdSettings { momentum: 0.5, weight_decay: 0.0 } };
        let inputs = [&one(2.0), &one(1.0), &one(0.0), &one(1.0)];
        let results = sgd.reference(&inputs);
        assert_eq!(results[0], results[VELOCITIES]);
        let roundings = |result: usize| match sgd.bound(&inputs, &results[result], result) {
            Bound::Elements(bounds) => (bounds[0] / UNIT_ROUNDOFF).round(),
            other => panic!("{other:?}"),
        };
        assert_eq!([roundings(0), roundings(VELOCITIES)], [4.0, 2.0]);
    }

    #[test]
    fn the_graphs_update_writes_parameters_and_velocity() {
        let mut graph = Graph::new();
        let w = graph.parameter("w", [1], Init::Zeros).unwrap();
        let loss = graph.add("loss", w, w).unwrap();
        let (mut graph, _) = graph.gradients(loss, &[]).unwrap();
        let rate = graph.input("learning_rate", TensorType::f32([1]).unwrap());
        graph.sgd("update", rate, SgdSettings { momentum: 0.5, weight_decay: 0.0 }, None).unwrap();
        let mut state = banks::<f64>(&graph, &graph.initial_parameters(0));
        let inputs = BTreeMap::from([(rate, Array::filled(graph.shape(rate).clone(), 0.25).into())]);
        for (w, v) in [(-0.5, 2.0), (-1.25, 3.0)] {
            evaluate(&graph, &inputs, &mut state).unwrap();
            let first = |bank: Bank| state[&bank][0];
            assert_eq!([first(Bank::Parameters), first(Bank::Gradients), first(Bank::OptimizerState(0))], [w, 2.0, v]);
        }
        assert!(state.values().all(|bank| bank[1..].iter().all(|&padding| padding == 0.0)));
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let mut graph = Graph::new();
        graph.parameter("w", [1], Init::Zeros).unwrap();
        let rate = graph.input("learning_rate", TensorType::f32([1]).unwrap());
        for (momentum, weight_decay, problem) in [(1.0, 0.0, "momentum"), (0.9, -1.0, "weight decay")] {
            let error =
                graph.sgd("update", rate, SgdSettings { momentum, weight_decay }, None).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
