//! `tilewise bench` as a user meets it, on the best adapter: a small network end to end, what is saved of it, comparisons.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tilewise::bench::roof::{Roof, cases};
use tilewise::bench::{Phase, Report};
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

fn succeeds(arguments: &[&str]) -> String {
    let output = tilewise(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
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

/// Nothing in a page is fetched from elsewhere; the namespace of SVG is a name, not an address.
fn assert_self_contained(page: &str) {
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
    let rest = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for foreign in ["http", "<script", "<link", "<img", "url(", "@import", "NaN", ">inf<"] {
        assert!(!rest.contains(foreign), "{foreign:?} is in it");
    }
}

#[test]
fn the_kernels_of_the_roof_equal_their_references() {
    let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
    for case in cases().unwrap() {
        let candidates = selftest::candidates(&gpu, &case).unwrap().len();
        assert!(candidates > 0 || case.op.name() == "device_matrix_multiply_add", "{}", case.name);
        for candidate in 0..candidates {
            let comparison = selftest::check_case(&gpu, &case, candidate, 1).unwrap_or_else(|error| panic!("{error}"));
            assert!(comparison.worst <= 1.0);
        }
    }
}

#[test]
fn a_network_is_measured_saved_drawn_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (saved, csv, page) = (path("before.json"), path("rows.csv"), path("page.html"));
    let network = ["bench", "--input", "44", "--base", "8", "--depth", "2", "--repeats", "2"];
    let text = succeeds(&[&network[..], &["--save", &saved, "--csv", &csv, "--html", &page]].concat());
    for part in [
        "multiply-add, f32",
        "dispatch",
        "custom: 44×44, base 8, depth 2, batch 1",
        "inference",
        "forward and backward",
        "images/s",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }

    let report = Report::read(&PathBuf::from(&saved)).unwrap();
    let again = path("again.json");
    report.write(&PathBuf::from(&again)).unwrap();
    assert_eq!(Report::read(&PathBuf::from(&again)).unwrap(), report, "what is written is read back");
    assert_eq!(fs::read(&again).unwrap(), fs::read(&saved).unwrap());
    assert_eq!((report.schema.as_str(), report.version, report.settings.repeats), ("tilewise-bench", 1, 2));
    let roof: Roof = report.roof.unwrap();
    assert!(roof.flops_per_second() > 1e8 && roof.bytes_per_second() > 1e8 && roof.submit.least > 0.0);
    let [measured] = report.networks.as_slice() else { panic!("{} networks", report.networks.len()) };
    let checked = measured.checked.as_ref().unwrap();
    assert!(checked.workload == measured.workload && checked.results > 40 && checked.worst <= 1.0);
    assert!(measured.first_step_seconds > measured.ready_seconds && measured.ready_seconds > 0.0);
    let [inference, gradients, step] = measured.passes.as_slice() else { panic!("{:?}", measured.passes) };
    for pass in [inference, gradients, step] {
        assert!(
            pass.seconds.least > 0.0
                && pass.seconds.least <= pass.seconds.median
                && pass.seconds.median <= pass.seconds.most
        );
        assert_eq!(pass.planned_bytes, pass.allocated_bytes);
        assert!((pass.images_per_second * pass.seconds.median - 1.0).abs() < 1e-9);
    }
    assert!(inference.flops < gradients.flops && gradients.flops < step.flops);
    let html = fs::read_to_string(&page).unwrap();
    assert_self_contained(&html);
    assert!(html.contains("custom: 44×44"));
    let rows = fs::read_to_string(&csv).unwrap();
    let columns = rows.lines().next().unwrap().split(',').count();
    assert!(rows.lines().all(|row| row.split(',').count() == columns), "{rows}");
    let rates = 5 + [roof.multiply_add_f16, roof.matrix_multiply_add].iter().flatten().count();
    assert_eq!(rows.lines().count(), 1 + rates + 2 + 3 + measured.layers.len());

    // Every op of the step has its row, where the device can time kernels.
    if measured.layers.is_empty() {
        assert!(report.notes[0].contains("no timestamps"));
    } else {
        assert_eq!(measured.layers.iter().map(|layer| layer.flops).sum::<u64>(), step.flops);
        let phases = measured.layers.iter().map(|layer| layer.phase);
        assert!(phases.is_sorted_by_key(|phase| {
            [Phase::Forward, Phase::Backward, Phase::Update].iter().position(|p| *p == phase)
        }));
        let nodes: BTreeSet<&str> = measured.layers.iter().map(|layer| layer.node.as_str()).collect();
        assert!(
            nodes.contains("encoder0.conv1.relu")
                && nodes.contains("encoder0.conv2.grad_weight")
                && nodes.contains("update")
        );
        for layer in &measured.layers {
            let least = roof.least_seconds(layer.flops, layer.bytes);
            let share = layer.share_of_roof.unwrap();
            assert!(
                (share * layer.seconds.median / least - 1.0).abs() < 1e-9 && !layer.kernels.is_empty(),
                "{layer:?}"
            );
        }
        assert!(html.contains("<svg") && html.contains("GFLOP/s") && text.contains("conv2d_grad_weight"));
    }
    compare(&saved, &path, measured.layers.is_empty());
}

/// Comparisons with what differs from a saved result.
fn compare(saved: &str, path: &impl Fn(&str) -> String, untimed: bool) {
    let value: Value = serde_json::from_str(&fs::read_to_string(saved).unwrap()).unwrap();
    let change = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut value = value.clone();
        change(&mut value);
        fs::write(path(name), value.to_string()).unwrap();
        path(name)
    };
    let faster = change("after.json", &|value| {
        let network = &mut value["networks"][0];
        network["workload"]["name"] = "renamed".into();
        let median = network["passes"][0]["seconds"]["median"].as_f64().unwrap();
        network["passes"][0]["seconds"]["median"] = (median / 4.0).into();
        if !untimed {
            network["layers"][0]["node"] = "fused".into();
        }
    });
    let mixed = change("mixed.json", &|value| value["networks"][0]["workload"]["precision"] = "mixed".into());
    let table = succeeds(&["bench", "--compare", saved, &mixed]);
    assert!(table.contains("mixed is of custom: 44×44, base 8, depth 2, batch 1, mixed precision"), "{table}");
    let page = path("comparison.html");
    let table = succeeds(&["bench", "--compare", saved, &faster, "--html", &page, "--markdown"]);
    let row = table.lines().find(|line| line.starts_with("| inference |")).unwrap();
    assert!(row.ends_with("| 4.00 |") && table.contains("| before ms | after ms | after: times as fast |"), "{table}");
    if !untimed {
        let row = table.lines().find(|line| line.starts_with("| fused |")).unwrap();
        assert!(row.contains("| fused | – |"), "{row}");
    }
    let html = fs::read_to_string(&page).unwrap();
    assert_self_contained(&html);
    assert!(html.contains("Comparison") && html.contains("before") && html.contains("after"));
    if !untimed {
        // Roofs and dots have their colours in the order given, which is not that of the alphabet.
        let plot = &html[html.find("<svg").unwrap()..html.find("</svg>").unwrap()];
        assert!(plot.find(">\nbefore").unwrap() < plot.find(">\nafter").unwrap());
        let first = |parts: [&str; 2]| plot.lines().find(|line| parts.iter().all(|part| line.contains(part))).unwrap();
        for line in [first(["<circle", "r=\"5\""]), first(["<polyline", "stroke-width=\"2\""])] {
            assert!(line.contains("#0072B2"), "{line}");
        }
    }

    let other = change("other.json", &|value| value["networks"][0]["workload"]["input"] = 60.into());
    let foreign_net = change("semseg.json", &|value| value["networks"][0]["workload"]["model"] = "semseg".into());
    let newer = change("newer.json", &|value| value["version"] = 2.into());
    let foreign = change("foreign.json", &|value| value["schema"] = Value::Null);
    let damaged = change("damaged.json", &|value| value["networks"][0]["passes"] = json!("none"));
    fs::write(path("broken.json"), "{\"schema\": ").unwrap();
    for (file, parts) in [
        (other, &["other.json", "44×44", "before.json", "60×60", "measure the same"][..]),
        (foreign_net, &["semseg.json", "there is no network", "measure the same"]),
        (newer, &["newer.json", "version 2", "reads 1"]),
        (foreign, &["foreign.json", "`schema` is null", "\"tilewise-bench\""]),
        (damaged, &["damaged.json", "damaged"]),
        (path("broken.json"), &["broken.json", "no JSON", "--save"]),
    ] {
        fails(3, &["bench", "--compare", saved, &file], parts);
    }
    fails(6, &["bench", "--compare", saved, &path("none.json")], &["none.json"]);
    fails(2, &["bench", "--compare", saved], &["nothing to compare", "before.json"]);
}

