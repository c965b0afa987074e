//! `tilewise explain`

use super::{Global, print, print_json};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tilewise::bench::Roof;
use tilewise::checkpoint::atomic;
use tilewise::data::Augmentation;
use tilewise::executor::Device;
use tilewise::fuse::{Fusion, Fusions};
use tilewise::gpu::{DeviceChoice, MemoryPlan, Plan, PlanOptions};
use tilewise::graph::Bank;
use tilewise::models::{Precision, Tiles, Training, TrainingStep, UNet, Variant};
use tilewise::op::Fill;
use tilewise::random::Random;
use tilewise::recompute::MemoryBudget;
use tilewise::{Error, Result};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The network: unet (the paper's), unet-release (the authors'), milesial, milesial-bilinear, brain or semseg
    #[arg(long, value_name = "NAME", default_value_t)]
    model: Variant,
    /// Side of the square input in pixels [default: the largest legal one up to the paper's 572]
    #[arg(long, value_name = "PIXELS")]
    input: Option<usize>,
    /// Channels of the image
    #[arg(long, value_name = "N", default_value_t = 1)]
    channels: usize,
    /// Classes, background included
    #[arg(long, value_name = "N", default_value_t = 2)]
    classes: usize,
    /// Channels of the finest level
    #[arg(long, value_name = "N", default_value_t = 64)]
    base: usize,
    /// Number of poolings
    #[arg(long, value_name = "N", default_value_t = 4)]
    depth: usize,
    /// Dropout rate at the end of the contracting path
    #[arg(long, value_name = "RATE", default_value_t = 0.0)]
    dropout: f32,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// Memory that the training step may take; where it would take more, tensors are computed again rather than kept [default: what it takes]
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
    /// How activations and their gradients are stored: f32, or mixed, as f16
    #[arg(long, value_name = "f32|mixed", default_value_t)]
    precision: Precision,
    /// Print the graph of a training step in the DOT language instead (for `dot -Tsvg`)
    #[arg(long)]
    dot: bool,
    /// Time every kernel of a training step on the device instead, the median of N runs
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "5", conflicts_with = "dot")]
    profile: Option<usize>,
    /// Profile the training step on augmented tiles
    #[arg(long, requires = "profile")]
    augment: bool,
    /// Profile ops with kernels of their own, to see what fusion is worth: all, or those that one of the fusions joins. A software driver has
    /// concatenations made anyway, unless there is --all-fusions
    #[arg(
        long,
        value_name = "all|relu|relu-grad|pooling|concat|loss",
        num_args = 0..=1,
        default_missing_value = "all",
        requires = "profile",
        value_parser = unfused
    )]
    unfused: Option<Unfused>,
    /// Profile with all fusions, also what pays on GPUs only: concatenations that are left in their two parts
    #[arg(long, requires = "profile")]
    all_fusions: bool,
    /// Write the last profiled run as a trace, for ui.perfetto.dev and other viewers of Chrome's format
    #[arg(long, value_name = "FILE", requires = "profile")]
    trace: Option<PathBuf>,
}

/// The fusion to do without, or all.
#[derive(Clone, Copy, Debug)]
struct Unfused(Option<Fusion>);

