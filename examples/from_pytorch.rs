//! Weights that PyTorch wrote, by `safetensors.torch.save_file(model.state_dict(), FILE)` or `torch.save(model.state_dict(), FILE)`: which network they are of, and what it says.
//!
//! `cargo run --release --example from_pytorch -- STATE_DICT [IMAGE.png OUT.png]`

use tilewise::checkpoint::Weights;
use tilewise::data::Image;
use tilewise::executor::Device;
use tilewise::gpu::DeviceChoice;
use tilewise::predict::Predictor;
use tilewise::{Error, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (weights, images) = match arguments.as_slice() {
        [weights] => (weights, None),
        [weights, image, out] => (weights, Some((image, out))),
        _ => return Err(Error::Usage("expected STATE_DICT [IMAGE.png OUT.png]".into())),
    };
    // Tensors are matched by name and shape; what is missing, unexpected or misshapen is listed in the error.
    let weights = Weights::load(weights)?;
    let (net, _) = weights.network()?;
    let count: usize = weights.tensors().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    println!(
        "{}: {} channel(s) in, {} classes, {} channels at the finest level, {} poolings, {count} numbers",
        net.title(),
        net.in_channels,
        net.classes,
        net.base_channels,
        net.depth
    );
    if let Some((image, out)) = images {
        let mut predictor = Predictor::load(Device::choose(&DeviceChoice::Auto)?, &weights, None)?;
        predictor.predict(&Image::read(image)?)?.label_map().write_classes(out)?;
    }
    Ok(())
}
