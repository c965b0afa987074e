//! The comparator of every numerical test and of `selftest`: results against a reference, within bounds.

use std::fmt;

/// How close a result came to its bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// The largest ratio of error to bound, at most 1; where the bound is 0, so is the error, and the ratio counts as 0.
    pub worst: f64,
    /// The element with that ratio.
    pub index: usize,
    /// Its error.
    pub error: f64,
    /// Its bound.
    pub bound: f64,
}

/// Why a result does not pass.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Mismatch {
    /// There is nothing to compare.
    #[error("nothing to compare: the slices are empty")]
    Empty,
    /// The slices have different lengths.
    #[error("lengths differ: {actual} results, {reference} references, {bounds} bounds")]
    Length {
        /// The number of results.
        actual: usize,
        /// The number of references.
        reference: usize,
        /// The number of bounds.
        bounds: usize,
    },
    /// Elements lie outside their bounds, or are not comparable because a NaN is involved.
    #[error("{count} of {length} elements are out of bounds, worst {worst}")]
    OutOfBounds {
        /// The number of such elements.
        count: usize,
        /// The number of all elements.
        length: usize,
        /// The worst of them; NaN is worse than any number.
        worst: Element,
    },
}

/// One element of a comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Element {
    /// Its position.
    pub index: usize,
    /// The result.
    pub actual: f32,
    /// What it should be.
    pub reference: f64,
    /// How far it may lie from that.
    pub bound: f64,
}

impl Element {
    /// How far the result lies from what it should be.
    fn error(&self) -> f64 {
        let actual = f64::from(self.actual);
        // Of equal infinities the difference is not a number.
        let equal = actual.is_infinite() && actual.to_bits() == self.reference.to_bits();
        if equal { 0.0 } else { (actual - self.reference).abs() }
    }

    /// Error over bound; 0 where both are 0, and infinite where a NaN is involved.
    fn ratio(&self) -> f64 {
        let error = self.error();
        let ratio = if error == 0.0 && self.bound >= 0.0 { 0.0 } else { error / self.bound };
        if ratio.is_nan() { f64::INFINITY } else { ratio }
    }

    /// Whether the error is within the bound; false where a NaN is involved.
    fn passes(&self) -> bool {
        self.error() <= self.bound
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, actual, reference, bound } = self;
        write!(f, "[{index}]: {actual:e} where {reference:e} ± {bound:e} was expected")
    }
}

/// Passes when every element of `actual` is within its bound of `reference`. The test is `error <= bound`, so a NaN on any side
/// fails; so do empty slices and slices of different lengths.
///
/// # Errors
/// A [`Mismatch`] that names the worst element.
///
/// ```
/// use tilewise::compare::compare;
///
/// assert!(compare(&[1.0, 2.0], &[1.0, 2.0 + 1e-9], &[0.0, 1e-8]).is_ok());
/// assert!(compare(&[1.0, f32::NAN], &[1.0, 2.0], &[1.0, 1.0]).is_err());
/// ```
pub fn compare(actual: &[f32], reference: &[f64], bounds: &[f64]) -> Result<Comparison, Mismatch> {
    if actual.len() != reference.len() || actual.len() != bounds.len() {
        return Err(Mismatch::Length { actual: actual.len(), reference: reference.len(), bounds: bounds.len() });
    }
    let elements = actual.iter().zip(reference).zip(bounds).enumerate();
    let mut elements =
        elements.map(|(index, ((&actual, &reference), &bound))| Element { index, actual, reference, bound });
    let Some(first) = elements.next() else { return Err(Mismatch::Empty) };
    let mut failed = usize::from(!first.passes());
    let (mut worst, mut worst_key) = (first, (!first.passes(), first.ratio()));
    for element in elements {
        let key = (!element.passes(), element.ratio());
        failed += usize::from(key.0);
        if key > worst_key {
            (worst, worst_key) = (element, key);
        }
    }
    if failed > 0 {
        return Err(Mismatch::OutOfBounds { count: failed, length: actual.len(), worst });
    }
    Ok(Comparison { worst: worst_key.1, index: worst.index, error: worst.error(), bound: worst.bound })
}
