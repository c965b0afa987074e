//! `loss_scale`: the loss multiplied, so that gradients stored as `f16` do not vanish, and what follows from that.
//!
//! The scale S follows the gradients: it is halved where one overflowed, which costs the step, and doubled after many where none did. Where
//! it stands is a [state](State) on the device; a step needs no word of the host.

use crate::array::{Array, Real, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Bank, Graph, Init, NodeId};
use crate::kernel;
use crate::op::{AnyOp, Backward, Binding, Bound, Candidate, Case, DeviceProfile, Fill, Op, UNIT_ROUNDOFF};
use crate::ops::batch_norm::BatchNormStore;
use crate::ops::cross_entropy::{Total, sum_of_bank};
use crate::ops::softmax::{FLUSHED, compound};
use crate::ops::{in_banks, invocations, one_float, zeros};
use crate::shape::{DType, TensorType};
use std::sync::Arc;

/// The scale that a training starts with, as `PyTorch`'s.
const FIRST: f32 = 65_536.0;
/// The least scale: gradients that overflow without any would do so in the next step, too.
const LEAST: f32 = 1.0;
/// The largest scale: a power of two below which no sum of scaled gradients comes near to the largest `f32`.
const LARGEST: f32 = 16_777_216.0;
/// Steps without an overflow after which the scale is doubled, as `PyTorch`'s.
const PATIENCE: f32 = 2000.0;

/// Numbers of the state.
const ELEMENTS: usize = 6;
/// Where the state has the scale, the steps since it changed, the overflows so far, whether the last step was one (1; 2 at the least scale),
/// and Adam's corrections.
const SCALE: usize = 0;
const GOOD: usize = 1;
const OVERFLOWS: usize = 2;
const SKIPPED: usize = 3;
const CORRECTIONS: usize = 4;

/// y = S · x, the gradient being scaled alike; inputs x `[1]` and the state `[6]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossScale;

/// How many gradients are infinite or NaN, `[1]`; input their bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossScaleOverflows;

/// g ← g / S, in place; inputs the bank of g and the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossScaleUnscale;

/// The state after a step; inputs the state before, and how many gradients were infinite or NaN, `[1]`.
///
/// Where there were any, S is halved, but not below 1, and the step is counted as an overflow; after 2000 others in a row S is doubled, but
/// not past 2²⁴. Adam's corrections c = 1 − βᵗ count the other steps only: c ← βc + (1 − β).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaleNext {
    /// β₁ and β₂ of Adam; any where there is no Adam.
    pub betas: [f32; 2],
}

/// Where the scaling of a loss stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaleState {
    /// By what the loss of the next step is multiplied.
    pub scale: f32,
    /// The steps so far whose gradients overflowed.
    pub overflows: u32,
    /// Whether the last step was one of them, which changed nothing.
    pub skipped: bool,
    /// Whether it was one at the least scale, from where the scale cannot fall.
    pub exhausted: bool,
}

impl LossScaleState {
    /// The buffer that holds it between steps. A checkpoint has its numbers beside the weights, not among them.
    pub const NAME: &str = "optim.loss_scale";

    /// From the numbers on the device.
    pub fn of(numbers: &[f32]) -> Self {
        let at = |place: usize| numbers.get(place).copied().unwrap_or(f32::NAN);
        let skipped = at(SKIPPED) > 0.0;
        let exhausted = at(SKIPPED) > 1.0;
        Self { scale: at(SCALE), overflows: at(OVERFLOWS) as u32, skipped, exhausted }
    }
}

impl Graph {
    /// The loss times the scale, whose state is a buffer that is added: what gradients are to be taken of.
    ///
    /// # Errors
    /// When the loss is not a single float, or parameters can no longer be added.
    pub fn scale_loss(&mut self, name: &str, loss: NodeId) -> Result<NodeId> {
        let state = self.buffer(LossScaleState::NAME, [ELEMENTS], Init::First(FIRST))?;
        self.apply(name, LossScale, &[loss, state])
    }

