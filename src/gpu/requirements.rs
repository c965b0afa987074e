//! What a graph asks of a device: known before there is one, so that a host program can request it.

use super::choices::Choices;
use super::device::{HALF, MATRICES, USED, matrix_side, profile_of};
use super::kernel::Interface;
use super::memory::{MemoryPlan, Span};
use super::source::{Pieces, compose};
use crate::error::{Error, Result};
use crate::graph::{Graph, Node};
use crate::shape::DType;
use std::collections::BTreeSet;

macro_rules! limits {
    ($($(#[$text:meta])* $limit:ident = $field:ident, $unit:literal;)*) => {
        /// A limit of devices that buffers or kernels can come up against.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Limit {
            $($(#[$text])* $limit,)*
        }

        impl Limit {
            /// The field of [`wgpu::Limits`].
            pub fn field(self) -> &'static str {
                match self {
                    $(Self::$limit => stringify!($field),)*
                }
            }

            /// What it counts.
            pub(super) fn unit(self) -> &'static str {
                match self {
                    $(Self::$limit => $unit,)*
                }
            }

            /// Its value.
            pub fn of(self, limits: &wgpu::Limits) -> u64 {
                match self {
                    $(Self::$limit => limits.$field.into(),)*
                }
            }

            fn raise(self, limits: &mut wgpu::Limits, amount: u64) {
                match self {
                    // What exceeds the field's type, no device has.
                    $(Self::$limit => limits.$field = limits.$field.max(amount.try_into().unwrap_or_default()),)*
                }
            }
        }
    };
}

limits! {
    /// Bytes of one buffer.
    Buffer = max_buffer_size, "bytes in one buffer";
    /// Bytes that a kernel sees of a buffer.
    Binding = max_storage_buffer_binding_size, "bytes in one binding";
    /// Storage buffers of a kernel.
    StorageBuffers = max_storage_buffers_per_shader_stage, "storage buffers per kernel";
    /// Invocations in a workgroup.
    Invocations = max_compute_invocations_per_workgroup, "invocations per workgroup";
    /// Bytes that the invocations of a workgroup share.
    WorkgroupMemory = max_compute_workgroup_storage_size, "bytes of workgroup memory";
    /// Workgroups of a dispatch along one dimension.
    Workgroups = max_compute_workgroups_per_dimension, "workgroups along one dimension";
}

/// So much of a limit that something needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The limit.
    pub limit: Limit,
    /// Its least value.
    pub amount: u64,
    /// What needs it, such as a tensor with its shape, or a kernel.
    pub of: String,
}

/// What a graph, compiled for an adapter, asks of the device: bindings that hold its tensors whole, or the largest that the adapter has.
/// A device of smaller ones runs it, too, as long as it can bind the pieces that tensors are in then.
///
/// ```no_run
/// # fn open(adapter: &wgpu::Adapter, graph: &tilewise::Graph) -> Result<(), Box<dyn std::error::Error>> {
/// let needs = tilewise::gpu::Requirements::of(graph, adapter)?;
/// let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
///     required_features: needs.features,
///     required_limits: needs.raise(wgpu::Limits::default()),
///     ..Default::default()
/// }))?;
/// let gpu = tilewise::Gpu::from_device(adapter, device, queue);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirements {
    /// Features of the adapter that make kernels faster, and timestamps to [profile](super::Plan::profile) them; a device without these
    /// runs the graph, too. Besides, where the graph stores tensors as `f16`, the feature for that, which is needed.
    pub features: wgpu::Features,
    /// The features of the adapter for kernels on matrix units, where the graph stores tensors as `f16`. They are experimental in wgpu, and only
    /// [`Choices`] take such kernels: a host that wants them adds these to its features, and to its `experimental_features` its consent.
    pub experimental: wgpu::Features,
    /// The least of each limit, with what needs it.
    pub needs: Vec<Need>,
}

impl Requirements {
    /// What `graph` asks of a device of this adapter with [`Requirements::features`].
    ///
    /// # Errors
    /// When an op offers no kernel for the adapter, the graph stores tensors as `f16` and the adapter lacks the feature for that, or a
    /// kernel's text cannot be read.
    pub fn of(graph: &Graph, adapter: &wgpu::Adapter) -> Result<Self> {
        let computed = graph.fused();
        let (mut features, mut experimental) = (adapter.features() & USED, wgpu::Features::empty());
        match half_of(&computed) {
            Some(lacking) if !features.contains(HALF) => {
                return Err(Error::Device(format!("{}: {lacking}", adapter.get_info().name)));
            }
            Some(_) if matrix_side(adapter, adapter.features()).is_some() => experimental = MATRICES,
            Some(_) => {}
            None => features.remove(HALF),
        }
        let profile = profile_of(adapter, features, &adapter.limits());
        let memory = MemoryPlan::new(&computed, &profile, &Choices::default(), false)?;
        let mut needs = of_buffers(&computed, &memory);
        needs.extend(of_kernels(&memory)?);
        let mut largest: Vec<Need> = Vec::new();
        for need in needs {
            match largest.iter_mut().find(|other| other.limit == need.limit) {
                Some(other) if other.amount >= need.amount => {}
                Some(other) => *other = need,
                None => largest.push(need),
            }
        }
        Ok(Self { features, experimental, needs: largest })
    }

