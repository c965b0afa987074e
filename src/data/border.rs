//! The paper's weight map (section 3.1, equation 2): pixels between touching cells count more, so that the network learns
//! to keep them apart.
//!
//! `w(x) = w_c(x) + w0 · exp(−(d1(x) + d2(x))² / (2σ²))`, with `d1` and `d2` the distances to the nearest and the second
//! nearest cell. The paper leaves three things open; here:
//!
//! * The separation border that it computes "using morphological operations" is [`insert_gaps`], as in the authors' later
//!   release.
//! * `w_c` is [`class_weights`] of the training set.
//! * The second term is added on background only, as in that release: inside a cell `d1` has no meaning, and raising both
//!   sides of a border would cancel.
//!
//! Distances run between pixel centres, so that a gap of one pixel has `d1 = d2 = 1`.

mod distance;

use crate::error::{Error, Result};

use super::label::LabelMap;
use distance::squared_distances;

/// The constants of equation 2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Border {
    /// The weight added where two cells touch.
    pub w0: f32,
    /// How fast it falls off, in pixels.
    pub sigma: f32,
}

impl Default for Border {
    /// The paper's `w0 = 10`, `σ = 5` pixels.
    fn default() -> Self {
        Self { w0: 10.0, sigma: 5.0 }
    }
}

/// A border weight below this counts as none, which bounds how far a cell is felt.
const NEGLIGIBLE: f32 = 1e-7;

impl Border {
    /// The distance to the second nearest cell beyond which the border weight is below 1e-7 and is set to 0:
    /// `σ √(2 ln(w0 / 1e-7))`, 31 pixels with the paper's constants.
    pub fn reach(&self) -> usize {
        if self.w0 <= NEGLIGIBLE {
            0
        } else {
            (self.sigma * (2.0 * (self.w0 / NEGLIGIBLE).ln()).sqrt()).ceil() as usize
        }
    }

    /// The second term of equation 2 for each pixel, 0 on cells and where fewer than two cells are within [`Border::reach`].
    ///
    /// Distances are exact and Euclidean. Each cell is transformed within its bounding box and the reach around it, in time
    /// linear in that window.
    ///
    /// # Errors
    /// [`Error::Usage`] when `w0` is negative or `sigma` is not positive.
    pub fn weights(&self, instances: &LabelMap) -> Result<Vec<f32>> {
        if !(self.w0 >= 0.0 && self.w0.is_finite() && self.sigma > 0.0 && self.sigma.is_finite()) {
            let Self { w0, sigma } = self;
            return Err(Error::Usage(format!(
                "border weight: w0 = {w0} must be at least 0 and sigma = {sigma} above 0; the paper has 10 and 5"
            )));
        }
        let nearest = nearest_two(instances, self.reach());
        let exponent = -0.5 / (self.sigma * self.sigma);
        let weight = |([first, second], &instance): ([u32; 2], &u32)| {
            if instance != 0 || second == u32::MAX {
                return 0.0;
            }
            let sum = (first as f32).sqrt() + (second as f32).sqrt();
            self.w0 * (exponent * sum * sum).exp()
        };
        Ok(nearest.into_iter().zip(&instances.values).map(weight).collect())
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
            bottom: (self.bottom + by).min(height),
            right: (self.right + by).min(width),
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
#[must_use]
pub fn insert_gaps(instances: &LabelMap) -> LabelMap {
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

    /// Equation 2's second term by its definition, every pixel against every pixel.
    fn by_definition(instances: &LabelMap, border: Border) -> Vec<f64> {
        let width = instances.width;
        let weight = |pixel: usize| {
            let mut nearest = std::collections::BTreeMap::new();
            for (other, &instance) in instances.values.iter().enumerate().filter(|&(_, &v)| v != 0) {
                let dx = (other % width) as f64 - (pixel % width) as f64;
                let dy = (other / width) as f64 - (pixel / width) as f64;
                let distance = nearest.entry(instance).or_insert(f64::INFINITY);
                *distance = dx.hypot(dy).min(*distance);
            }
            let mut distances: Vec<f64> = nearest.into_values().collect();
            distances.sort_by(f64::total_cmp);
            match distances[..] {
                [first, second, ..] if instances.values[pixel] == 0 => {
                    let scaled = (first + second) / f64::from(border.sigma);
                    f64::from(border.w0) * (-0.5 * scaled * scaled).exp()
                }
                _ => 0.0,
            }
        };
        (0..instances.values.len()).map(weight).collect()
    }

    #[test]
    fn weights_equal_the_definition() {
        for (height, width, count) in [(40, 57, 9), (31, 90, 25), (64, 20, 2), (9, 9, 1)] {
            let instances = insert_gaps(&discs(height, width, count));
            for border in [Border::default(), Border { w0: 3.0, sigma: 1.5 }] {
                let weights = border.weights(&instances).unwrap();
                let expected = by_definition(&instances, border);
                for (pixel, (&found, &expected)) in weights.iter().zip(&expected).enumerate() {
                    let error = (f64::from(found) - expected).abs();
                    assert!(error <= 2.0 * f64::from(NEGLIGIBLE) + 1e-5 * expected, "{pixel}: {found}, not {expected}");
                }
                let heaviest = weights.iter().copied().fold(0.0, f32::max);
                assert_eq!(heaviest > 0.4 * border.w0, count > 2, "{count} discs: {heaviest}");
            }
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
        assert!((weights[3] - 10.0 * (-4.0_f32 / 50.0).exp()).abs() < 1e-5, "{weights:?}");
        assert!((weights[1] - 10.0 * (-16.0_f32 / 50.0).exp()).abs() < 1e-5, "{weights:?}");
        assert!(weights[0] == 0.0 && weights[4] == 0.0, "cells carry no border weight: {weights:?}");
    }

    #[test]
    fn the_reach_is_where_the_weight_becomes_negligible() {
        let border = Border::default();
        let at = |distance: f32| border.w0 * (-0.5 * (distance / border.sigma).powi(2)).exp();
        let reach = border.reach() as f32;
        assert!(at(reach) <= NEGLIGIBLE && at(reach - 1.0) > NEGLIGIBLE, "{reach}");
    }

    #[test]
    fn class_weights_balance() {
        let weights = class_weights(&[900, 100, 0]);
        assert_eq!(weights, [1000.0 / 1800.0, 5.0, 0.0]);
    }

    #[test]
    fn impossible_constants_are_refused() {
        let message = Border { w0: 10.0, sigma: 0.0 }.weights(&labels(&["1"])).unwrap_err().to_string();
        assert!(message.contains("sigma = 0 above 0") || message.contains("sigma = 0 "), "{message}");
    }
}
