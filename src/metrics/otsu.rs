//! The threshold to beat.

/// The threshold that best separates the values into two classes: it maximises the variance between them (Otsu, *A Threshold Selection
/// Method from Gray-Level Histograms*, 1979), over a histogram of 256 equal bins. Values above it are foreground.
pub fn otsu_threshold(values: &[f32]) -> f32 {
    const BINS: usize = 256;
    let (low, high) = values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    if high.partial_cmp(&low) != Some(std::cmp::Ordering::Greater) {
        return low;
    }
    let width = (high - low) / BINS as f32;
    let mut histogram = [0u64; BINS];
    for &value in values {
        histogram[(((value - low) / width) as usize).min(BINS - 1)] += 1;
    }
    let total = values.len() as f64;
    let sum: f64 = histogram.iter().enumerate().map(|(bin, &count)| bin as f64 * count as f64).sum();
    let (mut below, mut sum_below, mut best, mut threshold) = (0.0, 0.0, -1.0, low);
    for (bin, &count) in histogram.iter().enumerate() {
        below += count as f64;
        sum_below += bin as f64 * count as f64;
        let above = total - below;
        if below > 0.0 && above > 0.0 {
            let difference = sum_below / below - (sum - sum_below) / above;
            let between = below * above * difference * difference;
            if between > best {
                (best, threshold) = (between, low + width * (bin + 1) as f32);
            }
        }
    }
    threshold
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn otsu_separates_two_heaps() {
        let mut values = vec![1.0; 70];
        values.extend([9.0; 30]);
        values.extend([1.5, 8.5]);
        let threshold = otsu_threshold(&values);
        assert!((1.5..8.5).contains(&threshold), "{threshold}");
        assert_eq!(otsu_threshold(&[4.0; 5]).to_bits(), 4.0f32.to_bits());
    }
}
