//! Which buffer each tensor lives in: decided from the graph alone, before any device is touched.

use super::choices::Choices;
use crate::error::{Error, Result};
use crate::graph::{Bank, Graph, NodeKind, Placement};
use crate::op::{Candidate, DeviceProfile};
use crate::shape::TensorType;
use serde::Serialize;
use std::fmt;

/// Uniform slices start at multiples of this many bytes, which every device accepts.
pub(crate) const UNIFORM_ALIGNMENT: u64 = 256;

/// Reading back goes through a buffer of at most this size, piece by piece.
const STAGING_BYTES: u64 = 16 << 20;

/// Space behind every tensor and bank of a guarded plan, to notice reads and writes out of bounds.
pub(crate) const GUARD_BYTES: u64 = 256;

/// Every buffer that a plan will create, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MemoryPlan {
    /// Buffers that nodes and scratch space share, each by tensors that live at different times.
    pub transient: Vec<u64>,
    /// One buffer for each input and constant.
    pub inputs: Vec<u64>,
    /// One buffer for each bank, all with room for this much.
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
    /// The buffer of each node.
    #[serde(skip)]
    pub(crate) nodes: Vec<Option<Buffer>>,
    /// The transient buffers of each node's scratch space.
    #[serde(skip)]
    pub(crate) workspaces: Vec<Vec<usize>>,
    /// The transient bytes that are alive while each node is computed.
    #[serde(skip)]
    pub(crate) live: Vec<u64>,
    /// The chosen candidate of each node that is computed.
    #[serde(skip)]
    pub(crate) candidates: Vec<Option<Candidate>>,
}

/// Where a node's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Buffer {
    Transient(usize),
    Input(usize),
    /// From this byte of the bank on.
    Bank(Bank, u64),
}

/// A tensor's claim on transient memory.
struct Claim {
    bytes: u64,
    first: usize,
    last: usize,
    /// The node, and which of its scratch buffers, if it is one.
    owner: (usize, Option<usize>),
}

impl MemoryPlan {
    /// Plans a graph for a device, with the chosen candidate of each op.
    ///
    /// Transient tensors are placed largest first into the first buffer whose other tensors are not alive at the same time,
    /// so a buffer is as large as its first tensor. A tensor is alive from the node that computes it to its last use.
    ///
    /// # Errors
    /// When an op offers no candidate for the device.
    pub fn new(graph: &Graph, device: &DeviceProfile, choices: &Choices, guarded: bool) -> Result<Self> {
        let (needed, placements) = (graph.needed(), graph.placements());
        let count = graph.nodes().len();
        let guard = if guarded { GUARD_BYTES } else { 0 };
        let mut plan = Self {
            guard,
            nodes: vec![None; count],
            workspaces: vec![Vec::new(); count],
            candidates: vec![None; count],
            bank: 4 * graph.bank_elements() as u64,
            banks: graph.banks().len() as u64,
            ..Self::default()
        };
        let mut last_use: Vec<usize> = (0..count).collect();
        for (index, node) in graph.nodes().iter().enumerate().filter(|&(index, _)| needed[index]) {
            if let NodeKind::Op { op, inputs } = &node.kind {
                for input in inputs {
                    last_use[input.index()] = index;
                }
                let types: Vec<TensorType> = inputs.iter().map(|&id| graph.node(id).tensor_type.clone()).collect();
                let mut candidates = op.offered(&types, &node.tensor_type, device);
                let Some(choice) = choices.among(op.as_ref(), &types, &candidates) else {
                    let problem = "no kernel fits this device".to_owned();
                    return Err(Error::Graph { op: op.name().into(), node: node.name.clone(), problem });
                };
                let candidate = candidates.swap_remove(choice);
                plan.workspaces[index] = vec![0; candidate.workspace.len()];
                plan.candidates[index] = Some(candidate);
            }
        }
        for (_, node) in graph.outputs() {
            last_use[node.index()] = count;
        }
        let mut claims = Vec::new();
        for (index, node) in graph.nodes().iter().enumerate().filter(|&(index, _)| needed[index]) {
            let bytes = node.tensor_type.size_bytes() + guard;
            match placements[index] {
                Placement::Transient => {
                    claims.push(Claim { bytes, first: index, last: last_use[index], owner: (index, None) });
                }
                Placement::Input | Placement::Constant => {
                    plan.nodes[index] = Some(Buffer::Input(plan.inputs.len()));
                    plan.inputs.push(bytes);
                }
                Placement::Bank(bank, offset) => plan.nodes[index] = Some(Buffer::Bank(bank, 4 * offset as u64)),
            }
            let workspace = plan.candidates[index].iter().flat_map(|candidate| &candidate.workspace).enumerate();
            claims.extend(workspace.map(|(scratch, &elements)| Claim {
                bytes: 4 * elements as u64 + guard,
                first: index,
                last: index,
                owner: (index, Some(scratch)),
            }));
        }
        plan.live = vec![0; count];
        for Claim { bytes, first, last, .. } in &claims {
            plan.live[*first..(last + 1).min(count)].iter_mut().for_each(|live| *live += bytes);
        }
        plan.place(claims);
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
        self.unshared = claims.iter().map(|claim| claim.bytes).sum();
        claims.sort_by_key(|claim| (std::cmp::Reverse(claim.bytes), claim.owner));
        let mut tenants: Vec<Vec<(usize, usize)>> = Vec::new();
        for claim in claims {
            let free = |lives: &Vec<(usize, usize)>| {
                self.guard == 0 && lives.iter().all(|&(first, last)| claim.last < first || last < claim.first)
            };
            let buffer = tenants.iter().position(free).unwrap_or_else(|| {
                tenants.push(Vec::new());
                self.transient.push(claim.bytes);
                tenants.len() - 1
            });
            tenants[buffer].push((claim.first, claim.last));
            match claim.owner {
                (node, None) => self.nodes[node] = Some(Buffer::Transient(buffer)),
                (node, Some(scratch)) => self.workspaces[node][scratch] = buffer,
            }
        }
    }

    /// The bytes of all buffers together.
    pub fn total_bytes(&self) -> u64 {
        let banks = (self.bank + self.guard) * self.banks;
        self.transient.iter().chain(&self.inputs).sum::<u64>() + banks + self.uniform + self.staging
    }
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
