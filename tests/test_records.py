"""What is ours and what is the user's: records, links, temporary files, modes. Only what a record names is touched."""

import json
import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import dataset
import folders
import importing
import processed
import realtime
import validation
from faces import people
from live import results
from photos import fill
from running import POSIX, call, tree
from shipped import photo
from terminal import files, records, script


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A folder with photos of three classes, crops and a split, as the scripts made them."""
    folder = tmp_path_factory.mktemp("once")
    fill(folder / "data" / "raw", 4, ("beard", "hat", "x"))
    step(processed, folder)
    step(validation, folder)
    return folder


@pytest.fixture
def made(once, tmp_path, monkeypatch, in_this_process):
    """A copy of it, the working folder; crops are made in this process."""
    shutil.copytree(once, tmp_path / "made")
    monkeypatch.chdir(tmp_path / "made")


def step(module, folder=".", code=0):
    """Run a step. Returns the line of its error."""
    arguments = ["WORKERS=1", "DETECTOR=haar"] if module is processed else []
    status, out, err = call(module, *arguments, cwd=folder)
    assert status == code and "Traceback" not in err, out + err
    return err.splitlines()[-1] if code else ""


@POSIX
@pytest.mark.parametrize("place", ["processed/faces", "processed/train", "processed/valid"])
@pytest.mark.parametrize("gone", [False, True])
def test_what_lies_behind_a_link_is_left_alone(made, place, gone):
    """A class folder that became a link to photos of the user's, which bear the very names of the record."""
    Path(place, "x").rename("mypics")
    Path(place, "x").symlink_to(Path("mypics").resolve())
    before = tree("mypics")
    assert before
    if gone:
        shutil.rmtree("data/raw/x")
    for module in (processed, validation):
        call(module, *(["WORKERS=1", "DETECTOR=haar"] if module is processed else []), cwd=".")
    assert tree("mypics") == before and Path(place, "x").is_symlink()


@POSIX
def test_a_class_that_is_gone_and_whose_folder_is_a_link_is_forgotten(made):
    Path("processed/faces/x").rename("mypics")
    Path("processed/faces/x").symlink_to(Path("mypics").resolve())
    shutil.rmtree("data/raw/x")
    step(processed)
    Path("processed/faces/x").unlink()
    shutil.copytree("mypics", "processed/faces/x")
    step(processed)
    assert tree("processed/faces/x") == tree("mypics"), "a folder of that name is the user's from now on"


@POSIX
def test_a_class_of_a_split_that_is_a_link_is_not_trained_on(made):
    Path("mypics").mkdir()
    photo("mypics/1.jpg")
    Path("processed/train/y").symlink_to(Path("mypics").resolve())
    assert "processed/train/y" in step(validation, code=1)


UNSAFE = ["../holiday.jpg", "/HERE/holiday.jpg", "x/../../../holiday.jpg", "x/../../faces/../../holiday.jpg",
          "./../../holiday.jpg", "x//../../../holiday.jpg", "../../holiday.jpg", ".", "..", "/", "x/", "a\0b"]


@pytest.mark.parametrize("folder", ["processed/faces", "processed/train", "processed/valid"])
def test_a_strangers_record_leads_nowhere(made, folder):
    for place in (".", "processed", "processed/faces"):
        photo(f"{place}/holiday.jpg", "of the user")
    record = Path(folder, records.RECORD)
    names = [name.replace("/HERE", Path.cwd().as_posix()) for name in UNSAFE]
    record.write_text("\n".join([*record.read_text().splitlines(), *names]))
    shutil.rmtree("data/raw/x")
    step(processed)
    step(validation)
    assert all(Path(place, "holiday.jpg").is_file() for place in (".", "processed", "processed/faces"))
    assert not set(names) & records.written(folder)


@pytest.mark.parametrize("damage", [bytes(4096), b"\0", b"hat/0.jpg\0\0\0\n"])
def test_a_record_that_a_power_cut_has_damaged_is_no_traceback(made, damage):
    for folder in ("processed", "processed/faces", "processed/train", "processed/valid"):
        Path(folder, records.RECORD).write_bytes(damage)
    before = tree("processed/faces")
    assert "this project has not written it" in step(processed, code=1)
    assert "was not written by validation.py" in step(validation, code=1)
    assert tree("processed/faces") == before


