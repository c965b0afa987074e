//! Weights of pixels in the loss: those between touching cells count more, so that the network learns to keep them apart.
//!
//! On background, with `d1` and `d2` the distances to the nearest and the second nearest cell,
//!
//! `w(x) = r + (1 − r) · exp(−d1² / (2 s²)) + w0 · exp(−(d1 + d2)² / (2σ²))`
//!
//! and 1 on cells. The last term is the separation border, and 0 where there are fewer than two cells. Two choices of the constants
//! have names, [`BorderMap`]:
//!
//! | | `r` | `s` | `w0` | `σ` |
//! |---|---|---|---|---|
//! | paper | 1 | – | 10 | 5 px |
//! | release | 0.1 | 10 px | 50 | 6 px |
//!
//! The first are those of Ronneberger et al. 2015, section 3.1, equation 2; the second those of the authors' plugin to Falk et al.,
//! *U-Net: deep learning for cell counting, detection, and morphometry*, Nature Methods 16, 2019, where a pixel is 0.5 µm.
//!
//! In the paper the constant 1 is `w_c(x)`, which balances the classes; in the release background far from every cell counts less
//! instead. The paper leaves three things open; here:
//!
//! * The separation border that it computes "using morphological operations" is [`insert_gaps`], as in the release.
//! * `w_c` is [`class_weights`] of the training set.
//! * The border term is added on background only, as in the release: inside a cell `d1` has no meaning, and raising both
//!   sides of a border would cancel.
//!
//! Distances run between pixel centres, so that a gap of one pixel has `d1 = d2 = 1`.

mod distance;

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

use super::label::LabelMap;
use distance::squared_distances;

/// Constants of the weights that have a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BorderMap {
    /// The paper's.
    #[default]
    Paper,
    /// Those of the authors' later release.
    Release,
}

/// The constants of the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Border {
    /// The weight added where two cells touch, `w0`.
    pub w0: f32,
    /// How fast it falls off, in pixels, `σ`.
    pub sigma: f32,
    /// The weight of background far from every cell, `r`.
    pub background: f32,
    /// How fast the weight of background falls to that from 1 beside a cell, in pixels, `s`; of no effect where `background` is 1.
    pub background_sigma: f32,
}

impl From<BorderMap> for Border {
    fn from(map: BorderMap) -> Self {
        match map {
            BorderMap::Paper => Self { w0: 10.0, sigma: 5.0, background: 1.0, background_sigma: 10.0 },
            BorderMap::Release => Self { w0: 50.0, sigma: 6.0, background: 0.1, background_sigma: 10.0 },
        }
    }
}

impl Default for Border {
    /// The paper's.
    fn default() -> Self {
        BorderMap::Paper.into()
    }
}

/// The largest `sigma`: beyond it every cell of an image weighs on every pixel.
pub const MAX_SIGMA: f32 = 1000.0;

/// A weight below this counts as none, which bounds how far a cell is felt.
const NEGLIGIBLE: f32 = 1e-7;

impl Border {
    /// The distance beyond which a cell is not felt: there both exponentials, times what stands before them, are below 1e-7 and
    /// are set to 0. `max(σ √(2 ln(w0 / 1e-7)), s √(2 ln((1 − r) / 1e-7)))`: 31 pixels with the paper's constants.
    pub fn reach(&self) -> usize {
        let reach = |height: f32, sigma: f32| {
            if height <= NEGLIGIBLE { 0.0 } else { sigma * (2.0 * (height.ln() - NEGLIGIBLE.ln())).sqrt() }
        };
        reach(self.w0, self.sigma).max(reach(1.0 - self.background, self.background_sigma)).ceil() as usize
    }

