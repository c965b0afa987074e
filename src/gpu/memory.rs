//! Which buffer each tensor lives in: decided from the graph alone, before any device is touched.

mod joint;

use super::choices::Choices;
use super::source::Pieces;
use crate::error::{Error, Result};
use crate::graph::{Bank, Graph, Node, NodeId, NodeKind, Placement};
use crate::op::{Binding, ByImage, Candidate, DeviceProfile, Dispatch, STORAGE_ALIGNMENT, pieces};
use crate::shape::TensorType;
use crate::split;
use serde::Serialize;
use std::fmt;
use std::ops::Range;

/// Uniform slices start at multiples of this many bytes, which every device accepts.
pub(crate) const UNIFORM_ALIGNMENT: u64 = 256;

/// Reading back goes through a buffer of at most this size, piece by piece.
const STAGING_BYTES: u64 = 16 << 20;

/// Space behind every tensor and bank of a guarded plan, and every piece of one, to notice reads and writes out of bounds.
pub(crate) const GUARD_BYTES: u64 = 256;

/// Every buffer that a plan will create, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MemoryPlan {
    /// Buffers that nodes and scratch space share, each by tensors that live at different times.
    pub transient: Vec<u64>,
    /// A buffer for each input and constant, or for each piece of one.
    pub inputs: Vec<u64>,
    /// The bytes of each bank: in one buffer, or in pieces.
    pub bank: u64,
    /// The number of banks: parameters, gradients, optimiser state.
    pub banks: u64,
    /// The settings of all dispatches.
    pub uniform: u64,
    /// The buffer through which results are read.
    pub staging: u64,
    /// What the transient tensors would take if none shared a buffer.
    pub unshared: u64,
    /// Space behind each tensor and bank of a guarded plan; 0 otherwise.
    #[serde(skip)]
    pub(crate) guard: u64,
    /// The bytes of the largest piece: what is larger is in several.
    #[serde(skip)]
    pub(crate) piece: u64,
    /// Where each node is, piece by piece; nowhere if nothing needs it.
    #[serde(skip)]
    pub(crate) nodes: Vec<Vec<Span>>,
    /// Where each node's scratch buffers are.
    #[serde(skip)]
    pub(crate) workspaces: Vec<Vec<Vec<Span>>>,
    /// For each node that has no memory of its own, the nodes that it is in.
    #[serde(skip)]
    parts: Vec<Option<[NodeId; 2]>>,
    /// For each node whose kernel computes a gradient as well, the node of that.
    #[serde(skip)]
    pub(super) gradients: Vec<Option<NodeId>>,
    /// The transient bytes that are alive while each node is computed.
    #[serde(skip)]
    pub(crate) live: Vec<u64>,
    /// The chosen candidate of each node that is computed by a kernel.
    #[serde(skip)]
    pub(crate) candidates: Vec<Option<Candidate>>,
}

/// One of a plan's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Buffer {
    Transient(usize),
    Input(usize),
    /// A bank, and which of its pieces.
    Bank(Bank, usize),
}

/// A tensor's bytes, or those of a piece of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) buffer: Buffer,
    pub(crate) offset: u64,
    /// Without a guard.
    pub(crate) bytes: u64,
}

impl Span {
    /// How far behind the last place where storage can be bound it begins: images of a tensor may.
    pub(crate) fn behind(&self) -> u64 {
        self.offset % STORAGE_ALIGNMENT
    }
}

/// From the node that computes a tensor to its last use.
#[derive(Clone, Copy, Debug)]
struct Life {
    first: usize,
    last: usize,
}

/// The claim on transient memory of a tensor, or of a piece of it.
struct Claim {
    bytes: u64,
    first: usize,
    last: usize,
    /// The node, and which of its scratch buffers, if it is one.
    owner: (usize, Option<usize>),
    /// Which of its pieces.
    piece: usize,
}

