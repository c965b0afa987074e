//! The engine against values computed by PyTorch (tests/golden): single ops in f64, and the small U-Net's logits, loss, every
//! gradient and ten training losses, on the reference in f64 and on a device in f32.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::Path;
use tilewise::array::{Array, Tensor};
use tilewise::checkpoint::Weights;
use tilewise::cpu::{self, Banks};
use tilewise::gpu::{Gpu, Plan, PlanOptions};
use tilewise::graph::{Bank, Graph, Init, NodeId, Parameter};
use tilewise::models::{Loss, Optimizer, Training, UNet, Variant};
use tilewise::op::{Backward, Op};
use tilewise::ops::{
    AdamSettings, BatchNormParameters, BatchNormSettings, Conv2d, CrossEntropySettings, DiceSettings, Pad, Prelu,
    Reduction, Resize, ResizeMode, SgdSettings, Sigmoid,
};
use tilewise::shape::{Shape, TensorType};

/// A file of tensors written by PyTorch.
struct Golden {
    tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
    settings: serde_json::Value,
}

impl Golden {
    fn read(path: impl AsRef<Path>) -> Self {
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()));
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let settings = metadata.metadata().as_ref().and_then(|map| map.get("settings")).map_or("null", String::as_str);
        let settings = serde_json::from_str(settings).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.tensors().into_iter().map(|(name, view)| {
            let values = match view.dtype() {
                safetensors::Dtype::F64 => bytemuck::pod_collect_to_vec::<u8, f64>(view.data()),
                safetensors::Dtype::F32 => {
                    bytemuck::pod_collect_to_vec::<u8, f32>(view.data()).into_iter().map(f64::from).collect()
                }
                safetensors::Dtype::I64 => {
                    bytemuck::pod_collect_to_vec::<u8, i64>(view.data()).into_iter().map(|value| value as f64).collect()
                }
                safetensors::Dtype::U8 => view.data().iter().map(|&value| f64::from(value)).collect(),
                other => panic!("{name}: unexpected type {other:?}"),
            };
            (name, (view.shape().to_vec(), values))
        });
        Self { tensors: tensors.collect(), settings }
    }

    fn values(&self, name: &str) -> &[f64] {
        &self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}")).1
    }

    /// A tensor with its axes reordered: axis `i` of the result is axis `order[i]` of the file.
    fn permuted(&self, name: &str, order: &[usize]) -> Array<f64> {
        let (extents, values) = &self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}"));
        assert_eq!(extents.len(), order.len(), "{name}");
        let strides: Vec<usize> = (0..extents.len()).map(|axis| extents[axis + 1..].iter().product()).collect();
        let shape = Shape::new(order.iter().map(|&axis| extents[axis]).collect::<Vec<_>>()).unwrap();
        let data = (0..shape.elements()).map(|index| {
            let mut rest = index;
            let mut from = 0;
            for (position, &axis) in order.iter().enumerate().rev() {
                from += rest % shape.extents()[position] * strides[axis];
                rest /= shape.extents()[position];
            }
            values[from]
        });
        let data = data.collect();
        Array { shape, data }
    }

    /// An activation: NCHW to NHWC.
    fn activation(&self, name: &str) -> Array<f64> {
        self.permuted(name, &[0, 2, 3, 1])
    }

    fn labels(&self, name: &str) -> Tensor<f64> {
        let (extents, values) = &self.tensors[name];
        let data = values.iter().map(|&value| value as u32).collect();
        Tensor::Uint(Array { shape: Shape::new(extents.clone()).unwrap(), data })
    }

    fn plain(&self, name: &str) -> Array<f64> {
        let (extents, values) = &self.tensors[name];
        Array { shape: Shape::new(extents.clone()).unwrap(), data: values.clone() }
    }

    /// A parameter in our layout: `OIHW` or, for a transposed convolution, `IOHW`, to `[kh, kw, c_in, c_out]`.
    fn weight(&self, name: &str, transposed: bool) -> Array<f64> {
        match self.tensors[name].0.len() {
            1 => self.plain(name),
            _ if transposed => self.permuted(name, &[2, 3, 0, 1]),
            _ => self.permuted(name, &[2, 3, 1, 0]),
        }
    }

    /// A bank filled with the tensors named `prefix` and the parameter's name.
    fn bank(&self, graph: &Graph, name_of: &dyn Fn(&Parameter) -> String) -> Vec<f64> {
        let mut bank = vec![0.0; graph.bank_elements()];
        for parameter in graph.parameters() {
            let array = self.weight(&name_of(parameter), is_transposed(parameter));
            assert_eq!(array.shape, parameter.shape, "{}", parameter.name);
            bank[parameter.offset..][..array.data.len()].copy_from_slice(&array.data);
        }
        bank
    }
}

/// Whether it is the weight of a transposed convolution, in the names of any network.
fn is_transposed(parameter: &Parameter) -> bool {
    [".up.", "upconv", ".upConv."].iter().any(|part| parameter.name.contains(part))
}

/// The largest difference, as a share of the largest element of `expected`.
fn difference(actual: impl IntoIterator<Item = f64>, expected: &[f64]) -> f64 {
    let largest = expected.iter().fold(f64::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
    let actual: Vec<f64> = actual.into_iter().collect();
    assert_eq!(actual.len(), expected.len());
    let worst = actual.iter().zip(expected).fold(0.0f64, |worst, (a, b)| {
        let error = (a - b).abs();
        // A NaN counts as the worst there is.
        if error <= worst {
            worst
        } else if error.is_nan() {
            f64::INFINITY
        } else {
            error
        }
    });
    worst / largest
}

#[track_caller]
fn assert_close(what: &str, actual: &[f64], expected: &[f64], bound: f64) {
    let difference = difference(actual.iter().copied(), expected);
    assert!(difference <= bound, "{what}: off by {difference:e} of the largest element, bound {bound:e}");
}

fn golden(name: &str) -> Golden {
    Golden::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name))
}

