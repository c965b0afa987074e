"""Writes the values that the tests compare with, computed by PyTorch on the CPU in float64.

Run from anywhere, with torch, safetensors and numpy from PyPI: python3 tests/golden/make_golden.py

Everything that goes in (images, weights, parameters, cotangents) is rounded to float32 first and stored as such, so that
a float32 engine starts from the very same numbers; everything that comes out is stored as float64.
"""

import itertools
import json
import os

import torch
import torch.nn.functional as F
from paper_unet import UNet
from safetensors.torch import save_file
from torch import nn

FOLDER = os.path.dirname(os.path.abspath(__file__))
IGNORE = 255


class Random:
    """Draws float64 tensors whose values are float32 numbers."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape, std=1.0):
        return (torch.randn(shape, generator=self.generator, dtype=torch.float64) * std).float().double()

    def uniform(self, *shape, low=0.0, high=1.0):
        values = torch.rand(shape, generator=self.generator, dtype=torch.float64) * (high - low) + low
        return values.float().double()

    def integers(self, low, high, *shape):
        return torch.randint(low, high, shape, generator=self.generator)


def given(tensor):
    """As stored: float32 for what goes in, bytes for labels."""
    return tensor.detach().clone().contiguous().to(torch.float32 if tensor.is_floating_point() else torch.uint8)


def result(tensor):
    return tensor.detach().clone().contiguous()


def save(name, tensors, settings):
    path = os.path.join(FOLDER, name)
    settings = {"torch": torch.__version__.split("+")[0], **settings}
    save_file(tensors, path, {"settings": json.dumps(settings)})
    os.chmod(path, 0o644)
    print(f"{name}: {len(tensors)} tensors, {os.path.getsize(path):,} bytes")


def cross_entropy(logits, labels, weights):
    """The weighted cross-entropy over the pixels that are not ignored, reduced in three ways."""
    kept = labels != IGNORE
    terms = weights * F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORE)
    total = terms[kept].sum()
    return {"sum": total, "pixel_mean": total / kept.sum(), "weighted_mean": total / weights[kept].sum()}


def initialise(net, random):
    """He-normal, with the mean taken out of every filter: otherwise many deep channels are dead, and a gradient of zero
    tests nothing."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            transposed = isinstance(module, nn.ConvTranspose2d)
            terms = module.in_channels if transposed else module.weight[0].numel()
            weight = random.normal(*module.weight.shape, std=((1 if transposed else 2) / terms) ** 0.5)
            if terms > 9 and not transposed:
                weight -= weight.mean((1, 2, 3), keepdim=True)
            with torch.no_grad():
                module.weight.copy_(weight.float())
                module.bias.copy_(random.normal(*module.bias.shape, std=0.05))


def blobs(random, batch, size):
    """Smooth random images with some noise, and their three levels of brightness as classes."""
    coarse = random.normal(batch, 1, size // 8, size // 8)
    smooth = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)
    smooth = smooth / smooth.std()
    labels = (smooth > -0.4).long() + (smooth > 0.4).long()
    return (smooth + random.normal(batch, 1, size, size, std=0.3)).float().double(), labels[:, 0]


class Margin:
    """How far the network is from a kink: the smallest |x| at a ReLU and the smallest lead of a pooling's maximum. Where
    this is well above float32's rounding, a float32 engine takes the same branches everywhere. Exact ties do not count:
    over a patch of zeros every engine finds the same bias."""

    def __init__(self, net):
        self.least = float("inf")
        for name, module in net.named_modules():
            if isinstance(module, nn.Conv2d) and name != "head":
                module.register_forward_hook(lambda _module, _input, output: self.note(output.abs()))
            if name.startswith("encoder") and isinstance(module, Pair):
                module.register_forward_hook(lambda _module, _input, output: self.pooled(output))

    def note(self, distances):
        self.least = min(self.least, distances.min().item())

    def pooled(self, x):
        windows = x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)
        first, second = windows.topk(2).values.detach().unbind(-1)
        leads = first - second
        self.note(leads[leads > 0])


