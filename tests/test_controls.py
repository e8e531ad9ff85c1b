"""Keys in clips and photos, blurred faces, the camera's size, and what is set before OpenCV starts."""

import cv2
import numpy as np
import pytest

import clips
import photos
from faces import detectors
from live import capture, controls, results, stills, window, writing
from running import start
from watching import Camera, Screen, StandIn, classify


def test_keys_switch_what_is_shown(tmp_path, monkeypatch):
    picture = np.zeros((48, 64, 3), np.uint8)
    monkeypatch.setattr(writing, "SAVED_DIR", str(tmp_path))
    view = controls.Controls()
    for key, name in (("h", "help"), ("g", "heat"), ("m", "mirror"), ("b", "blur"), ("c", "counts"), ("q", "quit")):
        assert view.apply(key, picture) == "" and getattr(view, name)
    assert view.apply("s", picture) == "" and view.apply("", picture) == ""
    assert view.apply("r", picture) == "r" and view.apply(" ", picture) == " " and view.apply("left", picture) == "left"
    assert [p.suffix for p in sorted(tmp_path.rglob("[!.]*.*"))] == [".jpg"]
    assert "escape" in window.QUIT


def pages(monkeypatch, tmp_path, keys):
    """Annotate two photos, a.png and b.png, with these keys pressed. Returns what was shown, and what was written."""
    screen = Screen(keys)
    monkeypatch.setattr(writing, "SAVED_DIR", str(tmp_path / "plots"))
    photos.save(tmp_path / "in" / "a.png", clips.person("hat", 3))
    photos.save(tmp_path / "in" / "b.png", clips.person("hat", 3)[:, ::-1])
    album = stills.album(tmp_path / "in", tmp_path / "out")
    stills.annotate(album, StandIn(), controls.Controls(), results.Results(), detectors.get("haar"), screen)
    return screen.pictures, [cv2.imread(str(tmp_path / "out" / name)) for name in ("a.png", "b.png")]


def test_keys_on_photos(monkeypatch, tmp_path):
    shown, written = pages(monkeypatch, tmp_path, ["h", "h", "c", "c", "g", "g", "m", "m", "s", "right", "b", "q"])
    changes = [not np.array_equal(picture, shown[0]) for picture in shown[:10]]
    assert changes == [False, True] * 4 + [False, False]
    assert len(list((tmp_path / "plots").glob("*.jpg"))) == 1
    box = [round(v) for v in detectors.get("haar").main_face(clips.person("hat", 3)).box]
    inner = (slice(box[1] + 8, box[1] + box[3] - 8), slice(box[0] + 8, box[0] + box[2] - 8))
    plain = cv2.cvtColor(clips.person("hat", 3), cv2.COLOR_RGB2BGR)
    np.testing.assert_array_equal(written[0][inner], plain[inner])
    assert np.abs(written[1][:, ::-1][inner].astype(int) - plain[inner]).mean() > 5, "blurred in OUTPUT too"


