//! What a device can do at most, measured with kernels that do nothing else: the roof that every other kernel is held against.

use super::Spread;
use crate::array::{Array, Real, Tensor};
use crate::compare::compare;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Plan, PlanOptions};
use crate::graph::{Graph, NodeId};
use crate::kernel;
use crate::op::{
    AnyOp, Binding, Bound, Candidate, Case, DeviceProfile, Dispatch, Fill, Op, Param, Proof, UNIT_ROUNDOFF,
    matrix_types, workgroup_grid,
};
use crate::ops::turns;
use crate::random::Random;
use crate::selftest;
use crate::shape::{DType, Shape, TensorType};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;

/// Values that an invocation of `device/multiply_add` keeps: enough that none waits for the one before, few enough for registers.
const CHAINS: usize = 12;

/// Steps between two tests of the loop's end.
const STEPS: usize = 16;

/// Least seconds of a timed multiply-add on a GPU: far more than a submit takes, far less than a watchdog allows.
const LEAST_SECONDS: f64 = 0.02;

/// On a software driver: so little that some of many runs are not disturbed even on a machine that has other work.
const LEAST_SECONDS_OF_SOFTWARE: f64 = 0.001;

/// Least seconds of all runs of a kind together.
const LEAST_TOTAL_SECONDS: f64 = 0.4;

/// Turns that no device needs more of.
const MOST_TURNS: u32 = 1 << 20;

/// Copies in the chain by which the cost of a dispatch is told.
const DISPATCHES: usize = 200;

/// Sums that a subgroup keeps in `device/matrix_multiply_add`, likewise.
const MATRIX_CHAINS: usize = 8;

/// Turns past which these sums, of products of halves of integers, might not be exact.
const MOST_MATRIX_TURNS: u32 = 1 << 11;

/// Elements of a large result that are held against the reference.
const CHECKED: usize = 64;

/// Multiply-adds without memory: y = Σ over k of z after `16 · turns` steps z ← z² + x, from z = −k/32. Inputs x, of `f32`, or an even
/// number of `f16`, in which it is computed as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MultiplyAdd {
    /// Sixteen steps each.
    pub turns: u32,
}

impl MultiplyAdd {
    fn steps(self) -> usize {
        STEPS * self.turns as usize
    }
}

/// The like on matrix units: y = Σ over k of `16 · turns` times x\[k\] · x\[8\], for each workgroup. Inputs x `[9, side, side]`, stored as
/// `f16`. Of halves of integers up to 1 it is exact, which tells a step more from a step less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixMultiplyAdd {
    /// Rows and columns of a matrix.
    pub side: u32,
    /// Results.
    pub workgroups: u32,
    /// Sixteen steps each.
    pub turns: u32,
}

impl MatrixMultiplyAdd {
    /// Elements of a matrix.
    fn elements(self) -> usize {
        (self.side * self.side) as usize
    }

    fn input(self) -> Result<TensorType, String> {
        let side = self.side as usize;
        TensorType::f16([MATRIX_CHAINS + 1, side, side])
    }
}

