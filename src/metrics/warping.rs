//! The warping error: what remains wrong after the truth has been bent to the prediction without tearing it.

use super::contingency::refuse_other_size;
use crate::data::{IGNORE, LabelMap};
use crate::error::Result;

/// The warping error of two binary segmentations (Jain et al., *Boundary Learning by Optimization with Topological Constraints*, 2010):
/// the truth is warped towards the prediction by flipping simple pixels, which changes no topology; the share of pixels that
/// still differ is the error.
///
/// Foreground is what is not 0, connected by 4-neighbourhood, background by 8; what lies beyond the image is background. As in the
/// challenge's implementation, the pixels that differ are visited column by column, each flipped if it is simple by then, over and
/// over until none is. Objects of a map that share an edge are first parted by a line of background. Pixels that are [`IGNORE`] in
/// the truth are never flipped and do not count; `None` when there are no others.
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage) when the maps differ in size or have not one value for each pixel.
pub fn warping_error(truth: &LabelMap, prediction: &LabelMap) -> Result<Option<f64>> {
    refuse_other_size(truth, prediction)?;
    let LabelMap { height, width, .. } = *truth;
    let counted = truth.values.iter().filter(|&&label| label != IGNORE).count();
    if counted == 0 {
        return Ok(None);
    }
    let is_simple: [bool; 256] = std::array::from_fn(|ring| crossing_number(ring) == 1);
    let (mut source, target) = (padded(truth), padded(prediction));
    let stride = width + 2;
    let mut mismatches: Vec<usize> = (0..width)
        .flat_map(|x| (0..height).map(move |y| (y, x)))
        .filter(|(y, x)| truth.values[y * width + x] != IGNORE)
        .map(|(y, x)| (y + 1) * stride + x + 1)
        .filter(|&pixel| source[pixel] != target[pixel])
        .collect();
    loop {
        let before = mismatches.len();
        for &pixel in &mismatches {
            let ring = [
                pixel - stride,
                pixel - stride + 1,
                pixel + 1,
                pixel + stride + 1,
                pixel + stride,
                pixel + stride - 1,
                pixel - 1,
                pixel - stride - 1,
            ];
            let ring = ring.iter().enumerate().fold(0, |bits, (bit, &near)| bits | usize::from(source[near]) << bit);
            source[pixel] ^= is_simple[ring];
        }
        mismatches.retain(|&pixel| source[pixel] != target[pixel]);
        if mismatches.len() == before {
            return Ok(Some(before as f64 / counted as f64));
        }
    }
}

/// Whether each pixel is foreground, with a frame of background one pixel wide. Of two objects that share an edge, the pixel read
/// second is background.
fn padded(labels: &LabelMap) -> Vec<bool> {
    let LabelMap { height, width, ref values } = *labels;
    let stride = width + 2;
    let mut padded = vec![false; (height + 2) * stride];
    for (pixel, &label) in values.iter().enumerate().filter(|&(_, &label)| !matches!(label, 0 | IGNORE)) {
        let place = (pixel / width + 1) * stride + pixel % width + 1;
        // The frame is background: what is set has a pixel in the map.
        let touches_left = padded[place - 1] && values[pixel - 1] != label;
        let touches_above = padded[place - stride] && values[pixel - width] != label;
        padded[place] = !touches_left && !touches_above;
    }
    padded
}

/// How many 4-connected pieces of foreground meet in a pixel whose eight neighbours are these bits, clockwise from the one above
/// (Yokoi, Toriwaki and Fukumura, *An Analysis of Topological Properties of Digitized Binary Pictures Using Local Features*, 1975). The
/// pixel is simple when it is 1.
fn crossing_number(ring: usize) -> usize {
    let is_set = |bit: usize| ring >> (bit % 8) & 1 == 1;
    [0, 2, 4, 6].into_iter().filter(|&bit| is_set(bit) && !(is_set(bit + 1) && is_set(bit + 2))).count()
}

#[cfg(test)]
mod tests {
    use super::super::contingency::tests::labels;
    use super::*;
    use crate::data::{Components, Connectivity};

    fn error(truth: &[&str], prediction: &[&str]) -> f64 {
        warping_error(&labels(truth), &labels(prediction)).unwrap().unwrap()
    }

    #[test]
    fn simple_means_one_piece_of_foreground_and_one_of_background() {
        const PLACES: [usize; 8] = [1, 2, 5, 8, 7, 6, 3, 0];
        let mut simple = 0;
        for ring in 0..256 {
            let bits = |wanted| {
                let mut values = vec![0; 9];
                for (bit, place) in PLACES.into_iter().enumerate() {
                    values[place] = u32::from(ring >> bit & 1 == wanted);
                }
                LabelMap { height: 3, width: 3, values }
            };
            let foreground = Components::default().label(&bits(1)).values;
            let mut touching: Vec<u32> = [1, 3, 5, 7].map(|place| foreground[place]).into();
            touching.retain(|&piece| piece != 0);
            touching.sort_unstable();
            touching.dedup();
            let eight = Components { connectivity: Connectivity::Eight, min_size: 0 };
            let background = eight.label(&bits(0)).values.into_iter().max();
            let expected = touching.len() == 1 && background == Some(1);
            assert_eq!(crossing_number(ring) == 1, expected, "{ring:08b}");
            simple += usize::from(expected);
        }
        assert_eq!(simple, 116);
    }

    #[test]
    fn moving_a_border_costs_nothing() {
        assert_eq!(error(&["01100", "01100"], &["11111", "11111"]).to_bits(), 0.0_f64.to_bits());
        assert_eq!(error(&["011100", "011100"], &["000110", "000110"]).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn tearing_joining_losing_and_inventing_cost_a_pixel_each() {
        // A bridge between two objects, and a cut through one.
        let (two, one) = (["11011", "11011", "11011"], ["11011", "11111", "11011"]);
        assert!((error(&two, &one) - 1.0 / 15.0).abs() < 1e-15);
        let (whole, torn) = (["11111"], ["11011"]);
        assert!((error(&whole, &torn) - 1.0 / 5.0).abs() < 1e-15);
        // Objects shrink to one pixel that cannot go, and start from one that cannot come.
        assert!((error(&["0000", "0110", "0110", "0000"], &["0000"; 4]) - 1.0 / 16.0).abs() < 1e-15);
        assert!((error(&["000", "000", "000"], &["000", "010", "000"]) - 1.0 / 9.0).abs() < 1e-15);
        // A hole.
        assert!((error(&["111", "111", "111"], &["111", "101", "111"]) - 1.0 / 9.0).abs() < 1e-15);
        // A diagonal does not join foreground, which is 4-connected.
        assert!((error(&["100", "000"], &["100", "010"]) - 1.0 / 6.0).abs() < 1e-15);
    }

    #[test]
    fn touching_objects_are_not_one() {
        // Parted, the truth has two objects; of the line of two pixels between them none is simple, and all of it counts.
        assert!((error(&["1122", "1122"], &["1111", "1111"]) - 2.0 / 8.0).abs() < 1e-15);
        assert_eq!(error(&["1122", "1122"], &["1122", "1122"]).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn ignored_pixels_do_not_count() {
        assert_eq!(warping_error(&labels(&["xx"]), &labels(&["01"])).unwrap(), None);
        assert!((error(&["1100x", "1100x"], &["11001", "11011"]) - 1.0 / 8.0).abs() < 1e-15);
        let message = warping_error(&labels(&["11"]), &labels(&["1"])).unwrap_err().to_string();
        assert!(message.contains("2 x 1 pixels, the prediction 1 x 1"), "{message}");
    }
}
