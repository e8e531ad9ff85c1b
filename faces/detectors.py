"""Where the faces of photos and of live frames are: YuNet, or the Haar cascade, behind one interface. Nothing to run.

get() gives a detector by its name. Photos: main_face(rgb), the face that a photo is about, and faces(rgb), that one and
all others. Frames: everywhere(), near() the faces that a tracker knows, and confirm(), a second look at a new one.
"""

import functools
import math
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from faces import cropping, yunet
from terminal import script

# ------------------------------------------------------------------------------------------------ both detectors
SPREAD = 0.4  # of several faces, one this far from a photo's middle (in shorter sides) counts 0.6 of its size
COPY_SIDE = 320  # frames are searched in a copy with a longer side of about so many pixels
WIDEST = 16 / 9  # longer side over shorter one; of a wider frame the shorter side counts as if it were that

# ------------------------------------------------------------------------------------------------ Haar
HAAR_SIDES = 200, 640  # photos: least shorter and most longer side that are searched; it knows no face under 24 pixels
HAAR_BORDER = 0.20  # replicated border around a photo, so that a face cut tight is found too
HAAR_FRAME_SIDE, HAAR_FRAME_BORDER = 256, 0.08  # the same for frames
HAAR_FRAME_STEP = 1.2  # of the pyramid of sizes
HAAR_SMALLEST = 0.15  # face of a frame, as a share of its shorter side: 72 pixels at 640x480, two metres off
NEIGHBORS, NEIGHBORS_KNOWN, NEIGHBORS_CONFIRM = 5, 3, 16  # windows that must agree: new, known, at the second look
CONFIRM_MARGIN, CONFIRM_SIDE = 0.4, 56  # the second look: margin of the cut, and pixels of the face in it

# ------------------------------------------------------------------------------------------------ YuNet
# Looks at a photo, each only where none before gave a sure face: (longer side of the copy, times at most that the
# photo is enlarged for it, replicated border). Small first: it is the fast one, and knows large faces best.
LOOKS = ((256, 1, 0.2), (320, 16, 0.2), (640, 4, 0.2), (1280, 2, 0.2), (1920, 2, 0.2), (320, 16, 0.6))
TURNED_SIDE, TURNS = 320, (90, 270, 180, 45, 315)  # then the photo is turned: longer side, and degrees
# Confidences. Of 8,346 photos 99.7 % had a face above SURE at 320 pixels, and of 200 pictures without people none;
# a face above LIKELY counts beside a sure one, or if two looks see it; above WEAK is better than no face in a photo.
SURE, LIKELY, WEAK = 0.8, 0.6, 0.3
SAME_FACE = 0.4  # intersection over union from which two looks see the same face
OTHERS_SIDE = 1280  # longer side of the copy in which the other faces of a photo are detected
UPRIGHT = 3.0  # degrees: a smaller roll is left alone, since turning costs sharpness and gained nothing
# YuNet sees about three quarters of a tilt where the face is large, next to nothing where it is small. So its points
# are found again on the face cut large and turned by the roll so far, TRIES times at most, until it changes by less
# than CHANGE degrees.
GAIN = 1.35  # the roll is what the points show times this, where the face is small in the image
CLOSE = 0.2, 192, 1.2  # margin and pixels a side of the cut, and the same factor there
CHANGE, TRIES = 4.0, 4

# Looks everywhere in a frame, in turn: (share of the copy's size, degrees that it is turned, replicated border). The
# third is for faces larger than the frame. With the turned ones 95 % of 130 faces tilted by 30 degrees are found in a
# single frame instead of 90, and 94 % of 106 by 45 instead of 71.
FRAME_LOOKS = ((1.0, 0, 0.03), (1.0, 30, 0.0), (0.5, 0, 0.2), (1.0, -30, 0.0))
NEAR = 0.5, 96, GAIN  # CLOSE for a known face that is followed
GUESSES = 0.0, 30.0, -30.0  # degrees at which the second look tries a new face, beside its first roll
FASTEST = 10.0  # degrees by which the roll of a known face changes at most from look to look: one may be far off
POSSIBLE, CERTAIN = 0.45, 0.65  # confidences wanted in a frame, and at the second look
# ------------------------------------------------------------------------------------------------


