//! What `conv2d` and `conv_transpose2d` share: which positions meet, the reference loops, the launch geometry.
//!
//! A convolution links a *fine* image and a *coarse* one: coarse position p meets fine position `stride · p + q − padding`
//! through element q of the weight. `conv2d` reads the fine image and writes the coarse one, `conv_transpose2d` the other way
//! round, and each one's input gradient has the links of the other's forward pass.

use crate::array::{Array, Real};
use crate::kernel;
use crate::op::{Binding, Candidate, DeviceProfile, Dispatch, Kernel, workgroup_grid};
use crate::shape::{DType, TensorType};
use rayon::prelude::*;

/// The largest kernel size and stride: kernels write out one row of the weight in full.
const LARGEST: usize = 32;

/// How a weight slides over an image: rows first, columns second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) kernel_size: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) padding: [usize; 2],
}

impl Window {
    /// Refuses what the kernels cannot do.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { kernel_size, stride, padding } = *self;
        for axis in 0..2 {
            if !(1..=LARGEST).contains(&kernel_size[axis]) || !(1..=LARGEST).contains(&stride[axis]) {
                return Err(format!(
                    "kernel size and stride must be 1 to {LARGEST}, got {kernel_size:?} and {stride:?}"
                ));
            }
            if padding[axis] >= kernel_size[axis] {
                return Err(format!("padding must be less than the kernel size {kernel_size:?}, got {padding:?}"));
            }
        }
        Ok(())
    }

    /// The extents of the coarse image that belongs to a fine one.
    pub(super) fn coarse(&self, fine: [usize; 2]) -> Result<[usize; 2], String> {
        let extent = |axis: usize| {
            let padded = fine[axis] + 2 * self.padding[axis];
            let slack = padded.checked_sub(self.kernel_size[axis]).ok_or_else(|| {
                format!("kernel size {:?} is larger than the input {fine:?} with its padding", self.kernel_size)
            })?;
            Ok::<_, String>(slack / self.stride[axis] + 1)
        };
        Ok([extent(0)?, extent(1)?])
    }

    /// The smallest extents of the fine image that belongs to a coarse one.
    pub(super) fn fine(&self, coarse: [usize; 2]) -> Result<[usize; 2], String> {
        let extent = |axis: usize| {
            let padded = (coarse[axis] - 1) * self.stride[axis] + self.kernel_size[axis];
            padded
                .checked_sub(2 * self.padding[axis])
                .filter(|&extent| extent > 0)
                .ok_or_else(|| format!("padding {:?} leaves nothing of the output", self.padding))
        };
        Ok([extent(0)?, extent(1)?])
    }
}

/// Element `q` of the weight and the position it links to, along one axis.
type Link = (usize, usize);

/// For each coarse position along an axis, its links to fine ones.
fn links_of_coarse(window: &Window, coarse: usize, fine: usize, axis: usize) -> Vec<Vec<Link>> {
    let fine_position = |p: usize, q: usize| (p * window.stride[axis] + q).checked_sub(window.padding[axis]);
    let links = |p: usize| {
        let inside = |q: usize| fine_position(p, q).filter(|&position| position < fine).map(|position| (q, position));
        (0..window.kernel_size[axis]).filter_map(inside).collect()
    };
    (0..coarse).map(links).collect()
}

/// For each fine position along an axis, its links to coarse ones.
fn links_of_fine(window: &Window, coarse: usize, fine: usize, axis: usize) -> Vec<Vec<Link>> {
    let mut turned = vec![Vec::new(); fine];
    for (p, links) in links_of_coarse(window, coarse, fine, axis).into_iter().enumerate() {
        for (q, position) in links {
            turned[position].push((q, p));
        }
    }
    turned
}

/// A stack of images, channels last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Images<'a, T> {
    pub(super) data: &'a [T],
    pub(super) extents: [usize; 2],
    pub(super) channels: usize,
}

impl<'a, T> Images<'a, T> {
    /// The images of an array `[n, h, w, c]`.
    pub(super) fn of(array: &'a Array<T>) -> Self {
        let extents = array.shape.extents();
        Self { data: &array.data, extents: [extents[1], extents[2]], channels: extents[3] }
    }

    fn count(&self) -> usize {
        self.data.len() / (self.extents[0] * self.extents[1] * self.channels)
    }

    fn row(&self, image: usize, row: usize) -> &'a [T] {
        let length = self.extents[1] * self.channels;
        &self.data[(image * self.extents[0] + row) * length..][..length]
    }
}

/// Which side of a [`Window`] the source of a sum is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Fine,
    Coarse,
}

