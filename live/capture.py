"""Reads frames of cameras, streams and video files in a thread. Nothing to run."""

import ctypes
import os
import sys
import threading
import time
from collections import deque

import cv2
import numpy as np

from live import sources, tracks

# ------------------------------------------------------------------------------------------------
READ_AHEAD = 8  # frames of a video file that are decoded ahead
TIMEOUT = 5000  # milliseconds that opening or reading a network stream may take
RETRY = 10.0  # seconds to wait for a live source that is busy or unplugged
ATTEMPTS = 0.3  # seconds between two attempts to open a live source
SILENCE = 0.3  # seconds without a frame after which the screen says so
OPENING = 2.0  # seconds that a working camera may take to open or to read, even if RETRY is shorter
USUAL_RATE = 25.0  # frames per second of a source that states no plausible rate
MIN_RATE, MAX_RATE = 0.005, 10_000.0  # plausible frames per second of a file
LIVE_RATE = 240.0  # maximum plausible frames per second of a camera or stream; some state 90,000, their time base
COMMON_RATE = 121.0  # a file that states more frames per second may be stating the time base: its frames are measured
MEASURED = 25  # first frames of a file by which its rate is measured
LONGEST_GAP = 60.0  # seconds between two frames; a longer gap is a damaged timestamp, unless the rate is as low
MISSING = 0.1  # share of a file's frames and seconds; if more are missing at its end, it is damaged
WIDEST_PIXEL = 4.0  # largest plausible aspect ratio of a pixel, and its inverse
# ------------------------------------------------------------------------------------------------


def quiet():
    """Silence the warnings of OpenCV and FFmpeg, since the scripts print one line themselves."""
    for name, level in (("OPENCV_FFMPEG_LOGLEVEL", "-8"), ("OPENCV_LOG_LEVEL", "SILENT")):
        os.environ.setdefault(name, level)
        if os.name == "nt":  # where FFmpeg reads the C library's environment, which os.environ does not change
            ctypes.cdll.msvcrt._putenv(f"{name}={os.environ[name]}".encode())
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def open_capture(source, size=None):
    """An opened cv2.VideoCapture of a camera, an address or a file, or None. `size`: (width, height) for a camera."""
    try:
        if isinstance(source, int):
            capture = cv2.VideoCapture(source)
        elif sources.is_url(source):
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT]
            capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
        elif sources.is_camera(source):
            capture = cv2.VideoCapture(str(source), cv2.CAP_V4L2)
        else:  # absolute, since FFmpeg takes 12:30.mp4 for an address; other backends take a2.jpeg for a series
            ffmpeg = cv2.CAP_FFMPEG in cv2.videoio_registry.getStreamBackends()
            capture = cv2.VideoCapture(os.path.abspath(source), cv2.CAP_FFMPEG if ffmpeg else cv2.CAP_ANY)
    except Exception:  # from a driver, or for a name that is not valid text
        return None
    if not capture.isOpened():
        capture.release()
        return None
    if size is not None and sources.is_camera(source):
        # Motion JPEG, without which most cameras send larger frames slowly, or not at all.
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*"MJPG"))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
    return capture


def frame_rate(capture, maximum=MAX_RATE):
    """The frames per second that a source states, or USUAL_RATE if they are not plausible."""
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if MIN_RATE <= rate <= maximum else USUAL_RATE


