//! The examples run, and do what they say.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::path::Path;
use std::process::Command;
use std::{env, fs};
use tilewise::checkpoint::{Metadata, Section, save};
use tilewise::data::LabelMap;
use tilewise::data::raster::write_grey8;
use tilewise::models::{UNet, Variant};

/// Runs an example, which `cargo test` has built beside the tests, and returns what it printed.
fn run(name: &str, arguments: &[&Path]) -> Result<String, String> {
    let tests = env::current_exe().unwrap();
    let program =
        tests.ancestors().nth(2).unwrap().join("examples").join(name).with_extension(env::consts::EXE_EXTENSION);
    let advice = "`cargo test` builds it; where one test is named, `cargo build --examples` does, in the same profile";
    assert!(program.exists(), "there is no {}: {advice}", program.display());
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// Random weights, but for this score of foreground, besides what the image adds to it.
fn weights(path: &Path, foreground: f32) {
    let net = UNet { variant: Variant::Unet, in_channels: 1, classes: 2, base_channels: 4, depth: 2, dropout: 0.0 };
    let graph = net.inference(1, [net.legal_above(60); 2]).unwrap().graph;
    let mut bank = graph.initial_parameters(1);
    let bias = graph.parameters().iter().find(|parameter| parameter.name == "head.bias").unwrap();
    bank[bias.offset + 1] = foreground;
    save(path, &graph, &[Section { prefix: "", bank: &bank }], &Metadata::new().with("model", &net)).unwrap();
}

#[test]
fn a_kernel_on_bare_wgpu() {
    assert!(run("hello_kernel", &[]).unwrap().contains("√81 = 9"));
}

#[test]
fn an_op_from_outside_the_crate() {
    let said = run("custom_op", &[]).unwrap();
    assert!(said.contains("finite differences: [Right]") && said.contains("hard_swish(1) = 0.666"), "{said}");
}

#[test]
fn training_on_samples_in_memory() {
    assert!(run("train", &[]).unwrap().contains("IoU of a disc that it never saw"));
}

#[test]
fn an_image_is_segmented() {
    let folder = tempfile::tempdir().unwrap();
    let [file, image, out] = ["w.safetensors", "image.png", "out.png"].map(|name| folder.path().join(name));
    weights(&file, 0.0);
    write_grey8(&image, 50, 70, &[7; 3500]).unwrap();
    run("segment", &[&file, &image, &out]).unwrap();
    let size = |path: &Path| image::open(path).unwrap().into_rgb8().dimensions();
    assert_eq!((size(&out), size(&out.with_extension("png.overlay.png"))), ((70, 50), (70, 50)));
    assert!(run("segment", &[&file]).unwrap_err().contains("expected WEIGHTS"));
}

#[test]
fn a_device_is_shared_with_what_draws() {
    let folder = tempfile::tempdir().unwrap();
    let [file, out] = ["w.safetensors", "out.png"].map(|name| folder.path().join(name));
    // The scene is grey, what is laid over foreground green; the corners are black, and then as dark a green as there is.
    for (score, is_green) in [(100.0, true), (-100.0, false)] {
        weights(&file, score);
        run("share_device", &[&out, &file]).unwrap();
        let picture = image::open(&out).unwrap().into_rgb8();
        assert_eq!(picture.dimensions(), (320, 320));
        let green = |[red, green, blue]: [u8; 3]| green > blue && blue > red;
        assert!(picture.pixels().all(|pixel| green(pixel.0) == is_green), "at a score of {score}");
        let greens: std::collections::HashSet<u8> = picture.pixels().map(|pixel| pixel.0[1]).collect();
        assert!(greens.len() > 50, "the scene has {} levels", greens.len());
    }
}

/// A state dict as PyTorch wrote it: the parameters of the golden file of a network, without what was computed with them.
#[test]
fn weights_of_pytorch_are_recognised() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state_dict.safetensors");
    let golden = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/milesial.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let tensors = golden.tensors();
    let parameters: Vec<(&str, &TensorView<'_>)> = tensors
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix("param.")?, tensor)))
        .filter(|(_, tensor)| tensor.dtype() == Dtype::F32)
        .collect();
    let bytes = safetensors::serialize(parameters, None).unwrap();
    fs::write(&file, bytes).unwrap();
    let [own, image, out] = ["w.safetensors", "image.png", "out.png"].map(|name| folder.path().join(name));
    weights(&own, 100.0);
    write_grey8(&image, 50, 70, &[7; 3500]).unwrap();
    run("from_pytorch", &[&own, &image, &out]).unwrap();
    assert_eq!(LabelMap::read(&out).unwrap().values, [1; 3500]);
    let said = run("from_pytorch", &[&file]).unwrap();
    assert!(
        said.contains("U-Net (milesial): 2 channel(s) in, 3 classes, 2 channels at the finest level, 2 poolings"),
        "{said}"
    );
}
