"""realtime.py from source to output: cameras that fail, videos kept whole, photos, texts, threads and memory."""

import os
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import Future
from pathlib import Path

import cv2
import numpy as np
import pytest

import clips
import realtime
from faces import finding
from live import capture, controls, overlay, player, results, stills, tracks, window
from terminal import script

ROOT = Path(realtime.__file__).parent
INFO = {"classes": ["beard", "hat"], "threshold": 0.6, "margin": 0.2, "clahe": 0.0}


def classify(crops):
    """A stand-in for the network."""
    return np.repeat([[0.1, 0.9]], len(crops), 0)


def loaded():
    """A stand-in for the future of realtime.load()."""
    future = Future()
    future.set_result((INFO, classify, lambda crops: np.zeros((len(crops), 224, 224), np.float32)))
    return future


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Two people, a cut to an empty stretch, and one person: 60 frames at 24 a second."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    two, one = [clips.person("hat", 3), clips.person("beard", 4)], [clips.person("hat", 3)]
    frames = [*clips.frames_of(two, 25, 1), *clips.frames_of([], 10, 3), *clips.frames_of(one, 25, 2)]
    clips.write_clip(path, frames, 24.0)
    return path


@pytest.fixture
def no_window(monkeypatch):
    monkeypatch.setattr(realtime, "SHOW", False)


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


def test_a_camera_gives_its_newest_frame():
    camera = Camera(40, 0.005)
    reader = capture.Reader(lambda: None, True, retry=0.0, capture=camera)
    seen = []
    while not reader.over():
        got = reader.read()
        if got:
            seen.append(int(got[0][0, 0, 0]))
            time.sleep(0.04)  # slower than the camera
    assert seen == sorted(seen) and len(seen) < 20
    assert reader.dropped + len(seen) == 40
    reader.stop()
    assert camera.released and reader.lost


def test_a_video_drops_none_however_slow_its_reader():
    reader = capture.Reader(lambda: Camera(60), False, rate=30.0)
    seen = []
    while not reader.over():
        got = reader.read()
        if got:
            seen.append((int(got[0][0, 0, 0]), got[1]))
            time.sleep(0.002)
    assert [n for n, _ in seen] == list(range(1, 61)) and reader.dropped == 0
    assert seen[30][1] == pytest.approx(1.0)
    reader.stop()


def test_a_camera_that_comes_back_goes_on():
    cameras = [Camera(5), None, Camera(5)]
    reader = capture.Reader(lambda: cameras.pop(0) if cameras else None, True, retry=0.7)
    while not reader.over():
        reader.read()
    assert reader.received == 10 and reader.lost
    reader.stop()


def test_stop_ends_the_thread_while_it_waits():
    reader = capture.Reader(lambda: Camera(10 ** 6), False)
    time.sleep(0.1)
    reader.stop()
    assert not reader.thread.is_alive()


def test_output_has_all_frames_and_the_rate(clip, tmp_path, no_window):
    opened = capture.open_capture(clip)
    reader = capture.Reader(lambda: None, False, capture.frame_rate(opened), capture=opened)
    result = realtime.play(reader, loaded(), tmp_path / "out.mp4")
    written = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    frames = []
    while True:
        done, frame = written.read()
        if not done:
            break
        frames.append(frame)
    assert result["frames"] == len(frames) == 60 and written.get(cv2.CAP_PROP_FPS) == pytest.approx(24.0)
    written.release()
    assert result["faces"] >= 2 and not result["lost"]
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    source = cv2.VideoCapture(str(clip))
    for i, frame in enumerate(frames):  # boxes in the stretches with people, nothing in the empty one
        original = source.read()[1]
        differs = np.abs(frame.astype(int) - original).max() > 60
        assert not differs if 24 < i < 35 else differs or i < 4 or 34 < i < 50, i
    source.release()


