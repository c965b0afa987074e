//! `unpack`: pixels of four bytes, as textures and screens have them, to floats.

use crate::array::{Array, Real, Tensor};
use crate::error::Result;
use crate::graph::{Graph, NodeId};
use crate::kernel;
use crate::op::{Binding, Bound, ByImage, Candidate, Case, DeviceProfile, Fill, Op, Param, UNIT_ROUNDOFF};
use crate::ops::{image, turns, zeros};
use crate::shape::{DType, TensorType};
use std::sync::Arc;

/// y[n, y, x, c] = byte `order[c]` of x[n, y, x, 0], times `white` / 255; byte 0 is the lowest, the first in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Unpack {
    /// The byte of each channel, 0 to 3; `[0, 1, 2]` are red, green and blue of RGBA.
    pub order: Vec<u8>,
    /// What the byte 255 becomes: itself, or 1.
    pub white: u8,
}

impl Graph {
    /// Pixels of four bytes as floats.
    ///
    /// # Errors
    /// When x is not a batch of images of one integer a pixel, or the order is not of one to four bytes from 0 to 3.
    pub fn unpack(&mut self, name: &str, x: NodeId, unpack: Unpack) -> Result<NodeId> {
        self.apply(name, unpack, &[x])
    }
}

impl Unpack {
    fn factor(&self) -> f32 {
        f32::from(self.white) / 255.0
    }
}

impl Op for Unpack {
    fn name(&self) -> &'static str {
        "unpack"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [x] = inputs else { return Err(format!("expected one tensor, got {inputs:?}")) };
        let [n, h, w, c] = x.shape.image()?;
        if x.dtype != DType::U32 || c != 1 {
            return Err(format!("expected images of one integer a pixel, got {x}"));
        }
        if !(1..=4).contains(&self.order.len()) || self.order.iter().any(|&byte| byte > 3) {
            return Err(format!("expected one to four bytes from 0 to 3, got {:?}", self.order));
        }
        TensorType::f32([n, h, w, self.order.len()])
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let Array { shape, .. } = zeros(self, inputs);
        let bytes = |&pixel: &u32| pixel.to_le_bytes();
        let factor = T::from_f64(self.factor().into());
        let channels =
            |bytes: [u8; 4]| self.order.iter().map(move |&byte| T::from_f64(bytes[byte as usize].into()) * factor);
        let data = inputs[0].uint().data.iter().map(bytes).flat_map(channels).collect();
        vec![Array { shape, data }.into()]
    }

    fn candidates(&self, _: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let [.., channels] = image(output);
        let order = self.order.iter().rev().fold(0, |order, &byte| order << 8 | u32::from(byte));
        let params = [("channels", channels.into()), ("order", Param::U32(order)), ("factor", self.factor().into())];
        let bindings = vec![Binding::Input(0), Binding::Output];
        vec![turns(kernel!("unpack/forward"), bindings, output.shape.elements(), &params, device).into()]
    }

    fn flops(&self, _: &[TensorType], output: &TensorType) -> u64 {
        output.shape.elements() as u64
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        // A product with 1 is exact.
        if self.white == 255 { Bound::Exact } else { Bound::Relative(UNIT_ROUNDOFF) }
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    [
        ([1, 1, 1, 1], vec![0], 255, "one byte"),
        ([1, 8, 8, 1], vec![0], 255, "grey, one workgroup"),
        ([2, 5, 13, 1], vec![0, 1, 2], 255, "RGBA without alpha, batch 2"),
        ([3, 7, 11, 1], vec![2, 1, 0], 1, "BGRA without alpha, batch 3, 0 to 1"),
        ([1, 3, 3, 1], vec![3, 3], 255, "a byte twice"),
        ([1, 1021, 1031, 1], vec![3, 0, 2, 1], 255, "past 65,535 workgroups"),
    ]
    .into_iter()
    .map(|(extents, order, white, what)| {
        let inputs = vec![(TensorType::u32(extents)?, Fill::Bits)];
        Ok(Case { name: format!("{extents:?} {what}"), op: Arc::new(Unpack { order, white }), inputs })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_in_the_order_of_memory() {
        let x = Array::new(TensorType::u32([1, 1, 2, 1]).unwrap().shape, vec![0x4433_2211, 0xff00_00fe]).unwrap();
        let y = Unpack { order: vec![0, 1, 3], white: 255 }.reference::<f32>(&[&Tensor::Uint(x)]);
        assert_eq!(y[0].float().data, [17.0, 34.0, 68.0, 254.0, 0.0, 255.0]);
    }

    #[test]
    fn other_orders_and_types_are_refused() {
        let mut graph = Graph::new();
        let pixels = graph.input("pixels", TensorType::u32([1, 4, 4, 1]).unwrap());
        for order in [vec![], vec![4], vec![0; 5]] {
            let message = graph.unpack("floats", pixels, Unpack { order, white: 255 }).unwrap_err().to_string();
            assert!(message.contains("one to four bytes"), "{message}");
        }
        let floats = graph.input("floats", TensorType::f32([1, 4, 4, 1]).unwrap());
        assert!(graph.unpack("again", floats, Unpack { order: vec![0], white: 255 }).is_err());
    }
}
