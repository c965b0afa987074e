//! Launches of the kernels for the few input channels of a first layer.

use super::launch::{Epilogue, Geometry, WRITTEN_OUT, columns, in_parts, pair_lanes, pair_parts, parts};
use crate::kernel;
use crate::op::{Binding, Candidate, DeviceProfile};

/// The most input channels: their part of the weight stays in registers.
const MOST_CHANNELS: usize = 3;

/// Pixels in a row that an invocation of `conv2d/forward_few` and of `conv2d/grad_weight_few` takes together.
const RUN: usize = 4;

/// Invocations of a workgroup of `conv2d/grad_weight_few` and how many of them lie side by side, both at most; and how many fours of sums
/// they have room for in workgroup memory.
const INVOCATIONS: usize = 256;
const MOST_LANES: usize = 16;
const SHARED_QUADS: usize = 1024;

/// Rows of pixels that a lane of `conv2d/forward_few_subgroup` owns: enough that loading its weight does not count.
const TILE_HEIGHT: usize = 16;

impl Geometry {
    /// Fours of output channels, where window and channels are those of a first layer.
    fn few_quads(&self) -> Option<usize> {
        let window = &self.window;
        let overlaps = window.stride[0] <= window.kernel_size[0] && window.stride[1] <= window.kernel_size[1];
        let few = self.in_channels <= MOST_CHANNELS && window.kernel_size.iter().product::<usize>() <= WRITTEN_OUT;
        (overlaps && few && self.out_channels.is_multiple_of(4)).then_some(self.out_channels / 4)
    }

    /// Runs of pixels in all rows of all images.
    fn runs(&self) -> usize {
        self.batch * self.out_extents[0] * self.out_extents[1].div_ceil(RUN)
    }

    /// The forward pass, on any device.
    pub(super) fn forward_of_few(&self, bias: Option<Binding>, epilogue: Epilogue) -> Option<Candidate> {
        let quads = self.few_quads()?;
        let constants = [
            ("BIAS", usize::from(bias.is_some())),
            ("RELU", usize::from(epilogue == Epilogue::Relu)),
            ("IN_CHANNELS", self.in_channels),
            ("PIXELS", RUN),
        ];
        let weight = Binding::Input(1);
        let bindings = vec![Binding::Input(0), weight, bias.unwrap_or(weight), Binding::Output];
        let workgroups = (self.runs() * quads).div_ceil(64);
        Some(self.dispatch(kernel!("conv2d/forward_few"), &constants, bindings, &[], workgroups).into())
    }

    /// The gradient of the weight, on any device.
    pub(super) fn weight_gradient_of_few(&self) -> Option<Candidate> {
        let quads = self.few_quads()?;
        let lanes = quads.next_power_of_two().min(MOST_LANES);
        let taps = self.window.kernel_size[1] * self.in_channels;
        let invocations = INVOCATIONS.min(1 << (SHARED_QUADS / taps).ilog2());
        let blocks = self.window.kernel_size[0] * quads.div_ceil(lanes);
        // A sixteenth of the workgroups that kernels of few invocations have.
        let parts = parts(self.runs(), RUN, 16 * blocks);
        let elements = self.window.kernel_size.iter().product::<usize>() * self.in_channels * self.out_channels;
        Some(in_parts(parts, elements, |partial| {
            let constants =
                [("IN_CHANNELS", self.in_channels), ("LANES", lanes), ("ROWS", invocations / lanes), ("PIXELS", RUN)];
            let bindings = vec![Binding::Input(0), Binding::Input(1), partial];
            let params = [("runs_per_part", self.runs().div_ceil(parts))];
            self.dispatch(kernel!("conv2d/grad_weight_few"), &constants, bindings, &params, parts * blocks)
        }))
    }

    /// Lanes of a workgroup, where device, window and channels allow it; even numbers of channels have kernels of their own.
    fn few_lanes(&self, device: &DeviceProfile) -> Option<usize> {
        let few = self.in_channels <= MOST_CHANNELS && !self.in_channels.is_multiple_of(2);
        pair_lanes(&self.window, 2, self.out_channels, device).filter(|_| few)
    }

    /// The forward pass, by shuffles.
    pub(super) fn forward_of_few_by_shuffles(
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

    /// The gradient of the weight, by shuffles.
    pub(super) fn weight_gradient_of_few_by_shuffles(&self, device: &DeviceProfile) -> Option<Candidate> {
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
