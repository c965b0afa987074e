//! How the kernels of convolutions are launched: tiles, lanes, parts.

use super::loops::{Side, Window};
use crate::kernel;
use crate::op::{Binding, Candidate, DeviceProfile, Dispatch, FIRST_WORKGROUP, Kernel, Param, workgroup_grid};
use crate::shape::TensorType;

/// A convolution in the words of its forward pass: everything that its kernels need to know.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Geometry {
    pub(in crate::ops) window: Window,
    pub(in crate::ops) batch: usize,
    pub(in crate::ops) in_extents: [usize; 2],
    pub(in crate::ops) in_channels: usize,
    pub(in crate::ops) out_extents: [usize; 2],
    pub(in crate::ops) out_channels: usize,
}

impl Geometry {
    /// From the types of the forward pass's input and output.
    pub(in crate::ops) fn new(window: Window, input: &TensorType, output: &TensorType) -> Self {
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
    pub(in crate::ops) fn flops(&self, positions: [usize; 2]) -> u64 {
        let weight = self.window.kernel_size[0] * self.window.kernel_size[1] * self.in_channels * self.out_channels;
        2 * (self.batch * positions[0] * positions[1]) as u64 * weight as u64
    }

    /// The window's constants.
    pub(super) fn constants(&self, others: &[(&'static str, usize)]) -> Vec<(&'static str, String)> {
        let [padding_y, padding_x] = self.window.padding;
        let padding = [("PADDING_Y", padding_y), ("PADDING_X", padding_x)];
        self.constants_without_padding(&[&padding, others].concat())
    }

    /// The like for kernels to which the padding is a param.
    fn constants_without_padding(&self, others: &[(&'static str, usize)]) -> Vec<(&'static str, String)> {
        let Window { kernel_size, stride, .. } = self.window;
        [
            ("KERNEL_HEIGHT", kernel_size[0]),
            ("KERNEL_WIDTH", kernel_size[1]),
            ("STRIDE_Y", stride[0]),
            ("STRIDE_X", stride[1]),
        ]
        .iter()
        .chain(others)
        .map(constant)
        .collect()
    }

    /// One launch: `constants` and `params` are added to those that all convolutions have.
    pub(in crate::ops) fn dispatch(
        &self,
        kernel: Kernel,
        constants: &[(&'static str, usize)],
        bindings: Vec<Binding>,
        params: &[(&'static str, usize)],
        workgroups: usize,
    ) -> Dispatch {
        let own = [
            ("batch", self.batch),
            ("in_height", self.in_extents[0]),
            ("in_width", self.in_extents[1]),
            ("in_channels", self.in_channels),
            ("out_height", self.out_extents[0]),
            ("out_width", self.out_extents[1]),
            ("out_channels", self.out_channels),
        ];
        Dispatch {
            kernel,
            constants: self.constants(constants),
            bindings,
            params: divisible(own.iter().chain(params)),
            workgroups: workgroup_grid(workgroups),
        }
    }

    /// The kernel that loads two channels at once and shares loads by shuffles, where device and channels allow it: the forward pass,
    /// or, `turned`, the gradient of the input, whose source is on this side of the window.
    pub(in crate::ops) fn products_by_pairs(
        &self,
        source_side: Side,
        turned: bool,
        bias: Option<Binding>,
        epilogue: Epilogue,
        device: &DeviceProfile,
    ) -> Option<Candidate> {
        let correlation = Correlation::new(self, source_side, turned, bias, epilogue);
        let Correlation { source, result, .. } = correlation;
        let Window { kernel_size, stride, .. } = self.window;
        // A phase of the fine side meets every STRIDE-th element of the weight.
        let width = match source_side {
            Side::Fine => columns(kernel_size[1], stride[1]),
            Side::Coarse => columns(kernel_size[1].div_ceil(stride[1]), 1),
        };
        let lanes = pair_lanes(&self.window, source.channels, result.channels, device)?;
        Some(correlation.by_pairs(Tile { lanes, height: tile_height(kernel_size[0], stride[0]), width }).into())
    }

    /// The like for the gradient of the weight, for an op whose input is on this side of the window.
    pub(in crate::ops) fn weight_gradient_by_pairs(
        &self,
        input_side: Side,
        device: &DeviceProfile,
    ) -> Option<Candidate> {
        let gradient = WeightGradient::new(self, input_side);
        let (fine, coarse) = (gradient.fine.channels, gradient.coarse.channels);
        let lanes = pair_lanes(&self.window, fine, coarse, device)?;
        let blocks = fine.div_ceil(FINE_CHANNELS);
        let parts = pair_parts(gradient.rows(), gradient.coarse.extents[1], blocks * coarse.div_ceil(16), device);
        let constants = [
            ("LANES", lanes),
            ("CHANNELS", FINE_CHANNELS),
            ("PIXELS", columns(self.window.kernel_size[1], self.window.stride[1])),
        ];
        let workgroups = parts * blocks * coarse.div_ceil(2 * lanes);
        Some(gradient.in_parts(parts, kernel!("conv2d/grad_weight_subgroup"), &constants, &[], workgroups))
    }
}

/// The params of a kernel whose launches can be divided.
pub(super) fn divisible<'a>(params: impl IntoIterator<Item = &'a (&'static str, usize)>) -> Vec<(&'static str, Param)> {
    params.into_iter().map(|&(name, value)| (name, value.into())).chain([FIRST_WORKGROUP]).collect()
}

/// One of the images of a sum: which input of the op it is, unless it is the result, and its extents.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operand {
    input: usize,
    pub(super) extents: [usize; 2],
    pub(super) channels: usize,
}

impl Operand {
    /// The input and the output of the forward pass.
    fn of(geometry: &Geometry) -> [Self; 2] {
        let Geometry { in_extents, in_channels, out_extents, out_channels, .. } = *geometry;
        [(0, in_extents, in_channels), (1, out_extents, out_channels)].map(|(input, extents, channels)| Self {
            input,
            extents,
            channels,
        })
    }
}

/// A forward pass, or, `turned`, a gradient of the input, whose source is on one side of the window: what the kernels
/// `conv2d/correlation_*` need to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Correlation<'a> {
    geometry: &'a Geometry,
    side: Side,
    turned: bool,
    bias: Option<Binding>,
    epilogue: Epilogue,
    pub(super) source: Operand,
    pub(super) result: Operand,
    /// Into how many phases positions fall along each axis.
    pub(super) phases: [usize; 2],
}

impl<'a> Correlation<'a> {
    pub(super) fn new(
        geometry: &'a Geometry,
        side: Side,
        turned: bool,
        bias: Option<Binding>,
        epilogue: Epilogue,
    ) -> Self {
        let [input, output] = Operand::of(geometry);
        let (source, result) = if turned { (output, input) } else { (input, output) };
        let phases = if side == Side::Coarse { geometry.window.stride } else { [1, 1] };
        Self { geometry, side, turned, bias, epilogue, source, result, phases }
    }

    /// The launch of `conv2d/correlation_tiled`, for which what this is makes a program of its own.
    pub(super) fn by_tiles(&self, tile: &[(&'static str, usize)], workgroups: usize) -> Dispatch {
        let sides = [("COARSE", usize::from(self.side == Side::Coarse)), ("TURNED", usize::from(self.turned))];
        let flags = self.epilogue.flags(self.bias.is_some());
        let constants = self.geometry.constants(&[&sides[..], &flags, tile].concat());
        self.dispatch(kernel!("conv2d/correlation_tiled"), constants, &[], workgroups)
    }

    /// The launch of `conv2d/correlation_subgroup`, one program for all of these with the same window and tile.
    fn by_pairs(&self, tile: Tile) -> Dispatch {
        let Self { geometry, phases, result, .. } = *self;
        let own = [("PHASES_Y", phases[0]), ("PHASES_X", phases[1]), ("TILE_HEIGHT", tile.height)];
        let constants = geometry.constants_without_padding(&[own.as_slice(), &tile.constants()].concat());
        let [padding_y, padding_x] = geometry.window.padding;
        let workgroups = tile.workgroups(geometry.batch, result.extents, phases, result.channels);
        let params = [
            ("padding_y", padding_y),
            ("padding_x", padding_x),
            ("coarse", usize::from(self.side == Side::Coarse)),
            ("turned", usize::from(self.turned)),
            ("with_bias", usize::from(self.bias.is_some())),
            ("epilogue", self.epilogue.number()),
        ];
        self.dispatch(kernel!("conv2d/correlation_subgroup"), constants, &params, workgroups)
    }

    /// One launch of a kernel with params of its own.
    fn dispatch(
        &self,
        kernel: Kernel,
        constants: Vec<(&'static str, String)>,
        own_params: &[(&'static str, usize)],
        workgroups: usize,
    ) -> Dispatch {
        let Self { geometry, bias, epilogue, source, result, .. } = *self;
        // The op's other input.
        let weight = Binding::Input(1 - source.input);
        let params = [
            ("batch", geometry.batch),
            ("source_height", source.extents[0]),
            ("source_width", source.extents[1]),
            ("source_channels", source.channels),
            ("height", result.extents[0]),
            ("width", result.extents[1]),
            ("channels", result.channels),
        ];
        Dispatch {
            kernel,
            constants,
            bindings: vec![
                Binding::Input(source.input),
                weight,
                bias.unwrap_or(weight),
                epilogue.mask().unwrap_or(Binding::Input(source.input)),
                Binding::Output,
            ],
            params: divisible(params.iter().chain(own_params)),
            workgroups: workgroup_grid(workgroups),
        }
    }
}

/// A gradient of the weight, from images on the fine and on the coarse side of the window: what the kernels `conv2d/grad_weight_*` need to
/// know that sum over the pixels of the coarse one.
#[derive(Clone, Copy, Debug)]
pub(super) struct WeightGradient<'a> {
    geometry: &'a Geometry,
    turned: bool,
    pub(super) fine: Operand,
    pub(super) coarse: Operand,
}

impl<'a> WeightGradient<'a> {
    /// Of an op whose input is on this side.
    pub(super) fn new(geometry: &'a Geometry, input_side: Side) -> Self {
        let [input, output] = Operand::of(geometry);
        let turned = input_side == Side::Coarse;
        let (fine, coarse) = if turned { (output, input) } else { (input, output) };
        Self { geometry, turned, fine, coarse }
    }

    /// Rows of all coarse images.
    pub(super) fn rows(&self) -> usize {
        self.geometry.batch * self.coarse.extents[0]
    }

    /// The sum in parts, by a kernel with constants and params of its own.
    pub(super) fn in_parts(
        &self,
        parts: usize,
        kernel: Kernel,
        constants: &[(&'static str, usize)],
        own_params: &[(&'static str, usize)],
        workgroups: usize,
    ) -> Candidate {
        let Self { geometry, fine, coarse, .. } = *self;
        let params = [
            ("batch", geometry.batch),
            ("fine_height", fine.extents[0]),
            ("fine_width", fine.extents[1]),
            ("fine_channels", fine.channels),
            ("coarse_height", coarse.extents[0]),
            ("coarse_width", coarse.extents[1]),
            ("coarse_channels", coarse.channels),
            ("rows_per_part", self.rows().div_ceil(parts)),
        ];
        let taps = geometry.window.kernel_size.iter().product::<usize>();
        in_parts(parts, taps * fine.channels * coarse.channels, |partial| Dispatch {
            kernel,
            constants: geometry.constants(&[&[("TURNED", usize::from(self.turned))], constants].concat()),
            bindings: vec![Binding::Input(fine.input), Binding::Input(coarse.input), partial],
            params: divisible(params.iter().chain(own_params)),
            workgroups: workgroup_grid(workgroups),
        })
    }
}

/// What happens to a sum of products before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum Epilogue {
    None,
    /// Below 0 it becomes 0.
    Relu,
    /// Where this is not above 0, it becomes 0.
    Mask(Binding),
}

impl Epilogue {
    pub(super) fn mask(self) -> Option<Binding> {
        if let Self::Mask(mask) = self { Some(mask) } else { None }
    }

    /// The constants of the kernels that are programs of their own with each, and with a bias and without.
    pub(super) fn flags(self, has_bias: bool) -> [(&'static str, usize); 3] {
        [
            ("BIAS", usize::from(has_bias)),
            ("RELU", usize::from(self == Self::Relu)),
            ("MASK", usize::from(self.mask().is_some())),
        ]
    }

    /// As the kernels that decide at run time know it.
    pub(super) fn number(self) -> usize {
        match self {
            Self::None => 0,
            Self::Relu => 1,
            Self::Mask(_) => 2,
        }
    }
}

pub(super) fn constant(&(name, value): &(&'static str, usize)) -> (&'static str, String) {
    (name, format!("{value}u"))
}

/// Channels of the fine side that a lane of `conv2d/grad_weight_subgroup` owns. More would take a software driver longer to compile, and
/// are no faster: their sums do not find room in registers.
const FINE_CHANNELS: usize = 4;

/// Lanes of a workgroup for a kernel whose lanes own `outputs` channels each. A software driver runs lanes one vector after the
/// other, so one vector is enough there and one program serves all widths.
pub(in crate::ops) fn lanes(channels: usize, outputs: usize, device: &DeviceProfile) -> usize {
    if device.software { 8 } else { channels.div_ceil(outputs).next_power_of_two().clamp(8, 64) }
}

/// Lanes of a workgroup for a kernel whose lanes load pairs of channels of either image, own a pair of the second, and shuffle within
/// groups of eight, where the device allows it: it has integers of 64 bits, every pipeline gets the same subgroup size, eight
/// divides it, and it divides the workgroup; and where the weight is small enough to be written out.
pub(super) fn pair_lanes(
    window: &Window,
    channels: usize,
    own_channels: usize,
    device: &DeviceProfile,
) -> Option<usize> {
    if window.kernel_size.iter().product::<usize>() > WRITTEN_OUT {
        return None;
    }
    let size = device.subgroup_size.map(|size| size as usize).filter(|size| size.is_multiple_of(8) && *size <= 64)?;
    let offered = device.int64 && channels.is_multiple_of(2) && own_channels.is_multiple_of(2);
    let vectors = if device.software { 1 } else { own_channels.div_ceil(2 * size).clamp(1, 64 / size) };
    offered.then_some(size * vectors)
}

/// The most elements of a weight that those kernels write out: more would take a driver long to compile.
pub(super) const WRITTEN_OUT: usize = 9;

/// How many pixels side by side have all that they meet of a row of the weight in the eight columns that one shared load brings; but
/// at least four, which then take more loads.
pub(super) fn columns(kernel_width: usize, stride: usize) -> usize {
    (8_usize.saturating_sub(kernel_width) / stride + 1).max(4)
}

/// How many rows of pixels a lane of `conv2d/correlation_subgroup` owns: several where the rows of source that they meet overlap. More
/// than these would take a software driver longer to compile, and are hardly faster.
fn tile_height(kernel_height: usize, stride: usize) -> usize {
    if kernel_height > stride { 4 } else { 1 }
}

/// How a workgroup's lanes, which own [`OUTPUTS`] channels each, tile a result.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Tile {
    lanes: usize,
    height: usize,
    width: usize,
}

/// Channels of the result that a lane owns.
const OUTPUTS: usize = 2;

impl Tile {
    /// The tile of the kernels that any device can run.
    pub(in crate::ops) fn plain(channels: usize, device: &DeviceProfile) -> Self {
        Self { lanes: lanes(channels, OUTPUTS, device), height: 1, width: 8 }
    }

    /// All but the height, which `conv2d/correlation_subgroup` alone has as a constant.
    pub(in crate::ops) fn constants(&self) -> [(&'static str, usize); 2] {
        [("LANES", self.lanes), ("TILE_WIDTH", self.width)]
    }

    /// Workgroups for a result of these extents, whose positions fall into `phases` along each axis.
    pub(in crate::ops) fn workgroups(
        &self,
        batch: usize,
        extents: [usize; 2],
        phases: [usize; 2],
        channels: usize,
    ) -> usize {
        let rows = phases[0] * extents[0].div_ceil(self.height * phases[0]);
        let columns = phases[1] * extents[1].div_ceil(self.width * phases[1]);
        batch * rows * columns * channels.div_ceil(self.lanes * OUTPUTS)
    }
}

/// The candidates in order of preference: workgroup memory saves loads on a GPU; shuffles do where a load costs more than arithmetic
/// and a barrier more than both. `plain` ones need neither.
pub(in crate::ops) fn candidates(
    device: &DeviceProfile,
    plain: impl IntoIterator<Item = Candidate>,
    subgroup: Option<Candidate>,
    tiled: impl IntoIterator<Item = Candidate>,
) -> Vec<Candidate> {
    if device.software {
        subgroup.into_iter().chain(plain).chain(tiled).collect()
    } else {
        tiled.into_iter().chain(plain).chain(subgroup).collect()
    }
}

/// The number of parts into which a sum over `rows` of `pixels` is cut: enough for some thousand workgroups of `groups` each,
/// but of whole rows and, where there are several, of more than 256 pixels each but the last. Depends on the shape alone, so that every device that can bind all images at once adds in the same order.
pub(in crate::ops) fn parts(rows: usize, pixels: usize, groups: usize) -> usize {
    let parts = (4096 / groups).min((rows * pixels).div_ceil(512)).clamp(1, rows);
    rows.div_ceil(rows.div_ceil(parts))
}

/// [`parts`] for a kernel by pairs of channels: a software driver has few cores to feed, and adding parts takes it long.
pub(super) fn pair_parts(rows: usize, pixels: usize, groups: usize, device: &DeviceProfile) -> usize {
    parts(rows, pixels, groups * if device.software { 64 } else { 1 })
}

/// A sum in parts: `partial` launches the kernel that writes them, into the binding it is given, and a second launch adds them in
/// order. One part needs no second launch.
pub(crate) fn in_parts(parts: usize, elements: usize, partial: impl FnOnce(Binding) -> Dispatch) -> Candidate {
    if parts == 1 {
        return partial(Binding::Output).into();
    }
    let reduce = total_of_parts(parts, elements, Binding::Workspace(0));
    Candidate { dispatches: vec![partial(Binding::Workspace(0)), reduce], workspace: vec![parts * elements] }
}

/// The launch that adds parts of so many elements, in order.
pub(super) fn total_of_parts(parts: usize, elements: usize, partial: Binding) -> Dispatch {
    Dispatch {
        kernel: kernel!("conv2d/reduce_partials"),
        constants: vec![],
        bindings: vec![partial, Binding::Output],
        params: vec![("elements", elements.into()), ("parts", parts.into())],
        workgroups: workgroup_grid(elements.div_ceil(64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_all_rows_and_none_is_empty() {
        for (rows, pixels, groups) in [(1, 1, 1), (1, 100_000, 1), (120, 120, 12), (568, 568, 192), (56, 56, 5000)] {
            let parts = parts(rows, pixels, groups);
            let rows_per_part = rows.div_ceil(parts);
            assert!(parts * rows_per_part >= rows && (parts - 1) * rows_per_part < rows, "{rows} rows: {parts} parts");
        }
        assert_eq!(parts(568, 568, 192), 21);
        assert_eq!(parts(12, 12, 1), 1, "less than 512 pixels");
    }

    #[test]
    fn pairs_need_a_fixed_subgroup_size_that_eight_divides_and_even_channels() {
        let window = Window { kernel_size: [3, 3], stride: [1, 1], padding: [0, 0] };
        let lanes = |subgroup_size, software, channels| {
            pair_lanes(
                &window,
                2,
                channels,
                &DeviceProfile { software, subgroup_size, int64: true, ..DeviceProfile::PORTABLE },
            )
        };
        assert_eq!(lanes(None, true, 16), None);
        assert_eq!(lanes(Some(4), true, 16), None);
        assert_eq!(lanes(Some(128), false, 16), None);
        assert_eq!(lanes(Some(8), true, 128), Some(8));
        assert_eq!(lanes(Some(32), false, 32), Some(32));
        assert_eq!(lanes(Some(32), false, 1024), Some(64));
        assert_eq!(lanes(Some(64), false, 16), Some(64));
        let device = DeviceProfile { software: true, subgroup_size: Some(8), int64: true, ..DeviceProfile::PORTABLE };
        assert_eq!([pair_lanes(&window, 1, 16, &device), pair_lanes(&window, 16, 3, &device)], [None; 2]);
        assert_eq!(pair_lanes(&Window { kernel_size: [5, 5], ..window }, 16, 16, &device), None);
        assert_eq!(pair_lanes(&window, 16, 16, &DeviceProfile { int64: false, ..device }), None);
    }

    #[test]
    fn shuffles_come_first_on_software_and_tiles_everywhere_else() {
        for software in [false, true] {
            let device = DeviceProfile { software, subgroup_size: Some(32), int64: true, ..DeviceProfile::PORTABLE };
            let empty = |elements| Candidate { dispatches: vec![], workspace: vec![elements] };
            let order = |tiled| -> Vec<usize> {
                let candidates = candidates(&device, [empty(2)], Some(empty(3)), tiled);
                candidates.iter().map(|candidate| candidate.workspace[0]).collect()
            };
            assert_eq!(order(vec![empty(0), empty(1)]), if software { [3, 2, 0, 1] } else { [0, 1, 2, 3] });
            assert_eq!(order(vec![]), if software { [3, 2] } else { [2, 3] });
        }
    }
}
