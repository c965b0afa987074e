//! Images and labels: reading them, refusing what would train on nonsense, generating them, and drawing batches.

pub mod augmentation;
pub mod border;
mod budget;
pub mod cells;
pub mod components;
pub mod dataset;
mod finding;
pub mod image;
mod intensities;
pub mod label;
pub mod loader;
mod orientation;
pub mod raster;
pub mod sample;
pub mod sampler;
mod zoom;

pub use augmentation::Augmentation;
pub use border::{Border, BorderMap};
pub use components::{Components, Connectivity};
pub use dataset::{Dataset, Options};
pub use finding::{Code, Finding, Severity};
pub use image::Image;
pub use intensities::Intensities;
pub use label::LabelMap;
pub use loader::Loader;
pub use orientation::Orientation;
pub use sample::{IGNORE, Prepared, Sample, Truth};
pub use sampler::{Sampler, Sampling};
pub use zoom::Zoom;
pub(crate) use zoom::resample;
