"""augment.py: every image changes by its own draw, alike in any share of a batch, and as a camera would change it."""

import cv2
import numpy as np
import pytest
import torch

import dataset
from faces import cropping, detectors
from faces.cropping import MARGIN
from learn import augment, augment_gpu
from test_dataset import face


def shown(images, kind, generator, *share):
    """augment.augment() as pixels: float32 [N, 3, S, S] in 0..1."""
    out = augment.augment(images, kind, generator, *share)
    assert out.is_contiguous(memory_format=torch.channels_last) and out.dtype == torch.float32
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (dataset.MEAN, dataset.STD))
    out = out * std + mean
    assert out.min() > -1e-5 and out.max() < 1 + 1e-5
    return out


def as_a_gpu_would(images, kind, generator):
    """augment_gpu.augment() on the CPU, without noise, of which each device has its own."""
    rules = augment.AUGMENTATIONS[kind]
    hit, u = augment.draw(rules, generator, len(images), slice(None))
    hit.pop("noise", None)
    return augment_gpu.augment(rules, images, augment.table_of(rules, u), hit, u["occlude"], None, {})


@pytest.mark.parametrize("kind", ["face", "paper", "occlusion"])
def test_a_gpu_changes_images_as_a_cpu_does(monkeypatch, kind):
    """Image by image, as bytes and with OpenCV, or all at once: the same faces come out, but for rounding."""
    crop = cropping.crop_face(face(), detectors.get("haar").main_face(face()).box, MARGIN)
    for side in (224, 96):
        images = dataset.to_batch([cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)] * 64)
        there = as_a_gpu_would(images, kind, dataset.generator_for(side))
        monkeypatch.setitem(augment.AUGMENTATIONS, "quiet", {**augment.AUGMENTATIONS[kind], "noise": 0})
        here = augment.augment(images, "quiet", dataset.generator_for(side))
        differ = (there - here).abs().mean((1, 2, 3))
        assert differ.mean() < 0.02 and differ.max() < 0.06, "in standard deviations: a byte or two of 0..255"
        others = (there - there.roll(1, 0)).abs().mean((1, 2, 3))
        assert (others > 4 * differ).all(), "which is nothing beside what they were changed by"


def test_changes_recorded_for_a_gpu_may_repeat_an_image(monkeypatch):
    """A CUDA graph changes always as many images; the last one stands for those that are missing."""
    def recorded(rules, shape, dtype, device, lengths):
        def run(images, table, index):
            index = dict(zip(dict(lengths), index.split([n for _, n in lengths]), strict=True))
            return augment_gpu.change_all(dict(rules), images, table, index, None)

        return run

    monkeypatch.setattr(augment_gpu, "recorded", recorded)
    rules = {k: v for k, v in augment.AUGMENTATIONS["face"].items() if k not in ("noise", "occlude")}
    images = torch.randint(0, 256, (64, 3, 96, 96), dtype=torch.uint8, generator=dataset.generator_for(0))
    hit, u = augment.draw(rules, dataset.generator_for(1), 64, slice(None))
    table, index = augment.table_of(rules, u), {name: np.flatnonzero(mask) for name, mask in hit.items()}
    lengths = {name: len(one) + 3 for name, one in index.items()}
    plain = augment_gpu.augment(rules, images, table, hit, u["occlude"], None, {})
    assert torch.equal(augment_gpu.replayed(rules, images, table, index, None, lengths), plain)


@pytest.mark.parametrize("kind", ["face", "paper"])
def test_every_image_of_a_batch_has_its_own_draw(kind):
    crop = cropping.crop_face(face(), detectors.get("haar").main_face(face()).box, MARGIN)
    batch = dataset.to_batch([crop] * 8)
    out = shown(batch, kind, dataset.generator_for(0))
    assert out.shape == (8, 3, 224, 224)
    assert all((out[i] - out[j]).abs().mean() > 0.005 for i in range(8) for j in range(i))
    assert torch.equal(out, shown(batch, kind, dataset.generator_for(0)))
    assert not torch.equal(out, shown(batch, kind, dataset.generator_for(1)))


