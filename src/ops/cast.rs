//! `cast`: the same values, stored in another precision.

use crate::array::{Real, Tensor};
use crate::error::Result;
use crate::graph::{Graph, NodeId};
use crate::kernel;
use crate::op::{Backward, Binding, Bound, ByImage, Candidate, Case, DeviceProfile, Fill, Op};
use crate::ops::elementwise;
use crate::shape::{DType, TensorType};
use std::sync::Arc;

/// y = x, stored as `f16`: each element rounded to the nearest, infinite past 65,504; or stored as `f32`, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cast {
    /// How y is stored.
    pub to: DType,
}

impl Graph {
    /// The values of x, stored as `to` says.
    ///
    /// # Errors
    /// When x or the result is of integers, or x is stored so already.
    pub fn cast(&mut self, name: &str, x: NodeId, to: DType) -> Result<NodeId> {
        self.apply(name, Cast { to }, &[x])
    }
}

impl Op for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let to = self.to;
        match inputs {
            [x] if x.dtype.is_float() && to.is_float() && x.dtype != to => {
                Ok(TensorType { dtype: to, shape: x.shape.clone() })
            }
            _ => Err(format!("expected one float tensor that is not stored as {to:?}, got {inputs:?}")),
        }
    }

    fn by_image(&self) -> ByImage {
        ByImage::Alone(&[0])
    }

    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        vec![inputs[0].clone()]
    }

    fn candidates(&self, _: &[TensorType], output: &TensorType, device: &DeviceProfile) -> Vec<Candidate> {
        let kernel = if self.to == DType::F16 { kernel!("cast/store") } else { kernel!("cast/load") };
        vec![elementwise(kernel, vec![Binding::Input(0), Binding::Output], output, device)]
    }

    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        let back = Self { to: backward.input_type(0).dtype };
        Ok(vec![Some(backward.apply("grad_input", back, &[backward.grad_output])?)])
    }

    fn flops(&self, _: &[TensorType], _: &TensorType) -> u64 {
        0
    }

    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Exact
    }
}

pub(super) fn cases() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for (extents, fill, what) in [
        ([1, 1, 1, 1], Fill::Normal(1.0), "one element"),
        ([1, 1, 1, 65], Fill::Ties, "one over"),
        ([2, 7, 5, 3], Fill::Normal(1e-6), "subnormal"),
        ([1, 13, 11, 5], Fill::Normal(6e4), "some infinite"),
        ([1, 1021, 1031, 4], Fill::Normal(1.0), "past 65,535 workgroups"),
    ] {
        for (x, to) in [(TensorType::f32(extents)?, DType::F16), (TensorType::f16(extents)?, DType::F32)] {
            cases.push(Case {
                name: format!("{what}, {x} to {to:?}"),
                op: Arc::new(Cast { to }),
                inputs: vec![(x, fill)],
            });
        }
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Array;
    use crate::cpu::evaluate;
    use std::collections::BTreeMap;

    #[test]
    fn values_are_rounded_to_the_nearest_and_those_past_the_largest_are_infinite() {
        let mut graph = Graph::new();
        let x = graph.input("x", TensorType::f32([6]).unwrap());
        let half = graph.cast("half", x, DType::F16).unwrap();
        let y = graph.cast("y", half, DType::F32).unwrap();
        graph.mark_output("y", y).unwrap();
        // Ties go to the even one; 65,520 is the first that is nearer to what would come after 65,504; 2⁻²⁵ is half of the least.
        let values =
            vec![1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 65_519.0, -65_520.0, 2.0_f64.powi(-25), 2.0_f64.powi(-24)];
        let inputs = BTreeMap::from([(x, Array::new(graph.shape(x).clone(), values).unwrap().into())]);
        let outputs = evaluate::<f64>(&graph, &inputs, &mut BTreeMap::new()).unwrap();
        let expected = [1.0, 1.0 + 4.0 / 2048.0, 65_504.0, f64::NEG_INFINITY, 0.0, 2.0_f64.powi(-24)];
        assert_eq!(outputs[&y].float().data, expected);
    }

    #[test]
    fn what_is_stored_so_already_or_holds_integers_is_refused() {
        let mut graph = Graph::new();
        let (x, labels) =
            (graph.input("x", TensorType::f32([1]).unwrap()), graph.input("l", TensorType::u32([1]).unwrap()));
        for (node, to) in [(x, DType::F32), (x, DType::U32), (labels, DType::F16)] {
            let message = graph.cast("cast", node, to).unwrap_err().to_string();
            assert!(message.contains("expected one float tensor"), "{message}");
        }
    }
}
