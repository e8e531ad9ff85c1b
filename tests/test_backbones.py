"""networks.py: torchvision's networks through train.py, test.py and realtime.py; ImageNet weights and the warm-up."""

import csv
import json
import urllib.error

import numpy as np
import pytest
import torch
from torchvision import models

import drawn
import model as networks
import photos
import realtime
import test as step4
import train
from crops import both_splits, note
from faces import detectors, reading
from learn import classifier, runs
from live import stills
from live.controls import Controls
from live.results import Results
from live.window import Window
from running import settle
from strangers import facts
from terminal import script

KINDS = tuple(networks.BACKBONES)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """processed/train (16 crops) and processed/valid (4) of drawn faces."""
    return both_splits(tmp_path_factory.mktemp("faces"), train=8)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No test asks the internet, nor finds what someone fetched before; 64 pixels instead of 224 save minutes."""
    def refuse(*_, **__):
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(networks.Backbone, "image_size", 64)
    monkeypatch.setattr(runs, "plot", lambda *_: None)  # drawn elsewhere, and slow


def run(monkeypatch, faces, folder, **constants):
    """train.main() with constants as a command line would set them. Returns the losses of log.csv."""
    settings = {"TRAIN_DIR": faces / "train", "VALID_DIR": faces / "valid", "WEIGHTS_DIR": folder / "weights",
                "PLOTS_DIR": folder / "plots", "BATCH_SIZE": 8, "PRECISION": "float32", **constants}
    settle(train, monkeypatch, *(f"{name}={value}" for name, value in settings.items()))
    train.main()
    with open(folder / "plots" / "log.csv", encoding="utf-8") as file:
        return [tuple(row[c] for c in ("epoch", "train_loss", "valid_loss")) for row in csv.DictReader(file)]


def originals(monkeypatch, name, folder):
    """Stands in for a download: torchvision's own file in torch's cache, with random weights. Returns its state."""
    torch.manual_seed(7)
    state = models.get_model(name, weights=None).state_dict()
    for key, value in state.items():
        if key.endswith("running_mean"):
            value += 0.1
    cache = folder / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(state, cache / models.get_model_weights(name).DEFAULT.url.rsplit("/", 1)[-1])
    return state


def features_of(net, state):
    """What of torchvision's state dict belongs to the features of a Backbone, by the names there."""
    return {k: state.get(f"features.{k}", state.get(k)) for k in net.features.state_dict()}


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0"])
def test_features_are_torchvisions(name):
    """With the same weights, the original and ours give the same activations before the head."""
    net, original = networks.build(name, 2).eval(), models.get_model(name, weights=None).eval()
    net.features.load_state_dict(features_of(net, original.state_dict()))
    last = original.avgpool if hasattr(original, "avgpool") else original.features
    seen = []
    last.register_forward_hook(lambda module, inputs, output: seen.append(output))
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        original(x)
        pooled = net.features(x).mean((2, 3))
    torch.testing.assert_close(pooled, seen[0].mean((2, 3)))


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    """Every backbone after an epoch from random weights: folder with <name>/weights."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks.Backbone, "image_size", 64)
        patch.setattr(runs, "plot", lambda *_: None)
        note(faces / "train", {}, clahe=2.0)
        patch.setattr(networks, "load_imagenet", lambda net: "none here")
        for name in KINDS:
            run(patch, faces, folder / name, MODEL=name, EPOCHS=1)
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_each_is_trained_saved_and_runs_live(name, trained, tmp_path, capsys):
    net, info = classifier.load_weights(trained / name / "weights" / "best_weights.pt")
    assert isinstance(net, networks.Backbone) and net.name == info["model"] == name and info["image_size"] == 64
    assert info["clahe"] == 2.0, "what the crops were made with is told with the weights"
    assert (trained / name / "weights" / "best_weights.pt").stat().st_size < 31e6

    photo = photos.save(tmp_path / "photos" / "x.png", drawn.draw_face(1, "hat"))
    threads = torch.get_num_threads()
    loaded = realtime.load(str(trained / name / "weights" / "best_weights.pt"))
    torch.set_num_threads(threads)
    album = stills.album(photo, str(tmp_path / "out"))
    counts = stills.annotate(album, loaded, Controls(), Results(), detectors.get("haar"), Window(False))
    assert counts["faces"] >= 1 and (tmp_path / "out" / "x.png").is_file()
    crop = reading.read_photo(photo)[:224, :224]
    heat = loaded.explain([crop, crop])
    assert heat.shape == (2, 64, 64) and np.isfinite(heat).all() and heat.max() <= 1


def test_test_compares_them(trained, tmp_path, monkeypatch, capsys):
    for name in ("beard", "hat"):
        for i in range(3):
            photos.save(tmp_path / "photos" / name / f"{i}.png", drawn.draw_face(50 + i, name))
    settle(step4, monkeypatch, f"TEST_DIR={tmp_path / 'photos'}", f"PLOTS_DIR={tmp_path / 'plots'}", "PEOPLE=none",
           f"WEIGHTS={trained}/*/weights/best_weights.pt")
    step4.main()
    told = json.loads((tmp_path / "plots" / "test_metrics.json").read_text(encoding="utf-8"))
    assert {row["weights"].split("/")[-3] for row in told["epochs"]} == set(KINDS)
    assert all(np.isfinite(row["loss"]) for row in told["epochs"])


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_the_first_epoch_leaves_the_features_alone_and_a_resume_changes_nothing(name, faces, tmp_path, monkeypatch):
    state = originals(monkeypatch, name, tmp_path)
    settings = {"MODEL": name, "EPOCHS": 3, "EMA": 0.0}
    kept, save = {}, runs.save_weights

    def spy(path, checkpoint):
        if path.name == "last.pt":
            kept[checkpoint["epoch"]] = {k: v.clone() for k, v in checkpoint["net"].items()}
        save(path, checkpoint)

    monkeypatch.setattr(runs, "save_weights", spy)
    whole = run(monkeypatch, faces, tmp_path / "whole", **settings)
    own = features_of(networks.build(name, 2), state)
    assert all(torch.equal(kept[1][f"features.{k}"], v) for k, v in own.items()), "weights or statistics moved"
    moved = [k for k, v in own.items() if not torch.equal(kept[2][f"features.{k}"], v)]
    assert any("running_mean" in k for k in moved) and any(k.endswith("weight") for k in moved)

    evaluate, calls = train.evaluate, []

    def stopped(*arguments):
        calls.append(1)
        if len(calls) == 2:  # in the second epoch, with the first on disk
            raise KeyboardInterrupt
        return evaluate(*arguments)

    monkeypatch.setattr(train, "evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, faces, tmp_path / "halves", **settings)
    monkeypatch.setattr(networks, "load_imagenet", lambda net: pytest.fail("a resumed run needs no download"))
    assert run(monkeypatch, faces, tmp_path / "halves", RESUME=True, **settings) == whole


def test_a_resume_draws_the_same_dropout(faces, tmp_path, monkeypatch):
    """Small has dropout too: epoch 2 must not depend on whether epoch 1 ran in the same process."""
    settings = {"MODEL": "small", "PAPER": True}
    whole = run(monkeypatch, faces, tmp_path / "whole", EPOCHS=2, **settings)
    run(monkeypatch, faces, tmp_path / "halves", EPOCHS=1, **settings)
    assert run(monkeypatch, faces, tmp_path / "halves", EPOCHS=2, RESUME=True, **settings) == whole


def weights_file(path, classes):
    """The network "small" with random weights, as a file that START can name. Returns it."""
    torch.manual_seed(3)
    net = networks.build("small", len(classes)).eval()
    runs.save_weights(path, facts(net, classes=classes))
    return net


def test_training_goes_on_from_a_weights_file_at_another_size(faces, tmp_path, monkeypatch):
    """With next to no learning rate, what comes out is what went in; and it is used at the size it was trained at."""
    state = weights_file(tmp_path / "start.pt", ["beard", "hat"]).state_dict()
    run(monkeypatch, faces, tmp_path, MODEL="small", EPOCHS=1, LR=1e-9, EMA=0.0, IMAGE_SIZE=64,
        START=tmp_path / "start.pt")
    last = classifier.load_checkpoint(tmp_path / "weights" / "last.pt")
    learned = [k for k, v in state.items() if v.is_floating_point() and "running" not in k]
    assert len(learned) > 20
    for name in learned:
        torch.testing.assert_close(last["net"][name], state[name], atol=1e-6, rtol=0)
    loaded = classifier.Classifier(tmp_path / "weights" / "best_weights.pt")
    assert loaded.image_size == 64 and loaded.flip is True
    shapes = []
    loaded.predict_net.features.register_forward_pre_hook(lambda module, inputs: shapes.append(inputs[0].shape))
    assert loaded.predict([np.zeros((224, 224, 3), np.uint8)])[0].shape == (1, 2)
    assert shapes == [(2, 3, 64, 64)], "the crop and its mirror image in one batch"


def test_other_classes_get_a_new_head_that_learns_alone_at_first(faces, tmp_path, monkeypatch):
    state = weights_file(tmp_path / "start.pt", ["cap", "glasses", "none"]).state_dict()
    run(monkeypatch, faces, tmp_path, MODEL="small", EPOCHS=1, EMA=0.0, START=tmp_path / "start.pt")
    last = classifier.load_checkpoint(tmp_path / "weights" / "last.pt")
    assert last["classes"] == ["beard", "hat"] and last["net"]["classifier.3.weight"].shape == (2, 192)
    assert all(torch.equal(last["net"][k], v) for k, v in state.items() if k.startswith("features."))


@pytest.mark.parametrize(("settings", "line"), [
    ({"MODEL": "paper"}, "is a small network and this run trains paper: choose another START, or MODEL=small"),
    ({"MODEL": "small", "START": "none.pt"}, "no weights at none.pt"),
    ({"MODEL": "paper", "IMAGE_SIZE": 112, "START": None}, "IMAGE_SIZE=112: must be .*224, the only size"),
    ({"MODEL": "small", "IMAGE_SIZE": 8}, "IMAGE_SIZE=8: must be ")])
def test_a_wrong_start_or_size_is_one_line(settings, line, faces, tmp_path, monkeypatch):
    weights_file(tmp_path / "start.pt", ["beard", "hat"])
    with pytest.raises((script.Problem, SystemExit), match=line):
        run(monkeypatch, faces, tmp_path, EPOCHS=1, **{"START": tmp_path / "start.pt", **settings})
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize("kind", ["no network", "damaged file", "other file"])
def test_without_imagenet_weights_it_says_so_and_trains(kind, faces, tmp_path, monkeypatch, capsys):
    if kind != "no network":
        cache = tmp_path / "torch" / "hub" / "checkpoints" / "mobilenet_v3_small-047dcff4.pth"
        cache.parent.mkdir(parents=True)
        torch.save({"x": torch.zeros(1)}, cache)
        if kind == "damaged file":
            cache.write_bytes(cache.read_bytes()[:100])
    losses = run(monkeypatch, faces, tmp_path, MODEL="mobilenet_v3_small", EPOCHS=1)
    lines = [line for line in capsys.readouterr().out.splitlines() if "ImageNet" in line]
    assert len(lines) == 1 and "it starts from random weights" in lines[0] and "checkpoints" in lines[0]
    assert len(losses) == 1
    assert classifier.load_checkpoint(tmp_path / "weights" / "last.pt")["head_epochs"] == 0


def test_networks_of_our_own_ask_for_nothing(faces, tmp_path, monkeypatch, capsys):
    run(monkeypatch, faces, tmp_path, MODEL="small", EPOCHS=1)
    assert "ImageNet" not in capsys.readouterr().out


def test_reading_weights_never_downloads(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("a download"))
    net = networks.build("mobilenet_v3_small", 2)
    runs.save_weights(tmp_path / "a.pt", facts(net, model="mobilenet_v3_small", image_size=64))
    again, _ = classifier.load_weights(tmp_path / "a.pt")
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
