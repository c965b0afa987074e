//! Reverse-mode differentiation: a function from a graph to a longer graph.

use crate::error::{Error, Result};
use crate::graph::{Bank, Graph, Node, NodeId, NodeKind};
use crate::op::Backward;
use crate::ops::Add;
use crate::recompute::COPY;
use crate::shape::DType;
use std::collections::{BTreeMap, BTreeSet};

/// A graph in which nodes of the forward pass are computed again for those of the backward pass.
struct Copying<'a> {
    graph: Graph,
    forward: &'a Graph,
    again: &'a BTreeSet<NodeId>,
    copies: BTreeMap<NodeId, NodeId>,
}

impl Copying<'_> {
    /// Adds the nodes that `longer` has after the forward pass, each behind the copies that it is the first to read. Tells what stands for
    /// each node of `longer`.
    fn follow(&mut self, longer: &Graph) -> Result<Vec<NodeId>> {
        let mut nodes: Vec<NodeId> = (0..self.forward.nodes.len()).map(NodeId).collect();
        for node in &longer.nodes[nodes.len()..] {
            nodes.push(match &node.kind {
                NodeKind::Op { op, inputs } => {
                    let inputs = inputs.iter().map(|input| self.copy(nodes[input.0])).collect::<Result<Vec<_>>>()?;
                    self.graph.apply_shared(&node.name, op, &inputs)?
                }
                kind => self.graph.push(&node.name, kind.clone(), node.tensor_type.clone()),
            });
        }
        Ok(nodes)
    }

    /// The copy of a node if it is computed again, or the node itself.
    fn copy(&mut self, node: NodeId) -> Result<NodeId> {
        if !self.again.contains(&node) {
            return Ok(node);
        }
        if let Some(&copy) = self.copies.get(&node) {
            return Ok(copy);
        }
        let Node { name, kind, .. } = self.forward.node(node);
        let NodeKind::Op { op, inputs } = kind else { return Ok(node) };
        let inputs = inputs.iter().map(|&input| self.copy(input)).collect::<Result<Vec<_>>>()?;
        let copy = self.graph.apply_shared(&format!("{name}{COPY}"), op, &inputs)?;
        self.copies.insert(node, copy);
        Ok(copy)
    }
}

impl Graph {
    /// The graph, longer by the nodes that compute ∂loss/∂p for every trainable parameter p (into the gradient bank) and for each node of
    /// `with_respect_to`, whose gradients are returned in the same order (`None` where the loss does not depend on it).
    ///
    /// Where a node is used several times, the gradients of its uses are added in reverse order of use.
    ///
    /// # Errors
    /// When the loss is not a single float, an op on the path to it has no gradient, or the gradient bank is used already: what
    /// uses it comes after the gradients that fill it.
    pub fn gradients(&self, loss: NodeId, with_respect_to: &[NodeId]) -> Result<(Self, Vec<Option<NodeId>>)> {
        self.gradients_computing_again(loss, with_respect_to, &BTreeSet::new())
    }

