"""occluders.py: things sit where they belong on a face; in training each image has its own, or none."""

import cv2
import numpy as np
import pytest
import torch

import dataset
from faces import occluders
from faces.cropping import MARGIN
from learn import augment
from test_augment import shown

# Where a thing must be, and where it must not, as shares of a crop's side: (x, y) of points.
EYES, MOUTH, FOREHEAD = [(0.38, 0.43), (0.62, 0.43)], [(0.5, 0.72)], [(0.5, 0.2)]
WHERE = {"mask": (MOUTH, EYES + FOREHEAD), "sunglasses": (EYES, MOUTH + FOREHEAD), "scarf": ([(0.5, 0.9)], EYES)}


def numbers(seed, kind=None):
    """Random numbers for cover(), by the first of which it draws a `kind`, if one is given."""
    drawn = np.random.default_rng(seed).random(occluders.DRAWS)
    if kind is not None:
        drawn[0] = (occluders.KINDS.index(kind) + 0.5) / len(occluders.KINDS)
    return drawn


@pytest.mark.parametrize("side", [96, 224])
@pytest.mark.parametrize("kind", WHERE)
def test_occluders_sit_where_they_belong(kind, side):
    hidden, free = WHERE[kind]
    for seed in range(20):
        opacity = occluders.cover(side, MARGIN, numbers(seed, kind))[:, :, 3]
        at = [opacity[int(y * side), int(x * side)] for x, y in hidden]
        assert all(a == 255 for a in at), (seed, at)
        assert all(opacity[int(y * side), int(x * side)] == 0 for x, y in free)
        assert 0.05 < (opacity > 0).mean() < 0.5


def test_a_hand_reaches_into_the_face_from_outside():
    for seed in range(20):
        opacity = occluders.cover(96, MARGIN, numbers(seed, "hand"))[:, :, 3]
        edge = np.concatenate([opacity[-1], opacity[:, 0], opacity[:, -1]])
        assert edge.any() and not opacity[0].all() and 0.04 < (opacity > 0).mean() < 0.5


def test_places_follow_the_margin():
    """With a wider crop the face is smaller, and so is its mask."""
    def height(picture):
        return cv2.boundingRect(picture[:, :, 3])[3]

    narrow, wide = (height(occluders.cover(224, margin, numbers(1, "mask"))) for margin in (0.2, 0.6))
    assert wide == pytest.approx(narrow * 1.4 / 2.2, abs=2)


def test_size_grows_with_scale_and_all_kinds_come():
    seen = set()
    for seed in range(40):
        u = numbers(seed)
        seen.add(min(int(u[0] * 4), 3))
        areas = [(occluders.cover(96, MARGIN, u, scale)[:, :, 3] > 0).sum() for scale in (0.6, 1.0, 1.4)]
        assert areas == sorted(set(areas))
    assert len(seen) == len(occluders.KINDS)


def test_over_leaves_the_rest_alone_and_blends_edges():
    crop = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    picture = occluders.cover(96, MARGIN, numbers(3, "mask"))
    out = occluders.over(crop, picture)
    clear, solid = picture[:, :, 3] == 0, picture[:, :, 3] == 255
    assert np.array_equal(out[clear], crop[clear]) and np.array_equal(out[solid], picture[solid][:, :3])
    share = picture[:, :, 3:] / 255
    assert np.abs(out - (crop * (1 - share) + picture[:, :, :3])).max() <= 1
    assert (picture[:, :, :3] <= picture[:, :, 3:]).all(), "no colour without opacity"


def only(monkeypatch, chance):
    rules = dict.fromkeys(("light", "contrast", "cast"), 0) | {"occlude": chance}
    monkeypatch.setitem(augment.AUGMENTATIONS, "occlusion", rules)


def test_each_training_image_has_its_own_occluder(monkeypatch):
    only(monkeypatch, 0.5)
    plain = torch.randint(0, 256, (64, 3, 48, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    plain = torch.nn.functional.interpolate(plain[:, :, ::16, ::16], (48, 48), mode="bilinear")
    out = shown(plain, "occlusion", dataset.generator_for(0))
    changed = ((out - plain / 255).abs().amax(1) > 0.02).float().mean((1, 2))
    worn = changed > 0.03
    assert 16 < worn.sum() < 48 and (changed[~worn] == 0).all(), "half of them, and the others are as they were"
    assert len({round(c, 4) for c in changed[worn].tolist()}) > worn.sum() - 3, "no two alike"


def test_training_and_test_draw_the_same_occluder(monkeypatch):
    """The float batch of training against the uint8 crop of corruptions.py: one blend, within a rounding."""
    only(monkeypatch, 1.0)
    crop = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    given, cover = [], occluders.cover
    monkeypatch.setattr(occluders, "cover", lambda *a: given.append(cover(*a)) or given[-1])
    out = shown(dataset.to_batch([crop]), "occlusion", dataset.generator_for(4))[0]
    assert np.abs(out.permute(1, 2, 0).numpy() * 255 - occluders.over(crop, given[0])).max() < 1.5


def test_images_without_an_occluder_are_as_without_the_option():
    """A quarter have one; the option moves no other random number."""
    batch = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    with_it, without = (shown(batch, kind, dataset.generator_for(0)) for kind in ("occlusion", "face"))
    same = sum(torch.equal(a, b) for a, b in zip(with_it, without, strict=True))
    assert 36 <= same <= 60
