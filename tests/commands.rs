//! The commands as a user meets them: results, exit codes, and messages that say what to do. Everything runs on the CPU executor.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::{Command, Output};
use tilewise::checkpoint::{Metadata, Section, Weights, save};
use tilewise::data::dataset::Mapping;
use tilewise::data::raster::write_grey8;
use tilewise::data::{LabelMap, cells};
use tilewise::models::{UNet, Variant};

const NET: UNet = UNet { variant: Variant::Unet, in_channels: 1, classes: 2, base_channels: 2, depth: 2, dropout: 0.0 };

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

/// The error message of a command that must fail with this exit code.
#[track_caller]
fn fails(code: i32, arguments: &[&str], parts: &[&str]) {
    let output = tilewise(arguments);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
    for part in parts {
        assert!(message.contains(part), "{arguments:?}: no {part:?} in: {message}");
    }
}

fn succeeds(arguments: &[&str]) -> String {
    let output = tilewise(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A folder with weights of a small network and a small data set.
fn fixture() -> (tempfile::TempDir, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let graph = NET.build(1, [NET.smallest_side(); 2]).unwrap().graph;
    let bank = graph.initial_parameters(1);
    let weights = folder.path().join("weights.safetensors");
    let metadata = Metadata::new().with(Metadata::MODEL, &NET).with(Metadata::STEP, &1);
    save(&weights, &graph, &[Section { prefix: "", bank: &bank }], &metadata).unwrap();
    let data = folder.path().join("data");
    cells::write_dataset(&data, 0..2, |index| cells::generate(1, index, 48)).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (weights, data) = (text(&weights), text(&data));
    (folder, weights, data)
}

#[test]
fn explain_prints_the_papers_figure() {
    let table = succeeds(&["explain"]);
    for part in ["388×388", "31030658 parameters", "encoder0.conv1", "3×3×1×64", "conv2d/forward", "training plan"]
    {
        assert!(table.contains(part), "no {part:?} in:\n{table}");
    }
    let json: serde_json::Value = serde_json::from_str(&succeeds(&["explain", "--json"])).unwrap();
    assert_eq!((json["input"].as_u64(), json["output"].as_u64()), (Some(572), Some(388)));
    assert_eq!(json["parameters"], 31_030_658);
    assert!(json["plan_bytes"].as_u64().unwrap() > 1 << 30);
    let convolutions = json["layers"].as_array().unwrap().iter().filter(|row| !row["weight"].is_null()).count();
    assert_eq!(convolutions, 23);
    let dot = succeeds(&["explain", "--input", "92", "--depth", "3", "--base", "4", "--dot"]);
    assert!(dot.starts_with("digraph") && dot.trim_end().ends_with('}'));
    fails(2, &["explain", "--input", "570"], &["570", "556", "572"]);
    fails(2, &["explain", "--input", "18446744073709551615"], &["18446744073709551", "nearest legal"]);
    fails(2, &["explain", "--depth", "99"], &["depth must be 1 to 7"]);
}

#[test]
fn every_command_has_help_and_the_listing_always_offers_the_cpu() {
    for command in [
        "demo",
        "cells",
        "check-data",
        "augment",
        "train",
        "predict",
        "evaluate",
        "devices",
        "selftest",
        "explain",
        "export",
        "bench",
        "ladder",
    ] {
        let help = succeeds(&[command, "--help"]);
        assert!(help.contains("--device") && help.contains("--seed"), "{command}: {help}");
    }
    assert!(succeeds(&["devices"]).contains("--device cpu"));
    let json: serde_json::Value = serde_json::from_str(&succeeds(&["devices", "--json"])).unwrap();
    assert!(json.is_array());
    fails(4, &["selftest", "--device", "no such adapter"], &["no such adapter", "auto, cpu"]);
    fails(4, &["selftest", "--device", "cpu"], &["reference itself"]);
}

#[test]
fn cells_are_made_for_trying_things_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (grey, stained) = (path("grey"), path("stained"));
    succeeds(&["cells", "--out", &grey, "--count", "2", "--size", "64"]);
    succeeds(&["cells", "--out", &stained, "--stained", "--count", "2", "--first", "5", "--size", "64"]);
    assert!(succeeds(&["check-data", &grey]).contains("ready to train on"));
    assert!(succeeds(&["check-data", &stained, "--classes", "3"]).contains("class 2 "));
    assert!(folder.path().join("stained/masks/stained-0006.png").exists());
    fails(
        2,
        &["cells", "--out", &grey, "--stained", "--count", "1"],
        &["instances is the truth of other pictures", "another folder"],
    );
    fails(2, &["cells", "--out", &grey, "--first", "4294967295", "--count", "2"], &["more than there are"]);
    fails(2, &["cells", "--out", &grey, "--size", "0"], &["1..=8192"]);
}

#[test]
fn augment_draws_tiles_as_training_would_change_them() {
    let (folder, _, data) = fixture();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("run.toml"), "tile = 60\ndepth = 2\n[augment]\nelastic = 2.0\n").unwrap();
    let (sheet, again, config) = (path("sheet.png"), path("again.png"), path("run.toml"));
    let arguments = ["augment", "--device", "cpu", "--data", &data, "--config", &config, "--versions", "3"];
    let text = succeeds(&[&arguments[..], &["--preview", &sheet]].concat());
    assert!(text.contains("elastic 2 px on 3×3") && text.contains("2 images"), "{text}");
    succeeds(&[&arguments[..], &["--preview", &again]].concat());
    assert_eq!(std::fs::read(&sheet).unwrap(), std::fs::read(&again).unwrap(), "the seed decides");
    // Four tiles of 60 - 40 pixels in a row, gaps of 6; two rows under headings of 15.
    let picture = image::open(&sheet).unwrap().to_rgb8();
    assert_eq!(picture.dimensions(), (4 * 20 + 5 * 6, 2 * 35 + 3 * 6));
    let arguments = ["augment", "--device", "cpu", "--data", &data];
    let json = succeeds(&[&arguments[..], &["--preview", &sheet, "--samples", "1", "--json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((json["images"].as_array().unwrap().len(), json["augment"]["rotation"].as_f64()), (1, Some(45.0)));
    std::fs::write(path("wrong.toml"), "[augment]\nscale = 3.0\n").unwrap();
    let wrong = path("wrong.toml");
    fails(
        2,
        &[&arguments[..], &["--preview", &sheet, "--config", &wrong]].concat(),
        &["augment.scale", "0 to 1, got 3"],
    );
    fails(6, &[&arguments[..], &["--preview", &path("no/sheet.png")]].concat(), &["no/sheet.png"]);
}

#[test]
fn predict_writes_pictures_and_scores_for_every_image() {
    let (folder, weights, data) = fixture();
    let out = folder.path().join("out");
    let logits = folder.path().join("logits.safetensors");
    let (out_text, images) = (out.to_str().unwrap(), format!("{data}/images"));
    let arguments = ["predict", "--device", "cpu", "--weights", &weights, "--input", &images, "--out", out_text];
    let json = succeeds(&[&arguments[..], &["--json", "--logits", logits.to_str().unwrap()]].concat());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["images"].as_array().unwrap().len(), 2);
    assert!(json["images"][0]["objects"].is_null() && !out.join("instances").exists());
    for kind in ["masks", "probabilities", "overlays"] {
        for name in ["cells-0000.png", "cells-0001.png"] {
            let picture = image::open(out.join(kind).join(name)).unwrap();
            assert_eq!((picture.width(), picture.height()), (48, 48));
        }
    }
    let bytes = std::fs::read(&logits).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("cells-0001").unwrap().shape(), [48, 48, 2]);
    let evaluation = succeeds(&["evaluate", "--device", "cpu", "--weights", &weights, "--data", &data, "--json"]);
    let evaluation: serde_json::Value = serde_json::from_str(&evaluation).unwrap();
    assert_eq!(evaluation["pixels"], 2 * 48 * 48);
    let averaged = ["--views", "8", "--average", "probabilities", "--blend", "gaussian"];
    let evaluate = ["evaluate", "--device", "cpu", "--weights", &weights, "--data", &data];
    let table = succeeds(&[&evaluate[..], &averaged].concat());
    for (threshold, iou) in [("0", "0."), ("1", "foreground IoU 0.0000")] {
        let table = succeeds(&[&evaluate[..], &["--threshold", threshold]].concat());
        assert!(table.contains(iou), "{table}");
    }
    assert!(table.contains("foreground IoU") && table.contains("truth \\ predicted"), "{table}");
}

#[test]
fn objects_are_found_written_and_scored() {
    let (folder, weights, data) = fixture();
    let out = folder.path().join("out");
    let (out_text, images) = (out.to_str().unwrap(), format!("{data}/images"));
    let predict = ["predict", "--device", "cpu", "--weights", &weights, "--input", &images, "--out", out_text];
    let json = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&succeeds(&[arguments, &["--json"]].concat())).unwrap()
    };
    let count = |options: &[&str]| -> u64 {
        let result = json(&[&predict[..], &["--instances"], options].concat());
        let images = result["images"].as_array().unwrap();
        let counts: Vec<u64> = images.iter().map(|image| image["objects"].as_u64().unwrap()).collect();
        for (index, &count) in counts.iter().enumerate() {
            let path = out.join(format!("instances/cells-{index:04}.png"));
            assert_eq!(image::open(&path).unwrap().color(), image::ColorType::L16);
            let instances = LabelMap::read(&path).unwrap();
            assert_eq!(u64::from(instances.values.into_iter().max().unwrap()), count);
        }
        counts.iter().sum()
    };
    let (all, large) = (count(&[]), count(&["--min-size", "20"]));
    assert!(large < all && count(&["--connectivity", "8"]) <= all, "{all} objects, {large} large ones");

    let evaluate = ["evaluate", "--device", "cpu", "--weights", &weights, "--data", &data];
    let report = json(&evaluate);
    assert_eq!(report["instances"]["predicted_objects"], all);
    let images = report["images"].as_array().unwrap();
    let sum: u64 = images.iter().map(|image| image["instances"]["true_objects"].as_u64().unwrap()).sum();
    assert!(sum > 0 && report["instances"]["true_objects"] == sum, "{report}");
    assert_eq!(json(&[&evaluate[..], &["--min-size", "20"]].concat())["instances"]["predicted_objects"], large);
    let table = succeeds(&evaluate);
    for part in ["DSB 2018 mAP", "SEG", "adapted Rand", "V_Rand thinned", "V_Info thinned", "warping error", "merged"] {
        assert!(table.contains(part), "no {part:?} in:\n{table}");
    }

    let truth = [&predict[..predict.len() - 1], &[data.as_str(), "--instances"]].concat();
    fails(2, &truth, &["is a data set, whose instances/ would be overwritten: give --out another folder"]);

    // Masks have objects on request.
    std::fs::rename(format!("{data}/instances"), format!("{data}/masks")).unwrap();
    for index in 0..2 {
        let path = format!("{data}/masks/cells-{index:04}.png");
        let mut mask = LabelMap::read(&path).unwrap();
        mask.values.iter_mut().for_each(|value| *value = u32::from(*value != 0));
        mask.write_classes(&path).unwrap();
    }
    assert!(json(&evaluate)["instances"].is_null() && !succeeds(&evaluate).contains("SEG"));
    assert_eq!(json(&[&evaluate[..], &["--instances"]].concat())["instances"]["predicted_objects"], all);

    for command in [&predict[..], &evaluate[..]] {
        fails(2, &[command, &["--min-size", "20"]].concat(), &["no objects are asked for: add --instances"]);
        fails(2, &[command, &["--instances", "--connectivity", "6"]].concat(), &["\"6\" is not a neighbourhood"]);
    }
}