    /// Divides the gradients of a [scaled](Graph::scale_loss) loss by the scale, and tells the state after the step; to be added after
    /// [`Graph::gradients`] and before whatever uses them. The state is what an optimiser takes that must leave everything as it is where a
    /// gradient overflowed; behind it [`Graph::store_loss_scale`] keeps it.
    ///
    /// # Errors
    /// When the loss has not been scaled.
    pub fn unscale_gradients(&mut self, name: &str, betas: [f32; 2]) -> Result<NodeId> {
        let state = self.loss_scale_state(name)?.0;
        let gradients = self.bank(Bank::Gradients)?;
        let overflows = self.apply(&format!("{name}.overflows"), LossScaleOverflows, &[gradients])?;
        self.apply(name, LossScaleUnscale, &[gradients, state])?;
        self.apply(&format!("{name}.next"), LossScaleNext { betas }, &[state, overflows])
    }

    /// Keeps the state that [`Graph::unscale_gradients`] told, for the next step; to be added after the optimiser.
    ///
    /// # Errors
    /// When the loss has not been scaled.
    pub fn store_loss_scale(&mut self, name: &str, next: NodeId) -> Result<NodeId> {
        let offset = self.loss_scale_state(name)?.1;
        let parameters = self.bank(Bank::Parameters)?;
        self.apply(name, BatchNormStore { offsets: vec![offset] }, &[parameters, next])
    }

    /// The state's node, and its place in the bank of parameters.
    fn loss_scale_state(&self, subject: &str) -> Result<(NodeId, usize)> {
        let state = self.parameters().iter().find(|parameter| parameter.name == LossScaleState::NAME);
        state.map(|state| (state.node, state.offset)).ok_or_else(|| Error::Graph {
            op: "loss_scale".into(),
            node: subject.into(),
            problem: "the loss has no scale; use Graph::scale_loss before the gradients".into(),
        })
    }
}

/// Whether this is the type of a state.
fn is_state(tensor_type: &TensorType) -> Result<bool, String> {
    Ok(*tensor_type == TensorType::f32([ELEMENTS])?)
}

/// Whether what follows an op's other inputs is nothing, or a state.
pub(super) fn is_state_or_none(rest: &[TensorType]) -> Result<bool, String> {
    Ok(match rest {
        [] => true,
        [state] => is_state(state)?,
        _ => false,
    })
}

/// What tells a kernel whether it is given a state.
pub(super) fn scaled(scaled: bool) -> Vec<(&'static str, String)> {
    if scaled { vec![("SCALED", "true".into())] } else { Vec::new() }
}

/// Cases of an op with a state behind its other inputs: one that lets it proceed, and one that does not.
pub(super) fn with_states(name: &str, op: &Arc<dyn AnyOp>, inputs: &[(TensorType, Fill)]) -> Result<Vec<Case>, String> {
    let state = TensorType::f32([ELEMENTS])?;
    let case = |(what, fill): (&str, Fill)| {
        let inputs = [inputs, &[(state.clone(), fill)]].concat();
        Case { name: format!("{name}, {what}"), op: Arc::clone(op), inputs }
    };
    Ok([("loss scaled", STATES[1]), ("overflow", STATES[0])].map(case).into())
}

/// Whether a state says that its step changes nothing.
pub(super) fn skips<T: Real>(state: Option<&&Tensor<T>>) -> bool {
    state.is_some_and(|state| state.float().data[SKIPPED] != T::zero())
}

/// Adam's corrections, as a state has them.
pub(super) fn corrections<T: Real>(state: &Tensor<T>) -> [T; 2] {
    [0, 1].map(|moment| state.float().data[CORRECTIONS + moment])
}