impl Op for MatrixMultiplyAdd {
    fn name(&self) -> &'static str {
        "device_matrix_multiply_add"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let (side, expected) = (self.side as usize, self.input()?);
        match inputs {
            [x] if *x == expected => TensorType::f32([self.workgroups as usize, side, side]),
            _ => Err(format!("expected {expected}, got {inputs:?}")),
        }
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (side, elements, x) = (self.side as usize, self.elements(), inputs[0].float());
        let (left, right) = x.data.split_at(MATRIX_CHAINS * elements);
        // The sum of the products is the product of the sum.
        let left: Vec<T> = (0..elements).map(|at| left.iter().skip(at).step_by(elements).copied().sum()).collect();
        let steps = T::from_f64((STEPS * self.turns as usize) as f64);
        let of = |at: usize| (0..side).map(|k| left[at / side * side + k] * right[k * side + at % side]).sum::<T>();
        let product: Vec<T> = (0..elements).map(|at| steps * of(at)).collect();
        let shape = Shape::new([self.workgroups as usize, side, side]);
        let array = shape.and_then(|shape| Array::new(shape, product.repeat(self.workgroups as usize)));
        array.map(Tensor::Float).into_iter().collect()
    }

    fn candidates(&self, _: &[TensorType], _: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let Some(lanes) = device.subgroup_size.filter(|_| device.matrix_side == Some(self.side)) else {
            return Vec::new();
        };
        let numbers =
            [("CHAINS", MATRIX_CHAINS as u32), ("STEPS", STEPS as u32), ("LANES", lanes), ("SIDE", self.side)];
        let mut constants: Vec<_> = numbers.iter().map(|&(name, value)| (name, format!("{value}u"))).collect();
        constants.extend(matrix_types(self.side));
        let dispatch = Dispatch {
            kernel: kernel!("device/matrix_multiply_add"),
            constants,
            bindings: vec![Binding::Input(0), Binding::Output],
            params: vec![("workgroups", Param::U32(self.workgroups)), ("turns", Param::U32(self.turns))],
            workgroups: workgroup_grid(self.workgroups as usize),
        };
        vec![dispatch.into()]
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        let steps = STEPS * self.turns as usize;
        (2 * MATRIX_CHAINS * steps * self.side as usize) as u64 * output.shape.elements() as u64
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Exact
    }
}

/// Memory without arithmetic: y = x, in groups of four elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy;

impl Op for MultiplyAdd {
    fn name(&self) -> &'static str {
        "device_multiply_add"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [x] if x.dtype == DType::F32 => Ok(x.clone()),
            [x] if x.dtype == DType::F16 && x.shape.elements() % 2 == 0 => Ok(x.clone()),
            _ => {
                Err(format!("expected one float tensor, of an even number of elements if they are f16, got {inputs:?}"))
            }
        }
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let x = inputs[0].float();
        let chain = |k: usize, x: T| (0..self.steps()).fold(T::from_f64(k as f64 * -0.03125), |z, _| z * z + x);
        let data = x.data.par_iter().map(|&x| (0..CHAINS).map(|k| chain(k, x)).sum()).collect();
        vec![Tensor::Float(Array { shape: x.shape.clone(), data })]
    }

    fn candidates(&self, _: &[TensorType], output: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        let mut constants = vec![("CHAINS", format!("{CHAINS}u")), ("STEPS", format!("{STEPS}u"))];
        let mut count = output.shape.elements();
        if output.dtype == DType::F16 {
            constants.push(("Number", "vec2<Stored>".into()));
            count /= 2;
        }
        let dispatch = Dispatch {
            kernel: kernel!("device/multiply_add"),
            constants,
            bindings: vec![Binding::Input(0), Binding::Output],
            params: vec![("count", count.into()), ("turns", (self.turns as usize).into())],
            workgroups: workgroup_grid(count.div_ceil(64)),
        };
        vec![dispatch.into()]
    }

    fn proof(&self) -> Option<Proof> {
        Some(Proof::of::<Self>())
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        (2 * CHAINS * self.steps() * output.shape.elements()) as u64
    }

    /// A step rounds twice at most, to less than 1, and the steps after it do not enlarge that by more than a half. In `f16` that would be
    /// past all sense, so there x is −1, with which all values are 0 after an even number of steps and −1 after an odd one.
    fn bound(&self, _: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        let bound = (4 * CHAINS * self.steps()) as f64 * UNIT_ROUNDOFF;
        Bound::Elements(vec![bound; output.elements()])
    }
}

