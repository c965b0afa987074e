//! One network, measured: prepared, checked, timed as a whole and op by op.

use super::{Roof, Settings, Spread};
use crate::array::Tensor;
use crate::error::{Error, Result};
use crate::executor::{Device, Executor};
use crate::gpu::profile::Row;
use crate::gpu::{Gpu, Plan};
use crate::graph::{Graph, NodeId, NodeKind};
use crate::models::{Network, Precision, Training, TrainingStep, UNet, Variant};
use crate::op::Fill;
use crate::progress::{Announce, unless_stopped};
use crate::random::Random;
use crate::selftest;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Instant;

/// A U-Net of one channel and two classes on square images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// The preset's name, or `custom`.
    pub name: String,
    /// Side of the input in pixels.
    pub input: usize,
    /// Channels of the finest level.
    pub base: usize,
    /// The number of poolings.
    pub depth: usize,
    /// Which of the published networks; results of before there were several are of the paper's.
    #[serde(default)]
    pub model: Variant,
    /// Images in a batch.
    pub batch: usize,
    /// How activations are stored; results of before there was a choice are of `f32`.
    #[serde(default)]
    pub precision: Precision,
}

/// A network as it predicts: its batch norms are [folded](Graph::folded) away, and its logits are an output.
#[derive(Clone, Debug)]
pub struct Inference {
    /// The graph.
    pub graph: Graph,
    /// Its parameters.
    pub parameters: Vec<f32>,
    /// Its input.
    pub image: NodeId,
    /// Its output.
    pub logits: NodeId,
}

impl Inference {
    /// What it is given of the inputs of a training step.
    pub(crate) fn inputs(
        &self,
        step: &TrainingStep,
        inputs: &BTreeMap<NodeId, Tensor<f32>>,
    ) -> BTreeMap<NodeId, Tensor<f32>> {
        BTreeMap::from([(self.image, inputs[&step.image].clone())])
    }
}

/// More operations than this in a training step are not checked as they are: the reference is slow.
const CHECKED_FLOPS: u64 = 40_000_000_000;