class Face(NamedTuple):
    """A face of an image: its box (x, y, width, height) in pixels, as the Haar cascade gives it, around the face turned
    upright; roll, degrees that it is tilted, positive where its own left eye is lower; and score, the confidence, 0..1,
    to be compared only with the same detector's.
    """

    box: tuple
    roll: float
    score: float


class View:
    """A frame, BGR uint8 [H, W, 3], with the smaller copies of it that the detectors need, each made once."""

    def __init__(self, frame):
        self.frame = frame
        # Smaller by a whole number: OpenCV makes such a copy many times faster than others.
        self.times = max(1, int(1 / reduction(frame.shape, COPY_SIDE) + 0.25))
        self.scale = reduction(frame.shape, HAAR_FRAME_SIDE)  # size of `gray` over that of the frame

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


def iou(a, b):
    """Intersection over union of two boxes (x, y, width, height)."""
    common = intersection(a, b)
    return float(common / (a[2] * a[3] + b[2] * b[3] - common))


def inside(a, b):
    """Share of the smaller of two boxes that lies in the other."""
    return float(intersection(a, b) / min(a[2] * a[3], b[2] * b[3]))


def intersection(a, b):
    """Area that two boxes have in common."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0, width) * max(0, height)


def around(box, margin, shape):
    """The window (x0, y0, x1, y1), int, around a box widened by `margin` on each side, within an image of `shape`."""
    x, y, w, h = box
    return (max(0, int(x - margin * w)), max(0, int(y - margin * h)),
            min(shape[1], math.ceil(x + (1 + margin) * w)), min(shape[0], math.ceil(y + (1 + margin) * h)))


def foremost(faces, shape):
    """The one of several faces that a photo of `shape` (height, width, ...) is about: large, near the middle, sure."""
    height, width = shape[:2]
    boxes = np.array([face.box for face in faces])
    scores = np.array([face.score for face in faces])
    offsets = boxes[:, :2] + boxes[:, 2:] / 2 - np.array([width, height]) / 2
    away = np.hypot(*offsets.T) / min(height, width)
    prominence = boxes[:, 2] * boxes[:, 3] * scores ** 2 * np.exp(-0.5 * (away / SPREAD) ** 2)
    return faces[int(np.argmax(prominence))]


class Detector:
    """What both detectors have in common."""

    def faces(self, rgb):
        """The faces of an RGB uint8 photo, list of Face: the one that it is about, then the others, largest first."""
        main = self.main_face(rgb)
        if main is None:
            return []
        others = [face for face in self.all_faces(rgb) if inside(face.box, main.box) < 0.5]
        return [main, *sorted(others, key=lambda face: -face.box[2] * face.box[3])]


# ------------------------------------------------------------------------------------------------ Haar

@functools.cache
def cascade():
    """OpenCV's cascade for frontal faces, loaded once a process."""
    # Read through Python: OpenCV's own file access fails on Windows where the path has non-ASCII letters.
    text = Path(cv2.data.haarcascades, "haarcascade_frontalface_default.xml").read_text(encoding="utf-8")
    storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
    classifier = cv2.CascadeClassifier()
    if not classifier.read(storage.getFirstTopLevelNode()):
        script.fail("OpenCV's face cascade cannot be read: reinstall with pip install -r requirements.txt")
    return classifier


def cascade_boxes(gray, neighbors, smallest, border=0.0, step=1.1):
    """The cascade on a gray uint8 image: boxes float64 [N, 4], and how many windows agree on each, [N]. `smallest` and
    the replicated `border`, into which boxes may reach, are shares of the image's shorter side."""
    shorter = min(gray.shape)
    pad = round(border * shorter)
    if pad:
        gray = cv2.copyMakeBorder(gray, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    least = max(24, round(smallest * shorter))
    boxes, windows = cascade().detectMultiScale2(gray, step, neighbors, minSize=(least, least))
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4) - (pad, pad, 0, 0)
    return boxes, np.asarray(windows, np.float64).reshape(-1)


