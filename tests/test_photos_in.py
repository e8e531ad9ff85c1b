"""Photos and folders as people have them: any name and depth, damaged facts, huge, half written; of Macs, drives."""

import csv
import io
import os
import shutil
import struct
import subprocess
import sys
import unicodedata
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import drawn
import importing
import processed
import test as step4
import validation
from faces import mending, reading
from live import stills
from terminal import files, script

ROOT = Path(__file__).resolve().parent.parent
PHOTO = drawn.draw_face(3, "hat")
GRAY = cv2.cvtColor(PHOTO, cv2.COLOR_RGB2GRAY)


def jpeg(picture=PHOTO, form="JPEG", **settings):
    """The bytes of a picture as a file."""
    data = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(data, form, **settings)
    return data.getvalue()


def read(path, data):
    """What read_photo() makes of these bytes."""
    path.write_bytes(data)
    return reading.read_photo(path)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# ------------------------------------------------------------------------------------------------ beside the pixels

ENTRIES = {"a signed width": struct.pack("<HHLl", 256, 9, 1, -5),
           "an unknown type": struct.pack("<HHLl", 305, 99, 1, 1),
           "a count of 2^31": struct.pack("<HHLl", 271, 2, 2 ** 31, 40), "a list out of the file":
           struct.pack("<HHLl", 0x8769, 4, 1, 2 ** 30), "a fraction over nothing": struct.pack("<HHLl", 282, 5, 1, -9)}


@pytest.mark.parametrize("what", ENTRIES)
@pytest.mark.parametrize("first", [True, False])
def test_one_bad_tag_does_not_keep_a_photo_from_being_turned(what, first, tmp_path):
    turn = struct.pack("<HHLHH", 274, 3, 1, 6, 0)
    entries = (ENTRIES[what] + turn) if first else turn + ENTRIES[what]
    exif = b"Exif\0\0II*\0" + struct.pack("<LH", 8, 2) + entries + bytes(4)
    image = read(tmp_path / "a.jpg", jpeg(exif=exif))
    assert image.shape == (PHOTO.shape[1], PHOTO.shape[0], 3)
    assert np.abs(image.astype(int) - np.rot90(PHOTO, -1)).mean() < 8


@pytest.mark.parametrize("value", range(10))
def test_all_orientations(value, tmp_path):
    turned = {2: np.fliplr, 3: lambda p: np.rot90(p, 2), 4: np.flipud, 5: lambda p: p.transpose(1, 0, 2),
              6: lambda p: np.rot90(p, -1), 7: lambda p: np.rot90(p, 2).transpose(1, 0, 2), 8: np.rot90}
    wanted, exif = turned.get(value, lambda p: p)(PHOTO), Image.Exif()
    exif[274] = value
    for form, settings in (("JPEG", {"exif": exif}), ("PNG", {"exif": exif}), ("WEBP", {"exif": exif}),
                           ("TIFF", {"tiffinfo": {274: value}})):
        image = read(tmp_path / "a", jpeg(form=form, **settings))
        assert image.shape == wanted.shape and np.abs(image.astype(int) - wanted).mean() < 12, form


def test_a_gray_tiff_that_lies_is_turned_whole(tmp_path):
    for picture in (GRAY, GRAY.astype(np.uint16) * 257):
        image = read(tmp_path / "a.tif", jpeg(picture, "TIFF", tiffinfo={274: 6}))
        np.testing.assert_array_equal(image[:, :, 0], np.rot90(GRAY, -1))


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "iCCP", "at the end", "much in all"])
def test_long_texts_in_a_png_are_left_out(kind, tmp_path):
    info, settings = PngImagePlugin.PngInfo(), {}
    if kind == "zTXt":
        info.add_text("prompt", "a girl " * 300_000, zip=True)
    if kind == "iTXt":
        info.add_itxt("prompt", "a girl " * 300_000, zip=True)
    if kind == "iCCP":
        settings["icc_profile"] = bytes(3_000_000)
    data = jpeg(form="PNG", pnginfo=info, **settings)
    if kind == "at the end":
        data = data[:-12] + chunk(b"zTXt", b"prompt\0\0" + zlib.compress(bytes(2_000_000))) + data[-12:]
    if kind == "much in all":
        data = data[:33] + chunk(b"tEXt", b"prompt\0" + b"x" * 70_000_000) + data[33:]
    np.testing.assert_array_equal(read(tmp_path / "a.png", data), PHOTO)


