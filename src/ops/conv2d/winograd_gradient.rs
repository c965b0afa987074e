//! The gradient of a weight by Winograd's transforms turned about: where the convolution is Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A for each tile, the
//! gradient of g is Gᵀ [Σ over tiles of (Bᵀ d B) ⊙ (A y Aᵀ)] G, y being that of the result. The sum is a product of matrices for each point.

use super::launch::{Geometry, constant, divisible, lanes};
use super::loops::Window;
use super::winograd::{
    CHANNELS, ELEMENTS, LARGEST_BYTES, Product, STRIP_BYTES, Strip, TILED, Winograd, sandwich, squares,
};
use crate::array::Array;
use crate::kernel;
use crate::op::{Binding, Bound, Candidate, DeviceProfile, Dispatch, UNIT_ROUNDOFF, workgroup_grid};
use rayon::prelude::*;

/// Channels of the source that a lane of `conv2d/winograd_grad_product_subgroup` owns: half of what eight lanes load at once.
const SOURCES: usize = 16;

/// Transformed tiles of x, those of the gradient, and the sums of their products.
const INPUTS: Binding = Binding::Workspace(0);
const GRADIENTS: Binding = Binding::Workspace(1);
const PRODUCTS: Binding = Binding::Workspace(2);

impl Winograd {
    /// The one that is clearly faster than the plain sum on a software driver, for a gradient of so many pixels, from so many channels
    /// to so many. Of few pixels, transforming the sums is most of the work, of which smaller tiles have less.
    fn preferred_for_weight(pixels: usize, channels: [usize; 2]) -> Option<Self> {
        match (pixels, channels[0].min(channels[1]), pixels * channels[0] * channels[1]) {
            (512.., 16.., 500_000..) => Some(Self::F4),
            (36.., 32.., 400_000..) => Some(Self::F2),
            _ => None,
        }
    }
}

impl Geometry {
    /// The candidates of the gradient of the weight, and Winograd's: in front where that is known to be faster, else behind.
    pub(super) fn weight_gradient_with_winograd(
        &self,
        direct: Vec<Candidate>,
        device: &DeviceProfile,
    ) -> Vec<Candidate> {
        let candidate = |winograd, product| self.weight_gradient_in_strips(winograd, product, device);
        self.beside_winograd(direct, Winograd::preferred_for_weight, self.out_extents, candidate, device)
    }

    /// Strip by strip of tiles, these transformed and their products summed; then the sums of all strips transformed back.
    fn weight_gradient_in_strips(
        &self,
        winograd: Winograd,
        product: Product,
        device: &DeviceProfile,
    ) -> Option<Candidate> {
        let Self { in_extents, in_channels, out_extents, out_channels, .. } = *self;
        let points = winograd.points() * winograd.points();
        let [tile_rows, tile_columns] = out_extents.map(|extent| extent.div_ceil(winograd.output_tile));
        let tiles = self.batch * tile_rows * tile_columns;
        let in_cache = STRIP_BYTES[usize::from(!device.software)] / (4 * points * (in_channels + out_channels));
        let sums = points * in_channels * out_channels;
        // Each strip has sums of its own, of which all must find room.
        let strips = tiles.div_ceil(in_cache.max(TILED)).min((LARGEST_BYTES / (4 * sums)).max(1));
        let strip_tiles = tiles.div_ceil(strips);
        let strips = tiles.div_ceil(strip_tiles);
        let mut dispatches = Vec::with_capacity(3 * strips + 1);
        for (number, first_tile) in (0..tiles).step_by(strip_tiles).enumerate() {
            let count = strip_tiles.min(tiles - first_tile);
            let strip = Strip { extents: [tile_rows, tile_columns], first_tile, tiles: count, stride: count };
            let [padding_y, padding_x] = self.window.padding;
            dispatches.push(winograd.transform(
                kernel!("conv2d/winograd_input"),
                vec![Binding::Input(0), INPUTS],
                &strip.params(&[
                    ("source_height", in_extents[0]),
                    ("source_width", in_extents[1]),
                    ("source_channels", in_channels),
                    ("padding_y", padding_y),
                    ("padding_x", padding_x),
                ]),
                count * in_channels / 2,
            ));
            dispatches.push(winograd.transform(
                kernel!("conv2d/winograd_grad_output"),
                vec![Binding::Input(1), GRADIENTS],
                &strip.params(&[("height", out_extents[0]), ("width", out_extents[1]), ("channels", out_channels)]),
                count * out_channels / 2,
            ));
            dispatches.push(product.sum(points, count, number, [in_channels, out_channels], device)?);
        }
        dispatches.push(winograd.transform(
            kernel!("conv2d/winograd_grad_weight"),
            vec![PRODUCTS, Binding::Output],
            &[("source_channels", in_channels), ("channels", out_channels), ("strips", strips)],
            in_channels * out_channels / 2,
        ));
        let workspace = vec![points * strip_tiles * in_channels, points * strip_tiles * out_channels, strips * sums];
        let fits = workspace.iter().all(|elements| 4 * elements <= LARGEST_BYTES);
        fits.then_some(Candidate { dispatches, workspace })
    }
}