/// Evaluates an op and its gradients for a cotangent, all inputs given.
fn with_gradients(
    op: &(impl Op + Clone),
    inputs: &[Tensor<f64>],
    cotangent: &Array<f64>,
) -> (Array<f64>, Vec<Array<f64>>) {
    let mut graph = Graph::new();
    let mut values = BTreeMap::new();
    let nodes: Vec<NodeId> = inputs
        .iter()
        .map(|value| {
            let node = graph.input("input", value.tensor_type());
            values.insert(node, value.clone());
            node
        })
        .collect();
    let output = graph.apply("op", op.clone(), &nodes).unwrap();
    let grad_output = graph.input("cotangent", Tensor::from(cotangent.clone()).tensor_type());
    values.insert(grad_output, cotangent.clone().into());
    let needs = vec![true; nodes.len()];
    let mut backward =
        Backward { graph: &mut graph, name: "op".into(), inputs: &nodes, output, grad_output, needs: &needs };
    let gradients: Vec<NodeId> = op.gradient(&mut backward).unwrap().into_iter().flatten().collect();
    graph.mark_output("y", output).unwrap();
    for &gradient in &gradients {
        graph.mark_output("gradient", gradient).unwrap();
    }
    let outputs = cpu::evaluate(&graph, &values, &mut Banks::<f64>::new()).unwrap();
    (outputs[&output].float().clone(), gradients.iter().map(|node| outputs[node].float().clone()).collect())
}

const EXACT: f64 = 1e-12;

#[test]
fn convolutions_equal_pytorch() {
    let golden = golden("ops.safetensors");
    let mut seen = 0;
    for (case, settings) in golden.settings["cases"].as_object().unwrap() {
        let transposed = settings["op"] == "conv_transpose2d";
        if !transposed && settings["op"] != "conv2d" {
            continue;
        }
        seen += 1;
        let name = |tensor: &str| format!("{case}.{tensor}");
        let inputs: [Tensor<f64>; 3] = [
            golden.activation(&name("x")).into(),
            golden.weight(&name("weight"), transposed).into(),
            golden.plain(&name("bias")).into(),
        ];
        let cotangent = golden.activation(&name("cotangent"));
        let stride = settings["stride"].as_u64().unwrap() as usize;
        let padding = settings["padding"].as_u64().unwrap() as usize;
        let (y, gradients) = if transposed {
            with_gradients(
                &tilewise::ops::ConvTranspose2d { stride: [stride; 2], padding: [padding; 2] },
                &inputs,
                &cotangent,
            )
        } else {
            with_gradients(&Conv2d { stride: [stride; 2], padding: [padding; 2] }, &inputs, &cotangent)
        };
        assert_close(&name("y"), &y.data, &golden.activation(&name("y")).data, EXACT);
        assert_close(&name("grad.x"), &gradients[0].data, &golden.activation(&name("grad.x")).data, EXACT);
        let expected = golden.weight(&name("grad.weight"), transposed);
        assert_close(&name("grad.weight"), &gradients[1].data, &expected.data, EXACT);
        assert_close(&name("grad.bias"), &gradients[2].data, golden.values(&name("grad.bias")), EXACT);
    }
    assert_eq!(seen, 10);
}

#[test]
fn pooling_and_softmax_equal_pytorch() {
    let golden = golden("ops.safetensors");
    for case in ["max_pool", "max_pool_ties", "softmax"] {
        let name = |tensor: &str| format!("{case}.{tensor}");
        let x = [golden.activation(&name("x")).into()];
        let cotangent = golden.activation(&name("cotangent"));
        let (y, gradients) = match case {
            "softmax" => with_gradients(&tilewise::ops::Softmax, &x, &cotangent),
            _ => with_gradients(&tilewise::ops::MaxPool2d { kernel_size: 2 }, &x, &cotangent),
        };
        assert_close(&name("y"), &y.data, &golden.activation(&name("y")).data, EXACT);
        assert_close(&name("grad.x"), &gradients[0].data, &golden.activation(&name("grad.x")).data, EXACT);
    }
}

#[test]
fn resizing_padding_and_activations_equal_pytorch() {
    let golden = golden("ops.safetensors");
    for case in ["resize_aligned", "resize_unaligned", "resize_smaller", "resize_nearest", "pad", "sigmoid"] {
        let name = |tensor: &str| format!("{case}.{tensor}");
        let settings = &golden.settings["cases"][case];
        let x = [golden.activation(&name("x")).into()];
        let cotangent = golden.activation(&name("cotangent"));
        let (y, gradients) = match case {
            "sigmoid" => with_gradients(&Sigmoid, &x, &cotangent),
            "pad" => {
                let [left, right, top, bottom] =
                    [0, 1, 2, 3].map(|index: usize| settings["margins"][index].as_i64().unwrap() as i32);
                with_gradients(&Pad { before: [top, left, 0], after: [bottom, right, 0] }, &x, &cotangent)
            }
            _ => {
                let extents = [0, 1].map(|axis: usize| settings["extents"][axis].as_u64().unwrap() as usize);
                let mode = match settings["align_corners"].as_bool() {
                    Some(align_corners) => ResizeMode::Bilinear { align_corners },
                    None => ResizeMode::Nearest,
                };
                with_gradients(&Resize { extents, mode }, &x, &cotangent)
            }
        };
        assert_close(&name("y"), &y.data, &golden.activation(&name("y")).data, EXACT);
        assert_close(&name("grad.x"), &gradients[0].data, &golden.activation(&name("grad.x")).data, EXACT);
    }
    for case in ["prelu", "prelu_single"] {
        let name = |tensor: &str| format!("{case}.{tensor}");
        let inputs = [golden.activation(&name("x")).into(), golden.plain(&name("slope")).into()];
        let (y, gradients) = with_gradients(&Prelu, &inputs, &golden.activation(&name("cotangent")));
        assert_close(&name("y"), &y.data, &golden.activation(&name("y")).data, EXACT);
        assert_close(&name("grad.x"), &gradients[0].data, &golden.activation(&name("grad.x")).data, EXACT);
        assert_close(&name("grad.slope"), &gradients[1].data, golden.values(&name("grad.slope")), EXACT);
    }
}

