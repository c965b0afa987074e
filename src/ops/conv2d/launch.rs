//! How the kernels of convolutions are launched: tiles, lanes, parts.

use super::loops::Window;
use crate::kernel;
use crate::op::{Binding, Candidate, DeviceProfile, Dispatch, Kernel, workgroup_grid};
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

    /// One launch: `constants` and `params` are added to those that all convolutions have.
    pub(in crate::ops) fn dispatch(
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
pub(in crate::ops) fn lanes(channels: usize, outputs: usize, device: &DeviceProfile) -> usize {
    if device.software { 8 } else { channels.div_ceil(outputs).next_power_of_two().clamp(8, 64) }
}

/// Lanes of a workgroup for a kernel that shuffles within groups of eight lanes, where the device allows it: every pipeline must
/// get the same subgroup size, eight must divide it, and it must divide the workgroup.
pub(in crate::ops) fn subgroup_lanes(channels: usize, device: &DeviceProfile) -> Option<usize> {
    let size = device.subgroup_size.map(|size| size as usize).filter(|size| size.is_multiple_of(8) && *size <= 64)?;
    let vectors = if device.software { 1 } else { channels.div_ceil(size).clamp(1, 64 / size) };
    Some(size * vectors)
}

/// How a workgroup's lanes tile a result.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Tile {
    lanes: usize,
    outputs: usize,
    height: usize,
    width: usize,
}

impl Tile {
    /// The tile of the kernels that any device can run.
    pub(in crate::ops) fn plain(channels: usize, device: &DeviceProfile) -> Self {
        Self { lanes: lanes(channels, 2, device), outputs: 2, height: 1, width: 8 }
    }

    /// The tile of the kernels with shuffles, on devices that can run them.
    pub(in crate::ops) fn subgroup(channels: usize, device: &DeviceProfile) -> Option<Self> {
        subgroup_lanes(channels, device).map(|lanes| Self { lanes, outputs: 1, height: 2, width: 8 })
    }

    pub(in crate::ops) fn constants(&self) -> Vec<(&'static str, usize)> {
        let rest = if self.outputs > 1 { ("OUTPUTS", self.outputs) } else { ("TILE_HEIGHT", self.height) };
        vec![("LANES", self.lanes), ("TILE_WIDTH", self.width), rest]
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
        batch * rows * columns * channels.div_ceil(self.lanes * self.outputs)
    }
}

/// The candidates in order of preference: shuffles save loads, which pays where a load costs more than arithmetic.
pub(in crate::ops) fn candidates(
    device: &DeviceProfile,
    plain: Candidate,
    subgroup: Option<Candidate>,
) -> Vec<Candidate> {
    let mut candidates = vec![plain];
    candidates.extend(subgroup);
    if device.software {
        candidates.reverse();
    }
    candidates
}

/// The number of parts into which a sum over `rows` of `pixels` is cut: enough for some thousand workgroups of `groups` each,
/// but of whole rows and, where there are several, of more than 256 pixels each but the last. Depends on the shape alone, so that every device adds in the same order.
pub(in crate::ops) fn parts(rows: usize, pixels: usize, groups: usize) -> usize {
    let parts = (4096 / groups).min((rows * pixels).div_ceil(512)).clamp(1, rows);
    rows.div_ceil(rows.div_ceil(parts))
}

/// A sum in parts: `partial` launches the kernel that writes them, into the binding it is given, and a second launch adds them in
/// order. One part needs no second launch.
pub(in crate::ops) fn in_parts(parts: usize, elements: usize, partial: impl FnOnce(Binding) -> Dispatch) -> Candidate {
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
    fn shuffles_need_a_fixed_subgroup_size_that_eight_divides() {
        let lanes =
            |size, software, channels| subgroup_lanes(channels, &DeviceProfile { software, subgroup_size: size });
        assert_eq!(lanes(None, true, 16), None);
        assert_eq!(lanes(Some(4), true, 16), None);
        assert_eq!(lanes(Some(128), false, 16), None);
        assert_eq!(lanes(Some(8), true, 128), Some(8));
        assert_eq!(lanes(Some(32), false, 16), Some(32));
        assert_eq!(lanes(Some(32), false, 1024), Some(64));
        assert_eq!(lanes(Some(64), false, 16), Some(64));
    }

    #[test]
    fn the_kernels_with_shuffles_come_first_on_software_only() {
        for software in [false, true] {
            let device = DeviceProfile { software, subgroup_size: Some(32) };
            let empty = |elements| Candidate { dispatches: vec![], workspace: vec![elements] };
            let order: Vec<usize> =
                candidates(&device, empty(0), Some(empty(1))).iter().map(|candidate| candidate.workspace[0]).collect();
            assert_eq!(order, if software { [1, 0] } else { [0, 1] });
        }
    }
}