#[test]
fn what_cannot_be_predicted_is_refused_by_name() {
    let (folder, weights, data) = fixture();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let image = format!("{data}/images/cells-0000.png");
    let out = path("out");
    let predict = |weights: &str, input: &str, more: &[&str]| {
        let arguments = ["predict", "--device", "cpu", "--weights", weights, "--input", input, "--out", &out];
        [&arguments[..], more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let fails = |code, arguments: Vec<String>, parts: &[&str]| {
        fails(code, &arguments.iter().map(String::as_str).collect::<Vec<_>>(), parts);
    };
    fails(6, predict(&path("none.safetensors"), &image, &[]), &["none.safetensors"]);
    fails(6, predict(&weights, &path("none.png"), &[]), &["none.png"]);
    fails(2, predict(&weights, &image, &["--tile", "47"]), &["47", "48"]);
    fails(2, predict(&weights, &image, &["--tile", "many"]), &["many"]);
    fails(2, predict(&weights, &image, &["--views", "3"]), &["3", "4 (flips) or 8"]);
    fails(2, predict(&weights, &image, &["--average", "votes"]), &["votes", "scores", "probabilities"]);
    fails(2, predict(&weights, &image, &["--threshold", "50"]), &["50", "0 to 1"]);
    fails(2, predict(&weights, &image, &["--blend", "linear"]), &["linear", "exact", "gaussian"]);
    std::fs::write(path("noise.safetensors"), [7u8; 100]).unwrap();
    fails(3, predict(&path("noise.safetensors"), &image, &[]), &["noise.safetensors"]);
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(path("cut.safetensors"), &whole[..whole.len() - 10]).unwrap();
    fails(3, predict(&path("cut.safetensors"), &image, &[]), &["cut.safetensors"]);
    let larger = UNet { base_channels: 3, ..NET };
    let graph = NET.build(1, [NET.smallest_side(); 2]).unwrap().graph;
    let bank = graph.initial_parameters(1);
    let metadata = Metadata::new().with(Metadata::MODEL, &larger);
    let other = path("other.safetensors");
    save(Path::new(&other), &graph, &[Section { prefix: "", bank: &bank }], &metadata).unwrap();
    fails(3, predict(&other, &image, &[]), &["other.safetensors", "of another shape", "conv1.weight"]);
    std::fs::write(path("broken.png"), b"\x89PNG\r\n\x1a\nnothing").unwrap();
    fails(3, predict(&weights, &path("broken.png"), &[]), &["broken.png"]);
    std::fs::create_dir(path("empty")).unwrap();
    fails(3, predict(&weights, &path("empty"), &[]), &["no images", "png"]);
    fails(3, predict(&path("empty"), &image, &[]), &["best.safetensors"]);
    std::fs::write(path("file"), "").unwrap();
    let blocked = path("file/out");
    let arguments = ["predict", "--device", "cpu", "--weights", &weights, "--input", &image, "--out", &blocked];
    fails(6, arguments.iter().map(|text| (*text).to_owned()).collect(), &["file/out"]);
    // A colour image for a grey network.
    image::RgbImage::from_fn(20, 20, |x, y| image::Rgb([x as u8, y as u8, 9])).save(path("colour.png")).unwrap();
    fails(3, predict(&weights, &path("colour.png"), &[]), &["3 channel", "trained on 1"]);
}

#[test]
fn a_stack_is_predicted_page_by_page() {
    let (folder, weights, _data) = fixture();
    let stack = folder.path().join("stack.tif");
    let mut encoder = tiff::encoder::TiffEncoder::new(std::fs::File::create(&stack).unwrap()).unwrap();
    for first in [1, 2] {
        let values: Vec<u8> = (0..40 * 40).map(|pixel| (pixel * first % 251) as u8).collect();
        encoder.write_image::<tiff::encoder::colortype::Gray8>(40, 40, &values).unwrap();
    }
    drop(encoder);
    let out = folder.path().join("out");
    let (stack, out_text) = (stack.to_str().unwrap(), out.to_str().unwrap());
    succeeds(&["predict", "--device", "cpu", "--weights", &weights, "--input", stack, "--out", out_text]);
    assert!(["stack-0000.png", "stack-0001.png"].iter().all(|name| out.join("masks").join(name).exists()));
}

#[test]
fn check_data_lists_everything_and_its_code_tells_errors_from_warnings() {
    let (folder, _weights, data) = fixture();
    let code = |arguments: &[&str]| {
        let output = tilewise(arguments);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (clean, text) = code(&["check-data", &data, "--files"]);
    assert!(clean == Some(0) && text.contains("ready to train on") && text.contains("cells-0001: 48 x 48"), "{text}");
    let map = folder.path().join("weights.png");
    let (warned, text) = code(&["check-data", &data, "--val", &data, "--weights-map", map.to_str().unwrap()]);
    assert!(warned == Some(1) && text.contains("the same image as "), "{text}");
    let picture = image::open(map).unwrap();
    assert!(picture.width() > 3 * 48 && picture.height() > 2 * 48);
    std::fs::write(folder.path().join("data/images/b.jpg"), "x").unwrap();
    std::fs::remove_file(folder.path().join("data/instances/cells-0001.png")).unwrap();
    let (wrong, text) = code(&["check-data", &data, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(wrong == Some(3) && json[0]["errors"].as_array().unwrap().len() == 2, "{text}");
    assert_eq!(json[0]["files"][0]["name"], "cells-0000");
    let unpaired = &json[0]["errors"][1];
    assert_eq!((&unpaired["code"], &unpaired["severity"]), (&"unpaired".into(), &"error".into()), "{text}");
    assert!(unpaired["file"].as_str().unwrap().ends_with("images/cells-0001.png"), "{text}");
    assert!(unpaired["fix"].as_str().unwrap().contains("same name"), "{text}");
}

#[test]
fn check_data_shows_the_first_of_many_findings_and_lists_all_as_json() {
    let (folder, _weights, data) = fixture();
    for number in 0..20 {
        std::fs::write(folder.path().join(format!("data/images/lonely-{number:02}.png")), "x").unwrap();
    }
    let text = String::from_utf8(tilewise(&["check-data", &data]).stdout).unwrap();
    assert!(text.contains("lonely-07.png") && !text.contains("lonely-08.png"), "{text}");
    assert!(text.contains("12 more like these, which --json lists") && text.contains("errors: 20"), "{text}");
    let json = tilewise(&["check-data", &data, "--json"]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json[0]["errors"].as_array().unwrap().len(), 20);
    fails(2, &["check-data", &data, "--map", "0=0,1=1"], &["--map, --classes and --ignore are for masks/"]);
}

/// What `check-data` draws is what a run with the same settings would train with, and its constants are within bounds.
#[test]
fn check_data_draws_the_weights_of_a_configuration() {
    let (folder, _weights, data) = fixture();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let drawn = |name: &str, more: &[&str]| {
        succeeds(&[&["check-data", &data, "--weights-map", &path(name)], more].concat());
        image::open(path(name)).unwrap().into_rgb8()
    };
    let usual = drawn("usual.png", &[]);
    assert_eq!(drawn("same.png", &["--border-w0", "5", "--border-sigma", "5"]), usual);
    std::fs::write(path("config.toml"), "border_w0 = 9.0\nbalance = true\n").unwrap();
    let configured = drawn("configured.png", &["--config", &path("config.toml")]);
    assert_ne!(configured, usual);
    assert_ne!(drawn("flag.png", &["--config", &path("config.toml"), "--border-w0", "5"]), configured);
    std::fs::write(path("never.toml"), "border = \"never\"\n").unwrap();
    assert_ne!(drawn("never.png", &["--config", &path("never.toml")]), usual);
    let never = ["check-data", &data, "--weights-map", &path("never.png"), "--config", &path("never.toml")];
    assert!(String::from_utf8_lossy(&tilewise(&never).stderr).contains("all weights are 1"));
    let check = ["check-data", &data, "--weights-map", &path("none.png")];
    fails(
        2,
        &[&check[..], &["--border-sigma", "1e30"]].concat(),
        &["border_sigma must be above 0 and at most 1000", "got 1000000000000000000000000000000"],
    );
    fails(2, &[&check[..], &["--samples", "0"]].concat(), &["--samples", "0 is not in 1.."]);
    assert_eq!(drawn("all.png", &["--samples", "4294967295"]), usual);
    assert!(!Path::new(&path("none.png")).exists());
}

#[test]
fn held_out_images_that_are_trained_on_are_noticed() {
    let (folder, _weights, data) = fixture();
    for kind in ["images", "instances"] {
        let file = |number: u32| folder.path().join(format!("data/{kind}/cells-{number:04}.png"));
        std::fs::copy(file(0), file(1)).unwrap();
    }
    let out = folder.path().join("run");
    let train = ["train", "--device", "cpu", "--data", &data, "--out", out.to_str().unwrap(), "--hold-out", "0.5"];
    let output = tilewise(&[&train[..], &["--steps", "1", "--base", "1", "--depth", "1"]].concat());
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && notes.contains("1 validation image(s) are also trained on"), "{notes}");
}

#[test]
fn predict_never_writes_over_what_it_reads() {
    let (folder, weights, data) = fixture();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let predict = |input: &str, out: &str| {
        ["predict", "--device", "cpu", "--weights", &weights, "--input", input, "--out", out].map(str::to_owned)
    };
    let refused = |arguments: [String; 9], parts: &[&str]| fails(2, &arguments.each_ref().map(String::as_str), parts);
    std::fs::rename(path("data/instances"), path("data/masks")).unwrap();
    let before = std::fs::read(path("data/masks/cells-0000.png")).unwrap();
    refused(predict(&format!("{data}/images"), &data), &["is a data set", "another folder"]);
    std::fs::rename(path("data/masks"), path("data/overlays")).unwrap();
    refused(predict(&path("data/overlays"), &data), &["overwritten by its own result"]);
    assert!(std::fs::read(path("data/overlays/cells-0000.png")).unwrap() == before);
    for name in ["a.png", "a.q.png", "a.tif"] {
        std::fs::create_dir_all(path("twins")).unwrap();
        std::fs::copy(path("data/images/cells-0000.png"), path("twins") + "/" + name).unwrap();
    }
    fails(3, &predict(&path("twins"), &path("out")).each_ref().map(String::as_str), &["a.tif", "same output names"]);
}

#[test]
fn one_bad_image_does_not_cost_the_others() {
    let (folder, weights, data) = fixture();
    let images = folder.path().join("data/images");
    std::fs::write(images.join("broken.png"), b"\x89PNG\r\n\x1a\nnothing").unwrap();
    std::fs::write(images.join("._hidden.png"), b"nothing").unwrap();
    let out = folder.path().join("out");
    let input = format!("{data}/images");
    let output = tilewise(&[
        "predict",
        "--device",
        "cpu",
        "--json",
        "--weights",
        &weights,
        "--input",
        &input,
        "--out",
        out.to_str().unwrap(),
    ]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(3) && message.contains("1 of 3 images"), "{message}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((json["images"].as_array().unwrap().len(), json["failed"].as_array().unwrap().len()), (2, 1));
    assert!(json["failed"][0].as_str().unwrap().contains("broken.png"));
}

/// A network whose foreground is what is brighter than the mean of an image, pixel by pixel.
fn brighter_than_mean(path: &Path) {
    let net = UNet { depth: 1, ..NET };
    let graph = net.build(1, [net.smallest_side(); 2]).unwrap().graph;
    let mut bank = vec![0.0; graph.bank_elements()];
    // [3, 3, c_in, 2] and [1, 1, 2, 2] with the first channel passed on at the centre; the skip comes first in the concatenation.
    let channels = [("encoder0.conv1", 1), ("encoder0.conv2", 2), ("decoder0.conv1", 4), ("decoder0.conv2", 2)];
    let mut set = |name: &str, place: usize, value: f32| {
        let parameter = graph.parameters().iter().find(|parameter| parameter.name == name).unwrap();
        bank[parameter.offset + place] = value;
    };
    for (name, c_in) in channels {
        set(&format!("{name}.weight"), 4 * c_in * 2, 1.0);
    }
    set("head.weight", 1, 1.0);
    set("head.bias", 0, 1e-3);
    save(path, &graph, &[Section { prefix: "", bank: &bank }], &Metadata::new().with(Metadata::MODEL, &net)).unwrap();
}

#[test]
fn more_objects_than_16_bits_number_cost_that_image_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    brighter_than_mean(&folder.path().join("weights.safetensors"));
    std::fs::create_dir(path("images")).unwrap();
    // Every second pixel of a chessboard is an object: 66,248 of them, and 8.
    for (name, side) in [("a-many", 364), ("b-few", 4)] {
        let bright = |pixel: usize| (pixel / side + pixel % side).is_multiple_of(2);
        let values: Vec<u8> = (0..side * side).map(|pixel| if bright(pixel) { 200 } else { 50 }).collect();
        write_grey8(&folder.path().join(format!("images/{name}.png")), side, side, &values).unwrap();
    }
    let [weights, images, out] = ["weights.safetensors", "images", "out"].map(path);
    let predict = |input: &str| {
        let flags = ["predict", "--device", "cpu", "--json", "--instances", "--weights", &weights, "--input", input];
        tilewise(&[&flags[..], &["--out", &out]].concat())
    };
    for (input, done) in [(&images, 1), (&path("images/a-many.png"), 0)] {
        let output = predict(input);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{message}");
        for part in ["a-many.png", "66248 objects", "65535", "--min-size"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        if done > 0 {
            let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(
                (json["images"][0]["objects"].as_u64(), json["images"].as_array().unwrap().len()),
                (Some(8), done)
            );
            assert!(Path::new(&out).join("instances/b-few.png").exists());
        }
    }
}

#[test]
fn blending_without_a_second_tile_is_remarked_on() {
    let (folder, weights, data) = fixture();
    let (images, out) = (format!("{data}/images"), folder.path().join("out"));
    let predict = ["predict", "--weights", &weights, "--input", &images, "--out", out.to_str().unwrap()];
    let evaluate = ["evaluate", "--weights", &weights, "--data", &data];
    let smallest = tilewise::predict::smallest_tile(&NET).to_string();
    for command in [&predict[..], &evaluate[..]] {
        for (more, expected) in [
            (&["--blend", "mean"][..], true),
            (&["--blend", "gaussian", "--views", "4"], true),
            (&["--blend", "exact"], false),
            (&["--blend", "mean", "--tile", &smallest], false),
        ] {
            let output = tilewise(&[command, &["--device", "cpu"], more].concat());
            let note = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{note}");
            assert_eq!(note.contains("--blend has nothing to average"), expected, "{more:?}: {note}");
        }
    }
}

#[test]
fn evaluate_refuses_more_classes_than_the_network_knows() {
    let (folder, weights, _data) = fixture();
    let data = folder.path().join("masks of three");
    for name in ["images", "masks"] {
        std::fs::create_dir_all(data.join(name)).unwrap();
        let values: Vec<u8> = (0..48 * 48).map(|pixel| (pixel % 3) as u8).collect();
        write_grey8(&data.join(name).join("a.png"), 48, 48, &values).unwrap();
    }
    let data = data.to_str().unwrap();
    let arguments = ["evaluate", "--device", "cpu", "--weights", &weights, "--data", data, "--classes", "3"];
    fails(3, &arguments, &["masks of three", "3 classes", "the network knows 2"]);
}

/// All one class is remarked on by `predict` always, and by `evaluate` where it is wrong; several classes never are.
#[test]
fn a_prediction_of_one_class_is_remarked_on() {
    let (folder, weights, data) = fixture();
    let (images, out) = (format!("{data}/images"), folder.path().join("out"));
    let predict = ["predict", "--weights", &weights, "--input", &images, "--out", out.to_str().unwrap()];
    let evaluate = ["evaluate", "--weights", &weights, "--data", &data];
    for command in [&predict[..], &evaluate[..]] {
        for (threshold, class) in [("0", Some(1)), ("1", Some(0)), ("0.5", None)] {
            let output = tilewise(&[command, &["--device", "cpu", "--json", "--threshold", threshold]].concat());
            let note = String::from_utf8_lossy(&output.stderr).into_owned();
            let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(json["only_class"].as_u64(), class, "{note}");
            assert_eq!(note.contains("every pixel is predicted as class"), class.is_some(), "{note}");
        }
    }
}

#[test]
fn evaluate_reads_label_values_as_training_did() {
    let folder = tempfile::tempdir().unwrap();
    let net = UNet { classes: 3, ..NET };
    let graph = net.build(1, [net.smallest_side(); 2]).unwrap().graph;
    let bank = graph.initial_parameters(1);
    let mapping = Mapping::Values { map: "0=0,128=1,255=2".parse().unwrap(), ignore: None };
    let metadata = Metadata::new().with(Metadata::MODEL, &net).with(Metadata::MAPPING, &mapping);
    let weights = folder.path().join("weights.safetensors");
    save(&weights, &graph, &[Section { prefix: "", bank: &bank }], &metadata).unwrap();
    let data = folder.path().join("data");
    for name in ["images", "masks"] {
        std::fs::create_dir_all(data.join(name)).unwrap();
    }
    let values: Vec<u8> = (0..48 * 48).map(|pixel| if pixel % 5 == 0 { 255 } else { 0 }).collect();
    write_grey8(&data.join("images/a.png"), 48, 48, &values).unwrap();
    write_grey8(&data.join("masks/a.png"), 48, 48, &values).unwrap();
    let (weights, data) = (weights.to_str().unwrap(), data.to_str().unwrap());
    let arguments = ["evaluate", "--device", "cpu", "--json", "--weights", weights, "--data", data];
    let counts = |more: &[&str]| -> Vec<u64> {
        let json: serde_json::Value = serde_json::from_str(&succeeds(&[&arguments[..], more].concat())).unwrap();
        json["classes"].as_array().unwrap().iter().map(|class| class["pixels"].as_u64().unwrap()).collect()
    };
    let foreground = (48 * 48_u64).div_ceil(5);
    assert_eq!(counts(&[]), [48 * 48 - foreground, 0, foreground], "255 is class 2, though no 128 is there");
    assert_eq!(counts(&["--map", "0=0,255=1"]), [48 * 48 - foreground, foreground, 0], "a flag has the last word");
}

#[test]
fn weights_are_exported_and_read_back_under_other_names() {
    let (folder, weights, _) = fixture();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (onnx, copy, names) = (path("net.onnx"), path("copy.safetensors"), path("names.toml"));
    succeeds(&["export", "--weights", &weights, "--onnx", &onnx, "--safetensors", &copy, "--tile", "44x48"]);
    let found = Weights::load(&copy).unwrap().network().unwrap();
    assert_eq!(found, Weights::load(&weights).unwrap().network().unwrap());
    let bytes = std::fs::read(&onnx).unwrap();
    for part in
        ["tilewise", "image", "logits", "encoder0.conv1.weight", "ConvTranspose", "preprocessing", "base_channels"]
    {
        assert!(bytes.windows(part.len()).any(|window| window == part.as_bytes()), "no {part:?} in the file");
    }
    // The names of another program, and back.
    std::fs::write(&names, "\"encoder*\" = \"enc*\"\n\"head.bias\" = \"head.wieght\"").unwrap();
    let export = ["export", "--weights", &copy, "--names", &names];
    let safetensors = path("renamed.safetensors");
    fails(
        3,
        &[&export[..], &["--safetensors", &safetensors]].concat(),
        &["9 missing, 9 unexpected", "enc0.conv1.bias"],
    );
    assert!(!Path::new(&safetensors).exists());
    std::fs::write(&names, "\"encodre*\" = \"enc*\"").unwrap();
    fails(3, &[&export[..], &["--onnx", &onnx]].concat(), &["names.toml", "\"encodre*\" is no tensor of the file"]);
    assert_eq!(std::fs::read(&onnx).unwrap(), bytes);
    fails(2, &["export", "--weights", &copy, "--safetensors", &copy], &["is what is exported: write to another file"]);
    fails(2, &["export", "--weights", &copy, "--safetensors", &weights], &["a checkpoint of a run"]);
    fails(2, &["export", "--weights", &copy, "--safetensors", &onnx, "--onnx", &onnx], &["the same file"]);
    fails(2, &["export", "--weights", &copy], &["--onnx", "--safetensors"]);
    fails(2, &["export", "--weights", &copy, "--onnx", &onnx, "--tile", "45"], &["nearest legal sides are 44 and 48"]);
    fails(2, &["export", "--weights", &copy, "--onnx", &onnx, "--batch", "0"], &["at least 1, nor dynamic"]);
}

#[test]
fn a_folder_that_is_no_demo_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let precious = folder.path().join("precious.txt");
    std::fs::write(&precious, "mine").unwrap();
    fails(2, &["demo", "--device", "cpu", "--out", folder.path().to_str().unwrap()], &["not an earlier demo", "--out"]);
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "mine");
    // Nor what somebody keeps beside an earlier demo.
    std::fs::write(folder.path().join(".tilewise-demo"), "").unwrap();
    fails(
        2,
        &["demo", "--device", "cpu", "--out", folder.path().to_str().unwrap()],
        &["precious.txt", "move it elsewhere"],
    );
    assert_eq!(std::fs::read_to_string(precious).unwrap(), "mine");
}
