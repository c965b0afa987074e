//! From a graph to one with fewer kernels: ops that follow each other are computed together where one kernel can.
//!
//! What a fused kernel leaves out is writing a tensor to memory and reading it again, or reading it twice:
//!
//! | [`Fusion`] | chain | one kernel |
//! |---|---|---|
//! | `Relu` | convolution, ReLU | [`Conv2dRelu`] |
//! | `ReluGrad` | gradient of a convolution's input, gradient of the ReLU that made this input | [`ThenReluGrad`] |
//! | `Pooling` | gradients of pooling and of the skip, their sum, gradient of the ReLU before | [`MaxPool2dGradSkip`] |
//! | `Concat` | concatenation of a crop, whatever reads it; a gradient of that, its two parts | any: what is indexed is found in [one of two tensors](crate::gpu::source) |
//! | `Loss` | [`CrossEntropy`](crate::ops::CrossEntropy), its gradient where it is all that is minimised, or a term of that | the loss's own |
//!
//! The first three are graphs rewritten, the last two are left to [the planning of memory](crate::gpu::MemoryPlan).
//!
//! The values are the same to the bit, since each sum is added in the same order, and rounded at the same places (as long as no
//! [choice](crate::gpu::Choices) computes one of the two otherwise, and the device can bind all that they read at once). What each is worth
//! on one machine: `docs/kernels/fusion.md`.

mod joint;

pub(crate) use self::joint::{Concat, Joints};
use crate::graph::{Graph, NodeId, NodeKind};
use crate::op::AnyOp;
use crate::ops::{
    Add, Conv2d, Conv2dGradInput, Conv2dRelu, ConvTranspose2dGradInput, MaxPool2dGrad, MaxPool2dGradSkip, Pad, Relu,
    ReluGrad, ThenReluGrad,
};
use std::any::Any;
use std::str::FromStr;
use std::sync::Arc;

/// A chain of ops that one kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fusion {
    /// A convolution and its ReLU.
    Relu,
    /// The gradient of a convolution's input and that of the ReLU which made it.
    ReluGrad,
    /// The gradients of a pooling and of a skip, their sum, and the gradient of the ReLU before them.
    Pooling,
    /// Concatenations, read and written where their parts are.
    Concat,
    /// A loss and its gradient.
    Loss,
}

/// Which chains are fused; by default all of them that pay on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fusions {
    /// One for each [`Fusion`], at its number.
    bits: u8,
    /// Whether concatenations are made on software drivers nevertheless.
    where_it_pays: bool,
}

impl Fusions {
    /// All, on any device.
    pub const ALL: Self = Self { bits: u8::MAX, where_it_pays: false };
    /// None: every op has a kernel of its own.
    pub const NONE: Self = Self { bits: 0, where_it_pays: false };

    /// All of these but one.
    #[must_use]
    pub fn without(self, fusion: Fusion) -> Self {
        Self { bits: self.bits & !(1 << fusion as u8), ..self }
    }

    /// Whether it is one of these.
    pub fn has(self, fusion: Fusion) -> bool {
        self.bits >> fusion as u8 & 1 == 1
    }
}

impl Default for Fusions {
    /// All, but [`Fusion::Concat`] on software drivers: there the copy is a hundredth of a step at most, and each kernel that finds its way to the
    /// parts is another one to compile, which takes long.
    fn default() -> Self {
        Self { where_it_pays: true, ..Self::ALL }
    }
}

impl FromStr for Fusion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "relu" => Ok(Self::Relu),
            "relu-grad" => Ok(Self::ReluGrad),
            "pooling" => Ok(Self::Pooling),
            "concat" => Ok(Self::Concat),
            "loss" => Ok(Self::Loss),
            _ => Err(format!("there is no fusion {text:?}; there are relu, relu-grad, pooling, concat and loss")),
        }
    }
}

/// What a node becomes: another op on other inputs.
type Rewrite = (Arc<dyn AnyOp>, Vec<NodeId>);

impl Graph {
    /// The same nodes, but that the last op of each fused chain computes the whole chain from its inputs; nothing depends on the others
    /// of the chain any more, so they are not computed. A value that something else uses, an output for one, is never fused away.
    #[must_use]
    pub fn fused(&self) -> Self {
        self.fused_by(Fusions::default())
    }

    /// [`Graph::fused`], by some fusions only.
    #[must_use]
    pub fn fused_by(&self, fusions: Fusions) -> Self {
        let needed = self.needed();
        let chain = Chain { graph: self, uses: self.uses(), fusions };
        let mut fused = self.clone();
        for (index, node) in self.nodes.iter().enumerate().filter(|&(index, _)| needed[index]) {
            if let NodeKind::Op { op, inputs } = &node.kind
                && let Some((op, inputs)) = chain.ending_in(op.as_ref(), inputs)
            {
                fused.nodes[index].kind = NodeKind::Op { op, inputs };
            }
        }
        fused.joints = Joints::of(&fused, fusions);
        fused
    }
}

struct Chain<'a> {
    graph: &'a Graph,
    /// How often each node is used, by nodes that are needed and from outside.
    uses: Vec<usize>,
    fusions: Fusions,
}

