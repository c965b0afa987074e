//! Scores by object: against scikit-image and plain loops (tests/golden/metrics.py), by their properties, and in time.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;
use serde_json::Value;
use std::path::Path;
use std::time::Instant;
use tilewise::data::{Components, Connectivity, LabelMap};
use tilewise::metrics::{AdaptedRand, Contingency, InstanceScores, SplitMerge, thin_borders, warping_error};
use tilewise::random::Random;

/// The sums have other orders here and in Python.
const ROUNDING: f64 = 1e-12;

#[track_caller]
fn assert_close(name: &str, found: &[f64], expected: &Value) {
    let expected: Vec<f64> = match expected {
        Value::Array(values) => values.iter().map(|value| value.as_f64().unwrap()).collect(),
        value => vec![value.as_f64().unwrap()],
    };
    assert_eq!(found.len(), expected.len(), "{name}");
    for (found, expected) in found.iter().zip(expected) {
        let error = (found - expected).abs();
        assert!(error <= ROUNDING, "{name}: {found}, not {expected}");
    }
}

fn parts(SplitMerge { score, split, merge }: SplitMerge) -> [f64; 3] {
    [score, split, merge]
}

#[test]
fn scores_equal_scikit_image_and_plain_loops() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/metrics.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 6);
    let mut warped = 0;
    for case in cases {
        let numbers = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
        let side = |key: &str| case[key].as_u64().unwrap() as usize;
        let map = |key| LabelMap { height: side("height"), width: side("width"), values: numbers(&case[key]) };
        let (truth, prediction, expected) = (map("truth"), map("prediction"), &case["expected"]);
        let name = |score: &str| format!("{}: {score}", case["name"].as_str().unwrap());

        let table = Contingency::new(&truth, &prediction).unwrap();
        let AdaptedRand { error, precision, recall } = table.adapted_rand().unwrap();
        assert_close(&name("adapted Rand"), &[error, precision, recall], &expected["adapted_rand"]);
        assert_close(&name("V_Rand"), &parts(table.v_rand().unwrap()), &expected["v_rand"]);
        assert_close(&name("V_Info"), &parts(table.v_info().unwrap()), &expected["v_info"]);
        assert_close(&name("SEG"), &[table.seg().unwrap()], &expected["seg"]);
        assert_close(&name("precision"), &table.average_precision().unwrap(), &expected["average_precision"]);
        assert_eq!(table.merged_objects() as u64, expected["merged_objects"].as_u64().unwrap(), "{}", name("merged"));
        if let Some(error) = expected.get("warping_error") {
            assert_close(&name("warping"), &[warping_error(&truth, &prediction).unwrap().unwrap()], error);
            warped += 1;
        }

        let classes = prediction.values.iter().map(|&label| u32::from(label != 0)).collect();
        let classes = LabelMap { values: classes, ..prediction };
        for (connectivity, key) in [(Connectivity::Four, "components4"), (Connectivity::Eight, "components8")] {
            let found = Components { connectivity, min_size: 0 }.label(&classes).values;
            assert_eq!(found, numbers(&expected[key]), "{}", name(key));
        }
    }
    assert_eq!(warped, 3);
}

prop_compose! {
    fn maps(labels: u32)(height in 1..9_usize, width in 1..9_usize)(
        truth in prop::collection::vec(0..labels, height * width),
        prediction in prop::collection::vec(0..labels, height * width),
        height in Just(height),
        width in Just(width),
    ) -> [LabelMap; 2] {
        [truth, prediction].map(|values| LabelMap { height, width, values })
    }
}

/// All scores of a pair in a row, absent ones as -1.
fn all(truth: &LabelMap, prediction: &LabelMap) -> Vec<f64> {
    let scores = InstanceScores::new(truth, prediction).unwrap();
    let rand = scores.adapted_rand.map_or([-1.0; 3], |rand| [rand.error, rand.precision, rand.recall]);
    let halves = [scores.v_rand_thinned, scores.v_info_thinned].map(|score| score.map_or([-1.0; 3], parts));
    let single = [scores.seg, scores.warping_error].map(|score| score.unwrap_or(-1.0));
    let counts = [scores.true_objects, scores.predicted_objects, scores.merged_objects].map(|count| count as f64);
    let precision = scores.average_precision.unwrap_or([-1.0; 10]);
    [&rand, halves.as_flattened(), &single, &counts, &precision].concat()
}

