//! Whether the gradient of an op is that of its reference: finite differences in `f64` along random directions, of the sum of the result
//! times a random cotangent, which sees every element of the result apart.

use crate::array::{Array, Real, Tensor};
use crate::cpu::{banks, evaluate};
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeId};
use crate::op::{Backward, Bound, Candidate, Case, DeviceProfile, Fill, Op};
use crate::random::Random;
use crate::shape::{DType, TensorType};
use std::collections::BTreeMap;

/// Up to this many elements each one of an input is moved by itself, too.
const FEW: usize = 300;

/// The name of the node of the op under check.
const RESULT: &str = "y";

/// Σ cotangent · y: turns any result into a loss.
#[derive(Debug)]
struct WeightedSum;

/// The cotangent times the gradient of the sum.
#[derive(Debug)]
struct WeightedSumGrad;

impl Op for WeightedSum {
    fn name(&self) -> &'static str {
        "weighted_sum"
    }
    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        if inputs[0] == inputs[1] { TensorType::f32([1]) } else { Err("the cotangent has another type".into()) }
    }
    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let pairs = inputs[0].float().data.iter().zip(&inputs[1].float().data);
        let mut sum = crate::ops::zeros(self, inputs);
        sum.data[0] = pairs.map(|(&y, &cotangent)| y * cotangent).sum();
        vec![sum.into()]
    }
    fn candidates(&self, _: &[TensorType], _: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        Vec::new()
    }
    fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
        let inputs = [backward.inputs[1], backward.grad_output];
        Ok(vec![Some(backward.apply("grad_input", WeightedSumGrad, &inputs)?), None])
    }
    fn flops(&self, inputs: &[TensorType], _: &TensorType) -> u64 {
        2 * inputs[0].shape.elements() as u64
    }
    fn bound(&self, inputs: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Terms(inputs[0].float().data.len())
    }
}

impl Op for WeightedSumGrad {
    fn name(&self) -> &'static str {
        "weighted_sum_grad"
    }
    fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        Ok(inputs[0].clone())
    }
    fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
        let (cotangent, grad) = (inputs[0].float(), inputs[1].float().data[0]);
        let data = cotangent.data.iter().map(|&cotangent| cotangent * grad).collect();
        vec![Array { shape: cotangent.shape.clone(), data }.into()]
    }
    fn candidates(&self, _: &[TensorType], _: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        Vec::new()
    }
    fn flops(&self, inputs: &[TensorType], _: &TensorType) -> u64 {
        inputs[0].shape.elements() as u64
    }
    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Relative(crate::op::UNIT_ROUNDOFF)
    }
}

/// A case as a graph from its inputs to Σ cotangent · y.
struct Trial<'a> {
    case: &'a Case,
    graph: Graph,
    inputs: Vec<NodeId>,
    values: BTreeMap<NodeId, Tensor<f64>>,
    loss: NodeId,
    /// The magnitude of the sum that is the loss.
    magnitude: f64,
}

impl<'a> Trial<'a> {
    fn new(case: &'a Case, seed: u32) -> Result<Self> {
        let mut random = Random::new(seed, 1000);
        let (mut graph, mut inputs, mut values) = (Graph::new(), Vec::new(), BTreeMap::new());
        for (index, ((tensor_type, fill), value)) in case.inputs.iter().zip(case.draw(seed)).enumerate() {
            let node = graph.input(&format!("input{index}"), tensor_type.clone());
            // Differences that straddle a tie measure no derivative.
            let value = match fill {
                Fill::Ties | Fill::Constant(_) | Fill::Signs(_) if tensor_type.dtype == DType::F32 => {
                    Fill::Normal(1.0).draw(tensor_type, &mut random)
                }
                _ => value,
            };
            inputs.push(node);
            values.insert(node, value.cast());
        }
        let y = graph.apply_shared(RESULT, &case.op, &inputs)?;
        let y_type = graph.node(y).tensor_type.clone();
        let cotangent = graph.input("cotangent", y_type.clone());
        values.insert(cotangent, Fill::Normal(1.0).draw(&y_type, &mut random).cast());
        let loss = graph.apply("loss", WeightedSum, &[y, cotangent])?;
        graph.mark_output("loss", loss)?;
        graph.mark_output(RESULT, y)?;
        let products = (value(&graph, &values, y)?.into_iter()).zip(&values[&cotangent].float().data);
        let magnitude = products.map(|(y, cotangent)| (y * cotangent).abs()).sum();
        Ok(Self { case, graph, inputs, values, loss, magnitude })
    }

