"""people.csv: read in whatever form a spreadsheet or an editor leaves it, and merged without a loss."""

from pathlib import Path

import pytest

import processed
from faces import people
from running import POSIX
from terminal import script
from terminal.names import normal

HEADER = "file,source,person,age,ethnicity"
ANNA = people.Person("home", "Zoë Ångström", "30", "White")
NOBODY = people.Person()
ROWS = [HEADER, "a.jpg,home,Zoë Ångström,30,White", "b.jpg,,,,"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252"])
def test_all_that_spreadsheets_write_is_read_and_merged_in_its_own_form(tmp_path, delimiter, encoding):
    path = tmp_path / "people.csv"
    lines = [(row + more).replace(",", delimiter) for row, more in zip(ROWS, (",note", ",tall", ","), strict=True)]
    for first, end in (("", "\r\n"), ("", "\n"), (f"sep={delimiter}\r\n", "\r\n")):
        data = (first + end.join(lines) + end).encode(encoding)
        path.write_bytes(data)
        table = people.read(path)
        assert people.of(table, Path("raw/man/a.jpg")) == people.of(table, Path("faces/man/a.jpg.jpg")) == ANNA
        people.write(path, [("b.jpg", "", "", "", "")])
        assert path.read_bytes() == data, "nothing new: nothing is written"
        people.write(path, [("c.jpg", "home", "Zoë Ångström", 4, "")])
        text = path.read_bytes().decode(encoding)
        assert text.startswith((first + end.join(lines) + end).encode(encoding).decode(encoding))
        assert text.endswith(end + delimiter.join(["c.jpg", "home", "Zoë Ångström", "4", "", ""]) + end)


def test_merging_keeps_what_is_there_and_fills_what_is_empty(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text("note,age,file\nmine,,b.jpg\n,7,\nno,1,a.jpg,odd,cells\n", encoding="utf-8")
    people.write(path, [("b.jpg", "x", "", 20, ""), ("d.jpg", "x", "D", "", ""), ("a.jpg", "x", "", "", "")])
    assert path.read_text(encoding="utf-8") == ("note,age,file,source,person,ethnicity\nmine,20,b.jpg,x,,\n,7,\n"
                                                "no,1,a.jpg,x,cells,\n,,d.jpg,x,D,\n")


@POSIX
def test_a_link_to_a_table_stays_one(tmp_path):
    (tmp_path / "shared.csv").write_text("file\n", "utf-8")
    (tmp_path / "people.csv").symlink_to("shared.csv")
    people.write(tmp_path / "people.csv", [("a.jpg", "x", "A", "", "")])
    assert (tmp_path / "people.csv").is_symlink() and "a.jpg" in (tmp_path / "shared.csv").read_text("utf-8")


def test_rows_of_two_sources_are_kept_and_a_new_value_counts(tmp_path):
    path = tmp_path / "people.csv"
    people.write(path, [("a.jpg", "x", "", 20, "White")])
    people.write(path, [("b.jpg", "y", "", "3-9", "Black"), ("a.jpg", "x", "", 21, "White")])
    table = people.read(path)
    assert people.of(table, Path("a.jpg")) == ("x", "", "21", "White")
    assert people.of(table, Path("b.jpg")) == ("y", "", "3-9", "Black")


@pytest.mark.parametrize("data", [b"", b"name,age\na.jpg,3\n", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xfea", b"\n\n",
                                  "file".encode("utf-32"), b'file,"' + b"x" * 200_000, None])
def test_a_file_that_is_not_a_table_is_one_line_and_stays(tmp_path, data):
    path = tmp_path / "people.csv"
    path.mkdir() if data is None else path.write_bytes(data)
    for call in (lambda: people.read(path), lambda: people.write(path, [("a.jpg", "x", "", "", "")])):
        with pytest.raises(script.Problem, match=r"people\.csv") as error:
            call()
        assert "\n" not in str(error.value)
    assert data is None or path.read_bytes() == data
    assert people.read(tmp_path / "none.csv") is None


def test_a_photo_and_its_crop_are_one_in_all_forms_of_its_name(tmp_path):
    names = ["plain.jpg", "two.jpg", "two.png", "sub/inner.jpg", "a.b.c.png", "Zoe\u0308.jpg", "No\u00ebl.jpg", "A.JPG",
             "a.jpg", "long" * 60 + ".jpg", "sub/" + "lo\u00f1g" * 45 + ".jpg"]
    folder = tmp_path / "man"
    crops = processed.targets([folder / name for name in names], folder, "faces")
    path = tmp_path / "people.csv"
    for line in ("man/{}", "data\\raw\\man\\{}", "{}"):
        for form in ("NFC", "NFD"):
            rows = [(normal(line.format(name), form), "s", str(i), "", "") for i, name in enumerate(names)]
            path.unlink(missing_ok=True)
            people.write(path, rows)
            table = people.read(path)
            for i, (name, crop) in enumerate(zip(names, crops, strict=True)):
                assert people.of(table, folder / name).person == str(i) == people.of(table, crop).person, name


def test_photos_of_one_name_in_two_classes_are_told_apart(tmp_path):
    path = tmp_path / "people.csv"
    people.write(path, [("man/1.jpg", "s", "Bob", "", ""), ("woman/1.png", "s", "Eva", "", "")])
    table = people.read(path)
    assert [people.of(table, Path("t", name)).person for name in ("man/1.jpg", "woman/1.png", "woman/1.jpg")] == [
        "Bob", "Eva", "Eva"]
    assert people.of(table, Path("other/2.jpg")) is None


def test_a_number_is_a_person_of_its_source_and_a_name_one_of_all():
    known = [people.Person("x", "1"), people.Person("y", "1"), people.Person("x", "1"),
             people.Person("x", "Zoe\u0308"), people.Person("y", "ZO\u00cb"), NOBODY, people.Person()]
    several = sorted(people.persons(known).values())
    assert several == [[0, 2], [3, 4]], "a number is a person of its source, a name one of all"


def test_names_with_spaces_at_their_ends_are_in_the_table_once(tmp_path):
    """And found there, for photos and crops."""
    names = [" a.jpg", "b .jpg", " sub /c.png ", "d.jpg "]
    path = tmp_path / "people.csv"
    for _ in range(3):
        people.write(path, [(name, "s", str(i), "", "") for i, name in enumerate(names)])
    assert len(path.read_text(encoding="utf-8").splitlines()) == 1 + len(names)
    table = people.read(path)
    folder = tmp_path / "man"
    crops = processed.targets([folder / name for name in names], folder, "faces")
    for i, (name, crop) in enumerate(zip(names, crops, strict=True)):
        assert people.of(table, folder / name).person == str(i) == people.of(table, crop).person, name
