//! `adam`: steps scaled by running moments of the gradient, with coupled or decoupled weight decay, in one go over all parameters.

use crate::array::{Array, Real, Tensor};
use crate::error::Result;
use crate::graph::{Bank, Graph, NodeId};
use crate::kernel;
use crate::op::{AnyOp, Bound, Candidate, Case, DeviceProfile, Fill, Op, UNIT_ROUNDOFF};
use crate::ops::in_banks;
use crate::ops::loss_scale::{corrections, is_state_or_none, scaled, skips, with_states};
use crate::ops::softmax::FLUSHED;
use crate::shape::{DType, TensorType};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The settings of Adam.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamSettings {
    /// How much of the first moment stays from step to step, in [0, 1).
    pub beta1: f32,
    /// How much of the second moment stays from step to step, in [0, 1).
    pub beta2: f32,
    /// What is added to the root of the second moment, above 0.
    pub epsilon: f32,
    /// The share of each parameter that is added to its gradient, or, decoupled, the share that a learning rate of 1 would take off it.
    pub weight_decay: f32,
    /// Whether the weight decay stays out of the moments: `AdamW`.
    pub decoupled: bool,
}

impl Default for AdamSettings {
    /// `PyTorch`'s, without weight decay.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, decoupled: false }
    }
}

impl AdamSettings {
    /// What the op takes of a step, counted from 0: the learning rate, 1 − β₁ᵗ and 1 − β₂ᵗ, where t = step + 1, computed in `f64`.
    pub fn rates(&self, learning_rate: f32, step: u32) -> [f32; 3] {
        let correction = |beta: f32| (1.0 - f64::from(beta).powf(f64::from(step) + 1.0)) as f32;
        [learning_rate, correction(self.beta1), correction(self.beta2)]
    }
}

/// With g ← g + λw, or w ← (1 − ηλ)w where decoupled: m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², then
/// w ← w − η (m/c₁) / (√(v/c₂) + ε), in place, as `PyTorch` has it; inputs: the banks of w, g, m and v, and η, c₁ and c₂, `[3]`; and,
/// where the loss is scaled, the state of the scale, which has the c to take instead, and may say that nothing is to change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// β₁, β₂, ε, λ.
    pub settings: AdamSettings,
}

impl Graph {
    /// Updates every parameter by its gradient; to be added after [`Graph::gradients`]. `rates` are those of
    /// [`AdamSettings::rates`], `[3]`, and `scaling` what [`Graph::unscale_gradients`] told, if the loss is scaled.
    ///
    /// # Errors
    /// When there are no parameters, a setting makes no sense, or `rates` or `scaling` has another type.
    pub fn adam(
        &mut self,
        name: &str,
        rates: NodeId,
        settings: AdamSettings,
        scaling: Option<NodeId>,
    ) -> Result<NodeId> {
        let parameters = self.bank(Bank::Parameters)?;
        let gradients = self.bank(Bank::Gradients)?;
        let first = self.bank(Bank::OptimizerState(0))?;
        let second = self.bank(Bank::OptimizerState(1))?;
        let inputs: Vec<NodeId> = [parameters, gradients, first, second, rates].into_iter().chain(scaling).collect();
        self.apply(name, Adam { settings }, &inputs)
    }
}

/// The position of the first moments among the results; the parameters come before them.
const FIRST: usize = 1;
/// That of the second moments.
const SECOND: usize = 2;

/// The new values of an element, and what they are computed from.
struct Element<T> {
    gradient: T,
    w: T,
    m: T,
    v: T,
}

impl Adam {
    /// Settings and rates in the precision of the reference: β₁, β₂, ε, λ for the gradient, λ for the parameter; η, c₁, c₂.
    fn constants<T: Real>(&self, inputs: &[&Tensor<T>]) -> ([T; 5], [T; 3]) {
        let AdamSettings { beta1, beta2, epsilon, weight_decay, decoupled } = self.settings;
        let (coupled, shrink) = if decoupled { (0.0, weight_decay) } else { (weight_decay, 0.0) };
        let settings = [beta1, beta2, epsilon, coupled, shrink].map(|value| T::from_f64(f64::from(value)));
        let rates = &inputs[4].float().data;
        let [first, second] = inputs.get(5).map_or([rates[1], rates[2]], |state| corrections(state));
        (settings, [rates[0], first, second])
    }

    fn element<T: Real>(constants: &([T; 5], [T; 3]), [w, g, m, v]: [T; 4]) -> Element<T> {
        let ([beta1, beta2, epsilon, coupled, shrink], [rate, correction1, correction2]) = *constants;
        let one = T::one();
        let gradient = g + coupled * w;
        let m = beta1 * m + (one - beta1) * gradient;
        let v = beta2 * v + (one - beta2) * gradient * gradient;
        let step = (m / correction1) / ((v / correction2).sqrt() + epsilon);
        Element { gradient, w: w * (one - rate * shrink) - rate * step, m, v }
    }
}