class Haar(Detector):
    """The cascade that comes with OpenCV, the paper's way: upright, frontal, well-lit faces.

    Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features", CVPR 2001.
    """

    name = "haar"
    # Seconds between two looks everywhere, without known faces and with some: it costs ten times as much as following.
    interval, interval_known = 0.1, 0.2
    followed = None  # so many known faces are followed in a frame; None: all
    recipe = (name, HAAR_SIDES, HAAR_BORDER, NEIGHBORS, SPREAD)

    def main_face(self, rgb):
        """The Face that an RGB uint8 photo is about, or None."""
        faces = self.all_faces(rgb)
        return foremost(faces, rgb.shape) if faces else None

    def all_faces(self, rgb):
        """Every face of an RGB uint8 photo, list of Face."""
        (height, width), (least, most) = rgb.shape[:2], HAAR_SIDES
        scale = min(1.0, most / max(height, width))
        if min(height, width) * scale < least:
            scale = min(least / min(height, width), 4 * most / max(height, width))
        gray = cropping.resized(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), scale)
        boxes, windows = cascade_boxes(gray, NEIGHBORS, 0.12, HAAR_BORDER)
        return [Face(tuple(box.tolist()), 0.0, float(n / (n + 10)))
                for box, n in zip(np.rint(boxes / scale), windows, strict=True)]

    def everywhere(self, view, count=0):
        """Detections in a whole View: float64 [N, 5], x, y, width, height in the frame's pixels, and roll."""
        boxes, _ = cascade_boxes(view.gray, NEIGHBORS, HAAR_SMALLEST, HAAR_FRAME_BORDER, HAAR_FRAME_STEP)
        return upright_detections(boxes / view.scale)

    def near(self, view, tracks):
        """The same around the faces that a tracker knows (list of tracks.Track) only, at about their size."""
        found = [np.zeros((0, 4))]
        for track in tracks:
            x0, y0, x1, y1 = around(track.box * view.scale, 0.3, view.gray.shape)
            least = 0.8 * track.box[2] * view.scale / max(1, min(x1 - x0, y1 - y0))
            if x1 - x0 < 24 or y1 - y0 < 24 or least > 1:
                continue
            boxes, _ = cascade_boxes(view.gray[y0:y1, x0:x1], NEIGHBORS_KNOWN, least, step=HAAR_FRAME_STEP)
            found.append((boxes + (x0, y0, 0, 0)) / view.scale)
        return upright_detections(np.concatenate(found))

    def confirm(self, view, box, roll):
        """The roll, 0.0, of a new face that is detected again in the frame's own pixels, mirrored and at another size,
        as walls are not; else None."""
        side = round(CONFIRM_SIDE * (1 + 2 * CONFIRM_MARGIN))
        crop = cropping.crop_face(view.frame, box, CONFIRM_MARGIN, size=side)
        gray = cv2.flip(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), 1)
        boxes, _ = cascade_boxes(gray, NEIGHBORS_CONFIRM, 0.7 * CONFIRM_SIDE / side, HAAR_FRAME_BORDER)
        start = (side - CONFIRM_SIDE) / 2
        same = any(iou(box, (start, start, CONFIRM_SIDE, CONFIRM_SIDE)) > SAME_FACE for box in boxes)
        return 0.0 if same else None


def upright_detections(boxes):
    """Detections of boxes, float64 [N, 4], without a roll: float64 [N, 5]."""
    return np.column_stack([boxes, np.zeros(len(boxes))])


# ------------------------------------------------------------------------------------------------ YuNet

