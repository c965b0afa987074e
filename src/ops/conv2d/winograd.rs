//! Winograd's convolution of 3×3 elements: fewer multiplications, between transforms of tiles. `docs/kernels/conv2d/winograd.md` says how.

use super::launch::{Correlation, Epilogue, Geometry, constant, divisible};
use super::loops::{Side, Window};
use crate::array::Array;
use crate::kernel;
use crate::op::{Binding, Bound, Candidate, DeviceProfile, Dispatch, Kernel, UNIT_ROUNDOFF, workgroup_grid};
use rayon::prelude::*;
use std::f64::consts::{FRAC_1_SQRT_2, SQRT_2};

/// F(m × m, 3 × 3): m × m results from (m + 2)² products of each pair of channels, of which the plain sum has 9 m².
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Winograd {
    /// m, 2 or 4.
    pub(super) output_tile: usize,
}

/// Elements of the weight along an axis.
pub(super) const ELEMENTS: usize = 3;

/// Invocations in a workgroup of the transforms.
const LANES: usize = 64;

/// Channels that a lane of `conv2d/winograd_product_subgroup` owns.
pub(super) const CHANNELS: usize = 4;

/// Tiles that it owns: with four channels of each more sums than registers, but six loads for 256 multiply-adds. More would be hardly
/// faster, and take longer to compile.
const TILES: usize = 16;

/// Tiles for `conv2d/correlation_tiled`, whose own divide so many.
pub(super) const TILED: usize = 128;

/// Bytes of transformed tiles and products in use at a time: what a cache holds of a CPU's core, and of a GPU.
pub(super) const STRIP_BYTES: [usize; 2] = [4 << 20, 32 << 20];

/// No buffer of a candidate is larger: a kernel can bind so many bytes of one on every device.
pub(super) const LARGEST_BYTES: usize = 128 << 20;

/// What multiplies transformed tiles by transformed weights, or by each other for the gradient of the weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Product {
    /// `conv2d/winograd_product_subgroup` or `conv2d/winograd_grad_product_subgroup`, on subgroups of this size.
    Shuffles(usize),
    /// `conv2d/correlation_tiled` or `conv2d/grad_weight_tiled`.
    Tiles,
}

impl Winograd {
    pub(super) const F2: Self = Self { output_tile: 2 };
    pub(super) const F4: Self = Self { output_tile: 4 };

    /// What a candidate computes by, if it does.
    pub(super) fn of(candidate: &Candidate) -> Option<Self> {
        let last = ["conv2d/winograd_output", "conv2d/winograd_grad_weight"];
        let output = candidate.dispatches.iter().find(|dispatch| last.contains(&dispatch.kernel.path))?;
        let (_, side) = output.constants.iter().find(|(name, _)| *name == "OUTPUT_TILE")?;
        [Self::F2, Self::F4].into_iter().find(|winograd| *side == format!("{}u", winograd.output_tile))
    }

    /// Along an axis.
    pub(super) fn points(self) -> usize {
        self.output_tile + ELEMENTS - 1
    }

    /// The one that is clearly faster than the plain sum on a software driver at a result of so many pixels, from so many channels to so
    /// many. Few pixels do not make up for transforming the weight, nor few channels for transforming tiles.
    fn preferred(pixels: usize, channels: [usize; 2]) -> Option<Self> {
        match (pixels, channels[0].min(channels[1]), pixels * channels[0] * channels[1]) {
            (196.., 32.., 800_000..) => Some(Self::F4),
            (64.., 32.., 2_000_000..) => Some(Self::F2),
            _ => None,
        }
    }