#[test]
fn normalisation_equals_pytorch() {
    let golden = golden("ops.safetensors");
    for case in ["batch_norm", "batch_norm_inference", "group_norm", "instance_norm"] {
        let name = |tensor: &str| format!("{case}.{tensor}");
        let settings = &golden.settings["cases"][case];
        let epsilon = number(settings, "eps") as f32;
        let mut graph = Graph::new();
        let image = Tensor::from(golden.activation(&name("x")));
        let x = graph.input("x", image.tensor_type());
        let count = golden.values(&name("weight")).len();
        let [weight, bias] = ["weight", "bias"].map(|name| graph.parameter(name, [count], Init::Zeros).unwrap());
        let [running_mean, running_var] =
            ["running_mean", "running_var"].map(|name| graph.buffer(name, [count], Init::Zeros).unwrap());
        let y = if let Some(groups) = settings["groups"].as_u64() {
            graph.group_norm("norm", x, [weight, bias], groups as usize, epsilon).unwrap()
        } else {
            let parameters = BatchNormParameters { weight, bias, running_mean, running_var };
            let settings_of = BatchNormSettings { epsilon, momentum: number(settings, "momentum") as f32 };
            let training = settings["training"].as_bool().unwrap();
            graph.batch_norm("norm", x, &parameters, training, settings_of).unwrap()
        };
        let truth = golden.labels(&name("labels"));
        let labels = graph.input("labels", truth.tensor_type());
        let weights = graph.constant("weights", truth.tensor_type().shape, 1.0);
        let loss = CrossEntropySettings { reduction: Reduction::Sum, ignore: None };
        let loss = graph.cross_entropy("loss", y, labels, weights, loss).unwrap();
        let (mut graph, gradients) = graph.gradients(loss, &[x]).unwrap();
        let grad_x = gradients[0].unwrap();
        for node in [y, loss, grad_x] {
            graph.mark_output("output", node).unwrap();
        }
        graph.store_tracked("running", None).unwrap();
        let mut banks = cpu::banks::<f64>(&graph, &vec![0.0; graph.bank_elements()]);
        banks.insert(Bank::Parameters, golden.bank(&graph, &|parameter| name(&parameter.name)));
        let inputs = BTreeMap::from([(x, image), (labels, truth)]);
        let outputs = cpu::evaluate(&graph, &inputs, &mut banks).unwrap();
        let value = |node: NodeId| &outputs[&node].float().data;
        assert_close(&name("y"), value(y), &golden.activation(&name("y")).data, EXACT);
        assert_close(&name("loss"), value(loss), golden.values(&name("loss")), EXACT);
        assert_close(&name("grad.x"), value(grad_x), &golden.activation(&name("grad.x")).data, EXACT);
        for parameter in graph.parameters() {
            let (bank, tensor) = if parameter.trainable {
                (Bank::Gradients, format!("grad.{}", parameter.name))
            } else {
                (Bank::Parameters, format!("after.{}", parameter.name))
            };
            let found = graph.bank_slice(&banks[&bank], parameter);
            assert_close(&name(&tensor), found, golden.values(&name(&tensor)), EXACT);
        }
    }
}

const REDUCTIONS: [(&str, Reduction); 3] =
    [("sum", Reduction::Sum), ("pixel_mean", Reduction::MeanOverPixels), ("weighted_mean", Reduction::MeanOverWeights)];

#[test]
fn cross_entropy_equals_pytorch() {
    let golden = golden("ops.safetensors");
    for (name, reduction) in REDUCTIONS {
        let mut graph = Graph::new();
        let values = [
            Tensor::from(golden.activation("cross_entropy.logits")),
            golden.labels("cross_entropy.labels"),
            golden.plain("cross_entropy.pixel_weights").into(),
        ];
        let nodes = ["logits", "labels", "weights"].map(|name| name).into_iter().zip(&values);
        let nodes: Vec<NodeId> = nodes.map(|(name, value)| graph.input(name, value.tensor_type())).collect();
        let settings = CrossEntropySettings { reduction, ignore: Some(255) };
        let loss = graph.cross_entropy("loss", nodes[0], nodes[1], nodes[2], settings).unwrap();
        let (mut graph, gradients) = graph.gradients(loss, &[nodes[0]]).unwrap();
        let gradient = gradients[0].unwrap();
        graph.mark_output("loss", loss).unwrap();
        graph.mark_output("gradient", gradient).unwrap();
        let inputs = nodes.into_iter().zip(values).collect();
        let outputs = cpu::evaluate(&graph, &inputs, &mut Banks::<f64>::new()).unwrap();
        let expected = golden.values(&format!("cross_entropy.loss.{name}"));
        assert_close(name, &outputs[&loss].float().data, expected, EXACT);
        let expected = golden.activation(&format!("cross_entropy.grad.logits.{name}"));
        assert_close(name, &outputs[&gradient].float().data, &expected.data, EXACT);
    }
}

