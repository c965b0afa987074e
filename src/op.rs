//! What an op is, and the plain data it speaks: [`Dispatch`], [`Candidate`], [`Bound`], [`Case`].
//!
//! An op knows its shape rule, its reference (plain loops, the definition of correct), the dispatches that compute it on a
//! GPU, its gradient rule and its cost. It knows no GPU API: dispatches are data, carried out by [`crate::gpu`].

use crate::array::{Real, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeId};
use crate::onnx::{Translation, Value};
use crate::shape::{DType, MOST_ELEMENTS, TensorType};
use half::f16;
use std::any::{Any, TypeId};
use std::convert::Infallible;
use std::fmt::{self, Debug};
use std::ops::Range;

pub use crate::case::{Case, Fill};

/// An operation on tensors. One value of the type holds the op's settings (stride, padding, …).
pub trait Op: Debug + Send + Sync + 'static {
    /// The op's name: its file in `src/ops`, its folder in `shaders`, its page in `docs/ops`.
    fn name(&self) -> &'static str;

    /// The shape rule: the type of the result for these inputs.
    ///
    /// # Errors
    /// In words, what was expected and what was found; the graph adds the names of op and node.
    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String>;

    /// What the first extent of tensors is to the op. Where they are in more pieces than a device can bind, a plan computes an op that takes images alone,
    /// or sums over them, some of them at a time: by its candidates for a smaller batch.
    fn by_image(&self) -> ByImage {
        ByImage::Together
    }

    /// The definition of correct: plain loops, in `f32` or `f64`.
    ///
    /// Inputs have passed [`Op::output`]. The result is one tensor, or, for an op that updates state, the new value of each
    /// input listed by [`Op::writes`].
    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>>
    where
        Self: Sized;

    /// Ways to compute the op on a GPU, the preferred one first. Every one must be correct on every device it is offered for. They say
    /// nothing of how activations are stored: a plan takes what [`AnyOp::offered`] makes of them. Kernels only index what they bind, by
    /// elements of at most four channels, as it may be in pieces, or a concatenation in two tensors, of which each takes a binding.
    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate>;

    /// A way to compute the op that computes the gradient of the first input as well, into [`Binding::Gradient`], where the gradient of the
    /// result is 1. A plan takes it where that is wanted.
    fn candidate_with_gradient(&self, _inputs: &[TensorType]) -> Option<Candidate> {
        None
    }

    /// The indices of the inputs that the op overwrites in place; empty for a pure function. The node of an op that writes
    /// stands for the new value of its first written input.
    fn writes(&self) -> &'static [usize] {
        &[]
    }

    /// The gradient rule: adds nodes that compute the gradient of each needed input from the gradient of the output.
    ///
    /// # Errors
    /// When the op has no gradient, or the new nodes cannot be built.
    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        Err(Error::Graph {
            op: self.name().into(),
            node: backward.name.clone(),
            problem: "this op has no gradient; compute it outside the path from the parameters to the loss".into(),
        })
    }

    /// The translation rule: adds the operators that are the op in ONNX.
    ///
    /// # Errors
    /// When the op has no counterpart there, or not for these inputs.
    fn onnx(&self, translation: &mut Translation<'_>) -> Result<Value> {
        Err(translation.error("this op has no counterpart in ONNX, so its network cannot be exported"))
    }

    /// That no kernel of the op indexes anything outside of its bounds, so that nothing needs to look; only ops of this crate's can tell.
    fn proof(&self) -> Option<Proof> {
        None
    }

    /// Floating-point operations of one evaluation (a multiply-add counts as two).
    fn flops(&self, inputs: &[TensorType], output: &TensorType) -> u64;

    /// The largest error in `f32` that rounding explains of `output`, which is result number `result` of the reference in `f64`.
    fn bound(&self, inputs: &[&Tensor<f64>], output: &Tensor<f64>, result: usize) -> Bound;

    /// The like for a candidate that adds other terms than the reference, whose roundings are others; `None` for the others.
    fn candidate_bound(
        &self,
        _candidate: &Candidate,
        _inputs: &[&Tensor<f64>],
        _output: &Tensor<f64>,
        _result: usize,
    ) -> Option<Bound> {
        None
    }
}

