"""Live use for the tests: a stand-in for the network, one for a camera, a clip of two people."""

import os
import subprocess
import sys
import time
from concurrent.futures import Future

import numpy as np

from running import ROOT

INFO = {"classes": ["beard", "hat"], "threshold": 0.6, "margin": 0.2, "clahe": 0.0}


def classify(crops):
    """A stand-in for the network."""
    return np.repeat([[0.1, 0.9]], len(crops), 0)


def loaded():
    """A stand-in for the future of realtime.load()."""
    future = Future()
    future.set_result((INFO, classify, lambda crops: np.zeros((len(crops), 224, 224), np.float32)))
    return future


def program(*arguments, cwd=None, **environment):
    """Run realtime.py. Returns the finished process."""
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")} | environment
    return subprocess.run([sys.executable, str(ROOT / "realtime.py"), *arguments], cwd=cwd, env=env, text=True,
                          capture_output=True, timeout=120)


class Camera:
    """A camera that sends numbered frames every `pause` seconds, and falls silent after `last`."""

    def __init__(self, last, pause=0.0):
        self.number, self.last, self.pause, self.released = 0, last, pause, False

    def read(self):
        time.sleep(self.pause)
        self.number += 1
        return (True, np.full((48, 64, 3), self.number, np.uint8)) if self.number <= self.last else (False, None)

    def release(self):
        self.released = True
