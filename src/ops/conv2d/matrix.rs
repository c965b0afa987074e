//! Launches of the kernels that multiply matrices of `f16` by units of the device's own, for activations that are stored so.

use super::launch::{Epilogue, Geometry, constant, pair_parts, total_of_parts};
use super::loops::Window;
use super::winograd::{LARGEST_BYTES, STRIP_BYTES};
use crate::array::{Array, Tensor};
use crate::kernel;
use crate::op::{
    AnyOp, Binding, Bound, Candidate, DeviceProfile, Dispatch, FIRST_WORKGROUP, HALF_LEAST, HALF_ROUNDOFF, Kernel,
    UNIT_ROUNDOFF, matrix_types, workgroup_grid,
};
use crate::ops::turns;
use crate::shape::DType;

/// Invocations in a workgroup of the kernels that lay out and take apart.
const LANES: usize = 64;

/// Matrices of sums that a subgroup owns, below and beside each other, at most: those that use a loaded one most often, and those that keep
/// more subgroups busy.
const BLOCKS: [[usize; 2]; 2] = [[4, 4], [2, 2]];

/// Square matrices of so many rows, each held by a subgroup of so many lanes.
#[derive(Clone, Copy, Debug)]
struct Unit {
    side: usize,
    lanes: usize,
}

impl Unit {
    /// The device's, where each pipeline gets the same subgroup size, tensors are stored as its matrices are, and both numbers of channels
    /// are whole matrices.
    fn of(device: &DeviceProfile, stored: DType, channels: [usize; 2]) -> Option<Self> {
        let (side, lanes) = device.matrix_side.zip(device.subgroup_size)?;
        let unit = Self { side: side as usize, lanes: lanes as usize };
        let fits = stored == DType::F16 && channels.iter().all(|channels| channels.is_multiple_of(unit.side));
        fits.then_some(unit)
    }

    /// How many matrices beside each other share the channels evenly: `most`, or a half of it, and so on.
    fn across(self, channels: usize, most: usize) -> usize {
        let halves = std::iter::successors(Some(most), |count| (*count > 1).then_some(count / 2));
        halves.into_iter().find(|count| channels.is_multiple_of(count * self.side)).unwrap_or(1)
    }

    fn constants(self, window: &Window, [rows, columns]: [usize; 2]) -> Vec<(&'static str, String)> {
        let numbers = [
            ("KERNEL_HEIGHT", window.kernel_size[0]),
            ("KERNEL_WIDTH", window.kernel_size[1]),
            ("LANES", self.lanes),
            ("SIDE", self.side),
            ("ROWS", rows),
            ("COLUMNS", columns),
        ];
        let mut constants: Vec<_> = numbers.iter().map(constant).collect();
        constants.extend(matrix_types(self.side));
        constants
    }
}

