//! Trains on generated cells and segments a picture that it has not seen.

use tilewise::Result;
use tilewise::data::{Prepared, cells};
use tilewise::executor::Device;
use tilewise::gpu::DeviceChoice;
use tilewise::predict::Predictor;
use tilewise::train::{Config, Trainer};

fn main() -> Result<()> {
    let device = Device::choose(&DeviceChoice::Auto)?;
    let config = Config { base: 8, depth: 2, steps: 80, ..Config::default() };
    let net = config.model(1, 2);
    let samples =
        (0..6).map(|index| Prepared::new(cells::generate(1, index, 128), None)).collect::<Result<Vec<_>>>()?;
    let mut trainer = Trainer::new(&config, net, net.legal_above(100), &device, samples)?;
    for _ in 0..config.steps {
        trainer.step()?;
    }
    let mut predictor = Predictor::new(device, net, trainer.weights()?, None)?;
    let (prediction, confusion) = predictor.score(&cells::generate(1, 99, 128))?;
    prediction.label_map().write_classes("classes.png")?;
    let iou = confusion.foreground_iou().unwrap_or(0.0);
    println!("foreground IoU {iou:.3}: classes.png");
    assert!(iou > 0.8, "it has not learned");
    Ok(())
}
