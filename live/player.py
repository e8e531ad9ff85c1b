"""The loop of the live window: reads frames, tracks faces, draws, shows and writes. Nothing to run."""

import contextlib
import time
from collections import deque
from typing import NamedTuple

from live import overlay, results, sources, stills, tracks, window, writing
from live.controls import CLIP_HELP
from terminal import script, stops

LOADING, PAUSED, ENDED = "loading the network ...", "paused: space continues", "the end: space or q closes"
LATENCIES = 100_000  # last frames whose latencies are kept for the summary: an hour of a camera, in 3 MB
BEHIND = 0.2  # seconds that a video may fall behind its own pace and still catch up


class Played(NamedTuple):
    """The results of Player.play()."""

    frames: int
    faces: int  # different ones
    classifications: int
    seconds: float
    latencies: deque  # seconds from a frame's arrival to its being drawn
    counts: str  # how many different faces each class has
    written: list  # names of files
    timestamp: float  # of the last frame, by the source's clock
    stopped: bool  # by Ctrl-C or another signal
    error: Exception | None  # that ended it; the files are kept nevertheless
    problem: str | None  # one line on why it ended too early


class Player:
    """Tracks the faces of a camera or a video until it ends or the user quits.

    `reader`: a capture.Reader; `classifier_future`: of a learn.classifier.Classifier (before it is done, a camera's
    picture has no labels, and a video waits at its first frame); `log`: a results.Results, which gets a row for each
    face and frame; `detector_future`: of a detector (before it is done, a window uses Haar's); `screen`: a
    window.Window.
    """

    def __init__(self, reader, classifier_future, controls, log, detector_future, screen):
        self.reader, self.controls, self.log = reader, controls, log
        self.classifier_future = classifier_future
        self.detector_future = detector_future  # None once the tracker has it
        self.screen, self.tracker = screen, tracks.Tracker()
        self.classes = ()  # names; () until the classifier is loaded
        self.picture = None  # the last one drawn
        self.still = None  # the stills.Still of the last frame
        self.output = self.recording = None  # writing.Videos: OUTPUT, and the recording of the key r
        self.frames, self.started, self.due = 0, None, 0.0
        self.timestamp = 0.0  # of the last frame, by the source's clock
        self.was_paused = False  # since that frame
        self.pauses = 0.0  # seconds that a camera was paused, which are not in the videos
        self.latencies = deque(maxlen=LATENCIES)  # seconds from a frame's arrival to its being drawn
        self.recent = deque()  # (time.perf_counter(), number of faces) of the frames drawn in the last second
        self.printed = {}  # number of a face -> the label printed last
        self.waits = False  # whether it was printed that the source does not answer

    def play(self, output=None):
        """Play to the end, and write the pictures to the video `output`. Returns the Played."""
        reader, controls = self.reader, self.controls
        with contextlib.ExitStack() as stack:
            stack.callback(self.log.close)
            if output:
                self.output = stack.enter_context(writing.Video(output, reader))
            stack.callback(self.end_record)
            interruption = self.play_all()
            files = stack.pop_all()
        with stops.later():  # no stop interrupts the end of the files
            files.close()
        seconds = time.perf_counter() - (self.started or 0)
        stopped = isinstance(interruption, KeyboardInterrupt)
        problem = None if controls.quit or interruption else reader.problem()
        if self.still and not reader.live and not interruption:
            self.hold(problem or ENDED)
        if self.screen.lost:
            problem = "the display is gone"
        written = [output] if output and self.frames else []
        return Played(self.frames, self.tracker.count, self.tracker.classifications, seconds, self.latencies,
                      controls.counted(self.log, self.classes), written + self.log.written(), self.timestamp, stopped,
                      None if stopped else interruption, problem)

    def play_all(self):
        """Play until the source ends, or the user ends it. Returns None, or what ended it earlier: an error, or
        KeyboardInterrupt, the only way to end a camera without a window. What was written until then is kept.
        """
        try:
            while not self.reader.finished() and not self.controls.quit:
                self.advance()
        except window.NoWindow:
            raise  # nothing was shown
        except (KeyboardInterrupt, OSError, script.Problem) as interruption:
            return interruption
        return None

    def advance(self):
        """Process a frame if there is one, else show what the program waits for."""
        if not self.ready():
            self.show_first()
        elif self.controls.pause:
            self.show_paused()
        elif (got := self.reader.read()) is not None:
            self.waits = False
            self.step(*got)
        elif self.reader.waiting():
            self.show_waiting()

    def ready(self):
        """Whether frames can be read now. Takes the classifier as soon as it is loaded; only a video waits for it."""
        if self.tracker.classifier is None and self.classifier_future.done():
            self.tracker.classifier = self.classifier_future.result()
            self.classes = self.tracker.classifier.classes
        if self.controls.blur and self.detector_future is not None and not self.detector_future.done():
            return False  # Haar's detector would miss some of the faces that must be blurred
        return self.tracker.classifier is not None or self.reader.live

    def show_first(self):
        """Show a video's first frame while the network loads; with `blur`, an empty picture."""
        first = self.reader.peek()
        if self.screen.shown and (first is not None or self.reader.waiting()):
            self.show(overlay.caption(None if self.controls.blur else first, self.lines(LOADING)), None, 30)
        else:
            time.sleep(0.01)

    def show_waiting(self):
        """Show that the source does not answer, with the reason if it is known, and print it once."""
        name = sources.public(self.reader.source)
        if self.screen.shown:
            why = [sources.why_not(self.reader.source)] if self.reader.opened is False else []
            shown = overlay.caption(self.picture, [f"waiting for {name} ...", *why])
            self.show(shown, self.picture, 30)
        if not self.waits:
            print(f"{name} does not answer, trying for {self.reader.retry:g} s ...", flush=True)
            self.waits = True

    def show_paused(self):
        """Show the last frame while paused; a camera's frames are dropped meanwhile."""
        self.still.classifier = self.tracker.classifier  # it may have been loaded meanwhile
        picture = self.still.draw(self.controls)
        self.show(overlay.caption(picture, self.lines(PAUSED)), picture, stills.REDRAW)
        self.due, self.was_paused = time.perf_counter(), True
        if self.reader.live:
            self.reader.read()

    def hold(self, note):
        """Show a video's last frame until a key closes the window."""
        with contextlib.suppress(KeyboardInterrupt):  # everything has been written
            while self.screen.shown and not self.controls.quit:
                picture = self.still.draw(self.controls)
                shown = overlay.caption(picture, self.lines(note))
                if self.controls.apply(self.screen.show(shown, stills.REDRAW), picture) == " ":
                    return

    def step(self, frame, timestamp, arrival):
        """Track the faces of one frame, draw, write and show it."""
        self.started = self.started or arrival
        self.take_detector()
        self.tracker.heat = self.controls.heat
        faces = [track.face() for track in self.tracker.step(frame, timestamp, self.reader.brief)]
        boxes = [track.box for track in self.tracker.tracks]  # also of tracks that are not confirmed yet
        picture = self.controls.draw(frame, faces, boxes, self.tracker.classifier)
        interval = timestamp - self.timestamp
        if self.was_paused and self.reader.live:
            self.pauses += interval
        with stops.later():  # so that after Ctrl-C all files end with the same frame
            self.log.add(results.rows_of(faces, timestamp, self.log.source, self.classes))
            for video in (self.output, self.recording):
                if video:
                    video.write(picture, timestamp - self.pauses)
            self.still = stills.Still(frame, faces, boxes, self.tracker.classifier)
            self.picture, self.frames = picture, self.frames + 1
            self.timestamp, self.was_paused = timestamp, False
        now = time.perf_counter()
        self.recent.append((now, len(faces)))
        while now - self.recent[0][0] > 1:
            self.recent.popleft()
        if self.screen.shown:
            rate = f"{rates(self.recent)}{overlay.BETWEEN}{self.reader.dropped} dropped"
            shown = overlay.caption(picture, self.lines(rate))
        self.latencies.append(time.perf_counter() - arrival)
        if self.screen.shown:
            self.show(shown, picture, self.time_left(interval))
        else:
            self.print_labels(faces, timestamp)

    def take_detector(self):
        """Give the tracker its detector as soon as that is there; a video without a window waits for it."""
        must_wait = not self.reader.live and not self.screen.shown
        if self.detector_future is not None and (must_wait or self.detector_future.done()):
            self.tracker.detector, self.detector_future = self.detector_future.result(), None

    def time_left(self, interval):
        """Milliseconds to wait for a key, so that a video keeps its pace. `interval`: seconds since the last frame."""
        if self.reader.live:
            return 1
        now = time.perf_counter()
        self.due = max(self.due + interval, now - BEHIND) if self.frames > 1 else now
        return max(1, round((self.due - now) * 1000))

    def show(self, shown, picture, wait):
        """Show `shown`, returned by overlay.caption(), and apply the key pressed; a snapshot is of `picture`, or None,
        without the lines of text."""
        key = self.controls.apply(self.screen.show(shown, wait), picture)
        if key == " " and self.still:
            self.controls.pause = not self.controls.pause
        elif key == "r" and self.recording:
            self.end_record()
        elif key == "r":
            self.start_record()

    def start_record(self):
        """Start the recording of the key r; if its file cannot be written, only print that."""
        try:
            self.recording = writing.Video(writing.stamped("record", ".mp4"), self.reader)
        except script.Problem as problem:
            print(problem, flush=True)

    def end_record(self):
        """End the recording of the key r, if there is one."""
        if self.recording:
            recording, self.recording = self.recording, None
            recording.close()
            print(f"recorded: {recording.path.as_posix()}" if recording.frames else
                  "no frame was read during the recording: nothing is written", flush=True)

    def lines(self, first):
        """The lines of text beneath the picture."""
        lines = [f"{first}{overlay.BETWEEN}h: help"]
        if self.tracker.classifier is None and first != LOADING:
            lines.append(LOADING)
        if self.recording is not None:
            lines.append("recording")
        if self.controls.counts and self.tracker.classifier:
            lines.append(self.controls.counted(self.log, self.classes))
        if self.controls.help:
            lines.append(CLIP_HELP)
        return lines

    def print_labels(self, faces, timestamp):
        """Without a window: print a line whenever the label of a face changes."""
        for face in faces:
            if face.confidence is not None and self.printed.get(face.number, "") != face.label:
                self.printed[face.number] = face.label
                text = self.controls.text_of(face.label, face.confidence, self.classes)
                print(f"{timestamp:8.2f} s  face {face.number}: {text}", flush=True)


def rates(recent):
    """'25 frames/s   50 faces/s', from Player.recent."""
    seconds = recent[-1][0] - recent[0][0] if recent else 0
    if seconds <= 0:
        return "0 frames/s   0 faces/s"
    faces = sum(number for _, number in recent) - recent[0][1]  # the first frame began before these seconds
    return f"{(len(recent) - 1) / seconds:.0f} frames/s   {faces / seconds:.0f} faces/s"
