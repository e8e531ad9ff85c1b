"""YuNet, a small neural network that detects faces of any tilt.

    python -m faces.yunet        # fetch its model into weights/ now; exit status 1 if that fails

Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research, 2023.
"""

import math
import threading
from typing import NamedTuple

import cv2
import numpy as np

from faces import cropping, fetching
from faces.boxes import SPREAD, Face, foremost, has_middle, iou
from terminal import script


class Search(NamedTuple):
    """A search of a photo, see raw_detections()."""

    longest: int  # longer side of the resized photo, in pixels
    enlarge: int  # its maximum enlargement
    border: float  # replicated border, a share of the shorter side


class Cut(NamedTuple):
    """A face that is cut out large, to be detected again."""

    margin: float  # around the box, as a share of its size
    pixels: int  # side of the cut
    gain: float  # roll over the roll that the landmarks show, for a face of this size in the cut


# ------------------------------------------------------------------------------------------------ the network
# From the network's box and five landmarks (eyes, nose, corners of the mouth) to the Haar cascade's box of the same
# face, so that crops of both detectors agree; fitted on 2,117 faces that both found. Side: SIDE times the root of
# width * height, mean error 6.3 %. Centre: CENTRE of the way from between the eyes to the middle of the mouth, 2.9 %.
SIDE, CENTRE = 1.043, 0.288
NMS = 0.3  # intersection over union from which two detections are one face
# An image of fewer rows is padded: with 32 or less, results of OpenCV 4.14 differ from run to run, and may include a
# confident face on a plain gray strip.
MIN_ROWS = 64

# ------------------------------------------------------------------------------------------------ photos and frames
# Searches of a photo, until one gives a sure face, or a likely one that an earlier search gave too. The smallest comes
# first, since it is the fastest, and best with large faces.
SEARCHES = (Search(256, 1, 0.2), Search(320, 16, 0.2), Search(640, 4, 0.2), Search(1280, 2, 0.2), Search(1920, 2, 0.2),
            Search(320, 16, 0.6))
TURNED_SIDE, TURNS = 320, (90, 270, 180, 45, 315)  # if no face is sure, the photo is turned: longer side, degrees
# Confidences. Of 8,346 photos 99.7 % had a face above SURE at 320 pixels, and of 200 pictures without people none. A
# face above LIKELY counts beside a sure one, or if two searches find it; a face above WEAK is better than none.
SURE, LIKELY, WEAK = 0.8, 0.6, 0.3
REPEATED = 0.4  # intersection over union from which two searches have found the same face
OTHERS_SIDE = 1280  # longer side of the resized photo in which its other faces are detected
UPRIGHT = 3.0  # degrees; a smaller roll counts as 0, since rotation costs sharpness and showed no gain
# YuNet's landmarks show about three quarters of the tilt of a large face, and next to nothing of a small one. So they
# are detected again on the face cut out large and turned by the current roll, at most TRIES times, until the roll
# changes by less than CHANGE degrees.
GAIN = 1.35  # roll over the roll that the landmarks show, for a face that is small in the image
CLOSE = Cut(0.2, 192, 1.2)
CHANGE, TRIES = 4.0, 4

# Searches of a whole frame, in turn: (share of the copy's size, rotation in degrees, replicated border). The third is
# for faces larger than the frame. With the rotations, 95 % of 130 faces tilted by 30 degrees are found in a single
# frame instead of 90 %, and 94 % of 106 faces tilted by 45 degrees instead of 71 %.
FRAME_SEARCHES = ((1.0, 0, 0.03), (1.0, 30, 0.0), (0.5, 0, 0.2), (1.0, -30, 0.0))
NEAR = Cut(0.5, 96, GAIN)  # of a known face that is followed
GUESSES = 0.0, 30.0, -30.0  # degrees that verify() tries for a new face, beside its detected roll
FASTEST = 10.0  # maximum change of a known face's roll per detection, in degrees, since one detection may be far off
POSSIBLE, CERTAIN = 0.45, 0.65  # minimum confidence in a frame, and in verify()
# ------------------------------------------------------------------------------------------------

