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


def photos(source, skipped):
    """The Photos of the eight groups; groups that are not there are skipped."""
    for origin, ethnicity in ETHNICITIES.items():
        for sex, class_name in CLASSES.items():
            group = f"{origin}_{sex}"
            folder = importing.find(source, group)
            if folder is None:
                skipped["groups that are not there"].append(group)
                continue
            # Two groups may have persons, and two persons photos, of one name.
            for photo in sorted(path for path in folder.glob("*/*.jpg") if not is_system(path.name)):
                person = photo.parent.name
                digest = hashlib.md5(person.encode(), usedforsecurity=False).hexdigest()
                side = "test" if int(digest, 16) % 5 == 0 else "raw"
                yield Photo(photo, side, class_name, f"bfw-{group}-{person}-{photo.name}", "bfw",
                            f"{group} {person}", "", ethnicity)
    if len(skipped["groups that are not there"]) == len(ETHNICITIES) * len(CLASSES):
        script.fail(f"{source} has no folders such as asian_females/<person>/*.jpg: {HINT}")


def main():
    importing.bring_in(globals(), HINT, photos)


if __name__ == "__main__":
    script.override(globals(), fixed=("HINT", "CLASSES", "ETHNICITIES"))
    script.run(main)