def unet_small():
    settings = {"channels": 1, "classes": 3, "base": 4, "depth": 2, "size": 60, "batch": 2, "ignore_label": IGNORE}
    optimiser = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3, "steps": 10}
    random = Random(33)
    net = UNet(*(settings[key] for key in ("channels", "classes", "base", "depth"))).double()
    initialise(net, random)
    margin = Margin(net)

    x, labels = blobs(random, settings["batch"], settings["size"])
    x.requires_grad_(True)
    logits = net(x)
    border = (x.shape[2] - logits.shape[2]) // 2
    labels = labels[:, border:-border, border:-border].clone()
    labels[random.uniform(*labels.shape) < 0.1] = IGNORE
    weights = random.uniform(*labels.shape, low=0.5, high=3.0)
    losses = cross_entropy(logits, labels, weights)
    losses["pixel_mean"].backward()

    tensors = {"input": given(x), "labels": given(labels), "pixel_weights": given(weights), "logits": result(logits)}
    tensors |= {f"loss.{name}": result(loss) for name, loss in losses.items()}
    tensors |= {f"param.{name}": given(param) for name, param in net.named_parameters()}
    tensors |= {f"grad.{name}": result(param.grad) for name, param in net.named_parameters()}
    tensors["grad.input"] = result(x.grad)
    at_start = margin.least

    sgd = torch.optim.SGD(net.parameters(), **{key: value for key, value in optimiser.items() if key != "steps"})
    history = []
    for _ in range(optimiser["steps"]):
        sgd.zero_grad()
        loss = cross_entropy(net(x.detach()), labels, weights)["pixel_mean"]
        loss.backward()
        sgd.step()
        history.append(loss.item())
    tensors["training_losses"] = torch.tensor(history, dtype=torch.float64)
    tensors |= {f"trained.{name}": result(param) for name, param in net.named_parameters()}

    save("unet_small.safetensors", tensors, {"network": settings, "training": optimiser})
    print(f"  logits {tuple(logits.shape)}, {(labels == IGNORE).sum()} of {labels.numel()} pixels ignored")
    print("  losses " + ", ".join(f"{name} {loss.item():.9f}" for name, loss in losses.items()))
    print("  training " + " ".join(f"{loss:.4f}" for loss in history))
    print(f"  margin from the nearest kink {at_start:.1e}, in training {margin.least:.1e}")
    gradients = torch.cat([tensors[f"grad.{name}"].flatten() for name, _ in net.named_parameters()])
    print(f"  {gradients.numel()} parameters, {(gradients == 0).sum()} with a gradient of zero")


# Single ops.


def conv_case(random, op, shape, weight_shape, stride, padding=0):
    x = random.normal(*shape).requires_grad_(True)
    weight = random.normal(*weight_shape, std=0.3).requires_grad_(True)
    transposed = op == "conv_transpose2d"
    bias = random.normal(weight_shape[1 if transposed else 0], std=0.3).requires_grad_(True)
    y = getattr(F, op)(x, weight, bias, stride=stride, padding=padding)
    cotangent = random.normal(*y.shape)
    y.backward(cotangent)
    tensors = {
        "x": given(x),
        "weight": given(weight),
        "bias": given(bias),
        "y": result(y),
        "cotangent": given(cotangent),
        "grad.x": result(x.grad),
        "grad.weight": result(weight.grad),
        "grad.bias": result(bias.grad),
    }
    return {"op": op, "kernel": list(weight_shape[2:]), "stride": stride, "padding": padding}, tensors


def unary_case(random, settings, x, function):
    x.requires_grad_(True)
    y = function(x)
    cotangent = random.normal(*y.shape)
    y.backward(cotangent)
    return settings, {"x": given(x), "y": result(y), "cotangent": given(cotangent), "grad.x": result(x.grad)}


