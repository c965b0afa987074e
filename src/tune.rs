//! Which candidate of each op is the fastest on a device: `tilewise tune`.
//!
//! Ops offer several candidates in an order that suits the class of a device. [`ops`] times them at the shapes of given graphs, on the device
//! itself, and lets none win that does not hold against the op's reference. The outcome is data, [`Choice`]s: a [`Table`] keeps
//! them, and [`Gpu::with_choices`] hands them to the plans to come. `docs/tune.md` says how it is measured and what it changes.

mod report;
mod table;

pub use crate::bench::Settings;
pub use crate::gpu::{Choice, Choices};
pub use report::{Report, Timed, Tuned, Whole};
pub use table::Table;

use crate::array::Tensor;
use crate::bench::network::{self, inputs, write};
use crate::bench::{Machine, Workload, wgpu_version};
use crate::error::{Error, Result};
use crate::executor::{Device, Executor};
use crate::gpu::choices::{checksum, question};
use crate::gpu::{Gpu, MemoryPlan, Plan, PlanOptions, Spread};
use crate::graph::{Graph, NodeId, NodeKind};
use crate::op::{Candidate, Case, Fill};
use crate::selftest::Trial;
use crate::shape::{DType, TensorType};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

/// A candidate takes the place of one that comes before it only if it takes less than this share of its time …
const CLEARLY: f64 = 0.97;

/// … in at least this share of the rounds.
const ROUNDS: f64 = 0.75;

/// A candidate that takes so many times as long as the fastest when both are warm is not timed any further.
const HOPELESS: f64 = 2.0;

/// A round runs a candidate until the fastest has taken so many seconds, or [`MOST_RUNS`] times.
const ROUND_SECONDS: f64 = 0.005;

/// See [`ROUND_SECONDS`].
const MOST_RUNS: f64 = 50.0;

/// Ops of more operations than this are held against the candidate that any device can run, in place of the reference on the CPU.
const REFERENCE_FLOPS: u64 = 2_000_000_000;

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// What comes next.
    pub what: &'a str,
    /// Operations of the ops that are done; the time goes by them, more or less.
    pub done: u64,
    /// Operations of all ops that are to be measured.
    pub total: u64,
    /// What was measured until now, for a listener that keeps it, whatever happens to the device or the program.
    pub measured: &'a [Tuned],
}

/// Hears how far it is, and may break off: what was measured until then stays.
pub type Watch<'a> = dyn FnMut(&Progress<'_>) -> ControlFlow<()> + 'a;

/// An op at some shapes, to be measured.
struct Subject {
    case: Case,
    flops: u64,
    tuned: Tuned,
}

/// The ops of graphs, as plans compute them, that have several candidates, each at every distinct shape, those of most operations first;
/// and how many more there are for which the device has a choice already.
fn subjects(gpu: &Gpu, graphs: &[&Graph]) -> (Vec<Subject>, usize) {
    let (mut subjects, mut seen, mut known) = (Vec::new(), BTreeSet::new(), 0);
    for graph in graphs {
        let graph = graph.fused();
        for (node, _) in graph.nodes().iter().zip(graph.needed()).filter(|(_, needed)| *needed) {
            let NodeKind::Op { op, inputs } = &node.kind else { continue };
            let types = graph.types(inputs);
            let candidates = op.offered(&types, &node.tensor_type, gpu.profile());
            let (name, inputs) = question(op.as_ref(), &types);
            if candidates.len() < 2 || !seen.insert((name.clone(), inputs.clone())) {
                continue;
            }
            if gpu.choices().chosen(op.as_ref(), &types, &candidates).is_some() {
                known += 1;
                continue;
            }
            let timed = |(position, candidate): (usize, &Candidate)| Timed {
                kernels: candidate.to_string(),
                checksum: checksum(&candidates, position),
                seconds: None,
                rounds: 0,
                problem: None,
            };
            let candidates = candidates.iter().enumerate().map(timed).collect();
            let flops = op.flops(&types, &node.tensor_type);
            let filled = |tensor_type: TensorType| match tensor_type.dtype {
                DType::F32 | DType::F16 => (tensor_type, Fill::Normal(1.0)),
                DType::U32 => (tensor_type, Fill::Labels { classes: 2, ignore: None }),
            };
            let inputs_of_case = types.into_iter().map(filled).collect();
            let case = Case { name: node.name.clone(), op: Arc::clone(op), inputs: inputs_of_case };
            let tuned = Tuned { node: node.name.clone(), op: name, inputs, candidates, winner: None };
            subjects.push(Subject { case, flops, tuned });
        }
    }
    // Whoever breaks off has what weighs most.
    subjects.sort_by_key(|subject| Reverse(subject.flops));
    (subjects, known)
}

