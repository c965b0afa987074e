//! Batches of random tiles, each a pure function of seed and step: a resumed run sees what an uninterrupted one sees.

use super::augmentation::{Augmentation, Change};
use super::sample::{IGNORE, Prepared};
use crate::error::{Error, Result};
use crate::random::Random;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The stream of a seed that tiles are drawn from.
const STREAM: u32 = 0x7113_5a3e;

/// Words drawn for a tile: image, row, column.
const WORDS_PER_TILE: u32 = 3;

/// The stream of a seed that says which tiles are centred on foreground, and where.
const CENTRE_STREAM: u32 = 0x3f6d_90c1;

/// Words drawn for that: whether, class, pixel.
const WORDS_PER_CENTRE: u32 = 3;

/// The tile of a network, in pixels. What the network takes is larger than what it returns: see `UNet::output_side`; and what is
/// augmented first is larger still: see [`Augmentation::source`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Height and width of the image that is given.
    pub input: [usize; 2],
    /// Height and width of the output, which is placed in an image at random.
    pub output: [usize; 2],
    /// Height and width of the labels and weights that are given: those of the output, or of the input where it is augmented.
    pub truth: [usize; 2],
}

impl Tile {
    /// How far what is given reaches beyond the output above and to the left, `(given − output) / 2`.
    fn margin(&self, given: [usize; 2]) -> [isize; 2] {
        [0, 1].map(|axis| (given[axis] - self.output[axis]) as isize / 2)
    }
}

/// How the image of a tile is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// Every image equally often.
    #[default]
    Images,
    /// In proportion to its pixels, so that every pixel of the data set is about equally frequent.
    Pixels,
}

/// One tile of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Index of the sample.
    pub sample: usize,
    /// Row and column of the sample that the output begins at; negative where the sample is smaller than the output.
    pub origin: [isize; 2],
}

/// What a batch is written into, `n` tiles after another.
#[derive(Debug)]
pub struct Batch<'a> {
    /// `[n, h, w, channels]`.
    pub input: &'a mut [f32],
    /// `[n, h', w']`, of [`Tile::truth`]'s size; 0 where the class is [`IGNORE`].
    pub labels: &'a mut [u32],
    /// `[n, h', w']`, of [`Tile::truth`]'s size; 0 where the class is [`IGNORE`].
    pub weights: &'a mut [f32],
}

/// Draws tiles from samples.
#[derive(Clone, Debug)]
pub struct Sampler {
    samples: Vec<Prepared>,
    tile: Tile,
    seed: u32,
    /// The lowest and the highest value of each sample.
    ranges: Vec<[f32; 2]>,
    /// For each sample, the largest word that chooses it.
    last_words: Vec<u32>,
    /// The share of tiles that are centred on foreground.
    foreground: f32,
    /// For each sample, where each class other than 0 is; empty where `foreground` is 0.
    classes: Vec<Vec<ClassPixels>>,
}

/// Where the pixels of a class are, so that any of them is found without a list of all.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ClassPixels {
    class: u32,
    /// For each row, how many pixels of the class there are up to its end.
    counts: Vec<u32>,
}

/// The pixel that stands at `position` where a line of `size` pixels is mirrored at both ends without repeating the end
/// pixel (reflect-101), as often as needed: −1 is 1, `size` is `size − 2`, and the period is `2 (size − 1)`.
pub fn reflect(position: isize, size: usize) -> usize {
    let last = size.saturating_sub(1) as isize;
    if last == 0 {
        return 0;
    }
    let folded = position.rem_euclid(2 * last);
    folded.min(2 * last - folded) as usize
}

