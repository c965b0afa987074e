//! The ways to lay a rectangle of pixels on its own grid.

/// One of the eight ways to lay a square on itself: `transpose` first, then the flips. By default it lies as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Orientation {
    /// Whether rows become columns.
    pub transpose: bool,
    /// Whether the rows run upwards.
    pub flip_rows: bool,
    /// Whether the columns run leftwards.
    pub flip_columns: bool,
}

impl Orientation {
    /// How many there are.
    pub const COUNT: u32 = 8;

    /// How many of them, the first, leave height and width as they are.
    pub const FLIPS: u32 = 4;

    /// The one of this number below [`Orientation::COUNT`]; 0 is as it is.
    pub fn of(number: u32) -> Self {
        Self { transpose: number & 4 != 0, flip_rows: number & 2 != 0, flip_columns: number & 1 != 0 }
    }

    /// Height and width of an image of this size that lies so.
    pub fn extents(self, [height, width]: [usize; 2]) -> [usize; 2] {
        if self.transpose { [width, height] } else { [height, width] }
    }

    /// Row and column of the pixel of an image of this size that is seen at row `y` and column `x` when it lies so.
    pub fn source(self, [y, x]: [usize; 2], [height, width]: [usize; 2]) -> [usize; 2] {
        let [row, column] = if self.transpose { [x, y] } else { [y, x] };
        [
            if self.flip_rows { height - 1 - row } else { row },
            if self.flip_columns { width - 1 - column } else { column },
        ]
    }

    /// The same as a matrix that takes (y, x) from the centre of what is seen to (row, column) from the centre of the image.
    pub fn matrix(self) -> [[f32; 2]; 2] {
        let [rows, columns] = [self.flip_rows, self.flip_columns].map(|flip| if flip { -1.0 } else { 1.0 });
        if self.transpose { [[0.0, rows], [columns, 0.0]] } else { [[rows, 0.0], [0.0, columns]] }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "halves are exact")]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_finds_the_same_pixels() {
        for orientation in (0..Orientation::COUNT).map(Orientation::of) {
            let size = [3, 4];
            let seen = orientation.extents(size);
            let centre = |[height, width]: [usize; 2]| [(height - 1) as f32 / 2.0, (width - 1) as f32 / 2.0];
            for (y, x) in (0..seen[0]).flat_map(|y| (0..seen[1]).map(move |x| (y, x))) {
                let from = [y as f32 - centre(seen)[0], x as f32 - centre(seen)[1]];
                let found = [0, 1].map(|axis| {
                    let [of_y, of_x] = orientation.matrix()[axis];
                    of_y * from[0] + of_x * from[1] + centre(size)[axis]
                });
                assert_eq!(orientation.source([y, x], size).map(|place| place as f32), found, "{orientation:?}");
            }
        }
        assert_eq!(Orientation::of(0), Orientation::default());
        assert!((0..Orientation::FLIPS).all(|number| !Orientation::of(number).transpose));
    }
}
