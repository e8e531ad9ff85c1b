"""Clips as people have them: containers without a count, odd and varying rates, wide pixels, strange names, none."""

import os
import struct
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import cv2
import numpy as np
import pytest

import clips
import realtime
from live import capture, pixels, sources, stills, tracks
from terminal import script

ROOT = Path(realtime.__file__).parent
SECRET = "s3cr/et@x"


def frames(count=60, size=(320, 240)):
    """BGR frames, each of another gray, so that their order can be told."""
    return [np.full((size[1], size[0], 3), 20 + 3 * i, np.uint8) for i in range(count)]


def write(path, rate, pictures=None, code="mp4v"):
    """A clip that OpenCV writes, as it is."""
    pictures = frames() if pictures is None else pictures
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), rate, pictures[0].shape[1::-1])
    assert writer.isOpened()
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return path


def rebuilt(data, path, change, skip=0):
    """The bytes of an MP4 in which change() has replaced what the box at `path` holds; all sizes are mended.

    Media data come first in what OpenCV writes, so that they stay where the tables say.
    """
    at = skip
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind.decode("latin-1") == path[0]:
            inner = data[at + 8:at + size]
            # A box of sample descriptions begins with 8 bytes of its own, a description of a video with 78.
            inner = rebuilt(inner, path[1:], change, {"stsd": 8, "mp4v": 78}.get(path[0], 0)) if path[1:] else change(
                inner)
            return data[:at] + struct.pack(">I4s", len(inner) + 8, kind) + inner + data[at + size:]
        at += size
    raise AssertionError(f"no box {path[0]}")


MEDIA = ["moov", "trak", "mdia"]
TABLES = [*MEDIA, "minf", "stbl"]


def lasting(data, *runs):
    """The same MP4 with runs of (frames, seconds per frame)."""
    scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 4 + 12)[0]
    ticks = [(count, round(seconds * scale)) for count, seconds in runs]
    total = sum(count * each for count, each in ticks)
    table = struct.pack(">II", 0, len(ticks)) + b"".join(struct.pack(">II", *run) for run in ticks)
    data = rebuilt(data, [*TABLES, "stts"], lambda inner: table)
    data = rebuilt(data, [*MEDIA, "mdhd"], lambda inner: inner[:16] + struct.pack(">I", total) + inner[20:])
    return data.replace(b"edts", b"free")  # a list of edits that would cut it off


def wide_pixels(data, wide, high):
    """The same MP4 with pixels that are `wide` by `high`."""
    box = struct.pack(">I4sII", 16, b"pasp", wide, high)
    return rebuilt(data, [*TABLES, "stsd", "mp4v"], lambda inner: inner.replace(b"pasp", b"free") + box)


def turned(data):
    """The same MP4, to be shown turned by 90 degrees."""
    matrix = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    return rebuilt(data, ["moov", "trak", "tkhd"], lambda inner: inner[:40] + matrix + inner[76:])


def loaded():
    """A stand-in for the future of realtime.load()."""
    future = Future()
    future.set_result(({"classes": ["beard", "hat"], "threshold": 0.6, "margin": 0.2, "clahe": 0.0, "ages": []},
                       lambda crops: np.repeat([[0.1, 0.9]], len(crops), 0), None))
    return future


def copy(source, output, retry=10.0):
    """Read a source and write it. Returns (times of the frames, frames written, seconds of the output, the reader)."""
    reader, times = capture.open_live(sources.named(source), retry), []
    with capture.video_writer(output, reader.rate, reader.live) as add:
        while not reader.over():
            got = reader.read()
            if got:
                times.append(got[1])
                add(*got[:2])
    reader.stop()
    written = cv2.VideoCapture(str(output))
    count, seconds = written.get(cv2.CAP_PROP_FRAME_COUNT), 0.0
    seconds = count / written.get(cv2.CAP_PROP_FPS)
    written.release()
    return times, count, seconds, reader


def run(*arguments, cwd):
    return subprocess.run([sys.executable, str(ROOT / "realtime.py"), "SHOW=False", *arguments], cwd=cwd, text=True,
                          capture_output=True, timeout=120)