impl Op for Copy {
    fn name(&self) -> &'static str {
        "device_copy"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [x] if x.dtype == DType::F32 && x.shape.elements() % 4 == 0 => Ok(x.clone()),
            _ => Err(format!("expected one float tensor of a multiple of 4 elements, got {inputs:?}")),
        }
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        vec![inputs[0].clone()]
    }

    fn candidates(&self, _: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let bindings = vec![Binding::Input(0), Binding::Output];
        vec![turns(kernel!("device/copy"), bindings, output.shape.elements() / 4, &[], device).into()]
    }

    fn proof(&self) -> Option<Proof> {
        Some(Proof::of::<Self>())
    }

    fn flops(&self, _: &[TensorType], _: &TensorType) -> u64 {
        0
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Exact
    }
}

/// Cases of these ops, for the tests and to check a device before it is timed.
///
/// # Errors
/// As [`TensorType::f32`].
pub fn cases() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    let chains = |name: &str, tensor_type: TensorType, fill, turns| Case {
        name: format!("{} of {turns} turns{name}", tensor_type.shape.elements()),
        op: Arc::new(MultiplyAdd { turns }),
        inputs: vec![(tensor_type, fill)],
    };
    for (count, turns) in [(1, 1), (64, 3), (1000, 16)] {
        cases.push(chains("", TensorType::f32([count])?, SEEDS, turns));
        // Of halves there is an even number.
        cases.push(chains(", f16", TensorType::f16([count.next_multiple_of(2)])?, SEEDS_OF_HALVES, turns));
    }
    for count in [4, 256, 260, 200_004] {
        let inputs = vec![(TensorType::f32([count])?, Fill::Normal(1.0))];
        cases.push(Case { name: count.to_string(), op: Arc::new(Copy), inputs });
    }
    for (side, workgroups, turns) in [(8, 1, 1), (8, 67, 3), (16, 1, 1), (16, 67, 3)] {
        let op = MatrixMultiplyAdd { side, workgroups, turns };
        let name = format!("{workgroups} of {side}×{side}, {turns} turns");
        cases.push(Case { name, op: Arc::new(op), inputs: vec![(op.input()?, Fill::Ties)] });
    }
    Ok(cases)
}

/// Near −3/4 the values take thousands of steps to come to rest, so that a step too many or too few is noticed.
const SEEDS: Fill = Fill::Uniform(-0.75, -0.7499);

/// From here they come to rest in a cycle of 0 and −1, without any rounding.
const SEEDS_OF_HALVES: Fill = Fill::Constant(-1.0);

/// Work of one kind, and how long it took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Floating-point operations, or bytes read and written.
    pub work: u64,
    /// How long they took.
    pub seconds: Spread,
}

impl Rate {
    /// The best of the runs: a roof is what a device does when nothing disturbs it.
    pub fn best(&self) -> f64 {
        self.work as f64 / self.seconds.least.max(f64::MIN_POSITIVE)
    }
}

/// What a device can do at most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roof {
    /// Multiply-adds in `f32`; one counts as two operations.
    pub multiply_add: Rate,
    /// The like in `f16`, two numbers at once, where shaders may use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiply_add_f16: Option<Rate>,
    /// The like of matrices of `f16` that are added to `f32`, by units of the device's own, where it has such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matrix_multiply_add: Option<Rate>,
    /// A copy by a kernel; each byte counts as read and as written.
    pub copy: Rate,
    /// A copy by the device's own command, counted alike.
    pub command_copy: Rate,
    /// A dispatch that does nearly nothing and depends on the one before.
    pub dispatch: Spread,
    /// A submit without dispatches, recorded and waited for.
    pub submit: Spread,
}

/// More than any device has room for at once, within what a timed run may take.
fn invocations(gpu: &Gpu) -> usize {
    if gpu.adapter().is_software() { 1 << 12 } else { 1 << 20 }
}

impl Roof {
    /// The largest rate of arithmetic, in operations a second.
    pub fn flops_per_second(&self) -> f64 {
        self.multiply_add.best()
    }

    /// The largest rate of memory traffic, in bytes a second.
    pub fn bytes_per_second(&self) -> f64 {
        self.copy.best().max(self.command_copy.best())
    }

