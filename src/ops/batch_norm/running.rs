//! Running statistics: how they follow a batch's, how they stand for them, and how they come back into the bank of parameters.

use crate::array::{Array, Real, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Bank, Graph, NodeId};
use crate::kernel;
use crate::onnx::{Translation, Value};
use crate::op::{AnyOp, Binding, Bound, Candidate, Case, DeviceProfile, Dispatch, Fill, Op, UNIT_ROUNDOFF, pieces};
use crate::ops::loss_scale::{is_state_or_none, scaled, skips, with_states};
use crate::ops::softmax::FLUSHED;
use crate::ops::{invocations, zeros};
use crate::shape::{DType, TensorType};
use std::sync::Arc;

/// Which of the moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// The mean.
    Mean,
    /// The variance, which is tracked without bias: times n / (n − 1).
    Variance,
}

/// new = (1 − momentum) · old + momentum · batch; inputs the running statistic `[c]` and the batch's moments `[1, 2, c]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNormTrack {
    /// Which of the moments is tracked.
    pub statistic: Statistic,
    /// The share of the batch.
    pub momentum: f32,
    /// n, how many values of each channel the batch has.
    pub values: usize,
}

/// Moments `[1, 2, c]` of a mean and a variance `[c]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchNormStack;

/// Writes tensors over slices of a bank; inputs the bank and one tensor for each slice, and, where the loss is scaled, the state of the
/// scale, which may say that nothing is to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchNormStore {
    /// Where in the bank each slice begins.
    pub offsets: Vec<usize>,
}

impl Graph {
    /// Gives every tracked buffer its new value; `None` where there is none. To be added after the optimiser, which knows nothing of
    /// buffers: what its weight decay makes of them is overwritten. `scaling` is what [`Graph::unscale_gradients`] told, if the loss is scaled.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn store_tracked(&mut self, name: &str, scaling: Option<NodeId>) -> Result<Option<NodeId>> {
        let tracked = self.parameters.iter().filter_map(|parameter| Some((parameter.offset, parameter.tracked?)));
        let (offsets, mut inputs): (Vec<usize>, Vec<NodeId>) = tracked.unzip();
        if offsets.is_empty() {
            return Ok(None);
        }
        inputs.insert(0, self.bank(Bank::Parameters)?);
        inputs.extend(scaling);
        self.apply(name, BatchNormStore { offsets }, &inputs).map(Some)
    }
}

impl BatchNormTrack {
    /// What the batch's value is multiplied by.
    fn share(&self) -> f64 {
        let values = self.values as f64;
        let unbiased = if self.statistic == Statistic::Variance { values / (values - 1.0) } else { 1.0 };
        f64::from(self.momentum) * unbiased
    }

    /// What the running value is multiplied by.
    fn keep(&self) -> f64 {
        1.0 - f64::from(self.momentum)
    }
}

impl Op for BatchNormTrack {
    fn name(&self) -> &'static str {
        "batch_norm_track"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let Self { momentum, values, .. } = *self;
        if !(0.0..=1.0).contains(&momentum) {
            return Err(format!("the momentum must be 0 to 1, got {momentum}"));
        }
        if values < 2 {
            return Err("the batch has a single value per channel, whose variance says nothing: use larger images or more of them"
                .into());
        }
        match inputs {
            [running, moments]
                if running.dtype == DType::F32 && *moments == TensorType::f32([1, 2, running.shape.elements()])? =>
            {
                Ok(running.clone())
            }
            _ => Err(format!("expected a running statistic [c] and moments [1, 2, c], got {inputs:?}")),
        }
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (running, moments) = (inputs[0].float(), &inputs[1].float().data);
        let first = if self.statistic == Statistic::Variance { running.data.len() } else { 0 };
        let [keep, share] = [self.keep(), self.share()].map(T::from_f64);
        let pairs = running.data.iter().zip(&moments[first..]);
        let data = pairs.map(|(&running, &batch)| keep * running + share * batch).collect();
        vec![Tensor::Float(Array { shape: running.shape.clone(), data })]
    }

    fn candidates(&self, _: &[TensorType], output: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        let channels = output.shape.elements();
        let first = if self.statistic == Statistic::Variance { channels } else { 0 };
        let [keep, share] = [self.keep(), self.share()].map(|factor| factor as f32);
        let params = [("first", first.into()), ("keep", keep.into()), ("share", share.into())];
        let bindings = vec![Binding::Input(0), Binding::Input(1), Binding::Output];
        vec![invocations(kernel!("batch_norm/track"), bindings, channels, &params).into()]
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        3 * output.shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        let old = inputs[0].float().data.iter().map(|old| (self.keep() * old).abs());
        let bound = |(old, new): (f64, &f64)| {
            // Both factors and both products, then the sum; the batch's part is what is left of the result.
            2.0 * UNIT_ROUNDOFF * (old + (new.abs() + old)) + UNIT_ROUNDOFF * new.abs() + FLUSHED
        };
        Bound::Elements(old.zip(&output.float().data).map(bound).collect())
    }
}

