"""The window as a person uses it: a virtual screen, real key presses, the X button."""

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

import clips
import photos
from live import window
from running import ROOT
from watching import CAMERAS, program

SMALL = ROOT / "weights" / "shipped" / "small.pt"

needs_screen = pytest.mark.skipif(not (sys.platform.startswith("linux") and shutil.which("Xvfb") and
                                       shutil.which("xdotool")),
                                  reason="needs Xvfb and xdotool of Linux: apt-get install xvfb xdotool")
pytestmark = needs_screen


@contextlib.contextmanager
def virtual_screen():
    """Yield (name, process) of a virtual screen of its own."""
    read, write = os.pipe()
    # Without -noreset the screen starts anew when its last guest leaves, which xdotool often is, and turns away whoever
    # comes just then.
    server = subprocess.Popen(["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x900x24", "-nolisten", "tcp",
                               "-noreset"], pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as number:
        name = f":{number.readline().strip()}"
    yield name, server
    server.terminate()
    server.wait(10)


@pytest.fixture(scope="module")
def display():
    """The name of a virtual screen."""
    with virtual_screen() as (name, _):
        yield name


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A face for 40 seconds: longer than a slow machine takes for the test."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    frames = list(clips.frames_of([clips.person("hat", 3)], 40, 1))
    clips.write_clip(path, frames * 10, 10.0)
    return path


class ClientMessage(ctypes.Structure):
    """XClientMessageEvent, padded to the size of XEvent."""

    _fields_ = [("type", ctypes.c_int), ("serial", ctypes.c_ulong), ("send_event", ctypes.c_int),
                ("display", ctypes.c_void_p), ("window", ctypes.c_ulong), ("message_type", ctypes.c_ulong),
                ("format", ctypes.c_int), ("data", ctypes.c_long * 5), ("rest", ctypes.c_long * 12)]


def click_x(display, window):
    """Tell a window what a window manager tells it when its X button is clicked."""
    x11 = ctypes.CDLL("libX11.so.6")
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XInternAtom.restype = ctypes.c_ulong
    server = ctypes.c_void_p(x11.XOpenDisplay(display.encode()))
    protocols, delete = (x11.XInternAtom(server, name, 0) for name in (b"WM_PROTOCOLS", b"WM_DELETE_WINDOW"))
    event = ClientMessage(type=33, window=window, message_type=protocols, format=32)
    event.data[0] = delete
    x11.XSendEvent(server, ctypes.c_ulong(window), 0, 0, ctypes.byref(event))
    x11.XCloseDisplay(server)


class Session:
    """A script in its window on the virtual screen."""

    def __init__(self, display, folder, *arguments, program="realtime.py", title="realtime", **environment):
        self.env = os.environ | {"DISPLAY": display} | environment
        self.env.pop("WAYLAND_DISPLAY", None)
        self.folder = folder
        self.process = subprocess.Popen([sys.executable, str(ROOT / program), *arguments], cwd=folder,
                                        env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.window = self.until(lambda: self.xdotool("search", "--name", f"^{title}$"), 60).split()[0]

    def xdotool(self, *arguments):
        return subprocess.run(["xdotool", *arguments], env=self.env, capture_output=True, text=True, timeout=60).stdout

    def until(self, condition, seconds=20):
        """The first true answer of `condition`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            if answer := condition():
                return answer
            time.sleep(0.02)
        self.process.kill()
        raise AssertionError(f"waited in vain; {self.process.communicate()}")

    def press(self, *keys, pause=0.3):
        for key in keys:
            self.xdotool("windowfocus", "--sync", self.window, "key", key)
            time.sleep(pause)  # a slow machine answers one key per frame

    def ready(self):
        """Wait for the network: until then the first picture stands still, and keys but q and Esc do nothing."""
        self.until(lambda: self.press("s") or time.sleep(0.3) or self.snapshots(), 60)

    def snapshot(self):
        """What is on the screen, by the key s."""
        before = len(self.snapshots())
        self.press("s")
        self.until(lambda: len(self.snapshots()) > before)
        return cv2.imread(str(self.snapshots()[-1])).astype(int)

    def size(self):
        """Width and height of the window."""
        told = re.search(r"Geometry: (\d+)x(\d+)", self.xdotool("getwindowgeometry", self.window))
        return int(told[1]), int(told[2])

    def snapshots(self):
        return sorted(self.folder.glob("plots/snapshot_*.jpg"))

    def pressed(self, key, shown):
        """The first snapshot after `key` of which `shown` is true. The window system keeps only the last of the keys
        pressed while a busy machine draws one frame, so a key without effect is pressed again."""
        for _ in range(4):
            self.press(key)
            for _ in range(3):
                if shown(picture := self.snapshot()):
                    return picture
        raise AssertionError(f"the key {key} shows nothing")

    def end(self):
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0 and not err, err
        return out


@pytest.fixture
def session(display, clip, tmp_path):
    started = Session(display, tmp_path, f"SOURCE={clip}", f"WEIGHTS={ROOT / 'weights' / 'shipped' / 'paper.pt'}")
    yield started
    started.process.kill()
    started.process.communicate()


def test_keys_do_what_the_help_says(session, tmp_path):
    session.ready()
    plain = session.snapshot()
    assert plain.shape == (480, 640, 3)

    def change(picture, region):
        return abs(picture[region] - plain[region]).mean()

    width, height = session.size()
    assert width == 640 and 480 < height < 510
    session.pressed("h", lambda _: session.size()[1] > height)
    session.pressed("h", lambda _: session.size() == (width, height))
    corner = (slice(60, 200), slice(0, 90))
    middle = (slice(150, 330), slice(220, 420))
    heat = session.pressed("g", lambda picture: change(picture, middle) > 15)
    assert change(heat, corner) < 10, "the heat map covers the face and nothing else"
    edge = (slice(240, 480), slice(0, 640))
    mirrored = plain[:, ::-1]
    session.pressed("m", lambda picture: abs(picture[edge] - mirrored[edge]).mean() < change(picture, edge))
    session.press("r")
    session.until(lambda: list(tmp_path.glob("plots/.tmp*.mp4")))
    for _ in range(3):
        session.snapshot()
    session.press("r")
    session.until(lambda: list(tmp_path.glob("plots/record_*.mp4")))
    session.press("space", "space", "Escape")
    out = session.end()
    assert "recorded: " in out and "from a frame's arrival to its being drawn: median" in out
    record, = tmp_path.glob("plots/record_*.mp4")
    assert len(clips.read_clip(record)) >= 3


@pytest.fixture
def start(display, tmp_path):
    """Starts realtime.py on a source."""
    sessions = []

    def started(source):
        sessions.append(Session(display, tmp_path, f"SOURCE={source}", f"WEIGHTS={SMALL}"))
        return sessions[-1]

    yield started
    for each in sessions:
        each.process.kill()
        each.process.communicate()


def test_only_keys_that_mean_something_do_something_on_photos(start, tmp_path):
    for name in ("a.png", "b.png"):
        photos.save(tmp_path / "in" / name, clips.person("hat", 3))
    session = start(tmp_path / "in")
    session.until(lambda: session.press("s") or session.snapshots(), 60)
    taken = len(session.snapshots())
    session.press("Left", "Up", "Prior", "Home", "End", "Insert", "Delete", "Menu", "F1", "F5", "F12", "Tab", "Return",
                  "BackSpace", "Caps_Lock", "Num_Lock", "ISO_Next_Group", "XF86AudioRaiseVolume", "XF86MonBrightnessUp",
                  "Cyrillic_shorti", "x", "5", "r", pause=0.05)
    session.press("Caps_Lock", "Num_Lock")  # as they were before
    assert session.process.poll() is None and len(session.snapshots()) == taken
    session.press("q")
    out = session.end()
    assert "a.png" in out and "b.png" not in out
    session = start(tmp_path / "in")
    session.until(lambda: session.press("s") or len(session.snapshots()) > taken, 60)
    session.press("Right", "space", "Escape")
    assert "b.png" in session.end()


def test_a_tall_clip_fits_the_screen_and_stays_after_its_last_frame(start, tmp_path):
    session = start(clips.write_clip(tmp_path / "tall.mp4", [np.full((1364, 720, 3), 90, np.uint8)] * 10, 25.0))
    session.until(lambda: session.press("s") or session.snapshots(), 60)
    width, height = session.size()
    assert height <= 900 * window.FREE + 1 and 0.45 < width / height < 0.53
    time.sleep(1.5)
    assert session.process.poll() is None
    session.press("space")
    assert "10 frames" in session.end()


@pytest.fixture
def camera(display, tmp_path):
    """Starts realtime.py with a camera that fails so."""
    (tmp_path / "sitecustomize.py").write_text(CAMERAS)
    sessions = []

    def start(kind, *arguments):
        sessions.append(Session(display, tmp_path, "SOURCE=0", f"WEIGHTS={SMALL}", *arguments, CAMERA=kind,
                                PYTHONPATH=str(tmp_path)))
        return sessions[-1]

    yield start
    for each in sessions:
        each.process.kill()
        each.process.communicate()


@pytest.mark.parametrize(("kind", "way"), [("never", "q"), ("opening blocks", "Ctrl-C"), ("reading blocks", "X"),
                                         ("blocks later", "Escape")])
def test_the_window_answers_whatever_the_camera_does(camera, kind, way):
    """While the network loads, too. From the press to its end it took 0.12 to 0.34 s beside one other program on two
    cores, and 0.18 to 0.76 s beside four.
    """
    session = camera(kind)
    time.sleep(2)  # a slow machine loses keys that come while its window opens
    if way == "X":
        click_x(session.env["DISPLAY"], int(session.window))
    elif way == "Ctrl-C":
        session.process.send_signal(signal.SIGINT)
    else:
        session.xdotool("key", "--window", session.window, way)
    out, err = session.process.communicate(timeout=60)  # what blocks does so for longer
    assert session.process.returncode == 0 and not err, err


def test_a_camera_that_comes_back_is_shown_again(camera):
    session = camera("comes back", "RETRY=5")
    assert any("does not answer" in line for line in session.process.stdout), "and said so"
    session.snapshot()
    click_x(session.env["DISPLAY"], int(session.window))
    frames, dropped = map(int, re.search(r"(\d+) frames in .* (\d+) dropped", session.end()).groups())
    assert frames + dropped > 20, "the first time it gave as many"


def test_what_was_written_outlives_the_display(tmp_path, clip):
    with virtual_screen() as (name, server):
        session = Session(name, tmp_path, f"SOURCE={clip}", f"WEIGHTS={SMALL}", "OUTPUT=o.mp4", "LOG=faces.csv")
        log = tmp_path / "faces.csv"
        session.until(lambda: log.exists() and log.stat().st_size > 900, 60)
        server.kill()
        out, err = session.process.communicate(timeout=60)
    assert session.process.returncode == 1 and "written: o.mp4" in out and err == "error: the display is gone\n"
    assert len(clips.read_clip(tmp_path / "o.mp4")) > 5
    assert not list(tmp_path.glob(".tmp*"))


@pytest.mark.parametrize("environment", [{"QT_QPA_PLATFORM": "wayland"}, {"QT_QPA_PLATFORM": "nonsense"},
                                         {"DISPLAY": "", "WAYLAND_DISPLAY": "wayland-0"}])
def test_where_no_window_can_be_opened_one_line_or_a_portrait(display, clip, tmp_path, environment):
    environment = {"DISPLAY": display} | environment
    done = program(f"SOURCE={clip}", f"WEIGHTS={SMALL}", cwd=tmp_path, **environment)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "SHOW=False" in done.stderr
    if environment.get("QT_QPA_PLATFORM") == "wayland":
        done = program(f"WEIGHTS={SMALL}", cwd=tmp_path, **environment)
        assert done.returncode == 0 and "labelling the portrait" in done.stdout and not done.stderr
        assert (tmp_path / "plots" / "realtime.jpg").exists()
