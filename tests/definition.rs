//! The definition of correct is right: every reference against central finite differences in f64, with a random cotangent; and every
//! bound holds for the reference in f32 but not for a result that is off by one percent.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::collections::BTreeSet;
use tilewise::array::Tensor;
use tilewise::compare::compare;
use tilewise::gradcheck::{Gradient, gradcheck};
use tilewise::op::Case;
use tilewise::ops::REGISTRY;
use tilewise::shape::{DType, TensorType};

/// Cases that exist for the size of their grid say nothing new about the definition.
const LARGEST: usize = 1 << 20;

/// The ops that have a gradient, and with respect to how many of their inputs, from the first on.
const DIFFERENTIABLE: [(&str, usize); 17] = [
    ("add", 2),
    ("batch_norm", 4),
    ("batch_norm_moments", 1),
    ("conv2d", 3),
    ("conv_transpose2d", 3),
    ("crop_concat", 2),
    ("cross_entropy", 1),
    ("dice", 1),
    ("dropout", 1),
    ("loss_scale", 1),
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
            if case.stores_half() || !case.op.writes().is_empty() || case.op.output(&types).unwrap().dtype != DType::F32
            {
                continue;
            }
            let name = case.op.name();
            let count = DIFFERENTIABLE.iter().find(|(op, _)| *op == name).map_or(0, |&(_, count)| count);
            let found = gradcheck(&case, 1).unwrap_or_else(|error| panic!("{error}"));
            for (position, &found) in found.iter().enumerate() {
                let name_of_input = format!("{name} ({}), input {position}", case.name);
                assert_eq!(found != Gradient::None, position < count, "{name_of_input}: whether it has a gradient");
                if found != Gradient::None {
                    let vanishes = case.name.contains("zero gradient");
                    assert_eq!(found == Gradient::Zero, vanishes, "{name_of_input}: whether the gradient is zero");
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
            let types: Vec<TensorType> = case.inputs.iter().map(|(tensor_type, _)| tensor_type.clone()).collect();
            // How a result is stored, a host tensor does not say.
            let [found, expected] = [references[0].tensor_type(), case.op.output(&types).unwrap()]
                .map(|TensorType { dtype, shape }| (dtype.is_float(), shape));
            assert_eq!(found, expected, "{name}");
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