    /// The least seconds in which a device with this roof does so many operations on so many bytes.
    pub fn least_seconds(&self, flops: u64, bytes: u64) -> f64 {
        (flops as f64 / self.flops_per_second()).max(bytes as f64 / self.bytes_per_second())
    }

    /// Whether arithmetic, rather than memory, bounds this work.
    pub fn is_bound_by_arithmetic(&self, flops: u64, bytes: u64) -> bool {
        flops as f64 * self.bytes_per_second() >= bytes as f64 * self.flops_per_second()
    }
}

/// A chain of equal ops on one input, ready to run.
#[derive(Debug)]
pub struct Probe {
    op: Arc<dyn AnyOp>,
    plan: Plan,
    tensor_type: TensorType,
    x: Array<f32>,
    /// How many elements at either end of x are held against the reference.
    checked: usize,
    /// The last of the chain, if there is any.
    output: Option<NodeId>,
}

impl Probe {
    /// A chain of an op that computes each element from one.
    fn new(gpu: &Gpu, op: impl Op, elements: usize, length: usize, seed: u32) -> Result<Self> {
        let tensor_type = TensorType::f32([elements]).map_err(Error::Usage)?;
        Self::on(gpu, op, (tensor_type, SEEDS), length, seed)
    }

    fn on(gpu: &Gpu, op: impl Op, (tensor_type, fill): (TensorType, Fill), length: usize, seed: u32) -> Result<Self> {
        let op: Arc<dyn AnyOp> = Arc::new(op);
        let mut graph = Graph::new();
        let input = graph.input("x", tensor_type.clone());
        let mut output = None;
        for index in 0..length {
            output = Some(graph.apply_shared(&format!("y{index}"), &op, &[output.unwrap_or(input)])?);
        }
        if let Some(output) = output {
            graph.mark_output("y", output)?;
        }
        let plan = Plan::new(gpu, &graph, PlanOptions::default())?;
        let x = fill.draw(&tensor_type, &mut Random::new(seed, 0));
        plan.write(input, &x)?;
        Ok(Self { op, plan, tensor_type, x: x.float().clone(), checked: CHECKED, output })
    }