    /// Bᵀ, G and Aᵀ by rows. Polynomials of degree m + 1 are taken at 0, ±1 and ∞ or, for m = 4, at 0, ±√½, ±√2 and ∞, which lose less in
    /// rounding than small integers; Barabasz et al., “Error analysis and improving the accuracy of Winograd convolution for deep neural
    /// networks”, 2020, analyse that. The kernels have these matrices factored.
    pub(super) fn matrices(self) -> [Vec<Vec<f64>>; 3] {
        let rows = |matrix: &[&[f64]]| matrix.iter().map(|row| row.to_vec()).collect();
        if self == Self::F2 {
            return [
                rows(&[&[1.0, 0.0, -1.0, 0.0], &[0.0, 1.0, 1.0, 0.0], &[0.0, -1.0, 1.0, 0.0], &[0.0, -1.0, 0.0, 1.0]]),
                rows(&[&[1.0, 0.0, 0.0], &[0.5, 0.5, 0.5], &[0.5, -0.5, 0.5], &[0.0, 0.0, 1.0]]),
                rows(&[&[1.0, 1.0, 1.0, 0.0], &[0.0, 1.0, -1.0, 1.0]]),
            ];
        }
        let (r, h) = (SQRT_2, FRAC_1_SQRT_2);
        let (third, sixth) = (1.0 / 3.0, 1.0 / 6.0);
        [
            rows(&[
                &[1.0, 0.0, -2.5, 0.0, 1.0, 0.0],
                &[0.0, -r, -2.0, h, 1.0, 0.0],
                &[0.0, r, -2.0, -h, 1.0, 0.0],
                &[0.0, -h, -0.5, r, 1.0, 0.0],
                &[0.0, h, -0.5, -r, 1.0, 0.0],
                &[0.0, 1.0, 0.0, -2.5, 0.0, 1.0],
            ]),
            rows(&[
                &[1.0, 0.0, 0.0],
                &[-2.0 * third, -r * third, -third],
                &[-2.0 * third, r * third, -third],
                &[sixth, r * sixth, third],
                &[sixth, -r * sixth, third],
                &[0.0, 0.0, 1.0],
            ]),
            rows(&[
                &[1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
                &[0.0, h, -h, r, -r, 0.0],
                &[0.0, 0.5, 0.5, 2.0, 2.0, 0.0],
                &[0.0, 0.5 * h, -0.5 * h, 2.0 * r, -2.0 * r, 1.0],
            ]),
        ]
    }
}

impl Geometry {
    /// The candidates of a forward pass, or, `turned`, of the gradient of an input, and [`Winograd`]'s: in front where that is known to be
    /// faster, else behind.
    pub(super) fn with_winograd(
        &self,
        direct: Vec<Candidate>,
        turned: bool,
        bias: Option<Binding>,
        epilogue: Epilogue,
        device: &DeviceProfile,
    ) -> Vec<Candidate> {
        let result = if turned { self.in_extents } else { self.out_extents };
        let candidate = |winograd, product| self.in_strips(winograd, product, Pass { turned, bias, epilogue }, device);
        self.beside_winograd(direct, Winograd::preferred, result, candidate, device)
    }

    /// The direct candidates and Winograd's, as `candidate` makes them where the window and the channels allow it: in front the one that is
    /// `preferred` on a software driver, for so many pixels of these extents and the numbers of channels, the others behind.
    pub(super) fn beside_winograd(
        &self,
        direct: Vec<Candidate>,
        preferred: impl Fn(usize, [usize; 2]) -> Option<Winograd>,
        extents: [usize; 2],
        candidate: impl Fn(Winograd, Product) -> Option<Candidate>,
        device: &DeviceProfile,
    ) -> Vec<Candidate> {
        let Window { kernel_size, stride, .. } = self.window;
        let channels = [self.in_channels, self.out_channels];
        let fours = channels.iter().all(|channels| channels.is_multiple_of(CHANNELS));
        if kernel_size != [ELEMENTS; 2] || stride != [1, 1] || !fours || !device.int64 {
            return direct;
        }
        let size = device.subgroup_size.map(|size| size as usize).filter(|size| size.is_multiple_of(8) && *size <= 64);
        let shuffles = size.map(Product::Shuffles);
        let pixels = self.batch * extents[0] * extents[1];
        let preferred = preferred(pixels, channels).filter(|_| device.software);
        let first = preferred.zip(shuffles);
        let all = shuffles.into_iter().chain([Product::Tiles]);
        let all = all.flat_map(|product| [(Winograd::F4, product), (Winograd::F2, product)]);
        let candidate = |(winograd, product)| candidate(winograd, product);
        let behind = all.filter(|&other| Some(other) != first).filter_map(candidate);
        first.and_then(candidate).into_iter().chain(direct).chain(behind).collect()
    }

