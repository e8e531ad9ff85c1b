"""Where the faces of an image are, and which one a photo is about. Nothing to run."""

import functools
from pathlib import Path

import cv2
import numpy as np

from faces import cutting
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
# ------------------------------------------------------------------------------------------------


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
    gray = cv2.cvtColor(cutting.crop_face(image, box, 0.3, 192), cv2.COLOR_RGB2GRAY)
    if len(cascade("frontalface_alt2").detectMultiScale(gray, 1.1, 1, minSize=(72, 72))):
        return True
    eyes = cv2.cvtColor(cutting.crop_face(image, box, 0.0, 160), cv2.COLOR_RGB2GRAY)[:96]
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


def main_face(image):
    """The box (x, y, width, height) of the face that an RGB photo is about, or None. Not for live video."""
    for neighbors, smallest, step, confirm in PASSES:
        boxes, windows = search(image, neighbors, smallest, step=step)
        boxes = boxes[np.argsort(-prominence(boxes, windows, image.shape), kind="stable")]
        if not confirm and (off_centre(boxes[:1], image.shape) < FAR).any():
            return boxes[0]
        for box in boxes if confirm else ():
            if looks_like_a_face(image, box):
                return box
    return None


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