impl Product {
    /// The launch that sums over so many tiles at each point; none where it does not fit the channels.
    fn sum(
        self,
        points: usize,
        tiles: usize,
        strip: usize,
        channels: [usize; 2],
        device: &DeviceProfile,
    ) -> Option<Dispatch> {
        let [in_channels, out_channels] = channels;
        match self {
            Self::Shuffles(size) => {
                let lanes = lanes(out_channels, CHANNELS, device).next_multiple_of(size);
                let params = [
                    ("points", points),
                    ("tiles", tiles),
                    ("source_channels", in_channels),
                    ("channels", out_channels),
                    ("strip", strip),
                ];
                let blocks = in_channels.div_ceil(SOURCES) * out_channels.div_ceil(CHANNELS * lanes);
                Some(Dispatch {
                    kernel: kernel!("conv2d/winograd_grad_product_subgroup"),
                    constants: [("LANES", lanes), ("SOURCES", SOURCES)].iter().map(constant).collect(),
                    bindings: vec![INPUTS, GRADIENTS, PRODUCTS],
                    params: divisible(&params),
                    workgroups: workgroup_grid(points * blocks),
                })
            }
            // An image of one row for each point, of pixels that are tiles, and a weight of one element.
            Self::Tiles => {
                let rows = Geometry {
                    window: Window { kernel_size: [1, 1], stride: [1, 1], padding: [0, 0] },
                    batch: points,
                    in_extents: [1, tiles],
                    in_channels,
                    out_extents: [1, tiles],
                    out_channels,
                };
                let mut dispatch = rows.weight_gradient_by_rows(strip * points)?;
                dispatch.bindings = vec![INPUTS, GRADIENTS, PRODUCTS];
                Some(dispatch)
            }
        }
    }
}

impl Winograd {
    /// The bound of a gradient of the weight that is computed by these sums, as [`Winograd::bound`] says: 4 √n · 2⁻²⁴, n being the number
    /// of pixels summed over, of what the same algorithm gives for magnitudes: √((G²)ᵀ M²), M = Σ over tiles of √(B² d²) · √(A² y²), squares
    /// being of each element.
    pub(super) fn weight_gradient_bound(
        self,
        padding: [usize; 2],
        source: &Array<f64>,
        gradient: &Array<f64>,
    ) -> Bound {
        let [input_matrix, weight_matrix, output_matrix] = self.matrices();
        let input_matrix: Vec<_> = input_matrix.into_iter().map(squares).collect();
        let gradient_matrix: Vec<_> = transposed(&output_matrix).into_iter().map(squares).collect();
        let weight_matrix: Vec<_> = transposed(&weight_matrix).into_iter().map(squares).collect();
        let (side, points) = (self.output_tile, self.points());
        let (Some(ins), Some(outs)) = (Frame::of(source, padding), Frame::of(gradient, [0, 0])) else {
            return Bound::Exact;
        };
        let [rows, columns] = outs.extents.map(|extent| extent.div_ceil(side));
        let tiles = outs.batch * rows * columns;
        let corner = |tile: usize| [tile / columns / rows, tile / columns % rows * side, tile % columns * side];
        let magnitudes = |frame: &Frame<'_>, matrix: &[Vec<f64>], side: usize, tile: usize| -> Vec<f64> {
            let of_channel = |channel| {
                let values = (0..side * side).map(|at| frame.value(corner(tile), [at / side, at % side], channel));
                sandwich(matrix, &squares(values)).into_iter().map(f64::sqrt)
            };
            (0..frame.channels).flat_map(of_channel).collect()
        };
        // [tile][channel][point]
        let of_tiles = |frame: &Frame<'_>, matrix: &[Vec<f64>], side: usize| -> Vec<Vec<f64>> {
            (0..tiles).into_par_iter().map(|tile| magnitudes(frame, matrix, side, tile)).collect()
        };
        let inputs = of_tiles(&ins, &input_matrix, points);
        let gradients = of_tiles(&outs, &gradient_matrix, side);
        let points = points * points;
        let terms = outs.batch * outs.extents[0] * outs.extents[1];
        let share = 4.0 * (terms as f64).sqrt() * UNIT_ROUNDOFF;
        let of_pair = |pair: usize| -> Vec<f64> {
            let (i, o) = (pair / outs.channels, pair % outs.channels);
            let mut sums = vec![0.0; points];
            for (input, gradient) in inputs.iter().zip(&gradients) {
                let factors = input[i * points..][..points].iter().zip(&gradient[o * points..][..points]);
                sums.iter_mut().zip(factors).for_each(|(sum, (input, gradient))| *sum += input * gradient);
            }
            sandwich(&weight_matrix, &squares(sums)).into_iter().map(|square| share * square.sqrt()).collect()
        };
        let pairs = ins.channels * outs.channels;
        let of_pairs: Vec<Vec<f64>> = (0..pairs).into_par_iter().map(of_pair).collect();
        let elements = (0..ELEMENTS * ELEMENTS).flat_map(|q| of_pairs.iter().map(move |of_pair| of_pair[q]));
        Bound::Elements(elements.collect())
    }
}

