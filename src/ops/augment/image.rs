//! Images at positions in a source tile, with other intensities and noise.

use super::{admitted, extents, sampled, split};
use crate::array::{Real, Tensor};
use crate::data::sampler::reflect;
use crate::kernel;
use crate::op::{Binding, Bound, Candidate, Case, DeviceProfile, Dispatch, Fill, Op, Param, UNIT_ROUNDOFF};
use crate::ops::softmax::{FLUSHED, compound};
use crate::ops::{image, turns, zeros};
use crate::random::pcg3d;
use crate::shape::{DType, TensorType};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What an image is between its pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Linear, from 2×2 pixels: never beyond them, and a little blurred.
    Linear,
    /// Keys' cubic convolution with a = −½, from 4×4 pixels: keeps edges and grain.
    #[default]
    Cubic,
}

/// y = contrast · v′ + brightness + noise · g, where v is the source at a position and v′ = low + span · ((v − low) / span)^gamma;
/// inputs are source `[n, s, s', c]`, positions `[n, h, w, 2]`, intensities `[n, 6]` in the order low, span, gamma, contrast, brightness,
/// noise, and `u32 [2]`, the seed and the step.
///
/// The quotient is held between 2⁻¹⁰⁰ and 1; where gamma is 1, v′ = v. The noise g has mean 0 and variance 1 and is a pure function of
/// (seed, step, position of the element).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AugmentImage {
    /// What the source is between its pixels.
    pub interpolation: Interpolation,
}

/// The stream of a seed that noise is drawn from; dropouts count theirs from 0.
const STREAM: u32 = 0x6e01_5e00;

/// The smallest quotient that is raised to gamma.
const DARKEST: f64 = 1.0 / (1_u128 << 100) as f64;

impl Interpolation {
    /// The pixels along an axis that a value depends on.
    fn taps(self) -> usize {
        match self {
            Self::Linear => 2,
            Self::Cubic => 4,
        }
    }

    /// The pixels of an axis that a position depends on, with their weights; [`Interpolation::taps`] of them.
    fn weighted<T: Real>(self, position: T, extent: usize) -> [(usize, T); 4] {
        let (pixel, t) = split(position, extent);
        let number = T::from_f64;
        let weights = match self {
            Self::Linear => [T::one() - t, t, T::zero(), T::zero()],
            Self::Cubic => {
                let before = ((number(2.0) - t) * t - T::one()) * t;
                let first = (number(3.0) * t - number(5.0)) * t * t + number(2.0);
                let second = ((number(4.0) - number(3.0) * t) * t + T::one()) * t;
                let after = (t - T::one()) * t * t;
                [before, first, second, after].map(|twice| number(0.5) * twice)
            }
        };
        let from = pixel as isize + 1 - self.taps() as isize / 2;
        std::array::from_fn(|tap| (reflect(from + tap as isize, extent), weights[tap]))
    }

    /// A bound of the error of a weight in `f32`: t is exact but for u; a factor 1 − t, or four products and sums that stay below 5.
    fn weight_error(self) -> f64 {
        match self {
            Self::Linear => 2.0 * UNIT_ROUNDOFF,
            Self::Cubic => 16.0 * UNIT_ROUNDOFF,
        }
    }
}

/// Noise of element `i`: six 16-bit integers, summed, less their mean, over their deviation.
fn gaussian(seed: u32, step: u32, i: u32) -> f64 {
    let [x, y, z] = pcg3d([step, STREAM, seed]);
    let words = pcg3d([x ^ i, y, z]).map(|word| word ^ word >> 16);
    let sum: u32 = words.iter().map(|word| (word >> 16) + (word & 0xffff)).sum();
    (f64::from(sum) - 3.0 * 65535.0) / (6.0 * (65536.0_f64.powi(2) - 1.0) / 12.0).sqrt()
}

