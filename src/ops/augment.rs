//! `augment`: tiles turned, scaled, shifted and deformed, with other brightness and more noise; labels and weights with them.
//!
//! All that moves pixels becomes one map from the pixels of the result to positions in a larger source tile
//! ([`AugmentPositions`]), so that content is resampled once, and images ([`AugmentImage`]), labels ([`AugmentLabels`]) and weights
//! ([`AugmentWeights`]) stay on each other. The map is computed in integers: which label a pixel gets depends on no rounding,
//! fused multiplication or device.

mod image;
mod positions;
mod truth;

pub use image::{AugmentImage, Interpolation};
pub use positions::AugmentPositions;
pub use truth::{AugmentLabels, AugmentWeights};

use crate::array::Real;
use crate::error::Result;
use crate::graph::{Graph, NodeId};
use crate::op::{Case, Param};
use crate::shape::TensorType;

impl Graph {
    /// Where each pixel of a window in the middle of a frame comes from, `[n, h, w, 2]`, in pixels of a source tile; `transforms` is
    /// `[n, 6]`, `displacements` `[n, grid, grid, 2]`.
    ///
    /// # Errors
    /// When the shapes do not fit each other or the settings.
    pub fn augment_positions(
        &mut self,
        name: &str,
        transforms: NodeId,
        displacements: NodeId,
        settings: AugmentPositions,
    ) -> Result<NodeId> {
        self.apply(name, settings, &[transforms, displacements])
    }

    /// The source tiles `[n, s, s', c]` at positions `[n, h, w, 2]`, with changed `intensities` `[n, 6]` and noise drawn from
    /// `generator`, the seed and the step, `u32 [2]`.
    ///
    /// # Errors
    /// When the shapes do not fit each other.
    pub fn augment_image(
        &mut self,
        name: &str,
        source: NodeId,
        positions: NodeId,
        intensities: NodeId,
        generator: NodeId,
        interpolation: Interpolation,
    ) -> Result<NodeId> {
        self.apply(name, AugmentImage { interpolation }, &[source, positions, intensities, generator])
    }

    /// The labels `u32 [n, s, s']` nearest to positions `[n, h, w, 2]`.
    ///
    /// # Errors
    /// When the shapes do not fit each other.
    pub fn augment_labels(&mut self, name: &str, source: NodeId, positions: NodeId) -> Result<NodeId> {
        self.apply(name, AugmentLabels, &[source, positions])
    }

    /// The weights `[n, s, s']` at positions `[n, h, w, 2]`; 0 where the nearest one is 0, so that ignored pixels stay ignored.
    ///
    /// # Errors
    /// When the shapes do not fit each other.
    pub fn augment_weights(&mut self, name: &str, source: NodeId, positions: NodeId) -> Result<NodeId> {
        self.apply(name, AugmentWeights, &[source, positions])
    }
}

/// The extents of source tiles and of positions in them that fit each other: source height and width, height and width.
fn sampled(source: &TensorType, positions: &TensorType) -> Option<([usize; 2], [usize; 2])> {
    match (source.shape.extents(), positions.shape.extents()) {
        ([n, source_height, source_width, ..], [batch, height, width, 2])
            if n == batch && *positions == TensorType::f32([*n, *height, *width, 2]).ok()? =>
        {
            Some(([*source_height, *source_width], [*height, *width]))
        }
        _ => None,
    }
}

/// [`sampled`] for inputs that a shape rule has admitted.
fn admitted(source: &TensorType, positions: &TensorType) -> ([usize; 2], [usize; 2]) {
    sampled(source, positions).unwrap_or_else(|| unreachable!("the shape rule has passed"))
}

/// What the kernels that sample need to know of the extents.
fn extents(source: [usize; 2], window: [usize; 2]) -> [(&'static str, Param); 3] {
    [
        ("pixels", (window[0] * window[1]).into()),
        ("source_height", source[0].into()),
        ("source_width", source[1].into()),
    ]
}

/// A position along an axis of `extent` pixels: the pixel before it, and how far it is past that. Positions beyond the ends count as
/// the ends.
fn split<T: Real>(position: T, extent: usize) -> (usize, T) {
    let position = position.max(T::zero()).min(T::from_f64((extent - 1) as f64));
    let corner = position.floor();
    (corner.as_f64() as usize, position - corner)
}

/// The pixel nearest to a position, the higher of two equally near ones.
fn nearest<T: Real>(position: T, extent: usize) -> usize {
    let (pixel, past) = split(position, extent);
    pixel + usize::from(past.as_f64() >= 0.5)
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    Ok([positions::cases()?, image::cases()?, truth::cases()?].concat())
}