impl Sampler {
    /// A sampler of tiles of this size.
    ///
    /// # Errors
    /// [`Error::Usage`] when there are no samples, they differ in channels or are inconsistent in size, or the tile's
    /// output does not fit centrally into its input.
    pub fn new(samples: Vec<Prepared>, tile: Tile, sampling: Sampling, seed: u32) -> Result<Self> {
        for axis in 0..2 {
            let output = tile.output[axis];
            for given in [tile.input[axis], tile.truth[axis]] {
                if output == 0 || output > given || !(given - output).is_multiple_of(2) {
                    return Err(Error::Usage(format!(
                        "a tile of {given} pixels cannot have an output of {output}: it must be smaller by an even number"
                    )));
                }
            }
        }
        let Some(first) = samples.first() else {
            return Err(Error::Usage("there are no samples to draw tiles from".into()));
        };
        for sample in &samples {
            let Prepared { name, height, width, channels, .. } = sample;
            if *channels != first.channels {
                return Err(Error::Usage(format!(
                    "{name}: channels: {channels}, but {} in {}; all images must have the same number",
                    first.channels, first.name
                )));
            }
            let pixels = height * width;
            let found = [sample.pixels.len(), sample.classes.len(), sample.weights.len()];
            if pixels == 0 || found != [pixels * channels, pixels, pixels] {
                return Err(Error::Usage(format!(
                    "{name}: {width} x {height} pixels of {channels} channels do not agree with {found:?} values, classes \
                     and weights"
                )));
            }
        }
        let size = |sample: &Prepared| match sampling {
            Sampling::Images => 1,
            Sampling::Pixels => (sample.height * sample.width) as u64,
        };
        let total: u64 = samples.iter().map(size).sum();
        let mut sum = 0;
        let last_words = samples
            .iter()
            .map(|sample| {
                sum += size(sample);
                ((u128::from(sum) << 32) / u128::from(total)).saturating_sub(1) as u32
            })
            .collect();
        let range = |sample: &Prepared| {
            let values = sample.pixels.iter();
            values.fold([f32::INFINITY, f32::NEG_INFINITY], |[low, high], &value| [low.min(value), high.max(value)])
        };
        let ranges = samples.iter().map(range).collect();
        Ok(Self { samples, tile, seed, ranges, last_words, foreground: 0.0, classes: Vec::new() })
    }

    /// The sampler with this share of tiles, drawn at random, whose output has a pixel of foreground in its middle, row `h / 2` and
    /// column `w / 2`: one of the classes of the image other than 0, each as likely, and of that class any pixel. Images without
    /// foreground have such tiles anywhere.
    #[must_use]
    pub fn centred(self, share: f32) -> Self {
        let classes = if share > 0.0 { self.samples.iter().map(foreground).collect() } else { Vec::new() };
        Self { foreground: share, classes, ..self }
    }

    /// The samples, in the order of [`Draw::sample`].
    pub fn samples(&self) -> &[Prepared] {
        &self.samples
    }

    /// Tile `slot` of step `step` in batches of `batch` tiles.
    pub fn draw(&self, step: u32, batch: u32, slot: u32) -> Draw {
        let number = step.wrapping_mul(batch).wrapping_add(slot);
        let mut random = Random { seed: self.seed, stream: STREAM, counter: number.wrapping_mul(WORDS_PER_TILE) };
        let word = random.next_u32();
        let sample = self.last_words.partition_point(|&last| last < word).min(self.samples.len() - 1);
        let size = [self.samples[sample].height, self.samples[sample].width];
        let origin = [0, 1].map(|axis| {
            let free = size[axis] as isize - self.tile.output[axis] as isize;
            let offset = random.below(free.unsigned_abs() as u32 + 1) as isize;
            if free < 0 { -offset } else { offset }
        });
        let origin = self
            .centre(sample, number)
            .map_or(origin, |centre| [0, 1].map(|axis| centre[axis] as isize - (self.tile.output[axis] / 2) as isize));
        Draw { sample, origin }
    }

