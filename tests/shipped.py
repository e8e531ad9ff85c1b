"""Small imitations of what publishers ship, and a look at what the importers make of them."""

import csv
from pathlib import Path

from terminal import records


def photo(path, content=None):
    """A file that an importer may take for a photo; its bytes are its name, unless told."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((content or path.name).encode())
    return path


def tree(folder="data"):
    """{relative path: (bytes, inode, time)} of all files in a folder: equal when nothing at all was touched."""
    return {p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_ino, p.stat().st_mtime_ns)
            for p in sorted(Path(folder).rglob("*")) if p.is_file() and p.name not in (records.RECORD, "people.csv")}


def names(side, class_name):
    return sorted(p.name for p in Path("data", side, class_name).glob("*"))


def known():
    """{file: (source, person, age, ethnicity)} of people.csv."""
    with open("data/people.csv", newline="", encoding="utf-8") as file:
        return {r["file"]: (r["source"], r["person"], r["age"], r["ethnicity"]) for r in csv.DictReader(file)}


def persons(*folders):
    """The persons of the photos in folders of data, as people.csv has them: a set."""
    return {known()[name][1] for side, class_name in folders for name in names(side, class_name)}


def run_twice(module, capsys):
    """Run an importer, and again: the second run must change nothing. Returns what the first one printed."""
    module.main()
    first = capsys.readouterr().out
    before = tree()
    module.main()
    again = capsys.readouterr().out
    assert tree() == before
    assert "\n0 new, " in again and "moved" not in again
    return first
