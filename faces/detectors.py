"""The detector that finds faces in photos and in live frames: get() gives YuNet, or the Haar cascade. Nothing to run.

Both have the same methods. Photos: main_face(rgb), the Face that a photo is about, and all_faces(rgb). Frames, each as
a View: detect(), detect_near() the faces that a tracker knows, and verify(), a second look at a new one.
"""

import functools

import cv2

from faces import fetching
from faces.boxes import inside
from faces.haar import FRAME_SIDE, Haar
from faces.yunet import YuNet
from terminal import script

COPY_SIDE = 320  # frames are searched in a copy with a longer side of about so many pixels
WIDEST = 16 / 9  # longer side over shorter one; of a wider frame the shorter side counts as if it were that
DETECTORS = {detector.name: detector for detector in (YuNet, Haar)}


class View:
    """A frame, BGR uint8 [H, W, 3], with the smaller copies of it that the detectors need, each made once."""

    def __init__(self, frame):
        self.frame = frame
        # Smaller by a whole number: OpenCV makes such a copy many times faster than others.
        self.times = max(1, int(1 / reduction(frame.shape, COPY_SIDE) + 0.25))
        self.scale = reduction(frame.shape, FRAME_SIDE)  # size of `gray` over that of the frame

    @functools.cached_property
    def copy(self):
        """The frame made `times` smaller, BGR uint8."""
        if self.times == 1:
            return self.frame
        width, height = (v // self.times for v in self.frame.shape[1::-1])
        whole = self.frame[:height * self.times, :width * self.times]
        return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)

    @functools.cached_property
    def gray(self):
        """A still smaller copy, gray uint8 [h, w]."""
        size = [max(1, round(v * self.scale)) for v in self.frame.shape[1::-1]]
        return cv2.resize(cv2.cvtColor(self.copy, cv2.COLOR_BGR2GRAY), size, interpolation=cv2.INTER_AREA)


def reduction(shape, side):
    """The scale of a copy whose longer side has `side` pixels; at most 1."""
    return min(1.0, side / min(max(shape[:2]), WIDEST * min(shape[:2])))


def main_and_others(detector, rgb):
    """The faces of an RGB uint8 photo, list of Face: the one that it is about, then the others, largest first."""
    main = detector.main_face(rgb)
    if main is None:
        return []
    others = [face for face in detector.all_faces(rgb) if inside(face.box, main.box) < 0.5]
    return [main, *sorted(others, key=lambda face: -face.box[2] * face.box[3])]


def get(name, strict=False):
    """The detector of that name, "yunet" or "haar"; any other name ends the program with one line.

    YuNet's model is fetched where it is missing, which takes a few seconds at most. Where it cannot be had, one line
    says so and Haar's detector is given; with `strict` that is a script.Problem.
    """
    if name not in tuple(DETECTORS):  # a list, which has no hash, is such a name too
        script.fail(f'DETECTOR={name!r}: must be "yunet" or "haar"')
    return named(name, strict)


@functools.cache  # the network is asked once a process
def named(name, strict):
    """get() of a name that there is."""
    if name == "yunet":
        try:
            fetching.fetch()
        except script.Problem as problem:
            if strict:
                raise
            print(f"{problem}; until then faces are found by the Haar cascade", flush=True)
            return Haar()
    return DETECTORS[name]()
