"""The window, which shows pictures and returns keys. Nothing to run.

When Qt, GTK or the X server fails, it ends the whole process, without an exception in Python. So the window has a
process of its own; if that dies, the script can still finish its files.
"""

import contextlib
import ctypes
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
QUIT = ("q", "escape")
# Keys without a character that have a meaning: name, and the codes of waitKeyEx(). By OpenCV's sources these are X11's
# keysyms with Qt and GTK, Windows' virtual keys shifted by 16 bits, and Apple's function-key characters on macOS.
KEYS = (
    ("left", 0xFF51, 0xFF96, 0x25 << 16, 0xF702),  # X11, X11's keypad, Windows, macOS
    ("up", 0xFF52, 0xFF97, 0x26 << 16, 0xF700),
    ("right", 0xFF53, 0xFF98, 0x27 << 16, 0xF703),
    ("down", 0xFF54, 0xFF99, 0x28 << 16, 0xF701),
    ("page up", 0xFF55, 0xFF9A, 0x21 << 16, 0xF72C),
    ("page down", 0xFF56, 0xFF9B, 0x22 << 16, 0xF72D),
    *((f"f{n}", 0xFFBD + n, 0x6F + n << 16, 0xF703 + n) for n in range(1, 10)),
    *((str(n), 0xFFB0 + n) for n in range(10)),  # the keypad with GTK; with the others it gives the digits themselves
    ("escape", 27))
NAMES = {code: name for name, *codes in KEYS for code in codes}
GTK_MODIFIERS = 0x60FF << 16  # GTK adds Shift, Num Lock, ... and the keyboard layout's number above 16 bits
LARGEST = 1280, 800  # largest size in pixels of a new window; the user can enlarge it
MONITOR = 1280, 720  # assumed size of a monitor whose size is unknown
FREE = 0.85  # share of a monitor's width and height without its bars, and those of the window
SLICE = 50  # milliseconds after which a waiting window checks whether it was closed
PICTURE, KEY = struct.Struct("<iii"), struct.Struct("9s")  # header of a picture to the process; its answer


def name_of(code):
    """The name of the key for a code of cv2.waitKeyEx(), on any system: its character without Shift or Caps Lock ("q",
    "1", " "), or a name of KEYS; "" for no key, and for all other keys, such as Home, Shift or volume.
    """
    if code in NAMES:
        return NAMES[code]
    code &= ~GTK_MODIFIERS
    return chr(code).lower() if 0x20 <= code < 0x7F else NAMES.get(code, "")


def display_problem():
    """Why no window can be opened, and what to do, as far as can be known without trying; else None."""
    if "GUI:                           NONE" in cv2.getBuildInformation():
        return ("this OpenCV has no windows: run 'pip uninstall -y opencv-python-headless opencv-python' and then "
                "'pip install -r requirements.txt'")
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
        return "there is no display (DISPLAY is not set): run it in a desktop session, or connect with 'ssh -X'"
    return None


def reason_in(errors):
    """The line of a window's process that says why it has ended: Qt's, or else the last one."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    of_qt = [line for line in lines if line.startswith("qt.qpa")]
    if of_qt:
        return of_qt[0]
    return lines[-1] if lines else "no reason given"


def remedy():
    """What to do if a window cannot be opened."""
    if sys.platform.startswith("linux"):
        return "run it in a desktop session or with 'ssh -X', and leave QT_QPA_PLATFORM unset"
    return "log in at the machine itself, or to its remote desktop, and run it there"


def monitor_size():
    """(width, height) of the monitor, in the same pixels as sizes of windows."""
    try:
        if sys.platform == "win32":
            return tuple(ctypes.windll.user32.GetSystemMetrics(which) for which in (0, 1))  # SM_CXSCREEN, SM_CYSCREEN
        if sys.platform == "darwin":
            graphics = ctypes.CDLL("/System/Library/Frameworks/CoreGraphics.framework/CoreGraphics")
            display = graphics.CGMainDisplayID()
            return graphics.CGDisplayPixelsWide(display), graphics.CGDisplayPixelsHigh(display)
        x11 = ctypes.CDLL("libX11.so.6")
        x11.XOpenDisplay.restype = ctypes.c_void_p
        address = x11.XOpenDisplay(None)
        if not address:
            return MONITOR
        display = ctypes.c_void_p(address)
        width, height = x11.XDisplayWidth(display, 0), x11.XDisplayHeight(display, 0)
        x11.XCloseDisplay(display)
        return min(width, height * 16 // 9), height  # X11 gives the width of all monitors side by side
    except (OSError, AttributeError):
        return MONITOR


def fitting(shape, monitor):
    """(width, height) of the window for a picture of `shape`, (rows, columns, ...): its size, or reduced, with the same
    aspect ratio, to fit LARGEST and the free part of a `monitor`, (width, height)."""
    rows, columns = shape[:2]
    width, height = (min(largest, FREE * side) for largest, side in zip(LARGEST, monitor, strict=True))
    share = min(1.0, width / columns, height / rows)
    return max(1, round(columns * share)), max(1, round(rows * share))


def own_group(windows=os.name == "nt"):
    """Arguments of subprocess.Popen() for a process that does not get the Ctrl-C of the script's terminal."""
    return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if windows else {"start_new_session": True}


