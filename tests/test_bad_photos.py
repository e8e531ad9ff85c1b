"""Bad photos, bad names and originals: the rest is done, in one line each, and nothing of the user's is lost."""

import csv
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
from PIL import Image

import drawn
import model as networks
import processed
import validation
from faces import cropping, reading
from learn import runs
from photos import chunk, face, jpeg
from running import POSIX, run, settle
from strangers import facts
from terminal import script


def claim(width, height):
    """A PNG of 24-bit colour that claims a size and holds next to nothing."""
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b""))


KEPT = ["a face.jpg", "it's $quoted & co.png", "😀 ñ.webp", "x" * 200 + ".jpg", "animated.gif"]
NO_FACE = {"wide.jpg": (20_000, 300), "wide.png": (20_000, 300), "tall.png": (30, 20_000)}


def hostile(folder):
    """Fill a folder with photos, good ones and all others. Returns the names of those that cannot be read."""
    for name in KEPT[:-1]:
        face().save(folder / name)
    face().save(folder / KEPT[-1], save_all=True, append_images=[face(4), face(5)])
    for name, size in NO_FACE.items():
        Image.new("RGB", size, "gray").save(folder / name)
    whole = (folder / "a face.jpg").read_bytes()
    bad = {"empty.jpg": b"", "text.jpg": b"no photo", "cut.jpg": whole[:3000], "bomb.png": claim(60_000, 60_000),
           "hollow.png": claim(9000, 9000), "one.bmp": None, "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n"
           b"%%BoundingBox: 0 0 100 100\n%%EndComments\n(out.txt) (w) file closefile\n%%EOF\n"}
    for name, data in bad.items():
        if data is None:
            Image.new("RGB", (1, 1)).save(folder / name)
        else:
            (folder / name).write_bytes(data)
    (folder / "folder.jpg").mkdir()
    if os.name != "nt":
        links = {"loop.jpg": "loop.jpg", "broken.jpg": "nowhere.jpg", "endless.jpg": "/dev/zero"}
        for name, target in links.items():
            (folder / name).symlink_to(target)
        (folder / "again").symlink_to(".")
        os.mkfifo(folder / "pipe.jpg")
        bad |= dict.fromkeys([*links, "pipe.jpg"])
    return set(bad)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A hostile class and a good one, on which processed.py has run: (folder, bad names, bytes before, result)."""
    folder = tmp_path_factory.mktemp("hostile")
    raw = folder / "data" / "raw"
    for name in drawn.CLASSES:
        (raw / name).mkdir(parents=True)
    for i in range(2):
        face(i, "beard").save(raw / "beard" / f"{i}.png")
    bad = hostile(raw / "hat")
    before = {p: p.read_bytes() for p in raw.rglob("*") if p.is_file() and p.name != "endless.jpg"}
    return folder, bad, before, run("processed.py", cwd=folder)


def test_bad_photos_are_counted_and_the_rest_is_done(project):
    folder, bad, _, (code, out, err) = project
    assert code == 0 and "Traceback" not in err, err
    counts = next(line.split()[1:4] for line in out.splitlines() if line.startswith("hat"))
    assert counts == [str(len(KEPT)), str(len(NO_FACE)), str(len(bad))]
    with open(folder / "processed" / "skipped.csv", encoding="utf-8") as file:
        rows = {Path(row["photo"]).name: row for row in csv.DictReader(file)}
    assert set(rows) == bad | set(NO_FACE)
    assert rows["script.jpg"]["reason"] == "not an image", "nothing but images may be opened, least of all programs"
    assert all(row["reason"] and "\n" not in row["reason"] for row in rows.values())
    crops = list((folder / "processed" / "faces" / "hat").iterdir())
    assert len(crops) == len(KEPT) and all(cropping.read_crop(p).shape == (224, 224, 3) for p in crops)


def test_originals_are_byte_identical(project):
    folder, _, before, _ = project
    assert all(path.read_bytes() == data for path, data in before.items())
    assert not (folder / "out.txt").exists(), "PostScript in a photo was run"


def test_realtime_skips_bad_photos(project, tmp_path):
    folder, bad, before, _ = project
    runs.save_weights(tmp_path / "w.pt", facts(networks.build("small", 2)))
    source = folder / "data" / "raw" / "hat"
    code, out, err = run("realtime.py", f"SOURCE={source}", f"OUTPUT={tmp_path / 'out'}", "SHOW=False",
                         f"WEIGHTS={tmp_path / 'w.pt'}", cwd=tmp_path)
    assert code == 0 and "Traceback" not in err, err
    good = len(KEPT) + len(NO_FACE)
    assert f"{good} photos, {len(KEPT)} faces, {len(NO_FACE)} no face, {len(bad)} unreadable" in out
    assert len(list((tmp_path / "out").glob("[!.]*"))) == good
    assert all(path.read_bytes() == data for path, data in before.items())


def test_a_photo_without_permission(tmp_path, monkeypatch):
    """As the system answers; root may read everything, so that permissions themselves would test nothing there."""
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    face().save(tmp_path / "a.jpg")
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(reading.PhotoError, match=r"unreadable \(Permission denied\)"):
        reading.read_photo(tmp_path / "a.jpg")


def test_no_two_photos_share_a_crop():
    """Names that differ by suffix, by folder, by case, or at the 200th letter only."""
    folder = Path("raw/hat")
    names = ["a.jpg", "a.png", "a.jpg.png", "sub/b.jpg", "sub__b.jpg", "C.jpg", "c.jpg", *(f"{'d' * 200}{i}.jpg"
             for i in range(3)), f"{'e' * 150}/{'e' * 150}.jpg", "\udcff.jpg", "\udcfe.jpg", "e.jpg"]
    crops = processed.targets([folder / n for n in names], folder, "faces")
    assert len({str(p).lower() for p in crops}) == len(names) and crops[-1].name == "e.jpg"
    assert all(len(p.name.encode()) < 220 for p in crops), "names are text, and no longer than a disk takes"
    assert crops == processed.targets([folder / n for n in names], folder, "faces")


@POSIX
def test_a_name_that_is_no_text(tmp_path, monkeypatch, capsys):
    """Linux takes any bytes for a name."""
    for name in drawn.CLASSES:
        (tmp_path / "raw" / name).mkdir(parents=True)
        try:
            for seed, ending in ((1, b"/caf\xe9.png"), (2, b"/th\xe9.png")):
                with open(os.fsencode(tmp_path / "raw" / name) + ending, "wb") as file:
                    face(seed, name).save(file, "PNG")
            (tmp_path / "raw" / name / "empty\udce9.png").write_bytes(b"")
        except OSError:
            pytest.skip("this disk takes text only")
    settle(processed, monkeypatch, f"RAW_DIR={tmp_path / 'raw'}", f"FACES_DIR={tmp_path / 'faces'}",
           f"SKIPPED={tmp_path / 'skipped.csv'}", "WORKERS=1")
    for already in ("0 unchanged", "6 unchanged"):
        processed.main()
        assert already in capsys.readouterr().out
    settle(validation, monkeypatch, f"FACES_DIR={tmp_path / 'raw'}", f"TRAIN_DIR={tmp_path / 'train'}",
           f"VALID_DIR={tmp_path / 'valid'}")
    with pytest.raises(SystemExit) as stop:
        script.run(validation.main)
    assert not stop.value.code
    os.rename(os.fsencode(tmp_path / "raw" / "hat"), os.fsencode(tmp_path / "raw") + b"/h\xe9")
    with pytest.raises(SystemExit, match="is not valid UTF-8: rename it"):
        reading.class_folders(tmp_path / "raw", "")


def test_what_may_pass_is_tried_again(tmp_path, monkeypatch, capsys):
    """A drive in the cloud that fails once: the next run reads the photo, though its time is as it was."""
    monkeypatch.chdir(tmp_path)
    for name in drawn.CLASSES:
        Path("data/raw", name).mkdir(parents=True)
        for i in range(2):
            face(i, name).save(f"data/raw/{name}/{i}.png")
    real = reading.decode

    def fail_once(file, path):
        if path.name == "0.png":
            raise OSError(5, "Input/output error")
        return real(file, path)

    monkeypatch.setattr(processed, "WORKERS", 1)
    monkeypatch.setattr(processed, "results_of", lambda jobs: ((job, processed.one_photo(job)) for job in jobs))
    monkeypatch.setattr(reading, "decode", fail_once)
    processed.main()
    assert len(list(Path("processed/faces").glob("*/*.jpg"))) == 2 and "Input/output error" in Path(
        "processed/skipped.csv").read_text()
    monkeypatch.setattr(reading, "decode", real)
    processed.main()
    assert len(list(Path("processed/faces").glob("*/*.jpg"))) == 4


def test_parts_of_a_data_set_are_no_classes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part in ("Training", "Validation"):
        for name in ("male", "female"):
            Path("data/raw", part, name).mkdir(parents=True)
            face().save(f"data/raw/{part}/{name}/0.png")
    with pytest.raises(SystemExit, match="Training, Validation, and each of these has female, male, which seem"):
        processed.main()


def test_a_damaged_photo_takes_no_more_memory_than_it_has_bytes(tmp_path):
    """On Windows memory that is asked for is taken, by every process."""
    (tmp_path / "a.png").write_bytes(jpeg()[:300])
    tracemalloc.start()
    with pytest.raises(reading.PhotoError):
        reading.read_photo(tmp_path / "a.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
