//! The ops, one file each, and their registry.

mod add;
mod relu;

pub use add::Add;
pub use relu::{Relu, ReluGrad};

use crate::op::{Binding, Candidate, Case, Dispatch, Kernel, workgroup_grid};
use crate::shape::TensorType;

/// What the project knows of an op: tests, `selftest`, benches and docs walk this list.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The op's name: its file, folder of shaders and page.
    pub name: &'static str,
    /// The page that teaches it.
    pub page: &'static str,
    /// Its cases, gradients included.
    pub cases: fn() -> Result<Vec<Case>, String>,
}

/// Every op.
pub const REGISTRY: &[Entry] = &[
    Entry { name: "add", page: include_str!("../docs/ops/add.md"), cases: add::cases },
    Entry { name: "relu", page: include_str!("../docs/ops/relu.md"), cases: relu::cases },
];

/// The one dispatch of a kernel whose invocations own one element of the result each, in workgroups of 64.
pub(crate) fn elementwise(kernel: Kernel, bindings: Vec<Binding>, output: &TensorType) -> Candidate {
    let count = output.shape.elements();
    let params = vec![("count", count.into())];
    Dispatch { kernel, constants: vec![], bindings, params, workgroups: workgroup_grid(count.div_ceil(64)) }.into()
}
