"""What the importers share: the share of the test, archives, links or copies, photos of others."""

import hashlib
import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import folders
import importing
import sets
from faces import people
from running import call
from shipped import photo
from terminal import script

TARGETS = ("data/raw", "data/test", people.PEOPLE)


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
    folder = importing.source_folder(archive, "hint", *TARGETS[:2])
    assert folder == place / "faces" and (folder / "a/1.jpg").read_bytes() == b"x"
    (folder / "mark").touch()
    assert importing.source_folder(archive, "hint", *TARGETS[:2]) == folder and (folder / "mark").exists()
    assert not (place / "evil.jpg").exists() and not list(place.glob(".tmp-*"))


def test_a_broken_or_hostile_archive_leaves_nothing(place):
    (place / "broken.zip").write_bytes(b"PK no")
    with tarfile.open(place / "hostile.tar", "w") as file:
        entry = tarfile.TarInfo("../evil.jpg")
        file.addfile(entry, io.BytesIO(b""))
    for name in ("broken.zip", "hostile.tar"):
        with pytest.raises(SystemExit, match=f"{name} cannot be unpacked"):
            importing.source_folder(place / name, "hint", *TARGETS[:2])
    assert sorted(p.name for p in place.iterdir()) == ["broken.zip", "hostile.tar"]


def test_copy_where_links_cannot_be(place, monkeypatch, capsys):
    def refuse(*_):
        raise OSError("another device")
    monkeypatch.setattr(os, "link", refuse)
    source = photo("src/1.jpg")
    for expected in ("1 new", "0 new"):
        importing.place([importing.LabelledPhoto(source, "raw", "man", "1.jpg")], *TARGETS)
        assert expected in capsys.readouterr().out
    assert not Path("data/raw/man/1.jpg").samefile(source)
    assert source.read_bytes() == Path("data/raw/man/1.jpg").read_bytes()


def test_photos_of_others_are_neither_replaced_nor_removed(place):
    theirs = photo("data/raw/woman/1.jpg", "theirs")
    other = photo("data/raw/man/2.jpg", "another")
    importing.place([importing.LabelledPhoto(photo("src/1.jpg"), "raw", "man", "1.jpg")], *TARGETS)
    assert theirs.read_bytes() == b"theirs"
    with pytest.raises(script.Problem, match="another photo"):
        importing.place([importing.LabelledPhoto(photo("src/2.jpg"), "raw", "man", "2.jpg")], *TARGETS)
    assert other.read_bytes() == b"another"


@pytest.mark.parametrize("name", ["folders", *sets.SETS])
def test_a_missing_source_is_one_clear_line(place, monkeypatch, name):
    monkeypatch.setattr(sets, "SET", name)
    with pytest.raises(SystemExit) as error:
        (folders if name == "folders" else sets).main()
    line = str(error.value)
    assert "\n" not in line and (folders.SOURCE if name == "folders" else name) in line and "SOURCE=" in line
    assert not Path("data").exists()


def test_empty_sources_and_other_classes_are_refused(place):
    Path("utkface").mkdir()
    with pytest.raises(SystemExit, match="no photo found"):
        sets.main()
    photo("utkface/20_0_0_20170116.jpg.chip.jpg")
    photo("data/raw/hat/1.jpg")
    with pytest.raises(SystemExit, match="already has photos of hat"):
        sets.main()
    assert not Path("data/raw/man").exists()


@pytest.mark.parametrize("name", ["con", "AUX.jpg", "nul", "lpt1", "a:b", "what?", "a.", "a ", "a|b"])
def test_names_that_windows_does_not_allow_are_refused_there(name):
    assert not importing.is_file_name(name, windows=True) and importing.is_file_name(name, windows=False)
    assert importing.is_file_name("console", windows=True) and importing.is_file_name("Muñoz 早", windows=True)


def marked(data, flag, method):
    """A zip archive that says of all its files that they are encrypted, or packed by another method."""
    data = bytearray(data)
    for start, at in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        place = data.find(start)
        while place >= 0:
            data[place + at] |= flag
            data[place + at + 2] = method or data[place + at + 2]
            place = data.find(start, place + 4)
    return bytes(data)


@pytest.mark.parametrize(("form", "change", "reason"), [
    ("zip", lambda data: marked(data, 1, 0), "is encrypted, password required"),
    ("zip", lambda data: marked(data, 0, 9), "compression method"),  # Deflate64
    ("zip", lambda data: marked(data, 0, 99), "compression method"),
    ("xztar", lambda data: data[:9000] + bytes(200) + data[9200:], ""),
    ("bztar", lambda data: data[:9000] + bytes(200) + data[9200:], ""),
])
def test_an_archive_that_cannot_be_unpacked_is_one_line(place, form, change, reason):
    for i, name in enumerate(("man/a.jpg", "woman/b.jpg")):
        photo(f"src/{name}").write_bytes(np.random.default_rng(i).bytes(30_000))
    archive = Path(shutil.make_archive("x", form, "src"))
    archive.write_bytes(change(archive.read_bytes()))
    code, _, err = call(folders, f"SOURCE={archive.name}", cwd=place)
    assert code == 1 and err.startswith(f"error: {archive.name} cannot be unpacked (") and reason in err, err
    assert sorted(path.name for path in place.iterdir()) == ["src", archive.name]
