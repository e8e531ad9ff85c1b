"""train.py ended at random moments, on a full disk, or by a loss of NaN: what was good stays, the rest resumes.

    KILLS=60 python -m pytest tests/test_kills.py     # more of them
"""

import os
import subprocess
import sys

import pytest
import torch

import model as networks
import train
from learn import runs
from running import POSIX, ROOT, settle
from strangers import facts
from terminal import records

KILLS = int(os.environ.get("KILLS", 3))


@pytest.fixture
def settings(faces):
    """The constants of a run that takes seconds."""
    return [f"TRAIN_DIR={faces / 'train'}", f"VALID_DIR={faces / 'valid'}", "BATCH_SIZE=4", "PRECISION=float32",
            "MODEL=small", "DEVICE=cpu"]


@POSIX
def test_killed_at_random_moments_and_resumed(settings, tmp_path):
    """Every weights file loads after every kill, and the end is that of a run that was never stopped."""
    command = [sys.executable, str(ROOT / "tests" / "killing.py"), str(KILLS), *settings, "EPOCHS=3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60 + 20 * KILLS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{KILLS} kills"), done.stdout


@pytest.fixture
def constants(settings, monkeypatch, tmp_path):
    """train.py's constants set as a command line would, its files in tmp_path."""
    settle(train, monkeypatch, *settings, "EPOCHS=1", f"WEIGHTS_DIR={tmp_path}", f"PLOTS_DIR={tmp_path / 'plots'}")


@POSIX
def test_a_full_disk_is_said_and_the_best_weights_stay(constants, tmp_path):
    """No file may grow beyond a fifth of a weights file, which is what a full disk does to it."""
    import resource

    best = tmp_path / "best_weights.pt"
    records.claim(tmp_path, ["best_weights.pt"])
    best.write_bytes(b"good")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 ** 19, before[1]))
    try:
        with pytest.raises(SystemExit, match="^error: .*best_weights_1.pt.*free some space") as stop:
            train.script.run(train.main)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(stop.value) and best.read_bytes() == b"good"
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".tmp")], "the half of a file is no use"


def test_weights_of_a_nan_validation_loss_are_never_saved(constants, tmp_path, monkeypatch):
    """The last step of an epoch breaks the weights, which only validation shows: last.pt stays as it was."""
    records.claim(tmp_path, ["last.pt"])
    (tmp_path / "last.pt").write_bytes(b"good")
    monkeypatch.setattr(train, "evaluate", lambda *_: (torch.full((4, 2), float("nan")), torch.zeros(4).long()))
    with pytest.raises(SystemExit, match="the loss became nan in epoch 1: the weights saved so far are kept"):
        train.main()
    assert [p.name for p in tmp_path.rglob("[!.]*") if p.is_file()] == ["last.pt"]
    assert (tmp_path / "last.pt").read_bytes() == b"good"


def test_weights_alone_are_not_enough_to_resume(constants, tmp_path, monkeypatch):
    records.claim(tmp_path, ["last.pt"])
    runs.save_weights(tmp_path / "last.pt", facts(networks.build("small", 2), classes=["beard", "hat"]))
    monkeypatch.setattr(train, "RESUME", True)
    with pytest.raises(SystemExit, match="not enough to resume"):
        train.main()


PARTS = ("constants", "crops", "net", "history", "comparable_from", "head_epochs")


def test_a_last_pt_without_a_part_of_its_run_is_one_line(constants, tmp_path, monkeypatch):
    train.main()
    whole = torch.load(tmp_path / "last.pt", weights_only=True)
    row = whole["history"][0]
    odd = [{"history": [{}]}, {"history": [row | {"epoch": "1"}]}, {"crops": {}}, {"constants": {}},
           {"optimizer": 3}]
    monkeypatch.setattr(train, "RESUME", True)
    for last in [*({k: v for k, v in whole.items() if k != part} for part in PARTS),
                 *(whole | {part: None} for part in PARTS), *(whole | part for part in odd)]:
        runs.save_weights(tmp_path / "last.pt", last)
        with pytest.raises(SystemExit, match="made by another version"):
            train.main()
    for part in ({"ema": 3}, {"ema": None}, {"net": {"x": 3}}, {"optimizer": {"state": 3}}):
        runs.save_weights(tmp_path / "last.pt", whole | part)
        with pytest.raises(SystemExit, match="does not fit this run"):
            train.main()
