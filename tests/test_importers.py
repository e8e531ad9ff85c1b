"""The importers, each on a small imitation of what its publisher ships."""

import hashlib
import shutil
from pathlib import Path

import pytest

import folders
import importing
import sets
from running import call
from shipped import known, names, persons, photo, run_twice


@pytest.fixture
def choose(monkeypatch):
    """A function that sets constants of data/sets.py: choose(SET="utkface")."""
    def set_all(**constants):
        for name, value in constants.items():
            monkeypatch.setattr(sets, name, value)

    return set_all


GOOD = [f"{age}_{gender}_{ethnicity}_2017011{age}.jpg.chip.jpg" for age in range(20, 60) for gender in (0, 1)
        for ethnicity in (0, 3)]
BAD = ["24_0_1_2017 .jpg.chip.jpg", "39_1_20170116.jpg.chip.jpg", "55_0_0_2017jpg.chip.jpg", "20_2_0_2017.jpg"]


def test_utkface(place, choose, capsys):
    for name in GOOD + BAD:
        photo(Path("UTKFace/part1", name))
    choose(SET="utkface", SOURCE="UTKFace")
    said = run_twice(sets, capsys)
    assert "4 malformed names" in said and "160 new" in said
    test = {n for n in GOOD if int(hashlib.sha1(n.encode()).hexdigest(), 16) % 10 == 0}
    assert 5 < len(test) < 30
    for digit, class_name in (("0", "man"), ("1", "woman")):
        mine = {n for n in GOOD if n.split("_")[1] == digit}
        assert names("test", class_name) == sorted(mine & test)
        assert names("raw", class_name) == sorted(mine - test)
    assert known() == {n: ("utkface", "", n.split("_")[0],
                           {"0": "White", "3": "Indian"}[n.split("_")[2]]) for n in GOOD}
    linked = Path("data/raw/man", names("raw", "man")[0])
    assert linked.samefile(Path("UTKFace/part1", linked.name))


def test_utkface_chip_and_whole_photo_are_on_one_side(place, choose, capsys):
    choose(SET="utkface")
    for name in GOOD:
        photo(Path("utkface", name))
        photo(Path("utkface", name.removesuffix(".chip.jpg")))
    sets.main()
    stems = [{n.split(".")[0] for c in ("man", "woman") for n in names(side, c)} for side in ("raw", "test")]
    assert stems[1] and not stems[0] & stems[1]


def test_folders(place, capsys, monkeypatch):
    for name in ("1.jpg", "Ü ber.PNG", "sub/1.jpg", "notes.txt"):
        photo(Path("src/M", name), "man " + name)
    photo("src/W/1.jpg", "woman 1.jpg")
    monkeypatch.setattr(folders, "SOURCE", "src")
    monkeypatch.setattr(folders, "RENAME", {"M": "man", "W": "woman"})
    monkeypatch.setattr(folders, "PREFIX", "own-")
    monkeypatch.setattr(folders, "TO", "test")
    assert "data/test: 3 man, 1 woman" in run_twice(folders, capsys)
    assert names("test", "man") == ["own-1.jpg", "own-sub__1.jpg", "own-Ü ber.PNG"]
    assert names("test", "woman") == ["own-1.jpg"] and not Path("data/raw").exists()
    monkeypatch.setattr(folders, "RENAME", {"X": "man"})
    with pytest.raises(SystemExit, match="X"):
        folders.main()


def test_folders_keep_a_person_on_one_side(place, capsys, monkeypatch):
    for i in range(26):
        for shot in (1, 2, 3):
            photo(f"src/{'man' if i % 2 else 'woman'}/Some_{chr(65 + i)}ody_{shot:04d}.jpg")
    monkeypatch.setattr(folders, "SOURCE", "src")
    monkeypatch.setattr(folders, "TEST_RATIO", 0.3)
    run_twice(folders, capsys)
    sides = [persons((side, "man"), (side, "woman")) for side in ("raw", "test")]
    assert len(sides[0]) + len(sides[1]) == 26 == len(sides[0] | sides[1]) and 2 < len(sides[1]) < 18


@pytest.mark.parametrize(("name", "person"), [
    ("George_Bush_0007", "George_Bush"), ("Jean-Pierre_Raffarin_0001", "Jean-Pierre_Raffarin"),
    ("Osama_bin_Laden_0001", "Osama_bin_Laden"), ("Jose\u0301_Pérez_0001", "José_Pérez"), ("AJ_Cook_0001", "AJ_Cook"),
    ("Beard_Baro_0002", "Beard_Baro"), ("Ashanti_0002", "Ashanti"), ("IMG_0001", None), ("IMG_2020_0001", None),
    ("IMG_2034", None), ("20_1_0_20170112.jpg.chip", None), ("face_10", None), ("M (1)", None), ("beard_0001", None)])
