//! Networks as ONNX files, for other programs to run.
//!
//! A graph is translated node by node: every op says itself what it is in ONNX ([`Op::onnx`](crate::op::Op::onnx)), so a network of
//! such ops needs nothing more to be exported. Images, channels last here, have their channels second there, `[n, c, h, w]`; weights of
//! convolutions are laid out as `PyTorch` does it. Source: `onnx.proto` and `Operators.md` of ONNX, operator set 18.

mod proto;

use crate::checkpoint::{Layout, Metadata, Weights, atomic};
use crate::data::Intensities;
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, NodeId, NodeKind};
use crate::models::UNet;
use crate::shape::{DType, TensorType};
use prost::Message;
use proto::{
    AttributeProto, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto, attribute_type, data_type,
};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// The operator set: the first in which `Resize` takes the extents of some axes, which leaves the batch open.
const OPERATOR_SET: i64 = 18;
/// The version of the format that came with it.
const IR_VERSION: i64 = 8;
/// The largest message that readers of protocol buffers accept.
const LARGEST_FILE_BYTES: usize = i32::MAX as usize;
/// See [`Model::usual_side`].
const SIDE: usize = 512;
/// What a batch of any length is called.
const BATCH: &str = "batch";

/// How many images the model takes at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Batch {
    /// As many as it is given.
    #[default]
    Dynamic,
    /// So many.
    Static(usize),
}

impl FromStr for Batch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "dynamic" {
            return Ok(Self::Dynamic);
        }
        let count = text.parse().ok().filter(|&count| count > 0);
        count
            .map(Self::Static)
            .ok_or_else(|| format!("{text:?} is neither a number of images, at least 1, nor dynamic"))
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dynamic => f.write_str("dynamic"),
            Self::Static(count) => count.fmt(f),
        }
    }
}

/// What a node of the graph is in ONNX.
#[derive(Clone, Debug)]
pub enum Value {
    /// A tensor of this name; images `[n, h, w, c]` are `[n, c, h, w]`.
    Tensor(String),
    /// The weight of a convolution, laid out as ONNX and `PyTorch` do it.
    Weight(String),
    /// A mean and a variance of each channel, which are one tensor here and two there.
    Moments([String; 2]),
}

/// A setting of an operator.
#[derive(Clone, Debug)]
pub struct Attribute(AttributeProto);

impl Attribute {
    fn of_type(name: &str, r#type: i32) -> AttributeProto {
        AttributeProto { name: name.into(), r#type, ..AttributeProto::default() }
    }

    /// A number.
    pub fn int(name: &str, value: i64) -> Self {
        Self(AttributeProto { i: Some(value), ..Self::of_type(name, attribute_type::INT) })
    }

    /// A number with a fraction.
    pub fn float(name: &str, value: f32) -> Self {
        Self(AttributeProto { f: Some(value), ..Self::of_type(name, attribute_type::FLOAT) })
    }

    /// A word.
    pub fn string(name: &str, value: &str) -> Self {
        Self(AttributeProto { s: Some(value.into()), ..Self::of_type(name, attribute_type::STRING) })
    }

    /// Extents or margins, of which there is at least one.
    pub fn ints(name: &str, values: &[usize]) -> Self {
        let ints = values.iter().map(|&value| value as i64).collect();
        Self(AttributeProto { ints, ..Self::of_type(name, attribute_type::INTS) })
    }
}

/// What an op sees while it is translated.
#[derive(Debug)]
pub struct Translation<'a> {
    graph: &'a Graph,
    /// The op's own node.
    node: &'a Node,
    /// What its result is called as an output of the graph, if it is one.
    output: Option<&'a str>,
    op: &'static str,
    inputs: &'a [NodeId],
    /// What every earlier node has become; `None` of those that nothing needs.
    values: &'a [Option<Value>],
    target: &'a mut GraphProto,
    names: &'a mut BTreeSet<String>,
}