/// The images whose every pixel is the sum, over its links (q, p), of `source[p]` times matrix q; matrices are
/// `[kh, kw, source channels, result channels]`.
pub(super) fn sum_of_products<T: Real>(
    window: &Window,
    source: Images<'_, T>,
    side: Side,
    matrices: &[T],
    extents: [usize; 2],
    bias: Option<&[T]>,
) -> Vec<T> {
    let links = |axis: usize| match side {
        Side::Fine => links_of_coarse(window, extents[axis], source.extents[axis], axis),
        Side::Coarse => links_of_fine(window, source.extents[axis], extents[axis], axis),
    };
    let (row_links, column_links) = (links(0), links(1));
    let matrix_size = matrices.len() / (window.kernel_size[0] * window.kernel_size[1]);
    let channels = matrix_size / source.channels;
    let mut result = vec![T::zero(); source.count() * extents[0] * extents[1] * channels];
    result.par_chunks_mut(extents[1] * channels).enumerate().for_each(|(line, row)| {
        let image = line / extents[0];
        for pixel in row.chunks_exact_mut(channels) {
            if let Some(bias) = bias {
                pixel.copy_from_slice(bias);
            }
        }
        for &(qy, y) in &row_links[line % extents[0]] {
            let source_row = source.row(image, y);
            for (pixel, links) in row.chunks_exact_mut(channels).zip(&column_links) {
                for &(qx, x) in links {
                    let q = qy * window.kernel_size[1] + qx;
                    let matrix = &matrices[q * matrix_size..][..matrix_size];
                    add_product(pixel, &source_row[x * source.channels..][..source.channels], matrix);
                }
            }
        }
    });
    result
}

/// So many neighbouring channels are summed in registers.
const BLOCK: usize = 16;

/// `result += vector · matrix`, the matrix row by row.
fn add_product<T: Real>(result: &mut [T], vector: &[T], matrix: &[T]) {
    let width = result.len();
    let mut start = 0;
    let (blocks, rest) = result.as_chunks_mut::<BLOCK>();
    for block in blocks {
        let mut sums = *block;
        for (&value, row) in vector.iter().zip(matrix.chunks_exact(width)) {
            for (sum, &factor) in sums.iter_mut().zip(&row[start..start + BLOCK]) {
                *sum += value * factor;
            }
        }
        *block = sums;
        start += BLOCK;
    }
    for (&value, row) in vector.iter().zip(matrix.chunks_exact(width)) {
        for (sum, &factor) in rest.iter_mut().zip(&row[start..]) {
            *sum += value * factor;
        }
    }
}

/// The gradient `[kh, kw, in channels, out channels]` of the weight: the sum over links of the outer products of the input's and
/// the output gradient's pixels. `side` says on which side of the window the input is.
pub(super) fn weight_gradient<T: Real>(
    window: &Window,
    input: Images<'_, T>,
    side: Side,
    grad_output: Images<'_, T>,
) -> Vec<T> {
    // For each element q along an axis, the pairs of positions it links: (input, output).
    let pairs = |axis: usize| {
        let (fine, coarse) = match side {
            Side::Fine => (input.extents[axis], grad_output.extents[axis]),
            Side::Coarse => (grad_output.extents[axis], input.extents[axis]),
        };
        let mut pairs = vec![Vec::new(); window.kernel_size[axis]];
        for (p, links) in links_of_coarse(window, coarse, fine, axis).into_iter().enumerate() {
            for (q, position) in links {
                pairs[q].push(if side == Side::Fine { (position, p) } else { (p, position) });
            }
        }
        pairs
    };
    let (rows, columns) = (pairs(0), pairs(1));
    let (ins, outs) = (input.channels, grad_output.channels);
    let mut result = vec![T::zero(); window.kernel_size[0] * window.kernel_size[1] * ins * outs];
    result.par_chunks_mut(outs).enumerate().for_each(|(index, sums)| {
        let (q, i) = (index / ins, index % ins);
        let (qy, qx) = (q / window.kernel_size[1], q % window.kernel_size[1]);
        for image in 0..input.count() {
            for &(y_in, y_out) in &rows[qy] {
                let (values, gradients) = (input.row(image, y_in), grad_output.row(image, y_out));
                for (block, sums) in sums.chunks_mut(BLOCK).enumerate() {
                    let length = sums.len();
                    let factors = columns[qx].iter().map(|&(x_in, x_out)| {
                        (values[x_in * ins + i], &gradients[x_out * outs + block * BLOCK..][..length])
                    });
                    add_scaled(sums, factors);
                }
            }
        }
    });
    result
}