def test_who_a_name_says_it_is(name, person):
    folder = Path("man")
    assert folders.persons_of([(folder, folder / f"{name}.jpg")]) == [person or ""]


def test_a_series_named_after_its_class_is_not_one_person():
    folder = Path("man")
    photos = [(folder, folder / f"Man_{i:04d}.jpg") for i in range(12)] + [(folder, folder / "Ashanti_0001.jpg")]
    assert folders.persons_of(photos) == [""] * 12 + ["Ashanti"]


def celeba_files(separator=" ", ending="txt"):
    """Ten photos (1 to 10), odd ones male; 9 and 10 are the official test. Two malformed lines, one photo missing."""
    lines = ["10", " 5_o_Clock_Shadow Male Young"] if ending == "txt" else ["image_id,5_o_Clock_Shadow,Male,Young"]
    for i in range(1, 11):
        lines.append(separator.join([f"{i:06d}.jpg", "-1", "1" if i % 2 else "-1", "1"]))
        if i != 5:
            photo(f"celeba/Img/img_align_celeba/{i:06d}.jpg")
    lines += [separator.join(["000011.jpg", "-1", "0", "1"]), separator.join(["000012.jpg", "1"])]
    Path("celeba/Anno").mkdir(parents=True)
    Path(f"celeba/Anno/list_attr_celeba.{ending}").write_text("\n".join(lines) + "\n")


def test_celeba(place, choose, capsys):
    choose(SET="celeba")
    celeba_files("  ")
    Path("celeba/Eval").mkdir()
    Path("celeba/Eval/list_eval_partition.txt").write_text(
        "".join(f"{i:06d}.jpg {0 if i < 8 else 1 if i == 8 else 2}\n" for i in range(1, 11)))
    said = run_twice(sets, capsys)
    assert "2 malformed lines" in said and "1 named in the labels but not found" in said
    assert names("raw", "man") == [f"celeba-{i:06d}.jpg" for i in (1, 3, 7)]
    assert names("raw", "woman") == [f"celeba-{i:06d}.jpg" for i in (2, 4, 6, 8)]
    assert names("test", "man") == ["celeba-000009.jpg"] and names("test", "woman") == ["celeba-000010.jpg"]


def test_celeba_with_commas_people_and_a_zip(place, choose, capsys):
    choose(SET="celeba")
    celeba_files(",", "csv")
    archive = shutil.make_archive("img_align_celeba", "zip", "celeba/Img")
    shutil.rmtree("celeba/Img")
    shutil.move(archive, "celeba/img_align_celeba.zip")
    Path("celeba/identity_CelebA.txt").write_text("".join(f"{i:06d}.jpg {2880 + i % 2}\n" for i in range(1, 11)))
    run_twice(sets, capsys)
    men, women = ((names("raw", c), names("test", c)) for c in ("man", "woman"))
    assert sorted(men[0] + men[1]) == [f"celeba-{i:06d}.jpg" for i in (1, 3, 7, 9)]
    assert {known()[name][:2] for name in men[0] + men[1]} == {("celeba", "2881")}
    assert len(women[0] + women[1]) == 5 and [] in men and [] in women  # each of the two people is on one side


@pytest.mark.parametrize("kind", ["faces", "aligned"])
def test_adience(place, choose, capsys, kind):
    choose(SET="adience")
    head = ["user_id", "original_image", "face_id", "age", "gender", "x", "y", "dx", "dy", "tilt_ang",
            "fiducial_yaw_angle", "fiducial_score"]
    prefix = {"faces": "coarse_tilt_aligned_face", "aligned": "landmark_aligned_face"}[kind]
    for fold in range(5):
        lines = [head]
        for i in range(4):
            user, image, face = f"3060125{fold}@N03", f"104_{fold}{i}_o.jpg", str(fold * 2 + i % 2)
            photo(f"adience/{kind}/{user}/{prefix}.{face}.{image}")
            lines.append([user, image, face, "(25, 32)" if i else "None", "mf"[i % 2], *"0000000"])
        lines.append([f"3060125{fold}@N03", "u.jpg", "1", "(0, 2)", "u", *"0000000"])
        lines.append(["../../x", "u.jpg", "1", "(0, 2)", "m", *"0000000"])
        Path(f"adience/fold_{fold}_data.txt").write_text("\n".join("\t".join(line) for line in lines) + "\n")
    said = run_twice(sets, capsys)
    assert "5 malformed lines" in said and "5 faces without a gender" in said
    assert "data/raw: 8 man, 8 woman" in said and "data/test: 2 man, 2 woman" in said
    assert names("test", "man") == ["adience-8_0001.jpg", "adience-8_0002.jpg"]
    assert known()["adience-7_0001.jpg"] == ("adience", "7", "25-32", "")
    assert known()["adience-8_0001.jpg"] == ("adience", "8", "", "")
    assert Path("data/test/man/adience-8_0002.jpg").read_bytes().decode() == f"{prefix}.8.104_42_o.jpg"


