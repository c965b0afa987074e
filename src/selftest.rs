//! The kernels held against their references on a device: what `tilewise selftest` prints and the GPU tests assert.

use crate::array::{Array, Tensor};
use crate::compare::{Comparison, compare};
use crate::cpu;
use crate::data::Augmentation;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Plan, PlanOptions};
use crate::graph::{BANK_ALIGNMENT, Bank, Graph, Init, NodeId, NodeKind};
use crate::models::{Loss, Optimizer, Tiles, Training, UNet, Variant};
use crate::op::{AnyOp, Case, Dispatch, Fill, stored};
use crate::ops::{AdamSettings, CrossEntropySettings, DiceSettings, REGISTRY, Reduction};
use crate::progress::{Progress, map_all};
use crate::random::Random;
use crate::shape::{DType, TensorType};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The launches of a candidate, and how it compared with the reference.
type Outcome = (Vec<Dispatch>, Result<Comparison>);

/// How the cases of one kernel went.
#[derive(Clone, Debug, Serialize)]
pub struct KernelReport {
    /// The kernel's path.
    pub kernel: String,
    /// The number of cases it took part in.
    pub cases: usize,
    /// The largest error relative to its bound, over all elements of all cases; at most 1 if all hold. 0 means exact.
    pub worst: f64,
    /// The error of the element with that ratio.
    pub error: f64,
    /// Its bound.
    pub bound: f64,
    /// What did not hold, a line per case.
    pub failures: Vec<String>,
}

impl KernelReport {
    fn new(kernel: &str) -> Self {
        Self { kernel: kernel.to_owned(), cases: 0, worst: 0.0, error: 0.0, bound: 0.0, failures: Vec::new() }
    }

    /// Keeps what is worse than all before it.
    fn hear(&mut self, worst: f64, error: f64, bound: f64) {
        if worst > self.worst {
            (self.worst, self.error, self.bound) = (worst, error, bound);
        }
    }

    /// Holds the norm of a difference against a share of the reference's.
    fn hold_norm(&mut self, name: &str, actual: &[f32], reference: &[f64], share: f64) {
        let norm = reference.iter().map(|value| value * value).sum::<f64>().sqrt();
        let error = actual.iter().zip(reference).map(|(&a, &b)| (f64::from(a) - b).powi(2)).sum::<f64>().sqrt();
        self.cases += 1;
        self.hear(error / (share * norm), error, share * norm);
        if error.is_nan() || error > share * norm {
            self.failures.push(format!("{name}: off by {error:e} where the norm is {norm:e}, bound {share:e}"));
        }
    }
}

/// Runs one candidate of a case on a device: against the reference, twice with the same bits, with a guard behind every
/// tensor and bank, and every result that is not state filled with NaN before. Returns the element whose error is the
/// largest relative to its bound.
///
/// # Errors
/// [`Error::Device`] saying which of these did not hold, and where.
pub fn check_case(gpu: &Gpu, case: &Case, candidate: usize, seed: u32) -> Result<Comparison> {
    let trial = Trial::new(case, seed)?;
    trial.check(gpu, candidate, &trial.expected())
}

/// Runs one candidate of a case with each index of its kernels looked at, also those whose values nothing uses, and with memory of workgroups
/// filled with NaN beforehand.
///
/// # Errors
/// [`Error::Device`] if one is out of bounds, of what the kernel binds or of memory of its own, or if a result is NaN; [`Error::Graph`] if the kernel's
/// text does not tell.
pub fn check_indices(gpu: &Gpu, case: &Case, candidate: usize, seed: u32) -> Result<()> {
    let options = PlanOptions { candidate: Some(candidate), guarded: true, trapped: true, ..PlanOptions::default() };
    let trial = Trial::new(case, seed)?;
    let plan = trial.plan(gpu, options)?;
    let results = trial.run(&plan, &trial.values)?;
    let is_nan =
        |result: &Tensor<f32>| matches!(result, Tensor::Float(array) if array.data.iter().any(|value| value.is_nan()));
    let problem = if !plan.broken_guards()?.is_empty() {
        "has an index out of bounds"
    } else if results.iter().any(is_nan) {
        "has a result that is NaN, from memory that it has not written"
    } else {
        return Ok(());
    };
    let kernels = plan.candidate(trial.node).map_or(String::new(), ToString::to_string);
    Err(Error::Device(format!("{}: {kernels} {problem}", trial.name)))
}

