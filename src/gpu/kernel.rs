//! From WGSL text to a pipeline: what the text declares is read back and held against what the host assumes.

use super::consent;
use super::device::Gpu;
use super::requirements::of_kernel;
use super::source::{Beside, Pieces, compose, in_pieces, trapped};
use crate::error::{Error, Result};
use crate::op::{Binding, Dispatch, Kernel, Param};
use std::collections::HashMap;
use std::iter::repeat_n;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// What a kernel's text declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// For each storage binding in order, whether the kernel may write it.
    pub writable: Vec<bool>,
    /// For each storage binding in order, the bytes from one element to the next; 0 if it is no array.
    pub strides: Vec<u64>,
    /// The fields of the uniform `Params`, the last binding, if there is one.
    pub params: Vec<(String, naga::Scalar)>,
    /// Invocations in a workgroup.
    pub workgroup_size: [u32; 3],
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u64,
}

impl Interface {
    /// Parses WGSL and lists its bindings, which must be `@group(0)`, numbered from 0 without gaps, storage first.
    ///
    /// # Errors
    /// When the text does not parse, or is not laid out so.
    pub fn of(path: &str, wgsl: &str) -> Result<Self> {
        let fail = |problem: String| Error::Device(format!("kernel {path}: {problem}"));
        let module = naga::front::wgsl::parse_str(wgsl).map_err(|error| fail(error.emit_to_string(wgsl)))?;
        let [entry] = module.entry_points.as_slice() else {
            return Err(fail("expected exactly one entry point".into()));
        };
        let mut bindings: Vec<_> = module
            .global_variables
            .iter()
            .filter_map(|(_, variable)| variable.binding.map(|binding| (binding.group, binding.binding, variable)))
            .collect();
        bindings.sort_by_key(|&(group, binding, _)| (group, binding));
        let shared =
            module.global_variables.iter().filter(|(_, variable)| variable.space == naga::AddressSpace::WorkGroup);
        // As WebGPU counts them: each at a multiple of 16.
        let workgroup_bytes = shared
            .map(|(_, variable)| u64::from(module.types[variable.ty].inner.size(module.to_ctx())).next_multiple_of(16))
            .sum();
        let workgroup_size = entry.workgroup_size;
        let (writable, strides, params) = (Vec::new(), Vec::new(), Vec::new());
        let mut interface = Self { writable, strides, params, workgroup_size, workgroup_bytes };
        let last = bindings.len().saturating_sub(1);
        for (position, &(group, binding, variable)) in bindings.iter().enumerate() {
            if group != 0 || binding as usize != position {
                return Err(fail(format!("binding {position} is declared as @group({group}) @binding({binding})")));
            }
            match (variable.space, &module.types[variable.ty].inner) {
                (naga::AddressSpace::Storage { access }, inner) => {
                    interface.writable.push(access.contains(naga::StorageAccess::STORE));
                    let naga::TypeInner::Array { stride, .. } = *inner else {
                        interface.strides.push(0);
                        continue;
                    };
                    interface.strides.push(stride.into());
                }
                (naga::AddressSpace::Uniform, naga::TypeInner::Struct { members, .. }) if position == last => {
                    for member in members {
                        let name = member.name.clone().unwrap_or_default();
                        let naga::TypeInner::Scalar(scalar) = module.types[member.ty].inner else {
                            return Err(fail(format!("the param {name} is no scalar")));
                        };
                        interface.params.push((name, scalar));
                    }
                }
                (space, _) => return Err(fail(format!("binding {position} is in {space:?}"))),
            }
        }
        Ok(interface)
    }

    /// Pieces as elements are counted, given those as bytes are.
    ///
    /// # Errors
    /// When an element would be in both parts of a concatenation.
    fn in_elements(&self, path: &str, bindings: &[Pieces]) -> Result<Vec<Pieces>> {
        let elements = |(pieces, &stride): (&Pieces, &u64)| {
            Ok(match pieces {
                Pieces::From(places) => Pieces::From(places.iter().map(|place| place / stride.max(1)).collect()),
                Pieces::Images(behind, places) => {
                    Pieces::Images(behind / stride.max(1), places.iter().map(|place| place / stride.max(1)).collect())
                }
                Pieces::Of(earlier) => Pieces::Of(*earlier),
                Pieces::Beside(beside) if beside.channels.iter().any(|bytes| bytes % stride.max(1) != 0) => {
                    let bytes = beside.channels;
                    return Err(Error::Device(format!(
                        "kernel {path}: its elements of {stride} bytes would lie across the parts of a concatenation, which have {bytes:?} bytes \
                         a pixel; declare smaller ones, or plan without Fusion::Concat"
                    )));
                }
                Pieces::Beside(beside) => {
                    Pieces::Beside(Beside { channels: beside.channels.map(|bytes| bytes / stride.max(1)), ..*beside })
                }
            })
        };
        bindings.iter().zip(&self.strides).map(elements).collect()
    }

