"""Crops that belong together: copies of one photo and photos of one person stay on one side, and the ratio holds."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import dataset
import validation
from crops import CLASSES, fill, picture, plant, save, sides, torn
from faces import copies


def test_near_duplicates_stay_on_one_side(place, capsys):
    groups = plant(fill(place))
    validation.main()
    assert torn(groups) == 0
    assert "near-duplicates: 20 groups with 140 crops, the largest of 7" in capsys.readouterr().out
    man = [side for key, side in sides().items() if key.startswith("man/")]
    assert abs(man.count("valid") / len(man) - 0.2) < 0.03


def test_near_duplicates_are_found_among_many_alike(place, monkeypatch):
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


def test_one_person_stays_on_one_side(place, capsys):
    faces = fill(place, 20, 20)
    for i in range(15):
        for k in range(3):
            name = f"news-George_B{'abcdefghijklmno'[i]}_{k:04d}.jpg"
            save(faces / "man" / name, picture(5000 + 10 * i + k))
    persons = [[f"man/news-George_B{c}_{k:04d}.jpg" for k in range(3)] for c in "abcdefghijklmno"]
    Path("data").mkdir()
    table = [f"{key.replace('.jpg', '.png')},news,{key[4:-9]}\n" for keys in persons for key in keys]
    Path("data/people.csv").write_text("file,source,person\n" + "".join(table), encoding="utf-8")
    validation.main()
    assert torn(persons) == 0
    assert "one person or take: 15 groups with 45 crops, the largest of 3" in capsys.readouterr().out
    valid = {key for key, side in sides().items() if side == "valid"}
    assert sum(key.startswith("man/") for key in valid) == 13 and 1 <= sum(p[0] in valid for p in persons) <= 4
    Path("data/people.csv").unlink()
    validation.main()
    assert torn(persons) > 3


def test_a_class_of_one_person_says_so(place, capsys):
    faces = fill(place, 10, 0)
    for i in range(3):
        save(faces / "woman" / f"ann {i}.jpg", picture(7000 + i))
    people_csv((f"ann {i}.jpg", "", "Ann") for i in range(3))
    refused(capsys, "all 3 crops of woman are of one person, Ann", "add photos of other people to data/raw/woman")


def refused(capsys, *words):
    """validation.py ends with an error in one line that has the words, and train.py says the same."""
    for run in (validation.main, lambda: dataset.Crops(validation.TRAIN_DIR, 32),
                lambda: dataset.Crops(validation.VALID_DIR, 32)):
        with pytest.raises(SystemExit) as stop:
            run()
        message = str(stop.value)
        assert message.startswith("error: ") and "\n" not in message, message
        assert all(word in message for word in ("nothing is left for the validation of", *words)), message
    assert sides() == {}, "nothing that could be trained on"
    assert "written" not in capsys.readouterr().out


def people_csv(rows):
    """data/people.csv with these rows: file, source, person."""
    Path("data").mkdir(exist_ok=True)
    Path("data/people.csv").write_text("file,source,person\n" + "".join(",".join(row) + "\n" for row in rows), "utf-8")


def takes(faces, numbers):
    """Five crops for each number of a take of each class, all of them near-duplicates of one picture, as those of
    data/webcam.py at one desk. Returns {number: keys}."""
    keys, rows = {}, []
    for name, own in zip(CLASSES, numbers, strict=True):
        for number in own:
            for i in range(5):
                key = f"{name}/{name}_take{number:02d}_{i + 1:04d}.jpg"
                save(faces / key, picture(1), 92 - i - number)
                keys.setdefault(number, []).append(key)
                rows.append((key.split("/")[1], "webcam", f"webcam take {number}"))
    people_csv(rows)
    return keys


def test_takes_go_by_their_number_alone(place, capsys):
    """One person at one desk who changes nothing but glasses: all crops are near-duplicates of one another."""
    groups = takes(place / validation.FACES_DIR, ((1, 2, 3, 4), (1, 2, 3, 4)))
    validation.main()
    said, side = capsys.readouterr().out, sides()
    assert torn(groups.values()) == 0 and "near-duplicates: 0 groups" in said and "label conflicts" in said
    assert "one person or take: 4 groups with 40 crops" in said
    for name in CLASSES:
        assert [s for key, s in side.items() if key.startswith(name)].count("valid") == 5
    Path("data/people.csv").unlink()  # without it nobody knows what they are
    refused(capsys, "near-duplicates join all 20 crops of man, such as man/man_take01_0001.jpg and ",
            "add photos that are not copies to data/raw/man")


def test_takes_beside_photos_do_not_hide_their_copies(place):
    faces = fill(place, 20, 20)
    planted = plant(faces, range(5))
    groups = takes(faces, ((1, 2, 3), (1, 2, 3)))
    validation.main()
    assert torn(planted) == 0 and torn(groups.values()) == 0


def test_one_take_says_what_to_do(place, capsys):
    takes(place / validation.FACES_DIR, ((1, 2, 3), (2,)))
    refused(capsys, "of woman: all 5 crops of woman are of one take, webcam take 2",
            "make at least three takes of each class with data/webcam.py")


def test_it_is_said_which_persons_near_duplicates_have_joined(place, capsys):
    """Ann and Eve have two photos each, and one of Ann's is Eve's too."""
    faces = fill(place, 10, 0)
    for i in range(4):
        save(faces / "woman" / f"photo_{i}.jpg", picture(7000 + i))
    save(faces / "woman" / "photo_3.jpg", picture(7000), 60)
    people_csv((f"photo_{i}.jpg", "news", "Ann" if i < 2 else "Eve") for i in range(4))
    refused(capsys, "join all 4 crops of woman, such as woman/photo_0.jpg (Ann) and woman/photo_3.jpg (Eve)",
            "add photos of other people to data/raw/woman")


def test_classes_that_hang_together_crosswise_are_said(place, capsys):
    """Each of three groups has half of two classes: whichever goes to validation, one class has nothing there."""
    rows = []
    for i, (a, b) in enumerate((("x", "y"), ("y", "z"), ("z", "x"))):
        for name in (a, b):
            save(place / validation.FACES_DIR / name / f"{name}{i}.jpg", picture(10 * i + ord(name)))
            rows.append((f"{name}{i}.jpg", "news", f"Person {'abc'[i]}"))
    people_csv(rows)
    refused(capsys, "also contains the last crops of another class", "add photos of other people")


def test_label_conflicts_are_counted_and_stay_together(place, capsys):
    faces = fill(place, 12, 12)
    save(faces / "woman" / "again.jpg", picture(4), quality=60)
    shutil.copyfile(faces / "man" / "face_5.jpg", faces / "woman" / "twin.jpg")
    validation.main()
    said = capsys.readouterr().out
    assert "label conflicts (near-duplicates in different classes): 2" in said
    assert "man/face_4.jpg, woman/again.jpg" in said
    assert torn([["man/face_4.jpg", "woman/again.jpg"], ["man/face_5.jpg", "woman/twin.jpg"]]) == 0


def test_blank_crops_are_not_near_duplicates_of_others_unless_equal(place):
    faces = fill(place, 6, 6)
    for i in range(4):
        save(faces / "man" / f"blank_{i}.jpg", np.full((224, 224, 3), 40 * i, np.uint8))
    keys = sorted(faces.rglob("blank*"))
    seen = [copies.thumbnail(p) for p in [*keys, keys[0]]]
    with validation.ThreadPoolExecutor(1) as pool:
        outlines, small, digests = zip(*seen, strict=True)
        assert copies.near_duplicates(np.stack(outlines), np.stack(small), digests, pool).tolist() == [[0, 4]]


def test_groups_that_are_too_large_still_leave_something_on_both_sides():
    keys = [f"a/{i}" for i in range(10)]
    valid = validation.assign([list(range(6)), list(range(6, 10))], keys, ["a"] * 10, 0.2, 0)
    assert valid.tolist() == [False] * 6 + [True] * 4
    assert not validation.assign([list(range(10))], keys, ["a"] * 10, 0.2, 0).any()


def test_large_groups_of_one_source_get_their_share_beside_many_small_ones_of_another():
    groups = [list(range(i, i + 25)) for i in range(0, 1000, 25)] + [[i, i + 1] for i in range(1000, 3000, 2)]
    labels = [("stills", "a")] * 1000 + [("photos", "a")] * 2000
    valid = validation.assign(groups, [f"x/{i}" for i in range(3000)], labels, 0.1, 0)
    assert valid[:1000].sum() == 100 and valid[1000:].sum() == 200


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


def test_bursts_are_photos_that_count_on_and_look_alike():
    rng = np.random.default_rng(0)
    face = cv2.GaussianBlur(rng.normal(128, 120, (56, 56)).astype(np.float32), (0, 0), 2)
    noise = [cv2.GaussianBlur(rng.normal(0, 60, (56, 56)).astype(np.float32), (0, 0), 2) for _ in range(4)]
    alike = [np.clip(face + part, 0, 255).astype(np.uint8) for part in noise[:3]]
    other = np.clip(128 + 3 * noise[3], 0, 255).astype(np.uint8)
    names = ["a/IMG_0009.jpg", "a/IMG_0010.jpg", "a/IMG_0012.jpg", "a/IMG_0013.jpg", "b/IMG_0011.jpg"]
    with validation.ThreadPoolExecutor(2) as pool:
        assert copies.bursts(names, np.stack([*alike, other, alike[0]]), pool).tolist() == [[0, 1]]
        assert copies.bursts(["a/x.jpg", "a/9.jpg", "a/10.jpg"], np.stack(alike), pool).tolist() == [[1, 2]]