impl LossScaleNext {
    fn next<T: Real>(self, state: &[T], overflows: T) -> Vec<T> {
        let number = |value: f32| T::from_f64(f64::from(value));
        let (zero, one, two) = (T::zero(), T::one(), number(2.0));
        let mut next = state.to_vec();
        if overflows > zero {
            let exhausted = state[SCALE] <= number(LEAST);
            next[SCALE] = number(LEAST).max(state[SCALE] / two);
            next[GOOD] = zero;
            next[OVERFLOWS] += one;
            next[SKIPPED] = if exhausted { two } else { one };
            return next;
        }
        next[GOOD] += one;
        if next[GOOD] >= number(PATIENCE) {
            next[SCALE] = number(LARGEST).min(state[SCALE] * two);
            next[GOOD] = zero;
        }
        next[SKIPPED] = zero;
        for (correction, beta) in next[CORRECTIONS..].iter_mut().zip(self.betas) {
            *correction = number(beta) * *correction + (one - number(beta));
        }
        next
    }
}

impl Op for LossScale {
    fn name(&self) -> &'static str {
        "loss_scale"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [x, state] if *x == TensorType::f32([1])? && is_state(state)? => Ok(x.clone()),
            _ => Err(format!("expected a number [1] and the state of a scale [{ELEMENTS}], got {inputs:?}")),
        }
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let mut y = inputs[0].float().clone();
        y.data[0] *= inputs[1].float().data[SCALE];
        vec![Tensor::Float(y)]
    }

    fn candidates(&self, _: &[TensorType], _: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        let bindings = vec![Binding::Input(0), Binding::Input(1), Binding::Output];
        vec![invocations(kernel!("loss_scale/forward"), bindings, 1, &[]).into()]
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        let inputs = [backward.grad_output, backward.inputs[1]];
        Ok(vec![Some(backward.apply("grad_input", Self, &inputs)?), None])
    }

    fn flops(&self, _: &[TensorType], _: &TensorType) -> u64 {
        1
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Relative(UNIT_ROUNDOFF)
    }
}

impl Op for LossScaleOverflows {
    fn name(&self) -> &'static str {
        "loss_scale_overflows"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        one_float(inputs)?;
        TensorType::f32([1])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let mut count = zeros(self, inputs);
        let overflows = inputs[0].float().data.iter().filter(|gradient| !gradient.is_finite()).count();
        count.data[0] = T::from_f64(overflows as f64);
        vec![Tensor::Float(count)]
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        vec![sum_of_bank(kernel!("loss_scale/overflows"), &inputs[0], Total::Result, device)]
    }

    fn flops(&self, inputs: &[TensorType], _: &TensorType) -> u64 {
        inputs[0].shape.elements() as u64
    }

    fn bound(&self, _: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        // Past 2²⁴ not every count is a float; that there are any is never lost.
        if output.float().data[0] * UNIT_ROUNDOFF < 1.0 { Bound::Exact } else { Bound::Relative(1e-3) }
    }
}

impl Op for LossScaleUnscale {
    fn name(&self) -> &'static str {
        "loss_scale_unscale"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [gradients, state] if gradients.dtype == DType::F32 && is_state(state)? => Ok(gradients.clone()),
            _ => Err(format!("expected a bank and the state of a scale [{ELEMENTS}], got {inputs:?}")),
        }
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let mut gradients = inputs[0].float().clone();
        let scale = inputs[1].float().data[SCALE];
        gradients.data.iter_mut().for_each(|gradient| *gradient = *gradient / scale);
        vec![Tensor::Float(gradients)]
    }

    fn writes(&self) -> &'static [usize] {
        &[0]
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        vec![in_banks(kernel!("loss_scale/unscale"), &[], &[0, 1], inputs, &[], device)]
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        output.shape.elements() as u64
    }

    fn bound(&self, _: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        // A division has 2.5 ULP.
        let share = compound(5.0 * UNIT_ROUNDOFF);
        Bound::Elements(output.float().data.iter().map(|gradient| gradient.abs() * share + FLUSHED).collect())
    }
}