impl Translation<'_> {
    /// An error about the op's node.
    pub fn error(&self, problem: impl Into<String>) -> Error {
        Error::Graph { op: self.op.into(), node: self.node.name.clone(), problem: problem.into() }
    }

    fn value(&self, index: usize) -> Option<&Value> {
        self.inputs.get(index).and_then(|input| self.values.get(input.index())?.as_ref())
    }

    /// The name of an input that is a tensor like any other.
    ///
    /// # Errors
    /// When there is no such input, or it is something else in ONNX.
    pub fn tensor(&self, index: usize) -> Result<String> {
        match self.value(index) {
            Some(Value::Tensor(name)) => Ok(name.clone()),
            other => Err(self.error(format!("input {index} must be a tensor in ONNX, and is {other:?}"))),
        }
    }

    /// The name of an input that is the weight of a convolution.
    ///
    /// # Errors
    /// When it is not a parameter: what is computed has its channels elsewhere.
    pub fn weight(&self, index: usize) -> Result<String> {
        match self.value(index) {
            Some(Value::Weight(name)) => Ok(name.clone()),
            other => {
                Err(self.error(format!("input {index} must be a parameter, to be a weight in ONNX, and is {other:?}")))
            }
        }
    }

    /// The names of a mean and a variance.
    ///
    /// # Errors
    /// When the input is none of those: moments that are computed have no counterpart in ONNX.
    pub fn moments(&self, index: usize) -> Result<[String; 2]> {
        match self.value(index) {
            Some(Value::Moments(names)) => Ok(names.clone()),
            other => Err(self.error(format!("input {index} must be running statistics in ONNX, and is {other:?}"))),
        }
    }

    /// How many inputs the op has.
    pub fn input_count(&self) -> usize {
        self.inputs.len()
    }

    /// The type of an input, channels last.
    ///
    /// # Errors
    /// When there is no such input.
    pub fn input_type(&self, index: usize) -> Result<&TensorType> {
        let input = self.inputs.get(index).ok_or_else(|| self.error(format!("there is no input {index}")))?;
        Ok(&self.graph.node(*input).tensor_type)
    }

    /// Where ONNX has the axis that is an input's last here.
    ///
    /// # Errors
    /// When there is no such input.
    pub fn channel_axis(&self, index: usize) -> Result<i64> {
        Ok(match self.input_type(index)?.shape.rank() {
            4 => 1,
            rank => rank as i64 - 1,
        })
    }

    /// A constant of whole numbers, named after the op's node.
    pub fn constant(&mut self, role: &str, values: &[i64]) -> String {
        let name = self.name(role);
        self.target.initializer.push(TensorProto {
            dims: vec![values.len() as i64],
            data_type: data_type::INT64,
            name: name.clone(),
            raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        });
        name
    }

    /// An operator that is a step of several; returns the name of its result.
    pub fn step(&mut self, role: &str, operator: &str, inputs: &[&str], attributes: Vec<Attribute>) -> String {
        let name = self.name(role);
        self.target.node.push(NodeProto {
            input: inputs.iter().map(|&input| input.into()).collect(),
            output: vec![name.clone()],
            name: name.clone(),
            op_type: operator.into(),
            attribute: attributes.into_iter().map(|Attribute(attribute)| attribute).collect(),
        });
        name
    }

    /// The operator whose result is the op's.
    pub fn result(&mut self, operator: &str, inputs: &[&str], attributes: Vec<Attribute>) -> Value {
        Value::Tensor(self.step("", operator, inputs, attributes))
    }

    /// `<op's node>.<role>`; without a role what the result is called.
    fn name(&mut self, role: &str) -> String {
        if !role.is_empty() {
            return unique(self.names, &format!("{}.{role}", self.node.name));
        }
        match self.output.take() {
            // Reserved from the start.
            Some(output) => output.to_owned(),
            None => unique(self.names, &self.node.name),
        }
    }
}

/// This name, or, where it is taken, this name with a number: graphs need no names that differ, ONNX does.
fn unique(names: &mut BTreeSet<String>, name: &str) -> String {
    let numbered = (1..).map(|number| if number == 1 { name.to_owned() } else { format!("{name}#{number}") });
    let free = numbered.into_iter().find(|name| !names.contains(name)).unwrap_or_default();
    names.insert(free.clone());
    free
}

/// A network as ONNX has it.
#[derive(Clone, Debug)]
pub struct Model(ModelProto);