    /// The weight transformed once; then, strip by strip of tiles, these transformed, multiplied and transformed back.
    fn in_strips(
        &self,
        winograd: Winograd,
        product: Product,
        Pass { turned, bias, epilogue }: Pass,
        device: &DeviceProfile,
    ) -> Option<Candidate> {
        let side = if turned { Side::Coarse } else { Side::Fine };
        let Correlation { source, result, .. } = Correlation::new(self, side, turned, bias, epilogue);
        let points = winograd.points() * winograd.points();
        let [tile_rows, tile_columns] = result.extents.map(|extent| extent.div_ceil(winograd.output_tile));
        let tiles = self.batch * tile_rows * tile_columns;
        let in_cache = STRIP_BYTES[usize::from(!device.software)] / (4 * points * (source.channels + result.channels));
        let strip_tiles = tiles.div_ceil(tiles.div_ceil(in_cache.max(TILED))).next_multiple_of(TILES);

        let [padding_y, padding_x] = winograd_padding(&self.window, turned);
        let (image, weight) = (Binding::Input(usize::from(turned)), Binding::Input(usize::from(!turned)));
        let fours = source.channels * result.channels / 4;
        let mut dispatches = vec![winograd.transform(
            kernel!("conv2d/winograd_weight"),
            vec![weight, WEIGHTS],
            &[("source_channels", source.channels), ("channels", result.channels), ("turned", usize::from(turned))],
            fours,
        )];
        let mut largest = 0;
        for first_tile in (0..tiles).step_by(strip_tiles) {
            let count = strip_tiles.min(tiles - first_tile);
            let (stride, multiply) = product.dispatch(points, count, source.channels, result.channels, device)?;
            largest = largest.max(stride);
            let strip = Strip { extents: [tile_rows, tile_columns], first_tile, tiles: count, stride };
            dispatches.push(winograd.transform(
                kernel!("conv2d/winograd_input"),
                vec![image, INPUTS],
                &strip.params(&[
                    ("source_height", source.extents[0]),
                    ("source_width", source.extents[1]),
                    ("source_channels", source.channels),
                    ("padding_y", padding_y),
                    ("padding_x", padding_x),
                ]),
                count * source.channels / 2,
            ));
            dispatches.push(multiply);
            dispatches.push(winograd.transform(
                kernel!("conv2d/winograd_output"),
                vec![PRODUCTS, bias.unwrap_or(PRODUCTS), epilogue.mask().unwrap_or(PRODUCTS), Binding::Output],
                &strip.params(&[
                    ("height", result.extents[0]),
                    ("width", result.extents[1]),
                    ("channels", result.channels),
                    ("with_bias", usize::from(bias.is_some())),
                    ("epilogue", epilogue.number()),
                ]),
                count * result.channels / 2,
            ));
        }
        let strips = [source.channels, result.channels].map(|channels| points * largest * channels);
        let workspace = vec![4 * fours * points, strips[0], strips[1]];
        let fits = workspace.iter().all(|elements| 4 * elements <= LARGEST_BYTES);
        fits.then_some(Candidate { dispatches, workspace })
    }
}

/// Tiles, of images that are cut into so many rows and columns of them, which are transformed at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strip {
    pub(super) extents: [usize; 2],
    pub(super) first_tile: usize,
    pub(super) tiles: usize,
    /// From one point to the next of what is transformed, in tiles.
    pub(super) stride: usize,
}