impl Op for AugmentImage {
    fn name(&self) -> &'static str {
        "augment_image"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        if let [source, positions, intensities, generator] = inputs
            && source.dtype == DType::F32
            && let ([n, _, _, c], Some((_, [h, w]))) = (source.shape.extents(), sampled(source, positions))
            && *intensities == TensorType::f32([*n, 6])?
            && *generator == TensorType::u32([2])?
        {
            return TensorType::f32([*n, h, w, *c]);
        }
        Err(format!(
            "expected images [n, s, s', c], positions [n, h, w, 2], intensities [n, 6], and seed and step as u32 [2], got {inputs:?}"
        ))
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (source, positions, intensities) = (inputs[0].float(), inputs[1].float(), inputs[2].float());
        let (generator, taps) = (&inputs[3].uint().data, self.interpolation.taps());
        let [_, height, width, channels] = image(&inputs[0].tensor_type());
        let mut y = zeros(self, inputs);
        let pixels = y.shape.pixels() / y.shape.extents()[0];
        y.data.par_chunks_mut(channels).zip(positions.data.par_chunks(2)).enumerate().with_min_len(256).for_each(
            |(pixel, (y, position))| {
                let n = pixel / pixels;
                let rows = self.interpolation.weighted(position[0], height);
                let columns = self.interpolation.weighted(position[1], width);
                for (c, y) in y.iter_mut().enumerate() {
                    let at =
                        |row: usize, column: usize| source.data[((n * height + row) * width + column) * channels + c];
                    let line =
                        |row| columns[..taps].iter().map(|&(column, weight)| weight * at(row, column)).sum::<T>();
                    let value = rows[..taps].iter().map(|&(row, weight)| weight * line(row)).sum();
                    *y = Intensities::of(&intensities.data, n)
                        .apply(value, || gaussian(generator[0], generator[1], (pixel * channels + c) as u32));
                }
            },
        );
        vec![Tensor::Float(y)]
    }

    fn candidates(&self, inputs: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let (source, window) = admitted(&inputs[0], &inputs[1]);
        let [pixels, source_height, source_width] = extents(source, window);
        let channels = ("channels", output.shape.channels().into());
        let params = [pixels, channels, source_height, source_width, ("stream", Param::U32(STREAM))];
        let bindings = (0..4).map(Binding::Input).chain([Binding::Output]).collect();
        let dispatch = turns(kernel!("augment/image"), bindings, output.shape.pixels(), &params, device);
        let constants = vec![("TAPS", format!("{}u", self.interpolation.taps()))];
        vec![Dispatch { constants, ..dispatch }.into()]
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        let taps = self.interpolation.taps() as u64;
        2 * (taps + 1) * taps * output.shape.elements() as u64
    }

    fn bound(&self, inputs: &[&Tensor<f64>], output: &Tensor<f64>, _: usize) -> Bound {
        let (source, positions, intensities) = (inputs[0].float(), inputs[1].float(), inputs[2].float());
        let generator = &inputs[3].uint().data;
        let [_, height, width, channels] = image(&inputs[0].tensor_type());
        let output = output.float();
        let pixels = output.shape.pixels() / output.shape.extents()[0];
        let (taps, weight_error) = (self.interpolation.taps(), self.interpolation.weight_error());
        let rounding = compound(2.0 * taps as f64 * UNIT_ROUNDOFF);
        let bound = |element: usize| {
            let (pixel, c) = (element / channels, element % channels);
            let n = pixel / pixels;
            let [rows, columns] = [(0, height), (1, width)]
                .map(|(axis, extent)| self.interpolation.weighted(positions.data[2 * pixel + axis], extent));
            let (mut value, mut error) = (0.0, 0.0);
            for &(row, row_weight) in &rows[..taps] {
                for &(column, column_weight) in &columns[..taps] {
                    let x = source.data[((n * height + row) * width + column) * channels + c];
                    value += row_weight * column_weight * x;
                    // Each weight is off by its error; two products and 2 (taps − 1) additions round.
                    let [row, column] = [row_weight, column_weight].map(|weight| weight.abs() + weight_error);
                    error += x.abs() * ((row + column) * weight_error + rounding * row * column);
                }
            }
            let noise = || gaussian(generator[0], generator[1], element as u32);
            Intensities::of(&intensities.data, n).error(value, error, noise)
        };
        Bound::Elements((0..output.data.len()).into_par_iter().map(bound).collect())
    }
}

/// What happens to the values of a tile after they have been moved.
struct Intensities<T> {
    low: T,
    span: T,
    gamma: T,
    contrast: T,
    brightness: T,
    noise: T,
}

impl<T: Real> Intensities<T> {
    /// Those of tile `n`.
    fn of(intensities: &[T], n: usize) -> Self {
        let at = |i: usize| intensities[6 * n + i];
        Self { low: at(0), span: at(1), gamma: at(2), contrast: at(3), brightness: at(4), noise: at(5) }
    }