impl Model {
    /// Translates what a graph's outputs need. Its inputs and outputs keep their names, numbered where two have one name. A dynamic batch
    /// is the first axis of all of them.
    ///
    /// # Errors
    /// [`Error::Graph`] naming the op that has no counterpart in ONNX, or when the parameters are not the graph's.
    pub fn new(graph: &Graph, parameters: &[f32], dynamic_batch: bool) -> Result<Self> {
        if parameters.len() != graph.bank_elements() {
            let problem = format!("the bank has {} elements, got {}", graph.bank_elements(), parameters.len());
            return Err(Error::Graph { op: "onnx".into(), node: "parameters".into(), problem });
        }
        let mut target = GraphProto { name: "tilewise".into(), ..GraphProto::default() };
        let mut names: BTreeSet<String> = graph.outputs().iter().map(|(name, _)| name.clone()).collect();
        let mut values: Vec<Option<Value>> = Vec::with_capacity(graph.nodes().len());
        for ((index, node), needed) in graph.nodes().iter().enumerate().zip(graph.needed()) {
            let value = match &node.kind {
                _ if !needed => None,
                NodeKind::Input => {
                    let name = unique(&mut names, &node.name);
                    target.input.push(described(&name, &node.tensor_type, dynamic_batch));
                    Some(Value::Tensor(name))
                }
                NodeKind::Parameter { index } => {
                    let parameter = &graph.parameters()[*index];
                    let layout = Layout::of(graph, parameter);
                    let dims = layout.shape(&parameter.shape);
                    let theirs = layout.to_pytorch(&parameter.shape, graph.bank_slice(parameters, parameter));
                    let name = unique(&mut names, &node.name);
                    target.initializer.push(floats(&name, &dims, &theirs));
                    Some(if layout == Layout::Same { Value::Tensor(name) } else { Value::Weight(name) })
                }
                NodeKind::Constant(value) => {
                    let name = unique(&mut names, &node.name);
                    let elements = vec![*value; node.tensor_type.shape.elements()];
                    target.initializer.push(floats(&name, &extents(&node.tensor_type), &elements));
                    Some(Value::Tensor(name))
                }
                NodeKind::Bank(_) => {
                    return Err(fail(node, "a whole bank has no counterpart in ONNX; export the network alone"));
                }
                NodeKind::Op { op, inputs } => {
                    let output = graph.outputs().iter().find(|(_, output)| output.index() == index);
                    let output = output.map(|(name, _)| name.as_str());
                    let (op_name, target, names) = (op.name(), &mut target, &mut names);
                    Some(op.onnx(&mut Translation {
                        graph,
                        node,
                        output,
                        op: op_name,
                        inputs,
                        values: &values,
                        target,
                        names,
                    })?)
                }
            };
            values.push(value);
        }
        for (name, node) in graph.outputs() {
            let Some(Value::Tensor(value)) = &values[node.index()] else {
                return Err(fail(graph.node(*node), "it is no tensor in ONNX, so it cannot be an output"));
            };
            // An output that is not the result of an operator of its own: another output, a parameter, what an op passes on.
            if value != name {
                target.node.push(NodeProto {
                    input: vec![value.clone()],
                    output: vec![name.clone()],
                    name: name.clone(),
                    op_type: "Identity".into(),
                    attribute: Vec::new(),
                });
            }
            target.output.push(described(name, &graph.node(*node).tensor_type, dynamic_batch));
        }
        Ok(Self(ModelProto {
            ir_version: IR_VERSION,
            producer_name: env!("CARGO_PKG_NAME").into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            graph: Some(target),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPERATOR_SET }],
            metadata_props: Vec::new(),
        }))
    }

    /// The side of the images that suits a network where nothing speaks for another: that of the tiles that it
    /// [must be given](Weights::tile), else 512 pixels, or the next that it takes.
    ///
    /// # Errors
    /// As [`Weights::tile`].
    pub fn usual_side(weights: &Weights, net: &UNet) -> Result<usize> {
        Ok(weights.tile(net)?.unwrap_or_else(|| net.legal_above(SIDE)))
    }

    /// The network of a weights file, as [`Model::of_unet`]. The metadata have what the file says of labels and of
    /// [`Zoom`](crate::data::Zoom), too.
    ///
    /// # Errors
    /// As [`Weights::network`] and [`Model::of_unet`].
    pub fn of_weights(weights: &Weights, batch: Batch, size: [usize; 2]) -> Result<Self> {
        let (net, parameters) = weights.network()?;
        let mut model = Self::of_unet(&net, &parameters, weights.intensities(&net)?, batch, size)?;
        if let Some(mapping) = weights.mapping()? {
            model = model.with(Metadata::MAPPING, &mapping);
        }
        let zoom = weights.zoom()?;
        Ok(if zoom.is_none() { model } else { model.with(Metadata::ZOOM, &zoom) })
    }

    /// The network of a U-Net at inference, from `image` to `logits`, the scores before the softmax, for images of one size. The metadata
    /// say in words how images are prepared, and how the scores lie to the image.
    ///
    /// # Errors
    /// As [`UNet::inference`] and [`Model::new`].
    pub fn of_unet(
        net: &UNet,
        parameters: &[f32],
        intensities: Intensities,
        batch: Batch,
        size: [usize; 2],
    ) -> Result<Self> {
        let (images, dynamic_batch) = match batch {
            Batch::Dynamic => (1, true),
            Batch::Static(images) => (images, false),
        };
        let mut network = net.inference(images, size)?;
        network.graph.mark_output("logits", network.logits)?;
        let model = Self::new(&network.graph, parameters, dynamic_batch)?;
        let halo = net.halo();
        let place = match halo {
            0 => "of the whole image".into(),
            _ => format!(
                "of the image without {halo} pixels on each side, where the image should be continued by its mirror image"
            ),
        };
        Ok(model
            .with(Metadata::MODEL, &net)
            .with("preprocessing", &intensities.sentence())
            .with("logits", &format!("scores before the softmax over {} classes, {place}", net.classes)))
    }

    /// Adds a value to the metadata: text as it is, all else as JSON.
    #[must_use]
    pub fn with(mut self, key: &str, value: &impl Serialize) -> Self {
        let value = match serde_json::to_value(value) {
            Ok(serde_json::Value::String(text)) => text,
            Ok(value) => value.to_string(),
            // As in `Metadata::with`.
            Err(_) => "null".into(),
        };
        self.0.metadata_props.push(StringStringEntryProto { key: key.into(), value });
        self
    }

    /// Writes the file, replacing what was there atomically.
    ///
    /// # Errors
    /// [`Error::Usage`] when the model has more than the 2 GiB that a file may have, and as [`atomic::write`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let bytes = self.0.encoded_len();
        if bytes > LARGEST_FILE_BYTES {
            return Err(Error::Usage(format!(
                "the network takes {bytes} bytes, an ONNX file holds at most {LARGEST_FILE_BYTES}: use --safetensors"
            )));
        }
        atomic::write(path, |file| file.write_all(&self.0.encode_to_vec()))
    }
}

