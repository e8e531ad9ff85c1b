"""Live use for the tests: a stand-in for the network, one for a camera, a clip of two people."""

import contextlib
import csv
import os
import subprocess
import sys
import time
from concurrent.futures import Future

import cv2
import numpy as np
import pytest

import realtime
from faces import detectors
from faces.haar import upright_detections
from learn.classifier import Classifier
from live import capture, player, results, window
from running import ROOT, wait_for


def classify(crops):
    """A stand-in for the network."""
    return np.repeat([[0.1, 0.9]], len(crops), 0)


def by_brightness(crops):
    """Another: class 1 for light crops, class 0 for dark ones, neither for those between."""
    light = np.array([crop.mean() for crop in crops])
    second = np.select([light > 140, light < 90], [0.95, 0.05], 0.5)
    return np.stack([1 - second, second], 1)


class StandIn(Classifier):
    """A Classifier without a network; `answer`: crops -> probabilities, or these and how likely each is a child's."""

    def __init__(self, answer=None, classes=("beard", "hat"), threshold=0.6, margin=0.2, clahe=0.0):
        self.answer, self.classes, self.threshold = answer or classify, list(classes), threshold
        self.margin, self.clahe = margin, clahe

    def predict(self, crops):
        answer = self.answer(crops)
        return answer if isinstance(answer, tuple) else (np.asarray(answer), np.zeros(len(crops)))

    def explain(self, crops, classes=None):
        return np.zeros((len(crops), 224, 224), np.float32)


def done(result):
    """A future that has this result."""
    future = Future()
    future.set_result(result)
    return future


def loading(answer=None):
    """A stand-in for the future of realtime.load()."""
    return done(StandIn(answer))


def haar():
    """The future of Haar's detector."""
    return done(detectors.get("haar"))


def detects(tracker, boxes):
    """From now on a Tracker's detector finds these boxes [(x, y, width, height)] of upright faces in any frame."""
    found = np.array(boxes, np.float64).reshape(-1, 4)
    tracker.detector.detect = tracker.detector.detect_near = lambda *_: upright_detections(found)
    tracker.detector.verify = lambda *_: 0.0


def reader_of(source, camera, retry=capture.RETRY):
    """A capture.Reader of a source that opens once, as this Camera."""
    cameras = [camera]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture, "open_capture", lambda *_: cameras.pop() if cameras else None)
        reader = capture.Reader(source, retry)
        wait_for(lambda: not cameras)
    return reader


def play(reader, loading, output=None):
    """Play as realtime.watch() does, with Haar's detector and without the mirror; returns the results."""
    with contextlib.closing(window.Window(realtime.SHOW)) as screen, contextlib.closing(reader):
        playing = player.Player(reader, loading, realtime.controls_of(False), results.Results(), haar(), screen)
        return playing.play(output)


def watch(path, loading, screen=None):
    """realtime.watch() of a file, with Haar's detector; without `screen` no window."""
    with contextlib.closing(capture.Reader(str(path))) as reader:
        realtime.watch(reader, loading, haar(), screen or window.Window(False))


def program(*arguments, cwd=None, **environment):
    """Run realtime.py. Returns the finished process."""
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")} | environment
    return subprocess.run([sys.executable, str(ROOT / "realtime.py"), *arguments], cwd=cwd, env=env, text=True,
                          capture_output=True, timeout=120)


def read_log(path):
    """The rows of a log as dicts; its header and all rows must be whole."""
    with open(path, encoding="utf-8", newline="") as file:
        text = file.read()
    assert text.endswith("\r\n")
    header, *rows = csv.reader(text.splitlines())
    assert header == ["source", "time", "face", "class", "confidence", "x", "y", "width", "height"]
    return [dict(zip(header, row, strict=True)) for row in rows]


class Screen:
    """A stand-in for the window: it answers with `keys`, one for each picture, and keeps the `pictures`. `keys`: all
    of them, or {number of a picture, from 1: key}."""

    shown, lost, closed = True, False, False

    def __init__(self, keys):
        self.pictures, self.keys = [], keys if isinstance(keys, dict) else iter(keys)

    def show(self, image, wait):
        self.pictures.append(image)
        return self.keys.get(len(self.pictures), "") if isinstance(self.keys, dict) else next(self.keys)

    def close(self):
        self.closed = True


class Camera:
    """A camera that sends numbered frames every `pause` seconds, and falls silent after `last`."""

    def __init__(self, last, pause=0.0):
        self.number, self.last, self.pause, self.released = 0, last, pause, False

    def read(self):
        time.sleep(self.pause)
        self.number += 1
        return (True, np.full((48, 64, 3), self.number, np.uint8)) if self.number <= self.last else (False, None)

    def get(self, what):
        return 30.0 if what == cv2.CAP_PROP_FPS else 0.0

    def release(self):
        self.released = True


# A cv2.VideoCapture for processes, as sitecustomize.py; the environment's CAMERA says how it fails.
CAMERAS = """
import os, time
import cv2
import numpy as np

class Camera:
    opened = 0

    def __init__(self, *_):
        Camera.opened += 1
        self.kind, self.count, self.start = os.environ['CAMERA'], 0, time.monotonic()
        if self.kind == 'opening blocks':
            time.sleep(1000)

    def isOpened(self):
        return True

    def read(self):
        time.sleep(0.02)
        self.count += 1
        if self.kind == 'reading blocks' or self.kind == 'blocks later' and self.count > 20:
            time.sleep(1000)
        if self.kind == 'never' or self.kind == 'comes back' and self.count > 20 and Camera.opened < 3:
            return False, None
        if self.kind == 'empty':
            return True, np.zeros((0, 0, 3), np.uint8)
        return True, np.full((480, 640, 3), 90, np.uint8)

    def get(self, what):
        return 0.0

    def set(self, what, value):
        return True

    def release(self):
        pass

VideoCapture = cv2.VideoCapture
cv2.VideoCapture = lambda *source: Camera() if source == (0,) else VideoCapture(*source)
"""
