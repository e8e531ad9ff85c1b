"""dataset.py: disk and live see the same face, augmentation differs per image, batches come back after a resume."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import dataset
import drawn
import model as networks
import strangers
from faces import cropping, detectors
from faces.cropping import MARGIN
from learn import classifier, engine


def face(seed=0, name="hat"):
    return drawn.draw_face(np.random.default_rng(seed), name)


def split(folder, count=4):
    """A split of crops of drawn faces, as validation.py leaves it."""
    for name in drawn.CLASSES:
        for i in range(count):
            image = face(i, name)
            crop = cropping.crop_face(image, detectors.get("haar").main_face(image).box, MARGIN)
            cropping.write_crop(folder / name / f"{i}.jpg", crop)
    return folder


def both_splits(folder, train=4, valid=2):
    """folder/train and folder/valid, so many crops a class each."""
    split(folder / "train", train)
    split(folder / "valid", valid)
    return folder


def logits(net, images):
    batch = dataset.evaluation_transform(224)(images)
    with torch.inference_mode():
        return net(batch)


def test_one_split_read_with_two_margins_stays_two(tmp_path):
    folder = split(tmp_path / "train")
    whole, narrow = dataset.Crops(folder, 64).decode(), dataset.Crops(folder, 64, 0.0).decode()
    before = whole[[0]][0]
    assert not torch.equal(narrow[[0]][0], before)
    assert torch.equal(dataset.Crops(folder, 64).decode()[[0]][0], before)
    assert whole.path != narrow.path and whole.path.is_file() and narrow.path.is_file()


def test_disk_and_live_give_the_same_logits(tmp_path):
    """A photo through processed.py's file, the cache and train.py's transform, and straight through the live path."""
    torch.manual_seed(0)
    net, photo = networks.Model(2).eval(), face(1)
    # Weights as large as trained ones, so that a wrong colour order would move the logits far.
    for layer in (*net.features, *net.classifier):
        if hasattr(layer, "weight"):
            torch.nn.init.kaiming_normal_(layer.weight)
    live = cropping.crop_face(photo, detectors.get("haar").main_face(photo).box, MARGIN)
    for name in ("a", "b"):
        cropping.write_crop(tmp_path / "train" / name / "x.jpg", live)
    cached, *_ = dataset.Crops(tmp_path / "train", 224).decode()[[0]]
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
    crops = [cropping.crop_face(face(i), (40, 30, 150, 150), MARGIN) for i in range(3)]
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
    monkeypatch.setattr(engine, "hardware", lambda *_: (torch.device("cpu"), True))
    loaded = classifier.Classifier(classifier.SHIPPED)
    net, facts = classifier.load_weights(classifier.SHIPPED)
    crops = [cropping.crop_face(face(i), (40, 30, 150, 150), loaded.margin) for i in range(8)]
    probabilities, child = loaded.predict(crops)
    expected, children = strangers.plainly(net, facts, crops)
    assert loaded.fast is not loaded.net
    assert 0 < np.abs(probabilities - expected).max() < 0.01 and np.abs(child - children).max() < 0.01


def test_unsure_below_the_threshold_and_for_children(tmp_path):
    loaded = classifier.Classifier(strangers.lively(tmp_path / "w.pt", "small"))
    for probabilities, child, label in (([0.1, 0.8, 0.1], 0.0, 1), ([0.1, 0.65, 0.25], 0.0, None),
                                        ([0.1, 0.8, 0.1], 0.6, None), ([0.1, 0.8, 0.1], 0.4, 1)):
        assert loaded.label(np.array(probabilities), child) == label
    assert loaded.label(np.array([0.1, 0.65, 0.25]), 0.0, threshold=0.6) == 1


def test_evaluation_transform_normalises_rgb():
    image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    image[:, 0] = 255
    out = dataset.evaluation_transform(2)(image)
    expected = (torch.tensor([1.0, 0, 0]) - torch.tensor(dataset.MEAN)) / torch.tensor(dataset.STD)
    torch.testing.assert_close(out[0, :, 1, 1], expected)
    assert out.shape == (1, 3, 2, 2) and out.dtype == torch.float32


def test_crops_are_cached_and_the_cache_follows_the_files(tmp_path):
    folder = split(tmp_path / "train")
    crops = dataset.Crops(folder, 224).decode()
    images, labels, weights, auxiliary = crops[[0, 5, 7]]
    assert auxiliary.shape == (3, 0)
    crops.hold("cpu", 1e6)
    assert crops.held is None, "a device without room for them"
    crops.hold("cpu", 1e9)
    assert torch.equal(crops[[0, 5, 7]][0], images) and crops[[0, 5, 7]][1].tolist() == labels.tolist()
    assert weights.tolist() == [1, 1, 1]
    assert images.shape == (3, 3, 224, 224) and labels.tolist() == [0, 1, 1] and crops.classes == ["beard", "hat"]
    assert np.array_equal(images[1].permute(1, 2, 0).numpy(), cropping.read_crop(crops.files[5]))
    before = crops.path.stat().st_mtime_ns
    dataset.Crops(folder, 224).decode()
    assert crops.path.stat().st_mtime_ns == before, "unchanged crops are not decoded again"
    white = np.full((224, 224, 3), 255, np.uint8)
    cropping.write_crop(crops.files[0], white)
    assert dataset.Crops(folder, 224).decode()[[0]][0].min() > 250


def test_within_a_source_all_classes_count_the_same(tmp_path):
    folder = split(tmp_path / "train")
    for path in sorted((folder / "hat").glob("*"))[:2]:
        path.rename(path.with_name(f"news-{path.name}"))
    for path in sorted((folder / "beard").glob("*"))[:1]:
        path.rename(path.with_name(f"news-{path.name}"))
    crops = dataset.Crops(folder, 96).decode()
    source = dataset.sources_of(crops, ("news-",))
    news = torch.tensor([p.name.startswith("news-") for p in crops.files])
    assert source.tolist() == [0 if new else -1 for new in news]
    for even, shares in ((0.0, (news.float().mean(), 1 - news.float().mean())), (1.0, (0.5, 0.5))):
        dataset.weigh(crops, source, even)
        assert crops.weights.mean().item() == pytest.approx(1)
        for some, share in zip((news, ~news), shares, strict=True):
            sums = [crops.weights[some & (crops.labels == c)].sum().item() for c in (0, 1)]
            assert sums[0] == pytest.approx(sums[1]) and sum(sums) == pytest.approx(float(share) * len(news))


def test_batches_depend_on_seed_and_epoch_alone():
    def epoch(number, seed=0):
        batches = dataset.Batches(10, 4, seed)
        batches.epoch = number
        return list(batches)

    assert epoch(3) == epoch(3) != epoch(4) and epoch(3) != epoch(3, seed=1)
    assert sorted(sum(epoch(3), [])) == list(range(10)) and [len(b) for b in epoch(1)] == [4, 4, 2]
    assert list(dataset.Batches(5, 2)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(("n", "sizes"), [(33, [16, 17]), (34, [16, 16, 2]), (17, [17]), (16, [16]), (1, [1])])
def test_a_last_batch_of_one_joins_the_one_before(n, sizes):
    """Batch normalisation cannot learn from one value; two processes share the larger batch as any other."""
    batches = dataset.Batches(n, 16, seed=0)
    assert [len(b) for b in batches] == sizes == [batches.share(step)[1] for step in range(len(batches))]
    assert sorted(sum(batches, [])) == list(range(n))
    halves = [list(dataset.Batches(n, 16, 0, rank, 2)) for rank in (0, 1)]
    assert [len(a) + len(b) for a, b in zip(*halves, strict=True)] == sizes
    assert [len(b) for b in dataset.Batches(3, 1, seed=0)] == [1, 1, 1]


def test_crops_are_decoded_when_asked(tmp_path):
    crops = dataset.Crops(split(tmp_path / "train", 1), 64)
    assert len(crops) == 2 and not crops.path.exists()
    assert crops.decode() is crops and crops.path.is_file()


def test_a_damaged_crop_is_named_in_one_line(tmp_path):
    folder = split(tmp_path / "train", 1)
    (folder / "hat" / "0.jpg").write_bytes(b"x")
    with pytest.raises(SystemExit, match="0.jpg: not an image"):
        dataset.Crops(folder, 224).decode()


def batches_of(loader, epoch=3):
    loader.sampler.epoch = epoch
    return list(loader)


@pytest.mark.parametrize(("size", "margin"), [(224, MARGIN), (64, 0.0)])
def test_beyond_the_budget_the_same_batches_come_without_a_file(tmp_path, capsys, size, margin):
    folder = split(tmp_path / "train", 5)
    cached = dataset.loader(folder, size, 4, 0, margin=margin)
    assert "10 crops are" in (said := capsys.readouterr().out) and f"kept in {cached.dataset.path}" in said
    kept = batches_of(cached)
    assert cached.dataset.path.stat().st_size == 10 * size * size * 3
    other = dataset.loader(folder, size, 4, 0, margin=margin, budget=10 * size * size * 3 - 1)
    assert "GB are allowed: decoded batch by batch" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train"], "its file is not left behind"
    for a, b in zip(kept, batches_of(other), strict=True):
        assert all(torch.equal(x, y) and x.stride() == y.stride() for x, y in zip(a, b, strict=True))
    held = dataset.loader(folder, size, 4, 0, margin=margin, budget=0).dataset
    held.hold("cpu", 1e9)
    assert held.held is not None and torch.equal(held[[2, 7]][0], other.dataset[[2, 7]][0])


def test_caches_of_other_sizes_go_and_all_else_stays(tmp_path):
    folder, other = split(tmp_path / "train", 1), split(tmp_path / "train_96", 1)
    for place, size, margin in ((folder, 224, MARGIN), (folder, 96, 0.1), (other, 64, MARGIN), (folder, 64, 0.0)):
        dataset.Crops(place, size, margin).decode()
    (tmp_path / ".train_note.pixels").write_bytes(b"mine")
    dataset.loader(folder, 64, 2)
    assert {p.name for p in tmp_path.iterdir()} == {
        "train", "train_96", ".train_note.pixels", ".train_96_64.pixels", ".train_96_64.json", ".train_64.pixels",
        ".train_64.json", ".train_64_0.pixels", ".train_64_0.json"}


def test_a_disk_without_the_room_is_said_before_anything_is_written(tmp_path, capsys, monkeypatch):
    folder, free = split(tmp_path / "train", 2), dataset.KEEP_FREE + 4 * 64 * 64 * 3
    monkeypatch.setattr(dataset.shutil, "disk_usage", lambda _: SimpleNamespace(free=free - 1))
    crops = dataset.loader(folder, 64, 2).dataset
    assert "GB are free: decoded batch by batch" in capsys.readouterr().out and not crops.path.exists()
    monkeypatch.setattr(dataset.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert dataset.loader(folder, 64, 2).dataset.path.is_file()
    monkeypatch.setattr(dataset.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert dataset.loader(folder, 64, 2).dataset.path.is_file(), "what is there needs no more room"


def test_a_cache_that_another_run_removes_is_not_missed(tmp_path):
    crops = dataset.loader(split(tmp_path / "train", 2), 64, 2).dataset
    before = crops[[3, 0]][0]
    dataset.loader(tmp_path / "train", 32, 2)
    assert not crops.path.exists() and torch.equal(crops[[3, 0]][0], before)


def test_a_damaged_crop_is_named_when_its_batch_comes(tmp_path):
    folder = split(tmp_path / "train", 1)
    batches = dataset.loader(folder, 64, 2, budget=0)
    (folder / "hat" / "0.jpg").write_bytes(b"x")
    with pytest.raises(SystemExit, match="0.jpg: not an image"):
        list(batches)