def resize_case(random, mode, align_corners, extents):
    x = random.normal(2, 3, 5, 7)
    settings = {"op": "resize", "mode": mode, "align_corners": align_corners, "extents": list(extents)}
    return unary_case(random, settings, x, lambda x: F.interpolate(x, extents, mode=mode, align_corners=align_corners))


def prelu_case(random, slopes):
    x, slope = random.normal(2, 3, 5, 7).requires_grad_(True), random.normal(slopes, std=0.3).requires_grad_(True)
    y = F.prelu(x, slope)
    cotangent = random.normal(*y.shape)
    y.backward(cotangent)
    tensors = {"x": given(x), "slope": given(slope), "y": result(y), "cotangent": given(cotangent)}
    return {"op": "prelu"}, tensors | {"grad.x": result(x.grad), "grad.slope": result(slope.grad)}


def norm_case(random, settings, function):
    """A normalisation with a cross-entropy behind it; `function` may change the running statistics."""
    x = (random.normal(2, 6, 5, 7) + random.normal(1, 6, 1, 1, std=2.0)).float().double().requires_grad_(True)
    weight, bias = random.normal(6).requires_grad_(True), random.normal(6).requires_grad_(True)
    running = {"running_mean": random.normal(6), "running_var": random.uniform(6, low=0.5, high=2.0)}
    tensors = {name: given(value) for name, value in running.items()}
    labels = random.integers(0, 6, 2, 5, 7)
    y = function(x, weight, bias, running["running_mean"], running["running_var"])
    loss = F.cross_entropy(y, labels, reduction="sum")
    loss.backward()
    tensors |= {"x": given(x), "weight": given(weight), "bias": given(bias), "labels": given(labels)}
    tensors |= {"y": result(y), "loss": result(loss)} | {f"after.{name}": result(value) for name, value in running.items()}
    tensors |= {"grad.x": result(x.grad), "grad.weight": result(weight.grad), "grad.bias": result(bias.grad)}
    return {"op": "batch_norm", **settings}, tensors


def batch_norm_case(random, training):
    settings = {"training": training, "momentum": 0.25, "eps": 2**-10}
    return norm_case(
        random,
        settings,
        lambda x, weight, bias, mean, var: F.batch_norm(
            x, mean, var, weight, bias, training, settings["momentum"], settings["eps"]
        ),
    )


def group_norm_case(random, groups):
    settings = {"groups": groups, "eps": 2**-10}
    return norm_case(
        random, settings, lambda x, weight, bias, mean, var: F.group_norm(x, groups, weight, bias, settings["eps"])
    )


def binary_cross_entropy_case(random):
    logits = random.normal(2, 1, 5, 6, std=4.0).requires_grad_(True)
    labels = random.integers(0, 2, 2, 5, 6)
    labels[random.uniform(2, 5, 6) < 0.2] = IGNORE
    weights = random.uniform(2, 5, 6, low=0.2, high=5.0)
    tensors = {"logits": given(logits), "labels": given(labels), "pixel_weights": given(weights)}
    kept = labels != IGNORE
    terms = F.binary_cross_entropy_with_logits(logits[:, 0][kept], labels[kept].double(), weights[kept], reduction="sum")
    for name, count in {"sum": 1, "pixel_mean": kept.sum(), "weighted_mean": weights[kept].sum()}.items():
        loss = terms / count
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        tensors |= {f"loss.{name}": result(loss), f"grad.logits.{name}": result(gradient)}
    return {"op": "binary_cross_entropy", "ignore_label": IGNORE}, tensors


def cross_entropy_case(random):
    logits = random.normal(2, 4, 5, 6, std=2.0).requires_grad_(True)
    labels = random.integers(0, 4, 2, 5, 6)
    labels[random.uniform(2, 5, 6) < 0.2] = IGNORE
    weights = random.uniform(2, 5, 6, low=0.2, high=5.0)
    tensors = {"logits": given(logits), "labels": given(labels), "pixel_weights": given(weights)}
    for name, loss in cross_entropy(logits, labels, weights).items():
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        tensors |= {f"loss.{name}": result(loss), f"grad.logits.{name}": result(gradient)}
    return {"op": "cross_entropy", "ignore_label": IGNORE}, tensors


