"""processed.py: any photo in, upright square RGB crops out, nothing lost and nothing overwritten."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import drawn
import processed
from crops import crop_of
from faces import cropping, detectors, reading
from faces.cropping import MARGIN
from photos import fill, rows
from running import ROOT, call, run
from terminal import workers

RED = np.zeros((80, 120, 3), np.uint8)
RED[:, :60] = (200, 30, 20)


def test_transparent_becomes_white(tmp_path):
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert (reading.read_photo(tmp_path / "a.png") == 255).all()


def test_a_photo_is_about_the_face_in_its_middle():
    photo = np.full((480, 1000, 3), 128, np.uint8)
    photo[100:420, 380:620] = cv2.resize(drawn.draw_face(0, "hat"), (240, 320))
    photo[:, :360] = cv2.resize(drawn.draw_face(2, "hat"), (360, 480))  # nearer, at the edge
    main, other = detectors.main_and_others(detectors.get("haar"), photo)
    assert 380 <= main.box[0] + main.box[2] / 2 <= 620 and other.box[0] < 200


def test_boxes_scale_with_the_photo():
    image = drawn.draw_face(3, "hat")
    box = detectors.get("haar").main_face(image).box
    large = detectors.get("haar").main_face(cv2.resize(image, None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC)).box
    assert np.abs(np.array(large) / 6 - box).max() < 0.12 * box[2]


def test_a_tight_face_is_found_on_the_border():
    image = drawn.draw_face(5, "hat")
    x, y, width, height = (round(v) for v in detectors.get("haar").main_face(image).box)
    tight = np.ascontiguousarray(image[max(0, y):y + height, max(0, x):x + width])
    assert detectors.get("haar").main_face(tight) is not None


@pytest.mark.parametrize("box", [(10, 10, 40, 40), (-20, -20, 60, 60), (90, 60, 50, 50), (0, 0, 120, 80)])
def test_crop_is_square_and_repeats_the_edge(box):
    crop = cropping.crop_face(RED, box, margin=0.2, size=64)
    assert crop.shape == (64, 64, 3)
    centre = RED[min(79, max(0, box[1] + box[3] // 2)), min(119, max(0, box[0] + box[2] // 2))]
    assert (crop[32, 32] == centre).all() or box == (0, 0, 120, 80)
    assert set(map(tuple, crop.reshape(-1, 3)[[0, 63, -64, -1]])) <= {(200, 30, 20), (0, 0, 0)}


def test_a_crop_is_cut_again_with_another_margin():
    photo = drawn.draw_face(0, "hat")
    box = detectors.get("haar").main_face(photo).box
    crop = cropping.crop_face(photo, box, MARGIN)
    assert (cropping.recut(crop, MARGIN, MARGIN) == crop).all()
    for margin in (0.0, 0.1):
        again, direct = cropping.recut(crop, MARGIN, margin), cropping.crop_face(photo, box, margin)
        assert again.shape == crop.shape
        # Resized twice and off by a pixel's fraction, it is still far nearer to that crop than the crop it was.
        assert 3 * np.abs(again - direct.astype(float)).mean() < np.abs(crop - direct.astype(float)).mean()


def test_a_crop_survives_the_disk(tmp_path):
    crop = crop_of(drawn.draw_face(0, "hat"))
    cropping.write_crop(tmp_path / "ñ.jpg", crop)
    again = cropping.read_crop(tmp_path / "ñ.jpg")
    assert np.abs(again.astype(int) - crop).mean() < 3


def test_photos_are_listed_in_the_order_of_paths_one_folder_after_the_other(tmp_path, monkeypatch):
    for name in ("b/a.jpg", "a b/c.jpg", "a/z.jpg", "a/y/z.jpg", "a-b.jpg", "a.jpg", "Z.jpg", "ñ/a.jpg", "A/0.jpg",
                 "a/.hidden/a.jpg", ".hidden.jpg", "a/note.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path / "in")
    for folder in (tmp_path / "in", tmp_path / "in" / "..", Path(".."), Path("."), f"{tmp_path}/in/"):
        others = []
        photos = reading.list_photos(folder, others)
        assert photos == sorted(photos) and len(photos) >= 9 and [path.name for path in others] == ["note.txt"]


@pytest.mark.parametrize("constant", ["CLAHE=0.5", "DETECTOR=haar"])
def test_constants_that_other_scripts_read_are_edited_in_the_file(tmp_path, constant):
    code, _, err = run("processed.py", constant, cwd=tmp_path)
    assert code == 1 and "edit it at the top of processed.py" in err and err.count("\n") == 1


def die(number):
    """What a process does that the system ends for want of memory."""
    if number == 5:
        os._exit(9)
    return number


def test_a_worker_that_dies_is_one_line():
    with pytest.raises(SystemExit, match="^error: a process was killed, .*WORKERS=1"):
        list(workers.in_processes(die, [(number,) for number in range(20)], 2))


PAPER = ROOT.parent / "shared" / "data" / "paper"


@pytest.mark.skipif(not PAPER.is_dir(), reason="the paper's photos are not here (../shared/data/paper)")
def test_faces_of_the_papers_photos_are_found():
    photos = reading.list_photos(PAPER)[::16]
    found = [sum(detectors.get(name).main_face(reading.read_photo(p)) is not None for p in photos) / len(photos)
             for name in ("haar", "yunet")]
    assert found[0] >= 0.88 and found[1] >= (0.99 if detectors.get("yunet").name == "yunet" else 0.88)


def test_a_class_that_is_renamed_by_case_alone_has_its_crops(tmp_path, monkeypatch):
    """On a disk that takes Hat for hat the crops of before seem to be there, and are those of a class that is gone."""
    fill(tmp_path / "data" / "raw", 3)
    assert run("processed.py", "WORKERS=1", cwd=tmp_path)[0] == 0
    (tmp_path / "data/raw/hat").rename(tmp_path / "data/raw/h")
    (tmp_path / "data/raw/h").rename(tmp_path / "data/raw/Hat")
    monkeypatch.chdir(tmp_path)
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path=".": scandir(Path(*(  # as such a disk answers
        "hat" if part == "Hat" and "faces" in Path(path).parts else part for part in Path(path).parts))))
    classes = {"Hat": sorted(Path("data/raw/Hat").iterdir()), "beard": sorted(Path("data/raw/beard").iterdir())}
    jobs, notes, counts = processed.plan(classes, detectors.get(processed.DETECTOR).name, processed.read_notes())
    assert len(jobs) == 3 and counts["beard"]["before"] == 3 and len(notes.crops) == 3
    monkeypatch.undo()
    assert "6 of 6 photos kept" in run("processed.py", "WORKERS=1", cwd=tmp_path)[1]
    assert sorted(p.name for p in (tmp_path / "processed/faces").glob("[!.]*")) == ["Hat", "beard"]
    assert len(list((tmp_path / "processed/faces/Hat").glob("[!.]*.jpg"))) == 3


def test_so_many_processes_as_the_machine_lets_us_have(tmp_path):
    """joblib asks for affinity and the limits of containers; here it is told a number, as by a scheduler."""
    fill(tmp_path / "data" / "raw", 1)
    done = subprocess.run([sys.executable, str(ROOT / "processed.py")], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "LOKY_MAX_CPU_COUNT": "1"}, timeout=100)
    assert "1 processes" in done.stdout, done.stderr


def test_no_script_counts_the_cores_of_others():
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*/*.py")]:
        assert path.parent.name == "tests" or "os.cpu_count" not in path.read_text(encoding="utf-8"), path


@pytest.fixture
def of_one_time(place, in_this_process):
    """Photos of one time and one size, as archives and cameras' uncompressed pictures are, and their crops."""
    for number, name in enumerate(drawn.CLASSES):
        Path("data/raw", name).mkdir(parents=True)
        for i in range(4):
            path = Path("data/raw", name, f"{i}.bmp")
            Image.fromarray(drawn.draw_face(4 * number + i, name) if i < 3 else RED).resize((200, 260)).save(path)
            os.utime(path, (1e9, 1e9))
    assert crop_again().startswith("8 photos to crop, 0 unchanged")
    return Path("data/raw")