impl Strip {
    /// The params of a transform: its own, then these.
    pub(super) fn params(self, own: &[(&'static str, usize)]) -> Vec<(&'static str, usize)> {
        let tiles = [
            ("tile_rows", self.extents[0]),
            ("tile_columns", self.extents[1]),
            ("first_tile", self.first_tile),
            ("tiles", self.tiles),
            ("stride", self.stride),
        ];
        [own, &tiles].concat()
    }
}

/// A forward pass, or, `turned`, a gradient of the input, and what is added to its sums.
#[derive(Clone, Copy, Debug)]
struct Pass {
    turned: bool,
    bias: Option<Binding>,
    epilogue: Epilogue,
}

/// Transformed weights, transformed tiles and their products.
const WEIGHTS: Binding = Binding::Workspace(0);
const INPUTS: Binding = Binding::Workspace(1);
const PRODUCTS: Binding = Binding::Workspace(2);

/// Zeros around what is convolved: the gradient of the input is a convolution by the weight turned about.
fn winograd_padding(window: &Window, turned: bool) -> [usize; 2] {
    window.padding.map(|padding| if turned { ELEMENTS - 1 - padding } else { padding })
}

impl Winograd {
    /// A launch of so many invocations of a transform.
    pub(super) fn transform(
        self,
        kernel: Kernel,
        bindings: Vec<Binding>,
        params: &[(&'static str, usize)],
        invocations: usize,
    ) -> Dispatch {
        Dispatch {
            kernel,
            constants: vec![constant(&("OUTPUT_TILE", self.output_tile))],
            bindings,
            params: params.iter().map(|&(name, value)| (name, value.into())).collect(),
            workgroups: workgroup_grid(invocations.div_ceil(LANES)),
        }
    }
}

impl Product {
    /// The launch for so many tiles at each point, and how many it takes room for; none where it does not fit the channels.
    fn dispatch(
        self,
        points: usize,
        tiles: usize,
        source_channels: usize,
        channels: usize,
        device: &DeviceProfile,
    ) -> Option<(usize, Dispatch)> {
        match self {
            Self::Shuffles(size) => {
                let vectors = if device.software { 1 } else { channels.div_ceil(CHANNELS * size).clamp(1, 64 / size) };
                let (lanes, stride) = (size * vectors, tiles.next_multiple_of(TILES));
                let params = [
                    ("points", points),
                    ("stride", stride),
                    ("source_channels", source_channels),
                    ("channels", channels),
                ];
                let dispatch = Dispatch {
                    kernel: kernel!("conv2d/winograd_product_subgroup"),
                    constants: [("LANES", lanes), ("TILES", TILES)].iter().map(constant).collect(),
                    bindings: vec![INPUTS, WEIGHTS, PRODUCTS],
                    params: divisible(&params),
                    workgroups: workgroup_grid(points * (stride / TILES) * channels.div_ceil(CHANNELS * lanes)),
                };
                Some((stride, dispatch))
            }
            // An image for each point, of pixels that are tiles, and a weight of one element for each image.
            Self::Tiles => {
                let stride = tiles.next_multiple_of(TILED);
                let images = Geometry {
                    window: Window { kernel_size: [1, 1], stride: [1, 1], padding: [0, 0] },
                    batch: points,
                    in_extents: [1, stride],
                    in_channels: source_channels,
                    out_extents: [1, stride],
                    out_channels: channels,
                };
                let tiled = images.products_by_tiles(Side::Fine, false, None, Epilogue::None);
                let mut dispatch = tiled.into_iter().next()?.dispatches.pop()?;
                dispatch.constants.push(constant(&("OWN_WEIGHTS", 1)));
                dispatch.bindings = vec![INPUTS, WEIGHTS, WEIGHTS, INPUTS, PRODUCTS];
                Some((stride, dispatch))
            }
        }
    }
}

/// Each element's square.
pub(super) fn squares(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    values.into_iter().map(|value| value * value).collect()
}

/// `matrix · square · matrixᵀ`.
pub(super) fn sandwich(matrix: &[Vec<f64>], square: &[f64]) -> Vec<f64> {
    let width = matrix[0].len();
    let product = |row: &[f64], column: &dyn Fn(usize) -> f64| (0..width).map(|k| row[k] * column(k)).sum::<f64>();
    let half: Vec<f64> =
        matrix.iter().flat_map(|row| (0..width).map(move |x| product(row, &|k| square[k * width + x]))).collect();
    let rows = half.chunks_exact(width);
    rows.flat_map(|half| matrix.iter().map(move |row| product(row, &|k| half[k]))).collect()
}

impl Winograd {
    /// The bound of a result that is computed by these sums. Its roundings are those of the transforms, which add up as independent errors
    /// do, to the root of the sum of squares; and, at each point, those of a sum over channels, taken as in [`Bound::Terms`]. So it is
    /// 4 √n · 2⁻²⁴, n being the number of terms of the plain sum, of |bias| and what the same algorithm gives for magnitudes, by
    /// transforms of squares:
    /// √(A² M²), M = Σ over c of √(B² d²) · √(G² g²), squares being of each element.
    pub(super) fn bound(
        self,
        geometry: &Geometry,
        turned: bool,
        source: &Array<f64>,
        weight: &Array<f64>,
        bias: Option<&[f64]>,
    ) -> Bound {
        let [input_matrix, weight_matrix, output_matrix] =
            self.matrices().map(|matrix| matrix.into_iter().map(squares).collect::<Vec<_>>());
        let (side, points) = (self.output_tile, self.points() * self.points());
        let &[_, _, c_in, c_out] = weight.shape.extents() else { return Bound::Exact };
        let &[_, source_height, source_width, _] = source.shape.extents() else { return Bound::Exact };
        let (ins, outs) = if turned { (c_out, c_in) } else { (c_in, c_out) };
        let [height, width] = if turned { geometry.in_extents } else { geometry.out_extents };
        let [padding_y, padding_x] = winograd_padding(&geometry.window, turned);

        let mut weights = vec![0.0; points * ins * outs];
        for (i, o) in (0..ins).flat_map(|i| (0..outs).map(move |o| (i, o))) {
            let element = |q: usize| {
                if turned { weight.data[((8 - q) * outs + o) * ins + i] } else { weight.data[(q * ins + i) * outs + o] }
            };
            let transformed = sandwich(&weight_matrix, &squares((0..ELEMENTS * ELEMENTS).map(element)));
            for (point, square) in transformed.into_iter().enumerate() {
                weights[(point * ins + i) * outs + o] = square.sqrt();
            }
        }
        let share = 4.0 * ((ELEMENTS * ELEMENTS * ins + 1) as f64).sqrt() * UNIT_ROUNDOFF;
        // A row of tiles, of an image.
        let bounds_of = |band: usize| {
            let (image, top) = (band / height.div_ceil(side), band % height.div_ceil(side) * side);
            let mut bounds = vec![0.0; side.min(height - top) * width * outs];
            for left in (0..width).step_by(side) {
                let mut sums = vec![0.0; points * outs];
                for i in 0..ins {
                    let value = |at: usize| {
                        let row = (top + at / self.points()).checked_sub(padding_y).filter(|&row| row < source_height);
                        let column = (left + at % self.points()).checked_sub(padding_x);
                        let column = column.filter(|&column| column < source_width);
                        row.zip(column).map_or(0.0, |(row, column)| {
                            source.data[((image * source_height + row) * source_width + column) * ins + i]
                        })
                    };
                    let transformed = sandwich(&input_matrix, &squares((0..points).map(value)));
                    for (point, square) in transformed.into_iter().enumerate() {
                        let factors = &weights[(point * ins + i) * outs..][..outs];
                        for (sum, factor) in sums[point * outs..][..outs].iter_mut().zip(factors) {
                            *sum += square.sqrt() * factor;
                        }
                    }
                }
                for o in 0..outs {
                    let at_points = squares((0..points).map(|point| sums[point * outs + o]));
                    for (at, square) in sandwich(&output_matrix, &at_points).into_iter().enumerate() {
                        let (y, x) = (at / side, left + at % side);
                        if top + y < height && x < width {
                            let bias = bias.map_or(0.0, |bias| bias[o].abs());
                            bounds[(y * width + x) * outs + o] = share * (square.sqrt() + bias);
                        }
                    }
                }
            }
            bounds
        };
        let bands = geometry.batch * height.div_ceil(side);
        Bound::Elements((0..bands).into_par_iter().flat_map_iter(bounds_of).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Σ over k of Aᵀ[i, k] · G[k, j] · Bᵀ[k, l] is 1 where l = i + j, else 0.
    #[test]
    fn the_matrices_are_a_convolution() {
        for winograd in [Winograd::F2, Winograd::F4] {
            let [input, weight, output] = winograd.matrices();
            let sum = |i: usize, j: usize, l: usize| -> f64 {
                (0..winograd.points()).map(|k| output[i][k] * weight[k][j] * input[k][l]).sum()
            };
            let places = (0..winograd.output_tile).flat_map(|i| (0..ELEMENTS).map(move |j| (i, j)));
            for (i, j) in places {
                for l in 0..winograd.points() {
                    let expected = f64::from(l == i + j);
                    assert!((sum(i, j, l) - expected).abs() < 1e-15, "{winograd:?} {i} {j} {l}: {}", sum(i, j, l));
                }
            }
        }
    }

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
            Winograd::of(&geometry.with_winograd(direct, false, None, Epilogue::None, device)[0])
        };
        assert_eq!(first(184, [32, 32], &software), Some(Winograd::F4));
        assert_eq!(first(16, [256, 256], &software), Some(Winograd::F4));
        assert_eq!(first(14, [128, 64], &software), Some(Winograd::F4));
        assert_eq!(first(8, [512, 256], &software), Some(Winograd::F2));
        assert_eq!(first(184, [16, 32], &software), None, "too few channels");
        assert_eq!(first(22, [32, 32], &software), None, "too few pixels for so few channels");
        assert_eq!(first(6, [512, 512], &software), None, "too few pixels");
        assert_eq!(first(28, [1024, 1024], &software), None, "144 MiB of transformed weights");
        assert_eq!(first(184, [32, 32], &DeviceProfile { software: false, ..software }), None, "not measured");
        assert_eq!(first(184, [32, 32], &DeviceProfile { int64: false, ..software }), None, "not offered");
        assert_eq!(first(184, [32, 34], &software), None, "not offered");
    }
}