/// How an op takes the images of a batch, which are told apart by the first extent of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByImage {
    /// Each image of the result may depend on all images.
    Together,
    /// Each image of the result is computed from the like image of these inputs, and from other inputs as a whole.
    Alone(&'static [usize]),
    /// The result, of `f32`, is a sum over the images of these inputs.
    Summed(&'static [usize]),
}

impl ByImage {
    /// The inputs that have images.
    pub fn inputs(self) -> &'static [usize] {
        match self {
            Self::Together => &[],
            Self::Alone(inputs) | Self::Summed(inputs) => inputs,
        }
    }

    pub(crate) fn is_sum(self) -> bool {
        matches!(self, Self::Summed(_))
    }
}

/// An [`Op`] of any type. Implemented for every op; nothing else needs to.
pub trait AnyOp: Op {
    /// The reference in `f32`.
    fn reference_f32(&self, inputs: &[&Tensor<f32>]) -> Vec<Tensor<f32>>;
    /// The reference in `f64`.
    fn reference_f64(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>>;
    /// The op as a value whose type can be asked for.
    fn as_any(&self) -> &dyn Any;

    /// [`Op::candidates`] for tensors as they are stored: where some are `f16`, those whose kernels can read and write that, so
    /// specialised, and whose scratch space kernels can index.
    fn offered(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let mut candidates = self.candidates(inputs, output, device);
        // Scratch space is indexed as tensors are.
        candidates.retain(|candidate| candidate.workspace.iter().all(|&elements| elements <= MOST_ELEMENTS));
        let half = |binding: &Binding| match *binding {
            Binding::Input(index) | Binding::InputImages(index, _) | Binding::Piece(index, _) => {
                inputs.get(index).is_some_and(|input| input.dtype == DType::F16)
            }
            Binding::Output | Binding::OutputImages(_) => output.dtype == DType::F16,
            Binding::Workspace(_) | Binding::Gradient => false,
        };
        let binds_half = |dispatch: &Dispatch| dispatch.bindings.iter().any(half);
        candidates.retain(|candidate| {
            candidate.dispatches.iter().all(|dispatch| dispatch.kernel.has_alias(STORED) || !binds_half(dispatch))
        });
        candidates.retain(|candidate| {
            let is_whole = |binding: &Binding| {
                let bytes = match *binding {
                    Binding::Input(index) | Binding::InputImages(index, _) => {
                        inputs.get(index).map_or(0, TensorType::size_bytes)
                    }
                    Binding::Gradient => inputs.first().map_or(0, TensorType::size_bytes),
                    Binding::Piece(..) => 0,
                    Binding::Output | Binding::OutputImages(_) => output.size_bytes(),
                    Binding::Workspace(index) => {
                        candidate.workspace.get(index).map_or(0, |&elements| 4 * elements as u64)
                    }
                };
                bytes <= device.piece_bytes()
            };
            let mut pointing = candidate.dispatches.iter().filter(|dispatch| dispatch.kernel.takes_pointers());
            pointing.all(|dispatch| dispatch.bindings.iter().all(is_whole))
        });
        let dispatches = candidates.iter_mut().flat_map(|candidate| &mut candidate.dispatches);
        for dispatch in dispatches.filter(|dispatch| binds_half(dispatch)) {
            dispatch.constants.push((STORED, "f16".into()));
        }
        candidates
    }
}

/// The alias in a kernel's text for the type of the elements of activations, which is `f32` unless it is replaced.
const STORED: &str = "Stored";

impl<O: Op> AnyOp for O {
    fn reference_f32(&self, inputs: &[&Tensor<f32>]) -> Vec<Tensor<f32>> {
        self.reference(inputs)
    }
    fn reference_f64(&self, inputs: &[&Tensor<f64>]) -> Vec<Tensor<f64>> {
        self.reference(inputs)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// That the kernels of an op index nothing outside of its bounds, not what they bind, nor memory of their own, and read no memory of a workgroup that
/// it has not written. It follows from the types of the op's tensors, whatever is in them. Tests run each of these kernels with each index looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof(TypeId);

impl Proof {
    /// For ops of this type.
    pub(crate) fn of<O: Op>() -> Self {
        Self(TypeId::of::<O>())
    }

    /// Whether it is one for this op, and not that of another.
    pub(crate) fn is_of(self, op: &dyn AnyOp) -> bool {
        op.as_any().type_id() == self.0
    }
}

/// What an op sees while its gradient is built.
pub struct Backward<'a> {
    /// The graph to add nodes to.
    pub graph: &'a mut Graph,
    /// The name of the op's own node; gradient nodes are named after it.
    pub name: String,
    /// The op's inputs.
    pub inputs: &'a [NodeId],
    /// The op's result.
    pub output: NodeId,
    /// The gradient of the loss with respect to the op's result.
    pub grad_output: NodeId,
    /// For each input, whether its gradient is needed.
    pub needs: &'a [bool],
}

impl Backward<'_> {
    /// Adds a gradient node named `<op's node>.<role>`.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn apply(&mut self, role: &str, op: impl Op, inputs: &[NodeId]) -> Result<NodeId> {
        self.graph.apply(&format!("{}.{role}", self.name), op, inputs)
    }