#[test]
fn binary_cross_entropy_equals_pytorch() {
    let golden = golden("ops.safetensors");
    let name = |tensor: &str| format!("binary_cross_entropy.{tensor}");
    for (reduction_name, reduction) in REDUCTIONS {
        let values = [
            Tensor::from(golden.activation(&name("logits"))),
            golden.labels(&name("labels")),
            golden.plain(&name("pixel_weights")).into(),
        ];
        let mut graph = Graph::new();
        let nodes: Vec<NodeId> = values.iter().map(|value| graph.input("input", value.tensor_type())).collect();
        let settings = CrossEntropySettings { reduction, ignore: Some(255) };
        let loss = graph.binary_cross_entropy("loss", nodes[0], nodes[1], nodes[2], settings).unwrap();
        let (mut graph, gradients) = graph.gradients(loss, &[nodes[0]]).unwrap();
        let gradient = gradients[0].unwrap();
        graph.mark_output("loss", loss).unwrap();
        graph.mark_output("gradient", gradient).unwrap();
        let inputs = nodes.into_iter().zip(values).collect();
        let outputs = cpu::evaluate(&graph, &inputs, &mut Banks::<f64>::new()).unwrap();
        let expected = golden.values(&name(&format!("loss.{reduction_name}")));
        assert_close(reduction_name, &outputs[&loss].float().data, expected, EXACT);
        let expected = golden.activation(&name(&format!("grad.logits.{reduction_name}")));
        assert_close(reduction_name, &outputs[&gradient].float().data, &expected.data, EXACT);
    }
}

#[test]
fn dice_equals_pytorch() {
    let golden = golden("ops.safetensors");
    let smoothing = number(&golden.settings["cases"]["dice"], "smoothing") as f32;
    let mut graph = Graph::new();
    let values = [
        Tensor::from(golden.activation("dice.logits")),
        golden.labels("dice.labels"),
        golden.plain("dice.pixel_weights").into(),
    ];
    let nodes: Vec<NodeId> = values.iter().map(|value| graph.input("input", value.tensor_type())).collect();
    let loss = graph.dice("loss", nodes[0], nodes[1], nodes[2], DiceSettings { smoothing }).unwrap();
    let (mut graph, gradients) = graph.gradients(loss, &[nodes[0]]).unwrap();
    let gradient = gradients[0].unwrap();
    graph.mark_output("loss", loss).unwrap();
    graph.mark_output("gradient", gradient).unwrap();
    let inputs = nodes.into_iter().zip(values).collect();
    let outputs = cpu::evaluate(&graph, &inputs, &mut Banks::<f64>::new()).unwrap();
    assert_close("loss", &outputs[&loss].float().data, golden.values("dice.loss"), EXACT);
    assert_close("gradient", &outputs[&gradient].float().data, &golden.activation("dice.grad.logits").data, EXACT);
}

#[test]
fn clipping_equals_pytorch() {
    let golden = golden("ops.safetensors");
    let gradients = ["clip_grad_norm.grad0", "clip_grad_norm.grad1"].map(|name| golden.values(name));
    for case in ["less", "more"] {
        let max_norm = number(&golden.settings["cases"]["clip_grad_norm"], &format!("max_norm.{case}")) as f32;
        let mut graph = Graph::new();
        for (name, gradient) in ["first", "second"].into_iter().zip(gradients) {
            graph.parameter(name, [gradient.len()], tilewise::graph::Init::Zeros).unwrap();
        }
        let norm = graph.clip_grad_norm("clip", max_norm).unwrap();
        graph.mark_output("norm", norm).unwrap();
        let mut bank = vec![0.0; graph.bank_elements()];
        for (parameter, gradient) in graph.parameters().iter().zip(gradients) {
            bank[parameter.offset..][..gradient.len()].copy_from_slice(gradient);
        }
        let mut banks = cpu::banks::<f64>(&graph, &vec![0.0; graph.bank_elements()]);
        banks.insert(Bank::Gradients, bank);
        let outputs = cpu::evaluate(&graph, &BTreeMap::new(), &mut banks).unwrap();
        let expected = golden.values(&format!("clip_grad_norm.norm.{case}"));
        assert_close(case, &outputs[&norm].float().data, expected, EXACT);
        for (index, parameter) in graph.parameters().iter().enumerate() {
            let expected = golden.values(&format!("clip_grad_norm.clipped{index}.{case}"));
            assert_close(case, graph.bank_slice(&banks[&Bank::Gradients], parameter), expected, EXACT);
        }
    }
}

/// Plain numbers of a settings object.
fn number(settings: &serde_json::Value, name: &str) -> f64 {
    settings[name].as_f64().unwrap_or_else(|| panic!("no setting {name}"))
}

