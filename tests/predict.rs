//! Overlap-tile prediction: the result does not depend on the tile, at any image size, on both executors.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::ops::ControlFlow;
use tilewise::Error;
use tilewise::checkpoint::{Metadata, Section, Weights, save};
use tilewise::data::sampler::reflect;
use tilewise::data::{Image, Orientation, Zoom};
use tilewise::executor::{Device, Executor};
use tilewise::gpu::Gpu;
use tilewise::models::{UNet, Variant};
use tilewise::op::Fill;
use tilewise::predict::{Averaging, Blend, Prediction, Predictor, Quantity, Segmenter, Texels, Views, smallest_tile};
use tilewise::random::Random;
use tilewise::shape::TensorType;

const NET: UNet = UNet { variant: Variant::Unet, in_channels: 1, classes: 3, base_channels: 3, depth: 3, dropout: 0.5 };

fn devices() -> [Device; 2] {
    [Device::Cpu, Device::Gpu(Gpu::any().unwrap_or_else(|error| panic!("{error}")))]
}

fn parameters() -> Vec<f32> {
    let graph = NET.build(1, [smallest_tile(&NET); 2]).unwrap().graph;
    let mut bank = graph.initial_parameters(11);
    // Biases away from zero, so that mirrored borders matter.
    for parameter in graph.parameters().iter().filter(|parameter| parameter.name.ends_with("bias")) {
        let mut random = Random::new(12, parameter.offset as u32);
        bank[parameter.offset..][..parameter.shape.elements()].fill_with(|| 0.3 * random.normal());
    }
    bank
}

fn image(height: usize, width: usize) -> Image {
    let tensor_type = TensorType::f32([height, width]).unwrap();
    let pixels = Fill::Normal(1.0).draw(&tensor_type, &mut Random::new(13, 0)).float().data.clone();
    Image { height, width, channels: 1, bit_depth: 32, pixels, alpha_dropped: false }
}

fn predict(device: &Device, tile: Option<[usize; 2]>, image: &Image) -> Vec<f32> {
    let mut predictor = Predictor::new(device.clone(), NET, parameters(), tile).unwrap();
    let prediction = predictor.predict(image).unwrap();
    for (pixel, &label) in prediction.labels.iter().enumerate() {
        let scores = &prediction.logits[3 * pixel..][..3];
        assert!(scores.iter().all(|&score| score <= scores[label as usize]));
        let sum: f32 = prediction.probabilities[3 * pixel..][..3].iter().sum();
        assert!((sum - 1.0).abs() < 1e-5);
    }
    prediction.logits
}

#[test]
fn tensors_in_pieces_give_the_same_prediction() {
    let gpu = Gpu::any().unwrap();
    let (image, tile) = (image(61, 38), Some([smallest_tile(&NET) + 8; 2]));
    let bits = |gpu: &Gpu, tile| {
        predict(&Device::Gpu(gpu.clone()), tile, &image).into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let small = gpu.clone().with_largest_binding(32 << 10);
    assert_eq!(bits(&small, tile), bits(&gpu, tile));
    // The smallest tile has larger tensors, and is taken all the same.
    let predictor = Predictor::new(Device::Gpu(small.clone()), NET, parameters(), None).unwrap();
    assert_eq!(predictor.tile_for(61, 38).unwrap(), [smallest_tile(&NET); 2]);
    assert_eq!(bits(&small, None), bits(&gpu, Some([smallest_tile(&NET); 2])));
}

/// Scores that are stretched over their tile are learned for one tile; others are not.
#[test]
fn a_network_that_stretches_its_scores_gets_the_tiles_of_training() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    for (variant, kept) in [(Variant::Semseg, true), (Variant::Unet, false)] {
        let net = UNet { variant, depth: 1, dropout: 0.0, ..NET };
        let graph = net.inference(1, [net.smallest_side(); 2]).unwrap().graph;
        let bank = graph.initial_parameters(1);
        let side = net.legal_above(77);
        let metadata = Metadata::new().with(Metadata::MODEL, &net).with(Metadata::TILE, &side);
        save(&path, &graph, &[Section { prefix: "", bank: &bank }], &metadata).unwrap();
        let tile = |given: Option<[usize; 2]>| {
            let predictor = Predictor::load(Device::Cpu, &Weights::load(&path).unwrap(), given).unwrap();
            predictor.tile_for(200, 300).unwrap()
        };
        assert_eq!(tile(None) == [side; 2], kept, "{variant}");
        assert_eq!(tile(Some([net.legal_above(90); 2])), [net.legal_above(90); 2], "{variant}");
        let gpu = Gpu::any().unwrap();
        let one_tile = Segmenter::load(&gpu, &Weights::load(&path).unwrap(), [200, 300], Texels::Rgba8);
        assert_eq!(one_tile.is_err_and(|error| error.to_string().contains("use a Predictor")), kept, "{variant}");
    }
}