local = threading.local()  # OpenCV's detector stores the size of its image, so each thread needs its own detector


def network():
    """This thread's network. Its file must exist; Python reads it, since OpenCV opens no path with an ñ on Windows."""
    if not hasattr(local, "network"):
        model = np.frombuffer(fetching.MODEL.read_bytes(), np.uint8)
        local.network = cv2.FaceDetectorYN.create("onnx", model, np.empty(0, np.uint8), (320, 320), 0.6, NMS)
    return local.network


def raw_detections(bgr, longest, threshold, border=0.2, enlarge=1.0):
    """The faces of a BGR uint8 image with a confidence above `threshold`: float64 [N, 15], x, y, width, height, five
    landmarks (x, y), confidence.

    The image is resized to a longer side of `longest` pixels, but enlarged at most `enlarge` times, and gets a
    replicated `border`, a share of the shorter side, so that tightly cropped faces are found too.
    """
    scale = min(enlarge, longest / max(bgr.shape[:2]))
    bgr = cropping.resized(bgr, scale)
    pad = round(border * min(bgr.shape[:2]))
    if pad:
        bgr = cv2.copyMakeBorder(bgr, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    if bgr.shape[0] < MIN_ROWS:
        bgr = cv2.copyMakeBorder(bgr, 0, MIN_ROWS - bgr.shape[0], 0, 0, cv2.BORDER_REPLICATE)
    net = network()
    net.setInputSize(bgr.shape[1::-1])
    net.setScoreThreshold(threshold)
    rows = net.detect(bgr)[1]
    rows = np.zeros((0, 15)) if rows is None else rows.astype(np.float64)
    # For an image of one colour, or one pixel wide, values may be infinite or NaN, and boxes may have no area.
    rows = rows[np.isfinite(rows).all(1) & (np.abs(rows) < 1e6).all(1) & (rows[:, 2:4] > 0).all(1)]
    rows[:, [0, 1, *range(4, 14)]] -= pad
    rows[:, :14] /= scale
    return rows


def geometry(row, gain):
    """A row of raw_detections() -> (centre x, centre y, side, roll): the Haar cascade's square for the face, and its
    tilt.

    The roll, in degrees, positive if the person's left eye is lower, is `gain` times what the landmarks show. These
    give two directions: from eye to eye, and from the eyes to the mouth. Their sum depends more on the longer one,
    which in a profile is the second.
    """
    points = row[4:14].reshape(5, 2)
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    down = mouth - eyes
    across = points[1] - points[0] + (down[1], -down[0])
    x, y = eyes + CENTRE * down
    return x, y, SIDE * math.sqrt(max(1.0, row[2] * row[3])), gain * math.degrees(math.atan2(across[1], across[0]))


class YuNet:
    """YuNet, for faces of any tilt and size, in profile and in shade. Its model must be in weights/."""

    name = "yunet"
    interval, interval_known = 0.1, 0.13  # seconds between two searches of whole frames, without known faces, with some
    followed = 6  # how many known faces are followed in a frame, in turn
    # As plain tuples, since another repr() of the recipe would make all crops again.
    recipe = (name, fetching.DIGEST, SIDE, CENTRE, NMS, MIN_ROWS, tuple(map(tuple, SEARCHES)), TURNED_SIDE, TURNS,
              SURE, LIKELY, WEAK, REPEATED, SPREAD, UPRIGHT, GAIN, tuple(CLOSE), CHANGE, TRIES)

    def main_face(self, rgb):
        """The main Face of an RGB uint8 photo, or None."""
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        face = search_photo(bgr)
        return None if face is None else upright(bgr, face)

    def all_faces(self, rgb):
        """The sure faces of an RGB uint8 photo, list of Face."""
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        return [upright(bgr, face) for face in search(bgr, OTHERS_SIDE, SURE)]

    def detect(self, view, count=0):
        """Detections in a whole View: float64 [N, 5], x, y, width, height in the frame's pixels, and roll. `count`: the
        number of earlier calls, which take FRAME_SEARCHES in turn."""
        share, degrees, border = FRAME_SEARCHES[count % len(FRAME_SEARCHES)]
        if degrees:
            image, back = cropping.turned(view.copy, degrees, whole=False)
        else:
            image, back = view.copy, np.eye(2, 3)
        faces = [turned_back(face, degrees, back, view.times)
                 for face in search(image, share * max(image.shape), POSSIBLE, border)]
        return np.array([(*face.box, face.roll) for face in faces if has_middle(view.frame, face.box)]).reshape(-1, 5)

    def detect_near(self, view, tracks):
        """The same, but only of the faces that a tracker knows (list of tracks.Track), each in an upright cut."""
        found = []
        for track in tracks:
            cut = at_edge(NEAR, track.box, view.frame.shape)
            large = max(track.box[2:]) * (1 + 2 * cut.margin) >= view.times * cut.pixels  # the copy has enough pixels
            image, times = (view.copy, view.times) if large else (view.frame, 1)
            face = detect_again(image, np.divide(track.box, times), track.roll, cut, POSSIBLE)
            if face is not None:
                roll = min(track.roll + FASTEST, max(track.roll - FASTEST, face.roll))
                found.append((*np.multiply(face.box, times), roll))
        return np.array(found).reshape(-1, 5)

    def verify(self, view, box, roll):
        """The roll at which YuNet is surest of a new face that is cut out large; None if it is sure at no roll."""
        cut = at_edge(CLOSE, box, view.frame.shape)
        found = [detect_again(view.frame, box, turn, cut) for turn in {roll, *GUESSES}]
        best = max((face for face in found if face is not None), key=lambda face: face.score, default=None)
        return best.roll if best is not None and best.score >= CERTAIN else None


def at_edge(cut, box, shape):
    """The Cut `cut`, with no margin if the box extends over the edge of an image of `shape` by a tenth of its size,
    since the margin would only repeat pixels."""
    x, y, side = box[:3]
    beyond = min(x, y, shape[1] - x - side, shape[0] - y - side) < -0.1 * side
    return cut._replace(margin=0.0) if beyond else cut


def middle(box):
    """(x, y) of the middle of a box, and its longer side: three floats."""
    return float(box[0] + box[2] / 2), float(box[1] + box[3] / 2), float(max(box[2], box[3]))


def square(x, y, side):
    """The square box, four floats, whose middle is (x, y)."""
    return float(x - side / 2), float(y - side / 2), float(side), float(side)


def settled(roll):
    """A roll in degrees, -180..180; 0 if it is less than UPRIGHT."""
    return 0.0 if abs(roll) < UPRIGHT else (roll + 180) % 360 - 180


def search(bgr, longest, threshold, border=0.2, enlarge=1.0):
    """YuNet's faces of a BGR image, surest first: list of Face, with rough boxes and rolls, see upright().

    Arguments: see raw_detections(). Faces in the border are left out.
    """
    faces = []
    for row in raw_detections(bgr, longest, threshold, border, enlarge):
        x, y, side, roll = geometry(row, GAIN)
        if has_middle(bgr, row[:4]) and has_middle(bgr, square(x, y, side)):
            faces.append(Face(square(x, y, side), settled(roll), float(row[14])))
    return sorted(faces, key=lambda face: -face.score)


def search_photo(bgr):
    """The main Face of a BGR photo, with a rough box and roll, or None.

    SEARCHES end when one finds a sure face, which is taken, or a likely one for the second time. In the latter case,
    and if there is none, the photo is turned too: a sure face is taken, then the likely one, then the surest of all
    faces, since a photo probably shows someone.
    """
    candidates, done, repeated = [], set(), None
    for longest, enlarge, border in SEARCHES:
        scale = min(enlarge, longest / max(bgr.shape[:2]))
        if (scale, border) in done:
            continue
        done.add((scale, border))
        faces = search(bgr, longest, WEAK, border, enlarge)
        likely = [face for face in faces if face.score >= LIKELY]
        if likely and likely[0].score >= SURE:
            return foremost(likely, bgr.shape)
        twice = [face for face in likely if any(before.score >= LIKELY and iou(face.box, before.box) > REPEATED
                                                for before in candidates)]
        if twice:
            repeated = foremost(twice, bgr.shape)
            break
        candidates += faces
    turned = search_turned(bgr)
    if turned is not None:
        if turned.score >= SURE:
            return turned
        candidates.append(turned)
    if repeated is not None:
        return repeated
    return max(candidates, key=lambda face: face.score, default=None)


def search_turned(bgr):
    """The main likely face of a BGR photo, for photos on their side, upside down or aslant, at that of TURNS at which
    the surest face is found; None if none is likely."""
    scale = min(1.0, TURNED_SIDE / max(bgr.shape[:2]))
    small = cropping.resized(bgr, scale)
    best = None
    for degrees in TURNS:
        image, back = cropping.turned(small, degrees)
        # A turned image has corners that repeat its edge, in which faces are repeated too.
        faces = [face for face in search(image, max(image.shape), LIKELY)
                 if has_middle(bgr, turned_back(face, degrees, back, 1 / scale).box)]
        if faces and (best is None or faces[0].score > best.score):
            best = turned_back(foremost(faces, image.shape), degrees, back, 1 / scale)
    return best


def turned_back(face, degrees, back, times):
    """A Face in an image that was turned by `degrees` -> the same Face in the original, which is `times` as large.
    `back`: of cropping.turned()."""
    x, y, side = middle(face.box)
    x, y = times * (back @ (x, y, 1))
    return Face(square(x, y, times * side), face.roll - degrees, face.score)


def detect_again(bgr, box, roll, cut=CLOSE, threshold=0.5):
    """Detect a face with a known box and roll again, in a Cut of the BGR image that shows it large and upright: Face;
    None if it is not detected, or the middle of the known box or of the new one lies outside the image."""
    margin, pixels, gain = cut
    if not has_middle(bgr, box):
        return None
    x, y, side = middle(box)
    crop = cropping.crop_face(bgr, square(x, y, side), margin, roll=roll, size=pixels)
    rows = raw_detections(crop, pixels, threshold, border=0.0)
    if not len(rows):
        return None
    offsets = rows[:, :2] + rows[:, 2:4] / 2 - pixels / 2  # from the middle of the cut
    row = rows[np.hypot(*offsets.T).argmin()]
    u, v, new_side, rest = geometry(row, gain)  # in the cut; `rest`: the roll that it still shows
    scale, turn = side * (1 + 2 * margin) / pixels, math.radians(roll)
    u, v = (u - pixels / 2) * scale, (v - pixels / 2) * scale
    x, y = x + u * math.cos(turn) - v * math.sin(turn), y + u * math.sin(turn) + v * math.cos(turn)
    new_box = square(x, y, new_side * scale)
    return Face(new_box, roll + rest, float(row[14])) if has_middle(bgr, new_box) else None


def upright(bgr, face):
    """A Face of search(), with its box and roll refined by detect_again() until the roll changes little. Its middle
    stays in the BGR image."""
    box, roll = face.box, face.roll
    for _ in range(TRIES):
        again = detect_again(bgr, box, roll)
        if again is None:
            break
        change, box, roll = abs(again.roll - roll), again.box, again.roll
        if change < CHANGE:
            break
    return Face(box, settled(roll), face.score)


if __name__ == "__main__":
    script.run(fetching.fetch)