# ------------------------------------------------------------------------------------------------ depths and sizes

@pytest.mark.parametrize(("bits", "factor"), [(10, 4), (12, 16), (14, 64), (16, 257)])
@pytest.mark.parametrize("form", [".tif", ".png"])
def test_all_depths_come_out_alike(bits, factor, form, tmp_path):
    for picture in (GRAY, PHOTO[:, :, ::-1]):
        data = cv2.imencode(form, np.ascontiguousarray(picture).astype(np.uint16) * factor)[1].tobytes()
        image = read(tmp_path / f"a{form}", data)
        wanted = PHOTO if picture.ndim == 3 else np.repeat(GRAY[:, :, None], 3, 2)
        assert np.abs(image.astype(int) - wanted).max() <= 3


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_float_photos_keep_their_light(top, tmp_path):
    for picture in (GRAY, PHOTO[:, :, ::-1]):
        numbers = np.ascontiguousarray(picture).astype(np.float32) * (top / 255)
        image = read(tmp_path / "f.tif", cv2.imencode(".tif", numbers)[1].tobytes())
        assert abs(image.mean() - picture.mean()) < 3
    light = GRAY.astype(np.float32) / 255
    light[:2], light[-1, :3] = 1.7, (np.nan, np.inf, -np.inf)  # brighter than white, and no numbers
    assert abs(read(tmp_path / "f.tif", jpeg(light, "TIFF")).mean() - GRAY.mean()) < 3


def test_other_byte_orders_and_modes(tmp_path):
    scanned = (GRAY.astype(np.uint32) * 257).astype(">u2")
    tags = [(256, 4, GRAY.shape[1]), (257, 4, GRAY.shape[0]), (258, 3, 16 << 16), (259, 3, 1 << 16), (262, 3, 1 << 16),
            (273, 4, 150), (277, 3, 1 << 16), (278, 4, GRAY.shape[0]), (279, 4, scanned.nbytes)]
    head = b"MM\0*" + struct.pack(">LH", 8, len(tags)) + b"".join(struct.pack(">HHLL", t, k, 1, v) for t, k, v in tags)
    image = read(tmp_path / "a.tif", (head + bytes(150 - len(head))) + scanned.tobytes())
    np.testing.assert_array_equal(image[:, :, 1], GRAY)
    for mode in ("LA", "PA", "P", "CMYK", "RGBA", "1", "YCbCr"):
        image = read(tmp_path / "a.tif", jpeg(Image.fromarray(PHOTO).convert(mode), "TIFF"))
        assert image.shape == PHOTO.shape and abs(image.mean() - PHOTO.mean()) < 4, mode


def test_photos_of_phones_are_not_too_large(tmp_path):
    huge = jpeg(np.full((12000, 9000, 3), 90, np.uint8), quality=30)
    image = read(tmp_path / "a.jpg", huge)
    assert image.shape == (3000, 2250, 3) and abs(image.mean() - 90) < 2
    frame = huge.index(b"\xff\xc0") + 5

    def claim(height, width):
        return huge[:frame] + struct.pack(">HH", height, width) + huge[frame + 4:]

    for size in ((60_000, 60_000), (20_000, 20_000), (64_000, 3_000)):  # the last cannot be reduced
        with pytest.raises(reading.PhotoError, match="too large"):
            read(tmp_path / "a.jpg", claim(*size))
    with pytest.raises(reading.PhotoError, match="too large"):
        read(tmp_path / "a.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 11_000, 11_000, 8, 2, 0,
                                                                                 0, 0)) + chunk(b"IEND", b""))