impl MemoryPlan {
    /// Plans a graph for a device, with the chosen candidate of each op.
    ///
    /// Transient tensors are placed largest first into the first buffer whose other tensors are not alive at the same time,
    /// so a buffer is as large as its first tensor. A tensor is alive from the node that computes it to its last use. What is larger than
    /// the device's largest binding is placed in pieces, of which all but the last are as large as that admits. Concatenations of a
    /// [fused](Graph::fused) graph have no place but that of their parts. Ops that would bind more pieces at once than the device can are computed
    /// some images at a time, as many as it can bind, where they take images alone or sum over them ([`ByImage`]); pieces
    /// of what they take apart begin with an image.
    ///
    /// # Errors
    /// When an op offers no candidate for the device.
    pub fn new(graph: &Graph, device: &DeviceProfile, choices: &Choices, guarded: bool) -> Result<Self> {
        let guard = if guarded { GUARD_BYTES } else { 0 };
        // A binding has to have room for a guard, too.
        let device = &DeviceProfile { largest_binding: device.largest_binding.saturating_sub(guard), ..*device };
        let mut at_once = vec![None; graph.nodes().len()];
        loop {
            let plan = Self::with(graph, device, choices, guard, &at_once)?;
            // Where concatenations are made that were not, others may bind more than before.
            let mut settled = true;
            for (node, at_once) in at_once.iter_mut().enumerate() {
                if let Some(fewer) = plan.fewer(graph, device, choices, node, *at_once) {
                    (*at_once, settled) = (Some(fewer), false);
                }
            }
            if settled {
                return Ok(plan);
            }
        }
    }

    /// Of a node that binds more than the device can, the most images at a time that it can bind, if it can any; fewer than now.
    fn fewer(
        &self,
        graph: &Graph,
        device: &DeviceProfile,
        choices: &Choices,
        node: usize,
        at_once: Option<usize>,
    ) -> Option<usize> {
        if self.binds(graph, device, node, self.candidates[node].as_ref()?) {
            return None;
        }
        let Node { kind: NodeKind::Op { op, inputs }, tensor_type, .. } = &graph.nodes()[node] else { return None };
        let types = graph.types(inputs);
        let batch = split::batch(op.as_ref(), &types, tensor_type)?;
        let binds = |count: usize| {
            let offered = split::candidates(op.as_ref(), &types, tensor_type, device, count);
            let chosen = choices.among(op.as_ref(), &types, &offered)?;
            Some(self.binds(graph, device, node, &offered[chosen]))
        };
        let most = (1..at_once.unwrap_or(batch)).rev().find(|&count| binds(count) == Some(true));
        // Pieces that begin with an image, as they will, are fewer.
        most.or_else(|| (at_once.is_none() && batch > 1 && binds(1).is_some()).then_some(1))
    }

    /// Whether the device can bind what each dispatch of a candidate for a node does, where each of the node's tensors is.
    pub(crate) fn binds(&self, graph: &Graph, device: &DeviceProfile, node: usize, candidate: &Candidate) -> bool {
        let binds = |dispatch: &Dispatch| {
            let pieces = |(position, &binding): (usize, &Binding)| {
                let count = match binding {
                    Binding::Workspace(index) => {
                        let elements = candidate.workspace.get(index).copied().unwrap_or(0);
                        pieces(0, 4 * elements as u64, self.piece).count()
                    }
                    _ => self.bound(graph, node, binding).len(),
                };
                let again = count > 1 && dispatch.bindings[..position].contains(&binding);
                if again { 0 } else { count }
            };
            dispatch.bindings.iter().enumerate().map(pieces).sum::<usize>() <= device.storage_buffers as usize
        };
        candidate.dispatches.iter().all(binds)
    }

