//! The GPU executor. Only this module and its children know wgpu, and [`Segmenter`](crate::predict::Segmenter), whose users do.

pub(crate) mod choices;
mod consent;
pub mod device;
pub mod kernel;
pub mod memory;
mod pace;
mod pipeline_cache;
pub mod plan;
pub mod profile;
pub mod requirements;
pub mod source;
mod translation;

pub use choices::{Choice, Choices};
pub use device::{AdapterSummary, DeviceChoice, Gpu, Limits, adapters};
pub use memory::MemoryPlan;
pub use pace::LONGEST_SUBMIT;
pub use plan::{Plan, PlanOptions};
pub use profile::{Profile, Spread};
pub use requirements::{Limit, Need, Requirements};