    /// Holds a dispatch of an op that overwrites the inputs `writes` against the kernel's text.
    ///
    /// # Errors
    /// When the number of bindings or the names or types of the params differ, or a binding may be written that is only to be
    /// read, or the reverse.
    pub fn check(&self, dispatch: &Dispatch, writes: &[usize]) -> Result<()> {
        let fail = |problem: String| Err(Error::Device(format!("kernel {}: {problem}", dispatch.kernel.path)));
        if self.writable.len() != dispatch.bindings.len() {
            return fail(format!("declares {} storage bindings, got {}", self.writable.len(), dispatch.bindings.len()));
        }
        for (position, (&writable, &binding)) in self.writable.iter().zip(&dispatch.bindings).enumerate() {
            let written = match binding {
                Binding::Input(input) | Binding::InputImages(input, _) | Binding::Piece(input, _) => {
                    writes.contains(&input)
                }
                Binding::Output | Binding::OutputImages(_) | Binding::Gradient => true,
                // One dispatch of a candidate fills it, another reads it.
                Binding::Workspace(_) => continue,
            };
            if writable != written {
                let access = |writable| if writable { "read_write" } else { "read" };
                let (declared, expected) = (access(writable), access(written));
                return fail(format!("declares binding {position} as {declared}, {binding:?} needs {expected}"));
            }
        }
        let scalar = |param| match param {
            Param::U32(_) => naga::Scalar::U32,
            Param::F32(_) => naga::Scalar::F32,
        };
        let params: Vec<_> = dispatch.params.iter().map(|&(name, param)| (name.to_owned(), scalar(param))).collect();
        if self.params != params {
            return fail(format!("declares params {:?}, got {params:?}", self.params));
        }
        Ok(())
    }
}

/// A compiled kernel.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) interface: Interface,
    pub(crate) layout: wgpu::BindGroupLayout,
    pub(crate) program: wgpu::ComputePipeline,
    /// Whether it was among those to be translated before they are run.
    pub(super) translated: AtomicBool,
}

/// What keeps a kernel's indices within bounds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Indices {
    /// naga, where the driver does not. It clears memory of a workgroup, too.
    Checked,
    /// Nothing, as they are [proved](crate::op::Proof) to be; nor is memory cleared.
    Proved,
    /// As [`Indices::Checked`], and the kernel looks at them itself and notes what is outside in a guard: one of so many bytes is behind each buffer
    /// that is bound. Memory of a workgroup is NaN at the beginning.
    Trapped(Vec<u64>),
}

/// What is compiled: the kernel of a dispatch, for what it binds in these pieces.
#[derive(Clone, Copy)]
pub(super) struct Program<'a> {
    pub(super) dispatch: &'a Dispatch,
    pub(super) pieces: &'a [Pieces],
    pub(super) indices: &'a Indices,
}

/// What a compiled kernel is made of. Its text follows from it, and takes longer to compose than to look this up.
type Recipe = (Kernel, Vec<(&'static str, String)>, Vec<Pieces>, Indices);

/// Compiled kernels, shared by everything on one device.
pub(super) type Pipelines = Arc<Mutex<HashMap<Recipe, Arc<Pipeline>>>>;

impl Gpu {
    /// A compiled kernel, compiled at first use.
    pub(super) fn pipeline(&self, Program { dispatch, pieces, indices }: Program<'_>) -> Result<Arc<Pipeline>> {
        let recipe = (dispatch.kernel, dispatch.constants.clone(), pieces.to_vec(), indices.clone());
        if let Some(pipeline) = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner).get(&recipe) {
            return Ok(Arc::clone(pipeline));
        }
        let path = dispatch.kernel.path;
        let start = Instant::now();
        tracing::debug!("compiling {path} {:?}", dispatch.constants);
        let wgsl = compose(path, dispatch.kernel.source, &dispatch.constants)?;
        let pipeline = Arc::new(self.compile(path, &wgsl, pieces, indices)?);
        tracing::debug!("compiled {path} in {:.1?}", start.elapsed());
        self.pipelines.lock().unwrap_or_else(PoisonError::into_inner).insert(recipe, Arc::clone(&pipeline));
        Ok(pipeline)
    }

    fn compile(&self, path: &str, wgsl: &str, bindings: &[Pieces], indices: &Indices) -> Result<Pipeline> {
        let interface = Interface::of(path, wgsl)?;
        if let Some(lacking) = self.lacks(&of_kernel(path, &interface), "try another `--device`") {
            return Err(Error::Device(lacking));
        }
        let mut wgsl = in_pieces(path, wgsl, &interface.in_elements(path, bindings)?)?;
        if let Indices::Trapped(guards) = indices {
            let strides = Interface::of(path, &wgsl)?.strides;
            let guards: Vec<u64> = guards.iter().zip(strides).map(|(guard, stride)| guard / stride.max(1)).collect();
            wgsl = trapped(path, &wgsl, &guards)?;
        }
        let storage = interface.writable.iter().enumerate().flat_map(|(binding, &writable)| {
            let pieces = bindings.get(binding).map_or(1, Pieces::count);
            repeat_n(wgpu::BufferBindingType::Storage { read_only: !writable }, pieces)
        });
        let uniform = (!interface.params.is_empty()).then_some(wgpu::BufferBindingType::Uniform);
        let entries: Vec<_> = (0..)
            .zip(storage.chain(uniform))
            .map(|(binding, ty)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
                count: None,
            })
            .collect();
        self.scoped(&format!("kernel {path}"), || {
            let label = Some(path);
            let source = wgpu::ShaderSource::Wgsl(wgsl.into());
            let descriptor = wgpu::ShaderModuleDescriptor { label, source };
            let module = consent::shader_module(&self.device, descriptor, *indices == Indices::Proved);
            let layout =
                self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
            let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label,
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let program = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label,
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: None,
                // naga clears workgroup memory by one invocation on some backends. What is proved writes it before it reads it.
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: *indices != Indices::Proved,
                    ..Default::default()
                },
                cache: self.pipeline_cache.as_ref().map(|cache| cache.entries()),
            });
            Pipeline { interface, layout, program, translated: AtomicBool::new(false) }
        })
    }
}