    /// A submit without dispatches.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn submit(gpu: &Gpu) -> Result<Self> {
        Self::new(gpu, Copy, 4, 0, 0)
    }

    /// Two hundred dispatches, each of which copies four elements that the one before wrote.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn dispatches(gpu: &Gpu) -> Result<Self> {
        Self::new(gpu, Copy, 4, DISPATCHES, 0)
    }

    /// A copy of as much as a binding admits, up to 256 MiB, or 64 on a software driver: well past the caches of most.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn copy(gpu: &Gpu, seed: u32) -> Result<Self> {
        let adapter = gpu.adapter();
        let wanted: u64 = if adapter.is_software() { 64 << 20 } else { 256 << 20 };
        let bytes = wanted.min(adapter.max_binding_bytes).min(adapter.max_buffer_bytes);
        Self::new(gpu, Copy, (bytes / 16 * 4) as usize, 1, seed)
    }

    /// Multiply-adds on every core, with as many turns as a timed run needs.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn multiply_add(gpu: &Gpu, seed: u32) -> Result<Self> {
        Self::of_turns(gpu, MOST_TURNS, |turns| Self::new(gpu, MultiplyAdd { turns }, invocations(gpu), 1, seed))
    }

    /// The like in `f16`; none where shaders may not use it.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn multiply_add_f16(gpu: &Gpu, seed: u32) -> Result<Option<Self>> {
        if !gpu.profile().f16 {
            return Ok(None);
        }
        let tensor_type = TensorType::f16([2 * invocations(gpu)]).map_err(Error::Usage)?;
        let of = |turns| Self::on(gpu, MultiplyAdd { turns }, (tensor_type.clone(), SEEDS_OF_HALVES), 1, seed);
        Self::of_turns(gpu, MOST_TURNS, of).map(Some)
    }

    /// The like on matrix units; none where the device has none.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn matrix_multiply_add(gpu: &Gpu, seed: u32) -> Result<Option<Self>> {
        let &DeviceProfile { matrix_side: Some(side), subgroup_size: Some(_), .. } = gpu.profile() else {
            return Ok(None);
        };
        let workgroups = if gpu.adapter().is_software() { 1 << 6 } else { 1 << 14 };
        let of = |turns| {
            let op = MatrixMultiplyAdd { side, workgroups, turns };
            let probe = Self::on(gpu, op, (op.input().map_err(Error::Usage)?, Fill::Ties), 1, seed)?;
            // No element of its result can do without one of x.
            Ok(Self { checked: probe.x.data.len(), ..probe })
        };
        Self::of_turns(gpu, MOST_MATRIX_TURNS, of).map(Some)
    }

    /// A probe with as many turns as a timed run needs, or the most.
    fn of_turns(gpu: &Gpu, most: u32, of: impl Fn(u32) -> Result<Self>) -> Result<Self> {
        let least = if gpu.adapter().is_software() { LEAST_SECONDS_OF_SOFTWARE } else { LEAST_SECONDS };
        let mut turns = 16;
        loop {
            let probe = of(turns)?;
            // The first run has what comes only once.
            probe.run()?;
            let start = Instant::now();
            probe.run()?;
            if start.elapsed().as_secs_f64() >= least || turns >= most {
                return Ok(probe);
            }
            turns *= 2;
        }
    }

    /// Floating-point operations of one op of the chain.
    fn flops(&self) -> Result<u64> {
        let types = [self.tensor_type.clone()];
        let output = self.op.output(&types).map_err(Error::Usage)?;
        Ok(self.op.flops(&types, &output))
    }

    /// Runs it once and waits.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn run(&self) -> Result<()> {
        self.plan.run()?;
        self.plan.wait()
    }

    /// Runs it once, holds the ends of the result against the reference, then times it `runs` times or more.
    fn measure(&self, runs: usize) -> Result<Spread> {
        self.run()?;
        if let Some(output) = self.output {
            let y = self.plan.read(output)?;
            for from in [0, self.x.data.len().saturating_sub(self.checked)] {
                let data: Vec<f64> = self.x.data[from..].iter().take(self.checked).map(|&x| f64::from(x)).collect();
                let shape = TensorType::f32([data.len()]).map_err(Error::Usage)?.shape;
                let x = Tensor::Float(Array { shape, data });
                let expected = self.op.reference_f64(&[&x]).swap_remove(0);
                let bounds = self.op.bound(&[&x], &expected, 0).elements(self.op.as_ref(), &[&x], &expected);
                compare(&y.float().data[from..][..bounds.len()], &expected.float().data, &bounds)
                    .map_err(|mismatch| Error::Device(format!("{}: {mismatch}", self.op.name())))?;
            }
        }
        let (begin, mut seconds) = (Instant::now(), Vec::new());
        while seconds.len() < runs || begin.elapsed().as_secs_f64() < LEAST_TOTAL_SECONDS {
            let start = Instant::now();
            self.run()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        Ok(Spread::of(seconds))
    }
}

