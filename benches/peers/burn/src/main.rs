//! The U-Net of tilewise on burn's wgpu backend: `burn-unet GIVEN RESULTS`.
//!
//! Reads weights and inputs from the folder GIVEN, writes logits, losses and gradients into RESULTS, says in a line of JSON what it
//! runs on, and then times a pass for every line of standard input. `../README.md` describes files and lines.

use burn::module::Param;
use burn::nn::conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, ModuleOptimizer, SgdConfig};
use burn::prelude::*;
use burn::tensor::activation::{log_softmax, relu};
use burn::tensor::wgpu::wgpu;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::error::Error;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const MOMENTUM: f64 = 0.99;
/// As small as that of the other programs' rounds: the network stays what it is.
const RATE_OF_ROUNDS: f64 = 1e-6;
const LOSSES: usize = 3;

#[derive(Module, Debug)]
struct Pair {
    conv1: Conv2d,
    conv2: Conv2d,
}

impl Pair {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        relu(self.conv2.forward(relu(self.conv1.forward(x))))
    }
}

#[derive(Module, Debug)]
struct Decoder {
    up: ConvTranspose2d,
    pair: Pair,
}

/// Level 0 is the finest.
#[derive(Module, Debug)]
struct UNet {
    encoders: Vec<Pair>,
    pool: MaxPool2d,
    bottleneck: Pair,
    decoders: Vec<Decoder>,
    head: Conv2d,
}

impl UNet {
    fn load(weights: &SafeTensors<'_>, device: &Device) -> Result<Self> {
        let bias = |name: &str| Ok::<_, Box<dyn Error>>(Some(Param::from_tensor(floats::<1>(weights, name, device)?)));
        let conv = |name: &str| {
            let weight = floats::<4>(weights, &format!("{name}.weight"), device)?;
            let [channels_out, channels_in, height, width] = weight.dims();
            let mut conv = Conv2dConfig::new([channels_in, channels_out], [height, width]).init(device);
            (conv.weight, conv.bias) = (Param::from_tensor(weight), bias(&format!("{name}.bias"))?);
            Ok::<_, Box<dyn Error>>(conv)
        };
        let pair = |name: &str| {
            Ok::<_, Box<dyn Error>>(Pair {
                conv1: conv(&format!("{name}.conv1"))?,
                conv2: conv(&format!("{name}.conv2"))?,
            })
        };
        let decoder = |name: &str| {
            let weight = floats::<4>(weights, &format!("{name}.up.weight"), device)?;
            let [channels_in, channels_out, height, width] = weight.dims();
            let config = ConvTranspose2dConfig::new([channels_in, channels_out], [height, width]).with_stride([2, 2]);
            let mut up = config.init(device);
            (up.weight, up.bias) = (Param::from_tensor(weight), bias(&format!("{name}.up.bias"))?);
            Ok::<_, Box<dyn Error>>(Decoder { up, pair: pair(name)? })
        };
        let depth = weights.names().iter().filter(|name| name.ends_with(".up.weight")).count();
        Ok(Self {
            encoders: (0..depth).map(|level| pair(&format!("encoder{level}"))).collect::<Result<_>>()?,
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            bottleneck: pair("bottleneck")?,
            decoders: (0..depth).map(|level| decoder(&format!("decoder{level}"))).collect::<Result<_>>()?,
            head: conv("head")?,
        })
    }

    fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        let mut skips = Vec::new();
        for encoder in &self.encoders {
            let skip = encoder.forward(x);
            x = self.pool.forward(skip.clone());
            skips.push(skip);
        }
        x = self.bottleneck.forward(x);
        for (decoder, skip) in self.decoders.iter().zip(skips).rev() {
            x = decoder.up.forward(x);
            let ([n, c, height, width], [_, _, skip_height, skip_width]) = (x.dims(), skip.dims());
            let (top, left) = ((skip_height - height) / 2, (skip_width - width) / 2);
            let skip = skip.slice([0..n, 0..c, top..top + height, left..left + width]);
            x = decoder.pair.forward(Tensor::cat(vec![skip, x], 1));
        }
        self.head.forward(x)
    }

    /// Name, weight and bias of every convolution.
    fn layers(&self) -> Vec<(String, &Param<Tensor<4>>, Option<&Param<Tensor<1>>>)> {
        let mut pairs = vec![("bottleneck".to_owned(), &self.bottleneck)];
        let mut layers = vec![("head".to_owned(), &self.head.weight, self.head.bias.as_ref())];
        for (level, (encoder, decoder)) in self.encoders.iter().zip(&self.decoders).enumerate() {
            pairs.extend([(format!("encoder{level}"), encoder), (format!("decoder{level}"), &decoder.pair)]);
            layers.push((format!("decoder{level}.up"), &decoder.up.weight, decoder.up.bias.as_ref()));
        }
        for (name, pair) in pairs {
            for (part, conv) in [("conv1", &pair.conv1), ("conv2", &pair.conv2)] {
                layers.push((format!("{name}.{part}"), &conv.weight, conv.bias.as_ref()));
            }
        }
        layers
    }
}

/// A tensor of floats from a file.
fn floats<const D: usize>(file: &SafeTensors<'_>, name: &str, device: &Device) -> Result<Tensor<D>> {
    let view = file.tensor(name)?;
    let values: Vec<f32> = view.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    Ok(Tensor::from_data(TensorData::new(values, view.shape().to_vec()), device))
}

/// Name, extents and bytes of what is written to a file.
type Written = (String, Vec<usize>, Vec<u8>);

fn written<const D: usize>(name: String, tensor: Tensor<D>) -> Result<Written> {
    let data = tensor.into_data();
    let values: Vec<f32> = data.try_to_vec().map_err(|error| format!("{name}: {error:?}"))?;
    Ok((name, data.shape().to_vec(), values.iter().flat_map(|value| value.to_le_bytes()).collect()))
}

fn save(path: &Path, tensors: &[Written]) -> Result<()> {
    let views =
        tensors.iter().map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)));
    Ok(safetensors::serialize_to_file(views.collect::<Result<Vec<_>>>()?, None, path)?)
}

/// What a step of training needs besides the network.
struct Training {
    image: Tensor<4>,
    /// `[n, 1, h, w]`
    labels: Tensor<4, Int>,
    /// `[n, 1, h, w]`, with a sum of 1
    weights: Tensor<4>,
    optimizer: ModuleOptimizer,
}

impl Training {
    /// One step; the network after it, the loss before it, and `inspect` sees the gradients.
    fn step(&mut self, net: UNet, rate: f64, mut inspect: impl FnMut(&UNet, &GradientsParams)) -> (UNet, Tensor<1>) {
        let log_probabilities = log_softmax(net.forward(self.image.clone()), 1).gather(1, self.labels.clone());
        let loss = (log_probabilities.neg() * self.weights.clone()).sum();
        let gradients = GradientsParams::from_grads(loss.backward(), &net);
        inspect(&net, &gradients);
        (self.optimizer.step(rate, net, gradients), loss)
    }
}

