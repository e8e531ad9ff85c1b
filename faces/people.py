"""data/people.csv: who is in a photo, where the photo is from, and the age and ethnicity that its data set states.

Its columns are file, source, person, age and ethnicity; all but `file` may be empty. Importers write it. validation.py
keeps the photos of a person on one side and notes each crop's row, with which train.py balances the classes within each
source; test.py reports by age and ethnicity, and resamples the photos of a person together. Nothing to run.
"""

import bisect
import contextlib
import csv
import io
import os
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from terminal.files import alone, atomic, check_replaceable, read_bytes
from terminal.names import name_digest, normal
from terminal.script import Problem

# ------------------------------------------------------------------------------------------------
PEOPLE = "data/people.csv"  # without it, there is no report by group, only one source, and no person is known
TAKES = "webcam"  # source of the photos of data/webcam.py; its "persons" are takes, whoever is in them
AGE_BANDS = (0, 3, 10, 15, 20, 30, 40, 50, 60, 70)  # first age of each band; the last band has no upper limit
# ------------------------------------------------------------------------------------------------


class Person(NamedTuple):
    """The row of people.csv for a photo; "" for unknown values."""

    source: str = ""
    person: str = ""
    age: str = ""
    ethnicity: str = ""


class Sheet(NamedTuple):
    """A CSV file as it was read: `rows` are lists of texts, the first one is the header."""

    rows: list
    columns: dict  # {name of a column, in lower case: its index}
    encoding: str
    delimiter: str
    line_end: str
    first_line: str  # "sep=;", with which some spreadsheets state the delimiter, or ""


def read(path=PEOPLE):
    """{name of a photo: Person}, for of(), or None if there is no such file.

    A photo has several names: with and without its folders, joined by "__", and its suffix. Names that stand for
    different photos are left out. Raises Problem if the file is not a table with a column `file`.
    """
    sheet = read_sheet(Path(path))
    if sheet is None:
        return None
    photos = {}
    for row in sheet.rows[1:]:
        photos[key_of(cell(sheet, row, "file"))] = Person(*(cell(sheet, row, name) for name in Person._fields))
    photos.pop("", None)
    whole, shortened, forms = {}, {}, {}

    def add(table, name, person):
        if table.setdefault(name, person) != person:
            table[name] = None  # it stands for different photos

    for key, person in photos.items():
        parts = key.split("/")
        for start in range(len(parts)):
            inner, name = "/".join(parts[start:]), "__".join(parts[start:])
            add(shortened if start else whole, name, person)
            # Names without their suffixes, and as processed.py shortens them; Macs may write names in NFD.
            for form in (stem(name), name_digest(inner), name_digest(normal(inner, "NFD"))):
                add(forms, form, person)
    names = {**forms, **shortened, **whole}  # of equal names, the last one counts
    return {name: person for name, person in names.items() if person is not None}


def of(table, path):
    """The Person of a photo or of its crop, from read(); None: unknown. `path`: a Path, with its class folder."""
    pieces = key_of("/".join(path.parts[-5:])).replace("/", "__").split("__")
    for start in range(len(pieces)):
        name = "__".join(pieces[start:])
        person = table.get(name) or table.get(stem(name))
        if person:
            return person
    shortened = re.search(r"-([0-9a-f]{16})$", path.stem)
    return table.get(shortened[1]) if shortened else None


def of_all(table, paths):
    """The Person of each photo or crop: list; an empty Person if it is unknown. `table`: of read(), or None."""
    return [of(table or {}, path) or Person() for path in paths]


def persons(known):
    """The photos of each person with several photos: {person: ascending indices into `known`, N Persons}.

    Case is ignored. Equal names are one person, but equal numbers only within one source.
    """
    found = {}
    for i, (source, person, *_) in enumerate(known):
        if person:
            name = normal(person).casefold()
            found.setdefault(f"{source} {name}" if name.isdecimal() else name, []).append(i)
    return {name: indices for name, indices in found.items() if len(indices) > 1}


def takes(known):
    """Whether each of N Persons is a take of data/webcam.py: bool [N]."""
    return np.array([source == TAKES and person != "" for source, person, *_ in known], bool)


def clusters(known):
    """The cluster of each of N Persons, int [N]: equal for one person or take; an unknown person is its own cluster."""
    numbers = np.arange(len(known))
    for indices in persons(known).values():
        numbers[indices] = indices[0]
    return numbers