def crop_again():
    """What processed.py prints."""
    code, out, err = call(processed, "DETECTOR=haar", cwd=".")
    assert code == 0, err
    return out


def swap(one, other, rename=os.rename):
    """Two photos get each other's name, and keep their times."""
    rename(one, "x.bmp")
    rename(other, one)
    rename("x.bmp", other)


def crops():
    return {path.relative_to("processed/faces").as_posix(): path.read_bytes()
            for path in Path("processed/faces").glob("*/*.jpg")}


def test_a_second_run_does_only_what_changed(of_one_time):
    again = crop_again()
    assert again.startswith("0 photos to crop, 8 unchanged")
    assert [line.split()[1:] for line in again.splitlines()[-3:-1]] == [["3", "1", "0", "0"]] * 2
    os.utime(of_one_time / "beard/0.bmp", (1, 1))
    (of_one_time / "beard/1.bmp").unlink()
    assert crop_again().startswith("1 photos to crop, 6 unchanged, 1 old crops removed")


@pytest.mark.parametrize("rename", [os.rename, pytest.param(shutil.copy2, marks=pytest.mark.skipif(
    os.name == "nt", reason="Python tells no time of the last change there that a program cannot set"))])
def test_swapped_photos_of_one_time_are_cropped_anew(of_one_time, rename):
    before = crops()
    swap(of_one_time / "hat/0.bmp", of_one_time / "beard/1.bmp", rename)
    crop_again()
    names = {"hat/0.jpg": "beard/1.jpg", "beard/1.jpg": "hat/0.jpg"}
    assert crops() == {names.get(name, name): data for name, data in before.items()}
    assert crop_again().startswith("0 photos to crop, 8 unchanged")


