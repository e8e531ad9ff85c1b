"""What a source is: names that look like something else, devices, addresses and their passwords, no video."""

import os
import re
import sys
import time

import cv2
import pytest

import clips
import realtime
from boxes import write
from live import capture, results, sources, stills
from running import wait_for
from terminal import rules
from watching import program

SECRET = "s3cr/et@x"


def ended(source, retry=10.0):
    """What a reader of this source says when it has ended."""
    reader = capture.Reader(source, retry)
    wait_for(reader.finished)
    reader.close()
    return reader.problem()


@pytest.mark.parametrize("name", ["a.jfif", "a.jpe", "a", "a.mpo", "a.JPEG", "a.HEIC"])
def test_a_photo_of_any_name_is_a_photo(name, tmp_path):
    (tmp_path / name).write_bytes(cv2.imencode(".jpg", clips.scene(2))[1].tobytes())
    assert stills.photos_of(tmp_path / name) == [tmp_path / name]


@pytest.mark.skipif(os.name == "nt", reason="no colons in names there")
@pytest.mark.parametrize("name", ["12:30.mp4", "file:x.mp4", "100%.mp4", "clip%02d.mp4", "ñandú 😀.mp4"])
def test_names_that_look_like_something_else(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.mp4", 25.0)
    os.rename("a.mp4", name)
    assert not sources.is_live(name) and stills.photos_of(sources.named(name)) == []
    reader = capture.Reader(sources.named(name), 0)
    assert reader.read(5) is not None
    reader.close()


def test_what_a_source_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write(tmp_path / "a b.mp4", 25.0)
    for written in (f" {path} ", f"file://{path}", f"file://{path}".replace(" ", "%20"), str(path), path.as_uri(),
                    path.as_uri().replace("///", "//localhost/")):
        assert sources.named(written) == str(path), written
    # A file that is not there keeps its name: "" would be the folder that one stands in.
    assert sources.named("file://a.mp4").strip(r"\/") == "a.mp4" and sources.named("file:a?b.mp4") == "a?b.mp4"
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
    reader = capture.Reader("/dev/video0", 0)
    wait_for(reader.finished)
    reader.close()
    assert opened[0] == ("/dev/video0", cv2.CAP_V4L2) and reader.live
    monkeypatch.undo()
    assert ended("/dev/video97", 0.05).startswith("there is no camera /dev/video97")


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "sound"])
def test_a_file_that_is_not_a_video_is_told_at_once(kind, tmp_path):
    whole = write(tmp_path / "a.mp4", 25.0).read_bytes()
    bad = {"cut": whole[:len(whole) // 2], "empty": b"", "text": b"no video\n" * 99,
           "sound": b"RIFF\x24\x04\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x40\x1f\0\0\1\0\x08\0data\0\4\0\0"
                    + bytes(1024)}
    (tmp_path / "x.mp4").write_bytes(bad[kind])
    started = time.perf_counter()
    assert re.search(rf"x\.mp4 is {'a document' if kind == 'text' else 'damaged'}, ", ended(str(tmp_path / "x.mp4")))
    assert time.perf_counter() - started < 60, "or it waits for more, for ever"


def test_a_video_without_a_frame_that_can_be_decoded_is_told(tmp_path):
    """Its tables are whole, its pictures are not."""
    data = write(tmp_path / "a.mp4", 25.0).read_bytes()
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    (tmp_path / "x.mp4").write_bytes(data[:start] + bytes(end - start) + data[end:])
    assert "is damaged, or not a video" in ended(str(tmp_path / "x.mp4"))


@pytest.mark.parametrize("address", [
    f"rtsp://admin:{SECRET}@10.0.0.9:554/live?channel=1&pwd=s3cr/et", f"http://10.0.0.9:554/live?user=a@b&p={SECRET}",
    "rtsp://10.0.0.9:554/user=admin_password=s3cr_channel=1_stream=0.sdp?real_stream", "https://10.0.0.9:554/s3cr",
    "https://10.0.0.9:554?sig=s3cr;x=admin#s3cr", "rtmp://admin:s3c?r@10.0.0.9:554/a"])
def test_of_an_address_its_scheme_host_and_port_are_told(address):
    scheme = address.partition(":")[0]
    assert sources.public(address) == f"{scheme}://10.0.0.9:554"
    for told in (ended(address, 0.05) if scheme != "https" else "", results.name_of(address)):
        assert "s3c" not in told and "admin" not in told
    for arguments in ([f"SOURC={address}"], [f"MIRROR={address}"]):
        with pytest.raises(SystemExit) as stop:
            rules.override(vars(realtime).copy(), arguments)
        assert f"{scheme}://10.0.0.9:554" in str(stop.value) and "s3c" not in str(stop.value)


@pytest.mark.parametrize(("address", "known"), [("rtsp://admin:s3cr", "rtsp://admin"),
                                                ("udp://[::1]:9/s3cr", "udp://[::1]:9"),
                                                ("http://me:s3cr@[::1]", "http://[::1]")])
def test_a_port_is_a_number(address, known):
    assert sources.public(address) == known


@pytest.mark.parametrize("settings", [(), ("SHOW=5",), ("OUTPUT=rtsp://me:s3cr@127.0.0.1:9/x",)])
def test_the_program_tells_no_password(settings, tmp_path):
    done = program("SHOW=False", f"SOURCE=http://me:{SECRET}@127.0.0.1:9/x", "RETRY=0.1", "OUTPUT=o.mp4", *settings,
                   cwd=tmp_path)
    assert done.returncode == 1 and settings or "127.0.0.1:9" in done.stdout + done.stderr
    assert "s3cr" not in done.stdout + done.stderr and "Traceback" not in done.stderr
