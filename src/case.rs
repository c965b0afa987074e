//! Cases of ops: settings, input types and the data to fill them with.

use crate::array::{Array, Tensor};
use crate::op::AnyOp;
use crate::random::Random;
use crate::shape::{DType, TensorType};
use std::sync::Arc;

/// One case of an op: settings, input types and how to fill them. Serves tests and `selftest` alike.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is special about the case, such as `odd sizes, batch 2`.
    pub name: String,
    /// The op with its settings.
    pub op: Arc<dyn AnyOp>,
    /// The inputs.
    pub inputs: Vec<(TensorType, Fill)>,
}

/// How the elements of a case's input are drawn. A float drawn for a tensor of integers is truncated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// Uniform in (0, 1].
    Positive,
    /// A multiple of ½ in −1 … 1: full of ties and zeros.
    Ties,
    /// This value or its negative.
    Signs(f32),
    /// All equal.
    Constant(f32),
    /// Labels below `classes`, about an eighth of them replaced by `ignore` if given.
    Labels {
        /// The number of classes.
        classes: u32,
        /// The label that is left out of the loss.
        ignore: Option<u32>,
    },
    /// Any 32 bits.
    Bits,
    /// Uniform between two values.
    Uniform(f32, f32),
    /// Uniform in the range of the element's place along the last axis.
    Ranges(&'static [(f32, f32)]),
}

impl Case {
    /// Whether a tensor is stored as `f16`, which not every device can.
    pub fn stores_half(&self) -> bool {
        let types: Vec<TensorType> = self.inputs.iter().map(|(tensor_type, _)| tensor_type.clone()).collect();
        let output = self.op.output(&types);
        types.iter().chain(&output).any(|tensor_type| tensor_type.dtype == DType::F16)
    }

    /// The inputs, each drawn from its own stream of the seed.
    pub fn draw(&self, seed: u32) -> Vec<Tensor<f32>> {
        let inputs = self.inputs.iter().zip(0..);
        inputs.map(|((tensor_type, fill), stream)| fill.draw(tensor_type, &mut Random::new(seed, stream))).collect()
    }
}

impl Fill {
    /// A tensor of this type.
    pub fn draw(self, tensor_type: &TensorType, random: &mut Random) -> Tensor<f32> {
        let shape = tensor_type.shape.clone();
        let count = shape.elements();
        match tensor_type.dtype {
            DType::F32 | DType::F16 => {
                let places = (0..shape.channels()).cycle().take(count);
                let data = places.map(|place| self.at(place).float(random)).collect();
                Tensor::Float(Array { shape, data }).stored_as(tensor_type.dtype)
            }
            DType::U32 => Tensor::Uint(Array { shape, data: (0..count).map(|_| self.uint(random)).collect() }),
        }
    }

    /// How the element at a place along the last axis is drawn.
    fn at(self, place: usize) -> Self {
        match self {
            Self::Ranges(ranges) => ranges.get(place).map_or(self, |&(low, high)| Self::Uniform(low, high)),
            other => other,
        }
    }

    fn float(self, random: &mut Random) -> f32 {
        match self {
            Self::Normal(deviation) => deviation * random.normal(),
            Self::Positive => 1.0 - random.uniform(),
            Self::Ties => random.below(5) as f32 / 2.0 - 1.0,
            Self::Signs(value) => [value, -value][random.below(2) as usize],
            Self::Constant(value) => value,
            Self::Labels { .. } => self.uint(random) as f32,
            Self::Bits => f32::from_bits(random.next_u32()),
            Self::Uniform(low, high) => random.between(low, high),
            Self::Ranges(_) => 0.0,
        }
    }

    fn uint(self, random: &mut Random) -> u32 {
        match self {
            Self::Labels { classes, ignore } => {
                let (label, eighth) = (random.below(classes), random.below(8));
                ignore.filter(|_| eighth == 0).unwrap_or(label)
            }
            Self::Bits => random.next_u32(),
            _ => self.float(random) as u32,
        }
    }
}
