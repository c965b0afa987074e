//! A U-Net engine whose every kernel is hand-written WGSL, run on wgpu and checked against a CPU reference.
//!
//! # Segment an image
//!
//! ```no_run
//! use tilewise::{checkpoint::Weights, data::Image, executor::Device, gpu::DeviceChoice, predict::Predictor};
//!
//! # fn main() -> tilewise::Result<()> {
//! let device = Device::choose(&DeviceChoice::Auto)?;
//! let mut predictor = Predictor::load(device, &Weights::load("weights.safetensors")?, None)?;
//! let prediction = predictor.predict(&Image::read("cells.png")?)?;
//! prediction.label_map().write_classes("classes.png")?;
//! # Ok(())
//! # }
//! ```
//!
//! Images may have any size: they are cut into tiles that overlap, and what lies beyond their edges is mirrored ([`predict`]). Weights are
//! those of a training here, or a state dict that `PyTorch` saved of a published network ([`checkpoint`], [`models`]).
//!
//! # Train
//!
//! [`train::Trainer`] makes one step a call, on [samples](data::Sample) from wherever they come, from random weights or from
//! [trained ones](train::Trainer::start_from); [`train::train`] is a whole run with its folder,
//! checkpoints, scores and report, which goes on exactly where it was cut off. [`data::Dataset`] reads folders of images and says what is wrong with them.
//!
//! ```no_run
//! use tilewise::{executor::Device, train::{Config, Trainer}};
//!
//! # fn learn(device: &Device, samples: Vec<tilewise::data::Sample>) -> tilewise::Result<()> {
//! let config = Config { base: 16, depth: 3, ..Config::default() };
//! let net = config.model(1, 2);
//! let samples = samples.into_iter().map(|sample| config.prepared(sample)).collect::<tilewise::Result<Vec<_>>>()?;
//! let mut trainer = Trainer::new(&config, net, net.legal_above(256), device, samples)?;
//! for _ in 0..config.steps {
//!     println!("{}", trainer.step()?.loss);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # In a program that has a device
//!
//! [`Gpu::from_device`] is a guest on a host's [`wgpu::Device`]: it sets no handlers, and what it records with
//! [`gpu::Plan::record_into`] is submitted by the host. [`gpu::Requirements`] says what to request the device with.
//! What waits for a device can be awaited: [`Gpu::choose_within`], the methods of [`gpu::Plan`] and [`executor::Executor`] that end in `_async`,
//! [`Predictor::predict_async`](predict::Predictor::predict_async), [`Trainer::step_async`](train::Trainer::step_async). Their futures can be sent
//! between threads, and are ready once somebody has polled the device; [`Gpu::block_on`] polls it itself, which is what the blocking forms do.
//! What takes long, such as [`train::train`] or [`bench::run`], blocks its thread, tells of its [`progress`], and can be broken off.
//! [`predict::Segmenter`] segments a buffer or a texture that is on the device, and leaves the result there. Devices, plans and predictors are
//! `Send + Sync`; clones of a [`Gpu`] share compiled kernels. There is no state of ours that is global; what is spread over cores is by rayon's pool, which is. A
//! device that is lost is an error, unless the program aborts on panics, since wgpu panics then.
//!
//! # Underneath
//!
//! A [`Graph`] is a list of nodes; a node is an [`op`] with its inputs. [`Graph::gradients`] appends the nodes of the backward pass,
//! [`Graph::fused`] merges ops, and an executor runs the result: [`cpu`], the definition of correct, or a [`gpu::Plan`], which has decided for every
//! kernel and every byte of memory before the first run. An op of your own implements [`op::Op`], with its WGSL, its reference
//! and its gradient; [`gradcheck`](gradcheck::gradcheck) and [`selftest::check_case`] hold the three against each other. Networks of your own are
//! functions that add nodes; trainers and predictors know those of [`models`].
//!
//! Tensors are NHWC, the weights of convolutions `[kh, kw, c_in, c_out]`, all of `f32` or `u32`; activations may be stored as `f16`
//! ([`models::Precision`]).
//!
//! # Errors, features, versions
//!
//! Whatever a user can cause is an [`Error`] that names the file or value and what to do; nothing panics on it. The feature `cli`, on by default,
//! builds the program and brings the crates that only it needs: a library is content with `default-features = false`. The crate wgpu,
//! whose types appear in [`gpu`] and [`predict::Segmenter`], is re-exported as [`wgpu`]: a new major version of it is a new major version here
//! (a minor one before 1.0), as are changes of what files mean; results may change in their last bits in any version.

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
mod file;
pub mod fold;
pub mod fuse;
pub mod gpu;
pub mod gradcheck;
pub mod graph;
pub mod metrics;
pub mod models;
pub mod onnx;
pub mod op;
pub mod ops;
mod page;
pub mod picture;
pub mod predict;
pub mod progress;
pub mod random;
pub mod recompute;
pub mod report;
pub mod selftest;
pub mod shape;
mod split;
pub mod train;
pub mod tune;

pub use error::{Error, Result};
pub use gpu::Gpu;
pub use graph::Graph;
pub use wgpu;
