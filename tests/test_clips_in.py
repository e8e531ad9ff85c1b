"""Clips as people have them: containers without a count, odd and varying rates, wide pixels."""

import contextlib
import struct

import cv2
import numpy as np
import pytest

import clips
import realtime
from boxes import copy, frames, lasting, turned, wide_pixels, write
from live import capture, stills, tracks
from running import wait_for
from terminal import script
from watching import Camera, Screen, haar, loading, reader_of, watch


@pytest.mark.parametrize("name", ["c.mjpeg", "c.mjpg", "c", "c.bin"])
def test_a_file_without_a_count_ends(name, tmp_path):
    (tmp_path / name).write_bytes(b"".join(cv2.imencode(".jpg", f)[1].tobytes() for f in frames()))
    assert stills.photos_of(tmp_path / name) == []
    times, count, _, reader = copy(str(tmp_path / name), tmp_path / "o.mp4")
    assert len(times) == count == 60 and not reader.live and reader.dropped == 0
    assert times == sorted(set(times))


def test_a_stream_of_packets_without_a_count_ends(tmp_path):
    """Raw MPEG-4 video, as .m4v files of cameras hold it: neither a count nor a clock."""
    mp4 = write(tmp_path / "a.mp4", 25.0).read_bytes()
    start = mp4.index(b"mdat") + 4
    head = mp4[mp4.index(b"\0\0\1\xb0"):]  # the decoder's settings, which an MP4 keeps apart
    head = head[:head.index(b"\x06\x80\x80\x80")]
    (tmp_path / "a.m4v").write_bytes(head + mp4[start:start - 8 + struct.unpack_from(">I", mp4, start - 8)[0]])
    times, count, seconds, reader = copy(str(tmp_path / "a.m4v"), tmp_path / "o.mp4")
    assert len(times) == count == 60 and not reader.live and seconds == pytest.approx(60 / reader.rate)


@pytest.mark.parametrize("rate", [239.6187, 119.973, 90.003, 29.97, 23.976, 7.4925])
def test_odd_rates_can_be_written(rate, tmp_path):
    source = write(tmp_path / "a.avi", rate, code="MJPG")
    for name in ("o.mp4", "o.avi", "o.mov", "o.mkv"):
        times, count, seconds, _ = copy(str(source), tmp_path / name)
        assert len(times) == count == 60 and seconds == pytest.approx(60 / rate, rel=0.01)


@pytest.mark.parametrize("rate", [0.5, 0.1, 480.0, 300.0, 1000.0])
def test_slow_and_fast_clips_keep_their_length(rate, tmp_path):
    times, count, seconds, _ = copy(str(write(tmp_path / "a.mp4", rate)), tmp_path / "o.mp4")
    assert count == 60 and seconds == pytest.approx(60 / rate, rel=0.01)
    assert times[-1] == pytest.approx(59 / rate, rel=0.01)


def test_varying_rates_keep_their_length_and_times(tmp_path):
    """A second of 30 frames, then five seconds of three each, then a second of 27: as screens and phones record."""
    path = tmp_path / "a.mp4"
    path.write_bytes(lasting(write(tmp_path / "b.mp4", 30.0).read_bytes(), (30, 1 / 30), (15, 1 / 3), (15, 1 / 15)))
    times, count, seconds, reader = copy(str(path), tmp_path / "o.mp4")
    assert len(times) == 60 and times[30] == pytest.approx(1.0, abs=0.02) and times[45] == pytest.approx(6.0, abs=0.02)
    assert seconds == pytest.approx(7.0, abs=0.1) and reader.rate == pytest.approx(30, rel=0.05)
    grays = [frame.mean() for frame in clips.read_clip(tmp_path / "o.mp4")]
    shown = [grays[round(t * len(grays) / seconds)] for t in (0.5, 3.5, 6.5)]
    wanted = [20 + 3 * np.searchsorted(times, t, "right") - 3 for t in (0.5, 3.5, 6.5)]
    np.testing.assert_allclose(shown, wanted, atol=8)


def test_a_clock_that_stands_or_jumps_is_not_believed():
    class Source:
        """Ten frames; what its clock says after each."""

        def __init__(self, told):
            self.told, self.number = told, -1

        def read(self):
            self.number += 1
            return self.number < len(self.told), np.zeros((48, 64, 3), np.uint8)

        def get(self, what):
            return self.told[self.number] if what == cv2.CAP_PROP_POS_MSEC else 0.0

        def release(self):
            pass

    for told, wanted in (([0.0] * 5, [0, 40, 80, 120, 160]), ([0, 40, 80, 0, 160], [0, 40, 80, 120, 160]),
                         ([0, 40, 9e9, 9e9 + 40, 9e9 + 80], [0, 40, 80, 120, 160]),
                         ([0, 40, 80, 20, 60, 100], [0, 40, 80, 120, 160, 200]),
                         ([0, 40, 80, 80, 160, 200], [0, 40, 80, 120, 160, 200]),
                         ([0, 40, 9e9, 120, 160], [0, 40, 80, 120, 160]),
                         ([10, 10, 10, 130, 130, 130, 250], [10, 50, 90, 130, 170, 210, 250]),
                         ([0, 100, 300, 350, 1000], [0, 100, 300, 350, 1000])):
        reader, times = reader_of("a.mp4", Source(told)), []
        while not reader.finished():
            got = reader.read()
            times += [got[1] * 1000] if got else []
        reader.close()
        np.testing.assert_allclose(times, wanted, atol=1e-6)


