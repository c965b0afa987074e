//! Segments an image: loads weights, predicts, saves the classes and a picture of them.
//!
//! `cargo run --release --example segment -- WEIGHTS.safetensors IMAGE.png OUT.png`

use tilewise::checkpoint::Weights;
use tilewise::data::Image;
use tilewise::executor::Device;
use tilewise::gpu::DeviceChoice;
use tilewise::picture::Picture;
use tilewise::predict::Predictor;
use tilewise::{Error, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [weights, image, out] = arguments.as_slice() else {
        return Err(Error::Usage("expected WEIGHTS.safetensors IMAGE.png OUT.png".into()));
    };
    let device = Device::choose(&DeviceChoice::Auto)?;
    let mut predictor = Predictor::load(device, &Weights::load(weights)?, None)?;
    let image = Image::read(image)?;
    let prediction = predictor.predict(&image)?;
    prediction.label_map().write_classes(out)?;
    let overlay = Picture::of_image(&image.pixels, [image.height, image.width], image.channels);
    overlay.overlaid(&prediction.labels).write(format!("{out}.overlay.png"))
}
