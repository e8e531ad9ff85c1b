"""The face in an image, and the geometry of boxes. Nothing to run."""

import math
from typing import NamedTuple

import numpy as np

SPREAD = 0.4  # in foremost(): at this distance from a photo's middle (in shorter sides), a face counts 0.6 of its size


class Face(NamedTuple):
    """A face in an image."""

    box: tuple  # four floats, in pixels: (x, y, width, height) of the Haar cascade's box, for the face turned upright
    roll: float  # tilt in degrees, positive if the person's left eye is lower
    score: float  # confidence, 0..1, which is comparable only within one detector


def iou(a, b):
    """Intersection over union of two boxes (x, y, width, height)."""
    common = intersection(a, b)
    return float(common / (a[2] * a[3] + b[2] * b[3] - common))


def inside(a, b):
    """The share, 0..1, of the smaller of two boxes (x, y, width, height) that lies in the other one."""
    return float(intersection(a, b) / min(a[2] * a[3], b[2] * b[3]))


def intersection(a, b):
    """The area of the intersection of two boxes (x, y, width, height)."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0, width) * max(0, height)


def around(box, margin, shape):
    """A box (x, y, width, height), widened by `margin` (share of its size) on each side and clipped to an image of
    `shape` (height, width, ...): int (x0, y0, x1, y1)."""
    x, y, w, h = box
    return (max(0, int(x - margin * w)), max(0, int(y - margin * h)),
            min(shape[1], math.ceil(x + (1 + margin) * w)), min(shape[0], math.ceil(y + (1 + margin) * h)))


def has_middle(image, box):
    """Whether the middle of a box (x, y, width, height) lies in an image [H, W, ...]; if not, it cannot be cropped."""
    x, y, width, height = box
    return 0 <= x + width / 2 < image.shape[1] and 0 <= y + height / 2 < image.shape[0]


def foremost(faces, shape):
    """The main one of `faces`, a list of at least one Face, in a photo of `shape` (height, width, ...): large, near the
    middle, with a high score."""
    height, width = shape[:2]
    boxes = np.array([face.box for face in faces])
    scores = np.array([face.score for face in faces])
    offsets = boxes[:, :2] + boxes[:, 2:] / 2 - np.array([width, height]) / 2
    away = np.hypot(*offsets.T) / min(height, width)
    prominence = boxes[:, 2] * boxes[:, 3] * scores ** 2 * np.exp(-0.5 * (away / SPREAD) ** 2)
    return faces[int(np.argmax(prominence))]