    /// [`Graph::gradients`] that read a copy of each node of `again`, computed when the first of them needs it, so that the node itself
    /// need not be kept till then.
    ///
    /// # Errors
    /// As [`Graph::gradients`].
    pub(crate) fn gradients_computing_again(
        &self,
        loss: NodeId,
        with_respect_to: &[NodeId],
        again: &BTreeSet<NodeId>,
    ) -> Result<(Self, Vec<Option<NodeId>>)> {
        let mut graph = self.clone();
        let loss_node = self.find("gradients", "loss", loss)?;
        with_respect_to.iter().try_for_each(|&node| self.find("gradients", "with respect to", node).map(drop))?;
        let fail = |node: &Node, problem: String| {
            Err(Error::Graph { op: "gradients".into(), node: node.name.clone(), problem })
        };
        if loss_node.tensor_type.shape.elements() != 1 || loss_node.tensor_type.dtype != DType::F32 {
            let found = &loss_node.tensor_type;
            return fail(loss_node, format!("the loss must be one float, this node is a tensor {found}"));
        }
        if let Some(early) = self.nodes.iter().find(|node| matches!(node.kind, NodeKind::Bank(Bank::Gradients))) {
            return fail(
                early,
                "the gradient bank is used before the gradients that fill it; add its use after them".into(),
            );
        }
        let wanted = self.depends_on_wanted(with_respect_to);
        let mut gradient: Vec<Option<NodeId>> = vec![None; self.nodes.len()];
        if wanted[loss.0] {
            let shape = loss_node.tensor_type.shape.clone();
            gradient[loss.0] = Some(graph.constant("grad_loss", shape, 1.0));
        }
        for index in (0..=loss.0).rev() {
            let (Some(grad_output), NodeKind::Op { op, inputs }) = (gradient[index], &self.nodes[index].kind) else {
                continue;
            };
            let needs: Vec<bool> = inputs.iter().map(|input| wanted[input.0]).collect();
            let mut backward = Backward {
                graph: &mut graph,
                name: self.nodes[index].name.clone(),
                inputs,
                output: NodeId(index),
                grad_output,
                needs: &needs,
            };
            let contributions = op.gradient(&mut backward)?;
            for (input, contribution) in inputs.iter().zip(contributions) {
                let Some(contribution) = contribution.filter(|_| wanted[input.0]) else { continue };
                gradient[input.0] = Some(match gradient[input.0] {
                    None => contribution,
                    Some(sum) => {
                        let name = format!("{}.grad_sum", self.nodes[input.0].name);
                        graph.apply(&name, Add, &[sum, contribution])?
                    }
                });
            }
        }
        if !again.is_empty() {
            let mut copying = Copying { graph: self.clone(), forward: self, again, copies: BTreeMap::new() };
            let nodes = copying.follow(&graph)?;
            gradient.iter_mut().flatten().for_each(|node| *node = nodes[node.0]);
            graph = copying.graph;
        }
        graph.place_gradients(&gradient)?;
        Ok((graph, with_respect_to.iter().map(|node| gradient[node.0]).collect()))
    }

    /// For each node, whether it is or depends on a trainable parameter or one of `nodes`.
    fn depends_on_wanted(&self, nodes: &[NodeId]) -> Vec<bool> {
        let mut wanted = vec![false; self.nodes.len()];
        for node in nodes {
            wanted[node.0] = true;
        }
        for index in 0..self.nodes.len() {
            wanted[index] |= match &self.nodes[index].kind {
                NodeKind::Parameter { index } => self.parameters[*index].trainable,
                NodeKind::Op { inputs, .. } => inputs.iter().any(|input| wanted[input.0]),
                _ => false,
            };
        }
        wanted
    }

    /// Lets each parameter's gradient node write into the gradient bank. A gradient that is no op's own result, serves another
    /// parameter too or is read by another node stays outside and is copied by adding zero: no dispatch may read the buffer
    /// that it writes.
    fn place_gradients(&mut self, gradient: &[Option<NodeId>]) -> Result<()> {
        let mut uses = vec![0usize; self.nodes.len()];
        for node in &self.nodes {
            if let NodeKind::Op { inputs, .. } = &node.kind {
                for input in inputs {
                    uses[input.0] += 1;
                }
            }
        }
        let slots: Vec<Option<NodeId>> = self.parameters.iter().map(|parameter| gradient[parameter.node.0]).collect();
        for slot in slots.iter().flatten() {
            uses[slot.0] += 1;
        }
        for (index, slot) in slots.into_iter().enumerate() {
            self.parameters[index].gradient = match slot {
                Some(slot) if uses[slot.0] > 1 || !matches!(self.node(slot).kind, NodeKind::Op { .. }) => {
                    let name = format!("{}.grad_copy", self.parameters[index].name);
                    let zero = self.constant(&name, self.shape(slot).clone(), 0.0);
                    Some(self.apply(&name, Add, &[slot, zero])?)
                }
                slot => slot,
            };
        }
        Ok(())
    }
}
