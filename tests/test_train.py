"""train.py: the same seed gives the same numbers, stopped or not; files are kept, errors are one line."""

import csv
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

import dataset
import model as networks
import running
import strangers
import test as step4
import train
from crops import both_splits, note
from faces import cropping
from learn import calibration, classifier, runs
from terminal import files, records, rules, script

SMALL = running.ROOT / "weights" / "shipped" / "small.pt"


def constants(faces):
    """The constants of a run on these crops; the paper's network would leave 200 MB per epoch, this one 20."""
    return [f"TRAIN_DIR={faces / 'train'}", f"VALID_DIR={faces / 'valid'}", "BATCH_SIZE=4", "PRECISION=float32",
            "MODEL=small"]


def run(folder, faces, *arguments):
    """train.py in this process: (exit status, what it printed, what it said of errors)."""
    return running.call(train, *constants(faces), *arguments, cwd=folder)


def losses(folder):
    with open(folder / "plots" / "log.csv", encoding="utf-8") as file:
        return [tuple(row[c] for c in ("epoch", "train_loss", "valid_loss", "valid_accuracy"))
                for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, faces):
    """An uninterrupted run of three epochs, as a user starts it."""
    folder = tmp_path_factory.mktemp("whole")
    code, out, err = running.run("train.py", *constants(faces), "EPOCHS=3", cwd=folder)
    assert code == 0, err
    return folder, out


def test_a_run_leaves_what_it_promises(whole):
    folder, out = whole
    best = min(losses(folder), key=lambda row: float(row[2]))
    names = {p.name for p in (folder / "weights").glob("[!.]*")}
    with open(folder / "plots" / "log.csv", encoding="utf-8") as file:
        improved = [row["epoch"] for row in csv.DictReader(file) if row["best"]]
    assert names == {"best_weights.pt", "last.pt", *(f"best_weights_{epoch}.pt" for epoch in improved)}
    assert (folder / "plots" / "metrics_3.png").stat().st_size > 5000 and " threads" in out
    model, info = classifier.load_weights(folder / "weights" / "best_weights.pt")
    assert info["classes"] == ["beard", "hat"] and info["epoch"] == int(best[0]) and 0.5 <= info["threshold"] <= 0.95
    assert len(losses(folder)) == 3 and "best: epoch" in out


def test_losses_are_means_per_sample(whole, faces):
    """The logged validation loss, worked out again from the weights, one photo at a time."""
    folder, _ = whole
    last = classifier.load_checkpoint(folder / "weights" / "last.pt")
    net = networks.build("small", 2).eval()
    net.load_state_dict(last["state"])
    crops = dataset.Crops(faces / "valid", 96).prepare()
    with torch.inference_mode():
        images = [dataset.evaluation_transform(96)(crops[[i]][0]) for i in range(len(crops))]
        each = [functional.cross_entropy((net(image) + net(image.flip(3))) / 2, crops.labels[[i]])
                for i, image in enumerate(images)]
    assert torch.stack(each).mean().item() == pytest.approx(float(losses(folder)[-1][2]), rel=1e-4)


def test_what_is_judged_has_the_margin_of_the_weights(faces, tmp_path):
    """The margin is in the weights, and test.py cuts validation's crops to it: the same loss as in training."""
    code, _, err = run(tmp_path, faces, "EPOCHS=1", "IMAGE_SIZE=64", "EVAL_MARGIN=0.1")
    assert code == 0, err
    info = classifier.load_checkpoint(tmp_path / "weights" / "best_weights.pt")
    assert info["margin"] == 0.1
    code, _, err = running.call(step4, f"TEST_DIR={faces / 'valid'}", "CROPPED=True", "WEIGHTS=weights/best_weights.pt",
                                cwd=tmp_path)
    assert code == 0, err
    with open(tmp_path / "plots" / "predictions.csv", encoding="utf-8") as file:
        predictions = list(csv.DictReader(file))
    scores = torch.tensor([[float(row[f"p_{c}"]) for c in info["classes"]] for row in predictions]).log()
    scores *= info["temperature"]
    labels = torch.tensor([info["classes"].index(row["class"]) for row in predictions])
    assert functional.cross_entropy(scores, labels).item() == pytest.approx(info["metrics"]["valid_loss"], abs=2e-3)


