//! Pictures of results: overlays, probability maps, contact sheets, loss curves.

mod curve;
mod text;

pub use curve::{Curve, curve_svg};

use crate::data::raster::{encode_rgb8, write_rgb8};
use crate::error::Result;
use std::path::Path;

/// Colours for classes, background first; told apart by people with any colour vision (Okabe and Ito, 2008).
const PALETTE: [[u8; 3]; 8] = [
    [0, 0, 0],
    [0, 158, 115],
    [230, 159, 0],
    [86, 180, 233],
    [213, 94, 0],
    [240, 228, 66],
    [0, 114, 178],
    [204, 121, 167],
];

/// An RGB picture in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `[height, width, 3]`.
    pub rgb: Vec<u8>,
}

/// The colour of a value between 0 and 1: from dark blue over grey to yellow, growing evenly in brightness, so that it reads the
/// same with any colour vision and in print.
fn heat_colour(value: f32) -> [u8; 3] {
    const STOPS: [[f32; 3]; 5] =
        [[0.0, 34.0, 78.0], [65.0, 77.0, 107.0], [125.0, 124.0, 120.0], [188.0, 175.0, 111.0], [254.0, 232.0, 56.0]];
    let position = (value * 4.0).clamp(0.0, 4.0);
    let below = (position as usize).min(3);
    let share = position - below as f32;
    [0, 1, 2].map(|channel| (STOPS[below][channel] * (1.0 - share) + STOPS[below + 1][channel] * share) as u8)
}

/// The colour of a class.
pub fn class_colour(class: u32) -> [u8; 3] {
    match class {
        0 => PALETTE[0],
        _ => PALETTE[1 + (class as usize - 1) % (PALETTE.len() - 1)],
    }
}

impl Picture {
    /// An image as it looks: its values stretched from the 0.5th to the 99.5th percentile. The first three channels are red, green
    /// and blue; an image of one or two channels is shown grey by its first.
    pub fn of_image(pixels: &[f32], [height, width]: [usize; 2], channels: usize) -> Self {
        let mut sorted: Vec<f32> = pixels.to_vec();
        sorted.sort_by(f32::total_cmp);
        let at =
            |share: f64| sorted.get((sorted.len().saturating_sub(1) as f64 * share) as usize).copied().unwrap_or(0.0);
        let (low, high) = (at(0.005), at(0.995));
        let scale = if high > low { 255.0 / (high - low) } else { 0.0 };
        let level = |value: f32| ((value - low) * scale).clamp(0.0, 255.0) as u8;
        let colour = |pixel: &[f32]| match *pixel {
            [red, green, blue, ..] => [level(red), level(green), level(blue)],
            [grey, ..] => [level(grey); 3],
            [] => [0; 3],
        };
        Self { height, width, rgb: pixels.chunks(channels.max(1)).flat_map(colour).collect() }
    }

    /// A class map: each class in its colour.
    pub fn of_classes(classes: &[u32], [height, width]: [usize; 2]) -> Self {
        Self { height, width, rgb: classes.iter().flat_map(|&class| class_colour(class)).collect() }
    }

    /// The probability of foreground, 1 − the probability of class 0, from black to white.
    pub fn of_probabilities(probabilities: &[f32], [height, width]: [usize; 2], classes: usize) -> Self {
        let level = |pixel: &[f32]| [(255.0 * (1.0 - pixel[0])).clamp(0.0, 255.0) as u8; 3];
        Self { height, width, rgb: probabilities.chunks(classes.max(1)).flat_map(level).collect() }
    }

    /// Any values, such as loss weights: the lowest dark blue, the highest yellow.
    pub fn of_values(values: &[f32], [height, width]: [usize; 2]) -> Self {
        let (low, high) = values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
        let scale = if high > low { (high - low).recip() } else { 0.0 };
        Self { height, width, rgb: values.iter().flat_map(|&value| heat_colour((value - low) * scale)).collect() }
    }

    /// Where a prediction is wrong: grey where a class other than 0 was found, blue where it was missed, orange where there is
    /// none or another.
    pub fn of_errors(truth: &[u32], prediction: &[u32], [height, width]: [usize; 2]) -> Self {
        let colour = |(&truth, &prediction): (&u32, &u32)| match (truth, prediction) {
            (0, 0) => [0; 3],
            (truth, prediction) if truth == prediction => [150; 3],
            (_, 0) => class_colour(3),
            _ => class_colour(2),
        };
        Self { height, width, rgb: truth.iter().zip(prediction).flat_map(colour).collect() }
    }

    /// The picture with classes laid over it: a tint inside, a strong line where the class changes. Pixels without a class have class 0.
    #[must_use]
    pub fn overlaid(&self, classes: &[u32]) -> Self {
        self.tinted(classes, 0.25)
    }

    /// The picture with a strong line where the class changes, inside of what is not class 0. Pixels without a class have class 0.
    #[must_use]
    pub fn outlined(&self, classes: &[u32]) -> Self {
        self.tinted(classes, 0.0)
    }

    /// The picture with lines where the class changes, and within them as much of its colour as `inside` says.
    fn tinted(&self, classes: &[u32], inside: f32) -> Self {
        let mut overlay = self.clone();
        let class_at = |y: usize, x: usize| classes.get(y * self.width + x).copied().unwrap_or(0);
        for (place, pixel) in overlay.rgb.chunks_exact_mut(3).enumerate().take(self.height.saturating_mul(self.width)) {
            let (y, x) = (place / self.width, place % self.width);
            let class = class_at(y, x);
            if class == 0 {
                continue;
            }
            let neighbours = [(y.wrapping_sub(1), x), (y + 1, x), (y, x.wrapping_sub(1)), (y, x + 1)];
            let edge = neighbours.iter().any(|&(y, x)| y < self.height && x < self.width && class_at(y, x) != class);
            let share = if edge { 0.9 } else { inside };
            for (value, colour) in pixel.iter_mut().zip(class_colour(class)) {
                *value = (f32::from(*value) * (1.0 - share) + f32::from(colour) * share) as u8;
            }
        }
        overlay
    }