impl Workload {
    /// Name, input, base and depth of the presets; `tiny` is the one that other programs are compared on, `paper` that of the paper.
    pub const PRESETS: [(&'static str, usize, usize, usize); 4] =
        [("tiny", 124, 16, 3), ("small", 188, 32, 4), ("medium", 252, 32, 4), ("paper", 572, 64, 4)];

    /// The preset of this name, with batches of one image.
    ///
    /// # Errors
    /// [`Error::Usage`] listing the presets when it is none.
    pub fn preset(name: &str) -> Result<Self> {
        let found = Self::PRESETS.into_iter().find(|preset| preset.0 == name);
        let (name, input, base, depth) = found.ok_or_else(|| {
            let names = Self::PRESETS.map(|preset| preset.0).join(", ");
            Error::Usage(format!("there is no preset {name:?}; there are {names}"))
        })?;
        Ok(Self { name: name.into(), input, base, depth, model: Variant::Unet, batch: 1, precision: Precision::F32 })
    }

    fn model(&self) -> UNet {
        let Self { model: variant, base: base_channels, depth, .. } = *self;
        UNet { variant, base_channels, depth, ..UNet::default() }
    }

    /// The network.
    ///
    /// # Errors
    /// [`Error::Usage`] naming what makes no sense.
    pub fn network(&self) -> Result<Network> {
        self.model().build(self.batch, [self.input; 2])
    }

    /// The network as it predicts with these parameters of its training step.
    ///
    /// # Errors
    /// As [`Workload::network`]; [`Error::Usage`] when there are too few parameters.
    pub fn inference(&self, parameters: &[f32]) -> Result<Inference> {
        let network = self.model().inference(self.batch, [self.input; 2])?;
        // Behind the network's own there may be what a training keeps for itself.
        let own = &parameters[..parameters.len().min(network.graph.bank_elements())];
        let (network, parameters) = network.folded(own)?;
        let Network { graph, image, logits, .. } = network.stored_in(self.precision)?.0;
        Ok(Inference { graph, parameters, image, logits })
    }

    /// The graphs of inference and of a training step.
    ///
    /// # Errors
    /// As [`Workload::network`].
    pub fn graphs(&self) -> Result<[Graph; 2]> {
        let step = self.training_step()?.graph;
        Ok([self.inference(&step.initial_parameters(1))?.graph, step])
    }

    /// A training step of the paper's.
    ///
    /// # Errors
    /// As [`Workload::network`].
    pub(crate) fn training_step(&self) -> Result<TrainingStep> {
        self.network()?.training_step(&Training { precision: self.precision, ..Training::default() })
    }

    /// What is checked in place of this network: itself, or if its reference would take too long, the smallest input of the same
    /// network, which has the same kernels, or if that is not enough, fewer channels.
    pub(super) fn checked(&self) -> Result<Self> {
        let flops = |workload: &Self| Ok(flops(&workload.training_step()?.graph));
        let mut checked = self.clone();
        if flops(&checked)? > CHECKED_FLOPS {
            (checked.input, checked.batch) = (self.model().smallest_side(), 1);
        }
        while flops(&checked)? > CHECKED_FLOPS && checked.base > 1 {
            checked.base /= 2;
        }
        Ok(checked)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, input, base, depth, model, batch, precision } = self;
        let mixed = if *precision == Precision::Mixed { ", mixed precision" } else { "" };
        let model = if *model == Variant::Unet { String::new() } else { format!("{model}, ") };
        write!(f, "{name}: {model}{input}×{input}, base {base}, depth {depth}, batch {batch}{mixed}")
    }
}

/// What was held against the reference before anything counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checked {
    /// The network: the measured one, or where that is too much for the reference, a smaller one, some of whose ops may take other kernels.
    pub workload: Workload,
    /// The results that were compared: of every op of its training step, gradients included, but for the update, and of the whole.
    pub results: usize,
    /// The largest error relative to its bound, at most 1.
    pub worst: f64,
}

/// A whole network, timed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pass {
    /// `inference`, `forward and backward` (without the update) or `training step`.
    pub name: String,
    /// Floating-point operations; a multiply-add counts as two.
    pub flops: u64,
    /// From the submit to the end of what it submits.
    pub seconds: Spread,
    /// The batch over the median.
    pub images_per_second: f64,
    /// The bytes that the plan said it would take; `None` on the CPU executor.
    pub planned_bytes: Option<u64>,
    /// The bytes of the buffers that it created.
    pub allocated_bytes: Option<u64>,
}

/// The part of a training step that an op belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// From the image to the loss.
    Forward,
    /// A gradient.
    Backward,
    /// Of the parameters.
    Update,
}

/// One op of a training step, timed by the device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// The node's name.
    pub node: String,
    /// The op's name.
    pub op: String,
    /// The part of the step.
    pub phase: Phase,
    /// Extents of the result.
    pub output: Vec<usize>,
    /// The paths of its kernels, in the order of their first dispatch.
    pub kernels: Vec<String>,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes of the tensors that it reads and writes, each counted once.
    pub bytes: u64,
    /// The sum over its dispatches.
    pub seconds: Spread,
    /// The least time that the device's roof allows, over the median; above 1 where the tensors stay in caches that are faster than the
    /// memory that the roof is of.
    pub share_of_roof: Option<f64>,
}

impl Layer {
    /// Operations a byte.
    pub fn intensity(&self) -> f64 {
        self.flops as f64 / self.bytes.max(1) as f64
    }
}