@pytest.mark.parametrize("name", ["c.mjpeg", "c.mjpg", "c", "c.bin"])
def test_a_file_without_a_count_ends(name, tmp_path):
    (tmp_path / name).write_bytes(b"".join(cv2.imencode(".jpg", f)[1].tobytes() for f in frames()))
    assert stills.photos_of(tmp_path / name) == []
    times, count, _, reader = copy(str(tmp_path / name), tmp_path / "o.mp4")
    assert len(times) == count == 60 and not reader.live and reader.dropped == 0 and not reader.lost
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


@pytest.mark.parametrize("name", ["a.jfif", "a.jpe", "a", "a.mpo", "a.JPEG"])
def test_a_photo_of_any_name_is_a_photo(name, tmp_path):
    (tmp_path / name).write_bytes(cv2.imencode(".jpg", clips.scene(2))[1].tobytes())
    assert stills.photos_of(tmp_path / name) == [tmp_path / name]


@pytest.mark.parametrize("rate", [239.6187, 119.973, 90.003, 29.97, 23.976, 7.4925])
def test_odd_rates_can_be_written(rate, tmp_path):
    source = write(tmp_path / "a.avi", rate, code="MJPG")
    for name in ("o.mp4", "o.avi", "o.mov", "o.mkv"):
        times, count, seconds, _ = copy(str(source), tmp_path / name)
        assert len(times) == count == 60 and seconds == pytest.approx(60 / rate, rel=0.01)