def dice_case(random):
    """The soft Dice loss over the foreground classes, each pooled over the batch; no pixel of class 3 is there."""
    smoothing = 0.5
    logits = random.normal(2, 4, 5, 6, std=2.0).requires_grad_(True)
    labels = random.integers(0, 3, 2, 5, 6)
    labels[random.uniform(2, 5, 6) < 0.2] = IGNORE
    weights = random.uniform(2, 5, 6, low=0.2, high=5.0)
    weights[random.uniform(2, 5, 6) < 0.2] = 0
    kept = (labels != IGNORE) & (weights != 0)
    overlaps = []
    for label in range(1, 4):
        p, g = logits.softmax(1)[:, label][kept], (labels == label)[kept].double()
        overlaps.append((2 * (p * g).sum() + smoothing) / (p.sum() + g.sum() + smoothing))
    loss = 1 - torch.stack(overlaps).mean()
    loss.backward()
    tensors = {"logits": given(logits), "labels": given(labels), "pixel_weights": given(weights)}
    tensors |= {"loss": result(loss), "grad.logits": result(logits.grad)}
    return {"op": "dice", "smoothing": smoothing, "ignore_label": IGNORE}, tensors


def optimiser_case(random, op, optimiser, settings, states):
    """Three updates; the settings are float32 numbers."""
    settings = {name: torch.tensor(value).double().tolist() for name, value in settings.items()}
    param = nn.Parameter(random.normal(37))
    tensors = {"param": given(param)}
    optimiser = optimiser([param], **settings)
    for step in (1, 2, 3):
        param.grad = random.normal(37)
        optimiser.step()
        tensors |= {f"grad{step}": given(param.grad), f"after{step}": result(param)}
    tensors |= {state: result(optimiser.state[param][state]) for state in states}
    return {"op": op, **settings}, tensors


def clip_grad_norm_case(random):
    """Two parameters, their gradients clipped to less and to more than they have."""
    params = [nn.Parameter(torch.zeros(count, dtype=torch.float64)) for count in (37, 5)]
    tensors, settings = {}, {"op": "clip_grad_norm", "max_norm.less": 2.5, "max_norm.more": 100.0}
    gradients = [random.normal(len(param)) for param in params]
    for case in ("less", "more"):
        for param, gradient in zip(params, gradients):
            param.grad = gradient.clone()
        norm = nn.utils.clip_grad_norm_(params, settings[f"max_norm.{case}"])
        tensors |= {f"norm.{case}": result(norm)}
        tensors |= {f"clipped{index}.{case}": result(param.grad) for index, param in enumerate(params)}
    tensors |= {f"grad{index}": given(gradient) for index, gradient in enumerate(gradients)}
    return settings, tensors


