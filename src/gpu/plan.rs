//! A graph compiled for a device: pipelines, buffers and bind groups resolved once, replayed every step.

use super::choices::Choices;
use super::device::Gpu;
use super::kernel::{Indices, Pipeline, Program};
use super::memory::{Buffer, MemoryPlan, Span, UNIFORM_ALIGNMENT};
use super::pace::{LONGEST_SUBMIT, Pace, Piece, Work};
use super::profile::{PASSES_PER_SET, Stopwatch};
use super::requirements::{half_of, of_buffers, of_kernels};
use super::source::Pieces;
use crate::array::{Array, Tensor};
use crate::error::{Error, Result};
use crate::fuse::Fusions;
use crate::graph::{Bank, Graph, Node, NodeId, NodeKind};
use crate::op::{Binding, Candidate, Dispatch, workgroup_grid};
use crate::shape::{DType, TensorType};
use futures_channel::oneshot;
use half::f16;
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Choices that do not change what a plan computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanOptions {
    /// Which candidate of each op to take, its last one where it has fewer, in place of [`Gpu::choices`]. Tests walk through them.
    pub candidate: Option<usize>,
    /// Gives every tensor a buffer of its own, filled with NaN before the first run, and guard space behind it and behind every
    /// bank: a kernel that reads or writes past its tensors, or leaves an element unwritten, is found out.
    pub guarded: bool,
    /// In a plan that is `guarded`, as it then has to be, has each kernel look at each of its indices, also those into memory of its own, and overwrite
    /// a guard if one is out of bounds.
    pub trapped: bool,
    /// What one kernel computes of several ops, by default all that pays on the device. Without, it takes longer and gives the same bits, but for tuned
    /// kernels, which are chosen for fused ops and others apart, and for what the device cannot bind at once.
    pub fusions: Fusions,
    /// The longest that one submit may take; a run is cut into as many as that needs. By default [`LONGEST_SUBMIT`].
    pub longest_submit: Duration,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            candidate: None,
            guarded: false,
            trapped: false,
            fusions: Fusions::default(),
            longest_submit: LONGEST_SUBMIT,
        }
    }
}

/// The bit pattern that guarded plans fill memory with: a NaN that no kernel computes, and two of 16 bits.
const POISON: u32 = 0x7fde_7ead;

/// The same for inputs of floats: another NaN, so that copying it into a result's guard is noticed. Around integers there are
/// zeros instead, because most kernels would act on the label 0 that they should not have read, and few on a huge one.
const INPUT_POISON: u32 = 0x7fde_7eef;

/// Banks are written in pieces of this size.
const WRITE_BYTES: u64 = 8 << 20;

/// A kernel launch with everything resolved.
pub(super) struct Step {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    workgroups: [u32; 3],
    /// Into how many launches it can be divided, each of which begins at a workgroup that stands here in the uniform.
    divisible_by: u32,
    first_workgroup: u64,
}

impl Step {
    fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.record_some(pass, self.workgroups);
    }

    fn record_some(&self, pass: &mut wgpu::ComputePass<'_>, [x, y, z]: [u32; 3]) {
        pass.set_pipeline(&self.pipeline.program);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// A graph compiled for a device.
pub struct Plan {
    pub(super) gpu: Gpu,
    /// As it was given.
    graph: Graph,
    /// As it is computed.
    pub(super) computed: Graph,
    memory: MemoryPlan,
    transient: Vec<wgpu::Buffer>,
    inputs: Vec<wgpu::Buffer>,
    /// Each with the buffers of its pieces.
    banks: BTreeMap<Bank, Vec<wgpu::Buffer>>,
    uniform: wgpu::Buffer,
    /// What results are read through, while nothing is.
    staging: Mutex<Option<wgpu::Buffer>>,
    pub(super) steps: Vec<Step>,
    pub(super) pace: Pace,
    /// Held by whatever writes, runs or reads: between the submits of a run nothing of another thread may come.
    turn: Mutex<()>,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan").field("gpu", &self.gpu).field("dispatches", &self.steps.len()).finish_non_exhaustive()
    }
}