    /// The type of one of the op's inputs.
    pub fn input_type(&self, index: usize) -> TensorType {
        self.graph.node(self.inputs[index]).tensor_type.clone()
    }
}

/// A GPU program: its path under `shaders` is its identity, label and error prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// Such as `conv2d/forward`.
    pub path: &'static str,
    /// WGSL text that is valid as it stands.
    pub source: &'static str,
}

impl Kernel {
    /// Whether the text takes pointers into storage, as loads of matrices do, so that this cannot be in pieces.
    pub fn takes_pointers(&self) -> bool {
        ["(&", ", &"].iter().any(|pointer| self.source.contains(pointer))
    }

    /// Whether the text has an alias of this name, whose type can be replaced.
    pub(crate) fn has_alias(&self, name: &str) -> bool {
        let declares = |line: &str| line.strip_prefix("alias ").is_some_and(|rest| rest.starts_with(name));
        self.source.lines().any(declares)
    }
}

/// The [`Kernel`] at a path under `shaders`.
#[macro_export]
macro_rules! kernel {
    ($path:literal) => {
        $crate::op::Kernel {
            path: $path,
            source: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $path, ".wgsl")),
        }
    };
}

/// One kernel launch, as plain data.
#[derive(Clone, Debug, PartialEq)]
pub struct Dispatch {
    /// The program.
    pub kernel: Kernel,
    /// New right-hand sides of the kernel's top-level `const` and `alias` lines, by name, as WGSL text.
    pub constants: Vec<(&'static str, String)>,
    /// What is bound at `@group(0) @binding(0)`, `@binding(1)`, …; the uniform `params`, if any, follows as the last binding.
    pub bindings: Vec<Binding>,
    /// The fields of the kernel's `Params`, in order.
    pub params: Vec<(&'static str, Param)>,
    /// The number of workgroups in each dimension.
    pub workgroups: [u32; 3],
}

/// The last of the params of a kernel that may take a slow device long: the index of its first workgroup, so that a launch can be
/// divided into several.
pub const FIRST_WORKGROUP: (&str, Param) = ("first_workgroup", Param::U32(0));

impl Dispatch {
    /// Into how many launches it can be divided: its workgroups, or 1 where its kernel cannot begin at another than the first.
    pub fn divisible_by(&self) -> u32 {
        if self.is_divisible() { self.workgroups.iter().product() } else { 1 }
    }

    fn is_divisible(&self) -> bool {
        self.params.last() == Some(&FIRST_WORKGROUP)
    }
}

/// What a kernel's storage binding refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Binding {
    /// An input of the op.
    Input(usize),
    /// Some of the images of an input: of candidates that a plan makes of others, where the whole is in too many pieces.
    InputImages(usize, Images),
    /// Of an input that is a whole bank one piece of [`DeviceProfile::piece_bytes`], counted from 0: for kernels that have a dispatch for each,
    /// and so bind few buffers however many the pieces are.
    Piece(usize, usize),
    /// The op's result.
    Output,
    /// Some of its images.
    OutputImages(Images),
    /// A scratch buffer of the candidate.
    Workspace(usize),
    /// The gradient of the op's first input, where a plan computes it along with the result.
    Gradient,
}

impl Binding {
    /// The images that it takes of more.
    pub(crate) fn images(&self) -> Option<Images> {
        match *self {
            Self::InputImages(_, images) | Self::OutputImages(images) => Some(images),
            _ => None,
        }
    }
}

/// Images of a batch, one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Images {
    /// The first of them.
    pub first: usize,
    /// How many.
    pub count: usize,
}