impl Chain<'_> {
    fn ending_in(&self, op: &dyn AnyOp, inputs: &[NodeId]) -> Option<Rewrite> {
        let has = |fusion| self.fusions.has(fusion);
        if is::<Relu>(op).is_some() && has(Fusion::Relu) {
            let (&conv, inputs) = self.alone::<Conv2d>(*inputs.first()?)?;
            return Some((Arc::new(Conv2dRelu(conv)), inputs.to_vec()));
        }
        is::<ReluGrad>(op)?;
        let &[y, grad] = inputs else { return None };
        let through = |inputs: &[NodeId]| [inputs, &[y]].concat();
        if let Some((&conv, inputs)) = self.alone::<Conv2dGradInput>(grad).filter(|_| has(Fusion::ReluGrad)) {
            return Some((Arc::new(ThenReluGrad(conv)), through(inputs)));
        }
        if let Some((&conv, inputs)) = self.alone::<ConvTranspose2dGradInput>(grad).filter(|_| has(Fusion::ReluGrad)) {
            return Some((Arc::new(ThenReluGrad(conv)), through(inputs)));
        }
        if !has(Fusion::Pooling) {
            return None;
        }
        let (_, summands) = self.alone::<Add>(grad)?;
        let &[skip, pool] = summands else { return None };
        let (&pool, pool_inputs) = self.alone::<MaxPool2dGrad>(pool)?;
        let &[pooled, grad_pooled] = pool_inputs else { return None };
        let (crop, grad_skip) = match self.alone::<Pad>(skip) {
            Some((&crop, &[grad_skip])) if crop.keeps_channels() => (crop, grad_skip),
            // A skip that is used whole.
            _ => (Pad::default(), skip),
        };
        let op = MaxPool2dGradSkip { pool, crop };
        (pooled == y).then(|| (Arc::new(op) as Arc<dyn AnyOp>, vec![y, grad_pooled, grad_skip]))
    }

    /// The op of a node and its inputs, if it is an `O` and used once.
    fn alone<O: Any>(&self, node: NodeId) -> Option<(&O, &[NodeId])> {
        let NodeKind::Op { op, inputs } = &self.graph.node(node).kind else { return None };
        is::<O>(op.as_ref()).filter(|_| self.uses[node.0] == 1).map(|op| (op, inputs.as_slice()))
    }
}

fn is<O: Any>(op: &dyn AnyOp) -> Option<&O> {
    op.as_any().downcast_ref()
}

#[cfg(test)]
mod tests {
    use crate::models::{Training, UNet, Variant};
    use crate::ops::Conv2d;
    use crate::shape::TensorType;
    use crate::{Graph, graph::Init, graph::NodeKind};
    use std::collections::BTreeMap;

    /// How many nodes of each op are computed.
    fn computed(graph: &Graph) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for (node, _) in graph.nodes().iter().zip(graph.needed()).filter(|(_, needed)| *needed) {
            if let NodeKind::Op { op, .. } = &node.kind {
                *counts.entry(op.name()).or_default() += 1;
            }
        }
        counts
    }

    #[test]
    fn a_training_step_keeps_no_relu_and_no_gradient_of_one() {
        let net = UNet { variant: Variant::Unet, in_channels: 1, classes: 2, base_channels: 2, depth: 3, dropout: 0.0 };
        let side = net.smallest_side();
        let step = net.build(1, [side; 2]).unwrap().training_step(&Training::default()).unwrap();
        let (before, after) = (computed(&step.graph), computed(&step.graph.fused()));
        assert_eq!(before["relu"], 14);
        for gone in ["relu", "relu_grad", "add", "max_pool2d_grad"] {
            assert!(before.contains_key(gone) && !after.contains_key(gone), "{gone}: {after:?}");
        }
        assert_eq!((after["conv2d"], after["conv2d_relu"]), (1, 14), "the head has no ReLU");
        assert_eq!(
            after["conv2d_grad_input_relu_grad"], 8,
            "one behind each block's second convolution, and the head's"
        );
        assert_eq!(after["conv_transpose2d_grad_input_relu_grad"], 3);
        assert_eq!(after["max_pool2d_grad_skip"], 3);
        assert_eq!((before["pad"], after["pad"]), (9, 6), "what is left is the halves of gradients");
        assert_eq!(computed(&step.graph.fused().fused()), after, "there is nothing left to fuse");
    }

    #[test]
    fn what_something_else_uses_stays() {
        let mut graph = Graph::new();
        let x = graph.input("x", TensorType::f32([1, 5, 5, 2]).unwrap());
        let weight = graph.parameter("weight", [3, 3, 2, 2], Init::Zeros).unwrap();
        let conv = graph.conv2d("conv", x, weight, None, Conv2d::default()).unwrap();
        let relu = graph.relu("relu", conv).unwrap();
        graph.mark_output("relu", relu).unwrap();
        assert_eq!(computed(&graph.fused()), BTreeMap::from([("conv2d_relu", 1)]));
        graph.mark_output("conv", conv).unwrap();
        assert_eq!(computed(&graph.fused()), BTreeMap::from([("conv2d", 1), ("relu", 1)]));
    }
}