impl Plan {
    /// Compiles a graph: chooses kernels, plans memory, creates every buffer, pipeline and bind group. Banks start at zero. What is larger
    /// than a binding of the device may be is in pieces, which makes no difference to results, unless these are more than it can bind at once: then
    /// sums over images are added batch by batch.
    ///
    /// Mesa's lavapipe would translate kernels when they are first run; on a device that is not a host's they are launched with no
    /// workgroup here, each waited for, and for that time there is a device for each core.
    ///
    /// # Errors
    /// [`Error::Memory`] when the tensors of a dispatch are in more pieces than the device can bind at once (named with both values) or the
    /// device is out of memory, [`Error::Device`] when it lacks another limit that a kernel needs, or a kernel does not compile or is not
    /// what its dispatch says.
    pub fn new(gpu: &Gpu, graph: &Graph, options: PlanOptions) -> Result<Self> {
        let computed = graph.fused_by(options.fusions);
        let nth = options.candidate.map(Choices::nth);
        let memory = MemoryPlan::new(&computed, gpu.profile(), nth.as_ref().unwrap_or(gpu.choices()), options.guarded)?;
        if let Some(lacking) = half_of(&computed).filter(|_| !gpu.profile().f16) {
            return Err(Error::Device(format!("{}: {lacking}", gpu.adapter())));
        }
        let advice = "use a smaller tile, batch, base or depth, or `--device cpu`";
        let buffers = of_buffers(&computed, &memory);
        if gpu.lacks(&buffers, advice).is_some() {
            // Whoever asks for another device must know of all that this one lacks.
            let all: Vec<_> = buffers.into_iter().chain(of_kernels(&memory)?).collect();
            return Err(Error::Memory(gpu.lacks(&all, advice).unwrap_or_default()));
        }
        let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let create = |label: &str, size: u64, usage: wgpu::BufferUsages| {
            gpu.scoped(&format!("{label} buffer of {size} bytes, of {} planned", memory.total_bytes()), || {
                let label = Some(label);
                gpu.device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
            })
        };
        let all = |label: &str, sizes: &[u64]| -> Result<Vec<wgpu::Buffer>> {
            sizes.iter().map(|&size| create(label, size, storage)).collect()
        };
        let transient = all("transient", &memory.transient)?;
        let inputs = all("input", &memory.inputs)?;
        let banks = graph
            .banks()
            .into_iter()
            .map(|bank| Ok((bank, all(&format!("{bank:?}"), &memory.bank_pieces().collect::<Vec<_>>())?)))
            .collect::<Result<BTreeMap<_, _>>>()?;
        let uniform_usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let uniform = create("params", memory.uniform, uniform_usage)?;
        let staging = Mutex::new(Some(staging_buffer(gpu, memory.staging)?));
        let mut plan = Self {
            gpu: gpu.clone(),
            graph: graph.clone(),
            computed,
            memory,
            transient,
            inputs,
            banks,
            uniform,
            staging,
            steps: Vec::new(),
            pace: Pace::new(&[], options.longest_submit),
            turn: Mutex::default(),
        };
        let all_lacking = || {
            let needs = of_kernels(&plan.memory).ok()?;
            plan.gpu.lacks(&needs, "try another `--device`").map(Error::Device)
        };
        plan.steps = plan.resolve(options.trapped).map_err(|error| all_lacking().unwrap_or(error))?;
        let work = plan.work().into_iter().zip(&plan.steps);
        let work = work.map(|((flops, bytes), step)| Work { flops, bytes, divisible_by: step.divisible_by });
        plan.pace = Pace::new(&work.collect::<Vec<_>>(), options.longest_submit);
        plan.write_constants(options.guarded)?;
        plan.gpu.check()?;
        Ok(plan)
    }

    /// What each step launches, and the node that it belongs to.
    pub(super) fn dispatches(&self) -> impl Iterator<Item = (usize, &Dispatch)> {
        (0..self.computed.nodes().len())
            .filter_map(|node| Some((node, self.memory.candidates[node].as_ref()?)))
            .flat_map(|(node, candidate)| candidate.dispatches.iter().map(move |dispatch| (node, dispatch)))
    }

    /// Floating-point operations and bytes of each dispatch: those [of its op](Candidate::operations), and what it binds, each tensor counted
    /// once.
    pub(super) fn work(&self) -> Vec<(u64, u64)> {
        let bytes = |(position, dispatch): (usize, &Dispatch)| {
            let mut bindings = dispatch.bindings.clone();
            bindings.sort_unstable();
            bindings.dedup();
            let spans = bindings.iter().flat_map(|&binding| self.memory.bound(&self.computed, position, binding));
            spans.map(|span| span.bytes).sum()
        };
        let candidates = self.memory.candidates.iter().enumerate();
        let candidates = candidates.filter_map(|(position, candidate)| Some((position, candidate.as_ref()?)));
        let flops = candidates.flat_map(|(position, candidate)| candidate.operations(self.flops(position)));
        flops.zip(self.dispatches().map(bytes)).collect()
    }

    /// Floating-point operations of a node's kernels: of the node, and of the gradient that they compute as well.
    pub(crate) fn flops(&self, position: usize) -> u64 {
        let of = |node: &Node| {
            let NodeKind::Op { op, inputs } = &node.kind else { return 0 };
            op.flops(&self.computed.types(inputs), &node.tensor_type)
        };
        of(&self.computed.nodes()[position]) + self.gradient_with(position).map_or(0, of)
    }

    /// Bytes that a node's kernels have to read and write, each tensor counted once; the gradient's that they compute as well.
    pub(crate) fn traffic(&self, position: usize) -> u64 {
        let node = &self.computed.nodes()[position];
        let NodeKind::Op { op, inputs } = &node.kind else { return 0 };
        let types = self.computed.types(inputs);
        let read: u64 = types.iter().map(TensorType::size_bytes).sum();
        let written: u64 = match op.writes() {
            [] => node.tensor_type.size_bytes(),
            written => written.iter().map(|&input| types[input].size_bytes()).sum(),
        };
        read + written + self.gradient_with(position).map_or(0, |gradient| gradient.tensor_type.size_bytes())
    }

    /// The gradient that a node's kernels compute as well.
    pub(crate) fn gradient_with(&self, position: usize) -> Option<&Node> {
        self.memory.gradients[position].map(|gradient| self.computed.node(gradient))
    }

