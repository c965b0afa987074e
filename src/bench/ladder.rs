//! Ladders: one computation by kernels that each add one idea to the one before, up to those in use. `tilewise ladder`.

mod conv2d;
mod grad_weight;
mod loss;

use super::network::layers;
use super::table::{giga, percent, spread};
use super::{Machine, Roof, Settings, Spread, Table};
use crate::array::{Real, Tensor};
use crate::error::{Error, Result};
use crate::executor::Device;
use crate::gpu::{Gpu, Plan, PlanOptions};
use crate::graph::{Graph, NodeId};
use crate::models::Precision;
use crate::op::{AnyOp, Bound, Candidate, Case, DeviceProfile, Fill, Op, Proof};
use crate::ops::Entry;
use crate::progress::{Announce, unless_stopped};
use crate::selftest::Trial;
use crate::shape::{DType, TensorType};
use serde::Serialize;
use std::sync::Arc;

/// Every ladder.
pub static LADDERS: [&Ladder; 3] = [&conv2d::LADDER, &grad_weight::LADDER, &loss::LADDER];

/// One computation, by one kernel after the other.
#[derive(Debug)]
pub struct Ladder {
    /// Its name, as `tilewise ladder` takes it.
    pub name: &'static str,
    /// Its folder of kernels, its page, and the cases that its rungs are tested on.
    pub entry: Entry,
    /// The rungs, from the simplest.
    pub rungs: &'static [Rung],
    /// What all of them compute.
    op: fn() -> Arc<dyn AnyOp>,
    /// Side in pixels of what they are measured on, on a GPU and on a software driver, unless another is asked for.
    sides: [usize; 2],
    /// Its channels, if it has any.
    channels: Option<usize>,
    /// The inputs of this side and so many channels.
    inputs: fn(usize, usize) -> Result<Inputs, String>,
    /// Which of them are stored as the precision says.
    activations: &'static [usize],
}

/// Types and how to fill them, as [`Case::inputs`].
type Inputs = Vec<(TensorType, Fill)>;

/// A kernel, and what it adds to the one before.
#[derive(Debug)]
pub struct Rung {
    /// Its name.
    pub name: &'static str,
    /// What is new, and what for.
    pub idea: &'static str,
    /// What device and shapes must have for it; empty where any will do.
    pub needs: &'static str,
    launch: Launch,
}

/// Where a rung's launch comes from.
#[derive(Debug)]
enum Launch {
    /// A kernel of the ladder, where device and shapes allow it.
    Own(fn(&[TensorType], &TensorType, &DeviceProfile) -> Option<Candidate>),
    /// The first of the op's own candidates that begins with this kernel.
    InUse(&'static str),
}

impl Rung {
    fn candidate(&self, op: &dyn AnyOp, types: &Types, device: &DeviceProfile) -> Option<Candidate> {
        let Types { inputs, output } = types;
        match self.launch {
            // They teach with f32.
            Launch::Own(_) if inputs.iter().any(|input| input.dtype == DType::F16) => None,
            Launch::Own(launch) => launch(inputs, output, device),
            Launch::InUse(path) => {
                let is = |candidate: &Candidate| first_kernel(candidate) == path;
                // As the op makes it, where it is offered: how tensors are stored is told to the ladder's candidates, not twice.
                let offered = op.offered(inputs, output, device).iter().any(is);
                op.candidates(inputs, output, device).into_iter().find(is).filter(|_| offered)
            }
        }
    }
}

/// The types of an op's inputs and result.
struct Types {
    inputs: Vec<TensorType>,
    output: TensorType,
}

/// The kernel that a candidate begins with.
fn first_kernel(candidate: &Candidate) -> &'static str {
    candidate.dispatches.first().map_or("", |dispatch| dispatch.kernel.path)
}

/// What a ladder computes, by its rungs in place of the op's own kernels.
#[derive(Debug)]
struct Climb(&'static Ladder);

impl Op for Climb {
    fn name(&self) -> &'static str {
        self.0.entry.name
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        (self.0.op)().output(inputs)
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let inputs: Vec<Tensor<f64>> = inputs.iter().map(|input| input.cast()).collect();
        let results = (self.0.op)().reference_f64(&inputs.iter().collect::<Vec<_>>());
        results.iter().map(Tensor::cast).collect()
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let types = Types { inputs: inputs.to_vec(), output: output.clone() };
        self.0.offered(&types, device).into_iter().filter_map(|(_, candidate)| candidate).collect()
    }

    fn proof(&self) -> Option<Proof> {
        Some(Proof::of::<Self>())
    }

    fn flops(&self, inputs: &[TensorType], output: &TensorType) -> u64 {
        (self.0.op)().flops(inputs, output)
    }

    fn bound(&self, inputs: &[&Tensor<f64>], output: &Tensor<f64>, result: usize) -> Bound {
        (self.0.op)().bound(inputs, output, result)
    }

    fn candidate_bound(
        &self,
        candidate: &Candidate,
        inputs: &[&Tensor<f64>],
        output: &Tensor<f64>,
        result: usize,
    ) -> Option<Bound> {
        (self.0.op)().candidate_bound(candidate, inputs, output, result)
    }
}

