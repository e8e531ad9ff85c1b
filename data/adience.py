"""Adience: some 26,000 faces of 2,284 people from photo albums, with age band and gender, for research only.

    python data/adience.py SOURCE=~/Downloads/adience            # TEST_FOLD=4 is the test, folds 0 to 3 the rest

Reads fold_0_data.txt to fold_4_data.txt and faces/ (or aligned/, with KIND=aligned). No person is in two folds.
Writes data/raw/{man,woman}, data/test/{man,woman} and persons and ages into data/people.csv.
"""

import csv
import re
from collections import Counter

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


def photos(source, skipped):
    """The Photos that the five folds name."""
    images = importing.picture_folder(source, KIND, HINT, RAW_DIR, TEST_DIR)
    taken = Counter()
    for number in range(5):
        fold = importing.find(source, f"fold_{number}_data.txt")
        if not fold:
            script.fail(f"{source} has no fold_{number}_data.txt: {HINT}")
        with open(fold, newline="", encoding="utf-8") as file:
            table = csv.DictReader(file, delimiter="\t")
            for row in table:
                user, person, photo = (row.get(k) or "" for k in ("user_id", "face_id", "original_image"))
                # A path made of these words must not lead out of the folder.
                if not re.fullmatch(r"[\w@.-]+", user) or not person.isdecimal() or not re.fullmatch(r"[\w.-]+", photo):
                    skipped["malformed lines"].append(f"{fold.name} line {table.line_num}")
                elif row.get("gender") not in GENDERS:
                    skipped["faces without a gender"].append(photo)
                else:
                    taken[person] += 1
                    yield Photo(images / user / f"{FILE_NAMES[KIND]}.{person}.{photo}",
                                "test" if number == TEST_FOLD else "raw", GENDERS[row["gender"]],
                                f"adience-{person}_{taken[person]:04d}.jpg", "adience", person,
                                age="-".join(re.findall(r"\d+", row.get("age") or "")))


def main():
    script.check(globals(), ("KIND", KIND in FILE_NAMES, " or ".join(FILE_NAMES)),
                 ("TEST_FOLD", TEST_FOLD in range(-1, 5), "from 0 to 4, or -1"))
    importing.bring_in(globals(), HINT, photos)


if __name__ == "__main__":
    script.override(globals(), fixed=("HINT", "FILE_NAMES", "GENDERS"))
    script.run(main)
