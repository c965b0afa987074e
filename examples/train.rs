//! Trains on samples that are made in memory, and scores the result on one that was not trained on.
//!
//! `cargo run --release --example train`

use tilewise::data::{Image, LabelMap, Prepared, Sample, Truth};
use tilewise::executor::Device;
use tilewise::gpu::DeviceChoice;
use tilewise::predict::Predictor;
use tilewise::random::Random;
use tilewise::train::{Config, Trainer};
use tilewise::{Error, Result};

const SIDE: usize = 100;

/// A bright disc on noise, and where it is.
fn sample(number: u32) -> Sample {
    let mut random = Random::new(1, number);
    let [y, x] = [0, 1].map(|_| random.between(30.0, 70.0));
    let radius = random.between(10.0, 25.0);
    let inside: Vec<bool> =
        (0..SIDE * SIDE).map(|pixel| ((pixel / SIDE) as f32 - y).hypot((pixel % SIDE) as f32 - x) < radius).collect();
    let pixels = inside.iter().map(|&inside| random.normal() + if inside { 2.0 } else { 0.0 }).collect();
    let values = inside.into_iter().map(u32::from).collect();
    Sample {
        name: format!("disc {number}"),
        image: Image { height: SIDE, width: SIDE, channels: 1, bit_depth: 32, pixels, alpha_dropped: false },
        truth: Truth::Classes(LabelMap { height: SIDE, width: SIDE, values }),
    }
}

fn main() -> Result<()> {
    let device = Device::choose(&DeviceChoice::Auto)?;
    println!("device: {device}");
    let config = Config { base: 8, depth: 2, batch: 2, steps: 60, learning_rate: Some(0.05), ..Config::default() };
    let net = config.model(1, 2);
    let samples = (0..20).map(|number| Prepared::new(sample(number), None)).collect::<Result<Vec<_>>>()?;
    let mut trainer = Trainer::new(&config, net, net.legal_above(SIDE), &device, samples)?;
    for _ in 0..config.steps {
        let record = trainer.step()?;
        if record.step % 20 == 0 {
            println!("step {}: loss {:.4}", record.step, record.loss);
        }
    }
    let mut predictor = Predictor::new(device, net, trainer.weights()?, None)?;
    let (_, confusion) = predictor.score(&sample(1000))?;
    let score = confusion.foreground_iou().unwrap_or(0.0);
    println!("IoU of a disc that it never saw: {score:.3}");
    if score > 0.5 { Ok(()) } else { Err(Error::Diverged(format!("it has learnt nothing: IoU {score}"))) }
}
