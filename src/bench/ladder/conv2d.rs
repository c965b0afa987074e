//! The forward pass of a convolution of 3×3 elements without padding.

use super::{Climb, Inputs, Ladder, Launch, Rung};
use crate::kernel;
use crate::op::{Binding, Candidate, Case, Dispatch, Fill, Kernel, workgroup_grid};
use crate::ops::{Conv2d, Entry};
use crate::shape::TensorType;
use std::sync::Arc;

pub(super) static LADDER: Ladder = Ladder {
    name: "conv2d",
    entry: Entry { name: "ladder/conv2d", page: include_str!("../../../docs/kernels/conv2d.md"), cases },
    rungs: &RUNGS,
    op: || Arc::new(Conv2d::default()),
    sides: [256, 32],
    channels: Some(64),
    inputs: |side, channels| inputs([1, side, side, channels], channels),
    activations: &[0],
};

const RUNGS: [Rung; 10] = [
    Rung {
        name: "naive",
        idea: "one invocation computes one output, as the formula says; neighbours take neighbouring pixels",
        needs: "",
        launch: Launch::Own(|inputs, output, _| naive("false", inputs, output)),
    },
    Rung {
        name: "coalesced",
        idea: "neighbours take neighbouring channels, as they lie in memory: their loads and stores become one",
        needs: "",
        launch: Launch::Own(|inputs, output, _| naive("true", inputs, output)),
    },
    Rung {
        name: "workgroup memory",
        idea: "256 invocations load a tile of x and weight together, and each element serves 16 of them",
        needs: "",
        launch: Launch::Own(|inputs, output, _| tiled(kernel!("ladder/conv2d/workgroup_memory"), 16, inputs, output)),
    },
    Rung {
        name: "register blocks",
        idea: "an invocation keeps 4 × 4 outputs in registers, so that 8 loads from workgroup memory serve 16 multiply-adds",
        needs: "",
        launch: Launch::Own(|inputs, output, _| tiled(kernel!("ladder/conv2d/register_blocks"), 64, inputs, output)),
    },
    Rung {
        name: "vec4",
        idea: "a load takes four channels: a quarter of the instructions for the same bytes",
        needs: "channels that are multiples of 4",
        launch: Launch::Own(|inputs, output, _| {
            let fours = inputs.iter().all(|input| input.shape.channels().is_multiple_of(4));
            fours.then(|| tiled(kernel!("ladder/conv2d/vec4"), 64, inputs, output))?
        }),
    },
    Rung {
        name: "tiled",
        idea: "in use on GPUs: blocks of 8 × 8, loads on their way a turn ahead, fewer bank conflicts, one kernel for four products",
        needs: "channels that are multiples of 4, and at least 8",
        launch: Launch::InUse("conv2d/correlation_tiled"),
    },
    Rung {
        name: "shuffles",
        idea: "another way up, for CPUs: invocations hand each other what they loaded, without workgroup memory and barriers",
        needs: "subgroups of a fixed size that is a multiple of 8 and at most 64",
        launch: Launch::Own(|inputs, output, device| {
            let lanes = device.subgroup_size.filter(|size| size.is_multiple_of(8) && *size <= 64)? as usize;
            let &[batch, height, width, channels] = output.shape.extents() else { return None };
            let workgroups = batch * height.div_ceil(4) * width.div_ceil(6) * channels.div_ceil(lanes);
            let constants = vec![("LANES", format!("{lanes}u"))];
            launch(kernel!("ladder/conv2d/shuffles"), constants, inputs, workgroups)
        }),
    },
    Rung {
        name: "pairs",
        idea: "in use on software drivers for few pixels or channels: a load takes two channels, and an invocation owns two",
        needs: "even channels, integers of 64 bits, and subgroups as for shuffles",
        launch: Launch::InUse("conv2d/correlation_subgroup"),
    },
    Rung {
        name: "winograd",
        idea: "in use on software drivers for many: a quarter of the multiplications, between transforms of tiles",
        needs: "channels that are multiples of 4, and integers of 64 bits",
        launch: Launch::InUse("conv2d/winograd_weight"),
    },
    Rung {
        name: "matrices",
        idea: "for GPUs with units for it, once `tune` has found it faster: a subgroup multiplies whole matrices of f16, and adds to f32",
        needs: "units that multiply matrices, --precision mixed, and channels that are multiples of a matrix's side",
        // What begins with the weight as f16.
        launch: Launch::InUse("cast/store"),
    },
];

fn naive(channels_first: &str, inputs: &[TensorType], output: &TensorType) -> Option<Candidate> {
    let constants = vec![("CHANNELS_FIRST", channels_first.to_owned())];
    launch(kernel!("ladder/conv2d/naive"), constants, inputs, output.shape.elements().div_ceil(64))
}

/// A kernel whose workgroups own tiles of `side` pixels and as many channels.
fn tiled(kernel: Kernel, side: usize, inputs: &[TensorType], output: &TensorType) -> Option<Candidate> {
    let workgroups = output.shape.pixels().div_ceil(side) * output.shape.channels().div_ceil(side);
    launch(kernel, vec![], inputs, workgroups)
}

/// A kernel in which 3 × 3 elements and no bias are written out.
fn launch(
    kernel: Kernel,
    constants: Vec<(&'static str, String)>,
    inputs: &[TensorType],
    workgroups: usize,
) -> Option<Candidate> {
    if inputs.len() != 2 || inputs[1].shape.extents()[..2] != [3, 3] {
        return None;
    }
    let names = ["batch", "height", "width", "in_channels", "out_channels"];
    let values = inputs[0].shape.extents().iter().copied().chain([inputs[1].shape.channels()]);
    let dispatch = Dispatch {
        kernel,
        constants,
        bindings: vec![Binding::Input(0), Binding::Input(1), Binding::Output],
        params: names.into_iter().zip(values.map(Into::into)).collect(),
        workgroups: workgroup_grid(workgroups),
    };
    Some(dispatch.into())
}

/// An image and a weight of 3×3.
fn inputs(x: [usize; 4], out_channels: usize) -> Result<Inputs, String> {
    let weight = TensorType::f32([3, 3, x[3], out_channels])?;
    Ok(vec![(TensorType::f32(x)?, Fill::Normal(1.0)), (weight, Fill::Normal(1.0))])
}

fn cases() -> Result<Vec<Case>, String> {
    let shapes = [
        ("one element", [1, 3, 3, 1], 1),
        ("primes, batch 2", [2, 7, 19, 3], 5),
        ("exactly one tile", [1, 10, 10, 16], 64),
        ("one over", [1, 7, 15, 17], 65),
        ("fours, batch 2", [2, 9, 12, 20], 68),
    ];
    let case = |(name, x, out_channels): (&str, _, _)| {
        Ok::<_, String>(Case { name: name.into(), op: Arc::new(Climb(&LADDER)), inputs: inputs(x, out_channels)? })
    };
    shapes.into_iter().map(case).collect()
}
