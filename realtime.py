"""Live: every face boxed, with its class and how sure the network is.

    python realtime.py                             camera 0, in a window; where there is none, a portrait
    python realtime.py SOURCE=1                    another camera
    python realtime.py SOURCE=clip.mp4 OUTPUT=out.mp4 SHOW=False
    python realtime.py SOURCE=photo.jpg            or a folder of photos, OUTPUT=folder for the annotated ones
    python realtime.py SOURCE=rtsp://address       a network camera

Add LOG=faces.csv for what it sees as data. Keys: h help, q or Esc quit, space pause, s snapshot, c faces so far by
class, b blur the faces, g Grad-CAM, m mirror, r record; on photos space and the arrows turn the page.
"""

from terminal import script  # isort: skip  # first, see terminal/script.py

import os

# OpenCV reads this when it is imported: without it, opening a camera on Windows can take a minute.
os.environ.setdefault("OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS", "0")

# ruff: noqa: E402
from pathlib import Path

import cv2
import numpy as np

import processed
from faces import cropping, detectors
from live import capture, controls, overlay, player, results, sources, stills, window, writing
from terminal import fonts, rules, workers
from terminal.files import normal

# ------------------------------------------------------------------------------------------------
SOURCE = None  # None: camera 0; or the number of a camera, a video, a photo, a folder of photos, rtsp:// or http://
WEIGHTS = None  # None: what train.py made here, or else the better of the weights that ship; or a file
OUTPUT = None  # None: write nothing; a video's name (.mp4, .avi), or for photos a folder
SHOW = True  # False needs no display: lines of text instead of a window
LOG = None  # None, or "faces.csv": a row for each face and frame in which it is shown, see docs/live.md

LABELS = {}  # class -> text on the screen; for Spanish: {"man": "HOMBRE", "woman": "MUJER"}
UNSURE = "unsure"  # said below the threshold that is stored with the weights
MIRROR = True  # cameras are shown as a mirror shows; the key m changes it, the network sees the true picture
BLUR = False  # True hides the faces, in OUTPUT too; the key b changes it, the network sees them as they are
FONT = None  # path of a .ttf or .otf for texts; None: one of this machine with the letters of your classes and LABELS
CAMERA_SIZE = None  # None: as the camera comes; or (width, height) to ask it for, such as (1280, 720)
THREADS = 1  # of PyTorch and of OpenCV; a face or two are little work, and threads that share it wait for each other
RETRY = 10.0  # seconds to wait for a camera that is busy or was pulled out
# ------------------------------------------------------------------------------------------------

def load(chosen):
    """The Classifier of the weights that WEIGHTS chooses, ready to predict; runs in a thread while the source opens."""
    import torch

    from learn.classifier import Classifier

    classifier = Classifier(chosen)
    print(f"weights: {classifier}", flush=True)
    torch.set_num_threads(THREADS)
    cv2.setNumThreads(THREADS)
    classifier.predict([np.zeros((cropping.IMAGE_SIZE, cropping.IMAGE_SIZE, 3), np.uint8)])  # the first takes longest
    return classifier


def controls_of(show=None, mirror=False):
    """The constants that say what is shown, as the keys change them."""
    labels = {normal(str(name)): text for name, text in LABELS.items()}  # as the weights' classes are written
    return controls.Controls(SHOW if show is None else show, mirror, BLUR, labels, UNSURE)


def play(reader, loading, output=None, mirror=False, source="", detector=None, screen=None):
    """Play a camera or a video, see player.Player; returns its dict of results. `source`: what LOG calls it."""
    log = results.Results(LOG, source)
    return player.Player(reader, loading, controls_of(mirror=mirror), log, detector, screen).play(output)


def report(result):
    """The last lines: counts and latency."""
    if result["unusable"]:
        print(f"{result['unusable']} frames were skipped: empty, or of an unknown kind")
    if not result["frames"]:
        return
    median, late = np.percentile(result["latencies"], (50, 95)) * 1000
    rate = result["frames"] / result["seconds"]
    print(f"{result['frames']} frames in {result['seconds']:.1f} s ({rate:.1f} frames/s), {result['dropped']} dropped, "
          f"{result['faces']} faces, {result['classified']} classifications")
    print(f"different faces: {result['counts']}")
    print(f"from a frame's arrival to its being drawn: median {median:.1f} ms, 95 % within {late:.1f} ms")