/// A network, measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Which.
    pub workload: Workload,
    /// Trainable numbers.
    pub parameters: usize,
    /// What was checked; `None` on the CPU executor, which is the reference.
    pub checked: Option<Checked>,
    /// From opening the device to a plan of the training step that is ready to run: kernels compiled, memory allocated, parameters written.
    pub ready_seconds: f64,
    /// From the same start to the end of the first training step.
    pub first_step_seconds: f64,
    /// Inference, forward and backward, training step.
    pub passes: Vec<Pass>,
    /// The ops of the training step in order; empty where the device cannot time them.
    pub layers: Vec<Layer>,
}

impl Measured {
    /// Opens a device again, which then has compiled nothing yet, so that the first step is one, then prepares, checks and times a network.
    pub(super) fn new(
        device: &Device,
        workload: &Workload,
        settings: Settings,
        roof: Option<&Roof>,
        announce: &mut Announce<'_>,
    ) -> Result<Self> {
        unless_stopped(announce(&format!("{workload}: first step")))?;
        let start = Instant::now();
        let device = &device.gpu().map(Gpu::reopen).transpose()?.map_or(Device::Cpu, Device::Gpu);
        let step = workload.training_step()?;
        let (parameters, inputs) = (step.graph.initial_parameters(settings.seed), inputs(&step, settings.seed));
        let mut executor = Executor::new(device, &step.graph, &parameters)?;
        let ready_seconds = start.elapsed().as_secs_f64();
        write(&mut executor, &inputs)?;
        run(&mut executor)?;
        let first_step_seconds = start.elapsed().as_secs_f64();
        drop(executor);
        let checked = match device.gpu() {
            Some(gpu) => {
                let checked = workload.checked()?;
                unless_stopped(announce(&format!("{workload}: check against the reference")))?;
                Some(check(gpu, checked, settings.seed)?)
            }
            None => None,
        };
        let inference = workload.inference(&parameters)?;
        let gradients = step.graph.before_update();
        let mut passes = Vec::new();
        // One after the other, so that memory is that of one.
        let mut time = |name: &str, graph: &Graph, parameters: &[f32], inputs: &BTreeMap<_, _>| {
            unless_stopped(announce(&format!("{workload}: {name}")))?;
            let mut executor = Executor::new(device, graph, parameters)?;
            write(&mut executor, inputs)?;
            passes.push(pass(name, &mut executor, workload.batch, settings.repeats)?);
            Ok::<_, Error>(executor)
        };
        time("inference", &inference.graph, &inference.parameters, &inference.inputs(&step, &inputs))?;
        time("forward and backward", &gradients, &parameters, &inputs)?;
        let layers = match time("training step", &step.graph, &parameters, &inputs)? {
            Executor::Gpu(plan) if plan.gpu().adapter().timestamps => {
                unless_stopped(announce(&format!("{workload}: op by op")))?;
                layers(&plan, settings.repeats, roof)?
            }
            _ => Vec::new(),
        };
        let (workload, parameters) = (workload.clone(), step.graph.parameter_count());
        Ok(Self { workload, parameters, checked, ready_seconds, first_step_seconds, passes, layers })
    }
}

/// Forward and backward operations of a graph.
pub(super) fn flops(graph: &Graph) -> u64 {
    let (_, forward, _, backward, _) = graph.table().totals();
    forward + backward
}

/// Random inputs of a training step. So small a learning rate leaves the network as it is.
pub(crate) fn inputs(step: &TrainingStep, seed: u32) -> BTreeMap<NodeId, Tensor<f32>> {
    let mut random = Random::new(seed, u32::MAX);
    let fills = [
        (step.image, Fill::Normal(1.0)),
        (step.labels, Fill::Labels { classes: 2, ignore: None }),
        (step.weights, Fill::Positive),
        (step.rates, Fill::Constant(1e-6)),
    ];
    fills.map(|(node, fill)| (node, fill.draw(&step.graph.node(node).tensor_type, &mut random))).into()
}

/// Writes the inputs that the executor's graph has.
pub(crate) fn write(executor: &mut Executor, inputs: &BTreeMap<NodeId, Tensor<f32>>) -> Result<()> {
    let nodes: Vec<NodeId> = executor.graph().inputs().collect();
    nodes
        .into_iter()
        .filter_map(|node| Some((node, inputs.get(&node)?.clone())))
        .try_for_each(|(node, value)| executor.write(node, value))
}