    /// Checks the constants.
    ///
    /// # Errors
    /// [`Error::Usage`] when `w0` is negative, `background` not between 0 and 1, or `sigma` or `background_sigma` not above 0 or larger
    /// than [`MAX_SIGMA`].
    pub fn validate(&self) -> Result<()> {
        let Self { w0, sigma, background, background_sigma } = *self;
        let in_pixels = |value: f32| value > 0.0 && value <= MAX_SIGMA;
        let weights = w0 >= 0.0 && w0.is_finite() && (0.0..=1.0).contains(&background);
        if weights && in_pixels(sigma) && in_pixels(background_sigma) {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "border weight: w0 = {w0} must be at least 0, background = {background} between 0 and 1, sigma = {sigma} and \
             background_sigma = {background_sigma} above 0 and at most {MAX_SIGMA} pixels; the paper has w0 = 10 and sigma = 5"
        )))
    }

    /// The weight of each pixel, 1 on cells.
    ///
    /// Distances are exact and Euclidean. Each cell is transformed within its bounding box and the reach around it, in time
    /// linear in that window.
    ///
    /// # Errors
    /// As [`Border::validate`]; [`Error::Usage`] when the map has not one value for each pixel.
    pub fn weights(&self, instances: &LabelMap) -> Result<Vec<f32>> {
        self.validate()?;
        instances.check()?;
        let Self { w0, sigma, background, background_sigma } = *self;
        let bell = |distance: f32, sigma: f32| (-0.5 / (sigma * sigma) * distance * distance).exp();
        let weight = |([first, second], &instance): ([u32; 2], &u32)| {
            if instance != 0 {
                return 1.0;
            }
            let [first, second] =
                [first, second].map(|square| if square == u32::MAX { f32::INFINITY } else { (square as f32).sqrt() });
            background + (1.0 - background) * bell(first, background_sigma) + w0 * bell(first + second, sigma)
        };
        Ok(nearest_two(instances, self.reach()).into_iter().zip(&instances.values).map(weight).collect())
    }
}

/// The squared distances to the nearest and the second nearest of distinct instances, `u32::MAX` where there is none within
/// `reach` pixels in either axis.
fn nearest_two(instances: &LabelMap, reach: usize) -> Vec<[u32; 2]> {
    let mut nearest = vec![[u32::MAX; 2]; instances.values.len()];
    for (instance, extent) in extents(instances) {
        let window = extent.grown(reach, instances.height, instances.width);
        let columns = window.right - window.left;
        let inside: Vec<bool> = (window.top..window.bottom)
            .flat_map(|y| &instances.values[y * instances.width..][window.left..window.right])
            .map(|&value| value == instance)
            .collect();
        for (line, distances) in squared_distances(&inside, columns).chunks_exact(columns).enumerate() {
            let row = &mut nearest[(window.top + line) * instances.width..][window.left..window.right];
            for ([first, second], &distance) in row.iter_mut().zip(distances) {
                if distance < *first {
                    (*first, *second) = (distance, *first);
                } else {
                    *second = distance.min(*second);
                }
            }
        }
    }
    nearest
}

/// A bounding box, the far edges excluded.
#[derive(Clone, Copy, Debug)]
struct Extent {
    top: usize,
    left: usize,
    bottom: usize,
    right: usize,
}

impl Extent {
    fn grown(self, by: usize, height: usize, width: usize) -> Self {
        Self {
            top: self.top.saturating_sub(by),
            left: self.left.saturating_sub(by),
            bottom: self.bottom.saturating_add(by).min(height),
            right: self.right.saturating_add(by).min(width),
        }
    }
}

/// The bounding box of each instance, in the order of their numbers.
fn extents(instances: &LabelMap) -> std::collections::BTreeMap<u32, Extent> {
    let mut extents = std::collections::BTreeMap::new();
    for (pixel, &instance) in instances.values.iter().enumerate().filter(|&(_, &instance)| instance != 0) {
        let (x, y) = (pixel % instances.width, pixel / instances.width);
        let extent = extents.entry(instance).or_insert(Extent { top: y, left: x, bottom: y, right: x });
        extent.left = extent.left.min(x);
        extent.right = extent.right.max(x + 1);
        extent.bottom = y + 1;
    }
    extents
}

/// Opens a gap one pixel wide where instances touch, closed neither straight nor diagonally: in reading order, a pixel
/// becomes background when one of the four neighbours read before it (left, and the three above) still belongs to another
/// instance.
///
/// The gap is taken from the lower right one of two instances. That is lopsided, but a gap taken from both would be two
/// pixels wide.
///
/// # Panics
/// When the map has not one value for each pixel.
#[must_use]
pub fn insert_gaps(instances: &LabelMap) -> LabelMap {
    instances.assert_whole();
    let mut gapped = instances.clone();
    let LabelMap { height, width, ref mut values } = gapped;
    for y in 0..height {
        for x in 0..width {
            let pixel = y * width + x;
            let here = values[pixel];
            let differs = |other: &u32| *other != 0 && *other != here;
            let left = x > 0 && differs(&values[pixel - 1]);
            let above =
                y > 0 && values[pixel - width - x.min(1)..(pixel + 2).min((y + 1) * width) - width].iter().any(differs);
            if left || above {
                values[pixel] = 0;
            }
        }
    }
    gapped
}

