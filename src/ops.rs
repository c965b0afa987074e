//! The ops, one file each, and their registry.

mod adam;
mod add;
mod argmax;
mod augment;
mod batch_norm;
mod cast;
mod clip_grad_norm;
mod conv2d;
mod conv_transpose2d;
mod crop_concat;
mod cross_entropy;
mod dice;
mod dropout;
mod loss_scale;
mod max_pool2d;
mod mirror;
mod pad;
mod prelu;
mod relu;
mod resize;
mod sgd;
mod sigmoid;
mod softmax;
mod unpack;

pub use adam::{Adam, AdamSettings};
pub use add::Add;
pub use argmax::Argmax;
pub use augment::{AugmentImage, AugmentLabels, AugmentPositions, AugmentWeights, Interpolation};
pub use batch_norm::{
    BatchNorm, BatchNormGradInput, BatchNormGradMoments, BatchNormGradParameter, BatchNormGradSums, BatchNormMoments,
    BatchNormMomentsGrad, BatchNormParameters, BatchNormSettings, BatchNormStack, BatchNormStore, BatchNormTrack, Over,
    Statistic,
};
pub use cast::Cast;
pub use clip_grad_norm::{ClipGradNorm, ClipGradNormTotal};
pub use conv_transpose2d::{ConvTranspose2d, ConvTranspose2dGradInput, ConvTranspose2dGradWeight};
pub(crate) use conv2d::launch::in_parts;
pub use conv2d::{Conv2d, Conv2dGradBias, Conv2dGradInput, Conv2dGradWeight, Conv2dRelu, ThenReluGrad};
pub use crop_concat::CropConcat;
pub use cross_entropy::{CrossEntropy, CrossEntropyGrad, CrossEntropyScale, CrossEntropySettings, Reduction};
pub use dice::{Dice, DiceGrad, DiceSettings};
pub use dropout::Dropout;
pub use loss_scale::{LossScale, LossScaleNext, LossScaleOverflows, LossScaleState, LossScaleUnscale};
pub use max_pool2d::{MaxPool2d, MaxPool2dGrad, MaxPool2dGradSkip};
pub use mirror::Mirror;
pub use pad::Pad;
pub use prelu::{Prelu, PreluGradInput, PreluGradSlope};
pub use relu::{Relu, ReluGrad};
pub use resize::{Resize, ResizeGrad, ResizeMode};
pub use sgd::{Sgd, SgdSettings};
pub use sigmoid::{Sigmoid, SigmoidGrad};
pub use softmax::{Softmax, SoftmaxGrad};
pub use unpack::Unpack;

use crate::array::{Array, Real, Tensor};
use crate::op::{Binding, Candidate, Case, DeviceProfile, Dispatch, Fill, Kernel, Op, Param, pieces, workgroup_grid};
use crate::shape::{DType, TensorType};
use std::sync::Arc;

/// What the project knows of an op: tests and `selftest` walk this list.
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
    Entry { name: "adam", page: include_str!("../docs/ops/adam.md"), cases: adam::cases },
    Entry { name: "add", page: include_str!("../docs/ops/add.md"), cases: add::cases },
    Entry { name: "argmax", page: include_str!("../docs/ops/argmax.md"), cases: argmax::cases },
    Entry { name: "augment", page: include_str!("../docs/ops/augment.md"), cases: augment::cases },
    Entry { name: "batch_norm", page: include_str!("../docs/ops/batch_norm.md"), cases: batch_norm::cases },
    Entry { name: "cast", page: include_str!("../docs/ops/cast.md"), cases: cast::cases },
    Entry { name: "clip_grad_norm", page: include_str!("../docs/ops/clip_grad_norm.md"), cases: clip_grad_norm::cases },
    Entry { name: "conv2d", page: include_str!("../docs/ops/conv2d.md"), cases: conv2d::cases },
    Entry {
        name: "conv_transpose2d",
        page: include_str!("../docs/ops/conv_transpose2d.md"),
        cases: conv_transpose2d::cases,
    },
    Entry { name: "crop_concat", page: include_str!("../docs/ops/crop_concat.md"), cases: crop_concat::cases },
    Entry { name: "cross_entropy", page: include_str!("../docs/ops/cross_entropy.md"), cases: cross_entropy::cases },
    Entry { name: "dice", page: include_str!("../docs/ops/dice.md"), cases: dice::cases },
    Entry { name: "dropout", page: include_str!("../docs/ops/dropout.md"), cases: dropout::cases },
    Entry { name: "loss_scale", page: include_str!("../docs/ops/loss_scale.md"), cases: loss_scale::cases },
    Entry { name: "max_pool2d", page: include_str!("../docs/ops/max_pool2d.md"), cases: max_pool2d::cases },
    Entry { name: "mirror", page: include_str!("../docs/ops/mirror.md"), cases: mirror::cases },
    Entry { name: "pad", page: include_str!("../docs/ops/pad.md"), cases: pad::cases },
    Entry { name: "prelu", page: include_str!("../docs/ops/prelu.md"), cases: prelu::cases },
    Entry { name: "relu", page: include_str!("../docs/ops/relu.md"), cases: relu::cases },
    Entry { name: "resize", page: include_str!("../docs/ops/resize.md"), cases: resize::cases },
    Entry { name: "sgd", page: include_str!("../docs/ops/sgd.md"), cases: sgd::cases },
    Entry { name: "sigmoid", page: include_str!("../docs/ops/sigmoid.md"), cases: sigmoid::cases },
    Entry { name: "softmax", page: include_str!("../docs/ops/softmax.md"), cases: softmax::cases },
    Entry { name: "unpack", page: include_str!("../docs/ops/unpack.md"), cases: unpack::cases },
];