fn near(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= ROUNDING)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn other_numbers_for_the_same_objects_change_nothing([truth, prediction] in maps(6), key in 1..1000_u32) {
        // An injection that turns the order round and leaves background alone.
        let renamed = |map: &LabelMap| {
            let values = map.values.iter().map(|&label| if label == 0 { 0 } else { 100_000 - key * label }).collect();
            LabelMap { values, ..*map }
        };
        let (before, after) = (all(&truth, &prediction), all(&renamed(&truth), &renamed(&prediction)));
        prop_assert!(near(&before, &after), "{before:?}, then {after:?}");
    }

    #[test]
    fn a_perfect_prediction_has_perfect_scores([truth, _] in maps(4)) {
        let scores = InstanceScores::new(&truth, &truth).unwrap();
        prop_assert_eq!((scores.merged_objects, scores.warping_error), (0, Some(0.0)));
        let has_objects = truth.values.iter().any(|&label| label != 0);
        prop_assert_eq!(scores.average_precision, has_objects.then_some([1.0; 10]));
        prop_assert_eq!(scores.seg, has_objects.then_some(1.0));
        prop_assert_eq!(scores.adapted_rand.map(|rand| rand.error), has_objects.then_some(0.0));
        let table = Contingency::new(&truth, &truth).unwrap();
        for score in [scores.v_rand_thinned, scores.v_info_thinned, table.v_rand(), table.v_info()] {
            prop_assert!(score.map_or(!has_objects, |score| near(&parts(score), &[1.0; 3])), "{score:?}");
        }
    }

    #[test]
    fn scores_lie_between_0_and_1([truth, prediction] in maps(5)) {
        let scores = InstanceScores::new(&truth, &prediction).unwrap();
        let halves = [scores.v_rand_thinned, scores.v_info_thinned].into_iter().flatten().flat_map(parts);
        let rand = scores.adapted_rand.into_iter().flat_map(|rand| [rand.error, rand.precision, rand.recall]);
        let precision = scores.average_precision.into_iter().flatten();
        let single = [scores.seg, scores.warping_error].into_iter().flatten();
        for score in halves.chain(rand).chain(precision).chain(single) {
            prop_assert!((0.0..=1.0 + ROUNDING).contains(&score), "{scores:?}");
        }
        prop_assert!(scores.merged_objects <= scores.true_objects);
    }

    #[test]
    fn thinning_keeps_segments_and_lets_them_meet_nowhere([segments, _] in maps(2)) {
        let segments = Components::default().label(&segments);
        let thinned = thin_borders(&segments);
        for (before, after) in segments.values.iter().zip(&thinned.values) {
            prop_assert!(*before == 0 || before == after);
        }
        let classes = thinned.values.iter().map(|&label| u32::from(label != 0)).collect();
        let pieces = Components::default().label(&LabelMap { values: classes, ..thinned });
        prop_assert_eq!(pieces.values.iter().max(), segments.values.iter().max());
        prop_assert_eq!(&thin_borders(&thinned), &thinned, "thinning again changes nothing");
    }
}

/// Discs on a grid, moved and lost at random.
fn discs(seed: u32, side: usize, pitch: usize) -> LabelMap {
    let mut random = Random::new(seed, 0);
    let mut values = vec![0; side * side];
    let corners = (0..side).step_by(pitch).flat_map(|top| (0..side).step_by(pitch).map(move |left| (top, left)));
    for ((top, left), number) in corners.zip(1..) {
        let [cy, cx] = [top, left].map(|from| from as f32 + random.between(3.0, pitch as f32 - 3.0));
        let radius = random.between(0.0, pitch as f32 / 2.0);
        for y in top..(top + pitch).min(side) {
            for x in left..(left + pitch).min(side) {
                if (y as f32 - cy).hypot(x as f32 - cx) < radius {
                    values[y * side + x] = number;
                }
            }
        }
    }
    LabelMap { height: side, width: side, values }
}

#[test]
fn thousands_of_objects_take_well_under_a_second() {
    let (truth, prediction) = (discs(1, 1024, 12), discs(2, 1024, 12));
    let start = Instant::now();
    let table = Contingency::new(&truth, &prediction).unwrap();
    let scores = (table.adapted_rand(), table.v_rand(), table.v_info(), table.seg(), table.average_precision());
    let elapsed = start.elapsed();
    println!("{} true and {} predicted objects: {elapsed:?}", table.true_objects(), table.predicted_objects());
    assert!(table.true_objects() > 5000 && table.merged_objects() == 0 && scores.3.is_some());
    assert!(elapsed.as_millis() < 500, "{elapsed:?}");
    let start = Instant::now();
    InstanceScores::new(&truth, &prediction).unwrap();
    println!("with thinning and warping: {:?}", start.elapsed());
}
