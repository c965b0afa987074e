//! Choosing a device, and the handle to it.

use super::choices::Choices;
use super::consent;
use super::kernel::Pipelines;
use super::pipeline_cache::PipelineCache;
use super::requirements::{Limit, Need};
use crate::error::{Error, Result};
use crate::op::DeviceProfile;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::pin::pin;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

/// What `--device` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The best adapter there is: discrete, integrated, virtual, software; the CPU executor where there is none.
    #[default]
    Auto,
    /// The CPU executor: the reference itself, in `f32`.
    Cpu,
    /// The adapter with this index in the listing.
    Index(usize),
    /// The first adapter whose name contains this text, whatever the case.
    Name(String),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text.trim().to_ascii_lowercase().as_str() {
            "" => return Err("give auto, cpu, an index or a part of an adapter's name".into()),
            "auto" => Self::Auto,
            "cpu" => Self::Cpu,
            other => other.parse().map_or_else(|_| Self::Name(text.trim().into()), Self::Index),
        })
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Index(index) => write!(f, "{index}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// What `--limits` says: how much of an adapter is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limits {
    /// Everything that it offers.
    #[default]
    Adapter,
    /// As much without what is experimental in wgpu: matrix units.
    Stable,
    /// What every browser with WebGPU offers: bindings to 128 MiB, buffers to 256, 8 storage buffers, 16 KiB of workgroup memory, 256
    /// invocations, no subgroups, no `f16`, no integers of 64 bits. Timestamps, of which no kernel knows, stay.
    WebGpu,
}

impl Limits {
    fn of(self, adapter: &wgpu::Adapter) -> wgpu::Limits {
        match self {
            Self::Adapter | Self::Stable => adapter.limits(),
            Self::WebGpu => wgpu::Limits::defaults(),
        }
    }

    fn features_of(self, adapter: &wgpu::Adapter) -> wgpu::Features {
        match self {
            Self::Adapter => adapter.features(),
            Self::Stable => adapter.features() - wgpu::Features::all_experimental_mask(),
            Self::WebGpu => adapter.features() & wgpu::Features::TIMESTAMP_QUERY,
        }
    }
}

/// One line of the adapter listing.
#[derive(Clone, Debug, Serialize)]
pub struct AdapterSummary {
    /// The adapter's name.
    pub name: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// Driver name and version.
    pub driver: String,
    /// Bytes of the largest storage binding.
    pub max_binding_bytes: u64,
    /// Bytes of the largest buffer.
    pub max_buffer_bytes: u64,
    /// Bytes of workgroup memory.
    pub workgroup_memory_bytes: u32,
    /// The most invocations in a workgroup.
    pub max_workgroup_invocations: u32,
    /// Storage buffers in one kernel.
    pub storage_buffers: u32,
    /// Whether shaders may use `f16`.
    pub f16: bool,
    /// The smallest and largest subgroup, if subgroup operations are there.
    pub subgroup_size: Option<(u32, u32)>,
    /// The side of the square matrices of `f16` that units of its own multiply, adding to `f32`, if shaders may use them.
    pub matrix_side: Option<u32>,
    /// Whether kernels can be timed on the device.
    pub timestamps: bool,
    /// How much of the adapter is used; the fields above tell of no more.
    pub limits: Limits,
}

impl AdapterSummary {
    fn of(adapter: &wgpu::Adapter, used: Limits) -> Self {
        Self::new(adapter, &used.of(adapter), used.features_of(adapter), used)
    }