fn unfused(text: &str) -> Result<Unfused, String> {
    if text == "all" { Ok(Unfused(None)) } else { Ok(Unfused(Some(text.parse()?))) }
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let net = UNet {
        variant: arguments.model,
        in_channels: arguments.channels,
        classes: arguments.classes,
        base_channels: arguments.base,
        depth: arguments.depth,
        dropout: arguments.dropout,
    };
    let side = arguments.input.or_else(|| net.legal_below(572)).unwrap_or_else(|| net.smallest_side());
    let network = net.build(arguments.batch, [side; 2])?;
    let output = net.output_side(side)?;
    // Opening a device takes time and may fail, so only one that is named, or used, is asked what kernels it gets.
    let device = match (&global.device, arguments.profile) {
        (DeviceChoice::Auto, None) => Device::Cpu,
        (_, Some(_)) => global.open_device()?,
        (choice, None) => global.with_kernels(Device::choose_within(choice, global.limits)?)?,
    };
    let memory = arguments.memory.map(|mebibytes| MemoryBudget::on(&device, mebibytes.saturating_mul(1 << 20)));
    let training = Training { memory, precision: arguments.precision, ..Training::default() };
    if let Some(runs) = arguments.profile {
        let frame = [side; 2];
        let (batch, channels, augmentation) = (arguments.batch, net.in_channels, &Augmentation::RECIPE);
        let tiles = Tiles { batch, channels, frame, window: [output; 2], augmentation };
        let step = if arguments.augment {
            net.augmented_training_step(&tiles, &training)?.0
        } else {
            network.training_step(&training)?
        };
        let all = if arguments.all_fusions { Fusions::ALL } else { Fusions::default() };
        let fusions = match arguments.unfused {
            None => all,
            Some(Unfused(None)) => Fusions::NONE,
            Some(Unfused(Some(fusion))) => all.without(fusion),
        };
        let options = PlanOptions { fusions, ..PlanOptions::default() };
        return time_kernels(global, device, &step, options, runs.max(1), arguments.trace.as_deref());
    }
    let step = network.training_step(&training)?;
    if arguments.dot {
        print(&step.graph.to_dot())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut inference = net.inference(arguments.batch, [side; 2])?;
    let (profile, choices) = device.kernels();
    let planned_for = device.gpu().map_or("any GPU".into(), |gpu| gpu.adapter().to_string());
    // As a predictor runs it.
    let folded = inference.folded(&inference.graph.initial_parameters(1))?.0.stored_in(arguments.precision)?.0.graph;
    let inference_memory = MemoryPlan::new(&folded.fused(), &profile, &choices, false)?;
    let memory = MemoryPlan::new(&step.graph.fused(), &profile, &choices, false)?;
    inference.graph.mark_output("logits", inference.logits)?;
    let forward = inference.graph.table();
    let table = step.graph.table();
    let (_, forward_flops, ..) = forward.totals();
    let (_, total_forward, _, backward_flops, _) = table.totals();
    let parameters = step.graph.parameter_count();
    if global.json {
        print_json(&json!({
            "input": side,
            "output": output,
            "parameters": parameters,
            "flops": forward_flops,
            "step_flops": total_forward + backward_flops,
            "plan_bytes": memory.total_bytes(),
            "inference_plan_bytes": inference_memory.total_bytes(),
            "layers": table.rows,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&format!(
        "{} of depth {}, {} channel(s) to {} classes, base {}: {side}×{side} -> {output}×{output}\n\n{table}\n\
         {parameters} parameters; forward {:.2} GFLOP, training step {:.2} GFLOP; a multiply-add counts as two\n\
         memory for {planned_for}\nprediction plan {inference_memory}\ntraining plan   {memory}\n",
        net.title(),
        net.depth,
        net.in_channels,
        net.classes,
        net.base_channels,
        forward_flops as f64 / 1e9,
        (total_forward + backward_flops) as f64 / 1e9,
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// A row per dispatch of a training step, on random inputs.
fn time_kernels(
    global: &Global,
    device: Device,
    step: &TrainingStep,
    options: PlanOptions,
    runs: usize,
    trace: Option<&Path>,
) -> Result<ExitCode> {
    let Device::Gpu(gpu) = device else {
        return Err(Error::Device("only a GPU's kernels can be timed, or a software driver's".into()));
    };
    let seed = global.seed.unwrap_or(1);
    let graph = &step.graph;
    let plan = Plan::new(&gpu, graph, options)?;
    plan.write_bank(Bank::Parameters, &graph.initial_parameters(seed))?;
    let mut random = Random::new(seed, 0);
    for input in graph.inputs() {
        // So small a learning rate leaves the network as it is.
        let fill = if input == step.rates { Fill::Constant(1e-6) } else { Fill::Positive };
        plan.write(input, &fill.draw(&graph.node(input).tensor_type, &mut random))?;
    }
    let roof = Roof::measure(&gpu, runs, seed)?;
    let mut profile = plan.profile(runs)?;
    profile.hold_against(&plan, |flops, bytes| roof.least_seconds(flops, bytes));
    if let Some(path) = trace {
        let trace = profile.trace(&plan.gpu().adapter().to_string());
        atomic::write(path, |file| Ok(serde_json::to_writer(file, &trace)?))?;
    }
    if global.json {
        print_json(&json!({ "adapter": plan.gpu().adapter(), "roof": roof, "profile": profile }))?;
    } else {
        let heads = "       ms      %  GFLOP/s     GB/s  roof %  kernel (dispatches), then dispatches";
        let (gflops, gigabytes) = (roof.flops_per_second() / 1e9, roof.bytes_per_second() / 1e9);
        print(&format!(
            "{heads}\n{profile}medians of {runs}; the roof is {gflops:.2} GFLOP/s and {gigabytes:.2} GB/s\n\
             the operations of an op count with its dispatches that multiply; its share of the roof is that of all its dispatches together\n"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
