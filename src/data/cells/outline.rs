//! Where cells lie and what shape they have.

use std::f32::consts::TAU;

use crate::random::Random;

/// The lowest and the highest number of bulges around an outline.
const HARMONICS: std::ops::RangeInclusive<u32> = 2..=6;

/// An ellipse with a gently uneven outline.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    /// Row and column of the centre; pixel centres are whole numbers.
    centre: [f32; 2],
    radius: f32,
    /// Square root of the ratio of the axes.
    stretch: f32,
    /// Cosine and sine of the direction of the long axis.
    direction: [f32; 2],
    /// Amplitude and phase of each bulge of the outline, relative to the radius.
    bulges: Vec<(f32, f32)>,
    /// Light from a pixel in the middle of the cell, 1 being usual.
    pub(super) brightness: f32,
    /// Whether the cell lies above or below the focal plane.
    pub(super) out_of_focus: bool,
}

impl Cell {
    fn draw(random: &mut Random, usual_radius: f32) -> Self {
        let (sin, cos) = random.between(0.0, TAU).sin_cos();
        let bulges = HARMONICS
            .map(|count| (0.09 * random.normal() / count as f32, random.between(0.0, TAU)))
            .map(|(amplitude, phase)| (amplitude.clamp(-0.1, 0.1), phase))
            .collect();
        Self {
            centre: [0.0; 2],
            radius: usual_radius * (0.16 * random.normal()).clamp(-0.4, 0.4).exp(),
            stretch: (1.0 + (0.35 * random.normal()).abs().min(0.8)).sqrt(),
            direction: [cos, sin],
            bulges,
            brightness: (0.28 * random.normal()).clamp(-0.5, 0.85).exp(),
            out_of_focus: random.uniform() < 0.2,
        }
    }

    /// 0 at the centre, 1 on the outline, and growing in proportion to the distance in every direction.
    fn level(&self, y: f32, x: f32) -> f32 {
        let (dy, dx) = (y - self.centre[0], x - self.centre[1]);
        let [cos, sin] = self.direction;
        let (along, across) = ((dx * cos + dy * sin) / self.stretch, (dy * cos - dx * sin) * self.stretch);
        let angle = across.atan2(along);
        let uneven =
            |(count, &(amplitude, phase)): (u32, &(f32, f32))| amplitude * (count as f32 * angle + phase).cos();
        let outline = self.radius * (1.0 + HARMONICS.zip(&self.bulges).map(uneven).sum::<f32>());
        along.hypot(across) / outline
    }

    /// How far the outline is from the centre in a direction.
    fn reach(&self, dy: f32, dx: f32) -> f32 {
        1.0 / self.level(self.centre[0] + dy, self.centre[1] + dx)
    }

    /// The share of the way between two centres that the two outlines leave free, negative where they overlap.
    fn clearance(&self, other: &Self) -> f32 {
        let (dy, dx) = (other.centre[0] - self.centre[0], other.centre[1] - self.centre[1]);
        let distance = dy.hypot(dx).max(1e-3);
        let (dy, dx) = (dy / distance, dx / distance);
        1.0 - (self.reach(dy, dx) + other.reach(-dy, -dx)) / distance
    }

    /// No point of the outline is farther from the centre than this.
    fn farthest(&self) -> f32 {
        self.radius * self.stretch * (1.0 + self.bulges.iter().map(|(amplitude, _)| amplitude.abs()).sum::<f32>())
    }
}

/// What lies at a pixel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The number of the cell from 1, or 0 for none.
    pub(super) owner: u32,
    /// How far out in its owner the pixel is: 0 in the middle, 1 on the outline.
    pub(super) level: f32,
    /// The same for the next cell, above 1 where there is none.
    pub(super) next_level: f32,
}

impl Place {
    const EMPTY: Self = Self { owner: 0, level: 1.0, next_level: f32::INFINITY };
}

/// The cells of a picture.
#[derive(Debug)]
pub(super) struct Colony {
    pub(super) size: usize,
    pub(super) cells: Vec<Cell>,
    /// What most radii are close to.
    pub(super) usual_radius: f32,
}

/// Two cells may overlap by this share of the distance of their centres before one yields to the other.
const DEEPEST_OVERLAP: f32 = 0.2;

/// Fewer pixels than this, at the edge of the picture, are not a cell.
const SMALLEST_AREA: usize = 40;

impl Colony {
    /// Cells that stand alone or push against one that is there already, until enough of the picture is covered.
    pub(super) fn grow(random: &mut Random, size: usize) -> Self {
        let usual_radius = random.between(12.0, 17.0);
        let side = size as f32;
        let margin = usual_radius;
        let goal = random.between(0.2, 0.4) * (side + 2.0 * margin).powi(2);
        let sociable = random.between(0.45, 0.85);
        let mut cells: Vec<Cell> = Vec::new();
        let mut covered = 0.0;
        // Most tries succeed; the bound only ends a picture that is too full for its goal.
        for _ in 0..40 + (goal / 20.0) as usize {
            if covered >= goal {
                break;
            }
            let mut cell = Cell::draw(random, usual_radius);
            let neighbour = (random.uniform() < sociable).then(|| random.below(cells.len() as u32) as usize);
            match neighbour.and_then(|index| cells.get(index)) {
                Some(neighbour) => {
                    let (dy, dx) = random.between(0.0, TAU).sin_cos();
                    let distance = (neighbour.reach(dy, dx) + cell.reach(-dy, -dx)) * random.between(0.84, 0.98);
                    cell.centre = [neighbour.centre[0] + dy * distance, neighbour.centre[1] + dx * distance];
                }
                None => cell.centre = [(); 2].map(|()| random.between(-margin, side + margin)),
            }
            let within = cell.centre.iter().all(|&at| (-margin..side + margin).contains(&at));
            if within && cells.iter().all(|other| cell.clearance(other) > -DEEPEST_OVERLAP) {
                covered += TAU / 2.0 * cell.radius * cell.radius;
                cells.push(cell);
            }
        }
        let mut colony = Self { size, cells, usual_radius };
        // A cell that hardly shows would be a label that nobody could draw.
        let mut areas = vec![0; colony.cells.len() + 1];
        for place in colony.territory() {
            areas[place.owner as usize] += 1;
        }
        let mut visible = areas.iter().skip(1).map(|&area| area >= SMALLEST_AREA);
        colony.cells.retain(|_| visible.next().unwrap_or(false));
        colony
    }

    /// What lies at each pixel. Where outlines overlap, the pixel goes to the cell it lies deeper in, so that cells flatten
    /// where they press against each other.
    pub(super) fn territory(&self) -> Vec<Place> {
        let mut places = vec![Place::EMPTY; self.size * self.size];
        for (owner, cell) in (1..).zip(&self.cells) {
            // Beyond the outline too, for the level of the next cell.
            let radius = 1.3 * cell.farthest();
            let range = |centre: f32| {
                let last = self.size as f32;
                (centre - radius).clamp(0.0, last) as usize..(centre + radius + 1.0).clamp(0.0, last) as usize
            };
            for y in range(cell.centre[0]) {
                for x in range(cell.centre[1]) {
                    let level = cell.level(y as f32, x as f32);
                    let place = &mut places[y * self.size + x];
                    if level < place.level {
                        let next_level = if place.owner == 0 { place.next_level } else { place.level };
                        *place = Place { owner, level, next_level };
                    } else {
                        place.next_level = place.next_level.min(level);
                    }
                }
            }
        }
        places
    }
}