def write(path, rows):
    """Merge rows (file, source, person, age, ethnicity) into people.csv; without anything new, nothing is written.

    The file keeps its other rows and columns, values that the new rows leave empty, the order, the delimiter and the
    encoding. A new value replaces an old one. Raises Problem, as read() does.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.parent):  # a second run beside this one may add its own
        merge(path, rows)


def merge(path, rows):
    """write() without the lock."""
    sheet = read_sheet(path) or Sheet([[]], {}, "utf-8", ",", "\n", "")
    header, *lines = [list(row) for row in sheet.rows]
    index = {key_of(cell(sheet, row, "file")): row for row in lines}
    new = {}  # {file: its row} of the rows that are added
    columns = dict(sheet.columns)
    for name in ("file", *Person._fields):
        if name not in columns:
            columns[name] = len(header)
            header.append(name)
    for file, *values in rows:
        row = index.get(key_of(file))
        if row is None:
            row = [""] * len(header)
            row[columns["file"]] = file
            index[key_of(file)] = new[file] = row
        row += [""] * (len(header) - len(row))
        for name, value in zip(Person._fields, values, strict=True):
            if str(value):
                row[columns[name]] = str(value)
    lines += [new[file] for file in sorted(new)]
    if not path.is_file() or [header, *lines] != sheet.rows:
        write_sheet(path, sheet._replace(rows=[header, *lines]))
    print(f"{path.as_posix()}: {len(lines)} photos")


def check(path):
    """Raise Problem if write() could not merge rows into people.csv."""
    read_sheet(Path(path))
    check_replaceable(path)


def read_sheet(path):
    """The Sheet in `path`, a Path; None if there is no such file. Raises Problem, one line."""
    try:
        data = read_bytes(path)
        if data is None:
            return None
        encoding = encoding_of(data)
        text = data.decode(encoding)
        start = re.match(r"(?i)(?:(sep=(.))[\r\n]+)?[\r\n]*(?P<header>.*)", text)
        delimiter = start[2] or max(",;\t|", key=start["header"].count)
        table = io.StringIO(text[start.start("header"):], newline="")
        rows = [row for row in csv.reader(table, delimiter=delimiter) if row]
    except OSError as error:
        raise Problem(f"{path} cannot be read ({error.strerror}): it must be a CSV file") from None
    except (UnicodeError, csv.Error, TypeError) as error:
        raise Problem(f"{path} is not a CSV file ({error}): save it as CSV in UTF-8, or move it away") from None
    columns = {}
    for i, name in enumerate(rows[0] if rows else ()):
        columns.setdefault(name.strip().casefold(), i)
    if "file" not in columns:
        raise Problem(f"{path} has no column 'file' with the names of the photos: add it, or move the file away and "
                      "run its importer in data/ again")
    line_end = "\r\n" if "\r\n" in text else "\n"
    return Sheet(rows, columns, encoding, delimiter, line_end, start[1] or "")


def write_sheet(path, sheet):
    """Write a Sheet in its own format, but in UTF-8 if its encoding lacks letters of the new rows."""
    text = io.StringIO(newline="")
    if sheet.first_line:
        text.write(sheet.first_line + sheet.line_end)
    csv.writer(text, delimiter=sheet.delimiter, lineterminator=sheet.line_end).writerows(sheet.rows)
    try:
        data = text.getvalue().encode(sheet.encoding)
    except UnicodeEncodeError:
        data = text.getvalue().encode("utf-8-sig", "backslashreplace")
    with atomic(os.path.realpath(path)) as temporary:  # so that a link stays a link
        temporary.write_bytes(data)


def encoding_of(data):
    """The encoding of a text: by its byte-order mark, or else UTF-8, or else Windows-1252."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if b"\0" in data[:2]:
        return "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    if data.startswith(b"\xef\xbb\xbf"):
        return "utf-8-sig"
    for encoding in ("utf-8", "cp1252"):
        with contextlib.suppress(UnicodeDecodeError):
            data.decode(encoding)
            return encoding
    return "latin-1"


def cell(sheet, row, column):
    """The text in a column of a row; "" if the column or the cell is missing."""
    index = sheet.columns.get(column, len(row))
    return row[index].strip() if index < len(row) else ""


def key_of(file):
    """The name of a photo, normalised for comparisons: "/" between folders, and no spaces at the ends of names, which
    tables lose."""
    path = normal(file.replace("\\", "/")).removeprefix("./").strip("/")
    return "/".join(part.strip() for part in path.split("/"))


def stem(name):
    """A name without its suffix, which a crop shares with its photo."""
    return PurePosixPath(name).stem


def age_band(text):
    """(band, first age) of an age: 24 -> ('20-29', 24); a published band is kept: '10-19' -> ('10-19', 10), '60+' ->
    ('60+', 60). If there is no number: (None, None)."""
    numbers = re.findall(r"\d+(?:\.\d+)?", str(text))
    if not numbers:
        return None, None
    first = int(numbers[0].partition(".")[0])
    if len(numbers) > 1 and float(numbers[1]) > float(numbers[0]):  # 24,5 is no band
        return f"{numbers[0]}-{numbers[1]}", first
    if re.search(r"\d\s*\+", str(text)):
        return f"{numbers[0]}+", first
    i = bisect.bisect(AGE_BANDS, first)
    if i == len(AGE_BANDS):
        return f"{AGE_BANDS[-1]}+", first
    return f"{AGE_BANDS[i - 1]}-{AGE_BANDS[i] - 1}", first
