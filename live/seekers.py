"""How a tracker finds the faces of a frame: by Haar cascades, or by YuNet. Nothing to run.

A seeker looks everywhere, looks near the known faces, and looks twice at a new one before it is believed. Boxes are
float64 [N, 4] (x, y, width, height) in the frame's pixels.
"""

import itertools
import math
from typing import NamedTuple

import cv2
import numpy as np

from faces import finding, yunet

# ------------------------------------------------------------------------------------------------
SLIMMEST = 16 / 9  # longer side over shorter one; of a wider frame the shorter side counts as if it were that
BORDER = 0.08  # replicated border, as a share: a face that leaves the frame is kept a little longer

SEARCH_SIDE = 256  # pixels of the longer side of the gray copy that Haar searches
SMALLEST = 0.15  # smallest face, as a share of the frame's shorter side: 72 pixels at 640x480, two metres off
NEIGHBORS = 5  # agreeing windows wanted for a new face; a known one is followed with FOLLOW_NEIGHBORS
FOLLOW_NEIGHBORS = 3
STEP = 1.2  # of the Haar pyramid
SECOND_NEIGHBORS = 16  # agreeing windows wanted by the second look at a new face
# That look: cut wider by AGAIN_AROUND, at AGAIN_SIDE pixels (the cascade's own window is 24, and at twice that and a
# little it is not the same pixels again), searched in finer steps for a face of about that size.
AGAIN_AROUND, AGAIN_SIDE, AGAIN_STEP, AGAIN_SMALLEST, AGAIN_OVERLAP = 0.4, 56, 1.1, 0.7, 0.4

# Pixels of the longer side of the copies that YuNet searches in turn: the first for small faces (36 pixels at 640x480
# are 22 there), the second for large ones that are tilted.
YUNET_SIDES = 400, 224
NEAR_AROUND, NEAR_SIDE = 0.5, 96  # a known face is followed in a window wider by a share, at so many pixels
CROWD = 6  # from so many known faces on one look everywhere costs less than a look near each
POSSIBLE, CERTAIN = 0.45, 0.65  # scores wanted of a hit, and of the second look at a new face, cut large
# ------------------------------------------------------------------------------------------------


class View(NamedTuple):
    """A frame and what is made of it once."""

    frame: np.ndarray  # BGR, uint8 [H, W, 3]
    gray: np.ndarray  # uint8 [H, W]
    small: np.ndarray  # `gray` reduced to SEARCH_SIDE
    scale: float  # of `small`


def view_of(frame):
    """The View of a BGR frame."""
    gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    scale = reduction(gray.shape, SEARCH_SIDE)
    size = tuple(max(1, round(v * scale)) for v in gray.shape[::-1])
    return View(frame, gray, cv2.resize(gray, size, interpolation=cv2.INTER_AREA) if scale < 1 else gray, scale)


def reduction(shape, side):
    """The scale of a copy whose longer side has `side` pixels; at most 1."""
    return min(1.0, side / min(max(shape[:2]), SLIMMEST * min(shape[:2])))


def around(box, share, shape):
    """The window (x0, y0, x1, y1), int, around a box widened by `share` on each side, within an image of `shape`."""
    x, y, w, h = box
    return (max(0, int(x - share * w)), max(0, int(y - share * h)),
            min(shape[1], math.ceil(x + (1 + share) * w)), min(shape[0], math.ceil(y + (1 + share) * h)))