    /// Compiles all kernels, binds every dispatch, and has the kernels translated.
    fn resolve(&self, trapped: bool) -> Result<Vec<Step>> {
        let in_pieces = |(node, dispatch): (usize, _)| {
            let pieces = self.memory.pieces(&self.computed, node, dispatch);
            let indices = if trapped { self.trapped(node, dispatch, &pieces) } else { self.indices(node, dispatch) };
            (node, dispatch, pieces, indices)
        };
        let dispatches: Vec<_> = self.dispatches().map(in_pieces).collect();
        let kernels = dispatches.iter().map(|(_, dispatch, pieces, indices)| {
            // The same text for the same of these.
            ((dispatch.kernel.path, &dispatch.constants, pieces, indices), Program { dispatch, pieces, indices })
        });
        let distinct: Vec<_> = kernels.collect::<BTreeMap<_, _>>().into_values().collect();
        distinct.par_iter().try_for_each(|&kernel| self.gpu.pipeline(kernel).map(drop))?;
        let mut params = vec![0u8; self.uniform.size() as usize];
        let mut offset = 0;
        let mut steps = Vec::with_capacity(dispatches.len());
        for &(node, dispatch, ref pieces, ref indices) in &dispatches {
            let pipeline = self.gpu.pipeline(Program { dispatch, pieces, indices })?;
            pipeline.interface.check(dispatch, self.writes(node))?;
            let words: Vec<u32> = dispatch.params.iter().map(|(_, param)| param.to_bits()).collect();
            let bytes: &[u8] = bytemuck::cast_slice(&words);
            params[offset as usize..][..bytes.len()].copy_from_slice(bytes);
            // The last of the params, where there is one.
            let first_workgroup = (offset + bytes.len() as u64).saturating_sub(4);
            let mut resources = Vec::new();
            for (&binding, pieces) in dispatch.bindings.iter().zip(pieces) {
                resources.extend(self.binding(node, binding)?.take(pieces.count()));
            }
            if let Some(size) = wgpu::BufferSize::new(bytes.len() as u64) {
                resources.push(wgpu::BufferBinding { buffer: &self.uniform, offset, size: Some(size) });
                offset += size.get().next_multiple_of(UNIFORM_ALIGNMENT);
            }
            let entries: Vec<wgpu::BindGroupEntry<'_>> = (0..)
                .zip(resources)
                .map(|(binding, buffer)| wgpu::BindGroupEntry {
                    binding,
                    resource: wgpu::BindingResource::Buffer(buffer),
                })
                .collect();
            let name = &self.computed.nodes()[node].name;
            let bind_group = self.gpu.scoped(&format!("kernel {} for {name}", dispatch.kernel.path), || {
                self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some(name),
                    layout: &pipeline.layout,
                    entries: &entries,
                })
            })?;
            let (workgroups, divisible_by) = (dispatch.workgroups, dispatch.divisible_by());
            steps.push(Step { pipeline, bind_group, workgroups, divisible_by, first_workgroup });
        }
        self.gpu.translate(&distinct);
        self.gpu.write(&self.uniform, 0, &params)?;
        Ok(steps)
    }

    /// What keeps the indices of a dispatch of a node's within bounds. A matrix reaches further than the index that it is loaded at, which nothing looks at.
    fn indices(&self, node: usize, dispatch: &Dispatch) -> Indices {
        let takes_pointers = dispatch.kernel.takes_pointers();
        match &self.computed.nodes()[node].kind {
            NodeKind::Op { op, .. }
                if op.proof().is_some_and(|proof| proof.is_of(op.as_ref()))
                    && !takes_pointers
                    && !self.gpu.bounds_checks =>
            {
                Indices::Proved
            }
            _ => Indices::Checked,
        }
    }

    /// The same where the kernels are to look at them themselves.
    fn trapped(&self, node: usize, dispatch: &Dispatch, pieces: &[Pieces]) -> Indices {
        let spans = dispatch.bindings.iter().zip(pieces).flat_map(|(&binding, pieces)| {
            self.memory.bound(&self.computed, node, binding).into_iter().take(pieces.count())
        });
        Indices::Trapped(spans.map(|span| self.guard(&span)).collect())
    }

    /// The inputs that a node's op overwrites in place.
    fn writes(&self, node: usize) -> &'static [usize] {
        match &self.computed.nodes()[node].kind {
            NodeKind::Op { op, .. } => op.writes(),
            _ => &[],
        }
    }

    /// The bytes that a binding of a node's dispatch refers to, piece by piece.
    fn binding(&self, node: usize, binding: Binding) -> Result<impl Iterator<Item = wgpu::BufferBinding<'_>>> {
        let spans = self.memory.bound(&self.computed, node, binding);
        if spans.is_empty() {
            let target = &self.computed.nodes()[node];
            let op = if let NodeKind::Op { op, .. } = &target.kind { op.name() } else { "plan" };
            let problem = format!("a dispatch binds {binding:?}, which the op does not have");
            return Err(Error::Graph { op: op.into(), node: target.name.clone(), problem });
        }
        Ok(spans.into_iter().map(|span| {
            // A guarded buffer is bound with its guard, so that writes past the tensor land there instead of nowhere.
            let size = wgpu::BufferSize::new(span.behind() + span.bytes + self.guard(&span));
            wgpu::BufferBinding { buffer: self.buffer(span.buffer), offset: span.offset - span.behind(), size }
        }))
    }

    /// The bytes of the guard that is bound with these: none where they are not all of a buffer.
    fn guard(&self, span: &Span) -> u64 {
        let guard = self.memory.guard;
        if self.buffer(span.buffer).size() == span.bytes + guard { guard } else { 0 }
    }

    fn buffer(&self, buffer: Buffer) -> &wgpu::Buffer {
        match buffer {
            Buffer::Transient(index) => &self.transient[index],
            Buffer::Input(index) => &self.inputs[index],
            Buffer::Bank(bank, piece) => &self.banks[&bank][piece],
        }
    }

    /// The places of a node's tensor.
    fn location(&self, node: NodeId) -> impl Iterator<Item = wgpu::BufferSlice<'_>> + Clone {
        self.memory.nodes[node.index()].iter().map(|span| self.slice_of(span))
    }

    fn slice_of(&self, &Span { buffer, offset, bytes }: &Span) -> wgpu::BufferSlice<'_> {
        self.buffer(buffer).slice(offset..offset + bytes)
    }

    /// The places of a whole bank.
    ///
    /// # Errors
    /// When the graph has no such bank.
    fn bank(&self, bank: Bank) -> Result<impl Iterator<Item = wgpu::BufferSlice<'_>> + Clone> {
        let pieces = self.banks.get(&bank).ok_or_else(|| Error::Graph {
            op: "bank".into(),
            node: format!("{bank:?}"),
            problem: "the graph has no such bank".into(),
        })?;
        Ok(pieces.iter().map(|piece| piece.slice(..piece.size() - self.memory.guard)))
    }

    /// Writes bytes to these places, one after another, at most so many at once, with something to do in between.
    fn write_to<'a>(
        &self,
        places: impl Iterator<Item = wgpu::BufferSlice<'a>>,
        mut bytes: &[u8],
        most: u64,
        between: impl Fn() -> Result<()>,
    ) -> Result<()> {
        for (number, part) in parts(places, most).enumerate() {
            if number > 0 {
                between()?;
            }
            let (now, later) = bytes.split_at(part.size() as usize);
            self.gpu.write(part.buffer(), part.offset(), now)?;
            bytes = later;
        }
        Ok(())
    }

    fn write_constants(&self, guarded: bool) -> Result<()> {
        if guarded {
            let fill = |buffer: &wgpu::Buffer, word: u32| {
                let words = vec![word; buffer.size() as usize / 4];
                self.gpu.write(buffer, 0, bytemuck::cast_slice(&words))
            };
            for buffer in &self.transient {
                fill(buffer, POISON)?;
            }
            for piece in self.banks.values().flatten() {
                let words = vec![POISON; self.memory.guard as usize / 4];
                self.gpu.write(piece, piece.size() - self.memory.guard, bytemuck::cast_slice(&words))?;
            }
            for (node, spans) in self.computed.nodes().iter().zip(&self.memory.nodes) {
                for span in spans {
                    if let Buffer::Input(index) = span.buffer {
                        let floats = node.tensor_type.dtype.is_float();
                        fill(&self.inputs[index], if floats { INPUT_POISON } else { 0 })?;
                    }
                }
            }
        }
        for (node, spans) in self.computed.nodes().iter().zip(&self.memory.nodes) {
            if let NodeKind::Constant(value) = node.kind {
                for span in spans {
                    let values = vec![value; span.bytes as usize / 4];
                    self.gpu.write(self.buffer(span.buffer), span.offset, bytemuck::cast_slice(&values))?;
                }
            }
        }
        Ok(())
    }

    /// The device that the plan runs on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The graph that the plan was made of.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The graph as it is computed, fused unless it was asked not to be; its nodes are those of [`Plan::graph`].
    pub fn computed(&self) -> &Graph {
        &self.computed
    }

    /// What was planned.
    pub fn memory(&self) -> &MemoryPlan {
        &self.memory
    }

    /// How a node is computed, if it is.
    pub(crate) fn candidate(&self, node: NodeId) -> Option<&Candidate> {
        self.memory.candidates.get(node.index())?.as_ref()
    }

    /// The bytes of the buffers that were created; equal to [`MemoryPlan::total_bytes`]. Of reads at the same time, each but one has a buffer
    /// more while it lasts.
    pub fn allocated_bytes(&self) -> u64 {
        let banks = self.banks.values().flatten();
        let buffers = self.transient.iter().chain(&self.inputs).chain(banks).chain([&self.uniform]);
        buffers.map(wgpu::Buffer::size).sum::<u64>() + self.memory.staging
    }

    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes an input. The value is used by the next [`Plan::run`] and stays until written again.
    ///
    /// # Errors
    /// When the node is not an input of the graph, the tensor is not of its type or has not the elements of its shape, or the
    /// device has failed.
    pub fn write(&self, node: NodeId, value: &Tensor<f32>) -> Result<()> {
        self.computed.check_input(node, value)?;
        let bytes = encoded(self.computed.node(node).tensor_type.dtype, value);
        let _turn = self.turn();
        // It is nowhere where nothing depends on it.
        self.write_to(self.location(node), &bytes, u64::MAX, || Ok(()))?;
        self.gpu.check()
    }

    /// Writes a whole bank, piece by piece: the driver keeps a copy of each piece until it has arrived, on a host's device until the host
    /// has submitted something.
    ///
    /// # Errors
    /// When the graph has no such bank, it has another length, or the device has failed.
    pub fn write_bank(&self, bank: Bank, values: &[f32]) -> Result<()> {
        let places = self.bank(bank)?;
        if 4 * values.len() as u64 != self.memory.bank {
            let problem = format!("the bank has {} elements, got {}", self.memory.bank / 4, values.len());
            return Err(Error::Graph { op: "write".into(), node: format!("{bank:?}"), problem });
        }
        let _turn = self.turn();
        self.write_to(places, bytemuck::cast_slice(values), WRITE_BYTES, || self.gpu.flush())?;
        self.gpu.check()
    }

    /// Records everything that one run computes, in a compute pass of its own, into an encoder of the device: for a host that submits
    /// by itself. What was written to inputs and banks before the submit counts.
    ///
    /// It is one pass, however long it takes a slow device, where [`Plan::run`] would cut it; and it is the host's to see that its submit
    /// does not come between those of a run in another thread.
    pub fn record_into(&self, encoder: &mut wgpu::CommandEncoder) {
        record(&self.steps, encoder, None);
    }

    /// Computes everything once: no allocation, no compilation, and one submit, or several where one would keep the device for longer
    /// than [`PlanOptions::longest_submit`]. Returns without waiting, but for the first run of a plan that would take a slow device longer
    /// than that: it measures how long its parts take. Single dispatches are cut where they are those of convolutions and their gradients,
    /// which are the long ones.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn run(&self) -> Result<()> {
        let _turn = self.turn();
        if let Some(pieces) = self.pace.settled() {
            return self.submit_all(pieces);
        }
        self.gpu.wait()?;
        let mut taken = Vec::new();
        for piece in self.pace.estimated() {
            let start = Instant::now();
            self.submit(&piece, None)?;
            self.gpu.wait()?;
            taken.push(start.elapsed());
        }
        self.pace.settle(&taken);
        Ok(())
    }

    /// As [`Plan::run`], without blocking: where that would wait to measure, this is ready once somebody has polled the device, as for
    /// [`Plan::read_async`], and the device measures if it has timestamps, since somebody may poll seldom. What another thread does with the plan meanwhile comes between the parts of the run.
    ///
    /// # Errors
    /// As [`Plan::run`].
    pub async fn run_async(&self) -> Result<()> {
        if let Some(pieces) = self.pace.settled() {
            let _turn = self.turn();
            return self.submit_all(pieces);
        }
        self.wait_async().await?;
        let (pieces, mut taken) = (self.pace.estimated(), Vec::new());
        let clocked = self.gpu.adapter().timestamps && pieces.len() <= PASSES_PER_SET;
        let stopwatch =
            clocked.then(|| self.gpu.scoped("timestamps", || Stopwatch::new(&self.gpu.device, pieces.len())));
        let stopwatch = stopwatch.transpose()?;
        for (number, piece) in pieces.iter().enumerate() {
            let start = Instant::now();
            {
                let _turn = self.turn();
                self.submit(piece, stopwatch.as_ref().map(|stopwatch| stopwatch.of_pass(number)))?;
            }
            self.wait_async().await?;
            taken.push(start.elapsed());
        }
        if let Some(stopwatch) = stopwatch {
            // The host's clock counts until somebody has polled, so it is asked only where the device noted nothing.
            self.gpu.submit("timestamps", |encoder| stopwatch.stop(encoder))?;
            let words = self.words_async([stopwatch.times()]).await?;
            for (taken, [start, end]) in taken.iter_mut().zip(Stopwatch::laps(&words)) {
                let lap = Duration::from_secs_f64(Stopwatch::between(&self.gpu.queue, start, end));
                *taken = if lap.is_zero() { *taken } else { lap.min(*taken) };
            }
        }
        self.pace.settle(&taken);
        Ok(())
    }

    fn submit_all(&self, pieces: &[Piece]) -> Result<()> {
        pieces.iter().try_for_each(|piece| self.submit(piece, None))?;
        self.gpu.check()
    }

    pub(super) fn submit(
        &self,
        piece: &Piece,
        timestamp_writes: Option<wgpu::ComputePassTimestampWrites<'_>>,
    ) -> Result<()> {
        let (dispatch, workgroups) = match piece {
            Piece::Dispatches(dispatches) => {
                let steps = &self.steps[dispatches.clone()];
                return self.gpu.submit("a run", |encoder| record(steps, encoder, timestamp_writes));
            }
            Piece::Workgroups(dispatch, workgroups) => (*dispatch, workgroups),
        };
        let step = &self.steps[dispatch];
        let begin_at = |first: u32| self.gpu.write(&self.uniform, step.first_workgroup, &first.to_ne_bytes());
        begin_at(workgroups.start)?;
        self.gpu.submit("a run", |encoder| {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
            step.record_some(&mut pass, workgroup_grid(workgroups.len()));
        })?;
        // Whoever records all of it begins at the first, also between the pieces.
        begin_at(0)
    }

    /// Waits for all runs to finish.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn wait(&self) -> Result<()> {
        self.gpu.wait()
    }

    /// As [`Plan::wait`], without blocking: ready once somebody has polled the device, as for [`Plan::read_async`].
    ///
    /// # Errors
    /// As [`Plan::wait`].
    pub async fn wait_async(&self) -> Result<()> {
        let (done, finished) = oneshot::channel();
        self.gpu.queue.on_submitted_work_done(move || {
            // Nobody may be waiting any more.
            let _ = done.send(());
        });
        let lost = |error| Error::Device(format!("{}: waiting: {error}", self.gpu.adapter()));
        finished.await.map_err(lost)?;
        self.gpu.check()
    }

    /// Where an input, an output or a parameter is on the device, as NHWC of `f32`, `f16` or `u32`: to be copied into, copied from, or bound as
    /// storage by the host's own passes. An output holds the result of the last run until the next one; other tensors share memory and
    /// have no lasting place.
    ///
    /// # Errors
    /// [`Error::Graph`] when the node is none of these, an input that nothing depends on, or in pieces since no binding of the device is large
    /// enough for it.
    pub fn slice(&self, node: NodeId) -> Result<wgpu::BufferSlice<'_>> {
        let target = self.computed.find("slice", "input, output or parameter", node)?;
        let lasting = |span: &Span| self.is_output(node) || !matches!(span.buffer, Buffer::Transient(_));
        let problem = match &self.memory.nodes[node.index()][..] {
            [span] if lasting(span) => return Ok(self.slice_of(span)),
            pieces if pieces.first().is_none_or(|span| !lasting(span)) => {
                "only inputs, outputs and parameters have a lasting place; mark it with `mark_output`".into()
            }
            pieces => format!(
                "it is in {} pieces of up to {} bytes, the most that a binding of the device holds; use a smaller tile or batch, or \
                 `Plan::read` and `Plan::write`",
                pieces.len(),
                self.memory.piece
            ),
        };
        Err(Error::Graph { op: "slice".into(), node: target.name.clone(), problem })
    }

    fn is_output(&self, node: NodeId) -> bool {
        self.computed.outputs().iter().any(|&(_, output)| output == node)
    }

    /// The type of an output.
    fn output(&self, node: NodeId) -> Result<TensorType> {
        let target = self.computed.find("read", "output", node)?;
        if !self.is_output(node) {
            let problem = "only outputs can be read; mark it with `mark_output`".into();
            return Err(Error::Graph { op: "read".into(), node: target.name.clone(), problem });
        }
        Ok(target.tensor_type.clone())
    }

    /// Reads an output after the runs so far.
    ///
    /// # Errors
    /// When the node is not an output or its device has failed.
    pub fn read(&self, node: NodeId) -> Result<Tensor<f32>> {
        Ok(decoded(self.output(node)?, self.words(self.location(node), &self.turn())?))
    }

    /// As [`Plan::read`], without blocking: ready once somebody has polled the device ([`wgpu::Device::poll`]), as hosts with a loop of
    /// their own do. An output of more than 16 MiB comes in pieces; a run that another thread starts in between changes those to come.
    ///
    /// # Errors
    /// As [`Plan::read`].
    pub async fn read_async(&self, node: NodeId) -> Result<Tensor<f32>> {
        Ok(decoded(self.output(node)?, self.words_async(self.location(node)).await?))
    }

    /// Reads a whole bank after the runs so far.
    ///
    /// # Errors
    /// When the graph has no such bank, or the device has failed.
    pub fn read_bank(&self, bank: Bank) -> Result<Vec<f32>> {
        Ok(floats(self.words(self.bank(bank)?, &self.turn())?))
    }

    /// As [`Plan::read_bank`], without blocking, as [`Plan::read_async`].
    ///
    /// # Errors
    /// As [`Plan::read_bank`].
    pub async fn read_bank_async(&self, bank: Bank) -> Result<Vec<f32>> {
        Ok(floats(self.words_async(self.bank(bank)?).await?))
    }

    /// For a guarded plan, the names of the tensors and banks whose guards a kernel has overwritten.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn broken_guards(&self) -> Result<Vec<String>> {
        let mut broken = Vec::new();
        let guard = self.memory.guard;
        let overwritten = |buffer: &wgpu::Buffer, bytes: u64| -> Result<bool> {
            if guard == 0 || buffer.size() != bytes + guard {
                return Ok(false);
            }
            Ok(self.words([buffer.slice(bytes..)], &self.turn())?.iter().any(|&word| word != POISON))
        };
        for (bank, pieces) in &self.banks {
            for piece in pieces {
                if overwritten(piece, piece.size() - guard)? {
                    broken.push(format!("{bank:?}"));
                }
            }
        }
        for (index, node) in self.computed.nodes().iter().enumerate() {
            // Kernels bind inputs for reading only.
            let written = |span: &&Span| matches!(span.buffer, Buffer::Transient(_));
            let tensor = self.memory.nodes[index].iter().filter(written);
            for span in tensor.chain(self.memory.workspaces[index].iter().flatten()) {
                if overwritten(self.buffer(span.buffer), span.bytes)? {
                    broken.push(node.name.clone());
                }
            }
        }
        Ok(broken)
    }

    /// What is in these places, one after another, by whoever has the turn.
    pub(super) fn words<'a>(
        &self,
        places: impl IntoIterator<Item = wgpu::BufferSlice<'a>> + Clone,
        _: &MutexGuard<'_, ()>,
    ) -> Result<Vec<u32>> {
        let mut words = Vec::with_capacity(words_in(places.clone()));
        let staging = self.staging()?;
        for part in parts(places, staging.size()) {
            self.fetch(part, &staging, |_| {})?;
            self.gpu.wait()?;
            self.take(&staging, part.size(), &mut words)?;
        }
        self.give_back(staging);
        Ok(words)
    }

    /// As [`Plan::words`], with the turn anew for each piece.
    async fn words_async<'a>(
        &self,
        places: impl IntoIterator<Item = wgpu::BufferSlice<'a>> + Clone,
    ) -> Result<Vec<u32>> {
        let failed = |error: &dyn Display| Error::Device(format!("{}: reading back: {error}", self.gpu.adapter()));
        let mut words = Vec::with_capacity(words_in(places.clone()));
        let staging = self.staging()?;
        for part in parts(places, staging.size()) {
            let (mapped, ready) = oneshot::channel();
            let told = |outcome| drop(mapped.send(outcome));
            {
                let _turn = self.turn();
                self.fetch(part, &staging, told)?;
            }
            ready.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
            self.take(&staging, part.size(), &mut words)?;
        }
        self.give_back(staging);
        Ok(words)
    }

    /// The buffer to read through, or another one while somebody reads through that. What fails, or is not waited for, keeps it.
    fn staging(&self) -> Result<wgpu::Buffer> {
        let free = self.staging.lock().unwrap_or_else(PoisonError::into_inner).take();
        free.map_or_else(|| staging_buffer(&self.gpu, self.memory.staging), Ok)
    }

    fn give_back(&self, staging: wgpu::Buffer) {
        *self.staging.lock().unwrap_or_else(PoisonError::into_inner) = Some(staging);
    }

    /// Copies bytes into a staging buffer, and maps that.
    fn fetch(
        &self,
        source: wgpu::BufferSlice<'_>,
        staging: &wgpu::Buffer,
        mapped: impl FnOnce(Result<(), wgpu::BufferAsyncError>) + Send + 'static,
    ) -> Result<()> {
        let bytes = source.size();
        self.gpu.submit("reading back", |encoder| {
            encoder.copy_buffer_to_buffer(source.buffer(), source.offset(), staging, 0, Some(bytes));
        })?;
        self.gpu.scoped("reading back", || staging.map_async(wgpu::MapMode::Read, ..bytes, mapped))
    }

    /// Appends what a mapped staging buffer holds, and gives it back.
    fn take(&self, staging: &wgpu::Buffer, bytes: u64, words: &mut Vec<u32>) -> Result<()> {
        let view = staging.get_mapped_range(..bytes);
        let view = view.map_err(|error| Error::Device(format!("{}: reading back: {error}", self.gpu.adapter())))?;
        words.extend(view.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]])));
        drop(view);
        staging.unmap();
        Ok(())
    }
}

