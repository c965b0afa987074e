//! Launches of the kernels that pass tiles through workgroup memory, which is what GPUs want.

use super::launch::{Correlation, Epilogue, Geometry, WeightGradient, parts};
use super::loops::Side;
use crate::kernel;
use crate::op::{Binding, Candidate, Dispatch};

/// How `conv2d/correlation_tiled` cuts a result into workgroups, and these into invocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    pixels: usize,
    channels: usize,
    /// Channels of source that pass through workgroup memory at once.
    depth: usize,
    /// Pixels and channels that an invocation owns.
    block: [usize; 2],
}

/// From the one that uses each loaded value most often to those that leave less of their width unused in narrow layers. Each has 16 to 64
/// sums in registers, at most 256 invocations and 11 KiB of workgroup memory: every device has these, and most cores of GPUs twice.
const TILES: [Tile; 5] = [
    Tile { pixels: 128, channels: 128, depth: 8, block: [8, 8] },
    Tile { pixels: 128, channels: 64, depth: 8, block: [8, 8] },
    Tile { pixels: 64, channels: 64, depth: 16, block: [4, 4] },
    Tile { pixels: 128, channels: 32, depth: 16, block: [8, 4] },
    Tile { pixels: 64, channels: 16, depth: 16, block: [4, 4] },
];

/// So many workgroups keep a large GPU busy; with fewer, smaller ones are better.
const ENOUGH: usize = 256;

/// The least channels for which a tile is not mostly empty.
const LEAST_CHANNELS: usize = 8;

impl Tile {
    /// The tiles for a result of so many pixels in each of `phases`, the preferred one first.
    fn for_result(pixels: usize, phases: usize, channels: usize) -> Vec<(Self, usize)> {
        let width = channels.next_power_of_two().clamp(16, 128);
        let mut tiles: Vec<(Self, usize)> = TILES
            .into_iter()
            .filter(|tile| tile.channels <= width && (tile.channels == width || tile.channels >= 64))
            .map(|tile| (tile, phases * pixels.div_ceil(tile.pixels) * channels.div_ceil(tile.channels)))
            .collect();
        // Where none has enough workgroups, the smallest has most.
        let preferred = tiles.iter().position(|&(_, workgroups)| workgroups >= ENOUGH).unwrap_or(tiles.len() - 1);
        tiles[..=preferred].rotate_right(1);
        tiles
    }

    fn constants(self) -> [(&'static str, usize); 5] {
        [
            ("TILE_PIXELS", self.pixels),
            ("TILE_CHANNELS", self.channels),
            ("DEPTH", self.depth),
            ("PIXELS", self.block[0]),
            ("CHANNELS", self.block[1]),
        ]
    }
}

/// Channels of either side in a workgroup of `conv2d/grad_weight_tiled`, those that an invocation owns, and from how many on.
const WEIGHT_TILES: [(usize, usize, usize); 3] = [(128, 8, 65), (64, 8, 33), (32, 4, 17)];

/// Pixels that pass through workgroup memory at once.
const WEIGHT_DEPTH: usize = 8;

impl Geometry {
    /// The forward pass, or, `turned`, the gradient of the input, whose source is on this side of the window, by tiles in workgroup
    /// memory; none where channels do not allow it.
    pub(in crate::ops) fn products_by_tiles(
        &self,
        source_side: Side,
        turned: bool,
        bias: Option<Binding>,
        epilogue: Epilogue,
    ) -> Vec<Candidate> {
        let correlation = Correlation::new(self, source_side, turned, bias, epilogue);
        let Correlation { source, result, phases, .. } = correlation;
        let fits = |channels: usize| channels.is_multiple_of(4) && channels >= LEAST_CHANNELS;
        if !fits(source.channels) || !fits(result.channels) {
            return Vec::new();
        }
        let pixels = self.batch * result.extents[0].div_ceil(phases[0]) * result.extents[1].div_ceil(phases[1]);
        let launch = |(tile, workgroups): (Tile, usize)| correlation.by_tiles(&tile.constants(), workgroups).into();
        Tile::for_result(pixels, phases[0] * phases[1], result.channels).into_iter().map(launch).collect()
    }

    /// The like for the gradient of the weight, for an op whose input is on this side of the window.
    pub(in crate::ops) fn weight_gradient_by_tiles(&self, input_side: Side) -> Option<Candidate> {
        // A quarter of the workgroups that smaller tiles have.
        self.weight_gradient_in_parts(input_side, 0, |rows, pixels, groups| parts(rows, pixels, 4 * groups))
    }

