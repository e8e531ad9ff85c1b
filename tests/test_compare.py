"""compare.py: every variant and seed is trained and tested once, with its own constants and nobody else's."""

import csv
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import drawn
import photos
import test as step4
import train
import validation
from crops import both_splits
from faces import cropping, reading
from judge import corruptions, report
from learn import classifier, runs
from running import ROOT, call, settle
from terminal import rules, script
from tools import compare

SETTINGS = {"MODEL": "small", "EPOCHS": 1, "BATCH_SIZE": 8, "PRECISION": "float32"}


def in_process(name, constants):
    """compare.run() without a process of its own, which would import PyTorch each time."""
    module = {"train.py": train, "test.py": step4, "validation.py": validation}[name]
    with pytest.MonkeyPatch.context() as patch:
        settle(module, patch, *(f"{key}={value}" for key, value in constants.items()))
        module.main()


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Crops and test photos of drawn faces, and compare.py's constants set to them."""
    both_splits(tmp_path)
    for name in drawn.CLASSES:
        for i in range(2):
            photos.save(tmp_path / "photos" / name / f"{i}.png", drawn.draw_face(50 + i, name))
    monkeypatch.chdir(tmp_path)
    values = {"VARIANTS": {"plain": {}, "CLAHE": {"CLAHE": 2.0}}, "SEEDS": (0,), "SETTINGS": SETTINGS,
              "TRAIN_DIR": "train", "VALID_DIR": "valid", "TEST_DIR": "photos", "ROBUSTNESS_PHOTOS": 2,
              "RUNS_DIR": "runs"}
    for name, value in values.items():
        monkeypatch.setattr(compare, name, value)
    monkeypatch.setattr(compare, "run", in_process)
    monkeypatch.setattr(corruptions, "KINDS", {name: corruptions.KINDS[name] for name in ("occlusion", "covered")})
    monkeypatch.setattr(report, "save", lambda fig, path: None)
    monkeypatch.setattr(runs, "plot", lambda history, path: None)
    return tmp_path


def results():
    with open("runs/results.csv", encoding="utf-8", newline="") as file:
        return {(r["variant"], r["seed"]): r for r in csv.DictReader(file)}


def test_the_ablation_from_crops_to_the_table(world, monkeypatch, capsys):
    compare.main()
    rows = results()
    assert set(rows) == {("plain", "0"), ("CLAHE", "0")} and all(float(r["covered"]) >= 0 for r in rows.values())
    out = capsys.readouterr().out
    table = out.partition("lowest validation loss")[0]
    assert table != out and table.rindex("plain") < table.rindex("CLAHE")
    for name, limit in (("plain", 0.0), ("CLAHE", 2.0)):
        info = classifier.load_checkpoint(f"runs/{name}/0/weights/best_weights.pt")
        assert info["clahe"] == limit and info["model"] == "small"
        told = json.loads(Path(f"runs/{name}/0/plots/test_metrics.json").read_text(encoding="utf-8"))
        assert float(rows[name, "0"]["test_accuracy"]) == told["accuracy"]
        of = [r["balanced_accuracy"] for r in told["robustness"] if r["kind"] == "covered"]
        assert float(rows[name, "0"]["covered"]) == pytest.approx(np.mean(of))
    crop = cropping.read_crop("train/hat/1.jpg")
    copy = cropping.read_crop("runs/clahe_2/train/hat/1.jpg")
    assert np.abs(copy.astype(int) - cropping.equalise(crop, 2.0)).mean() < 2

    monkeypatch.setattr(compare, "run", lambda *_: pytest.fail("done again"))
    compare.main()
    assert results() == rows


def test_each_run_is_a_process_with_its_constants_on_the_command_line(world, monkeypatch, capfd):
    monkeypatch.undo()
    monkeypatch.chdir(world)
    settings = {**SETTINGS, "EVAL_MARGIN": 0.1, "START": None}
    constants = {**settings, "SEED": 3, "TRAIN_DIR": "train", "VALID_DIR": "valid", "WEIGHTS_DIR": "w s",
                 "PLOTS_DIR": "p"}
    before = rules.constants(vars(train))
    compare.run("train.py", constants)
    assert rules.constants(vars(train)) == before, "nothing stays set"
    held = classifier.load_checkpoint("w s/last.pt")["constants"]
    assert {name: held[name] for name in constants} == constants
    with pytest.raises(SystemExit, match="validation.py ended with status 1, for the reason above"):
        compare.run("validation.py", {"FACES_DIR": "nowhere"})  # sooner than train.py
    assert "error: there is no folder nowhere" in capfd.readouterr().err


