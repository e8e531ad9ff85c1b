"""Adience: some 26,000 faces of 2,284 people from photo albums, with age band and gender, for research only.

    python data/adience.py SOURCE=~/Downloads/adience            # TEST_FOLD=4 is the test, folds 0 to 3 the rest

Reads fold_0_data.txt to fold_4_data.txt and faces/ (or aligned/, with KIND=aligned). No person is in two folds.
Writes data/raw/{man,woman}, data/test/{man,woman} and persons and ages into data/people.csv.
"""

import csv
import re

import importing
from faces import people
from importing import Photo
from terminal import script

# ------------------------------------------------------------------------------------------------
SOURCE = "adience"  # folder with the files from https://talhassner.github.io/home/projects/Adience/Adience-data.html
RAW_DIR = "data/raw"
TEST_DIR = "data/test"
PEOPLE = people.PEOPLE
KIND = "faces"  # faces: cut loosely, as people see them; aligned: turned upright
TEST_FOLD = 4  # 0..4, or -1 for no test
# ------------------------------------------------------------------------------------------------

HINT = "get Adience from https://talhassner.github.io/home/projects/Adience/Adience-data.html"
FILE_NAMES = {"faces": "coarse_tilt_aligned_face", "aligned": "landmark_aligned_face"}
GENDERS = {"m": "man", "f": "woman"}


def main():
    if KIND not in FILE_NAMES:
        script.fail(f"KIND={KIND}: choose {' or '.join(FILE_NAMES)}")
    script.check(globals(), ("TEST_FOLD", TEST_FOLD in range(-1, 5), "from 0 to 4, or -1"))
    source = importing.source_folder(SOURCE, HINT, RAW_DIR, TEST_DIR)
    importing.only_classes([RAW_DIR, TEST_DIR], GENDERS.values())
    archive = importing.find(source, f"{KIND}.tar.gz")
    images = importing.find(source, KIND) or (archive and importing.source_folder(archive, HINT, RAW_DIR, TEST_DIR))
    if not images:
        script.fail(f"{source} has no folder {KIND}: {HINT}")
    if (images / KIND).is_dir():
        images = images / KIND
    folds = [importing.find(source, f"fold_{i}_data.txt") for i in range(5)]
    if None in folds:
        script.fail(f"{source} has no fold_{folds.index(None)}_data.txt: {HINT}")
    photos, malformed, unknown, taken = [], [], [], {}
    for number, path in enumerate(folds):
        with open(path, newline="", encoding="utf-8") as file:
            table = csv.DictReader(file, delimiter="\t")
            for row in table:
                user, person, photo = (row.get(k) or "" for k in ("user_id", "face_id", "original_image"))
                gender = row.get("gender")
                # A path made of these words must not lead out of the folder.
                if not re.fullmatch(r"[\w@.-]+", user) or not person.isdecimal() or not re.fullmatch(r"[\w.-]+", photo):
                    malformed.append(f"{path.name} line {table.line_num}")
                elif gender not in GENDERS:
                    unknown.append(photo)
                else:
                    taken[person] = taken.get(person, 0) + 1
                    name = f"adience-{person}_{taken[person]:04d}.jpg"
                    side = "test" if number == TEST_FOLD else "raw"
                    path = images / user / f"{FILE_NAMES[KIND]}.{person}.{photo}"
                    photos.append(Photo(path, side, GENDERS[gender], name, "adience", person,
                                        age="-".join(re.findall(r"\d+", row.get("age") or ""))))
    importing.report_skipped({"malformed lines": malformed, "faces without a gender": unknown})
    importing.place(photos, RAW_DIR, TEST_DIR, PEOPLE)


if __name__ == "__main__":
    script.override(globals(), fixed=("HINT", "FILE_NAMES", "GENDERS"))
    script.run(main)