/// Three updates of one parameter: `update` adds the optimiser, `rates` are what the host gives it at a step, `states` its banks.
fn optimiser_equals_pytorch(
    case: &str,
    update: impl FnOnce(&mut Graph, NodeId) -> tilewise::Result<NodeId>,
    rates: impl Fn(i32) -> Vec<f64>,
    states: &[&str],
) {
    let golden = golden("ops.safetensors");
    let values = |tensor: &str| golden.values(&format!("{case}.{tensor}"));
    let mut graph = Graph::new();
    let count = values("param").len();
    graph.parameter("param", [count], tilewise::graph::Init::Zeros).unwrap();
    let input = graph.input("rates", TensorType::f32([rates(1).len()]).unwrap());
    update(&mut graph, input).unwrap();
    let padded = |values: &[f64]| {
        let mut bank = values.to_vec();
        bank.resize(graph.bank_elements(), 0.0);
        bank
    };
    let mut banks: Banks<f64> = graph.banks().into_iter().map(|bank| (bank, padded(&[]))).collect();
    banks.insert(Bank::Parameters, padded(values("param")));
    for step in 1..=3 {
        banks.insert(Bank::Gradients, padded(values(&format!("grad{step}"))));
        let rates = Array { shape: graph.shape(input).clone(), data: rates(step) };
        cpu::evaluate(&graph, &BTreeMap::from([(input, rates.into())]), &mut banks).unwrap();
        assert_close(case, &banks[&Bank::Parameters][..count], values(&format!("after{step}")), EXACT);
    }
    for (state, bank) in states.iter().zip((0..).map(Bank::OptimizerState)) {
        assert_close(state, &banks[&bank][..count], values(state), EXACT);
    }
}

#[test]
fn optimisers_equal_pytorch() {
    let golden = golden("ops.safetensors");
    let settings = &golden.settings["cases"]["sgd"];
    let [momentum, weight_decay] = ["momentum", "weight_decay"].map(|name| number(settings, name) as f32);
    let sgd = SgdSettings { momentum, weight_decay };
    let states = Optimizer::Sgd(sgd).state();
    let update = |graph: &mut Graph, rates| graph.sgd("update", rates, sgd, None);
    optimiser_equals_pytorch("sgd", update, |_| vec![number(settings, "lr")], states);
    for (case, decoupled) in [("adam", false), ("adamw", true)] {
        let settings = &golden.settings["cases"][case];
        let [beta1, beta2] = [0, 1].map(|index| settings["betas"][index].as_f64().unwrap());
        let [epsilon, weight_decay] = ["eps", "weight_decay"].map(|name| number(settings, name) as f32);
        let adam = AdamSettings { beta1: beta1 as f32, beta2: beta2 as f32, epsilon, weight_decay, decoupled };
        let states = Optimizer::Adam(adam).state();
        let update = |graph: &mut Graph, rates| graph.adam("update", rates, adam, None);
        let rates = |step| vec![number(settings, "lr"), 1.0 - beta1.powi(step), 1.0 - beta2.powi(step)];
        optimiser_equals_pytorch(case, update, rates, states);
    }
}

struct SmallUNet {
    golden: Golden,
    net: UNet,
    side: usize,
    batch: usize,
}

impl SmallUNet {
    fn new() -> Self {
        let golden = golden("unet_small.safetensors");
        let settings = &golden.settings["network"];
        let integer = |name: &str| number(settings, name) as usize;
        let net = UNet {
            variant: Variant::Unet,
            in_channels: integer("channels"),
            classes: integer("classes"),
            base_channels: integer("base"),
            depth: integer("depth"),
            dropout: 0.0,
        };
        let (side, batch) = (integer("size"), integer("batch"));
        Self { golden, net, side, batch }
    }

    fn loss(reduction: Reduction) -> CrossEntropySettings {
        CrossEntropySettings { reduction, ignore: Some(255) }
    }

    fn sgd(&self) -> SgdSettings {
        let settings = &self.golden.settings["training"];
        SgdSettings {
            momentum: number(settings, "momentum") as f32,
            weight_decay: number(settings, "weight_decay") as f32,
        }
    }
}

#[test]
fn the_reference_unet_equals_pytorch() {
    let small = SmallUNet::new();
    let golden = &small.golden;
    for (name, reduction) in REDUCTIONS {
        let network = small.net.build(small.batch, [small.side; 2]).unwrap();
        let mut graph = network.graph.clone();
        let [n, h, w, _] = graph.shape(network.logits).image().unwrap();
        let labels = graph.input("labels", TensorType::u32([n, h, w]).unwrap());
        let weights = graph.input("weights", TensorType::f32([n, h, w]).unwrap());
        let loss = graph.cross_entropy("loss", network.logits, labels, weights, SmallUNet::loss(reduction)).unwrap();
        let (mut graph, gradients) = graph.gradients(loss, &[network.image]).unwrap();
        let grad_input = gradients[0].unwrap();
        graph.mark_output("logits", network.logits).unwrap();
        graph.mark_output("loss", loss).unwrap();
        graph.mark_output("grad_input", grad_input).unwrap();
        let inputs = BTreeMap::from([
            (network.image, golden.activation("input").into()),
            (labels, golden.labels("labels")),
            (weights, golden.plain("pixel_weights").into()),
        ]);
        let mut banks = cpu::banks::<f64>(&graph, &vec![0.0; graph.bank_elements()]);
        banks.insert(Bank::Parameters, golden.bank(&graph, &|parameter| format!("param.{}", parameter.name)));
        let outputs = cpu::evaluate(&graph, &inputs, &mut banks).unwrap();
        let value = |node: NodeId| &outputs[&node].float().data;
        assert_close("logits", value(network.logits), &golden.activation("logits").data, EXACT);
        assert_close("loss", value(loss), golden.values(&format!("loss.{name}")), EXACT);
        if reduction == Reduction::MeanOverPixels {
            assert_close("grad_input", value(grad_input), &golden.activation("grad.input").data, 1e-11);
            let expected = golden.bank(&graph, &|parameter| format!("grad.{}", parameter.name));
            for parameter in graph.parameters() {
                let actual = graph.bank_slice(&banks[&Bank::Gradients], parameter);
                assert!(actual.iter().any(|&value| value != 0.0), "{}", parameter.name);
                assert_close(&parameter.name, actual, graph.bank_slice(&expected, parameter), 1e-11);
            }
        }
    }
}