    /// The plan with so many images at a time of some nodes, for bindings that have room for a guard, too.
    fn with(
        graph: &Graph,
        device: &DeviceProfile,
        choices: &Choices,
        guard: u64,
        at_once: &[Option<usize>],
    ) -> Result<Self> {
        let (needed, placements) = (graph.needed(), graph.placements());
        let count = graph.nodes().len();
        let mut plan = Self {
            guard,
            piece: device.piece_bytes(),
            nodes: vec![Vec::new(); count],
            workspaces: vec![Vec::new(); count],
            parts: vec![None; count],
            gradients: vec![None; count],
            candidates: vec![None; count],
            bank: 4 * graph.bank_elements() as u64,
            banks: graph.banks().len() as u64,
            ..Self::default()
        };
        let mut lives: Vec<Life> = (0..count).map(|index| Life { first: index, last: index }).collect();
        for (index, node) in graph.nodes().iter().enumerate().filter(|&(index, _)| needed[index]) {
            if let NodeKind::Op { op, inputs } = &node.kind {
                for input in inputs {
                    lives[input.index()].last = index;
                }
                let types = graph.types(inputs);
                let mut candidates = match at_once[index] {
                    None => op.offered(&types, &node.tensor_type, device),
                    Some(count) => split::candidates(op.as_ref(), &types, &node.tensor_type, device, count),
                };
                let Some(choice) = choices.among(op.as_ref(), &types, &candidates) else {
                    let problem = "no kernel fits this device".to_owned();
                    return Err(Error::Graph { op: op.name().into(), node: node.name.clone(), problem });
                };
                let candidate = candidates.swap_remove(choice);
                plan.candidates[index] = Some(candidate);
            }
        }
        for (_, node) in graph.outputs() {
            lives[node.index()].last = count;
        }
        plan.join(graph, device, &placements, &mut lives);
        let (mut claims, largest) = (Vec::new(), plan.piece);
        let taken_apart = taken_apart(graph, at_once);
        for (index, node) in graph.nodes().iter().enumerate().filter(|&(index, _)| needed[index]) {
            let whole = node.tensor_type.size_bytes();
            let of_node =
                if taken_apart[index] { by_image(&node.tensor_type, largest) } else { lengths(whole, largest) };
            let mut claim = |pieces: Vec<u64>, Life { first, last }, scratch: Option<usize>| {
                let pieces = pieces.into_iter().enumerate();
                let claim = |(piece, bytes)| Claim { bytes, first, last, owner: (index, scratch), piece };
                claims.extend(pieces.map(claim));
            };
            match placements[index] {
                Placement::Transient if plan.parts[index].is_some() => {}
                Placement::Transient => claim(of_node, lives[index], None),
                Placement::Input | Placement::Constant => {
                    for bytes in of_node {
                        plan.nodes[index].push(Span { buffer: Buffer::Input(plan.inputs.len()), offset: 0, bytes });
                        plan.inputs.push(bytes + guard);
                    }
                }
                Placement::Bank(bank, element) => {
                    plan.nodes[index] = pieces(4 * element as u64, whole, largest)
                        .map(|(piece, offset, bytes)| Span { buffer: Buffer::Bank(bank, piece), offset, bytes })
                        .collect();
                }
            }
            let now = Life { first: index, last: index };
            let workspace = plan.candidates[index].as_ref().map_or(&[][..], |candidate| &candidate.workspace);
            plan.workspaces[index] = vec![Vec::new(); workspace.len()];
            for (scratch, &elements) in workspace.iter().enumerate() {
                claim(lengths(4 * elements as u64, largest), now, Some(scratch));
            }
        }
        plan.live = vec![0; count];
        for Claim { bytes, first, last, .. } in &claims {
            plan.live[*first..(last + 1).min(count)].iter_mut().for_each(|live| *live += bytes + guard);
        }
        plan.place(claims);
        for index in 0..count {
            if let Some(parts) = plan.parts[index] {
                plan.nodes[index] = parts.iter().flat_map(|part| plan.nodes[part.index()].clone()).collect();
            }
        }
        let dispatches = plan.candidates.iter().flatten().flat_map(|candidate| &candidate.dispatches);
        let uniform = dispatches.map(|dispatch| (4 * dispatch.params.len() as u64).next_multiple_of(UNIFORM_ALIGNMENT));
        // Buffers cannot be empty.
        plan.uniform = uniform.sum::<u64>().max(UNIFORM_ALIGNMENT);
        let readable = graph.outputs().iter().map(|&(_, node)| graph.node(node).tensor_type.size_bytes() + guard);
        plan.staging = readable.chain([plan.bank, 4]).max().unwrap_or(4).min(STAGING_BYTES);
        Ok(plan)
    }

