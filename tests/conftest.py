"""Puts the scripts (repository root) and the importers (data/) where the tests can import them."""

import functools
import os
import signal
import sys
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ["OMP_NUM_THREADS"] = "1"  # pytest runs a process per core, and PyTorch's threads would fight for the cores
os.environ["FACES_HOME"] = "."  # scripts work in the folder that a test stands in, not in the project's
os.environ["NO_FETCH"] = "1"  # no test needs the network; where faces/yunet.py's model is there, it is used
for folder in (ROOT / "data", ROOT):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import drawn  # noqa: E402
from judge import plots  # noqa: E402
from terminal import workers  # noqa: E402

DPI = plots.DPI
plots.DPI = 50  # fewer pixels to draw and compress; test_report.py draws them all

draw_face = drawn.draw_face
draw_once = functools.cache(draw_face)  # the tests draw each face six times


def draw_again(rng, name, person=None):
    """drawn.draw_face(), which draws the face of a seed only once."""
    return draw_once(rng, name).copy() if isinstance(rng, (int, tuple)) else draw_face(rng, name, person)


drawn.draw_face = draw_again


def pytest_configure(config):
    """Start again if names of files are ASCII (PYTHONUTF8=0 LC_ALL=C), since the tests have names in other letters.

    Signals that are ignored, as after nohup or &, would be ignored by the scripts that the tests stop.
    """
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
            signal.signal(getattr(signal, name), handler)
    if sys.getfilesystemencoding() != "utf-8":
        config.pluginmanager.getplugin("capturemanager").suspend_global_capture(in_=True)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working folder, in which the scripts' own relative folders are used."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_gui(monkeypatch):
    """OpenCV's windows are open, but nowhere to be seen, and no key is pressed."""
    for name in ("namedWindow", "resizeWindow", "imshow"):
        monkeypatch.setattr(cv2, name, lambda *_: None)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0)
    monkeypatch.setattr(cv2, "waitKeyEx", lambda wait: -1)


@pytest.fixture
def in_this_process(monkeypatch):
    """processed.py and test.py find faces in this process, one photo after the other."""
    def in_processes(function, jobs, *_):
        for job in jobs:
            assert all(type(part) in (str, type(Path())) for part in job), "a class of ours would be sent with each job"
            yield function(*job)

    monkeypatch.setattr(workers, "in_processes", in_processes)


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """A folder with train and valid, crops of drawn faces. Tests only read them."""
    from crops import both_splits

    return both_splits(tmp_path_factory.mktemp("faces"))