impl Images {
    /// Their bytes in a tensor whose first extent they are of.
    pub(crate) fn bytes_of(self, tensor: &TensorType) -> Range<u64> {
        let batch = tensor.shape.extents().first().copied().unwrap_or(1);
        let end = |image: usize| match image {
            // What is stored as `f16` may end with two bytes more.
            _ if image == batch => tensor.size_bytes(),
            _ => tensor.size_bytes() / batch as u64 * image as u64,
        };
        end(self.first)..end(self.first + self.count)
    }
}

/// A field of a kernel's `Params`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Param {
    /// `u32`
    U32(u32),
    /// `f32`
    F32(f32),
}

impl From<usize> for Param {
    /// An extent or count; shapes are checked to fit 32 bits.
    fn from(value: usize) -> Self {
        Self::U32(value as u32)
    }
}

impl From<f32> for Param {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl Param {
    /// The four bytes of the field.
    pub fn to_bits(self) -> u32 {
        match self {
            Self::U32(value) => value,
            Self::F32(value) => value.to_bits(),
        }
    }
}

/// One way to compute an op: dispatches in order, and the scratch buffers they share.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The launches, in order.
    pub dispatches: Vec<Dispatch>,
    /// The number of four-byte elements of each scratch buffer.
    pub workspace: Vec<usize>,
}

impl Candidate {
    /// So many operations of the op, by dispatch. Those that can be divided have them, for they are what takes long, each as its workgroups are
    /// many: the others move what these multiply. Where none can be, the first has them.
    pub(crate) fn operations(&self, all: u64) -> Vec<u64> {
        let weights = self.dispatches.iter().map(|dispatch| {
            let workgroups: u128 = dispatch.workgroups.iter().map(|&count| u128::from(count)).product();
            if dispatch.is_divisible() { workgroups } else { 0 }
        });
        let mut weights: Vec<u128> = weights.collect();
        if weights.iter().all(|&weight| weight == 0) {
            weights.iter_mut().take(1).for_each(|weight| *weight = 1);
        }
        let sum: u128 = weights.iter().sum();
        // Of rounded numbers the differences, so that they add up to all.
        let mut before = 0;
        let share = |weight: u128| {
            let up_to = |weight: u128| (u128::from(all) * weight / sum) as u64;
            let share = up_to(before + weight) - up_to(before);
            before += weight;
            share
        };
        weights.into_iter().map(share).collect()
    }
}

impl From<Dispatch> for Candidate {
    fn from(dispatch: Dispatch) -> Self {
        Self { dispatches: vec![dispatch], workspace: Vec::new() }
    }
}

impl fmt::Display for Candidate {
    /// Kernels, constants and workgroups: `conv2d/grad_weight LANES=8u OUTPUTS=2u 36×1×1 + conv2d/reduce_partials 3×1×1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, Dispatch { kernel, constants, workgroups: [x, y, z], .. }) in self.dispatches.iter().enumerate()
        {
            f.write_str(if position == 0 { "" } else { " + " })?;
            f.write_str(kernel.path)?;
            constants.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))?;
            write!(f, " {x}×{y}×{z}")?;
        }
        Ok(())
    }
}

