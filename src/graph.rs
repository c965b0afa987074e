//! A network as plain data: a list of nodes, each naming only earlier ones.

mod table;

pub use table::{Row, Table};

use crate::array::{Array, Real, Tensor};
use crate::error::{Error, Result};
use crate::fuse::Joints;
use crate::op::{AnyOp, Op};
use crate::random::Random;
use crate::shape::{DType, Shape, TensorType};
use std::sync::Arc;

/// The index of a node in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) usize);

impl NodeId {
    /// The position in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// One of the flat arrays that outlive a step, laid out alike: slice `p` of each belongs to parameter `p`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bank {
    /// The parameters themselves.
    Parameters,
    /// The gradient of the loss with respect to each parameter.
    Gradients,
    /// An array of optimiser state, such as the velocity of SGD with momentum.
    OptimizerState(u8),
}

/// Where a node's value comes from.
#[derive(Clone, Debug)]
pub enum NodeKind {
    /// Written by the host before a run.
    Input,
    /// A slice of the parameter bank.
    Parameter {
        /// Index into [`Graph::parameters`].
        index: usize,
    },
    /// A whole bank.
    Bank(Bank),
    /// Every element equals this value.
    Constant(f32),
    /// Computed from earlier nodes.
    Op {
        /// The op with its settings.
        op: Arc<dyn AnyOp>,
        /// Its inputs.
        inputs: Vec<NodeId>,
    },
}

/// One tensor of the network.
#[derive(Clone, Debug)]
pub struct Node {
    /// A name for tables, errors and profiles, such as `encoder0.conv1`.
    pub name: String,
    /// Where the value comes from.
    pub kind: NodeKind,
    /// Element type and shape.
    pub tensor_type: TensorType,
}

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All of this value.
    Constant(f32),
    /// The first of this value, the others zero.
    First(f32),
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// Uniform between the negative of this and this.
    Uniform(f32),
}

/// A tensor that outlives a step: a named slice of the banks. It is trained, or a buffer, which the optimiser leaves alone.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Unique name, such as `encoder0.conv1.weight`.
    pub name: String,
    /// Extents.
    pub shape: Shape,
    /// How it starts.
    pub init: Init,
    /// First element in the banks; a multiple of [`BANK_ALIGNMENT`].
    pub offset: usize,
    /// The node that stands for the value.
    pub node: NodeId,
    /// The node that computes the gradient into the gradient bank, once [`Graph::gradients`] has run.
    pub gradient: Option<NodeId>,
    /// Whether it is trained; otherwise it is a buffer, in `PyTorch`'s word, such as a running mean.
    pub trainable: bool,
    /// The node that computes what a buffer becomes: see [`Graph::store_tracked`].
    pub tracked: Option<NodeId>,
}

/// Slices of banks start at multiples of this many elements, so that they can be bound on every device (256 bytes).
pub const BANK_ALIGNMENT: usize = 64;

/// Where a node's elements live while a plan runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// In a buffer of its own that the host may write.
    Input,
    /// In a buffer of its own, written once.
    Constant,
    /// In a bank, from this element on.
    Bank(Bank, usize),
    /// In memory shared with other nodes that live at other times.
    Transient,
}