    /// These limits, raised where the graph needs more.
    #[must_use]
    pub fn raise(&self, mut limits: wgpu::Limits) -> wgpu::Limits {
        for need in &self.needs {
            need.limit.raise(&mut limits, need.amount);
        }
        limits
    }
}

/// What to say of the first tensor stored as `f16` where there is no such feature; none if there is no such tensor.
pub(super) fn half_of(graph: &Graph) -> Option<String> {
    let (nodes, needed) = (graph.nodes().iter(), graph.needed());
    let half = nodes.zip(needed).find(|(node, needed)| *needed && node.tensor_type.dtype == DType::F16);
    half.map(|(Node { name, tensor_type, .. }, _)| {
        format!("`{name}` ({tensor_type}) needs 16-bit floats, the feature SHADER_F16, which is not there; use `--precision f32`")
    })
}

/// What buffers, bindings and grids of a planned graph need.
pub(super) fn of_buffers(graph: &Graph, memory: &MemoryPlan) -> Vec<Need> {
    let mut needs = Vec::new();
    let bound = |needs: &mut Vec<Need>, of: String, spans: &[Span]| {
        let Some(amount) = spans.iter().map(|span| span.bytes).max() else { return };
        let of = if spans.len() == 1 { of } else { format!("{of}, in {} pieces,", spans.len()) };
        needs.extend([Limit::Buffer, Limit::Binding].map(|limit| Need { limit, amount, of: of.clone() }));
    };
    for (index, node) in graph.nodes().iter().enumerate() {
        bound(&mut needs, format!("`{}` ({})", node.name, node.tensor_type), &memory.nodes[index]);
        for spans in &memory.workspaces[index] {
            bound(&mut needs, format!("the scratch space of `{}`", node.name), spans);
        }
        for dispatch in memory.candidates[index].iter().flat_map(|candidate| &candidate.dispatches) {
            let of = format!("kernel {} for `{}`", dispatch.kernel.path, node.name);
            let amount = dispatch.workgroups.iter().copied().max().unwrap_or(0).into();
            needs.push(Need { limit: Limit::Workgroups, amount, of: of.clone() });
            let pieces = memory.pieces(graph, index, dispatch);
            let is_whole = pieces.iter().all(|pieces| matches!(pieces, Pieces::From(places) if places.is_empty()));
            let of =
                if is_whole { of } else { format!("{of}, with tensors in pieces of up to {} bytes,", memory.piece) };
            let amount = pieces.iter().map(Pieces::count).sum::<usize>() as u64;
            needs.push(Need { limit: Limit::StorageBuffers, amount, of });
        }
    }
    if let Some(amount) = memory.bank_pieces().max() {
        needs.push(Need { limit: Limit::Buffer, amount, of: "the parameter bank".into() });
    }
    needs
}

/// What the kernels of a planned graph need.
pub(super) fn of_kernels(memory: &MemoryPlan) -> Result<Vec<Need>> {
    let dispatches = memory.candidates.iter().flatten().flat_map(|candidate| &candidate.dispatches);
    let (mut needs, mut seen) = (Vec::new(), BTreeSet::new());
    for dispatch in dispatches {
        let path = dispatch.kernel.path;
        if seen.insert((path, &dispatch.constants)) {
            let interface = Interface::of(path, &compose(path, dispatch.kernel.source, &dispatch.constants)?)?;
            needs.extend(of_kernel(path, &interface));
        }
    }
    Ok(needs)
}

/// What a kernel needs, whatever it is applied to.
pub(super) fn of_kernel(path: &str, interface: &Interface) -> Vec<Need> {
    let of = format!("kernel {path}");
    [
        (Limit::Invocations, interface.workgroup_size.iter().map(|&size| u64::from(size)).product()),
        (Limit::WorkgroupMemory, interface.workgroup_bytes),
    ]
    .map(|(limit, amount)| Need { limit, amount, of: of.clone() })
    .into()
}