@pytest.mark.parametrize("kind", ["folder", *(pytest.param(k, marks=POSIX) for k in ("link", "dangling", "pipe"))])
def test_a_record_that_is_a_link_or_not_a_file_is_refused(made, kind):
    record = Path("processed/faces", records.RECORD)
    record.rename("other.txt")
    before = Path("other.txt").read_bytes()
    if kind == "folder":
        record.mkdir()
    elif kind == "pipe":
        os.mkfifo(record)
    else:
        record.symlink_to(Path("other.txt" if kind == "link" else "nothing").resolve())
    shutil.rmtree("data/raw/x")
    assert f"{record.as_posix()} is a link, or not a file" in step(processed, code=1)
    assert Path("other.txt").read_bytes() == before and not Path("nothing").exists()


def test_a_backup_of_hard_links_stays_as_it_is(made):
    """cp -al: each file has a second name in the backup."""
    shutil.copytree("processed", "backup", copy_function=os.link)
    before = tree("backup")
    photo("data/raw/hat/new.png", "no photo")
    shutil.rmtree("data/raw/x")
    step(processed)
    step(validation)
    log = results.Results("faces.csv")
    log.add([])
    log.close()
    os.link("faces.csv", "faces_backup.csv")
    script.AT_END[0]()  # the run is over
    log = results.Results("faces.csv")
    log.add([results.Row("b", 1.0, 1, "hat", 0.9, 1, 2, 3, 4)])
    log.close()
    assert tree("backup") == before
    assert Path("faces_backup.csv").read_text().count("\n") == 1 and Path("faces.csv").read_text().count("\n") == 2


def aged(monkeypatch):
    """As if all files were two hours old."""
    now = files.time.time
    monkeypatch.setattr(files.time, "time", lambda: now() + 7200)


def test_of_temporary_files_only_those_beside_a_recorded_name_go(made, monkeypatch):
    mine = [photo(f"{place}/{name}") for place in ("processed/faces/hat", "processed/faces", "processed", ".")
            for name in (".tmp-thesis22.docx", ".tmp-abcdefgh.jpg", ".tmp-abcdefgh",
                         ".tmp-0123abcd-0123456789abcdef.jpg", files.temporary("0.jpg").name[:-5])]
    left = [files.temporary(Path("processed", name)) for name in ("faces/hat/0.jpg", "faces/.written.txt",
                                                                 "faces/.recipe", "skipped.csv")]
    for path in left:
        path.write_bytes(b"half")
    shutil.rmtree("data/raw/x")
    aged(monkeypatch)
    step(processed)
    assert all(path.is_file() for path in mine) and not any(path.exists() for path in left)


@POSIX
def test_a_temporary_file_in_use_stays_and_one_of_a_killed_run_goes_at_once(tmp_path, monkeypatch):
    """A lock tells: no hour must pass."""
    records.claim(tmp_path, ["out.mp4"])
    killed, now = files.temporary(tmp_path / "out.mp4"), files.time.time
    killed.write_bytes(b"half")
    with files.atomic(tmp_path / "out.mp4") as new:
        monkeypatch.setattr(files.time, "time", lambda: now() + 10)
        records.remove_stale(tmp_path)
        assert new.exists() and not killed.exists()
    assert (tmp_path / "out.mp4").exists()


