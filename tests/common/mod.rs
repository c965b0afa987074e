//! What the tests of kernels share.

use tilewise::array::Tensor;
use tilewise::gpu::device::DRIVER_ADVICE;
use tilewise::gpu::{DeviceChoice, Gpu, Limits, Plan};

/// The best adapter, as far as these limits go.
pub(crate) fn gpu(limits: Limits) -> Gpu {
    let gpu =
        pollster::block_on(Gpu::choose_within(&DeviceChoice::Auto, limits)).unwrap_or_else(|error| panic!("{error}"));
    gpu.unwrap_or_else(|| panic!("no GPU adapter was found: {DRIVER_ADVICE}"))
}

/// All that a plan leaves behind.
pub(crate) fn bits(plan: &Plan) -> Vec<Vec<u32>> {
    let graph = plan.graph();
    let outputs = graph.outputs().iter().map(|&(_, node)| match plan.read(node).unwrap() {
        Tensor::Float(array) => array.data.into_iter().map(f32::to_bits).collect(),
        Tensor::Uint(array) => array.data,
    });
    let banks = graph.banks().into_iter();
    let banks = banks.map(|bank| plan.read_bank(bank).unwrap().into_iter().map(f32::to_bits).collect());
    outputs.chain(banks).collect()
}