fn fail(node: &Node, problem: &str) -> Error {
    Error::Graph { op: "onnx".into(), node: node.name.clone(), problem: problem.into() }
}

/// The extents of a tensor in ONNX's order: of images `[n, c, h, w]`.
fn extents(tensor_type: &TensorType) -> Vec<usize> {
    match *tensor_type.shape.extents() {
        [n, h, w, c] => vec![n, c, h, w],
        ref others => others.to_vec(),
    }
}

/// An input or output of a model. Integers have 64 bits in ONNX, as those that its operators make.
fn described(name: &str, tensor_type: &TensorType, dynamic_batch: bool) -> ValueInfoProto {
    let elem_type = match tensor_type.dtype {
        DType::F32 | DType::F16 => data_type::FLOAT,
        DType::U32 => data_type::INT64,
    };
    let dim = extents(tensor_type).into_iter().enumerate().map(|(axis, extent)| {
        if axis == 0 && dynamic_batch {
            Dimension { dim_param: Some(BATCH.into()), dim_value: None }
        } else {
            Dimension { dim_value: Some(extent as i64), dim_param: None }
        }
    });
    let shape = Some(TensorShapeProto { dim: dim.collect() });
    let tensor_type = Some(TypeProtoTensor { elem_type, shape });
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type }) }
}

