//! The map from the pixels of a result to positions in a source tile.

use crate::array::{Real, Tensor};
use crate::kernel;
use crate::op::{Binding, Bound, Candidate, Case, DeviceProfile, Fill, Op};
use crate::ops::{image, turns, zeros};
use crate::shape::{DType, TensorType};
use rayon::prelude::*;
use std::sync::Arc;

/// p ↦ mirrored(centre of the source + M (p − centre of the frame) + t + field(p)) for the pixels p of a window in the middle of the
/// frame; inputs are transforms `[n, 6]`, rows of M with t behind each (y first), and displacements `[n, grid, grid, 2]`.
///
/// The field has the displacements at the nodes of a grid over the frame, corners included, and is cubic between them. A position
/// beyond the source is mirrored without repeating the end pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AugmentPositions {
    /// Height and width that the field is spread over.
    pub frame: [usize; 2],
    /// Height and width of the window; smaller than the frame by even numbers.
    pub window: [usize; 2],
    /// Height and width of the source.
    pub source: [usize; 2],
}

/// The largest side, and the largest grid, for which 32 bits suffice.
const LARGEST: [usize; 2] = [4096, 64];

/// Positions and displacements are 256ths of a pixel, as in the texture units of GPUs.
const SUBPIXELS: f64 = 256.0;

/// `value` in units of 1 / `scale`; of two equally near integers the even one.
fn fixed<T: Real>(value: T, scale: f64) -> i64 {
    (value.as_f64() * scale).round_ties_even() as i64
}

/// Where a pixel of an axis lies in the grid: the node before it, and how far it is past that, in 16384ths.
fn place(pixel: usize, extent: usize, grid: usize) -> (i64, i64) {
    let (steps, last) = (pixel * (grid - 1), (extent - 1).max(1));
    ((steps / last) as i64, (((steps % last) << 14) / last) as i64)
}

/// Keys' cubic convolution with a = −½ of four nodes, t past the second, in 16384ths, as is t; they add up to 16384.
fn weights(t: i64) -> [i64; 4] {
    let t2 = (t * t) >> 14;
    let t3 = (t2 * t) >> 14;
    let [before, second, after] = [2 * t2 - t3 - t, 4 * t2 - 3 * t3 + t, t3 - t2].map(|twice| twice >> 1);
    [before, 16384 - before - second - after, second, after]
}

/// A position folded into 0 ..= last.
fn mirrored(position: i64, last: i64) -> i64 {
    let folded = position.rem_euclid((2 * last).max(1));
    folded.min(2 * last - folded)
}

