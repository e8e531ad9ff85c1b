"""Clips in test.py: the very live path, and figures against an independent count from LOG."""

import csv
import itertools
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import clips
import photos
import processed
import realtime
import test as subject
from faces import detectors
from judge import clip_metrics
from learn import classifier
from live import videos
from terminal import script
from watching import StandIn, by_brightness, loading, read_log, watch


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A person who gets darker, is covered for a while, and comes back; a smaller one beside: 60 frames at 30."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    person = clips.person("hat", 3)
    light = np.clip(person * 0.6 + 100, 0, 255).astype(np.uint8)
    small = cv2.resize(person, None, fx=0.8, fy=0.8)
    dark = (person * 0.5).astype(np.uint8)
    frames = [*clips.frames_of([light, small], 20, 1), *clips.frames_of([dark, small], 20, 1),
              *clips.frames_of([], 5, 1), *clips.frames_of([light, small], 15, 1)]
    clips.write_clip(path, frames)
    return path


@pytest.fixture
def one_thread():
    """The cascade's threads hand in their hits in any order, and a face is the mean of its hits."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


def test_the_log_and_the_clip_are_one_path(clip, tmp_path, monkeypatch, one_thread):
    monkeypatch.setattr(realtime, "LOG", str(tmp_path / "faces.csv"))
    watch(clip, loading(by_brightness))
    logged = read_log(tmp_path / "faces.csv")
    rows = [row for _, rows in videos.follow(clip, StandIn(by_brightness), detectors.get("haar")) for row in rows]
    assert len(rows) > 60 and [[str(cell) for cell in row.cells()] for row in rows] == [
        list(row.values()) for row in logged]

    figures = clip_metrics.measure(list(videos.labels(clip, StandIn(by_brightness), detectors.get("haar"))), "hat")
    by_time = {time: max(group, key=lambda row: int(row["width"]) * int(row["height"]))["class"]
               for time, group in itertools.groupby(logged, lambda row: row["time"])}
    classes = [name for name in by_time.values() if name in StandIn().classes]
    assert figures["frames"] == 60 and figures["with_face"] == len(by_time)
    assert figures["labelled"] == len(classes) and figures["right"] == classes.count("hat")
    assert figures["unsure"] == list(by_time.values()).count("unsure")
    assert figures["flips"] == sum(a != b for a, b in zip(classes, classes[1:], strict=False)) > 0
    first = min(float(t) for t, name in by_time.items() if name in StandIn().classes)
    assert figures["first_label"] == pytest.approx(first, abs=0.001)
    assert figures["flips_per_minute"] == pytest.approx(60 * figures["flips"] / (len(by_time) / 30), rel=0.01)
    assert figures["right_share"] == pytest.approx(classes.count("hat") / len(classes), abs=1e-5)


def test_figures_of_labels():
    labels = [(i / 10, name) for i, name in enumerate(
        [None, None, "", "man", "man", "unsure", "man", "woman", "woman", None, "man"])]
    figures = clip_metrics.measure(labels, "man")
    assert {name: figures[name] for name in clip_metrics.COUNTS} == {
        "frames": 11, "with_face": 8, "labelled": 6, "right": 4, "unsure": 1, "flips": 2}
    assert figures["first_label"] == 0.3 and figures["predicted"] == "man" and figures["seconds"] == pytest.approx(0.8)
    assert figures["labelled_share"] == 0.75 and figures["unsure_share"] == 0.125
    assert figures["flips_per_minute"] == pytest.approx(150)
    nobody = clip_metrics.measure([(0.0, None), (0.1, None)], "man")
    assert nobody["labelled_share"] is nobody["first_label"] is nobody["predicted"] is None
    all_of_them = clip_metrics.together([figures, nobody, clip_metrics.measure([], "man")])
    assert all_of_them["clips"] == 3 and all_of_them["frames"] == 13 and all_of_them["right_share"] == 0.666667
    assert "labelled 75.0%, of these right 66.7%, unsure 12.5%" in clip_metrics.summary(figures)
    assert "first label never" in clip_metrics.summary(nobody)


@pytest.mark.parametrize("data", [b"", b"no video"])
def test_a_file_that_is_not_a_clip_is_unreadable(data, tmp_path):
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(script.Problem, match="unreadable"):
        list(videos.follow(tmp_path / "a.mp4", StandIn(by_brightness), detectors.get("haar")))


def test_clips_do_not_change_the_metrics_of_the_photos_beside_them(clip, tmp_path, monkeypatch, capsys, one_thread):
    """The very folder with and without its clips: the photos' metrics stay; the clips' are those of their own."""
    weights = Path(realtime.__file__).parent / "weights" / "shipped" / "small.pt"
    for name in ("man", "woman"):
        for i in range(2):
            photos.save(tmp_path / "test" / name / f"{i}.png", clips.person("hat", 3 + i))
    for name, value in (("TEST_DIR", str(tmp_path / "test")), ("WEIGHTS", str(weights)),
                        ("PEOPLE", str(tmp_path / "none.csv"))):
        monkeypatch.setattr(subject, name, value)
    read = {}
    for run in ("without", "with", "alone"):
        monkeypatch.setattr(subject, "PLOTS_DIR", str(tmp_path / run))
        if run == "with":
            shutil.copy(clip, tmp_path / "test" / "man" / "café.mp4")
            (tmp_path / "test" / "woman" / "broken.MOV").write_bytes(b"no video")
        if run == "alone":
            for path in (tmp_path / "test").rglob("*.png"):
                path.unlink()
        subject.main()
        read[run] = json.loads((tmp_path / run / "test_metrics.json").read_text(encoding="utf-8"))
    assert read["without"].pop("clips") is None
    told = read["with"].pop("clips")
    assert read["with"] == read["without"] and read["alone"]["clips"] == told
    loaded = classifier.Classifier(weights)
    labels = list(videos.labels(clip, loaded,
                                detectors.get(processed.DETECTOR)))
    each, = told["each"]
    file = (tmp_path / "test/man/café.mp4").as_posix()
    assert each == {"file": file, "class": "man", **clip_metrics.measure(labels, "man")}
    assert told["unreadable"] == 1 and told["all"]["clips"] == 1 and each["with_face"] > 40
    with open(tmp_path / "with" / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = {Path(row["file"]).name: row for row in csv.DictReader(file)}
    assert len(rows) == 4 and rows["café.mp4"]["status"] == "clip" and rows["broken.MOV"]["status"] == "unreadable"
    assert rows["café.mp4"]["predicted"] == (each["predicted"] or "")
    assert "frames with a face" in rows["café.mp4"]["reason"]
    assert "1 clip(s) in all: " in capsys.readouterr().out