/// Runs once and waits.
pub(crate) fn run(executor: &mut Executor) -> Result<()> {
    executor.run()?;
    match executor {
        Executor::Gpu(plan) => plan.wait(),
        Executor::Cpu(_) => Ok(()),
    }
}

fn pass(name: &str, executor: &mut Executor, batch: usize, repeats: usize) -> Result<Pass> {
    run(executor)?;
    let seconds = (0..repeats).map(|_| {
        let start = Instant::now();
        run(executor)?;
        Ok(start.elapsed().as_secs_f64())
    });
    let seconds = Spread::of(seconds.collect::<Result<_>>()?);
    let (planned_bytes, allocated_bytes) = match executor {
        Executor::Gpu(plan) => (Some(plan.memory().total_bytes()), Some(plan.allocated_bytes())),
        Executor::Cpu(_) => (None, None),
    };
    let (flops, images_per_second) = (flops(executor.graph()), batch as f64 / seconds.median.max(f64::MIN_POSITIVE));
    Ok(Pass { name: name.into(), flops, seconds, images_per_second, planned_bytes, allocated_bytes })
}

/// Holds every op of the training step of a network against its reference.
pub(super) fn check(gpu: &Gpu, workload: Workload, seed: u32) -> Result<Checked> {
    let step = workload.training_step()?;
    let report = selftest::each_op(gpu, &step.graph, &step.graph.initial_parameters(seed), &inputs(&step, seed))?;
    if let Some(failure) = report.failures.first() {
        let count = report.failures.len();
        return Err(Error::Device(format!(
            "{workload}: {count} of {} results are wrong on {}, so that nothing is measured; `tilewise selftest` says more: {failure}",
            report.cases,
            gpu.adapter()
        )));
    }
    Ok(Checked { workload, results: report.cases, worst: report.worst })
}

/// Every op of a plan, timed by the device.
pub(super) fn layers(plan: &Plan, repeats: usize, roof: Option<&Roof>) -> Result<Vec<Layer>> {
    let graph = plan.computed();
    let update = graph.before_update().nodes().len();
    let mut dispatches: BTreeMap<usize, Vec<_>> = BTreeMap::new();
    for row in plan.profile(repeats)?.rows {
        dispatches.entry(row.position).or_default().push(row);
    }
    let mut layers = Vec::new();
    for (position, mut rows) in dispatches {
        let node = &graph.nodes()[position];
        let NodeKind::Op { op, .. } = &node.kind else { continue };
        // The profile has the longest first.
        rows.sort_by(|a, b| {
            let start = |row: &Row| row.laps.last().map_or(0.0, |lap| lap.start);
            start(a).total_cmp(&start(b))
        });
        let mut kernels: Vec<String> = rows.iter().map(|row| row.kernel.to_owned()).collect();
        let mut seen = BTreeSet::new();
        kernels.retain(|kernel| seen.insert(kernel.clone()));
        let sum = |run: usize| rows.iter().filter_map(|row| row.laps.get(run)).map(|lap| lap.seconds).sum();
        let seconds = Spread::of((0..repeats).map(sum).collect());
        let (flops, bytes) = (plan.flops(position), plan.traffic(position));
        let phase = if position >= update {
            Phase::Update
        } else if node.name.contains(".grad") {
            Phase::Backward
        } else {
            Phase::Forward
        };
        layers.push(Layer {
            node: node.name.clone(),
            op: op.name().into(),
            phase,
            output: node.tensor_type.shape.extents().to_vec(),
            kernels,
            flops,
            bytes,
            seconds,
            share_of_roof: roof
                .filter(|_| seconds.median > 0.0)
                .map(|roof| roof.least_seconds(flops, bytes) / seconds.median),
        });
    }
    Ok(layers)
}
