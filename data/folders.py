"""Imports photos that are sorted into one folder per class.

    python data/folders.py SOURCE=~/photos                             # ~/photos/<class>/* -> data/raw/<class>/
    python data/folders.py SOURCE=~/paper TO=test "RENAME={'M': 'man', 'W': 'woman'}"

SOURCE is not changed. With TEST_RATIO, a share of the photos goes to data/test; all photos of a person (with names like
George_Bush_0007.jpg) go to the same side.
"""

import importing  # isort: skip  # first, since it imports terminal/script.py

import re
from collections import Counter
from pathlib import Path

from faces import people, reading
from importing import LabelledPhoto
from live.videos import SUFFIXES
from terminal import rules, script
from terminal.names import is_system, normal
from terminal.places import PLACES

# ------------------------------------------------------------------------------------------------
SOURCE = "photos"  # folder or archive with one subfolder per class
RAW_DIR = PLACES["RAW_DIR"]
TEST_DIR = PLACES["TEST_DIR"]
PEOPLE = people.PEOPLE
TO = "raw"  # "raw", or "test" for photos that training must never see
TEST_RATIO = 0.0  # with TO="raw": share of the photos that goes to TEST_DIR instead, 0..1
RENAME = {}  # subfolders whose names are not those of their classes, such as {"M": "man", "W": "woman"}
# Regular expression for names of photos (without suffix) whose group 1 is a person: George_Bush_0007. "": none.
PERSON = r"(?=.*[a-z])([^\W\d_a-z][^\d_]*(?:_[^\d_]+)*)_\d{4}"
PREFIX = ""  # prefix of all names, such as "news-", so that photos of several sources do not collide
# ------------------------------------------------------------------------------------------------


def persons_of(photos):
    """The person in each of `photos` (class folder, path), from its name by PERSON; "": unknown.

    A name of ten and of more than half of the photos of a class is a series, not a person: Man_Face_0001.
    """
    found = []
    for folder, photo in photos:
        match = re.fullmatch(PERSON, normal(photo.stem)) if PERSON else None
        person = match[1] if match else None
        found.append((folder, person or ""))
    count, sizes = Counter(found), Counter(folder for folder, _ in photos)
    return [person if count[folder, person] <= max(9, sizes[folder] / 2) else "" for folder, person in found]


def with_classes(root):
    """The folder in `root` that has the class folders: archives often have a single folder that contains all others.
    """
    while True:
        inner = [path for path in root.iterdir() if not is_system(path.name)]
        if len(inner) != 1 or not inner[0].is_dir():
            return root
        if not any(path.is_dir() and not is_system(path.name) for path in inner[0].iterdir()):
            return root
        root = inner[0]


def photos(root, skipped):
    """Yield the LabelledPhotos in the class folders of SOURCE. `root`, `skipped`: see importing.bring_in()."""
    data_set = PREFIX.strip("-_ ") or root.resolve().name
    root = with_classes(root)
    others = []
    found = reading.class_photos(root, "it must have one subfolder per class", others=others, minimum=1)
    for path in others:
        if path.suffix.lower() in SUFFIXES:
            skipped[f"clips, which test.py takes in {TEST_DIR}"].append(path.name)
        else:
            skipped["files that are not photos"].append(path.name)
    rename = {normal(old): new for old, new in RENAME.items()}
    if unknown := rename.keys() - found:
        script.fail(f"RENAME names {', '.join(sorted(unknown))}, which {root} does not have: it has "
                    f"{', '.join(found)}")
    paths = [(root / photo.relative_to(root).parts[0], photo) for name in found for photo in found[name]]
    for (folder, photo), person in zip(paths, persons_of(paths), strict=True):
        test = TO == "test" or importing.in_test(person.casefold() or photo.name, TEST_RATIO)
        class_name, name = normal(folder.name), PREFIX + "__".join(photo.relative_to(folder).parts)
        yield LabelledPhoto(photo, "test" if test else "raw", rename.get(class_name, class_name), name, data_set,
                            person.replace("_", " "))


def names_person(pattern):
    """Whether PERSON is empty, or a regular expression with a group."""
    try:
        return pattern == "" or re.compile(pattern).groups >= 1
    except re.error:
        return False


RULES = dict(SOURCE=str, RAW_DIR=str, TEST_DIR=str, PEOPLE=str, TO=("raw", "test"), TEST_RATIO=(float, 0, 1),
             RENAME=rules.TEXTS, PREFIX=rules.TEXT,
             PERSON=rules.Rule(names_person, "a regular expression with the person in parentheses, or an empty text"))


def main():
    rules.check(globals())
    importing.bring_in(globals(), "make a folder with one subfolder per class", photos, classes=None)
    for folder in (RAW_DIR, TEST_DIR):
        if Path(folder).is_dir():
            print(f"{folder} now has the classes {', '.join(reading.class_folders(folder, ''))}")


if __name__ == "__main__":
    rules.override(globals())
    script.run(main)