def clip_rate(path, capture):
    """The frames per second of a video file. If the rate varies, the stated one may be a mean, or the time base, so
    the first frames are measured.
    """
    stated, again, times = frame_rate(capture), open_capture(path), []
    if again is not None:
        while len(times) < MEASURED and again.grab():
            times.append(again.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        again.release()
    steps = np.diff(times)
    if not len(steps) or (steps < 0).any() or times[-1] <= times[0]:
        return stated
    measured = len(steps) / (times[-1] - times[0])
    if measured > MAX_RATE or 0.98 < stated / measured < 1.02:
        return stated
    # If several frames share a timestamp, the stated rate is that of the timestamps, not of the frames.
    if stated > COMMON_RATE or not steps.all():
        return measured
    return max(stated, measured)


def pixel_ratio(capture):
    """The displayed width of a pixel over its height: 1.0, except for anamorphic videos that state it."""
    if not hasattr(capture, "getBackendName") or capture.getBackendName() != "FFMPEG":
        return 1.0
    wide, high = capture.get(cv2.CAP_PROP_SAR_NUM), capture.get(cv2.CAP_PROP_SAR_DEN)
    ratio = wide / high if wide > 0 and high > 0 else 1.0
    if capture.get(cv2.CAP_PROP_ORIENTATION_AUTO) and capture.get(cv2.CAP_PROP_ORIENTATION_META) % 180 == 90:
        ratio = 1 / ratio  # OpenCV has turned the picture, so the pixels are turned too
    return ratio if 1 / WIDEST_PIXEL <= ratio <= WIDEST_PIXEL and abs(ratio - 1) > 0.01 else 1.0


def as_bgr(frame, ratio=1.0):
    """A gray, YUYV, BGR or BGRA frame of 8 or 16 bits as BGR, uint8 [H, W, 3], with square pixels; None if it is empty
    or of an unknown kind. `ratio`: see pixel_ratio().
    """
    if frame is None or frame.ndim not in (2, 3) or frame.size == 0 or frame.dtype not in (np.uint8, np.uint16):
        return None
    frame = frame if frame.dtype == np.uint8 else (frame >> 8).astype(np.uint8)
    channels = 1 if frame.ndim == 2 else frame.shape[2]
    if channels != 3:
        code = {1: cv2.COLOR_GRAY2BGR, 2: cv2.COLOR_YUV2BGR_YUY2, 4: cv2.COLOR_BGRA2BGR}.get(channels)
        if code is None or (channels == 2 and frame.shape[1] % 2 == 1):
            return None
        frame = cv2.cvtColor(frame, code)
    if ratio == 1:
        return frame
    height, width = frame.shape[:2]
    size = (round(width * ratio / 2) * 2, height) if ratio > 1 else (width, round(height / ratio / 2) * 2)
    return cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)


class Clock:
    """The times of a file's frames: by its timestamps, or by its rate if these stand still, go back or jump. If they
    continue from another point, as in concatenated files, the times continue without a gap.
    """

    def __init__(self, rate):
        self.rate, self.time = rate, None
        # The offset turns a timestamp into a time. `other`: the offset if the last implausible timestamp was right.
        self.offset = self.other = 0.0

    def __call__(self, timestamp):
        """The time in seconds, rising, of the next frame, given its timestamp in the file."""
        before = 0.0 if self.time is None else self.time
        due = 0.0 if self.time is None else self.time + 1 / self.rate
        latest = due + max(LONGEST_GAP, 10 / self.rate)
        for offset in (self.offset, self.other):
            if timestamp > 0 and before < timestamp + offset <= latest:
                self.time, self.offset, self.other = timestamp + offset, offset, offset
                return self.time
        self.time = due
        self.other = due - timestamp if timestamp > 0 else self.offset
        return self.time