#[test]
fn the_cpu_executor_is_measured_without_what_it_has_not() {
    let json = succeeds(&["bench", "--device", "cpu", "--input", "20", "--base", "2", "--depth", "1", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json["roof"].is_null() && json["notes"][0].as_str().unwrap().contains("no roof"));
    let network = &json["networks"][0];
    assert_eq!(network["passes"].as_array().unwrap().len(), 3);
    assert!(network["checked"].is_null() && network["layers"].as_array().unwrap().is_empty());
    let markdown = succeeds(&[
        "bench",
        "--device",
        "cpu",
        "--input",
        "20",
        "--base",
        "2",
        "--depth",
        "1",
        "--batch",
        "3",
        "--markdown",
    ]);
    assert!(
        markdown.contains("### custom: 20×20, base 2, depth 1, batch 3") && markdown.contains("| inference |"),
        "{markdown}"
    );
}

/// What `bench --rounds` answers to these lines: exit code, answers, what it says beside.
fn rounds(folder: &Path, more: &[&str], requests: &str) -> (Option<i32>, Vec<Value>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tilewise"));
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    command.args(["bench", "--input", "20", "--base", "2", "--depth", "1", "--rounds", folder.to_str().unwrap()]);
    let streams = command.args(more).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = streams.spawn().unwrap();
    process.stdin.take().unwrap().write_all(requests.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    let answers = String::from_utf8(output.stdout).unwrap();
    let answers = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (output.status.code(), answers, String::from_utf8(output.stderr).unwrap())
}

#[test]
fn rounds_are_timed_on_request_and_results_laid_out_for_other_programs() {
    let folder = tempfile::tempdir().unwrap();
    let path = |device: &str, name: &str| folder.path().join(device).join(format!("{name}.safetensors"));
    let floats = |device: &str, file: &str, tensor: &str| -> Vec<f32> {
        let bytes = fs::read(path(device, file)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        file.tensor(tensor).unwrap().data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    };
    for device in ["auto", "cpu"] {
        let requests = "inference 3\ntraining step 1\ninference 0\n";
        let (code, answers, errors) = rounds(&folder.path().join(device), &["--device", device], requests);
        assert_eq!(code, Some(0), "{errors}");
        let [facts, inference, step, none] = answers.as_slice() else { panic!("{answers:?}") };
        assert!(facts["device"]["name"].is_string() && facts["version"].as_str().unwrap().contains("wgpu 30."));
        assert!(facts["flops"]["training step"].as_u64() > facts["flops"]["inference"].as_u64());
        assert!(facts["first_seconds"]["inference"].as_f64().unwrap() > 0.0);
        let lengths = [inference, step, none].map(|times| times.as_array().unwrap().len());
        assert_eq!(lengths, [3, 1, 0]);
        assert!(inference[2].as_f64().unwrap() > 0.0);
    }
    for name in ["weights", "inputs"] {
        assert_eq!(fs::read(path("auto", name)).unwrap(), fs::read(path("cpu", name)).unwrap(), "{name}");
    }
    let inputs = fs::read(path("cpu", "inputs")).unwrap();
    let inputs = SafeTensors::deserialize(&inputs).unwrap();
    assert_eq!(inputs.tensor("image").unwrap().shape(), [1, 1, 20, 20]);
    assert_eq!(inputs.tensor("labels").unwrap().shape(), [1, 4, 4]);
    assert!(floats("cpu", "weights", "head.bias").iter().all(|&bias| bias != 0.0), "a bias that counts");
    for (file, tensor) in [("outputs", "logits"), ("outputs", "losses"), ("gradients", "encoder0.conv1.weight")] {
        let (found, expected) = (floats("auto", file, tensor), floats("cpu", file, tensor));
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4 * (b.abs() + 1e-2);
        assert!(found.len() == expected.len() && found.iter().zip(&expected).all(close), "{found:?}, {expected:?}");
    }
    let losses = floats("cpu", "outputs", "losses");
    assert!(losses[0] > losses[1] && losses[1] > losses[2], "steps that are told apart: {losses:?}");

    let (code, _, errors) = rounds(folder.path(), &["--device", "cpu"], "guesswork 3\n");
    assert!(code == Some(2) && errors.contains("guesswork 3") && errors.contains("inference N"), "{errors}");
    let (code, _, errors) = rounds(folder.path(), &["--preset", "tiny"], "");
    assert!(code == Some(2) && errors.contains("one network, got 2"), "{errors}");
}

#[test]
fn what_cannot_be_measured_is_refused_by_name() {
    fails(2, &["bench", "--preset", "huge"], &["\"huge\"", "tiny, small, medium, paper"]);
    fails(2, &["bench", "--device", "cpu", "--input", "45", "--depth", "2"], &["45", "44"]);
    fails(2, &["bench", "--device", "cpu", "--repeats", "0"], &["0 repeats"]);
    fails(2, &["bench", "--base", "8"], &["--input"]);
    fails(2, &["bench", "--compare", "a.json", "b.json", "--preset", "tiny"], &["--compare", "--preset"]);
}

#[test]
fn a_profiled_step_is_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("step.json");
    let network = ["explain", "--input", "20", "--base", "2", "--depth", "1"];
    let profile = ["--profile", "1", "--trace", trace.to_str().unwrap()];
    let output = tilewise(&[&network[..], &profile].concat());
    if output.status.success() {
        let trace: Value = serde_json::from_str(&fs::read_to_string(&trace).unwrap()).unwrap();
        assert!(
            trace["traceEvents"]
                .as_array()
                .unwrap()
                .iter()
                .any(|event| event["name"] == "encoder0.conv1.relu" && event["ph"] == "X")
        );
    } else {
        assert!(String::from_utf8_lossy(&output.stderr).contains("cannot time kernels"));
    }
    fails(2, &[&network[..], &profile[2..]].concat(), &["--profile"]);
}