def test_a_search_over_seeds_without_a_test(world, monkeypatch, capsys):
    monkeypatch.setattr(compare, "VARIANTS", {"low": {"LR": 1e-4}, "high": {"LR": 3e-3}})
    monkeypatch.setattr(compare, "SEEDS", (0, 1))
    monkeypatch.setattr(compare, "SETTINGS", {**SETTINGS, "PAPER": True})  # else the one step has a rate of 0
    monkeypatch.setattr(compare, "TEST_DIR", "")
    compare.main()
    rows = results()
    losses = [r["valid_loss"] for r in rows.values()]
    assert len(set(losses)) == 4 and all(r["test_accuracy"] == "" for r in rows.values())
    assert capsys.readouterr().out.count(" +- ") == 4
    log = Path("runs/high/1/plots/log.csv").read_text(encoding="utf-8")
    assert "LR=0.003" in log and "SEED=1" in log, "log.csv tells what the run was"
    monkeypatch.setattr(compare, "VARIANTS", {"low": {"LR": 2e-4}})
    with pytest.raises(SystemExit, match="with other constants"):
        compare.main()


def test_every_seed_gets_a_split_of_its_own(world, monkeypatch):
    Path("processed").mkdir()
    Path("train").rename("processed/faces")
    for name, value in {"NEW_SPLITS": True, "TEST_DIR": "", "SEEDS": (0, 1)}.items():
        monkeypatch.setattr(compare, name, value)
    compare.main()
    assert len(results()) == 4
    sides = [{p.relative_to(f"runs/split_{seed}/{side}").as_posix() for p in reading.list_photos(Path(
        f"runs/split_{seed}/{side}"))} for seed in (0, 1) for side in ("train", "valid")]
    assert sides[0] | sides[1] == sides[2] | sides[3] and sides[1] != sides[3]
    assert {p.name for p in Path("runs/clahe_2").iterdir()} == {"split_0", "split_1"}
    assert not Path("processed/train").exists()
    monkeypatch.setattr(compare, "NEW_SPLITS", False)
    with pytest.raises(SystemExit, match="with other constants"):
        compare.main()


def test_a_crop_that_changed_sides_leaves_the_copy(world):
    compare.equalised("train", 2.0)
    Path("train/hat/1.jpg").rename(Path("valid/hat/moved.jpg"))
    copies = [compare.equalised(side, 2.0) for side in ("train", "valid")]
    names = [{p.relative_to(c).as_posix() for p in reading.list_photos(c)} for c in copies]
    assert "hat/1.jpg" not in names[0] and "hat/moved.jpg" in names[1] and len(names[0]) == 7


def test_crops_that_were_swapped_are_swapped_in_the_copy(world):
    """All have one time, as an archive makes them."""
    for crop in Path("train").rglob("*.jpg"):
        os.utime(crop, (1e9, 1e9))
    copy = Path(compare.equalised("train", 2.0))
    one, other = (crop.relative_to("train") for crop in sorted(Path("train").rglob("*.jpg"))[:2])
    before = [(copy / name).read_bytes() for name in (other, one)]
    Path("train", one).rename("x")
    Path("train", other).rename(Path("train", one))
    Path("x").rename(Path("train", other))
    compare.equalised("train", 2.0)
    assert [(copy / name).read_bytes() for name in (one, other)] == before
    written = (copy / one).stat().st_mtime_ns
    compare.equalised("train", 2.0)
    assert (copy / one).stat().st_mtime_ns == written


def test_files_that_are_not_ours_stay(world):
    copy = Path(compare.equalised("train", 2.0))
    strange = copy / "hat" / "mine.jpg"
    strange.write_bytes(Path("photos/hat/0.png").read_bytes())
    with pytest.raises(SystemExit, match=r"mine.jpg was not written by this script"):
        compare.equalised("train", 2.0)
    assert strange.is_file()
    Path("runs/results.csv").write_text("my own table\n", encoding="utf-8")
    with pytest.raises(script.Problem, match="results.csv already exists"):
        compare.main()
    assert Path("runs/results.csv").read_text(encoding="utf-8") == "my own table\n"