#[test]
fn the_unet_on_a_device_equals_pytorch_and_trains_like_it() {
    let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
    let small = SmallUNet::new();
    let golden = &small.golden;
    let loss = Loss::CrossEntropy(SmallUNet::loss(Reduction::MeanOverPixels));
    let training =
        Training { loss, clip_norm: None, optimizer: Optimizer::Sgd(small.sgd()), memory: None, ..Training::default() };
    let network = small.net.build(small.batch, [small.side; 2]).unwrap();
    let mut step = network.training_step(&training).unwrap();
    step.graph.mark_output("logits", step.logits).unwrap();
    let plan = Plan::new(&gpu, &step.graph, PlanOptions::default()).unwrap();
    let parameters = golden.bank(&step.graph, &|parameter| format!("param.{}", parameter.name));
    let parameters: Vec<f32> = parameters.into_iter().map(|value| value as f32).collect();
    plan.write_bank(Bank::Parameters, &parameters).unwrap();
    let rate = number(&golden.settings["training"], "lr") as f32;
    let rate = Array { shape: Shape::new([1]).unwrap(), data: vec![rate] };
    plan.write(step.image, &Tensor::<f64>::from(golden.activation("input")).cast()).unwrap();
    plan.write(step.labels, &golden.labels("labels").cast()).unwrap();
    plan.write(step.weights, &Tensor::<f64>::from(golden.plain("pixel_weights")).cast()).unwrap();
    plan.write(step.rates, &rate.into()).unwrap();
    let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
    for (index, &expected) in golden.values("training_losses").iter().enumerate() {
        plan.run().unwrap();
        let loss = f64::from(plan.read(step.loss).unwrap().float().data[0]);
        assert!((loss - expected).abs() <= 2e-6 * expected, "step {index}: loss {loss}, PyTorch's {expected}");
        if index == 0 {
            let logits = wide(&plan.read(step.logits).unwrap().float().data);
            assert_close("logits", &logits, &golden.activation("logits").data, 2e-6);
            let gradients = wide(&plan.read_bank(Bank::Gradients).unwrap());
            let expected = golden.bank(&step.graph, &|parameter| format!("grad.{}", parameter.name));
            for parameter in step.graph.parameters() {
                let actual = step.graph.bank_slice(&gradients, parameter);
                assert_close(&parameter.name, actual, step.graph.bank_slice(&expected, parameter), 1e-5);
            }
        }
    }
    let trained = wide(&plan.read_bank(Bank::Parameters).unwrap());
    let expected = golden.bank(&step.graph, &|parameter| format!("trained.{}", parameter.name));
    for parameter in step.graph.parameters() {
        let actual = step.graph.bank_slice(&trained, parameter);
        assert_close(&parameter.name, actual, step.graph.bank_slice(&expected, parameter), 2e-5);
    }
}

/// A network of another than the paper's kind, and what PyTorch made of it.
struct Published {
    golden: Golden,
    net: UNet,
    batch: usize,
    size: [usize; 2],
}

impl Published {
    fn all() -> impl Iterator<Item = Self> {
        let others = Variant::ALL.into_iter().filter(|&variant| variant != Variant::Unet);
        others.map(|variant| {
            let golden = golden(&format!("{variant}.safetensors"));
            let settings = &golden.settings["network"];
            assert_eq!(settings["model"], variant.name());
            let integer = |name: &str| number(settings, name) as usize;
            let net = UNet {
                variant,
                in_channels: integer("channels"),
                classes: integer("classes"),
                base_channels: integer("base"),
                depth: integer("depth"),
                dropout: 0.0,
            };
            let size = [0, 1].map(|axis: usize| settings["size"][axis].as_u64().unwrap() as usize);
            Self { net, batch: integer("batch"), size, golden }
        })
    }

    const LOSS: CrossEntropySettings =
        CrossEntropySettings { reduction: Reduction::MeanOverWeights, ignore: Some(255) };

    fn parameters(&self, graph: &Graph) -> Vec<f64> {
        self.golden.bank(graph, &|parameter| format!("param.{}", parameter.name))
    }

    /// Gradients and running statistics.
    fn check_banks(&self, graph: &Graph, gradients: &[f64], parameters: &[f64], bound: f64) {
        for parameter in graph.parameters() {
            let what = format!("{}: {}", self.net.variant, parameter.name);
            let (name, bank) = if parameter.trainable {
                (format!("grad.{}", parameter.name), gradients)
            } else {
                (format!("after.{}", parameter.name), parameters)
            };
            let expected = self.golden.weight(&name, is_transposed(parameter)).data;
            let actual = graph.bank_slice(bank, parameter);
            if expected.iter().all(|value| value.abs() < 1e-12) {
                // A bias that a batch norm takes out has no gradient but rounding.
                assert!(parameter.name.ends_with(".0.bias"), "{what}");
                assert!(actual.iter().all(|value| value.abs() <= bound), "{what}: {actual:?}");
            } else {
                assert_close(&what, actual, &expected, bound);
            }
        }
    }
}