class NoWindow(script.Problem):
    """No window can be opened; the message has the reason, and what to do."""


class Window:
    """The window and its keys; with show=False it does nothing. `title`: text of its bar."""

    def __init__(self, show, title=TITLE):
        self.process, self.opened, self.lost = None, False, False  # lost: its process has died
        if not show:
            return
        if problem := display_problem():
            raise NoWindow(problem)
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen([sys.executable, "-m", "live.window", title], cwd=Path(__file__).parent.parent,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                                        **own_group())

    @property
    def shown(self):
        """Whether there is a window: not with show=False, nor once it is closed."""
        return self.process is not None

    def show(self, image, wait):
        """Show a BGR image and return the key pressed within `wait` milliseconds: its name_of(), "" for none, or "q" if
        the window was closed, or its process ended. Raises NoWindow if it cannot be opened.
        """
        if self.lost:
            return QUIT[0]
        if not self.shown:
            return ""
        try:
            self.process.stdin.write(PICTURE.pack(*image.shape[:2], wait))
            self.process.stdin.write(np.ascontiguousarray(image))
            self.process.stdin.flush()
            answer = self.process.stdout.read(KEY.size)
        except OSError:  # the process has ended
            answer = b""
        if len(answer) == KEY.size:
            self.opened = True
            return KEY.unpack(answer)[0].rstrip(b"\0").decode()
        self.lost = True
        if self.opened:
            return QUIT[0]
        self.errors.seek(0)
        reason = reason_in(self.errors.read().decode("utf-8", "replace"))
        self.close()
        raise NoWindow(f"no window can be opened on this display ({reason}): {remedy()}")

    def close(self):
        """Close the window and end its process."""
        if self.shown:
            self.process.kill()
            self.process.wait()
            with contextlib.suppress(OSError):
                self.process.stdin.close()
            self.process.stdout.close()
            self.errors.close()
            self.process = None


class NativeWindow:
    """OpenCV's window, in the process that Window starts."""

    def __init__(self, title):
        self.title, self.monitor, self.visible = title, monitor_size(), False
        self.shape, self.size = None, None  # shape of the picture; last (width, height) set for the window

    def show(self, image, wait):
        """Show a BGR image until a key with a name_of() is pressed, and return that name; "" if none is pressed within
        `wait` milliseconds, and "q" if the window was closed."""
        if image.shape != self.shape:
            self.resize(image.shape)
        cv2.imshow(self.title, image)
        while True:
            key = name_of(cv2.waitKeyEx(max(1, min(wait, SLICE))))
            if self.closed():
                return QUIT[0]
            wait -= SLICE
            if key or wait <= 0:
                return key

    def resize(self, shape):
        """Fit the window to a picture of this shape, unless the user has given it another size."""
        if self.shape is None:
            cv2.namedWindow(self.title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        if self.shape is None or tuple(cv2.getWindowImageRect(self.title)[2:]) == self.size:
            self.size = fitting(shape, self.monitor)
            cv2.resizeWindow(self.title, *self.size)
        self.shape = shape

    def closed(self):
        """Whether the window was closed. Some builds of OpenCV report at first, or always, that it is not visible, so
        that counts only after it has been visible."""
        try:
            visible = cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error:  # raised by OpenCV with Qt after its last window is closed
            visible = False
        self.visible |= visible
        return self.visible and not visible


def serve(title):
    """The window's process: show pictures from stdin, and write keys to stdout, until the script ends."""
    answers, native = os.fdopen(os.dup(1), "wb"), NativeWindow(title)
    os.dup2(2, 1)  # so that what libraries print does not get into the answers
    if os.name != "nt":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while len(head := sys.stdin.buffer.read(PICTURE.size)) == PICTURE.size:
        height, width, wait = PICTURE.unpack(head)
        data = sys.stdin.buffer.read(height * width * 3)
        if len(data) < height * width * 3:
            break
        answers.write(KEY.pack(native.show(np.frombuffer(data, np.uint8).reshape(height, width, 3), wait).encode()))
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
