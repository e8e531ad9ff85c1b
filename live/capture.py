"""Where frames come from and go to: cameras, streams and video files read in a thread, videos written. Nothing to run.

Of a camera or a live stream only the newest frame counts, so that the picture never lags behind; of a video file
every frame is kept, in order.
"""

import contextlib
import itertools
import os
import threading
import time
from collections import deque
from pathlib import Path

import cv2

from live import pixels, sources
from terminal import script
from terminal.files import atomic

# ------------------------------------------------------------------------------------------------
READ_AHEAD = 8  # frames of a video file decoded ahead
TIMEOUT = 5000  # milliseconds that opening or reading a network stream may take
LEAST_RATE, MOST_RATE = 0.005, 600.0  # frames per second that are believed; OpenCV writes no AVI faster than 600
LIVE_RATE = 240.0  # the same of a camera or a stream: some say 90,000, which is the step of their clock
USUAL_RATE = 121.0  # a file that says more may mean the step of its clock, so that its frames are asked
MEASURED = 25  # first frames of a file by which its rate is measured
LONGEST_GAP = 60.0  # seconds between two frames; more is a damaged clock, unless the rate is as low
SLACK = 0.75  # frames that a written frame may be off the clock before one is repeated or left out
FOURCC = {".mp4": "mp4v", ".avi": "MJPG", ".mov": "mp4v", ".mkv": "mp4v"}  # codecs that every OpenCV wheel has
# ------------------------------------------------------------------------------------------------


def quiet():
    """Silence OpenCV's and FFmpeg's own warnings: the scripts say in one line what is wrong."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def open_capture(source, size=None):
    """An opened cv2.VideoCapture of a camera, an address or a file, or None.

    `size`: (width, height) to ask a camera for; what it gives is said.
    """
    try:
        capture = _open(source)
    except (cv2.error, UnicodeError):  # a name that is no text
        return None
    if capture.isOpened():
        if size is not None and sources.is_camera(source):
            ask(source, capture, size)
        return capture
    capture.release()
    return None


def is_size(size):
    """Whether this is a (width, height) that a camera can be asked for."""
    return isinstance(size, (tuple, list)) and len(size) == 2 and all(type(v) is int and v > 0 for v in size)


def ask(source, camera, size):
    """Ask an opened camera for frames of this (width, height), and say what it gives."""
    # As single JPEGs, since most cameras send larger frames slowly, or not at all, without that.
    camera.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*"MJPG"))
    camera.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
    camera.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
    given = tuple(round(camera.get(name)) for name in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    print(f"{sources.public(source)} gives {given[0]}x{given[1]} pixels"
          + ("" if given == tuple(size) else f", not {size[0]}x{size[1]} as CAMERA_SIZE asks"), flush=True)


def _open(source):
    if isinstance(source, int):
        return cv2.VideoCapture(source)
    if sources.is_url(source):
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT]
        return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
    if sources.is_camera(source):
        return cv2.VideoCapture(str(source), cv2.CAP_V4L2)
    # A whole path, since FFmpeg takes 12:30.mp4 for an address. Others than FFmpeg would take a2.jpeg for a series.
    ffmpeg = cv2.CAP_FFMPEG in cv2.videoio_registry.getStreamBackends()
    return cv2.VideoCapture(os.path.abspath(source), cv2.CAP_FFMPEG if ffmpeg else cv2.CAP_ANY)


def frame_rate(capture, most=MOST_RATE):
    """Frames a second as the source says, or 25 where it says nothing usable."""
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if LEAST_RATE <= rate <= most else 25.0


def clip_rate(path, capture):
    """Frames a second of a video file: what it says, unless its first frames come faster, or far slower.

    What a file with variable rates says is a mean, or the finest step of its clock.
    """
    stated, again, times = frame_rate(capture), open_capture(path), []
    while again is not None and len(times) < MEASURED and again.grab():
        times.append(again.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    if again is not None:
        again.release()
    if len(times) < 2 or not all(a < b for a, b in itertools.pairwise(times)):
        return stated
    measured = (len(times) - 1) / (times[-1] - times[0])
    if measured > MOST_RATE or 0.98 < stated / measured < 1.02:
        return stated
    return measured if stated > USUAL_RATE else max(stated, measured)


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
        self.moment, self.anchor = None, 0.0  # of the last frame of a file; what its clock is behind
        self.capture = capture or opener()
        self.thread = threading.Thread(target=self.work, name="reader", daemon=True)
        if self.capture is None:
            self.ended = self.lost = True
        else:
            self.thread.start()

    def work(self):
        """The thread: read until the source ends or stop() is called."""
        start, ratio = time.perf_counter(), None
        try:
            while not self.stopping:
                done, frame = self.capture.read()
                arrival = time.perf_counter()
                if not done or frame is None:
                    if self.live and self.reopen():
                        ratio = None
                        continue
                    break
                ratio = ratio or pixels.ratio_of(self.capture)
                frame = pixels.square(frame, ratio)
                moment = arrival - start if self.live else self.clock()
                with self.changed:
                    if self.live:
                        self.dropped += len(self.frames)
                        self.frames.clear()
                    else:
                        self.changed.wait_for(lambda: len(self.frames) < READ_AHEAD or self.stopping)
                    self.frames.append((frame, moment, arrival))
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

    def clock(self):
        """Seconds at which the frame just read is due by the file's own clock, or by the rate where that stands."""
        due = 0.0 if self.moment is None else self.moment + 1 / self.rate
        tells = self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 if hasattr(self.capture, "get") else 0.0
        told = tells + self.anchor
        if tells > 0 and (self.moment or 0.0) < told <= due + max(LONGEST_GAP, 10 / self.rate):
            self.moment = told
        else:
            self.moment = due
            self.anchor = due - tells if tells > 0 else self.anchor
        return self.moment

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


