"""How a tracker finds the faces of a frame: by Haar cascades, or by YuNet. Nothing to run.

A seeker looks everywhere, looks near the known faces, and looks twice at a new one before it is believed. Hits are
float64 [N, 5]: a box (x, y, width, height) in the frame's pixels, and the roll, degrees that the face is tilted.
"""

import itertools
import math
from typing import NamedTuple

import cv2
import numpy as np

from faces import cropping, finding, yunet

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

# YuNet looks everywhere in a copy that is smaller by a whole number, which OpenCV makes many times faster than others,
# and of some COPY pixels on its longer side (36 pixels at 640x480 are 18 there). In turn: (share of that copy, degrees
# that it is turned). The third is for large faces, and the turned ones find tilted faces that the others do not: with
# them 95 % of 130 faces tilted by 30 degrees were found in a single frame instead of 90, and 94 % of 106 by 45 instead
# of 71.
COPY, YUNET_LOOKS, YUNET_BORDER = 320, ((1.0, 0), (1.0, 30), (0.7, 0), (1.0, -30)), 0.03
NEAR = (0.5, 96, yunet.SEEN_SMALL)  # how a known face is cut, upright, to be followed: see yunet.CLOSE
GUESSES = 0.0, 30.0, -30.0  # degrees of roll at which a new face is looked at twice, beside what the first look said
FASTEST = 10.0  # degrees by which the roll of a known face changes at most from look to look: one may be far off
POSSIBLE, CERTAIN = 0.45, 0.65  # scores wanted of a hit, and of the second look at a new face, cut large
# ------------------------------------------------------------------------------------------------


class View(NamedTuple):
    """A frame and what is made of it once."""

    frame: np.ndarray  # BGR, uint8 [H, W, 3]
    gray: np.ndarray  # uint8 [H, W]
    small: np.ndarray  # `gray` reduced to SEARCH_SIDE
    scale: float  # of `small`
    copy: np.ndarray  # BGR, `frame` made smaller
    times: int  # by how much


