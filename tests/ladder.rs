//! The ladders: every rung equals the reference, and `tilewise ladder` as a user meets it, on the best adapter.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::Value;
use std::process::{Command, Output};
use tilewise::bench::LADDERS;
use tilewise::gpu::Gpu;
use tilewise::selftest;

fn tilewise(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_tilewise"))
        .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
        .args(arguments)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("panicked"), "{arguments:?}: {errors}");
    output
}

#[track_caller]
fn fails(code: i32, arguments: &[&str], parts: &[&str]) {
    let output = tilewise(arguments);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
    for part in parts {
        assert!(message.contains(part), "{arguments:?}: no {part:?} in: {message}");
    }
}

/// The result, or nothing where the device cannot time kernels, which it then says.
fn result(arguments: &[&str]) -> Option<String> {
    let output = tilewise(arguments);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    if message.contains("cannot time kernels") {
        return None;
    }
    assert!(output.status.success(), "{arguments:?}: {message}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn every_rung_equals_its_reference() {
    let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
    for ladder in LADDERS {
        let anywhere = ladder.rungs.iter().filter(|rung| rung.needs.is_empty()).count();
        for case in (ladder.entry.cases)().unwrap() {
            let rungs = selftest::candidates(&gpu, &case).unwrap().len();
            assert!(rungs >= anywhere, "{}, {}: {rungs} rungs", ladder.name, case.name);
            for rung in 0..rungs {
                let comparison = selftest::check_case(&gpu, &case, rung, 1);
                let comparison = comparison.unwrap_or_else(|error| panic!("rung {rung} of those offered: {error}"));
                assert!(comparison.worst <= 1.0);
            }
        }
    }
}

#[test]
fn a_ladder_is_climbed_and_says_why() {
    for (ladder, parts) in [
        (
            &["conv2d", "--size", "10", "--channels", "8"][..],
            &["one invocation", "naive", "workgroup memory", "tiled", "10×10×8 and 3×3×8×8"][..],
        ),
        (
            &["grad_weight", "--size", "9", "--channels", "20"],
            &["one invocation", "parts", "conv2d/reduce_partials", "9×9×20 and 1×7×7×20"],
        ),
        (
            &["conv2d", "--size", "10", "--channels", "16", "--precision", "mixed"],
            &["tiled", "10×10×16 f16 and 3×3×16×16", "naive", "not here: it needs activations in f32", "matrices"],
        ),
        (
            &["loss", "--size", "70"],
            &["one invocation", "serial", "interleaved *", "cross_entropy/sum", "memory binds"],
        ),
    ] {
        if ladder.contains(&"mixed") && !Gpu::any().unwrap().profile().f16 {
            fails(4, &[&["ladder"], ladder].concat(), &["f16", "--precision f32"]);
            continue;
        }
        let arguments = [&["ladder", "--repeats", "2"], ladder].concat();
        let Some(text) = result(&arguments) else { return };
        for part in parts.iter().chain(&["% of roof", "held against the reference"]) {
            assert!(text.contains(part), "{ladder:?}: no {part:?} in:\n{text}");
        }
    }
    let arguments = ["ladder", "conv2d", "--size", "8", "--channels", "6", "--repeats", "2", "--json", "--quiet"];
    let Some(json) = result(&arguments) else { return };
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((json["ladder"].as_str(), json["flops"].as_u64()), (Some("conv2d"), Some(2 * 36 * 9 * 36)));
    assert!(json["roof"]["multiply_add"]["work"].as_u64() > Some(0) && json["device"]["name"].is_string());
    let steps = json["steps"].as_array().unwrap();
    assert!(steps.len() >= 4 && steps.iter().filter(|step| step["in_use"] == true).count() <= 1, "{steps:?}");
    for step in steps {
        assert!(step["worst"].as_f64().unwrap() <= 1.0 && step["seconds"]["median"].as_f64().unwrap() > 0.0, "{step}");
        assert!(!step["kernels"].as_array().unwrap().is_empty() && step["idea"].is_string(), "{step}");
    }
    let absent: Vec<&str> =
        json["absent"].as_array().unwrap().iter().map(|rung| rung["name"].as_str().unwrap()).collect();
    assert!(absent.starts_with(&["vec4", "tiled"]), "{absent:?}");
}

#[test]
fn what_is_no_ladder_is_refused_by_name() {
    fails(2, &["ladder"], &["<LADDER>"]);
    fails(2, &["ladder", "conv3d"], &["\"conv3d\"", "conv2d, grad_weight, loss"]);
    fails(2, &["ladder", "loss", "--channels", "3"], &["no channels", "--channels"]);
    fails(2, &["ladder", "loss", "--precision", "mixed"], &["f32 in mixed precision, too", "leave out --precision"]);
    fails(2, &["ladder", "conv2d", "--precision", "f8"], &["\"f8\"", "f32 and mixed"]);
    fails(2, &["ladder", "conv2d", "--size", "2"], &["ladder conv2d", "[3, 3]", "[2, 2]"]);
    fails(2, &["ladder", "conv2d", "--repeats", "0"], &["0 repeats"]);
    fails(4, &["ladder", "conv2d", "--device", "cpu"], &["nothing to climb"]);
}