/// `w_c`: the weight of each class that makes all classes present count the same in total, and a pixel 1 on average:
/// `w_c = n / (K · n_c)` for `K` classes present and `n = Σ n_c` pixels. 0 for a class that is absent.
pub fn class_weights(pixels_by_class: &[u64]) -> Vec<f32> {
    let present = pixels_by_class.iter().filter(|&&pixels| pixels > 0).count();
    let total: u64 = pixels_by_class.iter().sum();
    let weight = |&pixels: &u64| if pixels == 0 { 0.0 } else { total as f64 / (present as f64 * pixels as f64) };
    pixels_by_class.iter().map(|pixels| weight(pixels) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn labels(rows: &[&str]) -> LabelMap {
        let values = rows.iter().flat_map(|row| row.chars()).map(|c| c.to_digit(10).unwrap_or(0)).collect();
        LabelMap { height: rows.len(), width: rows[0].len(), values }
    }

    /// Overlapping discs: later ones cover parts of earlier ones, as cells that touch.
    fn discs(height: usize, width: usize, count: u32) -> LabelMap {
        let mut random = Random::new(8, count);
        let mut values = vec![0; height * width];
        for instance in 1..=count {
            let centre = [random.between(0.0, height as f32), random.between(0.0, width as f32)];
            let radius = random.between(2.0, 7.0);
            for (pixel, value) in values.iter_mut().enumerate() {
                let (dy, dx) = ((pixel / width) as f32 - centre[0], (pixel % width) as f32 - centre[1]);
                if dy * dy + dx * dx < radius * radius {
                    *value = 3 * instance;
                }
            }
        }
        LabelMap { height, width, values }
    }

    /// The formula by its definition, every pixel against every pixel.
    fn by_definition(instances: &LabelMap, border: Border) -> Vec<f64> {
        let width = instances.width;
        let [w0, sigma, r, s] = [border.w0, border.sigma, border.background, border.background_sigma].map(f64::from);
        let weight = |pixel: usize| {
            if instances.values[pixel] != 0 {
                return 1.0;
            }
            let mut nearest = std::collections::BTreeMap::new();
            for (other, &instance) in instances.values.iter().enumerate().filter(|&(_, &v)| v != 0) {
                let dx = (other % width) as f64 - (pixel % width) as f64;
                let dy = (other / width) as f64 - (pixel / width) as f64;
                let distance = nearest.entry(instance).or_insert(f64::INFINITY);
                *distance = dx.hypot(dy).min(*distance);
            }
            let mut distances: Vec<f64> = nearest.into_values().collect();
            distances.sort_by(f64::total_cmp);
            let first = distances.first().map_or(0.0, |d1| (1.0 - r) * (-d1.powi(2) / (2.0 * s.powi(2))).exp());
            let both = match distances[..] {
                [d1, d2, ..] => w0 * (-(d1 + d2).powi(2) / (2.0 * sigma.powi(2))).exp(),
                _ => 0.0,
            };
            r + first + both
        };
        (0..instances.values.len()).map(weight).collect()
    }

    #[test]
    fn weights_equal_the_definition() {
        let release = Border::from(BorderMap::Release);
        let few = Border { w0: 3.0, sigma: 1.5, background: 0.0, background_sigma: 3.0 };
        for (height, width, count) in [(40, 57, 9), (31, 90, 25), (64, 20, 2), (9, 9, 1), (7, 5, 0)] {
            let instances = insert_gaps(&discs(height, width, count));
            for border in [Border::default(), Border { w0: 3.0, sigma: 1.5, ..Border::default() }, release, few] {
                let weights = border.weights(&instances).unwrap();
                let expected = by_definition(&instances, border);
                for (pixel, (&found, &expected)) in weights.iter().zip(&expected).enumerate() {
                    let error = (f64::from(found) - expected).abs();
                    assert!(error <= 3.0 * f64::from(NEGLIGIBLE) + 1e-5 * expected, "{pixel}: {found}, not {expected}");
                }
                let heaviest = weights.iter().copied().fold(0.0, f32::max);
                assert_eq!(heaviest > 1.0 + 0.35 * border.w0, count > 2, "{count} discs: {heaviest}");
            }
        }
    }

    /// Cells in rows and columns, as many as anybody labels.
    fn grid(cells: usize) -> LabelMap {
        const PITCH: usize = 11;
        let side = PITCH * cells;
        let values = (0..side * side).map(|pixel| {
            let [y, x] = [pixel / side, pixel % side];
            let inside = (y % PITCH).pow(2) + (x % PITCH).pow(2) < 90;
            if inside { 1 + (y / PITCH * cells + x / PITCH) as u32 } else { 0 }
        });
        LabelMap { height: side, width: side, values: values.collect() }
    }

    #[test]
    fn many_cells_take_time_in_proportion() {
        for map in [BorderMap::Paper, BorderMap::Release] {
            let seconds = [42, 168].map(|cells| {
                let instances = grid(cells);
                let begun = std::time::Instant::now();
                Border::from(map).weights(&instances).unwrap();
                begun.elapsed().as_secs_f64()
            });
            println!("{map:?}: 1,764 cells in {:.2} s, 28,224 cells in {:.2} s", seconds[0], seconds[1]);
            // 16 times the cells; were it cells times pixels, 256 times the time.
            assert!(seconds[1] < 100.0 * seconds[0] && seconds[1] < 60.0, "{map:?}: {seconds:?}");
        }
    }

    #[test]
    fn touching_cells_are_parted_by_one_pixel() {
        let touching = labels(&["1122", "1122", "3322", "3300"]);
        let gapped = insert_gaps(&touching);
        assert_eq!(gapped, labels(&["1102", "1102", "0002", "3300"]));
        let diagonal = insert_gaps(&labels(&["01", "20"]));
        assert_eq!(diagonal, labels(&["01", "00"]));
        assert_eq!(insert_gaps(&gapped), gapped, "gaps only open once");
        let weights = Border::default().weights(&labels(&["101020"])).unwrap();
        assert!((weights[3] - 1.0 - 10.0 * (-4.0_f32 / 50.0).exp()).abs() < 1e-5, "{weights:?}");
        assert!((weights[1] - 1.0 - 10.0 * (-16.0_f32 / 50.0).exp()).abs() < 1e-5, "{weights:?}");
        assert!(
            weights[0].to_bits() == 1.0_f32.to_bits() && weights[4].to_bits() == 1.0_f32.to_bits(),
            "cells carry no border weight: {weights:?}"
        );
    }

    #[test]
    fn the_reach_is_where_the_weight_becomes_negligible() {
        for map in [BorderMap::Paper, BorderMap::Release] {
            let border = Border::from(map);
            let bell = |distance: f32, sigma: f32| (-0.5 * (distance / sigma).powi(2)).exp();
            let at = |distance: f32| {
                let background = (1.0 - border.background) * bell(distance, border.background_sigma);
                background.max(border.w0 * bell(distance, border.sigma))
            };
            let reach = border.reach() as f32;
            assert!(at(reach) <= NEGLIGIBLE && at(reach - 1.0) > NEGLIGIBLE, "{reach}");
        }
    }

    #[test]
    fn class_weights_balance() {
        let weights = class_weights(&[900, 100, 0]);
        assert_eq!(weights, [1000.0 / 1800.0, 5.0, 0.0]);
    }

    #[test]
    fn extreme_constants_give_finite_weights() {
        let corner = labels(&["100", "000", "002"]);
        for border in [
            Border { sigma: MAX_SIGMA, w0: f32::MAX, background: 0.0, background_sigma: MAX_SIGMA },
            Border { sigma: f32::MIN_POSITIVE, w0: 0.0, background: 0.5, background_sigma: f32::MIN_POSITIVE },
        ] {
            let weights = border.weights(&corner).unwrap();
            assert!(weights.iter().all(|weight| weight.is_finite()), "{border:?}: {weights:?}");
        }
        let endless = Extent { top: 1, left: 1, bottom: 2, right: 2 }.grown(usize::MAX, 3, 4);
        assert_eq!([endless.top, endless.left, endless.bottom, endless.right], [0, 0, 3, 4]);
    }

    #[test]
    fn maps_that_are_not_whole_are_refused() {
        for (height, width) in [(2, 3), (0, 4), (1, 2)] {
            let map = LabelMap { height, width, values: vec![1, 0, 0, 2] };
            let message = Border::default().weights(&map).unwrap_err().to_string();
            assert!(message.ends_with("pixels has 4 values; it needs one for each"), "{message}");
        }
    }

    #[test]
    fn impossible_constants_are_refused() {
        let paper = Border::default();
        for (border, part) in [
            (Border { w0: -1.0, ..paper }, "w0 = -1 must"),
            (Border { sigma: 0.0, ..paper }, "sigma = 0 and"),
            (Border { background: 1.5, ..paper }, "background = 1.5 between"),
            (Border { background_sigma: f32::NAN, ..paper }, "background_sigma = NaN above"),
            (Border { sigma: 1e30, ..paper }, "sigma = 1000000000000000000000000000000 and"),
            (Border { background_sigma: 1001.0, ..paper }, "background_sigma = 1001 above 0 and at most 1000 pixels"),
        ] {
            let message = border.weights(&labels(&["1"])).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
