//! The only module that knows wgpu.

pub mod source;
