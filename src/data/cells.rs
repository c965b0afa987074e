//! Microscope images with known truth, drawn by the project itself: stained nuclei that touch and press against each other,
//! unevenly lit, partly out of focus, noisy, with debris that is as bright as they are.
//!
//! They need no download and no licence, every pixel of their truth is right, and a threshold does not solve them: one that
//! is right where the light falls is wrong in the corners. What the network has to learn is what it has to learn on real
//! fluorescence images, local contrast and shape.
//!
//! A picture is a function of seed, index and size alone.

mod optics;
mod outline;

use std::fs;
use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;

use super::image::Image;
use super::label::LabelMap;
use super::raster::write_grey8;
use super::sample::{Sample, Truth};
use crate::error::{Error, Result};
use crate::random::Random;
use outline::Colony;

/// The stream of a seed that the first picture is drawn from.
const FIRST_STREAM: u32 = 0xce11_0000;

/// Picture `index` of a seed: 8-bit grey, `size` pixels a side, with the number of the cell of each pixel.
///
/// Cells that touch have no gap between them. Every cell is numbered, from 1 without gaps.
pub fn generate(seed: u32, index: u32, size: usize) -> Sample {
    let mut random = Random::new(seed, FIRST_STREAM.wrapping_add(index));
    let colony = Colony::grow(&mut random, size);
    let territory = colony.territory();
    let pixels = optics::photograph(&mut random, &colony, &territory);
    let image = Image { height: size, width: size, channels: 1, bit_depth: 8, pixels, alpha_dropped: false };
    let values = territory.iter().map(|place| place.owner).collect();
    let instances = LabelMap { height: size, width: size, values };
    Sample { name: format!("cells-{index:04}"), image, truth: Truth::Instances(instances) }
}

/// Writes pictures of a seed as a data set, `images/` with 8-bit PNGs and `instances/` with 16-bit ones, and returns them.
///
/// # Errors
/// [`Error::Io`] when a folder or file cannot be written.
pub fn write_dataset(folder: impl AsRef<Path>, seed: u32, indices: Range<u32>, size: usize) -> Result<Vec<Sample>> {
    let [images, labels] = ["images", "instances"].map(|name| folder.as_ref().join(name));
    for part in [&images, &labels] {
        fs::create_dir_all(part).map_err(|source| Error::io("create", part, source))?;
    }
    let picture = |index| {
        let sample = generate(seed, index, size);
        let file = format!("{}.png", sample.name);
        let bytes: Vec<u8> = sample.image.pixels.iter().map(|&value| value as u8).collect();
        write_grey8(&images.join(&file), size, size, &bytes)?;
        sample.instances().write_instances(labels.join(&file))?;
        Ok(sample)
    };
    indices.into_par_iter().map(picture).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::border::insert_gaps;
    use crate::data::components::Components;
    use crate::metrics::{Confusion, otsu_threshold};
    use std::collections::BTreeMap;

    fn areas(labels: &LabelMap) -> BTreeMap<u32, usize> {
        let mut areas = BTreeMap::new();
        for &value in labels.values.iter().filter(|&&value| value != 0) {
            *areas.entry(value).or_insert(0) += 1;
        }
        areas
    }

    #[test]
    fn a_picture_is_a_function_of_seed_index_and_size() {
        let sample = generate(1, 2, 96);
        assert_eq!(generate(1, 2, 96), sample);
        assert_ne!(generate(1, 3, 96), sample);
        assert_ne!(generate(2, 2, 96), sample);
        assert_eq!((sample.name.as_str(), sample.image.pixels.len()), ("cells-0002", 96 * 96));
        assert!(sample.image.pixels.iter().all(|&v| v.fract() == 0.0 && (0.0..=255.0).contains(&v)));
    }

    #[test]
    fn cells_are_whole_numbered_and_often_touch() {
        let mut touching = 0;
        for index in 0..8 {
            let instances = generate(5, index, 192).instances().into_owned();
            let areas = areas(&instances);
            assert!(areas.len() >= 5, "picture {index} has {} cells", areas.len());
            assert!(areas.keys().copied().eq(1..=areas.len() as u32), "picture {index}: {:?}", areas.keys());
            assert!(areas.values().all(|&area| area >= 20), "picture {index}: {areas:?}");
            touching += usize::from(insert_gaps(&instances) != instances);
            let pieces = areas_of_components(&instances);
            assert!(pieces <= areas.len() + 1, "picture {index}: {pieces} pieces of {} cells", areas.len());
        }
        assert!(touching >= 7, "cells touch in {touching} of 8 pictures");
    }

    fn areas_of_components(instances: &LabelMap) -> usize {
        areas(&Components::default().label(instances)).len()
    }

    #[test]
    fn a_threshold_does_not_solve_them() {
        let mut confusion = Confusion::new(2);
        for index in 0..8 {
            let sample = generate(9, index, 192);
            let threshold = otsu_threshold(&sample.image.pixels);
            let bright: Vec<u32> = sample.image.pixels.iter().map(|&value| u32::from(value > threshold)).collect();
            confusion.add(&sample.classes().values, &bright).unwrap();
        }
        let iou = confusion.foreground_iou().unwrap();
        assert!((0.5..0.82).contains(&iou), "{iou}");
    }

    #[test]
    fn tiny_pictures_are_possible() {
        for size in [1, 2, 17] {
            assert_eq!(generate(0, 0, size).image.pixels.len(), size * size);
        }
    }

    #[test]
    fn a_written_data_set_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        write_dataset(folder.path(), 3, 0..2, 48).unwrap();
        for index in 0..2 {
            let sample = generate(3, index, 48);
            let file = format!("{}.png", sample.name);
            assert_eq!(Image::read(folder.path().join("images").join(&file)).unwrap(), sample.image);
            let labels = LabelMap::read(folder.path().join("instances").join(&file)).unwrap();
            assert_eq!(labels, *sample.instances());
        }
    }
}
