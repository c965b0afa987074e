"""The U-Net of tilewise in PyTorch: torch_unet.py GIVEN RESULTS DEVICE PRECISION

DEVICE is cpu, cuda or mps; PRECISION is f32, tf32 or bf16 (autocast). README.md describes the files and the lines that are exchanged.
"""

import os
import sys

import player
import torch
import torch.nn.functional as F

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tests/golden"))
from paper_unet import UNet  # noqa: E402


class Program:
    """A network with its inputs on a device, in one order of memory."""

    def __init__(self, weights, inputs, device, precision, memory_format):
        base, channels = weights["encoder0.conv1.weight"].shape[:2]
        depth = sum(name.endswith(".up.weight") for name in weights)
        self.device, self.bf16 = device, precision == "bf16"
        net = UNet(channels, weights["head.weight"].shape[0], base, depth)
        net.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in weights.items()})
        self.net = net.to(device, memory_format=memory_format)
        place = lambda name: torch.from_numpy(inputs[name].copy()).to(device)
        self.image = place("image").to(memory_format=memory_format)
        self.labels, self.weights = place("labels"), place("weights")
        self.sgd = torch.optim.SGD(self.net.parameters(), lr=float(inputs["rate"][0]), momentum=player.MOMENTUM)

    def scores(self):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            return self.net(self.image).float()

    def wait(self):
        if self.device != "cpu":
            getattr(torch, self.device).synchronize()

    def inference(self):
        with torch.inference_mode():
            logits = self.scores()
        self.wait()
        return logits

    def training_step(self):
        self.sgd.zero_grad()
        terms = self.weights * F.cross_entropy(self.scores(), self.labels, reduction="none")
        loss = terms.sum() / self.weights.sum()
        loss.backward()
        self.sgd.step()
        self.wait()
        return loss

    def results(self):
        """Outputs and gradients, and the seconds of each pass's first run."""
        logits, inference = player.timed(self.inference)
        loss, step = player.timed(self.training_step)
        host = lambda tensor: tensor.detach().cpu().contiguous().numpy()
        gradients = {name: host(parameter.grad).copy() for name, parameter in self.net.named_parameters()}
        losses = [loss, *(self.training_step() for _ in range(player.LOSSES - 1))]
        outputs = {"logits": host(logits), "losses": host(torch.stack(losses))}
        self.sgd.param_groups[0]["lr"] = player.RATE_OF_ROUNDS
        return outputs, gradients, {"inference": inference, "training step": step}


def faster(programs):
    """Of programs by name, the one whose training step takes less time."""
    return min(programs.items(), key=lambda item: min(player.timed(item[1].training_step)[1] for _ in range(5)))


def main(given, results, device, precision):
    if device != "cpu" and not getattr(torch, device).is_available():
        sys.exit(f"PyTorch finds no {device} device")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    weights, inputs = player.given(given)
    formats = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
    programs = {
        name: Program(weights, inputs, device, precision, memory_format) for name, memory_format in formats.items()
    }
    found = {name: program.results() for name, program in programs.items()}
    order, program = faster(programs)
    outputs, gradients, first_seconds = found[order]
    player.write(results, outputs=outputs, gradients=gradients)
    cuda = device == "cuda"
    facts = {
        "version": f"{torch.__version__}, {precision}, {order}",
        "device": torch.cuda.get_device_name() if cuda else device,
        "driver": f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}" if cuda else None,
        "threads": torch.get_num_threads() if device == "cpu" else None,
        "first_seconds": first_seconds,
    }
    del programs
    player.play(facts, inference=program.inference, training_step=program.training_step)


if __name__ == "__main__":
    main(*sys.argv[1:])
