"""Weights of strangers, constants and classes that make no sense: one line, and nothing is written."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import drawn
import model as networks
import processed
import realtime
import sets
import test as testing
import train
import validation
import webcam
from judge import report
from learn import classifier, runs
from photos import face, save
from running import call, settle
from strangers import bad_files, facts
from terminal import script

HARMFUL = {
    "a huge margin": {"margin": 1e9}, "a huge size": {"image_size": 10 ** 9}, "no temperature": {"temperature": 0.0},
    "classes without names": {"classes": [1, 2]}, "no classes": {"classes": []}, "one class": {"classes": ["a"]},
    "equal classes": {"classes": ["a", "a"]}, "no spread": {"std": [0.0] * 3}, "NaN": {"mean": [float("nan")] * 3},
    "two colours": {"mean": [0.5] * 2}, "a text for CLAHE": {"clahe": "much"},
}


@pytest.mark.parametrize("kind", bad_files())
def test_strangers_weights_are_refused_in_one_line(tmp_path, kind, capsys):
    path = tmp_path / "a.pt"
    bad_files()[kind](path)
    with pytest.raises(classifier.WeightsError) as error:
        classifier.load_weights(path)
    assert "\n" not in str(error.value) and "bomb" not in capsys.readouterr().out


def test_missing_and_truncated_weights(tmp_path):
    with pytest.raises(classifier.WeightsError, match="no weights at .*train.py"):
        classifier.load_weights(tmp_path / "none.pt")
    runs.save_weights(tmp_path / "a.pt", facts(networks.build("small", 2)))
    whole = (tmp_path / "a.pt").read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        (tmp_path / "a.pt").write_bytes(whole[:int(len(whole) * share)])
        with pytest.raises(classifier.WeightsError, match="damaged"):
            classifier.load_weights(tmp_path / "a.pt")


@pytest.mark.parametrize("what", HARMFUL)
def test_harmful_metadata_is_refused(what, tmp_path):
    torch.save(facts(networks.build("small", 2), **HARMFUL[what]), tmp_path / "a.pt")
    with pytest.raises(classifier.WeightsError, match="no weights file of this project") as error:
        classifier.load_weights(tmp_path / "a.pt")
    assert "\n" not in str(error.value)


def test_no_class_is_called_unsure(tmp_path):
    """It would be counted with the faces that are; data/webcam.py and the folders of classes refuse the name too."""
    named = facts(networks.build("small", 2), classes=["Unsure", "b"])
    torch.save(named, tmp_path / "a.pt")
    with pytest.raises(classifier.WeightsError, match="has a class called unsure.*rename its folder"):
        classifier.load_weights(tmp_path / "a.pt")
    code, _, err = call(webcam, "CLASSES=('unsure', 'b')", cwd=tmp_path)
    assert code == 1 and err.startswith("error: CLASSES=") and not (tmp_path / "data").exists()


def test_nan_weights_are_refused(tmp_path):
    net = networks.build("small", 2)
    torch.nn.init.constant_(net.classifier[-1].bias, float("nan"))
    torch.save(facts(net), tmp_path / "a.pt")
    with pytest.raises(classifier.WeightsError, match="not finite real numbers"):
        classifier.load_weights(tmp_path / "a.pt")


@pytest.mark.parametrize("kind", ["torch pickle", "other network", "other classes", "truncated", "missing"])
def test_test_and_realtime_refuse_bad_weights_in_one_line(kind, tmp_path, monkeypatch, capsys):
    path = tmp_path / "a.pt"
    if kind == "truncated":
        torch.save(facts(networks.build("small", 2)), path)
        path.write_bytes(path.read_bytes()[:100_000])
    elif kind != "missing":
        bad_files()[kind](path)
    face().save(tmp_path / "a.png")
    settle(testing, monkeypatch, f"WEIGHTS={path}")
    settle(realtime, monkeypatch, f"WEIGHTS={path}", "SHOW=False", f"SOURCE={tmp_path / 'a.png'}")
    for program in (testing, realtime):
        with pytest.raises(SystemExit, match="^error: .*a.pt") as stop:
            script.run(program.main)
        assert "\n" not in str(stop.value) and "bomb" not in capsys.readouterr().out


@pytest.mark.parametrize(("module", "argument"), [
    (processed, "WORKERS=-1"), (processed, "RAW_DIR=None"), (validation, "VALID_RATIO=0"),
    (validation, "VALID_RATIO=1"), (validation, "VALID_RATIO=nan"), (validation, "VALID_RATIO=-0.2"),
    (train, "BATCH_SIZE=0"), (train, "LR=1e999"), (train, "SEED=1.5"), (train, "EMA=1.0"),
    (testing, "BATCH_SIZE=0"), (testing, "WORKERS=-2"), (testing, "SEED=-1"), (testing, "ROBUSTNESS_PHOTOS=-1"),
    (testing, "WEIGHTS=3"), (testing, "FONT=nowhere.ttf"),
    *((realtime, setting) for setting in (
        "RETRY=-1", "RETRY=1e999", "SOURCE=True", "SOURCE=[1]", "SOURCE=-1", "SOURCE=1.5",
        "SOURCE=99999999999", "SOURCE= ", "SHOW=1", "LABELS=man", "THREADS=0", "THREADS=100000",
        "CAMERA_SIZE=(1, 99999)", "CAMERA_SIZE=1280", "CAMERA_SIZE=(1280,)", "CAMERA_SIZE=(1280, 0)",
        "CAMERA_SIZE=(1280.5, 720)", "CAMERA_SIZE='wide'", "LOG=3", "LOG=faces.txt")),
    *((sets, f"TEST_RATIO={ratio}") for ratio in (-0.1, 1.1, 7.0, "nan")),
    (drawn, "PER_PERSON=0"), (drawn, "COUNT=-5"), (drawn, "NAME=3"),
    (webcam, "CLIPS={'glasses': 3}"), (webcam, "CLIPS={'none': None}"), (webcam, "CLIPS={'none': ('a.mp4', None)}"),
])
def test_constants_that_make_no_sense_are_one_line(module, argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="^error: ") as stop:
        settle(module, monkeypatch, argument)
        script.run(module.main)
    assert "\n" not in str(stop.value) and any(part in str(stop.value) for part in argument.split("="))
    assert not list(tmp_path.iterdir())


def test_ten_classes_from_photos_to_labels(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = [f"class {i}" for i in range(10)]
    for folder, count, seed in (("data/raw", 5, 0), ("data/test", 2, 5000)):
        for c, name in enumerate(names):
            for i in range(count):
                picture = drawn.draw_face(seed + 50 * c + i, drawn.CLASSES[c % 2])
                save(Path(folder, name, f"{3 * i}.png"), picture)  # names that count on would be a burst's
    settle(processed, monkeypatch, "WORKERS=2")
    settle(train, monkeypatch, "EPOCHS=1", "MODEL=small", "BATCH_SIZE=8", "PRECISION=float32", "DEVICE=cpu")
    settle(realtime, monkeypatch, "SOURCE=data/test", "SHOW=False", "OUTPUT=out")
    monkeypatch.setattr(report, "save", lambda *_: None)  # test_report.py draws those of many classes
    for program in (processed, validation, train, testing, realtime):
        assert not program.main()
    told = capsys.readouterr().out
    assert classifier.load_weights("weights/best_weights.pt")[1]["classes"] == names
    assert all(told.count(name) > 3 for name in names) and "20 photos, " in told
    with open("plots/predictions.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "ok"]
    shares = np.array([[float(row[f"p_{name}"]) for name in names] for row in rows])
    assert len(rows) >= 18 and np.allclose(shares.sum(1), 1, atol=1e-4) and len(list(Path("out").rglob("*.png"))) == 20