#[test]
fn the_reference_of_every_published_network_equals_pytorch() {
    for published in Published::all() {
        let Published { golden, net, batch, size } = &published;
        let network = net.build(*batch, *size).unwrap();
        let mut graph = network.graph.clone();
        let [n, h, w, _] = graph.shape(network.logits).image().unwrap();
        let labels = graph.input("labels", TensorType::u32([n, h, w]).unwrap());
        let weights = graph.input("weights", TensorType::f32([n, h, w]).unwrap());
        let loss = graph.cross_entropy("loss", network.logits, labels, weights, Published::LOSS).unwrap();
        let (mut graph, gradients) = graph.gradients(loss, &[network.image]).unwrap();
        let grad_input = gradients[0].unwrap();
        for node in [network.logits, loss, grad_input] {
            graph.mark_output("output", node).unwrap();
        }
        graph.store_tracked("running", None).unwrap();
        let inputs = BTreeMap::from([
            (network.image, golden.activation("input").into()),
            (labels, golden.labels("labels")),
            (weights, golden.plain("pixel_weights").into()),
        ]);
        let mut banks = cpu::banks::<f64>(&graph, &vec![0.0; graph.bank_elements()]);
        banks.insert(Bank::Parameters, published.parameters(&graph));
        let outputs = cpu::evaluate(&graph, &inputs, &mut banks).unwrap();
        let value = |node: NodeId| &outputs[&node].float().data;
        let name = |what: &str| format!("{}: {what}", net.variant);
        assert_close(&name("logits"), value(network.logits), &golden.activation("logits").data, EXACT);
        assert_close(&name("loss"), value(loss), golden.values("loss"), EXACT);
        assert_close(&name("grad_input"), value(grad_input), &golden.activation("grad.input").data, 1e-11);
        published.check_banks(&graph, &banks[&Bank::Gradients], &banks[&Bank::Parameters], 1e-11);

        let mut network = net.inference(*batch, *size).unwrap();
        network.graph.mark_output("logits", network.logits).unwrap();
        let mut banks = Banks::from([(Bank::Parameters, published.parameters(&network.graph))]);
        let inputs = BTreeMap::from([(network.image, golden.activation("input").into())]);
        let outputs = cpu::evaluate(&network.graph, &inputs, &mut banks).unwrap();
        let expected = golden.activation("inference_logits");
        assert_close(&name("inference"), &outputs[&network.logits].float().data, &expected.data, EXACT);
    }
}

/// The file that `safetensors.torch.save_file(model.state_dict(), path)` writes.
#[test]
fn pytorchs_files_are_loaded_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    for Published { golden, net, batch, size } in Published::all() {
        let path = folder.path().join(format!("{}.safetensors", net.variant));
        let parameters =
            golden.tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix("param.")?, tensor)));
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = parameters
            .map(|(name, (shape, values))| {
                let bytes = values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect();
                (name.to_owned(), shape.clone(), bytes)
            })
            .collect();
        tensors.push(("inc.double_conv.1.num_batches_tracked".into(), vec![], 7_i64.to_le_bytes().to_vec()));
        let views = tensors.iter().map(|(name, shape, bytes)| {
            let dtype =
                if bytes.len() == 8 && shape.is_empty() { safetensors::Dtype::I64 } else { safetensors::Dtype::F32 };
            (name, safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &path).unwrap();
        let weights = Weights::load(&path).unwrap();
        let (found, bank) = weights.network().unwrap();
        assert_eq!(found, net);
        let graph = net.inference(batch, size).unwrap().graph;
        let expected = golden.bank(&graph, &|parameter| format!("param.{}", parameter.name));
        assert_eq!(bank, expected.iter().map(|&value| value as f32).collect::<Vec<f32>>(), "{}", net.variant);
    }
}

#[test]
fn every_published_network_on_a_device_equals_pytorch() {
    let gpu = Gpu::any().unwrap_or_else(|error| panic!("{error}"));
    let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
    for published in Published::all() {
        let Published { golden, net, batch, size } = &published;
        let name = |what: &str| format!("{}: {what}", net.variant);
        let image: Tensor<f32> = Tensor::<f64>::from(golden.activation("input")).cast();
        let optimizer = Optimizer::Sgd(SgdSettings { momentum: 0.0, weight_decay: 0.5 });
        let training = Training {
            loss: Loss::CrossEntropy(Published::LOSS),
            clip_norm: None,
            optimizer,
            memory: None,
            ..Training::default()
        };
        let network = net.build(*batch, *size).unwrap();
        let mut step = network.training_step(&training).unwrap();
        step.graph.mark_output("logits", step.logits).unwrap();
        let plan = Plan::new(&gpu, &step.graph, PlanOptions::default()).unwrap();
        let parameters: Vec<f32> = published.parameters(&step.graph).iter().map(|&value| value as f32).collect();
        plan.write_bank(Bank::Parameters, &parameters).unwrap();
        plan.write(step.image, &image).unwrap();
        plan.write(step.labels, &golden.labels("labels").cast()).unwrap();
        plan.write(step.weights, &Tensor::<f64>::from(golden.plain("pixel_weights")).cast()).unwrap();
        // A weight decay that would show in the running statistics, did it stay there.
        let rate = Array { shape: Shape::new([1]).unwrap(), data: vec![0.1] };
        plan.write(step.rates, &rate.into()).unwrap();
        plan.run().unwrap();
        let read = |node: NodeId| wide(&plan.read(node).unwrap().float().data);
        assert_close(&name("logits"), &read(step.logits), &golden.activation("logits").data, 1e-5);
        assert_close(&name("loss"), &read(step.loss), golden.values("loss"), 2e-6);
        let [gradients, after] = [Bank::Gradients, Bank::Parameters].map(|bank| wide(&plan.read_bank(bank).unwrap()));
        published.check_banks(&step.graph, &gradients, &after, 5e-5);

        let mut network = net.inference(*batch, *size).unwrap();
        network.graph.mark_output("logits", network.logits).unwrap();
        let plan = Plan::new(&gpu, &network.graph, PlanOptions::default()).unwrap();
        plan.write_bank(Bank::Parameters, &parameters).unwrap();
        plan.write(network.image, &image).unwrap();
        plan.run().unwrap();
        let logits = wide(&plan.read(network.logits).unwrap().float().data);
        assert_close(&name("inference"), &logits, &golden.activation("inference_logits").data, 1e-5);
    }
}

