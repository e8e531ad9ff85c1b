"""The Haar cascade that comes with OpenCV, as a detector. Nothing to run."""

import functools
from pathlib import Path

import cv2
import numpy as np

from faces import cropping
from faces.boxes import SPREAD, Face, around, foremost, has_middle, iou
from terminal import script

# ------------------------------------------------------------------------------------------------
# Pixels: minimum of the shorter, maximum of the longer side of the resized photo. Faces under 24 are not found.
SIDES = 200, 640
BORDER = 0.20  # replicated border around a photo, so that tightly cropped faces are found too
FRAME_SIDE, FRAME_BORDER = 256, 0.08  # longer side and replicated border of frames
FRAME_STEP = 1.2  # scale factor of the image pyramid
SMALLEST = 0.15  # smallest face in a frame, as a share of its shorter side: 72 pixels at 640x480, two metres away
NEIGHBORS, NEIGHBORS_KNOWN, NEIGHBORS_VERIFY = 5, 3, 16  # windows that must agree: new face, known face, verify()
VERIFY_MARGIN, VERIFY_SIDE = 0.4, 56  # verify(): margin of the cut, and pixels of the face in it
VERIFY_IOU = 0.4  # intersection over union from which verify() has found the same face
# ------------------------------------------------------------------------------------------------


@functools.cache
def cascade():
    """OpenCV's cascade for frontal faces, loaded once per process."""
    # Read by Python, since OpenCV cannot open paths with non-ASCII letters on Windows.
    text = Path(cv2.data.haarcascades, "haarcascade_frontalface_default.xml").read_text(encoding="utf-8")
    storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
    classifier = cv2.CascadeClassifier()
    if not classifier.read(storage.getFirstTopLevelNode()):
        script.fail("OpenCV's face cascade cannot be read: reinstall with pip install -r requirements.txt")
    return classifier


def cascade_boxes(gray, neighbors, smallest, border=0.0, step=1.1):
    """Run the cascade on a gray uint8 image: boxes float64 [N, 4], and how many windows agree on each, [N]. `smallest`
    and the replicated `border`, into which boxes may extend, are shares of the image's shorter side."""
    shorter = min(gray.shape)
    pad = round(border * shorter)
    if pad:
        gray = cv2.copyMakeBorder(gray, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    side = max(24, round(smallest * shorter))
    boxes, windows = cascade().detectMultiScale2(gray, step, neighbors, minSize=(side, side))
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4) - (pad, pad, 0, 0)
    return boxes, np.asarray(windows, np.float64).reshape(-1)


class Haar:
    """The cascade that comes with OpenCV, as in the paper, for upright, frontal, well-lit faces.

    Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features", CVPR 2001.
    """

    name = "haar"
    # Seconds between two searches of whole frames, without known faces and with some. Such a search takes ten times as
    # long as following the known faces.
    interval, interval_known = 0.1, 0.2
    followed = None  # how many known faces are followed in a frame; None: all
    recipe = (name, SIDES, BORDER, NEIGHBORS, SPREAD)

    def main_face(self, rgb):
        """The main Face of an RGB uint8 photo, or None."""
        faces = self.all_faces(rgb)
        return foremost(faces, rgb.shape) if faces else None

    def all_faces(self, rgb):
        """All faces of an RGB uint8 photo, list of Face."""
        height, width = rgb.shape[:2]
        minimum, maximum = SIDES
        scale = min(1.0, maximum / max(height, width))
        if min(height, width) * scale < minimum:
            scale = min(minimum / min(height, width), 4 * maximum / max(height, width))
        gray = cropping.resized(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), scale)
        boxes, windows = cascade_boxes(gray, NEIGHBORS, 0.12, BORDER)
        return [Face(tuple(box.tolist()), 0.0, float(n / (n + 10)))
                for box, n in zip(np.rint(boxes / scale), windows, strict=True) if has_middle(rgb, box)]

    def detect(self, view, count=0):
        """Detections in a whole View: float64 [N, 5], x, y, width, height in the frame's pixels, and roll. `count` is
        for YuNet only."""
        boxes, _ = cascade_boxes(view.gray, NEIGHBORS, SMALLEST, FRAME_BORDER, FRAME_STEP)
        return upright_detections(boxes / view.scale)

    def detect_near(self, view, tracks):
        """The same, but only around the faces that a tracker knows (list of tracks.Track), at about their size."""
        found = [np.zeros((0, 4))]
        for track in tracks:
            x0, y0, x1, y1 = around(track.box * view.scale, 0.3, view.gray.shape)
            smallest = 0.8 * track.box[2] * view.scale / max(1, min(x1 - x0, y1 - y0))
            if x1 - x0 < 24 or y1 - y0 < 24 or smallest > 1:
                continue
            boxes, _ = cascade_boxes(view.gray[y0:y1, x0:x1], NEIGHBORS_KNOWN, smallest, step=FRAME_STEP)
            found.append((boxes + (x0, y0, 0, 0)) / view.scale)
        return upright_detections(np.concatenate(found))

    def verify(self, view, box, roll):
        """The roll, 0.0, of a new face if it is detected again at full resolution, mirrored and at another size; else
        None. False detections on walls are not found again."""
        side = round(VERIFY_SIDE * (1 + 2 * VERIFY_MARGIN))
        crop = cropping.crop_face(view.frame, box, VERIFY_MARGIN, size=side)
        gray = cv2.flip(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), 1)
        boxes, _ = cascade_boxes(gray, NEIGHBORS_VERIFY, 0.7 * VERIFY_SIDE / side, FRAME_BORDER)
        start = (side - VERIFY_SIDE) / 2
        expected = (start, start, VERIFY_SIDE, VERIFY_SIDE)
        return 0.0 if any(iou(found, expected) > VERIFY_IOU for found in boxes) else None


def upright_detections(boxes):
    """Detections float64 [N, 5] of boxes, float64 [N, 4], with a roll of 0."""
    return np.column_stack([boxes, np.zeros(len(boxes))])
