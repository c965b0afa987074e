"""Takes random weights of each network through tilewise and back, and holds the logits of all programs against PyTorch's.

Run from anywhere, after cargo build --release, with torch, safetensors, numpy, onnx and onnxruntime from PyPI:

    mkdir ops && TILEWISE_ONNX=$PWD/ops cargo test --release --test onnx -- --ignored
    python3 tests/golden/roundtrip.py target/release/tilewise ops > docs/roundtrip.md

PyTorch writes a state_dict, of which `tilewise export` makes a safetensors file and ONNX files. The former must be the same tensors to the
bit, and load strictly; the latter must pass ONNX's checker, and ONNX Runtime must give PyTorch's logits, for one image and for several. And
`tilewise predict` must, on a PNG of one tile. From a file of torch.save, `tilewise export` must make the same tensors, and one step of SGD by
`tilewise train --init` must change them as PyTorch's gradients do. ONNX Runtime is also given the ops one by one, against the f64 reference. The networks have the depth of their authors'.
Exits with 1 if a logit differs by more than 1e-4, or a step from PyTorch's by more than 1e-3 of its length.
"""

import glob
import json
import os
import struct
import subprocess
import sys
import tempfile
import zlib

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from make_golden import Random
from paper_unet import UNet
from make_models import NETWORKS, Net, initialise, scores

BOUND = 1e-4
STEP_BOUND = 1e-3

DEPTH, BASE = 4, 16
# Of the step, so large that what it changes has digits to spare.
RATE = 100.0
# How far a network is from a kink says nothing here, and takes long.
Net.note = lambda self, distances: None

# Network, maker, sides of a tile, pixels that the scores lack on each side.
SIZES = {
    "unet": (lambda base, depth, classes: UNet(3, classes, base, depth), [284, 300], 92),
    "unet-release": (NETWORKS["unet-release"][0], [284, 300], 92),
    "milesial": (NETWORKS["milesial"][0], [96, 112], 0),
    "milesial-bilinear": (NETWORKS["milesial-bilinear"][0], [96, 112], 0),
    "brain": (NETWORKS["brain"][0], [96, 112], 0),
    "semseg": (NETWORKS["semseg"][0], [189, 204], 0),
}


def png(path, pixels):
    """A PNG of 16 bits and three channels, or of 8 bits and one."""
    height, width, *colour = pixels.shape
    bits, kind = (16, 2) if colour else (8, 0)
    rows = b"".join(b"\0" + row.astype(">u2" if colour else "u1").tobytes() for row in pixels)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, data in ((b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
            file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))


def prepared(pixels, preprocessing):
    """As tilewise gives images to a network: each channel with mean 0 and deviation 1, or from 0 to 1."""
    pixels = pixels.astype(np.float64)
    unit = preprocessing.startswith("value /")
    pixels = pixels / 65535 if unit else (pixels - pixels.mean((0, 1))) / pixels.std((0, 1))
    return torch.from_numpy(pixels).float().permute(2, 0, 1)[None]


def run(*arguments):
    subprocess.run([TILEWISE, *map(str, arguments), "--quiet"], check=True)


def difference(found, expected):
    return float((torch.as_tensor(found) - expected).abs().max())


def infer(path, images):
    return torch.from_numpy(onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["logits"], {"image": images.numpy()})[0])


def network(make, classes, images):
    net = make(BASE, DEPTH, classes).double()
    # Most make their layers as they meet them.
    net(images[:1].double())
    return net


@torch.no_grad()
def roundtrip(name, folder):
    make, size, halo = SIZES[name]
    classes = 2 if name == "brain" else 3
    random = Random(7)
    images = random.normal(3, 3, *size).float()
    net = network(make, classes, images)
    initialise(net, random)
    net = net.float().eval()
    logits = scores(net(images))
    theirs, ours, dynamic, static = (os.path.join(folder, file) for file in ("theirs.safetensors", "ours.safetensors", "any.onnx", "two.onnx"))
    save_file(net.state_dict(), theirs)
    tile = "x".join(map(str, size))
    run("export", "--weights", theirs, "--safetensors", ours, "--onnx", dynamic, "--tile", tile)
    run("export", "--weights", ours, "--onnx", static, "--tile", tile, "--batch", 2)

    back = load_file(ours)
    state = {key: value for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state), f"{name}: other tensors came back"
    again = network(make, classes, images).float().eval()
    again.load_state_dict(back, strict=True)
    errors = [difference(scores(again(images)), logits)]

    for path in (dynamic, static):
        onnx.checker.check_model(path, full_check=True)
    model = onnx.load(dynamic, load_external_data=False)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["model"])["variant"] == name, metadata
    errors.append(max(difference(infer(dynamic, images[:count]), logits[:count]) for count in (1, 3)))
    errors.append(difference(infer(static, images[:2]), logits[:2]))

    pixels = np.random.default_rng(7).integers(0, 65536, [*(side - 2 * halo for side in size), 3])
    picture, predicted = os.path.join(folder, "image.png"), os.path.join(folder, "logits.safetensors")
    png(picture, pixels)
    run("predict", "--weights", ours, "--input", picture, "--out", os.path.join(folder, "out"), "--logits", predicted, "--tile", tile)
    image = F.pad(prepared(pixels, metadata["preprocessing"]), [halo] * 4, mode="reflect")
    expected = scores(net(image))
    errors.append(difference(load_file(predicted)["logits"].permute(2, 0, 1)[None], expected))
    errors.append(difference(infer(dynamic, image), expected))

    # Where rounding flips a ReLU, in PyTorch as here, the step is off by 1e-3 or so; a wrong gradient is wrong every time.
    step = min(one_step(net, make, classes, size[0], halo, metadata["preprocessing"], folder, draw) for draw in range(3))

    operators = sorted({node.op_type for node in model.graph.node})
    parameters = sum(value.numel() for value in net.parameters())
    cells = [name, f"{parameters:,}", tile, f"{logits.abs().max():.1f}", *(f"{error:.1e}" for error in [*errors, *step])]
    print("| " + " | ".join(cells) + " |", flush=True)
    return max(errors), step[0], operators