def test_no_output_is_left_of_a_run_that_fails(tmp_path, no_window):
    with pytest.raises(RuntimeError), capture.video_writer(tmp_path / "out.mp4", 25.0, False) as write:
        write(np.zeros((48, 64, 3), np.uint8), 0.0)
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_record_of_a_camera_lasts_as_long_as_it_took(tmp_path):
    with capture.video_writer(tmp_path / "a.avi", 25.0, True) as write:
        for i in range(11):
            write(np.zeros((48, 64, 3), np.uint8), 7 + i / 10)  # ten frames a second for a second
    written = cv2.VideoCapture(str(tmp_path / "a.avi"))
    assert written.get(cv2.CAP_PROP_FRAME_COUNT) == 26
    written.release()


def test_play_leaves_no_thread_and_no_memory(clip, no_window):
    def once():
        opened = capture.open_capture(clip)
        realtime.play(capture.Reader(lambda: None, False, 24.0, capture=opened), loaded())

    before = threading.active_count()
    once()
    tracemalloc.start()
    once()
    first = tracemalloc.get_traced_memory()[0]
    for _ in range(3):
        once()
    grown = tracemalloc.get_traced_memory()[0] - first
    tracemalloc.stop()
    assert threading.active_count() == before and grown < 200_000


def test_without_a_camera_one_line_and_an_exit_code(tmp_path):
    done = program("SOURCE=63", "SHOW=False", "RETRY=0.3", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "camera 63" in done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a display is taken for granted elsewhere")
@pytest.mark.parametrize("display", [{}, {"DISPLAY": ":987"}])
def test_without_a_display_one_line_that_names_the_way_out(clip, tmp_path, display):
    done = program(f"SOURCE={clip}", cwd=tmp_path, **display)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "SHOW=False" in done.stderr and "display" in done.stderr


def test_an_opencv_without_windows_is_named(monkeypatch):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
    assert "opencv-python-headless" in window.display_problem()


@pytest.mark.parametrize("answer", [0.0, -1.0, cv2.error("no window")])
def test_the_x_button_quits(answer, monkeypatch):
    def visible(*_):
        if isinstance(answer, Exception):
            raise answer
        return answer

    for name in ("namedWindow", "resizeWindow", "imshow"):
        monkeypatch.setattr(cv2, name, lambda *_: None)
    monkeypatch.setattr(cv2, "waitKey", lambda wait: -1)
    monkeypatch.setattr(cv2, "getWindowProperty", visible)
    assert window.Window(True).key(np.zeros((48, 64, 3), np.uint8)) in window.QUIT


def test_without_weights_one_line(clip, tmp_path):
    done = program(f"SOURCE={clip}", "SHOW=False", "WEIGHTS=none.pt", cwd=tmp_path)
    assert done.returncode == 1 and "none.pt" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("source", ["nothing.mp4", "empty", "text.mp4"])
def test_a_source_that_is_none(source, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    done = program(f"SOURCE={source}", "SHOW=False", "RETRY=0.1", cwd=tmp_path)
    assert done.returncode == 1 and source in done.stderr and "Traceback" not in done.stderr


def test_photos_of_a_folder_are_annotated_and_bad_ones_counted(tmp_path, capsys):
    folder, target = tmp_path / "in", tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    face = cv2.cvtColor(clips.person("hat", 3), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(folder / "sub" / "face.png"), face)
    cv2.imwrite(str(folder / "wall.jpg"), clips.scene(2))
    (folder / "broken.jpg").write_bytes(b"no photo")
    album = stills.album(folder, target)
    counts = stills.annotate(album, loaded(), controls.Controls(show=False), 224, results.Results())
    assert counts == {"photos": 2, "faces": 1, "no face": 1, "unreadable": 1}
    assert sorted(p.name for p in target.rglob("*.*")) == ["face.png", "wall.jpg"]
    assert np.abs(cv2.imread(str(target / "sub" / "face.png")).astype(int) - face).max() > 60
    assert "sub/face.png: hat 90%" in capsys.readouterr().out


def test_photos_never_replace_their_sources(tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), clips.scene(0))
    with pytest.raises(SystemExit, match="replace"):
        stills.outputs(tmp_path, [tmp_path / "a.jpg"], tmp_path)


def test_the_first_face_of_a_photo_is_the_one_that_is_tested():
    photo = clips.person("hat", 3)
    np.testing.assert_array_equal(stills.faces_of_photo(photo, ("haar",))[0].box, finding.main_face(photo).box)


@pytest.mark.parametrize("shape", [(60, 80), (480, 640), (2160, 3840), (400, 50)])
@pytest.mark.parametrize("mirror", [False, True])
def test_no_text_leaves_the_frame(shape, mirror):
    height, width = shape
    frame = np.zeros((*shape, 3), np.uint8)
    for x, y in ((-20, -20), (width - 20, height - 20), (width // 2, -30), (0, height - 5)):
        picture = overlay.draw(frame, [((x, y, 40, 40), "HOMBRE ñandú 100%", 0, None)], ["a line " * 9], mirror)
        assert picture.shape == frame.shape and picture.any()
    top, bottom = overlay.write(frame.copy(), "a very long text " * 5, width, height, (255, 0, 0), 30)
    assert 0 <= top < bottom <= height


def test_the_video_that_is_read_is_never_replaced(clip, tmp_path):
    before, alias = clip.read_bytes(), tmp_path / "alias.mp4"
    os.link(clip, alias)
    for output in (clip, clip.parent / ".." / clip.parent.name / clip.name, alias):
        done = program(f"SOURCE={clip}", f"OUTPUT={output}", "SHOW=False", cwd=ROOT)
        assert done.returncode == 1 and "would replace the video that is read" in done.stderr
        assert "Traceback" not in done.stderr and clip.read_bytes() == before


def test_a_class_has_its_colour_and_its_text(monkeypatch):
    monkeypatch.setattr(realtime, "LABELS", {"woman": "MUJER"})
    text_of = realtime.controls_of().text_of
    assert text_of(1, 0.934, ["man", "woman"]) == "MUJER 93%"
    assert text_of(0, 0.7, ["man", "woman"]) == "man 70%" and text_of(None, 0.5, []) == "unsure"
    frame = np.zeros((100, 100, 3), np.uint8)
    for index in (0, 1):
        edge = overlay.draw(frame, [((20, 30, 40, 40), "", index, None)])[70, 40]
        assert tuple(edge[::-1]) == overlay.COLOURS[index]


def test_what_the_window_shows(clip, monkeypatch, tmp_path):
    shown = []

    class Screen:
        def __init__(self, show):
            assert show

        def key(self, image, wait):
            shown.append(image)
            return ord({3: "h", 5: "g", 8: "m", 20: "r", 30: "r", 32: "q"}.get(len(shown), "x"))

        def close(self):
            shown.append(None)

    monkeypatch.setattr(window, "Window", Screen)
    monkeypatch.setattr(window, "PLOTS_DIR", str(tmp_path))
    opened = capture.open_capture(clip)
    reader = capture.Reader(lambda: None, False, 24.0, capture=opened)
    result = realtime.play(reader, loaded())
    assert shown[-1] is None and result["frames"] == 32 and not result["lost"]
    assert all((f[:20, :100] < 80).mean() > 0.5 for f in shown[:-1])  # the dark plate of the numbers
    assert (shown[3][60:100, :60] != shown[2][60:100, :60]).any()  # the help
    written, = tmp_path.iterdir()
    assert cv2.VideoCapture(str(written)).get(cv2.CAP_PROP_FRAME_COUNT) == 10


def test_a_video_shows_its_first_picture_while_the_network_loads(clip, monkeypatch):
    shown, future = [], Future()

    class Screen:
        def __init__(self, show):
            pass

        def key(self, image, wait):
            shown.append(image)
            if len(shown) == 3 and not quits:
                future.set_result(loaded().result())
            return ord("q" if len(shown) == (3 if quits else 8) else "s")

        def close(self):
            pass

    monkeypatch.setattr(window, "Window", Screen)
    monkeypatch.setattr(window, "snapshot", lambda picture: None)
    for quits in (True, False):
        shown.clear()
        reader = capture.Reader(lambda: None, False, 24.0, capture=capture.open_capture(clip))
        result = realtime.play(reader, future)
        assert result["frames"] == (0 if quits else 5), "no frame is lost to the waiting"
        np.testing.assert_array_equal(shown[0], shown[2])


def test_status_tells_rates():
    playing = player.Player(capture.Reader(lambda: None, False), loaded(), controls.Controls(show=False), 224,
                            results.Results())
    assert playing.ready()
    playing.recent = [(i / 25, 2) for i in range(26)]
    line, = playing.status()
    assert line.startswith("25 frames/s   50 faces/s   0 dropped")


def test_space_pauses_and_a_record_of_no_frame_is_none(clip, tmp_path, monkeypatch, capsys):
    """Paused at the fourth frame, r twice, then on: no frame came while it was to be recorded."""
    keys = iter("xxx rr q")

    class Screen:
        def __init__(self, show):
            pass

        def key(self, image, wait):
            return ord(next(keys))

        def close(self):
            pass

    monkeypatch.setattr(window, "Window", Screen)
    monkeypatch.setattr(window, "PLOTS_DIR", str(tmp_path))
    result = realtime.play(capture.Reader(None, False, 24.0, 0, capture.open_capture(clip)), loaded())
    assert result["frames"] < 7 and "no frame came" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_an_output_without_a_frame_is_one_line(tmp_path, monkeypatch, no_window):
    monkeypatch.setattr(realtime, "OUTPUT", str(tmp_path / "out.mp4"))
    with pytest.raises(SystemExit, match="not one frame came"):
        realtime.watch("clip.mp4", capture.Reader(lambda: None, False), loaded())
    assert not list(tmp_path.iterdir())


def test_blurred_faces_in_a_video(clip, tmp_path, monkeypatch, no_window):
    """From the frame on in which a face is first hit, and before it is labelled; the network sees it as it is."""
    given = []

    def watched(crops):
        given.extend(crops)
        return classify(crops)

    monkeypatch.setattr(realtime, "BLUR", True)
    future = Future()
    future.set_result((INFO, watched, None))
    realtime.play(capture.Reader(None, False, 24.0, 0, capture.open_capture(clip)), future, str(tmp_path / "a.mp4"))
    written, frames = cv2.VideoCapture(str(tmp_path / "a.mp4")), []
    while (got := written.read())[0]:
        frames.append(got[1])
    assert len(frames) == 60 and len(finding.find_faces(clips_frame(clip, 20))) >= 2
    for i in (1, 10, 20, 45, 59):
        assert not len(finding.find_faces(frames[i])), i
    assert len(given) > 5 and finding.main_face(given[0]) is not None


def clips_frame(path, number):
    """One frame of a video."""
    video = cv2.VideoCapture(str(path))
    for _ in range(number + 1):
        frame = video.read()[1]
    video.release()
    return frame


def test_spanish_from_the_command_line(monkeypatch):
    names = {"LABELS": realtime.LABELS}
    script.override(names, ["LABELS={'man': 'HOMBRE', 'woman': 'MUJER'}"])
    assert names["LABELS"]["man"] == "HOMBRE"


def test_ctrl_c_ends_a_camera_and_keeps_what_was_written(tmp_path, monkeypatch, no_window):
    camera, steps = Camera(10_000, 0.002), []

    def step(tracker, frame, now):
        steps.append(now)
        if len(steps) == 20:
            raise KeyboardInterrupt
        return []

    monkeypatch.setattr(tracks.Tracker, "step", step)
    reader = capture.Reader(lambda: None, True, rate=25.0, capture=camera)
    result = realtime.play(reader, loaded(), str(tmp_path / "a.mp4"))
    assert result["frames"] == 19 and not result["lost"] and camera.released
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) >= 1


def test_ctrl_c_leaves_no_half_of_a_video(clip, tmp_path, monkeypatch, no_window):
    def step(tracker, frame, now):
        raise KeyboardInterrupt

    monkeypatch.setattr(tracks.Tracker, "step", step)
    reader = capture.Reader(None, False, 24.0, 0, capture.open_capture(clip))
    with pytest.raises(KeyboardInterrupt):
        realtime.play(reader, loaded(), str(tmp_path / "a.mp4"))
    assert not list(tmp_path.iterdir())
