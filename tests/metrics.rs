//! Scores: against those of Python packages (tests/golden/metrics.py), by their properties, and in time.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;
use tilewise::data::{Components, Connectivity, LabelMap};
use tilewise::metrics::{AdaptedRand, Confusion, Contingency, InstanceScores, SplitMerge, thin_borders, warping_error};
use tilewise::random::Random;

/// The sums have other orders here and in Python.
const ROUNDING: f64 = 1e-12;

/// Where two segments reach a pixel at the same time, scikit-image draws some lines on the other side: see docs/metrics.md.
const LINES: f64 = 5e-3;

/// The cases of a file that metrics.py wrote.
fn cases(path: impl AsRef<Path>) -> Vec<Value> {
    let mut golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    serde_json::from_value(golden["cases"].take()).unwrap()
}

fn numbers<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn parts(SplitMerge { score, split, merge }: SplitMerge) -> [f64; 3] {
    [score, split, merge]
}

/// Class 1 where a label map has something, and class 0 elsewhere.
fn classes(labels: &LabelMap, is_object: impl Fn(u32) -> bool) -> LabelMap {
    LabelMap { values: labels.values.iter().map(|&label| u32::from(is_object(label))).collect(), ..*labels }
}

/// How far each score is from what is expected, under the names of metrics.py.
fn differences(truth: &LabelMap, prediction: &LabelMap, expected: &Value) -> BTreeMap<&'static str, f64> {
    // Pixel by pixel: three classes, the number of the object modulo 3.
    let mut confusion = Confusion::new(3);
    let modulo = |labels: &LabelMap| -> Vec<u32> { labels.values.iter().map(|label| label % 3).collect() };
    confusion.add(&modulo(truth), &modulo(prediction)).unwrap();
    let pixels = confusion.scores();
    let table = Contingency::new(truth, prediction).unwrap();
    let AdaptedRand { error, precision, recall } = table.adapted_rand().unwrap();
    let mut found = vec![
        ("iou", pixels.classes.iter().filter_map(|class| class.iou).collect()),
        ("dice", pixels.classes.iter().filter_map(|class| class.dice).collect()),
        ("mean_iou", vec![pixels.mean_iou.unwrap()]),
        ("foreground_iou", vec![pixels.foreground_iou.unwrap()]),
        ("pixel_error", vec![pixels.pixel_error]),
        ("adapted_rand", vec![error, precision, recall]),
        ("v_rand", parts(table.v_rand().unwrap()).to_vec()),
        ("v_info", parts(table.v_info().unwrap()).to_vec()),
        ("seg", vec![table.seg().unwrap()]),
        ("average_precision", table.average_precision().unwrap().to_vec()),
        ("merged_objects", vec![table.merged_objects() as f64]),
        ("warping_error", vec![warping_error(truth, prediction).unwrap().unwrap()]),
    ];
    if let Value::Array(thinned) = &expected["thinned"] {
        assert_eq!(thinned.len(), 6);
        let thinned = Contingency::new(truth, &thin_borders(prediction)).unwrap();
        let scores = [thinned.v_rand().unwrap(), thinned.v_info().unwrap()];
        found.push(("thinned", scores.into_iter().flat_map(parts).collect()));
    }
    let difference = |(name, found): (&'static str, Vec<f64>)| {
        let expected: Vec<f64> = numbers(&expected[name]);
        assert_eq!(found.len(), expected.len(), "{name}");
        // A NaN counts as the worst there is.
        let apart = |(found, expected): (&f64, f64)| match (found - expected).abs() {
            apart if apart.is_nan() => f64::INFINITY,
            apart => apart,
        };
        (name, found.iter().zip(expected).map(apart).fold(0.0, f64::max))
    };
    found.into_iter().map(difference).collect()
}

#[test]
fn scores_of_drawn_maps_equal_those_of_python_packages() {
    let cases = cases(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/metrics.json"));
    assert_eq!(cases.len(), 6);
    for case in cases {
        let side = |key: &str| case[key].as_u64().unwrap() as usize;
        let map = |key: &str| LabelMap { height: side("height"), width: side("width"), values: numbers(&case[key]) };
        let (truth, prediction, expected) = (map("truth"), map("prediction"), &case["expected"]);
        for (score, apart) in differences(&truth, &prediction, expected) {
            assert!(apart <= ROUNDING, "{}: {score} is off by {apart}", case["name"]);
        }
        for (connectivity, key) in [(Connectivity::Four, "components4"), (Connectivity::Eight, "components8")] {
            let found =
                Components { connectivity, min_size: 0 }.label(&classes(&prediction, |label| label != 0)).values;
            assert_eq!(found, numbers::<Vec<u32>>(&expected[key]), "{}: {key}", case["name"]);
        }
    }
}

/// Real label maps are not part of the project: set `TILEWISE_METRICS` to a file that metrics.py wrote of two folders of them.
#[test]
#[ignore = "needs a file that is not part of the project, named by TILEWISE_METRICS"]
fn scores_of_real_maps_equal_those_of_python_packages() {
    let mut largest: BTreeMap<&str, f64> = BTreeMap::new();
    let cases = cases(std::env::var("TILEWISE_METRICS").unwrap());
    assert!(!cases.is_empty());
    for case in &cases {
        let read = |key: &str| LabelMap::read(case[key].as_str().unwrap()).unwrap();
        let (truth, prediction) = (read("truth"), read("prediction"));
        let truth = match case["regions"].as_u64() {
            Some(value) => Components::default().label(&classes(&truth, |label| u64::from(label) == value)),
            None => truth,
        };
        for (score, apart) in differences(&truth, &prediction, &case["expected"]) {
            let bound = if score == "thinned" { LINES } else { ROUNDING };
            assert!(apart <= bound, "{}: {score} is off by {apart}", case["name"]);
            let largest = largest.entry(score).or_default();
            *largest = largest.max(apart);
        }
    }
    println!("{} pairs of label maps, the largest differences: {largest:#?}", cases.len());
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
