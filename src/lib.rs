//! A U-Net engine whose every kernel is hand-written WGSL, run on wgpu and checked against a CPU reference.

pub mod error;

pub use error::{Error, Result};
