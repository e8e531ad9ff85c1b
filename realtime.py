"""Live: every face in a box, with its class and the network's confidence.

    python realtime.py                             camera 0, in a window; without a camera or screen, a sample photo
    python realtime.py SOURCE=1                    another camera
    python realtime.py SOURCE=clip.mp4 OUTPUT=out.mp4 SHOW=False
    python realtime.py SOURCE=photo.jpg            or a folder of photos, OUTPUT=folder for the annotated ones
    python realtime.py SOURCE=rtsp://address       a network camera

LOG=faces.csv writes the detections to a table. Keys: h help, q or Esc quit, space pause, s snapshot, c faces so far by
class, b blur the faces, g Grad-CAM, m mirror, r record; on photos space and the arrows turn the page.
"""

from terminal import script  # isort: skip  # first, so that Ctrl-C during the other imports is one line

import contextlib
from pathlib import Path

import cv2
import numpy as np

import processed
from faces import cropping, detectors
from live import capture, controls, overlay, player, results, sources, stills, window, writing
from terminal import fonts, rules, stops, workers
from terminal.names import normal

# ------------------------------------------------------------------------------------------------
SOURCE = None  # None: camera 0; or a camera's number, a video, a photo, a folder of photos, rtsp:// or http://
WEIGHTS = None  # a weights file; None: weights/best_weights.pt, which train.py writes, or else weights/shipped/small.pt
OUTPUT = None  # None: write nothing; or a video file (.mp4, .avi), or a folder for annotated photos
SHOW = True  # False: lines of text instead of a window, for machines without a display
LOG = None  # a .csv file, with a row per face and frame, see docs/live.md; None: no file

# {class, or "unsure": text on the screen}; for Spanish: {"man": "HOMBRE", "woman": "MUJER", "unsure": "NO SÉ"}
LABELS = {}
MIRROR = True  # flip a camera's picture, as a mirror does; the key m switches it, the network sees the unflipped frame
BLUR = False  # True: blur the faces, in OUTPUT too; the key b switches it, the network sees the unblurred frame
FONT = None  # a .ttf or .otf file; None: a font of this machine that has the letters of your classes and LABELS
CAMERA_SIZE = None  # (width, height) to request, such as (1280, 720); None: the camera's own
THREADS = 1  # of PyTorch and of OpenCV: one or two faces are too little work to gain from more
RETRY = capture.RETRY  # seconds to wait for a camera that is busy or unplugged
# ------------------------------------------------------------------------------------------------


def load(weights):
    """The Classifier of a weights file (None: see WEIGHTS), warmed up; runs in a thread while the source opens."""
    import torch  # here, since it takes seconds: the window opens meanwhile

    from learn.classifier import Classifier

    classifier = Classifier(weights)
    print(f"weights: {classifier}", flush=True)
    torch.set_num_threads(THREADS)
    cv2.setNumThreads(THREADS)
    classifier.predict([np.zeros((cropping.IMAGE_SIZE, cropping.IMAGE_SIZE, 3), np.uint8)])  # warm-up
    return classifier


def controls_of(mirror):
    """The controls.Controls at the start, from the constants; keys change them."""
    labels = {normal(name): text for name, text in LABELS.items()}  # Unicode NFC, as class names in weights files
    return controls.Controls(mirror, BLUR, labels)


def print_summary(reader, result):
    """The last lines: counts and latency, of a capture.Reader and the player.Played."""
    if reader.unusable:
        print(f"{reader.unusable} frames were skipped: empty, or of an unknown kind")
    if not result.frames:
        return
    median, p95 = np.percentile(result.latencies, (50, 95)) * 1000
    rate = result.frames / result.seconds
    print(f"{result.frames} frames in {result.seconds:.1f} s ({rate:.1f} frames/s), {reader.dropped} dropped, "
          f"{result.faces} faces, {result.classifications} classifications")
    print(f"different faces: {result.counts}")
    print(f"from a frame's arrival to its being drawn: median {median:.1f} ms, 95 % within {p95:.1f} ms")


def watch(reader, classifier_future, detector_future, screen):
    """Play a camera or a video, then print its results. Ends the program if nothing could be read.

    `reader`: a capture.Reader; `classifier_future`, `detector_future`: of what load() and detectors.get() return;
    `screen`: a window.Window.
    """
    if OUTPUT:
        writing.check_video_name(OUTPUT, reader.source)
    chosen = controls_of(MIRROR and sources.is_camera(reader.source))
    log = results.Results(LOG, results.name_of(reader.source))
    result = player.Player(reader, classifier_future, chosen, log, detector_future, screen).play(OUTPUT)
    print_summary(reader, result)
    until = f", up to second {result.timestamp:.2f}" if result.stopped or result.error else ""
    for name in result.written:
        print(f"written: {name}{until}")
    if result.stopped and not reader.live:  # Ctrl-C is the normal end of a camera, but cuts a video short
        stops.interrupt()
    if result.error:
        raise result.error
    if result.problem:
        script.fail(result.problem)
    if OUTPUT and not result.frames and not chosen.quit:
        script.fail(f"OUTPUT={OUTPUT}: no frame was read, so nothing is written")