    /// The pixel of foreground that a tile is to have in its middle, if it is to have one and there is one.
    fn centre(&self, sample: usize, number: u32) -> Option<[usize; 2]> {
        let counter = number.wrapping_mul(WORDS_PER_CENTRE);
        let mut random = Random { seed: self.seed, stream: CENTRE_STREAM, counter };
        if random.uniform() >= self.foreground {
            return None;
        }
        let classes = self.classes.get(sample)?;
        let ClassPixels { class, counts } = classes.get(random.below(classes.len() as u32) as usize)?;
        let chosen = random.below(*counts.last()?);
        let row = counts.partition_point(|&count| count <= chosen);
        let before = row.checked_sub(1).map_or(0, |above| counts[above]);
        let Prepared { classes, width, .. } = &self.samples[sample];
        let mut columns = (0..*width).filter(|column| classes[row * width + column] == *class);
        Some([row, columns.nth((chosen - before) as usize)?])
    }

    /// How each of the tiles of batch `step` is changed on its way from a source tile to a frame of this height and width.
    pub fn changes(&self, step: u32, tiles: u32, augmentation: &Augmentation, frame: [usize; 2]) -> Vec<Change> {
        let change = |slot| {
            let range = self.ranges[self.draw(step, tiles, slot).sample];
            augmentation.draw(self.seed, step.wrapping_mul(tiles).wrapping_add(slot), frame, range)
        };
        (0..tiles).map(change).collect()
    }

    /// Fills batch `step`. How many tiles it has follows from the length of `batch.labels`.
    ///
    /// Content beyond the image is its mirror image, for labels as for pixels.
    ///
    /// # Errors
    /// [`Error::Usage`] when the slices do not hold the same whole number of tiles.
    pub fn fill(&self, step: u32, batch: Batch<'_>) -> Result<()> {
        let Batch { input, labels, weights } = batch;
        let channels = self.samples[0].channels;
        let [input_size, truth_size] = [self.tile.input, self.tile.truth].map(|[height, width]| height * width);
        let tiles = labels.len() / truth_size;
        let found = [input.len(), labels.len(), weights.len()];
        let expected = [tiles * input_size * channels, tiles * truth_size, tiles * truth_size];
        if tiles == 0 || found != expected {
            return Err(Error::Usage(format!(
                "a batch (tiles: {tiles}) has {expected:?} inputs, labels and weights, the slices have {found:?}"
            )));
        }
        let inputs = input.chunks_exact_mut(input_size * channels);
        let labels = labels.chunks_exact_mut(truth_size);
        let weights = weights.chunks_exact_mut(truth_size);
        for (slot, ((input, labels), weights)) in (0..).zip(inputs.zip(labels).zip(weights)) {
            self.cut(self.draw(step, tiles as u32, slot), Batch { input, labels, weights });
        }
        Ok(())
    }

    /// Writes one tile into a batch of one; what is too short for it is filled as far as it goes.
    ///
    /// # Panics
    /// When the tile is of a sampler of more samples.
    pub fn cut(&self, draw: Draw, tile: Batch<'_>) {
        let Draw { sample, origin } = draw;
        let sample = &self.samples[sample];
        let from = |given| {
            let margin = self.tile.margin(given);
            source_pixels(sample, [origin[0] - margin[0], origin[1] - margin[1]], given)
        };
        let channels = sample.channels;
        for (pixel, source) in tile.input.chunks_exact_mut(channels).zip(from(self.tile.input)) {
            pixel.copy_from_slice(&sample.pixels[source * channels..][..channels]);
        }
        for ((label, weight), source) in tile.labels.iter_mut().zip(tile.weights).zip(from(self.tile.truth)) {
            let class = sample.classes[source];
            (*label, *weight) = if class == IGNORE { (0, 0.0) } else { (class, sample.weights[source]) };
        }
    }
}