/// Records steps in a compute pass of their own, which may have the device note its times.
pub(super) fn record(
    steps: &[Step],
    encoder: &mut wgpu::CommandEncoder,
    timestamp_writes: Option<wgpu::ComputePassTimestampWrites<'_>>,
) {
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
    for step in steps {
        step.record(&mut pass);
    }
}

/// A buffer to read results through.
fn staging_buffer(gpu: &Gpu, size: u64) -> Result<wgpu::Buffer> {
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    gpu.scoped("staging buffer", || {
        let label = Some("staging");
        gpu.device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
    })
}

fn floats(words: Vec<u32>) -> Vec<f32> {
    words.into_iter().map(f32::from_bits).collect()
}

/// The number of words in these places.
fn words_in<'a>(places: impl IntoIterator<Item = wgpu::BufferSlice<'a>>) -> usize {
    places.into_iter().map(|place| place.size() as usize / 4).sum()
}

/// These places in parts of at most so many bytes.
fn parts<'a>(
    places: impl IntoIterator<Item = wgpu::BufferSlice<'a>>,
    most: u64,
) -> impl Iterator<Item = wgpu::BufferSlice<'a>> {
    let parts = move |place: wgpu::BufferSlice<'a>| {
        let starts = (0..place.size().div_ceil(most)).map(move |part| part * most);
        starts.map(move |start| place.slice(start..place.size().min(start.saturating_add(most))))
    };
    places.into_iter().flat_map(parts)
}