    /// Pictures in rows, with a light gap between them; each column as wide as its widest picture.
    pub fn sheet(rows: &[Vec<Self>]) -> Self {
        const GAP: usize = 6;
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|p| p.width).max().unwrap_or(0))
            .collect();
        let heights: Vec<usize> = rows.iter().map(|row| row.iter().map(|p| p.height).max().unwrap_or(0)).collect();
        let width = widths.iter().sum::<usize>() + GAP * (columns + 1);
        let height = heights.iter().sum::<usize>() + GAP * (rows.len() + 1);
        let mut sheet = Self { height, width, rgb: vec![235; 3 * height * width] };
        let mut top = GAP;
        for (row, row_height) in rows.iter().zip(heights) {
            let mut left = GAP;
            for (picture, column_width) in row.iter().zip(&widths) {
                let lines = picture.rgb.chunks_exact(3 * picture.width.max(1)).take(picture.height);
                for (y, line) in lines.enumerate() {
                    sheet.rgb[3 * ((top + y) * width + left)..][..line.len()].copy_from_slice(line);
                }
                left += column_width + GAP;
            }
            top += row_height + GAP;
        }
        sheet
    }

    /// The picture as the bytes of a PNG.
    ///
    /// # Errors
    /// When the picture has no pixels.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        encode_rgb8(self.height, self.width, &self.rgb)
    }

    /// Writes the picture as a PNG.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        write_rgb8(path.as_ref(), self.height, self.width, &self.rgb)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_stretched_over_its_range() {
        let picture = Picture::of_image(&[5.0, 6.0, 7.0, 8.0], [2, 2], 1);
        assert_eq!(picture.rgb[..3], [0; 3]);
        assert!(picture.rgb[3] > 50 && picture.rgb[3] < 130);
        let flat = Picture::of_image(&[5.0; 4], [2, 2], 1);
        assert!(flat.rgb.iter().all(|&value| value == 0));
    }

    #[test]
    fn an_overlay_tints_the_inside_lines_the_edge_and_leaves_the_background() {
        let base = Picture { height: 5, width: 5, rgb: vec![100; 75] };
        let mut classes = vec![0; 25];
        for y in 1..4 {
            classes[5 * y + 1..5 * y + 4].fill(1);
        }
        let overlay = base.overlaid(&classes);
        let pixel = |y: usize, x: usize| &overlay.rgb[3 * (5 * y + x)..][..3];
        assert_eq!(pixel(0, 0), [100; 3]);
        assert!(pixel(1, 1)[1] > pixel(2, 2)[1] && pixel(2, 2)[1] > 100);
    }

    #[test]
    fn pictures_that_are_not_whole_are_drawn_as_far_as_they_go() {
        assert_eq!(Picture::of_image(&[], [0, 0], 1).rgb, [0; 0]);
        let half = Picture { height: 2, width: 2, rgb: vec![100; 9] };
        let overlay = half.overlaid(&[0, 1]);
        assert_eq!(
            (&overlay.rgb[..3], overlay.rgb[3..6] == [100; 3], &overlay.rgb[6..]),
            (&[100; 3][..], false, &[100; 3][..])
        );
        let none = Picture { height: 3, width: 0, rgb: Vec::new() };
        assert_eq!(none.outlined(&[1]), none);
        let sheet = Picture::sheet(&[vec![half, none]]);
        let drawn: Vec<&u8> = sheet.rgb.iter().filter(|&&value| value == 100).collect();
        assert_eq!((sheet.height, sheet.width, drawn.len()), (3 + 12, 2 + 18, 6));
    }

    #[test]
    fn values_grow_brighter_and_errors_have_a_colour_each() {
        let heat = Picture::of_values(&[-1.0, 0.0, 1.0, 3.0], [2, 2]);
        let brightness: Vec<u32> = heat.rgb.chunks(3).map(|pixel| pixel.iter().map(|&v| u32::from(v)).sum()).collect();
        assert!(brightness.is_sorted() && heat.rgb[..3] == [0, 34, 78] && heat.rgb[9..] == [254, 232, 56]);
        assert_eq!(Picture::of_values(&[5.0; 2], [1, 2]).rgb, [0, 34, 78, 0, 34, 78]);
        let errors = Picture::of_errors(&[0, 1, 1, 0, 1], &[0, 1, 0, 1, 2], [1, 5]);
        let (missed, invented) = (class_colour(3), class_colour(2));
        assert_eq!(errors.rgb, [[0; 3], [150; 3], missed, invented, invented].concat());
    }

    #[test]
    fn a_sheet_holds_its_pictures_in_rows() {
        let picture = |height, width, value| Picture { height, width, rgb: vec![value; 3 * height * width] };
        let sheet = Picture::sheet(&[vec![picture(2, 3, 1), picture(4, 1, 2)], vec![picture(1, 5, 3)]]);
        assert_eq!((sheet.height, sheet.width), (4 + 1 + 18, 5 + 1 + 18));
        let at = |y: usize, x: usize| sheet.rgb[3 * (y * sheet.width + x)];
        assert_eq!((at(6, 6), at(6, 17), at(16, 10), at(0, 0)), (1, 2, 3, 235));
    }
}