fn transposed(matrix: &[Vec<f64>]) -> Vec<Vec<f64>> {
    (0..matrix[0].len()).map(|column| matrix.iter().map(|row| row[column]).collect()).collect()
}

/// Images with zeros around them.
struct Frame<'a> {
    batch: usize,
    extents: [usize; 2],
    channels: usize,
    padding: [usize; 2],
    values: &'a [f64],
}

impl<'a> Frame<'a> {
    fn of(images: &'a Array<f64>, padding: [usize; 2]) -> Option<Self> {
        let &[batch, height, width, channels] = images.shape.extents() else { return None };
        Some(Self { batch, extents: [height, width], channels, padding, values: &images.data })
    }

    /// The value at a place of a tile whose corner is in an image, counted from the corner of the zeros.
    fn value(&self, [image, top, left]: [usize; 3], at: [usize; 2], channel: usize) -> f64 {
        let place = |axis: usize, start: usize| {
            (start + at[axis]).checked_sub(self.padding[axis]).filter(|&place| place < self.extents[axis])
        };
        place(0, top).zip(place(1, left)).map_or(0.0, |(row, column)| {
            self.values[((image * self.extents[0] + row) * self.extents[1] + column) * self.channels + channel]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_first_where_it_is_known_to_be_faster() {
        let software = DeviceProfile { software: true, subgroup_size: Some(8), int64: true, ..DeviceProfile::PORTABLE };
        let first = |side: usize, channels: [usize; 2], device: &DeviceProfile| {
            let geometry = Geometry {
                window: Window { kernel_size: [3, 3], stride: [1, 1], padding: [0, 0] },
                batch: 1,
                in_extents: [side + 2; 2],
                in_channels: channels[0],
                out_extents: [side; 2],
                out_channels: channels[1],
            };
            let direct = vec![Candidate { dispatches: vec![], workspace: vec![] }];
            Winograd::of(&geometry.weight_gradient_with_winograd(direct, device)[0])
        };
        assert_eq!(first(184, [32, 32], &software), Some(Winograd::F4));
        assert_eq!(first(120, [16, 16], &software), Some(Winograd::F4));
        assert_eq!(first(16, [256, 256], &software), Some(Winograd::F2));
        assert_eq!(first(12, [64, 64], &software), Some(Winograd::F2));
        assert_eq!(first(6, [512, 512], &software), Some(Winograd::F2));
        assert_eq!(first(20, [16, 32], &software), None, "too few pixels for so few channels");
        assert_eq!(first(6, [128, 64], &software), None, "too few pixels for so few channels");
        assert_eq!(first(4, [512, 512], &software), None, "too few pixels");
        assert_eq!(first(184, [4, 64], &software), None, "too few channels");
        assert_eq!(first(28, [1024, 1024], &software), None, "144 MiB of sums");
        assert_eq!(first(184, [32, 32], &DeviceProfile { software: false, ..software }), None, "not measured");
        assert_eq!(first(184, [32, 32], &DeviceProfile { int64: false, ..software }), None, "not offered");
        assert_eq!(first(184, [32, 34], &software), None, "not offered");
    }
}
