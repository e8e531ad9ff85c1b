"""Where the faces of an image are, and which one a photo is about. Nothing to run."""

import functools
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from faces import cropping, yunet
from terminal import script

# ------------------------------------------------------------------------------------------------
BORDER = 0.20  # replicated border around the photo, so that a face cut tight is found too
# Passes over a photo, each tried only where the one before gave nothing: (agreeing windows wanted, smallest face as a
# share of the photo's shorter side, step of the Haar pyramid, whether a second look must confirm the face). The first
# finds nearly all and is the fast one; the second finds half of the rest, and would bring in knees and curtains alone.
PASSES = ((5, 0.3, 1.1, False), (3, 0.2, 1.05, True))
# Of several faces, one this far from the photo's middle (in shorter sides) counts 0.6 of its size; and the first pass
# is not believed beyond FAR: there it often has a mouth, an eye, or a bystander.
OFF_CENTRE, FAR = 0.18, 0.25
LONGEST_SIDE = 640  # detection runs on a copy no larger than this, so that a 12-megapixel photo takes no seconds
SHORTEST_SIDE = 200  # and smaller photos are enlarged to this: the cascade knows no face under 24 pixels

# YuNet's looks at a photo, each only where none before it gave a sure face: (longer side of the copy, times at most
# that the photo is enlarged for it, replicated border). Small first: it is the fast one, and knows large faces best.
LOOKS = ((256, 1, 0.2), (320, 16, 0.2), (640, 4, 0.2), (1280, 2, 0.2), (1920, 2, 0.2), (320, 16, 0.6))
# Scores. Of 8,346 photos 99.7 % had a face above SURE at 320 pixels, and of 200 pictures without people none;
# beside a sure one, a face above LIKELY may be what the photo is about; and above WEAK is better than nothing.
SURE, LIKELY, WEAK = 0.8, 0.6, 0.3
SAME = 0.4  # overlap from which two looks, or two finders, mean the same face
TURNED_SIDE = 320  # pixels of the longer side of a photo that is turned
SPREAD = 0.4  # what OFF_CENTRE is for Haar: YuNet's faces away from the middle of a photo are faces
TURNS = (90, 270, 180, 45, 315)  # degrees that a photo is turned by where it has no sure face as it stands
# ------------------------------------------------------------------------------------------------


HAAR, YUNET = "haar", "yunet"


class Face(NamedTuple):
    """A face of an image: its box (x, y, width, height) in pixels, as the Haar cascade would give it, around the face
    turned upright; roll, degrees that it is tilted, positive where its own left eye is lower; score, 0..1, how sure
    the finder is, to be compared only with the same finder's; and the finder, "haar" or "yunet".
    """

    box: tuple
    roll: float
    score: float
    finder: str


@functools.cache
def cascade(name="frontalface_default"):
    """A Haar cascade of the opencv package, loaded once a process."""
    # Read through Python: OpenCV's own file access fails on Windows where the path has non-ASCII letters.
    text = Path(cv2.data.haarcascades, f"haarcascade_{name}.xml").read_text(encoding="utf-8")
    storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
    classifier = cv2.CascadeClassifier()
    if not classifier.read(storage.getFirstTopLevelNode()):
        script.fail("OpenCV's face cascade cannot be read: reinstall with pip install -r requirements.txt")
    return classifier


