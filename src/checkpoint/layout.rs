//! `PyTorch`'s order of a weight's axes against ours.

use crate::graph::{Graph, NodeKind, Parameter};
use crate::shape::Shape;

/// How `PyTorch` lays out a tensor that we store channels last. `k…` are the extents of the kernel, of any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// As we do: biases and other vectors.
    Same,
    /// Ours `[k…, c_in, c_out]`, theirs `[c_out, c_in, k…]`: convolutions (OIHW) and linear maps.
    Conv,
    /// Ours `[k…, c_in, c_out]`, theirs `[c_in, c_out, k…]`: transposed convolutions (IOHW).
    ConvTranspose,
}

impl Layout {
    /// The layout of a parameter, by the op that takes it as its weight.
    pub(crate) fn of(graph: &Graph, parameter: &Parameter) -> Self {
        let transposed = graph.nodes().iter().any(|node| match &node.kind {
            NodeKind::Op { op, inputs } => op.name() == "conv_transpose2d" && inputs.get(1) == Some(&parameter.node),
            _ => false,
        });
        match parameter.shape.rank() {
            0 | 1 => Self::Same,
            _ if transposed => Self::ConvTranspose,
            _ => Self::Conv,
        }
    }

    /// Our extents in their order.
    pub(crate) fn shape(self, ours: &Shape) -> Vec<usize> {
        match (self, ours.extents()) {
            (Self::Conv, [kernel @ .., c_in, c_out]) => [&[*c_out, *c_in], kernel].concat(),
            (Self::ConvTranspose, [kernel @ .., c_in, c_out]) => [&[*c_in, *c_out], kernel].concat(),
            (_, extents) => extents.to_vec(),
        }
    }

    /// Our elements in their order.
    pub(crate) fn to_pytorch(self, shape: &Shape, ours: &[f32]) -> Vec<f32> {
        let mut theirs = vec![0.0; ours.len()];
        self.pairs(shape, |our, their| theirs[their] = ours[our]);
        theirs
    }

    /// Their elements in our order.
    pub(crate) fn to_ours(self, shape: &Shape, theirs: &[f32], ours: &mut [f32]) {
        self.pairs(shape, |our, their| ours[our] = theirs[their]);
    }

    /// Calls `visit` with the position of each element in our order and in theirs.
    fn pairs(self, shape: &Shape, mut visit: impl FnMut(usize, usize)) {
        let ([.., c_in, c_out], Self::Conv | Self::ConvTranspose) = (shape.extents(), self) else {
            return (0..shape.elements()).for_each(|position| visit(position, position));
        };
        let taps = shape.elements() / (c_in * c_out);
        for tap in 0..taps {
            for i in 0..*c_in {
                for o in 0..*c_out {
                    let pair = if self == Self::Conv { o * c_in + i } else { i * c_out + o };
                    visit((tap * c_in + i) * c_out + o, pair * taps + tap);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The element at `index` of an array of these extents.
    fn at(extents: &[usize], data: &[f32], index: [usize; 4]) -> f32 {
        data[index.iter().zip(extents).fold(0, |position, (i, extent)| position * extent + i)]
    }

    #[test]
    fn every_element_lands_where_pytorch_has_it() {
        let shape = Shape::new([2, 3, 4, 5]).unwrap();
        let ours: Vec<f32> = (0..120_u8).map(f32::from).collect();
        for layout in [Layout::Same, Layout::Conv, Layout::ConvTranspose] {
            let (extents, theirs) = (layout.shape(&shape), layout.to_pytorch(&shape, &ours));
            for (position, &value) in ours.iter().enumerate() {
                let [x, i, o] = [position / 20 % 3, position / 5 % 4, position % 5];
                let y = position / 60;
                let index = match layout {
                    Layout::Same => [y, x, i, o],
                    Layout::Conv => [o, i, y, x],
                    Layout::ConvTranspose => [i, o, y, x],
                };
                assert_eq!(at(&extents, &theirs, index).to_bits(), value.to_bits(), "{layout:?} {index:?}");
            }
            let mut back = vec![0.0; 120];
            layout.to_ours(&shape, &theirs, &mut back);
            assert_eq!(back, ours);
        }
        assert_eq!(Layout::Conv.shape(&shape), [5, 4, 2, 3]);
        assert_eq!(Layout::ConvTranspose.shape(&shape), [4, 5, 2, 3]);
    }
}
