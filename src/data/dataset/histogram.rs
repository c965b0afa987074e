//! How often the values of images occur.

use std::fmt;

use serde::Serialize;

/// The most bins there are.
const MOST_BINS: usize = 16;

/// Numbers of values in bins of equal width. The width is a power of two and every bin starts at a multiple of it, so that histograms of
/// different images add up without reading the images again.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Histogram {
    /// Where the first bin starts.
    pub start: f64,
    /// How wide a bin is: it holds the values from its start to below the start of the next.
    pub width: f64,
    /// Values in each bin, all channels together; at most 16 bins.
    pub counts: Vec<u64>,
}

/// The smallest width from `finest` on, doubled again and again, of which 16 bins hold `low` to `high`.
fn fitting(low: f64, high: f64, finest: f64) -> f64 {
    let mut width = finest;
    while (high / width).floor() - (low / width).floor() >= MOST_BINS as f64 {
        width *= 2.0;
    }
    width
}

impl Histogram {
    /// The histogram of values that lie between two, in bins of a whole width if the values are whole.
    pub(super) fn new(values: &[f32], (low, high): (f32, f32), whole: bool) -> Self {
        let [low, high] = [low, high].map(f64::from);
        let spread = (high - low) / MOST_BINS as f64;
        let finest = if spread > 0.0 { spread.log2().floor().exp2() } else { 1.0 };
        let mut histogram = Self::empty(low, high, if whole { finest.max(1.0) } else { finest });
        for &value in values {
            histogram.add(value.into(), 1);
        }
        histogram
    }

    fn empty(low: f64, high: f64, finest: f64) -> Self {
        let width = fitting(low, high, finest);
        let first = (low / width).floor();
        Self { start: first * width, width, counts: vec![0; ((high / width).floor() - first) as usize + 1] }
    }

    fn add(&mut self, value: f64, count: u64) {
        let bin = ((value - self.start) / self.width) as usize;
        if let Some(sum) = self.counts.get_mut(bin) {
            *sum += count;
        }
    }

    /// Where the last bin starts.
    fn last(&self) -> f64 {
        self.start + self.width * self.counts.len().saturating_sub(1) as f64
    }

    /// The histogram of the values of both.
    pub(super) fn merged(&self, other: &Self) -> Self {
        let (low, high) = (self.start.min(other.start), self.last().max(other.last()));
        let mut sum = Self::empty(low, high, self.width.max(other.width));
        for part in [self, other] {
            for (bin, &count) in part.counts.iter().enumerate() {
                sum.add(part.start + bin as f64 * part.width, count);
            }
        }
        sum
    }

    /// A character for each bin, as high as its share of the fullest; a dot where there is nothing.
    pub fn bars(&self) -> String {
        const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let most = self.counts.iter().copied().max().unwrap_or(0).max(1) as f64;
        let bar = |&count: &u64| if count == 0 { '·' } else { BARS[(7.0 * count as f64 / most).round() as usize] };
        self.counts.iter().map(bar).collect()
    }
}

impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {} in steps of {}", self.bars(), self.start, self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f32], whole: bool) -> Histogram {
        let range = values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)));
        Histogram::new(values, range, whole)
    }

    #[test]
    fn every_value_is_in_its_bin() {
        let bytes: Vec<f32> = (0..=255_u8).map(f32::from).collect();
        assert_eq!(of(&bytes, true), Histogram { start: 0.0, width: 16.0, counts: vec![16; 16] });
        assert_eq!(of(&[0.0, 1.0, 1.0], true), Histogram { start: 0.0, width: 1.0, counts: vec![1, 2] });
        assert_eq!(of(&[-0.5, 0.0, 0.25], false).counts.iter().sum::<u64>(), 3);
        assert_eq!(of(&[7.5, 7.5], false), Histogram { start: 7.0, width: 1.0, counts: vec![2] });
        for extreme in [[f32::MIN, f32::MAX], [0.0, f32::MIN_POSITIVE], [1.0, 1.0 + f32::EPSILON]] {
            let histogram = of(&extreme, false);
            let (first, last) = (histogram.counts[0], histogram.counts[histogram.counts.len() - 1]);
            assert!((first, last) == (1, 1) && histogram.counts.len() <= MOST_BINS, "{histogram:?}");
        }
    }

    #[test]
    fn histograms_add_up_to_that_of_all_values() {
        let parts = [[3.0, 9.0, 200.0], [0.0, 0.0, 65_535.0], [-4.0, 0.5, 0.25]];
        let all = of(&parts.concat(), false);
        let [a, b, c] = parts.map(|part| of(&part, false));
        assert_eq!(a.merged(&b).merged(&c), all);
        assert_eq!(c.merged(&a.merged(&b)), all, "in any order");
    }

    #[test]
    fn bars_show_the_shape() {
        let histogram = Histogram { start: 0.0, width: 16.0, counts: vec![700, 0, 1, 350] };
        assert_eq!(histogram.to_string(), "█·▁▅ from 0 in steps of 16");
    }
}