@torch.enable_grad()
def one_step(net, make, classes, side, halo, preprocessing, folder, draw):
    """How far steps of SGD after an import are from PyTorch's in f64, as shares of its length: ours, and PyTorch's own in f32."""
    folder = os.path.join(folder, str(draw))
    theirs, data, run_folder, after = (os.path.join(folder, name) for name in ("theirs.pt", "data", "run", "after.safetensors"))
    os.makedirs(folder)
    torch.save(net.state_dict(), theirs)
    random, inner = np.random.default_rng(draw), side - 2 * halo
    pixels, labels = random.integers(0, 65536, [inner, inner, 3]), random.integers(0, classes, [inner, inner])
    image = F.pad(prepared(pixels, preprocessing), [halo] * 4, mode="reflect")
    for part, picture in (("images", pixels), ("masks", labels)):
        os.makedirs(os.path.join(data, part))
        png(os.path.join(data, part, "a.png"), picture)
    config = os.path.join(folder, "config.toml")
    with open(config, "w") as file:
        file.write(f"batch = 1\nsteps = 1\nwarmup = 0\nmomentum = 0.0\nclip_norm = 0.0\nlearning_rate = {RATE}\nborder = \"never\"\nclasses = {classes}\n")
    run("train", "--config", config, "--init", theirs, "--data", data, "--out", run_folder, "--tile", side, "--no-augment")
    run("export", "--weights", os.path.join(run_folder, "last.safetensors"), "--safetensors", after)
    found = load_file(after)
    before = dict(net.named_parameters())

    def change(precision):
        training = network(make, classes, image).to(precision)
        training.load_state_dict(net.state_dict())
        training.train()
        logits = scores(training(image.to(precision)))
        F.cross_entropy(logits, torch.from_numpy(labels)[None]).backward()
        return torch.cat([RATE * training.get_parameter(key).grad.double().flatten() for key in before])

    exact = change(torch.float64)
    ours = torch.cat([(value.detach().double() - found[key].double()).flatten() for key, value in before.items()])
    return [float((other - exact).norm() / exact.norm()) for other in (ours, change(torch.float32))]


def single_op(path):
    """The largest difference of ONNX Runtime's result from the reference's, of an op whose images are channels last."""
    tensors = load_file(path.removesuffix(".onnx") + ".safetensors")
    first = lambda x: x.permute(0, 3, 1, 2).contiguous() if x.dim() == 4 else x
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(["result"], {"x": first(tensors["x"]).numpy()})[0]
    assert found.shape == tuple(first(tensors["y"]).shape), f"{path}: {found.shape}"
    return difference(found, first(tensors["y"]))


def main():
    version = subprocess.run([TILEWISE, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    print("# Round trips\n")
    print(f"What [`tests/golden/roundtrip.py`](../tests/golden/roundtrip.py) prints: {version}, PyTorch {torch.__version__.split('+')[0]},")
    print(f"ONNX {onnx.__version__}, ONNX Runtime {onnxruntime.__version__}, all in f32 on the CPU. Depth {DEPTH}, base {BASE}, random weights, images of random numbers;")
    print("the largest difference of any logit from PyTorch's. Weights come back the same to the bit, and load strictly. A step of SGD: from a file of")
    print("torch.save by `train --init`, how far the step is from PyTorch's in f64, as a share of its length, beside PyTorch's own in f32; of three")
    print("draws the nearest, since in some rounding flips a ReLU.\n")
    print("| network | parameters | tile | largest logit | PyTorch → tilewise → PyTorch | → ONNX, any batch: 1, 3 | → ONNX, batch 2 | `predict` | its image by ONNX | a step of SGD | PyTorch's in f32 |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    worst, worst_step, used = 0, 0, set()
    for name in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            error, step, operators = roundtrip(name, folder)
        worst, worst_step, used = max(worst, error), max(worst_step, step), used | set(operators)
    print(f"\nOperators: {', '.join(sorted(used))}.")
    errors = {os.path.basename(path).removesuffix(".onnx"): single_op(path) for path in sorted(glob.glob(os.path.join(OPS, "*.onnx")))}
    print("\nSingle ops, with settings that are no defaults, by ONNX Runtime against the f64 reference:")
    print(", ".join(f"`{name}` {error:.1e}" for name, error in errors.items()) + ".")
    worst = max([worst, *errors.values()])
    if not (worst <= BOUND and worst_step <= STEP_BOUND):
        sys.exit(f"{worst} is more than {BOUND}, or {worst_step} more than {STEP_BOUND}")


TILEWISE, OPS = (os.path.abspath(path) for path in sys.argv[1:])

if __name__ == "__main__":
    main()
