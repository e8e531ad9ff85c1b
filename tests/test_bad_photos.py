"""Bad photos, bad names and originals: the rest is done, in one line each, and nothing of the user's is lost."""

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
from photos import chunk, face, jpeg, rows
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
    """Fill a folder with photos, good ones and all others. Returns {name: the beginning of the reason} of those that
    cannot be read."""
    for name in KEPT[:-1]:
        face().save(folder / name)
    face().save(folder / KEPT[-1], save_all=True, append_images=[face(4), face(5)])
    for name, size in NO_FACE.items():
        Image.new("RGB", size, "gray").save(folder / name)
    whole = (folder / "a face.jpg").read_bytes()
    postscript = (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n"
                  b"(out.txt) (w) file closefile\n%%EOF\n")
    bad = {"empty.jpg": (b"", "not an image"), "text.jpg": (b"no photo", "not an image"),
           "cut.jpg": (whole[:3000], "unreadable"), "bomb.png": (claim(60_000, 60_000), "too large"),
           "hollow.png": (claim(9000, 9000), ""), "script.jpg": (postscript, "not an image"),
           "one.bmp": (jpeg(Image.new("RGB", (1, 1)), "BMP"), "too small")}
    for name, (data, _) in bad.items():
        (folder / name).write_bytes(data)
    reasons = {name: reason for name, (_, reason) in bad.items()}
    (folder / "folder.jpg").mkdir()
    if os.name != "nt":
        links = {"loop.jpg": "loop.jpg", "broken.jpg": "nowhere.jpg", "endless.jpg": "/dev/zero"}
        for name, target in links.items():
            (folder / name).symlink_to(target)
        (folder / "again").symlink_to(".")
        os.mkfifo(folder / "pipe.jpg")
        reasons |= dict.fromkeys([*links, "pipe.jpg"], "")
    return reasons


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A hostile class and a good one, on which processed.py has run: (folder, {name of a bad photo: reason}, bytes
    before, result)."""
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
    counts = {line.split()[0]: line.split()[1:4] for line in out.splitlines() if line.startswith(drawn.CLASSES)}
    assert counts == {"beard": ["2", "0", "0"], "hat": [str(len(KEPT)), str(len(NO_FACE)), str(len(bad))]}
    skipped = rows(folder / "processed" / "skipped.csv")
    assert {name: status.removesuffix(" now") for name, (status, _) in skipped.items()} == (
        dict.fromkeys(NO_FACE, "no face") | dict.fromkeys(bad, "unreadable"))
    assert all(skipped[name][1].startswith(reason) for name, reason in bad.items()), skipped
    assert all(reason and "\n" not in reason for _, reason in skipped.values())
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
    simple = processed.targets([folder / n for n in ("a.jpg", "a.png", "b.jpg", "sub/b.jpg")], folder, "faces")
    assert [p.name for p in simple] == ["a.jpg.jpg", "a.png.jpg", "b.jpg", "sub__b.jpg"]


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
