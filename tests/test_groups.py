"""Auxiliary tasks of train.py: what is learned beside the class, and what weights files keep of it."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import model as networks
import strangers
from crops import both_splits, note
from faces import people
from learn import auxiliary, classifier, runs
from test_train import losses, run


def persons(*facts):
    """People of whom the age, or the age and the ethnicity, are known."""
    return [people.Person("", "", *each) for each in facts]


def test_ages_become_bands_and_what_is_not_known_is_minus_one():
    known = persons(("1", "Asian"), ("30", "White"), ("", "White"), ("31", ""), ())
    for columns in (("age", "ethnicity"), ("ethnicity", "age")):
        labels, sizes, ages = auxiliary.labels(known, columns)
        assert labels.tolist() == [[0, 0], [1, 1], [-1, 1], [1, -1], [-1, -1]], "the age comes first"
        assert sizes == [2, 2] and ages == [1, 28]
    labels, sizes, ages = auxiliary.labels(known, ())
    assert labels.shape == (5, 0) and sizes == ages == []


def test_ages_published_as_bands_count_from_their_first_year():
    known = persons(("0-2",), ("20-29",), ("24",), ("70+",), ())
    assert auxiliary.labels(known, ("age",))[0][:, 0].tolist() == [0, 1, 2, 3, -1]


def test_what_is_missing_is_one_line():
    for known in (persons(("", "White")), persons((), ())):
        with pytest.raises(SystemExit, match="found no age of these crops in data/people.csv, which the importers"):
            auxiliary.labels(known, ("age",))
    with pytest.raises(SystemExit, match="found only one ethnicity of these crops .*leave ethnicity out of AUXILIARY"):
        auxiliary.labels(persons(("1", "White"), ("30", "White"), ()), ("age", "ethnicity"))


def test_the_loss_leaves_out_what_is_not_known():
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2], [-1, 0], [-1, -1]])
    loss = auxiliary.loss(logits, labels, [2, 3])
    first, second = logits.split([2, 3], 1)
    both = functional.cross_entropy(first[:1], labels[:1, 0]) + functional.cross_entropy(second[:1], labels[:1, 1])
    one = functional.cross_entropy(second[1:2], labels[1:2, 1])
    assert loss.tolist() == pytest.approx([both.item(), one.item(), 0.0])


def test_a_network_with_more_outputs_starts_from_one_without(tmp_path):
    torch.manual_seed(0)
    net = networks.build("small", 5)
    plain = networks.build("small", 2)
    plain.load_state_dict(runs.trimmed(net, 2))
    images = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(plain.eval()(images), net.eval()(images)[:, :2])  # the same but for rounding
    runs.save_weights(tmp_path / "w.pt", strangers.facts(plain))
    other = networks.build("small", 7)
    assert runs.start_from(other, tmp_path / "w.pt", ["man", "woman"])
    with torch.inference_mode():
        torch.testing.assert_close(other.eval()(images)[:, :2], plain(images))
    assert not runs.start_from(networks.build("small", 7), tmp_path / "w.pt", ["cat", "dog"])


def test_training_with_ages_resumes_and_its_weights_hold_classes_and_ages(tmp_path):
    faces = both_splits(tmp_path / "faces")
    files = sorted((faces / "train").glob("*/*.jpg"))
    known = {f"{f.parent.name}/{f.name}": ("", "", str((5, 40)[i % 2]), "Asian" if i % 3 else "White")
             for i, f in enumerate(files)}
    tasks = ["MODEL=small", "IMAGE_SIZE=32", "AUXILIARY=('age', 'ethnicity')"]

    def start(name, *arguments):
        (tmp_path / name).mkdir(exist_ok=True)
        note(faces / "train", known)
        return run(tmp_path / name, faces, *tasks, *arguments)

    results = {}
    for name, commands in {"whole": [["EPOCHS=2"]], "stopped": [["EPOCHS=1", "PAPER=True"]],
                       "without": [["EPOCHS=2", "AUXILIARY=()"]]}.items():
        for arguments in commands:
            code, _, err = start(name, *arguments)
            assert code == 0, err
        results[name] = losses(tmp_path / name)
    assert results["whole"] != results["without"], "what is asked beside the class must change what is learned"
    net, info = classifier.load_weights(tmp_path / "whole" / "weights" / "best_weights.pt")
    assert info["ages"] == [5, 40] and net.classifier[-1].out_features == 2 + 2, "the ethnicity stays behind"
    crops = [np.full((224, 224, 3), level, np.uint8) for level in (0, 90, 255)]
    probabilities, child = classifier.Classifier(tmp_path / "whole" / "weights" / "best_weights.pt").predict(crops)
    assert probabilities.sum(1) == pytest.approx(1) and probabilities.shape == (3, 2)
    assert child == pytest.approx(strangers.plainly(net, info, crops)[1], abs=1e-3), "five years are a child's"
    last = classifier.load_checkpoint(tmp_path / "whole" / "weights" / "last.pt")
    assert len(last["net"]["classifier.3.weight"]) == 2 + 4 == len(last["ema"]["classifier.3.weight"])
    code, out, err = start("stopped", "EPOCHS=2", "PAPER=True", "RESUME=True")
    assert code == 0, err
    assert start("constant", "EPOCHS=2", "PAPER=True")[0] == 0
    assert losses(tmp_path / "stopped") == losses(tmp_path / "constant")
    for other in ("AUXILIARY=()", "EMA=0.0"):
        code, _, err = start("whole", "EPOCHS=3", "RESUME=True", other)
        assert code == 1 and f"{other.split('=')[0]} differs from that of the run" in err and err.count("\n") == 1
    known[max(known)] = ("", "", "40", "Other")
    code, _, err = start("whole", "EPOCHS=3", "RESUME=True")
    assert code == 1 and "does not fit this run" in err and err.count("\n") == 1
