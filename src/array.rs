//! Host tensors, generic over the precision of the reference.

use crate::shape::{DType, Shape, TensorType};
use half::f16;
use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{AddAssign, MulAssign, SubAssign};

/// The number type of the CPU reference: `f32`, or `f64` where the reference itself is checked.
pub trait Real: num_traits::Float + AddAssign + SubAssign + MulAssign + Sum + Send + Sync + Debug + 'static {
    /// The nearest value of this type.
    fn from_f64(value: f64) -> Self;
    /// The exact value as `f64`.
    fn as_f64(self) -> f64;
}

impl Real for f32 {
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    fn as_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    fn from_f64(value: f64) -> Self {
        value
    }
    fn as_f64(self) -> f64 {
        self
    }
}

/// A dense host array, channels last.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<T> {
    /// Extents.
    pub shape: Shape,
    /// Elements, the last axis fastest; as many as the shape has.
    pub data: Vec<T>,
}

impl<T: Copy> Array<T> {
    /// An array of equal elements.
    pub fn filled(shape: Shape, value: T) -> Self {
        let data = vec![value; shape.elements()];
        Self { shape, data }
    }

    /// An array from its elements.
    ///
    /// # Errors
    /// When the number of elements is not the shape's.
    pub fn new(shape: Shape, data: Vec<T>) -> Result<Self, String> {
        if data.len() == shape.elements() {
            Ok(Self { shape, data })
        } else {
            Err(format!("shape {shape:?} has {} elements, got {}", shape.elements(), data.len()))
        }
    }
}

/// A host tensor: floats of the reference's precision, or integers.
#[derive(Clone, Debug, PartialEq)]
pub enum Tensor<T> {
    /// Floats.
    Float(Array<T>),
    /// Unsigned integers.
    Uint(Array<u32>),
}

impl<T: Real> Tensor<T> {
    /// Element type and shape; floats of any precision stand for the device's `f32`, of which some are stored as `f16`.
    pub fn tensor_type(&self) -> TensorType {
        match self {
            Self::Float(array) => TensorType { dtype: DType::F32, shape: array.shape.clone() },
            Self::Uint(array) => TensorType { dtype: DType::U32, shape: array.shape.clone() },
        }
    }

    /// The number of elements that there are; the shape's, unless the fields were set apart from each other.
    pub(crate) fn elements(&self) -> usize {
        match self {
            Self::Float(array) => array.data.len(),
            Self::Uint(array) => array.data.len(),
        }
    }

    /// The float array. Ops call this on inputs whose types their shape rule has checked.
    ///
    /// # Panics
    /// When the tensor holds integers, which means that an op's shape rule let a wrong type through.
    pub fn float(&self) -> &Array<T> {
        match self {
            Self::Float(array) => array,
            Self::Uint(_) => unreachable!("the shape rule admits only floats here"),
        }
    }

    /// The integer array. Ops call this on inputs whose types their shape rule has checked.
    ///
    /// # Panics
    /// When the tensor holds floats, which means that an op's shape rule let a wrong type through.
    pub fn uint(&self) -> &Array<u32> {
        match self {
            Self::Uint(array) => array,
            Self::Float(_) => unreachable!("the shape rule admits only integers here"),
        }
    }

    /// The values as a tensor of this type stores them: each the nearest that there is, which is infinite past the largest.
    #[must_use]
    pub fn stored_as(mut self, dtype: DType) -> Self {
        if let (Self::Float(array), DType::F16) = (&mut self, dtype) {
            array.data.iter_mut().for_each(|value| *value = T::from_f64(f16::from_f64(value.as_f64()).to_f64()));
        }
        self
    }

    /// The same values in another precision.
    pub fn cast<U: Real>(&self) -> Tensor<U> {
        match self {
            Self::Float(array) => Tensor::Float(Array {
                shape: array.shape.clone(),
                data: array.data.iter().map(|value| U::from_f64(value.as_f64())).collect(),
            }),
            Self::Uint(array) => Tensor::Uint(array.clone()),
        }
    }
}

impl<T> From<Array<T>> for Tensor<T> {
    fn from(array: Array<T>) -> Self {
        Self::Float(array)
    }
}
