"""The split: same from the same seed, in proportion, without leaks, and never half of two."""

import os
import shutil
from functools import partial
from pathlib import Path

import pytest

import dataset
import processed
import validation
from crops import CLASSES, fill, picture, save, sides, snapshot
from faces import copies, nearest, people
from terminal import files, records


def refused(run, *words):
    """run() ends with an error of one line that holds the words."""
    with pytest.raises(SystemExit) as error:
        run()
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_each_class_is_split_in_proportion_and_the_crops_stay(place, capsys):
    faces = fill(place)
    before = {p: p.read_bytes() for p in faces.rglob("*.jpg")}
    validation.main()
    side = sides()
    assert len(side) == 65
    for name, count in zip(CLASSES, (40, 25), strict=True):
        assert sum(s == "valid" and key.startswith(f"{name}/") for key, s in side.items()) == count // 5
    assert {p: p.read_bytes() for p in faces.rglob("*.jpg")} == before
    said = capsys.readouterr().out
    assert "near-duplicates: 0 groups" in said and "one person or take: 0 groups" in said
    assert [line.split() for line in said.splitlines() if line.startswith("man")] == [["man", "32", "8", "20.0%"]]


def test_crops_are_linked_or_else_copied(place, monkeypatch):
    faces = fill(place, 6, 6)
    validation.main()
    key, side = next(iter(sides().items()))
    assert os.path.samefile(faces / key, Path("processed", side, key))

    def refuse(source, target, **_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(validation, "SEED", 5)
    validation.main()
    key, side = next(iter(sides().items()))
    copy = Path("processed", side, key)
    assert not os.path.samefile(faces / key, copy) and copy.read_bytes() == (faces / key).read_bytes()


def test_the_same_run_rewrites_nothing(place, capsys):
    fill(place, 10, 10)
    validation.main()
    first, said = snapshot("processed"), capsys.readouterr().out
    validation.main()
    assert snapshot("processed") == first
    again = capsys.readouterr().out
    assert "unchanged:" in again and again.splitlines()[:-1] == said.splitlines()[:-1]


def test_the_split_depends_on_names_and_seed_alone(place, monkeypatch):
    fill(place)
    validation.main()
    first = sides()
    for folder in (validation.TRAIN_DIR, validation.VALID_DIR):
        shutil.rmtree(folder)
    monkeypatch.setattr(validation.reading, "list_photos",
                        lambda folder, *_: sorted(Path(folder).rglob("*.jpg"), reverse=True))
    validation.main()
    assert sides() == first


@pytest.mark.parametrize("change", ["seed", "ratio", "added", "removed", "other pixels", "deleted from the split"])
def test_a_change_replaces_the_split_whole(place, monkeypatch, change):
    faces = fill(place, 30, 30)
    validation.main()
    first = sides()
    if change == "seed":
        monkeypatch.setattr(validation, "SEED", 1)
    if change == "ratio":
        monkeypatch.setattr(validation, "VALID_RATIO", 0.5)
    if change == "added":
        save(faces / "man" / "face_new.jpg", picture(77777))
    if change == "removed":
        (faces / "man" / "face_3.jpg").unlink()
    if change == "other pixels":
        (faces / "man" / "face_3.jpg").unlink()
        save(faces / "man" / "face_3.jpg", picture(88888))
    if change == "deleted from the split":
        Path("processed", first["man/face_3.jpg"], "man/face_3.jpg").unlink()
    validation.main()
    now = sides()
    assert set(now) == {p.relative_to(faces).as_posix() for p in faces.rglob("*.jpg")}
    for key, side in now.items():
        assert Path("processed", side, key).read_bytes() == (faces / key).read_bytes()
    valid = sum(s == "valid" for s in now.values())
    assert valid == (30 if change == "ratio" else 12)
    if change in ("seed", "ratio"):
        assert now != first
    if change == "deleted from the split":
        assert now == first
    assert sorted(p.name for p in Path("processed").iterdir()) == ["faces", "train", "valid"]  # no leftovers


def test_two_crops_are_shared_and_of_one_nothing_is_left_for_validation(place, capsys):
    fill(place, 2, 2)
    validation.main()
    assert sorted(sides().values()) == ["train", "train", "valid", "valid"]
    (place / validation.FACES_DIR / "man" / "face_1.jpg").unlink()
    refused(validation.main, "validation of man: man has one crop", "to data/raw/man, and run 'python processed.py'")
    assert [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("man")][1:] == [
        ["man", "1", "0", "0.0%"]]
    refused(partial(dataset.Crops, validation.TRAIN_DIR, 32), "validation of man: man has one crop")
    save(place / validation.FACES_DIR / "man" / "face_1.jpg", picture(1))
    validation.main()
    assert len(sides()) == 4 and len(dataset.Crops(validation.TRAIN_DIR, 32)) == 2


def test_no_class_is_left_that_the_split_does_not_have(place, capsys):
    """Empty folders of earlier classes, in which a system or a user may have left a file, are no classes."""
    fill(place, 10, 10)
    validation.main()
    for folder in (validation.TRAIN_DIR, validation.VALID_DIR):
        for name in ("beard", "hat"):
            Path(folder, name).mkdir()
    Path(validation.VALID_DIR, "hat", ".DS_Store").write_text("of a system")
    Path(validation.VALID_DIR, "old").mkdir()
    Path(validation.VALID_DIR, "old", "notes.txt").write_text("of the user")
    assert dataset.Crops(validation.VALID_DIR, 32).classes == ["man", "woman"]
    (place / validation.FACES_DIR / "man" / "face_1.jpg").unlink()
    validation.main()
    assert {p.name for p in Path(validation.TRAIN_DIR).iterdir() if p.is_dir()} == {"man", "woman"}
    assert {p.name for p in Path(validation.VALID_DIR).iterdir() if p.is_dir()} == {"man", "woman", "hat", "old"}
    capsys.readouterr()
    assert dataset.Crops(validation.VALID_DIR, 32).classes == ["man", "woman"]
    assert "old: has no crops but 1 other file(s), such as notes.txt" in capsys.readouterr().out


@pytest.mark.parametrize("links", [0, 7, 50])
def test_a_split_that_was_stopped_is_not_trained_on_and_is_finished_by_the_next_run(place, monkeypatch, links):
    fill(place, 30, 30)
    validation.main()
    old, real, count = sides(), files.link, []

    def stop(source, target):
        count.append(1)
        if len(count) > links:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(files, "link", stop)
    monkeypatch.setattr(validation, "SEED", 9)
    with pytest.raises(KeyboardInterrupt):
        validation.main()
    for folder in (validation.TRAIN_DIR, validation.VALID_DIR):
        refused(partial(dataset.Crops, folder, 32), "half a split", "python validation.py")
    monkeypatch.setattr(files, "link", real)
    validation.main()
    new = sides()
    assert len(new) == 60 and new != old and len(dataset.Crops(validation.TRAIN_DIR, 32)) == 48
    assert sorted(p.name for p in Path("processed").iterdir()) == ["faces", "train", "valid"]


def test_photos_of_the_user_are_never_deleted(place, monkeypatch):
    fill(place, 5, 5)
    own = Path(validation.TRAIN_DIR, "man", "mine.jpg")
    save(own, picture(1))
    refused(validation.main, "mine.jpg", "move it elsewhere")
    own.unlink()
    validation.main()
    save(own, picture(1))
    monkeypatch.setattr(validation, "SEED", 2)
    refused(validation.main, "mine.jpg")
    assert own.exists()


def test_a_crop_that_cannot_be_read_is_left_out_and_said(place, capsys):
    faces = fill(place, 8, 8)
    (faces / "man" / "broken.jpg").write_bytes(b"not a picture")
    (faces / "man" / "empty.jpg").write_bytes(b"")
    save(faces / "man" / "größe 写真.jpg", picture(31))
    validation.main()
    assert len(sides()) == 17 and "man/größe 写真.jpg" in sides()
    assert "cannot be read: 2 (man/broken.jpg)" in capsys.readouterr().out
    validation.main()
    assert "unchanged" in capsys.readouterr().out


def test_missing_and_empty_folders_name_the_command(place):
    refused(validation.main, "processed/faces", "python processed.py")
    fill(place, 3, 0)
    refused(validation.main, "has 1 class folder", "needs at least 2")
    Path(validation.FACES_DIR, "woman").mkdir()
    refused(validation.main, "woman", "has no crops", "python processed.py")


def test_large_groups_of_several_classes_are_split_too():
    """Takes of a webcam: three groups, each with half of its crops in either class."""
    labels = ["a", "b"] * 30
    groups = [list(range(start, start + 20)) for start in (0, 20, 40)]
    keys = [f"{label}/{i}" for i, label in enumerate(labels)]
    valid = validation.assign(groups, keys, labels, 0.2, 0)
    assert valid.sum() == 20 and any(valid[group].all() for group in groups)


def test_what_is_known_of_a_crop_is_noted_once_and_train_reads_that(place, capsys):
    fill(place, 10, 8)
    Path("data").mkdir()
    Path("data/people.csv").write_text("file,source,person,age\nman/face_9.jpg,news,Ann,30\n", "utf-8")
    validation.main()
    Path("data/people.csv").unlink()
    both = [dataset.Crops(folder, 32) for folder in (validation.TRAIN_DIR, validation.VALID_DIR)]
    known = {f"{path.parent.name}/{path.name}": person for crops in both
             for path, person in zip(crops.paths, crops.known, strict=True)}
    assert known.pop("man/face_9.jpg") == ("news", "Ann", "30", "") and set(known.values()) == {people.Person()}
    validation.main()
    assert "written:" in capsys.readouterr().out.splitlines()[-1], "another table is another split"


def test_the_equalisation_of_crops_goes_with_them_and_stale_crops_are_refused(place, monkeypatch):
    faces = fill(place, 5, 5)
    monkeypatch.setattr(processed, "CLAHE", 2.0)
    (faces / records.RECIPE).write_text(processed.recipe("haar"))
    validation.main()
    assert {dataset.Crops(folder, 32).clahe for folder in (validation.TRAIN_DIR, validation.VALID_DIR)} == {2.0}
    monkeypatch.setattr(processed, "CLAHE", 0.0)
    refused(validation.main, "made with other constants of processed.py", "run 'python processed.py' again")


def test_crops_made_by_hand_are_not_equalised_whatever_processed_py_would_do(place, monkeypatch):
    fill(place, 5, 5)
    monkeypatch.setattr(processed, "CLAHE", 2.0)
    validation.main()
    assert {dataset.Crops(folder, 32).clahe for folder in (validation.TRAIN_DIR, validation.VALID_DIR)} == {0.0}


def test_the_folder_of_the_class_that_cannot_be_read_is_named(place):
    """A crop of man cannot be read either, but man has others."""
    faces = fill(place, 5, 5)
    for path in (faces / "man" / "face_0.jpg", *(faces / "woman").iterdir()):
        path.write_bytes(b"not an image")
    refused(validation.main, "no crop of woman can be read", "delete processed/faces/woman and run")


@pytest.mark.parametrize(("module", "name", "value", "first"), [
    (copies, "CANDIDATE", 0.5, "written"), (copies, "BURST", 0.6, "written"), (copies, "SCALES", {1.0: 0.5}, "written"),
    (nearest, "PROBES", 1, "written"), (nearest, "LIST", 8, "written"), (nearest, "ROUNDS", 1, "written"),
    (copies, "BLOCK", 4096, "unchanged"), (copies, "PART", 64, "unchanged"), (nearest, "BLOCK", 64, "unchanged")])
def test_another_search_for_copies_makes_another_split(place, monkeypatch, capsys, module, name, value, first):
    fill(place, 10, 10)
    validation.main()
    monkeypatch.setattr(module, name, value)
    capsys.readouterr()
    for word in (first, "unchanged"):
        validation.main()
        assert f"\n{word}: processed/train and" in capsys.readouterr().out
