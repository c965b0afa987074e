//! Single ops as ONNX files, with what the reference makes of them, for `tests/golden/roundtrip.py` to hold against ONNX Runtime. What the
//! exporter writes is tested in `src/onnx.rs`, without another program.

use std::collections::BTreeMap;
use std::path::Path;
use tilewise::Result;
use tilewise::array::{Array, Tensor};
use tilewise::cpu;
use tilewise::graph::{Graph, Init, NodeId};
use tilewise::onnx::Model;
use tilewise::ops::{Argmax, BatchNormParameters, BatchNormSettings, Conv2d, ConvTranspose2d, Pad};
use tilewise::random::Random;
use tilewise::shape::TensorType;

type Build = fn(&mut Graph, NodeId) -> Result<NodeId>;

fn weight(graph: &mut Graph, extents: &[usize]) -> Result<NodeId> {
    graph.parameter("weight", extents, Init::Normal(0.5))
}

fn vector(graph: &mut Graph, name: &str, init: Init) -> Result<NodeId> {
    graph.parameter(name, [3], init)
}

fn batch_norm(graph: &mut Graph, x: NodeId) -> Result<NodeId> {
    let parameters = BatchNormParameters {
        weight: vector(graph, "weight", Init::Normal(1.0))?,
        bias: vector(graph, "bias", Init::Normal(1.0))?,
        running_mean: graph.buffer("mean", [3], Init::Normal(1.0))?,
        running_var: graph.buffer("variance", [3], Init::Constant(0.4))?,
    };
    graph.batch_norm("norm", x, &parameters, false, BatchNormSettings { epsilon: 0.1, momentum: 0.1 })
}

/// Ops over x `[2, 7, 10, 3]`, with settings that are no defaults.
const OPS: &[(&str, Build)] = &[
    ("add", |graph, x| {
        let y = graph.relu("relu", x)?;
        graph.apply("y", tilewise::ops::Add, &[x, y])
    }),
    ("argmax", |graph, x| graph.apply("y", Argmax, &[x])),
    ("batch_norm", batch_norm),
    ("conv2d", |graph, x| {
        let (weight, bias) = (weight(graph, &[2, 3, 3, 5])?, graph.parameter("bias", [5], Init::Normal(1.0))?);
        graph.conv2d("y", x, weight, Some(bias), Conv2d { stride: [2, 3], padding: [1, 2] })
    }),
    ("conv_transpose2d", |graph, x| {
        let weight = weight(graph, &[3, 4, 3, 2])?;
        graph.apply("y", ConvTranspose2d { stride: [2, 3], padding: [1, 2] }, &[x, weight])
    }),
    ("crop_concat", |graph, x| {
        let up = graph.pad("up", x, Pad { before: [-1, 0, 0], after: [-2, -3, -1] })?;
        graph.crop_concat("y", x, up)
    }),
    ("leaky_relu", |graph, x| graph.leaky_relu("y", x, 0.3)),
    ("max_pool2d", |graph, x| graph.max_pool2d("y", x, 3)),
    ("pad", |graph, x| graph.pad("y", x, Pad { before: [2, -1, 1], after: [-3, 4, 0] })),
    ("prelu", |graph, x| {
        let slope = vector(graph, "slope", Init::Normal(0.5))?;
        graph.prelu("y", x, slope)
    }),
    ("resize_aligned", |graph, x| graph.resize_bilinear("y", x, [13, 4], true)),
    ("resize_aligned_to_one", |graph, x| graph.resize_bilinear("y", x, [1, 1], true)),
    ("resize_bilinear", |graph, x| graph.resize_bilinear("y", x, [4, 23], false)),
    ("resize_nearest", |graph, x| graph.resize_nearest("y", x, [5, 23])),
    ("sigmoid", |graph, x| graph.sigmoid("y", x)),
    ("softmax", |graph, x| graph.softmax("y", x)),
];

#[test]
#[ignore = "writes files for tests/golden/roundtrip.py into the folder TILEWISE_ONNX"]
fn single_ops_are_written_with_what_they_give() {
    let folder = std::env::var("TILEWISE_ONNX").unwrap();
    for (name, build) in OPS {
        let mut graph = Graph::new();
        let x_type = TensorType::f32([2, 7, 10, 3]).unwrap();
        let x = graph.input("x", x_type.clone());
        let y = build(&mut graph, x).unwrap();
        graph.mark_output("result", y).unwrap();
        let parameters = graph.initial_parameters(5);
        Model::new(&graph, &parameters, true).unwrap().save(&Path::new(&folder).join(format!("{name}.onnx"))).unwrap();
        let mut random = Random::new(5, 0);
        let data: Vec<f32> = (0..x_type.shape.elements()).map(|_| random.normal()).collect();
        let array = Array { shape: x_type.shape, data: data.iter().map(|&value| f64::from(value)).collect() };
        let inputs = BTreeMap::from([(x, Tensor::Float(array))]);
        let results = cpu::evaluate::<f64>(&graph, &inputs, &mut cpu::banks(&graph, &parameters)).unwrap();
        let y = match &results[&y] {
            Tensor::Float(y) => {
                Array { shape: y.shape.clone(), data: y.data.iter().map(|&value| value as f32).collect() }
            }
            Tensor::Uint(y) => {
                Array { shape: y.shape.clone(), data: y.data.iter().map(|&value| value as f32).collect() }
            }
        };
        let tensors =
            [("x", &[2, 7, 10, 3][..], &data), ("y", y.shape.extents(), &y.data)].map(|(name, extents, data)| {
                let bytes = bytemuck::cast_slice(data);
                (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, extents.to_vec(), bytes).unwrap())
            });
        let bytes = safetensors::serialize(tensors, None).unwrap();
        std::fs::write(Path::new(&folder).join(format!("{name}.safetensors")), bytes).unwrap();
    }
}
