"""YuNet, a small neural network that finds faces of any tilt, as a detector.

    python -m faces.yunet        # fetch its model into weights/ now; exit status 1 where it cannot be had

Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research, 2023.
"""

import math
import threading

import cv2
import numpy as np

from faces import cropping, fetching
from faces.boxes import SPREAD, Face, foremost, has_middle, iou
from terminal import script

# ------------------------------------------------------------------------------------------------ the network
# From the network's box and five points (eyes, nose, corners of the mouth) to the Haar cascade's box of the same face,
# so that crops of both detectors lie alike; fitted on 2,117 faces that both found. Side: SIDE times the root of width *
# height, 6.3 % off on average. Centre: CENTRE of the way from between the eyes to the middle of the mouth, 2.9 % off.
SIDE, CENTRE = 1.043, 0.288
NMS = 0.3  # intersection over union from which two detections are one face
# An image of fewer rows is filled up: on 32 and less, OpenCV 4.14's answers are another each time, and may be a
# confident face on a plain gray strip.
LEAST_ROWS = 64

# ------------------------------------------------------------------------------------------------ photos and frames
# Looks at a photo, each only where none before gave a sure face: (longer side of the copy, times at most that the
# photo is enlarged for it, replicated border). Small first: it is the fast one, and knows large faces best.
LOOKS = ((256, 1, 0.2), (320, 16, 0.2), (640, 4, 0.2), (1280, 2, 0.2), (1920, 2, 0.2), (320, 16, 0.6))
TURNED_SIDE, TURNS = 320, (90, 270, 180, 45, 315)  # then the photo is turned: longer side, and degrees
# Confidences. Of 8,346 photos 99.7 % had a face above SURE at 320 pixels, and of 200 pictures without people none;
# a face above LIKELY counts beside a sure one, or if two looks see it; above WEAK is better than no face in a photo.
SURE, LIKELY, WEAK = 0.8, 0.6, 0.3
REPEATED = 0.4  # intersection over union from which two looks see the same face
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

local = threading.local()  # OpenCV's detector holds the size of its image, so that each thread needs its own


def network():
    """This thread's network. The file must be there. From memory: OpenCV opens no path with an ñ on Windows."""
    if not hasattr(local, "network"):
        model = np.frombuffer(fetching.MODEL.read_bytes(), np.uint8)
        local.network = cv2.FaceDetectorYN.create("onnx", model, np.empty(0, np.uint8), (320, 320), 0.6, NMS)
    return local.network


