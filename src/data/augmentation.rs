//! Random changes of training tiles: how far they may go, and what is drawn for a tile. The changes themselves are made on the device, by
//! the op [`augment`](crate::ops::AugmentPositions).

use super::orientation::Orientation;
use crate::error::{Error, Result};
use crate::ops::Interpolation;
use crate::random::Random;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The stream of a seed that changes are drawn from.
const STREAM: u32 = 0xa0_96e4;

/// How far tiles are changed. Every key may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// Whether tiles are flipped and turned by quarters. Default true.
    pub flips: bool,
    /// The standard deviation of the elastic displacements, in pixels, before they are cut at three of it and at a fifth of the distance
    /// between the grid's nodes, so that nothing folds: 9.1 pixels for 3×3 nodes over a tile of 92. Default 0: none; the paper has 10.
    pub elastic: f32,
    /// Nodes along a side of the grid that displacements are drawn for. Default 3, as in the paper.
    pub elastic_grid: usize,
    /// The largest rotation to either side, in degrees. Default 0.
    pub rotation: f32,
    /// By how much a tile is enlarged or reduced at most: 0.1 is a factor between 1/1.1 and 1.1. Default 0.
    pub scale: f32,
    /// The largest shift along each axis, in pixels, beyond the random place of a tile. Default 0.
    pub shift: f32,
    /// The largest value that is added, in standard deviations of the image. Default 0.
    pub brightness: f32,
    /// How much contrast changes at most: 0.2 is a factor between 1/1.2 and 1.2. Default 0.
    pub contrast: f32,
    /// How far the exponent is from 1 at most: 0.3 is one between 1/1.3 and 1.3. Default 0.
    pub gamma: f32,
    /// The largest standard deviation of the noise, in those of the image. Default 0.
    pub noise: f32,
    /// What images are between their pixels: `cubic` (default) or `linear`.
    pub interpolation: Interpolation,
}

impl Default for Augmentation {
    /// Flips and quarter turns, which move whole pixels.
    fn default() -> Self {
        Self { flips: true, ..Self::NONE }
    }
}

/// What is drawn for a tile, as the op takes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where a pixel comes from: the rows of a matrix, y first, a shift behind each.
    pub transform: [f32; 6],
    /// The displacement of each node of the grid, y before x.
    pub displacements: Vec<f32>,
    /// Low, span, gamma, contrast, brightness, noise.
    pub intensities: [f32; 6],
}

impl Change {
    /// What changes nothing, for a grid of so many nodes along a side.
    pub fn identity(grid: usize) -> Self {
        Self {
            transform: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            displacements: vec![0.0; 2 * grid * grid],
            intensities: [0.0, 1.0, 1.0, 1.0, 0.0, 0.0],
        }
    }
}

impl fmt::Display for Augmentation {
    /// What is changed and how far, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { flips, elastic, elastic_grid: grid, rotation, scale, shift, .. } = *self;
        let Self { brightness, contrast, gamma, noise, .. } = *self;
        let parts = [
            (flips, "flips and quarter turns".into()),
            (elastic > 0.0, format!("elastic {elastic} px on {grid}×{grid}")),
            (rotation > 0.0, format!("rotation {rotation}°")),
            (scale > 0.0, format!("scale {scale}")),
            (shift > 0.0, format!("shift {shift} px")),
            (brightness > 0.0, format!("brightness {brightness}")),
            (contrast > 0.0, format!("contrast {contrast}")),
            (gamma > 0.0, format!("gamma {gamma}")),
            (noise > 0.0, format!("noise {noise}")),
        ];
        let parts: Vec<String> = parts.into_iter().filter_map(|(on, part)| on.then_some(part)).collect();
        if parts.is_empty() { f.write_str("no augmentation") } else { f.write_str(&parts.join(", ")) }
    }
}

impl Augmentation {
    /// Tiles as they are.
    pub const NONE: Self = Self {
        flips: false,
        elastic: 0.0,
        elastic_grid: 3,
        rotation: 0.0,
        scale: 0.0,
        shift: 0.0,
        brightness: 0.0,
        contrast: 0.0,
        gamma: 0.0,
        noise: 0.0,
        interpolation: Interpolation::Cubic,
    };

