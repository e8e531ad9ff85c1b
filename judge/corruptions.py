"""Image corruptions for test.py ROBUSTNESS=True: nine kinds at five severities, each a function of an RGB crop.

The same selection of photos gets the same corruptions in every run. Severity 1 is common on a webcam, 5 is hard for a
person to recognise.
"""

import cv2
import numpy as np
from tqdm import tqdm

from faces import cropping, occluders
from judge import metrics

BATCH = 64  # crops per pass; affects memory only


def brightness(crop, share, rng):
    """Blend with black or white, at random. `share`: see mixed()."""
    goal = 0.0 if rng.random() < 0.5 else 255.0
    return mixed(crop, goal, share)


def contrast(crop, share, rng):
    """Reduce the contrast, towards the crop's mean gray."""
    return mixed(crop, float(crop.mean()), share)


def mixed(crop, goal, share):
    """Blend a crop with one value: (1 - share) of the crop, `share` of the value."""
    return np.rint(crop * (1.0 - share) + goal * share).astype(np.uint8)


def blur(crop, sigma, rng):
    """Gaussian blur; `sigma` is in pixels of a crop of cropping.IMAGE_SIZE."""
    return cv2.GaussianBlur(crop, (0, 0), sigma * crop.shape[0] / cropping.IMAGE_SIZE)


def noise(crop, sigma, rng):
    """Gaussian noise, independent for each pixel and channel."""
    return np.clip(crop + rng.normal(0, sigma, crop.shape), 0, 255).astype(np.uint8)


def low_resolution(crop, side, rng):
    """Reduce to side x side pixels and enlarge again, like a small face."""
    small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, crop.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def jpeg(crop, quality, rng):
    """Encode and decode as JPEG at a low quality."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def rotation(crop, degrees, rng):
    """Rotate in the image plane, to a random side; the corners repeat the edge."""
    height, width = crop.shape[:2]
    sign = 1 if rng.random() < 0.5 else -1
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), sign * degrees, 1.0)
    return cv2.warpAffine(crop, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def occlusion(crop, share, rng):
    """Cover a square, whole within the crop, at a random place in a random colour."""
    side = round(share * crop.shape[0])
    top, left = rng.integers(0, crop.shape[0] - side + 1), rng.integers(0, crop.shape[1] - side + 1)
    picture = crop.copy()
    picture[top:top + side, left:left + side] = rng.integers(0, 256, 3)
    return picture


def covered(crop, scale, rng, margin):
    """Draw a mask, sunglasses, a scarf or a hand, the shapes that AUGMENT=occlusion uses in training too."""
    return occluders.over(crop, occluders.cover(crop.shape[0], margin, rng.random(occluders.DRAWS), scale))


# {kind: (function(crop, parameter, rng), its parameter at severities 1 to 5)}
KINDS = {
    "brightness": (brightness, (0.30, 0.45, 0.60, 0.75, 0.85)),  # share of the light lost, or of the way to white
    "contrast": (contrast, (0.30, 0.50, 0.65, 0.80, 0.90)),  # share of the contrast lost
    "blur": (blur, (1.5, 3.0, 4.5, 6.0, 9.0)),  # sigma of a Gaussian, pixels
    "noise": (noise, (8, 16, 28, 44, 64)),  # sigma, of 255
    "low resolution": (low_resolution, (64, 40, 28, 20, 14)),  # side in pixels before enlarging
    "JPEG": (jpeg, (40, 20, 12, 7, 3)),  # quality
    "rotation": (rotation, (8, 15, 25, 35, 45)),  # degrees, to either side
    "occlusion": (occlusion, (0.25, 0.35, 0.45, 0.55, 0.65)),  # side of a plain square, of the crop's side
    "covered": (covered, (0.6, 0.8, 1.0, 1.2, 1.4)),  # size of a mask, sunglasses, scarf or hand; 1.0: real size
}


def corrupted(crop, kind, severity, seed, margin):
    """A corrupted copy of a uint8 [H, W, 3] RGB crop. `severity`: 1..5; `seed`: of all random choices; `margin`: of the
    crop around its face's box, which is needed to place an occluder.

    A seed gives the same random choices at all severities: a hand grows in its place, so that accuracies differ by
    severity only.
    """
    function, levels = KINDS[kind]
    more = (margin,) if kind == "covered" else ()
    return function(crop, levels[severity - 1], np.random.default_rng(seed), *more)


def measure(crops, labels, answer, n_classes, margin):
    """Accuracy on corrupted crops: list of dicts of kind, severity (0: none), n, accuracy, balanced_accuracy.

    `answer` takes a list of crops and returns their probabilities, [N, C]; `margin`: see corrupted().
    """
    cases = [("none", 0)] + [(kind, severity) for kind in KINDS for severity in range(1, 6)]
    found = []
    for kind, severity in tqdm(cases, unit=" passes", desc="corruptions"):
        parts = []
        for start in range(0, len(crops), BATCH):
            batch = crops[start:start + BATCH]
            if severity:
                batch = [corrupted(c, kind, severity, start + i, margin) for i, c in enumerate(batch)]
            parts.append(answer(batch).argmax(1))
        confusion = metrics.confusion_matrix(labels, np.concatenate(parts), n_classes)
        hits, totals = np.diag(confusion), confusion.sum(1)
        found.append({"kind": kind, "severity": severity, "n": len(crops),
                      "accuracy": metrics.rounded(hits.sum() / totals.sum()),
                      "balanced_accuracy": metrics.rounded(metrics.balanced_accuracy(hits, totals))})
    print(f"\nbalanced accuracy on corrupted crops ({len(crops)} faces, {found[0]['balanced_accuracy']:.3f} without)")
    for kind in KINDS:
        print(f"  {kind:16}" + "".join(f"{r['balanced_accuracy']:8.3f}" for r in found if r["kind"] == kind))
    return found
