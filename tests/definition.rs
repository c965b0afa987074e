//! The definition of correct is right: every reference against central finite differences in f64, with a random cotangent; and every
//! bound holds for the reference in f32 but not for a result that is off by one percent.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tilewise::Graph;
use tilewise::array::{Array, Real, Tensor};
use tilewise::compare::compare;
use tilewise::cpu::{banks, evaluate};
use tilewise::graph::NodeId;
use tilewise::op::{Backward, Bound, Candidate, Case, DeviceProfile, Fill, Op};
use tilewise::ops::REGISTRY;
use tilewise::random::Random;
use tilewise::shape::{DType, Shape, TensorType};

/// Σ cotangent · y: turns any result into a loss whose gradient sees every element apart. An op from outside the crate.
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
        let sum = pairs.map(|(&y, &cotangent)| y * cotangent).sum();
        vec![Array { shape: Shape::new([1]).unwrap(), data: vec![sum] }.into()]
    }
    fn candidates(&self, _: &[TensorType], _: &TensorType, _: &DeviceProfile) -> Vec<Candidate> {
        Vec::new()
    }
    fn gradient(&self, backward: &mut Backward<'_>) -> tilewise::Result<Vec<Option<NodeId>>> {
        let inputs = [backward.inputs[1], backward.grad_output];
        Ok(vec![Some(backward.apply("grad_input", WeightedSumGrad, &inputs)?), None])
    }
    fn flops(&self, _: &[TensorType], _: &TensorType) -> u64 {
        0
    }
    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Exact
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
    fn flops(&self, _: &[TensorType], _: &TensorType) -> u64 {
        0
    }
    fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
        Bound::Exact
    }
}

/// A case as a graph from its inputs to Σ cotangent · y.
struct Trial {
    graph: Graph,
    inputs: Vec<NodeId>,
    values: BTreeMap<NodeId, Tensor<f64>>,
    cotangent: NodeId,
    y: NodeId,
    loss: NodeId,
}

impl Trial {
    fn new(case: &Case, seed: u32) -> Self {
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
        let y = graph.apply_shared("y", &case.op, &inputs).unwrap();
        let y_type = graph.node(y).tensor_type.clone();
        let cotangent = graph.input("cotangent", y_type.clone());
        values.insert(cotangent, Fill::Normal(1.0).draw(&y_type, &mut random).cast());
        let loss = graph.apply("loss", WeightedSum, &[y, cotangent]).unwrap();
        graph.mark_output("loss", loss).unwrap();
        graph.mark_output("y", y).unwrap();
        Self { graph, inputs, values, cotangent, y, loss }
    }

    fn run(graph: &Graph, values: &BTreeMap<NodeId, Tensor<f64>>, node: NodeId) -> Tensor<f64> {
        evaluate(graph, values, &mut banks(graph, &[])).unwrap().remove(&node).unwrap()
    }

    /// (L(x + h d) − L(x − h d)) / 2h, where x is one of the inputs.
    fn difference(&self, input: NodeId, direction: &[f64], h: f64) -> f64 {
        let mut losses = [h, -h].into_iter().map(|h| {
            let mut values = self.values.clone();
            if let Some(Tensor::Float(x)) = values.get_mut(&input) {
                x.data.iter_mut().zip(direction).for_each(|(x, d)| *x += h * d);
            }
            Self::run(&self.graph, &values, self.loss).float().data[0]
        });
        (losses.next().unwrap() - losses.next().unwrap()) / (2.0 * h)
    }

    /// The gradient with respect to an input, or `None` where the op refuses one.
    fn gradient(&self, input: NodeId) -> Option<Vec<f64>> {
        let (mut graph, gradients) = self.graph.gradients(self.loss, &[input]).ok()?;
        let gradient = gradients[0]?;
        graph.mark_output("gradient", gradient).unwrap();
        Some(Self::run(&graph, &self.values, gradient).float().data.clone())
    }

    /// Checks one input; false where it has no gradient.
    fn check(&self, input: NodeId, case: &Case, seed: u32) -> bool {
        let Some(gradient) = self.gradient(input) else { return false };
        let name = format!("{} ({}), input {}", case.op.name(), case.name, input.index());
        let x = &self.values[&input].float().data;
        let scale = x.iter().fold(0.0f64, |scale, x| scale.max(x.abs()));
        assert!(gradient.iter().all(|g| g.is_finite()) && scale > 0.0, "{name}");
        let vacuous = gradient.iter().all(|&g| g.abs() * scale < 1e-12);
        assert_eq!(vacuous, case.name.contains("zero gradient"), "{name}: whether the gradient is zero");
        // A difference divides the rounding of the loss by h; its own error grows with h².
        let h = 1e-6 * scale;
        let noise = 1e-15 * (1.0 + self.magnitude()) / h;
        let compare = |direction: &[f64], what: &str| {
            let found = self.difference(input, direction, h);
            let products = gradient.iter().zip(direction).map(|(g, d)| g * d);
            let (expected, magnitude) = products.fold((0.0, 0.0), |(sum, abs), p| (sum + p, abs + p.abs()));
            let error = (found - expected).abs();
            assert!(error <= 1e-6 * magnitude + noise, "{name}, {what}: difference {found}, gradient {expected}");
        };
        let mut random = Random::new(seed, 2000);
        for _ in 0..3 {
            let direction: Vec<f64> = x.iter().map(|_| f64::from(random.normal())).collect();
            compare(&direction, "random direction");
        }
        if x.len() <= 300 {
            for index in 0..x.len() {
                let mut direction = vec![0.0; x.len()];
                direction[index] = 1.0;
                compare(&direction, &format!("element {index}"));
            }
        }
        true
    }

