"""Writes what PyTorch makes of each network that `--model` names: logits, loss, every gradient, running statistics, in float64 on the CPU.

Run from anywhere, with torch, safetensors and numpy from PyPI: python3 tests/golden/make_models.py

The networks are defined here from their published descriptions, with the names that their authors' files have. As in make_golden.py, what goes
in is rounded to float32 first. `python3 tests/golden/make_models.py SEEDS` tries so many seeds for each network and prints how far each stays
from a kink; the seeds below are those that stay farthest.
"""

import sys

import torch
import torch.nn.functional as F
from torch import nn

from make_golden import IGNORE, Random, cross_entropy, given, result, save


# PyTorch's defaults, as float32 numbers.
EPS, MOMENTUM = torch.tensor([1e-5, 0.1]).tolist()


class Net(nn.Module):
    """Layers by their dotted names, made when they are first met."""

    def __init__(self, base, depth, classes):
        super().__init__()
        self.base, self.depth, self.classes = base, depth, classes
        self.margin = float("inf")

    def note(self, distances):
        """How far the network is from a kink, where float32 might take the other branch; exact ties are ties everywhere."""
        self.margin = min([self.margin, *distances[distances > 0].detach()])

    def relu(self, x):
        self.note(x.abs())
        return F.relu(x)

    def pool(self, x):
        first, second = x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2).topk(2).values.unbind(-1)
        self.note(first - second)
        return F.max_pool2d(x, 2)

    def layer(self, name, make):
        parent, *path = self, *name.split(".")
        for part in path[:-1]:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent._modules[part]
        if path[-1] not in parent._modules:
            parent.add_module(path[-1], make().double())
        return parent._modules[path[-1]]

    def convolution(self, name, x, channels, size=3, padding=0, bias=True):
        return self.layer(name, lambda: nn.Conv2d(x.shape[1], channels, size, padding=padding, bias=bias))(x)

    def conv_relu(self, name, x, channels):
        return self.relu(self.convolution(name, x, channels))

    def conv_norm_relu(self, name, norm, x, channels, **settings):
        x = self.convolution(name, x, channels, **settings)
        return self.relu(self.layer(norm, lambda: nn.BatchNorm2d(channels, eps=EPS, momentum=MOMENTUM))(x))

    def up_conv(self, name, x, channels):
        return self.layer(name, lambda: nn.ConvTranspose2d(x.shape[1], channels, 2, stride=2))(x)

    def channels(self, level):
        return self.base << level


def crop(x, like):
    top, left = ((x.shape[axis] - like.shape[axis]) // 2 for axis in (2, 3))
    return x[:, :, top : top + like.shape[2], left : left + like.shape[3]]


class Release(Net):
    """phseg_v5, with our names, as the release's are those of Caffe layers."""

    def pair(self, name, x, channels):
        return self.conv_relu(f"{name}.conv2", self.conv_relu(f"{name}.conv1", x, channels), channels)

    def forward(self, x):
        skips = []
        for level in range(self.depth):
            skips.append(self.pair(f"encoder{level}", x, self.channels(level)))
            x = self.pool(skips[-1])
        x = self.pair("bottleneck", x, self.channels(self.depth))
        for level in reversed(range(self.depth)):
            x = self.relu(self.up_conv(f"decoder{level}.up", x, self.channels(max(level, 1))))
            x = self.pair(f"decoder{level}", torch.cat([x, crop(skips[level], x)], 1), self.channels(level))
        return self.convolution("head", x, self.classes, 1)


class Milesial(Net):
    bilinear = False

    def pair(self, name, x, middle, channels):
        for index, width in ((0, middle), (3, channels)):
            names = (f"{name}.double_conv.{index + number}" for number in (0, 1))
            x = self.conv_norm_relu(*names, x, width, padding=1, bias=False)
        return x

    def forward(self, x):
        skips = []
        x = self.pair("inc", x, self.channels(0), self.channels(0))
        for level in range(1, self.depth + 1):
            skips.append(x)
            channels = self.channels(level) // (2 if self.bilinear and level == self.depth else 1)
            x = self.pair(f"down{level}.maxpool_conv.1", self.pool(x), channels, channels)
        for level in reversed(range(self.depth)):
            name = f"up{self.depth - level}"
            if self.bilinear:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            else:
                x = self.up_conv(f"{name}.up", x, self.channels(level))
            channels = self.channels(level) // (2 if self.bilinear and level > 0 else 1)
            x = self.pair(f"{name}.conv", torch.cat([skips[level], x], 1), self.channels(level), channels)
        return self.convolution("outc.conv", x, self.classes, 1)


class MilesialBilinear(Milesial):
    bilinear = True


class Brain(Net):
    def pair(self, name, x, channels):
        for index in (1, 2):
            x = self.conv_norm_relu(f"{name}conv{index}", f"{name}norm{index}", x, channels, padding=1, bias=False)
        return x

    def forward(self, x):
        skips = []
        for level in range(self.depth):
            skips.append(self.pair(f"encoder{level + 1}.enc{level + 1}", x, self.channels(level)))
            x = self.pool(skips[-1])
        x = self.pair("bottleneck.bottleneck", x, self.channels(self.depth))
        for level in reversed(range(self.depth)):
            x = torch.cat([self.up_conv(f"upconv{level + 1}", x, self.channels(level)), skips[level]], 1)
            x = self.pair(f"decoder{level + 1}.dec{level + 1}", x, self.channels(level))
        return self.convolution("conv", x, 1, 1)


class Semseg(Net):
    def down(self, name, x, channels):
        for conv in ("conv1", "conv2"):
            x = self.conv_norm_relu(f"{name}.{conv}.0", f"{name}.{conv}.1", x, channels)
        return x

    def forward(self, x):
        resize = lambda x, like: F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)
        skips, image = [], x
        for level in range(self.depth):
            skips.append(self.down(f"down{level + 1}", x, self.channels(level)))
            x = self.pool(skips[-1])
        x = self.down("center", x, self.channels(self.depth))
        for level in reversed(range(self.depth)):
            x = self.up_conv(f"up{level + 1}.upConv", x, self.channels(level))
            x = torch.cat([resize(skips[level], x), x], 1)
            for conv in ("conv1", "conv2"):
                x = self.conv_relu(f"up{level + 1}.{conv}.0", x, self.channels(level))
        return resize(self.convolution("classifier", x, self.classes, 1), image)


