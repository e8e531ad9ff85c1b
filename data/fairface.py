"""FairFace: 97,698 faces balanced over seven ethnicities, with age band and gender, CC BY 4.0.

    python data/fairface.py SOURCE=~/Downloads/fairface

Reads fairface_label_train.csv, fairface_label_val.csv (columns file,age,gender,race) and the photos train/*.jpg,
val/*.jpg. Writes data/raw/{man,woman} (train), data/test/{man,woman} (val) and data/people.csv.
"""

import csv
import re

import importing
from faces import people
from importing import Photo
from terminal import script

# ------------------------------------------------------------------------------------------------
SOURCE = "fairface"  # folder or archive from https://github.com/joojs/fairface (padding 1.25 suits the cascade)
RAW_DIR = "data/raw"
TEST_DIR = "data/test"
PEOPLE = people.PEOPLE
# ------------------------------------------------------------------------------------------------

HINT = "get the photos and the two label files from https://github.com/joojs/fairface"
GENDERS = {"Male": "man", "Female": "woman"}


def photos(source, skipped):
    """The Photos that the two label files name."""
    for part, side in (("train", "raw"), ("val", "test")):
        labels, images = importing.find(source, f"fairface_label_{part}.csv"), importing.find(source, part)
        if not labels or not images:
            script.fail(f"{source} has no {f'folder {part}' if labels else f'fairface_label_{part}.csv'}: {HINT}")
        with open(labels, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            for row in table:
                match = re.fullmatch(rf"{part}/(\w+\.jpg)", row.get("file") or "")
                if not match or row.get("gender") not in GENDERS:
                    skipped["malformed lines"].append(f"{labels.name} line {table.line_num}")
                    continue
                yield Photo(images / match[1], side, GENDERS[row["gender"]], f"fairface-{part}-{match[1]}",
                            "fairface", age=row.get("age") or "", ethnicity=row.get("race") or "")


def main():
    importing.bring_in(globals(), HINT, photos)


if __name__ == "__main__":
    script.override(globals(), fixed=("HINT", "GENDERS"))
    script.run(main)
