//! Images and labels: reading them, refusing what would train on nonsense, generating them, and drawing batches.

pub mod border;
pub mod image;
pub mod label;
pub mod raster;

pub use image::Image;
pub use label::LabelMap;