/// The elements of the banks side by side.
fn elements<'a, T: Real>(inputs: &'a [&Tensor<T>]) -> impl Iterator<Item = [T; 4]> + 'a {
    let [w, g, m, v] = [0, 1, 2, 3].map(|input| &inputs[input].float().data);
    (0..w.len()).map(move |i| [w[i], g[i], m[i], v[i]])
}

impl Op for Adam {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let AdamSettings { beta1, beta2, epsilon, weight_decay, .. } = self.settings;
        for (name, beta) in [("beta1", beta1), ("beta2", beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(format!("{name} must be at least 0 and below 1, got {beta}"));
            }
        }
        if !(epsilon > 0.0 && epsilon.is_finite()) {
            return Err(format!("epsilon must be above 0 and finite, got {epsilon}"));
        }
        if !(weight_decay >= 0.0 && weight_decay.is_finite()) {
            return Err(format!("the weight decay must be at least 0 and finite, got {weight_decay}"));
        }
        match inputs {
            [w, g, m, v, rates, state @ ..]
                if [g, m, v].iter().all(|&bank| bank == w)
                    && w.dtype == DType::F32
                    && *rates == TensorType::f32([3])?
                    && is_state_or_none(state)? =>
            {
                Ok(w.clone())
            }
            _ => Err(format!("expected four banks of one length and rates [3], got {inputs:?}")),
        }
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        if skips(inputs.get(5)) {
            return [0, 2, 3].map(|bank| inputs[bank].clone()).into();
        }
        let constants = self.constants(inputs);
        let shape = &inputs[0].float().shape;
        let mut results = [(); 3].map(|()| Vec::with_capacity(shape.elements()));
        for element in elements(inputs) {
            let Element { w, m, v, .. } = Self::element(&constants, element);
            results.iter_mut().zip([w, m, v]).for_each(|(result, value)| result.push(value));
        }
        results.map(|data| Tensor::Float(Array { shape: shape.clone(), data })).into()
    }

    fn writes(&self) -> &'static [usize] {
        &[0, 2, 3]
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let AdamSettings { beta1, beta2, epsilon, weight_decay, decoupled } = self.settings;
        let params = [("beta1", beta1), ("beta2", beta2), ("epsilon", epsilon), ("weight_decay", weight_decay)];
        let params = params.map(|(name, value)| (name, value.into()));
        let constants = [vec![("DECOUPLED", decoupled.to_string())], scaled(inputs.len() > 5)].concat();
        let bound = [0, 1, 2, 3, 4, inputs.len() - 1];
        vec![in_banks(kernel!("adam/update"), &constants, &bound, inputs, &params, device)]
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        // Weight decay 2, moments 3 and 4, the step: three divisions, a root, a sum, a product, a difference.
        16 * output.shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], _: &Tensor<f64>, result: usize) -> Bound {
        const U: f64 = UNIT_ROUNDOFF;
        if skips(inputs.get(5)) {
            return Bound::Exact;
        }
        let constants = self.constants(inputs);
        let ([beta1, beta2, epsilon, coupled, shrink], [rate, correction1, correction2]) = constants;
        let bound = |[w, g, m, v]: [f64; 4]| {
            let new = Self::element(&constants, [w, g, m, v]);
            // λw is rounded once by itself and in one sum. Each moment has its factor 1 − β, its products and its sum.
            let gradient = (coupled * w).abs() + g.abs();
            let gradient_error = 2.0 * gradient * U;
            let first_error = 3.0 * U * ((beta1 * m).abs() + (1.0 - beta1) * gradient)
                + (1.0 - beta1) * gradient_error
                + 3.0 * FLUSHED;
            let second_error = 4.0 * U * (beta2 * v.abs() + (1.0 - beta2) * gradient * gradient)
                + (1.0 - beta2) * gradient_error * (2.0 * new.gradient.abs() + gradient_error)
                + 3.0 * FLUSHED;
            let rounded = 1.0 + 16.0 * U;
            match result {
                FIRST => first_error * rounded,
                SECOND => second_error * rounded,
                _ => {
                    // Under the root a division of 2.5 ULP, of 2u each; the root is the inverse, again 2.5 ULP, of an inverse
                    // root of 2 ULP: 2.5u + 9u in all. The largest step has the smallest denominator.
                    let root = |v: f64| (v.max(0.0) / correction2).sqrt();
                    let least = (root(new.v - second_error * rounded) * (1.0 - 12.0 * U) + epsilon) * (1.0 - U);
                    let step = new.m.abs() / correction1 / (root(new.v) + epsilon);
                    // Two divisions of 2.5 ULP and the product with the rate.
                    let largest = (new.m.abs() + first_error * rounded) / correction1 / least * (1.0 + 12.0 * U);
                    let shrunk = if shrink == 0.0 { 0.0 } else { w.abs() * (2.0 + 3.0 * rate * shrink) * U };
                    (rate * (largest - step) + shrunk + new.w.abs() * U) * rounded + FLUSHED
                }
            }
        };
        Bound::Elements(elements(inputs).map(bound).collect())
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    let rare = AdamSettings { beta1: 0.3, beta2: 0.8, epsilon: 1e-3, weight_decay: 0.0, decoupled: false };
    let decayed = AdamSettings { weight_decay: 0.3, ..AdamSettings::default() };
    // The length of a bank is a multiple of 64, so there is neither one element nor one over.
    for (count, settings, moments, rates, what) in [
        (64, AdamSettings::default(), true, Fill::Positive, "one workgroup"),
        (64, AdamSettings::default(), false, Fill::Constant(0.1), "the first step"),
        (128, decayed, true, Fill::Positive, "weight decay"),
        (128, AdamSettings { decoupled: true, ..decayed }, true, Fill::Positive, "decoupled weight decay"),
        (128, AdamSettings { decoupled: true, ..decayed }, false, Fill::Positive, "decoupled, the first step"),
        (64 * 13, rare, true, Fill::Constant(1e-3), "prime number of workgroups, other settings"),
        (64, AdamSettings { beta1: 0.0, beta2: 0.0, ..decayed }, true, Fill::Positive, "no memory"),
        (64 * 65_537, AdamSettings::default(), true, Fill::Positive, "past 65,535 workgroups"),
    ] {
        let bank = TensorType::f32([count])?;
        let [first, second] = if moments { [Fill::Normal(0.5), Fill::Positive] } else { [Fill::Constant(0.0); 2] };
        let inputs = vec![
            (bank.clone(), Fill::Normal(0.1)),
            (bank.clone(), Fill::Normal(1.0)),
            (bank.clone(), first),
            (bank, second),
            (TensorType::f32([3])?, rates),
        ];
        let op: Arc<dyn AnyOp> = Arc::new(Adam { settings });
        if count == 128 {
            cases.extend(with_states(what, &op, &inputs)?);
        }
        cases.push(Case { name: what.into(), op, inputs });
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{banks, evaluate};
    use crate::graph::Init;
    use std::collections::BTreeMap;

    /// A graph of one parameter w with the loss 2w, and what Adam makes of it.
    fn graph(settings: AdamSettings) -> (Graph, NodeId) {
        let mut graph = Graph::new();
        let w = graph.parameter("w", [1], Init::Zeros).unwrap();
        let loss = graph.add("loss", w, w).unwrap();
        let (mut graph, _) = graph.gradients(loss, &[]).unwrap();
        let rates = graph.input("rates", TensorType::f32([3]).unwrap());
        graph.adam("update", rates, settings, None).unwrap();
        (graph, rates)
    }

    #[test]
    fn under_a_steady_gradient_every_step_is_the_learning_rate() {
        let settings = AdamSettings::default();
        let (graph, rates) = graph(settings);
        let mut state = banks::<f64>(&graph, &graph.initial_parameters(0));
        for step in 0..20 {
            let correction = |beta: f32| 1.0 - f64::from(beta).powf(f64::from(step) + 1.0);
            let values = vec![0.25, correction(settings.beta1), correction(settings.beta2)];
            let narrow = settings.rates(0.25, step);
            assert!(
                values.iter().zip(narrow).all(|(a, b)| (a - f64::from(b)).abs() <= 6e-8 * a),
                "{values:?} {narrow:?}"
            );
            let values = Array::new(graph.shape(rates).clone(), values).unwrap();
            evaluate(&graph, &BTreeMap::from([(rates, values.into())]), &mut state).unwrap();
            let w = state[&Bank::Parameters][0];
            assert!((w + 0.25 * (f64::from(step) + 1.0)).abs() < 1e-6, "step {step}: {w}");
        }
        assert!((state[&Bank::OptimizerState(0)][0] - 2.0 * (1.0 - 0.9_f64.powi(20))).abs() < 1e-6);
        assert!((state[&Bank::OptimizerState(1)][0] - 4.0 * (1.0 - 0.999_f64.powi(20))).abs() < 1e-5);
        assert!(state.values().all(|bank| bank[1..].iter().all(|&padding| padding == 0.0)));
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let mut graph = Graph::new();
        graph.parameter("w", [1], Init::Zeros).unwrap();
        let rates = graph.input("rates", TensorType::f32([3]).unwrap());
        let default = AdamSettings::default;
        for (settings, problem) in [
            (AdamSettings { beta1: 1.0, ..default() }, "beta1"),
            (AdamSettings { beta2: -0.1, ..default() }, "beta2"),
            (AdamSettings { epsilon: 0.0, ..default() }, "epsilon"),
            (AdamSettings { weight_decay: f32::INFINITY, ..default() }, "weight decay"),
        ] {
            let error = graph.adam("update", rates, settings, None).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
        let one = graph.input("one", TensorType::f32([1]).unwrap());
        let error = graph.adam("update", one, default(), None).unwrap_err().to_string();
        assert!(error.contains("rates [3]"), "{error}");
    }
}
