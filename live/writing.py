"""Writes the videos and pictures of the live scripts, whole or not at all. Nothing to run."""

import contextlib
import os
import time
from pathlib import Path

import cv2

from live import capture
from terminal import files, records, script

# ------------------------------------------------------------------------------------------------
SAVED_DIR = "plots"  # for what the keys s and r save, and for realtime.jpg
SLACK = 0.75  # frames by which a video may be off its clock before a frame is repeated or dropped
FOURCC = {".mp4": "mp4v", ".avi": "MJPG", ".mov": "mp4v", ".mkv": "mp4v"}  # codecs that every OpenCV wheel has
FASTEST = {".avi": 600.0}  # frames per second; OpenCV writes no AVI faster
# ------------------------------------------------------------------------------------------------


def check_video_name(path, source=None):
    """End with one line unless `path` is a name for a video, other than the video `source` that is read."""
    if Path(path).suffix.lower() not in FOURCC:
        script.fail(f"OUTPUT={path}: the name of a video must end in one of {', '.join(FOURCC)}")
    if isinstance(source, str) and os.path.exists(source) and os.path.exists(path) and os.path.samefile(source, path):
        script.fail(f"OUTPUT={path} would replace the video that is read: give it another name")


def writable(rate, suffix):
    """The nearest frame rate that a video can have: MPEG-4 has at most 65,535 time steps per second."""
    rate = min(max(rate, capture.MIN_RATE), FASTEST.get(suffix, capture.MAX_RATE))
    if rate < 65:  # OpenCV makes the rate a fraction over 1000, 100 or 1
        return round(rate, 3)
    return round(rate, 2) if rate < 650 else float(round(rate))


class Video(contextlib.ExitStack):
    """A video file that gets its name when it is closed; as a context manager, only if the block raises no error.

    Each frame of a video source is written once, unless its timestamps drift: if the frame rate varies, or the source
    is live, frames are repeated or dropped so that a minute stays a minute. `reader`: the capture.Reader of the frames;
    its `rate` and `live` are read at the first frame. Without a frame no file is written.
    """

    def __init__(self, path, reader):
        super().__init__()
        self.path, self.reader, self.writer = Path(path), reader, None
        self.frames = 0  # written
        records.claim_file(path)

    def open(self, frame, timestamp):
        """Open the file for frames of this size."""
        self.size, self.start, self.rate = frame.shape[1::-1], timestamp, writable(self.reader.rate, self.path.suffix)
        self.temporary = self.enter_context(files.atomic(self.path))
        code = cv2.VideoWriter_fourcc(*FOURCC[self.path.suffix.lower()])
        self.writer = cv2.VideoWriter(str(self.temporary), code, self.rate, self.size)
        self.push(self.finish)
        if not self.writer.isOpened():
            raise script.Problem(f"{self.path} cannot be written: try another name, ending in .mp4 or .avi")

    def write(self, frame, timestamp):
        """Append a BGR frame. `timestamp`: seconds."""
        if self.writer is None:
            self.open(frame, timestamp)
        if frame.shape[1::-1] != self.size:
            frame = cv2.resize(frame, self.size)
        place = (timestamp - self.start) * self.rate
        wanted = round(place) + 1
        if not self.reader.live and abs(place - self.frames) <= SLACK:
            wanted = self.frames + 1
        while self.frames < wanted:
            self.writer.write(frame)
            self.frames += 1

    def finish(self, error, *_):
        """Close the file. Unless an error came before, check that all frames can be read back, since OpenCV does not
        report a full disk.
        """
        self.writer.release()
        if error is None:
            again = cv2.VideoCapture(str(self.temporary))
            whole = again.isOpened() and again.get(cv2.CAP_PROP_FRAME_COUNT) >= self.frames
            again.release()
            if not whole:
                raise script.Problem(f"{self.path} could not be written whole: is the disk full?")


class TooLarge(script.Problem):
    """A picture that its format cannot hold."""


def save_photo(path, image):
    """Write a BGR image as JPEG, PNG, ... by its suffix. Raises TooLarge if the format cannot hold it."""
    ok, data = cv2.imencode(Path(path).suffix or ".jpg", image)
    if not ok:
        raise TooLarge(f"{path} cannot be written as an image ({image.shape[1]}x{image.shape[0]} pixels)")
    with files.atomic(path) as temporary:
        temporary.write_bytes(data.tobytes())


def stamped(name, suffix):
    """plots/<name>_<date>_<time><suffix>"""
    return Path(SAVED_DIR, f"{name}_{time.strftime('%Y%m%d_%H%M%S')}_{time.time_ns() // 10**6 % 1000:03d}{suffix}")


def snapshot(picture):
    """Save the picture that is shown (key s). If it cannot be written, only print that."""
    path = stamped("snapshot", ".jpg")
    try:
        records.claim_file(path)
        save_photo(path, picture)
        print(f"snapshot: {path.as_posix()}", flush=True)
    except script.Problem as problem:
        print(problem, flush=True)
    except OSError as error:
        print(script.explained(error), flush=True)