    fn new(adapter: &wgpu::Adapter, limits: &wgpu::Limits, features: wgpu::Features, used: Limits) -> Self {
        let info = adapter.get_info();
        let subgroups = features.contains(wgpu::Features::SUBGROUP);
        let driver = format!("{} {}", info.driver, info.driver_info);
        let driver = driver.trim();
        Self {
            kind: match info.device_type {
                wgpu::DeviceType::DiscreteGpu => "discrete",
                wgpu::DeviceType::IntegratedGpu => "integrated",
                wgpu::DeviceType::VirtualGpu => "virtual",
                wgpu::DeviceType::Cpu => "software",
                wgpu::DeviceType::Other => "other",
            },
            backend: info.backend.to_string(),
            driver: match used {
                Limits::Adapter => driver.to_owned(),
                Limits::Stable => format!("{driver}, without what is experimental"),
                Limits::WebGpu => format!("{driver}, at the limits of WebGPU"),
            },
            name: info.name,
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_buffer_bytes: limits.max_buffer_size,
            workgroup_memory_bytes: limits.max_compute_workgroup_storage_size,
            max_workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            storage_buffers: limits.max_storage_buffers_per_shader_stage,
            f16: features.contains(wgpu::Features::SHADER_F16),
            subgroup_size: subgroups.then_some((info.subgroup_min_size, info.subgroup_max_size)),
            matrix_side: matrix_side(adapter, features),
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            limits: used,
        }
    }

    /// Whether the adapter is a CPU that runs shaders.
    pub fn is_software(&self) -> bool {
        self.kind == "software"
    }
}

impl fmt::Display for AdapterSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {}, {})", self.name, self.kind, self.backend, self.driver)
    }
}

/// The backends that `WGPU_BACKEND` names, separated by commas, or all that this build can use.
///
/// # Errors
/// [`Error::Usage`] when a name is unknown, or of a backend that this build has not; the message lists those that it has.
fn backends(named: Option<&str>) -> Result<wgpu::Backends> {
    let known = [("vulkan", wgpu::Backends::VULKAN), ("metal", wgpu::Backends::METAL), ("dx12", wgpu::Backends::DX12)];
    let enabled = wgpu::Instance::enabled_backend_features();
    let usable = known.into_iter().filter(|&(_, backend)| enabled.contains(backend));
    let Some(named) = named else { return Ok(usable.map(|(_, backend)| backend).collect()) };
    let one = |name: &str| {
        let backend = wgpu::Backends::from_comma_list(name);
        usable.clone().find(|&(_, usable)| usable == backend).map(|(_, usable)| usable).ok_or_else(|| {
            let names: Vec<&str> = usable.clone().map(|(name, _)| name).collect();
            let names = names.join(", ");
            Error::Usage(format!(
                "WGPU_BACKEND is {named:?}: there is no backend {name:?} here; name one or more of {names}, or unset it"
            ))
        })
    };
    named.split(',').map(|name| one(name.trim())).collect()
}

/// The adapters of this machine, as `WGPU_BACKEND` limits them, in the order that `--device N` counts.
async fn enumerate(limits: Limits) -> Result<Vec<(AdapterSummary, wgpu::Adapter)>> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends(std::env::var("WGPU_BACKEND").ok().as_deref())?;
    // Debug layers and labels in the driver cost time; they come back with WGPU_DEBUG and WGPU_VALIDATION.
    descriptor.flags = wgpu::InstanceFlags::empty().with_env();
    descriptor.backend_options = descriptor.backend_options.with_env();
    let enabled = descriptor.backends;
    let adapters = wgpu::Instance::new(descriptor).enumerate_adapters(enabled).await;
    let compute = |adapter: &wgpu::Adapter| {
        adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
    };
    let listed = |adapter: wgpu::Adapter| (AdapterSummary::of(&adapter, limits), adapter);
    Ok(adapters.into_iter().filter(compute).map(listed).collect())
}

/// The adapter listing, of as much of each as `limits` admits.
///
/// # Errors
/// [`Error::Usage`] when `WGPU_BACKEND` names what is no backend here.
pub fn adapters(limits: Limits) -> Result<Vec<AdapterSummary>> {
    Ok(pollster::block_on(enumerate(limits))?.into_iter().map(|(summary, _)| summary).collect())
}

/// The first candidate that opens, and for each one before it what it failed with.
async fn first_that_opens<C, G>(candidates: Vec<C>, open: impl AsyncFn(C) -> Result<G>) -> (Option<G>, Vec<Error>) {
    let mut failures = Vec::new();
    for candidate in candidates {
        match open(candidate).await {
            Ok(opened) => return (Some(opened), failures),
            Err(failure) => failures.push(failure),
        }
    }
    (None, failures)
}

