//! The sum over pixels that a loss ends in: a reduction, bound by memory.

use super::{Climb, Ladder, Launch, Rung};
use crate::array::{Array, Real, Tensor};
use crate::kernel;
use crate::op::{Binding, Bound, Candidate, Case, DeviceProfile, Dispatch, Fill, Kernel, Op, Param, workgroup_grid};
use crate::ops::Entry;
use crate::shape::{DType, TensorType};
use std::sync::Arc;

pub(super) static LADDER: Ladder = Ladder {
    name: "loss",
    entry: Entry { name: "ladder/loss", page: include_str!("../../../docs/kernels/loss.md"), cases },
    rungs: &RUNGS,
    op: || Arc::new(Sum),
    sides: [2048, 1024],
    channels: None,
    inputs: |side, _| Ok(vec![(TensorType::f32([side, side])?, Fill::Positive)]),
    activations: &[],
};

const RUNGS: [Rung; 4] = [
    Rung {
        name: "serial",
        idea: "one invocation adds everything",
        needs: "",
        launch: Launch::Own(|inputs, _, _| Some(strips(inputs[0].shape.elements(), inputs))),
    },
    Rung {
        name: "strips",
        idea: "an invocation for every 32 neighbours, then one for every 32 of their sums, and so on",
        needs: "",
        launch: Launch::Own(|inputs, _, _| Some(strips(STRIP, inputs))),
    },
    Rung {
        name: "tree",
        idea: "neighbours load neighbours, and 256 sums are halved in workgroup memory again and again: fewer dispatches",
        needs: "",
        launch: Launch::Own(|inputs, _, _| {
            Some(in_stages(TREE_TERMS, inputs, |count, terms| Stage {
                kernel: kernel!("ladder/loss/tree"),
                params: vec![("count", count.into()), ("terms", terms.into())],
                workgroups: count,
            }))
        }),
    },
    Rung {
        name: "interleaved",
        idea: "in use: strips whose terms lie apart, so that neighbours load neighbours, without workgroup memory and barriers",
        needs: "",
        launch: Launch::InUse("cross_entropy/sum"),
    },
];

/// Terms that one invocation adds.
const STRIP: usize = 32;

/// Terms that a workgroup of `ladder/loss/tree` adds.
const TREE_TERMS: usize = 16 * 256;

/// One dispatch of a sum.
struct Stage {
    kernel: Kernel,
    params: Vec<(&'static str, Param)>,
    workgroups: usize,
}

/// Dispatches that each make one sum of `terms` terms, until one is left.
fn in_stages(terms: usize, inputs: &[TensorType], stage: impl Fn(usize, usize) -> Stage) -> Candidate {
    let mut candidate = Candidate { dispatches: vec![], workspace: vec![] };
    let (mut left, mut source) = (inputs[0].shape.elements(), Binding::Input(0));
    loop {
        let count = left.div_ceil(terms);
        let target = if count == 1 { Binding::Output } else { Binding::Workspace(candidate.workspace.len()) };
        let Stage { kernel, params, workgroups } = stage(count, left);
        let (bindings, workgroups) = (vec![source, target], workgroup_grid(workgroups));
        candidate.dispatches.push(Dispatch { kernel, constants: vec![], bindings, params, workgroups });
        if count == 1 {
            return candidate;
        }
        candidate.workspace.push(count);
        (left, source) = (count, target);
    }
}

fn strips(strip: usize, inputs: &[TensorType]) -> Candidate {
    in_stages(strip, inputs, |count, terms| Stage {
        kernel: kernel!("ladder/loss/strips"),
        params: vec![("count", count.into()), ("terms", terms.into()), ("strip", strip.into())],
        workgroups: count.div_ceil(64),
    })
}

/// The sum of all elements of a tensor.
#[derive(Debug)]
struct Sum;

impl Op for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [x] if x.dtype == DType::F32 => TensorType::f32([1]),
            _ => Err(format!("expected one float tensor, got {inputs:?}")),
        }
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let sum: f64 = inputs[0].float().data.iter().map(|value| value.as_f64()).sum();
        let sum = TensorType::f32([1]).map(|one| Array::filled(one.shape, T::from_f64(sum)));
        sum.into_iter().map(Tensor::Float).collect()
    }

    /// As `cross_entropy` and its kin add what their first dispatch leaves.
    fn candidates(&self, inputs: &[TensorType], _: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        vec![in_stages(STRIP, inputs, |count, terms| Stage {
            kernel: kernel!("cross_entropy/sum"),
            params: vec![("count", count.into()), ("terms", terms.into())],
            workgroups: count.div_ceil(64),
        })]
    }

    fn flops(&self, inputs: &[TensorType], _: &TensorType) -> u64 {
        inputs[0].shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Terms(inputs[0].float().data.len())
    }
}

fn cases() -> Result<Vec<Case>, String> {
    let case = |terms: usize| {
        let inputs = vec![(TensorType::f32([terms])?, Fill::Normal(1.0))];
        Ok::<_, String>(Case { name: format!("{terms} terms"), op: Arc::new(Climb(&LADDER)), inputs })
    };
    [1, 32, 33, 4096, 4097, 70_001].into_iter().map(case).collect()
}