class YuNet(Detector):
    """YuNet, which knows faces of any tilt, large and small, turned and shaded. Its model must be in weights/."""

    name = "yunet"
    interval, interval_known = 0.1, 0.13  # seconds between two looks everywhere, without known faces and with some
    followed = 6  # so many known faces are followed in a frame, in turn
    recipe = (name, yunet.DIGEST, yunet.SIDE, yunet.CENTRE, yunet.NMS, yunet.LEAST_ROWS, LOOKS, TURNED_SIDE, TURNS,
              SURE, LIKELY, WEAK, SAME_FACE, SPREAD, UPRIGHT, GAIN, CLOSE, CHANGE, TRIES)

    def main_face(self, rgb):
        """The Face that an RGB uint8 photo is about, or None."""
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        face = look_at_photo(bgr)
        return face and upright(bgr, face)

    def all_faces(self, rgb):
        """The faces of an RGB uint8 photo that YuNet is sure of, list of Face."""
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        return [upright(bgr, face) for face in look(bgr, OTHERS_SIDE, SURE)]

    def everywhere(self, view, count=0):
        """Detections in a whole View: float64 [N, 5], x, y, width, height in the frame's pixels, and roll. `count`: how
        many such looks there were before, since each is another of FRAME_LOOKS."""
        share, degrees, border = FRAME_LOOKS[count % len(FRAME_LOOKS)]
        image, back = cropping.turned(view.copy, degrees, whole=False) if degrees else (view.copy, np.eye(2, 3))
        faces = [turned_back(face, degrees, back, view.times)
                 for face in look(image, share * max(image.shape), POSSIBLE, border)]
        return np.array([(*face.box, face.roll) for face in faces if has_middle(view.frame, face.box)]).reshape(-1, 5)

    def near(self, view, tracks):
        """Detections of the faces that a tracker knows (list of tracks.Track), each where it was, cut upright."""
        found = []
        for track in tracks:
            cut = at_edge(NEAR, track.box, view.frame.shape)
            large = max(track.box[2:]) * (1 + 2 * cut[0]) >= view.times * cut[1]  # the copy shows as much
            image, times = (view.copy, view.times) if large else (view.frame, 1)
            face = look_closer(image, np.divide(track.box, times), track.roll, cut, POSSIBLE)
            if face is not None:
                roll = min(track.roll + FASTEST, max(track.roll - FASTEST, face.roll))
                found.append((*np.multiply(face.box, times), roll))
        return np.array(found).reshape(-1, 5)

    def confirm(self, view, box, roll):
        """The roll at which YuNet is surest of a new face when it is cut large; None where it is sure at none."""
        cut = at_edge(CLOSE, box, view.frame.shape)
        looks = [look_closer(view.frame, box, turn, cut) for turn in {roll, *GUESSES}]
        best = max((face for face in looks if face is not None), key=lambda face: face.score, default=None)
        return best.roll if best is not None and best.score >= CERTAIN else None


def at_edge(cut, box, shape):
    """A cut, see CLOSE; without a margin, which would only repeat pixels, where the box reaches over the edge of an
    image of `shape` by a tenth of its size."""
    x, y, side = box[:3]
    beyond = min(x, y, shape[1] - x - side, shape[0] - y - side) < -0.1 * side
    return (0.0, *cut[1:]) if beyond else cut


def middle(box):
    """(x, y, side) of the middle of a box, floats."""
    return float(box[0] + box[2] / 2), float(box[1] + box[3] / 2), float(max(box[2], box[3]))


def square(x, y, side):
    """The square box whose middle is (x, y)."""
    return x - side / 2, y - side / 2, side, side


def has_middle(image, box):
    """Whether the middle of a box lies in an image."""
    x, y, _ = middle(box)
    return 0 <= x < image.shape[1] and 0 <= y < image.shape[0]


def settled(roll):
    """A roll in degrees, -180..180; 0 where it is less than UPRIGHT."""
    return 0.0 if abs(roll) < UPRIGHT else (roll + 180) % 360 - 180


def look(bgr, longest, threshold, border=0.2, enlarge=1.0):
    """YuNet's faces of a BGR image, surest first: list of Face, whose boxes and rolls are rough, see upright().

    Arguments: those of yunet.detect(). What lies in the border is no face of the image.
    """
    height, width = bgr.shape[:2]
    faces = []
    for row in yunet.detect(bgr, longest, threshold, border, enlarge):
        if 0 < row[0] + row[2] / 2 < width and 0 < row[1] + row[3] / 2 < height:
            x, y, side, roll = yunet.geometry(row, GAIN)
            faces.append(Face(square(x, y, side), settled(roll), row[14]))
    return sorted(faces, key=lambda face: -face.score)