def test_stopped_and_resumed_gives_the_same_numbers(faces, tmp_path):
    """So many epochs that the last cannot be over before the signal comes, however busy the machine is."""
    settings = ["EPOCHS=8", "IMAGE_SIZE=32"]
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    assert run(tmp_path / "whole", faces, *settings)[0] == 0
    process = running.start("train.py", *constants(faces), *settings, cwd=tmp_path / "stopped")
    running.wait_for((tmp_path / "stopped" / "weights" / "last.pt").exists)
    running.press_ctrl_c(process)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130 and "Traceback" not in err and "RESUME=True" in err
    assert "RESUME=True EPOCHS=8" not in err.splitlines()[0]
    assert 1 <= len(losses(tmp_path / "stopped")) < 8, "it must have been stopped on its way"
    code, out, err = run(tmp_path / "stopped", faces, *settings, "RESUME=True")
    assert code == 0, err
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


def test_a_new_run_keeps_the_files_of_the_one_before(whole, faces, tmp_path):
    copy_run(whole, tmp_path)
    before = {p.name: p.read_bytes() for p in (tmp_path / "weights").glob("*.pt")}
    before |= {p.name: p.read_bytes() for p in (tmp_path / "plots").glob("[!.]*")}
    assert {"log.csv", "metrics_3.png"} <= before.keys()
    code, out, err = run(tmp_path, faces, "EPOCHS=1", "IMAGE_SIZE=32")
    assert code == 0, err
    assert {p.name: p.read_bytes() for p in (tmp_path / "weights" / "run_1").iterdir()} == before
    assert {p.name for p in (tmp_path / "weights").glob("*.pt")} == {"best_weights.pt", "best_weights_1.pt", "last.pt"}
    assert {p.name for p in (tmp_path / "plots").glob("[!.]*")} == {"log.csv", "metrics_1.png"}
    assert classifier.load_weights(tmp_path / "weights" / "best_weights.pt")[1]["epoch"] == 1


def test_a_new_run_that_is_stopped_in_its_first_epoch_changes_nothing(whole, faces, tmp_path, monkeypatch):
    """test.py and realtime.py go on with the weights of the run before, and RESUME goes on with that run."""
    copy_run(whole, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("[!.]*") if p.is_file()}

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "evaluate", stop)
    assert run(tmp_path, faces, "EPOCHS=3", "IMAGE_SIZE=32")[0] == 130
    monkeypatch.setattr(train, "saved_epochs", [])
    assert train.how_to_continue() == "no epoch is finished: run the same command again"
    monkeypatch.undo()
    assert {p: p.read_bytes() for p in tmp_path.rglob("[!.]*") if p.is_file()} == before
    code, out, err = run(tmp_path, faces, "EPOCHS=4", "RESUME=True")
    assert code == 0 and len(losses(tmp_path)) == 4, err


@pytest.mark.parametrize("place", ["weights/last.pt", "weights/best_weights.pt", "weights/best_weights_7.pt",
                                   "plots/log.csv", "plots/metrics_1.png", "weights", "plots"])
