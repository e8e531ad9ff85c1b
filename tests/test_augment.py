"""augment.py: every image changes by its own draw, alike in any share of a batch, and as a camera would change it."""

import cv2
import pytest
import torch

import dataset
import drawn
from crops import crop_of
from learn import augment


def shown(images, kind, generator, *share):
    """augment.augment() as pixels: float32 [N, 3, S, S] in 0..1."""
    out = augment.augment(images, kind, generator, *share)
    assert out.is_contiguous(memory_format=torch.channels_last) and out.dtype == torch.float32
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (dataset.MEAN, dataset.STD))
    out = out * std + mean
    assert out.min() > -1e-5 and out.max() < 1 + 1e-5
    return out


@pytest.mark.parametrize("kind", ["face", "occlusion", "paper"])
def test_every_image_of_a_batch_has_its_own_draw(kind):
    batch = dataset.to_batch([crop_of(drawn.draw_face(0, "hat"))] * 8)
    out = shown(batch, kind, dataset.generator_for(0))
    assert out.shape == (8, 3, 224, 224)
    assert all((out[i] - out[j]).abs().mean() > 0.005 for i in range(8) for j in range(i))
    assert torch.equal(out, shown(batch, kind, dataset.generator_for(0)))
    assert not torch.equal(out, shown(batch, kind, dataset.generator_for(1)))


def test_no_augmentation_is_what_evaluation_sees():
    batch = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(shown(batch, "none", dataset.generator_for(0)), batch / 255)
    torch.testing.assert_close(augment.augment(batch, "none", dataset.generator_for(0)),
                               dataset.evaluation_transform(8)(batch))


def test_faces_stay_upright(monkeypatch):
    """The paper's mistake: training on faces upside down. With only the geometry on, the top stays the top."""
    rules = {k: v for k, v in augment.AUGMENTATIONS["face"].items() if k in ("mirror", "rotate", "zoom", "shift")}
    monkeypatch.setitem(augment.AUGMENTATIONS, "face", {**rules, "light": 0, "contrast": 0, "cast": 0})
    batch = torch.zeros(64, 3, 64, 64, dtype=torch.uint8)
    batch[:, :, :32] = 255
    out = shown(batch, "face", dataset.generator_for(0))
    assert (out[:, :, :16].mean((1, 2, 3)) > out[:, :, -16:].mean((1, 2, 3)) + 0.8).all()


@pytest.mark.parametrize("kind", ["face", "occlusion"])
def test_rows_of_a_batch_are_augmented_as_within_it(kind):
    """What makes two processes train as one."""
    batch = torch.randint(0, 256, (9, 3, 64, 64), dtype=torch.uint8, generator=dataset.generator_for(1))
    whole = shown(batch, kind, dataset.generator_for(2))
    for rank in (0, 1):
        rows = slice(rank, None, 2)
        assert torch.equal(shown(batch[rows], kind, dataset.generator_for(2), rows, 9), whole[rows])


def test_each_effect_changes_its_share_of_the_images(monkeypatch):
    """No more often than the rules say, and one effect apart from the next."""
    monkeypatch.setitem(augment.AUGMENTATIONS, "face", {"gray": 0.25, "erase": 0.5})
    batch = torch.zeros(4000, 3, 16, 16, dtype=torch.uint8)
    batch[:, 0] = 255
    out = shown(batch, "face", dataset.generator_for(0))
    level = out.flatten(2).mode(2).values  # of most pixels: what is erased is smaller
    gray = (level[:, 0] - level[:, 1]).abs() < 1e-3
    erased = ((out - level[:, :, None, None]).abs() > 1e-3).flatten(1).any(1)
    assert gray.float().mean() == pytest.approx(0.25, abs=0.03)
    assert erased.float().mean() == pytest.approx(0.5, abs=0.03)
    assert (gray & erased).float().mean() == pytest.approx(0.125, abs=0.03)


def photo_after(monkeypatch, rules, count=64):
    """(a drawn face as float32 [3, 96, 96] in 0..1, what the rules alone make of `count` copies of it)."""
    crop = cv2.resize(crop_of(drawn.draw_face(0, "hat")), (96, 96), interpolation=cv2.INTER_AREA)
    batch = dataset.to_batch([crop])
    monkeypatch.setitem(augment.AUGMENTATIONS, "face", rules)
    return batch[0] / 255, shown(batch.repeat(count, 1, 1, 1), "face", dataset.generator_for(0))


def test_light_contrast_and_cast_keep_to_their_ranges(monkeypatch):
    monkeypatch.setitem(augment.AUGMENTATIONS, "face", {"light": 0.3, "contrast": 0.3, "cast": 0.1})
    batch = torch.full((500, 3, 8, 8), 100, dtype=torch.uint8)
    level = shown(batch, "face", dataset.generator_for(0))[:, :, 0, 0] / (100 / 255)
    assert 0.63 <= level.min() < 0.7 and 1.35 < level.max() <= 1.43 and level.mean() == pytest.approx(1, abs=0.03)
    photo, out = photo_after(monkeypatch, {"light": 0, "contrast": 0.3})
    spread = out.std((1, 2, 3)) / photo.std()
    assert spread.min() < 0.8 and spread.max() > 1.05, "bright and dark pixels are cut off"


def test_noise_has_up_to_its_strength(monkeypatch):
    monkeypatch.setitem(augment.AUGMENTATIONS, "face", {"noise": 1.0})
    batch = torch.full((200, 3, 32, 32), 128, dtype=torch.uint8)
    strength = shown(batch, "face", dataset.generator_for(0)).std((1, 2, 3))
    assert strength.max() < 1.05 * augment.NOISE and strength.mean() == pytest.approx(augment.NOISE / 2, rel=0.15)


@pytest.mark.parametrize("effect", ["small", "jpeg"])
def test_small_and_compressed_faces_lose_detail(monkeypatch, effect):
    """Each by its own size or quality, and none becomes another face."""
    photo, out = photo_after(monkeypatch, {effect: 1.0})
    damage = (out - photo).abs().mean((1, 2, 3))
    assert 0.001 < damage.min() < damage.max() < 0.05 and damage.max() > 1.3 * damage.min()


def test_what_is_erased_has_one_colour_and_the_size_of_the_rules(monkeypatch):
    photo, out = photo_after(monkeypatch, {"erase": 1.0})
    changed = ((out - photo).abs() > 1e-3).any(1)
    low, high = augment.ERASED
    for image, mask in zip(out, changed, strict=True):
        places = mask.nonzero()
        (top, left), (bottom, right) = places.amin(0).tolist(), (places.amax(0) + 1).tolist()
        for length in (bottom - top, right - left):
            assert 96 * low - 2 <= length <= 96 * high + 1
        erased = image[:, top:bottom, left:right].flatten(1)
        assert torch.equal(erased.amin(1), erased.amax(1))