/// What an op may know of the device it is planned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceProfile {
    /// Whether the device is a CPU that runs shaders (lavapipe, WARP, `SwiftShader`).
    pub software: bool,
    /// The subgroup size, if subgroup operations are enabled and every pipeline gets the same size.
    pub subgroup_size: Option<u32>,
    /// Whether kernels may use integers of 64 bits.
    pub int64: bool,
    /// Whether kernels may read and write floats of 16 bits. A graph that stores some is refused where they may not, so ops need not ask.
    pub f16: bool,
    /// The side of the square matrices of `f16` that the device multiplies by units of its own, adding to `f32`, where kernels may have
    /// such matrices; a subgroup holds each.
    pub matrix_side: Option<u32>,
    /// The most bytes of a tensor that a kernel sees through one binding. A plan cuts larger ones into pieces, so ops need not ask, but for those
    /// that go through banks piece by piece.
    pub largest_binding: u64,
    /// The most storage buffers that a kernel can bind. Ops need not ask for this, either.
    pub storage_buffers: u32,
}

impl DeviceProfile {
    /// The profile that every device satisfies.
    pub const PORTABLE: Self = Self {
        software: false,
        subgroup_size: None,
        int64: false,
        f16: false,
        matrix_side: None,
        largest_binding: 128 << 20,
        storage_buffers: 8,
    };

    /// The bytes of each piece, but for the last, of what is larger than a binding: as many as that admits in whole multiples of 256, where
    /// storage can be bound on every device, and which no element lies across.
    pub fn piece_bytes(&self) -> u64 {
        (self.largest_binding - self.largest_binding % STORAGE_ALIGNMENT).max(STORAGE_ALIGNMENT)
    }
}

/// Storage can be bound from multiples of so many bytes on, on every device.
pub(crate) const STORAGE_ALIGNMENT: u64 = 256;

/// Bytes from `start` on, cut at every multiple of `piece`: which piece, the first byte in it, and how many.
pub(crate) fn pieces(start: u64, bytes: u64, piece: u64) -> impl Iterator<Item = (usize, u64, u64)> {
    let end = start + bytes;
    (start / piece..end.div_ceil(piece)).map(move |index| {
        let first = start.max(index * piece);
        (index as usize, first - index * piece, end.min((index + 1) * piece) - first)
    })
}