def view_of(frame):
    """The View of a BGR frame."""
    gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    scale = reduction(gray.shape, SEARCH_SIDE)
    size = tuple(max(1, round(v * scale)) for v in gray.shape[::-1])
    small = cv2.resize(gray, size, interpolation=cv2.INTER_AREA) if scale < 1 else gray
    times = max(1, int(1 / reduction(gray.shape, COPY) + 0.25))
    width, height = (v // times for v in gray.shape[::-1])
    copy = frame[:height * times, :width * times]
    if times > 1:
        copy = cv2.resize(copy, (width, height), interpolation=cv2.INTER_AREA)
    return View(frame, gray, small, scale, copy, times)


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
    at_once = None  # so many known faces are followed in a frame; None: all

    def __init__(self, find=finding.find_faces):
        self.find = find

    def everywhere(self, view):
        """Hits in the whole reduced frame."""
        boxes = self.find(view.small, NEIGHBORS, SMALLEST, longest=None, shortest=0, border=BORDER, step=STEP)
        return upright(np.asarray(boxes, np.float64).reshape(-1, 4) / view.scale)

    def near(self, view, tracks):
        """Hits around the known faces (list of tracks.Track) only, at about their size."""
        small, scale, found = view.small, view.scale, []
        for track in tracks:
            x0, y0, x1, y1 = around(track.box * scale, 0.3, small.shape)
            least = 0.8 * track.box[2] * scale / max(1, min(x1 - x0, y1 - y0))
            if x1 - x0 < 24 or y1 - y0 < 24 or least > 1:
                continue
            boxes = self.find(small[y0:y1, x0:x1], FOLLOW_NEIGHBORS, least, longest=None, shortest=0, border=0.0,
                              step=STEP)
            found.append((np.asarray(boxes, np.float64).reshape(-1, 4) + (x0, y0, 0, 0)) / scale)
        return upright(np.concatenate(found) if found else np.zeros((0, 4)))

    def confirms(self, view, box, roll):
        """0.0, the roll, where the face is found again in the frame's own pixels, mirrored and at another size, as
        walls are not; else None."""
        x0, y0, x1, y1 = around(box, AGAIN_AROUND, view.gray.shape)
        scale = AGAIN_SIDE / box[2]
        size = (max(24, round((x1 - x0) * scale)), max(24, round((y1 - y0) * scale)))
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        again = cv2.flip(cv2.resize(view.gray[y0:y1, x0:x1], size, interpolation=way), 1)
        boxes = self.find(again, SECOND_NEIGHBORS, AGAIN_SMALLEST * AGAIN_SIDE / min(size), longest=None, shortest=0,
                          border=BORDER, step=AGAIN_STEP)
        mirrored = ((x1 - box[0] - box[2]) * scale, (box[1] - y0) * scale, box[2] * scale, box[3] * scale)
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        return 0.0 if any(finding.overlap(mirrored, box) > AGAIN_OVERLAP for box in boxes) else None


class YuNet:
    """Faces of any tilt, large and small. The model must be there (finding.usable)."""

    every, every_known = 0.1, 0.13  # seconds between looks everywhere, without known faces and with some
    at_once = 6

    def __init__(self):
        self.looks = itertools.cycle(YUNET_LOOKS)

    def everywhere(self, view):
        """Hits in the whole frame, whose rolls are rough."""
        share, degrees = next(self.looks)
        image, back = view.copy, np.eye(2, 3)
        if degrees:
            image, back = cropping.turned(image, degrees, whole=False)
        border = 0.0 if degrees else YUNET_BORDER
        boxes, rolls, _ = yunet.look(image, share * max(image.shape), POSSIBLE, border)
        middles = view.times * ((boxes[:, :2] + boxes[:, 2:] / 2) @ back[:, :2].T + back[:, 2])
        sides = view.times * boxes[:, 2:]
        hits = np.column_stack([middles - sides / 2, sides, rolls - degrees])
        return hits[((middles >= 0) & (middles < view.gray.shape[::-1])).all(1)]

    def near(self, view, tracks):
        """Hits of the known faces (list of tracks.Track), each looked for where it was and upright."""
        found = []
        for track in tracks:
            x, y, side = middle(track.box)
            large = side * (1 + 2 * NEAR[0]) >= view.times * NEAR[1]  # then the copy has all that the cut can show
            image, times = (view.copy, view.times) if large else (view.frame, 1)
            again = yunet.look_again(image, x / times, y / times, side / times, track.roll, NEAR, POSSIBLE)
            if again is not None:
                *box, roll = hit(again)
                change = min(FASTEST, max(-FASTEST, roll - track.roll))
                found.append((*(times * v for v in box), track.roll + change))
        return np.array(found).reshape(-1, 5)

    def confirms(self, view, box, roll):
        """The roll at which YuNet is surest of the face when it is cut large; None where it is sure at none."""
        looks = [yunet.look_again(view.frame, *middle(box), turn) for turn in {roll, *GUESSES}]
        best = max((again for again in looks if again is not None), key=lambda again: again[4], default=None)
        return best[3] if best is not None and best[4] >= CERTAIN else None


def upright(boxes):
    """Hits of boxes, float64 [N, 4], without a roll."""
    return np.column_stack([boxes, np.zeros(len(boxes))])


def hit(again):
    """The numbers (x, y, width, height, roll) of what yunet.look_again() gives."""
    x, y, side, roll, _ = again
    return x - side / 2, y - side / 2, side, side, roll


def middle(box):
    """(x, y, side) of the middle of a box, floats."""
    return float(box[0] + box[2] / 2), float(box[1] + box[3] / 2), float(max(box[2], box[3]))


def seeker(finders):
    """The seeker for those of processed.FINDERS that can be had, see finding.usable()."""
    return YuNet() if finding.YUNET in finders else Haar()