/// A launch of so many workgroups.
fn launch(
    kernel: Kernel,
    constants: Vec<(&'static str, String)>,
    bindings: Vec<Binding>,
    params: &[(&'static str, usize)],
    workgroups: usize,
) -> Dispatch {
    let params = params.iter().map(|&(name, value)| (name, value.into())).collect();
    Dispatch { kernel, constants, bindings, params, workgroups: workgroup_grid(workgroups) }
}

/// Images as rows of a matrix, one for each position of `pitch` rows and columns: an image and the zeros that a convolution of stride 1
/// meets around it.
#[derive(Clone, Copy, Debug)]
struct Layout {
    batch: usize,
    pitch: [usize; 2],
}

impl Layout {
    fn positions(&self) -> usize {
        self.batch * self.pitch[0] * self.pitch[1]
    }

    /// How many positions the last one that a weight meets lies behind the first.
    fn reach(&self, window: &Window) -> usize {
        (window.kernel_size[0] - 1) * self.pitch[1] + window.kernel_size[1] - 1
    }

    fn params(
        &self,
        [height, width]: [(&'static str, usize); 2],
        channels: usize,
        first: usize,
        positions: usize,
    ) -> [(&'static str, usize); 8] {
        [
            ("batch", self.batch),
            height,
            width,
            ("channels", channels),
            ("pitch_height", self.pitch[0]),
            ("pitch_width", self.pitch[1]),
            ("first_position", first),
            ("positions", positions),
        ]
    }

    /// Lays out so many positions of an image with zeros before it.
    fn rows(
        &self,
        bindings: [Binding; 2],
        padding: [usize; 2],
        extents: [usize; 2],
        channels: usize,
        [first, positions]: [usize; 2],
    ) -> Dispatch {
        let [height, width] = extents;
        let params = self.params([("source_height", height), ("source_width", width)], channels, first, positions);
        let constants = [("PADDING_Y", padding[0]), ("PADDING_X", padding[1])].iter().map(constant).collect();
        let workgroups = (positions * channels / 4).div_ceil(LANES);
        launch(kernel!("conv2d/matrix_rows"), constants, bindings.into(), &params, workgroups)
    }
}

/// What is laid out of the source or the input, and products; then a weight as `f16`, or what is laid out of the gradient of the output.
const ROWS: Binding = Binding::Workspace(0);
const PRODUCTS: Binding = Binding::Workspace(1);
const WEIGHT: Binding = Binding::Workspace(2);
const GRADS: Binding = Binding::Workspace(1);
const PARTIAL: Binding = Binding::Workspace(2);

/// The candidate, unless a buffer is larger than every device can bind.
fn fitting(dispatches: Vec<Dispatch>, workspace: Vec<usize>) -> Option<Candidate> {
    let fits = workspace.iter().all(|elements| 4 * elements <= LARGEST_BYTES);
    fits.then_some(Candidate { dispatches, workspace })
}

impl Geometry {
    /// The forward pass, or, `turned`, the gradient of the input, by matrix units, where device, window and channels allow it.
    pub(super) fn products_by_matrices(
        &self,
        stored: DType,
        turned: bool,
        bias: Option<Binding>,
        epilogue: Epilogue,
        device: &DeviceProfile,
    ) -> Vec<Candidate> {
        let unit = Unit::of(device, stored, [self.in_channels, self.out_channels]);
        let Some(unit) = unit.filter(|_| self.window.stride == [1, 1]) else { return Vec::new() };
        let candidate = |block| self.products_by_blocks(unit, block, turned, bias, epilogue, device);
        BLOCKS.into_iter().filter_map(candidate).collect()
    }

    /// The weight as `f16` once; then, strip by strip of positions, rows laid out, multiplied, and what is a result taken from the products.
    fn products_by_blocks(
        &self,
        unit: Unit,
        [rows, columns]: [usize; 2],
        turned: bool,
        bias: Option<Binding>,
        epilogue: Epilogue,
        device: &DeviceProfile,
    ) -> Option<Candidate> {
        let Self { window, batch, in_extents, in_channels, out_extents, out_channels } = *self;
        let [taps_y, taps_x] = window.kernel_size;
        let (source, result) = ((in_extents, in_channels), (out_extents, out_channels));
        let (source, result) = if turned { (result, source) } else { (source, result) };
        // The gradient of the input is a convolution by the weight turned about.
        let axis = |axis: usize| {
            if turned { window.kernel_size[axis] - 1 - window.padding[axis] } else { window.padding[axis] }
        };
        let padding = [axis(0), axis(1)];
        let layout = Layout { batch, pitch: [source.0[0] + 2 * padding[0], source.0[1] + 2 * padding[1]] };
        let reach = layout.reach(&window);
        let positions = layout.positions();
        // Of both, a number takes 6 bytes.
        let in_cache = STRIP_BYTES[usize::from(!device.software)] / (2 * source.1 + 4 * result.1);
        let strip = positions.div_ceil(positions.div_ceil(in_cache.max(1))).next_multiple_of(rows * unit.side);

        let columns = unit.across(result.1, columns);
        let mut constants = unit.constants(&window, [rows, columns]);
        constants.push(constant(&("TURNED", usize::from(turned))));
        let (image, weight) = (Binding::Input(usize::from(turned)), Binding::Input(usize::from(!turned)));
        let weights = taps_y * taps_x * in_channels * out_channels;
        let mut as_half = turns(kernel!("cast/store"), vec![weight, WEIGHT], weights, &[], device);
        as_half.constants.push(("Stored", "f16".into()));
        let mut dispatches = vec![as_half];
        for first in (0..positions).step_by(strip) {
            let count = strip.min((positions - first).next_multiple_of(rows * unit.side));
            let laid_out = [first, count + reach];
            dispatches.push(layout.rows([image, ROWS], padding, source.0, source.1, laid_out));
            let params = [
                ("positions", count),
                ("pitch_width", layout.pitch[1]),
                ("source_channels", source.1),
                ("channels", result.1),
            ];
            let workgroups = count / (rows * unit.side) * (result.1 / (columns * unit.side));
            let bindings = vec![ROWS, WEIGHT, PRODUCTS];
            let mut product =
                launch(kernel!("conv2d/matrix_product"), constants.clone(), bindings, &params, workgroups);
            product.params.push(FIRST_WORKGROUP);
            dispatches.push(product);
            let [height, width] = result.0;
            let params = layout.params([("height", height), ("width", width)], result.1, first, count);
            let bindings = vec![PRODUCTS, bias.unwrap_or(PRODUCTS), epilogue.mask().unwrap_or(image), Binding::Output];
            let constants = epilogue.flags(bias.is_some()).iter().map(constant).collect();
            let workgroups = (count * result.1 / 4).div_ceil(LANES);
            dispatches.push(launch(kernel!("conv2d/matrix_result"), constants, bindings, &params, workgroups));
        }
        fitting(dispatches, vec![(strip + reach) * source.1 / 2, strip * result.1, weights / 2])
    }

    /// The gradient of the weight by matrix units, where device, window and channels allow it.
    pub(super) fn weight_gradient_by_matrices(&self, stored: DType, device: &DeviceProfile) -> Vec<Candidate> {
        let unit = Unit::of(device, stored, [self.in_channels, self.out_channels]);
        let Some(unit) = unit.filter(|_| self.window.stride == [1, 1]) else { return Vec::new() };
        let candidate = |block| self.weight_gradient_by_blocks(unit, block, device);
        let mut candidates: Vec<_> = BLOCKS.into_iter().filter_map(candidate).collect();
        // Few channels leave both the same.
        candidates.dedup();
        candidates
    }

    /// Strip by strip of positions, rows of both images laid out, and multiplied in parts; then the sum of these.
    fn weight_gradient_by_blocks(
        &self,
        unit: Unit,
        [rows, columns]: [usize; 2],
        device: &DeviceProfile,
    ) -> Option<Candidate> {
        let Self { window, batch, in_extents, in_channels, out_extents, out_channels } = *self;
        let padding = window.padding;
        let layout = Layout { batch, pitch: [in_extents[0] + 2 * padding[0], in_extents[1] + 2 * padding[1]] };
        let reach = layout.reach(&window);
        let positions = layout.positions();
        let (rows, columns) = (unit.across(in_channels, rows), unit.across(out_channels, columns));
        let taps = window.kernel_size[0] * window.kernel_size[1];
        let groups = taps * (in_channels / (rows * unit.side)) * (out_channels / (columns * unit.side));
        let per_part = positions.div_ceil(pair_parts(positions, 1, groups, device)).next_multiple_of(unit.side);
        let parts = positions.div_ceil(per_part);
        let in_cache = STRIP_BYTES[usize::from(!device.software)] / (2 * (in_channels + out_channels));
        let strip_parts = parts.div_ceil(parts.div_ceil((in_cache / per_part).max(1)));

        let elements = taps * in_channels * out_channels;
        let partial = if parts == 1 { Binding::Output } else { PARTIAL };
        let mut dispatches = Vec::new();
        for first_part in (0..parts).step_by(strip_parts) {
            let strip = strip_parts.min(parts - first_part);
            let (first, count) = (first_part * per_part, strip * per_part);
            let laid_out = [first, count + reach];
            dispatches.push(layout.rows([Binding::Input(0), ROWS], padding, in_extents, in_channels, laid_out));
            let laid_out = [first, count];
            dispatches.push(layout.rows([Binding::Input(1), GRADS], [0, 0], out_extents, out_channels, laid_out));
            let params = [
                ("pitch_width", layout.pitch[1]),
                ("in_channels", in_channels),
                ("out_channels", out_channels),
                ("first_part", first_part),
                ("parts", strip),
                ("positions_per_part", per_part),
            ];
            let constants = unit.constants(&window, [rows, columns]);
            let bindings = vec![ROWS, GRADS, partial];
            let mut product =
                launch(kernel!("conv2d/grad_weight_matrix"), constants, bindings, &params, strip * groups);
            product.params.push(FIRST_WORKGROUP);
            dispatches.push(product);
        }
        let strip = strip_parts * per_part;
        let mut workspace = vec![(strip + reach) * in_channels / 2, strip * out_channels / 2];
        if parts > 1 {
            dispatches.push(total_of_parts(parts, elements, PARTIAL));
            workspace.push(parts * elements);
        }
        fitting(dispatches, workspace)
    }
}

/// The bound of a candidate that rounds the weight, which is this input, to `f16`, if it does: that of a sum of so many terms, and what an
/// element of the weight may be off by, for the other input's magnitudes.
pub(super) fn bound(
    candidate: &Candidate,
    op: &dyn AnyOp,
    inputs: &[&Tensor<f64>],
    weight: usize,
    terms: usize,
) -> Option<Bound> {
    candidate.dispatches.iter().find(|dispatch| dispatch.kernel.path == "conv2d/matrix_product")?;
    let share = 4.0 * (terms as f64).sqrt() * UNIT_ROUNDOFF;
    let off = |(index, input): (usize, &&Tensor<f64>)| {
        let Array { shape, data } = input.float();
        let of = |value: f64| match index {
            index if index == weight => (share + HALF_ROUNDOFF) * value + HALF_LEAST,
            // The bias.
            2 => share * value,
            _ => value,
        };
        Tensor::Float(Array { shape: shape.clone(), data: data.iter().map(|value| of(value.abs())).collect() })
    };
    let off: Vec<Tensor<f64>> = inputs.iter().enumerate().map(off).collect();
    let sums = op.reference_f64(&off.iter().collect::<Vec<_>>()).swap_remove(0);
    Some(Bound::Elements(sums.float().data.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceProfile =
        DeviceProfile { subgroup_size: Some(32), f16: true, matrix_side: Some(16), ..DeviceProfile::PORTABLE };

    fn geometry(channels: [usize; 2], stride: usize) -> Geometry {
        Geometry {
            window: Window { kernel_size: [3, 3], stride: [stride; 2], padding: [1, 1] },
            batch: 1,
            in_extents: [40, 40],
            in_channels: channels[0],
            out_extents: [40 / stride; 2],
            out_channels: channels[1],
        }
    }

    /// Of the forward pass and of the gradient of the weight.
    fn offered(channels: [usize; 2], stride: usize, stored: DType, device: &DeviceProfile) -> [Vec<Candidate>; 2] {
        let geometry = geometry(channels, stride);
        [
            geometry.products_by_matrices(stored, false, None, Epilogue::None, device),
            geometry.weight_gradient_by_matrices(stored, device),
        ]
    }

    #[test]
    fn matrices_are_offered_for_activations_that_are_stored_as_f16_and_channels_that_they_divide() {
        let offers = |channels, stride, stored, device: &DeviceProfile| {
            offered(channels, stride, stored, device).map(|candidates| candidates.len())
        };
        assert_eq!(offers([64, 64], 1, DType::F16, &DEVICE), [2, 2]);
        assert_eq!(offers([16, 48], 1, DType::F16, &DEVICE), [2, 1], "one block of the weight's gradient fits");
        assert_eq!(offers([64, 64], 1, DType::F32, &DEVICE), [0, 0], "f32 stays f32");
        assert_eq!(offers([64, 64], 2, DType::F16, &DEVICE), [0, 0], "stride 2");
        for channels in [[24, 64], [64, 24]] {
            assert_eq!(offers(channels, 1, DType::F16, &DEVICE), [0, 0], "{channels:?}");
        }
        for device in [DeviceProfile { matrix_side: None, ..DEVICE }, DeviceProfile { subgroup_size: None, ..DEVICE }] {
            assert_eq!(offers([64, 64], 1, DType::F16, &device), [0, 0], "{device:?}");
        }
    }

    /// A subgroup owns as many matrices side by side as divide the channels.
    #[test]
    fn blocks_divide_the_channels() {
        for (channels, rows, columns) in [([64, 64], 4, 4), ([32, 48], 2, 1), ([16, 96], 1, 2)] {
            let [products, gradient] = offered(channels, 1, DType::F16, &DEVICE);
            let text = gradient[0].to_string();
            assert!(text.contains(&format!("ROWS={rows}u COLUMNS={columns}u")), "{channels:?}: {text}");
            let text = products[0].to_string();
            assert!(text.contains(&format!("ROWS=4u COLUMNS={columns}u")), "{channels:?}: {text}");
        }
    }
}