/// A network as plain data.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub(crate) nodes: Vec<Node>,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) outputs: Vec<(String, NodeId)>,
    bank_elements: usize,
    banks_frozen: bool,
    /// What [`Graph::fused`] leaves to the planning of memory.
    pub(crate) joints: Joints,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// The nodes in order of computation.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node that `subject` asks for.
    ///
    /// # Errors
    /// When the graph has no such node; the message names `op` and `subject`.
    pub(crate) fn find(&self, op: &str, subject: &str, id: NodeId) -> Result<&Node> {
        self.nodes.get(id.0).ok_or_else(|| Error::Graph {
            op: op.into(),
            node: subject.into(),
            problem: format!("{} is not a node of this graph, which has {}", id.0, self.nodes.len()),
        })
    }

    /// Holds a value that the host gives an input against the graph.
    ///
    /// # Errors
    /// When the node is not an input of the graph, or the tensor is not of its type or has not the elements of its shape.
    pub(crate) fn check_input<T: Real>(&self, id: NodeId, value: &Tensor<T>) -> Result<()> {
        let node = self.find("write", "input", id)?;
        let fail = |problem: String| Err(Error::Graph { op: "write".into(), node: node.name.clone(), problem });
        if !matches!(node.kind, NodeKind::Input) {
            return fail("only inputs can be written".into());
        }
        let (found, expected) = (value.tensor_type(), &node.tensor_type);
        if found.shape != expected.shape || found.dtype.is_float() != expected.dtype.is_float() {
            return fail(format!("expected a tensor {expected}, got {found}"));
        }
        if value.elements() != expected.shape.elements() {
            return fail(format!(
                "shape {expected} has {} elements, got {}",
                expected.shape.elements(),
                value.elements()
            ));
        }
        Ok(())
    }

    /// The node with this index.
    ///
    /// # Panics
    /// When the index comes from a longer graph.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// The extents of a node.
    ///
    /// # Panics
    /// When the index comes from a longer graph.
    pub fn shape(&self, id: NodeId) -> &Shape {
        &self.nodes[id.0].tensor_type.shape
    }

    /// Element type and extents of each of these nodes, as ops are asked with.
    pub(crate) fn types(&self, nodes: &[NodeId]) -> Vec<TensorType> {
        nodes.iter().map(|&node| self.node(node).tensor_type.clone()).collect()
    }

    /// The trainable tensors and the buffers, in order of creation.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The number of trainable scalars.
    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().filter(|parameter| parameter.trainable).map(|parameter| parameter.shape.elements()).sum()
    }

    /// The number of elements of each bank, padding included.
    pub fn bank_elements(&self) -> usize {
        self.bank_elements
    }

    /// The banks that the graph uses, parameters first.
    pub fn banks(&self) -> Vec<Bank> {
        let mut banks = Vec::new();
        if !self.parameters.is_empty() {
            banks.push(Bank::Parameters);
        }
        if self.parameters.iter().any(|parameter| parameter.gradient.is_some()) {
            banks.push(Bank::Gradients);
        }
        for node in &self.nodes {
            if let NodeKind::Bank(bank) = node.kind {
                banks.push(bank);
            }
        }
        banks.sort_unstable();
        banks.dedup();
        banks
    }

    /// The nodes that the host writes.
    pub fn inputs(&self) -> impl Iterator<Item = NodeId> {
        let inputs = self.nodes.iter().enumerate().filter(|(_, node)| matches!(node.kind, NodeKind::Input));
        inputs.map(|(index, _)| NodeId(index))
    }

    /// The named results that can be read after a run.
    pub fn outputs(&self) -> &[(String, NodeId)] {
        &self.outputs
    }

    /// Keeps a node's value readable after a run, under a name. What lives in a bank (a parameter, a parameter's gradient, a whole
    /// bank) is read as the run leaves it, updates included.
    ///
    /// # Errors
    /// When the graph has no such node.
    pub fn mark_output(&mut self, name: &str, node: NodeId) -> Result<()> {
        self.find("mark_output", name, node)?;
        self.outputs.push((name.to_owned(), node));
        Ok(())
    }

    pub(crate) fn push(&mut self, name: &str, kind: NodeKind, tensor_type: TensorType) -> NodeId {
        self.nodes.push(Node { name: name.to_owned(), kind, tensor_type });
        NodeId(self.nodes.len() - 1)
    }

    /// A tensor that the host writes before a run.
    pub fn input(&mut self, name: &str, tensor_type: TensorType) -> NodeId {
        self.push(name, NodeKind::Input, tensor_type)
    }

    /// A tensor of floats whose elements all equal `value`.
    pub fn constant(&mut self, name: &str, shape: Shape, value: f32) -> NodeId {
        self.push(name, NodeKind::Constant(value), TensorType { dtype: DType::F32, shape })
    }

    /// A trainable tensor.
    ///
    /// # Errors
    /// When the name is taken, the shape has no elements or too many, or a bank has been used already.
    pub fn parameter(&mut self, name: &str, extents: impl Into<Vec<usize>>, init: Init) -> Result<NodeId> {
        self.slice(name, extents, init, true)
    }

    /// A tensor that outlives a step like a parameter, but has no gradient.
    ///
    /// # Errors
    /// As [`Graph::parameter`].
    pub fn buffer(&mut self, name: &str, extents: impl Into<Vec<usize>>, init: Init) -> Result<NodeId> {
        self.slice(name, extents, init, false)
    }

    fn slice(&mut self, name: &str, extents: impl Into<Vec<usize>>, init: Init, trainable: bool) -> Result<NodeId> {
        let fail = |problem: String| Error::Graph { op: "parameter".into(), node: name.into(), problem };
        if self.parameters.iter().any(|parameter| parameter.name == name) {
            return Err(fail("a parameter of this name exists already".into()));
        }
        if self.banks_frozen {
            return Err(fail("parameters must be added before any node uses a whole bank".into()));
        }
        let shape = Shape::new(extents).map_err(fail)?;
        let offset = self.bank_elements;
        let elements = (offset + shape.elements()).next_multiple_of(BANK_ALIGNMENT);
        Shape::new([elements]).map_err(fail)?;
        self.bank_elements = elements;
        let index = self.parameters.len();
        let tensor_type = TensorType { dtype: DType::F32, shape: shape.clone() };
        let node = self.push(name, NodeKind::Parameter { index }, tensor_type);
        let name = name.into();
        let (gradient, tracked) = (None, None);
        self.parameters.push(Parameter { name, shape, init, offset, node, gradient, trainable, tracked });
        Ok(node)
    }

    /// A node that stands for a whole bank. No parameters can be added afterwards.
    ///
    /// # Errors
    /// When there are no parameters.
    pub fn bank(&mut self, bank: Bank) -> Result<NodeId> {
        self.banks_frozen = true;
        let tensor_type = TensorType::f32([self.bank_elements]).map_err(|_| Error::Graph {
            op: "bank".into(),
            node: format!("{bank:?}"),
            problem: "the graph has no parameters".into(),
        })?;
        Ok(self.push(&format!("{bank:?}"), NodeKind::Bank(bank), tensor_type))
    }

    /// The bank that a node stands for, if it stands for a whole one.
    pub fn bank_of(&self, node: NodeId) -> Option<Bank> {
        match self.nodes.get(node.0)?.kind {
            NodeKind::Bank(bank) => Some(bank),
            _ => None,
        }
    }

    /// The result of an op.
    ///
    /// # Errors
    /// When the op's shape rule refuses the inputs, or an op that writes would write anything but a whole bank, or a bank that
    /// another of its inputs lives in.
    pub fn apply(&mut self, name: &str, op: impl Op, inputs: &[NodeId]) -> Result<NodeId> {
        let op: Arc<dyn AnyOp> = Arc::new(op);
        self.apply_shared(name, &op, inputs)
    }

    /// The result of an op that is shared already; otherwise as [`Graph::apply`].
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn apply_shared(&mut self, name: &str, op: &Arc<dyn AnyOp>, inputs: &[NodeId]) -> Result<NodeId> {
        let fail = |problem: String| Error::Graph { op: op.name().into(), node: name.into(), problem };
        inputs.iter().try_for_each(|&id| self.find(op.name(), name, id).map(drop))?;
        let types = self.types(inputs);
        let tensor_type = op.output(&types).map_err(fail)?;
        let placements = if op.writes().is_empty() { Vec::new() } else { self.placements() };
        for &written in op.writes() {
            let Some(bank) = inputs.get(written).and_then(|&id| self.bank_of(id)) else {
                return Err(fail(format!("input {written} is overwritten in place, so it must be a whole bank")));
            };
            // A device refuses a dispatch that reads and writes one buffer through two bindings.
            let inside = |&id: &NodeId| matches!(placements[id.0], Placement::Bank(other, _) if other == bank);
            if let Some(other) = (0..inputs.len()).find(|&input| input != written && inside(&inputs[input])) {
                let problem =
                    format!("input {other} lives in the bank {bank:?}, which input {written} overwrites in place");
                return Err(fail(problem));
            }
        }
        Ok(self.push(name, NodeKind::Op { op: Arc::clone(op), inputs: inputs.to_vec() }, tensor_type))
    }

    /// Where the elements of each node live.
    pub fn placements(&self) -> Vec<Placement> {
        let mut placements: Vec<Placement> = self
            .nodes
            .iter()
            .map(|node| match &node.kind {
                NodeKind::Input => Placement::Input,
                NodeKind::Constant(_) => Placement::Constant,
                NodeKind::Parameter { index } => Placement::Bank(Bank::Parameters, self.parameters[*index].offset),
                NodeKind::Bank(bank) => Placement::Bank(*bank, 0),
                NodeKind::Op { .. } => Placement::Transient,
            })
            .collect();
        for (index, node) in self.nodes.iter().enumerate() {
            if let NodeKind::Op { op, inputs } = &node.kind
                && let Some(&written) = op.writes().first()
            {
                placements[index] = placements[inputs[written].0];
            }
        }
        for parameter in &self.parameters {
            if let Some(gradient) = parameter.gradient {
                placements[gradient.0] = Placement::Bank(Bank::Gradients, parameter.offset);
            }
        }
        placements
    }

    /// For each node, whether something depends on it: an output, a parameter's gradient, or an op that writes state.
    pub fn needed(&self) -> Vec<bool> {
        let mut needed = vec![false; self.nodes.len()];
        for &(_, node) in &self.outputs {
            needed[node.0] = true;
        }
        for gradient in self.parameters.iter().filter_map(|parameter| parameter.gradient) {
            needed[gradient.0] = true;
        }
        for index in (0..self.nodes.len()).rev() {
            if let NodeKind::Op { op, inputs } = &self.nodes[index].kind {
                needed[index] |= !op.writes().is_empty();
                if needed[index] {
                    for input in inputs {
                        needed[input.0] = true;
                    }
                }
            }
        }
        needed
    }

    /// How often each node is used, by nodes that are [needed](Graph::needed) and from outside: as an output or a parameter's gradient.
    pub(crate) fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.nodes.len()];
        for (node, _) in self.nodes.iter().zip(self.needed()).filter(|&(_, needed)| needed) {
            if let NodeKind::Op { inputs, .. } = &node.kind {
                for input in inputs {
                    uses[input.0] += 1;
                }
            }
        }
        let gradients = self.parameters.iter().filter_map(|parameter| parameter.gradient);
        for node in self.outputs.iter().map(|&(_, node)| node).chain(gradients) {
            uses[node.0] += 1;
        }
        uses
    }

    /// The graph up to the first op that overwrites state, with the outputs up to there: what a training step computes before it
    /// changes anything.
    #[must_use]
    pub fn before_update(&self) -> Self {
        let is_update = |node: &Node| matches!(&node.kind, NodeKind::Op { op, .. } if !op.writes().is_empty());
        let nodes: Vec<Node> = self.nodes.iter().take_while(|node| !is_update(node)).cloned().collect();
        let outputs = self.outputs.iter().filter(|(_, node)| node.0 < nodes.len()).cloned().collect();
        Self { nodes, outputs, joints: Joints::default(), ..self.clone() }
    }

    /// Starting values of the parameter bank: each parameter's [`Init`], drawn from its own stream of the seed. Padding is zero.
    pub fn initial_parameters(&self, seed: u32) -> Vec<f32> {
        let mut bank = vec![0.0; self.bank_elements];
        for (stream, parameter) in self.parameters.iter().enumerate() {
            let slice = &mut bank[parameter.offset..][..parameter.shape.elements()];
            let mut random = Random::new(seed, stream as u32);
            match parameter.init {
                Init::Zeros => {}
                Init::Constant(value) => slice.fill(value),
                Init::First(value) => slice[0] = value,
                Init::Normal(deviation) => slice.fill_with(|| deviation * random.normal()),
                Init::Uniform(limit) => slice.fill_with(|| random.between(-limit, limit)),
            }
        }
        bank
    }

    /// The slice of a bank that belongs to a parameter.
    ///
    /// # Panics
    /// When the bank ends before it, being of another graph than the parameter.
    pub fn bank_slice<'a, T: Copy>(&self, bank: &'a [T], parameter: &Parameter) -> &'a [T] {
        &bank[parameter.offset..][..parameter.shape.elements()]
    }

    /// A parameter's slice of a bank as an array.
    ///
    /// # Panics
    /// As [`Graph::bank_slice`].
    pub fn bank_array<T: Copy>(&self, bank: &[T], parameter: &Parameter) -> Array<T> {
        Array { shape: parameter.shape.clone(), data: self.bank_slice(bank, parameter).to_vec() }
    }

    /// The graph in the DOT language, for `dot -Tsvg`.
    pub fn to_dot(&self) -> String {
        use std::fmt::Write;
        let needed = self.needed();
        let mut dot = String::from("digraph tilewise {\n  rankdir=TB;\n  node [shape=box, fontname=\"sans-serif\"];\n");
        for (index, node) in self.nodes.iter().enumerate().filter(|&(index, _)| needed[index]) {
            let (label, style) = match &node.kind {
                NodeKind::Op { op, .. } => (op.name().to_owned(), ""),
                NodeKind::Input => ("input".to_owned(), ", style=filled, fillcolor=\"#d7e8f7\""),
                NodeKind::Parameter { .. } => ("parameter".to_owned(), ", style=filled, fillcolor=\"#f7ecd0\""),
                NodeKind::Bank(_) => ("bank".to_owned(), ", style=filled, fillcolor=\"#f7ecd0\""),
                NodeKind::Constant(value) => (format!("constant {value}"), ", style=dashed"),
            };
            let _ = writeln!(dot, "  n{index} [label=\"{}\\n{label}\\n{}\"{style}];", node.name, node.tensor_type);
            if let NodeKind::Op { inputs, .. } = &node.kind {
                for input in inputs {
                    let _ = writeln!(dot, "  n{} -> n{index};", input.0);
                }
            }
        }
        dot.push_str("}\n");
        dot
    }
}