/// `sums += factor · vector` for each pair; at most [`BLOCK`] sums.
fn add_scaled<'a, T: Real>(sums: &mut [T], factors: impl Iterator<Item = (T, &'a [T])>) {
    if let Ok(block) = <&mut [T; BLOCK]>::try_from(&mut *sums) {
        let mut kept = *block;
        for (factor, vector) in factors {
            for (sum, &value) in kept.iter_mut().zip(vector) {
                *sum += factor * value;
            }
        }
        *block = kept;
    } else {
        for (factor, vector) in factors {
            for (sum, &value) in sums.iter_mut().zip(vector) {
                *sum += factor * value;
            }
        }
    }
}

/// The weight `[kh, kw, in, out]` as `[kh, kw, out, in]`.
pub(super) fn turned<T: Real>(weight: &[T], ins: usize, outs: usize) -> Vec<T> {
    let mut turned = Vec::with_capacity(weight.len());
    for matrix in weight.chunks_exact(ins * outs) {
        for o in 0..outs {
            turned.extend((0..ins).map(|i| matrix[i * outs + o]));
        }
    }
    turned
}

/// A convolution in the words of its forward pass: everything that its kernels need to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) window: Window,
    pub(super) batch: usize,
    pub(super) in_extents: [usize; 2],
    pub(super) in_channels: usize,
    pub(super) out_extents: [usize; 2],
    pub(super) out_channels: usize,
}

impl Geometry {
    /// From the types of the forward pass's input and output.
    pub(super) fn new(window: Window, input: &TensorType, output: &TensorType) -> Self {
        let (input, output) = (input.shape.extents(), output.shape.extents());
        Self {
            window,
            batch: input[0],
            in_extents: [input[1], input[2]],
            in_channels: input[3],
            out_extents: [output[1], output[2]],
            out_channels: output[3],
        }
    }

    /// Floating-point operations of the forward pass, and of the gradient of the input or of the weight alike; `positions` are
    /// the extents of the coarse image.
    pub(super) fn flops(&self, positions: [usize; 2]) -> u64 {
        let weight = self.window.kernel_size[0] * self.window.kernel_size[1] * self.in_channels * self.out_channels;
        2 * (self.batch * positions[0] * positions[1]) as u64 * weight as u64
    }