    /// The paper's elastic deformation and a little of everything else.
    pub const RECIPE: Self = Self {
        flips: true,
        elastic: 10.0,
        rotation: 45.0,
        scale: 0.1,
        brightness: 0.2,
        contrast: 0.2,
        gamma: 0.3,
        noise: 0.1,
        ..Self::NONE
    };

    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the key, its value and what it may be.
    pub fn validate(&self) -> Result<()> {
        for (key, value, largest) in [
            ("elastic", self.elastic, 50.0),
            ("rotation", self.rotation, 180.0),
            ("scale", self.scale, 1.0),
            ("shift", self.shift, 1000.0),
            ("brightness", self.brightness, 100.0),
            ("contrast", self.contrast, 10.0),
            ("gamma", self.gamma, 10.0),
            ("noise", self.noise, 100.0),
        ] {
            if !(0.0..=largest).contains(&value) {
                return Err(Error::Usage(format!("augment.{key} must be 0 to {largest}, got {value}")));
            }
        }
        if !(2..=64).contains(&self.elastic_grid) {
            return Err(Error::Usage(format!("augment.elastic_grid must be 2 to 64, got {}", self.elastic_grid)));
        }
        Ok(())
    }

    /// Whether tiles stay as they are.
    pub fn is_none(&self) -> bool {
        Self { elastic_grid: 3, interpolation: Interpolation::Cubic, ..*self } == Self::NONE
    }

    /// Whether pixels come from between pixels. Otherwise each is one of the source, whatever the interpolation.
    pub fn interpolates(&self) -> bool {
        [self.elastic, self.rotation, self.scale, self.shift].iter().any(|&largest| largest > 0.0)
    }

    /// Nodes along a side of the grid: one where there is no elastic deformation.
    pub fn grid(&self) -> usize {
        if self.elastic > 0.0 { self.elastic_grid } else { 1 }
    }

    /// What is changed and how far, in one line, with where elastic displacements end in frames of this size.
    pub fn in_frame(&self, frame: [usize; 2]) -> String {
        if self.elastic > 0.0 {
            format!("{self}; displacements end at {:.1} px", self.largest_displacement(frame))
        } else {
            self.to_string()
        }
    }

    /// Displacements end here: at three deviations, and at a fifth of the distance between nodes. Two neighbours that move towards
    /// each other as far as they can still keep their order, so an image may be pressed together but is not folded.
    fn largest_displacement(&self, [height, width]: [usize; 2]) -> f32 {
        let spacing = height.min(width).saturating_sub(1) as f32 / self.elastic_grid.saturating_sub(1) as f32;
        (3.0 * self.elastic).min(spacing / 5.0)
    }

    /// Height and width of a source tile in which every pixel of a changed frame can be found, larger than the frame by even numbers.
    pub fn source(&self, frame: [usize; 2]) -> [usize; 2] {
        if !self.interpolates() {
            return frame;
        }
        let (sine, cosine) = self.rotation.min(45.0).to_radians().sin_cos();
        let [half_height, half_width] = frame.map(|side| (side - 1) as f32 / 2.0);
        // A square turned by up to 45 degrees reaches farthest at the end of the range, others at most as far as their diagonal.
        let reach = if frame[0] == frame[1] { half_height * (sine + cosine) } else { half_height.hypot(half_width) };
        let elastic = if self.elastic > 0.0 { self.largest_displacement(frame) } else { 0.0 };
        // Two more pixels for the cubic interpolation.
        let around = self.shift + elastic + 2.0;
        let turned = self.rotation > 0.0;
        [(frame[0], half_height), (frame[1], half_width)].map(|(side, half)| {
            let reach = if turned { reach.max(half) } else { half } * (1.0 + self.scale);
            side + 2 * (reach - half + around).ceil() as usize
        })
    }