/// A rung, measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// The rung's name.
    pub name: &'static str,
    /// What is new, and what for.
    pub idea: &'static str,
    /// The paths of its kernels.
    pub kernels: Vec<String>,
    /// Whether it is what this device gets for these shapes in a network.
    pub in_use: bool,
    /// The largest error over its bound.
    pub worst: f64,
    /// The sum over its dispatches.
    pub seconds: Spread,
    /// The least time that the device's roof allows, over the median.
    pub share_of_roof: Option<f64>,
}

/// A rung that this device or these shapes do not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Absent {
    /// The rung's name.
    pub name: &'static str,
    /// What it needs.
    pub needs: &'static str,
}

/// A ladder, measured on a device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Climbed {
    /// The version of this crate.
    pub tilewise: &'static str,
    /// Where it was measured.
    pub device: Machine,
    /// How.
    pub settings: Settings,
    /// What the device can do at most.
    pub roof: Roof,
    /// The ladder's name.
    pub ladder: &'static str,
    /// The types of its inputs, as `1×32×32×64`; `f32` unless it says otherwise.
    pub inputs: Vec<String>,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes of inputs and result.
    pub bytes: u64,
    /// The rungs.
    pub steps: Vec<Step>,
    /// Those that there are not here.
    pub absent: Vec<Absent>,
}

impl Ladder {
    /// The ladder of this name.
    ///
    /// # Errors
    /// [`Error::Usage`] listing the ladders when it is none.
    pub fn named(name: &str) -> Result<&'static Self> {
        LADDERS.into_iter().find(|ladder| ladder.name == name).ok_or_else(|| {
            let names = LADDERS.map(|ladder| ladder.name).join(", ");
            Error::Usage(format!("there is no ladder {name:?}; there are {names}"))
        })
    }

    /// What to measure on a device: an image of so many pixels a side and so many channels, or as many as it computes in a moment, its
    /// activations stored with this precision.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is no such image, or it is not stored so.
    pub fn case(
        &'static self,
        gpu: &Gpu,
        side: Option<usize>,
        channels: Option<usize>,
        precision: Precision,
    ) -> Result<Case> {
        let fail = |problem| Error::Usage(format!("ladder {}: {problem}", self.name));
        if channels.is_some() && self.channels.is_none() {
            return Err(fail("what it computes has no channels; leave out --channels".into()));
        }
        let side = side.unwrap_or(self.sides[usize::from(gpu.adapter().is_software())]);
        let mut inputs = (self.inputs)(side, channels.or(self.channels).unwrap_or(1)).map_err(fail)?;
        if precision == Precision::Mixed {
            if self.activations.is_empty() {
                return Err(fail("what it computes is f32 in mixed precision, too; leave out --precision".into()));
            }
            self.activations.iter().for_each(|&input| inputs[input].0.dtype = DType::F16);
        }
        let case = Case { name: format!("{side} pixels"), op: Arc::new(Climb(self)), inputs };
        types(&case).map(|_| case).map_err(fail)
    }

    /// Each rung with its launch, if device and shapes have it.
    fn offered(&'static self, types: &Types, device: &DeviceProfile) -> Vec<(&'static Rung, Option<Candidate>)> {
        let op = (self.op)();
        self.rungs.iter().map(|rung| (rung, rung.candidate(op.as_ref(), types, device))).collect()
    }

    /// A plan of one node for each rung that device and shapes have, its inputs drawn and written.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plans(&'static self, gpu: &Gpu, case: &Case, seed: u32) -> Result<Vec<(&'static Rung, Plan)>> {
        let types = types(case).map_err(Error::Usage)?;
        let rungs = self.offered(&types, gpu.profile()).into_iter().filter(|(_, candidate)| candidate.is_some());
        let values = case.draw(seed);
        let plan = |(candidate, (rung, _)): (usize, (&'static Rung, _))| {
            let mut graph = Graph::new();
            let input = |(index, input): (usize, &TensorType)| graph.input(&format!("input{index}"), input.clone());
            let nodes: Vec<NodeId> = types.inputs.iter().enumerate().map(input).collect();
            let node = graph.apply_shared(rung.name, &case.op, &nodes)?;
            graph.mark_output("result", node)?;
            let plan = Plan::new(gpu, &graph, PlanOptions { candidate: Some(candidate), ..PlanOptions::default() })?;
            nodes.iter().zip(&values).try_for_each(|(&node, value)| plan.write(node, value))?;
            Ok((rung, plan))
        };
        rungs.enumerate().map(plan).collect()
    }

    /// Measures the device's roof, then every rung: its result held against the reference, then timed by the device; `announce`
    /// hears what comes next, and may break off.
    ///
    /// # Errors
    /// [`Error::Usage`] when nothing is to be repeated, [`Error::Device`] when a result does not hold, or the device has failed or
    /// cannot time kernels; [`Error::Interrupted`].
    pub fn climb(
        &'static self,
        gpu: &Gpu,
        case: &Case,
        settings: Settings,
        announce: &mut Announce<'_>,
    ) -> Result<Climbed> {
        settings.check()?;
        let types = types(case).map_err(Error::Usage)?;
        unless_stopped(announce("the device's roof"))?;
        let roof = Roof::measure(gpu, settings.repeats, settings.seed)?;
        unless_stopped(announce("the reference"))?;
        let trial = Trial::new(case, settings.seed)?;
        let expected = trial.expected();
        let in_use = (self.op)().offered(&types.inputs, &types.output, gpu.profile());
        let in_use = in_use.first().map_or("", first_kernel);
        let mut steps = Vec::new();
        for (candidate, (rung, plan)) in self.plans(gpu, case, settings.seed)?.into_iter().enumerate() {
            unless_stopped(announce(rung.name))?;
            let comparison = trial.check(gpu, candidate, &expected);
            let comparison = comparison.map_err(|error| Error::Device(format!("rung {}: {error}", rung.name)))?;
            let Some(layer) = layers(&plan, settings.repeats, Some(&roof))?.pop() else { continue };
            steps.push(Step {
                name: rung.name,
                idea: rung.idea,
                in_use: matches!(rung.launch, Launch::InUse(path) if path == in_use),
                kernels: layer.kernels,
                worst: comparison.worst,
                seconds: layer.seconds,
                share_of_roof: layer.share_of_roof,
            });
        }
        let f32s = Types { inputs: types.inputs.iter().map(in_f32).collect(), output: in_f32(&types.output) };
        let absent = self.offered(&types, gpu.profile()).into_iter().zip(self.offered(&f32s, gpu.profile()));
        let absent = absent.filter(|((_, candidate), _)| candidate.is_none()).map(|((rung, _), (_, in_f32))| Absent {
            name: rung.name,
            needs: if in_f32.is_some() { "activations in f32" } else { rung.needs },
        });
        Ok(Climbed {
            tilewise: env!("CARGO_PKG_VERSION"),
            device: Machine::of(&Device::Gpu(gpu.clone())),
            settings,
            roof,
            ladder: self.name,
            inputs: types.inputs.iter().map(ToString::to_string).collect(),
            flops: case.op.flops(&types.inputs, &types.output),
            bytes: types.inputs.iter().chain([&types.output]).map(TensorType::size_bytes).sum(),
            steps,
            absent: absent.collect(),
        })
    }
}