@POSIX
def test_what_a_killed_unpacking_left_goes_with_the_next_run(tmp_path, monkeypatch):
    """And so does the record beside the archive."""
    monkeypatch.chdir(tmp_path)
    photo("src/man/1.jpg")
    photo("src/woman/2.jpg", "w")
    photo(".tmp-0123abcd/mine.txt")
    shutil.make_archive("pics", "zip", "src")
    program = "import os, shutil, sys; sys.path[:0] = sys.argv[1:3]; import importing; " \
              "shutil.unpack_archive = lambda archive, folder: (open(f'{folder}/a', 'w').close(), os._exit(9)); " \
              "importing.source_folder('pics.zip', '', 'data/raw', 'data/test')"
    root = Path(importing.__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", program, root, root / "data"]).returncode == 9
    assert len(list(tmp_path.glob(".tmp-*/a"))) == 1
    now = files.time.time
    monkeypatch.setattr(files.time, "time", lambda: now() + 5)
    assert call(folders, "SOURCE=pics.zip", cwd=".")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-0123abcd", "data", "pics", "pics.zip", "src"]


@POSIX
def test_permissions_stay_and_what_is_read_only_is_refused(made):
    people.write("people.csv", [("1.jpg", "a", "", "", "")])
    for path, mode in (("people.csv", 0o600), ("processed/skipped.csv", 0o640), ("processed/faces/.recipe", 0o604)):
        os.chmod(path, mode)
    people.write("people.csv", [("2.jpg", "a", "", "", "")])
    photo("data/raw/hat/new.png", "no photo")
    step(processed)
    assert stat.S_IMODE(os.stat("people.csv").st_mode) == 0o600
    assert stat.S_IMODE(os.stat("processed/skipped.csv").st_mode) == 0o640
    os.chmod("people.csv", 0o444)
    os.chmod("processed/skipped.csv", 0o444)
    before = tree(".")
    with pytest.raises(script.Problem, match=r"people\.csv is read-only"):
        people.write("people.csv", [("3.jpg", "a", "", "", "")])
    assert "skipped.csv is read-only" in step(processed, code=1)
    photo("src/man/m.jpg")
    photo("src/woman/w.jpg", "w")
    code, _, err = call(folders, "SOURCE=src", "PEOPLE=people.csv", "RAW_DIR=raw", cwd=".")
    assert code == 1 and "people.csv is read-only" in err and not Path("raw").exists()
    assert before.items() <= tree(".").items() and stat.S_IMODE(os.stat("people.csv").st_mode) == 0o444


@POSIX
def test_new_files_are_as_readable_as_any(tmp_path):
    old = os.umask(0o027)
    try:
        with files.atomic(tmp_path / "a.txt") as new:
            new.write_text("a")
        with files.atomic_folder(tmp_path / "b"):
            pass
    finally:
        os.umask(old)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.txt", "b")] == [0o640, 0o750]


@pytest.mark.parametrize("constant", ["LOG=seen.csv", "OUTPUT=o.mp4"])
def test_a_read_only_output_is_said_before_any_work(tmp_path, monkeypatch, constant):
    monkeypatch.chdir(tmp_path)
    name = constant.partition("=")[2]
    records.claim(tmp_path, [name])
    Path(name).write_text(",".join(results.COLUMNS) + "\n")
    script.AT_END[0]()
    os.chmod(name, 0o444)
    Path("clip.mp4").write_bytes(b"not looked at")
    code, out, err = call(realtime, "SOURCE=clip.mp4", "SHOW=False", constant, cwd=".")
    assert code == 1 and f"{name} is read-only" in err, out + err
    os.chmod(name, 0o644)  # Windows removes nothing else


def test_several_runs_at_once_lose_no_name_of_a_record(tmp_path):
    names = [f"{i}.jpg" for i in range(60)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: records.claim(tmp_path, [name]), names))
    assert records.written(tmp_path) == set(names)