/// A candidate that has held against the reference.
struct Racer {
    candidate: usize,
    plan: Plan,
    /// Its time when warm, the shorter of two.
    warm: f64,
}

impl Subject {
    /// Holds every candidate against the reference, then times those that hold, in turns.
    fn measure(self, gpu: &Gpu, settings: Settings) -> Result<Tuned> {
        let Self { case, flops, mut tuned } = self;
        let trial = Trial::new(&case, settings.seed)?;
        let expected = if flops <= REFERENCE_FLOPS { trial.expected() } else { trial.expected_by(gpu)? };
        let mut racers = Vec::new();
        for (candidate, timed) in tuned.candidates.iter_mut().enumerate() {
            let warm = || {
                trial.check(gpu, candidate, &expected)?;
                let plan = trial.plan(gpu, PlanOptions { candidate: Some(candidate), ..PlanOptions::default() })?;
                plan.time()?;
                let warm = plan.time()?.min(plan.time()?);
                Ok::<_, Error>(Racer { candidate, plan, warm })
            };
            match warm() {
                Ok(racer) => {
                    timed.seconds = Some(Spread::of(vec![racer.warm]));
                    racers.push(racer);
                }
                Err(problem) => {
                    // A device that is lost fails everything, and is no reason to blame a kernel.
                    gpu.check()?;
                    timed.problem = Some(problem.to_string());
                }
            }
        }
        let best = racers.iter().map(|racer| racer.warm).fold(f64::INFINITY, f64::min);
        let default = racers.first().map(|racer| racer.candidate);
        racers.retain(|racer| Some(racer.candidate) == default || racer.warm <= HOPELESS * best);
        let runs = (ROUND_SECONDS / best).ceil().clamp(1.0, MOST_RUNS) as usize;
        let laps = in_turns(racers.len(), settings.repeats, |place| {
            let seconds: f64 = (0..runs).map(|_| racers[place].plan.time()).sum::<Result<f64>>()?;
            Ok(seconds / runs as f64)
        })?;
        tuned.winner = winner(&laps).map(|place| racers[place].candidate);
        for (racer, laps) in racers.iter().zip(laps) {
            let timed = &mut tuned.candidates[racer.candidate];
            timed.rounds = laps.len();
            timed.seconds = Some(Spread::of(laps));
        }
        Ok(tuned)
    }
}

/// Times so many things in turns, so that what disturbs the machine disturbs all of them; each round begins with another one.
fn in_turns(count: usize, rounds: usize, mut time: impl FnMut(usize) -> Result<f64>) -> Result<Vec<Vec<f64>>> {
    let mut laps = vec![Vec::with_capacity(rounds); count];
    for round in 0..rounds {
        for turn in 0..count {
            let place = (round + turn) % count;
            laps[place].push(time(place)?);
        }
    }
    Ok(laps)
}