def test_no_augmentation_changes_nothing():
    batch = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(shown(batch, "none", dataset.generator_for(0)), batch / 255)


def test_faces_stay_upright(monkeypatch):
    """The paper's mistake: training on faces upside down. With only the geometry on, the top stays the top."""
    rules = {k: v for k, v in augment.AUGMENTATIONS["face"].items() if k in ("mirror", "rotate", "zoom", "shift")}
    monkeypatch.setitem(augment.AUGMENTATIONS, "face", {**rules, "light": 0, "contrast": 0, "cast": 0})
    batch = torch.zeros(64, 3, 64, 64, dtype=torch.uint8)
    batch[:, :, :32] = 255
    out = shown(batch, "face", dataset.generator_for(0))
    assert (out[:, :, :16].mean((1, 2, 3)) > out[:, :, -16:].mean((1, 2, 3)) + 0.8).all()


def test_rows_of_a_batch_are_augmented_as_within_it():
    """What makes two processes train as one."""
    batch = torch.randint(0, 256, (9, 3, 64, 64), dtype=torch.uint8, generator=dataset.generator_for(1))
    whole = shown(batch, "face", dataset.generator_for(2))
    for rank in (0, 1):
        rows = slice(rank, None, 2)
        assert torch.equal(shown(batch[rows], "face", dataset.generator_for(2), rows, 9), whole[rows])


@pytest.mark.parametrize("size", [64, 10, 1])
def test_a_share_of_every_batch_is_changed(monkeypatch, size):
    """As many as the chance says, no image more often than another, one kind of change apart from the next."""
    monkeypatch.setitem(augment.AUGMENTATIONS, "face", {"gray": 0.25, "erase": 0.5})
    batch = torch.zeros(size, 3, 32, 32, dtype=torch.uint8)
    batch[:, 0] = 255
    gray, erased = torch.zeros(size), torch.zeros(size)
    both, rounds = 0, 400
    for seed in range(rounds):
        out = shown(batch, "face", dataset.generator_for(seed))
        red = out[:, :, 0, 0].sub(torch.tensor([1.0, 0, 0])).abs().amax(1) < 1e-3
        level = out.flatten(2).mode(2).values  # of most pixels: what is erased is smaller
        grays = (level[:, 0] - level[:, 1]).abs() < 1e-3
        changed = (out != out[:, :, :1, :1]).flatten(1).any(1) | ~red & ~grays
        assert abs(int(grays.sum()) - size / 4) < 1
        gray, erased, both = gray + grays, erased + changed, both + int((grays & changed).sum())
    assert gray.sum() / size / rounds == pytest.approx(0.25, abs=0.05)
    assert erased.sum() / size / rounds == pytest.approx(0.5, abs=0.07)
    assert gray.max() < 0.4 * rounds and gray.min() > 0.12 * rounds
    assert both / size / rounds == pytest.approx(0.125, abs=0.05)


@pytest.mark.parametrize("quality", [20, 50, 80])
def test_jpeg_leaves_what_an_encoder_leaves(quality):
    crop = cropping.crop_face(face(), detectors.get("haar").main_face(face()).box, MARGIN)
    photo = crop[:200, :200]  # not a multiple of 16
    _, data = cv2.imencode(".jpg", cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    coded = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB).astype(np.float32)
    ours = augment_gpu.jpeg(dataset.to_batch([photo]).float(), torch.tensor([float(quality)]))
    ours = ours[0].permute(1, 2, 0).numpy()
    assert ours.shape == coded.shape
    damage = np.abs(coded - photo).mean()
    assert np.abs(ours - coded).mean() < min(1.2, 0.6 * damage), "rounding alone may differ"


def test_images_of_a_batch_get_their_own_quality():
    photo = cropping.crop_face(face(), detectors.get("haar").main_face(face()).box, MARGIN)
    batch, qualities = dataset.to_batch([photo, photo]).float(), torch.tensor([20.0, 80.0])
    damage = (augment_gpu.jpeg(batch, qualities) - batch).abs().mean((1, 2, 3))
    assert damage[0] > 1.5 * damage[1]
