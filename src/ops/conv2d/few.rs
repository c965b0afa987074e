//! Launches of the kernels for the few input channels of a first layer, of which there are no pairs.

use super::launch::{Epilogue, Geometry, columns, in_parts, pair_lanes, pair_parts};
use crate::kernel;
use crate::op::{Binding, Candidate, DeviceProfile};

/// The most input channels: their part of the weight stays in registers.
const MOST_CHANNELS: usize = 3;

/// Rows of pixels that a lane of `conv2d/forward_few_subgroup` owns: enough that loading its weight does not count.
const TILE_HEIGHT: usize = 16;

impl Geometry {
    /// Lanes of a workgroup, where device, window and channels allow it; even numbers of channels have kernels of their own.
    fn few_lanes(&self, device: &DeviceProfile) -> Option<usize> {
        let few = self.in_channels <= MOST_CHANNELS && !self.in_channels.is_multiple_of(2);
        pair_lanes(&self.window, 2, self.out_channels, device).filter(|_| few)
    }

    /// The forward pass.
    pub(super) fn forward_of_few(
        &self,
        bias: Option<Binding>,
        epilogue: Epilogue,
        device: &DeviceProfile,
    ) -> Option<Candidate> {
        let lanes = self.few_lanes(device)?;
        let width = columns(self.window.kernel_size[1], self.window.stride[1]);
        let constants = [
            ("BIAS", usize::from(bias.is_some())),
            ("RELU", usize::from(epilogue == Epilogue::Relu)),
            ("IN_CHANNELS", self.in_channels),
            ("LANES", lanes),
            ("TILE_HEIGHT", TILE_HEIGHT),
            ("TILE_WIDTH", width),
        ];
        let weight = Binding::Input(1);
        let bindings = vec![Binding::Input(0), weight, bias.unwrap_or(weight), Binding::Output];
        let tiles = self.batch * self.out_extents[0].div_ceil(TILE_HEIGHT) * self.out_extents[1].div_ceil(width);
        let workgroups = tiles * self.out_channels.div_ceil(2 * lanes);
        Some(self.dispatch(kernel!("conv2d/forward_few_subgroup"), &constants, bindings, &[], workgroups).into())
    }

    /// The gradient of the weight.
    pub(super) fn weight_gradient_of_few(&self, device: &DeviceProfile) -> Option<Candidate> {
        let lanes = self.few_lanes(device)?;
        let rows = self.batch * self.out_extents[0];
        let parts = pair_parts(rows, self.out_extents[1], self.out_channels.div_ceil(16), device);
        let elements = self.window.kernel_size.iter().product::<usize>() * self.in_channels * self.out_channels;
        Some(in_parts(parts, elements, |partial| {
            let constants = [
                ("IN_CHANNELS", self.in_channels),
                ("LANES", lanes),
                ("PIXELS", columns(self.window.kernel_size[1], self.window.stride[1])),
            ];
            let bindings = vec![Binding::Input(0), Binding::Input(1), partial];
            let workgroups = parts * self.out_channels.div_ceil(2 * lanes);
            let params = [("rows_per_part", rows.div_ceil(parts))];
            self.dispatch(kernel!("conv2d/grad_weight_few_subgroup"), &constants, bindings, &params, workgroups)
        }))
    }
}
