"""copies.py and nearest.py: the index finds what comparing all with all finds, and a flood of copies stays small."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from faces import copies, nearest
from judge import overlap


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def pictures(count, rng, details=9):
    """(outlines, small) of `count` pictures that resemble no other, as thumbnail() gives them."""
    grays = [cv2.resize(rng.uniform(0, 255, (details, details)).astype(np.float32), (56, 56)) for _ in range(count)]
    return looks(np.stack(grays))


def looks(grays):
    """thumbnail()'s (outlines, small) of float32 [N, 56, 56] pictures."""
    outlines = np.stack([g - cv2.GaussianBlur(g, (0, 0), 4) for g in grays])
    small = np.stack([cv2.resize(g, (16, 16), interpolation=cv2.INTER_AREA) for g in grays])
    small -= np.stack([cv2.GaussianBlur(s, (0, 0), 2) for s in small])
    return np.clip(np.rint(outlines) + 128, 0, 255).astype(np.uint8), small


def test_the_index_finds_nearly_all_that_lie_close_and_looks_at_a_small_share(pool, monkeypatch):
    monkeypatch.setattr(nearest, "LIST", 8)
    rng = np.random.default_rng(0)
    vectors = unit(rng.normal(size=(3000, 32)))
    vectors = np.concatenate([vectors, unit(vectors + 0.14 * rng.normal(size=vectors.shape))])  # products of 0.7 to 0.9
    order, starts, centres, lists = nearest.index(vectors, pool)
    assert sorted(order) == list(range(6000)) and starts[-1] == 6000 and len(centres) == 750
    assert nearest.PROBES * nearest.LIST < len(vectors) / 20
    rows, columns = nearest.search(vectors, lists, vectors[order], starts, 0.6, 50)
    found = set(zip(rows.tolist(), order[columns].tolist(), strict=True))
    true = set(zip(*(part.tolist() for part in np.nonzero(vectors @ vectors.T >= 0.6)), strict=True))
    assert len(true) > 11_000 and found <= true and len(found & true) > 0.95 * len(true)


def test_of_many_alike_the_closest_are_given_and_of_blank_ones_none(pool):
    rng = np.random.default_rng(1)
    vectors = unit(np.array([1.0, 0, 0, 0]) + 0.2 * rng.normal(size=(500, 4)))
    vectors[[3, 7]] = 0
    order, starts, centres, lists = nearest.index(vectors, pool)
    assert set(order[-2:]) == {3, 7} and starts[-1] == 498
    rows, columns = nearest.search(vectors, lists, vectors[order], starts, 0.5, 5)
    assert not {3, 7} & {*rows.tolist(), *order[columns].tolist()}
    assert (np.bincount(rows, minlength=500) == np.where(vectors.any(1), 5, 0)).all()
    given = np.sort(order[columns[rows == 10]])
    assert (given == np.sort(np.argsort(-(vectors @ vectors[10]), kind="stable")[:5])).all()


def test_all_blank_has_no_pairs(pool):
    outlines, small = np.full((300, 56, 56), 128, np.uint8), np.zeros((300, 16, 16), np.float32)
    assert copies.near_duplicates(outlines, small, list(range(300)), pool).shape == (0, 2)


def test_a_rough_look_lets_copies_through_that_are_moved_mirrored_or_enlarged():
    rng = np.random.default_rng(2)
    grays = np.stack([cv2.resize(rng.uniform(0, 255, (12, 12)).astype(np.float32), (56, 56)) for _ in range(60)])
    warp = np.float32([[1.06, 0, 28 * -0.06 + 2], [0, 1.06, 28 * -0.06 - 2]])
    moved = np.stack([cv2.warpAffine(g[:, ::-1], warp, (56, 56), borderMode=cv2.BORDER_REFLECT) for g in grays])
    outlines = np.concatenate([looks(grays)[0], looks(moved)[0]])
    pairs = np.array([(i, j + 60, 1) for i in range(60) for j in range(60)])
    i, j, mirrored = copies.agreeing(pairs, outlines, np.stack([copies.half(o) for o in outlines])).T
    assert mirrored.all() and set(zip(i.tolist(), j.tolist(), strict=True)) == {(k, k + 60) for k in range(60)}


def test_thousands_of_one_picture_become_one_group_without_comparing_every_two(pool, monkeypatch):
    rng = np.random.default_rng(3)
    one = cv2.resize(rng.uniform(0, 255, (9, 9)).astype(np.float32), (56, 56))
    series = one + rng.normal(0, 6, (1500, 56, 56)).astype(np.float32)
    outlines, small = (np.concatenate(part) for part in zip(looks(series), pictures(300, rng), strict=True))
    monkeypatch.setattr(copies, "ROUND", 2048)
    compared, close = [], copies.agreeing
    monkeypatch.setattr(copies, "agreeing", lambda pairs, *more: compared.append(len(pairs)) or close(pairs, *more))
    pairs = copies.near_duplicates(outlines, small, list(range(1800)), pool)
    groups = [group for group in copies.components(1800, pairs) if len(group) > 1]
    assert groups == [list(range(1500))] and sum(compared) < 1500 * copies.CLOSEST / 2
    assert pairs.dtype == np.int64 and (pairs[:, 0] < pairs[:, 1]).all() and len(np.unique(pairs, axis=0)) == len(pairs)


def test_equal_files_are_copies_whatever_they_show(pool):
    outlines, small = pictures(4, np.random.default_rng(4))
    small[:] = 0
    assert copies.near_duplicates(outlines, small, ["a", "b", "a", "a"], pool).tolist() == [[0, 2], [0, 3]]


def test_equal_files_are_found_without_keeping_their_bytes(tmp_path):
    paths = [tmp_path / f"{i}.bmp" for i in range(20)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i % 19]) * 1_000_000)
    tracemalloc.start()
    pairs, peak = overlap.same_files(paths), tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pairs == [(0, 19)] and peak < 4_000_000
