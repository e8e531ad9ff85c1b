"""tools/bench_size.py: each step is measured on crops that count as crops of their own."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import drawn
from faces import copies, cropping, detectors
from tools import bench_size


@pytest.fixture(scope="module")
def pictures():
    return [drawn.draw_face(np.random.default_rng((9, i)), drawn.CLASSES[i % 2]) for i in range(16)]


def test_every_step_is_measured_at_every_size_and_the_growth_told(tmp_path, capsys, monkeypatch, pictures):
    monkeypatch.setattr(bench_size, "STEPS", 2)
    bench_size.size(tmp_path, pictures, (120, 60))
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["crops", "step", "seconds", "processor", "s", "a", "doubling", "peak", "MB", "disk", "MB"]
    assert [line.split()[0] for line in lines] == ["60"] * 5 + ["120"] * 5
    whats = ("crops", "processed", "validation", "train", "share")
    for few, many, what in zip(lines[:5], lines[5:], whats, strict=True):
        assert what in few and what in many
        if what in ("processed", "validation", "train"):
            assert len(many.split()) == len(few.split()) + 1  # the growth
            assert 0 < float(many[45:54]) < 100 and 0.1 < float(many[66:78]) < 10
            assert not sys.platform.startswith("linux") or 20 < float(many[78:87]) < 10_000
    assert lines[-1].split()[-1].endswith("%")
    # The resume of processed.py had nothing to do, and training and validation have all crops between them.
    names = [p.relative_to(tmp_path / "faces") for p in (tmp_path / "faces").glob("*/*.jpg")]
    assert len(names) == 120
    assert all((tmp_path / "faces" / name).samefile(tmp_path / "raw" / name) for name in names)
    assert sum(len(list((tmp_path / side).glob("*/*.jpg"))) for side in ("train", "valid")) == 120


def test_mixed_crops_are_no_copies_of_each_other(tmp_path, pictures):
    bases = [cropping.crop_face(p, detectors.get("haar").main_face(p).box, 0.2) for p in pictures]
    assert (bench_size.mixed(bases, 3) == bench_size.mixed(bases, 3)).all()
    paths = [tmp_path / f"{i}.jpg" for i in range(400)]
    for i, path in enumerate(paths):
        cropping.write_crop(path, bench_size.mixed(bases, i))
    with ThreadPoolExecutor(2) as pool:
        outlines, small, digests, read = copies.thumbnails(paths, pool)
        pairs = copies.near_copies(outlines, small, digests, pool)
    assert read.all() and len(pairs) < 20


def test_links_take_no_room_and_a_step_that_fails_says_why(tmp_path):
    (tmp_path / "a").write_bytes(bytes(1000))
    os.link(tmp_path / "a", tmp_path / "b")
    assert bench_size.taken(tmp_path) == 1000
    with pytest.raises(SystemExit, match="ended with 3: .*no luck"):
        bench_size.run(["-c", "import sys; print('no luck'); sys.exit(3)"])


def test_seconds_count_until_a_line_and_the_peak_until_the_end():
    work = "import time; print('ready', flush=True); time.sleep(1); a = bytearray(200_000_000); time.sleep(0.3)"
    seconds, _, peak = bench_size.run(["-c", work], "ready")
    assert seconds < 1
    assert not sys.platform.startswith("linux") or 200 < peak < 400
