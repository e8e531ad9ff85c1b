"""No file that was there before is gone or changed, whatever folders processed.py and validation.py are given."""

import os
import shutil
from pathlib import Path

import pytest

import drawn
import folders
import processed
import realtime
import test as step4
import train
import validation
from photos import fill, save
from running import POSIX, call
from terminal import files, records, script
from tools import compare


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with photos, crops and a split, as the scripts made them."""
    folder = tmp_path_factory.mktemp("made")
    fill(folder / "data" / "raw")
    assert call(processed, "WORKERS=1", "DETECTOR=haar", cwd=folder)[0] == 0
    assert call(validation, cwd=folder)[0] == 0
    return folder


@pytest.fixture
def place(made, tmp_path, in_this_process):
    """A copy of it, with files of the user in many places; crops are made in this process."""
    folder = tmp_path / "project"
    shutil.copytree(made, folder, symlinks=True)
    for name in ("notes.txt", "data/notes.txt", "data/raw/hat/clip.mp4", "processed/notes.txt",
                 "processed/old/hat/0.jpg", "processed/faces/notes.txt", "processed/faces/hat/.hidden.jpg",
                 "processed/train/NOTES.txt", "processed/train/hat/film.mp4", "processed/train/.git/HEAD",
                 "processed/.train.old/hat/0.jpg", "processed/.train.new/mine.jpg", "processed/valid/labels.csv",
                 "weights/small.pt", "mine/hat/0.png.jpg", "mine/hat/9.jpg", "mine/me.jpg", "mine.csv",
                 "other/beard/a/b/c.txt", "processed/faces/old/.tmp-mine.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"of the user: " + name.encode())
    for i, name in enumerate(("hat", "beard")):
        for form in ("png", "jpg"):
            save(folder / "full" / name / f"0.{form}", drawn.draw_face(i, drawn.CLASSES[0]))
    return folder


def snapshot(folder):
    """{path: bytes, or where a link leads} of all that is in a folder and is not derived by the two scripts."""
    ours = set()
    for record in folder.rglob(records.RECORD):
        ours |= {record, *(record.parent / name for name in records.written(record.parent))}
    return {path: os.readlink(path) if path.is_symlink() else path.read_bytes()
            for path in folder.rglob("*") if path not in ours and (path.is_symlink() or path.is_file())}


def check(folder, module, *arguments):
    """Run a script, twice if it ends well: then or in one line, and nothing of the user's has gone or changed."""
    before, code = snapshot(folder), 0
    for run in range(2):
        if run and code:
            break
        code, out, err = call(module, *arguments, cwd=folder)
        line = [text for text in err.splitlines() if text.startswith("error: ")]
        assert code in (0, 1) and len(line) == code and "Traceback" not in err, out + err
        after = {path: data for path, data in snapshot(folder).items() if path in before}
        assert after == before, {path for path in before if after.get(path) != before[path]}
    return code, " ".join(line)