/// How to get a Vulkan driver, for messages.
pub const DRIVER_ADVICE: &str = "install your GPU's Vulkan driver, or a software one: `scripts/ensure-vulkan` does it on Linux \
     (Debian and Ubuntu: package mesa-vulkan-drivers; Fedora: mesa-vulkan-drivers; Arch: vulkan-swrast)";

/// A cheap handle to an opened GPU: device, queue, compiled kernels. Its clones share them, from any thread.
#[derive(Clone)]
pub struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(super) pipelines: Pipelines,
    pub(super) pipeline_cache: Option<Arc<PipelineCache>>,
    summary: Arc<AdapterSummary>,
    pub(super) adapter: wgpu::Adapter,
    /// Whether device and queue belong to a host program.
    pub(super) borrowed: bool,
    profile: DeviceProfile,
    choices: Arc<Choices>,
    /// Whether naga checks indices that are proved to be within bounds, too.
    pub(super) bounds_checks: bool,
    failure: Failure,
}

/// What a device reported first outside of any call: the cause, of which what follows is the echo.
#[derive(Clone, Default)]
struct Failure(Arc<Mutex<Option<String>>>);

impl Failure {
    fn fail(&self, text: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
    }

    fn text(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu").field("adapter", &self.summary).field("profile", &self.profile).finish_non_exhaustive()
    }
}

/// Features that kernels or profiles use where an adapter has them.
pub(super) const USED: wgpu::Features =
    wgpu::Features::SUBGROUP.union(wgpu::Features::SHADER_INT64).union(wgpu::Features::TIMESTAMP_QUERY).union(HALF);

/// What a device needs for tensors that are stored as `f16`.
pub(super) const HALF: wgpu::Features = wgpu::Features::SHADER_F16;

/// What a device needs for kernels that multiply matrices by units of its own. It is experimental in wgpu, so a host has to ask for it on
/// its own account: [`Requirements`](super::Requirements) names it apart from the others.
pub(super) const MATRICES: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;

/// The side of the square matrices of `f16` that shaders may multiply, adding to `f32`, on a device with these features: the largest one.
pub(super) fn matrix_side(adapter: &wgpu::Adapter, features: wgpu::Features) -> Option<u32> {
    if !features.contains(MATRICES | HALF) {
        return None;
    }
    let offered = adapter.cooperative_matrix_properties().into_iter();
    let fit = offered.filter(|shape| {
        let types = (shape.ab_type, shape.cr_type);
        types == (wgpu::CooperativeScalarType::F16, wgpu::CooperativeScalarType::F32)
            && [shape.n_size, shape.k_size] == [shape.m_size; 2]
    });
    fit.map(|shape| shape.m_size).max()
}

/// What ops may know of a device with these features and limits.
pub(super) fn profile_of(adapter: &wgpu::Adapter, features: wgpu::Features, limits: &wgpu::Limits) -> DeviceProfile {
    let info = adapter.get_info();
    let one_size = info.subgroup_min_size == info.subgroup_max_size;
    let subgroups = features.contains(wgpu::Features::SUBGROUP) && one_size;
    DeviceProfile {
        software: info.device_type == wgpu::DeviceType::Cpu,
        subgroup_size: subgroups.then_some(info.subgroup_min_size),
        int64: features.contains(wgpu::Features::SHADER_INT64),
        f16: features.contains(HALF),
        matrix_side: matrix_side(adapter, features),
        largest_binding: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
        storage_buffers: limits.max_storage_buffers_per_shader_stage,
    }
}

impl Gpu {
    /// Opens the adapter that `choice` names, or `None` where the choice is, or falls back to, the CPU executor.
    ///
    /// `WGPU_BACKEND` limits the backends, `WGPU_ADAPTER_NAME` what [`DeviceChoice::Auto`] may take.
    ///
    /// # Errors
    /// [`Error::Device`] when a named adapter does not exist (the message lists those that do) or cannot be opened, or
    /// [`DeviceChoice::Auto`] finds adapters but can open none; it warns of each one that it skips. [`Error::Usage`] when
    /// `WGPU_BACKEND` names what is no backend here.
    pub fn choose(choice: &DeviceChoice) -> Result<Option<Self>> {
        pollster::block_on(Self::choose_within(choice, Limits::Adapter))
    }