impl Op for AugmentPositions {
    fn name(&self) -> &'static str {
        "augment_positions"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let Self { frame, window, source } = *self;
        for axis in 0..2 {
            let (frame, window) = (frame[axis], window[axis]);
            if frame > LARGEST[0] || source[axis] > LARGEST[0] || source[axis] == 0 {
                return Err(format!(
                    "frame and source may have sides of 1 to {} pixels, got {frame} and {}",
                    LARGEST[0], source[axis]
                ));
            }
            if window > frame || !(frame - window).is_multiple_of(2) {
                return Err(format!("a window of {window} pixels has no place in the middle of a frame of {frame}"));
            }
        }
        let fits = |transforms: &TensorType, displacements: &TensorType| match (
            transforms.shape.extents(),
            displacements.shape.extents(),
        ) {
            (&[n, 6], &[batch, rows, columns, 2])
                if n == batch
                    && rows == columns
                    && rows <= LARGEST[1]
                    && [transforms.dtype, displacements.dtype] == [DType::F32; 2] =>
            {
                Some(n)
            }
            _ => None,
        };
        let batch = if let [transforms, displacements] = inputs { fits(transforms, displacements) } else { None };
        let expected = || {
            let largest = LARGEST[1];
            format!(
                "expected transforms [n, 6] and displacements [n, grid, grid, 2] with a grid up to {largest}, got {inputs:?}"
            )
        };
        TensorType::f32([batch.ok_or_else(expected)?, window[0], window[1], 2])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let Self { frame, window: [height, width], source } = *self;
        let (transforms, displacements) = (inputs[0].float(), inputs[1].float());
        let [_, grid, ..] = image(&inputs[1].tensor_type());
        let mut positions = zeros(self, inputs);
        positions.data.par_chunks_mut(2 * width).enumerate().for_each(|(row, positions)| {
            let (n, y) = (row / height, (frame[0] - height) / 2 + row % height);
            let transform = &transforms.data[6 * n..][..6];
            let displacements = &displacements.data[2 * n * grid * grid..][..2 * grid * grid];
            let node = |row: i64, column: i64, axis: usize| {
                let [row, column] = [row, column].map(|node| node.clamp(0, grid as i64 - 1) as usize);
                fixed(displacements[2 * (row * grid + column) + axis], SUBPIXELS)
            };
            let (first_row, past_row) = place(y, frame[0], grid);
            for (x, position) in positions.chunks_mut(2).enumerate() {
                let x = (frame[1] - width) / 2 + x;
                let (first_column, past_column) = place(x, frame[1], grid);
                let [from_y, from_x] = [(y, frame[0]), (x, frame[1])].map(|(at, side)| 2 * at as i64 - side as i64 + 1);
                for (axis, position) in position.iter_mut().enumerate() {
                    let mut field = 0;
                    for (r, row_weight) in (-1..).zip(weights(past_row)) {
                        let columns = (-1..).zip(weights(past_column));
                        let line: i64 =
                            columns.map(|(c, weight)| weight * node(first_row + r, first_column + c, axis)).sum();
                        field += row_weight * ((line + 8192) >> 14);
                    }
                    let [of_y, of_x] = [0, 1].map(|column| fixed(transform[3 * axis + column], 65536.0));
                    // Twice the distance to the centre, times 65536, in 256ths.
                    let turned = (of_y * from_y + of_x * from_x + 256) >> 9;
                    let last = 256 * (source[axis] as i64 - 1);
                    let shift = fixed(transform[3 * axis + 2], SUBPIXELS);
                    let found = mirrored(last / 2 + turned + shift + ((field + 8192) >> 14), last);
                    *position = T::from_f64(found as f64 / SUBPIXELS);
                }
            }
        });
        vec![Tensor::Float(positions)]
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let params = [
            ("height", self.window[0].into()),
            ("width", self.window[1].into()),
            ("frame_height", self.frame[0].into()),
            ("frame_width", self.frame[1].into()),
            ("source_height", self.source[0].into()),
            ("source_width", self.source[1].into()),
            ("grid", image(&inputs[1])[1].into()),
        ];
        let bindings = vec![Binding::Input(0), Binding::Input(1), Binding::Output];
        vec![turns(kernel!("augment/positions"), bindings, output.shape.pixels(), &params, device).into()]
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        // Of each coordinate a product of two rows, and a sum of 16 products in 4 + 1 sums of 4: integers, counted alike.
        (4 + 40) * output.shape.elements() as u64
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Exact
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    const ANY: &[(f32, f32)] = &[(-1.5, 1.5), (-1.5, 1.5), (-20.0, 20.0), (-1.5, 1.5), (-1.5, 1.5), (-20.0, 20.0)];
    const IDENTITY: &[(f32, f32)] = &[(1.0, 1.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (1.0, 1.0), (0.0, 0.0)];
    const TURN: &[(f32, f32)] = &[(0.0, 0.0), (-1.0, -1.0), (0.0, 0.0), (1.0, 1.0), (0.0, 0.0), (0.0, 0.0)];
    let mut cases = Vec::new();
    for (batch, frame, window, source, grid, transforms, what) in [
        (1, [1, 1], [1, 1], [1, 1], 1, ANY, "one pixel"),
        (1, [8, 8], [8, 8], [8, 8], 1, IDENTITY, "one workgroup, identity"),
        (1, [5, 13], [5, 13], [9, 17], 2, ANY, "one over"),
        (2, [14, 14], [8, 8], [14, 14], 1, TURN, "a quarter turn"),
        (2, [21, 15], [11, 7], [30, 27], 3, ANY, "odd sizes, batch 2"),
        (3, [17, 13], [13, 13], [2, 1], 4, ANY, "prime sizes, a tiny source"),
        (1, [64, 64], [64, 64], [400, 300], 64, ANY, "as many nodes as pixels"),
        (1, [4096, 4], [4096, 2], [4096, 4096], 5, IDENTITY, "the largest sides"),
        (1, [2050, 2048], [2050, 2048], [3000, 3000], 3, ANY, "past 65,535 workgroups"),
    ] {
        let op = AugmentPositions { frame, window, source };
        let (transforms_type, displacements) = (TensorType::f32([batch, 6])?, TensorType::f32([batch, grid, grid, 2])?);
        let name = format!("{what}: {frame:?} to {window:?} of {source:?}, grid {grid}");
        let inputs = vec![(transforms_type, Fill::Ranges(transforms)), (displacements, Fill::Normal(10.0))];
        cases.push(Case { name, op: Arc::new(op), inputs });
    }
    Ok(cases)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "positions are exact")]
