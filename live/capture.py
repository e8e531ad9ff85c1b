"""Where frames come from and go to: cameras, streams and video files read in a thread, videos written. Nothing to run.

Of a camera or a live stream only the newest frame counts, so that the picture never lags behind; of a video file
every frame is kept, in order.
"""

import contextlib
import os
import sys
import threading
import time
from collections import deque
from pathlib import Path

import cv2

from terminal import script
from terminal.files import atomic

# ------------------------------------------------------------------------------------------------
READ_AHEAD = 8  # frames of a video file decoded ahead
TIMEOUT = 5000  # milliseconds that opening or reading a network stream may take
FOURCC = {".mp4": "mp4v", ".avi": "MJPG", ".mov": "mp4v", ".mkv": "mp4v"}  # codecs that every OpenCV wheel has
# ------------------------------------------------------------------------------------------------


def quiet():
    """Silence OpenCV's and FFmpeg's own warnings: the scripts say in one line what is wrong."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def is_url(source):
    """Whether a source is an address such as rtsp://... or http://..."""
    return isinstance(source, str) and "://" in source


def open_capture(source):
    """An opened cv2.VideoCapture of a camera index, a path or an address, or None."""
    if is_url(source):
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT]
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
    else:
        capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
    if capture.isOpened():
        return capture
    capture.release()
    return None


def why_not(source):
    """One line: why a camera or an address gives no pictures, as far as can be known, and what to do."""
    if not isinstance(source, int):
        return f"{source} cannot be opened: check the address, the network and that the stream is on"
    device = Path(f"/dev/video{source}")
    others = sorted(p.name for p in Path("/dev").glob("video*")) if sys.platform.startswith("linux") else []
    if sys.platform == "darwin":
        return (f"camera {source} gives no picture: connect one, close other programs that use it, and allow this "
                "terminal in System Settings > Privacy & Security > Camera; or set SOURCE=<video, photo or folder>")
    if sys.platform.startswith("linux") and not device.exists():
        seen = f" (there are: {', '.join(others)})" if others else ""
        return f"there is no camera {source}{seen}: connect one, or set SOURCE=<another number, video, photo or folder>"
    if sys.platform.startswith("linux") and not os.access(device, os.R_OK | os.W_OK):
        return f"no permission for camera {source}: run 'sudo usermod -aG video $USER' and log in again"
    return (f"camera {source} gives no picture: it may be in use or not be allowed; close other programs that use it, "
            "check the system's camera privacy settings, or set SOURCE=<another number, video, photo or folder>")


def frame_rate(capture):
    """Frames a second as the source says, or 25 where it says nothing usable."""
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if 1 <= rate <= 240 else 25.0


class Reader:
    """A thread that reads frames.

    `opener` returns something with read() and release(), or None; it is called again when a live source falls silent,
    for `retry` seconds. read() gives (frame, time, arrival): seconds of the source's own clock, and
    time.perf_counter() when the frame became available.
    """

    def __init__(self, opener, live, rate=25.0, retry=10.0, capture=None):
        self.opener, self.live, self.rate, self.retry = opener, live, rate, retry
        self.frames, self.changed = deque(), threading.Condition()
        self.dropped = self.received = 0
        self.lost = self.ended = self.stopping = False
        self.capture = capture or opener()
        self.thread = threading.Thread(target=self.work, name="reader", daemon=True)
        if self.capture is None:
            self.ended = self.lost = True
        else:
            self.thread.start()

    def work(self):
        """The thread: read until the source ends or stop() is called."""
        start = time.perf_counter()
        try:
            while not self.stopping:
                done, frame = self.capture.read()
                arrival = time.perf_counter()
                if not done or frame is None:
                    if self.live and self.reopen():
                        continue
                    break
                with self.changed:
                    if self.live:
                        self.dropped += len(self.frames)
                        self.frames.clear()
                    else:
                        self.changed.wait_for(lambda: len(self.frames) < READ_AHEAD or self.stopping)
                    self.frames.append((frame, arrival - start if self.live else self.received / self.rate, arrival))
                    self.received += 1
                    self.changed.notify_all()
        except (cv2.error, MemoryError):
            self.lost = True
        finally:
            if self.capture is not None:
                self.capture.release()
            with self.changed:
                self.ended = True
                self.changed.notify_all()

    def reopen(self):
        """Try to get a live source back. False when it stayed away."""
        self.capture.release()
        self.lost, until = True, time.perf_counter() + self.retry
        while not self.stopping and time.perf_counter() < until:
            time.sleep(min(0.3, self.retry))
            self.capture = self.opener()
            if self.capture is not None:
                self.lost = False
                return True
        self.capture = None
        return False

    def read(self, timeout=0.05):
        """The next frame of a video, the newest of a live source; None if there is none within `timeout` seconds."""
        with self.changed:
            self.changed.wait_for(lambda: self.frames or self.ended, timeout)
            if not self.frames:
                return None
            frame, moment, arrival = self.frames.popleft()
            self.changed.notify_all()
        return frame, moment, arrival if self.live else time.perf_counter()

    def peek(self):
        """The picture that read() would give next, or None if there is none yet."""
        with self.changed:
            return self.frames[0][0] if self.frames else None

    def over(self):
        """Whether no frame will come any more."""
        return self.ended and not self.frames

    def stop(self):
        """End the thread; at most two seconds for a read that hangs."""
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        if self.thread.is_alive():
            self.thread.join(2)