    /// As [`Gpu::choose`], as far as `limits` goes, and without blocking.
    ///
    /// # Errors
    /// As [`Gpu::choose`].
    pub async fn choose_within(choice: &DeviceChoice, limits: Limits) -> Result<Option<Self>> {
        if *choice == DeviceChoice::Cpu {
            return Ok(None);
        }
        let adapters = enumerate(limits).await?;
        let listing = || {
            let lines: Vec<String> =
                adapters.iter().enumerate().map(|(index, (summary, _))| format!("\n  {index} {summary}")).collect();
            if lines.is_empty() { format!(" none; {DRIVER_ADVICE}") } else { lines.concat() }
        };
        let named = |name: &str| {
            let name = name.to_lowercase();
            adapters.iter().filter(move |(summary, _)| summary.name.to_lowercase().contains(&name))
        };
        let chosen = match choice {
            DeviceChoice::Cpu => None,
            DeviceChoice::Index(index) => Some(adapters.get(*index).ok_or_else(|| {
                Error::Device(format!(
                    "there is no adapter {index}; `--device` takes auto, cpu, or one of:{}",
                    listing()
                ))
            })?),
            DeviceChoice::Name(name) => Some(named(name).next().ok_or_else(|| {
                Error::Device(format!(
                    "no adapter's name contains {name:?}; `--device` takes auto, cpu, or one of:{}",
                    listing()
                ))
            })?),
            DeviceChoice::Auto => {
                let wanted = std::env::var("WGPU_ADAPTER_NAME").unwrap_or_default();
                let mut candidates: Vec<_> = named(&wanted).collect();
                candidates.sort_by_key(|(summary, _)| {
                    ["discrete", "integrated", "virtual", "software"]
                        .iter()
                        .position(|kind| *kind == summary.kind)
                        .unwrap_or(4)
                });
                if candidates.is_empty() && !wanted.is_empty() {
                    let problem = format!(
                        "WGPU_ADAPTER_NAME is {wanted:?}, but no adapter's name contains it; there are:{}",
                        listing()
                    );
                    return Err(Error::Device(problem));
                }
                let open = async |(_, adapter): &(AdapterSummary, wgpu::Adapter)| Self::open(adapter, limits).await;
                let (opened, failures) = first_that_opens(candidates, open).await;
                if opened.is_none() && !failures.is_empty() {
                    let reasons: Vec<String> = failures.iter().map(|failure| format!("\n  {failure}")).collect();
                    let problem = format!("no adapter could be opened; use `--device cpu`:{}", reasons.concat());
                    return Err(Error::Device(problem));
                }
                for failure in failures {
                    tracing::warn!("{failure}; the next best adapter is taken");
                }
                return Ok(opened);
            }
        };
        match chosen {
            Some((_, adapter)) => Self::open(adapter, limits).await.map(Some),
            None => Ok(None),
        }
    }

    /// Opens an adapter for tests: the best there is.
    ///
    /// # Errors
    /// [`Error::Device`] with advice when there is none.
    pub fn any() -> Result<Self> {
        Self::choose(&DeviceChoice::Auto)?
            .ok_or_else(|| Error::Device(format!("no GPU adapter was found, and this needs one: {DRIVER_ADVICE}")))
    }