def view(photos, classifier_future, output, detector_future, screen, note=""):
    """Annotate photos, then print what was written. Returns the exit status: 1 if no photo could be read, or none
    written to `output`.

    `photos`: returned by stills.album(); `note`: a line shown with each; all others: see watch().
    """
    log = results.Results(LOG)
    counts = stills.annotate(photos, classifier_future.result(), controls_of(mirror=False), log,
                             detector_future.result(), screen, note)
    for name in ([output] if counts["written"] else []) + log.written():
        print(f"written: {name}")
    if counts["stopped"]:
        stops.interrupt()
    nothing_written = output is not None and counts["written"] == 0
    return int(counts["photos"] == 0 or nothing_written)


def wait_for_camera(reader, screen):
    """Wait until camera 0 is opened, or given up; the window says so. Returns whether the user has quit meanwhile."""
    while not (reader.opened or reader.finished()):  # opened: None while it tries, then True or False
        why = [sources.why_not(0)] if reader.opened is False else []
        if screen.show(overlay.caption(None, ["looking for a camera ...", *why]), 30) in window.QUIT:
            return True
        reader.read(0.03)
    return False


def try_camera(classifier_future, detector_future, screen):
    """watch() camera 0. Returns None, or one line on why it cannot be opened."""
    with contextlib.closing(capture.Reader(0, RETRY, CAMERA_SIZE)) as reader:
        if wait_for_camera(reader, screen):
            return None
        if not reader.opened:
            return sources.why_not(0)
        watch(reader, classifier_future, detector_future, screen)
    return None


def records_video():
    """Whether OUTPUT is the name of a video, which cannot be written without a camera."""
    return OUTPUT is not None and Path(OUTPUT).suffix.lower() in writing.FOURCC


def camera_or_portrait(classifier_future, detector_future):
    """Watch camera 0; without a camera or a window, view a sample portrait. Returns the exit status."""
    try:
        with contextlib.closing(window.Window(SHOW)) as screen:
            reason = try_camera(classifier_future, detector_future, screen)
            if reason is None:
                return 0
            return view_portrait(reason, classifier_future, detector_future, screen)
    except window.NoWindow as problem:
        if records_video():
            raise
        return view_portrait(f"no window: {problem}", classifier_future, detector_future, window.Window(False))


def view_portrait(reason, classifier_future, detector_future, screen):
    """View the sample portrait, with one line on why. Returns the exit status."""
    if records_video():
        script.fail(f"OUTPUT={OUTPUT} is a video, and {reason}")
    print(f"{reason}\nlabelling the portrait that comes with matplotlib instead")
    output = OUTPUT
    if output is None and not screen.shown:
        output = Path(writing.SAVED_DIR, "realtime.jpg").as_posix()
    note = f"{reason}{overlay.BETWEEN}This is the portrait that comes with matplotlib."
    photos = stills.album(stills.portrait(), output)
    return view(photos, classifier_future, output, detector_future, screen, note)


RULES = dict(SOURCE=rules.optional(rules.either((int, 0, 9999), str)), WEIGHTS=rules.optional(str),
             OUTPUT=rules.optional(str), SHOW=bool, LOG=rules.optional(rules.ends_in(".csv")), LABELS=rules.TEXTS,
             MIRROR=bool, BLUR=bool, FONT=rules.optional(str), THREADS=(int, 1, 256), RETRY=(float, 0, 1e6),
             CAMERA_SIZE=rules.optional(rules.sequence((int, 1, 16384), "(width, height)", 2, 2, distinct=False)))


def main():
    rules.check(globals())
    rules.check(vars(processed))
    fonts.choose(FONT)
    capture.quiet()  # OpenCV and FFmpeg print warnings of their own
    source = sources.named(SOURCE)
    photos = [] if source is None else stills.album(source, OUTPUT)  # empty for a camera or a video
    # The futures are of daemon threads; the second may download the detector's model.
    classifier_future = workers.in_background(load, WEIGHTS)
    detector_future = workers.in_background(detectors.get, processed.DETECTOR)
    try:
        if source is None:
            return camera_or_portrait(classifier_future, detector_future)
        with contextlib.closing(window.Window(SHOW)) as screen:
            if photos:
                return view(photos, classifier_future, OUTPUT, detector_future, screen)
            with contextlib.closing(capture.Reader(source, RETRY, CAMERA_SIZE)) as reader:
                watch(reader, classifier_future, detector_future, screen)
    except window.NoWindow as problem:
        script.fail(f"{problem}; or set SHOW=False, with OUTPUT=<file> for a video or picture")
    return 0


if __name__ == "__main__":
    rules.override(globals())
    with workers.leaving_threads():
        script.run(main, stopped="no more frames are read")