def raw_detections(bgr, longest, threshold, border=0.2, enlarge=1.0):
    """The faces of a BGR uint8 image, surer than `threshold`: float64 [N, 15], x, y, width, height, five points (x, y),
    confidence.

    The image is resized to a longer side of `longest` pixels, but enlarged `enlarge` times at most, and gets a
    replicated `border`, a share of the shorter side, so that a face cut tight is found too.
    """
    scale = min(enlarge, longest / max(bgr.shape[:2]))
    bgr = cropping.resized(bgr, scale)
    pad = round(border * min(bgr.shape[:2]))
    if pad:
        bgr = cv2.copyMakeBorder(bgr, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    if bgr.shape[0] < LEAST_ROWS:
        bgr = cv2.copyMakeBorder(bgr, 0, LEAST_ROWS - bgr.shape[0], 0, 0, cv2.BORDER_REPLICATE)
    net = network()
    net.setInputSize(bgr.shape[1::-1])
    net.setScoreThreshold(threshold)
    rows = net.detect(bgr)[1]
    rows = np.zeros((0, 15)) if rows is None else rows.astype(np.float64)
    # For an image of one colour, or a pixel wide, some numbers may be infinite or none, or a box without an area.
    rows = rows[np.isfinite(rows).all(1) & (np.abs(rows) < 1e6).all(1) & (rows[:, 2:4] > 0).all(1)]
    rows[:, [0, 1, *range(4, 14)]] -= pad
    rows[:, :14] /= scale
    return rows


def geometry(row, gain):
    """A row of raw_detections() -> (centre x, centre y, side, roll): the square that Haar gives for the face, and tilt.

    Roll in degrees, positive where the face's own left eye is lower: `gain` times what the points show. The line of the
    eyes shows it, and the way from the eyes to the mouth; their sum leans to the longer, in a profile the latter.
    """
    points = row[4:14].reshape(5, 2)
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    down = mouth - eyes
    across = points[1] - points[0] + (down[1], -down[0])
    x, y = eyes + CENTRE * down
    return x, y, SIDE * math.sqrt(max(1.0, row[2] * row[3])), gain * math.degrees(math.atan2(across[1], across[0]))


class YuNet:
    """YuNet, which knows faces of any tilt, large and small, turned and shaded. Its model must be in weights/."""

    name = "yunet"
    interval, interval_known = 0.1, 0.13  # seconds between two looks everywhere, without known faces and with some
    followed = 6  # so many known faces are followed in a frame, in turn
    recipe = (name, fetching.DIGEST, SIDE, CENTRE, NMS, LEAST_ROWS, LOOKS, TURNED_SIDE, TURNS,
              SURE, LIKELY, WEAK, REPEATED, SPREAD, UPRIGHT, GAIN, CLOSE, CHANGE, TRIES)

    def main_face(self, rgb):
        """The Face that an RGB uint8 photo is about, or None."""
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        face = look_at_photo(bgr)
        return face and upright(bgr, face)

    def all_faces(self, rgb):
        """The faces of an RGB uint8 photo that YuNet is sure of, list of Face."""
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        return [upright(bgr, face) for face in look(bgr, OTHERS_SIDE, SURE)]

    def detect(self, view, count=0):
        """Detections in a whole View: float64 [N, 5], x, y, width, height in the frame's pixels, and roll. `count`: how
        many such looks there were before, since each is another of FRAME_LOOKS."""
        share, degrees, border = FRAME_LOOKS[count % len(FRAME_LOOKS)]
        image, back = cropping.turned(view.copy, degrees, whole=False) if degrees else (view.copy, np.eye(2, 3))
        faces = [turned_back(face, degrees, back, view.times)
                 for face in look(image, share * max(image.shape), POSSIBLE, border)]
        return np.array([(*face.box, face.roll) for face in faces if has_middle(view.frame, face.box)]).reshape(-1, 5)

    def detect_near(self, view, tracks):
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

    def verify(self, view, box, roll):
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


def settled(roll):
    """A roll in degrees, -180..180; 0 where it is less than UPRIGHT."""
    return 0.0 if abs(roll) < UPRIGHT else (roll + 180) % 360 - 180


def look(bgr, longest, threshold, border=0.2, enlarge=1.0):
    """YuNet's faces of a BGR image, surest first: list of Face, whose boxes and rolls are rough, see upright().

    Arguments: those of raw_detections(). What lies in the border is no face of the image.
    """
    faces = []
    for row in raw_detections(bgr, longest, threshold, border, enlarge):
        x, y, side, roll = geometry(row, GAIN)
        if has_middle(bgr, row[:4]) and has_middle(bgr, square(x, y, side)):
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
        twice = [face for face in likely if any(before.score >= LIKELY and iou(face.box, before.box) > REPEATED
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
    rows = raw_detections(crop, pixels, threshold, border=0.0)
    if not len(rows):
        return None
    row = rows[np.hypot(*(rows[:, :2] + rows[:, 2:4] / 2 - pixels / 2).T).argmin()]
    u, v, new_side, more = geometry(row, gain)
    scale, turn = side * (1 + 2 * margin) / pixels, math.radians(roll)
    u, v = (u - pixels / 2) * scale, (v - pixels / 2) * scale
    x, y = x + u * math.cos(turn) - v * math.sin(turn), y + u * math.sin(turn) + v * math.cos(turn)
    return Face(square(x, y, new_side * scale), roll + more, row[14])


def upright(bgr, face):
    """A Face of look() with the box and the roll that closer looks give, until little changes. Its middle stays in the
    BGR image."""
    box, roll = face.box, face.roll
    for _ in range(TRIES):
        closer = look_closer(bgr, box, roll)
        if closer is None or not has_middle(bgr, closer.box):
            break
        change, box, roll = abs(closer.roll - roll), closer.box, closer.roll
        if change < CHANGE:
            break
    return Face(box, settled(roll), face.score)


if __name__ == "__main__":
    script.run(fetching.fetch)