/// The like, stored as `f32`.
fn in_f32(tensor_type: &TensorType) -> TensorType {
    TensorType { dtype: DType::F32, shape: tensor_type.shape.clone() }
}

/// The types of a case, which its op's shape rule admits.
fn types(case: &Case) -> Result<Types, String> {
    let inputs: Vec<TensorType> = case.inputs.iter().map(|(tensor_type, _)| tensor_type.clone()).collect();
    let output = case.op.output(&inputs)?;
    Ok(Types { inputs, output })
}

impl Climbed {
    /// The rungs as a table.
    pub fn table(&self) -> Table {
        let heads = ["", "kernels", "ms", "least", "most", "GFLOP/s", "GB/s", "% of roof", "× first"];
        let mut table = Table::new(self.device.to_string(), &heads);
        let Self { roof, flops, bytes, .. } = self;
        let (rate, memory) = (roof.flops_per_second() / 1e9, roof.bytes_per_second() / 1e9);
        let bound = if roof.is_bound_by_arithmetic(*flops, *bytes) { "arithmetic" } else { "memory" };
        table.notes.push(format!(
            "ladder {} of {}: {:.3} GFLOP, {:.2} MB",
            self.ladder,
            self.inputs.join(" and "),
            *flops as f64 / 1e9,
            *bytes as f64 / 1e6
        ));
        table.notes.push(format!("the roof is {rate:.2} GFLOP/s and {memory:.2} GB/s; {bound} binds"));
        table
            .notes
            .push("each result was held against the reference first; * is what networks get on this device".into());
        let first = self.steps.first().map_or(0.0, |step| step.seconds.median);
        for step in &self.steps {
            let median = step.seconds.median;
            let name = format!("{}{}", step.name, if step.in_use { " *" } else { "" });
            let rates = [
                giga(*flops, median),
                giga(*bytes, median),
                percent(step.share_of_roof),
                format!("{:.1}", first / median),
            ];
            table.rows.push([&[name, step.kernels.join(" ")][..], &spread(step.seconds), &rates].concat());
        }
        table
    }

    /// A line for each rung that says what is new and what for, or what it needs that there is not here.
    pub fn reasons(&self) -> String {
        let ideas = self.steps.iter().map(|step| (step.name, step.idea.to_owned()));
        let absent = self.absent.iter().map(|absent| (absent.name, format!("not here: it needs {}", absent.needs)));
        let lines: Vec<(&str, String)> = ideas.chain(absent).collect();
        let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let lines: Vec<String> = lines.iter().map(|(name, text)| format!("  {name:<width$}  {text}")).collect();
        lines.join("\n")
    }
}