    /// (L(x + h d) − L(x − h d)) / 2h, where x is one of the inputs.
    fn difference(&self, input: NodeId, direction: &[f64], h: f64) -> Result<f64> {
        let loss = |h: f64| {
            let mut values = self.values.clone();
            if let Some(Tensor::Float(x)) = values.get_mut(&input) {
                x.data.iter_mut().zip(direction).for_each(|(x, d)| *x += h * d);
            }
            Ok::<f64, Error>(value(&self.graph, &values, self.loss)?[0])
        };
        Ok((loss(h)? - loss(-h)?) / (2.0 * h))
    }

    /// The gradient with respect to an input, or `None` where the op itself refuses one.
    fn gradient(&self, input: NodeId) -> Result<Option<Vec<f64>>> {
        let (mut graph, gradients) = match self.graph.gradients(self.loss, &[input]) {
            Err(Error::Graph { op, node, .. }) if op == self.case.op.name() && node == RESULT => return Ok(None),
            built => built?,
        };
        let Some(gradient) = gradients[0] else { return Ok(None) };
        graph.mark_output("gradient", gradient)?;
        value(&graph, &self.values, gradient).map(Some)
    }

    /// Checks one input.
    fn check(&self, position: usize, seed: u32) -> Result<Gradient> {
        let input = self.inputs[position];
        let Some(gradient) = self.gradient(input)? else { return Ok(Gradient::None) };
        let fail = |problem: String| {
            let problem = format!("the gradient of input {position} is wrong: {problem}");
            Error::Graph { op: self.case.op.name().into(), node: self.case.name.clone(), problem }
        };
        let x = &self.values[&input].float().data;
        let scale = x.iter().fold(0.0f64, |scale, x| scale.max(x.abs()));
        if let Some(index) = gradient.iter().position(|g| !g.is_finite()) {
            return Err(fail(format!("element {index} is {}", gradient[index])));
        }
        if scale == 0.0 {
            return Err(fail("the input is all zeros, so that there is no scale to differ by".into()));
        }
        // A difference divides the rounding of the loss by h; its own error grows with h².
        let h = 1e-6 * scale;
        let noise = 1e-15 * (1.0 + self.magnitude) / h;
        let compare = |direction: &[f64], what: &str| {
            let found = self.difference(input, direction, h)?;
            let products = gradient.iter().zip(direction).map(|(g, d)| g * d);
            let (expected, magnitude) = products.fold((0.0, 0.0), |(sum, abs), p| (sum + p, abs + p.abs()));
            let within = (found - expected).abs() <= 1e-6 * magnitude + noise;
            let problem = || format!("along {what} the loss changes by {found}, the gradient says {expected}");
            if within { Ok(()) } else { Err(fail(problem())) }
        };
        let mut random = Random::new(seed, 2000);
        for _ in 0..3 {
            let direction: Vec<f64> = x.iter().map(|_| f64::from(random.normal())).collect();
            compare(&direction, "a random direction")?;
        }
        if x.len() <= FEW {
            for index in 0..x.len() {
                let mut direction = vec![0.0; x.len()];
                direction[index] = 1.0;
                compare(&direction, &format!("element {index}"))?;
            }
        }
        let vanishes = gradient.iter().all(|&g| g.abs() * scale < 1e-12);
        Ok(if vanishes { Gradient::Zero } else { Gradient::Right })
    }
}

/// The elements of an output in `f64`.
fn value(graph: &Graph, values: &BTreeMap<NodeId, Tensor<f64>>, node: NodeId) -> Result<Vec<f64>> {
    let mut outputs = evaluate(graph, values, &mut banks(graph, &[]))?;
    Ok(match outputs.remove(&node) {
        Some(Tensor::Float(array)) => array.data,
        _ => unreachable!("the graph's outputs are floats"),
    })
}

