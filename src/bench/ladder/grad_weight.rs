//! The gradient of the weight of that convolution: a long sum for few results.

use super::{Climb, Inputs, Ladder, Launch, Rung};
use crate::kernel;
use crate::op::{Binding, Candidate, Case, Dispatch, Fill, Op, workgroup_grid};
use crate::ops::{Conv2d, Conv2dGradWeight, Entry, in_parts};
use crate::shape::TensorType;
use std::sync::Arc;

pub(super) static LADDER: Ladder = Ladder {
    name: "grad_weight",
    entry: Entry { name: "ladder/grad_weight", page: include_str!("../../../docs/kernels/grad_weight.md"), cases },
    rungs: &RUNGS,
    op: || Arc::new(Conv2dGradWeight { conv: Conv2d::default(), kernel_size: [3, 3] }),
    sides: [256, 32],
    channels: Some(64),
    inputs: |side, channels| inputs([1, side, side, channels], channels),
    activations: &[0, 1],
};

const RUNGS: [Rung; 7] = [
    Rung {
        name: "naive",
        idea: "one invocation computes one element of the weight's gradient: a sum over all pixels",
        needs: "",
        launch: Launch::Own(|inputs, output, _| Some(naive(1, inputs, output))),
    },
    Rung {
        name: "parts",
        idea: "the sum is cut into 16 parts, added in order by a second dispatch: more invocations, the same bits every time",
        needs: "",
        launch: Launch::Own(|inputs, output, _| Some(naive(16, inputs, output))),
    },
    Rung {
        name: "register blocks",
        idea: "an invocation owns 3 × 4 × 2 elements, and x slides along the row in registers; in use on software drivers without subgroups, and for f16",
        needs: "",
        launch: Launch::InUse("conv2d/grad_weight"),
    },
    Rung {
        name: "tiled",
        idea: "in use on GPUs: tiles of pixels pass through workgroup memory, blocks of 8 × 8, loads a turn ahead",
        needs: "channels that are multiples of 4, and more than 16",
        launch: Launch::InUse("conv2d/grad_weight_tiled"),
    },
    Rung {
        name: "pairs",
        idea: "for software drivers: loads of two channels, shared by shuffles, without workgroup memory and barriers; in use there for few channels or pixels",
        needs: "even channels, integers of 64 bits, and subgroups of a fixed size that is a multiple of 8",
        launch: Launch::InUse("conv2d/grad_weight_subgroup"),
    },
    Rung {
        name: "winograd",
        idea: "in use on software drivers: a quarter of the multiplications, between transforms of tiles of x and of the gradient, and of their sums",
        needs: "channels that are multiples of 4, and integers of 64 bits",
        launch: Launch::InUse("conv2d/winograd_input"),
    },
    Rung {
        name: "matrices",
        idea: "for GPUs with units for it, once `tune` has found it faster: a subgroup multiplies whole matrices of f16, and adds to f32",
        needs: "units that multiply matrices, --precision mixed, and channels that are multiples of a matrix's side",
        // What begins with the image and its zeros, laid out.
        launch: Launch::InUse("conv2d/matrix_rows"),
    },
];

fn naive(parts: usize, inputs: &[TensorType], output: &TensorType) -> Candidate {
    let (x, elements) = (inputs[0].shape.extents(), output.shape.elements());
    let rows = x[0] * (x[1] - 2);
    let rows_per_part = rows.div_ceil(parts);
    // None of the parts is empty.
    let parts = rows.div_ceil(rows_per_part);
    in_parts(parts, elements, |partial| Dispatch {
        kernel: kernel!("ladder/grad_weight/naive"),
        constants: vec![],
        bindings: vec![Binding::Input(0), Binding::Input(1), partial],
        params: vec![
            ("batch", x[0].into()),
            ("height", x[1].into()),
            ("width", x[2].into()),
            ("in_channels", x[3].into()),
            ("out_channels", output.shape.channels().into()),
            ("parts", parts.into()),
            ("rows_per_part", rows_per_part.into()),
        ],
        workgroups: workgroup_grid((parts * elements).div_ceil(64)),
    })
}

/// An image, and the gradient of what its convolution gives.
fn inputs(x: [usize; 4], out_channels: usize) -> Result<Inputs, String> {
    let weight = TensorType::f32([3, 3, x[3], out_channels])?;
    let x = TensorType::f32(x)?;
    let y = Conv2d::default().output(&[x.clone(), weight])?;
    Ok(vec![(x, Fill::Normal(1.0)), (y, Fill::Normal(1.0))])
}

fn cases() -> Result<Vec<Case>, String> {
    let shapes = [
        ("one element", [1, 3, 3, 1], 1),
        ("primes, batch 2", [2, 7, 19, 3], 5),
        ("fours, two parts", [1, 25, 27, 20], 36),
    ];
    let case = |(name, x, out_channels): (&str, _, _)| {
        Ok::<_, String>(Case { name: name.into(), op: Arc::new(Climb(&LADDER)), inputs: inputs(x, out_channels)? })
    };
    shapes.into_iter().map(case).collect()
}
