//! The CPU executor: every op's reference, in order. The definition of correct, in `f32` or `f64`.

use crate::array::{Array, Real, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Bank, Graph, NodeId, NodeKind, Placement};
use crate::op::AnyOp;
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
/// and updates are written to `banks`.
///
/// # Errors
/// When an input is missing or not of its node's type, or a bank is missing or of another length.
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
    let mut values: Vec<Option<Tensor<T>>> = vec![None; graph.nodes().len()];
    for (index, node) in graph.nodes().iter().enumerate().filter(|&(index, _)| needed[index]) {
        let slice = |bank: &[T], offset: usize| {
            let shape = node.tensor_type.shape.clone();
            let data = bank[offset..][..shape.elements()].to_vec();
            Tensor::Float(Array { shape, data })
        };
        values[index] = Some(match &node.kind {
            NodeKind::Input => match inputs.get(&NodeId(index)) {
                Some(value) if value.tensor_type() == node.tensor_type => value.clone(),
                other => {
                    let found = other.map_or("nothing".into(), |value| value.tensor_type().to_string());
                    let problem = format!("expected a tensor {}, got {found}", node.tensor_type);
                    return Err(Error::Graph { op: "input".into(), node: node.name.clone(), problem });
                }
            },
            NodeKind::Constant(value) => {
                Tensor::Float(Array::filled(node.tensor_type.shape.clone(), T::from_f64(f64::from(*value))))
            }
            NodeKind::Parameter { index } => slice(&banks[&Bank::Parameters], graph.parameters()[*index].offset),
            NodeKind::Bank(bank) => slice(&banks[bank], 0),
            NodeKind::Op { op, inputs } => {
                let arguments: Vec<&Tensor<T>> = inputs.iter().filter_map(|input| values[input.0].as_ref()).collect();
                let mut results = T::reference(op.as_ref(), &arguments);
                for (&written, result) in op.writes().iter().zip(&results) {
                    if let Placement::Bank(bank, _) = placements[inputs[written].0] {
                        banks.insert(bank, result.float().data.clone());
                    }
                }
                for input in inputs {
                    uses[input.0] -= 1;
                    if uses[input.0] == 0 {
                        values[input.0] = None;
                    }
                }
                let result = results.swap_remove(0);
                if let (Placement::Bank(bank, offset), true) = (placements[index], op.writes().is_empty())
                    && let Some(bank) = banks.get_mut(&bank)
                {
                    let data = &result.float().data;
                    bank[offset..][..data.len()].copy_from_slice(data);
                }
                result
            }
        });
        if uses[index] == 0 {
            values[index] = None;
        }
    }
    Ok(graph.outputs().iter().filter_map(|&(_, node)| Some((node, values[node.0].clone()?))).collect())
}
