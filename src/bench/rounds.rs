//! One network, its results laid out for other programs to compare with, and timed whenever they ask: `tilewise bench --rounds`.

use super::network::{check, flops, inputs, run, write};
use super::{Machine, Settings, Workload, wgpu_version};
use crate::array::{Array, Tensor};
use crate::checkpoint::{Metadata, Section, atomic, save};
use crate::error::{Error, Result};
use crate::executor::{Device, Executor};
use crate::graph::{Bank, Graph, NodeId, Parameter};
use crate::random::Random;
use crate::shape::Shape;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::time::Instant;

/// By what share of the loss the first update lowers it at most, as far as its gradient tells: enough that losses tell whether the update
/// is right, and so little that no network leaves the slope, where every rounding would grow from step to step.
const DECREASE: f32 = 0.03;

/// Steps whose losses are written; the third is the first that momentum has a part in.
const LOSSES: usize = 3;

/// Deviation of the biases: not 0, so that a program that leaves them out is found out.
const BIAS: f32 = 0.05;

/// What is said before the first round.
#[derive(Serialize)]
struct Facts {
    version: String,
    device: Machine,
    flops: BTreeMap<&'static str, u64>,
    /// From the graph to the end of the first run, by pass.
    first_seconds: BTreeMap<&'static str, f64>,
}

/// Writes a network and its results into a folder, says in a line of JSON what computed them, and then, for each line of `requests`
/// that names a pass (`inference`, `training step`) and a number, runs the pass so often and answers with a JSON array of seconds.
///
/// The files are safetensors in `PyTorch`'s layouts: `weights`; `inputs`, which are `image`, `labels`, `weights` of the pixels and
/// `rate`; `gradients` of the first step; `outputs`, which are `logits` and the `losses` of the first steps. Every op of the network
/// has been held against its reference before, as in [`run`](super::run).
///
/// # Errors
/// As [`run`](super::run); [`Error::Io`] when the folder cannot be written or requests not be read, [`Error::Usage`] quoting a
/// request that is none.
pub fn rounds(
    device: &Device,
    workload: &Workload,
    settings: Settings,
    folder: &Path,
    requests: impl BufRead,
    mut answers: impl Write,
) -> Result<()> {
    let step = workload.training_step()?;
    let mut random = Random::new(settings.seed, 0);
    let mut parameters = step.graph.initial_parameters(settings.seed);
    let is_bias = |parameter: &&Parameter| parameter.name.rsplit('.').next() == Some("bias");
    for bias in step.graph.parameters().iter().filter(is_bias) {
        parameters[bias.offset..][..bias.shape.elements()].fill_with(|| BIAS * random.normal());
    }
    let mut inputs = inputs(&step, settings.seed);
    let rate = |rate| Tensor::from(Array::filled(step.graph.shape(step.rates).clone(), rate));
    let rate_of_rounds = inputs.insert(step.rates, rate(0.0)).unwrap_or_else(|| rate(0.0));
    let (mut work, mut first_seconds) = (BTreeMap::new(), BTreeMap::new());
    let inference = workload.inference(&parameters)?;
    let logits = inference.logits;
    let mut first = |name, graph: &Graph, parameters: &[f32], inputs: &BTreeMap<_, _>| {
        let start = Instant::now();
        let mut executor = Executor::new(device, graph, parameters)?;
        write(&mut executor, inputs)?;
        run(&mut executor)?;
        first_seconds.insert(name, start.elapsed().as_secs_f64());
        work.insert(name, flops(graph));
        Ok::<_, Error>(executor)
    };
    let mut inference = first("inference", &inference.graph, &inference.parameters, &inference.inputs(&step, &inputs))?;
    let mut training = first("training step", &step.graph, &parameters, &inputs)?;
    if let Some(gpu) = device.gpu() {
        check(gpu, workload.checked()?, settings.seed)?;
    }

    let bank = |name: &str, bank: &[f32]| {
        save(&folder.join(name), &step.graph, &[Section { prefix: "", bank }], &Metadata::new())
    };
    let gradients = training.read_bank(Bank::Gradients)?;
    bank("weights.safetensors", &parameters)?;
    bank("gradients.safetensors", &gradients)?;
    let loss = |training: &Executor| Ok::<_, Error>(training.read(step.loss)?.float().data[0]);
    // The first step left the parameters as they were.
    let squares: f32 = gradients.iter().map(|gradient| gradient * gradient).sum();
    // A power of two is the same from devices that round otherwise.
    inputs.insert(step.rates, rate((DECREASE * loss(&training)? / squares).log2().floor().exp2()));
    write(&mut training, &inputs)?;
    training.write_bank(Bank::OptimizerState(0), &vec![0.0; parameters.len()])?;
    let mut losses = Vec::new();
    while losses.len() < LOSSES {
        run(&mut training)?;
        losses.push(loss(&training)?);
    }
    let losses = Array { shape: Shape::new([LOSSES]).map_err(Error::Usage)?, data: losses };
    let given = |node: NodeId| inputs[&node].clone();
    let given = [
        ("image", channels_first(&given(step.image))?),
        ("labels", given(step.labels)),
        ("weights", given(step.weights)),
        ("rate", given(step.rates)),
    ];
    write_tensors(&folder.join("inputs.safetensors"), &given)?;
    let outputs = [("logits", channels_first(&inference.read(logits)?)?), ("losses", losses.into())];
    write_tensors(&folder.join("outputs.safetensors"), &outputs)?;

    training.write(step.rates, rate_of_rounds)?;
    let version = format!("{}, wgpu {}", env!("CARGO_PKG_VERSION"), wgpu_version().unwrap_or_default());
    answer(&mut answers, &Facts { version, device: Machine::of(device), flops: work, first_seconds })?;
    for request in requests.lines() {
        let request = request.map_err(|error| Error::io("read", "standard input", error))?;
        let (name, count) = request.rsplit_once(' ').unwrap_or_default();
        let executor = match name {
            "inference" => Some(&mut inference),
            "training step" => Some(&mut training),
            _ => None,
        };
        let (Some(executor), Ok(count)) = (executor, count.parse::<usize>()) else {
            let problem = format!("{request:?} is no request; ask for `inference N` or `training step N`");
            return Err(Error::Usage(problem));
        };
        let seconds = (0..count).map(|_| {
            let start = Instant::now();
            run(executor)?;
            Ok(start.elapsed().as_secs_f64())
        });
        answer(&mut answers, &seconds.collect::<Result<Vec<f64>>>()?)?;
    }
    Ok(())
}