mod tests {
    use super::*;
    use crate::array::Array;

    /// The positions of one tile.
    fn positions(op: AugmentPositions, transform: [f64; 6], grid: usize, displacements: Vec<f64>) -> Vec<[f64; 2]> {
        let array = |extents: &[usize], data| Array::new(TensorType::f32(extents).unwrap().shape, data).unwrap().into();
        let inputs = [array(&[1, 6], transform.to_vec()), array(&[1, grid, grid, 2], displacements)];
        let found = op.reference::<f64>(&inputs.iter().collect::<Vec<_>>());
        found[0].float().data.chunks(2).map(|position| [position[0], position[1]]).collect()
    }

    const IDENTITY: [f64; 6] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0];

    #[test]
    fn the_identity_takes_the_middle_of_the_source() {
        let op = AugmentPositions { frame: [5, 7], window: [3, 3], source: [9, 11] };
        let found = positions(op, IDENTITY, 1, vec![0.0; 2]);
        let expected: Vec<[f64; 2]> = (0..9).map(|i| [f64::from(3 + i / 3), f64::from(4 + i % 3)]).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_quarter_turn_a_shift_and_a_mirror_are_what_they_are_called() {
        let op = AugmentPositions { frame: [3, 3], window: [3, 3], source: [5, 5] };
        // One pixel to the right in the result is one down in the source.
        let turned = positions(op, [0.0, 1.0, 0.0, -1.0, 0.0, 0.0], 1, vec![0.0; 2]);
        assert_eq!([turned[0], turned[1], turned[3]], [[1.0, 3.0], [2.0, 3.0], [1.0, 2.0]]);
        let shifted = positions(op, [1.0, 0.0, 0.25, 0.0, 1.0, -3.5], 1, vec![0.5, 0.0]);
        assert_eq!([shifted[0], shifted[2]], [[1.75, 2.5], [1.75, 0.5]]);
    }

    #[test]
    fn the_field_has_the_displacements_at_its_nodes_and_keeps_constants() {
        let op = AugmentPositions { frame: [9, 9], window: [9, 9], source: [101, 101] };
        let displacements: Vec<f64> = (0..18).map(|i| f64::from(i * 37 % 23) - 11.0).collect();
        let found = positions(op, IDENTITY, 3, displacements.clone());
        for node in 0..9 {
            let (y, x) = (node / 3 * 4, node % 3 * 4);
            let moved = found[9 * y + x];
            assert_eq!([moved[0] - 46.0 - y as f64, moved[1] - 46.0 - x as f64], displacements[2 * node..][..2]);
        }
        let constant = positions(op, IDENTITY, 3, [3.5, -2.25].repeat(9));
        assert!((0..81).all(|i| constant[i] == [49.5 + (i / 9) as f64, 43.75 + (i % 9) as f64]));
    }

    #[test]
    fn what_32_bits_cannot_hold_and_what_has_no_middle_is_refused() {
        let types = [TensorType::f32([1, 6]).unwrap(), TensorType::f32([1, 3, 3, 2]).unwrap()];
        let fitting = AugmentPositions { frame: [8, 8], window: [4, 4], source: [9, 9] };
        assert!(fitting.output(&types).is_ok());
        for (op, part) in [
            (AugmentPositions { frame: [4097, 8], ..fitting }, "4097"),
            (AugmentPositions { source: [9, 0], ..fitting }, "and 0"),
            (AugmentPositions { window: [4, 5], ..fitting }, "window of 5"),
            (AugmentPositions { window: [10, 4], ..fitting }, "window of 10"),
        ] {
            let problem = op.output(&types).unwrap_err();
            assert!(problem.contains(part), "{problem}");
        }
        let large = TensorType::f32([1, 65, 65, 2]).unwrap();
        assert!(fitting.output(&[types[0].clone(), large]).unwrap_err().contains("grid up to 64"));
    }
}