/// The words of a tensor of this type.
fn encoded(dtype: DType, value: &Tensor<f32>) -> Cow<'_, [u8]> {
    match value {
        Tensor::Float(array) if dtype == DType::F16 => {
            let mut halves: Vec<f16> = array.data.iter().map(|&value| f16::from_f32(value)).collect();
            // What follows an odd one is no element.
            halves.resize(halves.len().next_multiple_of(2), f16::NAN);
            Cow::Owned(bytemuck::cast_slice(&halves).to_vec())
        }
        Tensor::Float(array) => Cow::Borrowed(bytemuck::cast_slice(&array.data)),
        Tensor::Uint(array) => Cow::Borrowed(bytemuck::cast_slice(&array.data)),
    }
}

/// A tensor of these words.
fn decoded(TensorType { dtype, shape }: TensorType, words: Vec<u32>) -> Tensor<f32> {
    match dtype {
        DType::F32 => Tensor::Float(Array { shape, data: floats(words) }),
        DType::F16 => {
            let halves = bytemuck::cast_slice::<u32, f16>(&words).iter();
            let data = halves.take(shape.elements()).map(|&half| half.to_f32()).collect();
            Tensor::Float(Array { shape, data })
        }
        DType::U32 => Tensor::Uint(Array { shape, data: words }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Real;
    use crate::bench::roof::Copy;
    use crate::models::{Training, UNet, Variant};
    use crate::op::{Bound, DeviceProfile, Fill, Op, Proof};
    use crate::random::Random;
    use std::collections::BTreeSet;
    use std::thread;

    #[test]
    fn dispatches_in_many_launches_give_the_same_bits() {
        let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
        // The widths at which every kernel that can be divided is a candidate.
        let net =
            UNet { variant: Variant::Unet, in_channels: 1, classes: 2, base_channels: 16, depth: 1, dropout: 0.0 };
        let side = net.legal_above(net.shrink() + 4);
        let step = net.build(1, [side; 2]).unwrap().training_step(&Training::default()).unwrap();
        let mut divided = BTreeSet::new();
        for candidate in 0..4 {
            let plan = |longest_submit| {
                let options = PlanOptions { candidate: Some(candidate), longest_submit, ..PlanOptions::default() };
                let plan = Plan::new(&gpu, &step.graph, options).unwrap();
                plan.write_bank(Bank::Parameters, &step.graph.initial_parameters(3)).unwrap();
                let mut random = Random::new(5, 0);
                for node in step.graph.inputs() {
                    let fill = if node == step.rates { Fill::Constant(0.01) } else { Fill::Positive };
                    plan.write(node, &fill.draw(&step.graph.node(node).tensor_type, &mut random)).unwrap();
                }
                plan
            };
            let bits = |plan: &Plan| {
                let banks = [Bank::Gradients, Bank::Parameters].map(|bank| plan.read_bank(bank).unwrap());
                banks.map(|values| values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
            };
            let longest = Duration::from_micros(10);
            let (whole, cut) = (plan(LONGEST_SUBMIT), plan(longest));
            // As if each piece had taken three times as long as it may.
            cut.pace.settle(&vec![3 * longest; cut.pace.estimated().len()]);
            whole.run().unwrap();
            cut.run().unwrap();
            assert_eq!(bits(&cut), bits(&whole), "candidate {candidate}");
            whole.run().unwrap();
            gpu.submit("a host's", |encoder| cut.record_into(encoder)).unwrap();
            assert_eq!(bits(&cut), bits(&whole), "candidate {candidate}, recorded by a host");
            let kernels: Vec<&str> = cut.dispatches().map(|(_, dispatch)| dispatch.kernel.path).collect();
            divided.extend(cut.pace.settled().unwrap().iter().filter_map(|piece| match piece {
                Piece::Workgroups(dispatch, _) => Some(kernels[*dispatch]),
                Piece::Dispatches(_) => None,
            }));
        }
        assert!(divided.len() >= 8, "{divided:?}");
        if gpu.profile().subgroup_size.is_some_and(|size| size.is_multiple_of(8)) && gpu.profile().int64 {
            for product in ["conv2d/winograd_product_subgroup", "conv2d/winograd_grad_product_subgroup"] {
                assert!(divided.contains(product), "{product} is not among {divided:?}");
            }
        }
    }

    /// A ReLU that is said to take a slow device 0.2 s, with this proof.
    #[derive(Debug)]
    struct Long(Option<Proof>);

    impl Op for Long {
        fn name(&self) -> &'static str {
            "long"
        }

        fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
            Ok(inputs[0].clone())
        }

        fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
            vec![inputs[0].clone()]
        }

        fn candidates(&self, _: &[TensorType], output: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
            let dispatch = Dispatch {
                kernel: crate::kernel!("relu/forward"),
                constants: vec![],
                bindings: vec![Binding::Input(0), Binding::Output],
                params: vec![("count", output.shape.elements().into())],
                workgroups: [1, 1, 1],
            };
            vec![dispatch.into()]
        }

        fn proof(&self) -> Option<Proof> {
            self.0
        }

        fn flops(&self, _: &[TensorType], _: &TensorType) -> u64 {
            10_000_000_000
        }

        fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
            Bound::Exact
        }
    }

    #[test]
    fn how_seldom_a_host_polls_makes_no_device_slow() {
        let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
        if !gpu.adapter().timestamps {
            eprintln!("{} has no clock to tell by", gpu.adapter());
            return;
        }
        let mut graph = Graph::new();
        let x = graph.input("x", TensorType::f32([64]).unwrap());
        let y = graph.apply("y", Long(None), &[x]).unwrap();
        let z = graph.apply("z", Long(None), &[y]).unwrap();
        graph.mark_output("z", z).unwrap();
        let options = PlanOptions { longest_submit: Duration::from_millis(300), ..PlanOptions::default() };
        let plan = Plan::new(&gpu, &graph, options).unwrap();
        assert_eq!(plan.pace.estimated().len(), 2);
        thread::scope(|scope| {
            let run = scope.spawn(|| pollster::block_on(plan.run_async()));
            while !run.is_finished() {
                thread::sleep(Duration::from_millis(250));
                gpu.device.poll(wgpu::PollType::Poll).unwrap();
            }
            run.join().unwrap().unwrap();
        });
        assert_eq!(plan.pace.settled().map(<[Piece]>::len), Some(1), "both together are short");
    }

    #[test]
    fn a_proof_counts_for_the_op_that_it_is_of_unless_all_is_to_be_checked() {
        let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
        let mut graph = Graph::new();
        let x = graph.input("x", TensorType::f32([64]).unwrap());
        let proofs = [None, Some(Proof::of::<Copy>()), Some(Proof::of::<Long>())];
        let nodes = proofs.map(|proof| graph.apply("y", Long(proof), &[x]).unwrap());
        for (position, node) in nodes.into_iter().enumerate() {
            graph.mark_output(&position.to_string(), node).unwrap();
        }
        let indices = |gpu: &Gpu| {
            let plan = Plan::new(gpu, &graph, PlanOptions::default()).unwrap();
            let dispatches: BTreeMap<usize, &Dispatch> = plan.dispatches().collect();
            nodes.map(|node| plan.indices(node.index(), dispatches[&node.index()]))
        };
        assert_eq!(indices(&gpu), [Indices::Checked, Indices::Checked, Indices::Proved]);
        assert_eq!(indices(&gpu.with_bounds_checks()), [(); 3].map(|()| Indices::Checked));
    }

    #[test]
    fn running_creates_and_compiles_nothing() {
        let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
        let net = UNet { variant: Variant::Unet, in_channels: 1, classes: 2, base_channels: 2, depth: 1, dropout: 0.0 };
        let step = net.build(1, [net.legal_above(30); 2]).unwrap().training_step(&Training::default()).unwrap();
        let plan = Plan::new(&gpu, &step.graph, PlanOptions::default()).unwrap();
        let alive = || {
            let counters = gpu.device.get_internal_counters().hal;
            let (buffers, bytes) = (counters.buffers.read(), counters.buffer_memory.read());
            let objects = [buffers, bytes, counters.bind_groups.read(), counters.compute_pipelines.read()];
            // Where the driver's memory is not managed by wgpu there is no report.
            let report = gpu.device.generate_allocator_report();
            (objects, report.map(|report| (report.allocations.len(), report.total_allocated_bytes)))
        };
        plan.run().unwrap();
        plan.wait().unwrap();
        let warm = alive();
        let planned = plan.transient.len() + plan.inputs.len() + plan.banks.len() + 2;
        assert!(warm.0[0] >= planned as isize, "the buffers of the plan are counted: {warm:?}");
        for _ in 0..200 {
            plan.run().unwrap();
            // Whatever a run had created would be alive as long as the device needs it.
            assert_eq!(alive(), warm);
            plan.wait().unwrap();
            assert_eq!(alive(), warm);
        }
    }
}