def test_a_live_rate_that_is_a_clocks_step_is_not_believed():
    class Stream:
        def get(self, what):
            return 90_000.0

    assert capture.frame_rate(Stream()) == capture.frame_rate(Stream(), capture.LIVE_RATE) == 25.0


@pytest.mark.parametrize(("wide", "high", "turn", "shape"), [
    (4, 3, False, (480, 640)), (3, 4, False, (640, 480)), (4, 3, True, (640, 480)), (2, 1, False, (480, 960)),
    (1, 1, False, (480, 480)), (1000, 1, False, (480, 480)), (0, 1, False, (480, 480)),
])
def test_pixels_that_are_not_square_are_stretched(wide, high, turn, shape, tmp_path):
    image = np.zeros((480, 480, 3), np.uint8)
    image[:240] = 200
    data = wide_pixels(write(tmp_path / "a.mp4", 25.0, [image] * 5).read_bytes(), wide, high)
    (tmp_path / "b.mp4").write_bytes(turned(data) if turn else data)
    reader = capture.Reader(str(tmp_path / "b.mp4"), 0)
    frame = reader.read(5)[0]
    reader.close()
    assert frame.shape[:2] == shape
    middle = frame.mean(2)[:, shape[1] // 2] if not turn else frame.mean(2)[shape[0] // 2]
    assert abs(middle[20] - middle[-20]) > 150, "the picture is turned, and the shape of its pixels with it"
    copy(str(tmp_path / "b.mp4"), tmp_path / "o.mp4")
    assert clips.read_clip(tmp_path / "o.mp4")[0].shape[:2] == shape


def test_a_camera_is_asked_for_no_shape_of_pixels():
    class Camera:
        def get(self, what):
            raise AssertionError("a driver may take its time to answer")

        def getBackendName(self):
            return "V4L2"

    assert capture.pixel_ratio(Camera()) == 1.0


def test_wide_frames_are_searched_as_finely(tmp_path):
    """Of a stereo camera's frame, 2560x720, as many faces are found as of a half of it."""
    found = {}
    for width in (1280, 2560):
        found[width] = 0
        for i in range(12):
            face = cv2.cvtColor(clips.person(("hat", "beard")[i % 2], i), cv2.COLOR_RGB2BGR)
            scale = 0.3 * 720 / (face.shape[1] * 0.5)  # the face takes about half of the picture's width
            face = cv2.resize(face, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            frame = np.full((720, width, 3), 120, np.uint8)
            face = face[:700]
            frame[10:10 + face.shape[0], 500:500 + face.shape[1]] = face
            tracker = tracks.Tracker()
            for k in range(8):
                confirmed = tracker.step(frame, k / 10)
            found[width] += len(confirmed)
    assert found[2560] >= found[1280] - 1 and found[1280] >= 8, found


def test_an_output_without_a_frame_is_one_line(tmp_path, monkeypatch):
    """As where Ctrl-C ends a camera before its first frame."""
    class Interrupted(Screen):
        def show(self, image, wait):
            raise KeyboardInterrupt

    monkeypatch.setattr(realtime, "OUTPUT", str(tmp_path / "o.mp4"))
    monkeypatch.setattr(realtime, "LOG", str(tmp_path / "faces.csv"))
    with contextlib.closing(reader_of(0, Camera(0), 60.0)) as reader:
        with pytest.raises(SystemExit, match="^error: [^\n]*$") as stop:
            script.run(lambda: realtime.watch(reader, loading(), haar(), Interrupted(())))
    assert "o.mp4" in str(stop.value) and not list(tmp_path.glob("[!.]*"))


def test_a_clip_that_breaks_off_is_told(tmp_path, monkeypatch, capsys):
    """What was read before is written, the exit status is 1."""
    whole = write(tmp_path / "a.avi", 25.0, code="MJPG").read_bytes()
    (tmp_path / "b.avi").write_bytes(whole[:len(whole) // 2])
    monkeypatch.setattr(realtime, "OUTPUT", str(tmp_path / "o.mp4"))
    with pytest.raises(SystemExit, match=r"b\.avi ended after \d\d of 60 frames"):
        watch(tmp_path / "b.avi", loading())
    assert "written: " in capsys.readouterr().out and (tmp_path / "o.mp4").exists()


@pytest.mark.parametrize(("frame", "mean"), [
    (np.full((48, 64), 90, np.uint8), 90), (np.full((48, 64, 1), 90, np.uint8), 90),
    (np.full((48, 64, 2), 128, np.uint8), 130), (np.full((48, 64, 4), 90, np.uint8), 90),
    (np.full((48, 64, 3), 90 << 8, np.uint16), 90), (np.zeros((0, 0, 3), np.uint8), None),
    (np.zeros(0, np.uint8), None), (np.zeros((48, 64, 5), np.uint8), None), (np.full((48, 64, 3), np.nan), None)])
def test_frames_of_any_kind_are_made_bgr_or_skipped(frame, mean):
    class Source(Camera):
        def read(self):
            done, _ = super().read()
            return done, frame

    reader = reader_of("a.mp4", Source(3))
    wait_for(lambda: reader.ended)
    got = reader.read()
    reader.close()
    if mean is None:
        assert got is None and reader.unusable == 3 and "3 frames were empty" in reader.problem()
    else:
        assert got[0].shape == (48, 64, 3) and got[0].dtype == np.uint8 and abs(got[0].mean() - mean) < 3