class Haar:
    """Upright faces, by the cascade. `find` is finding.find_faces, or what a test puts in its place."""

    every, every_known = 0.1, 0.2  # seconds between looks everywhere, without known faces and with some: such a look
    # costs ten times as much as following a face, so that it may wait where faces are known

    def __init__(self, find=finding.find_faces):
        self.find = find

    def everywhere(self, view):
        """Boxes found in the whole reduced frame."""
        boxes = self.find(view.small, NEIGHBORS, SMALLEST, longest=None, shortest=0, border=BORDER, step=STEP)
        return np.asarray(boxes, np.float64).reshape(-1, 4) / view.scale

    def near(self, view, tracks):
        """Boxes found around the known faces only, at about their size."""
        small, scale, found = view.small, view.scale, []
        for track in tracks:
            x0, y0, x1, y1 = around(track.box * scale, 0.3, small.shape)
            least = 0.8 * track.box[2] * scale / max(1, min(x1 - x0, y1 - y0))
            if x1 - x0 < 24 or y1 - y0 < 24 or least > 1:
                continue
            boxes = self.find(small[y0:y1, x0:x1], FOLLOW_NEIGHBORS, least, longest=None, shortest=0, border=0.0,
                              step=STEP)
            found.append((np.asarray(boxes, np.float64).reshape(-1, 4) + (x0, y0, 0, 0)) / scale)
        return np.concatenate(found) if found else np.zeros((0, 4))

    def confirms(self, view, box):
        """Whether the face is found again in the frame's own pixels, mirrored and at another size: walls are not."""
        x0, y0, x1, y1 = around(box, AGAIN_AROUND, view.gray.shape)
        scale = AGAIN_SIDE / box[2]
        size = (max(24, round((x1 - x0) * scale)), max(24, round((y1 - y0) * scale)))
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        again = cv2.flip(cv2.resize(view.gray[y0:y1, x0:x1], size, interpolation=way), 1)
        boxes = self.find(again, SECOND_NEIGHBORS, AGAIN_SMALLEST * AGAIN_SIDE / min(size), longest=None, shortest=0,
                          border=BORDER, step=AGAIN_STEP)
        mirrored = ((x1 - box[0] - box[2]) * scale, (box[1] - y0) * scale, box[2] * scale, box[3] * scale)
        return any(finding.overlap(mirrored, b) > AGAIN_OVERLAP for b in np.asarray(boxes, np.float64).reshape(-1, 4))

    def closer(self, frame, box, roll):
        """(box, roll) to cut a face by: Haar knows no better than its hit, and sees upright faces only."""
        return box, 0.0


class YuNet:
    """Faces of any tilt, large and small. The model must be there (finding.usable)."""

    every = every_known = 0.1  # seconds between looks everywhere

    def __init__(self):
        self.sides = itertools.cycle(YUNET_SIDES)

    def everywhere(self, view):
        """Boxes found in the whole reduced frame."""
        return self.look(view, next(self.sides))

    def look(self, view, side):
        """Boxes found in a copy of the whole frame whose longer side has `side` pixels."""
        longest = reduction(view.gray.shape, side) * max(view.gray.shape)
        return yunet.look(view.frame, longest, POSSIBLE, BORDER, again=False)[0]

    def near(self, view, tracks):
        """Boxes found around the known faces only, or everywhere where there are many."""
        if len(tracks) >= CROWD:
            return self.look(view, YUNET_SIDES[0])
        found = [np.zeros((0, 4))]
        for track in tracks:
            x0, y0, x1, y1 = around(track.box, NEAR_AROUND, view.gray.shape)
            if x1 - x0 > 8 and y1 - y0 > 8:
                boxes = yunet.look(view.frame[y0:y1, x0:x1], NEAR_SIDE, POSSIBLE, 0.1, 4, again=False)[0]
                found.append(boxes + (x0, y0, 0, 0))
        return np.concatenate(found)

    def confirms(self, view, box):
        """Whether YuNet is sure of the face when it is cut large, as it stands or turned upright."""
        x, y, side = middle(box)
        row = yunet.seen_large(view.frame, x, y, side, 0.0)
        if row is None:
            return False
        *_, roll = yunet.measured_again(view.frame, x, y, side, 0.0)
        turned = yunet.seen_large(view.frame, x, y, side, roll)
        return max(row[14], 0.0 if turned is None else turned[14]) >= CERTAIN

    def closer(self, frame, box, roll):
        """(box, roll) to cut a face by, from a closer look; `roll`: what it was before, degrees."""
        x, y, side, roll = yunet.measured_again(frame, *middle(box), roll, tries=2)
        return (x - side / 2, y - side / 2, side, side), roll


def middle(box):
    """(x, y, side) of the middle of a box, floats."""
    return float(box[0] + box[2] / 2), float(box[1] + box[3] / 2), float(max(box[2], box[3]))


def seeker(finders):
    """The seeker for those of processed.FINDERS that can be had, see finding.usable()."""
    return YuNet() if finding.YUNET in finders else Haar()
