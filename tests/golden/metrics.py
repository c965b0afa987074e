"""Writes the values that tests/metrics.rs compares with, computed by scikit-image, and where it has no such score, by loops that
follow the definition.

Run from anywhere, with scikit-image from PyPI: python3 tests/golden/metrics.py
"""

import json
import os

import numpy as np
import skimage
from scipy import ndimage, sparse
from skimage.measure import label
from skimage.metrics import adapted_rand_error, contingency_table, variation_of_information
from skimage.segmentation import expand_labels

FOLDER = os.path.dirname(os.path.abspath(__file__))


def random_map(random, shape, labels):
    """Every pixel a label of its own."""
    return random.choice(labels, shape)


def blobs(random, shape, sigma, level):
    """Smooth shapes that cover part of the image, as cells do."""
    smooth = ndimage.gaussian_filter(random.normal(size=shape), sigma)
    return label(smooth > level * smooth.std(), connectivity=1)


def territories(random, shape, count):
    """Segments that cover everything but the borders between them, as in tissue."""
    seeds = np.zeros(shape, int)
    places = random.choice(shape[0] * shape[1], count, replace=False)
    seeds.flat[places] = np.arange(1, count + 1)
    full = expand_labels(seeds, max(shape))
    edges = ndimage.maximum_filter(full, 3) != ndimage.minimum_filter(full, 3)
    return np.where(edges, 0, full)


def spoiled(random, truth):
    """As a network might find it: shifted, eroded here, joined there, with pieces lost and invented."""
    foreground = np.roll(truth, (1, -1), (0, 1)) > 0
    noise = ndimage.gaussian_filter(random.normal(size=truth.shape), 1.5)
    foreground = np.where(noise > 1.4 * noise.std(), True, np.where(noise < -1.4 * noise.std(), False, foreground))
    return label(foreground, connectivity=1)


def objects(labels):
    return [number for number in np.unique(labels) if number != 0]


def matching(truth, prediction):
    """SEG, precision at ten thresholds and merged objects, every true object against every predicted one."""
    rows, columns = objects(truth), objects(prediction)
    both = np.array([[np.sum((truth == i) & (prediction == j)) for j in columns] for i in rows]).reshape(len(rows), len(columns))
    either = np.array([[np.sum((truth == i) | (prediction == j)) for j in columns] for i in rows]).reshape(both.shape)
    sizes = np.array([np.sum(truth == i) for i in rows])
    covers = 2 * both > sizes[:, None]
    seg = np.where(covers, both / either, 0).sum() / len(rows)
    precision = []
    for twentieths in range(10, 20):
        hits = np.sum(20 * both > twentieths * either)
        precision.append(hits / (len(rows) + len(columns) - hits))
    merges = covers.sum(0)
    return {"seg": seg, "average_precision": precision, "merged_objects": int(merges[merges > 1].sum())}


def foreground_scores(truth, prediction):
    """V_Rand and V_Info, each pixel predicted background a segment by itself, on the true foreground alone."""
    inside = truth > 0
    s, t = prediction[inside].astype(int), truth[inside].astype(int)
    background = s == 0
    s[background] = s.max() + 1 + np.arange(background.sum())
    n = t.size
    table = sparse.csr_array(contingency_table(t, s, ignore_labels=[], normalize=True))
    sum_p, sum_s, sum_t = np.sum(table.data**2), np.sum(table.sum(0) ** 2), np.sum(table.sum(1) ** 2)
    splits, merges = variation_of_information(table=table, image0=t, image1=s)
    entropy = lambda labels: -sum(k / n * np.log2(k / n) for k in np.unique(labels, return_counts=True)[1])
    information = entropy(t) - merges
    assert abs(information - (entropy(s) - splits)) < 1e-12
    return {
        "v_rand": [sum_p / (sum_s / 2 + sum_t / 2), sum_p / sum_t, sum_p / sum_s],
        "v_info": [2 * information / (entropy(s) + entropy(t)), information / entropy(s), information / entropy(t)],
    }


def is_simple(patch):
    """One 4-connected piece of foreground that touches the centre by an edge, one 8-connected piece of background."""
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    foreground = label(patch & ring, connectivity=1)
    touching = {foreground[y, x] for y, x in [(0, 1), (1, 0), (1, 2), (2, 1)]} - {0}
    return len(touching) == 1 and label(~patch & ring, connectivity=2).max() == 1


def warping_error(truth, prediction):
    source, target = np.pad(truth > 0, 1), np.pad(prediction > 0, 1)
    remaining = -1
    while True:
        wrong = [(y, x) for x, y in zip(*np.nonzero((source != target).T))]
        if len(wrong) == remaining:
            return remaining / truth.size
        remaining = len(wrong)
        for y, x in wrong:
            if is_simple(source[y - 1 : y + 2, x - 1 : x + 2]):
                source[y, x] = not source[y, x]


def case(name, truth, prediction, foreground_touches):
    # scikit-image 0.26 divides what it returns second by the pairs of the truth, and what it returns third by those of the
    # prediction: by its own documentation they are recall and precision.
    error, recall, precision = adapted_rand_error(truth, prediction)
    assert np.isclose(recall, pairs(truth, prediction, truth)) and np.isclose(precision, pairs(truth, prediction, prediction))
    expected = {"adapted_rand": [error, precision, recall], **foreground_scores(truth, prediction), **matching(truth, prediction)}
    if not foreground_touches:
        expected["warping_error"] = warping_error(truth, prediction)
    for connectivity in (1, 2):
        classes = (prediction > 0).astype(int)
        expected[f"components{4 * connectivity}"] = label(classes, connectivity=connectivity).ravel().tolist()
    return {
        "name": name, "height": truth.shape[0], "width": truth.shape[1],
        "truth": truth.ravel().tolist(), "prediction": prediction.ravel().tolist(), "expected": expected,
    }  # fmt: skip


def pairs(truth, prediction, of):
    """The share of the ordered pairs of distinct pixels of the true foreground joined in `of` that are joined in both."""
    inside = truth > 0
    t, s, of = truth[inside], prediction[inside], of[inside]
    apart = ~np.eye(t.size, dtype=bool)
    joined = (of[:, None] == of) & apart
    return np.sum((t[:, None] == t) & (s[:, None] == s) & apart) / np.sum(joined)


def main():
    random = np.random.default_rng(3)
    cases = [
        case("few labels at random", random_map(random, (13, 17), [0, 1, 2]), random_map(random, (13, 17), [0, 1, 2, 3]), True),
        case("many labels at random", random_map(random, (16, 9), range(40)), random_map(random, (16, 9), range(7)), True),
        case("labels with gaps", random_map(random, (11, 11), [0, 9, 700, 65000]), random_map(random, (11, 11), [0, 5, 301]), True),
    ]
    truth = blobs(random, (40, 52), 2, 0.6)
    cases.append(case("cells", truth, spoiled(random, truth), False))
    truth = territories(random, (44, 48), 24)
    cases.append(case("tissue", truth, spoiled(random, truth), False))
    cases.append(case("tissue against itself", truth, truth, False))
    path = os.path.join(FOLDER, "metrics.json")
    with open(path, "w") as file:
        json.dump({"scikit-image": skimage.__version__, "numpy": np.__version__, "cases": cases}, file, separators=(",", ":"))
        file.write("\n")
    print(f"metrics.json: {len(cases)} cases, {os.path.getsize(path):,} bytes")
    for one in cases:
        print(one["name"], {k: np.round(v, 4).tolist() for k, v in one["expected"].items() if not k.startswith("components")})


main()