def watch(source, reader, loading, detector=None, screen=None):
    """Play a camera or a video, and tell what came of it."""
    if OUTPUT:
        writing.check_video_name(OUTPUT, source)
    mirror = MIRROR and sources.is_camera(source)
    result = play(reader, loading, OUTPUT, mirror, results.name_of(source), detector, screen)
    report(result)
    until = f", up to second {result['moment']:.2f}" if result["stopped"] else ""
    for name in filter(None, result["written"]):
        print(f"written: {name}{until}")
    if result["stopped"] and not reader.live:  # a camera has no other end
        raise KeyboardInterrupt
    if result["problem"]:
        script.fail(result["problem"])
    if OUTPUT and not result["frames"]:
        script.fail(f"OUTPUT={OUTPUT}: not one frame came, so nothing is written")


def view(photos, loading, output, detector, screen, note=""):
    """Annotate photos, and tell what came of it. `note`: shown with them. Returns the exit status."""
    log = results.Results(LOG)
    controls = controls_of(screen.process is not None)
    counts = stills.annotate(photos, loading.result(), controls, log, detector.result(), screen, note)
    for name in filter(None, (output if counts["photos"] else None, log.written())):
        print(f"written: {name}")
    if counts.get("stopped"):
        raise KeyboardInterrupt
    return int(counts["photos"] == 0)


def camera_or_portrait(loading, detector):
    """Watch camera 0; where there is no camera, or no window, view a portrait. Returns the exit status."""
    reader, video = None, OUTPUT and Path(OUTPUT).suffix.lower() in writing.FOURCC
    try:
        screen = window.Window(SHOW)
        reader = capture.Reader(0, RETRY, CAMERA_SIZE)
        while not (reader.opened or reader.over()):
            why = [sources.why_not(0)] if reader.opened is False else []
            if screen.key(overlay.caption(None, ["looking for a camera ...", *why]), 30) in window.QUIT:
                return 0
            reader.read(0.03)
        if reader.opened is not False:
            return watch(0, reader, loading, detector, screen)
        reason = sources.why_not(0)
    except window.NoWindow as problem:
        if video:
            raise
        screen, reason = window.Window(False), f"no window: {problem}"
        if reader is not None:
            reader.stop()
    if video:
        script.fail(f"OUTPUT={OUTPUT} is a video, and {reason}")
    print(f"{reason}\ntaking the portrait that comes with matplotlib instead")
    output = OUTPUT or (None if screen.process else Path(writing.PLOTS_DIR, "realtime.jpg").as_posix())
    note = f"{reason}{overlay.BETWEEN}This is the portrait that comes with matplotlib."
    return view(stills.album(stills.portrait(), output), loading, output, detector, screen, note)


def check_constants():
    """End with one line if a constant is out of its range."""
    camera_size = rules.Rule(lambda size: len(size) == 2 and all(type(v) is int and 0 < v <= 16384 for v in size),
                             "(width, height)")
    rules.check(globals(), SOURCE=rules.optional(rules.either((int, 0, 9999), str)), WEIGHTS=rules.optional(str),
                OUTPUT=rules.optional(str), SHOW=bool, LOG=rules.optional(rules.ends_in(".csv")), LABELS=rules.TEXTS,
                UNSURE=str, MIRROR=bool, BLUR=bool, FONT=rules.optional(str), CAMERA_SIZE=rules.optional(camera_size),
                THREADS=(int, 1, 256), RETRY=(float, 0, 1e6))
    fonts.choose(FONT)


def main():
    check_constants()
    capture.quiet()
    source = sources.named(SOURCE)
    photos = [] if source is None else stills.album(source, OUTPUT)
    # In threads that the program does not wait for when it ends; the second may fetch a file.
    loading = workers.in_background(load, WEIGHTS)
    detector = workers.in_background(detectors.get, processed.DETECTOR)
    try:
        if source is None:
            return camera_or_portrait(loading, detector)
        screen = window.Window(SHOW)
        if photos:
            return view(photos, loading, OUTPUT, detector, screen)
        return watch(source, capture.Reader(source, RETRY, CAMERA_SIZE), loading, detector, screen)
    except window.NoWindow as problem:
        script.fail(f"{problem}; or set SHOW=False, with OUTPUT=<file> for a video or picture")


if __name__ == "__main__":
    script.override(globals())
    with workers.leaving_threads():
        script.run(main, stopped="no frame more is read")