impl Op for LossScaleNext {
    fn name(&self) -> &'static str {
        "loss_scale_next"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [state, overflows] if is_state(state)? && *overflows == TensorType::f32([1])? => Ok(state.clone()),
            _ => Err(format!("expected the state of a scale [{ELEMENTS}] and a number [1], got {inputs:?}")),
        }
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let state = inputs[0].float();
        let data = self.next(&state.data, inputs[1].float().data[0]);
        vec![Tensor::Float(Array { shape: state.shape.clone(), data })]
    }

    fn candidates(&self, _: &[TensorType], _: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        let [beta1, beta2] = self.betas;
        let settings =
            [("least", LEAST), ("largest", LARGEST), ("patience", PATIENCE), ("beta1", beta1), ("beta2", beta2)];
        let bindings = vec![Binding::Input(0), Binding::Input(1), Binding::Output];
        let params = settings.map(|(name, value)| (name, value.into()));
        vec![invocations(kernel!("loss_scale/next"), bindings, 1, &params).into()]
    }

    fn flops(&self, _: &[TensorType], _: &TensorType) -> u64 {
        8
    }

    fn bound(&self, _: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        // Counts and powers of two are exact. A correction has a difference, a product and a sum of numbers that are not negative.
        let numbers = output.float().data.iter().enumerate();
        let bound = |(place, number): (usize, &f64)| {
            if place < CORRECTIONS { 0.0 } else { 3.0 * UNIT_ROUNDOFF * number.abs() * (1.0 + 4.0 * UNIT_ROUNDOFF) }
        };
        Bound::Elements(numbers.map(bound).collect())
    }
}

/// How the elements of a state are drawn: of a scale, so many steps since it changed, and Adam's corrections.
const STATES: [Fill; 3] = [
    Fill::Ranges(&[(65_536.0, 65_536.0), (1_999.0, 1_999.0), (3.0, 3.0), (1.0, 1.0), (0.1, 0.9), (0.001, 0.9)]),
    Fill::Ranges(&[(16_777_216.0, 16_777_216.0), (1_999.0, 1_999.0), (0.0, 0.0), (0.0, 0.0), (0.1, 0.9), (0.001, 0.9)]),
    Fill::Ranges(&[(1.0, 1.0), (7.0, 7.0), (20.0, 20.0), (0.0, 0.0), (0.1, 0.9), (0.001, 0.9)]),
];

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    let number = |value: f32| Ok::<_, String>((TensorType::f32([1])?, Fill::Constant(value)));
    for (place, fill) in STATES.into_iter().enumerate() {
        let state = (TensorType::f32([ELEMENTS])?, fill);
        let inputs = vec![(TensorType::f32([1])?, Fill::Positive), state.clone()];
        cases.push(Case { name: format!("state {place}"), op: Arc::new(LossScale), inputs });
        for overflows in [0.0, 17.0] {
            let op = Arc::new(LossScaleNext { betas: [0.9, 0.999] });
            let inputs = vec![state.clone(), number(overflows)?];
            cases.push(Case { name: format!("state {place}, {overflows} overflows"), op, inputs });
        }
        for (count, what) in [(64, "one workgroup"), (64 * 13, "prime number of workgroups"), (64 * 65_537, "many")] {
            let inputs = vec![(TensorType::f32([count])?, Fill::Normal(1e3)), state.clone()];
            cases.push(Case { name: format!("{what}, state {place}"), op: Arc::new(LossScaleUnscale), inputs });
        }
    }
    for (count, fill, what) in [
        (1, Fill::Normal(1.0), "one element, finite"),
        (1, Fill::Constant(f32::NAN), "one element, NaN"),
        (17, Fill::Signs(f32::INFINITY), "one over, infinite"),
        (64 * 13, Fill::Bits, "any bits"),
        (16 * 32 * 3 + 5, Fill::Normal(1e38), "three stages of sums, some infinite"),
        (64 * 65_537, Fill::Signs(f32::MAX), "many, the largest"),
    ] {
        let inputs = vec![(TensorType::f32([count])?, fill)];
        cases.push(Case { name: format!("{what}: {count}"), op: Arc::new(LossScaleOverflows), inputs });
    }
    Ok(cases)
}