def writable(rate):
    """The nearest frame rate that a video can be written with: MPEG-4 counts at most 65,535 steps per second."""
    rate = min(max(rate, LEAST_RATE), MOST_RATE)
    return round(rate, 3 if rate < 65 else 2)  # OpenCV makes a fraction over 1000, or over 100, of them


@contextlib.contextmanager
def video_writer(path, rate, live):
    """Yield write(frame, time), which appends to a video that gets its name when all went well.

    Every frame of a video file is written once, as long as that keeps to its clock; frames are repeated or left out
    where the rate varies, and of a live source, so that a minute stays a minute at `rate` frames per second. Raises
    EmptyVideo where no frame came.
    """
    state = {"writer": None, "written": 0, "start": None, "last": None}
    with atomic(path) as temporary:
        def write(frame, moment):
            if state["writer"] is None:
                state["size"], state["start"] = frame.shape[1::-1], moment
                code = cv2.VideoWriter_fourcc(*FOURCC[Path(path).suffix.lower()])
                state["writer"] = cv2.VideoWriter(str(temporary), code, writable(rate), state["size"])
                if not state["writer"].isOpened():
                    script.fail(f"{path} cannot be written: try another name, ending in .mp4 or .avi")
            if frame.shape[1::-1] != state["size"]:
                frame = cv2.resize(frame, state["size"])
            place = (moment - state["start"]) * rate
            wanted = round(place) + 1
            if not live and (moment == state["last"] or abs(place - state["written"]) <= SLACK):
                wanted = state["written"] + 1
            state["last"] = moment
            while state["written"] < wanted:
                state["writer"].write(frame)
                state["written"] += 1

        try:
            yield write
        finally:
            if state["writer"] is not None:
                state["writer"].release()
        if state["writer"] is None:
            raise EmptyVideo(f"{path} was not written: there was no frame to write")
        check = cv2.VideoCapture(str(temporary))
        whole = check.isOpened() and check.get(cv2.CAP_PROP_FRAME_COUNT) >= state["written"]
        check.release()
        if not whole:
            script.fail(f"{path} could not be written whole: is the disk full?")


class EmptyVideo(script.Problem):
    """No frame was written, so there is no video."""


def reader_of(source, opened, retry, size=None):
    """A Reader of a source that open_capture() opened; a live one that falls silent is tried for `retry` seconds.

    Live are cameras, and addresses that tell no number of frames. A file is not, whatever it tells.
    """
    live = sources.is_camera(source) or sources.is_url(source) and opened.get(cv2.CAP_PROP_FRAME_COUNT) <= 0
    rate = frame_rate(opened, LIVE_RATE) if sources.is_live(source) else clip_rate(source, opened)
    return Reader(lambda: open_capture(source, size), live, rate, retry, opened)


def open_live(source, retry, size=None):
    """A Reader of a camera, an address or a video file, or an end with one line.

    Cameras and addresses may take `retry` seconds to answer. A file without a picture is told at once. `size`: see
    open_capture().
    """
    until, told = time.perf_counter() + retry, False
    while (opened := open_capture(source, size)) is None:
        if not sources.is_live(source) or time.perf_counter() >= until:
            script.fail(sources.why_not(source))
        if not told:
            print(f"{sources.public(source)} does not answer, trying for {retry:g} s ...", flush=True)
            told = True
        time.sleep(min(0.5, max(0.0, until - time.perf_counter())))
    reader = reader_of(source, opened, retry, size)
    while not sources.is_live(source) and reader.peek() is None:
        if reader.over():
            script.fail(sources.why_not(source))
        time.sleep(0.005)
    return reader
