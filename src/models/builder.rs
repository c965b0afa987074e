//! What networks are built of.

use crate::error::Result;
use crate::graph::{Graph, Init, NodeId};
use crate::ops::{BatchNormParameters, BatchNormSettings, Conv2d, Dropout};

/// A graph under construction.
pub(super) struct Builder {
    pub(super) graph: Graph,
    /// Whether batch norms take the batch's statistics and track them, rather than the running ones.
    pub(super) training: bool,
    /// The dropout rate, and the state that it draws from.
    pub(super) dropout: Option<(f32, NodeId)>,
    /// How many dropouts there are so far; each draws from a stream of its own.
    pub(super) dropouts: u32,
    pub(super) start: Start,
}

/// How weights and biases of convolutions start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// N(0, √(2/N)) with N the number of terms that one output sums, biases at 0 (He et al. 2015; the paper).
    He,
    /// As He's, but of an up-convolution with N four times its output channels, as the release's patched Caffe counts.
    Release,
    /// Uniform within ±1/√N, biases too, N being what `PyTorch` counts: of an up-convolution four times its output channels.
    PyTorch,
}

/// A convolution's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Conv {
    pub(super) kernel_size: usize,
    /// On each side.
    pub(super) padding: usize,
    pub(super) bias: bool,
}

impl Conv {
    /// 3×3 without padding.
    pub(super) const VALID: Self = Self { kernel_size: 3, padding: 0, bias: true };
    /// 3×3 with padding and without bias, which a batch norm behind it would take out.
    pub(super) const SAME: Self = Self { kernel_size: 3, padding: 1, bias: false };
    /// 1×1, from features to scores.
    pub(super) const HEAD: Self = Self { kernel_size: 1, padding: 0, bias: true };
}

impl Builder {
    /// Weight and, where asked for, bias of a convolution.
    fn weights(
        &mut self,
        name: &str,
        weight: [usize; 4],
        transposed: bool,
        bias: bool,
    ) -> Result<(NodeId, Option<NodeId>)> {
        let [height, width, c_in, c_out] = weight;
        // Outputs of an up-convolution do not overlap: each sums a product a channel.
        let terms = match (self.start, transposed) {
            (Start::He, true) => c_in,
            (_, true) => height * width * c_out,
            (_, false) => height * width * c_in,
        };
        let (init, bias_init) = match self.start {
            Start::He | Start::Release => (Init::Normal((2.0 / terms as f32).sqrt()), Init::Zeros),
            Start::PyTorch => {
                let uniform = Init::Uniform(1.0 / (terms as f32).sqrt());
                (uniform, uniform)
            }
        };
        let weight = self.graph.parameter(&format!("{name}.weight"), weight, init)?;
        let bias = bias.then(|| self.graph.parameter(&format!("{name}.bias"), [c_out], bias_init)).transpose()?;
        Ok((weight, bias))
    }

    pub(super) fn conv(&mut self, name: &str, x: NodeId, channels: usize, conv: Conv) -> Result<NodeId> {
        let c_in = self.graph.shape(x).channels();
        let Conv { kernel_size, padding, bias } = conv;
        let (weight, bias) = self.weights(name, [kernel_size, kernel_size, c_in, channels], false, bias)?;
        self.graph.conv2d(name, x, weight, bias, Conv2d { padding: [padding; 2], ..Conv2d::default() })
    }

    /// A convolution and a ReLU.
    pub(super) fn conv_relu(&mut self, name: &str, x: NodeId, channels: usize) -> Result<NodeId> {
        let x = self.conv(name, x, channels, Conv::VALID)?;
        self.graph.relu(&format!("{name}.relu"), x)
    }

    /// The paper's two convolutions.
    pub(super) fn double_conv(&mut self, name: &str, x: NodeId, channels: usize) -> Result<NodeId> {
        let x = self.conv_relu(&format!("{name}.conv1"), x, channels)?;
        self.conv_relu(&format!("{name}.conv2"), x, channels)
    }

    /// A convolution, a batch norm of the name `norm`, and a ReLU.
    pub(super) fn conv_norm_relu(
        &mut self,
        [name, norm]: [&str; 2],
        x: NodeId,
        channels: usize,
        conv: Conv,
    ) -> Result<NodeId> {
        let x = self.conv(name, x, channels, conv)?;
        let mut parameter = |tensor: &str, init| self.graph.parameter(&format!("{norm}.{tensor}"), [channels], init);
        let (weight, bias) = (parameter("weight", Init::Constant(1.0))?, parameter("bias", Init::Zeros)?);
        let mut buffer = |tensor: &str, init| self.graph.buffer(&format!("{norm}.{tensor}"), [channels], init);
        let running_mean = buffer("running_mean", Init::Zeros)?;
        let running_var = buffer("running_var", Init::Constant(1.0))?;
        let parameters = BatchNormParameters { weight, bias, running_mean, running_var };
        let x = self.graph.batch_norm(norm, x, &parameters, self.training, BatchNormSettings::default())?;
        self.graph.relu(&format!("{norm}.relu"), x)
    }

    /// A transposed convolution of twice the size.
    pub(super) fn up_conv(&mut self, name: &str, x: NodeId, channels: usize) -> Result<NodeId> {
        let c_in = self.graph.shape(x).channels();
        let (weight, bias) = self.weights(name, [2, 2, c_in, channels], true, true)?;
        self.graph.conv_transpose2d(name, x, weight, bias)
    }

    pub(super) fn dropout(&mut self, name: &str, x: NodeId) -> Result<NodeId> {
        let Some((rate, generator)) = self.dropout else { return Ok(x) };
        let stream = self.dropouts;
        self.dropouts += 1;
        self.graph.dropout(name, x, generator, Dropout { rate, stream })
    }

    /// Height and width of images.
    pub(super) fn extents(&self, x: NodeId) -> [usize; 2] {
        let extents = self.graph.shape(x).extents();
        [extents[1], extents[2]]
    }
}