    /// What happens to tile number `tile` of a run, counted over all batches; `range` is the lowest and the highest value of its image.
    pub fn draw(&self, seed: u32, tile: u32, frame: [usize; 2], range: [f32; 2]) -> Change {
        let nodes = 2 * self.grid() * self.grid();
        // Nine numbers of a word each, and two words a displacement.
        let counter = tile.wrapping_mul(9 + 2 * nodes as u32);
        let mut random = Random { seed, stream: STREAM, counter };
        let ways = match frame {
            _ if !self.flips => 1,
            [height, width] if height == width => Orientation::COUNT,
            _ => Orientation::FLIPS,
        };
        let [of_row, of_column] = Orientation::of(random.below(ways)).matrix();
        let mut within = |largest: f32| random.between(-largest, largest);
        let angle = within(self.rotation).to_radians();
        let factor = within(self.scale.ln_1p()).exp();
        let shift = [within(self.shift), within(self.shift)];
        let brightness = within(self.brightness);
        let contrast = within(self.contrast.ln_1p()).exp();
        let gamma = within(self.gamma.ln_1p()).exp();
        let noise = within(self.noise).abs();
        let (sine, cosine) = angle.sin_cos();
        let [sine, cosine] = [sine / factor, cosine / factor];
        // The rotation of what the orientation finds. Without a rotation and a scale it is the orientation, exactly.
        let row = [0, 1].map(|axis| cosine * of_row[axis] - sine * of_column[axis]);
        let column = [0, 1].map(|axis| sine * of_row[axis] + cosine * of_column[axis]);
        let largest = self.largest_displacement(frame);
        let displacement = |_| (self.elastic * random.normal()).clamp(-largest, largest);
        let displacements = if self.elastic > 0.0 { (0..nodes).map(displacement).collect() } else { vec![0.0; nodes] };
        let [low, high] = range;
        Change {
            transform: [row[0], row[1], shift[0], column[0], column[1], shift[1]],
            displacements,
            // An image of one value has no range to bend.
            intensities: [low, high - low, if high > low { gamma } else { 1.0 }, contrast, brightness, noise],
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "what is not changed is exact")]
mod tests {
    use super::*;
    use crate::array::{Array, Tensor};
    use crate::op::Op;
    use crate::ops::AugmentPositions;
    use crate::shape::TensorType;

    /// Where the pixels of a frame come from, (y, x) each.
    fn positions(change: &Change, grid: usize, frame: [usize; 2], source: [usize; 2]) -> Vec<f32> {
        let array = |extents: &[usize], data: &[f32]| -> Tensor<f32> {
            Array::new(TensorType::f32(extents).unwrap().shape, data.to_vec()).unwrap().into()
        };
        let inputs = [array(&[1, 6], &change.transform), array(&[1, grid, grid, 2], &change.displacements)];
        let op = AugmentPositions { frame, window: frame, source };
        op.reference(&inputs.iter().collect::<Vec<_>>())[0].float().data.clone()
    }

    #[test]
    fn a_change_depends_on_seed_and_tile_alone_and_stays_in_its_ranges() {
        let (recipe, frame, range) = (Augmentation::RECIPE, [92, 92], [-1.0, 3.0]);
        let draw = |seed, tile| recipe.draw(seed, tile, frame, range);
        assert_eq!(draw(1, 5), draw(1, 5));
        assert!(draw(1, 5) != draw(1, 6) && draw(1, 5) != draw(2, 5));
        let upright = Augmentation { flips: false, ..recipe };
        for tile in 0..500 {
            let change = draw(3, tile);
            let [yy, yx, _, xy, xx, _] = change.transform;
            let factor = yy.hypot(yx);
            let area = (yy * xx - yx * xy).abs();
            assert!((1.0 / 1.1001..1.1001).contains(&factor) && (area - factor * factor).abs() < 1e-5);
            let upright = upright.draw(3, tile, frame, range);
            assert!(upright.transform[0] / factor > 0.707, "at most 45 degrees");
            assert_eq!(upright.displacements, change.displacements, "flips change nothing else");
            let [low, span, gamma, contrast, brightness, noise] = change.intensities;
            assert!((low, span) == (-1.0, 4.0) && (1.0 / 1.3001..1.3001).contains(&gamma));
            assert!(
                (1.0 / 1.2001..1.2001).contains(&contrast) && brightness.abs() <= 0.2 && (0.0..=0.1).contains(&noise)
            );
            assert!(change.displacements.len() == 18 && change.displacements.iter().all(|d| d.abs() <= 91.0 / 10.0));
        }
        assert_eq!(recipe.draw(1, 5, frame, [2.0, 2.0]).intensities[2], 1.0);
        assert_eq!(Augmentation::NONE.draw(1, 5, frame, [0.0, 1.0]).transform, Change::identity(1).transform);
    }