    /// One launch: `constants` and `params` are added to those that all convolutions have.
    pub(super) fn dispatch(
        &self,
        kernel: Kernel,
        constants: &[(&'static str, usize)],
        bindings: Vec<Binding>,
        params: &[(&'static str, usize)],
        workgroups: usize,
    ) -> Dispatch {
        let Window { kernel_size, stride, padding } = self.window;
        let constants = [
            ("KERNEL_HEIGHT", kernel_size[0]),
            ("KERNEL_WIDTH", kernel_size[1]),
            ("STRIDE_Y", stride[0]),
            ("STRIDE_X", stride[1]),
            ("PADDING_Y", padding[0]),
            ("PADDING_X", padding[1]),
        ]
        .iter()
        .chain(constants)
        .map(|&(name, value)| (name, format!("{value}u")))
        .collect();
        let params = [
            ("batch", self.batch),
            ("in_height", self.in_extents[0]),
            ("in_width", self.in_extents[1]),
            ("in_channels", self.in_channels),
            ("out_height", self.out_extents[0]),
            ("out_width", self.out_extents[1]),
            ("out_channels", self.out_channels),
        ]
        .iter()
        .chain(params)
        .map(|&(name, value)| (name, value.into()))
        .collect();
        Dispatch { kernel, constants, bindings, params, workgroups: workgroup_grid(workgroups) }
    }
}

/// Lanes of a workgroup for a kernel whose lanes own `outputs` channels each. A software driver runs lanes one vector after the
/// other, so one vector is enough there and one program serves all widths.
pub(super) fn lanes(channels: usize, outputs: usize, device: &DeviceProfile) -> usize {
    if device.software { 8 } else { channels.div_ceil(outputs).next_power_of_two().clamp(8, 64) }
}

/// Lanes of a workgroup for a kernel that shuffles within groups of eight lanes, where the device allows it: every pipeline must
/// get the same subgroup size, eight must divide it, and it must divide the workgroup.
pub(super) fn subgroup_lanes(channels: usize, device: &DeviceProfile) -> Option<usize> {
    let size = device.subgroup_size.map(|size| size as usize).filter(|size| size.is_multiple_of(8) && *size <= 64)?;
    let vectors = if device.software { 1 } else { channels.div_ceil(size).clamp(1, 64 / size) };
    Some(size * vectors)
}

/// How a workgroup's lanes tile a result.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    lanes: usize,
    outputs: usize,
    height: usize,
    width: usize,
}

impl Tile {
    /// The tile of the kernels that any device can run.
    pub(super) fn plain(channels: usize, device: &DeviceProfile) -> Self {
        Self { lanes: lanes(channels, 2, device), outputs: 2, height: 1, width: 8 }
    }

    /// The tile of the kernels with shuffles, on devices that can run them.
    pub(super) fn subgroup(channels: usize, device: &DeviceProfile) -> Option<Self> {
        subgroup_lanes(channels, device).map(|lanes| Self { lanes, outputs: 1, height: 2, width: 8 })
    }

    pub(super) fn constants(&self) -> Vec<(&'static str, usize)> {
        let rest = if self.outputs > 1 { ("OUTPUTS", self.outputs) } else { ("TILE_HEIGHT", self.height) };
        vec![("LANES", self.lanes), ("TILE_WIDTH", self.width), rest]
    }

    /// Workgroups for a result of these extents, whose positions fall into `phases` along each axis.
    pub(super) fn workgroups(&self, batch: usize, extents: [usize; 2], phases: [usize; 2], channels: usize) -> usize {
        let rows = phases[0] * extents[0].div_ceil(self.height * phases[0]);
        let columns = phases[1] * extents[1].div_ceil(self.width * phases[1]);
        batch * rows * columns * channels.div_ceil(self.lanes * self.outputs)
    }
}

/// The candidates in order of preference: shuffles save loads, which pays where a load costs more than arithmetic.
pub(super) fn candidates(device: &DeviceProfile, plain: Candidate, subgroup: Option<Candidate>) -> Vec<Candidate> {
    let mut candidates = vec![plain];
    candidates.extend(subgroup);
    if device.software {
        candidates.reverse();
    }
    candidates
}

/// The number of parts into which a sum over `rows` of `pixels` is cut: enough for some thousand workgroups of `groups` each,
/// but at least 512 pixels and a row in each part. Depends on the shape alone, so that every device adds in the same order.
pub(super) fn parts(rows: usize, pixels: usize, groups: usize) -> usize {
    let parts = (4096 / groups).min((rows * pixels).div_ceil(512)).clamp(1, rows);
    rows.div_ceil(rows.div_ceil(parts))
}

/// A sum in parts: `partial` launches the kernel that writes them, into the binding it is given, and a second launch adds them in
/// order. One part needs no second launch.
pub(super) fn in_parts(parts: usize, elements: usize, partial: impl FnOnce(Binding) -> Dispatch) -> Candidate {
    if parts == 1 {
        return partial(Binding::Output).into();
    }
    let reduce = Dispatch {
        kernel: kernel!("conv2d/reduce_partials"),
        constants: vec![],
        bindings: vec![Binding::Workspace(0), Binding::Output],
        params: vec![("elements", elements.into()), ("parts", parts.into())],
        workgroups: workgroup_grid(elements.div_ceil(64)),
    };
    Candidate { dispatches: vec![partial(Binding::Workspace(0)), reduce], workspace: vec![parts * elements] }
}

/// A weight `[kh, kw, c_in, c_out]` for an input `[n, h, w, c_in]`, and a bias `[c_out]` if there is one; in words what is wrong.
pub(super) fn check_inputs(inputs: &[TensorType]) -> Result<(), String> {
    let ([x, weight] | [x, weight, _]) = inputs else {
        return Err(format!("expected an input, a weight and perhaps a bias, got {} tensors", inputs.len()));
    };
    if let Some(integers) = inputs.iter().find(|input| input.dtype != DType::F32) {
        return Err(format!("expected float tensors, got {integers}"));
    }
    let (&[_, _, _, channels], &[_, _, c_in, c_out]) = (x.shape.extents(), weight.shape.extents()) else {
        let (x, weight) = (&x.shape, &weight.shape);
        return Err(format!("expected an input [n, h, w, c] and a weight [kh, kw, c_in, c_out], got {x} and {weight}"));
    };
    if channels != c_in {
        return Err(format!("weight expects {c_in} input channels, the input has {channels}"));
    }
    match inputs.get(2) {
        Some(bias) if bias.shape.extents() != [c_out] => {
            Err(format!("weight has {c_out} output channels, the bias has shape {}", bias.shape))
        }
        _ => Ok(()),
    }
}

/// The extents of the inputs of a gradient op: two float tensors of rank 4.
pub(super) fn two_of_rank_4(inputs: &[TensorType]) -> Result<([usize; 4], [usize; 4]), String> {
    if let [a, b] = inputs
        && a.dtype == DType::F32
        && b.dtype == DType::F32
        && let (Ok(a), Ok(b)) = (a.shape.extents().try_into(), b.shape.extents().try_into())
    {
        return Ok((a, b));
    }
    Err(format!("expected two float tensors of rank 4, got {inputs:?}"))
}
