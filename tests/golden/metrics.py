"""Writes the values that tests/metrics.rs compares with, computed by scikit-image, scikit-learn, StarDist and py-ctcmetrics; what none of
them has, the warping error, by loops that follow the definition.

Run from anywhere, with these packages from PyPI:

    python3 tests/golden/metrics.py
        writes metrics.json beside this file: scores of label maps drawn at random and made like cells and tissue
    python3 tests/golden/metrics.py --truth DIR --prediction DIR [--regions VALUE] --out FILE.json
        scores of the label maps of two folders, paired by name: for the test that TILEWISE_METRICS names the file to
"""

import argparse
import functools
import json
import pathlib
import tempfile
from importlib.metadata import version

import numpy as np
import tifffile
from ctc_metrics.metrics import seg
from ctc_metrics.utils.representations import match
from scipy import ndimage, stats
from skimage.io import imread
from skimage.measure import label
from skimage.metrics import adapted_rand_error, variation_of_information
from skimage.segmentation import expand_labels, relabel_sequential, watershed
from sklearn.metrics import accuracy_score, f1_score, homogeneity_completeness_v_measure, jaccard_score
from sklearn.metrics.cluster import pair_confusion_matrix
from stardist.matching import intersection_over_true, label_overlap, matching

FOLDER = pathlib.Path(__file__).resolve().parent
PACKAGES = ["scikit-image", "scikit-learn", "stardist", "py-ctcmetrics", "numpy", "scipy"]


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


def pixel_scores(truth, prediction):
    """By scikit-learn, of three classes: the number of the object, modulo 3."""
    t, p = truth.ravel() % 3, prediction.ravel() % 3
    iou = jaccard_score(t, p, average=None)
    return {
        "iou": iou.tolist(),
        "dice": f1_score(t, p, average=None).tolist(),
        "mean_iou": [iou.mean()],
        "foreground_iou": [jaccard_score(t > 0, p > 0)],
        "pixel_error": [1 - accuracy_score(t, p)],
    }


def adapted_rand(truth, prediction):
    # scikit-image 0.26 divides what it returns second by the pairs of the truth, and what it returns third by those of the
    # prediction: by its own documentation they are recall and precision. Which is which, scikit-learn says.
    error, recall, precision = adapted_rand_error(truth, prediction)
    inside = truth > 0
    (_, joined), (parted, both) = pair_confusion_matrix(truth[inside], prediction[inside])
    assert np.isclose(recall, both / (both + parted)) and np.isclose(precision, both / (both + joined))
    return [error, precision, recall]


def foreground_scores(truth, prediction):
    """V_Rand and V_Info, each pixel predicted background a segment by itself, on the true foreground alone. By scikit-learn: V_Rand
    from its counts of pairs, to which the pairs of a pixel with itself are added; V_Info is its V-measure."""
    inside = truth > 0
    s, t = prediction[inside].astype(int), truth[inside].astype(int)
    background = s == 0
    s[background] = s.max() + 1 + np.arange(background.sum())
    (_, joined), (parted, both) = pair_confusion_matrix(t, s)
    both, of_s, of_t = (int(pairs) + t.size for pairs in (both, both + joined, both + parted))
    merge, split, score = homogeneity_completeness_v_measure(t, s)
    entropies = [stats.entropy(np.unique(labels, return_counts=True)[1], base=2) for labels in (s, t)]
    conditional = np.array(entropies) * (1 - np.array([split, merge]))
    assert np.allclose(variation_of_information(t, s), conditional), "scikit-image agrees"
    return {"v_rand": [2 * both / (of_s + of_t), both / of_t, both / of_s], "v_info": [score, split, merge]}


def object_scores(truth, prediction):
    """Average precision and merges by StarDist, SEG by py-ctcmetrics."""
    # StarDist compares float32 with >=, the next one is >.
    thresholds = [float(np.nextafter(np.float32(twentieths / 20), np.float32(1))) for twentieths in range(10, 20)]
    precision = [one.accuracy for one in matching(truth, prediction, thresholds)]
    shares = intersection_over_true(label_overlap(relabel_sequential(truth)[0], relabel_sequential(prediction)[0]))
    merges = (shares[1:, 1:] > 0.5).sum(0)
    with tempfile.TemporaryDirectory() as folder:
        files = [str(pathlib.Path(folder, name)) for name in ("truth.tif", "prediction.tif")]
        for file, labels in zip(files, (truth, prediction)):
            tifffile.imwrite(file, labels.astype(np.int32))
        labels, _, _, _, overlaps = match(*files)
    return {
        "average_precision": precision,
        "merged_objects": [int(merges[merges > 1].sum())],
        "seg": [seg([labels], [overlaps])],
    }


