//! The testers are tested: the comparator rejects what it must, and cases draw what they say.

use tilewise::compare::{Mismatch, compare};
use tilewise::op::Fill;
use tilewise::random::Random;
use tilewise::shape::{DType, TensorType};

/// References, bounds of a thousandth, and results that are right.
fn example() -> (Vec<f32>, Vec<f64>, Vec<f64>) {
    let reference: Vec<f64> = (1..=100).map(f64::from).collect();
    let bounds: Vec<f64> = reference.iter().map(|value| value * 1e-3).collect();
    (reference.iter().map(|&value| value as f32).collect(), reference, bounds)
}

#[test]
fn right_results_pass_and_the_worst_is_reported() {
    let (mut actual, reference, bounds) = example();
    assert!(compare(&actual, &reference, &bounds).unwrap().worst <= 0.0);
    actual[41] *= 1.000_5;
    let comparison = compare(&actual, &reference, &bounds).unwrap();
    assert_eq!(comparison.index, 41);
    assert!((comparison.worst - 0.5).abs() < 1e-3, "{comparison:?}");
    assert!((comparison.error - 0.021).abs() < 1e-5 && (comparison.bound - 0.042).abs() < 1e-12, "{comparison:?}");
}

#[test]
fn one_wrong_element_is_rejected_wherever_it_is() {
    for index in [0, 50, 99] {
        let (mut actual, reference, bounds) = example();
        actual[index] *= 1.002;
        match compare(&actual, &reference, &bounds) {
            Err(Mismatch::OutOfBounds { count: 1, length: 100, worst }) => assert_eq!(worst.index, index),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn nan_and_infinity_are_rejected_on_every_side() {
    for bad in [f64::NAN, f64::INFINITY] {
        for side in 0..3 {
            let (mut actual, mut reference, mut bounds) = example();
            match side {
                0 => actual[7] = bad as f32,
                1 => reference[7] = bad,
                // An infinite bound would pass anything, NaN aside; nothing derives one.
                _ => bounds[7] = f64::NAN,
            }
            let mismatch = compare(&actual, &reference, &bounds).unwrap_err();
            assert!(matches!(mismatch, Mismatch::OutOfBounds { worst, .. } if worst.index == 7), "{mismatch}");
        }
    }
    let (mut actual, reference, _) = example();
    actual[7] = f32::NAN;
    assert!(compare(&actual, &reference, &[f64::INFINITY; 100]).is_err());
}

#[test]
fn empty_and_unequal_lengths_are_rejected() {
    assert_eq!(compare(&[], &[], &[]), Err(Mismatch::Empty));
    let (actual, reference, bounds) = example();
    for (a, r, b) in [(99, 100, 100), (100, 99, 100), (100, 100, 99), (100, 0, 0)] {
        assert_eq!(
            compare(&actual[..a], &reference[..r], &bounds[..b]),
            Err(Mismatch::Length { actual: a, reference: r, bounds: b })
        );
    }
}

#[test]
fn a_scale_error_of_one_percent_is_rejected() {
    let (mut actual, reference, bounds) = example();
    for value in &mut actual {
        *value *= 1.01;
    }
    assert!(matches!(compare(&actual, &reference, &bounds), Err(Mismatch::OutOfBounds { count: 100, .. })));
}

#[test]
fn a_swapped_pair_is_rejected() {
    let (mut actual, reference, bounds) = example();
    actual.swap(10, 11);
    assert!(matches!(compare(&actual, &reference, &bounds), Err(Mismatch::OutOfBounds { count: 2, .. })));
}

#[test]
fn an_exact_bound_rejects_the_next_float() {
    assert!(compare(&[1.0], &[1.0], &[0.0]).is_ok());
    assert!(compare(&[-0.0], &[0.0], &[0.0]).is_ok());
    assert!(compare(&[1.0 + f32::EPSILON], &[1.0], &[0.0]).is_err());
}

#[test]
fn a_mismatch_says_where_and_by_how_much() {
    let text = compare(&[1.0, 3.0], &[1.0, 2.0], &[0.5, 0.5]).unwrap_err().to_string();
    assert_eq!(text, "1 of 2 elements are out of bounds, worst [1]: 3e0 where 2e0 ± 5e-1 was expected");
}

#[test]
fn fills_draw_what_they_say() {
    let floats = |fill: Fill| {
        let tensor = fill.draw(&TensorType::f32([1000]).unwrap(), &mut Random::new(1, 2));
        tensor.float().data.clone()
    };
    let uints = |fill: Fill| {
        let tensor = fill.draw(&TensorType::u32([1000]).unwrap(), &mut Random::new(1, 2));
        tensor.uint().data.clone()
    };
    assert!(floats(Fill::Positive).iter().all(|&value| value > 0.0 && value <= 1.0));
    assert_eq!(sorted_unique(&floats(Fill::Ties)), [-1.0, -0.5, 0.0, 0.5, 1.0]);
    assert_eq!(sorted_unique(&floats(Fill::Signs(80.0))), [-80.0, 80.0]);
    assert_eq!(sorted_unique(&floats(Fill::Constant(3.0))), [3.0]);
    let deviation = (floats(Fill::Normal(2.0)).iter().map(|value| value * value).sum::<f32>() / 1000.0).sqrt();
    assert!((1.8..2.2).contains(&deviation), "{deviation}");
    let labels = uints(Fill::Labels { classes: 3, ignore: Some(255) });
    assert!(labels.iter().all(|&label| label < 3 || label == 255));
    let ignored = labels.iter().filter(|&&label| label == 255).count();
    assert!((80..170).contains(&ignored), "{ignored}");
    assert!(uints(Fill::Labels { classes: 3, ignore: None }).iter().all(|&label| label < 3));
    assert!(uints(Fill::Constant(255.0)).iter().all(|&label| label == 255));
    assert!(uints(Fill::Bits).iter().any(|&word| word > u32::MAX / 2));
}

fn sorted_unique(values: &[f32]) -> Vec<f32> {
    let mut values = values.to_vec();
    values.sort_by(f32::total_cmp);
    values.dedup();
    values
}

#[test]
fn cases_draw_the_same_data_for_the_same_seed_only() {
    for entry in tilewise::ops::REGISTRY {
        for case in (entry.cases)().unwrap() {
            let types: Vec<TensorType> = case.inputs.iter().map(|(tensor_type, _)| tensor_type.clone()).collect();
            for (drawn, expected) in case.draw(1).iter().zip(&types) {
                // On the host, halves are floats that have been rounded.
                let dtype = if expected.dtype == DType::F16 { DType::F32 } else { expected.dtype };
                assert_eq!(drawn.tensor_type(), TensorType { dtype, shape: expected.shape.clone() });
            }
            assert!(case.op.output(&types).is_ok(), "{}: {}", entry.name, case.name);
        }
    }
    let case = &(tilewise::ops::REGISTRY[0].cases)().unwrap()[0];
    assert_eq!(case.draw(1), case.draw(1));
    assert_ne!(case.draw(1), case.draw(2));
    assert_ne!(case.draw(1)[0], case.draw(1)[1]);
}
