//! Borders one pixel wide.

use std::collections::VecDeque;

use crate::data::{Connectivity, LabelMap};

/// Thins the borders between segments to lines one pixel wide, so that a score does not depend on how wide they were drawn: the
/// watershed with lines of the border map (Beucher and Meyer, *The morphological approach to segmentation: the watershed
/// transformation*, 1993), flooded from all segments at once.
///
/// Pixels of label 0 join the segment that reaches them first by 4-neighbourhood: those beside a segment in reading order, all others
/// in the order in which they are reached, from the one reached first. A pixel that two segments reach stays 0. Segments that touch already stay as they are. In time linear in pixels.
///
/// # Panics
/// When the map has not one value for each pixel.
#[must_use]
pub fn thin_borders(segments: &LabelMap) -> LabelMap {
    segments.assert_whole();
    let LabelMap { height, width, .. } = *segments;
    let mut values = segments.values.clone();
    let neighbours = |pixel| Connectivity::Four.neighbours(pixel, height, width);
    let mut is_queued: Vec<bool> = values.iter().map(|&label| label != 0).collect();
    let mut queue = VecDeque::new();
    for pixel in 0..values.len() {
        if values[pixel] == 0 && neighbours(pixel).any(|neighbour| values[neighbour] != 0) {
            is_queued[pixel] = true;
            queue.push_back(pixel);
        }
    }
    while let Some(pixel) = queue.pop_front() {
        let mut around = neighbours(pixel).map(|neighbour| values[neighbour]).filter(|&label| label != 0);
        let Some(label) = around.next() else { continue };
        if around.all(|other| other == label) {
            values[pixel] = label;
            for neighbour in neighbours(pixel) {
                if !is_queued[neighbour] {
                    is_queued[neighbour] = true;
                    queue.push_back(neighbour);
                }
            }
        }
    }
    LabelMap { height, width, values }
}

#[cfg(test)]
mod tests {
    use super::super::contingency::tests::labels;
    use super::*;
    use crate::data::Components;

    #[test]
    fn a_border_becomes_a_line_in_its_middle() {
        let wide = labels(&["1100022", "1100022"]);
        assert_eq!(thin_borders(&wide), labels(&["1110222", "1110222"]));
        // Of an even width the line lies on the side that is read last.
        assert_eq!(thin_borders(&labels(&["1002"])), labels(&["1102"]));
        assert_eq!(thin_borders(&labels(&["1122", "0000"])), labels(&["1122", "1102"]));
    }

    #[test]
    fn everything_joins_a_lone_segment_and_nothing_joins_none() {
        assert_eq!(thin_borders(&labels(&["000", "030", "000"])).values, [3; 9]);
        assert_eq!(thin_borders(&labels(&["00", "00"])).values, [0; 4]);
    }

    #[test]
    fn lines_part_what_was_parted() {
        let segments = labels(&["100000002", "000000000", "000000000", "300000004"]);
        let thinned = thin_borders(&segments);
        let classes =
            LabelMap { values: thinned.values.iter().map(|&label| u32::from(label != 0)).collect(), ..thinned };
        let parts = Components::default().label(&classes);
        assert_eq!(parts.values.iter().max(), Some(&4), "{parts:?}");
        let line = thinned.values.iter().filter(|&&label| label == 0).count();
        assert!((9 + 3..=9 + 4).contains(&line), "{thinned:?}");
    }
}
