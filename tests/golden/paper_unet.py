"""The paper's U-Net in PyTorch, with the names that tilewise gives its parameters."""

import torch
import torch.nn.functional as F
from torch import nn


class Pair(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3)

    def forward(self, x):
        return torch.relu(self.conv2(torch.relu(self.conv1(x))))


class Decoder(Pair):
    def __init__(self, channels):
        super().__init__(2 * channels, channels)
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)

    def forward(self, x, skip):
        x = self.up(x)
        top, left = ((skip.shape[axis] - x.shape[axis]) // 2 for axis in (2, 3))
        skip = skip[:, :, top : top + x.shape[2], left : left + x.shape[3]]
        return super().forward(torch.cat([skip, x], 1))


class UNet(nn.Module):
    """Level 0 is the finest."""

    def __init__(self, channels, classes, base, depth):
        super().__init__()
        widths = [base << level for level in range(depth + 1)]
        self.depth = depth
        for level in range(depth):
            self.add_module(f"encoder{level}", Pair(widths[level - 1] if level else channels, widths[level]))
            self.add_module(f"decoder{level}", Decoder(widths[level]))
        self.bottleneck = Pair(widths[-2], widths[-1])
        self.head = nn.Conv2d(base, classes, 1)

    def forward(self, x):
        skips = []
        for level in range(self.depth):
            skips.append(self.get_submodule(f"encoder{level}")(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.bottleneck(x)
        for level in reversed(range(self.depth)):
            x = self.get_submodule(f"decoder{level}")(x, skips[level])
        return self.head(x)