    /// Whether gamma is not 1.
    fn bends(&self) -> bool {
        self.gamma != T::one()
    }

    /// Where a value lies between low and low + span.
    fn quotient(&self, value: T) -> T {
        ((value - self.low) / self.span).max(T::from_f64(DARKEST)).min(T::one())
    }

    /// The value after gamma.
    fn curved(&self, value: T) -> T {
        if self.gamma == T::one() { value } else { self.low + self.span * self.quotient(value).powf(self.gamma) }
    }

    /// The value after everything.
    fn apply(&self, value: T, noise: impl Fn() -> f64) -> T {
        let value = self.contrast * self.curved(value) + self.brightness;
        if self.noise == T::zero() { value } else { value + self.noise * T::from_f64(noise()) }
    }
}

impl Intensities<f64> {
    /// How far the result may lie from [`Intensities::apply`] where the value is right to `error`.
    fn error(&self, value: f64, error: f64, noise: impl Fn() -> f64) -> f64 {
        let u = UNIT_ROUNDOFF;
        let mut curved_error = error;
        if self.bends() {
            // A difference rounds by u, a quotient by 2.5 ULP.
            let apart =
                ((value - self.low) / self.span).abs() * compound(6.0 * u) + error / self.span * (1.0 + 8.0 * u);
            let quotient = self.quotient(value);
            let power = |quotient: f64| quotient.clamp(DARKEST, 1.0).powf(self.gamma);
            let highest = power(quotient + apart);
            let moved = (highest - power(quotient)).max(power(quotient) - power(quotient - apart));
            // WGSL's pow is exp2(gamma log2(x)). log2 is right to 3 ULP, or to 2⁻²¹ where x is in [½, 2], the product to u, exp2
            // to 3 + 2|e| ULP.
            let exponent = (self.gamma * quotient.log2()).abs();
            let exponent_error = (6.0 * u * exponent).max(8.0 * u * self.gamma) + exponent * u;
            let relative = compound(2.0_f64.ln() * exponent_error + (6.0 + 4.0 * exponent) * u);
            curved_error = self.span * (moved + highest * (relative + 2.0 * u) + FLUSHED) + self.low.abs() * u;
        }
        let curved = self.curved(value).abs() + curved_error;
        let noise = if self.noise == 0.0 { 0.0 } else { noise() };
        // The noise is an integer times a rounded constant times a deviation. No term sees more than six roundings.
        let magnitude = (self.contrast * curved).abs() + self.brightness.abs() + (self.noise * noise).abs();
        self.contrast.abs() * curved_error + compound(6.0 * u) * magnitude + FLUSHED
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    const PLAIN: &[(f32, f32)] = &[(0.0, 0.0), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0), (0.0, 0.0), (0.0, 0.0)];
    const ANY: &[(f32, f32)] = &[(-2.0, -1.0), (3.0, 5.0), (0.5, 2.0), (0.5, 1.5), (-0.5, 0.5), (0.0, 0.3)];
    const NOISE: &[(f32, f32)] = &[(0.0, 0.0), (1.0, 1.0), (1.0, 1.0), (0.0, 0.0), (0.0, 0.0), (1.0, 1.0)];
    let mut cases = Vec::new();
    // Positions lie somewhat beyond the ends, too.
    for (source, window, within, intensities, fill, what) in [
        ([1, 1, 1, 1], [1, 1], -1.0..1.0, PLAIN, Fill::Normal(1.0), "one element"),
        ([1, 9, 9, 1], [8, 8], -1.0..9.0, PLAIN, Fill::Normal(1.0), "one workgroup"),
        ([1, 12, 7, 1], [5, 13], -1.0..12.0, ANY, Fill::Normal(1.0), "one over"),
        ([2, 11, 13, 3], [7, 5], -1.0..13.0, ANY, Fill::Normal(1.0), "odd sizes, batch 2"),
        ([3, 2, 3, 5], [5, 3], -1.0..3.0, ANY, Fill::Normal(2.0), "a tiny source, prime sizes"),
        ([1, 40, 40, 2], [20, 20], 0.0..39.0, NOISE, Fill::Normal(1.0), "noise alone"),
        ([1, 12, 12, 1], [9, 9], -1.0..12.0, PLAIN, Fill::Signs(1e20), "huge values"),
        ([1, 5, 5, 1], [2050, 2048], -1.0..5.0, ANY, Fill::Normal(1.0), "past 65,535 workgroups"),
    ] {
        let (n, source) = (source[0], (TensorType::f32(source)?, fill));
        let positions = (TensorType::f32([n, window[0], window[1], 2])?, Fill::Uniform(within.start, within.end));
        let intensities = (TensorType::f32([n, 6])?, Fill::Ranges(intensities));
        let inputs = vec![source, positions, intensities, (TensorType::u32([2])?, Fill::Bits)];
        for interpolation in [Interpolation::Linear, Interpolation::Cubic] {
            let name = format!("{what}: {} at {window:?}, {interpolation:?}", inputs[0].0);
            cases.push(Case { name, op: Arc::new(AugmentImage { interpolation }), inputs: inputs.clone() });
        }
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Array;

    /// Images of one row at positions along it.
    fn at(interpolation: Interpolation, row: &[f64], columns: &[f64], intensities: [f64; 6]) -> Vec<f64> {
        let array = |extents: &[usize], data: Vec<f64>| -> Tensor<f64> {
            Array::new(TensorType::f32(extents).unwrap().shape, data).unwrap().into()
        };
        let positions = columns.iter().flat_map(|&column| [0.0, column]).collect();
        let generator = Tensor::Uint(Array::new(TensorType::u32([2]).unwrap().shape, vec![1, 2]).unwrap());
        let source = array(&[1, 1, row.len(), 1], row.to_vec());
        let inputs =
            [&source, &array(&[1, 1, columns.len(), 2], positions), &array(&[1, 6], intensities.into()), &generator];
        AugmentImage { interpolation }.reference(&inputs)[0].float().data.clone()
    }

    const PLAIN: [f64; 6] = [0.0, 1.0, 1.0, 1.0, 0.0, 0.0];

    #[test]
    fn pixels_come_back_and_lines_stay_straight() {
        let row = [1.0, 4.0, 2.0, 8.0, 0.0];
        for interpolation in [Interpolation::Linear, Interpolation::Cubic] {
            assert_eq!(at(interpolation, &row, &[0.0, 1.0, 2.0, 3.0, 4.0], PLAIN), row);
            let line: Vec<f64> = (0..8).map(|x| 3.0 * f64::from(x)).collect();
            assert_eq!(at(interpolation, &line, &[2.25, 3.5, 4.0], PLAIN), [6.75, 10.5, 12.0]);
        }
        assert_eq!(at(Interpolation::Linear, &row, &[0.5, -3.0, 9.0], PLAIN), [2.5, 1.0, 0.0]);
        // Mirrored at the end: 4, 1, 4, 2.
        assert_eq!(at(Interpolation::Cubic, &row, &[0.5], PLAIN), [(9.0 * (1.0 + 4.0) - 4.0 - 2.0) / 16.0]);
    }

    #[test]
    fn intensities_are_what_they_are_called() {
        let found = at(Interpolation::Linear, &[-1.0, 0.0, 3.0], &[0.0, 1.0, 2.0], [-1.0, 4.0, 0.5, 2.0, 0.25, 0.0]);
        // The range from −1 to 3 stays, its middle grows lighter.
        for (found, expected) in found.iter().zip([-1.75, 2.25, 6.25]) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }

    #[test]
    fn noise_has_mean_0_and_variance_1_and_no_pattern() {
        let noise: Vec<f64> = (0..1 << 18).map(|i| gaussian(1, 2, i)).collect();
        let mean_of = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / noise.len() as f64;
        assert!(mean_of(&mut noise.iter().copied()).abs() < 0.01);
        let variance = mean_of(&mut noise.iter().map(|g| g * g));
        assert!((variance - 1.0).abs() < 0.01, "{variance}");
        for lag in [1, 2, 16, 188, 1 << 10, 1 << 16, 1 << 17] {
            let correlation = mean_of(&mut noise.iter().zip(&noise[lag..]).map(|(a, b)| a * b));
            assert!(correlation.abs() < 0.01, "lag {lag}: {correlation}");
        }
        assert!((gaussian(1, 3, 0) - noise[0]).abs() > 1e-6 && (gaussian(2, 2, 0) - noise[0]).abs() > 1e-6);
    }
}