/// The place of the racer to take, from the times of each in every round: the first one, unless others were clearly faster.
fn winner(laps: &[Vec<f64>]) -> Option<usize> {
    let default = laps.first()?;
    let shares = |racer: &Vec<f64>| {
        let mut shares: Vec<f64> = racer.iter().zip(default).map(|(racer, default)| racer / default).collect();
        shares.sort_by(f64::total_cmp);
        shares
    };
    let clearly_faster = laps.iter().map(shares).enumerate().skip(1).filter(|(_, shares)| {
        let needed = (ROUNDS * shares.len() as f64).ceil() as usize;
        shares.get(needed.saturating_sub(1)).is_some_and(|&share| share < CLEARLY)
    });
    let median = |shares: &[f64]| shares[shares.len() / 2];
    let fastest = clearly_faster.min_by(|(_, a), (_, b)| median(a).total_cmp(&median(b)));
    Some(fastest.map_or(0, |(place, _)| place))
}

/// Measures the ops of graphs that have several candidates and for which the device has no choice that holds. The second value says how many
/// others there are; the third, whether `watch` let it come to the end.
///
/// # Errors
/// [`Error::Usage`] when nothing is to be repeated, [`Error::Device`] when the device fails. A candidate that is wrong or does not
/// compile is none: it says so, and cannot win.
pub fn ops(
    gpu: &Gpu,
    graphs: &[&Graph],
    settings: Settings,
    watch: &mut Watch<'_>,
) -> Result<(Vec<Tuned>, usize, bool)> {
    settings.check()?;
    let (subjects, known) = subjects(gpu, graphs);
    let (mut measured, mut done, total) = (Vec::new(), 0, subjects.iter().map(|subject| subject.flops).sum());
    for subject in subjects {
        let (what, flops) = (subject.tuned.node.clone(), subject.flops);
        if watch(&Progress { what: &what, done, total, measured: &measured }).is_break() {
            return Ok((measured, known, false));
        }
        measured.push(subject.measure(gpu, settings)?);
        done += flops;
    }
    Ok((measured, known, true))
}

/// Measures the ops of networks, as they predict and as they are trained, and then the networks without and with what was chosen.
///
/// # Errors
/// [`Error::Usage`] when a network is none; as [`ops`].
pub fn run(gpu: &Gpu, workloads: &[Workload], settings: Settings, watch: &mut Watch<'_>) -> Result<Report> {
    let mut steps = Vec::new();
    for workload in workloads {
        let step = workload.training_step()?;
        let inference = workload.inference(&step.graph.initial_parameters(settings.seed))?;
        steps.push((workload, inference, step));
    }
    let graphs: Vec<&Graph> = steps.iter().flat_map(|(_, inference, step)| [&inference.graph, &step.graph]).collect();
    let (ops, known, mut complete) = ops(gpu, &graphs, settings, watch)?;
    let mut choices = gpu.choices().clone();
    choices.extend(ops.iter().filter_map(Tuned::choice));
    let gpus = [gpu.clone().with_choices(Choices::default()), gpu.clone().with_choices(choices)];
    let mut networks = Vec::new();
    for (workload, inference, step) in &steps {
        let inputs = inputs(step, settings.seed);
        let image = inference.inputs(step, &inputs);
        let parameters = step.graph.initial_parameters(settings.seed);
        for (pass, graph, parameters, inputs) in [
            ("inference", &inference.graph, &inference.parameters, &image),
            ("training step", &step.graph, &parameters, &inputs),
        ] {
            let what = format!("{}: {pass}", workload.name);
            complete = complete && watch(&Progress { what: &what, done: 1, total: 1, measured: &ops }).is_continue();
            let kernels = |gpu: &Gpu| MemoryPlan::new(&graph.fused(), gpu.profile(), gpu.choices(), false);
            if complete && kernels(&gpus[0])?.candidates != kernels(&gpus[1])?.candidates {
                let spreads = compare(&gpus, graph, parameters, inputs, settings)?;
                networks.push(Whole { workload: (*workload).clone(), pass, default: spreads[0], tuned: spreads[1] });
            }
        }
    }
    Ok(Report {
        tilewise: env!("CARGO_PKG_VERSION").into(),
        wgpu: wgpu_version().unwrap_or_default(),
        device: Machine::of(&Device::Gpu(gpu.clone())),
        settings,
        known,
        ops,
        networks,
        complete,
    })
}

