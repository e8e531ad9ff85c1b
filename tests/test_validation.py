"""The split: same from the same seed, in proportion, without leaks, and never half of two."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import validation
from faces import copies, people
from terminal.files import link

CLASSES = ("man", "woman")


def picture(seed):
    """A crop that resembles no other: smooth noise, uint8 [224, 224, 3]."""
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.uniform(0, 255, (n, n, 3)).astype(np.float32), (224, 224), interpolation=cv2.INTER_CUBIC)
              for n in (6, 14, 30)]
    return np.clip(sum(layers) / 3, 0, 255).astype(np.uint8)


def save(path, image, quality=92):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tofile(path)


COPIES = {
    "encoded": lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 35])[1], 1),
    "resized": lambda image: cv2.resize(cv2.resize(image, (120, 120), interpolation=cv2.INTER_AREA), (224, 224)),
    "brighter": lambda image: cv2.convertScaleAbs(image, alpha=1.08, beta=18),
    "cropped": lambda image: cv2.resize(image[8:220, 8:220], (224, 224)),
    "mirrored": lambda image: image[:, ::-1],
    "gray": lambda image: cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working folder in which the script's own relative folders are used."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fill(place, man=40, woman=25):
    """Crops of two classes, none like another. Returns FACES_DIR."""
    faces = place / validation.FACES_DIR
    for base, (name, count) in enumerate(zip(CLASSES, (man, woman), strict=True)):
        for i in range(count):
            save(faces / name / f"face_{i}.jpg", picture(1000 * base + i))
    return faces


def sides():
    """{"class/name": "train" or "valid"} as it is on disk; a crop on both sides fails."""
    found = {}
    for side, folder in (("train", validation.TRAIN_DIR), ("valid", validation.VALID_DIR)):
        for path in validation.reading.list_photos(folder):
            key = path.relative_to(folder).as_posix()
            assert key not in found
            found[key] = side
    return found


def snapshot(folder):
    return {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in Path(folder).rglob("*")}


def one_line(error, *words):
    """The error is one line and holds the words."""
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
    assert "near-copies: 0 groups" in said and "one person: 0 groups" in said
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
                        lambda folder: sorted(Path(folder).rglob("*.jpg"), reverse=True))
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


def plant(faces, names=range(20)):
    """Copies of crops of class man, each changed in one way. Returns [[keys of one photo]]."""
    groups = []
    for i in names:
        group = [f"man/face_{i}.jpg"]
        for kind, change in COPIES.items():
            save(faces / "man" / f"{kind}_{i}.jpg", change(picture(i)))
            group.append(f"man/{kind}_{i}.jpg")
        groups.append(group)
    return groups


def torn(groups):
    """How many of the groups lie on both sides."""
    side = sides()
    return sum(len({side[key] for key in group}) > 1 for group in groups)


def test_near_copies_stay_on_one_side(place, capsys):
    groups = plant(fill(place))
    validation.main()
    assert torn(groups) == 0
    assert "near-copies: 20 groups with 140 crops, the largest of 7" in capsys.readouterr().out
    man = [side for key, side in sides().items() if key.startswith("man/")]
    assert abs(man.count("valid") / len(man) - 0.2) < 0.03


def test_without_grouping_the_planted_copies_would_leak(place, monkeypatch):
    groups = plant(fill(place))
    monkeypatch.setattr(validation.copies, "components", lambda n, pairs: [[i] for i in range(n)])
    validation.main()
    assert torn(groups) > 10


def test_near_copies_are_found_among_many_alike(place, monkeypatch):
    """With enough crops, what all have in common is taken out: here a face-like pattern that all of them share."""
    shared = picture(123456).astype(np.float32)
    faces = place / validation.FACES_DIR
    monkeypatch.setattr(copies, "ENOUGH", 100)
    for i in range(150):
        image = np.clip(0.6 * shared + 0.4 * picture(i), 0, 255).astype(np.uint8)
        save(faces / CLASSES[i % 2] / f"face_{i}.jpg", image)
        if i < 10:
            save(faces / CLASSES[i % 2] / f"mirrored_{i}.jpg", image[:, ::-1])
    validation.main()
    assert torn([[f"{CLASSES[i % 2]}/{kind}_{i}.jpg" for kind in ("face", "mirrored")] for i in range(10)]) == 0


def test_one_person_stays_on_one_side(place, capsys, monkeypatch):
    faces = fill(place, 20, 20)
    for i in range(15):
        for k in range(3):
            name = f"news-George_B{'abcdefghijklmno'[i]}_{k:04d}.jpg"
            save(faces / "man" / name, picture(5000 + 10 * i + k))
    people = [[f"man/news-George_B{c}_{k:04d}.jpg" for k in range(3)] for c in "abcdefghijklmno"]
    validation.main()
    assert torn(people) == 0
    assert "one person: 15 groups with 45 crops, the largest of 3" in capsys.readouterr().out
    valid = {key for key, side in sides().items() if side == "valid"}
    assert sum(key.startswith("man/") for key in valid) == 13 and 1 <= sum(p[0] in valid for p in people) <= 4
    monkeypatch.setattr(validation, "PERSON_PATTERN", "")
    validation.main()
    assert torn(people) > 3


@pytest.mark.parametrize(("name", "person"), [
    ("George_Bush_0007.jpg", "George_Bush"), ("news-George_Bush_0008.jpg", "George_Bush"),
    ("George_Bush_0007.png.jpg", "George_Bush"), ("news-Jean-Pierre_Raffarin_0001.jpg", "Jean-Pierre_Raffarin"),
    ("Osama_bin_Laden_0001.jpg", "Osama_bin_Laden"), ("Jose\u0301_Pérez_0001.jpg", "José_Pérez"),
    ("AJ_Cook_0001.jpg", "AJ_Cook"), ("Beard_Baro_0002.jpg", "Beard_Baro"),
    ("20_1_0_20170112.jpg.chip.jpg", None), ("face_10.jpg", None), ("M (1).jpg", None), ("1.png.jpg", None),
    ("beard_0001.jpg", None), ("Ashanti_0002.jpg", "Ashanti"), ("Photo_0001.jpg", None), ("IMG_0001.jpg", None),
    ("IMG_2020_0001.jpg", None), ("IMG_2034.jpg", None),
    ("celebrities-face_0001.jpg", None),
])
def test_who_a_name_says_it_is(name, person):
    assert people.person_of(name) == person


def test_a_series_named_after_its_class_is_not_one_person():
    keys = [f"man/Man_{i:04d}.jpg" for i in range(12)] + ["man/Ashanti_0001.jpg", "man/x.jpg", "man/Ashanti_0002.jpg"]
    assert people.people_of(keys) == {"ashanti": [12, 14]}


def test_label_conflicts_are_counted_and_stay_together(place, capsys):
    faces = fill(place, 12, 12)
    save(faces / "woman" / "again.jpg", picture(4), quality=60)
    shutil.copyfile(faces / "man" / "face_5.jpg", faces / "woman" / "twin.jpg")
    validation.main()
    said = capsys.readouterr().out
    assert "label conflicts (near-copies in different classes): 2" in said and "man/face_4.jpg, woman/again.jpg" in said
    assert torn([["man/face_4.jpg", "woman/again.jpg"], ["man/face_5.jpg", "woman/twin.jpg"]]) == 0


def test_blank_crops_are_not_near_copies_of_others_unless_equal(place):
    faces = fill(place, 6, 6)
    for i in range(4):
        save(faces / "man" / f"blank_{i}.jpg", np.full((224, 224, 3), 40 * i, np.uint8))
    keys = sorted(faces.rglob("blank*"))
    seen = [copies.thumbnail(p) for p in [*keys, keys[0]]]
    with validation.ThreadPoolExecutor(1) as pool:
        outlines, small, digests = zip(*seen, strict=True)
        assert copies.near_copies(np.stack(outlines), np.stack(small), digests, pool).tolist() == [[0, 4]]


def test_one_crop_goes_to_training_and_two_are_shared(place, capsys):
    fill(place, 1, 2)
    validation.main()
    side = sides()
    assert side["man/face_0.jpg"] == "train" and sorted(side.values()) == ["train", "train", "valid"]
    assert "nothing for validation: one crop" in capsys.readouterr().out
    assert Path(validation.VALID_DIR, "man").is_dir()


def test_groups_that_are_too_large_still_leave_something_on_both_sides():
    keys = [f"a/{i}" for i in range(10)]
    valid = validation.assign([list(range(6)), list(range(6, 10))], keys, ["a"] * 10, 0.2, 0)
    assert valid.tolist() == [False] * 6 + [True] * 4
    assert not validation.assign([list(range(10))], keys, ["a"] * 10, 0.2, 0).any()


@pytest.mark.parametrize("seed", range(5))
def test_one_huge_group_does_not_spoil_the_ratio(seed):
    groups = [list(range(112))] + [list(range(i, i + 4)) for i in range(112, 200, 4)]
    valid = validation.assign(groups, [f"x/{i}" for i in range(200)], ["a"] * 200, 0.2, seed)
    assert valid.sum() == 40 and not valid[0]


@pytest.mark.parametrize("seed", range(5))
def test_many_groups_of_all_sizes_hit_the_ratio(seed):
    rng = np.random.default_rng(seed)
    groups, labels, n = [], [], 0
    while n < 2000:
        size = int(rng.integers(1, 9))
        groups.append(list(range(n, n + size)))
        labels += [CLASSES[int(rng.random() < 0.3)]] * size
        n += size
    valid = validation.assign(groups, [f"x/{i}" for i in range(n)], labels, 0.2, seed)
    for name in CLASSES:
        assert abs(valid[[c == name for c in labels]].mean() - 0.2) < 0.005
    assert all(len(set(valid[g])) == 1 for g in groups)


@pytest.mark.parametrize("step", range(4))
def test_interrupted_while_swapping(place, monkeypatch, step):
    """Stopped before any rename: both folders are the old split, or one is missing, and the next run mends it."""
    fill(place, 30, 30)
    validation.main()
    old = sides()
    monkeypatch.setattr(validation, "SEED", 9)
    real, calls = os.replace, []

    def stop(source, target):
        if Path(source).is_dir():
            calls.append(target)
            if len(calls) == step + 1:
                raise KeyboardInterrupt
        return real(source, target)

    monkeypatch.setattr(validation.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        validation.main()
    monkeypatch.setattr(validation.os, "replace", real)
    there = [Path(folder).exists() for folder in (validation.TRAIN_DIR, validation.VALID_DIR)]
    assert sides() == old if all(there) else step > 0
    validation.main()
    new = sides()
    assert len(new) == 60 and new != old
    assert sorted(p.name for p in Path("processed").iterdir()) == ["faces", "train", "valid"]


def test_interrupted_while_linking_leaves_the_old_split(place, monkeypatch):
    fill(place, 10, 10)
    validation.main()
    old, real, count = sides(), link, []

    def stop(source, target):
        count.append(1)
        if len(count) > 7:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(validation, "link", stop)
    monkeypatch.setattr(validation, "SEED", 3)
    with pytest.raises(KeyboardInterrupt):
        validation.main()
    assert sides() == old
    monkeypatch.setattr(validation, "link", real)
    validation.main()
    assert len(sides()) == 20 and sorted(p.name for p in Path("processed").iterdir()) == ["faces", "train", "valid"]


def test_photos_of_the_user_are_never_deleted(place, monkeypatch):
    fill(place, 5, 5)
    own = Path(validation.TRAIN_DIR, "man", "mine.jpg")
    save(own, picture(1))
    with pytest.raises(SystemExit) as error:
        validation.main()
    one_line(error, "mine.jpg", "move it elsewhere")
    own.unlink()
    validation.main()
    save(own, picture(1))
    monkeypatch.setattr(validation, "SEED", 2)
    with pytest.raises(SystemExit) as error:
        validation.main()
    one_line(error, "mine.jpg")
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


@pytest.mark.parametrize(("name", "value", "words"), [
    ("VALID_RATIO", 0.0, ("VALID_RATIO", "between 0 and 1")), ("VALID_RATIO", 1.0, ("VALID_RATIO",)),
    ("VALID_RATIO", float("nan"), ("VALID_RATIO",)), ("PERSON_PATTERN", "(", ("PERSON_PATTERN",)),
    ("PERSON_PATTERN", "x", ("PERSON_PATTERN", "group")), ("TRAIN_DIR", "processed/faces/man", ("three folders",)),
    ("VALID_DIR", "processed/train", ("three folders",)),
])
def test_constants_that_make_no_split(place, monkeypatch, name, value, words):
    fill(place, 3, 3)
    monkeypatch.setattr(validation, name, value)
    with pytest.raises(SystemExit) as error:
        validation.main()
    one_line(error, *words)
    assert sorted(p.name for p in Path("processed").iterdir()) == ["faces"]


def test_missing_and_empty_folders_name_the_command(place):
    with pytest.raises(SystemExit) as error:
        validation.main()
    one_line(error, "processed/faces".replace("/", os.sep), "python processed.py")
    fill(place, 3, 0)
    Path(validation.FACES_DIR, "woman").mkdir()
    with pytest.raises(SystemExit) as error:
        validation.main()
    one_line(error, "woman", "has no crops", "python processed.py")


def test_from_the_command_line(place):
    fill(place, 10, 10)
    command = [sys.executable, "-W", "error", validation.__file__]
    done = subprocess.run([*command, "VALID_RATIO=0.3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sum(side == "valid" for side in sides().values()) == 6
    failed = subprocess.run([*command, "VALID_RATIO=2"], capture_output=True, text=True)
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1 and "Traceback" not in failed.stderr
    imports = "import sys, validation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", imports], cwd=Path(validation.__file__).parent).returncode == 0