    /// The gradient of the weight by each row of the images apart: parts, in the order of rows, from this one on.
    pub(super) fn weight_gradient_by_rows(&self, first_part: usize) -> Option<Dispatch> {
        self.weight_gradient_in_parts(Side::Fine, first_part, |rows, _, _| rows)?.dispatches.into_iter().next()
    }

    /// The gradient in as many parts as `parts` says for so many rows of pixels, and so many workgroups for each part.
    fn weight_gradient_in_parts(
        &self,
        input_side: Side,
        first_part: usize,
        parts: impl Fn(usize, usize, usize) -> usize,
    ) -> Option<Candidate> {
        let gradient = WeightGradient::new(self, input_side);
        let (fine, coarse) = (gradient.fine.channels, gradient.coarse.channels);
        let &(tile, channels, _) = WEIGHT_TILES.iter().find(|&&(_, _, least)| fine.min(coarse) >= least)?;
        if !fine.is_multiple_of(4) || !coarse.is_multiple_of(4) {
            return None;
        }
        let taps = self.window.kernel_size[0] * self.window.kernel_size[1];
        let groups = taps * fine.div_ceil(tile) * coarse.div_ceil(tile);
        let parts = parts(gradient.rows(), gradient.coarse.extents[1], groups);
        let constants = [("TILE", tile), ("DEPTH", WEIGHT_DEPTH), ("CHANNELS", channels)];
        let params = [("first_part", first_part)];
        Some(gradient.in_parts(parts, kernel!("conv2d/grad_weight_tiled"), &constants, &params, parts * groups))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel divides leaves no rest, and what it needs every device has.
    #[test]
    fn tiles_fit_their_kernel_and_every_device() {
        for Tile { pixels, channels, depth, block } in TILES {
            let invocations = pixels / block[0] * (channels / block[1]);
            assert!(pixels % block[0] == 0 && channels % block[1] == 0 && block[1] % 4 == 0 && depth % 4 == 0);
            assert!(invocations <= 256 && invocations % (depth / 4) == 0, "{invocations} invocations");
            assert!((pixels * depth / 4) % invocations == 0 && (depth * channels / 4) % invocations == 0);
            let bytes = 4 * depth * (pixels + channels + 4);
            assert!(bytes <= 11 << 10, "{bytes} bytes of workgroup memory");
        }
        for (tile, channels, _) in WEIGHT_TILES {
            let invocations = (tile / channels) * (tile / channels);
            assert!(tile % channels == 0 && invocations <= 256 && invocations % WEIGHT_DEPTH == 0);
            assert!((tile / 4) % (invocations / WEIGHT_DEPTH) == 0);
        }
    }

    #[test]
    fn wide_tiles_are_preferred_where_there_are_enough_of_them() {
        let tiles = |pixels, channels| -> Vec<[usize; 2]> {
            let tiles = Tile::for_result(pixels, 1, channels).into_iter();
            tiles.map(|(tile, _)| [tile.pixels, tile.channels]).collect()
        };
        assert_eq!(tiles(322_624, 64), [[128, 64], [64, 64]]);
        assert_eq!(tiles(322_624, 65), [[128, 128], [128, 64], [64, 64]]);
        assert_eq!(tiles(10_404, 256), [[128, 64], [128, 128], [64, 64]]);
        assert_eq!(tiles(784, 1024), [[64, 64], [128, 128], [128, 64]]);
        assert_eq!(tiles(784, 33), [[64, 64], [128, 64]]);
        assert_eq!(tiles(784, 32), [[128, 32]]);
        assert_eq!(tiles(784, 8), [[64, 16]]);
        assert_eq!(Tile::for_result(129, 4, 24), [(TILES[3], 8)], "two in each of four phases");
    }

    #[test]
    fn tiles_are_offered_for_fours_of_channels() {
        let window = super::super::loops::Window { kernel_size: [3, 3], stride: [1, 1], padding: [0, 0] };
        let geometry = |in_channels, out_channels| Geometry {
            window,
            batch: 1,
            in_extents: [9, 9],
            in_channels,
            out_extents: [7, 7],
            out_channels,
        };
        let offered =
            |input, output| geometry(input, output).products_by_tiles(Side::Fine, false, None, Epilogue::None).len();
        assert_eq!([offered(1, 16), offered(16, 2), offered(18, 16), offered(16, 4), offered(16, 8)], [0, 0, 0, 0, 1]);
        let weight = |input, output| geometry(input, output).weight_gradient_by_tiles(Side::Fine).is_some();
        assert_eq!([weight(16, 32), weight(20, 32), weight(32, 34)], [false, true, false]);
    }
}