/// The times of a graph on each of these devices.
fn compare(
    gpus: &[Gpu; 2],
    graph: &Graph,
    parameters: &[f32],
    inputs: &BTreeMap<NodeId, Tensor<f32>>,
    settings: Settings,
) -> Result<Vec<Spread>> {
    let mut executors = Vec::new();
    for gpu in gpus {
        let mut executor = Executor::new(&Device::Gpu(gpu.clone()), graph, parameters)?;
        write(&mut executor, inputs)?;
        network::run(&mut executor)?;
        executors.push(executor);
    }
    let laps = in_turns(executors.len(), settings.repeats, |place| {
        let start = Instant::now();
        network::run(&mut executors[place])?;
        Ok(start.elapsed().as_secs_f64())
    })?;
    Ok(laps.into_iter().map(Spread::of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{AnyOp, DeviceProfile};
    use crate::ops::Conv2d;

    /// A host has to ask for matrix units on its own account, so that most have none.
    #[test]
    fn what_was_chosen_beside_matrix_units_holds_without_them() {
        let op = Conv2d { stride: [1, 1], padding: [1, 1] };
        let of = |dtype, shape: [usize; 4]| TensorType { dtype, ..TensorType::f32(shape).unwrap() };
        let inputs = [of(DType::F16, [1, 32, 32, 64]), of(DType::F32, [3, 3, 64, 64])];
        let output = of(DType::F16, [1, 32, 32, 64]);
        let without = DeviceProfile { subgroup_size: Some(32), f16: true, ..DeviceProfile::PORTABLE };
        let offered = |device| op.offered(&inputs, &output, &device);
        let (all, fewer) = (offered(DeviceProfile { matrix_side: Some(16), ..without }), offered(without));
        assert!(fewer.len() > 1 && fewer.len() < all.len() && all.starts_with(&fewer), "{all:?}");
        for chosen in 0..all.len() {
            let (op_name, types) = question(&op, &inputs);
            let kernels = all[chosen].to_string();
            let choice = Choice {
                op: op_name,
                inputs: types,
                candidates: checksum(&all, chosen),
                kernels,
                seconds: 1.0,
                default_seconds: None,
            };
            let choices: Choices = [choice].into_iter().collect();
            assert_eq!(choices.chosen(&op, &inputs, &all), Some(chosen));
            assert_eq!(choices.chosen(&op, &inputs, &fewer), Some(chosen).filter(|&chosen| chosen < fewer.len()));
            // What was chosen has changed, and so has another.
            for changed in [chosen, 0] {
                let mut later = all.clone();
                later[changed].dispatches[0].kernel.source = "";
                assert_eq!(choices.chosen(&op, &inputs, &later), None);
            }
        }
    }

    #[test]
    fn only_what_is_clearly_faster_in_most_rounds_takes_the_place_of_the_default() {
        let default = [1.0, 2.0, 1.0, 1.1];
        assert_eq!(winner(&[]), None);
        for (others, expected) in [
            (vec![], 0),
            (vec![[0.98, 1.96, 0.98, 1.08]], 0),
            (vec![[0.9, 1.8, 0.9, 1.2]], 1),
            // Half of the rounds are not enough, however fast it was in them.
            (vec![[0.1, 0.2, 1.0, 1.1]], 0),
            (vec![[0.9, 1.8, 0.9, 0.9], [0.8, 1.6, 0.8, 0.9]], 2),
            // Each round is held against the default's time in the same round.
            (vec![[1.05, 1.5, 1.05, 1.2], [0.5, 3.0, 0.5, 0.5]], 2),
        ] {
            let laps: Vec<Vec<f64>> = [default].iter().chain(&others).map(|laps| laps.to_vec()).collect();
            assert_eq!(winner(&laps), Some(expected), "{laps:?}");
        }
    }
}