def test_a_photo_that_takes_the_name_of_another_is_cropped_anew(of_one_time):
    before = crops()
    (of_one_time / "hat/2.bmp").replace(of_one_time / "hat/1.bmp")
    crop_again()
    assert crops()["hat/1.jpg"] == before["hat/2.jpg"] and "hat/2.jpg" not in crops()


def test_a_photo_without_a_face_that_was_swapped_is_looked_at_again(of_one_time):
    before = crops()
    assert "hat/3.jpg" not in before
    swap(of_one_time / "hat/0.bmp", of_one_time / "hat/3.bmp")
    crop_again()
    assert "hat/0.jpg" not in crops() and crops()["hat/3.jpg"] == before["hat/0.jpg"]
    assert [Path(photo).name for photo in rows()] == ["3.bmp", "0.bmp"]


def test_a_copy_of_a_project_keeps_its_crops(of_one_time):
    """On another disk all files have other numbers and times; what is in them decides."""
    crops_before = {path: path.stat().st_mtime_ns for path in Path("processed/faces").glob("*/*.jpg")}
    shutil.copytree(of_one_time, "copy", copy_function=shutil.copyfile)
    shutil.rmtree(of_one_time)
    Path("copy").rename(of_one_time)
    swap(of_one_time / "hat/0.bmp", of_one_time / "hat/1.bmp")
    out = crop_again()
    changed = {path.as_posix() for path, time in crops_before.items() if path.stat().st_mtime_ns != time}
    assert changed == {"processed/faces/hat/0.jpg", "processed/faces/hat/1.jpg"}
    assert [line.split()[1:] for line in out.splitlines()[-3:-1]] == [["3", "1", "0", "0"], ["3", "1", "0", "2"]], out
    assert crop_again().startswith("0 photos to crop, 8 unchanged")


def test_a_killed_run_has_noted_what_it_did(of_one_time, monkeypatch):
    """And knows nothing any more of what it was about to replace."""
    for photo in of_one_time.rglob("*.bmp"):
        Image.fromarray(drawn.draw_face(9, "hat")).resize((200, 260)).save(photo)
    with monkeypatch.context() as patch:
        def one_by_one(function, jobs, *_):
            for i, job in enumerate(jobs):
                if i == 5:
                    patch.setattr(processed, "write_crop_notes", lambda *_: None)
                    raise SystemExit(9)
                yield function(*job)

        patch.setattr(processed, "NOTED_EVERY", 2)
        patch.setattr(workers, "in_processes", one_by_one)
        with pytest.raises(AssertionError):
            crop_again()
    assert crop_again().startswith("4 photos to crop, 4 unchanged")


def test_what_other_settings_skipped_elsewhere_says_nothing_here(of_one_time, monkeypatch):
    """skipped.csv is shared by all FACES_DIR: a detector that finds nobody must not cost another one its crops."""
    before = crops()
    with monkeypatch.context() as patch:
        patch.setattr(type(detectors.get("haar")), "main_face", lambda *_: None)
        code, out, _ = call(processed, "DETECTOR=haar", "CLAHE=2.0", "FACES_DIR=processed/others", cwd=".")
    assert code == 1 and "0 of 8 photos kept" in out
    crop_again()
    assert crops() == before


@pytest.mark.parametrize(("text", "seen"), [
    ("17-200-5-18-abc", ("17-200-5-18", "abc")), ("17-200-5-18-", ("17-200-5-18", "")), ("-abc", ("", "abc")),
    ("", ("", ""))])
def test_notes_on_photos_keep_their_form(text, seen):
    """Else all photos of all users would be cropped again."""
    assert processed.Seen.read(text) == seen and processed.Seen(*seen).text() == text
    assert ",".join(processed.COLUMNS) == "photo,time,recipe,status,reason"
