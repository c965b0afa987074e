"""Reads the event file of a run with TensorBoard itself and compares it with the run's metrics.jsonl.

Run with tensorboard from PyPI: python3 tests/golden/events.py RUN
"""

import glob
import json
import os
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SCALARS = {
    "loss/training": "loss",
    "learning_rate": "learning_rate",
    "gradient_norm": "grad_norm",
    "loss/validation": "validation_loss",
    "validation/foreground_iou": "foreground_iou",
    "validation/mean_iou": "mean_iou",
    "validation/pixel_error": "pixel_error",
    "validation/ap50": "ap50",
    "validation/mean_ap": "mean_ap",
}


def f32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


run = sys.argv[1]
(path,) = glob.glob(os.path.join(run, "events.out.tfevents.*"))
with open(os.path.join(run, "metrics.jsonl"), encoding="utf-8") as file:
    records = [json.loads(line) for line in file]

events = EventAccumulator(path, size_guidance={"scalars": 0, "images": 0})
events.Reload()
found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
expected = {}
for tag, key in SCALARS.items():
    values = [(record["step"], f32(record[key])) for record in records if record.get(key) is not None]
    if values:
        expected[tag] = values
assert found == expected, (found, expected)

evaluated = [record["step"] for record in records if "pixel_error" in record]
images = {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}
assert images and all(steps == evaluated for steps in images.values()), (images, evaluated)
for tag in images:
    for event in events.Images(tag):
        assert event.encoded_image_string.startswith(b"\x89PNG") and event.width > 0 and event.height > 0

print(f"{len(records)} steps, {len(found)} scalars and {len(images)} images read back from {os.path.basename(path)}")
