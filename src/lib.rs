//! A U-Net engine whose every kernel is hand-written WGSL, run on wgpu and checked against a CPU reference.

pub mod array;
mod autograd;
pub mod bench;
mod case;
pub mod checkpoint;
pub mod compare;
pub mod cpu;
pub mod data;
pub mod demo;
pub mod error;
pub mod executor;
pub mod fuse;
pub mod gpu;
pub mod gradcheck;
pub mod graph;
pub mod metrics;
pub mod models;
pub mod op;
pub mod ops;
mod page;
pub mod picture;
pub mod predict;
pub mod random;
pub mod report;
pub mod selftest;
pub mod shape;
pub mod train;

pub use error::{Error, Result};
pub use gpu::Gpu;
pub use graph::Graph;
pub use wgpu;
