//! Launches of the kernels for the head of a network: a convolution of one element, from many channels to few.

use super::launch::{Epilogue, Geometry, constant, divisible, in_parts, parts};
use super::loops::Window;
use crate::kernel;
use crate::op::{Binding, Candidate, Dispatch, Kernel, workgroup_grid};

/// The most output channels: an invocation has the sums of all of them.
const MOST_CHANNELS: usize = 4;

/// The window that leaves every pixel by itself.
const PIXEL: Window = Window { kernel_size: [1, 1], stride: [1, 1], padding: [0, 0] };

/// Invocations of a workgroup of `conv2d/grad_weight_head`, and how many of them lie side by side at most.
const INVOCATIONS: usize = 256;
const MOST_LANES: usize = 16;

/// Pixels for which an invocation of `conv2d/grad_input_head` uses the weight that it loads.
const PIXELS: usize = 4;

impl Geometry {
    /// Pixels, and fours of input channels in each, where window and channels are those of a head.
    fn head(&self) -> Option<[usize; 2]> {
        let few = self.out_channels <= MOST_CHANNELS && self.in_channels.is_multiple_of(4);
        let extents = [self.batch * self.out_extents[0] * self.out_extents[1], self.in_channels / 4];
        (self.window == PIXEL && few).then_some(extents)
    }

    /// One launch, for which all images are one row of pixels.
    fn dispatch_of_head(
        &self,
        kernel: Kernel,
        constants: &[(&'static str, usize)],
        bindings: Vec<Binding>,
        params: &[(&'static str, usize)],
        workgroups: usize,
    ) -> Dispatch {
        let constants = [&[("OUT_CHANNELS", self.out_channels)], constants].concat();
        Dispatch {
            kernel,
            constants: constants.iter().map(constant).collect(),
            bindings,
            params: divisible(params),
            workgroups: workgroup_grid(workgroups),
        }
    }

    /// The forward pass with a bias, which heads have.
    pub(super) fn forward_of_head(&self, bias: Option<Binding>, epilogue: Epilogue) -> Option<Candidate> {
        let [pixels, in_quads] = self.head()?;
        let bindings = vec![Binding::Input(0), Binding::Input(1), bias?, Binding::Output];
        let constants = [("RELU", usize::from(epilogue == Epilogue::Relu))];
        let params = [("pixels", pixels), ("in_quads", in_quads)];
        let kernel = kernel!("conv2d/forward_head");
        Some(self.dispatch_of_head(kernel, &constants, bindings, &params, pixels.div_ceil(64)).into())
    }

    /// The gradient of the input.
    pub(super) fn input_gradient_of_head(&self, epilogue: Epilogue) -> Option<Candidate> {
        let [pixels, in_quads] = self.head()?;
        let (grad_output, mask) = (Binding::Input(1), epilogue.mask());
        let bindings = vec![grad_output, Binding::Input(0), mask.unwrap_or(grad_output), Binding::Output];
        let constants = [("MASK", usize::from(mask.is_some())), ("PIXELS", PIXELS)];
        let params = [("pixels", pixels), ("in_quads", in_quads)];
        let workgroups = (pixels.div_ceil(PIXELS) * in_quads).div_ceil(64);
        let kernel = kernel!("conv2d/grad_input_head");
        Some(self.dispatch_of_head(kernel, &constants, bindings, &params, workgroups).into())
    }

    /// The gradient of the weight.
    pub(super) fn weight_gradient_of_head(&self) -> Option<Candidate> {
        let [pixels, in_quads] = self.head()?;
        let lanes = in_quads.next_power_of_two().min(MOST_LANES);
        let blocks = in_quads.div_ceil(lanes);
        // A sixteenth of the workgroups that kernels of few invocations have.
        let parts = parts(pixels, 1, 16 * blocks);
        Some(in_parts(parts, self.in_channels * self.out_channels, |partial| {
            let constants = [("LANES", lanes), ("ROWS", INVOCATIONS / lanes)];
            let bindings = vec![Binding::Input(0), Binding::Input(1), partial];
            let params = [("pixels", pixels), ("in_quads", in_quads), ("pixels_per_part", pixels.div_ceil(parts))];
            self.dispatch_of_head(kernel!("conv2d/grad_weight_head"), &constants, bindings, &params, parts * blocks)
        }))
    }
}
