//! Weights on disk: safetensors files with `PyTorch`'s names and layouts, replaced atomically.
//!
//! A file holds one tensor per parameter under the parameter's name, convolution weights as OIHW and transposed-convolution
//! weights as IOHW, so that `safetensors.torch.load_file` followed by `load_state_dict` reads it. What a reader needs to know
//! besides the numbers is text in the file's metadata ([`Metadata`]). A trainer's file holds its optimiser state too, as
//! tensors whose names begin with `optim.`.
//!
//! Reading trusts nothing: see [`Weights::load`]. Writing never leaves a half-written file: see [`atomic::write`].

pub mod atomic;
mod difference;
mod layout;
mod metadata;
mod save;
mod weights;

pub use metadata::Metadata;
pub use save::{Section, save};
pub use weights::Weights;

/// The name before which a parameter's name stands for its velocity in SGD with momentum.
pub const VELOCITY: &str = "optim.velocity.";

/// Tensors whose names begin so belong to a trainer, not to the network.
const OPTIMIZER: &str = "optim.";
