//! How cells become a picture: dye, blur, stray light, uneven illumination, debris, shot noise; in light that the dye gives, or in
//! light that it takes.

use super::outline::{Colony, Place};
use crate::random::Random;
use std::ops::Range;

/// The picture of a colony by a dye that glows, `[size, size]`, whole numbers from 0 to 255.
pub(super) fn photograph(random: &mut Random, colony: &Colony, territory: &[Place]) -> Vec<f32> {
    let size = colony.size;
    let mut light = in_focus_and_out(random, colony, territory, |_| true);

    // Light scattered in the objective and the medium surrounds every cell.
    let scattered = [(0.5 * colony.usual_radius, 0.10), (3.0 * colony.usual_radius, 0.22)];
    let glow = scattered.map(|(deviation, share)| (blurred(&light, size, deviation), share));
    for (halo, share) in glow {
        light.iter_mut().zip(halo).for_each(|(light, halo)| *light += share * halo);
    }
    add_debris(random, &mut light, colony);

    let haze = random.between(0.08, 0.22);
    let clouds = smooth_noise(random, size, size as f32 / 7.0);
    light.iter_mut().zip(clouds).for_each(|(light, cloud)| *light += haze * (1.0 + 0.3 * cloud).max(0.2));

    let illumination = Illumination::draw(random, size, 0.55..1.05);
    let photons = random.between(110.0, 300.0);
    let exposure = random.between(60.0, 110.0);
    let dark_level = random.between(4.0, 12.0);
    let read_noise = random.between(0.6, 1.6);
    let record = |(pixel, light): (usize, f32)| {
        let expected = photons * light * illumination.at(pixel / size, pixel % size);
        // The normal approximation of a Poisson count.
        let counted = expected + expected.sqrt() * random.normal();
        let level = dark_level + exposure * counted / photons + read_noise * random.normal();
        level.round().clamp(0.0, 255.0)
    };
    light.into_iter().enumerate().map(record).collect()
}

/// What a unit of a dye takes of red, green and blue light, as optical density: A. C. Ruifrok and D. A. Johnston, Quantification of
/// histochemical staining by color deconvolution, 2001. Blue haematoxylin stains every nucleus, brown DAB those with a marker.
const HAEMATOXYLIN: [f32; 3] = [0.65, 0.70, 0.29];
const DAB: [f32; 3] = [0.27, 0.57, 0.78];

/// The picture of a colony in white light through two dyes, of which all cells wear one and those that are `marked` both,
/// `[size, size, 3]`, whole numbers from 0 to 255.
pub(super) fn photograph_stained(
    random: &mut Random,
    colony: &Colony,
    territory: &[Place],
    marked: &[bool],
) -> Vec<f32> {
    let size = colony.size;
    let nuclei = in_focus_and_out(random, colony, territory, |_| true);
    let mut marker = in_focus_and_out(random, colony, territory, |cell| marked[cell]);
    // Brown grains lie on marked cells, on others and beside them.
    add_debris(random, &mut marker, colony);
    let strengths = [random.between(0.45, 0.75), random.between(0.35, 0.8)];
    // Tissue between nuclei holds a little of both.
    let tissue = [random.between(0.05, 0.3), random.between(0.0, 0.2)];
    let clouds = [(); 2].map(|()| smooth_noise(random, size, size as f32 / 9.0));
    let illumination = Illumination::draw(random, size, 0.03..0.15);
    let lamp = [(); 3].map(|()| random.between(215.0, 250.0));
    let photons = random.between(500.0, 1500.0);
    let mut picture = Vec::with_capacity(3 * size * size);
    for pixel in 0..size * size {
        let amount =
            |dye: usize, worn: f32| strengths[dye] * (worn + tissue[dye] * (1.0 + 0.4 * clouds[dye][pixel]).max(0.0));
        let [blue, brown] = [amount(0, nuclei[pixel]), amount(1, marker[pixel])];
        let light = illumination.at(pixel / size, pixel % size);
        for colour in 0..3 {
            let density = blue * HAEMATOXYLIN[colour] + brown * DAB[colour];
            let expected = photons * light * 10.0_f32.powf(-density);
            let counted = expected + expected.sqrt() * random.normal();
            picture.push((lamp[colour] * counted / photons).round().clamp(0.0, 255.0));
        }
    }
    picture
}

/// How much dye there is of the cells that wear it, each in or out of focus.
fn in_focus_and_out(
    random: &mut Random,
    colony: &Colony,
    territory: &[Place],
    wears: impl Fn(usize) -> bool,
) -> Vec<f32> {
    let size = colony.size;
    let fine = smooth_noise(random, size, 1.6);
    let coarse = smooth_noise(random, size, 0.22 * colony.usual_radius);
    let mut planes = [vec![0.0; size * size], vec![0.0; size * size]];
    for (pixel, place) in territory.iter().enumerate() {
        let owner = (place.owner as usize).checked_sub(1).filter(|&index| wears(index));
        let Some(cell) = owner.and_then(|index| colony.cells.get(index)) else { continue };
        let dome = 0.72 + 0.28 * (1.0 - place.level * place.level);
        let chromatin = (1.0 + 0.08 * fine[pixel] + 0.13 * coarse[pixel]).max(0.2);
        // Two pressed nuclei leave a dim line between them.
        let crease = 1.0 - 0.5 * (-((place.next_level - place.level) / 0.09).powi(2)).exp();
        planes[usize::from(cell.out_of_focus)][pixel] = cell.brightness * dome * chromatin * crease;
    }
    let sharp = random.between(0.7, 1.0);
    let [focused, defocused] = &planes;
    let focused = blurred(focused, size, sharp);
    let defocused = blurred(defocused, size, sharp + random.between(0.3, 0.8));
    focused.iter().zip(defocused).map(|(a, b)| a + b).collect()
}

