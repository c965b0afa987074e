//! Microscope images with known truth, drawn by the project itself: nuclei that touch and press against each other, unevenly lit, partly
//! out of focus, noisy, with debris that looks as they do. In fluorescence they are grey and numbered one by one; in stained tissue they
//! are coloured, and of two classes.
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
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::image::Image;
use super::label::LabelMap;
use super::raster::{write_grey8, write_rgb8};
use super::sample::{Sample, Truth};
use crate::error::{Error, Result};
use crate::random::Random;
use outline::Colony;

/// The streams of a seed that the first picture of either kind is drawn from.
const FIRST_STREAM: u32 = 0xce11_0000;
const FIRST_STAINED_STREAM: u32 = 0x57a1_0000;

/// Picture `index` of a seed in fluorescence: 8-bit grey, `size` pixels a side, with the number of the cell of each pixel.
///
/// Cells that touch have no gap between them. Every cell is numbered, from 1 without gaps.
pub fn generate(seed: u32, index: u32, size: usize) -> Sample {
    let mut random = Random::new(seed, FIRST_STREAM.wrapping_add(index));
    let colony = Colony::grow(&mut random, size);
    let territory = colony.territory();
    let pixels = optics::photograph(&mut random, &colony, &territory);
    let values = territory.iter().map(|place| place.owner).collect();
    let instances = LabelMap { height: size, width: size, values };
    sample(format!("cells-{index:04}"), pixels, Truth::Instances(instances))
}

/// Picture `index` of a seed of stained tissue in white light: 8-bit colour, `size` pixels a side, with a class for each pixel: background 0,
/// a blue nucleus 1, a nucleus brown with a marker 2.
pub fn generate_stained(seed: u32, index: u32, size: usize) -> Sample {
    let mut random = Random::new(seed, FIRST_STAINED_STREAM.wrapping_add(index));
    let colony = Colony::grow(&mut random, size);
    let share = random.between(0.25, 0.6);
    let marked: Vec<bool> = colony.cells.iter().map(|_| random.uniform() < share).collect();
    let territory = colony.territory();
    let pixels = optics::photograph_stained(&mut random, &colony, &territory, &marked);
    let class = |owner: u32| owner.checked_sub(1).map_or(0, |index| 1 + u32::from(marked[index as usize]));
    let values = territory.iter().map(|place| class(place.owner)).collect();
    sample(format!("stained-{index:04}"), pixels, Truth::Classes(LabelMap { height: size, width: size, values }))
}

/// A square picture of 8 bits with its truth.
fn sample(name: String, pixels: Vec<f32>, truth: Truth) -> Sample {
    let (Truth::Instances(labels) | Truth::Classes(labels)) = &truth;
    let (height, width) = (labels.height, labels.width);
    let channels = pixels.len() / (height * width).max(1);
    Sample { name, image: Image { height, width, channels, bit_depth: 8, pixels, alpha_dropped: false }, truth }
}

/// Writes pictures as a data set, and returns their names: `images/` with 8-bit PNGs, and `instances/` with 16-bit ones or `masks/` with those of
/// class numbers.
///
/// # Errors
/// [`Error::Io`] when a folder or file cannot be written.
pub fn write_dataset(
    folder: impl AsRef<Path>,
    indices: Range<u32>,
    picture: impl Fn(u32) -> Sample + Sync,
) -> Result<Vec<String>> {
    let folder = folder.as_ref();
    let place = |part: &str, name: &str| -> Result<PathBuf> {
        let part = folder.join(part);
        fs::create_dir_all(&part).map_err(|source| Error::io("create", &part, source))?;
        Ok(part.join(format!("{name}.png")))
    };
    let write = |index| {
        let sample = picture(index);
        let Sample { name, image: Image { height, width, channels, pixels, .. }, truth } = &sample;
        let bytes: Vec<u8> = pixels.iter().map(|&value| value as u8).collect();
        let write = if *channels == 1 { write_grey8 } else { write_rgb8 };
        write(&place("images", name)?, *height, *width, &bytes)?;
        match truth {
            Truth::Instances(instances) => instances.write_instances(place("instances", name)?)?,
            Truth::Classes(classes) => classes.write_classes(place("masks", name)?)?,
        }
        Ok(sample.name)
    };
    indices.into_par_iter().map(write).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::border::insert_gaps;
    use crate::data::components::Components;
    use crate::data::dataset::{Dataset, Options};
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
        write_dataset(folder.path(), 0..2, |index| generate(3, index, 48)).unwrap();
        for index in 0..2 {
            let sample = generate(3, index, 48);
            let file = format!("{}.png", sample.name);
            assert_eq!(Image::read(folder.path().join("images").join(&file)).unwrap(), sample.image);
            let labels = LabelMap::read(folder.path().join("instances").join(&file)).unwrap();
            assert_eq!(labels, *sample.instances());
        }
        let folder = tempfile::tempdir().unwrap();
        let names = write_dataset(folder.path(), 0..1, |index| generate_stained(3, index, 48)).unwrap();
        let written = generate_stained(3, 0, 48);
        assert_eq!(names, [written.name.as_str()]);
        let read = Dataset::open(folder.path(), &Options { classes: Some(3), ..Options::default() }).unwrap();
        assert_eq!(read.read(&[0]).unwrap(), [written]);
    }

    /// Neither is a class known by its brightness nor by whether there is more red or blue in it, compared over pictures.
    #[test]
    fn stained_tissue_has_three_classes_that_one_colour_does_not_tell_apart() {
        let mut values: [Vec<[f32; 3]>; 3] = Default::default();
        for index in 0..8 {
            let sample = generate_stained(4, index, 160);
            assert_eq!(generate_stained(4, index, 160), sample);
            for (pixel, &class) in sample.image.pixels.as_chunks::<3>().0.iter().zip(&sample.classes().values) {
                values[class as usize].push(*pixel);
            }
        }
        let total: usize = values.iter().map(Vec::len).sum();
        assert!(values.iter().all(|class| 20 * class.len() > total), "every class is more than a twentieth");
        for colour in 0..3 {
            let spread = |class: &[[f32; 3]]| {
                let mut levels: Vec<f32> = class.iter().map(|pixel| pixel[colour]).collect();
                levels.sort_by(f32::total_cmp);
                [levels[levels.len() / 20], levels[levels.len() - levels.len() / 20 - 1]]
            };
            let [blue, brown] = [1, 2].map(|class: usize| spread(&values[class]));
            assert!(blue[0] < brown[1] && brown[0] < blue[1], "colour {colour}: {blue:?} and {brown:?}");
        }
    }
}
