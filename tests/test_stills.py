"""Photos and folders of photos in realtime.py: annotated copies, one for each, that replace nothing."""

import os
import shutil
import unicodedata

import cv2
import numpy as np
import pytest
from PIL import Image

import clips
from faces import detectors, reading
from live import controls, results, stills, window
from photos import fill, save
from running import POSIX
from terminal import records, script
from watching import StandIn


def annotate(photos):
    """The counts of stills.annotate() without a window."""
    return stills.annotate(photos, StandIn(), controls.Controls(), results.Results(), detectors.get("haar"),
                           window.Window(False))


def test_a_picture_that_its_format_cannot_hold_is_said(tmp_path, capsys):
    """A PNG in a .jpg name, longer than JPEG allows, is shown but not written; the next photo is."""
    (tmp_path / "in").mkdir()
    Image.new("RGB", (24, 70_000), "gray").save(tmp_path / "in" / "a.jpg", "PNG")
    Image.new("RGB", (90, 90), "gray").save(tmp_path / "in" / "b.jpg")

    photos = stills.album(tmp_path / "in", tmp_path / "out")
    counts = annotate(photos)
    assert counts["photos"] == 2 and counts["written"] == 1
    assert [p.name for p in (tmp_path / "out").glob("[!.]*")] == ["b.jpg"]
    assert "a.jpg cannot be written as an image (24x70000 pixels)" in capsys.readouterr().out


def test_an_output_folder_that_disappears_in_mid_run_ends_it(tmp_path, monkeypatch):
    fill(tmp_path / "in", 2)
    photos = stills.album(tmp_path / "in", tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(script.Problem, match="is gone"):
        annotate(photos)


def test_photos_of_a_folder_are_annotated_and_bad_ones_counted(tmp_path, capsys):
    folder, target = tmp_path / "in", tmp_path / "out"
    face = clips.person("hat", 3)
    save(folder / "sub" / "face.png", face)
    save(folder / "wall.jpg", clips.scene(2))
    (folder / "broken.jpg").write_bytes(b"no photo")
    album = stills.album(folder, target)
    counts = annotate(album)
    assert counts == {"photos": 2, "faces": 1, "no face": 1, "unreadable": 1, "written": 2, "stopped": False}
    assert sorted(p.name for p in target.rglob("[!.]*.*")) == ["face.png", "wall.jpg"]
    assert np.abs(reading.read_photo(target / "sub" / "face.png").astype(int) - face).max() > 60
    assert "sub/face.png: hat 90%" in capsys.readouterr().out


def test_photos_never_replace_their_sources(tmp_path):
    save(tmp_path / "a.jpg", clips.scene(0))
    with pytest.raises(SystemExit, match="replace"):
        stills.outputs(tmp_path, [tmp_path / "a.jpg"], tmp_path)


def test_annotated_pictures_replace_no_other_files(tmp_path):
    """One of the user's is in the way: nothing is begun. What an earlier run wrote is replaced."""
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name, clips.scene(0))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.png").write_text("mine")
    for output in ("out", "out/b.png"):
        with pytest.raises(script.Problem, match=r"b\.png already exists"):
            stills.album(tmp_path / "in" / ("b.png" if output != "out" else ""), tmp_path / output)
    assert (tmp_path / "out" / "b.png").read_text() == "mine"
    for _ in range(2):
        album = stills.album(tmp_path / "in", tmp_path / "new")
        annotate(album)
    assert len(list((tmp_path / "new").glob("*.png"))) == 2
    (tmp_path / "raw").mkdir()
    records.claim(tmp_path / "raw", ["a.png"])  # as an importer places a photo
    os.link(tmp_path / "in" / "a.png", tmp_path / "raw" / "a.png")
    with pytest.raises(SystemExit, match="would replace the photos themselves"):
        stills.album(tmp_path / "in", tmp_path / "raw")


def test_a_name_for_a_picture_is_no_folder(tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name, clips.person("hat", 3))
    one, all_of_them = tmp_path / "in" / "a.png", tmp_path / "in"
    for name in ("ann.tiff", "ann.JPG", "ann.webp"):
        album = stills.album(one, tmp_path / name)
        annotate(album)
        assert cv2.imread(str(tmp_path / name)).shape == cv2.imread(str(one)).shape
    for name in ("out.mp4", "ann.heic", "ann.gif", "ann.dng"):
        with pytest.raises(SystemExit, match=f"OUTPUT=.*{name}: a photo is written to a folder, or to a file"):
            stills.album(one, tmp_path / name)
    for name in ("out.mp4", "new.tiff", "ann.JPG", "new.heic"):
        with pytest.raises(SystemExit, match=f"OUTPUT=.*{name}: 2 photos are written to a folder: set OUTPUT"):
            stills.album(all_of_them, tmp_path / name)
    (tmp_path / "old.jpg").mkdir()
    for folder in ("old.jpg", "v1.2"):
        assert stills.album(one, tmp_path / folder)[0].target == tmp_path / folder / "a.png"


def test_clips_among_photos_are_named(tmp_path, capsys):
    (tmp_path / "c d.mp4").write_bytes(b"a clip")
    with pytest.raises(SystemExit, match=r"1 clip.*['\"]SOURCE=.*c d\.mp4"):
        stills.album(tmp_path)
    save(tmp_path / "a.png", clips.scene(0))
    assert len(stills.album(tmp_path)) == 1 and "c d.mp4" in capsys.readouterr().out


def test_no_two_photos_share_an_annotated_picture(tmp_path):
    names = ["a.webp", "a.webp.jpg", "A.WEBP.jpg", "b.png", "b.bmp", "b.bmp.jpg", "sub/a.webp", "n\u0303.jpg",
             "\u00f1.jpg"]
    targets = stills.outputs(tmp_path / "out", [tmp_path / n for n in names], tmp_path)
    assert len({unicodedata.normalize("NFC", str(t)).lower() for t in targets}) == len(names)
    assert all(t.suffix in (".jpg", ".png") for t in targets) and targets[3].name == "b.png"
    assert targets[1].name == "a.webp.jpg" and targets[5].name == "b.bmp.jpg" and targets[6].name == "a.webp.jpg"


@POSIX
def test_photos_with_odd_names_are_annotated_like_others(tmp_path):
    names = ["a\nb.png", "c\\d.png", "e" * 251 + ".png", "f" * 250 + ".webp", "sub\nfolder/g.png", "h.png"]
    for name in names:
        save(tmp_path / "in" / name, clips.person("hat", 3))
    album = stills.album(tmp_path / "in", tmp_path / "out")
    counts = annotate(album)
    assert counts["photos"] == len(names) == len([p for p in (tmp_path / "out").rglob("[!.]*.*g") if p.is_file()])
    assert (tmp_path / "out" / "h.png").is_file() and (tmp_path / "out" / names[2]).is_file()