/// Where each class of a sample other than 0 is.
fn foreground(sample: &Prepared) -> Vec<ClassPixels> {
    let mut classes: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (row, line) in sample.classes.chunks(sample.width).enumerate() {
        for &class in line.iter().filter(|&&class| class != 0 && class != IGNORE) {
            classes.entry(class).or_insert_with(|| vec![0; sample.height])[row] += 1;
        }
    }
    let summed = |(class, mut counts): (u32, Vec<u32>)| {
        let mut sum = 0;
        for count in &mut counts {
            sum += *count;
            *count = sum;
        }
        ClassPixels { class, counts }
    };
    classes.into_iter().map(summed).collect()
}

/// For each pixel of a window in reading order, the pixel of the sample that it shows.
fn source_pixels(sample: &Prepared, origin: [isize; 2], [height, width]: [usize; 2]) -> impl Iterator<Item = usize> {
    let mirrored = |start: isize, count: usize, size: usize| -> Vec<usize> {
        (start..start + count as isize).map(|position| reflect(position, size)).collect()
    };
    let rows = mirrored(origin[0], height, sample.height);
    let columns = mirrored(origin[1], width, sample.width);
    let stride = sample.width;
    (0..height * width).map(move |pixel| rows[pixel / width] * stride + columns[pixel % width])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Pixels that say where they are: channel 0 the row, channel 1 the column; the class is row + column.
    fn sample(height: usize, width: usize) -> Prepared {
        let places = || (0..height * width).map(move |pixel| (pixel / width, pixel % width));
        Prepared {
            name: format!("{width}x{height}"),
            height,
            width,
            channels: 2,
            pixels: places().flat_map(|(y, x)| [y as f32, x as f32]).collect(),
            classes: places().map(|(y, x)| (y + x) as u32).collect(),
            weights: places().map(|(y, x)| (100 * y + x) as f32).collect(),
        }
    }

    fn tile(input: [usize; 2], output: [usize; 2]) -> Tile {
        Tile { input, output, truth: output }
    }

    fn filled(sampler: &Sampler, step: u32, tiles: usize) -> (Vec<f32>, Vec<u32>, Vec<f32>) {
        let [input_size, truth_size] = [sampler.tile.input, sampler.tile.truth].map(|[h, w]| h * w);
        let mut input = vec![f32::NAN; tiles * input_size * 2];
        let (mut labels, mut weights) = (vec![99; tiles * truth_size], vec![f32::NAN; tiles * truth_size]);
        sampler.fill(step, Batch { input: &mut input, labels: &mut labels, weights: &mut weights }).unwrap();
        (input, labels, weights)
    }

    #[test]
    fn reflection_repeats_without_the_edge() {
        let line: Vec<usize> = (-7..8).map(|position| reflect(position, 4)).collect();
        assert_eq!(line, [1, 0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]);
        assert_eq!([-3, 0, 5].map(|position| reflect(position, 1)), [0; 3]);
    }

    #[test]
    fn the_output_lies_in_the_middle_of_the_input() {
        let samples = vec![sample(40, 30), sample(9, 50), sample(3, 2)];
        for (input, output) in [([20, 20], [8, 8]), ([16, 24], [10, 6])] {
            let sampler = Sampler::new(samples.clone(), tile(input, output), Sampling::Images, 5).unwrap();
            let [above, left] = sampler.tile.margin(input).map(|margin| margin as usize);
            for step in 0..40 {
                let (pixels, labels, weights) = filled(&sampler, step, 2);
                for (slot, (label, weight)) in labels.iter().zip(&weights).enumerate() {
                    let (tile_index, at) = (slot / (output[0] * output[1]), slot % (output[0] * output[1]));
                    let (y, x) = (at / output[1] + above, at % output[1] + left);
                    let pixel = 2 * (tile_index * input[0] * input[1] + y * input[1] + x);
                    let [row, column] = [pixels[pixel], pixels[pixel + 1]];
                    assert_eq!((*label as f32, *weight), (row + column, 100.0 * row + column));
                }
            }
        }
    }

    #[test]
    fn the_truth_of_a_source_tile_covers_all_of_it() {
        let tile = Tile { input: [20, 20], output: [8, 8], truth: [20, 20] };
        let sampler = Sampler::new(vec![sample(40, 30)], tile, Sampling::Images, 5).unwrap();
        let (input, labels, weights) = filled(&sampler, 7, 2);
        for ((place, label), weight) in input.chunks(2).zip(labels).zip(weights) {
            assert_eq!((label as f32, weight), (place[0] + place[1], 100.0 * place[0] + place[1]));
        }
    }

    #[test]
    fn neighbours_in_a_tile_are_neighbours_in_the_image() {
        let sampler = Sampler::new(vec![sample(12, 17)], tile([10, 10], [4, 4]), Sampling::Images, 1).unwrap();
        for step in 0..50 {
            let (pixels, ..) = filled(&sampler, step, 1);
            for (left, right) in (0..99).filter(|i| i % 10 != 9).map(|i| (2 * i, 2 * i + 2)) {
                let moved = (pixels[left] - pixels[right]).abs() + (pixels[left + 1] - pixels[right + 1]).abs();
                assert_eq!(moved.to_bits(), 1.0_f32.to_bits(), "step {step}");
            }
        }
    }

    #[test]
    fn every_image_and_every_origin_is_drawn() {
        let samples = vec![sample(6, 6), sample(4, 7), sample(2, 5)];
        let sampler = Sampler::new(samples, tile([6, 6], [4, 4]), Sampling::Images, 3).unwrap();
        let draws: HashSet<(usize, [isize; 2])> =
            (0..2000).map(|step| sampler.draw(step, 1, 0)).map(|draw| (draw.sample, draw.origin)).collect();
        // 3 x 3 origins inside the first, 1 x 4 in the second, 3 x 2 in the third, which is smaller than the output.
        assert_eq!(draws.len(), 9 + 4 + 6);
        assert!(draws.iter().all(|&(sample, [row, _])| (row < 0) <= (sample == 2)));
    }

    #[test]
    fn large_images_are_drawn_in_proportion() {
        let samples = vec![sample(10, 10), sample(30, 10)];
        let count = |sampling| {
            let sampler = Sampler::new(samples.clone(), tile([6, 6], [4, 4]), sampling, 4).unwrap();
            (0..4000).filter(|&step| sampler.draw(step, 1, 0).sample == 0).count()
        };
        assert!((1900..2100).contains(&count(Sampling::Images)), "{}", count(Sampling::Images));
        assert!((920..1080).contains(&count(Sampling::Pixels)), "{}", count(Sampling::Pixels));
    }

    /// Background with a large region of class 1, a small one of class 3 and some that is ignored; and nothing but background.
    fn sparse() -> Vec<Prepared> {
        let mut classes = vec![0; 30 * 20];
        classes[..120].fill(1);
        classes[300..303].fill(3);
        classes[590..].fill(IGNORE);
        [classes, vec![0; 30 * 20]].map(|classes| Prepared { classes, ..sample(30, 20) }).to_vec()
    }

    #[test]
    fn a_share_of_the_tiles_is_centred_on_foreground() {
        let samples = sparse();
        for output in [[4, 4], [5, 7], [40, 40]] {
            let plain = Sampler::new(samples.clone(), tile(output, output), Sampling::Images, 9).unwrap();
            for (share, expected) in [(0.0, 0), (0.25, 1000), (0.5, 2000), (1.0, 4000)] {
                let sampler = plain.clone().centred(share);
                let (mut centred, mut of_each) = (0, [0; 4]);
                for step in 0..4000 {
                    let (draw, before) = (sampler.draw(step, 2, 1), plain.draw(step, 2, 1));
                    assert_eq!(draw.sample, before.sample);
                    if sampler.centre(draw.sample, 2 * step + 1).is_none() {
                        assert_eq!(draw, before, "a tile that is not centred is where it was");
                        continue;
                    }
                    assert_eq!(draw.sample, 0, "the other sample has no foreground");
                    let [row, column] = [0, 1].map(|axis| (draw.origin[axis] + output[axis] as isize / 2) as usize);
                    centred += 1;
                    of_each[samples[0].classes[row * 20 + column] as usize] += 1;
                }
                // Half of the tiles are of the sample with foreground.
                let tolerance = 0.05 * f64::from(expected);
                assert!((f64::from(centred) - f64::from(expected) / 2.0).abs() <= tolerance, "{share}: {centred}");
                assert!((f64::from(of_each[1] - of_each[3])).abs() <= 2.0 * tolerance, "{share}: {of_each:?}");
                assert_eq!(of_each[1] + of_each[3], centred, "{share}: {of_each:?}");
            }
        }
    }

    #[test]
    fn every_pixel_of_a_class_becomes_the_middle() {
        let samples = sparse();
        let sampler = Sampler::new(samples, tile([6, 6], [4, 4]), Sampling::Images, 6).unwrap().centred(1.0);
        let centres: HashSet<[usize; 2]> = (0..8000).filter_map(|number| sampler.centre(0, number)).collect();
        let expected = (0..120).chain(300..303).map(|pixel: usize| [pixel / 20, pixel % 20]);
        assert_eq!(centres, expected.collect());
        let (input, labels, _) = filled(&sampler, 0, 8);
        assert_eq!((input.len(), labels.len()), (8 * 72, 8 * 16), "mirrored where a tile reaches beyond the image");
    }

    #[test]
    fn a_batch_depends_on_seed_and_step_alone() {
        let sampler = |seed| Sampler::new(vec![sample(30, 30)], tile([8, 8], [4, 4]), Sampling::Images, seed).unwrap();
        let first = filled(&sampler(1), 7, 3);
        filled(&sampler(1), 8, 3);
        assert_eq!(filled(&sampler(1), 7, 3), first);
        assert_ne!(filled(&sampler(2), 7, 3), first);
        assert_ne!(filled(&sampler(1), 8, 3), first);
    }

    #[test]
    fn ignored_pixels_have_no_weight_and_a_valid_label() {
        let mut ignored = sample(8, 8);
        ignored.classes.fill(IGNORE);
        let sampler = Sampler::new(vec![ignored], tile([6, 6], [4, 4]), Sampling::Images, 0).unwrap();
        let (_, labels, weights) = filled(&sampler, 0, 1);
        assert!(labels.iter().all(|&label| label == 0) && weights.iter().all(|&weight| weight == 0.0));
    }

    #[test]
    fn impossible_requests_are_refused() {
        let new = |samples, tile| Sampler::new(samples, tile, Sampling::Images, 0).map(|_| ()).unwrap_err().to_string();
        let fits = tile([6, 6], [4, 4]);
        assert!(new(vec![], fits).contains("no samples"));
        assert!(new(vec![sample(9, 9)], tile([6, 6], [3, 4])).contains("6 pixels cannot have an output of 3"));
        let grey = Prepared { name: "grey".into(), channels: 1, pixels: vec![0.0; 81], ..sample(9, 9) };
        assert!(new(vec![sample(9, 9), grey], fits).contains("grey: channels: 1, but 2 in 9x9"));
        let cut = Prepared { weights: vec![], ..sample(9, 9) };
        assert!(new(vec![cut], fits).contains("do not agree with [162, 81, 0]"));
        let sampler = Sampler::new(vec![sample(9, 9)], fits, Sampling::Images, 0).unwrap();
        let batch = Batch { input: &mut [0.0; 72], labels: &mut [0; 16], weights: &mut [0.0; 15] };
        let message = sampler.fill(0, batch).unwrap_err().to_string();
        assert!(message.contains("[72, 16, 16] inputs, labels and weights, the slices have [72, 16, 15]"), "{message}");
    }
}