/// The types of matrices, each of so many rows and columns, in the texts of kernels that multiply them: `Left` and `Right`, of `f16`, and
/// `Sum`, of `f32`.
pub(crate) fn matrix_types(side: impl fmt::Display) -> [(&'static str, String); 3] {
    [("Left", "f16", "A"), ("Right", "f16", "B"), ("Sum", "f32", "C")]
        .map(|(name, element, role)| (name, format!("coop_mat{side}x{side}<{element}, {role}>")))
}

/// How far a result in `f32` may lie from the reference in `f64`.
#[derive(Clone, Debug, PartialEq)]
pub enum Bound {
    /// Not at all: the op only moves, compares or selects values.
    Exact,
    /// By this share of the magnitude of each element.
    Relative(f64),
    /// Each element is a sum of `n` products: by 4 √n · 2⁻²⁴ of the sum of the products' magnitudes, which is what the
    /// reference gives for the inputs' magnitudes.
    Terms(usize),
    /// By a bound of its own for each element.
    Elements(Vec<f64>),
}

/// The unit roundoff of `f32`, 2⁻²⁴.
pub const UNIT_ROUNDOFF: f64 = 1.0 / 16_777_216.0;

/// The unit roundoff of `f16`, 2⁻¹¹.
pub(crate) const HALF_ROUNDOFF: f64 = 1.0 / 2048.0;

/// Half of the least positive `f16`, 2⁻²⁵: what rounding to it is off by at most where that is more.
pub(crate) const HALF_LEAST: f64 = 1.0 / 33_554_432.0;

impl Bound {
    /// The bound of every element of `output`.
    pub fn elements(&self, op: &dyn AnyOp, inputs: &[&Tensor<f64>], output: &Tensor<f64>) -> Vec<f64> {
        let reference = |inputs: Vec<Tensor<f64>>| {
            let inputs: Vec<&Tensor<f64>> = inputs.iter().collect();
            Ok::<_, Infallible>(op.reference_f64(&inputs).swap_remove(0))
        };
        let Ok(bounds) = self.elements_by(inputs, output, reference);
        bounds
    }

    /// As [`Bound::elements`], where something else computes the op on the inputs' magnitudes.
    pub(crate) fn elements_by<E>(
        &self,
        inputs: &[&Tensor<f64>],
        output: &Tensor<f64>,
        compute: impl FnOnce(Vec<Tensor<f64>>) -> Result<Tensor<f64>, E>,
    ) -> Result<Vec<f64>, E> {
        let Tensor::Float(reference) = output else {
            return Ok(vec![0.0; output.uint().data.len()]);
        };
        Ok(match self {
            Self::Exact => vec![0.0; reference.data.len()],
            Self::Relative(share) => reference.data.iter().map(|value| share * value.abs()).collect(),
            Self::Terms(count) => {
                let magnitudes: Vec<Tensor<f64>> = inputs
                    .iter()
                    .map(|&input| match input {
                        Tensor::Float(array) => {
                            let mut array = array.clone();
                            array.data.iter_mut().for_each(|value| *value = value.abs());
                            Tensor::Float(array)
                        }
                        Tensor::Uint(_) => input.clone(),
                    })
                    .collect();
                let share = 4.0 * (*count as f64).sqrt() * UNIT_ROUNDOFF;
                compute(magnitudes)?.float().data.iter().map(|sum| share * sum).collect()
            }
            Self::Elements(bounds) => bounds.clone(),
        })
    }
}

/// What a result is held against that is stored in this type, from its reference and bounds before: stored as `f16`, it is rounded once
/// more, by 2⁻¹¹ of its magnitude, or 2⁻²⁵ where that is more, unless it is known exactly and is an `f16` already; and it is infinite past
/// the largest.
pub(crate) fn stored(dtype: DType, reference: &mut Tensor<f64>, bounds: &mut [f64]) {
    let (Tensor::Float(reference), DType::F16) = (reference, dtype) else { return };
    for (value, bound) in reference.data.iter_mut().zip(bounds) {
        let rounded = f16::from_f64(*value).to_f64();
        if rounded.is_infinite() {
            *value = rounded;
        } else if *bound > 0.0 || rounded.to_bits() != value.to_bits() {
            *bound += HALF_ROUNDOFF * (value.abs() + *bound) + HALF_LEAST;
        }
    }
}

/// The grid for `count` workgroups: one dimension, or two where it exceeds 65,535. Kernels recover the index as
/// `workgroup_id.x + workgroup_id.y * num_workgroups.x`, those of [`FIRST_WORKGROUP`] count on from that, and do nothing past their last element.
pub fn workgroup_grid(count: usize) -> [u32; 3] {
    const LARGEST: usize = 65_535;
    let rows = count.div_ceil(LARGEST).max(1);
    [count.div_ceil(rows) as u32, rows as u32, 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_count_with_the_dispatches_that_can_be_divided() {
        let dispatch = |workgroups, divisible: bool| Dispatch {
            kernel: Kernel { path: "k", source: "" },
            constants: vec![],
            bindings: vec![],
            params: if divisible { vec![FIRST_WORKGROUP] } else { vec![] },
            workgroups,
        };
        let operations =
            |dispatches: &[Dispatch]| Candidate { dispatches: dispatches.to_vec(), workspace: vec![] }.operations(10);
        let [transform, products, last] = [([9, 1, 1], false), ([2, 2, 1], true), ([2, 1, 1], true)];
        let [transform, products, last] =
            [transform, products, last].map(|(grid, divisible)| dispatch(grid, divisible));
        assert_eq!(operations(&[transform.clone(), products, transform.clone(), last]), [0, 6, 0, 4]);
        assert_eq!(operations(&[transform.clone(), transform]), [10, 0]);
        assert_eq!(operations(&[]), [0; 0]);
    }
}
