//! Shapes, channels last, and the types of tensors. The only place that multiplies extents.

use std::fmt;

/// The most elements of a tensor: an index fits 32 bits, and so does that of every invocation of a grid that covers them, which may have
/// one workgroup too many in each of a thousand rows ([`workgroup_grid`](crate::op::workgroup_grid)).
pub(crate) const MOST_ELEMENTS: usize = (u32::MAX - (1 << 20)) as usize;

/// The extents of a tensor, slowest first and channels last: `[N, H, W, C]` for images.
///
/// The product of the extents is checked when a shape is made, so [`Shape::elements`] cannot overflow.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// A shape of these extents.
    ///
    /// # Errors
    /// When an extent is zero, or the number of elements does not fit the 32-bit indices that kernels use, with room for those of
    /// invocations past the last element.
    pub fn new(extents: impl Into<Vec<usize>>) -> Result<Self, String> {
        let extents = extents.into();
        let product = extents.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
        match product {
            Some(0) => Err(format!("shape {extents:?} has an extent of zero")),
            Some(elements) if elements <= MOST_ELEMENTS => Ok(Self(extents)),
            _ => Err(format!("shape {extents:?} has more than {MOST_ELEMENTS} elements, which kernels cannot index")),
        }
    }

    /// The extents.
    pub fn extents(&self) -> &[usize] {
        &self.0
    }

    /// The number of extents.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The number of elements, at least one.
    pub fn elements(&self) -> usize {
        self.0.iter().product()
    }

    /// The last extent: channels. A shape of rank 0 counts as one channel.
    pub fn channels(&self) -> usize {
        self.0.last().copied().unwrap_or(1)
    }

    /// The product of every extent but the last: the number of pixels over the whole batch.
    pub fn pixels(&self) -> usize {
        self.elements() / self.channels()
    }

    /// The four extents `[n, h, w, c]` of a batch of images.
    ///
    /// # Errors
    /// When the rank is not 4.
    pub fn image(&self) -> Result<[usize; 4], String> {
        <[usize; 4]>::try_from(self.0.as_slice())
            .map_err(|_| format!("expected a batch of images [n, h, w, c], got shape {self:?}"))
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extents: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&extents.join("×"))
    }
}

/// What the elements of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point: how activations and their gradients may be stored. All arithmetic is in [`DType::F32`].
    F16,
    /// 32-bit unsigned integer: class labels, generator states.
    U32,
}

impl DType {
    /// Whether the elements are numbers that ops compute with, however they are stored.
    pub fn is_float(self) -> bool {
        self != Self::U32
    }

    pub(crate) fn size_bytes(self) -> u64 {
        if self == Self::F16 { 2 } else { 4 }
    }
}

/// Element type and shape of one tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Extents.
    pub shape: Shape,
}

impl TensorType {
    /// A tensor of floats.
    ///
    /// # Errors
    /// As [`Shape::new`].
    pub fn f32(extents: impl Into<Vec<usize>>) -> Result<Self, String> {
        Ok(Self { dtype: DType::F32, shape: Shape::new(extents)? })
    }

    /// A tensor of floats that are stored in 16 bits.
    ///
    /// # Errors
    /// As [`Shape::new`].
    pub fn f16(extents: impl Into<Vec<usize>>) -> Result<Self, String> {
        Ok(Self { dtype: DType::F16, shape: Shape::new(extents)? })
    }

    /// A tensor of these extents, stored as this one is.
    ///
    /// # Errors
    /// As [`Shape::new`].
    pub fn with_extents(&self, extents: impl Into<Vec<usize>>) -> Result<Self, String> {
        Ok(Self { dtype: self.dtype, shape: Shape::new(extents)? })
    }

    /// A tensor of unsigned integers.
    ///
    /// # Errors
    /// As [`Shape::new`].
    pub fn u32(extents: impl Into<Vec<usize>>) -> Result<Self, String> {
        Ok(Self { dtype: DType::U32, shape: Shape::new(extents)? })
    }

    /// The bytes the tensor takes on a device, which copies words of four.
    pub fn size_bytes(&self) -> u64 {
        (self.dtype.size_bytes() * self.shape.elements() as u64).next_multiple_of(4)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dtype {
            DType::F32 => write!(f, "{}", self.shape),
            DType::F16 => write!(f, "{} f16", self.shape),
            DType::U32 => write!(f, "{} u32", self.shape),
        }
    }
}