    /// The magnitude of the sum that is the loss.
    fn magnitude(&self) -> f64 {
        let y = Self::run(&self.graph, &self.values, self.y);
        let cotangent = self.values[&self.cotangent].float();
        y.float().data.iter().zip(&cotangent.data).map(|(y, c)| (y * c).abs()).sum()
    }
}

/// Cases that exist for the size of their grid say nothing new about the definition.
const LARGEST: usize = 1 << 20;

/// The ops that have a gradient, and with respect to how many of their inputs, from the first on.
const DIFFERENTIABLE: [(&str, usize); 16] = [
    ("add", 2),
    ("batch_norm", 4),
    ("batch_norm_moments", 1),
    ("conv2d", 3),
    ("conv_transpose2d", 3),
    ("crop_concat", 2),
    ("cross_entropy", 1),
    ("dice", 1),
    ("dropout", 1),
    ("max_pool2d", 1),
    ("pad", 1),
    ("prelu", 2),
    ("relu", 1),
    ("resize", 1),
    ("sigmoid", 1),
    ("softmax", 1),
];

fn small_cases(cases: fn() -> Result<Vec<Case>, String>) -> Vec<Case> {
    let mut cases = cases().unwrap();
    cases.retain(|case| case.inputs.iter().all(|(tensor_type, _)| tensor_type.shape.elements() < LARGEST));
    cases
}

#[test]
fn gradients_equal_finite_differences() {
    let mut checked = BTreeSet::new();
    for entry in REGISTRY {
        for case in small_cases(entry.cases) {
            let types: Vec<TensorType> = case.inputs.iter().map(|(tensor_type, _)| tensor_type.clone()).collect();
            if !case.op.writes().is_empty() || case.op.output(&types).unwrap().dtype != DType::F32 {
                continue;
            }
            let name = case.op.name();
            let count = DIFFERENTIABLE.iter().find(|(op, _)| *op == name).map_or(0, |&(_, count)| count);
            let trial = Trial::new(&case, 1);
            for (position, &input) in trial.inputs.iter().enumerate() {
                let found = types[position].dtype == DType::F32 && trial.check(input, &case, 1);
                assert_eq!(found, position < count, "{name} ({}): a gradient for input {position}", case.name);
                if found {
                    checked.insert((name, position));
                }
            }
        }
    }
    let expected = DIFFERENTIABLE.iter().flat_map(|&(name, count)| (0..count).map(move |position| (name, position)));
    assert_eq!(checked, expected.collect());
}

#[test]
fn bounds_hold_for_f32_and_reject_one_percent() {
    for entry in REGISTRY {
        for case in small_cases(entry.cases) {
            let name = format!("{} ({})", case.op.name(), case.name);
            let inputs = case.draw(2);
            let wide: Vec<Tensor<f64>> = inputs.iter().map(Tensor::cast).collect();
            let wide: Vec<&Tensor<f64>> = wide.iter().collect();
            let narrow = case.op.reference_f32(&inputs.iter().collect::<Vec<_>>());
            let references = case.op.reference_f64(&wide);
            let types: Vec<TensorType> = inputs.iter().map(Tensor::tensor_type).collect();
            assert_eq!(references[0].tensor_type(), case.op.output(&types).unwrap(), "{name}");
            assert_eq!(references.len(), case.op.writes().len().max(1), "{name}");
            for (result, (actual, reference)) in narrow.iter().zip(&references).enumerate() {
                let bounds = case.op.bound(&wide, reference, result).elements(case.op.as_ref(), &wide, reference);
                let (Tensor::Float(actual), Tensor::Float(reference)) = (actual, reference) else {
                    assert_eq!(actual.uint(), reference.uint(), "{name}");
                    continue;
                };
                let outcome = compare(&actual.data, &reference.data, &bounds);
                assert!(outcome.is_ok(), "{name}: {}", outcome.unwrap_err());
                let off: Vec<f32> = actual.data.iter().map(|value| value * 1.01).collect();
                let zero = reference.data.iter().all(|&value| value == 0.0);
                assert!(zero || compare(&off, &reference.data, &bounds).is_err(), "{name}: the bound admits 1 %");
            }
        }
    }
}

#[test]
fn differences_reject_wrong_gradients() {
    /// y = 2x, whose gradient is said to be `factor` times the cotangent.
    #[derive(Debug)]
    struct Double {
        factor: f32,
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
        fn gradient(&self, backward: &mut Backward<'_>) -> tilewise::Result<Vec<Option<NodeId>>> {
            let factor = backward.graph.constant("factor", Shape::new([1]).unwrap(), self.factor);
            let inputs = [backward.grad_output, factor];
            Ok(vec![Some(backward.apply("grad_input", WeightedSumGrad, &inputs)?)])
        }
        fn flops(&self, _: &[TensorType], _: &TensorType) -> u64 {
            0
        }
        fn bound(&self, _: &[&Tensor<f64>], _: &Tensor<f64>, _: usize) -> Bound {
            Bound::Exact
        }
    }
    for (factor, right) in [(2.0, true), (2.002, false), (-2.0, false), (0.0, false)] {
        let outcome = std::panic::catch_unwind(|| {
            let inputs = vec![(TensorType::f32([7]).unwrap(), Fill::Normal(1.0))];
            let case = Case { name: "test".into(), op: Arc::new(Double { factor }), inputs };
            let trial = Trial::new(&case, 1);
            trial.check(trial.inputs[0], &case, 1)
        });
        assert_eq!(outcome.is_ok(), right, "factor {factor}");
    }
}
