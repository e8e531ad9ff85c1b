"""Balanced Faces in the Wild: 20,000 stills of 800 people, four origins, both sexes, in all poses, for research only.

    python data/bfw.py SOURCE=~/Downloads/bfw

Reads <origin>_<males|females>/<person>/*.jpg. Writes data/raw/{man,woman}, data/test/{man,woman} (one person in five,
by a hash of the person) and persons and origins into data/people.csv. Robinson et al., "Face Recognition: Too Bias, or
Not Too Bias?", CVPR workshops 2020.
"""

import hashlib

import importing
from faces import people
from importing import Photo
from terminal import script
from terminal.files import is_system

# ------------------------------------------------------------------------------------------------
SOURCE = "bfw"  # folder or archive: the folder bfw of https://github.com/jxngs/Facial-Recognition-Comparative-Analysis
RAW_DIR = "data/raw"
TEST_DIR = "data/test"
PEOPLE = people.PEOPLE
# ------------------------------------------------------------------------------------------------

HINT = "get the folder bfw from https://github.com/jxngs/Facial-Recognition-Comparative-Analysis"
CLASSES = {"males": "man", "females": "woman"}
ETHNICITIES = {"asian": "Asian", "black": "Black", "indian": "Indian", "white": "White"}


def in_test(person):
    """Whether a person, by the folder's name, is among the fifth that is kept for the test."""
    return int(hashlib.md5(person.encode(), usedforsecurity=False).hexdigest(), 16) % 5 == 0


def main():
    source = importing.source_folder(SOURCE, HINT, RAW_DIR, TEST_DIR)
    importing.only_classes([RAW_DIR, TEST_DIR], CLASSES.values())
    photos, missing = [], []
    for origin, ethnicity in ETHNICITIES.items():
        for sex, class_name in CLASSES.items():
            group = f"{origin}_{sex}"
            folder = importing.find(source, group)
            if folder is None:
                missing.append(group)
                continue
            # Two groups may have persons, and two persons photos, of one name.
            for photo in sorted(path for path in folder.glob("*/*.jpg") if not is_system(path.name)):
                person = photo.parent.name
                photos.append(Photo(photo, "test" if in_test(person) else "raw", class_name,
                                    f"bfw-{group}-{person}-{photo.name}", "bfw", f"{group} {person}", "", ethnicity))
    importing.report_skipped({"groups that are not there": missing})
    if not photos:
        script.fail(f"{source} has no folders such as asian_females/<person>/*.jpg: {HINT}")
    importing.place(photos, RAW_DIR, TEST_DIR, PEOPLE)


if __name__ == "__main__":
    script.override(globals(), fixed=("HINT", "CLASSES", "ETHNICITIES"))
    script.run(main)
