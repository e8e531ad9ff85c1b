"""Cameras and videos: the newest frame of one, all frames of the other, records whole or not there."""

import threading
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import clips
import realtime
from live import capture, writing
from running import ROOT, call, wait_for
from watching import Camera, program, reader_of


def test_a_camera_gives_its_newest_frame():
    camera = Camera(40, 0.001)
    reader = reader_of(0, camera, 0.0)
    seen = []
    while not reader.finished():
        got = reader.read()
        if got:
            seen.append(int(got[0][0, 0, 0]))
            wait_for(lambda: camera.number >= min(seen[-1] + 4, 40))  # slower than the camera
    assert seen == sorted(seen) and len(seen) < 20
    assert reader.dropped + len(seen) == 40
    reader.close()
    assert camera.released and "camera" in reader.problem()


def test_a_video_drops_none_however_slow_its_reader():
    reader = reader_of("a.mp4", Camera(60))
    seen = []
    while not reader.finished():
        got = reader.read()
        if got:
            seen.append((int(got[0][0, 0, 0]), got[1]))
            time.sleep(0.002)
    assert [n for n, _ in seen] == list(range(1, 61)) and reader.dropped == 0
    assert seen[30][1] == pytest.approx(1.0)
    reader.close()


def test_a_camera_that_comes_back_goes_on(monkeypatch):
    cameras = [Camera(5), None, Camera(5)]
    monkeypatch.setattr(capture, "open_capture", lambda *_: cameras.pop(0) if cameras else None)
    reader = capture.Reader(0, 2.0)
    while not reader.finished():
        reader.read()
    assert reader.received == 10 and reader.problem()
    reader.close()


@pytest.mark.parametrize("error", [cv2.error, SystemError, OSError, MemoryError])
def test_whatever_a_driver_raises_is_a_camera_without_frames(error, monkeypatch):
    """In the thread of the reader, where it would be a traceback."""
    def fails(*_):
        raise error

    camera = Camera(5)
    for name, opens in (("open", fails), ("read", lambda *_: camera)):
        monkeypatch.setattr(cv2, "VideoCapture", opens)
        monkeypatch.setattr(camera, "read", fails)
        monkeypatch.setattr(camera, "isOpened", lambda: True, raising=False)
        reader = capture.Reader(0, 0.0)
        while not reader.finished():
            reader.read()
        reader.close()
        assert reader.problem() and reader.opened == (name == "read")


def test_stop_ends_the_thread_while_it_waits():
    reader = reader_of("a.mp4", Camera(10 ** 6))
    time.sleep(0.1)
    reader.close()
    assert not reader.thread.is_alive()


def test_no_output_is_left_of_a_run_that_fails(tmp_path):
    reader = SimpleNamespace(rate=25.0, live=False)
    with pytest.raises(RuntimeError), writing.Video(tmp_path / "out.mp4", reader) as video:
        video.write(np.zeros((48, 64, 3), np.uint8), 0.0)
        raise RuntimeError
    assert not list(tmp_path.glob("*.*4"))


def test_a_record_of_a_camera_lasts_as_long_as_it_took(tmp_path):
    with writing.Video(tmp_path / "a.avi", SimpleNamespace(rate=25.0, live=True)) as video:
        for i in range(11):
            video.write(np.zeros((48, 64, 3), np.uint8), 7 + i / 10)  # ten frames a second for a second
    assert len(clips.read_clip(tmp_path / "a.avi")) == 26


def test_without_a_camera_one_line_and_an_exit_code(tmp_path):
    done = program("SOURCE=63", "SHOW=False", "RETRY=0.3", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "camera 63" in done.stderr


@pytest.mark.parametrize("source", ["nothing.mp4", "empty", "text.mp4"])
def test_a_source_without_pictures_is_one_line(source, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    weights = ROOT / "weights" / "shipped" / "small.pt"
    code, _, err = call(realtime, f"SOURCE={source}", "SHOW=False", f"WEIGHTS={weights}", cwd=tmp_path)
    assert code == 1 and err.startswith("error: ") and source in err and err.count("\n") == 1


@pytest.mark.parametrize("system", ["darwin", "linux"])
def test_a_camera_of_a_mac_is_opened_by_the_main_thread_first(system, monkeypatch):
    """Only there macOS shows its question whether the camera may be used."""
    threads, camera = [], Camera(3)

    def open_capture(*_):
        threads.append(threading.current_thread() is threading.main_thread())
        return camera if len(threads) == 2 else None  # not allowed at first

    monkeypatch.setattr(capture, "open_capture", open_capture)
    monkeypatch.setattr(capture.sys, "platform", system)
    reader = capture.Reader(0, 5.0)
    wait_for(lambda: camera.released)
    reader.close()
    assert reader.received == 3 and threads[:2] == [system == "darwin", False]


def test_frames_that_come_while_it_is_asked_whether_more_will_come_are_not_lost(monkeypatch):
    """The thread adds the last ones and ends between the two looks."""
    class LastMoment(capture.Reader):
        def __getattribute__(self, name):
            value = super().__getattribute__(name)
            if name == "frames" and self.armed:
                value, self.armed, self.ended = value.copy(), False, True
                super().__getattribute__("frames").append("the last one")
            return value

    monkeypatch.setattr(LastMoment, "armed", False, raising=False)
    monkeypatch.setattr(LastMoment, "work", lambda *_: None)
    reader = LastMoment("a.mp4")
    reader.armed = True
    assert not reader.finished()