def check_video_name(path, source=None):
    """End with one line unless a video can be written under this name without replacing `source`, the video read."""
    if Path(path).suffix.lower() not in FOURCC:
        script.fail(f"OUTPUT={path}: a video's name ends in one of {', '.join(FOURCC)}")
    if isinstance(source, str) and os.path.exists(source) and os.path.exists(path) and os.path.samefile(source, path):
        script.fail(f"OUTPUT={path} would replace the video that is read: give it another name")


@contextlib.contextmanager
def video_writer(path, rate, live):
    """Yield write(frame, time), which appends to a video that gets its name when all went well.

    Every frame of a video file is written once; those of a live source are repeated or left out, so that a minute
    stays a minute at `rate` frames a second.
    """
    state = {"writer": None, "written": 0, "start": None}
    with atomic(path) as temporary:
        def write(frame, moment):
            if state["writer"] is None:
                state["size"], state["start"] = frame.shape[1::-1], moment
                code = cv2.VideoWriter_fourcc(*FOURCC[Path(path).suffix.lower()])
                state["writer"] = cv2.VideoWriter(str(temporary), code, rate, state["size"])
                if not state["writer"].isOpened():
                    script.fail(f"{path} cannot be written: try another name, ending in .mp4 or .avi")
            if frame.shape[1::-1] != state["size"]:
                frame = cv2.resize(frame, state["size"])
            wanted = round((moment - state["start"]) * rate) + 1 if live else state["written"] + 1
            while state["written"] < wanted:
                state["writer"].write(frame)
                state["written"] += 1

        try:
            yield write
        finally:
            if state["writer"] is not None:
                state["writer"].release()
        if state["writer"] is None:
            raise EmptyVideo
        check = cv2.VideoCapture(str(temporary))
        whole = check.isOpened() and check.get(cv2.CAP_PROP_FRAME_COUNT) >= state["written"]
        check.release()
        if not whole:
            script.fail(f"{path} could not be written whole: is the disk full?")


class EmptyVideo(Exception):
    """No frame was written, so there is no video."""


def reader_of(source, opened, retry):
    """A Reader of a source that open_capture() opened; a live one that falls silent is tried for `retry` seconds."""
    live = isinstance(source, int) or opened.get(cv2.CAP_PROP_FRAME_COUNT) <= 0
    return Reader(lambda: open_capture(source), live, frame_rate(opened), retry, opened)


def open_live(source, retry):
    """A Reader of a camera, a video or an address; ends with one line when none opens within `retry` seconds."""
    until, told = time.perf_counter() + retry, False
    while (opened := open_capture(source)) is None:
        if time.perf_counter() >= until:
            script.fail(why_not(source))
        if not told:
            name = source if is_url(source) else f"camera {source}"
            print(f"{name} does not answer, trying for {retry:g} s ...", flush=True)
            told = True
        time.sleep(min(0.5, max(0.0, until - time.perf_counter())))
    return reader_of(source, opened, retry)