/// At twice its size an image is predicted as the enlarged image is, and each pixel gets the mean score of the four that it became.
#[test]
fn a_network_may_see_images_enlarged() {
    let own = image(31, 20);
    let (zoom, folder) = (Zoom::try_from(2.0).unwrap(), tempfile::tempdir().unwrap());
    let path = folder.path().join("weights.safetensors");
    let graph = NET.inference(1, [NET.smallest_side(); 2]).unwrap().graph;
    let metadata = Metadata::new().with(Metadata::MODEL, &NET).with(Metadata::ZOOM, &zoom);
    save(&path, &graph, &[Section { prefix: "", bank: &parameters() }], &metadata).unwrap();
    let weights = Weights::load(&path).unwrap();
    let mut enlarging = Predictor::load(Device::Cpu, &weights, None).unwrap();
    let prediction = enlarging.predict(&own).unwrap();
    assert_eq!((prediction.height, prediction.width), (31, 20));
    let large = zoom.image(own.clone()).unwrap();
    assert_eq!(enlarging.tiles_for(31, 20).unwrap(), 1);
    let seen = Predictor::new(Device::Cpu, NET, parameters(), None).unwrap().predict(&large).unwrap();
    for (pixel, &found) in prediction.logits.iter().enumerate() {
        let (row, column, class) = (pixel / 60, pixel / 3 % 20, pixel % 3);
        let four = [(0, 0), (0, 1), (1, 0), (1, 1)]
            .map(|(y, x)| seen.logits[((2 * row + y) * 40 + 2 * column + x) * 3 + class]);
        assert!((found - four.iter().sum::<f32>() / 4.0).abs() < 1e-5, "{pixel}: {found} of {four:?}");
    }
    for (pixel, &label) in prediction.labels.iter().enumerate() {
        let best =
            (0..3).max_by(|&a, &b| prediction.logits[3 * pixel + a].total_cmp(&prediction.logits[3 * pixel + b]));
        assert_eq!(Some(label as usize), best);
    }
    let refused = Segmenter::load(&Gpu::any().unwrap(), &weights, [31, 20], Texels::Rgba8).unwrap_err().to_string();
    assert!(refused.contains("enlarged 2 times"), "{refused}");
}

#[test]
fn the_result_does_not_depend_on_the_tile() {
    let size = [61, 38];
    let image = image(size[0], size[1]);
    let whole = size.map(|side| NET.legal_above(side + NET.shrink()));
    let smallest = smallest_tile(&NET);
    for device in devices() {
        let expected = predict(&device, Some(whole), &image);
        assert!(expected.iter().any(|&score| score.abs() > 0.1));
        for tile in [[smallest; 2], [smallest + 8, smallest + 24], [whole[0], smallest]] {
            let actual = predict(&device, Some(tile), &image);
            let worst = actual.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 1e-5, "{device}: tile {tile:?} differs by {worst}");
        }
        let chosen = predict(&device, None, &image);
        let worst = chosen.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-5, "{device}: the chosen tile differs by {worst}");
    }
}