fn floats(name: &str, dims: &[usize], elements: &[f32]) -> TensorProto {
    TensorProto {
        dims: dims.iter().map(|&extent| extent as i64).collect(),
        data_type: data_type::FLOAT,
        name: name.into(),
        raw_data: elements.iter().flat_map(|element| element.to_le_bytes()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Init;
    use crate::models::Variant;
    use crate::ops::{Dropout, Pad};
    use std::collections::BTreeMap;

    /// A model as a reader of its file has it.
    fn read(model: &Model) -> ModelProto {
        ModelProto::decode(model.0.encode_to_vec().as_slice()).unwrap()
    }

    fn dims(value: &ValueInfoProto) -> Vec<String> {
        let tensor_type = value.r#type.as_ref().unwrap().tensor_type.as_ref().unwrap();
        let dim = |dim: &Dimension| dim.dim_param.clone().or_else(|| dim.dim_value.map(|value| value.to_string()));
        tensor_type.shape.as_ref().unwrap().dim.iter().map(|extent| dim(extent).unwrap()).collect()
    }

    /// The graph of a model, whose every name is given once, and before it is used.
    fn checked(model: &Model) -> GraphProto {
        let graph = read(model).graph.unwrap();
        let mut known = BTreeSet::new();
        for initializer in &graph.initializer {
            let size = if initializer.data_type == data_type::FLOAT { 4 } else { 8 };
            let elements: i64 = initializer.dims.iter().product();
            assert_eq!(initializer.raw_data.len() as i64, size * elements, "{}", initializer.name);
            assert!(known.insert(initializer.name.clone()), "{} is there twice", initializer.name);
        }
        graph.input.iter().for_each(|input| assert!(known.insert(input.name.clone()), "{} is there twice", input.name));
        for node in &graph.node {
            let optional = |input: &String| input.is_empty() && ["Resize", "Pad"].contains(&node.op_type.as_str());
            for input in node.input.iter().filter(|input| !optional(input)) {
                assert!(known.contains(input), "{} uses {input:?} before it is there", node.name);
            }
            assert!(known.insert(node.output[0].clone()), "{} is there twice", node.output[0]);
        }
        graph.output.iter().for_each(|output| assert!(known.contains(&output.name), "{} is not computed", output.name));
        graph
    }

    fn counts(graph: &GraphProto) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        graph.node.iter().for_each(|node| *counts.entry(node.op_type.as_str()).or_default() += 1);
        counts
    }

    fn images(graph: &mut Graph, extents: [usize; 4]) -> NodeId {
        graph.input("x", TensorType::f32(extents).unwrap())
    }

    /// The model of one op over x, with `y` as its output.
    fn of(graph: &mut Graph, y: NodeId) -> Result<Model> {
        graph.mark_output("y", y)?;
        let parameters: Vec<f32> = (0..graph.bank_elements()).map(|element| element as f32).collect();
        Model::new(graph, &parameters, true)
    }

    #[test]
    fn every_network_is_translated_op_by_op() {
        for variant in Variant::ALL {
            let net = UNet { variant, in_channels: 3, classes: 2, base_channels: 4, depth: 2, dropout: 0.0 };
            let size = [net.smallest_side(), net.legal_above(net.smallest_side() + 1)];
            let network = net.inference(1, size).unwrap();
            let parameters = network.graph.initial_parameters(1);
            let ops = |name: &str| {
                let named = |node: &&Node| matches!(&node.kind, NodeKind::Op { op, .. } if op.name() == name);
                network.graph.nodes().iter().filter(named).count()
            };
            for (batch, images) in [(Batch::Dynamic, "batch"), (Batch::Static(5), "5")] {
                let model = Model::of_unet(&net, &parameters, Intensities::Standard, batch, size).unwrap();
                let graph = checked(&model);
                let counts = counts(&graph);
                for (operator, op) in [
                    ("Conv", "conv2d"),
                    ("ConvTranspose", "conv_transpose2d"),
                    ("Relu", "relu"),
                    ("MaxPool", "max_pool2d"),
                    ("Concat", "crop_concat"),
                    ("BatchNormalization", "batch_norm"),
                    ("Resize", "resize"),
                ] {
                    assert_eq!(counts.get(operator).copied().unwrap_or(0), ops(op), "{variant}: {operator}");
                }
                assert!(!counts.contains_key("Identity"), "{variant}");
                let side = |axis: usize| net.output_side(size[axis]).unwrap().to_string();
                let [height, width] = size.map(|side| side.to_string());
                assert_eq!(dims(&graph.input[0]), [images, "3", &height, &width], "{variant}");
                assert_eq!(dims(&graph.output[0]), [images, "2", &side(0), &side(1)], "{variant}");
                assert_eq!((&*graph.input[0].name, &*graph.output[0].name), ("image", "logits"));
                // Every tensor of a weights file is there, with the same name and extents.
                let initializers: BTreeMap<&str, &[i64]> =
                    graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor.dims.as_slice())).collect();
                for parameter in network.graph.parameters() {
                    let expected = Layout::of(&network.graph, parameter).shape(&parameter.shape);
                    let expected: Vec<i64> = expected.into_iter().map(|extent| extent as i64).collect();
                    assert_eq!(initializers[parameter.name.as_str()], expected, "{variant}: {}", parameter.name);
                }
                let metadata = read(&model).metadata_props;
                let value = |key: &str| metadata.iter().find(|entry| entry.key == key).unwrap().value.clone();
                assert_eq!(serde_json::from_str::<UNet>(&value("model")).unwrap(), net);
                assert!(value("preprocessing").contains("(value - mean)"), "{metadata:?}");
            }
        }
    }

    #[test]
    fn weights_are_laid_out_as_pytorch_has_them() {
        let mut graph = Graph::new();
        let x = images(&mut graph, [1, 4, 4, 2]);
        let weight = graph.parameter("weight", [2, 2, 2, 3], Init::Zeros).unwrap();
        let up = graph.conv_transpose2d("up", x, weight, None).unwrap();
        let graph = checked(&of(&mut graph, up).unwrap());
        let tensor = &graph.initializer[0];
        let values: Vec<f32> =
            tensor.raw_data.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        // Theirs is [c_in, c_out, y, x]; ours counts [y, x, c_in, c_out].
        assert_eq!(tensor.dims, [2, 3, 2, 2]);
        assert_eq!(values[..8], [0.0, 6.0, 12.0, 18.0, 1.0, 7.0, 13.0, 19.0]);
        let strides = graph.node[0].attribute.iter().find(|attribute| attribute.name == "strides").unwrap();
        assert_eq!((graph.node[0].input.len(), strides.ints.as_slice()), (2, &[2, 2][..]));
    }

    #[test]
    fn margins_become_slices_and_pads() {
        for (pad, operators) in [
            (Pad { before: [-1, 0, 2], after: [0, 1, -1] }, &["Slice", "Pad"][..]),
            (Pad { before: [1, 2, 0], after: [0; 3] }, &["Pad"]),
            (Pad { before: [0, -2, 0], after: [-1, 0, 0] }, &["Slice"]),
            (Pad::default(), &["Identity"]),
        ] {
            let mut graph = Graph::new();
            let x = images(&mut graph, [2, 5, 6, 3]);
            let y = graph.pad("margins", x, pad).unwrap();
            let graph = checked(&of(&mut graph, y).unwrap());
            let found: Vec<&str> = graph.node.iter().map(|node| node.op_type.as_str()).collect();
            assert_eq!(found, operators, "{pad:?}");
        }
        let mut graph = Graph::new();
        let x = images(&mut graph, [1, 2, 2, 1]);
        let y = graph.pad("margins", x, Pad { before: [3, 0, 0], after: [-2, 0, 0] }).unwrap();
        let message = of(&mut graph, y).unwrap_err().to_string();
        assert!(message.contains("takes away more than there is"), "{message}");
    }

    #[test]
    fn equal_names_are_told_apart() {
        let mut graph = Graph::new();
        let x = images(&mut graph, [1, 2, 2, 1]);
        // As the output that follows is called.
        let first = graph.relu("y", x).unwrap();
        let second = graph.relu("x", first).unwrap();
        let model = of(&mut graph, second).unwrap();
        let graph = checked(&model);
        let names: Vec<&str> = graph.node.iter().map(|node| node.output[0].as_str()).collect();
        assert_eq!(names, ["y#2", "y"]);
    }

    #[test]
    fn what_onnx_has_no_word_for_is_named() {
        let message = |build: &dyn Fn(&mut Graph, NodeId) -> Result<NodeId>| {
            let mut graph = Graph::new();
            let x = images(&mut graph, [2, 4, 4, 4]);
            let y = build(&mut graph, x).unwrap();
            of(&mut graph, y).unwrap_err().to_string()
        };
        let text = message(&|graph, x| {
            let generator = graph.input("generator", TensorType::u32([2]).map_err(Error::Usage)?);
            graph.dropout("drop", x, generator, Dropout { rate: 0.5, stream: 0 })
        });
        assert!(text.contains("dropout `drop`: this op has no counterpart in ONNX"), "{text}");
        let text = message(&|graph, x| {
            let mut vector = |name: &str| graph.parameter(name, [4], Init::Zeros);
            let parameters = [vector("weight")?, vector("bias")?];
            graph.group_norm("norm", x, parameters, 2, 1e-5)
        });
        assert!(text.contains("batch_norm_moments `norm.moments`"), "{text}");
        let text = message(&|graph, x| graph.conv2d("conv", x, x, None, crate::ops::Conv2d::default()));
        assert!(text.contains("conv2d `conv`: input 1 must be a parameter"), "{text}");
        let text = message(&|graph, _| graph.parameter("weight", [1, 1, 4, 4], Init::Zeros));
        assert!(text.contains("cannot be an output"), "{text}");
        let mut graph = Graph::new();
        graph.parameter("bias", [4], Init::Zeros).unwrap();
        let text = Model::new(&graph, &[], false).unwrap_err().to_string();
        assert!(text.contains("the bank has 64 elements, got 0"), "{text}");
    }
}