    /// Gives every claim a buffer. In a guarded plan nothing shares, so that each tensor's surroundings can be inspected.
    fn place(&mut self, mut claims: Vec<Claim>) {
        self.unshared = claims.iter().map(|claim| claim.bytes + self.guard).sum();
        claims.sort_by_key(|claim| (std::cmp::Reverse(claim.bytes), claim.owner, claim.piece));
        let mut tenants: Vec<Vec<(usize, usize)>> = Vec::new();
        let mut spans = Vec::new();
        for claim in claims {
            let free = |lives: &Vec<(usize, usize)>| {
                self.guard == 0 && lives.iter().all(|&(first, last)| claim.last < first || last < claim.first)
            };
            let buffer = tenants.iter().position(free).unwrap_or_else(|| {
                tenants.push(Vec::new());
                self.transient.push(claim.bytes + self.guard);
                tenants.len() - 1
            });
            tenants[buffer].push((claim.first, claim.last));
            let span = Span { buffer: Buffer::Transient(buffer), offset: 0, bytes: claim.bytes };
            spans.push((claim.owner, claim.piece, span));
        }
        spans.sort_by_key(|&(owner, piece, _)| (owner, piece));
        for (owner, _, span) in spans {
            match owner {
                (node, None) => self.nodes[node].push(span),
                (node, Some(scratch)) => self.workspaces[node][scratch].push(span),
            }
        }
    }

    /// The node that a dispatch of a node binds, unless it binds scratch space.
    fn node_of(&self, graph: &Graph, node: usize, binding: Binding) -> Option<usize> {
        match (binding, &graph.nodes()[node].kind) {
            (Binding::Output | Binding::OutputImages(_), _) => Some(node),
            (Binding::Gradient, _) => self.gradients[node].map(NodeId::index),
            (
                Binding::Input(index) | Binding::InputImages(index, _) | Binding::Piece(index, _),
                NodeKind::Op { inputs, .. },
            ) => inputs.get(index).map(|input| input.index()),
            _ => None,
        }
    }

    /// Where what a node's dispatch binds is; nowhere if its op has no such thing.
    pub(crate) fn bound(&self, graph: &Graph, node: usize, binding: Binding) -> Vec<Span> {
        let tensor = self.node_of(graph, node, binding);
        let spans = match binding {
            Binding::Workspace(index) => self.workspaces[node].get(index),
            _ => tensor.and_then(|tensor| self.nodes.get(tensor)),
        };
        let spans = spans.map_or(&[][..], Vec::as_slice);
        match (binding, binding.images(), tensor) {
            (Binding::Piece(_, piece), ..) => spans.get(piece).copied().into_iter().collect(),
            (_, Some(images), Some(tensor)) => cut(spans, images.bytes_of(&graph.nodes()[tensor].tensor_type)),
            _ => spans.to_vec(),
        }
    }