def test_pages_turn_both_ways_and_end_at_neither_side(monkeypatch, tmp_path, capsys):
    """Over a photo that cannot be read; each is found, told and counted once, and only q ends it."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "aa.png").write_bytes(b"no photo")
    keys = ["left", "x", "", "right", " ", "page down", "up", "page up", "down", "left", "q"]
    shown, _ = pages(monkeypatch, tmp_path, keys)
    there = [not np.array_equal(picture[:300], shown[0][:300]) for picture in shown]
    assert there == [False] * 4 + [True] * 3 + [False] * 2 + [True, False]
    out = capsys.readouterr().out
    assert out.count("a.png: hat 90%") == out.count("b.png: hat 90%") == out.count("aa.png: skipped") == 1
    assert "2 photos, 2 faces, 0 no face, 1 unreadable" in out and "different faces: 2 hat" in out


# What waitKeyEx() gives: X11's keysyms with Qt and GTK, Windows' virtual keys 16 bits higher, Apple's function keys.
ARROWS = {"left": (0xFF51, 0x250000, 0xF702), "up": (0xFF52, 0x260000, 0xF700), "right": (0xFF53, 0x270000, 0xF703),
          "down": (0xFF54, 0x280000, 0xF701), "page up": (0xFF55, 0x210000, 0xF72C),
          "page down": (0xFF56, 0x220000, 0xF72D), "f1": (0xFFBE, 0x700000, 0xF704), "f9": (0xFFC6, 0x780000, 0xF70C),
          "escape": (27,), "q": (ord("q"), ord("Q")), "1": (ord("1"), 0xFFB1), " ": (ord(" "),)}
SILENT = (-1, 0, -0x37,  # none, a window that goes, É as Qt gives it
          8, 9, 10, 13, 127, 17,  # Backspace, Tab, Enter, Delete, Ctrl+Q of Windows
          0xFF50, 0xFF57, 0xFF63, 0xFF67, 0xFFCA, 0xFF61,  # X11: Home, End, Insert, Menu, F13, Print
          0xFFE1, 0xFFE5, 0xFF7F, 0xFE03, 0xFE08, 0xFE09,  # Shift, Caps Lock, Num Lock, AltGr, another layout
          0x1008FF11, 0x1008FF13, 0x1008FF02, 0x1008FF51, 0x1008FF53,  # volume, brightness, two that end as arrows
          0x06CA, 0x06D1, 0x01000451,  # letters of a Cyrillic layout
          0x240000, 0x230000, 0x2D0000, 0x2E0000, 0x790000,  # Windows: Home, End, Insert, Delete, F10
          0xF729, 0xF72B, 0xF727, 0xF728, 0xF70D, 0xE9, 0x439)  # macOS: Home, End, Insert, Delete, F10, é, й


def test_keys_have_one_name_on_all_systems_and_others_have_none():
    for name, codes in ARROWS.items():
        assert [window.name_of(code) for code in codes] == [name] * len(codes)
        for modifiers in (0x10, 0x2, 0x1, 0x12, 0x2000):  # of GTK: Num Lock, Caps Lock, Shift, two, a second layout
            assert window.name_of(codes[0] | modifiers << 16) == name
    for code in SILENT:
        assert window.name_of(code) == "", hex(code)


@pytest.mark.parametrize(("shape", "screen", "fits"), [
    ((497, 640), (1366, 768), (640, 497)), ((1390, 720), (1366, 768), (338, 653)),
    ((1500, 2560), (1366, 768), (1114, 653)), ((1500, 2560), (3840, 2160), (1280, 750)),
    ((515, 500), (640, 480), (396, 408)), ((9000, 20), (1366, 768), (1, 653))])
def test_a_window_opens_no_larger_than_the_screen_less_its_bars(shape, screen, fits):
    assert window.fitting(shape, screen) == fits


def test_the_size_of_a_screen_is_told_or_taken_for_small(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":987")
    width, height = window.monitor_size()
    assert width >= height >= 480


def test_a_window_keeps_the_size_that_the_user_gave_it(no_gui, monkeypatch):
    sizes, rectangle = [], [0, 0, 64, 48]
    monkeypatch.setattr(cv2, "resizeWindow", lambda title, *size: sizes.append(size))
    monkeypatch.setattr(cv2, "getWindowImageRect", lambda title: rectangle)
    screen = window.NativeWindow("t")
    for rows, width in ((48, 64), (48, 64), (60, 64), (60, 64), (48, 90)):
        rectangle[2:] = [width, rectangle[3]]
        screen.show(np.zeros((rows, 64, 3), np.uint8), 1)
        rectangle[2:] = sizes[-1] if width == 64 else rectangle[2:]
    assert sizes == [(64, 48), (64, 60)]


def test_keys_without_a_name_are_waited_through(no_gui, monkeypatch):
    codes = iter([0xFFE5, 0xFF50, 0x1008FF11, ord("C")])
    monkeypatch.setattr(cv2, "waitKeyEx", lambda wait: next(codes))
    assert window.NativeWindow("t").show(np.zeros((48, 64, 3), np.uint8), 1000) == "c"


class Sized(Camera):
    """A cv2.VideoCapture of a camera that says whatever it is asked for, and gives at most 1280x720."""

    def __init__(self, *_):
        super().__init__(10)
        self.size = [640, 480]

    def isOpened(self):
        return True

    def set(self, name, value):
        if name in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT):
            self.size[name == cv2.CAP_PROP_FRAME_HEIGHT] = value

    def read(self):
        width, height = np.minimum(self.size, (1280, 720))
        return super().read()[0], np.zeros((height, width, 3), np.uint8)


def test_a_camera_is_asked_for_a_size_and_what_it_gives_is_told(monkeypatch, capsys):
    """By its first frame: there are drivers that say 3840x2160, and give 1920x1080."""
    monkeypatch.setattr(cv2, "VideoCapture", Sized)
    for size, line in ((None, ""), ((1280, 720), "camera 0 gives 1280x720 pixels\n"),
                       ((3840, 2160), "camera 0 gives 1280x720 pixels, not 3840x2160 as CAMERA_SIZE asks\n")):
        reader = capture.Reader(0, 0.0, size)
        frame = reader.read(5)[0]
        reader.close()
        assert frame.shape[1::-1] == (size and (1280, 720) or (640, 480)) and capsys.readouterr().out == line


@pytest.mark.parametrize("name", ["realtime.py", "data/webcam.py"])
@pytest.mark.parametrize(("before", "wanted"), [({}, "0"), ({"OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS": "1"}, "1")])
def test_windows_cameras_open_at_once(tmp_path, monkeypatch, before, wanted, name):
    """What OpenCV reads when it is imported is set by then, unless the user has set it."""
    (tmp_path / "cv2.py").write_text("import os\nprint(os.environ.get('OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS'))\n"
                                     "os._exit(0)\n")
    monkeypatch.delenv("OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS", raising=False)  # set by this process's imports
    process = start(name, cwd=tmp_path, PYTHONPATH=str(tmp_path), PYTHONUNBUFFERED="1", **before)
    assert process.communicate(timeout=120)[0] == f"{wanted}\n"


@pytest.mark.parametrize(("child", "label"), [(0.1, 1), (0.9, None)])
def test_a_child_is_unsure(child, label):
    """On a photo, whatever the class; a network that guesses no age answers without the second."""
    def answers(crops):
        return classify(crops), np.full(len(crops), child)

    faces = stills.classify(clips.person("hat", 3), StandIn(answers), detectors.get("haar"))
    assert [face.label for face in faces] == [label] and faces[0].confidence == pytest.approx(0.9)


def test_a_snapshot_that_jpeg_cannot_hold_ends_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(writing, "SAVED_DIR", str(tmp_path))
    view = controls.Controls()
    assert view.apply("s", np.zeros((70_000, 24, 3), np.uint8)) == "" and not view.quit
    said = capsys.readouterr().out
    assert "cannot be written as an image (24x70000 pixels)" in said and "snapshot: " not in said
    assert not list(tmp_path.glob("[!.]*"))


def test_the_text_for_unsure_is_one_of_the_labels():
    view = controls.Controls(labels={"man": "HOMBRE", "unsure": "NO SÉ"})
    texts = [view.text_of(label, 0.98, ["man", "woman"]) for label in (None, 0, 1)]
    assert texts == ["NO SÉ", "HOMBRE 98%", "woman 98%"]
    log = results.Results()
    log.add([results.Row("", None, number, label, 0.6, 0, 0, 9, 9) for number, label in ((1, "unsure"), (2, "man"))])
    assert view.counted(log, ["man", "woman"]) == "1 HOMBRE, 1 NO SÉ"