class Reader:
    """Reads the frames of a source (see sources.py) in a thread; a live source that falls silent is opened again.

    A live source keeps only its newest frame, a file all frames, in order. `retry`: seconds to wait for a live source;
    `size`: (width, height) to request from a camera.
    """

    def __init__(self, source, retry=RETRY, size=None):
        self.source, self.retry, self.size = source, retry, size
        self.live, self.rate = sources.is_live(source), USUAL_RATE
        self.frames, self.changed = deque(), threading.Condition()
        self.received = self.dropped = self.unusable = 0  # frames
        self.stated_frames, self.stated_seconds = 0, 0.0  # of a file
        self.timestamp = 0.0  # of the last frame that was read
        self.opened = None  # whether the source could be opened; None: not known yet
        self.ended = self.stopping = False
        first = None  # a cv2.VideoCapture that is open already
        if sys.platform == "darwin" and sources.is_camera(source):
            # macOS asks the user for permission to use the camera, but only if the main thread opens it.
            first = open_capture(source, size)
        self.start = self.last = time.perf_counter()  # last: time of the newest frame
        self.thread = threading.Thread(target=self.work, args=(first,), name="reader", daemon=True)
        self.thread.start()

    def work(self, capture):
        """The thread: open and read until the source ends, or is away for `retry` seconds, or close() is called."""
        try:
            while not self.stopping:
                if capture is None:
                    capture = open_capture(self.source, self.size)
                if capture is not None:
                    self.opened = True
                    self.read_all(capture)
                    capture.release()
                    capture = None
                elif self.opened is None:
                    self.opened = False
                if not self.live or time.perf_counter() - self.last >= self.retry:
                    break
                with self.changed:
                    self.changed.wait_for(lambda: self.stopping, min(ATTEMPTS, self.retry))
        finally:
            with self.changed:
                self.ended = True
                self.changed.notify_all()

    def read_all(self, capture):
        """Read an opened capture until it gives no frame."""
        self.stated_frames = max(0, capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.stated_seconds = self.stated_frames / frame_rate(capture, np.inf)
        if sources.is_url(self.source):
            self.live = self.stated_frames <= 0  # an address may lead to a file
        self.rate = frame_rate(capture, LIVE_RATE) if sources.is_live(self.source) else clip_rate(self.source, capture)
        clock, ratio = Clock(self.rate), None
        while not self.stopping:
            try:
                ok, frame = capture.read()
                arrival = time.perf_counter()
                if not ok or frame is None:
                    return
                ratio = ratio or pixel_ratio(capture)
                frame = as_bgr(frame, ratio)
            except Exception:  # from a driver, or for a frame of a damaged file that claims to be huge
                return
            if frame is None:
                self.unusable += 1
                continue
            timestamp = arrival - self.start if self.live else clock(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            with self.changed:
                if self.live:
                    self.dropped += len(self.frames)
                    self.frames.clear()
                else:
                    self.changed.wait_for(lambda: len(self.frames) < READ_AHEAD or self.stopping)
                if not self.received and self.size and sources.is_camera(self.source):
                    self.tell_size(frame.shape[1::-1])
                self.frames.append((frame, timestamp, arrival))
                self.received, self.last, self.timestamp = self.received + 1, arrival, timestamp
                self.changed.notify_all()

    def tell_size(self, given):
        """Print the size that a camera gives, taken from its first frame, since drivers may state another."""
        other = "" if given == tuple(self.size) else f", not {self.size[0]}x{self.size[1]} as CAMERA_SIZE asks"
        print(f"{sources.public(self.source)} gives {given[0]}x{given[1]} pixels{other}", flush=True)

    def read(self, timeout=0.05):
        """(BGR frame, uint8 [H, W, 3]; seconds by the source's clock; time.perf_counter() when it became available), or
        None if there is none within `timeout` seconds. The first frame of a file is returned once it is known whether
        the file is `brief`.
        """
        def can_return():
            known = self.live or self.received >= tracks.CONFIRM_DETECTIONS
            return self.ended or (known and len(self.frames) > 0)

        with self.changed:
            if not self.changed.wait_for(can_return, timeout) or not self.frames:
                return None
            frame, timestamp, arrival = self.frames.popleft()
            self.changed.notify_all()
        return frame, timestamp, arrival if self.live else time.perf_counter()

    @property
    def brief(self):
        """Whether this is a file with fewer frames than a face needs to be confirmed."""
        return self.ended and not self.live and self.received < tracks.CONFIRM_DETECTIONS

    def peek(self):
        """The frame that read() would return next, or None if there is none yet."""
        with self.changed:
            return self.frames[0][0] if self.frames else None

    def waiting(self):
        """Whether there has been no frame for a while, but one may still come."""
        return not self.ended and not self.frames and time.perf_counter() - self.last > SILENCE

    def finished(self):
        """Whether there will be no more frames, or a live source has not answered for too long."""
        ended = self.ended  # read before the frames, since the thread may add the last ones and end meanwhile
        late = self.live and time.perf_counter() - self.last > max(self.retry, OPENING)
        return (ended or late) and not self.frames

    def problem(self, kinds=sources.KINDS):
        """One line on why it ended too early; None if all went well. Call it when it is finished(). `kinds`: see
        sources.why_not()."""
        skipped = f" ({self.unusable} frames were empty, or of an unknown kind)" if self.unusable else ""
        if self.live or not self.received:
            return sources.why_not(self.source, kinds) + skipped
        if self.brief and sources.has_several_video_tracks(self.source):
            return (f"{self.source} begins with a picture, and OpenCV plays nothing else of it: convert it, e.g. with "
                    "'ffmpeg -i <this file> -map 0:v:1 -c copy <new file>'")
        read = self.received + self.unusable
        too_few = read < min(self.stated_frames - 2, (1 - MISSING) * self.stated_frames)
        too_short = self.timestamp + 1 / self.rate < (1 - MISSING) * self.stated_seconds
        if too_few and too_short:  # not too few only: a file with varying rates has fewer frames than it states
            return (f"{sources.public(self.source)} ended after {read} of {self.stated_frames:.0f} frames: it is "
                    "damaged, or the connection broke")
        return None

    def close(self):
        """Stop the thread; if a driver blocks it, it is left behind."""
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        self.thread.join(0.05)