    /// How each of the things that a node's dispatch binds is in pieces.
    pub(crate) fn pieces(&self, graph: &Graph, node: usize, dispatch: &Dispatch) -> Vec<Pieces> {
        let bindings = &dispatch.bindings;
        let pieces = |(position, &binding): (usize, &Binding)| {
            let spans = self.bound(graph, node, binding);
            let earlier = bindings[..position].iter().position(|&earlier| earlier == binding);
            if let Some(earlier) = earlier.filter(|_| spans.len() > 1) {
                return Pieces::Of(earlier);
            }
            if let Some(bound) = self.node_of(graph, node, binding)
                && let Some(beside) = self.beside(graph, bound)
            {
                return Pieces::Beside(beside);
            }
            let ends = spans.iter().scan(0, |end, span| {
                *end += span.bytes;
                Some(*end)
            });
            let mut places: Vec<u64> = ends.collect();
            places.pop();
            match spans.first().map_or(0, Span::behind) {
                0 => Pieces::From(places),
                behind => Pieces::Images(behind, places),
            }
        };
        bindings.iter().enumerate().map(pieces).collect()
    }

    /// The bytes of each of a bank's buffers.
    pub(crate) fn bank_pieces(&self) -> impl Iterator<Item = u64> {
        let guard = self.guard;
        pieces(0, self.bank, self.piece).map(move |(_, _, bytes)| bytes + guard)
    }

    /// The bytes of all buffers together.
    pub fn total_bytes(&self) -> u64 {
        let banks = self.bank_pieces().sum::<u64>() * self.banks;
        self.transient.iter().chain(&self.inputs).sum::<u64>() + banks + self.uniform + self.staging
    }
}

/// For each node whether another takes some of its images at a time, or its own kernels make some at a time.
fn taken_apart(graph: &Graph, at_once: &[Option<usize>]) -> Vec<bool> {
    let mut taken_apart = vec![false; at_once.len()];
    for (node, _) in at_once.iter().enumerate().filter(|(_, at_once)| at_once.is_some()) {
        let NodeKind::Op { op, inputs } = &graph.nodes()[node].kind else { continue };
        for input in op.by_image().inputs().iter().filter_map(|&index| inputs.get(index)) {
            taken_apart[input.index()] = true;
        }
        taken_apart[node] |= matches!(op.by_image(), ByImage::Alone(_));
    }
    taken_apart
}

/// The bytes of each piece of so many, where a piece has at most so many.
fn lengths(bytes: u64, most: u64) -> Vec<u64> {
    pieces(0, bytes, most).map(|(_, _, bytes)| bytes).collect()
}

/// The bytes of each piece of a tensor of which some images are taken at a time, so that these are in as few pieces as can be: pieces begin with an
/// image, where elements of kernels do.
fn by_image(tensor: &TensorType, largest: u64) -> Vec<u64> {
    let (bytes, batch) = (tensor.size_bytes(), tensor.shape.extents()[0]);
    let image = bytes / batch as u64;
    match largest / image.max(1) {
        _ if bytes <= largest || !image.is_multiple_of(STORAGE_ALIGNMENT) => lengths(bytes, largest),
        0 => lengths(image, largest).repeat(batch),
        images => lengths(bytes, images * image),
    }
}

/// Where these bytes are of what is in these places.
fn cut(spans: &[Span], bytes: Range<u64>) -> Vec<Span> {
    let mut begin = 0;
    let part = |span: &Span| {
        let [start, end] = [bytes.start, bytes.end].map(|byte| byte.clamp(begin, begin + span.bytes) - begin);
        begin += span.bytes;
        (start < end).then(|| Span { offset: span.offset + start, bytes: end - start, ..*span })
    };
    spans.iter().filter_map(part).collect()
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let transient: u64 = self.transient.iter().sum();
        write!(
            f,
            "{:.1} MiB: {:.1} for parameters, gradients and optimiser state ({} bank(s)), {:.1} for activations in {} shared \
             buffers ({:.1} unshared), {:.1} for inputs, settings and reading back",
            mebibytes(self.total_bytes()),
            mebibytes(self.bank * self.banks),
            self.banks,
            mebibytes(transient),
            self.transient.len(),
            mebibytes(self.unshared),
            mebibytes(self.inputs.iter().sum::<u64>() + self.uniform + self.staging),
        )
    }
}