impl Roof {
    /// Measures a device, `repeats` times each or more after what comes only once; what its kernels compute is held against their
    /// references before.
    ///
    /// # Errors
    /// When the device has failed, has no room for the copied buffers, or a kernel's result is wrong.
    pub fn measure(gpu: &Gpu, repeats: usize, seed: u32) -> Result<Self> {
        let is_of_matrices = |case: &Case| case.op.as_any().is::<MatrixMultiplyAdd>();
        let cases = cases().map_err(Error::Usage)?.into_iter();
        let possible = cases.filter(|case| gpu.profile().f16 || !case.stores_half());
        let (of_matrices, others): (Vec<Case>, Vec<Case>) = possible.partition(is_of_matrices);
        let check = |cases: &[Case]| {
            cases.iter().try_for_each(|case| {
                let mut candidates = 0..selftest::candidates(gpu, case)?.len();
                candidates.try_for_each(|candidate| selftest::check_case(gpu, case, candidate, seed).map(drop))
            })
        };
        check(&others)?;
        let submit = Probe::submit(gpu)?.measure(repeats)?;
        // What is left of the time of `count` dispatches without their submit, for each.
        let less_submit = |Spread { median, least, most }: Spread, count: usize| {
            let [median, least, most] = [median, least, most].map(|time| (time - submit.least).max(0.0) / count as f64);
            Spread { median, least, most }
        };
        let dispatch = less_submit(Probe::dispatches(gpu)?.measure(repeats)?, DISPATCHES);
        let probe = Probe::multiply_add(gpu, seed)?;
        let arithmetic = |probe: &Probe| {
            Ok::<_, Error>(Rate { work: probe.flops()?, seconds: less_submit(probe.measure(repeats)?, 1) })
        };
        let multiply_add = arithmetic(&probe)?;
        let multiply_add_f16 = Probe::multiply_add_f16(gpu, seed)?.as_ref().map(arithmetic).transpose()?;
        let on_matrices = || {
            check(&of_matrices)?;
            Probe::matrix_multiply_add(gpu, seed)?.as_ref().map(arithmetic).transpose()
        };
        // They are experimental, and no kernel that is in use without tuning needs them.
        let matrix_multiply_add = on_matrices().unwrap_or_else(|error| {
            tracing::warn!("matrix units are not measured: {error}");
            None
        });
        let probe = Probe::copy(gpu, seed)?;
        let bytes = 4 * probe.x.data.len() as u64;
        let copy = Rate { work: 2 * bytes, seconds: less_submit(probe.measure(repeats)?, 1) };
        drop(probe);
        let command = Spread::of(gpu.time_copies(bytes, repeats)?);
        let command_copy = Rate { work: 2 * bytes, seconds: less_submit(command, 1) };
        Ok(Self { multiply_add, multiply_add_f16, matrix_multiply_add, copy, command_copy, dispatch, submit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_of_two_roofs_binds() {
        let rate = |work, seconds| Rate { work, seconds: Spread::of(vec![2.0 * seconds, seconds, 3.0 * seconds]) };
        let nothing = Spread::default();
        let roof = Roof {
            multiply_add: rate(1000, 1.0),
            multiply_add_f16: None,
            matrix_multiply_add: None,
            copy: rate(100, 1.0),
            command_copy: rate(100, 2.0),
            dispatch: nothing,
            submit: nothing,
        };
        assert_eq!((roof.flops_per_second(), roof.bytes_per_second()), (1000.0, 100.0), "the best of the runs");
        // Ten operations a byte are where the two roofs meet.
        for (flops, bytes, seconds, arithmetic) in
            [(1000, 1, 1.0, true), (1000, 100, 1.0, true), (1000, 200, 2.0, false), (0, 50, 0.5, false)]
        {
            assert!((roof.least_seconds(flops, bytes) - seconds).abs() < 1e-12, "{flops} on {bytes}");
            assert_eq!(roof.is_bound_by_arithmetic(flops, bytes), arithmetic, "{flops} on {bytes}");
        }
    }

    /// The bound tells a step more from a step less.
    #[test]
    fn the_check_of_multiply_adds_counts_the_steps() {
        let x = Tensor::Float(Array { shape: TensorType::f32([1]).unwrap().shape, data: vec![-0.749_95_f64] });
        for turns in [1, 16, 256] {
            let op = MultiplyAdd { turns };
            let whole = op.reference_f64(&[&x]);
            let bound = op.bound(&[&x], &whole[0], 0).elements(&op, &[&x], &whole[0])[0];
            let value = x.float().data[0];
            let fewer = |k: usize| (1..op.steps()).fold(k as f64 * -0.03125, |z, _| z * z + value);
            let error = ((0..CHAINS).map(fewer).sum::<f64>() - whole[0].float().data[0]).abs();
            assert!(error > 5.0 * bound, "{turns} turns: {error} within {bound}");
        }
    }
}