/// A padded network in tiles that are large enough for its whole margin gives what it gives of the image at once; and with the margin left in,
/// which is what abutting tiles are, it would not.
#[test]
fn tiles_of_a_padded_network_do_not_show_their_padding() {
    let net = UNet { variant: Variant::Brain, depth: 2, dropout: 0.0, ..NET };
    let graph = net.inference(1, [net.smallest_side(); 2]).unwrap().graph;
    let mut parameters = graph.initial_parameters(11);
    // Running statistics that stand for nothing keep no signal up, so larger weights have to.
    for parameter in graph.parameters().iter().filter(|parameter| parameter.shape.rank() == 4) {
        parameters[parameter.offset..][..parameter.shape.elements()].iter_mut().for_each(|value| *value *= 2.4);
    }
    let image = image(150, 101);
    let tile = 4 * 6 * net.stride();
    assert_eq!(net.margin(tile), 6 * net.stride());
    let predict = |tile: [usize; 2], averaging: Averaging| {
        let predictor = Predictor::new(Device::Cpu, net, parameters.clone(), Some(tile)).unwrap();
        predictor.averaging(averaging).predict(&image).unwrap().logits
    };
    let exact = Averaging::default();
    let expected = predict([152, 104], exact);
    let worst = |actual: &[f32]| actual.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    for tile in [[tile; 2], [152, tile], [tile + 4, tile + 8]] {
        let worst = worst(&predict(tile, exact));
        assert!(worst <= 1e-5, "tile {tile:?} differs by {worst}");
    }
    let worst = worst(&predict([tile; 2], Averaging { blend: Blend::Abutting, ..exact }));
    assert!(worst > 1e-2, "abutting tiles differ by {worst} only");
}

