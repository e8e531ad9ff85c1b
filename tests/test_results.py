"""LOG and the counts of realtime.py: checked against what was drawn; whole rows whatever ends the run."""

from collections import Counter

import cv2
import numpy as np
import pytest

import clips
import photos
import realtime
from faces import detectors
from live import controls, results, stills, tracks, window
from running import LINUX, POSIX
from terminal import records, script
from watching import StandIn, by_brightness, detects, loading, read_log, watch


@pytest.fixture
def two(tmp_path):
    """A light face left and a dark one right, 60 frames at 20 a second; the dark one leaves after 40."""
    light, dark = clips.person("hat", 3), (clips.person("hat", 3) * 0.45).astype(np.uint8)
    light = np.clip(light * 0.6 + 100, 0, 255).astype(np.uint8)
    frames = list(clips.frames_of([light, dark], 60, 1))
    empty = cv2.GaussianBlur(clips.scene(16), (0, 0), 9)
    for frame in frames[40:]:
        frame[:, 320:] = empty[:, 320:]
    clips.write_clip(tmp_path / "two.mp4", frames, 20.0)
    return tmp_path / "two.mp4"


def test_a_log_tells_what_was_drawn(two, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(realtime, "LOG", str(tmp_path / "out" / "faces.csv"))
    watch(two, loading(by_brightness))
    rows = read_log(tmp_path / "out" / "faces.csv")
    assert {row["source"] for row in rows} == {"two.mp4"}
    times = [float(row["time"]) for row in rows]
    assert times == sorted(times) and all(abs(t * 20 - round(t * 20)) < 0.01 for t in times)
    for row in rows:
        middle = int(row["x"]) + int(row["width"]) / 2
        assert row["class"] == ("hat" if middle < 320 else "beard") and float(row["confidence"]) > 0.9
        assert 60 < int(row["width"]) < 320 and 0 < int(row["y"]) < 300
    faces = Counter(row["face"] for row in rows)
    assert set(faces) == {"1", "2"}
    left, right = (sum(int(row["x"]) + int(row["width"]) / 2 < 320 for row in rows), len(rows))
    assert left >= 50 and 30 <= right - left <= 52, "a face is shown for half a second after it was lost"
    out = capsys.readouterr().out
    assert "different faces: 1 beard, 1 hat\n" in out and f"written: {tmp_path / 'out' / 'faces.csv'}" in out


def test_a_folder_of_photos_has_a_log_too(tmp_path, monkeypatch, capsys):
    pictures = {"a.png": clips.person("hat", 3), "sub/ñ.png": clips.person("beard", 4), "wall.png": clips.scene(2)}
    for name, picture in pictures.items():
        photos.save(tmp_path / "in" / name, picture)
    log = results.Results(tmp_path / "faces.csv")
    album = stills.album(tmp_path / "in")
    stills.annotate(album, StandIn(), controls.Controls(labels={"hat": "GORRA"}), log, detectors.get("haar"),
                    window.Window(False))
    rows = read_log(tmp_path / "faces.csv")
    assert [(row["source"], row["time"], row["face"], row["class"]) for row in rows] == [
        ("a.png", "", "1", "hat"), ("sub/ñ.png", "", "2", "hat")]
    for row in rows:
        box = [round(v) for v in detectors.get("haar").main_face(pictures[row["source"]]).box]
        assert [int(row[name]) for name in ("x", "y", "width", "height")] == list(box)
    assert "different faces: 2 GORRA\n" in capsys.readouterr().out


def test_counts_of_a_face_by_what_it_was_called_most():
    log = results.Results()
    for face, labels in ((1, ["man", "man", "unsure"]), (2, ["unsure"]), (3, ["", "woman"]), (4, [""])):
        for label in labels:
            log.add([results.Row("a", 0.0, face, label, 0.9, 0, 0, 1, 1)])
    assert log.text(["man", "woman", "child"], {"woman": "MUJER"}) == "1 man, 1 MUJER, 1 unsure"
    assert results.Results().text(["man"], {}) == "no face"


@pytest.mark.parametrize(("source", "name"), [(0, "0"), ("clips/a b.mp4", "a b.mp4"),
                                              ("rtsp://user:secret@host:554/live", "rtsp://host:554")])
def test_the_source_in_a_row(source, name):
    assert results.name_of(source) == name


def test_a_log_replaces_no_other_file(tmp_path):
    other = tmp_path / "groups.csv"
    other.write_text("file,age\n")
    records.change_record(tmp_path, add=["groups.csv"])  # a table of another of our scripts is not this one's
    (tmp_path / "folder.csv").mkdir()
    for taken in (other, tmp_path / "folder.csv", other / "faces.csv"):
        with pytest.raises(script.Problem):
            results.Results(taken)
    assert other.read_text() == "file,age\n"
    for faces in ([], [results.Row("a", 0.0, 1, "man", 0.9, 0, 0, 1, 1)]):
        log = results.Results(tmp_path / "new.csv")
        log.add(faces)
        log.close()
        assert len(read_log(tmp_path / "new.csv")) == len(faces), "a run replaces the log of the run before"
    before = (tmp_path / "new.csv").read_bytes()
    log = results.Results(tmp_path / "new.csv")
    log.close()
    assert log.written() == [] and (tmp_path / "new.csv").read_bytes() == before, "not where no frame comes"


@LINUX  # its /dev/full
def test_a_full_disk_is_told():
    log = results.Results()
    log.log = "/dev/full"
    with pytest.raises(OSError, match="space"):
        log.add([])
    log.close()


BOX = (200, 100, 120, 120)


def numbers(stages, frame=None):
    """Follow detections over time: stages of (frames, box or None, frame). Returns the numbers shown in each frame."""
    tracker = tracks.Tracker(StandIn(lambda crops: np.full((len(crops), 2), 0.5)))
    shown, i = [], 0
    for count, box, frame in stages:
        detects(tracker, [] if box is None else [box])
        for _ in range(count):
            shown.append([t.number for t in tracker.step(frame, i / 30)])
            i += 1
    return shown, tracker.count


def test_a_face_that_comes_back_to_its_place_is_not_counted_twice():
    frame = clips.scene(0)
    shown, count = numbers([(10, BOX, frame), (60, None, frame), (10, (210, 105, 118, 118), frame)])
    assert shown[9] == shown[-1] == [1] and shown[60] == [] and count == 1
    shown, count = numbers([(10, BOX, frame), (60, None, frame), (10, (400, 300, 120, 120), frame)])
    assert shown[-1] == [2] and count == 2, "elsewhere it is another"
    shown, count = numbers([(10, BOX, frame), (300, None, frame), (10, BOX, frame)])
    assert shown[-1] == [2] and count == 2, "after ten seconds, too"


def test_a_cut_to_someone_else_at_the_same_place_counts_two_and_back_to_the_first_no_third():
    first, second = clips.scene(0), clips.scene(11)
    shown, count = numbers([(10, BOX, first), (30, BOX, second), (30, BOX, first)])
    assert shown[9] == [1] and shown[20] == [2] and shown[-1] == [1] and count == 2


@POSIX
def test_a_second_run_leaves_the_log_of_the_first_alone(tmp_path, monkeypatch):
    """On Windows nobody can replace a file that is open."""
    monkeypatch.chdir(tmp_path)
    early, late, row = results.Results("faces.csv"), results.Results("faces.csv"), results.Row("a", *[1] * 8)
    early.add([row])
    for begin in (lambda: late.add([row]), lambda: results.Results("faces.csv")):
        with pytest.raises(script.Problem, match=r"LOG=faces.csv is being written by another run"):
            begin()
    early.add([row])
    early.close()
    assert len(read_log("faces.csv")) == 2
    late.add([row])
    late.close()
    assert len(read_log("faces.csv")) == 1


@POSIX  # Windows deletes no file that is open
def test_a_log_that_is_deleted_during_the_run_is_said(tmp_path, capsys):
    log = results.Results(str(tmp_path / "faces.csv"))
    log.add([results.Row("0", 0.0, 1, "man", 0.9, 1, 2, 3, 4)])
    (tmp_path / "faces.csv").unlink()
    log.close()
    assert "was deleted during the run" in capsys.readouterr().out and log.written() == []