def test_lfw(place, choose, capsys):
    choose(SET="lfw")
    people = [f"{'Ann' if i % 2 else 'Bob'}_Smith{i}" for i in range(40)]
    for person in [*people, "No_Body", "Both_Lists"]:
        for i in (1, 2, 3):
            photo(f"lfw/lfw/{person}/{person}_{i:04d}.jpg")
    photo("lfw/lfw/Bob_Smith0/Ann_Smith1_0009.jpg")
    Path("lfw/male_names.txt").write_text("\n".join([p.replace("_", " ") for p in people[::2]] + ["Both_Lists"]))
    Path("lfw/female_names.txt").write_text("\n".join([f"{p}_0001.jpg" for p in people[1::2]] + ["Both_Lists", "Gone"]))
    said = run_twice(sets, capsys)
    for expected in ("1 malformed names", "1 people on no list", "1 people on two lists", "1 listed people without"):
        assert expected in said
    assert known()["Bob_Smith0_0001.jpg"] == ("lfw", "Bob Smith0", "", "")
    for class_name, mine in (("man", people[::2]), ("woman", people[1::2])):
        assert sorted(names("raw", class_name) + names("test", class_name)) == sorted(
            f"{p}_{i:04d}.jpg" for p in mine for i in (1, 2, 3))
        assert {n[:-9] for n in names("test", class_name)} == {p for p in mine if importing.in_test(p, 0.1)}


def test_fairface(place, choose, capsys):
    choose(SET="fairface")
    for part, n in (("train", 6), ("val", 3)):
        lines = ["file,age,gender,race,service_test"]
        for i in range(1, n + 1):
            photo(f"fairface/{part}/{i}.jpg", f"{part} {i}")
            lines.append(f"{part}/{i}.jpg,{'3-9' if i > 1 else 'more than 70'},{'Male' if i % 3 else 'Female'},"
                         "East Asian,True")
        lines.append(f"{part}/../../x.jpg,3-9,Male,White,True")
        Path(f"fairface/fairface_label_{part}.csv").write_text("\n".join(lines) + "\n")
    said = run_twice(sets, capsys)
    assert "2 malformed lines" in said and "data/raw: 4 man, 2 woman" in said
    assert names("test", "man") == ["fairface-val-1.jpg", "fairface-val-2.jpg"]
    assert len(known()) == 9
    assert known()["fairface-val-1.jpg"] == ("fairface", "", "more than 70", "East Asian")


def test_origins(place, choose, capsys):
    choose(SET="origins")
    spelt = {"asian": "Asian", "black": "Black", "caucasian": "White", "hispanic": "Hispanic", "indian": "Indian",
             "mideastern": "Middle Eastern"}
    for i, origin in enumerate(spelt):
        for gender in ("man", "woman"):
            photo(f"src/wrapped/{gender}/{origin}_{gender[0]}{i}.jpg")
    for name in ("martian_1.jpg", "asian.jpg", "notes.txt"):
        photo("src/wrapped/man/" + name)
    choose(SOURCE="src", TEST_RATIO=0.0)
    said = run_twice(sets, capsys)
    assert "2 names without a known origin, left out: man/asian.jpg, man/martian_1.jpg" in said
    assert "data/raw: 6 man, 6 woman" in said and not Path("data/test").exists()
    assert names("raw", "woman") == sorted(f"origins-{origin}_w{i}.jpg" for i, origin in enumerate(spelt))
    assert known() == {f"origins-{origin}_{g}{i}.jpg": ("origins", "", "", spelt[origin])
                        for i, origin in enumerate(spelt) for g in "mw"}


def test_origins_need_both_classes(place, choose):
    choose(SET="origins")
    photo("src/man/asian_1.jpg")
    choose(SOURCE="src")
    with pytest.raises(SystemExit, match="has no folder woman"):
        sets.main()