def test_only_files_are_replaced(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    if os.name != "nt":
        os.mkfifo(tmp_path / "pipe.csv")
    for path in list(tmp_path.iterdir()):
        with pytest.raises(script.Problem, match="is not a file"), files.atomic(path):
            pass
    assert all(path.is_dir() or path.is_fifo() for path in tmp_path.iterdir())


def crop_while_processed_is_taken_away(folder, monkeypatch, new):
    """Run processed.py, while the folder processed/ gives place to one with the folders `new` before the third photo.
    Returns the line of its error."""
    fill(folder / "data" / "raw", 4)

    def in_processes(function, jobs, *_):
        for i, job in enumerate(jobs):
            if i == 2:
                (folder / "processed").rename(folder / "taken")
                for name in new:
                    (folder / name).mkdir(parents=True)
            yield function(*job)

    monkeypatch.setattr(processed.workers, "in_processes", in_processes)
    return step(processed, folder, code=1)


@pytest.mark.parametrize("new", [["processed"], []])
def test_a_drive_that_is_taken_away_is_said(tmp_path, monkeypatch, new):
    line = crop_while_processed_is_taken_away(tmp_path, monkeypatch, new)
    assert "drive taken away" in line and "Run the same command again" in line, line


def test_crops_of_a_folder_that_was_exchanged_are_missed(tmp_path, monkeypatch):
    line = crop_while_processed_is_taken_away(tmp_path, monkeypatch, ["processed/faces/beard", "processed/faces/hat"])
    assert "2 crops are gone from processed/faces" in line


def refuse(*_, **__):
    raise PermissionError(1, "Operation not permitted")


def test_a_disk_that_refuses_modes_and_times_will_do(tmp_path, monkeypatch, in_this_process):
    """As WSL's /mnt/c, NTFS mounted by root, gcsfuse: the times of the photos are remembered instead."""
    fill(tmp_path / "data" / "raw", 4)
    for name in ("chmod", "chown", "utime", "link"):
        monkeypatch.setattr(os, name, refuse, raising=False)
    monkeypatch.setattr(Path, "chmod", refuse)
    said = []
    for _ in range(3):
        for module in (processed, validation):
            code, out, err = call(module, *(["WORKERS=1"] if module is processed else []), cwd=tmp_path)
            assert code == 0, err
            said.append(next(line for line in out.splitlines() if "to crop" in line or "SEED" in line))
        if len(said) == 4:
            shutil.copyfile(tmp_path / "data/raw/hat/1.png", tmp_path / "data/raw/hat/0.png")
    assert [line.split()[0] for line in said] == ["8", "written:", "0", "unchanged:", "1", "written:"], said


@pytest.mark.parametrize("place", ["data/raw/hat", "data/raw/hat/inner"])
def test_a_folder_that_cannot_be_read_is_said_and_its_crops_stay(made, monkeypatch, place):
    Path("data/raw/hat/inner").mkdir()
    photo("data/raw/hat/inner/9.jpg")
    step(processed)
    before, scandir = tree("processed"), os.scandir

    def closed(path="."):
        if Path(path) == Path(place):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert f"{place} cannot be read (Permission denied)" in step(processed, code=1).replace("\\", "/")
    assert tree("processed") == before


@POSIX
@pytest.mark.parametrize(("module", "folder"), [(processed, "data/raw"), (validation, "processed/faces")])
def test_a_class_on_a_drive_that_is_not_there_is_said_and_nothing_goes(made, module, folder):
    Path(folder, "x").rename("drive")
    Path(folder, "x").symlink_to(Path("drive").resolve())
    step(module)
    before = tree("processed")
    Path("drive").rename("taken")
    line = step(module, code=1)
    assert f"{folder}/x is a link that leads nowhere: plug in its drive" in line
    assert tree("processed") == before


@POSIX
def test_crops_of_photos_that_cannot_be_read_now_stay(made):
    """Photos are links to a drive that is not there, or may not be read, for a while."""
    Path("drive").mkdir()
    for path in Path("data/raw/x").iterdir():
        path.rename(Path("drive", path.name))
        path.symlink_to(Path("drive", path.name).resolve())
    Path("drive/3.png").rename("drive/bare")  # a name that does not tell a photo
    Path("data/raw/x/3.png").unlink()
    Path("data/raw/x/bare").symlink_to(Path("drive/bare").resolve())
    step(processed)
    before = tree("processed/faces")
    Path("drive").rename("taken")
    step(processed)
    assert tree("processed/faces") == before and Path("processed/skipped.csv").read_text().count("unreadable now") == 4
    Path("taken").rename("drive")
    step(processed)
    assert tree("processed/faces") == before and "unreadable" not in Path("processed/skipped.csv").read_text()


def test_a_crop_of_a_photo_that_fails_for_a_while_stays(made, monkeypatch):
    """And a photo that is new is cropped by the next run, though its time has not changed."""
    step(processed)
    before = tree("processed/faces")
    for path in Path("data/raw/hat").iterdir():
        os.utime(path, (1, 1))
    shutil.copyfile("data/raw/hat/0.png", "data/raw/hat/new.png")

    def fails(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(processed, "digest_of", lambda _: "")
        patch.setattr(processed.reading, "decode", fails)
        step(processed)
    assert {name for name in before if name.endswith(".jpg")} <= set(tree("processed/faces"))
    assert Path("processed/skipped.csv").read_text().count("Input/output error") == 5
    step(processed)
    after = tree("processed/faces")
    assert after.pop("hat/new.jpg") == before["hat/0.jpg"] and "error" not in Path("processed/skipped.csv").read_text()
    for notes in (".recipe", records.RECORD):
        del after[notes], before[notes]
    assert after == before


READ = [("processed/faces/.recipe", processed), ("processed/skipped.csv", processed), ("data/people.csv", validation),
        ("processed/train/.split.json", validation)]


@POSIX
@pytest.mark.timeout(60)
@pytest.mark.parametrize(("name", "module"), READ, ids=lambda value: getattr(value, "__name__", value))
def test_a_file_that_is_read_is_no_pipe_and_no_link_to_a_drive_that_is_not_there(made, name, module):
    """Without people.csv nobody is known, and one person would be on both sides."""
    Path(name).unlink(missing_ok=True)
    os.mkfifo(name)
    assert f"{name} is not a file" in step(module, code=1)
    Path(name).unlink()
    Path(name).symlink_to(Path("drive", "file").resolve())
    assert f"{name} is a link that leads nowhere" in step(module, code=1)
    assert Path(name).is_symlink() and not Path("drive").exists()
    Path(name).unlink()
    step(module)


@POSIX
def test_no_folder_is_made_where_the_drive_of_people_csv_would_be(made):
    Path("data/people.csv").symlink_to(Path("drive", "people.csv").resolve())
    with pytest.raises(script.Problem, match="leads nowhere"):
        people.write("data/people.csv", [("a.jpg", "", "", "", "")])
    assert not Path("drive").exists()


@pytest.mark.parametrize("change", [
    lambda notes: b"", lambda notes: b"[]", lambda notes: b"[" * 100_000, lambda notes: b"\0" * 500,
    lambda notes: notes | {"clahe": "x"},
    lambda notes: notes | {"lines": [1]}, lambda notes: notes | {"problem": 5},
    lambda notes: notes | {"settings": None},
    lambda notes: notes | {"crops": dict.fromkeys(notes["crops"], [1, 2, 3, 4])}])
def test_odd_notes_on_a_split_are_one_line_and_are_made_anew(made, change):
    notes = Path("processed/train/.split.json")
    before, changed = notes.read_bytes(), change(json.loads(notes.read_bytes()))
    notes.write_bytes(changed if isinstance(changed, bytes) else json.dumps(changed).encode())
    with pytest.raises(SystemExit, match="damaged, or from another version"):
        dataset.Crops("processed/train", 32)
    step(validation)
    assert notes.read_bytes() == before


@POSIX
@pytest.mark.parametrize("place", ["processed/train", "processed/train/hat"])
def test_a_split_that_is_deleted_in_mid_run_is_said_and_made_again(made, monkeypatch, place):
    before, links, link = tree("processed/train"), [], files.link
    for folder in ("processed/train", "processed/valid"):
        shutil.rmtree(folder)

    def link_then_delete(source, target):
        link(source, target)
        links.append(target)
        if len(links) == 5:  # three of beard, two of hat
            shutil.rmtree(place)

    with monkeypatch.context() as patch:
        patch.setattr(files, "link", link_then_delete)
        assert "is gone" in step(validation, code=1)
    step(validation)
    assert tree("processed/train") == before


def test_a_record_that_an_editor_saved_with_a_byte_order_mark_is_read(tmp_path):
    records.claim(tmp_path, ["a.txt"])
    record = tmp_path / records.RECORD
    record.write_bytes(b"\xef\xbb\xbf" + record.read_bytes())
    assert records.written(tmp_path) == {"a.txt"}