impl Op for BatchNormStack {
    fn name(&self) -> &'static str {
        "batch_norm_stack"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [mean, variance] if mean == variance && mean.shape.rank() == 1 && mean.dtype == DType::F32 => {
                TensorType::f32([1, 2, mean.shape.elements()])
            }
            _ => Err(format!("expected a mean and a variance [c], got {inputs:?}")),
        }
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let mut moments = zeros(self, inputs);
        moments.data = [0, 1].map(|input| inputs[input].float().data.as_slice()).concat();
        vec![Tensor::Float(moments)]
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        let bindings = vec![Binding::Input(0), Binding::Input(1), Binding::Output];
        vec![invocations(kernel!("batch_norm/stack"), bindings, inputs[0].shape.elements(), &[]).into()]
    }

    fn onnx(&self, translation: &mut Translation<'_>) -> Result<Value> {
        Ok(Value::Moments([translation.tensor(0)?, translation.tensor(1)?]))
    }

    fn flops(&self, _: &[TensorType], _: &TensorType) -> u64 {
        0
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Exact
    }
}

impl Op for BatchNormStore {
    fn name(&self) -> &'static str {
        "batch_norm_store"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [bank, values @ ..] = inputs else { return Err("expected a bank and values".into()) };
        let fits = |(&offset, value): (&usize, &TensorType)| {
            value.dtype == DType::F32 && offset + value.shape.elements() <= bank.shape.elements()
        };
        let state = values.get(self.offsets.len()..).ok_or("expected a value for each slice")?;
        if !is_state_or_none(state)? || !self.offsets.iter().zip(values).all(fits) {
            return Err(format!("the bank {bank} has no place for {values:?} at {:?}", self.offsets));
        }
        Ok(bank.clone())
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let mut bank = inputs[0].float().clone();
        if skips(inputs.get(self.offsets.len() + 1)) {
            return vec![Tensor::Float(bank)];
        }
        for (&offset, value) in self.offsets.iter().zip(&inputs[1..]) {
            let value = &value.float().data;
            bank.data[offset..][..value.len()].copy_from_slice(value);
        }
        vec![Tensor::Float(bank)]
    }

    fn writes(&self) -> &'static [usize] {
        &[0]
    }

    fn candidates(&self, inputs: &[TensorType], _: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let (state, piece) = (self.offsets.len() + 1, device.piece_bytes());
        let is_scaled = inputs.len() > state;
        let store = |(&offset, input): (&usize, usize)| {
            let start = 4 * offset as u64;
            pieces(start, inputs[input].size_bytes(), piece).map(move |(index, place, bytes)| {
                let state_or_any = Binding::Input(if is_scaled { state } else { input });
                let bindings = vec![Binding::Input(input), Binding::Piece(0, index), state_or_any];
                let [first, begin, count] =
                    [place, index as u64 * piece + place - start, bytes].map(|bytes| bytes as usize / 4);
                let params = [("first", first.into()), ("begin", begin.into())];
                Dispatch {
                    constants: scaled(is_scaled),
                    ..invocations(kernel!("batch_norm/store"), bindings, count, &params)
                }
            })
        };
        let dispatches = self.offsets.iter().zip(1..).flat_map(store).collect();
        vec![Candidate { dispatches, workspace: vec![] }]
    }

    fn flops(&self, _: &[TensorType], _: &TensorType) -> u64 {
        0
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Exact
    }
}

impl Graph {
    /// Remembers what a buffer becomes in this run.
    pub(super) fn track(&mut self, buffer: NodeId, new: NodeId) -> Result<()> {
        let subject = self.find("track", "buffer", buffer)?.name.clone();
        let found = self.parameters.iter_mut().find(|parameter| parameter.node == buffer && !parameter.trainable);
        let Some(found) = found else {
            let problem = "this is no buffer; add it with `Graph::buffer`".into();
            return Err(Error::Graph { op: "track".into(), node: subject, problem });
        };
        found.tracked = Some(new);
        Ok(())
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for (channels, values) in [(1, 2), (64, 35), (65, 1 << 20)] {
        let (statistics, moments) = (TensorType::f32([channels])?, TensorType::f32([1, 2, channels])?);
        let running = (statistics.clone(), Fill::Normal(1.0));
        let name = format!("{channels} channels of {values} values");
        for statistic in [Statistic::Mean, Statistic::Variance] {
            let op = Arc::new(BatchNormTrack { statistic, momentum: 0.1, values });
            let inputs = vec![running.clone(), (moments.clone(), Fill::Positive)];
            cases.push(Case { name: format!("{name}, {statistic:?}"), op, inputs });
        }
        let inputs = vec![running.clone(), running.clone()];
        cases.push(Case { name: name.clone(), op: Arc::new(BatchNormStack), inputs });
        let bank = (TensorType::f32([64 * 5])?, Fill::Normal(1.0));
        let op: Arc<dyn AnyOp> = Arc::new(BatchNormStore { offsets: vec![64, 192] });
        let inputs = vec![bank, running.clone(), running];
        cases.extend(with_states(&name, &op, &inputs)?);
        cases.push(Case { name, op, inputs });
    }
    Ok(cases)
}
