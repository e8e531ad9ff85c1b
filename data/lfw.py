"""Labeled Faces in the Wild: 13,233 news photos of 5,749 people, for research only.

    python data/lfw.py SOURCE=~/Downloads/lfw.tgz "LISTS={'man': 'male_names.txt', 'woman': 'female_names.txt'}"

Reads lfw/<Name>/<Name>_0001.jpg and one list of names per class: a line holds a person (Ann Veneman, Ann_Veneman) or
a photo (Ann_Veneman_0003.jpg). One person in ten goes to data/test. data/people.csv says who is who.
"""

import re
from pathlib import Path

import importing
from faces import people
from importing import Photo
from terminal import script
from terminal.files import is_system

# ------------------------------------------------------------------------------------------------
SOURCE = "lfw"  # folder or lfw.tgz; https://www.kaggle.com/datasets/jessicali9530/lfw-dataset has a copy
LISTS = {"man": "male_names.txt", "woman": "female_names.txt"}  # looked for here, then in SOURCE
RAW_DIR = "data/raw"
TEST_DIR = "data/test"
PEOPLE = people.PEOPLE
TEST_RATIO = 0.1  # share of the people, 0..1
MOST = 0  # photos of one person at most (one has 530); 0: all
# ------------------------------------------------------------------------------------------------


def read_names(source, file_name):
    """The people of a list, as they are spelt in file names: set of str."""
    path = Path(file_name).expanduser()
    path = path if path.is_file() else importing.find(source, path.name)
    if path is None:
        script.fail(f"there is no list of names {file_name}: write one name per line, or set LISTS")
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    words = [re.split(r"\t|,", line)[0].strip().replace(" ", "_") for line in lines]
    return {re.sub(r"_\d{4}(\.jpg)?$", "", word) for word in words if word and not word.startswith("#")}


def photos(source, skipped):
    """The Photos of the people who are on just one list."""
    inner = source / "lfw" if (source / "lfw").is_dir() else source
    class_of, twice = {}, set()
    for class_name, file_name in LISTS.items():
        listed = read_names(source, file_name)
        twice |= listed & class_of.keys()
        class_of |= dict.fromkeys(listed, class_name)
    folders = sorted(p for p in inner.iterdir() if p.is_dir() and not is_system(p.name))
    for folder in folders:
        person, good = folder.name, []
        for photo in sorted(p for p in folder.glob("*.jpg") if not is_system(p.name)):
            if re.fullmatch(re.escape(person) + r"_\d{4}\.jpg", photo.name):
                good.append(photo)
            else:
                skipped["malformed names"].append(photo.name)
        if person not in class_of:
            skipped["people on no list"].append(person)
        elif person not in twice:
            side = "test" if importing.in_test(person, TEST_RATIO) else "raw"
            for photo in good[:MOST or None]:
                yield Photo(photo, side, class_of[person], photo.name, "lfw", person.replace("_", " "))
    skipped["people on two lists"] = sorted(twice)
    skipped["listed people without photos"] = sorted(class_of.keys() - {folder.name for folder in folders})


def main():
    importing.bring_in(globals(), "get lfw.tgz (Labeled Faces in the Wild)", photos, LISTS)


if __name__ == "__main__":
    script.override(globals())
    script.run(main)
