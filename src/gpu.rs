//! The GPU executor. Only this module and its children know wgpu.

pub mod device;
pub mod kernel;
pub mod memory;
pub mod plan;
pub mod profile;
pub mod source;

pub use device::{AdapterSummary, DeviceChoice, Gpu, adapters};
pub use memory::MemoryPlan;
pub use plan::{Plan, PlanOptions};
pub use profile::{Profile, Spread};