def test_a_photo_of_several_pictures_is_reduced_like_others(tmp_path):
    large = Image.new("RGB", (8000, 6000), (90, 90, 90))
    data = jpeg(large, "MPO", save_all=True, append_images=[large.resize((800, 600))])
    assert read(tmp_path / "a.mpo", data).shape == read(tmp_path / "a.jpg", jpeg(large)).shape == (3000, 4000, 3)


# ------------------------------------------------------------------------------------------------ half written

KINDS = {"plain": {}, "full colour": {"subsampling": 0}, "progressive": {"progressive": True}, "gray": {},
         "restarts": {"restart_marker_blocks": 7}, "restarts by row": {"restart_marker_rows": 1},
         "coarse": {"quality": 20}}


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_end_mark_may_lack(kind, tmp_path):
    data, path = jpeg(GRAY if kind == "gray" else PHOTO, **KINDS[kind]), tmp_path / "a.jpg"
    whole = read(path, data)
    for end in (data[:-1], data[:-2], data[:-2] + bytes(5000)):
        np.testing.assert_array_equal(read(path, end), whole)
    marks = [i for i in range(700, len(data) - 9) if data[i] == 0xFF and 0xC0 <= data[i + 1] <= 0xDA]
    cuts = [len(data) - n for n in (3, 4, 6, 9, 30)] + list(range(300, len(data) - 20, len(data) // 12)) + marks[::9]
    for cut in cuts:
        with pytest.raises(reading.PhotoError):
            read(path, data[:cut])
    with pytest.raises(reading.PhotoError):
        read(path, data[:len(data) // 2] + bytes(len(data) // 2))  # as a damaged disk leaves it
    assert not mending.lacks_end_mark(data)


# ------------------------------------------------------------------------------------------------ names

def fill(folder, count=2, names=drawn.CLASSES):
    """Class folders with drawn faces."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(drawn.draw_face(i, drawn.CLASSES[0])).save(folder / name / f"{i}.png")


def settle(module, monkeypatch, *arguments):
    """Set a script's constants as its command line would, until the test ends."""
    for name in script.constants(vars(module)):
        monkeypatch.setattr(module, name, getattr(module, name))
    script.override(vars(module), arguments)


def rows(path="processed/skipped.csv"):
    with open(path, encoding="utf-8", newline="") as file:
        return {Path(row["photo"]).name: (row["status"], row["reason"]) for row in csv.DictReader(file)}


def test_all_that_lies_there_is_read_or_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settle(processed, monkeypatch, "WORKERS=1", "FINDERS=('haar',)")
    fill(Path("data/raw"))
    hat = Path("data/raw/hat")
    good = {"a.jfif": "JPEG", "b.jpe": "JPEG", "c.mpo": "MPO", "d": "JPEG", "e.jpg_large": "PNG", "f.bin": "WEBP",
            "h.dib": "BMP", "i.avif": "AVIF", "j.ppm": "PPM"}
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
        assert counts == [str(kept - 2), "0", str(len(bad))] and f"{len(other)} files are no photos" in told
        found = rows()
        assert set(found) == set(bad) | set(other)
        assert all(status == ("unreadable" if name in bad else "no photo") for name, (status, _) in found.items())
        assert "HEIC as JPEG" in found["x.heic"][1] and "HEIC" in found["IMG_1"][1] and "raw" in found["raw.dng"][1]
        assert told.startswith(f"{0 if again else kept + len(bad)} photos to crop")


def test_no_two_photos_share_an_annotated_picture(tmp_path):
    names = ["a.webp", "a.webp.jpg", "A.WEBP.jpg", "b.png", "b.bmp", "b.bmp.jpg", "sub/a.webp", "n\u0303.jpg",
             "\u00f1.jpg"]
    targets = stills.outputs(tmp_path / "out", [tmp_path / n for n in names], tmp_path)
    targets = [targets(i) for i in range(len(names))]
    assert len({unicodedata.normalize("NFC", str(t)).lower() for t in targets}) == len(names)
    assert all(t.suffix in (".jpg", ".png") for t in targets) and targets[3].name == "b.png"
    assert targets[1].name == "a.webp.jpg" and targets[5].name == "b.bmp.jpg" and targets[6].name == "a.webp.jpg"


# ------------------------------------------------------------------------------------------------ folders and drives

SYSTEM = ["__MACOSX", ".ipynb_checkpoints", "System Volume Information", "$RECYCLE.BIN", "@eaDir", "lost+found"]


def test_folders_of_systems_and_without_photos_are_no_classes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settle(processed, monkeypatch, "WORKERS=1", "FINDERS=('haar',)")
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
    settle(processed, monkeypatch, "WORKERS=1", "FINDERS=('haar',)")
    fill(Path("data/raw"))
    processed.main()
    os.rename("data/raw/hat", "data/raw/cap")
    Path("processed/faces/hat/mine.txt").write_text("of the user")
    processed.main()
    assert Path("processed/faces/hat/mine.txt").exists(), "what is not ours stays"
    Path("processed/faces/hat/mine.txt").unlink()
    processed.main()
    assert sorted(p.name for p in Path("processed/faces").iterdir() if p.is_dir()) == ["beard", "cap"]
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
    found = sorted(p.relative_to(tmp_path / "data/raw").as_posix() for p in (tmp_path / "data/raw").rglob("*.*"))
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
    settle(processed, monkeypatch, "WORKERS=1", "FINDERS=('haar',)")
    composed, apart = "ni\u00f1a", "nin\u0303a"
    fill(Path("data/raw"), 2, ("man", composed))
    fill(Path("data/raw"), 3, (apart,))
    for count in (7, 0):
        processed.main()
        assert capsys.readouterr().out.startswith(f"{count} photos to crop")
    assert sorted(p.name for p in Path("processed/faces").iterdir() if p.is_dir()) == ["man", composed]
    assert len(list(Path("processed/faces", composed).iterdir())) == 5, "no crop is lost to an equal name"
    for name in (composed, apart):
        assert files.classes_of("data/raw", "") == ["man", composed]
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


@pytest.mark.parametrize("unit", [100, 10 ** 3, 10 ** 7, 10 ** 9, 2 * 10 ** 9])
def test_crops_on_a_disk_that_rounds_times_are_known_again(unit, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settle(processed, monkeypatch, "WORKERS=1", "FINDERS=('haar',)")
    fill(Path("data/raw"), 1)
    for i, photo in enumerate(sorted(Path("data/raw").rglob("*.png"))):
        os.utime(photo, ns=(1_700_000_000_123_456_789 + i, 1_700_000_001_123_456_789 + i))
    processed.main()
    assert capsys.readouterr().out.startswith("2 photos to crop")
    for i, crop in enumerate(Path("processed/faces").rglob("*.jpg")):
        kept = crop.stat().st_mtime_ns // unit * unit + i * unit  # cut off, and rounded up
        os.utime(crop, ns=(kept, kept))
    processed.main()
    assert capsys.readouterr().out.startswith("0 photos to crop, 2 unchanged")
    os.utime("data/raw/hat/0.png", ns=(1_700_000_009_123_456_789, 1_700_000_009_123_456_789))
    processed.main()
    assert capsys.readouterr().out.startswith("1 photos to crop, 1 unchanged")


def test_a_time_that_was_not_rounded_is_another():
    assert processed.same_time(10 ** 18 + 5, 10 ** 18 + 5) and not processed.same_time(10 ** 18 + 5, 10 ** 18 + 6)
    assert not processed.same_time(10 ** 18 + 1, 10 ** 18 + 10 ** 9)
