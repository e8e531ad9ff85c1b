"""Who is on a photo: the person its name tells, and the age and ethnicity that a data set tells. Nothing to run.

Importers write ages and ethnicities into groups.csv; test.py reports by them, and train.py may ask the network for
them beside the class (learn/auxiliary.py).
"""

import csv
import re
import unicodedata
from collections import Counter
from pathlib import Path

from terminal import script
from terminal.files import atomic

# ------------------------------------------------------------------------------------------------
GROUPS = "data/groups.csv"  # without the file test.py has no report by group, and train.py no auxiliary tasks
COLUMNS = ("age", "ethnicity")  # beside `file`, the photo's name
YOUNG = 0.5  # a face that is likelier a child's than not is unsure, whatever class it is given
AGE_BANDS = (0, 3, 10, 15, 20, 30, 40, 50, 60, 70)  # first age of each band; the last one is open
# Photos whose names agree in group 1 show one person: George_Bush_0007.jpg, news-George_Bush_0008.png.jpg.
# Words that begin with a capital, then a number of four digits; one word alone (Ashanti_0002.jpg) must not be one that
# cameras and programs write.
PERSON_PATTERN = (r"(?:[a-z0-9]+-)?(?!(?:[A-Z]+|Photo|Image|Picture|Face|Frame|Scan|Screenshot|Snapshot)_\d)"
                  r"([^\W\d_a-z][^\W\d_]*(?:['’.-]+[^\W\d_]+)*\.?(?:_[^\W\d_][^\d_]*)*)_\d{4}(?:\.\w+)+")
# ------------------------------------------------------------------------------------------------


def read_groups(path):
    """{photo name or stem: (age, ethnicity)}, texts, from a groups.csv, or None where there is no such file."""
    if not Path(path).is_file():
        return None
    groups = {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        lacking = {"file", *COLUMNS} - set(reader.fieldnames or ())
        if lacking:
            script.fail(f"{path} lacks the column(s) {', '.join(sorted(lacking))}: run its importer in data/ again")
        for line in reader:
            name = (line["file"] or "").replace("\\", "/").rsplit("/", 1)[-1]
            value = tuple((line[column] or "").strip() for column in COLUMNS)
            groups[name] = value
            groups.setdefault(Path(name).stem, value)  # a crop bears its photo's stem
    return groups


def group_of(groups, path):
    """(age, ethnicity) of a photo or a crop of it, by its name or stem, from read_groups(); None: not known."""
    return groups.get(path.name) or groups.get(path.stem)




def write_groups(path, rows):
    """Merge rows (file, age, ethnicity) into groups.csv; rows of other files stay. Nothing new: nothing written."""
    path, groups = Path(path), {}
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            groups = {r["file"]: (r["age"], r["ethnicity"]) for r in csv.DictReader(file)}
    merged = {**groups, **{name: (str(age), ethnicity) for name, age, ethnicity in rows}}
    if merged != groups:
        with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "age", "ethnicity"])
            writer.writerows([name, *merged[name]] for name in sorted(merged))
    print(f"{path}: age and ethnicity of {len(merged)} photos")


def numbered_person(number):
    """A name for a person who is only known by a number, spelt with letters as validation.py wants it: Person_ciia."""
    return "Person_" + "".join("abcdefghij"[int(digit)] for digit in number)


def person_of(name, pattern=PERSON_PATTERN):
    """Who a photo or a crop shows, by its file name; None where the name does not say, or `pattern` is ""."""
    match = re.fullmatch(pattern, unicodedata.normalize("NFC", name)) if pattern else None
    return match.group(1) if match else None


def people_of(keys, pattern=PERSON_PATTERN):
    """The crops of each person that file names tell: {person: ascending indices into `keys`, which are "class/name"}.

    Upper and lower case are one. What stands on more than half the crops of a class is the name of a series
    (Man_0001.jpg, Man_0002.jpg ...).
    """
    people, sizes = {}, Counter(key.split("/", 1)[0] for key in keys)
    for i, key in enumerate(keys):
        if (person := person_of(key.rsplit("/", 1)[-1], pattern)) is not None:
            people.setdefault(person.casefold(), []).append(i)
    return {person: found for person, found in people.items()
            if len(found) < 10 or len(found) <= sizes[keys[found[0]].split("/", 1)[0]] / 2}


def age_band(text):
    """(band, first age) of a groups.csv age: 24 -> ('20-29', 24); a band as published stays: '10-19' -> itself."""
    numbers = re.findall(r"\d+", str(text))
    if not numbers:
        return None, None
    first = int(numbers[0])
    if len(numbers) > 1 and not re.fullmatch(r"\s*\d+\.\d+\s*", str(text)):
        return f"{numbers[0]}-{numbers[1]}", first
    start = max(a for a in AGE_BANDS if a <= first)
    after = [a for a in AGE_BANDS if a > first]
    return (f"{start}-{after[0] - 1}" if after else f"{start}+"), first