def test_what_a_user_has_put_there_is_not_written_over(faces, tmp_path, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_bytes(b"mine")
    code, out, err = run(tmp_path, faces, "EPOCHS=1", "IMAGE_SIZE=32")
    lines = [line for line in err.splitlines() if not line.startswith("decoding")]
    assert code == 1 and len(lines) == 1 and lines[0].startswith("error: ") and out == "", err
    assert (tmp_path / place).read_bytes() == b"mine"


def test_a_copied_folder_can_be_resumed_without_its_record(whole, faces, tmp_path):
    copy_run(whole, tmp_path)
    (tmp_path / "weights" / records.RECORD).unlink()
    (tmp_path / "weights" / "best_weights.pt").rename(tmp_path / "weights" / "best_weights_mine.pt")
    for path in [*(tmp_path / "weights").glob("best_weights_?.pt"), *(tmp_path / "plots").glob("*.*")]:
        path.unlink()
    code, _, err = run(tmp_path, faces, "EPOCHS=4", "RESUME=True")
    assert code == 0 and len(losses(tmp_path)) == 4, err
    assert (tmp_path / "weights" / "best_weights_mine.pt").is_file(), "a name that no run uses is not in the way"


def test_a_run_of_an_earlier_version_is_not_resumed(whole, faces, tmp_path):
    copy_run(whole, tmp_path)
    last = classifier.load_checkpoint(tmp_path / "weights" / "last.pt")
    del last["constants"]["EMA"]
    runs.save_weights(tmp_path / "weights" / "last.pt", last)
    code, _, err = run(tmp_path, faces, "EPOCHS=4", "RESUME=True")
    assert code == 1 and "made by another version: start anew" in err


def copy_run(whole, folder):
    """A run of three epochs in another folder."""
    for name in ("weights", "plots"):
        shutil.copytree(whole[0] / name, folder / name)


def copied(whole, folder):
    """A run of three epochs that can go on in another folder, where its validation loss looks unbeatable."""
    copy_run(whole, folder)
    last = classifier.load_checkpoint(folder / "weights" / "last.pt")
    for row in last["history"]:
        row["valid_loss"], row["mean_loss"], row["valid_accuracy"] = 1e-6, 1e-6, 1.0
    runs.save_weights(folder / "weights" / "last.pt", {**last, "best": 1e-6})
    (folder / "weights" / "best_weights.pt").unlink()


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_resume_with_other_crops_says_so_and_chooses_the_best_anew(whole, faces, tmp_path, split):
    copied(whole, tmp_path)
    shutil.copytree(faces, tmp_path / "faces")
    (tmp_path / "faces" / split / "hat" / "0.jpg").rename(tmp_path / "faces" / split / "hat" / "other.jpg")
    code, out, err = run(tmp_path, tmp_path / "faces", "EPOCHS=4", "RESUME=True")
    assert code == 0, err
    name = {"train": "training", "valid": "validation"}[split]
    assert f"the crops for {name} are not those of epoch 3" in out and "chosen anew, from epoch 4 on" in out
    assert classifier.load_weights(tmp_path / "weights" / "best_weights.pt")[1]["epoch"] == 4
    assert "best: epoch 4" in out and "100.00%" not in out.splitlines()[-1]
    # Going on once more is no change, and the epochs before the change still do not count.
    code, out, err = run(tmp_path, tmp_path / "faces", "EPOCHS=4", "RESUME=True")
    assert code == 0 and "not those" not in out and "best: epoch 4" in out, err


def test_a_resume_with_the_same_crops_elsewhere_goes_on(whole, faces, tmp_path):
    copied(whole, tmp_path)
    shutil.copytree(faces, tmp_path / "faces", copy_function=shutil.copyfile)  # with other times
    code, out, err = run(tmp_path, tmp_path / "faces", "EPOCHS=4", "RESUME=True")
    assert code == 0 and "not those" not in out and "anew" not in out, err
    assert not (tmp_path / "weights" / "best_weights.pt").exists(), "epoch 4 cannot be better than 1e-6"


def test_a_resume_that_judges_otherwise_chooses_the_best_anew(whole, faces, tmp_path):
    copied(whole, tmp_path)
    code, out, err = run(tmp_path, faces, "EPOCHS=4", "RESUME=True", "EVAL_MARGIN=0.1")
    assert code == 0 and "EVAL_MARGIN None -> 0.1" in out and "chosen anew, from epoch 4 on" in out, err
    assert classifier.load_weights(tmp_path / "weights" / "best_weights.pt")[1]["epoch"] == 4


def test_a_resume_without_its_start_chooses_the_best_anew(faces, tmp_path):
    """START sets the size and the margin of the crops, so that losses with and without it cannot be compared."""
    assert run(tmp_path, faces, f"START={SMALL}", "EPOCHS=1")[0] == 0
    code, out, err = run(tmp_path, faces, "EPOCHS=2", "RESUME=True")
    assert code == 0 and "chosen anew, from epoch 2 on" in out, err
    assert classifier.load_checkpoint(tmp_path / "weights" / "best_weights.pt")["image_size"] == 96


def test_a_resume_with_another_weight_decay_trains_with_it(whole, faces, tmp_path):
    copy_run(whole, tmp_path)
    code, out, err = run(tmp_path, faces, "EPOCHS=4", "RESUME=True", "WEIGHT_DECAY=0.3")
    assert code == 0 and "WEIGHT_DECAY 0.05 -> 0.3" in out, err
    groups = classifier.load_checkpoint(tmp_path / "weights" / "last.pt")["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.3]


def test_a_last_batch_of_one_trains_where_batch_normalisation_needs_two(faces, tmp_path):
    """8 crops in batches of 7; at 32 pixels ResNet's last features are one value per image and channel."""
    settings = ["MODEL=resnet18", "IMAGE_SIZE=32", "EPOCHS=1"]
    code, _, err = run(tmp_path, faces, *settings, "BATCH_SIZE=7")
    assert code == 0 and len(losses(tmp_path)) == 1, err
    code, _, err = run(tmp_path, faces, *settings, "BATCH_SIZE=1")
    assert code == 1 and "Traceback" not in err and "set BATCH_SIZE (at least 2 per process)" in err.splitlines()[-1]


@pytest.mark.parametrize(("arguments", "line"), [
    (["EPOCHS=0"], "EPOCHS=0: must be None, or a whole number, at least 1"), (["LR=-1"], "LR=-1: must be"),
    (["MODEL=vgg99"], "one of paper"), (["AUGMENT=x"], "one of none, face"),
    (["TRAIN_DIR=nowhere"], "run 'python validation.py'"),
    (["EVAL_MARGIN=x"], "None, or a number from 0 to 0.2"), (["EVAL_MARGIN=0.3"], "a number from 0 to 0.2"),
    (["RESUME=True"], "no weights at"),
])
def test_one_line_errors(faces, tmp_path, arguments, line):
    code, _, err = run(tmp_path, faces, *arguments)
    said = [text for text in err.splitlines() if text and not text.startswith("decoding")]
    assert code == 1 and len(said) == 1 and line in said[0]


def test_a_class_that_only_one_side_has_is_named(faces, tmp_path):
    shutil.copytree(faces, tmp_path / "faces")
    shutil.copytree(faces / "train" / "hat", tmp_path / "faces" / "train" / "mask")
    code, _, err = run(tmp_path, tmp_path / "faces")
    assert code == 1 and "valid has no crops of mask: run 'python validation.py'" in err.splitlines()[-1]


def test_nan_is_said_and_nothing_is_saved(faces, tmp_path, monkeypatch):
    """A network whose weights have blown up ends the run before anything is written over."""
    weights = tmp_path / "weights"
    records.claim(weights, ["best_weights.pt"])
    (weights / "best_weights.pt").write_bytes(b"good")
    broken = networks.Model(2)
    torch.nn.init.constant_(broken.classifier[-1].weight, float("nan"))
    monkeypatch.setattr(networks, "build", lambda *_: broken)
    settings = {"TRAIN_DIR": str(faces / "train"), "VALID_DIR": str(faces / "valid"), "PRECISION": "float32",
                "WEIGHTS_DIR": str(weights), "PLOTS_DIR": str(tmp_path / "plots"), "BATCH_SIZE": 4}
    for name, value in settings.items():
        monkeypatch.setattr(train, name, value)
    with pytest.raises(SystemExit, match="the loss became nan in epoch 1: .* start again with a lower LR$"):
        train.main()
    assert (tmp_path / "weights" / "best_weights.pt").read_bytes() == b"good"


def test_calibration_finds_the_temperature_and_the_threshold(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(20_000, 2, generator=generator) * 2
    labels = torch.multinomial(true.softmax(1), 1, generator=generator)[:, 0]
    temperature, threshold, accuracy = calibration.calibrate(true * 3, labels, train.TARGET_ACCURACY)
    assert accuracy >= train.TARGET_ACCURACY - 0.005 and temperature == pytest.approx(3, rel=0.05)
    confidence, predicted = true.softmax(1).max(1)
    sure = confidence >= threshold
    assert (predicted == labels)[sure].float().mean() >= train.TARGET_ACCURACY - 0.005
    assert (predicted == labels)[confidence >= threshold - 0.02].float().mean() < train.TARGET_ACCURACY + 0.005


@pytest.mark.parametrize(("n_classes", "least"), [(2, 0.75), (3, 0.66), (10, 0.55)])
def test_few_crops_that_are_all_right_do_not_make_it_sure_of_everything(n_classes, least):
    logits = 3 * torch.eye(n_classes).repeat(6, 1)
    labels = torch.arange(n_classes).repeat(6)
    assert calibration.calibrate(logits, labels, 0.98, few=True)[1] == pytest.approx(least, abs=0.011)
    threshold = calibration.calibrate(logits, labels, 0.98)[1]
    assert threshold == pytest.approx(1 / n_classes, abs=0.011), "of many it is known"


def conclusion(folder, monkeypatch, capsys, valid, reached):
    """What runs.conclude() prints of a run of one epoch. `valid`: len() crops of so many .n_people; `reached`: the
    accuracy of those that are sure."""
    monkeypatch.setattr(runs, "plot", lambda history, path: None)
    row = {"epoch": 1, "mean_loss": 1.0, "valid_loss": 1.0, "valid_accuracy": 0.9, "best": "yes"}
    done = runs.Run(None, None, None, None, {"TARGET_ACCURACY": 0.98, "PLOT_FORMAT": "png"}, {}, {}, history=[row],
                    reached=reached)
    runs.conclude(done, runs.Folders(folder / "weights", folder / "plots"), valid)
    return capsys.readouterr().out


@pytest.mark.parametrize(("people", "line"), [(1, "60 validation crops of 1 person or take are few"),
                                              (7, "60 validation crops of 7 people or takes are few"),
                                              (60, "60 validation crops are few"),
                                              (100, "epochs done: 1; best: epoch 1")])
def test_crops_of_one_person_count_as_one(tmp_path, capsys, monkeypatch, people, line):
    valid = type("Valid", (list,), {"n_people": people})(range(60))
    assert conclusion(tmp_path, monkeypatch, capsys, valid, 1.0).startswith(line)


@pytest.mark.parametrize(("reached", "line"), [(0.9, "90.0% of the"), (float("nan"), "of any validation crop")])
def test_an_accuracy_that_cannot_be_reached_is_said(tmp_path, capsys, monkeypatch, reached, line):
    said = conclusion(tmp_path, monkeypatch, capsys, SimpleNamespace(n_people=500), reached)
    assert "TARGET_ACCURACY=0.98 was not reached" in said and line in said


def test_training_with_start_ends_where_validation_cannot_improve(faces, tmp_path, monkeypatch):
    """All right for an eighth of the epochs: here from the third on, and of 16 epochs the fourth is the last."""
    real = train.chosen_constants
    monkeypatch.setattr(train, "chosen_constants", lambda n: {**real(n), "EPOCHS": train.EPOCHS or 16})
    monkeypatch.setattr(train, "evaluate", lambda run, batches: (
        (1.0 - 2 * (run.done < 2)) * torch.eye(2)[batches.dataset.labels], batches.dataset.labels))
    start = [f"START={SMALL}"]
    for name, arguments, epochs in (("ends", start, 4), ("asked for", [*start, "EPOCHS=16"], 16), ("new", [], 16)):
        (tmp_path / name).mkdir()
        code, out, err = run(tmp_path / name, faces, "IMAGE_SIZE=32", *arguments)
        assert code == 0, err
        assert len(losses(tmp_path / name)) == epochs
        assert out.count("all 4 validation crops were right in the last 2 epochs") == (name == "ends")
    code, out, err = run(tmp_path / "ends", faces, "IMAGE_SIZE=32", *start, "RESUME=True")
    assert code == 0 and len(losses(tmp_path / "ends")) == 4, err
    assert "all 4 epochs were done before" in out and "ends early" not in out and "network: " not in out


def test_a_finished_run_is_not_begun_again(whole, faces, tmp_path):
    """One line says so, and the last line's command judges the weights of this folder and no others."""
    shutil.copytree(whole[0] / "weights", tmp_path / "my own")
    code, out, err = run(tmp_path, faces, "EPOCHS=3", "RESUME=True", "WEIGHTS_DIR=my own", "PLOT_FORMAT=pdf")
    assert code == 0 and not err, err
    line = next(line for line in out.splitlines() if line.startswith("all 3 epochs were done before; ten more: "))
    assert "MODEL=small" in line and line.endswith("EPOCHS=13 RESUME=True") and "epochs 4" not in out
    assert (tmp_path / "plots" / "metrics_3.pdf").read_bytes().startswith(b"%PDF")
    assert whole[1].rstrip().endswith("-> weights/best_weights.pt; next: python test.py")
    named = script.command_line("python", "test.py", "WEIGHTS=my own/best_weights.pt")
    assert out.rstrip().endswith(f"next: {named}") and not (tmp_path / "weights").exists()


def test_a_plot_that_a_viewer_holds_open_does_not_hide_where_the_weights_are(whole, faces, tmp_path, monkeypatch):
    def busy(history, path):
        raise files.Busy(f"{path} is open in another program, and cannot be written: close it there")

    shutil.copytree(whole[0] / "weights", tmp_path / "weights")
    monkeypatch.setattr(runs, "plot", busy)
    code, out, err = run(tmp_path, faces, "EPOCHS=3", "RESUME=True", "PLOT_FORMAT=pdf")
    assert code == 0 and not err, err
    assert "metrics_3.pdf is open in another program" in out and "next: python test.py" in out


def test_a_new_run_that_is_killed_before_its_first_last_pt_leaves_no_other_to_resume(whole, faces, tmp_path,
                                                                                     monkeypatch):
    """RESUME would otherwise continue the run before. Its files are in run_1."""
    for folder in ("weights", "plots"):
        shutil.copytree(whole[0] / folder, tmp_path / folder)
    real = runs.save_weights

    def killed(path, checkpoint):
        if path.name == "last.pt":
            raise KeyboardInterrupt
        real(path, checkpoint)

    monkeypatch.setattr(runs, "save_weights", killed)
    assert run(tmp_path, faces, "EPOCHS=1")[0]
    monkeypatch.setattr(runs, "save_weights", real)
    code, _, err = run(tmp_path, faces, "EPOCHS=4", "RESUME=True")
    assert code and "no weights at weights/last.pt" in err
    kept = tmp_path / "weights" / "run_1"
    assert (kept / "last.pt").read_bytes() == (whole[0] / "weights" / "last.pt").read_bytes()


def test_each_row_of_the_log_has_the_constants_it_was_trained_with(whole, faces, tmp_path):
    for folder in ("weights", "plots"):
        shutil.copytree(whole[0] / folder, tmp_path / folder)
    code, _, err = run(tmp_path, faces, "EPOCHS=4", "LR=1e-5", "RESUME=True")
    assert code == 0, err
    with open(tmp_path / "plots" / "log.csv", encoding="utf-8") as file:
        rates = [row["constants"].partition(" LR=")[2].split()[0] for row in csv.DictReader(file)]
    assert rates == ["0.001"] * 3 + ["1e-05"]
    last = classifier.load_checkpoint(tmp_path / "weights" / "last.pt")
    assert last["metrics"].keys() == set(runs.COLUMNS), "the constants, which name folders, stay out of weights"


def test_a_rank_counts_only_with_the_number_of_processes(monkeypatch):
    code = "from learn import distributed; print(distributed.IS_FIRST, distributed.WORLD)"
    done = subprocess.run([sys.executable, "-c", code], cwd=running.ROOT, env={**os.environ, "RANK": "1"}, text=True,
                          capture_output=True, check=True)
    assert done.stdout.split() == ["True", "1"]


def test_one_cycle_starts_low_peaks_at_lr_and_ends_low():
    constants = {"LR": 1e-3, "PAPER": False}
    start, peak, end = (train.learning_rate(progress, constants) for progress in (0.01, 0.1, 1.0))
    assert start < 1e-3 / 5 and peak == pytest.approx(1e-3) and end == pytest.approx(0, abs=1e-9)


def test_no_step_is_wasted_at_a_learning_rate_of_zero(whole):
    with open(whole[0] / "plots" / "log.csv", encoding="utf-8") as file:
        assert all(float(row["lr"]) > 0 for row in csv.DictReader(file))


@pytest.mark.skipif(sys.platform == "win32", reason="gloo's rendezvous is not built into PyTorch for Windows")
def test_two_processes_train_as_one(faces, tmp_path):
    """8 crops in batches of 3: the shares of a batch differ, and the last batch is of two."""
    settings = [*constants(faces), "BATCH_SIZE=3", "EPOCHS=1"]
    (tmp_path / "both.py").write_text(f"""import sys
sys.path.insert(0, {str(running.ROOT)!r})
import train
from learn import devices, distributed
from terminal import rules
hardware = devices.choose("cpu", "float32")
with distributed.ranks(hardware.device):
    for name in ("paper", "small"):
        folders = [f"WEIGHTS_DIR={{name}}", f"PLOTS_DIR={{name}}/plots"]
        rules.override(vars(train), [*{settings!r}, f"MODEL={{name}}", *folders])
        train.fit(hardware)
""", encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               "--log-dir=logs", "both.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("network:") == 2, "one rank writes"
    for name in ("paper", "small"):
        assert len(losses(tmp_path / name)) == 1 and classifier.load_weights(tmp_path / name / "best_weights.pt")
    # Not of "small": its batch normalisation sees a rank's share only, so that it differs a little.
    (tmp_path / "one").mkdir()
    code, _, err = run(tmp_path / "one", faces, "EPOCHS=1", "BATCH_SIZE=3", "MODEL=paper")
    assert code == 0, err
    one, two = ([float(v) for v in losses(tmp_path / name)[0]] for name in ("one", "paper"))
    assert one == pytest.approx(two, abs=1e-3)


def test_validation_is_told_by_source_and_the_best_epoch_is_best_for_all_of_them(tmp_path):
    """The first two crops of each class are of the source "news", the two after them of others."""
    faces = both_splits(tmp_path, valid=4)
    of_news = {path for folder in faces.glob("*/*") for path in sorted(folder.glob("*.jpg"))[:2]}
    for folder in (faces / "train", faces / "valid"):
        note(folder, {f"{path.parent.name}/{path.name}": ("news", "", "", "") for path in of_news
                      if folder in path.parents})
    (tmp_path / "run").mkdir()
    code, out, err = run(tmp_path / "run", faces, "EPOCHS=2", "IMAGE_SIZE=32")
    assert code == 0, err
    line = next(line for line in out.splitlines() if "others" in line and "news" in line)
    net, info = classifier.load_weights(tmp_path / "run" / "weights" / "best_weights_1.pt")
    crops = sorted((faces / "valid").glob("*/*.jpg"))
    labels = np.array([info["classes"].index(crop.parent.name) for crop in crops])
    is_news = np.array([crop in of_news for crop in crops])
    scores = strangers.plainly(net, {**info, "temperature": 1.0}, [cropping.read_crop(crop) for crop in crops])[0]
    mean_losses = []
    for source, own in (("others", ~is_news), ("news", is_news)):
        told = line.split(f"{source} ")[1]
        mean_losses.append(-np.log(scores[own, labels[own]]).mean())
        assert float(told.split()[0]) == pytest.approx(mean_losses[-1], abs=3e-3)
        first = own & (labels == 0)
        assert f"{info['classes'][0]} {(scores[first].argmax(1) == 0).mean():.1%}" in told
    # A source weighs as the root of its number of crops: both have as many.
    assert info["metrics"]["mean_loss"] == pytest.approx(np.mean(mean_losses), abs=3e-3)


def test_the_least_mean_of_the_sources_is_best_whatever_the_total():
    kept = runs.Run(None, None, None, None, {}, {}, {})
    facts = dict.fromkeys(runs.COLUMNS, 0)
    for epoch, (valid_loss, mean_loss) in enumerate(((0.5, 0.6), (0.4, 0.7), (0.6, 0.5)), 1):
        kept.add_epoch(**{**facts, "epoch": epoch, "valid_loss": valid_loss, "mean_loss": mean_loss})
    assert [row["best"] for row in kept.history] == ["yes", "", "yes"]


def test_the_papers_settings_at_once_and_what_is_chosen_for_few_photos(monkeypatch):
    for name, value in rules.constants(vars(train)).items():
        monkeypatch.setattr(train, name, value)
    chosen = train.chosen_constants
    assert [chosen(5000)[k] for k in ("EPOCHS", "BATCH_SIZE", "LR", "EMA")] == [12, 64, 1e-3, 0.998]
    train.START = "weights/shipped/small.pt"
    few, many = chosen(200), chosen(100_000)
    assert few["EPOCHS"] * 4 == pytest.approx(400, abs=8) and many["EPOCHS"] == 4 and few["LR"] == 3e-4
    train.START, train.PAPER = None, True
    assert chosen(800) == chosen(5000) and chosen(800)["EPOCHS"] == 50
    paper = {"BATCH_SIZE": 16, "LR": 1e-3, "AUGMENT": "paper", "WEIGHT_DECAY": 0, "LABEL_SMOOTHING": 0, "EMA": 0,
             "BALANCE": False}
    assert paper.items() <= chosen(800).items()
    assert train.learning_rate(0.01, chosen(800)) == train.learning_rate(0.9, chosen(800)) == 1e-3
    train.AUGMENT, train.EMA = "face", 0.9
    assert chosen(800)["AUGMENT"] == "face" and chosen(800)["EMA"] == 0.9, "what is set wins"


def test_a_log_that_a_spreadsheet_holds_open_does_not_stop_the_training(faces, tmp_path, monkeypatch):
    real = runs.write_log

    def busy(path, *more):
        if len(more[0]) == 1:
            raise files.Busy(f"{path} is open in another program, and cannot be written: close it there")
        real(path, *more)

    monkeypatch.setattr(runs, "write_log", busy)
    code, out, err = run(tmp_path, faces, "EPOCHS=2", "IMAGE_SIZE=32")
    assert code == 0 and out.count("log.csv is open in another program") == out.count("the training goes on") == 1
    assert len(losses(tmp_path)) == 2, "the next epoch writes all rows"


@running.WINDOWS
def test_a_log_that_another_process_holds_open_does_not_stop_the_training(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BUSY", 0.3)
    assert run(tmp_path, faces, "EPOCHS=1", "IMAGE_SIZE=32")[0] == 0
    with running.held_open(tmp_path / "plots" / "log.csv"):
        code, out, err = run(tmp_path, faces, "EPOCHS=2", "IMAGE_SIZE=32", "RESUME=True")
        assert code == 0 and "log.csv is open in another program, and stays as it is: the training goes on" in out, err
    assert len(losses(tmp_path)) == 1
    assert run(tmp_path, faces, "EPOCHS=3", "IMAGE_SIZE=32", "RESUME=True")[0] == 0
    assert len(losses(tmp_path)) == 3, "no epoch is lost"
