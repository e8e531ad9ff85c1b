"""TEACHER of train.py: what a network learns from another one's answers, beside the labels."""

import pytest
import torch
from torch.nn import functional

import train
from learn import teacher
from test_backbones import weights_file
from test_dataset import both_splits
from test_train import losses, run

CPU, CLASSES = torch.device("cpu"), ["beard", "hat"]


def test_a_teacher_gives_its_calibrated_probabilities_at_its_own_size(tmp_path):
    net = weights_file(tmp_path / "t.pt", CLASSES, "wide", image_size=64, temperature=0.5, ages=[0, 11])
    ask = teacher.ask(tmp_path / "t.pt", CLASSES, CPU, False)
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = (net(images)[:, :2] / 0.5).softmax(1)
    torch.testing.assert_close(ask(images), expected)
    large = functional.interpolate(images, (128, 128), mode="nearest")
    torch.testing.assert_close(ask(large), expected, atol=0.02, rtol=0)


def test_the_loss_lies_between_that_of_the_labels_and_that_of_the_teacher(monkeypatch):
    outputs = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    labels, weights, tasks = torch.tensor([0, 1, 1, 0]), torch.tensor([1.0, 2.0, 1.0, 0.5]), torch.empty(4, 0)
    taught = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.0, 1.0], [1.0, 0.0]])

    def loss(share, *more):
        monkeypatch.setattr(train, "TEACHER_SHARE", share)
        return train.loss_of(outputs, labels, weights, tasks, [], *more)[0]

    from_labels = loss(0.5)
    from_teacher = -(taught * outputs.log_softmax(1)).sum(1) * weights
    torch.testing.assert_close(loss(1.0, taught), from_teacher)
    torch.testing.assert_close(loss(0.25, taught), 0.75 * from_labels + 0.25 * from_teacher)


def test_a_run_learns_from_its_teacher_and_goes_on_to_the_same_numbers(tmp_path):
    faces = both_splits(tmp_path)
    weights_file(tmp_path / "t.pt", CLASSES)
    small = ["IMAGE_SIZE=32", "SCHEDULE=constant"]
    taught = [*small, f"TEACHER={tmp_path / 't.pt'}", "TEACHER_SHARE=1.0"]
    for folder, starts in {"plain": [[*small, "EPOCHS=2"]], "whole": [[*taught, "EPOCHS=2"]],
                           "halves": [[*taught, "EPOCHS=1"], [*taught, "EPOCHS=2", "RESUME=True"]]}.items():
        (tmp_path / folder).mkdir()
        for arguments in starts:
            code, _, err = run(tmp_path / folder, faces, *arguments)
            assert code == 0, err
    assert losses(tmp_path / "halves") == losses(tmp_path / "whole") != losses(tmp_path / "plain")


@pytest.mark.parametrize(("facts", "line"), [
    ({"classes": ["cap", "hat"]}, "knows the classes cap, hat and this run learns beard, hat"),
    ({"mean": [0.5] * 3}, "normalises images in another way")])
def test_a_teacher_of_something_else_is_one_line(tmp_path, facts, line):
    faces = both_splits(tmp_path)
    weights_file(tmp_path / "t.pt", **{"classes": CLASSES, **facts})
    code, _, err = run(tmp_path, faces, "IMAGE_SIZE=32", f"TEACHER={tmp_path / 't.pt'}")
    assert code == 1 and line in err and not (tmp_path / "weights").exists()


@pytest.mark.parametrize(("path", "line"), [
    ("none.pt", "no weights at none.pt"), (5, "TEACHER=5: must be None, or the path of a weights file"),
    ("weights/best_weights.pt", "a file that this run does not write over")])
def test_no_teacher_at_all_or_the_run_itself_is_one_line(tmp_path, path, line):
    code, _, err = run(tmp_path, both_splits(tmp_path), f"TEACHER={path}")
    assert code == 1 and line in err.splitlines()[-1] and "Traceback" not in err