def search(image, neighbors=5, smallest=0.12, longest=LONGEST_SIDE, shortest=SHORTEST_SIDE, border=BORDER, step=1.1):
    """All faces of an RGB or gray uint8 image: int32 [N, 4] boxes (x, y, width, height), and how many windows of the
    cascade agree on each, int [N].

    Boxes are in the image's pixels and may reach over its edge, since the cascade runs on a replicated border.
    `smallest` is a share of the shorter side; `longest`/`shortest` bound the size of the copy that is searched.
    """
    height, width = image.shape[:2]
    gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = min(1.0, longest / max(height, width)) if longest else 1.0
    if min(height, width) * scale < shortest:
        scale = min(shortest / min(height, width), 4 * LONGEST_SIDE / max(height, width))
    if scale != 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    pad = round(border * min(gray.shape))
    if pad:
        gray = cv2.copyMakeBorder(gray, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    least = max(24, round(smallest * (min(gray.shape) - 2 * pad)))
    boxes, windows = cascade().detectMultiScale2(gray, step, neighbors, minSize=(least, least))
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    boxes[:, :2] -= pad
    return np.rint(boxes / scale).astype(np.int32), np.asarray(windows, dtype=np.int64).reshape(-1)


def find_faces(image, *arguments, **more):
    """All faces of an image, int32 [N, 4] boxes (x, y, width, height), largest first. Arguments: those of search()."""
    boxes, _ = search(image, *arguments, **more)
    return boxes[np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable")]


def looks_like_a_face(image, box):
    """A second look at a doubtful box: another face cascade, or both eye cascades, find something in it too."""
    gray = cv2.cvtColor(cropping.crop_face(image, box, 0.3, 192), cv2.COLOR_RGB2GRAY)
    if len(cascade("frontalface_alt2").detectMultiScale(gray, 1.1, 1, minSize=(72, 72))):
        return True
    eyes = cv2.cvtColor(cropping.crop_face(image, box, 0.0, 160), cv2.COLOR_RGB2GRAY)[:96]
    size = {"minSize": (24, 24), "maxSize": (70, 70)}
    return all(len(cascade(name).detectMultiScale(eyes, 1.1, wanted, **size))
               for name, wanted in (("eye", 3), ("eye_tree_eyeglasses", 2)))


def off_centre(boxes, shape):
    """How far boxes [N, 4] are from the middle of a photo of `shape` (height, width, ...), in shorter sides: [N]."""
    height, width = shape[:2]
    return np.hypot(*(boxes[:, :2] + boxes[:, 2:] / 2 - np.array([width, height]) / 2).T) / min(height, width)


def prominence(boxes, windows, shape):
    """How much a photo of `shape` (height, width, ...) is about each face: float64 [N], to be compared only.

    A face's area, times the windows that agree on it, less the further it is from the middle of the photo. The area
    alone would take a bystander who stands nearer, or a box around head and shoulders that few windows agree on.
    """
    return boxes[:, 2] * boxes[:, 3] * windows * np.exp(-0.5 * (off_centre(boxes, shape) / OFF_CENTRE) ** 2)


def haar_face(image):
    """The box (x, y, width, height) of the face that an RGB photo is about, by Haar alone, and its windows; or None."""
    for neighbors, smallest, step, confirm in PASSES:
        boxes, windows = search(image, neighbors, smallest, step=step)
        order = np.argsort(-prominence(boxes, windows, image.shape), kind="stable")
        boxes, windows = boxes[order], windows[order]
        if not confirm and (off_centre(boxes[:1], image.shape) < FAR).any():
            return boxes[0], windows[0]
        for box, agreeing in zip(boxes, windows, strict=True) if confirm else ():
            if looks_like_a_face(image, box):
                return box, agreeing
    return None


def of_haar(box, windows):
    """The Face of a Haar box on which that many windows agree; it has no roll, since Haar sees upright faces only."""
    return Face(tuple(box.tolist()), 0.0, float(windows / (windows + 10)), HAAR)


def of_yunet(bgr, *arguments, **more):
    """YuNet's faces of a BGR image, surest first: list of Face. Small ones seem less tilted than they are: see
    upright(). Arguments: those of yunet.look()."""
    return [Face(tuple(box.tolist()), float(roll), float(score), YUNET)
            for box, roll, score in zip(*yunet.look(bgr, *arguments, **more), strict=True)]


@functools.cache  # the network is asked once, whoever asks here
def usable(finders):
    """Those of `finders` that can be had here: fetches YuNet's model where it is missing, which takes a few seconds at
    most, and says in one line where that fails. An unknown finder, or none, ends the program."""
    if not finders or set(finders) - {HAAR, YUNET} or len(set(finders)) != len(finders):
        script.fail(f"FINDERS={finders!r}: must be some of {HAAR!r} and {YUNET!r}, such as ({HAAR!r},)")
    return tuple(finders) if YUNET not in finders or yunet.fetch() else (HAAR,)


def recipe(finders):
    """Every number here that decides which face a photo gives and how it is cut: a tuple, to be compared only."""
    haar = BORDER, PASSES, OFF_CENTRE, FAR, LONGEST_SIDE, SHORTEST_SIDE
    if YUNET not in finders:
        return haar
    look = (yunet.DIGEST, yunet.SIDE, yunet.CENTRE, yunet.UPRIGHT, yunet.SEEN_SMALL, yunet.CLOSE, yunet.CHANGE,
            yunet.TRIES, yunet.NMS, yunet.LEAST_ROWS)
    return *haar, HAAR in finders, LOOKS, SURE, LIKELY, WEAK, SAME, TURNED_SIDE, SPREAD, TURNS, look


def others(image, first, finders, longest=1280):
    """The faces of an RGB uint8 image beside `first`, which main_face() gave, the largest first: list of Face, by YuNet
    where it is among the `finders`."""
    if YUNET in finders:
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        faces = [upright(bgr, face) for face in of_yunet(bgr, longest, SURE) if inside(face.box, first.box) < 0.5]
    else:
        faces = [of_haar(box, n) for box, n in zip(*search(image), strict=True) if inside(box, first.box) < 0.5]
    return sorted(faces, key=lambda face: -face.box[2] * face.box[3])


def upright(bgr, face):
    """A Face of of_yunet() with the roll and box that a closer look at it in its BGR image gives."""
    x, y, side, _ = face.box
    x, y, side, roll = yunet.measured_again(bgr, x + side / 2, y + side / 2, side, face.roll)
    return face._replace(box=(x - side / 2, y - side / 2, side, side), roll=yunet.settled(roll))


def foremost(faces, shape):
    """The one of YuNet's faces that a photo of `shape` is about: large, near the middle, sure."""
    boxes = np.array([face.box for face in faces])
    sure = np.array([face.score for face in faces]) ** 2
    near = np.exp(-0.5 * (off_centre(boxes, shape) / SPREAD) ** 2)
    return faces[int(np.argmax(boxes[:, 2] * boxes[:, 3] * sure * near))]


def in_turned(bgr):
    """The likely face that a photo lying on its side, upside down or aslant is about, the surest of all turns; or None.
    """
    scale = min(1.0, TURNED_SIDE / max(bgr.shape[:2]))
    size = [max(1, round(v * scale)) for v in bgr.shape[1::-1]]
    small = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA) if scale < 1 else bgr
    best = None
    for degrees in TURNS:
        image, back = cropping.turned(small, degrees)
        faces = of_yunet(image, max(image.shape), LIKELY)
        if faces and (best is None or faces[0].score > best.score):
            (x, y, side, _), roll, score, finder = foremost(faces, image.shape)
            x, y = (back @ (x + side / 2, y + side / 2, 1)) / scale
            side /= scale
            best = Face((x - side / 2, y - side / 2, side, side), roll - degrees, score, finder)
    return best


def main_face(image, finders=(HAAR,)):
    """The Face that an RGB photo is about, or None. Not for live video."""
    if YUNET not in finders:
        by_haar = haar_face(image)
        return by_haar and of_haar(*by_haar)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    face, sure, doubtful = seen(bgr)
    if not sure:
        turned = in_turned(bgr)
        if turned and turned.score >= SURE:
            face = turned
        else:
            face = face or best_guess(image, doubtful + [turned] * bool(turned), HAAR in finders)
    return face if face is None or face.finder == HAAR else upright(bgr, face)


def seen(bgr):
    """(the Face that a BGR photo is about, or None; whether YuNet is sure; the doubtful faces of the looks before).

    Of its LOOKS the first ends it that has a sure face, or that sees a likely one again.
    """
    doubtful, scales = [], set()
    for longest, enlarge, border in LOOKS:
        scale = min(enlarge, longest / max(bgr.shape[:2])), border
        if scale in scales:
            continue
        scales.add(scale)
        faces = of_yunet(bgr, longest, WEAK, border, enlarge)
        likely = [face for face in faces if face.score >= LIKELY]
        if likely and likely[0].score >= SURE:
            return foremost(likely, bgr.shape), True, doubtful
        twice = [face for face in likely if any(before.score >= LIKELY and overlap(face.box, before.box) > SAME
                                                for before in doubtful)]
        if twice:
            return foremost(twice, bgr.shape), False, doubtful
        doubtful += faces
    return None, False, doubtful


def best_guess(image, doubtful, with_haar):
    """The Face of an RGB photo that YuNet is sure of nowhere, or None: a photo is about someone.

    A likely face counts, whatever Haar says; else the one that Haar, where it may look, sees too; else Haar's own,
    which YuNet contradicts weakly at most; else YuNet's surest.
    """
    doubtful = sorted(doubtful, key=lambda face: -face.score)
    if doubtful and doubtful[0].score >= LIKELY:
        return doubtful[0]
    by_haar = haar_face(image) if with_haar else None
    if by_haar:
        return next((face for face in doubtful if overlap(face.box, by_haar[0]) > SAME), of_haar(*by_haar))
    return doubtful[0] if doubtful else None


def overlap(a, b):
    """Intersection over union of two boxes (x, y, width, height)."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return float(width * height / (a[2] * a[3] + b[2] * b[3] - width * height))


def inside(a, b):
    """Share of the smaller of two boxes that lies in the other."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return float(max(0, width) * max(0, height) / min(a[2] * a[3], b[2] * b[3]))