def look_at_photo(bgr):
    """The Face that a BGR photo is about, box and roll rough, or None.

    Of LOOKS the first ends it that has a sure face, or that sees a likely one again. Else the photo is turned; else the
    surest of all faces is taken: a photo is about someone.
    """
    candidates, looked, repeated = [], set(), None
    for longest, enlarge, border in LOOKS:
        scale = min(enlarge, longest / max(bgr.shape[:2]))
        if (scale, border) in looked:
            continue
        looked.add((scale, border))
        faces = look(bgr, longest, WEAK, border, enlarge)
        likely = [face for face in faces if face.score >= LIKELY]
        if likely and likely[0].score >= SURE:
            return foremost(likely, bgr.shape)
        twice = [face for face in likely if any(before.score >= LIKELY and iou(face.box, before.box) > SAME_FACE
                                                for before in candidates)]
        if twice:
            repeated = foremost(twice, bgr.shape)
            break
        candidates += faces
    turned = look_at_turned(bgr)
    if turned and turned.score >= SURE:
        return turned
    candidates += [turned] if turned else []
    return repeated or max(candidates, key=lambda face: face.score, default=None)


def look_at_turned(bgr):
    """The likely face of a photo that lies on its side, upside down or aslant, the surest of all TURNS; or None."""
    scale = min(1.0, TURNED_SIDE / max(bgr.shape[:2]))
    small, best = cropping.resized(bgr, scale), None
    for degrees in TURNS:
        image, back = cropping.turned(small, degrees)
        faces = look(image, max(image.shape), LIKELY)
        if faces and (best is None or faces[0].score > best.score):
            best = turned_back(foremost(faces, image.shape), degrees, back, 1 / scale)
    return best


def turned_back(face, degrees, back, times):
    """A Face of an image turned by `degrees` -> the same in the image before, `times` as large. `back`: of turned()."""
    x, y, side = middle(face.box)
    x, y = times * (back @ (x, y, 1))
    return Face(square(x, y, times * side), face.roll - degrees, face.score)


def look_closer(bgr, box, roll, cut=CLOSE, threshold=0.5):
    """The Face that is known by its box and roll, detected again in a cut that shows it large and turned upright; None
    where it is not detected, or its middle lies outside the BGR image. `cut`: see CLOSE."""
    margin, pixels, gain = cut
    if not has_middle(bgr, box):
        return None
    x, y, side = middle(box)
    crop = cropping.crop_face(bgr, square(x, y, side), margin, roll=roll, size=pixels)
    rows = yunet.detect(crop, pixels, threshold, border=0.0)
    if not len(rows):
        return None
    row = rows[np.hypot(*(rows[:, :2] + rows[:, 2:4] / 2 - pixels / 2).T).argmin()]
    u, v, new_side, more = yunet.geometry(row, gain)
    scale, turn = side * (1 + 2 * margin) / pixels, math.radians(roll)
    u, v = (u - pixels / 2) * scale, (v - pixels / 2) * scale
    x, y = x + u * math.cos(turn) - v * math.sin(turn), y + u * math.sin(turn) + v * math.cos(turn)
    return Face(square(x, y, new_side * scale), roll + more, row[14])


def upright(bgr, face):
    """A Face of look() with the box and the roll that closer looks give, until little changes."""
    box, roll = face.box, face.roll
    for _ in range(TRIES):
        closer = look_closer(bgr, box, roll)
        if closer is None:
            break
        change, box, roll = abs(closer.roll - roll), closer.box, closer.roll
        if change < CHANGE:
            break
    return Face(box, settled(roll), face.score)


DETECTORS = {detector.name: detector for detector in (YuNet, Haar)}


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
            yunet.fetch()
        except script.Problem as problem:
            if strict:
                raise
            print(f"{problem}; until then faces are found by the Haar cascade", flush=True)
            return Haar()
    return DETECTORS[name]()