fn main() -> Result<()> {
    let folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [given, results] = folders.as_slice() else { return Err("usage: burn-unet GIVEN RESULTS".into()) };
    let (weights, inputs) =
        (std::fs::read(given.join("weights.safetensors"))?, std::fs::read(given.join("inputs.safetensors"))?);
    let (weights, inputs) = (SafeTensors::deserialize(&weights)?, SafeTensors::deserialize(&inputs)?);
    let device = Device::wgpu(DeviceKind::DefaultDevice);
    let differentiable = device.clone().autodiff();

    let start = Instant::now();
    let net = UNet::load(&weights, &device)?;
    let image = floats::<4>(&inputs, "image", &device)?;
    let logits = written("logits".into(), net.forward(image.clone()))?;
    let first_inference = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let labels = inputs.tensor("labels")?;
    let [n, height, width] = <[usize; 3]>::try_from(labels.shape())?;
    let classes: Vec<i64> = labels.data().as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect();
    let pixels = floats::<3>(&inputs, "weights", &differentiable)?.reshape([n, 1, height, width]);
    let mut training = Training {
        image: floats(&inputs, "image", &differentiable)?,
        labels: Tensor::from_data(TensorData::new(classes, [n, 1, height, width]), &differentiable),
        weights: pixels.clone() / pixels.sum().reshape([1, 1, 1, 1]),
        optimizer: SgdConfig::new()
            .with_momentum(Some(MomentumConfig::new().with_momentum(MOMENTUM).with_dampening(0.0)))
            .init(),
    };
    let rate = f64::from(f32::from_le_bytes(inputs.tensor("rate")?.data().try_into()?));
    let (mut trained, mut losses, mut first_step) = (UNet::load(&weights, &differentiable)?, Vec::new(), 0.0);
    let mut gradients: Vec<Result<Written>> = Vec::new();
    for index in 0..LOSSES {
        let (next, loss) = training.step(trained, rate, |net, of| {
            if index > 0 {
                return;
            }
            for (name, weight, bias) in net.layers() {
                let weight_gradient =
                    of.get::<4>(weight.id).ok_or_else(|| format!("no gradient of {name}.weight").into());
                gradients.push(weight_gradient.and_then(|tensor| written(format!("{name}.weight"), tensor)));
                let bias_gradient = bias.and_then(|bias| of.get::<1>(bias.id));
                let bias_gradient = bias_gradient.ok_or_else(|| format!("no gradient of {name}.bias").into());
                gradients.push(bias_gradient.and_then(|tensor| written(format!("{name}.bias"), tensor)));
            }
        });
        trained = next;
        losses.push(loss.into_scalar::<f32>());
        device.sync()?;
        if index == 0 {
            first_step = start.elapsed().as_secs_f64();
        }
    }
    std::fs::create_dir_all(results)?;
    save(&results.join("gradients.safetensors"), &gradients.into_iter().collect::<Result<Vec<_>>>()?)?;
    let losses = ("losses".into(), vec![LOSSES], losses.iter().flat_map(|loss| loss.to_le_bytes()).collect());
    save(&results.join("outputs.safetensors"), &[logits, losses])?;

    // burn does not say which adapter it got; it asks wgpu for one in these words.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let power_preference = wgpu::PowerPreference::HighPerformance;
    let options = wgpu::RequestAdapterOptions { power_preference, ..Default::default() };
    let adapter = pollster::block_on(instance.request_adapter(&options)).ok().map(|adapter| adapter.get_info());
    let facts = serde_json::json!({
        "version": format!("0.22.1, {}", if cfg!(feature = "autotune") { "autotune" } else { "no autotune" }),
        "device": adapter.as_ref().map(|adapter| &adapter.name),
        "driver": adapter.as_ref().map(|adapter| format!("{} {}", adapter.driver, adapter.driver_info)),
        "first_seconds": { "inference": first_inference, "training step": first_step },
    });
    let mut answers = io::stdout().lock();
    writeln!(answers, "{facts}")?;

    for request in io::stdin().lock().lines() {
        let request = request?;
        let (pass, count) = request.rsplit_once(' ').ok_or_else(|| format!("{request:?} is no request"))?;
        let mut seconds = Vec::new();
        for _ in 0..count.parse::<usize>()? {
            let start = Instant::now();
            match pass {
                // What nobody reads, burn need not compute.
                "inference" => drop(net.forward(image.clone()).into_data()),
                "training step" => (trained, _) = training.step(trained, RATE_OF_ROUNDS, |_, _| {}),
                other => return Err(format!("there is no pass {other:?}").into()),
            }
            device.sync()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        writeln!(answers, "{}", serde_json::json!(seconds))?;
        answers.flush()?;
    }
    Ok(())
}