/// The negative control: tiles that advance by their whole output, as in the paper's figure 2 but out of phase with the pooling,
/// give another result. If they did not, the test above would show nothing.
#[test]
fn misaligned_tiles_give_another_result() {
    let size = [61, 61];
    let pixels = image(size[0], size[1]).pixels;
    let side = NET.legal_above(30 + NET.shrink());
    let run = |top: usize| {
        let mut network = UNet { dropout: 0.0, ..NET }.build(1, [side; 2]).unwrap();
        network.graph.mark_output("logits", network.logits).unwrap();
        let mut executor = Executor::new(&Device::Cpu, &network.graph, &parameters()).unwrap();
        let halo = NET.halo() as isize;
        let data: Vec<f32> = (0..side * side)
            .map(|i| {
                let y = reflect((top + i / side) as isize - halo, 61);
                pixels[y * 61 + reflect((i % side) as isize - halo, 61)]
            })
            .collect();
        let shape = network.graph.shape(network.image).clone();
        executor.write(network.image, tilewise::array::Array { shape, data }.into()).unwrap();
        executor.run().unwrap();
        executor.read(network.logits).unwrap().float().data.clone()
    };
    let output = NET.output_side(side).unwrap();
    let row = |logits: &[f32], y: usize| logits[3 * y * output..][..3 * output].to_vec();
    let first = run(0);
    for (step, same) in [(8, true), (16, true), (4, false), (7, false)] {
        let shifted = run(step);
        let worst = row(&shifted, 0).iter().zip(row(&first, step)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert_eq!(worst <= 1e-5, same, "step {step}: differs by {worst}");
    }
}

#[test]
fn images_smaller_than_the_context_are_mirrored_again_and_again() {
    for size in [[1, 1], [1, 5], [7, 3]] {
        let image = image(size[0], size[1]);
        for device in devices() {
            let logits = predict(&device, None, &image);
            assert!(logits.len() == 3 * image.pixels.len() && logits.iter().all(|score| score.is_finite()));
        }
    }
}

#[test]
fn unusable_tiles_and_images_are_refused_with_what_would_do() {
    let new = |tile| Predictor::new(Device::Cpu, NET, parameters(), Some(tile));
    let message = new([100, 101]).unwrap_err().to_string();
    assert!(message.contains("101") && message.contains("100") && message.contains("108"), "{message}");
    let message = new([92, 92]).unwrap_err().to_string();
    assert!(message.contains(&smallest_tile(&NET).to_string()), "{message}");
    let mut predictor = Predictor::new(Device::Cpu, NET, parameters(), None).unwrap();
    let mut colour = Image { channels: 3, pixels: vec![0.0; 12], ..image(2, 2) };
    let message = predictor.predict(&colour).unwrap_err().to_string();
    assert!(message.contains("3 channel") && message.contains("trained on 1"), "{message}");
    colour.channels = 1;
    let message = predictor.predict(&colour).unwrap_err().to_string();
    assert!(message.contains("needs 4 values") && message.contains("has 12"), "{message}");
    assert!(Predictor::new(Device::Cpu, NET, vec![0.0; 3], None).is_err());
}

/// The image as it is seen when it lies so.
fn laid(image: &Image, orientation: Orientation) -> Image {
    let size = [image.height, image.width];
    let [height, width] = orientation.extents(size);
    let seen = |pixel: usize| {
        let [row, column] = orientation.source([pixel / width, pixel % width], size);
        image.pixels[row * image.width + column]
    };
    Image { height, width, pixels: (0..height * width).map(seen).collect(), ..image.clone() }
}

fn averaged(device: &Device, tile: Option<[usize; 2]>, averaging: Averaging, image: &Image) -> Prediction {
    let predictor = Predictor::new(device.clone(), NET, parameters(), tile).unwrap();
    let (mut calls, mut last) = (0, (0, 0));
    let prediction = predictor
        .averaging(averaging)
        .predict_with_progress(image, &mut |done, total| {
            calls += 1;
            last = (done, total);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(last, (calls, calls), "progress ends where it said that it would");
    prediction
}

#[test]
fn progress_may_break_off() {
    let image = image(50, 50);
    let mut predictor = Predictor::new(Device::Cpu, NET, parameters(), Some([smallest_tile(&NET); 2])).unwrap();
    let mut calls = 0;
    let outcome = predictor.predict_with_progress(&image, &mut |done, _| {
        calls += 1;
        if done == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(outcome, Err(Error::Interrupted)) && calls == 2, "{calls} tiles");
}

/// By definition: each view predicted as an image of its own, laid back, and averaged in f64.
#[test]
fn views_are_means_of_predictions_of_laid_images() {
    let image = image(41, 30);
    for (views, count) in [(Views::Flips, 4), (Views::Dihedral, 8)] {
        let orientations = views.orientations();
        assert_eq!(orientations.len(), count);
        let mut means = [vec![0.0_f64; 3 * image.pixels.len()], vec![0.0_f64; 3 * image.pixels.len()]];
        for orientation in orientations {
            let prediction = averaged(&Device::Cpu, None, Averaging::default(), &laid(&image, orientation));
            for pixel in 0..image.pixels.len() {
                let [row, column] = orientation.source([pixel / prediction.width, pixel % prediction.width], [41, 30]);
                let place = row * 30 + column;
                for class in 0..3 {
                    for (mean, values) in means.iter_mut().zip([&prediction.logits, &prediction.probabilities]) {
                        mean[3 * place + class] += f64::from(values[3 * pixel + class]) / count as f64;
                    }
                }
            }
        }
        for device in devices() {
            for (of, mean) in [(Quantity::Scores, &means[0]), (Quantity::Probabilities, &means[1])] {
                let averaging = Averaging { views, of, ..Averaging::default() };
                let prediction = averaged(&device, None, averaging, &image);
                let found = if of == Quantity::Scores { &prediction.logits } else { &prediction.probabilities };
                let worst = found.iter().zip(mean).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
                assert!(worst <= 1e-5, "{device}, {averaging:?}: differs by {worst}");
                for (scores, &label) in prediction.logits.chunks(3).zip(&prediction.labels) {
                    assert!(scores.iter().all(|&score| score <= scores[label as usize]));
                }
            }
        }
    }
}

#[test]
fn blended_tiles_cover_the_image_and_differ_only_by_the_phase_of_pooling() {
    let image = image(75, 52);
    let tile = NET.legal_above(30 + NET.shrink());
    for device in devices() {
        let exact = averaged(&device, Some([tile; 2]), Averaging::default(), &image);
        for blend in [Blend::Abutting, Blend::Mean, Blend::Gaussian] {
            let averaging = Averaging { blend, ..Averaging::default() };
            let prediction = averaged(&device, Some([tile; 2]), averaging, &image);
            let differences = prediction.logits.iter().zip(&exact.logits).map(|(a, b)| (a - b).abs());
            let worst = differences.clone().fold(0.0, f32::max);
            let mean = differences.sum::<f32>() / exact.logits.len() as f32;
            let spread = exact.logits.iter().map(|score| score.abs()).fold(0.0, f32::max);
            assert!(worst > 1e-4 && mean < 0.2 * spread, "{blend:?}: {mean} on average, {worst} at most, of {spread}");
        }
        // One tile that covers all of it is the same whatever the blend.
        let whole = averaged(&device, None, Averaging { blend: Blend::Gaussian, ..Averaging::default() }, &image);
        let worst = whole.logits.iter().zip(&exact.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-5, "{device}: {worst}");
    }
}