# Network, settings, seed. The last needs no even sides, and has odd ones.
NETWORKS = {
    "unet-release": (Release, {"classes": 3, "base": 2, "depth": 2, "size": [44, 48]}, 68),
    "milesial": (Milesial, {"classes": 3, "base": 2, "depth": 2, "size": [16, 20]}, 68),
    "milesial-bilinear": (MilesialBilinear, {"classes": 3, "base": 2, "depth": 2, "size": [16, 20]}, 38),
    "brain": (Brain, {"classes": 2, "base": 2, "depth": 2, "size": [16, 20]}, 45),
    "semseg": (Semseg, {"classes": 3, "base": 2, "depth": 2, "batch": 1, "size": [45, 46]}, 58),
}


def initialise(net, random):
    """Variances that keep the signal's, biases and statistics that are no special values."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            transposed = isinstance(module, nn.ConvTranspose2d)
            terms = module.in_channels if transposed else module.weight[0].numel()
            with torch.no_grad():
                module.weight.copy_(random.normal(*module.weight.shape, std=(2 / terms) ** 0.5))
                if module.bias is not None:
                    module.bias.copy_(random.normal(*module.bias.shape, std=0.1))
        elif isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.copy_(random.uniform(*module.weight.shape, low=0.5, high=1.5))
                module.bias.copy_(random.normal(*module.bias.shape, std=0.5))
                module.running_mean.copy_(random.normal(*module.running_mean.shape))
                module.running_var.copy_(random.uniform(*module.running_var.shape, low=0.5, high=2.0))


def scores(logits):
    """Two scores of one: those of background are 0."""
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits


def state(net, prefix):
    return {f"{prefix}.{name}": value for name, value in net.state_dict().items() if "num_batches" not in name}


def compute(name, seed):
    """Everything about a network; its settings, its tensors, and how far it stays from a kink in training and at inference."""
    make, settings, _ = NETWORKS[name]
    settings = {"model": name, "channels": 2, "batch": 2, "ignore_label": IGNORE, **settings}
    random = Random(seed)
    net = make(settings["base"], settings["depth"], settings["classes"]).double()
    x = random.normal(settings["batch"], settings["channels"], *settings["size"])
    net(x)
    initialise(net, random)
    net.margin = float("inf")
    tensors = {"input": given(x)} | {key: given(value) for key, value in state(net, "param").items()}
    with torch.no_grad():
        tensors["inference_logits"] = result(scores(net.eval()(x)))
    x.requires_grad_(True)
    logits = scores(net.train()(x))
    labels = random.integers(0, settings["classes"], settings["batch"], *logits.shape[2:])
    labels[random.uniform(*labels.shape) < 0.1] = IGNORE
    weights = random.uniform(*labels.shape, low=0.5, high=3.0)
    loss = cross_entropy(logits, labels, weights)["weighted_mean"]
    loss.backward()
    tensors |= {"labels": given(labels), "pixel_weights": given(weights), "logits": result(logits), "loss": result(loss)}
    tensors |= {"grad.input": result(x.grad)}
    tensors |= {f"grad.{name}": result(param.grad) for name, param in net.named_parameters()}
    tensors |= {key: result(value) for key, value in state(net, "after").items() if ".running_" in key}
    return settings, tensors, float(net.margin)


def main():
    torch.set_num_threads(1)
    for name, (_, _, seed) in NETWORKS.items():
        if len(sys.argv) > 1:
            margins = {seed: compute(name, seed)[2] for seed in range(1, int(sys.argv[1]) + 1)}
            best = max(margins, key=margins.get)
            print(f"{name}: seed {best} stays {margins[best]:.1e} away from the nearest kink")
            continue
        settings, tensors, margin = compute(name, seed)
        save(f"{name}.safetensors", tensors, {"network": settings})
        print(f"  logits {tuple(tensors['logits'].shape)}, loss {tensors['loss'].item():.6f}, kinks {margin:.1e} away")


if __name__ == "__main__":
    main()
