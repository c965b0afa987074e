"""What the Python programs share: the files that they read and write, and the rounds that they play for compare.py."""

import json
import os
import sys
import time

from safetensors.numpy import load_file, save_file

# As small as that of tilewise's own rounds: the network stays what it is.
RATE_OF_ROUNDS = 1e-6
MOMENTUM = 0.99
LOSSES = 3


def given(folder):
    """Weights by PyTorch's names, and the inputs."""
    return (load_file(os.path.join(folder, f"{name}.safetensors")) for name in ("weights", "inputs"))


def write(folder, **files):
    """Writes dictionaries of arrays, such as outputs={"logits": …}, for compare.py to hold against tilewise's."""
    for name, arrays in files.items():
        save_file(arrays, os.path.join(folder, f"{name}.safetensors"))


def timed(function):
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def play(facts, **passes):
    """Says what runs here, then times a pass for every line of standard input, such as "training step 3"."""
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        name, count = line.rsplit(maxsplit=1)
        run = passes[name.replace(" ", "_")]
        print(json.dumps([timed(run)[1] for _ in range(int(count))]), flush=True)
