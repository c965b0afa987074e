"""The U-Net of tilewise in ncnn, inference only: ncnn_unet.py GIVEN RESULTS DEVICE, which is vulkan or cpu

The network is written in ncnn's own format; README.md describes the files and the lines that are exchanged.
"""

import os
import sys

import ncnn
import numpy as np
import player


class Model:
    """A network in ncnn's text format, and its weights: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure"""

    def __init__(self, weights):
        self.weights, self.layers, self.blobs, self.data = weights, [], 0, []

    def layer(self, kind, inputs, outputs=1, **settings):
        """Adds a layer; its settings are named p0, p1, … as ncnn numbers them. The names of its outputs."""
        names = [f"blob{self.blobs + index}" for index in range(outputs)]
        self.blobs += outputs
        numbers = " ".join(f"{key[1:]}={value}" for key, value in settings.items())
        self.layers.append(f"{kind} layer{len(self.layers)} {len(inputs)} {outputs} {' '.join([*inputs, *names])} {numbers}")
        return names

    def weighted(self, kind, name, x, order, **settings):
        """A layer with a weight, whose axes are put into an order, and a bias. A tag of zero says that floats follow."""
        weight = self.weights[f"{name}.weight"].transpose(order)
        self.data += [np.zeros(1, np.uint32), np.ascontiguousarray(weight), self.weights[f"{name}.bias"]]
        sizes = {"p0": weight.shape[0], "p1": weight.shape[2], "p5": 1, "p6": weight.size}
        return self.layer(kind, [x], **sizes, **settings)[0]

    def convolution(self, name, x, relu=True):
        return self.weighted("Convolution", name, x, (0, 1, 2, 3), p9=int(relu))

    def pair(self, name, x):
        return self.convolution(f"{name}.conv2", self.convolution(f"{name}.conv1", x))

    def save(self, folder):
        param, data = (os.path.join(folder, f"unet.{suffix}") for suffix in ("param", "bin"))
        with open(param, "w", encoding="ascii") as file:
            file.write(f"7767517\n{len(self.layers)} {self.blobs}\n" + "\n".join(self.layers) + "\n")
        with open(data, "wb") as file:
            file.writelines(array.tobytes() for array in self.data)
        return param, data


def unet(weights, side):
    """The model, and the names of the image and of the scores."""
    model = Model(weights)
    depth = sum(name.endswith(".up.weight") for name in weights)
    image = x = model.layer("Input", [])[0]
    skips = []
    for level in range(depth):
        x = model.pair(f"encoder{level}", x)
        side -= 4
        skip, x = model.layer("Split", [x], 2)
        skips.append((skip, side))
        x = model.layer("Pooling", [x], p0=0, p1=2, p2=2)[0]
        side //= 2
    x = model.pair("bottleneck", x)
    side -= 4
    for level in reversed(range(depth)):
        x = model.weighted("Deconvolution", f"decoder{level}.up", x, (1, 0, 2, 3), p2=1, p3=2)
        side *= 2
        skip, extent = skips[level]
        border, channels = (extent - side) // 2, weights[f"decoder{level}.up.bias"].size
        skip = model.layer("Crop", [skip], p0=border, p1=border, p2=0, p3=side, p4=side, p5=channels)[0]
        x = model.pair(f"decoder{level}", model.layer("Concat", [skip, x], p0=0)[0])
        side -= 4
    return model, image, model.convolution("head", x, relu=False)


def main(given, results, device):
    vulkan = device == "vulkan"
    if vulkan and ncnn.get_gpu_count() == 0:
        sys.exit("ncnn finds no Vulkan device")
    weights, inputs = player.given(given)
    image = inputs["image"]
    model, source, target = unet(weights, image.shape[2])
    param, data = model.save(results)
    net = ncnn.Net()
    options = net.opt
    # Floats of 32 bits, as everywhere else here.
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
    options.use_bf16_packed = options.use_bf16_storage = False
    options.use_vulkan_compute = vulkan
    options.num_threads = os.cpu_count()

    def load():
        if vulkan:
            net.set_vulkan_device(ncnn.get_default_gpu_index())
        if net.load_param(param) or net.load_model(data):
            sys.exit(f"ncnn does not load {param}")
        return inference()

    def inference():
        extractor = net.create_extractor()
        extractor.input(source, ncnn.Mat(image[0]))
        failed, logits = extractor.extract(target)
        if failed:
            sys.exit("ncnn does not compute the scores")
        return np.array(logits)

    logits, first = player.timed(load)
    player.write(results, outputs={"logits": logits[np.newaxis]})
    gpu = ncnn.get_gpu_info(ncnn.get_default_gpu_index()) if vulkan else None
    facts = {
        "version": ncnn.__version__,
        "device": gpu.device_name() if gpu else "cpu",
        "driver": f"version {gpu.driver_version():#x}" if gpu else None,
        "threads": None if gpu else options.num_threads,
        "first_seconds": {"inference": first},
    }
    player.play(facts, inference=inference)


if __name__ == "__main__":
    main(*sys.argv[1:])