    #[test]
    fn squares_lie_in_eight_ways_and_others_in_four() {
        for (frame, expected) in [([8, 8], Orientation::COUNT), ([8, 6], Orientation::FLIPS)] {
            let drawn = |tile| Augmentation::default().draw(2, tile, frame, [0.0, 1.0]).transform;
            let mut found: Vec<[f32; 6]> = (0..400).map(drawn).collect();
            found.sort_by(|a, b| a.partial_cmp(b).unwrap());
            let ways: Vec<usize> = found.chunk_by(PartialEq::eq).map(<[_]>::len).collect();
            assert!(ways.iter().all(|&count| count > 20), "all are as likely: {ways:?}");
            let mut expected: Vec<[f32; 6]> = (0..expected)
                .map(|number| Orientation::of(number).matrix())
                .map(|[[yy, yx], [xy, xx]]| [yy, yx, 0.0, xy, xx, 0.0])
                .collect();
            expected.sort_by(|a, b| a.partial_cmp(b).unwrap());
            found.dedup();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn the_source_holds_every_pixel_of_a_changed_frame_and_nothing_folds() {
        for frame in [[92, 92], [188, 188], [60, 120]] {
            let recipe = Augmentation { shift: 3.0, ..Augmentation::RECIPE };
            let source = recipe.source(frame);
            let wider = source.map(|side| side + 200);
            for tile in 0..200 {
                let change = recipe.draw(1, tile, frame, [0.0, 1.0]);
                let found = positions(&change, 3, frame, source);
                let unmirrored = positions(&change, 3, frame, wider);
                let apart =
                    found.iter().zip(&unmirrored).filter(|(found, wider)| (**wider - **found - 100.0).abs() > 0.0);
                assert_eq!(apart.count(), 0, "{frame:?}, tile {tile}: content is mirrored that the source could hold");
                let at = |y: usize, x: usize, axis: usize| found[2 * (y * frame[1] + x) + axis];
                let [yy, yx, _, xy, xx, _] = change.transform;
                let side = (yy * xx - yx * xy).signum();
                for (y, x) in (0..frame[0] - 1).flat_map(|y| (0..frame[1] - 1).map(move |x| (y, x))) {
                    let [down, right] =
                        [(y + 1, x), (y, x + 1)].map(|(v, u)| [0, 1].map(|axis| at(v, u, axis) - at(y, x, axis)));
                    // A flip turns all signs.
                    let area = (down[0] * right[1] - down[1] * right[0]) * side;
                    assert!(area > 0.1, "{frame:?}, tile {tile}: {area} at ({y}, {x})");
                }
            }
        }
        assert_eq!(Augmentation::default().source([92, 92]), [92, 92]);
    }

    #[test]
    fn senseless_values_are_named_and_what_is_on_is_said() {
        let recipe = Augmentation::RECIPE;
        recipe.validate().unwrap();
        for (augmentation, key) in [
            (Augmentation { elastic: -1.0, ..recipe }, "augment.elastic must be 0 to 50, got -1"),
            (Augmentation { rotation: f32::NAN, ..recipe }, "augment.rotation"),
            (Augmentation { scale: 1.5, ..recipe }, "augment.scale"),
            (Augmentation { elastic_grid: 1, ..recipe }, "augment.elastic_grid must be 2 to 64, got 1"),
        ] {
            let message = augmentation.validate().unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
        assert_eq!(Augmentation::default().to_string(), "flips and quarter turns");
        assert_eq!(Augmentation::NONE.to_string(), "no augmentation");
        assert!(recipe.to_string().contains("elastic 10 px on 3×3, rotation 45°"), "{recipe}");
        for (augmentation, bound) in [(recipe, "9.1"), (Augmentation { elastic: 2.0, ..recipe }, "6.0")] {
            let expected = format!("{augmentation}; displacements end at {bound} px");
            assert_eq!(augmentation.in_frame([92, 92]), expected);
        }
        assert_eq!(Augmentation::NONE.in_frame([92, 92]), "no augmentation");
        assert!(recipe.interpolates() && !Augmentation::default().interpolates());
        assert!(!recipe.is_none() && !Augmentation::default().is_none() && Augmentation::NONE.is_none());
    }
}
