"""The importers on small imitations of what each publisher ships, and the drawn faces under the real cascade."""

import csv
import hashlib
import http.server
import io
import json
import os
import shutil
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

import adience
import celeba
import congress
import drawn
import fairface
import folders
import importing
import lfw
import origins
import utkface
from faces import finding, people, reading
from terminal import script


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working folder: every test writes to data/raw and data/test in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photo(path, content=None):
    """A file that an importer may take for a photo; its bytes are its name, unless told."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((content or path.name).encode())
    return path


def tree(folder="data"):
    """{relative path: (bytes, inode, time)} of all files in a folder: equal when nothing at all was touched."""
    return {p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_ino, p.stat().st_mtime_ns)
            for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def names(side, class_name):
    return sorted(p.name for p in Path("data", side, class_name).glob("*"))


def groups():
    with open("data/groups.csv", newline="", encoding="utf-8") as file:
        return {r["file"]: (r["age"], r["ethnicity"]) for r in csv.DictReader(file)}


def run_twice(module, capsys):
    """Run an importer, and again: the second run must change nothing. Returns what the first one printed."""
    module.main()
    first = capsys.readouterr().out
    before = tree()
    module.main()
    again = capsys.readouterr().out
    assert tree() == before
    assert "\n0 new, " in again and "moved" not in again
    return first


# ---- shared parts --------------------------------------------------------------------------------

def test_test_share_is_stable_and_right():
    keys = [f"{i}.jpg" for i in range(4000)]
    for ratio in (0.0, 0.1, 0.25, 1.0):
        share = np.mean([importing.in_test(k, ratio) for k in keys])
        assert share == pytest.approx(ratio, abs=0.025)
    # A larger ratio only adds to the test; one in ten is the last digit of the SHA-1, for ever.
    assert all(importing.in_test(k, 0.2) for k in keys if importing.in_test(k, 0.1))
    assert all(importing.in_test(k, 0.1) == (int(hashlib.sha1(k.encode()).hexdigest(), 16) % 10 == 0) for k in keys)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archives_are_unpacked_once_and_never_outside(place, kind):
    archive = place / f"faces.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("a/1.jpg", b"x")
            file.writestr("../evil.jpg", b"x")
    else:
        with tarfile.open(archive, "w:gz") as file:
            entry = tarfile.TarInfo("a/1.jpg")
            entry.size = 1
            file.addfile(entry, io.BytesIO(b"x"))
    folder = importing.source_folder(archive, "hint")
    assert folder == place / "faces" and (folder / "a/1.jpg").read_bytes() == b"x"
    (folder / "mark").touch()
    assert importing.source_folder(archive, "hint") == folder and (folder / "mark").exists()
    assert not (place / "evil.jpg").exists() and not list(place.glob(".tmp-*"))


def test_a_broken_or_hostile_archive_leaves_nothing(place):
    (place / "broken.zip").write_bytes(b"PK no")
    with tarfile.open(place / "hostile.tar", "w") as file:
        entry = tarfile.TarInfo("../evil.jpg")
        file.addfile(entry, io.BytesIO(b""))
    for name in ("broken.zip", "hostile.tar"):
        with pytest.raises(SystemExit, match=f"{name} cannot be unpacked"):
            importing.source_folder(place / name, "hint")
    assert sorted(p.name for p in place.iterdir()) == ["broken.zip", "hostile.tar"]


def test_copy_where_links_cannot_be(place, monkeypatch, capsys):
    def refuse(*_):
        raise OSError("another device")
    monkeypatch.setattr(os, "link", refuse)
    source = photo("src/1.jpg")
    for expected in ("1 new", "0 new"):
        importing.place([(source, "raw", "man", "1.jpg")], "data/raw", "data/test")
        assert expected in capsys.readouterr().out
    assert not Path("data/raw/man/1.jpg").samefile(source)
    assert source.read_bytes() == Path("data/raw/man/1.jpg").read_bytes()


def test_photos_of_others_are_neither_replaced_nor_removed(place):
    theirs = photo("data/raw/woman/1.jpg", "theirs")
    other = photo("data/raw/man/2.jpg", "another")
    importing.place([(photo("src/1.jpg"), "raw", "man", "1.jpg")], "data/raw", "data/test")
    assert theirs.read_bytes() == b"theirs"
    with pytest.raises(SystemExit, match="another photo"):
        importing.place([(photo("src/2.jpg"), "raw", "man", "2.jpg")], "data/raw", "data/test")
    assert other.read_bytes() == b"another"


# ---- importers -----------------------------------------------------------------------------------

GOOD = [f"{age}_{gender}_{ethnicity}_2017011{age}.jpg.chip.jpg" for age in range(20, 60) for gender in (0, 1)
        for ethnicity in (0, 3)]
BAD = ["24_0_1_2017 .jpg.chip.jpg", "39_1_20170116.jpg.chip.jpg", "55_0_0_2017jpg.chip.jpg", "20_2_0_2017.jpg"]


def test_utkface(place, capsys, monkeypatch):
    for name in GOOD + BAD:
        photo(Path("UTKFace/part1", name))
    monkeypatch.setattr(utkface, "SOURCE", "UTKFace")
    said = run_twice(utkface, capsys)
    assert "4 malformed names" in said and "160 new" in said
    test = {n for n in GOOD if int(hashlib.sha1(n.encode()).hexdigest(), 16) % 10 == 0}
    assert 5 < len(test) < 30
    for digit, class_name in (("0", "man"), ("1", "woman")):
        mine = {n for n in GOOD if n.split("_")[1] == digit}
        assert names("test", class_name) == sorted(mine & test)
        assert names("raw", class_name) == sorted(mine - test)
    assert groups() == {n: (n.split("_")[0], {"0": "White", "3": "Indian"}[n.split("_")[2]]) for n in GOOD}
    linked = Path("data/raw/man", names("raw", "man")[0])
    assert linked.samefile(Path("UTKFace/part1", linked.name))


def test_utkface_chip_and_whole_photo_are_on_one_side(place, capsys, monkeypatch):
    for name in GOOD:
        photo(Path("utkface", name))
        photo(Path("utkface", name.removesuffix(".chip.jpg")))
    utkface.main()
    stems = [{n.split(".")[0] for c in ("man", "woman") for n in names(side, c)} for side in ("raw", "test")]
    assert stems[1] and not stems[0] & stems[1]


def test_another_ratio_moves_photos_and_leaves_none_on_both_sides(place, capsys, monkeypatch):
    for name in GOOD:
        photo(Path("utkface", name))
    for ratio in (0.5, 0.1):
        monkeypatch.setattr(utkface, "TEST_RATIO", ratio)
        utkface.main()
        found = [n for side in ("raw", "test") for c in ("man", "woman") for n in names(side, c)]
        assert sorted(found) == sorted(GOOD)
    assert "moved from their old place" in capsys.readouterr().out


@pytest.mark.parametrize("module", [utkface, folders, celeba, adience, lfw, fairface, origins])
def test_a_missing_source_is_one_clear_line(place, module):
    with pytest.raises(SystemExit) as error:
        module.main()
    line = str(error.value)
    assert "\n" not in line and module.SOURCE in line and "SOURCE=" in line
    assert not Path("data").exists()


def test_empty_sources_and_other_classes_are_refused(place):
    Path("utkface").mkdir()
    with pytest.raises(SystemExit, match="no photo found"):
        utkface.main()
    photo("utkface/" + GOOD[0])
    photo("data/raw/hat/1.jpg")
    with pytest.raises(SystemExit, match="already has photos of hat"):
        utkface.main()
    assert not Path("data/raw/man").exists()


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
    persons = [{people.person_of(n) for c in ("man", "woman") for n in names(side, c)} for side in ("raw", "test")]
    assert len(persons[0]) + len(persons[1]) == 26 and 2 < len(persons[1]) < 18


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


def test_celeba(place, capsys):
    celeba_files("  ")
    Path("celeba/Eval").mkdir()
    Path("celeba/Eval/list_eval_partition.txt").write_text(
        "".join(f"{i:06d}.jpg {0 if i < 8 else 1 if i == 8 else 2}\n" for i in range(1, 11)))
    said = run_twice(celeba, capsys)
    assert "2 malformed lines" in said and "1 named in the labels but not found" in said
    assert names("raw", "man") == [f"celeba-{i:06d}.jpg" for i in (1, 3, 7)]
    assert names("raw", "woman") == [f"celeba-{i:06d}.jpg" for i in (2, 4, 6, 8)]
    assert names("test", "man") == ["celeba-000009.jpg"] and names("test", "woman") == ["celeba-000010.jpg"]


def test_celeba_with_commas_people_and_a_zip(place, capsys):
    celeba_files(",", "csv")
    archive = shutil.make_archive("img_align_celeba", "zip", "celeba/Img")
    shutil.rmtree("celeba/Img")
    shutil.move(archive, "celeba/img_align_celeba.zip")
    Path("celeba/identity_CelebA.txt").write_text("".join(f"{i:06d}.jpg {2880 + i % 2}\n" for i in range(1, 11)))
    run_twice(celeba, capsys)
    men, women = ((names("raw", c), names("test", c)) for c in ("man", "woman"))
    assert sorted(men[0] + men[1]) == [f"celeba-Person_ciib_{i:04d}.jpg" for i in (1, 2, 4, 5)]
    assert len(women[0] + women[1]) == 5 and [] in men and [] in women  # each of the two people is on one side


@pytest.mark.parametrize("kind", ["faces", "aligned"])
def test_adience(place, capsys, monkeypatch, kind):
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
    monkeypatch.setattr(adience, "KIND", kind)
    monkeypatch.setattr(adience, "TEST_FOLD", 3)
    said = run_twice(adience, capsys)
    assert "5 malformed lines" in said and "5 faces without a gender" in said
    assert "data/raw: 8 man, 8 woman" in said and "data/test: 2 man, 2 woman" in said
    assert names("test", "man") == ["adience-Person_g_0001.jpg", "adience-Person_g_0002.jpg"]
    assert groups()["adience-Person_h_0001.jpg"] == ("25-32", "") and "adience-Person_g_0001.jpg" not in groups()
    assert Path("data/test/man/adience-Person_g_0002.jpg").read_bytes().decode() == f"{prefix}.6.104_32_o.jpg"


def test_lfw(place, capsys, monkeypatch):
    people = [f"{'Ann' if i % 2 else 'Bob'}_Smith{i}" for i in range(40)]
    for person in [*people, "No_Body", "Both_Lists"]:
        for i in (1, 2, 3):
            photo(f"lfw/lfw/{person}/{person}_{i:04d}.jpg")
    photo("lfw/lfw/Bob_Smith0/Ann_Smith1_0009.jpg")
    Path("lfw/male_names.txt").write_text("\n".join([p.replace("_", " ") for p in people[::2]] + ["Both_Lists"]))
    Path("lfw/female_names.txt").write_text("\n".join([f"{p}_0001.jpg" for p in people[1::2]] + ["Both_Lists", "Gone"]))
    monkeypatch.setattr(lfw, "MOST", 2)
    said = run_twice(lfw, capsys)
    for expected in ("1 malformed names", "1 people on no list", "1 people on two lists", "1 listed people without"):
        assert expected in said
    for class_name, mine in (("man", people[::2]), ("woman", people[1::2])):
        assert sorted(names("raw", class_name) + names("test", class_name)) == sorted(
            f"{p}_{i:04d}.jpg" for p in mine for i in (1, 2))
        assert {n[:-9] for n in names("test", class_name)} == {p for p in mine if importing.in_test(p, 0.1)}


def test_fairface(place, capsys):
    for part, n in (("train", 6), ("val", 3)):
        lines = ["file,age,gender,race,service_test"]
        for i in range(1, n + 1):
            photo(f"fairface/{part}/{i}.jpg", f"{part} {i}")
            lines.append(f"{part}/{i}.jpg,{'3-9' if i > 1 else 'more than 70'},{'Male' if i % 3 else 'Female'},"
                         "East Asian,True")
        lines.append(f"{part}/../../x.jpg,3-9,Male,White,True")
        Path(f"fairface/fairface_label_{part}.csv").write_text("\n".join(lines) + "\n")
    said = run_twice(fairface, capsys)
    assert "2 malformed lines" in said and "data/raw: 4 man, 2 woman" in said
    assert names("test", "man") == ["fairface-val-1.jpg", "fairface-val-2.jpg"]
    assert len(groups()) == 9 and groups()["fairface-val-1.jpg"] == ("more than 70", "East Asian")


def test_origins(place, capsys, monkeypatch):
    spelt = {"asian": "Asian", "black": "Black", "caucasian": "White", "hispanic": "Hispanic", "indian": "Indian",
             "mideastern": "Middle Eastern"}
    for i, origin in enumerate(spelt):
        for gender in ("man", "woman"):
            photo(f"src/wrapped/{gender}/{origin}_{gender[0]}{i}.jpg")
    for name in ("martian_1.jpg", "asian.jpg", "notes.txt"):
        photo("src/wrapped/man/" + name)
    monkeypatch.setattr(origins, "SOURCE", "src")
    said = run_twice(origins, capsys)
    assert "2 names without a known origin, left out: man/asian.jpg, man/martian_1.jpg" in said
    assert "data/raw: 6 man, 6 woman" in said and not Path("data/test").exists()
    assert names("raw", "woman") == sorted(f"origins-{origin}_w{i}.jpg" for i, origin in enumerate(spelt))
    assert groups() == {f"origins-{origin}_{g}{i}.jpg": ("", spelt[origin])
                        for i, origin in enumerate(spelt) for g in "mw"}
    assert {spelt[o] for o in ("asian", "black", "caucasian", "indian")} < set(utkface.ETHNICITIES)  # one name each
    monkeypatch.setattr(origins, "TEST_RATIO", 1.0)
    origins.main()
    assert names("raw", "man") == [] and len(names("test", "man")) == 6


def test_origins_need_both_classes(place, monkeypatch):
    photo("src/man/asian_1.jpg")
    monkeypatch.setattr(origins, "SOURCE", "src")
    with pytest.raises(SystemExit, match="has no folder woman"):
        origins.main()


def test_groups_of_two_sources_are_kept(place, capsys):
    people.write_groups("data/groups.csv", [("a.jpg", 20, "White")])
    people.write_groups("data/groups.csv", [("b.jpg", "3-9", "Black"), ("a.jpg", 21, "White")])
    assert groups() == {"a.jpg": ("21", "White"), "b.jpg": ("3-9", "Black")}


# ---- the download, over HTTP on this machine -----------------------------------------------------

@pytest.fixture
def site(place, monkeypatch):
    """A small imitation of the project's pages: answers from .pages, fails as .failures says, keeps .asked."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            server.agents.add(self.headers["User-Agent"])
            code = server.failures.pop(self.path, None) or (200 if self.path in server.pages else 404)
            body = server.pages.get(self.path, b"") if code == 200 else b""
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.pages, server.failures, server.asked, server.agents = {}, {}, [], set()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    base = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(congress, "LABELS_URL", base + "/legislators.json")
    monkeypatch.setattr(congress, "PORTRAITS_URL", base + "/225x275")
    monkeypatch.setattr(congress, "DELAY", 0.0)
    members = [{"id": {"bioguide": f"A{i:06d}"}, "bio": {"gender": "MF"[i % 2]}} for i in range(30)]
    members += [{"id": {"bioguide": "../../x"}, "bio": {"gender": "M"}}, {"id": {"bioguide": "B000001"}}]
    server.pages["/legislators.json"] = json.dumps(members).encode()
    for i in range(30):
        server.pages[f"/225x275/A{i:06d}.jpg"] = b"\xff\xd8 portrait %d" % i
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_congress(site, capsys):
    del site.pages["/225x275/A000003.jpg"]
    site.pages["/225x275/A000004.jpg"] = b"<html>"
    site.failures["/225x275/A000005.jpg"] = 503  # once: the second try succeeds
    said = run_twice(congress, capsys)
    for expected in ("2 malformed members", "1 members without a portrait: A000003".replace(":", ", left out:"),
                     "1 portraits that are no JPEG", "28 new"):
        assert expected in said
    kept = {(side, c): names(side, c) for side in ("raw", "test") for c in ("man", "woman")}
    for class_name in ("man", "woman"):
        assert len(kept["raw", class_name] + kept["test", class_name]) == 14
    assert kept["test", "man"] == [f"congress-A{i:06d}.jpg" for i in range(0, 30, 2)
                                   if importing.in_test(f"A{i:06d}", 0.1) and i != 4]
    assert not any("x" in path.removeprefix("/225x275") for path in site.asked)
    assert site.asked.count("/225x275/A000006.jpg") == 1  # not fetched again
    assert all("gender-cnn" in agent for agent in site.agents)