/// Our name of a parameter in the names of milesial/Pytorch-UNet.
fn milesial(depth: usize, parameter: &Parameter) -> String {
    let (layer, tensor) = parameter.name.rsplit_once('.').unwrap();
    let convolution = if layer.ends_with("conv1") { 0 } else { 3 };
    let level = |prefix: &str| -> usize { layer[prefix.len()..].split('.').next().unwrap().parse().unwrap() };
    let module = if layer.starts_with("encoder0") {
        format!("inc.double_conv.{convolution}")
    } else if layer.starts_with("encoder") {
        format!("down{}.maxpool_conv.1.double_conv.{convolution}", level("encoder"))
    } else if layer.starts_with("bottleneck") {
        format!("down{depth}.maxpool_conv.1.double_conv.{convolution}")
    } else if layer.rsplit_once('.').is_some_and(|(_, last)| last == "up") {
        format!("up{}.up", depth - level("decoder"))
    } else if layer.starts_with("decoder") {
        format!("up{}.conv.double_conv.{convolution}", depth - level("decoder"))
    } else {
        "outc.conv".to_owned()
    };
    format!("{module}.{tensor}")
}

/// Values that are too large to keep here: set `TILEWISE_GOLDEN` to a file of the 124-px, base 16, depth 3 network by PyTorch with
/// `input`, `labels`, `weight_map`, `param.*`, `logits`, `loss`, `grad.*`, `grad_input`, `losses`, named as in milesial/Pytorch-UNet.
#[test]
#[ignore = "needs a file that is not part of the project, named by TILEWISE_GOLDEN"]
fn a_larger_unet_equals_pytorch() {
    let golden = Golden::read(std::env::var("TILEWISE_GOLDEN").unwrap());
    let net = UNet { variant: Variant::Unet, in_channels: 1, classes: 2, base_channels: 16, depth: 3, dropout: 0.0 };
    let loss = CrossEntropySettings { reduction: Reduction::MeanOverPixels, ignore: None };
    let loss = Loss::CrossEntropy(loss);
    let optimizer = Optimizer::Sgd(SgdSettings { momentum: 0.99, weight_decay: 0.0 });
    let mut step = net
        .build(1, [124; 2])
        .unwrap()
        .training_step(&Training { loss, clip_norm: None, optimizer, memory: None, ..Training::default() })
        .unwrap();
    step.graph.mark_output("logits", step.logits).unwrap();
    let name = |prefix: &'static str| move |parameter: &Parameter| format!("{prefix}.{}", milesial(3, parameter));
    let parameters = golden.bank(&step.graph, &name("param"));
    let rate = Array { shape: Shape::new([1]).unwrap(), data: vec![1e-3] };
    let inputs = BTreeMap::from([
        (step.image, golden.activation("input").into()),
        (step.labels, golden.labels("labels")),
        (step.weights, golden.plain("weight_map").into()),
        (step.rates, rate.into()),
    ]);
    let mut banks = cpu::banks::<f64>(&step.graph, &vec![0.0; step.graph.bank_elements()]);
    banks.insert(Bank::Parameters, parameters.clone());
    let plan = Gpu::any().and_then(|gpu| Plan::new(&gpu, &step.graph, PlanOptions::default())).unwrap();
    let narrow: Vec<f32> = parameters.iter().map(|&value| value as f32).collect();
    plan.write_bank(Bank::Parameters, &narrow).unwrap();
    for (&node, value) in &inputs {
        plan.write(node, &value.cast()).unwrap();
    }
    let gradients = golden.bank(&step.graph, &name("grad"));
    for (index, &expected) in golden.values("losses").iter().enumerate() {
        let outputs = cpu::evaluate(&step.graph, &inputs, &mut banks).unwrap();
        plan.run().unwrap();
        let loss = outputs[&step.loss].float().data[0];
        assert!((loss - expected).abs() <= 1e-8 * expected, "step {index}: loss {loss}, PyTorch's {expected}");
        let loss = f64::from(plan.read(step.loss).unwrap().float().data[0]);
        assert!((loss - expected).abs() <= 1e-5 * expected, "step {index}: loss {loss}, PyTorch's {expected}");
        if index == 0 {
            let logits = golden.activation("logits");
            assert_close("logits", &outputs[&step.logits].float().data, &logits.data, EXACT);
            let device: Vec<f64> = plan.read(step.logits).unwrap().float().data.iter().map(|&x| x.into()).collect();
            assert_close("logits on the device", &device, &logits.data, 1e-5);
            let device: Vec<f64> = plan.read_bank(Bank::Gradients).unwrap().iter().map(|&x| x.into()).collect();
            for parameter in step.graph.parameters() {
                let expected = step.graph.bank_slice(&gradients, parameter);
                let actual = step.graph.bank_slice(&banks[&Bank::Gradients], parameter);
                assert_close(&parameter.name, actual, expected, 1e-11);
                let actual = step.graph.bank_slice(&device, parameter);
                assert_close(&format!("{} on the device", parameter.name), actual, expected, 1e-3);
            }
        }
    }
}