/// What was found of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradient {
    /// The op has no gradient with respect to it.
    None,
    /// The gradient is right, and zero everywhere: the case says little.
    Zero,
    /// The gradient is right.
    Right,
}

/// Checks the gradients of a case's op against differences of its reference, (L(x + h d) − L(x − h d)) / 2h with L = Σ cotangent · y, to
/// 10⁻⁶ of the terms of the sum and what rounding explains: along three random directions d, and along each element of inputs of up to 300.
/// Tells of each input what was found.
///
/// # Errors
/// [`Error::Graph`] naming op, case and direction where a gradient is wrong; when the op refuses its inputs, updates state, or has a result
/// of integers.
pub fn gradcheck(case: &Case, seed: u32) -> Result<Vec<Gradient>> {
    let types: Vec<TensorType> = case.inputs.iter().map(|(tensor_type, _)| tensor_type.clone()).collect();
    let fail = |problem: String| Error::Graph { op: case.op.name().into(), node: case.name.clone(), problem };
    if !case.op.writes().is_empty() || case.op.output(&types).map_err(fail)?.dtype != DType::F32 {
        return Err(fail("an op that updates state or results in integers has no gradient".into()));
    }
    if case.stores_half() {
        return Err(fail(
            "differences between results that are rounded to f16 measure no derivative; check the case in f32".into(),
        ));
    }
    let trial = Trial::new(case, seed)?;
    let check = |(position, tensor_type): (usize, &TensorType)| match tensor_type.dtype {
        DType::F32 | DType::F16 => trial.check(position, seed),
        DType::U32 => Ok(Gradient::None),
    };
    types.iter().enumerate().map(check).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Softmax;
    use crate::shape::Shape;
    use std::sync::Arc;

    /// y = 2x, whose gradient is said to be `factor` times the cotangent, or cannot be built.
    #[derive(Debug)]
    struct Double {
        factor: f32,
        broken: bool,
    }

    impl Op for Double {
        fn name(&self) -> &'static str {
            "double"
        }
        fn output(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
            Ok(inputs[0].clone())
        }
        fn reference<T: Real>(&self, inputs: &[&Tensor<T>]) -> Vec<Tensor<T>> {
            let x = inputs[0].float();
            let data = x.data.iter().map(|&x| x + x).collect();
            vec![Array { shape: x.shape.clone(), data }.into()]
        }
        fn candidates(&self, _: &[TensorType], _: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
            Vec::new()
        }
        fn gradient(&self, backward: &mut Backward<'_>) -> Result<Vec<Option<NodeId>>> {
            let factor = backward.graph.constant("factor", Shape::new([1]).unwrap(), self.factor);
            let grad_output = backward.grad_output;
            Ok(vec![Some(if self.broken {
                backward.apply("grad_input", Softmax, &[])?
            } else {
                backward.apply("grad_input", WeightedSumGrad, &[grad_output, factor])?
            })])
        }
        fn flops(&self, _: &[TensorType], _: &TensorType) -> u64 {
            0
        }
        fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
            Bound::Exact
        }
    }

    fn outcome(factor: f32, broken: bool) -> Result<Vec<Gradient>> {
        let inputs = vec![(TensorType::f32([7]).unwrap(), Fill::Normal(1.0))];
        gradcheck(&Case { name: "seven".into(), op: Arc::new(Double { factor, broken }), inputs }, 1)
    }

    #[test]
    fn a_gradient_that_cannot_be_built_is_not_taken_for_none() {
        let message = outcome(2.0, true).unwrap_err().to_string();
        assert!(message.contains("y.grad_input"), "{message}");
    }

    #[test]
    fn wrong_gradients_are_found() {
        for (factor, right) in [(2.0, true), (2.002, false), (-2.0, false), (0.0, false)] {
            match outcome(factor, false) {
                Ok(found) => assert!(right && found == [Gradient::Right], "factor {factor}"),
                Err(error) => {
                    let message = error.to_string();
                    assert!(!right && message.starts_with("double `seven`: the gradient of input 0"), "{message}");
                }
            }
        }
    }
}