@pytest.mark.parametrize(("argument", "line"), [
    ("VARIANTS={'a': {'RATE': 1}}", "RATE is neither CLAHE nor a constant of train.py"),
    ("VARIANTS={'a': {'SEED': 1}}", "SEED is neither CLAHE nor a constant of train.py"),
    ("VARIANTS={'../a': {}}", "must be a name that a folder can have"), ("SEEDS=()", "must be different whole numbers"),
    ("VARIANTS={'a': {'EPOCHS': 'x'}}", "VARIANTS: EPOCHS='x' of 'a': must be None, or a whole number, at least 1"),
    ("VARIANTS={'a': {'CLAHE': 50}}", "VARIANTS: CLAHE=50 of 'a': must be a number from 0 to 40"),
])
def test_one_line_errors(argument, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=line):
        settle(compare, monkeypatch, argument)
        compare.main()


def test_the_loop_of_the_documents_runs(world, monkeypatch):
    """The search that docs/experiments.md shows, with small networks on a few crops, and all in this process."""
    def run_here(command):
        code, _, err = call({"train.py": train, "test.py": step4}[command[1]], *command[2:], cwd=world)
        assert code == 0, err

    text = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    code = next(block.split("```")[0] for block in text.split("```python\n")[1:] if "LR={lr}" in block)
    Path("processed").mkdir()
    for name in ("train", "valid"):
        Path(name).rename(Path("processed", name))
    few = "".join(f', "{k}={v}"' for k, v in {**SETTINGS, "PAPER": True}.items())
    code = code.replace(', f"LR={lr}"', few + ', f"LR={lr}"').replace("(3e-4, 1e-3, 3e-3)", "(1e-4, 3e-3)")
    monkeypatch.setattr(subprocess, "run", run_here)
    exec(code, {})
    told = json.loads(Path("search/test_metrics.json").read_text(encoding="utf-8"))
    assert [row["weights"] for row in told["epochs"]] == ["search/0.0001/best_weights.pt",
                                                          "search/0.003/best_weights.pt"]
    assert told["epochs"][0]["loss"] != told["epochs"][1]["loss"]


def test_another_test_is_made_and_other_crops_are_refused(world, monkeypatch):
    monkeypatch.setattr(compare, "VARIANTS", {"plain": {}})
    compare.main()
    first, asked = results()["plain", "0"], []
    shutil.copytree("photos", "others")
    for path in [*Path("others").rglob("*.png")]:  # all in the wrong class
        path.rename(Path("others", "hat" if path.parent.name == "beard" else "beard", f"was_{path.name}"))
    monkeypatch.setattr(compare, "run", lambda name, constants: asked.append(name) or in_process(name, constants))
    monkeypatch.setattr(compare, "TEST_DIR", "others")
    compare.main()
    assert asked == ["test.py"] and float(results()["plain", "0"]["test_accuracy"]) == pytest.approx(
        1 - float(first["test_accuracy"]))
    compare.main()
    monkeypatch.setattr(compare, "ROBUSTNESS_PHOTOS", 1)
    compare.main()
    assert asked == ["test.py"] * 2, "only what has changed is tested again"
    for name, folder in (("TRAIN_DIR", "train"), ("VALID_DIR", "valid")):
        shutil.copytree(folder, f"other_{folder}")
        with monkeypatch.context() as patch:
            patch.setattr(compare, name, f"other_{folder}")
            with pytest.raises(SystemExit, match=f"with other constants .*: \"{folder}\".*other_{folder}"):
                compare.main()


def test_a_test_that_was_stopped_is_made_again(world, monkeypatch):
    monkeypatch.setattr(compare, "VARIANTS", {"plain": {}})
    compare.main()

    def stopped(name, constants):
        in_process(name, constants)
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "ROBUSTNESS_PHOTOS", 1)
    monkeypatch.setattr(compare, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        compare.main()
    asked = []
    monkeypatch.setattr(compare, "run", lambda name, constants: asked.append(name) or in_process(name, constants))
    monkeypatch.setattr(compare, "ROBUSTNESS_PHOTOS", 2)  # as in the first run
    compare.main()
    assert asked == ["test.py"]


def test_a_test_of_clips_alone_is_one_line_before_any_training(world, monkeypatch):
    monkeypatch.setattr(compare, "run", lambda *_: pytest.fail("trained"))
    for path in [*Path("photos").rglob("*.png")]:
        path.rename(path.with_suffix(".mp4"))
    for folder, line in (("photos", "TEST_DIR=photos has no photos: put"), ("nowhere", "there is no folder nowhere")):
        monkeypatch.setattr(compare, "TEST_DIR", folder)
        with pytest.raises(SystemExit, match=f"^error: {line}[^\n]*, or set TEST_DIR= for no test$"):
            compare.main()