/// One dispatch of `count` invocations in workgroups of 64; `count` is the first of the kernel's params.
pub(crate) fn invocations(
    kernel: Kernel,
    bindings: Vec<Binding>,
    count: usize,
    params: &[(&'static str, Param)],
) -> Dispatch {
    let params = [&[("count", count.into())], params].concat();
    Dispatch { kernel, constants: vec![], bindings, params, workgroups: workgroup_grid(count.div_ceil(64)) }
}

/// Workgroups of a kernel that takes turns, on a software driver: enough for any number of cores.
const SOFTWARE_WORKGROUPS: usize = 256;

/// One dispatch of a kernel whose invocations own one of `count` elements in each of several turns. A GPU has a workgroup for every 64
/// of them, and one turn; a software driver, which spends more time on entering a kernel than on an element, has few workgroups.
pub(crate) fn turns(
    kernel: Kernel,
    bindings: Vec<Binding>,
    count: usize,
    params: &[(&'static str, Param)],
    device: &DeviceProfile,
) -> Dispatch {
    let dispatch = invocations(kernel, bindings, count, params);
    if !device.software {
        return dispatch;
    }
    Dispatch { workgroups: workgroup_grid(count.div_ceil(64).min(SOFTWARE_WORKGROUPS)), ..dispatch }
}

/// How many channels the invocations of a kernel of `Elements` take at once: four where all these numbers are of fours, since finding a
/// place takes them longer than what they do there.
pub(crate) fn channels_at_once(numbers: &[usize]) -> usize {
    if numbers.iter().all(|number| number.is_multiple_of(4)) { 4 } else { 1 }
}

/// What the aliases in the text of such a kernel become.
pub(crate) fn aliases(kernel: Kernel, channels_at_once: usize) -> Vec<(&'static str, String)> {
    let in_fours = [("Elements", "vec4<Stored>"), ("Values", "vec4f"), ("Places", "vec4u")];
    let replaced = in_fours.iter().filter(|(alias, _)| channels_at_once == 4 && kernel.has_alias(alias));
    replaced.map(|&(alias, vector)| (alias, vector.to_owned())).collect()
}

/// The dispatches of a kernel that overwrites banks element by element, one for each of the pieces that banks are in. It binds these of
/// the inputs, of which those that are like the first one are banks.
pub(crate) fn in_banks(
    kernel: Kernel,
    constants: &[(&'static str, String)],
    bound: &[usize],
    inputs: &[TensorType],
    params: &[(&'static str, Param)],
    device: &DeviceProfile,
) -> Candidate {
    let update = |(piece, _, bytes): (usize, u64, u64)| {
        let is_bank = |input: usize| inputs[input] == inputs[0];
        let binding = |&input| if is_bank(input) { Binding::Piece(input, piece) } else { Binding::Input(input) };
        let update = turns(kernel, bound.iter().map(binding).collect(), bytes as usize / 4, params, device);
        Dispatch { constants: constants.to_vec(), ..update }
    };
    let dispatches = pieces(0, inputs[0].size_bytes(), device.piece_bytes()).map(update).collect();
    Candidate { dispatches, workspace: vec![] }
}

/// The one dispatch of a kernel whose invocations own elements of the result and need to know only how many there are.
pub(crate) fn elementwise(
    kernel: Kernel,
    bindings: Vec<Binding>,
    output: &TensorType,
    device: &DeviceProfile,
) -> Candidate {
    turns(kernel, bindings, output.shape.elements(), &[], device).into()
}

/// The extents of images that an op's shape rule has admitted.
pub(crate) fn image(tensor_type: &TensorType) -> [usize; 4] {
    tensor_type.shape.image().unwrap_or_else(|_| unreachable!("the shape rule admits only images here"))
}

/// The one input of an op that takes floats of 32 bits.
pub(crate) fn one_float(inputs: &[TensorType]) -> Result<&TensorType, String> {
    match inputs {
        [x] if x.dtype == DType::F32 => Ok(x),
        _ => Err(format!("expected one tensor of f32, got {inputs:?}")),
    }
}

/// The one input of an op that takes activations, however they are stored.
pub(crate) fn one_activation(inputs: &[TensorType]) -> Result<&TensorType, String> {
    match inputs {
        [x] if x.dtype.is_float() => Ok(x),
        _ => Err(format!("expected one float tensor, got {inputs:?}")),
    }
}

/// The cases, and each again as [`halved`] has it.
pub(crate) fn in_both_precisions(mut cases: Vec<Case>) -> Vec<Case> {
    let halves: Vec<Case> = cases.iter().filter_map(halved).collect();
    cases.extend(halves);
    cases
}

/// A case with as many of its inputs stored as `f16` as the op takes; `None` if it takes none so, and where values are such that `f16` has
/// none, or so many that they say nothing new.
pub(crate) fn halved(case: &Case) -> Option<Case> {
    let large = |fill: &Fill| matches!(fill, Fill::Normal(deviation) if *deviation > 1e3);
    if case.inputs.iter().any(|(tensor_type, fill)| large(fill) || tensor_type.shape.elements() > 1 << 19) {
        return None;
    }
    let with = |halves: u32| -> Vec<TensorType> {
        let stored = |((tensor_type, _), place): (&(TensorType, Fill), u32)| match tensor_type.dtype {
            DType::F32 if halves >> place & 1 == 1 => {
                TensorType { dtype: DType::F16, shape: tensor_type.shape.clone() }
            }
            _ => tensor_type.clone(),
        };
        case.inputs.iter().zip(0..).map(stored).collect()
    };
    let subsets = 1..1_u32 << case.inputs.len();
    let taken = subsets.map(with).filter(|types| case.op.output(types).is_ok());
    let types = taken.max_by_key(|types| types.iter().filter(|tensor_type| tensor_type.dtype == DType::F16).count())?;
    let inputs: Vec<_> = types.into_iter().zip(case.inputs.iter().map(|&(_, fill)| fill)).collect();
    let stores_half = inputs.iter().any(|(tensor_type, _)| tensor_type.dtype == DType::F16);
    let name = format!("{}, f16", case.name);
    stores_half.then(|| Case { name, op: Arc::clone(&case.op), inputs })
}

/// The shape rule of a gradient that takes the result, and the result's gradient, and is like both.
pub(crate) fn like_the_result(inputs: &[TensorType]) -> Result<TensorType, String> {
    match inputs {
        [y, grad] if y == grad && y.dtype == DType::F32 => Ok(y.clone()),
        _ => Err(format!("expected the result and its gradient, of one shape, got {inputs:?}")),
    }
}

/// The one result of a reference whose elements were computed in `f64`.
pub(crate) fn rounded<T: Real>(op: &impl Op, inputs: &[&Tensor<T>], values: Vec<f64>) -> Vec<Tensor<T>> {
    let mut result = zeros(op, inputs);
    result.data.iter_mut().zip(values).for_each(|(result, value)| *result = T::from_f64(value));
    vec![Tensor::Float(result)]
}

/// Zeros in the shape of the result for inputs that the op's shape rule has admitted.
pub(crate) fn zeros<T: Real>(op: &impl Op, inputs: &[&Tensor<T>]) -> Array<T> {
    let types: Vec<TensorType> = inputs.iter().map(|input| input.tensor_type()).collect();
    let output = op.output(&types).unwrap_or_else(|_| unreachable!("the shape rule has passed"));
    Array::filled(output.shape, T::zero())
}