    async fn open(adapter: &wgpu::Adapter, limits: Limits) -> Result<Self> {
        let summary = AdapterSummary::of(adapter, limits);
        let required_features = limits.features_of(adapter) & (USED | MATRICES | wgpu::Features::PIPELINE_CACHE);
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("tilewise"),
            required_features,
            experimental_features: consent::experimental(required_features),
            required_limits: limits.of(adapter),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        let requested = adapter.request_device(&descriptor).await;
        if let (Err(error), true) = (&requested, required_features.intersects(MATRICES)) {
            tracing::warn!("{summary} could not be opened with what is experimental, and is without: {error}");
            return Box::pin(Self::open(adapter, Limits::Stable)).await;
        }
        let (device, queue) =
            requested.map_err(|error| Error::Device(format!("{summary} could not be opened: {error}")))?;
        let gpu = Self::with(summary, adapter, device, queue, false);
        let failure = gpu.failure.clone();
        gpu.device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| failure.fail(error.to_string())));
        let failure = gpu.failure.clone();
        gpu.device.set_device_lost_callback(move |reason, message| {
            failure.fail(format!("device lost ({reason:?}): {message}"));
        });
        Ok(gpu)
    }

    /// A host program's own device and queue, which belong to this adapter.
    ///
    /// The device stays the host's: no handler is set on it, so that what it reports outside of any call here, its loss included, goes
    /// to the host alone; a loss shows here as the error of the next call that waits. Kernels use the features that the device was
    /// requested with, of those that [`Requirements`] names; [`Plan::new`] says which limits are too low for a graph. A call that submits or
    /// waits ([`Plan::run`], [`Plan::wait`], [`Plan::read`], and what is built on them) runs callbacks of the host that have become due. They
    /// must not call into a plan, which may be at work, and must not panic.
    ///
    /// [`Requirements`]: super::Requirements
    /// [`Plan::run`]: super::Plan::run
    /// [`Plan::new`]: super::Plan::new
    /// [`Plan::wait`]: super::Plan::wait
    /// [`Plan::read`]: super::Plan::read
    pub fn from_device(adapter: &wgpu::Adapter, device: wgpu::Device, queue: wgpu::Queue) -> Self {
        let summary = AdapterSummary::new(adapter, &device.limits(), device.features(), Limits::Adapter);
        Self::with(summary, adapter, device, queue, true)
    }

    fn with(
        summary: AdapterSummary,
        adapter: &wgpu::Adapter,
        device: wgpu::Device,
        queue: wgpu::Queue,
        borrowed: bool,
    ) -> Self {
        Self {
            profile: profile_of(adapter, device.features(), &device.limits()),
            adapter: adapter.clone(),
            borrowed,
            pipelines: Arc::default(),
            pipeline_cache: None,
            choices: Arc::default(),
            bounds_checks: false,
            summary: Arc::new(summary),
            failure: Failure::default(),
            device,
            queue,
        }
    }

    /// A device of its own on the same adapter, with the same choices and the same folder for compiled kernels, and nothing compiled yet.
    ///
    /// # Errors
    /// [`Error::Device`] when it cannot be opened.
    pub fn reopen(&self) -> Result<Self> {
        let (choices, bounds_checks) = (Arc::clone(&self.choices), self.bounds_checks);
        let opened = Self { profile: self.profile, choices, bounds_checks, ..self.another()? };
        Ok(match &self.pipeline_cache {
            Some(cache) => opened.with_pipeline_cache(cache.folder()),
            None => opened,
        })
    }

    /// A device of its own on the same adapter.
    pub(super) fn another(&self) -> Result<Self> {
        pollster::block_on(Self::open(&self.adapter, self.summary.limits))
    }

    /// This device, with tensors in plans to come in pieces of at most so many bytes, in whole multiples of 256, where it admits larger
    /// ones: results are the same to the bit, as long as it can bind all pieces at once. To be tried out by devices that have no need of it.
    #[must_use]
    pub fn with_largest_binding(self, bytes: u64) -> Self {
        let largest_binding = self.profile.largest_binding.min(bytes);
        Self { profile: DeviceProfile { largest_binding, ..self.profile }, ..self }
    }

    /// This device, with these kernels in plans to come. They were measured at some limits; a host's device of lower ones may lack what they
    /// need, and [`Plan::new`](super::Plan::new) then says so. A device that is not offered the kernel that was chosen, for want of matrix
    /// units for one, takes its own first one at those shapes.
    #[must_use]
    pub fn with_choices(self, choices: Choices) -> Self {
        Self { choices: Arc::new(choices), ..self }
    }

    /// This device, with the kernels that it compiles from here on kept in a file in this folder, one for each model of device, and taken
    /// from there the next time; results are the same to the bit. The file is written when the last handle to the device is
    /// dropped, if it is not as it was read. A file that cannot be read, is damaged or of another driver counts for nothing and is replaced;
    /// one that cannot be written is passed over.
    ///
    /// The driver trusts what the file holds, of which only a checksum is looked at: let nobody else write into the folder.
    ///
    /// Without [`wgpu::Features::PIPELINE_CACHE`], which Vulkan has, and a host's device if it was requested with it, nothing changes.
    #[must_use]
    pub fn with_pipeline_cache(self, folder: &Path) -> Self {
        let pipeline_cache = PipelineCache::open(&self, &self.adapter.get_info(), folder).map(Arc::new);
        Self { pipeline_cache, ..self }
    }

    /// This device, with each index of each kernel in plans to come held against the bounds, where the driver does not do so itself: also those
    /// of ops whose indices are [proved](crate::op::Proof) to be within them. It changes no result.
    #[must_use]
    pub fn with_bounds_checks(self) -> Self {
        Self { bounds_checks: true, ..self }
    }

    /// This device, with kernels in plans to come launched as on one that is no CPU: in other orders of preference, and in other sizes. To be tried out
    /// where there is no such device.
    #[must_use]
    pub fn as_hardware(self) -> Self {
        Self { profile: DeviceProfile { software: false, ..self.profile }, ..self }
    }

    /// Which kernels plans on this device take where there are several.
    pub fn choices(&self) -> &Choices {
        &self.choices
    }

    /// This device, as if it had only what every device has.
    pub(crate) fn portable(&self) -> Self {
        let DeviceProfile { largest_binding, storage_buffers, .. } = self.profile;
        let profile = DeviceProfile { largest_binding, storage_buffers, ..DeviceProfile::PORTABLE };
        Self { profile, choices: Arc::default(), ..self.clone() }
    }

    /// The device, to be used beside the plans on it.
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// The queue that plans submit to.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// What the device lacks of these needs, in words, with what to do; `otherwise` is what helps if the adapter lacks it, too.
    pub(super) fn lacks(&self, needs: &[Need], otherwise: &str) -> Option<String> {
        let (limits, most) = (self.device.limits(), self.summary.limits.of(&self.adapter));
        let mut lacking: Vec<&Need> = needs.iter().filter(|need| need.amount > need.limit.of(&limits)).collect();
        // Of each limit, what needs most of it.
        lacking.sort_by_key(|need| (need.limit.field(), Reverse(need.amount)));
        lacking.dedup_by_key(|need| need.limit);
        let lines: Vec<String> = lacking
            .into_iter()
            .map(|Need { limit, amount, of }| {
                let (unit, offered, name) = (limit.unit(), limit.of(&limits), &self.summary.name);
                let request = |limit: Limit, amount: u64| {
                    let field = limit.field();
                    format!(
                        "the adapter has enough: request the device with {field}: {amount} (gpu::Requirements tells)"
                    )
                };
                let binding = Limit::Binding.of(&most);
                let advice = if *amount <= limit.of(&most) {
                    request(*limit, *amount)
                } else if *limit == Limit::StorageBuffers && Limit::Binding.of(&limits) < binding {
                    // In fewer pieces there are fewer of them.
                    request(Limit::Binding, binding)
                } else {
                    otherwise.to_owned()
                };
                format!("{of} needs {amount} {unit}, {name} offers {offered}; {advice}")
            })
            .collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// The adapter.
    pub fn adapter(&self) -> &AdapterSummary {
        &self.summary
    }

    /// What ops may know of the device.
    pub fn profile(&self) -> &DeviceProfile {
        &self.profile
    }

    /// # Errors
    /// The first failure that the device has reported outside of any call, if there was one.
    pub(crate) fn check(&self) -> Result<()> {
        self.failure.text().map_or(Ok(()), |text| Err(Error::Device(format!("{}: {text}", self.summary))))
    }

    /// Writes bytes to where the next submit finds them.
    pub(crate) fn write(&self, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        self.scoped("writing a buffer", || self.queue.write_buffer(buffer, offset, bytes))
    }

    /// Submits what `record` records.
    pub(crate) fn submit<T>(&self, what: &str, record: impl FnOnce(&mut wgpu::CommandEncoder) -> T) -> Result<T> {
        self.scoped(what, || {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let recorded = record(&mut encoder);
            self.queue.submit([encoder.finish()]);
            recorded
        })
    }

    /// Runs calls that create, write or submit something, and returns what they failed with as a value.
    pub(crate) fn scoped<T>(&self, what: &str, create: impl FnOnce() -> T) -> Result<T> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let value = create();
        let validation = pollster::block_on(validation.pop());
        let internal = pollster::block_on(internal.pop());
        let memory = pollster::block_on(memory.pop());
        if let Some(error) = validation.or(internal) {
            return Err(Error::Device(format!("{what}: {error}")));
        }
        if memory.is_some() {
            return Err(Error::Memory(format!(
                "{what}: {} is out of memory; use a smaller tile, batch or base, or `--device cpu`",
                self.summary.name
            )));
        }
        Ok(value)
    }

    /// Sees to it that what was written so far arrives, so that the driver's copies of it are freed. Nothing is submitted to a host's
    /// queue behind its back: there it waits.
    pub(crate) fn flush(&self) -> Result<()> {
        if self.borrowed {
            return Ok(());
        }
        self.submit("sending what was written", |_| ())?;
        self.wait()
    }

    /// Drives a future to its end that waits for the device, by polling the device for it; on this thread, which blocks.
    ///
    /// # Errors
    /// What the future ends with; [`Error::Device`] when the device fails before.
    pub fn block_on<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        let mut future = pin!(future);
        let woken = Arc::new(Woken { thread: thread::current(), flag: AtomicBool::new(false) });
        let waker = Waker::from(Arc::clone(&woken));
        loop {
            if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return result;
            }
            // Runs the callbacks of all that was submitted. What is not woken by them waits for another thread.
            self.wait()?;
            while !woken.flag.swap(false, Ordering::Acquire) {
                thread::park();
            }
        }
    }

    /// Waits until everything submitted has run.
    pub(crate) fn wait(&self) -> Result<()> {
        // A lost device may never signal, so the wait is cut into slices and looks for a failure after each.
        let slice = wgpu::PollType::Wait { submission_index: None, timeout: Some(Duration::from_secs(2)) };
        loop {
            // wgpu panics where the device is lost meanwhile.
            let outcome = catch_unwind(AssertUnwindSafe(|| self.device.poll(slice.clone())));
            if let Err(panic) = &outcome {
                let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
                let text = text.unwrap_or("the device was lost");
                // So wgpu 30 puts it where this slice was over and another thread then saw the queue come to its end, and had all that was due called.
                if text.starts_with("If the queue is empty, the current submission index") {
                    continue;
                }
                self.failure.fail(format!("waiting for the device, or a callback that was due, failed: {text}"));
            }
            self.check()?;
            match outcome {
                Ok(Err(wgpu::PollError::Timeout)) => {}
                Ok(Err(error)) => return Err(Error::Device(format!("{}: {error}", self.summary))),
                _ => return Ok(()),
            }
        }
    }
}

/// Whether a future may go on, and the thread that drives it.
struct Woken {
    thread: Thread,
    flag: AtomicBool,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.flag.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_named_or_refused_by_name() {
        let all = backends(None).unwrap();
        assert!(!all.is_empty());
        for name in ["vulcan", "", "gl", "vulkan,metall"] {
            let message = backends(Some(name)).unwrap_err().to_string();
            assert!(message.contains("one or more of") && message.contains(&format!("{name:?}")), "{message}");
        }
        if all.contains(wgpu::Backends::VULKAN) {
            assert_eq!(backends(Some(" Vulkan ")).unwrap(), wgpu::Backends::VULKAN);
        }
    }

    #[test]
    fn an_adapter_that_does_not_open_is_skipped_for_the_next() {
        let open = async |works: bool| if works { Ok(works) } else { Err(Error::Device("broken".into())) };
        for (candidates, opens, failures) in
            [(vec![false, true, false], true, 1), (vec![false, false], false, 2), (vec![], false, 0)]
        {
            let (opened, found) = pollster::block_on(first_that_opens(candidates, open));
            assert_eq!((opened.is_some(), found.len()), (opens, failures));
        }
    }
}