def test_congress_goes_on_where_it_stopped(site, capsys, monkeypatch):
    monkeypatch.setattr(congress, "RETRIES", 0)
    site.failures["/225x275/A000010.jpg"] = 500
    with pytest.raises(SystemExit, match="goes on where it stopped"):
        congress.main()
    assert len(tree()) == 10 and not [p for p in tree() if ".tmp" in p]
    site.asked.clear()
    congress.main()
    assert len(tree()) == 30 and len(site.asked) == 21


def test_congress_without_network_is_one_clear_line(place, monkeypatch):
    monkeypatch.setattr(congress, "LABELS_URL", "http://127.0.0.1:9/legislators.json")
    monkeypatch.setattr(congress, "RETRIES", 1)
    monkeypatch.setattr(congress, "DELAY", 0.0)
    with pytest.raises(SystemExit, match="cannot be fetched"):
        congress.main()


# ---- drawn faces ---------------------------------------------------------------------------------

@pytest.mark.parametrize("name", drawn.CLASSES)
def test_the_cascade_finds_one_face_in_drawn_pictures(name):
    pictures = [drawn.draw_face(np.random.default_rng((11, i)), name) for i in range(40)]
    assert all(p.dtype == np.uint8 and p.ndim == 3 and p.shape[2] == 3 for p in pictures)
    assert sum(len(finding.find_faces(p, neighbors=4)) == 1 for p in pictures) >= 38


