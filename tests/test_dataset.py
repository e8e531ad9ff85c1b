"""dataset.py: disk and live see the same face, augmentation differs per image, batches come back after a resume."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import dataset
import drawn
import model as networks
import strangers
from crops import crop_of, note, split
from faces import cropping
from faces.cropping import MARGIN
from learn import classifier, devices
from running import ROOT
from terminal import records


def logits(net, images):
    batch = dataset.evaluation_transform(224)(images)
    with torch.inference_mode():
        return net(batch)


def test_one_split_read_with_two_margins_stays_two(tmp_path):
    folder = split(tmp_path / "train")
    whole, narrow = dataset.Crops(folder, 64).prepare(), dataset.Crops(folder, 64, 0.0).prepare()
    before = whole[[0]][0]
    assert not torch.equal(narrow[[0]][0], before)
    assert torch.equal(dataset.Crops(folder, 64).prepare()[[0]][0], before)
    assert whole.cache != narrow.cache and whole.cache.is_file() and narrow.cache.is_file()


def test_disk_and_live_give_the_same_logits(tmp_path):
    """A photo through processed.py's file, the cache and train.py's transform, and straight through the live path."""
    torch.manual_seed(0)
    net, photo = networks.Model(2).eval(), drawn.draw_face(1, "hat")
    # Weights as large as trained ones, so that a wrong colour order would move the logits far.
    for layer in (*net.features, *net.classifier):
        if hasattr(layer, "weight"):
            torch.nn.init.kaiming_normal_(layer.weight)
    live = crop_of(photo)
    for name in ("a", "b"):
        cropping.write_crop(tmp_path / "train" / name / "x.jpg", live)
    cached, *_ = dataset.Crops(tmp_path / "train", 224).prepare()[[0]]
    decoded = cropping.read_crop(tmp_path / "train" / "a" / "x.jpg")
    assert torch.equal(logits(net, cached), logits(net, dataset.to_batch([decoded]))), "cache and file must be one"
    disk, straight = logits(net, cached), logits(net, dataset.to_batch([live]))
    swapped = logits(net, dataset.to_batch([np.ascontiguousarray(live[:, :, ::-1])]))
    jpeg, colour = (disk - straight).abs().max(), (disk - swapped).abs().max()
    assert colour > 8 * jpeg, "JPEG rounding is all that may differ; BGR taken for RGB is another picture"
    assert jpeg < 0.05 * straight.abs().max()


@pytest.mark.parametrize(("name", "flip"), [("paper", False), ("small", True), ("resnet18", True),
                                            ("mobilenet_v3_small", False)])
def test_a_classifier_gives_what_its_network_gives_plainly(name, flip, tmp_path, monkeypatch):
    """One batch and folded layers change nothing: probabilities, ages and heat maps."""
    monkeypatch.setattr(classifier, "BFLOAT16", ())
    path = strangers.lively(tmp_path / "w.pt", name, flip=flip, ages=[5, 40], temperature=2.0)
    net, facts = classifier.load_weights(path)
    loaded = classifier.Classifier(path)
    crops = [cropping.crop_face(drawn.draw_face(i, "hat"), (40, 30, 150, 150), MARGIN) for i in range(3)]
    expected, children = strangers.plainly(net, facts, crops)
    got, child = loaded.predict(crops)
    assert got.dtype == child.dtype == np.float32
    assert np.abs(got - expected).max() < 1e-4 and np.abs(child - children).max() < 1e-4
    assert np.ptp(expected, axis=0).max() > 0.02, "a test of nothing otherwise"
    mirrored = [np.ascontiguousarray(crop[:, ::-1]) for crop in crops]
    assert np.allclose(loaded.predict(mirrored)[0], got, atol=1e-4) == flip
    heat = networks.grad_cam(net, dataset.evaluation_transform(facts["image_size"])(dataset.to_batch(crops)), 1)
    assert np.abs(loaded.explain(crops, [1, 1, 1]) - heat.numpy()).max() < 1e-3
    assert loaded.predict([])[0].shape == (0, 3) and len(loaded.explain([])) == 0


def test_bfloat16_changes_little(monkeypatch):
    """The weights that ship, with bfloat16 whether this processor has instructions for it or not."""
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: True)
    loaded = classifier.Classifier(ROOT / classifier.SHIPPED)
    net, facts = classifier.load_weights(ROOT / classifier.SHIPPED)
    crops = [cropping.crop_face(drawn.draw_face(i, "hat"), (40, 30, 150, 150), loaded.margin) for i in range(8)]
    probabilities, child = loaded.predict(crops)
    expected, children = strangers.plainly(net, facts, crops)
    assert loaded.predict_net is not loaded.net
    assert 0 < np.abs(probabilities - expected).max() < 0.01 and np.abs(child - children).max() < 0.01


def test_unsure_below_the_threshold_and_for_children(tmp_path):
    loaded = classifier.Classifier(strangers.lively(tmp_path / "w.pt", "small"))
    for probabilities, child, label in (([0.1, 0.8, 0.1], 0.0, 1), ([0.1, 0.65, 0.25], 0.0, None),
                                        ([0.1, 0.8, 0.1], 0.6, None), ([0.1, 0.8, 0.1], 0.4, 1)):
        assert loaded.label(np.array(probabilities), child) == label
    assert loaded.label(np.array([0.1, 0.65, 0.25]), 0.0, threshold=0.6) == 1


def test_crops_are_cached_and_the_cache_follows_the_files(tmp_path):
    folder = split(tmp_path / "train")
    crops = dataset.Crops(folder, 224).prepare()
    images, labels, weights, auxiliary = crops[[0, 5, 7]]
    assert auxiliary.shape == (3, 0)
    assert weights.tolist() == [1, 1, 1]
    assert images.shape == (3, 3, 224, 224) and labels.tolist() == [0, 1, 1] and crops.classes == ["beard", "hat"]
    assert np.array_equal(images[1].permute(1, 2, 0).numpy(), cropping.read_crop(crops.paths[5]))
    before = crops.cache.stat().st_ino
    assert dataset.Crops(folder, 224).prepare().cache.stat().st_ino == before, "unchanged crops are not decoded again"
    white = np.full((224, 224, 3), 255, np.uint8)
    cropping.write_crop(crops.paths[0], white)
    assert dataset.Crops(folder, 224).prepare()[[0]][0].min() > 250


def test_within_a_source_all_classes_count_the_same(tmp_path):
    folder = split(tmp_path / "train")
    assert dataset.Crops(folder, 96).sources == ["all"], "a split that was made by hand"
    some = [f"{name}/{path.name}" for name, count in (("hat", 2), ("beard", 1))
            for path in sorted((folder / name).glob("*"))[:count]]
    note(folder, {name: ("news", "", "", "") for name in some})
    crops = dataset.Crops(folder, 96)
    news = torch.tensor([f"{p.parent.name}/{p.name}" in some for p in crops.paths])
    assert crops.sources == ["news", "others"] and crops.source_index.tolist() == [0 if new else 1 for new in news]
    crops.balance()
    assert crops.sample_weights.mean().item() == pytest.approx(1)
    for own in (news, ~news):
        sums = [crops.sample_weights[own & (crops.labels == c)].sum().item() for c in (0, 1)]
        assert sums[0] == pytest.approx(sums[1]) and sum(sums) == pytest.approx(own.sum().item())


def test_batches_depend_on_seed_and_epoch_alone():
    def epoch(number, seed=0):
        batches = dataset.Batches(10, 4, seed)
        batches.epoch = number
        return list(batches)

    assert epoch(3) == epoch(3) != epoch(4) and epoch(3) != epoch(3, seed=1)
    assert sorted(sum(epoch(3), [])) == list(range(10)) and [len(b) for b in epoch(1)] == [4, 4, 2]
    assert list(dataset.Batches(5, 2)) == [[0, 1], [2, 3], [4]]


def test_no_process_gets_an_empty_share_of_a_last_batch(tmp_path):
    for rank in range(3):
        batches = dataset.Batches(64 + 2, 64, seed=0, rank=rank, world=3)
        assert batches.sizes == [66] and [len(share) for share in batches] == [22]
    crops = dataset.Crops(split(tmp_path / "train"), 96)  # without the cache of pixels
    images, *_ = crops[[]]
    assert images.shape == (0, 3, 96, 96), "validation may be smaller than the number of processes"


@pytest.mark.parametrize(("n", "sizes"), [(33, [16, 17]), (34, [16, 16, 2]), (17, [17]), (16, [16]), (1, [1])])
def test_a_last_batch_of_one_joins_the_one_before(n, sizes):
    """Batch normalisation cannot learn from one value; two processes share the larger batch as any other."""
    batches = dataset.Batches(n, 16, seed=0)
    assert [len(b) for b in batches] == sizes == batches.sizes
    assert sorted(sum(batches, [])) == list(range(n))
    halves = [list(dataset.Batches(n, 16, 0, rank, 2)) for rank in (0, 1)]
    assert [len(a) + len(b) for a, b in zip(*halves, strict=True)] == sizes
    assert [len(b) for b in dataset.Batches(3, 1, seed=0)] == [1, 1, 1]


def test_a_damaged_crop_is_named_in_one_line(tmp_path):
    folder = split(tmp_path / "train", 1)
    (folder / "hat" / "0.jpg").write_bytes(b"x")
    with pytest.raises(SystemExit, match="0.jpg: not an image"):
        dataset.Crops(folder, 224).prepare()
    assert not list(tmp_path.glob(".train*")) and not list(tmp_path.glob(".tmp*"))


def batches_of(crops, epoch=3):
    loader = dataset.loader(crops, 4, 0)
    loader.sampler.epoch = epoch
    return list(loader)


@pytest.mark.parametrize(("size", "margin"), [(224, MARGIN), (64, 0.0)])
def test_beyond_the_budget_the_same_batches_come_without_a_file(tmp_path, capsys, monkeypatch, size, margin):
    folder = split(tmp_path / "train", 5)
    cached = dataset.Crops(folder, size, margin).prepare()
    assert "10 crops are" in (out := capsys.readouterr().out) and f"kept in {cached.cache.as_posix()}" in out
    kept, pixels = batches_of(cached), 10 * size * size * 3
    assert pixels < cached.cache.stat().st_size < pixels + 1000
    cached.cache.unlink()
    torch.testing.assert_close(batches_of(cached), kept, rtol=0, atol=0, msg="somebody deletes it during a training")
    monkeypatch.setattr(dataset, "CACHE_GB", (pixels - 1) / 1e9)
    other = dataset.Crops(folder, size, margin).prepare()
    assert "decoded batch by batch" in capsys.readouterr().out and other.cache is None
    assert not list(tmp_path.glob(".train*"))
    for a, b in zip(kept, batches_of(other), strict=True):
        assert all(torch.equal(x, y) and x.stride() == y.stride() for x, y in zip(a, b, strict=True))


def test_caches_that_nobody_uses_go_and_all_else_stays(tmp_path):
    """A training with another size may run at the same time: what was read within an hour stays."""
    folder, other = split(tmp_path / "train", 1), split(tmp_path / "train_96", 1)
    used, old = (dataset.Crops(folder, size).prepare() for size in (224, 96))
    elsewhere = dataset.Crops(other, 96).prepare()
    (tmp_path / ".train_note.npy").write_bytes(b"mine")
    for path in (used.cache, old.cache, elsewhere.cache, tmp_path / ".train_note.npy"):
        os.utime(path, (1, 1))
    assert len(used[[0]][0]) == 1, "reading it is using it"
    new = dataset.Crops(folder, 64).prepare()
    left = {p.name for p in tmp_path.glob(".train*")}
    assert left == {used.cache.name, elsewhere.cache.name, ".train_note.npy", new.cache.name}


def test_a_disk_without_the_room_is_said_before_anything_is_written(tmp_path, capsys, monkeypatch):
    folder, free = split(tmp_path / "train", 2), dataset.KEEP_FREE + 4 * 64 * 64 * 3
    monkeypatch.setattr(dataset.shutil, "disk_usage", lambda _: SimpleNamespace(free=free - 1))
    assert dataset.Crops(folder, 64).prepare().cache is None
    assert "decoded batch by batch" in capsys.readouterr().out and not list(tmp_path.glob(".train*"))
    monkeypatch.setattr(dataset.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert dataset.Crops(folder, 64).prepare().cache.is_file()
    monkeypatch.setattr(dataset.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert dataset.Crops(folder, 64).prepare().cache.is_file(), "what is there needs no more room"


def test_a_damaged_crop_is_named_when_its_batch_comes(tmp_path, monkeypatch):
    folder = split(tmp_path / "train", 1)
    monkeypatch.setattr(dataset, "CACHE_GB", 0.0)
    crops = dataset.Crops(folder, 64).prepare()
    (folder / "hat" / "0.jpg").write_bytes(b"x")
    with pytest.raises(SystemExit, match="0.jpg: not an image"):
        batches_of(crops)


def test_a_split_on_a_read_only_disk_is_decoded_batch_by_batch(tmp_path, monkeypatch, capsys):
    folder = split(tmp_path / "train")
    kept = dataset.Crops(folder, 64).prepare()
    before = kept[[0, 1]][0]
    kept.cache.unlink()
    (tmp_path / records.RECORD).unlink()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and access(path, mode))  # root may all
    os.chmod(tmp_path, 0o555)
    try:
        crops = dataset.Crops(folder, 64).prepare()
        assert crops.cache is None and "read-only: decoded batch by batch" in capsys.readouterr().out
        assert torch.equal(crops[[0, 1]][0], before) and [path.name for path in tmp_path.iterdir()] == ["train"]
    finally:
        os.chmod(tmp_path, 0o755)


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY\x01\x00", None])
def test_a_cache_that_a_power_cut_has_cut_is_written_anew(tmp_path, data):
    folder = split(tmp_path / "train", 1)
    whole = dataset.Crops(folder, 64).prepare(quiet=True)
    first, cache = whole[[0, 1]][0], whole.cache
    cache.write_bytes(cache.read_bytes()[:-100] if data is None else data)
    assert torch.equal(dataset.Crops(folder, 64).prepare(quiet=True)[[0, 1]][0], first)


def test_crops_that_the_split_does_not_have_are_refused(tmp_path):
    folder = split(tmp_path / "train", 1)
    note(folder, {})
    dataset.Crops(folder, 64)
    (folder / "hat" / "of another split.jpg").write_bytes((folder / "hat" / "0.jpg").read_bytes())
    with pytest.raises(SystemExit, match="hat/of another split.jpg is not in the split .* run 'python validation.py'"):
        dataset.Crops(folder, 64)


def test_crops_whose_names_have_accents_of_their_own_are_of_the_split(tmp_path):
    folder, decomposed = split(tmp_path / "train", 1), "jose\u0301.jpg"
    (folder / "hat" / "0.jpg").rename(folder / "hat" / decomposed)
    note(folder, {f"hat/{decomposed}": ("news", "", "", "")})
    assert [person.source for person in dataset.Crops(folder, 64).known] == ["", "news"]


def test_a_process_without_rows_in_a_batch_gets_an_empty_one_from_a_gpu(faces):
    crops = dataset.Crops(faces / "valid", 32)
    crops.on_gpu = torch.zeros(crops.shape, dtype=torch.uint8)  # stands in for the memory of a GPU
    images = crops[[]][0]
    assert images.shape == (0, 3, 32, 32)
