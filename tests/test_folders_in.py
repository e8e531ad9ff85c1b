"""Folders as people have them: of Macs and systems, both forms of a letter, renamed, on disks that round times."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import drawn
import importing
import processed
import test as step4
import validation
from faces import reading
from photos import fill, jpeg, rows
from running import ROOT, settle


def test_all_that_lies_there_is_read_or_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settle(processed, monkeypatch, "WORKERS=1", "DETECTOR=haar")
    fill(Path("data/raw"))
    hat = Path("data/raw/hat")
    good = {"a.jfif": "JPEG", "b.jpe": "JPEG", "c.mpo": "MPO", "d": "JPEG", "e.jpg_large": "PNG", "f.bin": "WEBP",
            "h.dib": "BMP", "i.avif": "AVIF", "j.ppm": "PPM", "k.HEIC": "HEIF"}
    for i, (name, form) in enumerate(good.items()):
        (hat / name).write_bytes(jpeg(drawn.draw_face(i, "hat"), form))
    bad = {"x.heic": b"\0\0\0\x18ftypheic" + bytes(99), "x.dng": b"II*\0" + bytes(99),
           "IMG_1": b"\0\0\0\x18ftypmif1heic", "y.heic": b"",
           "raw.dng": jpeg(form="TIFF", tiffinfo={50706: b"\1\4\0\0"}), "z.jxl": b"\xff\x0a"}
    other = {"notes.txt": b"none", "clip.mp4": b"\0\0\0\x18ftypisom", "README": b"none", "PI": b"P1", "BM": b"BMX here"}
    system = {".DS_Store": b"x", "Thumbs.db": b"x", "desktop.ini": b"x", "._0.png": jpeg(), ".hidden.jpg": jpeg()}
    for name, data in {**bad, **other, **system}.items():
        (hat / name).write_bytes(data)
    if os.name != "nt":
        os.mkfifo(hat / "pipe")
        other["pipe"] = None
    for again in range(2):
        processed.main()
        told = capsys.readouterr().out
        counts = next(line.split()[1:4] for line in told.splitlines() if line.startswith("hat"))
        kept = 4 + len(good)
        assert f"{kept} of {kept + len(bad)} photos kept" in told
        assert counts == [str(kept - 2), "0", str(len(bad))] and f"{len(other)} files are not photos" in told
        found = rows()
        assert set(found) == set(bad) | set(other)
        assert all(status == ("unreadable" if name in bad else "no photo") for name, (status, _) in found.items())
        assert "HEIC as JPEG" in found["x.heic"][1] and "HEIC" in found["IMG_1"][1] and "raw" in found["raw.dng"][1]
        assert told.startswith(f"{0 if again else kept + len(bad)} photos to crop")


SYSTEM = ["__MACOSX", ".ipynb_checkpoints", "System Volume Information", "$RECYCLE.BIN", "@eaDir", "lost+found"]


def test_folders_of_systems_and_without_photos_are_no_classes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settle(processed, monkeypatch, "WORKERS=1", "DETECTOR=haar")
    fill(Path("data/raw"))
    for name in SYSTEM:
        (Path("data/raw") / name / "hat").mkdir(parents=True)
        (Path("data/raw") / name / "x.jpg").write_bytes(jpeg())
        (Path("data/raw/hat") / name).mkdir()
        (Path("data/raw/hat") / name / "x.jpg").write_bytes(jpeg())
    Path("data/raw/nobody").mkdir()
    Path("data/raw/nobody/notes.txt").write_text("none")
    processed.main()
    told = capsys.readouterr().out
    assert sorted(p.name for p in Path("processed/faces").iterdir() if p.is_dir()) == ["beard", "hat"]
    assert "nobody" in told and "4 of 4 photos kept" in told
    Path("processed/faces/gone").mkdir()
    (Path("processed/faces") / "__MACOSX").mkdir()
    settle(validation, monkeypatch)
    assert not validation.main()
    assert "gone" in capsys.readouterr().out and sorted(p.name for p in Path("processed/train").glob("[a-z]*")) == [
        "beard", "hat"]


def test_a_renamed_class_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settle(processed, monkeypatch, "WORKERS=1", "DETECTOR=haar")
    fill(Path("data/raw"))
    processed.main()
    Path("data/raw/beard").rename("data/raw/stubble")
    Path("data/raw/hat").rename("data/raw/cap")
    Path("processed/faces/hat/mine.txt").write_text("of the user")
    processed.main()
    assert sorted(p.name for p in Path("processed/faces").iterdir() if p.is_dir()) == ["cap", "hat", "stubble"]
    assert [p.name for p in Path("processed/faces/hat").iterdir()] == ["mine.txt"], "what is not ours stays"
    settle(validation, monkeypatch)
    assert not validation.main() and "cap " in capsys.readouterr().out


def test_an_archive_of_a_mac(tmp_path):
    """faces/man, faces/woman and __MACOSX/faces/... with a shadow for each photo."""
    fill(tmp_path / "zipped" / "faces", 2, ("man", "woman"))
    for photo in [p for p in (tmp_path / "zipped" / "faces").rglob("*") if p.is_file()]:
        shadow = tmp_path / "zipped" / "__MACOSX" / photo.relative_to(tmp_path / "zipped").with_name("._" + photo.name)
        shadow.parent.mkdir(parents=True, exist_ok=True)
        shadow.write_bytes(b"\0\5\x16\7" + bytes(80))
    (tmp_path / "zipped" / "faces" / ".DS_Store").write_bytes(b"x")
    shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path / "zipped")
    done = subprocess.run([sys.executable, str(ROOT / "data" / "folders.py"), "SOURCE=photos.zip"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    found = sorted(p.relative_to(tmp_path / "data/raw").as_posix() for p in (tmp_path / "data/raw").glob("*/*"))
    assert found == ["man/0.png", "man/1.png", "woman/0.png", "woman/1.png"]
    (tmp_path / "zipped" / "__MACOSX" / "labels.txt").write_text("shadow")
    (tmp_path / "zipped" / "faces" / "labels.txt").write_text("right")
    assert importing.find(tmp_path / "zipped", "labels.txt").read_text() == "right"


@pytest.fixture
def two_forms(tmp_path):
    """Skips where the disk takes the two forms of a name for one."""
    (tmp_path / "e\u0301").mkdir()
    if (tmp_path / "\u00e9").exists():
        pytest.skip("this disk takes both forms for one name")
    (tmp_path / "e\u0301").rmdir()


def test_both_forms_of_a_name_are_one_class(tmp_path, monkeypatch, two_forms, capsys):
    monkeypatch.chdir(tmp_path)
    settle(processed, monkeypatch, "WORKERS=1", "DETECTOR=haar")
    composed, apart = "ni\u00f1a", "nin\u0303a"
    fill(Path("data/raw"), 2, ("man", composed))
    fill(Path("data/raw"), 3, (apart,))
    for count in (7, 0):
        processed.main()
        assert capsys.readouterr().out.startswith(f"{count} photos to crop")
    assert sorted(p.name for p in Path("processed/faces").iterdir() if p.is_dir()) == ["man", composed]
    assert len(list(Path("processed/faces", composed).iterdir())) == 5, "no crop is lost to an equal name"
    for name in (composed, apart):
        assert list(reading.class_folders("data/raw", "")) == ["man", composed]
        shutil.rmtree(Path("data/raw", name))
        fill(Path("data/raw"), 2, (name,))
    fill(Path("data/test"), 1, ("man", apart))
    photos, clips = step4.files_by_class("data/test", ["man", composed], "w.pt")
    assert [name for _, name in photos] == ["man", composed] and all(path.is_file() for path, _ in photos) and not clips
    Path("faces/man").mkdir(parents=True)
    for name in ("man", composed, apart):
        shutil.copytree(Path("data/raw", name), Path("faces", name), dirs_exist_ok=True)
    settle(validation, monkeypatch, "FACES_DIR=faces", "TRAIN_DIR=t", "VALID_DIR=v")
    validation.main()
    assert sorted(p.name for p in Path("t").iterdir() if p.is_dir()) == ["man", composed]
    assert len([p for side in ("t", "v") for p in Path(side, composed).rglob("*.png")]) == 4