def test_drawn_faces_repeat_from_a_seed():
    one, again, other = (drawn.draw_face(seed, "hat") for seed in (5, 5, 6))
    assert np.array_equal(one, again) and (one.shape != other.shape or not np.array_equal(one, other))
    with pytest.raises(ValueError, match="beard, hat"):
        drawn.draw_face(0, "man")


def test_drawn_folders(place, capsys, monkeypatch):
    monkeypatch.setattr(drawn, "COUNT", 6)
    monkeypatch.setattr(drawn, "TEST_COUNT", 3)
    run = [drawn.main(), tree(), drawn.main(), tree()]
    assert run[1] == run[3] and "0 pictures written, 18 already there" in capsys.readouterr().out
    for name in drawn.CLASSES:
        persons = [{people.person_of(n) for n in names(side, name)} for side in ("raw", "test")]
        assert len(persons[0]) == 2 and len(persons[1]) == 1 and not persons[0] & persons[1]
        assert len(names("raw", name)) == 6 and len(names("test", name)) == 3
        for p in Path("data/raw", name).iterdir():
            assert reading.read_photo(p).shape[2] == 3


def test_drawn_faces_do_not_mix_with_photos(place):
    mine = photo("data/test/man/1.jpg")
    with pytest.raises(SystemExit, match="data.test already has photos of man"):
        drawn.main()
    assert mine.exists() and not Path("data/raw").exists()


def test_constants_can_be_set_from_the_command_line():
    space = {"RENAME": folders.RENAME, "TO": "raw", "__file__": "folders.py"}
    script.override(space, ["RENAME={'M': 'man'}", "TO=test"])
    assert space["RENAME"] == {"M": "man"} and space["TO"] == "test"
