"""Face detection in photos and in live frames: get() returns YuNet, or the Haar cascade. Nothing to run.

Both have the same methods. For photos: main_face(rgb) and all_faces(rgb). For frames, each in a View: detect() in the
whole frame, detect_near() the faces that a tracker knows, and verify() a new face.
"""

import functools

import cv2

from faces import fetching
from faces.boxes import inside
from faces.haar import FRAME_SIDE, Haar
from faces.yunet import YuNet
from terminal import script

COPY_SIDE = 320  # longer side, in pixels, of the reduced copy in which frames are searched, approximately
WIDEST = 16 / 9  # aspect ratio; a wider frame is reduced as if it had this one, by its shorter side
DETECTORS = {detector.name: detector for detector in (YuNet, Haar)}


class View:
    """A frame, BGR uint8 [H, W, 3], and its reduced copies for the detectors, each made once."""

    def __init__(self, frame):
        self.frame = frame
        # Size of the frame over that of `copy`: a whole number, by which OpenCV reduces many times faster.
        self.times = max(1, int(1 / reduction(frame.shape, COPY_SIDE) + 0.25))
        self.scale = reduction(frame.shape, FRAME_SIDE)  # size of `gray` over that of the frame

    @functools.cached_property
    def copy(self):
        """The frame, reduced by the factor `times`: BGR uint8."""
        if self.times == 1:
            return self.frame
        width, height = (v // self.times for v in self.frame.shape[1::-1])
        whole = self.frame[:height * self.times, :width * self.times]
        return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)

    @functools.cached_property
    def gray(self):
        """A smaller gray copy, uint8 [h, w]."""
        size = [max(1, round(v * self.scale)) for v in self.frame.shape[1::-1]]
        return cv2.resize(cv2.cvtColor(self.copy, cv2.COLOR_BGR2GRAY), size, interpolation=cv2.INTER_AREA)


def reduction(shape, side):
    """The scale of a copy of an image of `shape` whose longer side has `side` pixels, see WIDEST; at most 1."""
    return min(1.0, side / min(max(shape[:2]), WIDEST * min(shape[:2])))


def main_and_others(detector, rgb):
    """The faces of an RGB uint8 photo, list of Face: the main face, then the others, largest first."""
    main = detector.main_face(rgb)
    if main is None:
        return []
    others = [face for face in detector.all_faces(rgb) if inside(face.box, main.box) < 0.5]
    return [main, *sorted(others, key=lambda face: -face.box[2] * face.box[3])]


def get(name, strict=False):
    """The detector of that name, "yunet" or "haar"; any other name ends the program with one line.

    YuNet's model is fetched if it is missing, which usually takes seconds; faces/fetching.py has the time limits. If
    that fails, a line is printed and Haar's detector returned; with `strict`, script.Problem is raised.
    """
    if name not in DETECTORS:
        script.fail(f'DETECTOR={name!r}: must be "yunet" or "haar"')
    problem = why_no_model() if name == "yunet" else None
    if problem and strict:
        raise script.Problem(problem)
    return named(name, problem)


@functools.cache  # so that a download is tried only once per process
def why_no_model():
    """Fetch YuNet's model if it is missing. Returns None, or one line on why the model cannot be used."""
    try:
        fetching.fetch()
    except script.Problem as problem:
        return str(problem)
    return None


@functools.cache
def named(name, problem):
    """The detector of a valid name. With a `problem` of YuNet's model, prints that, and returns Haar's detector."""
    if problem:
        print(f"{problem}; until then faces are found by the Haar cascade", flush=True)
        return named("haar", None)
    return DETECTORS[name]()