def ops():
    random = Random(7)
    sgd = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    adam = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-3, "weight_decay": 0.1}
    moments = ("exp_avg", "exp_avg_sq")
    pool = {"op": "max_pool2d", "kernel": [2, 2], "stride": 2, "ties": "the first maximum in row order takes the gradient"}
    cases = {
        "conv3x3": conv_case(random, "conv2d", (2, 3, 9, 8), (5, 3, 3, 3), 1),
        "conv3x3_pad1": conv_case(random, "conv2d", (1, 4, 6, 7), (4, 4, 3, 3), 1, 1),
        "conv3x3_pad1_stride2": conv_case(random, "conv2d", (2, 3, 9, 8), (6, 3, 3, 3), 2, 1),
        "conv5x4": conv_case(random, "conv2d", (1, 2, 11, 9), (3, 2, 5, 4), 1),
        "conv5x4_pad2_stride3": conv_case(random, "conv2d", (1, 2, 11, 9), (3, 2, 5, 4), 3, 2),
        "conv1x1": conv_case(random, "conv2d", (2, 6, 5, 4), (3, 6, 1, 1), 1),
        "conv2x2_stride2": conv_case(random, "conv2d", (1, 3, 7, 6), (4, 3, 2, 2), 2),
        "conv3x3_wide": conv_case(random, "conv2d", (1, 17, 6, 5), (8, 17, 3, 3), 1),
        "up2x2": conv_case(random, "conv_transpose2d", (2, 4, 5, 6), (4, 3, 2, 2), 2),
        "up2x2_wide": conv_case(random, "conv_transpose2d", (1, 16, 3, 4), (16, 8, 2, 2), 2),
        "max_pool": unary_case(random, pool, random.normal(2, 3, 6, 8), lambda x: F.max_pool2d(x, 2)),
        "max_pool_ties": unary_case(
            random, pool, random.integers(-2, 3, 2, 3, 8, 6).double() / 2, lambda x: F.max_pool2d(x, 2)
        ),
        "softmax": unary_case(
            random, {"op": "softmax", "axis": "channels"}, random.normal(2, 5, 3, 4, std=3.0), lambda x: x.softmax(1)
        ),
        "cross_entropy": cross_entropy_case(random),
        "sgd": optimiser_case(random, "sgd", torch.optim.SGD, sgd, ("momentum_buffer",)),
        "adam": optimiser_case(random, "adam", torch.optim.Adam, adam, moments),
        "adamw": optimiser_case(random, "adam", torch.optim.AdamW, adam, moments),
        "clip_grad_norm": clip_grad_norm_case(random),
        "dice": dice_case(random),
        "resize_aligned": resize_case(random, "bilinear", True, (11, 4)),
        "resize_unaligned": resize_case(random, "bilinear", False, (11, 4)),
        "resize_smaller": resize_case(random, "bilinear", False, (2, 3)),
        "resize_nearest": resize_case(random, "nearest", None, (10, 3)),
        "pad": unary_case(
            random, {"op": "pad", "margins": [1, -2, 3, 0]}, random.normal(2, 3, 5, 7), lambda x: F.pad(x, (1, -2, 3, 0))
        ),
        "sigmoid": unary_case(random, {"op": "sigmoid"}, random.normal(2, 3, 5, 7, std=4.0), torch.sigmoid),
        "prelu": prelu_case(random, 3),
        "prelu_single": prelu_case(random, 1),
        "batch_norm": batch_norm_case(random, True),
        "batch_norm_inference": batch_norm_case(random, False),
        "group_norm": group_norm_case(random, 2),
        "instance_norm": group_norm_case(random, 6),
        "binary_cross_entropy": binary_cross_entropy_case(random),
    }
    tensors = {f"{case}.{key}": value for case, (_, values) in cases.items() for key, value in values.items()}
    save("ops.safetensors", tensors, {"cases": {case: settings for case, (settings, _) in cases.items()}})
    for case, (settings, values) in cases.items():
        shown = itertools.islice(((key, tuple(value.shape)) for key, value in values.items()), 2)
        print(f"  {case}: " + ", ".join(f"{key} {shape}" for key, shape in shown))


def torch_file():
    """A checkpoint as training scripts write it, by torch.save: a wrapped convolution and a counter, an optimiser's state, and what is no tensor."""
    weight = torch.arange(120, dtype=torch.float32).reshape(5, 4, 3, 2)
    model = {"module.conv.weight": weight, "module.conv.bias": torch.arange(5).half(), "module.norm.num_batches_tracked": torch.tensor(7)}
    checkpoint = {"epoch": 3, "state_dict": model, "optimizer": {"state": {0: {"exp_avg": -weight}}}, "mask_values": [0, 255]}
    torch.save(checkpoint, os.path.join(FOLDER, "conv.pt"))
    # A weight that repeats one number, which the file holds once.
    torch.save({"conv.weight": torch.ones(1).expand(5, 4, 3, 200), "conv.bias": torch.ones(5)}, os.path.join(FOLDER, "repeated.pt"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    unet_small()
    ops()
    torch_file()