/// A line of JSON, at once.
fn answer(answers: &mut impl Write, value: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(value).map_err(io::Error::from);
    let written = line.and_then(|line| writeln!(answers, "{line}")).and_then(|()| answers.flush());
    written.map_err(|error| Error::io("write", "standard output", error))
}

/// `[n, h, w, c]` as `[n, c, h, w]`.
fn channels_first(images: &Tensor<f32>) -> Result<Tensor<f32>> {
    let Array { shape, data } = images.float();
    let [n, h, w, c] = shape.image().map_err(Error::Usage)?;
    let pixels = h * w;
    let position = |target: usize| ((target / (c * pixels)) * pixels + target % pixels) * c + target / pixels % c;
    let data = (0..data.len()).map(|target| data[position(target)]).collect();
    Ok(Array { shape: Shape::new([n, c, h, w]).map_err(Error::Usage)?, data }.into())
}

/// Floats as they are, integers as `PyTorch` has classes.
fn write_tensors(path: &Path, tensors: &[(&str, Tensor<f32>)]) -> Result<()> {
    let bytes = tensors.iter().map(|(_, tensor)| match tensor {
        Tensor::Float(array) => (Dtype::F32, bytemuck::cast_slice(&array.data).to_vec()),
        Tensor::Uint(array) => {
            (Dtype::I64, array.data.iter().flat_map(|&label| i64::from(label).to_le_bytes()).collect())
        }
    });
    let bytes: Vec<(Dtype, Vec<u8>)> = bytes.collect();
    let views = tensors.iter().zip(&bytes).map(|((name, tensor), (dtype, bytes))| {
        Ok((name, TensorView::new(*dtype, tensor.tensor_type().shape.extents().to_vec(), bytes)?))
    });
    let file = views.collect::<Result<Vec<_>, _>>().and_then(|views| serialize(views, None));
    let file = file.map_err(|error| Error::io("write", path, io::Error::other(error)))?;
    atomic::write(path, |writer| writer.write_all(&file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_come_first() {
        let data: Vec<f32> = (0..24_u8).map(f32::from).collect();
        let images = Array { shape: Shape::new([2, 2, 3, 2]).unwrap(), data }.into();
        let turned = channels_first(&images).unwrap();
        assert_eq!(turned.float().shape.extents(), [2, 2, 2, 3]);
        assert_eq!(turned.float().data[..12], [0., 2., 4., 6., 8., 10., 1., 3., 5., 7., 9., 11.]);
        assert_eq!(turned.float().data[12..15], [12., 14., 16.]);
    }
}
