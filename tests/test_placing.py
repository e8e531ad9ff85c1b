"""What importers never do: change SOURCE, touch what is not theirs, or leave a photo in the training and the test."""

import os
import subprocess
from pathlib import Path

import pytest

import congress
import drawn
import folders
from running import settle
from shipped import photo, tree
from terminal import records, script

needs_links = pytest.mark.skipif(os.name == "nt", reason="links need a permission there")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with photos of two classes in src, and of another source in data/raw."""
    monkeypatch.chdir(tmp_path)
    for i in range(12):
        photo(f"src/man/m{i}.jpg")
        photo(f"src/woman/w{i}.jpg")
    return tmp_path


def run(monkeypatch, *arguments):
    """data/folders.py with these constants: None, or the one line with which it ends."""
    with monkeypatch.context() as patch:
        try:
            settle(folders, patch, "SOURCE=src", *arguments)
            script.run(folders.main)
        except SystemExit as end:
            assert end.code is None or "\n" not in end.code
            return end.code


def everything():
    """The bytes of all files, but for records and tables: {path: bytes}."""
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file() and path.name not in (
        records.RECORD, "people.csv")}


def sides():
    """The photos by side, by their bytes."""
    return [sorted(p.read_bytes() for p in Path("data", side).rglob("*.jpg")) for side in ("raw", "test")]


@pytest.mark.parametrize("arguments", [
    ["SOURCE=data/raw", "TO=test"], ["SOURCE=data/raw", "TEST_RATIO=0.5"], ["SOURCE=data/raw"], ["SOURCE=data"],
    ["SOURCE=data/test", "TO=test"], ["SOURCE=src", "RAW_DIR=src"], ["SOURCE=src", "RAW_DIR=src/man"],
    ["SOURCE=src", "TEST_DIR=src/new", "TO=test"], ["SOURCE=data/raw.zip"],
    *(pytest.param(arguments, marks=needs_links) for arguments in (
        ["SOURCE=link", "TO=test"], ["SOURCE=links", "TO=test"], ["SOURCE=links", "TEST_RATIO=0.5"],
        ["SOURCE=linked", "TO=test"])),
    ["RAW_DIR=same", "TEST_DIR=same"], ["RAW_DIR=same", "TEST_DIR=same/inner"],
    ["RENAME={'man': '../../evil'}"], ["RENAME={'man': 3}"], ["RENAME={3: 'man'}"], ["RENAME={'man': '/tmp/evil'}"],
    ["RENAME={'man': 'a\\\\b'}"], ["RENAME={'man': ''}"], ["RENAME={'man': '.hidden'}"], ["RENAME={'man': '..'}"],
    ["PREFIX=../"], ["PREFIX=."], ["PERSON=("], ["PERSON=x"],
    ["TEST_RATIO=2.0"], ["TO=valid"], ["RAW_DIR=src/man/m1.jpg"],
])
def test_what_would_change_the_source_or_lead_out_is_refused_before_anything_is_touched(place, monkeypatch, arguments):
    for i in range(12):
        photo(f"data/raw/man/r{i}.jpg")
        photo(f"data/raw/woman/s{i}.jpg")
    photo("data/test/man/t.jpg")
    photo("data/test/woman/t.jpg", "w")
    if os.name != "nt":
        os.symlink("data/raw", "link")
    for class_name in ("man", "woman") if os.name != "nt" else ():
        Path("links", class_name).mkdir(parents=True)
        Path("linked").mkdir(exist_ok=True)
        os.symlink(f"../data/raw/{class_name}", f"linked/{class_name}")
        for path in Path("data/raw", class_name).iterdir():
            os.symlink(f"../../{path.as_posix()}", f"links/{class_name}/{path.name}")
    before = everything()
    assert run(monkeypatch, *arguments)
    assert everything() == before and not Path("data/people.csv").exists()


@needs_links
def test_links_are_followed_and_hard_links_of_other_photos_are_left_alone(place, monkeypatch):
    for class_name in ("man", "woman"):
        Path("other", class_name).mkdir(parents=True)
        for path in sorted(Path("src", class_name).iterdir())[:6]:
            os.symlink(f"../../{path.as_posix()}", f"other/{class_name}/{path.name}")
        for i in range(3):  # photos of the user in data/raw, under other names here
            os.link(photo(f"data/raw/{class_name}/u{i}.jpg", f"{class_name}{i}"), f"other/{class_name}/v{i}.jpg")
    before = everything()
    assert run(monkeypatch, "SOURCE=other", "TO=test") is None
    assert before.items() <= everything().items()
    assert not any(p.is_symlink() for p in Path("data").rglob("*"))
    raw, test = sides()
    assert len(raw) == 6 and len(test) == 12 and not set(raw) & set(test)


def lead(place, target, way):
    """Make the folder `place` lead to the folder `target`, by a link or a mount."""
    if way == "link":
        place.symlink_to(target.resolve())
    elif subprocess.run(["mount", "--bind", target, place], capture_output=True).returncode:
        pytest.skip("folders cannot be mounted here")


@needs_links
@pytest.mark.parametrize("arguments", [[], ["TO=test"], ["TEST_RATIO=0.5"], ["TEST_RATIO=0.9"], ["PREFIX=x-"]])
@pytest.mark.parametrize("before", [[], ["TO=test"], None])
@pytest.mark.parametrize("way", ["link", "mount"])
def test_a_class_folder_that_leads_into_the_source_is_refused(place, monkeypatch, arguments, before, way):
    """Also after a run that has put photos of those names there, so that the record names them."""
    if before is not None:
        assert run(monkeypatch, *before) is None
    folder = Path("data", "test" if before else "raw", "man")
    if way == "link" and folder.exists():
        folder.rename("moved")
    folder.mkdir(parents=True, exist_ok=True)
    if way == "link":
        folder.rmdir()
    lead(folder, Path("src/man"), way)
    try:
        photos = everything()
        assert "of SOURCE is in" in run(monkeypatch, *arguments)
        assert everything() == photos
    finally:
        if way == "mount":
            subprocess.run(["umount", folder], check=True)


@needs_links
def test_photos_behind_a_link_are_the_users_and_stay_alone(place, monkeypatch):
    """A class folder of data/raw that was moved to another place, with a link to it instead."""
    assert run(monkeypatch) is None
    Path("data/raw/man").rename("elsewhere")
    Path("data/raw/man").symlink_to(Path("elsewhere").resolve())
    before = everything()
    assert run(monkeypatch, "TEST_RATIO=0.5") is None
    assert {path: data for path, data in before.items() if "woman" not in path.parts} == {
        path: data for path, data in everything().items() if "woman" not in path.parts}
    assert not Path("data/test/man").exists()


def test_photos_are_placed_before_those_of_another_run_go(place, monkeypatch):
    """A run that is killed in between leaves a photo twice, and not none."""
    assert run(monkeypatch) is None
    photos = {path.read_bytes() for path in Path("src").rglob("*.jpg")}
    with monkeypatch.context() as patch:
        def killed(*_):
            raise MemoryError

        patch.setattr(records, "remove_ours", killed)
        assert run(monkeypatch, "TO=test")
    raw, test = sides()
    assert set(raw) == set(test) == photos
    assert run(monkeypatch, "TO=test") is None
    assert sides() == [[], sorted(photos)]


def test_another_run_leaves_no_photo_on_both_sides_nor_twice(place, monkeypatch, capsys):
    source = {path: content for path, content in everything().items() if path.parts[0] == "src"}
    mine = photo("data/raw/man/mine.jpg", "a photo of the user")
    for arguments in ([], ["TEST_RATIO=0.5"], ["TEST_RATIO=0.2"], ["TO=test"], ["PREFIX=x-"], ["TEST_RATIO=0.4"],
                      ["RENAME={'man': 'men'}"], []):
        assert run(monkeypatch, *arguments) is None
        raw, test = sides()
        assert sorted(raw + test) == sorted([*source.values(), mine.read_bytes()]), arguments
        assert {path: path.read_bytes() for path in source} == source
    assert mine.read_bytes() == b"a photo of the user" and not Path("data/raw/men").exists()
    assert "moved from their old place" in capsys.readouterr().out


def test_copies_move_as_links_do(place, monkeypatch):
    def refuse(*_):
        raise OSError("another device")
    monkeypatch.setattr(os, "link", refuse)
    for ratio in ("0.5", "0.0", "0.3"):
        assert run(monkeypatch, f"TEST_RATIO={ratio}") is None
        raw, test = sides()
        assert len(raw + test) == 24 and not set(raw) & set(test)


def test_photos_that_no_record_names_stay_where_they_are(place, monkeypatch):
    """As of an earlier version, or moved by hand: they are not placed a second time, on whichever side."""
    assert run(monkeypatch) is None
    for record in Path("data").rglob(records.RECORD):
        record.unlink()
    Path("data/raw/woman/m0.jpg").hardlink_to("data/raw/man/m0.jpg")
    Path("data/raw/man/m0.jpg").unlink()
    before = tree()
    assert run(monkeypatch, "TEST_RATIO=0.5") is None
    assert tree() == before


def test_names_that_are_no_text_and_files_that_are_no_photos(place, monkeypatch, capsys):
    try:
        Path(os.fsdecode(b"src/man/\xff.jpg")).write_bytes(b"odd")
        Path("src/man/a\nb.jpg").write_bytes(b"break")
        Path("src/man/c\\d.jpg").write_bytes(b"slash")
        Path("src/man/" + "y" * 251 + ".jpg").write_bytes(b"whole")
    except (OSError, ValueError):
        pytest.skip("this disk has no such names")
    photo("src/man/sub/" + "x" * 240 + ".jpg", "long")
    photo("src/man/clip.mp4")
    photo("src/man/paper.pdf")
    for _ in range(2):
        assert run(monkeypatch, "TEST_RATIO=0.2") is None
        said = capsys.readouterr().out
        assert "1 clips" in said and "clip.mp4" in said and "1 files that are not" in said and "paper.pdf" in said
        raw, test = sides()
        assert {b"odd", b"long", b"break", b"slash", b"whole"} <= {*raw, *test} and len(raw + test) == 29
    assert len(Path("data/people.csv").read_text(encoding="utf-8").splitlines()) == 30
    for path in Path("src/woman").iterdir():
        path.unlink()
    photo("src/woman/clip.mp4")
    assert run(monkeypatch) is None
    assert "not a class: woman: has no photos but 1 other file(s), such as clip.mp4" in capsys.readouterr().out


def test_a_table_that_cannot_be_read_is_said_before_anything_is_placed(place, monkeypatch):
    Path("data").mkdir()
    Path("data/people.csv").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    before = everything()
    assert "people.csv" in run(monkeypatch)
    with pytest.raises(script.Problem, match=r"people\.csv"):
        drawn.main()
    assert everything() == before and not Path("data/raw").exists()


def test_drawn_faces_and_portraits_replace_no_picture_of_the_user(place, monkeypatch):
    settle(drawn, monkeypatch, "COUNT=2", "TEST_COUNT=1")
    own = photo(f"data/raw/hat/{drawn.file_name('hat', 0, 1)}", "of the user")
    with pytest.raises((script.Problem, SystemExit), match="already exists"):
        drawn.main()
    assert own.read_bytes() == b"of the user"
    for folder in ("raw", "test"):
        Path("portraits", folder, "man").mkdir(parents=True)
    monkeypatch.setattr(congress, "RAW_DIR", "portraits/raw")
    monkeypatch.setattr(congress, "TEST_DIR", "portraits/test")
    for ratio, side, other in ((1.0, "test", "raw"), (0.0, "raw", "test")):
        inner = f"man/congress-{side}.jpg"
        monkeypatch.setattr(congress, "TEST_RATIO", ratio)
        theirs = photo(f"portraits/{other}/{inner}", "of the user")
        assert congress.folder_for("A000001", inner) == f"portraits/{other}", "it stays there alone"
        Path(f"portraits/{other}", records.RECORD).write_bytes(inner.encode() + b"\n")
        assert congress.folder_for("A000001", inner) == f"portraits/{side}"
        assert not theirs.exists() and Path("portraits", side, inner).is_file()


def test_photos_whose_names_differ_by_case_alone_are_two_on_any_disk(place, monkeypatch):
    try:
        for name in ("same.jpg", "Same.jpg", "SAME.JPG"):
            Path("src/man", name).write_text(name)
        assert len(list(Path("src/man").glob("[sS][aA]*"))) == 3
    except AssertionError:
        pytest.skip("this disk takes one for the other")
    before = None
    for _ in range(2):
        assert run(monkeypatch) is None
        placed = [path for path in Path("data/raw/man").iterdir() if path.name.lower().startswith("same")]
        assert len({path.name.lower() for path in placed}) == 3
        assert {path.read_text() for path in placed} == {"same.jpg", "Same.jpg", "SAME.JPG"}
        assert before in (None, everything())
        before = everything()


def test_a_photo_that_is_renamed_by_case_alone_stays_where_it_is(place, monkeypatch):
    """On a disk that takes a.jpg for A.jpg, what lies under the old name is the photo itself."""
    photo("src/man/case.jpg")
    assert run(monkeypatch) is None
    Path("src/man/case.jpg").rename("src/man/x")
    Path("src/man/x").rename("src/man/Case.jpg")
    lexists = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda path: lexists(path) or lexists(
        Path(path).parent / Path(path).name.lower()))
    assert run(monkeypatch) is None
    assert {"case.jpg", "Case.jpg"}.intersection(os.listdir("data/raw/man")) == {"case.jpg"}
    assert Path("data/raw/man/case.jpg").read_text() == "case.jpg"