@pytest.mark.parametrize("rate", [0.5, 0.1, 480.0, 300.0])
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
    video, grays = cv2.VideoCapture(str(tmp_path / "o.mp4")), []
    while (got := video.read())[0]:
        grays.append(got[1].mean())
    video.release()
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
                         ([0, 100, 300, 350, 1000], [0, 100, 300, 350, 1000])):
        reader, times = capture.Reader(None, False, 25.0, capture=Source(told)), []
        while not reader.over():
            got = reader.read()
            times += [got[1] * 1000] if got else []
        reader.stop()
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
    reader = capture.open_live(str(tmp_path / "b.mp4"), 0)
    frame = reader.read(5)[0]
    reader.stop()
    assert frame.shape[:2] == shape
    middle = frame.mean(2)[:, shape[1] // 2] if not turn else frame.mean(2)[shape[0] // 2]
    assert abs(middle[20] - middle[-20]) > 150, "the picture is turned, and the shape of its pixels with it"
    copy(str(tmp_path / "b.mp4"), tmp_path / "o.mp4")
    video = cv2.VideoCapture(str(tmp_path / "o.mp4"))
    assert video.read()[1].shape[:2] == shape
    video.release()


def test_a_camera_is_asked_for_no_shape_of_pixels():
    class Camera:
        def get(self, what):
            raise AssertionError("a driver may take its time to answer")

        def getBackendName(self):
            return "V4L2"

    assert pixels.ratio_of(Camera()) == 1.0


@pytest.mark.skipif(os.name == "nt", reason="no colons in names there")
@pytest.mark.parametrize("name", ["12:30.mp4", "file:x.mp4", "100%.mp4", "clip%02d.mp4", "ñandú 😀.mp4"])
def test_names_that_look_like_something_else(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.mp4", 25.0)
    os.rename("a.mp4", name)
    assert not sources.is_live(name) and stills.photos_of(sources.named(name)) == []
    reader = capture.open_live(sources.named(name), 0)
    assert reader.read(5) is not None
    reader.stop()


def test_what_a_source_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write(tmp_path / "a b.mp4", 25.0)
    for written in (f" {path} ", f"file://{path}", f"file://{path}".replace(" ", "%20"), str(path)):
        assert sources.named(written) == str(path), written
    for address in ("rtsp://a/b", "http://x:80/v.mp4", "rtmp://h/live", "RTSP://H", "udp://@:1234"):
        assert sources.is_url(address) and sources.is_live(address) and not sources.is_camera(address)
    for file in ("C:\\x.mp4", "C:/x.mp4", "12:30.mp4", "a.mp4", str(path)):
        assert not sources.is_live(file)
    for camera in (0, 3, "/dev/video0", "/dev/v4l/by-id/usb-046d_HD-video-index0"):
        assert sources.is_camera(camera) and sources.is_live(camera)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cameras have names there")
def test_a_device_is_opened_as_a_camera(monkeypatch):
    opened = []

    class Camera:
        def __init__(self, *arguments):
            opened.append(arguments)

        def isOpened(self):
            return True

        def get(self, what):
            return 30.0

        def read(self):
            return False, None

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    reader = capture.open_live("/dev/video0", 0)
    reader.stop()
    assert opened[0] == ("/dev/video0", cv2.CAP_V4L2) and reader.live
    monkeypatch.undo()
    with pytest.raises(SystemExit, match="^error: there is no camera /dev/video97[^\n]*$"):
        capture.open_live("/dev/video97", 0.05)


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "sound"])
def test_what_is_no_video_is_told_at_once(kind, tmp_path):
    whole = write(tmp_path / "a.mp4", 25.0).read_bytes()
    bad = {"cut": whole[:len(whole) // 2], "empty": b"", "text": b"no video\n" * 99,
           "sound": b"RIFF\x24\x04\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x40\x1f\0\0\1\0\x08\0data\0\4\0\0"
                    + bytes(1024)}
    (tmp_path / "x.mp4").write_bytes(bad[kind])
    started = time.perf_counter()
    with pytest.raises(SystemExit, match=r"^error: .*x\.mp4 is damaged, or no video"):
        capture.open_live(str(tmp_path / "x.mp4"), 10.0)
    assert time.perf_counter() - started < 5


def test_a_video_without_a_frame_that_can_be_decoded_is_told(tmp_path):
    """Its tables are whole, its pictures are not."""
    data = write(tmp_path / "a.mp4", 25.0).read_bytes()
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    (tmp_path / "x.mp4").write_bytes(data[:start] + bytes(end - start) + data[end:])
    with pytest.raises(SystemExit, match="is damaged, or no video"):
        capture.open_live(str(tmp_path / "x.mp4"), 10.0)


def test_no_password_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(capture, "open_capture", lambda *_: None)
    for scheme in ("rtsp", "http", "rtmp", "https"):
        address = f"{scheme}://admin:{SECRET}@10.0.0.9:554/live?channel=1&pwd=s3cr/et&token=s3cr"
        assert sources.public(address) == f"{scheme}://10.0.0.9:554/live?channel=1&pwd=...&token=..."
        assert "s3cr" not in sources.public(f"{scheme}://10.0.0.9/live?user=a@b&password={SECRET}")
        with pytest.raises(SystemExit) as stop:
            capture.open_live(address, 0.05)
        told = str(stop.value) + capsys.readouterr().out
        assert told.count("10.0.0.9:554/live") == 2 and "s3cr" not in told and "admin" not in told
        with pytest.raises(SystemExit) as stop:
            script.override({"SOURCE": None, "__file__": "realtime.py"}, [f"SOURC={address}"])
        assert "10.0.0.9" in str(stop.value) and "s3cr" not in str(stop.value)


def test_the_program_tells_no_password(tmp_path):
    done = run(f"SOURCE=http://me:{SECRET}@127.0.0.1:9/x", "RETRY=0.1", "OUTPUT=o.mp4", cwd=tmp_path)
    assert done.returncode == 1 and "127.0.0.1:9/x" in done.stdout + done.stderr
    assert "s3cr" not in done.stdout + done.stderr and "Traceback" not in done.stderr


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


@pytest.mark.parametrize("name", ["o.mp4", "o.avi"])
def test_an_output_without_a_frame_is_one_line(name, tmp_path, monkeypatch):
    """As where q is pressed while the network loads."""
    with pytest.raises(capture.EmptyVideo), capture.video_writer(tmp_path / name, 25.0, False):
        pass
    monkeypatch.setattr(realtime, "SHOW", False)
    monkeypatch.setattr(realtime, "OUTPUT", str(tmp_path / name))
    write(tmp_path / "a.mp4", 25.0)
    reader = capture.open_live(str(tmp_path / "a.mp4"), 0)
    reader.stop()
    reader.frames.clear()
    with pytest.raises(SystemExit, match="^error: [^\n]*$") as stop:
        script.run(lambda: realtime.watch(str(tmp_path / "a.mp4"), reader, loaded()))
    assert name in str(stop.value) and not (tmp_path / name).exists()
