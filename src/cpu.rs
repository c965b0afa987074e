//! The CPU executor: every op's reference, in order. The definition of correct, in `f32` or `f64`; results that are stored as `f16` are
//! rounded to that.

use crate::array::{Array, Real, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Bank, Graph, NodeId, NodeKind, Placement};
use crate::op::AnyOp;
use crate::shape::DType;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The flat arrays that outlive a step.
pub type Banks<T> = BTreeMap<Bank, Vec<T>>;

/// Chooses the precision of an op's reference by type.
pub trait Precision: Real {
    /// Runs the reference of `op` in this precision.
    fn reference(op: &dyn AnyOp, inputs: &[&Tensor<Self>]) -> Vec<Tensor<Self>>;
}

impl Precision for f32 {
    fn reference(op: &dyn AnyOp, inputs: &[&Tensor<Self>]) -> Vec<Tensor<Self>> {
        op.reference_f32(inputs)
    }
}

impl Precision for f64 {
    fn reference(op: &dyn AnyOp, inputs: &[&Tensor<Self>]) -> Vec<Tensor<Self>> {
        op.reference_f64(inputs)
    }
}

/// Banks of zeros, but for the parameters.
pub fn banks<T: Real>(graph: &Graph, parameters: &[f32]) -> Banks<T> {
    let convert = |values: &[f32]| values.iter().map(|&value| T::from_f64(f64::from(value))).collect();
    graph
        .banks()
        .into_iter()
        .map(|bank| match bank {
            Bank::Parameters => (bank, convert(parameters)),
            _ => (bank, vec![T::zero(); graph.bank_elements()]),
        })
        .collect()
}

/// Computes every needed node in order and returns the graph's outputs. Values are dropped after their last use; gradients
/// and updates are written to `banks`. What lives in a bank is looked up there when it is used, and after the last node where it
/// is an output, as on a device.
///
/// # Errors
/// When an input is missing, not of its node's type or without its shape's elements, or a bank is missing or of another length.
pub fn evaluate<T: Precision>(
    graph: &Graph,
    inputs: &BTreeMap<NodeId, Tensor<T>>,
    banks: &mut Banks<T>,
) -> Result<BTreeMap<NodeId, Tensor<T>>> {
    for bank in graph.banks() {
        let length = banks.get(&bank).map(Vec::len);
        if length != Some(graph.bank_elements()) {
            let problem = format!("the bank needs {} elements, got {length:?}", graph.bank_elements());
            return Err(Error::Graph { op: "evaluate".into(), node: format!("{bank:?}"), problem });
        }
    }
    let needed = graph.needed();
    let placements = graph.placements();
    let mut uses = vec![0usize; graph.nodes().len()];
    for (node, _) in graph.nodes().iter().zip(&needed).filter(|(_, needed)| **needed) {
        if let NodeKind::Op { inputs, .. } = &node.kind {
            for input in inputs {
                uses[input.0] += 1;
            }
        }
    }
    for (_, node) in graph.outputs() {
        uses[node.0] += 1;
    }
    let mut values: Vec<Option<Cow<'_, Tensor<T>>>> = vec![None; graph.nodes().len()];
    for (index, node) in graph.nodes().iter().enumerate().filter(|&(index, _)| needed[index]) {
        values[index] = match &node.kind {
            NodeKind::Input => {
                let value = inputs.get(&NodeId(index)).ok_or_else(|| Error::Graph {
                    op: "input".into(),
                    node: node.name.clone(),
                    problem: format!("expected a tensor {}, got nothing", node.tensor_type),
                })?;
                graph.check_input(NodeId(index), value)?;
                Some(match node.tensor_type.dtype {
                    DType::F16 => Cow::Owned(value.clone().stored_as(DType::F16)),
                    _ => Cow::Borrowed(value),
                })
            }
            NodeKind::Constant(value) => {
                let value = T::from_f64(f64::from(*value));
                Some(Cow::Owned(Array::filled(node.tensor_type.shape.clone(), value).into()))
            }
            NodeKind::Parameter { .. } | NodeKind::Bank(_) => None,
            NodeKind::Op { op, inputs } => {
                let found = |&input: &NodeId| value_of(graph, input, placements[input.0], &values, banks);
                let arguments: Vec<Cow<'_, Tensor<T>>> = inputs.iter().filter_map(found).collect();
                let mut results = T::reference(op.as_ref(), &arguments.iter().map(AsRef::as_ref).collect::<Vec<_>>());
                drop(arguments);
                for input in inputs {
                    uses[input.0] -= 1;
                    if uses[input.0] == 0 {
                        values[input.0] = None;
                    }
                }
                if op.writes().is_empty() {
                    let result = results.swap_remove(0).stored_as(node.tensor_type.dtype);
                    if let Placement::Bank(bank, offset) = placements[index] {
                        let data = &result.float().data;
                        banks.entry(bank).and_modify(|bank| bank[offset..][..data.len()].copy_from_slice(data));
                        None
                    } else {
                        Some(Cow::Owned(result))
                    }
                } else {
                    for (&written, result) in op.writes().iter().zip(results) {
                        if let (Placement::Bank(bank, _), Tensor::Float(array)) =
                            (placements[inputs[written].0], result)
                        {
                            banks.insert(bank, array.data);
                        }
                    }
                    None
                }
            }
        };
        if uses[index] == 0 {
            values[index] = None;
        }
    }
    let outputs = graph.outputs().iter();
    let found = |node: NodeId| value_of(graph, node, placements[node.0], &values, banks).map(Cow::into_owned);
    Ok(outputs.filter_map(|&(_, node)| Some((node, found(node)?))).collect())
}

/// The value of a node at this point of a run: from its bank, if it lives in one.
fn value_of<'a, T: Real>(
    graph: &Graph,
    node: NodeId,
    placement: Placement,
    values: &'a [Option<Cow<'_, Tensor<T>>>],
    banks: &Banks<T>,
) -> Option<Cow<'a, Tensor<T>>> {
    let Placement::Bank(bank, offset) = placement else {
        return values[node.0].as_deref().map(Cow::Borrowed);
    };
    let shape = graph.shape(node).clone();
    let data = banks.get(&bank)?[offset..][..shape.elements()].to_vec();
    Some(Cow::Owned(Array { shape, data }.into()))
}