REFUSED = {
    "photos into themselves": ("RAW_DIR=full", "FACES_DIR=full"),
    "the photos' folder": ("FACES_DIR=data/raw",), "above the photos": ("FACES_DIR=data",), "here": ("FACES_DIR=.",),
    "nowhere": ("FACES_DIR=",), "below the photos": ("RAW_DIR=full", "FACES_DIR=full/crops"),
    "a class of the photos": ("FACES_DIR=data/raw/hat",), "around": ("FACES_DIR=processed/../data/raw/",),
    "other letters": ("RAW_DIR=full", "FACES_DIR=FULL/crops"), "a file": ("FACES_DIR=notes.txt",),
    "below a file": ("FACES_DIR=notes.txt/crops",), "another's crops": ("FACES_DIR=mine", "RAW_DIR=full"),
    "the split": ("FACES_DIR=processed/train",), "the list in the photos": ("SKIPPED=data/raw/hat/skipped.csv",),
    "the list in the crops": ("FACES_DIR=processed",), "another's table": ("SKIPPED=mine.csv",),
    "another's text": ("SKIPPED=processed/notes.txt",), "a folder for the list": ("SKIPPED=weights",),
    "a photo for the list": ("SKIPPED=data/raw/hat/0.png",), "no name for the list": ("SKIPPED=",),
    "a crop for the list": ("SKIPPED=processed/faces/hat/0.jpg",),
    "the photos' folder as a class": ("RAW_DIR=data", "FACES_DIR=data/raw/hat"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_crops_go_to_no_place_of_the_users(place, case):
    assert check(place, processed, "WORKERS=1", "DETECTOR=haar", *REFUSED[case])[0] == 1


TAKEN = {"new": ("FACES_DIR=new",),
         "far": ("FACES_DIR=a/b/c/", "SKIPPED=d/e.csv"),
         "other photos": ("RAW_DIR=full",), "other photos elsewhere": ("RAW_DIR=full", "FACES_DIR=other"),
         "another recipe": ("CLAHE=2.0",), "beside": ("RAW_DIR=./full/", "FACES_DIR=full2/../crops")}


@pytest.mark.parametrize("case", TAKEN)
def test_crops_go_where_nothing_is_lost(place, case):
    code, line = check(place, processed, "WORKERS=1", "DETECTOR=haar", *TAKEN[case])
    assert code == 0, line


SPLITS = {
    "crops into themselves": ("TRAIN_DIR=processed/faces",), "valid in crops": ("VALID_DIR=processed/faces/valid",),
    "both in one": ("TRAIN_DIR=processed/valid",), "one in the other": ("VALID_DIR=processed/train/valid",),
    "the photos": ("TRAIN_DIR=data/raw",), "a class of the photos": ("VALID_DIR=data/raw/hat",),
    "above": ("TRAIN_DIR=data",), "photos of the user": ("TRAIN_DIR=mine",),
    "photos of the user to valid": ("VALID_DIR=full",), "here": ("TRAIN_DIR=.",),
    "nowhere": ("VALID_DIR=",), "a file": ("TRAIN_DIR=notes.txt",), "below a file": ("VALID_DIR=notes.txt/valid",),
    "in the crops, spelt otherwise": ("TRAIN_DIR=PROCESSED/Faces/train",),
    "around": ("VALID_DIR=weights/../processed/faces",),
}


@pytest.mark.parametrize("case", SPLITS)
def test_a_split_goes_to_no_place_of_the_users(place, case):
    assert check(place, validation, *SPLITS[case])[0] == 1


@pytest.mark.parametrize("arguments", [("SEED=1",), ("TRAIN_DIR=new", "VALID_DIR=other"),
                                       ("TRAIN_DIR=a/b/", "SEED=2"), ("VALID_RATIO=0.5",)])
def test_a_split_goes_where_nothing_is_lost(place, arguments):
    code, line = check(place, validation, *arguments)
    assert code == 0, line


def links(place):
    """Links in all places that matter. What they lead to is the user's."""
    for name, target in {"to_raw": "data/raw", "to_full": "full", "to_faces": "processed/faces", "nothing": "not there",
                         "loop": "loop", "notes": "notes.txt"}.items():
        (place / name).symlink_to(target)
    for folder in ("class_link", "photo_link", "file_link"):
        (place / folder / "hat").mkdir(parents=True)
    (place / "class_link" / "beard").symlink_to("../full/beard")
    (place / "photo_link" / "beard").symlink_to("../mine/hat")
    (place / "file_link" / "hat" / "0.jpg").symlink_to("../../mine/hat/9.jpg")
    (place / "list.csv").symlink_to("mine.csv")
    (place / "dangling.csv").symlink_to("not there.csv")


@POSIX
@pytest.mark.parametrize(("module", "arguments"), [
    (processed, ("FACES_DIR=to_raw",)), (processed, ("RAW_DIR=full", "FACES_DIR=to_full")),
    (processed, ("RAW_DIR=to_full", "FACES_DIR=full/crops")), (processed, ("FACES_DIR=nothing",)),
    (processed, ("FACES_DIR=loop",)), (processed, ("FACES_DIR=notes",)), (processed, ("RAW_DIR=loop",)),
    (processed, ("RAW_DIR=class_link", "FACES_DIR=full")), (processed, ("FACES_DIR=class_link",)),
    (processed, ("FACES_DIR=photo_link",)), (processed, ("FACES_DIR=file_link",)), (processed, ("SKIPPED=list.csv",)),
    (processed, ("SKIPPED=dangling.csv",)), (processed, ("SKIPPED=to_raw/skipped.csv",)),
    (validation, ("TRAIN_DIR=to_faces",)), (validation, ("TRAIN_DIR=to_raw",)), (validation, ("VALID_DIR=to_full",)),
    (validation, ("TRAIN_DIR=nothing",)), (validation, ("VALID_DIR=loop",)), (validation, ("TRAIN_DIR=class_link",)),
    (validation, ("VALID_DIR=file_link",)), (validation, ("TRAIN_DIR=notes",)),
], ids=lambda value: " ".join(value) if isinstance(value, tuple) else value.__name__)
def test_links_hide_nothing(place, module, arguments):
    links(place)
    assert check(place, module, *(("WORKERS=1", "DETECTOR=haar") if module is processed else ()), *arguments)[0] == 1


@POSIX
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="nothing is read-only for root")
@pytest.mark.parametrize(("module", "name"), [(processed, "FACES_DIR"), (validation, "TRAIN_DIR"),
                                              (validation, "VALID_DIR")])
def test_a_read_only_folder_is_one_line_before_any_work(place, module, name):
    (place / "closed").mkdir(mode=0o555)
    code, line = check(place, module, f"{name}=closed")
    assert code == 1 and "closed" in line and "name another" in line


def test_a_file_where_a_crop_would_go_stays_and_is_said(place):
    """Crops that are ours are still removed with their photo."""
    shutil.copy(place / "full/hat/0.png", place / "data/raw/hat/new.png")
    (place / "processed/faces/hat/new.jpg").write_bytes(b"mine")
    code, line = check(place, processed, "WORKERS=1", "DETECTOR=haar")
    assert code == 1 and "new.jpg already exists" in line
    (place / "processed/faces/hat/new.jpg").rename(place / "processed/faces/hat/own.jpg")
    (place / "data/raw/hat/0.png").unlink()
    assert check(place, processed, "WORKERS=1", "DETECTOR=haar")[0] == 0
    assert sorted(p.name for p in (place / "processed/faces/hat").glob("[!.]*")) == ["1.jpg", "new.jpg", "own.jpg"]


def test_a_crop_of_ones_own_for_a_photo_without_a_face_stays(place):
    save(place / "data/raw/hat/wall.png", drawn.draw_face(0, "hat")[:24, :24])
    assert call(processed, "WORKERS=1", "DETECTOR=haar", cwd=place)[0] == 0
    (place / "processed/faces/hat/wall.jpg").write_bytes(b"cut by hand")
    assert check(place, processed, "WORKERS=1", "DETECTOR=haar")[0] == 0
    assert "wall.jpg already exists" in check(place, processed, "WORKERS=1", "DETECTOR=haar", "CLAHE=2.0")[1]


def test_no_script_replaces_or_removes_what_another_has_made(place):
    """Best weights in a folder of crops or of a split would go with the next crops or split."""
    for folder in ("processed/faces", "processed/train", "processed/valid"):
        with pytest.raises(script.Problem, match="has the files of another script"):
            records.claim(place / folder, ["best_weights.pt"])
    for name in ("plots/log.csv", "weights/best_weights.pt"):
        (place / name).parent.mkdir(exist_ok=True)
        records.claim_file(place / name)
        (place / name).write_bytes(b"epochs")
        assert check(place, processed, "WORKERS=1", "DETECTOR=haar", f"SKIPPED={name}")[0] == 1
        assert check(place, processed, f"FACES_DIR={(place / name).parent}")[0] == 1
        assert check(place, validation, f"TRAIN_DIR={(place / name).parent}")[0] == 1
        assert (place / name).read_bytes() == b"epochs"


def test_a_name_that_a_run_has_claimed_and_not_written_is_the_users(tmp_path):
    def fails():
        records.claim(tmp_path, ["out.mp4", "in/out.png", "old.csv"])
        (tmp_path / "old.csv").write_text("written")
        raise script.Problem("no frame came")

    with pytest.raises(SystemExit, match="no frame came"):
        script.run(fails)
    assert records.written(tmp_path) == {"old.csv"}
    (tmp_path / "out.mp4").write_bytes(b"of the user")
    with pytest.raises(script.Problem, match="already exists"):
        records.claim_file(tmp_path / "out.mp4")


def test_a_record_is_written_once_for_many_names(tmp_path, monkeypatch):
    """It is written as a whole: a time for each name would take minutes."""
    times, atomic = [], files.atomic
    monkeypatch.setattr(records, "atomic", lambda path: times.append(path) or atomic(path))
    names = [f"hat/{i}.jpg" for i in range(20_000)]
    for _ in range(2):
        records.claim(tmp_path / "a", names)
    assert records.written(tmp_path / "a") == set(names) and len(times) == 1
    assert records.remove_ours(tmp_path / "a", names[1:]) == 0 and records.written(tmp_path / "a") == {names[0]}
    assert len(times) == 2


WHERE_OTHERS_LOOK = [
    (processed, "FACES_DIR=data/test"), (processed, "FACES_DIR=weights"), (processed, "FACES_DIR=live/faces"),
    (validation, "VALID_DIR=weights"), (validation, "TRAIN_DIR=.git"), (validation, "TRAIN_DIR=data/test/hat"),
    (validation, "VALID_DIR=tools"), (train, "PLOTS_DIR=data/raw/a"), (train, "WEIGHTS_DIR=processed/train/w"),
    (train, "PLOTS_DIR=docs"), (step4, "PLOTS_DIR=data/raw/a"), (step4, "PLOTS_DIR=data"),
    (compare, "RUNS_DIR=weights"), (compare, "RUNS_DIR=data/raw"), (folders, "TEST_DIR=processed/valid"),
    (folders, "RAW_DIR=.git/raw"), (realtime, "OUTPUT=data/test/hat"), (realtime, "OUTPUT=weights/annotated"),
]


@pytest.mark.parametrize(("module", "argument"), WHERE_OTHERS_LOOK, ids=lambda value: getattr(value, "__name__", value))
def test_no_script_writes_where_another_looks(place, module, argument):
    """Nor among the code, nor into what git keeps."""
    source = {folders: ["SOURCE=full"], realtime: ["SOURCE=full", "SHOW=False"]}.get(module, [])
    before = snapshot(place)
    code, _, err = call(module, *source, argument, cwd=place)
    assert code == 1 and "must be separate" in err and argument.partition("=")[0] in err, err
    assert snapshot(place) == before


@POSIX
@pytest.mark.parametrize(("module", "source", "output"), [(processed, "RAW_DIR", "FACES_DIR"),
                                                          (validation, "FACES_DIR", "TRAIN_DIR")])
def test_a_class_folder_that_is_a_junction_is_kept_apart_too(place, module, source, output, monkeypatch):
    """Path.is_symlink() is False for a junction of Windows."""
    monkeypatch.setattr(Path, "is_symlink", lambda self: False)
    (place / "classes").mkdir()
    for name in ("beard", "hat"):
        (place / "classes" / name).symlink_to(place / "full" / name)
    code, line = check(place, module, f"{source}=classes", f"{output}=full/hat/crops")
    assert code == 1 and f"{source}/hat=" in line and "must be separate" in line, line