@functools.cache
def is_simple(patch):
    """One 4-connected piece of foreground that touches the centre by an edge, one 8-connected piece of background."""
    patch = np.frombuffer(patch, bool).reshape(3, 3)
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    foreground = label(patch & ring, connectivity=1)
    touching = {foreground[y, x] for y, x in [(0, 1), (1, 0), (1, 2), (2, 1)]} - {0}
    return len(touching) == 1 and label(~patch & ring, connectivity=2).max() == 1


def parted(labels):
    """Foreground, and a frame around it; of two objects that share an edge the pixel read second is background."""
    labels = np.pad(labels.astype(int), 1)
    foreground = np.zeros(labels.shape, bool)
    for y, x in zip(*np.nonzero(labels)):
        others = [place for place in ((y, x - 1), (y - 1, x)) if foreground[place] and labels[place] != labels[y, x]]
        foreground[y, x] = not others
    return foreground


def warping_error(truth, prediction):
    source, target = parted(truth), parted(prediction)
    remaining = -1
    while True:
        wrong = [(y, x) for x, y in zip(*np.nonzero((source != target).T))]
        if len(wrong) == remaining:
            return remaining / truth.size
        remaining = len(wrong)
        for y, x in wrong:
            if is_simple(source[y - 1 : y + 2, x - 1 : x + 2].tobytes()):
                source[y, x] = not source[y, x]


def scores(truth, prediction):
    return {
        **pixel_scores(truth, prediction),
        "adapted_rand": adapted_rand(truth, prediction),
        **foreground_scores(truth, prediction),
        **object_scores(truth, prediction),
        "warping_error": [warping_error(truth, prediction)],
    }  # fmt: skip


def drawn(name, truth, prediction):
    expected = scores(truth, prediction)
    for connectivity in (1, 2):
        classes = (prediction > 0).astype(int)
        expected[f"components{4 * connectivity}"] = label(classes, connectivity=connectivity).ravel().tolist()
    return {
        "name": name, "height": truth.shape[0], "width": truth.shape[1],
        "truth": truth.ravel().tolist(), "prediction": prediction.ravel().tolist(), "expected": expected,
    }  # fmt: skip


def drawn_cases():
    random = np.random.default_rng(3)
    cases = []
    for name, shape, of_truth, of_prediction in [
        ("few labels at random", (13, 17), [0, 1, 2], [0, 1, 2, 3]),
        ("many labels at random", (16, 9), range(40), range(7)),
        ("labels with gaps", (11, 11), [0, 9, 700, 65000], [0, 5, 301]),
    ]:
        cases.append(drawn(name, random_map(random, shape, of_truth), random_map(random, shape, of_prediction)))
    truth = blobs(random, (40, 52), 2, 0.6)
    cases.append(drawn("cells", truth, spoiled(random, truth)))
    truth = territories(random, (44, 48), 24)
    cases.append(drawn("tissue", truth, spoiled(random, truth)))
    cases.append(drawn("tissue against itself", truth, truth))
    return cases


def real_cases(truths, predictions, regions):
    """Label maps of two folders. Where borders are thinned, scikit-image's watershed draws the lines."""
    for path in sorted(truths.iterdir()):
        prediction_path = predictions / (path.stem + ".png")
        truth, prediction = imread(path).astype(int), imread(prediction_path).astype(int)
        if regions is not None:
            truth = label(truth == regions, connectivity=1)
        thinned = watershed(np.zeros(truth.shape), prediction, connectivity=1, watershed_line=True)
        expected = {**scores(truth, prediction), "thinned": sum(foreground_scores(truth, thinned).values(), [])}
        files = {"truth": str(path), "prediction": str(prediction_path)}
        yield {"name": path.stem, **files, "regions": regions, "expected": expected}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--truth", type=pathlib.Path, help="folder of true label maps")
    arguments.add_argument("--prediction", type=pathlib.Path, help="folder of predicted ones, PNG of the same names")
    arguments.add_argument("--regions", type=int, help="the objects are the 4-connected regions of this value in the truth")
    arguments.add_argument("--out", type=pathlib.Path, default=FOLDER / "metrics.json")
    given = arguments.parse_args()
    if given.truth is None:
        cases = drawn_cases()
    else:
        cases = list(real_cases(given.truth.resolve(), given.prediction.resolve(), given.regions))
    packages = {package: version(package) for package in PACKAGES}
    given.out.write_text(json.dumps({"packages": packages, "cases": cases}, separators=(",", ":")) + "\n")
    print(f"{given.out}: {len(cases)} cases, {given.out.stat().st_size:,} bytes")
    for one in cases:
        print(one["name"], {k: np.round(v, 4).tolist() for k, v in one["expected"].items() if not k.startswith("components")})


main()