/// What is bright and not a cell: small sharp specks, and shapeless things far out of focus.
fn add_debris(random: &mut Random, light: &mut [f32], colony: &Colony) {
    let size = colony.size;
    let area = (size * size) as f32 / 65_536.0;
    let count = |random: &mut Random, most: f32| (most * area * random.uniform() + random.uniform()) as usize;
    for _ in 0..count(random, 9.0) {
        let height = random.between(0.6, 2.2);
        let deviation = random.between(0.7, 1.5);
        add_spot(random, light, size, deviation, height);
    }
    for _ in 0..count(random, 5.0) {
        let height = random.between(0.12, 0.34);
        let deviation = colony.usual_radius * random.between(0.6, 1.3);
        add_spot(random, light, size, deviation, height);
    }
}

/// Adds a round Gaussian spot at a random place.
fn add_spot(random: &mut Random, light: &mut [f32], size: usize, deviation: f32, height: f32) {
    let [cy, cx] = [(); 2].map(|()| random.between(0.0, size as f32));
    let range = |centre: f32| {
        let (low, high) = (centre - 4.0 * deviation, centre + 4.0 * deviation + 1.0);
        low.clamp(0.0, size as f32) as usize..high.clamp(0.0, size as f32) as usize
    };
    for y in range(cy) {
        for x in range(cx) {
            let squared = (y as f32 - cy).powi(2) + (x as f32 - cx).powi(2);
            light[y * size + x] += height * (-0.5 * squared / (deviation * deviation)).exp();
        }
    }
}

/// Light that is brightest somewhere off the middle and falls towards the corners.
#[derive(Debug)]
struct Illumination {
    centre: [f32; 2],
    half: f32,
    fall: f32,
}

impl Illumination {
    fn draw(random: &mut Random, size: usize, fall: Range<f32>) -> Self {
        let half = 0.5 * size as f32;
        let centre = [(); 2].map(|()| half * (1.0 + random.between(-0.7, 0.7)));
        Self { centre, half, fall: random.between(fall.start, fall.end) }
    }

    fn at(&self, y: usize, x: usize) -> f32 {
        let (dy, dx) = ((y as f32 - self.centre[0]) / self.half, (x as f32 - self.centre[1]) / self.half);
        1.0 / (1.0 + self.fall * (dy * dy + dx * dx))
    }
}

/// Noise of zero mean and unit variance with features of about this size.
fn smooth_noise(random: &mut Random, size: usize, deviation: f32) -> Vec<f32> {
    let white: Vec<f32> = (0..size * size).map(|_| random.normal()).collect();
    let mut noise = blurred(&white, size, deviation);
    let count = noise.len().max(1) as f32;
    let mean = noise.iter().sum::<f32>() / count;
    let variance = noise.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / count;
    let scale = if variance > 0.0 { variance.sqrt().recip() } else { 0.0 };
    for value in &mut noise {
        *value = (*value - mean) * scale;
    }
    noise
}

/// A square picture under a Gaussian of this standard deviation in pixels, the edge pixels repeated outwards.
fn blurred(picture: &[f32], size: usize, deviation: f32) -> Vec<f32> {
    let radius = (3.0 * deviation).ceil() as usize;
    let mut taps: Vec<f32> =
        (0..=2 * radius).map(|tap| (-0.5 * ((tap as f32 - radius as f32) / deviation).powi(2)).exp()).collect();
    let sum: f32 = taps.iter().sum();
    for tap in &mut taps {
        *tap /= sum;
    }
    // Each pass blurs the rows and turns the picture, so that two passes blur both ways and turn it back.
    let pass = |picture: &[f32]| -> Vec<f32> {
        let mut turned = vec![0.0; size * size];
        let mut padded = vec![0.0; size + 2 * radius];
        for (y, row) in picture.chunks_exact(size).enumerate() {
            padded[..radius].fill(row[0]);
            padded[radius..radius + size].copy_from_slice(row);
            padded[radius + size..].fill(row[size - 1]);
            for (x, window) in padded.windows(taps.len()).enumerate() {
                turned[x * size + y] = window.iter().zip(&taps).map(|(value, tap)| value * tap).sum();
            }
        }
        turned
    };
    pass(&pass(picture))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blurring_spreads_light_without_losing_or_moving_it() {
        let size = 31;
        let mut picture = vec![0.0; size * size];
        picture[15 * size + 10] = 1.0;
        let spread = blurred(&picture, size, 2.0);
        let sum: f32 = spread.iter().sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        let moment = |axis: fn(usize, usize) -> f32| -> f32 {
            spread.iter().enumerate().map(|(pixel, value)| value * axis(pixel / size, pixel % size)).sum()
        };
        let (row, column) = (moment(|y, _| y as f32), moment(|_, x| x as f32));
        assert!((row - 15.0).abs() < 1e-4 && (column - 10.0).abs() < 1e-4, "{row} {column}");
        let variance = moment(|y, _| (y as f32 - 15.0).powi(2));
        assert!((variance - 4.0).abs() < 0.15, "{variance}");
    }

    #[test]
    fn noise_has_unit_variance_whatever_its_grain() {
        let mut random = Random::new(1, 1);
        for deviation in [0.8, 3.0, 12.0] {
            let noise = smooth_noise(&mut random, 40, deviation);
            let mean = noise.iter().sum::<f32>() / 1600.0;
            let variance = noise.iter().map(|value| value * value).sum::<f32>() / 1600.0;
            assert!(mean.abs() < 1e-3 && (variance - 1.0).abs() < 1e-3, "{deviation}: {mean} {variance}");
        }
    }
}
