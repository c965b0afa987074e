//! The exact Euclidean distance transform in time linear in the pixels.
//!
//! Source: Felzenszwalb and Huttenlocher, *Distance Transforms of Sampled Functions*, Theory of Computing 8(19), 2012: the
//! squared distance is separable, and along one axis it is the lower envelope of parabolas.

/// The squared distance from each pixel to the nearest one that is inside, `u32::MAX` everywhere when none is.
///
/// Exact for sides up to 32,768.
pub(super) fn squared_distances(inside: &[bool], width: usize) -> Vec<u32> {
    let mut by_column = vertical_distances(inside, width);
    let mut envelope = Envelope::with_capacity(width);
    for row in by_column.chunks_exact_mut(width) {
        envelope.replace(row);
    }
    by_column
}

/// The squared distance within the column, by one sweep down and one up.
fn vertical_distances(inside: &[bool], width: usize) -> Vec<u32> {
    let mut distances: Vec<u32> = inside.iter().map(|&inside| if inside { 0 } else { u32::MAX }).collect();
    for pixel in width..distances.len() {
        distances[pixel] = distances[pixel].min(distances[pixel - width].saturating_add(1));
    }
    for pixel in (0..distances.len().saturating_sub(width)).rev() {
        distances[pixel] = distances[pixel].min(distances[pixel + width].saturating_add(1));
    }
    for distance in &mut distances {
        // Sides are below 2^16, so that only the marker for "none" saturates.
        *distance = distance.saturating_mul(*distance);
    }
    distances
}

/// The lower envelope of the parabolas `(x − apex)² + height`.
struct Envelope {
    /// Apex and height of the parabolas that reach the envelope, from left to right.
    parabolas: Vec<(i64, i64)>,
    /// Where each of them begins to be the lowest.
    starts: Vec<i64>,
}

impl Envelope {
    fn with_capacity(width: usize) -> Self {
        Self { parabolas: Vec::with_capacity(width), starts: Vec::with_capacity(width) }
    }

    /// Replaces squared vertical distances of a row by squared distances in the plane.
    fn replace(&mut self, row: &mut [u32]) {
        self.parabolas.clear();
        self.starts.clear();
        for (apex, &height) in row.iter().enumerate().filter(|&(_, &height)| height != u32::MAX) {
            self.push(apex as i64, i64::from(height));
        }
        let mut current = 0;
        for (x, distance) in (0_i64..).zip(row) {
            while self.starts.get(current + 1).is_some_and(|&start| start <= x) {
                current += 1;
            }
            let Some(&(apex, height)) = self.parabolas.get(current) else {
                return;
            };
            *distance = u32::try_from((x - apex).pow(2) + height).unwrap_or(u32::MAX);
        }
    }

    /// Adds a parabola to the right of all others.
    fn push(&mut self, apex: i64, height: i64) {
        while let (Some(&(last_apex, last_height)), Some(&last_start)) = (self.parabolas.last(), self.starts.last()) {
            // The first whole x at which the new parabola is at most as high as the last one.
            let rise = (height + apex * apex) - (last_height + last_apex * last_apex);
            let start =
                rise.div_euclid(2 * (apex - last_apex)) + i64::from(rise.rem_euclid(2 * (apex - last_apex)) != 0);
            if start > last_start {
                self.parabolas.push((apex, height));
                self.starts.push(start);
                return;
            }
            self.parabolas.pop();
            self.starts.pop();
        }
        self.parabolas.push((apex, height));
        self.starts.push(i64::MIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn by_definition(inside: &[bool], width: usize) -> Vec<u32> {
        let distance = |from: usize| {
            let to = (0..inside.len()).filter(|&to| inside[to]).map(|to| {
                (from % width).abs_diff(to % width).pow(2) as u32 + (from / width).abs_diff(to / width).pow(2) as u32
            });
            to.min().unwrap_or(u32::MAX)
        };
        (0..inside.len()).map(distance).collect()
    }

    #[test]
    fn distances_equal_the_definition() {
        let mut random = Random::new(1, 0);
        for (height, width) in [(1, 1), (1, 30), (30, 1), (17, 23), (40, 9)] {
            for share in [0.0, 0.01, 0.1, 0.9] {
                let inside: Vec<bool> = (0..height * width).map(|_| random.uniform() < share).collect();
                assert_eq!(
                    squared_distances(&inside, width),
                    by_definition(&inside, width),
                    "{height}x{width} {share}"
                );
            }
        }
    }
}
