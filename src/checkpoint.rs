//! Weights on disk: safetensors files with `PyTorch`'s names and layouts, replaced atomically.
//!
//! A file holds one tensor per parameter under the parameter's name, convolution weights as OIHW and transposed-convolution
//! weights as IOHW, so that `safetensors.torch.load_file` followed by `load_state_dict` reads it. What a reader needs to know
//! besides the numbers is text in the file's metadata ([`Metadata`]). A file that was written elsewhere says nothing there; if it holds one of the
//! published networks, its names and shapes tell. Files of `torch.save` are read, too, and names may be exchanged by [`Names`]. A trainer's file holds its optimiser state too, as
//! tensors whose names begin with `optim.`.
//!
//! Reading trusts nothing: see [`Weights::load`]. Writing never leaves a half-written file: see [`atomic::write`].

pub mod atomic;
mod difference;
mod layout;
mod metadata;
mod names;
mod published;
mod pytorch;
mod save;
mod weights;

pub(crate) use layout::Layout;
pub use metadata::Metadata;
pub use names::Names;
pub use save::{Section, save};
pub use weights::Weights;

/// Tensors whose names begin so belong to a trainer, not to the network.
const OPTIMIZER: &str = "optim.";

/// What stands before a parameter's name in the name of its optimiser state, `state` being `PyTorch`'s word for it, such as
/// `momentum_buffer`.
pub fn state_prefix(state: &str) -> String {
    format!("{OPTIMIZER}{state}.")
}
