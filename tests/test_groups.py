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


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A folder with a split of drawn faces, and what is known of its training crops: {name: source, person, age,
    ethnicity}."""
    folder = both_splits(tmp_path_factory.mktemp("known"))
    persons = {f"{path.parent.name}/{path.name}": ("", "", str((5, 40)[i % 2]), "Asian" if i % 3 else "White")
               for i, path in enumerate(sorted((folder / "train").glob("*/*.jpg")))}
    note(folder / "train", persons)
    return folder, persons


def train_in(folder, faces, *arguments):
    """What run() gives of a training with ages and ethnicities, whose files are in a folder."""
    folder.mkdir(exist_ok=True)
    return run(folder, faces, "MODEL=small", "IMAGE_SIZE=32", "AUXILIARY=('age', 'ethnicity')", *arguments)


@pytest.fixture(scope="module")
def trained(known, tmp_path_factory):
    """The folder of such a training of two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    code, _, err = train_in(folder, known[0], "EPOCHS=2")
    assert code == 0, err
    return folder


def test_what_is_asked_beside_the_class_changes_what_is_learned(known, trained, tmp_path):
    code, _, err = train_in(tmp_path, known[0], "EPOCHS=2", "AUXILIARY=()")
    assert code == 0, err
    assert losses(tmp_path) != losses(trained)


def test_weights_tell_classes_and_ages_and_leave_the_ethnicity_behind(trained):
    path = trained / "weights" / "best_weights.pt"
    net, info = classifier.load_weights(path)
    assert info["ages"] == [5, 40] and net.classifier[-1].out_features == 2 + 2
    crops = [np.full((224, 224, 3), level, np.uint8) for level in (0, 90, 255)]
    probabilities, child = classifier.Classifier(path).predict(crops)
    assert probabilities.sum(1) == pytest.approx(1) and probabilities.shape == (3, 2)
    assert child == pytest.approx(strangers.plainly(net, info, crops)[1], abs=1e-3), "five years are a child's"
    last = classifier.load_checkpoint(trained / "weights" / "last.pt")
    assert len(last["net"]["classifier.3.weight"]) == 2 + 4 == len(last["ema"]["classifier.3.weight"])


def test_a_training_with_ages_resumes_to_the_same_losses(known, tmp_path):
    for name, *arguments in (("stopped", "EPOCHS=1"), ("stopped", "EPOCHS=2", "RESUME=True"), ("whole", "EPOCHS=2")):
        code, _, err = train_in(tmp_path / name, known[0], "PAPER=True", *arguments)  # a constant learning rate
        assert code == 0, err
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


def test_a_resume_with_other_tasks_is_one_line(known, trained):
    faces, persons = known

    def refused(*arguments):
        code, _, err = train_in(trained, faces, "EPOCHS=3", "RESUME=True", *arguments)
        assert code == 1 and err.startswith("error: ") and err.count("\n") == 1
        return err

    assert "AUXILIARY differs from that of the run" in refused("AUXILIARY=()")
    assert "EMA differs from that of the run" in refused("EMA=0.0")
    note(faces / "train", persons | {max(persons): ("", "", "40", "Other")})  # a third ethnicity
    try:
        assert "does not fit this run" in refused()
    finally:
        note(faces / "train", persons)
