//! A graph as a table: a row per layer, with the work of its gradients beside its own.

use super::{Graph, Node, NodeKind};
use crate::op::DeviceProfile;
use crate::shape::TensorType;
use serde::Serialize;
use std::fmt;

/// One layer: a node that is computed, and the nodes of its gradients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The node's name.
    pub layer: String,
    /// The kernel that computes it.
    pub kernel: String,
    /// Extents of the weight, if it has one.
    pub weight: Option<Vec<usize>>,
    /// Extents of the result.
    pub output: Vec<usize>,
    /// Trainable scalars.
    pub parameters: usize,
    /// Floating-point operations of the forward pass.
    pub forward_flops: u64,
    /// Bytes of the tensors that the forward pass reads and writes, each counted once.
    pub forward_bytes: u64,
    /// Floating-point operations of the gradients.
    pub backward_flops: u64,
    /// Bytes of the tensors that the gradients read and write, each counted once per gradient.
    pub backward_bytes: u64,
}

/// The layers of a graph in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Table {
    /// The layers.
    pub rows: Vec<Row>,
}

impl Graph {
    /// The layers that something depends on. A node named `<layer>.grad…` counts as a gradient of that layer.
    pub fn table(&self) -> Table {
        let needed = self.needed();
        let mut rows: Vec<Row> = Vec::new();
        for (node, _) in self.nodes().iter().zip(needed).filter(|(_, needed)| *needed) {
            let NodeKind::Op { op, inputs } = &node.kind else { continue };
            let inputs: Vec<&Node> = inputs.iter().map(|&input| self.node(input)).collect();
            let types: Vec<TensorType> = inputs.iter().map(|input| input.tensor_type.clone()).collect();
            let flops = op.flops(&types, &node.tensor_type);
            let bytes = types.iter().map(TensorType::size_bytes).sum::<u64>() + node.tensor_type.size_bytes();
            let layer = node.name.rfind(".grad").map(|dot| &node.name[..dot]);
            if let Some(row) = layer.and_then(|layer| rows.iter_mut().find(|row| row.layer == layer)) {
                row.backward_flops += flops;
                row.backward_bytes += bytes;
                continue;
            }
            let candidates = op.offered(&types, &node.tensor_type, &DeviceProfile::PORTABLE);
            let kernel = candidates.first().and_then(|candidate| candidate.dispatches.first());
            let parameters: Vec<&&Node> =
                inputs.iter().filter(|input| matches!(input.kind, NodeKind::Parameter { .. })).collect();
            rows.push(Row {
                layer: node.name.clone(),
                kernel: kernel.map_or_else(|| op.name().into(), |dispatch| dispatch.kernel.path.into()),
                weight: parameters.first().map(|weight| weight.tensor_type.shape.extents().to_vec()),
                output: node.tensor_type.shape.extents().to_vec(),
                parameters: parameters.iter().map(|input| input.tensor_type.shape.elements()).sum(),
                forward_flops: flops,
                forward_bytes: bytes,
                backward_flops: 0,
                backward_bytes: 0,
            });
        }
        Table { rows }
    }
}

impl Table {
    /// Sums over all layers: parameters, forward FLOP, forward bytes, backward FLOP, backward bytes.
    pub fn totals(&self) -> (usize, u64, u64, u64, u64) {
        self.rows.iter().fold((0, 0, 0, 0, 0), |sum, row| {
            (
                sum.0 + row.parameters,
                sum.1 + row.forward_flops,
                sum.2 + row.forward_bytes,
                sum.3 + row.backward_flops,
                sum.4 + row.backward_bytes,
            )
        })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |extents: &[usize]| extents.iter().map(ToString::to_string).collect::<Vec<_>>().join("×");
        let mega = |value: u64| format!("{:.1}", value as f64 / 1e6);
        let mebi = |value: u64| format!("{:.1}", value as f64 / f64::from(1 << 20));
        let heads = ["layer", "kernel", "weight", "output", "parameters", "MFLOP", "MiB", "back MFLOP", "back MiB"];
        let mut lines: Vec<[String; 9]> = vec![heads.map(str::to_owned)];
        lines.extend(self.rows.iter().map(|row| {
            [
                row.layer.clone(),
                row.kernel.clone(),
                row.weight.as_deref().map(join).unwrap_or_default(),
                join(&row.output),
                if row.parameters > 0 { row.parameters.to_string() } else { String::new() },
                mega(row.forward_flops),
                mebi(row.forward_bytes),
                mega(row.backward_flops),
                mebi(row.backward_bytes),
            ]
        }));
        let (parameters, forward_flops, forward_bytes, backward_flops, backward_bytes) = self.totals();
        let blank = String::new;
        lines.push([
            "total".into(),
            blank(),
            blank(),
            blank(),
            parameters.to_string(),
            mega(forward_flops),
            mebi(forward_bytes),
            mega(backward_flops),
            mebi(backward_bytes),
        ]);
        let widths: Vec<usize> =
            (0..9).map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0)).collect();
        for line in &lines {
            for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
                if column < 2 { write!(f, "{cell:<width$}  ")? } else { write!(f, "{cell:>width$}  ")? }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
