//! From a class map to objects: connected components.

use std::str::FromStr;

use super::label::LabelMap;
use super::sample::IGNORE;

/// Which pixels are neighbours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connectivity {
    /// Those that share an edge.
    #[default]
    Four,
    /// Those that share an edge or a corner.
    Eight,
}

/// Steps `(dy, dx)` to the neighbours, those across an edge first.
const STEPS: [(isize, isize); 8] = [(-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)];

impl Connectivity {
    /// The neighbours of a pixel within a map of this size.
    pub(crate) fn neighbours(self, pixel: usize, height: usize, width: usize) -> impl Iterator<Item = usize> {
        let (y, x) = (pixel / width, pixel % width);
        let steps = match self {
            Self::Four => &STEPS[..4],
            Self::Eight => &STEPS[..],
        };
        steps.iter().filter_map(move |&(dy, dx)| {
            let y = y.checked_add_signed(dy).filter(|&y| y < height)?;
            let x = x.checked_add_signed(dx).filter(|&x| x < width)?;
            Some(y * width + x)
        })
    }
}

impl FromStr for Connectivity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "4" => Ok(Self::Four),
            "8" => Ok(Self::Eight),
            other => Err(format!("{other:?} is not a neighbourhood: 4 is across edges, 8 across edges and corners")),
        }
    }
}

/// What counts as an object of a class map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Components {
    /// Which pixels are connected; 4-neighbours by default.
    pub connectivity: Connectivity,
    /// Smaller objects, in pixels, are background; by default none are.
    pub min_size: usize,
}

impl Components {
    /// The objects of a class map: connected regions of one class other than 0 and [`IGNORE`], numbered from 1 without gaps
    /// in the order of their first pixels, and 0 elsewhere. In time linear in pixels.
    ///
    /// # Panics
    /// When the map has not one value for each pixel.
    #[must_use]
    pub fn label(&self, classes: &LabelMap) -> LabelMap {
        classes.assert_whole();
        let LabelMap { height, width, ref values } = *classes;
        let mut regions = vec![0_usize; values.len()];
        // The number of each region: 0 for what is none and for those too small.
        let mut numbers = vec![0];
        let mut count = 0;
        let mut open = Vec::new();
        for start in 0..values.len() {
            if matches!(values[start], 0 | IGNORE) || regions[start] != 0 {
                continue;
            }
            let (region, mut size) = (numbers.len(), 0);
            regions[start] = region;
            open.push(start);
            while let Some(pixel) = open.pop() {
                size += 1;
                for neighbour in self.connectivity.neighbours(pixel, height, width) {
                    if regions[neighbour] == 0 && values[neighbour] == values[start] {
                        regions[neighbour] = region;
                        open.push(neighbour);
                    }
                }
            }
            let large = size >= self.min_size;
            count += u32::from(large);
            numbers.push(if large { count } else { 0 });
        }
        LabelMap { height, width, values: regions.into_iter().map(|region| numbers[region]).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(rows: &[&str]) -> LabelMap {
        let value = |c: char| c.to_digit(10).unwrap_or(IGNORE);
        LabelMap { height: rows.len(), width: rows[0].len(), values: rows.concat().chars().map(value).collect() }
    }

    #[test]
    fn components_are_regions_of_one_class() {
        let classes = labels(&["1102", "0102", "1022", "1000"]);
        assert_eq!(Components::default().label(&classes), labels(&["1102", "0102", "3022", "3000"]));
        let eight = Components { connectivity: Connectivity::Eight, min_size: 0 };
        assert_eq!(eight.label(&classes), labels(&["1102", "0102", "1022", "1000"]));
        let ignored = Components::default().label(&labels(&["1x1", "xx0"]));
        assert_eq!(ignored, labels(&["102", "000"]));
    }

    #[test]
    fn small_objects_are_background_and_the_others_keep_their_order() {
        let classes = labels(&["1011", "0001", "1100"]);
        let of = |min_size| Components { min_size, ..Components::default() }.label(&classes);
        assert_eq!(of(1), labels(&["1022", "0002", "3300"]));
        assert_eq!(of(2), labels(&["0011", "0001", "2200"]));
        assert_eq!(of(3), labels(&["0011", "0001", "0000"]));
        assert_eq!(of(4).values, [0; 12]);
    }

    #[test]
    fn a_neighbourhood_is_4_or_8() {
        assert_eq!(("4".parse(), "8".parse()), (Ok(Connectivity::Four), Ok(Connectivity::Eight)));
        let message = "6".parse::<Connectivity>().unwrap_err();
        assert!(message.contains("\"6\" is not a neighbourhood: 4 is"), "{message}");
    }
}