/// A plan of a case's op alone, with its inputs written: to time what [`check_case`] checks.
///
/// # Errors
/// As [`Plan::new`].
pub fn plan_case(gpu: &Gpu, case: &Case, seed: u32, options: PlanOptions) -> Result<Plan> {
    Trial::new(case, seed)?.plan(gpu, options)
}

/// A result against its reference; in words, what does not hold.
fn compare_tensors(actual: &Tensor<f32>, reference: &Tensor<f64>, bounds: &[f64]) -> Result<Comparison, String> {
    let comparison = match (actual, reference) {
        (Tensor::Float(actual), Tensor::Float(reference)) => compare(&actual.data, &reference.data, bounds),
        (Tensor::Uint(actual), Tensor::Uint(reference)) => {
            let floats: Vec<f32> = actual.data.iter().map(|&value| value as f32).collect();
            let expected: Vec<f64> = reference.data.iter().map(|&value| f64::from(value)).collect();
            compare(&floats, &expected, bounds)
        }
        _ => return Err("the result is of another type than the reference".into()),
    };
    comparison.map_err(|mismatch| mismatch.to_string())
}

fn cast(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

fn words(tensor: &Tensor<f32>) -> Vec<u32> {
    match tensor {
        Tensor::Float(array) => array.data.iter().map(|value| value.to_bits()).collect(),
        Tensor::Uint(array) => array.data.clone(),
    }
}

/// What the results of a trial should be, and how far off each element may be.
pub(crate) struct Expected(Vec<(Tensor<f64>, Vec<f64>)>);

/// A graph of one op with its inputs.
pub(crate) struct Trial {
    op: Arc<dyn AnyOp>,
    /// Of op and case.
    name: String,
    graph: Graph,
    /// The op's node.
    node: NodeId,
    /// The node and value of each input of the op.
    inputs: Vec<NodeId>,
    values: Vec<Tensor<f32>>,
    /// What is read: the op's node, or the banks that it writes.
    output: Option<NodeId>,
    written: Vec<Bank>,
}

impl Trial {
    pub(crate) fn new(case: &Case, seed: u32) -> Result<Self> {
        Self::of(case, case.draw(seed))
    }

    /// A graph of a case's op, for these values.
    fn of(case: &Case, mut values: Vec<Tensor<f32>>) -> Result<Self> {
        let mut graph = Graph::new();
        let updates = case.op.writes();
        let mut inputs = Vec::new();
        if updates.is_empty() {
            for (index, (tensor_type, _)) in case.inputs.iter().enumerate() {
                inputs.push(graph.input(&format!("input{index}"), tensor_type.clone()));
            }
        } else {
            // Inputs of the first one's type are the banks, in their order, padded as banks are.
            let elements = case.inputs[0].0.shape.elements();
            graph.parameter("bank", [elements], Init::Zeros)?;
            let mut banks = [Bank::Parameters, Bank::Gradients].into_iter().chain((0..).map(Bank::OptimizerState));
            for (index, value) in values.iter_mut().enumerate() {
                if case.inputs[index].0 == case.inputs[0].0
                    && let (Tensor::Float(array), Some(bank)) = (&mut *value, banks.next())
                {
                    let padded = TensorType::f32([elements.next_multiple_of(BANK_ALIGNMENT)]).map_err(Error::Usage)?;
                    array.data.resize(padded.shape.elements(), 0.0);
                    array.shape = padded.shape;
                    inputs.push(graph.bank(bank)?);
                } else {
                    inputs.push(graph.input(&format!("input{index}"), case.inputs[index].0.clone()));
                }
            }
        }
        let node = graph.apply_shared("op", &case.op, &inputs)?;
        let written: Vec<Bank> = updates.iter().filter_map(|&index| graph.bank_of(inputs[index])).collect();
        let output = updates.is_empty().then_some(node);
        if let Some(output) = output {
            graph.mark_output("output", output)?;
        }
        let (op, name) = (Arc::clone(&case.op), format!("{} ({})", case.op.name(), case.name));
        Ok(Self { op, name, graph, node, inputs, values, output, written })
    }

    /// A plan with its inputs written.
    pub(crate) fn plan(&self, gpu: &Gpu, options: PlanOptions) -> Result<Plan> {
        let plan = Plan::new(gpu, &self.graph, options)?;
        self.write(&plan, &self.values)?;
        Ok(plan)
    }

    /// What the reference says, in `f64`.
    pub(crate) fn expected(&self) -> Expected {
        let inputs: Vec<Tensor<f64>> = self.values.iter().map(Tensor::cast).collect();
        let inputs: Vec<&Tensor<f64>> = inputs.iter().collect();
        let bounded = |(result, mut reference): (usize, Tensor<f64>)| {
            let mut bounds = self.op.bound(&inputs, &reference, result).elements(self.op.as_ref(), &inputs, &reference);
            stored(self.dtype(), &mut reference, &mut bounds);
            (reference, bounds)
        };
        Expected(self.op.reference_f64(&inputs).into_iter().enumerate().map(bounded).collect())
    }

    /// What the candidate says that any device can run, on a device: for shapes at which the reference takes too long.
    pub(crate) fn expected_by(&self, gpu: &Gpu) -> Result<Expected> {
        let options = PlanOptions { candidate: Some(usize::MAX), guarded: true, ..PlanOptions::default() };
        let plan = Plan::new(&gpu.portable(), &self.graph, options)?;
        let results = self.run(&plan, &self.values)?;
        let inputs: Vec<Tensor<f64>> = self.values.iter().map(Tensor::cast).collect();
        let inputs: Vec<&Tensor<f64>> = inputs.iter().collect();
        let bounded = |(result, computed): (usize, &Tensor<f32>)| {
            let mut computed = computed.cast();
            let on_magnitudes = |magnitudes: Vec<Tensor<f64>>| {
                let magnitudes: Vec<Tensor<f32>> = magnitudes.iter().map(Tensor::cast).collect();
                Ok::<_, Error>(self.run(&plan, &magnitudes)?.swap_remove(0).cast())
            };
            let mut bounds =
                self.op.bound(&inputs, &computed, result).elements_by(&inputs, &computed, on_magnitudes)?;
            stored(self.dtype(), &mut computed, &mut bounds);
            Ok((computed, bounds))
        };
        Ok(Expected(results.iter().enumerate().map(bounded).collect::<Result<_>>()?))
    }

    /// Holds a candidate against what is expected, as [`check_case`] says.
    pub(crate) fn check(&self, gpu: &Gpu, candidate: usize, expected: &Expected) -> Result<Comparison> {
        let fail = |problem: String| Error::Device(format!("{}: {problem}", self.name));
        let options = PlanOptions { candidate: Some(candidate), guarded: true, ..PlanOptions::default() };
        let plan = Plan::new(gpu, &self.graph, options)?;
        let (results, again) = (self.run(&plan, &self.values)?, self.run(&plan, &self.values)?);
        let bits = |results: &[Tensor<f32>]| -> Vec<Vec<u32>> { results.iter().map(words).collect() };
        if bits(&results) != bits(&again) {
            return Err(fail("two runs on the same inputs gave different bits".into()));
        }
        let broken = plan.broken_guards()?;
        if !broken.is_empty() {
            return Err(fail(format!("wrote past the end of {}", broken.join(", "))));
        }
        let inputs: Vec<Tensor<f64>> = self.values.iter().map(Tensor::cast).collect();
        let inputs: Vec<&Tensor<f64>> = inputs.iter().collect();
        let mut worst: Option<Comparison> = None;
        for (result, (actual, (reference, bounds))) in results.iter().zip(&expected.0).enumerate() {
            let chosen = plan.candidate(self.node);
            let own = chosen.and_then(|chosen| self.op.candidate_bound(chosen, &inputs, reference, result));
            let own = own.map(|bound| {
                let mut bounds = bound.elements(self.op.as_ref(), &inputs, reference);
                stored(self.dtype(), &mut reference.clone(), &mut bounds);
                bounds
            });
            let comparison = compare_tensors(actual, reference, own.as_ref().unwrap_or(bounds)).map_err(fail)?;
            worst = worst.filter(|worst| worst.worst >= comparison.worst).or(Some(comparison));
        }
        worst.ok_or_else(|| fail("there is no result to compare".into()))
    }

    /// How the result is stored.
    fn dtype(&self) -> DType {
        self.graph.node(self.node).tensor_type.dtype
    }

    fn write(&self, plan: &Plan, values: &[Tensor<f32>]) -> Result<()> {
        self.inputs.iter().zip(values).try_for_each(|(&node, value)| match (self.graph.bank_of(node), value) {
            (Some(bank), Tensor::Float(array)) => plan.write_bank(bank, &array.data),
            _ => plan.write(node, value),
        })
    }

    fn run(&self, plan: &Plan, values: &[Tensor<f32>]) -> Result<Vec<Tensor<f32>>> {
        self.write(plan, values)?;
        plan.run()?;
        if let Some(output) = self.output {
            return Ok(vec![plan.read(output)?]);
        }
        let read = |&bank| {
            let data = plan.read_bank(bank)?;
            let TensorType { shape, .. } = TensorType::f32([data.len()]).map_err(Error::Usage)?;
            Ok(Tensor::Float(Array { shape, data }))
        };
        self.written.iter().map(read).collect()
    }
}

/// Every candidate of every case of every op, but for those that store tensors as `f16` where the device cannot; `progress` hears the
/// number of cases done and in total, and may break off.
///
/// # Errors
/// When a case cannot be built; [`Error::Interrupted`]. What does not hold is in the reports.
pub fn run(gpu: &Gpu, seed: u32, progress: &mut Progress<'_>) -> Result<Vec<KernelReport>> {
    let mut cases = Vec::new();
    for entry in REGISTRY {
        cases.extend((entry.cases)().map_err(Error::Usage)?);
    }
    cases.retain(|case| gpu.profile().f16 || !case.stores_half());
    // Most of the time goes into compiling kernels and computing references, which different cases can do side by side.
    let outcomes = map_all(&cases, progress, |case| -> Result<Vec<Outcome>> {
        let trial = Trial::new(case, seed)?;
        let expected = trial.expected();
        let check =
            |(candidate, dispatches): (usize, Vec<Dispatch>)| (dispatches, trial.check(gpu, candidate, &expected));
        Ok(candidates(gpu, case)?.into_iter().enumerate().map(check).collect())
    })?;
    let mut reports: BTreeMap<String, KernelReport> = BTreeMap::new();
    for outcomes in outcomes {
        for (dispatches, outcome) in outcomes? {
            let mut paths: Vec<&str> = dispatches.iter().map(|dispatch| dispatch.kernel.path).collect();
            paths.dedup();
            for path in paths {
                let report = reports.entry(path.to_owned()).or_insert_with(|| KernelReport::new(path));
                report.cases += 1;
                match &outcome {
                    Ok(comparison) => report.hear(comparison.worst, comparison.error, comparison.bound),
                    Err(error) => report.failures.push(error.to_string()),
                }
            }
        }
    }
    Ok(reports.into_values().collect())
}

/// The dispatches of each candidate that a case's op offers for a device.
///
/// # Errors
/// When the case's inputs do not fit its op.
pub fn candidates(gpu: &Gpu, case: &Case) -> Result<Vec<Vec<Dispatch>>> {
    let types: Vec<TensorType> = case.inputs.iter().map(|(tensor_type, _)| tensor_type.clone()).collect();
    let output = case.op.output(&types).map_err(|problem| Error::Graph {
        op: case.op.name().into(),
        node: case.name.clone(),
        problem,
    })?;
    let candidates = case.op.offered(&types, &output, gpu.profile());
    Ok(candidates.into_iter().map(|candidate| candidate.dispatches).collect())
}

/// Every op of a graph up to its update, fused as in a plan, each against its reference in `f64` on the very inputs that the device gave it, so that an
/// error of one op does not count as one of the next; guarded as in [`check_case`]. The loss and all gradients of an ordinary plan, in
/// which tensors share memory, are held against those.
///
/// # Errors
/// When the device fails, or an input is missing. What does not hold is in the report.
pub fn each_op(
    gpu: &Gpu,
    graph: &Graph,
    parameters: &[f32],
    inputs: &BTreeMap<NodeId, Tensor<f32>>,
) -> Result<KernelReport> {
    let ordinary = graph.fused().before_update();
    let mut open = ordinary.clone();
    let needed = open.needed();
    let nodes: Vec<NodeId> = (0..needed.len()).filter(|&index| needed[index]).map(NodeId).collect();
    let is_op = |node: &NodeId| matches!(ordinary.node(*node).kind, NodeKind::Op { .. });
    for &node in nodes.iter().filter(|node| is_op(node)) {
        open.mark_output(&ordinary.node(node).name, node)?;
    }
    let run = |graph: &Graph, guarded: bool| {
        let plan = Plan::new(gpu, graph, PlanOptions { guarded, ..PlanOptions::default() })?;
        plan.write_bank(Bank::Parameters, parameters)?;
        inputs
            .iter()
            .filter(|(node, _)| node.0 < graph.nodes().len())
            .try_for_each(|(&node, value)| plan.write(node, value))?;
        plan.run()?;
        Ok::<_, Error>(plan)
    };
    let plan = run(&open, true)?;
    let mut values: BTreeMap<NodeId, Tensor<f64>> = BTreeMap::new();
    for node in nodes {
        let target = ordinary.node(node);
        let value = match &target.kind {
            NodeKind::Op { .. } => plan.read(node)?,
            NodeKind::Parameter { index } => ordinary.bank_array(parameters, &ordinary.parameters()[*index]).into(),
            NodeKind::Constant(value) => Array::filled(target.tensor_type.shape.clone(), *value).into(),
            NodeKind::Input => inputs.get(&node).cloned().ok_or_else(|| Error::Graph {
                op: "each_op".into(),
                node: target.name.clone(),
                problem: "this input has no value; give one".into(),
            })?,
            NodeKind::Bank(_) => continue,
        };
        values.insert(node, value.cast());
    }
    let check = |(node, actual): (&NodeId, &Tensor<f64>)| {
        let NodeKind::Op { op, inputs } = &ordinary.node(*node).kind else { return None };
        let inputs: Vec<&Tensor<f64>> = inputs.iter().filter_map(|input| values.get(input)).collect();
        let mut reference = op.reference_f64(&inputs).swap_remove(0);
        let candidate = plan.candidate(*node);
        let own = candidate.and_then(|candidate| op.candidate_bound(candidate, &inputs, &reference, 0));
        let bound = own.unwrap_or_else(|| op.bound(&inputs, &reference, 0));
        let mut bounds = bound.elements(op.as_ref(), &inputs, &reference);
        stored(ordinary.node(*node).tensor_type.dtype, &mut reference, &mut bounds);
        let outcome = compare_tensors(&actual.cast(), &reference, &bounds);
        Some(outcome.map_err(|problem| format!("{} ({}): {problem}", ordinary.node(*node).name, op.name())))
    };
    let mut report = KernelReport::new("every op");
    for outcome in values.par_iter().filter_map(check).collect::<Vec<_>>() {
        report.cases += 1;
        match outcome {
            Ok(comparison) => report.hear(comparison.worst, comparison.error, comparison.bound),
            Err(failure) => report.failures.push(failure),
        }
    }
    report.failures.extend(plan.broken_guards()?.into_iter().map(|name| format!("wrote past the end of {name}")));
    let shared = run(&ordinary, false)?;
    for &(ref name, output) in ordinary.outputs() {
        report.hold_norm(name, &shared.read(output)?.float().data, &cast(&plan.read(output)?.float().data), SAME_BOUND);
    }
    let gradients = (shared.read_bank(Bank::Gradients)?, cast(&plan.read_bank(Bank::Gradients)?));
    report.hold_norm("gradients", &gradients.0, &gradients.1, SAME_BOUND);
    Ok(report)
}

/// The share of a norm by which two plans of one graph on one device may differ: rounding may put a unit that is near 0 on in one and off
/// in the other. Memory shared by tensors that live at the same time does far more.
const SAME_BOUND: f64 = 1e-2;

/// The share of a tensor's norm by which a whole training step in `f32` may differ from the reference in `f64`: some hundred
/// roundings of 2⁻²⁴ in sequence, amplified where sums cancel. A wrong sign, index or scale is off by more than 10⁻².
const STEP_BOUND: f64 = 1e-4;

/// Low, span, gamma, contrast, brightness and noise of the tiles of a training step.
const INTENSITIES: [(f32, f32); 6] = [(-4.0, -3.0), (6.0, 8.0), (0.7, 1.5), (0.8, 1.2), (-0.2, 0.2), (0.0, 0.1)];

/// One training step of a small U-Net with dropout on augmented tiles, on the device and in the `f64` reference: loss, every
/// gradient, every parameter after the update; with the paper's choices, and with the others.
///
/// # Errors
/// When the device fails. What does not hold is in the report.
pub fn training_step(gpu: &Gpu, seed: u32) -> Result<KernelReport> {
    let cross_entropy = CrossEntropySettings { reduction: Reduction::MeanOverPixels, ignore: None };
    let loss = Loss::Both(cross_entropy, DiceSettings { smoothing: 1.0 });
    // A large epsilon, for small gradients have no digits left that their sign alone could be told by.
    let adam = AdamSettings { epsilon: 0.1, weight_decay: 0.01, decoupled: true, ..AdamSettings::default() };
    let other = Training { loss, clip_norm: Some(0.5), optimizer: Optimizer::Adam(adam), ..Training::default() };
    let mut report = KernelReport::new("training step");
    for (what, training) in [("paper", Training::default()), ("other", other)] {
        check_training(gpu, seed, what, &training, &mut report)?;
    }
    Ok(report)
}

fn check_training(gpu: &Gpu, seed: u32, what: &str, training: &Training, report: &mut KernelReport) -> Result<()> {
    let net = UNet { variant: Variant::Unet, in_channels: 1, classes: 3, base_channels: 4, depth: 2, dropout: 0.25 };
    let side = net.legal_above(net.shrink() + 12);
    let (frame, window, augmentation) = ([side; 2], [net.output_side(side)?; 2], &Augmentation::RECIPE);
    let tiles = Tiles { batch: 2, channels: net.in_channels, frame, window, augmentation };
    let (step, augmented) = net.augmented_training_step(&tiles, training)?;
    let parameters = step.graph.initial_parameters(seed);
    let mut random = Random::new(seed, u32::MAX);
    let mut inputs: BTreeMap<NodeId, Tensor<f32>> = BTreeMap::new();
    for (node, fill) in [
        (Some(step.image), Fill::Normal(1.0)),
        (Some(step.labels), Fill::Labels { classes: 3, ignore: None }),
        (Some(step.weights), Fill::Positive),
        (Some(step.rates), Fill::Constant(0.01)),
        (step.generator, Fill::Bits),
        (Some(augmented.transforms), Fill::Uniform(-1.0, 1.0)),
        (Some(augmented.displacements), Fill::Normal(3.0)),
        (Some(augmented.intensities), Fill::Ranges(&INTENSITIES)),
    ] {
        if let Some(node) = node {
            inputs.insert(node, fill.draw(&step.graph.node(node).tensor_type, &mut random));
        }
    }
    let plan = Plan::new(gpu, &step.graph, PlanOptions::default())?;
    plan.write_bank(Bank::Parameters, &parameters)?;
    inputs.iter().try_for_each(|(&node, value)| plan.write(node, value))?;
    plan.run()?;
    let inputs: BTreeMap<NodeId, Tensor<f64>> = inputs.iter().map(|(&node, value)| (node, value.cast())).collect();
    let mut banks = cpu::banks::<f64>(&step.graph, &parameters);
    let outputs = cpu::evaluate(&step.graph, &inputs, &mut banks)?;
    let mut hold = |name: &str, actual: &[f32], reference: &[f64]| {
        report.hold_norm(&format!("{what}, {name}"), actual, reference, STEP_BOUND);
    };
    hold("loss", &plan.read(step.loss)?.float().data, &outputs[&step.loss].float().data);
    for bank in [Bank::Gradients, Bank::Parameters] {
        let (actual, reference) = (plan.read_bank(bank)?, &banks[&bank]);
        for parameter in step.graph.parameters() {
            let name = format!("{} of {}", if bank == Bank::Gradients { "gradient" } else { "update" }, parameter.name);
            hold(&name, step.graph.bank_slice(&actual, parameter), step.graph.bank_slice(reference, parameter));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Real;
    use crate::models::TrainingStep;
    use crate::op::{Backward, Bound, Candidate, DeviceProfile, Op};
    use crate::ops::Relu;

    /// An op that says to be twice what its kernel computes.
    #[derive(Debug)]
    struct Wrong;

    impl Op for Wrong {
        fn name(&self) -> &'static str {
            "wrong"
        }

        fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
            Relu.output(inputs)
        }

        fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
            let mut y = inputs[0].float().clone();
            y.data.iter_mut().for_each(|value| *value = T::from_f64(2.0) * value.max(T::zero()));
            vec![y.into()]
        }

        fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
            Relu.candidates(inputs, output, device)
        }

        fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
            Relu.gradient(backward)
        }

        fn flops(&self, inputs: &[TensorType], output: &TensorType) -> u64 {
            Relu.flops(inputs, output)
        }

        fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
            Bound::Exact
        }
    }

    #[test]
    fn an_op_that_is_not_its_reference_is_found_in_its_graph() {
        let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
        let mut graph = Graph::new();
        let x = graph.parameter("x", [1], Init::Zeros).unwrap();
        let right = graph.relu("right", x).unwrap();
        let loss = graph.apply("odd", Wrong, &[right]).unwrap();
        let (graph, _) = graph.gradients(loss, &[]).unwrap();
        let report = each_op(&gpu, &graph, &[1.5; BANK_ALIGNMENT], &BTreeMap::new()).unwrap();
        assert!(report.failures.len() == 1 && report.failures[0].starts_with("odd (wrong): "), "{:?}", report.failures);
    }

    #[test]
    fn every_op_of_a_training_step_is_compared() {
        let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
        let net = UNet { variant: Variant::Unet, in_channels: 1, classes: 2, base_channels: 2, depth: 1, dropout: 0.0 };
        let network = net.build(1, [net.legal_above(20); 2]).unwrap();
        let TrainingStep { graph, .. } = network.training_step(&Training::default()).unwrap();
        let parameters = graph.initial_parameters(1);
        let message = each_op(&gpu, &graph, &parameters, &BTreeMap::new()).unwrap_err().to_string();
        assert!(message.contains("`image`") && message.contains("no value"), "{message}");
        let mut random = Random::new(1, 0);
        let draw = |node| (node, Fill::Positive.draw(&graph.node(node).tensor_type, &mut random));
        let inputs = graph.inputs().map(draw).collect();
        let report = each_op(&gpu, &graph, &parameters, &inputs).unwrap();
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        let kept = graph.fused().before_update();
        let ops = kept
            .nodes()
            .iter()
            .zip(kept.needed())
            .filter(|(node, needed)| *needed && matches!(node.kind, NodeKind::Op { .. }));
        // The loss and the gradients of the ordinary plan come on top.
        assert_eq!(report.cases, ops.count() + 2);
    }
}
