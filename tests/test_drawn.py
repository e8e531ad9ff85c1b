"""Drawn faces: found by the real cascade, the same from the same seed, never among photos."""

from pathlib import Path

import numpy as np
import pytest

import drawn
import shipped
from faces import detectors, reading
from judge import overlap
from shipped import names, photo, tree


@pytest.mark.parametrize("name", drawn.CLASSES)
def test_the_cascade_finds_one_face_in_drawn_pictures(name):
    pictures = [drawn.draw_face(np.random.default_rng((11, i)), name) for i in range(20)]
    assert all(p.dtype == np.uint8 and p.ndim == 3 and p.shape[2] == 3 for p in pictures)
    assert sum(len(detectors.get("haar").all_faces(p)) == 1 for p in pictures) >= 19


def test_drawn_faces_repeat_from_a_seed():
    one, again, other = (drawn.draw_face(np.random.default_rng(seed), "hat") for seed in (5, 5, 6))
    assert np.array_equal(one, again) and (one.shape != other.shape or not np.array_equal(one, other))
    with pytest.raises(ValueError, match="beard, hat"):
        drawn.draw_face(0, "man")


def test_drawn_folders(place, capsys, monkeypatch):
    monkeypatch.setattr(drawn, "COUNT", 6)
    monkeypatch.setattr(drawn, "TEST_COUNT", 3)
    run = [drawn.main(), tree(), drawn.main(), tree()]
    assert run[1] == run[3] and "0 pictures written, 18 existed already" in capsys.readouterr().out
    for name in drawn.CLASSES:
        persons = [shipped.persons((side, name)) for side in ("raw", "test")]
        assert len(persons[0]) == 2 and len(persons[1]) == 1 and not persons[0] & persons[1]
        assert len(names("raw", name)) == 6 and len(names("test", name)) == 3
        for p in Path("data/raw", name).iterdir():
            assert reading.read_photo(p).shape[2] == 3


def test_people_of_the_test_have_no_copy_in_training(place, monkeypatch):
    """A picture of the first one is called a copy of a training photo; someone else takes their place."""
    for name, value in (("COUNT", 4), ("TEST_COUNT", 6), ("PER_PERSON", 2)):
        monkeypatch.setattr(drawn, name, value)
    calls = []

    def copied(paths):
        calls.append(paths)
        two = [paths.index(p) for p in paths if p.name.startswith("Hat_") and p.parent.name not in drawn.CLASSES][:2]
        return [[0, two[1]], two] if len(calls) == 1 else [two]

    monkeypatch.setattr(overlap, "copied", copied)
    drawn.main()
    assert len(calls) == 2 and calls[0][:8] == calls[1][:8] and len(calls[0]) == len(calls[1]) == 20
    people = {class_name: sorted({name.rpartition("_")[0] for name in names("test", class_name)})
              for class_name in drawn.CLASSES}
    numbers = {"beard": (5000, 5001, 5002), "hat": (5001, 5002, 5003)}
    assert people == {name: sorted(f"{name.capitalize()}_{drawn.person_name(n)}" for n in numbers[name])
                      for name in drawn.CLASSES}


def test_drawn_faces_do_not_mix_with_photos(place):
    mine = photo("data/test/man/1.jpg")
    with pytest.raises(SystemExit, match="data.test already has photos of man"):
        drawn.main()
    assert mine.exists() and not Path("data/raw").exists()


def test_no_two_people_have_one_name():
    assert [drawn.person_name(index) for index in (0, 1, 100, 9999)] == ["Baba", "Babe", "Beba", "Xuxu"]
    assert len({drawn.person_name(index) for index in range(30_000)}) == 30_000