def test_bfw(place, choose, capsys):
    choose(SET="bfw")
    groups = [f"{origin}_{sex}" for origin in ("asian", "black", "indian", "white") for sex in ("females", "males")]
    for group in groups:
        for person in range(1, 11):
            for i in (1, 2):
                photo(f"bfw/wrapped/{group}/n{person:06d}/{i:04d}_01.jpg", f"{group} {person} {i}")
    photo("bfw/wrapped/asian_males/n000001/._0001_01.jpg")
    said = run_twice(sets, capsys)
    assert "160 new, 0 already there" in said
    test = {f"n{i:06d}" for i in range(1, 11) if int(hashlib.md5(b"n%06d" % i).hexdigest(), 16) % 5 == 0}
    assert 0 < len(test) < 10
    for class_name, sex in (("man", "_males"), ("woman", "_females")):
        assert len(names("test", class_name)) == 2 * 4 * len(test) == 80 - len(names("raw", class_name))
        assert {name.split("-")[2] for name in names("test", class_name)} == test
        assert all(sex in name for side in ("raw", "test") for name in names(side, class_name))
    assert len({row[1] for row in known().values()}) == 80, "one name in two groups is two persons"
    assert known()["bfw-indian_males-n000003-0002_01.jpg"] == ("bfw", "indian_males n000003", "", "Indian")
    shutil.rmtree("bfw/wrapped/white_males")
    sets.main()
    assert "1 missing groups, left out: white_males" in capsys.readouterr().out


def test_all_age_faces(place, choose, capsys):
    choose(SET="allagefaces", SOURCE="src")
    ages = {f"{number:05d}A{number % 79 + 2:02d}" for number in range(7361, 7401)} | {"07313A78"}
    for stem in ages:
        photo(f"src/All-Age-Faces Dataset/original images/{stem}.jpg")
    photo("src/All-Age-Faces Dataset/original images/notes.txt")
    photo("src/All-Age-Faces Dataset/aligned faces/00001A02.jpg")
    said = run_twice(sets, capsys)
    assert "1 malformed names" in said and "1 photos whose labels are doubtful, left out: 07313A78.jpg" in said
    stems = {name.removeprefix("allagefaces-")[:-4]: (side, class_name) for side in ("raw", "test")
             for class_name in ("man", "woman") for name in names(side, class_name)}
    assert stems.keys() == ages - {"07313A78"}
    for stem, (side, class_name) in stems.items():
        in_test = int(hashlib.md5(stem.encode()).hexdigest(), 16) % 10 == 0
        assert (side, class_name) == ("test" if in_test else "raw", "woman" if int(stem[:5]) <= 7380 else "man")
        assert known()[f"allagefaces-{stem}.jpg"] == ("allagefaces", "", str(int(stem[6:])), "")
    assert {side for side, _ in stems.values()} == {"raw", "test"}


def test_scut(place, choose, capsys):
    choose(SET="scut", SOURCE="SCUT-FBP5500_v2")
    for name in ("AF1.jpg", "AM12.jpg", "CF3.jpg", "CM750.jpg", "readme.txt"):
        photo(f"SCUT-FBP5500_v2/Images/{name}")
    assert "1 malformed names, left out: readme.txt" in run_twice(sets, capsys)
    assert names("raw", "woman") == ["scut-AF1.jpg", "scut-CF3.jpg"]
    assert known() == {"scut-AF1.jpg": ("scut", "", "", "Asian"), "scut-AM12.jpg": ("scut", "", "", "Asian"),
                       "scut-CF3.jpg": ("scut", "", "", "White"), "scut-CM750.jpg": ("scut", "", "", "White")}


def test_one_class_alone_can_be_imported(place, monkeypatch, capsys):
    photo("hijab/woman/yes (1).jpg")
    photo("data/raw/man/1.jpg")
    monkeypatch.setattr(folders, "SOURCE", "hijab")
    folders.main()
    assert names("raw", "woman") == ["yes (1).jpg"]


@pytest.mark.parametrize(("name", "folder", "lists"), [
    ("celeba", "img_align_celeba", ["list_attr_celeba.txt"]), ("lfw", "lfw", ["male_names.txt", "female_names.txt"]),
    ("adience", "faces", [f"fold_{number}_data.txt" for number in range(5)]),
    ("fairface", "train", ["fairface_label_train.csv"])])
@pytest.mark.parametrize("data", [b"x\xffy\n" * 9, b"file,age\n" + b"x" * 200_000 + b",1\n"], ids=["Latin-1", "long"])
def test_a_list_that_is_no_table_in_utf8_is_one_line(place, name, folder, lists, data):
    photo(Path(name, folder, "1.jpg"))
    for file in lists:
        Path(name, file).write_bytes(data)
    code, _, err = call(sets, f"SET={name}", cwd=place)
    assert code == 1 and err.startswith("error: ") and err.count("\n") == 1, err
    assert not Path("data/raw").exists()
    if b"\xff" in data:
        assert f"{name}/{lists[0]} is not a text in UTF-8" in err
