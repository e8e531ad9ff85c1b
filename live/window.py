"""The window: pictures are shown, and keys and the X button answered. Nothing to run.

Qt, GTK and the X server end a program that they fail in, without a word to Python. So the window has a process of its
own, which may die: what the script has written so far is kept.
"""

import contextlib
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from terminal import script

TITLE = "realtime"
QUIT = (ord("q"), ord("Q"), 27)  # 27: Esc
# What waitKey() gives on Linux for Num Lock, AltGr, Shift, Caps Lock, Ctrl, Alt and Super (X11's keysymdef.h, lowest 8
# bits). They are no keys of their own: Caps Lock must not turn a page.
MODIFIERS = (0x7F, 0x03, *range(0xE1, 0xEF))
SLICE = 50  # milliseconds after which a waiting window looks whether it was closed
PICTURE, KEY = struct.Struct("<iii"), struct.Struct("<i")  # what goes to the process before a picture, and comes back


def function_key(code):
    """The number of a function key, 1 for F1, by its code of waitKeyEx() on Linux, Windows or macOS; None for others.
    """
    for first, step in ((0xFFBE, 1), (0x70 << 16, 1 << 16), (0xF704, 1)):
        number, rest = divmod(code - first, step)
        if 0 <= number < 12 and not rest:
            return number + 1
    return None


def display_problem():
    """Why no window can be opened, with the remedy, or None, as far as can be known without trying."""
    if "GUI:                           NONE" in cv2.getBuildInformation():
        return ("this OpenCV has no windows: run 'pip uninstall -y opencv-python-headless opencv-python' and then "
                "'pip install -r requirements.txt'")
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
        return "there is no display (DISPLAY is not set): run it in a desktop session, or connect with 'ssh -X'"
    return None


class NoWindow(script.Problem):
    """No window can be opened; the message is the reason, with the remedy."""


class Window:
    """The window and its keys; with show=False it does nothing. `title`: in its bar."""

    def __init__(self, show, title=TITLE):
        self.process, self.opened, self.lost = None, False, False  # lost: its process ended by itself
        if not show:
            return
        if problem := display_problem():
            raise NoWindow(problem)
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen([sys.executable, "-m", "live.window", title], cwd=Path(__file__).parent.parent,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                                        start_new_session=True)  # Ctrl-C is the script's to answer

    def key(self, image, wait=1):
        """Show a BGR image and return the key pressed within `wait` milliseconds: -1 for none, that of 'q' where the
        window was closed, or its process ended. Raises NoWindow where it cannot be opened.
        """
        if self.process is None or self.lost:
            return QUIT[0] if self.lost else -1
        try:
            self.process.stdin.write(PICTURE.pack(*image.shape[:2], wait))
            self.process.stdin.write(np.ascontiguousarray(image))
            self.process.stdin.flush()
            answer = self.process.stdout.read(KEY.size)
        except OSError:  # nobody reads any more
            answer = b""
        if len(answer) == KEY.size:
            self.opened = True
            return KEY.unpack(answer)[0]
        self.lost = True
        if self.opened:
            return QUIT[0]
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors.read().decode("utf-8", "replace").splitlines() if line.strip()]
        reason = next((line for line in lines if line.startswith("qt.qpa")), lines[-1] if lines else "no reason given")
        raise NoWindow(f"no window can be opened on this display ({reason}): run it in a desktop session or with "
                       "'ssh -X', and leave QT_QPA_PLATFORM unset")

    def close(self):
        """Close it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            with contextlib.suppress(OSError):
                self.process.stdin.close()
            self.process.stdout.close()
            self.errors.close()
            self.process = None


class Screen:
    """OpenCV's window, in the process that may die."""

    def __init__(self, title):
        self.title, self.shape, self.visible = title, None, False

    def show(self, image, wait):
        """Show a BGR image for `wait` milliseconds, or until a key is pressed or the window closed. Returns the key."""
        if image.shape != self.shape:
            cv2.namedWindow(self.title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            share = min(1.0, 1280 / image.shape[1], 800 / image.shape[0])
            share = max(share, min(2.0, 640 / image.shape[1]))
            cv2.resizeWindow(self.title, max(1, round(image.shape[1] * share)), max(1, round(image.shape[0] * share)))
            self.shape = image.shape
        cv2.imshow(self.title, image)
        while True:
            key = cv2.waitKeyEx(max(1, min(wait, SLICE)))
            if self.closed():
                return QUIT[0]
            if function_key(key):
                return key
            if key >= 0 and key & 0xFF not in MODIFIERS:
                return key & 0xFF
            wait -= SLICE
            if wait <= 0:
                return -1

    def closed(self):
        """Whether the window was closed. Some builds say at first, or always, that it is not visible: they are believed
        only after they have said that it is."""
        try:
            visible = cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error:  # OpenCV with Qt raises once its last window is closed
            visible = False
        self.visible |= visible
        return self.visible and not visible


def serve(title):
    """The process: show what comes through stdin, and answer with the keys, until the script ends."""
    answers, screen = os.fdopen(os.dup(1), "wb"), Screen(title)
    os.dup2(2, 1)  # what libraries print is no answer
    if os.name != "nt":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while len(head := sys.stdin.buffer.read(PICTURE.size)) == PICTURE.size:
        height, width, wait = PICTURE.unpack(head)
        data = sys.stdin.buffer.read(height * width * 3)
        if len(data) < height * width * 3:
            break
        answers.write(KEY.pack(screen.show(np.frombuffer(data, np.uint8).reshape(height, width, 3), wait)))
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
