"""The window of realtime.py: whether there can be one, its keys and its X button; pictures written. Nothing to run."""

import contextlib
import os
import socket
import sys
import time
from pathlib import Path

import cv2

from terminal import script
from terminal.files import atomic

TITLE = "realtime"
QUIT = (ord("q"), ord("Q"), 27)  # 27: Esc
# What waitKey() gives on Linux for Num Lock, AltGr, Shift, Caps Lock, Ctrl, Alt and Super (X11's keysymdef.h, lowest 8
# bits). They are no keys of their own: Caps Lock must not turn a page.
MODIFIERS = (0x7F, 0x03, *range(0xE1, 0xEF))
PLOTS_DIR = "plots"  # snapshots and records, taken by key


def display_problem():
    """Why no window can be opened, with the remedy, or None. Asked first, since Qt would abort the program."""
    if "GUI:                           NONE" in cv2.getBuildInformation():
        return ("this OpenCV has no windows: run 'pip uninstall -y opencv-python-headless opencv-python' and then "
                "'pip install -r requirements.txt'")
    if not sys.platform.startswith("linux") or os.environ.get("WAYLAND_DISPLAY") and not os.environ.get("DISPLAY"):
        return None
    name = os.environ.get("DISPLAY", "")
    host, colon, number = name.rpartition(":")
    number = number.split(".")[0]
    if not colon or not number.isdecimal():
        return "there is no display (DISPLAY is not set): run it in a desktop session, or connect with 'ssh -X'"
    if host in ("", "unix"):
        addresses = [(socket.AF_UNIX, f"{start}/tmp/.X11-unix/X{number}") for start in ("\0", "")]
    else:
        addresses = [(socket.AF_INET, (host, 6000 + int(number)))]
    for family, address in addresses:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as line:
            line.settimeout(2)
            line.connect(address)
            return None
    return f"the display {name} does not answer: check DISPLAY, or run it in a desktop session"


class Window:
    """The window and its keys; with show=False it does nothing."""

    def __init__(self, show):
        self.show, self.opened = show, False

    def key(self, image, wait=1):
        """Show a BGR image and return the key pressed: -1 for none, that of 'q' where the window was closed."""
        if not self.show:
            return -1
        if not self.opened:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            share = min(1.0, 1280 / image.shape[1], 800 / image.shape[0])
            share = max(share, min(2.0, 640 / image.shape[1]))
            cv2.resizeWindow(TITLE, max(1, round(image.shape[1] * share)), max(1, round(image.shape[0] * share)))
            self.opened = True
        cv2.imshow(TITLE, image)
        key = cv2.waitKey(wait)
        try:
            visible = cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error:  # OpenCV with Qt raises once its last window is closed
            visible = False
        if not visible:
            return ord("q")
        return -1 if key < 0 or key & 0xFF in MODIFIERS else key & 0xFF

    def close(self):
        """Close it, and let the window system know."""
        if self.opened:
            with contextlib.suppress(cv2.error):
                cv2.destroyAllWindows()
                cv2.waitKey(1)


def save_photo(path, image):
    """Write a BGR image as JPEG, PNG, ... by the suffix. Raises script.Problem where the format cannot hold it."""
    done, data = cv2.imencode(Path(path).suffix or ".jpg", image)
    if not done:
        raise script.Problem(f"{path} cannot be written as an image ({image.shape[1]}x{image.shape[0]} pixels)")
    with atomic(path) as temporary:
        temporary.write_bytes(data.tobytes())


def stamped(name, suffix):
    """plots/<name>_<date>_<time><suffix>"""
    return Path(PLOTS_DIR, f"{name}_{time.strftime('%Y%m%d_%H%M%S')}_{time.time_ns() // 10**6 % 1000:03d}{suffix}")


def snapshot(picture):
    """Save what is on the screen (key s)."""
    path = stamped("snapshot", ".jpg")
    save_photo(path, picture)
    print(f"snapshot: {path}", flush=True)
